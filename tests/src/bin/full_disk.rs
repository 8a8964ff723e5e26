//! `make full-disk`: what happens when a disk fills up. Needs root, for a file system of 256 MB on a loop device.
//!
//! A node alone on the small disk, then three nodes of which one lies on it. Each time numbered lines go to one topic at
//! a fixed rate while another topic grows until the small disk is nearly full. Alone, the node must refuse in words that
//! say why, go on reading, and take lines again once the other topic is deleted; of three, the others must go on without
//! a break, and the full one must come back and catch up. In the end every acknowledged line is there exactly once.
#![expect(clippy::print_stdout, reason = "a program that tells what it does")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use quorate_client::{Client, PartitionId, ProducerConfig, Record};
use quorate_tests::command::binary;
use quorate_tests::numbered::{Numbered, Plan};
use quorate_tests::small_disk::SmallDisk;
use quorate_tests::{Cluster, Shape, wait};

const NUMBERS: &str = "numbers";
const BALLAST: &str = "ballast";
const PARTITIONS: u32 = 3;
const DISK_BYTES: u64 = 256 << 20;
/// What the node on the small disk keeps free.
const RESERVE_BYTES: u64 = 32 << 20;
/// Lines a second.
const RATE: u64 = 200;
/// What a line may take: longer than the disk is full.
const TIMEOUT: Duration = Duration::from_secs(180);
/// What anything that heals may take.
const LONG: Duration = Duration::from_secs(120);
/// How long a record of ballast is tried before it counts as refused.
const PATIENCE: Duration = Duration::from_secs(3);
const BALLAST_RECORD: usize = 100_000;
const BALLAST_AT_ONCE: usize = 8;

