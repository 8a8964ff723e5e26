//! The folder a node's data live in, as storage sees it.

use std::fmt;
use std::io;

/// Whether the system says that this process, or all together, have as many files and connections open as they may
/// (EMFILE, ENFILE, on all systems that this runs on): nothing was done, and later it may be.
pub fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(23 | 24))
}

/// A file of the data folder: lower case letters, digits, `.`, `-` and `_`, without any path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(String);

impl FileName {
    /// Takes a name.
    ///
    /// # Panics
    /// If it holds anything but lower case letters, digits, `.`, `-` and `_`, or begins with a dot: names are ours.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self::parse(&name).unwrap_or_else(|| panic!("a plain file name: {name:?}"))
    }

    /// Takes a name that may not be one of ours.
    pub fn parse(name: &str) -> Option<Self> {
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_');
        let ours = !name.is_empty() && name.chars().all(fine) && !name.starts_with('.');
        ours.then(|| Self(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is left of the file system that the folder lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that this process may still write.
    pub free_bytes: u64,
    /// Bytes of the whole file system.
    pub total_bytes: u64,
}

/// The folder. Calls block: redb needs that, and [`super::Pool`] decides where they run.
///
/// After a crash a file holds what was synced, and any part of what was not; a file that was created or renamed
/// without [`Disk::publish`] may be missing or back under its old name.
pub trait Disk: Send + Sync {
    /// Opens `name` for redb, created empty if `create`. A write or sync that fails once means: the content is not
    /// known any more; nothing may be concluded from a later sync that succeeds.
    ///
    /// # Errors
    /// `NotFound` without `create`, `AlreadyExists` with it; whatever the system says.
    fn open(&self, name: &FileName, create: bool) -> io::Result<Box<dyn redb::StorageBackend>>;

    /// Makes the synced file `from` appear as `to`, durably: the folder is synced before this returns. Replaces
    /// `to` if it exists.
    ///
    /// # Errors
    /// Whatever the system says.
    fn publish(&self, from: &FileName, to: &FileName) -> io::Result<()>;

    /// Removes a file; the removal may come undone in a crash.
    ///
    /// # Errors
    /// `NotFound`, or whatever the system says.
    fn remove(&self, name: &FileName) -> io::Result<()>;

    /// All files, in order of their names.
    ///
    /// # Errors
    /// Whatever the system says.
    fn list(&self) -> io::Result<Vec<FileName>>;

    /// Writes a small file as a mark, best effort: it need not be durable. Used after a failed sync.
    ///
    /// # Errors
    /// Whatever the system says.
    fn mark(&self, name: &FileName, content: &[u8]) -> io::Result<()>;

    /// A write or sync of a file of this folder failed: for whoever watches over it. Called before [`Disk::mark`].
    fn failed(&self, _name: &FileName, _error: &io::Error) {}

    /// How much room there is. What was written and is not synced counts as taken, as far as the system knows of it;
    /// a part of a file that was never written takes none.
    ///
    /// # Errors
    /// Whatever the system says.
    fn space(&self) -> io::Result<DiskSpace>;

    /// Where the folder is, for messages to people.
    fn describe(&self) -> String;
}
