//! How hard the clients work, and at what: drawn for each run.

use std::time::Duration;

use quorate_client::{Compression, ProducerConfig};
use quorate_proto::ids::{Offset, PartitionId};

use crate::dice::Dice;
use crate::history::Target;

/// The topics that each run has from its beginning to its end, and how many partitions each has.
pub const TOPICS: [(&str, i32); 2] = [("orders", 3), ("audit", 2)];

/// Records a second, of all producers together. Enough for a run of a minute to say something though half of them
/// fail, and few enough for many runs.
const RATE: (u64, u64) = (10, 15);

/// When producers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rhythm {
    /// One record after the other.
    Steady,
    /// Nothing, and then many at once.
    Bursts,
    /// As steadily, but at times nobody says anything for seconds.
    QuietWindows,
    /// Less and less.
    TailOff,
}

/// How much of a topic's logs is kept, as its settings say when it is created; what is not given is as by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// `retention.ms`.
    pub ms: Option<u64>,
    /// `retention.bytes`, of a partition.
    pub bytes: Option<u64>,
}

impl Kept {
    /// Draws little, or nothing in particular: a run writes some ten thousands of bytes to each partition.
    pub fn draw(dice: &mut Dice) -> Self {
        let some_ms = dice.time(Duration::from_millis(500), Duration::from_secs(20)).as_millis();
        let some_bytes = dice.between(500, 20_000);
        Self {
            ms: match dice.below(16) {
                0 => Some(0),
                1..5 => u64::try_from(some_ms).ok(),
                _ => None,
            },
            bytes: match dice.below(16) {
                0 => Some(0),
                1..8 => Some(some_bytes),
                _ => None,
            },
        }
    }

    /// The settings that say so.
    pub(super) fn settings(self) -> impl Iterator<Item = (&'static str, String)> {
        let setting = |key, value: Option<u64>| value.map(|value| (key, value.to_string()));
        [setting("retention.ms", self.ms), setting("retention.bytes", self.bytes)].into_iter().flatten()
    }
}

/// What a run's clients do, as drawn.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Its name.
    pub name: &'static str,
    /// When producers send.
    pub rhythm: Rhythm,
    /// Producers, each a client of its own.
    pub producers: u32,
    /// A partition that gets most of the records, if there is one.
    pub hot: Option<Target>,
    /// Consumers that follow the log, each a client of its own.
    pub followers: u32,
    /// Consumers that seek.
    pub seekers: u32,
    /// Clients made by hand, which do what no SDK does.
    pub by_hand: u32,
    /// Whether topics come and go.
    pub churn: bool,
    /// Whether clients crash and come back.
    pub crashes: bool,
    /// Whether the second topic stamps records when they are appended.
    pub append_time: bool,
    /// How much is kept of each topic that is there from the beginning to the end.
    pub kept: [Kept; TOPICS.len()],
    /// Whether somebody changes that while clients work, and deletes records.
    pub operator: bool,
    /// The mean pause between two records of a producer.
    pub pause: Duration,
    /// How many bytes a value is padded with at most, most of the time.
    pub padding_max: u64,
}

