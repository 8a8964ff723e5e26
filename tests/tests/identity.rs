//! A disk that is not the one a node had is refused by its peers, and never votes.

use std::fs;

use quorate_proto::ErrorCode;
use quorate_tests::cluster::Shape;
use quorate_tests::command::quorate;
use quorate_tests::wire::Wire;
use quorate_tests::{Cluster, wait};
use serde_json::json;

/// Waits until a node says in `/readyz` that it is not ready, with `fragment`, and gives the whole sentence.
fn refused(cluster: &Cluster, id: u32, fragment: &str) -> String {
    wait::until(&format!("node {id} to be refused with {fragment:?}"), || {
        let answer = cluster.node(id).get("/readyz").ok()?;
        (answer.status == 503 && answer.body.contains(fragment)).then_some(answer.body)
    })
}

#[test]
fn a_wiped_disk_is_refused_and_does_not_count() {
    let mut cluster = Cluster::start(3);
    cluster.create("t", 1, 3);
    drop(cluster.run_with(["produce", "t"], "before\n").done());
    cluster.kill(2);
    fs::remove_dir_all(&cluster.node(2).data).unwrap();
    cluster.launch(2);
    let said = refused(&cluster, 2, "identity");
    assert!(cluster.node(2).get("/healthz").is_ok_and(|answer| answer.status == 200), "it stays up");
    assert!(cluster.node(2).log().contains("identity"), "its log says why: {said}");

    // The two others are a majority still.
    drop(cluster.run_with(["produce", "t"], "with two\n").done());
    wait::until("node 2 to count as not alive", || {
        let status = cluster.run(["cluster", "status", "--json"]).done().json();
        let nodes = status["nodes"].as_array().expect("nodes is a list");
        let alive: Vec<_> = nodes.iter().map(|node| node["alive"] == json!(true)).collect();
        (alive == [true, false, true]).then_some(())
    });

    // With node 1 down only node 3 holds the log. Node 2's vote would make two of three.
    cluster.kill(1);
    let produced = cluster.run_with(["produce", "t", "--json", "--timeout", "4s"], "with one\n");
    assert_eq!((produced.status, &produced.json()["acked"]), (Some(1), &json!(0)), "{produced:?}");
    refused(&cluster, 2, "identity");

    cluster.launch(1);
    cluster.wait_ready(1);
    let values: Vec<_> = cluster.read_all("t").iter().map(|record| record["value"].clone()).collect();
    assert_eq!(values[..2], ["before", "with two"]);
    refused(&cluster, 2, "identity");
}

#[test]
fn another_clusters_disk_is_refused() {
    let mut cluster = Cluster::start(3);
    cluster.create("t", 1, 3);
    cluster.kill(2);
    fs::remove_dir_all(&cluster.node(2).data).unwrap();

    // Node 2 of a cluster of its own, which needs nobody else.
    let mut alone = quorate(["node", "--id", "2", "--data"]);
    alone.arg(&cluster.node(2).data);
    let mut other = Cluster::lay_out(&Shape::of(2));
    let (grpc, peer, http) = (&other.node(2).grpc, &other.node(2).peer, &other.node(2).http);
    alone.args(["--listen-grpc", grpc, "--listen-peer", peer, "--listen-http", http]);
    alone.args(["--bootstrap", &format!("2={peer}")]);
    other.launch_as(2, alone);
    other.wait_ready(2);
    other.kill(2);

    cluster.launch(2);
    refused(&cluster, 2, "cluster");
    drop(cluster.run_with(["produce", "t"], "with two\n").done());
    cluster.kill(1);
    let produced = cluster.run_with(["produce", "t", "--json", "--timeout", "3s"], "with one\n");
    assert_eq!((produced.status, &produced.json()["acked"]), (Some(1), &json!(0)), "{produced:?}");
}

#[test]
fn another_nodes_disk_is_refused() {
    let mut cluster = Cluster::start(3);
    cluster.create("t", 1, 3);
    cluster.kill_all(&[2, 3]);
    fs::remove_dir_all(&cluster.node(2).data).unwrap();
    fs::rename(&cluster.node(3).data, &cluster.node(2).data).unwrap();
    cluster.launch(2);
    refused(&cluster, 2, "belongs to node 3");
    // Its clients are told as well.
    let told = Wire::new(&cluster.node(2).grpc).create_topic("new");
    assert_eq!(told.error(), ErrorCode::NotReady, "{told:?}");
    assert!(told.message.contains("belongs to node 3"), "{told:?}");
    let produced = cluster.run_with(["produce", "t", "--json", "--timeout", "3s"], "with one\n");
    assert_eq!((produced.status, &produced.json()["acked"]), (Some(1), &json!(0)), "{produced:?}");
    // In its own place the disk is welcome.
    cluster.kill(2);
    fs::rename(&cluster.node(2).data, &cluster.node(3).data).unwrap();
    cluster.launch(3);
    cluster.wait_ready(3);
    drop(cluster.run_with(["produce", "t"], "with two\n").done());
}
