//! What an operator should look at, in words, what matters most first. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_proto::ids::NodeId;

use crate::env::metrics::Lag;
use crate::raft::NodeHealth;

/// Replicas that lack records for less are catching up.
const LAG_MIN: Duration = Duration::from_secs(10);
/// Partitions that are named.
const NAMED_MAX: usize = 5;

/// What was seen of the cluster.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Who answers.
    pub(super) me: NodeId,
    /// How many nodes vote on what all of them must know.
    pub(super) nodes: usize,
    /// Those that do not.
    pub(super) learners: BTreeSet<NodeId>,
    /// Those that are not alive, and for how long they were not heard; `None`: not since this node started.
    pub(super) silent: BTreeMap<NodeId, Option<Duration>>,
    /// What the nodes say of their disks.
    pub(super) healths: BTreeMap<NodeId, NodeHealth>,
    /// Partitions without a leader, by topic and number.
    pub(super) leaderless: Vec<String>,
    /// Partitions with a replica on a node that is not alive.
    pub(super) under_replicated: u32,
    /// How far peers are behind, of what this node leads.
    pub(super) lags: BTreeMap<NodeId, Lag>,
    /// Who was refused lately, and why.
    pub(super) refused: BTreeMap<NodeId, String>,
}

impl Seen {
    /// A sentence for each thing to look at; none if all is well.
    pub(super) fn attention(&self) -> Vec<String> {
        let mut said = Vec::new();
        let silent = self.silent.keys().filter(|node| !self.learners.contains(node)).count();
        let alive = self.nodes.saturating_sub(silent);
        if self.nodes > 0 && alive <= self.nodes / 2 {
            said.push(format!(
                "no majority: {alive} of {} nodes alive, as node {} sees it, and {} are needed: nothing can be written, \
                 and who is said to lead is who did so last",
                self.nodes,
                self.me,
                self.nodes / 2 + 1
            ));
        }
        if !self.leaderless.is_empty() {
            let named = self.leaderless.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
            let more = if self.leaderless.len() > NAMED_MAX { ", ..." } else { "" };
            said.push(format!(
                "{} without a leader ({named}{more}): if it stays so, see whether a majority of their nodes runs",
                count(self.leaderless.len(), "partition")
            ));
        }
        for (node, silence) in &self.silent {
            let since = match silence {
                Some(time) => format!("not heard for {}", words(*time)),
                None => format!("not heard since node {} started", self.me),
            };
            said.push(format!(
                "node {node} is down, or cut off: {since}; see whether its process runs, and its log"
            ));
        }
        for (node, health) in &self.healths {
            if health.room.is_full {
                said.push(health.room.refusal(*node));
            }
        }
        for (node, health) in &self.healths {
            let left = health.damaged_entries.saturating_sub(health.repaired_entries);
            if left > 0 {
                said.push(format!(
                    "damage on the disk of node {node}: {left} of {} damaged entries are not mended yet; if it stays so, \
                     see its log, and whether the other replicas are there",
                    health.damaged_entries
                ));
            }
        }
        for (node, health) in self.healths.iter().filter(|(_, health)| health.replicas_lost > 0) {
            said.push(format!(
                "node {node} has lost the end of {}, and does not vote in them before it has caught up: stop no other \
                 node until then",
                count(usize::try_from(health.replicas_lost).unwrap_or(usize::MAX), "log")
            ));
        }
        for (node, lag) in self.lags.iter().filter(|(_, lag)| lag.time >= LAG_MIN) {
            said.push(format!(
                "node {node} is behind: {} there lack {} of what node {} leads, the oldest for {}",
                count(usize::try_from(lag.replicas).unwrap_or(usize::MAX), "replica"),
                count(usize::try_from(lag.records).unwrap_or(usize::MAX), "record"),
                self.me,
                words(lag.time)
            ));
        }
        if self.under_replicated > 0 {
            let partitions = usize::try_from(self.under_replicated).unwrap_or(usize::MAX);
            said.push(format!("{} with a replica on a node that is down", count(partitions, "partition")));
        }
        for (node, reason) in &self.refused {
            said.push(format!("node {node} asks to take part and is refused: {reason}"));
        }
        said
    }
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// A time as people say it: rounded down.
fn words(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::DiskRoom;

    fn health(is_full: bool, damaged_entries: u64, repaired_entries: u64) -> NodeHealth {
        let room = DiskRoom { free_bytes: 1_200_000_000, reserve_bytes: 2_000_000_000, is_full };
        NodeHealth { room, damaged_entries, repaired_entries, replicas_lost: 0 }
    }

    #[test]
    fn nothing_is_said_when_all_is_well() {
        let lag = Lag { replicas: 1, records: 9, time: Duration::from_secs(9) };
        let seen = Seen {
            me: NodeId(1),
            nodes: 3,
            healths: BTreeMap::from([(NodeId(1), health(false, 0, 0)), (NodeId(2), health(false, 4, 4))]),
            lags: BTreeMap::from([(NodeId(3), lag)]),
            ..Seen::default()
        };
        assert_eq!(seen.attention(), Vec::<String>::new());
    }

    #[test]
    fn what_matters_most_comes_first() {
        let hurt = NodeHealth { replicas_lost: 2, ..health(false, 5, 3) };
        let lag = Lag { replicas: 2, records: 9_000, time: Duration::from_secs(125) };
        let seen = Seen {
            me: NodeId(1),
            nodes: 4,
            learners: BTreeSet::new(),
            silent: BTreeMap::from([(NodeId(3), Some(Duration::from_secs(119))), (NodeId(4), None)]),
            healths: BTreeMap::from([(NodeId(1), health(true, 0, 0)), (NodeId(2), hurt)]),
            leaderless: (0..7).map(|partition| format!("t:{partition}")).collect(),
            under_replicated: 1,
            lags: BTreeMap::from([(NodeId(2), lag)]),
            refused: BTreeMap::from([(NodeId(9), "why".to_owned())]),
        };
        let starts = [
            "no majority: 2 of 4 nodes alive, as node 1 sees it, and 3 are needed",
            "7 partitions without a leader (t:0, t:1, t:2, t:3, t:4, ...)",
            "node 3 is down, or cut off: not heard for 119 s;",
            "node 4 is down, or cut off: not heard since node 1 started;",
            "disk nearly full on node 1: 1.2 GB free, 2 GB kept in reserve;",
            "damage on the disk of node 2: 2 of 5 damaged entries are not mended yet;",
            "node 2 has lost the end of 2 logs, and does not vote in them before it has caught up",
            "node 2 is behind: 2 replicas there lack 9000 records of what node 1 leads, the oldest for 2 min",
            "1 partition with a replica on a node that is down",
            "node 9 asks to take part and is refused: why",
        ];
        let said = seen.attention();
        assert_eq!(said.len(), starts.len(), "{said:#?}");
        for (said, start) in said.iter().zip(starts) {
            assert!(said.starts_with(start), "{said}");
        }
        let follows = Seen { nodes: 3, learners: [NodeId(4)].into(), ..seen };
        assert!(!follows.attention()[0].contains("no majority"), "node 4 does not vote");
    }
}
