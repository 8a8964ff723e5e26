//! What a replica knows of its partition from the entries applied so far. Pure: heads only, no clock.

use std::collections::BTreeSet;
use std::ops::Range;

use quorate_proto::ids::{LeaderEpoch, LogIndex, Offset, Timestamp};

use super::command::Command;
use super::dedup::{Claim, Firsts, Judgement, Producers};
use super::epochs::Epochs;
use super::index::OffsetIndex;
use super::retention::counted_from;
use crate::storage::{Head, Kind};

/// The applied state: the same on every replica that has applied as much.
///
/// `log_start <= next_offset`; offsets are dense in between.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct State {
    /// Entries below it are applied; a log begins at 0.
    pub(super) next_index: LogIndex,
    /// Offset of the next record: the high watermark.
    pub(super) next_offset: Offset,
    /// First offset that can be read.
    pub(super) log_start: Offset,
    /// Body bytes of all batches that were ever accepted.
    pub(super) applied_bytes: u64,
    /// The largest `appended_at` so far.
    pub(super) appended_at: Timestamp,
    pub(super) producers: Producers,
    /// Producers that are not known, of whom a batch was void.
    pub(super) firsts: Firsts,
    pub(super) epochs: Epochs,
    pub(super) index: OffsetIndex,
    /// Batches without an offset, from the first run of the index on.
    pub(super) voids: BTreeSet<LogIndex>,
    /// Producers that were forgotten so far.
    pub(super) forgotten: u64,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// No batch: takes an index and no offset.
    NoBatch,
    /// Its records have their offsets.
    Accepted { base_offset: Offset },
    /// A batch out of place: takes an index and no offset, and is never read.
    Void,
}

/// Where a run of batches lies in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Behind {
    /// Its entries, and those without an offset behind it.
    pub(super) range: Range<LogIndex>,
    /// Bytes of all batches before it, from the partition's first one on.
    pub(super) bytes_before: u64,
    /// The same up to its end.
    pub(super) bytes_through: u64,
}

/// The producer's side of an entry.
pub(super) fn claim_of(head: &Head) -> Claim {
    Claim {
        producer: head.producer_id,
        epoch: head.producer_epoch,
        sequence: head.sequence,
        records: head.records,
    }
}

impl State {
    /// Applies an entry. A batch is accepted only if it begins at the next offset and its sequence fits: whatever
    /// its leader believed, offsets stay dense and no record is there twice.
    ///
    /// # Panics
    /// If an entry is applied twice or out of order, or is a command: see [`State::obey`].
    pub(super) fn apply(&mut self, head: &Head) -> Applied {
        self.begin(head);
        match head.kind {
            Kind::Batch => {}
            Kind::Blank | Kind::Membership => return Applied::NoBatch,
            Kind::Command => unreachable!("a command is applied with its body"),
        }
        let claim = claim_of(head);
        let unknown = self.producers.get(claim.producer).is_none();
        if head.base_offset != self.next_offset
            || head.records == 0
            || self.producers.judge(claim) != Judgement::Accept
            || (unknown && self.firsts.await_an_earlier(claim))
        {
            if unknown {
                self.firsts.refused(claim);
            }
            self.voids.insert(head.index);
            return Applied::Void;
        }
        let bytes_before = self.applied_bytes;
        self.index.add(head.index, head.base_offset, head.max_timestamp, counted_from(head), bytes_before);
        self.firsts.taken(claim.producer);
        self.appended_at = self.appended_at.max(head.appended_at);
        self.producers.record(claim, head.base_offset, head.max_timestamp, self.appended_at);
        self.forgotten += self.producers.evict(self.appended_at);
        self.next_offset = head.base_offset.plus(head.records);
        self.applied_bytes += u64::from(head.body_bytes);
        Applied::Accepted { base_offset: head.base_offset }
    }

    /// Applies a command. The log start never goes back, nor past the next offset; what lies before it is forgotten,
    /// whether or not the log still holds it, so that replicas that trim at different times stay equal.
    ///
    /// # Panics
    /// If an entry is applied twice or out of order.
    pub(super) fn obey(&mut self, head: &Head, command: Command) {
        self.begin(head);
        match command {
            Command::SetLogStart { offset } => {
                let log_start = offset.min(self.next_offset);
                if log_start <= self.log_start {
                    return;
                }
                self.log_start = log_start;
                self.index.trim(log_start, self.next_offset);
                self.epochs.trim(log_start);
                self.voids = match self.index.first() {
                    Some(first) => self.voids.split_off(&first),
                    None => BTreeSet::new(),
                };
            }
        }
    }

