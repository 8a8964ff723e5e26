//! What the clients asked and what they were told: the evidence that the checks judge.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_proto::ids::{GroupId, LogIndex, NodeId, Offset, PartitionId, Term, TopicId};

use crate::check::{Panel, Seen, Violation};
use crate::wire::{Ask, Told};

/// A partition by its topic's name: what clients of the SDK say. Several topics may bear a name, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// The topic's name.
    pub topic: String,
    /// Which of its partitions.
    pub partition: PartitionId,
}

/// A partition for ever: by its topic's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The topic.
    pub topic: TopicId,
    /// Which of its partitions.
    pub partition: PartitionId,
}

/// A record, unique in a run. As text it is the record's value, up to a blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// Who sent it.
    pub producer: u32,
    /// Its number among those of its producer, from 0, in the order sent.
    pub number: u64,
}

/// What a producer knows of a record that it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing yet.
    Pending,
    /// It stands at this offset.
    Acked(Offset),
    /// It surely does not stand anywhere, and never will.
    Failed,
    /// Perhaps it stands somewhere, now or later.
    Unknown,
}

/// A record that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Where to.
    pub target: Target,
    /// When.
    pub at: Duration,
    /// Whether its producer promises that its records stand in the order sent.
    pub in_order: bool,
    /// What became of it, as far as its producer knows.
    pub outcome: Outcome,
    /// When that was known.
    pub known_at: Duration,
    /// In the producer's words.
    pub why: String,
}

/// A record that a consumer was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Who read it.
    pub consumer: u32,
    /// Where.
    pub target: Target,
    /// At which offset.
    pub offset: Offset,
    /// What it was; `None` if it is no record of ours.
    pub record: Option<RecordId>,
    /// When.
    pub at: Duration,
}

/// Everything that stands in a partition at the end, in the order of a consumer that began at the beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Where its topic was found.
    pub target: Option<Target>,
    /// The log start: what lies below it is gone.
    pub start: Offset,
    /// The records.
    pub records: Vec<(Offset, Option<RecordId>)>,
}

/// One replica's log, as its disk has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaLog {
    /// Where it begins: what lies before was trimmed.
    pub first: LogIndex,
    /// Its entries up to what is committed.
    pub entries: Vec<ReplicaEntry>,
}

/// One entry of one replica's log, as its disk has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaEntry {
    /// Position in the log.
    pub index: LogIndex,
    /// In which term it was made.
    pub term: Term,
    /// Checksum of its body.
    pub body_crc: u32,
}

/// All of a run's evidence that is kept to its end.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// By record.
    pub sent: BTreeMap<RecordId, Sent>,
    /// What came of operations other than produces.
    pub others: Outcomes,
    /// How many records consumers were given.
    pub reads: u64,
    /// Consumers that read on for as long as they live, and the offset that each is to be given next.
    pub following: BTreeMap<(u32, Target), Offset>,
    /// Each partition of each topic that there is at the end.
    pub scan: BTreeMap<Place, Scan>,
    /// Each replica of each group at the end, up to what is committed.
    pub replicas: BTreeMap<GroupId, BTreeMap<NodeId, ReplicaLog>>,
    /// What a client was told that must never be said, and whatever else went wrong on its own.
    pub complaints: Vec<Complaint>,
}

/// Something that is wrong by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Which promise it breaks.
    pub promise: &'static str,
    /// When.
    pub at: Duration,
    /// What happened.
    pub what: String,
}

/// A run's history, as it grows. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct History {
    evidence: Arc<Mutex<Evidence>>,
    panel: Arc<Mutex<Panel>>,
}

impl History {
    /// What there is, for writing and reading.
    pub fn evidence(&self) -> MutexGuard<'_, Evidence> {
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is seen, at this moment: every check takes note of it.
    pub fn see(&self, seen: &Seen<'_>) {
        self.panel().see(crate::env::clock::now(), seen);
    }

    /// Whether a promise is broken already.
    pub fn is_broken(&self) -> bool {
        !self.panel().found().is_empty() || !self.evidence().complaints.is_empty()
    }

    /// Judges the run, which is over at `end`.
    pub fn judge(&self, end: Duration) -> Vec<Violation> {
        self.panel().end(&self.evidence(), end)
    }

    fn panel(&self) -> MutexGuard<'_, Panel> {
        self.panel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something that is wrong by itself, at this moment.
    pub fn complain(&self, promise: &'static str, what: String) {
        self.evidence().complaints.push(Complaint { promise, at: crate::env::clock::now(), what });
    }

    /// A record is sent to `target` now.
    pub fn sent(&self, record: RecordId, target: Target, in_order: bool) {
        let sent = Sent {
            target,
            at: crate::env::clock::now(),
            in_order,
            outcome: Outcome::Pending,
            known_at: Duration::ZERO,
            why: String::new(),
        };
        self.see(&Seen::Sent(record, &sent));
        self.evidence().sent.insert(record, sent);
    }

    /// The outcome of a record is known now; `None` if the record is not.
    pub fn learnt(&self, record: RecordId, outcome: Outcome, why: String) -> Option<Target> {
        let learnt = {
            let mut evidence = self.evidence();
            let sent = evidence.sent.get_mut(&record)?;
            sent.outcome = outcome;
            sent.known_at = crate::env::clock::now();
            sent.why = why;
            sent.clone()
        };
        self.see(&Seen::Learnt(record, &learnt));
        Some(learnt.target)
    }
}

