//! A disk that loses what was not synced, and the folder on it.
//!
//! Per file there is the platter (what a sync has reached) and what the running process sees. Between the two lie
//! the unsynced operations; of these a crash keeps an arbitrary part: each sector of 512 bytes comes out as any of
//! the versions that it went through since the last sync, independent of all others, and the length likewise. Names
//! are as volatile: a file that was created, renamed or removed since the folder was last synced may come out under
//! its old name, under its new one, or not at all.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_node::env::{Disk, FileName};

use crate::dice::Dice;

/// What survives a crash or not as a whole, in bytes.
const SECTOR: usize = 512;

/// One node's disk. Clones share it; it outlives the node's process.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

/// What becomes of the unsynced pages when a sync fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirtyPages {
    /// They count as clean from then on, as with Linux: the process goes on seeing them, no later sync writes them.
    Dropped,
    /// They stay dirty: the next sync writes them.
    Kept,
}

/// How long operations take: drawn per operation, accounted to whoever ran them (see [`SimDisk::take_elapsed`]).
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// The quickest sync.
    pub sync_min: Duration,
    /// The slowest one.
    pub sync_max: Duration,
}

/// Something that reached the platters, or a crash. Kept in the trace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DiskEvent {
    /// A file's content.
    Synced {
        /// Which one.
        file: FileName,
        /// Operations on this disk so far.
        operations: u64,
        /// Checksum over all that was ever written to this disk, in order.
        written_crc: u32,
    },
    /// A name.
    Published {
        /// The name.
        file: FileName,
        /// Operations on this disk so far.
        operations: u64,
    },
    /// A sync that was made to fail.
    SyncFailed {
        /// Of which file.
        file: FileName,
        /// Operations on this disk so far.
        operations: u64,
    },
    /// The power went.
    Cut {
        /// Operations on this disk so far.
        operations: u64,
    },
    /// The power came back.
    Survived(Losses),
}

/// What a crash did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Losses {
    /// Sectors written since their file's last sync.
    pub sectors_at_stake: u64,
    /// Those that did not come out as last written.
    pub sectors_lost: u64,
    /// Creations, renames and removals that came undone.
    pub names_lost: u64,
}

type Watch = Arc<dyn Fn(DiskEvent) + Send + Sync>;
type FileId = u64;

struct State {
    files: BTreeMap<FileId, File>,
    next_file: FileId,
    /// As the process sees the folder.
    names: BTreeMap<FileName, FileId>,
    /// As of the last sync of the folder.
    synced_names: BTreeMap<FileName, FileId>,
    /// What lies between the two, in order.
    unsynced_names: Vec<NameChange>,
    /// Files opened before the last crash belong to an earlier life and fail for ever.
    life: u64,
    powered: bool,
    operations: u64,
    cut_at: Option<u64>,
    /// Syncs until one fails, and how.
    failing_sync: Option<(u64, DirtyPages)>,
    /// The event of a sync that failed just now.
    sync_failed: Option<DiskEvent>,
    pace: Pace,
    pace_dice: Dice,
    stall: Duration,
    elapsed: Duration,
    written_crc: u32,
    watch: Option<Watch>,
    on_cut: Option<Arc<dyn Fn() + Send + Sync>>,
}

