//! What an opening makes of damage: a `meta.redb` that cannot be read is made anew of what the volumes say, and what a
//! disk may have lost is noted before anything is given up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use quorate_proto::ids::{GroupId, NodeId};
use tracing::{error, warn};

use super::{Folder, Found, RecoveryReport, Unfit, Volumes};
use crate::storage::damage::{Damage, Lost};
use crate::storage::entry::Corrupt;
use crate::storage::error::{CorruptEntry, OpenError, ReadError};
use crate::storage::facts::{Change, Meta, MetaContent, Seal};
use crate::storage::keeper;
use crate::storage::rewrite::copy_anew;
use crate::storage::unread::Unread;
use crate::storage::volume::{FORMAT, Label, Volume, VolumeNumber};

/// While it is not known which groups were here.
const ANY: GroupId = GroupId(u64::MAX);
/// The same, of a `meta.redb` that was made anew and does not say yet what was lost with it.
const ANEW: GroupId = GroupId(u64::MAX - 1);

/// How a volume is listed that was not sealed, and is not to be written any more: nothing looks like that.
pub(super) const GIVEN_UP: Seal = Seal { bytes: 0, crc: 0 };

/// What was found damaged, and what waits to be noted with it.
#[derive(Default)]
pub(super) struct Hurt {
    /// Why the newest commits may be missing, of all groups.
    pub(super) tail: Option<CorruptEntry>,
    /// What could not be read of volumes when they were copied, by this start or one before it that was not through.
    pub(super) unreadable: Unread,
    /// Volumes that are not to be read, and why.
    pub(super) lost: BTreeMap<VolumeNumber, CorruptEntry>,
    /// Volumes that `meta.redb` does not list yet as its content in memory does.
    listed: BTreeSet<VolumeNumber>,
}

impl Hurt {
    /// Lists a volume in memory. It becomes durable with what may be missing, see [`Folder::note_losses`], and no earlier:
    /// that `meta.redb` did not list it may be all that shows the loss.
    pub(super) fn list(&mut self, content: &mut MetaContent, number: VolumeNumber, seal: Option<Seal>) {
        content.volumes.insert(number, seal);
        self.listed.insert(number);
    }

    /// Why a volume is not whole, whatever redb makes of its copy.
    pub(super) fn unread(&self, number: VolumeNumber) -> Option<String> {
        let bytes = self.unreadable.of(number)?;
        Some(format!("{bytes} bytes of it could not be read when it was copied"))
    }

    pub(super) fn lose(&mut self, number: VolumeNumber, why: &str) {
        error!(volume = %number, why, "volume is damaged; what it held must come from other replicas");
        self.lost.insert(number, lost("all entries", number.file().to_string(), why));
    }

    pub(super) fn lose_tail(&mut self, why: &str) {
        error!(why, "newest commits may be missing; no group votes before it has caught up with the others");
        self.tail.get_or_insert_with(|| lost("the newest commits", "the volumes".to_owned(), why));
    }
}

fn lost(what: &'static str, file: String, why: &str) -> CorruptEntry {
    CorruptEntry { what, file, place: why.to_owned(), corrupt: Corrupt::Lost }
}

