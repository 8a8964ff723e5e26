//! O-29, nothing grows without a bound: tasks, open files and bytes on disk stay in proportion to what a node holds
//! (design §3; faults-and-oracles O-29).

use std::time::Duration;

use super::{Found, Judge};
use crate::observe::{Sight, Usage};

const ID: &str = "O-29";

/// Tasks of a node, and more for each group: its Raft, replication to each peer, requests in flight.
const TASKS_MAX: u64 = 400;
const TASKS_PER_GROUP_MAX: u64 = 80;
/// Open files: the volumes that may be open, the one written, the next one, and the facts.
const FILES_MAX: u64 = 64;
/// Bytes on disk: what an empty folder takes, and what an entry may take with all that is rounded up around it.
const DISK_MAX: u64 = 32 << 20;
const DISK_PER_ENTRY_MAX: u64 = 64 << 10;

#[derive(Default)]
pub(super) struct Growth;

impl Judge for Growth {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        let Sight::Usage { node, usage } = sight else { return };
        let Usage { tasks, files, disk_bytes, groups, entries } = *usage;
        let bounds = [
            ("tasks", tasks, TASKS_MAX + groups * TASKS_PER_GROUP_MAX),
            ("open files", files, FILES_MAX),
            ("bytes on disk", disk_bytes, DISK_MAX + entries * DISK_PER_ENTRY_MAX),
        ];
        for (what, is, bound) in bounds {
            if is > bound {
                let what = format!(
                    "nothing grows without a bound: node {node} has {is} {what}, with {groups} groups and {entries} \
                     entries at most {bound}"
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
    fn what_grows_is_seen() {
        assert_eq!(broken("usage 1 tasks 100000 files 5 disk 100000 groups 6 entries 100"), ["O-29"]);
        assert_eq!(broken("usage 1 tasks 100 files 500 disk 100000 groups 6 entries 100"), ["O-29"]);
        assert_eq!(broken("usage 1 tasks 100 files 5 disk 1000000000 groups 6 entries 100"), ["O-29"]);
    }

    #[test]
    fn much_with_much_to_hold_is_legal() {
        assert!(broken("usage 1 tasks 700 files 9 disk 40000000 groups 6 entries 900").is_empty());
    }
}
