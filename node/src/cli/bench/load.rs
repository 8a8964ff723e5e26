//! Producers at work: as fast as the cluster takes it, at a rate, or one record after the other.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use quorate_client::{
    Ack, Client, PartitionId, Producer, ProducerConfig, Record, RecordPlace, SendError, TopicName,
};
use quorate_proto::env::{Env, os};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::args::{PayloadArgs, RunArgs};
use super::times::{Percentiles, Times};
use super::usage::{CpuSeconds, Meter};
use crate::cli::Failure;
use crate::cli::output::rounded;
use crate::cli::pace::Pace;

/// Records of one producer whose acknowledgement has not been looked at; its own memory is the tighter bound.
const IN_FLIGHT_MAX: usize = 1 << 20;
/// Sent records change hands in packs of this size: one at a time would cost more than the sending.
const PACK: usize = 256;
/// After Ctrl-C, what is on its way has so long to be acknowledged.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What a load is.
#[derive(Clone)]
pub(super) struct Load {
    pub(super) servers: Vec<String>,
    pub(super) topic: TopicName,
    pub(super) payload: Arc<Vec<Bytes>>,
    pub(super) key_bytes: usize,
    pub(super) producers: u32,
    pub(super) config: ProducerConfig,
    /// Records a second, all producers together.
    pub(super) rate: Option<u32>,
    /// How many records are sent at most, all producers together.
    pub(super) records: Option<u64>,
    pub(super) warmup: Duration,
    pub(super) time: Duration,
    /// Each producer waits for an answer before it sends its next record.
    pub(super) one_by_one: bool,
    /// Each value begins with this and with when the record was due, unless that was in the warm-up.
    pub(super) stamp: Option<Stamp>,
}

impl Load {
    /// One producer, as fast as it can. `head` bytes of each value are somebody else's.
    pub(super) fn new(
        servers: Vec<String>,
        topic: &TopicName,
        payload: &PayloadArgs,
        head: usize,
        run: &RunArgs,
    ) -> Result<Self, Failure> {
        Ok(Self {
            servers,
            topic: topic.clone(),
            payload: payload.read(head)?,
            key_bytes: usize::try_from(payload.key_bytes).expect("a u32 fits"),
            producers: 1,
            config: ProducerConfig::default(),
            rate: None,
            records: None,
            warmup: Duration::from_secs_f64(run.warmup),
            time: Duration::from_secs_f64(run.seconds),
            one_by_one: false,
            stamp: None,
        })
    }

    /// How many records are due after the warm-up, at a rate.
    fn due(&self) -> Option<f64> {
        let rate = f64::from(self.rate?);
        let all = rate * (self.warmup + self.time).as_secs_f64();
        let most = self.records.map_or(all, |records| all.min(records as f64));
        Some((most - rate * self.warmup.as_secs_f64()).max(0.0))
    }
}

/// What tells the records of one run from all others, and the moment from which their times count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    run: u64,
    epoch: Instant,
}

/// Stands for no moment.
const UNCOUNTED: u64 = u64::MAX;

impl Stamp {
    /// Bytes that it takes of a value.
    pub(super) const BYTES: usize = 16;

    pub(super) fn new() -> Self {
        Self { run: os().entropy.next_u64(), epoch: Instant::now() }
    }

    fn put(&self, due: Option<Instant>, rest: &[u8]) -> Bytes {
        let since =
            due.and_then(|due| u64::try_from((due - self.epoch).as_nanos()).ok()).unwrap_or(UNCOUNTED);
        let mut value = BytesMut::with_capacity(Self::BYTES + rest.len());
        value.put_u64(self.run);
        value.put_u64(since);
        value.put_slice(rest);
        value.freeze()
    }

    /// When a record of this run was due; `None` of one of the warm-up, and of any other record.
    pub(super) fn due(&self, value: &[u8]) -> Option<Instant> {
        let (run, rest) = value.split_first_chunk::<8>()?;
        let (since, _) = rest.split_first_chunk::<8>()?;
        let (run, since) = (u64::from_be_bytes(*run), u64::from_be_bytes(*since));
        (run == self.run && since != UNCOUNTED).then(|| self.epoch + Duration::from_nanos(since))
    }
}

