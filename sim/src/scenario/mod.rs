//! Written-out runs, one file each, for orders of events that chance brings too rarely.

pub mod leader_restore;

use crate::run::{Options, Report};

/// Plays a scenario with a seed.
pub type Play = fn(u64, Options) -> Report;

/// The scenarios, by name.
pub const ALL: [(&str, Play); 2] = [
    ("leader-restore", |seed, options| leader_restore::play(seed, false, options)),
    ("leader-restore-default", |seed, options| leader_restore::play(seed, true, options)),
];
