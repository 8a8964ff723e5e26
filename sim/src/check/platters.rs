//! O-05, committed is on platters: each entry that is known to be committed lies on the platters of a majority of its
//! group's voters, and what a node told a leader that it holds on its disk lies on its own platters, at any moment and
//! after any crash (Raft §5.3). Judged by the product's own recovery on a copy of
//! the platters, never by what a process believes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_node::storage::LogId;
use quorate_proto::ids::{GroupId, LogIndex, NodeId, Term};

use super::logs::Logs;
use super::words::{nodes as names, term, told};
use super::{Found, Judge};
use crate::observe::{OnDisk, Sight};

const ID: &str = "O-05";

/// Who votes by a membership, and the term that it is of.
type Voters = (Term, Vec<BTreeSet<NodeId>>);

#[derive(Default)]
pub(super) struct Platters {
    logs: Logs,
    /// What each node told that it holds, as far as nobody has told it to cut that since.
    matched: BTreeMap<(NodeId, GroupId), LogId>,
    /// What each node told that it holds on a disk that was lost after that, and has not told anew. Its leader may not
    /// have known yet that it is committed, and counts on that word: one copy less of that as well.
    vouched: BTreeMap<(NodeId, GroupId), BTreeSet<LogId>>,
    /// Removed, and not seen since: what is told of them was true when they were asked.
    gone: BTreeSet<(NodeId, GroupId)>,
    /// What was cut from each log.
    cut: BTreeMap<(NodeId, GroupId), BTreeSet<LogId>>,
    /// The newest term that each replica has heard of.
    terms: BTreeMap<(NodeId, GroupId), Term>,
    /// The last entry known to be committed, and who knew.
    committed: BTreeMap<GroupId, (LogId, NodeId)>,
    /// What was committed when a disk was lost: one copy less of all up to there.
    lost: BTreeMap<GroupId, LogId>,
    /// Who votes, by each membership that was seen, by where it lies.
    configs: BTreeMap<GroupId, BTreeMap<LogIndex, Voters>>,
}

impl Judge for Platters {
    const ID: &'static str = ID;

    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found) {
        match sight {
            Sight::Matched { node, group, term, through }
                if !self.is_late(*node, *group, *term, *through) =>
            {
                if let Some(vouched) = self.vouched.get_mut(&(*node, *group)) {
                    vouched.retain(|id| id.index > through.index);
                }
                let matched = self.matched.entry((*node, *group)).or_insert(*through);
                if through.index > matched.index {
                    *matched = *through;
                }
            }
            Sight::Log { node, group, from, .. } => {
                self.gone.remove(&(*node, *group));
                self.cut(*node, *group, *from);
            }
            Sight::Removed { node, group, .. } => {
                self.gone.insert((*node, *group));
                self.matched.remove(&(*node, *group));
                self.vouched.remove(&(*node, *group));
                self.cut.remove(&(*node, *group));
            }
            Sight::Restarted { node, group, emptied: true } | Sight::TailLost { node, group } => {
                self.lose(*node, *group);
                self.cut.remove(&(*node, *group));
                // One copy less, until it has caught up.
                self.lost.extend(self.committed.get(group).map(|(committed, _)| (*group, *committed)));
            }
            Sight::DiskLost { node } | Sight::Damaged { node } => {
                let of_node = self.matched.range((*node, GroupId(0))..=(*node, GroupId(u64::MAX)));
                let groups = of_node.map(|((_, group), _)| *group).collect::<Vec<_>>();
                for group in groups {
                    self.lose(*node, group);
                }
                self.cut.retain(|(of, _), _| of != node);
                self.lost.extend(self.committed.iter().map(|(group, (committed, _))| (*group, *committed)));
            }
            Sight::Config { group, at: place, config, .. } => {
                // One that was cut off is followed by another in its place, or before a later one counts. Who has not cut
                // it off yet may show it after that.
                let configs = self.configs.entry(*group).or_default();
                let there = configs.get(&place.index);
                if there.is_none_or(|(term, _)| *term <= place.term) {
                    configs.insert(place.index, (place.term, config.voters.clone()));
                }
            }
            Sight::Replica { node, group, replica } => {
                self.terms.insert((*node, *group), replica.term);
                if let Some(now) = replica.committed {
                    let committed = self.committed.entry(*group).or_insert((now, *node));
                    if now.index > committed.0.index {
                        *committed = (now, *node);
                    }
                }
            }
            Sight::Opened { node, groups, .. } => {
                self.cut.retain(|(of, _), _| of != node);
                self.holds(at, *node, groups, "found when its process started", found);
            }
            Sight::Platters { nodes } => {
                for (node, groups) in nodes {
                    self.holds(at, *node, groups, "on its platters", found);
                }
                self.quorums(at, nodes, found);
            }
            _ => {}
        }
        self.logs.see(sight);
    }
}

