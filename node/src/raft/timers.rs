//! Heartbeats and election time-outs of all groups, by one timer of the node.
//!
//! openraft's own ticks stay off: each would wake its group fifty times a second, idle or not, and heartbeats that
//! are due at different times cannot share a message. What its ticks do is done here by the same rules: a leader
//! beats, and a voter that has not heard one for the lease and a random time more asks for pre-votes.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use openraft::ServerState;
use openraft_rt::WatchReceiver;
use quorate_proto::ids::NodeId;

use super::group::{Group, GroupRaft, Running};
use super::node::Inner;
use super::turns::Turns;
use super::types::RaftVote;
use crate::env::{Env, Mark, Moment};

/// When a group on this node stands for election, if it hears nobody. Off until [`ElectionTimer::start`].
#[derive(Debug, Default)]
pub(super) struct ElectionTimer(Mutex<Option<Waiting>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Waiting {
    /// The vote that is held, and since when as far as is known here.
    vote: Option<RaftVote>,
    /// The leader was heard, or the vote was given, or the timer was started.
    heard: Moment,
    /// Drawn anew for each wait: two nodes seldom stand at once (Raft §5.2).
    timeout: Duration,
    /// An attempt needs its time before the next.
    not_before: Moment,
    /// An attempt has not reached openraft yet: it is busy, perhaps with a slow disk.
    standing: bool,
}

/// What a look at an [`ElectionTimer`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// Nothing is to be done, before this moment if there is one.
    Later(Option<Moment>),
    /// To stand for election; [`ElectionTimer::stood`] is to be called when that is done.
    Now,
}

