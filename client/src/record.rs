//! Records, as they are sent and as they are read.

use bytes::Bytes;
use quorate_proto::batch::RecordHeader;
use quorate_proto::ids::{Offset, PartitionId, Timestamp, TopicName};

/// A record to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Records of the same key go to the same partition. `None` is not the empty key.
    pub key: Option<Bytes>,
    /// `None` is not the empty value.
    pub value: Option<Bytes>,
    /// In this order; keys may repeat.
    pub headers: Vec<RecordHeader>,
    /// `None`: the wall clock at the time of the call.
    pub timestamp: Option<Timestamp>,
    /// `None`: by the key, or without a key the same one until its batch is full or its time is up.
    pub partition: Option<PartitionId>,
}

impl Record {
    /// A record with a value and nothing else.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// With this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.headers.push(RecordHeader { key: key.into(), value: Some(value.into()) });
        self
    }

    /// With this timestamp.
    #[must_use]
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.timestamp = Some(timestamp);
        self
    }

    /// To this partition, whatever the key.
    #[must_use]
    pub fn partition(mut self, partition: PartitionId) -> Self {
        self.partition = Some(partition);
        self
    }
}

/// Where an acknowledged record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordPlace {
    /// Of its topic.
    pub partition: PartitionId,
    /// In its partition.
    pub offset: Offset,
    /// Its own, or the time of the append if the topic stamps that.
    pub timestamp: Timestamp,
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// Where it was read.
    pub topic: TopicName,
    /// Of the topic.
    pub partition: PartitionId,
    /// In its partition.
    pub offset: Offset,
    /// The producer's, or the time of the append if the topic stamps that.
    pub timestamp: Timestamp,
    /// `None` is not the empty key.
    pub key: Option<Bytes>,
    /// `None` is not the empty value.
    pub value: Option<Bytes>,
    /// In the order sent; keys may repeat.
    pub headers: Vec<RecordHeader>,
}
