//! The metadata group's leader stands still while another node starts, which remembers it and asks it to be registered.
//! Once there is another leader, that one must be asked: the old one never answers.

use std::time::Duration;

use quorate_proto::ids::{GroupId, PartitionId};

use super::leader_restore::usual;
use crate::cluster::Crash;
use crate::env::clock;
use crate::history::Target;
use crate::report::Report;
use crate::run::{Options, on_stage};

/// An election on time-out, and what follows it; less than one try at registering may take.
const READY_WITHIN: Duration = Duration::from_secs(4);

/// Plays it.
pub fn play(seed: u64, options: Options) -> Report {
    let options = Options { adjust: Some(usual), ..options };
    on_stage(seed, options, async |stage| {
        let place = Target { topic: "orders".to_owned(), partition: PartitionId(0) };
        let (cluster, workload) = (&mut stage.cluster, &mut stage.workload);
        workload.send(&place, 3, Duration::from_secs(30)).await;
        let nodes = cluster.nodes();
        let leader = nodes.iter().find(|node| cluster.leads(**node).contains(&GroupId::METADATA));
        let Some(leader) = leader.copied() else { return };
        let others: Vec<_> = nodes.into_iter().filter(|node| *node != leader).collect();
        let starts = others[stage.dice.place(others.len())];

        cluster.crash(starts, Crash::Kill, &mut stage.dice).await;
        cluster.pause(leader);
        cluster.start(starts).await;
        clock::sleep(Duration::from_millis(100)).await;
        cluster.until_ready(READY_WITHIN).await;
        cluster.resume(leader);
        workload.send(&place, 3, Duration::from_secs(30)).await;
    })
}
