//! A node: the one place where modules are joined, with the order of start and of shutdown.
//!
//! Holds no logic of its own but what "ready" means.

mod life;
mod serve;

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, select};
use quorate_proto::ErrorCode;
use quorate_proto::ids::{Incarnation, NodeId};
use quorate_proto::v1;
use thiserror::Error;
use tokio::sync::watch;

use crate::api::{Api, ApiSettings, Stage};
use crate::config::{ApiConfig, ConfigError};
use crate::controller::{ControllerConfig, WaitingRoom};
use crate::env::{Env, Task};
use crate::join::{Addresses, Join, Way};
use crate::partition::PartitionConfig;
use crate::raft::{PeerHooks, RaftConfig, RaftNode};
use crate::storage::{OpenError, Store, StoreConfig};

use life::Life;
pub use serve::{Ended, ServeError, serve};

/// Longest name of a rack, in bytes.
const RACK_BYTES_MAX: usize = 255;

/// All that a node is told.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Who it is.
    pub id: NodeId,
    /// Where clients reach it; `None` in the simulator.
    pub listen_grpc: Option<String>,
    /// Where peers reach it.
    pub listen_peer: String,
    /// Where its HTTP faces are; `None` in the simulator.
    pub listen_http: Option<String>,
    /// Its gRPC address as others see it.
    pub advertise_grpc: String,
    /// Its peer address as others see it.
    pub advertise_peer: String,
    /// Its HTTP address as others see it.
    pub advertise_http: String,
    /// The peer addresses of the nodes that form the cluster; empty for a node alone.
    pub bootstrap: BTreeMap<NodeId, String>,
    /// The peer addresses of members of a cluster that this node is to be admitted to; not together with `bootstrap`.
    pub join: Vec<String>,
    /// What the node shares its power and its switch with: replicas are spread over racks first. Empty for none.
    pub rack: String,
    /// Whether asking for a topic may create it.
    pub auto_create_topics: bool,
    /// What clients may ask at once.
    pub api: ApiConfig,
    /// The store.
    pub storage: StoreConfig,
    /// Elections and replication.
    pub raft: RaftConfig,
    /// Partitions.
    pub partition: PartitionConfig,
    /// The metadata group.
    pub controller: ControllerConfig,
}

impl NodeConfig {
    /// A node that peers reach at `peer`, with defaults for the rest and no listeners for clients.
    pub fn new(id: NodeId, peer: &str) -> Self {
        Self {
            id,
            listen_grpc: None,
            listen_peer: peer.to_owned(),
            listen_http: None,
            advertise_grpc: String::new(),
            advertise_peer: peer.to_owned(),
            advertise_http: String::new(),
            bootstrap: BTreeMap::new(),
            join: Vec::new(),
            rack: String::new(),
            auto_create_topics: false,
            api: ApiConfig::default(),
            storage: StoreConfig::default(),
            raft: RaftConfig::default(),
            partition: PartitionConfig::default(),
            controller: ControllerConfig::default(),
        }
    }

