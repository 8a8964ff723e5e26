//! The checks judged: histories made by hand, bad ones flagged by just the right check, odd but legal ones by none.
//!
//! A history is written in lines; each happens a millisecond after the one before, or at the time given by `@ms`.
//!
//! | line | what |
//! | --- | --- |
//! | `ask c1 n2 e3 call produce 7:0:5 r1,r2` | client 1 asks node 2 in epoch 3; `call` names the call |
//! | `.. fetch 5`, `.. latest`, `.. earliest`, `.. time 40`, `.. end-of 2` | other questions of partition 0 of topic 1 |
//! | `.. producer`, `.. create`, `.. create ms=9 bytes=50`, `.. delete`, `.. grow 4` | questions about the topic itself |
//! | `.. configure ms=9 bytes=`, `.. delete-records 5`, `.. delete-records all` | retention changed, or back to the default; records before an offset deleted, or all |
//! | `tell call at 5 e3`, `.. at 5 e3 stamp 90` | acked |
//! | `tell call hw 9 e3 \| 5 e2 7:0:5 r1,r2 \| ..` | fetched: high watermark, then batches |
//! | `tell call hw 9 e3 from 4 \| ..` | the same, of a log that starts at 4 |
//! | `tell call found 5 e3`, `.. found 5 time 90 e3`, `.. found none e3` | looked up |
//! | `tell call ended 2 5 e3`, `.. ended none e3` | an epoch's end |
//! | `tell call refused`, `.. unreached`, `.. unknown`, `.. out-of-range 0 9`, `.. garbled` | other answers |
//! | `tell call id 7`, `.. topic 1`, `.. deleted`, `.. grown` | a producer id; a topic created, deleted, grown |
//! | `tell call configured`, `.. records-deleted 5` | settings changed; records deleted, with the log start |
//! | `topics 1 2 1` | metadata: topic number, partitions, number of its name |
//! | `holds 7 2` | node 1 has applied entry 7 of the metadata group; topic 1 has so many partitions then |
//! | `sent r1`, `sent r1 loosely` | a record is sent, by a producer that promises order or not |
//! | `learnt r1 acked 5`, `.. failed`, `.. unknown` | its outcome |
//! | `assign k1 beginning 0`, `.. end 5`, `.. offset 5 5`, `read k1 5 r1` | a consumer (a client of the same number) |
//! | `assign k1 resetting 0` | one that goes to the log start by itself |
//! | `follows k1 5` | at the end it reads on, and is to be given 5 next |
//! | `healed 1 2 3`, `log r1 r2 foreign`, `log`, `over` | these nodes are whole; the final scan; the end, if not right after the last line |
//! | `log-from 4 r5 r6` | the final scan of a log that starts at 4 |
//! | `readable n1 4 9`, `.. at 7` | node 1 has applied what makes its log readable from 4 to 9; that is all before entry 7 |
//! | `restarted n1`, `.. emptied` | its replica is started again within its process, without its log |
//! | `wall 5000`, `settled 5000` | a wall clock shows that time, 1000 at first; all was whole for eight seconds, and all clocks show it |
//! | `wall 4000 5000` | since the line before one has told 4000, and none an earlier time; 5000 is the latest so far |
//!
//! A record `r1` is one of producer 1; `s1` is one of producer 2. Its timestamp is 10 times its number, and it takes 100
//! bytes. `u1` is one of producer 3, which has no timestamp.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_node::metadata::{Metadata, Partition, Retention, Topic, TopicConfig};
use quorate_proto::ErrorCode;
use quorate_proto::ids::{GroupId, LogIndex, NodeId, Offset, PartitionId, TopicId};

use super::{Panel, Seen, StartAt};
use crate::history::{Evidence, Outcome, Place, Read, RecordId, Scan, Sent, Target};
use crate::observe::Sight;
use crate::wire::{Ask, Asked, Batch, FindAt, Standing, Told};

mod bad;
mod legal;
mod starts;

const GROUP: GroupId = GroupId(1);

fn topic(number: u8) -> TopicId {
    TopicId::from_random([number; 16])
}

fn place() -> Place {
    Place { topic: topic(1), partition: PartitionId(0) }
}

fn target() -> Target {
    Target { topic: "t1".to_owned(), partition: PartitionId(0) }
}

/// With topic 1 of so many partitions.
fn metadata(partitions: u64, retention: Retention) -> Metadata {
    let partition =
        |group| Partition { group: GroupId(group), replicas: vec![NodeId(1)], ..Partition::default() };
    let topic = Topic {
        id: topic(1),
        name: "t1".parse().unwrap(),
        partitions: (1..=partitions).map(partition).collect(),
        config: TopicConfig { retention, ..TopicConfig::default() },
    };
    Metadata { topics: BTreeMap::from([(topic.id, Arc::new(topic))]), ..Metadata::default() }
}

