//! A node that is stopped or killed takes up where it was.

use std::process::Stdio;

use quorate_tests::cluster::{Shape, signal};
use quorate_tests::wire::{Wire, batch};
use quorate_tests::{Cluster, wait};
use serde_json::json;

fn values(cluster: &Cluster, topic: &str) -> Vec<String> {
    let text = |record: &serde_json::Value| record["value"].as_str().expect("a value is text").to_owned();
    cluster.read_all(topic).iter().map(text).collect()
}

#[test]
fn one_node_alone_keeps_everything_over_a_kill_and_a_stop() {
    let mut cluster = Cluster::start(1);
    cluster.create("t", 2, 1);
    let described = cluster.run(["topic", "describe", "t", "--json"]).done().json();
    let wire = Wire::new(&cluster.node(1).grpc);
    let topic = wire.topic("t");
    let producer = wire.init_producer();
    let mut expected = Vec::new();
    for round in 0..3 {
        let answer = wire.produce(&topic.id, 0, batch(producer, round, &[&format!("by hand {round}")]));
        assert_eq!((answer.error, answer.base_offset), (0, i64::from(round) * 2), "{answer:?}");
        drop(cluster.run_with(["produce", "t", "--partition", "0"], format!("round {round}\n")).done());
        expected.extend([format!("by hand {round}"), format!("round {round}")]);
        if round == 1 {
            signal(cluster.node(1).pid(), "TERM");
            let status = cluster.wait_end(1);
            assert_eq!(status.code(), Some(0), "a node that is asked to end does so in peace");
        } else {
            cluster.kill(1);
        }
        cluster.launch(1);
        cluster.wait_ready(1);
        cluster.leader("t", 0);
        assert_eq!(values(&cluster, "t"), expected);
    }
    // Who the producer was is kept too: its last batch is recognised, and a new producer gets another id.
    wait::until("the node to serve", || {
        let answer = wire.produce(&topic.id, 0, batch(producer, 2, &["by hand 2"]));
        (answer.error == 0).then(|| assert_eq!(answer.base_offset, 4))
    });
    assert_ne!(wire.init_producer(), producer);
    let again = cluster.run(["topic", "describe", "t", "--json"]).done().json();
    assert_eq!(again["id"], described["id"]);
    assert!(
        again["partitions"][0]["leader_epoch"].as_u64() > described["partitions"][0]["leader_epoch"].as_u64()
    );
}

#[test]
fn a_node_whose_log_nobody_takes_ends_in_peace() {
    let cluster = Cluster::lay_out(&Shape::of(1));
    let mut command = cluster.node_command(1);
    command.arg("--exit-with-stdin").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut node = command.spawn().unwrap();
    // Each line that it writes from now on fails.
    drop(node.stderr.take());
    wait::until("the node to be ready", || {
        assert_eq!(node.try_wait().unwrap(), None, "it ended by itself");
        cluster.node(1).get("/readyz").is_ok_and(|answer| answer.status == 200).then_some(())
    });
    signal(node.id(), "TERM");
    let status = wait::until("the end of the node", || node.try_wait().unwrap());
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_node_that_was_away_catches_up_and_can_lead() {
    let mut cluster = Cluster::start(3);
    cluster.create("t", 1, 3);
    let leader = cluster.leader("t", 0);
    let away = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    cluster.kill(away);
    let lines: String = (0..2_000).map(|number| format!("{number} {}\n", "x".repeat(200))).collect();
    drop(cluster.run_with(["produce", "t"], &lines).done());
    let status = cluster.run(["cluster", "status", "--json"]).done().json();
    let node =
        |id: u32| status["nodes"].as_array().unwrap().iter().find(|node| node["id"] == json!(id)).unwrap();
    wait::until("the dead node to be missed", || {
        let status = cluster.run(["cluster", "status", "--json"]).done().json();
        (status["under_replicated"] == json!(1)).then_some(())
    });
    assert_eq!(node(leader)["alive"], json!(true));
    cluster.launch(away);
    cluster.wait_ready(away);
    // With the third one gone, what is acknowledged lies on the one that was away.
    let third = cluster.ids().into_iter().find(|id| *id != leader && *id != away).unwrap();
    cluster.kill(third);
    drop(cluster.run_with(["produce", "t"], "last\n").done());
    cluster.kill(leader);
    cluster.launch(third);
    cluster.wait_ready(third);
    let read = values(&cluster, "t");
    assert_eq!(read.len(), 2_001);
    assert_eq!(read[2_000], "last");
    assert!(lines.lines().eq(read[..2_000].iter().map(String::as_str)));
}
