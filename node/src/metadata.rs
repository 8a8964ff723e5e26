//! Plain data on topics, assignments and nodes: the controller writes it, the rest read it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use quorate_proto::ids::{
    ChangeId, ClusterId, GroupId, Identity, NodeId, PartitionId, Term, TopicId, TopicName,
};

/// What the metadata group has agreed on, as applied on this node. A new one replaces it as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Nil until the cluster is formed.
    pub cluster_id: ClusterId,
    /// Every node that was accepted.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Nodes that are to be removed: they hold no new replicas, and those that they hold are moved away.
    pub draining: BTreeSet<NodeId>,
    /// How many disks were admitted after the cluster was formed.
    pub admissions: u64,
    /// Disks that were removed or replaced last, the newest one last, with the node id that each had.
    pub removed: Arc<VecDeque<(NodeId, Identity)>>,
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
    /// Changes of topics made last, the newest one last: one that is tried again must not undo what came after it.
    pub changes: Arc<VecDeque<ChangeId>>,
}

/// A node, as it registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The identity on its disk.
    pub identity: Identity,
    /// Where clients reach it over gRPC, `host:port`.
    pub grpc: String,
    /// Where peers reach it.
    pub peer: String,
    /// Where its HTTP faces are.
    pub http: String,
    /// What it shares its power and its switch with; empty if that was not said.
    pub rack: String,
    /// The number of its disk's admission; 0 if it is one of those who formed the cluster.
    pub admission: u64,
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    /// Its Raft group.
    pub group: GroupId,
    /// The nodes that are to hold it; the preferred leader first.
    pub replicas: Vec<NodeId>,
    /// The disks that may be members of its group, by node: at first those that it begins with, then as its leaders said
    /// last. A disk is among them before it becomes a member, and until it has ceased to be one for good.
    pub disks: BTreeMap<NodeId, Identity>,
    /// How often its leaders said who the members are. 0: the group has its first members, and each may write the first
    /// entry of its log itself. Never again after that: members of old might find each other and begin anew.
    pub version: u64,
    /// The term of the leader that said it last; 0 if none did. An earlier one's word counts no more: it may be late, and
    /// lack who was let in since.
    pub term: Term,
    /// Whether its members change: so its leader says before the first step, and no more once the disks are those that
    /// are wanted and all of them vote. A disk that is named follows at first, or is no member yet.
    pub changing: bool,
}

/// What can be configured per topic; names and meaning are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// `max.message.bytes`: the largest batch that is taken, in bytes, inclusive.
    pub message_bytes_max: u32,
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `retention.ms` and `retention.bytes`.
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

impl Default for Retention {
    /// Seven days, however much that is: Kafka's.
    fn default() -> Self {
        Self { ms: Some(604_800_000), bytes: None }
    }
}

impl Metadata {
    /// The disks that are to be the members of a partition's group.
    pub fn wanted(&self, partition: &Partition) -> BTreeMap<NodeId, Identity> {
        let disk = |node: &NodeId| Some((*node, self.nodes.get(node)?.identity));
        partition.replicas.iter().filter_map(disk).collect()
    }

    /// Whether the members of a partition's group are not, or may not be, those that they are to be.
    pub fn is_moving(&self, partition: &Partition) -> bool {
        partition.changing || partition.disks != self.wanted(partition)
    }

    /// The disk of a node was removed from the cluster, or replaced in it.
    pub fn was_removed(&self, node: NodeId, identity: Identity) -> bool {
        self.removed.iter().any(|removed| *removed == (node, identity))
    }

    /// The topic of that name.
    pub fn topic_named(&self, name: &TopicName) -> Option<&Arc<Topic>> {
        self.names.get(name).and_then(|id| self.topics.get(id))
    }
}

impl Node {
    /// Whether this is what the node says of itself; the number of its admission is not for it to say.
    pub fn is_as_said(&self, said: &Self) -> bool {
        *self == Self { admission: self.admission, ..said.clone() }
    }
}

impl Partition {
    /// A partition of a new topic, whose group begins with these disks; the preferred leader first.
    pub fn new(group: GroupId, members: &[(NodeId, Identity)]) -> Self {
        let replicas = members.iter().map(|(node, _)| *node).collect();
        Self {
            group,
            replicas,
            disks: members.iter().copied().collect(),
            version: 0,
            term: Term(0),
            changing: false,
        }
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
