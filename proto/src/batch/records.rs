//! The records of a batch, one by one.

use bytes::Bytes;

use super::varint::Reader;
use super::{BatchError, BatchHeader, Compression, HEADER_BYTES, compression};
use crate::ids::{Offset, Timestamp};

/// One record as it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its position in the partition.
    pub offset: Offset,
    /// As the producer gave it, or the time of the append if the topic says so.
    pub timestamp: Timestamp,
    /// `None` is not the empty key.
    pub key: Option<Bytes>,
    /// `None` is not the empty value.
    pub value: Option<Bytes>,
    /// In the order sent; keys may repeat.
    pub headers: Vec<RecordHeader>,
}

/// A header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Any bytes.
    pub key: Bytes,
    /// `None` is not the empty value.
    pub value: Option<Bytes>,
}

/// A run of bytes within the records: where it starts and how many; `None` where the length is -1.
type Slice = Option<(usize, usize)>;

/// A record of which nothing is copied yet.
struct Raw {
    timestamp_delta: i64,
    key: Slice,
    value: Slice,
    /// Count, and where the first one starts.
    headers: (u32, usize),
}

fn slice(reader: &mut Reader<'_>) -> Result<Slice, &'static str> {
    let length = reader.varint().ok_or("a length is cut off")?;
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| "a length is negative")?;
    let start = reader.skip(length).ok_or("a length goes past its end")?;
    Ok(Some((start, length)))
}

fn header(reader: &mut Reader<'_>) -> Result<((usize, usize), Slice), &'static str> {
    let key = slice(reader)?.ok_or("a header has no key")?;
    Ok((key, slice(reader)?))
}

/// Reads the record at the reader's position and checks all of it.
fn read(reader: &mut Reader<'_>, index: u32) -> Result<Raw, &'static str> {
    let length = reader.varint().ok_or("its length is cut off")?;
    let length = usize::try_from(length).map_err(|_| "its length is negative")?;
    if length > reader.remaining() {
        return Err("its length goes past the end of the batch");
    }
    let end = reader.position() + length;
    let _attributes = reader.byte().ok_or("it is cut off")?;
    let timestamp_delta = reader.varlong().ok_or("its timestamp is cut off")?;
    let offset_delta = reader.varint().ok_or("its offset is cut off")?;
    if i64::from(offset_delta) != i64::from(index) {
        return Err("its offset delta is not its number");
    }
    let key = slice(reader)?;
    let value = slice(reader)?;
    let count = reader.varint().ok_or("its header count is cut off")?;
    let count = u32::try_from(count).map_err(|_| "its header count is negative")?;
    let headers = (count, reader.position());
    for _ in 0..count {
        header(reader)?;
    }
    if reader.position() != end {
        return Err("its fields do not end where its length says");
    }
    Ok(Raw { timestamp_delta, key, value, headers })
}

/// Checks each record and that there are exactly `count`.
pub(super) fn walk(plain: &[u8], count: u32) -> Result<(), BatchError> {
    let mut reader = Reader::new(plain);
    for index in 0..count {
        read(&mut reader, index).map_err(|what| BatchError::Record { index, what })?;
    }
    if reader.remaining() > 0 {
        return Err(BatchError::Record { index: count, what: "bytes follow the last record" });
    }
    Ok(())
}

/// The records of a batch in order; their keys and values share its memory. Ends after an error.
#[derive(Clone, Debug)]
pub struct Records {
    header: BatchHeader,
    plain: Bytes,
    at: usize,
    next: u32,
}

impl Records {
    /// Begins to read `batch`, which `header` was parsed from; decompresses it if need be, to at most
    /// `decompressed_bytes_max`. Does not check the CRC: [`super::split`] and [`super::validate`] do.
    ///
    /// # Errors
    /// [`BatchError::Short`], `Compression`, `Decompress` or `Bomb`.
    pub fn new(
        header: &BatchHeader,
        batch: &Bytes,
        decompressed_bytes_max: usize,
    ) -> Result<Self, BatchError> {
        if batch.len() < header.bytes {
            return Err(BatchError::Short { expected: header.bytes, found: batch.len() });
        }
        let body = batch.slice(HEADER_BYTES..header.bytes);
        let plain = match header.attributes.compression()? {
            Compression::None => body,
            packed @ (Compression::Gzip | Compression::Snappy | Compression::Lz4 | Compression::Zstd) => {
                compression::decompress(packed, &body, decompressed_bytes_max)?.into()
            }
        };
        Ok(Self { header: *header, plain, at: 0, next: 0 })
    }

    fn bytes(&self, slice: Slice) -> Option<Bytes> {
        slice.map(|(start, length)| self.plain.slice(start..start + length))
    }

    /// Offset and timestamp of each record, in order, and nothing else of it: of what is only looked through, headers of
    /// two bytes each would take many times their bytes.
    pub fn places(mut self) -> impl Iterator<Item = Result<(Offset, Timestamp), BatchError>> {
        let place = |records: &mut Self| records.step().map(|(_, _, offset, timestamp)| (offset, timestamp));
        std::iter::from_fn(move || self.take_next(place))
    }

    /// Steps behind the next record. Gives where it begins, what it is, its offset and its timestamp.
    fn step(&mut self) -> Result<(usize, Raw, Offset, Timestamp), &'static str> {
        let mut reader = Reader::new(&self.plain[self.at..]);
        let raw = read(&mut reader, self.next)?;
        let (base, end) = (self.at, self.at + reader.position());
        let timestamp = if self.header.attributes.is_log_append_time() {
            self.header.max_timestamp
        } else {
            Timestamp(self.header.base_timestamp.0.wrapping_add(raw.timestamp_delta))
        };
        let offset = self.header.base_offset.plus(self.next);
        self.at = end;
        self.next += 1;
        if self.next == self.header.records && self.at != self.plain.len() {
            return Err("bytes follow the last record");
        }
        Ok((base, raw, offset, timestamp))
    }

    fn advance(&mut self) -> Result<Record, &'static str> {
        let (base, raw, offset, timestamp) = self.step()?;
        let absolute = |slice: Slice| slice.map(|(start, length)| (base + start, length));
        let mut headers = Vec::new();
        let mut inner = Reader::new(&self.plain[base + raw.headers.1..]);
        for _ in 0..raw.headers.0 {
            let start = base + raw.headers.1;
            let (key, value) = header(&mut inner)?;
            let shift = |(at, length): (usize, usize)| (start + at, length);
            headers.push(RecordHeader {
                key: self.bytes(Some(shift(key))).unwrap_or_default(),
                value: self.bytes(value.map(shift)),
            });
        }
        Ok(Record {
            offset,
            timestamp,
            key: self.bytes(absolute(raw.key)),
            value: self.bytes(absolute(raw.value)),
            headers,
        })
    }

    fn take_next<T>(
        &mut self,
        take: impl FnOnce(&mut Self) -> Result<T, &'static str>,
    ) -> Option<Result<T, BatchError>> {
        if self.next >= self.header.records {
            return None;
        }
        let index = self.next;
        let result = take(self).map_err(|what| BatchError::Record { index, what });
        if result.is_err() {
            self.next = self.header.records;
        }
        Some(result)
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.take_next(Self::advance)
    }
}
