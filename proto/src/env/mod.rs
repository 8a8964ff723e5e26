//! The world outside, as far as client and node share it: clock, tasks, randomness, and the probe. Real here,
//! simulated in sim.
//!
//! Everything else in client and node stays inside it: no wall clock, no `tokio::time`, no `tokio::spawn`, no entropy.

mod os;
mod probe;
mod task;

use std::fmt;
use std::future::Future;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, Either, select};

pub use os::os;
pub use probe::{Mark, Point, Probe, Unprobed};
pub use task::Task;

use crate::ids::Timestamp;

/// A moment of a node's own monotonic clock: time since an arbitrary origin. Moments of two nodes do not compare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub Duration);

impl Moment {
    /// Time since `earlier`; nothing if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by))
    }
}

/// A node's clock. It may drift, jump and freeze: nothing that must hold may rest on it.
pub trait Clock: Send + Sync {
    /// Monotonic.
    fn now(&self) -> Moment;

    /// What the wall says.
    fn wall(&self) -> Timestamp;

    /// Ends once [`Clock::now`] is at or after `until`.
    fn sleep_until(&self, until: Moment) -> BoxFuture<'static, ()>;
}

/// Where tasks run.
pub trait Tasks: Send + Sync {
    /// Starts a task. The caller owns it: dropping the [`Task`] aborts it.
    fn spawn(&self, name: &'static str, work: BoxFuture<'static, ()>) -> Task;
}

/// Randomness; the same in each replay of a simulated run.
pub trait Entropy: Send + Sync {
    /// 64 random bits.
    fn next_u64(&self) -> u64;
}

/// Clock, tasks, randomness and the probe; cheap to clone, passed in, never global.
#[derive(Clone)]
pub struct Env {
    /// The node's clock.
    pub clock: Arc<dyn Clock>,
    /// Where its tasks run.
    pub tasks: Arc<dyn Tasks>,
    /// Its randomness.
    pub entropy: Arc<dyn Entropy>,
    /// Whether the world is unkind here, and who wants to know what was reached.
    pub probe: Arc<dyn Probe>,
}

/// The time given to [`Env::timeout`] passed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

impl Env {
    /// The clock's moment.
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// The wall clock.
    pub fn wall(&self) -> Timestamp {
        self.clock.wall()
    }

    /// Sleeps for `time` of this clock.
    pub fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.clock.sleep_until(self.clock.now() + time)
    }

    /// Runs `work`, at most for `time` of this clock; the work is dropped when the time is up.
    ///
    /// # Errors
    /// [`Elapsed`] if the time passed first.
    pub async fn timeout<F: Future>(&self, time: Duration, work: F) -> Result<F::Output, Elapsed> {
        let work = std::pin::pin!(work);
        match select(work, self.sleep(time)).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right(((), _)) => Err(Elapsed),
        }
    }

    /// Starts a task, owned by the caller.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) -> Task {
        self.tasks.spawn(name, Box::pin(work))
    }

    /// Whether to be unkind at this point: never, outside of the simulator.
    pub fn perturb(&self, point: Point) -> bool {
        self.probe.perturb(point)
    }

    /// Dawdles for a random time below `at_most` if this point is unkind.
    pub async fn dawdle(&self, point: Point, at_most: Duration) {
        if self.perturb(point) {
            let micros = self.random_below(u64::try_from(at_most.as_micros()).unwrap_or(u64::MAX));
            self.sleep(Duration::from_micros(micros)).await;
        }
    }

    /// This was reached, for those who count it.
    pub fn reached(&self, mark: Mark) {
        self.probe.reached(mark);
    }

    /// 16 random bytes, for an identity.
    pub fn random_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.entropy.next_u64().to_le_bytes());
        bytes[8..].copy_from_slice(&self.entropy.next_u64().to_le_bytes());
        bytes
    }

    /// A random number in `0..bound`; 0 if `bound` is 0.
    pub fn random_below(&self, bound: u64) -> u64 {
        let wide = u128::from(self.entropy.next_u64()) * u128::from(bound);
        u64::try_from(wide >> 64).expect("the upper half of 128 bits fits 64")
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}
