//! Leadership handed from one node to another on purpose: nobody waits for a time-out, and little is held up.
//!
//! openraft lets a leader that hands over take nothing in any more, whatever comes of it: one whose heir does not take
//! over leads no more, and the others elect somebody when they miss its heartbeats. So only an heir is asked that lives,
//! answers for this very group and holds nearly everything; what it lacks is waited for first, while new batches wait
//! ([`Group::settled`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{self, StreamExt};
use openraft_rt::WatchReceiver;
use quorate_proto::ids::{GroupId, LogIndex, NodeId, Term};
use thiserror::Error;

use super::group::{Group, Role, Running};
use super::liveness::rank;
use super::node::{Inner, RaftNode};
use super::types::{node_from_raft, node_to_raft};
use crate::env::{Mark, Moment};

/// How long an heir may take to get what it lacks, before anything is given up for it.
const CATCH_UP_MAX: Duration = Duration::from_millis(300);
/// Entries that an heir may lack then: they are on their way, and it waits for them before it stands.
const ON_THE_WAY_MAX: u64 = 64;
/// How long is waited for a follower's progress before it is looked at again.
const LOOK: Duration = Duration::from_millis(2);
/// How long what nodes say of themselves may take to be heard.
const HEARSAY: Duration = Duration::from_millis(50);

