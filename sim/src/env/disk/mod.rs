//! A disk that loses what was not synced, and the folder on it.
//!
//! Per file there is the platter (what a sync has reached) and what the running process sees. Between the two lie
//! the unsynced operations; of these a crash keeps an arbitrary part: each sector of 512 bytes comes out as any of
//! the versions that it went through since the last sync, independent of all others, and the length likewise. Names
//! are as volatile: a file that was created, renamed or removed since the folder was last synced may come out under
//! its old name, under its new one, or not at all.

mod damage;
mod file;
mod image;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_node::env::{Disk, DiskSpace, FileName};

use crate::dice::Dice;
use damage::Harmed;
pub use damage::{FileImage, SectorHarm};
use file::{Fate, File};

/// The size of a disk that has no bound.
const UNBOUNDED: u64 = 1 << 50;

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
    /// The slowest read; none takes time if zero.
    pub read_max: Duration,
    /// The slowest write or change of length; none takes time if zero.
    pub write_max: Duration,
}

/// What a disk is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A read.
    Read,
    /// A write, or a change of length.
    Write,
    /// A sync of a file.
    Sync,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Sync => "sync",
        })
    }
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
    /// A write for which there was no room: a part of it may have been done.
    NoSpace {
        /// To which file.
        file: FileName,
        /// Operations on this disk so far.
        operations: u64,
    },
    /// An operation that was made to take long.
    Stalled {
        /// Which kind.
        operation: Operation,
        /// How long it takes.
        time: Duration,
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
    /// Bytes that there is room for; `None`: as many as are wanted.
    capacity: Option<u64>,
    cut_at: Option<u64>,
    /// Syncs until one fails, and how.
    failing_sync: Option<(u64, DirtyPages)>,
    /// What an operation did that failed or stalled just now.
    happened: Option<DiskEvent>,
    /// The next operation of this kind takes so long.
    stalling: Option<(Operation, Duration)>,
    /// When all that was done is answered.
    answers_at: Duration,
    pace: Pace,
    pace_dice: Dice,
    stall: Duration,
    elapsed: Duration,
    written_crc: u32,
    /// Sectors that are not what was written, by file and number.
    harmed: BTreeMap<(FileId, usize), Harmed>,
    watch: Option<Watch>,
    on_cut: Option<Arc<dyn Fn() + Send + Sync>>,
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
            capacity: None,
            cut_at: None,
            failing_sync: None,
            happened: None,
            stalling: None,
            answers_at: Duration::ZERO,
            pace: Pace::default(),
            pace_dice: Dice::new(0),
            stall: Duration::ZERO,
            elapsed: Duration::ZERO,
            written_crc: 0,
            harmed: BTreeMap::new(),
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

    /// The next operation of this kind takes so long, once.
    pub fn stall_next(&self, operation: Operation, time: Duration) {
        self.state().stalling = Some((operation, time));
    }

    /// How much longer work waits.
    pub fn stalled(&self) -> Duration {
        self.state().stall
    }

    /// The time that operations have taken since this was last asked.
    pub fn take_elapsed(&self) -> Duration {
        mem::take(&mut self.state().elapsed)
    }

    /// Somebody waits for an operation until then.
    pub fn answers_at(&self, at: Duration) {
        let mut state = self.state();
        state.answers_at = state.answers_at.max(at);
    }

    /// When the last operation that somebody waits for is answered; in the past if none is under way.
    pub fn busy_until(&self) -> Duration {
        self.state().answers_at
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

    /// There is room for so many bytes from now on, those that are taken included; a write beyond it fails. `None`: for
    /// as many as are wanted.
    pub fn set_capacity(&self, capacity: Option<u64>) {
        self.state().capacity = capacity;
    }

    /// Bytes that are taken: what was never written of a file takes none.
    pub fn used(&self) -> u64 {
        self.state().used()
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

    /// Takes back what [`SimDisk::cut_power_at`], [`SimDisk::fail_sync_after`], [`SimDisk::stall`],
    /// [`SimDisk::stall_next`] and [`SimDisk::set_capacity`] have set up.
    pub fn spare(&self) {
        let mut state = self.state();
        state.capacity = None;
        state.stalling = None;
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
        state.harmed.clear();
        state.revive();
    }

    /// Files with writes that are not synced.
    pub fn dirty_files(&self) -> Vec<FileName> {
        let state = self.state();
        let dirty = state.names.iter().filter(|(_, file)| !state.file(**file).unsynced.is_empty());
        dirty.map(|(name, _)| name.clone()).collect()
    }

    /// The bytes of a file on the platter, for oracles; `None` if no such name is durable.
    pub fn platter(&self, name: &FileName) -> Option<Vec<u8>> {
        let state = self.state();
        let file = state.synced_names.get(name)?;
        state.files.get(file).map(|file| file.platter.to_vec())
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
                new.files.insert(*id, File::of(state.file(*id).platter.clone()));
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
                new.files.insert(*id, File::of(state.file(*id).seen.clone()));
            }
        }
        copy
    }

    /// How many files the process holds open.
    pub fn open_files(&self) -> u64 {
        self.state().files.values().map(|file| u64::from(file.handles)).sum()
    }

    /// How many files there are of some names, as the process sees them.
    pub fn count(&self, is_one: impl Fn(&str) -> bool) -> u64 {
        let state = self.state();
        let named = state.names.keys().filter(|name| is_one(name.as_str()));
        u64::try_from(named.count()).unwrap_or(u64::MAX)
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
        let (result, events, watch, cut) = {
            let mut state = self.state();
            state.check(life)?;
            let watch = state.watch.clone();
            if state.cut_at.is_some_and(|at| at <= state.operations) {
                state.powered = false;
                let event = DiskEvent::Cut { operations: state.operations };
                (Err(no_power()), [Some(event), None], watch, state.on_cut.clone())
            } else {
                state.operations += 1;
                let done = act(&mut state);
                let happened = state.happened.take();
                match done {
                    Ok(event) => (Ok(()), [event, happened], watch, None),
                    Err(error) => (Err(error), [None, happened], watch, None),
                }
            }
        };
        if let Some(watch) = watch {
            events.into_iter().flatten().for_each(|event| watch(event));
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
            let fits = state.fitting(file, 0, content.len());
            let file = state.file_mut(file);
            file.set_length(0);
            // The file is there even if its content does not fit.
            if fits < content.len() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            file.write(0, content);
            Ok(None)
        })
    }

    fn space(&self) -> io::Result<DiskSpace> {
        let state = self.state();
        state.check(None)?;
        let total_bytes = state.capacity.unwrap_or(UNBOUNDED);
        Ok(DiskSpace { free_bytes: total_bytes.saturating_sub(state.used()), total_bytes })
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
        let mut state = self.disk.state();
        state.check(Some(self.life))?;
        state.spend(Operation::Read);
        // A stall of a read is told with the next operation that changes the disk.
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        state.given_back(self.file, &(start..start.saturating_add(out.len())))?;
        let read = state.file(self.file).seen.read(start, out);
        read.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.disk.operate(Some(self.life), |state| {
            state.spend(Operation::Write);
            state.written_over(self.file, len..usize::MAX - SECTOR);
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
            state.spend(Operation::Write);
            let fits = state.fitting(self.file, offset, data.len());
            let written = &data[..fits];
            if !written.is_empty() {
                state.written_over(self.file, offset..offset + written.len());
                state.written_crc = crc32c::crc32c_append(state.written_crc, written);
                state.file_mut(self.file).write(offset, written);
            }
            if fits < data.len() {
                let (file, operations) = (self.name.clone(), state.operations);
                state.happened = Some(DiskEvent::NoSpace { file, operations });
                return Err(io::ErrorKind::StorageFull.into());
            }
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

    fn used(&self) -> u64 {
        self.files.values().map(|file| file.seen.allocated()).sum()
    }

    /// How many of `length` bytes at `offset` of a file there is room for.
    fn fitting(&self, file: FileId, offset: usize, length: usize) -> usize {
        match self.capacity {
            None => length,
            Some(capacity) => {
                self.file(file).seen.fitting(offset, length, capacity.saturating_sub(self.used()))
            }
        }
    }

    fn create(&mut self, name: &FileName) -> FileId {
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(file, File::default());
        self.names.insert(name.clone(), file);
        self.unsynced_names.push(NameChange::Create { name: name.clone(), file });
        file
    }

    /// Takes the time that an operation takes.
    fn spend(&mut self, operation: Operation) {
        let (least, most) = match operation {
            Operation::Read => (Duration::ZERO, self.pace.read_max),
            Operation::Write => (Duration::ZERO, self.pace.write_max),
            Operation::Sync => (self.pace.sync_min, self.pace.sync_max),
        };
        if !most.is_zero() {
            self.elapsed += self.pace_dice.time(least, most);
        }
        if let Some((stalling, time)) = self.stalling
            && stalling == operation
        {
            self.stalling = None;
            self.elapsed += time;
            self.happened = Some(DiskEvent::Stalled { operation, time });
        }
    }

    fn sync(&mut self, file: FileId, name: &FileName) -> io::Result<Option<DiskEvent>> {
        self.spend(Operation::Sync);
        match &mut self.failing_sync {
            Some((0, pages)) => {
                if *pages == DirtyPages::Dropped {
                    self.file_mut(file).drop_unsynced();
                }
                self.failing_sync = None;
                self.happened =
                    Some(DiskEvent::SyncFailed { file: name.clone(), operations: self.operations });
                return Err(io::Error::other("input/output error while syncing"));
            }
            Some((successes, _)) => *successes -= 1,
            None => {}
        }
        self.file_mut(file).sync();
        self.settle_harmed();
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
        self.harmed_shows_again();
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
        self.stalling = None;
        self.answers_at = Duration::ZERO;
        self.happened = None;
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

fn no_power() -> io::Error {
    io::Error::other("the power is off")
}
