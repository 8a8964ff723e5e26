//! Bad input, and what it gets: a clear sentence and the right exit status; nothing lost, nothing half done.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use quorate_proto::ErrorCode;
use quorate_proto::ids::ProducerId;
use quorate_tests::cluster::{Shape, signal};
use quorate_tests::command::{Running, quorate, run, run_with};
use quorate_tests::wire::{Wire, batch};
use quorate_tests::{Cluster, ports, wait};
use redb::{Database, TableDefinition};
use serde_json::json;

/// What `produce --json` counts, as (lines, acked, unknown, failed).
fn counts(document: &serde_json::Value) -> (u64, u64, u64, u64) {
    let count = |key: &str| document[key].as_u64().unwrap_or_else(|| panic!("{key} in {document}"));
    (count("lines"), count("acked"), count("unknown"), count("failed"))
}

#[test]
fn topics_and_partitions_that_are_not_there() {
    let cluster = Cluster::start(1);
    let unknown = [
        &["produce", "nope"][..],
        &["consume", "nope", "--until-end"],
        &["topic", "describe", "nope"],
        &["topic", "delete", "nope"],
    ];
    for args in unknown {
        cluster.run_with(args, "a line\n").refused(1, "nope");
    }
    // A node does not create topics by itself.
    assert_eq!(cluster.run(["topic", "list", "--json"]).done().json()["topics"], json!([]));
    cluster.create("t", 2, 1);
    for partition in ["2", "2147483647"] {
        cluster.run_with(["produce", "t", "--partition", partition], "a line\n").refused(1, partition);
        cluster.run(["consume", "t", "--until-end", "--partition", partition]).refused(1, partition);
    }
    for partition in ["-1", "x", "2147483648"] {
        cluster.run_with(["produce", "t", "--partition", partition], "a line\n").refused(2, partition);
    }
}

#[test]
fn a_first_produce_creates_a_topic_only_where_that_was_asked_for() {
    let cluster = Cluster::start_as(&Shape::of(1).flag("--auto-create-topics"));
    let made = "topic fresh did not exist and was created";
    for is_first in [true, false] {
        let produced = cluster.run_with(["produce", "fresh"], "a line\n").done();
        assert_eq!(produced.stderr.contains(made), is_first, "{produced:?}");
    }
    assert_eq!(cluster.read_all("fresh").len(), 2);
    // Reading creates nothing, and no wrong name is created.
    cluster.run(["consume", "nope", "--until-end"]).refused(1, "nope");
    cluster.run(["topic", "describe", "nope"]).refused(1, "nope");
}

#[test]
fn names_that_are_none() {
    let long = "x".repeat(250);
    for (name, fragment) in
        [("a/b", "'/'"), ("..", "\"..\""), (long.as_str(), "249"), ("", "at least one character")]
    {
        // Seen on the command line alone: no server is asked.
        for args in [
            &["topic", "create", name][..],
            &["produce", name],
            &["consume", name],
            &["topic", "delete", name],
        ] {
            run(&mut quorate(args)).refused(2, fragment);
        }
    }
    let cluster = Cluster::start(1);
    // And a node does not trust its clients.
    let wire = Wire::new(&cluster.node(1).grpc);
    for name in ["a/b", "..", &long, "", "__ours"] {
        assert_eq!(wire.create_topic(name).error(), ErrorCode::InvalidTopicName, "{name:?}");
    }
    cluster.run(["topic", "create", "__ours"]).refused(1, "__");
    cluster.create(&"x".repeat(249), 1, 1);
}

#[test]
fn topics_that_cannot_be() {
    let cluster = Cluster::start(1);
    cluster.run(["topic", "create", "t", "--replicas", "2"]).refused(1, "2 replicas");
    cluster.run(["topic", "create", "t", "--partitions", "0"]).refused(2, "--partitions");
    cluster.run(["topic", "create", "t", "--replicas", "0"]).refused(2, "--replicas");
    // Which keys there are only the cluster knows; how one is written, the command line shows.
    cluster.run(["topic", "create", "t", "--config", "max.mesage.bytes=5"]).refused(1, "max.message.bytes");
    cluster.run(["topic", "create", "t", "--config", "max.message.bytes=many"]).refused(1, "many");
    cluster.run(["topic", "create", "t", "--config", "max.message.bytes"]).refused(2, "key=value");
    cluster.run(["topic", "describe", "t"]).refused(1, "t");
    cluster.create("t", 1, 1);
    cluster.run(["topic", "create", "t"]).refused(1, "exists");
}

