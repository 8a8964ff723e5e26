//! `quorate bench`: each benchmark measures what it says, and what cannot be measured is refused in words.

use std::fs;
use std::path::Path;
use std::time::Duration;

use quorate_tests::cluster::{Cluster, signal};
use quorate_tests::command::{Ran, Running, quorate, run};
use quorate_tests::{ports, wait};
use serde_json::{Value, json};

/// Of each distribution of times.
const PERCENTILES: [&str; 7] = ["min", "p50", "p90", "p99", "p999", "p9999", "max"];

fn bench(cluster: &Cluster, line: &str) -> Ran {
    cluster.run(["bench"].into_iter().chain(line.split(' ')))
}

fn number(report: &Value, path: &str) -> f64 {
    let found = report.pointer(path).and_then(Value::as_f64);
    found.unwrap_or_else(|| panic!("no number at {path} in {report}"))
}

/// Checks that times are measured and in order.
fn assert_times(report: &Value, name: &str) {
    let times = PERCENTILES.map(|key| number(report, &format!("/{name}/{key}")));
    assert!(times.is_sorted() && times[0] > 0.0, "{name} in {report}");
}

/// Checks that the node and the client used their processors.
fn assert_cpu(report: &Value) {
    assert!(number(report, "/cpu_s/nodes") > 0.0, "{report}");
    assert!(number(report, "/cpu_s/clients") > 0.0, "{report}");
    assert_eq!(report.pointer("/cpu_s/nodes"), report.pointer("/cpu_s/per_node/1"), "{report}");
}

#[test]
fn what_was_produced_is_consumed_and_compared() {
    let cluster = Cluster::start(1);
    let load = "produce --json --topic b --partitions 2 --record-bytes 100 --key-bytes 8 --producers 2";
    let produced =
        bench(&cluster, &format!("{load} --seconds 0.5 --warmup 0.2 --disk {}", cluster.folder().display()));
    let produced = produced.done().json();
    assert!(number(&produced, "/records_per_s") > 0.0 && number(&produced, "/mb_per_s") > 0.0, "{produced}");
    assert_eq!(number(&produced, "/bytes"), number(&produced, "/records") * 108.0);
    assert_times(&produced, "ack_ms");
    assert_cpu(&produced);
    assert!(number(&produced, "/memory_mb/1") > 1.0, "{produced}");
    assert_eq!(produced["unacknowledged"], json!(0));
    assert_eq!(produced["settings"]["partitions"], json!(2));
    assert_eq!(number(&produced, "/disk/appenders/1/chunk_bytes"), 1_048_576.0);

    let there = u64::try_from(cluster.read_all("b").len()).unwrap();
    assert!(there > produced["records"].as_u64().unwrap(), "those of the warm-up are not counted");
    let consumed = bench(&cluster, "consume --json --topic b --consumers 2").done().json();
    assert_eq!(consumed["records"].as_u64(), Some(2 * there));
    assert_eq!(consumed["bytes"].as_u64(), Some(2 * 108 * there));
    assert!(number(&consumed, "/records_per_s") > 0.0, "{consumed}");
    assert_cpu(&consumed);
    let some = bench(&cluster, "consume --json --topic b --records 10").done().json();
    assert_eq!(some["records"], json!(10));
    bench(&cluster, "consume --topic b --records 1000000000")
        .refused(1, &format!("holds {there} records, and not 1000000000"));

    let (before, after) = (cluster.folder().join("before.json"), cluster.folder().join("after.json"));
    fs::write(&before, produced.to_string()).unwrap();
    let again = bench(&cluster, &format!("{load} --records 500 --seconds 20")).done().json();
    assert_eq!(again["records"], json!(500));
    fs::write(&after, again.to_string()).unwrap();
    let compared = bench(&cluster, &format!("compare {} {}", before.display(), after.display())).done();
    assert!(compared.text().starts_with("settings.seconds: 0.5 before, 20.0 after\n"), "{compared:?}");
    assert!(compared.text().contains("\n ack_ms.p99"), "{compared:?}");

    let anew = bench(&cluster, "produce --json --topic b --partitions 3 --fresh --records 10").done().json();
    assert_eq!(anew["settings"]["partitions"], json!(3));
    assert_eq!(cluster.read_all("b").len(), 10);
}

#[test]
fn times_are_those_to_the_acknowledgement_and_to_the_receipt() {
    let cluster = Cluster::start(1);
    let latency = "latency --json --topic l --partitions 2 --rate 500 --seconds 1 --warmup 0.3 --consumers 2";
    let report = bench(&cluster, latency).done().json();
    assert_times(&report, "ack_ms");
    assert_times(&report, "receipt_ms");
    let records = report["records"].as_u64().unwrap();
    // What a busy machine sends more than a second too late is not sent at all.
    assert!((200..=500).contains(&records), "{report}");
    assert_eq!(report["received"].as_u64(), Some(2 * records));
    assert!(report["rate_reached"].is_boolean(), "{report}");
    // A line of a file stands behind the stamp.
    let lines = cluster.folder().join("lines");
    fs::write(&lines, "one\ntwo\n").unwrap();
    let file = format!("latency --json --topic l --rate 50 --seconds 0.5 --payload-file {}", lines.display());
    let report = bench(&cluster, &file).done().json();
    assert_eq!(number(&report, "/bytes"), number(&report, "/records") * 19.0);
    bench(&cluster, "latency --record-bytes 15").refused(2, "at least 16");

    let one = bench(&cluster, "one --json --seconds 0.5").done().json();
    assert_times(&one, "ack_ms");
    assert_eq!((&one["settings"]["partitions"], &one["settings"]["linger_ms"]), (&json!(1), &json!(0)));
    let text = bench(&cluster, "one --records 5").done();
    assert!(text.text().starts_with("5 records in ") && text.text().contains("p99.99"), "{text:?}");
}

