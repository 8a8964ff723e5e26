//! The real clock, tasks and entropy: tokio's and the operating system's.
#![expect(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "one of the few doors to the world outside"
)]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::future::BoxFuture;
use rand::rngs::{ChaCha12Rng, SysRng};
use rand::{Rng, SeedableRng};

use super::{Clock, Entropy, Env, Moment, Task, Tasks, Unprobed};
use crate::ids::Timestamp;

/// The real environment. Tasks run on the tokio runtime that the caller is in.
pub fn os() -> Env {
    let rng = ChaCha12Rng::try_from_rng(&mut SysRng).expect("the operating system has entropy");
    let entropy = OsEntropy(Mutex::new(rng));
    Env {
        clock: Arc::new(OsClock { origin: Instant::now() }),
        tasks: Arc::new(OsTasks),
        entropy: Arc::new(entropy),
        probe: Arc::new(Unprobed),
    }
}

struct OsClock {
    origin: Instant,
}

impl Clock for OsClock {
    fn now(&self) -> Moment {
        Moment(self.origin.elapsed())
    }

    fn wall(&self) -> Timestamp {
        let signed = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => Timestamp(signed(since)),
            Err(before) => Timestamp(-signed(before.duration())),
        }
    }

    fn sleep_until(&self, until: Moment) -> BoxFuture<'static, ()> {
        match self.origin.checked_add(until.0) {
            Some(until) => Box::pin(tokio::time::sleep_until(until.into())),
            // Beyond all that the system's clock can say.
            None => Box::pin(std::future::pending()),
        }
    }
}

struct OsTasks;

impl Tasks for OsTasks {
    fn spawn(&self, _name: &'static str, work: BoxFuture<'static, ()>) -> Task {
        let handle = tokio::spawn(work);
        let abort = handle.abort_handle();
        Task::new(move || abort.abort(), async move {
            if let Err(error) = handle.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        })
    }
}

struct OsEntropy(Mutex<ChaCha12Rng>);

impl Entropy for OsEntropy {
    fn next_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Elapsed;
    use super::*;

    #[test]
    fn what_lies_beyond_the_clock_does_not_come() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let env = os();
        let slept = runtime.block_on(async {
            let beyond = env.sleep(Duration::MAX);
            env.timeout(Duration::from_millis(1), beyond).await
        });
        assert_eq!(slept, Err(Elapsed));
    }
}
