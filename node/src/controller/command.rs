//! The closed set of commands of the metadata group, and their form in its log.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use prost::Message;
use quorate_proto::ErrorCode;
use quorate_proto::ids::{
    ChangeId, ClusterId, Identity, LogIndex, NodeId, PartitionId, ProducerId, Term, TopicId, TopicName,
};
use quorate_proto::v1;
use thiserror::Error;

use super::settings::Setting;
use crate::metadata::{Node, Retention, TimestampType, TopicConfig};

/// The newest rules by which commands are applied: a change of what a command does, placement included, or a field
/// that changes what it does, is a new version, or two nodes of different releases would disagree.
///
/// A command is written with the first version that knows all that it says, and so as the release of that version
/// wrote it. A cluster of two releases agrees on all that both know. What only the newer one knows, an older leader
/// refuses, and an older node stops when it is to apply it, rather than become another one than the rest: it is asked
/// for when every node runs the newer release.
pub(super) const VERSION: u32 = 2;

/// The version of all that the first release wrote.
const FIRST: u32 = 1;

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
    /// Changes settings of a topic; the others stay.
    ConfigureTopic {
        /// Drawn by whoever asks.
        change: ChangeId,
        /// Which topic.
        id: TopicId,
        /// Their new values. What goes back to its default has that value here, so that applying knows no defaults.
        settings: Vec<Setting>,
    },
    /// Adds partitions to a topic, with as many replicas as it has, and places them.
    AddPartitions {
        /// Drawn by whoever asks.
        change: ChangeId,
        /// Which topic.
        id: TopicId,
        /// The new total; more than there are.
        partitions: u32,
    },
    /// Takes in a disk: of a new node, or in the place of the one that a node had.
    AdmitNode {
        /// Whose.
        id: NodeId,
        /// Identity, addresses and rack; its number is given to it.
        node: Node,
        /// The node is a member already, and its former disk is gone.
        replaces: bool,
    },
    /// Moves all that a node holds to others, one replica to one of them each.
    DrainNode {
        /// Which node.
        id: NodeId,
        /// Its disk: another one under this id is another node.
        identity: Identity,
        /// Who may take what it holds: alive as the command was proposed.
        heirs: Vec<NodeId>,
    },
    /// Ends a drained node's membership.
    RemoveNode {
        /// Which node.
        id: NodeId,
        /// Its disk.
        identity: Identity,
    },
    /// Says which nodes are to hold a partition.
    AssignReplicas {
        /// Of which topic.
        topic: TopicId,
        /// Which one.
        partition: PartitionId,
        /// The nodes, the preferred leader first.
        replicas: Vec<NodeId>,
    },
    /// A partition's leader says which disks are members of its group, or may become members.
    ReportMembers {
        /// Of which topic.
        topic: TopicId,
        /// Which one.
        partition: PartitionId,
        /// How often that was said before, as the leader knows it.
        version: u64,
        /// The leader's term.
        term: Term,
        /// The disks, by node.
        disks: BTreeMap<NodeId, Identity>,
        /// Whether they are about to change, or do not all vote yet.
        changing: bool,
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

fn node_id(wire: u32) -> Result<NodeId, NotACommand> {
    Some(NodeId(wire)).filter(|id| id.is_valid()).ok_or_else(|| lacks("node id"))
}

fn identity(wire: &[u8]) -> Result<Identity, NotACommand> {
    Identity::from_wire(wire).ok_or_else(|| lacks("identity"))
}

fn topic_id(wire: &[u8]) -> Result<TopicId, NotACommand> {
    TopicId::from_wire(wire).ok_or_else(|| lacks("topic id"))
}

fn node_to_wire(id: NodeId, node: &Node) -> v1::RegisterNode {
    v1::RegisterNode {
        node: id.0,
        identity: node.identity.to_wire(),
        grpc: node.grpc.clone(),
        peer: node.peer.clone(),
        http: node.http.clone(),
        rack: node.rack.clone(),
        admission: 0,
    }
}

/// The number of its admission is not for the one who asks to say.
fn node_from_wire(wire: v1::RegisterNode) -> Result<(NodeId, Node), NotACommand> {
    let node = Node {
        identity: identity(&wire.identity)?,
        grpc: wire.grpc,
        peer: wire.peer,
        http: wire.http,
        rack: wire.rack,
        admission: 0,
    };
    Ok((node_id(wire.node)?, node))
}

impl Command {
    /// As it lies in the log.
    pub fn encode(&self) -> Bytes {
        use v1::controller_command::Command as Wire;
        let command = match self {
            Self::FormCluster { cluster_id } => {
                Wire::FormCluster(v1::FormCluster { cluster_id: cluster_id.to_wire() })
            }
            Self::RegisterNode { id, node } => Wire::RegisterNode(node_to_wire(*id, node)),
            Self::CreateTopic { id, name, partitions, replicas, config } => {
                // Absent it is as in the first version.
                let retention = Some(config.retention).filter(|retention| *retention != FIRST_RETENTION);
                Wire::AddTopic(v1::AddTopic {
                    id: id.to_wire(),
                    name: name.to_string(),
                    partitions: partitions.cast_signed(),
                    replicas: replicas.unwrap_or(0).cast_signed(),
                    message_bytes_max: config.message_bytes_max,
                    log_append_time: config.timestamp_type == TimestampType::LogAppendTime,
                    retention_ms: retention.map(|retention| bound_to_wire(retention.ms)),
                    retention_bytes: retention.map(|retention| bound_to_wire(retention.bytes)),
                })
            }
            Self::DeleteTopic { id } => Wire::RemoveTopic(v1::RemoveTopic { id: id.to_wire() }),
            Self::TakeProducerIds { count } => Wire::TakeProducerIds(v1::TakeProducerIds { count: *count }),
            Self::ConfigureTopic { change, id, settings } => Wire::ConfigureTopic(v1::ConfigureTopic {
                change: change.to_wire(),
                topic_id: id.to_wire(),
                settings: settings.iter().copied().map(setting_to_wire).collect(),
            }),
            Self::AddPartitions { change, id, partitions } => Wire::AddPartitions(v1::AddPartitions {
                change: change.to_wire(),
                topic_id: id.to_wire(),
                partitions: partitions.cast_signed(),
            }),
            Self::AdmitNode { id, node, replaces } => {
                Wire::AdmitNode(v1::AdmitNode { node: Some(node_to_wire(*id, node)), replaces: *replaces })
            }
            Self::DrainNode { id, identity, heirs } => Wire::DrainNode(v1::DrainNode {
                node: id.0,
                identity: identity.to_wire(),
                heirs: heirs.iter().map(|node| node.0).collect(),
            }),
            Self::RemoveNode { id, identity } => {
                Wire::RemoveNode(v1::RemoveNode { node: id.0, identity: identity.to_wire() })
            }
            Self::AssignReplicas { topic, partition, replicas } => Wire::AssignReplicas(v1::AssignReplicas {
                topic: topic.to_wire(),
                partition: partition.0,
                replicas: replicas.iter().map(|node| node.0).collect(),
            }),
            Self::ReportMembers { topic, partition, version, term, disks, changing } => {
                let disk = |(node, identity): (&NodeId, &Identity)| v1::Disk {
                    node: node.0,
                    identity: identity.to_wire(),
                };
                Wire::ReportMembers(v1::ReportMembers {
                    topic: topic.to_wire(),
                    partition: partition.0,
                    version: *version,
                    disks: disks.iter().map(disk).collect(),
                    changing: *changing,
                    term: term.0,
                })
            }
        };
        v1::ControllerCommand { version: self.version(), command: Some(command) }.encode_to_vec().into()
    }

    /// The first version that knows all that this command says.
    fn version(&self) -> u32 {
        match self {
            Self::CreateTopic { config, .. } if config.retention != FIRST_RETENTION => VERSION,
            Self::RegisterNode { node, .. } if !node.rack.is_empty() => VERSION,
            Self::FormCluster { .. }
            | Self::RegisterNode { .. }
            | Self::CreateTopic { .. }
            | Self::DeleteTopic { .. }
            | Self::TakeProducerIds { .. } => FIRST,
            Self::ConfigureTopic { .. }
            | Self::AddPartitions { .. }
            | Self::AdmitNode { .. }
            | Self::DrainNode { .. }
            | Self::RemoveNode { .. }
            | Self::AssignReplicas { .. }
            | Self::ReportMembers { .. } => VERSION,
        }
    }

    /// Reads one back.
    ///
    /// # Errors
    /// [`NotACommand`] for anything that [`Command::encode`] does not write, a later version included.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotACommand> {
        use v1::controller_command::Command as Wire;
        let wire = v1::ControllerCommand::decode(bytes).map_err(|error| NotACommand(error.to_string()))?;
        if !(FIRST..=VERSION).contains(&wire.version) {
            return Err(NotACommand(format!("version {} is not known", wire.version)));
        }
        Ok(match wire.command.ok_or_else(|| lacks("command"))? {
            Wire::FormCluster(form) => Self::FormCluster {
                cluster_id: ClusterId::from_wire(&form.cluster_id).ok_or_else(|| lacks("cluster id"))?,
            },
            Wire::RegisterNode(node) => {
                let (id, node) = node_from_wire(node)?;
                Self::RegisterNode { id, node }
            }
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
                    timestamp_type: timestamp_type(topic.log_append_time),
                    retention: match (topic.retention_ms, topic.retention_bytes) {
                        (None, None) => FIRST_RETENTION,
                        (ms, bytes) => Retention { ms: bound_of(ms)?, bytes: bound_of(bytes)? },
                    },
                },
            },
            Wire::RemoveTopic(topic) => {
                Self::DeleteTopic { id: TopicId::from_wire(&topic.id).ok_or_else(|| lacks("topic id"))? }
            }
            Wire::TakeProducerIds(take) => Self::TakeProducerIds { count: take.count },
            Wire::ConfigureTopic(configure) => Self::ConfigureTopic {
                change: ChangeId::from_wire(&configure.change).ok_or_else(|| lacks("change id"))?,
                id: TopicId::from_wire(&configure.topic_id).ok_or_else(|| lacks("topic id"))?,
                settings: configure.settings.into_iter().map(setting_of).collect::<Result<_, _>>()?,
            },
            Wire::AddPartitions(add) => Self::AddPartitions {
                change: ChangeId::from_wire(&add.change).ok_or_else(|| lacks("change id"))?,
                id: TopicId::from_wire(&add.topic_id).ok_or_else(|| lacks("topic id"))?,
                partitions: u32::try_from(add.partitions).map_err(|_| lacks("number of partitions"))?,
            },
            Wire::AdmitNode(admit) => {
                let (id, node) = node_from_wire(admit.node.ok_or_else(|| lacks("node"))?)?;
                Self::AdmitNode { id, node, replaces: admit.replaces }
            }
            Wire::DrainNode(drain) => Self::DrainNode {
                id: node_id(drain.node)?,
                identity: identity(&drain.identity)?,
                heirs: drain.heirs.into_iter().map(node_id).collect::<Result<_, _>>()?,
            },
            Wire::RemoveNode(remove) => {
                Self::RemoveNode { id: node_id(remove.node)?, identity: identity(&remove.identity)? }
            }
            Wire::AssignReplicas(assign) => Self::AssignReplicas {
                topic: topic_id(&assign.topic)?,
                partition: PartitionId(assign.partition),
                replicas: assign.replicas.into_iter().map(node_id).collect::<Result<_, _>>()?,
            },
            Wire::ReportMembers(report) => {
                let disk = |disk: v1::Disk| -> Result<_, NotACommand> {
                    Ok((node_id(disk.node)?, identity(&disk.identity)?))
                };
                Self::ReportMembers {
                    topic: topic_id(&report.topic)?,
                    partition: PartitionId(report.partition),
                    version: report.version,
                    term: Term(report.term),
                    disks: report.disks.into_iter().map(disk).collect::<Result<_, NotACommand>>()?,
                    changing: report.changing,
                }
            }
        })
    }
}

