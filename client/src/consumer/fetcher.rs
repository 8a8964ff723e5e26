//! Fetches one partition ahead of its reader, and finds its leader again when that changes.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use quorate_proto::ErrorCode;
use quorate_proto::batch::{BatchError, BatchHeader, split};
use quorate_proto::call::{Call, CallError, Reply};
use quorate_proto::env::{Env, Mark, Moment, Point};
use quorate_proto::ids::{LeaderEpoch, Offset, PartitionId, TopicId, TopicName};
use quorate_proto::v1;
use tokio::sync::Notify;
use tracing::debug;

use super::{ConsumerConfig, Key, Reset};
use crate::error::ConsumeError;
use crate::leaders::{LeaderAt, Leaders, LookupError, refusal};
use crate::retry::Backoff;

/// Answers of one partition that may lie unread, so that one partition does not use up the bound of all.
const UNREAD_MAX: usize = 2;
/// Smallest fetch, however many partitions share the bound.
const FETCH_BYTES_MIN: usize = 64 * 1024;
/// A partition that is silent for so long, or an answer that is late by so much, makes us look whether another node
/// leads by now: one that was cut off does not know it.
const SILENT: Duration = Duration::from_secs(3);
const SLOW: Duration = Duration::from_millis(500);
/// How long a fetcher rests that has no place to wait at a server, at most: places get free meanwhile.
const PLACELESS: Duration = Duration::from_millis(500);
/// How long it rests, at most, after a server said sooner than it was asked to that there is nothing.
const HASTY: Duration = Duration::from_millis(50);
/// How soon a fetch is given up, where a [`Point`] does so.
const IMPATIENCE: Duration = Duration::from_millis(2);
/// A topic that all servers deny for so long is gone.
pub(super) const MISSING: Duration = Duration::from_secs(2);

/// Batches of one fetch.
pub(super) struct Chunk {
    /// The position that was asked for; after a reset it lies elsewhere than the last answer ended.
    pub(super) from: Offset,
    pub(super) batches: VecDeque<(BatchHeader, Bytes)>,
    bytes: usize,
    progress: Arc<Progress>,
}

/// What a fetcher has for the reader.
pub(super) struct Fetched {
    pub(super) key: Key,
    pub(super) fetcher: u64,
    /// After an error the fetcher has ended.
    pub(super) result: Result<Chunk, ConsumeError>,
}

/// What a fetcher tells in passing.
pub(super) struct Progress {
    high_watermark: AtomicU64,
    /// Answers that were not read to their end.
    unread: AtomicUsize,
    /// Told when one was.
    read: Notify,
}

/// No high watermark yet: above every offset.
const UNKNOWN: u64 = u64::MAX;

impl Default for Progress {
    fn default() -> Self {
        Self { high_watermark: AtomicU64::new(UNKNOWN), unread: AtomicUsize::new(0), read: Notify::new() }
    }
}

impl Progress {
    pub(super) fn high_watermark(&self) -> Option<Offset> {
        let known = self.high_watermark.load(Ordering::Relaxed);
        (known != UNKNOWN).then_some(Offset(known))
    }
}

#[derive(Default)]
struct State {
    fetched: VecDeque<Fetched>,
    /// Fetched and not read to the end.
    bytes: usize,
    reader: Option<Waker>,
}

/// What was fetched and is not read yet, of all partitions of a consumer.
pub(super) struct Buffer {
    bytes_max: usize,
    state: Mutex<State>,
    /// Told when it is not full any more.
    roomy: Notify,
}

