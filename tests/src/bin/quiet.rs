//! `make quiet`: what a thousand quiet partitions cost three real nodes.
//!
//! How long it takes to create them; what each node takes of a processor and of memory when nothing happens in them; and
//! how long it takes until all have a leader again, once the node that led most of them was killed with `kill -9`.
#![expect(clippy::print_stdout, reason = "a program that tells what it does")]

use std::fs;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::command::{binary, run};
use quorate_tests::{Cluster, wait};

const TOPIC: &str = "quiet";
/// From the last that happened until the measurement begins: groups fall quiet within it.
const CALM: Duration = Duration::from_secs(15);
/// What anything here may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// The goals: to create them; per cent of a core; resident memory; 99 % led again; all led again.
const CREATED: Duration = Duration::from_secs(5);
const CORE_PERCENT: f64 = 2.0;
const RESIDENT_MB: f64 = 300.0;
const MOST_LED: Duration = Duration::from_secs(2);
const ALL_LED: Duration = Duration::from_secs(5);

/// What is to be done.
struct Options {
    partitions: u32,
    seconds: u64,
    /// Whether a goal that is missed is a failure.
    strict: bool,
}

fn main() -> ExitCode {
    match quiet() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options> {
    let mut options = Options { partitions: 1_000, seconds: 30, strict: false };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        if flag == "--strict" {
            options.strict = true;
            continue;
        }
        let value = args.next().with_context(|| format!("{flag} needs a number"))?;
        match flag.as_str() {
            "--partitions" => options.partitions = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            _ => bail!("usage: quiet [--partitions N] [--seconds N] [--strict]"),
        }
    }
    Ok(options)
}

fn quiet() -> Result<()> {
    let options = options()?;
    println!("binary {}", binary().display());
    let mut table = Table::default();
    let mut cluster = Cluster::start(3);
    let count = usize::try_from(options.partitions).context("a number of partitions")?;

    let start = Instant::now();
    cluster.create(TOPIC, options.partitions, 3);
    wait::within("every partition to be led", PATIENCE, || (led(&cluster, None) == count).then_some(()));
    table.time(&format!("{count} partitions x 3 created and led"), start.elapsed(), CREATED);

    std::thread::sleep(CALM);
    let ids = cluster.ids();
    let before = ids.iter().map(|id| cpu(&cluster, *id)).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    std::thread::sleep(Duration::from_secs(options.seconds));
    let took = start.elapsed();
    for (id, before) in ids.iter().zip(before) {
        let percent = 100.0 * (cpu(&cluster, *id)? - before).as_secs_f64() / took.as_secs_f64();
        table.row(
            &format!("node {id}, idle: share of a core"),
            &format!("{percent:.2} %"),
            &format!("{CORE_PERCENT} %"),
            percent <= CORE_PERCENT,
        );
        let resident = resident_mb(&cluster, *id)?;
        table.row(
            &format!("node {id}, idle: resident memory"),
            &format!("{resident:.0} MB"),
            &format!("{RESIDENT_MB} MB"),
            resident <= RESIDENT_MB,
        );
    }

    let leaders = cluster.leaders_known(TOPIC);
    let leads = |id: u32| leaders.iter().filter(|leader| **leader == Some(id)).count();
    let victim = ids.iter().copied().max_by_key(|id| leads(*id)).context("there are nodes")?;
    println!("node {victim} led {} and is killed", leads(victim));
    let start = Instant::now();
    cluster.kill(victim);
    let most = count * 99 / 100;
    wait::within("most to be led", PATIENCE, || (led(&cluster, Some(victim)) >= most).then_some(()));
    table.time("99 % led again", start.elapsed(), MOST_LED);
    wait::within("all to be led", PATIENCE, || (led(&cluster, Some(victim)) == count).then_some(()));
    table.time("all led again", start.elapsed(), ALL_LED);

    table.print();
    ensure!(!options.strict || table.missed == 0, "{} goals were missed", table.missed);
    Ok(())
}

/// How many partitions have a leader that is not the dead one, as the first node that answers knows.
fn led(cluster: &Cluster, dead: Option<u32>) -> usize {
    let leaders = cluster.leaders_known(TOPIC);
    leaders.iter().filter(|leader| leader.is_some() && **leader != dead).count()
}

/// The time of a processor that a node has taken so far.
fn cpu(cluster: &Cluster, id: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", cluster.node(id).pid()))?;
    // Behind the name in parentheses, which may hold anything, the state is the third field of all.
    let (_, rest) = stat.rsplit_once(") ").context("a name in parentheses")?;
    let fields: Vec<&str> = rest.split(' ').collect();
    let ticks = |field: usize| -> Result<u64> { Ok(fields.get(field - 3).context("a field")?.parse()?) };
    let ticks = ticks(14)? + ticks(15)?;
    let a_second: u64 = run(Command::new("getconf").arg("CLK_TCK")).done().text().trim().parse()?;
    Ok(Duration::from_millis(ticks * 1_000 / a_second))
}

/// What a node holds in memory.
fn resident_mb(cluster: &Cluster, id: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.node(id).pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
    Ok(kilobytes / 1_000.0)
}

/// What was measured, beside what was to be reached.
#[derive(Default)]
struct Table {
    lines: Vec<String>,
    missed: u32,
}

impl Table {
    fn time(&mut self, what: &str, took: Duration, goal: Duration) {
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        self.row(what, &seconds(took), &seconds(goal), took <= goal);
    }

    fn row(&mut self, what: &str, measured: &str, goal: &str, reached: bool) {
        let mark = if reached { "" } else { "  MISSED" };
        self.missed += u32::from(!reached);
        self.lines.push(format!("{what:<44} {measured:>10}   goal {goal:>8}{mark}"));
    }

    fn print(&self) {
        println!();
        for line in &self.lines {
            println!("{line}");
        }
    }
}
