//! The applied state as bytes, for checkpoints. Pure: the same state gives the same bytes on every replica.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use quorate_proto::ids::{LogIndex, Offset, Timestamp};
use quorate_proto::v1;
use thiserror::Error;

use super::dedup::{Firsts, Producers};
use super::epochs::Epochs;
use super::index::OffsetIndex;
use super::state::State;

/// The rules by which entries are applied. What is saved by another version cannot be gone on from.
const VERSION: u32 = 1;

/// Bytes that are no state of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not the state of a partition: {0}")]
pub(super) struct BadState(pub(super) &'static str);

impl State {
    /// All of it.
    pub(super) fn encode(&self) -> Bytes {
        let (runs, last_run_batches) = self.index.to_wire();
        let state = v1::PartitionState {
            version: VERSION,
            next_index: self.next_index.0,
            next_offset: self.next_offset.0,
            log_start: self.log_start.0,
            accepted_bytes: self.applied_bytes,
            appended_at_ms: self.appended_at.0,
            epochs: self.epochs.to_wire(),
            producers: self.producers.to_wire(),
            refused_firsts: self.firsts.to_wire(),
            runs,
            last_run_batches,
            voids: self.voids.iter().map(|index| index.0).collect(),
            forgotten_producers: self.forgotten,
        };
        state.encode_to_vec().into()
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`BadState`] for anything that [`State::encode`] does not write.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, BadState> {
        let state = v1::PartitionState::decode(bytes).map_err(|_| BadState("it cannot be read"))?;
        if state.version != VERSION {
            return Err(BadState("another version wrote it"));
        }
        let voids: BTreeSet<_> = state.voids.iter().copied().map(LogIndex).collect();
        let is_empty = state.log_start == state.next_offset;
        let holds = |run: &v1::IndexRun| run.offset <= state.log_start && run.index < state.next_index;
        if voids.len() != state.voids.len()
            || state.log_start > state.next_offset
            || !(is_empty || state.runs.first().is_some_and(holds))
        {
            return Err(BadState("its parts do not fit"));
        }
        Ok(Self {
            next_index: LogIndex(state.next_index),
            next_offset: Offset(state.next_offset),
            log_start: Offset(state.log_start),
            applied_bytes: state.accepted_bytes,
            appended_at: Timestamp(state.appended_at_ms),
            producers: Producers::from_wire(&state.producers)?,
            firsts: Firsts::from_wire(&state.refused_firsts)?,
            epochs: Epochs::from_wire(&state.epochs)?,
            index: OffsetIndex::from_wire(&state.runs, state.last_run_batches)?,
            voids,
            forgotten: state.forgotten_producers,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quorate_proto::ids::{GroupId, ProducerEpoch, ProducerId, Sequence, Term};

    use super::*;
    use crate::partition::command::Command;
    use crate::storage::{Head, Kind, LogId};

    #[derive(Clone, Debug)]
    enum Step {
        /// A batch of a producer, sometimes out of place.
        Batch {
            producer: i64,
            records: u32,
            shift: u64,
            time: i64,
        },
        NewTerm,
        SetLogStart(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let shift = prop_oneof![6 => Just(0_u64), 1 => 1_u64..4];
        let step = prop_oneof![
            20 => (-1_i64..5, 1_u32..4, shift, -50_i64..50)
                .prop_map(|(producer, records, shift, time)| Step::Batch { producer, records, shift, time }),
            1 => Just(Step::NewTerm),
            2 => (0_u64..400).prop_map(Step::SetLogStart),
        ];
        prop::collection::vec(step, 1..400)
    }

    fn apply(state: &mut State, term: &mut u64, step: &Step) {
        let id = LogId { term: Term(*term), index: state.next_index };
        let mut head = Head { body_bytes: 10, ..Head::without_offset(GroupId(1), id, Kind::Blank) };
        match step {
            Step::Batch { producer, records, shift, time } => {
                head.kind = Kind::Batch;
                head.base_offset = Offset(state.next_offset.0 + shift);
                head.records = *records;
                head.producer_id = ProducerId(*producer);
                head.max_timestamp = Timestamp(*time);
                head.appended_at = Timestamp(*time);
                if *producer >= 0 {
                    head.producer_epoch = ProducerEpoch(0);
                    // One record of each producer to a batch of it, or now and then a gap.
                    head.sequence = Sequence(i32::try_from(state.next_offset.0 % 7).unwrap());
                }
                state.apply(&head);
            }
            Step::NewTerm => {
                *term += 1;
                head.term = Term(*term);
                state.apply(&head);
            }
            Step::SetLogStart(offset) => {
                head.kind = Kind::Command;
                state.obey(&head, Command::SetLogStart { offset: Offset(*offset) });
            }
        }
    }

    #[test]
    fn a_state_without_the_runs_that_it_must_have_is_refused() {
        let state = State { next_offset: Offset(5), ..State::default() };
        assert_eq!(State::decode(&state.encode()), Err(BadState("its parts do not fit")));
        let state = State { log_start: Offset(5), ..state };
        assert_eq!(State::decode(&state.encode()), Ok(state));
    }

    /// What is trimmed goes by it.
    #[test]
    fn about_as_many_bytes_are_saved_as_is_said() {
        let mut state = State::default();
        for at in 0..64_000_u64 {
            let id = LogId { term: Term(3), index: LogIndex(at + 1_000) };
            let time = Timestamp(1_700_000_000_000 + i64::try_from(at).unwrap());
            let head = Head {
                base_offset: Offset(at),
                records: 1,
                producer_id: ProducerId(i64::try_from(10_000 + at % 1_000).unwrap()),
                producer_epoch: ProducerEpoch(0),
                sequence: Sequence(i32::try_from(at / 1_000).unwrap()),
                max_timestamp: time,
                appended_at: time,
                body_bytes: 1_000,
                ..Head::without_offset(GroupId(1), id, Kind::Batch)
            };
            state.apply(&head);
        }
        assert_eq!(state.next_offset, Offset(64_000));
        assert_eq!((state.index.len(), state.producers.len()), (1_000, 1_000));
        let saved = u64::try_from(state.encode().len()).unwrap();
        let said = state.saved_bytes();
        assert!((saved / 2..=saved * 2).contains(&said), "{said} is said of {saved}");
    }

    proptest! {
        /// A state as of an entry, and what comes behind that, is what all entries make.
        #[test]
        fn goes_on_from_any_entry_as_if_it_had_applied_all(steps in steps(), cut in 0_usize..400) {
            let (mut all, mut term) = (State::default(), 1);
            let mut saved = None;
            for (number, step) in steps.iter().enumerate() {
                if number == cut % steps.len() {
                    saved = Some((all.encode(), term, number));
                }
                apply(&mut all, &mut term, step);
            }
            let (bytes, mut term, from) = saved.unwrap();
            let mut resumed = State::decode(&bytes).unwrap();
            for step in &steps[from..] {
                apply(&mut resumed, &mut term, step);
            }
            prop_assert_eq!(resumed.encode(), all.encode());
            prop_assert_eq!(resumed, all);
        }

        /// Whatever is flipped in it, it is refused or read, and never a panic.
        #[test]
        fn flipped_bits_are_refused_or_read(steps in steps(), flips in prop::collection::vec((0_usize..100_000, 0_u8..8), 1..4)) {
            let (mut state, mut term) = (State::default(), 1);
            steps.iter().for_each(|step| apply(&mut state, &mut term, step));
            let mut bytes = state.encode().to_vec();
            for (at, bit) in flips {
                let at = at % bytes.len();
                bytes[at] ^= 1 << bit;
            }
            drop(State::decode(&bytes));
        }
    }
}
