//! Topics made, changed and deleted.

use quorate_proto::ErrorCode;
use quorate_proto::ids::{ChangeId, TopicId};
use quorate_proto::v1::{
    AddPartitionsRequest, AddPartitionsResponse, ConfigEntry, ConfigureTopicRequest, ConfigureTopicResponse,
    CreateTopicRequest, CreateTopicResponse, DeleteTopicRequest, DeleteTopicResponse,
};

use super::Api;
use super::metadata::entries;
use super::status::{self, Status};
use crate::controller::{Created, NewTopic, TopicChange};

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
    let id = topic_id(&request.id)?;
    let deleted = parts.controller.delete_topic(&request.name, id, api.admin_time(request.timeout_ms)).await;
    deleted.map_err(|error| status::delete_topic(&error))
}

/// The id that a request for a topic by name may give.
fn topic_id(wire: &[u8]) -> Result<Option<TopicId>, Status> {
    match wire.len() {
        0 => Ok(None),
        _ => match TopicId::from_wire(wire) {
            Some(id) => Ok(Some(id)),
            None => Err(status::invalid("id must be 16 bytes, or none")),
        },
    }
}

fn topic_change(name: String, id: &[u8], change: &[u8]) -> Result<TopicChange, Status> {
    let id = topic_id(id)?;
    let drawn = ChangeId::from_wire(change);
    if drawn.is_none() && !change.is_empty() {
        return Err(status::invalid("change must be 16 bytes, or none"));
    }
    Ok(TopicChange { name, id, change: drawn })
}

/// Changes settings of a topic.
pub(super) async fn configure(api: &Api, request: ConfigureTopicRequest) -> ConfigureTopicResponse {
    let (error, message, configs) = match try_configure(api, request).await {
        Ok(configs) => (ErrorCode::None, String::new(), configs),
        Err(status) => (status.code, status.message, Vec::new()),
    };
    ConfigureTopicResponse { error: error.into(), message, configs }
}

async fn try_configure(api: &Api, request: ConfigureTopicRequest) -> Result<Vec<ConfigEntry>, Status> {
    let parts = api.parts()?;
    let of = topic_change(request.name, &request.id, &request.change)?;
    let changes: Vec<_> = request.changes.into_iter().map(|change| (change.key, change.value)).collect();
    let configured = parts.controller.configure_topic(&of, &changes, api.admin_time(request.timeout_ms));
    let config = configured.await.map_err(|error| status::alter_topic(&error))?;
    Ok(config.map(entries).unwrap_or_default())
}

/// Adds partitions to a topic.
pub(super) async fn add_partitions(api: &Api, request: AddPartitionsRequest) -> AddPartitionsResponse {
    match try_add_partitions(api, request).await {
        Ok(()) => AddPartitionsResponse { error: ErrorCode::None.into(), message: String::new() },
        Err(status) => AddPartitionsResponse { error: status.code.into(), message: status.message },
    }
}

async fn try_add_partitions(api: &Api, request: AddPartitionsRequest) -> Result<(), Status> {
    let parts = api.parts()?;
    let of = topic_change(request.name, &request.id, &request.change)?;
    let time = api.admin_time(request.timeout_ms);
    let added = parts.controller.add_partitions(&of, request.partitions, time).await;
    added.map_err(|error| status::alter_topic(&error))
}
