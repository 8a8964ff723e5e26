//! Where to begin to read for an offset or a time: a sparse index over the log. Pure.

use quorate_proto::ids::{LogIndex, Offset, Timestamp};

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
}

/// Runs of at most [`STRIDE`] entries, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct OffsetIndex {
    points: Vec<Point>,
    /// Entries in the last run.
    filled: u32,
}

impl OffsetIndex {
    /// Adds the batch at `index`, whose first record has `offset`. Only entries with an offset are added.
    pub(super) fn add(&mut self, index: LogIndex, offset: Offset, max_timestamp: Timestamp) {
        let newest = self.points.last().map_or(max_timestamp, |point| point.newest.max(max_timestamp));
        match self.points.last_mut() {
            Some(point) if self.filled < STRIDE => {
                point.newest = newest;
                self.filled += 1;
            }
            Some(_) | None => {
                self.points.push(Point { index, offset, newest });
                self.filled = 1;
            }
        }
    }

    /// From where to read heads to find the batch that holds `offset`; `None` if it lies before all.
    pub(super) fn at_offset(&self, offset: Offset) -> Option<LogIndex> {
        let after = self.points.partition_point(|point| point.offset <= offset);
        Some(self.points[after.checked_sub(1)?].index)
    }

    /// From where to read heads to find the first batch with a timestamp at or after `at`; `None` if there is none.
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
                index.add(LogIndex(at), Offset(offset), Timestamp(time));
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
