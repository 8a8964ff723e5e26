//! Lookup of offsets, and where a leader epoch ended.

use quorate_proto::ErrorCode;
use quorate_proto::ids::{LeaderEpoch, Timestamp};
use quorate_proto::v1::{
    EpochEndRequest, EpochEndResponse, ListOffsetRequest, ListOffsetResponse, list_offset_request,
};

use super::status::{self, Status};
use super::{Api, epoch};
use crate::partition::OffsetAt;

/// Looks an offset up.
pub(super) async fn list(api: &Api, request: ListOffsetRequest) -> ListOffsetResponse {
    match find(api, request).await {
        Ok(response) => response,
        Err(status) => {
            api.env.metrics.refused("list_offset", status.code);
            let (leader, leader_epoch) = status.leader_on_wire();
            ListOffsetResponse {
                error: status.code.into(),
                message: status.message,
                offset: -1,
                timestamp_ms: -1,
                leader,
                leader_epoch,
            }
        }
    }
}

async fn find(api: &Api, request: ListOffsetRequest) -> Result<ListOffsetResponse, Status> {
    let replica = api.replica(&request.topic_id, request.partition)?;
    let at = match request.at {
        Some(list_offset_request::At::Earliest(true)) => OffsetAt::Earliest,
        Some(list_offset_request::At::Latest(true)) => OffsetAt::Latest,
        Some(list_offset_request::At::TimestampMs(ms)) => OffsetAt::Timestamp(Timestamp(ms)),
        Some(list_offset_request::At::Earliest(false) | list_offset_request::At::Latest(false)) | None => {
            return Err(status::invalid("say earliest, latest or a timestamp"));
        }
    };
    let found = replica.list_offset(epoch(request.leader_epoch)?, at).await;
    let found = found.map_err(|error| status::fetch(api.settings.node, &error))?;
    Ok(ListOffsetResponse {
        error: ErrorCode::None.into(),
        message: String::new(),
        offset: found.offset.map_or(-1, |offset| offset.to_wire()),
        timestamp_ms: found.timestamp.map_or(-1, |timestamp| timestamp.0),
        leader: 0,
        leader_epoch: found.epoch.0,
    })
}

/// Says where an epoch ended.
pub(super) fn epoch_end(api: &Api, request: &EpochEndRequest) -> EpochEndResponse {
    let ended = api.replica(&request.topic_id, request.partition).and_then(|replica| {
        let current = epoch(request.current_leader_epoch)?;
        let found = replica.epoch_end(current, LeaderEpoch(request.epoch));
        found.map_err(|error| status::fetch(api.settings.node, &error))
    });
    match ended {
        Ok(end) => {
            let (found, end_offset) = end.found.map_or((-1, -1), |(found, end)| (found.0, end.to_wire()));
            EpochEndResponse {
                error: ErrorCode::None.into(),
                message: String::new(),
                epoch: found,
                end_offset,
                leader: 0,
                leader_epoch: end.epoch.0,
            }
        }
        Err(status) => {
            let (leader, leader_epoch) = status.leader_on_wire();
            EpochEndResponse {
                error: status.code.into(),
                message: status.message,
                epoch: -1,
                end_offset: -1,
                leader,
                leader_epoch,
            }
        }
    }
}
