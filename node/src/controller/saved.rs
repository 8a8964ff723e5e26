//! The metadata as bytes, for checkpoints of the metadata group. Pure: the same metadata give the same bytes on every node.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use quorate_proto::ids::{ClusterId, GroupId, Identity, NodeId, TopicId};
use quorate_proto::v1;
use thiserror::Error;

use super::command::VERSION;
use crate::metadata::{Metadata, Node, Partition, Retention, TimestampType, Topic, TopicConfig};

/// Bytes that are no metadata of ours.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not the state of the metadata group: {0}")]
pub(super) struct BadState(String);

fn lacks(what: &str) -> BadState {
    BadState(format!("no valid {what}"))
}

/// All of them. Whoever adds a field to [`Metadata`] is reminded here.
pub(super) fn encode(metadata: &Metadata) -> Bytes {
    let Metadata { cluster_id, nodes, topics, names: _, next_group, next_producer_id, deleted } = metadata;
    let is_formed = *cluster_id != ClusterId::default();
    let node = |(id, node): (&NodeId, &Node)| {
        let Node { identity, grpc, peer, http } = node;
        v1::RegisterNode {
            node: id.0,
            identity: identity.to_wire(),
            grpc: grpc.clone(),
            peer: peer.clone(),
            http: http.clone(),
        }
    };
    let state = v1::ControllerState {
        version: VERSION,
        cluster_id: if is_formed { cluster_id.to_wire() } else { Bytes::new() },
        nodes: nodes.iter().map(node).collect(),
        topics: topics.values().map(|topic| encode_topic(topic)).collect(),
        next_group: *next_group,
        next_producer_id: *next_producer_id,
        deleted: deleted.iter().map(|id| id.to_wire()).collect(),
    };
    state.encode_to_vec().into()
}

fn encode_topic(topic: &Topic) -> v1::TopicState {
    let Topic { id, name, partitions, config } = topic;
    let TopicConfig { message_bytes_max, timestamp_type, retention } = config;
    let partition = |partition: &Partition| v1::PartitionPlace {
        group: partition.group.0,
        replicas: partition.replicas.iter().map(|node| node.0).collect(),
    };
    v1::TopicState {
        id: id.to_wire(),
        name: name.to_string(),
        partitions: partitions.iter().map(partition).collect(),
        message_bytes_max: *message_bytes_max,
        log_append_time: *timestamp_type == TimestampType::LogAppendTime,
        retention_ms: bound_to_wire(retention.ms),
        retention_bytes: bound_to_wire(retention.bytes),
    }
}

fn bound_to_wire(bound: Option<u64>) -> i64 {
    bound.map_or(-1, |bound| i64::try_from(bound).unwrap_or(i64::MAX))
}

/// Reads them back.
///
/// # Errors
/// [`BadState`] for anything that [`encode`] does not write, a later version included.
pub(super) fn decode(bytes: &[u8]) -> Result<Metadata, BadState> {
    let state = v1::ControllerState::decode(bytes).map_err(|error| BadState(error.to_string()))?;
    if state.version != VERSION {
        return Err(BadState(format!("version {} is not known", state.version)));
    }
    let mut metadata = Metadata {
        next_group: state.next_group,
        next_producer_id: state.next_producer_id,
        ..Metadata::default()
    };
    if !state.cluster_id.is_empty() {
        metadata.cluster_id = ClusterId::from_wire(&state.cluster_id).ok_or_else(|| lacks("cluster id"))?;
    }
    for node in state.nodes {
        let identity = Identity::from_wire(&node.identity).ok_or_else(|| lacks("identity"))?;
        let known = Node { identity, grpc: node.grpc, peer: node.peer, http: node.http };
        metadata.nodes.insert(NodeId(node.node), known);
    }
    for topic in &state.topics {
        let topic = decode_topic(topic)?;
        metadata.names.insert(topic.name.clone(), topic.id);
        metadata.topics.insert(topic.id, Arc::new(topic));
    }
    let deleted = state.deleted.iter().map(|id| TopicId::from_wire(id).ok_or_else(|| lacks("topic id")));
    metadata.deleted = Arc::new(deleted.collect::<Result<VecDeque<_>, _>>()?);
    Ok(metadata)
}

fn decode_topic(topic: &v1::TopicState) -> Result<Topic, BadState> {
    let partition = |place: &v1::PartitionPlace| Partition {
        group: GroupId(place.group),
        replicas: place.replicas.iter().map(|node| NodeId(*node)).collect(),
    };
    Ok(Topic {
        id: TopicId::from_wire(&topic.id).ok_or_else(|| lacks("topic id"))?,
        name: topic.name.parse().map_err(|_| lacks("topic name"))?,
        partitions: topic.partitions.iter().map(partition).collect(),
        config: TopicConfig {
            message_bytes_max: topic.message_bytes_max,
            timestamp_type: match topic.log_append_time {
                true => TimestampType::LogAppendTime,
                false => TimestampType::CreateTime,
            },
            retention: Retention {
                ms: u64::try_from(topic.retention_ms).ok(),
                bytes: u64::try_from(topic.retention_bytes).ok(),
            },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::apply::apply;
    use super::super::command::Command;
    use super::*;

    fn node(id: u8) -> Command {
        let identity = Identity::from_random([id; 16]);
        let at = |port: u16| format!("host-{id}:{port}");
        let node = Node { identity, grpc: at(7001), peer: at(7101), http: at(8081) };
        Command::RegisterNode { id: NodeId(id.into()), node }
    }

    fn create(id: u8, name: &str, config: TopicConfig) -> Command {
        let id = TopicId::from_random([id; 16]);
        Command::CreateTopic { id, name: name.parse().unwrap(), partitions: 3, replicas: Some(2), config }
    }

    #[test]
    fn what_is_saved_comes_back_and_goes_on() {
        let config = TopicConfig {
            message_bytes_max: 77,
            timestamp_type: TimestampType::LogAppendTime,
            retention: Retention { ms: None, bytes: Some(0) },
        };
        let commands = [
            Command::FormCluster { cluster_id: ClusterId::from_random([9; 16]) },
            node(1),
            node(2),
            create(1, "a", TopicConfig::default()),
            create(2, "b", config),
            Command::DeleteTopic { id: TopicId::from_random([1; 16]) },
            Command::TakeProducerIds { count: 10 },
            create(3, "a", config),
        ];
        let mut metadata = Metadata::default();
        assert_eq!(decode(&encode(&metadata)), Ok(metadata.clone()));
        for (number, command) in commands.iter().enumerate() {
            apply(&mut metadata, command.clone());
            let mut resumed = decode(&encode(&metadata)).unwrap();
            assert_eq!(resumed, metadata);
            let mut all = metadata.clone();
            for later in &commands[number + 1..] {
                assert_eq!(apply(&mut resumed, later.clone()), apply(&mut all, later.clone()));
            }
            assert_eq!(encode(&resumed), encode(&all));
        }
    }

    #[test]
    fn what_was_not_saved_by_this_version_is_refused() {
        let later = v1::ControllerState { version: VERSION + 1, ..v1::ControllerState::default() };
        assert!(decode(&later.encode_to_vec()).is_err());
        assert!(decode(b"\xff").is_err());
        let mut state = v1::ControllerState { version: VERSION, ..v1::ControllerState::default() };
        state.deleted.push(Bytes::from_static(b"short"));
        assert_eq!(decode(&state.encode_to_vec()), Err(lacks("topic id")));
    }
}
