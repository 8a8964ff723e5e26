//! `make retention`: what a disk holds under full load, while retention takes away what is too much.
//!
//! Four partitions keep 50 MB each, and as much is written to them as they take, for ten minutes. Each second it is
//! looked at what each node's folder takes: never more than twice its live data, which is what can be read, and two
//! volumes. One node is killed on the way and stays away for three minutes, longer than the log; it comes back, and
//! holds what the others hold. A batch from before all that is sent again to it once it leads, and it is recognised.
#![expect(clippy::print_stdout, reason = "a program that tells what it does")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quorate_proto::ids::ProducerId;
use quorate_tests::command::binary;
use quorate_tests::content::{Content, Readable, Reader, disk_used};
use quorate_tests::load::{Load, Plan};
use quorate_tests::wire::{Wire, batch};
use quorate_tests::{Cluster, wait};

const TOPIC: &str = "kept";
const PARTITIONS: u32 = 4;
/// `storage.volume_bytes_max` as it is by default.
const VOLUME_BYTES: u64 = 256 << 20;
/// What a record takes beside its value, in its batch and in the log.
const RECORD_OVERHEAD: u64 = 14;
/// Seconds between two lines of the table.
const SHOWN: u64 = 10;
/// Who leads is changed by killing the leader, at most so often.
const KILLS_MAX: u32 = 20;
/// How long what has no answer may settle, and a node that came back may need.
const PATIENCE: Duration = Duration::from_secs(300);

/// What is to be done.
struct Options {
    /// How long, in seconds.
    seconds: u64,
    /// How long a node is away, in seconds.
    away: u64,
    /// `retention.bytes`.
    bytes: u64,
    /// Bytes of a value.
    record: u64,
}

fn main() -> ExitCode {
    match retention() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options> {
    let mut options = Options { seconds: 600, away: 180, bytes: 50_000_000, record: 1_000 };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().with_context(|| format!("{flag} needs a number"))?;
        match flag.as_str() {
            "--seconds" => options.seconds = value.parse()?,
            "--away" => options.away = value.parse()?,
            "--bytes" => options.bytes = value.parse()?,
            "--record" => options.record = value.parse()?,
            _ => bail!("usage: retention [--seconds N] [--away N] [--bytes N] [--record N]"),
        }
    }
    ensure!(options.away + 20 <= options.seconds, "--away must be at least 20 s less than --seconds");
    Ok(options)
}

fn retention() -> Result<()> {
    let options = options()?;
    println!("binary {}", binary().display());
    let mut cluster = Cluster::start(3);
    let keeps = format!("retention.bytes={}", options.bytes);
    let partitions = PARTITIONS.to_string();
    let create = ["topic", "create", TOPIC, "--partitions", &partitions, "--replicas", "3"];
    let configs = ["--config", &keeps, "--config", "retention.ms=-1"];
    drop(cluster.run(create.into_iter().chain(configs)).done());
    let leader = cluster.leader(TOPIC, 0);
    // Whoever is away does not lead the first partition: it must be able to recognise what another one took.
    let away = cluster.ids().into_iter().find(|id| *id != leader).context("there are three nodes")?;
    let early = Early::write(&cluster, leader)?;
    println!("node {leader} took a batch at offset {} of partition 0, before all others", early.base);

    let plan = Plan {
        topic: TOPIC.to_owned(),
        partitions: PARTITIONS,
        record_bytes: usize::try_from(options.record)?,
        rate: None,
    };
    let load = Load::start(&cluster.servers(), &plan);
    let worst = run(&options, &mut cluster, &load, away)?;
    let acked = load.stop();
    println!("{acked} records were acknowledged, {} MB", acked * options.record / 1_000_000);
    println!("at worst a node took {:.2} of what it may take, {}", worst.part, worst.told);

    cluster.wait_all_ready();
    let before = read_at_rest(&cluster)?;
    for (partition, content) in (0_usize..).zip(&before) {
        let readable = content.readable;
        ensure!(
            readable.start > 0 && content.records == readable.end - readable.start,
            "partition {partition} can be read from {} to {}, and {} records came",
            readable.start,
            readable.end,
            content.records
        );
        lead(&mut cluster, partition, away)?;
    }
    let after = read_at_rest(&cluster)?;
    ensure!(
        before == after,
        "node {away} was away, and leads: it holds {after:?}, the others held {before:?}"
    );
    println!("node {away} came back, leads all partitions, and holds what the others held");
    // It may have lost one of them again while it took the last.
    lead(&mut cluster, 0, away)?;
    early.write_again(&cluster, away)?;
    println!("node {away} recognised the batch of before, and gave its offset {}", early.base);
    ensure!(worst.part <= 1.0, "too much was on a disk: {}", worst.told);
    println!("\nGOOD: never more than twice the live data and two volumes, and nothing was forgotten.");
    Ok(())
}

/// A batch by hand, of a producer of its own.
struct Early {
    topic: Vec<u8>,
    producer: ProducerId,
    base: i64,
}

impl Early {
    const VALUES: [&str; 2] = ["from before", "and this"];

