//! Written-out runs, one file each, for orders of events that chance brings too rarely.

pub mod closing_fails;
pub mod deposed_leader;
pub mod hanging_leader;
pub mod leader_restore;

use crate::report::Report;
use crate::run::{self, Options};

/// Plays a scenario with a seed.
pub type Play = fn(u64, Options) -> Report;

/// The scenarios, by name.
pub const ALL: [(&str, Play); 5] = [
    ("closing-fails", closing_fails::play),
    ("deposed-leader", deposed_leader::play),
    ("hanging-leader", hanging_leader::play),
    ("leader-restore", |seed, options| leader_restore::play(seed, false, options)),
    ("leader-restore-default", |seed, options| leader_restore::play(seed, true, options)),
];

/// Plays the scenario of the options, or what chance brings if there is none.
///
/// # Panics
/// If there is no such scenario.
pub fn play(seed: u64, options: Options) -> Report {
    match options.scenario {
        None => run::run(seed, options),
        Some(name) => {
            let found = ALL.iter().find(|(known, _)| *known == name);
            let (_, play) = found.expect("the scenario was looked up by its name");
            play(seed, options)
        }
    }
}
