//! The one table from our errors to wire codes, each with a sentence that says what to do.

use quorate_proto::ErrorCode;
use quorate_proto::ids::NodeId;

use crate::controller::{AlterTopicError, ControllerError, CreateTopicError, DeleteTopicError};
use crate::metadata::Leadership;
use crate::partition::{DeleteError, FetchError, NoReplica, ProduceError};
use crate::raft::TransferError;

/// An error as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What a program goes by.
    pub code: ErrorCode,
    /// What a person reads.
    pub message: String,
    /// Who leads the partition, where that is what the caller needs.
    pub leader: Option<Leadership>,
}

impl Status {
    fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), leader: None }
    }

    fn led_by(code: ErrorCode, message: String, leader: Option<Leadership>) -> Self {
        Self { code, message, leader }
    }

    /// The leader's node and epoch as they stand in a message: 0 and -1 when not known.
    pub fn leader_on_wire(&self) -> (u32, i32) {
        self.leader.map_or((0, -1), |leader| (leader.leader.0, leader.term.epoch().0))
    }
}

/// A request that makes no sense.
pub fn invalid(message: &str) -> Status {
    Status::new(ErrorCode::InvalidRequest, message)
}

/// This node does not belong to its cluster, not yet or not any more.
pub fn not_ready(reason: &str) -> Status {
    Status::new(ErrorCode::NotReady, format!("this node is not ready ({reason}): ask another one"))
}

/// As node `me` says it: it never sends anybody to itself.
fn not_leader(me: NodeId, leader: Option<Leadership>) -> Status {
    let message = match leader {
        // It led last, or is about to.
        Some(leader) if leader.leader == me => {
            "the partition has no leader that can commit: this node was the last, and no majority hears it (any more, \
             or yet); see whether a majority of nodes runs, and retry"
                .to_owned()
        }
        Some(leader) => format!("this node does not lead the partition: ask node {}", leader.leader),
        None => {
            "the partition has no leader that this node knows of: refresh the metadata and retry; if it stays so, see \
             whether a majority of nodes runs"
                .to_owned()
        }
    };
    Status::led_by(ErrorCode::NotLeader, message, leader)
}

/// No replica to ask on this node, `me`.
pub fn no_replica(me: NodeId, error: &NoReplica) -> Status {
    match error {
        NoReplica::UnknownTopicId => Status::new(
            ErrorCode::UnknownTopicId,
            "no topic has this id: it was deleted, and perhaps created again; refresh the metadata",
        ),
        NoReplica::UnknownPartition { partitions } => Status::new(
            ErrorCode::UnknownPartition,
            format!("no such partition: the topic has {partitions}, numbered from 0"),
        ),
        NoReplica::NotHere { leader } => not_leader(me, *leader),
    }
}

/// A batch that this node, `me`, did not acknowledge.
pub fn produce(me: NodeId, error: &ProduceError) -> Status {
    let with = |code, advice: &str| Status::new(code, format!("{error}{advice}"));
    match error {
        ProduceError::NotLeader { leader } => not_leader(me, *leader),
        ProduceError::Fenced { leader, .. } => Status::led_by(
            ErrorCode::FencedLeaderEpoch,
            format!("{error}; refresh the metadata and retry"),
            *leader,
        ),
        ProduceError::UnknownEpoch { .. } => with(ErrorCode::UnknownLeaderEpoch, "; wait and retry"),
        ProduceError::Overloaded(_) => with(ErrorCode::Overloaded, "; not written: wait and retry"),
        ProduceError::DiskFull { .. } => {
            with(ErrorCode::DiskFull, "; not written: retried, it may find room")
        }
        ProduceError::NotAvailable(_) => with(ErrorCode::NotAvailable, "; retry"),
        ProduceError::Stopping => with(ErrorCode::NotReady, "; not written: refresh the metadata and retry"),
        ProduceError::Batch(error) => Status::new(error.code(), error.to_string()),
        ProduceError::InvalidTimestamp { .. } => with(ErrorCode::InvalidTimestamp, "; correct the clock"),
        ProduceError::TimestampType => with(ErrorCode::CorruptBatch, ""),
        ProduceError::DuplicateSequence => with(ErrorCode::DuplicateSequence, ""),
        ProduceError::OutOfOrder => {
            with(ErrorCode::OutOfOrderSequence, "; send the missing batch first, then this one again")
        }
        ProduceError::InvalidEpoch { .. } => with(
            ErrorCode::InvalidProducerEpoch,
            "; a newer instance of this producer is at work: stop this one",
        ),
        ProduceError::Unknown => {
            let advice = ", retry with the same producer id and sequence; if it stays so, see whether a majority of \
                          nodes runs";
            with(ErrorCode::UnknownOutcome, advice)
        }
    }
}

