//! Simulated time, and a node's own view of it.
//!
//! Time is tokio's, paused: it leaps to the next timer once nothing is left to do. tokio's timers tick in
//! milliseconds; so that things can happen a microsecond apart, a simulated microsecond is one of tokio's
//! milliseconds. Nothing but this file knows that.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::BoxFuture;
use quorate_node::env::{Clock, Moment};
use quorate_proto::ids::Timestamp;
use tokio::time::Instant;

/// Simulated seconds in one of tokio's: see the module.
const STRETCH: u32 = 1000;

/// Longer sleeps are taken in parts.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// What the wall shows when a run begins: 2026-01-01.
const WALL_AT_START: i64 = 1_767_225_600_000;

thread_local! {
    static START: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Sets simulated time to zero on this thread, where a paused runtime has just begun.
pub fn begin() {
    START.set(Some(Instant::now()));
}

/// Simulated time since the run began, to the microsecond; zero outside a run.
pub fn now() -> Duration {
    match START.get() {
        Some(start) => start.elapsed() / STRETCH,
        None => Duration::ZERO,
    }
}

/// Sleeps for simulated time.
pub async fn sleep(time: Duration) {
    let until = now() + time;
    loop {
        let left = until.saturating_sub(now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(SLEEP_MAX) * STRETCH).await;
    }
}

/// A node's clock: as quick as simulated time, but begun elsewhere, and with a wall clock that is off.
///
/// Drift and jumps belong here when they come.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimClock {
    /// What the monotonic clock showed when the run began.
    pub origin: Duration,
    /// How far the wall clock is ahead of the others', in milliseconds; behind if negative.
    pub wall_ahead_ms: i64,
}

impl Clock for SimClock {
    fn now(&self) -> Moment {
        Moment(self.origin + now())
    }

    fn wall(&self) -> Timestamp {
        let since = i64::try_from(now().as_millis()).expect("a run ends within millions of years");
        Timestamp(WALL_AT_START + self.wall_ahead_ms + since)
    }

    fn sleep_until(&self, until: Moment) -> BoxFuture<'static, ()> {
        Box::pin(sleep(until.since(Clock::now(self))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_leaps_and_a_microsecond_counts() {
        begin();
        let clock = SimClock { origin: Duration::from_secs(5), wall_ahead_ms: -7 };
        assert_eq!(Clock::now(&clock), Moment(Duration::from_secs(5)));
        clock.sleep_until(Moment(Duration::from_secs(5) + Duration::from_micros(3))).await;
        assert_eq!(now(), Duration::from_micros(3));
        sleep(Duration::from_secs(10_000)).await;
        assert_eq!(now(), Duration::from_secs(10_000) + Duration::from_micros(3));
        assert_eq!(clock.wall(), Timestamp(WALL_AT_START + 10_000_000 - 7));
    }

    #[tokio::test(start_paused = true)]
    async fn sleeps_end_in_order_of_their_microseconds() {
        begin();
        let (tx, mut rx) = tokio::sync::mpsc::channel(8);
        let sleepers = [5_u64, 1, 4, 2, 3].map(|micros| {
            let tx = tx.clone();
            tokio::spawn(async move {
                sleep(Duration::from_micros(micros)).await;
                tx.send(micros).await.unwrap();
            })
        });
        drop(tx);
        for expected in 1..=5 {
            assert_eq!(rx.recv().await, Some(expected));
        }
        for sleeper in sleepers {
            sleeper.await.unwrap();
        }
    }
}
