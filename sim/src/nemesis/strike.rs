//! How each kind of fault strikes.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "each function is handed the kinds that are its own, and no others"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_proto::ids::NodeId;

use super::kinds::Kind;
use super::mends::Mend;
use super::{Nemesis, shapes};
use crate::cluster::{Brought, Cluster, Crash, Order, Start};
use crate::dice::Dice;
use crate::env::clock;
use crate::env::disk::{DirtyPages, Operation, Pace};
use crate::env::network::{Lose, Narrow};
use crate::env::tasks::Host;
use crate::trace::Event;

const MS: Duration = Duration::from_millis(1);
/// How long a moment to strike at is waited for.
const AIM_MAX: Duration = Duration::from_millis(300);

impl Nemesis {
    /// Makes the wires and the clocks as bad as planned, for as long as the faults last.
    pub(super) fn spoil(&mut self, cluster: &Cluster) {
        let nodes = cluster.nodes();
        if self.plan.wires.are_bad() {
            let network = cluster.network();
            let usual = network.profile();
            let bad = self.plan.wires.over(usual);
            if self.dice.chance(500) {
                network.set_profile(bad);
            } else {
                // Some links alone, each way by itself.
                for from in &nodes {
                    for to in nodes.iter().filter(|to| *to != from) {
                        if self.dice.chance(400) {
                            network.set_link(Host::Node(*from), Host::Node(*to), bad);
                        }
                    }
                }
            }
        }
        if self.plan.drift_ppm > 0 {
            for node in nodes {
                let drift = self.dice.below(2 * self.plan.drift_ppm + 1);
                let drift =
                    i64::try_from(drift).unwrap_or(0) - i64::try_from(self.plan.drift_ppm).unwrap_or(0);
                cluster.note(Event::Fault(format!("the clock of node{node} drifts by {drift} ppm")));
                cluster.clock(node).set_drift(i32::try_from(drift).unwrap_or(0));
                cluster.tally().count("clock drift");
            }
        }
    }

