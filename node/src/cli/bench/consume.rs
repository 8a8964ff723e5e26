//! `quorate bench consume`: how many records a second are read, each batch checked and each record taken apart.

use std::ops::Range;
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::FutureExt;
use futures_util::future::join_all;
use quorate_client::{
    Admin, Client, ConsumerConfig, Offset, OffsetAt, PartitionId, Partitions, Start, TopicName,
};
use serde::Serialize;

use super::usage::{CpuSeconds, Meter};
use crate::cli::output::{Output, rounded};
use crate::cli::reach::patiently;
use crate::cli::{Failure, Global, number};

/// How often it is looked whether to end.
const LOOK_UP_EVERY: u64 = 1_024;

/// What `quorate bench consume` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench consume --topic bench
  quorate bench consume --consumers 3 --records 5000000 --json

Each consumer reads all that the topic holds when the command begins.")]
pub(crate) struct BenchConsumeArgs {
    /// The topic to read; `bench produce` fills one.
    #[arg(long, default_value = "bench")]
    topic: TopicName,
    /// How many consumers read at once, each all of it, with connections of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number::<u32>(1..=1_000))]
    consumers: u32,
    /// Each consumer ends after so many records [default: at the end of the topic].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<u64>(1..=u64::MAX))]
    records: Option<u64>,
    /// What one fetch asks for at most.
    #[arg(long, value_name = "N", default_value_t = 1 << 20, value_parser = number::<u32>(1..=100_000_000))]
    fetch_bytes: u32,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    /// Of all consumers.
    records: u64,
    /// Of keys and values.
    bytes: u64,
    /// From the first request to the last record of the last consumer.
    elapsed_s: f64,
    records_per_s: f64,
    /// 10^6 bytes a second.
    mb_per_s: f64,
    cpu_s: CpuSeconds,
    settings: Settings,
}

#[derive(Serialize)]
struct Settings {
    topic: String,
    partitions: usize,
    consumers: u32,
    records: Option<u64>,
    fetch_bytes: u32,
    version: &'static str,
}

/// What a consumer read.
#[derive(Clone, Copy, Default)]
struct Counted {
    records: u64,
    bytes: u64,
}

/// Reads, measures and prints.
pub(crate) async fn run(global: Global, args: BenchConsumeArgs) -> Result<(), Failure> {
    let client = Client::grpc(global.servers.addresses());
    let ranges = patiently(&client, "10 s", ranges(&client.admin(), &args.topic)).await?;
    let there: u64 = ranges.iter().map(|range| range.end.0.saturating_sub(range.start.0)).sum();
    if there == 0 {
        return Err(Failure::work(format!(
            "topic {} holds no records: fill it with `quorate bench produce --topic {}`",
            args.topic, args.topic
        )));
    }
    if let Some(records) = args.records.filter(|records| *records > there) {
        return Err(Failure::work(format!(
            "topic {} holds {there} records, and not {records}: ask for fewer, or fill it with `quorate bench produce`",
            args.topic
        )));
    }
    let meter = Meter::find(&client).await;
    let mut interrupt = crate::cli::signals()?;
    let before = meter.read().await;
    let start = Instant::now();
    let (stopping, stop) = tokio::sync::watch::channel(false);
    let reading: Vec<_> = (0..args.consumers)
        .map(|_| {
            let one = One {
                client: Client::grpc(global.servers.addresses()),
                topic: args.topic.clone(),
                ranges: ranges.clone(),
                left: args.records.unwrap_or(u64::MAX),
                fetch_bytes: usize::try_from(args.fetch_bytes).expect("a u32 fits"),
                stop: stop.clone(),
            };
            tokio::spawn(one.run())
        })
        .collect();
    let mut all = std::pin::pin!(join_all(reading));
    let (read, interrupted) = tokio::select! { biased;
        read = &mut all => (read, false),
        () = interrupt.wait() => {
            stopping.send_replace(true);
            (all.await, true)
        }
    };
    let elapsed = start.elapsed();
    let after = meter.read().await;
    let (mut sum, mut failure) = (Counted::default(), None);
    for one in read {
        let (counted, error) = one.expect("a consumer's task does not panic");
        sum.records += counted.records;
        sum.bytes += counted.bytes;
        failure = failure.or(error);
    }
    let report = report(sum, elapsed, after.since(&before), &args, ranges.len());
    let mut out = Output::new();
    if args.json {
        out.json(&report)?
    } else {
        out.line(text(&report))?
    }
    match failure {
        Some(failure) => Err(failure),
        None if interrupted => {
            Err(Failure::Interrupted("interrupted: the figures are of what was read so far"))
        }
        None => Ok(()),
    }
}

