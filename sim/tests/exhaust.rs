//! Every tenth point of the exhaustive companion in `make test`; `quorate-sim exhaust` tries all of them.

use quorate_sim::exhaust::{ALL, blocks, exhaust};

/// A run takes a second of processor time in the dev profile: there only a few points are tried. `make test` says how
/// many seeds it wants, and builds for speed.
fn every() -> u32 {
    if std::env::var_os("QUORATE_SIM_SEEDS").is_some() { 10 } else { 150 }
}

fn some(name: &str) {
    let script = ALL.iter().find(|script| script.name == name).expect("a script of that name");
    let outcome = exhaust(script, every(), 1, None);
    assert_eq!(outcome.violations, [] as [String; 0]);
    let (operations, max) = (outcome.operations, outcome.operations_max);
    assert!((1..=max).contains(&operations), "{name} has {operations} disk operations: 1 to {max}");
    assert_eq!(outcome.struck, outcome.points, "the power was not cut at every point");
}

macro_rules! scripts {
    ($($test:ident = $name:literal;)*) => {
        $(#[test] fn $test() { some($name); })*

        #[test]
        fn no_script_is_left_out() {
            assert_eq!(ALL.map(|script| script.name), [$($name),*]);
        }
    };
}

scripts! {
    append = "append";
    roll = "roll";
    truncate = "truncate";
    delete_and_create = "delete-and-create";
    first_start = "first-start";
    restart = "restart";
    failover = "failover";
    retention = "retention";
    catch_up = "catch-up";
    rewrite = "rewrite";
    replace = "replace";
    repair = "repair";
}

#[test]
fn single_faults_are_mended_or_harm_nothing() {
    let every = if std::env::var_os("QUORATE_SIM_SEEDS").is_some() { 4 * blocks::EVERY } else { 1_009 };
    let sweep = blocks::sweep(every, 1, None);
    assert_eq!(sweep.violations, [] as [String; 0]);
    assert!(sweep.tried > 0 && sweep.mended + sweep.harmless > 0, "{sweep:?}");
}
