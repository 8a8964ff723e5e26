//! `quorate bench produce`: how many records a second are acknowledged, and how long each takes.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures_util::FutureExt;
use hdrhistogram::Histogram;
use quorate_client::{
    Ack, AdminError, Client, Compression, NewTopic, Producer, ProducerConfig, Record, SendError, TopicName,
};
use quorate_proto::ErrorCode;
use quorate_proto::env::os;
use serde::Serialize;
use tokio::sync::mpsc;

use super::bench_disk::positive_seconds;
use super::output::{Output, plain_table, rounded};
use super::pace::Pace;
use super::reach::patiently;
use super::{Failure, Global, number};

/// Records are drawn from a block of random letters of this size, and so are never all alike.
const BLOCK_BYTES: usize = 1 << 20;
/// Records of one producer whose acknowledgement has not been looked at; its own memory is the tighter bound.
const IN_FLIGHT_MAX: usize = 1 << 20;
/// Sent records change hands in packs of this size: one at a time would cost more than the sending.
const PACK: usize = 256;
/// Latencies are kept in microseconds up to this, with three digits.
const LATENCY_MAX: Duration = Duration::from_secs(3_600);

/// What `quorate bench produce` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench produce --record-bytes 100 --partitions 12 --seconds 20
  quorate bench produce --topic t --rate 1000 --json

With --rate, latency counts from the moment at which a record was due, so that a stall is not hidden.")]
pub(crate) struct BenchProduceArgs {
    /// The topic to send to, created if it is missing.
    #[arg(long, default_value = "bench")]
    topic: TopicName,
    /// Partitions of a topic that is created.
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = number::<u32>(1..=10_000))]
    partitions: u32,
    /// Bytes of each record's value; it has no key.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number::<u32>(0..=1_000_000))]
    record_bytes: u32,
    /// Send the lines of this file over and over instead.
    #[arg(long, value_name = "FILE", conflicts_with = "record_bytes")]
    payload_file: Option<PathBuf>,
    /// How many producers send at once, each with memory and connections of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number::<u32>(1..=1_000))]
    producers: u32,
    /// How long a batch waits for more records.
    #[arg(long, value_name = "MS", default_value_t = 5, value_parser = number::<u32>(0..=60_000))]
    linger_ms: u32,
    /// When a batch is full, before compression.
    #[arg(long, value_name = "N", default_value_t = 64_000, value_parser = number::<u32>(1..=100_000_000))]
    batch_bytes: u32,
    /// none, gzip, snappy, lz4 or zstd.
    #[arg(long, value_name = "KIND", default_value = "none")]
    compression: Compression,
    /// Records a second, all producers together [default: as many as the cluster takes].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<u32>(1..=u32::MAX))]
    rate: Option<u32>,
    /// How long to send.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = positive_seconds)]
    seconds: f64,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    records: u64,
    /// Key and value of acknowledged records.
    bytes: u64,
    /// From the first record sent to the last acknowledgement.
    elapsed_s: f64,
    records_per_s: f64,
    /// 10^6 bytes a second.
    mb_per_s: f64,
    ack_ms: AckTimes,
    settings: Settings,
}

