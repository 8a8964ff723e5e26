//! What an operator may ask about members, judged by what is agreed on and by who is alive. Pure, but for
//! [`Controller::change_members`] at the end, which proposes what comes of it.
//!
//! What is refused here for want of life (a majority that would be missing, heirs that are dead) is this node's view of
//! the moment; what must hold whatever is seen is judged again when the command is applied.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::try_join_all;
use quorate_proto::ErrorCode;
use quorate_proto::ids::{GroupId, NodeId, PartitionId, TopicId, TopicName};

use super::command::{Command, Refusal};
use super::handle::Controller;
use super::members::holds_any;
use super::placement::{available, held, neighbours};
use super::types::ControllerError;
use super::waiting::{Candidate, WaitingRoom};
use crate::env::Mark;
use crate::metadata::{Metadata, Node, Partition};

/// Commands of one change that are proposed side by side: they share a commit, and a change of thousands of partitions
/// does not take as many commits.
const SIDE_BY_SIDE: usize = 64;

/// A partition and the nodes that are to hold it, the preferred leader first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placing {
    /// Of which topic.
    pub topic: TopicName,
    /// Which one.
    pub partition: PartitionId,
    /// The nodes.
    pub replicas: Vec<NodeId>,
}

/// A change of members that somebody asks for. Every one may be asked for again: what is done is not done twice, and
/// what was begun goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembersChange {
    /// To admit a new node, which waits.
    Add(NodeId),
    /// To admit the disk with which a node waits, in the place of the one that it had.
    Replace(NodeId),
    /// To move all away that a node holds, and then to remove it.
    Remove(NodeId),
    /// To move partitions to given nodes.
    Reassign(Vec<Placing>),
    /// To move as many partitions as it takes for all nodes to hold as many.
    Balance,
}

/// What a change is judged by.
pub(super) struct View<'a> {
    pub(super) metadata: &'a Metadata,
    /// Who votes in the metadata group.
    pub(super) voters: &'a BTreeSet<NodeId>,
    /// Who was heard lately, this node among them.
    pub(super) alive: &'a BTreeSet<NodeId>,
    /// Whose disks are nearly full: they are given nothing more.
    pub(super) full: &'a BTreeSet<NodeId>,
    pub(super) waiting: &'a BTreeMap<NodeId, Candidate>,
    /// The groups of partitions that a living node leads, as far as this one has heard.
    pub(super) led: &'a BTreeSet<GroupId>,
    /// The node that is to be replaced has answered just now, with the disk that the metadata name: that it was heard
    /// lately may be the last word of a disk that is lost.
    pub(super) answers: bool,
}

fn refuse<T>(code: ErrorCode, message: String) -> Result<T, Refusal> {
    Err(Refusal { code, message })
}

fn invalid<T>(message: String) -> Result<T, Refusal> {
    refuse(ErrorCode::InvalidRequest, message)
}

/// `1, 2 and 3`.
fn listed(nodes: impl IntoIterator<Item = NodeId>) -> String {
    let mut words: Vec<String> = nodes.into_iter().map(|node| node.to_string()).collect();
    match words.pop() {
        None => "none".to_owned(),
        Some(last) if words.is_empty() => last,
        Some(last) => format!("{} and {last}", words.join(", ")),
    }
}

/// A replica that goes from one node to another, so that both hold as many.
struct Move {
    topic: TopicId,
    at: usize,
    /// The partition's replicas after it.
    replicas: Vec<NodeId>,
    from: NodeId,
    to: NodeId,
}

