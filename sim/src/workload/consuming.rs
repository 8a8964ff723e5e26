//! Consumers of the SDK: those that follow the log, and those that seek.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_client::{
    Client, ConsumeError, ConsumedRecord, Consumer, ConsumerConfig, Partitions, Reset, Start,
};
use quorate_proto::ids::{Offset, PartitionId, Timestamp};

use super::World;
use super::shape::{TOPICS, any_target, around};
use crate::check::{Seen, StartAt};
use crate::dice::Dice;
use crate::env::clock;
use crate::history::{Read, RecordId, Target};

/// A consumer of the SDK, and what is told of it.
pub(super) struct Consuming {
    world: World,
    number: u32,
    dice: Dice,
    /// Whether it goes to the log start by itself where its position is below.
    resets: bool,
}

impl Consuming {
    pub(super) fn new(world: World, number: u32) -> Self {
        let dice = Dice::named(world.seed, &format!("consumer {number}"));
        let resets = Dice::named(world.seed, &format!("reset of consumer {number}")).chance(300);
        Self { world, number, dice, resets }
    }

    fn consumer(&mut self, client: &Client) -> Consumer {
        client.consumer(ConsumerConfig {
            // Long waits cost less, and a leader may change meanwhile.
            fetch_wait: self.dice.time(Duration::from_millis(500), Duration::from_secs(5)),
            fetch_bytes_max: usize::try_from(self.dice.between(1, 32_768)).unwrap_or(1),
            reset: if self.resets { Reset::Beginning } else { Reset::Fail },
            ..ConsumerConfig::default()
        })
    }

    /// Follows some partitions from the beginning, for as long as it lives; crashes now and then if it may, and goes
    /// on where it was.
    pub(super) async fn follow(mut self, crashes: bool) {
        let mut targets = Vec::new();
        for (topic, partitions) in TOPICS {
            let all = (0..partitions).map(PartitionId);
            let some = all.filter(|_| self.dice.chance(600)).collect::<Vec<_>>();
            targets.extend(some.into_iter().map(|partition| Target { topic: topic.to_owned(), partition }));
        }
        if targets.is_empty() {
            targets.push(any_target(&mut self.dice));
        }
        let mut positions = targets.into_iter().map(|target| (target, None)).collect::<Vec<_>>();
        for life in 0.. {
            let number = self.number + 1_000 * life;
            let (client, process) = self.world.client(number);
            let lasting = if crashes && self.dice.chance(600) {
                self.dice.time(Duration::from_secs(2), Duration::from_secs(40))
            } else {
                Duration::from_secs(1_000_000)
            };
            let mut consumer = self.consumer(&client);
            tokio::select! {
                biased;
                () = self.work(number, &mut consumer, &mut positions) => {}
                () = clock::sleep(lasting) => {}
            }
            self.world.end(&process).await;
            self.follows_no_more(number);
            drop((consumer, client));
            clock::sleep(self.dice.time(Duration::from_millis(5), Duration::from_secs(3))).await;
        }
    }

    async fn work(&self, number: u32, consumer: &mut Consumer, positions: &mut [(Target, Option<Offset>)]) {
        for (target, position) in positions.iter() {
            self.follows(number, target, *position);
            let start = position.map_or(StartAt::Beginning, StartAt::Offset);
            while let Err(error) = self.go(number, consumer, target, start, false).await {
                self.judge(number, &error, None);
                clock::sleep(Duration::from_millis(300)).await;
            }
        }
        loop {
            match self.next(number, consumer).await {
                Ok((target, next)) => {
                    if let Some((_, position)) = positions.iter_mut().find(|(of, _)| *of == target) {
                        *position = Some(next);
                    }
                }
                Err(error) => {
                    self.judge(number, &error, None);
                    if let Some(target) = is_below_the_start(&error) {
                        let next = self.go_on(number, consumer, &target).await;
                        if let Some((_, position)) = positions.iter_mut().find(|(of, _)| *of == target) {
                            *position = Some(next);
                        }
                        continue;
                    }
                    clock::sleep(Duration::from_millis(300)).await;
                    if matches!(error, ConsumeError::NothingAssigned) {
                        return;
                    }
                }
            }
        }
    }

    /// What it was to read next is gone: it goes on at the log start. Gives its position then.
    async fn go_on(&self, number: u32, consumer: &mut Consumer, target: &Target) -> Offset {
        while let Err(error) = self.go(number, consumer, target, StartAt::Beginning, true).await {
            self.judge(number, &error, None);
            clock::sleep(Duration::from_millis(300)).await;
        }
        let next = consumer.position(&target.topic, target.partition).unwrap_or_default();
        if let Some(following) = self.world.history.evidence().following.get_mut(&(number, target.clone())) {
            *following = next;
        }
        self.world.marks.reached("reader-went-on-at-the-log-start");
        next
    }

