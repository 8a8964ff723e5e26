//! What is checked before a batch is queued, and the room that it takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use bytes::Bytes;
use quorate_proto::batch::{BatchHeader, Limits, validate};
use quorate_proto::ids::{Sequence, Timestamp};

use super::config::PartitionConfig;
use super::dedup::Claim;
use super::types::ProduceError;
use crate::metadata::{TimestampType, TopicConfig};

/// Checks a batch that a client sent.
pub(super) fn check(
    config: &PartitionConfig,
    topic: TopicConfig,
    wall: Timestamp,
    batch: &Bytes,
) -> Result<BatchHeader, ProduceError> {
    let limits = Limits {
        batch_bytes_max: usize::try_from(topic.message_bytes_max).unwrap_or(usize::MAX),
        verify_compressed: config.verify_compressed,
        decompressed_bytes_max: config.decompressed_bytes_max,
        ..Limits::default()
    };
    let header = validate(batch, &limits)?;
    if header.attributes.is_log_append_time() {
        return Err(ProduceError::TimestampType);
    }
    let ahead_ms_max = config.timestamp_ahead_ms_max;
    match topic.timestamp_type {
        TimestampType::CreateTime if header.max_timestamp.0 > wall.0.saturating_add(ahead_ms_max) => {
            Err(ProduceError::InvalidTimestamp { timestamp: header.max_timestamp, ahead_ms_max })
        }
        TimestampType::CreateTime | TimestampType::LogAppendTime => Ok(header),
    }
}

/// The producer's side of a batch.
pub(super) fn claim_of(header: &BatchHeader) -> Claim {
    Claim {
        producer: header.producer_id,
        epoch: header.producer_epoch,
        sequence: Sequence(header.base_sequence.0),
        records: header.records,
    }
}

/// Bytes of a partition that wait or are in flight.
#[derive(Clone, Debug)]
pub(super) struct Room {
    taken: Arc<AtomicU64>,
    bytes_max: u64,
}

/// Room that a batch has; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Taken {
    room: Room,
    bytes: u64,
}

impl Room {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { taken: Arc::default(), bytes_max }
    }

    /// Takes room for a batch; a batch larger than all of it gets it when nothing else has any.
    pub(super) fn take(&self, bytes: usize) -> Option<Taken> {
        let bytes = bytes as u64;
        let grow =
            |taken: u64| Some(taken.saturating_add(bytes)).filter(|sum| taken == 0 || *sum <= self.bytes_max);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, grow).ok()?;
        Some(Taken { room: self.clone(), bytes })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.taken.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// How far a produce has come, known to the batcher and to whoever waits with a deadline: at the deadline one of
/// them wins, and "surely not written" is said only of what will never be proposed.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress(Arc<AtomicU8>);

const QUEUED: u8 = 0;
const PROPOSED: u8 = 1;
const ABANDONED: u8 = 2;

impl Progress {
    /// The batcher is about to propose it; false if it was abandoned before.
    pub(super) fn propose(&self) -> bool {
        self.0.compare_exchange(QUEUED, PROPOSED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The deadline passed; true if it will surely never be proposed.
    pub(super) fn abandon(&self) -> bool {
        self.0.compare_exchange(QUEUED, ABANDONED, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_bounded_and_given_back() {
        let room = Room::new(100);
        let first = room.take(70).unwrap();
        assert!(room.take(40).is_none());
        let second = room.take(30).unwrap();
        drop(first);
        assert!(room.take(71).is_none());
        drop(second);
        assert!(room.take(1_000).is_some(), "nothing else has any");
    }

    #[test]
    fn one_side_wins() {
        let progress = Progress::default();
        assert!(progress.propose() && !progress.abandon());
        let progress = Progress::default();
        assert!(progress.abandon() && !progress.propose());
    }
}
