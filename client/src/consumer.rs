//! The consumer: what callers see of it. [`fetcher`] does the fetching, one task per partition; [`growth`] finds the
//! partitions that are added.

mod fetcher;
mod growth;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use quorate_proto::ErrorCode;
use quorate_proto::batch::{DECOMPRESSED_BYTES_MAX, Records};
use quorate_proto::env::{Env, Mark, Task};
use quorate_proto::ids::{Offset, PartitionId, Timestamp, TopicId, TopicName};
use tokio::sync::mpsc;

use self::fetcher::{Buffer, Chunk, Fetcher, Progress};
use self::growth::{Added, FOUND_MAX, Growth};
use crate::admin::{Admin, OffsetAt};
use crate::client::{TIME_MAX, TIME_MIN};
use crate::error::{AdminError, ConsumeError};
use crate::leaders::{Leaders, LookupError, TopicView};
use crate::record::ConsumedRecord;
use crate::retry::Backoff;

/// Where to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// First record that can still be read.
    Beginning,
    /// Whatever comes after this moment.
    End,
    /// This offset; one beyond 2^63 - 1 stands for that.
    Offset(Offset),
    /// First record whose timestamp is at or after this one; the end if there is none.
    Timestamp(Timestamp),
}

/// Which partitions of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Partitions {
    /// All of them, and those that are added to the topic later: each from its beginning, as soon as it is found
    /// ([`ClientConfig::metadata_age_max`](crate::ClientConfig::metadata_age_max)).
    All,
    /// These.
    Only(Vec<PartitionId>),
}

/// What to do when a position cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reset {
    /// Say so: [`ConsumeError::OffsetOutOfRange`].
    #[default]
    Fail,
    /// Go to the first record that can be read.
    Beginning,
    /// Go to the end.
    End,
}

/// Knobs of a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// What may lie fetched and unread before fetching pauses; at least 1. Each partition may go past it by one fetch,
    /// whose size is the smaller the more partitions there are, but never smaller than a batch: so what is held can be
    /// this and the largest batch of each partition.
    pub prefetch_bytes_max: usize,
    /// What one fetch asks for at most, and at least 1; a batch that is larger comes all the same.
    pub fetch_bytes_max: usize,
    /// How long a server waits for new records before it answers that there are none; 1 ms to a day. A client keeps
    /// 12,000 fetches waiting at one server: what has no place among them asks as often as this, and twice a second at
    /// least.
    pub fetch_wait: Duration,
    /// What happens when a position cannot be read.
    pub reset: Reset,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            prefetch_bytes_max: 32 * 1024 * 1024,
            fetch_bytes_max: 1024 * 1024,
            fetch_wait: Duration::from_millis(500),
            reset: Reset::Fail,
        }
    }
}

/// The largest offset that the wire can say.
const OFFSET_MAX: Offset = Offset(u64::MAX >> 1);

type Key = (TopicName, PartitionId);

/// Reads records of the partitions assigned to it: each partition in order, partitions among each other as they come.
/// It reads ahead within a bound, and only what cannot vanish any more.
///
/// A [`Stream`] too; it ends when nothing is assigned.
pub struct Consumer {
    env: Env,
    leaders: Arc<Leaders>,
    admin: Admin,
    config: ConsumerConfig,
    buffer: Arc<Buffer>,
    /// How many fetchers share the bound on what is fetched.
    sharers: Arc<AtomicUsize>,
    assigned: BTreeMap<Key, Assigned>,
    /// Topics that are watched for partitions that are added, and by whom.
    watches: BTreeMap<TopicName, (TopicId, Task)>,
    /// Such partitions, and the way to tell of them.
    added: mpsc::Receiver<Added>,
    tell_added: mpsc::Sender<Added>,
    /// What is being handed out.
    current: Option<Current>,
    next_fetcher: u64,
}

/// A partition that is read, or that rests after an error.
struct Assigned {
    id: TopicId,
    /// Next to be handed out.
    position: Offset,
    progress: Arc<Progress>,
    /// `None`: it rests.
    fetcher: Option<Fetching>,
}

struct Fetching {
    number: u64,
    _task: Task,
}

struct Current {
    key: Key,
    fetcher: u64,
    chunk: Chunk,
    records: Option<Records>,
}

