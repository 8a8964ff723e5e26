//! What goes in comes out: lines, keys, headers, partitions, compressions, and every way to begin reading.

use std::io::Read;
use std::process::Stdio;

use quorate_tests::{Cluster, wait};
use serde_json::{Value, json};

/// The values of records shown by `--format json`.
fn values(records: &[Value]) -> Vec<&str> {
    records.iter().map(|record| record["value"].as_str().expect("a value is text")).collect()
}

/// `consume` of everything there is now, as lines of text.
fn consume<'a>(cluster: &Cluster, topic: &'a str, args: &[&'a str]) -> Vec<String> {
    let ran = cluster.run([&["consume", topic, "--until-end"][..], args].concat()).done();
    ran.text().lines().map(str::to_owned).collect()
}

#[test]
fn a_file_comes_back_byte_for_byte() {
    let cluster = Cluster::start(3);
    cluster.create("lines", 1, 3);
    // The last line has no end; one is empty, one has a carriage return.
    let text: String = (0..5_000).map(|number| format!("line {number}\n")).collect::<String>() + "\n\r\nlast";
    let file = cluster.folder().join("input.txt");
    std::fs::write(&file, &text).unwrap();
    let produced =
        cluster.run(["produce", "lines", "--json", "--file", file.to_str().unwrap()]).done().json();
    assert_eq!((&produced["lines"], &produced["acked"]), (&json!(5_003), &json!(5_003)), "{produced}");
    assert_eq!((&produced["unknown"], &produced["failed"]), (&json!(0), &json!(0)), "{produced}");
    let mut keys: Vec<_> = produced.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["acked", "elapsed_ms", "failed", "lines", "longest_ack_gap_ms", "unknown"]);

    // The producer's summary is for people when `--json` is not given, and never on standard output.
    let said = cluster.run_with(["produce", "lines"], "one more").done();
    assert_eq!(said.stdout, b"");
    assert!(said.stderr.contains("1 line acknowledged"), "{said:?}");

    let read = cluster.run(["consume", "lines", "--from", "beginning", "--until-end"]).done();
    assert_eq!(read.text(), format!("{text}\none more\n"));

    // Every node tells the same story.
    for id in cluster.ids() {
        let ran =
            cluster.run(["topic", "describe", "lines", "--json", "--servers", &cluster.node(id).grpc]).done();
        let described = ran.json();
        assert_eq!(described["partitions"][0]["high_watermark"], json!(5_004), "node {id}: {described}");
        assert_eq!(described["partitions"][0]["log_start_offset"], json!(0));
    }
}

#[test]
fn keys_headers_and_bytes_that_are_no_text_are_kept() {
    let cluster = Cluster::start(1);
    cluster.create("t", 3, 1);
    let headers = ["--header", "a=1", "--header", "b=", "--header", "a=x=y"];
    let args = [&["produce", "t", "--key-separator", "=>"][..], &headers].concat();
    drop(cluster.run_with(args, b"k1=>v1\nk1=>v2=>v3\n=>empty key\nno key\nk\xff=>\xfe\n").done());
    let records = cluster.read_all("t");
    let mut by_value: Vec<_> = records.iter().map(|record| (record["value"].clone(), record)).collect();
    by_value.sort_by_key(|(value, _)| value.to_string());
    let shown: Vec<_> =
        by_value.iter().map(|(value, record)| (value.clone(), record["key"].clone())).collect();
    let expected = [
        (json!("empty key"), json!("")),
        (json!("no key"), Value::Null),
        (json!("v1"), json!("k1")),
        (json!("v2=>v3"), json!("k1")),
        (json!({"base64": "/g=="}), json!({"base64": "a/8="})),
    ];
    assert_eq!(shown, expected);
    let headers =
        json!([{"key": "a", "value": "1"}, {"key": "b", "value": ""}, {"key": "a", "value": "x=y"}]);
    assert!(records.iter().all(|record| record["headers"] == headers), "{records:?}");
    // One key, one partition, in order.
    let of_k1: Vec<_> = records.iter().filter(|record| record["key"] == "k1").collect();
    assert_eq!(of_k1[0]["partition"], of_k1[1]["partition"]);
    assert!(of_k1[0]["offset"].as_u64() < of_k1[1]["offset"].as_u64());
    // Kafka puts the key "k1" of a topic with three partitions here (murmur2).
    let mut keys: Vec<_> = records[0].as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["headers", "key", "offset", "partition", "timestamp", "value"]);
    // Values only: bytes as they are.
    let raw = cluster.run(["consume", "t", "--from", "beginning", "--until-end", "--format", "value"]).done();
    assert!(raw.stdout.windows(2).any(|bytes| bytes == b"\xfe\n"), "{raw:?}");
}

