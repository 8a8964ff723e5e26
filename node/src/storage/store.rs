//! What the rest of the node sees of its disk: one [`Store`], and a [`Log`] per group.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::select;
use quorate_proto::ids::{GroupId, Identity, LogIndex, NodeId, Term};
use tokio::sync::{oneshot, watch};
use tracing::info;

use super::checkpoints::CheckpointKind;
use super::committer;
use super::config::StoreConfig;
use super::damage::{Damage, DamageCounts, Lost};
use super::entry::{Body, Entry, Head, LogId};
use super::error::{DiskError, OpenError, ReadError, StoreError};
use super::facts::{Change, Facts, Witness};
use super::failure::Failure;
use super::hard::{Hard, HardVote, LogState};
use super::keeper;
use super::recovery::{RecoveryReport, recover};
use super::room::{self, DiskRoom};
use super::scrub;
use super::state::{OnSync, Request, Shared, Visible, bytes_of};
use crate::env::{Env, Mark, Point, Task, pool};

/// All groups' logs on one disk. A cheap clone; the last one dropped stops the writing, whatever is queued.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    facts: Facts,
    tasks: Mutex<Vec<Task>>,
}

/// What a disk may take at most, where [`Point`]s make it slow.
const TRUNCATE_LATE_MAX: Duration = Duration::from_millis(100);
const VOTE_LATE_MAX: Duration = Duration::from_millis(300);

impl Store {
    /// Opens the folder of `env`'s disk for node `node`, and makes its content if it is empty, with a random
    /// identity. Nothing is served before all of it is known to lie on the disk.
    ///
    /// # Errors
    /// What is wrong with the folder, and what can be done about it.
    pub async fn open(
        env: &Env,
        config: StoreConfig,
        node: NodeId,
    ) -> Result<(Self, RecoveryReport), OpenError> {
        let began = env.now();
        let fresh = Identity::from_random(env.random_bytes());
        let failure = Failure::new(env);
        let watched = Env { disk: failure.watched(), ..env.clone() };
        let (disk, settings) = (watched.disk.clone(), config.clone());
        let (recovered, space) =
            pool::run(&*env.pool, move || (recover(&disk, &settings, node, fresh), disk.space().ok())).await;
        let recovered = recovered?;
        failure.opened();
        let report = recovered.report;
        recovered.marks.iter().for_each(|mark| env.reached(*mark));
        env.metrics.damaged_entries.add(report.damaged_entries);
        info!(
            created = report.created,
            volumes = report.volumes,
            groups = report.groups,
            entries = report.entries,
            repaired = report.repaired,
            sealed = report.sealed,
            leftovers = report.leftovers,
            failed_before = report.failed_before,
            meta_rebuilt = report.meta_rebuilt,
            volumes_lost = report.volumes_lost,
            damaged_entries = report.damaged_entries,
            groups_behind = report.groups_behind,
            elapsed_ms = u64::try_from(env.now().since(began).as_millis()).unwrap_or(u64::MAX),
            "store was opened"
        );
        let meta = Arc::new(recovered.meta);
        let facts = Facts::new(&recovered.content, meta.clone(), env.pool.clone(), failure.clone());
        let shared =
            Shared::new(&watched, config, recovered.content.owner, meta, failure, recovered.state, space);
        let shared = Arc::new(shared);
        let mut tasks = vec![
            env.spawn("storage-committer", committer::run(shared.clone())),
            env.spawn("storage-keeper", keeper::run(shared.clone())),
            env.spawn("storage-room", room::run(shared.clone())),
        ];
        if shared.config.scrub_seconds > 0 {
            tasks.push(env.spawn("storage-scrubber", scrub::run(shared.clone())));
        }
        Ok((Self(Arc::new(Inner { shared, facts, tasks: Mutex::new(tasks) })), report))
    }

    /// Who this node is, and whom it has met.
    pub fn facts(&self) -> &Facts {
        &self.0.facts
    }

