//! Where to begin to read for an offset or a time: a sparse index over the log. Pure.

use quorate_proto::ids::{LogIndex, Offset, Timestamp};
use quorate_proto::v1;

use super::saved::BadState;

/// One point per so many entries: a lookup reads hardly more heads than this, and a million entries cost less than a
/// megabyte.
pub(super) const STRIDE: u32 = 64;

/// Most runs: a state is saved whole, and sent. With more, neighbours become one, so that the runs of four million batches
/// and more are longer, and a lookup among them reads more heads: see [`OffsetIndex::thin`].
const RUNS_MAX: usize = 1 << 16;

/// Where a run of entries begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Point {
    /// The run's first entry.
    index: LogIndex,
    /// The next offset there.
    offset: Offset,
    /// The largest timestamp from the log's beginning through this run: ascends, whatever clients send, so that it
    /// can be searched. The first run that reaches a time holds the first record of that time, unless that was before
    /// the log start: then the next run does whose own timestamp reaches it.
    newest: Timestamp,
    /// The largest timestamp of this run alone; at least that, if whoever saved the state took no note of it.
    own_stamp: Timestamp,
    /// The largest time of this run alone from which the age of a batch counts. [`Timestamp::NONE`] if its batches have
    /// no timestamp and whoever saved the state took no note of when they were appended.
    own_newest: Timestamp,
    /// Bytes of all batches before it, those included that the log has lost since.
    bytes_before: u64,
}

impl Point {
    /// One run of this one and the next.
    fn and(self, next: Self) -> Self {
        let is_unknown = self.own_newest == Timestamp::NONE || next.own_newest == Timestamp::NONE;
        let own_newest = if is_unknown { Timestamp::NONE } else { self.own_newest.max(next.own_newest) };
        Self {
            newest: self.newest.max(next.newest),
            own_stamp: self.own_stamp.max(next.own_stamp),
            own_newest,
            ..self
        }
    }
}

/// A run, as whoever decides what is kept sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Its first entry.
    pub(super) index: LogIndex,
    /// The offset behind its last batch.
    pub(super) end: Offset,
    /// The largest time from which the age of its batches counts; the end of all time if that is not known.
    pub(super) newest: Timestamp,
    /// Bytes of all batches before it.
    pub(super) bytes_before: u64,
    /// Bytes of all batches up to its end.
    pub(super) bytes_through: u64,
}

/// Runs in order, of at most [`STRIDE`] entries each, unless they are so many that some were made one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct OffsetIndex {
    points: Vec<Point>,
    /// Entries in the last run.
    filled: u32,
}

impl OffsetIndex {
    /// Adds the batch at `index`, whose first record has `offset`, whose age counts from `counted_from`, and before which
    /// batches of so many bytes were added. Only entries with an offset are added.
    pub(super) fn add(
        &mut self,
        index: LogIndex,
        offset: Offset,
        max_timestamp: Timestamp,
        counted_from: Timestamp,
        bytes_before: u64,
    ) {
        let newest = self.points.last().map_or(max_timestamp, |point| point.newest.max(max_timestamp));
        match self.points.last_mut() {
            Some(point) if self.filled < STRIDE => {
                point.newest = newest;
                point.own_stamp = point.own_stamp.max(max_timestamp);
                point.own_newest = point.own_newest.max(counted_from);
                self.filled += 1;
            }
            Some(_) | None => {
                let (own_stamp, own_newest) = (max_timestamp, counted_from);
                self.points.push(Point { index, offset, newest, own_stamp, own_newest, bytes_before });
                self.filled = 1;
                // On every replica alike: it follows from the entries alone.
                self.thin(RUNS_MAX);
            }
        }
    }

    /// Where there are more than `runs_max` runs, makes neighbours one that together have at most four times the
    /// entries that `runs_max` equal runs would have: no more than half as many are left, and two. The last one is not full,
    /// and stays. One that is longer already is left as it is: if it grew with the others, it would never lie before the
    /// log start as a whole, and each read from it would begin at its beginning.
    pub(super) fn thin(&mut self, runs_max: usize) {
        if self.points.len() <= runs_max {
            return;
        }
        let Some(last) = self.points.pop() else { return };
        let first = self.points.first().map_or(last.index, |first| first.index);
        let parts = u64::try_from(runs_max / 4).unwrap_or(u64::MAX).max(1);
        let longest = (last.index.0 - first.0) / parts;
        let points = std::mem::take(&mut self.points);
        let ends: Vec<LogIndex> = points.iter().skip(1).map(|next| next.index).chain([last.index]).collect();
        for (point, end) in points.into_iter().zip(ends) {
            match self.points.last_mut() {
                Some(before) if end.0 - before.index.0 <= longest => *before = before.and(point),
                Some(_) | None => self.points.push(point),
            }
        }
        self.points.push(last);
    }

