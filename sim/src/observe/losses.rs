//! What a disk has lost: as the world that damages it tells, as the node on it says, and whether it is all back.

use std::collections::BTreeSet;

use quorate_node::storage::Store;
use quorate_proto::ids::{GroupId, NodeId};

use super::{Aside, Machine, Observer, Sight, platter};
use crate::env::disk::SimDisk;

/// A disk before it was damaged.
pub(super) struct Unseen {
    held: SimDisk,
    /// How many operations there were by then on the disk itself.
    operations: u64,
    /// Whether some of what was damaged can be read again.
    pub(super) is_healed: bool,
}

impl Observer {
    /// A node's own disk was erased, replaced or set back.
    pub fn disk_lost(&self, node: NodeId) {
        if let Some(machine) = self.state().machines.get_mut(&node) {
            machine.identity = None;
            machine.unseen = None;
            machine.checkpoints.clear();
        }
        self.show(&Sight::DiskLost { node });
    }

    /// The newest that a node's disk `held` is damaged: what it told that it holds is not there any more.
    pub fn disk_damaged(&self, node: NodeId, held: SimDisk) {
        if let Some(machine) = self.state().machines.get_mut(&node) {
            machine.damaged = true;
            // Told of all of them at once.
            machine.lost.extend(machine.groups.keys());
            let operations = machine.disk.operations();
            machine.unseen.get_or_insert(Unseen { held, operations, is_healed: false });
        }
        self.show(&Sight::Damaged { node });
    }

    /// The newest on a node's disk is damaged, whether or not anything is lost with that at once.
    pub fn newest_harmed(&self, node: NodeId) {
        if let Some(machine) = self.state().machines.get_mut(&node) {
            machine.newest_harmed = true;
        }
    }

    /// Nothing on a node's disk is damaged any more.
    pub fn disk_whole(&self, node: NodeId) {
        if let Some(machine) = self.state().machines.get_mut(&node) {
            machine.newest_harmed = false;
        }
    }

    /// A node's disk is damaged beyond what the atlas allows, in the volume that is written to: a process goes on with
    /// it, and a loss of power would take the whole volume. Until the disk gives back what it held, nothing is promised
    /// of what it comes to then.
    pub fn disk_spoilt(&self, node: NodeId) {
        if let Some(machine) = self.state().machines.get_mut(&node) {
            machine.spoilt = true;
        }
    }

    /// Some of what was damaged on a node's disk can be read again. It may be all of it, and nobody may have noticed.
    pub fn disk_healed(&self, node: NodeId, is_up: bool) {
        let mut state = self.state();
        let Some(machine) = state.machines.get_mut(&node) else { return };
        if let Some(unseen) = &mut machine.unseen {
            unseen.is_healed = true;
        }
        if machine.has_again(node, is_up) {
            self.show(&Sight::GivenBack { node });
        }
    }
}

impl Machine {
    /// Whether its disk is damaged beyond what the atlas allows, and has not given back what it held.
    pub(super) fn is_spoilt(&self) -> bool {
        self.spoilt && self.disk.harmed() > 0
    }

    /// The groups of which a store says that it has lost the newest, among those that it knows or knew.
    pub(super) fn lost_by(&self, store: &Store) -> BTreeSet<GroupId> {
        let groups = store.groups().into_iter().chain(self.groups.keys().copied());
        groups.filter(|group| platter::has_lost(store, *group)).collect()
    }

    /// Whether its disk holds again what it held before it was damaged, and notes no loss, and nobody who is there has
    /// seen it otherwise. Told once.
    pub(super) fn has_again(&mut self, node: NodeId, is_up: bool) -> bool {
        let Some(unseen) = &self.unseen else { return false };
        if is_up && self.disk.operations() != unseen.operations {
            return false;
        }
        let held = |disk: &SimDisk| {
            let aside = Aside::recover(&disk.copy_as_seen(), &self.config, node).ok()?;
            let groups = aside.groups();
            let lost = groups.keys().copied().filter(|group| aside.has_lost(*group));
            let lost = lost.collect::<BTreeSet<_>>();
            Some((groups, lost))
        };
        let Some(before) = held(&unseen.held) else { return false };
        if held(&self.disk).as_ref() != Some(&before) {
            return false;
        }
        (_, self.lost) = before;
        self.unseen = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use quorate_node::storage::{HardVote, StoreConfig};
    use quorate_proto::ids::Term;

    use super::*;
    use crate::dice::Dice;
    use crate::env;
    use crate::env::clock::SimClock;
    use crate::env::disk::SectorHarm;
    use crate::history::History;
    use crate::marks::Marks;
    use crate::trace::Trace;

    #[tokio::test(start_paused = true)]
    async fn what_a_start_that_was_cut_off_saw_damaged_is_not_lost_if_it_is_back_and_nothing_notes_it() {
        let (node, config) = (NodeId(1), StoreConfig::default());
        let written = SimDisk::new();
        let (store, _) = Store::open(&env::alone(&written, 0), config.clone(), node).await.unwrap();
        let vote = HardVote { term: Term(3), node: 1, committed: false };
        store.log(GroupId(2)).save_vote(vote).await.unwrap();
        written.cut_power();
        drop(store);
        written.crash(&mut Dice::new(0));
        let is_lost = |is_cut_off: bool| {
            let disk = written.copy_as_seen();
            let observer = Observer::new(History::default(), Marks::default(), Trace::default());
            observer.machine(node, disk.clone(), SimClock::default());
            let is_unseen = || observer.state().machines.values().any(|machine| machine.unseen.is_some());
            let held = disk.copy_as_seen();
            assert!(disk.harm_sector(&disk.volumes()[0], 0, SectorHarm::Unreadable));
            observer.disk_damaged(node, held);
            if is_cut_off {
                disk.cut_power_at(disk.operations() + 1);
            }
            assert_eq!(Aside::recover(&disk, &config, node).is_err(), is_cut_off);
            disk.cut_power();
            disk.heal();
            observer.disk_healed(node, true);
            assert!(is_unseen(), "a process was there");
            disk.crash(&mut Dice::new(0));
            observer.starts(node, &config);
            is_unseen()
        };
        assert!(!is_lost(true));
        assert!(is_lost(false), "the disk notes that it has lost something");
    }
}