#[test]
fn batches_that_are_damaged_or_too_large() {
    let cluster = Cluster::start(1);
    cluster.create("t", 1, 1);
    cluster.leader("t", 0);
    let wire = Wire::new(&cluster.node(1).grpc);
    let topic = wire.topic("t");
    let good = batch(ProducerId::NONE, 0, &["a", "b"]);
    let damaged = |at: usize, by: u8| {
        let mut bytes = good.to_vec();
        bytes[at] ^= by;
        wire.produce(&topic.id, 0, bytes).error()
    };
    // The byte table is proto/src/batch.rs's: magic, CRC, count, last offset delta, length, and a byte of a record.
    for at in [16, 17, 60, 26, 11, good.len() - 1] {
        assert_eq!(damaged(at, 1), ErrorCode::CorruptBatch, "byte {at}");
    }
    assert_eq!(wire.produce(&topic.id, 0, good.slice(..good.len() - 1)).error(), ErrorCode::CorruptBatch);
    assert_eq!(wire.produce(&topic.id, 0, good.slice(..20)).error(), ErrorCode::CorruptBatch);
    assert_eq!(wire.produce(&topic.id, 0, vec![]).error(), ErrorCode::CorruptBatch);
    let large = batch(ProducerId::NONE, 0, &[&"x".repeat(1_048_588)]);
    assert_eq!(wire.produce(&topic.id, 0, large).error(), ErrorCode::BatchTooLarge);
    assert_eq!(wire.produce(&[7; 16], 0, good.clone()).error(), ErrorCode::UnknownTopicId);
    assert_eq!(wire.produce(&topic.id, 1, good.clone()).error(), ErrorCode::UnknownPartition);
    // Nothing of all that is in the log, and the node takes a good one.
    let taken = wire.produce(&topic.id, 0, good);
    assert_eq!((taken.error(), taken.base_offset), (ErrorCode::None, 0), "{taken:?}");
    assert_eq!(cluster.read_all("t").len(), 2);

    // A topic that takes more gets more.
    drop(cluster.run(["topic", "create", "roomy", "--config", "max.message.bytes=3000000"]).done());
    let line = "x".repeat(2_999_900);
    drop(cluster.run_with(["produce", "roomy"], format!("{line}\n")).done());
    assert_eq!(
        cluster.run(["consume", "roomy", "--from", "beginning", "--until-end"]).done().text().trim_end(),
        line
    );

    // A line that no batch can hold is counted as failed; those around it are sent.
    let lines = format!("before\n{}\nafter\n", "x".repeat(2_000_000));
    let produced = cluster.run_with(["produce", "t", "--json"], lines);
    produced.refused(1, "line 2");
    assert_eq!(counts(&produced.json()), (3, 2, 0, 1));
    drop(cluster.run(["topic", "create", "small", "--config", "max.message.bytes=1000"]).done());
    let produced = cluster.run_with(["produce", "small", "--json"], format!("{}\n", "x".repeat(1_000)));
    produced.refused(1, "line 1");
    produced.refused(1, "max.message.bytes=1000 of topic small");
    assert_eq!(counts(&produced.json()), (1, 0, 0, 1));
    assert_eq!(cluster.read_all("small").len(), 0);
}

#[test]
fn flags_and_keys_that_are_unknown() {
    for (args, nearest) in [
        (&["produce", "t", "--compresion", "lz4"][..], "--compression"),
        (&["consume", "t", "--untilend"], "--until-end"),
        (&["node", "--listen-grcp", "127.0.0.1:1"], "--listen-grpc"),
        (&["topic", "create", "t", "--partition", "1"], "--partitions"),
        (&["topik"], "topic"),
    ] {
        run(&mut quorate(args)).refused(2, nearest);
    }
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("node.toml");
    fs::write(&config, "id = 1\nlisten_grcp = \"127.0.0.1:7001\"\n").unwrap();
    let ran = run(&mut quorate(["node", "--config", config.to_str().unwrap()]));
    // The command line is right: it is the file that cannot be used.
    ran.refused(1, "node.toml: line 2: unknown key \"listen_grcp\", did you mean \"listen_grpc\"?");
    let none = folder.path().join("none.toml");
    run(&mut quorate(["node", "--config", none.to_str().unwrap()])).refused(1, "none.toml");
    fs::write(&config, "id = 1\ndata = n1\n").unwrap();
    let ran = run(&mut quorate(["node", "--config", config.to_str().unwrap()]));
    ran.refused(1, "node.toml: line 2: strings need quotes: data = \"n1\"");
    // A value that was not typed is not blamed on a flag alone.
    run(quorate(["node", "--data", "d"]).env("QUORATE_ID", "abc")).refused(2, "environment: QUORATE_ID");
}

