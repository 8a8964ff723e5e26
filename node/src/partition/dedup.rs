//! By which a retry is recognised: what each producer wrote last. Pure.
//!
//! The same judgement is made twice: by the leader over applied state plus what is in flight, and by apply.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::env::Moment;
use quorate_proto::ids::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use quorate_proto::v1;

use super::saved::BadState;

/// How many batches of a producer are remembered; as many as Kafka's clients keep in flight.
pub(super) const REMEMBERED: usize = 5;

/// Producers of a partition that are remembered: of more, those that have not written for the longest time go.
pub(super) const PRODUCERS_MAX: usize = 10_000;

/// A producer that has not written for so long is forgotten, in ms of the times at which batches were appended: seven
/// days, as Kafka's `transactional.id.expiration.ms`.
const IDLE_MS_MAX: i64 = 7 * 24 * 60 * 60 * 1_000;

/// How long others wait for a batch that was refused: whoever sends it again does so by then.
const SENT_AGAIN_WITHIN: Duration = Duration::from_secs(600);

/// Half of the sequence numbers: what lies less than this ahead is ahead, the rest lies behind.
const HALF: i64 = 1 << 30;

/// The producer's side of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) producer: ProducerId,
    pub(super) epoch: ProducerEpoch,
    /// Of the batch's first record.
    pub(super) sequence: Sequence,
    /// At least 1.
    pub(super) records: u32,
}

impl Claim {
    /// Of its last record.
    fn last(self) -> Sequence {
        self.sequence.plus(self.records - 1)
    }
}

/// What a claim is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// It follows the producer's last batch, or nothing is known to the contrary.
    Accept,
    /// One of the last five batches, again.
    Duplicate { base_offset: Offset, stamp: Timestamp },
    /// Lies behind, and is none of the last five: perhaps written, all of it or a part.
    DuplicateSequence,
    /// It does not follow, and is surely not written: something between the last batch and this one is missing, or it
    /// lies before the first one that this producer wrote here.
    OutOfOrder,
    /// A newer instance of the producer has written.
    InvalidEpoch { current: ProducerEpoch },
}

/// A batch that a producer wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Past {
    first: Sequence,
    last: Sequence,
    base_offset: Offset,
    /// The batch's largest timestamp: of a topic with `LogAppendTime`, when it was appended.
    stamp: Timestamp,
}

/// What one producer wrote last.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Producer {
    epoch: ProducerEpoch,
    /// When its newest batch was appended, as the log says: never below what was said of an earlier batch.
    appended_at: Timestamp,
    /// The newest one first, at least one. Inline: most of a partition's memory would else be allocations.
    past: [Option<Past>; REMEMBERED],
}

impl Producer {
    fn first(claim: Claim, past: Past, appended_at: Timestamp) -> Self {
        Self { epoch: claim.epoch, appended_at, past: [Some(past), None, None, None, None] }
    }

    fn newest(&self) -> Past {
        self.past[0].expect("a producer is remembered for a batch that it wrote")
    }

    fn judge(&self, claim: Claim) -> Judgement {
        if claim.epoch < self.epoch {
            return Judgement::InvalidEpoch { current: self.epoch };
        }
        if claim.epoch > self.epoch {
            return if claim.sequence == Sequence(0) { Judgement::Accept } else { Judgement::OutOfOrder };
        }
        let expected = self.newest().last.plus(1);
        if claim.sequence == expected {
            return Judgement::Accept;
        }
        let same = |past: &&Past| past.first == claim.sequence && past.last == claim.last();
        if let Some(past) = self.past.iter().flatten().find(same) {
            return Judgement::Duplicate { base_offset: past.base_offset, stamp: past.stamp };
        }
        if is_ahead(claim.sequence, expected) || self.precedes_all(claim) {
            return Judgement::OutOfOrder;
        }
        Judgement::DuplicateSequence
    }

