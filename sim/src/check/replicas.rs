//! Replicas converge: after everything is mended, all replicas of a group hold the same entries, by index, term and
//! checksum of the body, up to what is committed (oracle O-02, O-28).

use std::collections::BTreeMap;
use std::time::Duration;

use super::Violation;
use crate::history::{Evidence, ReplicaEntry};

pub(super) fn check(evidence: &Evidence, end: Duration) -> Vec<Violation> {
    let mut found = Vec::new();
    for (group, replicas) in &evidence.replicas {
        let Some((first_node, first)) = replicas.first_key_value() else { continue };
        for (node, other) in replicas.iter().skip(1) {
            let ours = first.iter().map(|entry| (entry.index, entry)).collect::<BTreeMap<_, _>>();
            let theirs = other.iter().map(|entry| (entry.index, entry)).collect::<BTreeMap<_, _>>();
            let mut indexes = ours.keys().chain(theirs.keys()).collect::<Vec<_>>();
            indexes.sort();
            let differing = indexes.into_iter().find(|index| ours.get(index) != theirs.get(index));
            if let Some(index) = differing {
                found.push(Violation {
                    promise: "O-28",
                    at: end,
                    what: format!(
                        "replicas converge: at index {index} of group {group} node {first_node} holds {}, and node {node} \
                         {}",
                        told(ours.get(index).copied()),
                        told(theirs.get(index).copied())
                    ),
                });
            }
        }
    }
    found
}

fn told(entry: Option<&ReplicaEntry>) -> String {
    entry.map_or_else(
        || "nothing".to_owned(),
        |entry| format!("an entry of term {} with the checksum {:08x}", entry.term, entry.body_crc),
    )
}

#[cfg(test)]
mod tests {
    use quorate_proto::ids::{GroupId, LogIndex, NodeId, Term};

    use super::*;

    fn differ(one: &[(u64, u64, u32)], other: &[(u64, u64, u32)]) -> bool {
        let replica = |entries: &[(u64, u64, u32)]| {
            let entry = |(index, term, body_crc): &(u64, u64, u32)| ReplicaEntry {
                index: LogIndex(*index),
                term: Term(*term),
                body_crc: *body_crc,
            };
            entries.iter().map(entry).collect::<Vec<_>>()
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
}
