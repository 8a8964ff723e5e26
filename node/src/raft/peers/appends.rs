//! Replication to one peer: many appends in flight, within a bound, answered in the order in which they were sent.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture};
use futures_util::stream::{FuturesOrdered, Stream};
use openraft::raft::StreamAppendError;
use quorate_proto::ErrorCode;
use quorate_proto::ids::{GroupId, Identity, NodeId};
use quorate_proto::v1::{peer_reply, peer_request};

use super::conflicts::Conflicts;
use super::convert::{Append, Appended, Asked, append_to_wire, pass_over_unread};
use super::{AskError, Peers};
use crate::env::transport::Lane;
use crate::env::{Moment, Point};
use crate::raft::floor::Floor;
use crate::raft::full::takes_room;
use crate::storage::Body;

/// How long a session waits for a peer that is silent; then openraft looks again at what the peer needs.
const SILENT_MAX: Duration = Duration::from_millis(500);

/// How long a peer that refused entries, and says that its disk is still full, is not sent any.
const FULL_AGAIN: Duration = Duration::from_secs(30);

/// Bytes of bodies, and what became of them, and whether that is so for all of them.
type Answer = (u64, Result<(Appended, bool), AskError>);

/// When a peer last refused entries of a group that it was sent, as its disk is full. That it says so of its disk is
/// not enough to send it none: it takes those that it holds already, and a new leader does not know which these are.
#[derive(Default)]
pub(super) struct RefusedFull(Mutex<Option<Moment>>);

impl RefusedFull {
    fn lock(&self) -> MutexGuard<'_, Option<Moment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_recent(&self, now: Moment) -> bool {
        self.lock().is_some_and(|at| now.since(at) < FULL_AGAIN)
    }
}

/// One session of replication to one peer: takes requests as long as there is room, gives answers in order, and ends
/// with the first that is not a success, or one only for a part; or with a conflict that a heartbeat has met.
pub(super) struct Appends<S> {
    peers: Arc<Peers>,
    node: NodeId,
    /// The disk that the membership names.
    disk: Identity,
    group: GroupId,
    session: u64,
    floor: Arc<Floor>,
    refused: Arc<RefusedFull>,
    conflicts: Arc<Conflicts>,
    /// Ready once the peer is heard, if it was silent at the start; before, nothing is read for it.
    silent: Option<BoxFuture<'static, Result<(), AskError>>>,
    input: Option<S>,
    in_flight: FuturesOrdered<BoxFuture<'static, Answer>>,
    bytes: u64,
    ended: bool,
}

impl<S: Stream<Item = Append> + Unpin> Appends<S> {
    /// What the node says with another disk than the one named does not count.
    pub(super) fn new(
        peers: Arc<Peers>,
        (node, disk): (NodeId, Identity),
        group: GroupId,
        (floor, refused, conflicts): (Arc<Floor>, Arc<RefusedFull>, Arc<Conflicts>),
        input: S,
    ) -> Self {
        let session = peers.next_session();
        let silent = (!peers.is_heard(node)).then(|| peers.hears(node, SILENT_MAX).boxed());
        Self {
            peers,
            silent,
            node,
            disk,
            group,
            session,
            floor,
            refused,
            conflicts,
            input: Some(input),
            in_flight: FuturesOrdered::new(),
            bytes: 0,
            ended: false,
        }
    }

    fn has_room(&self) -> bool {
        let config = &self.peers.config;
        self.in_flight.is_empty()
            || (self.in_flight.len() < config.append_in_flight_max
                && self.bytes < config.append_in_flight_bytes_max
                && !self.peers.env.perturb(Point::AppendsOneAtATime))
    }

    fn end(&mut self) {
        self.ended = true;
        self.in_flight.clear();
        self.input = None;
    }

