//! What platters hold, found out by the product's own recovery on a copy of them.

use std::collections::BTreeMap;

use futures_util::FutureExt;
use quorate_node::env::Env;
use quorate_node::storage::{Checkpoint, CheckpointKind, Head, Log, LogId, LogState, Store, StoreConfig};
use quorate_proto::ids::{GroupId, LogIndex, NodeId};

use super::sight::OnDisk;
use crate::env;
use crate::env::disk::SimDisk;

/// A disk, recovered aside: nothing runs in it, and nobody is told of it.
pub struct Aside(Store);

impl Aside {
    /// Recovers `disk`, which must be a copy.
    ///
    /// # Errors
    /// What the store says of it.
    pub fn recover(disk: &SimDisk, config: &StoreConfig, node: NodeId) -> Result<Self, String> {
        let env: Env = env::still(disk);
        // What is read here comes once and in order: nothing is seen by closing volumes in between.
        let config = StoreConfig { volumes_open_max: 16, ..config.clone() };
        // It is no node that starts: its log lines are nobody's.
        let silent = tracing::subscriber::NoSubscriber::default();
        let opened = tracing::subscriber::with_default(silent, || at_once(Store::open(&env, config, node)));
        let (store, _) = opened.map_err(|error| error.to_string())?;
        Ok(Self(store))
    }

    /// What is known of each group.
    pub fn groups(&self) -> BTreeMap<GroupId, OnDisk> {
        held_by(&self.0)
    }

    /// The checkpoint from which a group's log goes on, if there is one.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn checkpoint(&self, group: GroupId) -> Result<Option<Checkpoint>, String> {
        at_once(self.0.log(group).checkpoint(CheckpointKind::Base))
            .map_err(|error| format!("the checkpoint of group {group} cannot be read: {error}"))
    }

    /// The last entry of a group that was trimmed.
    pub fn trimmed(&self, group: GroupId) -> Option<LogId> {
        state_of(&self.0.log(group)).purged
    }

    /// Whether the disk says itself that it may have lost the newest of a group.
    pub fn has_lost(&self, group: GroupId) -> bool {
        has_lost(&self.0, group)
    }

    /// Whether the disk lacks what a group's log begins with: that log is given up.
    pub fn has_lost_base(&self, group: GroupId) -> bool {
        self.0.log(group).damage().base
    }

    /// Heads of a group's whole log, or of its beginning if the rest is known to be damaged. Their bodies were read too,
    /// and are theirs.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn heads(&self, group: GroupId) -> Result<Vec<Head>, String> {
        let log = self.0.log(group);
        let state = log.state();
        let Some(last) = state.last.filter(|_| taken_up(&log).is_none()) else { return Ok(Vec::new()) };
        let mut next = state.purged.map_or(LogIndex(0), |purged| purged.index.next());
        let mut all = Vec::new();
        while next <= last.index {
            let heads = match at_once(log.heads(next..last.index.next(), 1_000)) {
                Ok(heads) => heads,
                // What is damaged, and known to be, is nobody's word: others hold it.
                Err(_) if log.damage().holds(next) => return Ok(all),
                Err(error) => {
                    return Err(format!("heads of group {group} from {next} cannot be read: {error}"));
                }
            };
            match at_once(log.bodies(&heads)) {
                Ok(_) => {}
                Err(_) if log.damage().touches(&(next..last.index.next())) => return Ok(all),
                Err(error) => {
                    return Err(format!("bodies of group {group} from {next} cannot be read: {error}"));
                }
            }
            let newest = heads
                .last()
                .ok_or_else(|| format!("group {group} has no entry {next}, and ends at {}", last.index))?;
            next = newest.index.next();
            all.extend(heads);
        }
        Ok(all)
    }
}

fn at_once<T>(work: impl Future<Output = T>) -> T {
    // Many of these come in one step of a task, more than tokio lets it do.
    tokio::task::coop::unconstrained(work).now_or_never().expect("the pool works at once")
}

/// Whether a store says that it may have lost the newest of a group.
pub(super) fn has_lost(store: &Store, group: GroupId) -> bool {
    store.log(group).damage().lost.tail || store.may_have_forgotten(group)
}

/// What a store holds of each group.
pub(super) fn held_by(store: &Store) -> BTreeMap<GroupId, OnDisk> {
    store.groups().into_iter().map(|group| (group, held_in(&store.log(group)))).collect()
}

fn held_in(log: &Log) -> OnDisk {
    let LogState { vote, purged, last, .. } = state_of(log);
    OnDisk { vote, purged, checkpoint: log.checkpoint_at(CheckpointKind::Base), last, starts: starts_of(log) }
}

/// A log's state; one that is about to be trimmed to a peer's checkpoint is taken for trimmed.
pub(super) fn state_of(log: &Log) -> LogState {
    let state = log.state();
    match taken_up(log) {
        Some(at) => LogState { purged: Some(at), last: Some(at), ..state },
        None => state,
    }
}

/// The first entry of each term in it.
pub(super) fn starts_of(log: &Log) -> Vec<LogId> {
    if taken_up(log).is_some() { Vec::new() } else { log.term_starts() }
}

/// The last entry in a peer's checkpoint that was taken up and lies ahead of the log: that is trimmed to it before
/// anything else, by this process or by the next one. What it holds until then was perhaps never committed.
fn taken_up(log: &Log) -> Option<LogId> {
    let last = log.state().last;
    let at = log.checkpoint_at(CheckpointKind::Base)?;
    last.is_none_or(|last| last.index < at.index).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn as_many_looks_as_there_are_fit_one_step_of_a_task() {
        let disk = SimDisk::new();
        for _ in 0..200 {
            let copy = disk.copy_of_platters();
            let aside = Aside::recover(&copy, &StoreConfig::default(), NodeId(1)).unwrap();
            assert_eq!(aside.groups(), BTreeMap::new());
        }
    }
}
