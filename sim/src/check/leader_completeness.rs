//! O-03, leader completeness: what is committed is in the log of every leader of a later term, and a leader never cuts
//! its own log (Raft §5.4 and §5.3).

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_node::storage::LogId;
use quorate_proto::ids::{GroupId, LogIndex, NodeId, Term};

use super::logs::{ByIndex, Logs};
use super::words::term as term_of;
use super::{Found, Judge};
use crate::observe::{Replica, Sight};

const ID: &str = "O-03";

#[derive(Default)]
pub(super) struct LeaderCompleteness {
    logs: Logs,
    /// Term of each committed entry, who said first that it is committed, and in which term that was.
    committed: BTreeMap<GroupId, ByIndex<(Term, NodeId, Term)>>,
    /// How far each replica's commits were looked at.
    looked: BTreeMap<(NodeId, GroupId), LogIndex>,
    /// The newest leader of each group.
    leaders: BTreeMap<GroupId, (Term, NodeId)>,
    replicas: BTreeMap<(NodeId, GroupId), Replica>,
    /// Replicas whose log was cut since they last told of themselves, and where.
    cut: BTreeMap<(NodeId, GroupId), LogIndex>,
}

impl Judge for LeaderCompleteness {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        match sight {
            Sight::Log { node, group, from, .. } if self.logs.line(*node, *group, *from).is_some() => {
                self.cut.insert((*node, *group), *from);
            }
            Sight::Opened { node, .. } | Sight::DiskLost { node } => {
                self.looked.retain(|(of, _), _| of != node);
                self.replicas.retain(|(of, _), _| of != node);
                self.cut.retain(|(of, _), _| of != node);
            }
            Sight::Removed { node, group, .. } | Sight::Restarted { node, group, .. } => {
                self.looked.remove(&(*node, *group));
                self.replicas.remove(&(*node, *group));
                self.cut.remove(&(*node, *group));
            }
            Sight::Replica { node, group, replica } => self.replica(at, *node, *group, *replica, found),
            _ => {}
        }
        self.logs.see(sight);
    }
}

impl LeaderCompleteness {
    fn replica(&mut self, at: Duration, node: NodeId, group: GroupId, replica: Replica, found: &mut Found) {
        let before = self.replicas.insert((node, group), replica);
        let led = before.is_some_and(|before| before.leads && before.term == replica.term);
        let cut = self.cut.remove(&(node, group));
        if let (true, true, Some(cut)) = (led, replica.leads, cut) {
            let what = format!(
                "a leader never cuts its log: node {node} leads group {group} in term {}, and has cut entry {cut}",
                replica.term
            );
            found.tell(ID, at, what);
        }
        if replica.leads && !led {
            let newest = self.leaders.entry(group).or_insert((replica.term, node));
            *newest = (*newest).max((replica.term, node));
            self.leads(at, node, group, replica.term, found);
        }
        let newest = self.leaders.get(&group).copied();
        let looked = self.looked.entry((node, group)).or_default();
        let end = replica.committed.map_or(LogIndex(0), |committed| committed.index.next());
        let committed = self.committed.entry(group).or_default();
        for index in (looked.0..end.0).map(LogIndex) {
            let Some(line) = self.logs.line(node, group, index) else { continue };
            let known = committed.at(index).get_or_insert((line.term, node, replica.term));
            let late =
                newest.filter(|(term, leader)| known.2 < *term && self.logs.of(*leader, group).is_some());
            if let Some((term, leader)) = late
                && !self.logs.holds(leader, group, LogId { term: known.0, index })
                && self.replicas.get(&(leader, group)).is_some_and(|seen| seen.leads && seen.term == term)
            {
                let what = format!(
                    "a leader has all that was committed before its term: node {leader} leads group {group} in term \
                     {term} and lacks entry {index} of term {}, which is committed, as node {node} knows in term {}",
                    known.0, known.2
                );
                found.tell(ID, at, what);
            }
        }
        *looked = (*looked).max(end);
    }

    /// Judges the log of a new leader.
    fn leads(&mut self, at: Duration, node: NodeId, group: GroupId, term: Term, found: &mut Found) {
        let Some(committed) = self.committed.get(&group) else { return };
        let Some(log) = self.logs.of(node, group) else { return };
        let missing = committed.iter().find(|(index, (of, _, known_in))| {
            *known_in < term && !log.holds(LogId { term: *of, index: *index })
        });
        if let Some((index, (of, by, known_in))) = missing {
            let what = format!(
                "a leader has all that was committed before its term: node {node} leads group {group} in term \
                 {term} and has {} at {index}, where an entry of term {of} was committed, as node {by} knew in \
                 term {known_in}",
                term_of(log.line(index).map(|line| line.term))
            );
            found.tell(ID, at, what);
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::check::sights::broken;

    #[test]
    fn a_leader_without_what_is_committed_is_seen() {
        let history = "log 1 from 0: 1 1\nlog 2 from 0: 1\nreplica 1 t1 leads committed 1/1 last 1/1";
        assert_eq!(broken(&format!("{history}\nreplica 2 t2 leads last 0/1")), ["O-03"]);
        assert_eq!(
            broken(&format!("{history}\nlog 2 from 1: 2\nreplica 2 t2 leads last 1/2")),
            ["O-03"],
            "something else is in its place"
        );
        assert_eq!(
            broken(
                "log 1 from 0: 1 1 1\nreplica 1 t1 leads last 2/1\nlog 1 from 1:\nreplica 1 t1 leads last 0/1"
            ),
            ["O-03"],
            "it cut its own log"
        );
        assert_eq!(
            broken(
                "log 1 from 0: 1 1\nlog 2 from 0: 1\nreplica 2 t2 leads last 0/1\nreplica 1 t1 committed 1/1 last 1/1"
            ),
            ["O-03"],
            "told late"
        );
    }

    #[test]
    fn what_a_leader_trimmed_it_has() {
        let history = "log 1 from 0: 1 1 1\nlog 2 from 0: 1\nreplica 1 t1 leads committed 2/1 last 2/1";
        let caught_up = format!("{history}\ntrimmed 2 1/1\nlog 2 from 2: 1");
        assert!(broken(&format!("{caught_up}\nreplica 2 t2 leads last 2/1")).is_empty());
        let short = format!("{history}\ntrimmed 2 1/1");
        assert_eq!(broken(&format!("{short}\nreplica 2 t2 leads last 1/1")), ["O-03"], "and no more");
        let leads =
            "log 1 from 0: 1 1 1\nreplica 1 t1 leads applied 2/1 committed 2/1 last 2/1\ntrimmed 1 1/1";
        let goes_on = format!(
            "{leads}\nreplica 1 t1 leads checkpoint 1/1 purged 1/1 applied 2/1 committed 2/1 last 2/1"
        );
        assert!(broken(&goes_on).is_empty(), "a leader may trim its log");
    }

    #[test]
    fn old_leaders_may_lack_it() {
        let history = "log 1 from 0: 1 1\nreplica 1 t1 leads last 1/1\nlog 2 from 0: 1 2";
        assert!(
            broken(&format!("{history}\nreplica 2 t2 leads committed 1/2 last 1/2\nreplica 1 t1 leads"))
                .is_empty()
        );
        let deposed =
            "log 1 from 0: 1 1\nreplica 1 t1 leads last 1/1\nlog 1 from 1: 2\nreplica 1 t2 last 1/2";
        assert!(broken(deposed).is_empty(), "cut when it led no more");
    }
}
