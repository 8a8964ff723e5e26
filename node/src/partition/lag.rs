//! How far the other replicas of a partition are behind its leader. Pure, but for what manager and replica hand in.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::ids::{LogIndex, NodeId, Timestamp};

use super::manager::PartitionManager;
use super::state::State;
use crate::env::metrics::Lag;
use crate::storage::{Head, Kind};

/// Replicas that lack more entries are judged by the sparse index: somewhat more than what they lack.
const EXACT_MAX: u64 = 1_000;

impl PartitionManager {
    /// How far each peer's replicas are behind, of the partitions that this node leads, together; who lacks nothing is
    /// absent. Looks at memory only.
    pub fn lags(&self) -> BTreeMap<NodeId, Lag> {
        let mut lags = BTreeMap::<_, Lag>::new();
        for replica in self.groups().into_iter().filter_map(|group| self.replica_of(group)) {
            for (node, more) in replica.lags() {
                let lag = lags.entry(node).or_default();
                lag.replicas += more.replicas;
                lag.records += more.records;
                lag.time = lag.time.max(more.time);
            }
        }
        lags
    }
}

/// How far each replica is behind what is applied here, given the last entry that it is known to hold; those that lack
/// no record are absent. `recent` gives the heads from an index on that are in memory. The time counts from when the
/// leader appended the first batch that is missing. If its head is not in memory, it counts from the newest timestamp
/// that was before it, or from when batches without one were appended if that was later; it is 0 if there were none.
pub(super) fn of(
    matched: impl IntoIterator<Item = (NodeId, Option<LogIndex>)>,
    state: &State,
    wall: Timestamp,
    recent: impl Fn(LogIndex) -> Vec<Head>,
) -> Vec<(NodeId, Lag)> {
    let behind = |(node, last): (NodeId, Option<LogIndex>)| {
        let next = last.map_or(LogIndex(0), LogIndex::next);
        let missing = state.next_index.0.checked_sub(next.0).filter(|missing| *missing > 0)?;
        let heads = if missing <= EXACT_MAX { recent(next) } else { Vec::new() };
        let (records, since) = if heads.first().is_some_and(|first| first.index == next) {
            let batches = heads.iter().filter(|head| {
                head.kind == Kind::Batch && head.index < state.next_index && !state.is_void(head.index)
            });
            let since = batches.clone().map(|head| head.appended_at).next();
            (batches.map(|head| u64::from(head.records)).sum::<u64>(), since)
        } else {
            let (offset, newest) = state.index.before(next).unwrap_or((state.log_start, None));
            let since = newest.filter(|newest| *newest > Timestamp::NONE);
            (state.next_offset.0.saturating_sub(offset.max(state.log_start).0), since)
        };
        let ms = since.map_or(0, |since| wall.0.saturating_sub(since.0));
        let time = Duration::from_millis(u64::try_from(ms).unwrap_or(0));
        (records > 0).then_some((node, Lag { replicas: 1, records, time }))
    };
    matched.into_iter().filter_map(behind).collect()
}

#[cfg(test)]
mod tests {
    use quorate_proto::ids::{GroupId, Offset, ProducerEpoch, ProducerId, Sequence, Term};

    use super::*;

    /// `batches` batches of two records each behind a blank, appended a second apart.
    fn log(batches: u64) -> (State, Vec<Head>) {
        let head = |index: u64| Head {
            group: GroupId(1),
            index: LogIndex(index),
            term: Term(1),
            kind: if index == 0 { Kind::Blank } else { Kind::Batch },
            base_offset: Offset(2 * index.saturating_sub(1)),
            records: if index == 0 { 0 } else { 2 },
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch(-1),
            sequence: Sequence(-1),
            max_timestamp: Timestamp(1_000 * i64::try_from(index).unwrap()),
            appended_at: Timestamp(1_000 * i64::try_from(index).unwrap()),
            body_bytes: 100,
            body_crc: 0,
        };
        let heads: Vec<_> = (0..=batches).map(head).collect();
        let mut state = State::default();
        for head in &heads {
            state.apply(head);
        }
        (state, heads)
    }

    fn lag(
        state: &State,
        heads: &[Head],
        matched: Option<u64>,
        in_memory: u64,
        wall: i64,
    ) -> Option<(u64, u64)> {
        let matched = [(NodeId(2), matched.map(LogIndex))];
        let recent = |from: LogIndex| {
            let from = from.max(LogIndex(in_memory));
            heads.iter().filter(|head| head.index >= from).copied().collect::<Vec<_>>()
        };
        let found = of(matched, state, Timestamp(wall), recent);
        found.first().map(|(_, lag)| (lag.records, lag.time.as_secs()))
    }

    #[test]
    fn what_is_in_memory_is_counted_and_the_rest_estimated() {
        let (state, heads) = log(300);
        let check = |matched, in_memory, expected| {
            assert_eq!(lag(&state, &heads, matched, in_memory, 310_000), expected, "{matched:?} {in_memory}");
        };
        check(Some(300), 0, None);
        check(Some(400), 0, None);
        check(Some(299), 0, Some((2, 10)));
        check(Some(290), 0, Some((20, 19)));
        check(None, 0, Some((600, 309)));
        // Not in memory: the run of 64 entries that it lies in is counted whole.
        check(Some(290), 295, Some((88, 54)));
        check(None, 295, Some((600, 0)));
    }

    #[test]
    fn where_nothing_has_a_timestamp_it_counts_from_an_append() {
        let (_, mut heads) = log(300);
        let mut state = State::default();
        for head in &mut heads {
            head.max_timestamp = Timestamp::NONE;
            state.apply(head);
        }
        assert_eq!(lag(&state, &heads, Some(290), 0, 310_000), Some((20, 19)));
        assert_eq!(lag(&state, &heads, Some(290), 295, 310_000), Some((88, 54)));
        assert_eq!(lag(&state, &heads, None, 295, 310_000), Some((600, 0)));
    }

    #[test]
    fn a_blank_alone_is_nothing_to_wait_for() {
        let (state, heads) = log(0);
        assert_eq!(lag(&state, &heads, None, 0, 1_000), None);
        let (_, none) = log(0);
        assert_eq!(lag(&State::default(), &none, None, 0, 1_000), None);
    }
}
