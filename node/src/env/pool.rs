//! Where blocking work runs: threads of its own in the real node, inline in the simulator.

use futures_util::future::BoxFuture;

/// Runs blocking work away from the tasks.
pub trait Pool: Send + Sync {
    /// Runs `work`, which may block, and is ready when it has ended. Work handed over is run even if the future is
    /// dropped. Jobs of different calls may run at the same time and in any order. A panic in `work` is told by the
    /// pool: to whoever waits, or to whoever watches the process. It ends no node: work after which nobody knows what
    /// the disk holds must see to that itself, as storage's does.
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()>;
}

/// [`Pool::run`] for work with a result.
pub async fn run<T: Send + 'static>(pool: &dyn Pool, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tx, rx) = tokio::sync::oneshot::channel();
    let job = pool.run(Box::new(move || {
        // The caller may have gone; the work was done all the same.
        drop(tx.send(work()));
    }));
    job.await;
    match rx.await {
        Ok(result) => result,
        // The pool ends with its process, and so does whoever waits for a job that was not run any more.
        Err(_) => std::future::pending().await,
    }
}
