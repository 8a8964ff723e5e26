//! One Raft group on this node: proposing, reading behind a barrier, and who leads.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;
use openraft::errors::{ClientWriteError, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use openraft::{Raft, ReadPolicy, ServerState};
use openraft_rt::WatchReceiver;
use quorate_proto::ids::{GroupId, Identity, NodeId, Term};
use thiserror::Error;
use tokio::sync::{Mutex as AsyncMutex, Semaphore, oneshot, watch};

use super::base::Base;
use super::fitness::Fitness;
use super::floor::Floor;
use super::log_store::Phase;
use super::machine::Machine;
use super::quiesce::Ledger;
use super::runtime::{Registry, Scope};
use super::timers::ElectionTimer;
use super::trim;
use super::types::{
    Answer, CommittedLeaderId, Config, Member, Payload, Proposal, RaftVote, log_id_from_raft, members_of,
    node_from_raft, node_to_raft, vote_to_store,
};
use crate::env::{Env, Mark, Moment, Point, Task};
use crate::storage::{HardVote, Log, LogId};

/// How long a group may take to save what it has applied before it ends.
const PARTING: Duration = Duration::from_secs(2);

/// How long a proposal may take to be queued, where a [`Point`] makes it so.
const LATE_MAX: Duration = Duration::from_millis(50);

pub(super) type GroupRaft = Raft<Config, Machine>;
pub(super) type ServerMetrics = openraft::metrics::RaftServerMetrics<Config>;

/// What this node is in a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader {
        /// In which term.
        term: Term,
        /// Whether an entry of that term is applied here: only then does it know all that was committed before, and
        /// may answer (KIP-207).
        ready: bool,
    },
    /// It follows, stands for election, or knows of no leader.
    Follower {
        /// The leader of `term`, if it is known.
        leader: Option<NodeId>,
        /// The newest term heard of.
        term: Term,
    },
}

/// The proposal was surely not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("this node does not lead in that term")]
pub struct NotLeader {
    /// Who does, if known.
    pub leader: Option<NodeId>,
}

/// Why a queued proposal got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// Surely not appended. A later proposal of the same term may be accepted all the same, so whoever needs an
    /// order must stop at the first refusal and begin again from what is applied.
    #[error("not appended: this node does not lead in that term, or cannot be sure that it still does")]
    NotAppended {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Perhaps appended, perhaps committed later.
    #[error("perhaps appended: nobody can say yet")]
    Unknown,
}

/// Why it is not known whether everything committed is applied here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BarrierError {
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// No majority answered in time.
    #[error("no majority answered in time")]
    Timeout,
    /// The group is stopped.
    #[error("the group is stopped")]
    Stopped,
}

/// A group that runs on this node. Cheap to clone.
#[derive(Clone)]
pub struct Group(pub(super) Arc<Running>);

/// Dropping it aborts all that openraft runs for the group.
pub(super) struct Running {
    pub(super) id: GroupId,
    pub(super) me: NodeId,
    /// This node's disk's.
    pub(super) identity: Identity,
    pub(super) env: Env,
    pub(super) log: Log,
    pub(super) raft: GroupRaft,
    pub(super) scope: Scope,
    pub(super) registry: Arc<Registry>,
    pub(super) roles: watch::Sender<Role>,
    pub(super) applied: watch::Receiver<Option<LogId>>,
    /// The leader whose death was proven and who is being replaced, by its vote, and until when.
    pub(super) replacing: Mutex<Option<(RaftVote, Moment)>>,
    pub(super) timer: ElectionTimer,
    /// Told to whoever waits in the log for something to be mended.
    pub(super) phase: watch::Sender<Phase>,
    pub(super) base: Arc<Base>,
    pub(super) floor: Arc<Floor>,
    /// What is quiet on this node.
    pub(super) ledger: Arc<Ledger>,
    /// One wakes the group at a time; others wait for that.
    pub(super) waking: AsyncMutex<()>,
    /// Whom this node hands leadership to, while it does.
    pub(super) transfer: watch::Sender<Option<NodeId>>,
    /// The newest term whose leader asked this node to take over, and whether somebody chose that.
    pub(super) handed: Mutex<Option<(Term, bool)>>,
    pub(super) tenure: Mutex<Tenure>,
    /// Elections of this node that wait for no timer.
    pub(super) elections: Arc<Semaphore>,
    /// What ends the group, once somebody has begun to.
    pub(super) ending: AsyncMutex<Option<Task>>,
}

impl Group {
    /// Which one.
    pub fn id(&self) -> GroupId {
        self.0.id
    }

    /// Its log on this node's disk.
    pub fn log(&self) -> &Log {
        &self.0.log
    }

    /// What this node is in it now.
    pub fn role(&self) -> Role {
        *self.0.roles.borrow()
    }

