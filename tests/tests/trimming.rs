//! Records are deleted, logs are trimmed, and a node that was away for longer than the log comes back.
#![expect(clippy::unwrap_used, reason = "a test's helper is a test")]

use std::fs;

use quorate_tests::cluster::Shape;
use quorate_tests::wire::{Wire, batch};
use quorate_tests::{Cluster, wait};
use serde_json::Value;

fn log_start(cluster: &Cluster) -> Option<u64> {
    let described = cluster.run(["topic", "describe", "t", "--json"]).done().json();
    described["partitions"][0]["log_start_offset"].as_u64()
}

fn delete(before: &str) -> [&str; 7] {
    ["topic", "delete-records", "t", "--partition", "0", "--before", before]
}

fn values(records: &[Value]) -> Vec<String> {
    records.iter().map(|record| record["value"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn deleted_records_stay_deleted_on_all_nodes() {
    let mut cluster = Cluster::start(3);
    cluster.create("t", 1, 3);
    let lines = |range: std::ops::Range<u32>| range.map(|line| line.to_string()).collect::<Vec<_>>();
    // One run of the command is a batch.
    for start in [0, 10, 20] {
        drop(cluster.run_with(["produce", "t"], lines(start..start + 10).join("\n")).done());
    }
    let deleted = cluster.run(delete("15").into_iter().chain(["--json"])).done().json();
    assert_eq!(deleted["log_start_offset"], 15);
    assert_eq!(values(&cluster.read_all("t")), lines(15..30), "from the record on, not the batch");
    cluster.run(["consume", "t", "--from", "3", "--until-end"]).refused(1, "15");
    cluster.run(delete("31")).refused(1, "15..30");
    cluster.run(delete("-2")).refused(2, "high-watermark");
    drop(cluster.run(delete("4")).done());
    assert_eq!(log_start(&cluster), Some(15), "nothing comes back");

    let all = cluster.ids();
    cluster.kill_all(&all);
    for id in all {
        cluster.launch(id);
    }
    cluster.wait_all_ready();
    wait::until("a leader", || log_start(&cluster).filter(|start| *start == 15));
    assert_eq!(values(&cluster.read_all("t")), lines(15..30));
    drop(cluster.run(delete("high-watermark")).done());
    assert_eq!(values(&cluster.read_all("t")), [""; 0]);
    drop(cluster.run_with(["produce", "t"], "next").done());
    let records = cluster.read_all("t");
    assert_eq!((values(&records), &records[0]["offset"]), (vec!["next".to_owned()], &Value::from(30)));
}

#[test]
fn a_node_that_was_away_for_longer_than_the_log_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("node.toml");
    // Everything goes at once, and nobody is waited for.
    let knobs = "[partition]\ntrim_bytes_min = 1\nslow_replica_bytes_max = 0\nretention_check_ms = 100\n\
                 [raft]\ntrim_check_ms = 100\n";
    fs::write(&config, knobs).unwrap();
    let shape = Shape::of(3).flag("--config").flag(config.to_str().unwrap());
    let mut cluster = Cluster::start_as(&shape);
    cluster.create("t", 1, 3);
    let leader = cluster.leader("t", 0);
    let wire = Wire::new(&cluster.node(leader).grpc);
    let topic = wire.topic("t");
    let producer = wire.init_producer();
    let early = batch(producer, 0, &["early"]);
    assert_eq!(wire.produce(&topic.id, 0, early.clone()).base_offset, 0);

    let away = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    cluster.kill(away);
    for number in 0..200 {
        let answer = wire.produce(&topic.id, 0, batch(producer, number + 1, &["before"]));
        assert_eq!(answer.error, 0, "{answer:?}");
    }
    let last = batch(producer, 201, &["last"]);
    assert_eq!(wire.produce(&topic.id, 0, last.clone()).base_offset, 201);
    drop(cluster.run(delete("201")).done());
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != away).collect();
    // Up to the records that were deleted last, not only as far as those before them.
    wait::until("both logs are trimmed", || {
        others
            .iter()
            .all(|id| cluster.node(*id).log().contains("log was trimmed group=1 through=20"))
            .then_some(())
    });
    drop(wire);

    cluster.launch(away);
    cluster.wait_ready(away);
    wait::until("the base is installed", || {
        cluster.node(away).log().contains("base of the leader was installed").then_some(())
    });
    // From now on nothing is written without it.
    cluster.kill(leader);
    let led = wait::until("another leader", || {
        cluster.leaders_known("t").first().copied().flatten().filter(|led| *led != leader)
    });
    let wire = Wire::new(&cluster.node(led).grpc);
    // The retry of what was written before it came back is known, wherever it ends up.
    let again = wait::until("the new leader to serve", || {
        let answer = wire.produce(&topic.id, 0, last.clone());
        (answer.error == 0).then_some(answer)
    });
    assert_eq!(again.base_offset, 201, "{again:?}");
    let next = wire.produce(&topic.id, 0, batch(producer, 202, &["after"]));
    assert_eq!((next.error, next.base_offset), (0, 202), "{next:?}");
    assert_eq!(values(&cluster.read_all("t")), ["last", "after"]);
    drop(wire);

    // And by itself it knows as much.
    cluster.launch(leader);
    cluster.wait_ready(leader);
    for id in others.into_iter().filter(|id| *id != leader) {
        cluster.kill(id);
    }
    wait::until("the one that was away and the other", || log_start(&cluster).filter(|start| *start == 201));
    assert_eq!(values(&cluster.read_all("t")), ["last", "after"]);
}
