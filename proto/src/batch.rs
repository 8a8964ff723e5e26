//! Record batches, Kafka's format v2: the unit that is sent, checksummed, proposed, stored and fetched.
//!
//! All numbers are big-endian; `varint` and `varlong` are zigzag, least significant seven bits first.
//!
//! | at | bytes | what |
//! | --- | --- | --- |
//! | 0 | 8 | base offset: offset of the first record; assigned by the leader |
//! | 8 | 4 | length of what follows this field |
//! | 12 | 4 | leader epoch; assigned by the leader |
//! | 16 | 1 | magic: 2 |
//! | 17 | 4 | CRC-32C of everything from 21 to the end |
//! | 21 | 2 | attributes: bits 0-2 compression (none, gzip, snappy, lz4, zstd), 3 log append time, 4 transactional, 5 control |
//! | 23 | 4 | last offset delta: record count - 1 |
//! | 27 | 8 | base timestamp, Unix ms: of the first record |
//! | 35 | 8 | max timestamp, Unix ms: of the latest record; with bit 3 the time of the append, of every record |
//! | 43 | 8 | producer id; -1: none |
//! | 51 | 2 | producer epoch |
//! | 53 | 4 | base sequence: of the first record |
//! | 57 | 4 | record count |
//! | 61 | | the records, compressed as one run of bytes if the attributes say so |
//!
//! A record: `length: varint` (of what follows), `attributes: u8`, `timestamp delta: varlong`,
//! `offset delta: varint`, `key length: varint` (-1: no key), key, `value length: varint` (-1: no value), value,
//! `header count: varint`, and for each header `key length: varint`, key, `value length: varint` (-1), value.
//! Header keys may repeat, their order counts, and they may be any bytes.
//!
//! The base offset and the leader epoch lie outside the CRC, so they are patched in place
//! ([`patch_base_offset`], [`patch_leader_epoch`]); a stamp with the time of the append
//! ([`stamp_log_append_time`]) computes it anew.
//!
//! Nothing in here panics, aborts or allocates more than it is told to, whatever bytes it is given: no claimed
//! count or size is believed before it was compared with the bytes that are there.

mod builder;
mod compression;
mod header;
mod records;
#[cfg(test)]
mod tests;
mod varint;

use bytes::Bytes;
use thiserror::Error;

pub use builder::{BatchBuilder, ProducerStamp};
pub use compression::Compression;
pub use header::{Attributes, BatchHeader};
pub use records::{Record, RecordHeader, Records};

use crate::error_code::ErrorCode;
use crate::ids::{LeaderEpoch, Offset, Timestamp};

/// Bytes of a batch before its records.
pub const HEADER_BYTES: usize = 61;

/// Kafka's `max.message.bytes` by default: the largest batch, header included, as sent.
pub const BATCH_BYTES_MAX: usize = 1_048_588;

/// What the records of one batch may come to when decompressed, for node and client alike: a client that reads
/// must not refuse what a node has taken.
pub const DECOMPRESSED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A record has at least this many bytes, its length included.
pub(crate) const RECORD_BYTES_MIN: usize = 7;

/// What [`validate`] lets pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest batch in bytes, header included, as sent.
    pub batch_bytes_max: usize,
    /// Whether compressed records are decompressed and walked like others. If not, only their count is bounded.
    pub verify_compressed: bool,
    /// What compressed records may come to.
    pub decompressed_bytes_max: usize,
    /// Largest count that a compressed batch may claim when it is not decompressed: else 61 bytes could claim
    /// 2^31 offsets.
    pub unverified_records_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            batch_bytes_max: BATCH_BYTES_MAX,
            verify_compressed: true,
            decompressed_bytes_max: DECOMPRESSED_BYTES_MAX,
            unverified_records_max: 1_000_000,
        }
    }
}

