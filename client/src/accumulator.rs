//! Records on their way into batches: one queue per partition, one completion per batch.
//!
//! A record is encoded straight into the batch that is sent, under its partition's lock. Its [`Ack`] is a share in
//! the batch's completion and its number in the batch: no allocation, no channel and no wake-up of its own.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use quorate_proto::batch::BatchBuilder;
use quorate_proto::env::Moment;
use quorate_proto::ids::{Offset, PartitionId, Timestamp};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::error::{Reason, SendError};
use crate::record::{Record, RecordPlace};

/// Where a batch was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) base_offset: Offset,
    /// If the topic stamps records with it.
    pub(crate) log_append_time: Option<Timestamp>,
}

type Outcome = Result<Written, SendError>;

/// How a batch ended, once it has; shared by the acks of its records.
#[derive(Debug, Default)]
pub(crate) struct Completion {
    outcome: OnceLock<Outcome>,
    waiting: Mutex<Vec<Option<Waker>>>,
}

impl Completion {
    fn waiting(&self) -> MutexGuard<'_, Vec<Option<Waker>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complete(&self, outcome: Outcome) {
        if self.outcome.set(outcome).is_err() {
            return;
        }
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    /// `slot` is where this waiter's waker lies between polls.
    fn poll(&self, cx: &Context<'_>, slot: &mut Option<usize>) -> Poll<&Outcome> {
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome);
        }
        let mut waiting = self.waiting();
        // The outcome is set before the wakers are taken: whoever sees none under the lock will be woken.
        if let Some(outcome) = self.outcome.get() {
            return Poll::Ready(outcome);
        }
        let at = *slot.get_or_insert_with(|| {
            waiting.push(None);
            waiting.len() - 1
        });
        if !waiting[at].as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            waiting[at] = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Ready once the batch has ended.
    pub(crate) async fn ended(&self) {
        let mut slot = None;
        std::future::poll_fn(|cx| self.poll(cx, &mut slot).map(|_outcome| ())).await;
    }
}

/// The answer to one record: a future. `Ok` means that the record lies on the disks of a majority. Dropping it
/// changes nothing for the record.
pub struct Ack {
    completion: Arc<Completion>,
    /// Within the batch.
    index: u32,
    partition: PartitionId,
    timestamp: Timestamp,
    slot: Option<usize>,
}

impl Ack {
    /// The partition that the record was put into.
    pub fn partition(&self) -> PartitionId {
        self.partition
    }
}

impl Future for Ack {
    type Output = Result<RecordPlace, SendError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        this.completion.poll(cx, &mut this.slot).map(|outcome| match outcome {
            Ok(written) => Ok(RecordPlace {
                partition: this.partition,
                offset: written.base_offset.plus(this.index),
                timestamp: written.log_append_time.unwrap_or(this.timestamp),
            }),
            Err(error) => Err(error.clone()),
        })
    }
}

impl fmt::Debug for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ack").field("partition", &self.partition).finish_non_exhaustive()
    }
}

/// Ends a batch, exactly once; one that is dropped ends as closed.
#[derive(Debug)]
pub(crate) struct Completer {
    completion: Arc<Completion>,
    /// Whether an attempt ended without a known outcome.
    pub(crate) perhaps_written: bool,
    /// Whether an attempt is under way.
    pub(crate) under_way: bool,
}

impl Completer {
    fn new(completion: Arc<Completion>) -> Self {
        Self { completion, perhaps_written: false, under_way: false }
    }

    /// Whether the batch may be in the log.
    pub(crate) fn is_at_risk(&self) -> bool {
        self.perhaps_written || self.under_way
    }

    pub(crate) fn written(self, written: Written) {
        self.completion.complete(Ok(written));
    }

    /// Ends the batch as surely not or as perhaps written, whichever is true.
    pub(crate) fn failed(self, reason: Reason) {
        self.completion.complete(Err(self.error(reason)));
    }

    fn error(&self, reason: Reason) -> SendError {
        if self.is_at_risk() {
            SendError::PerhapsWritten { reason }
        } else {
            SendError::NotWritten { reason }
        }
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        self.completion.complete(Err(self.error(Reason::Closed)));
    }
}

/// A batch with records in it.
pub(crate) struct Filled {
    pub(crate) builder: BatchBuilder,
    pub(crate) completer: Completer,
    /// When its first record came: linger and delivery time-out count from here.
    pub(crate) opened_at: Moment,
    /// Its share of the producer's memory, given back when it ends.
    pub(crate) room: OwnedSemaphorePermit,
}

/// What became of a record that was offered to a queue.
pub(crate) enum Pushed {
    /// It is in a batch.
    Taken(Ack),
    /// There is no open batch, and to open one takes room.
    NoBatch,
    /// The queue takes nothing more.
    Closed(Reason),
}

#[derive(Default)]
struct State {
    /// Full or flushed, oldest first.
    sealed: VecDeque<Filled>,
    open: Option<Filled>,
    /// Batches that may not have ended, oldest first; for flush.
    unfinished: VecDeque<Arc<Completion>>,
    closed: Option<Reason>,
}