impl Consumer {
    pub(crate) fn new(env: Env, leaders: Arc<Leaders>, mut config: ConsumerConfig) -> Self {
        config.prefetch_bytes_max = config.prefetch_bytes_max.max(1);
        // For no bytes a server does not wait.
        config.fetch_bytes_max = config.fetch_bytes_max.max(1);
        config.fetch_wait = config.fetch_wait.clamp(TIME_MIN, TIME_MAX);
        let (tell_added, added) = mpsc::channel(FOUND_MAX);
        Self {
            admin: Admin::new(env.clone(), Arc::clone(&leaders)),
            env,
            leaders,
            buffer: Arc::new(Buffer::new(config.prefetch_bytes_max)),
            config,
            sharers: Arc::default(),
            assigned: BTreeMap::new(),
            watches: BTreeMap::new(),
            added,
            tell_added,
            current: None,
            next_fetcher: 0,
        }
    }

    /// Adds partitions of a topic and begins to fetch them. When this returns, their positions are fixed: `End` means
    /// the end as it was during this call. Partitions that are assigned already go where `start` says. On an error
    /// nothing is changed.
    ///
    /// # Errors
    /// `UnknownTopic`, `UnknownPartition`, a wrong name, `TimedOut` if a position cannot be found, or `TopicDeleted` if
    /// the topic went meanwhile and another one has its name.
    pub async fn assign(
        &mut self,
        topic: &str,
        partitions: Partitions,
        start: Start,
    ) -> Result<(), ConsumeError> {
        let name: TopicName = topic.parse()?;
        let newest = match &partitions {
            Partitions::All => None,
            Partitions::Only(these) => these.iter().copied().max(),
        };
        let view = self.resolve(&name, newest).await?;
        let count = view.partitions.len();
        let all = || (0..).map(PartitionId).take(count).collect();
        let is_whole = partitions == Partitions::All;
        let wanted: Vec<PartitionId> = match partitions {
            Partitions::All => all(),
            Partitions::Only(these) => these,
        };
        if let Some(&partition) = wanted.iter().find(|partition| !view.has(**partition)) {
            return Err(ConsumeError::UnknownPartition { topic: name, partition, partitions: count });
        }
        let offsets = wanted.iter().map(|partition| self.locate(&name, *partition, start));
        let found = futures_util::future::try_join_all(offsets).await;
        let offsets = match found {
            // A topic never loses a partition: another one has its name by now.
            Err(ConsumeError::Refused { code: ErrorCode::UnknownPartition, .. }) => {
                return Err(ConsumeError::TopicDeleted { topic: name });
            }
            found => found?,
        };
        for (partition, offset) in wanted.into_iter().zip(offsets) {
            self.begin((name.clone(), partition), view.id, offset);
        }
        if is_whole {
            self.watch(name, view.id, count);
        }
        Ok(())
    }

    /// Reads partitions with numbers from `known` on too, each from its beginning: those that there are, and those that
    /// are added to the topic later. [`Partitions::All`] does so by itself; this is for who has assigned all `known`
    /// partitions one by one.
    ///
    /// # Errors
    /// `UnknownTopic`, a wrong name, or `TimedOut` if the topic cannot be found.
    pub async fn assign_added(&mut self, topic: &str, known: usize) -> Result<(), ConsumeError> {
        let name: TopicName = topic.parse()?;
        let view = self.resolve(&name, None).await?;
        self.watch(name, view.id, known);
        Ok(())
    }

    /// From now on partitions of a topic are found whose numbers are not below `known`.
    fn watch(&mut self, topic: TopicName, id: TopicId, known: usize) {
        let growth = Growth {
            env: self.env.clone(),
            leaders: Arc::clone(&self.leaders),
            admin: self.admin.clone(),
            topic: topic.clone(),
            id,
            known,
            age: self.leaders.age_max(),
            found: self.tell_added.clone(),
        };
        let task = self.env.spawn("consumer growth", growth.run());
        self.watches.insert(topic, (id, task));
    }

    /// Goes elsewhere in a partition, also after an error that made it rest.
    ///
    /// # Errors
    /// `NotAssigned`, or `TimedOut` if the position cannot be found.
    pub async fn seek(&mut self, topic: &str, partition: PartitionId, to: Start) -> Result<(), ConsumeError> {
        let name: TopicName = topic.parse()?;
        let key = (name, partition);
        let Some(id) = self.assigned.get(&key).map(|assigned| assigned.id) else {
            return Err(ConsumeError::NotAssigned { topic: key.0, partition });
        };
        let offset = self.locate(&key.0, partition, to).await?;
        self.begin(key, id, offset);
        Ok(())
    }

    /// The next record. Waits for one at the end of the partitions. Dropping this future loses no record.
    ///
    /// # Errors
    /// Once for each partition that cannot be read on; that one rests until [`Consumer::seek`], and the next call goes
    /// on with the others. [`ConsumeError::NothingAssigned`] when there are no others.
    pub async fn next(&mut self) -> Result<ConsumedRecord, ConsumeError> {
        std::future::poll_fn(|cx| self.poll_record(cx)).await
    }

