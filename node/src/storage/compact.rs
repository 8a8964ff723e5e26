//! Rewriting: full volumes of which little is alive give what is alive to a new one, several to one, and go. Beside the
//! commits, a piece at a time, within a rate.
//!
//! The new volume is filled under a temporary name. Each step is safe against a crash: its number is noted as begun,
//! so that a start removes it; full and sealed it gets its name; its seal is noted, and it counts as a volume in which
//! nothing is alive; then the stream says that what was alive in the old ones lies in it, and they are dead.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select;
use quorate_proto::env::Moment;
use quorate_proto::ids::{GroupId, LogIndex};
use tokio::sync::oneshot;
use tracing::{info, warn};

use super::entry::{Body, Corrupt, Entry};
use super::error::{DiskError, Fault, ReadError};
use super::facts::Change;
use super::failure::Panic;
use super::hard::Hard;
use super::index::{self, MemoryIndex};
use super::keeper::seal;
use super::state::{Request, Shared, State, bytes_of};
use super::transcript::{Line, Reader, Tail, put};
use super::volume::{Volume, VolumeNumber, guarded_disk};
use crate::env::{Mark, Point, pool};

/// Entries copied in one transaction.
const COPY_BYTES: u64 = 4 << 20;

/// What a file of redb takes that is nearly empty, at most.
const FILE_OVERHEAD_BYTES: u64 = 256 << 10;

/// Least time between two looks at what is alive where.
const LOOK_GAP: Duration = Duration::from_secs(1);

/// How long nothing is rewritten where no file could be opened.
const OUT_OF_FILES_GAP: Duration = Duration::from_secs(60);

/// Small volumes that are worth making one of, and how much smaller than a full one they are.
const SMALL_ONES: usize = 4;
const SMALL: u64 = 8;

/// How long a step may be held back, where a [`Point`] does.
const LATE_MAX: Duration = Duration::from_millis(500);

/// What is known of a sealed volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Measured {
    /// How many of its entries were alive.
    entries: u64,
    /// Their bytes.
    live: u64,
    /// Bytes of all that lies in it.
    bytes: u64,
}

impl Measured {
    /// Stays as it is: never measured again, and never chosen.
    const UNREADABLE: Self = Self { entries: 0, live: u64::MAX, bytes: u64::MAX };
}

/// What is alive in each sealed volume.
pub(super) type Live = BTreeMap<VolumeNumber, Vec<(GroupId, Range<LogIndex>)>>;

/// A volume being filled from others.
pub(super) struct Copying {
    number: VolumeNumber,
    sources: Vec<Arc<Volume>>,
    into: Volume,
    index: MemoryIndex,
    tail: Tail,
    /// The commit that what is copied was alive in.
    commit: u64,
    /// Bytes of what is copied.
    bytes: u64,
    /// What is still to be copied: of each group in order of its indexes.
    todo: VecDeque<(GroupId, Arc<Volume>, Range<LogIndex>)>,
    /// The entry that was copied last.
    last: Option<(GroupId, LogIndex)>,
}

enum Work {
    Copying(Box<Copying>),
    /// The new volume is there, and the stream is about to say so.
    TakingOver {
        number: VolumeNumber,
        sources: usize,
        entries: u64,
    },
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Did,
    NothingToDo,
    /// The store has failed.
    Failed,
}

/// Why a piece was not copied.
pub(super) enum NotCopied {
    /// A source cannot be read: it stays as it is.
    Source(VolumeNumber, ReadError),
    /// What is alive of a group does not follow each other any more.
    Parted(GroupId),
    /// The disk failed, and the failure is raised.
    Failed,
}

/// What rewrites. The keeper asks it for one step after the other, when it has nothing else to do.
#[derive(Default)]
pub(super) struct Compactor {
    measured: BTreeMap<VolumeNumber, Measured>,
    work: Option<Work>,
    /// Nothing is copied, or looked at, before.
    ready_at: Moment,
}

#[cfg(test)]
impl Compactor {
    /// One that goes on with this.
    pub(super) fn copying(copying: Copying) -> Self {
        Self { work: Some(Work::Copying(Box::new(copying))), ..Self::default() }
    }

