//! Leadership is handed over on purpose: by hand, before a node stops, and back to where it belongs.
#![expect(clippy::unwrap_used, reason = "a test's helper is a test")]

use std::fs;
use std::time::Duration;

use quorate_tests::cluster::signal;
use quorate_tests::numbered::{Numbered, Plan};
use quorate_tests::{Cluster, Shape, wait};

const PARTITIONS: u32 = 3;

/// Three nodes that balance their leaders after so many seconds.
fn cluster(folder: &tempfile::TempDir, balance: &str) -> Cluster {
    let config = folder.path().join("node.toml");
    fs::write(&config, format!("[partition]\n{balance}\n")).unwrap();
    let cluster = Cluster::start_as(&Shape::of(3).flag("--config").flag(config.to_str().unwrap()));
    cluster.create("t", PARTITIONS, 3);
    cluster
}

#[test]
fn a_node_that_is_stopped_hands_over_and_has_its_partitions_back_later() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = cluster(&folder, "balance_ms = 500\nbalance_delay_ms = 1000");
    let plan = Plan {
        topic: "t".to_owned(),
        partitions: PARTITIONS.into(),
        rate: 600,
        timeout: Duration::from_secs(60),
    };
    let numbered = Numbered::start(&cluster.servers(), &plan);
    let more = |numbered: &Numbered| {
        let wanted = numbered.acked() + 300;
        wait::until("lines to be acknowledged", || (numbered.acked() >= wanted).then_some(()));
    };
    more(&numbered);
    let spread = |cluster: &Cluster| {
        let leaders = cluster.leaders_known("t");
        cluster.ids().iter().all(|id| leaders.iter().filter(|leader| **leader == Some(*id)).count() == 1)
    };
    wait::until("each to lead one", || spread(&cluster).then_some(()));

    numbered.take_gap_of_one();
    signal(cluster.node(2).pid(), "TERM");
    assert_eq!(cluster.wait_end(2).code(), Some(0));
    let leaders = cluster.leaders_known("t");
    assert!(leaders.iter().all(|leader| leader.is_some_and(|leader| leader != 2)), "{leaders:?}");
    assert!(cluster.node(2).log().contains("leadership handed over before the node stops"));
    more(&numbered);
    let gap = numbered.take_gap_of_one();
    // To miss a leader takes more than a second; to prove its death takes less, but it was alive.
    assert!(gap < Duration::from_secs(1), "a silence of {gap:?}");

    cluster.launch(2);
    cluster.wait_ready(2);
    wait::until("each to lead one again", || spread(&cluster).then_some(()));
    more(&numbered);
    let sent = numbered.stop();
    let verdict = sent.judge(&cluster.read_all("t"));
    assert!(verdict.is_good(), "{verdict}");
    assert_eq!(sent.acked, sent.lines());
}

#[test]
fn leadership_is_moved_by_hand_and_what_cannot_be_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = cluster(&folder, "balance_ms = 0");
    let leader = cluster.leader("t", 1);
    let to = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let transfer = |cluster: &Cluster, topic: &str, partition: &str, to: u32| {
        cluster.run(["cluster", "transfer-leader", topic, "--partition", partition, "--to", &to.to_string()])
    };
    wait::until("the nodes to hear each other", || {
        let status = cluster.run(["cluster", "status", "--json"]).done().json();
        let nodes = status["nodes"].as_array()?.clone();
        nodes.iter().all(|node| node["alive"] == true).then_some(())
    });
    let done = transfer(&cluster, "t", "1", to).done();
    assert_eq!(done.text(), format!("node {to} leads partition 1 of t\n"));
    wait::until("it to lead", || (cluster.leader("t", 1) == to).then_some(()));
    let again = transfer(&cluster, "t", "1", to).done();
    assert_eq!(again.text(), format!("node {to} led partition 1 of t already\n"));

    transfer(&cluster, "t", "1", 9).refused(1, "choose one of: 1, 2, 3");
    transfer(&cluster, "t", "7", to).refused(1, "no partition 7");
    transfer(&cluster, "u", "0", to).refused(1, "topic u does not exist");
    let third = cluster.ids().into_iter().find(|id| *id != leader && *id != to).unwrap();
    cluster.kill(third);
    wait::until("it to be missed", || {
        let status = cluster.run(["cluster", "status", "--json"]).done().json();
        let nodes = status["nodes"].as_array()?;
        nodes.iter().any(|node| node["id"] == third && node["alive"] == false).then_some(())
    });
    wait::until("it to be missed by the leader too", || {
        let ran = transfer(&cluster, "t", "1", third);
        ran.stderr.contains("is not alive").then_some(())
    });
    assert_ne!(cluster.leader("t", 1), third);
}