impl Buffer {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, state: Mutex::default(), roomy: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Fetched> {
        let mut state = self.state();
        match state.fetched.pop_front() {
            Some(fetched) => Poll::Ready(fetched),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn push(&self, fetched: Fetched) {
        let mut state = self.state();
        if let Ok(chunk) = &fetched.result {
            state.bytes += chunk.bytes;
            chunk.progress.unread.fetch_add(1, Ordering::Relaxed);
        }
        state.fetched.push_back(fetched);
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// What is fetched and not read to its end.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.state().bytes
    }

    /// A chunk was read to its end, or is not wanted.
    pub(super) fn release(&self, chunk: &Chunk) {
        let (before, after) = {
            let mut state = self.state();
            let before = state.bytes;
            state.bytes -= chunk.bytes;
            (before, state.bytes)
        };
        chunk.progress.unread.fetch_sub(1, Ordering::Relaxed);
        chunk.progress.read.notify_one();
        // All who wait are woken: once a time that it was full, and not at each answer that is read.
        if before >= self.bytes_max && after < self.bytes_max {
            self.roomy.notify_waiters();
        }
    }

    /// Drops what a fetcher has left.
    pub(super) fn forget(&self, fetcher: u64) {
        let gone: Vec<Fetched> = {
            let mut state = self.state();
            let all = std::mem::take(&mut state.fetched);
            let (gone, kept): (Vec<_>, _) = all.into_iter().partition(|fetched| fetched.fetcher == fetcher);
            state.fetched = kept.into();
            gone
        };
        for fetched in gone {
            if let Ok(chunk) = &fetched.result {
                self.release(chunk);
            }
        }
    }

    /// Waits until a partition may fetch more.
    async fn room(&self, progress: &Progress, unread_max: usize) {
        loop {
            let mut roomy = pin!(self.roomy.notified());
            roomy.as_mut().enable();
            let full = self.state().bytes >= self.bytes_max;
            if full {
                roomy.await;
            } else if progress.unread.load(Ordering::Relaxed) < unread_max {
                return;
            } else {
                // A word that came before we wait is kept for us.
                progress.read.notified().await;
            }
        }
    }
}

/// Fetches one partition from `position` on, until an error that a retry does not mend.
pub(super) struct Fetcher {
    pub(super) env: Env,
    pub(super) leaders: Arc<Leaders>,
    pub(super) config: ConsumerConfig,
    pub(super) buffer: Arc<Buffer>,
    pub(super) sharers: Arc<AtomicUsize>,
    pub(super) progress: Arc<Progress>,
    pub(super) key: Key,
    pub(super) id: TopicId,
    /// Tells this fetcher from earlier ones of the same partition.
    pub(super) number: u64,
    /// Next to be fetched.
    pub(super) position: Offset,
}

/// Whether an answer comes from an older leader than one that we have read from. Servers that do not say (-1) have
/// compared the epoch that we sent with their own.
fn is_older(answered: i32, epoch: LeaderEpoch) -> bool {
    (0..epoch.0).contains(&answered)
}

/// Whether a server answered that there is nothing to read yet.
fn found_nothing(answer: &Result<Reply, CallError>) -> bool {
    matches!(answer, Ok(Reply::Fetch(found)) if found.error() == ErrorCode::None && found.batches.is_empty())
}

/// What to do after an answer.
enum Next {
    /// Fetch on.
    On,
    /// Look who leads, and try again.
    LookUp(String),
    /// Try again a little later.
    Pause(String),
    /// No retry mends it.
    End(ConsumeError),
}

impl Fetcher {
    fn topic(&self) -> &TopicName {
        &self.key.0
    }

    fn partition(&self) -> PartitionId {
        self.key.1
    }

    pub(super) async fn run(mut self) {
        let config = self.leaders.config();
        let mut backoff = Backoff::new(config.backoff_min, config.backoff_max);
        // The newest epoch in which anything was read. Older leaders are not asked and not believed.
        let mut epoch = LeaderEpoch(-1);
        let mut missing_since: Option<Moment> = None;
        let mut heard_at = self.env.now();
        let mut _look = None;
        loop {
            let before = self.position;
            let unread_max = if self.env.perturb(Point::PrefetchShrunk) { 1 } else { UNREAD_MAX };
            self.buffer.room(&self.progress, unread_max).await;
            let leader = self.leaders.leader(self.topic(), self.id, self.partition());
            let leader = leader.filter(|leader| leader.epoch >= epoch);
            let leader = leader.filter(|_| !self.env.perturb(Point::ConsumerForgetsTheLeader));
            let asked = leader.as_ref().map(|leader| (leader.node, leader.epoch));
            let next = match leader {
                None => Next::LookUp("it has no leader".to_owned()),
                Some(leader) => {
                    let answer = self.fetch(&leader).await;
                    self.judge(answer, &mut epoch)
                }
            };
            let now = self.env.now();
            let reason = match next {
                Next::On => {
                    backoff.reset();
                    missing_since = None;
                    if self.position != before {
                        heard_at = now;
                    } else if now.since(heard_at) >= SILENT || self.env.perturb(Point::ConsumerLooksElsewhere)
                    {
                        heard_at = now;
                        let (leaders, topic) = (Arc::clone(&self.leaders), self.topic().clone());
                        // Beside the fetches, for a server that hangs must not hold up what comes. One look-up is of
                        // all topics, and so for all partitions that are silent; our own last one is older than half.
                        _look = Some(self.env.spawn("consumer look-up", async move {
                            let look = leaders.refresh_older_than(&topic, SILENT / 2);
                            let _seen_in_the_cache = look.await.is_ok();
                        }));
                    }
                    continue;
                }
                Next::End(error) => return self.push(Err(error)),
                Next::Pause(reason) => {
                    self.env.sleep(backoff.pause(&self.env)).await;
                    reason
                }
                Next::LookUp(reason) => {
                    let leader = self.leaders.leader(self.topic(), self.id, self.partition());
                    let known = leader.map(|leader| (leader.node, leader.epoch));
                    if known.is_some_and(|(_, newer)| newer >= epoch) && known != asked {
                        // Somebody said in passing who leads now.
                        continue;
                    }
                    if asked.is_some() || missing_since.is_some() || known.is_some() {
                        self.env.sleep(backoff.pause(&self.env)).await;
                    }
                    let gone = match self.leaders.refresh(self.topic()).await {
                        Ok(view) if view.id != self.id => true,
                        Ok(_view) => {
                            missing_since = None;
                            false
                        }
                        Err(LookupError::UnknownTopic) => {
                            now.since(*missing_since.get_or_insert(now)) >= MISSING
                        }
                        // Somebody could not say: that takes nothing back. One such answer among those of all servers
                        // would else keep us asking for ever.
                        Err(LookupError::NotNow(_)) => false,
                        Err(_later) => {
                            missing_since = None;
                            false
                        }
                    };
                    if gone {
                        self.env.reached(Mark::ConsumerFoundTheTopicGone);
                        let topic = self.topic().clone();
                        return self.push(Err(ConsumeError::TopicDeleted { topic }));
                    }
                    let leader = self.leaders.leader(self.topic(), self.id, self.partition());
                    let found = leader.map(|leader| (leader.node, leader.epoch));
                    if found == asked || found.is_none_or(|(_, newest)| newest < epoch) {
                        // Perhaps the server that we asked does not know better.
                        self.leaders.ask_elsewhere();
                        if found.is_none() {
                            self.env.sleep(backoff.pause(&self.env)).await;
                        }
                    }
                    reason
                }
            };
            debug!(topic = %self.topic(), partition = %self.partition(), reason, "a fetch was tried again");
        }
    }

