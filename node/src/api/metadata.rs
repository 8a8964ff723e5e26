//! Topics, partitions and who leads them; the cluster as this node sees it. Every node answers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_proto::ids::{NodeId, TopicName};
use quorate_proto::v1::{
    ClusterStatusResponse, ConfigEntry, DiskStatus, MetadataRequest, MetadataResponse, NodeAddress,
    NodeStatus, PartitionMetadata, TopicMetadata,
};

use super::attention::Seen;
use super::status::{self, Status};
use super::{Api, Parts, members};
use crate::controller::{self, NewTopic, Standing};
use crate::env::Point;
use crate::metadata::{Metadata, Partition, Topic, TopicConfig};

/// A refusal that is older counts for nothing: who is refused asks every few seconds.
const REFUSED_TIME: Duration = Duration::from_secs(30);

const JUST_STARTED: &str = "it has just started, and does not know of all topics yet";

/// Most topics that one request may name: who wants more asks for all, or again.
const NAMES_MAX: usize = 10_000;

/// Answers for the topics asked for, each once, or for all.
pub(super) async fn metadata(api: &Api, request: MetadataRequest) -> MetadataResponse {
    let parts = match api.parts() {
        Ok(parts) => parts,
        Err(status) => return refused(status),
    };
    if request.all && !request.topics.is_empty() {
        return refused(status::invalid("ask for all topics or for some, not for both"));
    }
    if request.topics.len() > NAMES_MAX {
        return refused(status::invalid("name at most 10000 topics in a request, or ask for all"));
    }
    if request.all && !parts.controller.is_up_to_date() {
        return refused(status::not_ready(JUST_STARTED));
    }
    let mut seen = BTreeSet::new();
    let named_once: Vec<&String> = request.topics.iter().filter(|name| seen.insert(name.as_str())).collect();
    let mut failed = BTreeMap::new();
    if request.auto_create && api.settings.auto_create_topics {
        for name in named_once.iter().copied() {
            if let Err(status) = create_if_missing(api, &parts, name).await {
                failed.insert(name.as_str(), status);
            }
        }
    }
    // Before the metadata are looked at: those may lack what makes this node ready a moment later.
    let standing = *parts.controller.standing().borrow();
    let metadata = parts.controller.metadata().borrow().clone();
    let parts = &parts;
    let untold = api.env.perturb(Point::LeadersUntold);
    let topics = if request.all {
        metadata.topics.values().map(|topic| describe(parts, topic, untold)).collect()
    } else {
        let describe_named = |name: &String| match failed.remove(name.as_str()) {
            Some(status) => unknown(name, status),
            None if api.env.perturb(Point::TopicNotTold) => unknown(name, status::not_ready("it is busy")),
            None => named(parts, &metadata, name, untold, standing),
        };
        named_once.into_iter().map(describe_named).collect()
    };
    let address = |(id, node): (&NodeId, &crate::metadata::Node)| NodeAddress {
        id: id.0,
        grpc: node.grpc.clone(),
        http: node.http.clone(),
    };
    MetadataResponse {
        error: ErrorCode::None.into(),
        message: String::new(),
        cluster_id: metadata.cluster_id.to_wire(),
        nodes: metadata.nodes.iter().map(address).collect(),
        topics,
    }
}

fn refused(status: Status) -> MetadataResponse {
    MetadataResponse { error: status.code.into(), message: status.message, ..MetadataResponse::default() }
}

async fn create_if_missing(api: &Api, parts: &Parts, name: &str) -> Result<(), Status> {
    let there = name
        .parse()
        .is_ok_and(|name: TopicName| parts.controller.metadata().borrow().topic_named(&name).is_some());
    if there {
        return Ok(());
    }
    let topic = NewTopic { name: name.to_owned(), ..NewTopic::default() };
    match parts
        .controller
        .create_topic(topic, api.admin_time(0))
        .await
        .map_err(|error| status::create_topic(&error))
    {
        Ok(created) => {
            tracing::info!(topic = name, id = %created.id, "topic created for its first produce");
            Ok(())
        }
        // Another request was faster.
        Err(status) if status.code == ErrorCode::TopicExists => Ok(()),
        Err(status) => Err(status),
    }
}

