//! An entry of a log: head and body, and the checksums that tie the two together.
//!
//! A head is 80 bytes, little endian:
//!
//! | bytes | field |
//! | --- | --- |
//! | 0 | format version, 1 |
//! | 1 | kind: 0 blank, 1 membership, 2 batch, 3 command |
//! | 2..4 | producer epoch |
//! | 4..8 | sequence |
//! | 8..16 | group |
//! | 16..24 | index |
//! | 24..32 | term |
//! | 32..40 | base offset |
//! | 40..48 | producer id |
//! | 48..56 | max timestamp |
//! | 56..64 | appended at |
//! | 64..68 | records |
//! | 68..72 | bytes of the body |
//! | 72..76 | CRC-32C of the body |
//! | 76..80 | CRC-32C of bytes 0..76 |
//!
//! As the head's checksum covers group, index, term and the body's checksum, a body that belongs to another entry is
//! seen, and so is a head that was read from another entry's place.

use bytes::Bytes;
use quorate_proto::ids::{GroupId, LogIndex, Offset, ProducerEpoch, ProducerId, Sequence, Term, Timestamp};
use thiserror::Error;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Written by a new leader to commit what its predecessors left; no body, no offset.
    Blank,
    /// Who the members are; an index without an offset.
    Membership,
    /// A record batch.
    Batch,
    /// A command of a state group.
    Command,
}

impl Kind {
    fn to_byte(self) -> u8 {
        match self {
            Self::Blank => 0,
            Self::Membership => 1,
            Self::Batch => 2,
            Self::Command => 3,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Blank),
            1 => Some(Self::Membership),
            2 => Some(Self::Batch),
            3 => Some(Self::Command),
            _ => None,
        }
    }
}

/// Which entry: no two entries of a group ever share one (Raft §5.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term of the leader that wrote it.
    pub term: Term,
    /// Its position.
    pub index: LogIndex,
}

/// All of an entry but its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Whose log.
    pub group: GroupId,
    /// Position in the log.
    pub index: LogIndex,
    /// Term of the leader that wrote it.
    pub term: Term,
    /// What it is.
    pub kind: Kind,
    /// Offset of the first record, for a batch; else 0.
    pub base_offset: Offset,
    /// Records in the batch; else 0.
    pub records: u32,
    /// Who wrote the batch.
    pub producer_id: ProducerId,
    /// The producer's epoch.
    pub producer_epoch: ProducerEpoch,
    /// The first record's sequence.
    pub sequence: Sequence,
    /// The newest timestamp in the batch.
    pub max_timestamp: Timestamp,
    /// The leader's clock when it was proposed, never below its predecessor's.
    pub appended_at: Timestamp,
    /// Length of the body.
    pub body_bytes: u32,
    /// CRC-32C of the body.
    pub body_crc: u32,
}

/// An entry's body, which may not have been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Here it is.
    Here(Bytes),
    /// It was not asked for.
    Absent,
}

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// All but the body.
    pub head: Head,
    /// The body, if it was asked for.
    pub body: Body,
}

