//! One writer for all groups: many requests, one transaction, one sync, many answers.
//!
//! While one commit runs the next requests gather, so a commit grows with the load and there is no fixed delay.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{FutureExt, future};
use quorate_proto::ids::GroupId;

use super::entry::LogId;
use super::error::{DiskError, StoreError};
use super::facts::{Change, Witness};
use super::hard::Durable;
use super::index::MemoryIndex;
use super::state::{Active, Request, Sealing, Shared};
use super::stream::{Item, Place};
use super::transcript::{Line, Tail, put};
use super::volume::Volume;
use crate::env::{Mark, Moment, Point, pool};

/// What a commit, and the word of it, may take beside its writing, where a [`Point`] makes them slow.
const LATE_MAX: Duration = Duration::from_millis(30);

/// How many times as much as a volume should be one takes that cannot be sealed for want of a file: what is appended
/// behind that waits.
pub(super) const OVERFULL: u64 = 8;

/// What goes into one transaction.
struct Work {
    volume: Arc<Volume>,
    tail: Tail,
    commit: u64,
    /// All groups' state, if the volume has not begun.
    base: Vec<(GroupId, Durable)>,
    committed: Vec<(GroupId, Option<LogId>)>,
    /// The volume is the next one: it takes the active one's place with this commit.
    rolls: bool,
}

/// The requests of the commit that runs. Kept apart from what is handed over to write them: whatever panics, each one
/// is answered.
#[derive(Clone, Default)]
struct InFlight(Arc<Mutex<VecDeque<Request>>>);

impl InFlight {
    fn requests(&self) -> MutexGuard<'_, VecDeque<Request>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the first one: it is answered without the lock.
    fn next(&self) -> Option<Request> {
        self.requests().pop_front()
    }
}

struct Done {
    tail: Tail,
    places: Vec<Place>,
}

/// Runs until the store is closed and all that was queued is answered. A panic is a failure like the disk's: what is
/// in flight or queued is answered "unknown", nothing more is written, and then it goes on.
pub(super) async fn run(shared: Arc<Shared>) {
    let in_flight = InFlight::default();
    let serving = AssertUnwindSafe(serve(&shared, &in_flight)).catch_unwind().await;
    if let Err(panic) = serving {
        shared.failure.raise(&DiskError::panicked("the committer", &*panic));
        fail(&shared, &in_flight);
        resume_unwind(panic);
    }
}

async fn serve(shared: &Arc<Shared>, in_flight: &InFlight) {
    loop {
        let (idle, closing, must_wait) = {
            let state = shared.state();
            let full = state.active.tail.bytes >= shared.config.volume_bytes_max;
            let ready = state.sealing.is_none() && state.spare.is_some();
            // Once closing, the keeper prepares no more volumes, and without a file it cannot: the full one takes the
            // rest, or as much of it as can still be sealed.
            let overfull = state.active.tail.bytes >= shared.config.volume_bytes_max.saturating_mul(OVERFULL);
            let goes_on = state.closing || (state.out_of_files && !overfull);
            (state.queue.is_empty(), state.closing, full && !ready && !goes_on)
        };
        if shared.failure.refusal().is_some() {
            fail(shared, in_flight);
        } else if !idle && must_wait {
            shared.kept.notified().await;
        } else if !idle {
            commit(shared, in_flight).await;
            continue;
        }
        if idle && closing {
            return;
        }
        if idle {
            shared.to_commit.notified().await;
        }
    }
}

async fn commit(shared: &Arc<Shared>, in_flight: &InFlight) {
    shared.env.dawdle(Point::CommitLate, LATE_MAX).await;
    let work = take(shared, &mut in_flight.requests());
    let changes = changes(shared, &in_flight.requests());
    let requests = in_flight.clone();
    let began = shared.env.now();
    let (failure, other, meta) = (shared.failure.clone(), shared.failure.clone(), shared.meta.clone());
    let entries = pool::run(&*shared.pool, move || {
        let done = failure.catch("a commit", || {
            write(&work, &requests.requests()).inspect_err(|error| failure.raise(error))
        });
        (work, done)
    });
    let ((work, done), noted) = if changes.is_empty() {
        (entries.await, Ok(()))
    } else {
        let facts = pool::run(&*shared.pool, move || {
            other.catch("a commit's facts", || {
                if let Err(error) = meta.write(&changes) {
                    other.raise(&error);
                }
            })
        });
        future::join(entries, facts).await
    };
    shared.env.dawdle(Point::SyncToldLate, LATE_MAX).await;
    match (done, noted) {
        (Ok(Ok(done)), Ok(())) if shared.failure.refusal().is_none() => {
            let now = shared.env.now();
            shared.metrics.commit_time.observe(now.since(began));
            accept(shared, work, done, &in_flight.requests(), now);
            while let Some(request) = in_flight.next() {
                request.answer(Ok(()));
            }
        }
        (Ok(_), Ok(())) => fail(shared, in_flight),
        (Err(panic), _) | (_, Err(panic)) => resume_unwind(panic),
    }
}