    pub(super) async fn strike(&mut self, cluster: &mut Cluster) {
        let Some(kind) = self.plan.next(&mut self.dice) else { return };
        let nodes = cluster.nodes();
        let aims = match kind {
            Kind::Strand => true,
            Kind::Kill | Kind::PowerCut | Kind::Pause | Kind::Partition | Kind::Stall | Kind::FailSync => {
                self.dice.chance(400)
            }
            _ => false,
        };
        let writer = if aims { self.writer(cluster).await } else { None };
        let node = writer.unwrap_or_else(|| self.node(cluster, &nodes));
        let until = clock::now() + self.time();
        match kind {
            Kind::Kill | Kind::PowerCut | Kind::CutAtOperation | Kind::CrashLoop | Kind::All => {
                self.crash(cluster, kind, node, until).await;
            }
            Kind::CutLink | Kind::Clog | Kind::Reset => self.part(cluster, kind, node, until),
            Kind::Partition => self.fall_apart(cluster, writer),
            Kind::Strand => self.strand(cluster, node),
            Kind::LoseRequest | Kind::LoseReply | Kind::HalfOpen | Kind::Narrow => {
                if let Some(other) = self.other(&nodes, node) {
                    self.touch_wire(cluster, kind, Host::Node(node), Host::Node(other));
                }
            }
            Kind::Step | Kind::Leap | Kind::Freeze | Kind::Strobe => {
                self.touch_clock(cluster, kind, node, until)
            }
            Kind::Pause => {
                let time = self.dice.time(10 * MS, 60_000 * MS);
                if cluster.pause(node) {
                    self.mend_at(clock::now() + time, Mend::Resume(node));
                }
            }
            Kind::Slow => {
                let wait_max = self.dice.time(MS / 10, 3 * MS);
                if cluster.slow_down(node, wait_max) {
                    cluster.tally().count("slow node");
                    self.mend_at(until, Mend::Quick(node));
                }
            }
            Kind::Stop => {
                cluster.stop(node);
            }
            Kind::Transfer => {
                if let Some(to) = self.other(&nodes, node) {
                    let all = self.dice.chance(300);
                    let at = self.dice.place(1_000);
                    cluster.transfer(node, to, (!all).then_some(at));
                }
            }
            Kind::Rolling => {
                cluster.tally().count("rolling restart");
                let mut at = clock::now();
                for node in nodes {
                    self.mend_at(at, Mend::Stop(node));
                    at += self.dice.time(100 * MS, 6_000 * MS);
                }
            }
            // While somebody is to admit a node's new disk, it would be the stranger's that is admitted.
            Kind::Stranger => {
                if !cluster.orders().all().contains(&Order::Replace(node)) {
                    self.bring_stranger(cluster, &nodes, node, until).await;
                }
            }
            Kind::SlowDisk => {
                let read_max = self.dice.time(MS / 100, 20 * MS);
                let write_max = self.dice.time(MS / 100, 5 * MS);
                let sync_max = self.dice.time(MS, 1_000 * MS);
                let pace = Pace { sync_min: MS / 10, sync_max, read_max, write_max };
                cluster.set_pace(node, Some(pace), &mut self.dice);
                cluster.tally().count("slow disk");
                self.mend_at(until, Mend::Disk(node));
            }
            Kind::Stall => {
                let operation =
                    [Operation::Read, Operation::Write, Operation::Sync, Operation::Sync][self.dice.place(4)];
                let time = self.dice.time(100 * MS, 10_000 * MS);
                cluster.stall_disk(node, operation, time);
            }
            Kind::FailSync => {
                let pages = if self.dice.chance(500) { DirtyPages::Dropped } else { DirtyPages::Kept };
                let successes = self.dice.below(10);
                cluster.fail_sync(node, successes, pages);
            }
            Kind::Rot | Kind::LoseVolume | Kind::LoseMeta | Kind::LoseTail => {
                self.damage(cluster, kind, node, until).await;
            }
            Kind::DiskFull => {
                // The reserve is touched and not used up.
                let reserve = cluster.disk_reserve();
                let left = self.dice.between(reserve / 4, reserve - 1);
                if cluster.fill_disk(node, left) {
                    cluster.tally().count("full disk");
                    self.mend_at(until, Mend::Room(node));
                }
            }
            Kind::Enospc => {
                // Counted when a write finds no room.
                let left = self.dice.below(20_000);
                if cluster.fill_disk(node, left) {
                    self.mend_at(until, Mend::Room(node));
                }
            }
            Kind::CutClient
            | Kind::LoseClientRequest
            | Kind::LoseClientReply
            | Kind::ResetClient
            | Kind::SlowReader
            | Kind::PauseClient
            | Kind::StepClient => self.touch_client(cluster, kind, node, until),
            Kind::LoseDisk | Kind::Leave | Kind::Reassign => self.change_members(cluster, kind, node).await,
            // These are there all the time, or at restarts.
            Kind::Loss
            | Kind::Tail
            | Kind::Repetition
            | Kind::Flip
            | Kind::Drift
            | Kind::HourBack
            | Kind::CutInRecovery => {}
        }
    }

    /// One disk at a time, and only while nobody leaves: what lies on the other disks is a majority of all that counts.
    async fn change_members(&mut self, cluster: &mut Cluster, kind: Kind, node: NodeId) {
        cluster.welcome_back().await;
        let nodes = cluster.nodes();
        let is_whole = cluster.damaged().is_none();
        let is_free =
            is_whole && cluster.orders().are_done() && !nodes.iter().any(|node| cluster.is_stranger(*node));
        match kind {
            Kind::LoseDisk if is_free && nodes.len() >= 3 => {
                self.loops.remove(&node);
                self.mends.retain(|(_, mend)| !matches!(mend, Mend::Start(of, _) if *of == node));
                cluster.resume(node);
                cluster.spare_disk(node);
                cluster.lose_disk(node).await;
            }
            Kind::Leave if is_free && nodes.len() >= 4 => {
                cluster.note(Event::Fault(format!("node{node} is to leave")));
                cluster.tally().count("node leaves");
                cluster.orders().leave(node);
            }
            Kind::Reassign => cluster.orders().move_one(),
            _ => {}
        }
    }

