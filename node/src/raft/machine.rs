//! openraft's state machine over [`Apply`].
//!
//! Nothing of it is persisted: a restart replays the heads from the start of the log, so it starts with nothing
//! applied. Checkpoints will change that.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use quorate_proto::ids::GroupId;
use tokio::sync::watch;

use super::snapshot::{NoSnapshots, SnapshotData};
use super::types::{Answer, Config, RaftLogId, entry_from_raft, log_id_from_raft};
use crate::env::{Env, Point};
use crate::storage::{Entry, LogId};

/// Answers held back until their entries are published: one wake of the readers for so many.
const ANSWERS_MAX: usize = 256;

/// How late a run of entries may be applied, where a [`Point`] makes it so.
const LATE_MAX: Duration = Duration::from_millis(100);

/// What a group's owner does with what was committed. Called in log order, for each index exactly once in the life of
/// the process: a restart begins at the start of the log.
pub trait Apply: Send + 'static {
    /// Takes an entry. `body` is `Absent` for a batch; blank and membership entries come too, as they take an index.
    /// Must be deterministic: all replicas must come to the same state and answer.
    fn apply(&mut self, entry: &Entry) -> Answer;

    /// After a run of entries, and before their answers go out: publish what readers wait for.
    fn applied(&mut self, last: LogId);
}

type StoredMembership = openraft::type_config::alias::StoredMembershipOf<Config>;

/// One group's state machine.
pub(super) struct Machine {
    env: Env,
    group: GroupId,
    /// Never locked: openraft wants its state machine to be `Sync`, and calls it by one task only.
    owner: Mutex<Box<dyn Apply>>,
    last: Option<RaftLogId>,
    membership: StoredMembership,
    /// The last entry applied, for those who wait for one of a leader's own term.
    applied: Arc<watch::Sender<Option<LogId>>>,
}

impl Machine {
    pub(super) fn new(
        env: Env,
        group: GroupId,
        owner: Box<dyn Apply>,
        applied: Arc<watch::Sender<Option<LogId>>>,
    ) -> Self {
        let owner = Mutex::new(owner);
        Self { env, group, owner, last: None, membership: StoredMembership::default(), applied }
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
}

impl RaftStateMachine<Config> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = NoSnapshots;

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
        self.env.metrics.stage_apply.observe(self.env.now().since(began));
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, _force: bool) -> Option<NoSnapshots> {
        Some(NoSnapshots)
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }

    async fn install_snapshot(
        &mut self,
        _meta: &openraft::type_config::alias::SnapshotMetaOf<Config>,
        _snapshot: SnapshotData,
    ) -> io::Result<()> {
        Err(NoSnapshots::error())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<openraft::type_config::alias::SmSnapshotOf<Config, Self>>> {
        Ok(None)
    }
}
