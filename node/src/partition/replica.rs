//! A partition's replica on this node: what produce, fetch and lookups ask.

use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, select};
use quorate_proto::batch::{BatchHeader, Records, patch_base_offset, patch_leader_epoch};
use quorate_proto::env::Moment;
use quorate_proto::ids::{LeaderEpoch, LogIndex, NodeId, Offset, PartitionId, Term, Timestamp, TopicName};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{Instrument, info_span};

use super::batcher::{Admitted, Batcher, heard};
use super::config::PartitionConfig;
use super::dedup::LeaderFirsts;
use super::door::{self, Progress, Room};
use super::index::STRIDE;
use super::keeping::Looked;
use super::lag;
use super::machine::{Machine, SharedState};
use super::outgoing::{AnswerHold, AnswerRoom, Looker};
use super::state::State;
use super::types::{
    DeleteError, EpochEnd, Fetch, FetchError, Fetched, OffsetAt, OffsetFound, ProduceError, Produced,
};
use super::watermark::Watermark;
use crate::env::metrics::{Lag, TopicMeters};
use crate::env::{Env, Mark, Point, Task};
use crate::metadata::{Leadership, TopicConfig};
use crate::raft::{Group, GroupError, Member, RaftNode, Role};
use crate::storage::{Head, Kind, ReadError, Store};

/// How late a fetch may be answered, and how short a produce may be cut, where a [`Point`] does so.
const LATE_MAX: Duration = Duration::from_millis(200);
const CUT_SHORT: Duration = Duration::from_millis(2);

/// What is damaged on this node's disk is waited for so long before a reader is told of it: a peer has it.
const MENDED_WITHIN: Duration = Duration::from_secs(3);

/// What every replica of a node works with.
#[derive(Clone)]
pub(super) struct Surroundings {
    pub(super) env: Env,
    pub(super) raft: RaftNode,
    pub(super) store: Store,
    pub(super) config: Arc<PartitionConfig>,
    pub(super) me: NodeId,
}

/// One replica of one partition. Cheap to clone; works until it is stopped by the manager.
#[derive(Clone)]
pub struct Replica {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) around: Surroundings,
    /// The topic's settings as they are now.
    topic: watch::Sender<TopicConfig>,
    pub(super) group: Group,
    pub(super) state: SharedState,
    /// What the last look at what is kept has left.
    pub(super) looked: Mutex<Looked>,
    watermark: Watermark,
    room: Room,
    firsts: Arc<Mutex<LeaderFirsts>>,
    meters: Arc<TopicMeters>,
    /// `None` once the replica is stopped.
    queue: Mutex<Option<mpsc::Sender<Admitted>>>,
}

/// Where a replica belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) topic: TopicName,
    pub(super) partition: PartitionId,
    pub(super) group: quorate_proto::ids::GroupId,
    pub(super) config: TopicConfig,
    pub(super) members: Vec<Member>,
    /// The nodes that have its group, or may.
    pub(super) others: Vec<NodeId>,
}

impl Replica {
    /// Starts the group and the batcher of a replica.
    pub(super) async fn start(around: Surroundings, place: Place) -> Result<(Self, Task), GroupError> {
        let state = SharedState::default();
        let watermark = Watermark::new(around.config.fetch_waiters_max);
        let machine = Machine { env: around.env.clone(), state: state.clone(), watermark: watermark.clone() };
        let Place { group, members, others, .. } = place;
        let group = around.raft.start_group_beside(group, members, others, Box::new(machine)).await?;
        let (queue, admitted) = mpsc::channel(around.config.queue_batches_max);
        let firsts = Arc::default();
        let meters = around.env.metrics.topic(&place.topic, around.config.metered_topics_max);
        let batcher = Batcher {
            env: around.env.clone(),
            raft: around.raft.clone(),
            group: group.clone(),
            state: state.clone(),
            watermark: watermark.clone(),
            firsts: Arc::clone(&firsts),
            in_flight_max: around.config.in_flight_batches_max,
            meters: Arc::clone(&meters),
        };
        let span =
            info_span!("replica", node = %around.me, topic = %place.topic, partition = %place.partition);
        let (raft, batching) = (around.raft.clone(), batcher.run(admitted).instrument(span));
        let task = around.env.spawn("batcher", async move { raft.vital("batcher", batching).await });
        let room = Room::new(around.config.queue_bytes_max);
        let queue = Mutex::new(Some(queue));
        let topic = watch::Sender::new(place.config);
        let looked = Mutex::default();
        let shared = Shared { around, topic, group, state, looked, watermark, room, firsts, meters, queue };
        Ok((Self { shared: Arc::new(shared) }, task))
    }

