//! Nodes that come and go, and partitions that move between them.

use quorate_proto::ErrorCode;
use quorate_proto::call::{Call, Reply};
use quorate_proto::ids::{Identity, NodeId, PartitionId};
use quorate_proto::v1;
use quorate_proto::v1::change_members_request::Change;

use super::{Admin, Said};
use crate::error::AdminError;

/// A change of who belongs to the cluster, or of who holds what. Asking for one again does no harm: what is done is not
/// done twice, and what was begun goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembersChange {
    /// Admits a new node, which waits: it was started with `--join` on an empty data folder.
    Add(NodeId),
    /// Admits the empty disk with which a node waits, in the place of the one that it had, which is lost.
    Replace(NodeId),
    /// Moves all away that a node holds, and then removes it.
    Remove(NodeId),
    /// Moves partitions to given nodes.
    Reassign(Vec<Placing>),
    /// Moves as many partitions as it takes for all nodes to hold as many.
    Balance,
}

/// A partition, and the nodes that are to hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placing {
    /// Of which topic.
    pub topic: String,
    /// Which one.
    pub partition: PartitionId,
    /// The nodes, the preferred leader first.
    pub replicas: Vec<NodeId>,
}

/// A change that is agreed on, and goes on by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChangeBegun {
    /// Partitions that begin to move by it.
    pub partitions: u32,
    /// The entry of the metadata group's log by which it is agreed on: a [`ClusterStatus`](super::ClusterStatus) of
    /// before does not know of it.
    pub as_of: u64,
}

/// A partition whose members are not yet those that they are to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionMove {
    /// Of which topic.
    pub topic: String,
    /// Which one.
    pub partition: PartitionId,
    /// The nodes whose disks are, or may be, members now.
    pub from: Vec<NodeId>,
    /// The nodes that are to hold it, the preferred leader first.
    pub to: Vec<NodeId>,
    /// Fewer than a majority of its members are there, and nobody leads it to others: it cannot move.
    pub stuck: bool,
}

/// A node that asked to be admitted, and was not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingNode {
    /// Who it says it is.
    pub id: NodeId,
    /// Of its disk.
    pub identity: Option<Identity>,
    /// Where other nodes reach it.
    pub peer: String,
    /// Its id is that of a member, whose disk it does not have.
    pub replaces: bool,
}

impl PartitionMove {
    pub(super) fn from_wire(wire: v1::PartitionMove) -> Self {
        Self {
            topic: wire.topic,
            partition: PartitionId(wire.partition),
            from: wire.from.into_iter().map(NodeId).collect(),
            to: wire.to.into_iter().map(NodeId).collect(),
            stuck: wire.stuck,
        }
    }

    /// Whether this node has a part in it.
    pub fn concerns(&self, node: NodeId) -> bool {
        self.from.contains(&node) || self.to.contains(&node)
    }
}

impl WaitingNode {
    pub(super) fn from_wire(wire: v1::WaitingNode) -> Self {
        Self {
            id: NodeId(wire.id),
            identity: Identity::from_wire(&wire.identity),
            peer: wire.peer,
            replaces: wire.replaces,
        }
    }
}

fn to_wire(change: &MembersChange) -> Change {
    let placing = |placing: &Placing| v1::PartitionReplicas {
        topic: placing.topic.clone(),
        partition: placing.partition.0,
        replicas: placing.replicas.iter().map(|node| node.0).collect(),
    };
    match change {
        MembersChange::Add(node) => Change::AddNode(node.0),
        MembersChange::Replace(node) => Change::ReplaceNode(node.0),
        MembersChange::Remove(node) => Change::RemoveNode(node.0),
        MembersChange::Reassign(placings) => {
            Change::Reassign(v1::Reassignment { partitions: placings.iter().map(placing).collect() })
        }
        MembersChange::Balance => Change::Balance(v1::Balance {}),
    }
}

impl Admin {
    /// Begins a change, or finds it begun; [`Admin::cluster_status`] tells how far it is.
    ///
    /// # Errors
    /// `Refused` with what to do instead. After any other one it may have been begun all the same: ask again.
    pub async fn change_members(&self, change: &MembersChange) -> Result<ChangeBegun, AdminError> {
        let request = v1::ChangeMembersRequest { change: Some(to_wire(change)), timeout_ms: 0 };
        self.anywhere(Call::ChangeMembers(request), true, |reply| {
            let Reply::ChangeMembers(reply) = reply else { return Said::Nonsense };
            let code = reply.error();
            if code == ErrorCode::None {
                Said::Done(ChangeBegun { partitions: reply.partitions, as_of: reply.as_of })
            } else {
                Said::Refused { code, message: reply.message }
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, Fault, soon};

    #[tokio::test(start_paused = true)]
    async fn a_change_is_begun_or_refused() {
        let cluster = Cluster::with_topic("t", 1);
        let admin = cluster.client(1).admin();
        let begun = soon(admin.change_members(&MembersChange::Add(NodeId(4)))).await;
        assert_eq!(begun, Ok(ChangeBegun { partitions: 0, as_of: 7 }));
        let placing = Placing { topic: "t".to_owned(), partition: PartitionId(0), replicas: vec![NodeId(9)] };
        let refused = soon(admin.change_members(&MembersChange::Reassign(vec![placing]))).await;
        assert!(matches!(refused, Err(AdminError::Refused { .. })), "{refused:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_takes_long_is_waited_for() {
        let cluster = Cluster::default();
        // Longer than a word of a server usually takes.
        cluster.state().admin_faults.extend(vec![Fault::Slow(5_000); 3]);
        let begun = soon(cluster.client(1).admin().change_members(&MembersChange::Add(NodeId(4)))).await;
        assert_eq!(begun, Ok(ChangeBegun { partitions: 0, as_of: 7 }));
        assert!(cluster.state().admin_faults.is_empty(), "each was asked once");
    }
}
