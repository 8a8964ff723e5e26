//! openraft's network over [`Peers`].

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft_rt::{BoxFuture, BoxStream};
use quorate_proto::ErrorCode;
use quorate_proto::ids::{GroupId, Identity, NodeId};
use quorate_proto::v1::{peer_reply, peer_request};

use super::appends::{Appends, RefusedFull};
use super::conflicts::Conflicts;
use super::convert::{Append, Appended, transfer_to_wire, vote_reply_from_wire, vote_request_to_wire};
use super::{AskError, Peers};
use crate::env::transport::Lane;
use crate::env::{Mark, Point};
use crate::raft::base::{RaftSnapshot, SnapshotData};
use crate::raft::floor::Floor;
use crate::raft::rate::Rate;
use crate::raft::types::{Config, Disk, RaftVote, node_from_raft, node_to_raft};

/// Gap between attempts to reach a peer, once it was found unreachable.
const RETRY: Duration = Duration::from_millis(50);

/// The same for a peer that takes no entries, as its disk is nearly full: it lives, and all the rest goes on.
const FULL_RETRY: Duration = Duration::from_millis(500);

/// Gap between attempts to send a peer the base of a log.
const CATCH_UP_AGAIN: Duration = Duration::from_millis(200);

/// How long a base waits for a member that is silent, before it is read again.
const SILENT_MAX: Duration = Duration::from_secs(30);

/// How late a vote may be counted, where a [`Point`] makes it so.
const VOTE_LATE_MAX: Duration = Duration::from_millis(300);

/// What heartbeats to each member have met, for the appends to it.
#[derive(Default)]
pub(in crate::raft) struct Members(BTreeMap<NodeId, Arc<Conflicts>>);

/// One group's way to its peers, or to one of them.
pub(in crate::raft) struct Network<T = Members> {
    pub(super) peers: Arc<Peers>,
    pub(super) group: GroupId,
    floor: Arc<Floor>,
    pub(super) catch_up: Arc<Rate>,
    pub(super) to: T,
}

impl Network {
    pub(in crate::raft) fn new(
        peers: Arc<Peers>,
        group: GroupId,
        floor: Arc<Floor>,
        catch_up: Arc<Rate>,
    ) -> Self {
        Self { peers, group, floor, catch_up, to: Members::default() }
    }

    fn to(&mut self, target: u64, disk: &Disk, heartbeats: bool) -> Network<To> {
        let node = node_from_raft(target);
        let conflicts = self.to.0.entry(node).or_default().clone();
        let to = To { node, disk: disk.0, heartbeats, refused: Arc::default(), conflicts };
        let (floor, catch_up) = (self.floor.clone(), self.catch_up.clone());
        Network { peers: self.peers.clone(), group: self.group, floor, catch_up, to }
    }
}

/// The other end, and for what.
pub(in crate::raft) struct To {
    pub(super) node: NodeId,
    /// The disk that the membership names: what another one under the same node id says does not count.
    pub(super) disk: Identity,
    heartbeats: bool,
    refused: Arc<RefusedFull>,
    conflicts: Arc<Conflicts>,
}

impl RaftNetworkFactory<Config> for Network {
    type Network = Network<To>;

    async fn new_client(&mut self, target: u64, disk: &Disk) -> Network<To> {
        self.to(target, disk, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, disk: &Disk) -> Network<To> {
        self.to(target, disk, true)
    }
}

impl Network<To> {
    fn appends<S>(&self, input: S) -> Appends<S>
    where
        S: futures_util::Stream<Item = AppendEntriesRequest<Config>> + Unpin,
    {
        let known = (self.floor.clone(), self.to.refused.clone(), self.to.conflicts.clone());
        Appends::new(self.peers.clone(), (self.to.node, self.to.disk), self.group, known, input)
    }

