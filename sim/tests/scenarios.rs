//! Written-out scenarios.

use quorate_sim::cluster::Crash;
use quorate_sim::run::Options;
use quorate_sim::scenario::leader_restore;

#[test]
fn a_leader_that_lost_its_tail_does_not_resume_its_term() {
    for seed in 0..6 {
        for crash in [Crash::Kill, Crash::PowerCut] {
            let report = leader_restore(seed, crash, Options::default());
            assert_eq!(report.violations, [], "seed {seed}, {crash:?}");
            assert!(report.ops.ok >= 25, "seed {seed}, {crash:?}: {:?}", report.ops);
        }
    }
}
