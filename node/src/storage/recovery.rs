//! Opening a data folder, after whatever happened to it: finds out what the disk holds, finishes what was left half
//! done, and reports both. A crash in the middle is harmless: the next opening does the same again.

mod losses;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use quorate_proto::ids::{GroupId, Identity, LogIndex, NodeId};
use tracing::{error, warn};

use losses::{GIVEN_UP, Hurt};

use super::checkpoints::{self, CheckpointKind, Checkpoints, Worth, judge};
use super::config::StoreConfig;
use super::damage::{Damage, Lost};
use super::error::{CorruptEntry, DiskError, OpenError, ReadError};
use super::facts::{Change, Meta, MetaContent, Seal, meta_file};
use super::failure::marker;
use super::hard::{Durable, HardVote};
use super::index::MemoryIndex;
use super::keeper;
use super::replay::{Replayed, replay, salvage};
use super::rewrite::{self, copy_anew, copy_if_whole, rewrite};
use super::state::{Active, State};
use super::stream::Item;
use super::transcript::{Line, Tail, put};
use super::unread::{Unread, record_file};
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
    /// `meta.redb` was damaged or missing, and was made anew of what the volumes say.
    pub meta_rebuilt: bool,
    /// Volumes that cannot be read any more, or are not there, and hold entries.
    pub volumes_lost: u64,
    /// Entries known to be damaged.
    pub damaged_entries: u64,
    /// Groups that may lack what they had acknowledged.
    pub groups_behind: u64,
}

