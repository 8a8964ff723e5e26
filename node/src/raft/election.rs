//! Elections that do not wait for a timer: of a new group, after a restart, and after a leader's proven death.
//!
//! All of them ask for pre-votes first, so none can depose a leader that a majority hears. The group's timer stays
//! behind them, for what is not seen here.

use std::sync::Weak;
use std::time::Duration;

use futures_util::FutureExt;
use openraft::raft::TransferLeaderRequest;
use quorate_proto::ids::{NodeId, Term};

use super::config::RaftConfig;
use super::group::{Group, Role, Running};
use super::liveness::rank;
use super::node::Inner;
use super::types::RaftVote;
use crate::env::{Mark, Moment, Point};

/// A node id that is no member's: an election "handed" to it sets the dead leader's lease aside, and no more.
/// Addressed to this node itself, the same request would force a vote past a leader that lives.
const NOBODY: u64 = 0;

/// Least and most time between two attempts.
const RETRY_MS: (u64, u64) = (40, 80);

/// A candidate's votes must reach disks: it is left alone for so long.
const CANDIDATE: Duration = Duration::from_millis(300);

/// Brings a group that has just started to its first leader, then hands over to its timer. `place`: which of
/// the members this node is, if the group is new.
///
/// The timer is off until the peers have answered, or a short time has passed: a follower that starts with it on
/// may stand before it has heard the leader.
pub(super) async fn begin(node: Weak<Inner>, group: Weak<Running>, place: Option<usize>) {
    let Some((config, start, me)) =
        node.upgrade().map(|node| (node.config().clone(), node.env().now(), node.me))
    else {
        return;
    };
    let patience = Duration::from_millis(config.election_timeout_ms_min);
    if let Some(place) = place {
        // The first is tried first; the others stand in for it if nothing comes of that.
        let turn = start + patience * u32::try_from(place).unwrap_or(u32::MAX);
        wait(&node, turn, |_| group.upgrade().is_none_or(|group| has_leader(&Group(group)))).await;
        if group.upgrade().is_some_and(|group| !has_leader(&Group(group))) {
            // The others may still be on their way to start the group.
            stand(&group, None, 0, turn + patience * 4, &config).await;
        }
    } else {
        let Some(voters) = group.upgrade().map(|group| Group(group).voters()) else { return };
        let answered =
            |node: &Inner| voters.iter().all(|voter| *voter == me || node.heard_since(*voter, start));
        let hasty = node.upgrade().is_some_and(|node| node.env().perturb(Point::ElectionUnheard));
        if !hasty {
            wait(&node, start + patience, answered).await;
        }
        // Somebody may lead by the very vote that this node remembers.
        let led = node.upgrade().zip(group.upgrade()).is_none_or(|(node, group)| node.is_led(group.id));
        if !led {
            let delay_ms = place_of(&group, None) * config.failover_rank_ms;
            stand(&group, None, delay_ms, start + patience * 4, &config).await;
        }
    }
    if let Some(group) = group.upgrade() {
        group.timer.start(group.env.now());
    }
}

/// Replaces a leader whose death was proven. `dead_vote` is the one it led by. While this goes on, a further proof
/// prolongs it.
pub(super) async fn replace(group: Weak<Running>, dead_vote: RaftVote, dead: NodeId, config: RaftConfig) {
    let Some(until) = group.upgrade().map(|group| group.env.now()) else { return };
    let until = until + Duration::from_millis(config.election_timeout_ms_max) * 2;
    let Some(_replacing) = Replacing::begin(&group, dead_vote, until) else { return };
    if let Some(group) = group.upgrade() {
        set_lease_aside(&group, dead_vote).await;
    }
    let place = place_of(&group, Some(dead));
    stand(&group, Some(dead_vote), place * config.failover_rank_ms, until, &config).await;
    if let Some(group) = group.upgrade().map(Group)
        && matches!(group.role(), Role::Leader { .. })
    {
        group.0.env.reached(Mark::ElectionAfterAProvenDeath);
    }
}

/// The one attempt of a group to replace a leader, until it is dropped.
pub(super) struct Replacing {
    group: Weak<Running>,
    dead_vote: RaftVote,
}

impl Replacing {
    /// `None` if the leader of this vote is being replaced already: then until then at least.
    pub(super) fn begin(group: &Weak<Running>, dead_vote: RaftVote, until: Moment) -> Option<Self> {
        let running = group.upgrade()?;
        let before = running.replacing().replace((dead_vote, until));
        before.is_none_or(|(vote, _)| vote != dead_vote).then(|| Self { group: group.clone(), dead_vote })
    }
}