    /// Volumes of which it knows how much is alive, or that this cannot be known.
    pub(super) fn known(&self) -> Vec<VolumeNumber> {
        self.measured.keys().copied().collect()
    }

    /// Waits for nothing any more.
    pub(super) fn hurry(&mut self) {
        self.ready_at = Moment::default();
    }
}

impl Compactor {
    /// Waits until there may be something to do.
    pub(super) async fn rest(&self, shared: &Shared) {
        let told = std::pin::pin!(shared.to_keep.notified());
        let waits = match self.work {
            Some(Work::Copying(_)) => true,
            Some(Work::TakingOver { .. }) => false,
            None => shared.state().look_for_sparse,
        };
        if waits {
            select(told, shared.env.clock.sleep_until(self.ready_at)).await;
        } else {
            told.await;
        }
    }

    /// Does one thing.
    pub(super) async fn step(&mut self, shared: &Arc<Shared>) -> Outcome {
        let is_time = shared.env.now() >= self.ready_at;
        match self.work.take() {
            Some(Work::TakingOver { number, sources, entries }) => {
                if shared.state().taking_over.is_some() {
                    self.work = Some(Work::TakingOver { number, sources, entries });
                    return Outcome::NothingToDo;
                }
                // Others may have been left out because not all fitted.
                shared.state().look_for_sparse = true;
                shared.env.reached(Mark::VolumeRewritten);
                info!(volume = %number, sources, entries, "volumes were rewritten");
                Outcome::Did
            }
            Some(Work::Copying(copying)) if is_time => self.copy(shared, copying).await,
            Some(copying @ Work::Copying(_)) => {
                self.work = Some(copying);
                Outcome::NothingToDo
            }
            None if is_time && shared.state().look_for_sparse => self.look(shared).await,
            None => Outcome::NothingToDo,
        }
    }

    /// Measures one volume of which something has died, or begins to rewrite, or finds that there is nothing to do.
    async fn look(&mut self, shared: &Arc<Shared>) -> Outcome {
        let live = {
            let mut state = shared.state();
            state.look_for_sparse = false;
            live_in(&state)
        };
        self.measured.retain(|number, _| live.contains_key(number));
        for (number, ranges) in &live {
            let entries = count(ranges);
            let known = self.measured.get(number);
            if known.is_some_and(|known| entries >= known.entries - known.entries / 10) {
                continue;
            }
            let Some(volume) = shared.state().sealed.get(number).cloned() else { continue };
            shared.state().look_for_sparse = true;
            let ranges = ranges.clone();
            let worker = shared.clone();
            let measured = pool::run(&*shared.pool, move || measure(&worker, &volume, &ranges)).await;
            if let Err(error) = &measured
                && error.is_out_of_files()
            {
                warn!(volume = %number, error = error as &dyn std::error::Error, "nothing is measured for now");
                self.ready_at = shared.env.now() + OUT_OF_FILES_GAP;
                return Outcome::NothingToDo;
            }
            let measured = measured.unwrap_or_else(|error| {
                warn!(volume = %number, error = &error as &dyn std::error::Error, "volume could not be measured");
                Measured::UNREADABLE
            });
            self.measured.insert(*number, measured);
            return Outcome::Did;
        }
        self.ready_at = shared.env.now() + LOOK_GAP;
        let early = shared.env.perturb(Point::RewriteEarly);
        let percent = if early { 101 } else { u64::from(shared.config.rewrite_below_percent).min(100) };
        let chosen = choose(&live, &self.measured, percent, shared.config.volume_bytes_max);
        if chosen.is_empty() {
            return Outcome::NothingToDo;
        }
        let worker = shared.clone();
        let begun = pool::run(&*shared.pool, move || {
            worker.failure.catch("the beginning of a rewriting", || {
                begin(&worker, &live, &chosen).inspect_err(|error| worker.failure.raise(error))
            })
        });
        match unless_panicked(begun.await) {
            Ok(Some(copying)) => {
                self.work = Some(Work::Copying(Box::new(copying)));
                Outcome::Did
            }
            Ok(None) => {
                shared.state().look_for_sparse = true;
                self.ready_at = shared.env.now() + OUT_OF_FILES_GAP;
                Outcome::NothingToDo
            }
            Err(_raised) => Outcome::Failed,
        }
    }

