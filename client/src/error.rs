//! What can go wrong, one enum per operation, one variant per thing that the caller does differently.

use std::fmt;
use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_proto::batch::BatchError;
use quorate_proto::ids::{Offset, PartitionId, TopicName, TopicNameError};
use thiserror::Error;

/// A server that was asked, and why that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Its address.
    pub address: String,
    /// What happened.
    pub reason: String,
}

/// No server could answer: who was asked, and why each failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct NoServer {
    /// In the order in which they were asked.
    pub tried: Vec<Tried>,
}

impl fmt::Display for NoServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tried.is_empty() {
            return f.write_str("cannot reach any server: none was given");
        }
        f.write_str("cannot reach any server")?;
        for (at, tried) in self.tried.iter().enumerate() {
            let separator = if at == 0 { ": " } else { "; " };
            write!(f, "{separator}{}: {}", tried.address, tried.reason)?;
        }
        Ok(())
    }
}

/// Why a record was not acknowledged. The two variants are never mixed: by them alone the caller knows whether
/// sending the record anew can make it twice.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SendError {
    /// Surely not written, and it never will be: it can be sent anew.
    #[error("not written: {reason}")]
    NotWritten {
        /// Why.
        reason: Reason,
    },
    /// Perhaps written, now or a little later: sent anew it may stand there twice.
    #[error("perhaps written: {reason}")]
    PerhapsWritten {
        /// Why it is not known.
        reason: Reason,
    },
}

impl SendError {
    /// Why.
    pub fn reason(&self) -> &Reason {
        match self {
            Self::NotWritten { reason } | Self::PerhapsWritten { reason } => reason,
        }
    }

    /// Whether the record may be in the log.
    pub fn is_perhaps_written(&self) -> bool {
        matches!(self, Self::PerhapsWritten { .. })
    }
}

/// Why a record was given up.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Reason {
    /// The delivery time-out passed.
    #[error("not acknowledged within {}: {last}", seconds(*.after))]
    TimedOut {
        /// The time-out.
        after: Duration,
        /// What stood in the way last.
        last: String,
    },
    /// A server refused it, and would again.
    #[error("refused: {message} ({})", .code.as_str_name())]
    Refused {
        /// The server's code.
        code: ErrorCode,
        /// The server's words.
        message: String,
    },
    /// Larger than a record may be.
    #[error("the record takes {bytes} bytes, more than {limit}, {of}")]
    TooLarge {
        /// Of the record, encoded, before compression.
        bytes: usize,
        /// The most that it may take.
        limit: usize,
        /// Which limit that is.
        of: SizeLimit,
    },
    /// Not a topic's name.
    #[error(transparent)]
    TopicName(#[from] TopicNameError),
    /// No server knows the topic.
    #[error("topic {topic} does not exist")]
    UnknownTopic {
        /// Its name.
        topic: TopicName,
    },
    /// The topic was deleted; another one may have its name by now.
    #[error("topic {topic} was deleted")]
    TopicDeleted {
        /// Its name.
        topic: TopicName,
    },
    /// The topic has no such partition.
    #[error("topic {topic} has no partition {partition}, only 0 to {}", .partitions - 1)]
    UnknownPartition {
        /// Its name.
        topic: TopicName,
        /// The one that was asked for.
        partition: PartitionId,
        /// How many it has.
        partitions: usize,
    },
    /// An earlier batch of the same partition ended without a known outcome, and this one's hung on it.
    #[error("the outcome of an earlier batch of this partition is not known: {0}")]
    EarlierBatch(Box<Reason>),
    /// The producer was closed or dropped.
    #[error("the producer was closed")]
    Closed,
}

/// What bounds the size of a record, and so what to change if it is too small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SizeLimit {
    /// The topic's `max.message.bytes`, less the head of a batch.
    Topic {
        /// Its name.
        topic: TopicName,
        /// Its `max.message.bytes`.
        message_bytes_max: usize,
    },
    /// [`crate::ProducerConfig::record_bytes_max`].
    RecordBytesMax,
    /// [`crate::ProducerConfig::memory_bytes_max`], less the head of a batch.
    MemoryBytesMax,
    /// What fits into one request: nothing raises it.
    Request,
}

