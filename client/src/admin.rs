//! stub
use std::collections::BTreeMap;

use quorate_proto::ids::{
    ClusterId, Identity, LeaderEpoch, NodeId, Offset, PartitionId, Timestamp, TopicId, TopicName,
};

use crate::error::AdminError;

/// A topic to create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// `None`: the cluster's default.
    pub partitions: Option<u32>,
    /// `None`: the cluster's default.
    pub replicas: Option<u32>,
    /// Such as `max.message.bytes`.
    pub configs: BTreeMap<String, String>,
}

impl NewTopic {
    /// With the cluster's defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// With this many partitions.
    #[must_use]
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// With this many replicas of each.
    #[must_use]
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = Some(replicas);
        self
    }

    /// With one more setting.
    #[must_use]
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.insert(key.into(), value.into());
        self
    }
}

/// A topic that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// It never changes and is never given to another.
    pub id: TopicId,
    /// What the user should know although the topic was created.
    pub warnings: Vec<String>,
}

/// A topic as metadata has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicListing {
    /// Its name.
    pub name: TopicName,
    /// It never changes and is never given to another.
    pub id: TopicId,
    /// By number, from 0.
    pub partitions: Vec<PartitionListing>,
    /// Settings that differ from the defaults.
    pub configs: BTreeMap<String, String>,
}

/// A partition as metadata has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionListing {
    /// Its number.
    pub partition: PartitionId,
    /// `None` while there is none.
    pub leader: Option<NodeId>,
    /// `None` while none is known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The preferred leader first.
    pub replicas: Vec<NodeId>,
}

/// A topic with what its leaders say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: TopicName,
    /// It never changes and is never given to another.
    pub id: TopicId,
    /// By number, from 0.
    pub partitions: Vec<PartitionDescription>,
    /// Settings that differ from the defaults.
    pub configs: BTreeMap<String, String>,
}

/// A partition with what its leader says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Its number.
    pub partition: PartitionId,
    /// `None` while there is none.
    pub leader: Option<NodeId>,
    /// `None` while none is known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The preferred leader first.
    pub replicas: Vec<NodeId>,
    /// First offset that can still be read; `None` if no leader answered.
    pub log_start_offset: Option<Offset>,
    /// Exclusive end of what may be read; `None` if no leader answered.
    pub high_watermark: Option<Offset>,
}

/// The cluster as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Drawn when it was formed.
    pub cluster_id: ClusterId,
    /// By id.
    pub nodes: Vec<NodeStatus>,
    /// Partitions with a replica on a node that is not alive.
    pub under_replicated: u32,
    /// Partitions without a leader.
    pub leaderless: u32,
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Chosen by the operator.
    pub id: NodeId,
    /// Of its disk; `None` if it was never heard.
    pub identity: Option<Identity>,
    /// Where clients reach it.
    pub grpc: String,
    /// Its health and metrics.
    pub http: String,
    /// Accepted by the metadata leader and heard within an election time-out.
    pub alive: bool,
    /// Partitions that it leads.
    pub leads: u32,
    /// Partitions of which it has a replica.
    pub replicas: u32,
}

/// Which offset is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetAt {
    /// First offset that can still be read.
    Earliest,
    /// The high watermark.
    Latest,
    /// First record whose timestamp is at or after this one.
    Timestamp(Timestamp),
}

/// An offset that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetFound {
    /// The position.
    pub offset: Offset,
    /// The record's, if one was looked for.
    pub timestamp: Option<Timestamp>,
}

/// Creates, lists, describes and deletes topics.
#[derive(Clone, Debug)]
pub struct Admin {}

impl Admin {
    /// Creates a topic; on return it is known to a majority.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn create_topic(&self, topic: NewTopic) -> Result<CreatedTopic, AdminError> {
        let _ = topic;
        unimplemented!()
    }

    /// Deletes a topic and its records.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn delete_topic(&self, name: &str) -> Result<(), AdminError> {
        let _ = name;
        unimplemented!()
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn list_topics(&self) -> Result<Vec<TopicListing>, AdminError> {
        unimplemented!()
    }

    /// One topic, with what the leaders of its partitions say.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, AdminError> {
        let _ = name;
        unimplemented!()
    }

    /// The cluster, as the first node that answers sees it.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn cluster_status(&self) -> Result<ClusterStatus, AdminError> {
        unimplemented!()
    }

    /// An offset of a partition; `None` when no record is that late.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn list_offset(
        &self,
        topic: &str,
        partition: PartitionId,
        at: OffsetAt,
    ) -> Result<Option<OffsetFound>, AdminError> {
        let _ = (topic, partition, at);
        unimplemented!()
    }
}