/// What `meta.redb` is to hold beside this commit: it is written at the same time, so it is witness of the last
/// commit only.
fn changes(shared: &Shared, requests: &VecDeque<Request>) -> Vec<Change> {
    let mut changes = Vec::new();
    for request in requests {
        match request {
            Request::Vote { group, vote, .. } => changes.push(Change::Vote(*group, *vote)),
            Request::Remove { group, keeps_vote: false, .. } => changes.push(Change::VoteGone(*group)),
            Request::Append { .. }
            | Request::Remove { .. }
            | Request::Truncate { .. }
            | Request::Trim { .. }
            | Request::Move { .. }
            | Request::Repair { .. } => {}
        }
    }
    if !changes.is_empty() {
        let state = shared.state();
        if state.commit > 0 {
            let volume = state.active.volume.number;
            changes.push(Change::Witness(Witness { commit: state.commit, volume }));
        }
    }
    changes
}

/// Takes requests off the queue, up to the bytes of one commit.
fn take(shared: &Shared, requests: &mut VecDeque<Request>) -> Work {
    let mut state = shared.state();
    let bytes_max = u64::from(shared.config.commit_bytes_max);
    let mut bytes = 0;
    while let Some(request) = state.queue.front() {
        let more = match request {
            Request::Append { bytes, .. } | Request::Repair { bytes, .. } => *bytes,
            Request::Truncate { .. }
            | Request::Trim { .. }
            | Request::Vote { .. }
            | Request::Remove { .. }
            | Request::Move { .. } => 64,
        };
        if bytes + more > bytes_max && !requests.is_empty() {
            break;
        }
        bytes += more;
        requests.extend(state.queue.pop_front());
        if shared.env.perturb(Point::CommitOfFew) {
            break;
        }
    }
    let dirty = std::mem::take(&mut state.committed);
    let committed = dirty.into_iter().filter_map(|group| {
        let visible = state.visible.get(&group)?;
        Some((group, visible.hard.committed))
    });
    let committed = committed.collect();
    let full = state.active.tail.bytes >= shared.config.volume_bytes_max
        || (state.active.begun && shared.env.perturb(Point::RollEarly));
    let next = if full && state.sealing.is_none() { state.spare.clone() } else { None };
    let rolls = next.is_some();
    let begins = rolls || !state.active.begun;
    let base = if begins {
        state.durable.iter().map(|(group, durable)| (*group, durable.clone())).collect()
    } else {
        Vec::new()
    };
    let (volume, tail) = match next {
        Some(next) => (next, Tail::default()),
        None => (state.active.volume.clone(), state.active.tail),
    };
    Work { volume, tail, commit: state.commit + 1, base, committed, rolls }
}

/// Writes and syncs. Blocks.
fn write(work: &Work, requests: &VecDeque<Request>) -> Result<Done, DiskError> {
    let mut lines = Vec::new();
    for (group, state) in &work.base {
        lines.push(Line::Fact(Item::State { group: *group, state: state.clone() }));
    }
    for request in requests {
        match request {
            Request::Append { entries, .. } => lines.extend(entries.iter().map(Line::Entry)),
            Request::Truncate { group, from, .. } => {
                lines.push(Line::Fact(Item::Truncate { group: *group, from: *from }));
            }
            Request::Trim { group, through, .. } => {
                lines.push(Line::Fact(Item::Trim { group: *group, through: *through }));
            }
            Request::Vote { group, vote, .. } => {
                lines.push(Line::Fact(Item::Vote { group: *group, vote: *vote }));
            }
            Request::Remove { group, .. } => lines.push(Line::Fact(Item::Remove { group: *group })),
            Request::Repair { entries, .. } => lines.extend(entries.iter().map(Line::Again)),
            Request::Move { from, to, .. } => {
                lines.extend(from.iter().map(|from| Line::Fact(Item::Moved { from: *from, to: *to })));
            }
        }
    }
    for (group, committed) in &work.committed {
        lines.push(Line::Fact(Item::Committed { group: *group, committed: *committed }));
    }
    let mut tail = work.tail;
    let places = work.volume.write(|write| put(write, &mut tail, work.commit, &lines))?;
    Ok(Done { tail, places })
}

