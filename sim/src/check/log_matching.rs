//! O-02, log matching: where two logs hold an entry of the same index and term, they hold the same entry, and the same
//! ones before it (Raft §5.3). Judged entry by entry: an index and a term have one content
//! and one predecessor, whoever holds or sends them; the rest follows by induction. Terms along a log never descend.
//! And what a node cut from its log is gone from its platters once it has told that it holds what came in its place:
//! a stale tail would rise again under the ids of others.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_node::storage::LogId;
use quorate_proto::ids::{GroupId, LogIndex, NodeId, Term};

use super::logs::{ByIndex, Logs};
use super::words::{content, term as term_of, told};
use super::{Found, Judge};
use crate::observe::{Line, OnDisk, Sight};

const ID: &str = "O-02";

#[derive(Default)]
pub(super) struct LogMatching {
    logs: Logs,
    known: BTreeMap<GroupId, ByIndex<Vec<Known>>>,
    cuts: BTreeMap<(NodeId, GroupId), Cut>,
}

/// The last cut of a log.
struct Cut {
    from: LogIndex,
    /// The furthest that the log has reached since.
    end: LogIndex,
    /// Whether the node has told that it holds something that came after the cut.
    told: bool,
}

/// An entry, as the first told who saw it.
struct Known {
    term: Term,
    digest: Option<u64>,
    prev: Option<Term>,
    by: NodeId,
    at: Duration,
}

