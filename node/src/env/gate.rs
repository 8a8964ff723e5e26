//! The real disk for tests, with a gate before its syncs.

use std::io;
use std::sync::{Arc, Condvar, Mutex};

use super::os::OsDisk;
use super::{Disk, DiskSpace, FileName};

/// While closed, nothing is synced: whoever syncs waits. It also says how much room the disk claims to have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>, Arc<Mutex<Option<DiskSpace>>>);

impl Gate {
    pub(crate) fn close(&self) {
        *self.0.0.lock().unwrap() = true;
    }

    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = false;
        self.0.1.notify_all();
    }

    /// The disk claims to have so much room; the truth if `None`.
    pub(crate) fn claim(&self, space: Option<DiskSpace>) {
        *self.1.lock().unwrap() = space;
    }

    fn pass(&self) {
        drop(self.0.1.wait_while(self.0.0.lock().unwrap(), |closed| *closed).unwrap());
    }
}

/// A disk whose files wait at the gate before each sync.
pub(crate) struct GatedDisk {
    pub(crate) disk: OsDisk,
    pub(crate) gate: Gate,
}

#[derive(Debug)]
struct GatedFile {
    file: Box<dyn redb::StorageBackend>,
    gate: Gate,
}

impl Disk for GatedDisk {
    fn open(&self, name: &FileName, create: bool) -> io::Result<Box<dyn redb::StorageBackend>> {
        Ok(Box::new(GatedFile { file: self.disk.open(name, create)?, gate: self.gate.clone() }))
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
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }
}
