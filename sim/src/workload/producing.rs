//! Producers of the SDK: they send at their rhythm, crash, come back, and tell what they were told.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quorate_client::{Ack, Producer, ProducerConfig, Record, SendError};
use quorate_proto::ids::{Offset, PartitionId, Timestamp};
use tokio::sync::watch;

use super::World;
use super::shape::{Rhythm, Shape};
use crate::dice::Dice;
use crate::env::clock;
use crate::history::{Outcome, RecordId, Target};

/// Records of one producer without an answer; it waits when there are as many.
const UNANSWERED_MAX: usize = 60;
/// Quiet windows begin so often, and last up to so long.
const QUIET_EVERY: u64 = 15;
const QUIET_FOR: u64 = 7;
/// In a run that tails off, pauses have doubled after this time.
const HALF_LIFE: Duration = Duration::from_secs(25);

/// One producer, through all lives of its client.
pub(super) struct Producing {
    pub(super) world: World,
    pub(super) number: u32,
    pub(super) shape: Shape,
    pub(super) config: ProducerConfig,
    pub(super) dice: Dice,
    next: u64,
    /// Records that wait for their answers.
    open: Arc<Mutex<BTreeSet<RecordId>>>,
}

impl Producing {
    pub(super) fn new(world: World, number: u32, shape: Shape, config: ProducerConfig) -> Self {
        let dice = Dice::named(world.seed, &format!("producer {number}"));
        Self { world, number, shape, config, dice, next: 0, open: Arc::default() }
    }

    /// Sends until `going` is false and everything has its outcome.
    pub(super) async fn run(mut self, going: watch::Receiver<bool>) {
        for life in 0.. {
            let (client, process) = self.world.client(self.number + 1_000 * life);
            let lasting = if self.shape.crashes && self.dice.chance(700) {
                self.dice.time(Duration::from_secs(2), Duration::from_secs(40))
            } else {
                Duration::from_secs(1_000_000)
            };
            let crash = {
                let mut going = going.clone();
                async move {
                    clock::sleep(lasting).await;
                    // One that is about to stop does not crash.
                    if !*going.borrow_and_update() {
                        std::future::pending::<()>().await;
                    }
                }
            };
            let producer = client.producer(self.config.clone());
            let done = tokio::select! {
                biased;
                () = self.work(&producer, &going) => true,
                () = crash => false,
            };
            self.world.end(&process).await;
            drop((producer, client));
            if done {
                return;
            }
            self.give_up("its producer crashed");
            clock::sleep(self.dice.time(Duration::from_millis(5), Duration::from_secs(3))).await;
        }
    }

    async fn work(&mut self, producer: &Producer, going: &watch::Receiver<bool>) {
        let mut acks = FuturesUnordered::new();
        while *going.borrow() {
            let burst = match self.shape.rhythm {
                Rhythm::Bursts => self.dice.between(4, 25),
                Rhythm::Steady | Rhythm::QuietWindows | Rhythm::TailOff => 1,
            };
            for _ in 0..burst {
                let target = self.shape.target(&mut self.dice);
                acks.extend(self.send(producer, target).await);
            }
            let pause = self.pause(burst);
            self.wait(&mut acks, pause, going).await;
        }
        while let Some((record, answer)) = acks.next().await {
            self.heard(record, answer);
        }
    }

    /// Sends `count` records to one partition, and waits for their outcomes.
    pub(super) async fn send_all(&mut self, producer: &Producer, target: &Target, count: u64) {
        let mut acks = FuturesUnordered::new();
        for _ in 0..count {
            acks.extend(self.send(producer, target.clone()).await);
        }
        while let Some((record, answer)) = acks.next().await {
            self.heard(record, answer);
        }
    }

    /// Whether anything waits for an answer.
    pub(super) fn is_waiting(&self) -> bool {
        !self.open.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Nobody will hear what became of the open records.
    pub(super) fn give_up(&self, why: &str) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        for record in open {
            self.world.learnt(self.number, record, Outcome::Unknown, why.to_owned());
        }
    }

