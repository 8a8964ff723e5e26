//! O-02, log matching: where two logs hold an entry of the same index and term, they hold the same entry, and the same
//! ones before it (Raft §5.3; faults-and-oracles O-02). Judged entry by entry: an index and a term have one content
//! and one predecessor, whoever holds or sends them; the rest follows by induction. Terms along a log never descend.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_node::storage::LogId;
use quorate_proto::ids::{GroupId, NodeId, Term};

use super::logs::{ByIndex, Logs, told};
use super::{Found, Judge};
use crate::observe::{Line, Sight};

const ID: &str = "O-02";

#[derive(Default)]
pub(super) struct LogMatching {
    logs: Logs,
    known: BTreeMap<GroupId, ByIndex<Vec<Known>>>,
}

/// An entry, as the first told who saw it.
struct Known {
    term: Term,
    digest: Option<u64>,
    prev: Option<Term>,
    by: NodeId,
}

impl Judge for LogMatching {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        let (node, group, prev, lines) = match sight {
            Sight::Log { node, group, from, lines } => {
                let prev = self.logs.before(*node, *group, *from);
                self.logs.see(sight);
                (*node, *group, prev, lines)
            }
            Sight::Sent { node, group, prev, lines } => (*node, *group, *prev, lines),
            Sight::OnPlatter { node, group, lines } => (*node, *group, None, lines),
            _ => return self.logs.see(sight),
        };
        let mut before = prev;
        for line in lines {
            self.judge(at, (node, group), before, line, found);
            before = Some(LogId { term: line.term, index: line.index });
        }
    }
}

impl LogMatching {
    fn judge(
        &mut self,
        at: Duration,
        (node, group): (NodeId, GroupId),
        before: Option<LogId>,
        line: &Line,
        found: &mut Found,
    ) {
        let Line { index, term, digest } = *line;
        let before = before.filter(|before| before.index.next() == index);
        if before.is_some_and(|before| before.term > term) {
            let what = format!(
                "terms never descend along a log: node {node} has entry {index} of group {group} in term {term}, \
                 behind {}",
                told(before)
            );
            found.tell(ID, at, what);
        }
        let prev = before.map(|before| before.term);
        let known = self.known.entry(group).or_default().at(index).get_or_insert_default();
        let Some(first) = known.iter_mut().find(|known| known.term == term) else {
            known.push(Known { term, digest, prev, by: node });
            return;
        };
        let differs = |one: Option<u64>, other: Option<u64>| one.is_some() && other.is_some() && one != other;
        let terms = (first.prev.map(|term| term.0), prev.map(|term| term.0));
        if differs(first.digest, digest) || differs(terms.0, terms.1) {
            let what = format!(
                "logs that agree on index and term agree: entry {index} of term {term} of group {group} is \
                 {:08x?} behind term {:?} on node {}, and {digest:08x?} behind term {prev:?} on node {node}",
                first.digest, first.prev, first.by
            );
            found.tell(ID, at, what);
        }
        first.digest = first.digest.or(digest);
        first.prev = first.prev.or(prev);
    }
}

#[cfg(test)]
mod tests {
    use crate::check::sights::broken;

    #[test]
    fn two_entries_with_one_id_are_seen() {
        assert_eq!(broken("log 1 from 0: 1 1\nlog 2 from 0: 1 1x"), ["O-02"]);
        assert_eq!(broken("log 1 from 0: 1 1 2\nlog 2 from 0: 1 2 2"), ["O-02"], "another predecessor");
        assert_eq!(broken("sent 1 from 0: 1 1\nlog 2 from 0: 1 1x"), ["O-02"]);
        assert_eq!(broken("log 1 from 0: 1 3 2"), ["O-02"], "a term behind a newer one");
        assert_eq!(broken("log 1 from 0: 1 1\nplatter 2: 1 1x"), ["O-02"]);
    }

    #[test]
    fn tails_may_differ_and_be_cut() {
        assert!(broken("log 1 from 0: 1 1 1\nlog 2 from 0: 1 2 2").is_empty());
        assert!(broken("log 1 from 0: 1 1 1\nlog 1 from 1: 2\nlog 2 from 0: 1 2").is_empty());
        assert!(broken("open 1: 1 1 2\nlog 1 from 3: 2x\nlog 2 from 0: 1 1 2 2x").is_empty());
        assert!(broken("log 1 from 0: 1 1\nsent 1 from 1: 1\nsent 1 from 1: 1").is_empty(), "sent again");
    }
}
