//! What a medium does to what lies on it: sectors that rot, lie elsewhere or cannot be read; files that are gone, cut
//! or older than they were. Struck at rest: what a process writes over is good again.

use std::io;
use std::ops::Range;

use quorate_node::env::FileName;

use super::file::File;
use super::image::Image;
use super::{FileId, SECTOR, SimDisk, State};

/// What becomes of a sector.
#[expect(clippy::large_enum_variant, reason = "there is one at a time")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectorHarm {
    /// One bit of it is another.
    Flip {
        /// Which bit.
        bit: usize,
    },
    /// It is all zeroes.
    Zero,
    /// It holds what was meant for this one: a write that went to another place.
    Misplaced {
        /// The sector of the same file that was meant.
        from: usize,
    },
    /// It holds what it held earlier: a write that was lost.
    Older {
        /// What that was.
        held: [u8; SECTOR],
    },
    /// It is not given back.
    Unreadable,
}

/// A file's bytes at some moment.
#[derive(Clone)]
pub struct FileImage(Image);

/// A sector that is not what was written, until it is written again, and synced.
#[derive(Clone, Copy)]
pub(super) struct Harmed {
    original: [u8; SECTOR],
    /// What it holds instead.
    harmed: [u8; SECTOR],
    unreadable: bool,
    /// It was written again, and the platter may not have that yet: a power cut may bring back what is harmed.
    over: bool,
}

impl SimDisk {
    /// The names of its volumes, in order.
    pub fn volumes(&self) -> Vec<FileName> {
        let state = self.state();
        let is_volume =
            |name: &&FileName| name.as_str().starts_with("volume-") && name.as_str().ends_with(".redb");
        state.synced_names.keys().filter(is_volume).cloned().collect()
    }

    /// The sectors of a file's platter that hold anything.
    pub fn sectors_in_use(&self, name: &FileName) -> Vec<usize> {
        let state = self.state();
        let Some(file) = state.synced_names.get(name) else { return Vec::new() };
        let bytes = state.file(*file).platter.to_vec();
        let used =
            bytes.chunks(SECTOR).enumerate().filter(|(_, sector)| sector.iter().any(|byte| *byte != 0));
        used.map(|(number, _)| number).collect()
    }

    /// Where these bytes lie on the platters of the volumes: in which file, and at which byte.
    pub fn find(&self, bytes: &[u8]) -> Vec<(FileName, usize)> {
        let mut found = Vec::new();
        for name in self.volumes() {
            let content = self.platter(&name).unwrap_or_default();
            let windows = content.windows(bytes.len().max(1)).enumerate();
            found.extend(windows.filter(|(_, window)| *window == bytes).map(|(at, _)| (name.clone(), at)));
        }
        found
    }

    /// Harms a sector of a file; `false` if there is none, or nothing came of it.
    pub fn harm_sector(&self, name: &FileName, number: usize, harm: SectorHarm) -> bool {
        let mut state = self.state();
        let Some(id) = state.names.get(name).copied() else { return false };
        let Some(original) = sector_of(&state.file(id).platter, number) else { return false };
        let mut harmed = original;
        match harm {
            SectorHarm::Flip { bit } => harmed[bit / 8 % SECTOR] ^= 1 << (bit % 8),
            SectorHarm::Zero => harmed = [0; SECTOR],
            SectorHarm::Misplaced { from } => match sector_of(&state.file(id).platter, from) {
                Some(other) => harmed = other,
                None => return false,
            },
            SectorHarm::Older { held } => harmed = held,
            // Whoever copies the platter finds something else there, as nobody can say what it held.
            SectorHarm::Unreadable => harmed.iter_mut().for_each(|byte| *byte ^= 0x5a),
        }
        if harmed == original {
            return false;
        }
        state.file_mut(id).put(number, &harmed);
        let unreadable = harm == SectorHarm::Unreadable;
        let news = Harmed { original, harmed, unreadable, over: false };
        let known = state.harmed.entry((id, number)).or_insert(news);
        if known.over {
            *known = news;
        } else {
            (known.harmed, known.unreadable) = (harmed, known.unreadable || unreadable);
        }
        true
    }