    /// Watches [`Group::role`]. A group that has stopped follows nobody.
    pub fn roles(&self) -> watch::Receiver<Role> {
        self.0.roles.subscribe()
    }

    /// Who the members are, voters and learners, by the newest membership in the log.
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.0.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        members_of(metrics.membership_config.membership()).collect()
    }

    /// Queues a proposal behind all those queued before it, to be appended only if this node leads in `term`. Ready
    /// once it is queued; dropped before that, it is not proposed.
    ///
    /// # Errors
    /// [`NotLeader`]: surely not appended.
    pub async fn propose(&self, term: Term, proposal: Proposal) -> Result<Pending, NotLeader> {
        match self.role() {
            Role::Leader { term: mine, .. } if mine == term => {}
            Role::Leader { .. } => return Err(NotLeader { leader: Some(self.0.me) }),
            Role::Follower { leader, .. } => return Err(NotLeader { leader }),
        }
        self.wake(Mark::WokenByProposal).await;
        self.0.env.dawdle(Point::ProposalLate, LATE_MAX).await;
        if self.0.env.perturb(Point::ProposalNotAppended) {
            let (refuse, outcome) = oneshot::channel();
            let refused = refuse.send(Err(ClientWriteError::ForwardToLeader(ForwardToLeader::empty())));
            return refused.map(|()| Pending(outcome)).map_err(|_| NotLeader { leader: None });
        }
        let (responder, outcome) = ProgressResponder::complete_only();
        let write = self.0.raft.write(Payload::new(proposal));
        let write = write.with_leader(CommittedLeaderId::new(term.0)).responder(responder);
        // Refused here, it never reached the loop that appends.
        self.0.scope.enter(write.into_future()).await.map_err(|_stopped| NotLeader { leader: None })?;
        Ok(Pending(outcome))
    }

    /// Read index (Raft §6.4): when this returns, everything that was committed before the call is applied here.
    /// Only a leader can say so. One round trip to a majority.
    ///
    /// # Errors
    /// By variant.
    pub async fn read_barrier(&self, timeout: Duration) -> Result<(), BarrierError> {
        if self.0.env.perturb(Point::BarrierFails) {
            return Err(BarrierError::Timeout);
        }
        let read = self.0.scope.enter(self.0.raft.ensure_linearizable(ReadPolicy::ReadIndex)).boxed();
        let read = self.0.env.timeout(timeout, read).await;
        // Its heartbeats have woken the followers.
        self.stirred_here();
        match read {
            Ok(Ok(_applied)) => Ok(()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
                Err(BarrierError::NotLeader { leader: leader_of(&to) })
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => {
                self.0.env.reached(Mark::BarrierWithoutAMajority);
                Err(BarrierError::Timeout)
            }
            Ok(Err(RaftError::Fatal(_))) => Err(BarrierError::Stopped),
        }
    }

    /// The vote that this node holds, as durable as its answers need it.
    pub fn hard_vote(&self) -> HardVote {
        vote_to_store(&self.vote())
    }

    /// What it may do, by what is lost of its log here and by which disk that names.
    pub(super) fn fitness(&self) -> Fitness {
        let fitness = Fitness::of(&self.0.log.damage());
        if self.is_named() { fitness } else { fitness.unnamed() }
    }

    /// Whether the newest membership in the log names no other disk as this node's.
    pub(super) fn is_named(&self) -> bool {
        let metrics = self.0.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        members_of(metrics.membership_config.membership())
            .all(|member| member.node != self.0.me || member.identity == self.0.identity)
    }

    /// What it is known up to of another member's log, if this node leads.
    pub(super) fn matched_by(&self, member: NodeId) -> Option<LogId> {
        let metrics = self.0.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref()?.get(&node_to_raft(member))?;
        matched.as_ref().map(log_id_from_raft)
    }

    /// The last entry that is applied here, in this life of the process.
    pub fn applied(&self) -> Option<LogId> {
        *self.0.applied.borrow()
    }

    /// The vote that this node holds: committed once its holder leads.
    pub(super) fn vote(&self) -> RaftVote {
        self.0.raft.server_metrics().borrow_watched().vote
    }

    /// A message came from whoever leads by `vote`: an old leader does not keep this node from standing.
    pub(super) fn heard_leader(&self, vote: &RaftVote) {
        if *vote >= self.vote() {
            self.0.timer.heard(self.0.env.now());
        }
    }

    /// The voters by the newest membership in the log, in order.
    pub fn voters(&self) -> Vec<NodeId> {
        self.0.raft.voter_ids().map(node_from_raft).collect()
    }

    pub(super) fn downgrade(&self) -> Weak<Running> {
        Arc::downgrade(&self.0)
    }

    /// Ends the group: pending proposals get no answer. Dropping this leaves the work at it, for the next call to wait
    /// for: openraft panics in whoever asks it anything after the first who waited for its end has been dropped.
    pub(super) async fn stop(&self) {
        let mut ending = self.0.ending.lock().await;
        let end = || {
            let group = self.clone();
            self.0.env.spawn("group end", async move { group.end().await })
        };
        ending.get_or_insert_with(end).ended().await;
    }

    /// Saves what is applied, if a start without it would take its time.
    async fn part(&self) {
        if self.0.raft.metrics().borrow_watched().running_state.is_err() {
            return;
        }
        let asked = self.0.raft.with_state_machine(|machine| {
            let checkpoint = machine.parting_checkpoint();
            Box::pin(async move { checkpoint })
        });
        if let Ok(Ok(Some((at, body)))) = self.0.env.timeout(PARTING, self.0.scope.enter(asked)).await {
            let saved = trim::save_checkpoint(&self.0.log, at, body);
            if self.0.env.timeout(PARTING, saved).await.is_err() {
                tracing::debug!(group = %self.0.id, "checkpoint was not saved in time: the next start takes longer");
            }
        }
    }

    async fn end(&self) {
        self.0.phase.send_replace(Phase::Ending);
        self.part().boxed().await;
        if let Err(error) = self.0.scope.enter(self.0.raft.shutdown()).boxed().await {
            tracing::warn!(group = %self.0.id, %error, "raft group did not shut down cleanly");
        }
        self.0.registry.stop().await;
        self.0.lost();
    }
}