#[test]
fn numbers_below_zero_are_no_flags() {
    for (args, fragment) in [
        (&["produce", "t", "--rate", "-1"][..], "must be a whole number from 1 to"),
        (&["produce", "t", "--partition", "-1"], "must be a whole number from 0 to 2147483647"),
        (&["consume", "t", "--max", "-1"], "must be a whole number"),
        (&["topic", "create", "t", "--partitions", "-1"], "must be a whole number from 1 to"),
        (&["topic", "create", "t", "--partitions", "abc"], "must be a whole number from 1 to 2147483647"),
        (&["log", "dump", "--data", "d", "--group", "abc"], "must be a whole number from 0 to"),
        (&["bench", "produce", "--partitions", "0"], "must be a whole number from 1 to 10000"),
    ] {
        run(&mut quorate(args)).refused(2, fragment);
    }
}

#[test]
fn flags_in_the_environment_are_on_or_off() {
    let start = |word: &str| {
        let mut node = quorate(["node", "--id", "1", "--data", "/nonexistent", "--listen-grpc", "0.0.0.0:1"]);
        run(node.env("QUORATE_INSECURE", word))
    };
    // Let out of this machine, it wants to know next under which address.
    for on in ["1", "true", "yes", "on", "YES"] {
        start(on).refused(2, "--advertise-grpc");
    }
    for off in ["0", "false", "no", "off"] {
        start(off).refused(2, "0.0.0.0:1 can be reached from other machines");
    }
    for neither in ["", "maybe", "2"] {
        start(neither).refused(2, "--insecure");
        start(neither).refused(2, "must be 1, true, yes or on");
    }
}

/// Makes `meta.redb` one of another version: a fact is its value and the CRC-32C of that.
fn set_format(meta: &Path, version: u32) {
    const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");
    let value = version.to_le_bytes();
    let checked = [value, crc32c::crc32c(&value).to_le_bytes()].concat();
    let write = || -> Result<(), redb::Error> {
        let database = Database::open(meta)?;
        let write = database.begin_write()?;
        write.open_table(FACTS)?.insert("format", checked.as_slice())?;
        write.commit()?;
        Ok(())
    };
    write().expect("meta.redb can be written");
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let mut cluster = Cluster::lay_out(&Shape::of(1));
    // A port in use: nothing is left behind that would hinder a second try.
    for address in [cluster.node(1).grpc.clone(), cluster.node(1).peer.clone(), cluster.node(1).http.clone()]
    {
        let taken = std::net::TcpListener::bind(&address).unwrap();
        run(&mut cluster.node_command(1)).refused(1, &address);
        drop(taken);
    }
    cluster.launch(1);
    cluster.wait_ready(1);
    cluster.create("t", 1, 1);
    drop(cluster.run_with(["produce", "t"], "kept\n").done());

    // A second process on the same folder.
    let mut second = quorate(["node", "--id", "1", "--data"]);
    second.arg(&cluster.node(1).data);
    for flag in ["--listen-grpc", "--listen-peer", "--listen-http"] {
        second.args([flag, &format!("127.0.0.1:{}", ports::free())]);
    }
    run(&mut second).refused(1, cluster.node(1).data.to_str().unwrap());
    assert_eq!(cluster.read_all("t").len(), 1);
    cluster.kill(1);

    // A damaged meta.redb.
    let meta = cluster.node(1).data.join("meta.redb");
    let good = fs::read(&meta).unwrap();
    fs::write(&meta, vec![0xa5; good.len()]).unwrap();
    run(&mut cluster.node_command(1)).refused(1, "meta.redb");
    run(&mut cluster.node_command(1)).refused(1, "put an intact copy back");
    run(&mut cluster.node_command(1)).refused(1, "quorate cluster replace-node");
    fs::write(&meta, &good[..100]).unwrap();
    run(&mut cluster.node_command(1)).refused(1, "meta.redb");
    fs::write(&meta, &good).unwrap();

    // Another node's folder, and no peers that would refuse it.
    let mut other = quorate(["node", "--id", "2", "--data"]);
    other.arg(&cluster.node(1).data).args(["--listen-grpc", &cluster.node(1).grpc]);
    other.args(["--listen-peer", &cluster.node(1).peer, "--listen-http", &cluster.node(1).http]);
    run(&mut other).refused(1, "belongs to node 1, not to node 2");

    // A folder of another version.
    set_format(&meta, 99);
    run(&mut cluster.node_command(1)).refused(1, "version 99");
    set_format(&meta, 1);

    // What was there is there again.
    cluster.launch(1);
    cluster.wait_ready(1);
    assert_eq!(cluster.read_all("t").len(), 1);
}