/// What came of a load.
pub(super) struct Outcome {
    pub(super) measured: Measured,
    /// From the end of the warm-up to the last acknowledgement.
    pub(super) elapsed: Duration,
    pub(super) cpu: CpuSeconds,
    /// Ctrl-C came before the end.
    pub(super) interrupted: bool,
}

/// The figures of a load that every benchmark prints.
#[derive(Serialize)]
pub(super) struct Figures {
    pub(super) records: u64,
    /// Key and value of acknowledged records.
    bytes: u64,
    /// From the end of the warm-up, or else from the first record sent, to the last acknowledgement.
    elapsed_s: f64,
    pub(super) records_per_s: f64,
    /// 10^6 bytes a second.
    pub(super) mb_per_s: f64,
    /// Absent if no rate was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_reached: Option<bool>,
    pub(super) ack_ms: Percentiles,
    unacknowledged: u64,
    pub(super) cpu_s: CpuSeconds,
    /// 10^6 bytes that each node's process holds in memory at the end.
    memory_mb: BTreeMap<u32, Option<f64>>,
}

impl Outcome {
    /// Of that load.
    pub(super) fn figures(self, load: &Load) -> (Figures, Option<Failure>) {
        let Self { measured, elapsed, mut cpu, interrupted } = self;
        let seconds = elapsed.as_secs_f64().max(1e-9);
        let per_second = measured.records as f64 / seconds;
        let figures = Figures {
            records: measured.records,
            bytes: measured.bytes,
            elapsed_s: rounded(elapsed.as_secs_f64(), 3),
            records_per_s: rounded(per_second, 1),
            mb_per_s: rounded(measured.bytes as f64 / seconds / 1e6, 3),
            rate_reached: load.due().map(|due| {
                let in_time = elapsed <= load.time.mul_f64(2.0 - RATE_REACHED) + LAST_IN_TIME;
                in_time && measured.records as f64 >= due * RATE_REACHED
            }),
            ack_ms: measured.acks.percentiles(),
            unacknowledged: measured.unacknowledged,
            memory_mb: std::mem::take(&mut cpu.memory_mb),
            cpu_s: cpu,
        };
        let failure = match measured.first_error {
            Some(error) => Some(Failure::work(format!(
                "{} records were not acknowledged; the first: {error}",
                measured.unacknowledged
            ))),
            None if interrupted => {
                Some(Failure::Interrupted("interrupted: the figures are of what was measured so far"))
            }
            None => None,
        };
        (figures, failure)
    }
}

/// What share of a rate counts as the rate, and how long the last records may be on their way.
const RATE_REACHED: f64 = 0.99;
const LAST_IN_TIME: Duration = Duration::from_secs(1);

impl Figures {
    /// What must not be overlooked, for standard error.
    pub(super) fn remark(&self, rate: Option<u32>) -> Option<String> {
        let rate = rate.filter(|_| self.rate_reached == Some(false))?;
        Some(format!(
            "the rate of {rate}/s was not reached, only {:.0}/s: each record's time counts from when it was due",
            self.records_per_s
        ))
    }

    /// The first line for people.
    pub(super) fn summary(&self) -> String {
        format!(
            "{} records in {:.1} s: {:.0} records/s, {:.1} MB/s\n{}",
            self.records,
            self.elapsed_s,
            self.records_per_s,
            self.mb_per_s,
            self.cpu_s.each(self.records)
        )
    }
}

