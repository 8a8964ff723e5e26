//! Nodes that lose their disks, leave and come, and partitions that move, while other faults strike.

use std::collections::BTreeMap;

use quorate_sim::classes::Class;
use quorate_sim::run::{Options, run};

/// Runs of so many nodes with these classes of faults, and what they reached.
fn reached(nodes: u32, classes: &[Class], seeds: std::ops::Range<u64>) -> BTreeMap<&'static str, u64> {
    let mut marks = BTreeMap::new();
    for seed in seeds {
        let only = classes.iter().copied().collect();
        let report = run(seed, Options { nodes: Some(nodes), only, ..Options::default() });
        assert_eq!(report.violations, [], "{nodes} nodes, seed {seed}");
        for (mark, count) in report.marks {
            *marks.entry(mark).or_default() += count;
        }
    }
    marks
}

fn has(marks: &BTreeMap<&'static str, u64>, mark: &str) -> bool {
    marks.get(mark).is_some_and(|count| *count > 0)
}

#[test]
fn disks_are_lost_and_replaced_among_three() {
    let marks = reached(3, &[Class::Membership, Class::Crash], 0..8);
    for mark in ["disk-lost-for-good", "node-admitted", "members-changed"] {
        assert!(has(&marks, mark), "{mark}");
    }
}

#[test]
fn nodes_come_and_go_and_partitions_move_among_five() {
    let marks = reached(5, &[Class::Membership, Class::Network, Class::Process], 100..108);
    for mark in [
        "node-left-and-came-again",
        "node-removed",
        "removal-noticed",
        "partition-moved-under-load",
        "replica-moved-away",
        "leader-made-way",
    ] {
        assert!(has(&marks, mark), "{mark}");
    }
}