#[test]
fn addresses_that_are_in_each_others_way() {
    let same = "127.0.0.1:7999";
    let mut node = quorate(["node", "--id", "1", "--data", "/nonexistent", "--listen-grpc", same]);
    run(node.args(["--listen-peer", same]))
        .refused(2, "--listen-grpc and --listen-peer are both 127.0.0.1:7999");
    let twice = "1=127.0.0.1:7999,2=127.0.0.1:7999";
    run(&mut quorate(["node", "--id", "1", "--data", "/nonexistent", "--bootstrap", twice]))
        .refused(2, "nodes 1 and 2 have the same address");
}

#[test]
fn a_bootstrap_that_comes_too_late_is_named() {
    let mut cluster = Cluster::start(1);
    cluster.kill(1);
    let node = cluster.node(1);
    let (grpc, peer, http) = (&node.grpc, &node.peer, &node.http);
    let mut command = quorate(["node", "--id", "1", "--listen-grpc", grpc, "--listen-http", http, "--data"]);
    // Peers are awaited where --bootstrap says.
    let elsewhere = format!("127.0.0.1:{}", ports::free());
    command.arg(&node.data).args(["--bootstrap", &format!("1={peer},2={elsewhere}")]);
    cluster.launch_as(1, command);
    cluster.wait_ready(1);
    std::net::TcpStream::connect(&cluster.node(1).peer).unwrap();
    let log = cluster.node(1).log();
    assert!(log.contains("--bootstrap comes too late for nodes 2"), "{log}");
}

#[test]
fn a_folder_that_may_not_be_written() {
    let cluster = Cluster::lay_out(&Shape::of(1));
    let data = &cluster.node(1).data;
    fs::create_dir(data).unwrap();
    let mut permissions = fs::metadata(data).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(data, permissions).unwrap();
    let mut command = cluster.node_command(1);
    // Root writes where it likes, unless it gives that up.
    if fs::File::create(data.join("probe")).is_ok() {
        fs::remove_file(data.join("probe")).unwrap();
        let node = command;
        command = Command::new("setpriv");
        command
            .arg("--bounding-set=-dac_override,-dac_read_search")
            .arg(node.get_program())
            .args(node.get_args());
    }
    run(&mut command).refused(1, data.to_str().unwrap());
    assert_eq!(fs::read_dir(data).unwrap().count(), 0);
}

#[test]
fn servers_that_are_down_are_named_with_the_reason() {
    let nobody = format!("127.0.0.1:{}", ports::free());
    let start = Instant::now();
    let commands = [
        &["topic", "list"][..],
        &["topic", "create", "t"],
        &["consume", "t"],
        &["cluster", "status"],
        &["produce", "t", "--timeout", "2s"],
    ];
    std::thread::scope(|scope| {
        for args in commands {
            let nobody = &nobody;
            scope.spawn(move || {
                // The domain `invalid` never resolves (RFC 6761).
                let servers = format!("{nobody},host.invalid:7001");
                let ran = run_with(quorate(args).args(["--servers", &servers]), b"a line\n");
                ran.refused(1, nobody);
                ran.refused(1, "refused");
                ran.refused(1, "host.invalid:7001");
                // Not only at the end.
                if args[0] != "produce" {
                    ran.refused(1, "still trying, 10 s at most");
                }
            });
        }
    });
    assert!(start.elapsed() < Duration::from_secs(25), "gave up after {:?}", start.elapsed());
    run(quorate(["topic", "list"]).args(["--servers", "nonsense"])).refused(2, "nonsense");
    run(quorate(["topic", "list"]).args(["--servers", "http://127.0.0.1:7001"]))
        .refused(2, "without a scheme");
}