impl Shape {
    /// Draws one: one of eight kinds, each with a bit of the others now and then.
    pub fn draw(dice: &mut Dice) -> Self {
        let rate = dice.between(RATE.0, RATE.1);
        let hot = (dice.place(TOPICS.len()), dice.below(2));
        let (topic, partition) = (TOPICS[hot.0].0, i32::try_from(hot.1).unwrap_or_default());
        let hot = Target { topic: topic.to_owned(), partition: PartitionId(partition) };
        let mut shape = Self {
            name: "steady",
            rhythm: match dice.below(8) {
                0 => Rhythm::Bursts,
                1 => Rhythm::QuietWindows,
                2 => Rhythm::TailOff,
                _ => Rhythm::Steady,
            },
            producers: u32::try_from(dice.between(2, 3)).unwrap_or(2),
            hot: Some(hot.clone()).filter(|_| dice.chance(200)),
            followers: u32::try_from(dice.between(1, 2)).unwrap_or(1),
            seekers: u32::from(dice.chance(250)),
            by_hand: u32::from(dice.chance(600)),
            churn: dice.chance(150),
            crashes: dice.chance(500),
            append_time: dice.chance(300),
            kept: [Kept::default(); TOPICS.len()],
            operator: false,
            pause: Duration::ZERO,
            padding_max: dice.between(0, 400),
        };
        match dice.below(8) {
            0 => shape.rhythm = Rhythm::Steady,
            1 => (shape.name, shape.rhythm) = ("bursts", Rhythm::Bursts),
            2 => (shape.name, shape.rhythm) = ("quiet windows", Rhythm::QuietWindows),
            3 => (shape.name, shape.rhythm) = ("tail-off", Rhythm::TailOff),
            4 => {
                (shape.name, shape.hot) = ("crowd", Some(hot));
                shape.producers = u32::try_from(dice.between(5, 8)).unwrap_or(5);
            }
            5 => (shape.name, shape.churn) = ("churn", true),
            6 => (shape.name, shape.seekers) = ("seekers", 2),
            _ => (shape.name, shape.by_hand) = ("by hand", 2),
        }
        let rate = rate.saturating_sub(u64::from(shape.by_hand)).max(1);
        shape.pause = Duration::from_micros(1_000_000 * u64::from(shape.producers) / rate);
        shape
    }

    /// Draws how much is kept, in half of the runs, and whether that changes.
    pub fn keep(&mut self, dice: &mut Dice) {
        if dice.chance(500) {
            self.kept = self.kept.map(|_| Kept::draw(dice));
            self.operator = dice.chance(500);
        }
    }

    /// Whether records may go.
    pub fn is_trimmed(&self) -> bool {
        self.operator || self.kept.iter().any(|kept| *kept != Kept::default())
    }

    /// Draws the knobs of one producer.
    pub(super) fn producer(dice: &mut Dice) -> ProducerConfig {
        let compression = [
            Compression::None,
            Compression::None,
            Compression::Lz4,
            Compression::Zstd,
            Compression::Snappy,
            Compression::Gzip,
        ];
        let linger = if dice.chance(500) { 0 } else { dice.between(1, 300) };
        ProducerConfig {
            linger: Duration::from_millis(linger),
            batch_bytes_max: usize::try_from(dice.between(200, 8_000)).unwrap_or(1_000),
            in_flight_max: usize::try_from(dice.between(1, 5)).unwrap_or(1),
            delivery_timeout: dice.time(Duration::from_millis(400), Duration::from_secs(24)),
            compression: compression[dice.place(compression.len())],
            auto_create_topics: false,
            ..ProducerConfig::default()
        }
    }

    /// Draws where the next record goes.
    pub(super) fn target(&self, dice: &mut Dice) -> Target {
        if let Some(hot) = &self.hot
            && dice.chance(800)
        {
            return hot.clone();
        }
        any_target(dice)
    }
}

/// Draws a partition of those that are always there.
pub(super) fn any_target(dice: &mut Dice) -> Target {
    let all = TOPICS.iter().map(|(_, partitions)| u64::try_from(*partitions).unwrap_or(1)).sum();
    let mut at = i32::try_from(dice.below(all)).unwrap_or(0);
    for (topic, partitions) in TOPICS {
        if at < partitions {
            return Target { topic: topic.to_owned(), partition: PartitionId(at) };
        }
        at -= partitions;
    }
    Target { topic: TOPICS[0].0.to_owned(), partition: PartitionId(0) }
}

/// Draws an offset around `end`: at the watermark, next to it, or anywhere below.
pub(super) fn around(end: Offset, dice: &mut Dice) -> Offset {
    Offset(match dice.below(5) {
        0 => end.0,
        1 => end.0 + 1,
        2 => end.0.saturating_sub(1),
        _ => dice.below(end.0 + 1),
    })
}
