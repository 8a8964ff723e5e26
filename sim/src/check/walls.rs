//! What wall clocks have told, as it was seen: between which times something was stamped.

use std::time::Duration;

/// The wall clocks of all nodes. In ms, as they show it.
#[derive(Debug, Default)]
pub(super) struct Walls(Vec<Shown>);

#[derive(Debug)]
struct Shown {
    at: Duration,
    /// The earliest time that any has told since the sight before, or since an earlier one.
    oldest: i64,
    /// The latest time that any has ever told.
    newest: i64,
}

impl Walls {
    /// They were seen at `at`, which is never earlier than before.
    pub(super) fn see(&mut self, at: Duration, oldest: i64, newest: i64) {
        let newest = self.latest().map_or(newest, |latest| latest.max(newest));
        self.0.push(Shown { at, oldest, newest });
    }

    /// The latest time that any has told so far; `None` if none was seen.
    pub(super) fn latest(&self) -> Option<i64> {
        self.0.last().map(|shown| shown.newest)
    }

    /// Nobody was told an earlier time between the two moments; `None` if that was not seen.
    pub(super) fn earliest_between(&self, since: Duration, until: Duration) -> Option<i64> {
        let first = self.0.partition_point(|shown| shown.at < since);
        // What was told last before `until` is in the first sight behind it.
        let end = self.0.partition_point(|shown| shown.at <= until).saturating_add(1).min(self.0.len());
        self.0.get(first..end)?.iter().map(|shown| shown.oldest).min()
    }

    /// Nobody was told a later time until then; `None` if that was not seen yet.
    pub(super) fn latest_until(&self, until: Duration) -> Option<i64> {
        self.0.get(self.0.partition_point(|shown| shown.at <= until)).map(|shown| shown.newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_lies_between_what_was_seen_around_it() {
        let ms = Duration::from_millis;
        let mut walls = Walls::default();
        assert_eq!((walls.latest(), walls.earliest_between(ms(0), ms(9))), (None, None));
        for (at, oldest, newest) in [(10, 100, 200), (20, 50, 900), (30, 60, 70), (40, 55, 80)] {
            walls.see(ms(at), oldest, newest);
        }
        assert_eq!(walls.latest(), Some(900), "it was told once");
        assert_eq!(walls.earliest_between(ms(0), ms(5)), Some(100));
        assert_eq!(walls.earliest_between(ms(10), ms(10)), Some(50));
        assert_eq!(walls.earliest_between(ms(21), ms(29)), Some(60));
        assert_eq!(walls.earliest_between(ms(21), ms(99)), Some(55));
        assert_eq!(walls.earliest_between(ms(41), ms(99)), None);
        assert_eq!(walls.latest_until(ms(5)), Some(200));
        assert_eq!(walls.latest_until(ms(10)), Some(900));
        assert_eq!(walls.latest_until(ms(40)), None);
    }
}
