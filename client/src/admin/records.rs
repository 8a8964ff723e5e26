//! Records deleted before an offset.

use quorate_proto::ErrorCode;
use quorate_proto::call::{Call, CallError, Reply};
use quorate_proto::env::Moment;
use quorate_proto::ids::{Offset, PartitionId, TopicId, TopicName};
use quorate_proto::v1;

use super::{ANSWER_TIME, Admin, OffsetAt, within};
use crate::error::AdminError;
use crate::leaders::{LookupError, WORD_TIME_MIN, leader_lost, no_leader, refusal};
use crate::retry::Backoff;

/// Up to where records are to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteBefore {
    /// Those before this offset.
    Offset(Offset),
    /// All that can be read when this is asked; what is written meanwhile stays.
    HighWatermark,
}

/// Why a leader has not deleted them.
enum Missed {
    Refused {
        code: ErrorCode,
        message: String,
    },
    /// Surely not done by this attempt.
    NotNow(String),
    /// Perhaps done; it may be asked again.
    Perhaps(String),
    /// It was not asked.
    NoTime,
}

impl Admin {
    /// Deletes the records of a partition before an offset, for ever, and gives the first offset that can still be read.
    /// On return a majority has agreed on it. What is deleted already is deleted; asking again is harmless.
    ///
    /// # Errors
    /// `Refused`: unknown topic or partition, or an offset past the high watermark. `NoServer` and `TimedOut`: not done.
    /// `PerhapsDone`: ask again.
    pub async fn delete_records(
        &self,
        topic: &str,
        partition: PartitionId,
        before: DeleteBefore,
    ) -> Result<Offset, AdminError> {
        let topic: TopicName = topic.parse()?;
        let before = match before {
            DeleteBefore::Offset(offset) => offset,
            // Looked up first: asked again after a lost answer, it must not mean what was written since.
            DeleteBefore::HighWatermark => {
                let latest = self.offset(&topic, partition, OffsetAt::Latest).await?;
                latest.map_or(Offset(0), |found| found.offset)
            }
        };
        let after = self.timeout();
        let config = self.leaders.config();
        let deadline = self.env.now() + after;
        let mut backoff = Backoff::new(config.backoff_min, config.backoff_max);
        let mut view = self.leaders.resolve_with(&topic, partition).await;
        let (mut last, mut perhaps) = (None, false);
        loop {
            let missed = match view {
                Ok(view) => {
                    if !view.has(partition) {
                        let last = view.partitions.len() - 1;
                        let message = format!("topic {topic} has no partition {partition}, only 0 to {last}");
                        return Err(refused(perhaps, ErrorCode::UnknownPartition, message));
                    }
                    match self.delete_once(&topic, view.id, partition, before, deadline).await {
                        Ok(log_start) => return Ok(log_start),
                        Err(Missed::Refused { code, message }) => {
                            return Err(refused(perhaps, code, message));
                        }
                        Err(Missed::NotNow(reason)) => Some(AdminError::TimedOut { after, last: reason }),
                        Err(Missed::Perhaps(reason)) => {
                            perhaps = true;
                            Some(AdminError::TimedOut { after, last: reason })
                        }
                        Err(Missed::NoTime) => None,
                    }
                }
                Err(LookupError::NoServer(error)) => Some(AdminError::NoServer(error)),
                Err(LookupError::NotNow(reason)) => Some(AdminError::TimedOut { after, last: reason }),
                Err(LookupError::Refused { code, message }) => {
                    return Err(refused(perhaps, code, message));
                }
                Err(LookupError::UnknownTopic) => {
                    let message = format!("topic {topic} does not exist");
                    return Err(refused(perhaps, ErrorCode::UnknownTopic, message));
                }
            };
            let has_time = missed.is_some();
            last = missed.or(last);
            let pause = backoff.pause(&self.env);
            if !has_time || self.env.now() + pause >= deadline {
                let none = || AdminError::TimedOut { after, last: no_leader(&topic, partition) };
                let error = last.unwrap_or_else(none);
                return Err(if perhaps {
                    AdminError::PerhapsDone { reason: error.to_string() }
                } else {
                    error
                });
            }
            self.env.sleep(pause).await;
            self.leaders.ask_elsewhere();
            view = self.leaders.refresh(&topic).await;
        }
    }

