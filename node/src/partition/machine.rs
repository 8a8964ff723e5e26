//! What Raft calls when entries are committed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::command::Command;
use super::state::{Applied, State};
use super::watermark::Watermark;
use crate::env::{Env, Mark, Point};
use crate::raft::{Answer, Apply, BatchAnswer};
use crate::storage::{Body, Entry, Kind, LogId};

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

impl Machine {
    fn command(&self, entry: &Entry) -> Answer {
        let Body::Here(body) = &entry.body else {
            unreachable!("a command comes with its body");
        };
        // This one was proposed by a later release, and whoever guessed what it does would differ from the rest.
        let command = Command::decode(body).unwrap_or_else(|error| {
            panic!("cannot apply entry {} of group {}: {error}", entry.head.index, entry.head.group)
        });
        let mut state = self.state.lock();
        let before = state.log_start;
        state.obey(&entry.head, command);
        if state.log_start > before {
            drop(state);
            self.env.reached(Mark::LogStartRaised);
            // What somebody waits for more of may be gone.
            self.watermark.wake_all();
        }
        Answer::Command(Bytes::new())
    }
}

impl Apply for Machine {
    fn apply(&mut self, entry: &Entry) -> Answer {
        if entry.head.kind == Kind::Command {
            return self.command(entry);
        }
        let mut state = self.state.lock();
        let forgotten = state.forgotten;
        let applied = state.apply(&entry.head);
        if state.forgotten > forgotten {
            self.env.reached(Mark::ProducerForgotten);
        }
        drop(state);
        match applied {
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

    fn save(&self) -> Bytes {
        self.state.lock().encode()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        let restored = State::decode(state).map_err(|error| error.to_string())?;
        *self.state.lock() = restored;
        // What they wait for may have been jumped over.
        self.watermark.wake_all();
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Apply> {
        Box::new(Self { env: self.env.clone(), state: SharedState::default(), watermark: Watermark::new(0) })
    }
}
