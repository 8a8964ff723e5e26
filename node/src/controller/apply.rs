//! What each command does to the metadata. Pure: no clock, no randomness, no failure but the answer.

use std::sync::Arc;

use quorate_proto::ErrorCode;
use quorate_proto::ids::{ClusterId, GroupId, NodeId, ProducerId, TopicId, TopicName};

use super::command::{Answer, Command, Refusal};
use super::members;
use super::placement::{available, place};
use super::spec::{PARTITIONS_MAX, REPLICAS_DEFAULT_MAX};
use crate::metadata::{Metadata, Node, Partition, Topic, TopicConfig};

/// How many deleted topics are remembered: far more than are deleted while one creation is tried again.
const DELETED_REMEMBERED: usize = 1_024;

/// Applies a command.
pub(super) fn apply(metadata: &mut Metadata, command: Command) -> Answer {
    match command {
        Command::FormCluster { cluster_id } => {
            if metadata.cluster_id == ClusterId::default() {
                metadata.cluster_id = cluster_id;
            }
            Answer::Cluster(metadata.cluster_id)
        }
        Command::RegisterNode { id, node } => register(metadata, id, node),
        Command::CreateTopic { id, name, partitions, replicas, config } => {
            create(metadata, id, name, partitions, replicas, config)
        }
        Command::DeleteTopic { id } => delete(metadata, id),
        Command::TakeProducerIds { count } => {
            let first = metadata.next_producer_id;
            match first.checked_add(i64::from(count)) {
                Some(next) => {
                    metadata.next_producer_id = next;
                    Answer::ProducerIds(ProducerId(first))
                }
                None => refused(ErrorCode::Internal, "all producer ids have been handed out".to_owned()),
            }
        }
        Command::AdmitNode { id, node, replaces } => members::admit(metadata, id, node, replaces),
        Command::DrainNode { id, identity, heirs } => members::drain(metadata, id, identity, &heirs),
        Command::RemoveNode { id, identity } => members::remove(metadata, id, identity),
        Command::AssignReplicas { topic, partition, replicas } => {
            members::assign(metadata, topic, partition, replicas)
        }
        Command::ReportMembers { topic, partition, version, disks } => {
            members::report(metadata, topic, partition, version, disks)
        }
    }
}

pub(super) fn refused(code: ErrorCode, message: String) -> Answer {
    Answer::Refused(Refusal { code, message })
}

fn register(metadata: &mut Metadata, id: NodeId, node: Node) -> Answer {
    match metadata.nodes.get(&id) {
        Some(known) if known.identity != node.identity => refused(
            ErrorCode::WrongIdentity,
            format!("node {id} is known by identity {}, not {}", known.identity, node.identity),
        ),
        // It may have asked before it was removed.
        None if metadata.was_removed(id, node.identity) => refused(
            ErrorCode::WrongIdentity,
            format!("node {id} with disk {} was removed from this cluster", node.identity),
        ),
        known => {
            let admission = known.map_or(0, |known| known.admission);
            metadata.nodes.insert(id, Node { admission, ..node });
            Answer::Done
        }
    }
}

fn create(
    metadata: &mut Metadata,
    id: TopicId,
    name: TopicName,
    partitions: u32,
    replicas: Option<u32>,
    config: TopicConfig,
) -> Answer {
    if metadata.topics.get(&id).is_some_and(|topic| topic.name == name) {
        return Answer::Topic(id);
    }
    if metadata.names.contains_key(&name) {
        return refused(ErrorCode::TopicExists, format!("a topic called {:?} exists", name.as_str()));
    }
    if metadata.deleted.contains(&id) || metadata.topics.contains_key(&id) {
        let message = format!("topic {:?} was created and has been deleted since", name.as_str());
        return refused(ErrorCode::UnknownTopicId, message);
    }
    let nodes = available(metadata).count();
    let replicas = match replicas {
        Some(replicas) => usize::try_from(replicas).unwrap_or(usize::MAX),
        None => nodes.min(REPLICAS_DEFAULT_MAX),
    };
    if replicas == 0 || replicas > nodes {
        return refused(ErrorCode::InvalidReplicas, too_few_nodes(replicas, nodes));
    }
    if !(1..=PARTITIONS_MAX).contains(&partitions) {
        let message = format!("{partitions} partitions asked for, 1 to {PARTITIONS_MAX} are possible");
        return refused(ErrorCode::InvalidPartitions, message);
    }
    let placed = place(metadata, id, partitions, replicas);
    let first = metadata.next_group.max(GroupId::METADATA.0 + 1);
    metadata.next_group = first + u64::from(partitions);
    let disk = |node: &NodeId| (*node, metadata.nodes[node].identity);
    let members = placed.iter().map(|replicas| replicas.iter().map(disk).collect::<Vec<_>>());
    let partitions =
        (first..).zip(members).map(|(group, members)| Partition::new(GroupId(group), &members)).collect();
    metadata.names.insert(name.clone(), id);
    metadata.topics.insert(id, Arc::new(Topic { id, name, partitions, config }));
    Answer::Topic(id)
}

/// The sentence for more replicas than nodes.
fn too_few_nodes(replicas: usize, nodes: usize) -> String {
    let plural = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    };
    format!("{} asked for, {} in the cluster", plural(replicas, "replica"), plural(nodes, "node"))
}

