//! `make replace`: a node's disk is gone, and it is replaced under load.
//!
//! So many bytes are written to three nodes. Then records come at a fixed rate, one node is killed and its folder
//! emptied; it is started again under its old id and replaced by one command. It is measured how long that takes, and
//! how long acknowledgements take meanwhile, against before. Another node is killed at the end: every record is there.
#![expect(clippy::print_stdout, reason = "a program that tells what it does")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::command::{Running, binary};
use quorate_tests::content::{Reader, disk_used};
use quorate_tests::load::{Load, Plan, per_mille};
use quorate_tests::{Cluster, wait};

const TOPIC: &str = "moved";
const PARTITIONS: u32 = 4;
const FILL_BYTES: usize = 10_000;
const RECORD_BYTES: usize = 100;
/// The node that is replaced.
const REPLACED: u32 = 3;
/// How long acknowledgements are timed before.
const BEFORE: Duration = Duration::from_secs(30);
/// The goals.
const WHOLE_MAX: Duration = Duration::from_secs(120);
const SLOWER_MAX: f64 = 2.0;
const PATIENCE: Duration = Duration::from_secs(3_600);

/// What is to be done.
struct Options {
    /// How much there is to fetch.
    bytes: u64,
    /// Records a second meanwhile.
    rate: u64,
}

fn main() -> ExitCode {
    match replace() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options> {
    let mut options = Options { bytes: 5_000_000_000, rate: 1_000 };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a number"))?;
        match flag.as_str() {
            "--bytes" => options.bytes = value.parse()?,
            "--rate" => options.rate = value.parse()?,
            _ => bail!("usage: replace [--bytes N] [--rate N]"),
        }
    }
    ensure!(options.rate > 0, "--rate must be at least 1");
    Ok(options)
}

fn replace() -> Result<()> {
    let options = options()?;
    println!("binary {}", binary().display());
    let mut cluster = Cluster::start(3);
    cluster.create(TOPIC, PARTITIONS, 3);
    let filled = fill(&cluster, options.bytes);
    let plan = Plan {
        topic: TOPIC.to_owned(),
        partitions: PARTITIONS,
        record_bytes: RECORD_BYTES,
        rate: Some(options.rate),
    };
    let load = Load::start(&cluster.servers(), &plan);
    wait::until("the first acknowledgement", || (load.acked() > 0).then_some(()));
    // What a first connection costs is not what is asked here.
    std::thread::sleep(Duration::from_secs(2));
    load.take_latencies();
    std::thread::sleep(BEFORE);
    let before = Times::of(&load.take_latencies());
    println!("before       {before}");

    cluster.kill(REPLACED);
    let data = cluster.node(REPLACED).data.clone();
    std::fs::remove_dir_all(&data).with_context(|| format!("cannot empty {}", data.display()))?;
    // Whom it led is led by others by then: that is a failover, and no replacement.
    std::thread::sleep(Duration::from_secs(5));
    load.take_latencies();
    let started = Instant::now();
    cluster.launch(REPLACED);
    wait::until("the node to be refused with its empty folder", || {
        let answer = cluster.node(REPLACED).get("/readyz").ok()?;
        (answer.status == 503 && answer.body.contains("identity")).then_some(())
    });
    wait::until("the node to be missed", || is_missed(&cluster, REPLACED).then_some(()));
    let command = ["cluster", "replace-node", &REPLACED.to_string()];
    let said = Running::start(&mut cluster.quorate(command)).end_within(PATIENCE).done();
    let whole = started.elapsed();
    let during = Times::of(&load.take_latencies());
    println!(
        "replaced     in {:.1} s: {}",
        whole.as_secs_f64(),
        said.text().lines().last().unwrap_or_default()
    );
    println!("meanwhile    {during}");
    cluster.wait_ready(REPLACED);
    println!("node {REPLACED} takes {} MB of its disk", disk_used(&data) / 1_000_000);

    let (failed, why) = load.failed();
    ensure!(failed == 0, "{failed} records were given up, the first because: {}", why.unwrap_or_default());
    let sent = filled + load.stop();
    // The new copy must count now.
    cluster.kill(1);
    let reader = Reader::new(&cluster.servers());
    let readable = wait::within("all partitions to have leaders", PATIENCE, || reader.readable(TOPIC).ok());
    let there = readable.iter().map(|readable| readable.end - readable.start).sum::<u64>();
    ensure!(there >= sent, "{sent} records were acknowledged, and {there} are there without node 1");
    println!("without node 1 all {sent} records are there");
    ensure!(whole <= WHOLE_MAX, "the node was whole only after {:.0} s", whole.as_secs_f64());
    let slower = during.slow.as_secs_f64() / before.slow.as_secs_f64().max(f64::EPSILON);
    println!("p99 was {slower:.2} times what it was before");
    ensure!(slower <= SLOWER_MAX, "the others were slowed too much");
    println!("\nGOOD: the node is whole, the others were not slowed too much, and nothing is lost.");
    Ok(())
}

/// Whether a node counts as dead: no other is replaced.
fn is_missed(cluster: &Cluster, id: u32) -> bool {
    let status = cluster.run(["cluster", "status", "--json"]).done().json();
    let nodes = status["nodes"].as_array().into_iter().flatten();
    let mut found = nodes.filter(|node| node["id"] == id);
    found.any(|node| node["alive"] == false)
}

/// How long acknowledgements took.
struct Times {
    count: usize,
    median: Duration,
    /// 99 of 100 took no longer.
    slow: Duration,
    longest: Duration,
}

impl Times {
    fn of(ascending: &[Duration]) -> Self {
        Self {
            count: ascending.len(),
            median: per_mille(ascending, 500),
            slow: per_mille(ascending, 990),
            longest: ascending.last().copied().unwrap_or_default(),
        }
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1_000.0;
        write!(
            f,
            "{} acknowledgements: median {:.1} ms, p99 {:.1} ms, longest {:.1} ms",
            self.count,
            ms(self.median),
            ms(self.slow),
            ms(self.longest)
        )
    }
}

/// Writes until each node holds as much; gives how many records that were.
fn fill(cluster: &Cluster, bytes: u64) -> u64 {
    let (start, records) = (Instant::now(), bytes / FILL_BYTES as u64);
    let plan = Plan { topic: TOPIC.to_owned(), partitions: PARTITIONS, record_bytes: FILL_BYTES, rate: None };
    let load = Load::start(&cluster.servers(), &plan);
    wait::within("so many records", PATIENCE, || (load.acked() >= records).then_some(()));
    let acked = load.stop();
    println!("{acked} records of {FILL_BYTES} bytes in {:.0} s", start.elapsed().as_secs_f64());
    acked
}
