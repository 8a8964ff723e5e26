//! O-10, members change one step at a time: a place in a group's log names the same members wherever it is seen; of two
//! memberships that follow each other any two majorities meet (they share a set of voters, or differ by one voter); no
//! disk takes another one's place in one step; and once all is quiet the members are those that the metadata name, with
//! the disks that the nodes have (Raft §6, dissertation §4.1).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate_node::metadata::Metadata;
use quorate_node::raft::GroupConfig;
use quorate_node::storage::LogId;
use quorate_proto::ids::{GroupId, LogIndex, NodeId, Term};

use super::words::nodes;
use super::{Found, Judge};
use crate::observe::{Line, Sight};

const ID: &str = "O-10";

/// Nodes that vote in the metadata group, at most.
const VOTERS_MAX: usize = 5;

/// Memberships by where they lie, each with who saw it first.
type Seen = BTreeMap<(LogIndex, Term), (GroupConfig, NodeId)>;

#[derive(Default)]
pub(super) struct Members {
    /// Each membership that was seen, by where it lies, and who saw it first.
    configs: BTreeMap<GroupId, Seen>,
    /// Where the newest one of each replica lies: at the end the last of these counts, though the log before it may be
    /// trimmed.
    newest: BTreeMap<(GroupId, NodeId), LogId>,
    /// The newest entry of each group that is known to be committed.
    committed: BTreeMap<GroupId, LogIndex>,
    /// The terms of each group's entries, as they lie on somebody's platters at the end.
    logs: BTreeMap<GroupId, Vec<Line>>,
    metadata: Option<(LogIndex, Arc<Metadata>)>,
}

impl Judge for Members {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        match sight {
            Sight::Config { node, group, at: place, config } => {
                self.config(at, *node, *group, *place, config, found);
            }
            Sight::Replica { group, replica, .. } => {
                if let Some(now) = replica.committed {
                    let committed = self.committed.entry(*group).or_default();
                    *committed = (*committed).max(now.index);
                }
            }
            Sight::Metadata { applied, metadata, .. }
                if self.metadata.as_ref().is_none_or(|(newest, _)| applied > newest) =>
            {
                self.metadata = Some((*applied, metadata.clone()));
            }
            Sight::Removed { node, group, .. } => {
                self.newest.remove(&(*group, *node));
            }
            Sight::DiskLost { node } => self.newest.retain(|(_, of), _| of != node),
            Sight::OnPlatter { group, lines, .. } => {
                let longest = self.logs.entry(*group).or_default();
                if lines.len() > longest.len() {
                    longest.clone_from(lines);
                }
            }
            Sight::Quiet => self.judge(at, found),
            _ => {}
        }
    }
}

/// `1, 2 and 3 with disks ..`, for people.
fn said(config: &GroupConfig) -> String {
    let sets = config.voters.iter().map(nodes).collect::<Vec<_>>().join(" together with ");
    let voters = config.all_voters();
    let learners = config.disks.keys().filter(|node| !voters.contains(node)).collect::<Vec<_>>();
    if learners.is_empty() { sets } else { format!("{sets}, and {} following", nodes(learners)) }
}

/// Whether any majority of one meets any majority of the other, and no node has another disk.
fn may_follow(before: &GroupConfig, after: &GroupConfig) -> bool {
    let same_disks =
        after.disks.iter().all(|(node, new)| before.disks.get(node).is_none_or(|old| old == new));
    let meet = match (&before.voters[..], &after.voters[..]) {
        ([old], [new]) => old.symmetric_difference(new).count() <= 1,
        (old, new) => old.iter().any(|set| new.contains(set)),
    };
    same_disks && meet
}

impl Members {
    fn config(
        &mut self,
        at: Duration,
        node: NodeId,
        group: GroupId,
        place: LogId,
        config: &GroupConfig,
        found: &mut Found,
    ) {
        self.newest.insert((group, node), place);
        let seen = self.configs.entry(group).or_default();
        let (first, by) = seen.entry((place.index, place.term)).or_insert_with(|| (config.clone(), node));
        if *first != *config {
            let what = format!(
                "members are agreed on: by entry {} of term {} of group {group} they are {} as node {by} saw, and {} \
                 as node {node} sees",
                place.index,
                place.term,
                said(first),
                said(config)
            );
            found.tell(ID, at, what);
        }
        let unknown = config.all_voters().into_iter().find(|voter| !config.disks.contains_key(voter));
        if config.voters.iter().any(BTreeSet::is_empty) || unknown.is_some() {
            let what =
                format!("somebody votes, with a disk that is known: in group {group}: {}", said(config));
            found.tell(ID, at, what);
        }
    }

    /// The memberships of a group that were committed, in order.
    fn chain(&self, group: GroupId) -> Vec<(LogIndex, &GroupConfig)> {
        let (Some(seen), Some(log)) = (self.configs.get(&group), self.logs.get(&group)) else {
            return Vec::new();
        };
        let committed = self.committed.get(&group).copied().unwrap_or_default();
        let terms = log.iter().map(|line| (line.index, line.term)).collect::<BTreeSet<_>>();
        let stands = seen.iter().filter(|(place, _)| place.0 <= committed && terms.contains(place));
        stands.map(|((index, _), (config, _))| (*index, config)).collect()
    }

