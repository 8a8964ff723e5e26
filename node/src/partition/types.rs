//! What a replica is asked, and what it answers.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::batch::BatchError;
use quorate_proto::ids::{LeaderEpoch, NodeId, Offset, ProducerEpoch, Timestamp};
use thiserror::Error;

use crate::metadata::Leadership;
use crate::storage::DiskRoom;

/// A batch that is in the log, on the disks of a majority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    /// Offset of its first record: the original's for a duplicate.
    pub base_offset: Offset,
    /// When it was appended, if the topic stamps records then (`LogAppendTime`).
    pub log_append_time: Option<Timestamp>,
    /// First offset that can be read.
    pub log_start: Offset,
    /// The epoch of the leader that answers.
    pub epoch: LeaderEpoch,
}

/// Why a batch was not acknowledged. All but [`ProduceError::Unknown`] say: surely not written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProduceError {
    /// Another node leads, or none yet: ask the one named.
    #[error("this node does not lead the partition")]
    NotLeader {
        /// The newest leadership heard of.
        leader: Option<Leadership>,
    },
    /// The request names an older leader epoch: refresh the metadata.
    #[error("leader epoch {asked} is past: the partition is at {current}")]
    Fenced {
        /// What the request named.
        asked: LeaderEpoch,
        /// What this leader leads in.
        current: LeaderEpoch,
        /// The newest leadership heard of.
        leader: Option<Leadership>,
    },
    /// The request names an epoch that this node has not heard of: wait and retry.
    #[error("leader epoch {asked} is not known here yet: the partition is at {current}")]
    UnknownEpoch {
        /// What the request named.
        asked: LeaderEpoch,
        /// What this leader leads in.
        current: LeaderEpoch,
    },
    /// A queue or the memory for unsynced entries is full: wait and retry here.
    #[error("overloaded: {0}")]
    Overloaded(&'static str),
    /// The disk of this node, or those of so many others that no majority would take it, is nearly full: wait, or ask who
    /// leads by now.
    #[error("{}", .room.refusal(*.node))]
    DiskFull {
        /// Whose.
        node: NodeId,
        /// How much is left there.
        room: DiskRoom,
    },
    /// The deadline passed before it was proposed, or it lost its place and must be sent again.
    #[error("not written: {0}")]
    NotAvailable(&'static str),
    /// The replica is being stopped: go elsewhere.
    #[error("the replica is stopping")]
    Stopping,
    /// The batch is damaged, too large, or not what it says it is.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A record lies too far in the future.
    #[error("timestamp {timestamp} is more than {ahead_ms_max} ms ahead of this node's clock")]
    InvalidTimestamp {
        /// The batch's largest.
        timestamp: Timestamp,
        /// How far ahead one may be.
        ahead_ms_max: i64,
    },
    /// The batch claims to have been stamped by a leader.
    #[error("a producer must not set the timestamp type LogAppendTime")]
    TimestampType,
    /// All or a part of it was perhaps written before, longer ago than the last five batches.
    #[error("the batch was written before, and its offset is not remembered")]
    DuplicateSequence,
    /// A batch between the last one and this one is missing, or it lies before the producer's first one.
    #[error("the batch does not follow the producer's last one")]
    OutOfOrder,
    /// A newer instance of the producer has written.
    #[error("producer epoch {asked} is past: the producer is at {current}")]
    InvalidEpoch {
        /// The batch's.
        asked: ProducerEpoch,
        /// The newest that has written.
        current: ProducerEpoch,
    },
    /// Perhaps written: retry with the same sequence.
    #[error("the outcome is not known: perhaps written")]
    Unknown,
}

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The leader epoch that the reader knows.
    pub epoch: Option<LeaderEpoch>,
    /// First record wanted.
    pub offset: Offset,
    /// Whole batches up to this many bytes are returned, the first one even if it is larger.
    pub bytes_max: u32,
    /// Wait for this many bytes below the high watermark ...
    pub bytes_min: u32,
    /// ... at most this long.
    pub wait: Duration,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Record batches one after the other, the first one holding the offset asked for; empty at the high watermark.
    pub batches: Bytes,
    /// Exclusive end of what may be read.
    pub high_watermark: Offset,
    /// First offset that can be read.
    pub log_start: Offset,
    /// The epoch of the leader that answers.
    pub epoch: LeaderEpoch,
}