#[test]
fn a_port_that_is_not_for_clients_is_told() {
    let cluster = Cluster::start(1);
    let node = cluster.node(1);
    std::thread::scope(|scope| {
        for port in [&node.http, &node.peer] {
            scope.spawn(move || {
                let ran = run(quorate(["topic", "list"]).args(["--servers", port]));
                ran.refused(
                    1,
                    &format!("{port}: something answers there, but not a node's port for clients"),
                );
            });
        }
    });
}

#[test]
fn without_a_majority_the_producer_says_so_and_nothing_is_invented() {
    let mut cluster = Cluster::start(3);
    cluster.create("t", 1, 3);
    drop(cluster.run_with(["produce", "t"], "first\n").done());
    let leader = cluster.leader("t", 0);
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    cluster.kill_all(&others);
    let start = Instant::now();
    let produced = cluster.run_with(["produce", "t", "--json", "--timeout", "3s"], "second\nthird\n");
    assert!(start.elapsed() < Duration::from_secs(20), "said so after {:?}", start.elapsed());
    assert_eq!(produced.status, Some(1), "{produced:?}");
    let (lines, acked, unknown, failed) = counts(&produced.json());
    assert_eq!((lines, acked, unknown + failed), (2, 0, 2), "{produced:?}");
    assert!(produced.stderr.contains("majority"), "{produced:?}");
    assert!(!produced.stderr.contains(&format!("ask node {leader}")), "{produced:?}");
    for id in others {
        cluster.launch(id);
    }
    cluster.wait_all_ready();
    // Unknown lines may be there or not; the acked one is, and nothing else.
    let read = cluster.read_all("t");
    let values: Vec<_> = read.iter().map(|record| record["value"].as_str().unwrap().to_owned()).collect();
    assert_eq!(values[0], "first");
    assert!(values[1..].iter().all(|value| ["second", "third"].contains(&value.as_str())), "{values:?}");
}

/// A cluster of three of which one node runs, and a topic of its earlier days.
fn one_of_three() -> (Cluster, u32) {
    let mut cluster = Cluster::start(3);
    cluster.create("t", 2, 3);
    drop(cluster.run_with(["produce", "t"], "first\n").done());
    cluster.leader("t", 0);
    let left = cluster.leader("t", 1);
    let others: Vec<_> = cluster.ids().into_iter().filter(|id| *id != left).collect();
    cluster.kill_all(&others);
    (cluster, left)
}

#[test]
fn without_a_majority_nothing_is_created_or_read_and_that_is_said() {
    let (mut cluster, left) = one_of_three();
    // Whoever asks before then is sent to who led, and says in the end that this one cannot be reached.
    wait::until("nobody to be told as leader", || (cluster.leaders("t") == [0, 0]).then_some(()));
    let start = Instant::now();
    let (created, consumed) = std::thread::scope(|scope| {
        let created = scope.spawn(|| cluster.run(["topic", "create", "new"]));
        let consumed = scope.spawn(|| cluster.run(["consume", "t", "--from", "beginning", "--until-end"]));
        (created.join().unwrap(), consumed.join().unwrap())
    });
    // Ten seconds, and what processes take on a busy machine.
    assert!(start.elapsed() < Duration::from_secs(20), "said so after {:?}", start.elapsed());
    // The node's own words, not a time-out of ours; and they say whether it may have been done all the same.
    let surely_not = created.stderr.contains("not done within");
    created.refused(1, if surely_not { "no leader" } else { "the outcome is not known: perhaps done" });
    assert!(!created.stderr.contains("lost the connection"), "{created:?}");
    consumed.refused(1, "has no leader");
    consumed.refused(1, "see whether a majority of ");
    assert!(!consumed.stderr.contains("within 0 ms"), "{consumed:?}");
    for shown in [cluster.run(["cluster", "status"]), cluster.run(["topic", "describe", "t"])] {
        let shown = shown.done().text().to_owned();
        assert!(shown.contains("no majority: 1 of 3 nodes alive"), "{shown}");
    }
    assert_eq!(cluster.leaders("t"), [0, 0], "who led last is no leader");
    assert!(consumed.stdout.is_empty() && created.stdout.is_empty());
    for id in cluster.ids().into_iter().filter(|id| *id != left).collect::<Vec<_>>() {
        cluster.launch(id);
    }
    cluster.wait_all_ready();
    // All of it or nothing: another try makes it, or is told that it is there, and it works.
    let again = cluster.run(["topic", "create", "new"]);
    if again.status != Some(0) {
        again.refused(1, "exists");
        assert!(!surely_not, "{created:?}, and yet {again:?}");
    }
    drop(cluster.run_with(["produce", "new"], "a line\n").done());
    assert_eq!(cluster.read_all("new").len(), 1);
    assert_eq!(cluster.read_all("t").len(), 1);
}