    async fn delete_once(
        &self,
        topic: &TopicName,
        id: TopicId,
        partition: PartitionId,
        before: Offset,
        deadline: Moment,
    ) -> Result<Offset, Missed> {
        let Some(leader) = self.leaders.leader(topic, id, partition) else {
            return Err(Missed::NotNow(no_leader(topic, partition)));
        };
        let request = v1::DeleteRecordsRequest {
            topic_id: id.to_wire(),
            partition: partition.0,
            leader_epoch: leader.epoch.0,
            before_offset: i64::try_from(before.0).unwrap_or(i64::MAX),
            timeout_ms: 0,
        };
        let left = deadline.since(self.env.now()).min(self.leaders.config().request_timeout);
        if left < WORD_TIME_MIN {
            return Err(Missed::NoTime);
        }
        let call = within(Call::DeleteRecords(request), left.saturating_sub(ANSWER_TIME.min(left / 4)));
        let reply = match self.leaders.ask_leader(topic, id, partition, &leader, call, left).await {
            Ok(Reply::DeleteRecords(reply)) => reply,
            Ok(_) => return Err(Missed::Perhaps("a server answered another question".to_owned())),
            Err(error @ CallError::Unreachable { .. }) => return Err(Missed::NotNow(leader_lost(&error))),
            Err(error @ CallError::Lost { .. }) => return Err(Missed::Perhaps(leader_lost(&error))),
        };
        let code = reply.error();
        if code == ErrorCode::None {
            return match u64::try_from(reply.log_start_offset) {
                Ok(log_start) => Ok(Offset(log_start)),
                Err(_) => Err(Missed::Perhaps("a server answered without the log start".to_owned())),
            };
        }
        self.leaders.hint(topic, id, partition, reply.leader, reply.leader_epoch);
        let message = refusal(code, &reply.message);
        if code.is_unknown_outcome() {
            return Err(Missed::Perhaps(message));
        }
        // One that denies what others know of lags behind.
        let denied = code == ErrorCode::UnknownTopicId || code == ErrorCode::UnknownPartition;
        let later = code.is_retriable() || denied;
        Err(if later { Missed::NotNow(message) } else { Missed::Refused { code, message } })
    }
}

/// A refusal says nothing of an earlier attempt whose answer was lost.
fn refused(perhaps: bool, code: ErrorCode, message: String) -> AdminError {
    if perhaps { AdminError::PerhapsDone { reason: message } } else { AdminError::Refused { code, message } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, Fault, soon};

    #[tokio::test(start_paused = true)]
    async fn records_are_deleted_up_to_an_offset_or_all() {
        let cluster = Cluster::with_topic("t", 2);
        let admin = cluster.client(1).admin();
        cluster.write("t", 1, &["a", "b", "c"]);
        let delete = |before| soon(admin.delete_records("t", PartitionId(1), before));
        let before = |offset| DeleteBefore::Offset(Offset(offset));
        assert_eq!(delete(before(2)).await, Ok(Offset(2)));
        assert_eq!(delete(before(1)).await, Ok(Offset(2)), "that is deleted already");
        assert_eq!(delete(DeleteBefore::HighWatermark).await, Ok(Offset(3)));
        let error = delete(before(9)).await.unwrap_err();
        assert!(matches!(error, AdminError::Refused { code: ErrorCode::OffsetOutOfRange, .. }), "{error}");
        let error = soon(admin.delete_records("t", PartitionId(2), before(1))).await.unwrap_err();
        assert_eq!(error.to_string(), "topic t has no partition 2, only 0 to 1");
        let error = soon(admin.delete_records("none", PartitionId(0), before(1))).await.unwrap_err();
        assert_eq!(error.to_string(), "topic none does not exist");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_answer_is_asked_for_again() {
        let cluster = Cluster::with_topic("t", 1);
        let admin = cluster.client(1).admin();
        cluster.write("t", 0, &["a", "b"]);
        cluster.state().admin_faults.extend([Fault::LoseReply, Fault::Refuse(ErrorCode::NotAvailable)]);
        let deleted = soon(admin.delete_records("t", PartitionId(0), DeleteBefore::HighWatermark)).await;
        assert_eq!(deleted, Ok(Offset(2)));
    }
}
