//! The metadata group: nodes, topics, assignments, configurations and producer ids, agreed on by Raft.
//!
//! Owns: the commands, how each changes [`crate::metadata::Metadata`], placement of replicas, and the way of a
//! command to the group's leader. Must not know: partitions' replicas at work, or who asks (gRPC, Kafka, ourselves).

mod apply;
mod command;
mod handle;
mod machine;
mod placement;
mod saved;
mod spec;
mod trim;
mod types;

pub use command::{Answer, Command, NotACommand, Refusal};
pub use handle::Controller;
pub use spec::{NewTopic, PARTITIONS_MAX, describe};
pub use types::{ControllerConfig, ControllerError, CreateTopicError, Created, DeleteTopicError, Standing};

#[cfg(test)]
mod tests;