/// Runs a load. Ctrl-C ends it early.
pub(super) async fn run(load: &Load) -> Result<Outcome, Failure> {
    let meter = Meter::find(&Client::grpc(load.servers.clone())).await;
    let mut interrupt = crate::cli::signals()?;
    let (stopping, stop) = watch::channel(false);
    let start = Instant::now();
    let from = start + load.warmup;
    let measured = Arc::new(Mutex::new(Measured::new(from)));
    let is_over = Arc::new(AtomicBool::new(false));
    let mut running = Vec::new();
    for number in 0..load.producers {
        // A client each, so that each has connections of its own, as producers on several machines have.
        let one = One {
            producer: Client::grpc(load.servers.clone()).producer(load.config.clone()),
            load: load.clone(),
            env: os(),
            first: number,
            pace: load.rate.map(|rate| Pace::new(start, rate)),
            from,
            end: from + load.time,
            measured: Arc::clone(&measured),
            is_over: Arc::clone(&is_over),
            stop: stop.clone(),
        };
        running.push(tokio::spawn(one.run()));
    }
    let mut all = pin!(async {
        tokio::time::sleep_until(from.into()).await;
        let before = meter.read().await;
        for one in running {
            one.await.expect("a producer's task does not panic");
        }
        before
    });
    let mut interrupted = false;
    let before = tokio::select! { biased;
        before = &mut all => Some(before),
        () = interrupt.wait() => {
            interrupted = true;
            is_over.store(true, Ordering::Relaxed);
            stopping.send_replace(true);
            tokio::time::timeout(LAST_ANSWERS, &mut all).await.ok()
        }
    };
    let after = meter.read().await;
    let cpu = after.since(before.as_ref().unwrap_or(&after));
    let measured = std::mem::replace(&mut *lock(&measured), Measured::new(from));
    let elapsed = measured.last.saturating_duration_since(from);
    Ok(Outcome { measured, elapsed, cpu, interrupted })
}

fn lock(measured: &Mutex<Measured>) -> MutexGuard<'_, Measured> {
    measured.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One producer at work.
struct One {
    producer: Producer,
    load: Load,
    env: Env,
    /// Its own number: of all producers' records it sends this one, and from there on each that is its own.
    first: u32,
    pace: Option<Pace>,
    /// The end of the warm-up.
    from: Instant,
    end: Instant,
    measured: Arc<Mutex<Measured>>,
    /// Ctrl-C came.
    is_over: Arc<AtomicBool>,
    stop: watch::Receiver<bool>,
}

/// A record on its way: since when, its bytes, and its answer.
type Sent = (Instant, usize, Result<Ack, SendError>);

impl One {
    async fn run(self) {
        let (tx, sent) = mpsc::channel(IN_FLIGHT_MAX / PACK);
        let collecting = tokio::spawn(collect(sent, Arc::clone(&self.measured)));
        self.send(tx).await;
        // What was handed over goes out and is answered; the collector waits for it.
        self.producer.close().await;
        collecting.await.expect("the collector does not panic");
    }

    /// Until which moment a record is due; `None` once there are no more.
    async fn due(&self, number: u64) -> Option<Instant> {
        if self.is_over.load(Ordering::Relaxed) || self.load.records.is_some_and(|records| number >= records)
        {
            return None;
        }
        let Some(pace) = &self.pace else { return Some(Instant::now()) };
        let mut stop = self.stop.clone();
        tokio::select! { biased;
            () = pace.wait_for(number) => Some(pace.due(number)),
            _ = stop.wait_for(|stop| *stop) => None,
        }
    }

    fn record(&self, payload: &Bytes, due: Instant) -> Record {
        let value = match &self.load.stamp {
            Some(stamp) => stamp.put((due >= self.from).then_some(due), payload),
            None => payload.clone(),
        };
        let record = Record::new(value);
        match self.load.key_bytes {
            0 => record,
            bytes => record.key(self.random_key(bytes)),
        }
    }

    fn random_key(&self, bytes: usize) -> Bytes {
        let mut key = Vec::with_capacity(bytes + 8);
        while key.len() < bytes {
            key.extend_from_slice(&self.env.entropy.next_u64().to_le_bytes());
        }
        key.truncate(bytes);
        Bytes::from(key)
    }

