//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use quorate_sim::scenario::ALL;

/// Real nodes on a simulated clock, disk and network, from one seed.
///
/// Exit status: 0 clean, 1 a promise was broken, 2 wrong usage, 3 the simulator itself failed.
#[derive(Debug, Parser)]
#[command(name = "quorate-sim", version)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs one seed.
    ///
    /// Example: quorate-sim run --seed 7 -v
    Run(Run),
    /// Runs many seeds, and says which broke a promise.
    ///
    /// Example: quorate-sim sweep --from 0 --count 1000 --jobs 2
    Sweep(Sweep),
}

/// One run.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Everything in the run is drawn from it.
    #[arg(long, value_name = "N")]
    pub(crate) seed: u64,
    /// Plays a written-out scenario instead of what chance brings.
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(ALL.map(|(name, _)| name)))]
    pub(crate) scenario: Option<String>,
    /// Shows what happens, in simulated time, on standard error; given twice, every message too.
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Prints one JSON document and nothing else.
    #[arg(long)]
    pub(crate) json: bool,
    /// Writes every event to this file, one a line.
    #[arg(long, value_name = "FILE")]
    pub(crate) trace_file: Option<PathBuf>,
    /// Runs it twice and prints the first event that differs, if any does.
    #[arg(long)]
    pub(crate) twice: bool,
}

/// Many runs.
#[derive(Debug, Args)]
pub(crate) struct Sweep {
    /// The first seed.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) from: u64,
    /// How many seeds.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub(crate) count: u64,
    /// How many run at a time.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) jobs: u32,
    /// Prints one JSON document and nothing else.
    #[arg(long)]
    pub(crate) json: bool,
    /// Begins no further run once a promise was broken.
    #[arg(long)]
    pub(crate) stop_at_first: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["quorate-sim", "run", "--seed", "x"]).is_err());
        assert!(Cli::try_parse_from(["quorate-sim", "sweep", "--jobs", "0"]).is_err());
        assert!(Cli::try_parse_from(["quorate-sim", "run", "--seed", "7", "-v", "--json"]).is_ok());
    }
}