impl Platters {
    /// Whether an answer was long on its way: to a leader of an older term than the node has heard of since, about
    /// what it has removed or cut since.
    fn is_late(&self, node: NodeId, group: GroupId, term: Term, through: LogId) -> bool {
        let replica = (node, group);
        let holds = || self.logs.holds(node, group, through);
        let cut = || self.cut.get(&replica).is_some_and(|cut| cut.contains(&through));
        let newer = || self.terms.get(&replica).is_some_and(|heard| *heard > term);
        self.gone.contains(&replica) || (newer() && cut() && !holds())
    }

    /// A replica's log was cut: what it told of the rest counts no more.
    fn cut(&mut self, node: NodeId, group: GroupId, from: LogIndex) {
        let before = self.logs.before(node, group, from);
        if let Some(log) = self.logs.of(node, group) {
            let gone = log.from(from).iter().map(|line| LogId { term: line.term, index: line.index });
            self.cut.entry((node, group)).or_default().extend(gone);
        }
        if self.matched.get(&(node, group)).is_some_and(|matched| matched.index >= from) {
            match before {
                Some(before) => self.matched.insert((node, group), before),
                None => self.matched.remove(&(node, group)),
            };
        }
    }

    /// A replica's log is gone, and with it what it told that it holds.
    fn lose(&mut self, node: NodeId, group: GroupId) {
        let Some(matched) = self.matched.remove(&(node, group)) else { return };
        if let Some(log) = self.logs.of(node, group) {
            let held = log.from(LogIndex(0)).iter().map(|line| LogId { term: line.term, index: line.index });
            let vouched = held.filter(|id| id.index <= matched.index);
            self.vouched.entry((node, group)).or_default().extend(vouched);
        }
    }

    fn holds(
        &self,
        at: Duration,
        node: NodeId,
        groups: &BTreeMap<GroupId, OnDisk>,
        place: &str,
        found: &mut Found,
    ) {
        for ((_, group), matched) in self.matched.range((node, GroupId(0))..=(node, GroupId(u64::MAX))) {
            let on_disk = groups.get(group);
            if !on_disk.is_some_and(|on_disk| on_disk.holds(*matched)) {
                let there = on_disk.and_then(|on_disk| on_disk.term_at(matched.index));
                let what = format!(
                    "what a node says it holds is on its disk: node {node} told the leader of group {group} that it \
                     holds {}, and {place} is a log up to {}, with {} there",
                    told(Some(*matched)),
                    told(on_disk.and_then(|on_disk| on_disk.last)),
                    term(there)
                );
                found.tell(ID, at, what);
            }
        }
    }

