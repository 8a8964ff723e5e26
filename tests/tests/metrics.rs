//! What an operator sees of a running cluster: each metric by name and kind, and that it moves; the log; what the
//! status says needs attention.
#![expect(clippy::unwrap_used, reason = "a test's helper is a test")]

use std::collections::BTreeMap;

use quorate_proto::ErrorCode;
use quorate_tests::wire::Wire;
use quorate_tests::{Cluster, Shape, wait};
use serde_json::Value;

/// Every metric that is always there, and its kind.
const METRICS: [(&str, &str); 35] = [
    ("quorate_ready", "gauge"),
    ("quorate_replicas", "gauge"),
    ("quorate_partitions_led", "gauge"),
    ("quorate_groups_quiet", "gauge"),
    ("quorate_elections_won_total", "counter"),
    ("quorate_leaderships_lost_total", "counter"),
    ("quorate_leaderships_handed_over_full_total", "counter"),
    ("quorate_produce_seconds", "histogram"),
    ("quorate_produce_stage_seconds", "histogram"),
    ("quorate_storage_commit_seconds", "histogram"),
    ("quorate_storage_commit_bytes", "histogram"),
    ("quorate_storage_cache_hits_total", "counter"),
    ("quorate_storage_cache_misses_total", "counter"),
    ("quorate_storage_unsynced_bytes", "gauge"),
    ("quorate_storage_volumes", "gauge"),
    ("quorate_storage_volumes_sealed_total", "counter"),
    ("quorate_storage_volumes_removed_total", "counter"),
    ("quorate_disk_free_bytes", "gauge"),
    ("quorate_disk_reserve_bytes", "gauge"),
    ("quorate_disk_full", "gauge"),
    ("quorate_disk_filled_total", "counter"),
    ("quorate_appends_refused_full_total", "counter"),
    ("quorate_damaged_entries_total", "counter"),
    ("quorate_repaired_entries_total", "counter"),
    ("quorate_storage_scrub_rounds_total", "counter"),
    ("quorate_storage_scrub_bytes_total", "counter"),
    ("quorate_produce_requests_total", "counter"),
    ("quorate_produce_records_total", "counter"),
    ("quorate_produce_bytes_total", "counter"),
    ("quorate_fetch_requests_total", "counter"),
    ("quorate_fetch_records_total", "counter"),
    ("quorate_fetch_bytes_total", "counter"),
    ("quorate_refused_requests_total", "counter"),
    ("process_cpu_seconds_total", "counter"),
    ("process_resident_memory_bytes", "gauge"),
];

/// Those that are there while a replica is behind.
const LAGS: [(&str, &str); 3] = [
    ("quorate_replicas_behind", "gauge"),
    ("quorate_replica_lag_records", "gauge"),
    ("quorate_replica_lag_seconds", "gauge"),
];

/// Whether a page says what a metric is. OpenMetrics names a counter without what its samples end in.
fn explains(page: &str, (name, kind): (&str, &str)) -> bool {
    let family = name.strip_suffix("_total").unwrap_or(name);
    let help = page.lines().find(|line| line.starts_with(&format!("# HELP {family} ")));
    page.lines().any(|line| line == format!("# TYPE {family} {kind}"))
        && help
            .is_some_and(|help| help.split(' ').count() > 5 && help.ends_with('.') && !help.ends_with(".."))
}

/// The samples of some nodes, added up, by name and labels as they stand there.
fn samples(cluster: &Cluster, nodes: &[u32]) -> BTreeMap<String, f64> {
    let mut sums = BTreeMap::new();
    for node in nodes {
        let page = cluster.node(*node).get("/metrics").unwrap();
        for line in page.body.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap();
            *sums.entry(name.to_owned()).or_default() += value.parse::<f64>().unwrap();
        }
    }
    sums
}

