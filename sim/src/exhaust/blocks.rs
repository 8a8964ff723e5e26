//! The single-fault sweep: a short story of a cluster, played again and again. One node loses its power, one block of one
//! file on its disk is harmed in one way, and it comes back: what is lost with that must come back from the others, nobody
//! may be served anything wrong, and all oracles judge what follows. Each block that holds anything is harmed in each of
//! five ways, on each node in turn (Ganesan et al., "Redundancy Does Not Imply Fault Tolerance", FAST 2017).

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use quorate_node::env::FileName;
use quorate_proto::ids::{NodeId, PartitionId};
use serde::Serialize;

use super::scripts::tiny_volumes;
use super::{Counts, DARK, Director, SEED};
use crate::cluster::{Crash, Struck};
use crate::env::clock;
use crate::env::disk::{FileImage, SectorHarm, SimDisk};
use crate::explain::explain_by;
use crate::history::Target;
use crate::report::Report;
use crate::run::{Options, on_bare_stage};
use crate::trace::Show;

/// Of all cases every so many are tried, if nothing else is asked for. It has no factor in common with the number of ways.
pub const EVERY: u32 = 61;

/// How long a node may take to be whole again, all that it holds being read once.
const WHOLE: Duration = Duration::from_secs(60);
/// What is damaged is looked for in the background over hours: the node's clock leaps by this, again and again.
const LEAP: Duration = Duration::from_secs(900);
const PATIENCE: Duration = Duration::from_secs(30);

/// In which way a block is harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// One bit is another.
    BitFlip,
    /// It is all zeroes.
    Zero,
    /// It holds what it held earlier.
    StaleCopy,
    /// It is not given back.
    ReadError,
    /// It holds what was meant for another block of the file.
    MisdirectedWrite,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::BitFlip, Self::Zero, Self::StaleCopy, Self::ReadError, Self::MisdirectedWrite];
}

/// One block of one node's disk, and what is done to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Whose disk.
    pub node: NodeId,
    /// Which file.
    pub file: FileName,
    /// Which of its blocks of 512 bytes, from 0.
    pub block: usize,
    /// What is done.
    pub fault: Fault,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, file, block, fault } = self;
        write!(f, "{fault:?} in block {block} of {file} on node {node}")
    }
}

/// What came of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Came {
    /// The block held that already.
    Nothing,
    /// Nothing on the disk can show it, and so it was not done: a newest root of redb's, taken for a torn commit.
    Hidden,
    /// No entry and no fact was in it.
    Harmless,
    /// It was found, and is whole again.
    Mended,
    /// It was not whole again in time.
    Stayed,
}

/// What came of all cases that were tried.
#[derive(Debug, Default, Serialize)]
pub struct Sweep {
    /// Cases that there are.
    pub cases: u64,
    /// Those that were tried.
    pub tried: u64,
    /// See [`Came`]; so are the next.
    pub nothing: u64,
    /// Could not show.
    pub hidden: u64,
    /// Harmed nothing that counts.
    pub harmless: u64,
    /// Found and mended.
    pub mended: u64,
    /// Promises that were broken, and how to see it again.
    pub violations: Vec<String>,
    /// Real time.
    pub elapsed_ms: u128,
}

/// All cases, in order.
pub fn cases() -> Vec<Case> {
    let (_, played) = play(None, Options::default());
    let blocks = played.blocks.into_iter();
    blocks
        .flat_map(|(node, file, block)| {
            Fault::ALL.map(|fault| Case { node, file: file.clone(), block, fault })
        })
        .collect()
}

/// Tries every `every`-th case, `jobs` at a time. None is begun once `stop` is set.
pub fn sweep(every: u32, jobs: u32, stop: Option<&AtomicBool>) -> Sweep {
    let began = Instant::now();
    let all = cases();
    let chosen = (0_usize..).zip(&all).step_by(usize::try_from(every.max(1)).unwrap_or(usize::MAX));
    let chosen = chosen.collect::<Vec<_>>();
    let mut sweep = Sweep { cases: u64::try_from(all.len()).unwrap_or(u64::MAX), ..Sweep::default() };
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        for _ in 0..jobs.max(1) {
            let (tell, next, chosen) = (tell.clone(), &next, &chosen);
            scope.spawn(move || {
                while let Some((number, case)) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
                        return;
                    }
                    let (report, played) = play(Some(case), Options::default());
                    if tell.send((played.came, said(*number, case, &report))).is_err() {
                        return;
                    }
                }
            });
        }
        drop(tell);
        for (came, said) in told {
            sweep.tried += 1;
            match came {
                Came::Nothing => sweep.nothing += 1,
                Came::Hidden => sweep.hidden += 1,
                Came::Harmless => sweep.harmless += 1,
                Came::Mended => sweep.mended += 1,
                // It is among the violations.
                Came::Stayed => {}
            }
            sweep.violations.extend(said);
        }
    });
    sweep.violations.sort();
    sweep.elapsed_ms = began.elapsed().as_millis();
    sweep
}

/// Tries the case of that number; what came of it, for people, and whether a promise was broken. `None` if there is none.
pub fn one(number: usize, show: Show) -> Option<(String, bool)> {
    let case = cases().into_iter().nth(number)?;
    let (report, played) = play(Some(&case), Options { show, ..Options::default() });
    let mut told = format!("{case}: {:?}; trace {:016x}\n", played.came, report.trace_hash);
    told += &if report.violations.is_empty() {
        "0 violations\n".to_owned()
    } else {
        let kept = Options { keep: Show::Story, ..Options::default() };
        explain_by(&report, &replay(number), || play(Some(&case), kept).0)
    };
    Some((told, !report.violations.is_empty()))
}

