//! One run: everything from one seed, from the first start of the nodes to the last check.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, RngSeed};

use crate::classes::Classes;
use crate::cluster::{Cluster, Keeping, Knobs, Tempo};
use crate::dice::Dice;
use crate::env::clock;
use crate::env::network::{Network, Profile};
use crate::env::probe::Points;
use crate::env::tasks;
use crate::history::History;
use crate::marks::Marks;
use crate::nemesis::{self, Plan};
use crate::report::Report;
use crate::trace::{Show, Trace};
use crate::workload::{Shape, Workload};

/// How long everything may take after the last fault was mended, each step.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long consumers may take to the end of what stands, once nobody writes: what is in flight is answered by then.
const READING: Duration = Duration::from_secs(30);

/// What a run is to do, beside its seed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// What is shown as it happens.
    pub show: Show,
    /// Which events are kept as text.
    pub keep: Show,
    /// How long faults strike; drawn if not given.
    pub length: Option<Duration>,
    /// How many nodes there are; three if not given.
    pub nodes: Option<u32>,
    /// Which faults may strike.
    pub only: Classes,
    /// The scenario that is played, if it is one.
    pub scenario: Option<&'static str>,
    /// Changes what was drawn for the nodes.
    pub adjust: Option<fn(&mut Knobs)>,
}

/// A run's world, with its nodes and clients.
pub struct Stage {
    /// The nodes.
    pub cluster: Cluster,
    /// The clients.
    pub workload: Workload,
    /// What is drawn for the run as a whole.
    pub dice: Dice,
    /// What is seen.
    pub history: History,
}

/// Runs a seed, on this thread: the clients work, the nemesis rages, everything is mended, and all is checked.
pub fn run(seed: u64, options: Options) -> Report {
    let plan = plan(seed, options);
    on_bare_stage(seed, options, async |stage| {
        nemesis::play(stage, plan, Dice::named(seed, "nemesis"), options.length).await;
    })
}

/// Which faults are to strike.
fn plan(seed: u64, options: Options) -> Plan {
    Plan::draw(&mut Dice::named(seed, "plan"), options.only)
}

/// Sets up a world with running nodes and topics, lets `play` happen in it, and judges what came of it.
pub fn on_stage(seed: u64, options: Options, play: impl AsyncFnOnce(&mut Stage)) -> Report {
    on_bare_stage(seed, options, async |stage| {
        stage.open().await;
        play(stage).await;
    })
}

/// [`on_stage`], of which no node has been started yet: `play` must see to it that [`Stage::open`] is called.
pub fn on_bare_stage(seed: u64, options: Options, play: impl AsyncFnOnce(&mut Stage)) -> Report {
    let began = Instant::now();
    let trace = Trace::new(options.show, options.keep);
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
        let mut stage = set(seed, options, &trace, &history, &marks);
        play(&mut stage).await;
        finish(stage).await
    });
    drop(runtime);
    let violations = history.judge(simulated);
    let evidence = history.evidence();
    let (topics, partitions) = evidence.breadth();
    Report {
        seed,
        options,
        trace_hash: trace.hash(),
        events: trace.events(),
        ops: evidence.operations(),
        acked: evidence.outcomes().ok,
        topics,
        partitions,
        reads: evidence.reads,
        calm: options.scenario.is_none() && plan(seed, options).calm,
        faults,
        marks: marks.counts(),
        violations,
        simulated,
        elapsed: began.elapsed(),
        trace: trace.take_lines(),
    }
}

/// A world in which nothing happens yet.
fn set(seed: u64, options: Options, trace: &Trace, history: &History, marks: &Marks) -> Stage {
    let mut dice = Dice::named(seed, "run");
    let profile = Profile {
        delay_min: Duration::from_micros(20),
        delay_max: dice.time(Duration::from_micros(100), Duration::from_millis(10)),
        ..Profile::default()
    };
    let mut knobs = Knobs::draw(&mut dice);
    knobs.tempo = Tempo::draw(&mut Dice::named(seed, "tempo"));
    knobs.keeping = Keeping::draw(&mut Dice::named(seed, "keeping"));
    knobs.draw_rest(&mut Dice::named(seed, "rest"));
    knobs.nodes = options.nodes.unwrap_or(knobs.nodes);
    if options.scenario.is_none() && plan(seed, options).calm {
        knobs.points = Points::none();
    }
    if let Some(adjust) = options.adjust {
        adjust(&mut knobs);
    }
    let mut shape = Shape::draw(&mut dice);
    if knobs.trims {
        shape.keep(&mut Dice::named(seed, "retention"));
    }
    let network = Network::new(profile, Dice::named(seed, "network"), trace.clone());
    let cluster = Cluster::new(seed, knobs, network.clone(), history.clone(), trace.clone(), marks.clone());
    let servers = cluster.servers();
    let workload =
        Workload::new(seed, shape, servers, network, history.clone(), trace.clone(), cluster.probes());
    Stage { cluster, workload, dice, history: history.clone() }
}

impl Stage {
    /// Starts the nodes that are not, waits until they are ready, and creates topics.
    pub async fn open(&mut self) {
        for node in self.cluster.nodes() {
            self.cluster.start(node).await;
        }
        self.cluster.until_ready(PATIENCE).await;
        self.workload.create_topics().await;
    }
}

/// Waits until everything is known, reads everything, and ends.
async fn finish(mut stage: Stage) -> (BTreeMap<&'static str, u64>, Duration) {
    let Stage { cluster, workload, .. } = &mut stage;
    cluster.healed(cluster.nodes());
    cluster.until_ready(PATIENCE).await;
    cluster.until_whole(PATIENCE).await;
    workload.finish(PATIENCE).await;
    workload.keep_the_rest(PATIENCE).await;
    workload.scan(PATIENCE).await;
    clock::sleep(Duration::from_secs(1)).await;
    workload.read_to_the_end(READING).await;
    cluster.collect_replicas(PATIENCE).await;
    cluster.observer().quiet();
    let simulated = clock::now();
    workload.end().await;
    cluster.end_all().await;
    let mut faults = cluster.tally().counts();
    for (kind, count) in cluster.network().struck() {
        *faults.entry(kind).or_default() += count;
    }
    (faults, simulated)
}
