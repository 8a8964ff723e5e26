//! What the command prints for people.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quorate_sim::check::promises::{ALL, Promise};
use quorate_sim::explain::{explain, worst_first};
use quorate_sim::report::Report;
use quorate_sim::sweep::{Failed, Plan, Summary, Until};

use crate::output::say;

/// How often a line of progress is written where no terminal is.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// So many runs that broke promises are explained; the others are named.
const EXPLAINED_MAX: usize = 5;

/// Progress of a sweep, on standard error: one line that changes on a terminal, plain ones elsewhere.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    said: Instant,
    explained: usize,
}

impl Progress {
    /// Of a sweep that has not begun.
    pub(crate) fn new(plan: &Plan) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = match plan.until {
                Until::Count(count) => {
                    ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::stderr())
                }
                Until::Elapsed(_) => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
            };
            let template = match plan.until {
                Until::Count(_) => "{wide_bar} {msg}, {eta} to go",
                Until::Elapsed(_) => "{spinner} {msg}",
            };
            bar.set_style(ProgressStyle::with_template(template).expect("the template is sound"));
            bar
        });
        Self { bar, said: Instant::now(), explained: 0 }
    }

    /// Shows how far the sweep is.
    pub(crate) fn show(&mut self, summary: &Summary) {
        if let Some(bar) = &self.bar {
            bar.set_position(summary.runs);
            bar.set_message(progress(summary));
        } else if self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            say(progress(summary));
        }
    }

    /// Tells of a run that broke promises.
    pub(crate) fn broken(&mut self, report: &Report) {
        self.explained += 1;
        let mut promises = report.violations.iter().map(|violation| violation.promise).collect::<Vec<_>>();
        worst_first(&mut promises);
        let head = format!("seed {} broke {}", report.seed, promises.join(", "));
        if self.explained <= EXPLAINED_MAX {
            self.line(&format!("{head}\n{}", explain(report)));
        } else {
            self.line(&format!("{head}; repeat it with: {}", report.replay()));
        }
    }

    /// Tells of a run that failed in itself.
    pub(crate) fn failed(&self, failed: &Failed) {
        self.line(&failure(failed));
    }

    /// Takes the changing line away.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(line)),
            None => say(line),
        }
    }
}

fn progress(summary: &Summary) -> String {
    let faults = summary.faults.values().sum::<u64>();
    let simulated = humantime::format_duration(Duration::from_secs(summary.sim_seconds));
    format!(
        "{}, {simulated} simulated, {}, {}",
        count(summary.runs, "run"),
        count(faults, "fault"),
        violations(summary)
    )
}

fn violations(summary: &Summary) -> String {
    count(u64::try_from(summary.violations.len()).unwrap_or(u64::MAX), "violation")
}

