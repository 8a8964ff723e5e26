//! The closed set of commands of the metadata group, and their form in its log.

use std::fmt;

use bytes::Bytes;
use prost::Message;
use quorate_proto::ErrorCode;
use quorate_proto::ids::{ClusterId, Identity, LogIndex, NodeId, ProducerId, TopicId, TopicName};
use quorate_proto::v1;
use thiserror::Error;

use crate::metadata::{Node, TimestampType, TopicConfig};

/// The rules by which commands are applied: a change of what a command does, placement included, is a new version,
/// or two nodes of different releases would disagree.
pub(super) const VERSION: u32 = 1;

/// A change that the metadata group agrees on. Random values are drawn by whoever proposes and carried along, so
/// that applying is pure and asking again does nothing twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Names the cluster, once; answered with the name that it has.
    FormCluster {
        /// The name, unless it has one.
        cluster_id: ClusterId,
    },
    /// A node's identity and addresses; the identity never changes.
    RegisterNode {
        /// Whose.
        id: NodeId,
        /// Identity and addresses.
        node: Node,
    },
    /// Makes a topic and places its partitions.
    CreateTopic {
        /// Drawn by whoever asks.
        id: TopicId,
        /// Its name.
        name: TopicName,
        /// At least 1.
        partitions: u32,
        /// `None`: as many as there are nodes, at most 3.
        replicas: Option<u32>,
        /// Its configuration.
        config: TopicConfig,
    },
    /// Deletes a topic.
    DeleteTopic {
        /// Which one.
        id: TopicId,
    },
    /// Takes the next `count` producer ids.
    TakeProducerIds {
        /// How many.
        count: u32,
    },
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, and there is nothing to say.
    Done,
    /// The cluster's name.
    Cluster(ClusterId),
    /// The topic exists.
    Topic(TopicId),
    /// The block begins here.
    ProducerIds(ProducerId),
    /// Not done.
    Refused(Refusal),
}

/// Why the group decided against a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For the wire.
    pub code: ErrorCode,
    /// A sentence for people.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Bytes that are no command or answer of ours.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not a command of the metadata group: {0}")]
pub struct NotACommand(String);

fn lacks(what: &str) -> NotACommand {
    NotACommand(format!("no valid {what}"))
}

impl Command {
    /// As it lies in the log.
    pub fn encode(&self) -> Bytes {
        use v1::controller_command::Command as Wire;
        let command = match self {
            Self::FormCluster { cluster_id } => {
                Wire::FormCluster(v1::FormCluster { cluster_id: cluster_id.to_wire() })
            }
            Self::RegisterNode { id, node } => Wire::RegisterNode(v1::RegisterNode {
                node: id.0,
                identity: node.identity.to_wire(),
                grpc: node.grpc.clone(),
                peer: node.peer.clone(),
                http: node.http.clone(),
            }),
            Self::CreateTopic { id, name, partitions, replicas, config } => Wire::AddTopic(v1::AddTopic {
                id: id.to_wire(),
                name: name.to_string(),
                partitions: partitions.cast_signed(),
                replicas: replicas.unwrap_or(0).cast_signed(),
                message_bytes_max: config.message_bytes_max,
                log_append_time: config.timestamp_type == TimestampType::LogAppendTime,
            }),
            Self::DeleteTopic { id } => Wire::RemoveTopic(v1::RemoveTopic { id: id.to_wire() }),
            Self::TakeProducerIds { count } => Wire::TakeProducerIds(v1::TakeProducerIds { count: *count }),
        };
        v1::ControllerCommand { version: VERSION, command: Some(command) }.encode_to_vec().into()
    }

