//! O-01, election safety: at most one leader per group and term, as each node votes at most once a term (Raft §5.2). Judged by who speaks as a leader, by what nodes say of themselves, and by the votes that
//! they say they gave.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::ids::{GroupId, NodeId, Term};

use super::{Found, Judge};
use crate::observe::Sight;

const ID: &str = "O-01";

#[derive(Default)]
pub(super) struct Election {
    leaders: BTreeMap<(GroupId, Term), (NodeId, Duration)>,
    votes: BTreeMap<(NodeId, GroupId, Term), (NodeId, Duration)>,
}

impl Judge for Election {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        match sight {
            Sight::Leads { node, group, term } => self.leads(at, *node, *group, *term, found),
            Sight::Replica { node, group, replica } if replica.leads => {
                self.leads(at, *node, *group, replica.term, found);
            }
            Sight::Granted { node, group, term, candidate } => {
                self.votes(at, (*node, *group, *term), *candidate, found);
            }
            // Who asks for votes has given itself its own.
            Sight::Stands { node, group, term } => self.votes(at, (*node, *group, *term), *node, found),
            // What it promised is gone with the disk, and nobody may count on it.
            Sight::DiskLost { node } => self.votes.retain(|(of, ..), _| of != node),
            _ => {}
        }
    }
}

impl Election {
    fn votes(
        &mut self,
        at: Duration,
        (node, group, term): (NodeId, GroupId, Term),
        candidate: NodeId,
        found: &mut Found,
    ) {
        let first = self.votes.entry((node, group, term)).or_insert((candidate, at));
        if first.0 != candidate {
            let what = format!(
                "one vote a term: node {node} gave its vote in term {term} of group {group} to node {} at {:?}, and \
                 to node {candidate}",
                first.0, first.1
            );
            found.tell(ID, at, what);
        }
    }

    fn leads(&mut self, at: Duration, node: NodeId, group: GroupId, term: Term, found: &mut Found) {
        let first = self.leaders.entry((group, term)).or_insert((node, at));
        if first.0 != node {
            let what = format!(
                "one leader a term: node {} led group {group} in term {term} at {:?}, and so does node {node}",
                first.0, first.1
            );
            found.tell(ID, at, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::sights::broken;

    #[test]
    fn a_second_leader_of_a_term_is_seen() {
        assert_eq!(broken("leads 1 t3\nleads 2 t3"), ["O-01"]);
        assert_eq!(broken("replica 1 t3 leads\nleads 2 t3"), ["O-01"]);
        assert_eq!(broken("granted 1 t4 to 2\nend 1\ngranted 1 t4 to 3"), ["O-01"]);
        assert_eq!(broken("stands 1 t4\nend 1\ngranted 1 t4 to 3"), ["O-01"], "its own vote");
    }

    #[test]
    fn many_terms_and_repeated_words_are_legal() {
        assert!(
            broken("leads 1 t3\nleads 2 t4\nleads 1 t3\nleads 1 t3").is_empty(),
            "an old leader speaks on"
        );
        assert!(
            broken("granted 1 t4 to 2\ngranted 1 t4 to 2\ngranted 1 t5 to 3\ngranted 3 t5 to 3").is_empty()
        );
        assert!(
            broken("stands 1 t4\nstands 2 t4\nstands 1 t4\ngranted 3 t4 to 2\ngranted 1 t5 to 3").is_empty()
        );
        assert!(broken("granted 1 t4 to 2\nlost 1\ngranted 1 t4 to 3").is_empty(), "on a new disk");
    }
}
