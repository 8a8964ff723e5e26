//! What a stopped node's folder holds, for people: found out by the store's own recovery, which may write. Whoever
//! must not change the folder gives a disk that keeps to itself what is written.

use std::ops::Range;
use std::sync::Arc;

use quorate_proto::ids::{ClusterId, GroupId, Identity, LogIndex, NodeId};

use super::checkpoints::{self, CheckpointKind};
use super::config::StoreConfig;
use super::damage::{Lost, Part};
use super::entry::Entry;
use super::error::{DiskError, OpenError};
use super::facts::{Meta, meta_file};
use super::hard::LogState;
use super::read::Looked;
use super::recovery::{Recovered, RecoveryReport, recover};
use super::volume::{Volume, VolumeNumber};
use crate::env::Disk;

/// Entries read at a time.
const ENTRIES: usize = 256;

/// A folder that was looked into.
pub struct Inspected(Recovered);

/// What a folder holds of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedGroup {
    /// Which one.
    pub group: GroupId,
    /// Vote, committed, trimmed and last.
    pub state: LogState,
    /// The indexes that the log holds.
    pub range: Range<LogIndex>,
    /// Where the log would go on: behind its last entry and its base.
    pub next: LogIndex,
    /// In which file which of them lie, ascending.
    pub spans: Vec<(String, Range<LogIndex>)>,
    /// What may be missing besides.
    pub lost: Lost,
    /// The log begins behind a base that is missing.
    pub base_lost: bool,
}

/// One entry of a log in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InspectedEntry {
    /// It is whole.
    Whole(Entry),
    /// It cannot be read as a whole.
    Damaged {
        /// Which one.
        index: LogIndex,
        /// "head" if nothing of it can be read, else "body".
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Inspected {
    /// Looks into the folder of `disk`; `None` if no node has ever used it. Blocks.
    ///
    /// # Errors
    /// Nothing in it can be read.
    pub fn open(disk: &Arc<dyn Disk>) -> Result<Option<Self>, OpenError> {
        let config = StoreConfig::default();
        let names = disk.list().map_err(|error| unreadable(disk, error))?;
        let volumes = names.iter().filter_map(VolumeNumber::of).collect::<Vec<_>>();
        let has_meta = names.contains(&meta_file());
        if volumes.is_empty() && !has_meta {
            return Ok(None);
        }
        // Whose it is: recovery refuses another node's.
        let told = if has_meta { Meta::open(disk).ok() } else { None };
        let node = match told {
            Some((meta, content, _)) => {
                drop(meta.close());
                Some(content.owner.node)
            }
            None => volumes.iter().rev().find_map(|number| {
                let volume = Volume::open(disk, *number, config.active_cache()).ok()?.volume;
                let label = volume.label();
                drop(volume.close());
                Some(label.ok()?.owner.node)
            }),
        };
        // If nobody says whose it is, recovery says why.
        let recovered = recover(disk, &config, node.unwrap_or(NodeId(1)), Identity::default())?;
        Ok(Some(Self(recovered)))
    }

    /// Whose folder it is.
    pub fn owner(&self) -> (NodeId, Identity) {
        (self.0.content.owner.node, self.0.content.owner.identity)
    }

    /// The cluster that the node belongs to, if the folder still says so.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        self.0.content.cluster
    }

    /// What a start would find, and do about it.
    pub fn report(&self) -> &RecoveryReport {
        &self.0.report
    }

    /// Files of entries that cannot be read or are not there, and why, if anything is missed that they held, or may have.
    pub fn volumes_lost(&self) -> Vec<(String, &str)> {
        let Recovered { state, lost, tail, .. } = &self.0;
        let any_tail = tail.is_some() || state.damage.values().any(|damage| damage.lost.tail);
        let spans = || state.durable.values().flat_map(|durable| &durable.spans);
        let is_missed = |number: VolumeNumber| any_tail || spans().any(|span| span.volume == number);
        lost.iter()
            .filter(|(number, _)| is_missed(**number))
            .map(|(number, why)| (number.file().to_string(), why.place.as_str()))
            .collect()
    }

    /// Why the ends of logs may be missing, unless an earlier start found that out, or of one group alone.
    pub fn tail_trouble(&self) -> Option<&str> {
        self.0.tail.as_ref().map(|why| why.place.as_str())
    }

    /// The groups that it holds anything of.
    pub fn groups(&self) -> Vec<InspectedGroup> {
        let state = &self.0.state;
        let next = |group: &GroupId, durable: &super::hard::Durable| {
            let base = state.checkpoints.get(&(*group, CheckpointKind::Base)).copied();
            let ends = [durable.hard.state().last, base].into_iter().flatten();
            ends.map(|last| last.index.next()).max().unwrap_or(LogIndex(0))
        };
        let of = |(group, durable): (&GroupId, &super::hard::Durable)| InspectedGroup {
            group: *group,
            state: durable.hard.state(),
            range: durable.hard.range(),
            next: next(group, durable),
            spans: durable
                .spans
                .iter()
                .map(|span| (span.volume.file().to_string(), span.range.clone()))
                .collect(),
            lost: state.damage.get(group).map(|damage| damage.lost).unwrap_or_default(),
            base_lost: state.damage.get(group).is_some_and(|damage| damage.base),
        };
        state.durable.iter().map(of).collect()
    }

    /// Reads a group's base; why it cannot be read, if it has one that cannot. Blocks.
    pub fn base_trouble(&self, group: GroupId) -> Option<String> {
        let read = self.0.meta.read(|read| checkpoints::load(read, group, CheckpointKind::Base));
        read.err().map(|error| error.to_string())
    }

    /// Reads a group's log from `from` on, with all bodies, and shows each entry in order until `visit` says no. Blocks.
    pub fn entries(&self, group: GroupId, from: LogIndex, mut visit: impl FnMut(InspectedEntry) -> bool) {
        let mut next = from;
        loop {
            let looked = self.0.state.look(group, next, ENTRIES);
            if looked.is_empty() {
                return;
            }
            for looked in looked {
                let entry = match looked {
                    Looked::Whole(entry) => {
                        next = entry.head.index.next();
                        InspectedEntry::Whole(entry)
                    }
                    Looked::Damaged { index, part, error } => {
                        next = index.next();
                        let what = match part {
                            Part::Head => "head",
                            Part::Body => "body",
                        };
                        InspectedEntry::Damaged { index, what, why: error.to_string() }
                    }
                };
                if !visit(entry) {
                    return;
                }
            }
        }
    }
}

fn unreadable(disk: &Arc<dyn Disk>, error: std::io::Error) -> OpenError {
    let source = DiskError::new("list", &meta_file(), error);
    OpenError::Disk { folder: disk.describe(), source }
}

impl std::fmt::Debug for Inspected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inspected").field("report", &self.0.report).finish_non_exhaustive()
    }
}
