//! What can be set.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Settings of a node's store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StoreConfig {
    /// A volume is closed once so many bytes were written to it. Too large: after a crash the last one is read from
    /// end to end (about 0.5 s for 256 MB); too small: more files, and hard state is copied more often.
    pub volume_bytes_max: u64,
    /// Memory for recent entries, of all groups together. Entries not yet synced may exceed it: the door must refuse
    /// above it. Too small: followers that lag and readers near the tail read from disk.
    pub recent_bytes_max: u64,
    /// Sealed volumes open at the same time. Too small: readers of old data open and close files all the time.
    pub volumes_open_max: u32,
    /// redb's cache for the volume being written; a sealed volume gets an eighth of it. At least three times
    /// `commit_bytes_max`: half of it is for what is being written, and what does not fit is written twice.
    pub cache_bytes_max: u32,
    /// Bytes of entries in one commit. Too large: a small entry waits behind a big commit; too small: more syncs.
    pub commit_bytes_max: u32,
    /// All that is stored is read again within so many seconds, to find what the disk has damaged while another replica
    /// still has it; 0: never. It takes at most 5 % of the disk's time, however long it then takes. Too large: two
    /// copies may be lost before the first is missed; too small: reading competes with the work.
    pub scrub_seconds: u32,
    /// Whether other nodes may hold what this one has lost. Without them damage refuses the start: whoever runs the node
    /// may have a copy. Set by whoever knows; in code only. Peers that `meta.redb` names count in any case,
    /// if it can be read.
    #[serde(skip, default = "yes")]
    pub copies_elsewhere: bool,
    /// A full volume of which less than so many percent are alive is rewritten, together with others, and goes. Too large,
    /// and what stays is written again and again; too small, and disks hold what nobody needs. More than 100 is 100.
    pub rewrite_below_percent: u32,
    /// Bytes a second that rewriting may copy. Too small, and what is dead stays for long; too large, and it slows what
    /// is written and read meanwhile.
    pub rewrite_bytes_per_s: u64,
    /// Bytes of the file system that are kept free: below them entries are refused until there is room again. If absent,
    /// 2 GB or a twentieth of the file system, whichever is less; 0 keeps none. Too small, and what is under way when
    /// the disk fills up meets its end, which stops the node: at least `partition.unsynced_bytes_max` and the size of a
    /// volume together are safe. Too large: that much of the disk is never used.
    pub disk_reserve_bytes: Option<u64>,
}

fn yes() -> bool {
    true
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            volume_bytes_max: 256 << 20,
            recent_bytes_max: 128 << 20,
            volumes_open_max: 16,
            cache_bytes_max: 16 << 20,
            commit_bytes_max: 4 << 20,
            scrub_seconds: 24 * 3_600,
            copies_elsewhere: true,
            rewrite_below_percent: 50,
            rewrite_bytes_per_s: 32 << 20,
            disk_reserve_bytes: None,
        }
    }
}

/// Settings that do not go together.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("storage.{name} is {value}, it must be at least {at_least}")]
pub struct StoreConfigError {
    /// Which setting.
    pub name: &'static str,
    /// Its value.
    pub value: u64,
    /// The least that works.
    pub at_least: u64,
}

impl StoreConfig {
    /// Whether the settings go together.
    ///
    /// # Errors
    /// The first that does not.
    pub fn validate(&self) -> Result<(), StoreConfigError> {
        let commit = u64::from(self.commit_bytes_max);
        for (name, value, at_least) in [
            ("commit_bytes_max", commit, 1),
            ("volumes_open_max", u64::from(self.volumes_open_max), 1),
            ("cache_bytes_max", u64::from(self.cache_bytes_max), (3 * commit).max(1 << 16)),
            ("volume_bytes_max", self.volume_bytes_max, 1),
            ("recent_bytes_max", self.recent_bytes_max, 1),
            ("rewrite_bytes_per_s", self.rewrite_bytes_per_s, 1),
        ] {
            if value < at_least {
                return Err(StoreConfigError { name, value, at_least });
            }
        }
        Ok(())
    }

    pub(super) fn active_cache(&self) -> usize {
        usize::try_from(self.cache_bytes_max).expect("this program runs on 64 bits")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_go_together_is_named() {
        assert_eq!(StoreConfig::default().validate(), Ok(()));
        let config = StoreConfig { commit_bytes_max: 16 << 20, ..StoreConfig::default() };
        let refused = config.validate().unwrap_err().to_string();
        assert_eq!(refused, "storage.cache_bytes_max is 16777216, it must be at least 50331648");
    }
}