#[test]
fn every_metric_is_there_and_moves() {
    let mut cluster = Cluster::start(3);
    cluster.create("t", 2, 3);
    let lines = (0..1_000).map(|number| format!("line {number}\n")).collect::<String>();
    drop(cluster.run_with(["produce", "t"], &lines).done());
    assert_eq!(cluster.read_all("t").len(), 1_000);
    let strangers = Wire::new(&cluster.node(1).grpc).produce(&[7; 16], 0, vec![]).error();
    assert_eq!(strangers, ErrorCode::UnknownTopicId);

    let page = cluster.node(1).get("/metrics").unwrap().body;
    for metric in METRICS {
        assert!(explains(&page, metric), "{metric:?}: {page}");
    }
    for family in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()) {
        let mut names =
            METRICS.iter().chain(&LAGS).map(|(name, _)| name.strip_suffix("_total").unwrap_or(name));
        assert!(names.any(|known| known == family), "{family} is not in this test");
    }
    assert!(page.ends_with("\n# EOF\n"), "{page}");

    let all = samples(&cluster, &[1, 2, 3]);
    let of = |name: &str| all.get(name).copied().unwrap_or(-1.0);
    for (name, exactly) in [
        ("quorate_ready", 3.0),
        ("quorate_replicas", 6.0),
        ("quorate_partitions_led", 2.0),
        ("quorate_disk_full", 0.0),
        ("quorate_damaged_entries_total", 0.0),
        ("quorate_repaired_entries_total", 0.0),
        ("quorate_produce_records_total{topic=\"t\"}", 1_000.0),
    ] {
        assert!((of(name) - exactly).abs() < 0.1, "{name} is {}", of(name));
    }
    assert!(of("quorate_fetch_records_total{topic=\"t\"}") >= 1_000.0, "each was read, some perhaps twice");
    for moved in [
        "quorate_elections_won_total",
        "quorate_produce_requests_total{topic=\"t\"}",
        "quorate_produce_bytes_total{topic=\"t\"}",
        "quorate_fetch_requests_total{topic=\"t\"}",
        "quorate_fetch_bytes_total{topic=\"t\"}",
        "quorate_produce_seconds_count",
        "quorate_produce_seconds_sum",
        "quorate_produce_stage_seconds_count{stage=\"queue\"}",
        "quorate_produce_stage_seconds_count{stage=\"replicate\"}",
        "quorate_produce_stage_seconds_count{stage=\"apply\"}",
        "quorate_produce_stage_seconds_count{stage=\"sync\"}",
        "quorate_produce_stage_seconds_sum{stage=\"sync\"}",
        "quorate_storage_commit_seconds_count",
        "quorate_storage_commit_seconds_bucket{le=\"+Inf\"}",
        "quorate_storage_commit_bytes_sum",
        "quorate_storage_cache_hits_total",
        "quorate_storage_volumes",
        "quorate_disk_free_bytes",
        "quorate_disk_reserve_bytes",
        "quorate_refused_requests_total{request=\"produce\",reason=\"unknown_topic_id\"}",
    ] {
        assert!(of(moved) > 0.0, "{moved} is {}", of(moved));
    }

    // A replica that is away falls behind, and somebody is told. By their keys both partitions get some.
    cluster.kill(3);
    let keyed = (0..1_000).map(|number| format!("{number}:line\n")).collect::<String>();
    drop(cluster.run_with(["produce", "t", "--key-separator", ":"], keyed).done());
    wait::until("what node 3 lacks", || {
        let seen = samples(&cluster, &[1, 2]);
        let lag = seen.get("quorate_replica_lag_records{peer=\"3\"}").copied().unwrap_or(0.0);
        (lag >= 1_000.0 && seen.get("quorate_replicas_behind{peer=\"3\"}") == Some(&2.0)).then_some(())
    });
    let pages = [1, 2].map(|node| cluster.node(node).get("/metrics").unwrap().body);
    for metric in LAGS {
        assert!(pages.iter().any(|page| explains(page, metric)), "{metric:?}: {pages:?}");
    }
    wait::until("the status to name node 3", || {
        let status = cluster.run(["cluster", "status", "--json"]).done().json();
        let mut said = status["attention"].as_array().unwrap().iter().filter_map(Value::as_str);
        said.any(|line| line.starts_with("node 3 is down, or cut off: ")).then_some(())
    });
    let shown = cluster.run(["cluster", "status"]).done().text().to_owned();
    let attention = shown.lines().position(|line| line == "needs attention:");
    let table = shown.lines().position(|line| line.contains("disk free"));
    assert!(attention.is_some() && attention < table, "{shown}");
    cluster.launch(3);
    wait::until("node 3 to have caught up", || {
        let seen = samples(&cluster, &[1, 2]);
        (!seen.contains_key("quorate_replica_lag_records{peer=\"3\"}")).then_some(())
    });
}

#[test]
fn the_log_is_json_and_has_levels_by_module() {
    let shape = Shape::of(1).flag("--log-format").flag("json").flag("--log-level").flag("warn,raft=info");
    let cluster = Cluster::start_as(&shape);
    cluster.create("t", 1, 1);
    cluster.leader("t", 0);
    let log = cluster.node(1).log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let gained = lines.iter().find(|line| line["message"] == "leadership gained");
    let gained = gained.unwrap_or_else(|| panic!("{log}"));
    assert_eq!(gained["target"], "quorate_node::raft::tell");
    for field in ["group", "term", "why", "timestamp", "level"] {
        assert!(!gained[field].is_null(), "{field}: {gained}");
    }
    let quiet = |line: &Value| {
        let of_raft = line["target"].as_str().is_some_and(|target| target.starts_with("quorate_node::raft"));
        of_raft || line["level"] == "WARN" || line["level"] == "ERROR"
    };
    assert!(lines.iter().all(quiet), "{log}");
}
