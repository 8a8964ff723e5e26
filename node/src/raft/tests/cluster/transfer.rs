//! Leadership handed over: to whom it was asked for, and before a node stops.

use super::*;
use crate::raft::{TransferError, Transferred};

fn id(node: &Node) -> NodeId {
    node.store.facts().node()
}

#[test]
fn leadership_goes_where_it_was_sent_and_nothing_is_lost() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let nodes = cluster.start_all(1..=3).await;
        let (first, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        let mut acked = propose(first, term, 0..200).await;
        let heir = nodes.iter().find(|node| id(node) != id(first)).unwrap();
        until("they hear each other", || first.raft.fit_since(id(heir), GROUP).is_some()).await;

        // One at a time; whoever proposes waits for its end.
        first.group.0.transfer.send_replace(Some(NodeId(9)));
        let second = first.raft.transfer(GROUP, id(heir)).await;
        assert_eq!(second, Err(TransferError::UnderWay { to: NodeId(9) }));
        assert!(first.group.settled().now_or_never().is_none());
        first.group.0.transfer.send_replace(None);
        assert!(first.group.settled().now_or_never().is_some());

        let in_flight = propose(first, term, 200..400);
        let moved = first.raft.transfer(GROUP, id(heir));
        let (more, moved) = futures_util::future::join(in_flight, moved).await;
        assert_eq!(moved, Ok(Transferred::Done));
        acked.extend(more);
        assert!(matches!(first.group.role(), Role::Follower { .. }), "{:?}", first.group.role());
        let (second, next) = leader(&[heir]).await;
        assert!(next > term);
        assert!(second.group.was_handed(next));
        acked.extend(propose(second, next, 1000..1100).await);
        for node in &nodes {
            until("all have all", || holds(node, &acked)).await;
        }

        assert_eq!(second.raft.transfer(GROUP, id(second)).await, Ok(Transferred::LedAlready));
        let voters = (1..=3).map(NodeId).collect();
        let stranger = second.raft.transfer(GROUP, NodeId(9)).await;
        assert_eq!(stranger, Err(TransferError::NotAVoter { to: NodeId(9), voters }));
        let elsewhere = first.raft.transfer(GROUP, id(first)).await;
        assert_eq!(elsewhere, Err(TransferError::NotLeader { leader: Some(id(second)) }));
        for node in nodes {
            node.stop().await;
        }
    });
}

#[test]
fn nobody_hands_over_to_one_that_is_not_there() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let mut nodes = cluster.start_all(1..=3).await;
        let (first, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        let leading = id(first);
        let dead = nodes.iter().position(|node| id(node) != leading).unwrap();
        let dead = nodes.remove(dead);
        let to = id(&dead);
        dead.kill();
        let (first, _) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        let lease = Duration::from_millis(cluster.config.election_timeout_ms_max);
        let silent = || first.raft.alive().get(&to).is_none_or(|heard| first.env.now().since(*heard) > lease);
        until("it is taken for dead", silent).await;
        assert_eq!(first.raft.transfer(GROUP, to).await, Err(TransferError::NotAlive { to }));
        // Nothing was given up for it.
        assert_eq!(first.group.role(), Role::Leader { term, ready: true });
        assert_eq!(propose(first, term, 0..10).await.len(), 10);
        for node in nodes {
            node.stop().await;
        }
    });
}

#[test]
fn one_node_alone_has_nobody_to_hand_over_to() {
    threads().block_on(async {
        let mut cluster = Cluster::new(1).await;
        let node = cluster.start(1).await;
        let (_, term) = leader(&[&node]).await;
        node.raft.hand_over().await;
        assert_eq!(node.group.role(), Role::Leader { term, ready: true });
        assert_eq!(propose(&node, term, 0..1).await.len(), 1);
        node.stop().await;
    });
}

/// The heir is asked, and dies before it stands.
#[test]
fn a_leader_whose_heir_did_not_take_over_is_replaced_and_does_not_rest() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        cluster.config.quiet_after_ms = 100;
        let mut nodes = cluster.start_all(1..=3).await;
        let (first, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        let leading = id(first);
        let heir = nodes.iter().position(|node| id(node) != leading).unwrap();
        let to = id(&nodes[heir]);
        // As a transfer does in the end, when the heir is as good as gone.
        let giving = nodes.iter().find(|node| id(node) == leading).unwrap().group.clone();
        giving.0.give_up(term);
        giving.0.scope.enter(giving.0.raft.trigger().transfer_leader(to.0.into())).boxed().await.unwrap();
        nodes.remove(heir).kill();
        drop(giving);
        let left: Vec<_> = nodes.iter().collect();
        let mut next = term;
        until("another one to lead, or the same in a later term", || {
            next = left
                .iter()
                .find_map(|node| match node.group.role() {
                    Role::Leader { term: now, ready: true } if now > term => Some(now),
                    Role::Leader { .. } | Role::Follower { .. } => None,
                })
                .unwrap_or(next);
            next > term
        })
        .await;
        for node in nodes {
            node.stop().await;
        }
    });
}

#[test]
fn a_node_that_stops_hands_over_first_and_takes_nothing_any_more() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let nodes = cluster.start_all(1..=3).await;
        let all: Vec<_> = nodes.iter().collect();
        let (first, term) = leader(&all).await;
        let acked = propose(first, term, 0..100).await;
        let others: Vec<_> = nodes.iter().filter(|node| id(node) != id(first)).collect();
        for other in &others {
            until("they hear each other", || first.raft.fit_since(id(other), GROUP).is_some()).await;
        }
        let began = first.env.now();
        first.raft.hand_over().await;
        let (second, next) = leader(&others).await;
        let gap = second.env.now().since(began);
        assert!(gap < Duration::from_millis(700), "took {gap:?}");
        assert!(next > term);
        assert!(holds(second, &acked));

        // The others know that it takes nothing, also not from those who ask for it.
        let to = id(first);
        until("it is known to stop", || second.raft.fit_since(to, GROUP).is_none()).await;
        assert_eq!(second.raft.transfer(GROUP, to).await, Err(TransferError::Unfit { to }));
        assert_eq!(second.group.role(), Role::Leader { term: next, ready: true });
        for node in nodes {
            node.stop().await;
        }
    });
}