    /// A group's log; empty if the disk has nothing of it.
    pub fn log(&self, group: GroupId) -> Log {
        Log { shared: self.0.shared.clone(), facts: self.0.facts.clone(), group }
    }

    /// How much of the disk is damaged.
    pub fn damage_counts(&self) -> DamageCounts {
        let state = self.0.shared.state();
        let behind = state.damage.values().filter(|damage| damage.is_behind()).count();
        DamageCounts {
            damaged_entries: state.damage.values().map(Damage::entries).sum(),
            repaired_entries: state.repaired_entries,
            groups_behind: u64::try_from(behind).expect("a count fits 64 bits"),
            scrubs: state.scrubs,
        }
    }

    /// Changes whenever something is found damaged, or is whole again.
    pub fn damage_changed(&self) -> watch::Receiver<u64> {
        self.0.shared.damaged.subscribe()
    }

    /// Whether nobody knows if a group of which there is nothing on this disk was ever here: what told of it may be
    /// lost, with a vote. Never for groups that the disk knows.
    pub fn may_have_forgotten(&self, group: GroupId) -> bool {
        let state = self.0.shared.state();
        let is_known =
            state.visible.get(&group).is_some_and(|visible| visible.hard.state() != LogState::default());
        !is_known && state.forgot_below.is_some_and(|below| group < below)
    }

    /// Whether groups may have been here of which nothing is known, and it is not known either up to which.
    pub fn forgot_any(&self) -> bool {
        self.0.shared.state().forgot_below == Some(GroupId(u64::MAX))
    }

    /// No group from `below` on was ever on this disk without being known: those were not made when it lost what it
    /// knew. Durable on return.
    ///
    /// # Errors
    /// The disk failed or the store is closed.
    pub async fn forgot_none_from(&self, below: GroupId) -> Result<(), StoreError> {
        if !self.forgot_any() {
            return Ok(());
        }
        self.0.facts.set_forgot(below).await?;
        self.0.shared.state().forgot_below = Some(below);
        Ok(())
    }

    /// Groups that have anything on this disk, or are about to.
    pub fn groups(&self) -> Vec<GroupId> {
        let state = self.0.shared.state();
        let groups = state.visible.iter();
        groups
            .filter(|(_, visible)| visible.hard.state() != LogState::default())
            .map(|(group, _)| *group)
            .collect()
    }

    /// Groups that may lack what they had acknowledged. Of some of them nothing else may be on this disk.
    pub fn groups_behind(&self) -> Vec<GroupId> {
        let state = self.0.shared.state();
        state.damage.iter().filter(|(_, damage)| damage.is_behind()).map(|(group, _)| *group).collect()
    }