    fn quorums(&self, at: Duration, nodes: &BTreeMap<NodeId, BTreeMap<GroupId, OnDisk>>, found: &mut Found) {
        for (group, (committed, by)) in &self.committed {
            let Some(configs) = self.configs.get(group) else { continue };
            // The members by whom it was committed are those of the last membership up to there, or of one that
            // followed and was not committed yet.
            let first = configs.range(..=committed.index).next_back().map_or(LogIndex(0), |(at, _)| *at);
            let in_force = configs.range(first..).map(|(_, (_, sets))| sets).collect::<Vec<_>>();
            let voters = in_force.iter().copied().flatten().flatten().copied().collect::<BTreeSet<_>>();
            let lost = self.lost.get(group).is_some_and(|lost| lost.index >= committed.index);
            if lost || !voters.iter().all(|voter| nodes.contains_key(voter)) {
                continue;
            }
            // A group whose topic is gone vanishes from one disk after the other, and from each in two steps: the volume
            // and the second copy of its vote are synced apart.
            let here =
                |voter: &NodeId| nodes[voter].contains_key(group) && !self.gone.contains(&(*voter, *group));
            if !voters.iter().all(here) {
                continue;
            }
            let holds = |voter: &&NodeId| nodes[*voter][group].holds(*committed);
            let holders = voters.iter().filter(holds).collect::<Vec<_>>();
            let vouched = |voter: &&NodeId| {
                self.vouched.get(&(**voter, *group)).is_some_and(|vouched| vouched.contains(committed))
            };
            let counts = |voter: &&NodeId| holds(voter) || vouched(voter);
            let has_majority = |set: &BTreeSet<NodeId>| set.iter().filter(counts).count() * 2 > set.len();
            if !in_force.iter().any(|sets| sets.iter().all(has_majority)) {
                let what = format!(
                    "what is committed is on the platters of a majority: {} of group {group} is committed, as node \
                     {by} knows, and is on the platters of {} alone, of {}",
                    told(Some(*committed)),
                    names(holders),
                    names(&voters)
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
    fn what_is_acked_or_committed_and_not_on_platters_is_seen() {
        assert_eq!(broken("log 1 from 0: 1 1\nmatched 1 t1 1/1\nplatters 1: 1"), ["O-05"]);
        assert_eq!(broken("log 1 from 0: 1 1\nmatched 1 t1 1/1\nend 1\nopen 1 vote 1/2: 1"), ["O-05"]);
        assert_eq!(broken("log 1 from 0: 1 1\nmatched 1 t1 1/1\nplatters 1: 1 2"), ["O-05"], "another one");
        let three = "voters 1 is 1 2 3\nlog 1 from 0: 1 1\nreplica 1 t1 committed 1/1 last 1/1";
        assert_eq!(broken(&format!("{three}\nplatters 1: 1 1 | 2: 1 | 3: 1")), ["O-05"]);
    }

    #[test]
    fn a_leader_may_count_on_what_it_was_told_before_a_disk_was_lost() {
        let logs = "voters 1 is 1 2 3\nlog 1 from 0: 1 1\nlog 2 from 0: 1 1";
        let told = format!("{logs}\nmatched 2 t1 1/1");
        let known = "replica 1 t1 committed 1/1 last 1/1";
        let one = "platters 1: 1 1 | 2: 1 | 3: 1";
        for lost in ["damaged 2", "lost 2", "tail-lost 2", "restarted 2 emptied"] {
            assert!(broken(&format!("{told}\n{lost}\n{known}\n{one}")).is_empty(), "{lost}");
        }
        assert_eq!(broken(&format!("{told}\n{known}\n{one}")), ["O-05"], "nothing was lost");
        assert_eq!(broken(&format!("{logs}\ndamaged 2\n{known}\n{one}")), ["O-05"], "it told nothing");
        assert_eq!(
            broken(&format!("{told}\ndamaged 2\n{known}\nplatters 1: 1 | 2: 1 | 3: 1")),
            ["O-05"],
            "that word is not a majority"
        );
        let other = "voters 1 is 1 2 3\nlog 1 from 0: 1 1\nlog 2 from 0: 1 2\nmatched 2 t2 1/2\ndamaged 2";
        assert_eq!(broken(&format!("{other}\n{known}\n{one}")), ["O-05"], "it told of another entry");
        let anew = "damaged 2\nopen 2 vote 1/2: 1\nlog 2 from 1: 2\nmatched 2 t2 1/2";
        assert_eq!(
            broken(&format!("{told}\n{anew}\n{known}\nplatters 1: 1 1 | 2: 1 2 | 3: 1")),
            ["O-05"],
            "it has told something else since"
        );
    }

    #[test]
    fn what_a_disk_says_that_it_has_lost_is_not_asked_of_it() {
        let told = "log 1 from 0: 1 1\nmatched 1 t1 1/1\nend 1";
        let found = "open 1 vote 1/2: 1";
        assert!(broken(&format!("{told}\ntail-lost 1\n{found}")).is_empty());
        assert_eq!(broken(&format!("{told}\ntail-lost 2\n{found}")), ["O-05"], "another one's");
        assert_eq!(broken(&format!("{told}\n{found}\ntail-lost 1")), ["O-05"], "it did not say so");
        let anew = "log 1 from 1: 1\nmatched 1 t1 1/1\nend 1";
        assert_eq!(
            broken(&format!("{told}\ntail-lost 1\n{found}\n{anew}\n{found}")),
            ["O-05"],
            "it has told that it holds it again"
        );
    }

    #[test]
    fn the_members_of_the_moment_count() {
        let log = "log 1 from 0: 1 1\nreplica 1 t1 committed 1/1 last 1/1";
        let joint = format!("voters 1 at 0/1 is 1 2 3 ; 1 4 5\n{log}");
        let of = |four: &str| format!("{joint}\nplatters 1: 1 1 | 2: 1 1 | 3: 1 | 4: {four} | 5: 1");
        assert_eq!(broken(&of("1")), ["O-05"], "a majority of one set alone");
        assert!(broken(&of("1 1")).is_empty());
        // The next membership lies behind it, and decides already.
        let grows = format!("voters 1 at 0/1 is 1 2\nvoters 1 at 2/1 is 1 2 3\n{log}");
        assert!(broken(&format!("{grows}\nplatters 1: 1 1 | 2: 1 | 3: 1 1")).is_empty());
        assert_eq!(broken(&format!("{grows}\nplatters 1: 1 1 | 2: 1 | 3: 1")), ["O-05"]);
    }

    #[test]
    fn what_was_trimmed_counts_as_held_where_that_is_durable() {
        let three = "voters 1 is 1 2 3\nlog 1 from 0: 1 1 1\nreplica 1 t1 committed 1/1 last 2/1";
        let trimmed = "checkpoint 2/1 after 2/1:";
        assert!(broken(&format!("{three}\nplatters 1 {trimmed} | 2: 1 1 1 | 3: 1")).is_empty());
        assert!(broken(&format!("{three}\nplatters 1 {trimmed} | 2 {trimmed} | 3: 1")).is_empty());
        let caught_up = "log 1 from 0: 1\ntrimmed 1 4/1\nmatched 1 t1 4/1";
        assert!(broken(&format!("{caught_up}\nplatters 1 checkpoint 4/1 after 4/1:")).is_empty());
        assert_eq!(broken(&format!("{caught_up}\nplatters 1: 1")), ["O-05"], "it was told too early");
        assert_eq!(
            broken(&format!("{caught_up}\nend 1\nopen 1 vote 1/2: 1")),
            ["O-05"],
            "and the old log came back"
        );
    }

    #[test]
    fn a_majority_is_enough_and_what_was_cut_may_be_gone() {
        let three = "voters 1 is 1 2 3\nlog 1 from 0: 1 1\nreplica 1 t1 committed 1/1 last 1/1";
        assert!(broken(&format!("{three}\nplatters 1: 1 1 | 2: 1 1 | 3: 1")).is_empty());
        assert!(
            broken(&format!("{three}\nplatters 1: 1 | 2: 1 1 | 3: 1 1")).is_empty(),
            "not even the leader's"
        );
        assert!(
            broken(&format!("{three}\nlost 2\nplatters 1: 1 1 | 2: | 3: 1")).is_empty(),
            "a disk is gone"
        );
        assert!(
            broken(&format!("{three}\nremoved 2\nplatters 1: 1 1 | 2: | 3: 1")).is_empty(),
            "its topic was deleted, and the second copy of its vote is still there"
        );
        let cut = "log 1 from 0: 1 1 1\nmatched 1 t1 2/1\nlog 1 from 1: 2";
        assert!(broken(&format!("{cut}\nplatters 1: 1 2")).is_empty());
        assert!(broken(&format!("{cut}\nplatters 1: 1 1 1")).is_empty(), "the cut is not durable yet");
        assert!(broken(&format!("{cut}\nend 1\nopen 1 vote 1/2: 1")).is_empty());
        assert!(broken("log 1 from 0: 1 1\nmatched 1 t1 1/1\nremoved 1\nplatters 1:").is_empty());
        let late = format!("{cut}\nreplica 1 t2 last 1/2\nmatched 1 t1 2/1\nplatters 1: 1 2");
        assert!(broken(&late).is_empty(), "an answer to the old leader that was long on its way");
        let anew = format!("{cut}\nreplica 1 t2 last 1/2\nmatched 1 t2 2/1\nplatters 1: 1 2");
        assert_eq!(broken(&anew), ["O-05"], "the new leader is told of what it had cut");
        let never = format!("{cut}\nreplica 1 t2 last 1/2\nmatched 1 t1 3/1\nplatters 1: 1 2");
        assert_eq!(broken(&never), ["O-05"], "it never held that");
        let late = "log 1 from 0: 1 1\nremoved 1\nmatched 1 t1 1/1\nplatters 1:";
        assert!(!broken(late).contains(&"O-05"), "an answer that was long on its way");
    }
}