impl Judge for LogMatching {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        let (node, group, prev, lines) = match sight {
            Sight::Log { node, group, from, lines } => {
                let prev = self.logs.before(*node, *group, *from);
                let end = lines.last().map_or(*from, |line| line.index.next());
                if self.logs.line(*node, *group, *from).is_some() {
                    self.cuts.insert((*node, *group), Cut { from: *from, end, told: false });
                } else if let Some(cut) = self.cuts.get_mut(&(*node, *group)) {
                    cut.end = cut.end.max(end);
                }
                self.logs.see(sight);
                (*node, *group, prev, lines)
            }
            Sight::Sent { node, group, prev, lines } => (*node, *group, *prev, lines),
            Sight::OnPlatter { node, group, after, lines } => (*node, *group, *after, lines),
            Sight::Trimmed { node, group, through } => {
                if let Some(cut) = self.cuts.get_mut(&(*node, *group)) {
                    cut.end = cut.end.max(through.index.next());
                }
                return self.logs.see(sight);
            }
            Sight::Matched { node, group, through, .. } => {
                if let Some(cut) = self.cuts.get_mut(&(*node, *group)) {
                    // An answer that was long on its way tells of what is cut by now.
                    cut.told |= through.index >= cut.from && self.logs.holds(*node, *group, *through);
                }
                return;
            }
            Sight::Platters { nodes } => {
                for (node, groups) in nodes {
                    self.stale(at, *node, groups, found);
                }
                return;
            }
            Sight::DiskLost { node } | Sight::Damaged { node } => {
                self.cuts.retain(|(of, _), _| of != node);
                return self.logs.see(sight);
            }
            Sight::Removed { node, group, .. }
            | Sight::Restarted { node, group, emptied: true }
            | Sight::TailLost { node, group } => {
                self.cuts.remove(&(*node, *group));
                return self.logs.see(sight);
            }
            Sight::Opened { node, groups, .. } => {
                self.stale(at, *node, groups, found);
                self.cuts.retain(|(of, _), _| of != node);
                self.logs.see(sight);
                for (group, on_disk) in groups {
                    let mut before = on_disk.purged;
                    for line in on_disk.lines() {
                        self.judge(at, (*node, *group), before, &line, found);
                        before = Some(LogId { term: line.term, index: line.index });
                    }
                }
                return;
            }
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
    /// Looks for tails on a disk that had been cut.
    fn stale(&self, at: Duration, node: NodeId, groups: &BTreeMap<GroupId, OnDisk>, found: &mut Found) {
        for ((_, group), cut) in self.cuts.range((node, GroupId(0))..=(node, GroupId(u64::MAX))) {
            let last = groups.get(group).and_then(|on_disk| on_disk.last);
            if cut.told && last.is_some_and(|last| last.index >= cut.end) {
                let what = format!(
                    "what is cut stays cut: node {node} cut its log of group {group} at {}, told that it holds what \
                     came then, has had nothing from {} on since, and on its disk is {}",
                    cut.from,
                    cut.end,
                    told(last)
                );
                found.tell(ID, at, what);
            }
        }
    }

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
            known.push(Known { term, digest, prev, by: node, at });
            return;
        };
        let differs = |one: Option<u64>, other: Option<u64>| one.is_some() && other.is_some() && one != other;
        let terms = (first.prev.map(|term| term.0), prev.map(|term| term.0));
        if differs(first.digest, digest) || differs(terms.0, terms.1) {
            let what = format!(
                "logs that agree on index and term agree: entry {index} of term {term} of group {group} has \
                 {} behind {} on node {} at {:?}, and {} behind {} on node {node} now",
                content(first.digest),
                term_of(first.prev),
                first.by,
                first.at,
                content(digest),
                term_of(prev)
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
        assert_eq!(broken("log 1 from 0: 1 2 2\nopen 2: 1 1 2"), ["O-02"]);
        let cut = "log 1 from 0: 1 1 1 1\nlog 1 from 1: 2\nmatched 1 t2 1/2";
        assert_eq!(broken(&format!("{cut}\nplatters 1 vote 2/2: 1 2 2 2")), ["O-02"], "a stale tail");
        assert_eq!(broken(&format!("{cut}\nend 1\nopen 1 vote 2/2: 1 2 2 2")), ["O-02"], "that rose again");
    }

    #[test]
    fn tails_may_differ_and_be_cut() {
        assert!(broken("log 1 from 0: 1 1 1\nlog 2 from 0: 1 2 2").is_empty());
        assert!(broken("log 1 from 0: 1 1 1\nlog 1 from 1: 2\nlog 2 from 0: 1 2").is_empty());
        let cut = "log 1 from 0: 1 1 1 1\nlog 1 from 1: 2";
        assert!(broken(&format!("{cut}\nplatters 1: 1 1 1 1")).is_empty(), "not durable yet");
        let late = format!("{cut}\nmatched 1 t1 3/1\nplatters 1: 1 1 1 1");
        assert!(!broken(&late).contains(&"O-02"), "an answer that was long on its way");
        assert!(
            broken(&format!("{cut}\nmatched 1 t2 1/2\nlog 1 from 2: 2 2\nplatters 1: 1 2 2 2")).is_empty()
        );
        let last_words = format!("{cut}\nmatched 1 t2 1/2\nlog 1 from 2: 2\nend 1\nopen 1 vote 2/2: 1 2 2");
        assert!(broken(&last_words).is_empty(), "written as it stopped");
        assert!(broken("open 1: 1 1 2\nlog 1 from 3: 2x\nlog 2 from 0: 1 1 2 2x").is_empty());
        assert!(broken("log 1 from 0: 1 1\nsent 1 from 1: 1\nsent 1 from 1: 1").is_empty(), "sent again");
    }

    #[test]
    fn chains_begin_anew_behind_what_was_trimmed() {
        let trimmed = "log 1 from 0: 1 1 2 2\nlog 2 from 0: 1 1 2 2\ntrimmed 1 2/2";
        assert!(broken(&format!("{trimmed}\nlog 1 from 4: 3\nlog 2 from 4: 3")).is_empty());
        assert_eq!(broken(&format!("{trimmed}\nlog 1 from 4: 3\nlog 2 from 4: 3x")), ["O-02"]);
        // A replica that lagged takes a checkpoint as of entry 9, and has nothing before it.
        let caught_up = "log 1 from 0: 1 1 2 2 2 2 2 2 2 2\nlog 2 from 0: 1 1\ntrimmed 2 9/2";
        assert!(broken(&format!("{caught_up}\nlog 1 from 10: 2\nlog 2 from 10: 2")).is_empty());
        assert_eq!(
            broken("log 1 from 0: 1 1 2 3\nlog 2 from 0: 1\ntrimmed 2 2/1\nlog 2 from 3: 3"),
            ["O-02"],
            "another predecessor"
        );
        assert_eq!(
            broken("log 1 from 0: 1 1 2 3\nplatter 2 after 2/2: 3x"),
            ["O-02"],
            "on the platters of a log that begins there"
        );
        let cut = "log 1 from 0: 1 1 1 1\nlog 1 from 2:\ntrimmed 1 9/2\nmatched 1 t2 9/2\nend 1";
        assert!(
            broken(&format!("{cut}\nopen 1 vote 2/2 checkpoint 9/2 after 9/2:")).is_empty(),
            "a checkpoint in its place"
        );
    }
}