    /// From now on the topic has these settings: the next batch is judged by them, what is in flight stays as it is.
    /// Whether they are others than before.
    pub(super) fn configure(&self, config: TopicConfig) -> bool {
        let changed = self.shared.topic.send_if_modified(|now| std::mem::replace(now, config) != config);
        if changed {
            self.shared.around.env.reached(Mark::SettingsFollowed);
        }
        changed
    }

    /// The topic's settings as this node knows them. They may change at any time: to be asked for anew each time.
    pub fn topic_config(&self) -> TopicConfig {
        *self.shared.topic.borrow()
    }

    /// Takes no more batches and wakes who waits; the batcher ends once what is in flight has its answer.
    pub(super) fn close(&self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.shared.watermark.close();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Writes a batch. It is admitted in this call: batches get their offsets in the order of the calls. The future
    /// is ready once the batch lies on the disks of a majority and is applied here, or at `deadline` at the latest.
    /// Dropping it abandons the answer, not the work.
    ///
    /// # Errors
    /// [`ProduceError::Unknown`]: perhaps written. All others: surely not written.
    pub fn produce(
        &self,
        epoch: Option<LeaderEpoch>,
        batch: Bytes,
        deadline: Moment,
    ) -> BoxFuture<'static, Result<Produced, ProduceError>> {
        let progress = Progress::default();
        let done = match self.admit(epoch, batch, progress.clone()) {
            Ok(done) => done,
            Err(error) => return std::future::ready(Err(error)).boxed(),
        };
        let around = &self.shared.around;
        let longest = Duration::from_millis(around.config.produce_timeout_ms_max);
        let longest = if around.env.perturb(Point::ProduceCutShort) { CUT_SHORT } else { longest };
        let late = around.env.clock.sleep_until(deadline.min(around.env.now() + longest));
        let env = around.env.clone();
        async move {
            match select(done, late).await {
                Either::Left((Ok(answer), _)) => answer,
                // The batcher ended before it took the batch, or with the batch in its hands: nobody can say.
                Either::Left((Err(_), _)) if progress.abandon() => Err(ProduceError::Stopping),
                Either::Left((Err(_), _)) => Err(ProduceError::Unknown),
                Either::Right(((), mut done)) => match done.try_recv() {
                    Ok(answer) => answer,
                    Err(_) if progress.abandon() => {
                        env.reached(Mark::ProduceNotProposedInTime);
                        Err(ProduceError::NotAvailable("it was not proposed in time"))
                    }
                    Err(_) => {
                        env.reached(Mark::ProducePastItsDeadline);
                        Err(ProduceError::Unknown)
                    }
                },
            }
        }
        .boxed()
    }

