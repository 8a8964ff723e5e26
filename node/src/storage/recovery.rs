//! Opening a data folder, after whatever happened to it: finds out what the disk holds, finishes what was left half
//! done, and reports both. A crash in the middle is harmless: the next opening does the same again.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use quorate_proto::ids::{GroupId, Identity, LogIndex, NodeId};

use super::checkpoints::{self, CheckpointKind, Checkpoints, Worth, judge};
use super::config::StoreConfig;
use super::error::{DiskError, OpenError, ReadError};
use super::facts::{Change, Meta, MetaContent, Seal, meta_file};
use super::failure::marker;
use super::hard::Durable;
use super::index::MemoryIndex;
use super::keeper;
use super::replay::{Replayed, replay};
use super::rewrite::{self, copy_anew, rewrite};
use super::state::{Active, State};
use super::transcript::Tail;
use super::volume::{FORMAT, FORMAT_OLDEST, Owner, Volume, VolumeNumber, guarded_disk};
use crate::env::{Disk, FileName, Mark};

/// What was found when a data folder was opened, and what was done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The folder was empty: this is the node's first start, or its disk is new.
    pub created: bool,
    /// Volumes that hold entries.
    pub volumes: u64,
    /// Groups that have anything on this disk.
    pub groups: u64,
    /// Live entries of all groups.
    pub entries: u64,
    /// Files that had not been closed cleanly, as after a crash, and were repaired: a commit that was torn is gone,
    /// all that was acknowledged is there.
    pub repaired: u64,
    /// Full volumes whose sealing a crash had interrupted, and that are sealed now.
    pub sealed: u64,
    /// Leftovers that were removed: half-made files, volumes given up before.
    pub leftovers: u64,
    /// The process before ended after a failed write or sync: what was in doubt was written anew.
    pub failed_before: bool,
}

/// A folder, opened.
pub(super) struct Recovered {
    pub(super) meta: Meta,
    pub(super) content: MetaContent,
    pub(super) state: State,
    pub(super) report: RecoveryReport,
    /// What else is worth knowing of it.
    pub(super) marks: Vec<Mark>,
}

