//! The metadata group's own log is bounded: once it is long, what its entries came to is the group's base, and they go.

use std::time::Duration;

use quorate_proto::ids::LogIndex;
use tracing::warn;

use crate::env::Env;
use crate::raft::{Group, RaftNode, Role};

/// Gap between looks at the log.
const LOOK: Duration = Duration::from_secs(1);

/// A member that is slower than so many times the log's bound is not waited for: it gets the base.
const SLOW: u64 = 4;

/// Runs until it is stopped.
pub(super) async fn run(env: Env, raft: RaftNode, group: Group, entries_max: u64) {
    loop {
        if let (Role::Leader { ready: true, .. }, Some(applied)) = (group.role(), group.applied()) {
            let held = applied.index.0.saturating_sub(group.base().map_or(0, |base| base.index.0));
            if held >= entries_max {
                let first = LogIndex(applied.index.0 + 1);
                if let Err(error) = group.trim(first, held < entries_max.saturating_mul(SLOW)).await {
                    warn!(%error, "metadata log was not trimmed");
                }
            }
        }
        env.clock.sleep_until(raft.wake_by(env.now() + LOOK)).await;
    }
}
