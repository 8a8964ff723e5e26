//! The exhaustive companion: written-out stories of a cluster, played again and again, the power cut at every single
//! disk operation of theirs, once for the node whose operation it is and once for all nodes at that moment; each is
//! followed by all oracles. What chance brings rarely at a given moment, this brings at each.

pub mod blocks;
mod scripts;

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use quorate_proto::ids::NodeId;
use serde::Serialize;

use crate::cluster::{Cluster, Crash};
use crate::dice::Dice;
use crate::env::clock;
use crate::explain::explain_by;
use crate::report::Report;
use crate::run::{Options, Stage, on_bare_stage};
use crate::trace::Show;
use crate::workload::Workload;

pub use scripts::{ALL, Script};

/// How long a machine is without power.
const DARK: Duration = Duration::from_millis(200);
/// One cut in so many is followed by another one while what was cut off starts again.
const AGAIN: u64 = 3;
/// All points of a script have the same seed, so that everything is the same up to the cut.
const SEED: u64 = 1;

/// Where the power is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Whose disk's operation it is.
    pub node: NodeId,
    /// Which of them, from 0, counted from where the script says.
    pub operation: u64,
    /// Whether the power of all nodes goes, and not only that node's.
    pub all: bool,
}

/// What came of one script.
#[derive(Debug, Default, Serialize)]
pub struct Outcome {
    /// Its name.
    pub script: &'static str,
    /// Disk operations under scrutiny, over all nodes.
    pub operations: u64,
    /// As many as it may have.
    pub operations_max: u64,
    /// Points that were tried.
    pub points: u64,
    /// Those at which the power went: all of them, unless something is wrong.
    pub struck: u64,
    /// Crashes during a recovery from the first one.
    pub again: u64,
    /// Promises that were broken, and how to see it again.
    pub violations: Vec<String>,
    /// Real time.
    pub elapsed_ms: u128,
}

/// Tries every `every`-th point of a script, `jobs` at a time. None is begun once `stop` is set.
pub fn exhaust(script: &Script, every: u32, jobs: u32, stop: Option<&AtomicBool>) -> Outcome {
    let began = Instant::now();
    let (report, counts) = play(script, None, Options::default());
    let mut outcome = Outcome { script: script.name, operations_max: script.max, ..Outcome::default() };
    outcome.operations = counts.operations.values().sum();
    outcome.violations.extend(said(script, None, &report));
    let points = points(&counts.operations)
        .into_iter()
        .step_by(usize::try_from(every.max(1)).unwrap_or(usize::MAX))
        .collect::<Vec<_>>();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        for _ in 0..jobs.max(1) {
            let (tell, next, points) = (tell.clone(), &next, &points);
            scope.spawn(move || {
                while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                        return;
                    }
                    let (report, counts) = play(script, Some(*point), Options::default());
                    if tell.send((counts, said(script, Some(*point), &report))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        for (counts, said) in told {
            outcome.points += 1;
            outcome.struck += u64::from(counts.cuts > 0);
            outcome.again += counts.cuts.saturating_sub(1);
            outcome.violations.extend(said);
        }
    });
    outcome.violations.sort();
    outcome.elapsed_ms = began.elapsed().as_millis();
    outcome
}

/// All points: first those of one node, then those of all.
fn points(operations: &BTreeMap<NodeId, u64>) -> Vec<Point> {
    let of = |all| {
        operations.iter().flat_map(move |(node, count)| {
            (0..*count).map(move |operation| Point { node: *node, operation, all })
        })
    };
    of(false).chain(of(true)).collect()
}

fn said(script: &Script, point: Option<Point>, report: &Report) -> Vec<String> {
    let replay = replay(script, point);
    let say = |found: &crate::check::Violation| format!("{} {}; {replay}", found.promise, found.what);
    report.violations.iter().map(say).collect()
}

/// The command that shows it again.
fn replay(script: &Script, point: Option<Point>) -> String {
    let place = point.map_or_else(String::new, |point| {
        let all = if point.all { " --all-nodes" } else { "" };
        format!(" --node {} --operation {}{all}", point.node, point.operation)
    });
    format!("make sim ARGS=\"exhaust --scenario {}{place}\"", script.name)
}

/// How many operations each node's disk has in a script, at which the power can be cut.
pub fn operations(script: &Script) -> BTreeMap<NodeId, u64> {
    play(script, None, Options::default()).1.operations
}

/// Tries one point. What came of it, also for people.
pub fn at_point(script: &Script, point: Point, show: Show) -> (Outcome, String) {
    let began = Instant::now();
    let (report, counts) = play(script, Some(point), Options { show, ..Options::default() });
    let mut told = format!("the power was cut {} times; trace {:016x}\n", counts.cuts, report.trace_hash);
    if counts.cuts == 0 {
        told += "  it was to be cut at that operation, which did not come\n";
    }
    told += &if report.violations.is_empty() {
        "0 violations\n".to_owned()
    } else {
        let kept = Options { keep: Show::Story, ..Options::default() };
        explain_by(&report, &replay(script, Some(point)), || play(script, Some(point), kept).0)
    };
    let outcome = Outcome {
        script: script.name,
        operations: counts.operations.values().sum(),
        operations_max: script.max,
        points: 1,
        struck: u64::from(counts.cuts > 0),
        again: counts.cuts.saturating_sub(1),
        violations: said(script, Some(point), &report),
        elapsed_ms: began.elapsed().as_millis(),
    };
    (outcome, told)
}

/// What happened to disks in a run.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Operations of each node's disk under scrutiny.
    pub operations: BTreeMap<NodeId, u64>,
    /// How often the power was cut, and nodes started after it.
    pub cuts: u64,
}