    /// Copies one piece; with the last one, the new volume is sealed and about to take over.
    async fn copy(&mut self, shared: &Arc<Shared>, mut copying: Box<Copying>) -> Outcome {
        shared.env.dawdle(Point::RewriteLate, LATE_MAX).await;
        let worker = shared.clone();
        let copied = pool::run(&*shared.pool, move || {
            let copied = worker.failure.catch("a rewriting", || copy_some(&worker, &mut copying));
            (copying, copied)
        });
        let (copying, copied) = copied.await;
        match unless_panicked(copied) {
            Ok(bytes) if bytes > 0 => {
                let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(shared.config.rewrite_bytes_per_s);
                let pause = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
                self.ready_at = shared.env.now() + pause;
                self.work = Some(Work::Copying(copying));
                Outcome::Did
            }
            Ok(_nothing_left) => self.end(shared, copying).await,
            Err(NotCopied::Source(number, error)) => {
                warn!(volume = %number, error = &error as &dyn std::error::Error, "volume could not be rewritten");
                if error.is_out_of_files() {
                    self.ready_at = shared.env.now() + OUT_OF_FILES_GAP;
                } else {
                    self.measured.insert(number, Measured::UNREADABLE);
                }
                // The others, and later this one, may be chosen.
                shared.state().look_for_sparse = true;
                self.give_up(shared, copying).await
            }
            Err(NotCopied::Parted(group)) => {
                info!(%group, "a rewriting is given up: entries of it were written once more elsewhere");
                shared.env.reached(Mark::RewritingGivenUp);
                // Others may be chosen.
                shared.state().look_for_sparse = true;
                self.give_up(shared, copying).await
            }
            Err(NotCopied::Failed) => Outcome::Failed,
        }
    }

    /// All is copied.
    async fn end(&mut self, shared: &Arc<Shared>, copying: Box<Copying>) -> Outcome {
        if copying.index.entries() == 0 {
            shared.env.reached(Mark::RewritingGivenUp);
            return self.give_up(shared, copying).await;
        }
        let (number, entries, bytes) = (copying.number, copying.index.entries(), copying.bytes);
        let from: Vec<_> = copying.sources.iter().map(|source| source.number).collect();
        let sources = from.len();
        let worker = shared.clone();
        let sealed = pool::run(&*shared.pool, move || {
            worker.failure.catch("the end of a rewriting", || {
                finish(&worker, copying).inspect_err(|error| worker.failure.raise(error))
            })
        });
        match unless_panicked(sealed.await) {
            Ok(None) => {}
            Ok(Some(copying)) => {
                self.ready_at = shared.env.now() + OUT_OF_FILES_GAP;
                self.work = Some(Work::Copying(copying));
                return Outcome::NothingToDo;
            }
            Err(_raised) => return Outcome::Failed,
        }
        // Nobody waits for the answer: the state says when it is done, and the committer may wait for the keeper.
        let (reply, _answer) = oneshot::channel();
        let moved = shared.enqueue(|state| {
            state.taking_over = Some(number);
            Ok(Request::Move { from, to: number, reply })
        });
        // Its file may be much larger than what is in it: it would be rewritten again for that.
        self.measured.insert(number, Measured { entries, live: bytes, bytes });
        if moved.is_err() {
            // The store is closed: what was copied is dead to the next start.
            shared.state().taking_over = None;
            return Outcome::NothingToDo;
        }
        self.work = Some(Work::TakingOver { number, sources, entries });
        Outcome::Did
    }

    async fn give_up(&mut self, shared: &Arc<Shared>, copying: Box<Copying>) -> Outcome {
        let worker = shared.clone();
        let removed = pool::run(&*shared.pool, move || {
            worker.failure.catch("the giving up of a rewriting", || {
                remove(&worker, &copying).inspect_err(|error| worker.failure.raise(error))
            })
        });
        if unless_panicked(removed.await).is_ok() { Outcome::Did } else { Outcome::Failed }
    }
}