#[test]
fn more_partitions_are_set_beside_fewer() {
    let cluster = Cluster::start(1);
    let line = "partitions --json --counts 1,3 --seconds 0.3 --key-bytes 8 --topic p";
    let report = bench(&cluster, line).done().json();
    let runs = report["runs"].as_array().unwrap();
    let seen: Vec<_> = runs.iter().map(|run| run["settings"]["partitions"].as_u64().unwrap()).collect();
    assert_eq!(seen, [1, 3]);
    assert_eq!(number(&report, "/runs/0/share"), 1.0);
    assert!(runs.iter().all(|run| number(run, "/records_per_s") > 0.0), "{report}");
    assert!(!cluster.run(["topic", "list"]).done().text().contains("p-1"), "they are removed");
}

#[test]
fn what_cannot_be_measured_is_said() {
    let cluster = Cluster::start(1);
    cluster.create("four", 4, 1);
    bench(&cluster, "produce --topic four --partitions 12").refused(1, "is there with 4 partitions, not 12");
    bench(&cluster, "consume --topic four").refused(1, "topic four holds no records: fill it with");
    bench(&cluster, "consume --topic none").refused(1, "none");
    bench(&cluster, "produce --records 0").refused(2, "must be a whole number from 1 to");
    let lines = cluster.folder().join("lines");
    for (text, said) in [(String::new(), "holds no lines"), ("x".repeat(1_000_001), "line 1 of ")] {
        fs::write(&lines, text).unwrap();
        let line = format!("produce --topic four --payload-file {}", lines.display());
        bench(&cluster, &line).refused(1, said);
    }
    let slow = bench(&cluster, "produce --topic four --rate 4000000 --seconds 0.5 --json").done();
    assert!(slow.stderr.contains("the rate of 4000000/s was not reached"), "{slow:?}");
    assert_eq!(slow.json()["rate_reached"], json!(false));
    fs::write(&lines, "not json").unwrap();
    let twice = format!("compare {} {}", lines.display(), lines.display());
    bench(&cluster, &twice).refused(1, "is not what `quorate bench .. --json` prints");
    fs::write(&lines, "{\"a\":\"b\"}").unwrap();
    bench(&cluster, &twice).refused(1, "have no figure in common");
    let none = cluster.folder().join("no-dev");
    run(&mut quorate(["bench", "failover", "--data", none.to_str().unwrap()]))
        .refused(1, "no quorate dev is ready");
    let nobody = ports::free_row(1).to_string();
    run(&mut quorate(["bench", "one", "--servers", &nobody])).refused(1, "cannot reach any server");
}

#[test]
fn ctrl_c_prints_what_was_measured_so_far() {
    let cluster = Cluster::start(1);
    let line = ["bench", "produce", "--topic", "i", "--seconds", "3000", "--rate", "100", "--json"];
    let running = Running::start(&mut cluster.quorate(line));
    wait::until("records", || {
        let listed = cluster.run(["topic", "describe", "i"]);
        (listed.status == Some(0) && cluster.read_all("i").len() > 20).then_some(())
    });
    signal(running.pid(), "INT");
    let ran = running.end();
    ran.refused(130, "interrupted: the figures are of what was measured so far");
    assert!(number(&ran.json(), "/records") > 20.0, "{ran:?}");
    assert_times(&ran.json(), "ack_ms");
}

/// A `quorate dev` of three, once it is ready.
fn dev(data: &Path) -> Running {
    let mut command = quorate(["dev", "--nodes", "3", "--data"]);
    command.arg(data);
    for flag in ["--base-port-grpc", "--base-port-peer", "--base-port-http"] {
        command.args([flag, &ports::free_row(3).to_string()]);
    }
    let running = Running::start(&mut command);
    wait::until("cluster.json", || data.join("cluster.json").is_file().then_some(()));
    running
}

#[test]
fn a_leader_and_a_follower_are_killed_and_the_silence_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let running = dev(&data);
    for kind in ["leader", "follower"] {
        let args =
            ["bench", "failover", "--trials", "1", "--rate", "500", "--kind", kind, "--json", "--data"];
        let mut command = quorate(args);
        command.arg(&data);
        let ran = Running::start(&mut command).end_within(Duration::from_secs(120)).done();
        let report = ran.json();
        assert_eq!(report["settings"]["kind"], json!(kind));
        assert_times(&report, "gap_ms");
        let gap = number(&report, "/trials/0/gap_ms");
        assert!(gap < 60_000.0 && (gap - number(&report, "/gap_ms/max")).abs() < gap / 100.0, "{report}");
        assert_eq!(report["unacknowledged"], json!(0));
        assert!(number(&report, "/records") > 1_000.0, "{report}");
        assert!(ran.stderr.contains("was killed, longest gap"), "{ran:?}");
    }
    signal(running.pid(), "INT");
    drop(running.end_within(Duration::from_secs(30)).done());
}
