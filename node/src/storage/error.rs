//! What can go wrong, one enum per operation.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;

use quorate_proto::ids::{GroupId, LogIndex, NodeId};
use thiserror::Error;

use super::entry::Corrupt;
use crate::env::FileName;
use crate::env::disk::is_out_of_files;

/// The disk, or redb on it, did not do what was asked. A cheap clone.
#[derive(Clone, Debug)]
pub struct DiskError {
    /// What was tried, as in "commit to".
    pub operation: &'static str,
    /// With which file.
    pub file: String,
    cause: Arc<dyn Error + Send + Sync>,
}

impl DiskError {
    pub(super) fn new(
        operation: &'static str,
        file: &FileName,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { operation, file: file.to_string(), cause: Arc::from(cause.into()) }
    }

    /// A part of the store panicked: as bad as a disk that failed.
    pub(super) fn panicked(part: &'static str, panic: &(dyn Any + Send)) -> Self {
        let message = format!("it panicked: {}", said(panic));
        Self { operation: "go on in", file: part.to_owned(), cause: Arc::from(Box::from(message)) }
    }

    /// A request was dropped without an answer.
    pub(super) fn dropped() -> Self {
        let cause = Arc::from(Box::from("it was dropped".to_owned()));
        Self { operation: "wait for", file: "the store".to_owned(), cause }
    }

    /// What the system said, if it was the system that spoke.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        self.io().map(io::Error::kind)
    }

    /// Whether no file could be opened, as too many are.
    pub(super) fn is_out_of_files(&self) -> bool {
        self.io().is_some_and(is_out_of_files)
    }

    fn io(&self) -> Option<&io::Error> {
        let mut cause: &(dyn Error + 'static) = &*self.cause;
        loop {
            if let Some(error) = cause.downcast_ref::<io::Error>() {
                return Some(error);
            }
            if let Some(redb::Error::Io(error)) = cause.downcast_ref::<redb::Error>() {
                return Some(error);
            }
            cause = cause.source()?;
        }
    }

    /// Whether this says that the file is not what was written: redb or we found it so, it is not there, or the medium
    /// does not give it back. Any other word of the system (no permission, too many open files) says nothing of the
    /// content.
    pub(super) fn is_damage(&self) -> bool {
        let is_content = |error: &io::Error| match error.raw_os_error() {
            Some(_) => is_medium(error) || error.kind() == io::ErrorKind::NotFound,
            None => {
                let of_a_write = error.get_ref().is_some_and(|inner| inner.is::<FailedWrite>());
                let said_why = matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied
                        | io::ErrorKind::ReadOnlyFilesystem
                        | io::ErrorKind::StorageFull
                        | io::ErrorKind::QuotaExceeded
                );
                !of_a_write && !said_why
            }
        };
        self.io().is_none_or(is_content)
    }
}

/// A write or sync that failed: it says nothing of what was written before.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct FailedWrite(#[source] io::Error);

impl FailedWrite {
    /// Wraps what the system said of a write or sync.
    pub(super) fn wrap(error: io::Error) -> io::Error {
        io::Error::new(error.kind(), Self(error))
    }
}

/// Whether it is the medium that does not give something back: EIO, of all systems that this runs on.
pub(super) fn is_medium(error: &io::Error) -> bool {
    error.raw_os_error() == Some(5)
}

impl ReadError {
    /// Whether no file could be opened, as too many are: later it may be.
    pub fn is_out_of_files(&self) -> bool {
        matches!(self, Self::Disk(error) if error.is_out_of_files())
    }

    /// Whether what is read is not what was written.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Corrupt(_) => true,
            Self::Disk(error) => error.is_damage(),
            Self::Missing { .. } | Self::Failed(_) => false,
        }
    }
}

impl DiskError {
    /// What whoever runs the node can do about it, if that is known.
    fn advice(&self) -> Option<&'static str> {
        let kind = self.io_kind()?;
        if matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return Some("free space where its data are, then start it again");
        }
        (kind == io::ErrorKind::ReadOnlyFilesystem).then_some(
            "the file system with its data is read-only, as one becomes in which the system has found an error: see the \
             system's log, make it writable, then start it again",
        )
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "could not {} {}: {}", self.operation, self.file, self.cause)
    }
}

impl Error for DiskError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.cause)
    }
}

/// The words of a panic.
pub(super) fn said(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&'static str>().copied())
        .unwrap_or("no message")
}

