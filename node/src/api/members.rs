//! Members that come and go, and partitions that move.

use std::collections::{BTreeMap, BTreeSet};

use quorate_proto::ErrorCode;
use quorate_proto::ids::{Identity, LogIndex, NodeId, PartitionId, TopicName};
use quorate_proto::v1::change_members_request::Change;
use quorate_proto::v1::{
    ChangeMembersRequest, ChangeMembersResponse, PartitionMove, PartitionReplicas, WaitingNode,
};

use super::Api;
use super::status::{self, Status};
use crate::controller::{Candidate, MembersChange, Placing};
use crate::metadata::{Metadata, Partition};

/// Most partitions that one request moves.
const PLACINGS_MAX: usize = 10_000;

const JUST_STARTED: &str = "it has just started, and may not know all yet that was agreed on";

/// Begins a change.
pub(super) async fn change(api: &Api, request: ChangeMembersRequest) -> ChangeMembersResponse {
    match try_change(api, request).await {
        Ok((partitions, as_of)) => ChangeMembersResponse {
            error: ErrorCode::None.into(),
            message: String::new(),
            partitions: u32::try_from(partitions).unwrap_or(u32::MAX),
            as_of: as_of.0,
        },
        Err(status) => ChangeMembersResponse {
            error: status.code.into(),
            message: status.message,
            ..ChangeMembersResponse::default()
        },
    }
}

/// Partitions that move by it, and the last entry that is applied here.
async fn try_change(api: &Api, request: ChangeMembersRequest) -> Result<(usize, LogIndex), Status> {
    let parts = api.parts()?;
    // Else it might take for done what was asked for, and done, once before.
    if !parts.controller.is_up_to_date() {
        return Err(status::not_ready(JUST_STARTED));
    }
    let change = read(request.change)?;
    let time = api.admin_time(request.timeout_ms);
    let done = parts.controller.change_members(&change, &parts.waiting, time).await;
    let partitions = done.map_err(|error| status::controller(&error))?;
    Ok((partitions, parts.controller.applied()))
}

fn read(change: Option<Change>) -> Result<MembersChange, Status> {
    let change = change.ok_or_else(|| status::invalid("say which change is meant"))?;
    Ok(match change {
        Change::AddNode(id) => MembersChange::Add(node(id)?),
        Change::ReplaceNode(id) => MembersChange::Replace(node(id)?),
        Change::RemoveNode(id) => MembersChange::Remove(node(id)?),
        Change::Reassign(placings) => {
            if placings.partitions.is_empty() || placings.partitions.len() > PLACINGS_MAX {
                return Err(status::invalid("name 1 to 10000 partitions"));
            }
            MembersChange::Reassign(placings.partitions.into_iter().map(placing).collect::<Result<_, _>>()?)
        }
        Change::Balance(_) => MembersChange::Balance,
    })
}

fn node(id: u32) -> Result<NodeId, Status> {
    Some(NodeId(id)).filter(|id| id.is_valid()).ok_or_else(|| status::invalid("node ids are 1 to 2147483647"))
}

fn placing(wire: PartitionReplicas) -> Result<Placing, Status> {
    let topic: TopicName = wire.topic.parse().map_err(|_| status::invalid("that is no name of a topic"))?;
    let replicas = wire.replicas.into_iter().map(node).collect::<Result<Vec<_>, _>>()?;
    Ok(Placing { topic, partition: PartitionId(wire.partition), replicas })
}

/// The partitions whose members are not yet those that they are to be.
pub(super) fn moves(
    metadata: &Metadata,
    alive: &BTreeSet<NodeId>,
    leader_of: impl Fn(&Partition) -> Option<NodeId>,
) -> Vec<PartitionMove> {
    let mut moves = Vec::new();
    for topic in metadata.topics.values() {
        for (number, partition) in (0..).zip(&topic.partitions) {
            if metadata.is_moving(partition) {
                moves.push(PartitionMove {
                    topic: topic.name.to_string(),
                    partition: number,
                    from: partition.disks.keys().map(|node| node.0).collect(),
                    to: partition.replicas.iter().map(|node| node.0).collect(),
                    stuck: is_stuck(metadata, partition, alive, leader_of(partition)),
                });
            }
        }
    }
    moves
}

/// Whether too few of a partition's disks are there to decide anything. While its members change, some of them may be
/// about to come in only: then a leader that lives is the better sign.
fn is_stuck(
    metadata: &Metadata,
    partition: &Partition,
    alive: &BTreeSet<NodeId>,
    leader: Option<NodeId>,
) -> bool {
    let is_there = |(node, disk): &(&NodeId, &Identity)| {
        alive.contains(*node) && metadata.nodes.get(*node).is_some_and(|known| known.identity == **disk)
    };
    let is_led = partition.changing && leader.is_some_and(|leader| alive.contains(&leader));
    !is_led && partition.disks.iter().filter(is_there).count() * 2 <= partition.disks.len()
}

