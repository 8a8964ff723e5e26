//! What this node does with its peers' requests: judges the sender, then hands on.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Weak;
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use quorate_proto::ErrorCode;
use quorate_proto::ids::{GroupId, LogIndex, NodeId, Term};
use quorate_proto::v1::{self, PeerFrame, PeerReply, PeerRequest, Sender, peer_reply, peer_request};
use tokio::task::unconstrained;

use super::arrivals::piece_from_wire;
use super::convert::{
    append_from_wire, appended_to_wire, transfer_from_wire, vote_reply_to_wire, vote_request_from_wire,
};
use super::identity::{Refusal, Standing, Who};
use crate::env::{Mark, PeerHandler, Point};
use crate::raft::base::{Saved, snapshot_of};
use crate::raft::fitness;
use crate::raft::group::Group;
use crate::raft::node::Inner;
use crate::raft::quiet::{Rest, Said};
use crate::raft::rejoin;
use crate::raft::repair;
use crate::raft::types::{Malformed, RaftLogId, RaftVote, log_id_from_raft, node_to_raft, vote_to_wire};

/// Longest that a forwarded command may wait.
const COMMAND_TIMEOUT_MAX: Duration = Duration::from_secs(120);

/// How late a request may be handled or answered, where a [`Point`] makes it so.
const LATE_MAX: Duration = Duration::from_millis(200);

type Done = Result<peer_reply::Body, Refusal>;

/// Answers the peers.
pub(in crate::raft) struct Handler(pub(in crate::raft) Weak<Inner>);

impl PeerHandler for Handler {
    fn handle(&self, frame: PeerFrame) -> Vec<BoxFuture<'static, PeerReply>> {
        let sender = frame.sender;
        frame.requests.into_iter().map(|request| self.one(sender.as_ref(), request)).collect()
    }

    fn sender(&self) -> Sender {
        self.0.upgrade().map(|node| node.peers.sender(0)).unwrap_or_default()
    }
}