/// Why something was not written, or perhaps not.
#[derive(Clone, Debug, Error)]
pub enum StoreError {
    /// Perhaps written: the disk failed while it was in flight. Nothing more is written by this process.
    #[error("perhaps written: {0}")]
    Unknown(#[source] DiskError),
    /// Not written: the disk failed earlier.
    #[error("not written, as the disk failed earlier: {0}")]
    Failed(#[source] DiskError),
    /// Not written: the store is closed.
    #[error("not written: the store is closed")]
    Closed,
    /// Not written: entries must follow each other.
    #[error("not written: the log of group {group} goes on at index {expected}, not {found}")]
    Gap {
        /// Whose log.
        group: GroupId,
        /// The index that comes next.
        expected: LogIndex,
        /// The one given.
        found: LogIndex,
    },
    /// Not written: an entry came without its body, or with another one's.
    #[error("not written: the body of entry {index} of group {group} is not its own: {corrupt:?}")]
    Body {
        /// Whose log.
        group: GroupId,
        /// Which entry.
        index: LogIndex,
        /// What is wrong with it; nothing if it is absent.
        corrupt: Option<Corrupt>,
    },
    /// Not written: a checkpoint is of an entry that the log does not hold.
    #[error("not written: the log of group {group} does not hold entry {index}, of which the checkpoint is")]
    NotHeld {
        /// Whose log.
        group: GroupId,
        /// Which entry.
        index: LogIndex,
    },
    /// Not trimmed: what the group's owner made of the log up to there is not saved.
    #[error("not trimmed: no checkpoint of group {group} reaches entry {index}")]
    NoCheckpoint {
        /// Whose log.
        group: GroupId,
        /// Through which entry it was to be trimmed.
        index: LogIndex,
    },
}

impl StoreError {
    /// What whoever runs the node can do about it, if that is known.
    pub fn advice(&self) -> Option<&'static str> {
        let (Self::Unknown(error) | Self::Failed(error)) = self else { return None };
        error.advice()
    }
}

/// Why something could not be read.
#[derive(Clone, Debug, Error)]
pub enum ReadError {
    /// The log does not hold that entry, not any more or not yet.
    #[error("the log of group {group} does not hold entry {index}")]
    Missing {
        /// Whose log.
        group: GroupId,
        /// Which entry.
        index: LogIndex,
    },
    /// What the disk holds is not what was written: the entry must come from another replica.
    #[error("damaged data: {0}")]
    Corrupt(#[source] CorruptEntry),
    /// The disk failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A write or a sync failed before, so that nobody knows what the disk holds, and the process is about to end:
    /// nothing is damaged that was acknowledged.
    #[error("nothing is read any more: {0}")]
    Failed(#[source] StoreError),
}

/// Where damage was found.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} in {file}, {place}: {corrupt}")]
pub struct CorruptEntry {
    /// Head, body, index or fact.
    pub what: &'static str,
    /// The damaged file.
    pub file: String,
    /// Where in it, or which group and index.
    pub place: String,
    /// What is wrong.
    pub corrupt: Corrupt,
}

/// What to expect of a folder that cannot be mended.
const NO_COPY: &str = "; without one, start it on an empty folder: it has lost what it acknowledged, and waits until \
    `quorate cluster replace-node` admits it again";

/// Why a data folder was not opened. Nothing in it was changed, but for leftovers of an earlier crash.
#[derive(Clone, Debug, Error)]
pub enum OpenError {
    /// The folder or a file in it cannot be written.
    #[error(
        "no permission to write in the data folder {folder} ({source}); give its owner the right to, or name another folder"
    )]
    NotWritable {
        /// Where.
        folder: String,
        /// What the system said.
        #[source]
        source: DiskError,
    },
    /// Written by another version of the program.
    #[error(
        "{file} in {folder} has format version {found}, this program reads versions up to {ours}; start the program that wrote it"
    )]
    OtherVersion {
        /// Where.
        folder: String,
        /// Which file.
        file: String,
        /// Its version.
        found: u32,
        /// The newest one that this program reads.
        ours: u32,
    },
    /// Another node's data.
    #[error(
        "the data folder {folder} belongs to node {found}, not to node {ours}; name this node's own folder, or start it with --id {found}"
    )]
    OtherNode {
        /// Where.
        folder: String,
        /// Whose it is.
        found: NodeId,
        /// Who was to open it.
        ours: NodeId,
    },
    /// There are volumes, and no `meta.redb`.
    #[error(
        "{folder} holds {volumes} volumes of data but no meta.redb, which says whose they are; put meta.redb back{}",
        NO_COPY
    )]
    MetaMissing {
        /// Where.
        folder: String,
        /// How many.
        volumes: usize,
    },
    /// `meta.redb` cannot be believed.
    #[error("meta.redb in {folder} is damaged ({reason}); put an intact copy back{}", NO_COPY)]
    MetaDamaged {
        /// Where.
        folder: String,
        /// What is wrong.
        reason: String,
    },
    /// A checksum of ours does not fit.
    #[error("damaged data in {folder}: {corrupt}; put an intact copy of the file back{}", NO_COPY)]
    Corrupt {
        /// Where.
        folder: String,
        /// Where exactly.
        #[source]
        corrupt: CorruptEntry,
    },
    /// A log is not the one of which a checkpoint was made, or has lost a part of it.
    #[error(
        "the checkpoint of group {group} in {folder} does not fit its log: {reason}; put meta.redb and the volumes back as they were together{}",
        NO_COPY
    )]
    Checkpoint {
        /// Where.
        folder: String,
        /// Whose.
        group: GroupId,
        /// In what they differ.
        reason: String,
    },
    /// The disk failed.
    #[error("cannot open the data folder {folder}: {source}{}", source.advice().map(|a| format!("; {a}")).unwrap_or_default())]
    Disk {
        /// Where.
        folder: String,
        /// What failed.
        #[source]
        source: DiskError,
    },
}

