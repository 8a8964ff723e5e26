//! What passes between clients and nodes, as the checks see it: each call and its answer, with batches taken apart.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::ErrorCode;
use quorate_proto::batch::{BatchHeader, Records, split};
use quorate_proto::call::{Call, CallError, Reply};
use quorate_proto::ids::{NodeId, Offset, PartitionId, Timestamp, TopicId};
use quorate_proto::v1::{self, list_offset_request};

use crate::history::{Place, RecordId};

/// What batches may come to when they are taken apart.
const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

/// A record batch: what its producer made of it, and nothing that a node adds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Batch {
    /// Producer id; -1: none.
    pub producer: i64,
    /// The producer's epoch.
    pub epoch: i16,
    /// Of the first record.
    pub sequence: i32,
    /// Of the records as they stand in the batch, compressed or not.
    pub crc: u32,
    /// The records; `None` for what is no record of ours.
    pub records: Vec<Option<RecordId>>,
    /// The records' timestamps, in ms.
    pub times: Vec<i64>,
    /// Its length as it is sent and stored, in bytes.
    pub bytes: u64,
}

/// A batch in a partition's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Offset of its first record.
    pub base: u64,
    /// In which leader epoch it was written.
    pub epoch: i32,
    /// The time of the append, where the topic stamps that.
    pub stamp: Option<i64>,
    /// What it is.
    pub batch: Arc<Batch>,
}

/// A client asks a node.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Unique in a run, in the order asked.
    pub call: u64,
    /// Who asks.
    pub client: u32,
    /// Whether that is an SDK's client, and no hand-made one.
    pub sdk: bool,
    /// Whom.
    pub node: NodeId,
    /// When.
    pub at: Duration,
    /// For what.
    pub ask: Ask,
}

/// What can be asked.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is named like the one of the message")]
pub enum Ask {
    Produce {
        place: Place,
        epoch: i32,
        batch: Arc<Batch>,
    },
    Fetch {
        place: Place,
        epoch: i32,
        offset: i64,
    },
    Find {
        place: Place,
        epoch: i32,
        at: FindAt,
    },
    EpochEnd {
        place: Place,
        current: i32,
        epoch: i32,
    },
    Create {
        name: String,
        configs: Vec<(String, String)>,
    },
    Delete {
        name: String,
        id: Option<TopicId>,
    },
    /// Settings of a topic, with their new values; `None`: the default.
    Configure {
        name: String,
        changes: Vec<(String, Option<String>)>,
    },
    /// Up to a new total.
    AddPartitions {
        name: String,
        partitions: i32,
    },
    /// All records before that offset are to go; -1: all below the high watermark.
    DeleteRecords {
        place: Place,
        before: i64,
    },
    Producer,
    Metadata,
    /// Nothing that a check looks at, or nonsense.
    Other,
}

/// Which offset is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FindAt {
    /// The log start.
    Earliest,
    /// The high watermark.
    Latest,
    /// The first record of this time or later, in ms.
    Time(i64),
}

/// What a client is told.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each field is named like the one of the message")]
pub enum Told {
    Produced {
        base: u64,
        stamp: Option<i64>,
        log_start: i64,
        epoch: i32,
    },
    Fetched {
        high_watermark: i64,
        log_start: i64,
        epoch: i32,
        batches: Vec<Standing>,
    },
    /// The answer's bytes are not batches.
    Garbled {
        why: String,
    },
    Found {
        offset: Option<u64>,
        time: Option<i64>,
        epoch: i32,
    },
    EpochEnded {
        found: Option<(i32, u64)>,
        epoch: i32,
    },
    Topics(Vec<(String, TopicId, usize)>),
    Created(TopicId),
    Deleted,
    Configured,
    PartitionsAdded,
    RecordsDeleted {
        log_start: i64,
    },
    Producer(i64),
    /// Surely not done.
    Refused {
        code: ErrorCode,
        high_watermark: i64,
        log_start: i64,
    },
    /// Surely not done: it did not reach the node.
    Unreached,
    /// Perhaps done.
    Unknown {
        why: String,
    },
    Other,
}