    /// Whether the claim ends before the first batch that the producer ever wrote here in this epoch; known only
    /// while all of them are remembered. What they hold is without gaps, so nothing of the claim is written.
    fn precedes_all(&self, claim: Claim) -> bool {
        let full = self.past.iter().all(Option::is_some);
        let oldest = self.past.iter().flatten().last();
        oldest.filter(|_| !full).is_some_and(|oldest| {
            is_ahead(oldest.first, claim.sequence) && is_ahead(oldest.first, claim.last())
        })
    }

    fn record(&mut self, claim: Claim, past: Past, appended_at: Timestamp) {
        if claim.epoch == self.epoch {
            self.past.rotate_right(1);
            self.past[0] = Some(past);
            self.appended_at = appended_at;
        } else {
            *self = Self::first(claim, past, appended_at);
        }
    }
}

/// The producers of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Producers {
    by_id: BTreeMap<ProducerId, Producer>,
    /// By the offset of the newest batch: the one that has not written for the longest time first.
    by_use: BTreeMap<Offset, ProducerId>,
}

impl Producers {
    /// What `claim` is worth. A producer that is not known, and one without an id, may write anything.
    pub(super) fn judge(&self, claim: Claim) -> Judgement {
        match self.by_id.get(&claim.producer) {
            Some(producer) => producer.judge(claim),
            None => Judgement::Accept,
        }
    }

    /// Remembers a batch that was judged [`Judgement::Accept`]; `base_offset` lies behind those of all before.
    pub(super) fn record(
        &mut self,
        claim: Claim,
        base_offset: Offset,
        stamp: Timestamp,
        appended_at: Timestamp,
    ) {
        if claim.producer == ProducerId::NONE {
            return;
        }
        let past = Past { first: claim.sequence, last: claim.last(), base_offset, stamp };
        let producer = match self.by_id.remove(&claim.producer) {
            Some(mut producer) => {
                self.by_use.remove(&producer.newest().base_offset);
                producer.record(claim, past, appended_at);
                producer
            }
            None => Producer::first(claim, past, appended_at),
        };
        self.set(claim.producer, producer);
    }

    /// Forgets those that have been idle for too long before `now`, and those that are too many. Tells how many there
    /// were. By what the log says alone: all replicas forget the same.
    pub(super) fn evict(&mut self, now: Timestamp) -> u64 {
        let idle_before = now.0.saturating_sub(IDLE_MS_MAX);
        let mut forgotten = 0;
        while let Some((_, id)) = self.by_use.first_key_value() {
            let id = *id;
            let idle = self.by_id.get(&id).is_some_and(|producer| producer.appended_at.0 < idle_before);
            if !idle && self.by_id.len() <= PRODUCERS_MAX {
                break;
            }
            self.forget(id);
            forgotten += 1;
        }
        forgotten
    }

    /// What is known of one producer.
    pub(super) fn get(&self, producer: ProducerId) -> Option<&Producer> {
        self.by_id.get(&producer)
    }

    /// How many are known.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Takes over what is known of one producer.
    pub(super) fn set(&mut self, id: ProducerId, producer: Producer) {
        self.by_use.insert(producer.newest().base_offset, id);
        self.by_id.insert(id, producer);
    }

    /// Forgets one producer.
    pub(super) fn forget(&mut self, producer: ProducerId) {
        if let Some(forgotten) = self.by_id.remove(&producer) {
            self.by_use.remove(&forgotten.newest().base_offset);
        }
    }

    pub(super) fn to_wire(&self) -> Vec<v1::ProducerState> {
        let past = |past: &Past| v1::PastBatch {
            first_sequence: past.first.0,
            last_sequence: past.last.0,
            base_offset: past.base_offset.0,
            stamp_ms: past.stamp.0,
        };
        let producer = |id: &ProducerId| {
            let producer = &self.by_id[id];
            v1::ProducerState {
                id: id.0,
                epoch: producer.epoch.0.into(),
                appended_at_ms: producer.appended_at.0,
                past: producer.past.iter().flatten().map(past).collect(),
            }
        };
        self.by_use.values().map(producer).collect()
    }