    /// Removes all that is known of a group, which must not be used any more. Durable on return.
    ///
    /// # Errors
    /// The disk failed or the store is closed.
    pub async fn remove_group(&self, group: GroupId) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.0.shared.enqueue(|state| {
            state.remove(group);
            Ok(Request::Remove { group, keeps_vote: false, reply })
        })?;
        answered(answer).await?;
        // Only now: without its checkpoint a log that is still there could not be read.
        self.0.shared.forget_checkpoints(group).await
    }

    /// Bytes of entries that were appended and are not synced yet: whoever admits more stops at
    /// [`Store::recent_bytes_max`].
    pub fn unsynced_bytes(&self) -> u64 {
        self.0.shared.state().unsynced_bytes
    }

    /// How much room the disk had a moment ago.
    pub fn room(&self) -> DiskRoom {
        self.0.shared.room.now()
    }

    /// Watches [`Store::room`].
    pub fn rooms(&self) -> watch::Receiver<DiskRoom> {
        self.0.shared.room.watch()
    }

    /// How many volumes hold something alive, are there to be written, or are the newest: any other is about to be removed.
    pub fn volumes_alive(&self) -> usize {
        let state = self.0.shared.state();
        let spans = state.durable.values().flat_map(|durable| &durable.spans);
        let mut volumes = spans.map(|span| span.volume).collect::<BTreeSet<_>>();
        volumes.extend([state.active.volume.number, state.newest_number()]);
        volumes.extend(state.sealing.as_ref().map(|sealing| sealing.volume.number));
        volumes.extend(state.spare.as_ref().map(|spare| spare.number));
        volumes.len()
    }

    /// The bound for the memory of recent entries.
    pub fn recent_bytes_max(&self) -> u64 {
        self.0.shared.config.recent_bytes_max
    }

    /// Some error once a write or sync has failed. The process must then end, with a status of its own.
    pub fn failed(&self) -> watch::Receiver<Option<Arc<StoreError>>> {
        self.0.shared.failure.watch()
    }

    /// Takes no more, writes what is queued, answers it and closes all files.
    pub async fn close(&self) {
        let shared = &self.0.shared;
        shared.state().closing = true;
        shared.to_commit.notify_one();
        shared.kept.notify_one();
        shared.to_keep.notify_one();
        shared.to_scrub.notify_one();
        shared.room.to_look.notify_one();
        let tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // A panic was a failure, and has been told: whoever closes the store ends for that reason.
            drop(AssertUnwindSafe(task.join()).catch_unwind().await);
        }
        let worker = shared.clone();
        pool::run(&*shared.pool, move || close_files(&worker)).await;
    }
}

/// The committer's answer. It gives one to all that it has taken: without one, nobody can say what became of it.
async fn answered(answer: oneshot::Receiver<Result<(), StoreError>>) -> Result<(), StoreError> {
    answer.await.unwrap_or_else(|_| Err(StoreError::Unknown(DiskError::dropped())))
}

/// Closes all files cleanly, so that the next opening need not repair them.
fn close_files(shared: &Shared) {
    let (volumes, witness) = {
        let state = shared.state();
        let witness = Witness { commit: state.commit, volume: state.active.volume.number };
        let mut volumes = state.sealed.values().cloned().collect::<Vec<_>>();
        volumes.push(state.active.volume.clone());
        volumes.extend(state.sealing.as_ref().map(|sealing| sealing.volume.clone()));
        volumes.extend(state.spare.clone());
        (volumes, witness)
    };
    if witness.commit > 0 && shared.failure.refusal().is_none() {
        // An older copy put in the active volume's place is seen by this.
        if let Err(error) = shared.meta.write(&[Change::Witness(witness)]) {
            shared.failure.raise(&error);
        }
    }
    let closed = volumes.iter().map(|volume| volume.close()).chain([shared.meta.close()]);
    for error in closed.filter_map(Result::err) {
        tracing::warn!(error = &error as &dyn std::error::Error, "a file was not closed cleanly");
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("facts", &self.0.facts).finish_non_exhaustive()
    }
}

/// One group's log. A cheap clone. All that is said here of durability holds against kill -9 and power cuts.
#[derive(Clone)]
pub struct Log {
    pub(super) shared: Arc<Shared>,
    facts: Facts,
    pub(super) group: GroupId,
}

impl Log {
    /// Whose log it is.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Vote, committed, trimmed and last: with all that was asked for so far, durable or not.
    pub fn state(&self) -> LogState {
        let state = self.shared.state();
        state.visible.get(&self.group).map(|visible| visible.hard.state()).unwrap_or_default()
    }

    /// Waits until all that [`Log::state`] tells now is durable.
    ///
    /// # Errors
    /// The disk failed or the store is closed: some of it may not be.
    pub async fn synced(&self) -> Result<(), StoreError> {
        let group = self.group;
        let is_synced = {
            let state = self.shared.state();
            // What is committed is a hint.
            let hard = |hard: Option<&Hard>| Hard { committed: None, ..hard.cloned().unwrap_or_default() };
            let visible = hard(state.visible.get(&group).map(|visible| &visible.hard));
            !state.failed && visible == hard(state.durable.get(&group).map(|durable| &durable.hard))
        };
        if is_synced {
            return Ok(());
        }
        // It is answered once all that was queued before it is on the disk.
        let (reply, answer) = oneshot::channel();
        let done: OnSync = Box::new(move |synced| drop(reply.send(synced)));
        self.append(Vec::new(), done)?;
        answered(answer).await
    }

