//! Messages to a peer and back.
//!
//! Two lanes a peer: what is urgent (votes, heartbeats, beats, hellos) never waits behind a megabyte of entries.
//! The transport carries frames and knows nothing of what they say; who is who is judged above, in `raft::peers`.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use quorate_proto::ids::NodeId;
use quorate_proto::v1::{PeerFrame, PeerReply, PeerReplyFrame, PeerRequest, Sender};
use thiserror::Error;

use super::Task;

/// Which of a peer's two lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Votes, heartbeats, node beats, hellos, leadership transfers.
    Urgent,
    /// Entries, snapshots, forwarded commands.
    Bulk,
}

/// Why no answer came.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PeerError {
    /// Nobody listens there: the connection was actively refused. With an earlier reset, proof of death.
    #[error("connection refused by {0}")]
    Refused(String),
    /// Not reached, for another reason or after too long.
    #[error("cannot reach {0}")]
    Unreachable(String),
    /// The connection ended before the answer came: perhaps done.
    #[error("connection to {0} was lost")]
    Lost(String),
}

/// What became of a connection to a peer: the node's failure detector reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// A connection stands.
    Up,
    /// A standing connection was reset or ended by the other side.
    Reset,
    /// An attempt to connect was actively refused: nobody listens.
    Refused,
}

/// One lane to one peer: connects at the first call and again after a loss, with a short back-off.
pub trait PeerLink: Send + Sync {
    /// Sends a request; requests are sent in the order in which this is *called*, many may be in flight, and those
    /// called close together share a frame. The answer is matched by correlation, which the link fills in.
    /// Dropping the future abandons the answer.
    fn call(&self, request: PeerRequest) -> BoxFuture<'static, Result<(Sender, PeerReply), PeerError>>;
}

/// What a node does with a frame.
pub trait PeerHandler: Send + Sync + 'static {
    /// Takes a frame and gives one future per request, in the frame's order. Requests are admitted in order, before
    /// this returns; answers are sent as they are ready.
    fn handle(&self, frame: PeerFrame) -> Vec<BoxFuture<'static, PeerReply>>;

    /// Who answers: put into each [`PeerReplyFrame`].
    fn sender(&self) -> Sender;
}

/// Watches connections.
pub type LinkWatch = Arc<dyn Fn(NodeId, LinkEvent) + Send + Sync>;

/// Makes links and listens.
#[async_trait]
pub trait Transport: Send + Sync {
    /// A link to `peer` at `address` (`host:port`). Never blocks. `sender` is asked for each frame.
    fn connect(
        &self,
        peer: NodeId,
        address: &str,
        lane: Lane,
        sender: Arc<dyn Fn() -> Sender + Send + Sync>,
        watch: LinkWatch,
    ) -> Arc<dyn PeerLink>;

    /// Listens at `address` and hands frames to `handler` until the task is dropped.
    ///
    /// # Errors
    /// The address is taken or not ours.
    async fn listen(&self, address: &str, handler: Arc<dyn PeerHandler>) -> io::Result<Task>;
}

/// An empty reply frame of `handler`'s, for implementations of [`Transport`].
pub fn reply_frame(handler: &dyn PeerHandler, replies: Vec<PeerReply>) -> PeerReplyFrame {
    PeerReplyFrame { sender: Some(handler.sender()), replies }
}