fn said(number: usize, case: &Case, report: &Report) -> Vec<String> {
    let say = |found: &crate::check::Violation| {
        format!("{} {} ({case}); {}", found.promise, found.what, replay(number))
    };
    report.violations.iter().map(say).collect()
}

/// The command that shows it again.
fn replay(number: usize) -> String {
    format!("make sim ARGS=\"exhaust --single-fault --case {number}\"")
}

/// What was seen of a story.
struct Played {
    /// Each block that held something when the node went down: whose, of which file, its number.
    blocks: Vec<(NodeId, FileName, usize)>,
    came: Came,
}

fn play(case: Option<&Case>, options: Options) -> (Report, Played) {
    let mut played = Played { blocks: Vec::new(), came: Came::Nothing };
    // Volumes are small: some are sealed, some are not, and what is read comes from the disk.
    let options = Options { adjust: Some(tiny_volumes), ..options };
    let report = on_bare_stage(SEED, options, async |stage| {
        let mut on = Director { stage, point: None, begun: Default::default(), counts: Counts::default() };
        played = story(&mut on, case).await;
        on.settle().await;
    });
    (report, played)
}

fn place(partition: i32) -> Target {
    Target { topic: "orders".to_owned(), partition: PartitionId(partition) }
}

async fn story(on: &mut Director<'_>, case: Option<&Case>) -> Played {
    on.open().await;
    for round in 0..3 {
        on.whilst(async |clients| clients.send(&place(round % 2), 3, PATIENCE).await).await;
    }
    let nodes = on.nodes();
    let node = case.map_or(nodes[0], |case| case.node);
    let older = images(on.cluster().disk(node));
    for round in 0..3 {
        on.whilst(async |clients| clients.send(&place(round % 2), 3, PATIENCE).await).await;
    }
    on.rest(Duration::from_millis(500)).await;
    let mut blocks = Vec::new();
    for node in &nodes {
        let disk = on.cluster().disk(*node).clone();
        for file in files(&disk) {
            blocks.extend(disk.sectors_in_use(&file).into_iter().map(|block| (*node, file.clone(), block)));
        }
    }
    on.stage.cluster.crash(node, Crash::PowerCut, &mut on.stage.dice).await;
    let struck = case.map_or(Struck::Nothing, |case| strike(on, case, &older));
    on.rest(DARK).await;
    on.cluster().start(node).await;
    let came = match struck {
        Struck::Nothing => Came::Nothing,
        Struck::Hidden => Came::Hidden,
        Struck::Harmed => until_whole(on, node).await,
    };
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
    // What is on the disks now is all that is left of it.
    on.restart(&nodes, Crash::Kill).await;
    on.whilst(async |clients| clients.send(&place(1), 2, PATIENCE).await).await;
    Played { blocks, came }
}

fn files(disk: &SimDisk) -> Vec<FileName> {
    let mut files = disk.volumes();
    files.push(FileName::new("meta.redb"));
    files
}

fn images(disk: &SimDisk) -> Vec<(FileName, FileImage)> {
    files(disk).into_iter().filter_map(|name| Some((name.clone(), disk.image(&name)?))).collect()
}

fn strike(on: &mut Director<'_>, case: &Case, older: &[(FileName, FileImage)]) -> Struck {
    let Case { node, file, block, fault } = case;
    let harm = match fault {
        Fault::BitFlip => Some(SectorHarm::Flip { bit: block * 1_021 % 4_096 }),
        Fault::Zero => Some(SectorHarm::Zero),
        Fault::ReadError => Some(SectorHarm::Unreadable),
        Fault::StaleCopy => {
            let before = older.iter().find(|(name, _)| name == file);
            before.and_then(|(_, image)| image.sector(*block)).map(|held| SectorHarm::Older { held })
        }
        Fault::MisdirectedWrite => {
            let used = on.cluster().disk(*node).sectors_in_use(file);
            let next = used.iter().find(|number| *number > block).or(used.first()).copied();
            next.map(|from| SectorHarm::Misplaced { from })
        }
    };
    harm.map_or(Struck::Nothing, |harm| on.cluster().harm_sector(*node, file, *block, harm))
}

/// Waits until the node has read all that it holds, and nothing of it is missed.
async fn until_whole(on: &mut Director<'_>, node: NodeId) -> Came {
    let deadline = clock::now() + WHOLE;
    let mut missed = false;
    while clock::now() < deadline {
        if let Some((counts, forgot)) = on.cluster().damage_known(node) {
            let misses = counts.damaged_entries > 0 || counts.groups_behind > 0 || forgot;
            missed |= misses || counts.repaired_entries > 0;
            if !misses && counts.scrubs > 0 {
                return if missed { Came::Mended } else { Came::Harmless };
            }
            if counts.scrubs == 0 {
                on.cluster().clock(node).leap(LEAP);
            }
        }
        on.rest(Duration::from_millis(100)).await;
    }
    let known = on.cluster().damage_known(node);
    let what = format!(
        "what a disk has damaged comes back from the others: that of node {node} is not whole after {WHOLE:?}: {known:?}"
    );
    on.stage.history.complain("O-21", what);
    Came::Stayed
}