#[test]
fn a_node_alone_of_three_does_not_deny_its_topics() {
    let (mut cluster, left) = one_of_three();
    cluster.kill(left);
    cluster.launch(left);
    // It answers its clients before it can hear a leader, which it never does here.
    wait::until("the node to listen", || std::net::TcpStream::connect(&cluster.node(left).grpc).ok());
    let commands = [
        &["topic", "describe", "t"][..],
        &["consume", "t", "--from", "beginning", "--until-end"],
        &["produce", "t", "--timeout", "3s"],
    ];
    std::thread::scope(|scope| {
        for args in commands {
            let cluster = &cluster;
            scope.spawn(move || {
                let ran = cluster.run_with(args, "a line\n");
                let described = args[1] == "describe";
                assert_eq!(ran.status, Some(if described { 0 } else { 1 }), "{ran:?}");
                assert!(!ran.stderr.contains("lost the connection"), "{ran:?}");
                for denial in ["does not exist", "no topic is called", "was deleted"] {
                    assert!(!ran.stderr.contains(denial), "{ran:?}");
                }
            });
        }
    });
    for id in cluster.ids().into_iter().filter(|id| *id != left).collect::<Vec<_>>() {
        cluster.launch(id);
    }
    cluster.wait_all_ready();
    assert_eq!(cluster.read_all("t").len(), 1);
}

#[test]
fn an_interrupted_producer_says_what_was_acknowledged() {
    let cluster = Cluster::start(1);
    cluster.create("t", 1, 1);
    let mut producer = Running::start(&mut cluster.quorate(["produce", "t", "--json", "--rate", "1000"]));
    let lines: String = (0..50_000).map(|number| format!("{number}\n")).collect();
    // The pipe holds less than all lines: a thread would be needed to write them, so a part must do.
    producer.write(&lines.as_bytes()[..30_000]);
    wait::until("some lines", || (cluster.read_all("t").len() > 100).then_some(()));
    signal(producer.pid(), "INT");
    let ran = producer.end();
    let (lines, acked, unknown, failed) = counts(&ran.json());
    assert_eq!((ran.status, unknown, failed), (Some(1), 0, 0), "{ran:?}");
    assert_eq!(lines, acked);
    assert!(acked > 100, "{ran:?}");
    assert!(ran.stderr.contains("interrupted"), "{ran:?}");
    let read = cluster.read_all("t");
    assert_eq!(u64::try_from(read.len()).unwrap(), acked);
    for (number, record) in read.iter().enumerate() {
        assert_eq!(record["value"], json!(number.to_string()));
    }
}

#[test]
fn an_interrupted_consumer_says_whether_its_work_was_done() {
    let cluster = Cluster::start(1);
    cluster.create("t", 1, 1);
    drop(cluster.run_with(["produce", "t"], "a line\n").done());
    for (args, status) in [(&[][..], 0), (&["--max", "2"], 130)] {
        let printed = cluster.folder().join("printed");
        let mut command = cluster.quorate(["consume", "t", "--from", "beginning"]);
        command.args(args).stdout(fs::File::create(&printed).unwrap());
        let mut consumer = command.spawn().unwrap();
        wait::until("the record", || (fs::read(&printed).unwrap() == b"a line\n").then_some(()));
        signal(consumer.id(), "INT");
        let ended = wait::until("its end", || consumer.try_wait().unwrap());
        assert_eq!(ended.code(), Some(status), "{args:?}");
    }
}

#[test]
fn a_file_that_is_not_there() {
    let cluster = Cluster::start(1);
    cluster.create("t", 1, 1);
    cluster.run(["produce", "t", "--file", "/no/such/file"]).refused(1, "/no/such/file");
    // A folder opens like a file, and cannot be read.
    cluster.run(["produce", "t", "--file", "/"]).refused(1, "/");
}
