//! Leadership goes back to the preferred leaders, slowly: the first replica of each partition leads it as long as it can,
//! so that a restart does not leave all work on the other nodes.
//!
//! Each node looks at what it leads itself. What another one has handed over while the preferred leader was there all
//! along was chosen by somebody, and stays until the preferred leader's node starts anew. A preferred leader that lives
//! and was replaced all the same is not well: else the two would take turns.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use quorate_proto::ids::{GroupId, NodeId};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::config::PartitionConfig;
use crate::env::{Env, Mark, Moment};
use crate::metadata::Metadata;
use crate::raft::{RaftNode, Role, TransferError, Transferred};

/// A preferred leader that did not take over, or was missed by the others although it lived, is left alone for so long:
/// each try costs the partition a second or two without a leader.
const CONVALESCENCE: Duration = Duration::from_secs(300);

/// What balances a node's leaders.
pub(super) struct Balance {
    pub(super) env: Env,
    pub(super) raft: RaftNode,
    pub(super) config: Arc<PartitionConfig>,
    pub(super) me: NodeId,
    pub(super) metadata: watch::Receiver<Arc<Metadata>>,
    /// Who has not taken over, and when that was seen last.
    pub(super) failed: Mutex<BTreeMap<NodeId, Moment>>,
}

/// A partition that this node leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Led {
    /// In this life.
    since: Moment,
    /// By somebody's choice: the leader before handed it over and did not stop.
    handed: bool,
    /// Who led before.
    before: Option<NodeId>,
}

impl Balance {
    /// Looks again and again, for ever; not at all if it is turned off.
    pub(super) async fn run(self) {
        if self.config.balance_ms == 0 {
            return;
        }
        loop {
            self.env.sleep(Duration::from_millis(self.config.balance_ms)).await;
            let due = self.due();
            stream::iter(due)
                .for_each_concurrent(self.config.balance_at_once_max, |(group, to)| self.give_back(group, to))
                .await;
        }
    }

    /// What is to be given back to whom.
    fn due(&self) -> Vec<(GroupId, NodeId)> {
        let metadata = Arc::clone(&self.metadata.borrow());
        let (now, delay) = (self.env.now(), Duration::from_millis(self.config.balance_delay_ms));
        let mut due = Vec::new();
        for partition in metadata.topics.values().flat_map(|topic| &topic.partitions) {
            let Some(preferred) = partition.replicas.first().copied().filter(|node| *node != self.me) else {
                continue;
            };
            let Some(led) = self.led(partition.group) else { continue };
            let fit_since = self.raft.fit_since(preferred, partition.group);
            if is_due(led, (preferred, fit_since), now, delay) && !self.ails(preferred, fit_since) {
                due.push((partition.group, preferred));
            }
        }
        due
    }

    /// Whether a node, which may lead since then, if it may, has lately not taken over. A new process has another chance.
    fn ails(&self, node: NodeId, fit_since: Option<Moment>) -> bool {
        let failed = self.failed().get(&node).copied();
        failed.is_some_and(|at| {
            self.env.now() < at + CONVALESCENCE && fit_since.is_none_or(|since| since <= at)
        })
    }

    fn failed(&self) -> MutexGuard<'_, BTreeMap<NodeId, Moment>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn led(&self, group: GroupId) -> Option<Led> {
        let group = self.raft.group(group)?;
        let Role::Leader { term, ready: true } = group.role() else { return None };
        Some(Led { since: group.leads_since()?, handed: group.was_handed(term), before: group.led_before() })
    }

    async fn give_back(&self, group: GroupId, to: NodeId) {
        // Another partition may have waited for it in vain since the look.
        if self.ails(to, self.raft.fit_since(to, group)) {
            return;
        }
        match self.raft.transfer(group, to).await {
            Ok(Transferred::Done) => {
                self.env.reached(Mark::GivenBack);
                info!(%group, %to, "leadership given back to the preferred leader");
            }
            Ok(Transferred::LedAlready) => {}
            Err(error @ TransferError::NotTaken { .. }) => {
                warn!(%group, %to, %error, "leadership was not given back");
                self.failed().insert(to, self.env.now());
            }
            // The next look finds it again, if it must be.
            Err(error) => debug!(%group, %to, %error, "leadership was not given back"),
        }
    }
}

/// Whether the preferred leader, which may lead since then, if it may, is to have its partition back.
fn is_due(led: Led, (preferred, fit_since): (NodeId, Option<Moment>), now: Moment, delay: Duration) -> bool {
    let Some(since) = fit_since else { return false };
    if now < since + delay {
        return false;
    }
    // It was there when this node took over.
    let was_there = led.since >= since;
    if was_there && led.handed {
        return false;
    }
    !was_there || led.before != Some(preferred) || now >= led.since + CONVALESCENCE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    #[test]
    fn what_was_taken_over_from_an_absent_node_goes_back_after_a_while() {
        let delay = Duration::from_secs(20);
        let (preferred, other) = (NodeId(1), NodeId(2));
        let check = |(handed, since, before), fit_since: Option<u64>, now, due| {
            let led = Led { since: at(since), handed, before };
            let due_now = is_due(led, (preferred, fit_since.map(at)), at(now), delay);
            assert_eq!(due_now, due, "{led:?} {fit_since:?} {now}");
        };
        // The preferred leader stopped or died, and came back at 30.
        let stopped = (false, 10, Some(preferred));
        check(stopped, Some(30), 49, false);
        check(stopped, Some(30), 50, true);
        check(stopped, None, 50, false);
        // It was not the first to be there when the group was new, or another one was replaced.
        for before in [None, Some(other)] {
            check((false, 10, before), Some(0), 19, false);
            check((false, 10, before), Some(0), 20, true);
        }
        // Handed over by hand while it was there; and by hand before it started anew.
        check((true, 40, Some(preferred)), Some(30), 900, false);
        check((true, 10, Some(preferred)), Some(30), 50, true);
        // It came back, and then whoever led meanwhile stopped as well, and handed over.
        check((false, 35, Some(other)), Some(30), 49, false);
        check((false, 35, Some(other)), Some(30), 50, true);
        // It was missed although it lived.
        check((false, 40, Some(preferred)), Some(0), 339, false);
        check((false, 40, Some(preferred)), Some(0), 340, true);
    }
}
