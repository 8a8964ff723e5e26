//! The producer: what callers see of it. [`worker`] does the sending, one task per partition.

mod worker;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use quorate_proto::batch::{BatchBuilder, Compression, HEADER_BYTES};
use quorate_proto::env::{Env, Mark, Moment, Task};
use quorate_proto::ids::{PartitionId, ProducerEpoch, ProducerId, TopicId, TopicName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::accumulator::{Ack, Pushed, Queue};
use crate::client::{TIME_MAX, TIME_MIN};
use crate::error::{Reason, SendError, SizeLimit};
use crate::leaders::{FOLLOW, JUST_NOW, Leaders, LookupError, TopicView};
use crate::partitioner;
use crate::record::Record;
use crate::retry::Backoff;

/// Knobs of a producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerConfig {
    /// How long a batch waits for more records, at most a day. Zero: it goes out as soon as one of the places in flight
    /// is free.
    pub linger: Duration,
    /// A batch is full at this many bytes, before compression. A larger record gets a batch of its own.
    /// The default lies just below 65,000 bytes, which the servers' storage packs best; the most is what a request has
    /// room for, nearly 64 MiB.
    pub batch_bytes_max: usize,
    /// Largest record, encoded, before compression. `None`: what the topic takes, which its servers say. A larger one
    /// fails as [`Reason::TooLarge`] without being sent. Kafka's `max.request.size`, except that it need not be raised
    /// along with a topic's `max.message.bytes`.
    pub record_bytes_max: Option<usize>,
    /// What all records that are not answered yet may take; so it bounds a record's size too. A batch counts as
    /// `batch_bytes_max` from its first record on. When it is used up, [`Producer::send`] waits.
    pub memory_bytes_max: usize,
    /// How batches are compressed.
    pub compression: Compression,
    /// Batches sent and not answered, per partition; 1 to 5: the servers recognise a retry of the last five.
    pub in_flight_max: usize,
    /// How long a batch may take from its first record to its answer, retries included; 1 ms to a day. Before that
    /// [`Producer::send`] itself waits at most as long for its topic to be found, and at most as long for memory.
    pub delivery_timeout: Duration,
    /// Whether a missing topic may be created by the first record for it, where the cluster allows that.
    pub auto_create_topics: bool,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(5),
            batch_bytes_max: 64_000,
            record_bytes_max: None,
            memory_bytes_max: 64 * 1024 * 1024,
            compression: Compression::None,
            in_flight_max: 5,
            delivery_timeout: Duration::from_secs(120),
            auto_create_topics: true,
        }
    }
}

/// Largest record that fits into a request: what the servers take as one message, less what stands around the record.
const REQUEST_RECORD_BYTES_MAX: usize = 64 * 1024 * 1024 - 64 * 1024;

/// Sends records. Cheap to clone; the last clone that is dropped ends it, and what has no answer by then fails as
/// closed. Call [`Producer::flush`] or [`Producer::close`] before.
///
/// It is always idempotent: each batch carries a producer id and a running number, by which servers recognise a
/// retry. If a batch is given up (its time is over, or a server refuses it for good), the partition goes on under a
/// new producer id, and the batches sent after it and not answered yet are
/// - sent anew under that id, if the one given up was surely not written: then neither were they, for a server takes
///   no number before the one that precedes it;
/// - failed as perhaps written too ([`Reason::EarlierBatch`]), if it was perhaps written and they may have been: sent
///   anew they might stand there twice.
#[derive(Clone)]
pub struct Producer {
    owner: Arc<Owner>,
}

/// Ends the tasks when the last handle goes.
struct Owner {
    shared: Arc<Shared>,
    tasks: Mutex<Vec<Task>>,
}

/// What handles and workers share.
struct Shared {
    env: Env,
    leaders: Arc<Leaders>,
    config: ProducerConfig,
    /// Free bytes of `memory_bytes_max`.
    memory: Arc<Semaphore>,
    topics: RwLock<BTreeMap<String, Arc<Topic>>>,
    /// Topics that were found gone, some of whose batches have not ended yet.
    forgotten: Mutex<Vec<Arc<Topic>>>,
    /// Topics that were made for their first record.
    made: Mutex<BTreeSet<TopicName>>,
    /// Whether the task was started that looks after what is known of topics.
    looks_after: AtomicBool,
    closed: AtomicBool,
}

