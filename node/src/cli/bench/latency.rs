//! `quorate bench latency`: at a fixed rate, from when a record was due to its acknowledgement and to its receipt.

use std::time::{Duration, Instant};

use clap::Args;
use quorate_client::{Client, ConsumeError, ConsumedRecord, Consumer, ConsumerConfig, Partitions, Start};
use serde::Serialize;
use tokio::sync::watch;

use super::args::{PARTITIONS, PayloadArgs, ProducerArgs, RunArgs, Settings, TopicArgs};
use super::disk::Beside;
use super::load::{self, Figures, Load, Stamp};
use super::times::{Percentiles, Times, times_table};
use crate::cli::output::Output;
use crate::cli::reach::patiently;
use crate::cli::{Failure, Global, number};

/// After the last acknowledgement, a consumer may be behind by so much; then what it lacks is said.
const LAST_RECEIPTS: Duration = Duration::from_secs(5);

/// What `quorate bench latency` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench latency --rate 10000 --seconds 20
  quorate bench latency --rate 100000 --consumers 10 --linger-ms 5 --json

Times count from the moment at which a record was due, so that a stall is not hidden. The first 16 bytes of a value \
say which run it is of and when it was due; a line of --payload-file stands behind them.")]
pub(crate) struct BenchLatencyArgs {
    #[command(flatten)]
    topic: TopicArgs,
    #[command(flatten)]
    payload: PayloadArgs,
    #[command(flatten)]
    producer: ProducerArgs,
    /// How long a batch waits for more records.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = number::<u32>(0..=60_000))]
    linger_ms: u32,
    /// Records a second, all producers together.
    #[arg(long, value_name = "N", default_value_t = 10_000, allow_negative_numbers = true, value_parser = number::<u32>(1..=u32::MAX))]
    rate: u32,
    /// How many consumers wait at the end of the topic, each for all records.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number::<u32>(0..=1_000))]
    consumers: u32,
    #[command(flatten)]
    run: RunArgs,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    figures: Figures,
    /// From when a record was due to each consumer's having it; null without consumers.
    receipt_ms: Option<Percentiles>,
    /// Records that all consumers together have received, of those that were acknowledged.
    received: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<Beside>,
    consumers: u32,
    settings: Settings,
}

/// Sends, receives, measures and prints.
pub(crate) async fn run(global: Global, args: BenchLatencyArgs) -> Result<(), Failure> {
    let servers = global.servers.addresses();
    let client = Client::grpc(servers.clone());
    let stamp = Stamp::new();
    let load = Load {
        producers: args.producer.producers,
        config: args.producer.config(args.linger_ms),
        rate: Some(args.rate),
        stamp: Some(stamp),
        ..Load::new(servers.clone(), &args.topic.topic, &args.payload, Stamp::BYTES, &args.run)?
    };
    let topic = patiently(&client, "10 s", args.topic.prepare(&client, PARTITIONS)).await?;
    let disk = Beside::measure(args.run.disk.as_deref()).await?;
    let (ending, end) = watch::channel(None);
    let mut receiving = Vec::new();
    for _ in 0..args.consumers {
        let mut consumer = Client::grpc(servers.clone()).consumer(ConsumerConfig::default());
        consumer.assign(topic.name.as_str(), Partitions::All, Start::End).await?;
        let one = One { consumer, stamp, received: Times::new() };
        receiving.push(tokio::spawn(one.run(end.clone())));
    }
    let (figures, mut failure) = load::run(&load).await?.figures(&load);
    ending.send_replace(Some(End { records: figures.records, latest: Instant::now() + LAST_RECEIPTS }));
    let mut receipts = Times::new();
    for one in receiving {
        match one.await.expect("a consumer's task does not panic") {
            Ok(received) => receipts.add_all(&received),
            Err(error) => failure = Some(error.into()),
        }
    }
    let due = figures.records * u64::from(args.consumers);
    if receipts.count() < due && failure.is_none() {
        failure = Some(Failure::work(format!(
            "{} of {due} receipts are missing {} s after the last acknowledgement",
            due - receipts.count(),
            LAST_RECEIPTS.as_secs()
        )));
    }
    if let Some(remark) = figures.remark(load.rate) {
        Output::note(remark);
    }
    let settings = Settings::new(&topic, &args.payload, &args.producer, args.linger_ms, load.rate, &args.run);
    let receipt_ms = (args.consumers > 0).then(|| receipts.percentiles());
    let received = receipts.count();
    let report = Report { figures, receipt_ms, received, disk, consumers: args.consumers, settings };
    let mut out = Output::new();
    if args.run.json {
        out.json(&report)?
    } else {
        out.line(text(&report))?
    }
    failure.map_or(Ok(()), Err)
}

/// When a consumer has seen enough.
#[derive(Clone, Copy, Debug)]
struct End {
    /// So many records of the run were acknowledged.
    records: u64,
    /// It waits no longer than this.
    latest: Instant,
}

/// One consumer at work.
struct One {
    consumer: Consumer,
    stamp: Stamp,
    /// From when each was due to its receipt.
    received: Times,
}

impl One {
    async fn run(mut self, mut end: watch::Receiver<Option<End>>) -> Result<Times, ConsumeError> {
        let last = loop {
            tokio::select! { biased;
                record = self.consumer.next() => self.received(record?),
                ended = end.wait_for(Option::is_some) => break ended.ok().and_then(|end| *end),
            }
        };
        // The other end has gone: nobody wants to know any more.
        let Some(End { records, latest }) = last else { return Ok(self.received) };
        while self.received.count() < records {
            match tokio::time::timeout_at(latest.into(), self.consumer.next()).await {
                Ok(record) => self.received(record?),
                Err(_) => break,
            }
        }
        Ok(self.received)
    }

    fn received(&mut self, record: ConsumedRecord) {
        if let Some(due) = record.value.and_then(|value| self.stamp.due(&value)) {
            self.received.add(due.elapsed());
        }
    }
}

fn text(report: &Report) -> String {
    let figures = &report.figures;
    let table = match &report.receipt_ms {
        Some(receipts) => times_table([("ack ms", &figures.ack_ms), ("receipt ms", receipts)]),
        None => times_table([("ack ms", &figures.ack_ms)]),
    };
    let mut text = format!("{}\n{table}", figures.summary());
    if let Some(disk) = &report.disk {
        text += &format!("\n{}", disk.beside(figures.mb_per_s, report.settings.replicas));
    }
    text
}
