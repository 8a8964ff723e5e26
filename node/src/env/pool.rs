//! Where blocking work runs: threads of its own in the real node, inline in the simulator.

use futures_util::future::BoxFuture;

/// Runs blocking work away from the tasks.
pub trait Pool: Send + Sync {
    /// Runs `work`, which may block, and is ready when it has ended. Work handed over is run even if the future is
    /// dropped. Jobs of different calls may run at the same time and in any order.
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
    rx.await.expect("the pool runs each job it was given, and a job that panics takes the node down")
}