#[derive(Default)]
struct File {
    /// As the process sees it.
    seen: Vec<u8>,
    platter: Vec<u8>,
    unsynced: Vec<Change>,
    handles: u32,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

enum NameChange {
    Create { name: FileName, file: FileId },
    Rename { from: FileName, to: FileName, file: FileId },
    Remove { name: FileName, file: FileId },
}

impl SimDisk {
    /// An empty disk whose operations take no time.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            synced_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            life: 0,
            powered: true,
            operations: 0,
            cut_at: None,
            failing_sync: None,
            sync_failed: None,
            pace: Pace::default(),
            pace_dice: Dice::new(0),
            stall: Duration::ZERO,
            elapsed: Duration::ZERO,
            written_crc: 0,
            watch: None,
            on_cut: None,
        })))
    }

    /// Tells `watch` of each event from now on.
    pub fn watch(&self, watch: impl Fn(DiskEvent) + Send + Sync + 'static) {
        self.state().watch = Some(Arc::new(watch));
    }

    /// Calls `hook` when the power goes at an operation (see [`SimDisk::cut_power_at`]), in the middle of that
    /// operation.
    pub fn on_cut(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.state().on_cut = Some(Arc::new(hook));
    }

    /// Forgets who watches and who is called: what they hold may in turn hold this disk.
    pub fn forget_watchers(&self) {
        let mut state = self.state();
        state.watch = None;
        state.on_cut = None;
    }

    /// Operations take this long from now on, drawn from `dice`.
    pub fn set_pace(&self, pace: Pace, dice: Dice) {
        let mut state = self.state();
        state.pace = pace;
        state.pace_dice = dice;
    }

    /// Work that is handed over from now on waits so much longer for its turn.
    pub fn stall(&self, time: Duration) {
        self.state().stall = time;
    }

    /// How much longer work waits.
    pub fn stalled(&self) -> Duration {
        self.state().stall
    }

    /// The time that operations have taken since this was last asked.
    pub fn take_elapsed(&self) -> Duration {
        mem::take(&mut self.state().elapsed)
    }

    /// Operations so far that change the disk: each write, change of length, sync, creation, removal and mark is
    /// one, a publish is two (the rename, and the sync of the folder).
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Cuts the power in place of operation number `operation`, counted from 0 over the disk's whole life as
    /// [`SimDisk::operations`] counts: that operation and all later ones fail and change nothing.
    pub fn cut_power_at(&self, operation: u64) {
        self.state().cut_at = Some(operation);
    }

    /// Whether the power is on.
    pub fn is_powered(&self) -> bool {
        self.state().powered
    }

    /// Cuts the power now: every operation fails until [`SimDisk::crash`].
    pub fn cut_power(&self) {
        let watch = {
            let mut state = self.state();
            if !state.powered {
                return;
            }
            state.powered = false;
            state.watch.clone().map(|watch| (watch, state.operations))
        };
        if let Some((watch, operations)) = watch {
            watch(DiskEvent::Cut { operations });
        }
    }

    /// After this many more syncs that succeed, one fails; the ones after it succeed again.
    pub fn fail_sync_after(&self, successes: u64, pages: DirtyPages) {
        self.state().failing_sync = Some((successes, pages));
    }

    /// Crashes: what was not synced survives in part, as `dice` fall; every open file of before is dead; the
    /// power is on again.
    pub fn crash(&self, dice: &mut Dice) -> Losses {
        let (losses, watch) = {
            let mut state = self.state();
            let losses = state.crash(Fate::draw(dice), dice);
            (losses, state.watch.clone())
        };
        if let Some(watch) = watch {
            watch(DiskEvent::Survived(losses));
        }
        losses
    }

    /// The process dies and the machine does not, as with kill -9: the next life sees what the last one wrote,
    /// and what was not synced is still not synced.
    pub fn kill(&self) {
        self.state().revive();
    }

    /// Takes back what [`SimDisk::cut_power_at`], [`SimDisk::fail_sync_after`] and [`SimDisk::stall`] have set up.
    pub fn spare(&self) {
        let mut state = self.state();
        state.stall = Duration::ZERO;
        state.cut_at = None;
        state.failing_sync = None;
    }

    /// Erases everything, as a new disk in the old one's place.
    pub fn wipe(&self) {
        let mut state = self.state();
        state.files.clear();
        state.names.clear();
        state.synced_names.clear();
        state.unsynced_names.clear();
        state.revive();
    }

    /// The bytes of a file on the platter, for oracles; `None` if no such name is durable.
    pub fn platter(&self, name: &FileName) -> Option<Vec<u8>> {
        let state = self.state();
        let file = state.synced_names.get(name)?;
        state.files.get(file).map(|file| file.platter.clone())
    }

    /// A disk with the platters of this one, as an inspector sees them after a crash that kept nothing unsynced.
    pub fn copy_of_platters(&self) -> Self {
        let copy = Self::new();
        {
            let (state, mut new) = (self.state(), copy.state());
            new.next_file = state.next_file;
            new.names.clone_from(&state.synced_names);
            new.synced_names.clone_from(&state.synced_names);
            for id in state.synced_names.values() {
                let platter = state.file(*id).platter.clone();
                new.files.insert(*id, File { seen: platter.clone(), platter, ..File::default() });
            }
        }
        copy
    }

    /// A disk with all that a process would see on this one, and all of it synced.
    pub fn copy_as_seen(&self) -> Self {
        let copy = Self::new();
        {
            let (state, mut new) = (self.state(), copy.state());
            new.next_file = state.next_file;
            new.names.clone_from(&state.names);
            new.synced_names.clone_from(&state.names);
            for id in state.names.values() {
                let seen = state.file(*id).seen.clone();
                new.files.insert(*id, File { platter: seen.clone(), seen, ..File::default() });
            }
        }
        copy
    }

    /// How many files the process holds open.
    pub fn open_files(&self) -> u64 {
        self.state().files.values().map(|file| u64::from(file.handles)).sum()
    }

    /// Bytes of all files, as the process sees them.
    pub fn bytes(&self) -> u64 {
        let state = self.state();
        let lengths = state.names.values().map(|id| state.file(*id).seen.len());
        lengths.map(|length| u64::try_from(length).unwrap_or(u64::MAX)).sum()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an operation and does it, or fails if the power is off or goes now. `life`: of the file it is for.
    fn operate(
        &self,
        life: Option<u64>,
        act: impl FnOnce(&mut State) -> io::Result<Option<DiskEvent>>,
    ) -> io::Result<()> {
        let (result, event, watch, cut) = {
            let mut state = self.state();
            state.check(life)?;
            let watch = state.watch.clone();
            if state.cut_at.is_some_and(|at| at <= state.operations) {
                state.powered = false;
                let event = DiskEvent::Cut { operations: state.operations };
                (Err(no_power()), Some(event), watch, state.on_cut.clone())
            } else {
                state.operations += 1;
                match act(&mut state) {
                    Ok(event) => (Ok(()), event, watch, None),
                    Err(error) => (Err(error), state.sync_failed.take(), watch, None),
                }
            }
        };
        if let (Some(watch), Some(event)) = (watch, event) {
            watch(event);
        }
        if let Some(hook) = cut {
            hook();
        }
        result
    }
}

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &FileName, create: bool) -> io::Result<Box<dyn redb::StorageBackend>> {
        if create {
            self.operate(None, |state| {
                if state.names.contains_key(name) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                state.create(name);
                Ok(None)
            })?;
        }
        let mut state = self.state();
        state.check(None)?;
        let file = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        state.file_mut(file).handles += 1;
        let handle = OpenFile { disk: self.clone(), name: name.clone(), file, life: state.life };
        Ok(Box::new(handle))
    }

    fn publish(&self, from: &FileName, to: &FileName) -> io::Result<()> {
        self.operate(None, |state| {
            let file = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.names.insert(to.clone(), file);
            state.unsynced_names.push(NameChange::Rename { from: from.clone(), to: to.clone(), file });
            Ok(None)
        })?;
        self.operate(None, |state| {
            state.synced_names = state.names.clone();
            state.unsynced_names.clear();
            state.forget_unreachable();
            Ok(Some(DiskEvent::Published { file: to.clone(), operations: state.operations }))
        })
    }

    fn remove(&self, name: &FileName) -> io::Result<()> {
        self.operate(None, |state| {
            let file = state.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
            state.unsynced_names.push(NameChange::Remove { name: name.clone(), file });
            Ok(None)
        })
    }

    fn list(&self) -> io::Result<Vec<FileName>> {
        let state = self.state();
        state.check(None)?;
        Ok(state.names.keys().cloned().collect())
    }

    fn mark(&self, name: &FileName, content: &[u8]) -> io::Result<()> {
        self.operate(None, |state| {
            let file = match state.names.get(name) {
                Some(file) => *file,
                None => state.create(name),
            };
            let file = state.file_mut(file);
            file.set_length(0);
            file.write(0, content);
            Ok(None)
        })
    }

    fn describe(&self) -> String {
        "a simulated disk".to_owned()
    }
}

