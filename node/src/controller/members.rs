//! What commands on members do to the metadata: who belongs to the cluster, and which disks hold which partitions. Pure.
//!
//! Commands say what is wanted. Each partition's leader makes its group equal to that and reports the disks of its
//! members: those whom it is about to let in before it does, those whom it has let go after it did; and that they
//! change, until all of them vote.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_proto::ErrorCode;
use quorate_proto::ids::{Identity, NodeId, PartitionId, Term, TopicId};

use super::apply::refused;
use super::command::Answer;
use super::placement::{available, give, heir, loads};
use crate::metadata::{Metadata, Node, Partition, Topic};

/// How many disks that were removed or replaced are remembered: a command of theirs may be on its way.
const REMOVED_REMEMBERED: usize = 1_024;

/// Takes in a disk. Asking again changes nothing.
pub(super) fn admit(metadata: &mut Metadata, id: NodeId, node: Node, replaces: bool) -> Answer {
    let invalid = |message: String| refused(ErrorCode::InvalidRequest, message);
    if metadata.nodes.get(&id).is_some_and(|known| known.identity == node.identity) {
        return Answer::Done;
    }
    if metadata.removed.iter().any(|(_, identity)| *identity == node.identity) {
        return invalid(format!(
            "disk {} was removed from this cluster: node {id} comes back on an empty data folder",
            node.identity
        ));
    }
    if let Some((owner, _)) = metadata.nodes.iter().find(|(_, known)| known.identity == node.identity) {
        return invalid(format!("disk {} is that of node {owner}: each node needs its own", node.identity));
    }
    match (metadata.nodes.get(&id).map(|known| known.identity), replaces) {
        (Some(_), false) => {
            return invalid(format!(
                "node {id} is a member already; an empty disk in its place is admitted by `cluster replace-node {id}`"
            ));
        }
        (None, true) => {
            return invalid(format!(
                "node {id} is no member; a new one is admitted by `cluster add-node {id}`"
            ));
        }
        (Some(_), true) if metadata.draining.contains(&id) => {
            return invalid(format!(
                "node {id} is being removed: let that end, then admit it by `cluster add-node {id}`"
            ));
        }
        (Some(former), true) => forget(metadata, id, former),
        (None, false) => {}
    }
    metadata.admissions += 1;
    let admission = metadata.admissions;
    metadata.nodes.insert(id, Node { admission, ..node });
    Answer::Done
}

fn forget(metadata: &mut Metadata, id: NodeId, identity: Identity) {
    let removed = Arc::make_mut(&mut metadata.removed);
    if removed.len() == REMOVED_REMEMBERED {
        removed.pop_front();
    }
    removed.push_back((id, identity));
}

/// Gives every replica of a node to one of `heirs`, and the node no new ones. Asking again gives what is left to the
/// heirs of now.
pub(super) fn drain(metadata: &mut Metadata, id: NodeId, identity: Identity, heirs: &[NodeId]) -> Answer {
    if metadata.was_removed(id, identity) && !metadata.nodes.contains_key(&id) {
        return Answer::Done;
    }
    if let Some(refusal) = other_disk(metadata, id, identity) {
        return refusal;
    }
    if available(metadata).all(|node| node == id) {
        return refused(
            ErrorCode::InvalidRequest,
            format!("node {id} is the last one that stays: a cluster needs at least one node"),
        );
    }
    let before = metadata.clone();
    metadata.draining.insert(id);
    let heirs: Vec<NodeId> = available(metadata).filter(|node| heirs.contains(node)).collect();
    let holds = |partition: &Partition| partition.replicas.contains(&id);
    let mut loads = loads(metadata);
    let topics: Vec<TopicId> = metadata.topics.keys().copied().collect();
    for topic in topics {
        let partitions = metadata.topics[&topic].partitions.len();
        for at in 0..partitions {
            let partition = &metadata.topics[&topic].partitions[at];
            if !holds(partition) {
                continue;
            }
            let others: Vec<NodeId> =
                partition.replicas.iter().copied().filter(|replica| *replica != id).collect();
            let Some(heir) = heir(metadata, &loads, &others, &heirs) else {
                *metadata = before;
                return refused(ErrorCode::InvalidReplicas, without_heir(metadata, id, &heirs));
            };
            let Some(topic) = metadata.topics.get_mut(&topic) else { continue };
            for (place, replica) in Arc::make_mut(topic).partitions[at].replicas.iter_mut().enumerate() {
                if *replica == id {
                    *replica = heir;
                    give(&mut loads, id, heir, place == 0);
                }
            }
        }
    }
    Answer::Done
}