impl Handler {
    fn one(&self, sender: Option<&Sender>, request: PeerRequest) -> BoxFuture<'static, PeerReply> {
        let correlation = request.correlation;
        let admitted = self.admit(sender, request.body);
        async move {
            let done = match admitted {
                Ok(work) => work.await,
                Err(refusal) => Err(refusal),
            };
            match done {
                Ok(body) => PeerReply {
                    correlation,
                    error: ErrorCode::None as i32,
                    message: String::new(),
                    body: Some(body),
                },
                Err(refusal) => PeerReply {
                    correlation,
                    error: refusal.code as i32,
                    message: refusal.message,
                    body: None,
                },
            }
        }
        .boxed()
    }

    /// Judges and queues a request now; the future waits for its outcome.
    fn admit(
        &self,
        sender: Option<&Sender>,
        body: Option<peer_request::Body>,
    ) -> Result<BoxFuture<'static, Done>, Refusal> {
        let Some(node) = self.0.upgrade() else {
            return Err(Refusal::new(ErrorCode::NotAvailable, "this node is stopping"));
        };
        let body =
            body.ok_or_else(|| Refusal::new(ErrorCode::InvalidRequest, "a request of an unknown kind"))?;
        if let peer_request::Body::Hello(hello) = body {
            let asker = sender.map(|sender| NodeId(sender.node)).unwrap_or_default();
            // Who waits to be admitted under an id that another disk had is judged by whoever knows what to do.
            let who = judged(&node, sender, Standing::Anybody)?;
            if node.peers.identities().known(who.node).is_some_and(|known| known != who.identity) {
                node.env().reached(Mark::IdentityRefused);
            }
            let said = node.hooks.hello(sender.cloned().unwrap_or_default(), hello);
            return Ok(said
                .map(move |said| {
                    node.asked(
                        asker,
                        match &said {
                            Ok(reply) if reply.waiting.is_empty() => Ok(()),
                            Ok(reply) => Err(reply.waiting.as_str()),
                            Err((_, reason)) => Err(reason.as_str()),
                        },
                    );
                    said.map(peer_reply::Body::Hello).map_err(refusal)
                })
                .boxed());
        }
        let who = judged(&node, sender, Standing::Known)?;
        node.peers.came_from(who.node);
        node.heard(who);
        Ok(match body {
            peer_request::Body::Hello(_) => unreachable!("hellos were answered above"),
            peer_request::Body::Vote(request) => {
                let group = node.voting(request.group)?;
                let request = vote_request_from_wire(&request).map_err(malformed)?;
                candidate(who, request.vote.leader_id.voted_for)?;
                if !request.leadership_transfer && node.guards(&group) {
                    return Ok(refused_vote(&group));
                }
                async move {
                    node.env().dawdle(Point::VoteHandledLate, LATE_MAX).await;
                    remember(&node, who).await?;
                    let response = group.0.scope.enter(group.0.raft.vote(request)).await.map_err(stopped)?;
                    if response.vote_granted {
                        node.env().reached(Mark::VoteGranted);
                    }
                    Ok(peer_reply::Body::Vote(vote_reply_to_wire(&response)))
                }
                .boxed()
            }
            peer_request::Body::PreVote(request) => {
                let group = node.voting(request.group)?;
                let request = vote_request_from_wire(&request).map_err(malformed)?;
                candidate(who, request.vote.leader_id.voted_for)?;
                if node.guards(&group) {
                    return Ok(refused_vote(&group));
                }
                async move {
                    remember(&node, who).await?;
                    let response =
                        group.0.scope.enter(group.0.raft.pre_vote(request)).await.map_err(stopped)?;
                    Ok(peer_reply::Body::Vote(vote_reply_to_wire(&response)))
                }
                .boxed()
            }
            peer_request::Body::Append(request) => {
                let group = node.serving(request.group)?;
                let session = request.session;
                let mut append = append_from_wire(request).map_err(malformed)?;
                candidate(who, append.vote.leader_id.voted_for)?;
                group.heard_leader(&append.vote);
                // Heard all the same: it leads, and what it says of votes and of what is committed comes with heartbeats.
                node.admits(&group, append.prev_log_id, &mut append.entries)?;
                let appended = node.sessions.append(&group, (who.node, who.incarnation), session, append);
                async move {
                    let appended = appended.await?;
                    note(&group, &appended);
                    group.0.env.dawdle(Point::AppendAnsweredLate, LATE_MAX).await;
                    Ok(peer_reply::Body::Append(appended_to_wire(&appended)))
                }
                .boxed()
            }
            peer_request::Body::Heartbeats(request) => {
                // An older release says nothing of where its logs begin.
                let begins = request.begins.into_iter().chain(std::iter::repeat(0)).map(LogIndex);
                let groups = request.groups.into_iter().zip(begins).map(|(beat, begins)| {
                    let accepted = node.serving(beat.group).and_then(|group| {
                        let beat = append_from_wire(beat).map_err(malformed)?;
                        if !beat.entries.is_empty() {
                            return Err(malformed(Malformed::OutOfRange("a heartbeat's number of entries")));
                        }
                        candidate(who, beat.vote.leader_id.voted_for)?;
                        group.heard_leader(&beat.vote);
                        group.0.floor.tell(begins);
                        Ok((group, beat))
                    });
                    async move {
                        match accepted {
                            Ok((group, beat)) => heartbeat(group, beat).await,
                            Err(refusal) => Err(refusal),
                        }
                        .map_or_else(
                            |refusal| v1::HeartbeatReply {
                                error: refusal.code as i32,
                                message: refusal.message,
                                reply: None,
                            },
                            |reply| v1::HeartbeatReply {
                                error: ErrorCode::None as i32,
                                message: String::new(),
                                reply: Some(reply),
                            },
                        )
                    }
                });
                let groups = groups.collect::<Vec<_>>();
                // The leader gives up on all of them after a whole gap.
                let late = node.env().sleep(Duration::from_millis(node.config().heartbeat_ms) / 2);
                async move {
                    let groups = those_in_time(groups, late).await.into_iter();
                    let groups = groups.map(|reply| reply.unwrap_or_else(not_taken_in)).collect();
                    Ok(peer_reply::Body::Heartbeats(v1::HeartbeatsReply { groups }))
                }
                .boxed()
            }
            peer_request::Body::TransferLeader(request) => {
                let group = node.serving(request.group)?;
                let request = transfer_from_wire(&request).map_err(malformed)?;
                candidate(who, request.from_leader().leader_id.voted_for)?;
                if *request.to_node_id() == node_to_raft(node.me) {
                    if !group.is_named() {
                        return Err(Refusal::new(ErrorCode::NotAvailable, fitness::UNNAMED));
                    }
                    if !group.fitness().stands {
                        return Err(Refusal::new(ErrorCode::NotAvailable, fitness::MESSAGE));
                    }
                    node.may_lead(group.id())?;
                    if node.is_unfit() {
                        return Err(Refusal::new(ErrorCode::NotReady, "this node is about to stop"));
                    }
                    // One that stops, or is full, has no choice.
                    let chosen = !node.is_retiring(who.node, group.id());
                    group.asked_to_take_over(Term(request.from_leader().leader_id.term), chosen);
                }
                group.stirred();
                async move {
                    let transfer = group.0.raft.handle_transfer_leader(request);
                    match group.0.scope.enter(transfer).await.map_err(stopped)? {
                        Ok(()) => Ok(peer_reply::Body::TransferLeader(v1::Done {})),
                        Err(error) => Err(Refusal::new(ErrorCode::NotAvailable, error.to_string())),
                    }
                }
                .boxed()
            }
            peer_request::Body::Beat(beat) => {
                let leads = leads_from_wire(&beat.leads)?;
                let leads = (!beat.leads_known).then_some(&leads);
                node.beat(who.node, leads, (beat.unfit, beat.knows));
                node.told(who.node, beat.health.as_ref());
                let quiet = match beat.quiet {
                    Some(said) => Some(node.quiet_told(who.node, &quiet_from_wire(&said)?)),
                    None => None,
                };
                let (leads, leads_known, knows) =
                    node.told_of_leads(&node.leads(), who.node, Some(beat.knows));
                let (unfit, health) = (node.is_unfit(), Some(node.health().to_wire()));
                let quiet_digest = node.stand_in(who.node, beat.relies);
                let reply =
                    v1::NodeBeatReply { leads, quiet, unfit, leads_known, knows, quiet_digest, health };
                std::future::ready(Ok(peer_reply::Body::Beat(reply))).boxed()
            }
            peer_request::Body::Command(command) => {
                let timeout = Duration::from_millis(u64::from(command.timeout_ms)).min(COMMAND_TIMEOUT_MAX);
                let done = node.hooks.command(command.command, timeout);
                let reply = |answer| peer_reply::Body::Command(v1::CommandReply { answer });
                async move { done.await.map(reply).map_err(refusal) }.boxed()
            }
            peer_request::Body::Snapshot(request) => {
                let group = node.serving(request.group)?;
                let piece = piece_from_wire(request).map_err(malformed)?;
                candidate(who, piece.vote.leader_id.voted_for)?;
                group.heard_leader(&piece.vote);
                let (vote, at) = (piece.vote, piece.at);
                let is_old = vote < group.vote();
                // An old leader hears of the newer one, and nothing of it is taken.
                let whole = if is_old {
                    None
                } else {
                    node.arrivals.take(group.id(), who, piece, group.0.env.now())?
                };
                async move {
                    let vote = match whole {
                        Some(whole) => {
                            let vote = install(&group, vote, at, whole).await?;
                            // A leader that sends its base does not rest.
                            group.stirred();
                            vote
                        }
                        // A vote above the leader's says so; any other says nothing.
                        None if group.vote() > vote => group.vote(),
                        None => vote,
                    };
                    Ok(peer_reply::Body::Snapshot(v1::SnapshotReply { vote: Some(vote_to_wire(&vote)) }))
                }
                .boxed()
            }
            peer_request::Body::FetchEntries(request) => repair::serve(node, request).boxed(),
            peer_request::Body::Rejoin(request) => rejoin::answer(node, who, request).boxed(),
        })
    }
}

