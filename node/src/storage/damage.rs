//! What a disk has lost of a group's log: facts, found when a folder is opened, while it is read, and by the scrubber.
//! Pure. What follows from them is for whoever replicates the log to say.

use std::ops::Range;

use quorate_proto::ids::LogIndex;

/// A set of indexes, as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holes(
    /// Ascending, none empty, none touching the next one.
    Vec<Range<LogIndex>>,
);

impl Holes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> &[Range<LogIndex>] {
        &self.0
    }

    /// How many indexes.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|range| range.end.0 - range.start.0).sum()
    }

    /// The first index.
    pub fn first(&self) -> Option<LogIndex> {
        self.0.first().map(|range| range.start)
    }

    /// Whether `index` is one of them.
    pub fn contains(&self, index: LogIndex) -> bool {
        let at = self.0.partition_point(|range| range.end <= index);
        self.0.get(at).is_some_and(|range| range.start <= index)
    }

    /// Adds a range.
    pub fn add(&mut self, range: Range<LogIndex>) {
        if range.start >= range.end {
            return;
        }
        let first = self.0.partition_point(|known| known.end < range.start);
        let behind = self.0.partition_point(|known| known.start <= range.end);
        let touched = &self.0[first..behind];
        let start = touched.first().map_or(range.start, |known| known.start.min(range.start));
        let end = touched.last().map_or(range.end, |known| known.end.max(range.end));
        drop(self.0.splice(first..behind, std::iter::once(start..end)));
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: Range<LogIndex>) {
        if range.start >= range.end {
            return;
        }
        let mut kept = Vec::with_capacity(self.0.len() + 1);
        for known in self.0.drain(..) {
            let before = known.start..known.end.min(range.start);
            let behind = known.start.max(range.end)..known.end;
            kept.extend([before, behind].into_iter().filter(|part| part.start < part.end));
        }
        self.0 = kept;
    }

    /// Takes out all that is not in `within`.
    pub fn clip(&mut self, within: Range<LogIndex>) {
        self.remove(LogIndex(0)..within.start);
        self.remove(within.end..LogIndex(u64::MAX));
    }
}

/// What a disk cannot tell by itself whether it held it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// The log may have gone on behind its end, or been cut before it: what was acknowledged here may be missing.
    pub tail: bool,
    /// A vote may have been given that is not known any more.
    pub vote: bool,
}

impl Lost {
    /// Whether anything may be.
    pub fn any(self) -> bool {
        self.tail || self.vote
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { tail: self.tail || other.tail, vote: self.vote || other.vote }
    }
}

/// What a disk has lost of a group's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damage {
    /// Entries of which nothing can be read.
    pub heads: Holes,
    /// Entries whose heads are whole and whose bodies cannot be read.
    pub bodies: Holes,
    /// Those of `bodies` that no other replica can read either: who waits for them waits in vain.
    pub gone: Holes,
    /// What may have been there besides.
    pub lost: Lost,
    /// The log begins behind a base that is not there, or cannot be read: without one of a peer nothing can be applied.
    pub base: bool,
}

impl Damage {
    /// Whether nothing is known to be lost.
    pub fn is_none(&self) -> bool {
        self.heads.is_empty() && self.bodies.is_empty() && !self.lost.any() && !self.base
    }

    /// Whether what was acknowledged here may be missing.
    pub(super) fn is_behind(&self) -> bool {
        self.lost.any() || self.base
    }

    /// How many entries cannot be read as a whole.
    pub fn entries(&self) -> u64 {
        self.heads.count() + self.bodies.count()
    }

    /// Whether entry `index` cannot be read as a whole.
    pub fn holds(&self, index: LogIndex) -> bool {
        self.heads.contains(index) || self.bodies.contains(index)
    }

    /// Whether any entry of a range cannot be read as a whole.
    pub fn touches(&self, range: &Range<LogIndex>) -> bool {
        let overlaps = |hole: &Range<LogIndex>| hole.start < range.end && range.start < hole.end;
        self.heads.ranges().iter().chain(self.bodies.ranges()).any(overlaps)
    }

    /// Whether any entry of a range is lost for good: no replica can read it.
    pub fn is_gone_in(&self, range: &Range<LogIndex>) -> bool {
        self.gone.ranges().iter().any(|hole| hole.start < range.end && range.start < hole.end)
    }

    /// The log is `within` now: what lay outside concerns nobody.
    pub(super) fn clip(&mut self, within: &Range<LogIndex>) {
        self.heads.clip(within.clone());
        self.bodies.clip(within.clone());
        self.gone.clip(within.clone());
    }