    fn admit(
        &self,
        epoch: Option<LeaderEpoch>,
        batch: Bytes,
        progress: Progress,
    ) -> Result<oneshot::Receiver<Result<Produced, ProduceError>>, ProduceError> {
        let shared = &*self.shared;
        self.asked_to_lead(epoch, Mark::ProduceBeforeTheFirstOwnEntry).map_err(Unled::produce)?;
        let topic = self.topic_config();
        let header = door::check(&shared.around.config, topic, shared.around.env.wall(), &batch)?;
        let claim = door::claim_of(&header);
        let overloaded = |what| {
            let now = shared.around.env.now();
            shared.firsts.lock().unwrap_or_else(PoisonError::into_inner).refused(claim, now);
            ProduceError::Overloaded(what)
        };
        let slow = shared.around.store.unsynced_bytes() > shared.around.config.unsynced_bytes_max;
        if slow {
            shared.around.env.reached(Mark::DiskDoesNotKeepUp);
        }
        if slow || shared.around.env.perturb(Point::ProduceOverloaded) {
            return Err(overloaded("the disk does not keep up"));
        }
        let room = shared.room.take(batch.len());
        let room = room.ok_or_else(|| overloaded("the partition has too many bytes in flight"))?;
        let queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let slot =
            queue.as_ref().ok_or(ProduceError::Stopping)?.try_reserve().map_err(|error| match error {
                TrySendError::Full(()) => overloaded("the partition's queue is full"),
                TrySendError::Closed(()) => ProduceError::Stopping,
            })?;
        let (reply, done) = oneshot::channel();
        let at = shared.around.env.now();
        let timestamp_type = topic.timestamp_type;
        slot.send(Admitted { header, timestamp_type, claim, batch, progress, at, reply, room });
        Ok(done)
    }

