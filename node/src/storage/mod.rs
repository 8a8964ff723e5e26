//! All groups' logs on one disk, in redb. Knows groups, indexes and bytes; must not know topics, elections or Raft.
//!
//! A node has one small `meta.redb` ([`Facts`]) and a sequence of volumes: redb files of about 256 MB that hold the
//! entries of all groups, in order of arrival. One committer writes for all of them. Each volume begins with a copy
//! of all groups' hard state, so older ones are never needed for facts; which entries are alive is part of that state.

mod committer;
mod config;
mod entry;
mod error;
mod facts;
mod failure;
mod hard;
mod index;
mod keeper;
mod read;
mod recovery;
mod replay;
mod rewrite;
mod room;
mod roster;
mod state;
mod store;
mod stream;
mod transcript;
mod volume;

pub use config::{StoreConfig, StoreConfigError};
pub use entry::{Body, Corrupt, Entry, Head, Kind, LogId};
pub use error::{CorruptEntry, DiskError, OpenError, ReadError, StoreError};
pub use facts::Facts;
pub use hard::{HardVote, LogState};
pub use recovery::RecoveryReport;
pub use room::DiskRoom;
pub use roster::{News, Seat};
pub use state::OnSync;
pub use store::{Log, Store};
