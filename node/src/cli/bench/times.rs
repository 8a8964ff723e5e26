//! Times that were measured, kept with three digits from a microsecond to an hour.

use std::time::Duration;

use comfy_table::Table;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cli::output::{plain_table, rounded};

/// The longest time that is told from longer ones.
const TIME_MAX: Duration = Duration::from_secs(3_600);

/// A distribution of times.
pub(super) struct Times(Histogram<u64>);

/// Milliseconds at or below which so much of a distribution lies; all 0 if nothing was measured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Percentiles {
    min: f64,
    pub(super) p50: f64,
    p90: f64,
    pub(super) p99: f64,
    p999: f64,
    p9999: f64,
    pub(super) max: f64,
}

impl Percentiles {
    fn cells(&self) -> [String; 7] {
        [self.min, self.p50, self.p90, self.p99, self.p999, self.p9999, self.max].map(|ms| format!("{ms:.3}"))
    }
}

/// A row for each distribution.
pub(super) fn times_table<const ROWS: usize>(rows: [(&str, &Percentiles); ROWS]) -> Table {
    let mut table = plain_table(["", "min", "p50", "p90", "p99", "p99.9", "p99.99", "max"]);
    for (name, percentiles) in rows {
        table.add_row(std::iter::once(name.to_owned()).chain(percentiles.cells()));
    }
    table
}

impl Times {
    pub(super) fn new() -> Self {
        let highest = u64::try_from(TIME_MAX.as_micros()).expect("an hour fits");
        Self(Histogram::new_with_bounds(1, highest, 3).expect("the bounds are sound"))
    }

    pub(super) fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    pub(super) fn add_all(&mut self, other: &Self) {
        self.0.add(&other.0).expect("all have the same bounds");
    }

    pub(super) fn count(&self) -> u64 {
        self.0.len()
    }

    pub(super) fn percentiles(&self) -> Percentiles {
        let milliseconds = |microseconds: u64| rounded(microseconds as f64 / 1e3, 3);
        let at = |quantile: f64| milliseconds(self.0.value_at_quantile(quantile));
        Percentiles {
            min: milliseconds(self.0.min()),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: milliseconds(self.0.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_all_that_was_added() {
        let (mut times, mut others) = (Times::new(), Times::new());
        for ms in 1..=50 {
            times.add(Duration::from_millis(ms));
            others.add(Duration::from_millis(50 + ms));
        }
        times.add_all(&others);
        let seen = times.percentiles();
        assert_eq!(times.count(), 100);
        for (seen, expected) in [(seen.min, 1.0), (seen.p50, 50.0), (seen.p99, 99.0), (seen.max, 100.0)] {
            assert!((seen - expected).abs() < expected / 500.0, "{seen} for {expected}");
        }
    }

    #[test]
    fn nothing_measured_is_nothing_and_no_time_is_too_long() {
        let mut times = Times::new();
        assert_eq!(times.percentiles().cells(), ["0.000"; 7].map(str::to_owned));
        times.add(Duration::from_secs(100_000));
        assert!(times.percentiles().max >= 3_599_000.0);
    }
}