    async fn crash(&mut self, cluster: &mut Cluster, kind: Kind, node: NodeId, until: Duration) {
        match kind {
            Kind::All => {
                let how = if self.dice.chance(300) { Crash::Kill } else { Crash::PowerCut };
                cluster.tally().count("all at once");
                for node in cluster.nodes() {
                    if cluster.crash(node, how, &mut self.dice).await {
                        let (start, time) = (self.draw_start(), self.time());
                        self.mend_at(clock::now() + time, Mend::Start(node, start));
                    }
                }
            }
            Kind::CutAtOperation | Kind::CrashLoop => {
                // What falls by itself is started where that is noticed.
                if kind == Kind::CrashLoop {
                    let again = self.dice.between(1, 4);
                    self.loops.insert(node, again);
                    cluster.tally().count("crash loop");
                }
                let ahead = self.dice.between(1, 60);
                cluster.crash(node, Crash::PowerCutAtOperation(ahead), &mut self.dice).await;
            }
            _ => {
                let how = if kind == Kind::Kill { Crash::Kill } else { Crash::PowerCut };
                if !cluster.is_stranger(node) && cluster.crash(node, how, &mut self.dice).await {
                    let start = self.draw_start();
                    self.mend_at(until, Mend::Start(node, start));
                }
            }
        }
    }

    fn part(&mut self, cluster: &Cluster, kind: Kind, node: NodeId, until: Duration) {
        let nodes = cluster.nodes();
        let network = cluster.network();
        let Some(other) = self.other(&nodes, node) else { return };
        let (one, other) = (Host::Node(node), Host::Node(other));
        match kind {
            Kind::CutLink => {
                cluster.note(Event::Fault(format!("cuts {one} -> {other}")));
                network.cut(one, other);
                self.mend_at(until, Mend::Link(one, other));
                if self.dice.chance(500) {
                    cluster.note(Event::Fault(format!("cuts {other} -> {one}")));
                    network.cut(other, one);
                    self.mend_at(until, Mend::Link(other, one));
                }
                cluster.tally().count("cut link");
            }
            Kind::Clog => {
                let time = self.dice.time(10 * MS, 5_000 * MS);
                cluster.note(Event::Fault(format!("clogs {one} -> {other} for {time:?}")));
                network.clog(one, other, time);
                cluster.tally().count("clog");
            }
            _ => {
                cluster.note(Event::Fault(format!("resets what joins {one} and {other}")));
                if network.reset(one, other) > 0 {
                    cluster.tally().count("reset");
                }
            }
        }
    }

    /// The nodes fall apart. `writer`: who leads and has entries to replicate, if that was waited for.
    fn fall_apart(&mut self, cluster: &Cluster, writer: Option<NodeId>) {
        let nodes = cluster.nodes();
        let most = nodes.iter().copied().max_by_key(|node| (cluster.leads(*node).len(), *node));
        let most = writer.or(most);
        let (name, cut) = shapes::draw(&nodes, most, &mut self.dice);
        let time = self.dice.time(100 * MS, 60_000 * MS);
        self.cut(cluster, name, cut, most, time);
    }

    /// Who leads writes on, and nobody follows: its tail grows, and conflicts with what others write meanwhile.
    fn strand(&mut self, cluster: &Cluster, node: NodeId) {
        let others = cluster.nodes().into_iter().filter(|other| *other != node);
        let deaf = self.dice.chance(800);
        let cut = others.flat_map(|other| [(node, other), (other, node)]);
        let cut = cut.filter(|(from, _)| deaf || *from == node).collect();
        let time = self.dice.time(500 * MS, 10_000 * MS);
        self.cut(cluster, "stranded leader", cut, Some(node), time);
    }

    fn cut(
        &mut self,
        cluster: &Cluster,
        name: &'static str,
        cut: BTreeSet<(NodeId, NodeId)>,
        leader: Option<NodeId>,
        time: Duration,
    ) {
        if cut.is_empty() {
            return;
        }
        if let Some(leader) = leader
            && cut.iter().any(|(_, to)| *to == leader)
            && cluster.has_writes_pending(leader)
        {
            cluster.marks().reached("leader-isolated-with-writes-pending");
        }
        let until = clock::now() + time;
        let said = cut.iter().map(|(from, to)| format!(" {from}->{to}")).collect::<String>();
        cluster.note(Event::Fault(format!("{name}:{said}, for {time:?}")));
        for (from, to) in cut {
            let (from, to) = (Host::Node(from), Host::Node(to));
            cluster.network().cut(from, to);
            self.mend_at(until, Mend::Link(from, to));
        }
        cluster.tally().count(name);
    }

