//! What the controller is asked, and what it answers.

use quorate_proto::ErrorCode;
use quorate_proto::ids::{ChangeId, TopicId};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::command::Refusal;

/// The knobs of the controller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControllerConfig {
    /// Producer ids that a node takes at a time. More are lost with each restart of a node; with fewer, starting
    /// producers waits for the metadata group more often.
    pub producer_ids_block: u32,
    /// Pause before a command that found no leader is tried again, in ms.
    pub retry_ms: u64,
    /// Silence after which a leader or a member no longer counts as heard, in ms. At least raft's
    /// `election_timeout_ms_max`, or readiness flickers.
    pub silence_ms_max: u64,
    /// Entries of the metadata group's log before what they came to is saved and they go. More make a node that was away
    /// replay more; fewer write more.
    pub log_entries_max: u64,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self { producer_ids_block: 1_000, retry_ms: 20, silence_ms_max: 1_500, log_entries_max: 10_000 }
    }
}

impl ControllerConfig {
    /// Checks the fields.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        let positive = [
            ("producer_ids_block", u64::from(self.producer_ids_block)),
            ("retry_ms", self.retry_ms),
            ("silence_ms_max", self.silence_ms_max),
            ("log_entries_max", self.log_entries_max),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(format!("controller.{name} must be at least 1")),
            None => Ok(()),
        }
    }
}

/// Whether commands can be expected to succeed, and the metadata here to hold all that was agreed before this node
/// started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This node hears no leader of the metadata group, or leads and hears no majority.
    Unled,
    /// It hears one, and has had no command of its own agreed yet since it started. A broker of Kafka stays fenced as
    /// long (KIP-631).
    Unregistered,
    /// Both hold.
    Ready,
}

/// Why a command has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ControllerError {
    /// No leader was found, or no majority, in time: surely not done.
    #[error("no leader of the metadata group answered in time")]
    NotAvailable,
    /// A leader took it, and no answer came in time: perhaps done.
    #[error("the outcome is not known: perhaps done")]
    Unknown,
    /// The group decided against it. Not done.
    #[error("{0}")]
    Refused(Refusal),
}

/// A topic that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its id, for ever.
    pub id: TopicId,
    /// What the user should know all the same, such as an even number of replicas.
    pub warnings: Vec<String>,
}

/// Why a topic was not created.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CreateTopicError {
    /// What was asked for cannot be: not done. The code says which part of it.
    #[error("{message}")]
    Invalid {
        /// For the wire.
        code: ErrorCode,
        /// A sentence for people.
        message: String,
    },
    /// No leader was found in time, the outcome is unknown, or the group decided against it.
    #[error(transparent)]
    Controller(#[from] ControllerError),
}

/// Why a topic was not deleted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DeleteTopicError {
    /// No topic has this name.
    #[error("no topic is called {0:?}")]
    UnknownTopic(String),
    /// The name stands for another topic by now.
    #[error("the topic of this name has another id: it was deleted and created again")]
    OtherTopic,
    /// No leader was found in time, the outcome is unknown, or the group decided against it.
    #[error(transparent)]
    Controller(#[from] ControllerError),
}

/// A topic that is to be changed, and by which change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicChange {
    /// Its name.
    pub name: String,
    /// Only the topic of this id; `None`: whichever has the name.
    pub id: Option<TopicId>,
    /// Asking again with the same one does nothing twice. `None`: one is drawn.
    pub change: Option<ChangeId>,
}

/// Why a topic was not changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AlterTopicError {
    /// What was asked for cannot be: not done. The code says which part of it.
    #[error("{message}")]
    Invalid {
        /// For the wire.
        code: ErrorCode,
        /// A sentence for people.
        message: String,
    },
    /// No topic has this name.
    #[error("no topic is called {0:?}")]
    UnknownTopic(String),
    /// The name stands for another topic by now.
    #[error("the topic of this name has another id: it was deleted and created again")]
    OtherTopic,
    /// No leader was found in time, the outcome is unknown, or the group decided against it.
    #[error(transparent)]
    Controller(#[from] ControllerError),
}
