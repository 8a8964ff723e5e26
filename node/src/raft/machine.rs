//! openraft's state machine over [`Apply`].
//!
//! What is applied lies in memory. A start goes on from the group's newest checkpoint that counts and replays the heads
//! behind it; a base that came from the leader takes the place of all of it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use quorate_proto::ids::GroupId;
use tokio::sync::{mpsc, watch};

use super::base::{Base, Builder, RaftSnapshot, Saved, SnapshotData, StoredMembership};
use super::types::{Answer, Config, RaftLogId, entry_from_raft, log_id_from_raft};
use crate::env::{Env, Mark, Point};
use crate::storage::{Entry, LogId};

/// Answers held back until their entries are published: one wake of the readers for so many.
const ANSWERS_MAX: usize = 256;

/// How late a run of entries may be applied, where a [`Point`] makes it so.
const LATE_MAX: Duration = Duration::from_millis(100);

/// What a group's owner does with what was committed. Called in log order, for each index exactly once in the life of
/// the process, but for what a checkpoint stands for: then what comes behind it follows [`Apply::restore`].
pub trait Apply: Send + 'static {
    /// Takes an entry. `body` is `Absent` for a batch; blank and membership entries come too, as they take an index.
    /// Must be deterministic: all replicas must come to the same state and answer.
    fn apply(&mut self, entry: &Entry) -> Answer;

    /// After a run of entries, and before their answers go out; and after [`Apply::restore`]: publish what readers wait
    /// for.
    fn applied(&mut self, last: LogId);

    /// All that was made of the entries so far: whoever restores it goes on as if it had applied them itself. The same
    /// bytes on all replicas.
    fn save(&self) -> Bytes;

    /// Takes the place of all that was applied here with what [`Apply::save`] gave, here or on another replica.
    ///
    /// # Errors
    /// A sentence, if it is nothing of the kind; then nothing has changed.
    fn restore(&mut self, state: &[u8]) -> Result<(), String>;

    /// Another owner of the same kind that has applied nothing, and whose doings nobody sees: the log is replayed into
    /// it for a checkpoint as of an earlier entry.
    fn fresh(&self) -> Box<dyn Apply>;
}

/// One group's state machine.
pub(super) struct Machine {
    env: Env,
    group: GroupId,
    /// Never locked: openraft wants its state machine to be `Sync`, and calls it by one task only.
    owner: Mutex<Box<dyn Apply>>,
    last: Option<RaftLogId>,
    membership: StoredMembership,
    base: Arc<Base>,
    /// The last entry applied, for those who wait for one of a leader's own term.
    applied: Arc<watch::Sender<Option<LogId>>>,
    /// To whoever saves recent checkpoints, one at a time.
    checkpoints: mpsc::Sender<(LogId, SnapshotData)>,
    /// Entries applied since the last one, and how many make the next.
    since_checkpoint: u64,
    checkpoint_entries: u64,
}

/// What a [`Machine`] is made of.
pub(super) struct Parts {
    pub(super) env: Env,
    pub(super) group: GroupId,
    /// Restored to `resumed`, if there is any.
    pub(super) owner: Box<dyn Apply>,
    /// The last entry that `owner` has applied, and the members as of it.
    pub(super) resumed: Option<(RaftLogId, StoredMembership)>,
    pub(super) base: Arc<Base>,
    pub(super) applied: Arc<watch::Sender<Option<LogId>>>,
    pub(super) checkpoints: mpsc::Sender<(LogId, SnapshotData)>,
    pub(super) checkpoint_entries: u64,
}

