//! The controller over a real store and a real Raft group of one node.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use quorate_proto::ErrorCode;
use quorate_proto::ids::{ChangeId, ClusterId, Identity, NodeId, PartitionId, TopicId};

use super::*;
use crate::metadata::{Node, Retention, TopicConfig};
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

fn change_of(name: &str, byte: u8) -> TopicChange {
    TopicChange { name: name.to_owned(), id: None, change: Some(ChangeId::from_random([byte; 16])) }
}

#[tokio::test]
async fn settings_change_and_are_there_after_a_restart() {
    let alone = Alone::start().await;
    let controller = start(&alone).await;
    let id = create(&controller, "a").await.unwrap().id;
    let configure = async |of: &TopicChange, key: &str, value: Option<&str>| {
        let changes = [(key.to_owned(), value.map(str::to_owned))];
        controller.configure_topic(of, &changes, LONG).await
    };
    let retention = |configured: Result<Option<TopicConfig>, AlterTopicError>| {
        configured.unwrap().expect("this node has applied it").retention.ms
    };
    let first = change_of("a", 1);
    assert_eq!(retention(configure(&first, "retention.ms", Some("5")).await), Some(5));
    assert_eq!(retention(configure(&change_of("a", 2), "retention.ms", Some("-1")).await), None);
    // Sent again after that, it undoes nothing.
    assert_eq!(retention(configure(&first, "retention.ms", Some("5")).await), None);
    let config = controller.current().topics[&id].config;
    assert_eq!(
        config,
        TopicConfig { retention: Retention { ms: None, bytes: None }, ..TopicConfig::default() }
    );

    // All of it or nothing.
    let both = [("max.message.bytes", "99"), ("retention.ms", "-2")];
    let both = both.map(|(key, value)| (key.to_owned(), Some(value.to_owned())));
    let refused = controller.configure_topic(&change_of("a", 3), &both, LONG).await;
    let Err(AlterTopicError::Invalid { code: ErrorCode::InvalidConfig, message }) = refused else {
        panic!("{refused:?}")
    };
    assert!(message.starts_with("retention.ms must be "), "{message}");
    assert_eq!(controller.current().topics[&id].config, config);
    let nothing = controller.configure_topic(&change_of("a", 4), &[], LONG).await;
    assert!(matches!(nothing, Err(AlterTopicError::Invalid { code: ErrorCode::InvalidRequest, .. })));
    let unknown = configure(&change_of("b", 5), "retention.ms", None).await;
    assert_eq!(unknown, Err(AlterTopicError::UnknownTopic("b".into())));
    let other = TopicChange { id: Some(TopicId::from_random([9; 16])), ..change_of("a", 6) };
    assert_eq!(configure(&other, "retention.ms", None).await, Err(AlterTopicError::OtherTopic));

    let before = controller.current();
    controller.stop().await;
    drop(controller);
    let alone = alone.restart().await;
    let controller = begin(&alone).await;
    eventually(&alone.env, "its log is replayed", || controller.current() == before).await;
}

#[tokio::test]
async fn partitions_are_added_once() {
    let alone = Alone::start().await;
    let controller = start(&alone).await;
    let id = create(&controller, "a").await.unwrap().id;
    let count = || controller.current().topics[&id].partitions.len();
    let soon = Duration::from_millis(500);
    let (first, second) = (change_of("a", 1), change_of("a", 2));
    assert_eq!(controller.add_partitions(&first, 3, soon).await, Ok(()));
    assert_eq!(count(), 3);
    assert_eq!(controller.add_partitions(&first, 3, soon).await, Ok(()), "it was this one");
    let refused = controller.add_partitions(&second, 3, soon).await;
    assert!(matches!(refused, Err(AlterTopicError::Invalid { code: ErrorCode::InvalidPartitions, .. })));
    for total in [0, -1, 10_001] {
        let refused = controller.add_partitions(&second, total, soon).await;
        let Err(AlterTopicError::Invalid { code, message }) = refused else { panic!("{refused:?}") };
        assert_eq!(code, ErrorCode::InvalidPartitions);
        assert_eq!(message, format!("{total} partitions asked for, 1 to 10000 are possible"));
    }
    assert_eq!(count(), 3);
    // Its topic is gone since: it was made all the same.
    controller.delete_topic("a", None, LONG).await.unwrap();
    assert_eq!(controller.add_partitions(&first, 3, soon).await, Ok(()));
    let unknown = controller.add_partitions(&second, 4, soon).await;
    assert_eq!(unknown, Err(AlterTopicError::UnknownTopic("a".to_owned())));
}

#[tokio::test]
async fn a_long_change_is_begun_side_by_side_and_goes_on_where_it_stopped() {
    let alone = Alone::start().await;
    let controller = start(&alone).await;
    let node = Node { identity: Identity::from_random([2; 16]), ..Node::default() };
    controller.register_node(NodeId(2), node, LONG).await.unwrap();
    let asked = NewTopic { partitions: 300, ..topic("a", 2) };
    let id = controller.create_topic(asked, Duration::from_millis(500)).await.unwrap().id;
    let moved = || {
        let metadata = controller.current();
        let partitions = metadata.topics[&id].partitions.iter();
        partitions.filter(|partition| partition.replicas == [alone.me]).count()
    };
    let placing = |number| Placing {
        topic: "a".parse().unwrap(),
        partition: PartitionId(number),
        replicas: vec![alone.me],
    };
    let change = MembersChange::Reassign((0..300).map(placing).collect());
    let waiting = WaitingRoom::default();

    // Nothing is committed meanwhile: as many as go side by side wait, and no others.
    alone.gate.close();
    let stopped = controller.change_members(&change, &waiting, Duration::from_millis(500)).await;
    let none = moved() == 0;
    alone.gate.open();
    assert!(stopped.is_err() && none, "{stopped:?}");
    eventually(&alone.env, "what was begun is done", || moved() == 64).await;
    let went_on = controller.change_members(&change, &waiting, LONG).await;
    assert_eq!((went_on.ok(), moved()), (Some(300 - 64), 300));
    assert_eq!(controller.change_members(&change, &waiting, LONG).await.ok(), Some(0), "nothing is left");
    controller.stop().await;
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
