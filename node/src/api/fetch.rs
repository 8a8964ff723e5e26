//! Fetch.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::ErrorCode;
use quorate_proto::ids::Offset;
use quorate_proto::v1::{FetchRequest, FetchResponse};

use super::status::{self, Status};
use super::{Api, epoch};
use crate::partition::{AnswerHold, AnswerRoom, Fetch, FetchError};

/// Reads batches; waits for them as the request says, and for room if it is bounded.
pub(super) async fn fetch(
    api: &Api,
    request: FetchRequest,
    room: Option<&AnswerRoom>,
) -> (FetchResponse, Option<AnswerHold>) {
    let correlation = request.correlation;
    match read(api, request, room).await {
        Ok((response, hold)) => (FetchResponse { correlation, ..response }, hold),
        Err(status) => {
            api.env.metrics.refused("fetch", status.code);
            let (leader, leader_epoch) = status.leader_on_wire();
            let response = FetchResponse {
                correlation,
                error: status.code.into(),
                message: status.message,
                batches: Bytes::new(),
                high_watermark: -1,
                log_start_offset: -1,
                leader,
                leader_epoch,
            };
            (response, None)
        }
    }
}

async fn read(
    api: &Api,
    request: FetchRequest,
    room: Option<&AnswerRoom>,
) -> Result<(FetchResponse, Option<AnswerHold>), Status> {
    let replica = api.replica(&request.topic_id, request.partition)?;
    let offset = u64::try_from(request.offset).map_err(|_| status::invalid("offset must be 0 or more"))?;
    let asked = Fetch {
        epoch: epoch(request.leader_epoch)?,
        offset: Offset(offset),
        bytes_max: request.bytes_max,
        bytes_min: request.bytes_min,
        wait: Duration::from_millis(request.wait_ms.into()),
    };
    match replica.fetch_within(asked, room).await {
        Ok((fetched, hold)) => {
            let response = FetchResponse {
                correlation: 0,
                error: ErrorCode::None.into(),
                message: String::new(),
                batches: fetched.batches,
                high_watermark: fetched.high_watermark.to_wire(),
                log_start_offset: fetched.log_start.to_wire(),
                leader: 0,
                leader_epoch: fetched.epoch.0,
            };
            Ok((response, hold))
        }
        // The reader needs the bounds to find its place again.
        Err(error @ FetchError::OffsetOutOfRange { log_start, high_watermark, .. }) => {
            let status = status::fetch(api.settings.node, &error);
            api.env.metrics.refused("fetch", status.code);
            let response = FetchResponse {
                correlation: 0,
                error: status.code.into(),
                message: status.message,
                batches: Bytes::new(),
                high_watermark: high_watermark.to_wire(),
                log_start_offset: log_start.to_wire(),
                leader: 0,
                leader_epoch: -1,
            };
            Ok((response, None))
        }
        Err(error) => Err(status::fetch(api.settings.node, &error)),
    }
}