    /// How many runs there are.
    pub(super) fn len(&self) -> usize {
        self.points.len()
    }

    /// Forgets the runs that lie before the log start; `end` is the offset behind the last batch.
    pub(super) fn trim(&mut self, log_start: Offset, end: Offset) {
        let after = match log_start < end {
            true => self.points.partition_point(|point| point.offset <= log_start).saturating_sub(1),
            false => self.points.len(),
        };
        self.points.drain(..after);
        if self.points.is_empty() {
            self.filled = 0;
        }
        let mut newest = Timestamp(i64::MIN);
        for point in &mut self.points {
            newest = newest.max(point.own_stamp);
            point.newest = newest;
        }
    }

    /// The first entry of the first run.
    pub(super) fn first(&self) -> Option<LogIndex> {
        self.points.first().map(|point| point.index)
    }

    /// Its runs in order; `end` and `bytes` are those behind the last batch.
    pub(super) fn runs(&self, end: Offset, bytes: u64) -> impl Iterator<Item = Run> {
        let ends = self.points.iter().skip(1).map(|next| (next.offset, next.bytes_before));
        self.points.iter().zip(ends.chain([(end, bytes)])).map(|(point, (end, bytes_through))| Run {
            index: point.index,
            end,
            newest: match point.own_newest {
                Timestamp::NONE => Timestamp(i64::MAX),
                newest => newest,
            },
            bytes_before: point.bytes_before,
            bytes_through,
        })
    }

    pub(super) fn to_wire(&self) -> (Vec<v1::IndexRun>, u32) {
        let run = |point: &Point| v1::IndexRun {
            index: point.index.0,
            offset: point.offset.0,
            newest_ms: point.newest.0,
            own_newest_ms: point.own_newest.0,
            bytes_before: point.bytes_before,
            own_stamp_ms: Some(point.own_stamp.0),
        };
        (self.points.iter().map(run).collect(), self.filled)
    }

    pub(super) fn from_wire(runs: &[v1::IndexRun], filled: u32) -> Result<Self, BadState> {
        let point = |run: &v1::IndexRun| Point {
            index: LogIndex(run.index),
            offset: Offset(run.offset),
            newest: Timestamp(run.newest_ms),
            // When something was appended is no record's timestamp, but is no earlier than one where there is one.
            own_stamp: Timestamp(run.own_stamp_ms.unwrap_or(run.own_newest_ms.min(run.newest_ms))),
            own_newest: Timestamp(run.own_newest_ms),
            bytes_before: run.bytes_before,
        };
        let points: Vec<_> = runs.iter().map(point).collect();
        let ascend = |pair: &[Point]| {
            pair[0].index < pair[1].index
                && pair[0].offset < pair[1].offset
                && pair[0].newest <= pair[1].newest
                && pair[0].bytes_before <= pair[1].bytes_before
        };
        if !points.windows(2).all(ascend) {
            return Err(BadState("runs out of order"));
        }
        if filled > STRIDE || points.is_empty() != (filled == 0) {
            return Err(BadState("a run of an impossible length"));
        }
        Ok(Self { points, filled })
    }

    /// From where to read heads to find the batch that holds `offset`; `None` if it lies before all.
    pub(super) fn at_offset(&self, offset: Offset) -> Option<LogIndex> {
        let after = self.points.partition_point(|point| point.offset <= offset);
        Some(self.points[after.checked_sub(1)?].index)
    }

    /// From where to read heads to find the first batch with a timestamp at or after `at`, of what lies at `from` or
    /// behind it; `None` if there is none. What is found may lie before the log start: it is to be asked again, from
    /// behind what was read in vain.
    pub(super) fn at_time(&self, at: Timestamp, from: LogIndex) -> Option<LogIndex> {
        let first = self.points.partition_point(|point| point.newest < at);
        let holds_from = self.points.partition_point(|point| point.index <= from).saturating_sub(1);
        let mut runs = self.points.iter().skip(first.max(holds_from));
        runs.find(|point| point.own_stamp >= at).map(|point| point.index.max(from))
    }