/// A topic that is sent to. When it has grown, or takes other sizes, another one takes its place that shares its
/// queues and its writer.
struct Topic {
    name: TopicName,
    id: TopicId,
    queues: Vec<Arc<TopicQueue>>,
    /// Its `max.message.bytes`, if the servers say it.
    message_bytes_max: Option<usize>,
    /// Where records without a key go until the batch there is sealed; -1: nowhere yet.
    sticky: AtomicI32,
    /// The producer id that partitions begin with; drawn once. A topic that is found anew gets another one: its
    /// sequences begin anew, and under the same id a server would take a new batch for a retry of an old one.
    writer: Arc<tokio::sync::Mutex<Option<(ProducerId, ProducerEpoch)>>>,
    /// How often it was seen that it is there: a batch was acknowledged, or a worker looked it up.
    seen: Arc<AtomicU64>,
}

struct TopicQueue {
    queue: Arc<Queue>,
    /// Whether its worker was started.
    started: AtomicBool,
}

impl Topic {
    fn new(name: &TopicName, view: &TopicView, config: &ProducerConfig) -> Self {
        Self {
            name: name.clone(),
            id: view.id,
            queues: new_queues(0, view, config),
            message_bytes_max: view.message_bytes_max,
            sticky: AtomicI32::new(-1),
            writer: Arc::default(),
            seen: Arc::default(),
        }
    }

    /// Whether the topic is another one by now: with more partitions, or another `max.message.bytes`.
    fn is_outdated(&self, view: &TopicView) -> bool {
        let same = view.message_bytes_max == self.message_bytes_max;
        view.id == self.id && (view.partitions.len() > self.queues.len() || !same)
    }

    /// What takes its place then. Batches that are filled from here on are as large as it takes.
    fn renewed(&self, view: &TopicView, config: &ProducerConfig) -> Self {
        let limit = batch_limit(view, config);
        self.queues.iter().for_each(|to| to.queue.limit_batches(limit));
        let mut queues = self.queues.clone();
        queues.extend(new_queues(self.queues.len(), view, config));
        Self {
            name: self.name.clone(),
            id: self.id,
            queues,
            message_bytes_max: view.message_bytes_max,
            sticky: AtomicI32::new(self.sticky.load(Ordering::Relaxed)),
            writer: Arc::clone(&self.writer),
            seen: Arc::clone(&self.seen),
        }
    }

    /// Whether it is the same topic as it was found once, grown or not.
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.writer, &other.writer)
    }

    /// Whether a batch of it has not ended yet.
    fn is_unfinished(&self) -> bool {
        self.queues.iter().any(|to| to.queue.is_unfinished())
    }

    fn queue(&self, partition: PartitionId) -> Option<&Arc<TopicQueue>> {
        self.queues.get(usize::try_from(partition.0).ok()?)
    }

    /// Refuses a record that is larger than can be sent to this topic. It takes at most `most`, encoded.
    fn check_size(&self, record: &Record, most: usize, config: &ProducerConfig) -> Result<(), SendError> {
        let (limit, of) = self.record_limit(config);
        if most <= limit {
            return Ok(());
        }
        // A record of this size gets a batch of its own.
        let bytes = BatchBuilder::bytes_of_record_alone(
            record.key.as_deref(),
            record.value.as_deref(),
            &record.headers,
        );
        if bytes <= limit { Ok(()) } else { Err(not_written(Reason::TooLarge { bytes, limit, of })) }
    }

    /// Largest record that is sent to this topic, and what makes it so.
    fn record_limit(&self, config: &ProducerConfig) -> (usize, SizeLimit) {
        // Compressed, a record may fit that would not as it is: then the servers judge.
        let message_bytes_max = self.message_bytes_max.filter(|_| config.compression == Compression::None);
        let topic = message_bytes_max.map(|message_bytes_max| {
            let limit = message_bytes_max.saturating_sub(HEADER_BYTES);
            (limit, SizeLimit::Topic { topic: self.name.clone(), message_bytes_max })
        });
        let own = config.record_bytes_max.map(|limit| (limit, SizeLimit::RecordBytesMax));
        let memory = (config.memory_bytes_max.saturating_sub(HEADER_BYTES), SizeLimit::MemoryBytesMax);
        let request = (REQUEST_RECORD_BYTES_MAX, SizeLimit::Request);
        let smaller = |a: (usize, SizeLimit), b: (usize, SizeLimit)| if b.0 < a.0 { b } else { a };
        [topic, own, Some(memory)].into_iter().flatten().fold(request, smaller)
    }
}

