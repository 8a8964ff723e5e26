//! What a run has reached, as far as only somebody who sees all nodes can tell.

use std::collections::{BTreeMap, BTreeSet};

use quorate_proto::ids::{GroupId, NodeId, Term};

use super::sight::Sight;
use crate::marks::Marks;

/// Turns sights into marks.
#[derive(Default)]
pub(super) struct Reach {
    marks: Marks,
    /// Who stood in the newest term of each group.
    stood: BTreeMap<GroupId, (Term, BTreeSet<NodeId>)>,
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
            Sight::Opened { node, .. } => {
                self.recoveries.remove(node);
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
            Sight::Granted { node, .. } => {
                self.voted.insert(*node);
            }
            _ => {}
        }
    }
}