    /// The first run of the index that holds something behind `kept`.
    pub(super) fn run_behind(&self, kept: Offset) -> Option<Behind> {
        let runs = self.index.runs(self.next_offset, self.applied_bytes);
        let mut runs = runs.skip_while(|run| run.end <= kept);
        let run = runs.next()?;
        let end = runs.next().map_or(self.next_index, |next| next.index);
        let (bytes_before, bytes_through) = (run.bytes_before, run.bytes_through);
        Some(Behind { range: run.index..end, bytes_before, bytes_through })
    }

    /// About how many bytes it takes when it is saved, without making them.
    pub(super) fn saved_bytes(&self) -> u64 {
        let bytes = self.index.len() * 42 + self.producers.len() * 150 + self.voids.len() * 5;
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    fn begin(&mut self, head: &Head) {
        assert!(head.index >= self.next_index, "entries are applied in order, each once");
        self.next_index = head.index.next();
        self.epochs.note(head.term, self.next_offset);
    }

    /// Where an epoch ended: [`Epochs::end_of`]; one that lies before the log start ended where the oldest that is
    /// known begins, as Kafka answers.
    pub(super) fn epoch_end(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let trimmed = || self.epochs.first_start().filter(|_| self.log_start > Offset(0));
        self.epochs.end_of(epoch, self.next_offset).or_else(|| trimmed().map(|start| (epoch, start)))
    }

    /// Whether a batch of the log, already applied and not before the log start, has offsets.
    pub(super) fn is_void(&self, index: LogIndex) -> bool {
        self.voids.contains(&index)
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use expect_test::{Expect, expect};
    use quorate_proto::ids::{GroupId, ProducerEpoch, ProducerId, Sequence, Term};

    use super::*;
    use crate::storage::LogId;

    /// `term blank`, `term batch base_offset records [producer sequence]` or `term start offset`; indexes count from 0.
    fn check(script: &str, expected: Expect) -> State {
        let mut state = State::default();
        let mut seen = String::new();
        let lines = script.lines().map(str::trim).filter(|line| !line.is_empty());
        for (index, line) in (0..).zip(lines) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| words.get(at).map(|word| word.parse::<u32>().unwrap());
            let head = Head {
                group: GroupId(1),
                index: LogIndex(index),
                term: Term(number(0).unwrap().into()),
                kind: if words[1] == "batch" { Kind::Batch } else { Kind::Blank },
                base_offset: Offset(number(2).unwrap_or(0).into()),
                records: number(3).unwrap_or(0),
                producer_id: number(4).map_or(ProducerId::NONE, |id| ProducerId(id.into())),
                producer_epoch: ProducerEpoch(if words.len() > 4 { 0 } else { -1 }),
                sequence: Sequence(number(5).map_or(-1, u32::cast_signed)),
                max_timestamp: Timestamp(0),
                appended_at: Timestamp(0),
                body_bytes: 100,
                body_crc: 0,
            };
            if words[1] == "start" {
                let offset = Offset(number(2).unwrap().into());
                state.obey(&Head { kind: Kind::Command, ..head }, Command::SetLogStart { offset });
                writeln!(seen, "{line} -> log start {}", state.log_start).unwrap();
                continue;
            }
            let applied = state.apply(&head);
            writeln!(seen, "{line} -> {applied:?}, next {}", state.next_offset).unwrap();
        }
        expected.assert_eq(&seen);
        state
    }

    #[test]
    fn takes_only_what_lies_at_the_next_offset() {
        let state = check(
            "1 blank
             1 batch 0 3
             1 batch 4 1
             1 batch 0 3
             1 batch 3 2
             2 blank
             2 batch 4 1
             2 batch 5 1",
            expect![[r"
                1 blank -> NoBatch, next 0
                1 batch 0 3 -> Accepted { base_offset: Offset(0) }, next 3
                1 batch 4 1 -> Void, next 3
                1 batch 0 3 -> Void, next 3
                1 batch 3 2 -> Accepted { base_offset: Offset(3) }, next 5
                2 blank -> NoBatch, next 5
                2 batch 4 1 -> Void, next 5
                2 batch 5 1 -> Accepted { base_offset: Offset(5) }, next 6
            "]],
        );
        assert_eq!(state.applied_bytes, 300);
        assert!(state.is_void(LogIndex(2)) && !state.is_void(LogIndex(4)));
        assert_eq!(state.epochs.end_of(LeaderEpoch(1), Offset(6)), Some((LeaderEpoch(1), Offset(5))));
    }

    #[test]
    fn the_log_start_only_rises_and_never_past_the_end() {
        let state = check(
            "1 batch 0 3
             1 batch 9 1
             2 batch 3 2
             2 start 4
             2 start 2
             3 batch 5 1
             3 start 90
             3 batch 6 1",
            expect![[r"
                1 batch 0 3 -> Accepted { base_offset: Offset(0) }, next 3
                1 batch 9 1 -> Void, next 3
                2 batch 3 2 -> Accepted { base_offset: Offset(3) }, next 5
                2 start 4 -> log start 4
                2 start 2 -> log start 4
                3 batch 5 1 -> Accepted { base_offset: Offset(5) }, next 6
                3 start 90 -> log start 6
                3 batch 6 1 -> Accepted { base_offset: Offset(6) }, next 7
            "]],
        );
        assert_eq!(state.index.at_offset(Offset(6)), Some(LogIndex(7)), "what lies before is forgotten");
        assert!(!state.is_void(LogIndex(1)));
        assert_eq!(state.epoch_end(LeaderEpoch(1)), Some((LeaderEpoch(1), Offset(5))));
        assert_eq!(state.epoch_end(LeaderEpoch(3)), Some((LeaderEpoch(3), Offset(7))));
    }

    /// On every replica alike, whether it has applied all or goes on from what was saved.
    #[test]
    fn a_batch_without_a_timestamp_is_as_old_as_its_append() {
        let mut state = State::default();
        for (index, max_timestamp, appended_at) in [(0, 10, 500), (1, -1, 600), (2, 20, 700)] {
            let head = Head {
                group: GroupId(1),
                index: LogIndex(index),
                term: Term(1),
                kind: Kind::Batch,
                base_offset: Offset(index),
                records: 1,
                producer_id: ProducerId::NONE,
                producer_epoch: ProducerEpoch(-1),
                sequence: Sequence(-1),
                max_timestamp: Timestamp(max_timestamp),
                appended_at: Timestamp(appended_at),
                body_bytes: 100,
                body_crc: 0,
            };
            state.apply(&head);
        }
        let check = |state: &State, newest: i64| {
            let runs = state.index.runs(state.next_offset, state.applied_bytes);
            assert_eq!(runs.map(|run| run.newest.0).collect::<Vec<_>>(), [newest]);
            assert_eq!(state.index.at_time(Timestamp(20), LogIndex(0)), Some(LogIndex(0)));
            let later = state.index.at_time(Timestamp(21), LogIndex(0));
            assert_eq!(later, None, "its append is no timestamp");
        };
        check(&state, 600);
        let id = LogId { term: Term(1), index: LogIndex(3) };
        let start = Head {
            appended_at: Timestamp(800),
            body_bytes: 10,
            ..Head::without_offset(GroupId(1), id, Kind::Command)
        };
        state.obey(&start, Command::SetLogStart { offset: Offset(1) });
        check(&state, 600);
        let saved = State::decode(&state.encode()).unwrap();
        check(&saved, 600);
        assert_eq!(saved, state);
    }

    #[test]
    fn a_batch_that_slipped_through_twice_is_there_once() {
        check(
            "1 batch 0 2 7 0
             1 batch 2 2 7 0
             1 batch 2 1 7 3
             1 batch 2 1 7 2
             1 batch 3 1",
            expect![[r"
                1 batch 0 2 7 0 -> Accepted { base_offset: Offset(0) }, next 2
                1 batch 2 2 7 0 -> Void, next 2
                1 batch 2 1 7 3 -> Void, next 2
                1 batch 2 1 7 2 -> Accepted { base_offset: Offset(2) }, next 3
                1 batch 3 1 -> Accepted { base_offset: Offset(3) }, next 4
            "]],
        );
    }
}
