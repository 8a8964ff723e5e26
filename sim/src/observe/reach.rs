//! What a run has reached, as far as only somebody who sees all nodes can tell.

use std::collections::{BTreeMap, BTreeSet};

use quorate_proto::ids::{GroupId, LogIndex, NodeId, Term};

use super::sight::{Replica, Sight};
use crate::marks::Marks;

/// Turns sights into marks.
#[derive(Default)]
pub(super) struct Reach {
    marks: Marks,
    /// Who stood in the newest term of each group.
    stood: BTreeMap<GroupId, (Term, BTreeSet<NodeId>)>,
    /// Who was seen to lead in it.
    led: BTreeMap<GroupId, (Term, NodeId)>,
    replicas: BTreeMap<(NodeId, GroupId), Replica>,
    ends: BTreeMap<(NodeId, GroupId), LogIndex>,
    /// Nodes that gave a vote and have written nothing since.
    voted: BTreeSet<NodeId>,
    recoveries: BTreeMap<NodeId, u64>,
}

impl Reach {
    pub(super) fn new(marks: Marks) -> Self {
        Self { marks, ..Self::default() }
    }

    /// Something was written to a node's platters.
    pub(super) fn synced(&mut self, node: NodeId) {
        self.voted.remove(&node);
    }

    /// A process begins to open its disk.
    pub(super) fn starts(&mut self, node: NodeId) {
        let recoveries = self.recoveries.entry(node).or_default();
        *recoveries += 1;
        match recoveries {
            1 => {}
            2 => self.marks.reached("crash-during-recovery"),
            _ => self.marks.reached("crash-during-recovery-twice"),
        }
    }

    /// A process ended, whether it had opened its disk or not.
    pub(super) fn ends(&mut self, node: NodeId) {
        if self.voted.remove(&node) {
            self.marks.reached("vote-granted-and-crashed-before-the-next-write");
        }
    }

    pub(super) fn see(&mut self, sight: &Sight) {
        match sight {
            Sight::Opened { node, groups, .. } => {
                self.recoveries.remove(node);
                self.replicas.retain(|(of, _), _| of != node);
                for (group, on_disk) in groups {
                    let end = on_disk.last.map_or(LogIndex(0), |last| last.index.next());
                    self.ends.insert((*node, *group), end);
                }
            }
            Sight::Stands { node, group, term } => {
                let stood = self.stood.entry(*group).or_default();
                if *term > stood.0 {
                    *stood = (*term, BTreeSet::new());
                }
                if *term == stood.0 && stood.1.insert(*node) && stood.1.len() == 2 {
                    self.marks.reached("two-candidates-in-a-term");
                }
            }
            Sight::Leads { node, group, term } => self.leads(*node, *group, *term),
            Sight::Granted { node, .. } => {
                self.voted.insert(*node);
            }
            Sight::Log { node, group, from, lines } => {
                let end = self.ends.entry((*node, *group)).or_default();
                if *from < *end {
                    self.marks.reached("conflicting-suffix-cut");
                    let before = self.replicas.get(&(*node, *group));
                    if before.is_some_and(|before| before.leads || before.voted_for == u64::from(node.0)) {
                        self.marks.reached("leader-deposed-with-unacked-tail");
                    }
                }
                *end = lines.last().map_or(*from, |line| line.index.next());
            }
            Sight::Replica { node, group, replica } => {
                self.replicas.insert((*node, *group), *replica);
            }
            _ => {}
        }
    }

    fn leads(&mut self, node: NodeId, group: GroupId, term: Term) {
        if self.led.get(&group).is_some_and(|led| led.0 >= term) {
            return;
        }
        self.led.insert(group, (term, node));
        let Some((stood_in, candidates)) = self.stood.get(&group) else { return };
        if *stood_in < term {
            return;
        }
        if *stood_in == term && candidates.contains(&node) {
            self.marks.reached("election-won");
        }
        if candidates.iter().any(|candidate| *candidate != node) {
            self.marks.reached("election-lost");
        }
    }
}
