//! What came of a run: the numbers, the broken promises, and the command that repeats it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::check::Violation;
use crate::history::Outcomes;
use crate::run::Options;

/// A run with fewer operations that were acknowledged or answered says too little.
const ACKED_MIN: u64 = 300;
/// So does one in which fewer topics were written to.
const TOPICS_MIN: u64 = 2;
/// And one in which fewer partitions were.
const PARTITIONS_MIN: u64 = 5;
/// And one with fewer faults that took hold, unless it is a calm one.
const FAULTS_MIN: u64 = 5;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// What it was to do beside.
    pub options: Options,
    /// All events folded into one number.
    pub trace_hash: u64,
    /// How many events there were.
    pub events: u64,
    /// What clients were told.
    pub ops: Outcomes,
    /// Records that were acknowledged.
    pub acked: u64,
    /// Topics of which a record was acknowledged.
    pub topics: u64,
    /// Partitions of which a record was acknowledged.
    pub partitions: u64,
    /// Records that consumers were given.
    pub reads: u64,
    /// Whether hardly any fault was to strike.
    pub calm: bool,
    /// Faults that took hold, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Interesting points that were reached, and how often.
    pub marks: BTreeMap<&'static str, u64>,
    /// Promises that were broken.
    pub violations: Vec<Violation>,
    /// Simulated time.
    pub simulated: Duration,
    /// Real time.
    pub elapsed: Duration,
    /// The trace as text, as far as it was kept.
    pub trace: Vec<String>,
}

impl Report {
    /// The command that repeats the run.
    pub fn replay(&self) -> String {
        replay(self.seed, &self.options)
    }

    /// Why a clean result says nothing, if so little happened.
    pub fn vacuous(&self) -> Option<String> {
        // A written-out order of events is what it is.
        if self.options.scenario.is_some() {
            return None;
        }
        let faults = self.faults.values().sum();
        // What was asked to be narrow is not expected to be broad.
        let narrow = self.calm || !self.options.only.is_all();
        let least = [
            (self.ops.ok, ACKED_MIN, "acknowledged operations"),
            (self.topics, TOPICS_MIN, "topics written to"),
            (self.partitions, PARTITIONS_MIN, "partitions written to"),
            (faults, if narrow { 0 } else { FAULTS_MIN }, "faults that took hold"),
        ];
        let (found, least, what) = least.into_iter().find(|(found, least, _)| found < least)?;
        Some(format!("{found} {what}, at least {least} are needed"))
    }

    /// Whether so little happened that a clean result says nothing.
    pub fn is_vacuous(&self) -> bool {
        self.vacuous().is_some()
    }

    /// Its violations as documents.
    pub fn violation_documents(&self) -> Vec<ViolationDocument> {
        let documents = self.violations.iter().map(|violation| ViolationDocument {
            seed: self.seed,
            oracle: violation.promise,
            at_ms: milliseconds(violation.at),
            message: violation.what.clone(),
            replay: self.replay(),
        });
        documents.collect()
    }
}

/// The command that repeats a run.
pub fn replay(seed: u64, options: &Options) -> String {
    let mut more = String::new();
    if let Some(scenario) = options.scenario {
        more += &format!(" --scenario {scenario}");
    }
    if let Some(nodes) = options.nodes {
        more += &format!(" --nodes {nodes}");
    }
    if !options.only.is_all() {
        more += &format!(" --only {}", options.only);
    }
    if let Some(length) = options.length {
        more += &format!(" --length {}", humantime::format_duration(length).to_string().replace(' ', ""));
    }
    if more.is_empty() {
        format!("make sim SEED={seed}")
    } else {
        format!("make sim ARGS=\"run --seed {seed}{more}\"")
    }
}

/// Whole milliseconds.
pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A report as a document.
#[derive(Debug, Serialize)]
pub struct ReportDocument {
    seed: u64,
    trace_hash: String,
    vacuous: bool,
    calm: bool,
    ops: Outcomes,
    acked: u64,
    topics: u64,
    partitions: u64,
    reads: u64,
    faults: BTreeMap<&'static str, u64>,
    violations: Vec<ViolationDocument>,
    marks: BTreeMap<&'static str, u64>,
    events: u64,
    sim_ms: u64,
    elapsed_ms: u64,
}

