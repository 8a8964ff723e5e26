//! What of a partition is kept, by its topic's retention. Pure: the leader reads the clock, and what it decides goes
//! through the log.

use quorate_proto::ids::{Offset, Timestamp};

use crate::metadata::Retention;
use crate::storage::Head;

/// Some of a log's oldest batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// The offset behind them.
    pub(super) end: Offset,
    /// The newest of the times from which their age counts: see [`counted_from`].
    pub(super) newest: Timestamp,
    /// Bytes of all batches up to their end, from the partition's first one on.
    pub(super) bytes_through: u64,
}

/// When the oldest batch that is kept may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// At this time, if ever for its age.
    pub(super) at: Option<Timestamp>,
    /// Once there are so many bytes from the partition's first batch on, if ever for their number.
    pub(super) bytes: Option<u64>,
}

/// The time from which a batch's age counts: its newest timestamp, as in Kafka. Of one that has none, when it was appended,
/// by its leader's clock; Kafka takes when the segment's file was written last.
pub(super) fn counted_from(head: &Head) -> Timestamp {
    if head.max_timestamp == Timestamp::NONE { head.appended_at } else { head.max_timestamp }
}

/// Whether a piece may go, `bytes` being those of all batches from the partition's first one on. Kafka's rules: what is
/// older than `ms` goes, and what is not needed for what is left to be at least `bytes`.
pub(super) fn goes(piece: &Piece, bytes: u64, retention: Retention, now: Timestamp) -> bool {
    let too_old = retention.ms.is_some_and(|ms| {
        let age = i128::from(now.0) - i128::from(piece.newest.0);
        ms == 0 || age > i128::from(ms)
    });
    let left = bytes.saturating_sub(piece.bytes_through);
    too_old || retention.bytes.is_some_and(|kept| left >= kept)
}

/// The offset behind the last of the oldest pieces that may go; `None` if none may. A younger one never goes before an
/// older.
pub(super) fn expired(
    pieces: impl Iterator<Item = Piece>,
    bytes: u64,
    retention: Retention,
    now: Timestamp,
) -> Option<Offset> {
    pieces.take_while(|piece| goes(piece, bytes, retention, now)).last().map(|piece| piece.end)
}

/// When a piece that is kept now, the oldest one, may go.
pub(super) fn due(oldest: &Piece, retention: Retention) -> Due {
    let age = |ms: u64| i64::try_from(ms).map_or(i64::MAX, |ms| oldest.newest.0.saturating_add(ms));
    Due {
        at: retention.ms.map(|ms| Timestamp(age(ms))),
        bytes: retention.bytes.map(|kept| oldest.bytes_through.saturating_add(kept)),
    }
}

impl Due {
    /// Whether it is time.
    pub(super) fn is_now(self, now: Timestamp, bytes: u64) -> bool {
        self.at.is_some_and(|at| now >= at) || self.bytes.is_some_and(|due| bytes >= due)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// Lines of `batch newest=T bytes=N` (each of one record), then `keep ms=T bytes=N now=T`; - is no bound. Gives the
    /// log start, and when to look again.
    fn check(script: &str, expected: Expect) {
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        let mut seen = String::new();
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let value = |name: &str| {
                let word = line.split_whitespace().find_map(|word| word.strip_prefix(name));
                word.unwrap_or_else(|| panic!("{name} in {line}"))
            };
            if line.starts_with("batch") {
                bytes += value("bytes=").parse::<u64>().unwrap();
                let newest = Timestamp(value("newest=").parse().unwrap());
                pieces.push(Piece { end: Offset(pieces.len() as u64 + 1), newest, bytes_through: bytes });
                continue;
            }
            let bound =
                |name| Some(value(name)).filter(|word| *word != "-").map(|word| word.parse().unwrap());
            let retention = Retention { ms: bound("ms="), bytes: bound("bytes=") };
            let now = Timestamp(value("now=").parse().unwrap());
            let start = expired(pieces.iter().copied(), bytes, retention, now);
            let kept = pieces.iter().find(|piece| start.is_none_or(|start| piece.end > start));
            let due = kept.map(|oldest| due(oldest, retention));
            if let Some(due) = due {
                assert!(!due.is_now(Timestamp(now.0 - 1), bytes) || retention.ms == Some(0), "{line}");
            }
            let start = start.map_or("none".to_owned(), |start| start.to_string());
            let shown = due.map(|due| (due.at.map(|at| at.0), due.bytes));
            seen += &format!("{line} -> {start}, due {shown:?}\n");
        }
        expected.assert_eq(&seen);
    }

    #[test]
    fn what_is_too_old_goes_oldest_first() {
        check(
            "batch newest=100 bytes=10
             batch newest=90 bytes=10
             batch newest=300 bytes=10
             batch newest=50 bytes=10
             keep ms=- bytes=- now=10000
             keep ms=100 bytes=- now=200
             keep ms=100 bytes=- now=201
             keep ms=100 bytes=- now=400
             keep ms=100 bytes=- now=401
             keep ms=0 bytes=- now=0",
            expect![[r"
                keep ms=- bytes=- now=10000 -> none, due Some((None, None))
                keep ms=100 bytes=- now=200 -> none, due Some((Some(200), None))
                keep ms=100 bytes=- now=201 -> 2, due Some((Some(400), None))
                keep ms=100 bytes=- now=400 -> 2, due Some((Some(400), None))
                keep ms=100 bytes=- now=401 -> 4, due None
                keep ms=0 bytes=- now=0 -> 4, due None
            "]],
        );
    }

    #[test]
    fn what_is_left_is_never_less_than_what_is_to_be_kept() {
        check(
            "batch newest=0 bytes=10
             batch newest=0 bytes=30
             batch newest=0 bytes=10
             keep ms=- bytes=51 now=9
             keep ms=- bytes=50 now=9
             keep ms=- bytes=41 now=9
             keep ms=- bytes=40 now=9
             keep ms=- bytes=11 now=9
             keep ms=- bytes=10 now=9
             keep ms=- bytes=0 now=9
             keep ms=5 bytes=1000 now=9",
            expect![[r"
                keep ms=- bytes=51 now=9 -> none, due Some((None, Some(61)))
                keep ms=- bytes=50 now=9 -> none, due Some((None, Some(60)))
                keep ms=- bytes=41 now=9 -> none, due Some((None, Some(51)))
                keep ms=- bytes=40 now=9 -> 1, due Some((None, Some(80)))
                keep ms=- bytes=11 now=9 -> 1, due Some((None, Some(51)))
                keep ms=- bytes=10 now=9 -> 2, due Some((None, Some(60)))
                keep ms=- bytes=0 now=9 -> 3, due None
                keep ms=5 bytes=1000 now=9 -> 3, due None
            "]],
        );
    }

    #[test]
    fn no_number_is_too_large() {
        let piece = Piece { end: Offset(1), newest: Timestamp(i64::MIN), bytes_through: u64::MAX };
        let all = Retention { ms: Some(u64::MAX), bytes: Some(u64::MAX) };
        assert_eq!(expired([piece].into_iter(), 0, all, Timestamp(i64::MAX)), None);
        assert_eq!(due(&piece, all), Due { at: Some(Timestamp(i64::MAX)), bytes: Some(u64::MAX) });
    }
}
