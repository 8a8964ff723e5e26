//! Plain data on topics, assignments and nodes: the controller writes it, the rest read it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use quorate_proto::ids::{ClusterId, GroupId, Identity, NodeId, PartitionId, Term, TopicId, TopicName};

/// What the metadata group has agreed on, as applied on this node. A new one replaces it as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Nil until the cluster is formed.
    pub cluster_id: ClusterId,
    /// Every node that was accepted.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Topics by id.
    pub topics: BTreeMap<TopicId, Arc<Topic>>,
    /// Topic ids by name.
    pub names: BTreeMap<TopicName, TopicId>,
    /// The next group id that was never handed out.
    pub next_group: u64,
    /// The next producer id that was never handed out.
    pub next_producer_id: i64,
    /// Topics deleted last, the newest one last: a creation that is tried again must not bring one back.
    pub deleted: Arc<VecDeque<TopicId>>,
}

/// A node, as it registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The identity on its disk.
    pub identity: Identity,
    /// Where clients reach it over gRPC, `host:port`.
    pub grpc: String,
    /// Where peers reach it.
    pub peer: String,
    /// Where its HTTP faces are.
    pub http: String,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Never changes and is never reused.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// Its partitions; the index is the [`PartitionId`].
    pub partitions: Vec<Partition>,
    /// Its configuration.
    pub config: TopicConfig,
}

/// A partition's assignment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its Raft group.
    pub group: GroupId,
    /// The nodes that hold it; the preferred leader first.
    pub replicas: Vec<NodeId>,
}

/// What can be configured per topic; names and meaning are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// `max.message.bytes`: the largest batch that is taken, in bytes, inclusive.
    pub message_bytes_max: u32,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// How much is kept.
    pub retention: Retention,
}

/// How much of a partition's log is kept; both bounds count per partition (Kafka's `retention.ms`, `retention.bytes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Batches whose newest record is older, in ms, go. `None`: however old (-1 on the wire); 0 keeps nothing.
    pub ms: Option<u64>,
    /// The oldest batches go as long as those behind them are at least so many bytes. `None`: without a bound (-1 on the
    /// wire); 0 keeps nothing.
    pub bytes: Option<u64>,
}

impl Default for Retention {
    /// Seven days.
    fn default() -> Self {
        Self { ms: Some(604_800_000), bytes: None }
    }
}

/// Whose clock stamps a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's (`CreateTime`).
    #[default]
    CreateTime,
    /// The leader's, when it appends (`LogAppendTime`).
    LogAppendTime,
}

impl Default for TopicConfig {
    fn default() -> Self {
        Self {
            message_bytes_max: 1_048_588,
            timestamp_type: TimestampType::CreateTime,
            retention: Retention::default(),
        }
    }
}

impl Metadata {
    /// The topic of that name.
    pub fn topic_named(&self, name: &TopicName) -> Option<&Arc<Topic>> {
        self.names.get(name).and_then(|id| self.topics.get(id))
    }
}

impl Topic {
    /// Its partition of that number.
    pub fn partition(&self, partition: PartitionId) -> Option<&Partition> {
        usize::try_from(partition.0).ok().and_then(|at| self.partitions.get(at))
    }
}

/// Who leads a group, and since which term, as far as this node has heard: a newer term wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The term in which it leads.
    pub term: Term,
    /// The leader.
    pub leader: NodeId,
}
