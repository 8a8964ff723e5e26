//! All groups' logs on one disk, in redb. Knows groups, indexes and bytes; must not know topics, elections or Raft.
//!
//! A node has one small `meta.redb` ([`Facts`]) and a sequence of volumes: redb files of about 256 MB that hold the
//! entries of all groups, in order of arrival. One committer writes for all of them. Each volume begins with a copy
//! of all groups' hard state, so older ones are never needed for facts; which entries are alive is part of that state.

mod checkpoints;
mod committer;
mod compact;
mod config;
mod damage;
mod entry;
mod error;
mod facts;
mod failure;
mod hard;
mod index;
mod inspect;
mod keeper;
mod read;
mod recovery;
mod replay;
mod rewrite;
mod room;
mod roster;
mod scrub;
mod state;
mod store;
mod stream;
mod transcript;
mod unread;
mod volume;

pub use checkpoints::{Checkpoint, CheckpointKind};
pub use config::{StoreConfig, StoreConfigError};
pub use damage::{Damage, DamageCounts, Holes, Lost};
pub use entry::{Body, Corrupt, Entry, Head, Kind, LogId};
pub use error::{CorruptEntry, DiskError, OpenError, ReadError, StoreError};
pub use facts::Facts;
pub use hard::{HardVote, LogState};
pub use inspect::{Inspected, InspectedEntry, InspectedGroup};
pub use recovery::RecoveryReport;
pub use room::DiskRoom;
pub use roster::{News, Seat};
pub use state::OnSync;
pub use store::{Log, Store};
