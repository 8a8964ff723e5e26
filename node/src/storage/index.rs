//! Where the heads of a volume lie: group and index -> place in the stream. In memory while the volume is written,
//! in the volume itself once it is sealed; always rebuildable from the stream.
//!
//! A value of table `index` has the key (group, first index) and holds the places of consecutive indexes, 8 bytes
//! each (key u32, offset u32, little endian), with the CRC-32C of key and places behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use quorate_proto::ids::{GroupId, LogIndex};
use redb::{ReadTransaction, ReadableTable as _};

use super::entry::{Corrupt, array};
use super::error::Fault;
use super::stream::Place;
use super::volume::INDEX;

/// Places in one value of a sealed index.
const PLACES_PER_VALUE: usize = 4_000;

/// The index of a volume that is being written, or about to be sealed.
#[derive(Clone, Debug, Default)]
pub(super) struct MemoryIndex {
    groups: BTreeMap<GroupId, Run>,
    /// Entries that were written once more: they count above the others.
    again: BTreeMap<(GroupId, LogIndex), Place>,
}

#[derive(Clone, Debug)]
struct Run {
    first: LogIndex,
    places: Vec<Place>,
}

impl Run {
    fn end(&self) -> LogIndex {
        LogIndex(self.first.0 + to_u64(self.places.len()))
    }
}

impl MemoryIndex {
    /// Notes where an entry lies. What was noted for its index and the ones behind it is forgotten: it was truncated,
    /// and the same index came again; so is all before a gap: it was trimmed.
    pub(super) fn insert(&mut self, group: GroupId, index: LogIndex, place: Place) {
        let run = self.groups.entry(group).or_insert_with(|| Run { first: index, places: Vec::new() });
        if index < run.first || index > run.end() {
            run.first = index;
            run.places.clear();
        }
        run.places.truncate(to_usize(index.0 - run.first.0));
        run.places.push(place);
        // Those stood in the log before they were truncated.
        let stale = self.again.range((group, index)..=(group, LogIndex(u64::MAX))).map(|(key, _)| *key);
        for key in stale.collect::<Vec<_>>() {
            self.again.remove(&key);
        }
    }

    /// Notes where an entry lies that the log holds, and that was written once more.
    pub(super) fn insert_again(&mut self, group: GroupId, index: LogIndex, place: Place) {
        self.again.insert((group, index), place);
    }

    /// Where the entries of a range lie; [`Place::NOWHERE`] for those that are not noted, as what told of them was
    /// damaged.
    pub(super) fn places(&self, group: GroupId, range: Range<LogIndex>) -> Vec<Place> {
        let run = self.groups.get(&group);
        let mut again = self.again.range((group, range.start)..(group, range.end)).peekable();
        let place = |index: u64| {
            if let Some((_, place)) = again.next_if(|((_, of), _)| of.0 == index) {
                return *place;
            }
            let place = run.and_then(|run| run.places.get(to_usize(index.checked_sub(run.first.0)?)));
            place.copied().unwrap_or(Place::NOWHERE)
        };
        (range.start.0..range.end.0).map(place).collect()
    }

    pub(super) fn remove(&mut self, group: GroupId) {
        self.groups.remove(&group);
        self.again.retain(|(of, _), _| *of != group);
    }

    pub(super) fn entries(&self) -> u64 {
        self.groups.values().map(|run| to_u64(run.places.len())).sum()
    }

    /// Keys and values of the index to be written, in order of the keys.
    pub(super) fn encode(&self) -> impl Iterator<Item = ((u64, u64), Vec<u8>)> {
        let groups = self.groups.keys().chain(self.again.keys().map(|(group, _)| group));
        let groups = groups.collect::<BTreeSet<_>>();
        groups.into_iter().flat_map(move |group| {
            self.runs(*group).into_iter().flat_map(move |run| {
                let mut first = run.first.0;
                let chunks = run.places.chunks(PLACES_PER_VALUE).map(|places| {
                    let key = (group.0, first);
                    first += to_u64(places.len());
                    let mut value = Vec::with_capacity(places.len() * 8 + 4);
                    for place in places {
                        value.extend(place.key.to_le_bytes());
                        value.extend(place.offset.to_le_bytes());
                    }
                    let crc = crc_of(key, &value);
                    value.extend(crc.to_le_bytes());
                    (key, value)
                });
                chunks.collect::<Vec<_>>()
            })
        })
    }

    /// All that is noted of a group, without gaps within a run: each index once, wherever it lies.
    fn runs(&self, group: GroupId) -> Vec<Run> {
        let run = self.groups.get(&group);
        let mut again = self.again.range((group, LogIndex(0))..=(group, LogIndex(u64::MAX))).peekable();
        if again.peek().is_none() {
            return run.cloned().into_iter().collect();
        }
        let mut all: BTreeMap<u64, Place> = BTreeMap::new();
        if let Some(run) = run {
            all.extend((run.first.0..).zip(run.places.iter().copied()));
        }
        all.extend(again.map(|((_, index), place)| (index.0, *place)));
        let mut runs: Vec<Run> = Vec::new();
        for (index, place) in all {
            match runs.last_mut() {
                Some(run) if run.end().0 == index => run.places.push(place),
                Some(_) | None => runs.push(Run { first: LogIndex(index), places: vec![place] }),
            }
        }
        runs
    }
}