/// Opens the folder of `node`. A new one gets the identity `fresh`. Blocks.
pub(super) fn recover(
    disk: &Arc<dyn Disk>,
    config: &StoreConfig,
    node: NodeId,
    fresh: Identity,
) -> Result<Recovered, OpenError> {
    let folder = Folder { disk, config, path: disk.describe() };
    let mut report = RecoveryReport::default();
    let names = folder.list()?;
    report.failed_before = names.contains(&marker());
    for name in names.iter().filter(|name| name.as_str().ends_with(".tmp")) {
        folder.remove(name, &mut report)?;
    }
    let half_made = report.leftovers;
    let mut on_disk = names.iter().filter_map(VolumeNumber::of).collect::<BTreeSet<_>>();
    if report.failed_before && names.contains(&meta_file()) {
        folder.disk(copy_anew(disk, &meta_file()))?;
    }
    let (meta, mut content) =
        folder.meta(names.contains(&meta_file()), &on_disk, Owner { node, identity: fresh }, &mut report)?;
    folder.give_up_unfinished(&mut on_disk, &meta, &mut content, &mut report)?;
    if report.failed_before {
        for number in on_disk.iter().filter(|number| !matches!(content.volumes.get(number), Some(Some(_)))) {
            folder.disk(copy_anew(disk, &number.file()))?;
        }
    }
    folder.settle_unknown(&on_disk, &content, &mut report)?;
    let unlisted = report.leftovers - half_made;
    let mut volumes = folder.volumes(&on_disk, &meta, &mut content, &mut report)?;
    let mut found = folder.newest(&mut volumes, &meta, &mut content)?;
    if report.failed_before {
        let mut doubtful = volumes.unsealed.into_iter().map(|(volume, replayed)| (volume, replayed.index));
        let mut doubtful = doubtful.by_ref().collect::<Vec<_>>();
        doubtful.push((found.active.volume, found.active.index));
        let old = rewrite::In {
            doubtful,
            spares: std::mem::take(&mut volumes.spares),
            durable: &mut found.durable,
            commit: found.commit,
        };
        found.active = rewrite(disk, config, content.owner, &meta, &mut content, old)
            .map_err(|error| folder.read_error(error))?;
        found.commit += u64::from(found.active.begun);
        folder.remove(&marker(), &mut report)?;
    } else {
        for (volume, replayed) in volumes.unsealed {
            let seal = folder.disk(keeper::seal(&volume, &replayed.index))?;
            folder.note(&meta, &mut content, volume.number, Some(seal))?;
            volumes.sealed.insert(volume.number, volume);
            report.sealed += 1;
        }
    }
    let (mut newer_in_meta, mut newer_in_volume) = (false, false);
    for (group, vote) in &content.votes {
        let hard = &mut found.durable.entry(*group).or_default().hard;
        let newest = hard.vote.map_or(*vote, |known| known.max(*vote));
        newer_in_meta |= hard.vote != Some(newest);
        newer_in_volume |= *vote != newest;
        hard.vote = Some(newest);
    }
    folder.check_spans(&found, &volumes.sealed)?;
    let (checkpoints, to_be_trimmed) = folder.checkpoints(&meta, &content, &found.durable)?;
    if content.format != FORMAT {
        // Before anything is written that an older program would take for damage: it says so instead.
        folder.disk(meta.write(&[Change::Format(FORMAT)]))?;
        content.format = FORMAT;
    }
    let count = |length: usize| u64::try_from(length).expect("a length fits 64 bits");
    report.volumes = count(volumes.sealed.len()) + u64::from(found.active.begun);
    report.groups = count(found.durable.len());
    let spans = found.durable.values().flat_map(|durable| &durable.spans);
    report.entries = spans.map(|span| span.range.end.0 - span.range.start.0).sum();
    let marks = [
        (report.created, Mark::FirstStart),
        (report.repaired > 0, Mark::RestartAfterACrash),
        (report.sealed > 0, Mark::RestartInTheMiddleOfASealing),
        (report.failed_before, Mark::RestartWithAMarker),
        (half_made > 0, Mark::RestartWithAHalfMadeFile),
        (unlisted > 0, Mark::RestartWithAnUnlistedVolume),
        (newer_in_meta, Mark::VoteNewerInMeta),
        (newer_in_volume, Mark::VoteNewerInItsVolume),
        (!report.created && !found.active.begun, Mark::RestartWithAnEmptyActiveVolume),
        (found.active.begun && volumes.spares.is_empty(), Mark::RestartWithoutANextVolume),
        (to_be_trimmed, Mark::RestartInTheMiddleOfACatchUp),
    ];
    let marks = marks.into_iter().filter(|(reached, _)| *reached).map(|(_, mark)| mark).collect();
    let spare = volumes.spares.pop();
    let state = State::new(found.durable, checkpoints, found.active, volumes.sealed, spare, found.commit);
    Ok(Recovered { meta, content, state, report, marks })
}

struct Folder<'a> {
    disk: &'a Arc<dyn Disk>,
    config: &'a StoreConfig,
    path: String,
}

/// The volumes of a folder, each opened once.
struct Volumes {
    sealed: BTreeMap<VolumeNumber, Arc<Volume>>,
    /// Begun and not sealed; ascending. The last one is the active one.
    unsealed: Vec<(Arc<Volume>, Replayed)>,
    /// Made ahead, without content; descending.
    spares: Vec<Arc<Volume>>,
}

struct Found {
    active: Active,
    durable: BTreeMap<GroupId, Durable>,
    commit: u64,
}

