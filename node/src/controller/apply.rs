//! What each command does to the metadata. Pure: no clock, no randomness, no failure but the answer.

use std::ops::Range;
use std::sync::Arc;

use quorate_proto::ErrorCode;
use quorate_proto::ids::{ChangeId, ClusterId, GroupId, NodeId, ProducerId, TopicId, TopicName};

use super::command::{Answer, Command, Refusal};
use super::members;
use super::placement::{available, place};
use super::settings::Setting;
use super::spec::{PARTITIONS_MAX, REPLICAS_DEFAULT_MAX};
use crate::metadata::{Metadata, Node, Partition, Topic, TopicConfig};

/// How many deleted topics are remembered: far more than are deleted while one creation is tried again.
const DELETED_REMEMBERED: usize = 1_024;

/// How many changes of topics are remembered: far more than are made while one of them is tried again.
const CHANGES_REMEMBERED: usize = 1_024;

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
        Command::ReportMembers { topic, partition, version, term, disks, changing } => {
            members::report(metadata, topic, partition, (version, term), disks, changing)
        }
        Command::ConfigureTopic { change, id, settings } => configure(metadata, change, id, &settings),
        Command::AddPartitions { change, id, partitions } => add_partitions(metadata, change, id, partitions),
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
    let partitions = new_partitions(metadata, id, 0..partitions, replicas);
    metadata.names.insert(name.clone(), id);
    metadata.topics.insert(id, Arc::new(Topic { id, name, partitions, config }));
    Answer::Topic(id)
}

/// Places partitions of these numbers, and gives each the next group that was never handed out.
fn new_partitions(
    metadata: &mut Metadata,
    id: TopicId,
    numbers: Range<u32>,
    replicas: usize,
) -> Vec<Partition> {
    let placed = place(metadata, id, numbers.clone(), replicas);
    let first = metadata.next_group.max(GroupId::METADATA.0 + 1);
    metadata.next_group = first + u64::from(numbers.end - numbers.start);
    let disk = |node: &NodeId| (*node, metadata.nodes[node].identity);
    let members = placed.iter().map(|replicas| replicas.iter().map(disk).collect::<Vec<_>>());
    (first..).zip(members).map(|(group, members)| Partition::new(GroupId(group), &members)).collect()
}

fn configure(metadata: &mut Metadata, change: ChangeId, id: TopicId, settings: &[Setting]) -> Answer {
    if metadata.changes.contains(&change) {
        return Answer::Done;
    }
    let Some(topic) = metadata.topics.get_mut(&id) else { return no_such_topic(id) };
    let config = &mut Arc::make_mut(topic).config;
    settings.iter().for_each(|setting| setting.apply(config));
    remember(metadata, change);
    Answer::Done
}

/// Kafka's meaning of the number: the new total.
fn add_partitions(metadata: &mut Metadata, change: ChangeId, id: TopicId, total: u32) -> Answer {
    if metadata.changes.contains(&change) {
        return Answer::Done;
    }
    let Some(topic) = metadata.topics.get(&id) else { return no_such_topic(id) };
    let there = u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
    if total > PARTITIONS_MAX {
        let message = format!("{total} partitions asked for, at most {PARTITIONS_MAX} are possible");
        return refused(ErrorCode::InvalidPartitions, message);
    }
    if total <= there {
        let message = format!(
            "topic {:?} has {} already, and {total} asked for: the number is the new total, and none is ever taken away",
            topic.name.as_str(),
            plural(topic.partitions.len(), "partition")
        );
        return refused(ErrorCode::InvalidPartitions, message);
    }
    let replicas = topic.partitions.iter().map(|partition| partition.replicas.len()).max().unwrap_or(1);
    let nodes = available(metadata).count();
    if replicas > nodes {
        let message = format!(
            "the partitions of topic {:?} have {}, and {} in the cluster can be given any",
            topic.name.as_str(),
            plural(replicas, "replica"),
            plural(nodes, "node")
        );
        return refused(ErrorCode::InvalidReplicas, message);
    }
    let added = new_partitions(metadata, id, there..total, replicas);
    if let Some(topic) = metadata.topics.get_mut(&id) {
        Arc::make_mut(topic).partitions.extend(added);
    }
    remember(metadata, change);
    Answer::Done
}