impl Batch {
    /// Takes a batch apart; `None` if it is none.
    pub fn parse(header: &BatchHeader, batch: &Bytes) -> Option<Self> {
        let records = Records::new(header, batch, DECOMPRESSED_BYTES_MAX).ok()?;
        let records = records.collect::<Result<Vec<_>, _>>().ok()?;
        let body = batch.get(quorate_proto::batch::HEADER_BYTES..)?;
        Some(Self {
            producer: header.producer_id.0,
            epoch: header.producer_epoch.0,
            sequence: header.base_sequence.0,
            crc: crc32c::crc32c(body),
            records: records.iter().map(|read| read.value.as_deref().and_then(RecordId::parse)).collect(),
            times: records.iter().map(|record| record.timestamp.0).collect(),
            bytes: u64::try_from(batch.len()).unwrap_or(u64::MAX),
        })
    }

    /// How many records it has.
    pub fn count(&self) -> u64 {
        u64::try_from(self.records.len()).unwrap_or(u64::MAX)
    }

    /// Whether it has the producer, epoch, sequence and bytes of `other`. Timestamps are not looked at.
    pub fn is(&self, other: &Self) -> bool {
        let name = |batch: &Self| (batch.producer, batch.epoch, batch.sequence, batch.crc);
        name(self) == name(other) && self.records == other.records
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |record: &Option<RecordId>| record.map_or("foreign".to_owned(), |id| id.to_string());
        match self.records.as_slice() {
            [] => f.write_str("an empty batch")?,
            [only] => f.write_str(&name(only))?,
            [first, .., last] => {
                write!(f, "{}..{} ({} records)", name(first), name(last), self.records.len())?
            }
        }
        write!(f, " of producer id {} epoch {} sequence {}", self.producer, self.epoch, self.sequence)
    }
}

impl Standing {
    /// Exclusive end.
    pub fn end(&self) -> u64 {
        self.base + self.batch.count()
    }

    /// Whether it is `batch` as its producer made it.
    pub fn is(&self, batch: &Batch) -> bool {
        self.batch.is(batch) && (self.stamp.is_some() || self.batch.times == batch.times)
    }

    /// The timestamp of its record at `at`, in ms.
    pub fn time(&self, at: usize) -> i64 {
        self.stamp.or_else(|| self.batch.times.get(at).copied()).unwrap_or_default()
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "client{} at node{}, asked at {:?}", self.client, self.node, self.at)
    }
}

impl Asked {
    /// The partition that is meant.
    pub fn place(&self) -> Option<Place> {
        match &self.ask {
            Ask::Produce { place, .. }
            | Ask::Fetch { place, .. }
            | Ask::Find { place, .. }
            | Ask::EpochEnd { place, .. }
            | Ask::DeleteRecords { place, .. } => Some(*place),
            Ask::Create { .. }
            | Ask::Delete { .. }
            | Ask::Configure { .. }
            | Ask::AddPartitions { .. }
            | Ask::Producer
            | Ask::Metadata
            | Ask::Other => None,
        }
    }

    /// The leader epoch that the answer gives or, where it does not, the one asked with.
    pub fn epoch(&self) -> i32 {
        match &self.ask {
            Ask::Produce { epoch, .. } | Ask::Fetch { epoch, .. } | Ask::Find { epoch, .. } => *epoch,
            Ask::EpochEnd { current, .. } => *current,
            Ask::Create { .. }
            | Ask::Delete { .. }
            | Ask::Configure { .. }
            | Ask::AddPartitions { .. }
            | Ask::DeleteRecords { .. }
            | Ask::Producer
            | Ask::Metadata
            | Ask::Other => -1,
        }
    }
}

