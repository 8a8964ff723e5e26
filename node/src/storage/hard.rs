//! What must be known of a group's log beyond its entries: vote, committed, purged, first and last, where terms begin,
//! and which ranges of which volumes are alive. Pure: the same records in the same order give the same state.

use std::ops::Range;

use quorate_proto::ids::{GroupId, LogIndex, Term};

use super::entry::LogId;
use super::error::StoreError;
use super::volume::VolumeNumber;

/// For whom this node has voted, and whether that one is known to lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HardVote {
    /// In which term.
    pub term: Term,
    /// For which node; 0 for nobody.
    pub node: u64,
    /// Whether a quorum has granted it.
    pub committed: bool,
}

impl HardVote {
    /// The higher of two votes, as votes never go back.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        let rank = |vote: &Self| (vote.term, vote.committed, vote.node != 0);
        if rank(&other) > rank(&self) { other } else { self }
    }
}

/// What a log's owner may ask of its state at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The vote saved last.
    pub vote: Option<HardVote>,
    /// What was last saved as committed: a hint that may lag, and may be older after a crash.
    pub committed: Option<LogId>,
    /// The last entry that was trimmed.
    pub purged: Option<LogId>,
    /// The last entry of the log; `purged` if it holds none.
    pub last: Option<LogId>,
}

/// The shape of a log and its hard state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hard {
    pub(super) vote: Option<HardVote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    /// The last entry; `purged` while the log is empty.
    pub(super) last: Option<LogId>,
    /// The first entry, unless the log is empty.
    pub(super) first: Option<LogIndex>,
    /// The first entry of each term that the log holds, ascending.
    pub(super) starts: Vec<LogId>,
}

impl Hard {
    pub(super) fn state(&self) -> LogState {
        LogState { vote: self.vote, committed: self.committed, purged: self.purged, last: self.last }
    }

    /// The indexes that the log holds.
    pub(super) fn range(&self) -> Range<LogIndex> {
        match (self.first, self.last) {
            (Some(first), Some(last)) => first..last.index.next(),
            (Some(_), None) => unreachable!("a log with a first entry has a last one"),
            (None, _) => LogIndex(0)..LogIndex(0),
        }
    }

    /// The term of an entry that the log holds.
    pub(super) fn term_at(&self, index: LogIndex) -> Option<Term> {
        if !self.range().contains(&index) {
            return None;
        }
        let after = self.starts.partition_point(|start| start.index <= index);
        Some(self.starts[after.checked_sub(1).expect("the first entry of a log begins a term")].term)
    }

    /// Takes one more entry. Into an empty log any goes that lies behind what was trimmed.
    pub(super) fn append(&mut self, group: GroupId, id: LogId) -> Result<(), StoreError> {
        let expected = self.last.map_or(LogIndex(0), |last| last.index.next());
        let fits = if self.first.is_some() { id.index == expected } else { id.index >= expected };
        if !fits {
            return Err(StoreError::Gap { group, expected, found: id.index });
        }
        self.first.get_or_insert(id.index);
        if self.starts.last().is_none_or(|start| start.term != id.term) {
            self.starts.push(id);
        }
        self.last = Some(id);
        Ok(())
    }

    /// Removes `from` and all behind it.
    pub(super) fn truncate(&mut self, from: LogIndex) {
        let range = self.range();
        if from >= range.end {
            return;
        }
        if from <= range.start {
            self.clear();
            return;
        }
        let last = LogIndex(from.0 - 1);
        let term = self.term_at(last).expect("the entry before one of the log's others is the log's");
        self.starts.retain(|start| start.index < from);
        self.last = Some(LogId { term, index: last });
    }

    /// Removes `through` and all before it.
    pub(super) fn purge(&mut self, through: LogId) {
        if self.purged.is_some_and(|purged| purged.index >= through.index) {
            return;
        }
        self.purged = Some(through);
        let range = self.range();
        let next = through.index.next();
        if range.end <= next {
            self.clear();
        } else if range.start < next {
            let term = self.term_at(next).expect("the entry behind the trimmed ones is the log's");
            self.starts.retain(|start| start.index > next);
            self.starts.insert(0, LogId { term, index: next });
            self.first = Some(next);
        }
    }

    fn clear(&mut self) {
        self.first = None;
        self.starts.clear();
        self.last = self.purged;
    }
}

/// A range of a group's indexes whose entries lie in one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) volume: VolumeNumber,
    pub(super) range: Range<LogIndex>,
}

/// What the disk holds of a group. An entry outside the spans is dead, whatever a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Durable {
    pub(super) hard: Hard,
    /// Ascending and without gaps: together they are the log's range.
    pub(super) spans: Vec<Span>,
}

