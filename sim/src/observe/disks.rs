//! What lies on the disks: looked at now and then, and read whole in the end.

use std::collections::BTreeMap;

use quorate_node::storage::{LogId, LogState, StoreConfig};
use quorate_proto::ids::{GroupId, NodeId};

use super::{Aside, Line, Observer, OnDisk, Sight, State, Usage, digest, line_of};
use crate::dice::Dice;
use crate::env::disk::SimDisk;

/// What a disk holds of each group.
type Groups = BTreeMap<GroupId, OnDisk>;

/// All entries of each group on a disk, and what was trimmed before them.
type Logs = BTreeMap<GroupId, (Option<LogId>, Vec<Line>)>;

impl Observer {
    /// Nobody writes any more, and everything had the time to arrive: reads all that lies on the platters.
    pub fn quiet(&self) {
        self.look_at_all();
        self.look_at_settings();
        let state = self.state();
        for (node, machine) in &state.machines {
            let aside = match Aside::recover(&machine.disk.copy_of_platters(), &machine.config, *node) {
                Ok(aside) => aside,
                Err(said) => {
                    self.0.history.complain("O-05", format!("platters of node {node}: {said}"));
                    continue;
                }
            };
            for group in aside.groups().into_keys() {
                match aside.heads(group) {
                    Ok(heads) => {
                        let (after, lines) = (aside.trimmed(group), heads.iter().map(line_of).collect());
                        self.show(&Sight::OnPlatter { node: *node, group, after, lines });
                    }
                    Err(said) => self.0.history.complain("O-28", format!("platters of node {node}: {said}")),
                }
            }
        }
        self.show(&Sight::Quiet);
    }

    /// Looks at the platters of one node, or of all.
    pub(super) fn look_at_platters(&self, state: &mut State, only: Option<NodeId>) {
        let mut nodes = BTreeMap::new();
        for (node, machine) in &mut state.machines {
            if only.is_some_and(|only| only != *node) || machine.is_spoilt() {
                continue;
            }
            match Aside::recover(&machine.disk.copy_of_platters(), &machine.config, *node) {
                Ok(aside) => {
                    let groups = aside.groups();
                    let is_news = |group: &GroupId| aside.has_lost(*group) && !machine.lost.contains(group);
                    if machine.newest_harmed && groups.keys().any(is_news) {
                        // Nothing is lost for good before a process has found it so.
                        continue;
                    }
                    let known = &mut machine.checkpoints;
                    self.look_at_checkpoints(*node, &aside, &groups, known, machine.damaged);
                    nodes.insert(*node, groups);
                }
                Err(said) => self.0.history.complain("O-05", format!("platters of node {node}: {said}")),
            }
        }
        self.show(&Sight::Platters { nodes });
    }

    /// Shows those checkpoints that are others than before.
    fn look_at_checkpoints(
        &self,
        node: NodeId,
        aside: &Aside,
        groups: &Groups,
        known: &mut BTreeMap<GroupId, LogId>,
        damaged: bool,
    ) {
        known.retain(|group, _| groups.contains_key(group));
        for (group, on_disk) in groups {
            let Some(at) = on_disk.checkpoint.filter(|at| known.get(group) != Some(at)) else { continue };
            match aside.checkpoint(*group) {
                Ok(Some(checkpoint)) => {
                    known.insert(*group, at);
                    let digest = digest(&checkpoint.body);
                    self.show(&Sight::Checkpoint { node, group: *group, at: checkpoint.at, digest });
                }
                Ok(None) | Err(_) if damaged => {}
                Ok(None) => {
                    let what = format!("platters of node {node}: a checkpoint of group {group} is not there");
                    self.0.history.complain("O-28", what);
                }
                Err(said) => self.0.history.complain("O-28", format!("platters of node {node}: {said}")),
            }
        }
    }

    pub(super) fn look_at_usage(&self, state: &State) {
        for (node, machine) in &state.machines {
            let (Some(life), Some(running)) = (&machine.life, &machine.running) else { continue };
            let groups = running.store.groups();
            let held = groups.iter().map(|group| held_by_log(running.store.log(*group).state()));
            let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
            let usage = Usage {
                tasks: count(life.tasks()),
                files: machine.disk.open_files(),
                disk_bytes: machine.disk.bytes(),
                volumes: machine.disk.count(|name| name.starts_with("volume-") && name.ends_with(".redb")),
                volumes_alive: count(running.store.volumes_alive()),
                entries: held.sum(),
                groups: count(groups.len()),
            };
            self.show(&Sight::Usage { node: *node, usage });
        }
    }
}

/// How many entries a log holds.
fn held_by_log(log: LogState) -> u64 {
    let end = |id: Option<LogId>| id.map_or(0, |id| id.index.0 + 1);
    end(log.last) - end(log.purged)
}

/// Recovers copies of a disk as its next process will find it: once, and again after the power went in the middle.
pub(super) fn recover_twice(
    disk: &SimDisk,
    config: &StoreConfig,
    node: NodeId,
    mut dice: Dice,
) -> Result<(Groups, Groups, Logs), String> {
    let copy = disk.copy_as_seen();
    let aside =
        Aside::recover(&copy, config, node).map_err(|said| format!("node {node} did not recover: {said}"))?;
    let operations = copy.operations();
    let once = aside.groups();
    let mut logs = BTreeMap::new();
    for group in once.keys() {
        let heads =
            aside.heads(*group).map_err(|said| format!("node {node} recovered a log in part: {said}"))?;
        logs.insert(*group, (aside.trimmed(*group), heads.iter().map(line_of).collect()));
    }
    drop(aside);
    let copy = disk.copy_as_seen();
    copy.cut_power_at(dice.below(operations.max(1)));
    drop(Aside::recover(&copy, config, node));
    copy.crash(&mut dice);
    let twice = Aside::recover(&copy, config, node);
    let twice = twice.map_err(|said| format!("node {node} did not recover a second time: {said}"))?;
    Ok((once, twice.groups(), logs))
}
