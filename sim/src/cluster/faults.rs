//! What can be done to a node: crashes, pauses, clocks, disks; and what is seen of it from outside.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_node::raft::Role;
use quorate_proto::ids::{GroupId, NodeId};

use super::{Cluster, Crash};
use crate::dice::Dice;
use crate::env::clock::{self, SimClock};
use crate::env::disk::{DirtyPages, Operation, Pace, SimDisk};
use crate::env::tasks::{Host, Life};
use crate::trace::Event;

/// Whose disk a node comes with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Brought {
    /// Its own.
    #[default]
    Own,
    /// A new one: what the node has acknowledged is not on it.
    Empty,
    /// A copy of another node's.
    CopyOf(NodeId),
}

/// How a node starts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start {
    /// The power goes after so many disk operations, which may be while it still recovers.
    pub cut_after: Option<u64>,
    /// Whose disk it comes with.
    pub disk: Brought,
    /// Its wall clock is an hour behind what it showed before.
    pub an_hour_back: bool,
    /// Its operator forgot to name this other node in `--bootstrap`.
    pub forgets: Option<NodeId>,
}

impl Cluster {
    /// Crashes a node; `false` if it was down.
    pub async fn crash(&mut self, node: NodeId, how: Crash, dice: &mut Dice) -> bool {
        if !self.is_up(node) {
            return false;
        }
        match how {
            Crash::Kill => {
                self.note(Event::Fault(format!("kills node{node}")));
                self.machine(node).disk.cut_power();
                self.end(node).await;
                self.machine(node).disk.kill();
                self.tally.count("kill");
            }
            Crash::PowerCut => {
                self.note(Event::Fault(format!("cuts the power of node{node}")));
                self.network.set_dark(Host::Node(node), true);
                self.before_a_power_cut(node);
                self.machine(node).disk.cut_power();
                self.end(node).await;
                self.machine(node).disk.crash(dice);
                self.reboot(node, dice);
                self.tally.count("power cut");
            }
            Crash::PowerCutAtOperation(ahead) => {
                let fault = format!("will cut the power of node{node} {ahead} disk operations ahead");
                self.note(Event::Fault(fault));
                let disk = &self.machine(node).disk;
                disk.cut_power_at(disk.operations() + ahead);
            }
        }
        self.mark_all_down();
        true
    }

    /// Asks a node to stop, as an operator does; `false` if it was not running. [`Cluster::fallen`] tells when it has.
    pub fn stop(&mut self, node: NodeId) -> bool {
        if !self.is_up(node) || self.running(node).is_none() {
            return false;
        }
        self.note(Event::Fault(format!("stops node{node}")));
        self.machine(node).stop.send_replace(true);
        self.tally.count("stop");
        true
    }

    /// Has a node hand what it leads to another one: all of it, or the group at this place among them. The node does so in
    /// its own time, if it can.
    pub fn transfer(&self, node: NodeId, to: NodeId, place: Option<usize>) {
        let (Some(running), Some(life)) = (self.running(node), self.life(node)) else { return };
        let led = self.leads(node).into_iter().collect::<Vec<_>>();
        if led.is_empty() {
            return;
        }
        let chosen = match place {
            Some(place) => vec![led[place % led.len()]],
            None => led,
        };
        self.note(Event::Fault(format!("has node{node} hand {} groups to node{to}", chosen.len())));
        self.tally.count("leader transfer");
        let raft = running.raft().clone();
        let work = async move {
            for group in chosen {
                // It is refused where it cannot be done.
                drop(raft.transfer(group, to).await);
            }
        };
        drop(life.start("leader transfer", Box::pin(work)));
    }

    /// Clears away whoever ran in a node's place with a disk that is not the node's, and gives it its own back.
    pub async fn give_back(&mut self, node: NodeId) {
        if self.machine(node).own_disk.is_none() {
            return;
        }
        self.machine(node).disk.cut_power();
        self.end(node).await;
        self.machine(node).disk.forget_watchers();
        let machine = self.machines.get_mut(&node).expect("a node of this cluster");
        if let Some(own) = machine.own_disk.take() {
            machine.disk = own;
        }
        self.note(Event::Fault(format!("gives node{node} its own disk back")));
    }

