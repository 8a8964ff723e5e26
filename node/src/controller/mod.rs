//! The metadata group: nodes, topics, assignments, configurations and producer ids, agreed on by Raft.
//!
//! Owns: the commands, how each changes [`crate::metadata::Metadata`], placement of replicas, and the way of a
//! command to the group's leader. Must not know: partitions' replicas at work, or who asks (gRPC, Kafka, ourselves).

mod apply;
mod change;
mod command;
mod handle;
mod machine;
mod members;
mod placement;
mod saved;
mod settings;
mod spec;
mod trim;
mod types;
mod voters;
mod waiting;

pub use change::{MembersChange, Placing};
pub use command::{Answer, Command, NotACommand, Refusal};
pub use handle::Controller;
pub use settings::{Setting, check_key, describe};
pub use spec::{NewTopic, PARTITIONS_MAX, warnings};
pub use types::{
    AlterTopicError, ControllerConfig, ControllerError, CreateTopicError, Created, DeleteTopicError,
    Standing, TopicChange,
};
pub use waiting::{Candidate, WaitingRoom};

#[cfg(test)]
mod tests;
