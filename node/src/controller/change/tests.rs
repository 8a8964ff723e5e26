//! What is asked, by what is agreed on and who is alive.

use std::sync::Arc;

use expect_test::{Expect, expect};
use quorate_proto::env::Moment;
use quorate_proto::ids::Identity;

use super::*;
use crate::metadata::{Topic, TopicConfig};

fn disk(byte: u8) -> Identity {
    Identity::from_random([byte; 16])
}

fn nodes(list: &[u32]) -> BTreeSet<NodeId> {
    list.iter().copied().map(NodeId).collect()
}

/// A cluster of nodes whose disks have their numbers, with a topic `t`.
struct Cluster {
    metadata: Metadata,
    voters: Vec<u32>,
    alive: Vec<u32>,
    full: Vec<u32>,
    waiting: Vec<(u32, u8)>,
    led: Vec<u64>,
    answers: bool,
}

impl Cluster {
    fn new(count: u32, partitions: &[&[u32]]) -> Self {
        let node = |id: u32| Node { identity: disk(u8::try_from(id).unwrap()), ..Node::default() };
        let mut metadata =
            Metadata { nodes: (1..=count).map(|id| (NodeId(id), node(id))).collect(), ..Metadata::default() };
        let place = |(group, replicas): (u64, &&[u32])| {
            let members: Vec<(NodeId, Identity)> =
                replicas.iter().map(|id| (NodeId(*id), disk(u8::try_from(*id).unwrap()))).collect();
            Partition::new(GroupId(group), &members)
        };
        let topic = Topic {
            id: TopicId::from_random([1; 16]),
            name: "t".parse().unwrap(),
            partitions: (1..).zip(partitions).map(place).collect(),
            config: TopicConfig::default(),
        };
        metadata.names.insert(topic.name.clone(), topic.id);
        metadata.topics.insert(topic.id, Arc::new(topic));
        let all: Vec<u32> = (1..=count).collect();
        Self {
            metadata,
            voters: all.iter().copied().take(3).collect(),
            alive: all,
            full: Vec::new(),
            waiting: Vec::new(),
            led: Vec::new(),
            answers: false,
        }
    }

    fn judge(&self, change: &MembersChange) -> Result<Vec<Command>, Refusal> {
        let candidate = |(id, byte): &(u32, u8)| {
            let node = Node { identity: disk(*byte), ..Node::default() };
            (NodeId(*id), Candidate { node, heard: Moment::default() })
        };
        let view = View {
            metadata: &self.metadata,
            voters: &nodes(&self.voters),
            alive: &nodes(&self.alive),
            full: &nodes(&self.full),
            waiting: &self.waiting.iter().map(candidate).collect(),
            led: &self.led.iter().copied().map(GroupId).collect(),
            answers: self.answers,
        };
        view.judge(change)
    }

    fn check(&self, change: &MembersChange, expected: Expect) {
        let list = |nodes: &[NodeId]| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(",");
        let shown = match self.judge(change) {
            Ok(commands) => {
                let one = |command: &Command| {
                    if let Command::AdmitNode { id, node, replaces } = command {
                        format!(
                            "admit {id} with disk {}, replaces: {replaces}",
                            node.identity.0.as_bytes()[0]
                        )
                    } else if let Command::DrainNode { id, heirs, .. } = command {
                        format!("drain {id} to {}", list(heirs))
                    } else if let Command::AssignReplicas { partition, replicas, .. } = command {
                        format!("t-{partition} to {}", list(replicas))
                    } else {
                        format!("{command:?}")
                    }
                };
                commands.iter().map(one).collect::<Vec<_>>().join("; ")
            }
            Err(refusal) => format!("{:?}: {refusal}", refusal.code),
        };
        expected.assert_eq(&shown);
    }
}

const ALL: &[u32] = &[1, 2, 3];

#[test]
fn a_node_that_waits_is_admitted_and_one_that_does_not_is_looked_for_elsewhere() {
    let mut cluster = Cluster::new(3, &[ALL]);
    cluster.check(
        &MembersChange::Add(NodeId(4)),
        expect!["NotAvailable: node 4 does not wait to be admitted, as far as the node that answers has heard: start it with --id 4 on an empty data folder, with --join HOST:PORT of a member's listener for peers, and see that it reaches the other nodes"],
    );
    cluster.waiting = vec![(4, 44), (2, 22)];
    cluster.check(&MembersChange::Add(NodeId(4)), expect!["admit 4 with disk 44, replaces: false"]);
    cluster.check(
        &MembersChange::Add(NodeId(2)),
        expect!["InvalidRequest: node 2 is a member already, and what waits under its id has another disk: `cluster replace-node 2` admits that one in its place"],
    );
    cluster.check(&MembersChange::Add(NodeId(3)), expect![""]);
}