impl Folder<'_> {
    fn list(&self) -> Result<Vec<FileName>, OpenError> {
        self.disk(guarded_disk("list", &meta_file(), || Ok(self.disk.list()?)))
    }

    fn remove(&self, name: &FileName, report: &mut RecoveryReport) -> Result<(), OpenError> {
        report.leftovers += 1;
        self.disk(guarded_disk("remove", name, || Ok(self.disk.remove(name)?)))
    }

    /// Opens `meta.redb`, or makes it in an empty folder.
    fn meta(
        &self,
        exists: bool,
        on_disk: &BTreeSet<VolumeNumber>,
        owner: Owner,
        report: &mut RecoveryReport,
    ) -> Result<(Meta, MetaContent), OpenError> {
        if !exists {
            if !on_disk.is_empty() {
                return Err(OpenError::MetaMissing { folder: self.path.clone(), volumes: on_disk.len() });
            }
            report.created = true;
            let content = MetaContent::empty(FORMAT, owner);
            let meta = self.disk(Meta::create(self.disk, &content))?;
            return Ok((meta, content));
        }
        let (meta, content, repaired) = Meta::open(self.disk).map_err(|error| match error {
            ReadError::Disk(error) if is_permission(&error) => self.disk_error(error),
            ReadError::Disk(_) | ReadError::Corrupt(_) | ReadError::Missing { .. } | ReadError::Failed(_) => {
                OpenError::MetaDamaged { folder: self.path.clone(), reason: error.to_string() }
            }
        })?;
        self.check_format(&meta_file(), content.format)?;
        if content.owner.node != owner.node {
            return Err(OpenError::OtherNode {
                folder: self.path.clone(),
                found: content.owner.node,
                ours: owner.node,
            });
        }
        report.repaired += u64::from(repaired);
        Ok((meta, content))
    }

    fn check_format(&self, file: &FileName, found: u32) -> Result<(), OpenError> {
        if (FORMAT_OLDEST..=FORMAT).contains(&found) {
            return Ok(());
        }
        Err(OpenError::OtherVersion {
            folder: self.path.clone(),
            file: file.to_string(),
            found,
            ours: FORMAT,
        })
    }

    /// Removes what others were being rewritten into when a crash came: they are still there.
    fn give_up_unfinished(
        &self,
        on_disk: &mut BTreeSet<VolumeNumber>,
        meta: &Meta,
        content: &mut MetaContent,
        report: &mut RecoveryReport,
    ) -> Result<(), OpenError> {
        for number in std::mem::take(&mut content.unfinished) {
            if on_disk.remove(&number) {
                self.remove(&number.file(), report)?;
            }
            // The newest one stays noted: should its file come back after a power cut, nothing else would tell what it is.
            if content.volumes.keys().next_back().is_some_and(|newest| number < *newest) {
                self.disk(meta.write(&[Change::VolumeGone(number)]))?;
            }
        }
        Ok(())
    }

    /// Volumes that `meta.redb` does not list are a removed one whose removal came undone, or the next one made just
    /// before a crash.
    fn settle_unknown(
        &self,
        on_disk: &BTreeSet<VolumeNumber>,
        content: &MetaContent,
        report: &mut RecoveryReport,
    ) -> Result<(), OpenError> {
        let newest = content.volumes.keys().next_back().copied();
        let unknown = on_disk.iter().filter(|number| !content.volumes.contains_key(number));
        for number in unknown.copied().collect::<Vec<_>>() {
            if newest.is_some_and(|newest| number < newest) {
                self.remove(&number.file(), report)?;
            } else {
                let opened = Volume::open(self.disk, number, self.config.active_cache());
                let opened = opened.map_err(|error| self.volume_error(number, ReadError::Disk(error)));
                let volume = opened?.volume;
                let begun = self.label(&volume, content.owner).map(drop).and_then(|()| {
                    let replayed = replay(&volume).map_err(|error| self.read_error(error))?;
                    self.disk(volume.close())?;
                    Ok(replayed.is_some())
                })?;
                if begun {
                    return Err(OpenError::MetaDamaged {
                        folder: self.path.clone(),
                        reason: format!("it is older than {}, which it does not list", number.file()),
                    });
                }
                // After kill -9 its name may not be durable. It is made again.
                self.remove(&number.file(), report)?;
            }
        }
        Ok(())
    }

    /// Opens all volumes that `meta.redb` lists.
    fn volumes(
        &self,
        on_disk: &BTreeSet<VolumeNumber>,
        meta: &Meta,
        content: &mut MetaContent,
        report: &mut RecoveryReport,
    ) -> Result<Volumes, OpenError> {
        let mut volumes = Volumes { sealed: BTreeMap::new(), unsealed: Vec::new(), spares: Vec::new() };
        for (number, seal) in content.volumes.clone() {
            if !on_disk.contains(&number) {
                let file = number.file().to_string();
                return Err(OpenError::VolumeMissing { folder: self.path.clone(), file });
            }
            if let Some(seal) = seal {
                let volume = self.sealed(number, seal, content.owner)?;
                volumes.sealed.insert(number, Arc::new(volume));
                continue;
            }
            let opened = Volume::open(self.disk, number, self.config.active_cache())
                .map_err(|error| self.volume_error(number, ReadError::Disk(error)))?;
            report.repaired += u64::from(opened.repaired);
            let volume = Arc::new(opened.volume);
            let is_sealed = self.label(&volume, content.owner)?;
            if is_sealed && !report.failed_before {
                self.disk(volume.close())?;
                let (bytes, crc) = self.disk(volume.measure())?;
                self.note(meta, content, number, Some(Seal { bytes, crc }))?;
                volumes.sealed.insert(number, volume);
                report.sealed += 1;
                continue;
            }
            match replay(&volume).map_err(|error| self.read_error(error))? {
                Some(replayed) if volumes.spares.is_empty() => volumes.unsealed.push((volume, replayed)),
                Some(_) => return Err(self.older_copy(&volumes.spares[0], "it holds nothing")),
                None => volumes.spares.push(volume),
            }
        }
        volumes.spares.reverse();
        Ok(volumes)
    }

    fn sealed(&self, number: VolumeNumber, seal: Seal, owner: Owner) -> Result<Volume, OpenError> {
        let volume = Volume::sealed(self.disk, number, self.config.active_cache());
        let length = self.disk(volume.length())?;
        if length != seal.bytes {
            let reason = format!("{length} bytes, {} when it was closed", seal.bytes);
            return Err(self.older_copy(&volume, &reason));
        }
        let is_sealed = self.label(&volume, owner)?;
        self.disk(volume.close())?;
        if is_sealed { Ok(volume) } else { Err(self.older_copy(&volume, "it was not closed for good")) }
    }

    /// Checks whose volume it is; tells whether it is sealed.
    fn label(&self, volume: &Volume, owner: Owner) -> Result<bool, OpenError> {
        let label = volume.label().map_err(|error| self.volume_error(volume.number, error))?;
        self.check_format(volume.file(), label.format)?;
        if label.owner != owner {
            return Err(OpenError::VolumeForeign {
                folder: self.path.clone(),
                file: volume.file().to_string(),
                node: label.owner.node,
                identity: label.owner.identity,
            });
        }
        if label.number != volume.number {
            return Err(OpenError::VolumeDamaged {
                folder: self.path.clone(),
                file: volume.file().to_string(),
                reason: format!("it is {} under another name", label.number.file()),
            });
        }
        Ok(label.sealed)
    }

    /// Finds the active volume and what it says, or makes the first one.
    fn newest(
        &self,
        volumes: &mut Volumes,
        meta: &Meta,
        content: &mut MetaContent,
    ) -> Result<Found, OpenError> {
        let Some((volume, replayed)) = volumes.unsealed.pop() else {
            let lost =
                volumes.spares.last().filter(|_| !volumes.sealed.is_empty() || content.witness.is_some());
            if let Some(lost) = lost {
                return Err(
                    self.older_copy(lost, "it holds nothing, although this node has acknowledged entries")
                );
            }
            if let Some((number, _)) = volumes.sealed.last_key_value() {
                let file = number.next().file().to_string();
                return Err(OpenError::VolumeMissing { folder: self.path.clone(), file });
            }
            let volume = match volumes.spares.pop() {
                Some(volume) => volume,
                None => {
                    let number = VolumeNumber(1);
                    let cache = self.config.active_cache();
                    let volume = self.disk(Volume::create(self.disk, content.owner, number, cache))?;
                    self.note(meta, content, number, None)?;
                    Arc::new(volume)
                }
            };
            let active =
                Active { volume, index: MemoryIndex::default(), tail: Tail::default(), begun: false };
            return Ok(Found { active, durable: BTreeMap::new(), commit: 0 });
        };
        if let Some(witness) = content.witness
            && replayed.commit < witness.commit
        {
            let reason =
                format!("its last commit is {}, {} was acknowledged", replayed.commit, witness.commit);
            return Err(self.older_copy(&volume, &reason));
        }
        let active = Active { volume, index: replayed.index, tail: replayed.tail, begun: true };
        Ok(Found { active, durable: replayed.durable, commit: replayed.commit })
    }

    /// Each span must lie in a volume that is here.
    fn check_spans(
        &self,
        found: &Found,
        sealed: &BTreeMap<VolumeNumber, Arc<Volume>>,
    ) -> Result<(), OpenError> {
        for span in found.durable.values().flat_map(|durable| &durable.spans) {
            if span.volume != found.active.volume.number && !sealed.contains_key(&span.volume) {
                let file = span.volume.file().to_string();
                return Err(OpenError::VolumeMissing { folder: self.path.clone(), file });
            }
        }
        Ok(())
    }

    /// Judges each group's checkpoints by its log, and takes away those that count for nothing. Gives those that count,
    /// and whether a log is still to be trimmed to one of them.
    fn checkpoints(
        &self,
        meta: &Meta,
        content: &MetaContent,
        durable: &BTreeMap<GroupId, Durable>,
    ) -> Result<(Checkpoints, bool), OpenError> {
        let misfit = |group: GroupId, reason: String| OpenError::Checkpoint {
            folder: self.path.clone(),
            group,
            reason,
        };
        let (mut kept, mut worthless, mut to_be_trimmed) = (Checkpoints::new(), Vec::new(), false);
        for ((group, kind), head) in &content.checkpoints {
            let log = durable.get(group).map(|durable| &durable.hard);
            match judge(log, *kind, head) {
                worth @ (Worth::Counts | Worth::LogToBeTrimmed) => {
                    to_be_trimmed |= worth == Worth::LogToBeTrimmed;
                    kept.insert((*group, *kind), head.at);
                }
                Worth::Nothing => worthless.push((*group, *kind)),
                Worth::DoesNotFit => {
                    let last = log.and_then(|log| log.last).map_or(LogIndex(0), |last| last.index);
                    let reason = format!("it is of entry {}, and the log ends at {last}", head.at.index);
                    return Err(misfit(*group, reason));
                }
            }
        }
        for (group, durable) in durable {
            let base = kept.get(&(*group, CheckpointKind::Base));
            if let Some(purged) = durable.hard.purged
                && base.is_none_or(|base| base.index < purged.index)
            {
                let reason =
                    format!("the log begins behind entry {}, and there is none so far", purged.index);
                return Err(misfit(*group, reason));
            }
        }
        if !worthless.is_empty() {
            let cleared = meta.transact(|write| {
                worthless.iter().try_for_each(|(group, kind)| checkpoints::clear(write, *group, *kind))
            });
            self.disk(cleared)?;
        }
        Ok((kept, to_be_trimmed))
    }

    fn note(
        &self,
        meta: &Meta,
        content: &mut MetaContent,
        number: VolumeNumber,
        seal: Option<Seal>,
    ) -> Result<(), OpenError> {
        self.disk(meta.write(&[Change::Volume(number, seal)]))?;
        content.volumes.insert(number, seal);
        Ok(())
    }

    fn older_copy(&self, volume: &Volume, reason: &str) -> OpenError {
        OpenError::OlderCopy {
            folder: self.path.clone(),
            file: volume.file().to_string(),
            reason: reason.to_owned(),
        }
    }

    fn disk<T>(&self, result: Result<T, DiskError>) -> Result<T, OpenError> {
        result.map_err(|error| self.disk_error(error))
    }

    fn disk_error(&self, source: DiskError) -> OpenError {
        if is_permission(&source) {
            OpenError::NotWritable { folder: self.path.clone(), source }
        } else {
            OpenError::Disk { folder: self.path.clone(), source }
        }
    }

    fn read_error(&self, error: ReadError) -> OpenError {
        match error {
            ReadError::Disk(error) => self.disk_error(error),
            ReadError::Corrupt(corrupt) => OpenError::Corrupt { folder: self.path.clone(), corrupt },
            ReadError::Missing { .. } | ReadError::Failed(_) => {
                unreachable!("nothing was asked for by index")
            }
        }
    }

    /// A volume that does not open is damaged, unless it is a matter of permissions.
    fn volume_error(&self, number: VolumeNumber, error: ReadError) -> OpenError {
        match error {
            ReadError::Disk(error) if is_permission(&error) => self.disk_error(error),
            ReadError::Disk(_) | ReadError::Corrupt(_) | ReadError::Missing { .. } | ReadError::Failed(_) => {
                OpenError::VolumeDamaged {
                    folder: self.path.clone(),
                    file: number.file().to_string(),
                    reason: error.to_string(),
                }
            }
        }
    }
}

fn is_permission(error: &DiskError) -> bool {
    matches!(error.io_kind(), Some(io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem))
}
