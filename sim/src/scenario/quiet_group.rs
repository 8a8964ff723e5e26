//! A group falls quiet, keeps its leader through a long time without heartbeats, and wakes under the same one. Then, quiet
//! again, it loses that leader: the process is killed, the machine loses power, it is cut off in silence, or its clock
//! stands still while it goes on answering.

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
        let leader = match cluster.nodes().into_iter().max() {
            // It sends no beats to the others: its answers stand for them.
            Some(last) if seed % 4 == 3 && last != leader => {
                cluster.transfer(leader, last, None);
                last
            }
            _ => leader,
        };
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
        match seed % 4 {
            0 => {
                cluster.crash(leader, Crash::Kill, &mut stage.dice).await;
            }
            1 => {
                cluster.crash(leader, Crash::PowerCut, &mut stage.dice).await;
            }
            2 => {
                for other in cluster.nodes().into_iter().filter(|other| *other != leader) {
                    network.cut(Host::Node(leader), Host::Node(other));
                    network.cut(Host::Node(other), Host::Node(leader));
                }
            }
            _ => {
                cluster.clock(leader).freeze(true);
                clock::sleep(REST).await;
                let now = workload.leader(&place).await;
                if now.is_none_or(|now| now == leader) {
                    let what = format!("node {leader}, whose clock stands still, is missed: {now:?} leads");
                    stage.history.complain("O-27", what);
                }
            }
        }
        workload.send(&place, 3, PATIENCE).await;
        network.mend_all();
        cluster.clock(leader).freeze(false);
        cluster.start(leader).await;
        workload.send(&place, 3, PATIENCE).await;
    })
}