    fn write(cluster: &Cluster, leader: u32) -> Result<Self> {
        let wire = Wire::new(&cluster.node(leader).grpc);
        let topic = wire.topic(TOPIC).id.to_vec();
        let producer = wire.init_producer();
        let answer = wire.produce(&topic, 0, batch(producer, 0, &Self::VALUES));
        ensure!(answer.error == 0, "the first batch is refused: {answer:?}");
        Ok(Self { topic, producer, base: answer.base_offset })
    }

    /// Sends it a second time, to another node.
    fn write_again(&self, cluster: &Cluster, leader: u32) -> Result<()> {
        let end = readable(cluster)?[0].end;
        let wire = Wire::new(&cluster.node(leader).grpc);
        let answer = wire.produce(&self.topic, 0, batch(self.producer, 0, &Self::VALUES));
        ensure!(
            (answer.error, answer.base_offset) == (0, self.base),
            "the batch of before is not recognised: {answer:?}, it stands at {}",
            self.base
        );
        let now = readable(cluster)?[0].end;
        ensure!(
            now == end,
            "the batch of before was written again: the log ended at {end}, and ends at {now}"
        );
        Ok(())
    }
}

/// How much a disk held, against what it may hold.
#[derive(Default)]
struct Worst {
    part: f64,
    told: String,
}

/// Looks each second, and takes one node away for a while.
fn run(options: &Options, cluster: &mut Cluster, load: &Load, away: u32) -> Result<Worst> {
    let ids = cluster.ids();
    let names: String = ids.iter().map(|id| format!("{:>10}", format!("node {id}"))).collect();
    println!("\n   time   acked/s  live MB{names}    bound MB     (each {SHOWN} s, all in MB)");
    let (start, leaves) = (Instant::now(), options.seconds / 4);
    let reader = Reader::new(&cluster.servers());
    let mut worst = Worst::default();
    let mut last = (0, Vec::new());
    for second in 1..=options.seconds {
        pause_until(start + Duration::from_secs(second));
        if second == leaves {
            cluster.kill(away);
            println!("{second:5} s   node {away} is killed");
        }
        if second == leaves + options.away {
            cluster.launch(away);
            println!("{second:5} s   node {away} is started again");
        }
        // While a partition has no leader it holds what it held.
        let now = reader.readable(TOPIC).unwrap_or_else(|_| last.1.clone());
        let records = now.iter().map(|readable| readable.end.saturating_sub(readable.start)).sum::<u64>();
        let live = records * (options.record + RECORD_OVERHEAD);
        let bound = 2 * live + 2 * VOLUME_BYTES;
        let used: Vec<_> = ids.iter().map(|id| disk_used(&cluster.node(*id).data)).collect();
        for (id, used) in ids.iter().zip(&used) {
            // Who is away cannot take anything away.
            let is_away = *id == away && (leaves..leaves + options.away).contains(&second);
            let part = *used as f64 / bound as f64;
            if part > worst.part && !is_away {
                let told = format!("node {id} with {} MB after {second} s, {} MB live", mb(*used), mb(live));
                worst = Worst { part, told };
            }
        }
        if second % SHOWN == 0 {
            let acked = load.acked();
            let columns: String = used.iter().map(|used| format!("{:>10}", mb(*used))).collect();
            println!(
                "{second:5} s {:9} {:8}{columns}  {:>10}",
                (acked - last.0) / SHOWN,
                mb(live),
                mb(bound)
            );
            last.0 = acked;
        }
        last.1 = now;
    }
    let (failed, why) = load.failed();
    ensure!(failed == 0, "{failed} records were given up, the first because: {}", why.unwrap_or_default());
    Ok(worst)
}

fn readable(cluster: &Cluster) -> Result<Vec<Readable>> {
    Reader::new(&cluster.servers()).readable(TOPIC)
}

/// Reads all partitions, once retention has nothing more to do.
fn read_at_rest(cluster: &Cluster) -> Result<Vec<Content>> {
    let reader = Reader::new(&cluster.servers());
    let mut before = None;
    wait::within("retention to come to rest", PATIENCE, || {
        std::thread::sleep(Duration::from_secs(3));
        let now = reader.readable(TOPIC).ok();
        let rests = now.is_some() && now == before;
        before = now;
        rests.then_some(())
    });
    (0..PARTITIONS).map(|partition| reader.read(TOPIC, partition)).collect()
}

/// Kills whoever leads a partition until that node does. Only one that holds the whole log can.
fn lead(cluster: &mut Cluster, partition: usize, node: u32) -> Result<()> {
    for _ in 0..KILLS_MAX {
        let leader = cluster.leader(TOPIC, partition);
        if leader == node {
            return Ok(());
        }
        cluster.kill(leader);
        wait::within("another leader", PATIENCE, || {
            let known = cluster.leaders_known(TOPIC).get(partition).copied().flatten();
            known.filter(|known| *known != leader)
        });
        cluster.launch(leader);
        cluster.wait_ready(leader);
    }
    bail!(
        "node {node} was not elected for partition {partition}, though the leader was killed {KILLS_MAX} times"
    )
}

fn mb(bytes: u64) -> u64 {
    bytes / 1_000_000
}

fn pause_until(moment: Instant) {
    std::thread::sleep(moment.saturating_duration_since(Instant::now()));
}