    /// Sectors that are not what was written, in files that are there.
    pub fn harmed(&self) -> u64 {
        let state = self.state();
        let here = state.harmed.keys().filter(|(file, _)| state.names.values().any(|named| named == file));
        u64::try_from(here.count()).unwrap_or(u64::MAX)
    }

    /// Gives back what the harmed sectors held; how many they were. What was written to them since stays.
    pub fn heal(&self) -> u64 {
        let mut state = self.state();
        let harmed = std::mem::take(&mut state.harmed);
        let mut healed = 0;
        for ((file, number), Harmed { original, over, .. }) in harmed {
            if let Some(file) = state.files.get_mut(&file) {
                if over {
                    file.put_below(number, &original);
                } else {
                    file.put(number, &original);
                }
                healed += 1;
            }
        }
        healed
    }

    /// A file as its platter has it.
    pub fn image(&self, name: &FileName) -> Option<FileImage> {
        let state = self.state();
        let file = state.synced_names.get(name)?;
        Some(FileImage(state.file(*file).platter.clone()))
    }

    /// Puts a file there, or takes it away. The process must be down, after the power was cut: nothing is unsynced.
    pub fn put_image(&self, name: &FileName, image: Option<&FileImage>) {
        let mut state = self.state();
        state.names.remove(name);
        state.synced_names.remove(name);
        if let Some(FileImage(image)) = image {
            let file = state.next_file;
            state.next_file += 1;
            state.files.insert(file, File::of(image.clone()));
            state.names.insert(name.clone(), file);
            state.synced_names.insert(name.clone(), file);
        }
        state.forget_unreachable();
    }
}

impl FileImage {
    /// How long it is.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// A sector of it; `None` if it ends before.
    pub fn sector(&self, number: usize) -> Option<[u8; SECTOR]> {
        sector_of(&self.0, number)
    }

    /// The same, cut to so many bytes.
    #[must_use]
    pub fn cut(&self, bytes: usize) -> Self {
        let mut image = self.0.clone();
        image.resize(bytes.min(image.len()));
        Self(image)
    }
}

impl State {
    /// A process writes over this part of a file: it is good again once that is on the platter.
    pub(super) fn written_over(&mut self, file: FileId, bytes: Range<usize>) {
        if !self.harmed.is_empty() && !bytes.is_empty() {
            let sectors = bytes.start / SECTOR..bytes.end.div_ceil(SECTOR);
            let of_file = self.harmed.iter_mut().filter(|((of, _), _)| *of == file);
            let written = of_file.filter(|((_, number), _)| sectors.contains(number));
            written.for_each(|(_, harmed)| harmed.over = true);
        }
    }

    /// After a sync or a crash: what was written over is good if the platter has anything else now than what was harmed.
    pub(super) fn settle_harmed(&mut self) {
        let files = &self.files;
        self.harmed.retain(|(of, number), known| {
            let now = files.get(of).and_then(|file| sector_of(&file.platter, *number));
            !known.over || now == Some(known.harmed)
        });
    }

    /// After a crash the platter is all that shows.
    pub(super) fn harmed_shows_again(&mut self) {
        self.settle_harmed();
        self.harmed.values_mut().for_each(|harmed| harmed.over = false);
    }

    /// Whether this part of a file can be read.
    pub(super) fn given_back(&self, file: FileId, bytes: &Range<usize>) -> io::Result<()> {
        /// EIO.
        const INPUT_OUTPUT: i32 = 5;
        let sectors = (file, bytes.start / SECTOR)..(file, bytes.end.div_ceil(SECTOR));
        if sectors.start < sectors.end
            && self.harmed.range(sectors).any(|(_, harmed)| harmed.unreadable && !harmed.over)
        {
            return Err(io::Error::from_raw_os_error(INPUT_OUTPUT));
        }
        Ok(())
    }
}

fn sector_of(image: &Image, number: usize) -> Option<[u8; SECTOR]> {
    let mut sector = [0; SECTOR];
    image.read(number * SECTOR, &mut sector).map(|()| sector)
}

#[cfg(test)]
mod tests {
    use quorate_node::env::Disk;

    use super::*;
    use crate::dice::Dice;