/// A topic that takes only small batches gets small batches.
fn batch_limit(view: &TopicView, config: &ProducerConfig) -> usize {
    let limit = view.message_bytes_max.map_or(config.batch_bytes_max, |limit| limit.max(HEADER_BYTES + 1));
    config.batch_bytes_max.min(limit)
}

/// Queues of a topic's partitions from number `first` on.
fn new_queues(first: usize, view: &TopicView, config: &ProducerConfig) -> Vec<Arc<TopicQueue>> {
    let limit = batch_limit(view, config);
    let queue = |number: usize| {
        let partition = PartitionId(i32::try_from(number).expect("partitions are numbered by i32"));
        let (queue, started) = (Arc::new(Queue::new(partition, limit)), AtomicBool::new(false));
        Arc::new(TopicQueue { queue, started })
    };
    (first..view.partitions.len()).map(queue).collect()
}

fn not_written(reason: Reason) -> SendError {
    SendError::NotWritten { reason }
}

/// Whether a record was refused for what its topic is set to.
fn is_limit_of_topic(error: &SendError) -> bool {
    matches!(error.reason(), Reason::TooLarge { of: SizeLimit::Topic { .. }, .. })
}

impl Producer {
    pub(crate) fn new(env: Env, leaders: Arc<Leaders>, mut config: ProducerConfig) -> Self {
        config.in_flight_max = config.in_flight_max.clamp(1, 5);
        config.linger = config.linger.min(TIME_MAX);
        config.delivery_timeout = config.delivery_timeout.clamp(TIME_MIN, TIME_MAX);
        // A batch that servers cannot take as a message would break the stream of all partitions, again and again.
        config.batch_bytes_max = config.batch_bytes_max.clamp(HEADER_BYTES + 1, REQUEST_RECORD_BYTES_MAX);
        let room_min = config.batch_bytes_max.min(Semaphore::MAX_PERMITS);
        config.memory_bytes_max = config.memory_bytes_max.clamp(room_min, Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            env,
            leaders,
            memory: Arc::new(Semaphore::new(config.memory_bytes_max)),
            config,
            topics: RwLock::default(),
            forgotten: Mutex::default(),
            made: Mutex::default(),
            looks_after: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        Self { owner: Arc::new(Owner { shared, tasks: Mutex::default() }) }
    }

    /// Takes a record. Waits while memory is full, and at the first record for a topic until the topic is found, for
    /// each of them up to the delivery time-out. The answer is in the [`Ack`]. Of one task, the records for one
    /// partition are written in the order of the calls. Dropping this future before it is ready means that the record
    /// was not taken.
    ///
    /// # Errors
    /// Always [`SendError::NotWritten`].
    pub async fn send(&self, topic: &str, record: Record) -> Result<Ack, SendError> {
        let shared = &self.owner.shared;
        let bytes =
            BatchBuilder::bytes_of_record(record.key.as_deref(), record.value.as_deref(), &record.headers);
        let timestamp = record.timestamp.unwrap_or_else(|| shared.env.wall());
        let mut room = None;
        loop {
            let topic = match shared.topic(topic) {
                Some(topic) => topic,
                None => self.find(topic).await?,
            };
            if let Err(error) = topic.check_size(&record, bytes, &shared.config) {
                // Its topic may take more by now.
                if is_limit_of_topic(&error) && shared.look_again(&topic).await {
                    continue;
                }
                return Err(error);
            }
            let fixed = match (record.partition, &record.key) {
                (Some(partition), _) => Some(partition),
                (None, Some(key)) => Some(partitioner::keyed(key, topic.queues.len())),
                (None, None) => None,
            };
            if let Some(partition) = fixed.filter(|partition| topic.queue(*partition).is_none()) {
                // Its topic may have grown.
                if shared.look_again(&topic).await {
                    continue;
                }
                return Err(not_written(Reason::UnknownPartition {
                    topic: topic.name.clone(),
                    partition,
                    partitions: topic.queues.len(),
                }));
            }
            let sticky = topic.sticky.load(Ordering::Relaxed);
            let partition = fixed.unwrap_or(PartitionId(sticky));
            let mut pushed = match topic.queue(partition) {
                Some(to) => to.queue.push(&record, timestamp, bytes, &mut room, || shared.env.now()),
                None => Pushed::NoBatch,
            };
            if let Pushed::NoBatch = pushed {
                // Rare: once a batch.
                if shared.follow(&topic) {
                    continue;
                }
                // Without a key, a new batch is a new choice of partition.
                let partition = fixed.unwrap_or_else(|| shared.choose(&topic, sticky));
                let to = topic.queue(partition).expect("a partition of the topic was chosen");
                self.start(&topic, to);
                if room.is_none() {
                    room = Some(shared.room(bytes).await?);
                }
                pushed = to.queue.push(&record, timestamp, bytes, &mut room, || shared.env.now());
            }
            match pushed {
                Pushed::Taken(ack) => return Ok(ack),
                Pushed::NoBatch => {}
                Pushed::Closed(Reason::TopicDeleted { .. }) => shared.forget(&topic),
                Pushed::Closed(reason) => return Err(not_written(reason)),
            }
        }
    }

    /// Sends what was taken before this call without waiting for more records, and waits until each of them has its
    /// answer, good or bad: the acks have it.
    pub async fn flush(&self) {
        let mut unfinished = Vec::new();
        let mut topics: Vec<Arc<Topic>> = {
            let topics = self.owner.shared.topics.read().unwrap_or_else(PoisonError::into_inner);
            topics.values().cloned().collect()
        };
        // After those that are sent to: what goes from there to here in between is seen in one of the two places.
        topics.extend(self.owner.shared.forgotten());
        for topic in topics {
            for to in &topic.queues {
                unfinished.extend(to.queue.flush());
            }
        }
        for batch in unfinished {
            batch.ended().await;
        }
    }

    /// Topics that were missing and were made for the first record sent to them, by this producer or by somebody else
    /// at the same time.
    pub fn topics_made(&self) -> Vec<TopicName> {
        let made = self.owner.shared.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.iter().cloned().collect()
    }

    /// Takes no more records, flushes, and ends the producer and all its clones. Takes up to the delivery time-out.
    pub async fn close(&self) {
        let shared = &self.owner.shared;
        shared.closed.store(true, Ordering::Relaxed);
        shared.memory.close();
        self.flush().await;
        shared.close_queues();
        let tasks = std::mem::take(&mut *self.owner.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.stop().await;
        }
    }

    /// Finds a topic for the first time.
    async fn find(&self, name: &str) -> Result<Arc<Topic>, SendError> {
        let shared = &self.owner.shared;
        let name: TopicName = name.parse().map_err(|error| not_written(Reason::TopicName(error)))?;
        let config = shared.leaders.config();
        let mut backoff = Backoff::new(config.backoff_min, config.backoff_max);
        let after = shared.config.delivery_timeout;
        let deadline = shared.env.now() + after;
        loop {
            if shared.closed.load(Ordering::Relaxed) {
                return Err(not_written(Reason::Closed));
            }
            let left = deadline.since(shared.env.now());
            let lookup = async {
                match shared.config.auto_create_topics {
                    true => shared.leaders.resolve_or_create(&name).await,
                    false => shared.leaders.resolve(&name).await.map(|view| (view, false)),
                }
            };
            let last = match shared.env.timeout(left, lookup).await {
                Ok(Ok((view, made))) => {
                    if made {
                        shared.made.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
                    }
                    self.look_after_topics();
                    return Ok(shared.enter(&name, &view));
                }
                Ok(Err(LookupError::UnknownTopic)) => {
                    return Err(not_written(Reason::UnknownTopic { topic: name }));
                }
                Ok(Err(LookupError::Refused { code, message })) => {
                    return Err(not_written(Reason::Refused { code, message }));
                }
                Ok(Err(error @ (LookupError::NoServer(_) | LookupError::NotNow(_)))) => error.to_string(),
                Err(_elapsed) => shared.leaders.silent().to_string(),
            };
            let pause = backoff.pause(&shared.env);
            if shared.env.now() + pause >= deadline {
                return Err(not_written(Reason::TimedOut { after, last }));
            }
            shared.env.sleep(pause).await;
        }
    }

    /// Starts the task that looks known topics up again from time to time, if it does not run yet.
    fn look_after_topics(&self) {
        let shared = &self.owner.shared;
        if shared.looks_after.swap(true, Ordering::Relaxed) {
            return;
        }
        let task = shared.env.spawn("producer topics", Arc::clone(shared).look_after_topics());
        self.owner.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }

    /// Starts the worker of a partition, if it does not run yet.
    fn start(&self, topic: &Arc<Topic>, to: &TopicQueue) {
        if to.started.swap(true, Ordering::Relaxed) {
            return;
        }
        let shared = &self.owner.shared;
        let worker = worker::Worker::new(Arc::clone(shared), Arc::clone(topic), Arc::clone(&to.queue));
        let task = shared.env.spawn("producer partition", worker.run());
        let mut tasks = self.owner.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if tasks.len() == tasks.capacity() {
            // Before there is more room for them, those go that have ended: their topics are gone.
            tasks.retain_mut(|task| task.ended().now_or_never().is_none());
        }
        tasks.push(task);
    }
}

impl Shared {
    fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Makes a topic that was found one that is sent to, unless another call did so in the meantime.
    fn enter(&self, name: &TopicName, view: &TopicView) -> Arc<Topic> {
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Topic::new(name, view, &self.config));
        Arc::clone(topics.entry(name.to_string()).or_insert_with(new))
    }

