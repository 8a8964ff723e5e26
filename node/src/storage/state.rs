//! What a running store knows: each group's log as its owner sees it, as the disk holds it, and what lies between.
//!
//! One lock, never held over an await or a disk operation. The owner's view is ahead of the disk's by what is queued
//! or being written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_proto::ids::{GroupId, LogIndex};
use tokio::sync::{Notify, oneshot, watch};

use super::checkpoints::Checkpoints;
use super::config::StoreConfig;
use super::damage::{Damage, Part};
use super::entry::{Body, Entry, Head, LogId};
use super::error::StoreError;
use super::facts::Meta;
use super::failure::Failure;
use super::hard::{Durable, Hard, HardVote};
use super::index::MemoryIndex;
use super::room::Room;
use super::transcript::Tail;
use super::volume::{Owner, Volume, VolumeNumber};
use crate::env::pool::Pool;
use crate::env::{Disk, DiskSpace, Env, Metrics, Moment};

/// Called once what was appended is synced, or once it is unknown whether it ever will be.
pub type OnSync = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

type Reply = oneshot::Sender<Result<(), StoreError>>;

/// What the committer is asked to write, in order.
pub(super) enum Request {
    Append {
        group: GroupId,
        entries: Vec<Entry>,
        bytes: u64,
        arrivals: u64,
        at: Moment,
        done: OnSync,
    },
    Truncate {
        group: GroupId,
        from: LogIndex,
        reply: Reply,
    },
    Trim {
        group: GroupId,
        through: LogId,
        reply: Reply,
    },
    Vote {
        group: GroupId,
        vote: HardVote,
        reply: Reply,
    },
    Remove {
        group: GroupId,
        /// Vote and what may be missing stay.
        keeps_vote: bool,
        reply: Reply,
    },
    Move {
        from: Vec<VolumeNumber>,
        to: VolumeNumber,
        reply: Reply,
    },
    /// Entries that the log holds, written once more.
    Repair {
        group: GroupId,
        entries: Vec<Entry>,
        bytes: u64,
        reply: Reply,
    },
}

impl Request {
    /// Tells whoever asked what became of it.
    pub(super) fn answer(self, result: Result<(), StoreError>) {
        match self {
            Self::Append { done, .. } => done(result),
            // Whoever has gone does not hear it.
            Self::Truncate { reply, .. }
            | Self::Trim { reply, .. }
            | Self::Vote { reply, .. }
            | Self::Remove { reply, .. }
            | Self::Move { reply, .. }
            | Self::Repair { reply, .. } => drop(reply.send(result)),
        }
    }
}

/// All parts of a store hold it.
pub(super) struct Shared {
    pub(super) env: quorate_proto::env::Env,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) pool: Arc<dyn Pool>,
    pub(super) config: StoreConfig,
    pub(super) owner: Owner,
    pub(super) meta: Arc<Meta>,
    pub(super) failure: Failure,
    pub(super) metrics: Metrics,
    pub(super) room: Room,
    state: Mutex<State>,
    /// Held by whoever writes checkpoints, which blocks: the older of two never replaces the newer.
    pub(super) checkpointing: Arc<tokio::sync::Mutex<()>>,
    /// There is something for the committer.
    pub(super) to_commit: Notify,
    /// There is something for the keeper.
    pub(super) to_keep: Notify,
    /// The keeper has done something.
    pub(super) kept: Notify,
    /// The scrubber is to look whether it must end.
    pub(super) to_scrub: Notify,
    /// Changes whenever something is found damaged, or is whole again.
    pub(super) damaged: watch::Sender<u64>,
}

pub(super) struct State {
    pub(super) visible: BTreeMap<GroupId, Visible>,
    pub(super) durable: BTreeMap<GroupId, Durable>,
    pub(super) checkpoints: Checkpoints,
    pub(super) queue: VecDeque<Request>,
    /// Groups whose `committed` is to ride along with the next commit.
    pub(super) committed: BTreeSet<GroupId>,
    recent: Recent,
    pub(super) unsynced_bytes: u64,
    pub(super) active: Active,
    pub(super) sealing: Option<Sealing>,
    pub(super) sealed: BTreeMap<VolumeNumber, Arc<Volume>>,
    /// Sealed volumes that are open, the one used last at the end.
    pub(super) open: VecDeque<VolumeNumber>,
    pub(super) spare: Option<Arc<Volume>>,
    /// The keeper could open no file: nobody knows when there is a spare again.
    pub(super) out_of_files: bool,
    /// Some sealed volume may have no live span any more.
    pub(super) look_for_dead: bool,
    /// Some sealed volume may have little that is alive.
    pub(super) look_for_sparse: bool,
    /// The volume that others are being rewritten into, or were last: its number is not given out again, as somebody may
    /// still be about to read it.
    pub(super) aside: Option<VolumeNumber>,
    /// A volume that holds what others hold, and is about to take their place.
    pub(super) taking_over: Option<VolumeNumber>,
    /// The number of the last commit that is durable.
    pub(super) commit: u64,
    /// Groups of which something is lost.
    pub(super) damage: BTreeMap<GroupId, Damage>,
    /// Of groups below this that are not known here, nobody knows whether they ever were.
    pub(super) forgot_below: Option<GroupId>,
    pub(super) repaired_entries: u64,
    pub(super) scrubs: u64,
    pub(super) failed: bool,
    pub(super) closing: bool,
}