fn no_such_topic(id: TopicId) -> Answer {
    refused(ErrorCode::UnknownTopicId, format!("no topic has the id {id}"))
}

fn remember(metadata: &mut Metadata, change: ChangeId) {
    let changes = Arc::make_mut(&mut metadata.changes);
    if changes.len() == CHANGES_REMEMBERED {
        changes.pop_front();
    }
    changes.push_back(change);
}

/// The sentence for more replicas than nodes.
fn too_few_nodes(replicas: usize, nodes: usize) -> String {
    format!("{} asked for, {} in the cluster", plural(replicas, "replica"), plural(nodes, "node"))
}

fn plural(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

fn delete(metadata: &mut Metadata, id: TopicId) -> Answer {
    let Some(topic) = metadata.topics.remove(&id) else {
        return if metadata.deleted.contains(&id) { Answer::Done } else { no_such_topic(id) };
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

    use super::super::settings::{describe, settings};
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
            "set" => Command::ConfigureTopic {
                change: ChangeId::from_random([byte(1); 16]),
                id: TopicId::from_random([byte(2); 16]),
                settings: settings(words[3..].iter().map(|word| match word.split_once('=') {
                    Some((key, value)) => (key, Some(value)),
                    None => (*word, None),
                }))
                .unwrap(),
            },
            "add" => Command::AddPartitions {
                change: ChangeId::from_random([byte(1); 16]),
                id: TopicId::from_random([byte(2); 16]),
                partitions: words[3].parse().unwrap(),
            },
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
            if topic.config != TopicConfig::default() {
                let values: Vec<_> = describe(topic.config).into_iter().map(|(_, value)| value).collect();
                writeln!(seen, "{name}: {}", values.join(" ")).unwrap();
            }
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
    fn settings_change_and_a_change_that_is_tried_again_undoes_nothing() {
        check(
            "node 1 1 a
             create 1 a 1
             set 1 1 retention.ms=5 max.message.bytes=99
             set 2 1 retention.ms=6
             set 1 1 retention.ms=5 max.message.bytes=99
             set 3 9 retention.ms=7
             create 2 b 1
             set 4 2 retention.ms=7 retention.bytes=8
             set 5 2 retention.ms",
            expect![[r"
                node 1 1 a -> done
                create 1 a 1 -> topic 1
                set 1 1 retention.ms=5 max.message.bytes=99 -> done
                set 2 1 retention.ms=6 -> done
                set 1 1 retention.ms=5 max.message.bytes=99 -> done
                set 3 9 retention.ms=7 -> UnknownTopicId: no topic has the id 09090909-0909-4909-8909-090909090909
                create 2 b 1 -> topic 2
                set 4 2 retention.ms=7 retention.bytes=8 -> done
                set 5 2 retention.ms -> done
                a: 99 CreateTime -1 6
                a-0: group 1 on [1]
                b: 1048588 CreateTime 8 604800000
                b-0: group 2 on [1]
            "]],
        );
    }

    #[test]
    fn partitions_are_added_up_to_a_new_total_and_once() {
        check(
            "node 1 1 a
             create 1 a 1
             create 2 b 1
             add 1 1 3
             add 1 1 3
             add 2 1 3
             add 3 1 2
             add 4 1 0
             add 5 1 10001
             add 6 9 2
             create 3 c 1
             set 1 1 retention.ms=5
             add 7 1 4
             delete 1
             add 7 1 4
             add 8 1 5",
            expect![[r#"
                node 1 1 a -> done
                create 1 a 1 -> topic 1
                create 2 b 1 -> topic 2
                add 1 1 3 -> done
                add 1 1 3 -> done
                add 2 1 3 -> InvalidPartitions: topic "a" has 3 partitions already, and 3 asked for: the number is the new total, and none is ever taken away
                add 3 1 2 -> InvalidPartitions: topic "a" has 3 partitions already, and 2 asked for: the number is the new total, and none is ever taken away
                add 4 1 0 -> InvalidPartitions: topic "a" has 3 partitions already, and 0 asked for: the number is the new total, and none is ever taken away
                add 5 1 10001 -> InvalidPartitions: 10001 partitions asked for, at most 10000 are possible
                add 6 9 2 -> UnknownTopicId: no topic has the id 09090909-0909-4909-8909-090909090909
                create 3 c 1 -> topic 3
                set 1 1 retention.ms=5 -> done
                add 7 1 4 -> done
                delete 1 -> done
                add 7 1 4 -> done
                add 8 1 5 -> UnknownTopicId: no topic has the id 01010101-0101-4101-8101-010101010101
                b-0: group 2 on [1]
                c-0: group 5 on [1]
            "#]],
        );
    }

    #[test]
    fn added_partitions_have_as_many_replicas_and_are_spread_with_the_rest() {
        let mut metadata = Metadata::default();
        for node in 1..=4 {
            apply(&mut metadata, command(&format!("node {node} {node} a")));
        }
        let (id, change) = (TopicId::from_random([1; 16]), ChangeId::from_random([1; 16]));
        assert_eq!(apply(&mut metadata, command("create 1 a 3 3")), Answer::Topic(id));
        let before = metadata.topics[&id].partitions.clone();
        assert_eq!(apply(&mut metadata, Command::AddPartitions { change, id, partitions: 8 }), Answer::Done);
        let partitions = &metadata.topics[&id].partitions;
        assert_eq!(partitions[..3], before, "those that are there stay where they are");
        let groups: Vec<u64> = partitions.iter().map(|partition| partition.group.0).collect();
        assert_eq!(groups, (1..=8).collect::<Vec<_>>());
        assert!(partitions.iter().all(|partition| partition.replicas.len() == 3));
        for node in (1..=4).map(NodeId) {
            let holds = partitions.iter().filter(|partition| partition.replicas.contains(&node)).count();
            let leads = partitions.iter().filter(|partition| partition.replicas[0] == node).count();
            assert!(holds == 6 && (1..=3).contains(&leads), "node {node} holds {holds} and leads {leads}");
        }
    }

    #[test]
    fn partitions_that_no_nodes_are_left_for_are_refused_without_a_word_on_what_was_asked() {
        let mut metadata = Metadata::default();
        for node in 1..=3 {
            apply(&mut metadata, command(&format!("node {node} {node} a")));
        }
        apply(&mut metadata, command("create 1 a 1 3"));
        metadata.draining.insert(NodeId(3));
        let (id, change) = (TopicId::from_random([1; 16]), ChangeId::from_random([1; 16]));
        let answer = apply(&mut metadata, Command::AddPartitions { change, id, partitions: 2 });
        let Answer::Refused(refusal) = answer else { panic!("{answer:?}") };
        assert_eq!(
            refusal.message,
            "the partitions of topic \"a\" have 3 replicas, and 2 nodes in the cluster can be given any"
        );
    }

    #[test]
    fn changes_are_remembered_within_a_bound() {
        let mut metadata = Metadata::default();
        apply(&mut metadata, command("node 1 1 a"));
        apply(&mut metadata, command("create 1 a 1"));
        let id = TopicId::from_random([1; 16]);
        for number in 0..CHANGES_REMEMBERED + 10 {
            let mut bytes = [1; 16];
            bytes[..8].copy_from_slice(&number.to_le_bytes());
            let change = ChangeId::from_random(bytes);
            let settings = vec![Setting::RetentionMs(Some(number as u64))];
            apply(&mut metadata, Command::ConfigureTopic { change, id, settings });
        }
        assert_eq!(metadata.changes.len(), CHANGES_REMEMBERED);
        assert_eq!(metadata.topics[&id].config.retention.ms, Some(CHANGES_REMEMBERED as u64 + 9));
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
