//! O-26, after a failed sync or write the process acknowledges nothing more as durable: the page cache may show what
//! the disk lacks, and a later sync that succeeds proves nothing (design §3, Rebello et al., "Can Applications Recover
//! from fsync Failures?"; faults-and-oracles O-26).

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_node::storage::LogId;
use quorate_proto::ids::{GroupId, NodeId};

use super::words::told;
use super::{Found, Judge};
use crate::observe::Sight;

const ID: &str = "O-26";

/// When a process's sync failed, and what of each group was durable then.
type Failure = (Duration, BTreeMap<GroupId, Option<LogId>>);

#[derive(Default)]
pub(super) struct AfterFailure {
    failed: BTreeMap<NodeId, Failure>,
}

impl Judge for AfterFailure {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        match sight {
            Sight::SyncFailed { node, durable } => {
                self.failed.entry(*node).or_insert_with(|| (at, durable.clone()));
            }
            Sight::Ended { node } | Sight::Opened { node, .. } => {
                self.failed.remove(node);
            }
            Sight::Matched { node, group, through, .. } => {
                let Some((when, durable)) = self.failed.get(node) else { return };
                let durable = durable.get(group).copied().flatten();
                if durable.is_none_or(|durable| durable.index < through.index) {
                    let what = format!(
                        "after a failed sync nothing is acknowledged: a sync of node {node} failed at {when:?}, with \
                         {} of group {group} durable, and the same process says that it holds {}",
                        told(durable),
                        told(Some(*through))
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
    fn an_ack_of_what_came_after_the_failure_is_seen() {
        assert_eq!(broken("log 1 from 0: 1 1\nfailed 1 durable 0/1\nmatched 1 t1 1/1"), ["O-26"]);
        assert_eq!(broken("log 1 from 0: 1 1\nfailed 1\nmatched 1 t1 1/1"), ["O-26"], "a new group");
    }

    #[test]
    fn what_was_durable_before_may_be_told_late() {
        assert!(broken("log 1 from 0: 1 1\nfailed 1 durable 1/1\nmatched 1 t1 1/1").is_empty());
        assert!(
            broken("log 1 from 0: 1 1\nfailed 1 durable 0/1\nend 1\nopen 1: 1 1\nmatched 1 t1 1/1")
                .is_empty()
        );
        assert!(
            broken("log 1 from 0: 1 1\nfailed 1 durable 0/1\nmatched 2 t1 1/1").is_empty(),
            "another node"
        );
    }
}
