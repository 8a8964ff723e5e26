//! An offset of a partition, as its leader says.

use quorate_proto::ErrorCode;
use quorate_proto::call::{Call, Reply};
use quorate_proto::env::Moment;
use quorate_proto::ids::{Offset, PartitionId, Timestamp, TopicId, TopicName};
use quorate_proto::v1;

use super::Admin;
use crate::error::AdminError;
use crate::leaders::{LookupError, WORD_TIME_MIN, leader_lost, no_leader, refusal};
use crate::retry::Backoff;

/// Which offset is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetAt {
    /// First offset that can still be read.
    Earliest,
    /// The high watermark.
    Latest,
    /// First record whose timestamp is at or after this one.
    Timestamp(Timestamp),
}

/// An offset that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetFound {
    /// The position.
    pub offset: Offset,
    /// The record's, if one was looked for.
    pub timestamp: Option<Timestamp>,
}

/// Why a leader gave no offset.
enum Missed {
    Refused {
        code: ErrorCode,
        message: String,
    },
    NotNow(String),
    /// It was not asked.
    NoTime,
}

impl Admin {
    /// An offset of a partition; `None` when no record is that late. `Latest` is read with a quorum's word that it is
    /// the latest.
    ///
    /// # Errors
    /// `Refused`: unknown topic or partition. `NoServer` and `TimedOut`.
    pub async fn list_offset(
        &self,
        topic: &str,
        partition: PartitionId,
        at: OffsetAt,
    ) -> Result<Option<OffsetFound>, AdminError> {
        let topic: TopicName = topic.parse()?;
        self.offset(&topic, partition, at).await
    }

    /// Asks the leader of a partition, and looks for it as long as there is time.
    pub(crate) async fn offset(
        &self,
        topic: &TopicName,
        partition: PartitionId,
        at: OffsetAt,
    ) -> Result<Option<OffsetFound>, AdminError> {
        let after = self.timeout();
        let config = self.leaders.config();
        let deadline = self.env.now() + after;
        let mut backoff = Backoff::new(config.backoff_min, config.backoff_max);
        let mut view = self.leaders.resolve_with(topic, partition).await;
        let mut before = None;
        loop {
            let last = match view {
                Ok(view) => {
                    if !view.has(partition) {
                        let last = view.partitions.len() - 1;
                        let message = format!("topic {topic} has no partition {partition}, only 0 to {last}");
                        return Err(AdminError::Refused { code: ErrorCode::UnknownPartition, message });
                    }
                    match self.offset_once(topic, view.id, partition, at, deadline).await {
                        Ok(found) => return Ok(found),
                        Err(Missed::Refused { code, message }) => {
                            return Err(AdminError::Refused { code, message });
                        }
                        Err(Missed::NotNow(last)) => AdminError::TimedOut { after, last },
                        Err(Missed::NoTime) => {
                            let last = no_leader(topic, partition);
                            return Err(before.unwrap_or(AdminError::TimedOut { after, last }));
                        }
                    }
                }
                Err(LookupError::NoServer(error)) => AdminError::NoServer(error),
                Err(LookupError::NotNow(last)) => AdminError::TimedOut { after, last },
                Err(LookupError::Refused { code, message }) => {
                    return Err(AdminError::Refused { code, message });
                }
                Err(LookupError::UnknownTopic) => {
                    let message = format!("topic {topic} does not exist");
                    return Err(AdminError::Refused { code: ErrorCode::UnknownTopic, message });
                }
            };
            let pause = backoff.pause(&self.env);
            if self.env.now() + pause >= deadline {
                return Err(last);
            }
            before = Some(last);
            self.env.sleep(pause).await;
            self.leaders.ask_elsewhere();
            view = self.leaders.refresh(topic).await;
        }
    }

    async fn offset_once(
        &self,
        topic: &TopicName,
        id: TopicId,
        partition: PartitionId,
        at: OffsetAt,
        deadline: Moment,
    ) -> Result<Option<OffsetFound>, Missed> {
        let Some(leader) = self.leaders.leader(topic, id, partition) else {
            return Err(Missed::NotNow(no_leader(topic, partition)));
        };
        let request = v1::ListOffsetRequest {
            topic_id: id.to_wire(),
            partition: partition.0,
            leader_epoch: leader.epoch.0,
            at: Some(match at {
                OffsetAt::Earliest => v1::list_offset_request::At::Earliest(true),
                OffsetAt::Latest => v1::list_offset_request::At::Latest(true),
                OffsetAt::Timestamp(timestamp) => v1::list_offset_request::At::TimestampMs(timestamp.0),
            }),
        };
        let left = deadline.since(self.env.now()).min(self.leaders.config().request_timeout);
        if left < WORD_TIME_MIN {
            // What came before says more than our own haste.
            return Err(Missed::NoTime);
        }
        let call = Call::ListOffset(request);
        let reply = self.leaders.ask_leader(topic, id, partition, &leader, call, left).await;
        let reply = match reply {
            Ok(Reply::ListOffset(reply)) => reply,
            Ok(_) => return Err(Missed::NotNow("a server answered another question".to_owned())),
            Err(error) => return Err(Missed::NotNow(leader_lost(&error))),
        };
        let code = reply.error();
        if code != ErrorCode::None {
            self.leaders.hint(topic, id, partition, reply.leader, reply.leader_epoch);
            let message = refusal(code, &reply.message);
            // One that denies what others know of lags behind.
            let denied = code == ErrorCode::UnknownTopicId || code == ErrorCode::UnknownPartition;
            let later = code.is_retriable() || denied;
            return Err(if later { Missed::NotNow(message) } else { Missed::Refused { code, message } });
        }
        let Ok(offset) = u64::try_from(reply.offset) else { return Ok(None) };
        let timestamp = match at {
            OffsetAt::Timestamp(_) => Some(Timestamp(reply.timestamp_ms)),
            OffsetAt::Earliest | OffsetAt::Latest => None,
        };
        Ok(Some(OffsetFound { offset: Offset(offset), timestamp }))
    }
}
