//! Nodes that are added, replaced and removed, and partitions that move, under load.

use std::time::Duration;

use quorate_tests::numbered::{Numbered, Plan};
use quorate_tests::{Cluster, wait};
use serde_json::{Value, json};

const TOPIC: &str = "numbers";
const PARTITIONS: u32 = 4;

fn status(cluster: &Cluster) -> Value {
    cluster.run(["cluster", "status", "--json"]).done().json()
}

fn nodes(status: &Value) -> Vec<u64> {
    let nodes = status["nodes"].as_array().expect("nodes is a list");
    nodes.iter().map(|node| node["id"].as_u64().expect("an id")).collect()
}

/// Waits until a node says in `/readyz` that it is not ready, with `fragment`.
fn refused(cluster: &Cluster, id: u32, fragment: &str) {
    wait::until(&format!("node {id} to be refused with {fragment:?}"), || {
        let answer = cluster.node(id).get("/readyz").ok()?;
        (answer.status == 503 && answer.body.contains(fragment)).then_some(())
    });
}

/// Waits until a node counts as dead.
fn not_alive(cluster: &Cluster, id: u32) {
    wait::until(&format!("node {id} to be missed"), || {
        let status = status(cluster);
        let nodes = status["nodes"].as_array().expect("nodes is a list").clone();
        let node = nodes.into_iter().find(|node| node["id"] == json!(id));
        node.is_some_and(|node| node["alive"] == json!(false)).then_some(())
    });
}

fn load(cluster: &Cluster) -> Numbered {
    let plan = Plan {
        topic: TOPIC.to_owned(),
        partitions: PARTITIONS.into(),
        rate: 500,
        timeout: Duration::from_secs(120),
    };
    let numbered = Numbered::start(&cluster.servers(), &plan);
    wait::until("the first acknowledgement", || (numbered.acked() > 0).then_some(()));
    numbered
}

/// Ends the load: everything acknowledged must be there once, in order.
fn judge(cluster: &Cluster, numbered: Numbered) {
    let before = numbered.acked();
    wait::until("further acknowledgements", || (numbered.acked() > before + 100).then_some(()));
    let sent = numbered.stop();
    assert_eq!(sent.first_error, None);
    let verdict = sent.judge(&cluster.read_all(TOPIC));
    assert!(verdict.is_good(), "{verdict} of {} lines, {} acknowledged", sent.lines(), sent.acked);
}

/// Where the replicas of each partition are.
fn replicas(cluster: &Cluster) -> Vec<Vec<u64>> {
    let described = cluster.run(["topic", "describe", TOPIC, "--json"]).done().json();
    let partitions = described["partitions"].as_array().expect("partitions is a list").clone();
    let ids = |partition: &Value| -> Vec<u64> {
        partition["replicas"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|id| id.as_u64().expect("an id"))
            .collect()
    };
    partitions.iter().map(ids).collect()
}

/// Starts a node that the cluster does not know, and admits it.
fn add(cluster: &mut Cluster, id: u32) {
    cluster.lay_out_another(id);
    cluster.launch(id);
    refused(cluster, id, &format!("add-node {id}"));
    let added = cluster.run(["cluster", "add-node", &id.to_string()]).done();
    assert!(added.text().contains(&format!("node {id} is a member")), "{added:?}");
    cluster.wait_ready(id);
}

#[test]
fn two_disks_are_lost_one_after_the_other_and_replaced_under_load() {
    let mut cluster = Cluster::start(3);
    cluster.create(TOPIC, PARTITIONS, 3);
    let numbered = load(&cluster);
    for lost in [2, 3] {
        cluster.kill(lost);
        cluster.wipe(lost);
        cluster.launch(lost);
        refused(&cluster, lost, "identity");
        not_alive(&cluster, lost);
        let replaced = cluster.run(["cluster", "replace-node", &lost.to_string()]).done();
        assert!(replaced.text().contains(&format!("node {lost} has disk ")), "{replaced:?}");
        cluster.wait_ready(lost);
    }
    // What they hold now counts: without the one that never lost anything.
    cluster.kill(1);
    let before = numbered.acked();
    wait::until("acknowledgements by the new disks", || (numbered.acked() > before + 100).then_some(()));
    cluster.launch(1);
    cluster.wait_ready(1);
    judge(&cluster, numbered);
}