    /// Reads whole batches from the one that holds the offset. Waits until there are `bytes_min` below the high
    /// watermark, or no room for more, or the time is up. Safe to drop.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch(&self, request: Fetch) -> Result<Fetched, FetchError> {
        Ok(self.fetch_within(request, None).await?.0)
    }

    /// [`Replica::fetch`] for a reader with bounded room: waits for room once it is known what is to be read, and
    /// never while it waits for records. The answer has its room until what is returned with it is dropped.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch_within(
        &self,
        request: Fetch,
        room: Option<&AnswerRoom>,
    ) -> Result<(Fetched, Option<AnswerHold>), FetchError> {
        let shared = &*self.shared;
        let config = &shared.around.config;
        let env = &shared.around.env;
        let wait = request.wait.min(Duration::from_millis(config.fetch_wait_ms_max));
        let wait = if env.perturb(Point::FetchCutShort) { Duration::ZERO } else { wait };
        let deadline = env.now() + wait;
        let mut bytes_max = u64::from(request.bytes_max.min(config.fetch_bytes_max));
        if env.perturb(Point::FetchOfOneBatch) {
            bytes_max = 1;
        }
        if env.perturb(Point::FetchOverloaded) {
            return Err(FetchError::Overloaded);
        }
        let mut bytes_min = u64::from(request.bytes_min).min(bytes_max);
        let mut hold = None;
        let mut waited = false;
        let mut confirmed = false;
        loop {
            let term = match waited {
                false => self.asked_to_lead(request.epoch, Mark::FetchBeforeTheFirstOwnEntry),
                true => self.leading(request.epoch).inspect_err(|_| {
                    env.reached(Mark::FetchWaitingWhenTheLeaderChanged);
                }),
            };
            let term = term.map_err(Unled::fetch)?;
            let ahead = request.offset > shared.state.lock().next_offset;
            if ahead && !confirmed {
                // Somebody leads by now, perhaps, and this one has not heard of it: then the offset is there.
                self.confirm(request.epoch).await?;
                confirmed = true;
                continue;
            }
            let (range, high_watermark, log_start, applied_bytes) = {
                let state = shared.state.lock();
                self.still_leads(term, &state).map_err(Unled::fetch)?;
                let (start, end) = (state.log_start, state.next_offset);
                if request.offset < start {
                    env.reached(if waited {
                        Mark::TrimmedUnderAReader
                    } else {
                        Mark::ReaderBelowTheLogStart
                    });
                }
                if request.offset < start || request.offset > end {
                    return Err(FetchError::OffsetOutOfRange {
                        offset: request.offset,
                        log_start: start,
                        high_watermark: end,
                    });
                }
                let from = state.index.at_offset(request.offset).filter(|_| request.offset < end);
                let range = from.map(|from| from..state.next_index);
                (range, end, start, state.applied_bytes)
            };
            let (heads, full) = match range {
                Some(range) => {
                    let mut looker = Looker::begin(room).await;
                    let heads = self.heads(range, request.offset, bytes_max, &mut looker).await;
                    let (heads, full) = self.unless_trimmed(term, request.offset, heads)?;
                    if heads.first().is_some_and(|first| first.base_offset > request.offset) {
                        return Err(self.trimmed_as_a_follower());
                    }
                    (heads, full)
                }
                None => (Vec::new(), false),
            };
            let found: u64 = heads.iter().map(|head| u64::from(head.body_bytes)).sum();
            let late = env.now() >= deadline;
            if full || found >= bytes_min || late {
                if let (Some(room), None) = (room, &hold) {
                    hold = room.try_take(found);
                    if hold.is_none() {
                        // Of many small batches the heads alone are as large: they are looked up again.
                        drop(heads);
                        hold = Some(room.take(found).await);
                        (bytes_max, bytes_min) = (found, bytes_min.min(found));
                        continue;
                    }
                }
                env.dawdle(Point::FetchAnsweredLate, LATE_MAX).await;
                let batches = self.unless_trimmed(term, request.offset, self.read(&heads).await)?;
                shared.meters.fetches.add(1);
                shared.meters.fetch_records.add(heads.iter().map(|head| u64::from(head.records)).sum());
                shared.meters.fetch_bytes.add_count(batches.len());
                return Ok((Fetched { batches, high_watermark, log_start, epoch: term.epoch() }, hold));
            }
            // It may wait long, and then looks again.
            drop(heads);
            let more = applied_bytes + (bytes_min - found);
            let mut waiting = shared.watermark.wait(more).map_err(|_| FetchError::Overloaded)?;
            // Leadership may have gone before the wait began: then nobody wakes it.
            self.leading(request.epoch).map_err(Unled::fetch)?;
            let woken = std::pin::pin!(waiting.woken());
            select(woken, env.clock.sleep_until(deadline)).await;
            waited = true;
        }
    }

    /// Waits until a majority has confirmed that all that was committed before is applied here; one of a bounded
    /// number who do.
    pub(super) async fn confirm(&self, epoch: Option<LeaderEpoch>) -> Result<(), FetchError> {
        let shared = &*self.shared;
        let _place = shared.watermark.place().map_err(|_| FetchError::Overloaded)?;
        let longest = Duration::from_millis(shared.around.config.read_barrier_timeout_ms);
        if shared.group.read_barrier(longest).await.is_err() {
            self.leading(epoch).map_err(Unled::fetch)?;
            return Err(FetchError::NotAvailable);
        }
        Ok(())
    }

    /// What was read for `offset` in `term`, unless the log start has passed that meanwhile: the log is trimmed only after
    /// that is seen here, so nothing else is missing from it.
    pub(super) fn unless_trimmed<T>(
        &self,
        term: Term,
        offset: Offset,
        read: Result<T, FetchError>,
    ) -> Result<T, FetchError> {
        let (log_start, high_watermark) = {
            let state = self.shared.state.lock();
            if offset >= state.log_start {
                return read;
            }
            // Perhaps another leader's entry has raised it: then the range is for that one to tell.
            self.still_leads(term, &state).map_err(Unled::fetch)?;
            (state.log_start, state.next_offset)
        };
        self.shared.around.env.reached(Mark::TrimmedUnderAReader);
        Err(FetchError::OffsetOutOfRange { offset, log_start, high_watermark })
    }

    /// A leader trims only what lies before the log start that it has applied. One that led until a moment ago may trim,
    /// or take up a base, before it has applied as much: what it was reading for somebody is not whole any more.
    fn trimmed_as_a_follower(&self) -> FetchError {
        self.shared.around.env.reached(Mark::TrimmedUnderAReader);
        FetchError::NotLeader { leader: self.leadership() }
    }

    fn is_trimmed(&self, index: LogIndex) -> bool {
        self.shared.group.log().state().purged.is_some_and(|purged| index <= purged.index)
    }

    /// Why something applied could not be read. The log of a replica that is stopped may be removed at any moment:
    /// then nothing is damaged. What other replicas hold comes from there, here or at the next leader.
    fn unread(&self, reason: &ReadError, range: &Range<LogIndex>) -> FetchError {
        let damage = self.shared.group.log().damage();
        match reason {
            ReadError::Failed(_) => FetchError::Stopping,
            _ if self.is_closed() => FetchError::Stopping,
            ReadError::Missing { index, .. } if self.is_trimmed(*index) => self.trimmed_as_a_follower(),
            // It went while it was read, and nothing is known of it any more: what is still there is read the next time.
            _ if self.is_trimmed(range.start) => FetchError::NotAvailable,
            _ if damage.touches(range) && !damage.is_gone_in(range) => FetchError::NotAvailable,
            // No file could be opened, perhaps: nothing is lost by that.
            ReadError::Disk(_) if !reason.is_damage() => FetchError::NotAvailable,
            ReadError::Missing { .. } | ReadError::Corrupt(_) | ReadError::Disk(_) => {
                FetchError::Damaged(reason.to_string())
            }
        }
    }

    /// The heads of the batches in `range`, from the one that holds `offset`, and whether `bytes_max` ended them.
    pub(super) async fn heads(
        &self,
        range: Range<LogIndex>,
        offset: Offset,
        bytes_max: u64,
        looker: &mut Looker<'_>,
    ) -> Result<(Vec<Head>, bool), FetchError> {
        let mut found: Vec<Head> = Vec::new();
        let mut bytes = 0;
        let mut from = range.start;
        while from < range.end {
            let (heads, next) = if found.is_empty() {
                self.log_heads_for(from..range.end, looker).await?
            } else {
                // What was found is answered first, and is not held while something behind it is mended.
                let Some(read) = self.log_heads_at_once(from..range.end).await else {
                    return Ok((found, true));
                };
                read
            };
            from = next;
            let state = self.shared.state.lock();
            for head in heads {
                if head.kind != Kind::Batch || state.is_void(head.index) || ends(&head) <= offset {
                    continue;
                }
                bytes += u64::from(head.body_bytes);
                if bytes > bytes_max && !found.is_empty() {
                    return Ok((found, true));
                }
                found.push(head);
                if bytes >= bytes_max {
                    return Ok((found, true));
                }
            }
        }
        Ok((found, false))
    }

    /// Some of the heads in a range that is applied, at least one; and where the rest begins.
    pub(super) async fn log_heads(
        &self,
        range: Range<LogIndex>,
    ) -> Result<(Vec<Head>, LogIndex), FetchError> {
        self.log_heads_for(range, &mut Looker::begin(None).await).await
    }

    /// [`Replica::log_heads`], unless that takes waiting for what is damaged, or fails.
    async fn log_heads_at_once(&self, range: Range<LogIndex>) -> Option<(Vec<Head>, LogIndex)> {
        let stride = usize::try_from(STRIDE).unwrap_or(usize::MAX);
        let heads = self.shared.group.log().heads(range, stride).await.ok()?;
        let next = heads.last()?.index.next();
        Some((heads, next))
    }

    /// [`Replica::log_heads`] for somebody who has a turn to look, and has none while something is mended.
    async fn log_heads_for(
        &self,
        range: Range<LogIndex>,
        looker: &mut Looker<'_>,
    ) -> Result<(Vec<Head>, LogIndex), FetchError> {
        let stride = usize::try_from(STRIDE).unwrap_or(usize::MAX);
        let (log, from) = (self.shared.group.log(), range.start);
        let env = &self.shared.around.env;
        let (until, mut changed) = (env.now() + MENDED_WITHIN, log.damage_changed());
        let heads = loop {
            changed.borrow_and_update();
            // The log may begin amid the run that was looked up: what cannot be read is the first one that it holds.
            let held = log.state().purged.map_or(from, |purged| from.max(purged.index.next()));
            let first = held..held.next();
            let error = match log.heads(range.clone(), stride).await {
                Ok(heads) => break heads,
                Err(error) => error,
            };
            let left = until.since(env.now());
            let gone = log.damage().is_gone_in(&first);
            if gone || left.is_zero() || !looker.wait(log.may_be_mended(&first, &mut changed, left)).await {
                return Err(self.unread(&error, &first));
            }
        };
        match heads.last().map(|last| last.index.next()) {
            Some(next) => Ok((heads, next)),
            None => {
                let missing = ReadError::Missing { group: log.group(), index: from };
                Err(self.unread(&missing, &(from..from.next())))
            }
        }
    }

    /// The bodies of `heads`, one after the other, each with its base offset and leader epoch; those before the first one
    /// that is damaged, and at least the first.
    pub(super) async fn read(&self, heads: &[Head]) -> Result<Bytes, FetchError> {
        if heads.is_empty() {
            return Ok(Bytes::new());
        }
        let (log, env) = (self.shared.group.log(), &self.shared.around.env);
        let (until, mut changed) = (env.now() + MENDED_WITHIN, log.damage_changed());
        let (heads, bodies) = loop {
            changed.borrow_and_update();
            // What is known to be damaged ends what is read before it.
            let damage = log.damage();
            let whole = heads.iter().position(|head| damage.holds(head.index)).unwrap_or(heads.len());
            let heads = &heads[..whole.max(1)];
            let error = match log.bodies(heads).await {
                Ok(bodies) => break (heads, bodies),
                Err(error) => error,
            };
            let first = heads[0].index..heads[0].index.next();
            let gone = log.damage().is_gone_in(&first);
            let left = until.since(env.now());
            if gone || left.is_zero() || !log.may_be_mended(&first, &mut changed, left).await {
                return Err(self.unread(&error, &first));
            }
        };
        let mut batches = BytesMut::with_capacity(bodies.iter().map(Bytes::len).sum());
        for (head, body) in heads.iter().zip(&bodies) {
            let start = batches.len();
            batches.extend_from_slice(body);
            patch_base_offset(&mut batches[start..], head.base_offset);
            patch_leader_epoch(&mut batches[start..], head.term.epoch());
        }
        Ok(batches.freeze())
    }

    /// Looks an offset up. Safe to drop.
    ///
    /// # Errors
    /// See [`FetchError`]; [`FetchError::NotAvailable`] for [`OffsetAt::Latest`], which asks a majority.
    pub async fn list_offset(
        &self,
        epoch: Option<LeaderEpoch>,
        at: OffsetAt,
    ) -> Result<OffsetFound, FetchError> {
        let term = self.asked_to_lead(epoch, Mark::LookupBeforeTheFirstOwnEntry).map_err(Unled::fetch)?;
        let applied = || {
            let state = self.shared.state.lock();
            self.still_leads(term, &state).map_err(Unled::fetch)?;
            Ok((state.log_start, state.next_offset))
        };
        let (offset, timestamp) = match at {
            OffsetAt::Earliest => (Some(applied()?.0), None),
            OffsetAt::Latest => {
                self.confirm(epoch).await?;
                (Some(applied()?.1), None)
            }
            OffsetAt::Timestamp(at) => {
                let found = self.at_time(at).await?;
                applied()?;
                found.unzip()
            }
        };
        Ok(OffsetFound { offset, timestamp, epoch: term.epoch() })
    }

    /// The first record whose timestamp is at or after `at`: decodes one batch, or a few whose headers claim a later
    /// time than their records have.
    async fn at_time(&self, at: Timestamp) -> Result<Option<(Offset, Timestamp)>, FetchError> {
        loop {
            let (log_start, end) = {
                let state = self.shared.state.lock();
                (state.log_start, state.next_index)
            };
            let found = self.at_time_before(end, log_start, at).await;
            // Otherwise something was perhaps trimmed while it was looked for.
            if self.log_start() == log_start {
                return found;
            }
            self.shared.around.env.reached(Mark::TrimmedUnderAReader);
        }
    }

    /// [`Replica::at_time`] before an entry, of what lies at the log start or behind it.
    async fn at_time_before(
        &self,
        end: LogIndex,
        log_start: Offset,
        at: Timestamp,
    ) -> Result<Option<(Offset, Timestamp)>, FetchError> {
        let mut from = LogIndex(0);
        loop {
            // Runs in which nothing is so late are passed over.
            let first = self.shared.state.lock().index.at_time(at, from);
            let Some(first) = first.filter(|first| *first < end) else { return Ok(None) };
            let (heads, next) = self.log_heads(first..end).await?;
            from = next;
            let late_enough = |head: &Head| {
                head.kind == Kind::Batch
                    && head.max_timestamp >= at
                    && ends(head) > log_start
                    && !self.shared.state.lock().is_void(head.index)
            };
            for head in heads.into_iter().filter(late_enough) {
                let batch = self.read(&[head]).await?;
                let decompressed_bytes_max = self.shared.around.config.decompressed_bytes_max;
                let found = first_at(&batch, at, log_start, decompressed_bytes_max);
                if let Some(found) = found.map_err(FetchError::Damaged)? {
                    return Ok(Some(found));
                }
            }
        }
    }

    /// Where a leader epoch ended: what a reader compares its own log with (KIP-101).
    ///
    /// # Errors
    /// See [`FetchError`].
    pub fn epoch_end(
        &self,
        current: Option<LeaderEpoch>,
        epoch: LeaderEpoch,
    ) -> Result<EpochEnd, FetchError> {
        let term = self.leading(current).map_err(Unled::fetch)?;
        let state = self.shared.state.lock();
        self.still_leads(term, &state).map_err(Unled::fetch)?;
        Ok(EpochEnd { found: state.epoch_end(epoch), epoch: term.epoch() })
    }

    /// Exclusive end of what may be read, as applied on this node.
    pub fn high_watermark(&self) -> Offset {
        self.shared.state.lock().next_offset
    }

    /// What is applied here, for a test to be ahead of the group's role.
    #[cfg(test)]
    pub(super) fn state(&self) -> SharedState {
        self.shared.state.clone()
    }

    /// Hashes all that the applied state says of the partition, and gives the index behind the last entry applied:
    /// replicas that applied the same entries hash alike.
    pub fn hash_state(&self, into: &mut impl Hasher) -> LogIndex {
        let state = self.shared.state.lock();
        state.hash(into);
        state.next_index
    }

    /// The index behind the last entry applied here.
    pub fn next_index(&self) -> LogIndex {
        self.shared.state.lock().next_index
    }

    /// First offset that can be read.
    pub fn log_start(&self) -> Offset {
        self.shared.state.lock().log_start
    }

    /// How far the other replicas are behind, if this node leads; those that lack nothing are absent.
    pub(super) fn lags(&self) -> Vec<(NodeId, Lag)> {
        let shared = &*self.shared;
        let matched = match self.role() {
            Role::Leader { ready: true, .. } => shared.group.matched(),
            Role::Leader { ready: false, .. } | Role::Follower { .. } => return Vec::new(),
        };
        let matched = matched.into_iter().map(|(node, last)| (node, last.map(|last| last.index)));
        let wall = shared.around.env.wall();
        lag::of(matched, &shared.state.lock(), wall, |from| shared.group.log().recent_heads(from))
    }

    /// Whether this node leads the partition.
    pub fn role(&self) -> Role {
        self.shared.group.role()
    }

    /// The newest leadership heard of.
    pub fn leadership(&self) -> Option<Leadership> {
        heard(&self.shared.around.raft, &self.shared.group)
    }

    /// [`Replica::leading`], for a request that has just come; `early` is told if it came before this node, which
    /// leads, may answer.
    fn asked_to_lead(&self, epoch: Option<LeaderEpoch>, early: Mark) -> Result<Term, Unled> {
        let env = &self.shared.around.env;
        if env.perturb(Point::NotLeading) {
            return Err(Unled::NotLeader { leader: self.leadership() });
        }
        self.leading(epoch).inspect_err(|unled| match unled {
            Unled::NotLeader { .. } if matches!(self.role(), Role::Leader { ready: false, .. }) => {
                env.reached(early);
            }
            Unled::Fenced { .. } => env.reached(Mark::OldEpochFenced),
            Unled::NotLeader { .. } | Unled::UnknownEpoch { .. } | Unled::Stopping => {}
        })
    }

    /// The term this node leads in, if it may answer a request that names `epoch`: an entry of the term is applied,
    /// so nothing older is missing (KIP-207), and the epochs agree.
    pub(super) fn leading(&self, epoch: Option<LeaderEpoch>) -> Result<Term, Unled> {
        if self.is_closed() {
            return Err(Unled::Stopping);
        }
        let Role::Leader { term, ready: true } = self.role() else {
            return Err(Unled::NotLeader { leader: self.leadership() });
        };
        let current = term.epoch();
        match epoch {
            Some(asked) if asked < current => {
                Err(Unled::Fenced { asked, current, leader: self.leadership() })
            }
            Some(asked) if asked > current => Err(Unled::UnknownEpoch { asked, current }),
            Some(_) | None => Ok(term),
        }
    }

    /// Refuses what is answered in `term` if a newer one has entries in `state`: then another leads, and this node
    /// has applied what it wrote before it noticed that it was deposed.
    fn still_leads(&self, term: Term, state: &State) -> Result<(), Unled> {
        if state.epochs.newest().is_some_and(|newest| newest > term) {
            return Err(Unled::NotLeader { leader: self.leadership().filter(|heard| heard.term > term) });
        }
        Ok(())
    }
}

