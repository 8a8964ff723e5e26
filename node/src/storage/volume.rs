//! One redb file of entries: how it is made, written, sealed and read. redb's types stop here and in `facts`.
//!
//! Tables of `volume-%08d.redb`:
//!
//! | table | key | value |
//! | --- | --- | --- |
//! | `facts` | name | format version, node, identity, number, sealed; each with its CRC-32C behind it |
//! | `stream` | 0, 1, 2, ... in order of arrival | items: heads and hard state (see `stream`) |
//! | `bodies` | 0, 1, 2, ... in order of arrival | bodies, end to end |
//! | `index` | group, first index | where the heads lie (see `index`); written when the volume is sealed |
//!
//! A volume that has nothing in its stream is a spare: it counts for nothing yet.
//!
//! A folder's format is that of its `meta.redb`; a volume has that of the program that began it, or an older one. A
//! folder of an older format is opened, and from then on has the newest: what was written by then stays as it is.
//!
//! | format | what it has that the one before has not |
//! | --- | --- |
//! | 1 | |
//! | 2 | item 8 of the stream; state 2 of a volume in `meta.redb`, and its table `checkpoints`; commands in partitions' logs |

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use quorate_proto::ids::{Identity, NodeId};
use redb::{
    Builder, Database, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, StorageBackend, TableDefinition,
};

use super::entry::{Corrupt, array, check_crc};
use super::error::{CorruptEntry, DiskError, FailedWrite, Fault, ReadError, said};
use super::failure::marker;
use crate::env::{Disk, FileName};

/// Version of the format in which files of the data folder are written.
pub(super) const FORMAT: u32 = 2;

/// The oldest version that is read, with all between.
pub(super) const FORMAT_OLDEST: u32 = 1;

const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");
pub(super) const STREAM: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("stream");
pub(super) const BODIES: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("bodies");
pub(super) const INDEX: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("index");

/// Number of a volume: from 1, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct VolumeNumber(pub(super) u32);

impl VolumeNumber {
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    pub(super) fn file(self) -> FileName {
        FileName::new(format!("volume-{:08}.redb", self.0))
    }

    /// The number in a volume's name.
    pub(super) fn of(name: &FileName) -> Option<Self> {
        let digits = name.as_str().strip_prefix("volume-")?.strip_suffix(".redb")?;
        if digits.len() == 8 { digits.parse().ok().map(Self) } else { None }
    }
}

impl fmt::Display for VolumeNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose disk it is: stands in every file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) node: NodeId,
    pub(super) identity: Identity,
}

/// What a volume says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) format: u32,
    pub(super) owner: Owner,
    pub(super) number: VolumeNumber,
    pub(super) sealed: bool,
}

/// One volume. Sealed ones are opened when they are read and may be closed at any time.
pub(super) struct Volume {
    pub(super) number: VolumeNumber,
    name: FileName,
    disk: Arc<dyn Disk>,
    /// Held for reading by whoever uses the file, for writing by whoever opens or closes it.
    handle: RwLock<Handle>,
    cache_bytes: usize,
    /// Why it is not to be read, if it is not what was written, or is not there.
    lost: Option<CorruptEntry>,
}

enum Handle {
    Closed,
    Writer(Database),
    Reader(ReadOnlyDatabase),
}

impl Drop for Volume {
    fn drop(&mut self) {
        let handle = self.handle.get_mut().unwrap_or_else(PoisonError::into_inner);
        dropped(std::mem::replace(handle, Handle::Closed), &self.name);
    }
}

/// How an opening went.
pub(super) struct Opened {
    pub(super) volume: Volume,
    /// It had not been closed cleanly.
    pub(super) repaired: bool,
}

impl Volume {
    /// Makes a volume without content: under a temporary name, synced and only then under its own.
    pub(super) fn create(
        disk: &Arc<dyn Disk>,
        owner: Owner,
        number: VolumeNumber,
        cache_bytes: usize,
    ) -> Result<Self, DiskError> {
        let volume = Self::begin(disk, owner, number, cache_bytes)?;
        volume.close()?;
        volume.publish()?;
        Ok(Self::open(disk, number, cache_bytes)?.volume)
    }