/// A file as one life of the process holds it.
struct OpenFile {
    disk: SimDisk,
    name: FileName,
    file: FileId,
    life: u64,
}

impl redb::StorageBackend for OpenFile {
    fn len(&self) -> io::Result<u64> {
        let state = self.disk.state();
        state.check(Some(self.life))?;
        u64::try_from(state.file(self.file).seen.len()).map_err(io::Error::other)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.disk.state();
        state.check(Some(self.life))?;
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let seen = &state.file(self.file).seen;
        let bytes = start.checked_add(out.len()).and_then(|end| seen.get(start..end));
        out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.disk.operate(Some(self.life), |state| {
            state.file_mut(self.file).set_length(len);
            Ok(None)
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.operate(Some(self.life), |state| state.sync(self.file, &self.name))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.disk.operate(Some(self.life), |state| {
            state.written_crc = crc32c::crc32c_append(state.written_crc, data);
            state.file_mut(self.file).write(offset, data);
            Ok(None)
        })
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.file_mut(self.file).handles -= 1;
            state.forget_unreachable();
        }
    }
}

impl fmt::Debug for OpenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpenFile({})", self.name)
    }
}

impl State {
    fn check(&self, life: Option<u64>) -> io::Result<()> {
        if self.powered && life.is_none_or(|life| life == self.life) { Ok(()) } else { Err(no_power()) }
    }

