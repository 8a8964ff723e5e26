//! What a volume's stream is made of: items in order of arrival, packed into values, and bodies packed beside them.
//!
//! A value of the stream begins with 16 bytes: format version (1), three zeros, the number of the commit that wrote
//! it (u64), and the CRC-32C of these 12 bytes. Items follow. An item is: tag (u8), length of the payload (u32),
//! payload, CRC-32C of all before. All numbers are little endian. An index, and a pair of term and index, are u64s;
//! an optional one has a byte 0 or 1 before it.
//!
//! | tag | payload |
//! | --- | --- |
//! | 1 entry | head (80 bytes), body's key (u32), its offset in that value (u32) |
//! | 2 state of a group, replacing all before | group, vote?, committed?, purged?, last?, first?, count and term starts, count and spans (volume, start, end) |
//! | 3 vote | group, term, node, committed (u8) |
//! | 4 committed | group, term and index? |
//! | 5 truncate | group, first index removed |
//! | 6 trim | group, term and index of the last one removed |
//! | 7 remove | group |
//! | 8 moved: all that was alive in one volume lies in another | from (u32), to (u32) |
//! | 9 again | as 1; an entry that the log holds, written once more as it could not be read: it lies here from now on |
//!
//! Bodies of one commit lie end to end, cut into values where it suits redb's pages; a body may begin anywhere in one
//! value and go on in the next ones.

use quorate_proto::ids::{GroupId, LogIndex, Term};

use super::entry::{Corrupt, Head, LogId, array, check_crc};
use super::hard::{Durable, HardVote, Span};
use super::volume::VolumeNumber;

/// Largest value that is written: redb rounds a value up to a power of two of pages, so 65,536 would take 131,072.
pub(super) const VALUE_BYTES_MAX: usize = 65_000;

const VERSION: u8 = 1;
pub(super) const VALUE_HEADER_BYTES: usize = 16;

/// Where something begins in a table of a volume: in which value, and where in that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) key: u32,
    pub(super) offset: u32,
}

impl Place {
    /// Where an entry lies of which nobody knows where it lies: nothing stands there.
    pub(super) const NOWHERE: Self = Self { key: u32::MAX, offset: 0 };
}

/// One thing that happened, as the stream tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Entry { head: Head, body: Place },
    State { group: GroupId, state: Durable },
    Vote { group: GroupId, vote: HardVote },
    Committed { group: GroupId, committed: Option<LogId> },
    Truncate { group: GroupId, from: LogIndex },
    Trim { group: GroupId, through: LogId },
    Remove { group: GroupId },
    Moved { from: VolumeNumber, to: VolumeNumber },
    Again { head: Head, body: Place },
}

impl Item {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0; 5]);
        let tag = match self {
            Self::Entry { head, body } => {
                put_entry(out, head, *body);
                1
            }
            Self::State { group, state } => {
                out.extend(group.0.to_le_bytes());
                put_state(out, state);
                2
            }
            Self::Vote { group, vote } => {
                out.extend(group.0.to_le_bytes());
                put_vote(out, vote);
                3
            }
            Self::Committed { group, committed } => {
                out.extend(group.0.to_le_bytes());
                put_optional(out, committed.as_ref(), put_id);
                4
            }
            Self::Truncate { group, from } => {
                out.extend(group.0.to_le_bytes());
                out.extend(from.0.to_le_bytes());
                5
            }
            Self::Trim { group, through } => {
                out.extend(group.0.to_le_bytes());
                put_id(out, through);
                6
            }
            Self::Remove { group } => {
                out.extend(group.0.to_le_bytes());
                7
            }
            Self::Moved { from, to } => {
                out.extend(from.0.to_le_bytes());
                out.extend(to.0.to_le_bytes());
                8
            }
            Self::Again { head, body } => {
                put_entry(out, head, *body);
                9
            }
        };
        let length = u32::try_from(out.len() - start - 5).expect("an item is far below 4 GB");
        out[start] = tag;
        out[start + 1..start + 5].copy_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c(&out[start..]);
        out.extend(crc.to_le_bytes());
    }

    /// Reads the item that begins at `offset`; gives it and where the next one begins.
    pub(super) fn decode(value: &[u8], offset: usize) -> Result<(Self, usize), Corrupt> {
        let header = value.get(offset..).and_then(|rest| rest.get(..5)).ok_or(Corrupt::Short)?;
        let length = usize::try_from(u32::from_le_bytes(array(&header[1..]))).map_err(|_| Corrupt::Short)?;
        let end = offset.checked_add(5).and_then(|at| at.checked_add(length)).ok_or(Corrupt::Short)?;
        let crc = value.get(end..).and_then(|rest| rest.get(..4)).ok_or(Corrupt::Short)?;
        check_crc(&value[offset..end], u32::from_le_bytes(array(crc)))?;
        let mut payload = Payload(&value[offset + 5..end]);
        let item = match header[0] {
            1 => Self::Entry { head: payload.head()?, body: payload.place()? },
            2 => Self::State { group: payload.group()?, state: payload.state()? },
            3 => Self::Vote { group: payload.group()?, vote: payload.vote()? },
            4 => Self::Committed { group: payload.group()?, committed: payload.optional(Payload::id)? },
            5 => Self::Truncate { group: payload.group()?, from: payload.index()? },
            6 => Self::Trim { group: payload.group()?, through: payload.id()? },
            7 => Self::Remove { group: payload.group()? },
            8 => Self::Moved { from: payload.volume()?, to: payload.volume()? },
            9 => Self::Again { head: payload.head()?, body: payload.place()? },
            _ => return Err(Corrupt::Unknown("tag")),
        };
        if !payload.0.is_empty() {
            return Err(Corrupt::Unknown("length"));
        }
        Ok((item, end + 4))
    }
}

