//! A bound in bytes a second, shared by all who take from it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::env::{Env, Moment};

/// What members that fell behind may take of this node's disk and links.
#[derive(Debug)]
pub(super) struct Rate {
    bytes_per_s: u64,
    /// When what was taken so far is paid for.
    paid: Mutex<Moment>,
}

impl Rate {
    pub(super) fn new(bytes_per_s: u64) -> Self {
        Self { bytes_per_s, paid: Mutex::default() }
    }

    /// Waits until those before have had their time, and takes the time of so many bytes. Dropped before, it takes none.
    pub(super) async fn take(&self, env: &Env, bytes: u64) {
        let (begins, mut turn) = self.turn(env.now(), bytes);
        env.clock.sleep_until(begins).await;
        turn.time = Duration::ZERO;
    }

    /// When the time of so many bytes begins; to be given back as long as it has not.
    fn turn(&self, now: Moment, bytes: u64) -> (Moment, Turn<'_>) {
        let time = self.time_of(bytes);
        let mut paid = self.paid();
        let begins = (*paid).max(now);
        *paid = begins + time;
        (begins, Turn { rate: self, time })
    }

    fn paid(&self) -> MutexGuard<'_, Moment> {
        self.paid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time_of(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What is waited for: given back if nobody waits for it any more.
struct Turn<'a> {
    rate: &'a Rate,
    time: Duration,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.time.is_zero() {
            let mut paid = self.rate.paid();
            *paid = *paid - self.time;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_wait_to_the_end_takes_nothing() {
        let at = |s| Moment(Duration::from_secs(s));
        let rate = Rate::new(1_000);
        let begins = |bytes, waits_to_the_end| {
            let (begins, mut turn) = rate.turn(at(5), bytes);
            if waits_to_the_end {
                turn.time = Duration::ZERO;
            }
            begins
        };
        assert_eq!(begins(2_000, true), at(5));
        assert_eq!(begins(9_000, false), at(7));
        assert_eq!(begins(1_000, true), at(7));
        assert_eq!(begins(0, true), at(8));
    }

    #[test]
    fn bytes_take_their_time() {
        let rate = Rate::new(1_000_000);
        assert_eq!(rate.time_of(500_000), Duration::from_millis(500));
        assert_eq!(rate.time_of(0), Duration::ZERO);
        assert!(Rate::new(1).time_of(u64::MAX) > Duration::from_secs(1 << 30));
    }
}