    async fn send(&self, tx: mpsc::Sender<Vec<Sent>>) {
        let mut pack = Vec::with_capacity(PACK);
        let mut number = u64::from(self.first);
        let skipped = usize::try_from(self.first).expect("a u32 fits");
        let mut payload = self.load.payload.iter().cycle().skip(skipped);
        let topic = self.load.topic.as_str();
        while let Some(since) = self.due(number).await {
            // What was due is sent also after the end, or a stall there would not show; but not for ever.
            if since >= self.end || Instant::now() >= self.end + LAST_IN_TIME {
                break;
            }
            let record = self.record(payload.next().expect("a cycle has no end"), since);
            let bytes =
                record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len);
            let mut sending = pin!(self.producer.send(topic, record));
            let ack = match sending.as_mut().now_or_never() {
                Some(ack) => ack,
                None => {
                    // Memory is full: what was sent must be looked at meanwhile.
                    if tx.send(std::mem::take(&mut pack)).await.is_err() {
                        break;
                    }
                    sending.await
                }
            };
            let failed = ack.is_err();
            if self.load.one_by_one {
                let answer = match ack {
                    Ok(ack) => ack.await,
                    Err(error) => Err(error),
                };
                lock(&self.measured).answer(since, Instant::now(), bytes, answer.map(drop));
            } else {
                pack.push((since, bytes, ack));
            }
            // At a rate, records may be far apart.
            if pack.len() >= PACK || self.pace.is_some() {
                let full = std::mem::replace(&mut pack, Vec::with_capacity(PACK));
                if tx.send(full).await.is_err() {
                    break;
                }
            }
            if failed {
                break;
            }
            number += u64::from(self.load.producers);
        }
        // Refused only if the collector has gone, which it does not before the end of this channel.
        drop(tx.send(pack).await);
    }
}

/// A record that waits for its answer.
struct Unanswered {
    since: Instant,
    bytes: usize,
    ack: Ack,
}

/// A record that has its answer.
struct Answered {
    partition: PartitionId,
    since: Instant,
    bytes: usize,
    answer: Result<RecordPlace, SendError>,
}

impl Unanswered {
    async fn wait(self) -> Answered {
        let partition = self.ack.partition();
        Answered { partition, since: self.since, bytes: self.bytes, answer: self.ack.await }
    }
}

/// Looks at answers as they come. Those of one partition come in the order sent, so only the first of each partition is
/// waited for.
struct Collector<W> {
    measured: Arc<Mutex<Measured>>,
    wait: fn(Unanswered) -> W,
    first: FuturesUnordered<W>,
    /// Of each partition with a first one: what comes after it.
    behind: HashMap<PartitionId, VecDeque<Unanswered>>,
}

async fn collect(mut sent: mpsc::Receiver<Vec<Sent>>, measured: Arc<Mutex<Measured>>) {
    let (first, behind) = (FuturesUnordered::new(), HashMap::new());
    let mut collector = Collector { measured, wait: Unanswered::wait, first, behind };
    loop {
        tokio::select! { biased;
            Some(answered) = collector.first.next() => collector.answered(answered),
            pack = sent.recv() => match pack {
                Some(pack) => collector.sent(pack),
                None => break,
            },
        }
    }
    while let Some(answered) = collector.first.next().await {
        collector.answered(answered);
    }
}

impl<W: Future<Output = Answered>> Collector<W> {
    fn sent(&mut self, pack: Vec<Sent>) {
        for (since, bytes, ack) in pack {
            let ack = match ack {
                Ok(ack) => ack,
                Err(error) => {
                    lock(&self.measured).answer(since, Instant::now(), bytes, Err(error));
                    continue;
                }
            };
            match self.behind.entry(ack.partition()) {
                Entry::Occupied(mut behind) => behind.get_mut().push_back(Unanswered { since, bytes, ack }),
                Entry::Vacant(none) => {
                    none.insert(VecDeque::new());
                    self.first.push((self.wait)(Unanswered { since, bytes, ack }));
                }
            }
        }
    }