/// Hands a leader's base to openraft; ready once it is durable here and in the place of what was. Gives this node's
/// vote.
async fn install(
    group: &Group,
    vote: RaftVote,
    at: RaftLogId,
    whole: bytes::Bytes,
) -> Result<RaftVote, Refusal> {
    use openraft_rt::WatchReceiver;
    let saved = Saved::decode(&whole).map_err(malformed)?;
    // openraft ends the group if this fails later on.
    group.0.base.check(&saved).map_err(|reason| Refusal::new(ErrorCode::InvalidRequest, reason))?;
    let committed = group.0.raft.data_metrics().borrow_watched().local_committed;
    if committed.is_some_and(|committed| committed < at && committed.index >= at.index) {
        let reason = "the base contradicts what is committed here";
        return Err(Refusal::new(ErrorCode::InvalidRequest, reason));
    }
    // Where the log holds another entry at the base's end, openraft would cut all that it does not know to be committed,
    // and that may be: until the base is durable, there would be a copy fewer of it. An append of nothing behind that
    // end cuts only what must go, from there on. Who has a newer leader says so below.
    let behind =
        super::convert::Append { vote, prev_log_id: Some(at), entries: Vec::new(), leader_commit: None };
    group.0.scope.enter(group.0.raft.append_entries(behind)).await.map_err(stopped)?;
    let snapshot = snapshot_of(log_id_from_raft(&at), &saved, whole);
    let installing = group.0.raft.install_full_snapshot(vote, snapshot);
    let response = group.0.scope.enter(installing).boxed().await.map_err(stopped)?;
    // Where all of the base was known to be committed already, nothing was installed, and the entries themselves may not
    // be on the disk yet: the leader takes the answer for that.
    group.0.log.synced().await.map_err(stopped)?;
    Ok(response.vote)
}