#[test]
fn three_grow_to_five_and_shrink_to_three_under_load() {
    let mut cluster = Cluster::start(3);
    cluster.create(TOPIC, PARTITIONS, 3);
    let numbered = load(&cluster);
    add(&mut cluster, 4);
    add(&mut cluster, 5);
    drop(cluster.run(["cluster", "reassign", "--balance"]).done());
    let here = replicas(&cluster);
    let held = |id: u64| here.iter().flatten().filter(|replica| **replica == id).count();
    assert!((1..=5).all(|id| (2..=3).contains(&held(id))), "{here:?}");
    let status_of_five = status(&cluster);
    let voters =
        status_of_five["nodes"].as_array().unwrap().iter().filter(|node| node["role"] == json!("voter"));
    assert_eq!(voters.count(), 5);

    // Two of the first ones go; one of them is dead by then.
    drop(cluster.run(["cluster", "remove-node", "2"]).done());
    refused(&cluster, 2, "was removed from");
    cluster.kill(1);
    not_alive(&cluster, 1);
    drop(cluster.run(["cluster", "remove-node", "1"]).done());
    assert_eq!(nodes(&status(&cluster)), [3, 4, 5]);
    assert!(replicas(&cluster).iter().flatten().all(|id| [3, 4, 5].contains(id)));

    // The dead one comes back, and is told.
    cluster.launch(1);
    refused(&cluster, 1, "was removed from");
    cluster.forget(1);
    cluster.forget(2);

    // Whoever is left knows the others after a restart of two at once, though neither was there from the beginning.
    cluster.kill_all(&[4, 5]);
    cluster.launch(4);
    cluster.launch(5);
    cluster.wait_ready(4);
    cluster.wait_ready(5);
    cluster.kill(3);
    let before = numbered.acked();
    wait::until("acknowledgements by the added nodes", || (numbered.acked() > before + 100).then_some(()));
    cluster.launch(3);
    cluster.wait_ready(3);
    judge(&cluster, numbered);
}

#[test]
fn a_change_that_is_interrupted_goes_on_and_may_be_asked_for_again() {
    let mut cluster = Cluster::start(3);
    cluster.create(TOPIC, PARTITIONS, 3);
    drop(cluster.run_with(["produce", TOPIC], "one\ntwo\n").done());
    add(&mut cluster, 4);
    // Nobody is there to watch it.
    let mut watching = cluster.quorate(["cluster", "remove-node", "3"]);
    let mut watching = watching.spawn().expect("the binary starts");
    wait::until("the removal to be agreed on", || {
        let status = status(&cluster);
        let nodes = status["nodes"].as_array().expect("nodes is a list").clone();
        let node = nodes.into_iter().find(|node| node["id"] == json!(3));
        node.is_none_or(|node| node["role"] == json!("draining")).then_some(())
    });
    drop(watching.kill());
    drop(watching.wait());
    wait::until("node 3 to be gone", || (nodes(&status(&cluster)) == [1, 2, 4]).then_some(()));
    // Whoever was interrupted and asks again learns that it is done.
    let again = cluster.run(["cluster", "remove-node", "3"]).done();
    assert!(again.text().contains("node 3 is no member any more"), "{again:?}");
    cluster.forget(3);
    assert_eq!(cluster.read_all(TOPIC).len(), 2);

    // Its id is free for a new disk.
    add(&mut cluster, 5);
    let moved = cluster.run(["cluster", "reassign", &format!("{TOPIC}:0=5,4,1")]).done();
    assert!(moved.text().contains("where it is to be"), "{moved:?}");
    assert_eq!(replicas(&cluster)[0], [5, 4, 1]);
    assert_eq!(cluster.read_all(TOPIC).len(), 2);
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let mut cluster = Cluster::start(3);
    cluster.create(TOPIC, 1, 3);
    let run = |cluster: &Cluster, words: &[&str], status: i32, said: &str| {
        let all = std::iter::once("cluster").chain(words.iter().copied());
        cluster.run(all).refused(status, said);
    };
    run(&cluster, &["remove-node", "9"], 1, "node 9 is no member of this cluster: it has nodes 1, 2 and 3");
    run(&cluster, &["replace-node", "9"], 1, "node 9 is no member of this cluster");
    run(&cluster, &["replace-node", "2"], 1, "node 2 is alive");
    run(&cluster, &["add-node", "7"], 1, "node 7 does not wait to be admitted");
    run(&cluster, &["remove-node", "3"], 1, "1 partition cannot do without node 3: numbers:0 has 3 replicas");
    run(&cluster, &["remove-node", "0"], 2, "is no node id");
    run(&cluster, &["reassign"], 2, "TOPIC:PARTITION");
    run(&cluster, &["reassign"], 2, "--balance");
    run(&cluster, &["reassign", "numbers:0"], 2, "is not TOPIC:PARTITION=ID");
    run(&cluster, &["reassign", "numbers:0=1,1"], 1, "node 1 is named twice");
    run(&cluster, &["reassign", "numbers:0=1,9"], 1, "node 9 is no member");
    run(&cluster, &["reassign", "numbers:4=1"], 1, "no 4");
    run(&cluster, &["reassign", "letters:0=1"], 1, "no topic is called");

    // With one dead, both others are needed.
    cluster.kill(1);
    not_alive(&cluster, 1);
    run(&cluster, &["remove-node", "2"], 1, "node 2 is needed for a majority");
    run(&cluster, &["replace-node", "1"], 1, "node 1 does not wait to be admitted");
    cluster.launch(1);
    cluster.wait_ready(1);

    let alone = Cluster::start(1);
    run(&alone, &["remove-node", "1"], 1, "node 1 is the last one that stays");
}