impl View<'_> {
    fn member(&self, id: NodeId) -> Result<&Node, Refusal> {
        let nodes = &self.metadata.nodes;
        nodes.get(&id).ok_or_else(|| Refusal {
            code: ErrorCode::InvalidRequest,
            message: format!(
                "node {id} is no member of this cluster: it has {} {}",
                if nodes.len() == 1 { "node" } else { "nodes" },
                listed(nodes.keys().copied())
            ),
        })
    }

    /// Whether most of these are alive.
    fn has_majority(&self, nodes: &BTreeSet<NodeId>) -> bool {
        nodes.intersection(self.alive).count() * 2 > nodes.len()
    }

    fn partitions(&self) -> impl Iterator<Item = (String, &Partition)> {
        self.metadata.topics.values().flat_map(|topic| {
            let named = move |(at, partition)| (format!("{}:{at}", topic.name), partition);
            topic.partitions.iter().enumerate().map(named)
        })
    }

    /// The commands that a change comes to; none if there is nothing left to be done.
    pub(super) fn judge(&self, change: &MembersChange) -> Result<Vec<Command>, Refusal> {
        match change {
            MembersChange::Add(id) => self.add(*id),
            MembersChange::Replace(id) => self.replace(*id),
            MembersChange::Remove(id) => self.remove(*id),
            MembersChange::Reassign(placings) => {
                let mut named = BTreeSet::new();
                for Placing { topic, partition, .. } in placings {
                    if !named.insert((topic, partition)) {
                        return invalid(format!(
                            "{topic}:{partition} is named twice: say one list of nodes for it"
                        ));
                    }
                }
                placings.iter().filter_map(|placing| self.reassign(placing).transpose()).collect()
            }
            MembersChange::Balance => Ok(self.balance()),
        }
    }

    fn admit(&self, id: NodeId, replaces: bool) -> Result<Vec<Command>, Refusal> {
        // It may be down for a moment only.
        let first = match self.metadata.nodes.get(&id) {
            Some(node) if node.admission > 0 => "start it as it was, unless that disk is lost too; then ",
            Some(_) | None => "",
        };
        match self.waiting.get(&id) {
            Some(candidate) => Ok(vec![Command::AdmitNode { id, node: candidate.node.clone(), replaces }]),
            // It may have asked other nodes.
            None => refuse(
                ErrorCode::NotAvailable,
                format!(
                    "node {id} does not wait to be admitted, as far as the node that answers has heard: {first}start it with \
                     --id {id} on an empty data folder, {}, and see that it reaches the other nodes",
                    match replaces {
                        true => {
                            "with --join HOST:PORT of a member's listener for peers, or with its --bootstrap if that names \
                             other nodes (one that began alone would form a cluster of its own)"
                        }
                        false => "with --join HOST:PORT of a member's listener for peers",
                    }
                ),
            ),
        }
    }

    fn add(&self, id: NodeId) -> Result<Vec<Command>, Refusal> {
        let Some(node) = self.metadata.nodes.get(&id) else { return self.admit(id, false) };
        if self.metadata.draining.contains(&id) {
            return invalid(format!("node {id} is being removed: let that end, then add it again"));
        }
        let other = self.waiting.get(&id).is_some_and(|candidate| candidate.node.identity != node.identity);
        if other {
            return invalid(format!(
                "node {id} is a member already, and what waits under its id has another disk: `cluster replace-node \
                 {id}` admits that one in its place"
            ));
        }
        Ok(Vec::new())
    }

    fn replace(&self, id: NodeId) -> Result<Vec<Command>, Refusal> {
        let node = self.member(id)?;
        if self.metadata.draining.contains(&id) {
            return invalid(format!(
                "node {id} is being removed: let that end, then admit it with `cluster add-node {id}`"
            ));
        }
        let waits = self.waiting.get(&id).map(|candidate| candidate.node.identity != node.identity);
        let is_alive = self.alive.contains(&id);
        // Its disk was admitted, perhaps in the place of the one that is meant: so it was if it is there. What is known
        // here may be old, and that disk be lost as well.
        if node.admission > 0 && (waits == Some(false) || (waits.is_none() && is_alive)) {
            if self.answers {
                return Ok(Vec::new());
            }
            return refuse(
                ErrorCode::NotAvailable,
                format!(
                    "node {id} has a disk that was admitted, and does not answer: see that it runs, and ask again"
                ),
            );
        }
        if is_alive {
            // If another disk waits in its place, its last word is just not old enough yet.
            let code = if waits.is_some() { ErrorCode::NotAvailable } else { ErrorCode::InvalidRequest };
            let message = format!(
                "node {id} is alive, with the disk that it has: only a node whose disk is lost is replaced; stop it \
                 first if that is meant"
            );
            return refuse(code, message);
        }
        self.admit(id, true)
    }

    fn remove(&self, id: NodeId) -> Result<Vec<Command>, Refusal> {
        // Done, and asked for again.
        let was_removed = self.metadata.removed.iter().any(|(node, _)| *node == id);
        if was_removed && !self.metadata.nodes.contains_key(&id) {
            return Ok(Vec::new());
        }
        let node = self.member(id)?;
        let left: BTreeSet<NodeId> = available(self.metadata).filter(|node| *node != id).collect();
        if left.is_empty() {
            return invalid(format!(
                "node {id} is the last one that stays: a cluster needs at least one node"
            ));
        }
        let voters: BTreeSet<NodeId> = self.voters.iter().copied().filter(|voter| *voter != id).collect();
        if !voters.is_empty() && !self.has_majority(&voters) {
            return invalid(format!(
                "node {id} is needed for a majority of the metadata group: of nodes {}, who would be left to vote, {} \
                 alive; start the others again, or replace them, first",
                listed(voters.iter().copied()),
                match voters.intersection(self.alive).count() {
                    0 => "none is".to_owned(),
                    1 => "only 1 is".to_owned(),
                    some => format!("only {some} are"),
                }
            ));
        }
        for (name, partition) in self.partitions() {
            let members: BTreeSet<NodeId> = partition.disks.keys().copied().collect();
            let holds = partition.replicas.contains(&id) || members.contains(&id);
            // While they change, some of those that are named may be about to come in only.
            let is_led = partition.changing && self.led.contains(&partition.group);
            if holds && !is_led && !self.has_majority(&members) {
                return invalid(format!(
                    "{name} has no majority of its members, nodes {}, and cannot be moved away from node {id}: start \
                     those that are down again, or, if their disks are lost and these records with them, delete the \
                     topic, first",
                    listed(members)
                ));
            }
        }
        let heirs: Vec<NodeId> =
            left.intersection(self.alive).copied().filter(|node| !self.full.contains(node)).collect();
        if self.metadata.draining.contains(&id) && !holds_any(self.metadata, id, node.identity) {
            return Ok(Vec::new());
        }
        Ok(vec![Command::DrainNode { id, identity: node.identity, heirs }])
    }

    /// Nothing is to be done for a partition that was told so already. All that the metadata would refuse is refused here,
    /// before anything is proposed, with the partition's name.
    fn reassign(&self, placing: &Placing) -> Result<Option<Command>, Refusal> {
        let Placing { topic: name, partition, replicas } = placing;
        let Some(topic) = self.metadata.topic_named(name) else {
            return refuse(ErrorCode::UnknownTopic, format!("no topic is called {:?}", name.as_str()));
        };
        let Some(here) = topic.partition(*partition) else {
            let message =
                format!("topic {name} has {} partitions, from 0, and no {partition}", topic.partitions.len());
            return refuse(ErrorCode::UnknownPartition, message);
        };
        if here.replicas == *replicas {
            return Ok(None);
        }
        let unfit = |message: String| refuse(ErrorCode::InvalidReplicas, message);
        if replicas.is_empty() {
            return unfit(format!("{name}:{partition} needs at least one replica"));
        }
        let mut named = BTreeSet::new();
        for node in replicas {
            if !named.insert(*node) {
                return unfit(format!(
                    "node {node} is named twice for {name}:{partition}: each replica is on a node of its own"
                ));
            }
            self.member(*node)?;
            if self.metadata.draining.contains(node) {
                return unfit(format!("node {node} is being removed, and could not take {name}:{partition}"));
            }
            if !self.alive.contains(node) && !here.disks.contains_key(node) {
                return invalid(format!(
                    "node {node} is not alive, and could not take {name}:{partition}: start it first"
                ));
            }
            if self.full.contains(node) && !here.disks.contains_key(node) {
                return invalid(format!(
                    "the disk of node {node} is nearly full, and could not take {name}:{partition}: make room there first"
                ));
            }
        }
        let replicas = replicas.clone();
        Ok(Some(Command::AssignReplicas { topic: topic.id, partition: *partition, replicas }))
    }

    /// Takes replicas from whoever holds most to whoever holds fewest, until they differ by at most one or no move
    /// helps. Partitions that move already stay as they are, and racks are not made worse.
    fn balance(&self) -> Vec<Command> {
        let mut metadata = self.metadata.clone();
        let mut held: BTreeMap<NodeId, usize> =
            held(&metadata).into_iter().filter(|(node, _)| self.alive.contains(node)).collect();
        let mut moved: BTreeMap<(TopicId, usize), Vec<NodeId>> = BTreeMap::new();
        while let Some(Move { topic, at, replicas, from, to }) = self.next_move(&metadata, &held) {
            if let Some(topic) = metadata.topics.get_mut(&topic) {
                std::sync::Arc::make_mut(topic).partitions[at].replicas.clone_from(&replicas);
            }
            // Counting anew for each move would take as long as there are partitions.
            if let Some(held) = held.get_mut(&from) {
                *held -= 1;
            }
            if let Some(held) = held.get_mut(&to) {
                *held += 1;
            }
            moved.insert((topic, at), replicas);
        }
        let command = |((topic, at), replicas): ((TopicId, usize), Vec<NodeId>)| Command::AssignReplicas {
            topic,
            partition: PartitionId(i32::try_from(at).expect("a topic has at most 2^31 partitions")),
            replicas,
        };
        moved.into_iter().map(command).collect()
    }

    fn next_move(&self, metadata: &Metadata, held: &BTreeMap<NodeId, usize>) -> Option<Move> {
        let mut by_load: Vec<NodeId> = held.keys().copied().collect();
        by_load.sort_by_key(|node| (held[node], *node));
        for full in by_load.iter().rev() {
            for empty in &by_load {
                if held[full] < held[empty] + 2 {
                    break;
                }
                if self.full.contains(empty) {
                    continue;
                }
                for topic in metadata.topics.values() {
                    for (at, partition) in topic.partitions.iter().enumerate() {
                        let replicas = &partition.replicas;
                        let Some(place) = replicas.iter().position(|replica| replica == full) else {
                            continue;
                        };
                        if replicas.contains(empty) {
                            continue;
                        }
                        // Last of all, as it takes the longest.
                        if self.metadata.is_moving(&self.metadata.topics[&topic.id].partitions[at]) {
                            continue;
                        }
                        let others: Vec<NodeId> =
                            replicas.iter().copied().filter(|replica| replica != full).collect();
                        if neighbours(metadata, &others, *empty) > neighbours(metadata, &others, *full) {
                            continue;
                        }
                        let mut replicas = replicas.clone();
                        replicas[place] = *empty;
                        return Some(Move { topic: topic.id, at, replicas, from: *full, to: *empty });
                    }
                }
            }
        }
        None
    }
}

