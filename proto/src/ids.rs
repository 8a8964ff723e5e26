//! Positions, names and identities, each with a type of its own, so that none is taken for another.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;
use uuid::Uuid;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($of:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $of);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);

        impl $name {
            /// Makes a version 4 UUID of 16 random bytes.
            pub fn from_random(bytes: [u8; 16]) -> Self {
                Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
            }

            /// Reads the 16 bytes of a wire message; `None` for any other length and for the nil UUID.
            pub fn from_wire(bytes: &[u8]) -> Option<Self> {
                Uuid::from_slice(bytes).ok().filter(|uuid| !uuid.is_nil()).map(Self)
            }

            /// The 16 bytes of a wire message.
            pub fn to_wire(self) -> bytes::Bytes {
                bytes::Bytes::copy_from_slice(self.0.as_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

number! {
    /// A node of the cluster: 1 to 2^31-1, chosen by the operator.
    NodeId(u32)
}
number! {
    /// A Raft group: handed out by the controller, never reused. 0 is the metadata group.
    GroupId(u64)
}
number! {
    /// A partition of a topic, from 0.
    PartitionId(i32)
}
number! {
    /// Position of a record in its partition, from 0. Counts records; below 2^63.
    Offset(u64)
}
number! {
    /// Raft's position in a group's log. Counts entries, blanks and membership changes too.
    LogIndex(u64)
}
number! {
    /// Raft's era of a group. Always fits an i32, since clients see it as [`LeaderEpoch`].
    Term(u64)
}
number! {
    /// The term in which a leader leads a partition, as clients see it.
    LeaderEpoch(i32)
}
number! {
    /// Milliseconds since the Unix epoch; may be negative, as clients may send anything.
    Timestamp(i64)
}
number! {
    /// Who wrote a batch: handed out by the controller, never reused.
    ProducerId(i64)
}
number! {
    /// Incremented to fence an older instance of the same producer.
    ProducerEpoch(i16)
}
number! {
    /// Running number of a record within its producer and partition; wraps from 2^31-1 to 0.
    Sequence(i32)
}
number! {
    /// One start of a node's process: another start has another one.
    Incarnation(u64)
}
identity! {
    /// A topic for ever: a deleted and re-created topic of the same name has another one.
    TopicId
}
identity! {
    /// Written at random beside a node's data at its first start; another disk has another one.
    Identity
}
identity! {
    /// Drawn when a cluster is formed.
    ClusterId
}
identity! {
    /// Drawn by whoever asks to change a topic: asking again with the same one does nothing twice.
    ChangeId
}

impl NodeId {
    /// The largest node id.
    pub const MAX: Self = Self(i32::MAX as u32);

    /// Whether the id lies in 1 to 2^31-1.
    pub fn is_valid(self) -> bool {
        (1..=Self::MAX.0).contains(&self.0)
    }
}

impl GroupId {
    /// The controller's own group, partition 0 of `__cluster_metadata`.
    pub const METADATA: Self = Self(0);
}

impl Offset {
    /// The offset `records` further on.
    #[must_use]
    pub fn plus(self, records: u32) -> Self {
        Self(self.0 + u64::from(records))
    }

    /// As a signed number for the wire.
    pub fn to_wire(self) -> i64 {
        i64::try_from(self.0).expect("an offset is below 2^63")
    }
}

impl LogIndex {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Term {
    /// The leader epoch that clients see for this term.
    pub fn epoch(self) -> LeaderEpoch {
        LeaderEpoch(i32::try_from(self.0).expect("a term fits an i32"))
    }
}

impl Timestamp {
    /// The newest timestamp of a batch whose records have none, as in Kafka.
    pub const NONE: Self = Self(-1);
}

impl ProducerId {
    /// The batch was written without a producer id: no retry of it can be recognised.
    pub const NONE: Self = Self(-1);
}

impl Sequence {
    /// The sequence `records` further on, wrapping from 2^31-1 to 0.
    #[must_use]
    pub fn plus(self, records: u32) -> Self {
        let sum = (i64::from(self.0) + i64::from(records)) % (1_i64 << 31);
        Self(i32::try_from(sum).expect("a sum modulo 2^31 fits an i32"))
    }
}

/// A topic's name by Kafka's rule: 1 to 249 of `[A-Za-z0-9._-]`, neither `.` nor `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicName(Arc<str>);

impl TopicName {
    /// Longest name, in bytes.
    pub const BYTES_MAX: usize = 249;

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is kept for our own topics (`__`...).
    pub fn is_internal(&self) -> bool {
        self.0.starts_with("__")
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a topic name is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopicNameError {
    /// Nothing was given.
    #[error("a topic name must have at least one character")]
    Empty,
    /// Longer than [`TopicName::BYTES_MAX`].
    #[error("a topic name has at most 249 characters, this one has {0}")]
    TooLong(usize),
    /// `.` or `..`.
    #[error("a topic cannot be called {0:?}")]
    Dots(String),
    /// A character outside `[A-Za-z0-9._-]`.
    #[error("a topic name holds only letters, digits, '.', '_' and '-', not {character:?} as in {name:?}")]
    Character {
        /// The first wrong one.
        character: char,
        /// The whole name.
        name: String,
    },
}

impl FromStr for TopicName {
    type Err = TopicNameError;

    fn from_str(name: &str) -> Result<Self, TopicNameError> {
        if name.is_empty() {
            return Err(TopicNameError::Empty);
        }
        let length = name.chars().count();
        if length > Self::BYTES_MAX {
            return Err(TopicNameError::TooLong(length));
        }
        if name == "." || name == ".." {
            return Err(TopicNameError::Dots(name.to_owned()));
        }
        match name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))) {
            Some(character) => Err(TopicNameError::Character { character, name: name.to_owned() }),
            None => Ok(Self(name.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_kafkas_names_only() {
        for good in ["a", "A.b_c-9", "...", "__ours", &"x".repeat(249)] {
            assert!(good.parse::<TopicName>().is_ok(), "{good}");
        }
        assert_eq!("".parse::<TopicName>(), Err(TopicNameError::Empty));
        assert_eq!("..".parse::<TopicName>(), Err(TopicNameError::Dots("..".into())));
        assert_eq!("x".repeat(250).parse::<TopicName>(), Err(TopicNameError::TooLong(250)));
        for bad in ["a/b", "a b", "ä", "a\0"] {
            assert!(matches!(bad.parse::<TopicName>(), Err(TopicNameError::Character { .. })), "{bad}");
        }
    }

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(Sequence(i32::MAX).plus(1), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 1).plus(3), Sequence(1));
        assert_eq!(Sequence(5).plus(2), Sequence(7));
    }

    #[test]
    fn the_nil_uuid_is_no_identity() {
        assert_eq!(TopicId::from_wire(&[0; 16]), None);
        assert_eq!(TopicId::from_wire(&[1; 15]), None);
        assert!(TopicId::from_wire(&[1; 16]).is_some());
    }
}