    /// Reads one back.
    ///
    /// # Errors
    /// [`NotACommand`] for anything that [`Command::encode`] does not write, a later version included.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotACommand> {
        use v1::controller_command::Command as Wire;
        let wire = v1::ControllerCommand::decode(bytes).map_err(|error| NotACommand(error.to_string()))?;
        if wire.version != VERSION {
            return Err(NotACommand(format!("version {} is not known", wire.version)));
        }
        Ok(match wire.command.ok_or_else(|| lacks("command"))? {
            Wire::FormCluster(form) => Self::FormCluster {
                cluster_id: ClusterId::from_wire(&form.cluster_id).ok_or_else(|| lacks("cluster id"))?,
            },
            Wire::RegisterNode(node) => Self::RegisterNode {
                id: Some(NodeId(node.node)).filter(|id| id.is_valid()).ok_or_else(|| lacks("node id"))?,
                node: Node {
                    identity: Identity::from_wire(&node.identity).ok_or_else(|| lacks("identity"))?,
                    grpc: node.grpc,
                    peer: node.peer,
                    http: node.http,
                },
            },
            Wire::AddTopic(topic) => Self::CreateTopic {
                id: TopicId::from_wire(&topic.id).ok_or_else(|| lacks("topic id"))?,
                name: topic.name.parse().map_err(|_| lacks("topic name"))?,
                partitions: u32::try_from(topic.partitions).map_err(|_| lacks("number of partitions"))?,
                replicas: match u32::try_from(topic.replicas).map_err(|_| lacks("number of replicas"))? {
                    0 => None,
                    replicas => Some(replicas),
                },
                config: TopicConfig {
                    message_bytes_max: topic.message_bytes_max,
                    timestamp_type: if topic.log_append_time {
                        TimestampType::LogAppendTime
                    } else {
                        TimestampType::CreateTime
                    },
                    ..TopicConfig::default()
                },
            },
            Wire::RemoveTopic(topic) => {
                Self::DeleteTopic { id: TopicId::from_wire(&topic.id).ok_or_else(|| lacks("topic id"))? }
            }
            Wire::TakeProducerIds(take) => Self::TakeProducerIds { count: take.count },
        })
    }
}

impl Answer {
    /// For the way back to the node that asked; `index` is the command's place in the log.
    pub(super) fn encode(&self, index: LogIndex) -> Bytes {
        use v1::controller_answer::Answer as Wire;
        let (code, message, answer) = match self {
            Self::Done => (ErrorCode::None, String::new(), None),
            Self::Cluster(id) => (ErrorCode::None, String::new(), Some(Wire::ClusterId(id.to_wire()))),
            Self::Topic(id) => (ErrorCode::None, String::new(), Some(Wire::TopicId(id.to_wire()))),
            Self::ProducerIds(first) => (ErrorCode::None, String::new(), Some(Wire::ProducerId(first.0))),
            Self::Refused(refusal) => (refusal.code, refusal.message.clone(), None),
        };
        v1::ControllerAnswer { index: index.0, error: code.into(), message, answer }.encode_to_vec().into()
    }

    /// Reads one back, with the command's place in the log.
    pub(super) fn decode(bytes: &[u8]) -> Result<(LogIndex, Self), NotACommand> {
        use v1::controller_answer::Answer as Wire;
        let wire = v1::ControllerAnswer::decode(bytes).map_err(|error| NotACommand(error.to_string()))?;
        let code = wire.error();
        let answer = match wire.answer {
            None if code == ErrorCode::None => Self::Done,
            None => Self::Refused(Refusal { code, message: wire.message }),
            Some(Wire::ClusterId(id)) => {
                Self::Cluster(ClusterId::from_wire(&id).ok_or_else(|| lacks("cluster id"))?)
            }
            Some(Wire::TopicId(id)) => Self::Topic(TopicId::from_wire(&id).ok_or_else(|| lacks("topic id"))?),
            Some(Wire::ProducerId(first)) => Self::ProducerIds(ProducerId(first)),
        };
        Ok((LogIndex(wire.index), answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let id = TopicId::from_random([3; 16]);
        let node = Node {
            identity: Identity::from_random([1; 16]),
            grpc: "a:1".into(),
            peer: "b:2".into(),
            http: "c:3".into(),
        };
        let timestamp_type = TimestampType::LogAppendTime;
        let config = TopicConfig { message_bytes_max: 77, timestamp_type, ..TopicConfig::default() };
        for command in [
            Command::FormCluster { cluster_id: ClusterId::from_random([2; 16]) },
            Command::RegisterNode { id: NodeId::MAX, node },
            Command::CreateTopic { id, name: "t".parse().unwrap(), partitions: 9, replicas: Some(2), config },
            Command::CreateTopic {
                id,
                name: "t".parse().unwrap(),
                partitions: 1,
                replicas: None,
                config: TopicConfig::default(),
            },
            Command::DeleteTopic { id },
            Command::TakeProducerIds { count: 1_000 },
        ] {
            assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
        for answer in [
            Answer::Done,
            Answer::Cluster(ClusterId::from_random([2; 16])),
            Answer::Topic(id),
            Answer::ProducerIds(ProducerId(0)),
            Answer::Refused(Refusal { code: ErrorCode::TopicExists, message: "why".into() }),
        ] {
            assert_eq!(Answer::decode(&answer.encode(LogIndex(5))), Ok((LogIndex(5), answer)));
        }
    }

    #[test]
    fn what_is_no_command_is_refused() {
        assert!(Command::decode(b"\xff\xff").is_err());
        assert!(Command::decode(b"").is_err());
        let later = v1::ControllerCommand { version: 2, command: None }.encode_to_vec();
        assert_eq!(Command::decode(&later), Err(NotACommand("version 2 is not known".into())));
    }
}