    /// Makes a volume without content under a temporary name, to be filled and published: until then a start removes it.
    pub(super) fn begin(
        disk: &Arc<dyn Disk>,
        owner: Owner,
        number: VolumeNumber,
        cache_bytes: usize,
    ) -> Result<Self, DiskError> {
        let temporary = FileName::new(format!("{}.tmp", number.file()));
        let db = guarded_disk("create", &temporary, || {
            let db = create_database(disk, &temporary, cache_bytes)?;
            let label = Label { format: FORMAT, owner, number, sealed: false };
            let write = db.begin_write()?;
            {
                let mut facts = write.open_table(FACTS)?;
                for (fact, value) in label.encode() {
                    facts.insert(fact, &value[..])?;
                }
                write.open_table(STREAM)?;
                write.open_table(BODIES)?;
                write.open_table(INDEX)?;
            }
            write.commit()?;
            Ok(db)
        })?;
        let handle = RwLock::new(Handle::Writer(db));
        Ok(Self { number, name: temporary, disk: disk.clone(), handle, cache_bytes, lost: None })
    }

    /// Gives a closed volume that was begun under a temporary name its own. It is not open then.
    pub(super) fn publish(self) -> Result<Self, DiskError> {
        guarded_disk("publish", &self.name, || Ok(self.disk.publish(&self.name, &self.number.file())?))?;
        Ok(Self::sealed(&self.disk, self.number, self.cache_bytes))
    }