    #[test]
    fn what_is_harmed_shows_until_it_is_written_over_or_healed() {
        let (disk, name) = (SimDisk::new(), FileName::new("volume-00000001.redb"));
        let file = disk.open(&name, true).unwrap();
        for number in 0..4_u8 {
            file.write(u64::from(number) * 512, &[number + 1; 512]).unwrap();
        }
        file.sync_data().unwrap();
        disk.publish(&name, &name).unwrap();
        assert_eq!(disk.sectors_in_use(&name), [0, 1, 2, 3]);
        assert_eq!(disk.find(&[3, 3, 4]), [(name.clone(), 1_534)]);
        let read = |number: u64| {
            let mut out = [0; 512];
            file.read(number * 512, &mut out).map(|()| out)
        };
        assert!(disk.harm_sector(&name, 0, SectorHarm::Flip { bit: 9 }));
        assert!(disk.harm_sector(&name, 1, SectorHarm::Misplaced { from: 3 }));
        assert!(disk.harm_sector(&name, 2, SectorHarm::Unreadable));
        assert!(!disk.harm_sector(&name, 3, SectorHarm::Misplaced { from: 3 }), "nothing came of it");
        assert!(!disk.harm_sector(&name, 4, SectorHarm::Zero), "there is none");
        assert_eq!(read(0).unwrap()[..3], [1, 3, 1]);
        assert_eq!(read(1).unwrap(), [4; 512]);
        assert_eq!(read(2).unwrap_err().raw_os_error(), Some(5));
        assert_eq!(disk.harmed(), 3);
        file.write(512 + 7, &[9; 100]).unwrap();
        assert_eq!(disk.harmed(), 3, "a power cut may bring it back");
        file.sync_data().unwrap();
        assert_eq!(disk.harmed(), 2);
        assert_eq!(disk.heal(), 2);
        assert_eq!((read(0).unwrap(), read(2).unwrap()), ([1; 512], [3; 512]));
        assert_eq!(read(1).unwrap()[..8], [4, 4, 4, 4, 4, 4, 4, 9], "what was written stays");
    }

    #[test]
    fn what_was_written_over_and_not_synced_is_harmed_again_after_a_crash_that_loses_it() {
        let name = FileName::new("volume-00000001.redb");
        let (mut lost, mut kept) = (0, 0);
        for seed in 0..64 {
            let disk = SimDisk::new();
            let file = disk.open(&name, true).unwrap();
            file.write(0, &[1; 512]).unwrap();
            file.sync_data().unwrap();
            disk.publish(&name, &name).unwrap();
            assert!(disk.harm_sector(&name, 0, SectorHarm::Unreadable));
            file.write(0, &[2; 512]).unwrap();
            let mut out = [0; 512];
            file.read(0, &mut out).unwrap();
            assert_eq!(out, [2; 512], "what was written is given back");
            drop(file);
            disk.crash(&mut Dice::new(seed));
            let read = disk.open(&name, false).unwrap().read(0, &mut out);
            match disk.harmed() {
                0 => {
                    kept += 1;
                    assert_eq!((read.is_ok(), out), (true, [2; 512]));
                }
                _ => {
                    lost += 1;
                    assert!(read.is_err());
                    assert_eq!(disk.heal(), 1);
                    disk.open(&name, false).unwrap().read(0, &mut out).unwrap();
                    assert_eq!(out, [1; 512], "what was synced before");
                }
            }
        }
        assert!(lost > 0 && kept > 0, "{lost} lost, {kept} kept");
    }

    #[test]
    fn files_go_and_come_back_older() {
        let (disk, name) = (SimDisk::new(), FileName::new("volume-00000001.redb"));
        let file = disk.open(&name, true).unwrap();
        file.write(0, &[1; 1_000]).unwrap();
        file.sync_data().unwrap();
        disk.publish(&name, &name).unwrap();
        let older = disk.image(&name).unwrap();
        file.write(0, &[2; 1_000]).unwrap();
        file.sync_data().unwrap();
        drop(file);
        disk.put_image(&name, None);
        assert!(disk.volumes().is_empty() && disk.open(&name, false).is_err());
        disk.put_image(&name, Some(&older.cut(600)));
        let file = disk.open(&name, false).unwrap();
        let mut out = [0; 600];
        file.read(0, &mut out).unwrap();
        assert_eq!((file.len().unwrap(), out), (600, [1; 600]));
        assert_eq!(older.bytes(), 1_000);
    }
}