/// The volume that is written.
pub(super) struct Active {
    pub(super) volume: Arc<Volume>,
    pub(super) index: MemoryIndex,
    pub(super) tail: Tail,
    /// Whether all groups' hard state stands at its beginning.
    pub(super) begun: bool,
}

/// A full volume whose index is still in memory only.
pub(super) struct Sealing {
    pub(super) volume: Arc<Volume>,
    pub(super) index: Arc<MemoryIndex>,
}

/// A log as its owner sees it.
#[derive(Default)]
pub(super) struct Visible {
    pub(super) hard: Hard,
    /// The last entries of the log, without gaps up to the end. All others are synced.
    recent: VecDeque<(u64, Entry)>,
}

/// The order in which entries leave the memory.
#[derive(Default)]
struct Recent {
    /// (arrival, group) of each entry in memory, and of some that have left it already.
    order: VecDeque<(u64, GroupId)>,
    /// How long it may become before those that have left are looked for.
    order_max: usize,
    arrivals: u64,
    /// All arrivals below are synced.
    synced: u64,
    bytes: u64,
}

/// Up to so many places in the order, nobody looks for those that have left.
const ORDER_MIN: usize = 1_024;

/// What an entry costs in memory beside its body.
const ENTRY_OVERHEAD: u64 = 160;

fn memory_of(entry: &Entry) -> u64 {
    ENTRY_OVERHEAD + u64::from(entry.head.body_bytes)
}

