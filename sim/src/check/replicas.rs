//! Replicas converge: after everything is mended, all replicas of a group hold the same entries, by index, term and
//! checksum of the body, up to what is committed (oracle O-02, O-28), from where the log begins that begins last: each
//! replica trims its own.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::ids::LogIndex;

use super::Violation;
use crate::history::{Evidence, ReplicaEntry, ReplicaLog};

pub(super) fn check(evidence: &Evidence, end: Duration) -> Vec<Violation> {
    let mut found = Vec::new();
    for (group, replicas) in &evidence.replicas {
        let Some((first_node, first)) = replicas.first_key_value() else { continue };
        for (node, other) in replicas.iter().skip(1) {
            let begin = first.first.max(other.first);
            let by_index = |log: &ReplicaLog| {
                let entries = log.entries.iter().filter(|entry| entry.index >= begin);
                entries.map(|entry| (entry.index, *entry)).collect::<BTreeMap<_, _>>()
            };
            let (ours, theirs) = (by_index(first), by_index(other));
            let mut indexes = ours.keys().chain(theirs.keys()).collect::<Vec<_>>();
            indexes.sort();
            let differing = indexes.into_iter().find(|index| ours.get(index) != theirs.get(index)).copied();
            let ends = (end_of(first), end_of(other));
            let shorter = (ends.0 != ends.1).then(|| ends.0.min(ends.1));
            if let Some(index) = differing.or(shorter) {
                found.push(Violation {
                    promise: "O-28",
                    at: end,
                    what: format!(
                        "replicas converge: at index {index} of group {group} node {first_node} holds {}, and node {node} \
                         {}",
                        told(ours.get(&index)),
                        told(theirs.get(&index))
                    ),
                });
            }
        }
    }
    found
}

/// The index behind a log's last entry.
fn end_of(log: &ReplicaLog) -> LogIndex {
    log.entries.last().map_or(log.first, |last| last.index.next())
}

fn told(entry: Option<&ReplicaEntry>) -> String {
    entry.map_or_else(
        || "nothing".to_owned(),
        |entry| format!("an entry of term {} with the checksum {:08x}", entry.term, entry.body_crc),
    )
}

#[cfg(test)]
mod tests {
    use quorate_proto::ids::{GroupId, NodeId, Term};

    use super::*;

    fn differ(one: &[(u64, u64, u32)], other: &[(u64, u64, u32)]) -> bool {
        differ_from((0, one), (0, other))
    }

    /// Each log with its first index.
    fn differ_from(one: (u64, &[(u64, u64, u32)]), other: (u64, &[(u64, u64, u32)])) -> bool {
        let replica = |(first, entries): (u64, &[(u64, u64, u32)])| {
            let entry = |(index, term, body_crc): &(u64, u64, u32)| ReplicaEntry {
                index: LogIndex(*index),
                term: Term(*term),
                body_crc: *body_crc,
            };
            ReplicaLog { first: LogIndex(first), entries: entries.iter().map(entry).collect() }
        };
        let replicas = BTreeMap::from([(NodeId(1), replica(one)), (NodeId(2), replica(other))]);
        let evidence = Evidence { replicas: BTreeMap::from([(GroupId(5), replicas)]), ..Evidence::default() };
        !check(&evidence, Duration::ZERO).is_empty()
    }

    #[test]
    fn a_difference_is_seen() {
        let log = [(0, 1, 10), (1, 1, 11)];
        assert!(!differ(&log, &log));
        assert!(differ(&log, &log[..1]));
        assert!(differ(&log, &[(0, 1, 10), (1, 2, 11)]));
        assert!(differ(&log, &[(0, 1, 10), (1, 1, 12)]));
        assert!(differ(&[], &log));
    }

    #[test]
    fn what_one_of_them_has_trimmed_is_not_compared() {
        let log = [(0, 1, 10), (1, 1, 11), (2, 3, 12)];
        assert!(!differ_from((0, &log), (1, &log[1..])));
        assert!(!differ_from((3, &[]), (0, &log)));
        assert!(differ_from((0, &log), (1, &log[1..2])), "shorter");
        assert!(differ_from((2, &[(2, 3, 13)]), (0, &log)));
        assert!(differ_from((5, &[]), (0, &log)), "longer, and empty");
    }
}
