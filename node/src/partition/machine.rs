//! What Raft calls when entries are committed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::state::{Applied, State};
use super::watermark::Watermark;
use crate::env::{Env, Mark, Point};
use crate::raft::{Answer, Apply, BatchAnswer};
use crate::storage::{Entry, LogId};

/// The applied state, shared by Raft's task, the batcher and the readers. Locked for moments, never over an await.
#[derive(Clone, Debug, Default)]
pub(super) struct SharedState(Arc<Mutex<State>>);

impl SharedState {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state machine of a partition's group.
pub(super) struct Machine {
    pub(super) env: Env,
    pub(super) state: SharedState,
    pub(super) watermark: Watermark,
}

impl Apply for Machine {
    fn apply(&mut self, entry: &Entry) -> Answer {
        match self.state.lock().apply(&entry.head) {
            Applied::NoBatch => Answer::Nothing,
            Applied::Accepted { base_offset } => Answer::Batch(BatchAnswer::Accepted { base_offset }),
            Applied::Void => {
                self.env.reached(Mark::EntryVoid);
                Answer::Batch(BatchAnswer::Void)
            }
        }
    }

    fn applied(&mut self, _last: LogId) {
        let applied_bytes = self.state.lock().applied_bytes;
        if self.env.perturb(Point::FetchesNotWoken) {
            return;
        }
        self.watermark.advance(applied_bytes);
        if self.env.perturb(Point::FetchesWokenForNothing) {
            self.watermark.wake_all();
        }
    }
}
