//! A node with its sockets: clients over gRPC, people and monitors over HTTP.

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
use crate::env::{Env, Task};
use crate::http::{self, Faces};
use crate::raft::Role;
use crate::storage::{OpenError, Store};

/// What clients' connections may take to end.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(2);
/// How often the recorder of metrics is swept.
const UPKEEP: Duration = Duration::from_secs(5);

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

/// Renders and sweeps metrics.
pub trait Recorder: Send + Sync + 'static {
    /// All metrics in Prometheus' text form.
    fn render(&self) -> String;
    /// Bounds the memory of what was recorded; called every few seconds.
    fn sweep(&self);
}

impl Recorder for metrics_exporter_prometheus::PrometheusHandle {
    fn render(&self) -> String {
        Self::render(self)
    }

    fn sweep(&self) {
        self.run_upkeep();
    }
}

/// Runs a node until `asked` is ready, or until it must stop itself.
///
/// # Errors
/// See [`ServeError`]. A folder that belongs to another node is none where there are peers: like any node that they
/// refuse, this one stays up, is not ready, and says why to whoever asks.
pub async fn serve(
    env: Env,
    config: NodeConfig,
    recorder: Arc<dyn Recorder>,
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
    let asked = std::pin::pin!(asked);
    let (stopping, stopped) = watch::channel(false);
    let faces = Arc::new(NodeFaces {
        seen: OnceLock::new(),
        folder: OnceLock::new(),
        recorder: Arc::clone(&recorder),
    });
    let answering_http = http.map(|listener| {
        let (faces, stopped) = (Arc::clone(&faces), stopped.clone());
        env.spawn("http", async move {
            if let Err(error) = http::serve(listener, faces, stop(stopped)).await {
                tracing::error!(%error, "HTTP listener ended");
            }
        })
    });
    let sweeper = env.clone();
    let sweeping = env.spawn("metrics upkeep", async move {
        loop {
            sweeper.sleep(UPKEEP).await;
            recorder.sweep();
        }
    });

    let (id, api_config, settings) = (config.id, config.api.clone(), api_settings(&config));
    let addresses = (config.listen_grpc.clone(), config.listen_peer.clone(), config.listen_http.clone());
    let has_peers = config.bootstrap.keys().any(|node| *node != id);
    let node = match Node::start(env.clone(), config).await {
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
    sweeping.stop().await;
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
    recorder: Arc<dyn Recorder>,
}

/// What is looked at of a node that has started.
struct Seen {
    readiness: watch::Receiver<Readiness>,
    stage: watch::Receiver<Stage>,
    store: Store,
}

impl Seen {
    fn record(&self) {
        let count = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
        let unsynced = usize::try_from(self.store.unsynced_bytes()).unwrap_or(usize::MAX);
        metrics::gauge!("quorate_unsynced_bytes").set(count(unsynced));
        let stage = self.stage.borrow().clone();
        let groups = stage.as_ref().map(|parts| parts.partitions.groups()).unwrap_or_default();
        let leads = |group: &&GroupId| {
            let role =
                stage.as_ref().ok().and_then(|parts| parts.raft.group(**group)).map(|group| group.role());
            matches!(role, Some(Role::Leader { .. }))
        };
        metrics::gauge!("quorate_replicas").set(count(groups.len()));
        metrics::gauge!("quorate_partitions_led").set(count(groups.iter().filter(leads).count()));
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
        metrics::gauge!("quorate_ready").set(if self.ready().is_ok() { 1.0 } else { 0.0 });
        if let Some(seen) = self.seen.get() {
            seen.record();
        }
        self.recorder.render()
    }
}
