//! Where peers are. `--bootstrap`, what a peer said in its hello and what it registered may each be out of date: a
//! whole cluster may have moved while it was down. So an address counts while somebody answers there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use quorate_proto::ErrorCode;
use quorate_proto::ids::NodeId;

use super::{HELLO_TIME_MAX, Join};
use crate::raft::RaftNode;

/// A peer that was heard within this time needs no question.
const QUIET_TIME_MAX: Duration = Duration::from_secs(1);

impl Join {
    /// Asks the peers that are not known to be where they are thought to be, and looks for those who do not answer
    /// at the next of their addresses. `registered`: what the metadata say.
    pub async fn locate(&self, raft: &RaftNode, registered: &BTreeMap<NodeId, String>) {
        let doubtful = self.doubtful(raft, registered);
        let asked = doubtful
            .into_iter()
            .map(|peer| async move { (peer, self.shared.ask(raft, peer, HELLO_TIME_MAX).await) });
        for (peer, answer) in join_all(asked).await {
            // Somebody else may listen at an address that was a peer's once.
            let found = answer.is_ok_and(|reply| reply.error() != ErrorCode::WrongIdentity);
            let moved = {
                let mut known = self.shared.known();
                if found {
                    known.lost.remove(&peer);
                } else {
                    known.lost.insert(peer);
                }
                let heard = known.heard.get(&peer).map(|heard| heard.addresses.peer.as_str());
                let addresses = [
                    heard,
                    registered.get(&peer).map(String::as_str),
                    self.shared.bootstrap.get(&peer).map(String::as_str),
                ];
                let next = (!found)
                    .then(|| next(known.addresses.get(&peer).map(String::as_str), addresses))
                    .flatten();
                next.map(str::to_owned)
            };
            if let Some(address) = moved {
                tracing::debug!(node = %self.shared.node, %peer, address, "looking for a peer elsewhere");
                self.shared.moved(peer, &address);
                raft.set_address(peer, &address);
            }
        }
    }

    fn doubtful(&self, raft: &RaftNode, registered: &BTreeMap<NodeId, String>) -> BTreeSet<NodeId> {
        let (alive, since) = (raft.alive(), self.shared.env.now() - QUIET_TIME_MAX);
        let known = self.shared.known();
        let is_doubtful = |peer: &NodeId| {
            let elsewhere =
                registered.get(peer).is_some_and(|address| known.addresses.get(peer) != Some(address));
            elsewhere || known.lost.contains(peer) || alive.get(peer).is_none_or(|heard| *heard < since)
        };
        let mut peers = self.shared.peers();
        peers.extend(registered.keys().copied().filter(|peer| *peer != self.shared.node));
        peers.into_iter().filter(is_doubtful).collect()
    }
}

/// The address after `current`, round and round; `None` if there is no other.
fn next<'a>(current: Option<&str>, addresses: impl IntoIterator<Item = Option<&'a str>>) -> Option<&'a str> {
    let mut distinct: Vec<&str> = Vec::new();
    for address in addresses.into_iter().flatten() {
        if !distinct.contains(&address) {
            distinct.push(address);
        }
    }
    let at = distinct.iter().position(|address| Some(*address) == current);
    let next = at.map_or(0, |at| (at + 1) % distinct.len().max(1));
    distinct.get(next).copied().filter(|next| Some(*next) != current)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_tried_in_turn() {
        let check = |current: Option<&str>, addresses: [Option<&'static str>; 3], expected: Option<&str>| {
            assert_eq!(next(current, addresses), expected, "{current:?} of {addresses:?}");
        };
        check(Some("a"), [Some("a"), Some("a"), Some("a")], None);
        check(Some("a"), [None, Some("b"), Some("a")], Some("b"));
        check(Some("b"), [None, Some("b"), Some("a")], Some("a"));
        check(Some("b"), [Some("c"), Some("b"), Some("a")], Some("a"));
        check(Some("a"), [Some("c"), Some("b"), Some("a")], Some("c"));
        check(Some("old"), [None, Some("b"), None], Some("b"));
        check(None, [None, Some("b"), None], Some("b"));
        check(Some("a"), [None, None, None], None);
    }
}
