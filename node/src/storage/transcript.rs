//! Entries and facts into a volume and back out of it, within one transaction of redb.

use bytes::{Bytes, BytesMut};
use redb::{AccessGuard, ReadOnlyTable, ReadTransaction, TableDefinition, WriteTransaction};

use super::entry::{Body, Corrupt, Entry, Head};
use super::error::Fault;
use super::stream::{Item, Packer, Place, cut};
use super::volume::{BODIES, STREAM};

/// One thing to be written.
pub(super) enum Line<'a> {
    Entry(&'a Entry),
    /// An entry that the log holds, once more.
    Again(&'a Entry),
    Fact(Item),
}

/// Where a volume's tables go on, and how much has been written to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    pub(super) stream_key: u32,
    pub(super) body_key: u32,
    pub(super) bytes: u64,
}

/// Writes lines in their order behind `tail`, which moves on. Tells where each entry lies, in order.
pub(super) fn put(
    write: &WriteTransaction,
    tail: &mut Tail,
    commit: u64,
    lines: &[Line<'_>],
) -> Result<Vec<Place>, Fault> {
    let bodies = bodies_of(lines)?;
    let values = cut(bodies.iter().map(|body| body.len()).sum());
    let mut place = Cursor { key: tail.body_key, offset: 0, values: &values };
    let mut packer = Packer::new(commit, tail.stream_key);
    let mut places = Vec::with_capacity(bodies.len());
    for line in lines {
        match line {
            Line::Entry(entry) => {
                let item = Item::Entry { head: entry.head, body: place.here() };
                places.push(packer.push(&item));
                place.advance(to_usize(entry.head.body_bytes));
            }
            Line::Again(entry) => {
                let item = Item::Again { head: entry.head, body: place.here() };
                places.push(packer.push(&item));
                place.advance(to_usize(entry.head.body_bytes));
            }
            Line::Fact(item) => {
                packer.push(item);
            }
        }
    }
    let mut stream = write.open_table(STREAM)?;
    for value in packer.finish() {
        stream.insert(tail.stream_key, &value[..])?;
        tail.stream_key += 1;
        tail.bytes += cost(value.len());
    }
    let mut table = write.open_table(BODIES)?;
    let mut bodies = bodies.into_iter();
    let mut body: &[u8] = &[];
    for length in values {
        let mut value = table.insert_reserve(tail.body_key, length)?;
        let mut room = value.as_mut();
        while !room.is_empty() {
            if body.is_empty() {
                body = bodies.next().expect("the values are as long as the bodies");
            }
            let part = body.len().min(room.len());
            let (front, rest) = room.split_at_mut(part);
            front.copy_from_slice(&body[..part]);
            (body, room) = (&body[part..], rest);
        }
        tail.body_key += 1;
        tail.bytes += cost(length);
    }
    Ok(places)
}

fn bodies_of<'a>(lines: &'a [Line<'a>]) -> Result<Vec<&'a [u8]>, Fault> {
    let mut bodies = Vec::with_capacity(lines.len());
    for line in lines {
        match line {
            Line::Entry(Entry { body: Body::Here(body), .. })
            | Line::Again(Entry { body: Body::Here(body), .. }) => bodies.push(&body[..]),
            Line::Entry(Entry { body: Body::Absent, .. }) | Line::Again(Entry { body: Body::Absent, .. }) => {
                return Err(Fault::Other("an entry came without its body".to_owned()));
            }
            Line::Fact(_) => {}
        }
    }
    Ok(bodies)
}

/// Roughly what a value takes in the file.
fn cost(length: usize) -> u64 {
    u64::try_from(length + 32).expect("a length fits 64 bits")
}

struct Cursor<'a> {
    key: u32,
    offset: usize,
    values: &'a [usize],
}

impl Cursor<'_> {
    fn here(&self) -> Place {
        Place { key: self.key, offset: u32::try_from(self.offset).expect("a value is far below 4 GB") }
    }

    fn advance(&mut self, bytes: usize) {
        self.offset += bytes;
        while let [first, rest @ ..] = self.values
            && self.offset >= *first
        {
            self.offset -= first;
            self.key += 1;
            self.values = rest;
        }
    }
}

/// Reads entries of a volume by their places. Neighbours lie in the same values, so the last ones are kept.
pub(super) struct Reader {
    stream: Values,
    bodies: Values,
}

struct Values {
    table: ReadOnlyTable<u32, &'static [u8]>,
    last: Option<(u32, AccessGuard<'static, &'static [u8]>)>,
}

impl Values {
    fn open(
        read: &ReadTransaction,
        table: TableDefinition<'static, u32, &'static [u8]>,
    ) -> Result<Self, Fault> {
        Ok(Self { table: read.open_table(table)?, last: None })
    }

    fn get(&mut self, key: u32) -> Result<Option<&[u8]>, Fault> {
        if self.last.as_ref().is_none_or(|(last, _)| *last != key) {
            self.last = self.table.get(key)?.map(|value| (key, value));
        }
        Ok(self.last.as_ref().map(|(_, value)| value.value()))
    }
}

impl Reader {
    pub(super) fn new(read: &ReadTransaction) -> Result<Self, Fault> {
        Ok(Self { stream: Values::open(read, STREAM)?, bodies: Values::open(read, BODIES)? })
    }

    /// The head at a place, and where its body begins.
    pub(super) fn head(&mut self, place: Place) -> Result<(Head, Place), Fault> {
        let at = |corrupt| Fault::corrupt("head", describe(place), corrupt);
        let value = self.stream.get(place.key)?.ok_or_else(|| at(Corrupt::Short))?;
        match Item::decode(value, to_usize(place.offset)).map_err(at)?.0 {
            Item::Entry { head, body } | Item::Again { head, body } => Ok((head, body)),
            Item::State { .. }
            | Item::Vote { .. }
            | Item::Committed { .. }
            | Item::Truncate { .. }
            | Item::Trim { .. }
            | Item::Remove { .. }
            | Item::Moved { .. } => Err(at(Corrupt::Misplaced)),
        }
    }

    /// A head's body, checked against it.
    pub(super) fn body(&mut self, head: &Head, place: Place) -> Result<Bytes, Fault> {
        let at =
            |corrupt| Fault::corrupt("body", format!("group {}, index {}", head.group, head.index), corrupt);
        let (mut key, mut offset) = (place.key, to_usize(place.offset));
        let mut missing = to_usize(head.body_bytes);
        let mut body = BytesMut::with_capacity(missing);
        while missing > 0 {
            let value = self.bodies.get(key)?.ok_or_else(|| at(Corrupt::Short))?;
            let rest = value.get(offset..).ok_or_else(|| at(Corrupt::Short))?;
            let part = rest.len().min(missing);
            if part == 0 {
                return Err(at(Corrupt::Short));
            }
            body.extend_from_slice(&rest[..part]);
            missing -= part;
            (key, offset) = (key + 1, 0);
        }
        head.verify_body(&body).map_err(at)?;
        Ok(body.freeze())
    }
}

fn describe(place: Place) -> String {
    format!("value {}, byte {}", place.key, place.offset)
}

fn to_usize(length: u32) -> usize {
    usize::try_from(length).expect("this program runs on 64 bits")
}