/// Plays a script once, with the power cut at `point` if there is one.
pub fn play(script: &Script, point: Option<Point>, options: Options) -> (Report, Counts) {
    let mut counts = Counts::default();
    let options = Options { adjust: Some(script.adjust), ..options };
    let report = on_bare_stage(SEED, options, async |stage| {
        let mut director = Director { stage, point, begun: BTreeMap::new(), counts: Counts::default() };
        (script.act)(&mut director).await;
        director.settle().await;
        counts = director.counts;
    });
    (report, counts)
}

/// Lets a script happen, cuts the power where it was told to, and starts again what fell.
pub struct Director<'a> {
    stage: &'a mut Stage,
    point: Option<Point>,
    begun: BTreeMap<NodeId, u64>,
    counts: Counts,
}

impl Director<'_> {
    /// Starts the nodes and creates the topics.
    async fn open(&mut self) {
        self.stage.open().await;
    }

    /// Disk operations count from here on, until [`Director::seen`].
    fn scrutinize(&mut self) {
        for node in self.stage.cluster.nodes() {
            let disk = self.stage.cluster.disk(node);
            self.begun.insert(node, disk.operations());
            self.arm(node);
        }
    }

    /// Lets a node's power go where it is to go. What crashes forgets it.
    fn arm(&self, node: NodeId) {
        if let (Some(begun), Some(point)) = (self.begun.get(&node), self.point)
            && point.node == node
            && self.counts.cuts == 0
        {
            self.stage.cluster.disk(node).cut_power_at(begun + point.operation);
        }
    }

    /// Disk operations count no more.
    fn seen(&mut self) {
        for (node, begun) in &self.begun {
            let disk = self.stage.cluster.disk(*node);
            *self.counts.operations.entry(*node).or_default() += disk.operations() - begun;
        }
    }

    fn nodes(&self) -> Vec<NodeId> {
        self.stage.cluster.nodes()
    }

    fn cluster(&mut self) -> &mut Cluster {
        &mut self.stage.cluster
    }

    /// Clients work, and who falls meanwhile is started again.
    async fn whilst<T>(&mut self, work: impl AsyncFnOnce(&mut Workload) -> T) -> T {
        let Self { stage, point, counts, .. } = self;
        let Stage { cluster, workload, dice, .. } = &mut **stage;
        let mut work = pin!(work(workload));
        loop {
            tokio::select! {
                biased;
                fallen = cluster.fallen() => recover(cluster, dice, *point, counts, fallen).await,
                done = &mut work => return done,
            }
        }
    }

    /// Crashes nodes because the script says so, and starts them again.
    async fn restart(&mut self, nodes: &[NodeId], how: Crash) {
        for node in nodes {
            self.stage.cluster.crash(*node, how, &mut self.stage.dice).await;
        }
        self.rest(DARK).await;
        for node in nodes {
            self.arm(*node);
            self.stage.cluster.start(*node).await;
        }
    }

    /// Kills a node, which stays down.
    async fn kill(&mut self, node: NodeId) {
        self.stage.cluster.crash(node, Crash::Kill, &mut self.stage.dice).await;
    }

    /// Time passes.
    async fn rest(&mut self, time: Duration) {
        self.whilst(async |_| clock::sleep(time).await).await;
    }

    /// The script is over: nothing falls any more.
    async fn settle(&mut self) {
        self.rest(Duration::from_secs(1)).await;
        self.stage.cluster.network().mend_all();
        for node in self.nodes() {
            self.stage.cluster.spare_disk(node);
            self.stage.cluster.start(node).await;
        }
        self.rest(Duration::from_secs(1)).await;
    }
}

/// A node fell: its power went. Takes the others' as well if it should, and starts what has none.
async fn recover(
    cluster: &mut Cluster,
    dice: &mut Dice,
    point: Option<Point>,
    counts: &mut Counts,
    fallen: NodeId,
) {
    counts.cuts += 1;
    let first = counts.cuts == 1;
    let mut dark = vec![fallen];
    if point.is_some_and(|point| point.all) && first {
        for node in cluster.nodes().into_iter().filter(|node| *node != fallen) {
            if cluster.crash(node, Crash::PowerCut, dice).await {
                dark.push(node);
            }
        }
    }
    clock::sleep(DARK).await;
    for node in dark {
        cluster.start(node).await;
        let operation = point.map_or(0, |point| point.operation);
        if first && node == fallen && operation.is_multiple_of(AGAIN) {
            cluster.crash(node, Crash::PowerCutAtOperation(operation / AGAIN), dice).await;
        }
    }
}