/// Why nothing was read.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FetchError {
    /// Another node leads, or none yet: ask the one named.
    #[error("this node does not lead the partition")]
    NotLeader {
        /// The newest leadership heard of.
        leader: Option<Leadership>,
    },
    /// The request names an older leader epoch: refresh the metadata.
    #[error("leader epoch {asked} is past: the partition is at {current}")]
    Fenced {
        /// What the request named.
        asked: LeaderEpoch,
        /// What this leader leads in.
        current: LeaderEpoch,
        /// The newest leadership heard of.
        leader: Option<Leadership>,
    },
    /// The request names an epoch that this node has not heard of: wait and retry.
    #[error("leader epoch {asked} is not known here yet: the partition is at {current}")]
    UnknownEpoch {
        /// What the request named.
        asked: LeaderEpoch,
        /// What this leader leads in.
        current: LeaderEpoch,
    },
    /// Outside what can be read.
    #[error("offset {offset} is outside {log_start}..={high_watermark}")]
    OffsetOutOfRange {
        /// What was asked for.
        offset: Offset,
        /// First offset that can be read.
        log_start: Offset,
        /// Exclusive end of what may be read; a reader may wait there.
        high_watermark: Offset,
    },
    /// Too many readers wait already.
    #[error("overloaded: too many fetches wait on this partition")]
    Overloaded,
    /// No majority confirmed in time that this node still leads.
    #[error("no majority answered in time")]
    NotAvailable,
    /// The replica is being stopped: go elsewhere.
    #[error("the replica is stopping")]
    Stopping,
    /// What was asked for is damaged on this disk.
    #[error("cannot read it from this disk: {0}")]
    Damaged(String),
}

/// Which offset to look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetAt {
    /// First offset that can be read.
    Earliest,
    /// The high watermark, with a majority's word that it is the latest.
    Latest,
    /// The first record whose timestamp is at or after this one.
    Timestamp(Timestamp),
}

/// An offset that was looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetFound {
    /// `None` when no record is that late.
    pub offset: Option<Offset>,
    /// The record's timestamp, if one was looked up by time.
    pub timestamp: Option<Timestamp>,
    /// The epoch of the leader that answers.
    pub epoch: LeaderEpoch,
}

/// Where a leader epoch ended (KIP-101).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The largest epoch at or below the one asked for, and its end (exclusive); `None` if there is none.
    pub found: Option<(LeaderEpoch, Offset)>,
    /// The epoch of the leader that answers.
    pub epoch: LeaderEpoch,
}

/// Up to where records are to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteBefore {
    /// Those before this offset.
    Offset(Offset),
    /// All that can be read now.
    HighWatermark,
}

/// Records are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// First offset that can still be read.
    pub log_start: Offset,
    /// The epoch of the leader that answers.
    pub epoch: LeaderEpoch,
}

/// Why records were not deleted. All but [`DeleteError::Unknown`] say: surely not done.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeleteError {
    /// Another node leads, or none yet: ask the one named.
    #[error("this node does not lead the partition")]
    NotLeader {
        /// The newest leadership heard of.
        leader: Option<Leadership>,
    },
    /// The request names an older leader epoch: refresh the metadata.
    #[error("leader epoch {asked} is past: the partition is at {current}")]
    Fenced {
        /// What the request named.
        asked: LeaderEpoch,
        /// What this leader leads in.
        current: LeaderEpoch,
        /// The newest leadership heard of.
        leader: Option<Leadership>,
    },
    /// The request names an epoch that this node has not heard of: wait and retry.
    #[error("leader epoch {asked} is not known here yet: the partition is at {current}")]
    UnknownEpoch {
        /// What the request named.
        asked: LeaderEpoch,
        /// What this leader leads in.
        current: LeaderEpoch,
    },
    /// Past what can be read.
    #[error(
        "records before offset {offset} cannot be deleted: the partition holds {log_start}..{high_watermark}"
    )]
    OffsetOutOfRange {
        /// What was asked for.
        offset: Offset,
        /// First offset that can be read.
        log_start: Offset,
        /// Exclusive end of what may be read.
        high_watermark: Offset,
    },
    /// No majority confirmed in time that this node still leads, or too many ask for that.
    #[error("no majority answered in time")]
    NotAvailable,
    /// The replica is being stopped: go elsewhere.
    #[error("the replica is stopping")]
    Stopping,
    /// Perhaps done: asking again is harmless.
    #[error("the outcome is not known: perhaps done")]
    Unknown,
}

impl From<FetchError> for DeleteError {
    /// What kept a leader from saying where its records end.
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::NotLeader { leader } => Self::NotLeader { leader },
            FetchError::Fenced { asked, current, leader } => Self::Fenced { asked, current, leader },
            FetchError::UnknownEpoch { asked, current } => Self::UnknownEpoch { asked, current },
            FetchError::OffsetOutOfRange { offset, log_start, high_watermark } => {
                Self::OffsetOutOfRange { offset, log_start, high_watermark }
            }
            FetchError::Overloaded | FetchError::NotAvailable | FetchError::Damaged(_) => Self::NotAvailable,
            FetchError::Stopping => Self::Stopping,
        }
    }
}

/// Why a node has no replica to ask.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoReplica {
    /// The topic was deleted, or this node has not heard of it.
    #[error("no topic has this id")]
    UnknownTopicId,
    /// The topic has fewer partitions.
    #[error("the topic has {partitions} partitions")]
    UnknownPartition {
        /// How many it has.
        partitions: usize,
    },
    /// Other nodes hold the partition, or this node's replica is still being started.
    #[error("this node does not serve the partition")]
    NotHere {
        /// The newest leadership heard of.
        leader: Option<Leadership>,
    },
}
