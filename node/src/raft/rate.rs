//! A bound in bytes a second, shared by all who take from it.

use std::sync::{Mutex, PoisonError};
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

    /// Waits until those before have had their time, and takes the time of so many bytes.
    pub(super) async fn take(&self, env: &Env, bytes: u64) {
        let until = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            let begins = (*paid).max(env.now());
            *paid = begins + self.time_of(bytes);
            begins
        };
        env.clock.sleep_until(until).await;
    }

    fn time_of(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time() {
        let rate = Rate::new(1_000_000);
        assert_eq!(rate.time_of(500_000), Duration::from_millis(500));
        assert_eq!(rate.time_of(0), Duration::ZERO);
        assert!(Rate::new(1).time_of(u64::MAX) > Duration::from_secs(1 << 30));
    }
}