fn main() -> ExitCode {
    match full_disk() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn full_disk() -> Result<()> {
    println!("binary    {}", binary().display());
    println!("\na node alone");
    alone()?;
    println!("\nthree nodes, one of them on the small disk");
    one_of_three()?;
    println!(
        "\nGOOD: refused in clear words, taken again with room, every acknowledged line there exactly once."
    );
    Ok(())
}

/// A cluster whose node 1 lies on a small disk.
fn begin(nodes: u32, disk: &SmallDisk) -> Result<Cluster> {
    let config = disk.path().with_file_name("node.toml");
    std::fs::write(
        &config,
        format!("[storage]\nvolume_bytes_max = {}\ndisk_reserve_bytes = {RESERVE_BYTES}\n", 16 << 20),
    )?;
    let mut cluster =
        Cluster::lay_out(&Shape::of(nodes).flag("--config").flag(&config.display().to_string()));
    std::os::unix::fs::symlink(disk.path(), &cluster.node(1).data)?;
    for id in cluster.ids() {
        cluster.launch(id);
    }
    cluster.wait_all_ready();
    cluster.create(NUMBERS, PARTITIONS, nodes);
    cluster.create(BALLAST, PARTITIONS, nodes);
    Ok(cluster)
}

fn numbers(cluster: &Cluster) -> Numbered {
    let plan =
        Plan { topic: NUMBERS.to_owned(), partitions: PARTITIONS.into(), rate: RATE, timeout: TIMEOUT };
    let numbered = Numbered::start(&cluster.servers(), &plan);
    wait::until("the first acknowledgement", || (numbered.acked() > 0).then_some(()));
    numbered
}

fn alone() -> Result<()> {
    let disk = SmallDisk::new(DISK_BYTES)?;
    let cluster = begin(1, &disk)?;
    let numbered = numbers(&cluster);
    let (records, refused) = fill(&cluster.servers(), DISK_BYTES);
    let refused = refused.context("the disk took more than it has room for")?;
    println!("  {} MB of ballast were taken, then: {refused}", records * BALLAST_RECORD / 1_000_000);
    ensure!(
        refused.contains("disk nearly full on node 1: ") && refused.contains("kept in reserve"),
        "the refusal does not say why"
    );
    ensure!(metric(&cluster, 1, "quorate_disk_full")? > 0.5, "the metrics do not say that it is full");
    let status = cluster.run(["cluster", "status"]).done().text().to_owned();
    ensure!(status.contains("disk nearly full on node 1: "), "cluster status does not say so:\n{status}");
    let acked = numbered.acked();
    let read = cluster.read_all(NUMBERS).len();
    println!("  while it is full {read} lines are read");
    ensure!(u64::try_from(read)? >= acked, "acknowledged lines cannot be read: {read} of {acked}");
    drop(cluster.run(["topic", "delete", BALLAST]).done());
    let deleted = Instant::now();
    until_room(&cluster)?;
    let before = numbered.acked();
    wait::within("lines to be taken again", LONG, || (numbered.acked() > before + RATE).then_some(()));
    println!(
        "  with room again, lines were taken {:.1} s after the deletion",
        deleted.elapsed().as_secs_f64()
    );
    finish(&cluster, numbered)
}

fn one_of_three() -> Result<()> {
    let disk = SmallDisk::new(DISK_BYTES)?;
    let cluster = begin(3, &disk)?;
    let numbered = numbers(&cluster);
    numbered.take_gap();
    let (records, refused) = fill(&cluster.servers(), DISK_BYTES + DISK_BYTES / 4);
    ensure!(refused.is_none(), "a batch was refused although two nodes have room: {refused:?}");
    wait::within("node 1 to be nearly full", LONG, || {
        metric(&cluster, 1, "quorate_disk_full").is_ok_and(|full| full > 0.5).then_some(())
    });
    wait::within("node 1 to lead nothing", LONG, || {
        let led = [NUMBERS, BALLAST].map(|topic| cluster.leaders(topic));
        led.concat().iter().all(|leader| *leader != 1 && *leader != 0).then_some(())
    });
    let before = numbered.acked();
    wait::within("lines to be acknowledged without it", LONG, || {
        (numbered.acked() > before + 5 * RATE).then_some(())
    });
    println!(
        "  {} MB of ballast were taken, node 1 is full and leads nothing; longest silence {} ms",
        records * BALLAST_RECORD / 1_000_000,
        numbered.take_gap().as_millis()
    );
    drop(cluster.run(["topic", "delete", BALLAST]).done());
    let deleted = Instant::now();
    until_room(&cluster)?;
    wait::within("node 1 to have caught up", LONG, || {
        let behind =
            |node| metric(&cluster, node, "quorate_replicas_behind{peer=\"1\"}").is_ok_and(|now| now > 0.5);
        [2, 3].into_iter().all(|node| !behind(node)).then_some(())
    });
    println!("  node 1 has room and all records {:.1} s after the deletion", deleted.elapsed().as_secs_f64());
    finish(&cluster, numbered)
}

fn until_room(cluster: &Cluster) -> Result<()> {
    wait::within("node 1 to have room", LONG, || {
        metric(cluster, 1, "quorate_disk_full").is_ok_and(|full| full < 0.5).then_some(())
    });
    let left = metric(cluster, 1, "quorate_disk_free_bytes")?;
    println!("  node 1 has {:.0} MB free", left / 1e6);
    Ok(())
}

/// A sample of a node's metrics.
fn metric(cluster: &Cluster, node: u32, name: &str) -> Result<f64> {
    let page = cluster.node(node).get("/metrics")?.body;
    let sample = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(sample.with_context(|| format!("node {node} has no metric {name}"))?.parse()?)
}

/// Sends ballast until so many bytes are taken or one record is refused; tells how many were taken, and the words of the
/// refusal.
fn fill(servers: &str, bytes: u64) -> (usize, Option<String>) {
    let servers: Vec<_> = servers.split(',').map(str::to_owned).collect();
    let wanted = usize::try_from(bytes).expect("a size fits") / BALLAST_RECORD;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime can be had").block_on(async {
        let config = ProducerConfig { delivery_timeout: PATIENCE, ..ProducerConfig::default() };
        let producer = Client::grpc(servers).producer(config);
        // What is the same in each record would be no load for a disk that compresses.
        let mut noise = 1_u64;
        let mut taken = 0;
        while taken < wanted {
            let mut acks = Vec::new();
            for at in 0..BALLAST_AT_ONCE {
                let value: Vec<u8> = std::iter::repeat_with(|| {
                    noise =
                        noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    noise.to_le_bytes()[7]
                })
                .take(BALLAST_RECORD)
                .collect();
                let partition = PartitionId(i32::try_from(at).expect("small") % PARTITIONS.cast_signed());
                match producer.send(BALLAST, Record::new(value).partition(partition)).await {
                    Ok(ack) => acks.push(ack),
                    Err(error) => return (taken, Some(error.to_string())),
                }
            }
            for ack in acks {
                match ack.await {
                    Ok(_) => taken += 1,
                    Err(error) => return (taken, Some(error.to_string())),
                }
            }
        }
        producer.close().await;
        (taken, None)
    })
}

/// Stops sending, reads everything back and judges.
fn finish(cluster: &Cluster, numbered: Numbered) -> Result<()> {
    let sent = numbered.stop();
    let records = cluster.read_all(NUMBERS);
    let verdict = sent.judge(&records);
    println!("  {} lines sent, {} acknowledged, {} read: {verdict}", sent.lines(), sent.acked, records.len());
    ensure!(verdict.is_good(), "{verdict}");
    ensure!(sent.acked == sent.lines(), "a line was given up: {:?}", sent.first_error);
    Ok(())
}
