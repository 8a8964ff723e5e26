//! Duplicates, offsets and void entries against a model of what can go wrong around them: pipelined producers that
//! try again, leaders that change and lose a suffix, refusals, and leaders that begin anew too early. Pure.

use std::collections::BTreeMap;

use proptest::prelude::*;
use quorate_proto::ids::{GroupId, LogIndex, Offset, ProducerEpoch, ProducerId, Sequence, Term, Timestamp};

use super::dedup::{Claim, Firsts};
use super::state::{Applied, State};
use super::tail::{Refused, Tail, Verdict};
use crate::storage::{Head, Kind};

/// As many as a producer may have in flight; what is remembered must not be less.
const WINDOW: usize = 5;
const BATCHES: usize = 12;

#[derive(Clone, Debug)]
enum Step {
    /// A producer sends all that it may; the leader refuses those of the bits set, for want of room. Those of the
    /// other bits it proposes, and Raft refuses them, but not those that were queued behind them.
    Send { producer: usize, refused: u8, slipped: u8 },
    /// So many entries are committed and applied.
    Commit(usize),
    /// Another leader: of what was not committed it has the first so many entries.
    NewLeader { kept: usize },
    /// The leader begins anew from applied state.
    BeginAnew,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0_usize..3, prop_oneof![2 => Just(0), 1 => any::<u8>()], prop_oneof![4 => Just(0), 1 => any::<u8>()])
            .prop_map(|(producer, refused, slipped)| Step::Send { producer, refused, slipped }),
        4 => (1_usize..8).prop_map(Step::Commit),
        1 => (0_usize..6).prop_map(|kept| Step::NewLeader { kept }),
        1 => Just(Step::BeginAnew),
    ];
    prop::collection::vec(step, 1..80)
}

/// A producer: batches in order, at most [`WINDOW`] sent and not acknowledged.
#[derive(Default)]
struct Producer {
    acked: BTreeMap<usize, Offset>,
    next: usize,
}

impl Producer {
    fn first_unacked(&self) -> usize {
        (0..BATCHES).find(|batch| !self.acked.contains_key(batch)).unwrap_or(BATCHES)
    }
}

struct World {
    /// The leader begins anew with entries of its own still in the log, which it never should.
    hasty: bool,
    state: State,
    firsts: Firsts,
    tail: Tail,
    /// Raft has refused something: nothing is proposed until the rest has its answer.
    draining: bool,
    /// Appended and not applied, each with whose it is, if its proposer still waits for it.
    log: Vec<(Head, Option<(usize, usize)>)>,
    next_index: u64,
    term: u64,
    producers: Vec<Producer>,
    /// Accepted, in order of their offsets.
    written: Vec<(usize, usize, Offset)>,
}

/// Sizes differ, so that sequences and offsets do.
fn records(batch: usize) -> u32 {
    1 + u32::try_from(batch % 3).unwrap()
}

fn claim(producer: usize, batch: usize) -> Claim {
    let sequence: u32 = (0..batch).map(records).sum();
    Claim {
        producer: ProducerId(i64::try_from(producer).unwrap()),
        epoch: ProducerEpoch(0),
        sequence: Sequence(sequence.cast_signed()),
        records: records(batch),
    }
}

impl World {
    fn new(hasty: bool) -> Self {
        let state = State::default();
        Self {
            hasty,
            tail: Tail::new(Term(1), &state),
            state,
            firsts: Firsts::default(),
            draining: false,
            log: Vec::new(),
            next_index: 0,
            term: 1,
            producers: (0..3).map(|_| Producer::default()).collect(),
            written: Vec::new(),
        }
    }

    fn append(&mut self, claim: Claim, base_offset: Offset, whose: (usize, usize)) {
        let head = Head {
            group: GroupId(1),
            index: LogIndex(self.next_index),
            term: Term(self.term),
            kind: Kind::Batch,
            base_offset,
            records: claim.records,
            producer_id: claim.producer,
            producer_epoch: claim.epoch,
            sequence: claim.sequence,
            max_timestamp: Timestamp(0),
            appended_at: Timestamp(0),
            body_bytes: 1,
            body_crc: 0,
        };
        self.next_index += 1;
        self.log.push((head, Some(whose)));
    }

    fn send(&mut self, producer: usize, mut refused: u8, mut slipped: u8) -> Result<(), TestCaseError> {
        let first = self.producers[producer].first_unacked();
        let end = BATCHES.min(first + WINDOW);
        let mut again = false;
        let mut lost = Vec::new();
        for batch in self.producers[producer].next.max(first)..end {
            let claim = claim(producer, batch);
            let (refuse, slip) = (self.draining || refused & 1 == 1, slipped & 1 == 1);
            (refused, slipped) = (refused >> 1, slipped >> 1);
            if refuse {
                self.firsts.refused(claim);
                again = true;
                continue;
            }
            match self.tail.judge(&self.state, &self.firsts, claim) {
                Verdict::Propose { base_offset } => {
                    self.tail.proposed(&self.state, claim, Timestamp(0));
                    self.firsts.taken(claim.producer);
                    if slip {
                        lost.push(claim);
                    } else {
                        self.append(claim, base_offset, (producer, batch));
                    }
                }
                Verdict::Again { base_offset, .. } => {
                    let flying = self.log.iter_mut().find(|(head, whose)| {
                        whose.is_some()
                            && head.base_offset == base_offset
                            && head.producer_id == claim.producer
                    });
                    match flying {
                        Some((_, whose)) => *whose = Some((producer, batch)),
                        None => {
                            self.producers[producer].acked.insert(batch, base_offset);
                        }
                    }
                }
                Verdict::Refuse(Refused::OutOfOrder) => again = true,
                Verdict::Refuse(Refused::DuplicateSequence) if self.hasty => {}
                Verdict::Refuse(refused @ (Refused::DuplicateSequence | Refused::InvalidEpoch { .. })) => {
                    return Err(TestCaseError::fail(format!("{producer}/{batch}: {refused:?}")));
                }
            }
        }
        for claim in lost {
            self.firsts.refused(claim);
            (self.draining, again) = (true, true);
        }
        // Whatever was refused is sent again, in order, from the first one that has no answer.
        self.producers[producer].next = if again { 0 } else { end };
        Ok(())
    }

