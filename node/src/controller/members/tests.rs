//! Scripts of commands on members, and what comes of them.

use std::fmt::Write;

use expect_test::{Expect, expect};

use super::super::apply::apply;
use super::super::command::Command;
use super::*;
use crate::metadata::TopicConfig;

fn disk(byte: u8) -> Identity {
    Identity::from_random([byte; 16])
}

/// `2,1` as nodes.
fn nodes(list: &str) -> Vec<NodeId> {
    list.split(',').map(|id| NodeId(id.parse().unwrap())).collect()
}

/// `1:11,2:12` as nodes and their disks.
fn disks(list: &str) -> BTreeMap<NodeId, Identity> {
    let one = |word: &str| {
        let (node, byte) = word.split_once(':').unwrap();
        (NodeId(node.parse().unwrap()), disk(byte.parse().unwrap()))
    };
    list.split(',').map(one).collect()
}

/// Topic `t` has id 1.
fn command(line: &str) -> Command {
    let words: Vec<&str> = line.split_whitespace().collect();
    let node = |at: usize| NodeId(words[at].parse().unwrap());
    let identity = |at: usize| disk(words[at].parse().unwrap());
    let topic = TopicId::from_random([1; 16]);
    let partition = || PartitionId(words[1].parse().unwrap());
    match words[0] {
        "register" => {
            Command::RegisterNode { id: node(1), node: Node { identity: identity(2), ..Node::default() } }
        }
        how @ ("add" | "replace") => Command::AdmitNode {
            id: node(1),
            node: Node { identity: identity(2), ..Node::default() },
            replaces: how == "replace",
        },
        "drain" => Command::DrainNode { id: node(1), identity: identity(2), heirs: nodes(words[3]) },
        "remove" => Command::RemoveNode { id: node(1), identity: identity(2) },
        "topic" => Command::CreateTopic {
            id: topic,
            name: "t".parse().unwrap(),
            partitions: words[1].parse().unwrap(),
            replicas: Some(words[2].parse().unwrap()),
            config: TopicConfig::default(),
        },
        "assign" => Command::AssignReplicas { topic, partition: partition(), replicas: nodes(words[2]) },
        "report" => Command::ReportMembers {
            topic,
            partition: partition(),
            // `version` or `version/term`.
            version: words[2].split('/').next().unwrap().parse().unwrap(),
            term: Term(words[2].split_once('/').map_or(1, |(_, term)| term.parse().unwrap())),
            disks: disks(words[3]),
            changing: words.get(4) == Some(&"changing"),
        },
        other => panic!("no command {other}"),
    }
}

/// Applies each line and shows the answers that are refusals, and what is there at the end. Twice, on two copies: what
/// comes out must be equal.
fn check(script: &str, expected: Expect) {
    let (mut metadata, mut again) = (Metadata::default(), Metadata::default());
    let mut seen = String::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let answer = apply(&mut metadata, command(line));
        let read_back = Command::decode(&command(line).encode()).unwrap();
        assert_eq!(apply(&mut again, read_back), answer);
        assert_eq!(metadata, again);
        if let Answer::Refused(refusal) = answer {
            writeln!(seen, "{line} -> {:?}: {refusal}", refusal.code).unwrap();
        }
    }
    for (id, node) in &metadata.nodes {
        let leaves = if metadata.draining.contains(id) { ", leaves" } else { "" };
        let byte = node.identity.0.as_bytes()[0];
        writeln!(seen, "node {id}: disk {byte}, admission {}{leaves}", node.admission).unwrap();
    }
    for topic in metadata.topics.values() {
        for (at, partition) in topic.partitions.iter().enumerate() {
            let replicas: Vec<u32> = partition.replicas.iter().map(|node| node.0).collect();
            let disk = |(node, disk): (&NodeId, &Identity)| format!("{node}:{}", disk.0.as_bytes()[0]);
            let disks: Vec<String> = partition.disks.iter().map(disk).collect();
            let moves = if metadata.is_moving(partition) { ", moves" } else { "" };
            writeln!(seen, "t-{at}: {replicas:?} of {} v{}{moves}", disks.join(","), partition.version)
                .unwrap();
        }
    }
    expected.assert_eq(&seen);
}

