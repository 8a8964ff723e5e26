//! O-28, replicas converge: once all is mended and nobody writes, every replica of a group has the same log on its
//! platters and came to the same state, and all nodes have the same metadata. Judged by
//! platters, read back whole, and by what processes made of them. Each replica trims its own log when it comes to that:
//! they are compared from where the one begins that begins last. Two checkpoints of one entry are the same, at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate_node::metadata::Metadata;
use quorate_node::storage::LogId;
use quorate_proto::ids::{GroupId, LogIndex, NodeId};

use super::words::{entry, nodes, told};
use super::{Found, Judge};
use crate::observe::{Line, Sight};

const ID: &str = "O-28";

#[derive(Default)]
pub(super) struct Convergence {
    logs: BTreeMap<(GroupId, NodeId), OnPlatter>,
    states: BTreeMap<(GroupId, NodeId), (LogIndex, u64)>,
    /// The first that was seen of each entry.
    checkpoints: BTreeMap<(GroupId, LogIndex), (LogId, u64, NodeId)>,
    metadata: BTreeMap<NodeId, (LogIndex, Arc<Metadata>)>,
    /// The groups on each node's platters.
    held: BTreeMap<NodeId, BTreeSet<GroupId>>,
}

/// A log as platters have it.
#[derive(Default)]
struct OnPlatter {
    /// The last entry that was trimmed.
    after: Option<LogId>,
    lines: Vec<Line>,
}

impl OnPlatter {
    /// Its first index.
    fn start(&self) -> LogIndex {
        self.after.map_or(LogIndex(0), |after| after.index.next())
    }

    /// The index behind its last one.
    fn end(&self) -> LogIndex {
        self.lines.last().map_or(self.start(), |last| last.index.next())
    }

    fn line(&self, index: LogIndex) -> Option<&Line> {
        self.lines.get(usize::try_from(index.0.checked_sub(self.start().0)?).ok()?)
    }
}

impl Judge for Convergence {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        match sight {
            Sight::OnPlatter { node, group, after, lines } => {
                let on_platter = OnPlatter { after: *after, lines: lines.clone() };
                self.logs.insert((*group, *node), on_platter);
            }
            Sight::Checkpoint { node, group, at: of, digest } => {
                let known = self.checkpoints.entry((*group, of.index)).or_insert((*of, *digest, *node));
                if (known.0, known.1) != (*of, *digest) {
                    let what = format!(
                        "checkpoints of one entry are equal: of group {group} node {} has one of {} with the checksum \
                         {:016x}, and node {node} one of {} with {digest:016x}",
                        known.2,
                        told(Some(known.0)),
                        known.1,
                        told(Some(*of))
                    );
                    found.tell(ID, at, what);
                }
            }
            Sight::Applied { node, group, next, digest, .. } => {
                self.states.insert((*group, *node), (*next, *digest));
            }
            Sight::Metadata { node, applied, metadata } => {
                self.metadata.insert(*node, (*applied, metadata.clone()));
            }
            Sight::Platters { nodes } => {
                let held = nodes.iter().map(|(node, groups)| (*node, groups.keys().copied().collect()));
                self.held.extend(held);
            }
            Sight::Ended { node } => {
                self.states.retain(|(_, of), _| of != node);
                self.metadata.remove(node);
            }
            Sight::Removed { node, group, .. } => {
                self.states.remove(&(*group, *node));
            }
            Sight::Quiet => self.judge(at, found),
            _ => {}
        }
    }
}

/// What a replica has made of its log.
fn came_to(state: Option<&(LogIndex, u64)>) -> String {
    state.map_or_else(
        || "applied nothing".to_owned(),
        |(next, digest)| format!("applied all before entry {next} and came to the state {digest:016x}"),
    )
}

/// In what two copies of the metadata differ.
pub(super) fn difference(one: &Metadata, other: &Metadata) -> String {
    if one.nodes != other.nodes {
        return "they name different nodes".to_owned();
    }
    let ids = one.topics.keys().chain(other.topics.keys());
    let mut differing = ids.filter(|id| one.topics.get(id) != other.topics.get(id));
    let Some(id) = differing.next() else { return "they differ in what they keep beside topics".to_owned() };
    let of = |copy: &Metadata| {
        let topic = copy.topics.get(id);
        topic.map_or_else(
            || "it is not there".to_owned(),
            |topic| format!("it is {} with {} partitions", topic.name, topic.partitions.len()),
        )
    };
    format!("of the topic with the id {id}, in the first {}, in the other {}", of(one), of(other))
}

impl Convergence {
    fn judge(&self, at: Duration, found: &mut Found) {
        let mut of_metadata = self.metadata.iter();
        let Some((first, (applied, metadata))) = of_metadata.next() else { return };
        for (node, (also_applied, also)) in of_metadata {
            if applied != also_applied || metadata != also {
                let what = format!(
                    "nodes converge: node {first} has the metadata of entry {applied}, and node {node} those of \
                     entry {also_applied}: {}",
                    difference(metadata, also)
                );
                found.tell(ID, at, what);
            }
        }
        let partitions = metadata.topics.values().flat_map(|topic| &topic.partitions);
        let groups = partitions.map(|partition| (partition.group, partition.replicas.clone()));
        let of_all = (GroupId::METADATA, metadata.nodes.keys().copied().collect::<Vec<_>>());
        let assigned = groups.chain([of_all]).collect::<BTreeMap<_, _>>();
        for (group, replicas) in &assigned {
            self.judge_group(at, *group, replicas, found);
        }
        for (node, held) in &self.held {
            let is_theirs = |group: &GroupId| {
                *group == GroupId::METADATA || assigned.get(group).is_some_and(|nodes| nodes.contains(node))
            };
            if let Some(group) = held.iter().find(|group| !is_theirs(group)) {
                let what = format!(
                    "what is deleted is gone: node {node} holds group {group} on its platters, which the metadata \
                     assign to {}",
                    nodes(assigned.get(group).into_iter().flatten())
                );
                found.tell(ID, at, what);
            }
        }
    }