fn unknown(name: &str, status: Status) -> TopicMetadata {
    TopicMetadata {
        error: status.code.into(),
        message: status.message,
        name: name.to_owned(),
        ..TopicMetadata::default()
    }
}

fn named(parts: &Parts, metadata: &Metadata, name: &str, untold: bool, standing: Standing) -> TopicMetadata {
    let parsed: TopicName = match name.parse() {
        Ok(parsed) => parsed,
        Err(error) => {
            let status =
                Status { code: ErrorCode::InvalidTopicName, message: error.to_string(), leader: None };
            return unknown(name, status);
        }
    };
    match (metadata.topic_named(&parsed), standing) {
        (Some(topic), _) => describe(parts, topic, untold),
        // What is applied here may lack the newest topics, or all of them after a start.
        (None, Standing::Unled) => {
            unknown(name, status::not_ready("it hears no leader that could tell it of new topics"))
        }
        (None, Standing::Unregistered) => unknown(name, status::not_ready(JUST_STARTED)),
        (None, Standing::Ready) => {
            let message = format!("no topic is called {name:?}: create it first");
            unknown(name, Status { code: ErrorCode::UnknownTopic, message, leader: None })
        }
    }
}

/// `untold`: as if it had heard of no leader.
fn describe(parts: &Parts, topic: &Arc<Topic>, untold: bool) -> TopicMetadata {
    let partition = |(at, partition): (usize, &Partition)| {
        let leader = parts.raft.leadership(partition.group).filter(|_| !untold);
        PartitionMetadata {
            partition: i32::try_from(at).expect("a topic has at most 2^31 partitions"),
            leader: leader.map_or(0, |leader| leader.leader.0),
            leader_epoch: leader.map_or(-1, |leader| leader.term.epoch().0),
            replicas: partition.replicas.iter().map(|node| node.0).collect(),
        }
    };
    TopicMetadata {
        error: ErrorCode::None.into(),
        message: String::new(),
        name: topic.name.to_string(),
        id: topic.id.to_wire(),
        partitions: topic.partitions.iter().enumerate().map(partition).collect(),
        configs: entries(topic.config),
    }
}

/// All settings of a topic, in order of their names.
pub(super) fn entries(config: TopicConfig) -> Vec<ConfigEntry> {
    let entry = |(key, value): (&str, String)| ConfigEntry { key: key.to_owned(), value };
    controller::describe(config).into_iter().map(entry).collect()
}