/// The answers that come until it is late, each in its place: one group that is slow does not hold back those of all. All
/// are asked for before that is looked at, however many: tokio bounds what a task does at a time, and what was not begun
/// by then would never have got as far as the group.
async fn those_in_time<F: Future>(
    answers: Vec<F>,
    mut late: BoxFuture<'static, ()>,
) -> Vec<Option<F::Output>> {
    let mut in_time = Vec::new();
    in_time.resize_with(answers.len(), || None);
    let answers = answers.into_iter().enumerate();
    let mut answers: FuturesUnordered<_> =
        answers.map(|(place, answer)| answer.map(move |answer| (place, answer))).collect();
    let come = async {
        while let Either::Left((Some((place, answer)), _)) = select(answers.next(), &mut late).await {
            if let Some(in_place) = in_time.get_mut(place) {
                *in_place = Some(answer);
            }
        }
    };
    unconstrained(come).await;
    in_time
}

/// Of a group whose log is on its way to a slow disk: openraft answers behind what it has taken in before. It takes in
/// the heartbeat all the same.
fn not_taken_in() -> v1::HeartbeatReply {
    let message = "what came before is not on the disk yet".to_owned();
    v1::HeartbeatReply { error: ErrorCode::NotAvailable as i32, message, reply: None }
}

/// Dropping it abandons the answer.
async fn heartbeat(group: Group, beat: super::convert::Append) -> Result<v1::AppendReply, Refusal> {
    use openraft::raft::{AppendEntriesResponse, StreamAppendError};
    let prev = beat.prev_log_id;
    group.0.env.dawdle(Point::HeartbeatHandledLate, LATE_MAX).await;
    let response = group.0.scope.enter(group.0.raft.append_entries(beat)).await.map_err(stopped)?;
    let appended = match response {
        AppendEntriesResponse::Success => Ok(prev),
        AppendEntriesResponse::PartialSuccess(matched) => Ok(matched),
        AppendEntriesResponse::Conflict => match prev {
            Some(prev) => Err(StreamAppendError::Conflict(prev)),
            None => return Err(Refusal::new(ErrorCode::Internal, "a conflict at the start of the log")),
        },
        AppendEntriesResponse::HigherVote(vote) => Err(StreamAppendError::HigherVote(vote)),
    };
    note(&group, &appended);
    group.0.env.dawdle(Point::HeartbeatAnsweredLate, LATE_MAX).await;
    Ok(appended_to_wire(&appended))
}

/// What an old leader, or one with another log, is told. A group whose leader has said something is not quiet; not
/// before openraft has taken it in, and with it the leader's lease, or a vote might be given in between.
fn note(group: &Group, appended: &super::convert::Appended) {
    use openraft::raft::StreamAppendError;
    match appended {
        Ok(_) => {}
        Err(StreamAppendError::Conflict(_)) => group.0.env.reached(Mark::AppendConflicts),
        Err(StreamAppendError::HigherVote(_)) => {
            group.0.env.reached(Mark::OldLeaderRefused);
            return;
        }
    }
    group.stirred();
}

fn judged(node: &Inner, sender: Option<&Sender>, standing: Standing) -> Result<Who, Refusal> {
    node.peers.identities().judge(sender, standing).inspect_err(|refusal| {
        if refusal.code == ErrorCode::WrongIdentity {
            node.env().reached(Mark::IdentityRefused);
            node.asked(
                sender.map(|sender| NodeId(sender.node)).unwrap_or_default(),
                Err(refusal.message.as_str()),
            );
        }
    })
}

/// Only a node itself may stand, lead or hand over in its name.
fn candidate(who: Who, voted_for: u64) -> Result<(), Refusal> {
    if node_to_raft(who.node) == voted_for {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::InvalidRequest, format!("node {} spoke for node {voted_for}", who.node)))
}

/// Before the first vote of a peer counts, or is given to it.
fn remember(node: &Inner, who: Who) -> impl Future<Output = Result<(), Refusal>> + Send {
    node.peers
        .identities()
        .remember(who)
        .map(|done| done.map_err(|error| Refusal::new(ErrorCode::NotAvailable, error.to_string())))
}