/// What a topic keeps whose creation does not say it: for ever so, whatever a later release takes for its default.
const FIRST_RETENTION: Retention = Retention { ms: Some(604_800_000), bytes: None };

fn bound_to_wire(bound: Option<u64>) -> i64 {
    bound.map_or(-1, |bound| i64::try_from(bound).unwrap_or(i64::MAX))
}

fn bound_of(wire: Option<i64>) -> Result<Option<u64>, NotACommand> {
    match wire {
        Some(-1) => Ok(None),
        Some(bound) => u64::try_from(bound).map(Some).map_err(|_| lacks("retention")),
        None => Err(lacks("retention")),
    }
}

fn timestamp_type(log_append_time: bool) -> TimestampType {
    if log_append_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime }
}

fn setting_to_wire(setting: Setting) -> v1::TopicSetting {
    use v1::topic_setting::Setting as Wire;
    let setting = match setting {
        Setting::MessageBytesMax(bytes) => Wire::MessageBytesMax(bytes),
        Setting::TimestampType(stamped) => Wire::LogAppendTime(stamped == TimestampType::LogAppendTime),
        Setting::RetentionMs(bound) => Wire::RetentionMs(bound_to_wire(bound)),
        Setting::RetentionBytes(bound) => Wire::RetentionBytes(bound_to_wire(bound)),
    };
    v1::TopicSetting { setting: Some(setting) }
}

