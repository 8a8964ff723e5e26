//! Where the world may be unkind, and what is worth knowing to have happened: asked and told by node and client, in
//! the real program without any effect.
//!
//! A [`Point`] is a place at which something slow, rare or small but legal may happen; the simulator makes it happen.
//! A [`Mark`] is a place that a sweep of the simulator must have reached, or else it has tested less than it seems.
//! Neither stands where it would be met more than once a batch.

use std::fmt;

/// Decides what happens at points, and hears of marks.
pub trait Probe: Send + Sync {
    /// Whether to be unkind here and now.
    fn perturb(&self, point: Point) -> bool;

    /// This was reached.
    fn reached(&self, mark: Mark);
}

/// The real program's: never unkind, and not curious.
#[derive(Clone, Copy, Debug)]
pub struct Unprobed;

impl Probe for Unprobed {
    fn perturb(&self, _point: Point) -> bool {
        false
    }

    fn reached(&self, _mark: Mark) {}
}

/// An enum whose variants have names that are told to people.
macro_rules! named {
    ($(#[$of_all:meta])* $all:ident { $($(#[$of_one:meta])* $one:ident = $name:literal,)+ }) => {
        $(#[$of_all])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $all {
            $($(#[$of_one])* $one,)+
        }

        impl $all {
            /// All of them, in order.
            pub const ALL: &[Self] = &[$(Self::$one,)+];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$one => $name,)+
                }
            }
        }

        impl fmt::Display for $all {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}

named! {
    /// Something that a slow, busy or unlucky world may do; every promise holds all the same.
    Point {
        /// A batch is refused as by a leader that has just been deposed.
        ProduceNotLeader = "produce-not-leader",
        /// The batcher begins anew from applied state, as after a refusal.
        BatcherBeginsAnew = "batcher-begins-anew",
    }
}

named! {
    /// Something that a sweep must have seen happen.
    Mark {
        /// A batch that had been applied came again, and got the first answer.
        DuplicateOfApplied = "duplicate-of-applied",
        /// A batch that was in flight came again, and waits for the first one's answer.
        DuplicateInFlight = "duplicate-in-flight",
        /// A batch came again that is older than those remembered.
        DuplicateTooOld = "duplicate-too-old",
        /// A batch was refused because one before it is missing.
        SequenceGap = "sequence-gap",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_words_with_hyphens_and_differ() {
        let points = Point::ALL.iter().map(|point| point.name());
        let marks = Mark::ALL.iter().map(|mark| mark.name());
        let names = points.chain(marks).collect::<Vec<_>>();
        for name in &names {
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{name}");
        }
        assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    }
}
