//! The binary `quorate-sim`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command prints")]

mod options;

use std::fmt;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use quorate_sim::env::{clock, tasks};
use quorate_sim::run::{Options, Report, ReportDocument, run};
use quorate_sim::scenario::ALL;
use quorate_sim::sweep::{Summary, sweep};
use quorate_sim::trace::{Show, first_difference};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::FormatTime;

use options::{Cli, Command, Run, Sweep};

const BROKEN: u8 = 1;
const FAILED: u8 = 3;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(options) => run_one(&options),
        Command::Sweep(options) => run_many(&options),
    };
    done.unwrap_or_else(|error| {
        eprintln!("quorate-sim: {error:#}");
        ExitCode::from(FAILED)
    })
}

fn run_one(options: &Run) -> anyhow::Result<ExitCode> {
    let show = match options.verbose {
        0 => Show::Nothing,
        1 => Show::Story,
        _ => Show::Everything,
    };
    if options.verbose > 0 {
        let level = if options.verbose > 1 { "debug,openraft=info" } else { "info,openraft=error" };
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
        let subscriber = tracing_subscriber::fmt()
            .with_timer(SimulatedTime)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_env_filter(filter)
            .finish();
        tracing::subscriber::set_global_default(subscriber).context("cannot show the nodes' logs")?;
    }
    let keep_trace = options.trace_file.is_some() || options.twice;
    let scenario = ALL.iter().find(|(name, _)| Some(*name) == options.scenario.as_deref());
    let play = scenario.map_or(run as fn(u64, Options) -> Report, |(_, play)| *play);
    let scenario = scenario.map(|(name, _)| *name);
    let report = play(options.seed, Options { show, keep_trace, scenario, ..Options::default() });
    if let Some(path) = &options.trace_file {
        std::fs::write(path, report.trace.join("\n") + "\n")
            .with_context(|| format!("cannot write the trace to {}", path.display()))?;
    }
    if options.json {
        println!("{}", serde_json::to_string(&ReportDocument::from(&report))?);
    } else {
        print_report(&report);
    }
    if options.twice {
        let again = play(options.seed, Options { keep_trace, ..Options::default() });
        if let Some((at, one, other)) = first_difference(&report.trace, &again.trace) {
            eprintln!(
                "the same seed gave two traces; event {at} is the first to differ:\n  {one}\n  {other}"
            );
            return Ok(ExitCode::from(FAILED));
        }
    }
    Ok(if report.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(BROKEN) })
}

fn run_many(options: &Sweep) -> anyhow::Result<ExitCode> {
    let Sweep { from, count, jobs, json, stop_at_first } = *options;
    let live = !json && std::io::stderr().is_terminal();
    let summary = sweep(from, count, jobs, stop_at_first, |summary, report| {
        if live {
            eprint!("\r{} of {count} runs, {} violations ", summary.runs, summary.violations.len());
            // A progress line that is not shown harms nobody.
            std::io::stderr().flush().unwrap_or_default();
        }
        if let Some(report) = report.filter(|report| !json && !report.violations.is_empty()) {
            println!();
            print_report(report);
        }
    });
    if json {
        println!("{}", serde_json::to_string(&summary)?);
    } else {
        print_summary(&summary);
    }
    Ok(if !summary.failed.is_empty() {
        ExitCode::from(FAILED)
    } else if summary.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(BROKEN)
    })
}

fn print_report(report: &Report) {
    let Report { seed, trace_hash, events, ops, reads, faults, violations, simulated, elapsed, .. } = report;
    println!(
        "seed {seed}: {} acked, {} failed, {} unknown, {reads} read; {events} events in {:.1} simulated s, {} ms; \
         trace {trace_hash:016x}",
        ops.ok,
        ops.failed,
        ops.unknown,
        simulated.as_secs_f64(),
        elapsed.as_millis()
    );
    println!("  faults: {}", list(faults.iter().map(|(fault, count)| format!("{count} x {fault}"))));
    if report.is_vacuous() {
        println!("  too little was acked for this run to say anything");
    }
    for violation in violations {
        println!("  BROKEN {} at {:.3} s: {}", violation.promise, violation.at.as_secs_f64(), violation.what);
    }
    if !violations.is_empty() {
        println!("  repeat it with: {}", report.replay());
    }
}

fn print_summary(summary: &Summary) {
    println!(
        "\n{} runs ({} vacuous), {} simulated s, {} events in {:.1} s; {} acked, {} failed, {} unknown",
        summary.runs,
        summary.vacuous,
        summary.sim_seconds,
        summary.events,
        std::time::Duration::from_millis(u64::try_from(summary.elapsed_ms).unwrap_or(u64::MAX)).as_secs_f64(),
        summary.ops.ok,
        summary.ops.failed,
        summary.ops.unknown
    );
    println!("faults: {}", list(summary.faults.iter().map(|(fault, count)| format!("{count} x {fault}"))));
    println!("{} violations", summary.violations.len());
    if !summary.failed.is_empty() {
        println!(
            "the simulator panicked or did not repeat itself with seeds {}",
            list(summary.failed.iter().map(u64::to_string))
        );
    }
}

fn list(words: impl Iterator<Item = String>) -> String {
    let words = words.collect::<Vec<_>>().join(", ");
    if words.is_empty() { "none".to_owned() } else { words }
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
