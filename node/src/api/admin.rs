//! Topics made and deleted.

use quorate_proto::ErrorCode;
use quorate_proto::ids::TopicId;
use quorate_proto::v1::{CreateTopicRequest, CreateTopicResponse, DeleteTopicRequest, DeleteTopicResponse};

use super::Api;
use super::status::{self, Status};
use crate::controller::{Created, NewTopic};

/// Creates a topic.
pub(super) async fn create(api: &Api, request: CreateTopicRequest) -> CreateTopicResponse {
    let answer = |status: Status| {
        api.env.metrics.refused("create_topic", status.code);
        CreateTopicResponse {
            error: status.code.into(),
            message: status.message,
            ..CreateTopicResponse::default()
        }
    };
    match try_create(api, request).await {
        Ok(created) => CreateTopicResponse {
            error: ErrorCode::None.into(),
            message: String::new(),
            id: created.id.to_wire(),
            warnings: created.warnings,
        },
        Err(status) => answer(status),
    }
}

async fn try_create(api: &Api, request: CreateTopicRequest) -> Result<Created, Status> {
    let parts = api.parts()?;
    let topic = NewTopic {
        name: request.name,
        partitions: request.partitions,
        replicas: request.replicas,
        configs: request.configs.into_iter().map(|entry| (entry.key, entry.value)).collect(),
        internal: false,
    };
    let created = parts.controller.create_topic(topic, api.admin_time(request.timeout_ms)).await;
    created.map_err(|error| status::create_topic(&error))
}

/// Deletes a topic.
pub(super) async fn delete(api: &Api, request: DeleteTopicRequest) -> DeleteTopicResponse {
    match try_delete(api, request).await {
        Ok(()) => DeleteTopicResponse { error: ErrorCode::None.into(), message: String::new() },
        Err(status) => {
            api.env.metrics.refused("delete_topic", status.code);
            DeleteTopicResponse { error: status.code.into(), message: status.message }
        }
    }
}

async fn try_delete(api: &Api, request: DeleteTopicRequest) -> Result<(), Status> {
    let parts = api.parts()?;
    let id = match request.id.len() {
        0 => None,
        _ => Some(
            TopicId::from_wire(&request.id).ok_or_else(|| status::invalid("id must be 16 bytes, or none"))?,
        ),
    };
    let deleted = parts.controller.delete_topic(&request.name, id, api.admin_time(request.timeout_ms)).await;
    deleted.map_err(|error| status::delete_topic(&error))
}