    /// Opens a volume for writing, repairing it if it was not closed cleanly.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        number: VolumeNumber,
        cache_bytes: usize,
    ) -> Result<Opened, DiskError> {
        let name = number.file();
        let (db, repaired) = guarded_disk("open", &name, || open_database(disk, &name, cache_bytes))?;
        let handle = RwLock::new(Handle::Writer(db));
        let volume = Self { number, name, disk: disk.clone(), handle, cache_bytes, lost: None };
        Ok(Opened { volume, repaired })
    }

    /// A sealed volume, not opened yet.
    pub(super) fn sealed(disk: &Arc<dyn Disk>, number: VolumeNumber, cache_bytes: usize) -> Self {
        let handle = RwLock::new(Handle::Closed);
        Self { number, name: number.file(), disk: disk.clone(), handle, cache_bytes, lost: None }
    }

    /// A volume that entries were written to, and that cannot be read any more: each read says why.
    pub(super) fn lost(disk: &Arc<dyn Disk>, number: VolumeNumber, why: CorruptEntry) -> Self {
        let mut volume = Self::sealed(disk, number, 0);
        volume.lost = Some(why);
        volume
    }

    /// Whether it is [`Volume::lost`].
    pub(super) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    pub(super) fn file(&self) -> &FileName {
        &self.name
    }

    /// Reads in one transaction. Opens a sealed volume that is closed.
    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, ReadError> {
        if let Some(why) = &self.lost {
            return Err(ReadError::Corrupt(why.clone()));
        }
        let handle = self.opened()?;
        guarded(|| {
            let read = match &*handle {
                Handle::Writer(db) => db.begin_read()?,
                Handle::Reader(db) => db.begin_read()?,
                Handle::Closed => unreachable!("it was found open under the same lock"),
            };
            work(&read)
        })
        .map_err(|fault| fault.into_read_error("read", &self.name))
    }

    /// Opens the file if it is closed; it stays open while what is returned lives. Whoever closes it between the
    /// opening and the look, because it was sealed or others are read more, is no damage: it is opened again.
    fn opened(&self) -> Result<RwLockReadGuard<'_, Handle>, DiskError> {
        loop {
            let handle = self.handle.read().unwrap_or_else(PoisonError::into_inner);
            if !matches!(*handle, Handle::Closed) {
                return Ok(handle);
            }
            drop(handle);
            let mut handle = self.handle.write().unwrap_or_else(PoisonError::into_inner);
            if matches!(*handle, Handle::Closed) {
                let db = guarded_disk("open", &self.name, || {
                    let backend = Backend::open(&self.disk, &self.name, false)?;
                    Ok(Builder::new()
                        .set_cache_size(self.cache_bytes / 8)
                        .open_read_only_with_backend(backend)?)
                })?;
                *handle = Handle::Reader(db);
            }
        }
    }

    /// Writes one transaction and syncs it. An error means: perhaps written, and never again.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&redb::WriteTransaction) -> Result<T, Fault>,
    ) -> Result<T, DiskError> {
        let handle = self.handle.read().unwrap_or_else(PoisonError::into_inner);
        guarded_disk("commit to", &self.name, || {
            let Handle::Writer(db) = &*handle else {
                return Err(Fault::Other("not open for writing".to_owned()));
            };
            let mut write = db.begin_write()?;
            write.set_durability(redb::Durability::Immediate)?;
            let result = work(&write)?;
            write.commit()?;
            Ok(result)
        })
    }

    /// Whether it is open for writing: once closed, it never is again.
    pub(super) fn is_writer(&self) -> bool {
        matches!(*self.handle.read().unwrap_or_else(PoisonError::into_inner), Handle::Writer(_))
    }

    /// Whether its file is open.
    #[cfg(test)]
    pub(super) fn is_open(&self) -> bool {
        !matches!(*self.handle.read().unwrap_or_else(PoisonError::into_inner), Handle::Closed)
    }

    /// Notes that nothing more will be written, in the transaction that writes the index.
    pub(super) fn write_sealed(write: &redb::WriteTransaction) -> Result<(), Fault> {
        let mut facts = write.open_table(FACTS)?;
        facts.insert("sealed", &checked(&[1])[..])?;
        Ok(())
    }

    /// Closes the file cleanly. Whoever reads it next opens it for reading.
    pub(super) fn close(&self) -> Result<(), DiskError> {
        let mut handle = self.handle.write().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *handle, Handle::Closed) {
            Handle::Closed => Ok(()),
            Handle::Writer(db) => guarded_disk("close", &self.name, || Ok(db.close()?)),
            Handle::Reader(db) => guarded_disk("close", &self.name, || Ok(db.close()?)),
        }
    }

    /// Lets go of pages that were read: what was damaged is read from the disk once more when it is asked for again.
    /// One that is written to keeps them.
    pub(super) fn forget_pages(&self) {
        let mut handle = self.handle.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(*handle, Handle::Reader(_)) {
            dropped(std::mem::replace(&mut *handle, Handle::Closed), &self.name);
        }
    }

    /// What the volume says of itself.
    pub(super) fn label(&self) -> Result<Label, ReadError> {
        self.read(|read| {
            let facts = read.open_table(FACTS)?;
            let fact = |name: &'static str| -> Result<Vec<u8>, Fault> {
                let value = facts.get(name)?;
                let value = value.as_ref().map(redb::AccessGuard::value).unwrap_or_default();
                let value = unchecked(value).map_err(|corrupt| Fault::corrupt("fact", name, corrupt))?;
                Ok(value.to_vec())
            };
            let number = |name: &'static str| -> Result<u32, Fault> {
                let value = fact(name)?.try_into();
                let value = value.map_err(|_| Fault::corrupt("fact", name, Corrupt::Short))?;
                Ok(u32::from_le_bytes(value))
            };
            let identity = Identity::from_wire(&fact("identity")?)
                .ok_or_else(|| Fault::corrupt("fact", "identity", Corrupt::Short))?;
            Ok(Label {
                format: number("format")?,
                owner: Owner { node: NodeId(number("node")?), identity },
                number: VolumeNumber(number("number")?),
                sealed: fact("sealed")? == [1],
            })
        })
    }

    /// Length and CRC-32C of the closed file.
    pub(super) fn measure(&self) -> Result<(u64, u32), DiskError> {
        guarded_disk("read", &self.name, || {
            let file = self.disk.open(&self.name, false)?;
            let length = file.len()?;
            let (mut at, mut crc, mut buffer) = (0, 0, vec![0; 1 << 20]);
            while at < length {
                let part = usize::try_from((length - at).min(1 << 20)).expect("a megabyte fits");
                file.read(at, &mut buffer[..part])?;
                crc = crc32c::crc32c_append(crc, &buffer[..part]);
                at += u64::try_from(part).expect("a megabyte fits");
            }
            file.close()?;
            Ok((length, crc))
        })
    }

    /// Length of the file, without opening it as a database.
    pub(super) fn length(&self) -> Result<u64, DiskError> {
        guarded_disk("read", &self.name, || Ok(self.disk.open(&self.name, false)?.len()?))
    }
}