/// Looks up where entries lie in a sealed volume: as many of the range as one value holds, at least the first.
pub(super) fn find(
    read: &ReadTransaction,
    group: GroupId,
    range: Range<LogIndex>,
) -> Result<Vec<Place>, Fault> {
    let at = |corrupt| Fault::corrupt("index", format!("group {group}, index {}", range.start), corrupt);
    let table = read.open_table(INDEX)?;
    let mut before = table.range((group.0, 0)..=(group.0, range.start.0))?;
    let (key, value) = before.next_back().ok_or_else(|| at(Corrupt::Short))??;
    let (key, value) = (key.value(), value.value());
    let places = value.len().checked_sub(4).ok_or_else(|| at(Corrupt::Short))?;
    check_index_crc(key, &value[..places], u32::from_le_bytes(array(&value[places..]))).map_err(at)?;
    let skip = to_usize(range.start.0 - key.1);
    let count = to_usize(range.end.0 - range.start.0);
    let found = value[..places].chunks_exact(8).skip(skip).take(count);
    let found = found
        .map(|bytes| Place {
            key: u32::from_le_bytes(array(bytes)),
            offset: u32::from_le_bytes(array(&bytes[4..])),
        })
        .collect::<Vec<_>>();
    if found.is_empty() { Err(at(Corrupt::Short)) } else { Ok(found) }
}

/// Tells of each entry that a sealed volume has noted, alive or not.
pub(super) fn each(
    read: &ReadTransaction,
    mut tell: impl FnMut(GroupId, LogIndex, Place) -> Result<(), Fault>,
) -> Result<(), Fault> {
    for row in read.open_table(INDEX)?.iter()? {
        let (key, value) = row?;
        let (key, value) = (key.value(), value.value());
        let at = |corrupt| Fault::corrupt("index", format!("group {}, index {}", key.0, key.1), corrupt);
        let places = value.len().checked_sub(4).ok_or_else(|| at(Corrupt::Short))?;
        check_index_crc(key, &value[..places], u32::from_le_bytes(array(&value[places..]))).map_err(at)?;
        for (bytes, index) in value[..places].chunks_exact(8).zip(key.1..) {
            let place = Place {
                key: u32::from_le_bytes(array(bytes)),
                offset: u32::from_le_bytes(array(&bytes[4..])),
            };
            tell(GroupId(key.0), LogIndex(index), place)?;
        }
    }
    Ok(())
}

fn crc_of(key: (u64, u64), places: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&key.0.to_le_bytes()), &key.1.to_le_bytes());
    crc32c::crc32c_append(crc, places)
}

fn check_index_crc(key: (u64, u64), places: &[u8], expected: u32) -> Result<(), Corrupt> {
    let found = crc_of(key, places);
    if found == expected { Ok(()) } else { Err(Corrupt::Checksum { expected, found }) }
}

fn to_u64(length: usize) -> u64 {
    u64::try_from(length).expect("a length fits 64 bits")
}

fn to_usize(length: u64) -> usize {
    usize::try_from(length).expect("this program runs on 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(key: u32) -> Place {
        Place { key, offset: 16 }
    }

    #[test]
    fn an_index_that_comes_again_replaces_it_and_those_behind() {
        let mut index = MemoryIndex::default();
        let group = GroupId(4);
        for i in 5..9 {
            index.insert(group, LogIndex(i), place(u32::try_from(i).expect("small")));
        }
        index.insert(group, LogIndex(7), place(70));
        assert_eq!(index.places(group, LogIndex(5)..LogIndex(8)), [place(5), place(6), place(70)]);
        assert_eq!(index.entries(), 3);
        index.insert(group, LogIndex(100), place(100));
        assert_eq!(index.places(group, LogIndex(100)..LogIndex(101)), [place(100)]);
        index.insert(group, LogIndex(3), place(3));
        assert_eq!(index.entries(), 1);
    }

    #[test]
    fn what_was_written_once_more_counts_and_what_nobody_noted_is_nowhere() {
        let (mut index, group) = (MemoryIndex::default(), GroupId(4));
        for i in 5..9 {
            index.insert(group, LogIndex(i), place(u32::try_from(i).expect("small")));
        }
        index.insert_again(group, LogIndex(2), place(20));
        index.insert_again(group, LogIndex(6), place(60));
        index.insert_again(GroupId(9), LogIndex(1), place(1));
        let nowhere = Place::NOWHERE;
        let all = [place(20), nowhere, nowhere, place(5), place(60), place(7), place(8), nowhere];
        assert_eq!(index.places(group, LogIndex(2)..LogIndex(10)), all);
        let keys = index.encode().map(|(key, value)| (key, value.len())).collect::<Vec<_>>();
        assert_eq!(keys, [((4, 2), 12), ((4, 5), 36), ((9, 1), 12)]);
        index.insert(group, LogIndex(6), place(61));
        assert_eq!(
            index.places(group, LogIndex(2)..LogIndex(7)),
            [all[0], nowhere, nowhere, all[3], place(61)]
        );
        index.remove(group);
        assert_eq!(index.places(group, LogIndex(2)..LogIndex(3)), [nowhere]);
    }
}
