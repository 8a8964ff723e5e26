//! How much room the disk has left, and when it is too little for entries.
//!
//! redb takes any error for the end, that of a full disk too, and so does this store. So a reserve is kept: before it is
//! touched whoever admits entries is told to stop, and what is small and must go on (votes, what is committed, trims,
//! the metadata group) lives on the reserve. Must not know: who admits entries, and what they are told.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::select;
use quorate_proto::ids::NodeId;
use tokio::sync::{Notify, watch};
use tracing::{info, warn};

use super::state::Shared;
use super::volume::Volume;
use crate::env::{DiskSpace, Mark, pool};

/// How often it is looked how much room there is.
const LOOK: Duration = Duration::from_secs(1);
/// It is looked sooner once so much of the reserve was written, as a fraction of it.
const LOOKS_PER_RESERVE: u64 = 8;
/// A disk that was nearly full has room again once this fraction of the reserve is free beyond it: else the smallest
/// entry would fill it anew.
const BEYOND: u64 = 8;
/// The reserve, unless it was said: so many bytes, or a twentieth of the file system if that is less.
const RESERVE_BYTES: u64 = 2_000_000_000;
const RESERVE_SHARE: u64 = 20;

/// What is left on a node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskRoom {
    /// Bytes left, less those that the files at hand have begun to take; `u64::MAX` while the system has not said.
    pub free_bytes: u64,
    /// Bytes that are kept in reserve.
    pub reserve_bytes: u64,
    /// Whether no new entries are to be proposed. Stays so until there is somewhat more than the reserve.
    pub is_full: bool,
}

impl DiskRoom {
    /// Whether also those entries are to be refused that others were admitted with: half of the reserve is used up. Until
    /// then a follower takes what leaders had admitted when the disks became full. If it did not, and all disks filled up
    /// together, these entries would wait for room, and behind them the very command that makes it.
    pub fn refuses_entries(&self) -> bool {
        self.is_full && self.free_bytes < self.reserve_bytes / 2
    }

    /// What a person is told whose entries are refused.
    pub fn refusal(&self, node: NodeId) -> String {
        format!(
            "disk nearly full on node {node}: {self}; free space there (delete records or topics, or what else lies on \
             that disk), or give it a larger one"
        )
    }

    /// As it is after a look that found `free_bytes`.
    fn after(self, free_bytes: u64) -> Self {
        let Self { reserve_bytes, is_full, .. } = self;
        let enough =
            if is_full { reserve_bytes.saturating_add(reserve_bytes / BEYOND) } else { reserve_bytes };
        Self { free_bytes, reserve_bytes, is_full: free_bytes < enough }
    }
}

impl fmt::Display for DiskRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} free, {} kept in reserve", Size(self.free_bytes), Size(self.reserve_bytes))
    }
}

/// Bytes, as people say them: with one decimal, if it is not 0.
struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
        let Some((unit, name)) = units.into_iter().find(|(unit, _)| self.0 >= *unit) else {
            return write!(f, "{} B", self.0);
        };
        match (self.0 / unit, self.0 % unit / (unit / 10)) {
            (whole, 0) => write!(f, "{whole} {name}"),
            (whole, tenths) => write!(f, "{whole}.{tenths} {name}"),
        }
    }
}

/// What a store knows of its room.
pub(super) struct Room {
    seen: watch::Sender<DiskRoom>,
    /// Bytes of entries written since the last look.
    written: AtomicU64,
    /// The last look found nothing out, and that was said.
    unknown: AtomicBool,
    /// Somebody wants to know now.
    pub(super) to_look: Notify,
}

impl Room {
    /// `space` is that of the moment, if it is known. A reserve of 0 keeps none.
    pub(super) fn new(reserve_bytes: Option<u64>, space: Option<DiskSpace>) -> Self {
        let share = space.map_or(u64::MAX, |space| space.total_bytes / RESERVE_SHARE);
        let reserve_bytes = reserve_bytes.unwrap_or_else(|| share.min(RESERVE_BYTES));
        let room = DiskRoom { free_bytes: u64::MAX, reserve_bytes, is_full: false };
        let room = space.map_or(room, |space| room.after(space.free_bytes));
        Self {
            seen: watch::Sender::new(room),
            written: AtomicU64::new(0),
            unknown: AtomicBool::new(false),
            to_look: Notify::new(),
        }
    }

