//! A group falls quiet, stays led without heartbeats, and wakes.

use super::*;

/// How long a quiet group is watched: several times what a leader is missed after.
const WATCHED: Duration = Duration::from_secs(4);

async fn three() -> (Cluster, Vec<Node>) {
    let mut cluster = Cluster::new(3).await;
    cluster.config.quiet_after_ms = 200;
    let nodes = cluster.start_all(1..=3).await;
    (cluster, nodes)
}

fn counts(node: &Node) -> (usize, usize) {
    node.raft.inner().ledger.lock().count()
}

/// Waits until the group is quiet on all of these.
async fn quiet(nodes: &[Node]) {
    until("the group is quiet", || {
        nodes.iter().all(|node| match node.group.role() {
            Role::Leader { .. } => counts(node) == (1, 0),
            Role::Follower { .. } => counts(node) == (0, 1),
        })
    })
    .await;
}

#[test]
fn a_quiet_group_keeps_its_leader_and_wakes_for_a_proposal() {
    threads().block_on(async {
        let (_cluster, nodes) = three().await;
        let all: Vec<_> = nodes.iter().collect();
        let (first, term) = leader(&all).await;
        let mut acked = propose(first, term, 0..10).await;
        quiet(&nodes).await;
        first.env.sleep(WATCHED).await;
        assert_eq!(first.group.role(), Role::Leader { term, ready: true }, "the beats stand for heartbeats");

        // Of two nodes one beats, and relies on the answers of the other.
        let relies = |asks: &Node, answers: &Node| asks.raft.inner().relies_on(answers.store.facts().node());
        until("answers are relied on", || {
            relies(&nodes[0], &nodes[1]) && relies(&nodes[0], &nodes[2]) && relies(&nodes[1], &nodes[2])
        })
        .await;
        assert!(!relies(&nodes[2], &nodes[0]) && !relies(&nodes[1], &nodes[0]));

        // Its lease has run out by far: it asks a majority before it takes anything in.
        let more = propose(first, term, 10..20).await;
        assert_eq!(more.len(), 10);
        acked.extend(more);
        for node in &nodes {
            until("all have all", || holds(node, &acked)).await;
        }
        quiet(&nodes).await;
        first.group.read_barrier(DEADLINE).await.unwrap();
        assert_eq!(first.group.role(), Role::Leader { term, ready: true });
        for node in nodes {
            node.stop().await;
        }
    });
}

/// A peer would be missed before it was known to be silent.
#[test]
fn answers_are_not_relied_on_where_beats_are_rare() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        cluster.config.quiet_after_ms = 200;
        cluster.config.beat_ms = 200;
        cluster.config.election_timeout_ms_max = 700;
        let nodes = cluster.start_all(1..=3).await;
        leader(&nodes.iter().collect::<Vec<_>>()).await;
        quiet(&nodes).await;
        let env = &nodes[0].env;
        let end = env.now() + WATCHED / 2;
        while env.now() < end {
            for asks in &nodes {
                for answers in (1..=3).map(NodeId) {
                    assert!(!asks.raft.inner().relies_on(answers), "node {answers} beats no more");
                }
            }
            env.sleep(Duration::from_millis(10)).await;
        }
        for node in nodes {
            node.stop().await;
        }
    });
}

#[test]
fn a_quiet_leader_that_dies_is_replaced_and_one_that_comes_back_is_followed() {
    threads().block_on(async {
        let (mut cluster, mut nodes) = three().await;
        let (first, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        let acked = propose(first, term, 0..10).await;
        quiet(&nodes).await;
        let dead = first.store.facts().node();
        let place = nodes.iter().position(|node| node.store.facts().node() == dead).unwrap();
        nodes.remove(place).kill();
        let began = nodes[0].env.now();
        let (second, next) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        let gap = second.env.now().since(began);
        assert!(gap < Duration::from_millis(700), "took {gap:?}");
        assert!(next > term);
        assert!(holds(second, &acked));
        // Without the dead one, for there is a majority.
        quiet(&nodes).await;

        nodes.push(cluster.start(dead.0).await);
        quiet(&nodes).await;
        let (third, last) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        assert_eq!(last, next, "whoever comes back follows");
        assert_eq!(propose(third, last, 10..20).await.len(), 10);
        for node in nodes {
            node.stop().await;
        }
    });
}

#[test]
fn a_quiet_group_is_handed_over() {
    threads().block_on(async {
        let (_cluster, nodes) = three().await;
        let (first, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        quiet(&nodes).await;
        let heir = nodes.iter().find(|node| !matches!(node.group.role(), Role::Leader { .. })).unwrap();
        first.raft.transfer(GROUP, heir.store.facts().node()).await.unwrap();
        let (second, next) = leader(&[heir]).await;
        assert!(next > term);
        assert_eq!(propose(second, next, 0..10).await.len(), 10);
        quiet(&nodes).await;
        for node in nodes {
            node.stop().await;
        }
    });
}

#[test]
fn nobody_gets_a_vote_in_a_quiet_group_while_its_leaders_node_lives() {
    threads().block_on(async {
        let (_cluster, nodes) = three().await;
        let (first, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        quiet(&nodes).await;
        // What openraft knows as leases has run out by far.
        first.env.sleep(Duration::from_secs(2)).await;
        let asks = nodes.iter().find(|node| !matches!(node.group.role(), Role::Leader { .. })).unwrap();
        let candidate = asks.store.facts().node();
        for node in &nodes {
            let to = node.store.facts().node();
            if to == candidate {
                continue;
            }
            let request = v1::VoteRequest {
                group: GROUP.0,
                vote: Some(v1::RaftVote { term: term.0 + 1, node: candidate.0.into(), committed: false }),
                last_log_id: Some(v1::LogId { term: term.0, index: 1_000 }),
                leadership_transfer: false,
            };
            let body = peer_request::Body::PreVote(request);
            let answer = asks.raft.call(to, Lane::Urgent, body, DEADLINE).await.unwrap();
            let Some(v1::peer_reply::Body::Vote(vote)) = answer.body else { panic!("{answer:?}") };
            assert!(!vote.granted, "node {to} would vote");
        }
        // The leader was asked too, and is awake until nothing happens for a while.
        assert_eq!(first.group.role(), Role::Leader { term, ready: true });
        quiet(&nodes).await;
        assert_eq!(first.group.role(), Role::Leader { term, ready: true });
        for node in nodes {
            node.stop().await;
        }
    });
}