fn setting_of(wire: v1::TopicSetting) -> Result<Setting, NotACommand> {
    use v1::topic_setting::Setting as Wire;
    Ok(match wire.setting.ok_or_else(|| lacks("setting"))? {
        Wire::MessageBytesMax(bytes) => Setting::MessageBytesMax(bytes),
        Wire::LogAppendTime(stamped) => Setting::TimestampType(timestamp_type(stamped)),
        Wire::RetentionMs(bound) => Setting::RetentionMs(bound_of(Some(bound))?),
        Wire::RetentionBytes(bound) => Setting::RetentionBytes(bound_of(Some(bound))?),
    })
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
        let disk = Identity::from_random([1; 16]);
        let node = Node {
            identity: disk,
            grpc: "a:1".into(),
            peer: "b:2".into(),
            http: "c:3".into(),
            rack: "r".into(),
            admission: 0,
        };
        let (node_id, partition) = (NodeId(7), PartitionId(3));
        let change = ChangeId::from_random([4; 16]);
        let config = TopicConfig {
            message_bytes_max: 77,
            timestamp_type: TimestampType::LogAppendTime,
            retention: Retention { ms: Some(0), bytes: Some(u64::try_from(i64::MAX).unwrap()) },
        };
        let unbounded = Retention { ms: None, bytes: None };
        let settings = vec![
            Setting::MessageBytesMax(61),
            Setting::TimestampType(TimestampType::LogAppendTime),
            Setting::TimestampType(TimestampType::CreateTime),
            Setting::RetentionMs(None),
            Setting::RetentionMs(Some(0)),
            Setting::RetentionBytes(Some(7)),
        ];
        for command in [
            Command::FormCluster { cluster_id: ClusterId::from_random([2; 16]) },
            Command::RegisterNode { id: NodeId::MAX, node: node.clone() },
            Command::AdmitNode { id: node_id, node, replaces: true },
            Command::DrainNode { id: node_id, identity: disk, heirs: vec![NodeId(2), NodeId(1)] },
            Command::RemoveNode { id: node_id, identity: disk },
            Command::AssignReplicas { topic: id, partition, replicas: vec![NodeId(2), NodeId(1)] },
            Command::ReportMembers {
                topic: id,
                partition,
                version: 9,
                term: Term(3),
                disks: [(node_id, disk)].into(),
                changing: true,
            },
            Command::CreateTopic { id, name: "t".parse().unwrap(), partitions: 9, replicas: Some(2), config },
            Command::CreateTopic {
                id,
                name: "t".parse().unwrap(),
                partitions: 1,
                replicas: None,
                config: TopicConfig::default(),
            },
            Command::CreateTopic {
                id,
                name: "t".parse().unwrap(),
                partitions: 1,
                replicas: None,
                config: TopicConfig { retention: unbounded, ..TopicConfig::default() },
            },
            Command::DeleteTopic { id },
            Command::TakeProducerIds { count: 1_000 },
            Command::ConfigureTopic { change, id, settings },
            Command::ConfigureTopic { change, id, settings: Vec::new() },
            Command::AddPartitions { change, id, partitions: 9 },
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
        for version in [0, 3] {
            let other = v1::ControllerCommand { version, command: None }.encode_to_vec();
            let said = format!("version {version} is not known");
            assert_eq!(Command::decode(&other), Err(NotACommand(said)));
        }
        let bad = [
            v1::controller_command::Command::ConfigureTopic(v1::ConfigureTopic {
                change: vec![4; 16].into(),
                topic_id: vec![3; 16].into(),
                settings: vec![v1::TopicSetting { setting: None }],
            }),
            v1::controller_command::Command::ConfigureTopic(v1::ConfigureTopic {
                change: vec![4; 16].into(),
                topic_id: vec![3; 16].into(),
                settings: vec![v1::TopicSetting {
                    setting: Some(v1::topic_setting::Setting::RetentionMs(-2)),
                }],
            }),
            v1::controller_command::Command::AddPartitions(v1::AddPartitions {
                change: vec![4; 15].into(),
                topic_id: vec![3; 16].into(),
                partitions: 2,
            }),
        ];
        for command in bad {
            let bytes = v1::ControllerCommand { version: 2, command: Some(command) }.encode_to_vec();
            assert!(Command::decode(&bytes).is_err());
        }
    }

    /// As the first release wrote it: version 1; a topic with id, name, 2 partitions, 3 replicas and its settings.
    #[test]
    fn commands_of_the_first_release_are_read_and_written_as_ever() {
        let id = TopicId::from_random([3; 16]);
        let mut bytes = vec![0x08, 1, 0x22, 30, 0x0a, 16];
        bytes.extend_from_slice(&id.to_wire());
        bytes.extend_from_slice(&[0x12, 1, b't', 0x18, 2, 0x20, 3, 0x28, 77, 0x30, 1]);
        bytes[3] = u8::try_from(bytes.len() - 4).unwrap();
        let command = Command::CreateTopic {
            id,
            name: "t".parse().unwrap(),
            partitions: 2,
            replicas: Some(3),
            config: TopicConfig {
                message_bytes_max: 77,
                timestamp_type: TimestampType::LogAppendTime,
                retention: Retention { ms: Some(604_800_000), bytes: None },
            },
        };
        assert_eq!(Command::decode(&bytes).as_ref(), Ok(&command));
        assert_eq!(command.encode(), bytes);
    }

    #[test]
    fn a_command_has_the_first_version_that_knows_all_that_it_says() {
        let (change, id) = (ChangeId::from_random([4; 16]), TopicId::from_random([3; 16]));
        let version = |command: Command| v1::ControllerCommand::decode(command.encode()).unwrap().version;
        let create = |config| {
            let name = "t".parse().unwrap();
            version(Command::CreateTopic { id, name, partitions: 1, replicas: None, config })
        };
        let retention = Retention { bytes: Some(1), ..FIRST_RETENTION };
        assert_eq!(create(TopicConfig { retention: FIRST_RETENTION, ..TopicConfig::default() }), 1);
        assert_eq!(create(TopicConfig { retention, ..TopicConfig::default() }), 2);
        assert_eq!(version(Command::DeleteTopic { id }), 1);
        assert_eq!(version(Command::ConfigureTopic { change, id, settings: Vec::new() }), 2);
        assert_eq!(version(Command::AddPartitions { change, id, partitions: 2 }), 2);
    }
}