    pub(super) fn from_wire(producers: &[v1::ProducerState]) -> Result<Self, BadState> {
        let mut read = Self::default();
        for wire in producers {
            let mut past = [None; REMEMBERED];
            if wire.past.is_empty() || wire.past.len() > REMEMBERED {
                return Err(BadState("a producer with an impossible number of batches"));
            }
            for (slot, wire) in past.iter_mut().zip(&wire.past) {
                *slot = Some(Past {
                    first: Sequence(wire.first_sequence),
                    last: Sequence(wire.last_sequence),
                    base_offset: Offset(wire.base_offset),
                    stamp: Timestamp(wire.stamp_ms),
                });
            }
            let epoch = i16::try_from(wire.epoch).map_err(|_| BadState("a producer epoch out of range"))?;
            let appended_at = Timestamp(wire.appended_at_ms);
            let producer = Producer { epoch: ProducerEpoch(epoch), appended_at, past };
            let newest = producer.newest().base_offset;
            let in_order = read.by_use.last_key_value().is_none_or(|(last, _)| *last < newest);
            if !in_order || read.by_id.contains_key(&ProducerId(wire.id)) {
                return Err(BadState("producers out of order"));
            }
            read.set(ProducerId(wire.id), producer);
        }
        Ok(read)
    }
}

/// First batches of producers that were refused and are surely not written.
///
/// A producer that is not known may begin with any sequence. If its first batch was refused, for want of room or of
/// leadership, and its second one taken, order would be lost and the first one never taken again: so the second
/// waits for the first. Kept by the leader for what it refuses, and by apply for what was void.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Firsts(BTreeMap<ProducerId, (ProducerEpoch, Sequence)>);

impl Firsts {
    /// Bounds the memory; producers beyond it only lose this help.
    const REMEMBERED: usize = 1_000;

    /// A batch was refused and may be sent again.
    pub(super) fn refused(&mut self, claim: Claim) {
        if claim.producer == ProducerId::NONE {
            return;
        }
        let earlier = |(epoch, sequence): &(ProducerEpoch, Sequence)| {
            *epoch > claim.epoch || (*epoch == claim.epoch && !is_ahead(*sequence, claim.sequence))
        };
        if self.0.get(&claim.producer).is_some_and(earlier) {
            return;
        }
        if self.0.len() == Self::REMEMBERED && !self.0.contains_key(&claim.producer) {
            self.0.pop_first();
        }
        self.0.insert(claim.producer, (claim.epoch, claim.sequence));
    }

    pub(super) fn to_wire(&self) -> Vec<v1::RefusedFirst> {
        let first = |(producer, (epoch, sequence)): (&ProducerId, &(ProducerEpoch, Sequence))| {
            v1::RefusedFirst { producer: producer.0, epoch: epoch.0.into(), sequence: sequence.0 }
        };
        self.0.iter().map(first).collect()
    }

    pub(super) fn from_wire(firsts: &[v1::RefusedFirst]) -> Result<Self, BadState> {
        let mut read = Self::default();
        for wire in firsts {
            let epoch = i16::try_from(wire.epoch).map_err(|_| BadState("a producer epoch out of range"))?;
            let refused = (ProducerEpoch(epoch), Sequence(wire.sequence));
            if read.0.insert(ProducerId(wire.producer), refused).is_some() {
                return Err(BadState("a producer is there twice"));
            }
        }
        Ok(read)
    }

    /// A batch of the producer was taken.
    pub(super) fn taken(&mut self, producer: ProducerId) {
        self.0.remove(&producer);
    }

    /// Whether an earlier batch of the producer was refused. To be asked of producers that are not known.
    pub(super) fn await_an_earlier(&self, claim: Claim) -> bool {
        let earlier = |(epoch, sequence): &(ProducerEpoch, Sequence)| {
            *epoch == claim.epoch && is_ahead(claim.sequence, *sequence)
        };
        self.0.get(&claim.producer).is_some_and(earlier)
    }
}