    fn file(&self, file: FileId) -> &File {
        self.files.get(&file).expect("a file with a name or a handle is kept")
    }

    fn file_mut(&mut self, file: FileId) -> &mut File {
        self.files.get_mut(&file).expect("a file with a name or a handle is kept")
    }

    fn create(&mut self, name: &FileName) -> FileId {
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(file, File::default());
        self.names.insert(name.clone(), file);
        self.unsynced_names.push(NameChange::Create { name: name.clone(), file });
        file
    }

    fn sync(&mut self, file: FileId, name: &FileName) -> io::Result<Option<DiskEvent>> {
        self.elapsed += if self.pace.sync_max.is_zero() {
            Duration::ZERO
        } else {
            self.pace_dice.time(self.pace.sync_min, self.pace.sync_max)
        };
        match &mut self.failing_sync {
            Some((0, pages)) => {
                if *pages == DirtyPages::Dropped {
                    self.file_mut(file).unsynced.clear();
                }
                self.failing_sync = None;
                self.sync_failed =
                    Some(DiskEvent::SyncFailed { file: name.clone(), operations: self.operations });
                return Err(io::Error::other("input/output error while syncing"));
            }
            Some((successes, _)) => *successes -= 1,
            None => {}
        }
        self.file_mut(file).sync();
        Ok(Some(DiskEvent::Synced {
            file: name.clone(),
            operations: self.operations,
            written_crc: self.written_crc,
        }))
    }

    fn crash(&mut self, fate: Fate, dice: &mut Dice) -> Losses {
        let mut losses = Losses::default();
        for change in mem::take(&mut self.unsynced_names) {
            if !fate.keeps(dice) {
                losses.names_lost += 1;
                continue;
            }
            match change {
                NameChange::Create { name, file } => {
                    self.synced_names.insert(name, file);
                }
                NameChange::Rename { from, to, file } => {
                    if self.synced_names.get(&from) == Some(&file) {
                        self.synced_names.remove(&from);
                    }
                    self.synced_names.insert(to, file);
                }
                NameChange::Remove { name, file } => {
                    if self.synced_names.get(&name) == Some(&file) {
                        self.synced_names.remove(&name);
                    }
                }
            }
        }
        self.names = self.synced_names.clone();
        for file in self.files.values_mut() {
            file.crash(fate, dice, &mut losses);
        }
        self.revive();
        self.forget_unreachable();
        losses
    }