    /// Notes a part of an entry that cannot be read; tells whether that is news.
    pub(super) fn note(&mut self, index: LogIndex, part: Part) -> bool {
        let range = index..index.next();
        match part {
            Part::Head if self.heads.contains(index) => return false,
            Part::Head => {
                self.bodies.remove(range.clone());
                self.gone.remove(range.clone());
                self.heads.add(range);
            }
            Part::Body if self.holds(index) => return false,
            Part::Body => self.bodies.add(range),
        }
        true
    }

    /// An entry is whole again; tells whether it was not.
    pub(super) fn mended(&mut self, index: LogIndex) -> bool {
        let was = self.holds(index);
        self.heads.remove(index..index.next());
        self.bodies.remove(index..index.next());
        self.gone.remove(index..index.next());
        was
    }

    /// Nobody else can read the body of that entry; tells whether that is news.
    pub(super) fn is_gone(&mut self, index: LogIndex) -> bool {
        let news = self.bodies.contains(index) && !self.gone.contains(index);
        if news {
            self.gone.add(index..index.next());
        }
        news
    }
}

/// Which part of an entry cannot be read: without its head, its body is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Head,
    Body,
}

/// How much of a disk is damaged, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DamageCounts {
    /// Entries that cannot be read as a whole now.
    pub damaged_entries: u64,
    /// Entries written anew, as another replica held them, since the start.
    pub repaired_entries: u64,
    /// Groups that may lack what they had acknowledged, and have not caught up since.
    pub groups_behind: u64,
    /// Times that the scrubber has read everything since the start.
    pub scrubs: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn range(start: u64, end: u64) -> Range<LogIndex> {
        LogIndex(start)..LogIndex(end)
    }

    fn check(holes: &Holes, expected: &[(u64, u64)]) {
        let expected = expected.iter().map(|(start, end)| range(*start, *end)).collect::<Vec<_>>();
        assert_eq!(holes.ranges(), expected);
    }

    #[test]
    fn ranges_that_touch_become_one_and_come_apart_again() {
        let mut holes = Holes::default();
        holes.add(range(5, 7));
        holes.add(range(9, 10));
        check(&holes, &[(5, 7), (9, 10)]);
        holes.add(range(7, 9));
        check(&holes, &[(5, 10)]);
        holes.remove(range(6, 8));
        check(&holes, &[(5, 6), (8, 10)]);
        assert!(holes.contains(LogIndex(5)) && !holes.contains(LogIndex(6)) && holes.contains(LogIndex(9)));
        assert_eq!((holes.count(), holes.first()), (3, Some(LogIndex(5))));
        holes.clip(range(6, 9));
        check(&holes, &[(8, 9)]);
        holes.add(range(3, 3));
        check(&holes, &[(8, 9)]);
    }

    #[test]
    fn a_lost_head_counts_for_its_body() {
        let mut damage = Damage::default();
        assert!(damage.note(LogIndex(3), Part::Body));
        assert!(!damage.note(LogIndex(3), Part::Body), "known");
        assert!(damage.note(LogIndex(3), Part::Head));
        assert!(!damage.note(LogIndex(3), Part::Body), "worse is known");
        assert_eq!((damage.entries(), damage.bodies.count()), (1, 0));
        assert!(!damage.is_gone(LogIndex(3)), "its head is");
        assert!(damage.mended(LogIndex(3)) && !damage.mended(LogIndex(3)));
        assert!(damage.is_none());
        damage.note(LogIndex(4), Part::Body);
        assert!(damage.is_gone(LogIndex(4)) && !damage.is_gone(LogIndex(4)));
        assert!(damage.mended(LogIndex(4)) && damage == Damage::default());
    }

    proptest! {
        #[test]
        fn holes_are_a_set(steps in prop::collection::vec((0u64..40, 0u64..12, any::<bool>()), 0..40)) {
            let mut holes = Holes::default();
            let mut model = std::collections::BTreeSet::new();
            for (start, length, add) in steps {
                let indexes = start..start + length;
                if add {
                    holes.add(range(start, start + length));
                    model.extend(indexes);
                } else {
                    holes.remove(range(start, start + length));
                    model.retain(|index| !indexes.contains(index));
                }
                prop_assert!((0..60).all(|index| holes.contains(LogIndex(index)) == model.contains(&index)));
                prop_assert_eq!(holes.count(), model.len() as u64);
                prop_assert!(holes.ranges().windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert!(holes.ranges().iter().all(|range| range.start < range.end));
            }
        }
    }
}
