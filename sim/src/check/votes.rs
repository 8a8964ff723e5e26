//! O-09, votes are durable: when a node says that it gave its vote, to another one or, by asking for votes, to itself,
//! that vote is on its platters, and no restart takes it back (Raft §5.2). Judged by the product's own recovery on a
//! copy of the platters, at
//! some of the moments at which such an answer leaves, and at each start.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_proto::ids::{GroupId, NodeId, Term};

use super::words::vote as vote_of;
use super::{Found, Judge};
use crate::observe::{OnDisk, Sight};

const ID: &str = "O-09";

#[derive(Default)]
pub(super) struct Votes {
    /// The newest vote that each node said it gave, and when.
    given: BTreeMap<(NodeId, GroupId), (Term, NodeId, Duration)>,
    /// Groups whose topic is gone: what a node says of one then it had said before, and the wire was slow.
    removed: BTreeSet<(NodeId, GroupId)>,
}

impl Judge for Votes {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        match sight {
            Sight::Granted { node, group, term, candidate } => {
                self.gave(at, (*node, *group), *term, *candidate);
            }
            Sight::Stands { node, group, term } => self.gave(at, (*node, *group), *term, *node),
            Sight::Removed { node, group, .. } => {
                self.given.remove(&(*node, *group));
                self.removed.insert((*node, *group));
            }
            Sight::DiskLost { node } => self.given.retain(|(of, _), _| of != node),
            Sight::Opened { node, groups, .. } => self.judge(at, *node, groups, "came back with", found),
            Sight::Platters { nodes } => {
                for (node, groups) in nodes {
                    self.judge(at, *node, groups, "has on its platters", found);
                }
            }
            _ => {}
        }
    }
}

impl Votes {
    fn gave(&mut self, at: Duration, of: (NodeId, GroupId), term: Term, candidate: NodeId) {
        if self.removed.contains(&of) {
            return;
        }
        let given = self.given.entry(of).or_insert((term, candidate, at));
        if term > given.0 {
            *given = (term, candidate, at);
        }
    }

    fn judge(
        &self,
        at: Duration,
        node: NodeId,
        groups: &BTreeMap<GroupId, OnDisk>,
        place: &str,
        found: &mut Found,
    ) {
        for ((_, group), given) in self.given.range((node, GroupId(0))..=(node, GroupId(u64::MAX))) {
            let (term, candidate, when) = *given;
            let vote = groups.get(group).and_then(|on_disk| on_disk.vote);
            let kept = vote.is_some_and(|vote| {
                // In the same term it may since have heard of the one who won.
                vote.term > term
                    || (vote.term == term && (vote.node == u64::from(candidate.0) || vote.committed))
            });
            if !kept {
                let what = format!(
                    "a vote is durable before it is told: node {node} gave its vote in term {term} of group {group} \
                     to node {candidate} at {when:?}, and {place} {}",
                    vote_of(vote)
                );
                found.tell(ID, at, what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::sights::broken;

    #[test]
    fn a_vote_that_is_not_on_the_platters_is_seen() {
        assert_eq!(broken("granted 1 t4 to 2\nplatters 1:"), ["O-09"]);
        assert_eq!(broken("granted 1 t4 to 2\nplatters 1 vote 3/2:"), ["O-09"]);
        assert_eq!(broken("granted 1 t4 to 2\nplatters 1 vote 4/3:"), ["O-09"], "for another one");
        assert_eq!(broken("granted 1 t4 to 2\nend 1\nopen 1 vote 3/2:"), ["O-09"], "lost with a crash");
        assert_eq!(broken("stands 1 t4\nplatters 1 vote 3/2:"), ["O-09"], "its own");
    }

    #[test]
    fn newer_votes_take_the_place_of_older_ones() {
        assert!(broken("granted 1 t4 to 2\nplatters 1 vote 4/2:").is_empty());
        assert!(broken("granted 1 t4 to 2\nend 1\nopen 1 vote 5/3:").is_empty());
        assert!(broken("granted 1 t4 to 2\nplatters 1 vote 4/3 leads:").is_empty(), "the other one won");
        assert!(
            broken("granted 1 t4 to 2\ngranted 1 t3 to 3\nplatters 1 vote 4/2:").is_empty(),
            "an old answer"
        );
        assert!(broken("granted 1 t4 to 2\nremoved 1\nplatters 1:").is_empty());
        assert!(broken("removed 1\nstands 1 t4\nplatters 1:").is_empty(), "asked for before, sent late");
        assert!(broken("stands 1 t4\nplatters 1 vote 4/1:").is_empty());
    }
}
