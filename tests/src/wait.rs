//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// Long enough for a busy machine with two cores; a test that waits this long has failed.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(10);

/// Looks until `condition` gives something.
///
/// # Panics
/// After [`DEADLINE`], with `what`.
pub fn until<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    within(what, DEADLINE, condition)
}

/// Looks until `condition` gives something, for as long as `time`.
///
/// # Panics
/// After `time`, with `what`.
pub fn within<T>(what: &str, time: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < time, "waited {time:?} in vain: {what}");
        std::thread::sleep(PAUSE);
    }
}
