//! `meta.redb`: who this node is, who its peers are, which volumes there are, and votes as a second copy.
//!
//! | table | key | value, each with its CRC-32C behind it |
//! | --- | --- | --- |
//! | `facts` | `format`, `node`, `identity` | as in a volume |
//! | `facts` | `cluster` | cluster id, 16 bytes; absent until one is joined |
//! | `facts` | `witness` | number of a commit (u64) that the active volume is known to hold, and the volume (u32) |
//! | `facts` | `forgot` | a group (u64): of those below it that lie nowhere on this disk, some may once have; the largest number while the bound is not known |
//! | `peers` | node (u32) | identity, 16 bytes |
//! | `volumes` | number (u32) | 0 in use; or 1 sealed, length (u64), CRC-32C of the file (u32); or 2 being rewritten, counts for nothing |
//! | `votes` | group (u64) | term, node (u64), committed (u8); of this and the volumes' the higher counts |
//! | `lost` | group (u64) | what may be missing of it (u8): 1 its log's end, 2 its vote, 3 both; until it has caught up |
//! | `checkpoints` | group (u64), kind (u8), piece (u32) | see `checkpoints` |

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_proto::ids::{ClusterId, GroupId, Identity, NodeId};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::checkpoints::{self, CheckpointHead, CheckpointKind};
use super::damage::Lost;
use super::entry::{Corrupt, array};
use super::error::{DiskError, Fault, ReadError, StoreError};
use super::failure::Failure;
use super::hard::HardVote;
use super::stream::{Payload, put_vote};
use super::volume::{
    FORMAT, FORMAT_OLDEST, Owner, VolumeNumber, checked, create_database, guarded, guarded_disk,
    open_database, unchecked,
};
use crate::env::pool::{self, Pool};
use crate::env::{Disk, FileName};

const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");
const PEERS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("peers");
const VOLUMES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("volumes");
const VOTES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("votes");
const LOST: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("lost");

/// meta.redb is small: what it needs at once fits.
const CACHE_BYTES: usize = 1 << 20;

pub(super) fn meta_file() -> FileName {
    FileName::new("meta.redb")
}

/// How a sealed volume's file looked when it was closed for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) bytes: u64,
    pub(super) crc: u32,
}

/// A commit that the active volume is known to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Witness {
    pub(super) commit: u64,
    pub(super) volume: VolumeNumber,
}

/// All that `meta.redb` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MetaContent {
    pub(super) format: u32,
    pub(super) owner: Owner,
    pub(super) cluster: Option<ClusterId>,
    pub(super) witness: Option<Witness>,
    pub(super) peers: BTreeMap<NodeId, Identity>,
    pub(super) volumes: BTreeMap<VolumeNumber, Option<Seal>>,
    /// Volumes that others were to be rewritten into, perhaps not there.
    pub(super) unfinished: BTreeSet<VolumeNumber>,
    pub(super) votes: BTreeMap<GroupId, HardVote>,
    pub(super) lost: BTreeMap<GroupId, Lost>,
    /// See [`Change::Forgot`].
    pub(super) forgot: Option<GroupId>,
    /// Without their bodies.
    pub(super) checkpoints: BTreeMap<(GroupId, CheckpointKind), CheckpointHead>,
}

/// A change of `meta.redb`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    /// What is written from now on has the shape of this version.
    Format(u32),
    Cluster(ClusterId),
    Witness(Witness),
    Peer(NodeId, Identity),
    Volume(VolumeNumber, Option<Seal>),
    VolumeGone(VolumeNumber),
    /// Others are to be rewritten into it: nothing of it counts before its seal is noted.
    VolumeBegun(VolumeNumber),
    Vote(GroupId, HardVote),
    /// Neither vote nor loss of a group is of interest any more.
    VoteGone(GroupId),
    /// What may be missing of a group; nothing once it has caught up.
    Lost(GroupId, Lost),
    /// Of groups below this that are not known, some may have been here.
    Forgot(GroupId),
}

/// The open file.
pub(super) struct Meta {
    db: Mutex<Option<Database>>,
}