    /// Appends entries, which must follow the last one: they are readable when this returns, and `done` is called
    /// once they are synced, or once that is unknown for good; calls come in order. Never blocks, whatever its size:
    /// see [`Store::unsynced_bytes`].
    ///
    /// # Errors
    /// Not appended, and `done` is not called: the disk has failed or the store is closed, the entries do not follow,
    /// or a body is absent or another one's.
    pub fn append(&self, entries: Vec<Entry>, done: OnSync) -> Result<(), StoreError> {
        self.check(&entries)?;
        let (group, at) = (self.group, self.shared.env.now());
        self.shared.enqueue(move |state| {
            let bytes = state.append(group, &entries)?;
            Ok(Request::Append { group, entries, bytes, arrivals: state.arrivals(), at, done })
        })
    }

    fn check(&self, entries: &[Entry]) -> Result<(), StoreError> {
        for entry in entries {
            assert_eq!(entry.head.group, self.group, "an entry goes into its own group's log");
            let corrupt = match &entry.body {
                Body::Absent => Some(None),
                Body::Here(_) => entry.verify().err().map(Some),
            };
            if let Some(corrupt) = corrupt {
                return Err(StoreError::Body { group: self.group, index: entry.head.index, corrupt });
            }
        }
        Ok(())
    }

    /// Removes `from` and all entries behind it, in order with appends. Durable on return; they never come back.
    /// Dropping the future does not undo it.
    ///
    /// # Errors
    /// The disk failed or the store is closed.
    pub async fn truncate_suffix(&self, from: LogIndex) -> Result<(), StoreError> {
        let (group, (reply, answer)) = (self.group, oneshot::channel());
        self.shared.env.dawdle(Point::TruncateLate, TRUNCATE_LATE_MAX).await;
        if self.state().last.is_some_and(|last| last.index >= from) {
            self.shared.env.reached(Mark::SuffixTruncated);
        }
        self.shared.enqueue(|state| {
            state.truncate(group, from);
            Ok(Request::Truncate { group, from, reply })
        })?;
        answered(answer).await
    }

    /// Removes `through` and all entries before it; past the end, the log goes on behind it. Durable on return.
    ///
    /// # Errors
    /// [`StoreError::NoCheckpoint`]: the base does not reach so far. Else the disk failed or the store is closed.
    pub async fn trim_prefix(&self, through: LogId) -> Result<(), StoreError> {
        let (group, (reply, answer)) = (self.group, oneshot::channel());
        self.shared.enqueue(|state| {
            let base = state.checkpoints.get(&(group, CheckpointKind::Base));
            if base.is_none_or(|base| base.index < through.index) {
                return Err(StoreError::NoCheckpoint { group, index: through.index });
            }
            state.trim(group, through);
            Ok(Request::Trim { group, through, reply })
        })?;
        answered(answer).await?;
        self.shared.env.reached(Mark::LogTrimmed);
        Ok(())
    }

    /// Saves the vote. Durable on return.
    ///
    /// # Errors
    /// The disk failed or the store is closed: perhaps saved, so neither the old nor the new vote may be told.
    pub async fn save_vote(&self, vote: HardVote) -> Result<(), StoreError> {
        let (group, (reply, answer)) = (self.group, oneshot::channel());
        self.shared.env.dawdle(Point::VoteSavedLate, VOTE_LATE_MAX).await;
        self.shared.enqueue(|state| {
            state.visible.entry(group).or_default().hard.vote = Some(vote);
            Ok(Request::Vote { group, vote, reply })
        })?;
        answered(answer).await
    }

