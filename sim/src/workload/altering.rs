//! Topics that change while they are written to and read: what they are set to, and how many partitions they have.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use quorate_client::{AdminError, Client, ConfigChanges};
use quorate_proto::ids::{Offset, PartitionId};

use super::World;
use crate::dice::Dice;
use crate::env::clock;
use crate::history::Target;

/// A topic is not made larger than this.
const PARTITIONS_MAX: u32 = 5;
/// Batches of this many bytes are always taken: a record may be refused here and there, and never all of them.
const MESSAGE_BYTES_MIN: u64 = 2_000;

/// Who changes topics.
pub(super) struct Altering {
    world: World,
    client: Client,
    dice: Dice,
}

impl Altering {
    pub(super) fn new(world: World, client: Client, number: u32) -> Self {
        let dice = Dice::named(world.seed, &format!("altering {number}"));
        Self { world, client, dice }
    }

    /// Whether the next topic is read as a whole.
    pub(super) fn wants_a_whole_reader(&mut self) -> bool {
        self.dice.chance(500)
    }

    /// Changes a topic now and then, until this is dropped. `partitions` is how many may be written to, and grows;
    /// `reader` reads the whole topic.
    pub(super) async fn work(&mut self, topic: &str, partitions: &AtomicU32, reader: Option<u32>) {
        loop {
            clock::sleep(self.dice.time(Duration::from_millis(50), Duration::from_secs(2))).await;
            let there = partitions.load(Ordering::Relaxed);
            if there < PARTITIONS_MAX && self.dice.chance(400) {
                let more = u32::try_from(self.dice.between(1, 2)).unwrap_or(1);
                let total = (there + more).min(PARTITIONS_MAX);
                if self.grow(topic, there, total, reader).await {
                    partitions.store(total, Ordering::Relaxed);
                }
            } else {
                self.configure(topic).await;
            }
        }
    }

    /// Adds partitions; whether they may be there now.
    async fn grow(&self, topic: &str, there: u32, total: u32, reader: Option<u32>) -> bool {
        match self.client.admin().add_partitions(topic, total).await {
            Ok(()) => {
                self.world.marks.reached("partitions-added-under-load");
                if let Some(reader) = reader {
                    self.owe(topic, there..total, reader);
                }
                true
            }
            Err(AdminError::PerhapsDone { .. }) => true,
            Err(_) => false,
        }
    }

    /// A reader of the whole topic that is still at work must come to the end of new partitions too.
    fn owe(&self, topic: &str, added: std::ops::Range<u32>, reader: u32) {
        let mut evidence = self.world.history.evidence();
        let target = |number: u32| {
            let partition = PartitionId(i32::try_from(number).unwrap_or_default());
            (reader, Target { topic: topic.to_owned(), partition })
        };
        if evidence.following.contains_key(&target(0)) {
            for number in added {
                evidence.following.entry(target(number)).or_insert(Offset(0));
            }
        }
    }

    async fn configure(&mut self, topic: &str) {
        let changes = ConfigChanges::new();
        let changes = match self.dice.below(5) {
            0 => {
                let bytes = self.dice.between(MESSAGE_BYTES_MIN, 40 * MESSAGE_BYTES_MIN);
                changes.set("max.message.bytes", bytes.to_string())
            }
            1 => changes.set("message.timestamp.type", "LogAppendTime"),
            2 => changes.set("message.timestamp.type", "CreateTime"),
            // Bounds that nothing here comes near to.
            3 => changes.set("retention.ms", "-1").set("retention.bytes", "9223372036854775807"),
            _ => changes.reset("max.message.bytes").reset("message.timestamp.type"),
        };
        if self.client.admin().configure_topic(topic, changes).await.is_ok() {
            self.world.marks.reached("settings-changed-under-load");
        }
    }
}