    /// Sends a heartbeat. That it met a conflict is for the appends to tell: here it was heard, and that is all.
    fn beat(&self, request: Append) -> impl Future<Output = Result<Appended, AskError>> + Send + use<> {
        let prev = request.prev_log_id;
        let (conflicts, mark) = (self.to.conflicts.clone(), self.to.conflicts.mark());
        let to = (self.to.node, self.to.disk);
        let answered = self.peers.heartbeat(to, self.group, self.floor.begins(), request);
        async move {
            match answered.await? {
                Err(StreamAppendError::Conflict(at)) => {
                    conflicts.meet(mark, at);
                    Ok(Ok(prev))
                }
                appended @ (Ok(_) | Err(StreamAppendError::HigherVote(_))) => Ok(appended),
            }
        }
    }

    fn error(&self, error: &AskError, option: &RPCOption, action: RPCTypes) -> RPCError<Config> {
        match error {
            AskError::NoAddress(_)
            | AskError::Peer(_)
            | AskError::Trimmed(_)
            | AskError::Impostor { .. }
            | AskError::Refused { .. } => RPCError::Unreachable(Unreachable::from_string(error)),
            AskError::Late(node) => RPCError::Timeout(Timeout {
                action,
                id: node_to_raft(self.peers.me),
                target: node_to_raft(*node),
                timeout: option.soft_ttl(),
            }),
            AskError::Malformed { .. } => RPCError::Network(NetworkError::from_string(error)),
        }
    }

