//! What the command prints for people.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quorate_sim::explain::explain;
use quorate_sim::report::Report;
use quorate_sim::sweep::{Failed, Plan, Summary, Until};

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
            eprintln!("{}", progress(summary));
        }
    }

    /// Tells of a run that broke promises.
    pub(crate) fn broken(&mut self, report: &Report) {
        self.explained += 1;
        let promises = report.violations.iter().map(|violation| violation.promise).collect::<Vec<_>>();
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
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }
}

fn progress(summary: &Summary) -> String {
    let faults = summary.faults.values().sum::<u64>();
    let simulated = humantime::format_duration(Duration::from_secs(summary.sim_seconds));
    format!(
        "{} runs, {simulated} simulated, {faults} faults, {} violations",
        summary.runs,
        summary.violations.len()
    )
}

fn failure(failed: &Failed) -> String {
    format!("seed {} failed in itself: {}\n  repeat it with: {}", failed.seed, failed.message, failed.replay)
}

/// Prints what came of a run.
pub(crate) fn print_report(report: &Report) {
    let Report {
        seed, trace_hash, events, ops, acked, reads, faults, violations, simulated, elapsed, ..
    } = report;
    println!(
        "seed {seed}: {} operations done, {} failed, {} unknown; {acked} records acked, {reads} read; {events} events \
         in {:.1} simulated s, {} ms; trace {trace_hash:016x}",
        ops.ok,
        ops.failed,
        ops.unknown,
        simulated.as_secs_f64(),
        elapsed.as_millis()
    );
    println!("  faults: {}", list(faults.iter().map(|(fault, count)| format!("{count} x {fault}"))));
    if let Some(reason) = report.vacuous() {
        println!("  vacuous: {reason}");
    }
    if !violations.is_empty() {
        print!("{}", explain(report));
    }
}

/// Prints what came of a sweep.
pub(crate) fn print_summary(summary: &Summary) {
    let Summary { runs, vacuous, events, ops, elapsed_ms, cpu_ms, .. } = summary;
    let simulated = humantime::format_duration(Duration::from_secs(summary.sim_seconds));
    println!(
        "{runs} runs ({vacuous} vacuous), {simulated} simulated, {events} events; {} operations done, {} failed, \
         {} unknown",
        ops.ok, ops.failed, ops.unknown
    );
    let faults = summary.faults.values().sum::<u64>();
    let kinds = summary.faults.iter().map(|(fault, count)| format!("{count} x {fault}"));
    println!("faults: {faults} ({})", list(kinds));
    println!(
        "{} s, {} s on processors: {} counted runs a CPU-minute, {} faults a CPU-second",
        elapsed_ms / 1_000,
        cpu_ms / 1_000,
        (runs - vacuous) * 60_000 / cpu_ms.max(&1),
        faults * 1_000 / cpu_ms.max(&1)
    );
    for failed in &summary.failed {
        println!("{}", failure(failed));
    }
    if summary.is_vacuous() {
        println!("too many runs are vacuous for this to say anything");
    }
    println!("{} violations", summary.violations.len());
}

/// Prints which interesting points were reached.
pub(crate) fn print_marks(summary: &Summary) {
    let width = summary.marks.keys().map(|mark| mark.len()).max().unwrap_or_default();
    println!("{:width$}  {:>10}  {:>10}  share of runs", "mark", "times", "runs");
    for (mark, times) in summary.marks.iter().filter(|(_, times)| **times > 0) {
        let runs = summary.mark_runs.get(mark).copied().unwrap_or_default();
        let share = per_mille(runs, summary.runs);
        println!("{mark:width$}  {times:>10}  {runs:>10}  {:>9}.{} %", share / 10, share % 10);
    }
    let missed = summary.marks_missed();
    println!("never reached in {} runs: {}", summary.runs, list(missed.into_iter().map(str::to_owned)));
}

fn per_mille(part: u64, whole: u64) -> u64 {
    part * 1_000 / whole.max(1)
}

fn list(words: impl Iterator<Item = String>) -> String {
    let words = words.collect::<Vec<_>>().join(", ");
    if words.is_empty() { "none".to_owned() } else { words }
}
