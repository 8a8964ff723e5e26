//! A leader's own disk stalls, two others acknowledge what it sends them, and so does it; then it dies before its own
//! sync, and is back at once. If it took up its old term again without an election, it would give the same log ids
//! to other entries, and what was acked would be gone (openraft's `enable_leader_restore`; Raft §5.2).
//!
//! The proof of its death usually has the two others elect a new leader within a millisecond. So one of them is cut
//! off: where that is the one whose turn it is to stand first, the other waits for its own turn, and takes what the
//! old leader sends until then.

use std::time::Duration;

use quorate_proto::ids::PartitionId;

use crate::cluster::{Crash, Keeping, Knobs, Tempo};
use crate::env::clock;
use crate::env::probe::Points;
use crate::env::tasks::Host;
use crate::history::Target;
use crate::report::Report;
use crate::run::{Options, on_stage};

/// The order of events is all that is unusual.
pub(super) fn usual(knobs: &mut Knobs) {
    knobs.tempo = Tempo::Usual;
    knobs.keeping = Keeping::as_it_is();
    knobs.commit_bytes_max = 4 << 20;
    knobs.append_bytes_max = 1 << 20;
    knobs.append_in_flight_max = 32;
    knobs.in_flight_batches_max = 4_096;
    knobs.points = Points::none();
    // What is written can be read for as long as the story goes on.
    knobs.trims = false;
    knobs.without_rest();
}

fn with_restore(knobs: &mut Knobs) {
    usual(knobs);
    knobs.leader_restore = true;
}

/// Plays it with a process killed (even seeds) or a machine without power (odd ones). `restore` is openraft's
/// default, `false` is what our nodes do.
pub fn play(seed: u64, restore: bool, options: Options) -> Report {
    let crash = if seed.is_multiple_of(2) { Crash::Kill } else { Crash::PowerCut };
    let adjust = if restore { with_restore } else { usual };
    let options = Options { adjust: Some(adjust), ..options };
    on_stage(seed, options, async |stage| {
        let place = Target { topic: "orders".to_owned(), partition: PartitionId(0) };
        let (cluster, workload) = (&mut stage.cluster, &mut stage.workload);
        workload.send(&place, 3, Duration::from_secs(30)).await;
        let Some(leader) = workload.leader(&place).await else { return };
        let others = cluster.nodes().into_iter().filter(|node| *node != leader).collect::<Vec<_>>();
        let lonely = others[stage.dice.place(others.len())];

        cluster.disk(leader).stall(Duration::from_secs(20));
        workload.send(&place, 5, Duration::from_secs(5)).await;
        cluster.disk(leader).spare();
        for node in cluster.nodes().into_iter().filter(|node| *node != lonely) {
            cluster.network().cut(Host::Node(node), Host::Node(lonely));
            cluster.network().cut(Host::Node(lonely), Host::Node(node));
        }
        cluster.crash(leader, crash, &mut stage.dice).await;
        cluster.start(leader).await;
        workload.send(&place, 3, Duration::from_secs(30)).await;
        cluster.network().mend_all();

        for _ in 0..5 {
            workload.send(&place, 3, Duration::from_secs(30)).await;
            clock::sleep(Duration::from_millis(300)).await;
        }
    })
}