    /// Puts another disk into a node that is down.
    pub(super) fn exchange_disk(&mut self, node: NodeId, brought: Brought) {
        let disk = match brought {
            Brought::Own => return,
            Brought::Empty => SimDisk::new(),
            Brought::CopyOf(other) => self.machine(other).disk.copy_of_platters(),
        };
        let (what, mark) = match brought {
            Brought::Own | Brought::Empty => ("an empty disk", "restart-on-an-empty-disk"),
            Brought::CopyOf(_) => ("the disk of another node", "restart-on-another-disk"),
        };
        disk.set_pace(self.knobs.pace, Dice::named(self.seed, &format!("disk brought to node {node}")));
        self.note(Event::Fault(format!("node{node} comes with {what}")));
        self.marks.reached(mark);
        self.tally.count("wrong disk");
        let machine = self.machines.get_mut(&node).expect("a node of this cluster");
        machine.own_disk = Some(std::mem::replace(&mut machine.disk, disk));
    }

    /// Whether a node runs, or tries to, with a disk that is not its own. It must be refused, whatever it says.
    pub fn is_stranger(&self, node: NodeId) -> bool {
        self.machine(node).own_disk.is_some()
    }

    /// No task of the node takes a step until it is resumed. `false` if it is down or paused already.
    pub fn pause(&mut self, node: NodeId) -> bool {
        let Some(life) = self.life(node).filter(|life| !life.is_paused()) else { return false };
        life.pause();
        self.network.set_paused(Host::Node(node), true);
        self.note(Event::Fault(format!("pauses node{node}")));
        self.tally.count("pause");
        let led = self.leads(node);
        self.machines.get_mut(&node).expect("a node of this cluster").paused = Some((clock::now(), led));
        true
    }

    /// Lets a paused node go on.
    pub fn resume(&mut self, node: NodeId) {
        let Some(life) = self.life(node).filter(Life::is_paused) else { return };
        let paused = self.machines.get_mut(&node).expect("a node of this cluster").paused.take();
        if let Some((since, led)) = paused
            && clock::now() - since > Duration::from_secs(2)
            && led.iter().any(|group| {
                self.nodes().into_iter().any(|other| other != node && self.leads(other).contains(group))
            })
        {
            // Another one leads by now; this one does not know.
            self.marks.reached("leader-resumed-after-a-pause");
        }
        self.note(Event::Fault(format!("resumes node{node}")));
        self.network.set_paused(Host::Node(node), false);
        life.resume();
    }

    /// Each step of the node's tasks waits for a processor, at most so long; not at all if zero.
    pub fn slow_down(&self, node: NodeId, wait_max: Duration) -> bool {
        let Some(life) = self.life(node) else { return false };
        self.note(Event::Fault(format!("node{node} waits up to {wait_max:?} for a processor")));
        life.slow_down(wait_max, Dice::named(self.seed, &format!("processor of node {node}")));
        true
    }

    /// A sync of this node fails after `successes` more; `false` if it is down.
    pub fn fail_sync(&mut self, node: NodeId, successes: u64, pages: DirtyPages) -> bool {
        if !self.is_up(node) {
            return false;
        }
        let then = match pages {
            DirtyPages::Dropped => "and its dirty pages are dropped",
            DirtyPages::Kept => "and its pages stay dirty",
        };
        self.note(Event::Fault(format!(
            "lets a sync of node{node} fail after {successes} that succeed, {then}"
        )));
        self.machine(node).disk.fail_sync_after(successes, pages);
        true
    }

    /// The next operation of this kind on the node's disk takes so long.
    pub fn stall_disk(&self, node: NodeId, operation: Operation, time: Duration) {
        self.note(Event::Fault(format!("the next {operation} of node{node} takes {time:?}")));
        self.machine(node).disk.stall_next(operation, time);
    }

    /// The node's disk is so slow from now on; as it was at first if `None`.
    pub fn set_pace(&self, node: NodeId, pace: Option<Pace>, dice: &mut Dice) {
        let said = match pace {
            None => format!("the disk of node{node} is as quick as before"),
            Some(Pace { sync_min, sync_max, read_max, write_max }) => format!(
                "the disk of node{node} is slow: syncs take {sync_min:?} to {sync_max:?}, reads up to {read_max:?}, \
                 writes up to {write_max:?}"
            ),
        };
        self.note(Event::Fault(said));
        self.machine(node).disk.set_pace(pace.unwrap_or(self.knobs.pace), Dice::new(dice.bits()));
    }

