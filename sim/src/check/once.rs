//! A retry is not a second record: no record stands in the log twice (`faults-and-oracles` O-13).

use std::collections::BTreeMap;
use std::time::Duration;

use super::Violation;
use crate::history::Evidence;

pub(super) fn check(evidence: &Evidence, end: Duration) -> Vec<Violation> {
    let mut first_seen = BTreeMap::new();
    let mut found = Vec::new();
    for (place, log) in &evidence.scan {
        for (offset, record) in log {
            let Some(record) = record else { continue };
            if let Some((other_place, other)) = first_seen.insert(*record, (place, offset)) {
                found.push(Violation {
                    promise: "O-13",
                    at: end,
                    what: format!(
                        "{record} stands at offset {other} of {other_place} and at {offset} of {place}"
                    ),
                });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::bench::broken;

    #[test]
    fn a_double_is_seen() {
        assert_eq!(broken("sent 0 acked 0\nsent 1 acked 1\nlog 0 0\nlog 1 1\nlog 2 1"), ["O-13"]);
        assert_eq!(broken("sent 0 unknown\nlog 0 0\nlog 1 0"), ["O-13"]);
    }
}
