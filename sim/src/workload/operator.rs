//! Who looks after the cluster: admits nodes that lost their disks, lets nodes go and come, moves partitions; with the SDK,
//! again and again until it is done, as nobody says what became of an answer that was lost.

use std::time::Duration;

use quorate_client::{Admin, ClusterStatus, MembersChange, Placing, TopicListing};
use quorate_proto::ids::NodeId;
use tokio::sync::watch;

use super::World;
use crate::cluster::{Order, Orders};
use crate::dice::Dice;
use crate::env::clock;
use crate::trace::Event;

/// Carries out orders until `going` is false and none is left.
pub(super) async fn operate(world: World, number: u32, orders: Orders, going: watch::Receiver<bool>) {
    let mut dice = Dice::named(world.seed, "operator");
    let (client, _process) = world.client(number);
    let admin = client.admin();
    let mut begun = Vec::new();
    while *going.borrow() || !orders.are_done() {
        clock::sleep(dice.time(Duration::from_millis(50), Duration::from_secs(1))).await;
        for order in orders.all() {
            carry_out(&world, number, &admin, &orders, order, &mut begun).await;
        }
        if *going.borrow() && orders.take_move() {
            move_one(&world, number, &admin, &mut dice).await;
        }
    }
}

/// An order that was begun, and the state of the cluster that knows of it.
type Begun = (Order, u64);

async fn carry_out(
    world: &World,
    number: u32,
    admin: &Admin,
    orders: &Orders,
    order: Order,
    begun: &mut Vec<Begun>,
) {
    let change = match order {
        Order::Replace(node) => MembersChange::Replace(node),
        Order::Remove(node) => MembersChange::Remove(node),
        Order::Add(node) => MembersChange::Add(node),
    };
    let since = begun.iter().find(|(of, _)| *of == order).map(|(_, since)| *since);
    let since = match since {
        Some(since) => since,
        None => match admin.change_members(&change).await {
            Ok(agreed) => {
                begun.push((order, agreed.as_of));
                agreed.as_of
            }
            Err(error) => {
                let what = format!("{order:?} is not agreed on: {error}");
                world.trace.note(&Event::Client { client: number, what });
                return;
            }
        },
    };
    let Ok(status) = admin.cluster_status().await else { return };
    if status.as_of >= since && is_done(order, &status) {
        world.trace.note(&Event::Client { client: number, what: format!("{order:?} is done") });
        begun.retain(|(of, _)| *of != order);
        orders.done(order);
    }
}

/// Whether an order is carried out: the node is there, or gone, and nothing that it has part in is on its way.
fn is_done(order: Order, status: &ClusterStatus) -> bool {
    let find = |id: NodeId| status.nodes.iter().find(|node| node.id == id);
    let stay = status.nodes.iter().filter(|node| !node.draining).count();
    let wanted = if stay < 3 {
        stay
    } else if stay < 5 {
        3
    } else {
        5
    };
    let vote = status.nodes.iter().filter(|node| node.voter && !node.draining).count() >= wanted;
    match order {
        Order::Remove(node) => vote && find(node).is_none(),
        Order::Replace(node) | Order::Add(node) => {
            let is_there = find(node).is_some_and(|node| node.alive);
            vote && is_there && !status.moves.iter().any(|of| of.concerns(node))
        }
    }
}

/// Moves a partition to as many nodes as it has, drawn anew.
async fn move_one(world: &World, number: u32, admin: &Admin, dice: &mut Dice) {
    let (Ok(topics), Ok(status)) = (admin.list_topics().await, admin.cluster_status().await) else { return };
    let Some(placing) = draw(&topics, &status, dice) else { return };
    let what = match admin.change_members(&MembersChange::Reassign(vec![placing.clone()])).await {
        Ok(_) => {
            world.marks.reached("partition-moved-under-load");
            format!("moves {}/{} to {:?}", placing.topic, placing.partition, placing.replicas)
        }
        Err(error) => format!("{}/{} is not moved: {error}", placing.topic, placing.partition),
    };
    world.trace.note(&Event::Client { client: number, what });
}

fn draw(topics: &[TopicListing], status: &ClusterStatus, dice: &mut Dice) -> Option<Placing> {
    let topic = topics.get(dice.place(topics.len().max(1)))?;
    let partition = topic.partitions.get(dice.place(topic.partitions.len().max(1)))?;
    let stays = status.nodes.iter().filter(|node| !node.draining && node.alive);
    let mut nodes: Vec<NodeId> = stays.map(|node| node.id).collect();
    if nodes.len() < partition.replicas.len() {
        return None;
    }
    for place in (1..nodes.len()).rev() {
        nodes.swap(place, dice.place(place + 1));
    }
    nodes.truncate(partition.replicas.len());
    Some(Placing { topic: topic.name.to_string(), partition: partition.partition, replicas: nodes })
}

#[cfg(test)]
mod tests {
    use quorate_client::{NodeStatus, PartitionId, PartitionMove};
    use quorate_proto::ids::ClusterId;

    use super::*;

    fn status(voters: &[u32], others: &[u32], moves: &[u32]) -> ClusterStatus {
        let node = |id: u32, voter: bool| NodeStatus {
            id: NodeId(id),
            identity: None,
            grpc: String::new(),
            http: String::new(),
            alive: true,
            leads: 0,
            replicas: 0,
            voter,
            draining: false,
            rack: String::new(),
            disk: None,
        };
        let nodes = voters.iter().map(|id| node(*id, true)).chain(others.iter().map(|id| node(*id, false)));
        let of = |id: &u32| PartitionMove {
            topic: "t".to_owned(),
            partition: PartitionId(0),
            from: Vec::new(),
            to: vec![NodeId(*id)],
            stuck: false,
        };
        ClusterStatus {
            cluster_id: ClusterId::from_random([1; 16]),
            nodes: nodes.collect(),
            under_replicated: 0,
            leaderless: 0,
            moves: moves.iter().map(of).collect(),
            waiting: Vec::new(),
            as_of: 0,
            attention: Vec::new(),
        }
    }

    #[test]
    fn an_order_is_done_when_nothing_is_missing() {
        let replace = Order::Replace(NodeId(2));
        assert!(is_done(replace, &status(&[1, 2, 3], &[], &[1])));
        assert!(!is_done(replace, &status(&[1, 2, 3], &[], &[2])), "it is not whole");
        assert!(!is_done(replace, &status(&[1, 3], &[2], &[])), "it does not vote yet");
        assert!(!is_done(replace, &status(&[1, 3], &[], &[])), "it is not there");
        assert!(is_done(Order::Remove(NodeId(2)), &status(&[1, 3, 4], &[], &[])));
        assert!(!is_done(Order::Remove(NodeId(2)), &status(&[1, 3, 4], &[2], &[])));
        assert!(is_done(Order::Add(NodeId(4)), &status(&[1, 2, 3], &[4], &[])));
    }
}