impl Durable {
    pub(super) fn append(
        &mut self,
        group: GroupId,
        id: LogId,
        volume: VolumeNumber,
    ) -> Result<(), StoreError> {
        self.hard.append(group, id)?;
        match self.spans.last_mut() {
            Some(span) if span.volume == volume => span.range.end = id.index.next(),
            Some(_) | None => self.spans.push(Span { volume, range: id.index..id.index.next() }),
        }
        Ok(())
    }

    pub(super) fn truncate(&mut self, from: LogIndex) {
        self.hard.truncate(from);
        self.clip();
    }

    pub(super) fn purge(&mut self, through: LogId) {
        self.hard.purge(through);
        self.clip();
    }

    /// Entry `id` lies in `volume` from now on, written there once more. `false`, and nothing changes, if the log does
    /// not hold that very entry.
    pub(super) fn write_again(&mut self, id: LogId, volume: VolumeNumber) -> bool {
        if self.hard.term_at(id.index) != Some(id.term) {
            return false;
        }
        let at = self.spans.partition_point(|span| span.range.end <= id.index);
        let Span { volume: old, range } = self.spans[at].clone();
        if old == volume {
            return true;
        }
        let mut parts = vec![
            Span { volume: old, range: range.start..id.index },
            Span { volume, range: id.index..id.index.next() },
            Span { volume: old, range: id.index.next()..range.end },
        ];
        parts.retain(|span| span.range.start < span.range.end);
        let here = at + usize::from(range.start < id.index);
        drop(self.spans.splice(at..=at, parts));
        // Many are moved one after the other: they shall not become as many spans.
        if self.spans.get(here + 1).is_some_and(|next| next.volume == volume) {
            let next = self.spans.remove(here + 1);
            self.spans[here].range.end = next.range.end;
        }
        if here > 0 && self.spans[here - 1].volume == volume {
            let moved = self.spans.remove(here);
            self.spans[here - 1].range.end = moved.range.end;
        }
        true
    }

    /// What lay in one volume lies in another. Neighbours in one volume become one span: otherwise there would be one for
    /// each volume that there ever was.
    pub(super) fn relocate(&mut self, from: VolumeNumber, to: VolumeNumber) {
        for span in self.spans.iter_mut().filter(|span| span.volume == from) {
            span.volume = to;
        }
        self.spans.dedup_by(|next, span| {
            let joins = next.volume == span.volume && next.range.start == span.range.end;
            if joins {
                span.range.end = next.range.end;
            }
            joins
        });
    }

    /// The part of a range that is alive in a volume.
    pub(super) fn live_in(&self, volume: VolumeNumber, range: &Range<LogIndex>) -> Range<LogIndex> {
        let parts = self.spans.iter().filter(|span| span.volume == volume);
        let live = parts.map(|span| span.range.start.max(range.start)..span.range.end.min(range.end));
        live.filter(|part| part.start < part.end).fold(range.end..range.end, |live, part| {
            let start = live.start.min(part.start);
            start..if live.start < live.end { live.end.max(part.end) } else { part.end }
        })
    }

    fn clip(&mut self) {
        let live = self.hard.range();
        self.spans.retain_mut(|span| {
            span.range = span.range.start.max(live.start)..span.range.end.min(live.end);
            span.range.start < span.range.end
        });
    }

