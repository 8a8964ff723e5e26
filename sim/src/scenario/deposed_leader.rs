//! A leader is cut off and does not know that others elected another one. A reader who was told of it alone asks it for
//! what was written since: "out of range" would be a lie, and many a client would begin anew from the end.

use std::time::Duration;

use quorate_client::{ConsumerConfig, Partitions, Start};
use quorate_proto::ids::{NodeId, Offset, PartitionId};

use super::leader_restore::usual;
use crate::cluster::Cluster;
use crate::env::clock;
use crate::env::tasks::Host;
use crate::history::Target;
use crate::report::Report;
use crate::run::{Options, on_stage};

const PATIENCE: Duration = Duration::from_secs(30);
const FIRST: u64 = 5;
const LATER: u64 = 4;

/// Plays it.
pub fn play(seed: u64, options: Options) -> Report {
    let options = Options { adjust: Some(usual), ..options };
    on_stage(seed, options, async |stage| {
        let place = Target { topic: "orders".to_owned(), partition: PartitionId(0) };
        let (cluster, workload) = (&mut stage.cluster, &mut stage.workload);
        workload.send(&place, FIRST, PATIENCE).await;
        let Some(deposed) = workload.leader(&place).await else { return };
        cut_off(cluster, deposed);
        workload.send(&place, LATER, PATIENCE).await;

        // The last of what was written since.
        let start = Start::Offset(Offset(FIRST + LATER - 1));
        let read = workload.ask_through(deposed, async move |client| {
            let mut consumer = client.consumer(ConsumerConfig::default());
            consumer.assign(&place.topic, Partitions::Only(vec![place.partition]), start).await?;
            consumer.next().await.map(|record| record.offset)
        });
        let said = tokio::select! {
            biased;
            read = read => match read {
                Some(Ok(offset)) => format!("offset {offset}"),
                Some(Err(error)) => error.to_string(),
                None => "nothing, for it panicked".to_owned(),
            },
            () = clock::sleep(PATIENCE) => format!("nothing within {PATIENCE:?}"),
        };
        if said != format!("offset {}", FIRST + LATER - 1) {
            let what =
                format!("a consumer can read what is there: one that asked node {deposed} was told {said}");
            cluster.history().complain("O-16", what);
        }
        cluster.network().mend_all();
    })
}

fn cut_off(cluster: &Cluster, node: NodeId) {
    for other in cluster.nodes().into_iter().filter(|other| *other != node) {
        cluster.network().cut(Host::Node(node), Host::Node(other));
        cluster.network().cut(Host::Node(other), Host::Node(node));
    }
}
