//! The course of a run: the nodes' first start, warm-up, faults, some faults for good outside of a core, everything mended.

use std::time::Duration;

use quorate_proto::ids::NodeId;

use super::mends::Mend;
use super::{Nemesis, Plan};
use crate::cluster::{Cluster, Crash, Start};
use crate::dice::Dice;
use crate::env::clock;
use crate::env::disk::{Operation, Pace};
use crate::env::tasks::Host;
use crate::run::Stage;
use crate::trace::Event;

/// How long clients work before the first fault.
const WARM_UP: Duration = Duration::from_secs(3);
/// How long faults strike, if nothing else was asked for: with the start and the last scan a run comes to a minute.
const FAULTS: Duration = Duration::from_secs(36);
/// How long a part of the nodes stays broken while the rest must work.
const FROZEN: Duration = Duration::from_secs(9);
/// How long changes of members may take, once all is mended.
const MEMBERS: Duration = Duration::from_secs(60);
/// How long clients go on after everything was mended.
const HEALED: Duration = Duration::from_secs(8);

/// Plays the phases, from the first start of the nodes.
pub async fn play(stage: &mut Stage, plan: Plan, dice: Dice, faults_for: Option<Duration>) {
    let mut nemesis = Nemesis::new(plan, dice);
    nemesis.first_starts(&mut stage.cluster).await;
    stage.open().await;
    stage.workload.begin();
    if nemesis.plan.has_operator() {
        stage.workload.operate(stage.cluster.orders().clone());
    }
    let cluster = &mut stage.cluster;
    let began = clock::now();
    phase(cluster, "warm-up: clients work, and nothing strikes");
    clock::sleep(WARM_UP).await;
    phase(cluster, if nemesis.plan.calm { "calm: hardly anything strikes" } else { "faults strike" });
    nemesis.spoil(cluster);
    nemesis.strike_until(cluster, began + WARM_UP + faults_for.unwrap_or(FAULTS)).await;
    if nemesis.plan.has_operator() {
        phase(cluster, "what was begun of members' coming and going ends");
        nemesis.settle_members(cluster).await;
    }
    if nemesis.plan.calm {
        nemesis.wait(cluster, clock::now() + FROZEN).await;
    } else {
        nemesis.freeze(cluster).await;
    }
    phase(cluster, "everything is mended, clients go on");
    cluster.probes().points.end();
    nemesis.mend_all(cluster).await;
    cluster.healed(cluster.nodes());
    nemesis.wait(cluster, clock::now() + HEALED).await;
    cluster.observer().settled(HEALED);
}

fn phase(cluster: &Cluster, what: &str) {
    cluster.note(Event::Fault(format!("phase: {what}")));
}

impl Nemesis {
    /// Mends everything, and waits until nobody waits to be admitted, nor is to leave.
    async fn settle_members(&mut self, cluster: &mut Cluster) {
        self.mend_all(cluster).await;
        self.whole.clear();
        let late = clock::now() + MEMBERS;
        while !cluster.orders().are_done() {
            if clock::now() > late {
                let orders = cluster.orders().all();
                let what = format!(
                    "changes of members end once all is mended: {MEMBERS:?} later there are {orders:?}"
                );
                cluster.history().complain("O-27", what);
                return;
            }
            cluster.welcome_back().await;
            self.wait(cluster, clock::now() + Duration::from_millis(100)).await;
        }
    }

    /// Nodes that start for the first time fall on the way, and form a cluster all the same.
    async fn first_starts(&mut self, cluster: &mut Cluster) {
        if !self.plan.rough_start {
            return;
        }
        let nodes = cluster.nodes();
        let mistaken = nodes[self.dice.place(nodes.len())];
        for node in &nodes {
            let cut_after = self.dice.chance(500).then(|| self.dice.between(1, 60));
            // Two that name each other alone would form a cluster of their own, as they were told to.
            let forgets = self.other(&nodes, *node).filter(|_| *node == mistaken && nodes.len() > 2);
            cluster.start_as(*node, Start { cut_after, forgets, ..Start::default() }).await;
            let time = self.dice.time(Duration::from_millis(1), Duration::from_millis(500));
            self.wait(cluster, clock::now() + time).await;
        }
        for _ in 0..self.dice.below(4) {
            let node = nodes[self.dice.place(nodes.len())];
            let how = if self.dice.chance(500) { Crash::Kill } else { Crash::PowerCut };
            if cluster.crash(node, how, &mut self.dice).await {
                let (start, time) = (self.draw_start(), self.time());
                self.mend_at(clock::now() + time, Mend::Start(node, start));
            }
            let time = self.dice.time(Duration::from_millis(10), Duration::from_millis(500));
            self.wait(cluster, clock::now() + time).await;
        }
        cluster.crash(mistaken, Crash::Kill, &mut self.dice).await;
        self.make_whole(cluster, &nodes).await;
        self.whole.clear();
        cluster.tally().count("rough first start");
    }

