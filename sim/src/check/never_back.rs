//! O-07, no node goes back: its term, what it knows to be committed and what it has applied only rise while it runs; a
//! restart brings back at least the newest term that it acted in; and no group is forgotten while its topic exists
//! (Raft §5.1). What is committed and applied is kept in memory only, and may begin lower
//! after a restart.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_node::storage::LogId;
use quorate_proto::ids::{GroupId, Identity, NodeId, Term};

use super::words::{told, vote as vote_of};
use super::{Found, Judge};
use crate::observe::{OnDisk, Replica, Sight};

const ID: &str = "O-07";

#[derive(Default)]
pub(super) struct NeverBack {
    replicas: BTreeMap<(NodeId, GroupId), Replica>,
    /// The newest term that a node has acted in so that others count on it.
    acted: BTreeMap<(NodeId, GroupId), Term>,
    /// Removed, and not seen since: a request of theirs may come again all the same.
    gone: BTreeSet<(NodeId, GroupId)>,
    identities: BTreeMap<NodeId, Identity>,
}

impl Judge for NeverBack {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        match sight {
            Sight::Opened { node, identity, groups } => self.opened(at, *node, *identity, groups, found),
            Sight::DiskLost { node } => {
                self.acted.retain(|(of, _), _| of != node);
                self.identities.remove(node);
            }
            Sight::Leads { node, group, term } | Sight::Matched { node, group, term, .. }
                if !self.gone.contains(&(*node, *group)) =>
            {
                let acted = self.acted.entry((*node, *group)).or_default();
                *acted = (*acted).max(*term);
            }
            Sight::Removed { node, group, assigned } => {
                self.replicas.remove(&(*node, *group));
                self.acted.remove(&(*node, *group));
                self.gone.insert((*node, *group));
                if *assigned {
                    let what =
                        format!("no group is forgotten: node {node} removed group {group}, which is its own");
                    found.tell(ID, at, what);
                }
            }
            Sight::Restarted { node, group, .. } => {
                self.replicas.remove(&(*node, *group));
            }
            Sight::Replica { node, group, replica } => {
                self.gone.remove(&(*node, *group));
                let before = self.replicas.insert((*node, *group), *replica).unwrap_or_default();
                let index = |id: Option<LogId>| id.map(|id| id.index);
                let sunk = if replica.term < before.term {
                    Some(format!("its term from {} to {}", before.term, replica.term))
                } else if index(replica.committed) < index(before.committed) {
                    Some(format!("committed from {} to {}", told(before.committed), told(replica.committed)))
                } else if index(replica.applied) < index(before.applied) {
                    Some(format!("applied from {} to {}", told(before.applied), told(replica.applied)))
                } else {
                    None
                };
                if let Some(sunk) = sunk {
                    let what = format!("nothing goes back: node {node} lowered, in group {group}, {sunk}");
                    found.tell(ID, at, what);
                }
            }
            _ => {}
        }
    }
}

impl NeverBack {
    fn opened(
        &mut self,
        at: Duration,
        node: NodeId,
        identity: Identity,
        groups: &BTreeMap<GroupId, OnDisk>,
        found: &mut Found,
    ) {
        self.replicas.retain(|(of, _), _| *of != node);
        let known = self.identities.insert(node, identity);
        let acted = self.acted.range((node, GroupId(0))..=(node, GroupId(u64::MAX)));
        if let Some(known) = known.filter(|known| *known != identity)
            && acted.clone().next().is_some()
        {
            let what = format!("a disk keeps its identity: node {node} was {known} and is {identity}");
            found.tell(ID, at, what);
        }
        for ((_, group), acted) in acted {
            let vote = groups.get(group).and_then(|on_disk| on_disk.vote);
            if vote.is_none_or(|vote| vote.term < *acted) {
                let what = format!(
                    "a restart brings the term back: node {node} acted in term {acted} of group {group}, and came \
                     back with {}",
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
    fn going_back_is_seen() {
        assert_eq!(broken("replica 1 t4\nreplica 1 t3"), ["O-07"]);
        let log = "log 1 from 0: 1 1 1";
        assert_eq!(
            broken(&format!(
                "{log}\nreplica 1 t1 committed 2/1 last 2/1\nreplica 1 t1 committed 1/1 last 2/1"
            )),
            ["O-07"]
        );
        assert_eq!(
            broken(&format!(
                "{log}\nreplica 1 t1 applied 2/1 committed 2/1 last 2/1\n\
                 replica 1 t1 applied 1/1 committed 2/1 last 2/1"
            )),
            ["O-07"]
        );
        assert_eq!(
            broken("leads 1 t4\nend 1\nopen 1 vote 3/2:"),
            ["O-07"],
            "it led in a term that it forgot"
        );
        assert_eq!(broken("leads 1 t4\nend 1\nopen 1:"), ["O-07"]);
        assert_eq!(broken("removed 1 assigned"), ["O-07"]);
    }

    #[test]
    fn a_replica_that_is_started_again_may_begin_to_apply_anew() {
        let log = "log 1 from 0: 1 1 1\nreplica 1 t1 applied 2/1 committed 2/1 last 2/1";
        let anew = "replica 1 t1 applied 1/1 committed 2/1 last 2/1";
        assert_eq!(broken(&format!("{log}\n{anew}")), ["O-07"]);
        assert!(broken(&format!("{log}\nrestarted 1\n{anew}")).is_empty());
    }

    #[test]
    fn a_restart_may_begin_to_apply_anew() {
        let log = "open 1 vote 1/2:\nlog 1 from 0: 1 1 1\nreplica 1 t1 applied 2/1 committed 2/1 last 2/1";
        assert!(broken(&format!("{log}\nend 1\nopen 1 vote 1/2: 1 1 1\nreplica 1 t1 last 2/1")).is_empty());
        assert!(broken("replica 1 t4\nend 1\nopen 1 vote 3/2:\nreplica 1 t3").is_empty(), "told to nobody");
        assert!(broken("leads 1 t4\nend 1\nlost 1\nopen 1:\nreplica 1 t0").is_empty(), "another disk");
        assert!(broken("leads 1 t4\nremoved 1\nend 1\nopen 1:").is_empty(), "its topic was deleted");
        assert!(
            broken("leads 1 t4\nremoved 1\nleads 1 t3\nend 1\nopen 1:").is_empty(),
            "and a request repeated"
        );
    }
}