/// "1 fault", "2 faults".
pub(crate) fn count(number: u64, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn failure(failed: &Failed) -> String {
    format!("seed {} failed in itself: {}\n  repeat it with: {}", failed.seed, failed.message, failed.replay)
}

/// What came of a run, for people.
pub(crate) fn told_of_run(report: &Report) -> String {
    let Report {
        seed, trace_hash, events, ops, acked, reads, faults, violations, simulated, elapsed, ..
    } = report;
    let mut told = format!(
        "seed {seed}: {} done, {} failed, {} unknown; {} acked, {reads} read; {events} events in {:.1} simulated s, \
         {} ms; trace {trace_hash:016x}\n",
        count(ops.ok, "operation"),
        ops.failed,
        ops.unknown,
        count(*acked, "record"),
        simulated.as_secs_f64(),
        elapsed.as_millis()
    );
    told +=
        &format!("  faults: {}\n", list(faults.iter().map(|(fault, count)| format!("{count} x {fault}"))));
    if let Some(reason) = report.vacuous() {
        told += &format!("  vacuous: {reason}\n");
    }
    told += &if violations.is_empty() { "  0 violations\n".to_owned() } else { explain(report) };
    told
}

/// What came of a sweep, for people.
pub(crate) fn told_of_sweep(summary: &Summary) -> String {
    tell_sweep(summary).unwrap_or_default()
}

// Writing to a string does not fail.
fn tell_sweep(summary: &Summary) -> Result<String, std::fmt::Error> {
    let Summary { runs, vacuous, events, ops, elapsed_ms, cpu_ms, .. } = summary;
    let simulated = humantime::format_duration(Duration::from_secs(summary.sim_seconds));
    let mut told = String::new();
    if summary.interrupted {
        writeln!(told, "interrupted: this is what had run by then")?;
    }
    writeln!(
        told,
        "{} ({vacuous} vacuous), {simulated} simulated, {events} events; {} done, {} failed, {} unknown",
        count(*runs, "run"),
        count(ops.ok, "operation"),
        ops.failed,
        ops.unknown
    )?;
    let faults = summary.faults.values().sum::<u64>();
    let kinds = summary.faults.iter().map(|(fault, count)| format!("{count} x {fault}"));
    writeln!(told, "faults: {faults} ({})", list(kinds))?;
    writeln!(
        told,
        "{} s, {} s on processors: {} counted runs a CPU-minute, {} faults a CPU-second",
        elapsed_ms / 1_000,
        cpu_ms / 1_000,
        (runs - vacuous) * 60_000 / cpu_ms.max(&1),
        faults * 1_000 / cpu_ms.max(&1)
    )?;
    for failed in &summary.failed {
        writeln!(told, "{}", failure(failed))?;
    }
    if summary.is_vacuous() {
        writeln!(told, "too many runs are vacuous for this to say anything")?;
    }
    told += &told_of_broken(summary)?;
    writeln!(told, "{}", violations(summary))?;
    Ok(told)
}

/// Which seeds broke what.
fn told_of_broken(summary: &Summary) -> Result<String, std::fmt::Error> {
    let broken = summary.broken();
    let mut told = String::new();
    if !broken.is_empty() {
        writeln!(told, "{} of {} broke promises:", broken.len(), count(summary.runs, "run"))?;
    }
    for (seed, (promises, replay)) in broken {
        writeln!(told, "  seed {seed}: {}; repeat it with: {replay}", promises.join(", "))?;
    }
    Ok(told)
}

/// Which interesting points were reached, for people.
pub(crate) fn told_of_marks(summary: &Summary) -> String {
    tell_marks(summary).unwrap_or_default()
}

fn tell_marks(summary: &Summary) -> Result<String, std::fmt::Error> {
    let width = summary.marks.keys().map(|mark| mark.len()).max().unwrap_or_default();
    let mut told = String::new();
    writeln!(told, "{:width$}  {:>10}  {:>10}  share of runs", "mark", "times", "runs")?;
    for (mark, times) in summary.marks.iter().filter(|(_, times)| **times > 0) {
        let runs = summary.mark_runs.get(mark).copied().unwrap_or_default();
        let share = per_mille(runs, summary.runs);
        writeln!(told, "{mark:width$}  {times:>10}  {runs:>10}  {:>9}.{} %", share / 10, share % 10)?;
    }
    let missed = summary.marks_missed().into_iter().map(str::to_owned);
    writeln!(told, "never reached in {}: {}", count(summary.runs, "run"), list(missed))?;
    told += &told_of_broken(summary)?;
    Ok(told)
}

/// What is promised, as a table.
pub(crate) fn told_of_oracles() -> String {
    let files = |promise: &Promise| promise.files.join(", ");
    let width =
        |of: fn(&Promise) -> String| ALL.iter().map(|promise| of(promise).len()).max().unwrap_or_default();
    let (whats, names) =
        (width(|promise| promise.what.to_owned()), width(|promise| promise.files.join(", ")));
    let mut told =
        format!("{:8}  {:whats$}  {:names$}  {}\n", "oracle", "promise", "in sim/src/check/", "source");
    for promise in ALL {
        let Promise { id, what, source, .. } = promise;
        told += &format!("{id:8}  {what:whats$}  {:names$}  {source}\n", files(promise));
    }
    told
}

fn per_mille(part: u64, whole: u64) -> u64 {
    part * 1_000 / whole.max(1)
}

fn list(words: impl Iterator<Item = String>) -> String {
    let words = words.collect::<Vec<_>>().join(", ");
    if words.is_empty() { "none".to_owned() } else { words }
}