    /// Takes over what is known by now of a topic that is sent to; whether that is other than `topic` had it.
    fn follow(&self, topic: &Topic) -> bool {
        let Some(view) = self.leaders.known(&topic.name) else { return false };
        if !topic.is_outdated(&view) {
            return false;
        }
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        // Another sender may have been faster.
        if let Some(newest) = topics.get_mut(topic.name.as_str())
            && newest.is(topic)
            && newest.is_outdated(&view)
        {
            self.env.reached(Mark::ProducerFollowedTheTopic);
            *newest = Arc::new(newest.renewed(&view, &self.config));
        }
        true
    }

    /// Looks a topic up again, unless that was done just now; whether it is other than `topic` had it.
    async fn look_again(&self, topic: &Topic) -> bool {
        // Without an answer it stays as it is known.
        let _seen_in_the_cache = self.leaders.refresh_older_than(&topic.name, JUST_NOW).await.is_ok();
        self.follow(topic)
    }

    /// Follows all topics that are sent to, and looks them up again when what is known of them has grown old.
    async fn look_after_topics(self: Arc<Self>) {
        let age = self.leaders.age_max();
        let mut pause = age.min(FOLLOW);
        // Since when each topic seems to be gone, and how often it had been seen by then.
        let mut gone_since: BTreeMap<TopicId, (Moment, u64)> = BTreeMap::new();
        loop {
            self.env.sleep(pause).await;
            pause = age.min(FOLLOW);
            let topics: Vec<Arc<Topic>> = {
                let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
                topics.values().cloned().collect()
            };
            gone_since.retain(|id, _| topics.iter().any(|topic| topic.id == *id));
            for topic in topics {
                // One look-up is of all.
                let view = self.leaders.refresh_older_than(&topic.name, age).await;
                let seems_gone = match &view {
                    Ok(view) => view.id != topic.id,
                    Err(error) => *error == LookupError::UnknownTopic,
                };
                if seems_gone || view.is_err() {
                    // What is looked at next was looked up anew, by another server.
                    pause = age;
                }
                if !seems_gone {
                    gone_since.remove(&topic.id);
                    self.follow(&topic);
                    continue;
                }
                let now = self.env.now();
                let seen = topic.seen.load(Ordering::Relaxed);
                let (since, seen_by_then) = gone_since.entry(topic.id).or_insert((now, seen));
                if *seen_by_then != seen {
                    // Between two looks that found nothing it was there.
                    (*since, *seen_by_then) = (now, seen);
                }
                // A worker that has something to send finds that by itself; nobody else does where nothing is sent.
                if now.since(*since) >= worker::MISSING {
                    gone_since.remove(&topic.id);
                    self.forget(&topic);
                }
            }
        }
    }