impl Shared {
    pub(super) fn new(
        env: &Env,
        config: StoreConfig,
        owner: Owner,
        meta: Arc<Meta>,
        failure: Failure,
        state: State,
        space: Option<DiskSpace>,
    ) -> Self {
        Self {
            metrics: env.metrics.clone(),
            room: Room::new(config.disk_reserve_bytes, space),
            env: env.base.clone(),
            disk: env.disk.clone(),
            pool: env.pool.clone(),
            config,
            owner,
            meta,
            failure,
            state: Mutex::new(state),
            checkpointing: Arc::default(),
            to_commit: Notify::new(),
            to_keep: Notify::new(),
            kept: Notify::new(),
            to_scrub: Notify::new(),
            damaged: watch::Sender::new(0),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change and queues what is to be written for it.
    pub(super) fn enqueue(
        &self,
        change: impl FnOnce(&mut State) -> Result<Request, StoreError>,
    ) -> Result<(), StoreError> {
        {
            let mut state = self.state();
            if state.failed {
                return Err(self.failure.refusal().unwrap_or(StoreError::Closed));
            }
            if state.closing {
                return Err(StoreError::Closed);
            }
            let request = change(&mut state)?;
            state.queue.push_back(request);
        }
        self.to_commit.notify_one();
        Ok(())
    }
}

impl State {
    pub(super) fn new(
        durable: BTreeMap<GroupId, Durable>,
        checkpoints: Checkpoints,
        active: Active,
        sealed: BTreeMap<VolumeNumber, Arc<Volume>>,
        spare: Option<Arc<Volume>>,
        commit: u64,
    ) -> Self {
        let visible = durable
            .iter()
            .map(|(group, durable)| (*group, Visible { hard: durable.hard.clone(), recent: VecDeque::new() }))
            .collect();
        Self {
            visible,
            durable,
            checkpoints,
            queue: VecDeque::new(),
            committed: BTreeSet::new(),
            recent: Recent::default(),
            unsynced_bytes: 0,
            active,
            sealing: None,
            sealed,
            open: VecDeque::new(),
            spare,
            out_of_files: false,
            look_for_dead: true,
            look_for_sparse: true,
            aside: None,
            taking_over: None,
            commit,
            damage: BTreeMap::new(),
            forgot_below: None,
            repaired_entries: 0,
            scrubs: 0,
            failed: false,
            closing: false,
        }
    }

    /// Notes that a part of an entry cannot be read, which is said to lie in `volume`; `false` if that is known, or if
    /// it is none of the log any more, or in memory, or lies elsewhere by now.
    pub(super) fn note_damage(
        &mut self,
        group: GroupId,
        index: LogIndex,
        part: Part,
        volume: VolumeNumber,
    ) -> bool {
        let (Some(visible), Some(durable)) = (self.visible.get(&group), self.durable.get(&group)) else {
            return false;
        };
        let at = durable.spans.partition_point(|span| span.range.end <= index);
        let lies_there =
            durable.spans.get(at).is_some_and(|span| span.volume == volume && span.range.start <= index);
        let held = visible.hard.range().contains(&index) && index < visible.memory_start();
        held && lies_there && self.damage.entry(group).or_default().note(index, part)
    }

    /// A log has changed its range: what was lost of the rest concerns nobody.
    fn clip_damage(&mut self, group: GroupId) {
        let range = self.visible.get(&group).map(|visible| visible.hard.range());
        if let (Some(damage), Some(range)) = (self.damage.get_mut(&group), range) {
            damage.clip(&range);
            if damage.is_none() {
                self.damage.remove(&group);
            }
        }
    }

    /// Entries are whole again; how many of them were not.
    pub(super) fn mended(&mut self, group: GroupId, indexes: impl Iterator<Item = LogIndex>) -> u64 {
        let Some(damage) = self.damage.get_mut(&group) else { return 0 };
        let mended = indexes.filter(|index| damage.mended(*index)).count();
        if damage.is_none() {
            self.damage.remove(&group);
        }
        let mended = u64::try_from(mended).expect("a count fits 64 bits");
        self.repaired_entries += mended;
        mended
    }

    /// Makes entries readable; all of them or none.
    pub(super) fn append(&mut self, group: GroupId, entries: &[Entry]) -> Result<u64, StoreError> {
        let visible = self.visible.entry(group).or_default();
        let mut next = entries.first().map_or(LogIndex(0), |first| first.head.index);
        for entry in entries {
            if entry.head.index != next {
                return Err(StoreError::Gap { group, expected: next, found: entry.head.index });
            }
            next = next.next();
        }
        let mut bytes = 0;
        for entry in entries {
            // Only the first one can be refused: the others follow each other.
            visible.hard.append(group, entry.head.log_id())?;
            let arrival = self.recent.arrivals;
            self.recent.arrivals += 1;
            self.recent.order.push_back((arrival, group));
            bytes += memory_of(entry);
            visible.recent.push_back((arrival, entry.clone()));
        }
        self.recent.bytes += bytes;
        self.unsynced_bytes += bytes;
        Ok(bytes)
    }

    pub(super) fn truncate(&mut self, group: GroupId, from: LogIndex) {
        let visible = self.visible.entry(group).or_default();
        visible.hard.truncate(from);
        while visible.recent.back().is_some_and(|(_, entry)| entry.head.index >= from) {
            let removed = visible.recent.pop_back();
            self.recent.bytes -= removed.map_or(0, |(_, entry)| memory_of(&entry));
        }
        self.clip_damage(group);
    }

    pub(super) fn trim(&mut self, group: GroupId, through: LogId) {
        let visible = self.visible.entry(group).or_default();
        visible.hard.purge(through);
        while visible.recent.front().is_some_and(|(_, entry)| entry.head.index <= through.index) {
            let removed = visible.recent.pop_front();
            self.recent.bytes -= removed.map_or(0, |(_, entry)| memory_of(&entry));
        }
        self.clip_damage(group);
    }

    pub(super) fn remove(&mut self, group: GroupId) {
        self.committed.remove(&group);
        self.damage.remove(&group);
        if let Some(visible) = self.visible.remove(&group) {
            self.recent.bytes -= visible.recent.iter().map(|(_, entry)| memory_of(entry)).sum::<u64>();
        }
    }

    /// How many arrivals there were: those before are synced once what is queued now is.
    pub(super) fn arrivals(&self) -> u64 {
        self.recent.arrivals
    }

    /// Notes that all entries before `arrivals` are synced, and lets the oldest go that are too many.
    pub(super) fn synced(&mut self, arrivals: u64, recent_bytes_max: u64) {
        self.recent.synced = self.recent.synced.max(arrivals);
        self.forget_who_left();
        while let Some((arrival, group)) = self.recent.order.front().copied() {
            let front = self.visible.get(&group).and_then(|visible| visible.recent.front());
            let is_here = front.is_some_and(|(front, _)| *front == arrival);
            if is_here && (self.recent.bytes <= recent_bytes_max || arrival >= self.recent.synced) {
                return;
            }
            self.recent.order.pop_front();
            if is_here {
                let visible = self.visible.get_mut(&group).expect("it was there a moment ago");
                let removed = visible.recent.pop_front();
                self.recent.bytes -= removed.map_or(0, |(_, entry)| memory_of(&entry));
            }
        }
    }

    /// How many places there are in the order of those in memory.
    #[cfg(test)]
    pub(super) fn places_in_memory(&self) -> usize {
        self.recent.order.len()
    }

    /// Forgets the places of those that left out of turn, trimmed or cut, once they are more than those in memory.
    fn forget_who_left(&mut self) {
        if self.recent.order.len() <= self.recent.order_max.max(ORDER_MIN) {
            return;
        }
        let visible = &self.visible;
        let is_here = |(arrival, group): &(u64, GroupId)| {
            let recent = visible.get(group).map(|visible| &visible.recent);
            recent.is_some_and(|recent| recent.binary_search_by_key(arrival, |(here, _)| *here).is_ok())
        };
        self.recent.order.retain(is_here);
        self.recent.order_max = self.recent.order.len() * 2;
    }

    /// Whether a volume holds anything that is alive, or is about to.
    pub(super) fn is_alive(&self, volume: VolumeNumber) -> bool {
        self.taking_over == Some(volume)
            || self.durable.values().any(|durable| durable.spans.iter().any(|span| span.volume == volume))
    }

    /// Entries went: volumes may have become dead or sparse.
    pub(super) fn entries_went(&mut self) {
        self.look_for_dead = true;
        self.look_for_sparse = true;
    }

    /// Whether a volume of that number is here, whatever it is for.
    pub(super) fn has_volume(&self, number: VolumeNumber) -> bool {
        self.active.volume.number == number
            || self.sealing.as_ref().is_some_and(|sealing| sealing.volume.number == number)
            || self.sealed.contains_key(&number)
    }

    /// The number of the newest volume that is listed.
    pub(super) fn newest_number(&self) -> VolumeNumber {
        let active = self.active.volume.number;
        let spare = self.spare.as_ref().map_or(active, |spare| spare.number);
        let sealed = self.sealed.last_key_value().map_or(active, |(number, _)| *number);
        active.max(spare).max(sealed)
    }

    /// A number above those of all volumes.
    pub(super) fn next_number(&self) -> VolumeNumber {
        let newest = self.newest_number();
        self.aside.map_or(newest, |aside| aside.max(newest)).next()
    }
}

impl Visible {
    /// The first index that is in memory; the end of the log if none is.
    pub(super) fn memory_start(&self) -> LogIndex {
        match self.recent.front() {
            Some((_, entry)) => entry.head.index,
            None => self.hard.range().end,
        }
    }

    fn in_memory(&self, range: Range<LogIndex>) -> impl Iterator<Item = &Entry> {
        let start = self.memory_start();
        let at = |index: LogIndex| {
            usize::try_from(index.0.saturating_sub(start.0)).expect("this program runs on 64 bits")
        };
        let end = at(range.end).min(self.recent.len());
        self.recent.range(at(range.start).min(end)..end).map(|(_, entry)| entry)
    }

    pub(super) fn heads_in_memory(&self, range: Range<LogIndex>) -> impl Iterator<Item = Head> {
        self.in_memory(range).map(|entry| entry.head)
    }

    /// Entries of the range until `bytes` would be exceeded, at least the first if `first`.
    pub(super) fn entries_in_memory(
        &self,
        range: Range<LogIndex>,
        mut bytes: u64,
        first: bool,
    ) -> Vec<Entry> {
        let mut found = Vec::new();
        for entry in self.in_memory(range) {
            let takes = bytes_of(&entry.head);
            if takes > bytes && !(first && found.is_empty()) {
                break;
            }
            bytes = bytes.saturating_sub(takes);
            found.push(entry.clone());
        }
        found
    }

    /// The body of that very entry, if it is in memory.
    pub(super) fn body_in_memory(&self, head: &Head) -> Option<bytes::Bytes> {
        if head.index < self.memory_start() {
            return None;
        }
        let entry = self.in_memory(head.index..head.index.next()).next()?;
        match &entry.body {
            Body::Here(body) if entry.head == *head => Some(body.clone()),
            Body::Here(_) | Body::Absent => None,
        }
    }
}

/// What an entry counts against a limit of bytes.
pub(super) fn bytes_of(head: &Head) -> u64 {
    u64::from(head.body_bytes) + u64::try_from(Head::BYTES).expect("small")
}