fn record(word: &str) -> Option<RecordId> {
    let producer = match word.as_bytes().first() {
        Some(b's') => 2,
        Some(b'u') => 3,
        _ => 1,
    };
    (word != "foreign").then(|| RecordId { producer, number: number(&word[1..]) })
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("no number: {word}"))
}

fn epoch(word: &str) -> i32 {
    word.strip_prefix('e').and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no epoch: {word}"))
}

/// `7:0:5` and `r1,r2`.
fn batch(stamp: &str, records: &str) -> Arc<Batch> {
    let stamp = stamp.split(':').map(|word| word.parse::<i64>().unwrap()).collect::<Vec<_>>();
    let words = records.split(',').collect::<Vec<_>>();
    let time = |word: &&str| {
        let of = |record: RecordId| match record.producer {
            3 => -1,
            _ => i64::try_from(record.number).unwrap() * 10,
        };
        record(word.trim_end_matches('!')).map_or(0, of)
    };
    Arc::new(Batch {
        producer: stamp[0],
        epoch: i16::try_from(stamp[1]).unwrap(),
        sequence: i32::try_from(stamp[2]).unwrap(),
        crc: crc32c::crc32c(records.trim_end_matches('!').as_bytes()) + u32::from(records.ends_with('!')),
        times: words.iter().map(time).collect(),
        records: words.iter().map(|word| record(word.trim_end_matches('!'))).collect(),
        bytes: u64::try_from(words.len()).unwrap() * 100,
    })
}

#[derive(Default)]
struct Player {
    panel: Panel,
    evidence: Evidence,
    now: Duration,
    calls: BTreeMap<String, Asked>,
    /// Topic 1's, as the nodes have it.
    retention: Retention,
}

impl Player {
    fn see(&mut self, seen: &Seen<'_>) {
        self.panel.see(self.now, seen);
    }