    fn pause(&mut self, burst: u64) -> Duration {
        let mean = self.shape.pause * u32::try_from(burst).unwrap_or(1);
        let now = clock::now();
        let mean = match self.shape.rhythm {
            Rhythm::TailOff => mean.mul_f64(0.6 + now.as_secs_f64() / HALF_LIFE.as_secs_f64() / 2.0),
            Rhythm::Steady | Rhythm::Bursts | Rhythm::QuietWindows => mean,
        };
        let micros = u64::try_from(mean.as_micros()).unwrap_or(u64::MAX);
        let pause = Duration::from_micros(self.dice.between(micros / 4, micros + micros * 3 / 4));
        if self.shape.rhythm != Rhythm::QuietWindows {
            return pause;
        }
        // The same windows for all: every group is idle then.
        let window = (now + pause).as_secs() / QUIET_EVERY;
        let mut dice = Dice::named(self.world.seed, &format!("quiet window {window}"));
        let begin = Duration::from_secs(window * QUIET_EVERY + dice.below(QUIET_EVERY - QUIET_FOR));
        let end = begin + Duration::from_secs(dice.between(2, QUIET_FOR));
        if (begin..end).contains(&(now + pause)) { end - now } else { pause.mul_f64(0.75) }
    }

    /// Sends one record; nothing if its outcome is known at once.
    pub(super) async fn send(
        &mut self,
        producer: &Producer,
        target: Target,
    ) -> Option<impl Future<Output = Answered> + use<>> {
        let record = RecordId { producer: self.number, number: self.next };
        self.next += 1;
        let padding = match self.dice.below(200) {
            0 => self.dice.between(10_000, 60_000),
            1..40 => 0,
            _ => self.dice.below(self.shape.padding_max + 1),
        };
        let padding = usize::try_from(padding).unwrap_or(0);
        let mut value = Record::new(format!("{record} {:.<padding$}", "")).partition(target.partition);
        if self.dice.chance(100) {
            // As their clock has it: none, long ago, before 1970, somewhat ahead.
            let wall = producer_wall(clock::now());
            let time = match self.dice.below(4) {
                0 => match i64::try_from(self.dice.below(1 << 40)).unwrap_or_default() {
                    past if past % 2 == 0 => Timestamp::NONE.0,
                    past => -past,
                },
                1 => wall + i64::try_from(self.dice.below(3_000_000)).unwrap_or_default(),
                _ => wall - i64::try_from(self.dice.below(100_000_000)).unwrap_or_default(),
            };
            value = value.timestamp(Timestamp(time));
        }
        if self.dice.chance(100) {
            value = value.key(format!("key {}", self.dice.below(9))).header("shape", self.shape.name);
        }
        let topic = target.topic.clone();
        self.world.history.sent(record, target, true);
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(record);
        match producer.send(&topic, value).await {
            Ok(ack) => Some(answered(record, ack)),
            Err(error) => {
                self.heard(record, Err(error));
                None
            }
        }
    }

    /// Hears answers for as long as `pause`, and longer while too many are missing.
    async fn wait<F>(&self, acks: &mut FuturesUnordered<F>, pause: Duration, going: &watch::Receiver<bool>)
    where
        F: Future<Output = Answered>,
    {
        let mut going = going.clone();
        let mut pause = std::pin::pin!(clock::sleep(pause));
        loop {
            tokio::select! {
                biased;
                Some((record, answer)) = acks.next(), if !acks.is_empty() => self.heard(record, answer),
                () = &mut pause => break,
                // A pause may be long.
                _ = going.changed() => break,
            }
        }
        while acks.len() >= UNANSWERED_MAX
            && let Some((record, answer)) = acks.next().await
        {
            self.heard(record, answer);
        }
    }

    pub(super) fn heard(&self, record: RecordId, answer: Result<(PartitionId, Offset), SendError>) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&record);
        let (outcome, why) = match answer {
            Ok((partition, offset)) => {
                (Outcome::Acked(offset), format!("at {offset} of partition {partition}"))
            }
            Err(error) if error.is_perhaps_written() => (Outcome::Unknown, error.to_string()),
            Err(error) => (Outcome::Failed, error.to_string()),
        };
        self.world.learnt(self.number, record, outcome, why);
    }
}

type Answered = (RecordId, Result<(PartitionId, Offset), SendError>);

async fn answered(record: RecordId, ack: Ack) -> Answered {
    (record, ack.await.map(|place| (place.partition, place.offset)))
}

/// What a true wall clock shows, in ms.
fn producer_wall(now: Duration) -> i64 {
    clock::WALL_AT_START + i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
