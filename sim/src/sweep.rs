//! Many runs, several at a time, each on a thread of its own.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;

use serde::Serialize;

use crate::history::Outcomes;
use crate::run::{self, Options, Report, ViolationDocument};

/// One seed in so many is run twice.
const AGAIN: u64 = 50;

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
    /// Faults that struck, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What clients were told.
    pub ops: Outcomes,
    /// Promises that were broken.
    pub violations: Vec<ViolationDocument>,
    /// Seeds whose run failed in itself: the simulator panicked, or a second run had another trace.
    pub failed: Vec<u64>,
    /// Real time.
    pub elapsed_ms: u128,
}

/// Runs the seeds from `from` on. Tells `progress` of each run.
pub fn sweep(
    from: u64,
    count: u64,
    jobs: u32,
    stop_at_first: bool,
    mut progress: impl FnMut(&Summary, Option<&Report>),
) -> Summary {
    let began = Instant::now();
    let next = AtomicU64::new(from);
    let end = from.saturating_add(count);
    let stop = AtomicBool::new(false);
    let mut summary = Summary::default();
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::sync_channel::<Result<Report, u64>>(16);
        for _ in 0..jobs {
            let (tell, next, stop) = (tell.clone(), &next, &stop);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    if tell.send(run_apart(seed)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        for ran in told {
            match &ran {
                Ok(report) => summary.add(report),
                Err(seed) => summary.failed.push(*seed),
            }
            let bad = ran.as_ref().map_or(true, |report| !report.violations.is_empty());
            if bad && stop_at_first {
                stop.store(true, Ordering::Relaxed);
            }
            progress(&summary, ran.as_ref().ok());
        }
    });
    summary.elapsed_ms = began.elapsed().as_millis();
    summary
}

/// Runs a seed, and one in fifty again: its trace must be the same.
fn run_apart(seed: u64) -> Result<Report, u64> {
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let report = run::run(seed, Options::default());
        let repeats =
            !seed.is_multiple_of(AGAIN) || run::run(seed, Options::default()).trace_hash == report.trace_hash;
        repeats.then_some(report)
    }));
    ran.ok().flatten().ok_or(seed)
}

impl Summary {
    fn add(&mut self, report: &Report) {
        self.runs += 1;
        self.vacuous += u64::from(report.is_vacuous());
        self.sim_seconds += report.simulated.as_secs();
        self.events += report.events;
        for (fault, count) in &report.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        self.ops.ok += report.ops.ok;
        self.ops.failed += report.ops.failed;
        self.ops.unknown += report.ops.unknown;
        self.violations.extend(report.violation_documents());
    }
}