    fn revive(&mut self) {
        for file in self.files.values_mut() {
            file.handles = 0;
        }
        self.life += 1;
        self.powered = true;
        self.cut_at = None;
        self.failing_sync = None;
        self.elapsed = Duration::ZERO;
    }

    /// Drops the files that no name and no handle can reach any more, whatever a crash brings back.
    fn forget_unreachable(&mut self) {
        let mut reachable =
            self.names.values().chain(self.synced_names.values()).copied().collect::<Vec<_>>();
        reachable.extend(self.unsynced_names.iter().map(|change| match change {
            NameChange::Create { file, .. }
            | NameChange::Rename { file, .. }
            | NameChange::Remove { file, .. } => *file,
        }));
        self.files.retain(|id, file| file.handles > 0 || reachable.contains(id));
    }
}

impl File {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        apply_write(&mut self.seen, offset, bytes);
        self.unsynced.push(Change::Write { offset, bytes: bytes.to_vec() });
    }

    fn set_length(&mut self, length: usize) {
        self.seen.resize(length, 0);
        self.unsynced.push(Change::Length(length));
    }

    fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.platter);
        }
    }

    /// Each sector comes out as one of its versions, the length as one of those it had.
    fn crash(&mut self, fate: Fate, dice: &mut Dice, losses: &mut Losses) {
        if !self.unsynced.is_empty() {
            let mut seen = self.platter.clone();
            let mut length = Drawn { versions: 1, value: seen.len() };
            let mut sectors = BTreeMap::<usize, Drawn<[u8; SECTOR]>>::new();
            for change in self.unsynced.drain(..) {
                let touched = match &change {
                    Change::Write { offset, bytes } => *offset..*offset + bytes.len(),
                    Change::Length(to) => (*to).min(seen.len())..seen.len(),
                };
                let length_before = seen.len();
                let old = |image: &[u8], number| sector(image, number);
                let before = sector_range(&touched).map(|number| old(&seen, number)).collect::<Vec<_>>();
                change.apply(&mut seen);
                if seen.len() != length_before {
                    length.offer(fate, dice, seen.len());
                }
                for (number, before) in sector_range(&touched).zip(before) {
                    let drawn = sectors.entry(number).or_insert(Drawn { versions: 1, value: before });
                    drawn.offer(fate, dice, sector(&seen, number));
                }
            }
            self.platter.resize(self.platter.len().max(seen.len()), 0);
            for (number, drawn) in sectors {
                losses.sectors_at_stake += 1;
                losses.sectors_lost += u64::from(drawn.value != sector(&seen, number));
                apply_write(&mut self.platter, number * SECTOR, &drawn.value);
            }
            self.platter.resize(length.value, 0);
        }
        self.seen.clone_from(&self.platter);
    }
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => apply_write(image, *offset, bytes),
            Self::Length(length) => image.resize(*length, 0),
        }
    }
}

/// How kind a crash is.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Nothing,
    Everything,
    /// Of a thousand.
    Some(u64),
}

impl Fate {
    fn draw(dice: &mut Dice) -> Self {
        match dice.below(8) {
            0 | 1 => Self::Nothing,
            2 => Self::Everything,
            _ => Self::Some(dice.between(20, 980)),
        }
    }

    fn keeps(self, dice: &mut Dice) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Some(per_mille) => dice.chance(per_mille),
        }
    }
}

/// One of several versions, the oldest of which was synced.
struct Drawn<T> {
    versions: u64,
    value: T,
}

impl<T> Drawn<T> {
    /// A newer version. With two, fate decides; with more, each is as likely as the others.
    fn offer(&mut self, fate: Fate, dice: &mut Dice, value: T) {
        self.versions += 1;
        let take = match fate {
            Fate::Some(_) if self.versions > 2 => dice.below(self.versions) == 0,
            Fate::Some(_) | Fate::Nothing | Fate::Everything => fate.keeps(dice),
        };
        if take {
            self.value = value;
        }
    }
}