    async fn ask_vote(
        &self,
        body: peer_request::Body,
        option: &RPCOption,
    ) -> Result<VoteResponse<Config>, RPCError<Config>> {
        let asked = self.peers.ask(self.to.node, Lane::Urgent, body, option.soft_ttl());
        let fail = |error: &AskError| self.error(error, option, RPCTypes::Vote);
        let (who, body) = asked.await.map_err(|error| fail(&error))?;
        // A node id is raft's, and may have another disk by now: a vote given with the old one stands, and the new one
        // knows nothing of it.
        who.must_be(self.to.disk).map_err(|error| fail(&error))?;
        let malformed = |reason: String| fail(&AskError::Malformed { node: self.to.node, reason });
        let peer_reply::Body::Vote(reply) = body else {
            return Err(malformed("not the answer to a vote".to_owned()));
        };
        let response = vote_reply_from_wire(&reply).map_err(|error| malformed(error.to_string()))?;
        self.peers.env.dawdle(Point::VoteCountedLate, VOTE_LATE_MAX).await;
        // Before its vote counts: a disk that comes back empty under this id must not vote a second time.
        self.peers.identities.remember(who).await.map_err(|error| malformed(error.to_string()))?;
        Ok(response)
    }
}

impl RaftNetworkV2<Config> for Network<To> {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Config>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Config>, RPCError<Config>> {
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        let mut answers = self.appends(futures_util::stream::iter([request]));
        let answer = answers.next().await.expect("one append has one answer");
        let appended = answer.map_err(|error| self.error(&error, &option, RPCTypes::AppendEntries))?;
        Ok(match appended {
            Ok(matched) if matched != last => AppendEntriesResponse::PartialSuccess(matched),
            Ok(_) | Err(_) => appended.into(),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<Config>, RPCError<Config>>>, RPCError<Config>>,
    >
    where
        S: futures_util::Stream<Item = AppendEntriesRequest<Config>> + OptionalSend + Unpin + 'static,
    {
        let this = &*self;
        let answers: BoxStream<'s, Result<_, AskError>> = if this.to.heartbeats {
            Box::pin(input.then(move |request| this.beat(request)))
        } else {
            Box::pin(this.appends(input))
        };
        let answers = answers
            .map(move |answer| answer.map_err(|error| this.error(&error, &option, RPCTypes::AppendEntries)));
        Box::pin(async move { Ok(Box::pin(answers) as BoxStream<'s, _>) })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Config>,
        option: RPCOption,
    ) -> Result<VoteResponse<Config>, RPCError<Config>> {
        if self.peers.env.perturb(Point::VoteUnanswered) {
            return Err(self.error(&AskError::Late(self.to.node), &option, RPCTypes::Vote));
        }
        let body = peer_request::Body::Vote(vote_request_to_wire(self.group, &request));
        let response = self.ask_vote(body, &option).await?;
        if !response.vote_granted {
            self.peers.env.reached(Mark::VoteRefused);
        }
        Ok(response)
    }

    /// openraft's default grants without asking.
    async fn pre_vote(
        &mut self,
        request: VoteRequest<Config>,
        option: RPCOption,
    ) -> Result<VoteResponse<Config>, RPCError<Config>> {
        if self.peers.env.perturb(Point::PreVoteUnanswered) {
            return Err(self.error(&AskError::Late(self.to.node), &option, RPCTypes::Vote));
        }
        let body = peer_request::Body::PreVote(vote_request_to_wire(self.group, &request));
        let response = self.ask_vote(body, &option).await?;
        if !response.vote_granted {
            self.peers.env.reached(Mark::PreVoteRefused);
        }
        Ok(response)
    }

    async fn full_snapshot(
        &mut self,
        vote: RaftVote,
        snapshot: RaftSnapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Config>, StreamingError<Config>> {
        let mut is_taken = false;
        let sent = {
            let env = self.peers.env.clone();
            let sending = async {
                if !self.peers.is_heard(self.to.node) {
                    // What it gets is read again then: it may be much, and be of many groups.
                    drop(snapshot);
                    self.peers.hears(self.to.node, SILENT_MAX).await?;
                    // This is taken for a reason to begin again at once.
                    return Err(AskError::Late(self.to.node));
                }
                let sent = match snapshot.snapshot.is_empty() {
                    true => {
                        let message = "its base is damaged".to_owned();
                        Err(AskError::Refused { node: self.peers.me, code: ErrorCode::CorruptData, message })
                    }
                    false => self.send_base(&vote, snapshot, &mut is_taken).await,
                };
                if sent.is_err() {
                    // It is begun again at once.
                    env.sleep(CATCH_UP_AGAIN).await;
                }
                sent
            };
            match select(std::pin::pin!(cancel), std::pin::pin!(sending)).await {
                Either::Left((closed, _)) => return Err(StreamingError::Closed(closed)),
                Either::Right((sent, _)) => sent,
            }
        };
        match sent {
            Ok(theirs) => {
                self.to.conflicts.outdate();
                Ok(SnapshotResponse::new(theirs))
            }
            Err(error) => {
                self.peers.env.reached(Mark::CatchUpBroken);
                if is_taken {
                    tracing::info!(group = %self.group, peer = %self.to.node, %error, "catch-up was interrupted");
                } else {
                    tracing::debug!(group = %self.group, peer = %self.to.node, %error, "catch-up did not begin");
                }
                Err(self.error(&error, &option, RPCTypes::InstallSnapshot).into())
            }
        }
    }

    /// openraft's default answers that nobody can be reached.
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Config>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Config>, RPCError<Config>> {
        if self.peers.env.perturb(Point::TransferUntold) {
            return Err(self.error(&AskError::Late(self.to.node), &option, RPCTypes::TransferLeader));
        }
        let body = peer_request::Body::TransferLeader(transfer_to_wire(self.group, &request));
        let asked = self.peers.ask(self.to.node, Lane::Urgent, body, option.soft_ttl());
        match asked.await {
            Ok((_, peer_reply::Body::TransferLeader(_))) => Ok(Ok(())),
            Ok(_) => {
                let reason = "not the answer to a transfer".to_owned();
                let error = AskError::Malformed { node: self.to.node, reason };
                Err(self.error(&error, &option, RPCTypes::TransferLeader))
            }
            Err(error) => Err(self.error(&error, &option, RPCTypes::TransferLeader)),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        let retry = if self.peers.refuses_entries(self.to.node).is_some() { FULL_RETRY } else { RETRY };
        Some(Backoff::new(std::iter::repeat(retry)))
    }
}
