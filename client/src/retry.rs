//! Pauses between tries.

use std::time::Duration;

use quorate_proto::env::{Env, Point};

/// Pauses that double from try to try, with some chance in them, so that clients do not come back all at once.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, next: min }
    }

    /// The next pause: between half and the whole of what has doubled since the last reset.
    pub(crate) fn pause(&mut self, env: &Env) -> Duration {
        let whole = if env.perturb(Point::BackoffCutShort) { Duration::ZERO } else { self.next };
        self.next = self.next.saturating_mul(2).min(self.max);
        let half = whole / 2;
        let chance = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        half + Duration::from_micros(env.random_below(chance.saturating_add(1)))
    }

    /// After a success.
    pub(crate) fn reset(&mut self) {
        self.next = self.min;
    }
}