    /// Reads a partition of a topic that is soon deleted, from the beginning, until it is told so.
    pub(super) async fn read_until_gone(mut self, target: Target) {
        let (client, process) = self.world.client(self.number);
        let mut consumer = self.consumer(&client);
        self.follows(self.number, &target, None);
        let mut result = self.go(self.number, &mut consumer, &target, StartAt::Beginning, false).await;
        loop {
            match &result {
                Ok(()) => {}
                Err(
                    ConsumeError::TopicDeleted { .. }
                    | ConsumeError::UnknownTopic { .. }
                    | ConsumeError::NothingAssigned,
                ) => break,
                Err(error) if is_below_the_start(error).is_some() => {
                    result = self.go(self.number, &mut consumer, &target, StartAt::Beginning, true).await;
                    continue;
                }
                Err(error) => {
                    self.judge(self.number, error, None);
                    clock::sleep(Duration::from_millis(300)).await;
                }
            }
            result = self.next(self.number, &mut consumer).await.map(drop);
        }
        self.follows_no_more(self.number);
        drop((consumer, client));
        self.world.end(&process).await;
    }

    /// Reads all of a topic from its beginning, with the partitions that are added to it, until it is told that the
    /// topic is gone.
    pub(super) async fn read_all_until_gone(mut self, topic: String) {
        // One partition of many: it is not looked at by itself.
        self.resets = true;
        let (client, process) = self.world.client(self.number);
        let mut consumer = self.consumer(&client);
        let mut known = BTreeSet::new();
        loop {
            let result = if known.is_empty() {
                let assigned = consumer.assign(&topic, Partitions::All, Start::Beginning).await;
                if assigned.is_ok() {
                    for (_, partition) in consumer.assigned() {
                        known.insert(partition);
                        let position = consumer.position(&topic, partition).unwrap_or_default();
                        self.begins(&Target { topic: topic.clone(), partition }, position);
                    }
                }
                assigned
            } else {
                self.next_of_all(&mut consumer, &mut known).await
            };
            match &result {
                Ok(()) => {}
                Err(
                    ConsumeError::TopicDeleted { .. }
                    | ConsumeError::UnknownTopic { .. }
                    | ConsumeError::NothingAssigned,
                ) => break,
                Err(error) => {
                    self.judge(self.number, error, None);
                    clock::sleep(Duration::from_millis(300)).await;
                }
            }
        }
        self.follows_no_more(self.number);
        drop((consumer, client));
        self.world.end(&process).await;
    }

    /// The next record; a partition that was added is read from its beginning.
    async fn next_of_all(
        &self,
        consumer: &mut Consumer,
        known: &mut BTreeSet<PartitionId>,
    ) -> Result<(), ConsumeError> {
        let read = consumer.next().await?;
        if known.insert(read.partition) {
            let target = Target { topic: read.topic.as_str().to_owned(), partition: read.partition };
            self.begins(&target, Offset(0));
        }
        self.given(self.number, &read);
        Ok(())
    }

    /// From now on the consumer must be given all that stands there, from `position` on.
    fn begins(&self, target: &Target, position: Offset) {
        let (consumer, start, resets) = (self.number, StartAt::Beginning, self.resets);
        self.world.history.see(&Seen::Assigned { consumer, target, start, position, resets });
        self.follows(self.number, target, Some(position));
    }

