//! A node with its sockets: clients over gRPC, people and monitors over HTTP.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use quorate_proto::ids::GroupId;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{Node, NodeConfig, Readiness, StartError, api_settings};
use crate::api::{self, Api, Stage};
use crate::config::ApiConfig;
use crate::env::grpc::bind;
use crate::env::{Env, Metrics, Task};
use crate::http::{self, Faces};
use crate::raft::Role;
use crate::storage::{OpenError, Store};

/// What clients' connections may take to end.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);

/// How a node ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to.
    Asked,
    /// A write or a sync failed: what the disk holds is not known any more.
    Itself(String),
}

/// Why a node does not serve.
#[derive(Debug, Error)]
pub enum ServeError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A port is taken, or an address is not ours.
    #[error(transparent)]
    Listen(#[from] io::Error),
}

/// Runs a node until `asked` is ready, or until it must stop itself.
///
/// # Errors
/// See [`ServeError`]. A folder that belongs to another node is none where there are peers: like any node that they
/// refuse, this one stays up, is not ready, and says why to whoever asks.
pub async fn serve(
    env: Env,
    config: NodeConfig,
    asked: impl Future<Output = ()>,
) -> Result<Ended, ServeError> {
    config.validate().map_err(StartError::from)?;
    // First the ports: what can be wrong with them is seen before the disk is touched.
    let grpc = match &config.listen_grpc {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let http = match &config.listen_http {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let mut asked = std::pin::pin!(asked);
    let (stopping, stopped) = watch::channel(false);
    let faces =
        Arc::new(NodeFaces { seen: OnceLock::new(), folder: OnceLock::new(), metrics: env.metrics.clone() });
    let answering_http = http.map(|listener| {
        let (faces, stopped) = (Arc::clone(&faces), stopped.clone());
        env.spawn("http", async move {
            if let Err(error) = http::serve(listener, faces, stop(stopped)).await {
                tracing::error!(%error, "HTTP listener ended");
            }
        })
    });

    let (id, api_config, settings) = (config.id, config.api.clone(), api_settings(&config));
    let addresses = (config.listen_grpc.clone(), config.listen_peer.clone(), config.listen_http.clone());
    let has_peers = config.bootstrap.keys().any(|node| *node != id);
    let starting = Box::pin(Node::start(env.clone(), config));
    let started = tokio::select! {
        biased;
        // As after a kill: what a start has written, the next one goes on from.
        () = &mut asked => {
            tracing::info!(node = %id, "node stops before it has started");
            return Ok(Ended::Asked);
        }
        started = starting => started,
    };
    let node = match started {
        Ok(node) => node,
        Err(StartError::Open(error @ OpenError::OtherNode { .. })) if has_peers => {
            tracing::error!(node = %id, %error, "node is not ready");
            let reason = error.to_string();
            faces.folder.set(reason.clone()).expect("set once");
            let (_unchanged, stage) = watch::channel(Err(reason.clone()));
            let (_unchanging, readiness) = watch::channel(Readiness::NotReady(reason));
            let api = Arc::new(Api::new(env.clone(), settings, stage));
            let _serving =
                grpc.map(|listener| serve_clients(&env, listener, api, api_config, readiness, stopped));
            asked.await;
            return Ok(Ended::Asked);
        }
        Err(error) => return Err(error.into()),
    };
    let (clients, peers, people) = addresses;
    tracing::info!(node = %id, grpc = clients, peers, http = people, "node listens");
    let seen = Seen { readiness: node.readiness(), stage: node.stage(), store: node.store().clone() };
    assert!(faces.seen.set(seen).is_ok(), "set once");

    let serving = grpc.map(|listener| {
        serve_clients(&env, listener, node.api(), api_config, node.readiness(), stopped.clone())
    });

    let mut stopped_itself = node.stopped_itself();
    let mut ended = tokio::select! {
        biased;
        reason = stopped_itself.wait_for(Option::is_some) => match reason {
            Ok(reason) => Ended::Itself(reason.clone().unwrap_or_default()),
            Err(_) => Ended::Asked,
        },
        () = asked => Ended::Asked,
    };
    tracing::info!(node = %id, "node stops");
    if ended == Ended::Asked {
        tokio::select! {
            biased;
            Ok(reason) = stopped_itself.wait_for(Option::is_some) => {
                ended = Ended::Itself(reason.clone().unwrap_or_default());
            }
            () = node.hand_over() => {}
        }
    }
    stopping.send_replace(true);
    for task in [serving, answering_http].into_iter().flatten() {
        // Whoever is still connected after that is cut off.
        env.timeout(DRAIN_TIME_MAX, task.join()).await.ok();
    }
    match &ended {
        Ended::Asked => node.stop().await,
        // Nothing more may be written, and nothing needs to be: the process ends as it stands.
        Ended::Itself(_) => drop(node),
    }
    Ok(ended)
}

/// Serves clients over gRPC; the health service says what `readiness` does.
fn serve_clients(
    env: &Env,
    listener: TcpListener,
    api: Arc<Api>,
    config: ApiConfig,
    mut readiness: watch::Receiver<Readiness>,
    stopped: watch::Receiver<bool>,
) -> Task {
    env.spawn("grpc", async move {
        let (ready_tx, ready) = watch::channel(false);
        let forwarding = async {
            loop {
                ready_tx.send_replace(*readiness.borrow_and_update() == Readiness::Ready);
                if readiness.changed().await.is_err() {
                    return std::future::pending::<()>().await;
                }
            }
        };
        let serving = std::pin::pin!(api::grpc::serve(listener, api, &config, ready, stopped));
        let forwarding = std::pin::pin!(forwarding);
        if let futures_util::future::Either::Left((Err(error), _)) =
            futures_util::future::select(serving, forwarding).await
        {
            tracing::error!(%error, "gRPC listener ended");
        }
    })
}

async fn stop(mut stopped: watch::Receiver<bool>) {
    drop(stopped.wait_for(|stopped| *stopped).await);
}

/// What the HTTP faces show, from before the node has started on.
struct NodeFaces {
    seen: OnceLock<Seen>,
    /// Why the data folder is not this node's.
    folder: OnceLock<String>,
    metrics: Metrics,
}

/// What is looked at of a node that has started.
struct Seen {
    readiness: watch::Receiver<Readiness>,
    stage: watch::Receiver<Stage>,
    store: Store,
}

impl Seen {
    /// What is not counted as it happens, but is so at this moment.
    fn record(&self, metrics: &Metrics) {
        metrics.unsynced_bytes.set(self.store.unsynced_bytes());
        metrics.volumes.set_count(self.store.volumes_alive());
        let room = self.store.room();
        metrics.disk_free_bytes.set(room.free_bytes);
        metrics.disk_reserve_bytes.set(room.reserve_bytes);
        metrics.disk_full.set(room.is_full.into());
        let Ok(parts) = self.stage.borrow().clone() else {
            metrics.replicas.set(0);
            metrics.partitions_led.set(0);
            metrics.groups_quiet.set(0);
            metrics.set_lags(&BTreeMap::new());
            return;
        };
        let groups = parts.partitions.groups();
        let leads = |group: &&GroupId| {
            let role = parts.raft.group(**group).map(|group| group.role());
            matches!(role, Some(Role::Leader { .. }))
        };
        metrics.replicas.set_count(groups.len());
        metrics.groups_quiet.set_count(parts.raft.quiet_groups());
        metrics.partitions_led.set_count(groups.iter().filter(leads).count());
        metrics.set_lags(&parts.partitions.lags());
    }
}

impl Faces for NodeFaces {
    fn ready(&self) -> Result<(), String> {
        if let Some(reason) = self.folder.get() {
            return Err(reason.clone());
        }
        let Some(seen) = self.seen.get() else {
            return Err("it is reading what its disk holds".to_owned());
        };
        match &*seen.readiness.borrow() {
            Readiness::Ready => Ok(()),
            Readiness::NotReady(reason) => Err(reason.clone()),
        }
    }

    fn metrics(&self) -> String {
        self.metrics.ready.set(self.ready().is_ok().into());
        if let Some(seen) = self.seen.get() {
            seen.record(&self.metrics);
        }
        self.metrics.render()
    }
}
