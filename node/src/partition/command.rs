//! The closed set of commands in a partition's log, and their form in it.

use bytes::Bytes;
use prost::Message;
use quorate_proto::ids::Offset;
use quorate_proto::v1;
use thiserror::Error;

/// The rules by which commands are applied: a change of what a command does is a new version, or two nodes of different
/// releases would disagree.
const VERSION: u32 = 1;

/// A change that a partition's group agrees on, beside its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Nothing before `offset` is read any more: by retention, or because somebody deleted it.
    SetLogStart {
        /// First offset that can still be read; what lies past the next offset means the next offset.
        offset: Offset,
    },
}

/// Bytes that are no command of ours.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not a command of a partition: {0}")]
pub(super) struct NotACommand(String);

impl Command {
    /// As it lies in the log.
    pub(super) fn encode(self) -> Bytes {
        use v1::partition_command::Command as Wire;
        let command = match self {
            Self::SetLogStart { offset } => Wire::SetLogStart(v1::SetLogStart { offset: offset.0 }),
        };
        v1::PartitionCommand { version: VERSION, command: Some(command) }.encode_to_vec().into()
    }

    /// Reads one back.
    ///
    /// # Errors
    /// [`NotACommand`] for anything that [`Command::encode`] does not write, a later version included.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, NotACommand> {
        use v1::partition_command::Command as Wire;
        let wire = v1::PartitionCommand::decode(bytes).map_err(|error| NotACommand(error.to_string()))?;
        if wire.version != VERSION {
            return Err(NotACommand(format!("version {} is not known", wire.version)));
        }
        match wire.command.ok_or_else(|| NotACommand("no command".to_owned()))? {
            Wire::SetLogStart(set) => Ok(Self::SetLogStart { offset: Offset(set.offset) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let command = Command::SetLogStart { offset: Offset(77) };
        assert_eq!(Command::decode(&command.encode()), Ok(command));
        let later = v1::PartitionCommand { version: 2, command: None }.encode_to_vec();
        assert_eq!(Command::decode(&later), Err(NotACommand("version 2 is not known".into())));
        assert!(Command::decode(b"\xff").is_err());
    }
}
