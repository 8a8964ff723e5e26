//! openraft's own storage suite, on our log over a real store.

use std::fmt::Debug;
use std::io;
use std::ops::{RangeBounds, RangeInclusive};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};
use openraft::storage::{
    EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine, Snapshot, SnapshotMeta,
};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, OptionalSend, RaftLogReader, RaftSnapshotBuilder};
use quorate_proto::ids::{GroupId, NodeId};

use crate::raft::log_store::{LogStore, Phase};
use crate::raft::rate::Rate;
use crate::raft::runtime::{Registry, Scope};
use crate::raft::types::{Config, RaftEntryOf, RaftLogId, RaftVote, log_id_from_raft};
use crate::storage::{CheckpointKind, Log, Store, StoreConfig};

/// Our log, with a base saved before each purge, as a group's trimming does: the suite purges without one. It purges what
/// the log does not hold, too, as after a snapshot: that base comes from elsewhere.
#[derive(Clone)]
struct Based {
    store: LogStore,
    log: Log,
}

impl RaftLogReader<Config> for Based {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<RaftEntryOf>>
    where
        R: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.store.try_get_log_entries(range).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<RaftEntryOf>> {
        self.store.limited_get_log_entries(start, end).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        self.store.read_vote().await
    }

    async fn get_key_log_ids(&mut self, range: RangeInclusive<RaftLogId>) -> io::Result<Vec<RaftLogId>> {
        self.store.get_key_log_ids(range).await
    }
}

impl RaftLogStorage<Config> for Based {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Config>> {
        self.store.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        self.store.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<RaftLogId>) -> io::Result<()> {
        self.store.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<RaftLogId>> {
        self.store.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Config>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntryOf> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.store.append(entries, flushed).await
    }

    async fn truncate_after(&mut self, last: Option<RaftLogId>) -> io::Result<()> {
        self.store.truncate_after(last).await
    }

    async fn purge(&mut self, through: RaftLogId) -> io::Result<()> {
        let at = log_id_from_raft(&through);
        let saved = self.log.save_checkpoint(CheckpointKind::Base, at, Bytes::new()).await;
        if saved.is_err() {
            self.log.install_checkpoint(at, Bytes::new()).await.map_err(io::Error::other)?;
        }
        self.store.purge(through).await
    }
}

/// Takes snapshots in memory, which the suite asks of a state machine: of ours a group's trimming is a part.
#[derive(Clone, Default)]
struct Snapshots {
    last: Option<RaftLogId>,
    membership: StoredMembershipOf<Config>,
    current: Option<SnapshotMetaOf<Config>>,
    builds: Arc<std::sync::Mutex<Option<SnapshotMetaOf<Config>>>>,
}

impl RaftSnapshotBuilder<Config> for Snapshots {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Config, Bytes>> {
        let meta = SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() };
        *self.builds.lock().unwrap() = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: Bytes::new() })
    }
}

impl RaftStateMachine<Config> for Snapshots {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, StoredMembershipOf<Config>)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Config>>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, _) = entry?;
            self.last = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                self.membership = StoredMembershipOf::<Config>::new(self.last, membership);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<Config>, _: Bytes) -> io::Result<()> {
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.current = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Config, Bytes>>> {
        let built = self.builds.lock().unwrap().clone();
        Ok(built.or_else(|| self.current.clone()).map(|meta| Snapshot { meta, snapshot: Bytes::new() }))
    }
}

struct Builder;

impl StoreBuilder<Config, Based, Snapshots, (tempfile::TempDir, Store)> for Builder {
    async fn build(
        &self,
    ) -> Result<((tempfile::TempDir, Store), Based, Snapshots), openraft::StorageError<Config>> {
        let folder = tempfile::tempdir().unwrap();
        let env = super::env(folder.path(), Arc::default(), Arc::default()).await;
        let (store, _) = Store::open(&env, StoreConfig::default(), NodeId(1)).await.unwrap();
        let log = store.log(GroupId(7));
        let rate = Arc::new(Rate::new(u64::MAX));
        let (_, phase) = tokio::sync::watch::channel(Phase::Running);
        let based = Based { store: LogStore::new(log.clone(), 1 << 20, env, rate, phase), log };
        Ok(((folder, store), based, Snapshots::default()))
    }
}

#[tokio::test]
async fn openrafts_suite_passes_on_our_log() {
    let folder = tempfile::tempdir().unwrap();
    let env = super::env(folder.path(), Arc::default(), Arc::default()).await;
    let registry = Registry::new();
    Box::pin(Scope::new(env, &registry).enter(Suite::test_all(Builder))).await.unwrap();
}
