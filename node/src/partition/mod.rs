//! One replica of one partition: admits, orders and proposes batches, applies what was committed, and serves reads
//! below the high watermark.
//!
//! Owns: the checks at the door, duplicate detection, the offset and time index, fetches that wait. Must not know:
//! how Raft replicates, how storage lays out bytes, or how metadata came about.

mod balance;
mod batcher;
mod command;
mod config;
mod dedup;
mod door;
mod epochs;
mod index;
mod keeping;
mod lag;
mod machine;
mod manager;
mod mover;
mod outgoing;
mod replica;
mod retention;
mod saved;
mod state;
mod tail;
mod types;
mod watermark;

pub use config::PartitionConfig;
pub use manager::PartitionManager;
pub use mover::{Members, Report, move_partitions};
pub use outgoing::{AnswerHold, AnswerRoom};
pub use replica::Replica;
pub use types::{
    DeleteBefore, DeleteError, Deleted, EpochEnd, Fetch, FetchError, Fetched, NoReplica, OffsetAt,
    OffsetFound, ProduceError, Produced,
};

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests;
