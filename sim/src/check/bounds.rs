//! O-08, each within the next: what is trimmed, then the checkpoint, then applied, then committed, then the log (Raft
//! §5.3, §7). So it is in a process, and so on a disk, at any moment: a log that begins behind its checkpoint has lost
//! what lies between, and a checkpoint beyond the log under it would take the place of entries that nobody has synced. A
//! disk that was damaged may have lost the checkpoint itself, until the replica has one again; while it runs it is held to
//! all of it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_node::storage::LogId;
use quorate_proto::ids::{GroupId, LogIndex, NodeId};

use super::words::told;
use super::{Found, Judge};
use crate::observe::{OnDisk, Sight};

const ID: &str = "O-08";

#[derive(Default)]
pub(super) struct Bounds {
    /// The index behind the last entry that each partition has made something of.
    next: BTreeMap<(NodeId, GroupId), LogIndex>,
    /// Nodes whose disk was damaged, and those of their groups that have taken a checkpoint since.
    damaged: BTreeMap<NodeId, BTreeSet<GroupId>>,
}

impl Judge for Bounds {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        match sight {
            Sight::Applied { node, group, next, .. } => {
                self.next.insert((*node, *group), *next);
            }
            Sight::Opened { node, groups, .. } => {
                self.next.retain(|(of, _), _| of != node);
                self.on_disks(at, *node, groups, "its process found", found);
            }
            Sight::Platters { nodes } => {
                for (node, groups) in nodes {
                    self.on_disks(at, *node, groups, "its platters hold", found);
                }
            }
            Sight::Damaged { node } => {
                self.damaged.insert(*node, BTreeSet::new());
            }
            Sight::DiskLost { node } => {
                self.damaged.remove(node);
            }
            Sight::Checkpoint { node, group, .. } => {
                if let Some(whole) = self.damaged.get_mut(node) {
                    whole.insert(*group);
                }
            }
            Sight::Removed { node, group, .. } | Sight::Restarted { node, group, .. } => {
                self.next.remove(&(*node, *group));
            }
            Sight::Replica { node, group, replica } => {
                let index = |id: Option<LogId>| id.map(|id| id.index);
                let next = self.next.get(&(*node, *group)).copied().unwrap_or_default();
                let wrong = if index(replica.purged) > index(replica.checkpoint) {
                    Some(("trimmed", told(replica.purged), "in its checkpoint", told(replica.checkpoint)))
                } else if index(replica.checkpoint) > index(replica.applied) && replica.applied.is_some() {
                    Some(("a checkpoint of", told(replica.checkpoint), "applied", told(replica.applied)))
                } else if index(replica.applied) > index(replica.committed) {
                    Some(("applied", told(replica.applied), "committed", told(replica.committed)))
                } else if next > replica.committed.map_or(LogIndex(0), |committed| committed.index.next()) {
                    Some(("applied", format!("all before {next}"), "committed", told(replica.committed)))
                } else if index(replica.committed) > index(replica.last) {
                    Some(("committed", told(replica.committed), "in its log", told(replica.last)))
                } else {
                    None
                };
                if let Some((what, is, within, bound)) = wrong {
                    let what = format!(
                        "trimmed <= checkpoint <= applied <= committed <= last: node {node} has {what} {is} of group \
                         {group}, and {within} only {bound}"
                    );
                    found.tell(ID, at, what);
                }
            }
            _ => {}
        }
    }
}

impl Bounds {
    /// Judges what a disk holds.
    fn on_disks(
        &self,
        at: Duration,
        node: NodeId,
        groups: &BTreeMap<GroupId, OnDisk>,
        place: &str,
        found: &mut Found,
    ) {
        for (group, on_disk) in groups {
            let index = |id: Option<LogId>| id.map(|id| id.index);
            let OnDisk { purged, checkpoint, last, .. } = *on_disk;
            let is_lost =
                checkpoint.is_none() && self.damaged.get(&node).is_some_and(|whole| !whole.contains(group));
            if (index(purged) > index(checkpoint) && !is_lost) || index(checkpoint) > index(last) {
                let what = format!(
                    "trimmed <= checkpoint <= last: of group {group} of node {node} {place} a log that is trimmed through \
                     {}, a checkpoint of {} and a log up to {}",
                    told(purged),
                    told(checkpoint),
                    told(last)
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
    fn each_inversion_is_seen() {
        let log = "log 1 from 0: 1 1 1";
        for replica in [
            "replica 1 t1 applied 2/1 committed 1/1 last 2/1",
            "replica 1 t1 applied 2/1 committed 3/1 last 2/1",
            "replica 1 t1 checkpoint 2/1 purged 2/1 applied 1/1 committed 1/1 last 2/1",
            "replica 1 t1 checkpoint 0/1 purged 1/1 applied 1/1 committed 1/1 last 2/1",
            "replica 1 t1 purged 1/1 applied 1/1 committed 1/1 last 2/1",
            "end 1\nopen 1 after 2/1: 1",
            "end 1\nopen 1 checkpoint 5/1: 1 1 1",
            "platters 1 checkpoint 2/1 after 3/1: 1",
            "applied 1 before 3 gives 7\nreplica 1 t1 applied 1/1 committed 1/1 last 2/1",
        ] {
            assert_eq!(broken(&format!("{log}\n{replica}")), ["O-08"], "{replica}");
        }
    }

    #[test]
    fn a_damaged_disk_may_have_lost_its_checkpoint_until_there_is_another() {
        let lost = "damaged 1\nopen 1 after 2/1: 1";
        assert!(broken(lost).is_empty());
        assert_eq!(
            broken(&format!("{lost}\ncheckpoint 1 at 2/1 gives 5\nend 1\nopen 1 after 2/1: 1")),
            ["O-08"]
        );
        assert_eq!(broken("damaged 2\nopen 1 after 2/1: 1"), ["O-08"], "another one's");
        assert_eq!(broken("damaged 1\nopen 1 checkpoint 5/1: 1 1 1"), ["O-08"]);
    }

    #[test]
    fn equal_and_absent_is_legal() {
        assert!(broken("replica 1 t1").is_empty());
        let log = "log 1 from 0: 1 1 1\napplied 1 before 3 gives 7";
        assert!(broken(&format!("{log}\nreplica 1 t1 applied 2/1 committed 2/1 last 2/1")).is_empty());
        assert!(broken("applied 1 before 3 gives 7\nend 1\nopen 1:\nreplica 1 t1").is_empty());
        assert!(
            broken("open 1 checkpoint 4/1 after 2/1: 1 1\nreplica 1 t1 checkpoint 4/1 purged 2/1 last 4/1")
                .is_empty()
        );
        assert!(broken("open 1 checkpoint 4/1 after 4/1:").is_empty(), "all of it is trimmed");
        assert!(broken("open 1 checkpoint 2/1: 1 1 1").is_empty(), "trimmed later, or never");
    }
}
