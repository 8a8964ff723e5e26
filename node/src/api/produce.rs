//! Produce, and the producer ids that make retries safe.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quorate_proto::ErrorCode;
use quorate_proto::call::Reply;
use quorate_proto::v1::{InitProducerResponse, ProduceRequest, ProduceResponse};

use super::status::{self, Status};
use super::{Api, epoch};
use crate::env::{Env, Point};

/// The longest that a request without a time of its own waits; the partition has a bound of its own as well.
const TIME_MAX: Duration = Duration::from_secs(3_600);

/// How late an answer may be, where a [`Point`] makes it so.
const LATE_MAX: Duration = Duration::from_millis(300);

/// Admits the batch in this call; the future is its answer.
pub(super) fn produce(api: &Api, request: ProduceRequest) -> BoxFuture<'static, Reply> {
    let correlation = request.correlation;
    let admitted = api.replica(&request.topic_id, request.partition).and_then(|replica| {
        let epoch = epoch(request.leader_epoch)?;
        let time = match request.timeout_ms {
            0 => TIME_MAX,
            ms => Duration::from_millis(ms.into()),
        };
        Ok(replica.produce(epoch, request.batch, api.env.now() + time))
    });
    let outcome = match admitted {
        Ok(outcome) => outcome,
        Err(status) => {
            return std::future::ready(Reply::Produce(refused(&api.env, correlation, status))).boxed();
        }
    };
    let (clock, admitted, me) = (api.env.clone(), api.env.now(), api.settings.node);
    async move {
        let outcome = outcome.await;
        clock.dawdle(Point::ProduceAnsweredLate, LATE_MAX).await;
        clock.metrics.produce_time.observe(clock.now().since(admitted));
        Reply::Produce(match outcome {
            Ok(produced) => ProduceResponse {
                correlation,
                error: ErrorCode::None.into(),
                message: String::new(),
                base_offset: produced.base_offset.to_wire(),
                log_append_time_ms: produced.log_append_time.map_or(-1, |time| time.0),
                log_start_offset: produced.log_start.to_wire(),
                leader: 0,
                leader_epoch: produced.epoch.0,
            },
            Err(error) => refused(&clock, correlation, status::produce(me, &error)),
        })
    }
    .boxed()
}

fn refused(env: &Env, correlation: u64, status: Status) -> ProduceResponse {
    env.metrics.refused("produce", status.code);
    let (leader, leader_epoch) = status.leader_on_wire();
    ProduceResponse {
        correlation,
        error: status.code.into(),
        message: status.message,
        base_offset: -1,
        log_append_time_ms: -1,
        log_start_offset: -1,
        leader,
        leader_epoch,
    }
}

/// Hands out a producer id.
pub(super) async fn init(api: &Api) -> InitProducerResponse {
    let time = api.admin_time(0);
    let id = match api.parts() {
        Ok(_) if api.env.perturb(Point::NoProducerId) => Err(status::not_ready("it is busy")),
        Ok(parts) => parts.controller.producer_id(time).await.map_err(|error| status::controller(&error)),
        Err(status) => Err(status),
    };
    match id {
        Ok(id) => InitProducerResponse {
            error: ErrorCode::None.into(),
            message: String::new(),
            producer_id: id.0,
            producer_epoch: 0,
        },
        Err(status) => {
            api.env.metrics.refused("init_producer", status.code);
            InitProducerResponse {
                error: status.code.into(),
                message: status.message,
                producer_id: -1,
                producer_epoch: -1,
            }
        }
    }
}
