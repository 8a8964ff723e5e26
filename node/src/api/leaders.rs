//! Leadership moved by hand.

use quorate_proto::ErrorCode;
use quorate_proto::ids::{NodeId, PartitionId, TopicId};
use quorate_proto::v1::{MoveLeaderRequest, MoveLeaderResponse};

use super::Api;
use super::status::{self, Status};
use crate::metadata::Leadership;
use crate::partition::NoReplica;
use crate::raft::Transferred;

/// Hands a partition that this node leads to another node.
pub(super) async fn move_leader(api: &Api, request: MoveLeaderRequest) -> MoveLeaderResponse {
    match try_move(api, &request).await {
        Ok(transferred) => MoveLeaderResponse {
            error: ErrorCode::None.into(),
            message: String::new(),
            leader: request.to,
            leader_epoch: -1,
            led_already: transferred == Transferred::LedAlready,
        },
        Err(status) => {
            let (leader, leader_epoch) = status.leader_on_wire();
            MoveLeaderResponse {
                error: status.code.into(),
                message: status.message,
                leader,
                leader_epoch,
                led_already: false,
            }
        }
    }
}

async fn try_move(api: &Api, request: &MoveLeaderRequest) -> Result<Transferred, Status> {
    let me = api.settings.node;
    let parts = api.parts()?;
    let topic =
        TopicId::from_wire(&request.topic_id).ok_or_else(|| status::invalid("topic_id must be 16 bytes"))?;
    let metadata = parts.controller.current();
    let topic =
        metadata.topics.get(&topic).ok_or_else(|| status::no_replica(me, &NoReplica::UnknownTopicId))?;
    let unknown = || NoReplica::UnknownPartition { partitions: topic.partitions.len() };
    let partition =
        topic.partition(PartitionId(request.partition)).ok_or_else(|| status::no_replica(me, &unknown()))?;
    let transferred = parts.raft.transfer(partition.group, NodeId(request.to));
    let transferred = api.env.timeout(api.admin_time(request.timeout_ms), transferred).await;
    let told = || {
        let told = parts.raft.leadership(partition.group);
        told.map(|told| Leadership { term: told.term, leader: told.leader })
    };
    match transferred {
        Ok(Ok(transferred)) => Ok(transferred),
        Ok(Err(error)) => Err(status::transfer(me, &error, told())),
        Err(_elapsed) => Err(status::transfer_unknown()),
    }
}
