//! A file between what was synced and what the process sees, and what a crash makes of it.

use std::collections::BTreeMap;

use super::{Losses, SECTOR};
use crate::dice::Dice;

#[derive(Default)]
pub(super) struct File {
    /// As the process sees it.
    pub(super) seen: Vec<u8>,
    pub(super) platter: Vec<u8>,
    pub(super) unsynced: Vec<Change>,
    pub(super) handles: u32,
}

pub(super) enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

impl File {
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        apply_write(&mut self.seen, offset, bytes);
        self.unsynced.push(Change::Write { offset, bytes: bytes.to_vec() });
    }

    pub(super) fn set_length(&mut self, length: usize) {
        self.seen.resize(length, 0);
        self.unsynced.push(Change::Length(length));
    }

    pub(super) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.platter);
        }
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
                let old = |image: &[u8], number| sector(image, number);
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
            self.platter.resize(self.platter.len().max(seen.len()), 0);
            for (number, drawn) in sectors {
                losses.sectors_at_stake += 1;
                losses.sectors_lost += u64::from(drawn.value != sector(&seen, number));
                apply_write(&mut self.platter, number * SECTOR, &drawn.value);
            }
            self.platter.resize(length.value, 0);
        }
        self.seen.clone_from(&self.platter);
    }
}

impl Change {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => apply_write(image, *offset, bytes),
            Self::Length(length) => image.resize(*length, 0),
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

fn sector(image: &[u8], number: usize) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    let start = (number * SECTOR).min(image.len());
    let bytes = &image[start..image.len().min(start + SECTOR)];
    sector[..bytes.len()].copy_from_slice(bytes);
    sector
}

fn apply_write(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(bytes);
}