/// Notes what is durable now.
fn accept(shared: &Shared, work: Work, done: Done, requests: &VecDeque<Request>, now: Moment) {
    let mut state = shared.state();
    let state = &mut *state;
    if work.rolls {
        let next =
            Active { volume: work.volume, index: MemoryIndex::default(), tail: done.tail, begun: true };
        let full = std::mem::replace(&mut state.active, next);
        state.sealing = Some(Sealing { volume: full.volume, index: Arc::new(full.index) });
        state.spare = None;
        shared.to_keep.notify_one();
        shared.env.reached(Mark::VolumeRolled);
    } else {
        state.active.tail = done.tail;
        state.active.begun = true;
    }
    state.commit = work.commit;
    let volume = state.active.volume.number;
    let mut places = done.places.into_iter();
    let mut arrivals_synced = 0;
    let mut bytes_synced = 0;
    for request in requests {
        match request {
            Request::Append { group, entries, bytes, arrivals, at, .. } => {
                let durable = state.durable.entry(*group).or_default();
                for entry in entries {
                    let follows = durable.append(*group, entry.head.log_id(), volume);
                    follows.expect("what was queued in order is written in order");
                    let place = places.next().expect("each entry was given a place");
                    state.active.index.insert(*group, entry.head.index, place);
                }
                arrivals_synced = *arrivals;
                state.unsynced_bytes -= bytes;
                bytes_synced += bytes;
                if !entries.is_empty() {
                    shared.metrics.stage_sync.observe(now.since(*at));
                }
            }
            Request::Truncate { group, from, .. } => {
                let durable = state.durable.entry(*group).or_default();
                let old = durable.spans.iter().rev().find(|span| span.volume != volume);
                if old.is_some_and(|span| span.range.end > *from) {
                    shared.env.reached(Mark::TruncationAcrossARoll);
                }
                durable.truncate(*from);
                state.entries_went();
            }
            Request::Trim { group, through, .. } => {
                state.durable.entry(*group).or_default().purge(*through);
                state.entries_went();
            }
            Request::Vote { group, vote, .. } => {
                state.durable.entry(*group).or_default().hard.vote = Some(*vote);
            }
            Request::Remove { group, .. } => {
                state.durable.remove(group);
                state.active.index.remove(*group);
                state.entries_went();
            }
            Request::Move { from, to, .. } => {
                for durable in state.durable.values_mut() {
                    from.iter().for_each(|from| durable.relocate(*from, *to));
                }
                state.taking_over = None;
                state.look_for_dead = true;
            }
            Request::Repair { group, entries, .. } => {
                let mut moved = Vec::with_capacity(entries.len());
                for entry in entries {
                    let place = places.next().expect("each entry was given a place");
                    let durable = state.durable.get_mut(group);
                    if durable.is_some_and(|durable| durable.write_again(entry.head.log_id(), volume)) {
                        state.active.index.insert_again(*group, entry.head.index, place);
                        moved.push(entry.head.index);
                    }
                }
                let mended = state.mended(*group, moved.into_iter());
                if mended > 0 {
                    shared.metrics.repaired_entries.add(mended);
                    shared.damaged.send_modify(|version| *version += 1);
                }
                state.entries_went();
            }
        }
    }
    for (group, committed) in work.committed {
        state.durable.entry(group).or_default().hard.committed = committed;
    }
    shared.metrics.commit_bytes.observe(bytes_synced);
    shared.room.wrote(bytes_synced);
    let recent_bytes_max =
        if shared.env.perturb(Point::RecentForgotten) { 0 } else { shared.config.recent_bytes_max };
    state.synced(arrivals_synced, recent_bytes_max);
    if state.look_for_dead {
        shared.to_keep.notify_one();
    }
}

/// Answers what was in flight and what is queued with "unknown", and takes no more.
fn fail(shared: &Shared, in_flight: &InFlight) {
    let mut queued = {
        let mut state = shared.state();
        state.failed = true;
        std::mem::take(&mut state.queue)
    };
    in_flight.requests().append(&mut queued);
    let error = shared.failure.unknown().unwrap_or(StoreError::Closed);
    while let Some(request) = in_flight.next() {
        request.answer(Err(error.clone()));
    }
}