    /// Mends a core of the nodes, breaks the others for good, and sees to it that the core works.
    async fn freeze(&mut self, cluster: &mut Cluster) {
        let nodes = cluster.nodes();
        self.until_whole(cluster).await;
        let mut shuffled = nodes.clone();
        for place in (1..shuffled.len()).rev() {
            shuffled.swap(place, self.dice.place(place + 1));
        }
        let outside = shuffled.split_off(nodes.len() / 2 + 1);
        let core = shuffled;
        let names = |nodes: &[NodeId]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let (whole, broken) = (names(&core), names(&outside));
        cluster.note(Event::Fault(format!(
            "phase: from now on of the nodes {whole} are whole, and {broken} broken"
        )));
        cluster.network().mend_all();
        self.make_whole(cluster, &core).await;
        // Of what was to be mended, the nodes that are down stay: they come back, and are broken.
        self.mends.retain(|(_, mend)| {
            matches!(mend, Mend::Start(..) | Mend::GiveBack(_) | Mend::StepClientBack(..))
        });
        for client in cluster.network().clients() {
            self.mend(cluster, Mend::ResumeClient(client)).await;
        }
        for node in outside {
            self.break_for_good(cluster, node, &core).await;
        }
        // What was done to the core before may still stop one of it, or hold up its disk.
        let settled = clock::now() + Duration::from_secs(1);
        self.wait(cluster, settled.max(cluster.disks_answer_at(&core))).await;
        cluster.healed(core);
        self.wait(cluster, clock::now() + FROZEN).await;
    }

    async fn break_for_good(&mut self, cluster: &mut Cluster, node: NodeId, core: &[NodeId]) {
        let here = Host::Node(node);
        let others = cluster.nodes().into_iter().filter(|other| *other != node).map(Host::Node);
        let others = others.collect::<Vec<_>>();
        let network = cluster.network().clone();
        match self.dice.below(9) {
            0 => {
                if cluster.is_stranger(node) {
                    cluster.give_back(node).await;
                }
                cluster.crash(node, Crash::PowerCut, &mut self.dice).await;
                self.mends.retain(|(_, mend)| !matches!(mend, Mend::Start(of, _) if *of == node));
            }
            way @ 1..=3 => {
                cluster.note(Event::Fault(format!("cuts {here} off for good")));
                for other in others {
                    if way != 2 {
                        network.cut(here, other);
                    }
                    if way != 3 {
                        network.cut(other, here);
                    }
                }
            }
            4 => {
                cluster.pause(node);
            }
            5 => {
                let second = Duration::from_secs(1);
                let pace = Pace {
                    sync_min: second / 10,
                    sync_max: second,
                    read_max: second / 20,
                    write_max: second / 100,
                };
                cluster.set_pace(node, Some(pace), &mut self.dice);
                cluster.stall_disk(node, Operation::Sync, 8 * second);
            }
            6 => {
                cluster.note(Event::Fault(format!("freezes the clock of {here} for good")));
                cluster.clock(node).freeze(true);
            }
            7 => {
                // Its disk stays nearly full: the core has room.
                let left = cluster.disk_reserve() / 4;
                cluster.fill_disk(node, left);
            }
            _ => {
                // Whole, but for its way to one of the core.
                let one = Host::Node(core[self.dice.place(core.len())]);
                cluster.note(Event::Fault(format!("cuts {here} -> {one} for good")));
                network.cut(here, one);
            }
        }
        cluster.tally().count("frozen outside the core");
    }
}
