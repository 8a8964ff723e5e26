//! `meta.redb`: who this node is, who its peers are, which volumes there are, and votes as a second copy.
//!
//! | table | key | value, each with its CRC-32C behind it |
//! | --- | --- | --- |
//! | `facts` | `format`, `node`, `identity` | as in a volume |
//! | `facts` | `cluster` | cluster id, 16 bytes; absent until one is joined |
//! | `facts` | `witness` | number of a commit (u64) that the active volume is known to hold, and the volume (u32) |
//! | `facts` | `admission` | number of this node's own admission (u64); absent for those who formed the cluster |
//! | `facts` | `as_of` | entry of the metadata group's log (u64) that `peers`, `seats` and `gone` follow; absent before |
//! | `facts` | `forgot` | a group (u64): of those below it that lie nowhere on this disk, some may once have; the largest number while the bound is not known, the one before it while what was lost is not noted |
//! | `peers` | node (u32) | identity, 16 bytes |
//! | `seats` | node (u32) | number of its admission (u64), then its address for peers in UTF-8 |
//! | `gone` | identity, 16 bytes | node (u32) that it was; it was removed or replaced |
//! | `volumes` | number (u32) | 0 in use; or 1 sealed, length (u64), CRC-32C of the file (u32); or 2 being rewritten, counts for nothing |
//! | `votes` | group (u64) | term, node (u64), committed (u8); of this and the volumes' the higher counts |
//! | `lost` | group (u64) | what may be missing of it (u8): 1 its log's end, 2 its vote, 3 both; until it has caught up |
//! | `checkpoints` | group (u64), kind (u8), piece (u32) | see `checkpoints` |
//!
//! `seats`, `gone`, `admission` and `as_of` may be missing in a file that an earlier version wrote: then nobody was
//! admitted or removed.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_proto::ids::{ClusterId, GroupId, Identity, LogIndex, NodeId};
use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::checkpoints::{self, CheckpointHead, CheckpointKind};
use super::damage::Lost;
use super::entry::{Corrupt, array};
use super::error::{DiskError, Fault, ReadError, StoreError};
use super::failure::Failure;
use super::hard::HardVote;
use super::roster::{News, Seat};
use super::stream::{Payload, put_vote};
use super::volume::{
    FORMAT, FORMAT_OLDEST, Owner, VolumeNumber, checked, create_database, dropped, guarded, guarded_disk,
    open_database, unchecked,
};
use crate::env::pool::{self, Pool};
use crate::env::{Disk, FileName};

const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");
const PEERS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("peers");
const SEATS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("seats");
const GONE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("gone");
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
    pub(super) seats: BTreeMap<NodeId, Seat>,
    pub(super) gone: BTreeMap<Identity, NodeId>,
    pub(super) admission: u64,
    pub(super) as_of: Option<LogIndex>,
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
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// What is written from now on has the shape of this version.
    Format(u32),
    Cluster(ClusterId),
    Witness(Witness),
    Peer(NodeId, Identity),
    Seat(NodeId, Seat),
    PeerGone(NodeId),
    Gone(Identity, NodeId),
    Admission(u64),
    AsOf(LogIndex),
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