    /// Notes what is committed, a hint for the next start. It rides along with the next commit and causes none: what
    /// is queued after it is not durable before it.
    pub fn save_committed(&self, committed: Option<LogId>) {
        let mut state = self.shared.state();
        let hard = &mut state.visible.entry(self.group).or_default().hard;
        if hard.committed != committed {
            hard.committed = committed;
            // A start that had lost it for the first group would not know of deleted topics whose logs are gone
            // already, and would begin them anew, without the votes that it gave there.
            if self.group == GroupId::METADATA || !self.shared.env.perturb(Point::CommittedNotNoted) {
                state.committed.insert(self.group);
            }
        }
    }

    /// Heads of the part of a range that the log holds, from its start: at most `count_max`, and perhaps fewer, but
    /// at least one if there is one. Ready at once if all are in memory.
    ///
    /// # Errors
    /// The disk failed, or holds something else than what was written.
    pub async fn heads(&self, range: Range<LogIndex>, count_max: usize) -> Result<Vec<Head>, ReadError> {
        self.shared.heads(self.group, range, count_max).await
    }

    /// Entries with their bodies, of the part of a range that the log holds, from its start: as many as `bytes_max`
    /// allows, and perhaps fewer, but at least one if there is one. Ready at once if all are in memory.
    ///
    /// # Errors
    /// The disk failed, or holds something else than what was written.
    pub async fn entries(&self, range: Range<LogIndex>, bytes_max: u64) -> Result<Vec<Entry>, ReadError> {
        self.shared.entries(self.group, range, bytes_max).await
    }

    /// The bodies of these very entries, in their order. Ready at once if all are in memory.
    ///
    /// # Errors
    /// The log does not hold one of them any more; the disk failed, or holds something else than what was written.
    pub async fn bodies(&self, heads: &[Head]) -> Result<Vec<Bytes>, ReadError> {
        self.shared.bodies(self.group, heads).await
    }

    /// What is known to be lost of it.
    pub fn damage(&self) -> Damage {
        self.shared.state().damage.get(&self.group).cloned().unwrap_or_default()
    }

    /// Changes whenever [`Log::damage`] of any group does.
    pub fn damage_changed(&self) -> watch::Receiver<u64> {
        self.shared.damaged.subscribe()
    }

    /// For whoever could not read a range, and had marked `changed` as seen before: whether to try again, as something
    /// was found or mended since. Waits for that, at most for `wait`, if part of the range is known to be damaged.
    pub async fn may_be_mended(
        &self,
        range: &Range<LogIndex>,
        changed: &mut watch::Receiver<u64>,
        wait: Duration,
    ) -> bool {
        if changed.has_changed().unwrap_or(false) {
            return true;
        }
        if !self.damage().touches(range) {
            return false;
        }
        select(std::pin::pin!(changed.changed()), self.shared.env.sleep(wait)).await;
        true
    }

    /// The term of an entry that the log holds, whether or not that can be read.
    pub fn term_of(&self, index: LogIndex) -> Option<Term> {
        let state = self.shared.state();
        state.visible.get(&self.group).and_then(|visible| visible.hard.term_at(index))
    }

    /// Writes entries once more that could not be read, as another replica holds them: those of the log's own index and
    /// term are read from there from now on. The others are left out. In order with appends and truncations; durable on
    /// return. Entries are checked as by [`Log::append`].
    ///
    /// # Errors
    /// The disk failed or the store is closed; a body is absent, or another one's.
    pub async fn repair(&self, mut entries: Vec<Entry>) -> Result<(), StoreError> {
        self.check(&entries)?;
        let (group, (reply, answer)) = (self.group, oneshot::channel());
        self.shared.enqueue(move |state| {
            let held = state.visible.get(&group).map(|visible| &visible.hard);
            entries.retain(|entry| {
                held.is_some_and(|held| held.term_at(entry.head.index) == Some(entry.head.term))
            });
            let bytes = entries.iter().map(|entry| bytes_of(&entry.head)).sum();
            Ok(Request::Repair { group, entries, bytes, reply })
        })?;
        answered(answer).await
    }