/// Why bytes are not a batch that we take.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BatchError {
    /// Fewer bytes than the header has, or than the batch claims.
    #[error("the batch is cut off: {found} of {expected} bytes")]
    Short {
        /// How many it would need.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// More bytes than the batch claims: two batches, or rubbish behind one.
    #[error("{extra} bytes follow the batch: a request holds exactly one")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// The length field is smaller than a header.
    #[error("the batch claims a length of {0}")]
    Length(i32),
    /// Larger than the limit.
    #[error("the batch has {found} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Its size.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// Another format.
    #[error("record batches of magic {0} are not supported, only of magic 2")]
    Magic(i8),
    /// The checksum does not fit.
    #[error("the batch is damaged: its CRC is {found:#010x}, its bytes give {computed:#010x}")]
    Crc {
        /// In the header.
        found: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// A record count below one, or one that the offsets do not fit, or that the bytes cannot hold.
    #[error("the batch claims {count} records with a last offset delta of {last_offset_delta}")]
    Count {
        /// Claimed.
        count: i32,
        /// Claimed.
        last_offset_delta: i32,
    },
    /// Base offset and count go past 2^63.
    #[error("the batch's offsets go past 2^63")]
    Offsets,
    /// Attributes that a producer must not set.
    #[error("the batch is marked as {0}, which a producer must not send")]
    Kind(&'static str),
    /// Producer id, epoch and sequence do not fit together.
    #[error("producer id {id}, epoch {epoch} and sequence {sequence} do not fit together")]
    Producer {
        /// In the header.
        id: i64,
        /// In the header.
        epoch: i16,
        /// In the header.
        sequence: i32,
    },
    /// A compression code without a meaning.
    #[error("compression code {0} is not known")]
    Compression(u16),
    /// The records cannot be decompressed.
    #[error("cannot decompress the records ({compression}): {reason}")]
    Decompress {
        /// How they claim to be compressed.
        compression: Compression,
        /// What the codec said.
        reason: String,
    },
    /// The records decompress to more than the limit.
    #[error("the records decompress to more than {limit} bytes")]
    Bomb {
        /// The limit.
        limit: usize,
    },
    /// A record breaks the format.
    #[error("record {index} of the batch is malformed: {what}")]
    Record {
        /// Counted from 0.
        index: u32,
        /// What is wrong with it.
        what: &'static str,
    },
}

impl BatchError {
    /// The code that a node answers with.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge { .. } | Self::Bomb { .. } => ErrorCode::BatchTooLarge,
            Self::Compression(_) => ErrorCode::UnsupportedCompression,
            Self::Short { .. }
            | Self::Trailing { .. }
            | Self::Length(_)
            | Self::Magic(_)
            | Self::Crc { .. }
            | Self::Count { .. }
            | Self::Offsets
            | Self::Kind(_)
            | Self::Producer { .. }
            | Self::Decompress { .. }
            | Self::Record { .. } => ErrorCode::CorruptBatch,
        }
    }
}

/// Checks what a producer sent: exactly one whole batch within the limits, CRC, counts, attributes, producer
/// fields, and its records one by one. The base offset and the leader epoch may be anything.
///
/// # Errors
/// The first thing found wrong. [`BatchError::code`] says what to answer.
pub fn validate(batch: &Bytes, limits: &Limits) -> Result<BatchHeader, BatchError> {
    if batch.len() > limits.batch_bytes_max {
        return Err(BatchError::TooLarge { found: batch.len(), limit: limits.batch_bytes_max });
    }
    let header = BatchHeader::parse(batch)?;
    if header.bytes < batch.len() {
        return Err(BatchError::Trailing { extra: batch.len() - header.bytes });
    }
    header.verify_crc(batch)?;
    if header.attributes.is_control() {
        return Err(BatchError::Kind("a control batch"));
    }
    if header.attributes.is_transactional() {
        return Err(BatchError::Kind("transactional"));
    }
    header.check_producer()?;
    let compression = header.attributes.compression()?;
    if compression == Compression::None {
        records::walk(&batch[HEADER_BYTES..], header.records)?;
    } else if limits.verify_compressed {
        let plain =
            compression::decompress(compression, &batch[HEADER_BYTES..], limits.decompressed_bytes_max)?;
        records::walk(&plain, header.records)?;
    } else if header.records > limits.unverified_records_max {
        return Err(header.count_error());
    }
    Ok(header)
}

/// Writes the offset of the first record into a batch. The CRC does not cover it.
///
/// # Panics
/// If `batch` is shorter than a header.
pub fn patch_base_offset(batch: &mut [u8], base: Offset) {
    batch[0..8].copy_from_slice(&base.to_wire().to_be_bytes());
}

/// Writes the leader epoch into a batch. The CRC does not cover it.
///
/// # Panics
/// If `batch` is shorter than a header.
pub fn patch_leader_epoch(batch: &mut [u8], epoch: LeaderEpoch) {
    batch[12..16].copy_from_slice(&epoch.0.to_be_bytes());
}

/// Marks a batch as appended at `now`: every record has this timestamp from here on. The CRC is computed anew.
///
/// # Panics
/// If `batch` is shorter than a header.
pub fn stamp_log_append_time(batch: &mut [u8], now: Timestamp) {
    let attributes = u16::from_be_bytes([batch[21], batch[22]]) | Attributes::LOG_APPEND_TIME;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[35..43].copy_from_slice(&now.0.to_be_bytes());
    header::write_crc(batch);
}

/// Writes another producer id, epoch and base sequence into a batch. The CRC is computed anew.
///
/// # Panics
/// If `batch` is shorter than a header.
pub fn stamp_producer(batch: &mut [u8], stamp: ProducerStamp) {
    stamp.write(batch);
    header::write_crc(batch);
}

/// The batches in a fetch's answer, one after the other; each as long as it claims, its CRC checked. Ends after an
/// error.
#[derive(Clone, Debug)]
pub struct Batches {
    rest: Bytes,
}

/// Splits what a fetch returned into its batches.
pub fn split(batches: Bytes) -> Batches {
    Batches { rest: batches }
}

impl Iterator for Batches {
    type Item = Result<(BatchHeader, Bytes), BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let parsed = BatchHeader::parse(&self.rest).and_then(|header| {
            let batch = self.rest.split_to(header.bytes);
            header.verify_crc(&batch).map(|()| (header, batch))
        });
        if parsed.is_err() {
            self.rest = Bytes::new();
        }
        Some(parsed)
    }
}
