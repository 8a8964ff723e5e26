//! Leader epochs with their start offsets. Pure.

use quorate_proto::ids::{LeaderEpoch, Offset, Term};
use quorate_proto::v1;

use super::saved::BadState;

/// For each term that has an entry in the log: the next offset when its first entry came, blanks included.
/// Terms and offsets both ascend. Of the terms that lie before the log start only the last is kept, as in Kafka.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Epochs(Vec<(Term, Offset)>);

impl Epochs {
    /// Takes note of an entry of `term` at which the next offset is `next`.
    pub(super) fn note(&mut self, term: Term, next: Offset) {
        if self.0.last().is_none_or(|(last, _)| *last < term) {
            self.0.push((term, next));
        }
    }

    /// Forgets what lies before the log start, but for the term that holds it.
    pub(super) fn trim(&mut self, log_start: Offset) {
        let after = self.0.partition_point(|(_, start)| *start <= log_start);
        self.0.drain(..after.saturating_sub(1));
    }

    /// Where the oldest term that is known here began.
    pub(super) fn first_start(&self) -> Option<Offset> {
        self.0.first().map(|(_, start)| *start)
    }

    pub(super) fn to_wire(&self) -> Vec<v1::EpochStart> {
        self.0.iter().map(|(term, start)| v1::EpochStart { term: term.0, offset: start.0 }).collect()
    }

    pub(super) fn from_wire(epochs: &[v1::EpochStart]) -> Result<Self, BadState> {
        let mut read = Self::default();
        for epoch in epochs {
            if i32::try_from(epoch.term).is_err() {
                return Err(BadState("a term out of range"));
            }
            let before = read.0.len();
            read.note(Term(epoch.term), Offset(epoch.offset));
            if read.0.len() == before {
                return Err(BadState("terms out of order"));
            }
        }
        Ok(read)
    }

    /// The newest term that has an entry.
    pub(super) fn newest(&self) -> Option<Term> {
        self.0.last().map(|(term, _)| *term)
    }

    /// The term in which an offset was written, if it was.
    pub(super) fn of(&self, offset: Offset) -> Option<Term> {
        let after = self.0.partition_point(|(_, start)| *start <= offset);
        self.0.get(after.checked_sub(1)?).map(|(term, _)| *term)
    }

    /// The largest epoch at or below `epoch` and where it ended (exclusive); the last one ends at `end`.
    pub(super) fn end_of(&self, epoch: LeaderEpoch, end: Offset) -> Option<(LeaderEpoch, Offset)> {
        let after = self.0.partition_point(|(term, _)| term.epoch() <= epoch);
        let (term, _) = self.0.get(after.checked_sub(1)?)?;
        Some((term.epoch(), self.0.get(after).map_or(end, |(_, start)| *start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_ends_where_the_next_begins() {
        let mut epochs = Epochs::default();
        assert_eq!(epochs.newest(), None);
        for (term, next) in [(2, 0), (2, 5), (5, 8), (6, 8), (9, 20)] {
            epochs.note(Term(term), Offset(next));
        }
        let end = |epoch| epochs.end_of(LeaderEpoch(epoch), Offset(30)).map(|(epoch, end)| (epoch.0, end.0));
        assert_eq!(epochs.newest(), Some(Term(9)));
        assert_eq!(epochs.of(Offset(4)), Some(Term(2)));
        assert_eq!(epochs.of(Offset(8)), Some(Term(6)), "term 5 wrote nothing");
        assert_eq!(end(1), None);
        assert_eq!(end(2), Some((2, 8)));
        assert_eq!(end(4), Some((2, 8)));
        assert_eq!(end(5), Some((5, 8)));
        assert_eq!(end(8), Some((6, 20)));
        assert_eq!(end(9), Some((9, 30)));
        assert_eq!(end(i32::MAX), Some((9, 30)));
    }

    #[test]
    fn what_lies_before_the_log_start_is_forgotten() {
        let mut epochs = Epochs::default();
        for (term, next) in [(2, 0), (3, 5), (5, 8), (6, 8), (9, 20)] {
            epochs.note(Term(term), Offset(next));
        }
        let trimmed = |at: u64| {
            let mut trimmed = epochs.clone();
            trimmed.trim(Offset(at));
            assert_eq!(Epochs::from_wire(&trimmed.to_wire()).as_ref(), Ok(&trimmed));
            trimmed.0.iter().map(|(term, _)| term.0).collect::<Vec<_>>()
        };
        assert_eq!(trimmed(0), [2, 3, 5, 6, 9]);
        assert_eq!(trimmed(7), [3, 5, 6, 9]);
        assert_eq!(trimmed(8), [6, 9]);
        assert_eq!(trimmed(90), [9]);
    }
}
