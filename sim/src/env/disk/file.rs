//! A file between what was synced and what the process sees, and what a crash makes of it.

use std::collections::BTreeMap;

use super::image::Image;
use super::{Losses, SECTOR};
use crate::dice::Dice;

#[derive(Default)]
pub(super) struct File {
    /// As the process sees it.
    pub(super) seen: Image,
    pub(super) platter: Image,
    pub(super) unsynced: Vec<Change>,
    /// Whether changes were dropped unsynced: from then on a sync does not make the two equal.
    apart: bool,
    pub(super) handles: u32,
}

pub(super) enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl File {
    /// One of which all is synced.
    pub(super) fn of(content: Image) -> Self {
        Self { seen: content.clone(), platter: content, ..Self::default() }
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.seen.write(offset, bytes);
        self.unsynced.push(Change::Write { offset, bytes: bytes.to_vec() });
    }

    /// Changes a sector on the platter and as it is seen, as nobody wrote it.
    pub(super) fn put(&mut self, number: usize, sector: &[u8; SECTOR]) {
        for image in [&mut self.seen, &mut self.platter] {
            if (number + 1) * SECTOR <= image.len() {
                image.write(number * SECTOR, sector);
            }
        }
    }

    /// Changes a sector on the platter alone: a process has written over it, and sees that.
    pub(super) fn put_below(&mut self, number: usize, sector: &[u8; SECTOR]) {
        if (number + 1) * SECTOR <= self.platter.len() {
            self.platter.write(number * SECTOR, sector);
        }
    }

    pub(super) fn set_length(&mut self, length: usize) {
        self.seen.resize(length);
        self.unsynced.push(Change::Length(length));
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            match &change {
                // With nothing dropped, the end of all changes is what the process sees.
                Change::Write { offset, bytes } if !self.apart => {
                    self.platter.take_from(&self.seen, *offset..*offset + bytes.len());
                }
                Change::Write { .. } | Change::Length(_) => change.apply(&mut self.platter),
            }
        }
    }

    /// What is unsynced counts as clean from now on, and never reaches the platter.
    pub(super) fn drop_unsynced(&mut self) {
        self.apart |= !self.unsynced.is_empty();
        self.unsynced.clear();
    }

    /// Each sector comes out as one of its versions, the length as one of those it had.
    pub(super) fn crash(&mut self, fate: Fate, dice: &mut Dice, losses: &mut Losses) {
        if !self.unsynced.is_empty() {
            let mut seen = self.platter.clone();
            let mut length = Drawn { versions: 1, value: seen.len() };
            let mut sectors = BTreeMap::<usize, Drawn<[u8; SECTOR]>>::new();
            for change in self.unsynced.drain(..) {
                let touched = match &change {
                    Change::Write { offset, bytes } => *offset..*offset + bytes.len(),
                    Change::Length(to) => (*to).min(seen.len())..seen.len(),
                };
                let length_before = seen.len();
                let old = |image: &Image, number| sector(image, number);
                let before = sector_range(&touched).map(|number| old(&seen, number)).collect::<Vec<_>>();
                change.apply(&mut seen);
                if seen.len() != length_before {
                    length.offer(fate, dice, seen.len());
                }
                for (number, before) in sector_range(&touched).zip(before) {
                    let drawn = sectors.entry(number).or_insert(Drawn { versions: 1, value: before });
                    drawn.offer(fate, dice, sector(&seen, number));
                }
            }
            self.platter.resize(self.platter.len().max(seen.len()));
            for (number, drawn) in sectors {
                losses.sectors_at_stake += 1;
                losses.sectors_lost += u64::from(drawn.value != sector(&seen, number));
                self.platter.write(number * SECTOR, &drawn.value);
            }
            self.platter.resize(length.value);
        }
        self.seen.clone_from(&self.platter);
        self.apart = false;
    }
}

impl Change {
    fn apply(&self, image: &mut Image) {
        match self {
            Self::Write { offset, bytes } => image.write(*offset, bytes),
            Self::Length(length) => image.resize(*length),
        }
    }
}

/// How kind a crash is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Nothing,
    Everything,
    /// Of a thousand.
    Some(u64),
}

impl Fate {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        match dice.below(8) {
            0 | 1 => Self::Nothing,
            2 => Self::Everything,
            _ => Self::Some(dice.between(20, 980)),
        }
    }

    pub(super) fn keeps(self, dice: &mut Dice) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Some(per_mille) => dice.chance(per_mille),
        }
    }
}

/// One of several versions, the oldest of which was synced.
struct Drawn<T> {
    versions: u64,
    value: T,
}

impl<T> Drawn<T> {
    /// A newer version. With two, fate decides; with more, each is as likely as the others.
    fn offer(&mut self, fate: Fate, dice: &mut Dice, value: T) {
        self.versions += 1;
        let take = match fate {
            Fate::Some(_) if self.versions > 2 => dice.below(self.versions) == 0,
            Fate::Some(_) | Fate::Nothing | Fate::Everything => fate.keeps(dice),
        };
        if take {
            self.value = value;
        }
    }
}

fn sector_range(bytes: &std::ops::Range<usize>) -> std::ops::Range<usize> {
    if bytes.is_empty() { 0..0 } else { bytes.start / SECTOR..bytes.end.div_ceil(SECTOR) }
}

fn sector(image: &Image, number: usize) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    let start = (number * SECTOR).min(image.len());
    let length = SECTOR.min(image.len() - start);
    image.read(start, &mut sector[..length]).expect("nothing beyond the end");
    sector
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_synced_is_what_was_seen(
            steps in prop::collection::vec((0usize..20_000, 0usize..9_000, 0u8..4), 1..40),
        ) {
            let mut file = File::default();
            for (number, (at, length, what)) in steps.into_iter().enumerate() {
                match what {
                    0 => file.set_length(at),
                    1 => file.sync(),
                    _ => file.write(at, &vec![u8::try_from(number + 1).unwrap(); length]),
                }
            }
            let mut slow = file.platter.clone();
            file.unsynced.iter().for_each(|change| change.apply(&mut slow));
            prop_assert!(slow.to_vec() == file.seen.to_vec());
            file.sync();
            prop_assert!(file.platter.to_vec() == file.seen.to_vec());
        }
    }

    #[test]
    fn what_was_dropped_is_never_synced() {
        let mut file = File::default();
        file.write(0, &[1; 8]);
        file.drop_unsynced();
        file.write(4, &[2; 2]);
        file.sync();
        assert_eq!(file.platter.to_vec(), [0, 0, 0, 0, 2, 2]);
        assert_eq!(file.seen.to_vec(), [1, 1, 1, 1, 2, 2, 1, 1]);
    }
}
