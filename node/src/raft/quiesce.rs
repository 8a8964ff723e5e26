//! How groups fall quiet, and wake in the right order: on the leader first, which asks a majority whether it still
//! leads, and then, by what it sends, on the followers. What is known of it is [`Quiet`]'s.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use openraft::{ReadPolicy, ServerState};
use openraft_rt::WatchReceiver;
use quorate_proto::ids::{GroupId, NodeId, Term};
use quorate_proto::v1;

use super::group::{Group, Role};
use super::node::{Inner, RaftNode};
use super::quiet::{Ended, Quiet, Rest, Said, Step};
use super::types::{RaftVote, log_id_from_raft, log_id_to_raft, node_from_raft, node_to_raft};
use crate::env::{Mark, Moment, Point};
use crate::storage::LogId;

/// How long a leader that is to wake asks a majority whether it still leads; then its group is awake all the same.
const WAKE_MAX: Duration = Duration::from_secs(1);

/// What is quiet on this node; its groups share it.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Quiet>);

impl Ledger {
    /// Never held while a lock of the node's own is taken: groups, liveness.
    pub(super) fn lock(&self) -> MutexGuard<'_, Quiet> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RaftNode {
    /// How many groups on this node are quiet: nothing happens in them, and no heartbeats are sent.
    pub fn quiet_groups(&self) -> usize {
        let (led, followed) = self.inner().ledger.lock().count();
        led + followed
    }
}

impl Group {
    /// Wakes the group if this node leads it quietly, or did a moment ago: nothing may be proposed to a leader whose
    /// lease has run out, and without heartbeats it has. Ready when a majority has said that it still leads, or does
    /// not say so in time.
    pub(super) async fn wake(&self, why: Mark) {
        if !self.0.ledger.lock().leads(self.0.id) {
            return;
        }
        let turn = self.0.waking.lock().await;
        if self.0.ledger.lock().leads(self.0.id) {
            self.0.env.reached(why);
            let asked = self.0.scope.enter(self.0.raft.ensure_linearizable(ReadPolicy::ReadIndex)).boxed();
            // Without a majority nothing would be acknowledged either, and that is said where it is asked for.
            drop(self.0.env.timeout(WAKE_MAX, asked).await);
            self.stirred_here();
        }
        drop(turn);
    }

    /// A majority was asked whether this node still leads the group: it beats again, until nothing has happened for a
    /// while.
    pub(super) fn stirred_here(&self) {
        self.0.ledger.lock().wake(self.0.id, self.0.env.now());
    }

    /// A group that this node follows is not quiet any more. Whether it was.
    pub(super) fn stirred(&self) -> bool {
        let ended = self.0.ledger.lock().stirred(self.0.id);
        if let Some(ended) = &ended {
            self.heard_by_beats(ended);
        }
        ended.is_some()
    }

    /// The group was quiet: beats of its leader's node stood for heartbeats, and the timer may not have been told for
    /// long. An old leader does not keep this node from standing.
    fn heard_by_beats(&self, ended: &Ended) {
        if leader_by(&self.vote()) == Some((ended.leader, ended.term)) {
            self.0.timer.heard(ended.kept);
        }
    }

    /// If this node leads the group, it beats again, for what rides on its heartbeats.
    pub(super) fn beats_again(&self) {
        self.0.ledger.lock().beats_again(self.0.id, self.0.env.now());
    }
}

impl Inner {
    /// The peers that were heard within a leader's lease, and not taken for dead since.
    pub(super) fn heard_lately(&self, now: Moment) -> BTreeSet<NodeId> {
        self.liveness().near(now - Duration::from_millis(self.config().election_timeout_ms_max))
    }

    /// Whether a group that this node leads goes without the heartbeat that is due. `heard`: see
    /// [`Inner::heard_lately`].
    pub(super) fn rests(&self, group: &Group, heard: &BTreeSet<NodeId>, now: Moment) -> bool {
        let config = self.config();
        let Role::Leader { term, ready: true } = group.role() else { return false };
        // Everybody waits for the metadata group, and it is one.
        if config.quiet_after_ms == 0 || group.id() == GroupId::METADATA {
            return false;
        }
        // It may lead no more, though nobody else does yet: beats that kept it quiet would keep it so for ever.
        if group.is_handing_over(term) {
            group.beats_again();
            return false;
        }
        let Some(last) = tail(group) else { return false };
        if last.term != term {
            return false;
        }
        let rest = Rest { group: group.id(), term, last: last.index };
        let live: BTreeSet<NodeId> = group
            .members()
            .into_iter()
            .map(|member| member.node)
            .filter(|node| heard.contains(node))
            .collect();
        let times = (
            Duration::from_millis(config.quiet_after_ms),
            // Nobody who has not agreed misses the heartbeats before that.
            Duration::from_millis(config.election_timeout_ms_max),
        );
        let step = self.ledger.lock().step(rest, now, &live, times, || is_settled(group, last, &live));
        match step {
            Step::Beat => false,
            Step::Ask => {
                self.env().reached(Mark::QuietBegun);
                true
            }
            Step::Quiet => true,
            Step::Wake => {
                self.env().reached(Mark::WokenByLostContact);
                false
            }
        }
    }

    /// What the next beat to `peer` says of what is quiet.
    pub(super) fn quiet_said(&self, peer: NodeId) -> Said {
        let said = self.ledger.lock().say(peer);
        if said.whole {
            self.env().reached(Mark::QuietToldAgain);
        }
        said
    }