    /// Checks the sections, and what must hold between them.
    ///
    /// # Errors
    /// The first thing that is wrong, in a sentence.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let sections = [
            self.api.validate(),
            self.storage.validate().map_err(|error| error.to_string()),
            self.raft.validate().map_err(|error| error.to_string()),
            self.partition.validate(),
            self.controller.validate(),
        ];
        for section in sections {
            section.map_err(ConfigError::Invalid)?;
        }
        let invalid = |message: String| Err(ConfigError::Invalid(message));
        if !self.id.is_valid() {
            return invalid(format!("node id {} is not possible: they are 1 to {}", self.id, NodeId::MAX));
        }
        if !self.bootstrap.is_empty() && !self.bootstrap.contains_key(&self.id) {
            return invalid(format!(
                "--bootstrap names all nodes that form the cluster, and node {} is not among them",
                self.id
            ));
        }
        if !self.bootstrap.is_empty() && !self.join.is_empty() {
            return invalid(
                "--bootstrap forms a cluster, and --join asks to be admitted to one: say only one of them"
                    .to_owned(),
            );
        }
        if self.rack.len() > RACK_BYTES_MAX {
            return invalid(format!(
                "the rack's name has {} bytes, at most {RACK_BYTES_MAX} are possible",
                self.rack.len()
            ));
        }
        if self.partition.unsynced_bytes_max > self.storage.recent_bytes_max {
            return invalid(
                "partition.unsynced_bytes_max must be at most storage.recent_bytes_max, which holds them"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// Whether a node can commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Its identity is accepted, it hears the metadata group's leader, and its disk works.
    Ready,
    /// It cannot, for this reason.
    NotReady(String),
}

/// Why a node did not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder was not opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The peer listener.
    #[error(transparent)]
    Listen(#[from] io::Error),
}

/// A running node, without the sockets of clients. The same in the simulator: disk and transport come from `env`.
pub struct Node {
    api: Arc<Api>,
    store: Store,
    raft: RaftNode,
    stage: watch::Receiver<Stage>,
    readiness: watch::Receiver<Readiness>,
    stopped_itself: watch::Receiver<Option<String>>,
    life: Task,
    watching_failures: Task,
    listening: Task,
}

impl Node {
    /// Opens the store, listens to peers and begins to join the cluster. Returns without waiting for that:
    /// [`Node::readiness`] says when it is done.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub async fn start(env: Env, config: NodeConfig) -> Result<Self, StartError> {
        config.validate()?;
        let has_peers = config.bootstrap.keys().any(|node| *node != config.id) || !config.join.is_empty();
        let storage = StoreConfig { copies_elsewhere: has_peers, ..config.storage.clone() };
        let (store, _) = Store::open(&env, storage, config.id).await?;
        tracing::info!(node = %config.id, identity = %store.facts().identity(), "store opened");

        let addresses = Addresses {
            grpc: config.advertise_grpc.clone(),
            peer: config.advertise_peer.clone(),
            http: config.advertise_http.clone(),
        };
        let way = Way {
            addresses,
            rack: config.rack.clone(),
            bootstrap: config.bootstrap.clone(),
            join: config.join.clone(),
        };
        let waiting = WaitingRoom::default();
        let join = Join::new(&env, store.facts(), config.id, way, waiting.clone());
        if let Some(warning) = join.late_bootstrap() {
            tracing::warn!(node = %config.id, "{warning}");
        }
        let starting = "it has just started".to_owned();
        let (stage_tx, stage) = watch::channel(Err(starting.clone()));
        let (readiness_tx, readiness) = watch::channel(Readiness::NotReady(starting));
        let hooks = Arc::new(Hooks { join: join.clone(), stage: stage.clone() });
        let incarnation = Incarnation(env.entropy.next_u64());
        let raft =
            RaftNode::new(env.clone(), store.clone(), config.raft.clone(), config.id, incarnation, hooks);
        for (peer, identity) in store.facts().peers() {
            if peer != config.id {
                raft.admit(peer, identity);
            }
        }
        let listening = match env.transport.listen(&config.listen_peer, raft.handler()).await {
            Ok(listening) => listening,
            Err(error) => {
                raft.stop().await;
                store.close().await;
                return Err(error.into());
            }
        };

        let api = Arc::new(Api::new(env.clone(), api_settings(&config), stage.clone()));
        let (stopped_tx, stopped_itself) = watch::channel(None);
        let watching_failures =
            env.spawn("failure watch", watch_failures(store.clone(), raft.clone(), config.id, stopped_tx));
        let life = Life {
            env: env.clone(),
            config,
            store: store.clone(),
            raft: raft.clone(),
            join,
            waiting,
            stage: stage_tx,
            readiness: readiness_tx,
        };
        let node = raft.clone();
        let life = env.spawn("node", async move { node.vital("node's main task", life.run()).await });
        Ok(Self { api, store, raft, stage, readiness, stopped_itself, life, watching_failures, listening })
    }

    /// What clients can ask.
    pub fn api(&self) -> Arc<Api> {
        Arc::clone(&self.api)
    }

    /// Whether it can commit, as it changes.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.readiness.clone()
    }

    /// Its controller and partitions, once it belongs to its cluster.
    pub fn stage(&self) -> watch::Receiver<Stage> {
        self.stage.clone()
    }

    /// Its store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Its groups and peers.
    pub fn raft(&self) -> &RaftNode {
        &self.raft
    }

    /// Says why, once a write or a sync has failed: the process must end, with a status of its own. Whatever was in
    /// flight is answered "unknown".
    pub fn stopped_itself(&self) -> watch::Receiver<Option<String>> {
        self.stopped_itself.clone()
    }

    /// Hands over what this node leads, before it stops: while clients can still be told who leads. Takes a few seconds
    /// at most; a second call does nothing.
    pub async fn hand_over(&self) {
        self.raft.hand_over().await;
    }

    /// Stops everything, from the top down, and closes the store.
    pub async fn stop(self) {
        self.hand_over().await;
        // Looked at first: with the main task its parts leave the stage, and what is in flight there is due a moment.
        let stage = self.stage.borrow().clone();
        self.life.stop().await;
        if let Ok(parts) = stage {
            parts.partitions.stop().await;
            parts.controller.stop().await;
        }
        self.raft.stop().await;
        self.listening.stop().await;
        self.watching_failures.stop().await;
        self.store.close().await;
    }
}