    /// What is assigned, in order.
    pub fn assigned(&self) -> Vec<(TopicName, PartitionId)> {
        self.assigned.keys().cloned().collect()
    }

    /// Offset of the next record that [`Consumer::next`] hands out of a partition, or the first after it that there
    /// is; `None` if it is not assigned.
    pub fn position(&self, topic: &str, partition: PartitionId) -> Option<Offset> {
        self.partition(topic, partition).map(|assigned| assigned.position)
    }

    /// Exclusive end of what could be read of a partition when it was fetched last; `None` before the first answer
    /// and if it is not assigned.
    pub fn high_watermark(&self, topic: &str, partition: PartitionId) -> Option<Offset> {
        self.partition(topic, partition)?.progress.high_watermark()
    }

    fn partition(&self, topic: &str, partition: PartitionId) -> Option<&Assigned> {
        self.assigned.get(&(topic.parse().ok()?, partition))
    }

    /// Finds a topic, as long as there is time; looks again if this partition is not known of it.
    async fn resolve(
        &self,
        name: &TopicName,
        partition: Option<PartitionId>,
    ) -> Result<Arc<TopicView>, ConsumeError> {
        let config = self.leaders.config();
        let after = config.admin_timeout;
        let deadline = self.env.now() + after;
        let mut backoff = Backoff::new(config.backoff_min, config.backoff_max);
        loop {
            let found = match partition {
                Some(partition) => self.leaders.resolve_with(name, partition).await,
                None => self.leaders.resolve(name).await,
            };
            let error = match found {
                Ok(view) => return Ok(view),
                Err(error) => error,
            };
            let pause = backoff.pause(&self.env);
            if error == LookupError::UnknownTopic {
                return Err(ConsumeError::UnknownTopic { topic: name.clone() });
            }
            if !error.is_retriable() || self.env.now() + pause >= deadline {
                return Err(ConsumeError::TimedOut { after, last: error.to_string() });
            }
            self.env.sleep(pause).await;
        }
    }

    /// The offset that `start` stands for.
    async fn locate(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        start: Start,
    ) -> Result<Offset, ConsumeError> {
        let find = async |at| match self.admin.offset(topic, partition, at).await {
            Ok(found) => Ok(found.map(|found| found.offset)),
            Err(error) => Err(self.not_found(topic, partition, error)),
        };
        let found = match start {
            // No record has a larger offset than the wire can say: beyond it is out of range as that one is.
            Start::Offset(offset) => return Ok(offset.min(OFFSET_MAX)),
            Start::Beginning => find(OffsetAt::Earliest).await?,
            Start::End => find(OffsetAt::Latest).await?,
            Start::Timestamp(timestamp) => match find(OffsetAt::Timestamp(timestamp)).await? {
                Some(offset) => Some(offset),
                None => find(OffsetAt::Latest).await?,
            },
        };
        found.ok_or_else(|| ConsumeError::Refused {
            topic: topic.clone(),
            partition,
            code: ErrorCode::Internal,
            message: "its leader named no offset".to_owned(),
        })
    }

    fn not_found(&self, topic: &TopicName, partition: PartitionId, error: AdminError) -> ConsumeError {
        let topic = topic.clone();
        let after = self.leaders.config().admin_timeout;
        match error {
            AdminError::Refused { code: ErrorCode::UnknownTopic, .. } => ConsumeError::UnknownTopic { topic },
            AdminError::Refused { code, message } => {
                ConsumeError::Refused { topic, partition, code, message }
            }
            AdminError::TimedOut { after, last } => ConsumeError::TimedOut { after, last },
            AdminError::NoServer(error) => ConsumeError::TimedOut { after, last: error.to_string() },
            AdminError::PerhapsDone { reason } => ConsumeError::TimedOut { after, last: reason },
            AdminError::TopicName(error) => ConsumeError::TopicName(error),
        }
    }

    /// Begins to fetch a partition at `position`, and forgets what was fetched of it.
    fn begin(&mut self, key: Key, id: TopicId, position: Offset) {
        self.rest(&key);
        self.next_fetcher += 1;
        let number = self.next_fetcher;
        let progress = Arc::new(Progress::default());
        self.sharers.fetch_add(1, Ordering::Relaxed);
        let fetcher = Fetcher {
            env: self.env.clone(),
            leaders: Arc::clone(&self.leaders),
            config: self.config.clone(),
            buffer: Arc::clone(&self.buffer),
            sharers: Arc::clone(&self.sharers),
            progress: Arc::clone(&progress),
            key: key.clone(),
            id,
            number,
            position,
        };
        let task = self.env.spawn("consumer partition", fetcher.run());
        let fetcher = Some(Fetching { number, _task: task });
        self.assigned.insert(key, Assigned { id, position, progress, fetcher });
    }