/// What an operation on a file of redb ended with, before it is known who asked.
#[derive(Debug)]
pub(super) enum Fault {
    Redb(redb::Error),
    Corrupt { what: &'static str, place: String, corrupt: Corrupt },
    Other(String),
}

impl Fault {
    pub(super) fn corrupt(what: &'static str, place: impl fmt::Display, corrupt: Corrupt) -> Self {
        Self::Corrupt { what, place: place.to_string(), corrupt }
    }

    pub(super) fn into_read_error(self, operation: &'static str, file: &FileName) -> ReadError {
        match self {
            Self::Redb(error) => DiskError::new(operation, file, error).into(),
            Self::Other(message) => DiskError::new(operation, file, message).into(),
            Self::Corrupt { what, place, corrupt } => {
                ReadError::Corrupt(CorruptEntry { what, file: file.to_string(), place, corrupt })
            }
        }
    }
}

macro_rules! fault_from {
    ($($error:ident),*) => {
        $(impl From<redb::$error> for Fault {
            fn from(error: redb::$error) -> Self {
                Self::Redb(error.into())
            }
        })*
    };
}
fault_from!(TransactionError, TableError, StorageError, CommitError, DatabaseError, SetDurabilityError);

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Redb(redb::Error::Io(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_open_files_are_told_from_a_failed_write() {
        let failed = |error: io::Error| {
            let cause = redb::Error::from(redb::StorageError::Io(error));
            DiskError::new("create", &FileName::new("volume"), cause).is_out_of_files()
        };
        assert!(failed(io::Error::from_raw_os_error(24)) && failed(io::Error::from_raw_os_error(23)));
        assert!(!failed(io::Error::from_raw_os_error(28)));
        assert!(!failed(FailedWrite::wrap(io::Error::from_raw_os_error(24))), "it was a write");
    }

    #[test]
    fn a_full_disk_gets_advice() {
        let failed = |kind: io::ErrorKind| {
            let cause = redb::Error::from(redb::StorageError::Io(kind.into()));
            StoreError::Unknown(DiskError::new("commit to", &FileName::new("volume"), cause))
        };
        assert!(
            failed(io::ErrorKind::StorageFull).advice().is_some_and(|advice| advice.contains("free space"))
        );
        assert_eq!(failed(io::ErrorKind::Other).advice(), None);
        let read_only = failed(io::ErrorKind::ReadOnlyFilesystem).advice();
        assert!(read_only.is_some_and(|advice| advice.contains("make it writable")), "{read_only:?}");
        let StoreError::Unknown(source) = failed(io::ErrorKind::StorageFull) else { unreachable!("made so") };
        let opened = OpenError::Disk { folder: "one".to_owned(), source }.to_string();
        assert!(opened.contains("folder one") && opened.contains("free space"), "{opened}");
        assert_eq!(StoreError::Closed.advice(), None);
    }

    #[test]
    fn damage_says_what_to_do() {
        let error = OpenError::MetaDamaged { folder: "one".to_owned(), reason: "cut short".to_owned() };
        assert_eq!(
            error.to_string(),
            "meta.redb in one is damaged (cut short); put an intact copy back; without one, start it on an empty folder: it has \
             lost what it acknowledged, and waits until `quorate cluster replace-node` admits it again"
        );
    }
}
