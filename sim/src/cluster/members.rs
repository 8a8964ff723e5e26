//! Disks that are lost for good, nodes that leave and come again, and what the operator is asked to do about it.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_proto::ids::NodeId;

use super::{Cluster, Eyes};
use crate::dice::Dice;
use crate::env::disk::SimDisk;
use crate::trace::Event;

/// What the operator of a run is to do: the nemesis orders it, a client of the SDK does it. Clones share them.
#[derive(Clone, Default)]
pub struct Orders(Arc<Mutex<Open>>);

#[derive(Default)]
struct Open {
    /// Nodes that lost their disks, and wait with empty ones.
    lost: BTreeSet<NodeId>,
    /// Nodes that are to leave.
    leaving: BTreeSet<NodeId>,
    /// Nodes that have left, and are to come again.
    left: BTreeSet<NodeId>,
    /// Nodes that wait to be admitted, with empty disks.
    joining: BTreeSet<NodeId>,
    /// Partitions that are to move, anywhere.
    moves: u32,
}

/// What is to be done about one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// To admit its empty disk in the place of the lost one.
    Replace(NodeId),
    /// To let it go.
    Remove(NodeId),
    /// To admit it as a new one.
    Add(NodeId),
}

impl Orders {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing is left to be done.
    pub fn are_done(&self) -> bool {
        let open = self.open();
        open.lost.is_empty() && open.leaving.is_empty() && open.left.is_empty() && open.joining.is_empty()
    }

    /// What is to be done about nodes.
    pub fn all(&self) -> Vec<Order> {
        let open = self.open();
        let replace = open.lost.iter().map(|node| Order::Replace(*node));
        let remove = open.leaving.iter().map(|node| Order::Remove(*node));
        let add = open.joining.iter().map(|node| Order::Add(*node));
        replace.chain(remove).chain(add).collect()
    }

    /// An order was carried out.
    pub fn done(&self, order: Order) {
        let mut open = self.open();
        match order {
            Order::Replace(node) => open.lost.remove(&node),
            Order::Add(node) => open.joining.remove(&node),
            Order::Remove(node) => {
                open.leaving.remove(&node);
                open.left.insert(node)
            }
        };
    }

    /// A node is to leave, and to come again.
    pub fn leave(&self, node: NodeId) {
        self.open().leaving.insert(node);
    }

    /// One partition more is to move.
    pub fn move_one(&self) {
        self.open().moves += 1;
    }

    /// Whether a partition is to move; told once for each.
    pub fn take_move(&self) -> bool {
        let mut open = self.open();
        let is_due = open.moves > 0;
        open.moves = open.moves.saturating_sub(1);
        is_due
    }
}

impl Cluster {
    /// What the operator is to do.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// A node's disk is lost: it comes again with an empty one, and waits to be replaced.
    pub async fn lose_disk(&mut self, node: NodeId) {
        self.note(Event::Fault(format!("node{node} loses its disk")));
        self.tally.count("lost disk");
        self.marks.reached("disk-lost-for-good");
        self.empty_disk(node).await;
        self.orders.open().lost.insert(node);
        self.start(node).await;
    }

    /// Those who have left come again, as new nodes. Whether there were any.
    pub async fn welcome_back(&mut self) -> bool {
        let left = std::mem::take(&mut self.orders.open().left);
        for node in &left {
            self.note(Event::Fault(format!("node{node}, which has left, comes again with an empty disk")));
            self.marks.reached("node-left-and-came-again");
            self.empty_disk(*node).await;
            if let Some(machine) = self.machines.get_mut(node) {
                machine.joins = true;
            }
            self.orders.open().joining.insert(*node);
            self.start(*node).await;
        }
        !left.is_empty()
    }

    async fn empty_disk(&mut self, node: NodeId) {
        self.machine(node).disk.cut_power();
        self.end(node).await;
        self.machine(node).disk.forget_watchers();
        let disk = SimDisk::new();
        let machine = self.machine(node);
        let purpose = format!("disk of node {node} after life {}", machine.lives);
        disk.set_pace(self.knobs.pace, Dice::named(self.seed, &purpose));
        let eyes = Eyes {
            trace: self.trace.clone(),
            observer: self.observer.clone(),
            tally: self.tally.clone(),
            marks: self.marks.clone(),
        };
        eyes.watch(node, &disk, &machine.sync_failed);
        if self.knobs.observed {
            self.observer.disk_lost(node);
            self.observer.machine(node, disk.clone(), machine.clock.clone());
        }
        if let Some(machine) = self.machines.get_mut(&node) {
            machine.disk = disk;
            machine.newest_harmed.store(false, Ordering::Relaxed);
        }
    }
}
