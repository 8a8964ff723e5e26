//! `quorate bench partitions`: the same load on topics of few and of many partitions.

use clap::Args;
use comfy_table::CellAlignment;
use quorate_client::{Client, TopicName};
use serde::Serialize;

use super::args::{PayloadArgs, ProducerArgs, RunArgs, Settings, TopicArgs};
use super::disk::Beside;
use super::load::{self, Figures, Load};
use crate::cli::output::{Output, plain_table};
use crate::cli::reach::patiently;
use crate::cli::{Failure, Global, number};

/// What `quorate bench partitions` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate bench partitions --seconds 20
  quorate bench partitions --counts 12,1000 --key-bytes 8 --json

The topics are bench-1, bench-12 and so on; they are made anew and deleted at the end.")]
pub(crate) struct BenchPartitionsArgs {
    /// How many partitions, one topic after the other.
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_values_t = [1, 12, 100, 1_000], value_parser = number::<u32>(1..=10_000))]
    counts: Vec<u32>,
    /// What the topics' names begin with.
    #[arg(long, default_value = "bench")]
    topic: TopicName,
    /// Replicas of each partition [default: the cluster's own].
    #[arg(long, value_name = "N", value_parser = number::<u32>(1..=99))]
    replicas: Option<u32>,
    #[command(flatten)]
    payload: PayloadArgs,
    #[command(flatten)]
    producer: ProducerArgs,
    /// How long a batch waits for more records.
    #[arg(long, value_name = "MS", default_value_t = 20, value_parser = number::<u32>(0..=60_000))]
    linger_ms: u32,
    /// Records a second, all producers together [default: as many as the cluster takes].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<u32>(1..=u32::MAX))]
    rate: Option<u32>,
    #[command(flatten)]
    run: RunArgs,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<Beside>,
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct Run {
    partitions: u32,
    /// Of the records of the first run a second.
    share: f64,
    #[serde(flatten)]
    figures: Figures,
    settings: Settings,
}

/// Sends, measures and prints.
pub(crate) async fn run(global: Global, args: BenchPartitionsArgs) -> Result<(), Failure> {
    let servers = global.servers.addresses();
    let client = Client::grpc(servers.clone());
    let disk = Beside::measure(args.run.disk.as_deref()).await?;
    let mut report = Report { disk, runs: Vec::new() };
    let mut failure = None;
    for count in &args.counts {
        let name: TopicName = format!("{}-{count}", args.topic).parse().map_err(Failure::work)?;
        let load = Load {
            producers: args.producer.producers,
            config: args.producer.config(args.linger_ms),
            rate: args.rate,
            ..Load::new(servers.clone(), &name, &args.payload, 0, &args.run)?
        };
        let topic = TopicArgs { topic: name, partitions: Some(*count), replicas: args.replicas, fresh: true };
        let made = patiently(&client, "10 s", topic.prepare(&client, *count)).await?;
        let (figures, failed) = load::run(&load).await?.figures(&load);
        client.admin().delete_topic(made.name.as_str()).await?;
        if let Some(remark) = figures.remark(args.rate) {
            Output::note(format!("{count} partitions: {remark}"));
        }
        let first = report.runs.first().map_or(figures.records_per_s, |run: &Run| run.figures.records_per_s);
        let settings =
            Settings::new(&made, &args.payload, &args.producer, args.linger_ms, args.rate, &args.run);
        let share = crate::cli::output::rounded(figures.records_per_s / first.max(1e-9), 3);
        report.runs.push(Run { partitions: *count, share, figures, settings });
        if failed.is_some() {
            failure = failed;
            break;
        }
    }
    let mut out = Output::new();
    if args.run.json {
        out.json(&report)?
    } else {
        out.line(text(&report))?
    }
    failure.map_or(Ok(()), Err)
}

fn text(report: &Report) -> String {
    let header = [
        "partitions",
        "records/s",
        "of the first",
        "MB/s",
        "ack p50 ms",
        "ack p99 ms",
        "nodes us",
        "clients us",
    ];
    let mut table = plain_table(header);
    for run in &report.runs {
        let figures = &run.figures;
        let each = |seconds: f64| format!("{:.2}", seconds * 1e6 / figures.records.max(1) as f64);
        table.add_row([
            run.partitions.to_string(),
            format!("{:.0}", figures.records_per_s),
            format!("{:.0} %", run.share * 100.0),
            format!("{:.1}", figures.mb_per_s),
            format!("{:.3}", figures.ack_ms.p50),
            format!("{:.3}", figures.ack_ms.p99),
            figures.cpu_s.nodes.map_or_else(|| "unknown".to_owned(), each),
            each(figures.cpu_s.clients),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut text = format!("{table}\nCPU is that of a record.");
    if let (Some(disk), Some(best)) = (&report.disk, report.runs.first()) {
        text += &format!("\nThe first beside {}", disk.beside(best.figures.mb_per_s, best.settings.replicas));
    }
    text
}