/// Values of the stream under construction.
pub(super) struct Packer {
    commit: u64,
    next_key: u32,
    full: Vec<Vec<u8>>,
    open: Vec<u8>,
}

impl Packer {
    pub(super) fn new(commit: u64, next_key: u32) -> Self {
        Self { commit, next_key, full: Vec::new(), open: Vec::new() }
    }

    /// Adds an item; tells where it lies.
    pub(super) fn push(&mut self, item: &Item) -> Place {
        if self.open.is_empty() {
            put_value_header(&mut self.open, self.commit);
        }
        let start = self.open.len();
        item.encode(&mut self.open);
        if self.open.len() > VALUE_BYTES_MAX && start > VALUE_HEADER_BYTES {
            let mut next = Vec::with_capacity(VALUE_BYTES_MAX);
            put_value_header(&mut next, self.commit);
            next.extend_from_slice(&self.open[start..]);
            self.open.truncate(start);
            self.full.push(std::mem::replace(&mut self.open, next));
            return self.place(VALUE_HEADER_BYTES);
        }
        self.place(start)
    }

    fn place(&self, offset: usize) -> Place {
        let before = u32::try_from(self.full.len()).expect("a commit has far fewer values");
        let offset = u32::try_from(offset).expect("a value is far below 4 GB");
        Place { key: self.next_key + before, offset }
    }

    /// The values, with consecutive keys from the one given at the start. A commit of nothing is one of no items: its
    /// number is found again.
    pub(super) fn finish(mut self) -> Vec<Vec<u8>> {
        if self.open.is_empty() && self.full.is_empty() {
            put_value_header(&mut self.open, self.commit);
        }
        if !self.open.is_empty() {
            self.full.push(self.open);
        }
        self.full
    }
}

fn put_value_header(out: &mut Vec<u8>, commit: u64) {
    out.extend([VERSION, 0, 0, 0]);
    out.extend(commit.to_le_bytes());
    let crc = crc32c::crc32c(out);
    out.extend(crc.to_le_bytes());
}

/// The number of the commit that wrote a value of the stream.
pub(super) fn commit_of(value: &[u8]) -> Result<u64, Corrupt> {
    let header = value.get(..VALUE_HEADER_BYTES).ok_or(Corrupt::Short)?;
    check_crc(&header[..12], u32::from_le_bytes(array(&header[12..])))?;
    if header[0] == VERSION {
        Ok(u64::from_le_bytes(array(&header[4..])))
    } else {
        Err(Corrupt::Unknown("format version"))
    }
}

