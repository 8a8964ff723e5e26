//! The controller over a real store and a real Raft group of one node.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_proto::ErrorCode;
use quorate_proto::ids::{ClusterId, NodeId};

use super::*;
use crate::metadata::Node;
use crate::raft::Member;
use crate::raft::alone::{Alone, eventually};

const LONG: Duration = Duration::from_secs(20);

async fn begin(alone: &Alone) -> Controller {
    let members = vec![Member { node: alone.me, identity: alone.identity }];
    let config = ControllerConfig::default();
    Controller::start(&alone.env, &alone.raft, config, alone.me, members).await.unwrap()
}

/// Started, registered and ready.
async fn start(alone: &Alone) -> Controller {
    let controller = begin(alone).await;
    register(alone, &controller).await;
    eventually(&alone.env, "the controller is ready", || is_ready(&controller)).await;
    controller
}

fn is_ready(controller: &Controller) -> bool {
    *controller.standing().borrow() == Standing::Ready
}

async fn register(alone: &Alone, controller: &Controller) {
    let (grpc, peer, http) = ("a:1".into(), "a:2".into(), "a:3".into());
    let node = Node { identity: alone.identity, grpc, peer, http, ..Node::default() };
    controller.register_node(alone.me, node, LONG).await.unwrap();
}

fn topic(name: &str, replicas: i32) -> NewTopic {
    NewTopic { name: name.to_owned(), replicas, ..NewTopic::default() }
}

/// Topics of one node get no leader here, as nobody starts their groups: not waited for.
async fn create(controller: &Controller, name: &str) -> Result<Created, CreateTopicError> {
    controller.create_topic(topic(name, 0), Duration::from_millis(500)).await
}

#[tokio::test]
async fn what_was_agreed_is_there_after_a_restart() {
    let alone = Alone::start().await;
    let controller = start(&alone).await;
    let name = ClusterId::from_random([5; 16]);
    assert_eq!(controller.form(name, LONG).await, Ok(name));
    assert_eq!(controller.form(ClusterId::from_random([6; 16]), LONG).await, Ok(name));
    let id = create(&controller, "a").await.unwrap().id;
    let before = controller.current();
    assert_eq!(before.topics[&id].partitions[0].replicas, [alone.me]);
    controller.stop().await;
    drop(controller);

    let alone = alone.restart().await;
    let controller = begin(&alone).await;
    eventually(&alone.env, "its log is replayed", || controller.current() == before).await;
    alone.env.sleep(Duration::from_secs(1)).await;
    assert!(
        !controller.is_up_to_date() && *controller.standing().borrow() == Standing::Unregistered,
        "nobody has told it that this is all"
    );
    let entries = controller.applied();
    register(&alone, &controller).await;
    assert!(controller.is_up_to_date() && controller.applied() > entries);
    eventually(&alone.env, "the controller is ready", || is_ready(&controller)).await;
    register(&alone, &controller).await;
    assert_eq!(controller.applied().0, entries.0 + 1, "once for each start");
    assert_eq!(controller.current(), before);
}

#[tokio::test]
async fn a_topic_created_again_is_another_one() {
    let alone = Alone::start().await;
    let controller = start(&alone).await;
    let first = create(&controller, "a").await.unwrap().id;
    let exists = create(&controller, "a").await;
    let Err(CreateTopicError::Invalid { code, message }) = exists else { panic!("{exists:?}") };
    assert_eq!((code, message.as_str()), (ErrorCode::TopicExists, "a topic called \"a\" exists"));
    controller.delete_topic("a", Some(first), LONG).await.unwrap();
    let gone = controller.delete_topic("a", None, LONG).await;
    assert_eq!(gone, Err(DeleteTopicError::UnknownTopic("a".into())));
    let second = create(&controller, "a").await.unwrap().id;
    assert_ne!(first, second);
    assert_eq!(controller.delete_topic("a", Some(first), LONG).await, Err(DeleteTopicError::OtherTopic));
    assert_eq!(controller.current().topics.keys().copied().collect::<Vec<_>>(), [second]);
    let many = controller.create_topic(topic("b", 3), LONG).await;
    let Err(CreateTopicError::Invalid { code, message }) = many else { panic!("{many:?}") };
    assert_eq!(code, ErrorCode::InvalidReplicas);
    assert_eq!(message, "3 replicas asked for, 1 node in the cluster");
}

#[tokio::test]
async fn producer_ids_are_never_handed_out_twice() {
    let alone = Alone::start().await;
    let mut seen = BTreeSet::new();
    let controller = start(&alone).await;
    for id in join_all((0..2_500).map(|_| controller.producer_id(LONG))).await {
        assert!(seen.insert(id.unwrap()));
    }
    controller.stop().await;
    drop(controller);
    let alone = alone.restart().await;
    let controller = start(&alone).await;
    assert!(seen.insert(controller.producer_id(LONG).await.unwrap()));
}

#[tokio::test]
async fn forwarded_commands_are_proposed_here() {
    let alone = Alone::start().await;
    let controller = start(&alone).await;
    let bytes = Command::TakeProducerIds { count: 3 }.encode();
    assert!(controller.handle_forwarded(bytes, LONG).await.is_ok());
    assert_eq!(controller.current().next_producer_id, 3);
    let refused = controller.handle_forwarded("nonsense".into(), LONG).await;
    assert!(matches!(refused, Err((ErrorCode::InvalidRequest, _))), "{refused:?}");
    assert_eq!(alone.me, NodeId(1));
}
