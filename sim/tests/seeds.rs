//! Fixed seeds: twenty for every change, and those that once failed, each with its story.

use quorate_sim::run::{Options, run};

/// Runs a seed and judges it by every check.
fn check(seed: u64) {
    let report = run(seed, Options::default());
    let said = report.violations.iter().map(|broken| format!("\n  {}: {}", broken.promise, broken.what));
    let said = said.collect::<String>();
    assert!(said.is_empty(), "seed {seed} broke promises:{said}\nrepeat it with: {}", report.replay());
    assert!(!report.is_vacuous(), "seed {seed} did only {}", report.ops.ok);
}

macro_rules! seeds {
    ($($(#[doc = $story:literal])* $name:ident = $seed:literal;)*) => {
        $($(#[doc = $story])* #[test] fn $name() { check($seed); })*
    };
}

seeds! {
    seed_0 = 0;
    seed_1 = 1;
    seed_2 = 2;
    seed_3 = 3;
    seed_4 = 4;
    seed_5 = 5;
    seed_6 = 6;
    seed_7 = 7;
    seed_8 = 8;
    seed_9 = 9;
    seed_10 = 10;
    seed_11 = 11;
    seed_12 = 12;
    seed_13 = 13;
    seed_14 = 14;
    seed_15 = 15;
    seed_16 = 16;
    seed_17 = 17;
    seed_18 = 18;
    seed_19 = 19;
    /// A node was elected while it stopped, after its log had been cut, and wrote its first entry unseen: the observer
    /// took what the next start found there for a tail that had been cut.
    a_node_that_is_elected_while_it_stops = 28;
}