fn unless_panicked<T>(caught: Result<T, Panic>) -> T {
    caught.unwrap_or_else(|panic| resume_unwind(panic))
}

pub(super) fn live_in(state: &State) -> Live {
    let mut live: Live = state.sealed.keys().map(|number| (*number, Vec::new())).collect();
    for (group, durable) in &state.durable {
        for span in &durable.spans {
            if let Some(ranges) = live.get_mut(&span.volume) {
                ranges.push((*group, span.range.clone()));
            }
        }
    }
    // The others are dead, and go by themselves.
    live.retain(|_, ranges| !ranges.is_empty());
    live
}

fn count(ranges: &[(GroupId, Range<LogIndex>)]) -> u64 {
    ranges.iter().map(|(_, range)| range.end.0 - range.start.0).sum()
}

/// Looks at each head in a volume. Blocks.
fn measure(
    shared: &Shared,
    volume: &Volume,
    live: &[(GroupId, Range<LogIndex>)],
) -> Result<Measured, ReadError> {
    let mut ranges: BTreeMap<GroupId, Vec<Range<LogIndex>>> = BTreeMap::new();
    for (group, range) in live {
        ranges.entry(*group).or_default().push(range.clone());
    }
    let mut measured = Measured { entries: count(live), live: 0, bytes: 0 };
    let read = volume.read(|read| {
        let mut places = Vec::new();
        index::each(read, |group, index, place| {
            let ranges = ranges.get(&group);
            let is_live = ranges.is_some_and(|ranges| ranges.iter().any(|range| range.contains(&index)));
            places.push((place, is_live));
            Ok(())
        })?;
        // A group's heads lie apart, with those of all others between them: in this order each value is read once.
        places.sort_unstable();
        let mut reader = Reader::new(read)?;
        for (place, is_live) in places {
            let head = match reader.head(place) {
                // It was written once more elsewhere, perhaps for that.
                Err(Fault::Corrupt { .. }) if !is_live => continue,
                head => head?.0,
            };
            let bytes = bytes_of(&head);
            measured.bytes += bytes;
            measured.live += if is_live { bytes } else { 0 };
        }
        Ok(())
    });
    read.inspect_err(|_| volume.forget_pages())?;
    close_unless_read(shared, volume);
    // What was truncated or jumped over is in no index.
    let file = volume.length()?.saturating_sub(FILE_OVERHEAD_BYTES);
    measured.bytes = measured.bytes.max(file);
    Ok(measured)
}

/// Whoever reads a volume keeps it open, within a bound; we do not count.
fn close_unless_read(shared: &Shared, volume: &Volume) {
    if shared.state().open.contains(&volume.number) {
        return;
    }
    if let Err(error) = volume.close() {
        warn!(volume = %volume.number, error = &error as &dyn std::error::Error, "volume was not closed cleanly");
    }
}

/// Which volumes are to be rewritten into one: those of which less than `percent` are alive, and small ones, as many
/// as fit one volume and lie so that each group's entries follow each other. Pure.
fn choose(
    live: &Live,
    measured: &BTreeMap<VolumeNumber, Measured>,
    percent: u64,
    volume_bytes_max: u64,
) -> Vec<VolumeNumber> {
    let is_sparse = |measured: &Measured| {
        measured.live < u64::MAX
            && u128::from(measured.live) * 100 < u128::from(measured.bytes) * u128::from(percent)
    };
    let is_small = |measured: &Measured| measured.bytes < volume_bytes_max / SMALL;
    let mut chosen: Vec<VolumeNumber> = Vec::new();
    let (mut bytes, mut any_sparse) = (0_u64, false);
    for number in live.keys() {
        let Some(known) = measured.get(number).filter(|known| is_sparse(known) || is_small(known)) else {
            continue;
        };
        let more = bytes.saturating_add(known.live);
        chosen.push(*number);
        if (more > volume_bytes_max && chosen.len() > 1) || !follow(live, &chosen) {
            chosen.pop();
            continue;
        }
        bytes = more;
        any_sparse |= is_sparse(known);
    }
    if any_sparse || chosen.len() >= SMALL_ONES { chosen } else { Vec::new() }
}