impl Evidence {
    /// How many operations had each outcome.
    pub fn operations(&self) -> Outcomes {
        let (records, others) = (self.outcomes(), self.others);
        Outcomes {
            ok: records.ok + others.ok,
            failed: records.failed + others.failed,
            unknown: records.unknown + others.unknown,
        }
    }

    /// How many records had each outcome.
    pub fn outcomes(&self) -> Outcomes {
        let mut outcomes = Outcomes::default();
        for sent in self.sent.values() {
            match sent.outcome {
                Outcome::Acked(_) => outcomes.ok += 1,
                Outcome::Failed => outcomes.failed += 1,
                Outcome::Unknown | Outcome::Pending => outcomes.unknown += 1,
            }
        }
        outcomes
    }

    /// How many topics and how many partitions a record was acknowledged in.
    pub fn breadth(&self) -> (u64, u64) {
        let acked = self.sent.values().filter(|sent| matches!(sent.outcome, Outcome::Acked(_)));
        let places = acked.map(|sent| &sent.target).collect::<BTreeSet<_>>();
        let topics = places.iter().map(|target| &target.topic).collect::<BTreeSet<_>>();
        let count = |length| u64::try_from(length).unwrap_or(u64::MAX);
        (count(topics.len()), count(places.len()))
    }
}

/// Counts of outcomes of what clients did: each record that was sent, each fetch that came with something, each look-up,
/// each topic created, changed or deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Outcomes {
    /// Acknowledged, or answered.
    pub ok: u64,
    /// Surely not done.
    pub failed: u64,
    /// Perhaps done.
    pub unknown: u64,
}

impl Outcomes {
    /// Counts what a client was told. Records are counted by themselves; what a client asks to find its way is no
    /// operation, nor is a fetch to which nothing came.
    pub fn count(&mut self, ask: &Ask, told: &Told) {
        match ask {
            Ask::Produce { .. } | Ask::Metadata | Ask::Other => return,
            Ask::Fetch { .. }
            | Ask::Find { .. }
            | Ask::EpochEnd { .. }
            | Ask::Create { .. }
            | Ask::Delete { .. }
            | Ask::Configure { .. }
            | Ask::AddPartitions { .. }
            | Ask::DeleteRecords { .. }
            | Ask::Producer => {}
        }
        match told {
            Told::Fetched { batches, .. } => self.ok += u64::from(!batches.is_empty()),
            Told::Found { .. }
            | Told::EpochEnded { .. }
            | Told::Created(_)
            | Told::Deleted
            | Told::Configured
            | Told::PartitionsAdded
            | Told::RecordsDeleted { .. }
            | Told::Producer(_)
            | Told::Produced { .. }
            | Told::Topics(_)
            | Told::Other => self.ok += 1,
            Told::Refused { .. } | Told::Unreached => self.failed += 1,
            Told::Unknown { .. } | Told::Garbled { .. } => self.unknown += 1,
        }
    }
}

impl RecordId {
    /// The record whose value this is.
    pub fn parse(value: &[u8]) -> Option<Self> {
        // The padding may be megabytes of anything.
        let word = value.split(|byte| *byte == b' ').next().filter(|word| word.len() <= 40)?;
        let (producer, number) = std::str::from_utf8(word).ok()?.strip_prefix('p')?.split_once('-')?;
        Some(Self { producer: producer.parse().ok()?, number: number.parse().ok()? })
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}-{}", self.producer, self.number)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Eight digits tell the topics of a run apart.
        let id = self.topic.0.simple().to_string();
        write!(f, "topic {}/{}", &id[..8], self.partition)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_proto::ErrorCode;

    use super::*;
    use crate::wire::{Batch, Standing};

    #[test]
    fn what_brought_an_answer_counts_and_what_a_client_asks_for_itself_does_not() {
        let place = Place { topic: TopicId::default(), partition: PartitionId(0) };
        let fetch = Ask::Fetch { place, epoch: 0, offset: 0 };
        let batch = Batch {
            producer: 1,
            epoch: 0,
            sequence: 0,
            crc: 0,
            records: vec![None],
            times: vec![0],
            bytes: 70,
        };
        let standing = Standing { base: 0, epoch: 0, stamp: None, batch: Arc::new(batch) };
        let fetched = |batches| Told::Fetched { high_watermark: 1, log_start: 0, epoch: 0, batches };
        let refused = Told::Refused { code: ErrorCode::NotLeader, high_watermark: -1, log_start: -1 };
        let counted = |ask: &Ask, told: Told| {
            let mut outcomes = Outcomes::default();
            outcomes.count(ask, &told);
            (outcomes.ok, outcomes.failed, outcomes.unknown)
        };
        assert_eq!(counted(&fetch, fetched(vec![standing])), (1, 0, 0));
        assert_eq!(counted(&fetch, fetched(Vec::new())), (0, 0, 0));
        assert_eq!(counted(&fetch, refused), (0, 1, 0));
        assert_eq!(counted(&Ask::Metadata, Told::Topics(Vec::new())), (0, 0, 0));
        let lost = Told::Unknown { why: "reset".to_owned() };
        assert_eq!(counted(&Ask::Delete { name: "a".to_owned(), id: None }, lost), (0, 0, 1));
    }

    #[test]
    fn a_value_names_its_record() {
        let id = RecordId { producer: 3, number: 41 };
        assert_eq!(RecordId::parse(format!("{id} padding").as_bytes()), Some(id));
        assert_eq!(RecordId::parse(id.to_string().as_bytes()), Some(id));
        for bad in ["", "p3", "3-4", "px-1", "p1-"] {
            assert_eq!(RecordId::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