    /// Stops fetching a partition, and forgets what was fetched of it.
    fn rest(&mut self, key: &Key) {
        let Some(fetcher) = self.assigned.get_mut(key).and_then(|assigned| assigned.fetcher.take()) else {
            return;
        };
        self.sharers.fetch_sub(1, Ordering::Relaxed);
        self.buffer.forget(fetcher.number);
        if let Some(current) = self.current.take_if(|current| current.fetcher == fetcher.number) {
            self.buffer.release(&current.chunk);
        }
    }

    fn poll_record(&mut self, cx: &mut Context<'_>) -> Poll<Result<ConsumedRecord, ConsumeError>> {
        loop {
            if let Some(result) = self.hand_out() {
                return Poll::Ready(result);
            }
            while let Poll::Ready(Some(Added { key, id, position })) = self.added.poll_recv(cx) {
                // It may have been assigned by itself in the meantime, or another topic of that name.
                let is_watched = self.watches.get(&key.0).is_some_and(|(watched, _)| *watched == id);
                // One of a topic that had the name before rests for ever.
                let is_assigned = self.assigned.get(&key).is_some_and(|assigned| assigned.id == id);
                if is_watched && !is_assigned {
                    self.env.reached(Mark::ConsumerFoundANewPartition);
                    self.begin(key, id, position);
                }
            }
            if self.assigned.values().all(|assigned| assigned.fetcher.is_none()) {
                return Poll::Ready(Err(ConsumeError::NothingAssigned));
            }
            let Poll::Ready(fetched) = self.buffer.poll(cx) else { return Poll::Pending };
            // What a fetcher that was replaced has left is not for us.
            let mine = |assigned: &&mut Assigned| {
                assigned.fetcher.as_ref().is_some_and(|fetching| fetching.number == fetched.fetcher)
            };
            let Some(assigned) = self.assigned.get_mut(&fetched.key).filter(mine) else {
                if let Ok(chunk) = &fetched.result {
                    self.buffer.release(chunk);
                }
                continue;
            };
            match fetched.result {
                Ok(chunk) => {
                    assigned.position = chunk.from;
                    let (key, fetcher) = (fetched.key, fetched.fetcher);
                    self.current = Some(Current { key, fetcher, chunk, records: None });
                }
                Err(error) => {
                    self.rest(&fetched.key);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// The next record of what is being handed out; `None` when that is used up.
    fn hand_out(&mut self) -> Option<Result<ConsumedRecord, ConsumeError>> {
        loop {
            let current = self.current.as_mut()?;
            let assigned = self.assigned.get_mut(&current.key)?;
            let result = match &mut current.records {
                Some(records) => records.next(),
                None => None,
            };
            let error = match result {
                Some(Ok(record)) if record.offset < assigned.position => continue,
                Some(Ok(record)) => {
                    assigned.position = record.offset.plus(1);
                    return Some(Ok(ConsumedRecord {
                        topic: current.key.0.clone(),
                        partition: current.key.1,
                        offset: record.offset,
                        timestamp: record.timestamp,
                        key: record.key,
                        value: record.value,
                        headers: record.headers,
                    }));
                }
                Some(Err(error)) => error,
                None => match current.chunk.batches.pop_front() {
                    Some((header, batch)) => match Records::new(&header, &batch, DECOMPRESSED_BYTES_MAX) {
                        Ok(records) => {
                            current.records = Some(records);
                            continue;
                        }
                        Err(error) => error,
                    },
                    None => {
                        if let Some(done) = self.current.take() {
                            self.buffer.release(&done.chunk);
                        }
                        return None;
                    }
                },
            };
            let (key, offset) = (current.key.clone(), assigned.position);
            self.rest(&key);
            let (topic, partition) = key;
            return Some(Err(ConsumeError::Corrupt { topic, partition, offset, source: error }));
        }
    }
}

impl Stream for Consumer {
    type Item = Result<ConsumedRecord, ConsumeError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_record(cx).map(|result| match result {
            Err(ConsumeError::NothingAssigned) => None,
            other => Some(other),
        })
    }
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").field("assigned", &self.assigned()).finish_non_exhaustive()
    }
}
