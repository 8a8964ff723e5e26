//! The real disk for tests, with a gate before its syncs.

use std::io;
use std::sync::{Arc, Condvar, Mutex};

use super::os::OsDisk;
use super::{Disk, DiskSpace, FileName};

/// While closed, nothing is synced: whoever syncs waits. It also says how much room the disk claims to have, and what it
/// refuses.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>, Arc<Mutex<Option<DiskSpace>>>, Arc<Mutex<Faults>>);

#[derive(Debug, Default)]
struct Faults {
    /// So many openings are to fail, as too many files are open.
    openings: u32,
    /// What is written to files whose names begin and end so fails, with that error of the system's.
    writes: Option<(&'static str, &'static str, i32)>,
    /// How many writes have failed.
    failed: u32,
    /// Who waits at the gate.
    waiting: u32,
}

impl Gate {
    pub(crate) fn close(&self) {
        *self.0.0.lock().unwrap() = true;
    }

    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = false;
        self.0.1.notify_all();
    }

    /// How many wait at the gate.
    pub(crate) fn waiting(&self) -> u32 {
        self.2.lock().unwrap().waiting
    }

    /// The disk claims to have so much room; the truth if `None`.
    pub(crate) fn claim(&self, space: Option<DiskSpace>) {
        *self.1.lock().unwrap() = space;
    }

    /// The next openings fail, as too many files are open (EMFILE).
    pub(crate) fn refuse_openings(&self, count: u32) {
        self.2.lock().unwrap().openings = count;
    }

    /// How many openings are still to fail.
    pub(crate) fn refuses(&self) -> u32 {
        self.2.lock().unwrap().openings
    }

    /// Writes and syncs of files whose names begin and end so fail, with that error of the system's.
    pub(crate) fn fail_writes(&self, of: Option<(&'static str, &'static str, i32)>) {
        self.2.lock().unwrap().writes = of;
    }

    /// How many writes and syncs have failed.
    pub(crate) fn failed_writes(&self) -> u32 {
        self.2.lock().unwrap().failed
    }

    fn pass(&self) {
        self.2.lock().unwrap().waiting += 1;
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |closed| *closed).unwrap());
        self.2.lock().unwrap().waiting -= 1;
    }

    fn opening(&self) -> io::Result<()> {
        let mut faults = self.2.lock().unwrap();
        if faults.openings == 0 {
            return Ok(());
        }
        faults.openings -= 1;
        Err(io::Error::from_raw_os_error(24))
    }

    fn writing(&self, name: &FileName) -> io::Result<()> {
        let mut faults = self.2.lock().unwrap();
        let name = name.as_str();
        match faults.writes {
            Some((start, end, error)) if name.starts_with(start) && name.ends_with(end) => {
                faults.failed += 1;
                Err(io::Error::from_raw_os_error(error))
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// A disk whose files wait at the gate before each sync.
pub(crate) struct GatedDisk {
    pub(crate) disk: OsDisk,
    pub(crate) gate: Gate,
}

#[derive(Debug)]
struct GatedFile {
    name: FileName,
    file: Box<dyn redb::StorageBackend>,
    gate: Gate,
}

impl Disk for GatedDisk {
    fn open(&self, name: &FileName, create: bool) -> io::Result<Box<dyn redb::StorageBackend>> {
        self.gate.opening()?;
        let (name, file) = (name.clone(), self.disk.open(name, create)?);
        Ok(Box::new(GatedFile { name, file, gate: self.gate.clone() }))
    }

    fn publish(&self, from: &FileName, to: &FileName) -> io::Result<()> {
        self.disk.publish(from, to)
    }

    fn remove(&self, name: &FileName) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn list(&self) -> io::Result<Vec<FileName>> {
        self.disk.list()
    }

    fn mark(&self, name: &FileName, content: &[u8]) -> io::Result<()> {
        self.disk.mark(name, content)
    }

    fn space(&self) -> io::Result<DiskSpace> {
        let claimed = *self.gate.1.lock().unwrap();
        claimed.map_or_else(|| self.disk.space(), Ok)
    }

    fn describe(&self) -> String {
        self.disk.describe()
    }
}

impl redb::StorageBackend for GatedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.gate.writing(&self.name)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        self.gate.writing(&self.name)?;
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.gate.writing(&self.name)?;
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