    pub(super) fn now(&self) -> DiskRoom {
        *self.seen.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<DiskRoom> {
        self.seen.subscribe()
    }

    /// So many bytes of entries were written.
    pub(super) fn wrote(&self, bytes: u64) {
        let written = self.written.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
        let reserve_bytes = self.now().reserve_bytes;
        // Without a reserve nothing hangs on it.
        if reserve_bytes > 0 && written >= (reserve_bytes / LOOKS_PER_RESERVE).max(1) {
            self.to_look.notify_one();
        }
    }
}

/// Looks until the store is closed or has failed.
pub(super) async fn run(shared: Arc<Shared>) {
    let DiskRoom { free_bytes, reserve_bytes, is_full } = shared.room.now();
    if is_full {
        shared.metrics.disk_filled.add(1);
        warn!(free_bytes, reserve_bytes, "disk is nearly full: entries are refused");
    }
    loop {
        select(shared.env.sleep(LOOK), std::pin::pin!(shared.room.to_look.notified())).await;
        let over = {
            let state = shared.state();
            state.closing || state.failed
        };
        if over {
            return;
        }
        shared.room.written.store(0, Ordering::Relaxed);
        let looking = Arc::clone(&shared);
        if let Some(free_bytes) = pool::run(&*shared.pool, move || look(&looking)).await {
            note(&shared, free_bytes);
        }
    }
}

/// Bytes left, less what will be taken without being asked for. `None` if the system does not say. Blocks.
fn look(shared: &Shared) -> Option<u64> {
    let (active, spare, unsynced) = {
        let state = shared.state();
        let active = (state.active.volume.clone(), state.active.tail.bytes);
        (active, state.spare.clone(), state.unsynced_bytes)
    };
    let space = match shared.disk.space() {
        Ok(space) => space,
        Err(error) => {
            if !shared.room.unknown.swap(true, Ordering::Relaxed) {
                warn!(%error, "free space of the data folder is not known");
            }
            return None;
        }
    };
    shared.room.unknown.store(false, Ordering::Relaxed);
    // redb makes a file longer ahead of what it writes, which takes no space before it is written. No volume grows
    // much beyond its bound.
    let most = shared.config.volume_bytes_max.saturating_add(shared.config.volume_bytes_max / 8);
    let ahead = |volume: &Volume, written: u64| {
        volume.length().map_or(0, |length| length.min(most).saturating_sub(written))
    };
    let ahead = ahead(&active.0, active.1) + spare.map_or(0, |spare| ahead(&spare, 0));
    Some(space.free_bytes.saturating_sub(ahead.max(unsynced)))
}

fn note(shared: &Shared, free_bytes: u64) {
    let before = shared.room.now();
    let after = before.after(free_bytes);
    shared.room.seen.send_if_modified(|known| std::mem::replace(known, after) != after);
    let DiskRoom { free_bytes, reserve_bytes, .. } = after;
    match (before.is_full, after.is_full) {
        (false, true) => {
            shared.metrics.disk_filled.add(1);
            warn!(free_bytes, reserve_bytes, "disk became nearly full: entries are refused");
        }
        (true, false) => {
            shared.env.reached(Mark::DiskHasRoomAgain);
            info!(free_bytes, reserve_bytes, "disk has room again");
        }
        (true, true) | (false, false) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_must_have_somewhat_more_than_the_reserve_to_count_as_roomy() {
        let room = Room::new(Some(800), Some(DiskSpace { free_bytes: 800, total_bytes: 10_000 })).now();
        assert!(!room.is_full, "the reserve is not touched");
        let full = room.after(799);
        assert!(full.is_full && full.after(800).is_full && full.after(899).is_full);
        assert!(!full.after(900).is_full);
        assert!(!full.after(900).after(800).is_full && full.after(900).after(799).is_full);
        assert!(!full.refuses_entries() && !full.after(400).refuses_entries());
        assert!(full.after(399).refuses_entries() && !full.after(900).refuses_entries());
        assert!(!Room::new(Some(0), Some(DiskSpace { free_bytes: 0, total_bytes: 1 })).now().is_full);
    }

    #[test]
    fn the_reserve_is_the_smaller_of_two() {
        let reserve = |total_bytes| {
            Room::new(None, Some(DiskSpace { free_bytes: total_bytes, total_bytes })).now().reserve_bytes
        };
        assert_eq!(reserve(1_000_000_000_000), 2_000_000_000);
        assert_eq!(reserve(20_000_000_000), 1_000_000_000);
        let unknown = Room::new(None, None).now();
        assert!(!unknown.is_full && unknown.reserve_bytes == 2_000_000_000);
    }

    #[test]
    fn people_are_told_in_their_units() {
        let room = DiskRoom { free_bytes: 1_234_000_000, reserve_bytes: 2_000_000_000, is_full: true };
        let said = room.refusal(NodeId(2));
        assert!(
            said.starts_with("disk nearly full on node 2: 1.2 GB free, 2 GB kept in reserve; "),
            "{said}"
        );
        let size = |bytes| Size(bytes).to_string();
        let sizes = [999, 1_000, 33_554_432, 2_000_000_000_000].map(size);
        assert_eq!(sizes, ["999 B", "1 kB", "33.5 MB", "2 TB"]);
    }
}
