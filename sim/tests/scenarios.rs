//! Written-out scenarios.

use quorate_sim::run::Options;
use quorate_sim::scenario::{
    all_copies_damaged, closing_fails, deposed_leader, full_disks, hanging_leader, leader_restore,
    members_change, quiet_group,
};

#[test]
fn a_leader_that_lost_its_tail_does_not_resume_its_term() {
    for seed in 0..12 {
        let report = leader_restore::play(seed, false, Options::default());
        assert_eq!(report.violations, [], "seed {seed}");
        assert!(report.acked >= 25, "seed {seed}: {} records", report.acked);
    }
}

/// Else the test above would say nothing.
#[test]
fn openrafts_default_loses_what_was_acked() {
    let broken = |seed: &u64| !leader_restore::play(*seed, true, Options::default()).violations.is_empty();
    let kills = (0..24).step_by(2).filter(broken).count();
    let power_cuts = (1..24).step_by(2).filter(broken).count();
    assert!(kills > 0 && power_cuts > 0, "{kills} of 12 with a kill, {power_cuts} of 12 with a power cut");
}

#[test]
fn a_deposed_leader_calls_no_offset_out_of_range() {
    for seed in 0..6 {
        let report = deposed_leader::play(seed, Options::default());
        assert_eq!(report.violations, [], "seed {seed}");
        assert!(report.ops.ok >= 9, "seed {seed}: {:?}", report.ops);
    }
}

#[test]
fn a_node_registers_although_the_leader_that_it_remembers_hangs() {
    for seed in 0..6 {
        let report = hanging_leader::play(seed, Options::default());
        assert_eq!(report.violations, [], "seed {seed}");
        assert!(report.acked >= 6, "seed {seed}: {} records", report.acked);
        assert_eq!(report.faults.get("pause"), Some(&1), "seed {seed}");
    }
}

#[test]
fn a_change_of_members_is_ended_by_whoever_leads_next() {
    let mut ended = 0;
    for seed in 0..12 {
        let report = members_change::play(seed, Options::default());
        assert_eq!(report.violations, [], "seed {seed}");
        assert!(report.acked >= 11, "seed {seed}: {} records", report.acked);
        for mark in ["disk-lost-for-good", "node-admitted", "members-changed", "replica-moved-away"] {
            assert!(report.marks.contains_key(mark), "seed {seed}: {mark}");
        }
        ended += report.marks.get("change-of-another-ended").copied().unwrap_or_default();
    }
    assert!(ended > 0, "each change was ended by whoever began it");
}

#[test]
fn a_quiet_group_keeps_its_leader_and_is_led_by_another_once_that_is_lost() {
    for seed in 0..12 {
        let report = quiet_group::play(seed, Options::default());
        assert_eq!(report.violations, [], "seed {seed}");
        assert!(report.acked >= 12, "seed {seed}: {} records", report.acked);
        for mark in ["quiet-confirmed", "woken-by-proposal"] {
            assert!(report.marks.contains_key(mark), "seed {seed}: {:?}", report.marks);
        }
    }
}

#[test]
fn full_disks_refuse_hand_over_and_recover() {
    for seed in 0_u64..8 {
        let report = full_disks::play(seed, Options::default());
        assert_eq!(report.violations, [], "seed {seed}");
        assert!(report.acked >= 9, "seed {seed}: {} records", report.acked);
        let mark = if seed.is_multiple_of(2) { "refused-full" } else { "handed-over-full" };
        for mark in [mark, "recovered-full"] {
            assert!(report.marks.contains_key(mark), "seed {seed}: {mark} in {:?}", report.marks);
        }
        assert!(!report.marks.contains_key("enospc"), "seed {seed}: the reserve was used up");
    }
}

/// It once was: in the moment between the failed sync and the store's knowing of it, when pages were kept.
#[test]
fn nobody_is_told_that_a_volume_is_damaged_whose_closing_failed() {
    let mut fell = 0;
    for seed in closing_fails::SYNCS..closing_fails::SYNCS * 3 / 2 {
        let report = closing_fails::play(seed, Options::default());
        assert_eq!(report.violations, [], "seed {seed}");
        fell += report.marks.get("failed-sync-and-restart").copied().unwrap_or_default();
    }
    assert!(fell > 0, "a sync failed and the node came back");
}

/// O-24: beyond what can be mended, damage is told, and history is neither invented nor shortened.
#[test]
fn a_batch_that_no_replica_can_read_is_refused_and_the_others_are_served() {
    for seed in 0..6 {
        let report = all_copies_damaged::play(seed, Options::default());
        assert_eq!(report.violations, [], "seed {seed}");
        assert_eq!(report.faults.get("all copies damaged"), Some(&1), "seed {seed}: {:?}", report.faults);
    }
}
