//! `make restart`: how soon a node with much on its disk is of use again after `kill -9`.
//!
//! So many bytes are written to three nodes. Then two of them are killed, and one is started again: from that moment
//! it is measured how long it takes to say that it is ready, and until a record is acknowledged, for which it must have
//! committed as a follower, since the third node is gone.
#![expect(clippy::print_stdout, reason = "a program that tells what it does")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::command::binary;
use quorate_tests::content::disk_used;
use quorate_tests::load::{Load, Plan};
use quorate_tests::numbered::{Numbered, Plan as Lines};
use quorate_tests::{Cluster, wait};

const TOPIC: &str = "much";
const PARTITIONS: u32 = 4;
/// Whose one partition the survivor leads.
const PROBE: &str = "probe";
const RECORD_BYTES: u64 = 10_000;
/// The goal.
const READY_MAX: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(3_600);

/// What is to be done.
struct Options {
    /// How much each node is to hold.
    bytes: u64,
    /// How often a node is killed.
    rounds: u32,
}

fn main() -> ExitCode {
    match restart() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options> {
    let mut options = Options { bytes: 10_000_000_000, rounds: 5 };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a number"))?;
        match flag.as_str() {
            "--bytes" => options.bytes = value.parse()?,
            "--rounds" => options.rounds = value.parse()?,
            _ => bail!("usage: restart [--bytes N] [--rounds N]"),
        }
    }
    ensure!(options.rounds > 0, "--rounds must be at least 1");
    Ok(options)
}

fn restart() -> Result<()> {
    let options = options()?;
    println!("binary {}", binary().display());
    let mut cluster = Cluster::start(3);
    cluster.create(TOPIC, PARTITIONS, 3);
    cluster.create(PROBE, 1, 3);
    fill(&cluster, options.bytes);
    let mut worst = Duration::ZERO;
    for round in 1..=options.rounds {
        worst = worst.max(measure(&mut cluster, round)?);
    }
    println!("\nslowest: {} ms", worst.as_millis());
    ensure!(worst <= READY_MAX, "a node was of use again only after {} ms", worst.as_millis());
    println!("GOOD: a node with so much on its disk commits as a follower within {READY_MAX:?}.");
    Ok(())
}

/// Writes until each node holds as much.
fn fill(cluster: &Cluster, bytes: u64) {
    let (start, records) = (Instant::now(), bytes / RECORD_BYTES);
    let record_bytes = usize::try_from(RECORD_BYTES).expect("ten thousand");
    let plan = Plan { topic: TOPIC.to_owned(), partitions: PARTITIONS, record_bytes, rate: None };
    let load = Load::start(&cluster.servers(), &plan);
    wait::within("so many records", PATIENCE, || (load.acked() >= records).then_some(()));
    let acked = load.stop();
    println!(
        "{acked} records of {RECORD_BYTES} bytes in {:.0} s; node 1 takes {} MB of its disk",
        start.elapsed().as_secs_f64(),
        disk_used(&cluster.node(1).data) / 1_000_000
    );
}

/// Kills all but who leads the probe, starts one again, and gives the time until it has committed something.
fn measure(cluster: &mut Cluster, round: u32) -> Result<Duration> {
    let survivor = cluster.leader(PROBE, 0);
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != survivor).collect();
    let chosen = usize::try_from(round).expect("a few rounds") % others.len();
    let (node, gone) = (others[chosen], others[1 - chosen]);
    let lines =
        Lines { topic: PROBE.to_owned(), partitions: 1, rate: 200, timeout: Duration::from_secs(120) };
    let numbered = Numbered::start(&cluster.servers(), &lines);
    wait::until("the first acknowledgement", || (numbered.acked() > 100).then_some(()));
    cluster.kill_all(&others);
    // What was on its way arrives, and then nothing can be.
    std::thread::sleep(Duration::from_secs(3));
    let before = numbered.acked();
    let started = Instant::now();
    cluster.launch(node);
    let mut ready = None;
    let committed = wait::within("a record to be committed by the node that came back", PATIENCE, || {
        if ready.is_none() && cluster.node(node).get("/readyz").is_ok_and(|answer| answer.status == 200) {
            ready = Some(started.elapsed());
        }
        (numbered.acked() > before).then(|| started.elapsed())
    });
    cluster.wait_ready(node);
    let ready = ready.unwrap_or_else(|| started.elapsed());
    println!(
        "round {round}: node {node} was killed, and after its start ready in {} ms, and had committed in {} ms",
        ready.as_millis(),
        committed.as_millis()
    );
    cluster.launch(gone);
    cluster.wait_all_ready();
    let sent = numbered.stop();
    ensure!(sent.acked == sent.lines(), "{} of {} lines were acknowledged", sent.acked, sent.lines());
    Ok(committed)
}