/// Why this node does not answer as the leader.
pub(super) enum Unled {
    NotLeader { leader: Option<Leadership> },
    Fenced { asked: LeaderEpoch, current: LeaderEpoch, leader: Option<Leadership> },
    UnknownEpoch { asked: LeaderEpoch, current: LeaderEpoch },
    Stopping,
}

impl Unled {
    pub(super) fn delete(self) -> DeleteError {
        DeleteError::from(self.fetch())
    }

    fn produce(self) -> ProduceError {
        match self {
            Self::NotLeader { leader } => ProduceError::NotLeader { leader },
            Self::Fenced { asked, current, leader } => ProduceError::Fenced { asked, current, leader },
            Self::UnknownEpoch { asked, current } => ProduceError::UnknownEpoch { asked, current },
            Self::Stopping => ProduceError::Stopping,
        }
    }

    fn fetch(self) -> FetchError {
        match self {
            Self::NotLeader { leader } => FetchError::NotLeader { leader },
            Self::Fenced { asked, current, leader } => FetchError::Fenced { asked, current, leader },
            Self::UnknownEpoch { asked, current } => FetchError::UnknownEpoch { asked, current },
            Self::Stopping => FetchError::Stopping,
        }
    }
}

/// The offset after a batch.
pub(super) fn ends(head: &Head) -> Offset {
    head.base_offset.plus(head.records)
}

/// The first record of a batch at or after a time, and not before the log start.
fn first_at(
    batch: &Bytes,
    at: Timestamp,
    log_start: Offset,
    decompressed_bytes_max: usize,
) -> Result<Option<(Offset, Timestamp)>, String> {
    let header = BatchHeader::parse(batch).map_err(|error| error.to_string())?;
    let records = Records::new(&header, batch, decompressed_bytes_max).map_err(|error| error.to_string())?;
    for place in records.places() {
        let (offset, timestamp) = place.map_err(|error| error.to_string())?;
        if timestamp >= at && offset >= log_start {
            return Ok(Some((offset, timestamp)));
        }
    }
    Ok(None)
}
