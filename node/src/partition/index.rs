//! Where to begin to read for an offset or a time: a sparse index over the log. Pure.

use quorate_proto::ids::{LogIndex, Offset, Timestamp};
use quorate_proto::v1;

use super::saved::BadState;

/// One point per so many entries: a lookup reads at most this many heads, and a million entries cost half a megabyte.
pub(super) const STRIDE: u32 = 64;

/// Where a run of entries begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Point {
    /// The run's first entry.
    index: LogIndex,
    /// The next offset there.
    offset: Offset,
    /// The largest timestamp from the log's beginning through this run: ascends, whatever clients send, so that it
    /// can be searched; the first run that reaches a time holds the first record of that time.
    newest: Timestamp,
    /// The largest timestamp of this run alone.
    own_newest: Timestamp,
    /// Bytes of all batches before it, those included that the log has lost since.
    bytes_before: u64,
}

/// A run, as whoever decides what is kept sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Its first entry.
    pub(super) index: LogIndex,
    /// The offset behind its last batch.
    pub(super) end: Offset,
    /// Its largest timestamp.
    pub(super) newest: Timestamp,
    /// Bytes of all batches up to its end.
    pub(super) bytes_through: u64,
}

/// Runs of at most [`STRIDE`] entries, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct OffsetIndex {
    points: Vec<Point>,
    /// Entries in the last run.
    filled: u32,
}

impl OffsetIndex {
    /// Adds the batch at `index`, whose first record has `offset`, and before which batches of so many bytes were
    /// added. Only entries with an offset are added.
    pub(super) fn add(
        &mut self,
        index: LogIndex,
        offset: Offset,
        max_timestamp: Timestamp,
        bytes_before: u64,
    ) {
        let newest = self.points.last().map_or(max_timestamp, |point| point.newest.max(max_timestamp));
        match self.points.last_mut() {
            Some(point) if self.filled < STRIDE => {
                point.newest = newest;
                point.own_newest = point.own_newest.max(max_timestamp);
                self.filled += 1;
            }
            Some(_) | None => {
                self.points.push(Point { index, offset, newest, own_newest: max_timestamp, bytes_before });
                self.filled = 1;
            }
        }
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
            newest = newest.max(point.own_newest);
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
            newest: point.own_newest,
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
        };
        (self.points.iter().map(run).collect(), self.filled)
    }

    pub(super) fn from_wire(runs: &[v1::IndexRun], filled: u32) -> Result<Self, BadState> {
        let point = |run: &v1::IndexRun| Point {
            index: LogIndex(run.index),
            offset: Offset(run.offset),
            newest: Timestamp(run.newest_ms),
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

    /// From where to read heads to find the first batch with a timestamp at or after `at`; `None` if there is none. What
    /// is found may lie before the log start.
    pub(super) fn at_time(&self, at: Timestamp) -> Option<LogIndex> {
        let run = self.points.partition_point(|point| point.newest < at);
        self.points.get(run).map(|point| point.index)
    }

    /// The offset of the first batch of the run that holds `index`, and the largest timestamp before that run: at or
    /// before what stands at `index`. `None` if it lies before all.
    pub(super) fn before(&self, index: LogIndex) -> Option<(Offset, Option<Timestamp>)> {
        let at = self.points.partition_point(|point| point.index <= index).checked_sub(1)?;
        let newest = at.checked_sub(1).map(|before| self.points[before].newest);
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
                index.add(LogIndex(at), Offset(offset), Timestamp(time), offset * 10);
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
                let from = index.at_time(Timestamp(time));
                let start = from.map(|from| log.iter().position(|(at, _, _)| LogIndex(*at) == from).unwrap());
                prop_assert_eq!(start.is_some(), wanted.is_some());
                if let (Some(start), Some(wanted)) = (start, wanted) {
                    prop_assert!(start <= wanted && wanted - start < stride);
                }
            }
        }
    }
}