impl Meta {
    /// Makes the file: under a temporary name, synced, and only then under its own.
    pub(super) fn create(disk: &Arc<dyn Disk>, content: &MetaContent) -> Result<Self, DiskError> {
        let (name, temporary) = (meta_file(), FileName::new("meta.redb.tmp"));
        guarded_disk("create", &temporary, || {
            let db = create_database(disk, &temporary, CACHE_BYTES)?;
            let write = db.begin_write()?;
            {
                let mut facts = write.open_table(FACTS)?;
                facts.insert("format", &checked(&content.format.to_le_bytes())[..])?;
                facts.insert("node", &checked(&content.owner.node.0.to_le_bytes())[..])?;
                facts.insert("identity", &checked(&content.owner.identity.to_wire())[..])?;
            }
            let changes = content
                .cluster
                .map(Change::Cluster)
                .into_iter()
                .chain(content.witness.map(Change::Witness))
                .chain(content.peers.iter().map(|(node, identity)| Change::Peer(*node, *identity)))
                .chain(content.volumes.iter().map(|(number, seal)| Change::Volume(*number, *seal)))
                .chain(content.votes.iter().map(|(group, vote)| Change::Vote(*group, *vote)))
                .chain(content.lost.iter().map(|(group, lost)| Change::Lost(*group, *lost)))
                .chain(content.forgot.map(Change::Forgot))
                .collect::<Vec<_>>();
            put(&write, &changes)?;
            write.commit()?;
            db.close()?;
            disk.publish(&temporary, &name)?;
            Ok(())
        })?;
        let (db, _) = guarded_disk("open", &name, || open_database(disk, &name, CACHE_BYTES))?;
        Ok(Self { db: Mutex::new(Some(db)) })
    }

    /// Opens the file and reads all of it.
    pub(super) fn open(disk: &Arc<dyn Disk>) -> Result<(Self, MetaContent, bool), ReadError> {
        let name = meta_file();
        let opened = guarded(|| {
            let (db, repaired) = open_database(disk, &name, CACHE_BYTES)?;
            let content = load(&db)?;
            Ok((db, content, repaired))
        });
        let (db, content, repaired) = opened.map_err(|fault| fault.into_read_error("open", &name))?;
        Ok((Self { db: Mutex::new(Some(db)) }, content, repaired))
    }

    /// Writes changes in one transaction and syncs it. Blocks.
    pub(super) fn write(&self, changes: &[Change]) -> Result<(), DiskError> {
        self.transact(|write| put(write, changes))
    }

    /// Runs one transaction and syncs it. Blocks.
    pub(super) fn transact(
        &self,
        work: impl FnOnce(&WriteTransaction) -> Result<(), Fault>,
    ) -> Result<(), DiskError> {
        let db = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        guarded_disk("commit to", &meta_file(), || {
            let db = db.as_ref().ok_or_else(|| Fault::Other("closed".to_owned()))?;
            let mut write = db.begin_write()?;
            write.set_durability(redb::Durability::Immediate)?;
            work(&write)?;
            write.commit()?;
            Ok(())
        })
    }

    /// Reads in one transaction. Blocks.
    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, ReadError> {
        let db = self.db.lock().unwrap_or_else(PoisonError::into_inner);
        let read = guarded(|| {
            let db = db.as_ref().ok_or_else(|| Fault::Other("closed".to_owned()))?;
            work(&db.begin_read()?)
        });
        read.map_err(|fault| fault.into_read_error("read", &meta_file()))
    }

    pub(super) fn close(&self) -> Result<(), DiskError> {
        match self.db.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(db) => guarded_disk("close", &meta_file(), || Ok(db.close()?)),
            None => Ok(()),
        }
    }
}

fn put(write: &WriteTransaction, changes: &[Change]) -> Result<(), Fault> {
    let mut facts = write.open_table(FACTS)?;
    let mut peers = write.open_table(PEERS)?;
    let mut volumes = write.open_table(VOLUMES)?;
    let mut votes = write.open_table(VOTES)?;
    let mut lost = write.open_table(LOST)?;
    for change in changes {
        match change {
            Change::Format(format) => {
                facts.insert("format", &checked(&format.to_le_bytes())[..])?;
            }
            Change::Cluster(id) => {
                facts.insert("cluster", &checked(&id.to_wire())[..])?;
            }
            Change::Witness(witness) => {
                let mut value = witness.commit.to_le_bytes().to_vec();
                value.extend(witness.volume.0.to_le_bytes());
                facts.insert("witness", &checked(&value)[..])?;
            }
            Change::Peer(node, identity) => {
                peers.insert(node.0, &checked(&identity.to_wire())[..])?;
            }
            Change::Volume(number, None) => {
                volumes.insert(number.0, &checked(&[0])[..])?;
            }
            Change::Volume(number, Some(seal)) => {
                let mut value = vec![1];
                value.extend(seal.bytes.to_le_bytes());
                value.extend(seal.crc.to_le_bytes());
                volumes.insert(number.0, &checked(&value)[..])?;
            }
            Change::VolumeGone(number) => {
                volumes.remove(number.0)?;
            }
            Change::VolumeBegun(number) => {
                volumes.insert(number.0, &checked(&[2])[..])?;
            }
            Change::Vote(group, vote) => {
                let mut value = Vec::with_capacity(17);
                put_vote(&mut value, vote);
                votes.insert(group.0, &checked(&value)[..])?;
            }
            Change::VoteGone(group) => {
                votes.remove(group.0)?;
                lost.remove(group.0)?;
            }
            Change::Lost(group, what) if what.any() => {
                let flags = u8::from(what.tail) + 2 * u8::from(what.vote);
                lost.insert(group.0, &checked(&[flags])[..])?;
            }
            Change::Lost(group, _) => {
                lost.remove(group.0)?;
            }
            Change::Forgot(below) => {
                facts.insert("forgot", &checked(&below.0.to_le_bytes())[..])?;
            }
        }
    }
    Ok(())
}