/// What can be read of each partition at this moment, by its number.
async fn ranges(admin: &Admin, topic: &TopicName) -> Result<Vec<Range<Offset>>, Failure> {
    let description = admin.describe_topic(topic.as_str()).await?;
    let mut ranges = Vec::with_capacity(description.partitions.len());
    for partition in description.partitions {
        let id = partition.partition;
        let find = async |at| -> Result<Offset, Failure> {
            let found = admin.list_offset(topic.as_str(), id, at).await?;
            found
                .map(|found| found.offset)
                .ok_or_else(|| Failure::work(format!("partition {id} has no offsets")))
        };
        ranges.push(match (partition.log_start_offset, partition.high_watermark) {
            (Some(start), Some(end)) => start..end,
            // It may just be changing its leader.
            _ => find(OffsetAt::Earliest).await?..find(OffsetAt::Latest).await?,
        });
    }
    Ok(ranges)
}

/// One consumer at work.
struct One {
    client: Client,
    topic: TopicName,
    /// What there is of each partition, by its number.
    ranges: Vec<Range<Offset>>,
    /// How many records it may still read.
    left: u64,
    fetch_bytes: usize,
    stop: tokio::sync::watch::Receiver<bool>,
}

impl One {
    async fn run(mut self) -> (Counted, Option<Failure>) {
        let mut counted = Counted::default();
        let read = self.read(&mut counted).await;
        (counted, read.err())
    }

    async fn read(&mut self, counted: &mut Counted) -> Result<(), Failure> {
        let config = ConsumerConfig { fetch_bytes_max: self.fetch_bytes, ..ConsumerConfig::default() };
        let mut consumer = self.client.consumer(config);
        let mut unfinished = 0;
        for (id, range) in (0..).map(PartitionId).zip(&self.ranges).filter(|(_, range)| !range.is_empty()) {
            let start = Start::Offset(range.start);
            consumer.assign(self.topic.as_str(), Partitions::Only(vec![id]), start).await?;
            unfinished += 1;
        }
        while unfinished > 0 && counted.records < self.left {
            let record = match consumer.next().now_or_never() {
                Some(record) => record?,
                None => tokio::select! { biased;
                    record = consumer.next() => record?,
                    _ = self.stop.wait_for(|stop| *stop) => break,
                },
            };
            // What came after the command began is not counted.
            let end = self.ranges[usize::try_from(record.partition.0).expect("it was assigned")].end;
            if record.offset >= end {
                continue;
            }
            counted.records += 1;
            let bytes = record.key.map_or(0, |key| key.len()) + record.value.map_or(0, |value| value.len());
            counted.bytes += u64::try_from(bytes).expect("a length fits");
            if record.offset.plus(1) == end {
                unfinished -= 1;
            }
            if counted.records.is_multiple_of(LOOK_UP_EVERY) && *self.stop.borrow() {
                break;
            }
        }
        Ok(())
    }
}

fn report(
    sum: Counted,
    elapsed: Duration,
    cpu_s: CpuSeconds,
    args: &BenchConsumeArgs,
    partitions: usize,
) -> Report {
    let seconds = elapsed.as_secs_f64().max(1e-9);
    Report {
        records: sum.records,
        bytes: sum.bytes,
        elapsed_s: rounded(elapsed.as_secs_f64(), 3),
        records_per_s: rounded(sum.records as f64 / seconds, 1),
        mb_per_s: rounded(sum.bytes as f64 / seconds / 1e6, 3),
        cpu_s,
        settings: Settings {
            topic: args.topic.to_string(),
            partitions,
            consumers: args.consumers,
            records: args.records,
            fetch_bytes: args.fetch_bytes,
            version: env!("CARGO_PKG_VERSION"),
        },
    }
}

fn text(report: &Report) -> String {
    format!(
        "{} records in {:.1} s: {:.0} records/s, {:.1} MB/s\n{}",
        report.records,
        report.elapsed_s,
        report.records_per_s,
        report.mb_per_s,
        report.cpu_s.each(report.records)
    )
}
