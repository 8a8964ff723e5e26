//! `quorate dev`: three processes, none left behind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use quorate_tests::cluster::{is_alive, signal, wait_gone};
use quorate_tests::command::{Running, quorate, run, run_with};
use quorate_tests::{ports, wait};
use serde_json::{Value, json};

/// How long processes may take to go.
const GONE: Duration = Duration::from_secs(20);

/// The flags of a `dev` in this folder, on ports of its own; those given here take their place.
fn dev(data: &Path, flags: &[&str]) -> Command {
    let mut command = quorate(["dev", "--nodes", "3", "--data"]);
    command.arg(data).args(flags);
    for flag in ["--base-port-grpc", "--base-port-peer", "--base-port-http"] {
        if !flags.contains(&flag) {
            command.args([flag, &ports::free_row(3).to_string()]);
        }
    }
    command
}

/// The file that says where the nodes are, once it does and `fits`.
fn cluster_json(data: &Path, fits: impl Fn(&Value) -> bool) -> Value {
    wait::until("cluster.json", || {
        let text = fs::read(data.join("cluster.json")).ok()?;
        let document: Value = serde_json::from_slice(&text).expect("cluster.json is never half written");
        fits(&document).then_some(document)
    })
}

fn pids(document: &Value) -> Vec<u32> {
    let pid = |node: &Value| {
        u32::try_from(node["pid"].as_u64().expect("as the format says")).expect("as the format says")
    };
    document["nodes"].as_array().expect("as the format says").iter().map(pid).collect()
}

fn servers(document: &Value) -> String {
    let grpc: Vec<_> = document["nodes"]
        .as_array()
        .expect("as the format says")
        .iter()
        .map(|node| node["grpc"].as_str().expect("as the format says"))
        .collect();
    grpc.join(",")
}

fn read(document: &Value, topic: &str) -> String {
    let args = ["consume", topic, "--from", "beginning", "--until-end", "--servers", &servers(document)];
    run(&mut quorate(args)).done().text().to_owned()
}

#[test]
fn ctrl_c_leaves_nobody_behind_and_keeps_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    // Whoever reads the file may stand elsewhere than whoever gave the folder.
    let running = Running::start(dev(Path::new("./data"), &[]).current_dir(folder.path()));
    let document = cluster_json(&data, |_| true);
    assert_eq!(document["version"], json!(env!("CARGO_PKG_VERSION")));
    let mut keys: Vec<_> = document["nodes"][0].as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["data", "grpc", "http", "id", "peer", "pid"]);
    assert_eq!(document["nodes"][0]["data"], json!(data.join("node-1").to_str().unwrap()));
    let nodes = pids(&document);
    assert_eq!(nodes.len(), 3);
    assert!(nodes.iter().all(|pid| is_alive(*pid)));

    // A first produce creates the topic here.
    let produced =
        run_with(&mut quorate(["produce", "fresh", "--servers", &servers(&document)]), b"kept\n").done();
    drop(produced);

    // A node that dies is started again, and the file says so.
    signal(nodes[1], "KILL");
    let document = cluster_json(&data, |document| pids(document)[1] != nodes[1]);
    let nodes = pids(&document);

    signal(running.pid(), "INT");
    let ended = running.end_within(GONE);
    assert_eq!(ended.status, Some(0), "{ended:?}");
    assert!(nodes.iter().all(|pid| !is_alive(*pid)), "left behind: {nodes:?}");

    let running = Running::start(&mut dev(&data, &[]));
    let document = cluster_json(&data, |document| pids(document).iter().all(|pid| !nodes.contains(pid)));
    assert_eq!(read(&document, "fresh"), "kept\n");
    signal(running.pid(), "TERM");
    drop(running.end_within(GONE).done());
}

/// A folder with the data of a cluster of three that has stopped, and one record in topic `t`.
fn stopped_cluster() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let running = Running::start(&mut dev(folder.path(), &[]));
    let document = cluster_json(folder.path(), |_| true);
    drop(run_with(&mut quorate(["produce", "t", "--servers", &servers(&document)]), b"kept\n").done());
    signal(running.pid(), "INT");
    drop(running.end_within(GONE).done());
    folder
}