    fn judge_group(&self, at: Duration, group: GroupId, replicas: &[NodeId], found: &mut Found) {
        let Some((first, rest)) = replicas.split_first() else { return };
        let nothing = OnPlatter::default();
        let log = |node: &NodeId| self.logs.get(&(group, *node)).unwrap_or(&nothing);
        for node in rest {
            let (one, other) = (log(first), log(node));
            let both = one.start().max(other.start())..one.end().max(other.end());
            let differing =
                (both.start.0..both.end.0).map(LogIndex).find(|at| one.line(*at) != other.line(*at));
            if one.end() != other.end() || differing.is_some() {
                let at_entry = differing.unwrap_or(one.end().min(other.end()));
                let what = format!(
                    "replicas converge: the logs of group {group} on the platters of nodes {first} and {node} part at \
                     {at_entry}: the first has {} where the other has {}; they have the entries from {} to {} and from \
                     {} to {}",
                    entry(one.line(at_entry)),
                    entry(other.line(at_entry)),
                    one.start(),
                    one.end(),
                    other.start(),
                    other.end()
                );
                found.tell(ID, at, what);
            }
            let (one, other) = (self.states.get(&(group, *first)), self.states.get(&(group, *node)));
            if group != GroupId::METADATA && one != other {
                let what = format!(
                    "replicas converge: of group {group} node {first} {}, and node {node} {}",
                    came_to(one),
                    came_to(other)
                );
                found.tell(ID, at, what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::sights::broken;

    const HEAD: &str = "assigned at 7: 1 2\nplatter 1: 1 1 2\napplied 1 before 3 gives 7";

    #[test]
    fn replicas_that_stay_apart_are_seen() {
        let same = "applied 2 before 3 gives 7";
        assert_eq!(broken(&format!("{HEAD}\nplatter 2: 1 1\n{same}\nquiet")), ["O-28"], "shorter");
        assert_eq!(broken(&format!("{HEAD}\nplatter 2: 1 1 3\n{same}\nquiet")), ["O-28"], "another tail");
        assert_eq!(broken(&format!("{HEAD}\nplatter 2: 1 1 2\napplied 2 before 2 gives 5\nquiet")), ["O-28"]);
    }

    #[test]
    fn what_is_left_of_a_deleted_group_is_seen() {
        let whole = format!("{HEAD}\nplatter 2: 1 1 2\napplied 2 before 3 gives 7");
        assert_eq!(broken(&format!("{whole}\nplatters 3: 1\nquiet")), ["O-28"]);
        assert!(broken(&format!("{whole}\nplatters 2: 1 1 2\nquiet")).is_empty());
    }

    #[test]
    fn equal_ones_are_legal_and_nothing_is_asked_before_it_is_quiet() {
        assert!(broken(&format!("{HEAD}\nplatter 2: 1 1 2\napplied 2 before 3 gives 7\nquiet")).is_empty());
        assert!(broken(&format!("{HEAD}\nplatter 2: 1 1")).is_empty());
        let stranger = "platter 3: 1";
        assert!(
            broken(&format!("{HEAD}\nplatter 2: 1 1 2\napplied 2 before 3 gives 7\n{stranger}\nquiet"))
                .is_empty(),
            "not a member"
        );
    }

    #[test]
    fn logs_that_begin_elsewhere_are_compared_where_both_are() {
        let same = "applied 2 before 3 gives 7";
        let trimmed = |log: &str| broken(&format!("{HEAD}\nplatter 2 after {log}\n{same}\nquiet"));
        assert!(trimmed("0/1: 1 2").is_empty());
        assert!(trimmed("2/2:").is_empty(), "nothing is left, and it ends where the other does");
        assert_eq!(trimmed("0/1: 1 3"), ["O-28"], "another tail");
        assert_eq!(trimmed("0/1: 1"), ["O-28"], "shorter");
        assert_eq!(trimmed("1/1:"), ["O-28"], "shorter, and empty");
        assert_eq!(trimmed("3/2:"), ["O-28"], "a checkpoint of what the other has not");
    }

    #[test]
    fn checkpoints_that_differ_are_seen() {
        assert_eq!(
            broken("checkpoint 1 at 5/2 gives 7\ncheckpoint 2 at 5/2 gives 8"),
            ["O-28"],
            "another state"
        );
        assert_eq!(
            broken("checkpoint 1 at 5/2 gives 7\ncheckpoint 2 at 5/3 gives 7"),
            ["O-28"],
            "another entry"
        );
        let moved_on =
            "checkpoint 1 at 5/2 gives 7\ncheckpoint 2 at 3/1 gives 6\ncheckpoint 2 at 5/2 gives 7";
        assert!(broken(moved_on).is_empty());
    }
}
