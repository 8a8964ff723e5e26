//! A base that is taken up over a log that went another way.

use quorate_proto::v1::{PeerFrame, PeerRequest};

use super::*;
use crate::raft::types::{log_id_from_raft, log_id_to_wire, vote_to_wire};

#[test]
fn what_lies_before_the_end_of_a_base_stays_until_the_base_is_there() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let mut nodes = cluster.start_all(1..=3).await;
        let (first, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        let mut acked = propose(first, term, 0..10).await;
        assert_eq!(acked.len(), 10);
        let leads = |node: &Node| matches!(node.group.role(), Role::Leader { .. });
        let old = nodes.remove(nodes.iter().position(leads).unwrap());
        let number = old.store.facts().node().0;
        nodes.into_iter().for_each(Node::kill);

        // Nobody else gets these.
        let committed = old.group.log().state().last.unwrap().index;
        for number in 10..40 {
            drop(old.group.propose(term, proposal(number)).await.unwrap());
        }
        let durable = || old.group.log().last_durable().map_or(0, |last| last.index.0);
        until("it has them", || durable() >= committed.0 + 30).await;
        old.kill();

        // The others go on without them, until nothing is left of their logs but a base.
        let nodes = cluster.start_all((1..=3).filter(|node| *node != number)).await;
        let (second, next) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        acked.extend(propose(second, next, 100..105).await);
        assert_eq!(acked.len(), 15);
        let newest = acked.last().unwrap().0;
        until("it is applied", || second.group.applied().is_some_and(|at| at.index >= newest)).await;
        assert_eq!(second.group.trim(newest.next(), false).await.unwrap(), newest.next());
        let base = second.group.0.base.snapshot().await.unwrap().unwrap();
        let (at, body) = (base.meta.last_log_id.unwrap(), base.snapshot);
        let (vote, sender) = (second.group.vote(), second.raft.handler().sender());
        nodes.into_iter().for_each(Node::kill);

        // It gets the base, and cannot save it yet.
        let back = cluster.start(number).await;
        let state = || back.group.log().state();
        let (end, before) = (log_id_from_raft(&at), state().last.unwrap());
        assert!(committed.next() < end.index && end.index < before.index);
        let held = back.group.0.base.turn.lock().await;
        let request = v1::SnapshotRequest {
            group: GROUP.0,
            vote: Some(vote_to_wire(&vote)),
            last_log_id: Some(log_id_to_wire(&at)),
            session: 1,
            offset: 0,
            piece: body.clone(),
            length: body.len() as u64,
            crc: crc32c::crc32c(&body),
        };
        let request = PeerRequest { correlation: 1, body: Some(peer_request::Body::Snapshot(request)) };
        let frame = PeerFrame { sender: Some(sender), requests: vec![request] };
        let answer = back.raft.handler().handle(frame).remove(0);
        let look = async {
            until("what contradicts the base is cut", || state().last != Some(before)).await;
            // The base waits for its turn behind all that is cut for it.
            back.env.sleep(Duration::from_millis(50)).await;
            let kept = LogId { term, index: LogIndex(end.index.0 - 1) };
            assert_eq!(state().last, Some(kept), "only its end contradicts");
            drop(held);
        };
        let (reply, ()) = futures_util::future::join(answer, look).await;
        assert_eq!(reply.error, ErrorCode::None as i32, "{}", reply.message);
        until("its log begins behind the base", || state().purged == Some(end)).await;
        assert_eq!(state().last, Some(end));
        assert!(holds(&back, &acked));

        let mut nodes = cluster.start_all((1..=3).filter(|node| *node != number)).await;
        nodes.push(back);
        let (third, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        acked.extend(propose(third, term, 200..205).await);
        for node in &nodes {
            until("all have all", || holds(node, &acked)).await;
        }
        for node in nodes {
            node.stop().await;
        }
    });
}