    /// Goes here and there in one partition after the other, and reads a little everywhere.
    pub(super) async fn seek(mut self) {
        // It is to hear where it cannot read.
        self.resets = false;
        let (client, _process) = self.world.client(self.number);
        loop {
            let target = any_target(&mut self.dice);
            let mut consumer = self.consumer(&client);
            let mut assigned = false;
            let mut end = Offset(0);
            for _ in 0..self.dice.between(2, 6) {
                let start = match self.dice.below(8) {
                    0 => StartAt::Beginning,
                    1 => StartAt::End,
                    2 | 3 => {
                        let ago = i64::try_from(self.dice.below(70_000)).unwrap_or_default() - 5_000;
                        let now = i64::try_from(clock::now().as_millis()).unwrap_or_default();
                        StartAt::Time(clock::WALL_AT_START + now - ago)
                    }
                    _ => StartAt::Offset(around(end, &mut self.dice)),
                };
                match self.go(self.number, &mut consumer, &target, start, assigned).await {
                    Ok(()) => assigned = true,
                    Err(error) => {
                        self.judge(self.number, &error, Some(start));
                        clock::sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                }
                let count = self.dice.between(1, 40);
                let patience = self.dice.time(Duration::from_millis(200), Duration::from_secs(3));
                tokio::select! {
                    biased;
                    () = self.read_some(&mut consumer, count, start) => {}
                    () = clock::sleep(patience) => {}
                }
                end = consumer.high_watermark(&target.topic, target.partition).unwrap_or(end);
            }
            drop(consumer);
            clock::sleep(self.dice.time(Duration::from_millis(500), Duration::from_secs(6))).await;
        }
    }

    async fn read_some(&self, consumer: &mut Consumer, count: u64, start: StartAt) {
        for _ in 0..count {
            if let Err(error) = self.next(self.number, consumer).await {
                self.judge(self.number, &error, Some(start));
                return;
            }
        }
    }

    /// Begins to read a partition, or goes elsewhere in it.
    async fn go(
        &self,
        number: u32,
        consumer: &mut Consumer,
        target: &Target,
        start: StartAt,
        assigned: bool,
    ) -> Result<(), ConsumeError> {
        let to = match start {
            StartAt::Beginning => Start::Beginning,
            StartAt::End => Start::End,
            StartAt::Offset(offset) => Start::Offset(offset),
            StartAt::Time(time) => Start::Timestamp(Timestamp(time)),
        };
        if assigned {
            consumer.seek(&target.topic, target.partition, to).await?;
        } else {
            consumer.assign(&target.topic, Partitions::Only(vec![target.partition]), to).await?;
        }
        let position = consumer.position(&target.topic, target.partition).unwrap_or_default();
        let resets = self.resets;
        self.world.history.see(&Seen::Assigned { consumer: number, target, start, position, resets });
        Ok(())
    }

    /// The next record, and the position behind it.
    async fn next(&self, number: u32, consumer: &mut Consumer) -> Result<(Target, Offset), ConsumeError> {
        let read = consumer.next().await?;
        Ok(self.given(number, &read))
    }

    /// A consumer was given a record; the position behind it.
    fn given(&self, number: u32, read: &ConsumedRecord) -> (Target, Offset) {
        let target = Target { topic: read.topic.as_str().to_owned(), partition: read.partition };
        let record = read.value.as_deref().and_then(RecordId::parse);
        let (offset, at) = (read.offset, clock::now());
        let told = Read { consumer: number, target: target.clone(), offset, record, at };
        self.world.history.see(&Seen::Read(&told));
        let mut evidence = self.world.history.evidence();
        evidence.reads += 1;
        if let Some(next) = evidence.following.get_mut(&(number, told.target)) {
            *next = offset.plus(1);
        }
        (target, offset.plus(1))
    }

    /// From now on the consumer must be given all that stands there.
    fn follows(&self, number: u32, target: &Target, position: Option<Offset>) {
        let mut evidence = self.world.history.evidence();
        evidence.following.insert((number, target.clone()), position.unwrap_or_default());
    }

    fn follows_no_more(&self, number: u32) {
        self.world.history.evidence().following.retain(|(of, _), _| *of != number);
    }

    /// What a consumer must never be told: nothing is damaged, and these topics are not deleted.
    fn judge(&self, number: u32, error: &ConsumeError, start: Option<StartAt>) {
        let promise = match error {
            ConsumeError::TimedOut { .. } | ConsumeError::NothingAssigned => return,
            // Whether the log may start there is another promise.
            error if is_below_the_start(error).is_some() => return,
            // It was told to begin there, and there is nothing yet.
            ConsumeError::OffsetOutOfRange { offset, high_watermark, .. }
                if offset > high_watermark && matches!(start, Some(StartAt::Offset(_))) =>
            {
                return;
            }
            ConsumeError::Corrupt { .. } => "O-22",
            ConsumeError::OffsetOutOfRange { .. }
            | ConsumeError::Refused { .. }
            | ConsumeError::TopicName(_)
            | ConsumeError::UnknownTopic { .. }
            | ConsumeError::TopicDeleted { .. }
            | ConsumeError::UnknownPartition { .. }
            | ConsumeError::NotAssigned { .. } => "O-16",
        };
        let what = format!(
            "a consumer can read what is there: consumer {number}, sent to {start:?}, was told: {error}"
        );
        self.world.history.complain(promise, what);
    }
}

/// Where a consumer is told that its position is below the log start.
fn is_below_the_start(error: &ConsumeError) -> Option<Target> {
    let ConsumeError::OffsetOutOfRange { topic, partition, offset, log_start, .. } = error else {
        return None;
    };
    (offset < log_start).then(|| Target { topic: topic.as_str().to_owned(), partition: *partition })
}
