//! Where the logs of a group's members begin, as this node has heard and as it says. Hints only: what they say has been
//! true, and where a log begins never goes back.

use std::sync::atomic::{AtomicU64, Ordering};

use quorate_proto::ids::LogIndex;

/// Shared by a group, its network and whoever answers its leader.
#[derive(Debug, Default)]
pub(super) struct Floor {
    /// The first entry that this node's log may hold.
    begins: AtomicU64,
    /// The largest of what leaders have said of theirs.
    told: AtomicU64,
    /// Entries before it are sent to nobody any more.
    cut: AtomicU64,
}

impl Floor {
    /// This node's log begins here; whether that is news.
    pub(super) fn set_begins(&self, at: LogIndex) -> bool {
        self.begins.fetch_max(at.0, Ordering::Relaxed) < at.0
    }

    /// Where this node's log begins, for a leader to say.
    pub(super) fn begins(&self) -> LogIndex {
        LogIndex(self.begins.load(Ordering::Relaxed))
    }

    /// A leader has said where its log begins: what lies before it was committed, and nobody needs it.
    pub(super) fn tell(&self, at: LogIndex) {
        self.told.fetch_max(at.0, Ordering::Relaxed);
    }

    /// What leaders have said.
    pub(super) fn told(&self) -> LogIndex {
        LogIndex(self.told.load(Ordering::Relaxed))
    }

    /// Members that need entries before this one get the base instead. openraft trims nothing of what is on its way to a
    /// member, and to one that is slow something always is.
    pub(super) fn set_cut(&self, at: LogIndex) {
        self.cut.fetch_max(at.0, Ordering::Relaxed);
    }

    /// See [`Floor::set_cut`].
    pub(super) fn cut(&self) -> LogIndex {
        LogIndex(self.cut.load(Ordering::Relaxed))
    }
}
