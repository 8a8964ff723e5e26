//! The 61 bytes before the records.

use super::{BatchError, Compression, HEADER_BYTES, RECORD_BYTES_MIN};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// The header of a batch, each field with its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record. What a producer sends here means nothing; a negative number reads as 0.
    pub base_offset: Offset,
    /// The whole batch, header included: at least [`HEADER_BYTES`].
    pub bytes: usize,
    /// The term in which the batch was appended. What a producer sends here means nothing.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of everything from the attributes to the end.
    pub crc: u32,
    /// Compression and flags.
    pub attributes: Attributes,
    /// How many records, at least 1. The last offset delta is one less.
    pub records: u32,
    /// Of the first record.
    pub base_timestamp: Timestamp,
    /// The largest of the records', or the time of the append.
    pub max_timestamp: Timestamp,
    /// [`ProducerId::NONE`] if the batch is not idempotent.
    pub producer_id: ProducerId,
    /// -1 without a producer id.
    pub producer_epoch: ProducerEpoch,
    /// Of the first record; -1 without a producer id.
    pub base_sequence: Sequence,
}

/// A batch's compression and flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes(pub u16);

impl Attributes {
    pub(super) const LOG_APPEND_TIME: u16 = 1 << 3;
    const TRANSACTIONAL: u16 = 1 << 4;
    const CONTROL: u16 = 1 << 5;

    /// How the records are compressed.
    ///
    /// # Errors
    /// [`BatchError::Compression`] if the code has no meaning.
    pub fn compression(self) -> Result<Compression, BatchError> {
        Compression::from_code(self.0 & 0b111)
    }

    /// Whether the max timestamp is the time of the append and holds for every record.
    pub fn is_log_append_time(self) -> bool {
        self.0 & Self::LOG_APPEND_TIME != 0
    }

    /// Whether it belongs to a transaction.
    pub fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether it holds a marker instead of records.
    pub fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }
}

fn array<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    header[at..at + N].try_into().expect("the field lies within the header")
}

impl BatchHeader {
    /// Reads the header at the front of `bytes` and checks that the whole batch is there and that length, magic,
    /// count and offsets can be true. Does not check the CRC.
    ///
    /// # Errors
    /// [`BatchError::Short`], `Length`, `Magic`, `Count` or `Offsets`.
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        let short = |expected| BatchError::Short { expected, found: bytes.len() };
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk().ok_or_else(|| short(HEADER_BYTES))?;
        let magic = i8::from_be_bytes([header[16]]);
        if magic != 2 {
            return Err(BatchError::Magic(magic));
        }
        let length = i32::from_be_bytes(array(header, 8));
        let total = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_add(12))
            .filter(|total| *total >= HEADER_BYTES)
            .ok_or(BatchError::Length(length))?;
        if total > bytes.len() {
            return Err(short(total));
        }
        let last_offset_delta = i32::from_be_bytes(array(header, 23));
        let count = i32::from_be_bytes(array(header, 57));
        let records = u32::try_from(count)
            .ok()
            .filter(|records| *records >= 1 && last_offset_delta == count - 1)
            .ok_or(BatchError::Count { count, last_offset_delta })?;
        let base_offset = u64::try_from(i64::from_be_bytes(array(header, 0))).unwrap_or(0);
        if i64::try_from(base_offset + u64::from(records)).is_err() {
            return Err(BatchError::Offsets);
        }
        let parsed = Self {
            base_offset: Offset(base_offset),
            bytes: total,
            leader_epoch: LeaderEpoch(i32::from_be_bytes(array(header, 12))),
            crc: u32::from_be_bytes(array(header, 17)),
            attributes: Attributes(u16::from_be_bytes(array(header, 21))),
            records,
            base_timestamp: Timestamp(i64::from_be_bytes(array(header, 27))),
            max_timestamp: Timestamp(i64::from_be_bytes(array(header, 35))),
            producer_id: ProducerId(i64::from_be_bytes(array(header, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(array(header, 51))),
            base_sequence: Sequence(i32::from_be_bytes(array(header, 53))),
        };
        let body = total - HEADER_BYTES;
        let most = body / RECORD_BYTES_MIN;
        if parsed.attributes.compression() == Ok(Compression::None) && fits(records) > most {
            return Err(parsed.count_error());
        }
        Ok(parsed)
    }

    /// Compares the CRC with the bytes of the batch, which `self` was read from.
    ///
    /// # Errors
    /// [`BatchError::Crc`] if they do not fit, [`BatchError::Short`] if bytes are missing.
    pub fn verify_crc(&self, batch: &[u8]) -> Result<(), BatchError> {
        let covered = batch
            .get(21..self.bytes)
            .ok_or(BatchError::Short { expected: self.bytes, found: batch.len() })?;
        let computed = crc32c::crc32c(covered);
        if computed != self.crc {
            return Err(BatchError::Crc { found: self.crc, computed });
        }
        Ok(())
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> Offset {
        self.base_offset.plus(self.records - 1)
    }

    /// The offset after the last record.
    pub fn next_offset(&self) -> Offset {
        self.base_offset.plus(self.records)
    }

    pub(super) fn count_error(&self) -> BatchError {
        let count = i32::try_from(self.records).expect("a count was read from an i32");
        BatchError::Count { count, last_offset_delta: count - 1 }
    }

    pub(super) fn check_producer(&self) -> Result<(), BatchError> {
        let (id, epoch, sequence) = (self.producer_id.0, self.producer_epoch.0, self.base_sequence.0);
        let idempotent = id >= 0 && epoch >= 0 && sequence >= 0;
        if idempotent || id == ProducerId::NONE.0 {
            return Ok(());
        }
        Err(BatchError::Producer { id, epoch, sequence })
    }
}

fn fits(records: u32) -> usize {
    usize::try_from(records).unwrap_or(usize::MAX)
}

/// Computes the CRC of a whole batch and writes it into its header.
pub(super) fn write_crc(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}