impl Label {
    fn encode(&self) -> [(&'static str, Vec<u8>); 5] {
        [
            ("format", checked(&self.format.to_le_bytes())),
            ("node", checked(&self.owner.node.0.to_le_bytes())),
            ("identity", checked(&self.owner.identity.to_wire())),
            ("number", checked(&self.number.0.to_le_bytes())),
            ("sealed", checked(&[u8::from(self.sealed)])),
        ]
    }
}

/// A fact with its CRC-32C behind it.
pub(super) fn checked(value: &[u8]) -> Vec<u8> {
    let mut out = value.to_vec();
    out.extend(crc32c::crc32c(value).to_le_bytes());
    out
}

/// A fact without the CRC-32C behind it, which fits.
pub(super) fn unchecked(value: &[u8]) -> Result<&[u8], Corrupt> {
    let end = value.len().checked_sub(4).ok_or(Corrupt::Short)?;
    check_crc(&value[..end], u32::from_le_bytes(array(&value[end..])))?;
    Ok(&value[..end])
}

/// Makes a database in a new file. A leftover of that name is in the way of nothing: it is removed.
pub(super) fn create_database(
    disk: &Arc<dyn Disk>,
    name: &FileName,
    cache_bytes: usize,
) -> Result<Database, Fault> {
    match disk.remove(name) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let backend = Backend::open(disk, name, true)?;
    Ok(Builder::new().set_cache_size(cache_bytes).create_with_backend(backend)?)
}

/// Opens a database, and tells whether it had to be repaired.
pub(super) fn open_database(
    disk: &Arc<dyn Disk>,
    name: &FileName,
    cache_bytes: usize,
) -> Result<(Database, bool), Fault> {
    let backend = Backend::open(disk, name, false)?;
    if backend.len()? == 0 {
        // redb would make a new database of it.
        return Err(Fault::Other("the file is empty".to_owned()));
    }
    // After kill -9 the page cache may show what no sync has reached: it must not count before it is on the disk.
    backend.sync_data()?;
    let repaired = Arc::new(AtomicBool::new(false));
    let told = repaired.clone();
    let db = Builder::new()
        .set_cache_size(cache_bytes)
        .set_repair_callback(move |_| told.store(true, Ordering::Relaxed))
        .create_with_backend(backend)?;
    Ok((db, repaired.load(Ordering::Relaxed)))
}

/// Runs work on redb; a panic in there, as damaged pages cause it, is an error.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Fault::Other(format!("redb panicked: {}", said(&*panic)))))
}

/// [`guarded`], for work that cannot end in damage of ours.
pub(super) fn guarded_disk<T>(
    operation: &'static str,
    file: &FileName,
    work: impl FnOnce() -> Result<T, Fault>,
) -> Result<T, DiskError> {
    guarded(work).map_err(|fault| match fault.into_read_error(operation, file) {
        ReadError::Disk(error) => error,
        ReadError::Corrupt(error) => DiskError::new(operation, file, error),
        ReadError::Missing { .. } | ReadError::Failed(_) => unreachable!("nothing was asked for by index"),
    })
}

/// Drops a database of redb's, which then closes its file: damaged pages make it panic there too, and nobody waits for
/// the outcome.
pub(super) fn dropped<T>(db: T, file: &FileName) {
    if let Err(error) = guarded_disk("close", file, || {
        drop(db);
        Ok(())
    }) {
        tracing::warn!(error = &error as &dyn std::error::Error, "a file was not closed cleanly");
    }
}

/// A file of the environment's as redb wants it. A write or sync that fails marks the folder at once, whoever it was
/// for: opening and closing write too.
pub(super) struct Backend {
    name: FileName,
    file: Box<dyn StorageBackend>,
    disk: Arc<dyn Disk>,
}

impl Backend {
    fn open(disk: &Arc<dyn Disk>, name: &FileName, create: bool) -> io::Result<Self> {
        Ok(Self { name: name.clone(), file: disk.open(name, create)?, disk: disk.clone() })
    }

    fn marked(&self, result: io::Result<()>) -> io::Result<()> {
        result.map_err(|error| {
            self.disk.failed(&self.name, &error);
            // Best effort: see `failure`.
            drop(self.disk.mark(&marker(), error.to_string().as_bytes()));
            FailedWrite::wrap(error)
        })
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

/// Locks are not passed on: the folder as a whole is locked.
impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.marked(self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.marked(self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.marked(self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
