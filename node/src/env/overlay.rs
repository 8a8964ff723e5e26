//! A folder as it lies there, for whoever looks at what a stopped node has left: nothing in it is ever changed. What
//! is written, as opening a database does that was not closed cleanly, stays in memory.
#![expect(clippy::disallowed_methods, reason = "one of the few doors to the world outside")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::os::{FolderError, LOCK};
use super::{Disk, DiskSpace, FileName};

/// What is kept of a file that was written to, in pieces of so many bytes.
const PAGE: usize = 4_096;

/// A folder that is read only, and a layer in memory upon it. A cheap clone.
#[derive(Clone)]
pub struct Overlay(Arc<Folder>);

struct Folder {
    path: PathBuf,
    /// While it lives no node starts here.
    _lock: Option<File>,
    /// Files that were opened, made or removed; `None` for those that are gone.
    files: Mutex<BTreeMap<FileName, Option<Arc<Mutex<Layer>>>>>,
}

/// A file, and what was written upon it.
#[derive(Default)]
struct Layer {
    below: Option<File>,
    /// So much of the file below still shows.
    below_bytes: u64,
    bytes: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Overlay {
    /// Takes a folder that no process uses.
    ///
    /// # Errors
    /// A process has it, or it cannot be read.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let folder = path.display().to_string();
        let unusable = |source| FolderError::Unusable { folder: folder.clone(), source };
        drop(fs::read_dir(path).map_err(unusable)?);
        let lock = match File::open(path.join(LOCK)) {
            Ok(lock) => match lock.try_lock() {
                Ok(()) => Some(lock),
                Err(TryLockError::WouldBlock) => return Err(FolderError::InUse { folder }),
                Err(TryLockError::Error(source)) => return Err(unusable(source)),
            },
            // No node was ever started here: it may be a copy.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(unusable(error)),
        };
        Ok(Self(Arc::new(Folder { path: path.to_owned(), _lock: lock, files: Mutex::default() })))
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<FileName, Option<Arc<Mutex<Layer>>>>> {
        self.0.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layer upon a file that exists.
    fn layer(&self, name: &FileName) -> io::Result<Arc<Mutex<Layer>>> {
        let mut files = self.files();
        match files.get(name) {
            Some(Some(layer)) => return Ok(layer.clone()),
            Some(None) => return Err(io::ErrorKind::NotFound.into()),
            None => {}
        }
        let file = File::open(self.0.path.join(name.as_str()))?;
        let bytes = file.metadata()?.len();
        let layer = Layer { below: Some(file), below_bytes: bytes, bytes, pages: BTreeMap::new() };
        let layer = Arc::new(Mutex::new(layer));
        files.insert(name.clone(), Some(layer.clone()));
        Ok(layer)
    }
}

impl Disk for Overlay {
    fn open(&self, name: &FileName, create: bool) -> io::Result<Box<dyn redb::StorageBackend>> {
        let found = self.layer(name);
        let layer = match (found, create) {
            (Ok(_), true) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Ok(layer), false) => layer,
            (Err(error), true) if error.kind() == io::ErrorKind::NotFound => {
                let layer = Arc::<Mutex<Layer>>::default();
                self.files().insert(name.clone(), Some(layer.clone()));
                layer
            }
            (Err(error), _) => return Err(error),
        };
        Ok(Box::new(LayeredFile(layer)))
    }

    fn publish(&self, from: &FileName, to: &FileName) -> io::Result<()> {
        let layer = self.layer(from)?;
        let mut files = self.files();
        files.insert(from.clone(), None);
        files.insert(to.clone(), Some(layer));
        Ok(())
    }

    fn remove(&self, name: &FileName) -> io::Result<()> {
        self.layer(name)?;
        self.files().insert(name.clone(), None);
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<FileName>> {
        let mut names = BTreeSet::new();
        for file in fs::read_dir(&self.0.path)? {
            names.extend(file?.file_name().to_str().and_then(FileName::parse));
        }
        for (name, layer) in &*self.files() {
            match layer {
                Some(_) => names.insert(name.clone()),
                None => names.remove(name),
            };
        }
        Ok(names.into_iter().collect())
    }

    fn mark(&self, name: &FileName, content: &[u8]) -> io::Result<()> {
        let mut layer = Layer::default();
        layer.write(0, content)?;
        self.files().insert(name.clone(), Some(Arc::new(Mutex::new(layer))));
        Ok(())
    }

    /// What is written stays in memory.
    fn space(&self) -> io::Result<DiskSpace> {
        Ok(DiskSpace { free_bytes: u64::MAX, total_bytes: u64::MAX })
    }

    fn describe(&self) -> String {
        self.0.path.display().to_string()
    }
}

impl Layer {
    /// A page as it shows.
    fn page(&self, number: u64) -> io::Result<Vec<u8>> {
        if let Some(page) = self.pages.get(&number) {
            return Ok(page.clone());
        }
        let mut page = vec![0; PAGE];
        let start = number * PAGE as u64;
        let shows = usize::try_from(self.below_bytes.saturating_sub(start)).unwrap_or(PAGE).min(PAGE);
        if let Some(below) = &self.below
            && shows > 0
        {
            below.read_exact_at(&mut page[..shows], start)?;
        }
        Ok(page)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(out.len() as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        if end > self.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut at = 0;
        while at < out.len() {
            let (number, within) = place(offset + at as u64);
            let part = (PAGE - within).min(out.len() - at);
            let page = self.page(number)?;
            out[at..at + part].copy_from_slice(&page[within..within + part]);
            at += part;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            let (number, within) = place(offset + at as u64);
            let part = (PAGE - within).min(bytes.len() - at);
            let mut page = self.page(number)?;
            page[within..within + part].copy_from_slice(&bytes[at..at + part]);
            self.pages.insert(number, page);
            at += part;
        }
        self.bytes = self.bytes.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn set_len(&mut self, bytes: u64) {
        if bytes < self.bytes {
            self.below_bytes = self.below_bytes.min(bytes);
            let (number, within) = place(bytes);
            drop(self.pages.split_off(&(number + 1)));
            if let Some(page) = self.pages.get_mut(&number) {
                page[within..].fill(0);
            }
        }
        self.bytes = bytes;
    }
}

/// In which page a byte lies, and where.
fn place(offset: u64) -> (u64, usize) {
    let page = PAGE as u64;
    (offset / page, usize::try_from(offset % page).expect("a page is small"))
}

struct LayeredFile(Arc<Mutex<Layer>>);

impl LayeredFile {
    fn layer(&self) -> MutexGuard<'_, Layer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl redb::StorageBackend for LayeredFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.layer().bytes)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.layer().read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.layer().set_len(len);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.layer().write(offset, data)
    }
}

impl fmt::Debug for LayeredFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LayeredFile")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::os::OsDisk;

    #[test]
    fn what_is_written_shows_and_never_reaches_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (name, other) = (FileName::new("a"), FileName::new("b"));
        let content = (0..9_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect::<Vec<_>>();
        fs::write(folder.path().join("a"), &content).unwrap();
        let overlay = Overlay::open(folder.path()).unwrap();
        let file = overlay.open(&name, false).unwrap();
        let read = |offset: u64, bytes: usize| {
            let mut out = vec![9; bytes];
            file.read(offset, &mut out).map(|()| out)
        };
        assert_eq!(read(4_000, 4_900).unwrap(), content[4_000..8_900]);
        file.write(4_094, b"abcd").unwrap();
        assert_eq!(read(4_093, 6).unwrap(), [content[4_093], b'a', b'b', b'c', b'd', content[4_098]]);
        file.set_len(4_096).unwrap();
        assert!(read(4_095, 2).is_err(), "past the end");
        file.set_len(10_000).unwrap();
        assert_eq!(read(4_094, 4).unwrap(), [b'a', b'b', 0, 0], "what was cut off does not come back");
        assert_eq!(read(8_990, 1_010).unwrap(), vec![0; 1_010]);
        overlay.publish(&name, &other).unwrap();
        overlay.mark(&FileName::new("mark"), b"m").unwrap();
        assert_eq!(overlay.list().unwrap(), [other.clone(), FileName::new("mark")]);
        overlay.remove(&other).unwrap();
        assert_eq!(overlay.open(&other, false).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(overlay.open(&other, true).is_ok());
        let names = fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["a"]);
        assert_eq!(fs::read(folder.path().join("a")).unwrap(), content);
    }

    #[test]
    fn a_folder_in_use_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(folder.path()).unwrap();
        let refused = Overlay::open(folder.path()).map(drop).unwrap_err();
        assert!(matches!(refused, FolderError::InUse { .. }), "{refused}");
        drop(disk);
        let looking = Overlay::open(folder.path()).unwrap();
        assert!(OsDisk::open(folder.path()).is_err(), "nobody starts while it is looked at");
        drop(looking);
        let missing = Overlay::open(&folder.path().join("missing")).map(drop).unwrap_err();
        assert!(matches!(missing, FolderError::Unusable { .. }), "{missing}");
    }
}