pub(in crate::raft) fn leads_to_wire(leads: &BTreeMap<GroupId, Term>) -> Vec<v1::Leadership> {
    leads.iter().map(|(group, term)| v1::Leadership { group: group.0, term: term.0 }).collect()
}

pub(in crate::raft) fn leads_from_wire(leads: &[v1::Leadership]) -> Result<BTreeMap<GroupId, Term>, Refusal> {
    let one = |lead: &v1::Leadership| match i32::try_from(lead.term) {
        Ok(_) => Ok((GroupId(lead.group), Term(lead.term))),
        Err(_) => Err(malformed(Malformed::OutOfRange("term"))),
    };
    leads.iter().map(one).collect()
}

pub(in crate::raft) fn quiet_to_wire(said: &Said) -> v1::Quiet {
    let group = |rest: &Rest| v1::QuietGroup { group: rest.group.0, term: rest.term.0, index: rest.last.0 };
    v1::Quiet { asked: said.asked.iter().map(group).collect(), whole: said.whole, digest: said.digest }
}

fn quiet_from_wire(said: &v1::Quiet) -> Result<Said, Refusal> {
    let rest = |rest: &v1::QuietGroup| match i32::try_from(rest.term) {
        Ok(_) => Ok(Rest { group: GroupId(rest.group), term: Term(rest.term), last: LogIndex(rest.index) }),
        Err(_) => Err(malformed(Malformed::OutOfRange("term"))),
    };
    let asked = said.asked.iter().map(rest).collect::<Result<_, _>>()?;
    Ok(Said { asked, whole: said.whole, digest: said.digest })
}

/// A group is quiet behind a leader whose node lives.
fn refused_vote(group: &Group) -> BoxFuture<'static, Done> {
    group.0.env.reached(Mark::VoteRefusedInAQuietGroup);
    let reply = v1::VoteReply { vote: Some(vote_to_wire(&group.vote())), granted: false, last_log_id: None };
    std::future::ready(Ok(peer_reply::Body::Vote(reply))).boxed()
}

fn refusal((code, message): (ErrorCode, String)) -> Refusal {
    Refusal { code, message }
}

fn malformed(error: Malformed) -> Refusal {
    Refusal::new(ErrorCode::InvalidRequest, error.to_string())
}

fn stopped(error: impl ToString) -> Refusal {
    Refusal::new(ErrorCode::NotAvailable, error.to_string())
}

impl Inner {
    /// The group, if it runs here.
    fn serving(&self, group: u64) -> Result<Group, Refusal> {
        let group = GroupId(group);
        self.group(group).ok_or_else(|| {
            Refusal::new(ErrorCode::NotAvailable, format!("group {group} does not run on node {}", self.me))
        })
    }

    /// The group, if it runs here and may vote.
    fn voting(&self, group: u64) -> Result<Group, Refusal> {
        let group = self.serving(group)?;
        if !group.fitness().votes {
            self.env().reached(Mark::VoteLostRefused);
            return Err(Refusal::new(ErrorCode::NotAvailable, fitness::MESSAGE));
        }
        Ok(group)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn all_are_asked_for_before_it_is_late() {
        let (sent, mut received) = mpsc::channel(2_000);
        let ask = |number: u32| {
            let sent = sent.clone();
            async move {
                sent.send(number).await.unwrap();
                std::future::pending::<()>().await;
            }
        };
        let answers = (0..2_000).map(ask).collect::<Vec<_>>();
        let answers = those_in_time(answers, std::future::ready(()).boxed()).await;
        assert!(answers.iter().all(Option::is_none));
        let mut asked = 0;
        while received.try_recv().is_ok() {
            asked += 1;
        }
        assert_eq!(asked, 2_000);
    }

    #[tokio::test]
    async fn one_late_answer_does_not_hold_back_the_others() {
        let never = || std::future::pending::<u32>().boxed();
        let ready = |answer: u32| std::future::ready(answer).boxed();
        let late = || std::future::ready(()).boxed();
        assert_eq!(those_in_time(vec![ready(1), never(), ready(3)], late()).await, [Some(1), None, Some(3)]);
        assert_eq!(those_in_time(vec![never()], late()).await, [None]);
        let (never_late, none) = (std::future::pending().boxed(), Vec::<BoxFuture<'static, u32>>::new());
        assert!(those_in_time(none, never_late).await.is_empty());
        assert_eq!(those_in_time(vec![ready(1)], std::future::pending().boxed()).await, [Some(1)]);
    }
}
