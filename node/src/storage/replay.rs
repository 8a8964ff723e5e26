//! A volume's stream, read from its beginning: what it says of each group, and where its entries lie.

use std::collections::BTreeMap;

use quorate_proto::ids::GroupId;
use redb::{ReadTransaction, ReadableTable as _};

use super::entry::Corrupt;
use super::error::{Fault, ReadError};
use super::hard::Durable;
use super::index::MemoryIndex;
use super::stream::{Item, Place, VALUE_HEADER_BYTES, commit_of};
use super::transcript::Tail;
use super::volume::{BODIES, STREAM, Volume, VolumeNumber};

/// What a stream says at its end.
#[derive(Default)]
pub(super) struct Replayed {
    pub(super) durable: BTreeMap<GroupId, Durable>,
    pub(super) index: MemoryIndex,
    pub(super) tail: Tail,
    /// The number of the last commit.
    pub(super) commit: u64,
    /// It tells of more than entries: it is no volume that others were rewritten into.
    pub(super) tells: bool,
}

/// Reads a volume's stream; `None` if it has not begun.
///
/// # Errors
/// What is damaged in it, or that it could not be read.
pub(super) fn replay(volume: &Volume) -> Result<Option<Replayed>, ReadError> {
    let (replayed, trouble) = salvage(volume);
    match trouble {
        Some(error) => Err(error),
        None => Ok((replayed.commit > 0).then_some(replayed)),
    }
}

/// Reads a volume's stream as far as it is whole, and says why no further. What it tells up to there was true at that
/// point of the stream.
pub(super) fn salvage(volume: &Volume) -> (Replayed, Option<ReadError>) {
    let mut replayed = Replayed::default();
    let read = volume.read(|read| read_stream(read, volume.number, &mut replayed));
    (replayed, read.err())
}

fn read_stream(read: &ReadTransaction, number: VolumeNumber, replayed: &mut Replayed) -> Result<(), Fault> {
    for row in read.open_table(STREAM)?.iter()? {
        let (key, value) = row?;
        let (key, value) = (key.value(), value.value());
        let at =
            |offset: usize, corrupt| Fault::corrupt("stream", format!("value {key}, byte {offset}"), corrupt);
        if key != replayed.tail.stream_key {
            return Err(at(0, Corrupt::Misplaced));
        }
        let commit = commit_of(value).map_err(|corrupt| at(0, corrupt))?;
        if commit < replayed.commit || commit == 0 {
            return Err(at(0, Corrupt::Misplaced));
        }
        replayed.commit = commit;
        replayed.tail.stream_key += 1;
        replayed.tail.bytes += u64::try_from(value.len()).expect("a length fits 64 bits");
        let mut offset = VALUE_HEADER_BYTES;
        while offset < value.len() {
            let (item, next) = Item::decode(value, offset).map_err(|corrupt| at(offset, corrupt))?;
            let place = Place { key, offset: u32::try_from(offset).map_err(|_| at(offset, Corrupt::Short))? };
            replayed.apply(number, item, place).map_err(|corrupt| at(offset, corrupt))?;
            offset = next;
        }
    }
    if let Some((key, _)) = read.open_table(BODIES)?.last()? {
        replayed.tail.body_key = key.value() + 1;
    }
    Ok(())
}

impl Replayed {
    fn apply(&mut self, volume: VolumeNumber, item: Item, place: Place) -> Result<(), Corrupt> {
        self.tells |= !matches!(item, Item::Entry { .. } | Item::Again { .. });
        match item {
            Item::Entry { head, body: _ } => {
                let durable = self.durable.entry(head.group).or_default();
                durable.append(head.group, head.log_id(), volume).map_err(|_| Corrupt::Misplaced)?;
                self.index.insert(head.group, head.index, place);
                self.tail.bytes += u64::from(head.body_bytes);
            }
            Item::State { group, state } => {
                self.durable.insert(group, state);
            }
            Item::Vote { group, vote } => self.durable.entry(group).or_default().hard.vote = Some(vote),
            Item::Committed { group, committed } => {
                self.durable.entry(group).or_default().hard.committed = committed;
            }
            Item::Truncate { group, from } => self.durable.entry(group).or_default().truncate(from),
            Item::Trim { group, through } => self.durable.entry(group).or_default().purge(through),
            Item::Remove { group } => {
                self.durable.remove(&group);
                self.index.remove(group);
            }
            Item::Again { head, body: _ } => {
                let durable = self.durable.get_mut(&head.group);
                if durable.is_some_and(|durable| durable.write_again(head.log_id(), volume)) {
                    self.index.insert_again(head.group, head.index, place);
                }
                self.tail.bytes += u64::from(head.body_bytes);
            }
            Item::Moved { from, to } => {
                self.durable.values_mut().for_each(|durable| durable.relocate(from, to));
            }
        }
        Ok(())
    }
}