    fn push(&self, result: Result<Chunk, ConsumeError>) {
        self.buffer.push(Fetched { key: self.key.clone(), fetcher: self.number, result });
    }

    async fn fetch(&self, leader: &LeaderAt) -> Result<Reply, CallError> {
        let share = self.buffer.bytes_max / self.sharers.load(Ordering::Relaxed).max(1);
        let bytes_max = self.config.fetch_bytes_max.min(share.max(FETCH_BYTES_MIN));
        let bytes_max = if self.env.perturb(Point::FetchTiny) { 1 } else { bytes_max };
        // Beyond what may wait at a server, fetches ask for what is there, and it is we who wait before the next one.
        let place = leader.waits.try_acquire().ok();
        let wait = if place.is_some() { self.config.fetch_wait } else { Duration::ZERO };
        let request = v1::FetchRequest {
            correlation: 0,
            topic_id: self.id.to_wire(),
            partition: self.partition().0,
            leader_epoch: leader.epoch.0,
            offset: self.position.to_wire(),
            bytes_max: u32::try_from(bytes_max).unwrap_or(u32::MAX),
            bytes_min: 1,
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
        };
        let timeout = self.config.fetch_wait + self.leaders.config().request_timeout;
        let address = leader.channel.address().to_owned();
        let lost = |reason: String| Err(CallError::Lost { address: address.clone(), reason });
        let mut answer = leader.channel.call(Call::Fetch(request));
        let given_up = self.env.perturb(Point::FetchGivenUp);
        let asked_at = self.env.now();
        let deadline = asked_at + if given_up { IMPATIENCE } else { timeout };
        let mut slow = if given_up { IMPATIENCE } else { self.config.fetch_wait + SLOW };
        loop {
            match select(answer, self.env.sleep(slow)).await {
                Either::Left((answer, _)) => {
                    if found_nothing(&answer) {
                        let rest = match place {
                            None => self.config.fetch_wait.min(PLACELESS),
                            Some(_) => (asked_at + wait).since(self.env.now()).min(HASTY),
                        };
                        if !rest.is_zero() {
                            self.env.sleep(rest).await;
                        }
                    }
                    return answer;
                }
                Either::Right(((), unanswered)) => answer = unanswered,
            }
            if self.env.now() >= deadline {
                return lost(format!("no answer within {} ms", timeout.as_millis()));
            }
            slow = SLOW;
            // One look-up is for all fetches that are slow; our own last one is older than half of it.
            let _seen_there = self.leaders.refresh_older_than(self.topic(), SLOW / 2).await.is_ok();
            let now = self.leaders.leader(self.topic(), self.id, self.partition());
            if now.is_some_and(|now| now.epoch > leader.epoch) {
                self.env.reached(Mark::FetchAtAnOldLeaderAbandoned);
                return lost("another node leads by now".to_owned());
            }
        }
    }