#[test]
fn only_a_node_that_is_not_alive_is_replaced() {
    let mut cluster = Cluster::new(3, &[ALL]);
    let replace = MembersChange::Replace(NodeId(2));
    cluster.check(
        &replace,
        expect!["InvalidRequest: node 2 is alive, with the disk that it has: only a node whose disk is lost is replaced; stop it first if that is meant"],
    );
    cluster.waiting = vec![(2, 22)];
    cluster.check(
        &replace,
        expect!["NotAvailable: node 2 is alive, with the disk that it has: only a node whose disk is lost is replaced; stop it first if that is meant"],
    );
    cluster.alive = vec![1, 3];
    cluster.check(&replace, expect!["admit 2 with disk 22, replaces: true"]);
    cluster.check(
        &MembersChange::Replace(NodeId(9)),
        expect!["InvalidRequest: node 9 is no member of this cluster: it has nodes 1, 2 and 3"],
    );
}

#[test]
fn who_asks_again_for_a_replacement_is_told_that_it_is_done_if_the_new_disk_is_there() {
    let mut cluster = Cluster::new(3, &[ALL]);
    let replace = MembersChange::Replace(NodeId(2));
    let node = cluster.metadata.nodes.get_mut(&NodeId(2)).unwrap();
    (node.identity, node.admission) = (disk(22), 1);
    // Whether or not the one that answers has heard it wait.
    for waiting in [vec![], vec![(2, 22)]] {
        cluster.waiting = waiting;
        cluster.answers = true;
        cluster.check(&replace, expect![""]);
        cluster.answers = false;
        cluster.check(
            &replace,
            expect!["NotAvailable: node 2 has a disk that was admitted, and does not answer: see that it runs, and ask again"],
        );
    }
    // It is lost as well.
    cluster.alive = vec![1, 3];
    cluster.waiting.clear();
    cluster.check(
        &replace,
        expect!["NotAvailable: node 2 does not wait to be admitted, as far as the node that answers has heard: start it as it was, unless that disk is lost too; then start it with --id 2 on an empty data folder, with --join HOST:PORT of a member's listener for peers, or with its --bootstrap if that names other nodes (one that began alone would form a cluster of its own), and see that it reaches the other nodes"],
    );
    cluster.waiting = vec![(2, 32)];
    cluster.check(&replace, expect!["admit 2 with disk 32, replaces: true"]);
}

#[test]
fn a_node_goes_if_nobody_needs_it() {
    let remove = |id| MembersChange::Remove(NodeId(id));
    let mut cluster = Cluster::new(4, &[ALL]);
    cluster.check(&remove(3), expect!["drain 3 to 1,2,4"]);
    cluster.full = vec![2];
    cluster.check(&remove(3), expect!["drain 3 to 1,4"]);
    cluster.full.clear();
    cluster.alive = vec![1, 2, 4];
    cluster.check(&remove(3), expect!["drain 3 to 1,2,4"]);
    cluster.check(
        &remove(2),
        expect!["InvalidRequest: node 2 is needed for a majority of the metadata group: of nodes 1 and 3, who would be left to vote, only 1 is alive; start the others again, or replace them, first"],
    );
    cluster.check(
        &remove(9),
        expect!["InvalidRequest: node 9 is no member of this cluster: it has nodes 1, 2, 3 and 4"],
    );
    // It was removed already.
    Arc::make_mut(&mut cluster.metadata.removed).push_back((NodeId(9), disk(9)));
    cluster.check(&remove(9), expect![""]);
    Cluster::new(1, &[])
        .check(&remove(9), expect!["InvalidRequest: node 9 is no member of this cluster: it has node 1"]);
    cluster.voters = vec![1, 2, 4];
    cluster.alive = vec![1, 2];
    cluster.check(&remove(4), expect!["drain 4 to 1,2"]);
    let mut lonely = Cluster::new(3, &[&[3]]);
    lonely.alive = vec![1, 2];
    lonely.check(
        &remove(3),
        expect!["InvalidRequest: t:0 has no majority of its members, nodes 3, and cannot be moved away from node 3: start those that are down again, or, if their disks are lost and these records with them, delete the topic, first"],
    );
    Cluster::new(1, &[]).check(
        &remove(1),
        expect!["InvalidRequest: node 1 is the last one that stays: a cluster needs at least one node"],
    );
}

#[test]
fn what_is_led_while_dead_nodes_are_about_to_come_in_is_given_to_others() {
    let mut cluster = Cluster::new(6, &[&[1, 2, 3, 4, 5, 6]]);
    let topic = cluster.metadata.topics.values_mut().next().unwrap();
    let partition = &mut Arc::make_mut(topic).partitions[0];
    (partition.replicas, partition.changing) = (vec![NodeId(4), NodeId(5), NodeId(6)], true);
    cluster.alive = vec![1, 2, 3];
    let remove = MembersChange::Remove(NodeId(4));
    let is_refused = |cluster: &Cluster| {
        cluster.judge(&remove).is_err_and(|refusal| refusal.message.starts_with("t:0 has no majority"))
    };
    assert!(is_refused(&cluster), "nobody leads it");
    cluster.led = vec![1];
    cluster.check(&remove, expect!["drain 4 to 1,2,3"]);
    // Once they do not change any more, all of those who are named are members.
    let topic = cluster.metadata.topics.values_mut().next().unwrap();
    Arc::make_mut(topic).partitions[0].changing = false;
    assert!(is_refused(&cluster));
}

