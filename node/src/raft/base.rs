//! A group's base: what its owner made of the log up to the entry behind which the log may begin.
//!
//! It is openraft's snapshot, and never made of the applied state: to trim the log to an entry, the entries between
//! the old base and that one are replayed into a state of its own, which is saved, and then the log is trimmed to it.
//! So what a member that fell behind gets is as of the point at which the log begins, membership included, and all
//! members come to the same one.

use std::io;
use std::sync::{Mutex, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use openraft::storage::{Snapshot, SnapshotMeta};
use openraft::{EntryPayload, RaftSnapshotBuilder};
use prost::Message;
use quorate_proto::ids::{GroupId, LogIndex};
use quorate_proto::v1;
use tokio::sync::Mutex as AsyncMutex;

use super::log_store::LogStore;
use super::machine::Apply;
use super::types::{
    Config, Malformed, RaftLogId, entry_from_raft, log_id_from_raft, log_id_from_wire, log_id_to_raft,
    log_id_to_wire, membership_from_bytes, membership_to_bytes,
};
use crate::storage::{Checkpoint, CheckpointKind, Log, LogId};

pub(super) type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Config>;
pub(super) type RaftSnapshot = openraft::type_config::alias::SnapshotOf<Config, SnapshotData>;

/// A checkpoint's body: a byte with its format's version, and a `GroupCheckpoint`.
pub(super) type SnapshotData = Bytes;

const VERSION: u8 = 1;

/// What a checkpoint's body says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Saved {
    /// The members as of it.
    pub(super) membership: StoredMembership,
    /// What the owner gave.
    pub(super) state: Bytes,
}

impl Saved {
    pub(super) fn encode(&self) -> SnapshotData {
        let membership = match self.membership.log_id() {
            Some(_) => membership_to_bytes(self.membership.membership()),
            None => Bytes::new(),
        };
        let message = v1::GroupCheckpoint {
            membership_at: self.membership.log_id().as_ref().map(log_id_to_wire),
            membership,
            state: self.state.clone(),
        };
        let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
        bytes.put_u8(VERSION);
        message.encode(&mut bytes).expect("a buffer of bytes grows as needed");
        bytes.freeze()
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let malformed = Malformed::Checkpoint;
        let (version, message) = body.split_first().ok_or_else(|| malformed("it is empty".to_owned()))?;
        if *version != VERSION {
            return Err(malformed(format!("its format version is {version}")));
        }
        let message = v1::GroupCheckpoint::decode(message).map_err(|error| malformed(error.to_string()))?;
        let membership = match &message.membership_at {
            Some(at) => {
                let members = membership_from_bytes(&message.membership)?;
                StoredMembership::new(Some(log_id_from_wire(at)?), members)
            }
            None => StoredMembership::default(),
        };
        Ok(Self { membership, state: message.state })
    }
}

/// A group's base on this node.
pub(super) struct Base {
    group: GroupId,
    log: Log,
    store: LogStore,
    /// Gives empty owners of the group's kind. Behind a lock, as an owner need not be shared.
    kind: Mutex<Box<dyn Apply>>,
    /// Held by whoever replaces the base.
    pub(super) turn: AsyncMutex<()>,
}

impl Base {
    /// `kind` is any owner of the group's kind: it is asked for empty ones only.
    pub(super) fn new(store: LogStore, log: Log, kind: Box<dyn Apply>) -> Self {
        Self { group: log.group(), log, store, kind: Mutex::new(kind), turn: AsyncMutex::default() }
    }

    /// The last entry that is in it.
    pub(super) fn at(&self) -> Option<LogId> {
        self.log.checkpoint_at(CheckpointKind::Base)
    }

    fn fresh(&self) -> Box<dyn Apply> {
        self.kind.lock().unwrap_or_else(PoisonError::into_inner).fresh()
    }

    async fn load(&self, kind: CheckpointKind) -> io::Result<Option<(LogId, Saved)>> {
        let found = self.log.checkpoint(kind).await.map_err(io::Error::other)?;
        let Some(Checkpoint { at, body }) = found else { return Ok(None) };
        Ok(Some((at, Saved::decode(&body).map_err(io::Error::other)?)))
    }

    /// Restores `owner` to what is saved of the group, the newest that counts. Gives the last entry in it.
    pub(super) async fn resume(
        &self,
        owner: &mut dyn Apply,
    ) -> io::Result<Option<(CheckpointKind, LogId, StoredMembership)>> {
        if self.log.checkpoint_at(CheckpointKind::Recent).is_some_and(|recent| Some(recent) > self.at()) {
            match self.restored(CheckpointKind::Recent, owner).await {
                Ok(None) => {}
                Ok(recent) => return Ok(recent),
                // It only makes a start shorter.
                Err(error) => {
                    tracing::warn!(group = %self.group, %error, "recent checkpoint could not be read");
                }
            }
        }
        self.restored(CheckpointKind::Base, owner).await
    }

