//! Written-out runs, one file each, for orders of events that chance brings too rarely.

pub mod all_copies_damaged;
pub mod closing_fails;
pub mod deposed_leader;
pub mod full_disks;
pub mod hanging_leader;
pub mod leader_restore;
pub mod members_change;
pub mod quiet_group;

use crate::report::Report;
use crate::run::{self, Options};

/// Plays a scenario with a seed.
pub type Play = fn(u64, Options) -> Report;

/// The scenarios: by name, how they are played, and what happens in them.
pub const ALL: [(&str, Play, &str); 9] = [
    (
        "all-copies-damaged",
        all_copies_damaged::play,
        "all three copies of a batch are damaged: nobody serves it, and everything else goes on",
    ),
    (
        "closing-fails",
        closing_fails::play,
        "the sync fails with which a full volume is closed; the seed says which one, counted from there",
    ),
    ("deposed-leader", deposed_leader::play, "a leader that others have replaced is asked for what is newer"),
    (
        "full-disks",
        full_disks::play,
        "disks become nearly full, all or the leader's alone (odd seeds), and there is room again",
    ),
    (
        "hanging-leader",
        hanging_leader::play,
        "a node starts while the leader that it remembers stands still, and must find another way in",
    ),
    (
        "leader-restore",
        |seed, options| leader_restore::play(seed, false, options),
        "a leader dies before its own sync of what others have acknowledged, and is back at once",
    ),
    (
        "leader-restore-default",
        |seed, options| leader_restore::play(seed, true, options),
        "the same with openraft's default, which loses what was acked: breaks promises on purpose",
    ),
    (
        "members-change",
        members_change::play,
        "a partition moves and a lost disk is replaced, while whoever carries that out dies in the middle of it",
    ),
    (
        "quiet-group",
        quiet_group::play,
        "a group falls quiet, wakes under its leader, and loses it: killed, unpowered, cut off, its clock still (by the seed)",
    ),
];

/// Plays the scenario of the options, or what chance brings if there is none.
///
/// # Panics
/// If there is no such scenario.
pub fn play(seed: u64, options: Options) -> Report {
    match options.scenario {
        None => run::run(seed, options),
        Some(name) => {
            let found = ALL.iter().find(|(known, ..)| *known == name);
            let (_, play, _) = found.expect("the scenario was looked up by its name");
            play(seed, options)
        }
    }
}
