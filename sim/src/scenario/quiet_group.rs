//! A group falls quiet, keeps its leader through a long time without heartbeats, and wakes under the same one. Then, quiet
//! again, it loses that leader: the process is killed, the machine loses power, or it is cut off in silence.

use std::time::Duration;

use quorate_proto::ids::PartitionId;

use super::leader_restore::usual;
use crate::cluster::{Crash, Knobs};
use crate::env::clock;
use crate::env::tasks::Host;
use crate::history::Target;
use crate::report::Report;
use crate::run::{Options, on_stage};

const PATIENCE: Duration = Duration::from_secs(30);
/// Several times what a leader is missed after.
const REST: Duration = Duration::from_secs(5);

fn restful(knobs: &mut Knobs) {
    usual(knobs);
    knobs.quiet_after_ms = 200;
}

/// Plays it. The seed says how the leader is lost.
pub fn play(seed: u64, options: Options) -> Report {
    let options = Options { adjust: Some(restful), ..options };
    on_stage(seed, options, async |stage| {
        let place = Target { topic: "orders".to_owned(), partition: PartitionId(0) };
        let (cluster, workload) = (&mut stage.cluster, &mut stage.workload);
        workload.send(&place, 3, PATIENCE).await;
        let Some(leader) = workload.leader(&place).await else { return };
        clock::sleep(REST).await;
        workload.send(&place, 3, PATIENCE).await;
        let woken = workload.leader(&place).await;
        if woken != Some(leader) {
            let what =
                format!("a quiet group wakes under its leader: node {leader} led it, and then {woken:?}");
            stage.history.complain("O-27", what);
        }
        clock::sleep(REST).await;

        let network = cluster.network().clone();
        match seed % 3 {
            0 => {
                cluster.crash(leader, Crash::Kill, &mut stage.dice).await;
            }
            1 => {
                cluster.crash(leader, Crash::PowerCut, &mut stage.dice).await;
            }
            _ => {
                for other in cluster.nodes().into_iter().filter(|other| *other != leader) {
                    network.cut(Host::Node(leader), Host::Node(other));
                    network.cut(Host::Node(other), Host::Node(leader));
                }
            }
        }
        workload.send(&place, 3, PATIENCE).await;
        network.mend_all();
        cluster.start(leader).await;
        workload.send(&place, 3, PATIENCE).await;
    })
}
