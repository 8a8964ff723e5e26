//! What a client can ask of a node, whatever carries it: gRPC between processes, messages in the simulator.

use futures_util::future::BoxFuture;
use thiserror::Error;

use crate::v1;

/// One request of a client.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is named like the message that it holds")]
pub enum Call {
    Produce(v1::ProduceRequest),
    InitProducer(v1::InitProducerRequest),
    Fetch(v1::FetchRequest),
    ListOffset(v1::ListOffsetRequest),
    EpochEnd(v1::EpochEndRequest),
    Metadata(v1::MetadataRequest),
    ClusterStatus(v1::ClusterStatusRequest),
    CreateTopic(v1::CreateTopicRequest),
    DeleteTopic(v1::DeleteTopicRequest),
    ChangeMembers(v1::ChangeMembersRequest),
    ConfigureTopic(v1::ConfigureTopicRequest),
    AddPartitions(v1::AddPartitionsRequest),
    DeleteRecords(v1::DeleteRecordsRequest),
    MoveLeader(v1::MoveLeaderRequest),
}

/// The answer to a [`Call`], of the same variant.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is named like the message that it holds")]
pub enum Reply {
    Produce(v1::ProduceResponse),
    InitProducer(v1::InitProducerResponse),
    Fetch(v1::FetchResponse),
    ListOffset(v1::ListOffsetResponse),
    EpochEnd(v1::EpochEndResponse),
    Metadata(v1::MetadataResponse),
    ClusterStatus(v1::ClusterStatusResponse),
    CreateTopic(v1::CreateTopicResponse),
    DeleteTopic(v1::DeleteTopicResponse),
    ChangeMembers(v1::ChangeMembersResponse),
    ConfigureTopic(v1::ConfigureTopicResponse),
    AddPartitions(v1::AddPartitionsResponse),
    DeleteRecords(v1::DeleteRecordsResponse),
    MoveLeader(v1::MoveLeaderResponse),
}

/// Why no answer came.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CallError {
    /// The node was not reached: surely nothing was done.
    #[error("cannot reach {address}: {reason}")]
    Unreachable {
        /// Whom the call was for.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The request went out and no answer came back: perhaps done.
    #[error("lost the connection to {address}: {reason}")]
    Lost {
        /// Whom the call was for.
        address: String,
        /// What the system said.
        reason: String,
    },
}

/// A node's side: answers calls. Implemented once, by node's `api`.
pub trait Serve: Send + Sync + 'static {
    /// Takes a call. Calls of one caller are admitted in the order in which this is *called*, before the future is
    /// first polled. Dropping the future abandons the answer, not the work.
    fn serve(&self, call: Call) -> BoxFuture<'static, Reply>;
}

/// A client's side: a connection to one node, shared by all who talk to it, made at the first call and again after
/// a loss.
pub trait Channel: Send + Sync + 'static {
    /// Sends a call. Calls are sent in the order in which this is *called*; many may be in flight; answers come as
    /// they are ready. Bounded by the caller: it must not keep more in flight than it has room for.
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Reply, CallError>>;

    /// The address that it talks to.
    fn address(&self) -> &str;
}

/// Makes channels. gRPC in client, messages in the simulator.
pub trait Connect: Send + Sync + 'static {
    /// A channel to `address` (`host:port`). Never blocks and never fails: the first call does.
    fn connect(&self, address: &str) -> std::sync::Arc<dyn Channel>;
}
