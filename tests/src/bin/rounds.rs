//! `make rounds`: rounds of kills on real processes.
//!
//! In each round numbered lines go to four partitions at a fixed rate, while about every 1.5 s a random node is killed
//! with `kill -9` and started again a second later. In the last round all nodes are killed at the same instant, three
//! times. After each round every acknowledged line must be there exactly once, each partition in order.
#![expect(clippy::print_stdout, reason = "a program that tells what it does")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quorate_proto::env::{Env, os};
use quorate_tests::command::binary;
use quorate_tests::numbered::{Numbered, Plan, Sent};
use quorate_tests::{Cluster, wait};

const TOPIC: &str = "numbers";
const PARTITIONS: u32 = 4;
/// From kill to kill.
const PERIOD: Duration = Duration::from_millis(1_500);
/// From a kill to the new start.
const DEAD: Duration = Duration::from_secs(1);
/// Kills of a leader with lines in flight, over all rounds.
const LEADERS_MIN: u32 = 10;
/// Kills of all nodes at once.
const MOMENTS: u32 = 3;
/// What a line may take: long enough for anything that heals.
const TIMEOUT: Duration = Duration::from_secs(120);

/// What is to be done.
struct Options {
    rounds: u32,
    seconds: u64,
    rate: u64,
}

fn main() -> ExitCode {
    match rounds() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options> {
    let mut options = Options { rounds: 10, seconds: 42, rate: 2_000 };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a number"))?;
        match flag.as_str() {
            "--rounds" => options.rounds = value.parse()?,
            "--seconds" => options.seconds = value.parse()?,
            "--rate" => options.rate = value.parse()?,
            _ => bail!("usage: rounds [--rounds N] [--seconds N] [--rate N]"),
        }
    }
    Ok(options)
}

fn rounds() -> Result<()> {
    let options = options()?;
    println!("binary {}", binary().display());
    let mut all = Kills::default();
    for number in 1..=options.rounds {
        println!("\nround {number}: {} lines/s for {} s", options.rate, options.seconds);
        round(&options, &mut all).with_context(|| format!("round {number}"))?;
    }
    println!("\nall three nodes at the same instant, {MOMENTS} times");
    all_at_once(&options)?;
    if options.rounds > 0 {
        all.gaps.sort_unstable();
        let median = all.gaps.get(all.gaps.len() / 2).copied().unwrap_or_default();
        let worst = all.gaps.last().copied().unwrap_or_default();
        println!(
            "\n{} kills, {} of a leader with lines in flight; longest silence after these: median {} ms, worst {} ms",
            all.count,
            all.of_leaders,
            median.as_millis(),
            worst.as_millis()
        );
        let needed = LEADERS_MIN.min(options.rounds);
        ensure!(
            all.of_leaders >= needed,
            "too few kills hit a leader with lines in flight: {}",
            all.of_leaders
        );
    }
    println!("\nGOOD: every acknowledged line is there exactly once, each partition in order.");
    Ok(())
}

/// Kills of all rounds.
#[derive(Default)]
struct Kills {
    count: u32,
    /// Of a node that led a partition with lines in flight.
    of_leaders: u32,
    /// The silence after each of these.
    gaps: Vec<Duration>,
}

fn begin(options: &Options) -> (Cluster, Numbered) {
    let cluster = Cluster::start(3);
    cluster.create(TOPIC, PARTITIONS, 3);
    let plan =
        Plan { topic: TOPIC.to_owned(), partitions: PARTITIONS.into(), rate: options.rate, timeout: TIMEOUT };
    let numbered = Numbered::start(&cluster.servers(), &plan);
    wait::until("the first acknowledgement", || (numbered.acked() > 0).then_some(()));
    (cluster, numbered)
}

fn round(options: &Options, all: &mut Kills) -> Result<()> {
    let env = os();
    let (mut cluster, numbered) = begin(options);
    let start = Instant::now();
    let end = start + Duration::from_secs(options.seconds);
    let mut next = start + PERIOD;
    while next + PERIOD < end {
        pause_until(next);
        next += PERIOD;
        kill_one(&mut cluster, &numbered, &env, start, all);
    }
    pause_until(end);
    finish(&cluster_ready(cluster), numbered)
}

/// Kills a random node, and starts it again.
fn kill_one(cluster: &mut Cluster, numbered: &Numbered, env: &Env, start: Instant, all: &mut Kills) {
    let ids = cluster.ids();
    let at = env.random_below(u64::try_from(ids.len()).expect("a length fits"));
    let victim = ids[usize::try_from(at).expect("below the length")];
    let leaders = cluster.leaders_known(TOPIC);
    numbered.take_gap();
    let in_flight = numbered.in_flight_at(victim, &leaders);
    let (sent, before) = (numbered.sent(), numbered.acked());
    let killed = Instant::now();
    cluster.kill(victim);
    pause_until(killed + DEAD);
    let (after, gap) = (numbered.acked(), numbered.take_gap());
    cluster.launch(victim);
    let leads: Vec<_> = (0..)
        .zip(&leaders)
        .filter(|(_, leader)| **leader == Some(victim))
        .map(|(at, _): (u32, _)| at)
        .collect();
    println!(
        "  {:5.1} s  node {victim}, leading {leads:?} with {in_flight} in flight; {sent} sent; acknowledged {before} \
         before, {after} a second after; silence {} ms",
        killed.duration_since(start).as_secs_f64(),
        gap.as_millis()
    );
    all.count += 1;
    if in_flight > 0 {
        all.of_leaders += 1;
        all.gaps.push(gap);
    }
}

fn all_at_once(options: &Options) -> Result<()> {
    let (mut cluster, numbered) = begin(options);
    let ids = cluster.ids();
    for moment in 1..=MOMENTS {
        let wanted = numbered.acked() + options.rate * 3 / 2 + u64::from(moment) * options.rate / 7;
        wait::until("lines to be acknowledged", || (numbered.acked() >= wanted).then_some(()));
        numbered.take_gap();
        let leaders = cluster.leaders_known(TOPIC);
        let in_flight: u64 = ids.iter().map(|id| numbered.in_flight_at(*id, &leaders)).sum();
        let before = numbered.acked();
        cluster.kill_all(&ids);
        let sent = numbered.sent();
        for id in &ids {
            cluster.launch(*id);
        }
        let after = wait::until("every line of then to be acknowledged", || {
            Some(numbered.acked()).filter(|now| *now >= sent)
        });
        println!(
            "  moment {moment}: {in_flight} in flight, {sent} sent; acknowledged {before} before, {after} when all of \
             these were; silence {} ms",
            numbered.take_gap().as_millis()
        );
    }
    finish(&cluster_ready(cluster), numbered)
}

fn cluster_ready(mut cluster: Cluster) -> Cluster {
    cluster.wait_all_ready();
    cluster
}

/// Stops sending, reads everything back and judges.
fn finish(cluster: &Cluster, numbered: Numbered) -> Result<()> {
    let sent: Sent = numbered.stop();
    let records = cluster.read_all(TOPIC);
    let verdict = sent.judge(&records);
    println!("  {} lines sent, {} acknowledged, {} read: {verdict}", sent.lines(), sent.acked, records.len());
    if let Some(error) = &sent.first_error {
        println!("  the first that was not acknowledged: {error}");
    }
    ensure!(verdict.is_good(), "{verdict}");
    ensure!(sent.acked == sent.lines(), "a line was given up although the cluster healed");
    Ok(())
}

/// The schedule of kills is by the clock: nothing is waited for.
fn pause_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}