#[test]
fn what_is_so_already_is_not_asked_for_and_what_cannot_be_is_found_before_anything_is_done() {
    let mut cluster = Cluster::new(4, &[ALL, ALL]);
    let to = |placings: &[(i32, &[u32])]| {
        let one = |(partition, replicas): &(i32, &[u32])| Placing {
            topic: "t".parse().unwrap(),
            partition: PartitionId(*partition),
            replicas: replicas.iter().copied().map(NodeId).collect(),
        };
        MembersChange::Reassign(placings.iter().map(one).collect())
    };
    cluster.check(&to(&[(0, ALL), (1, &[4, 2, 3])]), expect!["t-1 to 4,2,3"]);
    cluster.check(&to(&[(0, ALL), (1, ALL)]), expect![""]);
    cluster.check(
        &to(&[(0, &[4, 2, 3]), (1, &[2, 2])]),
        expect!["InvalidReplicas: node 2 is named twice for t:1: each replica is on a node of its own"],
    );
    cluster.check(&to(&[(0, &[])]), expect!["InvalidReplicas: t:0 needs at least one replica"]);
    cluster.check(
        &to(&[(0, &[4]), (0, &[1])]),
        expect!["InvalidRequest: t:0 is named twice: say one list of nodes for it"],
    );
    cluster.metadata.draining.insert(NodeId(4));
    cluster.check(
        &to(&[(0, &[1]), (1, &[4])]),
        expect!["InvalidReplicas: node 4 is being removed, and could not take t:1"],
    );
}

#[test]
fn partitions_go_to_nodes_that_are_there() {
    let to = |topic: &str, partition, replicas: &[u32]| {
        MembersChange::Reassign(vec![Placing {
            topic: topic.parse().unwrap(),
            partition: PartitionId(partition),
            replicas: replicas.iter().copied().map(NodeId).collect(),
        }])
    };
    let mut cluster = Cluster::new(4, &[ALL]);
    cluster.check(&to("t", 0, &[4, 1]), expect!["t-0 to 4,1"]);
    cluster.full = vec![1, 4];
    cluster.check(
        &to("t", 0, &[4, 1]),
        expect![
            "InvalidRequest: the disk of node 4 is nearly full, and could not take t:0: make room there first"
        ],
    );
    cluster.full.clear();
    cluster.alive = vec![1, 2, 3];
    cluster.check(
        &to("t", 0, &[4, 1]),
        expect!["InvalidRequest: node 4 is not alive, and could not take t:0: start it first"],
    );
    cluster.check(&to("u", 0, &[1]), expect![[r#"UnknownTopic: no topic is called "u""#]]);
    cluster.check(&to("t", 7, &[1]), expect!["UnknownPartition: topic t has 1 partitions, from 0, and no 7"]);
}

#[test]
fn a_new_node_gets_its_share() {
    let mut cluster = Cluster::new(4, &[ALL, ALL, ALL, ALL]);
    let Ok(commands) = cluster.judge(&MembersChange::Balance) else { panic!("it can be balanced") };
    assert_eq!(commands.len(), 3, "of 12 replicas each node holds 3: {commands:?}");
    let gets = |command: &Command| matches!(command, Command::AssignReplicas { replicas, .. } if replicas.contains(&NodeId(4)) && replicas.len() == 3);
    assert!(commands.iter().all(gets), "{commands:?}");
    cluster.full = vec![4];
    cluster.check(&MembersChange::Balance, expect![""]);
    cluster.full.clear();
    cluster.alive = vec![1, 2, 3];
    cluster.check(&MembersChange::Balance, expect![""]);
}

#[test]
fn many_partitions_are_balanced_and_those_that_move_stay() {
    let mut cluster = Cluster::new(4, &[ALL; 2_000]);
    let topic = cluster.metadata.topics.values_mut().next().unwrap();
    for partition in Arc::make_mut(topic).partitions.iter_mut().take(100) {
        partition.changing = true;
    }
    let Ok(commands) = cluster.judge(&MembersChange::Balance) else { panic!("it can be balanced") };
    assert_eq!(commands.len(), 1_500, "of 6000 replicas each node holds 1500");
    let mut held = BTreeMap::from([1, 2, 3].map(|node| (NodeId(node), 2_000_usize)));
    for command in &commands {
        let Command::AssignReplicas { partition, replicas, .. } = command else { panic!("{command:?}") };
        assert!(partition.0 >= 100, "{command:?}");
        for gone in nodes(ALL).into_iter().filter(|node| !replicas.contains(node)) {
            *held.entry(gone).or_default() -= 1;
        }
    }
    assert!(held.values().all(|held| *held == 1_500), "{held:?}");
}