impl Machine {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { env, group, owner, resumed, base, applied, checkpoints, checkpoint_entries } = parts;
        let (last, membership) =
            resumed.map_or_else(Default::default, |(last, members)| (Some(last), members));
        let owner = Mutex::new(owner);
        Self {
            env,
            group,
            owner,
            last,
            membership,
            base,
            applied,
            checkpoints,
            since_checkpoint: 0,
            checkpoint_entries,
        }
    }

    fn owner(&mut self) -> &mut dyn Apply {
        self.owner.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut()
    }

    fn publish(&mut self, last: LogId, answers: &mut Vec<(ApplyResponder<Config>, Answer)>) {
        self.owner().applied(last);
        self.applied.send_replace(Some(last));
        for (responder, answer) in answers.drain(..) {
            responder.send(answer);
        }
    }

    /// What is applied now, as a checkpoint, if there is anything.
    fn checkpoint(&mut self) -> Option<(LogId, SnapshotData)> {
        let at = self.last.as_ref().map(log_id_from_raft)?;
        let membership = self.membership.clone();
        let saved = Saved { membership, state: self.owner().save() };
        self.since_checkpoint = 0;
        Some((at, saved.encode()))
    }

    /// The same, if enough was applied since the last one that a start without it would take its time.
    pub(super) fn parting_checkpoint(&mut self) -> Option<(LogId, SnapshotData)> {
        if self.since_checkpoint > self.checkpoint_entries / 8 { self.checkpoint() } else { None }
    }

    /// Hands a checkpoint over to be saved, if one is due and the last one is saved.
    fn checkpoint_if_due(&mut self) {
        let due = self.since_checkpoint >= self.checkpoint_entries
            || (self.since_checkpoint > 0 && self.env.perturb(Point::CheckpointEarly));
        if !due || self.checkpoints.capacity() == 0 {
            return;
        }
        if let Some(checkpoint) = self.checkpoint() {
            // It only makes a start shorter: without anybody to save it there is none.
            drop(self.checkpoints.try_send(checkpoint));
        }
    }
}

impl RaftStateMachine<Config> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<RaftLogId>, StoredMembership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Config>>> + Unpin + OptionalSend,
    {
        let began = self.env.now();
        self.env.dawdle(Point::ApplyLate, LATE_MAX).await;
        let mut answers = Vec::new();
        let mut unpublished = None;
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let id = entry.log_id;
            if let EntryPayload::Membership(membership) = &entry.payload {
                self.membership = StoredMembership::new(Some(id), membership.clone());
            }
            let answer = {
                let entry = entry_from_raft(self.group, entry);
                self.owner().apply(&entry)
            };
            self.last = Some(id);
            self.since_checkpoint += 1;
            let id = log_id_from_raft(&id);
            unpublished = Some(id);
            if let Some(responder) = responder {
                answers.push((responder, answer));
                if answers.len() >= ANSWERS_MAX {
                    self.publish(id, &mut answers);
                    unpublished = None;
                }
            }
        }
        if let Some(last) = unpublished {
            self.publish(last, &mut answers);
        }
        self.checkpoint_if_due();
        self.env.metrics.stage_apply.observe(self.env.now().since(began));
        Ok(())
    }

    /// The base is made before openraft is asked to take a snapshot: there is nothing to put off, and without one nothing
    /// was trimmed.
    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        (force || self.base.at().is_some()).then(|| Builder(self.base.clone()))
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder(self.base.clone())
    }

    async fn install_snapshot(
        &mut self,
        meta: &openraft::type_config::alias::SnapshotMetaOf<Config>,
        snapshot: SnapshotData,
    ) -> io::Result<()> {
        let last = meta.last_log_id.ok_or_else(|| io::Error::other("a base of no entry"))?;
        let at = log_id_from_raft(&last);
        let saved = Saved::decode(&snapshot).map_err(io::Error::other)?;
        // Durable before anybody sees it; the log is trimmed to it by openraft's next step, or the next start.
        self.base.install(at, snapshot).await?;
        self.owner().restore(&saved.state).map_err(io::Error::other)?;
        if self.last.is_some() {
            self.env.reached(Mark::BaseInstalledOverState);
        }
        self.env.reached(Mark::BaseInstalled);
        tracing::info!(group = %self.group, index = %at.index, "base of the leader was installed");
        self.last = Some(last);
        self.membership = saved.membership;
        self.since_checkpoint = 0;
        self.publish(at, &mut Vec::new());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        self.base.snapshot_to_send().await
    }
}