#[test]
fn partitions_are_chosen_and_read_apart() {
    let cluster = Cluster::start(1);
    cluster.create("t", 3, 1);
    for partition in ["0", "2"] {
        let lines: String = (0..10).map(|number| format!("{partition}-{number}\n")).collect();
        drop(cluster.run_with(["produce", "t", "--partition", partition], lines).done());
    }
    let expected: Vec<_> = (0..10).map(|number| format!("2-{number}")).collect();
    assert_eq!(consume(&cluster, "t", &["--partition", "2", "--from", "beginning"]), expected);
    assert_eq!(consume(&cluster, "t", &["--partition", "1", "--from", "beginning"]), [""; 0]);
    assert_eq!(consume(&cluster, "t", &["--from", "beginning"]).len(), 20);
    // The last two of each partition.
    let mut last = consume(&cluster, "t", &["--from", "-2"]);
    last.sort();
    assert_eq!(last, ["0-8", "0-9", "2-8", "2-9"]);
}

#[test]
fn every_compression_comes_back() {
    let cluster = Cluster::start(1);
    cluster.create("t", 1, 1);
    let mut expected = Vec::new();
    for kind in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let lines: Vec<_> = (0..300).map(|number| format!("{kind} {number} {}", "x".repeat(100))).collect();
        drop(cluster.run_with(["produce", "t", "--compression", kind], lines.join("\n")).done());
        expected.extend(lines);
    }
    assert_eq!(values(&cluster.read_all("t")), expected);
    cluster.run(["produce", "t", "--compression", "zip"]).refused(2, "zip");
}

#[test]
fn a_reader_begins_where_it_is_told() {
    let cluster = Cluster::start(1);
    cluster.create("t", 1, 1);
    for number in 0..10 {
        // One run of the command a record, so that each has a batch of its own.
        drop(cluster.run_with(["produce", "t"], number.to_string()).done());
    }
    let records = cluster.read_all("t");
    let times: Vec<_> = records.iter().map(|record| record["timestamp"].as_i64().unwrap()).collect();
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "{times:?}");
    let check = |from: &str, expected: &str| {
        assert_eq!(consume(&cluster, "t", &["--from", from]).concat(), expected, "--from {from}");
    };
    check("beginning", "0123456789");
    check("end", "");
    check("7", "789");
    check("10", "");
    check("-3", "789");
    check("-0", "");
    check("-100", "0123456789");
    check("@0", "0123456789");
    check(&format!("@{}", times[4]), "456789");
    check(&format!("@{}", times[4] + 1), "56789");
    check(&format!("@{}", times[9] + 1), "");
    check("@1970-01-01T00:00:00Z", "0123456789");
    assert_eq!(consume(&cluster, "t", &["--from", "2", "--max", "3"]).concat(), "234");
    // By default, what is yet to come.
    assert_eq!(consume(&cluster, "t", &[]).concat(), "");
    cluster.run(["consume", "t", "--from", "11", "--until-end"]).refused(1, "11");
    cluster.run(["consume", "t", "--from", "yesterday"]).refused(2, "@TIME");
}