    /// The offset of the first batch of the run that holds `index`: at or before what stands at `index`. And the largest
    /// timestamp before that run, or, where that is later, the newest time from which the age of a batch of the run
    /// before it counts: batches may have no timestamp. `None` if it lies before all.
    pub(super) fn before(&self, index: LogIndex) -> Option<(Offset, Option<Timestamp>)> {
        let at = self.points.partition_point(|point| point.index <= index).checked_sub(1)?;
        let before = at.checked_sub(1).map(|before| &self.points[before]);
        let newest = before.map(|before| before.newest.max(before.own_newest));
        Some((self.points[at].offset, newest))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn leads_at_most_a_stride_before_what_a_walk_would_find(
            batches in prop::collection::vec((1_u64..3, 1_u64..50, -100_i64..100), 1..400),
            asked in prop::collection::vec((0_u64..10_000, -120_i64..120), 20),
        ) {
            let mut index = OffsetIndex::default();
            let mut log = Vec::new();
            let (mut at, mut offset) = (0, 0);
            for (skip, records, time) in batches {
                at += skip;
                index.add(LogIndex(at), Offset(offset), Timestamp(time), Timestamp(time), offset * 10);
                log.push((at, offset, time));
                offset += records;
            }
            let end = offset;
            let stride = usize::try_from(STRIDE).unwrap();
            for (offset, time) in asked {
                let offset = offset % end;
                let wanted = log.partition_point(|(_, base, _)| *base <= offset) - 1;
                let from = index.at_offset(Offset(offset)).unwrap();
                let start = log.iter().position(|(at, _, _)| LogIndex(*at) == from).unwrap();
                prop_assert!(start <= wanted && wanted - start < stride);

                let wanted = log.iter().position(|(_, _, newest)| *newest >= time);
                let from = index.at_time(Timestamp(time), LogIndex(0));
                let start = from.map(|from| log.iter().position(|(at, _, _)| LogIndex(*at) == from).unwrap());
                prop_assert_eq!(start.is_some(), wanted.is_some());
                if let (Some(start), Some(wanted)) = (start, wanted) {
                    prop_assert!(start <= wanted && wanted - start < stride);
                }
            }
        }

        #[test]
        fn leads_to_a_time_also_past_what_has_none_and_behind_trims(
            times in times(),
            log_starts in prop::collection::vec(0_usize..600, 1..4),
            asked in prop::collection::vec(-120_i64..120, 20),
            saved in any::<bool>(),
        ) {
            let mut index = OffsetIndex::default();
            add(&mut index, 0, &times);
            let mut log_starts: Vec<_> = log_starts.into_iter().map(|at| at % times.len()).collect();
            log_starts.sort_unstable();
            for log_start in log_starts {
                trim(&mut index, log_start, times.len());
                if saved {
                    let (runs, filled) = index.to_wire();
                    let read = OffsetIndex::from_wire(&runs, filled);
                    prop_assert_eq!(read.as_ref(), Ok(&index));
                    index = read.unwrap();
                }
                for time in &asked {
                    let (found, read) = walk(&index, &times, log_start, *time);
                    prop_assert_eq!(found, wanted(&times, log_start, *time));
                    // The run of the log start, of which something is gone, and the one that it is in.
                    prop_assert!(read <= 2 * usize::try_from(STRIDE).unwrap());
                }
            }
        }

        /// Where there were so many that neighbours are one run.
        #[test]
        fn leads_to_the_same_through_runs_made_one(
            times in times(),
            halved_at in 0_usize..600,
            log_start in 0_usize..600,
            asked in prop::collection::vec(-120_i64..120, 20),
        ) {
            let (before, after) = times.split_at(halved_at % times.len());
            let mut index = OffsetIndex::default();
            add(&mut index, 0, before);
            let runs = index.len();
            index.thin(8);
            let left_max = if runs > 8 { 8 / 2 + 2 } else { runs };
            prop_assert!(index.len() <= left_max);
            add(&mut index, before.len(), after);
            let log_start = log_start % times.len();
            trim(&mut index, log_start, times.len());
            let (runs, filled) = index.to_wire();
            let decoded = OffsetIndex::from_wire(&runs, filled);
            prop_assert_eq!(decoded.as_ref(), Ok(&index));
            for time in asked {
                prop_assert_eq!(walk(&index, &times, log_start, time).0, wanted(&times, log_start, time));
            }
            let (stride, longest) = (u64::from(STRIDE), u64::try_from(before.len() / 2).unwrap());
            for offset in (u64::try_from(log_start).unwrap()..).take(times.len() - log_start) {
                let from = index.at_offset(Offset(offset)).unwrap().0;
                prop_assert!(from <= offset && offset - from < stride.max(longest));
            }
        }

        /// Somebody who took no note of what has a timestamp: it is found, if not as fast.
        #[test]
        fn leads_to_a_time_by_what_was_saved_without_the_timestamps_of_runs(
            times in times(),
            saved_at in 0_usize..600,
            (first, then) in (0_usize..600, 0_usize..600),
            asked in prop::collection::vec(-120_i64..120, 20),
        ) {
            let (before, after) = times.split_at(1 + saved_at % times.len());
            let first = first % before.len();
            let mut index = OffsetIndex::default();
            add(&mut index, 0, before);
            trim(&mut index, first, before.len());
            let (mut runs, filled) = index.to_wire();
            runs.iter_mut().for_each(|run| run.own_stamp_ms = None);
            let mut index = OffsetIndex::from_wire(&runs, filled).unwrap();
            add(&mut index, before.len(), after);
            let log_start = first.max(then % times.len());
            trim(&mut index, log_start, times.len());
            for time in asked {
                prop_assert_eq!(walk(&index, &times, log_start, time).0, wanted(&times, log_start, time));
            }
        }
    }