#[test]
fn a_disk_takes_the_place_of_another_once() {
    check(
        "register 1 11
         register 2 12
         register 3 13
         topic 1 3
         assign 0 2,1,3
         replace 2 22
         replace 2 22
         register 2 12
         replace 2 12
         replace 4 24
         add 2 32
         add 4 11",
        expect![[r#"
            register 2 12 -> WrongIdentity: node 2 is known by identity 16161616-1616-4616-9616-161616161616, not 0c0c0c0c-0c0c-4c0c-8c0c-0c0c0c0c0c0c
            replace 2 12 -> InvalidRequest: disk 0c0c0c0c-0c0c-4c0c-8c0c-0c0c0c0c0c0c was removed from this cluster: node 2 comes back on an empty data folder
            replace 4 24 -> InvalidRequest: node 4 is no member; a new one is admitted by `cluster add-node 4`
            add 2 32 -> InvalidRequest: node 2 is a member already; an empty disk in its place is admitted by `cluster replace-node 2`
            add 4 11 -> InvalidRequest: disk 0b0b0b0b-0b0b-4b0b-8b0b-0b0b0b0b0b0b is that of node 1: each node needs its own
            node 1: disk 11, admission 0
            node 2: disk 22, admission 1
            node 3: disk 13, admission 0
            t-0: [2, 1, 3] of 1:11,2:12,3:13 v0, moves
        "#]],
    );
}

#[test]
fn a_partition_moves_until_its_leader_says_that_all_of_its_disks_vote() {
    let script = "register 1 11
                  register 2 12
                  topic 1 2
                  assign 0 1,2
                  replace 2 22
                  report 0 0 1:11,2:12 changing
                  report 0 1 1:11,2:22 changing";
    check(
        script,
        expect![[r#"
            node 1: disk 11, admission 0
            node 2: disk 22, admission 1
            t-0: [1, 2] of 1:11,2:22 v2, moves
        "#]],
    );
    check(
        &format!("{script}\nreport 0 2 1:11,2:22"),
        expect![[r#"
            node 1: disk 11, admission 0
            node 2: disk 22, admission 1
            t-0: [1, 2] of 1:11,2:22 v3
        "#]],
    );
}

#[test]
fn a_node_is_drained_before_it_is_removed_and_its_successor_is_another() {
    check(
        "register 1 11
         register 2 12
         register 3 13
         add 4 14
         topic 1 3
         assign 0 1,2,3
         report 0 0 1:11,2:12,3:13
         remove 3 13
         drain 3 33 1,2,4
         drain 9 19 1,2,4
         drain 3 13 1,2,4
         remove 3 13
         report 0 1 1:11,2:12,3:13,4:14
         report 0 1 1:11,2:12
         report 0 2 1:11,2:12,4:14
         remove 3 13
         remove 3 13
         register 3 13
         add 3 13
         add 3 23
         remove 3 13
         drain 3 13 1,2,4",
        expect![[r#"
            remove 3 13 -> InvalidRequest: node 3 still holds partitions: it is drained first
            drain 3 33 1,2,4 -> InvalidRequest: node 3 has another disk by now: ask again if that is meant
            drain 9 19 1,2,4 -> InvalidRequest: node 9 is no member of this cluster
            remove 3 13 -> InvalidRequest: node 3 still holds partitions: it is drained first
            report 0 1 1:11,2:12 -> InvalidRequest: version 1 of the members is not the last one
            register 3 13 -> WrongIdentity: node 3 with disk 0d0d0d0d-0d0d-4d0d-8d0d-0d0d0d0d0d0d was removed from this cluster
            add 3 13 -> InvalidRequest: disk 0d0d0d0d-0d0d-4d0d-8d0d-0d0d0d0d0d0d was removed from this cluster: node 3 comes back on an empty data folder
            drain 3 13 1,2,4 -> InvalidRequest: node 3 has another disk by now: ask again if that is meant
            node 1: disk 11, admission 0
            node 2: disk 12, admission 0
            node 3: disk 23, admission 2
            node 4: disk 14, admission 1
            t-0: [1, 2, 4] of 1:11,2:12,4:14 v3
        "#]],
    );
}

#[test]
fn nobody_goes_who_is_needed_and_nothing_goes_halfway() {
    check(
        "register 1 11
         drain 1 11 1
         register 2 12
         topic 2 1
         report 0 0 1:11
         report 1 0 2:12
         assign 0 1
         assign 1 2,1
         drain 1 11 2
         assign 1 1
         drain 1 11 2
         drain 2 12 1",
        expect![[r#"
            drain 1 11 1 -> InvalidRequest: node 1 is the last one that stays: a cluster needs at least one node
            drain 1 11 2 -> InvalidReplicas: 1 partition cannot do without node 1: t:1 has 2 replicas, and without node 1 there are not as many nodes that are alive and have room to hold them: add a node first (`cluster add-node`), or move it to fewer nodes, as in: quorate cluster reassign t:1=2
            drain 2 12 1 -> InvalidRequest: node 2 is the last one that stays: a cluster needs at least one node
            node 1: disk 11, admission 0, leaves
            node 2: disk 12, admission 0
            t-0: [2] of 1:11 v1, moves
            t-1: [2] of 2:12 v1
        "#]],
    );
}

#[test]
fn what_cannot_hold_a_partition_is_not_assigned_to() {
    check(
        "register 1 11
         register 2 12
         topic 1 1
         report 0 0 1:11
         assign 0 1,1
         assign 0 7
         assign 5 1
         assign 0 2,1",
        expect![[r#"
            assign 0 1,1 -> InvalidReplicas: node 1 is named twice: each replica is on a node of its own
            assign 0 7 -> InvalidReplicas: node 7 is no member of this cluster
            assign 5 1 -> UnknownPartition: topic 01010101-0101-4101-8101-010101010101 has no partition 5
            node 1: disk 11, admission 0
            node 2: disk 12, admission 0
            t-0: [2, 1] of 1:11 v1, moves
        "#]],
    );
}

#[test]
fn a_late_word_of_an_earlier_leader_does_not_count() {
    check(
        "register 1 11
         register 2 12
         register 3 13
         topic 1 2
         report 0 0/4 1:11,2:12,3:13 changing
         report 0 1/5 1:11,2:12,3:13 changing
         report 0 2/4 1:11,2:12
         report 0 2/5 1:11,3:13",
        expect![[r#"
            report 0 2/4 1:11,2:12 -> InvalidRequest: the leader of term 5 has said the members, that of term 4 leads no more
            node 1: disk 11, admission 0
            node 2: disk 12, admission 0
            node 3: disk 13, admission 0
            t-0: [3, 1] of 1:11,3:13 v3
        "#]],
    );
}