/// Who led last, in this life of the process.
#[derive(Debug, Default)]
pub(super) struct Tenure {
    /// Since when this node leads, and in which term.
    pub(super) led: Option<(Term, Moment)>,
    /// The last leader that was not this node.
    pub(super) before: Option<NodeId>,
    /// The newest term in which it has handed its leadership over: openraft takes nothing in any more, nor does it beat,
    /// whatever comes of it.
    pub(super) given_up: Option<Term>,
}

impl Running {
    pub(super) fn tenure(&self) -> MutexGuard<'_, Tenure> {
        self.tenure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node hands over what it leads in `term`, if it does.
    pub(super) fn give_up(&self, term: Term) {
        let mut tenure = self.tenure();
        tenure.given_up = tenure.given_up.max(Some(term));
    }

    pub(super) fn replacing(&self) -> MutexGuard<'_, Option<(RaftVote, Moment)>> {
        self.replacing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This node's role is another one: remembers since when it leads, and after whom.
    pub(super) fn note_role(&self, role: Role) {
        let now = self.env.now();
        let mut tenure = self.tenure();
        match role {
            Role::Leader { term, .. } => {
                if tenure.led.is_none_or(|(known, _)| known != term) {
                    tenure.led = Some((term, now));
                }
            }
            Role::Follower { leader, .. } => {
                tenure.led = None;
                tenure.before = leader.filter(|leader| *leader != self.me).or(tenure.before);
            }
        }
    }

    /// openraft has ended: this node leads no more.
    pub(super) fn lost(&self) {
        self.roles.send_if_modified(|role| {
            let (Role::Leader { term, .. } | Role::Follower { term, .. }) = *role;
            let lost = Role::Follower { leader: None, term };
            std::mem::replace(role, lost) != lost
        });
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("id", &self.0.id).field("role", &self.role()).finish()
    }
}

/// A queued proposal. Its outcome comes once it is applied here, or cannot be any more: give it a deadline, as that of
/// an isolated leader comes only after it has heard of the next one. Dropping it abandons the answer only.
pub struct Pending(oneshot::Receiver<ClientWriteResult<Config>>);

impl Future for Pending {
    type Output = Result<(LogId, Answer), ProposeError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match ready!(self.0.poll_unpin(cx)) {
            Ok(Ok(done)) => Ok((log_id_from_raft(&done.log_id), done.data)),
            Ok(Err(ClientWriteError::ForwardToLeader(to))) => {
                Err(ProposeError::NotAppended { leader: leader_of(&to) })
            }
            Ok(Err(
                ClientWriteError::LogEntryDiscarded(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_),
            ))
            | Err(_) => Err(ProposeError::Unknown),
        })
    }
}

fn leader_of(forward: &ForwardToLeader<Config>) -> Option<NodeId> {
    forward.leader_id.map(node_from_raft)
}

/// What `metrics` and the last applied entry make of node `me`.
pub(super) fn role_of(metrics: &ServerMetrics, applied: Option<LogId>, me: NodeId) -> Role {
    let term = Term(metrics.vote.leader_id.term);
    if metrics.state == ServerState::Leader && metrics.vote.leader_id.voted_for == node_to_raft(me) {
        Role::Leader { term, ready: applied.is_some_and(|applied| applied.term == term) }
    } else {
        Role::Follower { leader: metrics.current_leader.map(node_from_raft), term }
    }
}