fn sector_range(bytes: &std::ops::Range<usize>) -> std::ops::Range<usize> {
    if bytes.is_empty() { 0..0 } else { bytes.start / SECTOR..bytes.end.div_ceil(SECTOR) }
}

fn sector(image: &[u8], number: usize) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    let start = (number * SECTOR).min(image.len());
    let bytes = &image[start..image.len().min(start + SECTOR)];
    sector[..bytes.len()].copy_from_slice(bytes);
    sector
}

fn apply_write(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(bytes);
}

fn no_power() -> io::Error {
    io::Error::other("the power is off")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn name(name: &str) -> FileName {
        FileName::new(name)
    }

    /// A disk with a published file of four sectors of ones.
    fn disk_with_ones() -> SimDisk {
        let disk = SimDisk::new();
        let file = disk.open(&name("new"), true).unwrap();
        file.write(0, &[1; 4 * SECTOR]).unwrap();
        file.sync_data().unwrap();
        disk.publish(&name("new"), &name("ones")).unwrap();
        disk
    }

    fn content(disk: &SimDisk, of: &str) -> Vec<u8> {
        let file = disk.open(&name(of), false).unwrap();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_synced_and_published_survives_every_crash() {
        for seed in 0..50 {
            let disk = disk_with_ones();
            disk.crash(&mut Dice::new(seed));
            assert_eq!(content(&disk, "ones"), [1; 4 * SECTOR]);
        }
    }

    #[test]
    fn each_unsynced_sector_comes_out_as_any_of_its_versions() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..2000 {
            let disk = disk_with_ones();
            let file = disk.open(&name("ones"), false).unwrap();
            file.write(SECTOR as u64, &[2; 2 * SECTOR]).unwrap();
            file.write(SECTOR as u64 + 10, &[3; SECTOR]).unwrap();
            disk.crash(&mut Dice::new(seed));
            let bytes = content(&disk, "ones");
            assert_eq!(bytes[..SECTOR], [1; SECTOR], "not touched");
            assert_eq!(bytes[3 * SECTOR..], [1; SECTOR], "not touched");
            // The second write changes the second sector but for its first 10 bytes, and 10 bytes of the third.
            outcomes.insert((bytes[SECTOR], bytes[SECTOR + 10], bytes[2 * SECTOR], bytes[2 * SECTOR + 10]));
        }
        let second = [(1, 1), (2, 2), (2, 3)];
        let third = [(1, 1), (2, 2), (3, 2)];
        let all = second.iter().flat_map(|s| third.iter().map(|t| (s.0, s.1, t.0, t.1))).collect();
        assert_eq!(outcomes, all);
    }

    #[test]
    fn an_unsynced_length_may_be_lost_and_grown_space_is_zero() {
        let mut lengths = BTreeSet::new();
        for seed in 0..200 {
            let disk = disk_with_ones();
            let file = disk.open(&name("ones"), false).unwrap();
            file.set_len(2 * SECTOR as u64).unwrap();
            file.set_len(6 * SECTOR as u64).unwrap();
            assert_eq!(content(&disk, "ones")[2 * SECTOR..], [0; 4 * SECTOR]);
            disk.crash(&mut Dice::new(seed));
            let bytes = content(&disk, "ones");
            assert!(bytes.iter().skip(4 * SECTOR).all(|byte| *byte == 0));
            lengths.insert(bytes.len() / SECTOR);
        }
        assert_eq!(lengths, BTreeSet::from([2, 4, 6]));
    }

    #[test]
    fn names_come_undone_unless_published() {
        let mut outcomes = BTreeSet::new();
        for seed in 0..200 {
            let disk = disk_with_ones();
            let file = disk.open(&name("other"), true).unwrap();
            file.sync_data().unwrap();
            disk.remove(&name("ones")).unwrap();
            assert_eq!(disk.list().unwrap(), [name("other")]);
            disk.crash(&mut Dice::new(seed));
            outcomes
                .insert(disk.list().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        }
        assert_eq!(outcomes, ["", "ones", "ones other", "other"].map(str::to_owned).into());
    }

    #[test]
    fn the_power_goes_at_the_operation_asked_for_and_files_of_before_stay_dead() {
        let disk = disk_with_ones();
        let file = disk.open(&name("ones"), false).unwrap();
        disk.cut_power_at(disk.operations() + 1);
        file.write(0, &[2; 8]).unwrap();
        file.sync_data().unwrap_err();
        file.read(0, &mut [0; 8]).unwrap_err();
        disk.list().unwrap_err();
        assert!(!disk.is_powered());
        disk.crash(&mut Dice::new(0));
        assert!(disk.is_powered());
        file.write(0, &[3; 8]).unwrap_err();
        assert_ne!(content(&disk, "ones")[0], 3);
    }

    #[test]
    fn a_killed_process_leaves_its_writes_but_does_not_sync_them() {
        let mut survived = BTreeSet::new();
        for seed in 0..50 {
            let disk = disk_with_ones();
            let file = disk.open(&name("ones"), false).unwrap();
            file.write(0, &[2; SECTOR]).unwrap();
            disk.cut_power();
            disk.kill();
            file.write(0, &[3; SECTOR]).unwrap_err();
            assert_eq!(content(&disk, "ones")[0], 2);
            disk.crash(&mut Dice::new(seed));
            survived.insert(content(&disk, "ones")[0]);
        }
        assert_eq!(survived, BTreeSet::from([1, 2]));
    }

    #[test]
    fn a_failed_sync_drops_or_keeps_the_dirty_pages() {
        for (pages, survives) in [(DirtyPages::Dropped, 1), (DirtyPages::Kept, 2)] {
            let disk = disk_with_ones();
            let file = disk.open(&name("ones"), false).unwrap();
            file.write(0, &[2; SECTOR]).unwrap();
            disk.fail_sync_after(0, pages);
            file.sync_data().unwrap_err();
            assert_eq!(content(&disk, "ones")[0], 2, "the process sees what it wrote");
            file.sync_data().unwrap();
            disk.crash(&mut Dice::new(0));
            assert_eq!(content(&disk, "ones")[0], survives);
        }
    }

    #[test]
    fn redb_keeps_what_it_committed() {
        const TABLE: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("t");
        for seed in 0..20 {
            let mut dice = Dice::new(seed);
            let disk = SimDisk::new();
            let made = redb::Builder::new()
                .create_with_backend(BoxedBackend(disk.open(&name("new"), true).unwrap()))
                .unwrap();
            drop(made);
            disk.publish(&name("new"), &name("db")).unwrap();
            let mut next = 0;
            for _ in 0..5 {
                disk.cut_power_at(disk.operations() + dice.between(20, 120));
                let backend = BoxedBackend(disk.open(&name("db"), false).unwrap());
                if let Ok(database) = redb::Builder::new().create_with_backend(backend) {
                    while let Ok(transaction) = database.begin_write() {
                        let inserted = transaction
                            .open_table(TABLE)
                            .is_ok_and(|mut table| table.insert(next, next * 3).is_ok());
                        if !inserted || transaction.commit().is_err() {
                            break;
                        }
                        next += 1;
                    }
                }
                disk.crash(&mut dice);
            }
            let backend = BoxedBackend(disk.open(&name("db"), false).unwrap());
            let database = redb::Builder::new().create_with_backend(backend).unwrap();
            let table = redb::ReadableDatabase::begin_read(&database).unwrap();
            let table = table.open_table(TABLE).unwrap();
            assert!(next > 0);
            for key in 0..next {
                assert_eq!(table.get(key).unwrap().map(|value| value.value()), Some(key * 3), "seed {seed}");
            }
        }
    }

    /// redb takes its backend by value.
    #[derive(Debug)]
    struct BoxedBackend(Box<dyn redb::StorageBackend>);

    impl redb::StorageBackend for BoxedBackend {
        fn len(&self) -> io::Result<u64> {
            self.0.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.0.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.0.write(offset, data)
        }
        fn close(&self) -> io::Result<()> {
            self.0.close()
        }
    }
}
