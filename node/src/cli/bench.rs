//! `quorate bench`: how fast it is, and what bounds that.

mod args;
mod compare;
mod consume;
mod disk;
mod failover;
mod latency;
mod load;
mod one;
mod partitions;
mod produce;
mod report;
mod times;
mod usage;

use clap::{Args, Subcommand};

use super::{Failure, Global};

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
    Produce(produce::BenchProduceArgs),
    /// Read a topic as fast as the cluster gives it.
    Consume(consume::BenchConsumeArgs),
    /// Send records at a rate, and time their acknowledgements and their receipt.
    Latency(latency::BenchLatencyArgs),
    /// Send one record after the other, and time the acknowledgements.
    One(one::BenchOneArgs),
    /// Kill nodes of a `quorate dev` under load, and time the silence.
    Failover(failover::BenchFailoverArgs),
    /// Send the same to topics of few and of many partitions.
    Partitions(partitions::BenchPartitionsArgs),
    /// What the bare disk gives: append and fdatasync, and read.
    Disk(disk::BenchDiskArgs),
    /// Show the figures of two runs beside each other.
    Compare(compare::BenchCompareArgs),
}

/// Runs the benchmark.
pub(crate) async fn run(global: Global, args: BenchArgs) -> Result<(), Failure> {
    match args.command {
        BenchCommand::Produce(args) => produce::run(global, args).await,
        BenchCommand::Consume(args) => consume::run(global, args).await,
        BenchCommand::Latency(args) => latency::run(global, args).await,
        BenchCommand::One(args) => one::run(global, args).await,
        BenchCommand::Failover(args) => failover::run(args).await,
        BenchCommand::Partitions(args) => partitions::run(global, args).await,
        BenchCommand::Disk(args) => disk::run(args).await,
        BenchCommand::Compare(args) => compare::run(&args),
    }
}
