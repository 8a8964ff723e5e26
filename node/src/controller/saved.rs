//! The metadata as bytes, for checkpoints of the metadata group. Pure: the same metadata give the same bytes on every node.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use quorate_proto::ids::{ChangeId, ClusterId, GroupId, Identity, NodeId, Term, TopicId};
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
    let Metadata {
        cluster_id,
        nodes,
        draining,
        admissions,
        removed,
        topics,
        names: _,
        next_group,
        next_producer_id,
        deleted,
        changes,
    } = metadata;
    let is_formed = *cluster_id != ClusterId::default();
    let node = |(id, node): (&NodeId, &Node)| {
        let Node { identity, grpc, peer, http, rack, admission } = node;
        v1::RegisterNode {
            node: id.0,
            identity: identity.to_wire(),
            grpc: grpc.clone(),
            peer: peer.clone(),
            http: http.clone(),
            rack: rack.clone(),
            admission: *admission,
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
        changes: changes.iter().map(|change| change.to_wire()).collect(),
        draining: draining.iter().map(|node| node.0).collect(),
        admissions: *admissions,
        removed: removed.iter().map(|(node, disk)| disk_to_wire(*node, *disk)).collect(),
    };
    state.encode_to_vec().into()
}

fn disk_to_wire(node: NodeId, identity: Identity) -> v1::Disk {
    v1::Disk { node: node.0, identity: identity.to_wire() }
}

fn disk_of(disk: &v1::Disk) -> Result<(NodeId, Identity), BadState> {
    Ok((NodeId(disk.node), Identity::from_wire(&disk.identity).ok_or_else(|| lacks("identity"))?))
}

fn encode_topic(topic: &Topic) -> v1::TopicState {
    let Topic { id, name, partitions, config } = topic;
    let TopicConfig { message_bytes_max, timestamp_type, retention } = config;
    let partition = |partition: &Partition| {
        let Partition { group, replicas, disks, version, term, changing } = partition;
        v1::PartitionPlace {
            group: group.0,
            replicas: replicas.iter().map(|node| node.0).collect(),
            disks: disks.iter().map(|(node, disk)| disk_to_wire(*node, *disk)).collect(),
            version: *version,
            changing: *changing,
            term: term.0,
        }
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
        draining: state.draining.iter().copied().map(NodeId).collect(),
        admissions: state.admissions,
        ..Metadata::default()
    };
    if !state.cluster_id.is_empty() {
        metadata.cluster_id = ClusterId::from_wire(&state.cluster_id).ok_or_else(|| lacks("cluster id"))?;
    }
    for node in state.nodes {
        let identity = Identity::from_wire(&node.identity).ok_or_else(|| lacks("identity"))?;
        let known = Node {
            identity,
            grpc: node.grpc,
            peer: node.peer,
            http: node.http,
            rack: node.rack,
            admission: node.admission,
        };
        metadata.nodes.insert(NodeId(node.node), known);
    }
    for topic in &state.topics {
        let topic = decode_topic(topic)?;
        metadata.names.insert(topic.name.clone(), topic.id);
        metadata.topics.insert(topic.id, Arc::new(topic));
    }
    let deleted = state.deleted.iter().map(|id| TopicId::from_wire(id).ok_or_else(|| lacks("topic id")));
    metadata.deleted = Arc::new(deleted.collect::<Result<VecDeque<_>, _>>()?);
    let changes = state.changes.iter().map(|id| ChangeId::from_wire(id).ok_or_else(|| lacks("change id")));
    metadata.changes = Arc::new(changes.collect::<Result<VecDeque<_>, _>>()?);
    metadata.removed = Arc::new(state.removed.iter().map(disk_of).collect::<Result<VecDeque<_>, _>>()?);
    Ok(metadata)
}

fn decode_topic(topic: &v1::TopicState) -> Result<Topic, BadState> {
    let partition = |place: &v1::PartitionPlace| -> Result<Partition, BadState> {
        Ok(Partition {
            group: GroupId(place.group),
            replicas: place.replicas.iter().map(|node| NodeId(*node)).collect(),
            disks: place.disks.iter().map(disk_of).collect::<Result<BTreeMap<_, _>, _>>()?,
            version: place.version,
            term: Term(place.term),
            changing: place.changing,
        })
    };
    Ok(Topic {
        id: TopicId::from_wire(&topic.id).ok_or_else(|| lacks("topic id"))?,
        name: topic.name.parse().map_err(|_| lacks("topic name"))?,
        partitions: topic.partitions.iter().map(partition).collect::<Result<_, _>>()?,
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
    use quorate_proto::ids::PartitionId;

    use super::super::apply::apply;
    use super::super::command::Command;
    use super::super::settings::Setting;
    use super::*;

    fn node(id: u8) -> Command {
        let identity = Identity::from_random([id; 16]);
        let at = |port: u16| format!("host-{id}:{port}");
        let rack = format!("rack-{id}");
        let node = Node { identity, grpc: at(7001), peer: at(7101), http: at(8081), rack, admission: 0 };
        Command::RegisterNode { id: NodeId(id.into()), node }
    }

    fn disk(byte: u8) -> Identity {
        Identity::from_random([byte; 16])
    }

    fn admit(id: u32, byte: u8, replaces: bool) -> Command {
        Command::AdmitNode {
            id: NodeId(id),
            node: Node { identity: disk(byte), ..Node::default() },
            replaces,
        }
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
        let (first, second) = (ChangeId::from_random([1; 16]), ChangeId::from_random([2; 16]));
        let id = TopicId::from_random([2; 16]);
        let settings = vec![Setting::RetentionMs(Some(5)), Setting::MessageBytesMax(99)];
        let configure = Command::ConfigureTopic { change: first, id, settings };
        let add = Command::AddPartitions { change: second, id, partitions: 4 };
        let members = [(NodeId(3), disk(3)), (NodeId(1), disk(11))].into();
        let commands = [
            Command::FormCluster { cluster_id: ClusterId::from_random([9; 16]) },
            node(1),
            node(2),
            create(1, "a", TopicConfig::default()),
            create(2, "b", config),
            Command::DeleteTopic { id: TopicId::from_random([1; 16]) },
            configure.clone(),
            Command::TakeProducerIds { count: 10 },
            create(3, "a", config),
            add.clone(),
            // Node 3 comes, node 1 gets another disk, node 2 goes.
            admit(3, 3, false),
            admit(1, 11, true),
            Command::DrainNode { id: NodeId(2), identity: disk(2), heirs: vec![NodeId(1), NodeId(3)] },
            Command::AssignReplicas { topic: id, partition: PartitionId(0), replicas: vec![NodeId(3)] },
            Command::ReportMembers {
                topic: id,
                partition: PartitionId(0),
                version: 0,
                term: Term(4),
                disks: members,
                changing: true,
            },
            // Tried again, they are known for what was done.
            configure,
            add,
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