    fn answered(&mut self, answered: Answered) {
        let now = Instant::now();
        let mut measured = lock(&self.measured);
        measured.answer(answered.since, now, answered.bytes, answered.answer.map(drop));
        let Entry::Occupied(mut behind) = self.behind.entry(answered.partition) else { return };
        // The rest of its batch has its answer too.
        while let Some(mut next) = behind.get_mut().pop_front() {
            match (&mut next.ack).now_or_never() {
                Some(answer) => measured.answer(next.since, now, next.bytes, answer.map(drop)),
                None => {
                    self.first.push((self.wait)(next));
                    return;
                }
            }
        }
        behind.remove();
    }
}

/// What was acknowledged, and how fast.
pub(super) struct Measured {
    /// Records that were due before this do not count.
    from: Instant,
    records: u64,
    bytes: u64,
    /// When the last acknowledgement was seen.
    last: Instant,
    acks: Times,
    unacknowledged: u64,
    first_error: Option<SendError>,
}

impl Measured {
    fn new(from: Instant) -> Self {
        Self {
            from,
            records: 0,
            bytes: 0,
            last: from,
            acks: Times::new(),
            unacknowledged: 0,
            first_error: None,
        }
    }

    fn answer(&mut self, since: Instant, now: Instant, bytes: usize, answer: Result<(), SendError>) {
        match answer {
            Ok(()) if since < self.from => {}
            Ok(()) => {
                self.records += 1;
                self.bytes += u64::try_from(bytes).expect("a length fits");
                self.last = now;
                self.acks.add(now.saturating_duration_since(since));
            }
            Err(error) => {
                self.unacknowledged += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_due_in_the_warm_up_does_not_count() {
        let from = Instant::now() + Duration::from_secs(1);
        let mut measured = Measured::new(from);
        let ms = Duration::from_millis(1);
        measured.answer(from - ms, from + ms, 100, Ok(()));
        measured.answer(from, from + 2 * ms, 100, Ok(()));
        measured.answer(from + ms, from + 3 * ms, 50, Ok(()));
        assert_eq!((measured.records, measured.bytes, measured.acks.count()), (2, 150, 2));
        assert_eq!(measured.last, from + 3 * ms);
    }

    #[test]
    fn a_stamp_tells_its_own_records_and_when_they_were_due() {
        let (stamp, other) = (Stamp::new(), Stamp::new());
        let due = stamp.epoch + Duration::from_micros(1_234_567);
        let value = stamp.put(Some(due), b"rest");
        assert_eq!((value.len(), &value[Stamp::BYTES..]), (20, &b"rest"[..]));
        assert_eq!((stamp.due(&value), other.due(&value)), (Some(due), None));
        assert_eq!(stamp.due(&stamp.put(None, b"rest")), None);
        assert_eq!((stamp.due(b"short"), stamp.due(&value[..15])), (None, None));
    }

    #[test]
    fn a_rate_that_is_not_reached_is_said() {
        let remark = |records: u64, elapsed: u64, most: Option<u64>| {
            let load = Load {
                servers: Vec::new(),
                topic: "t".parse().unwrap(),
                payload: Arc::default(),
                key_bytes: 0,
                producers: 1,
                config: ProducerConfig::default(),
                rate: Some(100),
                records: most,
                warmup: Duration::from_secs(5),
                time: Duration::from_secs(10),
                one_by_one: false,
                stamp: None,
            };
            let mut measured = Measured::new(Instant::now());
            measured.records = records;
            let (cpu, elapsed) = (CpuSeconds::default(), Duration::from_secs(elapsed));
            let (figures, failure) = Outcome { measured, elapsed, cpu, interrupted: false }.figures(&load);
            assert!(failure.is_none());
            figures.remark(load.rate)
        };
        assert_eq!(remark(1_000, 11, None), None);
        assert_eq!(remark(200, 2, Some(700)), None);
        let said = remark(500, 10, None).unwrap();
        assert!(said.starts_with("the rate of 100/s was not reached, only 50/s"), "{said}");
        assert!(remark(1_000, 20, None).is_some(), "all were sent in time, and acknowledged late");
    }
}