    /// There is room for `left` bytes more on the node's disk, and no more than that; `false` if it is down.
    pub fn fill_disk(&mut self, node: NodeId, left: u64) -> bool {
        if !self.is_up(node) {
            return false;
        }
        self.note(Event::Fault(format!("leaves room for {left} bytes on the disk of node{node}")));
        let disk = &self.machine(node).disk;
        disk.set_capacity(Some(disk.used() + left));
        true
    }

    /// There is room on the node's disk again, and on its own if another one is in its place.
    pub fn make_room(&self, node: NodeId) {
        let machine = self.machine(node);
        self.note(Event::Fault(format!("makes room on the disk of node{node}")));
        for disk in [Some(&machine.disk), machine.own_disk.as_ref()].into_iter().flatten() {
            disk.set_capacity(None);
        }
    }

    /// Takes back what threatens a node's disk.
    pub fn spare_disk(&self, node: NodeId) {
        self.machine(node).disk.spare();
    }

    /// A node's clock.
    pub fn clock(&self, node: NodeId) -> &SimClock {
        &self.machine(node).clock
    }

    /// Whether its process runs, or tries to start.
    pub fn is_up(&self, node: NodeId) -> bool {
        self.life(node).is_some()
    }

    /// The groups that a node leads, in its own eyes.
    pub fn leads(&self, node: NodeId) -> BTreeSet<GroupId> {
        let Some(running) = self.running(node) else { return BTreeSet::new() };
        let groups = running.store().groups().into_iter();
        let leads = |group: &GroupId| {
            let group = running.raft().group(*group);
            group.is_some_and(|group| matches!(group.role(), Role::Leader { .. }))
        };
        groups.filter(leads).collect()
    }

    /// Whether a node leads a group in which entries wait to be committed.
    pub fn has_writes_pending(&self, node: NodeId) -> bool {
        let Some(running) = self.running(node) else { return false };
        self.leads(node).into_iter().any(|group| {
            let applied = running.raft().group(group).and_then(|group| group.applied());
            running.store().log(group).state().last.map(|last| last.index)
                > applied.map(|applied| applied.index)
        })
    }

    pub(super) fn life(&self, node: NodeId) -> Option<Life> {
        self.machine(node).life.clone().filter(|life| !life.has_ended())
    }

    /// What a power cut of this moment would interrupt.
    fn before_a_power_cut(&self, node: NodeId) {
        before_a_power_cut(&self.machine(node).disk, &self.marks);
    }

    /// The machine was off: its monotonic clock begins anew.
    pub(super) fn reboot(&self, node: NodeId, dice: &mut Dice) {
        let clock = &self.machine(node).clock;
        clock.reset(Duration::from_millis(dice.between(1_000, 30_000)), clock.wall_ahead_ms());
    }

    /// A node is down that fell by itself.
    pub fn mark_down(&self, node: NodeId) {
        if !self.is_up(node) {
            self.mark_all_down();
        }
    }

    fn mark_all_down(&self) {
        if self.nodes().iter().all(|node| !self.is_up(*node)) {
            self.marks.reached("all-nodes-down-at-once");
        }
    }

    pub(super) fn mark_start(&self, node: NodeId, start: Start) {
        let machine = self.machine(node);
        if start.an_hour_back {
            machine.clock.step_wall(-3_600_000);
            self.marks.reached("restart-with-an-earlier-clock");
            self.tally.count("clock an hour back");
        }
        if machine.sync_failed.load(Ordering::Relaxed) {
            self.marks.reached("failed-sync-and-restart");
        }
    }

    pub(super) fn running(&self, node: NodeId) -> Option<std::sync::Arc<quorate_node::wiring::Node>> {
        self.machine(node).running.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Marks what a power cut of this moment interrupts.
pub(super) fn before_a_power_cut(disk: &SimDisk, marks: &crate::marks::Marks) {
    if disk.dirty_files().iter().filter(|name| name.as_str().starts_with("volume")).count() > 1 {
        marks.reached("crash-during-roll");
    }
}