    /// The topic is gone; another one of its name is looked up anew. What was not sent fails, and the workers of all
    /// partitions end.
    fn forget(&self, gone: &Arc<Topic>) {
        {
            let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
            if topics.get(gone.name.as_str()).is_none_or(|topic| !topic.is(gone)) {
                return;
            }
            let Some(newest) = topics.remove(gone.name.as_str()) else { return };
            let reason = Reason::TopicDeleted { topic: gone.name.clone() };
            // First: where it has gone to, it is dropped as soon as all batches have ended, and a sender that still holds
            // it must not begin another.
            newest.queues.iter().for_each(|to| to.queue.close(&reason));
            self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).push(newest);
        }
        // It stays only as long as something of it is in flight.
        drop(self.forgotten());
    }

    /// The topics that were found gone and have batches that have not ended yet.
    fn forgotten(&self) -> Vec<Arc<Topic>> {
        let mut forgotten = self.forgotten.lock().unwrap_or_else(PoisonError::into_inner);
        forgotten.retain(|topic| topic.is_unfinished());
        forgotten.clone()
    }

    /// Chooses where records without a key go next: by chance, another one than before, one that has a leader.
    fn choose(&self, topic: &Topic, before: i32) -> PartitionId {
        let view = self.leaders.known(&topic.name);
        let has_leader = |at: usize| {
            view.as_ref().and_then(|view| view.partitions.get(at)).is_some_and(|known| known.leader.is_some())
        };
        let mut choice: Vec<PartitionId> = (0..)
            .zip(0..topic.queues.len())
            .filter(|(_, at)| has_leader(*at))
            .map(|(p, _)| PartitionId(p))
            .collect();
        if choice.is_empty() {
            choice = topic.queues.iter().map(|to| to.queue.partition).collect();
        }
        if choice.len() > 1 {
            choice.retain(|partition| partition.0 != before);
        }
        let chosen = self.env.random_below(u64::try_from(choice.len()).unwrap_or(u64::MAX));
        let chosen = choice[usize::try_from(chosen).expect("below a length")];
        // Another sender may have chosen in the meantime: then both choices get a batch.
        let _lost = topic.sticky.compare_exchange(before, chosen.0, Ordering::Relaxed, Ordering::Relaxed);
        chosen
    }

    /// Waits for the memory of a batch that begins with a record of `bytes`.
    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, SendError> {
        // `bytes` is an upper bound: what does fit into the memory may seem not to.
        let wanted = self.config.batch_bytes_max.max(bytes + HEADER_BYTES).min(self.config.memory_bytes_max);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        let closed = || not_written(Reason::Closed);
        match Arc::clone(&self.memory).try_acquire_many_owned(wanted) {
            Ok(room) => return Ok(room),
            Err(TryAcquireError::Closed) => return Err(closed()),
            Err(TryAcquireError::NoPermits) => {}
        }
        let after = self.config.delivery_timeout;
        let free = Arc::clone(&self.memory).acquire_many_owned(wanted);
        match self.env.timeout(after, free).await {
            Ok(Ok(room)) => Ok(room),
            Ok(Err(_closed)) => Err(closed()),
            Err(_elapsed) => {
                let last = format!("{} bytes wait for an answer already", self.config.memory_bytes_max);
                Err(not_written(Reason::TimedOut { after, last }))
            }
        }
    }

    fn close_queues(&self) {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        for to in topics.values().flat_map(|topic| &topic.queues) {
            to.queue.close(&Reason::Closed);
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // The workers' batches fail as closed when their tasks are dropped.
        self.shared.closed.store(true, Ordering::Relaxed);
        self.shared.memory.close();
        self.shared.close_queues();
    }
}

impl fmt::Debug for Producer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").field("config", &self.owner.shared.config).finish_non_exhaustive()
    }
}
