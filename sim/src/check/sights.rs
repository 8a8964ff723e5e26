//! Hand-made histories of nodes, for the tests of the checks that judge them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use quorate_node::metadata::{Metadata, Partition, Topic, TopicConfig};
use quorate_node::raft::GroupConfig;
use quorate_node::storage::{HardVote, LogId};
use quorate_proto::ids::{GroupId, Identity, LogIndex, NodeId, Offset, Term, TopicId};

use super::{Panel, Seen};
use crate::history::Evidence;
use crate::observe::{Line, OnDisk, Replica, Sight, Usage};

const GROUP: GroupId = GroupId(1);

/// Which promises a history breaks. A line is a sight of group 1; entries are given by their terms, `2x` is another
/// one of term 2 than `2`, and `4/2` is entry 4 of term 2. What a disk holds may begin `after 4/2`, and have a
/// `checkpoint 6/2`.
pub(super) fn broken(history: &str) -> Vec<&'static str> {
    let mut panel = Panel::default();
    let mut at = Duration::ZERO;
    for line in history.lines().map(str::trim).filter(|line| !line.is_empty()) {
        at += Duration::from_millis(1);
        match line.strip_prefix("at ") {
            Some(seconds) => at = Duration::from_secs(seconds.parse().unwrap()),
            None => panel.see(at, &Seen::Node(&sight(line))),
        }
    }
    let mut broken =
        panel.end(&Evidence::default(), at).iter().map(|found| found.promise).collect::<Vec<_>>();
    broken.sort_unstable();
    broken.dedup();
    broken
}