/// Whether each group's live entries in these volumes follow each other without a gap.
fn follow(live: &Live, volumes: &[VolumeNumber]) -> bool {
    runs(live, volumes).values().all(|runs| runs.windows(2).all(|pair| pair[0].1.end == pair[1].1.start))
}

/// What is alive in some volumes, of each group in order of its indexes.
fn runs(live: &Live, volumes: &[VolumeNumber]) -> BTreeMap<GroupId, Vec<(VolumeNumber, Range<LogIndex>)>> {
    let mut runs: BTreeMap<GroupId, Vec<(VolumeNumber, Range<LogIndex>)>> = BTreeMap::new();
    for number in volumes {
        for (group, range) in live.get(number).into_iter().flatten() {
            runs.entry(*group).or_default().push((*number, range.clone()));
        }
    }
    runs.values_mut().for_each(|runs| runs.sort_by_key(|(_, range)| range.start));
    runs
}

/// Notes that a volume is begun, and begins it; `None` if no file could be opened, and nothing is begun. Blocks.
pub(super) fn begin(
    shared: &Shared,
    live: &Live,
    chosen: &[VolumeNumber],
) -> Result<Option<Copying>, DiskError> {
    let (number, commit, sources) = {
        let mut state = shared.state();
        let number = state.next_number();
        state.aside = Some(number);
        let sources: BTreeMap<_, _> =
            chosen.iter().filter_map(|number| Some((*number, state.sealed.get(number)?.clone()))).collect();
        (number, state.commit.max(1), sources)
    };
    shared.meta.write(&[Change::VolumeBegun(number)])?;
    let into = match Volume::begin(&shared.disk, shared.owner, number, shared.config.active_cache()) {
        Err(error) if error.is_out_of_files() => {
            warn!(error = &error as &dyn std::error::Error, "nothing is rewritten for now");
            shared.meta.write(&[Change::VolumeGone(number)])?;
            return Ok(None);
        }
        begun => begun?,
    };
    let mut todo = VecDeque::new();
    for (group, runs) in runs(live, chosen) {
        let runs =
            runs.into_iter().filter_map(|(number, range)| Some((sources.get(&number)?.clone(), range)));
        todo.extend(runs.map(|(volume, range)| (group, volume, range)));
    }
    let sources = sources.into_values().collect();
    let (index, tail) = (MemoryIndex::default(), Tail::default());
    Ok(Some(Copying { number, sources, into, index, tail, commit, bytes: 0, todo, last: None }))
}

/// Copies some entries, of what is alive by now; gives their bytes, 0 if nothing is left. Blocks.
pub(super) fn copy_some(shared: &Shared, copying: &mut Copying) -> Result<u64, NotCopied> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    while bytes < COPY_BYTES
        && let Some((group, volume, range)) = copying.todo.pop_front()
    {
        let (live, parted) = {
            let state = shared.state();
            let durable = state.durable.get(&group).filter(|_| state.sealed.contains_key(&volume.number));
            let Some(durable) = durable else { continue };
            let live = durable.live_in(volume.number, &range);
            let last = copying.last.filter(|(of, _)| *of == group).map(|(_, index)| index);
            let parted = last.is_some_and(|last| are_parted(&durable.hard, last, live.start));
            (live, parted)
        };
        if live.start >= live.end {
            continue;
        }
        if parted {
            return Err(NotCopied::Parted(group));
        }
        let read = read(&volume, group, live.clone(), COPY_BYTES - bytes);
        let read = read.map_err(|error| {
            // redb refuses all reads after one has failed: the next one, whoever's it is, opens the file anew.
            volume.forget_pages();
            // What was written once more elsewhere is perhaps damaged here, and concerns nobody.
            match error.is_out_of_files() || is_all_alive(&shared.state(), group, volume.number, &live) {
                true => NotCopied::Source(volume.number, error),
                false => NotCopied::Parted(group),
            }
        })?;
        let next = read.last().map_or(live.end, |last| last.head.index.next());
        if next < live.end {
            copying.todo.push_front((group, volume, next..live.end));
        }
        bytes += read.iter().map(|entry| bytes_of(&entry.head)).sum::<u64>();
        copying.last = read.last().map(|last| (group, last.head.index)).or(copying.last);
        entries.extend(read);
    }
    if entries.is_empty() {
        return Ok(0);
    }
    let lines = entries.iter().map(Line::Entry).collect::<Vec<_>>();
    let (tail, commit) = (&mut copying.tail, copying.commit);
    let written = copying.into.write(|write| put(write, tail, commit, &lines));
    let places = written.map_err(|error| {
        // Here, where it happened: a commit that ends after it must know of it.
        shared.failure.raise(&error);
        NotCopied::Failed
    })?;
    for (entry, place) in entries.iter().zip(places) {
        copying.index.insert(entry.head.group, entry.head.index, place);
    }
    copying.bytes += bytes;
    Ok(bytes)
}

