//! The leader's view of the log's end: applied state plus what is in flight. Pure.

use std::collections::BTreeMap;

use quorate_proto::ids::{Offset, ProducerEpoch, ProducerId, Term, Timestamp};

use super::dedup::{Claim, Firsts, Judgement, Producers};
use super::state::State;

/// Assigns offsets and judges retries while one term lasts and nothing is refused; then it is built anew.
#[derive(Debug)]
pub(super) struct Tail {
    /// The term it leads in.
    pub(super) term: Term,
    /// Where the next batch goes.
    next_offset: Offset,
    /// Never below that of the last entry.
    appended_at: Timestamp,
    /// Producers with batches in flight: what is applied of each, and what is in flight.
    ahead: Producers,
    /// How many batches each of those has in flight.
    flying: BTreeMap<ProducerId, usize>,
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Propose it with this base offset.
    Propose { base_offset: Offset },
    /// It is, or was, in flight with this base offset: its answer is the original's.
    Again { base_offset: Offset, stamp: Timestamp },
    /// Refuse it.
    Refuse(Refused),
}

/// Why a batch is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    DuplicateSequence,
    OutOfOrder,
    InvalidEpoch { current: ProducerEpoch },
}

impl Tail {
    /// At the end of what is applied, with nothing in flight.
    pub(super) fn new(term: Term, state: &State) -> Self {
        Self {
            term,
            next_offset: state.next_offset,
            appended_at: state.appended_at,
            ahead: Producers::default(),
            flying: BTreeMap::new(),
        }
    }

    /// Judges a batch.
    pub(super) fn judge(&self, state: &State, firsts: &Firsts, claim: Claim) -> Verdict {
        let producers = if self.ahead.get(claim.producer).is_some() { &self.ahead } else { &state.producers };
        let unknown = producers.get(claim.producer).is_none();
        if unknown && (firsts.await_an_earlier(claim) || state.firsts.await_an_earlier(claim)) {
            return Verdict::Refuse(Refused::OutOfOrder);
        }
        match producers.judge(claim) {
            Judgement::Accept => Verdict::Propose { base_offset: self.next_offset },
            Judgement::Duplicate { base_offset, stamp } => Verdict::Again { base_offset, stamp },
            Judgement::DuplicateSequence => Verdict::Refuse(Refused::DuplicateSequence),
            Judgement::OutOfOrder => Verdict::Refuse(Refused::OutOfOrder),
            Judgement::InvalidEpoch { current } => Verdict::Refuse(Refused::InvalidEpoch { current }),
        }
    }

    /// When a batch that is proposed now was appended: the clock, never below the entry before.
    pub(super) fn stamp(&mut self, wall: Timestamp) -> Timestamp {
        self.appended_at = self.appended_at.max(wall);
        self.appended_at
    }

    /// A batch judged [`Verdict::Propose`] was proposed.
    pub(super) fn proposed(&mut self, state: &State, claim: Claim, max_timestamp: Timestamp) {
        if claim.producer != ProducerId::NONE {
            if self.ahead.get(claim.producer).is_none()
                && let Some(applied) = state.producers.get(claim.producer)
            {
                self.ahead.set(claim.producer, applied.clone());
            }
            self.ahead.record(claim, self.next_offset, max_timestamp, self.appended_at);
            *self.flying.entry(claim.producer).or_default() += 1;
        }
        self.next_offset = self.next_offset.plus(claim.records);
    }

    /// A batch in flight was applied.
    pub(super) fn landed(&mut self, producer: ProducerId) {
        if let Some(flying) = self.flying.get_mut(&producer) {
            *flying -= 1;
            if *flying == 0 {
                self.flying.remove(&producer);
                self.ahead.forget(producer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::ids::Sequence;

    use super::*;

    fn claim(sequence: i32) -> Claim {
        Claim { producer: ProducerId(7), epoch: ProducerEpoch(0), sequence: Sequence(sequence), records: 1 }
    }

    #[test]
    fn judges_over_what_is_in_flight() {
        let state = State::default();
        let firsts = Firsts::default();
        let mut tail = Tail::new(Term(1), &state);
        assert_eq!(tail.judge(&state, &firsts, claim(0)), Verdict::Propose { base_offset: Offset(0) });
        tail.proposed(&state, claim(0), Timestamp(4));
        assert_eq!(tail.judge(&state, &firsts, claim(1)), Verdict::Propose { base_offset: Offset(1) });
        tail.proposed(&state, claim(1), Timestamp(5));
        assert_eq!(
            tail.judge(&state, &firsts, claim(0)),
            Verdict::Again { base_offset: Offset(0), stamp: Timestamp(4) }
        );
        assert_eq!(tail.judge(&state, &firsts, claim(3)), Verdict::Refuse(Refused::OutOfOrder));
        tail.landed(ProducerId(7));
        assert_eq!(tail.judge(&state, &firsts, claim(3)), Verdict::Refuse(Refused::OutOfOrder));
        tail.landed(ProducerId(7));
        assert!(tail.ahead.get(ProducerId(7)).is_none(), "applied state speaks from here on");
    }

    #[test]
    fn a_second_batch_waits_for_the_refused_first() {
        let state = State::default();
        let mut firsts = Firsts::default();
        let tail = Tail::new(Term(1), &state);
        firsts.refused(claim(0));
        firsts.refused(claim(1));
        assert_eq!(tail.judge(&state, &firsts, claim(1)), Verdict::Refuse(Refused::OutOfOrder));
        assert_eq!(tail.judge(&state, &firsts, claim(0)), Verdict::Propose { base_offset: Offset(0) });
        firsts.taken(ProducerId(7));
        assert_eq!(tail.judge(&state, &firsts, claim(1)), Verdict::Propose { base_offset: Offset(0) });
    }

    #[test]
    fn stamps_never_go_back() {
        let state = State { appended_at: Timestamp(50), ..State::default() };
        let mut tail = Tail::new(Term(1), &state);
        assert_eq!(tail.stamp(Timestamp(40)), Timestamp(50));
        assert_eq!(tail.stamp(Timestamp(60)), Timestamp(60));
        assert_eq!(tail.stamp(Timestamp(-1)), Timestamp(60));
    }
}
