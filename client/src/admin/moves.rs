//! Leadership moved by hand.

use quorate_proto::ErrorCode;
use quorate_proto::call::{Call, CallError, Reply};
use quorate_proto::env::Moment;
use quorate_proto::ids::{NodeId, PartitionId, TopicId, TopicName};
use quorate_proto::v1;

use super::Admin;
use crate::error::AdminError;
use crate::leaders::{LookupError, WORD_TIME_MIN, leader_lost, no_leader, refusal};
use crate::retry::Backoff;

/// What [`Admin::transfer_leader`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderChange {
    /// The node leads now.
    Moved,
    /// It led already: nothing was done.
    LedAlready,
}

/// Why one try came to nothing.
enum Missed {
    /// Another try would not help.
    For(AdminError),
    /// Surely not done.
    NotNow(String),
    /// Perhaps done: asking again is harmless.
    Perhaps(String),
}

impl Admin {
    /// Has the leader of a partition hand its leadership to the node `to`, which must hold a replica that has nearly
    /// caught up. Nothing is lost, and producers wait for some tens of milliseconds at most.
    ///
    /// # Errors
    /// `Refused` with the server's words: no such topic or partition; `to` holds no replica of it, is not alive, stops,
    /// or is too far behind; another hand-over is under way. `NoServer` and `TimedOut`: not done. `PerhapsDone`: look
    /// who leads.
    pub async fn transfer_leader(
        &self,
        topic: &str,
        partition: PartitionId,
        to: NodeId,
    ) -> Result<LeaderChange, AdminError> {
        let topic: TopicName = topic.parse()?;
        let after = self.timeout();
        let config = self.leaders.config();
        let deadline = self.env.now() + after;
        let mut backoff = Backoff::new(config.backoff_min, config.backoff_max);
        let mut view = self.leaders.resolve(&topic).await;
        let mut perhaps = false;
        loop {
            let refused = |code, message| AdminError::Refused { code, message };
            let last = match view {
                Ok(view) => {
                    let count = view.partitions.len();
                    if usize::try_from(partition.0).map_or(true, |partition| partition >= count) {
                        let message =
                            format!("topic {topic} has no partition {partition}, only 0 to {}", count - 1);
                        return Err(refused(ErrorCode::UnknownPartition, message));
                    }
                    match self.move_once(&topic, view.id, partition, to, deadline).await {
                        Ok(change) => return Ok(change),
                        Err(Missed::For(error)) => return Err(error),
                        Err(Missed::NotNow(last)) => AdminError::TimedOut { after, last },
                        Err(Missed::Perhaps(reason)) => {
                            perhaps = true;
                            AdminError::PerhapsDone { reason }
                        }
                    }
                }
                Err(LookupError::NoServer(error)) => AdminError::NoServer(error),
                Err(LookupError::NotNow(last)) => AdminError::TimedOut { after, last },
                Err(LookupError::Refused { code, message }) => return Err(refused(code, message)),
                Err(LookupError::UnknownTopic) => {
                    return Err(refused(ErrorCode::UnknownTopic, format!("topic {topic} does not exist")));
                }
            };
            let pause = backoff.pause(&self.env);
            if self.env.now() + pause >= deadline {
                // An earlier try may have been done, whatever became of the last.
                return Err(if perhaps {
                    AdminError::PerhapsDone { reason: last.to_string() }
                } else {
                    last
                });
            }
            self.env.sleep(pause).await;
            self.leaders.ask_elsewhere();
            view = self.leaders.refresh(&topic).await;
        }
    }

    async fn move_once(
        &self,
        topic: &TopicName,
        id: TopicId,
        partition: PartitionId,
        to: NodeId,
        deadline: Moment,
    ) -> Result<LeaderChange, Missed> {
        let Some(leader) = self.leaders.leader(topic, id, partition) else {
            return Err(Missed::NotNow(no_leader(topic, partition)));
        };
        let left = deadline.since(self.env.now()).min(self.leaders.config().request_timeout);
        if left < WORD_TIME_MIN {
            return Err(Missed::NotNow(no_leader(topic, partition)));
        }
        let request = v1::MoveLeaderRequest {
            topic_id: id.to_wire(),
            partition: partition.0,
            to: to.0,
            timeout_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1),
        };
        let answer = self.leaders.ask(leader.channel.address(), Call::MoveLeader(request), left).await;
        let reply = match answer {
            Ok(Reply::MoveLeader(reply)) => reply,
            Ok(_) => return Err(Missed::Perhaps("a server answered another question".to_owned())),
            Err(error @ CallError::Unreachable { .. }) => return Err(Missed::NotNow(leader_lost(&error))),
            Err(error @ CallError::Lost { .. }) => return Err(Missed::Perhaps(error.to_string())),
        };
        let code = reply.error();
        let message = refusal(code, &reply.message);
        if code == ErrorCode::None {
            return Ok(if reply.led_already { LeaderChange::LedAlready } else { LeaderChange::Moved });
        }
        if code == ErrorCode::NotLeader {
            self.leaders.hint(topic, id, partition, reply.leader, reply.leader_epoch);
        }
        Err(if matches!(code, ErrorCode::NotLeader | ErrorCode::NotReady | ErrorCode::UnknownTopicId) {
            Missed::NotNow(message)
        } else if code.is_unknown_outcome() {
            Missed::For(AdminError::PerhapsDone { reason: message })
        } else {
            Missed::For(AdminError::Refused { code, message })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, Fault, soon};

    #[tokio::test(start_paused = true)]
    async fn the_leader_is_asked_and_followed_until_the_right_one_leads() {
        let cluster = Cluster::with_topic("t", 2);
        let admin = cluster.client(1).admin();
        let moved = |partition, to| admin.transfer_leader("t", PartitionId(partition), NodeId(to));
        assert_eq!(soon(moved(0, 3)).await.unwrap(), LeaderChange::Moved);
        assert_eq!(cluster.partition("t", 0).leader, 3);
        assert_eq!(soon(moved(0, 3)).await.unwrap(), LeaderChange::LedAlready);
        // Another one leads by now than the one that is known.
        cluster.move_leader("t", 1, 1);
        assert_eq!(soon(moved(1, 3)).await.unwrap(), LeaderChange::Moved);
        assert_eq!(cluster.partition("t", 1).leader, 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_answer_is_asked_for_again_and_a_refusal_is_final() {
        let cluster = Cluster::with_topic("t", 1);
        let admin = cluster.client(1).admin();
        let moved = |partition, to| admin.transfer_leader("t", PartitionId(partition), NodeId(to));
        cluster.state().admin_faults.extend([Fault::LoseReply]);
        assert_eq!(soon(moved(0, 2)).await.unwrap(), LeaderChange::LedAlready);
        cluster.state().admin_faults.extend([Fault::Refuse(ErrorCode::NotAvailable)]);
        let error = soon(moved(0, 3)).await.unwrap_err();
        assert_eq!(error.to_string(), "no");
        let error = soon(moved(1, 3)).await.unwrap_err();
        assert!(matches!(error, AdminError::Refused { code: ErrorCode::UnknownPartition, .. }), "{error}");
        let error = soon(admin.transfer_leader("u", PartitionId(0), NodeId(1))).await.unwrap_err();
        assert_eq!(error.to_string(), "topic u does not exist");
        cluster.state().admin_faults.extend([Fault::Refuse(ErrorCode::UnknownOutcome)]);
        let error = soon(moved(0, 3)).await.unwrap_err();
        assert!(matches!(error, AdminError::PerhapsDone { .. }), "{error}");
    }
}
