//! openraft's own storage suite, on our log over a real store.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use quorate_proto::ids::{GroupId, NodeId};

use crate::raft::log_store::{LogStore, Phase};
use crate::raft::runtime::{Registry, Scope};
use crate::raft::types::{Config, RaftLogId};
use crate::storage::{Store, StoreConfig};

/// Takes snapshots in memory, which the suite asks of a state machine; ours takes none yet.
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

impl StoreBuilder<Config, LogStore, Snapshots, (tempfile::TempDir, Store)> for Builder {
    async fn build(
        &self,
    ) -> Result<((tempfile::TempDir, Store), LogStore, Snapshots), openraft::StorageError<Config>> {
        let folder = tempfile::tempdir().unwrap();
        let env = super::env(folder.path(), Arc::default(), Arc::default()).await;
        let (store, _) = Store::open(&env, StoreConfig::default(), NodeId(1)).await.unwrap();
        let log = store.log(GroupId(7));
        let (_, phase) = tokio::sync::watch::channel(Phase::Running);
        Ok(((folder, store), LogStore::new(&env, log, 1 << 20, phase), Snapshots::default()))
    }
}

#[tokio::test]
async fn openrafts_suite_passes_on_our_log() {
    let folder = tempfile::tempdir().unwrap();
    let env = super::env(folder.path(), Arc::default(), Arc::default()).await;
    let registry = Registry::new();
    Box::pin(Scope::new(env, &registry).enter(Suite::test_all(Builder))).await.unwrap();
}
