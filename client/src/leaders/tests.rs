//! Whom a round asks, when, and whose answer it takes.

use super::*;
use crate::testing::{Cluster, env, sleep, soon};

fn leaders(cluster: &Cluster) -> Leaders {
    let servers = (1..=3).map(|node| format!("n{node}:1")).collect();
    Leaders::new(env(1), Arc::new(cluster.clone()), servers, ClientConfig::default())
}

fn ask() -> Option<(Call, Duration)> {
    let request = v1::MetadataRequest { all: true, ..Default::default() };
    Some((Call::Metadata(request), ClientConfig::default().metadata_timeout))
}

/// Who answered next, whether properly, and after how many ms.
async fn next(round: &mut Round<'_>, leaders: &Leaders) -> Option<(String, bool, u128)> {
    let (address, answer) = soon(round.next(ask)).await?;
    Some((address, answer.is_ok(), leaders.env.now().0.as_millis()))
}

fn heard(address: &str, is_ok: bool, ms: u128) -> Option<(String, bool, u128)> {
    Some((address.to_owned(), is_ok, ms))
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_late_is_taken_all_the_same() {
    let cluster = Cluster::with_topic("t", 1);
    cluster.state().slow = [(1, 700), (2, 700)].into();
    cluster.state().stopped = [3].into();
    let leaders = leaders(&cluster);
    let mut round = leaders.round(true);
    assert_eq!(next(&mut round, &leaders).await, heard("n1:1", true, 700));
    assert_eq!(next(&mut round, &leaders).await, heard("n2:1", true, 1_200), "asked at 500 ms");
    assert_eq!(next(&mut round, &leaders).await, heard("n3:1", false, 1_700), "asked at 700 ms");
    assert_eq!(next(&mut round, &leaders).await, None);
    // Who answered last comes first, who is silent last.
    assert_eq!(leaders.servers(), ["n2:1", "n1:1", "n3:1"]);
}

#[tokio::test(start_paused = true)]
async fn who_is_silent_is_avoided_for_a_while() {
    let cluster = Cluster::with_topic("t", 1);
    cluster.state().stopped = [1].into();
    let leaders = leaders(&cluster);
    let mut round = leaders.round(true);
    assert_eq!(next(&mut round, &leaders).await, heard("n2:1", true, 501));
    drop(round);
    for _ in 0..3 {
        leaders.ask_elsewhere();
    }
    // It would be the first one's turn, which was silent at 500 ms.
    assert_eq!(leaders.servers(), ["n2:1", "n3:1", "n1:1"]);
    sleep(1_990).await;
    assert_eq!(leaders.servers(), ["n2:1", "n3:1", "n1:1"]);
    sleep(10).await;
    assert_eq!(leaders.servers(), ["n1:1", "n2:1", "n3:1"]);
}

#[tokio::test(start_paused = true)]
async fn where_asking_twice_does_harm_one_is_asked_at_a_time() {
    let cluster = Cluster::with_topic("t", 1);
    cluster.state().slow = [(1, 700)].into();
    let leaders = leaders(&cluster);
    let mut round = leaders.round(false);
    assert_eq!(next(&mut round, &leaders).await, heard("n1:1", true, 700));
    assert_eq!(cluster.state().metadata_calls, 1);
    assert_eq!(next(&mut round, &leaders).await, heard("n2:1", true, 701));
    // Once nobody more is to be asked, nobody is.
    assert!(soon(round.next(|| None)).await.is_none());
    assert!(next(&mut round, &leaders).await.is_none());
    assert_eq!(cluster.state().metadata_calls, 2);
}

/// What a server says of topic `t` with one partition; `None`: it denies the topic.
fn said(leader: Option<(u32, i32)>) -> v1::MetadataResponse {
    let topic = leader.map(|(leader, leader_epoch)| v1::TopicMetadata {
        name: "t".to_owned(),
        id: TopicId::from_random([7; 16]).to_wire(),
        partitions: vec![v1::PartitionMetadata { leader, leader_epoch, ..Default::default() }],
        ..Default::default()
    });
    v1::MetadataResponse { topics: topic.into_iter().collect(), ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn epochs_do_not_go_back_when_a_topic_was_denied_in_between() {
    let cluster = Cluster::with_topic("t", 1);
    let leaders = leaders(&cluster);
    let topic: TopicName = "t".parse().unwrap();
    let names = [topic.clone()];
    let hear = |leader| leaders.learn(&names, said(leader), &mut BTreeMap::new());
    assert!(hear(Some((1, 3))).is_empty());
    assert_eq!(hear(None), names, "another server is asked");
    // All who answer deny it.
    cluster.state().topics.clear();
    assert_eq!(leaders.refresh(&topic).await, Err(LookupError::UnknownTopic));
    assert_eq!(leaders.known(&topic), None);
    assert!(hear(Some((3, 2))).is_empty());
    let known = leaders.known(&topic).unwrap().partitions[0];
    assert_eq!(known, Known { leader: Some(NodeId(1)), epoch: LeaderEpoch(3) }, "that server lags behind");
    assert!(hear(Some((2, 4))).is_empty());
    assert_eq!(leaders.known(&topic).unwrap().partitions[0].epoch, LeaderEpoch(4));
}

/// What a server says of topic `t` with so many partitions.
fn grown_to(partitions: i32) -> v1::MetadataResponse {
    let mut said = said(Some((1, 1)));
    let of =
        |partition| v1::PartitionMetadata { partition, leader: 1, leader_epoch: 1, ..Default::default() };
    said.topics[0].partitions = (0..partitions).map(of).collect();
    said
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lags_behind_takes_no_partition_away() {
    let cluster = Cluster::with_topic("t", 1);
    let leaders = leaders(&cluster);
    let topic: TopicName = "t".parse().unwrap();
    let names = [topic.clone()];
    let count = || leaders.known(&topic).unwrap().partitions.len();
    for (said, known) in [(2, 2), (1, 2), (4, 4), (2, 4)] {
        assert!(leaders.learn(&names, grown_to(said), &mut BTreeMap::new()).is_empty());
        assert_eq!(count(), known, "after {said}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_looked_up_just_now_is_not_looked_up_again() {
    let cluster = Cluster::with_topic("t", 1);
    let leaders = leaders(&cluster);
    let topic: TopicName = "t".parse().unwrap();
    let (here, added) = (PartitionId(0), PartitionId(1));
    soon(leaders.resolve_with(&topic, here)).await.unwrap();
    let calls = || cluster.state().metadata_calls;
    let before = calls();
    assert!(soon(leaders.resolve_with(&topic, here)).await.unwrap().has(here));
    assert!(!soon(leaders.resolve_with(&topic, added)).await.unwrap().has(added));
    assert_eq!(calls(), before, "it was asked for just now");
    cluster.add_partitions("t", 2);
    sleep(200).await;
    assert!(soon(leaders.resolve_with(&topic, added)).await.unwrap().has(added));
    assert!(soon(leaders.resolve_with(&topic, added)).await.unwrap().has(added));
    assert_eq!(calls(), before + 1);
    let age = Duration::from_secs(5);
    soon(leaders.refresh_older_than(&topic, age)).await.unwrap();
    assert_eq!(calls(), before + 1);
    sleep(5_000).await;
    soon(leaders.refresh_older_than(&topic, age)).await.unwrap();
    assert_eq!(calls(), before + 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lags_behind_for_ever_hides_no_partition() {
    let cluster = Cluster::with_topic("t", 1);
    let leaders = leaders(&cluster);
    let topic: TopicName = "t".parse().unwrap();
    soon(leaders.resolve(&topic)).await.unwrap();
    assert_eq!(leaders.servers()[0], "n1:1", "it answered last");
    let old = cluster.metadata();
    cluster.state().stale.insert(1, old);
    cluster.add_partitions("t", 2);
    sleep(5_000).await;
    let view = soon(leaders.refresh_older_than(&topic, Duration::from_secs(5))).await.unwrap();
    assert!(view.has(PartitionId(1)));
}

#[tokio::test(start_paused = true)]
async fn lookups_go_on_while_a_server_hangs_over_a_creation() {
    let cluster = Cluster::with_topic("t", 1);
    // It is given up by a lookup, and asked again to create what the others do not create.
    cluster.state().slow = [(1, 4_000)].into();
    let leaders = leaders(&cluster);
    let (topic, new): (TopicName, TopicName) = ("t".parse().unwrap(), "new".parse().unwrap());
    let create = async {
        let created = leaders.resolve_or_create(&new).await;
        (created, leaders.env.now().0)
    };
    let look_up = async {
        sleep(2_000).await;
        leaders.refresh(&topic).await.unwrap();
        leaders.env.now().0
    };
    let ((created, created_at), looked_up_at) = soon(futures_util::future::join(create, look_up)).await;
    assert_eq!(created, Err(LookupError::UnknownTopic));
    assert!(created_at > Duration::from_secs(4), "{created_at:?}");
    assert!(looked_up_at < Duration::from_millis(2_100), "{looked_up_at:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lookup_of_one_topic_is_no_word_on_another() {
    let cluster = Cluster::with_topic("t", 1);
    let leaders = leaders(&cluster);
    let (topic, new): (TopicName, TopicName) = ("t".parse().unwrap(), "new".parse().unwrap());
    soon(leaders.resolve(&topic)).await.unwrap();
    cluster.move_leader("t", 0, 2);
    let both = futures_util::future::join(leaders.resolve_or_create(&new), leaders.refresh(&topic));
    let (created, view) = soon(both).await;
    assert_eq!(created, Err(LookupError::UnknownTopic));
    assert_eq!(view.unwrap().partitions[0].leader, Some(NodeId(2)));
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_while_all_denied_it_stays() {
    let cluster = Cluster::default();
    cluster.state().slow = [(1, 300), (2, 300), (3, 300)].into();
    let leaders = leaders(&cluster);
    let topic: TopicName = "t".parse().unwrap();
    let learn = async {
        sleep(100).await;
        leaders.learn(std::slice::from_ref(&topic), said(Some((1, 3))), &mut BTreeMap::new())
    };
    let both = futures_util::future::join(leaders.refresh(&topic), learn);
    let (denied, missing) = soon(both).await;
    assert_eq!((denied, missing), (Err(LookupError::UnknownTopic), Vec::new()));
    assert!(leaders.known(&topic).is_some(), "somebody has just made it");
    // Denied once more, it is gone.
    assert_eq!(soon(leaders.refresh(&topic)).await, Err(LookupError::UnknownTopic));
    assert_eq!(leaders.known(&topic), None);
}

#[tokio::test(start_paused = true)]
async fn more_topics_are_known_than_a_request_may_name() {
    let cluster = Cluster::default();
    let topics: Vec<TopicName> = (0..10_001).map(|at| format!("t{at:05}").parse().unwrap()).collect();
    topics.iter().for_each(|topic| cluster.create(topic.as_str(), 1, 1));
    let leaders = leaders(&cluster);
    assert!(leaders.learn(&topics, cluster.metadata(), &mut BTreeMap::new()).is_empty());
    let ends = [&topics[0], &topics[5_000], &topics[10_000]];
    ends.iter().for_each(|topic| cluster.move_leader(topic.as_str(), 0, 2));
    soon(leaders.refresh(ends[0])).await.unwrap();
    for topic in ends {
        assert_eq!(leaders.known(topic).unwrap().partitions[0].leader, Some(NodeId(2)), "{topic}");
    }
    assert_eq!(cluster.state().metadata_calls, 3);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_lags_behind_takes_no_leader_away() {
    let cluster = Cluster::with_topic("t", 1);
    let leaders = leaders(&cluster);
    let topic: TopicName = "t".parse().unwrap();
    let hear = |leader, nodes: u32| {
        let node = |id| v1::NodeAddress { id, grpc: format!("n{id}:1"), ..Default::default() };
        let nodes = (1..=nodes).map(node).collect();
        let response = v1::MetadataResponse { nodes, ..said(Some(leader)) };
        leaders.learn(std::slice::from_ref(&topic), response, &mut BTreeMap::new());
        leaders.state().nodes.len()
    };
    assert_eq!(hear((4, 3), 4), 4);
    assert_eq!(hear((1, 2), 3), 4, "that one has not heard of the fourth node, which leads");
    let leader = leaders.leader(&topic, TopicId::from_random([7; 16]), PartitionId(0)).unwrap();
    assert_eq!((leader.node, leader.channel.address()), (NodeId(4), "n4:1"));
    hear((2, 4), 3);
    assert_eq!(hear((2, 4), 3), 3, "it leads no more");
}