impl fmt::Display for SizeLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic { topic, message_bytes_max } => write!(
                f,
                "what max.message.bytes={message_bytes_max} of topic {topic} leaves for a record: raise that (quorate \
                 topic config set)"
            ),
            Self::RecordBytesMax => f.write_str("which is this producer's record_bytes_max: raise that"),
            Self::MemoryBytesMax => {
                f.write_str("what this producer's memory_bytes_max has room for: raise that")
            }
            Self::Request => {
                f.write_str("the most that a request has room for: cut the record into smaller ones")
            }
        }
    }
}

fn seconds(time: Duration) -> String {
    if time.subsec_millis() == 0 {
        format!("{} s", time.as_secs())
    } else {
        format!("{} ms", time.as_millis())
    }
}

/// Why no record came.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConsumeError {
    /// The position is below the log start offset or above the high watermark. The partition rests until
    /// [`crate::Consumer::seek`]; the others go on.
    #[error(
        "offset {offset} of {topic}/{partition} is out of range: it can be read from {log_start} to {high_watermark}"
    )]
    OffsetOutOfRange {
        /// Its topic.
        topic: TopicName,
        /// Of the topic.
        partition: PartitionId,
        /// What was asked for.
        offset: Offset,
        /// First offset that can still be read.
        log_start: Offset,
        /// Exclusive end of what may be read.
        high_watermark: Offset,
    },
    /// What a server sent is no intact batch at this offset. The partition rests until a seek.
    #[error("damaged batch at offset {offset} of {topic}/{partition}: {source}")]
    Corrupt {
        /// Its topic.
        topic: TopicName,
        /// Of the topic.
        partition: PartitionId,
        /// The position that was being read.
        offset: Offset,
        /// What is wrong with it.
        source: BatchError,
    },
    /// A server refused, and would again. The partition rests until a seek.
    #[error("{topic}/{partition} cannot be read: {message} ({})", .code.as_str_name())]
    Refused {
        /// Its topic.
        topic: TopicName,
        /// Of the topic.
        partition: PartitionId,
        /// The server's code.
        code: ErrorCode,
        /// The server's words.
        message: String,
    },
    /// Not a topic's name.
    #[error(transparent)]
    TopicName(#[from] TopicNameError),
    /// No server knows the topic.
    #[error("topic {topic} does not exist")]
    UnknownTopic {
        /// Its name.
        topic: TopicName,
    },
    /// The topic was deleted. Its partitions rest.
    #[error("topic {topic} was deleted")]
    TopicDeleted {
        /// Its name.
        topic: TopicName,
    },
    /// The topic has no such partition.
    #[error("topic {topic} has no partition {partition}, only 0 to {}", .partitions - 1)]
    UnknownPartition {
        /// Its name.
        topic: TopicName,
        /// The one that was asked for.
        partition: PartitionId,
        /// How many it has.
        partitions: usize,
    },
    /// The partition was not assigned.
    #[error("{topic}/{partition} is not assigned to this consumer")]
    NotAssigned {
        /// Its topic.
        topic: TopicName,
        /// Of the topic.
        partition: PartitionId,
    },
    /// Nothing was assigned, so nothing can come.
    #[error("no partition is assigned to this consumer")]
    NothingAssigned,
    /// A position could not be found in time.
    #[error("no answer within {}: {last}", seconds(*.after))]
    TimedOut {
        /// The time-out.
        after: Duration,
        /// What stood in the way last.
        last: String,
    },
}

/// Why an admin's request failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AdminError {
    /// Refused: surely not done.
    #[error("{message}")]
    Refused {
        /// The server's code.
        code: ErrorCode,
        /// The server's words.
        message: String,
    },
    /// Sent, and no answer came: perhaps done.
    #[error("the outcome is not known: {reason}")]
    PerhapsDone {
        /// Why.
        reason: String,
    },
    /// No server could be reached within the time-out: surely not done.
    #[error(transparent)]
    NoServer(#[from] NoServer),
    /// Servers answered, but none could do it within the time-out: surely not done.
    #[error("not done within {}: {last}", seconds(*.after))]
    TimedOut {
        /// The time-out.
        after: Duration,
        /// What stood in the way last.
        last: String,
    },
    /// Not a topic's name.
    #[error(transparent)]
    TopicName(#[from] TopicNameError),
}