/// The [`Firsts`] of a leader, which forgets those that are not sent again: a producer that was forgotten meanwhile may
/// begin with any sequence.
#[derive(Debug, Default)]
pub(super) struct LeaderFirsts {
    firsts: Firsts,
    /// When each of them was refused last.
    noted: BTreeMap<ProducerId, Moment>,
}

impl LeaderFirsts {
    /// A batch was refused at `now` and may be sent again.
    pub(super) fn refused(&mut self, claim: Claim, now: Moment) {
        self.forget_old(claim.producer, now);
        self.firsts.refused(claim);
        if self.firsts.0.get(&claim.producer) == Some(&(claim.epoch, claim.sequence)) {
            self.noted.insert(claim.producer, now);
        }
        if self.noted.len() > 2 * Firsts::REMEMBERED {
            self.noted.retain(|producer, _| self.firsts.0.contains_key(producer));
        }
    }

    /// A batch of the producer was taken.
    pub(super) fn taken(&mut self, producer: ProducerId) {
        self.firsts.taken(producer);
        self.noted.remove(&producer);
    }

    /// To judge a batch of a producer at `now`.
    pub(super) fn as_of(&mut self, producer: ProducerId, now: Moment) -> &Firsts {
        self.forget_old(producer, now);
        &self.firsts
    }

    fn forget_old(&mut self, producer: ProducerId, now: Moment) {
        if self.noted.get(&producer).is_some_and(|noted| now.since(*noted) > SENT_AGAIN_WITHIN) {
            self.taken(producer);
        }
    }
}

/// Whether `sequence` lies ahead of `of`, as sequences wrap.
fn is_ahead(sequence: Sequence, of: Sequence) -> bool {
    sequence != of && distance(of, sequence) < HALF
}