impl Controller {
    /// Begins a change of members, or goes on with it. Gives the number of partitions that were told to move by this.
    ///
    /// # Errors
    /// [`ControllerError::Refused`] with what to do instead. After an outcome that is not known it may be asked again.
    pub async fn change_members(
        &self,
        change: &MembersChange,
        waiting: &WaitingRoom,
        timeout: Duration,
    ) -> Result<usize, ControllerError> {
        let env = self.env();
        let deadline = env.now() + timeout;
        let (candidates, alive) = (waiting.all(env.now()), self.heard_lately());
        let (metadata, voters, full) = (self.current(), self.voters(), self.full_disks());
        let answers = self.answers(change, &metadata, &alive).await;
        let led = self.groups_led(&metadata, &alive);
        let view = View {
            metadata: &metadata,
            voters: &voters,
            alive: &alive,
            full: &full,
            waiting: &candidates,
            led: &led,
            answers,
        };
        let commands = view.judge(change).map_err(ControllerError::Refused)?;
        let moving = |metadata: &Metadata| {
            let partitions = metadata.topics.values().flat_map(|topic| &topic.partitions);
            partitions.filter(|partition| metadata.is_moving(partition)).count()
        };
        let before = moving(&metadata);
        tracing::info!(?change, commands = commands.len(), "change of members asked for");
        // None of them depends on another.
        for some in commands.chunks(SIDE_BY_SIDE) {
            let left = deadline.since(env.now());
            try_join_all(some.iter().map(|command| self.submit(command.clone(), left))).await?;
            if some.iter().any(|command| matches!(command, Command::AdmitNode { .. })) {
                env.reached(Mark::NodeAdmitted);
            }
        }
        Ok(moving(&self.current()).saturating_sub(before))
    }

    /// The groups of partitions that one of those who are `alive` leads.
    fn groups_led(&self, metadata: &Metadata, alive: &BTreeSet<NodeId>) -> BTreeSet<GroupId> {
        let is_led =
            |group: &GroupId| self.raft().leadership(*group).is_some_and(|by| alive.contains(&by.leader));
        let partitions = metadata.topics.values().flat_map(|topic| &topic.partitions);
        partitions.map(|partition| partition.group).filter(is_led).collect()
    }

    /// Whether the node that is to be replaced answers with the disk that the metadata name.
    async fn answers(&self, change: &MembersChange, metadata: &Metadata, alive: &BTreeSet<NodeId>) -> bool {
        let MembersChange::Replace(id) = change else { return false };
        match metadata.nodes.get(id) {
            Some(node) if node.admission > 0 && alive.contains(id) => self.is_there(*id, node.identity).await,
            Some(_) | None => false,
        }
    }
}

#[cfg(test)]
mod tests;