/// The nodes that wait to be admitted, and are not known with the disk that they have.
pub(super) fn waiting(metadata: &Metadata, waiting: &BTreeMap<NodeId, Candidate>) -> Vec<WaitingNode> {
    let is_admitted = |id: &NodeId, candidate: &Candidate| {
        metadata.nodes.get(id).is_some_and(|known| known.identity == candidate.node.identity)
    };
    let waits = waiting.iter().filter(|(id, candidate)| !is_admitted(id, candidate));
    let one = |(id, candidate): (&NodeId, &Candidate)| WaitingNode {
        id: id.0,
        identity: candidate.node.identity.to_wire(),
        peer: candidate.node.peer.clone(),
        replaces: metadata.nodes.contains_key(id),
    };
    waits.map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_proto::env::Moment;
    use quorate_proto::ids::{GroupId, TopicId};

    use super::*;
    use crate::metadata::{Node, Topic, TopicConfig};

    fn disk(byte: u8) -> Identity {
        Identity::from_random([byte; 16])
    }

    #[test]
    fn what_moves_and_what_cannot_is_told_apart() {
        let node = |id: u8| (NodeId(id.into()), Node { identity: disk(id), ..Node::default() });
        let partition = |members: &[u8], replicas: &[u32]| {
            let members: Vec<_> = members.iter().map(|id| (NodeId(u32::from(*id)), disk(*id))).collect();
            let replicas = replicas.iter().copied().map(NodeId).collect();
            Partition { replicas, ..Partition::new(GroupId(1), &members) }
        };
        let topic = Topic {
            id: TopicId::from_random([1; 16]),
            name: "t".parse().unwrap(),
            partitions: vec![
                partition(&[1, 2, 3], &[1, 2, 3]),
                partition(&[1, 2, 3], &[1, 2, 4]),
                partition(&[3], &[1]),
                Partition { changing: true, ..partition(&[1, 2, 4], &[1, 2, 4]) },
            ],
            config: TopicConfig::default(),
        };
        let metadata = Metadata {
            nodes: (1..=4).map(node).collect(),
            topics: [(topic.id, Arc::new(topic))].into(),
            ..Metadata::default()
        };
        let moves = moves(&metadata, &[1, 2, 4].map(NodeId).into(), |_| None);
        let seen: Vec<_> = moves.iter().map(|one| (one.partition, one.to.clone(), one.stuck)).collect();
        assert_eq!(seen, [(1, vec![1, 2, 4], false), (2, vec![1], true), (3, vec![1, 2, 4], false)]);
    }

    #[test]
    fn what_is_led_while_others_are_about_to_come_in_is_not_stuck() {
        let all: Vec<_> = (1..=6).map(|id: u8| (NodeId(id.into()), disk(id))).collect();
        let metadata = Metadata {
            nodes: all
                .iter()
                .map(|(id, identity)| (*id, Node { identity: *identity, ..Node::default() }))
                .collect(),
            ..Metadata::default()
        };
        let settled = Partition { replicas: vec![NodeId(4)], ..Partition::new(GroupId(1), &all) };
        let changing = Partition { changing: true, ..settled.clone() };
        let alive: BTreeSet<NodeId> = [1, 2, 3].map(NodeId).into();
        let stuck = |partition: &Partition, leader: Option<u32>| {
            is_stuck(&metadata, partition, &alive, leader.map(NodeId))
        };
        assert!(!stuck(&changing, Some(2)));
        assert!(stuck(&changing, None) && stuck(&changing, Some(5)));
        // Whoever led it last may not have seen yet that the others are gone.
        assert!(stuck(&settled, Some(2)));
    }

    #[test]
    fn who_was_admitted_waits_no_more() {
        let node = |byte| Node { identity: disk(byte), ..Node::default() };
        let candidate = |byte| Candidate { node: node(byte), heard: Moment::default() };
        let nodes = [(NodeId(1), node(1)), (NodeId(2), node(2))].into();
        let metadata = Metadata { nodes, ..Metadata::default() };
        let asked = [(NodeId(1), candidate(1)), (NodeId(2), candidate(22)), (NodeId(4), candidate(4))].into();
        let seen: Vec<_> = waiting(&metadata, &asked).iter().map(|one| (one.id, one.replaces)).collect();
        assert_eq!(seen, [(2, true), (4, false)]);
    }
}
