//! The real disk and pool: files of one folder, and threads for work that blocks.
#![expect(clippy::disallowed_methods, reason = "one of the few doors to the world outside")]

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::BoxFuture;
use thiserror::Error;

use super::disk::is_out_of_files;
use super::{Disk, DiskSpace, FileName, Pool};

/// The file whose lock says that a process uses the folder. Its name is none that [`Disk`] can have.
pub(super) const LOCK: &str = ".lock";

/// A folder of the file system, locked: no second process opens it. A cheap clone; the last one, and the last file
/// opened through it, let the lock go.
#[derive(Clone)]
pub struct OsDisk(Arc<Folder>);

struct Folder {
    path: PathBuf,
    _lock: File,
    /// The folder itself, to sync it also where no file can be opened.
    itself: File,
    /// Let go of where no file can be opened for a mark.
    spare: Mutex<Option<File>>,
}

/// Why a data folder cannot be used.
#[derive(Debug, Error)]
pub enum FolderError {
    /// Another process has it.
    #[error("the data folder {folder} is in use by another process; stop that one, or name another folder")]
    InUse {
        /// Where.
        folder: String,
    },
    /// It cannot be written.
    #[error(
        "no permission to write in the data folder {folder} ({source}); give its owner the right to, or name another folder"
    )]
    NotWritable {
        /// Where.
        folder: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Its file system is read-only.
    #[error(
        "the data folder {folder} lies on a file system that is read-only, as one becomes in which the system has found an \
         error: see the system's log, make it writable, or name another folder"
    )]
    ReadOnly {
        /// Where.
        folder: String,
    },
    /// It is none, or cannot be made.
    #[error("cannot use {folder} as the data folder: {source}")]
    Unusable {
        /// Where.
        folder: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl OsDisk {
    /// Takes a folder, and makes it if it does not exist.
    ///
    /// # Errors
    /// Another process has it, it cannot be written, or it is not a folder.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let folder = path.display().to_string();
        let refuse = |source: io::Error| {
            let folder = folder.clone();
            if source.kind() == io::ErrorKind::ReadOnlyFilesystem {
                FolderError::ReadOnly { folder }
            } else if source.kind() == io::ErrorKind::PermissionDenied {
                FolderError::NotWritable { folder, source }
            } else {
                FolderError::Unusable { folder, source }
            }
        };
        fs::create_dir_all(path).map_err(&refuse)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK));
        let lock = lock.map_err(&refuse)?;
        match lock.try_lock() {
            Ok(()) => {
                let itself = File::open(path).map_err(&refuse)?;
                let spare = Mutex::new(Some(itself.try_clone().map_err(&refuse)?));
                Ok(Self(Arc::new(Folder { path: path.to_owned(), _lock: lock, itself, spare })))
            }
            Err(TryLockError::WouldBlock) => Err(FolderError::InUse { folder }),
            Err(TryLockError::Error(source)) => Err(refuse(source)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    fn file(&self, name: &FileName) -> PathBuf {
        self.0.path.join(name.as_str())
    }
}

impl Disk for OsDisk {
    fn open(&self, name: &FileName, create: bool) -> io::Result<Box<dyn redb::StorageBackend>> {
        let file = OpenOptions::new().read(true).write(true).create_new(create).open(self.file(name))?;
        Ok(Box::new(OsFile { file, _folder: self.0.clone() }))
    }

    fn publish(&self, from: &FileName, to: &FileName) -> io::Result<()> {
        fs::rename(self.file(from), self.file(to))?;
        self.0.itself.sync_all()
    }

    fn remove(&self, name: &FileName) -> io::Result<()> {
        fs::remove_file(self.file(name))
    }

    fn list(&self) -> io::Result<Vec<FileName>> {
        let mut names = Vec::new();
        for file in fs::read_dir(&self.0.path)? {
            // What has a name that is none of ours is not ours.
            names.extend(file?.file_name().to_str().and_then(FileName::parse));
        }
        names.sort();
        Ok(names)
    }

    fn mark(&self, name: &FileName, content: &[u8]) -> io::Result<()> {
        let write = || fs::write(self.file(name), content);
        match write() {
            Err(error) if is_out_of_files(&error) => {
                drop(self.0.spare.lock().unwrap_or_else(PoisonError::into_inner).take());
                write()
            }
            written => written,
        }
    }

    fn space(&self) -> io::Result<DiskSpace> {
        let seen = rustix::fs::statvfs(&self.0.path)?;
        // Some systems leave the size of a fragment out; what is kept for root is not for us.
        let unit = if seen.f_frsize == 0 { seen.f_bsize } else { seen.f_frsize };
        Ok(DiskSpace {
            free_bytes: seen.f_bavail.saturating_mul(unit),
            total_bytes: seen.f_blocks.saturating_mul(unit),
        })
    }

    fn describe(&self) -> String {
        self.0.path.display().to_string()
    }
}

impl fmt::Debug for OsDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OsDisk({})", self.0.path.display())
    }
}

/// A file as redb uses it: reads and writes at a position, so that readers do not wait for each other.
struct OsFile {
    file: File,
    _folder: Arc<Folder>,
}

impl redb::StorageBackend for OsFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

impl fmt::Debug for OsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

/// Tokio's threads for blocking work, of the runtime that the caller is in; their number is bounded there. No job is
/// long: a commit, a read, the sealing of a volume.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsPool;

impl Pool for OsPool {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        // Started here and not when first polled: work handed over is run.
        let job = tokio::task::spawn_blocking(work);
        Box::pin(async move {
            if let Err(error) = job.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_user() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a").join("b");
        let disk = OsDisk::open(&path).unwrap();
        let refused = OsDisk::open(&path).unwrap_err();
        assert!(matches!(refused, FolderError::InUse { .. }), "{refused}");
        assert!(refused.to_string().contains("in use by another process"), "{refused}");
        let file = disk.open(&FileName::new("x"), true).unwrap();
        drop(disk);
        assert!(OsDisk::open(&path).is_err(), "an open file keeps the folder");
        drop(file);
        OsDisk::open(&path).unwrap();
    }

    #[test]
    fn a_file_is_no_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"x").unwrap();
        let refused = OsDisk::open(&path).unwrap_err();
        assert!(matches!(refused, FolderError::Unusable { .. }), "{refused}");
    }

    #[test]
    fn files_come_and_go_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(folder.path()).unwrap();
        let (a, b) = (FileName::new("a.tmp"), FileName::new("a"));
        let file = disk.open(&a, true).unwrap();
        assert_eq!(disk.open(&a, true).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        file.set_len(10).unwrap();
        file.write(8, b"ab").unwrap();
        file.sync_data().unwrap();
        disk.publish(&a, &b).unwrap();
        fs::write(folder.path().join("Not Ours"), b"").unwrap();
        assert_eq!(disk.list().unwrap(), std::slice::from_ref(&b));
        let mut read = [9; 3];
        let file = disk.open(&b, false).unwrap();
        file.read(7, &mut read).unwrap();
        assert_eq!(read, [0, b'a', b'b']);
        assert!(file.read(8, &mut read).is_err(), "past the end");
        let space = disk.space().unwrap();
        assert!(0 < space.free_bytes && space.free_bytes <= space.total_bytes, "{space:?}");
        disk.remove(&b).unwrap();
        assert_eq!(disk.open(&b, false).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
