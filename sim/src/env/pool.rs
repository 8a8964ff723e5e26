//! Blocking work, run inline: at a moment of its own, and as long as the disk takes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use quorate_node::env::Pool;

use super::clock;
use super::disk::SimDisk;
use super::tasks::Life;
use crate::dice::Dice;

/// Runs jobs on the simulator's one thread. A job waits for its turn, works in no time, and is ready when the
/// disk's time for what it did has passed: a crash may find it at each of these.
pub struct SimPool {
    life: Life,
    disk: SimDisk,
    /// The longest wait for a turn.
    wait_max: Duration,
    dice: Arc<Mutex<Dice>>,
}

impl SimPool {
    /// The pool of one life. Jobs begin at most `wait_max` after they were handed over, as `dice` say.
    pub fn new(life: Life, disk: SimDisk, wait_max: Duration, dice: Dice) -> Self {
        Self { life, disk, wait_max, dice: Arc::new(Mutex::new(dice)) }
    }
}

impl Pool for SimPool {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        let wait = if self.wait_max.is_zero() {
            Duration::ZERO
        } else {
            let mut dice = self.dice.lock().unwrap_or_else(PoisonError::into_inner);
            dice.time(Duration::from_micros(1), self.wait_max)
        };
        let disk = self.disk.clone();
        let wait = wait + disk.stalled();
        let job = async move {
            clock::sleep(wait).await;
            disk.take_elapsed();
            work();
            if !disk.is_powered() {
                // The power went in the middle: nobody is left to hear how it ended.
                std::future::pending::<()>().await;
            }
            let takes = disk.take_elapsed();
            disk.answers_at(clock::now() + takes);
            clock::sleep(takes).await;
        };
        let (done, ended) = tokio::sync::oneshot::channel::<()>();
        self.life.start(
            "pool job",
            Box::pin(async move {
                job.await;
                // Nobody waits any more: the job was to be done all the same.
                done.send(()).unwrap_or_default();
            }),
        );
        Box::pin(async move {
            if ended.await.is_err() {
                // The life has ended, and with it whoever waits here.
                std::future::pending::<()>().await;
            }
        })
    }
}

/// Runs each job at once and to its end, whatever the disk says: for tests of one module without a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct InlinePool;

impl Pool for InlinePool {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> BoxFuture<'static, ()> {
        work();
        Box::pin(std::future::ready(()))
    }
}