/// Stored or sent bytes that are not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Corrupt {
    /// Fewer bytes than there must be.
    #[error("it is cut short")]
    Short,
    /// A checksum does not fit.
    #[error("its checksum is {found:#010x} where {expected:#010x} was stored")]
    Checksum {
        /// As stored.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// The checksum fits, yet a field has a value that none of ours has.
    #[error("its {0} has a value that this version does not know")]
    Unknown(&'static str),
    /// It is whole, but it is another one than the one asked for.
    #[error("another one lies in its place")]
    Misplaced,
    /// The file that held it cannot be read.
    #[error("nothing of it can be read")]
    Lost,
}

impl Head {
    /// Length of an encoded head.
    pub const BYTES: usize = 80;

    const VERSION: u8 = 1;
    const CRC_AT: usize = 76;

    /// Of an entry without an offset. It has no producer, no time and no body.
    pub fn without_offset(group: GroupId, id: LogId, kind: Kind) -> Self {
        Self {
            group,
            index: id.index,
            term: id.term,
            kind,
            base_offset: Offset(0),
            records: 0,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch(-1),
            sequence: Sequence(-1),
            max_timestamp: Timestamp(0),
            appended_at: Timestamp(0),
            body_bytes: 0,
            body_crc: 0,
        }
    }

    /// The bytes of the table above.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0] = Self::VERSION;
        out[1] = self.kind.to_byte();
        out[2..4].copy_from_slice(&self.producer_epoch.0.to_le_bytes());
        out[4..8].copy_from_slice(&self.sequence.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.group.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.index.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.term.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.base_offset.0.to_le_bytes());
        out[40..48].copy_from_slice(&self.producer_id.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.max_timestamp.0.to_le_bytes());
        out[56..64].copy_from_slice(&self.appended_at.0.to_le_bytes());
        out[64..68].copy_from_slice(&self.records.to_le_bytes());
        out[68..72].copy_from_slice(&self.body_bytes.to_le_bytes());
        out[72..76].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..Self::CRC_AT]);
        out[Self::CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the first [`Head::BYTES`] of `bytes`.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        let bytes = bytes.get(..Self::BYTES).ok_or(Corrupt::Short)?;
        check_crc(&bytes[..Self::CRC_AT], u32::from_le_bytes(array(&bytes[Self::CRC_AT..])))?;
        if bytes[0] != Self::VERSION {
            return Err(Corrupt::Unknown("format version"));
        }
        Ok(Self {
            kind: Kind::from_byte(bytes[1]).ok_or(Corrupt::Unknown("kind"))?,
            producer_epoch: ProducerEpoch(i16::from_le_bytes(array(&bytes[2..4]))),
            sequence: Sequence(i32::from_le_bytes(array(&bytes[4..8]))),
            group: GroupId(u64::from_le_bytes(array(&bytes[8..16]))),
            index: LogIndex(u64::from_le_bytes(array(&bytes[16..24]))),
            term: Term(u64::from_le_bytes(array(&bytes[24..32]))),
            base_offset: Offset(u64::from_le_bytes(array(&bytes[32..40]))),
            producer_id: ProducerId(i64::from_le_bytes(array(&bytes[40..48]))),
            max_timestamp: Timestamp(i64::from_le_bytes(array(&bytes[48..56]))),
            appended_at: Timestamp(i64::from_le_bytes(array(&bytes[56..64]))),
            records: u32::from_le_bytes(array(&bytes[64..68])),
            body_bytes: u32::from_le_bytes(array(&bytes[68..72])),
            body_crc: u32::from_le_bytes(array(&bytes[72..76])),
        })
    }

    /// Term and index.
    pub fn log_id(&self) -> LogId {
        LogId { term: self.term, index: self.index }
    }

    /// Whether `body` is this head's.
    ///
    /// # Errors
    /// In what they differ.
    pub fn verify_body(&self, body: &[u8]) -> Result<(), Corrupt> {
        if u32::try_from(body.len()) != Ok(self.body_bytes) {
            return Err(Corrupt::Short);
        }
        check_crc(body, self.body_crc)
    }
}

impl Entry {
    /// Whether the body, if it is here, is the head's.
    ///
    /// # Errors
    /// In what they differ.
    pub fn verify(&self) -> Result<(), Corrupt> {
        match &self.body {
            Body::Here(body) => self.head.verify_body(body),
            Body::Absent => Ok(()),
        }
    }

    /// The entry without its body.
    #[must_use]
    pub fn without_body(&self) -> Self {
        Self { head: self.head, body: Body::Absent }
    }
}

/// The first bytes of a slice that is known to be long enough.
pub(super) fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes[..N].try_into().expect("a slice of N bytes is an array of N bytes")
}

pub(super) fn check_crc(bytes: &[u8], expected: u32) -> Result<(), Corrupt> {
    let found = crc32c::crc32c(bytes);
    if found == expected { Ok(()) } else { Err(Corrupt::Checksum { expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> Head {
        Head {
            group: GroupId(7),
            index: LogIndex(u64::MAX - 1),
            term: Term(3),
            kind: Kind::Batch,
            base_offset: Offset(1 << 40),
            records: 17,
            producer_id: ProducerId(-1),
            producer_epoch: ProducerEpoch(-1),
            sequence: Sequence(i32::MAX),
            max_timestamp: Timestamp(-5),
            appended_at: Timestamp(1_700_000_000_000),
            body_bytes: 3,
            body_crc: crc32c::crc32c(b"abc"),
        }
    }

    #[test]
    fn a_head_comes_back_as_it_was() {
        let all = [Kind::Blank, Kind::Membership, Kind::Batch, Kind::Command];
        for kind in all {
            let head = Head { kind, ..head() };
            assert_eq!(Head::decode(&head.encode()), Ok(head));
        }
    }

    #[test]
    fn every_flipped_bit_of_a_head_is_seen() {
        let good = head().encode();
        for bit in 0..Head::BYTES * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Head::decode(&bad), Err(Corrupt::Checksum { .. })), "bit {bit}");
        }
        assert_eq!(Head::decode(&good[..79]), Err(Corrupt::Short));
    }

    #[test]
    fn another_body_is_seen() {
        let entry = |body: &'static [u8]| Entry { head: head(), body: Body::Here(Bytes::from_static(body)) };
        assert_eq!(entry(b"abc").verify(), Ok(()));
        assert_eq!(entry(b"ab").verify(), Err(Corrupt::Short));
        assert!(matches!(entry(b"abd").verify(), Err(Corrupt::Checksum { .. })));
        assert_eq!(entry(b"abd").without_body().verify(), Ok(()));
    }
}
