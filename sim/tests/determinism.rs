//! The same seed gives the same trace, in this process and in others.

use std::process::Command;

use quorate_sim::run::{Options, run};
use quorate_sim::trace::Show;

/// The hash that a process of its own prints.
fn hash_elsewhere(seed: u64) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_quorate-sim"))
        .args(["run", "--json", "--seed", &seed.to_string()])
        .output()
        .expect("quorate-sim was built with this test");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    document["trace_hash"].as_str().expect("a hash").to_owned()
}

#[test]
fn two_processes_give_the_same_hash() {
    for seed in [7, 11, 1_000] {
        let here = format!("{:016x}", run(seed, Options::default()).trace_hash);
        assert_eq!(hash_elsewhere(seed), here, "seed {seed}");
        assert_eq!(hash_elsewhere(seed), here, "seed {seed}");
    }
}

#[test]
fn another_run_on_the_same_thread_changes_nothing() {
    let keep = Options { keep: Show::Everything, ..Options::default() };
    let first = run(3, keep);
    run(4, Options::default());
    let again = run(3, keep);
    let difference = quorate_sim::trace::first_difference(&first.trace, &again.trace);
    assert_eq!(difference, None);
    assert_eq!(first.trace_hash, again.trace_hash);
}

#[test]
fn nobody_notices_that_they_are_watched() {
    let keep = Options { keep: Show::Everything, ..Options::default() };
    let watched = run(7, keep);
    let alone = run(7, Options { adjust: Some(|knobs| knobs.observed = false), ..keep });
    assert_eq!(quorate_sim::trace::first_difference(&watched.trace, &alone.trace), None);
}
