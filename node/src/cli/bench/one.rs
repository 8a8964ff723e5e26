//! `quorate bench one`: how long one record takes when nothing else is on its way.

use clap::Args;
use quorate_client::Client;

use super::args::{PayloadArgs, ProducerArgs, RunArgs, Settings, TopicArgs};
use super::load::Load;
use super::report;
use crate::cli::reach::patiently;
use crate::cli::{Failure, Global, number};

/// What `quorate bench one` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench one --seconds 20
  quorate bench one --disk . --json

Each producer sends a record when the one before is acknowledged; nothing lingers.")]
pub(crate) struct BenchOneArgs {
    #[command(flatten)]
    topic: TopicArgs,
    #[command(flatten)]
    payload: PayloadArgs,
    #[command(flatten)]
    producer: ProducerArgs,
    /// End after so many records, those of the warm-up among them.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<u64>(1..=u64::MAX))]
    records: Option<u64>,
    #[command(flatten)]
    run: RunArgs,
}

/// Sends, measures and prints.
pub(crate) async fn run(global: Global, args: BenchOneArgs) -> Result<(), Failure> {
    let servers = global.servers.addresses();
    let client = Client::grpc(servers.clone());
    let load = Load {
        producers: args.producer.producers,
        config: args.producer.config(0),
        records: args.records,
        one_by_one: true,
        ..Load::new(servers, &args.topic.topic, &args.payload, 0, &args.run)?
    };
    let topic = patiently(&client, "10 s", args.topic.prepare(&client, 1)).await?;
    let settings = Settings::new(&topic, &args.payload, &args.producer, 0, None, &args.run);
    report::measure(&load, settings, &args.run).await
}
