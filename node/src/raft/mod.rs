//! Raft groups, one under every partition and one under the metadata. The only module that names openraft.
//!
//! Owns: replication, elections, who leads what, the peers' identities and what is said to them. Must not know:
//! what a batch or a command means ([`Apply`] does), or how storage lays out its files.

mod base;
mod config;
mod election;
mod fitness;
mod floor;
mod full;
mod group;
mod health;
mod liveness;
mod log_store;
mod machine;
mod membership;
mod node;
mod pairs;
mod peers;
mod quiesce;
mod quiet;
mod rate;
mod rejoin;
mod repair;
mod runtime;
mod tell;
mod timers;
mod transfer;
mod trim;
mod turns;
mod types;

#[cfg(test)]
mod tests;

pub use config::RaftConfig;
pub use group::{BarrierError, Group, NotLeader, Pending, ProposeError, Role};
pub use health::NodeHealth;
pub use liveness::Leadership;
pub use machine::Apply;
pub use membership::{GroupConfig, NotChanged, SeenConfig, Step, Wanted, next_step};
pub use node::{GroupError, PeerHooks, RaftNode};
pub use transfer::{TransferError, Transferred};
pub use trim::NotTrimmed;
pub use types::{Answer, BatchAnswer, Member, Proposal};

#[cfg(test)]
pub(crate) mod alone;