    fn line(&mut self, line: &str) {
        let mut words = line.split_whitespace().collect::<Vec<_>>();
        self.now += Duration::from_millis(1);
        if let Some(at) = words[0].strip_prefix('@') {
            self.now = Duration::from_millis(number(at));
            words.remove(0);
        }
        match words[0] {
            "ask" => self.ask(&words[1..]),
            "tell" => {
                let asked =
                    self.calls.get(words[1]).unwrap_or_else(|| panic!("no call: {}", words[1])).clone();
                let told = told(&words[2..]);
                if let (Ask::Configure { changes, .. }, Told::Configured) = (&asked.ask, &told) {
                    changes.iter().for_each(|(key, value)| self.set(key, value.as_deref()));
                }
                self.see(&Seen::Told(&asked, &told));
            }
            "topics" => {
                let asked = self.asked(9, 1, Ask::Metadata);
                let id = topic(u8::try_from(number(words[1])).unwrap());
                let partitions = usize::try_from(number(words[2])).unwrap();
                let told = Told::Topics(vec![(format!("t{}", words[3]), id, partitions)]);
                self.see(&Seen::Told(&asked, &told));
            }
            "holds" => {
                let metadata = Arc::new(metadata(number(words[2]), self.retention));
                let applied = LogIndex(number(words[1]));
                self.see(&Seen::Node(&Sight::Metadata { node: NodeId(1), applied, metadata }));
            }
            "sent" => {
                let sent = Sent {
                    target: target(),
                    at: self.now,
                    in_order: words.get(2).is_none(),
                    outcome: Outcome::Pending,
                    known_at: Duration::ZERO,
                    why: String::new(),
                };
                let record = record(words[1]).unwrap();
                self.see(&Seen::Sent(record, &sent));
                self.evidence.sent.insert(record, sent);
            }
            "learnt" => {
                let record = record(words[1]).unwrap();
                let mut sent = self.evidence.sent[&record].clone();
                sent.known_at = self.now;
                sent.outcome = match words[2] {
                    "acked" => Outcome::Acked(Offset(number(words[3]))),
                    "failed" => Outcome::Failed,
                    "unknown" => Outcome::Unknown,
                    other => panic!("no outcome: {other}"),
                };
                self.see(&Seen::Learnt(record, &sent));
                self.evidence.sent.insert(record, sent);
            }
            "assign" => {
                let position = number(words[words.len() - 1]);
                let start = match words[2] {
                    "beginning" | "resetting" => StartAt::Beginning,
                    "end" => StartAt::End,
                    "offset" => StartAt::Offset(Offset(number(words[3]))),
                    other => panic!("no start: {other}"),
                };
                let consumer = u32::try_from(number(&words[1][1..])).unwrap();
                let (position, resets) = (Offset(position), words[2] == "resetting");
                self.see(&Seen::Assigned { consumer, target: &target(), start, position, resets });
            }
            "read" => {
                let consumer = u32::try_from(number(&words[1][1..])).unwrap();
                let (offset, record) = (Offset(number(words[2])), record(words[3]));
                let read = Read { consumer, target: target(), offset, record, at: self.now };
                self.see(&Seen::Read(&read));
            }
            "follows" => {
                let consumer = u32::try_from(number(&words[1][1..])).unwrap();
                self.evidence.following.insert((consumer, target()), Offset(number(words[2])));
            }
            "healed" => {
                let core = words[1..].iter().map(|node| NodeId(u32::try_from(number(node)).unwrap()));
                let election_timeout = Duration::from_millis(700);
                self.see(&Seen::Node(&Sight::Healed { core: core.collect(), election_timeout }));
            }
            "log" => self.scan(0, &words[1..]),
            "log-from" => self.scan(number(words[1]), &words[2..]),
            "wall" => {
                let told = |word: &&str| i64::try_from(number(word)).unwrap();
                let (oldest, newest) = (told(&words[1]), told(&words[words.len() - 1]));
                self.see(&Seen::Node(&Sight::Wall { oldest, newest }));
            }
            "settled" => {
                let oldest = i64::try_from(number(words[1])).unwrap();
                self.see(&Seen::Node(&Sight::Settled { oldest, whole_for: Duration::from_secs(8) }));
            }
            "readable" => {
                let node = NodeId(u32::try_from(number(&words[1][1..])).unwrap());
                let (applied, metadata) = (LogIndex(1), Arc::new(metadata(1, self.retention)));
                self.see(&Seen::Node(&Sight::Metadata { node, applied, metadata }));
                // Each as of a later entry.
                let now = u64::try_from(self.now.as_millis()).unwrap();
                let next = LogIndex(words.get(5).map_or(now, |next| number(next)));
                let readable = Offset(number(words[2]))..Offset(number(words[3]));
                self.see(&Seen::Node(&Sight::Applied { node, group: GROUP, next, digest: 0, readable }));
            }
            "restarted" => {
                let node = NodeId(u32::try_from(number(&words[1][1..])).unwrap());
                let emptied = words.get(2) == Some(&"emptied");
                self.see(&Seen::Node(&Sight::Restarted { node, group: GROUP, emptied }));
            }
            "log-at" => {
                let scan = self.evidence.scan.entry(place()).or_default();
                scan.records.push((Offset(number(words[1])), record(words[2])));
            }
            "over" => {}
            other => panic!("no such line: {other}"),
        }
    }

    /// A setting has that value from now on; -1 is no bound, and no value is the default.
    fn set(&mut self, key: &str, value: Option<&str>) {
        let default = Retention::default();
        let bound = |default: Option<u64>| value.map_or(default, |value| value.parse().ok());
        match key {
            "retention.ms" => self.retention.ms = bound(default.ms),
            "retention.bytes" => self.retention.bytes = bound(default.bytes),
            other => panic!("no setting: {other}"),
        }
    }

    fn scan(&mut self, start: u64, records: &[&str]) {
        let records = (start..).map(Offset).zip(records.iter().map(|word| record(word))).collect();
        let scan = Scan { target: Some(target()), start: Offset(start), records };
        self.evidence.scan.insert(place(), scan);
    }

    fn asked(&self, client: u32, node: u32, ask: Ask) -> Asked {
        let call = u64::try_from(self.now.as_micros()).unwrap();
        Asked { call, client, sdk: client < 5, node: NodeId(node), at: self.now, ask }
    }