fn sight(line: &str) -> Sight {
    let (head, tail) = line.split_once(':').unwrap_or((line, ""));
    let mut words = Words(head.split_whitespace().collect());
    let kind = words.next();
    let group = GROUP;
    match kind {
        "open" => {
            let node = words.node();
            let mut groups = BTreeMap::new();
            let on_disk = words.on_disk(tail);
            if on_disk != OnDisk::default() {
                groups.insert(group, on_disk);
            }
            Sight::Opened { node, identity: Identity::from_random([7; 16]), groups }
        }
        "end" => Sight::Ended { node: words.node() },
        "lost" => Sight::DiskLost { node: words.node() },
        "damaged" => Sight::Damaged { node: words.node() },
        "back" => Sight::GivenBack { node: words.node() },
        "tail-lost" => Sight::TailLost { node: words.node(), group },
        "tail-kept" => {
            let node = words.node();
            Sight::TailKept { node, group, on_disk: words.on_disk(tail) }
        }
        "log" => {
            let node = words.node();
            let from = words.number_after("from");
            Sight::Log { node, group, from: LogIndex(from), lines: lines(from, tail) }
        }
        "sent" => {
            let node = words.node();
            let from = words.number_after("from");
            Sight::Sent { node, group, prev: None, lines: lines(from, tail) }
        }
        "platter" => {
            let node = words.node();
            let after = words.id_after("after");
            Sight::OnPlatter { node, group, after, lines: lines(behind(after), tail) }
        }
        "trimmed" => Sight::Trimmed { node: words.node(), group, through: words.id().unwrap() },
        "checkpoint" => {
            let node = words.node();
            let at = words.id_after("at").unwrap();
            Sight::Checkpoint { node, group, at, digest: words.number_after("gives") }
        }
        "replica" => {
            let node = words.node();
            let mut replica = Replica { term: words.term(), ..Replica::default() };
            while let Some(what) = words.0.pop_front() {
                match what {
                    "leads" => replica.leads = true,
                    "purged" => replica.purged = words.id(),
                    "checkpoint" => replica.checkpoint = words.id(),
                    "applied" => replica.applied = words.id(),
                    "committed" => replica.committed = words.id(),
                    "last" => replica.last = words.id(),
                    other => panic!("a replica has no {other}"),
                }
            }
            Sight::Replica { node, group, replica }
        }
        "removed" => Sight::Removed { node: words.node(), group, assigned: words.flag("assigned") },
        "restarted" => Sight::Restarted { node: words.node(), group, emptied: words.flag("emptied") },
        "stands" => Sight::Stands { node: words.node(), group, term: words.term() },
        "leads" => Sight::Leads { node: words.node(), group, term: words.term() },
        "granted" => {
            let (node, term) = (words.node(), words.term());
            Sight::Granted {
                node,
                group,
                term,
                candidate: NodeId(words.number_after("to").try_into().unwrap()),
            }
        }
        "matched" => {
            let (node, term) = (words.node(), words.term());
            Sight::Matched { node, group, term, through: words.id().unwrap() }
        }
        "applied" => {
            let node = words.node();
            let next = LogIndex(words.number_after("before"));
            let digest = words.number_after("gives");
            let readable = if words.0.is_empty() {
                Offset(0)..Offset(0)
            } else {
                Offset(words.number_after("from"))..Offset(words.number_after("to"))
            };
            Sight::Applied { node, group, next, digest, readable }
        }
        "assigned" => {
            let applied = LogIndex(words.number_after("at"));
            Sight::Metadata { node: NodeId(1), applied, metadata: Arc::new(metadata(tail)) }
        }
        "voters" => {
            let node = words.node();
            let at = match words.flag("at") {
                true => words.id().unwrap(),
                false => LogId { term: Term(0), index: LogIndex(0) },
            };
            assert_eq!(words.next(), "is");
            Sight::Config { node, group, at, config: config(words.0.make_contiguous()) }
        }
        "platters" => {
            let nodes = line["platters".len()..].split('|').map(|part| {
                let (head, tail) = part.split_once(':').unwrap();
                let mut words = Words(head.split_whitespace().collect());
                let node = words.node();
                (node, BTreeMap::from([(group, words.on_disk(tail))]))
            });
            Sight::Platters { nodes: nodes.collect() }
        }
        "twice" => {
            let node = words.node();
            let (once, twice) = tail.split_once('|').unwrap();
            let (head, tail) = twice.split_once(':').unwrap_or(("", twice));
            let mut again = Words(head.split_whitespace().collect());
            let of = |words: &mut Words<'_>, terms| BTreeMap::from([(group, words.on_disk(terms))]);
            Sight::RecoveredTwice { node, once: of(&mut words, once), twice: of(&mut again, tail) }
        }
        "failed" => {
            let node = words.node();
            let durable = words.flag("durable").then(|| (group, words.id()));
            let votes = words.vote().map(|vote| (group, vote)).into_iter().collect();
            Sight::SyncFailed { node, durable: durable.into_iter().collect(), votes }
        }
        "durable" => Sight::DurableAfterFailure { node: words.node(), group, through: words.id() },
        "healed" => {
            let core = words.0.iter().map(|word| NodeId(word.parse().unwrap())).collect();
            Sight::Healed { core, election_timeout: Duration::from_millis(700) }
        }
        "quiet" => Sight::Quiet,
        "usage" => {
            let node = words.node();
            let usage = Usage {
                tasks: words.number_after("tasks"),
                files: words.number_after("files"),
                disk_bytes: words.number_after("disk"),
                volumes: words.number_after("volumes"),
                volumes_alive: words.number_after("alive"),
                groups: words.number_after("groups"),
                entries: words.number_after("entries"),
            };
            Sight::Usage { node, usage }
        }
        other => panic!("nothing is seen as {other}"),
    }
}

/// `1 2 3 ; 1 2 4' + 5`: sets of voters, and learners; `4'` is node 4 with another disk.
fn config(words: &[&str]) -> GroupConfig {
    let mut config = GroupConfig { voters: vec![BTreeSet::new()], disks: BTreeMap::new() };
    let mut learners = false;
    for word in words {
        match *word {
            ";" => config.voters.push(BTreeSet::new()),
            "+" => learners = true,
            word => {
                let id: u32 = word.trim_end_matches('\'').parse().unwrap();
                config.disks.insert(NodeId(id), disk(id, word.ends_with('\'')));
                if !learners {
                    config.voters.last_mut().unwrap().insert(NodeId(id));
                }
            }
        }
    }
    config
}

fn disk(node: u32, other: bool) -> Identity {
    Identity::from_random([u8::try_from(node).unwrap() + 100 * u8::from(other); 16])
}

struct Words<'a>(VecDeque<&'a str>);