/// What is said if no heir is left for some partitions of a node: each of `heirs` holds them already.
fn without_heir(metadata: &Metadata, id: NodeId, heirs: &[NodeId]) -> String {
    let stuck =
        |replicas: &[NodeId]| replicas.contains(&id) && heirs.iter().all(|heir| replicas.contains(heir));
    let (mut count, mut first) = (0_usize, None);
    for topic in metadata.topics.values() {
        for (at, partition) in topic.partitions.iter().enumerate().filter(|(_, one)| stuck(&one.replicas)) {
            count += 1;
            first = first.or_else(|| Some((format!("{}:{at}", topic.name), &partition.replicas)));
        }
    }
    let Some((name, replicas)) = first else { return format!("node {id} has nothing to give") };
    let (partitions, one, them) = match count {
        1 => ("1 partition".to_owned(), "", "it"),
        many => (format!("{many} partitions"), ", for one,", "each of them"),
    };
    let others: Vec<String> = replicas.iter().filter(|node| **node != id).map(NodeId::to_string).collect();
    let fewer = if others.is_empty() {
        String::new()
    } else {
        format!(
            ", or move {them} to fewer nodes, as in: quorate cluster reassign {name}={}",
            others.join(",")
        )
    };
    format!(
        "{partitions} cannot do without node {id}: {name}{one} has {} replicas, and without node {id} there are not as \
         many nodes that are alive and have room to hold them: add a node first (`cluster add-node`){fewer}",
        replicas.len()
    )
}

/// Why a command for this disk of a node is not for the disk that the node has.
fn other_disk(metadata: &Metadata, id: NodeId, identity: Identity) -> Option<Answer> {
    match metadata.nodes.get(&id) {
        None => Some(refused(ErrorCode::InvalidRequest, format!("node {id} is no member of this cluster"))),
        Some(node) if node.identity != identity => Some(refused(
            ErrorCode::InvalidRequest,
            format!("node {id} has another disk by now: ask again if that is meant"),
        )),
        Some(_) => None,
    }
}

/// Ends the membership of a node that holds nothing any more. Asking again changes nothing; a node that has come under
/// its id since is another one.
pub(super) fn remove(metadata: &mut Metadata, id: NodeId, identity: Identity) -> Answer {
    if metadata.was_removed(id, identity) {
        return Answer::Done;
    }
    if let Some(refusal) = other_disk(metadata, id, identity) {
        return refusal;
    }
    if !metadata.draining.contains(&id) || holds_any(metadata, id, identity) {
        return refused(
            ErrorCode::InvalidRequest,
            format!("node {id} still holds partitions: it is drained first"),
        );
    }
    metadata.draining.remove(&id);
    metadata.nodes.remove(&id);
    forget(metadata, id, identity);
    Answer::Done
}

/// Whether a disk holds a partition, or is to hold one.
pub(super) fn holds_any(metadata: &Metadata, id: NodeId, identity: Identity) -> bool {
    let holds = |partition: &Partition| {
        partition.replicas.contains(&id) || partition.disks.get(&id) == Some(&identity)
    };
    metadata.topics.values().flat_map(|topic| &topic.partitions).any(holds)
}

/// Says which nodes are to hold a partition. The last word counts, also while the partition moves by an earlier one.
pub(super) fn assign(
    metadata: &mut Metadata,
    topic: TopicId,
    partition: PartitionId,
    replicas: Vec<NodeId>,
) -> Answer {
    let invalid = |message: String| refused(ErrorCode::InvalidReplicas, message);
    if replicas.is_empty() {
        return invalid("a partition needs at least one replica".to_owned());
    }
    for (at, node) in replicas.iter().enumerate() {
        if replicas[..at].contains(node) {
            return invalid(format!("node {node} is named twice: each replica is on a node of its own"));
        }
        if !metadata.nodes.contains_key(node) {
            return invalid(format!("node {node} is no member of this cluster"));
        }
        if metadata.draining.contains(node) {
            return invalid(format!("node {node} is being removed, and takes no replicas"));
        }
    }
    let Some(place) = partition_mut(metadata, topic, partition) else {
        return refused(ErrorCode::UnknownPartition, format!("topic {topic} has no partition {partition}"));
    };
    place.replicas = replicas;
    Answer::Done
}

/// Notes the disks that are, or may become, members of a partition's group, unless its leader knew an older state, or one
/// of a later term has said it since: that one may have let somebody in whom this one does not know.
pub(super) fn report(
    metadata: &mut Metadata,
    topic: TopicId,
    partition: PartitionId,
    (version, term): (u64, Term),
    disks: BTreeMap<NodeId, Identity>,
    changing: bool,
) -> Answer {
    let Some(place) = partition_mut(metadata, topic, partition) else {
        return refused(ErrorCode::UnknownPartition, format!("topic {topic} has no partition {partition}"));
    };
    if place.version != version || disks.is_empty() {
        return refused(
            ErrorCode::InvalidRequest,
            format!("version {version} of the members is not the last one"),
        );
    }
    if term < place.term {
        return refused(
            ErrorCode::InvalidRequest,
            format!(
                "the leader of term {} has said the members, that of term {term} leads no more",
                place.term
            ),
        );
    }
    place.version += 1;
    place.term = term;
    place.disks = disks;
    place.changing = changing;
    Answer::Done
}

fn partition_mut(metadata: &mut Metadata, topic: TopicId, partition: PartitionId) -> Option<&mut Partition> {
    let topic: &mut Topic = Arc::make_mut(metadata.topics.get_mut(&topic)?);
    topic.partitions.get_mut(usize::try_from(partition.0).ok()?)
}

#[cfg(test)]
mod tests;