#[test]
fn a_reader_that_waits_sees_what_comes_and_may_go_away() {
    let cluster = Cluster::start(1);
    cluster.create("t", 2, 1);
    let mut command = cluster.quorate(["consume", "t", "--from", "beginning"]);
    let mut reader = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = reader.stdout.take().unwrap();
    drop(cluster.run_with(["produce", "t"], "first\n").done());
    let mut first = [0; 6];
    stdout.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"first\n");
    // As `| head -1` does: nobody reads any more, which is no failure.
    drop(stdout);
    let status = wait::until("the reader's end", || reader.try_wait().unwrap());
    let mut said = String::new();
    reader.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));
}

#[test]
fn topics_are_listed_described_deleted_and_made_again() {
    let cluster = Cluster::start(3);
    cluster.create("t", 3, 3);
    let described = cluster.run(["topic", "describe", "t", "--json"]).done().json();
    let keys = |value: &Value| {
        let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys
    };
    assert_eq!(keys(&described), ["configs", "id", "name", "partitions"]);
    let partition = ["high_watermark", "leader", "leader_epoch", "log_start_offset", "partition", "replicas"];
    assert_eq!(keys(&described["partitions"][2]), partition);
    // Each partition lies on every node, and each node is the preferred leader of one.
    let partitions = described["partitions"].as_array().unwrap();
    assert!(partitions.iter().all(|partition| partition["replicas"].as_array().unwrap().len() == 3));
    let mut preferred: Vec<_> =
        partitions.iter().map(|partition| partition["replicas"][0].as_u64().unwrap()).collect();
    preferred.sort_unstable();
    assert_eq!(preferred, [1, 2, 3]);
    let warned = cluster.run(["topic", "create", "even", "--partitions", "2", "--replicas", "2"]).done();
    assert!(warned.stderr.contains("warning"), "2 replicas survive no loss: {warned:?}");
    let listed = cluster.run(["topic", "list"]).done();
    let names: Vec<_> = listed.text().lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(names.contains(&"even") && names.contains(&"t"), "{listed:?}");

    drop(cluster.run_with(["produce", "t"], "of the first\n").done());
    drop(cluster.run(["topic", "delete", "t"]).done());
    cluster.run(["topic", "describe", "t"]).refused(1, "t");
    cluster.create("t", 1, 3);
    let again = cluster.run(["topic", "describe", "t", "--json"]).done().json();
    assert_ne!(again["id"], described["id"]);
    drop(cluster.run_with(["produce", "t"], "of the second\n").done());
    assert_eq!(values(&cluster.read_all("t")), ["of the second"]);

    let status = cluster.run(["cluster", "status", "--json"]).done().json();
    assert_eq!(
        keys(&status),
        ["attention", "cluster_id", "leaderless", "moving", "nodes", "under_replicated", "waiting"]
    );
    assert_eq!(status["attention"], json!([]));
    let of_a_node = [
        "alive",
        "damaged_entries",
        "disk_free_bytes",
        "grpc",
        "http",
        "id",
        "identity",
        "leads",
        "rack",
        "repaired_entries",
        "replicas",
        "role",
    ];
    assert_eq!(keys(&status["nodes"][0]), of_a_node);
    for node in status["nodes"].as_array().unwrap() {
        assert!(node["disk_free_bytes"].as_u64().unwrap() > 0, "{status}");
        assert_eq!((&node["damaged_entries"], &node["repaired_entries"]), (&json!(0), &json!(0)));
    }
    let sum = |key: &str| -> u64 {
        status["nodes"].as_array().unwrap().iter().map(|node| node[key].as_u64().unwrap()).sum()
    };
    // Two partitions of two replicas, one of three.
    assert_eq!((sum("leads"), sum("replicas")), (3, 7), "{status}");
    assert_eq!((&status["leaderless"], &status["under_replicated"]), (&json!(0), &json!(0)));
}
