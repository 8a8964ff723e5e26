//! Records deleted before an offset.

use quorate_proto::ErrorCode;
use quorate_proto::ids::Offset;
use quorate_proto::v1::{DeleteRecordsRequest, DeleteRecordsResponse};

use super::status::{self, Status};
use super::{Api, epoch};
use crate::partition::{DeleteBefore, DeleteError, Deleted};

/// What stands for "all that can be read now".
const TO_HIGH_WATERMARK: i64 = -1;

/// Deletes records of a partition.
pub(super) async fn delete(api: &Api, request: &DeleteRecordsRequest) -> DeleteRecordsResponse {
    match try_delete(api, request).await {
        Ok(Ok(deleted)) => DeleteRecordsResponse {
            error: ErrorCode::None.into(),
            message: String::new(),
            log_start_offset: deleted.log_start.to_wire(),
            high_watermark: -1,
            leader: 0,
            leader_epoch: deleted.epoch.0,
        },
        Ok(Err(error)) => {
            let (log_start_offset, high_watermark) = match error {
                DeleteError::OffsetOutOfRange { log_start, high_watermark, .. } => {
                    (log_start.to_wire(), high_watermark.to_wire())
                }
                DeleteError::NotLeader { .. }
                | DeleteError::Fenced { .. }
                | DeleteError::UnknownEpoch { .. }
                | DeleteError::NotAvailable
                | DeleteError::Stopping
                | DeleteError::Unknown => (-1, -1),
            };
            let status = status::delete_records(api.settings.node, &error);
            DeleteRecordsResponse { log_start_offset, high_watermark, ..refused(status) }
        }
        Err(status) => refused(status),
    }
}

fn refused(status: Status) -> DeleteRecordsResponse {
    let (leader, leader_epoch) = status.leader_on_wire();
    DeleteRecordsResponse {
        error: status.code.into(),
        message: status.message,
        log_start_offset: -1,
        high_watermark: -1,
        leader,
        leader_epoch,
    }
}

async fn try_delete(
    api: &Api,
    request: &DeleteRecordsRequest,
) -> Result<Result<Deleted, DeleteError>, Status> {
    let replica = api.replica(&request.topic_id, request.partition)?;
    let before = match u64::try_from(request.before_offset) {
        Ok(offset) => DeleteBefore::Offset(Offset(offset)),
        Err(_) if request.before_offset == TO_HIGH_WATERMARK => DeleteBefore::HighWatermark,
        Err(_) => return Err(status::invalid("before_offset must be -1 or more")),
    };
    let deadline = api.env.now() + api.admin_time(request.timeout_ms);
    Ok(replica.delete_records(epoch(request.leader_epoch)?, before, deadline).await)
}
