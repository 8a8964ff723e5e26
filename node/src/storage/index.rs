//! Where the heads of a volume lie: group and index -> place in the stream. In memory while the volume is written,
//! in the volume itself once it is sealed; always rebuildable from the stream.
//!
//! A value of table `index` has the key (group, first index) and holds the places of consecutive indexes, 8 bytes
//! each (key u32, offset u32, little endian), with the CRC-32C of key and places behind them.

use std::collections::BTreeMap;
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
    }

    /// Where the entries of a range lie, which must be among those noted.
    pub(super) fn places(&self, group: GroupId, range: Range<LogIndex>) -> &[Place] {
        let run = self.groups.get(&group).expect("a span of the volume has entries in its index");
        assert!(run.first <= range.start && range.end <= run.end(), "a span lies within the volume's index");
        &run.places[to_usize(range.start.0 - run.first.0)..to_usize(range.end.0 - run.first.0)]
    }

    pub(super) fn remove(&mut self, group: GroupId) {
        self.groups.remove(&group);
    }

    pub(super) fn entries(&self) -> u64 {
        self.groups.values().map(|run| to_u64(run.places.len())).sum()
    }

    /// Keys and values of the index to be written, in order of the keys.
    pub(super) fn encode(&self) -> impl Iterator<Item = ((u64, u64), Vec<u8>)> {
        self.groups.iter().flat_map(|(group, run)| {
            let mut first = run.first.0;
            run.places.chunks(PLACES_PER_VALUE).map(move |places| {
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
            })
        })
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
}