/// Says which nodes live, what they lead and hold, and which partitions are in trouble.
pub(super) fn cluster_status(api: &Api) -> ClusterStatusResponse {
    let parts = match api.parts() {
        Ok(parts) => parts,
        Err(status) => {
            return ClusterStatusResponse {
                error: status.code.into(),
                message: status.message,
                ..ClusterStatusResponse::default()
            };
        }
    };
    // In this order: the metadata are no older than that.
    let as_of = parts.controller.applied();
    let metadata = parts.controller.metadata().borrow().clone();
    let alive = alive(api, &parts);
    let leader_of = |partition: &Partition| {
        let leader = parts.raft.leadership(partition.group).map(|leader| leader.leader);
        leader.filter(|leader| alive.contains(leader))
    };
    let count = count(&metadata, &alive, leader_of);
    let mut healths = parts.raft.healths();
    healths.insert(api.settings.node, parts.raft.health());
    let disk = |node: &NodeId| {
        let health = healths.get(node)?;
        Some(DiskStatus {
            free_bytes: health.room.free_bytes,
            reserve_bytes: health.room.reserve_bytes,
            full: health.room.is_full,
            damaged_entries: health.damaged_entries,
            repaired_entries: health.repaired_entries,
        })
    };
    let voters = parts.controller.voting_disks();
    let node = |(id, node): (&NodeId, &crate::metadata::Node)| NodeStatus {
        id: id.0,
        identity: node.identity.to_wire(),
        grpc: node.grpc.clone(),
        http: node.http.clone(),
        alive: alive.contains(id),
        leads: count.leads.get(id).copied().unwrap_or(0),
        replicas: count.replicas.get(id).copied().unwrap_or(0),
        voter: voters.get(id) == Some(&node.identity),
        draining: metadata.draining.contains(id),
        rack: node.rack.clone(),
        disk: disk(id),
    };
    let nodes = metadata.nodes.iter().map(node).collect();
    let now = api.env.now();
    let heard = parts.raft.alive();
    let silent = metadata.nodes.keys().filter(|node| !alive.contains(*node));
    let seen = Seen {
        me: api.settings.node,
        nodes: voters.len(),
        learners: metadata.nodes.keys().copied().filter(|node| !voters.contains_key(node)).collect(),
        silent: silent.map(|node| (*node, heard.get(node).map(|at| now.since(*at)))).collect(),
        leaderless: named_without(&metadata, leader_of),
        under_replicated: count.under_replicated,
        lags: parts.partitions.lags(),
        refused: parts.raft.refused_since(now - REFUSED_TIME),
        // What the dead said last is no news.
        healths: healths
            .iter()
            .filter(|(node, _)| alive.contains(*node))
            .map(|(node, health)| (*node, *health))
            .collect(),
    };
    ClusterStatusResponse {
        error: ErrorCode::None.into(),
        message: String::new(),
        cluster_id: metadata.cluster_id.to_wire(),
        nodes,
        under_replicated: count.under_replicated,
        leaderless: count.leaderless,
        moves: members::moves(&metadata, &alive, leader_of),
        waiting: members::waiting(&metadata, &parts.waiting.all(api.env.now())),
        as_of: as_of.0,
        attention: seen.attention(),
    }
}

/// The partitions without a leader, as `topic:number`.
fn named_without(metadata: &Metadata, leader_of: impl Fn(&Partition) -> Option<NodeId>) -> Vec<String> {
    let of = |topic: &Arc<Topic>| {
        let partitions = topic.partitions.iter().enumerate().filter(|(_, one)| leader_of(one).is_none());
        partitions.map(|(number, _)| format!("{}:{number}", topic.name)).collect::<Vec<_>>()
    };
    metadata.topics.values().flat_map(of).collect()
}

/// This node, and those heard lately.
fn alive(api: &Api, parts: &Parts) -> BTreeSet<NodeId> {
    let now = api.env.now();
    let heard = parts.raft.alive().into_iter().filter(|(_, at)| now.since(*at) <= api.settings.silence_max);
    heard.map(|(node, _)| node).chain([api.settings.node]).collect()
}

/// Partitions, counted.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    leads: BTreeMap<NodeId, u32>,
    replicas: BTreeMap<NodeId, u32>,
    under_replicated: u32,
    leaderless: u32,
}

