//! Simulated time, and a node's own view of it.
//!
//! Time is tokio's, paused: it leaps to the next timer once nothing is left to do. tokio's timers tick in
//! milliseconds; so that things can happen a microsecond apart, a simulated microsecond is one of tokio's
//! milliseconds. Nothing but this file knows that.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use quorate_node::env::{Clock, Moment};
use quorate_proto::ids::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Simulated seconds in one of tokio's: see the module.
const STRETCH: u32 = 1000;

/// Longer sleeps are taken in parts.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

/// What the wall shows when a run begins: 2026-01-01.
pub(crate) const WALL_AT_START: i64 = 1_767_225_600_000;

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
        timer(left).await;
    }
}

/// A timer for simulated time, of an hour at most.
pub(super) fn timer(time: Duration) -> tokio::time::Sleep {
    tokio::time::sleep(time.min(SLEEP_MAX) * STRETCH)
}

/// A machine's own clock: begun elsewhere, quicker or slower than simulated time, and its wall clock off. It can be
/// stepped, leap and freeze. Clones share it.
///
/// Sleeps follow the monotonic clock: a leap ends them early, a freeze holds them.
#[derive(Clone, Default)]
pub struct SimClock(Arc<Shared>);

#[derive(Default)]
struct Shared {
    works: Mutex<Works>,
    /// The latest time that its wall clock has told, in ms.
    latest: AtomicI64,
    /// The earliest time that it has told since somebody began to watch anew, in ms.
    earliest: Mutex<Option<i64>>,
    /// Told when the works were changed: who sleeps must reckon anew.
    changed: Notify,
}

/// What a clock shows follows from these and from simulated time.
#[derive(Clone, Copy, Default)]
struct Works {
    /// The simulated time at which the rest was set.
    at: Duration,
    /// What the monotonic clock showed then.
    shown: Duration,
    /// How far the wall clock is ahead of the monotonic one.
    wall_ahead_ms: i64,
    /// Millionths by which it is too quick; too slow if negative.
    drift_ppm: i32,
    frozen: bool,
}

impl Works {
    fn rate_ppm(&self) -> u128 {
        u128::try_from(1_000_000 + i64::from(self.drift_ppm)).expect("no clock runs backwards")
    }

    fn now(&self) -> Duration {
        if self.frozen {
            return self.shown;
        }
        let passed = now().saturating_sub(self.at);
        if self.drift_ppm == 0 {
            return self.shown + passed;
        }
        self.shown + scaled(passed, self.rate_ppm(), 1_000_000)
    }

    /// Simulated time until it shows `until`; `None` while it stands still.
    fn left(&self, until: Duration) -> Option<Duration> {
        let left = until.saturating_sub(self.now());
        if left.is_zero() || self.drift_ppm == 0 && !self.frozen {
            return Some(left);
        }
        // Rounded up: a sleep does not end before its time.
        (!self.frozen).then(|| scaled(left, 1_000_000, self.rate_ppm()) + Duration::from_micros(1))
    }
}

fn scaled(time: Duration, by: u128, of: u128) -> Duration {
    Duration::from_micros(u64::try_from(time.as_micros() * by / of).unwrap_or(u64::MAX))
}

impl SimClock {
    /// Shows `origin` now, and a wall clock that is ahead of true time by `wall_ahead_ms`, or behind if negative.
    pub fn new(origin: Duration, wall_ahead_ms: i64) -> Self {
        let clock = Self::default();
        clock.reset(origin, wall_ahead_ms);
        clock
    }

    /// The machine was off: its monotonic clock begins at `origin`, and its wall clock is so far ahead of true time.
    /// Only between two lives, for a monotonic clock never goes back within one.
    pub fn reset(&self, origin: Duration, wall_ahead_ms: i64) {
        self.change(|works| {
            let true_ms = signed_ms(now());
            *works = Works { at: now(), shown: origin, frozen: false, ..*works };
            works.wall_ahead_ms = true_ms + wall_ahead_ms - signed_ms(origin);
        });
    }

    /// It is too quick by so many millionths from now on, or too slow if negative.
    pub fn set_drift(&self, ppm: i32) {
        self.change(|works| works.drift_ppm = ppm);
    }

    /// Somebody sets the wall clock: by so much ahead, or back if negative.
    pub fn step_wall(&self, by_ms: i64) {
        self.change(|works| works.wall_ahead_ms += by_ms);
    }

    /// The machine slept, and its monotonic clock counts it: both clocks go ahead at once.
    pub fn leap(&self, by: Duration) {
        self.change(|works| works.shown += by);
    }

    /// Both clocks stand still, or go on.
    pub fn freeze(&self, frozen: bool) {
        self.change(|works| works.frozen = frozen);
    }

    /// How far the wall clock is ahead of true time, in milliseconds.
    pub fn wall_ahead_ms(&self) -> i64 {
        self.shows().0 - WALL_AT_START - signed_ms(now())
    }

    /// What the wall clock shows, asked by nobody who lives by it.
    pub fn shows(&self) -> Timestamp {
        let works = self.works();
        Timestamp(WALL_AT_START + works.wall_ahead_ms + signed_ms(works.now()))
    }

    /// The latest time that anybody was told, however the clock was set since; 0 if nobody has asked.
    pub fn latest_told(&self) -> Timestamp {
        Timestamp(self.0.latest.load(Ordering::Relaxed))
    }