fn delete(metadata: &mut Metadata, id: TopicId) -> Answer {
    let Some(topic) = metadata.topics.remove(&id) else {
        return if metadata.deleted.contains(&id) {
            Answer::Done
        } else {
            refused(ErrorCode::UnknownTopicId, format!("no topic has the id {id}"))
        };
    };
    metadata.names.remove(&topic.name);
    let deleted = Arc::make_mut(&mut metadata.deleted);
    if deleted.len() == DELETED_REMEMBERED {
        deleted.pop_front();
    }
    deleted.push_back(id);
    Answer::Done
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use expect_test::{Expect, expect};
    use quorate_proto::ids::Identity;

    use super::*;

    fn command(line: &str) -> Command {
        let words: Vec<&str> = line.split_whitespace().collect();
        let byte = |at: usize| words[at].parse::<u8>().unwrap();
        match words[0] {
            "form" => Command::FormCluster { cluster_id: ClusterId::from_random([byte(1); 16]) },
            "node" => Command::RegisterNode {
                id: NodeId(byte(1).into()),
                node: Node {
                    identity: Identity::from_random([byte(2); 16]),
                    grpc: format!("{}:7001", words[3]),
                    peer: format!("{}:7101", words[3]),
                    http: format!("{}:8081", words[3]),
                    ..Node::default()
                },
            },
            "create" => Command::CreateTopic {
                id: TopicId::from_random([byte(1); 16]),
                name: words[2].parse().unwrap(),
                partitions: words[3].parse().unwrap(),
                replicas: words.get(4).map(|count| count.parse().unwrap()),
                config: TopicConfig::default(),
            },
            "delete" => Command::DeleteTopic { id: TopicId::from_random([byte(1); 16]) },
            "ids" => Command::TakeProducerIds { count: words[1].parse().unwrap() },
            other => panic!("no command {other}"),
        }
    }

    /// Applies each line and shows answers and topics. Twice, on two copies: what comes out must be equal.
    fn check(script: &str, expected: Expect) {
        let (mut metadata, mut again) = (Metadata::default(), Metadata::default());
        let mut seen = String::new();
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let answer = apply(&mut metadata, command(line));
            let read_back = Command::decode(&command(line).encode()).unwrap();
            assert_eq!(apply(&mut again, read_back), answer);
            assert_eq!(metadata, again);
            match answer {
                Answer::Done => writeln!(seen, "{line} -> done").unwrap(),
                Answer::Cluster(id) => writeln!(seen, "{line} -> {:02x}", id.0.as_bytes()[0]).unwrap(),
                Answer::Topic(id) => {
                    writeln!(seen, "{line} -> topic {}", id.0.as_bytes()[0]).unwrap();
                }
                Answer::ProducerIds(first) => writeln!(seen, "{line} -> from {first}").unwrap(),
                Answer::Refused(refusal) => {
                    writeln!(seen, "{line} -> {:?}: {refusal}", refusal.code).unwrap()
                }
            }
        }
        for (name, id) in &metadata.names {
            let topic = &metadata.topics[id];
            for (number, partition) in topic.partitions.iter().enumerate() {
                let replicas: Vec<u32> = partition.replicas.iter().map(|node| node.0).collect();
                writeln!(seen, "{name}-{number}: group {} on {replicas:?}", partition.group).unwrap();
            }
        }
        expected.assert_eq(&seen);
    }

    #[test]
    fn a_cluster_is_named_once_and_identities_stay() {
        check(
            "form 1
             form 2
             node 1 11 a
             node 1 11 b
             node 1 12 a",
            expect![[r"
                form 1 -> 01
                form 2 -> 01
                node 1 11 a -> done
                node 1 11 b -> done
                node 1 12 a -> WrongIdentity: node 1 is known by identity 0b0b0b0b-0b0b-4b0b-8b0b-0b0b0b0b0b0b, not 0c0c0c0c-0c0c-4c0c-8c0c-0c0c0c0c0c0c
            "]],
        );
    }

    #[test]
    fn topics_come_and_go_and_never_come_back() {
        check(
            "create 1 a 1
             node 1 1 a
             create 1 a 1 3
             create 1 a 2
             create 1 a 2
             create 2 a 1
             create 3 c 0
             create 3 c 10001
             delete 1
             delete 1
             delete 9
             create 1 a 2
             create 4 a 1",
            expect![[r#"
                create 1 a 1 -> InvalidReplicas: 0 replicas asked for, 0 nodes in the cluster
                node 1 1 a -> done
                create 1 a 1 3 -> InvalidReplicas: 3 replicas asked for, 1 node in the cluster
                create 1 a 2 -> topic 1
                create 1 a 2 -> topic 1
                create 2 a 1 -> TopicExists: a topic called "a" exists
                create 3 c 0 -> InvalidPartitions: 0 partitions asked for, 1 to 10000 are possible
                create 3 c 10001 -> InvalidPartitions: 10001 partitions asked for, 1 to 10000 are possible
                delete 1 -> done
                delete 1 -> done
                delete 9 -> UnknownTopicId: no topic has the id 09090909-0909-4909-8909-090909090909
                create 1 a 2 -> UnknownTopicId: topic "a" was created and has been deleted since
                create 4 a 1 -> topic 4
                a-0: group 3 on [1]
            "#]],
        );
    }

    #[test]
    fn producer_ids_are_handed_out_in_blocks() {
        check(
            "ids 1000
             ids 5
             ids 1000",
            expect![[r"
                ids 1000 -> from 0
                ids 5 -> from 1000
                ids 1000 -> from 1005
            "]],
        );
    }
}
