//! Heartbeats of all groups to one peer in one message.
//!
//! The first one after a pause goes out at once, so that a read barrier is not held up; what comes within
//! [`WINDOW`] of the last message waits for the next. So a peer gets a bounded number of messages, however many
//! groups there are.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quorate_proto::ErrorCode;
use quorate_proto::ids::{GroupId, Identity, LogIndex, NodeId};
use quorate_proto::v1::{self, HeartbeatReply, peer_reply, peer_request};
use tokio::sync::{mpsc, oneshot};

use super::convert::{Append, Appended, Asked, append_to_wire};
use super::{AskError, Peers, Who};
use crate::env::transport::Lane;
use crate::env::{Env, Point, Task};

/// Least time between two messages.
const WINDOW: Duration = Duration::from_millis(10);
/// Groups in one message.
const GROUPS_MAX: usize = 4096;

struct Beat {
    group: v1::AppendRequest,
    /// Where this node's log of it begins.
    begins: LogIndex,
    answer: oneshot::Sender<Result<(Who, HeartbeatReply), AskError>>,
}

/// The way of heartbeats to one peer.
pub(super) struct Heartbeats {
    tx: mpsc::Sender<Beat>,
    /// Ends with the peer.
    _task: Task,
}

impl Heartbeats {
    pub(super) fn start(peers: &Arc<Peers>, node: NodeId) -> Self {
        let (tx, rx) = mpsc::channel(GROUPS_MAX);
        let work = gather(peers.env.clone(), Arc::downgrade(peers), node, rx);
        Self { tx, _task: peers.env.spawn("heartbeats", work) }
    }
}

impl Peers {
    /// Sends a heartbeat together with those of other groups. What the node says with another disk than the one that the
    /// membership names does not count: that disk has not promised what the member's had.
    pub(super) fn heartbeat(
        &self,
        (node, disk): (NodeId, Identity),
        group: GroupId,
        begins: LogIndex,
        request: Append,
    ) -> impl Future<Output = Result<Appended, AskError>> + Send + use<> {
        let skipped = self.env.perturb(Point::HeartbeatSkipped);
        let begins = if self.env.perturb(Point::TrimUntold) { LogIndex(0) } else { begins };
        let tx = self.lock().get(&node).filter(|_| !skipped).map(|peer| peer.heartbeats.tx.clone());
        async move {
            let malformed = |reason: &dyn ToString| AskError::Malformed { node, reason: reason.to_string() };
            let asked = Asked::of(&request);
            let beat = append_to_wire(group, 0, request).map_err(|error| malformed(&error))?;
            let (answer, answered) = oneshot::channel();
            let tx = tx.ok_or(AskError::NoAddress(node))?;
            tx.try_send(Beat { group: beat, begins, answer }).map_err(|_| AskError::Late(node))?;
            let (who, reply) = answered.await.map_err(|_| AskError::Late(node))??;
            who.must_be(disk)?;
            let code = ErrorCode::try_from(reply.error).map_err(|_| malformed(&"an unknown error code"))?;
            if code != ErrorCode::None {
                return Err(AskError::Refused { node, code, message: reply.message });
            }
            let reply = reply.reply.ok_or_else(|| malformed(&"no reply to a heartbeat"))?;
            asked.check(reply).map_err(|error| malformed(&error))
        }
    }
}

async fn gather(env: Env, peers: Weak<Peers>, node: NodeId, mut rx: mpsc::Receiver<Beat>) {
    let mut in_flight = FuturesUnordered::new();
    let mut next = env.now();
    loop {
        let first = tokio::select! {
            biased;
            Some(()) = in_flight.next(), if !in_flight.is_empty() => continue,
            first = rx.recv() => first,
        };
        let Some(first) = first else { return };
        if env.now() < next {
            env.clock.sleep_until(next).await;
        }
        next = env.now() + WINDOW;
        let Some(peers) = peers.upgrade() else { return };
        let mut beats = vec![first];
        while beats.len() < GROUPS_MAX
            && let Ok(beat) = rx.try_recv()
        {
            beats.push(beat);
        }
        in_flight.push(send(&peers, node, beats));
    }
}

/// Sends now; the future hands out the answers.
fn send(peers: &Arc<Peers>, node: NodeId, beats: Vec<Beat>) -> impl Future<Output = ()> + Send + use<> {
    let begins = beats.iter().map(|beat| beat.begins.0).collect();
    let (groups, answers): (Vec<_>, Vec<_>) = beats.into_iter().map(|beat| (beat.group, beat.answer)).unzip();
    let body = peer_request::Body::Heartbeats(v1::Heartbeats { groups, begins });
    // openraft gives up on a heartbeat when the next one is due.
    let timeout = Duration::from_millis(peers.config.heartbeat_ms) * 2;
    let asked = peers.ask(node, Lane::Urgent, body, timeout);
    async move {
        let replies = asked.await.and_then(|(who, body)| {
            if let peer_reply::Body::Heartbeats(replies) = body
                && replies.groups.len() == answers.len()
            {
                return Ok((who, replies.groups));
            }
            Err(AskError::Malformed { node, reason: "not one reply for each heartbeat".to_owned() })
        });
        match replies {
            // Who asked may have given up.
            Ok((who, replies)) => {
                let answered = answers.into_iter().zip(replies);
                answered.for_each(|(answer, reply)| drop(answer.send(Ok((who, reply)))));
            }
            Err(error) => answers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone())))),
        }
    }
}