fn load(db: &Database) -> Result<MetaContent, Fault> {
    let read = db.begin_read()?;
    let facts = read.open_table(FACTS)?;
    let optional = |name: &'static str, length: usize| -> Result<Option<Vec<u8>>, Fault> {
        let Some(value) = facts.get(name)? else { return Ok(None) };
        let value = unchecked(value.value()).map_err(|corrupt| Fault::corrupt("fact", name, corrupt))?;
        if value.len() == length {
            Ok(Some(value.to_vec()))
        } else {
            Err(Fault::corrupt("fact", name, Corrupt::Short))
        }
    };
    let fact = |name: &'static str, length: usize| {
        optional(name, length)?.ok_or_else(|| Fault::corrupt("fact", name, Corrupt::Short))
    };
    let format = u32::from_le_bytes(array(&fact("format", 4)?));
    if !(FORMAT_OLDEST..=FORMAT).contains(&format) {
        // The rest may have another shape: leave it alone. The caller judges the version first.
        let owner = Owner { node: NodeId(0), identity: Identity::default() };
        return Ok(MetaContent::empty(format, owner));
    }
    let node = NodeId(u32::from_le_bytes(array(&fact("node", 4)?)));
    let identity = |name: &'static str, bytes: &[u8]| {
        Identity::from_wire(bytes).ok_or_else(|| Fault::corrupt("identity", name, Corrupt::Short))
    };
    let owner = Owner { node, identity: identity("of this node", &fact("identity", 16)?)? };
    let mut content = MetaContent::empty(format, owner);
    content.cluster = optional("cluster", 16)?.and_then(|bytes| ClusterId::from_wire(&bytes));
    content.witness = optional("witness", 12)?.map(|bytes| Witness {
        commit: u64::from_le_bytes(array(&bytes)),
        volume: VolumeNumber(u32::from_le_bytes(array(&bytes[8..]))),
    });
    for row in read.open_table(PEERS)?.iter()? {
        let (node, value) = row?;
        let value = unchecked(value.value());
        let value = value.map_err(|corrupt| Fault::corrupt("identity of a peer", node.value(), corrupt))?;
        content.peers.insert(NodeId(node.value()), identity("of a peer", value)?);
    }
    for row in read.open_table(VOLUMES)?.iter()? {
        let (number, value) = row?;
        let at = |corrupt| Fault::corrupt("note of a volume", number.value(), corrupt);
        let value = unchecked(value.value()).map_err(at)?;
        let seal = match (value.first(), value.len()) {
            (Some(0), 1) => None,
            (Some(2), 1) => {
                content.unfinished.insert(VolumeNumber(number.value()));
                continue;
            }
            (Some(1), 13) => Some(Seal {
                bytes: u64::from_le_bytes(array(&value[1..])),
                crc: u32::from_le_bytes(array(&value[9..])),
            }),
            _ => return Err(at(Corrupt::Unknown("state"))),
        };
        content.volumes.insert(VolumeNumber(number.value()), seal);
    }
    for row in read.open_table(VOTES)?.iter()? {
        let (group, value) = row?;
        let vote = unchecked(value.value()).and_then(|value| Payload(value).vote());
        let vote = vote.map_err(|corrupt| Fault::corrupt("vote", group.value(), corrupt))?;
        content.votes.insert(GroupId(group.value()), vote);
    }
    let lost = match read.open_table(LOST) {
        Ok(table) => Some(table),
        // Nothing was ever lost, or an earlier version wrote the file.
        Err(redb::TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    if let Some(table) = lost {
        for row in table.iter()? {
            let (group, value) = row?;
            let at = |corrupt| Fault::corrupt("loss", group.value(), corrupt);
            let lost = match unchecked(value.value()).map_err(at)? {
                [flags @ 1..=3] => Lost { tail: flags & 1 != 0, vote: flags & 2 != 0 },
                _ => return Err(at(Corrupt::Unknown("flags"))),
            };
            content.lost.insert(GroupId(group.value()), lost);
        }
    }
    content.forgot = optional("forgot", 8)?.map(|bytes| GroupId(u64::from_le_bytes(array(&bytes))));
    content.checkpoints = checkpoints::heads(&read)?;
    Ok(content)
}

impl MetaContent {
    pub(super) fn empty(format: u32, owner: Owner) -> Self {
        Self {
            format,
            owner,
            cluster: None,
            witness: None,
            peers: BTreeMap::new(),
            volumes: BTreeMap::new(),
            unfinished: BTreeSet::new(),
            votes: BTreeMap::new(),
            lost: BTreeMap::new(),
            forgot: None,
            checkpoints: BTreeMap::new(),
        }
    }
}

/// Who this node is and whom it has met. A cheap clone.
#[derive(Clone)]
pub struct Facts(Arc<Inner>);

struct Inner {
    owner: Owner,
    meta: Arc<Meta>,
    pool: Arc<dyn Pool>,
    failure: Failure,
    known: Mutex<Known>,
}

struct Known {
    cluster: Option<ClusterId>,
    peers: BTreeMap<NodeId, Identity>,
}

impl Facts {
    pub(super) fn new(content: &MetaContent, meta: Arc<Meta>, pool: Arc<dyn Pool>, failure: Failure) -> Self {
        let known = Mutex::new(Known { cluster: content.cluster, peers: content.peers.clone() });
        Self(Arc::new(Inner { owner: content.owner, meta, pool, failure, known }))
    }

    /// Whose folder it is.
    pub fn node(&self) -> NodeId {
        self.0.owner.node
    }

    /// The identity that was drawn when the folder was made: another disk has another one.
    pub fn identity(&self) -> Identity {
        self.0.owner.identity
    }

    /// The cluster that this node belongs to, once it has joined one.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.0.known().cluster
    }

    /// The identity under which a peer was first counted.
    pub fn peer(&self, node: NodeId) -> Option<Identity> {
        self.0.known().peers.get(&node).copied()
    }

    /// All peers that were ever counted.
    pub fn peers(&self) -> BTreeMap<NodeId, Identity> {
        self.0.known().peers.clone()
    }

    /// Notes the cluster. Durable on return.
    ///
    /// # Errors
    /// The disk failed, now or earlier: perhaps noted, or not.
    pub async fn set_cluster_id(&self, id: ClusterId) -> Result<(), StoreError> {
        self.write(Change::Cluster(id)).await?;
        self.0.known().cluster = Some(id);
        Ok(())
    }

    /// Notes a peer's identity, in place of any noted before. Durable on return.
    ///
    /// # Errors
    /// The disk failed, now or earlier: perhaps noted, or not.
    pub async fn remember_peer(&self, node: NodeId, identity: Identity) -> Result<(), StoreError> {
        self.write(Change::Peer(node, identity)).await?;
        self.0.known().peers.insert(node, identity);
        Ok(())
    }

    /// Notes what is lost of a group, or that nothing is any more. Durable on return.
    ///
    /// # Errors
    /// The disk failed, now or earlier: perhaps noted, or not.
    pub(super) async fn set_lost(&self, group: GroupId, lost: Lost) -> Result<(), StoreError> {
        self.write(Change::Lost(group, lost)).await
    }

    /// Notes that no group from `below` on was ever here without being known. Durable on return.
    ///
    /// # Errors
    /// The disk failed, now or earlier: perhaps noted, or not.
    pub(super) async fn set_forgot(&self, below: GroupId) -> Result<(), StoreError> {
        self.write(Change::Forgot(below)).await
    }

    async fn write(&self, change: Change) -> Result<(), StoreError> {
        if let Some(refusal) = self.0.failure.refusal() {
            return Err(refusal);
        }
        let inner = self.0.clone();
        pool::run(&*self.0.pool, move || {
            let written = inner.failure.catch("the facts", || {
                inner.meta.write(&[change]).map_err(|error| {
                    inner.failure.raise(&error);
                    StoreError::Unknown(error)
                })
            });
            written.unwrap_or_else(|panic| resume_unwind(panic))
        })
        .await
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Facts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Facts").field("owner", &self.0.owner).finish_non_exhaustive()
    }
}
