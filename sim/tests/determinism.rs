//! The same seed gives the same trace: in this process and in others, on one thread and on many.

use std::process::Command;

use quorate_sim::run::{Options, run};
use quorate_sim::sweep::{Plan, Until, sweep};
use quorate_sim::trace::{Show, first_difference};

/// How many seeds are run twice. `make test` asks for 200, in the profile `sim`; without optimisation that takes long.
fn seeds() -> u64 {
    std::env::var("QUORATE_SIM_SEEDS").map_or(8, |asked| asked.parse().expect("a number of seeds"))
}

/// What a process of its own prints.
fn elsewhere(words: &str) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_quorate-sim"))
        .args(words.split(' '))
        .output()
        .expect("quorate-sim was built with this test");
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}

#[test]
fn many_seeds_twice_in_another_process_and_on_another_number_of_threads() {
    let count = seeds();
    let plan = Plan {
        from: 0,
        until: Until::Count(count),
        jobs: 1,
        stop_at_first: false,
        twice_every: 0,
        options: Options::default(),
        stop: None,
    };
    let (here, there) = std::thread::scope(|scope| {
        let words = format!("sweep --json --from 0 --count {count} --jobs 3 --twice-every 0");
        let there = scope.spawn(move || elsewhere(&words));
        (sweep(plan, |_, _| ()), there.join().expect("the other process was heard"))
    });
    assert_eq!((here.runs, there["runs"].as_u64()), (count, Some(count)));
    if there["trace_hash"] == format!("{:016x}", here.trace_hash) {
        return;
    }
    for seed in 0..count {
        let here = format!("{:016x}", run(seed, Options::default()).trace_hash);
        let there = elsewhere(&format!("run --json --seed {seed}"));
        assert_eq!(there["trace_hash"], here, "seed {seed}");
    }
    panic!("the sweeps differ, and no seed does when it is run alone");
}

#[test]
fn another_run_on_the_same_thread_changes_nothing() {
    let keep = Options { keep: Show::Everything, ..Options::default() };
    let first = run(3, keep);
    run(4, Options::default());
    let again = run(3, keep);
    assert_eq!(first_difference(&first.trace, &again.trace), None);
    assert_eq!(first.trace_hash, again.trace_hash);
}

#[test]
fn nobody_notices_that_they_are_watched() {
    let keep = Options { keep: Show::Everything, ..Options::default() };
    let watched = run(7, keep);
    let alone = run(7, Options { adjust: Some(|knobs| knobs.observed = false), ..keep });
    assert_eq!(quorate_sim::trace::first_difference(&watched.trace, &alone.trace), None);
}