impl<'a> Words<'a> {
    fn next(&mut self) -> &'a str {
        self.0.pop_front().unwrap()
    }

    fn node(&mut self) -> NodeId {
        NodeId(self.next().parse().unwrap())
    }

    fn term(&mut self) -> Term {
        Term(self.next().strip_prefix('t').unwrap().parse().unwrap())
    }

    fn id(&mut self) -> Option<LogId> {
        let (index, term) = self.next().split_once('/').unwrap();
        Some(LogId { term: Term(term.parse().unwrap()), index: LogIndex(index.parse().unwrap()) })
    }

    fn number_after(&mut self, word: &str) -> u64 {
        assert_eq!(self.next(), word);
        self.next().parse().unwrap()
    }

    /// The entry behind that word, if it comes next.
    fn id_after(&mut self, word: &str) -> Option<LogId> {
        if self.flag(word) { self.id() } else { None }
    }

    fn flag(&mut self, word: &str) -> bool {
        let there = self.0.front() == Some(&word);
        if there {
            self.0.pop_front();
        }
        there
    }

    fn vote(&mut self) -> Option<HardVote> {
        if !self.flag("vote") {
            return None;
        }
        let (term, node) = self.next().split_once('/').unwrap();
        let committed = self.flag("leads");
        Some(HardVote { term: Term(term.parse().unwrap()), node: node.parse().unwrap(), committed })
    }

    /// What a disk holds, with entries of these terms.
    fn on_disk(&mut self, terms: &str) -> OnDisk {
        let vote = self.vote();
        let checkpoint = self.id_after("checkpoint");
        let purged = self.id_after("after");
        let lines = lines(behind(purged), terms);
        let ids = lines.iter().map(|line| LogId { term: line.term, index: line.index }).collect::<Vec<_>>();
        let mut starts = ids.clone();
        starts.dedup_by_key(|id| id.term);
        OnDisk { vote, purged, checkpoint, last: ids.last().copied().or(purged), starts }
    }
}

/// The index behind what was trimmed.
fn behind(after: Option<LogId>) -> u64 {
    after.map_or(0, |after| after.index.0 + 1)
}

fn lines(from: u64, terms: &str) -> Vec<Line> {
    let lines = (from..).zip(terms.split_whitespace()).map(|(index, word)| {
        let term = word.trim_end_matches('x').parse::<u64>().unwrap();
        let digest = Some(index * 1_000 + term * 10 + u64::from(word.ends_with('x')));
        Line { index: LogIndex(index), term: Term(term), digest }
    });
    lines.collect()
}

/// With group 1 on these nodes.
fn metadata(replicas: &str) -> Metadata {
    let replicas = replicas.split_whitespace().map(|word| NodeId(word.parse().unwrap())).collect();
    let topic = Topic {
        id: TopicId::from_random([1; 16]),
        name: "t".parse().unwrap(),
        partitions: vec![Partition { group: GROUP, replicas, ..Partition::default() }],
        config: TopicConfig::default(),
    };
    Metadata { topics: BTreeMap::from([(topic.id, Arc::new(topic))]), ..Metadata::default() }
}

#[test]
fn an_ordinary_history_breaks_nothing() {
    let history = "
        open 1:
        open 2:
        open 3:
        stands 1 t1
        granted 2 t1 to 1
        leads 1 t1
        log 1 from 0: 0 1 1
        replica 1 t1 leads last 2/1
        sent 1 from 0: 0 1 1
        log 2 from 0: 0 1 1
        matched 2 t1 2/1
        platters 1 vote 1/1: 0 | 2 vote 1/1: 0 1 1 | 3:
        applied 1 before 3 gives 9
        replica 1 t1 leads applied 2/1 committed 2/1 last 2/1
        end 1
        open 1 vote 1/1: 0
        replica 1 t1 last 0/0
        stands 2 t2
        granted 3 t2 to 2
        leads 2 t2
        log 2 from 3: 2
        replica 2 t2 leads committed 2/1 last 3/2
        log 1 from 1: 1 1 2
        matched 1 t2 3/2
        quiet";
    assert_eq!(broken(history), Vec::<&str>::new());
}