    fn judge(&self, at: Duration, found: &mut Found) {
        for (group, seen) in &self.configs {
            let chain = self.chain(*group);
            for pair in chain.windows(2) {
                let ((_, before), (index, after)) = (pair[0], pair[1]);
                if !may_follow(before, after) {
                    let what = format!(
                        "members change one step at a time: of group {group} they were {}, and by entry {index} are {}",
                        said(before),
                        said(after)
                    );
                    found.tell(ID, at, what);
                }
            }
            let newest = self.newest.range((*group, NodeId(0))..=(*group, NodeId(u32::MAX)));
            let last = newest.map(|(_, place)| *place).max();
            let last = last.and_then(|place| seen.get(&(place.index, place.term)));
            if let (Some((last, _)), Some((_, metadata))) = (last, &self.metadata) {
                compare(at, *group, last, metadata, found);
            }
        }
    }
}

/// The last members are those that are wanted.
fn compare(at: Duration, group: GroupId, last: &GroupConfig, metadata: &Metadata, found: &mut Found) {
    let of_node = |node: &NodeId| metadata.nodes.get(node).map(|known| known.identity);
    let other_disk =
        last.disks.iter().find(|(node, disk)| of_node(node).is_some_and(|known| known != **disk));
    let mut partitions = metadata.topics.values().flat_map(|topic| &topic.partitions);
    let wanted = if group == GroupId::METADATA {
        None
    } else if let Some(partition) = partitions.find(|partition| partition.group == group) {
        Some(partition.replicas.iter().copied().collect::<BTreeSet<_>>())
    } else {
        // Its topic is gone.
        return;
    };
    let fits = match &wanted {
        Some(wanted) => {
            last.voters.len() == 1 && last.voters[0] == *wanted && last.disks.len() == wanted.len()
        }
        None => last.voters.len() == 1 && last.voters[0].len() <= VOTERS_MAX,
    };
    if !fits || other_disk.is_some() {
        let what = format!(
            "the members come to be those that are wanted: group {group} ends with {}{}, and the metadata want {}",
            said(last),
            other_disk.map(|(node, _)| format!(" (node {node} with another disk)")).unwrap_or_default(),
            wanted.as_ref().map_or_else(|| format!("up to {VOTERS_MAX} nodes"), nodes)
        );
        found.tell(ID, at, what);
    }
}

#[cfg(test)]
mod tests {
    use crate::check::sights::broken;

    /// Two nodes' view of memberships at these entries, all of them committed.
    fn history(configs: &str, wanted: &str) -> String {
        format!(
            "{configs}\nreplica 1 t1 committed 9/1 last 9/1\nassigned at 7: {wanted}\n\
             platter 1: 1 1 1 1 1 1 1 1 1 1\nquiet"
        )
    }

    fn broken_members(configs: &str, wanted: &str) -> bool {
        broken(&history(configs, wanted)).contains(&"O-10")
    }

    #[test]
    fn members_that_differ_are_seen() {
        assert_eq!(broken("voters 1 is 1 2 3\nvoters 2 is 1 2"), ["O-10"]);
        assert_eq!(broken("voters 1 at 4/1 is 1 2 3\nvoters 2 at 4/1 is 1 2 3 + 4"), ["O-10"]);
        assert!(broken_members("voters 1 at 0/1 is 1 2", "3 1 2"), "not those that are wanted");
        assert!(broken_members("voters 1 at 0/1 is 1 2 3 ; 1 2 4", "1 2 4"), "it was not ended");
        assert!(broken_members("voters 1 at 0/1 is 1 2 3 + 4", "1 2 3"), "one too many");
    }

    #[test]
    fn steps_that_are_too_long_are_seen() {
        let jump = "voters 1 at 0/1 is 1 2 3\nvoters 1 at 5/1 is 1 4 5";
        assert!(broken_members(jump, "1 4 5"));
        let swap = "voters 1 at 0/1 is 1 2 3\nvoters 1 at 5/1 is 1 2' 3";
        assert!(broken_members(swap, "1 2 3"), "another disk at once");
    }

    #[test]
    fn ways_that_majorities_survive_are_legal() {
        let moved = "voters 1 at 0/1 is 1 2 3\nvoters 1 at 2/1 is 1 2 3 + 4\nvoters 1 at 4/1 is 1 2 3 ; 1 2 4 + 3\n\
                     voters 1 at 6/1 is 1 2 4";
        assert!(!broken_members(moved, "1 2 4"), "{:?}", broken(&history(moved, "1 2 4")));
        let replaced = "voters 1 at 0/1 is 1 2 3\nvoters 1 at 2/1 is 1 3\nvoters 1 at 4/1 is 1 3 + 2'\n\
                        voters 1 at 6/1 is 1 2' 3";
        assert!(!broken_members(replaced, "1 2 3"));
        let cut = "voters 1 at 0/1 is 1 2 3\nvoters 1 at 4/2 is 1 4 5\nvoters 1 at 5/1 is 1 2 3 + 4";
        assert!(broken_members(cut, "1 2 3"), "node 4 follows still");
        let cut = "voters 1 at 0/1 is 1 2 3\nvoters 1 at 4/2 is 1 4 5\nvoters 1 at 5/1 is 1 2 3";
        assert!(!broken_members(cut, "1 2 3"), "what was cut off never counted");
        assert!(broken("voters 1 is 1 2 3\nend 1\nvoters 1 is 1 2 3").is_empty());
    }
}
