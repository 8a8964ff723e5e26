//! O-10, the members are those that were assigned: while memberships do not change, every replica sees the same voters
//! of its group for ever, and they are those that the metadata name (Raft §6). Any two
//! majorities of one set of voters meet; where memberships change, this is to judge each pair of sets.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::ids::{GroupId, NodeId};

use super::words::nodes;
use super::{Found, Judge};
use crate::observe::Sight;

const ID: &str = "O-10";

#[derive(Default)]
pub(super) struct Members {
    voters: BTreeMap<GroupId, (Vec<NodeId>, NodeId)>,
    assigned: BTreeMap<GroupId, Vec<NodeId>>,
}

impl Judge for Members {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        match sight {
            Sight::Voters { node, group, voters } => {
                let first = self.voters.entry(*group).or_insert_with(|| (voters.clone(), *node));
                if first.0 != *voters {
                    let what = format!(
                        "the voters stay: group {group} has {} for voters as node {} saw, and {} as node \
                         {node} sees",
                        nodes(&first.0),
                        first.1,
                        nodes(voters)
                    );
                    found.tell(ID, at, what);
                }
                self.compare(at, *group, found);
            }
            Sight::Metadata { metadata, .. } => {
                let partitions = metadata.topics.values().flat_map(|topic| &topic.partitions);
                let news = partitions.filter(|partition| !self.assigned.contains_key(&partition.group));
                for partition in news.collect::<Vec<_>>() {
                    let mut replicas = partition.replicas.clone();
                    replicas.sort_unstable();
                    self.assigned.insert(partition.group, replicas);
                    self.compare(at, partition.group, found);
                }
            }
            _ => {}
        }
    }
}

impl Members {
    fn compare(&self, at: Duration, group: GroupId, found: &mut Found) {
        if let (Some((voters, node)), Some(assigned)) = (self.voters.get(&group), self.assigned.get(&group))
            && voters != assigned
        {
            let what = format!(
                "the voters are those assigned: group {group} has {} for voters as node {node} saw, and the \
                 metadata assign it to {}",
                nodes(voters),
                nodes(assigned)
            );
            found.tell(ID, at, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::sights::broken;

    #[test]
    fn voters_that_differ_are_seen() {
        assert_eq!(broken("voters 1 is 1 2 3\nvoters 2 is 1 2"), ["O-10"]);
        assert_eq!(broken("voters 1 is 1 2\nassigned at 7: 3 1 2"), ["O-10"]);
        assert_eq!(broken("assigned at 7: 3 1 2\nvoters 1 is 1 2"), ["O-10"]);
    }

    #[test]
    fn the_assigned_ones_in_any_order_are_legal() {
        assert!(broken("assigned at 7: 3 1 2\nvoters 1 is 1 2 3\nend 1\nvoters 1 is 1 2 3").is_empty());
    }
}
