//! stub
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use quorate_proto::batch::Compression;

use crate::error::SendError;
use crate::record::{Record, RecordPlace};

/// Knobs of a producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerConfig {
    /// How long a batch waits for more records. Zero: it goes out as soon as one of the places in flight is free.
    pub linger: Duration,
    /// A batch is full at this many bytes, before compression. A larger record gets a batch of its own.
    /// The default lies just below 65,000 bytes: the server's storage packs that size best.
    pub batch_bytes_max: usize,
    /// Largest record, encoded, that is sent at all; the server's `max.message.bytes` is the other bound.
    pub record_bytes_max: usize,
    /// What all records that are not answered yet may take. A batch counts as `batch_bytes_max` from its first record
    /// on. When it is used up, [`Producer::send`] waits.
    pub memory_bytes_max: usize,
    /// How batches are compressed.
    pub compression: Compression,
    /// Batches sent and not answered, per partition. At most 5: the server recognises retries of the last five.
    pub in_flight_max: usize,
    /// How long a record may take from [`Producer::send`] to its answer, retries included.
    pub delivery_timeout: Duration,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(5),
            batch_bytes_max: 64_000,
            record_bytes_max: quorate_proto::batch::BATCH_BYTES_MAX,
            memory_bytes_max: 64 * 1024 * 1024,
            compression: Compression::None,
            in_flight_max: 5,
            delivery_timeout: Duration::from_secs(120),
        }
    }
}

/// Sends records. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Producer {}

impl Producer {
    /// Takes a record; waits while memory is full. The answer is in the [`Ack`].
    ///
    /// # Errors
    /// Always `NotWritten`.
    pub async fn send(&self, topic: &str, record: Record) -> Result<Ack, SendError> {
        let _ = (topic, record);
        unimplemented!()
    }

    /// Sends what was taken without further waiting, until each record has its answer.
    pub async fn flush(&self) {}

    /// Flushes, then ends the producer.
    pub async fn close(&self) {}
}

/// The answer to one record. Dropping it changes nothing.
#[derive(Debug)]
pub struct Ack {}

impl Future for Ack {
    type Output = Result<RecordPlace, SendError>;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        unimplemented!()
    }
}
