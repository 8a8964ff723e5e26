//! The binary `quorate-sim`.

mod exhaustive;
mod interrupt;
mod options;
mod output;
mod show;

use std::fmt;
use std::fs::File;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::atomic::Ordering;

use anyhow::Context;
use clap::Parser;
use quorate_sim::env::{clock, tasks};
use quorate_sim::explain::again;
use quorate_sim::report::{Report, ReportDocument};
use quorate_sim::scenario::play;
use quorate_sim::sweep::{Summary, Told, sweep};
use quorate_sim::trace::{Show, first_difference};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::FormatTime;

use options::{Cli, Command, Run, Sweep};
use output::{Output, say};
use show::{Progress, told_of_marks, told_of_oracles, told_of_run, told_of_sweep};

/// A sixth of a run's time goes into allocating, and as much again into giving memory back and asking for it anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CLEAN: u8 = 0;
const BROKEN: u8 = 1;
const USAGE: u8 = 2;
const FAILED: u8 = 3;
/// As a shell says of what Ctrl-C has ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(run) => run_one(&run),
        Command::Sweep(sweep) => run_many(&sweep, told_of_sweep),
        Command::Marks(sweep) => run_many(&sweep, told_of_marks),
        Command::Exhaust(exhaust) => exhaustive::run(&exhaust),
        Command::Oracles => {
            let mut output = Output::default();
            output.print(&told_of_oracles());
            Ok(output.exit(CLEAN))
        }
    };
    done.unwrap_or_else(|error| {
        say(format_args!("quorate-sim: {error:#}"));
        ExitCode::from(FAILED)
    })
}

/// What was asked for cannot be done.
fn refuse(why: impl fmt::Display) -> ExitCode {
    say(format_args!("error: {why}"));
    ExitCode::from(USAGE)
}

fn run_one(run: &Run) -> anyhow::Result<ExitCode> {
    if run.verbose > 0 {
        show_logs(run.verbose)?;
    }
    // Before the run: what it finds must not be lost for a path that is no file.
    let mut trace_file = None;
    if let Some(path) = &run.trace_file {
        match File::create(path) {
            Ok(file) => trace_file = Some((path.display().to_string(), file)),
            Err(error) => return Ok(refuse(format_args!("--trace-file {}: {error}", path.display()))),
        }
    }
    let options = run.options();
    // What it says is on standard error by now.
    let Ok(report) = std::panic::catch_unwind(|| play(run.seed(), options)) else {
        return Ok(ExitCode::from(FAILED));
    };
    let mut output = Output::default();
    output.print(&if run.json {
        serde_json::to_string(&ReportDocument::from(&report))? + "\n"
    } else {
        told_of_run(&report)
    });
    let broken = !report.violations.is_empty();
    let mut status = if broken { BROKEN } else { CLEAN };
    if run.diff_trace && differs(&report) && !broken {
        status = FAILED;
    }
    if let Some((path, file)) = trace_file {
        output.write(&path, file, &report.trace);
    }
    Ok(output.exit(status))
}

/// Runs it again, and says where the second trace leaves the first one.
fn differs(report: &Report) -> bool {
    let again = again(report, Show::Everything);
    match first_difference(&report.trace, &again.trace) {
        Some((at, one, other)) => {
            say(format_args!(
                "the same seed gave two traces; event {at} is the first to differ:\n  {one}\n  {other}"
            ));
            true
        }
        None => {
            say(format_args!("both traces are the same: {} events, {:016x}", again.events, again.trace_hash));
            false
        }
    }
}

fn run_many(options: &Sweep, tell: fn(&Summary) -> String) -> anyhow::Result<ExitCode> {
    let plan = match options.plan() {
        Ok(plan) => plan,
        Err(why) => return Ok(refuse(why)),
    };
    interrupt::listen()?;
    let mut progress = Progress::new(&plan);
    let mut summary = sweep(plan, |summary, told| {
        match told {
            Told::Ran(report) if !report.violations.is_empty() => progress.broken(report),
            Told::Failed(failed) => progress.failed(failed),
            Told::Ran(_) | Told::Tick => {}
        }
        progress.show(summary);
    });
    progress.end();
    summary.interrupted = interrupt::CAME.load(Ordering::Relaxed);
    let mut output = Output::default();
    output.print(&if options.json { serde_json::to_string(&summary)? + "\n" } else { tell(&summary) });
    Ok(output.exit(if !summary.violations.is_empty() {
        BROKEN
    } else if !summary.failed.is_empty() {
        FAILED
    } else if summary.interrupted {
        INTERRUPTED
    } else if summary.is_vacuous() {
        FAILED
    } else {
        CLEAN
    }))
}

/// Shows the nodes' own logs on standard error.
fn show_logs(verbose: u8) -> anyhow::Result<()> {
    let level = if verbose > 1 { "debug,openraft=info" } else { "info,openraft=error" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let subscriber = tracing_subscriber::fmt()
        .with_timer(SimulatedTime)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
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
