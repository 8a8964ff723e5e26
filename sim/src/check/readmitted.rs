//! O-23, who has lost does not vote: a node whose disk has lost its newest entries or votes neither gives a vote nor
//! stands before it holds, committed, all that was known to be committed when it lost them: it may have acknowledged
//! any of that, and others may have counted on it (Alagappan et al., Protocol-Aware Recovery, FAST 2018).

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::ids::{GroupId, LogIndex, NodeId};

use super::{Found, Judge};
use crate::observe::Sight;

const ID: &str = "O-23";

#[derive(Default)]
pub(super) struct Readmitted {
    /// The last entry of each group that anybody knows to be committed.
    committed: BTreeMap<GroupId, LogIndex>,
    /// What a node must hold, committed, before it takes part again.
    behind: BTreeMap<(NodeId, GroupId), LogIndex>,
    /// The same as it was before a disk was damaged, until a process has opened that.
    unseen: BTreeMap<NodeId, BTreeMap<(NodeId, GroupId), LogIndex>>,
}

impl Judge for Readmitted {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        match sight {
            Sight::Damaged { node } => {
                let of_node = self.behind.range((*node, GroupId(0))..=(*node, GroupId(u64::MAX)));
                let before = of_node.map(|(replica, bound)| (*replica, *bound)).collect();
                self.unseen.entry(*node).or_insert(before);
                let bounds = self.committed.iter().map(|(group, index)| ((*node, *group), *index));
                self.behind.extend(bounds);
            }
            Sight::TailLost { node, group } => {
                if let Some(index) = self.committed.get(group) {
                    self.behind.insert((*node, *group), *index);
                }
            }
            Sight::Opened { node, .. } => {
                self.unseen.remove(node);
            }
            Sight::GivenBack { node } => {
                if let Some(before) = self.unseen.remove(node) {
                    self.behind.retain(|(of, _), _| of != node);
                    self.behind.extend(before);
                }
            }
            // It is another node from then on, and others refuse it.
            Sight::DiskLost { node } => {
                self.unseen.remove(node);
                self.behind.retain(|(of, _), _| of != node);
            }
            Sight::Removed { node, group, .. } => {
                self.behind.remove(&(*node, *group));
            }
            Sight::Replica { node, group, replica } => {
                let Some(committed) = replica.committed else { return };
                if self.behind.get(&(*node, *group)).is_some_and(|bound| committed.index >= *bound) {
                    self.behind.remove(&(*node, *group));
                }
                let known = self.committed.entry(*group).or_insert(committed.index);
                *known = (*known).max(committed.index);
            }
            Sight::Granted { node, group, term, candidate } => {
                if let Some(bound) = self.behind.get(&(*node, *group)) {
                    let what = format!(
                        "who has lost does not vote: node {node} gave its vote in term {term} of group {group} to node \
                         {candidate}, and does not hold entry {bound} committed, as was known when its disk was damaged"
                    );
                    found.tell(ID, at, what);
                }
            }
            Sight::Stands { node, group, term } => {
                if let Some(bound) = self.behind.get(&(*node, *group)) {
                    let what = format!(
                        "who has lost does not stand: node {node} asks for votes in term {term} of group {group}, and \
                         does not hold entry {bound} committed, as was known when its disk was damaged"
                    );
                    found.tell(ID, at, what);
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::sights::broken;

    const LOST: &str =
        "log 2 from 0: 1 1 1\nreplica 2 t1 committed 2/1 last 2/1\ndamaged 1\nopen 1 vote 1/2: 1";

    #[test]
    fn a_vote_of_one_who_has_lost_is_seen() {
        assert_eq!(broken(&format!("{LOST}\ngranted 1 t2 to 3")), ["O-23"]);
        assert_eq!(broken(&format!("{LOST}\nstands 1 t2")), ["O-23"]);
        let in_part = "log 1 from 1: 1\nreplica 1 t1 committed 1/1 last 1/1";
        assert_eq!(broken(&format!("{LOST}\n{in_part}\ngranted 1 t2 to 3")), ["O-23"], "it lacks entry 2");
    }

    #[test]
    fn who_has_caught_up_votes_and_who_has_lost_nothing_does() {
        let all = "log 1 from 1: 1 1\nreplica 1 t1 committed 2/1 last 2/1";
        assert!(broken(&format!("{LOST}\n{all}\ngranted 1 t2 to 3")).is_empty());
        assert!(broken(&format!("{LOST}\ngranted 3 t2 to 2")).is_empty());
        assert!(
            broken("damaged 1\nopen 1 vote 1/2: 1\ngranted 1 t2 to 3").is_empty(),
            "nothing was committed"
        );
    }

    #[test]
    fn who_finds_later_that_it_has_lost_does_not_vote() {
        let lost = LOST.replace("damaged 1", "tail-lost 1");
        assert_eq!(broken(&format!("{lost}\ngranted 1 t2 to 3")), ["O-23"]);
        let all = "log 1 from 1: 1 1\nreplica 1 t1 committed 2/1 last 2/1";
        assert!(broken(&format!("{lost}\n{all}\ngranted 1 t2 to 3")).is_empty());
        assert!(broken(&format!("{lost}\ngranted 3 t2 to 2")).is_empty(), "another one");
    }

    #[test]
    fn what_came_back_before_a_process_opened_the_disk_was_not_lost() {
        let known = "log 2 from 0: 1 1 1\nreplica 2 t1 committed 2/1 last 2/1";
        let (open, vote) = ("open 1 vote 1/2: 1 1 1", "granted 1 t2 to 3");
        assert!(broken(&format!("{known}\ndamaged 1\nback 1\n{open}\n{vote}")).is_empty());
        assert!(broken(&format!("{known}\ndamaged 1\ndamaged 1\nback 1\n{open}\n{vote}")).is_empty());
        assert_eq!(broken(&format!("{known}\ndamaged 1\n{open}\nback 1\n{vote}")), ["O-23"], "too late");
        assert_eq!(broken(&format!("{known}\ndamaged 1\nback 1\ndamaged 1\n{open}\n{vote}")), ["O-23"]);
        assert_eq!(
            broken(&format!("{LOST}\nend 1\ndamaged 1\nback 1\nopen 1 vote 1/2: 1\n{vote}")),
            ["O-23"],
            "what it had lost before did not come back"
        );
    }
}
