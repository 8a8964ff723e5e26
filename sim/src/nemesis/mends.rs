//! How faults end.

use std::time::Duration;

use quorate_proto::ids::NodeId;

use super::{Nemesis, SETTLE};
use crate::cluster::{Cluster, Start};
use crate::env::clock;
use crate::env::tasks::{Host, Life};
use crate::trace::Event;

/// What ends a fault.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mend {
    /// A node is started.
    Start(NodeId, Start),
    /// A node gets its own disk back, and is started.
    GiveBack(NodeId),
    /// A link is whole again, one way.
    Link(Host, Host),
    /// A paused node goes on.
    Resume(NodeId),
    /// A node is as quick as before.
    Quick(NodeId),
    /// A node's disk is as quick as before.
    Disk(NodeId),
    /// There is room on a node's disk again.
    Room(NodeId),
    /// A wall clock is set right by so much.
    StepBack(NodeId, i64),
    /// A wall clock is stepped by so much, and back, so many times more.
    Strobe(NodeId, i64, u32),
    /// A clock goes on.
    Thaw(NodeId),
    /// What has rotted on a node's disk can be read again.
    Heal(NodeId),
    /// A client goes on.
    ResumeClient(Host),
    /// A client's wall clock is set right by so much.
    StepClientBack(Host, i64),
    /// The next node of a rolling restart is asked to stop.
    Stop(NodeId),
}

impl Nemesis {
    pub(super) async fn mend(&mut self, cluster: &mut Cluster, mend: Mend) {
        match mend {
            Mend::Start(node, start) => {
                if !cluster.is_stranger(node) {
                    cluster.start_as(node, start).await;
                }
            }
            Mend::GiveBack(node) => {
                cluster.give_back(node).await;
                let start = self.draw_start();
                cluster.start_as(node, start).await;
            }
            Mend::Link(from, to) => {
                cluster.note(Event::Fault(format!("mends {from} -> {to}")));
                cluster.network().mend(from, to);
            }
            Mend::Resume(node) => cluster.resume(node),
            Mend::Quick(node) => {
                cluster.slow_down(node, Duration::ZERO);
            }
            Mend::Disk(node) => cluster.set_pace(node, None, &mut self.dice),
            Mend::Room(node) => cluster.make_room(node),
            Mend::StepBack(node, by) => {
                cluster.note(Event::Fault(format!("sets the wall clock of node{node} right by {by} ms")));
                cluster.clock(node).step_wall(by);
            }
            Mend::Strobe(node, by, left) => {
                cluster.clock(node).step_wall(by);
                if left > 0 {
                    let next = clock::now() + Duration::from_millis(200);
                    self.mends.push((next, Mend::Strobe(node, -by, left - 1)));
                }
            }
            Mend::Thaw(node) => {
                cluster.note(Event::Fault(format!("the clock of node{node} goes on")));
                cluster.clock(node).freeze(false);
            }
            Mend::Heal(node) => cluster.heal_disk(node),
            Mend::ResumeClient(client) => {
                let paused = cluster.network().client(client).filter(Life::is_paused);
                if let Some(life) = paused {
                    cluster.note(Event::Fault(format!("resumes {client}")));
                    life.resume();
                }
            }
            Mend::Stop(node) => {
                cluster.stop(node);
            }
            Mend::StepClientBack(client, by) => {
                if let Some(clock) = cluster.network().client_clock(client) {
                    clock.step_wall(by);
                }
            }
        }
    }

    /// Mends everything that is known to be broken, and waits until what was done before has shown.
    pub(super) async fn mend_all(&mut self, cluster: &mut Cluster) {
        cluster.note(Event::Fault("mends everything".to_owned()));
        let nodes = cluster.nodes();
        self.make_whole(cluster, &nodes).await;
        cluster.network().mend_all();
        for client in cluster.network().clients() {
            self.mend(cluster, Mend::ResumeClient(client)).await;
        }
        for (_, mend) in std::mem::take(&mut self.mends) {
            if matches!(mend, Mend::StepClientBack(..)) {
                self.mend(cluster, mend).await;
            }
        }
        // A node may yet stop itself, because of what was done to it before.
        self.wait(cluster, (clock::now() + SETTLE).max(cluster.disks_answer_at(&nodes))).await;
    }

    /// Ends all that was done to these nodes themselves, and starts them.
    pub(super) async fn make_whole(&mut self, cluster: &mut Cluster, nodes: &[NodeId]) {
        self.loops.retain(|node, _| !nodes.contains(node));
        self.whole.extend(nodes);
        for node in nodes {
            cluster.resume(*node);
            cluster.slow_down(*node, Duration::ZERO);
            cluster.spare_disk(*node);
            cluster.heal_disk(*node);
            cluster.make_room(*node);
            cluster.set_pace(*node, None, &mut self.dice);
            let clock = cluster.clock(*node);
            clock.freeze(false);
            let ahead = clock.wall_ahead_ms();
            if ahead.abs() > 600_000 {
                clock.step_wall(-ahead);
            }
            cluster.give_back(*node).await;
        }
        let is_theirs = |mend: &Mend| match mend {
            Mend::Start(node, _)
            | Mend::GiveBack(node)
            | Mend::Resume(node)
            | Mend::Quick(node)
            | Mend::Disk(node)
            | Mend::Room(node)
            | Mend::StepBack(node, _)
            | Mend::Strobe(node, ..)
            | Mend::Stop(node)
            | Mend::Thaw(node)
            | Mend::Heal(node) => nodes.contains(node),
            Mend::Link(..) | Mend::ResumeClient(_) | Mend::StepClientBack(..) => false,
        };
        self.mends.retain(|(_, mend)| !is_theirs(mend));
        for node in nodes {
            cluster.start(*node).await;
        }
    }
}
