//! When faults strike, and that they end.

mod damage;
mod kinds;
mod mends;
mod phases;
mod shapes;
mod strike;
mod swarm;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_proto::ids::NodeId;

use crate::cluster::{Cluster, Start};
use crate::dice::Dice;
use crate::env::clock;
pub use kinds::{ALL as KINDS, Kind};
use mends::Mend;
pub use phases::play;
pub use swarm::Plan;

/// After the last fault, what it did shows within this time.
const SETTLE: Duration = Duration::from_secs(2);

/// Strikes.
pub struct Nemesis {
    plan: Plan,
    dice: Dice,
    /// What is to be mended when.
    mends: Vec<(Duration, Mend)>,
    /// How often a node that falls is to fall again.
    loops: BTreeMap<NodeId, u64>,
    /// Nodes that nothing is done to any more: one that falls, because of what was done before, starts again at once.
    whole: BTreeSet<NodeId>,
}

impl Nemesis {
    /// One that follows `plan`.
    pub fn new(plan: Plan, dice: Dice) -> Self {
        Self { plan, dice, mends: Vec::new(), loops: BTreeMap::new(), whole: BTreeSet::new() }
    }

    /// Strikes until `end`, then mends everything: every link whole, every node started.
    pub async fn rage(&mut self, cluster: &mut Cluster, end: Duration) {
        self.spoil(cluster);
        self.strike_until(cluster, end).await;
        self.mend_all(cluster).await;
    }

    /// Strikes until `end`, and mends what is due by then.
    async fn strike_until(&mut self, cluster: &mut Cluster, end: Duration) {
        let mut next = clock::now() + self.pause();
        loop {
            self.wait(cluster, next.min(end)).await;
            let now = clock::now();
            if now >= end {
                return;
            }
            if now >= next {
                self.strike(cluster).await;
                next = clock::now() + self.pause();
            }
        }
    }

    /// Waits until `end`, and mends what is due by then.
    async fn wait(&mut self, cluster: &mut Cluster, end: Duration) {
        loop {
            let wake = self.mends.iter().map(|(at, _)| *at).min().map_or(end, |at| at.min(end));
            tokio::select! {
                biased;
                fallen = cluster.fallen() => {
                    self.fell(cluster, fallen);
                    continue;
                }
                () = clock::sleep(wake.saturating_sub(clock::now())) => {}
            }
            let now = clock::now();
            self.mends.sort_by_key(|(at, _)| *at);
            while self.mends.first().is_some_and(|(at, _)| *at <= now) {
                let (_, mend) = self.mends.remove(0);
                self.mend(cluster, mend).await;
            }
            if now >= end {
                return;
            }
        }
    }

    /// A node is down of which it was not known when it would be: it is started after a while.
    fn fell(&mut self, cluster: &Cluster, node: NodeId) {
        if cluster.is_stranger(node) {
            // It was refused; its own disk comes back when that is due.
            return;
        }
        cluster.mark_down(node);
        if self.whole.contains(&node) {
            self.mends.push((clock::now(), Mend::Start(node, Start::default())));
            return;
        }
        let again = self.loops.get_mut(&node).filter(|again| **again > 0);
        let (time, start) = match again {
            Some(again) => {
                *again -= 1;
                let cut_after = Some(self.dice.between(1, 40));
                let time = self.dice.time(Duration::from_millis(10), Duration::from_millis(300));
                (time, Start { cut_after, ..Start::default() })
            }
            None => (self.time(), self.draw_start()),
        };
        self.mends.push((clock::now() + time, Mend::Start(node, start)));
    }

    /// How a node starts that was down.
    fn draw_start(&mut self) -> Start {
        let cut = self.dice.chance(self.plan.cut_in_recovery_per_mille);
        Start {
            cut_after: cut.then(|| self.dice.between(1, 40)),
            an_hour_back: self.dice.chance(self.plan.hour_back_per_mille),
            ..Start::default()
        }
    }

    fn pause(&mut self) -> Duration {
        self.dice.time(Duration::from_millis(50), self.plan.pause_max)
    }

    fn time(&mut self) -> Duration {
        self.dice.time(Duration::from_millis(20), self.plan.fault_max)
    }
}