fn count(
    metadata: &Metadata,
    alive: &BTreeSet<NodeId>,
    leader_of: impl Fn(&Partition) -> Option<NodeId>,
) -> Count {
    let mut count = Count::default();
    for partition in metadata.topics.values().flat_map(|topic| &topic.partitions) {
        for node in &partition.replicas {
            *count.replicas.entry(*node).or_default() += 1;
        }
        count.under_replicated += u32::from(!partition.replicas.iter().all(|node| alive.contains(node)));
        match leader_of(partition) {
            Some(leader) => *count.leads.entry(leader).or_default() += 1,
            None => count.leaderless += 1,
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use quorate_proto::ids::{GroupId, TopicId};
    use tokio::sync::watch;

    use super::*;
    use crate::api::ApiSettings;
    use crate::config::ApiConfig;
    use crate::controller::{Controller, ControllerConfig, WaitingRoom};
    use crate::metadata::Node;
    use crate::partition::{PartitionConfig, PartitionManager};
    use crate::raft::Member;
    use crate::raft::alone::{Alone, eventually};

    /// It hears its leader, itself, and may lack what was agreed before it started.
    #[tokio::test]
    async fn nothing_is_denied_before_all_is_known() {
        let alone = Alone::start().await;
        let (env, raft, me) = (&alone.env, &alone.raft, alone.me);
        let members = vec![Member { node: me, identity: alone.identity }];
        let controller =
            Controller::start(env, raft, ControllerConfig::default(), me, members).await.unwrap();
        let (config, metadata_here) = (PartitionConfig::default(), controller.metadata());
        let up_to_date = controller.up_to_date();
        let partitions =
            PartitionManager::start(env, raft, &alone.store, config, me, metadata_here, up_to_date);
        let waiting = WaitingRoom::default();
        let parts =
            Arc::new(Parts { controller: controller.clone(), partitions, raft: raft.clone(), waiting });
        let (_stage, stage) = watch::channel(Ok(parts));
        let settings = ApiSettings {
            node: me,
            config: ApiConfig::default(),
            auto_create_topics: false,
            silence_max: Duration::from_secs(1),
        };
        let api = Api::new(env.clone(), settings, stage);
        let ask = async |topics: &[&str]| {
            let topics: Vec<String> = topics.iter().map(|name| name.to_string()).collect();
            let request = MetadataRequest { all: topics.is_empty(), topics, auto_create: false };
            let response = metadata(&api, request).await;
            let said = response.topics.first().map(|topic| (topic.error(), topic.message.clone()));
            said.unwrap_or((response.error(), response.message))
        };
        let stands = |standing| *controller.standing().borrow() == standing;

        eventually(env, "a leader", || stands(Standing::Unregistered)).await;
        for topics in [&[][..], &["t"]] {
            let (code, message) = ask(topics).await;
            assert_eq!(code, ErrorCode::NotReady);
            assert!(message.contains(JUST_STARTED), "{message}");
        }
        let (grpc, peer, http) = ("a:1".into(), "a:2".into(), "a:3".into());
        let node = Node { identity: alone.identity, grpc, peer, http, ..Node::default() };
        controller.register_node(me, node, Duration::from_secs(20)).await.unwrap();
        assert_eq!(ask(&[]).await.0, ErrorCode::None);
        eventually(env, "it is ready", || stands(Standing::Ready)).await;
        assert_eq!(ask(&["t"]).await.0, ErrorCode::UnknownTopic);

        let many = async |topics: Vec<String>| {
            metadata(&api, MetadataRequest { all: false, topics, auto_create: false }).await
        };
        let twice = many(vec!["t".to_owned(), "u".to_owned(), "t".to_owned()]).await;
        assert_eq!(twice.topics.iter().map(|topic| &*topic.name).collect::<Vec<_>>(), ["t", "u"]);
        let too_many = many(vec![String::new(); NAMES_MAX + 1]).await;
        assert_eq!((too_many.error(), too_many.topics.len()), (ErrorCode::InvalidRequest, 0));
    }

    #[test]
    fn partitions_in_trouble_are_counted() {
        let partition = |group, replicas: [u32; 3]| Partition {
            group: GroupId(group),
            replicas: replicas.map(NodeId).into(),
            ..Partition::default()
        };
        let topic = Topic {
            id: TopicId::from_random([1; 16]),
            name: "t".parse().unwrap(),
            partitions: vec![partition(1, [1, 2, 3]), partition(2, [2, 1, 4]), partition(3, [4, 1, 2])],
            config: TopicConfig::default(),
        };
        let metadata = Metadata { topics: [(topic.id, Arc::new(topic))].into(), ..Metadata::default() };
        let alive = [1, 2, 3].map(NodeId).into();
        // Group 3 has no leader.
        let seen = count(&metadata, &alive, |p| (p.group != GroupId(3)).then_some(p.replicas[0]));
        let expected = Count {
            leads: [(1, 1), (2, 1)].map(|(node, n)| (NodeId(node), n)).into(),
            replicas: [(1, 3), (2, 3), (3, 1), (4, 2)].map(|(node, n)| (NodeId(node), n)).into(),
            under_replicated: 2,
            leaderless: 1,
        };
        assert_eq!(seen, expected);
    }
}
