//! Conflicts that heartbeats meet, handed to openraft in the order of the appends.
//!
//! A member whose log is shorter than its leader knows is found out by its answer to a heartbeat, where nothing is
//! written. But heartbeats travel beside the appends: an answer that comes late may speak of a log that has caught up
//! since, and openraft would take that for another loss, which nobody has allowed. So the session of appends tells it,
//! behind all that the member has acknowledged, and only if nothing was on its way in that session since before the
//! heartbeat went out: nothing has changed meanwhile then. Otherwise the appends meet the conflict themselves, or the
//! next heartbeat does.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::raft::types::RaftLogId;

/// Shared by a group's heartbeats to one member and its appends to it.
#[derive(Debug, Default)]
pub(super) struct Conflicts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// The session of appends, while nothing is on its way in it and all answers are handed out.
    idle: Option<u64>,
    /// How often that has changed.
    changes: u64,
    /// What the member's log does not hold, while that session is idle.
    met: Option<RaftLogId>,
    /// Of who polls that session.
    waker: Option<Waker>,
}

impl State {
    fn set_idle(&mut self, idle: Option<u64>) {
        self.idle = idle;
        self.changes += 1;
        self.met = None;
    }
}

impl Conflicts {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be asked before a heartbeat goes out: a mark of this time, if its answer may count.
    pub(super) fn mark(&self) -> Option<u64> {
        let state = self.lock();
        state.idle.map(|_| state.changes)
    }

    /// What the member holds may change, or has: an append goes out, or a base has come there. What earlier heartbeats say
    /// does not count.
    pub(super) fn outdate(&self) {
        self.lock().set_idle(None);
    }

    /// The member's log does not hold this, by its answer to a heartbeat that went out after this mark.
    pub(super) fn meet(&self, mark: Option<u64>, at: RaftLogId) {
        let waker = {
            let mut state = self.lock();
            if state.idle.is_none() || mark != Some(state.changes) {
                return;
            }
            state.met = Some(at);
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whoever polls a session says that it is idle. Ready once the member is known not to hold something: the session is
    /// over then.
    pub(super) fn poll_met(&self, session: u64, cx: &mut Context<'_>) -> Poll<RaftLogId> {
        let mut state = self.lock();
        if state.idle != Some(session) {
            state.set_idle(Some(session));
        }
        if let Some(at) = state.met.take() {
            state.set_idle(None);
            return Poll::Ready(at);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
