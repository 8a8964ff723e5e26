//! The closed set of error codes on the wire, and what a client may conclude from each.

pub use crate::v1::ErrorCode;

impl ErrorCode {
    /// Whether the same request may succeed later or elsewhere without being changed.
    pub fn is_retriable(self) -> bool {
        match self {
            Self::UnknownOutcome
            | Self::NotLeader
            | Self::FencedLeaderEpoch
            | Self::UnknownLeaderEpoch
            | Self::Overloaded
            | Self::NotAvailable
            | Self::NotReady
            | Self::DiskFull
            | Self::OutOfOrderSequence => true,
            Self::None
            | Self::UnknownTopic
            | Self::UnknownPartition
            | Self::UnknownTopicId
            | Self::TopicExists
            | Self::InvalidTopicName
            | Self::InvalidPartitions
            | Self::InvalidReplicas
            | Self::InvalidConfig
            | Self::InvalidRequest
            | Self::CorruptBatch
            | Self::BatchTooLarge
            | Self::InvalidTimestamp
            | Self::DuplicateSequence
            | Self::InvalidProducerEpoch
            | Self::OffsetOutOfRange
            | Self::CorruptData
            | Self::Internal
            | Self::UnsupportedCompression
            | Self::WrongIdentity => false,
        }
    }

    /// Whether the work may have been done all the same. Every other code but `None` says: surely not done.
    pub fn is_unknown_outcome(self) -> bool {
        matches!(self, Self::UnknownOutcome | Self::Internal)
    }
}
