//! The scripts: what is asked of the store, step by step.

/// One step of a script. Steps are issued without waiting for the one before, until a `Flush`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Append {
        group: u64,
        term: u64,
        count: u64,
        bytes: usize,
    },
    Truncate {
        group: u64,
        from: u64,
    },
    /// Saves the base as of an entry and trims the log to it.
    Trim {
        group: u64,
        through: u64,
    },
    /// Saves a checkpoint as of an entry, and trims nothing.
    Checkpoint {
        group: u64,
        at: u64,
    },
    /// Takes up a base of a peer, ahead of the log, and trims the log to it.
    Install {
        group: u64,
        term: u64,
        index: u64,
    },
    Vote {
        group: u64,
        term: u64,
        committed: bool,
    },
    Committed {
        group: u64,
        index: u64,
    },
    Remove {
        group: u64,
    },
    Peer {
        node: u32,
    },
    /// Waits until all is answered.
    Flush,
    /// Lets the keeper do what it has to do.
    Rest,
    /// The same, and gives it the time that it takes for what is not urgent.
    Wait,
    /// Closes the store and opens it again.
    Reopen,
}

use Step::{
    Append, Checkpoint, Committed, Flush, Install, Peer, Remove, Reopen, Rest, Trim, Truncate, Vote, Wait,
};

pub(super) const fn append(group: u64, term: u64, count: u64, bytes: usize) -> Step {
    Append { group, term, count, bytes }
}

pub(super) const fn vote(group: u64, term: u64, committed: bool) -> Step {
    Vote { group, term, committed }
}

/// Appends of all sizes, of one group and of many, with and without waiting.
pub(super) const APPENDS: &[Step] = &[
    append(1, 1, 1, 0),
    append(1, 1, 3, 100),
    Flush,
    append(2, 1, 1, 2_900),
    append(3, 2, 2, 10),
    append(1, 2, 1, 700),
    Committed { group: 1, index: 2 },
    append(4, 2, 20, 50),
    Flush,
    append(1, 3, 2, 70_000),
    Flush,
    Committed { group: 4, index: 7 },
    append(2, 4, 2, 10),
    Flush,
];

/// A suffix goes, in the volume that is written, and across a roll, and with nothing appended after it.
pub(super) const TRUNCATIONS: &[Step] = &[
    append(1, 1, 6, 300),
    append(2, 1, 2, 300),
    Flush,
    Truncate { group: 1, from: 4 },
    append(1, 2, 3, 300),
    Flush,
    append(1, 2, 8, 700),
    Flush,
    Rest,
    append(1, 2, 8, 700),
    Flush,
    Rest,
    Truncate { group: 1, from: 5 },
    Flush,
    Reopen,
    append(1, 3, 2, 300),
    Truncate { group: 2, from: 0 },
    Flush,
    append(3, 1, 9, 700),
    Flush,
    Rest,
    append(3, 1, 9, 700),
    Truncate { group: 1, from: 2 },
    Flush,
];

/// Votes, peers and what rides along.
pub(super) const VOTES: &[Step] = &[
    vote(1, 1, false),
    Flush,
    vote(1, 1, true),
    append(1, 1, 2, 100),
    Committed { group: 1, index: 0 },
    Flush,
    Peer { node: 2 },
    vote(2, 5, false),
    vote(1, 2, false),
    Flush,
    Peer { node: 3 },
    append(1, 2, 9, 700),
    Flush,
    Rest,
    vote(1, 3, true),
    Committed { group: 1, index: 5 },
    append(1, 3, 1, 10),
    Flush,
    Reopen,
    vote(3, 9, true),
    Flush,
];

/// Volumes fill, are sealed, die and are removed; groups go.
pub(super) const ROLLS: &[Step] = &[
    append(1, 1, 4, 900),
    append(2, 1, 4, 900),
    Flush,
    Rest,
    append(1, 2, 4, 900),
    append(3, 2, 4, 900),
    Flush,
    Rest,
    Trim { group: 1, through: 3 },
    append(2, 2, 9, 900),
    Flush,
    Rest,
    Remove { group: 3 },
    Flush,
    Trim { group: 1, through: 7 },
    Flush,
    Rest,
    append(1, 3, 9, 900),
    Trim { group: 2, through: 12 },
    Flush,
    Rest,
    Reopen,
    append(4, 1, 1, 10),
    Flush,
];

/// Checkpoints are saved, replaced and taken up from a peer.
pub(super) const CHECKPOINTS: &[Step] = &[
    append(1, 1, 6, 300),
    append(2, 1, 3, 300),
    Checkpoint { group: 1, at: 2 },
    append(1, 2, 4, 900),
    Trim { group: 1, through: 4 },
    Checkpoint { group: 1, at: 7 },
    Flush,
    Rest,
    vote(2, 4, true),
    Install { group: 2, term: 4, index: 40 },
    append(2, 4, 3, 900),
    Flush,
    vote(3, 5, true),
    Install { group: 3, term: 5, index: 9 },
    Trim { group: 2, through: 42 },
    Flush,
    Reopen,
    append(3, 5, 2, 100),
    Checkpoint { group: 3, at: 11 },
    Install { group: 2, term: 6, index: 90 },
    Remove { group: 3 },
    Flush,
];

/// Of several volumes little stays alive: it is rewritten, and they go.
pub(super) const REWRITING: &[Step] = &[
    append(1, 1, 6, 900),
    append(2, 1, 2, 20),
    Flush,
    Rest,
    append(1, 1, 6, 900),
    append(2, 1, 2, 20),
    Flush,
    Rest,
    append(1, 1, 6, 900),
    append(2, 1, 2, 20),
    Flush,
    Rest,
    Trim { group: 1, through: 17 },
    Wait,
    append(2, 1, 2, 20),
    Flush,
    Rest,
    Truncate { group: 2, from: 5 },
    append(2, 3, 4, 900),
    Flush,
    Rest,
    Reopen,
    append(1, 3, 6, 900),
    Trim { group: 2, through: 4 },
    Wait,
    Trim { group: 2, through: 8 },
    Wait,
    append(1, 3, 6, 900),
    Flush,
    Wait,
];