/// A violation as a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ViolationDocument {
    seed: u64,
    oracle: &'static str,
    at_ms: u64,
    message: String,
    replay: String,
}

impl ViolationDocument {
    /// Of which run it is.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Which promise it broke.
    pub fn oracle(&self) -> &'static str {
        self.oracle
    }

    /// The command that repeats it.
    pub fn replay(&self) -> &str {
        &self.replay
    }
}

impl From<&Report> for ReportDocument {
    fn from(report: &Report) -> Self {
        Self {
            seed: report.seed,
            trace_hash: format!("{:016x}", report.trace_hash),
            vacuous: report.is_vacuous(),
            calm: report.calm,
            ops: report.ops,
            acked: report.acked,
            topics: report.topics,
            partitions: report.partitions,
            reads: report.reads,
            faults: report.faults.clone(),
            violations: report.violation_documents(),
            marks: report.marks.clone(),
            events: report.events,
            sim_ms: milliseconds(report.simulated),
            elapsed_ms: milliseconds(report.elapsed),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::classes::Class;

    /// A run in which just enough happened.
    pub(crate) fn report(seed: u64) -> Report {
        Report {
            seed,
            options: Options::default(),
            trace_hash: 7,
            events: 10,
            ops: Outcomes { ok: 300, failed: 1, unknown: 2 },
            acked: 200,
            topics: 2,
            partitions: 5,
            reads: 3,
            calm: false,
            faults: [("kill", 2), ("cut link", 3)].into(),
            marks: [("roll", 4)].into(),
            violations: Vec::new(),
            simulated: Duration::from_millis(60_000),
            elapsed: Duration::from_millis(300),
            trace: Vec::new(),
        }
    }

    #[test]
    fn a_run_counts_only_if_enough_happened() {
        let good = report(1);
        assert_eq!(good.vacuous(), None);
        let few = Report { ops: Outcomes { ok: ACKED_MIN - 1, ..good.ops }, ..good.clone() };
        assert!(few.vacuous().unwrap().contains("acknowledged operations, at least"));
        assert!(Report { topics: 1, ..good.clone() }.is_vacuous());
        assert!(Report { partitions: 4, ..good.clone() }.is_vacuous());
        let quiet = Report { faults: [("kill", 4)].into(), ..good.clone() };
        assert!(quiet.vacuous().unwrap().contains("4 faults"));
        assert!(!Report { calm: true, ..quiet }.is_vacuous());
    }

    #[test]
    fn the_command_repeats_what_was_asked_for() {
        let replayed = |options| Report { options, ..report(7) }.replay();
        assert_eq!(replayed(Options::default()), "make sim SEED=7");
        let only = [Class::Crash].into_iter().collect();
        assert_eq!(
            replayed(Options {
                only,
                nodes: Some(5),
                length: Some(Duration::from_secs(90)),
                ..Options::default()
            }),
            "make sim ARGS=\"run --seed 7 --nodes 5 --only crash --length 1m30s\""
        );
        let scenario = Options { scenario: Some("leader-restore"), ..Options::default() };
        assert_eq!(replayed(scenario), "make sim ARGS=\"run --seed 7 --scenario leader-restore\"");
    }

    #[test]
    fn the_document_has_the_keys_that_were_promised() {
        let violation =
            Violation { promise: "O-11", at: Duration::from_millis(1_500), what: "gone".to_owned() };
        let report = Report { violations: vec![violation], ..report(7) };
        let document = serde_json::to_value(ReportDocument::from(&report)).unwrap();
        for key in ["seed", "trace_hash", "vacuous", "ops", "faults", "violations"] {
            assert!(!document[key].is_null(), "{key}: {document}");
        }
        let violation = serde_json::json!({
            "seed": 7, "oracle": "O-11", "at_ms": 1500, "message": "gone", "replay": "make sim SEED=7",
        });
        assert_eq!(document["violations"], serde_json::json!([violation]));
        assert_eq!(document["trace_hash"], "0000000000000007");
    }
}
