//! Shapes in which nodes fall apart.

use std::collections::BTreeSet;

use quorate_proto::ids::NodeId;

use crate::dice::Dice;

/// What a partition is called, and the links that it cuts, each one way.
pub(super) type Shape = (&'static str, BTreeSet<(NodeId, NodeId)>);

/// Draws a shape for these nodes. `leader`: somebody who leads much.
pub(super) fn draw(nodes: &[NodeId], leader: Option<NodeId>, dice: &mut Dice) -> Shape {
    let one = leader.filter(|_| dice.chance(500)).unwrap_or_else(|| nodes[dice.place(nodes.len())]);
    let (name, mut cut) = match dice.below(6) {
        0 => ("partition: one alone", between(nodes, |node| node == one)),
        1 => {
            let mut shuffled = nodes.to_vec();
            for place in (1..shuffled.len()).rev() {
                shuffled.swap(place, dice.place(place + 1));
            }
            let side =
                shuffled.into_iter().take(dice.place(nodes.len().max(2) - 1) + 1).collect::<BTreeSet<_>>();
            ("partition: two sides", between(nodes, |node| side.contains(&node)))
        }
        2 => {
            let side = nodes.iter().copied().filter(|_| dice.chance(500)).collect::<BTreeSet<_>>();
            ("partition: each by a coin", between(nodes, |node| side.contains(&node)))
        }
        3 => {
            // All but the bridge are on one of two sides.
            let mut others = nodes.iter().copied().filter(|node| *node != one).collect::<Vec<_>>();
            let right = others.split_off(others.len() / 2);
            let mut cut = BTreeSet::new();
            for left in others {
                cut.extend(right.iter().flat_map(|right| [(left, *right), (*right, left)]));
            }
            ("partition: a bridge", cut)
        }
        4 => {
            // Each hears the next one and the one before.
            let count = nodes.len();
            let beside = |from: usize, to: usize| (from + 1) % count == to || (to + 1) % count == from;
            let pairs = (0..count).flat_map(|from| (0..count).map(move |to| (from, to)));
            let cut = pairs.filter(|(from, to)| from != to && !beside(*from, *to));
            ("partition: a ring", cut.map(|(from, to)| (nodes[from], nodes[to])).collect())
        }
        _ => {
            let others = nodes.iter().copied().filter(|node| *node != one);
            return ("partition: one is not answered", others.map(|other| (other, one)).collect());
        }
    };
    if dice.chance(300) {
        // Of each pair one direction stays whole.
        let way = dice.chance(500);
        cut.retain(|(from, to)| (from < to) == way);
    }
    (name, cut)
}

/// All links, both ways, between the nodes on one side and the others.
fn between(nodes: &[NodeId], is_here: impl Fn(NodeId) -> bool) -> BTreeSet<(NodeId, NodeId)> {
    let pairs = nodes.iter().flat_map(|from| nodes.iter().map(move |to| (*from, *to)));
    pairs.filter(|(from, to)| is_here(*from) != is_here(*to)).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn all_shapes_come_and_some_are_one_way() {
        let nodes = [1, 2, 3, 4, 5].map(NodeId);
        let mut seen = BTreeMap::<&str, BTreeSet<bool>>::new();
        for seed in 0..500 {
            let (name, cut) = draw(&nodes, Some(NodeId(1)), &mut Dice::new(seed));
            assert!(cut.iter().all(|(from, to)| from != to));
            let both_ways = cut.iter().all(|(from, to)| cut.contains(&(*to, *from)));
            seen.entry(name).or_default().insert(both_ways);
        }
        assert_eq!(seen.len(), 6);
        let one_sided = seen.remove("partition: one is not answered");
        assert_eq!(one_sided, Some([false].into()));
        assert!(seen.values().all(|ways| ways.len() == 2), "{seen:?}");
        for count in 1..3 {
            for seed in 0..50 {
                draw(&nodes[..count], None, &mut Dice::new(seed));
            }
        }
    }
}
