//! Nodes that have asked to be admitted and were not: whoever runs the cluster decides.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_proto::env::Moment;
use quorate_proto::ids::NodeId;

use crate::metadata::Node;

/// A node asks again within seconds: one that was silent for so long does not wait any more.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Most nodes that are remembered: whoever reaches the peers' port can ask.
const CANDIDATES_MAX: usize = 64;

/// A node that asked to be admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What it says of itself.
    pub node: Node,
    /// When it asked last.
    pub heard: Moment,
}

/// The nodes that wait to be admitted, as this node has heard, and those that did until lately: who asks twice to admit
/// one is told that it is done. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct WaitingRoom(Arc<Mutex<BTreeMap<NodeId, Candidate>>>);

impl WaitingRoom {
    /// A node asks to be admitted. If too many do, the one that asked longest ago is forgotten.
    pub fn enter(&self, id: NodeId, candidate: Candidate) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= CANDIDATES_MAX && !waiting.contains_key(&id) {
            let longest = waiting.iter().min_by_key(|(_, candidate)| candidate.heard).map(|(id, _)| *id);
            if let Some(longest) = longest {
                waiting.remove(&longest);
            }
        }
        waiting.insert(id, candidate);
    }

    /// Who waits at `now`, or did until lately.
    pub fn all(&self, now: Moment) -> BTreeMap<NodeId, Candidate> {
        let waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = waiting.iter().filter(|(_, candidate)| now.since(candidate.heard) <= SILENCE_MAX);
        waits.map(|(id, candidate)| (*id, candidate.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment(Duration::from_secs(seconds))
    }

    #[test]
    fn who_asks_no_more_does_not_wait_and_there_is_a_bound() {
        let room = WaitingRoom::default();
        let ask = |id: u32, seconds| {
            room.enter(NodeId(id), Candidate { node: Node::default(), heard: at(seconds) });
        };
        ask(1, 0);
        ask(2, 10);
        assert_eq!(room.all(at(15)).into_keys().collect::<Vec<_>>(), [1, 2].map(NodeId));
        assert_eq!(room.all(at(16)).into_keys().collect::<Vec<_>>(), [NodeId(2)]);
        for id in 3..=100 {
            ask(id, u64::from(id) + 10);
        }
        assert_eq!(room.all(at(20)).len(), CANDIDATES_MAX);
        assert!(!room.all(at(20)).contains_key(&NodeId(2)), "the longest is forgotten");
    }
}