    fn ask(&mut self, words: &[&str]) {
        let client = u32::try_from(number(&words[0][1..])).unwrap();
        let node = u32::try_from(number(&words[1][1..])).unwrap();
        let (place, epoch) = (place(), epoch(words[2]));
        let ask = match words[4] {
            "produce" => Ask::Produce { place, epoch, batch: batch(words[5], words[6]) },
            "fetch" => Ask::Fetch { place, epoch, offset: i64::try_from(number(words[5])).unwrap() },
            "latest" => Ask::Find { place, epoch, at: FindAt::Latest },
            "earliest" => Ask::Find { place, epoch, at: FindAt::Earliest },
            "time" => Ask::Find { place, epoch, at: FindAt::Time(i64::try_from(number(words[5])).unwrap()) },
            "end-of" => {
                Ask::EpochEnd { place, current: epoch, epoch: i32::try_from(number(words[5])).unwrap() }
            }
            "producer" => Ask::Producer,
            "create" => {
                let configs = settings(&words[5..]).into_iter().map(|(key, value)| (key, value.unwrap()));
                Ask::Create { name: "t1".to_owned(), configs: configs.collect() }
            }
            "configure" => Ask::Configure { name: "t1".to_owned(), changes: settings(&words[5..]) },
            "delete-records" => {
                let before = if words[5] == "all" { -1 } else { i64::try_from(number(words[5])).unwrap() };
                Ask::DeleteRecords { place, before }
            }
            "delete" => Ask::Delete { name: "t1".to_owned(), id: None },
            "grow" => {
                let partitions = i32::try_from(number(words[5])).unwrap();
                Ask::AddPartitions { name: "t1".to_owned(), partitions }
            }
            other => panic!("no question: {other}"),
        };
        let asked = self.asked(client, node, ask);
        self.see(&Seen::Asked(&asked));
        self.calls.insert(words[3].to_owned(), asked);
    }
}

/// `ms=9 bytes=`: retention.ms is to be 9, and retention.bytes what it is by default.
fn settings(words: &[&str]) -> Vec<(String, Option<String>)> {
    let setting = |word: &&str| {
        let (key, value) = word.split_once('=').unwrap();
        (format!("retention.{key}"), Some(value.to_owned()).filter(|value| !value.is_empty()))
    };
    words.iter().map(setting).collect()
}

fn told(words: &[&str]) -> Told {
    let signed = |word: &str| i64::try_from(number(word)).unwrap();
    match words[0] {
        "at" => Told::Produced {
            base: number(words[1]),
            stamp: words.get(4).map(|stamp| signed(stamp)),
            log_start: 0,
            epoch: epoch(words[2]),
        },
        "hw" => {
            let from = words.get(3).is_some_and(|word| *word == "from");
            let (log_start, rest) = if from { (signed(words[4]), &words[5..]) } else { (0, &words[3..]) };
            let batches = rest.split(|word| *word == "|").filter(|words| !words.is_empty());
            let batches = batches.map(|words| Standing {
                base: number(words[0]),
                epoch: epoch(words[1]),
                stamp: words.get(4).map(|stamp| signed(stamp)),
                batch: batch(words[2], words[3]),
            });
            let batches = batches.collect();
            Told::Fetched { high_watermark: signed(words[1]), log_start, epoch: epoch(words[2]), batches }
        }
        "found" if words[1] == "none" => Told::Found { offset: None, time: None, epoch: epoch(words[2]) },
        "found" if words[2] == "time" => Told::Found {
            offset: Some(number(words[1])),
            time: Some(signed(words[3])),
            epoch: epoch(words[4]),
        },
        "found" => Told::Found { offset: Some(number(words[1])), time: None, epoch: epoch(words[2]) },
        "ended" if words[1] == "none" => Told::EpochEnded { found: None, epoch: epoch(words[2]) },
        "ended" => Told::EpochEnded {
            found: Some((i32::try_from(number(words[1])).unwrap(), number(words[2]))),
            epoch: epoch(words[3]),
        },
        "refused" => Told::Refused { code: ErrorCode::NotLeader, high_watermark: -1, log_start: -1 },
        "too-late" => Told::Refused { code: ErrorCode::DuplicateSequence, high_watermark: -1, log_start: -1 },
        "too-large" => Told::Refused { code: ErrorCode::BatchTooLarge, high_watermark: -1, log_start: -1 },
        "out-of-range" => Told::Refused {
            code: ErrorCode::OffsetOutOfRange,
            log_start: signed(words[1]),
            high_watermark: signed(words[2]),
        },
        "unreached" => Told::Unreached,
        "unknown" => Told::Unknown { why: "no answer".to_owned() },
        "garbled" => Told::Garbled { why: "a wrong CRC".to_owned() },
        "id" => Told::Producer(signed(words[1])),
        "topic" => Told::Created(topic(u8::try_from(number(words[1])).unwrap())),
        "deleted" => Told::Deleted,
        "grown" => Told::PartitionsAdded,
        "configured" => Told::Configured,
        "records-deleted" => Told::RecordsDeleted { log_start: signed(words[1]) },
        other => panic!("no answer: {other}"),
    }
}

/// Which promises a history breaks, each once.
fn broken(history: &str) -> Vec<&'static str> {
    let mut player = Player::default();
    player.line("wall 1000");
    let lines = history.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines.for_each(|line| player.line(line));
    let found = player.panel.end(&player.evidence, player.now);
    let mut broken = found.iter().map(|found| found.promise).collect::<Vec<_>>();
    broken.sort_unstable();
    broken.dedup();
    broken
}
