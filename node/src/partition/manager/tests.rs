//! What is assigned, started, removed and swept.

use bytes::Bytes;
use expect_test::expect;
use quorate_proto::batch::{BatchBuilder, BatchError, Compression, ProducerStamp};
use quorate_proto::ids::{Identity, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

use super::*;
use crate::metadata::{Node, Partition, Retention, TimestampType, Topic, TopicConfig};
use crate::partition::{FetchError, ProduceError};
use crate::raft::alone::{Alone, eventually};
use crate::raft::{Answer, Apply, Role};
use crate::storage::{Entry, LogId, Lost};

/// A topic called `t`, its id made of `byte`, with partitions on these nodes; groups count from `group`.
fn topic(byte: u8, group: u64, replicas: &[&[u32]]) -> Arc<Topic> {
    let partition = |(group, nodes): (u64, &&[u32])| Partition {
        group: GroupId(group),
        replicas: nodes.iter().map(|node| NodeId(*node)).collect(),
        ..Partition::default()
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
        ..Node::default()
    };
    let mut metadata = Metadata {
        nodes: (1..=3).map(|id| (NodeId(id.into()), node(id))).collect(),
        next_group,
        ..Metadata::default()
    };
    for topic in topics {
        let mut topic = Topic::clone(topic);
        for partition in &mut topic.partitions {
            // As they are made.
            if partition.version == 0 {
                partition.disks = metadata.wanted(partition);
            }
        }
        metadata.topics.insert(topic.id, Arc::new(topic));
    }
    Arc::new(metadata)
}

/// What goes by `known`, in which nothing is missing, and by whatever is sent after it.
fn follow(alone: &Alone, known: Arc<Metadata>) -> (watch::Sender<Arc<Metadata>>, PartitionManager) {
    let (tx, rx) = watch::channel(known);
    let up_to_date = watch::channel(true).1;
    let (env, raft, store, config) = (&alone.env, &alone.raft, &alone.store, PartitionConfig::default());
    (tx, PartitionManager::start(env, raft, store, config, alone.me, rx, up_to_date))
}

#[test]
fn finds_what_is_assigned_to_a_node() {
    let topic = topic(9, 5, &[&[1, 2], &[2, 3], &[3, 1]]);
    let mut seen = String::new();
    for (group, place) in assigned(&metadata(&[topic], Identity::default()), NodeId(1), Identity::default()) {
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

#[test]
fn a_disk_holds_what_it_is_to_hold_and_what_it_still_holds() {
    let disk = |byte| Identity::from_random([byte; 16]);
    let mut moved = Topic::clone(&topic(9, 5, &[&[1, 2], &[2, 3], &[1, 3], &[2, 3]]));
    for (partition, disks) in moved.partitions.iter_mut().zip([&[1, 2][..], &[1, 2], &[3], &[2, 3]]) {
        partition.disks = disks.iter().map(|byte| (NodeId(u32::from(*byte)), disk(*byte))).collect();
        partition.version = 1;
    }
    let metadata = metadata(&[Arc::new(moved)], disk(1));
    let groups = |of: Identity| assigned(&metadata, NodeId(1), of).into_keys().collect::<Vec<_>>();
    assert_eq!(
        groups(disk(1)),
        [5, 6, 7].map(GroupId),
        "the second is on its way out, the third on its way in"
    );
    assert!(groups(disk(4)).is_empty(), "another disk of that node");
    let places = assigned(&metadata, NodeId(1), disk(1));
    assert!(places.values().all(|place| place.members.is_empty()), "none of them may begin anew");
}

#[tokio::test]
async fn replicas_follow_metadata() {
    let alone = Alone::start().await;
    let (first, second) = (topic(1, 5, &[&[1], &[2]]), topic(2, 7, &[&[1]]));
    let (tx, manager) = follow(&alone, metadata(&[Arc::clone(&first)], alone.identity));
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

#[tokio::test]
async fn a_running_replica_goes_by_what_its_topic_is_set_to() {
    let alone = Alone::start().await;
    let plain = topic(1, 5, &[&[1]]);
    let (tx, manager) = follow(&alone, metadata(&[Arc::clone(&plain)], alone.identity));
    let replica = || manager.replica(plain.id, PartitionId(0));
    let leads = || replica().is_ok_and(|it| matches!(it.role(), Role::Leader { ready: true, .. }));
    eventually(&alone.env, "the replica leads", leads).await;
    let replica = replica().unwrap();
    let batch = |stamp: ProducerStamp, bytes: usize| {
        let mut builder = BatchBuilder::new(bytes);
        builder.push(Timestamp(5), None, Some(&vec![b'x'; bytes]), &[]);
        builder.finish(Compression::None, stamp)
    };
    let produce = async |batch| {
        let late = alone.env.now() + Duration::from_secs(20);
        replica.produce(None, batch, late).await.map(|produced| produced.log_append_time)
    };
    let stamp = ProducerStamp { id: ProducerId(7), epoch: ProducerEpoch(0), sequence: Sequence(0) };
    assert_eq!(produce(batch(stamp, 400)).await, Ok(None));

    let set = TopicConfig {
        message_bytes_max: 300,
        timestamp_type: TimestampType::LogAppendTime,
        retention: Retention { ms: Some(5), bytes: Some(6) },
    };
    let other = Arc::new(Topic { config: set, ..Topic::clone(&plain) });
    tx.send_replace(metadata(&[Arc::clone(&other)], alone.identity));
    eventually(&alone.env, "the settings are followed", || replica.topic_config() == set).await;
    let refused = produce(batch(ProducerStamp::NONE, 400)).await;
    assert!(
        matches!(refused, Err(ProduceError::Batch(BatchError::TooLarge { limit: 300, .. }))),
        "{refused:?}"
    );
    let stamped = produce(batch(ProducerStamp::NONE, 100)).await;
    assert!(matches!(stamped, Ok(Some(at)) if at > Timestamp(5)), "{stamped:?}");
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
    let (tx, manager) = follow(&alone, known(5));
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

/// The node went down before any of the group's log had come back: its disk holds nothing of it but that note.
#[tokio::test]
async fn what_is_noted_as_lost_of_a_deleted_group_is_removed() {
    let alone = Alone::start().await;
    alone.store.log(GroupId(5)).set_lost(Lost { tail: true, vote: true }).await.unwrap();
    let alone = alone.restart().await;
    let kept = topic(1, 6, &[&[1]]);
    let known = |next_group| metadata_with(&[Arc::clone(&kept)], alone.identity, next_group);
    // Of group 5 nothing is known yet.
    let (tx, manager) = follow(&alone, known(5));
    eventually(&alone.env, "the replica runs", || manager.groups() == [GroupId(6)]).await;
    assert_eq!(alone.store.groups_behind(), [GroupId(5)]);
    tx.send_replace(known(7));
    eventually(&alone.env, "the note is removed", || alone.store.groups_behind().is_empty()).await;
    manager.stop().await;
    drop(manager);
    let alone = alone.restart().await;
    assert_eq!(alone.store.groups_behind(), [], "for good");
    assert_eq!(alone.store.groups(), [GroupId(6)]);
}

/// A log that lies here may be that of a member, though older metadata do not know that it was moved here.
#[tokio::test]
async fn what_is_another_nodes_is_kept_until_that_is_sure() {
    let alone = Alone::start().await;
    start_group(&alone, GroupId(5)).await;
    let alone = alone.restart().await;
    // Group 5 was moved away, group 6 is to begin here.
    let (elsewhere, here) = (topic(1, 5, &[&[2]]), topic(2, 6, &[&[1]]));
    let (_tx, rx) = watch::channel(metadata_with(&[elsewhere, here], alone.identity, 7));
    let (tell, told) = watch::channel(false);
    let config = PartitionConfig::default();
    let (env, raft, store) = (&alone.env, &alone.raft, &alone.store);
    let manager = PartitionManager::start(env, raft, store, config, alone.me, rx, told);
    env.sleep(Duration::from_millis(300)).await;
    assert_eq!((store.groups(), manager.groups()), (vec![GroupId(5)], vec![]));
    tell.send_replace(true);
    eventually(env, "both are settled", || store.groups() == [GroupId(6)]).await;
    eventually(env, "the replica runs", || manager.groups() == [GroupId(6)]).await;
    manager.stop().await;
}