    fn touch_wire(&mut self, cluster: &Cluster, kind: Kind, from: Host, to: Host) {
        let network = cluster.network();
        match kind {
            Kind::HalfOpen => {
                cluster.note(Event::Fault(format!("what joins {from} and {to} passes nothing any more")));
                if network.hollow(from, to) > 0 {
                    cluster.tally().count("half-open connection");
                }
            }
            Kind::Narrow | Kind::SlowReader => {
                let frames_max = self.dice.place(19) + 2;
                let bytes_per_second = 1_000 << self.dice.below(10);
                let narrow = Narrow { frames_max, bytes_per_second };
                cluster.note(Event::Fault(format!(
                    "{from} -> {to} carries {frames_max} frames at a time, {bytes_per_second} bytes a second"
                )));
                network.narrow(from, to, narrow);
                cluster.tally().count(if kind == Kind::Narrow { "narrow link" } else { "slow reader" });
            }
            _ => {
                let (what, name) = match kind {
                    Kind::LoseRequest | Kind::LoseClientRequest => (Lose::Request, "request"),
                    _ => (Lose::Reply, "reply"),
                };
                cluster.note(Event::Fault(format!("loses the next {name} of {from} to {to}")));
                // Counted when it is lost.
                network.lose(from, to, what);
            }
        }
    }

    fn touch_clock(&mut self, cluster: &Cluster, kind: Kind, node: NodeId, until: Duration) {
        let clock = cluster.clock(node);
        let (what, time) = match kind {
            Kind::Step => {
                let by = step(&mut self.dice);
                clock.step_wall(by);
                self.mend_at(until, Mend::StepBack(node, -by));
                ("clock step", format!("steps the wall clock of node{node} by {by} ms"))
            }
            Kind::Leap => {
                // An hour is for machines that slept; most sleep shorter.
                let by = self.dice.time(100 * MS, 3_600_000 * MS);
                clock.leap(by);
                // The wall clock is set right, as time is asked for on waking.
                clock.step_wall(-i64::try_from(by.as_millis()).unwrap_or(0));
                ("clock leap", format!("the clock of node{node} leaps by {by:?}"))
            }
            Kind::Freeze => {
                clock.freeze(true);
                let time = self.dice.time(10 * MS, 30_000 * MS);
                self.mend_at(clock::now() + time, Mend::Thaw(node));
                ("clock freeze", format!("freezes the clock of node{node} for {time:?}"))
            }
            _ => {
                let by = step(&mut self.dice);
                let times = u32::try_from(self.dice.between(2, 20)).unwrap_or(2);
                clock.step_wall(by);
                // An even number of steps to and fro.
                self.mend_at(clock::now() + 200 * MS, Mend::Strobe(node, -by, times / 2 * 2));
                ("clock strobe", format!("steps the wall clock of node{node} by {by} ms to and fro"))
            }
        };
        cluster.note(Event::Fault(time));
        cluster.tally().count(what);
    }

    /// The node comes back with a disk that is not its own.
    async fn bring_stranger(
        &mut self,
        cluster: &mut Cluster,
        nodes: &[NodeId],
        node: NodeId,
        until: Duration,
    ) {
        let strangers = nodes.iter().any(|node| cluster.is_stranger(*node));
        // Alone, or as one of two strangers, it could found a cluster of its own.
        let Some(other) = self.other(nodes, node).filter(|_| !strangers) else { return };
        let how = if self.dice.chance(500) { Crash::Kill } else { Crash::PowerCut };
        if !cluster.crash(node, how, &mut self.dice).await {
            return;
        }
        let disk = if self.dice.chance(600) { Brought::Empty } else { Brought::CopyOf(other) };
        cluster.start_as(node, Start { disk, ..Start::default() }).await;
        self.mend_at(until, Mend::GiveBack(node));
    }

