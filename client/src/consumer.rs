//! stub
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use quorate_proto::ids::{Offset, PartitionId, Timestamp};

use crate::error::ConsumeError;
use crate::record::ConsumedRecord;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// First record that can still be read.
    Beginning,
    /// Whatever comes after this moment.
    End,
    /// This offset.
    Offset(Offset),
    /// First record whose timestamp is at or after this one; the end if there is none.
    Timestamp(Timestamp),
}

/// Which partitions of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partitions {
    /// All of them.
    All,
    /// These.
    Only(Vec<PartitionId>),
}

/// What to do when a position cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reset {
    /// Say so: [`ConsumeError::OffsetOutOfRange`].
    #[default]
    Fail,
    /// Go to the first record that can be read.
    Beginning,
    /// Go to the end.
    End,
}

/// Knobs of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// What may lie fetched and unread.
    pub prefetch_bytes_max: usize,
    /// What one fetch asks for at most; a larger batch comes all the same.
    pub fetch_bytes_max: usize,
    /// How long a server waits for new records before it answers that there are none.
    pub fetch_wait: Duration,
    /// When a position cannot be read.
    pub reset: Reset,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            prefetch_bytes_max: 32 * 1024 * 1024,
            fetch_bytes_max: 1024 * 1024,
            fetch_wait: Duration::from_millis(500),
            reset: Reset::Fail,
        }
    }
}

/// Reads records of the partitions assigned to it.
#[derive(Debug)]
pub struct Consumer {}

impl Consumer {
    /// Adds partitions and begins to fetch. Positions are fixed when this returns.
    ///
    /// # Errors
    /// Unknown topic or partition, or time out.
    pub async fn assign(
        &mut self,
        topic: &str,
        partitions: Partitions,
        start: Start,
    ) -> Result<(), ConsumeError> {
        let _ = (topic, partitions, start);
        unimplemented!()
    }

    /// The next record.
    ///
    /// # Errors
    /// See [`ConsumeError`]. Later calls go on.
    pub async fn next(&mut self) -> Result<ConsumedRecord, ConsumeError> {
        unimplemented!()
    }

    /// Goes elsewhere in a partition.
    ///
    /// # Errors
    /// `NotAssigned`, or what a lookup gives.
    pub async fn seek(&mut self, topic: &str, partition: PartitionId, to: Start) -> Result<(), ConsumeError> {
        let _ = (topic, partition, to);
        unimplemented!()
    }

    /// What is assigned, in order.
    pub fn assigned(&self) -> Vec<(quorate_proto::ids::TopicName, PartitionId)> {
        unimplemented!()
    }

    /// Offset of the next record to be handed out.
    pub fn position(&self, topic: &str, partition: PartitionId) -> Option<Offset> {
        let _ = (topic, partition);
        unimplemented!()
    }

    /// The last known high watermark.
    pub fn high_watermark(&self, topic: &str, partition: PartitionId) -> Option<Offset> {
        let _ = (topic, partition);
        unimplemented!()
    }
}

impl Stream for Consumer {
    type Item = Result<ConsumedRecord, ConsumeError>;

    fn poll_next(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        unimplemented!()
    }
}
