//! A partition moves away from its leader, and a disk is lost and replaced; meanwhile whoever carries that out dies in the
//! middle of it, and is back at once. The next one must go on where it stopped, also between the two sets of voters, and
//! nothing that was acked may be gone (Raft §6).

use std::time::Duration;

use quorate_client::{ChangeBegun, ClusterStatus, MembersChange, Placing};
use quorate_proto::ids::PartitionId;

use super::leader_restore::usual;
use crate::cluster::{Cluster, Crash};
use crate::env::clock;
use crate::history::Target;
use crate::report::Report;
use crate::run::{Options, Stage, on_stage};
use crate::workload::Workload;

/// How long a change may take although its leaders die.
const DONE_WITHIN: Duration = Duration::from_secs(30);
/// How long a producer tries.
const DELIVERY: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Plays it, with four nodes.
pub fn play(seed: u64, options: Options) -> Report {
    let options = Options { nodes: Some(4), adjust: Some(usual), ..options };
    on_stage(seed, options, async |stage| {
        let place = Target { topic: "orders".to_owned(), partition: PartitionId(0) };
        stage.workload.send(&place, 5, DELIVERY).await;
        move_away(stage, &place).await;
        stage.workload.send(&place, 3, DELIVERY).await;
        replace(stage, &place).await;
        stage.workload.send(&place, 3, DELIVERY).await;
    })
}

/// Moves a partition to the nodes that do not lead it; its leader dies before, in or after the change.
async fn move_away(stage: &mut Stage, place: &Target) {
    let Stage { cluster, workload, dice, .. } = stage;
    let Some(leader) = workload.leader(place).await else { return };
    let replicas = cluster.nodes().into_iter().filter(|node| *node != leader).collect();
    let placing = Placing { topic: place.topic.clone(), partition: place.partition, replicas };
    let change = MembersChange::Reassign(vec![placing]);
    let mut begun = ask_for(workload, &change).await;
    clock::sleep(dice.time(Duration::from_millis(1), Duration::from_millis(400))).await;
    cluster.crash(leader, Crash::Kill, dice).await;
    cluster.start(leader).await;

    let late = clock::now() + DONE_WITHIN;
    while clock::now() < late {
        if begun.is_none() {
            begun = ask_for(workload, &change).await;
        }
        let status = status(workload).await;
        if begun
            .zip(status)
            .is_some_and(|(begun, status)| status.as_of >= begun.as_of && status.moves.is_empty())
        {
            return;
        }
        clock::sleep(LOOK).await;
    }
    complain(cluster, "a partition moves although its leader died");
}

/// `None`: perhaps begun; it may be asked for again.
async fn ask_for(workload: &mut Workload, change: &MembersChange) -> Option<ChangeBegun> {
    let change = change.clone();
    workload.ask(|client| async move { client.admin().change_members(&change).await.ok() }).await.flatten()
}

async fn status(workload: &mut Workload) -> Option<ClusterStatus> {
    workload.ask(|client| async move { client.admin().cluster_status().await.ok() }).await.flatten()
}

/// A disk is lost, and an operator has it replaced; leaders die while that is under way.
async fn replace(stage: &mut Stage, place: &Target) {
    let Stage { cluster, workload, dice, .. } = stage;
    let nodes = cluster.nodes();
    let lost = nodes[dice.place(nodes.len())];
    cluster.lose_disk(lost).await;
    workload.operate(cluster.orders().clone());
    for _ in 0..3 {
        clock::sleep(dice.time(Duration::from_millis(100), Duration::from_secs(2))).await;
        if let Some(leader) = workload.leader(place).await.filter(|leader| *leader != lost) {
            cluster.crash(leader, Crash::Kill, dice).await;
            cluster.start(leader).await;
        }
    }
    let late = clock::now() + DONE_WITHIN;
    while !cluster.orders().are_done() {
        if clock::now() > late {
            complain(cluster, "a lost disk is replaced although leaders die");
            return;
        }
        clock::sleep(LOOK).await;
    }
}

fn complain(cluster: &Cluster, what: &str) {
    cluster.history().complain("O-27", format!("{what}: not within {DONE_WITHIN:?}"));
}
