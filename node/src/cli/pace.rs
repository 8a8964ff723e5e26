//! A rate: the moment at which each of a row of things is due.

use std::time::{Duration, Instant};

/// So many a second, counted from a start. What was held up is caught up with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    start: Instant,
    per_second: u32,
}

impl Pace {
    /// `per_second` is above 0.
    pub(crate) fn new(start: Instant, per_second: u32) -> Self {
        Self { start, per_second }
    }

    /// When number `number` (from 0) is due.
    pub(crate) fn due(&self, number: u64) -> Instant {
        let per_second = u64::from(self.per_second);
        let (seconds, rest) = (number / per_second, number % per_second);
        self.start
            + Duration::from_secs(seconds)
            + Duration::from_secs(1).mul_f64(rest as f64 / per_second as f64)
    }

    /// Waits until number `number` is due.
    pub(crate) async fn wait_for(&self, number: u64) {
        let due = self.due(number);
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_moment() {
        let start = Instant::now();
        let pace = Pace::new(start, 400);
        for (number, milliseconds) in
            [(0, 0), (1, 2), (400, 1_000), (1_000, 2_500), (400_000_000, 1_000_000_000)]
        {
            assert_eq!((pace.due(number) - start).as_millis(), milliseconds);
        }
    }
}