    /// Of batches of one record each. Often whole runs have no timestamp.
    fn times() -> impl Strategy<Value = Vec<i64>> {
        let part = prop_oneof![
            prop::collection::vec(prop_oneof![Just(-1_i64), 0_i64..100], 1..100),
            (1_usize..200).prop_map(|count| vec![-1_i64; count]),
        ];
        prop::collection::vec(part, 1..5).prop_map(|parts| parts.concat())
    }

    /// Adds batches behind so many that were added.
    fn add(index: &mut OffsetIndex, before: usize, times: &[i64]) {
        for (at, time) in (u64::try_from(before).unwrap()..).zip(times) {
            let time = Timestamp(*time);
            // All were appended later than any of these times.
            let counted_from = if time == Timestamp::NONE { Timestamp(1_000) } else { time };
            index.add(LogIndex(at), Offset(at), time, counted_from, at * 10);
        }
    }

    /// Trims it to one of `count` batches.
    fn trim(index: &mut OffsetIndex, log_start: usize, count: usize) {
        let offset = |at: usize| Offset(u64::try_from(at).unwrap());
        index.trim(offset(log_start), offset(count));
    }

    /// The first batch at the log start or behind it that is at or after a time.
    fn wanted(times: &[i64], log_start: usize, time: i64) -> Option<usize> {
        (log_start..times.len()).find(|at| times[*at] >= time)
    }

    /// What a lookup finds, a few heads at a time, and how many it reads for that.
    fn walk(index: &OffsetIndex, times: &[i64], log_start: usize, time: i64) -> (Option<usize>, usize) {
        let (mut from, mut read) = (LogIndex(0), 0);
        while let Some(first) = index.at_time(Timestamp(time), from) {
            let first = usize::try_from(first.0).unwrap();
            if first >= times.len() {
                break;
            }
            let end = times.len().min(first + 8);
            read += end - first;
            if let Some(found) = wanted(&times[..end], log_start.max(first), time) {
                return (Some(found), read);
            }
            from = LogIndex(u64::try_from(end).unwrap());
        }
        (None, read)
    }

    #[test]
    fn runs_are_never_too_many() {
        let mut index = OffsetIndex::default();
        let batches = u64::try_from(RUNS_MAX).unwrap() * u64::from(STRIDE);
        for at in 0..=batches {
            index.add(LogIndex(at), Offset(at), Timestamp(0), Timestamp(0), at);
            assert!(index.len() <= RUNS_MAX);
        }
        assert_eq!((index.len(), index.filled), (RUNS_MAX / 4 + 1, 1));
        let runs: Vec<_> = index.runs(Offset(batches + 1), batches + 1).collect();
        assert!(runs.windows(2).all(|pair| pair[0].end.0 == pair[1].index.0), "nothing lies between them");
        assert_eq!(index.at_offset(Offset(batches)), Some(LogIndex(batches)));
    }

