//! Which nodes hold new partitions, and who takes over a replica. Pure and deterministic: every node computes the same.
//! Replicas are spread over racks first, then over nodes; a node without a rack stands alone.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;

use quorate_proto::ids::{NodeId, TopicId};

use crate::metadata::Metadata;

/// What a node has to do already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Load {
    /// Partitions that it is the preferred leader of.
    leads: usize,
    /// Partitions that it holds.
    holds: usize,
}

/// Of every node.
pub(super) type Loads = BTreeMap<NodeId, Load>;

/// The nodes that may be given replicas.
pub(super) fn available(metadata: &Metadata) -> impl Iterator<Item = NodeId> {
    metadata.nodes.keys().copied().filter(|node| !metadata.draining.contains(node))
}

/// Counted anew: that takes as long as there are partitions.
pub(super) fn loads(metadata: &Metadata) -> Loads {
    let mut loads: Loads = metadata.nodes.keys().map(|node| (*node, Load::default())).collect();
    for partition in metadata.topics.values().flat_map(|topic| &topic.partitions) {
        for (place, node) in partition.replicas.iter().enumerate() {
            let load = loads.entry(*node).or_default();
            load.holds += 1;
            load.leads += usize::from(place == 0);
        }
    }
    loads
}

/// How many of `others` stand in the same rack as `node`.
pub(super) fn neighbours(metadata: &Metadata, others: &[NodeId], node: NodeId) -> usize {
    let rack = |node: NodeId| {
        metadata.nodes.get(&node).map(|node| node.rack.as_str()).filter(|rack| !rack.is_empty())
    };
    let here = rack(node);
    others.iter().filter(|other| here.is_some() && rack(**other) == here).count()
}

/// One replica goes from one node to another: what [`loads`] would count after that.
pub(super) fn give(loads: &mut Loads, from: NodeId, to: NodeId, is_first: bool) {
    if let Some(load) = loads.get_mut(&from) {
        load.holds = load.holds.saturating_sub(1);
        load.leads = load.leads.saturating_sub(usize::from(is_first));
    }
    let load = loads.entry(to).or_default();
    load.holds += 1;
    load.leads += usize::from(is_first);
}

/// Who of `heirs` takes the place of a replica beside `others`; nobody if each of them holds one.
pub(super) fn heir(
    metadata: &Metadata,
    loads: &Loads,
    others: &[NodeId],
    heirs: &[NodeId],
) -> Option<NodeId> {
    let fit = heirs.iter().copied().filter(|heir| !others.contains(heir));
    fit.min_by_key(|heir| {
        (neighbours(metadata, others, *heir), loads.get(heir).copied().unwrap_or_default(), *heir)
    })
}

/// Replicas of all nodes that may be given some, counted.
pub(super) fn held(metadata: &Metadata) -> BTreeMap<NodeId, usize> {
    let loads = loads(metadata);
    available(metadata).map(|node| (node, loads.get(&node).map_or(0, |load| load.holds))).collect()
}

/// Places the `partitions` of these numbers with `replicas` each, the preferred leader first. Each replica goes to the
/// node whose rack holds the fewest of that partition, then to the one that holds the fewest (among those, leads the
/// fewest), each preferred leadership to the holder that leads the fewest; among equals the order is another one per
/// topic and partition, so that the same nodes do not always share partitions.
///
/// # Panics
/// If there are fewer available nodes than replicas: whoever asks has checked.
pub(super) fn place(
    metadata: &Metadata,
    id: TopicId,
    partitions: Range<u32>,
    replicas: usize,
) -> Vec<Vec<NodeId>> {
    assert!(replicas <= available(metadata).count(), "each replica is on a node of its own");
    let mut loads = loads(metadata);
    let seed = mix(id.0.as_u64_pair().0 ^ id.0.as_u64_pair().1);
    partitions
        .map(|partition| {
            let luck = |node: NodeId| mix(seed ^ mix((u64::from(partition) << 32) | u64::from(node.0)));
            let mut chosen: Vec<NodeId> = Vec::with_capacity(replicas);
            while chosen.len() < replicas {
                let left = available(metadata).filter(|node| !chosen.contains(node));
                let rank = |node: &NodeId| {
                    let load = loads[node];
                    (neighbours(metadata, &chosen, *node), load.holds, load.leads, luck(*node))
                };
                let next = left.min_by_key(rank).expect("there are as many nodes as replicas");
                chosen.push(next);
            }
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
            ..Node::default()
        };
        Metadata { nodes: (1..=nodes).map(|id| (NodeId(id), node(id))).collect(), ..Metadata::default() }
    }

    fn add(metadata: &mut Metadata, id: TopicId, partitions: u32, replicas: usize) -> Vec<Vec<NodeId>> {
        let placed = place(metadata, id, 0..partitions, replicas);
        let partitions = placed
            .iter()
            .map(|replicas| Partition {
                group: GroupId(1),
                replicas: replicas.clone(),
                ..Partition::default()
            })
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
    fn racks_come_before_loads_and_nodes_that_leave_get_nothing() {
        let mut metadata = cluster(6);
        for (node, rack) in [(1, "a"), (2, "a"), (3, "a"), (4, "a"), (5, "b"), (6, "b")] {
            metadata.nodes.get_mut(&NodeId(node)).unwrap().rack = rack.to_owned();
        }
        metadata.draining.insert(NodeId(6));
        for replicas in add(&mut metadata, TopicId::from_random([9; 16]), 12, 2) {
            assert!(replicas.contains(&NodeId(5)), "{replicas:?} are all in rack a");
            assert!(!replicas.contains(&NodeId(6)), "{replicas:?}: node 6 is leaving");
        }
        let heir_of = |others: &[u32], heirs: &[u32]| {
            let nodes = |list: &[u32]| list.iter().copied().map(NodeId).collect::<Vec<_>>();
            heir(&metadata, &loads(&metadata), &nodes(others), &nodes(heirs)).map(|node| node.0)
        };
        assert_eq!(heir_of(&[1], &[1, 2, 3, 5]), Some(5), "it holds the most, and is in the other rack");
        assert_eq!(heir_of(&[5], &[1, 5]), Some(1));
        assert_eq!(heir_of(&[1, 5], &[1, 5]), None);
        assert_eq!(held(&metadata).len(), 5);
    }

    #[test]
    fn what_is_given_away_counts_as_if_it_were_counted_anew() {
        let mut metadata = cluster(4);
        let id = TopicId::from_random([9; 16]);
        add(&mut metadata, id, 12, 3);
        let mut counted = loads(&metadata);
        for at in 0..12 {
            let partition = &mut Arc::make_mut(metadata.topics.get_mut(&id).unwrap()).partitions[at];
            let to = (1..=4).map(NodeId).find(|node| !partition.replicas.contains(node)).unwrap();
            let from = std::mem::replace(&mut partition.replicas[at % 3], to);
            give(&mut counted, from, to, at % 3 == 0);
            assert_eq!(counted, loads(&metadata));
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
