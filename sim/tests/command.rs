//! The command as scripts see it: what is on standard output, and the exit status.

use std::io::Read as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

fn quorate_sim(words: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate-sim"))
        .args(words.split_whitespace())
        .output()
        .expect("quorate-sim was built with this test")
}

fn document(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).expect("one JSON document and nothing else")
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_was_meant() {
    let cases = [
        ("run --seed seven", "a seed is a whole number from 0 to 18446744073709551615"),
        ("run --seed 7 --trace-file /no/such/folder/trace", "--trace-file /no/such/folder/trace: "),
        ("sweep --from 18446744073709551615 --count 2", "go beyond the last one"),
        ("exhaust --scenario roll --node 9 --operation 0", "there are nodes 1, 2, 3"),
        ("exhaust --scenario roll --node 1 --operation 100000", "operations, from 0 to "),
        ("run --seed 7 --scenario leader-restor", "did you mean leader-restore?"),
        ("run --seed 7 --nodes 0", "0 is not in"),
        ("sweep --count 10 --for 10m", "cannot be used with"),
    ];
    for (words, expected) in cases {
        let output = quorate_sim(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words}: {said}");
        assert!(output.stdout.is_empty() && said.contains(expected), "{words}: {said}");
    }
}

#[test]
fn a_broken_promise_ends_with_1_and_its_replay_command_repeats_it() {
    let swept =
        quorate_sim("sweep --count 24 --jobs 1 --stop-at-first --json --scenario leader-restore-default");
    assert_eq!(swept.status.code(), Some(1));
    let swept = document(&swept);
    let violation = &swept["violations"][0];
    assert!(violation["oracle"].as_str().is_some_and(|oracle| oracle.starts_with("O-")), "{violation}");
    let replay = violation["replay"].as_str().expect("a command");
    let words =
        replay.strip_prefix("make sim ARGS=\"").and_then(|words| words.strip_suffix('"')).expect(replay);
    assert_eq!(words, format!("run --seed {} --scenario leader-restore-default", violation["seed"]));

    let alone = quorate_sim(&format!("{words} --json"));
    assert_eq!(alone.status.code(), Some(1));
    assert_eq!(document(&alone)["violations"][0], swept["violations"][0]);

    let told = quorate_sim(words);
    assert_eq!(told.status.code(), Some(1));
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    for part in ["BROKEN O-", "nemesis: ", "; repeat it with: make sim ARGS="] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn a_scenario_is_played_with_a_seed_of_its_own_if_none_is_given() {
    let output = quorate_sim("run --scenario deposed-leader --json");
    assert_eq!(output.status.code(), Some(0));
    let given = document(&quorate_sim("run --seed 7 --scenario deposed-leader --json"));
    let own = document(&output);
    assert_eq!((&own["seed"], &own["trace_hash"]), (&7.into(), &given["trace_hash"]), "{own}");
}

#[test]
fn a_power_cut_at_one_point_is_a_document_too() {
    let output = quorate_sim("exhaust --scenario restart --node 1 --operation 0 --json");
    assert_eq!(output.status.code(), Some(0));
    let document = document(&output);
    assert_eq!(
        (&document[0]["script"], &document[0]["points"]),
        (&"restart".into(), &1.into()),
        "{document}"
    );
    assert_eq!(document[0]["violations"], serde_json::json!([]));
    let told = quorate_sim("exhaust --scenario restart --node 1 --operation 0");
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("0 violations"), "{told}");
}

/// With its standard output there, and nobody who reads standard error.
fn printing_on(words: &str, stdout: impl Into<Stdio>) -> Output {
    let words = words.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_quorate-sim")).args(words).stdout(stdout).output().expect("it was built")
}

#[test]
fn output_that_is_closed_or_full_neither_panics_nor_hides_what_was_found() {
    let closed = || std::io::pipe().expect("a pipe").1;
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let clean = "run --seed 1 --scenario deposed-leader";
    let broken = "sweep --count 24 --jobs 1 --stop-at-first --scenario leader-restore-default";
    assert_eq!(printing_on(clean, closed()).status.code(), Some(0));
    assert_eq!(printing_on(broken, closed()).status.code(), Some(1));
    let output = printing_on(clean, full());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.starts_with("quorate-sim: cannot write to standard output: ") && said.lines().count() == 1,
        "{said}"
    );
    assert_eq!(printing_on(broken, full()).status.code(), Some(1));
}

#[test]
fn output_on_a_closed_standard_error_changes_nothing() {
    // A statement of its own: at its end the reader is gone.
    let closed = std::io::pipe().expect("a pipe").1;
    let shown = Command::new(env!("CARGO_BIN_EXE_quorate-sim"))
        .args(["run", "--seed", "1", "--scenario", "deposed-leader", "-vv", "--json"])
        .stderr(closed)
        .output()
        .expect("it was built");
    assert_eq!(shown.status.code(), Some(0));
    let unseen = document(&quorate_sim("run --seed 1 --scenario deposed-leader --json"));
    assert_eq!(document(&shown)["trace_hash"], unseen["trace_hash"]);
}

#[test]
fn a_sweep_that_is_interrupted_tells_what_it_has() {
    let mut sweep = Command::new(env!("CARGO_BIN_EXE_quorate-sim"))
        .args(["sweep", "--for", "10m", "--jobs", "1", "--scenario", "deposed-leader", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it was built");
    std::thread::sleep(Duration::from_secs(2));
    let id = sweep.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("kill is there").success());
    let status = sweep.wait().expect("it ends");
    let mut text = String::new();
    sweep.stdout.take().expect("it is piped").read_to_string(&mut text).expect("it is text");
    let document = serde_json::from_str::<serde_json::Value>(&text).expect("one document");
    assert_eq!((status.code(), &document["interrupted"]), (Some(130), &true.into()), "{document}");
    assert!(document["runs"].as_u64() > Some(0), "{document}");
}

#[test]
fn a_build_without_the_seeded_runtime_says_what_to_do() {
    let output = Command::new("rustc")
        .args([
            "--edition=2024",
            "--crate-type=lib",
            "--emit=metadata",
            "--out-dir",
            env!("CARGO_TARGET_TMPDIR"),
        ])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/lib.rs"))
        .output()
        .expect("rustc is where cargo is");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        said.contains("error: quorate-sim needs tokio's seeded runtime: build it with RUSTFLAGS="),
        "{said}"
    );
}