impl Folder<'_> {
    /// Makes `meta.redb` anew of what the volumes of `node` say; `None` if none can be read. The cluster and the peers
    /// are asked for again, and of no group it is known whether the volumes hold its newest entries.
    pub(super) fn rebuild(
        &self,
        on_disk: &BTreeSet<VolumeNumber>,
        node: NodeId,
        report: &mut RecoveryReport,
        hurt: &mut Hurt,
    ) -> Result<Option<(Meta, MetaContent)>, OpenError> {
        if !self.config.copies_elsewhere {
            return Ok(None);
        }
        if report.failed_before {
            // Before redb opens any of them.
            for number in on_disk {
                self.disk(copy_anew(self.disk, *number, &mut hurt.unreadable))?;
            }
        }
        let (mut owner, mut found, mut others) = (None, BTreeMap::new(), None);
        // The newest one says whose they are: an older one may have been put there.
        for number in on_disk.iter().rev() {
            let volume = Volume::sealed(self.disk, *number, self.config.active_cache());
            let Some(label) = self.any_label(&volume)? else { continue };
            if label.owner.node != node {
                others = Some(label.owner.node);
                continue;
            }
            let owner = *owner.get_or_insert(label.owner);
            if label.owner != owner || label.number != *number {
                continue;
            }
            let seal = match label.sealed.then(|| volume.measure()) {
                None => None,
                Some(Ok((bytes, crc))) => Some(Seal { bytes, crc }),
                Some(Err(error)) if error.is_damage() => Some(GIVEN_UP),
                Some(Err(error)) => return Err(self.disk_error(error)),
            };
            found.insert(*number, seal);
        }
        let Some(owner) = owner else {
            return match others {
                Some(found) => Err(OpenError::OtherNode { folder: self.path.clone(), found, ours: node }),
                None => Ok(None),
            };
        };
        let mut content = MetaContent::empty(FORMAT, owner);
        content.volumes = found;
        content.forgot = Some(ANEW);
        let meta = self.disk(Meta::create(self.disk, &content))?;
        error!(volumes = content.volumes.len(), identity = %owner.identity,
            "meta.redb was damaged or missing, and was made anew of what the volumes say");
        report.meta_rebuilt = true;
        Ok(Some((meta, content)))
    }

    /// The label of a volume that may not be fit to be opened for writing; `None` if it cannot be read at all.
    fn any_label(&self, volume: &Volume) -> Result<Option<Label>, OpenError> {
        let read = match volume.label() {
            // Not closed cleanly: redb opens it for reading only after it was opened for writing.
            Err(error) if error.is_damage() => {
                match Volume::open(self.disk, volume.number, self.config.active_cache()) {
                    Ok(opened) => {
                        let label = opened.volume.label();
                        self.disk(opened.volume.close())?;
                        label
                    }
                    Err(error) => Err(ReadError::Disk(error)),
                }
            }
            read => read,
        };
        // What this says does not matter.
        drop(volume.close());
        match read {
            Ok(label) => Ok(Some(label)),
            Err(error) => match self.unfit(error) {
                Unfit::Damaged(why) => {
                    warn!(volume = %volume.number, why, "volume cannot be read");
                    Ok(None)
                }
                Unfit::Refused(error) => Err(error),
            },
        }
    }

    /// Whether other nodes may hold what this one has lost: those that it was told of, and those that came later.
    pub(super) fn has_copies(&self, content: &MetaContent) -> bool {
        self.config.copies_elsewhere || content.peers.keys().any(|peer| *peer != content.owner.node)
    }

    /// Makes durable what may be missing, and of which groups, before anything is done about it; and, in the same
    /// transaction, what was listed so far. If there is no other copy of what is missing, nothing is written.
    pub(super) fn note_losses(
        &self,
        meta: &Meta,
        content: &mut MetaContent,
        found: &Found,
        hurt: &Hurt,
    ) -> Result<(), OpenError> {
        if !self.has_copies(content) {
            let spans = found.durable.values().flat_map(|durable| &durable.spans);
            let mut lost = spans.filter_map(|span| hurt.lost.get(&span.volume));
            if let Some(corrupt) = hurt.tail.as_ref().or_else(|| lost.next()) {
                return Err(OpenError::Corrupt { folder: self.path.clone(), corrupt: corrupt.clone() });
            }
        }
        let mut listed = hurt.listed.clone();
        for number in hurt.lost.keys() {
            if let Some(seal) = content.volumes.get_mut(number)
                && seal.is_none()
            {
                *seal = Some(GIVEN_UP);
                listed.insert(*number);
            }
        }
        let volume = |number| Some(Change::Volume(number, *content.volumes.get(&number)?));
        let mut changes = listed.into_iter().filter_map(volume).collect::<Vec<_>>();
        // All of this is one transaction: what was made anew knows votes and losses again.
        let is_anew = content.forgot == Some(ANEW);
        if hurt.tail.is_some() || is_anew {
            content.forgot = Some(ANY);
            changes.push(Change::Forgot(ANY));
            for (group, durable) in &found.durable {
                if let Some(vote) = durable.hard.vote.filter(|_| is_anew) {
                    content.votes.insert(*group, vote);
                    changes.push(Change::Vote(*group, vote));
                }
                let lost = content.lost.entry(*group).or_default();
                // Votes stand in two places.
                let now = lost.and(Lost { tail: true, vote: hurt.tail.is_some() && is_anew });
                if *lost != now {
                    *lost = now;
                    changes.push(Change::Lost(*group, now));
                }
            }
        }
        if changes.is_empty() { Ok(()) } else { self.disk(meta.write(&changes)) }
    }

    /// Keeps the volumes that cannot be read and hold live entries, so that each read of these says why; gives up the
    /// others. The newest one stays as well, until there is a newer: should its file come back after a power cut, nothing
    /// else would tell that it is not the one that was written last. Tells what is lost of each group.
    pub(super) fn settle_lost(
        &self,
        meta: &Meta,
        content: &mut MetaContent,
        found: &Found,
        volumes: &mut Volumes,
        hurt: &mut Hurt,
    ) -> Result<BTreeMap<GroupId, Damage>, OpenError> {
        let spans = found.durable.values().flat_map(|durable| &durable.spans);
        let alive = spans.map(|span| span.volume).collect::<BTreeSet<_>>();
        for number in &alive {
            let is_here = *number == found.active.volume.number || volumes.sealed.contains_key(number);
            if !is_here && !hurt.lost.contains_key(number) {
                hurt.lose(*number, "it is missing");
            }
        }
        // The newest one first: those before it may go then.
        for (number, why) in hurt.lost.iter().rev() {
            let volume = Volume::lost(self.disk, *number, why.clone());
            let is_newest = content.volumes.keys().next_back().is_none_or(|newest| newest <= number);
            if is_newest && !content.volumes.contains_key(number) {
                self.note(meta, content, *number, Some(GIVEN_UP))?;
            }
            if is_newest || alive.contains(number) {
                volumes.sealed.insert(*number, Arc::new(volume));
            } else {
                self.disk(meta.write(&[Change::VolumeGone(*number)]))?;
                content.volumes.remove(number);
                self.disk(keeper::discard(self.disk, content.owner, &volume, true))?;
            }
        }
        let mut damage = BTreeMap::new();
        for (group, durable) in &found.durable {
            let mut lost =
                Damage { lost: content.lost.get(group).copied().unwrap_or_default(), ..Damage::default() };
            for span in durable.spans.iter().filter(|span| hurt.lost.contains_key(&span.volume)) {
                lost.heads.add(span.range.clone());
            }
            if !lost.is_none() {
                damage.insert(*group, lost);
            }
        }
        // Also of groups that have nothing on this disk any more.
        for (group, lost) in content.lost.iter().filter(|(_, lost)| lost.any()) {
            damage.entry(*group).or_default().lost = *lost;
        }
        Ok(damage)
    }
}
