//! The binary `quorate-sim`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command prints")]

mod exhaustive;
mod options;
mod show;

use std::fmt;
use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use quorate_sim::env::{clock, tasks};
use quorate_sim::report::{Report, ReportDocument};
use quorate_sim::run::Options;
use quorate_sim::scenario::play;
use quorate_sim::sweep::{Summary, Told, sweep};
use quorate_sim::trace::{Show, first_difference};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::FormatTime;

use options::{Cli, Command, Run, Sweep};
use show::{Progress, print_marks, print_report, print_summary};

/// A sixth of a run's time goes into allocating, and as much again into giving memory back and asking for it anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BROKEN: u8 = 1;
const FAILED: u8 = 3;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(run) => run_one(&run),
        Command::Sweep(sweep) => run_many(&sweep, print_summary),
        Command::Marks(sweep) => run_many(&sweep, print_marks),
        Command::Exhaust(exhaust) => exhaustive::run(&exhaust),
    };
    done.unwrap_or_else(|error| {
        eprintln!("quorate-sim: {error:#}");
        ExitCode::from(FAILED)
    })
}

fn run_one(run: &Run) -> anyhow::Result<ExitCode> {
    if run.verbose > 0 {
        show_logs(run.verbose)?;
    }
    let options = run.options();
    // What it says is on standard error by now.
    let Ok(report) = std::panic::catch_unwind(|| play(run.seed, options)) else {
        return Ok(ExitCode::from(FAILED));
    };
    if let Some(path) = &run.trace_file {
        std::fs::write(path, report.trace.join("\n") + "\n")
            .with_context(|| format!("cannot write the trace to {}", path.display()))?;
    }
    if run.json {
        println!("{}", serde_json::to_string(&ReportDocument::from(&report))?);
    } else {
        print_report(&report);
    }
    if run.diff_trace && differs(&report) {
        return Ok(ExitCode::from(FAILED));
    }
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(BROKEN) })
}

/// Runs it again, and says where the second trace leaves the first one.
fn differs(report: &Report) -> bool {
    let again = play(report.seed, Options { show: Show::Nothing, ..report.options });
    match first_difference(&report.trace, &again.trace) {
        Some((at, one, other)) => {
            eprintln!(
                "the same seed gave two traces; event {at} is the first to differ:\n  {one}\n  {other}"
            );
            true
        }
        None => {
            eprintln!("both traces are the same: {} events, {:016x}", again.events, again.trace_hash);
            false
        }
    }
}

fn run_many(options: &Sweep, print: fn(&Summary)) -> anyhow::Result<ExitCode> {
    let plan = options.plan();
    let mut progress = Progress::new(&plan);
    let summary = sweep(plan, |summary, told| {
        match told {
            Told::Ran(report) if !report.violations.is_empty() => progress.broken(report),
            Told::Failed(failed) => progress.failed(failed),
            Told::Ran(_) | Told::Tick => {}
        }
        progress.show(summary);
    });
    progress.end();
    if options.json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        print(&summary);
    }
    Ok(if !summary.violations.is_empty() {
        ExitCode::from(BROKEN)
    } else if !summary.failed.is_empty() || summary.is_vacuous() {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    })
}

/// Shows the nodes' own logs on standard error.
fn show_logs(verbose: u8) -> anyhow::Result<()> {
    let level = if verbose > 1 { "debug,openraft=info" } else { "info,openraft=error" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt()
        .with_timer(SimulatedTime)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .finish();
    tracing::subscriber::set_global_default(subscriber).context("cannot show the nodes' logs")
}

/// Log lines carry simulated time, and whose they are.
struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> fmt::Result {
        let now = clock::now();
        write!(w, "{:>6}.{:06}", now.as_secs(), now.subsec_micros())?;
        match tasks::current_host() {
            Some(host) => write!(w, " {host}"),
            None => Ok(()),
        }
    }
}
