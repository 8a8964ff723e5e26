//! Many runs, several at a time, each on a thread of its own.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::explain::worst_first;
use crate::history::Outcomes;
use crate::marks;
use crate::report::{Report, ViolationDocument, milliseconds, replay};
use crate::run::Options;
use crate::scenario::play;

/// A sweep with more vacuous runs than one in so many says too little.
const VACUOUS_SHARE: u64 = 50;
/// How long a sweep stays silent at most.
const TICK: Duration = Duration::from_secs(1);

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The first seed.
    pub from: u64,
    /// When to end.
    pub until: Until,
    /// How many run at a time.
    pub jobs: u32,
    /// Whether to begin no further run once something is wrong.
    pub stop_at_first: bool,
    /// One seed in so many is run twice, and the traces compared; none if zero.
    pub twice_every: u64,
    /// What each run is to do.
    pub options: Options,
    /// No further run begins once this is set.
    pub stop: Option<&'static AtomicBool>,
}

/// When a sweep ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many seeds.
    Count(u64),
    /// After this long, in real time: no run begins later, but the first.
    Elapsed(Duration),
}

/// What came of many runs.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// Runs that came to their end.
    pub runs: u64,
    /// Those in which so little happened that they say nothing.
    pub vacuous: u64,
    /// Simulated time of all, in seconds.
    pub sim_seconds: u64,
    /// Events of all.
    pub events: u64,
    /// Faults that took hold, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What clients were told.
    pub ops: Outcomes,
    /// Promises that were broken, by seed.
    pub violations: Vec<ViolationDocument>,
    /// Interesting points, and how often each was reached.
    pub marks: BTreeMap<&'static str, u64>,
    /// Interesting points, and how many runs reached each.
    pub mark_runs: BTreeMap<&'static str, u64>,
    /// Runs that failed in themselves, by seed.
    pub failed: Vec<Failed>,
    /// All runs' traces folded into one number, whatever the order in which they ended.
    #[serde(serialize_with = "hexadecimal")]
    pub trace_hash: u64,
    /// Whether it was ended before its time.
    pub interrupted: bool,
    /// Real time.
    pub elapsed_ms: u64,
    /// Time on processors.
    pub cpu_ms: u64,
}

/// A run that says nothing of the nodes: the simulator panicked, or a second run had another trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// Its seed.
    pub seed: u64,
    /// What happened.
    pub message: String,
    /// The command that repeats it.
    pub replay: String,
}

