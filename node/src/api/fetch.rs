//! Fetch.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::ErrorCode;
use quorate_proto::ids::Offset;
use quorate_proto::v1::{FetchRequest, FetchResponse};

use super::status::{self, Status};
use super::{Api, epoch};
use crate::partition::{Fetch, FetchError};

/// Reads batches; waits for them as the request says.
pub(super) async fn fetch(api: &Api, request: FetchRequest) -> FetchResponse {
    let correlation = request.correlation;
    match read(api, request).await {
        Ok(response) => FetchResponse { correlation, ..response },
        Err(status) => {
            metrics::counter!("quorate_fetch_errors_total", "error" => status.code.as_str_name())
                .increment(1);
            let (leader, leader_epoch) = status.leader_on_wire();
            FetchResponse {
                correlation,
                error: status.code.into(),
                message: status.message,
                batches: Bytes::new(),
                high_watermark: -1,
                log_start_offset: -1,
                leader,
                leader_epoch,
            }
        }
    }
}

async fn read(api: &Api, request: FetchRequest) -> Result<FetchResponse, Status> {
    let replica = api.replica(&request.topic_id, request.partition)?;
    let offset = u64::try_from(request.offset).map_err(|_| status::invalid("offset must be 0 or more"))?;
    let asked = Fetch {
        epoch: epoch(request.leader_epoch)?,
        offset: Offset(offset),
        bytes_max: request.bytes_max,
        bytes_min: request.bytes_min,
        wait: Duration::from_millis(request.wait_ms.into()),
    };
    match replica.fetch(asked).await {
        Ok(fetched) => {
            let bytes = u64::try_from(fetched.batches.len()).unwrap_or(u64::MAX);
            metrics::counter!("quorate_fetch_bytes_total").increment(bytes);
            Ok(FetchResponse {
                correlation: 0,
                error: ErrorCode::None.into(),
                message: String::new(),
                batches: fetched.batches,
                high_watermark: fetched.high_watermark.to_wire(),
                log_start_offset: fetched.log_start.to_wire(),
                leader: 0,
                leader_epoch: fetched.epoch.0,
            })
        }
        // The reader needs the bounds to find its place again.
        Err(error @ FetchError::OffsetOutOfRange { log_start, high_watermark, .. }) => {
            let status = status::fetch(&error);
            Ok(FetchResponse {
                correlation: 0,
                error: status.code.into(),
                message: status.message,
                batches: Bytes::new(),
                high_watermark: high_watermark.to_wire(),
                log_start_offset: log_start.to_wire(),
                leader: 0,
                leader_epoch: -1,
            })
        }
        Err(error) => Err(status::fetch(&error)),
    }
}
