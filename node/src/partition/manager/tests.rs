//! What is assigned, started, removed and swept.

use bytes::Bytes;
use expect_test::expect;
use quorate_proto::ids::{Identity, Offset};

use super::*;
use crate::metadata::{Node, Partition, Topic, TopicConfig};
use crate::partition::FetchError;
use crate::raft::alone::{Alone, eventually};
use crate::raft::{Answer, Apply, Role};
use crate::storage::{Entry, LogId};

/// A topic called `t`, its id made of `byte`, with partitions on these nodes; groups count from `group`.
fn topic(byte: u8, group: u64, replicas: &[&[u32]]) -> Arc<Topic> {
    let partition = |(group, nodes): (u64, &&[u32])| Partition {
        group: GroupId(group),
        replicas: nodes.iter().map(|node| NodeId(*node)).collect(),
    };
    let partitions = (group..).zip(replicas).map(partition).collect();
    let id = TopicId::from_random([byte; 16]);
    Arc::new(Topic { id, name: "t".parse().unwrap(), partitions, config: TopicConfig::default() })
}

fn metadata(topics: &[Arc<Topic>], me: Identity) -> Arc<Metadata> {
    metadata_with(topics, me, 0)
}

/// With the number of the group that is made next.
fn metadata_with(topics: &[Arc<Topic>], me: Identity, next_group: u64) -> Arc<Metadata> {
    let node = |id: u8| Node {
        identity: if id == 1 { me } else { Identity::from_random([id; 16]) },
        grpc: String::new(),
        peer: String::new(),
        http: String::new(),
    };
    Arc::new(Metadata {
        nodes: (1..=3).map(|id| (NodeId(id.into()), node(id))).collect(),
        topics: topics.iter().map(|topic| (topic.id, Arc::clone(topic))).collect(),
        next_group,
        ..Metadata::default()
    })
}

#[test]
fn finds_what_is_assigned_to_a_node() {
    let topic = topic(9, 5, &[&[1, 2], &[2, 3], &[3, 1]]);
    let mut seen = String::new();
    for (group, place) in assigned(&metadata(&[topic], Identity::default()), NodeId(1)) {
        let members: Vec<u32> = place.members.iter().map(|member| member.node.0).collect();
        seen += &format!("{}-{} group {group} {members:?}\n", place.topic, place.partition);
    }
    expect![[r"
        t-0 group 5 [1, 2]
        t-2 group 7 [3, 1]
    "]]
    .assert_eq(&seen);
}

/// A log that lies there.
struct Nothing;

impl Apply for Nothing {
    fn apply(&mut self, _entry: &Entry) -> Answer {
        Answer::Nothing
    }

    fn applied(&mut self, _last: LogId) {}

    fn save(&self) -> Bytes {
        Bytes::new()
    }

    fn restore(&mut self, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Apply> {
        Box::new(Self)
    }
}

async fn start_group(alone: &Alone, group: GroupId) {
    let members = vec![Member { node: alone.me, identity: alone.identity }];
    let group = alone.raft.start_group(group, members, Box::new(Nothing)).await.unwrap();
    let ready = || matches!(group.role(), Role::Leader { ready: true, .. });
    eventually(&alone.env, "the group has a leader", ready).await;
}

#[tokio::test]
async fn replicas_follow_metadata() {
    let alone = Alone::start().await;
    let (first, second) = (topic(1, 5, &[&[1], &[2]]), topic(2, 7, &[&[1]]));
    let (tx, rx) = watch::channel(metadata(&[Arc::clone(&first)], alone.identity));
    let config = PartitionConfig::default();
    let manager = PartitionManager::start(&alone.env, &alone.raft, &alone.store, config, alone.me, rx);
    let leads = |id, partition| match manager.replica(id, PartitionId(partition)) {
        Ok(replica) => matches!(replica.role(), Role::Leader { ready: true, .. }),
        Err(_) => false,
    };
    eventually(&alone.env, "the first topic's replica leads", || leads(first.id, 0)).await;
    let missing = |id, partition| manager.replica(id, PartitionId(partition)).err();
    assert_eq!(missing(first.id, 1), Some(NoReplica::NotHere { leader: None }));
    assert_eq!(missing(first.id, 2), Some(NoReplica::UnknownPartition { partitions: 2 }));
    assert_eq!(missing(second.id, 0), Some(NoReplica::UnknownTopicId));
    let old = manager.replica(first.id, PartitionId(0)).unwrap();

    // Deleted, and created again under its name.
    tx.send_replace(metadata(&[Arc::clone(&second)], alone.identity));
    eventually(&alone.env, "the second topic's replica leads", || leads(second.id, 0)).await;
    assert_eq!(missing(first.id, 0), Some(NoReplica::UnknownTopicId));
    let removed = || !alone.store.groups().contains(&GroupId(5));
    eventually(&alone.env, "the first topic's log is removed", removed).await;
    let request = crate::partition::Fetch {
        epoch: None,
        offset: Offset(0),
        bytes_max: 1,
        bytes_min: 0,
        wait: Duration::ZERO,
    };
    let late = old.fetch(request).await;
    assert!(matches!(late, Err(FetchError::Stopping)), "{late:?}");
    assert_eq!(manager.groups(), [GroupId(7)]);
    manager.stop().await;
}

/// Without anybody's word on what the newest metadata are: here is no metadata group to ask.
#[tokio::test]
async fn what_was_deleted_while_the_node_was_down_is_removed() {
    let alone = Alone::start().await;
    for group in 5..=7 {
        start_group(&alone, GroupId(group)).await;
    }
    let alone = alone.restart().await;
    let kept = topic(1, 6, &[&[1]]);
    let known = |next_group| metadata_with(&[Arc::clone(&kept)], alone.identity, next_group);
    // As the log of the metadata group is applied again: of groups 5 and 7 nothing is known yet.
    let (tx, rx) = watch::channel(known(5));
    let config = PartitionConfig::default();
    let manager = PartitionManager::start(&alone.env, &alone.raft, &alone.store, config, alone.me, rx);
    eventually(&alone.env, "the replica runs", || manager.groups() == [GroupId(6)]).await;
    assert_eq!(alone.store.groups(), [5, 6, 7].map(GroupId));
    tx.send_replace(known(7));
    let there = || alone.store.groups();
    eventually(&alone.env, "the deleted log is removed", || there() == [6, 7].map(GroupId)).await;
    tx.send_replace(known(8));
    eventually(&alone.env, "the other one as well", || there() == [GroupId(6)]).await;
    assert_eq!(manager.groups(), [GroupId(6)]);
    manager.stop().await;
}