/// A folder, opened.
pub(super) struct Recovered {
    pub(super) meta: Meta,
    pub(super) content: MetaContent,
    pub(super) state: State,
    pub(super) report: RecoveryReport,
    /// What else is worth knowing of it.
    pub(super) marks: Vec<Mark>,
    /// Volumes that cannot be read or are not there, and why, whether or not they held anything alive.
    pub(super) lost: BTreeMap<VolumeNumber, CorruptEntry>,
    /// Why the newest commits may be missing, if this opening is what found it out.
    pub(super) tail: Option<CorruptEntry>,
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
    let mut old_meta = names.contains(&meta_file()).then_some(OldMeta::Whole);
    if report.failed_before && old_meta.is_some() {
        let unreadable = folder.disk(copy_if_whole(disk, &meta_file()))?;
        if unreadable > 0 {
            old_meta = Some(OldMeta::Unreadable { bytes: unreadable });
        }
    }
    let mut hurt = Hurt::default();
    if report.failed_before && names.contains(&record_file()) {
        hurt.unreadable = folder.disk(Unread::load(disk))?;
        if hurt.unreadable.is_damaged() {
            hurt.lose_tail(&format!("{} is damaged, which says what could not be read", record_file()));
        }
    }
    let ours = Owner { node, identity: fresh };
    let (meta, mut content) = folder.meta(old_meta, &on_disk, ours, &mut report, &mut hurt)?;
    folder.give_up_unfinished(&mut on_disk, &meta, &mut content, &mut report)?;
    if report.failed_before {
        for number in on_disk.iter().filter(|number| !matches!(content.volumes.get(number), Some(Some(_)))) {
            folder.disk(copy_anew(disk, *number, &mut hurt.unreadable))?;
        }
    }
    folder.settle_unknown(&on_disk, &mut content, &mut report, &mut hurt)?;
    let unlisted = report.leftovers - half_made;
    let mut volumes = folder.volumes(&on_disk, &mut content, &mut report, &mut hurt)?;
    let mut found = folder.newest(&mut volumes, &mut content, &mut hurt)?;
    let (mut only_in_meta, mut newer_in_volume) = (Vec::new(), false);
    for (group, vote) in &content.votes {
        let hard = &mut found.durable.entry(*group).or_default().hard;
        let newest = hard.vote.map_or(*vote, |known| known.max(*vote));
        if hard.vote != Some(newest) {
            only_in_meta.push((*group, newest));
        }
        newer_in_volume |= *vote != newest;
        hard.vote = Some(newest);
    }
    let newer_in_meta = !only_in_meta.is_empty();
    // Before anything that was found is given up, and no later than what was listed: a start that is cut off must not make
    // the next one sure of itself.
    folder.note_losses(&meta, &mut content, &found, &hurt)?;
    if report.failed_before || found.broken {
        let doubtful = volumes.unsealed.drain(..).map(|unsealed| (unsealed.volume, unsealed.replayed.index));
        let mut doubtful = doubtful.collect::<Vec<_>>();
        doubtful.push((found.active.volume, found.active.index));
        let old = rewrite::In {
            doubtful,
            spares: std::mem::take(&mut volumes.spares),
            durable: &mut found.durable,
            commit: found.commit,
            newest_lost: hurt.lost.keys().next_back().copied(),
        };
        let (active, cut) = rewrite(disk, config, content.owner, &meta, &mut content, old)
            .map_err(|error| folder.read_error(error))?;
        found.active = active;
        if found.active.begun {
            // Its beginning tells of all groups.
            only_in_meta.clear();
        }
        if !cut.is_empty() {
            hurt.lose_tail("entries at the end of a log cannot be read");
        }
        found.commit += u64::from(found.active.begun);
        if report.failed_before {
            folder.remove(&marker(), &mut report)?;
        }
    } else {
        for Unsealed { volume, replayed, .. } in volumes.unsealed.drain(..) {
            match keeper::seal(&volume, &replayed.index) {
                Ok(seal) => {
                    folder.note(&meta, &mut content, volume.number, Some(seal))?;
                    volumes.sealed.insert(volume.number, volume);
                    report.sealed += 1;
                }
                Err(error) => match folder.unfit(ReadError::Disk(error)) {
                    Unfit::Damaged(why) => {
                        // What this says does not matter any more.
                        drop(volume.close());
                        hurt.lose(volume.number, &why);
                    }
                    Unfit::Refused(error) => return Err(error),
                },
            }
        }
    }
    // What it says is noted, and nothing is left of the copies. Behind the mark: nobody believes it without that.
    if names.contains(&record_file()) || !hurt.unreadable.is_empty() {
        folder.remove(&record_file(), &mut report)?;
    }
    let mut damage = folder.settle_lost(&meta, &mut content, &found, &mut volumes, &mut hurt)?;
    let (checkpoints, to_be_trimmed) =
        folder.checkpoints(&meta, &mut content, &found.durable, &mut damage)?;
    if content.format != FORMAT {
        // Before anything is written that an older program would take for damage: it says so instead.
        folder.disk(meta.write(&[Change::Format(FORMAT)]))?;
        content.format = FORMAT;
    }
    let was_empty = !found.active.begun;
    folder.copy_votes(&meta, &mut content, &mut found, &only_in_meta)?;
    let count = |length: usize| u64::try_from(length).expect("a length fits 64 bits");
    let spans = || found.durable.values().flat_map(|durable| &durable.spans);
    let unread = volumes.sealed.values().filter(|volume| volume.is_lost()).map(|volume| volume.number);
    let unread = unread.collect::<Vec<_>>();
    let lost = unread.iter().filter(|number| spans().any(|span| span.volume == **number)).count();
    report.volumes = count(volumes.sealed.len() - unread.len()) + u64::from(found.active.begun);
    report.volumes_lost = count(lost);
    report.groups = count(found.durable.len());
    report.entries = spans().map(|span| span.range.end.0 - span.range.start.0).sum();
    report.damaged_entries = damage.values().map(Damage::entries).sum();
    report.groups_behind = count(damage.values().filter(|damage| damage.lost.any()).count());
    let marks = [
        (report.created, Mark::FirstStart),
        (report.repaired > 0, Mark::RestartAfterACrash),
        (report.sealed > 0, Mark::RestartInTheMiddleOfASealing),
        (report.failed_before, Mark::RestartWithAMarker),
        (half_made > 0, Mark::RestartWithAHalfMadeFile),
        (unlisted > 0, Mark::RestartWithAnUnlistedVolume),
        (newer_in_meta, Mark::VoteNewerInMeta),
        (newer_in_volume, Mark::VoteNewerInItsVolume),
        (!report.created && was_empty, Mark::RestartWithAnEmptyActiveVolume),
        (found.active.begun && volumes.spares.is_empty(), Mark::RestartWithoutANextVolume),
        (to_be_trimmed, Mark::RestartInTheMiddleOfACatchUp),
        (report.meta_rebuilt, Mark::MetaRebuilt),
        (lost > 0, Mark::VolumeFoundLost),
        (hurt.tail.is_some(), Mark::TailFoundLost),
    ];
    let marks = marks.into_iter().filter(|(reached, _)| *reached).map(|(_, mark)| mark).collect();
    let spare = volumes.spares.pop();
    let mut state = State::new(found.durable, checkpoints, found.active, volumes.sealed, spare, found.commit);
    state.damage = damage;
    state.forgot_below = content.forgot;
    Ok(Recovered { meta, content, state, report, marks, lost: hurt.lost, tail: hurt.tail })
}

