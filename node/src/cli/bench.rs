//! `quorate bench`: how fast it is, and what bounds that.

use clap::{Args, Subcommand};

use super::{Failure, Global, bench_disk, bench_produce};

/// What `quorate bench` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  quorate bench produce --seconds 20")]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Send records as fast as the cluster takes them, or at a rate, and time the acknowledgements.
    Produce(bench_produce::BenchProduceArgs),
    /// What the bare disk gives: append and fdatasync, by one appender and by three.
    Disk(bench_disk::BenchDiskArgs),
}

/// Runs the benchmark.
pub(crate) async fn run(global: Global, args: BenchArgs) -> Result<(), Failure> {
    match args.command {
        BenchCommand::Produce(args) => bench_produce::run(global, args).await,
        BenchCommand::Disk(args) => bench_disk::run(args).await,
    }
}
