//! `quorate bench produce`: how many records a second are acknowledged, and how long each takes.

use clap::Args;
use quorate_client::Client;

use super::args::{PARTITIONS, PayloadArgs, ProducerArgs, RunArgs, Settings, TopicArgs};
use super::load::Load;
use super::report;
use crate::cli::reach::patiently;
use crate::cli::{Failure, Global, number};

/// What `quorate bench produce` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench produce --record-bytes 100 --partitions 12 --seconds 20
  quorate bench produce --topic t --rate 1000 --json

With --rate, latency counts from the moment at which a record was due, so that a stall is not hidden.")]
pub(crate) struct BenchProduceArgs {
    #[command(flatten)]
    topic: TopicArgs,
    #[command(flatten)]
    payload: PayloadArgs,
    #[command(flatten)]
    producer: ProducerArgs,
    /// How long a batch waits for more records.
    #[arg(long, value_name = "MS", default_value_t = 5, value_parser = number::<u32>(0..=60_000))]
    linger_ms: u32,
    /// Records a second, all producers together [default: as many as the cluster takes].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<u32>(1..=u32::MAX))]
    rate: Option<u32>,
    /// End after so many records, those of the warm-up among them.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<u64>(1..=u64::MAX))]
    records: Option<u64>,
    #[command(flatten)]
    run: RunArgs,
}

/// Sends, measures and prints.
pub(crate) async fn run(global: Global, args: BenchProduceArgs) -> Result<(), Failure> {
    let servers = global.servers.addresses();
    let client = Client::grpc(servers.clone());
    let load = Load {
        producers: args.producer.producers,
        config: args.producer.config(args.linger_ms),
        rate: args.rate,
        records: args.records,
        ..Load::new(servers, &args.topic.topic, &args.payload, 0, &args.run)?
    };
    let topic = patiently(&client, "10 s", args.topic.prepare(&client, PARTITIONS)).await?;
    let settings = Settings::new(&topic, &args.payload, &args.producer, args.linger_ms, args.rate, &args.run);
    report::measure(&load, settings, &args.run).await
}
