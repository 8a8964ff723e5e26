//! O-29, nothing grows without a bound: tasks, open files and bytes on disk stay in proportion to what a node
//! holds.

use std::time::Duration;

use super::{Found, Judge};
use crate::observe::{Sight, Usage};

const ID: &str = "O-29";

/// Tasks of a node, and more for each group: its Raft, replication to each peer, requests in flight.
const TASKS_MAX: u64 = 400;
const TASKS_PER_GROUP_MAX: u64 = 80;
/// Open files: the volumes that may be open, the one written, the next one, and the facts.
const FILES_MAX: u64 = 64;
/// Bytes on disk: what an empty folder takes, what an entry may take with all that is rounded up around it, and what a
/// volume takes however little it holds: redb begins a file with a megabyte and gives it back only where the last pages
/// are free, and a volume may be full, or rolled early, with its first entry.
const DISK_MAX: u64 = 32 << 20;
const DISK_PER_ENTRY_MAX: u64 = 64 << 10;
const DISK_PER_VOLUME_MAX: u64 = (1 << 20) + (8 << 10);
/// Volumes that hold nothing alive any more and are about to be removed, one after the other.
const DEAD_VOLUMES_MAX: u64 = 32;

#[derive(Default)]
pub(super) struct Growth;

impl Judge for Growth {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        let Sight::Usage { node, usage } = sight else { return };
        let Usage { tasks, files, disk_bytes, volumes, volumes_alive, groups, entries } = *usage;
        let disk_max = DISK_MAX + volumes_alive * DISK_PER_VOLUME_MAX + entries * DISK_PER_ENTRY_MAX;
        let bounds = [
            ("tasks", tasks, TASKS_MAX + groups * TASKS_PER_GROUP_MAX),
            ("open files", files, FILES_MAX),
            ("volumes", volumes, volumes_alive + DEAD_VOLUMES_MAX),
            ("bytes on disk", disk_bytes, disk_max),
        ];
        for (what, is, bound) in bounds {
            if is > bound {
                let what = format!(
                    "nothing grows without a bound: node {node} has {is} {what}, with {groups} groups, {entries} \
                     entries and {volumes_alive} volumes alive at most {bound}"
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
        let usage = |tasks, files, disk, volumes| {
            broken(&format!(
                "usage 1 tasks {tasks} files {files} disk {disk} volumes {volumes} alive 9 groups 6 entries 100"
            ))
        };
        assert_eq!(usage(100_000, 5, 100_000, 9), ["O-29"]);
        assert_eq!(usage(100, 500, 100_000, 9), ["O-29"]);
        assert_eq!(usage(100, 5, 1_000_000_000, 9), ["O-29"]);
        assert_eq!(usage(100, 5, 100_000, 60), ["O-29"], "volumes that hold nothing stay");
        assert!(usage(100, 5, 100_000, 12).is_empty());
    }

    #[test]
    fn much_with_much_to_hold_is_legal() {
        let held = "usage 1 tasks 700 files 9 disk 40000000 volumes 20 alive 20 groups 6 entries 900";
        assert!(broken(held).is_empty());
        // Volumes of a megabyte each, of which many were rolled with one entry.
        let rolled = "usage 1 tasks 700 files 9 disk 86560768 volumes 119 alive 118 groups 6 entries 805";
        assert!(broken(rolled).is_empty());
    }
}
