//! What openraft says of itself, as roles; and who leads each group, as it changes.

use std::sync::Weak;
use std::time::Duration;

use openraft::ServerState;
use openraft_rt::WatchReceiver;
use quorate_proto::ids::{GroupId, NodeId, Term};
use tokio::sync::watch;

use super::Inner;
use crate::env::{Mark, Point};
use crate::raft::group::{Role, Running, role_of};
use crate::raft::liveness::Leadership;
use crate::storage::LogId;

/// How late a role may be noticed, where a [`Point`] makes it so.
const ROLE_LATE_MAX: Duration = Duration::from_millis(50);

impl Inner {
    /// This node's role in one of its groups is `role` now.
    fn role_changed(&self, group: GroupId, role: Role) {
        self.leads.changed();
        let news = match role {
            Role::Leader { term, .. } => {
                let news = self.liveness().leads(group, Leadership { leader: self.me, term });
                if news {
                    self.beat_now.notify_one();
                }
                news
            }
            Role::Follower { leader, term } => {
                self.ledger.lock().leads_not(group);
                let mut liveness = self.liveness();
                let mut news = liveness.leads_not(group, self.me, term);
                // What a vote of before a restart says is no news of a leader.
                let recent = self.env.now() - Duration::from_millis(self.config.election_timeout_ms_max);
                if let Some(leader) =
                    leader.filter(|leader| *leader != self.me && liveness.heard_since(*leader, recent))
                {
                    news |= liveness.leads(group, Leadership { leader, term });
                }
                news
            }
        };
        if news {
            self.changed();
        }
    }

    pub(super) fn leads_not(&self, group: GroupId, node: NodeId, term: Term) {
        if node == self.me {
            // It has stopped here.
            self.ledger.lock().forget(group);
        }
        if self.liveness().leads_not(group, node, term) {
            self.changed();
        }
    }

    pub(in crate::raft) fn is_led(&self, group: GroupId) -> bool {
        self.liveness().leadership(group).is_some()
    }

    pub(super) fn changed(&self) {
        self.leaders_changed.send_modify(|version| *version += 1);
    }
}

/// Turns what openraft says of itself into roles.
pub(super) async fn watch_role(
    weak: Weak<Inner>,
    group: Weak<Running>,
    mut applied: watch::Receiver<Option<LogId>>,
) {
    let Some((mut metrics, env)) =
        group.upgrade().map(|group| (group.raft.server_metrics(), group.env.clone()))
    else {
        return;
    };
    let mut was = ServerState::Follower;
    loop {
        env.dawdle(Point::RoleLate, ROLE_LATE_MAX).await;
        let (Some(node), Some(running)) = (weak.upgrade(), group.upgrade()) else { return };
        let last = *applied.borrow_and_update();
        let (role, state) = {
            let metrics = metrics.borrow_and_update();
            (role_of(&metrics, last, running.me), metrics.state)
        };
        match (std::mem::replace(&mut was, state), state) {
            (ServerState::Candidate | ServerState::Follower, ServerState::Leader) => {
                env.reached(Mark::ElectionWon);
                env.metrics.elections_won.add(1);
            }
            (ServerState::Candidate, ServerState::Follower) => env.reached(Mark::ElectionLost),
            (ServerState::Leader, ServerState::Follower | ServerState::Candidate) => {
                env.reached(Mark::LeaderDeposed);
                env.metrics.leaderships_lost.add(1);
            }
            _ => {}
        }
        let mut before = role;
        let changed = running.roles.send_if_modified(|known| {
            before = std::mem::replace(known, role);
            before != role
        });
        if changed {
            running.note_role(role);
            running.tell(before, role);
            node.role_changed(running.id, role);
        }
        let id = running.id;
        drop((node, running));
        let waits = matches!(role, Role::Leader { ready: false, .. });
        let alive = tokio::select! {
            biased;
            changed = metrics.changed() => changed.is_ok(),
            changed = applied.changed(), if waits => changed.is_ok(),
        };
        if !alive {
            // openraft's own end closes its metrics; a group that is stopped does not get here.
            // Nor does one whose start was given up: nobody has it any more.
            let Some(running) = group.upgrade() else { return };
            running.lost();
            if let Some(node) = weak.upgrade() {
                node.leads.changed();
                node.group_failed(id);
            }
            return;
        }
    }
}
