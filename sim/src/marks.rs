//! What was reached in a run, by name: a sweep in which something never happened says nothing about it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use quorate_proto::env::Mark;

/// What only the simulator can see: nemesis, clients and oracles tell of it.
const SIMULATOR: &[&str] = &[
    "all-nodes-down-at-once",
    "crash-during-recovery",
    "crash-during-recovery-twice",
    "crash-during-roll",
    "crash-with-a-torn-write",
    "disk-lost-for-good",
    "enospc",
    "failed-sync-and-restart",
    "late-commit-of-an-unknown-produce",
    "leader-isolated-with-writes-pending",
    "leader-resumed-after-a-pause",
    "message-after-both-ends-restarted",
    "node-left-and-came-again",
    "old-vote-request-again",
    "partition-moved-under-load",
    "partitions-added-under-load",
    "reader-went-on-at-the-log-start",
    "restart-on-an-empty-disk",
    "restart-on-another-disk",
    "restart-with-an-earlier-clock",
    "same-name-created-again-at-once",
    "settings-changed-under-load",
    "topic-deleted-under-load",
    "two-candidates-in-a-term",
    "vote-granted-and-crashed-before-the-next-write",
];

/// All names: the product's own and the simulator's, in order.
pub static ALL: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let mut names =
        Mark::ALL.iter().map(|mark| mark.name()).chain(SIMULATOR.iter().copied()).collect::<Vec<_>>();
    names.sort_unstable();
    // Some are seen from both sides.
    names.dedup();
    names
});

/// What a run has reached. Clones share it.
#[derive(Clone, Default)]
pub struct Marks(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Marks {
    /// This was reached.
    ///
    /// # Panics
    /// If the name is not in [`ALL`]: then nobody would miss it.
    pub fn reached(&self, name: &'static str) {
        assert!(ALL.binary_search(&name).is_ok(), "no mark is called {name}: see sim/src/marks.rs");
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(name).or_default() += 1;
    }

    /// How often each was reached; those that were not are absent.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ() {
        assert!(ALL.windows(2).all(|pair| pair[0] < pair[1]), "{:?}", *ALL);
    }

    #[test]
    fn clones_count_together() {
        let marks = Marks::default();
        marks.clone().reached("all-nodes-down-at-once");
        marks.reached("all-nodes-down-at-once");
        assert_eq!(marks.counts(), BTreeMap::from([("all-nodes-down-at-once", 2)]));
    }
}