/// Nothing was read on this node, `me`.
pub fn fetch(me: NodeId, error: &FetchError) -> Status {
    let with = |code, advice: &str| Status::new(code, format!("{error}{advice}"));
    match error {
        FetchError::NotLeader { leader } => not_leader(me, *leader),
        FetchError::Fenced { leader, .. } => Status::led_by(
            ErrorCode::FencedLeaderEpoch,
            format!("{error}; refresh the metadata and retry"),
            *leader,
        ),
        FetchError::UnknownEpoch { .. } => with(ErrorCode::UnknownLeaderEpoch, "; wait and retry"),
        FetchError::OffsetOutOfRange { .. } => {
            with(ErrorCode::OffsetOutOfRange, "; look up the earliest or latest offset")
        }
        FetchError::Overloaded => with(ErrorCode::Overloaded, "; wait and retry"),
        FetchError::NotAvailable => with(ErrorCode::NotAvailable, "; retry"),
        FetchError::Stopping => with(ErrorCode::NotReady, "; refresh the metadata and retry"),
        FetchError::Damaged(_) => with(ErrorCode::CorruptData, "; another replica may have it intact"),
    }
}

/// Records were not deleted on this node, `me`.
pub fn delete_records(me: NodeId, error: &DeleteError) -> Status {
    let with = |code, advice: &str| Status::new(code, format!("{error}{advice}"));
    match error {
        DeleteError::NotLeader { leader } => not_leader(me, *leader),
        DeleteError::Fenced { leader, .. } => Status::led_by(
            ErrorCode::FencedLeaderEpoch,
            format!("{error}; refresh the metadata and retry"),
            *leader,
        ),
        DeleteError::UnknownEpoch { .. } => with(ErrorCode::UnknownLeaderEpoch, "; wait and retry"),
        DeleteError::OffsetOutOfRange { .. } => with(
            ErrorCode::OffsetOutOfRange,
            "; name an offset in that range, or high-watermark (-1) for all of it",
        ),
        DeleteError::NotAvailable => with(ErrorCode::NotAvailable, "; not done: retry"),
        DeleteError::Stopping => with(ErrorCode::NotReady, "; not done: refresh the metadata and retry"),
        DeleteError::Unknown => with(ErrorCode::UnknownOutcome, ", asking again is harmless"),
    }
}

/// This node, `me`, has not handed leadership over; `leader` is who leads as far as it has heard.
pub fn transfer(me: NodeId, error: &TransferError, leader: Option<Leadership>) -> Status {
    match error {
        TransferError::NotLeader { .. } => not_leader(me, leader),
        TransferError::NotAVoter { .. } => Status::new(ErrorCode::InvalidRequest, error.to_string()),
        TransferError::NotAlive { .. }
        | TransferError::Absent { .. }
        | TransferError::Unfit { .. }
        | TransferError::Behind { .. }
        | TransferError::UnderWay { .. } => Status::new(ErrorCode::NotAvailable, error.to_string()),
        TransferError::NotTaken { .. } => Status::new(ErrorCode::UnknownOutcome, error.to_string()),
    }
}

/// A hand-over took longer than was asked for.
pub fn transfer_unknown() -> Status {
    Status::new(
        ErrorCode::UnknownOutcome,
        "leadership was not handed over in time, and may yet be: look who leads",
    )
}