fn place(topic_id: &[u8], partition: i32) -> Option<Place> {
    Some(Place { topic: TopicId::from_wire(topic_id)?, partition: PartitionId(partition) })
}

/// What a call asks.
pub fn ask(call: &Call) -> Ask {
    let read = || match call {
        Call::Produce(request) => {
            let header = BatchHeader::parse(&request.batch).ok()?;
            let batch = Arc::new(Batch::parse(&header, &request.batch)?);
            let place = place(&request.topic_id, request.partition)?;
            Some(Ask::Produce { place, epoch: request.leader_epoch, batch })
        }
        Call::Fetch(request) => {
            let place = place(&request.topic_id, request.partition)?;
            Some(Ask::Fetch { place, epoch: request.leader_epoch, offset: request.offset })
        }
        Call::ListOffset(request) => {
            let at = match request.at? {
                list_offset_request::At::Earliest(_) => FindAt::Earliest,
                list_offset_request::At::Latest(_) => FindAt::Latest,
                list_offset_request::At::TimestampMs(ms) => FindAt::Time(ms),
            };
            let place = place(&request.topic_id, request.partition)?;
            Some(Ask::Find { place, epoch: request.leader_epoch, at })
        }
        Call::EpochEnd(request) => Some(Ask::EpochEnd {
            place: place(&request.topic_id, request.partition)?,
            current: request.current_leader_epoch,
            epoch: request.epoch,
        }),
        Call::CreateTopic(request) => {
            let configs = request.configs.iter().map(|entry| (entry.key.clone(), entry.value.clone()));
            Some(Ask::Create { name: request.name.clone(), configs: configs.collect() })
        }
        Call::DeleteTopic(request) => {
            Some(Ask::Delete { name: request.name.clone(), id: TopicId::from_wire(&request.id) })
        }
        Call::ConfigureTopic(request) => {
            let change = |change: &v1::ConfigChange| (change.key.clone(), change.value.clone());
            let changes = request.changes.iter().map(change).collect();
            Some(Ask::Configure { name: request.name.clone(), changes })
        }
        Call::AddPartitions(request) => {
            Some(Ask::AddPartitions { name: request.name.clone(), partitions: request.partitions })
        }
        Call::DeleteRecords(request) => Some(Ask::DeleteRecords {
            place: place(&request.topic_id, request.partition)?,
            before: request.before_offset,
        }),
        Call::InitProducer(_) => Some(Ask::Producer),
        Call::Metadata(_) => Some(Ask::Metadata),
        Call::ClusterStatus(_) | Call::ChangeMembers(_) | Call::MoveLeader(_) => None,
    };
    read().unwrap_or(Ask::Other)
}