    /// Whether the spans are what [`Durable::spans`] promises.
    pub(super) fn is_whole(&self) -> bool {
        let live = self.hard.range();
        let mut next = live.start;
        for span in &self.spans {
            if span.range.start != next || span.range.end <= next {
                return false;
            }
            next = span.range.end;
        }
        next == live.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(1);

    fn id(term: u64, index: u64) -> LogId {
        LogId { term: Term(term), index: LogIndex(index) }
    }

    fn durable(entries: &[(u64, u64, u32)]) -> Durable {
        let mut durable = Durable::default();
        for (term, index, volume) in entries {
            durable
                .append(GROUP, id(*term, *index), VolumeNumber(*volume))
                .expect("entries follow each other");
        }
        durable
    }

    fn check(durable: &Durable, spans: &[(u32, u64, u64)], starts: &[LogId], last: Option<LogId>) {
        let expected = spans.iter().map(|(volume, start, end)| Span {
            volume: VolumeNumber(*volume),
            range: LogIndex(*start)..LogIndex(*end),
        });
        assert_eq!(durable.spans, expected.collect::<Vec<_>>());
        assert_eq!(durable.hard.starts, starts);
        assert_eq!(durable.hard.last, last);
        assert!(durable.is_whole());
    }

    #[test]
    fn a_suffix_truncated_from_a_sealed_volume_is_dead() {
        let mut durable = durable(&[(1, 0, 1), (1, 1, 1), (2, 2, 1), (2, 3, 2)]);
        check(&durable, &[(1, 0, 3), (2, 3, 4)], &[id(1, 0), id(2, 2)], Some(id(2, 3)));
        durable.truncate(LogIndex(1));
        check(&durable, &[(1, 0, 1)], &[id(1, 0)], Some(id(1, 0)));
        durable.append(GROUP, id(3, 1), VolumeNumber(2)).expect("follows");
        check(&durable, &[(1, 0, 1), (2, 1, 2)], &[id(1, 0), id(3, 1)], Some(id(3, 1)));
        durable.truncate(LogIndex(0));
        check(&durable, &[], &[], None);
    }

    #[test]
    fn an_entry_that_is_written_once_more_lies_elsewhere() {
        let mut durable =
            durable(&[(1, 0, 1), (1, 1, 1), (1, 2, 1), (1, 3, 1), (2, 4, 2), (2, 5, 3), (2, 6, 3)]);
        let starts = [id(1, 0), id(2, 4)];
        assert!(durable.write_again(id(1, 1), VolumeNumber(3)));
        check(&durable, &[(1, 0, 1), (3, 1, 2), (1, 2, 4), (2, 4, 5), (3, 5, 7)], &starts, Some(id(2, 6)));
        assert!(durable.write_again(id(1, 2), VolumeNumber(3)));
        check(&durable, &[(1, 0, 1), (3, 1, 3), (1, 3, 4), (2, 4, 5), (3, 5, 7)], &starts, Some(id(2, 6)));
        assert!(durable.write_again(id(1, 3), VolumeNumber(3)));
        assert!(durable.write_again(id(2, 4), VolumeNumber(3)));
        check(&durable, &[(1, 0, 1), (3, 1, 7)], &starts, Some(id(2, 6)));
        assert!(durable.write_again(id(1, 0), VolumeNumber(3)), "the first one");
        check(&durable, &[(3, 0, 7)], &starts, Some(id(2, 6)));
        assert!(durable.write_again(id(1, 0), VolumeNumber(3)), "it is there");
        assert!(!durable.write_again(id(2, 0), VolumeNumber(4)), "another entry");
        assert!(!durable.write_again(id(2, 7), VolumeNumber(4)), "not in the log");
        check(&durable, &[(3, 0, 7)], &starts, Some(id(2, 6)));
    }

    #[test]
    fn what_is_trimmed_leaves_the_terms_behind_it() {
        let mut durable = durable(&[(1, 0, 1), (1, 1, 1), (1, 2, 2), (4, 3, 2)]);
        durable.purge(id(1, 1));
        check(&durable, &[(2, 2, 4)], &[id(1, 2), id(4, 3)], Some(id(4, 3)));
        assert_eq!(durable.hard.term_at(LogIndex(1)), None);
        assert_eq!(durable.hard.term_at(LogIndex(2)), Some(Term(1)));
        durable.purge(id(1, 0));
        check(&durable, &[(2, 2, 4)], &[id(1, 2), id(4, 3)], Some(id(4, 3)));
        durable.purge(id(9, 50));
        check(&durable, &[], &[], Some(id(9, 50)));
        assert!(matches!(
            durable.append(GROUP, id(9, 50), VolumeNumber(2)),
            Err(StoreError::Gap { expected: LogIndex(51), found: LogIndex(50), .. })
        ));
        durable.append(GROUP, id(9, 51), VolumeNumber(2)).expect("follows");
        check(&durable, &[(2, 51, 52)], &[id(9, 51)], Some(id(9, 51)));
    }

    #[test]
    fn what_was_rewritten_into_one_volume_is_one_span() {
        let mut durable = durable(&[(1, 0, 1), (1, 1, 2), (1, 2, 3), (1, 3, 4), (1, 4, 5)]);
        let volume = VolumeNumber;
        for from in [1, 2, 4] {
            durable.relocate(volume(from), volume(9));
        }
        let starts = [id(1, 0)];
        check(&durable, &[(9, 0, 2), (3, 2, 3), (9, 3, 4), (5, 4, 5)], &starts, Some(id(1, 4)));
        let live = |volume, range: Range<u64>| {
            durable.live_in(VolumeNumber(volume), &(LogIndex(range.start)..LogIndex(range.end)))
        };
        assert_eq!(live(9, 1..3), LogIndex(1)..LogIndex(2));
        assert!(live(3, 3..5).is_empty() && live(9, 4..9).is_empty());
        durable.relocate(volume(3), volume(9));
        check(&durable, &[(9, 0, 4), (5, 4, 5)], &starts, Some(id(1, 4)));
    }

    #[test]
    fn votes_never_go_back() {
        let vote = |term, node, committed| HardVote { term: Term(term), node, committed };
        for (low, high) in [
            (vote(1, 2, true), vote(2, 0, false)),
            (vote(2, 0, false), vote(2, 1, false)),
            (vote(2, 1, false), vote(2, 1, true)),
        ] {
            assert_eq!(low.max(high), high);
            assert_eq!(high.max(low), high);
        }
    }
}
