//! Which nodes hold new partitions. Pure and deterministic: every node computes the same.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use quorate_proto::ids::{NodeId, TopicId};

use crate::metadata::Metadata;

/// What a node has to do already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    /// Partitions that it is the preferred leader of.
    leads: usize,
    /// Partitions that it holds.
    holds: usize,
}

/// Places the `partitions` of these numbers with `replicas` each, the preferred leader first. Each replica goes to the
/// node that holds the fewest (among those, leads the fewest), each preferred leadership to the holder that leads the
/// fewest; among equals the order is another one per topic and partition, so that the same nodes do not always share
/// partitions.
///
/// # Panics
/// If there are fewer nodes than replicas: whoever asks has checked.
pub(super) fn place(
    metadata: &Metadata,
    id: TopicId,
    partitions: Range<u32>,
    replicas: usize,
) -> Vec<Vec<NodeId>> {
    assert!(replicas <= metadata.nodes.len(), "each replica is on a node of its own");
    let mut loads: BTreeMap<NodeId, Load> =
        metadata.nodes.keys().map(|node| (*node, Load::default())).collect();
    for partition in metadata.topics.values().flat_map(|topic| &topic.partitions) {
        for (place, node) in partition.replicas.iter().enumerate() {
            let load = loads.entry(*node).or_default();
            load.holds += 1;
            load.leads += usize::from(place == 0);
        }
    }
    let seed = mix(id.0.as_u64_pair().0 ^ id.0.as_u64_pair().1);
    partitions
        .map(|partition| {
            let luck = |node: NodeId| mix(seed ^ mix((u64::from(partition) << 32) | u64::from(node.0)));
            let mut chosen: Vec<NodeId> = metadata.nodes.keys().copied().collect();
            chosen.sort_by_key(|node| (loads[node].holds, loads[node].leads, luck(*node)));
            chosen.truncate(replicas);
            chosen.sort_by_key(|node| (loads[node].leads, Reverse(luck(*node))));
            for (place, node) in chosen.iter().enumerate() {
                let load = loads.get_mut(node).expect("only nodes with a load were chosen");
                load.holds += 1;
                load.leads += usize::from(place == 0);
            }
            chosen
        })
        .collect()
}

/// Scatters the bits of a number (the finaliser of splitmix64).
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use quorate_proto::ids::{GroupId, Identity};

    use super::*;
    use crate::metadata::{Node, Partition, Topic, TopicConfig};

    fn cluster(nodes: u32) -> Metadata {
        let node = |id: u32| Node {
            identity: Identity::from_random([u8::try_from(id).unwrap(); 16]),
            grpc: String::new(),
            peer: String::new(),
            http: String::new(),
        };
        Metadata { nodes: (1..=nodes).map(|id| (NodeId(id), node(id))).collect(), ..Metadata::default() }
    }

    fn add(metadata: &mut Metadata, id: TopicId, partitions: u32, replicas: usize) -> Vec<Vec<NodeId>> {
        let placed = place(metadata, id, 0..partitions, replicas);
        let partitions = placed
            .iter()
            .map(|replicas| Partition { group: GroupId(1), replicas: replicas.clone() })
            .collect();
        let name = "t".parse().unwrap();
        let topic = Topic { id, name, partitions, config: TopicConfig::default() };
        metadata.topics.insert(id, Arc::new(topic));
        placed
    }

    fn spread(counts: impl Iterator<Item = usize>) -> usize {
        let counts: Vec<usize> = counts.collect();
        counts.iter().max().unwrap() - counts.iter().min().unwrap()
    }

    proptest! {
        #[test]
        fn replicas_and_leaders_are_spread_evenly(
            nodes in 1_u32..8,
            replicas in 1_usize..4,
            topics in prop::collection::vec((1_u32..13, any::<[u8; 16]>()), 1..8),
        ) {
            let mut metadata = cluster(nodes);
            let mut all = Vec::new();
            for (partitions, id) in topics {
                let replicas = replicas.min(metadata.nodes.len());
                all.extend(add(&mut metadata, TopicId::from_random(id), partitions, replicas));
            }
            for replicas in &all {
                let mut distinct = replicas.clone();
                distinct.sort();
                distinct.dedup();
                prop_assert_eq!(distinct.len(), replicas.len());
            }
            let holds = |node: u32| all.iter().flatten().filter(|n| **n == NodeId(node)).count();
            prop_assert!(spread((1..=nodes).map(holds)) <= 1);
            let leads = |node: u32| all.iter().filter(|r| r[0] == NodeId(node)).count();
            // A preferred leader must hold the partition: evenness of both at once can be off by one more.
            prop_assert!(spread((1..=nodes).map(leads)) <= 2);
        }
    }

    #[test]
    fn a_topic_alone_is_spread_exactly() {
        let mut metadata = cluster(3);
        let placed = add(&mut metadata, TopicId::from_random([9; 16]), 12, 3);
        for node in 1..=3 {
            assert_eq!(placed.iter().filter(|replicas| replicas[0] == NodeId(node)).count(), 4);
        }
    }
}