    /// The earliest time that anybody was told since [`SimClock::watch_anew`]; `None` if nobody has asked.
    pub fn earliest_told(&self) -> Option<Timestamp> {
        self.earliest().map(Timestamp)
    }

    /// Forgets what was told so far, but for the latest time.
    pub fn watch_anew(&self) {
        *self.earliest() = None;
    }

    fn earliest(&self) -> MutexGuard<'_, Option<i64>> {
        self.0.earliest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Works)) {
        {
            let mut works = self.0.works.lock().unwrap_or_else(PoisonError::into_inner);
            let shown = works.now();
            works.shown = shown;
            works.at = now();
            change(&mut works);
        }
        self.0.changed.notify_waiters();
    }

    fn works(&self) -> Works {
        *self.0.works.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for SimClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimClock({:?})", self.works().now())
    }
}

impl Clock for SimClock {
    fn now(&self) -> Moment {
        Moment(self.works().now())
    }

    fn wall(&self) -> Timestamp {
        let told = self.shows();
        self.0.latest.fetch_max(told.0, Ordering::Relaxed);
        let mut earliest = self.earliest();
        *earliest = Some(earliest.map_or(told.0, |earliest| earliest.min(told.0)));
        told
    }

    fn sleep_until(&self, until: Moment) -> BoxFuture<'static, ()> {
        let clock = self.0.clone();
        Box::pin(async move {
            loop {
                let changed = clock.changed.notified();
                let works = *clock.works.lock().unwrap_or_else(PoisonError::into_inner);
                match works.left(until.0) {
                    Some(left) if left.is_zero() => return,
                    Some(left) => {
                        tokio::select! {
                            biased;
                            () = changed => {}
                            () = timer(left) => {}
                        }
                    }
                    None => changed.await,
                }
            }
        })
    }
}

fn signed_ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).expect("a run ends within millions of years")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_leaps_and_a_microsecond_counts() {
        begin();
        let clock = SimClock::new(Duration::from_secs(5), -7);
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

    #[tokio::test(start_paused = true)]
    async fn a_quick_clock_sleeps_shorter_and_a_slow_one_longer() {
        begin();
        for (ppm, passed_ms) in [(50_000, 9_523), (-50_000, 10_526), (0, 10_000)] {
            let clock = SimClock::new(Duration::from_secs(3), 0);
            clock.set_drift(ppm);
            let (began, until) = (now(), Clock::now(&clock) + Duration::from_secs(10));
            clock.sleep_until(until).await;
            assert!(Clock::now(&clock) >= until);
            assert_eq!((now() - began).as_millis(), passed_ms, "{ppm}");
            let ahead_ms = 10_000 - i64::try_from(passed_ms).unwrap();
            assert!((clock.wall_ahead_ms() - ahead_ms).abs() <= 1, "{ppm}: {}", clock.wall_ahead_ms());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leap_ends_sleeps_and_a_freeze_holds_them() {
        begin();
        let clock = SimClock::new(Duration::ZERO, 0);
        let sleeper = |secs| {
            let clock = clock.clone();
            let until = Clock::now(&clock) + Duration::from_secs(secs);
            tokio::spawn(async move {
                clock.sleep_until(until).await;
                now()
            })
        };
        let (short, long) = (sleeper(10), sleeper(100));
        sleep(Duration::from_secs(1)).await;
        clock.leap(Duration::from_secs(60));
        assert_eq!(short.await.unwrap(), Duration::from_secs(1));
        clock.freeze(true);
        sleep(Duration::from_secs(1_000)).await;
        assert_eq!(Clock::now(&clock), Moment(Duration::from_secs(61)));
        clock.freeze(false);
        assert_eq!(long.await.unwrap(), Duration::from_secs(1_001 + 39));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wall_is_stepped_alone() {
        begin();
        let clock = SimClock::new(Duration::from_secs(9), 250);
        assert_eq!(clock.wall_ahead_ms(), 250);
        clock.step_wall(-3_600_000);
        assert_eq!(clock.wall_ahead_ms(), 250 - 3_600_000);
        assert_eq!(Clock::now(&clock), Moment(Duration::from_secs(9)));
        sleep(Duration::from_secs(5)).await;
        clock.reset(Duration::from_secs(1), 17);
        assert_eq!(clock.wall_ahead_ms(), 17);
        assert_eq!(Clock::now(&clock), Moment(Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_time_told_is_known_when_the_wall_is_set_back() {
        begin();
        let clock = SimClock::new(Duration::from_secs(9), 250);
        assert_eq!(clock.latest_told(), Timestamp(0));
        clock.step_wall(3_600_000);
        let told = clock.wall();
        clock.step_wall(-3_600_000);
        assert_eq!((clock.latest_told(), clock.shows()), (told, Timestamp(WALL_AT_START + 250)));
        clock.step_wall(7_200_000);
        assert_eq!(clock.latest_told(), told, "nobody has asked");
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_time_told_is_known_until_it_is_watched_anew() {
        begin();
        let clock = SimClock::new(Duration::from_secs(9), 250);
        assert_eq!(clock.earliest_told(), None);
        let told = clock.wall();
        clock.step_wall(3_600_000);
        let later = clock.wall();
        assert_eq!(clock.earliest_told(), Some(told));
        clock.watch_anew();
        assert_eq!(clock.earliest_told(), None);
        assert_eq!(clock.wall(), later);
        assert_eq!(clock.earliest_told(), Some(later));
    }
}