    /// Notes that no other replica can read the body of an entry that is damaged here: whoever reads it is told so.
    pub fn note_gone(&self, index: LogIndex) {
        let news = {
            let mut state = self.shared.state();
            state.damage.get_mut(&self.group).is_some_and(|damage| damage.is_gone(index))
        };
        if news {
            tracing::error!(group = %self.group, %index, "body of an entry is lost: no replica can read it");
            self.shared.damaged.send_modify(|version| *version += 1);
        }
    }

    /// Notes what may be missing of it, or that nothing is any more. Durable on return.
    ///
    /// # Errors
    /// The disk failed or the store is closed: perhaps noted, or not.
    pub async fn set_lost(&self, lost: Lost) -> Result<(), StoreError> {
        self.facts.set_lost(self.group, lost).await?;
        {
            let mut state = self.shared.state();
            let damage = state.damage.entry(self.group).or_default();
            damage.lost = lost;
            if damage.is_none() {
                state.damage.remove(&self.group);
            }
        }
        self.shared.damaged.send_modify(|version| *version += 1);
        Ok(())
    }

    /// Notes that its base cannot be read: what was applied here cannot be had again without one of a peer.
    ///
    /// # Errors
    /// The disk failed or the store is closed.
    pub async fn lose_base(&self) -> Result<(), StoreError> {
        // Whoever gives up its log has lost the end of it too.
        self.set_lost(self.damage().lost.and(Lost { tail: true, vote: false })).await?;
        self.shared.state().damage.entry(self.group).or_default().base = true;
        Ok(())
    }

    /// Gives up all that it holds, and its checkpoints: it begins anew with what a peer has. Vote and what may be missing
    /// stay. Durable on return.
    ///
    /// # Errors
    /// The disk failed or the store is closed: perhaps given up, or not.
    pub async fn begin_anew(&self) -> Result<(), StoreError> {
        let (group, (reply, answer)) = (self.group, oneshot::channel());
        let (vote, lost) = (self.state().vote, self.damage().lost);
        if let Some(vote) = vote {
            // It may lie in a volume alone, whose word of the group ends here.
            self.save_vote(vote).await?;
        }
        self.shared.enqueue(|state| {
            state.remove(group);
            // Nobody may take it meanwhile for one that has not voted, or that misses nothing.
            state.visible.entry(group).or_default().hard.vote = vote;
            state.damage.entry(group).or_default().lost = lost;
            Ok(Request::Remove { group, keeps_vote: true, reply })
        })?;
        answered(answer).await?;
        self.shared.forget_checkpoints(group).await?;
        self.set_lost(lost).await?;
        match vote {
            Some(vote) => self.save_vote(vote).await,
            None => Ok(()),
        }
    }

    /// Heads of the newest entries, from `from` or later to the end: those that are in memory. Never reads the disk.
    pub fn recent_heads(&self, from: LogIndex) -> Vec<Head> {
        let state = self.shared.state();
        let Some(visible) = state.visible.get(&self.group) else { return Vec::new() };
        let end = visible.hard.range().end;
        visible.heads_in_memory(from.max(visible.memory_start())..end).collect()
    }

    /// The first entry that is in memory, with all behind it; the end of the log if none is.
    pub fn memory_start(&self) -> LogIndex {
        let state = self.shared.state();
        state.visible.get(&self.group).map_or(LogIndex(0), Visible::memory_start)
    }

    /// The first entry that the log holds of each term, ascending.
    pub fn term_starts(&self) -> Vec<LogId> {
        let state = self.shared.state();
        state.visible.get(&self.group).map(|visible| visible.hard.starts.clone()).unwrap_or_default()
    }

    /// The last entry that is durable; what was trimmed last if the disk holds none.
    pub fn last_durable(&self) -> Option<LogId> {
        self.shared.state().durable.get(&self.group).and_then(|durable| durable.hard.last)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Log({})", self.group)
    }
}

#[cfg(test)]
mod tests;