    fn send(&mut self, mut request: Append) {
        self.conflicts.outdate();
        let bytes = request.entries.iter().map(body_bytes).sum();
        let (node, disk) = (self.node, self.disk);
        let next = request.prev_log_id.as_ref().map_or(0, |prev| prev.index + 1);
        if next < self.floor.cut().0 {
            self.in_flight.push_back(future::ready((0, Err(AskError::Trimmed(node)))).boxed());
            return;
        }
        let passed_over = pass_over_unread(&mut request);
        let asked = Asked::of(&request);
        let timeout = Duration::from_millis(self.peers.config.append_timeout_ms);
        let malformed = move |reason: String| AskError::Malformed { node, reason };
        // What was refused is not sent again and again: it may be much.
        let takes_room = takes_room(self.group, &request.entries);
        let full = takes_room.then(|| self.peers.refuses_entries(node)).flatten();
        if takes_room && full.is_none() {
            *self.refused.lock() = None;
        }
        let call = match full.filter(|_| self.refused.is_recent(self.peers.env.now())) {
            Some(room) => {
                Err(AskError::Refused { node, code: ErrorCode::DiskFull, message: room.refusal(node) })
            }
            // Sent here, and not when the answer is first asked for: that would not keep the order. An entry without its
            // body is a fault of our own: nothing may be replicated past it.
            None => append_to_wire(self.group, self.session, request)
                .map(|append| self.peers.ask(node, Lane::Bulk, peer_request::Body::Append(append), timeout))
                .map_err(|error| malformed(error.to_string())),
        };
        let (env, refused) = (self.peers.env.clone(), self.refused.clone());
        let answer = async move {
            let (who, body) = call?.await.inspect_err(|error| {
                if matches!(error, AskError::Refused { code: ErrorCode::DiskFull, .. }) {
                    *refused.lock() = Some(env.now());
                }
            })?;
            who.must_be(disk)?;
            match body {
                peer_reply::Body::Append(reply) => {
                    let appended = asked.check(reply).map_err(|error| malformed(error.to_string()))?;
                    if passed_over && matches!(appended, Err(StreamAppendError::Conflict(_))) {
                        // Nobody can give it that: openraft would try again at once, and without end.
                        let message = "it lacks an entry that no replica can read".to_owned();
                        return Err(AskError::Refused { node, code: ErrorCode::CorruptData, message });
                    }
                    let whole = asked.is_whole(&appended);
                    Ok((appended, whole))
                }
                peer_reply::Body::Hello(_)
                | peer_reply::Body::Vote(_)
                | peer_reply::Body::Heartbeats(_)
                | peer_reply::Body::Beat(_)
                | peer_reply::Body::Command(_)
                | peer_reply::Body::Snapshot(_)
                | peer_reply::Body::TransferLeader(_)
                | peer_reply::Body::FetchEntries(_)
                | peer_reply::Body::Rejoin(_) => Err(malformed("not the answer to an append".to_owned())),
            }
        };
        self.bytes += bytes;
        self.in_flight.push_back(answer.map(move |answer| (bytes, answer)).boxed());
    }
}

fn body_bytes(entry: &crate::raft::types::RaftEntryOf) -> u64 {
    match &entry.payload {
        openraft::EntryPayload::Normal(payload) => match &payload.0.body {
            Body::Here(body) => body.len() as u64,
            Body::Absent => 0,
        },
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => 0,
    }
}

impl<S: Stream<Item = Append> + Unpin> Stream for Appends<S> {
    type Item = Result<Appended, AskError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if let Some(silent) = &mut this.silent {
            let heard = ready!(silent.as_mut().poll(cx));
            this.silent = None;
            if let Err(error) = heard {
                this.end();
                return Poll::Ready(Some(Err(error)));
            }
        }
        while this.has_room()
            && let Some(input) = &mut this.input
        {
            match Pin::new(input).poll_next(cx) {
                Poll::Ready(Some(request)) => this.send(request),
                Poll::Ready(None) => this.input = None,
                Poll::Pending => break,
            }
        }
        match Pin::new(&mut this.in_flight).poll_next(cx) {
            Poll::Ready(Some((bytes, answer))) => {
                this.bytes -= bytes;
                if !matches!(answer, Ok((_, true))) {
                    this.end();
                }
                Poll::Ready(Some(answer.map(|(appended, _)| appended)))
            }
            Poll::Ready(None) if this.input.is_none() => Poll::Ready(None),
            Poll::Ready(None) => this.conflicts.poll_met(this.session, cx).map(|at| {
                this.end();
                Some(Ok(Err(StreamAppendError::Conflict(at))))
            }),
            Poll::Pending => Poll::Pending,
        }
    }
}
