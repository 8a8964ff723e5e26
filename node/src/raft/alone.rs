//! What unit tests of raft's users stand on: one node alone, with a real store in a temporary folder and
//! real Raft, without peers. Its disk can be told to stand still.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use quorate_proto::ErrorCode;
use quorate_proto::env::Probe;
use quorate_proto::ids::{Identity, Incarnation, NodeId};
use quorate_proto::v1::{Hello, HelloReply, PeerReply, PeerRequest, Sender};
use tempfile::TempDir;

use super::{PeerHooks, RaftConfig, RaftNode};
use crate::env::gate::{Gate, GatedDisk};
use crate::env::os::{OsDisk, OsPool};
use crate::env::transport::{Lane, LinkWatch, PeerError};
use crate::env::{Env, Metrics, PeerHandler, PeerLink, Task, Transport};
use crate::storage::{Store, StoreConfig};

/// A node without peers.
pub(crate) struct Alone {
    pub(crate) env: Env,
    pub(crate) store: Store,
    pub(crate) raft: RaftNode,
    pub(crate) me: NodeId,
    pub(crate) identity: Identity,
    /// Whether its disk syncs.
    pub(crate) gate: Gate,
    folder: TempDir,
}

impl Alone {
    /// A new node with an empty folder.
    pub(crate) async fn start() -> Self {
        Self::start_stored(StoreConfig::default()).await
    }

    /// A new node whose store has these settings.
    pub(crate) async fn start_stored(config: StoreConfig) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), quorate_proto::env::os(), config).await
    }

    /// A new node in a world that may be unkind.
    pub(crate) async fn start_probed(probe: Arc<dyn Probe>) -> Self {
        let base = quorate_proto::env::Env { probe, ..quorate_proto::env::os() };
        Self::start_in(tempfile::tempdir().unwrap(), base, StoreConfig::default()).await
    }

    async fn start_in(folder: TempDir, base: quorate_proto::env::Env, stored: StoreConfig) -> Self {
        let gate = Gate::default();
        let disk = GatedDisk { disk: OsDisk::open(folder.path()).unwrap(), gate: gate.clone() };
        let metrics = Metrics::default();
        let (transport, pool) = (Arc::new(Nobody), Arc::new(OsPool));
        let env = Env { base, disk: Arc::new(disk), transport, pool, metrics };
        let me = NodeId(1);
        let (store, _) = Store::open(&env, stored, me).await.unwrap();
        let identity = store.facts().identity();
        let incarnation = Incarnation(env.entropy.next_u64());
        let config = RaftConfig::default();
        let raft = RaftNode::new(env.clone(), store.clone(), config, me, incarnation, Arc::new(Nobody));
        Self { env, store, raft, me, identity, gate, folder }
    }

    /// Stops it and starts it again with the same folder.
    pub(crate) async fn restart(self) -> Self {
        self.raft.stop().await;
        self.store.close().await;
        let Self { env, store, raft, folder, .. } = self;
        drop((raft, store, env));
        Self::start_in(folder, quorate_proto::env::os(), StoreConfig::default()).await
    }
}

/// Waits for a condition.
pub(crate) async fn eventually(env: &Env, what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = env.now() + Duration::from_secs(20);
    while !holds() {
        assert!(env.now() < deadline, "in vain: {what}");
        env.sleep(Duration::from_millis(2)).await;
    }
}

/// No peers: whoever has an address never answers.
struct Nobody;

#[async_trait]
impl Transport for Nobody {
    fn connect(
        &self,
        _peer: NodeId,
        _address: &str,
        _lane: Lane,
        _sender: Arc<dyn Fn() -> Sender + Send + Sync>,
        _watch: LinkWatch,
    ) -> Arc<dyn PeerLink> {
        Arc::new(Self)
    }

    async fn listen(&self, _address: &str, _handler: Arc<dyn PeerHandler>) -> io::Result<Task> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl PeerLink for Nobody {
    fn call(&self, _request: PeerRequest) -> BoxFuture<'static, Result<(Sender, PeerReply), PeerError>> {
        Box::pin(std::future::pending())
    }
}

impl PeerHooks for Nobody {
    fn hello(
        &self,
        _from: Sender,
        _hello: Hello,
    ) -> BoxFuture<'static, Result<HelloReply, (ErrorCode, String)>> {
        Box::pin(async { Err((ErrorCode::NotReady, "alone".to_owned())) })
    }

    fn command(
        &self,
        _command: bytes::Bytes,
        _timeout: Duration,
    ) -> BoxFuture<'static, Result<bytes::Bytes, (ErrorCode, String)>> {
        Box::pin(async { Err((ErrorCode::NotReady, "alone".to_owned())) })
    }
}
