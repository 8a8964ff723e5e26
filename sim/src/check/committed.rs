//! O-06, committed is for ever: what one node once knew to be committed at an index is what every node knows there, and
//! no replica that holds it cuts it (Raft §5.4.3). What a replica trims is committed, and is what others know there.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::ids::{GroupId, LogIndex, NodeId};

use super::logs::{ByIndex, Logs};
use super::words::content;
use super::{Found, Judge};
use crate::observe::{Line, Sight};

const ID: &str = "O-06";

#[derive(Default)]
pub(super) struct Committed {
    logs: Logs,
    known: BTreeMap<GroupId, ByIndex<(Line, NodeId, Duration)>>,
    /// How far each replica's commits were looked at.
    looked: BTreeMap<(NodeId, GroupId), LogIndex>,
}

impl Judge for Committed {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        match sight {
            Sight::Log { node, group, from, .. } => self.cut(at, *node, *group, *from, found),
            Sight::Trimmed { node, group, through } => {
                let line = Line { index: through.index, term: through.term, digest: None };
                self.know(at, *node, *group, line, found);
            }
            Sight::Opened { node, .. } | Sight::DiskLost { node } => {
                self.looked.retain(|(of, _), _| of != node);
            }
            Sight::Removed { node, group, .. } | Sight::Restarted { node, group, emptied: true } => {
                self.looked.remove(&(*node, *group));
            }
            Sight::Replica { node, group, replica } => {
                if let Some(committed) = replica.committed {
                    self.committed(at, *node, *group, committed.index.next(), found);
                }
            }
            _ => {}
        }
        self.logs.see(sight);
    }
}

impl Committed {
    fn committed(&mut self, at: Duration, node: NodeId, group: GroupId, end: LogIndex, found: &mut Found) {
        let looked = self.looked.entry((node, group)).or_default();
        let news = looked.0..end.0;
        *looked = (*looked).max(end);
        for index in news.map(LogIndex) {
            if let Some(line) = self.logs.line(node, group, index).copied() {
                self.know(at, node, group, line, found);
            }
        }
    }

    /// A replica knows an entry to be committed.
    fn know(&mut self, at: Duration, node: NodeId, group: GroupId, line: Line, found: &mut Found) {
        let Line { index, term, digest } = line;
        let known = self.known.entry(group).or_default();
        let (first, by, then) = known.at(index).get_or_insert((line, node, at));
        let differs = match (first.digest, digest) {
            (Some(one), Some(other)) => one != other,
            _ => false,
        };
        if first.term != term || differs {
            let what = format!(
                "what is committed stays: entry {index} of group {group} is committed with term {} and {}, as node \
                 {by} knew at {then:?}, and with term {term} and {}, as node {node} knows",
                first.term,
                content(first.digest),
                content(digest)
            );
            found.tell(ID, at, what);
        }
    }

    fn cut(&self, at: Duration, node: NodeId, group: GroupId, from: LogIndex, found: &mut Found) {
        let (Some(log), Some(known)) = (self.logs.of(node, group), self.known.get(&group)) else { return };
        let gone = log.from(from).iter().find_map(|line| {
            let (committed, by, then) = known.get(line.index)?;
            (committed.term == line.term).then_some((line, by, then))
        });
        if let Some((line, by, then)) = gone {
            let what = format!(
                "what is committed stays: node {node} cut entry {} of term {} of group {group}, which is committed, \
                 as node {by} knew at {then:?}",
                line.index, line.term
            );
            found.tell(ID, at, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::sights::broken;

    #[test]
    fn a_committed_entry_that_changes_is_seen() {
        let first = "log 1 from 0: 1 1\nreplica 1 t1 committed 1/1 last 1/1";
        assert_eq!(broken(&format!("{first}\nlog 1 from 1: 2")), ["O-06"], "cut");
        assert_eq!(
            broken(&format!("{first}\nlog 2 from 0: 1 2\nreplica 2 t2 committed 1/2 last 1/2")),
            ["O-06"]
        );
    }

    #[test]
    fn what_is_trimmed_is_what_was_committed() {
        let first = "log 1 from 0: 1 1 2\nreplica 1 t2 applied 2/2 committed 2/2 last 2/2";
        assert!(broken(&format!("{first}\ntrimmed 1 1/1\nlog 2 from 0: 1\ntrimmed 2 2/2")).is_empty());
        assert_eq!(broken(&format!("{first}\ntrimmed 2 2/3")), ["O-06"], "a checkpoint of another history");
        let alone = "trimmed 2 2/3\nlog 1 from 0: 1 1 2\nreplica 1 t2 applied 2/2 committed 2/2 last 2/2";
        assert_eq!(broken(alone), ["O-06"], "told late");
        let lagged =
            "log 1 from 0: 1 1 1\nlog 2 from 0: 1 2 2\nreplica 2 t2 applied 2/2 committed 2/2 last 2/2";
        assert!(broken(&format!("{lagged}\ntrimmed 1 2/2")).is_empty(), "its own tail was never committed");
    }

    #[test]
    fn only_a_log_that_is_given_up_as_a_whole_takes_what_is_committed_with_it() {
        let first = "log 1 from 0: 1 1\nreplica 1 t1 committed 1/1 last 1/1";
        assert!(broken(&format!("{first}\nrestarted 1 emptied\nlog 1 from 0: 1 1")).is_empty());
        assert_eq!(
            broken(&format!("{first}\nrestarted 1\nlog 1 from 1: 2")),
            ["O-06"],
            "it was started again"
        );
        assert_eq!(
            broken(&format!(
                "{first}\nrestarted 1 emptied\nlog 1 from 0: 1 2\nreplica 1 t2 committed 1/2 last 1/2"
            )),
            ["O-06"],
            "another one in its place"
        );
        let base_last = "restarted 1 emptied\ntrimmed 1 0/1\nrestarted 1 emptied\nlog 1 from 0: 1 1";
        assert!(broken(&format!("{first}\n{base_last}")).is_empty(), "its checkpoint went after its log");
        assert_eq!(broken(&format!("{first}\ntrimmed 1 0/1\nlog 1 from 1:")), ["O-06"], "its end alone went");
    }

    #[test]
    fn what_is_not_committed_may_be_cut() {
        let first = "log 1 from 0: 1 1 1\nreplica 1 t1 committed 0/1 last 2/1";
        assert!(
            broken(&format!("{first}\nlog 1 from 1: 2 2\nreplica 1 t2 committed 2/2 last 2/2")).is_empty()
        );
        assert!(
            broken(&format!(
                "{first}\nlog 2 from 0: 1 2\nreplica 2 t2 committed 1/2 last 1/2\nlog 1 from 1: 2"
            ))
            .is_empty()
        );
    }
}