#[derive(Serialize)]
struct AckTimes {
    min: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

#[derive(Serialize)]
struct Settings {
    topic: String,
    /// Of the topic as it is.
    partitions: usize,
    replicas: usize,
    /// Null when the lines of a file were sent.
    record_bytes: Option<u32>,
    payload_file: Option<String>,
    producers: u32,
    linger_ms: u32,
    batch_bytes: u32,
    compression: String,
    rate: Option<u32>,
    seconds: f64,
    version: &'static str,
}

/// Sends, measures and prints.
pub(crate) async fn run(global: Global, args: BenchProduceArgs) -> Result<(), Failure> {
    let payload = Arc::new(match &args.payload_file {
        Some(path) => lines_of(path)?,
        None => random_values(usize::try_from(args.record_bytes).expect("a u32 fits")),
    });
    let client = Client::grpc(global.servers.addresses());
    let (partitions, replicas) = patiently(&client, "10 s", prepare(&client, &args)).await?;
    let config = ProducerConfig {
        linger: Duration::from_millis(args.linger_ms.into()),
        batch_bytes_max: usize::try_from(args.batch_bytes).expect("a u32 fits"),
        compression: args.compression,
        ..ProducerConfig::default()
    };
    let start = Instant::now();
    let mut running = Vec::new();
    for number in 0..args.producers {
        // A client each, so that each has connections of its own, as producers on several machines have.
        let one = One {
            producer: Client::grpc(global.servers.addresses()).producer(config.clone()),
            topic: args.topic.to_string(),
            payload: Arc::clone(&payload),
            first: usize::try_from(number).expect("a u32 fits"),
            pace: args.rate.map(|rate| Pace::new(start, rate)),
            stride: args.producers,
            end: start + Duration::from_secs_f64(args.seconds),
        };
        running.push(tokio::spawn(one.run()));
    }
    let mut measured = Measured::new();
    for one in running {
        measured.add(one.await.expect("a producer's task does not panic"));
    }
    let elapsed = measured.last.saturating_duration_since(start);
    let report = report(&measured, elapsed, settings(&args, partitions, replicas));
    let mut out = Output::new();
    if args.json {
        out.json(&report)?
    } else {
        out.line(text(&report))?
    }
    match measured.first_error {
        None => Ok(()),
        Some(error) => Err(Failure::work(format!(
            "{} records were not acknowledged; the first: {error}",
            measured.unacknowledged
        ))),
    }
}

/// Creates the topic if it is missing, and gives the number of partitions and replicas that it has.
async fn prepare(client: &Client, args: &BenchProduceArgs) -> Result<(usize, usize), Failure> {
    let admin = client.admin();
    match admin.create_topic(NewTopic::new(args.topic.as_str()).partitions(args.partitions)).await {
        Ok(_) | Err(AdminError::Refused { code: ErrorCode::TopicExists, .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let topic = admin.describe_topic(args.topic.as_str()).await?;
    let replicas = topic.partitions.iter().map(|partition| partition.replicas.len()).max().unwrap_or(0);
    Ok((topic.partitions.len(), replicas))
}

/// The values to send, over and over.
fn lines_of(path: &Path) -> Result<Vec<Bytes>, Failure> {
    let text = std::fs::read(path)
        .map_err(|error| Failure::work(format!("cannot read {}: {error}", path.display())))?;
    let text = Bytes::from(text);
    let lines: Vec<_> = text.split(|byte| *byte == b'\n').map(|line| text.slice_ref(line)).collect();
    let lines = match lines.split_last() {
        // Nothing stands after the last line end.
        Some((last, before)) if last.is_empty() => before.to_vec(),
        Some(_) | None => lines,
    };
    if lines.is_empty() {
        Err(Failure::work(format!("{} holds no lines", path.display())))
    } else {
        Ok(lines)
    }
}

/// Overlapping pieces of a block of random letters.
fn random_values(bytes: usize) -> Vec<Bytes> {
    let env = os();
    let letters: Vec<u8> = (0..(BLOCK_BYTES + bytes).div_ceil(8))
        .flat_map(|_| env.entropy.next_u64().to_le_bytes())
        .map(|byte| b'a' + byte % 26)
        .collect();
    let block = Bytes::from(letters);
    let values = (BLOCK_BYTES / bytes.max(64)).max(16);
    (0..values).map(|number| number * (BLOCK_BYTES / values)).map(|at| block.slice(at..at + bytes)).collect()
}

/// One producer at work.
struct One {
    producer: Producer,
    topic: String,
    payload: Arc<Vec<Bytes>>,
    /// Its own number: it sends every `stride`th record from this one on.
    first: usize,
    pace: Option<Pace>,
    stride: u32,
    end: Instant,
}

/// A record on its way: since when, its bytes, and its answer.
type Sent = (Instant, usize, Result<Ack, SendError>);

impl One {
    async fn run(self) -> Measured {
        let (tx, sent) = mpsc::channel(IN_FLIGHT_MAX / PACK);
        let collecting = tokio::spawn(collect(sent));
        self.send(tx).await;
        // What was handed over goes out and is answered; the collector waits for it.
        self.producer.close().await;
        collecting.await.expect("the collector does not panic")
    }

    async fn send(&self, tx: mpsc::Sender<Vec<Sent>>) {
        let mut pack = Vec::with_capacity(PACK);
        let mut number = u64::try_from(self.first).expect("a number of a producer fits");
        let mut payload = self.payload.iter().cycle().skip(self.first);
        loop {
            let since = match &self.pace {
                Some(pace) => {
                    pace.wait_for(number).await;
                    pace.due(number)
                }
                None => Instant::now(),
            };
            if since.max(Instant::now()) >= self.end {
                break;
            }
            let value = payload.next().expect("a cycle has no end").clone();
            let bytes = value.len();
            let mut sending = pin!(self.producer.send(&self.topic, Record::new(value)));
            let ack = match sending.as_mut().now_or_never() {
                Some(ack) => ack,
                None => {
                    // Memory is full: what was sent must be looked at meanwhile.
                    if tx.send(std::mem::take(&mut pack)).await.is_err() {
                        break;
                    }
                    sending.await
                }
            };
            let failed = ack.is_err();
            pack.push((since, bytes, ack));
            // At a rate, records may be far apart.
            if pack.len() >= PACK || self.pace.is_some() {
                let full = std::mem::replace(&mut pack, Vec::with_capacity(PACK));
                if tx.send(full).await.is_err() {
                    break;
                }
            }
            if failed {
                break;
            }
            number += u64::from(self.stride);
        }
        // Refused only if the collector has gone, which it does not before the end of this channel.
        drop(tx.send(pack).await);
    }
}

/// Waits for answers in the order sent. One that comes out of order is looked at late, so latency is never shown too
/// small.
async fn collect(mut sent: mpsc::Receiver<Vec<Sent>>) -> Measured {
    let mut measured = Measured::new();
    while let Some(pack) = sent.recv().await {
        let mut pack = VecDeque::from(pack);
        while let Some((since, bytes, ack)) = pack.pop_front() {
            let answer = match ack {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            };
            measured.answer(since, bytes, answer.map(drop));
        }
    }
    measured
}

/// What was acknowledged, and how fast.
struct Measured {
    records: u64,
    bytes: u64,
    /// When the last acknowledgement was seen.
    last: Instant,
    /// In microseconds.
    latency: Histogram<u64>,
    unacknowledged: u64,
    first_error: Option<SendError>,
}

impl Measured {
    fn new() -> Self {
        let highest = u64::try_from(LATENCY_MAX.as_micros()).expect("an hour fits");
        Self {
            records: 0,
            bytes: 0,
            last: Instant::now(),
            latency: Histogram::new_with_bounds(1, highest, 3).expect("the bounds are sound"),
            unacknowledged: 0,
            first_error: None,
        }
    }

    fn answer(&mut self, since: Instant, bytes: usize, answer: Result<(), SendError>) {
        match answer {
            Ok(()) => {
                self.records += 1;
                self.bytes += u64::try_from(bytes).expect("a length fits");
                self.last = Instant::now();
                let latency = self.last.saturating_duration_since(since).as_micros();
                self.latency.saturating_record(u64::try_from(latency).unwrap_or(u64::MAX));
            }
            Err(error) => {
                self.unacknowledged += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.records += other.records;
        self.bytes += other.bytes;
        self.last = self.last.max(other.last);
        self.latency.add(other.latency).expect("all histograms have the same bounds");
        self.unacknowledged += other.unacknowledged;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

fn settings(args: &BenchProduceArgs, partitions: usize, replicas: usize) -> Settings {
    Settings {
        topic: args.topic.to_string(),
        partitions,
        replicas,
        record_bytes: args.payload_file.is_none().then_some(args.record_bytes),
        payload_file: args.payload_file.as_ref().map(|path| path.display().to_string()),
        producers: args.producers,
        linger_ms: args.linger_ms,
        batch_bytes: args.batch_bytes,
        compression: args.compression.to_string(),
        rate: args.rate,
        seconds: args.seconds,
        version: env!("CARGO_PKG_VERSION"),
    }
}

fn report(measured: &Measured, elapsed: Duration, settings: Settings) -> Report {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    let milliseconds = |microseconds: u64| rounded(microseconds as f64 / 1e3, 3);
    let at = |quantile: f64| milliseconds(measured.latency.value_at_quantile(quantile));
    let ack_ms = AckTimes {
        min: milliseconds(measured.latency.min()),
        p50: at(0.5),
        p90: at(0.9),
        p99: at(0.99),
        p999: at(0.999),
        max: milliseconds(measured.latency.max()),
    };
    Report {
        records: measured.records,
        bytes: measured.bytes,
        elapsed_s: rounded(elapsed.as_secs_f64(), 3),
        records_per_s: rounded(measured.records as f64 / seconds, 1),
        mb_per_s: rounded(measured.bytes as f64 / seconds / 1e6, 3),
        ack_ms,
        settings,
    }
}

fn text(report: &Report) -> String {
    let mut table = plain_table(["ack ms", "min", "p50", "p90", "p99", "p99.9", "max"]);
    let ack = &report.ack_ms;
    let times = [ack.min, ack.p50, ack.p90, ack.p99, ack.p999, ack.max];
    table.add_row(std::iter::once(String::new()).chain(times.map(|time| format!("{time:.3}"))));
    format!(
        "{} records in {:.1} s: {:.0} records/s, {:.1} MB/s\n{table}",
        report.records, report.elapsed_s, report.records_per_s, report.mb_per_s
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_file_are_values() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lines");
        let check = |text: &str, expected: &[&str]| {
            std::fs::write(&file, text).unwrap();
            assert_eq!(lines_of(&file).unwrap(), expected, "{text:?}");
        };
        check("a\n\nb", &["a", "", "b"]);
        check("a\n", &["a"]);
        check("\n", &[""]);
        std::fs::write(&file, "").unwrap();
        assert!(lines_of(&file).is_err());
    }

    #[test]
    fn values_have_the_size_asked_for_and_differ() {
        for bytes in [0, 1, 100, 1_000_000] {
            let values = random_values(bytes);
            assert!(values.len() >= 16 && values.iter().all(|value| value.len() == bytes));
            assert!(bytes < 100 || values[0] != values[1]);
        }
    }

    #[test]
    fn percentiles_and_rates_are_of_what_was_acknowledged() {
        let mut measured = Measured::new();
        let start = Instant::now();
        for _ in 0..10 {
            measured.answer(start, 100, Ok(()));
        }
        assert_eq!((measured.records, measured.bytes, measured.latency.len()), (10, 1_000, 10));
        let mut both = Measured::new();
        both.add(measured);
        assert_eq!((both.records, both.unacknowledged, both.latency.len()), (10, 0, 10));
    }
}
