//! A leader is killed with lines in flight: nothing acknowledged is lost, nothing is doubled, order is kept.

use quorate_tests::command::Running;
use quorate_tests::numbered::{Numbered, Plan};
use quorate_tests::wire::{Wire, batch};
use quorate_tests::{Cluster, wait};
use serde_json::{Value, json};

const PARTITIONS: u64 = 4;
const KILLS: u64 = 4;

#[test]
fn nothing_acknowledged_is_lost_when_leaders_are_killed() {
    let mut cluster = Cluster::start(3);
    cluster.create("numbers", 4, 3);
    let plan =
        Plan { topic: "numbers".to_owned(), partitions: PARTITIONS, rate: 1_000, timeout: wait::DEADLINE };
    let numbered = Numbered::start(&cluster.servers(), &plan);
    wait::until("the first acknowledgements", || (numbered.acked() > 500).then_some(()));
    // Somebody reads along: a change of leader is no business of his.
    let reading = ["consume", "numbers", "--from", "beginning", "--format", "json", "--max", "2500"];
    let reader = Running::start(&mut cluster.quorate(reading));
    for kill in 0..KILLS {
        let partition = usize::try_from(kill % PARTITIONS).unwrap();
        let (victim, in_flight) = wait::until("a leader with lines in flight", || {
            let leaders = cluster.leaders_known("numbers");
            let leader = leaders.get(partition).copied().flatten()?;
            let in_flight = numbered.in_flight_at(leader, &leaders);
            (in_flight > 0).then_some((leader, in_flight))
        });
        numbered.take_gap();
        let before = numbered.acked();
        cluster.kill(victim);
        // The others take over: every partition goes on, although the victim is down.
        let after = wait::until("the other nodes to take over", || {
            let led = cluster.leaders_known("numbers");
            let all =
                led.len() == 4 && led.iter().all(|leader| leader.is_some_and(|leader| leader != victim));
            let after = numbered.acked();
            (all && after > before + 500).then_some(after)
        });
        println!(
            "kill {kill}: node {victim} with {in_flight} lines in flight; acknowledged {before} before and {after} \
             after; longest gap {:?}",
            numbered.take_gap()
        );
        cluster.launch(victim);
        cluster.wait_ready(victim);
    }
    let sent = numbered.stop();
    assert_eq!(sent.acked, sent.lines(), "{:?}", sent.first_error);
    let records = cluster.read_all("numbers");
    let verdict = sent.judge(&records);
    assert!(verdict.is_good(), "{verdict}");
    let read_along = reader.end().done().json_lines();
    assert_eq!(read_along.len(), 2_500);
    for partition in 0..PARTITIONS {
        let of = |records: &[Value]| -> Vec<Value> {
            records.iter().filter(|record| record["partition"] == json!(partition)).cloned().collect()
        };
        let (all, along) = (of(&records), of(&read_along));
        // Offsets are dense from 0.
        for (expected, record) in all.iter().enumerate() {
            assert_eq!(record["offset"], json!(expected), "partition {partition}");
        }
        // What was read along is what is there in the end.
        assert_eq!(along, all[..along.len()], "partition {partition}");
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_all_nodes_are_killed_at_once() {
    let mut cluster = Cluster::start(3);
    cluster.create("numbers", 4, 3);
    let plan =
        Plan { topic: "numbers".to_owned(), partitions: PARTITIONS, rate: 1_000, timeout: wait::DEADLINE };
    let numbered = Numbered::start(&cluster.servers(), &plan);
    wait::until("the first acknowledgements", || (numbered.acked() > 1_000).then_some(()));
    let all = cluster.ids();
    cluster.kill_all(&all);
    let before = numbered.acked();
    for id in all {
        cluster.launch(id);
    }
    wait::until("lines to be acknowledged again", || (numbered.acked() > before + 1_000).then_some(()));
    let sent = numbered.stop();
    assert_eq!(sent.acked, sent.lines(), "{:?}", sent.first_error);
    let verdict = sent.judge(&cluster.read_all("numbers"));
    assert!(verdict.is_good(), "{verdict}");
}

#[test]
fn a_retry_at_the_new_leader_gets_the_first_ones_offset() {
    let mut cluster = Cluster::start(3);
    cluster.create("t", 1, 3);
    let leader = cluster.leader("t", 0);
    let end = |cluster: &Cluster| {
        let described = cluster.run(["topic", "describe", "t", "--json"]).done().json();
        described["partitions"][0]["high_watermark"].as_u64()
    };
    let wire = Wire::new(&cluster.node(leader).grpc);
    let topic = wire.topic("t");
    let producer = wire.init_producer();
    let first = wire.produce(&topic.id, 0, batch(producer, 0, &["first"]));
    assert_eq!((first.error, first.base_offset), (0, 0), "{first:?}");
    let lost = batch(producer, 1, &["second", "third"]);
    // Written on a majority, and nobody heard of it.
    wire.produce_unheard(&topic.id, 0, lost.clone(), || (end(&cluster) == Some(3)).then_some(()));
    cluster.kill(leader);
    drop(wire);

    let new_leader = wait::until("a new leader", || {
        cluster.leaders_known("t").first().copied().flatten().filter(|new| *new != leader)
    });
    let wire = Wire::new(&cluster.node(new_leader).grpc);
    let again = wait::until("the new leader to serve", || {
        let answer = wire.produce(&topic.id, 0, lost.clone());
        (answer.error == 0).then_some(answer)
    });
    assert_eq!(again.base_offset, 1, "{again:?}");
    // Once more: the same. And the next one follows.
    assert_eq!(wire.produce(&topic.id, 0, lost).base_offset, 1);
    let next = wire.produce(&topic.id, 0, batch(producer, 3, &["fourth"]));
    assert_eq!((next.error, next.base_offset), (0, 3), "{next:?}");
    let values: Vec<_> = cluster.read_all("t").iter().map(|record| record["value"].clone()).collect();
    assert_eq!(values, ["first", "second", "third", "fourth"]);
}
