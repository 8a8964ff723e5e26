//! Topics change while they are in use: what they are set to, and how many partitions they have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_client::{
    Client, ConsumerConfig, PartitionId, Partitions, ProducerConfig, Record, RecordPlace, Start,
};
use quorate_proto::ErrorCode;
use quorate_proto::ids::ProducerId;
use quorate_tests::cluster::signal;
use quorate_tests::command::Running;
use quorate_tests::wire::{Wire, batch};
use quorate_tests::{Cluster, wait};
use serde_json::{Value, json};

/// What `topic config get` says, as the nodes at `servers` know it.
fn configs(cluster: &Cluster, topic: &str, servers: &str) -> Value {
    let args = ["topic", "config", "get", topic, "--json", "--servers", servers];
    cluster.run(args).done().json()["configs"].clone()
}

/// Waits until every node has heard of these settings.
fn wait_heard(cluster: &Cluster, topic: &str, expected: &Value) {
    for id in cluster.ids() {
        let servers = &cluster.node(id).grpc;
        wait::until("a node to hear of the settings", || {
            (configs(cluster, topic, servers) == *expected).then_some(())
        });
    }
}

#[test]
fn settings_are_shown_changed_and_reset() {
    let mut cluster = Cluster::start(3);
    let (all, first) = (cluster.servers(), cluster.node(1).grpc.clone());
    drop(cluster.run(["topic", "create", "t", "--config", "retention.bytes=5000000"]).done());
    let shown = cluster.run(["topic", "config", "get", "t"]).done();
    let expected = "max.message.bytes=1048588\nmessage.timestamp.type=CreateTime\nretention.bytes=5000000\n\
                    retention.ms=604800000\n";
    assert_eq!(shown.text(), expected);
    assert_eq!(cluster.run(["topic", "config", "get", "t", "retention.ms"]).done().text(), "604800000\n");
    let one = cluster.run(["topic", "config", "get", "t", "retention.ms", "--json"]).done().json();
    assert_eq!(one, json!({"name": "t", "configs": {"retention.ms": "604800000"}}));

    let set = ["topic", "config", "set", "t", "retention.ms=-1", "max.message.bytes=2000"];
    let set = cluster.run(set).done();
    assert_eq!(set.text(), "configured topic t\nmax.message.bytes=2000\nretention.ms=-1\n");
    let expected = json!({
        "max.message.bytes": "2000",
        "message.timestamp.type": "CreateTime",
        "retention.bytes": "5000000",
        "retention.ms": "-1",
    });
    // Every node hears of it, and every command shows it.
    wait_heard(&cluster, "t", &expected);
    let described = cluster.run(["topic", "describe", "t", "--json"]).done().json();
    assert_eq!(described["configs"], expected);
    let listed = cluster.run(["topic", "list", "--json"]).done().json();
    assert_eq!(listed["topics"][0]["configs"], expected);
    assert!(cluster.run(["topic", "describe", "t"]).done().text().contains("\nretention.ms=-1\n"));

    // All that are named, or none; and one that is reset beside one that is set.
    let both = ["topic", "config", "set", "t", "retention.bytes=1", "retention.ms=-2"];
    cluster.run(both).refused(1, "retention.ms must be ");
    assert_eq!(configs(&cluster, "t", &first), expected);
    let reset = ["topic", "config", "set", "t", "--json", "--reset", "retention.ms", "retention.bytes=0"];
    let reset = cluster.run(reset).done().json();
    assert_eq!(reset["configs"]["retention.ms"], json!("604800000"));
    assert_eq!(reset["configs"]["retention.bytes"], json!("0"));
    assert_eq!(reset["configs"]["max.message.bytes"], json!("2000"));

    // It is kept.
    let ids = cluster.ids();
    cluster.kill_all(&ids);
    for id in ids {
        cluster.launch(id);
    }
    cluster.wait_all_ready();
    assert_eq!(configs(&cluster, "t", &all), reset["configs"]);
}