/// What is told of a sweep while it goes on.
#[derive(Debug)]
pub enum Told<'a> {
    /// A run came to its end.
    Ran(&'a Report),
    /// A run failed in itself.
    Failed(&'a Failed),
    /// Time has passed.
    Tick,
}

/// Runs many seeds, and tells `told` of each, and about once a second.
pub fn sweep(plan: Plan, mut told: impl FnMut(&Summary, Told<'_>)) -> Summary {
    let began = (Instant::now(), processor_time());
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let mut summary = Summary::default();
    summary.expect_marks();
    let over = |number: u64| {
        stop.load(Ordering::Relaxed)
            || plan.stop.is_some_and(|stop| stop.load(Ordering::Relaxed))
            || match plan.until {
                Until::Count(count) => number >= count,
                Until::Elapsed(time) => number > 0 && began.0.elapsed() >= time,
            }
    };
    std::thread::scope(|scope| {
        let (tell, heard) = mpsc::sync_channel(16);
        for _ in 0..plan.jobs {
            let (tell, next, over) = (tell.clone(), &next, &over);
            scope.spawn(move || {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(seed) = plan.from.checked_add(number) else { return };
                    if over(number) || tell.send(run_apart(seed, &plan)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        loop {
            let ran = heard.recv_timeout(TICK);
            summary.elapsed_ms = milliseconds(began.0.elapsed());
            summary.cpu_ms = milliseconds(processor_time().saturating_sub(began.1));
            let bad = match ran {
                Ok(Ok(report)) => {
                    summary.add(&report);
                    // Before it is explained, which takes a while.
                    if plan.stop_at_first && !report.violations.is_empty() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    told(&summary, Told::Ran(&report));
                    !report.violations.is_empty()
                }
                Ok(Err(failed)) => {
                    told(&summary, Told::Failed(&failed));
                    summary.failed.push(failed);
                    true
                }
                Err(RecvTimeoutError::Timeout) => {
                    told(&summary, Told::Tick);
                    false
                }
                Err(RecvTimeoutError::Disconnected) => break,
            };
            if bad && plan.stop_at_first {
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
    summary.violations.sort_by_key(ViolationDocument::seed);
    summary.failed.sort_by_key(|failed| failed.seed);
    summary
}

/// Runs a seed, and a few of them again: the trace must be the same.
fn run_apart(seed: u64, plan: &Plan) -> Result<Report, Failed> {
    let failed = |message| Failed { seed, message, replay: replay(seed, &plan.options) };
    let twice = plan.twice_every > 0 && seed.is_multiple_of(plan.twice_every);
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let report = play(seed, plan.options);
        let again = if twice { play(seed, plan.options).trace_hash } else { report.trace_hash };
        (report, again)
    }));
    let (report, again) =
        ran.map_err(|panic| failed(format!("the simulator panicked: {}", said(&*panic))))?;
    if report.trace_hash == again {
        Ok(report)
    } else {
        let hash = report.trace_hash;
        let message = format!(
            "the same seed gave two traces, {hash:016x} and {again:016x}; --diff-trace shows the first event that differs"
        );
        Err(failed(message))
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields so")]
fn hexadecimal<S: serde::Serializer>(hash: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{hash:016x}"))
}

fn said(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(ToString::to_string);
    words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without words".to_owned())
}

/// What all threads of this process have spent on processors.
fn processor_time() -> Duration {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(spent).unwrap_or_default()
}

impl Summary {
    /// Whether so many runs say nothing that the sweep says too little.
    pub fn is_vacuous(&self) -> bool {
        self.runs == 0 || self.vacuous * VACUOUS_SHARE > self.runs
    }

    /// The promises that each seed broke, the worst one first, and the command that repeats it.
    pub fn broken(&self) -> BTreeMap<u64, (Vec<&'static str>, &str)> {
        let mut broken = BTreeMap::<u64, (Vec<&'static str>, &str)>::new();
        for violation in &self.violations {
            let (promises, replay) = broken.entry(violation.seed()).or_default();
            *replay = violation.replay();
            promises.push(violation.oracle());
        }
        for (promises, _) in broken.values_mut() {
            worst_first(promises);
        }
        broken
    }

    /// Interesting points that no run reached.
    pub fn marks_missed(&self) -> Vec<&'static str> {
        self.marks.iter().filter(|(_, count)| **count == 0).map(|(mark, _)| *mark).collect()
    }

    /// So that those that are never reached are listed too.
    fn expect_marks(&mut self) {
        let none = marks::ALL.iter().map(|mark| (*mark, 0));
        self.marks = none.clone().collect();
        self.mark_runs = none.collect();
    }

    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.vacuous += u64::from(report.is_vacuous());
        let own = report.trace_hash.wrapping_add(report.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.trace_hash = self.trace_hash.wrapping_add(own.rotate_left(29));
        self.sim_seconds += report.simulated.as_secs();
        self.events += report.events;
        for (fault, count) in &report.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        for (mark, count) in &report.marks {
            *self.marks.entry(mark).or_default() += count;
            *self.mark_runs.entry(mark).or_default() += u64::from(*count > 0);
        }
        self.ops.ok += report.ops.ok;
        self.ops.failed += report.ops.failed;
        self.ops.unknown += report.ops.unknown;
        self.violations.extend(report.violation_documents());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Violation;
    use crate::report::tests::report;

    #[test]
    fn runs_add_up_and_a_few_vacuous_ones_are_allowed() {
        let mut summary = Summary::default();
        for seed in 0..49 {
            summary.add(&report(seed));
        }
        let vacuous = Report { topics: 1, marks: [("roll", 0)].into(), ..report(49) };
        summary.add(&vacuous);
        assert_eq!((summary.runs, summary.vacuous, summary.sim_seconds), (50, 1, 3_000));
        assert_eq!((summary.faults["kill"], summary.ops.ok), (100, 15_000));
        assert_eq!((summary.marks["roll"], summary.mark_runs["roll"]), (196, 49));
        assert!(!summary.is_vacuous());
        summary.add(&Report { seed: 50, ..vacuous });
        assert!(summary.is_vacuous());
        assert!(summary.marks_missed().is_empty());
        assert!(Summary::default().is_vacuous(), "nothing ran");
    }

    #[test]
    fn a_sweep_says_which_seed_broke_what() {
        let violation = |promise| Violation { promise, at: Duration::ZERO, what: "lost".to_owned() };
        let violations = ["O-28", "O-11", "O-28"].map(violation).to_vec();
        let mut summary = Summary::default();
        summary.add(&report(1));
        summary.add(&Report { violations, ..report(2) });
        let broken = summary.broken();
        assert_eq!(broken.len(), 1);
        assert_eq!(broken[&2], (vec!["O-11", "O-28"], "make sim SEED=2"));
    }

    #[test]
    fn no_seed_follows_the_last_one_and_a_stop_is_heeded() {
        static STOPPED: AtomicBool = AtomicBool::new(true);
        let options = Options { scenario: Some("deposed-leader"), ..Options::default() };
        let plan = Plan {
            from: u64::MAX,
            until: Until::Elapsed(Duration::from_nanos(1)),
            jobs: 2,
            stop_at_first: false,
            twice_every: 0,
            options,
            stop: None,
        };
        assert_eq!(sweep(plan, |_, _| ()).runs, 1);
        assert_eq!(sweep(Plan { stop: Some(&STOPPED), ..plan }, |_, _| ()).runs, 0);
    }

    #[test]
    fn the_document_has_the_keys_that_were_promised() {
        let document = serde_json::to_value(Summary::default()).unwrap();
        let promised = [
            "runs",
            "vacuous",
            "sim_seconds",
            "events",
            "faults",
            "ops",
            "violations",
            "marks",
            "elapsed_ms",
            "cpu_ms",
        ];
        for key in promised {
            assert!(!document[key].is_null(), "{key}: {document}");
        }
        for key in ["ok", "failed", "unknown"] {
            assert!(document["ops"][key].is_u64(), "{key}: {document}");
        }
    }
}
