//! One run: everything from one seed, from the first start of the nodes to the last check.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::runtime::{Builder, RngSeed};

use crate::check::Violation;
use crate::cluster::{Cluster, Knobs};
use crate::dice::Dice;
use crate::env::clock;
use crate::env::network::{Network, Profile};
use crate::env::tasks;
use crate::history::{History, Outcomes};
use crate::marks::Marks;
use crate::nemesis::{Nemesis, Plan};
use crate::trace::{Show, Trace};
use crate::workload::{Shape, Workload};

/// How long clients work before the first fault.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long everything may take after the last fault was mended, each step.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a run is to do, beside its seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What is shown as it happens.
    pub show: Show,
    /// Whether the trace is kept as text.
    pub keep_trace: bool,
    /// How long faults strike; drawn if not given.
    pub faults_for: Option<Duration>,
    /// The scenario that is played, if it is one.
    pub scenario: Option<&'static str>,
    /// Changes what was drawn for the nodes.
    pub adjust: Option<fn(&mut Knobs)>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The scenario that was played, if it was one.
    pub scenario: Option<&'static str>,
    /// All events folded into one number.
    pub trace_hash: u64,
    /// How many events there were.
    pub events: u64,
    /// What clients were told.
    pub ops: Outcomes,
    /// Records that consumers were given.
    pub reads: u64,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What was reached, by mark.
    pub marks: BTreeMap<&'static str, u64>,
    /// Promises that were broken.
    pub violations: Vec<Violation>,
    /// Simulated time.
    pub simulated: Duration,
    /// Real time.
    pub elapsed: Duration,
    /// The trace as text, if it was kept.
    pub trace: Vec<String>,
}

/// A run's world, with its nodes and clients.
pub struct Stage {
    /// The nodes.
    pub cluster: Cluster,
    /// The clients.
    pub workload: Workload,
    /// What is drawn for the run as a whole.
    pub dice: Dice,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<&'static str, u64>,
}

/// Runs a seed, on this thread: the clients work, the nemesis rages, everything is mended, and all is checked.
pub fn run(seed: u64, options: Options) -> Report {
    on_stage(seed, options, async |stage| {
        let faults_for = stage.dice.time(Duration::from_secs(3), Duration::from_secs(12));
        let faults_for = options.faults_for.unwrap_or(faults_for);
        let plan = Plan::draw(&mut stage.dice);
        stage.workload.begin();
        clock::sleep(WARM_UP).await;
        let mut nemesis = Nemesis::new(plan, Dice::named(seed, "nemesis"));
        nemesis.rage(&mut stage.cluster, clock::now() + faults_for).await;
        stage.faults = nemesis.faults;
    })
}

/// Sets up a world with running nodes and topics, lets `play` happen in it, and judges what came of it.
pub fn on_stage(seed: u64, options: Options, play: impl AsyncFnOnce(&mut Stage)) -> Report {
    let began = Instant::now();
    let trace = Trace::new(options.show, options.keep_trace);
    let history = History::default();
    let marks = Marks::default();
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_le_bytes()))
        .build()
        .expect("a runtime without any I/O");
    let (faults, simulated) = runtime.block_on(async {
        clock::begin();
        tasks::begin();
        let mut stage = set(seed, options, &trace, &history, &marks).await;
        play(&mut stage).await;
        finish(stage).await
    });
    drop(runtime);
    let violations = history.judge(simulated);
    let evidence = history.evidence();
    Report {
        seed,
        scenario: options.scenario,
        trace_hash: trace.hash(),
        events: trace.events(),
        ops: evidence.outcomes(),
        reads: u64::try_from(evidence.reads.len()).unwrap_or(u64::MAX),
        faults,
        marks: marks.counts(),
        violations,
        simulated,
        elapsed: began.elapsed(),
        trace: trace.take_lines(),
    }
}

/// Starts nodes, waits until they are ready, and creates topics.
async fn set(seed: u64, options: Options, trace: &Trace, history: &History, marks: &Marks) -> Stage {
    let mut dice = Dice::named(seed, "run");
    let profile = Profile {
        delay_min: Duration::from_micros(20),
        delay_max: dice.time(Duration::from_micros(100), Duration::from_millis(10)),
        slow_per_mille: dice.below(30),
        slow_max: dice.time(Duration::from_millis(20), Duration::from_millis(500)),
    };
    let mut knobs = Knobs::draw(&mut dice);
    if let Some(adjust) = options.adjust {
        adjust(&mut knobs);
    }
    let shape = Shape::draw(&mut dice);
    let network = Network::new(profile, Dice::named(seed, "network"), trace.clone());
    let mut cluster =
        Cluster::new(seed, knobs, network.clone(), history.clone(), trace.clone(), marks.clone());
    for node in cluster.nodes() {
        cluster.start(node).await;
    }
    cluster.until_ready(PATIENCE).await;
    let servers = cluster.servers();
    let mut workload =
        Workload::new(seed, shape, servers, network, history.clone(), trace.clone(), cluster.probes());
    workload.create_topics().await;
    Stage { cluster, workload, dice, faults: BTreeMap::new() }
}

/// Waits until everything is known, reads everything, and ends.
async fn finish(mut stage: Stage) -> (BTreeMap<&'static str, u64>, Duration) {
    let Stage { cluster, workload, .. } = &mut stage;
    cluster.until_ready(PATIENCE).await;
    workload.finish(PATIENCE).await;
    workload.scan(PATIENCE).await;
    // The consumers come to the end too.
    clock::sleep(Duration::from_secs(1)).await;
    cluster.collect_replicas(PATIENCE).await;
    let simulated = clock::now();
    workload.end().await;
    cluster.end_all().await;
    (stage.faults, simulated)
}

impl Report {
    /// The command that repeats the run.
    pub fn replay(&self) -> String {
        match self.scenario {
            Some(scenario) => format!("make sim ARGS=\"run --scenario {scenario} --seed {}\"", self.seed),
            None => format!("make sim SEED={}", self.seed),
        }
    }

    /// Whether so little happened that a clean result says nothing.
    pub fn is_vacuous(&self) -> bool {
        self.ops.ok < 50
    }
}

/// A report as a document.
#[derive(Debug, Serialize)]
pub struct ReportDocument {
    seed: u64,
    trace_hash: String,
    vacuous: bool,
    ops: Outcomes,
    reads: u64,
    faults: BTreeMap<&'static str, u64>,
    violations: Vec<ViolationDocument>,
    events: u64,
    sim_ms: u128,
    elapsed_ms: u128,
}

/// A violation as a document.
#[derive(Debug, Serialize)]
pub struct ViolationDocument {
    seed: u64,
    oracle: &'static str,
    at_ms: u128,
    message: String,
    replay: String,
}

impl From<&Report> for ReportDocument {
    fn from(report: &Report) -> Self {
        Self {
            seed: report.seed,
            trace_hash: format!("{:016x}", report.trace_hash),
            vacuous: report.is_vacuous(),
            ops: report.ops,
            reads: report.reads,
            faults: report.faults.clone(),
            violations: report.violation_documents(),
            events: report.events,
            sim_ms: report.simulated.as_millis(),
            elapsed_ms: report.elapsed.as_millis(),
        }
    }
}

impl Report {
    /// Its violations as documents.
    pub fn violation_documents(&self) -> Vec<ViolationDocument> {
        let documents = self.violations.iter().map(|violation| ViolationDocument {
            seed: self.seed,
            oracle: violation.promise,
            at_ms: violation.at.as_millis(),
            message: violation.what.clone(),
            replay: self.replay(),
        });
        documents.collect()
    }
}
