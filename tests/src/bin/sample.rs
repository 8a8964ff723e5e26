//! `make sample NAME=..`: keeps a node's folder as this program leaves it, for the test that opens it from now on.
//!
//! One node alone, with small volumes: a topic of two partitions with batches by hand and by the client, compressed and
//! not; one of which the beginning was deleted; one that was deleted; a producer that may come again. It is killed with
//! `kill -9` when all that is done. `--plain` deletes no records, for releases that could not.
#![expect(clippy::print_stdout, reason = "a program that tells what it does")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::command::{binary, quorate, run};
use quorate_tests::content::Reader;
use quorate_tests::sample::{Expected, Holds, Retry, folder, store};
use quorate_tests::wire::{Wire, batch};
use quorate_tests::{Cluster, Shape};

const VALUES: [&str; 2] = ["first", "second"];
/// A volume is full after so many bytes: one is sealed, another is in use.
const VOLUME_BYTES: u32 = 300_000;
/// Records below this offset of the second topic are deleted.
const DELETED_BEFORE: u64 = 400;

fn main() -> ExitCode {
    match sample() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn sample() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let (name, plain) = match (args.next(), args.next().as_deref(), args.next()) {
        (Some(name), None, None) => (name, false),
        (Some(name), Some("--plain"), None) => (name, true),
        _ => bail!("usage: sample NAME [--plain]"),
    };
    let made_by = run(&mut quorate(["--version"])).done().text().trim().to_owned();
    println!("binary {}, {made_by}", binary().display());
    let config = tempfile::Builder::new().suffix(".toml").tempfile()?;
    std::fs::write(config.path(), format!("[storage]\nvolume_bytes_max = {VOLUME_BYTES}\n"))?;
    let path = config.path().to_str().context("a temporary path is text")?;
    let mut cluster = Cluster::start_as(&Shape::of(1).flag("--config").flag(path));
    cluster.create("kept", 2, 1);
    cluster.create("trimmed", 1, 1);
    cluster.create("gone", 1, 1);

    let wire = Wire::new(&cluster.node(1).grpc);
    let topic = wire.topic("kept").id;
    let producer = wire.init_producer();
    let answer = wire.produce(&topic, 0, batch(producer, 0, &VALUES));
    ensure!(answer.error == 0, "{answer:?}");
    let retry = Retry {
        topic: "kept".to_owned(),
        partition: 0,
        producer: producer.0,
        sequence: 0,
        values: VALUES.map(str::to_owned).to_vec(),
        base: answer.base_offset,
    };
    for (topic, compression) in [("kept", "none"), ("kept", "zstd"), ("trimmed", "lz4"), ("gone", "none")] {
        let lines: String =
            (0..1_000).map(|number| format!("{number} {compression} {}\n", word(number))).collect();
        drop(cluster.run_with(["produce", topic, "--compression", compression], lines).done());
    }
    let begins = if plain { 0 } else { DELETED_BEFORE };
    if !plain {
        let delete = ["topic", "delete-records", "trimmed", "--partition", "0", "--before"];
        drop(cluster.run(delete.into_iter().chain([begins.to_string().as_str()])).done());
    }
    drop(cluster.run(["topic", "delete", "gone"]).done());
    // Something in the volume in use, and time for what is done in the background.
    std::thread::sleep(Duration::from_secs(5));
    let last = wire.produce(&topic, 1, batch(producer, 0, &["last"]));
    ensure!(last.error == 0, "{last:?}");

    let reader = Reader::new(&cluster.servers());
    let mut partitions = Vec::new();
    for (topic, partition) in [("kept", 0), ("kept", 1), ("trimmed", 0)] {
        let content = reader.read(topic, partition)?;
        println!("{topic}/{partition}: {content:?}");
        partitions.push(Holds { topic: topic.to_owned(), partition, content });
    }
    ensure!(partitions[2].content.readable.start == begins, "records were not deleted as they should be");
    cluster.kill(1);
    let expected = Expected { made_by, node: 1, partitions, deleted: vec!["gone".to_owned()], retry };
    let place = folder().join(&name);
    store(&place, &cluster.node(1).data, &expected)?;
    println!("made {}", place.display());
    Ok(())
}

/// Something that is not all the same.
fn word(number: u64) -> String {
    format!("{:x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
        .repeat(usize::try_from(number % 9).unwrap_or(0))
}
