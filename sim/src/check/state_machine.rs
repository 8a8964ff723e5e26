//! O-04, state machine safety: replicas that applied the same entries came to the same state, of a partition (offsets,
//! producers, epochs) and of the metadata (Raft §5.4.3).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use quorate_node::metadata::Metadata;
use quorate_proto::ids::{GroupId, LogIndex, NodeId, Offset};

use super::convergence::difference;
use super::logs::ByIndex;
use super::{Found, Judge};
use crate::observe::Sight;

const ID: &str = "O-04";

#[derive(Default)]
pub(super) struct StateMachine {
    states: BTreeMap<GroupId, ByIndex<State>>,
    metadata: BTreeMap<LogIndex, (Arc<Metadata>, NodeId)>,
}

/// What the first who was seen there has made of its entries.
struct State {
    digest: u64,
    readable: Range<Offset>,
    by: NodeId,
    at: Duration,
}

impl Judge for StateMachine {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        match sight {
            Sight::Applied { node, group, next, digest, readable } => {
                let state = State { digest: *digest, readable: readable.clone(), by: *node, at };
                let first = self.states.entry(*group).or_default().at(*next).get_or_insert(state);
                if first.digest != *digest || first.readable != *readable {
                    let what = format!(
                        "the same entries give the same state: with all entries of group {group} before {next} \
                         applied, node {} came to {:016x}, readable from {} to {}, at {:?}, and node {node} to \
                         {digest:016x}, readable from {} to {}, now",
                        first.by,
                        first.digest,
                        first.readable.start,
                        first.readable.end,
                        first.at,
                        readable.start,
                        readable.end
                    );
                    found.tell(ID, at, what);
                }
            }
            Sight::Metadata { node, applied, metadata } => {
                let first = self.metadata.entry(*applied).or_insert_with(|| (metadata.clone(), *node));
                if *first.0 != **metadata {
                    let what = format!(
                        "the same entries give the same state: with entry {applied} of the metadata group \
                         applied, node {} and node {node} have different metadata: {}",
                        first.1,
                        difference(&first.0, metadata)
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

    #[test]
    fn states_that_differ_are_seen() {
        assert_eq!(broken("applied 1 before 5 gives 77\napplied 2 before 5 gives 78"), ["O-04"]);
        assert_eq!(
            broken("applied 1 before 5 gives 77\nend 1\nopen 1:\napplied 1 before 5 gives 78"),
            ["O-04"],
            "and after a restart"
        );
    }

    #[test]
    fn a_log_start_that_is_one_replicas_own_is_seen() {
        assert_eq!(
            broken("applied 1 before 5 gives 77 from 3 to 9\napplied 2 before 5 gives 77 from 0 to 9"),
            ["O-04"]
        );
        // A replica that takes up a checkpoint begins with what the others had there.
        let lagged = "applied 1 before 5 gives 77 from 3 to 9\napplied 2 before 2 gives 60";
        assert!(
            broken(&format!("{lagged}\ntrimmed 2 4/1\napplied 2 before 5 gives 77 from 3 to 9")).is_empty()
        );
        assert_eq!(
            broken(&format!("{lagged}\ntrimmed 2 4/1\napplied 2 before 5 gives 70 from 3 to 9")),
            ["O-04"],
            "a checkpoint without some producers"
        );
    }

    #[test]
    fn replicas_may_be_apart_in_time() {
        assert!(
            broken("applied 1 before 5 gives 77\napplied 2 before 4 gives 3\napplied 2 before 5 gives 77")
                .is_empty()
        );
    }
}