/// Into values of which lengths so many bytes of bodies are cut: as few as fill redb's pages well.
pub(super) fn cut(mut bytes: usize) -> Vec<usize> {
    /// Each fits its power of two of pages, together with redb's own bookkeeping.
    const LENGTHS: [usize; 5] = [VALUE_BYTES_MAX, 32_500, 16_200, 8_000, 3_900];
    let mut values = Vec::with_capacity(bytes / VALUE_BYTES_MAX + 2);
    while bytes > 0 {
        let fits = |length: &&usize| **length <= bytes;
        let full = LENGTHS.iter().find(fits).copied().unwrap_or(0);
        // The next larger value, if the bytes fill it to three quarters: fewer values beat less padding.
        let larger = LENGTHS.iter().rev().find(|length| **length >= bytes).copied();
        let length = match larger {
            Some(larger) if bytes >= larger / 4 * 3 || full == 0 => bytes,
            Some(_) | None => full,
        };
        values.push(length);
        bytes -= length;
    }
    values
}

fn put_entry(out: &mut Vec<u8>, head: &Head, body: Place) {
    out.extend(head.encode());
    out.extend(body.key.to_le_bytes());
    out.extend(body.offset.to_le_bytes());
}

fn put_optional<T>(out: &mut Vec<u8>, value: Option<&T>, put: impl FnOnce(&mut Vec<u8>, &T)) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

fn put_id(out: &mut Vec<u8>, id: &LogId) {
    out.extend(id.term.0.to_le_bytes());
    out.extend(id.index.0.to_le_bytes());
}

pub(super) fn put_vote(out: &mut Vec<u8>, vote: &HardVote) {
    out.extend(vote.term.0.to_le_bytes());
    out.extend(vote.node.to_le_bytes());
    out.push(u8::from(vote.committed));
}

fn put_state(out: &mut Vec<u8>, state: &Durable) {
    let hard = &state.hard;
    let count = |length: usize| u32::try_from(length).expect("far fewer than 2^32").to_le_bytes();
    put_optional(out, hard.vote.as_ref(), put_vote);
    put_optional(out, hard.committed.as_ref(), put_id);
    put_optional(out, hard.purged.as_ref(), put_id);
    put_optional(out, hard.last.as_ref(), put_id);
    put_optional(out, hard.first.as_ref(), |out, first| out.extend(first.0.to_le_bytes()));
    out.extend(count(hard.starts.len()));
    for start in &hard.starts {
        put_id(out, start);
    }
    out.extend(count(state.spans.len()));
    for span in &state.spans {
        out.extend(span.volume.0.to_le_bytes());
        out.extend(span.range.start.0.to_le_bytes());
        out.extend(span.range.end.0.to_le_bytes());
    }
}

/// A payload as it is read, front to back.
pub(super) struct Payload<'a>(pub(super) &'a [u8]);