/// A command of the metadata group has no answer.
pub fn controller(error: &ControllerError) -> Status {
    match error {
        ControllerError::NotAvailable => Status::new(
            ErrorCode::NotAvailable,
            format!("{error}: not done; see whether a majority of nodes runs, and retry"),
        ),
        ControllerError::Unknown => {
            Status::new(ErrorCode::UnknownOutcome, format!("{error}; look whether it was before you retry"))
        }
        ControllerError::Refused(refusal) => Status::new(refusal.code, refusal.message.clone()),
    }
}

/// A topic was not created.
pub fn create_topic(error: &CreateTopicError) -> Status {
    match error {
        CreateTopicError::Invalid { code, message } => Status::new(*code, message.clone()),
        CreateTopicError::Controller(error) => controller(error),
    }
}

/// A topic was not changed.
pub fn alter_topic(error: &AlterTopicError) -> Status {
    match error {
        AlterTopicError::Invalid { code, message } => Status::new(*code, message.clone()),
        AlterTopicError::UnknownTopic(_) => Status::new(ErrorCode::UnknownTopic, error.to_string()),
        AlterTopicError::OtherTopic => Status::new(ErrorCode::UnknownTopicId, error.to_string()),
        AlterTopicError::Controller(error) => controller(error),
    }
}