#[test]
fn a_limit_is_honoured_from_the_moment_that_it_is_set() {
    let cluster = Cluster::start(3);
    cluster.create("t", 1, 3);
    let leader = cluster.leader("t", 0);
    let wire = Wire::new(&cluster.node(leader).grpc);
    let topic = wire.topic("t");
    let large = batch(ProducerId::NONE, 0, &[&"x".repeat(3_000)]);
    assert_eq!(wire.produce(&topic.id, 0, large.clone()).error(), ErrorCode::None);
    let limit = |bytes: &str| {
        let setting = format!("max.message.bytes={bytes}");
        let set = cluster.run(["topic", "config", "set", "t", &setting, "--json"]).done().json();
        wait_heard(&cluster, "t", &set["configs"]);
    };
    // One that runs while the limit goes down and up again.
    let mut producer = Running::start(&mut cluster.quorate(["produce", "t", "--json"]));
    producer.write(b"first\n");
    wait::until("the first line", || (cluster.read_all("t").len() == 2).then_some(()));
    limit("1000");
    wait::until("the leader to refuse", || {
        let code = wire.produce(&topic.id, 0, large.clone()).error();
        (code == ErrorCode::BatchTooLarge).then_some(())
    });
    let refused = cluster.run_with(["produce", "t"], format!("{}\n", "x".repeat(3_000)));
    refused.refused(1, "max.message.bytes=1000 of topic t");
    refused.refused(1, "topic config set");
    limit("5000");
    wait::until("the leader to take it again", || {
        let code = wire.produce(&topic.id, 0, large.clone()).error();
        (code == ErrorCode::None).then_some(())
    });
    producer.write(format!("{}\n", "x".repeat(3_000)).as_bytes());
    let produced = producer.end().done().json();
    assert_eq!((&produced["acked"], &produced["failed"]), (&json!(2), &json!(0)), "{produced}");
    // Records that lay there are read whatever the limit is.
    limit("61");
    assert!(cluster.read_all("t").len() >= 4);
}

#[test]
fn whose_clock_stamps_records_is_changed_while_they_are_written() {
    let cluster = Cluster::start(1);
    cluster.create("t", 1, 1);
    let leader = cluster.leader("t", 0);
    let wire = Wire::new(&cluster.node(leader).grpc);
    let topic = wire.topic("t");
    let stamp = || wire.produce(&topic.id, 0, batch(ProducerId::NONE, 0, &["a"])).log_append_time_ms;
    assert_eq!(stamp(), -1);
    for (value, stamped) in [("LogAppendTime", true), ("CreateTime", false)] {
        drop(cluster.run(["topic", "config", "set", "t", &format!("message.timestamp.type={value}")]).done());
        wait::until("the leader to follow", || ((stamp() > 0) == stamped).then_some(()));
    }
}

/// Where the only partition of `t` begins, and the end of what can be read of it.
fn readable(cluster: &Cluster) -> (Option<u64>, Option<u64>) {
    let described = cluster.run(["topic", "describe", "t", "--json"]).done().json();
    let partition = &described["partitions"][0];
    (partition["log_start_offset"].as_u64(), partition["high_watermark"].as_u64())
}

#[test]
fn retention_is_honoured_from_the_moment_that_it_is_set() {
    let cluster = Cluster::start(3);
    cluster.create("t", 1, 3);
    let leader = cluster.leader("t", 0);
    let wire = Wire::new(&cluster.node(leader).grpc);
    let topic = wire.topic("t");
    let bytes = batch(ProducerId::NONE, 0, &["a"]).len();
    let produce = |count: u64| {
        for _ in 0..count {
            let answer = wire.produce(&topic.id, 0, batch(ProducerId::NONE, 0, &["a"]));
            assert_eq!(answer.error(), ErrorCode::None, "{answer:?}");
        }
    };
    let set = |settings: &[&str]| {
        drop(cluster.run([&["topic", "config", "set", "t"][..], settings].concat()).done());
    };
    let wait_readable = |start: u64, end: u64| {
        wait::until("the log start to rise", || {
            (readable(&cluster) == (Some(start), Some(end))).then_some(())
        });
    };
    produce(10);
    set(&[&format!("retention.bytes={}", 3 * bytes)]);
    wait_readable(7, 10);
    set(&["retention.bytes=-1"]);
    produce(5);
    set(&["retention.bytes=-1", "retention.ms=0"]);
    wait_readable(15, 15);
    // What is deleted does not come back, and what comes from then on stays.
    set(&["--reset", "retention.ms"]);
    let defaults = json!({
        "max.message.bytes": "1048588",
        "message.timestamp.type": "CreateTime",
        "retention.bytes": "-1",
        "retention.ms": "604800000",
    });
    wait_heard(&cluster, "t", &defaults);
    produce(1);
    assert_eq!(readable(&cluster), (Some(15), Some(16)));
}

