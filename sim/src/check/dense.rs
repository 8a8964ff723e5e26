//! Offsets are dense from 0 (`faults-and-oracles` O-14; nothing expires in these runs).

use std::time::Duration;

use quorate_proto::ids::Offset;

use super::Violation;
use crate::history::Evidence;

pub(super) fn check(evidence: &Evidence, end: Duration) -> Vec<Violation> {
    let mut found = Vec::new();
    for (place, log) in &evidence.scan {
        let mut expected = Offset(0);
        for (offset, _) in log {
            if *offset != expected {
                found.push(Violation {
                    promise: "O-14",
                    at: end,
                    what: format!("{place}: offset {offset} follows where {expected} should"),
                });
            }
            expected = offset.plus(1);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::bench::broken;

    #[test]
    fn a_gap_and_a_repetition_are_seen() {
        assert_eq!(broken("sent 0 unknown\nlog 1 0"), ["O-14"]);
        assert_eq!(broken("sent 0 unknown\nsent 1 unknown\nlog 0 0\nlog 0 1"), ["O-14"]);
    }
}