/// Why leadership was not handed over.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TransferError {
    /// This node does not lead the group.
    #[error("this node does not lead the partition")]
    NotLeader {
        /// Who does, if known.
        leader: Option<NodeId>,
    },
    /// The node has no vote in the group.
    #[error("node {to} holds no replica of the partition that may vote; choose one of: {}", list(voters))]
    NotAVoter {
        /// Who was to lead.
        to: NodeId,
        /// Who could.
        voters: Vec<NodeId>,
    },
    /// It was not heard for longer than a leader's lease, or its death was proven.
    #[error("node {to} is not alive: see `quorate cluster status`")]
    NotAlive {
        /// Who was to lead.
        to: NodeId,
    },
    /// It lives, and does not answer for its replica: that has not started yet, perhaps.
    #[error(
        "node {to} does not answer for its replica of the partition: wait until it has started, and retry"
    )]
    Absent {
        /// Who was to lead.
        to: NodeId,
    },
    /// It is about to stop, or has hardly any room on its disk.
    #[error("node {to} takes no leadership: it is about to stop, or its disk is nearly full")]
    Unfit {
        /// Who was to lead.
        to: NodeId,
    },
    /// It lacks too much, or gets it too slowly.
    #[error("node {to} is {entries} entries behind: wait until it has caught up, and retry")]
    Behind {
        /// Who was to lead.
        to: NodeId,
        /// How many it lacks.
        entries: u64,
    },
    /// Leadership is being handed over already.
    #[error("leadership is being handed to node {to} at this moment: look who leads, and retry")]
    UnderWay {
        /// To whom.
        to: NodeId,
    },
    /// The heir was asked and did not take over in time. It may yet; this node takes nothing in any more.
    #[error("node {to} has not taken over in time: look who leads")]
    NotTaken {
        /// Who was to lead.
        to: NodeId,
    },
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What came of [`RaftNode::transfer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transferred {
    /// The node leads now.
    Done,
    /// It led already.
    LedAlready,
}

/// A hand-over in progress: a second one is refused, and new batches wait.
struct UnderWay<'a>(&'a Group);

impl<'a> UnderWay<'a> {
    fn begin(group: &'a Group, to: NodeId) -> Result<Self, TransferError> {
        let mut other = None;
        let begun = group.0.transfer.send_if_modified(|known| {
            other = *known;
            known.get_or_insert(to);
            other.is_none()
        });
        match other {
            Some(to) => Err(TransferError::UnderWay { to }),
            None => {
                assert!(begun, "nobody else hands over");
                Ok(Self(group))
            }
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.0.transfer.send_replace(None);
    }
}

impl Group {
    /// Ready at once, unless leadership is being handed over: then once that has ended, one way or the other. For
    /// whoever proposes: until then everything is refused. Bounded by a few election time-outs. Safe to drop.
    pub async fn settled(&self) {
        if self.0.transfer.borrow().is_none() {
            return;
        }
        let mut transfer = self.0.transfer.subscribe();
        while transfer.borrow_and_update().is_some() {
            if transfer.changed().await.is_err() {
                return;
            }
        }
    }

    /// Since when this node leads, in this life; `None` if it does not.
    pub fn leads_since(&self) -> Option<Moment> {
        self.0.tenure().led.map(|(_, since)| since)
    }

    /// Who led last before this node, as far as it has heard in this life.
    pub fn led_before(&self) -> Option<NodeId> {
        self.0.tenure().before
    }

    /// Whether the leader of the term before handed its leadership in `term` to this node because somebody chose it, and
    /// not because that one stops, or is full.
    pub fn was_handed(&self, term: Term) -> bool {
        self.0.handed_in(term) == Some(true)
    }

    /// Whether this node leads in `term`, and is handing that over, or has tried to.
    pub(super) fn is_handing_over(&self, term: Term) -> bool {
        self.0.transfer.borrow().is_some() || self.has_given_up(term)
    }

    /// Whether this node has asked an heir to lead after it in `term`: whatever came of it, it proposes nothing there.
    pub(super) fn has_given_up(&self, term: Term) -> bool {
        self.0.tenure().given_up == Some(term)
    }

    /// The leader of `from` hands its leadership to this node, because somebody chose it or because it must. A request
    /// of long ago may come again.
    pub(super) fn asked_to_take_over(&self, from: Term, chosen: bool) {
        let mut handed = self.0.handed.lock().unwrap_or_else(PoisonError::into_inner);
        *handed = (*handed).max(Some((from, chosen)));
    }

    /// The last index here, and up to which the other members hold this log, as far as this node knows who leads it.
    fn progress(&self) -> (u64, BTreeMap<NodeId, Option<LogIndex>>) {
        let metrics = self.0.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log.as_ref().map_or(0, |last| last.index);
        let held = metrics.replication.iter().flatten();
        let held =
            held.map(|(node, held)| (node_from_raft(*node), held.as_ref().map(|id| LogIndex(id.index))));
        (last, held.collect())
    }

    /// When the last message was sent to `node` that it has answered for this group.
    fn answered(&self, node: NodeId) -> Option<Moment> {
        let metrics = self.0.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let sent = metrics.heartbeat.as_ref()?.get(&node_to_raft(node))?.as_ref()?;
        Some(sent.0)
    }

    /// How many entries `node` lacks.
    fn behind(&self, node: NodeId) -> u64 {
        let (last, held) = self.progress();
        match held.get(&node) {
            Some(Some(held)) => last.saturating_sub(held.0),
            Some(None) | None => last + 1,
        }
    }

    /// Waits until another node leads than this one in `term`, and is known.
    async fn succeeded(&self, term: Term) {
        let mut roles = self.roles();
        loop {
            let role = *roles.borrow_and_update();
            match role {
                Role::Leader { term: known, .. } if known == term => {}
                Role::Follower { leader: None, .. } => {}
                Role::Leader { .. } | Role::Follower { .. } => return,
            }
            if roles.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Running {
    /// Whether leadership in `term` was handed to this node by choice; `None` if it was not handed to it at all.
    pub(super) fn handed_in(&self, term: Term) -> Option<bool> {
        let handed = *self.handed.lock().unwrap_or_else(PoisonError::into_inner);
        handed.filter(|(from, _)| from.0 + 1 == term.0).map(|(_, chosen)| chosen)
    }
}

impl RaftNode {
    /// Hands leadership of a group that this node leads to another one. On return that node leads, and this one knows
    /// it; what was in flight has an outcome on its own. Takes a few round trips; bounded by a few election time-outs.
    /// Dropping the future does not take it back.
    ///
    /// # Errors
    /// [`TransferError::NotTaken`]: perhaps done, later. All others: nothing was done.
    pub async fn transfer(&self, group: GroupId, to: NodeId) -> Result<Transferred, TransferError> {
        let group = self.group(group).ok_or_else(|| TransferError::NotLeader {
            leader: self.leadership(group).map(|known| known.leader),
        })?;
        self.inner().transfer(&group, to).await
    }

    /// Since when the process that `peer` is now is known of, if it is heard and takes leadership of `group`.
    pub fn fit_since(&self, peer: NodeId, group: GroupId) -> Option<Moment> {
        let node = self.inner();
        node.fit(peer, group).ok()?;
        node.liveness().alive_since(peer)
    }

    /// Hands over all that this node leads, each group to the live voter that holds most of it, before the node stops:
    /// nobody has to wait for its death to be proven. From now on it takes no leadership any more. Bounded by
    /// [`RaftConfig::hand_over_ms_max`](super::RaftConfig::hand_over_ms_max); what nobody can take over stays. A second
    /// call does nothing.
    pub async fn hand_over(&self) {
        let node = self.inner();
        if node.set_unfit() {
            return;
        }
        let began = node.env().now();
        // Others that stop at the same moment say so.
        if !node.leads().terms.is_empty() {
            node.env().sleep(HEARSAY).await;
        }
        let groups = node.leads();
        let count = groups.terms.len();
        if count == 0 {
            return;
        }
        let at_once = node.config().transfers_at_once_max;
        let work = stream::iter(groups.terms.keys().copied())
            .for_each_concurrent(at_once, |group| node.give_away(group));
        let most = Duration::from_millis(node.config().hand_over_ms_max);
        let in_time = node.env().timeout(most, work.boxed()).await.is_ok();
        let kept = node.leads().terms.len();
        if kept < count {
            node.env().reached(Mark::HandedOverAtStop);
        }
        let elapsed_ms = node.env().now().since(began).as_millis();
        tracing::info!(
            groups = count,
            kept,
            in_time,
            elapsed_ms,
            "leadership handed over before the node stops"
        );
    }
}

impl Inner {
    /// Whether `node` may be handed leadership of `group`.
    fn fit(&self, node: NodeId, group: GroupId) -> Result<(), TransferError> {
        let since = self.env().now() - Duration::from_millis(self.config().election_timeout_ms_max);
        if !self.liveness().near(since).contains(&node) {
            return Err(TransferError::NotAlive { to: node });
        }
        if self.is_retiring(node, group) {
            return Err(TransferError::Unfit { to: node });
        }
        Ok(())
    }

    /// Whether `node` leads `group` no longer if others can: as it says itself, it is about to stop, or its disk is nearly
    /// full. The metadata group lives on the reserve.
    pub(super) fn is_retiring(&self, node: NodeId, group: GroupId) -> bool {
        let full = group != GroupId::METADATA && self.peers.healths().full(node, self.env().now()).is_some();
        full || self.liveness().is_unfit(node)
    }

    pub(super) async fn transfer(&self, group: &Group, to: NodeId) -> Result<Transferred, TransferError> {
        let term = match group.role() {
            Role::Leader { .. } if to == self.me => return Ok(Transferred::LedAlready),
            Role::Leader { term, .. } => term,
            Role::Follower { leader, .. } => return Err(TransferError::NotLeader { leader }),
        };
        let voters = group.voters();
        if !voters.contains(&to) {
            return Err(TransferError::NotAVoter { to, voters });
        }
        self.fit(to, group.id())?;
        let entries = group.behind(to);
        if entries > self.config().transfer_behind_max {
            return Err(TransferError::Behind { to, entries });
        }
        let env = self.env();
        let under_way = UnderWay::begin(group, to)?;
        let began = env.now();
        group.wake(Mark::WokenByATransfer).await;
        // What is known of it may be old: it has started anew, perhaps, and this group does not run there yet.
        drop(group.0.scope.enter(group.0.raft.trigger().heartbeat()).boxed().await);
        let until = env.now() + CATCH_UP_MAX;
        // Not if another heir did not take over: openraft beats no more.
        let beats = group.0.tenure().given_up != Some(term);
        loop {
            let entries = group.behind(to);
            let answers = !beats || group.answered(to).is_some_and(|sent| sent >= began);
            if entries == 0 && answers {
                break;
            }
            if env.now() >= until {
                if !answers {
                    return Err(TransferError::Absent { to });
                }
                if entries > ON_THE_WAY_MAX {
                    return Err(TransferError::Behind { to, entries });
                }
                break;
            }
            env.sleep(LOOK).await;
        }
        if !matches!(group.role(), Role::Leader { term: now, .. } if now == term) {
            return Err(TransferError::NotLeader { leader: None });
        }
        // From here on openraft takes nothing in.
        group.0.give_up(term);
        let asked =
            group.0.scope.enter(group.0.raft.trigger().transfer_leader(node_to_raft(to))).boxed().await;
        if asked.is_err() {
            // It has stopped, and nobody leads here.
            return Err(TransferError::NotLeader { leader: None });
        }
        // If it was deposed and elected again before openraft came to that, it has given up a later term.
        let then = group.0.raft.with_raft_state(|state| state.vote_ref().leader_id.term);
        if let Ok(then) = group.0.scope.enter(then).boxed().await {
            group.0.give_up(Term(then));
        }
        // The heir waits for what it lacks so long, and then needs two round trips and two syncs.
        let until = env.now() + Duration::from_millis(self.config().election_timeout_ms_min) * 2;
        let taken = loop {
            if env.timeout(HEARSAY, group.succeeded(term)).await.is_ok() {
                break true;
            }
            // One that dies, or stops as well, will not.
            if env.now() >= until || self.fit(to, group.id()).is_err() {
                break false;
            }
        };
        drop(under_way);
        let elapsed_ms = env.now().since(began).as_millis();
        if !taken {
            env.reached(Mark::TransferNotTaken);
            tracing::warn!(group = %group.id(), %term, %to, elapsed_ms, "leadership was not taken over");
            return Err(TransferError::NotTaken { to });
        }
        match group.role() {
            Role::Follower { leader: Some(leader), .. } if leader != to => {
                return Err(TransferError::NotLeader { leader: Some(leader) });
            }
            // The heir stood and lost, and the others chose this node once more.
            Role::Leader { .. } => return Err(TransferError::NotTaken { to }),
            Role::Follower { .. } => {}
        }
        env.reached(Mark::Transferred);
        tracing::info!(group = %group.id(), %term, %to, elapsed_ms, "leadership handed over");
        Ok(Transferred::Done)
    }

    /// Hands a group over to whoever holds most of it; if that one does not take it, to the next.
    async fn give_away(&self, id: GroupId) {
        let mut tried = BTreeSet::new();
        while let Some(group) = self.group(id) {
            let Role::Leader { term, .. } = group.role() else { return };
            let fit =
                |node: &NodeId| !tried.contains(node) && *node != self.me && self.fit(*node, id).is_ok();
            let (_, held) = group.progress();
            let candidates = group.voters().into_iter().filter(fit).collect();
            let Some(heir) = heir(candidates, &held, id, term) else { return };
            match self.transfer(&group, heir).await {
                Ok(_) => return,
                Err(error) => {
                    tracing::debug!(group = %id, %error, "leadership was not handed over");
                    tried.insert(heir);
                }
            }
        }
    }
}

/// Who of `candidates` takes over a group: the one that holds most; among equals each in its turn, so that what one
/// node led does not all go to another.
fn heir(
    candidates: Vec<NodeId>,
    held: &BTreeMap<NodeId, Option<LogIndex>>,
    group: GroupId,
    term: Term,
) -> Option<NodeId> {
    let most = |node: &NodeId| held.get(node).copied().flatten();
    candidates
        .iter()
        .copied()
        .filter(|node| most(node).is_some())
        .min_by_key(|node| (Reverse(most(node)), rank(&candidates, *node, group, term)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heir_holds_most_and_equals_take_turns() {
        let (a, b, c) = (NodeId(1), NodeId(2), NodeId(3));
        let held = |a_at, b_at, c_at| {
            [(a, a_at), (b, b_at), (c, c_at)]
                .map(|(node, at): (NodeId, Option<u64>)| (node, at.map(LogIndex)))
                .into()
        };
        let of = |group, candidates: &[NodeId], held: &BTreeMap<_, _>| {
            heir(candidates.to_vec(), held, GroupId(group), Term(4))
        };
        assert_eq!(of(0, &[a, b, c], &held(Some(5), Some(7), Some(6))), Some(b));
        assert_eq!(of(0, &[a, c], &held(Some(5), Some(7), Some(6))), Some(c), "of those who can");
        assert_eq!(of(0, &[a, b], &held(None, Some(0), None)), Some(b));
        assert_eq!(of(0, &[a], &held(None, None, None)), None, "nothing is known of it");
        assert_eq!(of(0, &[], &held(None, None, None)), None);
        let equal = held(Some(5), Some(5), Some(5));
        let heirs: BTreeSet<_> = (0..3).filter_map(|group| of(group, &[a, b, c], &equal)).collect();
        assert_eq!(heirs, BTreeSet::from([a, b, c]));
    }
}