/// What was acknowledged, by partition and offset.
type Acked = BTreeMap<(i32, u64), String>;

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends numbers without a key until `stop`; notes where each stands.
async fn send(servers: String, stop: Arc<Mutex<bool>>, acked: Arc<Mutex<Acked>>) {
    let producer = Client::grpc(servers.split(',')).producer(ProducerConfig::default());
    for number in 0.. {
        if *lock(&stop) {
            break;
        }
        let ack = producer.send("t", Record::new(number.to_string())).await.expect("it is taken");
        let RecordPlace { partition, offset, .. } = ack.await.expect("it is acknowledged");
        lock(&acked).insert((partition.0, offset.0), number.to_string());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    producer.close().await;
}

/// Reads the whole topic from its beginning, for ever.
async fn read(servers: String, records: Arc<Mutex<Acked>>) {
    let mut consumer = Client::grpc(servers.split(',')).consumer(ConsumerConfig::default());
    consumer.assign("t", Partitions::All, Start::Beginning).await.expect("the topic is there");
    let mut next: BTreeMap<PartitionId, u64> = BTreeMap::new();
    loop {
        let record = consumer.next().await.expect("it can be read");
        let next = next.entry(record.partition).or_default();
        assert_eq!(record.offset.0, *next, "in order, and from the beginning");
        *next += 1;
        let value = String::from_utf8_lossy(&record.value.unwrap_or_default()).into_owned();
        lock(&records).insert((record.partition.0, record.offset.0), value);
    }
}

#[test]
fn partitions_are_added_under_those_who_write_and_read() {
    let cluster = Cluster::start(3);
    cluster.create("t", 1, 3);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (stop, acked, records) = (Arc::default(), Arc::<Mutex<Acked>>::default(), Arc::default());
    let sending = runtime.spawn(send(cluster.servers(), Arc::clone(&stop), Arc::clone(&acked)));
    let reading = runtime.spawn(read(cluster.servers(), Arc::clone(&records)));
    let printed = cluster.folder().join("printed");
    let mut command = cluster.quorate(["consume", "t", "--format", "json"]);
    let mut consumer = command.stdout(File::create(&printed).unwrap()).spawn().unwrap();
    wait::until("the first records", || (lock(&acked).len() > 50).then_some(()));
    wait::until("the command's first records", || (fs::metadata(&printed).unwrap().len() > 0).then_some(()));

    drop(cluster.run(["topic", "add-partitions", "t", "--partitions", "4"]).done());
    let described = cluster.run(["topic", "describe", "t", "--json"]).done().json();
    let partitions = described["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 4);
    assert!(partitions.iter().all(|partition| partition["replicas"].as_array().unwrap().len() == 3));
    let written = || lock(&acked).keys().map(|(partition, _)| *partition).collect::<BTreeSet<_>>();
    wait::until("records in all partitions", || (written() == BTreeSet::from([0, 1, 2, 3])).then_some(()));
    *lock(&stop) = true;
    runtime.block_on(sending).unwrap();
    let acked = lock(&acked).clone();
    wait::until("all to be read", || {
        assert!(!reading.is_finished(), "the reader has failed");
        (*lock(&records) == acked).then_some(())
    });
    // The command began at the end of the first partition, and at the beginning of the others.
    let shown = |partition: i32| -> Vec<u64> {
        let text = fs::read_to_string(&printed).unwrap();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let of = lines.filter(|record| record["partition"] == json!(partition));
        of.map(|record| record["offset"].as_u64().unwrap()).collect()
    };
    for partition in 1..4 {
        let count = acked.keys().filter(|(of, _)| *of == partition).count();
        let all: Vec<_> = (0..u64::try_from(count).unwrap()).collect();
        wait::until("the command to print all of a new partition", || {
            (shown(partition) == all).then_some(())
        });
    }
    signal(consumer.id(), "INT");
    assert_eq!(wait::until("its end", || consumer.try_wait().unwrap()).code(), Some(0));
    reading.abort();

    // By number at once, and with the same answer from all nodes.
    drop(cluster.run_with(["produce", "t", "--partition", "3"], "last\n").done());
    let grown = cluster.run(["topic", "add-partitions", "t", "--partitions", "5", "--json"]).done().json();
    assert_eq!(grown, json!({"name": "t", "partitions": 5}));
    for id in cluster.ids() {
        let servers = cluster.node(id).grpc.clone();
        wait::until("a node to hear of the partition", || {
            let args = ["topic", "describe", "t", "--json", "--servers", &servers];
            let described = cluster.run(args).done().json();
            (described["partitions"].as_array().unwrap().len() == 5).then_some(())
        });
    }
}