    async fn restored(
        &self,
        kind: CheckpointKind,
        owner: &mut dyn Apply,
    ) -> io::Result<Option<(CheckpointKind, LogId, StoredMembership)>> {
        let Some((at, saved)) = self.load(kind).await? else { return Ok(None) };
        owner.restore(&saved.state).map_err(io::Error::other)?;
        owner.applied(at);
        Ok(Some((kind, at, saved.membership)))
    }

    /// Makes the base one as of `through`, inclusive, which must be applied here, unless it is as late already: replays
    /// what lies between. Durable on return.
    ///
    /// # Errors
    /// The log could not be read, or the base not saved. What is damaged is not waited for: whoever trims has other groups
    /// to trim, and perhaps all others have trimmed what is missing here.
    pub(super) async fn raise(&self, through: LogIndex) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        let old = self.load(CheckpointKind::Base).await?;
        let from = old.as_ref().map_or(LogIndex(0), |(at, _)| at.index.next());
        if through < from {
            return Ok(());
        }
        let mut owner = self.fresh();
        let mut membership = StoredMembership::default();
        if let Some((_, saved)) = old {
            owner.restore(&saved.state).map_err(io::Error::other)?;
            membership = saved.membership;
        }
        let mut last: Option<RaftLogId> = None;
        let mut entries = std::pin::pin!(self.store.impatient().stream(from.0..through.0 + 1));
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            let id = entry.log_id;
            if let EntryPayload::Membership(members) = &entry.payload {
                membership = StoredMembership::new(Some(id), members.clone());
            }
            owner.apply(&entry_from_raft(self.group, entry));
            last = Some(id);
        }
        let at = last.as_ref().map(log_id_from_raft).expect("the range is not empty, and was read whole");
        let body = Saved { membership, state: owner.save() }.encode();
        let bytes = body.len();
        self.log.save_checkpoint(CheckpointKind::Base, at, body).await.map_err(io::Error::other)?;
        tracing::debug!(group = %self.group, index = %at.index, bytes, "base was saved");
        Ok(())
    }

    /// Whether a base of a peer can be gone on from.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check(&self, saved: &Saved) -> Result<(), String> {
        self.fresh().restore(&saved.state)
    }

    /// Takes up a base of a peer. Durable on return; the log must be trimmed to it then.
    ///
    /// # Errors
    /// It was not saved.
    pub(super) async fn install(&self, at: LogId, body: SnapshotData) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        self.log.install_checkpoint(at, body).await.map_err(io::Error::other)
    }

    /// As openraft takes and sends it.
    pub(super) async fn snapshot(&self) -> io::Result<Option<RaftSnapshot>> {
        let found = self.log.checkpoint(CheckpointKind::Base).await.map_err(io::Error::other)?;
        let Some(Checkpoint { at, body }) = found else { return Ok(None) };
        let saved = Saved::decode(&body).map_err(io::Error::other)?;
        Ok(Some(snapshot_of(at, &saved, body)))
    }

    /// The same for a member that lacks what lies before. openraft ends a group that cannot read its base: one that runs
    /// gives an empty body for one that is damaged. It is sent to nobody, and [`super::repair`] does what is to be done.
    pub(super) async fn snapshot_to_send(&self) -> io::Result<Option<RaftSnapshot>> {
        let error = match self.snapshot().await {
            Ok(found) => return Ok(found),
            Err(error) => error,
        };
        match self.at() {
            Some(at) if self.store.has_started() && self.log.damage().base => {
                let nothing = Saved { membership: StoredMembership::default(), state: Bytes::new() };
                Ok(Some(snapshot_of(at, &nothing, Bytes::new())))
            }
            Some(_) | None => Err(error),
        }
    }
}

/// A base as openraft takes it.
pub(super) fn snapshot_of(at: LogId, saved: &Saved, body: SnapshotData) -> RaftSnapshot {
    let meta =
        SnapshotMeta { last_log_id: Some(log_id_to_raft(at)), last_membership: saved.membership.clone() };
    Snapshot { meta, snapshot: body }
}

/// Gives openraft the base when it asks for a snapshot: it was made before.
pub(super) struct Builder(pub(super) std::sync::Arc<Base>);

impl RaftSnapshotBuilder<Config> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        self.0.snapshot().await?.ok_or_else(|| io::Error::other("the group has no base"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use quorate_proto::ids::{Identity, Term};

    use super::*;
    use crate::raft::types::{Disk, RaftMembership};

    #[test]
    fn what_is_saved_comes_back() {
        let disk = Disk(Identity::from_random([3; 16]));
        let members =
            RaftMembership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, disk), (2, disk)])).unwrap();
        let at = log_id_to_raft(LogId { term: Term(2), index: LogIndex(7) });
        let state = Bytes::from_static(b"state");
        for membership in [StoredMembership::new(Some(at), members), StoredMembership::default()] {
            let saved = Saved { membership, state: state.clone() };
            assert_eq!(Saved::decode(&saved.encode()).unwrap(), saved);
        }
        assert!(Saved::decode(b"").is_err());
        assert!(Saved::decode(b"\x02").is_err(), "another version");
        assert!(Saved::decode(b"\x01\xff").is_err());
    }
}
