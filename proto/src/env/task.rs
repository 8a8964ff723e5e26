//! A running task and its owner's hold on it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

/// A task that somebody owns. Dropping it aborts the work; [`Task::join`] awaits its end.
pub struct Task {
    abort: Option<Box<dyn FnOnce() + Send + Sync>>,
    end: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl Task {
    /// Joins what an environment's own tasks offer: `abort` ends the work at its next await, `end` is ready when it
    /// has ended, in whichever way.
    pub fn new(
        abort: impl FnOnce() + Send + Sync + 'static,
        end: impl Future<Output = ()> + Send + Sync + 'static,
    ) -> Self {
        Self { abort: Some(Box::new(abort)), end: Some(Box::pin(end)) }
    }

    /// Asks the work to end at its next await. Does not wait.
    pub fn abort(&mut self) {
        if let Some(abort) = self.abort.take() {
            abort();
        }
    }

    /// Waits until the work has ended. Dropping this future aborts the work.
    pub async fn join(mut self) {
        self.ended().await;
    }

    /// Waits until the work has ended. Dropping this future leaves it at work, and it can be waited for again.
    pub async fn ended(&mut self) {
        if let Some(end) = &mut self.end {
            end.await;
        }
        self.end = None;
        self.abort = None;
    }

    /// Aborts the work and waits until it has ended.
    pub async fn stop(mut self) {
        self.abort();
        self.join().await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.abort();
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Task")
    }
}
