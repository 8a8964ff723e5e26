//! A node whose disk is nearly full, by a reserve that no disk has: what its cluster does, and what is said of it.
//! `make full-disk` fills a real one.
#![expect(clippy::unwrap_used, reason = "a test's helper is a test")]

use std::fs;
use std::path::PathBuf;

use quorate_tests::{Cluster, Shape, wait};
use serde_json::Value;

/// A configuration by which a disk never has enough room.
fn no_room(cluster: &Cluster) -> PathBuf {
    let path = cluster.folder().join("no-room.toml");
    fs::write(&path, format!("[storage]\ndisk_reserve_bytes = {}\n", i64::MAX)).unwrap();
    path
}

fn launch_without_room(cluster: &mut Cluster, id: u32) {
    let mut command = cluster.node_command(id);
    command.arg("--config").arg(no_room(cluster));
    cluster.launch_as(id, command);
}

fn metrics(cluster: &Cluster, id: u32) -> String {
    cluster.node(id).get("/metrics").unwrap().body
}

fn attention(cluster: &Cluster) -> Vec<String> {
    let status = cluster.run(["cluster", "status", "--json"]).done().json();
    let said = status["attention"].as_array().unwrap().iter().filter_map(Value::as_str);
    said.map(str::to_owned).collect()
}

#[test]
fn one_full_disk_of_three_stops_nothing() {
    let mut cluster = Cluster::lay_out(&Shape::of(3));
    launch_without_room(&mut cluster, 1);
    cluster.launch(2);
    cluster.launch(3);
    cluster.wait_all_ready();
    cluster.create("t", 3, 3);
    let lines = (0..1_000).map(|number| format!("{number}\n")).collect::<String>();
    drop(cluster.run_with(["produce", "t"], &lines).done());
    assert_eq!(cluster.read_all("t").len(), 1_000);
    wait::until("node 1 to lead nothing", || {
        cluster.leaders("t").iter().all(|leader| [2, 3].contains(leader)).then_some(())
    });
    assert!(metrics(&cluster, 1).contains("\nquorate_disk_full 1\n"));
    assert!(metrics(&cluster, 2).contains("\nquorate_disk_full 0\n"));
    wait::until("the status to name it", || {
        attention(&cluster).iter().any(|line| line.starts_with("disk nearly full on node 1: ")).then_some(())
    });

    // With room it catches up by itself.
    cluster.kill(1);
    cluster.launch(1);
    cluster.wait_ready(1);
    wait::until("node 1 to have all", || {
        let behind = |id| metrics(&cluster, id).contains("quorate_replicas_behind{peer=\"1\"}");
        (!behind(2) && !behind(3)).then_some(())
    });
    assert!(metrics(&cluster, 1).contains("\nquorate_disk_full 0\n"));
}

#[test]
fn a_node_alone_refuses_in_words_and_does_the_rest() {
    let mut cluster = Cluster::start(1);
    cluster.create("t", 1, 1);
    drop(cluster.run_with(["produce", "t"], "before\n").done());
    cluster.kill(1);
    launch_without_room(&mut cluster, 1);
    cluster.wait_ready(1);

    let produced = cluster.run_with(["produce", "t", "--timeout", "2s"], "too much\n");
    produced.refused(1, "disk nearly full on node 1: ");
    produced.refused(1, "kept in reserve");
    assert!(metrics(&cluster, 1).contains("reason=\"disk_full\""));
    let said = attention(&cluster);
    assert!(said.iter().any(|line| line.starts_with("disk nearly full on node 1: ")), "{said:?}");

    assert_eq!(cluster.read_all("t").len(), 1);
    cluster.create("another", 1, 1);
    drop(cluster.run(["topic", "delete", "t"]).done());
}