/// What an answer tells. `known` finds a batch that was taken apart before.
pub fn told(
    asked: &Asked,
    answer: &Result<Reply, CallError>,
    known: impl FnMut(&BatchHeader, &Bytes) -> Option<Arc<Batch>>,
) -> Told {
    let reply = match answer {
        Ok(reply) => reply,
        Err(CallError::Unreachable { .. }) => return Told::Unreached,
        Err(CallError::Lost { reason, .. }) => return Told::Unknown { why: reason.clone() },
    };
    let (code, high_watermark, log_start) = match reply {
        Reply::Produce(reply) => (reply.error(), -1, -1),
        Reply::Fetch(reply) => (reply.error(), reply.high_watermark, reply.log_start_offset),
        Reply::ListOffset(reply) => (reply.error(), -1, -1),
        Reply::EpochEnd(reply) => (reply.error(), -1, -1),
        Reply::Metadata(reply) => (reply.error(), -1, -1),
        Reply::CreateTopic(reply) => (reply.error(), -1, -1),
        Reply::DeleteTopic(reply) => (reply.error(), -1, -1),
        Reply::ConfigureTopic(reply) => (reply.error(), -1, -1),
        Reply::AddPartitions(reply) => (reply.error(), -1, -1),
        Reply::DeleteRecords(reply) => (reply.error(), reply.high_watermark, reply.log_start_offset),
        Reply::InitProducer(reply) => (reply.error(), -1, -1),
        Reply::ClusterStatus(_) | Reply::ChangeMembers(_) | Reply::MoveLeader(_) => return Told::Other,
    };
    if code.is_unknown_outcome() {
        return Told::Unknown { why: code.as_str_name().to_owned() };
    }
    if code != ErrorCode::None {
        return Told::Refused { code, high_watermark, log_start };
    }
    match reply {
        Reply::Produce(reply) => match u64::try_from(reply.base_offset) {
            Ok(base) => Told::Produced {
                base,
                stamp: (reply.log_append_time_ms >= 0).then_some(reply.log_append_time_ms),
                log_start: reply.log_start_offset,
                epoch: reply.leader_epoch,
            },
            Err(_) => Told::Garbled { why: "an ack without an offset".to_owned() },
        },
        Reply::Fetch(reply) => fetched(reply, known),
        Reply::ListOffset(reply) => {
            let offset = u64::try_from(reply.offset).ok();
            let by_time = matches!(asked.ask, Ask::Find { at: FindAt::Time(_), .. });
            let time = offset.filter(|_| by_time).map(|_| reply.timestamp_ms);
            Told::Found { offset, time, epoch: reply.leader_epoch }
        }
        Reply::EpochEnd(reply) => {
            let end = u64::try_from(reply.end_offset).ok();
            let found = end.filter(|_| reply.epoch >= 0).map(|end| (reply.epoch, end));
            Told::EpochEnded { found, epoch: reply.leader_epoch }
        }
        Reply::Metadata(reply) => {
            let fine = reply.topics.iter().filter(|topic| topic.error() == ErrorCode::None);
            let topic = |topic: &v1::TopicMetadata| {
                Some((topic.name.clone(), TopicId::from_wire(&topic.id)?, topic.partitions.len()))
            };
            Told::Topics(fine.filter_map(topic).collect())
        }
        Reply::CreateTopic(reply) => match TopicId::from_wire(&reply.id) {
            Some(id) => Told::Created(id),
            None => Told::Garbled { why: "a topic without an id".to_owned() },
        },
        Reply::DeleteTopic(_) => Told::Deleted,
        Reply::ConfigureTopic(_) => Told::Configured,
        Reply::AddPartitions(_) => Told::PartitionsAdded,
        Reply::DeleteRecords(reply) => Told::RecordsDeleted { log_start: reply.log_start_offset },
        Reply::InitProducer(reply) => Told::Producer(reply.producer_id),
        Reply::ClusterStatus(_) | Reply::ChangeMembers(_) | Reply::MoveLeader(_) => Told::Other,
    }
}

fn fetched(
    reply: &v1::FetchResponse,
    mut known: impl FnMut(&BatchHeader, &Bytes) -> Option<Arc<Batch>>,
) -> Told {
    let mut batches = Vec::new();
    for batch in split(reply.batches.clone()) {
        let (header, bytes) = match batch {
            Ok(batch) => batch,
            Err(error) => return Told::Garbled { why: error.to_string() },
        };
        let Offset(base) = header.base_offset;
        let batch = match known(&header, &bytes) {
            Some(batch) => batch,
            None => match Batch::parse(&header, &bytes) {
                Some(batch) => Arc::new(batch),
                None => return Told::Garbled { why: format!("the batch at {base} cannot be read") },
            },
        };
        let Timestamp(newest) = header.max_timestamp;
        let stamp = header.attributes.is_log_append_time().then_some(newest);
        batches.push(Standing { base, epoch: header.leader_epoch.0, stamp, batch });
    }
    Told::Fetched {
        high_watermark: reply.high_watermark,
        log_start: reply.log_start_offset,
        epoch: reply.leader_epoch,
        batches,
    }
}