    fn commit(&mut self, count: usize) {
        let mut anew = false;
        for (head, whose) in self.log.drain(..count.min(self.log.len())) {
            let applied = self.state.apply(&head);
            if let Applied::Accepted { base_offset } = applied {
                let producer = usize::try_from(head.producer_id.0).unwrap();
                let batch = (0..BATCHES).find(|batch| claim(producer, *batch).sequence == head.sequence);
                self.written.push((producer, batch.unwrap(), base_offset));
            }
            let Some((producer, batch)) = whose else { continue };
            match applied {
                Applied::Accepted { base_offset } => {
                    if !self.draining {
                        self.tail.landed(head.producer_id);
                    }
                    self.producers[producer].acked.insert(batch, base_offset);
                }
                Applied::Void | Applied::NoBatch => {
                    anew = true;
                    self.producers[producer].next = 0;
                }
            }
        }
        self.draining |= anew;
        if self.draining && self.log.is_empty() {
            self.begin_anew();
        }
    }

    /// Nobody waits for what is in the log any more: its outcome is unknown, and its producers try again.
    fn begin_anew(&mut self) {
        for (_, whose) in &mut self.log {
            *whose = None;
        }
        for producer in &mut self.producers {
            producer.next = 0;
        }
        self.tail = Tail::new(Term(self.term), &self.state);
        self.draining = false;
    }

    fn new_leader(&mut self, kept: usize) {
        self.log.truncate(kept);
        self.next_index = self.log.last().map_or(self.state.next_index.0, |(head, _)| head.index.0 + 1);
        self.begin_anew();
        // It serves nothing before an entry of its own term is applied, hence all before it.
        self.commit(kept);
        self.term += 1;
        self.firsts = Firsts::default();
        self.tail = Tail::new(Term(self.term), &self.state);
    }

    fn written_by(&self, producer: usize) -> Vec<(usize, Offset)> {
        let of_it = self.written.iter().filter(|(by, ..)| *by == producer);
        of_it.map(|(_, batch, base_offset)| (*batch, *base_offset)).collect()
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let mut next = Offset(0);
        for (_, batch, base_offset) in &self.written {
            prop_assert_eq!(*base_offset, next, "offsets are dense");
            next = next.plus(records(*batch));
        }
        for (number, producer) in self.producers.iter().enumerate() {
            let written = self.written_by(number);
            prop_assert!(written.is_sorted_by_key(|(batch, _)| *batch), "in order: {:?}", written);
            let places: BTreeMap<usize, Offset> = written.iter().copied().collect();
            prop_assert_eq!(places.len(), written.len(), "none is there twice");
            for (batch, acked) in &producer.acked {
                prop_assert_eq!(places.get(batch), Some(acked));
            }
        }
        Ok(())
    }

    fn run(&mut self, steps: Vec<Step>) -> Result<(), TestCaseError> {
        for step in steps {
            match step {
                Step::Send { producer, refused, slipped } => self.send(producer, refused, slipped)?,
                Step::Commit(count) => self.commit(count),
                Step::NewLeader { kept } => self.new_leader(kept),
                Step::BeginAnew => {
                    if !self.hasty {
                        self.commit(usize::MAX);
                    }
                    self.begin_anew();
                }
            }
        }
        // Then nothing goes wrong any more: all is written in a few rounds.
        for _ in 0..3 * BATCHES {
            for producer in 0..self.producers.len() {
                self.producers[producer].next = 0;
                self.send(producer, 0, 0)?;
            }
            self.commit(usize::MAX);
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn every_batch_is_there_once_in_order_where_its_ack_said(steps in steps()) {
        let mut world = World::new(false);
        world.run(steps)?;
        world.check()?;
        for number in 0..world.producers.len() {
            let there: Vec<usize> = world.written_by(number).iter().map(|(batch, _)| *batch).collect();
            prop_assert_eq!(there, (0..BATCHES).collect::<Vec<_>>());
            prop_assert_eq!(world.producers[number].acked.len(), BATCHES);
        }
    }

    /// A leader that begins anew too early may cost a producer its first batches: they are refused for ever. Never
    /// is one there twice, or elsewhere than acknowledged.
    #[test]
    fn apply_proves_what_a_hasty_leader_assigns(steps in steps()) {
        let mut world = World::new(true);
        world.run(steps)?;
        world.check()?;
    }
}