    fn touch_client(&mut self, cluster: &Cluster, kind: Kind, node: NodeId, until: Duration) {
        let network = cluster.network();
        let clients = network.clients();
        if clients.is_empty() {
            return;
        }
        let client = clients[self.dice.place(clients.len())];
        let node = Host::Node(node);
        match kind {
            Kind::CutClient => {
                // From one node, or from all but one, or from all; one way or both.
                let nodes = cluster.nodes().into_iter().map(Host::Node).collect::<Vec<_>>();
                let cut = match self.dice.below(3) {
                    0 => vec![node],
                    1 => nodes.into_iter().filter(|other| *other != node).collect(),
                    _ => nodes,
                };
                let ways = self.dice.below(3);
                let names = cut.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                cluster.note(Event::Fault(format!("cuts {client} off from {names}")));
                for node in cut {
                    let there = (ways != 1).then_some((client, node));
                    let back = (ways != 0).then_some((node, client));
                    for (from, to) in [there, back].into_iter().flatten() {
                        network.cut(from, to);
                        self.mend_at(until, Mend::Link(from, to));
                    }
                }
                cluster.tally().count("cut client");
            }
            Kind::ResetClient => {
                cluster.note(Event::Fault(format!("resets what joins {client} and {node}")));
                if network.reset(client, node) > 0 {
                    cluster.tally().count("reset client");
                }
            }
            Kind::PauseClient => {
                if let Some(life) = network.client(client).filter(|life| !life.is_paused()) {
                    cluster.note(Event::Fault(format!("pauses {client}")));
                    life.pause();
                    cluster.tally().count("pause of a client");
                    self.mend_at(until, Mend::ResumeClient(client));
                }
            }
            Kind::StepClient => {
                if let Some(clock) = network.client_clock(client) {
                    // Within what nodes take: what is further ahead is refused, which shows nothing.
                    let by = step(&mut self.dice).min(1_800_000);
                    cluster.note(Event::Fault(format!("steps the wall clock of {client} by {by} ms")));
                    clock.step_wall(by);
                    cluster.tally().count("clock step of a client");
                    self.mend_at(until, Mend::StepClientBack(client, -by));
                }
            }
            Kind::SlowReader => self.touch_wire(cluster, kind, node, client),
            _ => self.touch_wire(cluster, kind, client, node),
        }
    }

    /// Who is struck: anybody, or who leads most.
    fn node(&mut self, cluster: &Cluster, nodes: &[NodeId]) -> NodeId {
        let any = nodes[self.dice.place(nodes.len())];
        if !self.dice.chance(300) {
            return any;
        }
        nodes.iter().copied().max_by_key(|node| (cluster.leads(*node).len(), *node)).unwrap_or(any)
    }

    /// A node that leads and has entries which nobody has answered for: most of what can go wrong goes wrong then, and
    /// the moments are short. `None` if no such moment comes.
    async fn writer(&mut self, cluster: &mut Cluster) -> Option<NodeId> {
        let give_up = clock::now() + AIM_MAX;
        loop {
            let nodes = cluster.nodes().into_iter();
            let writers = nodes.filter(|node| cluster.has_writes_pending(*node)).collect::<Vec<_>>();
            if !writers.is_empty() {
                let writer = writers[self.dice.place(writers.len())];
                // Some of the entries arrive, some answers too.
                let later = clock::now() + self.dice.time(MS / 50, 10 * MS);
                self.wait(cluster, later).await;
                return Some(writer);
            }
            if clock::now() >= give_up {
                return None;
            }
            self.wait(cluster, clock::now() + 3 * MS).await;
        }
    }

    pub(super) fn other(&mut self, nodes: &[NodeId], than: NodeId) -> Option<NodeId> {
        let others = nodes.iter().copied().filter(|node| *node != than).collect::<Vec<_>>();
        (!others.is_empty()).then(|| others[self.dice.place(others.len())])
    }

    pub(super) fn mend_at(&mut self, at: Duration, mend: Mend) {
        self.mends.push((at, mend));
    }
}

/// From a millisecond to a day, ahead or back.
fn step(dice: &mut Dice) -> i64 {
    let by = i64::try_from(dice.time(MS, 86_400_000 * MS).as_millis()).unwrap_or(1);
    if dice.chance(500) { by } else { -by }
}
