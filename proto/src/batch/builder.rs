//! Encodes records into a batch.

use bytes::Bytes;

use super::{Attributes, Compression, HEADER_BYTES, RecordHeader, compression, header, varint};
use crate::ids::{ProducerEpoch, ProducerId, Sequence, Timestamp};

/// Who wrote a batch, and its running number: by these a retry is recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerStamp {
    /// [`ProducerId::NONE`] if no retry shall be recognised.
    pub id: ProducerId,
    /// The instance of the producer.
    pub epoch: ProducerEpoch,
    /// Of the batch's first record.
    pub sequence: Sequence,
}

impl ProducerStamp {
    /// Of a batch whose retries are not recognised.
    pub const NONE: Self = Self { id: ProducerId::NONE, epoch: ProducerEpoch(-1), sequence: Sequence(-1) };

    pub(super) fn write(self, batch: &mut [u8]) {
        batch[43..51].copy_from_slice(&self.id.0.to_be_bytes());
        batch[51..53].copy_from_slice(&self.epoch.0.to_be_bytes());
        batch[53..57].copy_from_slice(&self.sequence.0.to_be_bytes());
    }
}

/// A batch in the making. Records are encoded as they come, straight into the bytes that are sent.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    /// Room for the header, then the records.
    bytes: Vec<u8>,
    records: u32,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
}

impl BatchBuilder {
    /// An empty batch with room for `capacity` bytes, header included; it grows past that if need be.
    pub fn new(capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity.max(HEADER_BYTES));
        bytes.resize(HEADER_BYTES, 0);
        Self { bytes, records: 0, base_timestamp: Timestamp(0), max_timestamp: Timestamp(i64::MIN) }
    }

    /// Bytes so far, header included, before compression.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Records so far.
    pub fn records(&self) -> u32 {
        self.records
    }

    /// An upper bound of the bytes that a record adds, wherever it comes in a batch.
    pub fn bytes_of_record(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[RecordHeader]) -> usize {
        // Length, attributes, timestamp delta, offset delta and the lengths of key and value at their longest.
        const FIXED_MAX: usize = 5 + 1 + 10 + 5 + 5 + 5 + 5;
        let headers: usize = headers
            .iter()
            .map(|header| 10 + header.key.len() + header.value.as_ref().map_or(0, Bytes::len))
            .sum();
        FIXED_MAX + key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers
    }

    /// Exactly the bytes that a record takes which is alone in its batch, before compression.
    pub fn bytes_of_record_alone(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader],
    ) -> usize {
        let body = body_bytes(0, 0, key, value, headers);
        varint::size(wide(body)) + body
    }

    /// Appends a record and returns its number in the batch, from 0.
    ///
    /// # Panics
    /// Above 2^31-1 records or bytes in one field. Callers bound their batches far below.
    pub fn push(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader],
    ) -> u32 {
        if self.records == 0 {
            self.base_timestamp = timestamp;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        let index = self.records;
        let timestamp_delta = timestamp.0.wrapping_sub(self.base_timestamp.0);
        let offset_delta = i64::from(index);
        let body = body_bytes(timestamp_delta, offset_delta, key, value, headers);
        let out = &mut self.bytes;
        varint::put(out, length(body));
        out.push(0);
        varint::put(out, timestamp_delta);
        varint::put(out, offset_delta);
        put(out, key);
        put(out, value);
        varint::put(out, length(headers.len()));
        for header in headers {
            put(out, Some(&header.key));
            put(out, header.value.as_deref());
        }
        self.records += 1;
        index
    }

    /// The finished batch: compressed, stamped and with its CRC. Its base offset is 0 and its leader epoch -1, for
    /// the leader to fill in.
    ///
    /// # Panics
    /// If there are no records, or more than 2^31-1 bytes.
    pub fn finish(self, compression: Compression, producer: ProducerStamp) -> Bytes {
        assert!(self.records > 0, "a batch holds at least one record");
        let mut batch = match compression {
            Compression::None => self.bytes,
            Compression::Gzip | Compression::Snappy | Compression::Lz4 | Compression::Zstd => {
                let mut packed = Vec::with_capacity(HEADER_BYTES + self.bytes.len() / 2);
                packed.resize(HEADER_BYTES, 0);
                compression::compress(compression, &self.bytes[HEADER_BYTES..], &mut packed);
                packed
            }
        };
        let after_length = i32::try_from(batch.len() - 12).expect("a batch is far below 2^31 bytes");
        let count = i32::try_from(self.records).expect("a batch holds fewer than 2^31 records");
        let attributes = Attributes(compression.code());
        batch[0..8].copy_from_slice(&0_i64.to_be_bytes());
        batch[8..12].copy_from_slice(&after_length.to_be_bytes());
        batch[12..16].copy_from_slice(&(-1_i32).to_be_bytes());
        batch[16] = 2;
        batch[21..23].copy_from_slice(&attributes.0.to_be_bytes());
        batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        batch[27..35].copy_from_slice(&self.base_timestamp.0.to_be_bytes());
        batch[35..43].copy_from_slice(&self.max_timestamp.0.to_be_bytes());
        producer.write(&mut batch);
        batch[57..61].copy_from_slice(&count.to_be_bytes());
        header::write_crc(&mut batch);
        batch.into()
    }
}

fn length(count: usize) -> i64 {
    i64::from(i32::try_from(count).expect("a field is far below 2^31 bytes"))
}

/// As [`length`], of what may be too long to be sent.
#[inline]
fn wide(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A record without its own length.
#[inline]
fn body_bytes(
    timestamp_delta: i64,
    offset_delta: i64,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[RecordHeader],
) -> usize {
    let headers_bytes: usize =
        headers.iter().map(|header| sized(Some(&header.key)) + sized(header.value.as_deref())).sum();
    1 + varint::size(timestamp_delta)
        + varint::size(offset_delta)
        + sized(key)
        + sized(value)
        + varint::size(wide(headers.len()))
        + headers_bytes
}

#[inline]
fn sized(field: Option<&[u8]>) -> usize {
    match field {
        None => 1,
        Some(field) => varint::size(wide(field.len())) + field.len(),
    }
}

#[inline]
fn put(out: &mut Vec<u8>, field: Option<&[u8]>) {
    match field {
        None => varint::put(out, -1),
        Some(field) => {
            varint::put(out, length(field.len()));
            out.extend_from_slice(field);
        }
    }
}