fn api_settings(config: &NodeConfig) -> ApiSettings {
    ApiSettings {
        node: config.id,
        config: config.api.clone(),
        auto_create_topics: config.auto_create_topics,
        silence_max: Duration::from_millis(config.controller.silence_ms_max),
    }
}

/// Says why the node must end, once the store has failed, or a group has ended by itself.
async fn watch_failures(store: Store, raft: RaftNode, node: NodeId, stopped: watch::Sender<Option<String>>) {
    let (mut disk, mut groups) = (store.failed(), raft.failed());
    let disk = disk.wait_for(Option::is_some).map(|error| {
        let error = error.ok()?.clone()?;
        let reason = match error.advice() {
            Some(advice) => format!("{error}; {advice}"),
            None => error.to_string(),
        };
        Some((reason, Some(error)))
    });
    let groups = groups.wait_for(Option::is_some).map(|reason| Some((reason.ok()?.clone()?, None)));
    // The disk first: a group that ends because of it says less.
    let Some((reason, disk)) = select(pin!(disk), pin!(groups)).await.factor_first().0 else { return };
    // It is told before it is logged: whatever becomes of the line, the node must stop.
    stopped.send_replace(Some(reason.clone()));
    match disk {
        Some(error) => tracing::error!(%node, error = &*error as &dyn Error, "disk failed; the node stops"),
        None => tracing::error!(%node, reason, "a group ended by itself; the node stops"),
    }
}

/// What peers may ask of this node beside Raft.
struct Hooks {
    join: Join,
    stage: watch::Receiver<Stage>,
}

impl PeerHooks for Hooks {
    fn hello(
        &self,
        from: v1::Sender,
        hello: v1::Hello,
    ) -> BoxFuture<'static, Result<v1::HelloReply, (ErrorCode, String)>> {
        std::future::ready(self.join.answer(&from, hello)).boxed()
    }

    fn command(
        &self,
        command: bytes::Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<bytes::Bytes, (ErrorCode, String)>> {
        let stage = self.stage.borrow().clone();
        async move {
            match stage {
                Ok(parts) => parts.controller.handle_forwarded(command, timeout).await,
                Err(reason) => Err((ErrorCode::NotReady, format!("this node is not ready: {reason}"))),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
