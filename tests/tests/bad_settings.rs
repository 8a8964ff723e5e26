//! Changes of topics that cannot be, and what they get: a sentence that says what can, and nothing half done.

use quorate_proto::ErrorCode;
use quorate_proto::v1::{AddPartitionsRequest, ConfigChange, ConfigureTopicRequest};
use quorate_tests::Cluster;
use quorate_tests::wire::Wire;

#[test]
fn settings_that_cannot_be() {
    let cluster = Cluster::start(1);
    cluster.create("t", 2, 1);
    let before = cluster.run(["topic", "config", "get", "t"]).done();
    let range = |unit: &str| {
        format!(
            "must be a number of {unit} from 0 (keeps nothing) to 9223372036854775807, or -1 (without a bound), not "
        )
    };
    let mistakes = [
        ("retention.ms=-2", format!("retention.ms {}\"-2\"", range("ms"))),
        ("retention.ms=week", format!("retention.ms {}\"week\"", range("ms"))),
        ("retention.ms=9223372036854775808", format!("retention.ms {}\"9223372036854775808\"", range("ms"))),
        ("retention.bytes=-7", format!("retention.bytes {}\"-7\"", range("bytes"))),
        ("max.message.bytes=60", "must be a number from 61 to 67108864, not \"60\"".to_owned()),
        ("message.timestamp.type=mine", "must be CreateTime or LogAppendTime, not \"mine\"".to_owned()),
        (
            "retention.mss=5",
            "unknown config key \"retention.mss\", did you mean \"retention.ms\"?".to_owned(),
        ),
        ("cleanup.policy=compact", "\"cleanup.policy\" is not honoured: ".to_owned()),
        ("segment.bytes=1000000", "\"segment.bytes\" is not honoured: ".to_owned()),
        ("min.insync.replicas=2", "\"min.insync.replicas\" is not honoured: ".to_owned()),
    ];
    for (setting, said) in mistakes {
        cluster.run(["topic", "create", "new", "--config", setting]).refused(1, &said);
        // A good one beside it is not made either.
        let good =
            if setting.starts_with("retention.bytes") { "retention.ms=5" } else { "retention.bytes=5" };
        cluster.run(["topic", "config", "set", "t", good, setting]).refused(1, &said);
    }
    for (key, said) in [("retention.sm", "retention.ms"), ("segment.bytes", "is not honoured")] {
        cluster.run(["topic", "config", "get", "t", key]).refused(1, said);
        cluster.run(["topic", "config", "set", "t", "--reset", key]).refused(1, said);
    }
    let twice = ["topic", "config", "set", "t", "retention.ms=5", "--reset", "retention.ms"];
    cluster.run(twice).refused(1, "\"retention.ms\" is given twice");
    // What the command line alone shows.
    for (args, said) in [
        (&["t", "retention.ms"][..], "key=value"),
        (&["t", "retention.ms="], "--reset retention.ms"),
        (&["t"], "KEY=VALUE"),
        (&["t"], "--reset <KEY>"),
        (&["a/b", "retention.ms=5"], "'/'"),
    ] {
        cluster.run([&["topic", "config", "set"][..], args].concat()).refused(2, said);
    }
    for args in [
        &["topic", "config", "get", "nope"][..],
        &["topic", "config", "set", "nope", "retention.ms=5"],
        &["topic", "add-partitions", "nope", "--partitions", "2"],
    ] {
        cluster.run(args).refused(1, "no topic is called \"nope\"");
    }
    assert_eq!(cluster.run(["topic", "config", "get", "t"]).done().text(), before.text());
    cluster.run(["topic", "describe", "new"]).refused(1, "new");
}

#[test]
fn changes_of_topics_that_no_good_client_would_send() {
    let cluster = Cluster::start(1);
    cluster.create("t", 2, 1);
    let wire = Wire::new(&cluster.node(1).grpc);
    let id = wire.topic("t").id;
    let change = || ConfigChange { key: "retention.ms".to_owned(), value: Some("5".to_owned()) };
    let configure = |topic_id: &[u8], change_id: &[u8], changes: Vec<ConfigChange>| {
        let (id, change) = (topic_id.to_vec().into(), change_id.to_vec().into());
        let name = "t".to_owned();
        wire.configure_topic(ConfigureTopicRequest { name, id, changes, change, timeout_ms: 10_000 }).error()
    };
    assert_eq!(configure(&[], &[], Vec::new()), ErrorCode::InvalidRequest);
    assert_eq!(configure(&[], &[4; 15], vec![change()]), ErrorCode::InvalidRequest);
    assert_eq!(configure(&id[..15], &[4; 16], vec![change()]), ErrorCode::InvalidRequest);
    assert_eq!(configure(&[7; 16], &[4; 16], vec![change()]), ErrorCode::UnknownTopicId);
    assert_eq!(configure(&[], &[4; 16], vec![change(), change()]), ErrorCode::InvalidConfig);
    let add = |partitions: i32, change_id: &[u8]| {
        let (name, id, change) = ("t".to_owned(), id.clone(), change_id.to_vec().into());
        wire.add_partitions(AddPartitionsRequest { name, id, partitions, change, timeout_ms: 10_000 }).error()
    };
    for partitions in [i32::MIN, -1, 0, 1, 2, 10_001, i32::MAX] {
        assert_eq!(add(partitions, &[]), ErrorCode::InvalidPartitions, "{partitions}");
    }
    assert_eq!(wire.topic("t").partitions.len(), 2);
    // The same change again is done, another one is refused.
    assert_eq!([add(3, &[5; 16]), add(3, &[5; 16])], [ErrorCode::None; 2]);
    assert_eq!(add(3, &[6; 16]), ErrorCode::InvalidPartitions);
    assert_eq!(configure(&id, &[7; 16], vec![change()]), ErrorCode::None);
    assert_eq!(wire.topic("t").partitions.len(), 3);
    assert!(wire.topic("t").configs.iter().any(|entry| entry.key == "retention.ms" && entry.value == "5"));
}

#[test]
fn partitions_that_cannot_be_added() {
    let cluster = Cluster::start(1);
    cluster.create("t", 2, 1);
    let add = |partitions: &str| cluster.run(["topic", "add-partitions", "t", "--partitions", partitions]);
    for fewer in ["1", "2"] {
        add(fewer).refused(1, &format!("topic \"t\" has 2 partitions already, and {fewer} asked for"));
    }
    add("10001").refused(1, "10001 partitions asked for, 1 to 10000 are possible");
    for none in ["0", "-1", "2147483648"] {
        add(none).refused(2, "must be a whole number from 1 to");
    }
    add("many").refused(2, "many");
    cluster.run(["topic", "add-partitions", "t"]).refused(2, "--partitions");
    let described = cluster.run(["topic", "describe", "t", "--json"]).done().json();
    assert_eq!(described["partitions"].as_array().unwrap().len(), 2);
    drop(add("3").done());
    add("3").refused(1, "has 3 partitions already");
}