impl ElectionTimer {
    fn lock(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the leader is waited for.
    pub(super) fn is_started(&self) -> bool {
        self.lock().is_some()
    }

    /// The leader may be waited for from now on.
    pub(super) fn start(&self, now: Moment) {
        let waiting =
            Waiting { vote: None, heard: now, timeout: Duration::ZERO, not_before: now, standing: false };
        self.lock().get_or_insert(waiting);
    }

    /// A message came from the leader, or from one that is newer than what is known here.
    pub(super) fn heard(&self, now: Moment) {
        if let Some(waiting) = &mut *self.lock() {
            waiting.heard = waiting.heard.max(now);
        }
    }

    /// To be asked again whenever [`Due::Later`] says so, and after the vote has changed. `draw` gives a time-out.
    fn due(&self, now: Moment, vote: RaftVote, lease: Duration, draw: impl Fn() -> Duration) -> Due {
        let mut waiting = self.lock();
        let Some(waiting) = &mut *waiting else { return Due::Later(None) };
        if waiting.vote != Some(vote) {
            (waiting.vote, waiting.heard, waiting.timeout) = (Some(vote), now, draw());
            waiting.not_before = now;
        }
        if waiting.standing {
            return Due::Later(None);
        }
        // As long as a leader's lease lives, no voter would vote for another.
        let lease = if vote.committed { lease } else { Duration::ZERO };
        let at = (waiting.heard + lease + waiting.timeout).max(waiting.not_before);
        if now < at {
            return Due::Later(Some(at));
        }
        waiting.timeout = draw();
        waiting.not_before = now + waiting.timeout;
        waiting.standing = true;
        Due::Now
    }

    /// An attempt has reached openraft.
    fn stood(&self) {
        if let Some(waiting) = &mut *self.lock() {
            waiting.standing = false;
        }
    }
}

/// Beats where this node leads, and stands for election where nobody is heard, until the node is gone.
pub(super) async fn run(env: Env, node: Weak<Inner>) {
    let (mut beat, mut turn) = (env.now(), 0_usize);
    let mut turns = Turns::default();
    let mut heard = BTreeSet::new();
    loop {
        let wake = {
            let Some(node) = node.upgrade() else { return };
            let now = env.now();
            let beats = now >= beat;
            if beats {
                beat = node.next_tick(Duration::from_millis(node.config().heartbeat_ms));
            }
            let mut same = true;
            if beats {
                turn = turn.wrapping_add(1);
                let lately = node.heard_lately(now);
                same = lately == std::mem::replace(&mut heard, lately.clone());
            }
            let beating = beats.then_some(&heard);
            // Others are heard than before: who waits for them, or no more, is seen with all.
            let due = if same { turns.due(&node, now, beats.then_some(turn)) } else { node.running() };
            let looks = due.into_iter().filter_map(|group| look(&node, &group, now, beating));
            looks.fold(beat, Moment::min)
        };
        env.clock.sleep_until(wake).await;
    }
}

/// Does for one group what is due, and says when to come back, if before the next heartbeat. `beating`: who is heard,
/// if a heartbeat is due.
fn look(node: &Inner, group: &Group, now: Moment, beating: Option<&BTreeSet<NodeId>>) -> Option<Moment> {
    let config = node.config();
    let (vote, state) = {
        let metrics = group.0.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        (metrics.vote, metrics.state)
    };
    if state == ServerState::Leader {
        if beating.is_some_and(|heard| !node.rests(group, heard, now)) {
            queue(group.0.scope.enter(group.0.raft.trigger().heartbeat()));
        }
        return None;
    }
    if !group.fitness().stands {
        return None;
    }
    if let Some(kept) = node.kept_quiet(group, &vote) {
        group.0.timer.heard(kept);
    }
    let draw = || {
        let (least, most) = (config.election_timeout_ms_min, config.election_timeout_ms_max);
        Duration::from_millis(least + group.0.env.random_below(most - least))
    };
    let lease = Duration::from_millis(config.election_timeout_ms_max);
    match group.0.timer.due(now, vote, lease, draw) {
        Due::Later(at) => at,
        // It is about to stop: others are better leaders.
        Due::Now if node.is_unfit() => {
            group.0.timer.stood();
            None
        }
        Due::Now => {
            if group.stirred() {
                node.env().reached(Mark::WokenByLostContact);
            }
            group.0.scope.start(stand(
                group.downgrade(),
                group.0.raft.clone(),
                group.voters() == [group.0.me],
            ));
            None
        }
    }
}

/// Queues a command to openraft. Where its queue is full it has been without time for long, and the next will do.
fn queue<T>(command: impl Future<Output = T>) {
    // A node may lead more groups than tokio lets a task do operations at a time.
    drop(tokio::task::unconstrained(command).now_or_never());
}

async fn stand(group: Weak<Running>, raft: GroupRaft, alone: bool) {
    // A learner, or one whose leader's lease lives after all, does nothing.
    let asked = raft.trigger().elect(!alone).boxed().await;
    if asked.is_ok()
        && raft.with_raft_state(|_| ()).boxed().await.is_ok()
        && let Some(group) = group.upgrade()
    {
        group.timer.stood();
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::ids::Term;

    use super::*;
    use crate::raft::types::vote_from_store;
    use crate::storage::HardVote;

    const LEASE: Duration = Duration::from_millis(700);
    const TIMEOUT: Duration = Duration::from_millis(500);

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    fn vote(term: u64, committed: bool) -> RaftVote {
        vote_from_store(HardVote { term: Term(term), node: 2, committed })
    }

    fn due(timer: &ElectionTimer, now: u64, vote: RaftVote) -> Due {
        timer.due(at(now), vote, LEASE, || TIMEOUT)
    }

    fn started() -> ElectionTimer {
        let timer = ElectionTimer::default();
        timer.start(at(0));
        timer
    }

    #[test]
    fn a_timer_that_was_not_started_is_never_due() {
        let timer = ElectionTimer::default();
        timer.heard(at(1));
        assert_eq!(due(&timer, 100_000, vote(1, true)), Due::Later(None));
    }

    #[test]
    fn a_leader_is_missed_after_its_lease_and_a_timeout() {
        let timer = started();
        assert_eq!(due(&timer, 0, vote(1, true)), Due::Later(Some(at(1_200))));
        timer.heard(at(300));
        timer.heard(at(200));
        assert_eq!(due(&timer, 1_200, vote(1, true)), Due::Later(Some(at(1_500))));
        assert_eq!(due(&timer, 1_500, vote(1, true)), Due::Now);
    }

    #[test]
    fn a_candidate_that_does_not_come_to_lead_is_waited_for_without_a_lease() {
        let timer = started();
        assert_eq!(due(&timer, 100, vote(2, false)), Due::Later(Some(at(600))));
        assert_eq!(due(&timer, 600, vote(2, false)), Due::Now);
    }

    #[test]
    fn another_vote_begins_the_wait_anew() {
        let timer = started();
        due(&timer, 0, vote(1, true));
        assert_eq!(due(&timer, 1_100, vote(2, false)), Due::Later(Some(at(1_600))));
        assert_eq!(due(&timer, 1_200, vote(2, true)), Due::Later(Some(at(2_400))));
    }

    #[test]
    fn attempts_follow_each_other_after_a_timeout_and_never_while_one_waits_for_a_disk() {
        let timer = started();
        due(&timer, 0, vote(1, true));
        assert_eq!(due(&timer, 1_200, vote(1, true)), Due::Now);
        assert_eq!(due(&timer, 9_000, vote(1, true)), Due::Later(None));
        timer.stood();
        assert_eq!(due(&timer, 9_000, vote(1, true)), Due::Now);
        timer.stood();
        assert_eq!(due(&timer, 9_001, vote(1, true)), Due::Later(Some(at(9_500))));
    }
}