impl Drop for Meta {
    fn drop(&mut self) {
        dropped(self.db.get_mut().unwrap_or_else(PoisonError::into_inner).take(), &meta_file());
    }
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
                .chain(content.seats.iter().map(|(node, seat)| Change::Seat(*node, seat.clone())))
                .chain(content.gone.iter().map(|(identity, node)| Change::Gone(*identity, *node)))
                .chain((content.admission > 0).then_some(Change::Admission(content.admission)))
                .chain(content.as_of.map(Change::AsOf))
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
    let mut seats = write.open_table(SEATS)?;
    let mut gone = write.open_table(GONE)?;
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
            Change::Seat(node, seat) => {
                seats.insert(node.0, &checked(&seat.encode())[..])?;
            }
            Change::PeerGone(node) => {
                peers.remove(node.0)?;
                seats.remove(node.0)?;
            }
            Change::Gone(identity, node) => {
                gone.insert(&identity.to_wire()[..], &checked(&node.0.to_le_bytes())[..])?;
            }
            Change::Admission(number) => {
                facts.insert("admission", &checked(&number.to_le_bytes())[..])?;
            }
            Change::AsOf(index) => {
                facts.insert("as_of", &checked(&index.0.to_le_bytes())[..])?;
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
    content.admission = optional("admission", 8)?.map_or(0, |bytes| u64::from_le_bytes(array(&bytes)));
    content.as_of = optional("as_of", 8)?.map(|bytes| LogIndex(u64::from_le_bytes(array(&bytes))));
    load_members(&read, &mut content)?;
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

/// Reads the tables that an earlier version did not write.
fn load_members(read: &ReadTransaction, content: &mut MetaContent) -> Result<(), Fault> {
    match read.open_table(SEATS) {
        Ok(seats) => {
            for row in seats.iter()? {
                let (node, value) = row?;
                let seat = unchecked(value.value()).and_then(Seat::decode);
                let seat = seat.map_err(|corrupt| Fault::corrupt("seat of a peer", node.value(), corrupt))?;
                content.seats.insert(NodeId(node.value()), seat);
            }
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    match read.open_table(GONE) {
        Ok(gone) => {
            for row in gone.iter()? {
                let (key, value) = row?;
                let at = |corrupt| Fault::corrupt("identity of a former peer", "gone", corrupt);
                let identity = Identity::from_wire(key.value()).ok_or_else(|| at(Corrupt::Short))?;
                let node = unchecked(value.value()).map_err(at)?;
                if node.len() != 4 {
                    return Err(at(Corrupt::Short));
                }
                content.gone.insert(identity, NodeId(u32::from_le_bytes(array(node))));
            }
        }
        Err(redb::TableError::TableDoesNotExist(_)) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

impl MetaContent {
    pub(super) fn empty(format: u32, owner: Owner) -> Self {
        Self {
            format,
            owner,
            cluster: None,
            witness: None,
            peers: BTreeMap::new(),
            seats: BTreeMap::new(),
            gone: BTreeMap::new(),
            admission: 0,
            as_of: None,
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
    /// What is learnt is judged by what was learnt before: one at a time.
    learning: tokio::sync::Mutex<()>,
}

struct Known {
    cluster: Option<ClusterId>,
    peers: BTreeMap<NodeId, Identity>,
    seats: BTreeMap<NodeId, Seat>,
    gone: BTreeMap<Identity, NodeId>,
    admission: u64,
    as_of: Option<LogIndex>,
}

impl Facts {
    pub(super) fn new(content: &MetaContent, meta: Arc<Meta>, pool: Arc<dyn Pool>, failure: Failure) -> Self {
        let known = Mutex::new(Known {
            cluster: content.cluster,
            peers: content.peers.clone(),
            seats: content.seats.clone(),
            gone: content.gone.clone(),
            admission: content.admission,
            as_of: content.as_of,
        });
        let learning = tokio::sync::Mutex::default();
        Self(Arc::new(Inner { owner: content.owner, meta, pool, failure, known, learning }))
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

    /// What is kept of a peer beside its identity; the default if nothing was ever agreed on.
    pub fn seat(&self, node: NodeId) -> Seat {
        self.0.known().seats.get(&node).cloned().unwrap_or_default()
    }

    /// The node that a disk was which was removed from the cluster, or replaced in it.
    pub fn gone(&self, identity: Identity) -> Option<NodeId> {
        self.0.known().gone.get(&identity).copied()
    }

    /// The number of this node's own admission; 0 if it is one of those who formed the cluster.
    pub fn admission(&self) -> u64 {
        self.0.known().admission
    }

    /// The entry of the metadata group's log that the members noted here follow; `None` while they are those who formed
    /// the cluster.
    pub fn as_of(&self) -> Option<LogIndex> {
        self.0.known().as_of
    }

    /// Notes what was agreed on about members, all of it or nothing, but for disks that came before the one that a node
    /// is known by. A peer whose disk is gone is forgotten. Durable on return.
    ///
    /// # Errors
    /// The disk failed, now or earlier: perhaps noted, or not.
    pub async fn learn(&self, mut news: News) -> Result<(), StoreError> {
        let _turn = self.0.learning.lock().await;
        {
            let known = self.0.known();
            let is_older = |node: &NodeId, seat: &Seat| {
                known.seats.get(node).is_some_and(|known| known.admission > seat.admission)
            };
            news.peers.retain(|node, (_, seat)| !is_older(node, seat));
        }
        let forgotten: Vec<NodeId> = {
            let known = self.0.known();
            let is_gone = |(node, identity): &(&NodeId, &Identity)| {
                news.gone.contains_key(*identity) && !news.peers.contains_key(*node)
            };
            known.peers.iter().filter(is_gone).map(|(node, _)| *node).collect()
        };
        let mut changes: Vec<Change> = forgotten.iter().copied().map(Change::PeerGone).collect();
        for (node, (identity, seat)) in &news.peers {
            changes.extend([Change::Peer(*node, *identity), Change::Seat(*node, seat.clone())]);
        }
        changes.extend(news.gone.iter().map(|(identity, node)| Change::Gone(*identity, *node)));
        changes.extend(news.cluster.map(Change::Cluster));
        changes.extend(news.admission.map(Change::Admission));
        changes.extend(news.as_of.map(Change::AsOf));
        self.write(changes).await?;

        let mut known = self.0.known();
        for node in forgotten {
            known.peers.remove(&node);
            known.seats.remove(&node);
        }
        for (node, (identity, seat)) in news.peers {
            known.peers.insert(node, identity);
            known.seats.insert(node, seat);
        }
        known.gone.extend(news.gone);
        known.cluster = news.cluster.or(known.cluster);
        known.admission = news.admission.unwrap_or(known.admission);
        known.as_of = news.as_of.or(known.as_of);
        Ok(())
    }

    /// Notes the cluster. Durable on return.
    ///
    /// # Errors
    /// The disk failed, now or earlier: perhaps noted, or not.
    pub async fn set_cluster_id(&self, id: ClusterId) -> Result<(), StoreError> {
        self.write(vec![Change::Cluster(id)]).await?;
        self.0.known().cluster = Some(id);
        Ok(())
    }

    /// Notes a peer's identity, in place of any noted before. Durable on return.
    ///
    /// # Errors
    /// The disk failed, now or earlier: perhaps noted, or not.
    pub async fn remember_peer(&self, node: NodeId, identity: Identity) -> Result<(), StoreError> {
        self.write(vec![Change::Peer(node, identity)]).await?;
        self.0.known().peers.insert(node, identity);
        Ok(())
    }

    /// Notes what is lost of a group, or that nothing is any more. Durable on return.
    ///
    /// # Errors
    /// The disk failed, now or earlier: perhaps noted, or not.
    pub(super) async fn set_lost(&self, group: GroupId, lost: Lost) -> Result<(), StoreError> {
        self.write(vec![Change::Lost(group, lost)]).await
    }

    /// Notes that no group from `below` on was ever here without being known. Durable on return.
    ///
    /// # Errors
    /// The disk failed, now or earlier: perhaps noted, or not.
    pub(super) async fn set_forgot(&self, below: GroupId) -> Result<(), StoreError> {
        self.write(vec![Change::Forgot(below)]).await
    }

    async fn write(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        if let Some(refusal) = self.0.failure.refusal() {
            return Err(refusal);
        }
        let inner = self.0.clone();
        pool::run(&*self.0.pool, move || {
            let written = inner.failure.catch("the facts", || {
                inner.meta.write(&changes).map_err(|error| {
                    inner.failure.raise(&error);
                    StoreError::Unknown(error)
                })?;
                // Somebody else's write may have failed meanwhile: nothing is acknowledged after that.
                inner.failure.unknown().map_or(Ok(()), Err)
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
