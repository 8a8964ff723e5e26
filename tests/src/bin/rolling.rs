//! `make rolling`: three real nodes are stopped and started one after the other under load.
//!
//! Lines of 100 bytes go to six partitions at a fixed rate. Each node in turn is asked to stop (SIGTERM), starts again,
//! and gets the leadership back that it had. For both moves the longest silence of any one partition is told: no
//! acknowledgement came although a line waited for one. At the end every acknowledged line must be there exactly once,
//! each partition in order.
#![expect(clippy::print_stdout, reason = "a program that tells what it does")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::cluster::signal;
use quorate_tests::command::binary;
use quorate_tests::numbered::{Numbered, Plan};
use quorate_tests::{Cluster, Shape, wait};

const TOPIC: &str = "rolling";
const PARTITIONS: u32 = 6;
const LINE_BYTES: usize = 100;
/// What a line may take: long enough for anything that heals.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Leaders go back sooner than by default, so that the whole takes a minute.
const CONFIG: &str = "[partition]\nbalance_ms = 1000\nbalance_delay_ms = 3000\n";

/// What is to be done.
struct Options {
    rounds: u32,
    rate: u64,
    /// The longest silence that is good, in ms.
    goal_ms: Option<u128>,
}

fn main() -> ExitCode {
    match rolling() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options> {
    let mut options = Options { rounds: 1, rate: 10_000, goal_ms: None };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a number"))?;
        match flag.as_str() {
            "--rounds" => options.rounds = value.parse()?,
            "--rate" => options.rate = value.parse()?,
            "--goal" => options.goal_ms = Some(value.parse()?),
            _ => bail!("usage: rolling [--rounds N] [--rate N] [--goal MS]"),
        }
    }
    Ok(options)
}

fn rolling() -> Result<()> {
    let options = options()?;
    println!("binary {}", binary().display());
    let folder = tempfile::Builder::new().prefix("quorate-rolling-").tempdir()?;
    let config = folder.path().join("node.toml");
    fs::write(&config, CONFIG)?;
    let shape = Shape::of(3).flag("--config").flag(config.to_str().context("a path is text")?);
    let mut cluster = Cluster::start_as(&shape);
    cluster.create(TOPIC, PARTITIONS, 3);
    let plan =
        Plan { topic: TOPIC.to_owned(), partitions: PARTITIONS.into(), rate: options.rate, timeout: TIMEOUT };
    let numbered = Numbered::start_with(&cluster.servers(), &plan, LINE_BYTES);
    work(&numbered, options.rate);
    println!("{} lines/s of {LINE_BYTES} B to {PARTITIONS} partitions x 3\n", options.rate);
    println!("node  led  to stop, s  silence at the stop, ms  led again after, s  silence then, ms");

    let mut longest = Duration::ZERO;
    for _ in 0..options.rounds {
        for id in cluster.ids() {
            let row = restart(&mut cluster, &numbered, id, options.rate);
            println!(
                "{id:>4} {:>4} {:>11.1}  {:>23}  {:>18.1}  {:>16}",
                row.led,
                row.stopping.as_secs_f64(),
                row.at_the_stop.as_millis(),
                row.back.as_secs_f64(),
                row.at_the_return.as_millis()
            );
            longest = longest.max(row.at_the_stop).max(row.at_the_return);
        }
    }

    let sent = numbered.stop();
    let verdict = sent.judge_lines(PARTITIONS.into(), read(&cluster)?);
    println!("\n{} lines sent, {} acknowledged: {verdict}", sent.lines(), sent.acked);
    if let Some(error) = &sent.first_error {
        println!("the first that was not acknowledged: {error}");
    }
    ensure!(verdict.is_good(), "{verdict}");
    ensure!(sent.acked == sent.lines(), "a line was given up although no node failed");
    println!("longest silence: {} ms", longest.as_millis());
    if let Some(goal) = options.goal_ms {
        ensure!(longest.as_millis() <= goal, "more than {goal} ms");
    }
    Ok(())
}

/// What came of one restart.
struct Row {
    /// Partitions that the node led.
    led: usize,
    stopping: Duration,
    at_the_stop: Duration,
    /// From the stop until it led as many again.
    back: Duration,
    at_the_return: Duration,
}

fn restart(cluster: &mut Cluster, numbered: &Numbered, id: u32, rate: u64) -> Row {
    let wanted = usize::try_from(PARTITIONS / 3).expect("a small number fits");
    wait::until("leadership to be spread evenly", || (led(cluster, id) == wanted).then_some(()));
    work(numbered, rate);
    numbered.take_gap_of_one();
    let start = Instant::now();
    signal(cluster.node(id).pid(), "TERM");
    let status = cluster.wait_end(id);
    assert_eq!(status.code(), Some(0), "a node that is asked to end does so in peace");
    let stopping = start.elapsed();
    work(numbered, rate);
    let at_the_stop = numbered.take_gap_of_one();
    cluster.launch(id);
    cluster.wait_ready(id);
    wait::until("the node to lead again", || (led(cluster, id) == wanted).then_some(()));
    let back = start.elapsed();
    work(numbered, rate);
    Row { led: wanted, stopping, at_the_stop, back, at_the_return: numbered.take_gap_of_one() }
}

/// How many partitions a node leads.
fn led(cluster: &Cluster, id: u32) -> usize {
    cluster.leaders_known(TOPIC).iter().filter(|leader| **leader == Some(id)).count()
}

/// Waits until a second's lines more than by now are acknowledged.
fn work(numbered: &Numbered, rate: u64) {
    let wanted = numbered.acked() + rate;
    wait::until("lines to be acknowledged", || (numbered.acked() >= wanted).then_some(()));
}

/// The numbers of all lines in the topic.
fn read(cluster: &Cluster) -> Result<Vec<u64>> {
    let mut command = cluster.quorate(["consume", TOPIC, "--from", "beginning", "--until-end"]);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let output = child.stdout.take().context("its standard output is a pipe")?;
    let mut lines: Vec<u64> = Vec::new();
    for line in BufReader::with_capacity(1 << 20, output).lines() {
        lines.push(line?.parse()?);
    }
    let status = child.wait()?;
    ensure!(status.success(), "quorate consume ended with {status}");
    Ok(lines)
}