impl<'a> Payload<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Corrupt> {
        let (front, rest) = self.0.split_at_checked(bytes).ok_or(Corrupt::Short)?;
        self.0 = rest;
        Ok(front)
    }

    fn flag(&mut self) -> Result<bool, Corrupt> {
        match self.take(1)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Corrupt::Unknown("flag")),
        }
    }

    fn u32(&mut self) -> Result<u32, Corrupt> {
        Ok(u32::from_le_bytes(array(self.take(4)?)))
    }

    fn u64(&mut self) -> Result<u64, Corrupt> {
        Ok(u64::from_le_bytes(array(self.take(8)?)))
    }

    fn head(&mut self) -> Result<Head, Corrupt> {
        Head::decode(self.take(Head::BYTES)?)
    }

    fn place(&mut self) -> Result<Place, Corrupt> {
        Ok(Place { key: self.u32()?, offset: self.u32()? })
    }

    fn group(&mut self) -> Result<GroupId, Corrupt> {
        self.u64().map(GroupId)
    }

    fn index(&mut self) -> Result<LogIndex, Corrupt> {
        self.u64().map(LogIndex)
    }

    fn id(&mut self) -> Result<LogId, Corrupt> {
        Ok(LogId { term: Term(self.u64()?), index: self.index()? })
    }

    pub(super) fn vote(&mut self) -> Result<HardVote, Corrupt> {
        Ok(HardVote { term: Term(self.u64()?), node: self.u64()?, committed: self.flag()? })
    }

    fn optional<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, Corrupt>,
    ) -> Result<Option<T>, Corrupt> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    fn list<T>(&mut self, read: impl Fn(&mut Self) -> Result<T, Corrupt>) -> Result<Vec<T>, Corrupt> {
        let count = self.u32()?;
        (0..count).map(|_| read(self)).collect()
    }

    fn volume(&mut self) -> Result<VolumeNumber, Corrupt> {
        self.u32().map(VolumeNumber)
    }

    fn span(&mut self) -> Result<Span, Corrupt> {
        let volume = self.volume()?;
        Ok(Span { volume, range: self.index()?..self.index()? })
    }

    fn state(&mut self) -> Result<Durable, Corrupt> {
        let mut state = Durable::default();
        state.hard.vote = self.optional(Self::vote)?;
        state.hard.committed = self.optional(Self::id)?;
        state.hard.purged = self.optional(Self::id)?;
        state.hard.last = self.optional(Self::id)?;
        state.hard.first = self.optional(Self::index)?;
        state.hard.starts = self.list(Self::id)?;
        state.spans = self.list(Self::span)?;
        let known =
            state.hard.first.is_none() || (state.hard.last.is_some() && !state.hard.starts.is_empty());
        if known && state.is_whole() { Ok(state) } else { Err(Corrupt::Unknown("spans")) }
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::ids::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

    use super::super::entry::Kind;
    use super::*;

    fn id(term: u64, index: u64) -> LogId {
        LogId { term: Term(term), index: LogIndex(index) }
    }

    fn items() -> Vec<Item> {
        let group = GroupId(9);
        let head = Head {
            group,
            index: LogIndex(5),
            term: Term(2),
            kind: Kind::Command,
            base_offset: Offset(0),
            records: 0,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch(0),
            sequence: Sequence(0),
            max_timestamp: Timestamp(0),
            appended_at: Timestamp(0),
            body_bytes: 0,
            body_crc: 0,
        };
        let mut state = Durable::default();
        for (term, index, volume) in [(1, 3, 1), (1, 4, 1), (2, 5, 2)] {
            state.append(group, id(term, index), VolumeNumber(volume)).expect("entries follow each other");
        }
        state.hard.vote = Some(HardVote { term: Term(7), node: 3, committed: true });
        vec![
            Item::Entry { head, body: Place { key: 1, offset: 2 } },
            Item::State { group, state },
            Item::State { group, state: Durable::default() },
            Item::Vote { group, vote: HardVote { term: Term(1), node: 0, committed: false } },
            Item::Committed { group, committed: None },
            Item::Committed { group, committed: Some(id(4, 5)) },
            Item::Truncate { group, from: LogIndex(3) },
            Item::Trim { group, through: id(1, 3) },
            Item::Remove { group },
            Item::Moved { from: VolumeNumber(2), to: VolumeNumber(7) },
            Item::Again { head, body: Place { key: 3, offset: 0 } },
        ]
    }

    #[test]
    fn items_come_back_and_flipped_bits_are_seen() {
        for item in items() {
            let mut bytes = Vec::new();
            item.encode(&mut bytes);
            assert_eq!(Item::decode(&bytes, 0), Ok((item.clone(), bytes.len())));
            for bit in 0..bytes.len() * 8 {
                let mut bad = bytes.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(Item::decode(&bad, 0).is_err(), "bit {bit} of {item:?}");
            }
        }
    }

    #[test]
    fn items_are_found_where_the_packer_put_them() {
        let items = items();
        let mut packer = Packer::new(77, 10);
        let places = items.iter().cycle().take(3_000).map(|item| packer.push(item)).collect::<Vec<_>>();
        let values = packer.finish();
        assert!(values.len() > 1 && values.iter().all(|value| value.len() <= VALUE_BYTES_MAX));
        for (place, item) in places.iter().zip(items.iter().cycle()) {
            let value = &values[usize::try_from(place.key - 10).expect("small")];
            assert_eq!(commit_of(value), Ok(77));
            let found = Item::decode(value, usize::try_from(place.offset).expect("small"));
            assert_eq!(found.map(|(found, _)| found).as_ref(), Ok(item));
        }
    }

    #[test]
    fn bodies_are_cut_to_fill_pages() {
        for bytes in (1..70_000).step_by(7).chain([65_000, 65_001, 130_000, 1_000_000, 4_194_304]) {
            let values = cut(bytes);
            assert_eq!(values.iter().sum::<usize>(), bytes);
            assert!(values.iter().all(|value| (1..=VALUE_BYTES_MAX).contains(value)));
            let pages = values.iter().map(|value| (value + 100).next_power_of_two().max(4096)).sum::<usize>();
            assert!(pages <= bytes * 3 / 2 + 4_096, "{bytes} bytes take {pages}");
        }
        assert_eq!(cut(0), Vec::<usize>::new());
    }
}