    fn judge(&mut self, answer: Result<Reply, CallError>, epoch: &mut LeaderEpoch) -> Next {
        let response = match answer {
            Ok(Reply::Fetch(response)) => response,
            Ok(_) => return Next::LookUp("a server answered another question".to_owned()),
            Err(error) => return Next::LookUp(error.to_string()),
        };
        let code = response.error();
        let message = refusal(code, &response.message);
        match code {
            ErrorCode::None => {}
            ErrorCode::NotLeader | ErrorCode::FencedLeaderEpoch => {
                let (leader, newer) = (response.leader, response.leader_epoch);
                self.leaders.hint(self.topic(), self.id, self.partition(), leader, newer);
                return Next::LookUp(message);
            }
            ErrorCode::Overloaded => return Next::Pause(message),
            ErrorCode::OffsetOutOfRange => {
                if is_older(response.leader_epoch, *epoch) {
                    return Next::LookUp("a server answered for an older epoch".to_owned());
                }
                return self.out_of_range(&response);
            }
            // It has not heard of the epoch that we know: it lags behind, or was cut off.
            ErrorCode::UnknownLeaderEpoch
            | ErrorCode::UnknownOutcome
            | ErrorCode::NotAvailable
            | ErrorCode::NotReady
            | ErrorCode::DiskFull
            | ErrorCode::UnknownTopic
            | ErrorCode::UnknownTopicId
            | ErrorCode::UnknownPartition => return Next::LookUp(message),
            ErrorCode::OutOfOrderSequence
            | ErrorCode::TopicExists
            | ErrorCode::InvalidTopicName
            | ErrorCode::InvalidPartitions
            | ErrorCode::InvalidReplicas
            | ErrorCode::InvalidConfig
            | ErrorCode::InvalidRequest
            | ErrorCode::CorruptBatch
            | ErrorCode::BatchTooLarge
            | ErrorCode::InvalidTimestamp
            | ErrorCode::DuplicateSequence
            | ErrorCode::InvalidProducerEpoch
            | ErrorCode::CorruptData
            | ErrorCode::Internal
            | ErrorCode::UnsupportedCompression
            | ErrorCode::WrongIdentity => {
                let (topic, partition) = self.key.clone();
                return Next::End(ConsumeError::Refused { topic, partition, code, message });
            }
        }
        if is_older(response.leader_epoch, *epoch) {
            return Next::LookUp("a server answered for an older epoch".to_owned());
        }
        *epoch = LeaderEpoch(response.leader_epoch).max(*epoch);
        if let Ok(high_watermark) = u64::try_from(response.high_watermark) {
            self.progress.high_watermark.store(high_watermark, Ordering::Relaxed);
        }
        match self.take(response.batches) {
            Ok(next) => next,
            Err(source) => {
                let ((topic, partition), offset) = (self.key.clone(), self.position);
                Next::End(ConsumeError::Corrupt { topic, partition, offset, source })
            }
        }
    }

    /// Takes over the batches of an answer.
    fn take(&mut self, bytes: Bytes) -> Result<Next, BatchError> {
        if bytes.is_empty() {
            return Ok(Next::On);
        }
        let (from, length) = (self.position, bytes.len());
        let mut batches = VecDeque::new();
        for batch in split(bytes) {
            let (header, batch) = match batch {
                Ok(batch) => batch,
                // What comes before the damage is handed out; the next fetch begins with it.
                Err(_) if !batches.is_empty() => break,
                Err(error) => return Err(error),
            };
            if header.next_offset() <= self.position {
                continue;
            }
            self.position = header.next_offset();
            batches.push_back((header, batch));
        }
        if batches.is_empty() {
            return Ok(Next::Pause("an answer held only what was read already".to_owned()));
        }
        let progress = Arc::clone(&self.progress);
        self.push(Ok(Chunk { from, batches, bytes: length, progress }));
        Ok(Next::On)
    }

    fn out_of_range(&mut self, response: &v1::FetchResponse) -> Next {
        let offset = |wire: i64| Offset(u64::try_from(wire).unwrap_or(0));
        let (log_start, high_watermark) =
            (offset(response.log_start_offset), offset(response.high_watermark));
        let to = match self.config.reset {
            Reset::Beginning => log_start,
            Reset::End => high_watermark,
            Reset::Fail => {
                let ((topic, partition), offset) = (self.key.clone(), self.position);
                let error =
                    ConsumeError::OffsetOutOfRange { topic, partition, offset, log_start, high_watermark };
                return Next::End(error);
            }
        };
        debug!(topic = %self.topic(), partition = %self.partition(), from = %self.position, %to, "reset");
        self.position = to;
        Next::Pause("the position was out of range".to_owned())
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        // Whoever waits for records of this partition would wait for ever.
        if std::thread::panicking() {
            let (topic, partition) = self.key.clone();
            let message = "the task that fetches it broke down".to_owned();
            let code = ErrorCode::Internal;
            self.push(Err(ConsumeError::Refused { topic, partition, code, message }));
        }
    }
}
