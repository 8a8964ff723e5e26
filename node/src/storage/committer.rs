//! One writer for all groups: many requests, one transaction, one sync, many answers.
//!
//! While one commit runs the next requests gather, so a commit grows with the load and there is no fixed delay.

use std::sync::Arc;

use futures_util::future;
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
use crate::env::pool;

/// What goes into one transaction.
struct Work {
    volume: Arc<Volume>,
    tail: Tail,
    commit: u64,
    /// All groups' state, if the volume has not begun.
    base: Vec<(GroupId, Durable)>,
    requests: Vec<Request>,
    committed: Vec<(GroupId, Option<LogId>)>,
    /// The volume is the next one: it takes the active one's place with this commit.
    rolls: bool,
}

struct Done {
    tail: Tail,
    places: Vec<Place>,
}

/// Runs until the store is closed and all that was queued is answered.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let (idle, closing, must_wait) = {
            let state = shared.state();
            let full = state.active.tail.bytes >= shared.config.volume_bytes_max;
            let ready = state.sealing.is_none() && state.spare.is_some();
            // Once closing, the keeper prepares no more volumes: the full one takes the rest.
            (state.queue.is_empty(), state.closing, full && !ready && !state.closing)
        };
        if shared.failure.refusal().is_some() {
            fail(&shared, Vec::new());
        } else if !idle && must_wait {
            shared.kept.notified().await;
        } else if !idle {
            commit(&shared).await;
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

async fn commit(shared: &Arc<Shared>) {
    let work = take(shared);
    let changes = changes(shared, &work);
    let (failure, other, meta) = (shared.failure.clone(), shared.failure.clone(), shared.meta.clone());
    let entries = pool::run(&*shared.pool, move || {
        let done = write(&work);
        if let Err(error) = &done {
            failure.raise(error);
        }
        (work, done)
    });
    let (work, done) = if changes.is_empty() {
        entries.await
    } else {
        let facts = pool::run(&*shared.pool, move || {
            if let Err(error) = meta.write(&changes) {
                other.raise(&error);
            }
        });
        future::join(entries, facts).await.0
    };
    match done {
        Ok(done) if shared.failure.refusal().is_none() => accept(shared, work, done),
        Ok(_) | Err(_) => fail(shared, work.requests),
    }
}

/// What `meta.redb` is to hold beside this commit: it is written at the same time, so it is witness of the last
/// commit only.
fn changes(shared: &Shared, work: &Work) -> Vec<Change> {
    let mut changes = Vec::new();
    for request in &work.requests {
        match request {
            Request::Vote { group, vote, .. } => changes.push(Change::Vote(*group, *vote)),
            Request::Remove { group, .. } => changes.push(Change::VoteGone(*group)),
            Request::Append { .. } | Request::Truncate { .. } | Request::Trim { .. } => {}
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
fn take(shared: &Shared) -> Work {
    let mut state = shared.state();
    let bytes_max = u64::from(shared.config.commit_bytes_max);
    let mut bytes = 0;
    let mut requests = Vec::new();
    while let Some(request) = state.queue.front() {
        let more = match request {
            Request::Append { bytes, .. } => *bytes,
            Request::Truncate { .. }
            | Request::Trim { .. }
            | Request::Vote { .. }
            | Request::Remove { .. } => 64,
        };
        if bytes + more > bytes_max && !requests.is_empty() {
            break;
        }
        bytes += more;
        requests.extend(state.queue.pop_front());
    }
    let dirty = std::mem::take(&mut state.committed);
    let committed = dirty.into_iter().filter_map(|group| {
        let visible = state.visible.get(&group)?;
        Some((group, visible.hard.committed))
    });
    let committed = committed.collect();
    let full = state.active.tail.bytes >= shared.config.volume_bytes_max;
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
    Work { volume, tail, commit: state.commit + 1, base, requests, committed, rolls }
}

/// Writes and syncs. Blocks.
fn write(work: &Work) -> Result<Done, DiskError> {
    let mut lines = Vec::new();
    for (group, state) in &work.base {
        lines.push(Line::Fact(Item::State { group: *group, state: state.clone() }));
    }
    for request in &work.requests {
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
        }
    }
    for (group, committed) in &work.committed {
        lines.push(Line::Fact(Item::Committed { group: *group, committed: *committed }));
    }
    let mut tail = work.tail;
    let places = work.volume.write(|write| put(write, &mut tail, work.commit, &lines))?;
    Ok(Done { tail, places })
}

/// Notes what is durable now, and answers.
fn accept(shared: &Shared, work: Work, done: Done) {
    let mut answers: Vec<Box<dyn FnOnce() + Send>> = Vec::with_capacity(work.requests.len());
    {
        let mut state = shared.state();
        let state = &mut *state;
        if work.rolls {
            let next =
                Active { volume: work.volume, index: MemoryIndex::default(), tail: done.tail, begun: true };
            let full = std::mem::replace(&mut state.active, next);
            state.sealing = Some(Sealing { volume: full.volume, index: Arc::new(full.index) });
            state.spare = None;
            shared.to_keep.notify_one();
        } else {
            state.active.tail = done.tail;
            state.active.begun = true;
        }
        state.commit = work.commit;
        let volume = state.active.volume.number;
        let mut places = done.places.into_iter();
        let mut arrivals_synced = 0;
        for request in work.requests {
            match request {
                Request::Append { group, entries, bytes, arrivals, done } => {
                    let durable = state.durable.entry(group).or_default();
                    for entry in &entries {
                        let follows = durable.append(group, entry.head.log_id(), volume);
                        follows.expect("what was queued in order is written in order");
                        let place = places.next().expect("each entry was given a place");
                        state.active.index.insert(group, entry.head.index, place);
                    }
                    arrivals_synced = arrivals;
                    state.unsynced_bytes -= bytes;
                    answers.push(Box::new(move || done(Ok(()))));
                }
                Request::Truncate { group, from, reply } => {
                    state.durable.entry(group).or_default().truncate(from);
                    state.look_for_dead = true;
                    answers.push(Box::new(move || drop(reply.send(Ok(())))));
                }
                Request::Trim { group, through, reply } => {
                    state.durable.entry(group).or_default().purge(through);
                    state.look_for_dead = true;
                    answers.push(Box::new(move || drop(reply.send(Ok(())))));
                }
                Request::Vote { group, vote, reply } => {
                    state.durable.entry(group).or_default().hard.vote = Some(vote);
                    answers.push(Box::new(move || drop(reply.send(Ok(())))));
                }
                Request::Remove { group, reply } => {
                    state.durable.remove(&group);
                    state.active.index.remove(group);
                    state.look_for_dead = true;
                    answers.push(Box::new(move || drop(reply.send(Ok(())))));
                }
            }
        }
        for (group, committed) in work.committed {
            state.durable.entry(group).or_default().hard.committed = committed;
        }
        state.synced(arrivals_synced, shared.config.recent_bytes_max);
        if state.look_for_dead {
            shared.to_keep.notify_one();
        }
    }
    for answer in answers {
        answer();
    }
}

/// Answers what was in flight and what is queued with "unknown", and takes no more.
fn fail(shared: &Shared, in_flight: Vec<Request>) {
    let queued = {
        let mut state = shared.state();
        state.failed = true;
        std::mem::take(&mut state.queue)
    };
    let error = match shared.failure.refusal() {
        Some(StoreError::Failed(cause)) => StoreError::Unknown(cause),
        Some(other) => other,
        None => StoreError::Closed,
    };
    for request in in_flight.into_iter().chain(queued) {
        match request {
            Request::Append { done, .. } => done(Err(error.clone())),
            Request::Truncate { reply, .. }
            | Request::Trim { reply, .. }
            | Request::Vote { reply, .. }
            | Request::Remove { reply, .. } => drop(reply.send(Err(error.clone()))),
        }
    }
}
