//! A batch is damaged on all three disks, beyond what the atlas allows (O-24): no replica has it any more. Whoever reads
//! it must be told so, and not be given something else, nor less; the batches around it are read, and new ones are
//! taken. Once a disk gives its own back, all have it.

use std::time::Duration;

use quorate_client::{ConsumeError, ConsumerConfig, Partitions, Start};
use quorate_proto::ErrorCode;
use quorate_proto::ids::{Offset, PartitionId};

use super::leader_restore::usual;
use crate::cluster::{Cluster, Knobs};
use crate::env::clock;
use crate::history::Target;
use crate::report::Report;
use crate::run::{Options, on_stage};
use crate::workload::Workload;

const PATIENCE: Duration = Duration::from_secs(30);

/// What is read comes from the disk.
fn forgetful(knobs: &mut Knobs) {
    usual(knobs);
    knobs.recent_bytes_max = 1;
    knobs.volume_bytes_max = 6_000;
}

/// Plays it.
pub fn play(seed: u64, options: Options) -> Report {
    let options = Options { adjust: Some(forgetful), ..options };
    on_stage(seed, options, async |stage| {
        let place = Target { topic: "orders".to_owned(), partition: PartitionId(0) };
        let (cluster, workload) = (&mut stage.cluster, &mut stage.workload);
        for _ in 0..3 {
            // A batch each.
            workload.send(&place, 1, PATIENCE).await;
        }
        // On every disk it comes to lie in a volume that is full: what is written later does not move it elsewhere.
        let other = Target { partition: PartitionId(1), ..place.clone() };
        let deadline = clock::now() + PATIENCE;
        while cluster.nodes().iter().any(|node| cluster.images(*node).len() < 4) && clock::now() < deadline {
            workload.send(&other, 10, PATIENCE).await;
        }
        let Some(leader) = workload.leader(&place).await else { return };
        let bodies = cluster.bodies(leader, &place.topic).await;
        let [_, damaged, ..] = &bodies[..] else { return };
        // Closed cleanly: else redb finds out for itself, and the whole volume is lost.
        stop_all(cluster).await;
        let mut copies = 0;
        for node in cluster.nodes() {
            copies += u64::from(cluster.flip_wherever(node, damaged) > 0);
        }
        if copies < 3 {
            cluster.history().complain("O-24", format!("the batch was found on {copies} disks alone"));
        }
        cluster.tally().count("all copies damaged");
        for node in cluster.nodes() {
            cluster.start(node).await;
        }
        cluster.until_ready(PATIENCE).await;

        expect(cluster, workload, &place, 0, true).await;
        expect(cluster, workload, &place, 1, false).await;
        expect(cluster, workload, &place, 2, true).await;
        workload.send(&place, 1, PATIENCE).await;
        expect(cluster, workload, &place, 3, true).await;

        for node in cluster.nodes() {
            cluster.heal_disk(node);
        }
        expect(cluster, workload, &place, 1, true).await;
    })
}

async fn stop_all(cluster: &mut Cluster) {
    for node in cluster.nodes() {
        if cluster.stop(node) {
            cluster.fallen().await;
        }
    }
}

/// Reads at an offset until it is given, or refused as damaged, as is expected.
async fn expect(cluster: &Cluster, workload: &mut Workload, place: &Target, offset: u64, given: bool) {
    let deadline = clock::now() + PATIENCE;
    loop {
        let place = place.clone();
        let read = workload.ask(async move |client| {
            let mut consumer = client.consumer(ConsumerConfig::default());
            let start = Start::Offset(Offset(offset));
            consumer.assign(&place.topic, Partitions::Only(vec![place.partition]), start).await?;
            consumer.next().await.map(|record| record.offset)
        });
        let said = tokio::select! {
            biased;
            read = read => match read {
                Some(Ok(found)) if found == Offset(offset) => "it".to_owned(),
                Some(Ok(found)) => format!("offset {found} in its place"),
                Some(Err(ConsumeError::Refused { code: ErrorCode::CorruptData, .. })) => "damaged".to_owned(),
                Some(Err(error)) => error.to_string(),
                None => "nothing, for the consumer panicked".to_owned(),
            },
            () = clock::sleep(PATIENCE) => "nothing in time".to_owned(),
        };
        let wanted = if given { "it" } else { "damaged" };
        if said == wanted {
            return;
        }
        // A wrong record is never right, later; anything else may be.
        if said.contains("in its place") || clock::now() > deadline {
            let wanted = if given { "be read" } else { "be refused as damaged" };
            let what =
                format!("damage that nobody can mend is told: offset {offset} must {wanted}, and was {said}");
            cluster.history().complain("O-24", what);
            return;
        }
        clock::sleep(Duration::from_millis(200)).await;
    }
}