/// A topic was not deleted.
pub fn delete_topic(error: &DeleteTopicError) -> Status {
    match error {
        DeleteTopicError::UnknownTopic(_) => Status::new(ErrorCode::UnknownTopic, error.to_string()),
        DeleteTopicError::OtherTopic => Status::new(ErrorCode::UnknownTopicId, error.to_string()),
        DeleteTopicError::Controller(error) => controller(error),
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::batch::BatchError;
    use quorate_proto::ids::{LeaderEpoch, Offset, ProducerEpoch, Term, Timestamp};

    use super::*;
    use crate::controller::Refusal;
    use crate::storage::DiskRoom;

    fn leader() -> Option<Leadership> {
        Some(Leadership { term: Term(5), leader: NodeId(2) })
    }

    /// The codes that say "perhaps written" come from the errors that mean it, and from no other.
    #[test]
    fn refused_and_unknown_are_never_mixed_up() {
        let (asked, current) = (LeaderEpoch(1), LeaderEpoch(2));
        let room = DiskRoom { free_bytes: 1_200_000_000, reserve_bytes: 2_000_000_000, is_full: true };
        let surely_not = [
            ProduceError::NotLeader { leader: leader() },
            ProduceError::Fenced { asked, current, leader: None },
            ProduceError::UnknownEpoch { asked, current },
            ProduceError::Overloaded("x"),
            ProduceError::DiskFull { node: NodeId(2), room },
            ProduceError::NotAvailable("x"),
            ProduceError::Stopping,
            ProduceError::Batch(BatchError::TooLarge { found: 2, limit: 1 }),
            ProduceError::Batch(BatchError::Magic(1)),
            ProduceError::TimestampType,
            ProduceError::InvalidTimestamp { timestamp: Timestamp(1), ahead_ms_max: 0 },
            ProduceError::DuplicateSequence,
            ProduceError::OutOfOrder,
            ProduceError::InvalidEpoch { asked: ProducerEpoch(1), current: ProducerEpoch(2) },
        ];
        for error in surely_not {
            let status = produce(NodeId(1), &error);
            assert!(!status.code.is_unknown_outcome() && status.code != ErrorCode::None, "{error:?}");
        }
        let (log_start, high_watermark) = (Offset(1), Offset(2));
        let surely_not_deleted = [
            DeleteError::NotLeader { leader: leader() },
            DeleteError::Fenced { asked, current, leader: None },
            DeleteError::UnknownEpoch { asked, current },
            DeleteError::OffsetOutOfRange { offset: Offset(9), log_start, high_watermark },
            DeleteError::NotAvailable,
            DeleteError::Stopping,
        ];
        for error in surely_not_deleted {
            let status = delete_records(NodeId(1), &error);
            assert!(!status.code.is_unknown_outcome() && status.code != ErrorCode::None, "{error:?}");
        }
        assert!(delete_records(NodeId(1), &DeleteError::Unknown).code.is_unknown_outcome());
        assert!(produce(NodeId(1), &ProduceError::Unknown).code.is_unknown_outcome());
        assert!(controller(&ControllerError::Unknown).code.is_unknown_outcome());
        assert!(!controller(&ControllerError::NotAvailable).code.is_unknown_outcome());
    }

    #[test]
    fn a_full_disk_is_named_and_what_to_do() {
        let room = DiskRoom { free_bytes: 1_200_000_000, reserve_bytes: 2_000_000_000, is_full: true };
        let status = produce(NodeId(1), &ProduceError::DiskFull { node: NodeId(2), room });
        assert_eq!(status.code, ErrorCode::DiskFull);
        assert!(status.code.is_retriable());
        let said = "disk nearly full on node 2: 1.2 GB free, 2 GB kept in reserve; free space there";
        assert!(status.message.starts_with(said), "{status:?}");
    }

    #[test]
    fn who_leads_is_said() {
        let said = |me, leader| {
            [
                produce(me, &ProduceError::NotLeader { leader }),
                fetch(me, &FetchError::NotLeader { leader }),
                no_replica(me, &NoReplica::NotHere { leader }),
            ]
        };
        for (me, message) in [
            (NodeId(1), "this node does not lead the partition: ask node 2"),
            (NodeId(2), "the partition has no leader that can commit: this node was the last"),
        ] {
            for status in said(me, leader()) {
                assert_eq!(status.code, ErrorCode::NotLeader);
                assert_eq!(status.leader_on_wire(), (2, 5));
                assert!(status.message.starts_with(message), "{status:?}");
            }
        }
        for status in said(NodeId(1), None) {
            assert_eq!(status.leader_on_wire(), (0, -1));
        }
    }

    #[test]
    fn a_hand_over_is_refused_with_what_to_do() {
        let to = NodeId(2);
        let check = |error: TransferError, code: ErrorCode, said: &str| {
            let status = transfer(NodeId(1), &error, None);
            assert_eq!((status.code, status.message.as_str()), (code, said));
        };
        check(
            TransferError::NotAVoter { to, voters: vec![NodeId(1), NodeId(3)] },
            ErrorCode::InvalidRequest,
            "node 2 holds no replica of the partition that may vote; choose one of: 1, 3",
        );
        check(
            TransferError::NotAlive { to },
            ErrorCode::NotAvailable,
            "node 2 is not alive: see `quorate cluster status`",
        );
        check(
            TransferError::Behind { to, entries: 12 },
            ErrorCode::NotAvailable,
            "node 2 is 12 entries behind: wait until it has caught up, and retry",
        );
        let unknown = [transfer(NodeId(1), &TransferError::NotTaken { to }, None), transfer_unknown()];
        assert!(unknown.iter().all(|status| status.code.is_unknown_outcome()));
        let elsewhere = transfer(NodeId(1), &TransferError::NotLeader { leader: None }, leader());
        assert_eq!((elsewhere.code, elsewhere.leader_on_wire()), (ErrorCode::NotLeader, (2, 5)));
    }

    #[test]
    fn what_the_group_refused_is_passed_on() {
        let refusal = Refusal { code: ErrorCode::TopicExists, message: "why".into() };
        let status = create_topic(&CreateTopicError::Controller(ControllerError::Refused(refusal)));
        assert_eq!((status.code, status.message.as_str()), (ErrorCode::TopicExists, "why"));
        let invalid = AlterTopicError::Invalid { code: ErrorCode::InvalidConfig, message: "why".into() };
        let status = alter_topic(&invalid);
        assert_eq!((status.code, status.message.as_str()), (ErrorCode::InvalidConfig, "why"));
    }
}
