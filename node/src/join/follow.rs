//! What the metadata group agrees on about members, as this node keeps it: durable, so that nodes which start together
//! know each other before any of them knows what was agreed on last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::ids::{Identity, LogIndex, NodeId};
use tokio::sync::watch;

use super::{Join, Shared};
use crate::env::{Mark, Point};
use crate::metadata::Metadata;
use crate::raft::RaftNode;
use crate::storage::{Facts, News, Seat};

/// How late it may be followed, where a [`Point`] makes it so.
const LATE_MAX: Duration = Duration::from_secs(2);

impl Join {
    /// Follows the metadata: who was admitted is known from then on, who was removed or replaced is heard no more. Ends
    /// with a sentence if this node itself was, or if the metadata end. `applied` is the last entry that they hold.
    pub async fn follow(
        &self,
        raft: &RaftNode,
        mut metadata: watch::Receiver<Arc<Metadata>>,
        applied: impl Fn() -> LogIndex,
    ) -> String {
        loop {
            self.shared.env.dawdle(Point::MembersFollowedLate, LATE_MAX).await;
            // In this order: the metadata are no older than that.
            let as_of = applied();
            let current = Arc::clone(&metadata.borrow_and_update());
            if let Some(news) = self.shared.news(&current, as_of) {
                if raft.learn(news).await.is_err() {
                    // The store has failed: whoever watches it ends the process.
                    return std::future::pending().await;
                }
                self.shared.forget_strangers();
            }
            if let Some(reason) = self.shared.is_gone() {
                self.shared.env.reached(Mark::RemovalNoticed);
                return reason;
            }
            if metadata.changed().await.is_err() {
                return "the metadata group has ended".to_owned();
            }
        }
    }
}

impl Shared {
    /// Where those were who are no members any more does not matter: one that comes again is looked for anew.
    fn forget_strangers(&self) {
        let members = self.facts.peers();
        let mut known = self.known();
        known.addresses.retain(|node, _| members.contains_key(node));
        known.heard.retain(|node, _| members.contains_key(node));
        known.lost.retain(|node| members.contains_key(node));
    }

    fn news(&self, metadata: &Metadata, as_of: LogIndex) -> Option<News> {
        news(&self.facts, self.node, metadata, as_of)
    }
}

/// What these metadata say that is not noted yet; `None` if nothing is. Metadata of before what is noted say nothing:
/// after a start they are applied from the beginning.
fn news(facts: &Facts, me: NodeId, metadata: &Metadata, as_of: LogIndex) -> Option<News> {
    if facts.as_of().is_some_and(|noted| as_of < noted) {
        return None;
    }
    let gone: BTreeMap<Identity, NodeId> = metadata
        .removed
        .iter()
        .filter(|(_, identity)| facts.gone(*identity).is_none())
        .map(|(node, identity)| (*identity, *node))
        .collect();
    let peers: BTreeMap<NodeId, (Identity, Seat)> = metadata
        .nodes
        .iter()
        .filter(|(id, _)| **id != me)
        .map(|(id, node)| (*id, (node.identity, Seat { admission: node.admission, peer: node.peer.clone() })))
        .filter(|(id, (identity, seat))| facts.peer(*id) != Some(*identity) || facts.seat(*id) != *seat)
        .collect();
    // It was told when it was admitted; what it was told then may be lost.
    let ours = metadata.nodes.get(&me).filter(|node| node.identity == facts.identity());
    let admission = ours.map(|node| node.admission).filter(|number| *number > facts.admission());
    (!gone.is_empty() || !peers.is_empty() || admission.is_some()).then(|| News {
        peers,
        gone,
        as_of: Some(as_of),
        admission,
        ..News::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Node;
    use crate::raft::alone::Alone;

    fn disk(byte: u8) -> Identity {
        Identity::from_random([byte; 16])
    }

    #[tokio::test]
    async fn what_is_new_is_noted_once_and_what_is_old_never() {
        let alone = Alone::start().await;
        let facts = alone.store.facts();
        let node = |byte, admission| Node {
            identity: disk(byte),
            peer: format!("{byte}:7101"),
            admission,
            ..Node::default()
        };
        let mut metadata = Metadata {
            nodes: [(NodeId(1), node(1, 0)), (NodeId(2), node(2, 0)), (NodeId(3), node(3, 0))].into(),
            ..Metadata::default()
        };
        let first = news(facts, alone.me, &metadata, LogIndex(5)).expect("nobody is known");
        assert_eq!(first.peers.keys().copied().collect::<Vec<_>>(), [2, 3].map(NodeId), "the others");
        facts.learn(first).await.unwrap();
        assert_eq!(news(facts, alone.me, &metadata, LogIndex(9)), None);

        // Node 2 was replaced, node 3 removed.
        let before = metadata.clone();
        metadata.nodes.insert(NodeId(2), node(22, 1));
        metadata.nodes.remove(&NodeId(3));
        Arc::make_mut(&mut metadata.removed).extend([(NodeId(2), disk(2)), (NodeId(3), disk(3))]);
        let second = news(facts, alone.me, &metadata, LogIndex(9)).expect("there is something new");
        facts.learn(second).await.unwrap();
        assert_eq!(facts.peers(), BTreeMap::from([(NodeId(2), disk(22))]));
        assert_eq!(facts.gone(disk(3)), Some(NodeId(3)));
        assert_eq!(facts.as_of(), Some(LogIndex(9)));

        // It was told itself, and the number of its admission was lost.
        let ours = Node { identity: alone.identity, admission: 2, ..Node::default() };
        metadata.nodes.insert(alone.me, ours);
        let third = news(facts, alone.me, &metadata, LogIndex(9)).expect("its number is new");
        facts.learn(third).await.unwrap();
        assert_eq!(facts.admission(), 2);

        // Its log is applied again.
        assert_eq!(news(facts, alone.me, &before, LogIndex(5)), None);
        assert_eq!(news(facts, alone.me, &metadata, LogIndex(9)), None);
    }
}