/// Starts the cluster of that folder, waits until a majority is ready, reads the record and stops; what was said.
fn goes_on(data: &Path) -> String {
    let running = Running::start(&mut dev(data, &[]));
    let document = cluster_json(data, |_| true);
    assert_eq!(read(&document, "t"), "kept\n");
    signal(running.pid(), "INT");
    let ran = running.end_within(GONE).done();
    format!("{}{}", ran.text(), ran.stderr)
}

fn assert_says(said: &str, fragments: &[&str]) {
    for fragment in fragments {
        assert!(said.contains(fragment), "{fragment:?} is not in: {said}");
    }
}

#[test]
fn a_lost_folder_is_named_and_the_others_go_on() {
    let folder = stopped_cluster();
    let data = folder.path();
    fs::remove_dir_all(data.join("node-2")).unwrap();
    run(quorate(["dev", "--nodes", "2", "--data"]).arg(data))
        .refused(1, "a cluster of 3 nodes: start it with --nodes 3");
    assert_says(&goes_on(data), &["ready: 2 of 3 nodes", "node-2 is missing", "node 2 is not started"]);
    assert!(!data.join("node-2").exists(), "an empty folder hides that one is lost");

    // With an empty one in its place it is refused, and that is said.
    fs::create_dir(data.join("node-2")).unwrap();
    assert_says(
        &goes_on(data),
        &["ready: 2 of 3 nodes", "  not ready", "node 2 is not ready: refused by node", "node-2.log"],
    );

    // Two of three are the majority.
    fs::remove_dir_all(data.join("node-2")).unwrap();
    fs::remove_dir_all(data.join("node-3")).unwrap();
    run(&mut dev(data, &[])).refused(1, "node-2, node-3");
}

#[test]
fn damaged_data_are_named_and_the_others_go_on() {
    let folder = stopped_cluster();
    // What is left of one file comes back from the others; with nothing left to say whose they are, none does.
    for file in fs::read_dir(folder.path().join("node-2")).unwrap() {
        let file = file.unwrap().path();
        if file.extension().is_some_and(|extension| extension == "redb") {
            fs::write(&file, vec![0xa5; 10_000]).unwrap();
        }
    }
    let said = goes_on(folder.path());
    assert_says(
        &said,
        &["node 2 ended with status 1", "is damaged", "ends like that each time", "node-2.log"],
    );
    // Not a line for each try.
    assert_eq!(said.matches("ended with status 1").count(), 1, "{said}");
}

#[test]
fn nodes_end_when_dev_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let running = Running::start(&mut dev(&data, &["--no-restart"]));
    let document = cluster_json(&data, |_| true);
    let nodes = pids(&document);
    // Without a restart, who dies stays dead; the others carry on.
    signal(nodes[0], "KILL");
    wait_gone(nodes[0], GONE);
    drop(
        run_with(&mut quorate(["produce", "t", "--servers", &servers(&document)]), b"two of three\n").done(),
    );
    assert_eq!(pids(&cluster_json(&data, |_| true))[0], nodes[0]);
    assert_eq!(read(&document, "t"), "two of three\n");
    signal(running.pid(), "KILL");
    drop(running.end_within(GONE));
    for pid in &nodes[1..] {
        wait_gone(*pid, GONE);
    }
}

#[test]
fn a_port_in_use_is_named_and_nobody_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let (base, listener) = ports::row_in_use(3);
    let taken = format!("127.0.0.1:{}", base + 2);
    for flag in ["--base-port-grpc", "--base-port-peer", "--base-port-http"] {
        let ran = run(&mut dev(&data, &[flag, &base.to_string()]));
        ran.refused(1, &taken);
        ran.refused(1, "of node 3");
        ran.refused(1, "choose other ports with");
        assert!(!data.join("cluster.json").exists());
        // No node was started: none has a log or a folder.
        let nodes =
            fs::read_dir(&data).unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        assert_eq!(nodes.filter(|name| name.starts_with("node-")).count(), 0);
    }
    drop(listener);
}

#[test]
fn flags_that_cannot_be_start_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    for (flag, value) in [
        ("--base-port-grpc", "0"),
        ("--base-port-peer", "0"),
        ("--base-port-http", "0"),
        ("--base-port-http", "65535"),
        ("--nodes", "0"),
        ("--nodes", "1000"),
        ("--log", "one=two=three"),
    ] {
        let mut command = quorate(["dev", "--data"]);
        let named = if value == "65535" { value } else { flag };
        run(command.arg(&data).args([flag, value])).refused(2, named);
        assert!(!data.exists(), "{flag} {value}");
    }
}