    /// `peer` has answered a beat, or has not.
    pub(super) fn quiet_answered(&self, peer: NodeId, said: &Said, reply: Option<&v1::QuietReply>) {
        let Some(reply) = reply else {
            self.ledger.lock().unanswered(peer, said);
            return;
        };
        let agreed = reply.agreed.iter().copied().map(GroupId).collect();
        let settled = self.ledger.lock().answered(peer, said, &agreed, reply.differs, self.env().now());
        if !settled.woken.is_empty() {
            tracing::debug!(%peer, groups = settled.woken.len(), "peer holds something else: groups beat on");
        }
        for _ in settled.quiet {
            self.env().reached(Mark::QuietConfirmed);
        }
    }

    /// A beat of `leader` has come. What is to be answered.
    pub(super) fn quiet_told(&self, leader: NodeId, said: &Said) -> v1::QuietReply {
        let held = said.asked.iter().filter(|rest| self.holds(leader, rest)).map(|rest| rest.group).collect();
        let told = self.ledger.lock().told(leader, said, &held, self.env().now());
        self.heard_by_beats(&told.ended);
        if let Some(group) = told.agreed.first()
            && self.env().perturb(Point::QuietForgotten)
        {
            let ended = self.ledger.lock().stirred(*group);
            self.heard_by_beats(ended.as_slice());
        }
        let agreed = told.agreed.into_iter().map(|group| group.0).collect();
        v1::QuietReply { agreed, differs: told.differs }
    }

    /// [`Group::heard_by_beats`] of those that run here.
    fn heard_by_beats(&self, ended: &[Ended]) {
        for ended in ended {
            if let Some(group) = self.group(ended.group) {
                group.heard_by_beats(ended);
            }
        }
    }

    /// Whether this node follows `leader` in a group and holds, and has applied, what it has.
    fn holds(&self, leader: NodeId, rest: &Rest) -> bool {
        let Some(group) = self.group(rest.group) else { return false };
        let vote = group.vote();
        let last = Some(LogId { term: rest.term, index: rest.last });
        vote.committed
            && vote.leader_id.voted_for == node_to_raft(leader)
            && vote.leader_id.term == rest.term.0
            && group.log().state().last == last
            && group.applied() == last
            && group.0.timer.is_started()
            && group.0.replacing().is_none()
    }

    /// When the beats of its leader's node last kept a group quiet that this node follows, and in which it holds `vote`.
    pub(super) fn kept_quiet(&self, group: &Group, vote: &RaftVote) -> Option<Moment> {
        let (leader, term) = leader_by(vote)?;
        self.ledger.lock().kept(group.id(), leader, term)
    }

    /// Whether somebody who asks for a vote is to be refused, because the group is quiet and its leader's node lives:
    /// openraft cannot know it, for its leases run out where no heartbeats come. A leader asks a majority whether it
    /// still leads, and beats again; then openraft judges.
    pub(super) fn guards(&self, group: &Group) -> bool {
        if self.ledger.lock().leads(group.id()) {
            // Candidates ask again and again.
            if group.0.waking.try_lock().is_ok() {
                let waking = group.clone();
                group.0.scope.start(async move { waking.wake(Mark::WokenByAVoteRequest).await });
            }
            return true;
        }
        let lease = Duration::from_millis(self.config().election_timeout_ms_max);
        self.kept_quiet(group, &group.vote()).is_some_and(|kept| self.env().now() < kept + lease)
    }

    /// `peer`'s process is no more.
    pub(super) fn quiet_died(&self, peer: NodeId) {
        let ended = self.ledger.lock().died(peer);
        self.heard_by_beats(&ended);
    }
}

/// Who leads by a vote, and in which term; `None` while nobody is known to.
fn leader_by(vote: &RaftVote) -> Option<(NodeId, Term)> {
    let leader = &vote.leader_id;
    vote.committed.then(|| (node_from_raft(leader.voted_for), Term(leader.term)))
}

/// The end of a leader's log, if all of it is committed and applied.
fn tail(group: &Group) -> Option<LogId> {
    let metrics = group.0.raft.data_metrics();
    let metrics = metrics.borrow_watched();
    let last = metrics.last_log.as_ref().map(log_id_from_raft)?;
    (metrics.last_applied.as_ref().map(log_id_from_raft) == Some(last)).then_some(last)
}

/// Whether the members in `live` hold all up to `last`, and are a majority with this node; not while the membership
/// changes.
fn is_settled(group: &Group, last: LogId, live: &BTreeSet<NodeId>) -> bool {
    let voters = {
        let metrics = group.0.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader
            || metrics.membership_config.membership().get_joint_config().len() != 1
        {
            return false;
        }
        metrics.membership_config.membership().voter_ids().map(node_from_raft).collect::<Vec<_>>()
    };
    let here = voters.iter().filter(|voter| **voter == group.0.me || live.contains(voter)).count();
    let metrics = group.0.raft.data_metrics();
    let metrics = metrics.borrow_watched();
    let Some(replication) = &metrics.replication else { return false };
    let last = Some(log_id_to_raft(last));
    here * 2 > voters.len()
        && live.iter().all(|node| replication.get(&node_to_raft(*node)).is_some_and(|held| *held == last))
}
