//! What the medium did not give back of volumes that were copied after a failed write. In the copies there are zeroes
//! in its place, and redb, which takes them for a commit that was torn, may write over them before it is noted what
//! they mean. So a small file beside the mark says it, from before the copy is in its volume's place until all is
//! written anew: however often a start is refused or cut off, the next one knows.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::entry::array;
use super::error::{DiskError, Fault, is_medium};
use super::volume::{VolumeNumber, checked, guarded_disk, unchecked};
use crate::env::{Disk, FileName};

/// What the file says of one volume: its number, and how many bytes.
const VOLUME_BYTES: usize = 4 + 8;
/// More than of a million volumes: a longer file is not what was written, and is not read into memory.
const BYTES_MAX: u64 = 1 << 24;

/// The file's name. Without the mark it counts for nothing.
pub(super) fn record_file() -> FileName {
    FileName::new("unread")
}

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Unread {
    /// How many bytes of each at most: a copy that did not come into its place was counted as well.
    volumes: BTreeMap<VolumeNumber, u64>,
    /// It was damaged once since it was begun: it may lack volumes.
    is_damaged: bool,
}

impl Unread {
    /// Reads the file, which is there. Blocks.
    ///
    /// # Errors
    /// What the disk says, unless that is damage.
    pub(super) fn load(disk: &Arc<dyn Disk>) -> Result<Self, DiskError> {
        let name = record_file();
        guarded_disk("read", &name, || {
            let damaged = Self { is_damaged: true, ..Self::default() };
            match read(disk, &name) {
                Ok(bytes) => Ok(bytes.and_then(|bytes| Self::decode(&bytes)).unwrap_or(damaged)),
                Err(error) if is_medium(&error) => Ok(damaged),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Notes that so many bytes of a volume could not be read, besides what is known. Durable on return. Blocks.
    ///
    /// # Errors
    /// What the disk says; the file is there as it was then.
    pub(super) fn note(
        &mut self,
        disk: &Arc<dyn Disk>,
        number: VolumeNumber,
        bytes: u64,
    ) -> Result<(), Fault> {
        let known = self.volumes.entry(number).or_default();
        *known = known.saturating_add(bytes);
        let (name, temporary) = (record_file(), FileName::new(format!("{}.tmp", record_file())));
        let file = disk.open(&temporary, true)?;
        file.write(0, &self.encode())?;
        file.sync_data()?;
        file.close()?;
        Ok(disk.publish(&temporary, &name)?)
    }

    /// How many bytes of a volume could not be read, at most; `None` if all could.
    pub(super) fn of(&self, number: VolumeNumber) -> Option<u64> {
        self.volumes.get(&number).copied()
    }

    /// Whether there is nothing to say.
    pub(super) fn is_empty(&self) -> bool {
        self.volumes.is_empty() && !self.is_damaged
    }

    /// Whether parts of other volumes may have been unreadable too.
    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged
    }

    fn encode(&self) -> Vec<u8> {
        let mut value = vec![u8::from(self.is_damaged)];
        for (number, bytes) in &self.volumes {
            value.extend(number.0.to_le_bytes());
            value.extend(bytes.to_le_bytes());
        }
        checked(&value)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (is_damaged, volumes) = unchecked(bytes).ok()?.split_first()?;
        let volumes = volumes.chunks_exact(VOLUME_BYTES);
        if *is_damaged > 1 || !volumes.remainder().is_empty() {
            return None;
        }
        let volume = |piece: &[u8]| {
            (VolumeNumber(u32::from_le_bytes(array(piece))), u64::from_le_bytes(array(&piece[4..])))
        };
        Some(Self { volumes: volumes.map(volume).collect(), is_damaged: *is_damaged == 1 })
    }
}

/// All of a file; `None` if it is longer than this one ever is.
fn read(disk: &Arc<dyn Disk>, name: &FileName) -> io::Result<Option<Vec<u8>>> {
    let file = disk.open(name, false)?;
    let length = file.len()?;
    if length > BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read(0, &mut bytes)?;
    file.close()?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::os::OsDisk;

    #[test]
    fn what_is_noted_is_known_again() {
        let folder = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::open(folder.path()).unwrap());
        let mut unread = Unread::default();
        assert!(unread.is_empty());
        for (number, bytes) in [(3, 4_096), (7, 1), (3, 4_096)] {
            unread.note(&disk, VolumeNumber(number), bytes).unwrap();
            assert_eq!(Unread::load(&disk).unwrap(), unread);
        }
        let known = [3, 4, 7].map(|number| unread.of(VolumeNumber(number)));
        assert_eq!(known, [Some(8_192), None, Some(1)]);
        assert!(!unread.is_empty() && !unread.is_damaged());
        assert_eq!(disk.list().unwrap(), [record_file()]);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a file is damaged from outside")]
    fn that_it_was_damaged_is_known_until_it_goes() {
        let folder = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(OsDisk::open(folder.path()).unwrap());
        let path = folder.path().join(record_file().as_str());
        Unread::default().note(&disk, VolumeNumber(3), 4_096).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, bytes).unwrap();
            assert!(Unread::load(&disk).unwrap().is_damaged(), "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(Unread::load(&disk).unwrap().is_damaged(), "cut at {at}");
        }
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        let mut unread = Unread::load(&disk).unwrap();
        assert!(unread.is_damaged(), "far too long");
        unread.note(&disk, VolumeNumber(9), 512).unwrap();
        let again = Unread::load(&disk).unwrap();
        assert!(again.is_damaged() && !again.is_empty());
        assert_eq!(again.of(VolumeNumber(9)), Some(512));
    }
}
