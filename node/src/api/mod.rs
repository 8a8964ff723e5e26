//! What clients can ask: decode and check a message, call one function, encode the answer.
//!
//! [`Api`] works on messages, whatever carries them; [`grpc`] is the thin glue to tonic. Owns: the table from our
//! errors to wire codes ([`status`]). Must not know: storage, Raft's inside, sockets.

mod admin;
mod attention;
mod fetch;
pub mod grpc;
mod leaders;
mod members;
mod metadata;
mod offsets;
mod produce;
mod records;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quorate_proto::call::{Call, Reply, Serve};
use quorate_proto::ids::{LeaderEpoch, NodeId, PartitionId, TopicId};
use tokio::sync::watch;

use crate::config::ApiConfig;
use crate::controller::{Controller, WaitingRoom};
use crate::env::Env;
use crate::partition::{PartitionManager, Replica};
use crate::raft::RaftNode;
use status::Status;

/// What a node has once it belongs to its cluster.
pub struct Parts {
    /// The metadata group.
    pub controller: Controller,
    /// Its replicas.
    pub partitions: PartitionManager,
    /// Its groups and peers.
    pub raft: RaftNode,
    /// Who asks to be admitted to the cluster.
    pub waiting: WaitingRoom,
}

/// The parts; before a node belongs to its cluster, and after it was refused, why there are none.
pub type Stage = Result<Arc<Parts>, String>;

/// What [`Api`] is told of its node.
#[derive(Clone, Debug)]
pub struct ApiSettings {
    /// The node.
    pub node: NodeId,
    /// Bounds.
    pub config: ApiConfig,
    /// Whether metadata requests may create topics.
    pub auto_create_topics: bool,
    /// A peer not heard for this long is not alive.
    pub silence_max: Duration,
}

/// Answers calls. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    env: Env,
    settings: Arc<ApiSettings>,
    stage: watch::Receiver<Stage>,
}

impl Api {
    /// `stage` changes as the node joins its cluster.
    pub fn new(env: Env, settings: ApiSettings, stage: watch::Receiver<Stage>) -> Self {
        Self { env, settings: Arc::new(settings), stage }
    }

    fn parts(&self) -> Result<Arc<Parts>, Status> {
        self.stage.borrow().clone().map_err(|reason| status::not_ready(&reason))
    }

    /// The replica that a request is for.
    fn replica(&self, topic_id: &[u8], partition: i32) -> Result<Replica, Status> {
        let topic =
            TopicId::from_wire(topic_id).ok_or_else(|| status::invalid("topic_id must be 16 bytes"))?;
        let replica = self.parts()?.partitions.replica(topic, PartitionId(partition));
        replica.map_err(|error| status::no_replica(self.settings.node, &error))
    }

    /// How long a change of topics or records may take, by the request's wish.
    fn admin_time(&self, asked_ms: u32) -> Duration {
        let config = &self.settings.config;
        let ms = if asked_ms == 0 { config.admin_timeout_ms } else { asked_ms };
        Duration::from_millis(ms.min(config.admin_timeout_ms_max).into())
    }
}

/// The leader epoch of a request; -1 stands for none.
fn epoch(wire: i32) -> Result<Option<LeaderEpoch>, Status> {
    match wire {
        -1 => Ok(None),
        0.. => Ok(Some(LeaderEpoch(wire))),
        _ => Err(status::invalid("leader_epoch must be -1 or more")),
    }
}

impl Serve for Api {
    fn serve(&self, call: Call) -> BoxFuture<'static, Reply> {
        let api = self.clone();
        match call {
            // Admitted before the future is made: the order of calls is the order in the log.
            Call::Produce(request) => produce::produce(self, request),
            Call::InitProducer(_) => async move { Reply::InitProducer(produce::init(&api).await) }.boxed(),
            Call::Fetch(request) => {
                async move { Reply::Fetch(fetch::fetch(&api, request, None).await.0) }.boxed()
            }
            Call::ListOffset(request) => {
                async move { Reply::ListOffset(offsets::list(&api, request).await) }.boxed()
            }
            Call::EpochEnd(request) => {
                std::future::ready(Reply::EpochEnd(offsets::epoch_end(&api, &request))).boxed()
            }
            Call::Metadata(request) => {
                async move { Reply::Metadata(metadata::metadata(&api, request).await) }.boxed()
            }
            Call::ClusterStatus(_) => {
                std::future::ready(Reply::ClusterStatus(metadata::cluster_status(&api))).boxed()
            }
            Call::CreateTopic(request) => {
                async move { Reply::CreateTopic(admin::create(&api, request).await) }.boxed()
            }
            Call::DeleteTopic(request) => {
                async move { Reply::DeleteTopic(admin::delete(&api, request).await) }.boxed()
            }
            Call::ChangeMembers(request) => {
                async move { Reply::ChangeMembers(members::change(&api, request).await) }.boxed()
            }
            Call::ConfigureTopic(request) => {
                async move { Reply::ConfigureTopic(admin::configure(&api, request).await) }.boxed()
            }
            Call::AddPartitions(request) => {
                async move { Reply::AddPartitions(admin::add_partitions(&api, request).await) }.boxed()
            }
            Call::DeleteRecords(request) => {
                async move { Reply::DeleteRecords(records::delete(&api, &request).await) }.boxed()
            }
            Call::MoveLeader(request) => {
                async move { Reply::MoveLeader(leaders::move_leader(&api, request).await) }.boxed()
            }
        }
    }
}