/// Whether entry `next` does not follow `last`, which was copied before it and is still alive: what lies between was
/// damaged, and was written once more elsewhere. An index knows of no gap, and takes what lies before one for trimmed.
fn are_parted(hard: &Hard, last: LogIndex, next: LogIndex) -> bool {
    next != last.next() && hard.range().contains(&last)
}

/// Whether all of a range is alive in a volume, without a hole.
fn is_all_alive(state: &State, group: GroupId, volume: VolumeNumber, range: &Range<LogIndex>) -> bool {
    let mut spans = state.durable.get(&group).into_iter().flat_map(|durable| &durable.spans);
    spans.any(|span| span.volume == volume && span.range.start <= range.start && range.end <= span.range.end)
}

/// Some entries of a range that is alive in a volume, at least one.
fn read(
    volume: &Volume,
    group: GroupId,
    range: Range<LogIndex>,
    bytes_max: u64,
) -> Result<Vec<Entry>, ReadError> {
    volume.read(|read| {
        let mut reader = Reader::new(read)?;
        let (mut entries, mut bytes, mut next) = (Vec::new(), 0, range.start);
        while next < range.end {
            for place in index::find(read, group, next..range.end)? {
                let (head, body) = reader.head(place)?;
                if head.group != group || head.index != next {
                    let place = format!("group {group}, index {next}");
                    return Err(Fault::corrupt("head", place, Corrupt::Misplaced));
                }
                bytes += bytes_of(&head);
                if bytes > bytes_max && !entries.is_empty() {
                    return Ok(entries);
                }
                entries.push(Entry { head, body: Body::Here(reader.body(&head, body)?) });
                next = next.next();
            }
        }
        Ok(entries)
    })
}

/// Seals the new volume, gives it its name and notes it; gives it back if no file could be opened for that, to be called
/// again. Blocks.
fn finish(shared: &Shared, copying: Box<Copying>) -> Result<Option<Box<Copying>>, DiskError> {
    let seal = match seal(&copying.into, &copying.index) {
        Err(error) if error.is_out_of_files() => {
            warn!(error = &error as &dyn std::error::Error, "a rewriting is ended later");
            return Ok(Some(copying));
        }
        sealed => sealed?,
    };
    let Copying { number, into, .. } = *copying;
    let volume = into.publish()?;
    shared.meta.write(&[Change::Volume(number, Some(seal))])?;
    let mut state = shared.state();
    // It is not dead, although nothing is alive in it yet.
    state.taking_over = Some(number);
    state.sealed.insert(number, Arc::new(volume));
    Ok(None)
}

