//! O-23, who has lost does not vote: a node whose disk has lost its newest entries or votes neither gives a vote nor
//! stands before it holds, committed, all that was known to be committed when it lost them: it may have acknowledged
//! any of that, and others may have counted on it (Alagappan et al., Protocol-Aware Recovery, FAST 2018). Whose disk was
//! damaged and still holds all that it ever said it holds of a group has lost nothing of that.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_node::storage::LogId;
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
    /// The last entry that each node told a leader that it holds, as far as its log was not cut since.
    told: BTreeMap<(NodeId, GroupId), LogId>,
    /// The last entry that it knew to be committed: as a leader it counted itself.
    counted: BTreeMap<(NodeId, GroupId), LogId>,
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
            Sight::TailKept { node, group, on_disk } => {
                let replica = (*node, *group);
                let promised = [self.told.get(&replica), self.counted.get(&replica)];
                if promised.into_iter().flatten().all(|id| on_disk.holds(*id)) {
                    self.behind.remove(&replica);
                }
            }
            Sight::Matched { node, group, through, .. } => {
                let told = self.told.entry((*node, *group)).or_insert(*through);
                *told = (*told).max(*through);
            }
            Sight::Log { node, group, from, .. }
                if self.told.get(&(*node, *group)).is_some_and(|told| told.index >= *from) =>
            {
                self.told.remove(&(*node, *group));
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
                self.told.retain(|(of, _), _| of != node);
                self.counted.retain(|(of, _), _| of != node);
            }
            Sight::Removed { node, group, .. } => {
                self.behind.remove(&(*node, *group));
                self.told.remove(&(*node, *group));
                self.counted.remove(&(*node, *group));
            }
            Sight::Replica { node, group, replica } => {
                let Some(committed) = replica.committed else { return };
                let counted = self.counted.entry((*node, *group)).or_insert(committed);
                *counted = (*counted).max(committed);
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
    fn who_kept_the_end_of_a_log_votes_and_who_says_so_and_did_not_does_not() {
        let known = "log 2 from 0: 1 1 1\nreplica 2 t1 committed 2/1 last 2/1";
        let vote = "open 1 vote 1/2: 1 1\ngranted 1 t2 to 3";
        let kept = |told: &str, disk: &str| {
            broken(&format!("{known}\n{told}\ndamaged 1\ntail-kept 1: {disk}\n{vote}"))
        };
        assert!(kept("matched 1 t1 1/1", "1 1").is_empty(), "it never had entry 2");
        assert!(kept("matched 1 t1 2/1", "1 1 1").is_empty());
        assert!(kept("matched 1 t1 2/1\nlog 1 from 1: 2", "1 2").is_empty(), "it was told to cut that");
        assert!(kept("matched 1 t1 2/1", "1 1").contains(&"O-23"));
        assert!(
            kept("replica 1 t1 leads committed 2/1 last 2/1", "1 1").contains(&"O-23"),
            "it counted itself"
        );
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