impl Drop for Replacing {
    fn drop(&mut self) {
        if let Some(group) = self.group.upgrade() {
            let mine = |(vote, _): &mut (RaftVote, Moment)| *vote == self.dead_vote;
            group.replacing().take_if(mine);
        }
    }
}

/// Until this, the lease of a dead leader stands in the way of every vote here. Does nothing if another vote is held.
async fn set_lease_aside(group: &Running, dead_vote: RaftVote) {
    let request = TransferLeaderRequest::new(dead_vote, NOBODY, None);
    if let Err(error) = group.raft.handle_transfer_leader(request).boxed().await {
        tracing::warn!(group = %group.id, %error, "lease of a dead leader was not set aside");
    }
}

/// This node's place among those who may stand.
fn place_of(group: &Weak<Running>, dead: Option<NodeId>) -> u64 {
    let Some(group) = group.upgrade().map(Group) else { return 0 };
    let survivors: Vec<_> = group.voters().into_iter().filter(|voter| Some(*voter) != dead).collect();
    rank(&survivors, group.0.me, group.id(), Term(group.vote().leader_id.term))
}

/// Waits until `done`, at most until `until`.
async fn wait(node: &Weak<Inner>, until: Moment, done: impl Fn(&Inner) -> bool) {
    loop {
        let pause = match node.upgrade() {
            Some(node) if !done(&node) && node.env().now() < until => {
                node.env().sleep(Duration::from_millis(10))
            }
            Some(_) | None => return,
        };
        pause.await;
    }
}

fn has_leader(group: &Group) -> bool {
    let vote = group.vote();
    // Nobody leads in term 0, in which a new group begins.
    vote.committed && vote.leader_id.term > 0
}

/// Stands for election after `delay_ms`, again and again until somebody leads by another vote than `dead_vote`, or
/// the time is up.
async fn stand(
    group: &Weak<Running>,
    dead_vote: Option<RaftVote>,
    delay_ms: u64,
    until: Moment,
    config: &RaftConfig,
) {
    let Some((env, elections)) = group.upgrade().map(|group| (group.env.clone(), group.elections.clone()))
    else {
        return;
    };
    let rank = if env.perturb(Point::ElectionEarly) { 0 } else { delay_ms };
    env.sleep(Duration::from_millis(rank)).await;
    env.dawdle(Point::ElectionLate, Duration::from_millis(config.election_timeout_ms_max)).await;
    let before = dead_vote.or_else(|| group.upgrade().map(|group| Group(group).vote()));
    let mut seen: Option<(RaftVote, Moment)> = None;
    loop {
        // Where a node has died that led much, some groups stand after the others.
        let turn = elections.clone().acquire_owned().await.ok();
        let now = env.now();
        let Some(running) = group.upgrade().map(Group) else { return };
        let vote = running.vote();
        let led = match running.role() {
            Role::Leader { .. } => true,
            Role::Follower { .. } => vote.committed && Some(vote) != before && vote.leader_id.term > 0,
        };
        let prolonged = running.0.replacing().filter(|(vote, _)| Some(*vote) == dead_vote);
        if led || now >= prolonged.map_or(until, |(_, until)| until) {
            return;
        }
        // It may have caught up, or been mended, by the next look.
        let fit = running.fitness().stands;
        // Somebody stands, perhaps this node: its votes are on their way to disks.
        let candidate = !vote.committed && Some(vote) != before && vote.leader_id.voted_for != NOBODY;
        let since = match seen {
            Some((known, since)) if known == vote => since,
            Some(_) | None => now,
        };
        seen = Some((vote, since));
        if fit && (!candidate || now >= since + CANDIDATE || env.perturb(Point::CandidateImpatient)) {
            // What the dead leader sent before it died is still on its way through queues, and renews its lease.
            if let Some(dead_vote) = dead_vote {
                set_lease_aside(&running.0, dead_vote).await;
            }
            let alone = running.voters() == [running.0.me];
            if running.0.raft.trigger().elect(!alone).boxed().await.is_err() {
                return;
            }
            // While a vote is on its way to a slow disk nothing is done about the next one: else hundreds queue up, and
            // all of them are asked for at once.
            if running.0.raft.with_raft_state(|_| ()).boxed().await.is_err() {
                return;
            }
            if candidate {
                seen = None;
            }
        }
        drop(running);
        let (least, most) = RETRY_MS;
        let pause = least + env.random_below(most - least);
        env.sleep(Duration::from_millis(pause.min(config.election_timeout_ms_min))).await;
        drop(turn);
    }
}
