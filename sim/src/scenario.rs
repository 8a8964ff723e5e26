//! Written-out runs, for orders of events that chance brings too rarely.

use std::time::Duration;

use quorate_proto::ids::PartitionId;

use crate::cluster::Crash;
use crate::env::clock;
use crate::history::Place;
use crate::run::{Options, Report, on_stage};

/// A leader's own disk stalls, two others acknowledge what it sends them, and so does it; then its power goes before
/// its own sync, and comes back at once. If it took up its old term again without an election, it would give the
/// same log ids to other entries, and what was acked would be gone. (openraft's `enable_leader_restore`; Raft §5.2.)
pub fn leader_restore(seed: u64, crash: Crash, options: Options) -> Report {
    on_stage(seed, options, async |stage| {
        let place = Place { topic: "orders".to_owned(), partition: PartitionId(0) };
        let (cluster, workload) = (&mut stage.cluster, &mut stage.workload);
        workload.send(&place, 3, Duration::from_secs(30)).await;
        let Some(leader) = workload.leader(&place).await else { return };

        cluster.disk(leader).stall(Duration::from_secs(20));
        workload.send(&place, 5, Duration::from_secs(5)).await;
        cluster.disk(leader).spare();
        cluster.crash(leader, crash, &mut stage.dice).await;
        cluster.start(leader).await;

        for _ in 0..10 {
            workload.send(&place, 3, Duration::from_secs(30)).await;
            clock::sleep(Duration::from_millis(300)).await;
        }
    })
}
