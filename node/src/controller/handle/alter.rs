//! Changes of topics that are there: their settings, and how many partitions they have.

use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_proto::ids::{ChangeId, TopicId, TopicName};
use tracing::info;

use super::super::command::Command;
use super::super::settings::settings;
use super::super::spec::PARTITIONS_MAX;
use super::super::types::{AlterTopicError, ControllerError, TopicChange};
use super::Controller;
use crate::env::Moment;
use crate::metadata::TopicConfig;

/// What a name stands for.
pub(super) enum Named {
    Topic(TopicId),
    Nothing,
    /// A topic of another id than the one that is meant.
    Other,
}

fn invalid(code: ErrorCode, message: impl Into<String>) -> AlterTopicError {
    AlterTopicError::Invalid { code, message: message.into() }
}

impl Controller {
    /// Changes settings of a topic, all that are named or none; without a value one goes back to its default. On
    /// return they are agreed on, and this node's replicas go by them in a moment; those of the other nodes as soon
    /// as these have heard. Asking again with the same change id does nothing twice. Gives all settings of the topic
    /// as this node knows them then; `None` if it does not know of the topic any more, or not of the change yet.
    ///
    /// # Errors
    /// See [`AlterTopicError`].
    pub async fn configure_topic(
        &self,
        of: &TopicChange,
        changes: &[(String, Option<String>)],
        timeout: Duration,
    ) -> Result<Option<TopicConfig>, AlterTopicError> {
        if changes.is_empty() {
            return Err(invalid(ErrorCode::InvalidRequest, "no setting is named that is to be changed"));
        }
        let settings = settings(changes.iter().map(|(key, value)| (key.as_str(), value.as_deref())));
        let settings = settings.map_err(|message| invalid(ErrorCode::InvalidConfig, message))?;
        let deadline = self.shared.env.now() + timeout;
        let Some((id, change)) = self.to_change(of, timeout).await? else { return Ok(None) };
        self.alter(of, Command::ConfigureTopic { change, id, settings: settings.clone() }, deadline).await?;
        info!(topic = of.name, %id, ?settings, "topic configured");
        let metadata = self.current();
        let here = metadata.changes.contains(&change);
        Ok(metadata.topics.get(&id).filter(|_| here).map(|topic| topic.config))
    }

    /// Adds partitions to a topic, up to a new total, and waits, within the time, until each has a leader. Asking again
    /// with the same change id does nothing twice.
    ///
    /// # Errors
    /// See [`AlterTopicError`]; [`AlterTopicError::Invalid`] if it has as many already.
    pub async fn add_partitions(
        &self,
        of: &TopicChange,
        total: i32,
        timeout: Duration,
    ) -> Result<(), AlterTopicError> {
        let partitions = u32::try_from(total).ok().filter(|total| (1..=PARTITIONS_MAX).contains(total));
        let partitions = partitions.ok_or_else(|| {
            let message = format!("{total} partitions asked for, 1 to {PARTITIONS_MAX} are possible");
            invalid(ErrorCode::InvalidPartitions, message)
        })?;
        let deadline = self.shared.env.now() + timeout;
        let Some((id, change)) = self.to_change(of, timeout).await? else { return Ok(()) };
        self.alter(of, Command::AddPartitions { change, id, partitions }, deadline).await?;
        info!(topic = of.name, %id, partitions, "partitions added");
        let grown = self.current().topics.get(&id).cloned();
        if let Some(topic) = grown {
            self.led(&topic, deadline).await;
        }
        Ok(())
    }

    /// The topic that is meant, and an id for its change; `None` if that change was made already, and the topic is gone
    /// since: an error would say that it was not made.
    async fn to_change(
        &self,
        of: &TopicChange,
        timeout: Duration,
    ) -> Result<Option<(TopicId, ChangeId)>, AlterTopicError> {
        let missing = match self.named(&of.name, of.id, timeout).await? {
            Named::Topic(id) => {
                let new = || ChangeId::from_random(self.shared.env.random_bytes());
                return Ok(Some((id, of.change.unwrap_or_else(new))));
            }
            Named::Nothing => AlterTopicError::UnknownTopic(of.name.clone()),
            Named::Other => AlterTopicError::OtherTopic,
        };
        let was_made = of.change.is_some_and(|change| self.current().changes.contains(&change));
        if was_made { Ok(None) } else { Err(missing) }
    }

    async fn alter(
        &self,
        of: &TopicChange,
        command: Command,
        deadline: Moment,
    ) -> Result<(), AlterTopicError> {
        let left = deadline.since(self.shared.env.now());
        match self.submit(command, left).await {
            Ok(_) => Ok(()),
            Err(ControllerError::Refused(refusal)) if refusal.code == ErrorCode::UnknownTopicId => {
                Err(AlterTopicError::UnknownTopic(of.name.clone()))
            }
            Err(ControllerError::Refused(refusal)) => Err(invalid(refusal.code, refusal.message)),
            Err(error @ (ControllerError::NotAvailable | ControllerError::Unknown)) => Err(error.into()),
        }
    }

    /// The topic of that name, if it has the given id or none is given.
    ///
    /// # Errors
    /// [`ControllerError::NotAvailable`] if it is not known here and no majority said in time whether it is elsewhere.
    pub(super) async fn named(
        &self,
        name: &str,
        id: Option<TopicId>,
        timeout: Duration,
    ) -> Result<Named, ControllerError> {
        let Ok(parsed) = name.parse::<TopicName>() else { return Ok(Named::Nothing) };
        let find = || self.current().names.get(&parsed).copied();
        let found = match find() {
            Some(there) => Some(there),
            None => {
                // Another node may have been told of it already.
                self.catch_up(timeout).await?;
                find()
            }
        };
        Ok(match found {
            Some(there) if id.is_some_and(|id| id != there) => Named::Other,
            Some(there) => Named::Topic(there),
            None => Named::Nothing,
        })
    }
}
