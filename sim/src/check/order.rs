//! One order: the records of one producer stand in each partition in the order sent (`faults-and-oracles` O-13).

use std::collections::BTreeMap;
use std::time::Duration;

use super::Violation;
use crate::history::Evidence;

pub(super) fn check(evidence: &Evidence, end: Duration) -> Vec<Violation> {
    let mut found = Vec::new();
    for (place, log) in &evidence.scan {
        let mut last = BTreeMap::new();
        for (offset, record) in log {
            let Some(record) = record else { continue };
            if let Some((before, at)) = last.insert(record.producer, (*record, *offset))
                && before.number > record.number
            {
                found.push(Violation {
                    promise: "O-12",
                    at: end,
                    what: format!("{place}: {before} stands at {at}, before {record} at {offset}"),
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
    fn a_swap_is_seen() {
        assert_eq!(broken("sent 0 acked 1\nsent 1 acked 0\nlog 0 1\nlog 1 0"), ["O-12"]);
        assert_eq!(broken("sent 0 unknown\nsent 1 acked 0\nlog 0 1\nlog 1 0"), ["O-12"]);
    }
}