/// A `meta.redb` that is there.
#[derive(Clone, Copy)]
enum OldMeta {
    /// Nothing is known against it.
    Whole,
    /// So much of it could not be read when it was to be copied. It still lies there as it was.
    Unreadable { bytes: u64 },
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
    unsealed: Vec<Unsealed>,
    /// Made ahead, without content; descending.
    spares: Vec<Arc<Volume>>,
}

struct Unsealed {
    volume: Arc<Volume>,
    /// As far as its stream is whole.
    replayed: Replayed,
    /// What is damaged in it.
    trouble: Option<String>,
}

struct Found {
    active: Active,
    durable: BTreeMap<GroupId, Durable>,
    commit: u64,
    /// The active volume is damaged: nothing more may be written to it.
    broken: bool,
}

/// Why a volume is not used.
enum Unfit {
    /// It is not what was written: what it held must come from elsewhere.
    Damaged(String),
    /// That says nothing of its content.
    Refused(OpenError),
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
        old: Option<OldMeta>,
        on_disk: &BTreeSet<VolumeNumber>,
        owner: Owner,
        report: &mut RecoveryReport,
        hurt: &mut Hurt,
    ) -> Result<(Meta, MetaContent), OpenError> {
        if old.is_none() && on_disk.is_empty() {
            report.created = true;
            let content = MetaContent::empty(FORMAT, owner);
            let meta = self.disk(Meta::create(self.disk, &content))?;
            return Ok((meta, content));
        }
        let opened = old.map(|old| match old {
            OldMeta::Whole => Meta::open(self.disk),
            OldMeta::Unreadable { bytes } => {
                let why = format!("{bytes} bytes of it are unreadable");
                Err(ReadError::Disk(DiskError::new("read", &meta_file(), why)))
            }
        });
        let (meta, content, repaired) = match opened {
            Some(Ok(opened)) => opened,
            Some(Err(ReadError::Disk(error))) if !error.is_damage() => return Err(self.disk_error(error)),
            Some(Err(error)) => {
                let reason = error.to_string();
                let damaged = OpenError::MetaDamaged { folder: self.path.clone(), reason };
                let made = self.rebuild(on_disk, owner.node, report, hurt);
                return made.and_then(|made| made.ok_or(damaged));
            }
            None => {
                let missing = OpenError::MetaMissing { folder: self.path.clone(), volumes: on_disk.len() };
                let made = self.rebuild(on_disk, owner.node, report, hurt);
                return made.and_then(|made| made.ok_or(missing));
            }
        };
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
    /// before a crash. One that has begun all the same shows that `meta.redb` is an older copy.
    fn settle_unknown(
        &self,
        on_disk: &BTreeSet<VolumeNumber>,
        content: &mut MetaContent,
        report: &mut RecoveryReport,
        hurt: &mut Hurt,
    ) -> Result<(), OpenError> {
        let newest = content.volumes.keys().next_back().copied();
        let unknown = on_disk.iter().filter(|number| !content.volumes.contains_key(number));
        for number in unknown.copied().collect::<Vec<_>>() {
            let begun = if newest.is_some_and(|newest| number < newest) {
                Ok(false)
            } else {
                match (self.has_begun(number, content.owner), hurt.unread(number)) {
                    // Perhaps it had, and what cannot be read would say so.
                    (Ok(false), Some(why)) => Err(Unfit::Damaged(why)),
                    (begun, _) => begun,
                }
            };
            match begun {
                Ok(true) => {
                    hurt.lose_tail(&format!(
                        "meta.redb does not list {}: it is an older copy",
                        number.file()
                    ));
                    hurt.list(content, number, None);
                }
                // After kill -9 its name may not be durable. It is made again.
                Ok(false) => {
                    let volume = Volume::sealed(self.disk, number, 0);
                    report.leftovers += 1;
                    self.disk(keeper::discard(self.disk, content.owner, &volume, true))?;
                }
                Err(Unfit::Damaged(why)) => {
                    hurt.lose_tail(&format!("{} is damaged ({why})", number.file()));
                    hurt.lose(number, &why);
                }
                Err(Unfit::Refused(error)) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether a volume that is not listed holds anything.
    fn has_begun(&self, number: VolumeNumber, owner: Owner) -> Result<bool, Unfit> {
        let opened = Volume::open(self.disk, number, self.config.active_cache());
        let volume = opened.map_err(|error| self.unfit(ReadError::Disk(error)))?.volume;
        self.label(&volume, owner)?;
        let replayed = replay(&volume).map_err(|error| self.unfit(error))?;
        volume.close().map_err(|error| self.unfit(ReadError::Disk(error)))?;
        Ok(replayed.is_some())
    }

    /// Opens all volumes that `meta.redb` lists.
    fn volumes(
        &self,
        on_disk: &BTreeSet<VolumeNumber>,
        content: &mut MetaContent,
        report: &mut RecoveryReport,
        hurt: &mut Hurt,
    ) -> Result<Volumes, OpenError> {
        let mut volumes = Volumes { sealed: BTreeMap::new(), unsealed: Vec::new(), spares: Vec::new() };
        // Not sealed, and damaged or gone.
        let mut open_and_lost = BTreeSet::new();
        for (number, seal) in content.volumes.clone() {
            let fit = match seal {
                _ if !on_disk.contains(&number) => Err(Unfit::Damaged("it is missing".to_owned())),
                Some(seal) => self.sealed(number, seal, content.owner).map(|volume| {
                    volumes.sealed.insert(number, Arc::new(volume));
                }),
                None => self.unsealed(number, content, report, hurt, &mut volumes),
            };
            match fit {
                Ok(()) => {}
                Err(Unfit::Damaged(why)) => {
                    hurt.lose(number, &why);
                    if seal.is_none() {
                        open_and_lost.insert(number);
                    }
                }
                Err(Unfit::Refused(error)) => return Err(error),
            }
        }
        // What was made before one that has begun had begun itself.
        let newest = volumes.unsealed.last().map(|unsealed| unsealed.volume.number);
        let (emptied, spares): (Vec<_>, Vec<_>) =
            volumes.spares.drain(..).partition(|spare| newest.is_some_and(|newest| spare.number < newest));
        for spare in emptied {
            self.disk(spare.close())?;
            hurt.lose(spare.number, "it is an older copy: it holds nothing, and a newer one does");
        }
        volumes.spares = spares;
        volumes.spares.reverse();
        // Whatever came after a newest one that has begun may have begun as well.
        if let Some(lost) = open_and_lost.iter().find(|lost| newest.is_none_or(|newest| **lost > newest)) {
            let why = hurt.lost.get(lost).map_or("it is lost", |why| why.place.as_str());
            let said = format!("{} was perhaps written last ({why})", lost.file());
            hurt.lose_tail(&said);
        }
        Ok(volumes)
    }

    /// Opens a volume that is not listed as sealed.
    fn unsealed(
        &self,
        number: VolumeNumber,
        content: &mut MetaContent,
        report: &mut RecoveryReport,
        hurt: &mut Hurt,
        volumes: &mut Volumes,
    ) -> Result<(), Unfit> {
        let unfit = |error: DiskError| self.unfit(ReadError::Disk(error));
        let opened = Volume::open(self.disk, number, self.config.active_cache()).map_err(unfit)?;
        report.repaired += u64::from(opened.repaired);
        let volume = Arc::new(opened.volume);
        let is_sealed = self.label(&volume, content.owner)?;
        if is_sealed && !report.failed_before {
            volume.close().map_err(unfit)?;
            let (bytes, crc) = volume.measure().map_err(unfit)?;
            hurt.list(content, number, Some(Seal { bytes, crc }));
            volumes.sealed.insert(number, volume);
            report.sealed += 1;
            return Ok(());
        }
        let (replayed, trouble) = salvage(&volume);
        let trouble = match trouble {
            Some(error) => match self.unfit(error) {
                Unfit::Damaged(why) => Some(why),
                refused @ Unfit::Refused(_) => return Err(refused),
            },
            None => hurt.unread(number),
        };
        if replayed.commit == 0 && trouble.is_none() {
            volumes.spares.push(volume);
        } else {
            volumes.unsealed.push(Unsealed { volume, replayed, trouble });
        }
        Ok(())
    }

    fn sealed(&self, number: VolumeNumber, seal: Seal, owner: Owner) -> Result<Volume, Unfit> {
        let volume = Volume::sealed(self.disk, number, self.config.active_cache());
        let unfit = |error: DiskError| self.unfit(ReadError::Disk(error));
        if seal == GIVEN_UP {
            return Err(Unfit::Damaged("it was found damaged before".to_owned()));
        }
        let length = volume.length().map_err(unfit)?;
        if length != seal.bytes {
            let reason = format!("it is an older copy: {length} bytes, {} when it was closed", seal.bytes);
            return Err(Unfit::Damaged(reason));
        }
        let is_sealed = self.label(&volume, owner)?;
        volume.close().map_err(unfit)?;
        if is_sealed {
            Ok(volume)
        } else {
            Err(Unfit::Damaged("it is an older copy: it was not closed for good".to_owned()))
        }
    }

    /// Checks whose volume it is; tells whether it is sealed.
    fn label(&self, volume: &Volume, owner: Owner) -> Result<bool, Unfit> {
        let label = volume.label().map_err(|error| self.unfit(error))?;
        self.check_format(volume.file(), label.format).map_err(Unfit::Refused)?;
        if label.owner != owner {
            return Err(Unfit::Damaged(format!(
                "it was written by node {} with identity {}",
                label.owner.node, label.owner.identity
            )));
        }
        if label.number != volume.number {
            return Err(Unfit::Damaged(format!("it is {} under another name", label.number.file())));
        }
        Ok(label.sealed)
    }

    /// Finds the active volume and what it says, or makes the first one.
    fn newest(
        &self,
        volumes: &mut Volumes,
        content: &mut MetaContent,
        hurt: &mut Hurt,
    ) -> Result<Found, OpenError> {
        let witness = content.witness.map_or(0, |witness| witness.commit);
        let Some(Unsealed { volume, mut replayed, trouble }) = volumes.unsealed.pop() else {
            let mut base = Replayed::default();
            if !volumes.sealed.is_empty() || !hurt.lost.is_empty() || witness > 0 || content.forgot.is_some()
            {
                hurt.lose_tail("no volume holds the newest commits");
                base = self.before(volumes)?;
            }
            let volume = match volumes.spares.pop() {
                Some(volume) => volume,
                None => {
                    let known = content.volumes.keys().chain(hurt.lost.keys()).max().copied();
                    let number = known.unwrap_or(VolumeNumber(0)).next();
                    let cache = self.config.active_cache();
                    let volume = self.disk(Volume::create(self.disk, content.owner, number, cache))?;
                    hurt.list(content, number, None);
                    Arc::new(volume)
                }
            };
            let active =
                Active { volume, index: MemoryIndex::default(), tail: Tail::default(), begun: false };
            let commit = base.commit.max(witness);
            return Ok(Found { active, durable: base.durable, commit, broken: false });
        };
        // Those before it are lost with what is damaged in them; this one tells what they held.
        let (broken, whole): (Vec<_>, Vec<_>) =
            volumes.unsealed.drain(..).partition(|unsealed| unsealed.trouble.is_some());
        volumes.unsealed = whole;
        for Unsealed { volume, trouble, .. } in broken {
            self.disk(volume.close())?;
            hurt.lose(volume.number, &trouble.unwrap_or_default());
        }
        let mut commit = replayed.commit.max(witness);
        if let Some(why) = &trouble {
            hurt.lose_tail(&format!("{} is damaged ({why})", volume.file()));
            let before = self.before(volumes)?;
            // It may hold nothing, or nothing that can be read: what lies before it is written anew all the same.
            commit = commit.max(before.commit);
            // Its beginning tells of all groups, unless that is damaged.
            for (group, state) in before.durable {
                replayed.durable.entry(group).or_insert(state);
            }
        } else if replayed.commit < witness {
            hurt.lose_tail(&format!(
                "{} is an older copy: its last commit is {}, {witness} was acknowledged",
                volume.file(),
                replayed.commit
            ));
        }
        let active =
            Active { volume, index: replayed.index, tail: replayed.tail, begun: replayed.commit > 0 };
        Ok(Found { active, durable: replayed.durable, commit, broken: trouble.is_some() })
    }

    /// What the newest readable one of the volumes before the active one says at its end.
    fn before(&self, volumes: &Volumes) -> Result<Replayed, OpenError> {
        let unsealed = volumes.unsealed.iter().map(|unsealed| &unsealed.volume);
        let mut all = volumes.sealed.values().chain(unsealed).collect::<Vec<_>>();
        all.sort_by_key(|volume| volume.number);
        for volume in all.into_iter().rev() {
            match replay(volume) {
                Ok(Some(replayed)) if replayed.tells => return Ok(replayed),
                // One that others were rewritten into holds entries, and tells of nothing else.
                Ok(Some(_) | None) => {}
                Err(error) => match self.unfit(error) {
                    Unfit::Damaged(why) => {
                        warn!(volume = %volume.number, why, "stream of a volume cannot be read");
                    }
                    Unfit::Refused(error) => return Err(error),
                },
            }
        }
        Ok(Replayed::default())
    }

    /// Judges each group's checkpoints by its log, and takes away those that count for nothing. Gives those that count,
    /// and whether a log is still to be trimmed to one of them.
    fn checkpoints(
        &self,
        meta: &Meta,
        content: &mut MetaContent,
        durable: &BTreeMap<GroupId, Durable>,
        damage: &mut BTreeMap<GroupId, Damage>,
    ) -> Result<(Checkpoints, bool), OpenError> {
        let (mut behind, has_copies) = (BTreeSet::new(), self.has_copies(content));
        let mut misfit = |group: GroupId, reason: String| {
            if !has_copies {
                return Err(OpenError::Checkpoint { folder: self.path.clone(), group, reason });
            }
            error!(%group, reason, "base and log of a group do not fit; what is missing must come from other replicas");
            behind.insert(group);
            Ok(())
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
                    misfit(*group, reason)?;
                    if last < head.at.index {
                        // It holds more than the log, whose end is lost: the log goes on behind it.
                        to_be_trimmed = true;
                        kept.insert((*group, *kind), head.at);
                    } else {
                        worthless.push((*group, *kind));
                    }
                }
            }
        }
        let mut baseless = BTreeSet::new();
        for (group, durable) in durable {
            let base = kept.get(&(*group, CheckpointKind::Base));
            if let Some(purged) = durable.hard.purged
                && base.is_none_or(|base| base.index < purged.index)
            {
                let reason =
                    format!("the log begins behind entry {}, and there is none so far", purged.index);
                misfit(*group, reason)?;
                baseless.insert(*group);
            }
        }
        // First: without it, nothing would tell of what is missing.
        let mut changes = Vec::new();
        for group in behind {
            let lost = content.lost.entry(group).or_default();
            *lost = lost.and(Lost { tail: true, vote: false });
            changes.push(Change::Lost(group, *lost));
            let damage = damage.entry(group).or_default();
            (damage.lost, damage.base) = (*lost, baseless.contains(&group));
        }
        if !changes.is_empty() {
            self.disk(meta.write(&changes))?;
        }
        if !worthless.is_empty() {
            let cleared = meta.transact(|write| {
                worthless.iter().try_for_each(|(group, kind)| checkpoints::clear(write, *group, *kind))
            });
            self.disk(cleared)?;
        }
        Ok((kept, to_be_trimmed))
    }

    /// Writes each vote that lies in one place only to the other as well, as a power cut in the middle of a commit leaves
    /// it: whoever acts upon it would forget it with the next damage to that one place. Of the votes in `only_in_meta` the
    /// active volume does not tell.
    fn copy_votes(
        &self,
        meta: &Meta,
        content: &mut MetaContent,
        found: &mut Found,
        only_in_meta: &[(GroupId, HardVote)],
    ) -> Result<(), OpenError> {
        let votes = found.durable.iter().filter_map(|(group, durable)| Some((*group, durable.hard.vote?)));
        let older = votes.filter(|(group, vote)| content.votes.get(group) != Some(vote)).collect::<Vec<_>>();
        if !older.is_empty() {
            let changes = older.iter().map(|(group, vote)| Change::Vote(*group, *vote)).collect::<Vec<_>>();
            self.disk(meta.write(&changes))?;
            content.votes.extend(older);
        }
        if only_in_meta.is_empty() {
            return Ok(());
        }
        let facts: Vec<_> = if found.active.begun {
            only_in_meta.iter().map(|(group, vote)| Item::Vote { group: *group, vote: *vote }).collect()
        } else {
            // A volume begins with what is known of all groups.
            let all = found.durable.iter();
            all.map(|(group, state)| Item::State { group: *group, state: state.clone() }).collect()
        };
        let lines = facts.into_iter().map(Line::Fact).collect::<Vec<_>>();
        let commit = found.commit + 1;
        let Active { volume, tail, begun, .. } = &mut found.active;
        let written = volume.write(|write| put(write, tail, commit, &lines));
        if let Err(error) = written {
            // Perhaps it can be read and not be written to: the next start writes anew what it holds.
            drop(self.disk.mark(&marker(), error.to_string().as_bytes()));
            return Err(self.disk_error(error));
        }
        *begun = true;
        found.commit = commit;
        Ok(())
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

    fn disk<T>(&self, result: Result<T, DiskError>) -> Result<T, OpenError> {
        result.map_err(|error| self.disk_error(error))
    }

    fn disk_error(&self, source: DiskError) -> OpenError {
        if source.io_kind() == Some(io::ErrorKind::PermissionDenied) {
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

    /// What an error says of the volume in which it was met.
    fn unfit(&self, error: ReadError) -> Unfit {
        if error.is_damage() {
            Unfit::Damaged(error.to_string())
        } else {
            Unfit::Refused(self.read_error(error))
        }
    }
}
