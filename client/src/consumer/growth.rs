//! Watches a topic that is read as a whole, and finds the partitions that are added to it.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::env::{Env, Moment};
use quorate_proto::ids::{Offset, PartitionId, TopicId, TopicName};
use tokio::sync::mpsc;

use super::Key;
use super::fetcher::MISSING;
use crate::admin::{Admin, OffsetAt};
use crate::leaders::{FOLLOW, Leaders, LookupError};

/// Partitions that were found and are not read yet; the watch waits when there are as many.
pub(super) const FOUND_MAX: usize = 64;

/// A partition that was added to a topic.
pub(super) struct Added {
    pub(super) key: Key,
    pub(super) id: TopicId,
    /// First record that can be read of it: nobody has read it before.
    pub(super) position: Offset,
}

/// One topic that is watched.
pub(super) struct Growth {
    pub(super) env: Env,
    pub(super) leaders: Arc<Leaders>,
    pub(super) admin: Admin,
    pub(super) topic: TopicName,
    pub(super) id: TopicId,
    /// Partitions below this number are known.
    pub(super) known: usize,
    /// How old what is known of the topic may grow.
    pub(super) age: Duration,
    pub(super) found: mpsc::Sender<Added>,
}

impl Growth {
    /// Watches until the topic is gone or another one, or the consumer is gone.
    pub(super) async fn run(mut self) {
        let mut missing_since: Option<Moment> = None;
        loop {
            let view = match self.leaders.refresh_older_than(&self.topic, self.age).await {
                Ok(view) => view,
                Err(error) => {
                    let now = self.env.now();
                    let gone = match error {
                        // Those who read the other partitions find it gone too, and say so.
                        LookupError::UnknownTopic => now.since(*missing_since.get_or_insert(now)) >= MISSING,
                        // Somebody could not say: that takes nothing back.
                        LookupError::NotNow(_) => false,
                        LookupError::NoServer(_) | LookupError::Refused { .. } => {
                            missing_since = None;
                            false
                        }
                    };
                    if gone {
                        return;
                    }
                    self.env.sleep(self.age).await;
                    continue;
                }
            };
            missing_since = None;
            if view.id != self.id {
                return;
            }
            while self.known < view.partitions.len() {
                let Some(added) = self.locate(self.known).await else { break };
                if self.found.send(added).await.is_err() {
                    return;
                }
                self.known += 1;
            }
            self.env.sleep(self.age.min(FOLLOW)).await;
        }
    }

    /// Where a new partition begins; `None` if nobody says so now.
    async fn locate(&self, number: usize) -> Option<Added> {
        let partition = PartitionId(i32::try_from(number).ok()?);
        let found = self.admin.offset(&self.topic, partition, OffsetAt::Earliest).await.ok()??;
        let key = (self.topic.clone(), partition);
        Some(Added { key, id: self.id, position: found.offset })
    }
}