/// From one sequence forward to another.
fn distance(from: Sequence, to: Sequence) -> i64 {
    (i64::from(to.0) - i64::from(from.0)).rem_euclid(1 << 31)
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    fn claim(epoch: i16, sequence: i32, records: u32) -> Claim {
        Claim { producer: ProducerId(7), epoch: ProducerEpoch(epoch), sequence: Sequence(sequence), records }
    }

    /// Lines of `epoch sequence records`; each accepted one is recorded at the next offset.
    fn check(script: &str, expected: Expect) {
        let mut producers = Producers::default();
        let mut next = 0;
        let mut seen = String::new();
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let mut words = line.split_whitespace();
            let mut word = || words.next().expect("three words");
            let epoch = word().parse().expect("an epoch");
            let sequence = word().parse().expect("a sequence");
            let records = word().parse().expect("a count");
            let claim = claim(epoch, sequence, records);
            let judgement = producers.judge(claim);
            if judgement == Judgement::Accept {
                producers.record(claim, Offset(next), Timestamp(0), Timestamp(0));
                writeln!(seen, "{line} -> at {next}").unwrap();
                next += u64::from(records);
            } else {
                writeln!(seen, "{line} -> {judgement:?}").unwrap();
            }
        }
        expected.assert_eq(&seen);
    }

    #[test]
    fn knows_the_last_five_again() {
        check(
            "0 0 2
             0 2 1
             0 3 1
             0 4 1
             0 5 1
             0 0 2
             0 6 1
             0 0 2
             0 2 1
             0 6 1",
            expect![[r#"
                0 0 2 -> at 0
                0 2 1 -> at 2
                0 3 1 -> at 3
                0 4 1 -> at 4
                0 5 1 -> at 5
                0 0 2 -> Duplicate { base_offset: Offset(0), stamp: Timestamp(0) }
                0 6 1 -> at 6
                0 0 2 -> DuplicateSequence
                0 2 1 -> Duplicate { base_offset: Offset(2), stamp: Timestamp(0) }
                0 6 1 -> Duplicate { base_offset: Offset(6), stamp: Timestamp(0) }
            "#]],
        );
    }

    #[test]
    fn a_retry_of_another_shape_is_no_duplicate() {
        check(
            "0 0 4
             0 0 3
             0 2 4
             0 5 1",
            expect![[r"
                0 0 4 -> at 0
                0 0 3 -> DuplicateSequence
                0 2 4 -> DuplicateSequence
                0 5 1 -> OutOfOrder
            "]],
        );
    }

    #[test]
    fn an_unknown_producer_may_begin_anywhere() {
        check(
            "3 90 10
             3 100 1
             3 89 1
             3 89 2
             3 101 1
             3 102 1
             3 89 1
             3 103 1
             3 89 1",
            expect![[r"
                3 90 10 -> at 0
                3 100 1 -> at 10
                3 89 1 -> OutOfOrder
                3 89 2 -> DuplicateSequence
                3 101 1 -> at 11
                3 102 1 -> at 12
                3 89 1 -> OutOfOrder
                3 103 1 -> at 13
                3 89 1 -> DuplicateSequence
            "]],
        );
    }

    #[test]
    fn a_refused_first_that_is_replaced_evicts_nobody() {
        let of = |producer, sequence| Claim { producer: ProducerId(producer), ..claim(0, sequence, 1) };
        let mut firsts = Firsts::default();
        let all = i64::try_from(Firsts::REMEMBERED).unwrap();
        for producer in 0..all {
            firsts.refused(of(producer, 5));
        }
        firsts.refused(of(all - 1, 4));
        assert!(firsts.await_an_earlier(of(all - 1, 5)), "the earlier of two counts");
        assert!(firsts.await_an_earlier(of(0, 6)), "and no other one is forgotten for it");
        firsts.refused(of(all, 5));
        assert!(!firsts.await_an_earlier(of(0, 6)), "one more is one too many");
    }

    #[test]
    fn a_refused_first_that_is_not_sent_again_is_not_waited_for_for_ever() {
        let mut firsts = LeaderFirsts::default();
        let (start, first, second) = (Moment::default(), claim(0, 5, 1), claim(0, 6, 1));
        let producer = first.producer;
        firsts.refused(first, start);
        let later = start + SENT_AGAIN_WITHIN;
        assert!(firsts.as_of(producer, later).await_an_earlier(second));
        // It was sent again, and refused again; what comes behind it does not count as that.
        firsts.refused(first, later);
        let last = later + SENT_AGAIN_WITHIN;
        firsts.refused(second, last);
        assert!(firsts.as_of(producer, last).await_an_earlier(second));
        assert!(!firsts.as_of(producer, last + Duration::from_millis(1)).await_an_earlier(second));
        firsts.refused(second, last + SENT_AGAIN_WITHIN);
        assert!(!firsts.as_of(producer, last + SENT_AGAIN_WITHIN).await_an_earlier(second));
    }

    #[test]
    fn a_newer_epoch_begins_at_zero_and_fences_the_older() {
        check(
            "0 0 1
             1 1 1
             1 0 1
             0 1 1
             1 1 1
             1 0 1",
            expect![[r"
                0 0 1 -> at 0
                1 1 1 -> OutOfOrder
                1 0 1 -> at 1
                0 1 1 -> InvalidEpoch { current: ProducerEpoch(1) }
                1 1 1 -> at 2
                1 0 1 -> Duplicate { base_offset: Offset(1), stamp: Timestamp(0) }
            "]],
        );
    }

    #[test]
    fn sequences_wrap() {
        check(
            "0 2147483645 5
             0 2 1
             0 2147483645 5
             0 2147483640 5
             0 4 1",
            expect![[r"
                0 2147483645 5 -> at 0
                0 2 1 -> at 5
                0 2147483645 5 -> Duplicate { base_offset: Offset(0), stamp: Timestamp(0) }
                0 2147483640 5 -> OutOfOrder
                0 4 1 -> OutOfOrder
            "]],
        );
    }

    #[test]
    fn without_a_producer_id_everything_is_taken() {
        let mut producers = Producers::default();
        let claim = Claim { producer: ProducerId::NONE, ..claim(-1, -1, 3) };
        assert_eq!(producers.judge(claim), Judgement::Accept);
        producers.record(claim, Offset(0), Timestamp(0), Timestamp(0));
        assert_eq!(producers.judge(claim), Judgement::Accept);
        assert_eq!(producers, Producers::default());
    }

    #[test]
    fn the_idle_and_those_too_many_are_forgotten() {
        let of = |producer, sequence| Claim { producer: ProducerId(producer), ..claim(0, sequence, 1) };
        let mut producers = Producers::default();
        let all = i64::try_from(PRODUCERS_MAX).unwrap();
        for producer in 0..all {
            producers.record(
                of(producer, 0),
                Offset(producer.cast_unsigned()),
                Timestamp(0),
                Timestamp(producer),
            );
        }
        assert_eq!(producers.evict(Timestamp(all)), 0);
        // The first one writes again, so that the second one is idle for the longest time.
        producers.record(of(0, 1), Offset(all.cast_unsigned()), Timestamp(0), Timestamp(all));
        producers.record(of(all, 0), Offset(all.cast_unsigned() + 1), Timestamp(0), Timestamp(all));
        assert_eq!(producers.evict(Timestamp(all)), 1);
        assert!(producers.get(ProducerId(0)).is_some() && producers.get(ProducerId(1)).is_none());
        assert_eq!(Producers::from_wire(&producers.to_wire()).as_ref(), Ok(&producers));
        assert_eq!(producers.evict(Timestamp(IDLE_MS_MAX + 5)), 3, "2, 3 and 4");
        assert!(producers.get(ProducerId(4)).is_none() && producers.get(ProducerId(5)).is_some());
        assert_eq!(producers.evict(Timestamp(i64::MAX)), u64::try_from(PRODUCERS_MAX).unwrap() - 3);
        assert_eq!(producers, Producers::default());
    }

    proptest! {
        /// Against the plainest model: a list of everything that was ever accepted, sequences without a bound.
        #[test]
        fn agrees_with_a_list_of_all_that_was_written(
            start in prop_oneof![Just(0_i64), Just((1_i64 << 31) - 20)],
            tries in prop::collection::vec((-30_i64..4, 1_u32..4), 1..60),
        ) {
            let wire = |sequence: i64| i32::try_from(sequence.rem_euclid(1 << 31)).unwrap();
            let mut producers = Producers::default();
            let mut written: Vec<(i64, u32)> = Vec::new();
            let mut expected = start;
            for (shift, records) in tries {
                let sequence = expected + shift;
                let claim = claim(0, wire(sequence), records);
                let recent = written.len().saturating_sub(REMEMBERED);
                let before_all = written.len() < REMEMBERED
                    && written.first().is_some_and(|first| sequence + i64::from(records) <= first.0);
                let model = if written.is_empty() || sequence == expected {
                    Judgement::Accept
                } else if let Some(at) = written[recent..].iter().position(|w| *w == (sequence, records)) {
                    let base = written[..recent + at].iter().map(|(_, records)| u64::from(*records)).sum();
                    Judgement::Duplicate { base_offset: Offset(base), stamp: Timestamp(base.cast_signed()) }
                } else if sequence > expected || before_all {
                    Judgement::OutOfOrder
                } else {
                    Judgement::DuplicateSequence
                };
                prop_assert_eq!(producers.judge(claim), model);
                if model == Judgement::Accept {
                    let base: u64 = written.iter().map(|(_, records)| u64::from(*records)).sum();
                    producers.record(claim, Offset(base), Timestamp(base.cast_signed()), Timestamp(0));
                    written.push((sequence, records));
                    expected = sequence + i64::from(records);
                }
            }
        }
    }
}