/// Takes away what was begun. Blocks.
fn remove(shared: &Shared, copying: &Copying) -> Result<(), DiskError> {
    copying.sources.iter().for_each(|source| close_unless_read(shared, source));
    // Nobody needs what is in it; but a disk that fails to sync it fails.
    copying.into.close()?;
    guarded_disk("remove", copying.into.file(), || Ok(shared.disk.remove(copying.into.file())?))?;
    shared.meta.write(&[Change::VolumeGone(copying.number)])
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use quorate_proto::ids::Term;

    use super::super::entry::LogId;
    use super::super::hard::Durable;
    use super::super::stream::Place;
    use super::*;

    /// Lines of `volume NUMBER live=N bytes=N GROUP:START..END ...`; full ones have 1,000 bytes. Gives those chosen.
    fn check(percent: u64, script: &str, expected: Expect) {
        let (mut live, mut measured) = (Live::new(), BTreeMap::new());
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut words = line.split_whitespace().skip(1);
            let mut word = || words.next().expect("a word");
            let number = VolumeNumber(word().parse().expect("a number"));
            let value = |word: &str, name: &str| {
                word.strip_prefix(name).and_then(|value| value.parse::<u64>().ok()).expect("a value")
            };
            let (alive, bytes) = (value(word(), "live="), value(word(), "bytes="));
            let ranges: Vec<_> = words
                .map(|word| {
                    let (group, range) = word.split_once(':').expect("group:start..end");
                    let (start, end) = range.split_once("..").expect("start..end");
                    let index = |text: &str| LogIndex(text.parse().expect("an index"));
                    (GroupId(group.parse().expect("a group")), index(start)..index(end))
                })
                .collect();
            measured.insert(number, Measured { entries: count(&ranges), live: alive, bytes });
            live.insert(number, ranges);
        }
        let chosen: Vec<_> = choose(&live, &measured, percent, 1_000).iter().map(|number| number.0).collect();
        expected.assert_eq(&format!("{chosen:?}"));
    }

    #[test]
    fn volumes_with_little_that_is_alive_are_rewritten_together() {
        check(50, "volume 1 live=500 bytes=1000 1:0..9", expect!["[]"]);
        check(50, "volume 1 live=499 bytes=1000 1:0..9", expect!["[1]"]);
        let three = "volume 1 live=300 bytes=1000 1:5..9 2:0..3
                     volume 2 live=900 bytes=1000 1:9..12
                     volume 3 live=400 bytes=1000 2:3..9
                     volume 4 live=400 bytes=1000 2:9..10 3:0..1";
        check(50, three, expect!["[1, 3]"]);
        let gap = "volume 1 live=300 bytes=1000 1:5..9
                   volume 2 live=900 bytes=1000 1:9..12
                   volume 3 live=100 bytes=1000 1:12..20";
        check(50, gap, expect!["[1]"]);
        check(101, "volume 1 live=900 bytes=900 1:0..9", expect!["[1]"]);
    }

    #[test]
    fn what_was_written_elsewhere_meanwhile_parts_what_is_copied_and_what_was_trimmed_does_not() {
        let group = GroupId(1);
        let id = |index| LogId { term: Term(1), index: LogIndex(index) };
        let mut log = Durable::default();
        for index in 0..12 {
            let volume = VolumeNumber(if index < 5 { 1 } else { 2 });
            log.append(group, id(index), volume).expect("it follows");
        }
        let next = |log: &Durable| log.live_in(VolumeNumber(2), &(LogIndex(5)..LogIndex(12))).start;
        let parted = |log: &Durable| are_parted(&log.hard, LogIndex(4), next(log));
        assert!(!parted(&log));
        let mut mended = log.clone();
        assert!(mended.write_again(id(5), VolumeNumber(3)) && mended.write_again(id(6), VolumeNumber(3)));
        assert_eq!(next(&mended), LogIndex(7));
        assert!(parted(&mended));
        // It would lose these.
        let (mut index, place) = (MemoryIndex::default(), Place { key: 1, offset: 16 });
        (0..5).chain(7..12).for_each(|at| index.insert(group, LogIndex(at), place));
        assert_eq!(index.places(group, LogIndex(4)..LogIndex(5)), [Place::NOWHERE]);
        mended.purge(id(4));
        assert!(!parted(&mended), "what was copied is dead");
        log.purge(id(8));
        assert_eq!(next(&log), LogIndex(9));
        assert!(!parted(&log));
    }

    #[test]
    fn small_volumes_are_made_one() {
        let small = |count: u32| {
            let line = |n: u32| format!("volume {n} live=100 bytes=100 1:{}..{}\n", n * 10, n * 10 + 10);
            (1..=count).map(line).collect::<String>()
        };
        check(50, &small(3), expect!["[]"]);
        check(50, &small(4), expect!["[1, 2, 3, 4]"]);
        check(50, "volume 1 live=100 bytes=100 1:0..9", expect!["[]"]);
    }
}