/// The batches of one partition that are not in flight yet.
pub(crate) struct Queue {
    pub(crate) partition: PartitionId,
    /// A batch is full at this many bytes.
    batch_bytes_max: AtomicUsize,
    state: Mutex<State>,
    /// Told when a batch is opened, sealed, or the queue is closed.
    pub(crate) changed: Notify,
}

/// A record that takes more than this is not waited for.
const NEARLY_FULL: usize = 64;

impl Queue {
    pub(crate) fn new(partition: PartitionId, batch_bytes_max: usize) -> Self {
        let batch_bytes_max = AtomicUsize::new(batch_bytes_max);
        Self { partition, batch_bytes_max, state: Mutex::default(), changed: Notify::new() }
    }

    /// Batches are full at so many bytes from here on; one that is larger already is sealed at the next record.
    pub(crate) fn limit_batches(&self, bytes_max: usize) {
        self.batch_bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a record of at most `bytes` into the open batch; if it has no room left, the batch is sealed. With
    /// `room`, which is then taken, it opens a batch where there is none.
    pub(crate) fn push(
        &self,
        record: &Record,
        timestamp: Timestamp,
        bytes: usize,
        room: &mut Option<OwnedSemaphorePermit>,
        now: impl FnOnce() -> Moment,
    ) -> Pushed {
        let batch_bytes_max = self.batch_bytes_max.load(Ordering::Relaxed);
        let mut state = self.state();
        let state = &mut *state;
        if let Some(reason) = &state.closed {
            return Pushed::Closed(reason.clone());
        }
        if let Some(full) = state.open.take_if(|open| open.builder.bytes() + bytes > batch_bytes_max) {
            state.sealed.push_back(full);
            self.changed.notify_one();
        }
        let opens = state.open.is_none();
        if opens {
            let Some(room) = room.take() else { return Pushed::NoBatch };
            let completion = Arc::new(Completion::default());
            while state.unfinished.front().is_some_and(|oldest| oldest.outcome.get().is_some()) {
                state.unfinished.pop_front();
            }
            state.unfinished.push_back(Arc::clone(&completion));
            state.open = Some(Filled {
                builder: BatchBuilder::new(room.num_permits().min(batch_bytes_max)),
                completer: Completer::new(completion),
                opened_at: now(),
                room,
            });
        }
        let open = state.open.as_mut().expect("it was just opened if it was not open");
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let index = open.builder.push(timestamp, key, value, &record.headers);
        let ack = Ack {
            completion: Arc::clone(&open.completer.completion),
            index,
            partition: self.partition,
            timestamp,
            slot: None,
        };
        let full = open.builder.bytes() + NEARLY_FULL > batch_bytes_max;
        if full {
            state.sealed.extend(state.open.take());
        }
        if opens || full {
            self.changed.notify_one();
        }
        Pushed::Taken(ack)
    }

    /// The oldest batch that is full, or whose time to wait for more records is over.
    pub(crate) fn take(&self, now: Moment, linger: Duration) -> Option<Filled> {
        let mut state = self.state();
        let sealed = state.sealed.pop_front();
        sealed.or_else(|| state.open.take_if(|open| now >= open.opened_at + linger))
    }

    /// Fails what came before `oldest` as surely not written: it was never sent.
    pub(crate) fn expire(&self, oldest: Moment, reason: impl Fn() -> Reason) {
        let mut expired = Vec::new();
        let mut state = self.state();
        while state.sealed.front().is_some_and(|batch| batch.opened_at <= oldest) {
            expired.extend(state.sealed.pop_front());
        }
        expired.extend(state.open.take_if(|open| open.opened_at <= oldest));
        drop(state);
        for batch in expired {
            batch.completer.failed(reason());
        }
    }

    /// Why the queue takes nothing more, if that is so.
    pub(crate) fn closed(&self) -> Option<Reason> {
        self.state().closed.clone()
    }

    /// Whether a batch has not ended yet.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.state().unfinished.iter().any(|batch| batch.outcome.get().is_none())
    }

    /// Whether a batch is full or flushed.
    pub(crate) fn has_sealed(&self) -> bool {
        !self.state().sealed.is_empty()
    }

    /// When the oldest batch was opened.
    pub(crate) fn oldest(&self) -> Option<Moment> {
        let state = self.state();
        state.sealed.front().or(state.open.as_ref()).map(|batch| batch.opened_at)
    }

    /// Seals the open batch, and returns what has not ended yet.
    pub(crate) fn flush(&self) -> Vec<Arc<Completion>> {
        let mut state = self.state();
        let open = state.open.take();
        state.sealed.extend(open);
        self.changed.notify_one();
        state.unfinished.iter().filter(|batch| batch.outcome.get().is_none()).cloned().collect()
    }

    /// Takes nothing more; what was never sent fails with `reason`.
    pub(crate) fn close(&self, reason: &Reason) {
        let mut state = self.state();
        state.closed.get_or_insert_with(|| reason.clone());
        let open = state.open.take();
        state.sealed.extend(open);
        let rest = std::mem::take(&mut state.sealed);
        drop(state);
        for batch in rest {
            batch.completer.failed(reason.clone());
        }
        self.changed.notify_one();
    }
}
