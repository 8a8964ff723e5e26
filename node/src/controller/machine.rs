//! What Raft calls when commands are committed.

use std::sync::Arc;

use bytes::Bytes;
use quorate_proto::ids::LogIndex;
use tokio::sync::watch;

use super::apply::apply;
use super::command::{Answer, Command};
use super::saved;
use crate::metadata::Metadata;
use crate::raft;
use crate::storage::{Body, Entry, Kind, LogId};

/// The state machine of the metadata group.
pub(super) struct Machine {
    metadata: Metadata,
    changed: bool,
    published: watch::Sender<Arc<Metadata>>,
    applied: watch::Sender<LogIndex>,
}

impl Machine {
    /// An empty one, and where it publishes: the metadata, and the last entry that they hold.
    pub(super) fn new() -> (Self, watch::Receiver<Arc<Metadata>>, watch::Receiver<LogIndex>) {
        let (published, metadata) = watch::channel(Arc::default());
        let (applied, index) = watch::channel(LogIndex(0));
        (Self { metadata: Metadata::default(), changed: false, published, applied }, metadata, index)
    }

    fn command(&mut self, entry: &Entry) -> Answer {
        let Body::Here(body) = &entry.body else {
            unreachable!("a command comes with its body");
        };
        // Whoever proposes has checked it: this one was proposed by a later release, and whoever guessed what it
        // does would differ from the rest for ever.
        let command = Command::decode(body).unwrap_or_else(|error| {
            panic!("cannot apply entry {} of the metadata group: {error}", entry.head.index)
        });
        self.changed = true;
        apply(&mut self.metadata, command)
    }
}

impl raft::Apply for Machine {
    fn apply(&mut self, entry: &Entry) -> raft::Answer {
        match entry.head.kind {
            Kind::Command => raft::Answer::Command(self.command(entry).encode(entry.head.index)),
            Kind::Blank | Kind::Membership | Kind::Batch => raft::Answer::Nothing,
        }
    }

    fn applied(&mut self, last: LogId) {
        if std::mem::take(&mut self.changed) {
            self.published.send_replace(Arc::new(self.metadata.clone()));
        }
        self.applied.send_replace(last.index);
    }

    fn save(&self) -> Bytes {
        saved::encode(&self.metadata)
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        self.metadata = saved::decode(state).map_err(|error| error.to_string())?;
        self.changed = true;
        Ok(())
    }

    fn fresh(&self) -> Box<dyn raft::Apply> {
        Box::new(Self::new().0)
    }
}