    /// With and without trims, and going on from runs as long as those that were once made.
    #[test]
    fn no_run_grows_with_the_log_however_often_there_were_too_many() {
        const MOST: usize = 64;
        let runs_max = u64::try_from(MOST).unwrap();
        for kept in [None, Some(8_192_u64)] {
            let mut index = OffsetIndex::default();
            let (mut thinned, mut log_start, mut at) = (0, 0_u64, 0_u64);
            // Records are of ascending times, but for every seventh.
            let time = |at: u64| i64::try_from(if at.is_multiple_of(7) { at / 2 } else { at }).unwrap();
            while thinned < 50 {
                index.add(LogIndex(at), Offset(at), Timestamp(time(at)), Timestamp(time(at)), at * 10);
                at += 1;
                if let Some(kept) = kept
                    && at.is_multiple_of(100)
                {
                    log_start = at.saturating_sub(kept);
                    index.trim(Offset(log_start), Offset(at));
                }
                if index.len() <= MOST {
                    continue;
                }
                index.thin(MOST);
                thinned += 1;
                assert!(index.len() <= MOST / 2 + 2, "{} runs", index.len());
                let runs: Vec<_> = index.runs(Offset(at), at * 10).collect();
                assert!(runs[0].index.0 <= log_start);
                let longest = 8 * (at - runs[0].index.0) / runs_max;
                for run in &runs {
                    let length = run.end.0 - run.index.0;
                    assert!(length <= longest, "{length} of {at} at the {thinned}. time");
                    // What retention goes by.
                    let newest = (run.index.0..run.end.0).map(time).max().unwrap();
                    assert_eq!(run.newest, Timestamp(newest));
                    assert_eq!((run.bytes_before, run.bytes_through), (run.index.0 * 10, run.end.0 * 10));
                }
                assert!(runs.windows(2).all(|pair| pair[0].end.0 == pair[1].index.0));
                assert_eq!(runs.last().unwrap().end, Offset(at));
                for offset in (log_start..at).step_by(97) {
                    let from = index.at_offset(Offset(offset)).unwrap().0;
                    assert!(from <= offset && offset - from < longest);
                    let found = index.at_time(Timestamp(time(offset)), LogIndex(log_start)).unwrap().0;
                    assert!(found <= offset, "what is of that time is not passed over");
                }
            }
        }
        // A single long run, as it was made once: it stays as it is, and goes once all of it lies before the log start.
        let mut index = OffsetIndex::default();
        index.add(LogIndex(0), Offset(0), Timestamp(0), Timestamp(0), 0);
        index.filled = STRIDE;
        for at in 1_000_000..1_010_000 {
            index.add(LogIndex(at), Offset(at), Timestamp(0), Timestamp(0), at);
            index.thin(MOST);
        }
        let runs: Vec<_> = index.runs(Offset(1_010_000), 1_010_000).collect();
        assert_eq!((runs[0].index, runs[0].end), (LogIndex(0), Offset(1_000_000)));
        assert_eq!(index.at_offset(Offset(999_999)), Some(LogIndex(0)));
        index.trim(Offset(1_009_000), Offset(1_010_000));
        assert!(index.first().unwrap() >= LogIndex(1_000_000));
    }

    #[test]
    fn runs_made_one_do_not_know_an_age_that_one_of_them_does_not() {
        let point = |own_newest| Point {
            index: LogIndex(1),
            offset: Offset(1),
            newest: Timestamp(9),
            own_stamp: Timestamp(5),
            own_newest: Timestamp(own_newest),
            bytes_before: 1,
        };
        assert_eq!(point(7).and(point(8)).own_newest, Timestamp(8));
        assert_eq!(point(7).and(point(-1)).own_newest, Timestamp::NONE);
        assert_eq!(point(-1).and(point(7)).own_newest, Timestamp::NONE);
    }

    #[test]
    fn what_has_no_timestamp_counts_from_its_append_and_is_of_no_time() {
        fn newest(index: &OffsetIndex) -> Vec<i64> {
            index.runs(Offset(3), 30).map(|run| run.newest.0).collect()
        }
        let mut index = OffsetIndex::default();
        for at in 0..3 {
            index.add(LogIndex(at), Offset(at), Timestamp::NONE, Timestamp(500), at * 10);
        }
        for log_start in 0..2 {
            index.trim(Offset(log_start), Offset(3));
            assert_eq!(newest(&index), [500]);
            assert_eq!(index.at_time(Timestamp(0), LogIndex(0)), None);
        }
        let (mut runs, filled) = index.to_wire();
        assert_eq!(OffsetIndex::from_wire(&runs, filled), Ok(index));
        runs[0].own_newest_ms = -1;
        let index = OffsetIndex::from_wire(&runs, filled).unwrap();
        assert_eq!(newest(&index), [i64::MAX], "saved by somebody who did not note when they were appended");
    }
}
