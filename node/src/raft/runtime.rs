//! openraft's runtime over [`Env`]: its time, sleep, tasks and random numbers are those of the node that a group runs
//! on, found by a task-local, as openraft asks for them through static functions.
//!
//! Every entry into openraft happens inside [`Scope::enter`]; a task that openraft spawns is entered by itself. A
//! group owns the tasks that openraft spawned for it: [`Scope::stop`] ends those that openraft left behind.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Either, Select, select};
use openraft::{OptionalSend, OptionalSync};
use openraft_rt::{
    AsyncRuntime, Mpsc, MpscReceiver, MpscSender, MpscWeakSender, Oneshot, OneshotSender, RecvError,
    SendError, TryRecvError, Watch, WatchReceiver, WatchSender,
};
use tokio::sync::{Mutex as AsyncMutex, MutexGuard, mpsc, oneshot, watch};

use crate::env::{Env, Moment, Task};

tokio::task_local! {
    static SCOPE: Scope;
}

/// What openraft finds when it asks for time, tasks or randomness: the node's world, and the group's tasks.
#[derive(Clone)]
pub(super) struct Scope {
    env: Env,
    tasks: Weak<Registry>,
}

/// The tasks that openraft spawned for a group. Dropping it aborts them.
pub(super) struct Registry(Mutex<Running>);

#[derive(Default)]
struct Running {
    tasks: BTreeMap<u64, Task>,
    /// Ended, and not yet taken out of `tasks`: a task cannot drop itself.
    ended: Vec<u64>,
    next: u64,
    stopped: bool,
}

impl Registry {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Running> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Aborts what runs, refuses what comes, and waits until all has ended. If this is dropped, the next call does the
    /// rest.
    pub(super) async fn stop(&self) {
        self.lock().stopped = true;
        loop {
            let next = self.lock().tasks.pop_first();
            let Some((_, task)) = next else { return };
            task.stop().await;
        }
    }

    #[cfg(test)]
    pub(super) fn running(&self) -> usize {
        let running = self.lock();
        running.tasks.keys().filter(|id| !running.ended.contains(id)).count()
    }
}

impl Scope {
    pub(super) fn new(env: Env, tasks: &Arc<Registry>) -> Self {
        Self { env, tasks: Arc::downgrade(tasks) }
    }

    /// Runs `work` with this node's time, tasks and randomness.
    pub(super) fn enter<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        SCOPE.scope(self.clone(), work)
    }

    fn current() -> Self {
        SCOPE.try_with(Self::clone).expect("openraft is entered through a scope only")
    }

    fn env<T>(ask: impl FnOnce(&Env) -> T) -> T {
        SCOPE.try_with(|scope| ask(&scope.env)).expect("openraft is entered through a scope only")
    }

    /// Starts a task of the group's own, which ends with the group.
    pub(super) fn start(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.clone().spawn(work);
    }

    fn spawn(self, work: impl Future<Output = ()> + Send + 'static) {
        let Some(registry) = self.tasks.upgrade() else { return };
        // Held while the task is started, so that its end is not noted before its beginning.
        let mut running = registry.lock();
        if running.stopped {
            return;
        }
        for ended in std::mem::take(&mut running.ended) {
            running.tasks.remove(&ended);
        }
        let id = running.next;
        running.next += 1;
        let tasks = self.tasks.clone();
        let env = self.env.clone();
        let work = SCOPE.scope(self, work);
        let task = env.spawn("raft", async move {
            work.await;
            if let Some(registry) = tasks.upgrade() {
                registry.lock().ended.push(id);
            }
        });
        running.tasks.insert(id, task);
    }
}

/// A moment of the node's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Instant(pub(super) Moment);

impl openraft_rt::Instant for Instant {
    fn now() -> Self {
        Self(Scope::env(|env| env.now()))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0 + by)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, by: Duration) -> Self {
        Self(self.0 - by)
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, by: Duration) {
        *self = *self - by;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.since(earlier.0)
    }
}

/// Why a task gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum JoinError {
    #[error("the task was aborted")]
    Aborted,
    #[error("the task panicked")]
    Panicked,
}

/// Waits for what a task gives. Dropping it leaves the task alone, as openraft expects.
pub(super) struct JoinHandle<T>(oneshot::Receiver<Result<T, JoinError>>);

impl<T> Future for JoinHandle<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(cx).map(|outcome| outcome.unwrap_or(Err(JoinError::Aborted)))
    }
}

/// The time was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub(super) struct TimedOut;

/// Work with a deadline.
pub(super) struct Timeout<F>(Select<Pin<Box<F>>, BoxFuture<'static, ()>>)
where
    F: Future;

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, TimedOut>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_unpin(cx).map(|first| match first {
            Either::Left((output, _)) => Ok(output),
            Either::Right(((), _)) => Err(TimedOut),
        })
    }
}

/// The node's random numbers.
pub(super) struct EnvRng(Env);

impl rand::TryRng for EnvRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(u32::try_from(self.0.entropy.next_u64() >> 32).expect("the upper half of 64 bits fits 32"))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.entropy.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            let random = self.0.entropy.next_u64().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        }
        Ok(())
    }
}

/// openraft's [`AsyncRuntime`] over the [`Env`] of the scope that it is entered in.
#[derive(Debug)]
pub(super) struct Runtime;

impl AsyncRuntime for Runtime {
    type JoinError = JoinError;
    type JoinHandle<T: OptionalSend + 'static> = JoinHandle<T>;
    type Sleep = BoxFuture<'static, ()>;
    type Instant = Instant;
    type TimeoutError = TimedOut;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = Timeout<T>;
    type ThreadLocalRng = EnvRng;
    type Mpsc = BoundedMpsc;
    type Watch = TokioWatch;
    type Oneshot = TokioOneshot;
    type Mutex<T: OptionalSend + 'static> = TokioMutex<T>;

    fn spawn<T>(work: T) -> JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        let (tx, rx) = oneshot::channel();
        Scope::current().spawn(async move {
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            // Nobody may be waiting.
            drop(tx.send(outcome.map_err(|_panic| JoinError::Panicked)));
        });
        JoinHandle(rx)
    }

    fn sleep(time: Duration) -> Self::Sleep {
        Scope::env(|env| env.sleep(time))
    }

    fn sleep_until(until: Instant) -> Self::Sleep {
        Scope::env(|env| env.clock.sleep_until(until.0))
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(time: Duration, work: F) -> Timeout<F> {
        Timeout(select(Box::pin(work), Self::sleep(time)))
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(until: Instant, work: F) -> Timeout<F> {
        Timeout(select(Box::pin(work), Self::sleep_until(until)))
    }

    fn is_panic(error: &JoinError) -> bool {
        *error == JoinError::Panicked
    }

    fn thread_rng() -> EnvRng {
        EnvRng(Scope::env(Env::clone))
    }

    fn new(_threads: usize) -> Self {
        Self
    }

    fn block_on<F: Future<Output = T>, T>(&mut self, _work: F) -> T {
        unreachable!("a node runs on the runtime that its environment was made on")
    }
}

/// tokio's channel with a bound.
pub(super) struct BoundedMpsc;

pub(super) struct MpscTx<T>(mpsc::Sender<T>);

pub(super) struct MpscRx<T>(mpsc::Receiver<T>);

pub(super) struct MpscWeakTx<T>(mpsc::WeakSender<T>);

impl<T> Clone for MpscTx<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for MpscWeakTx<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Mpsc for BoundedMpsc {
    type Sender<T: OptionalSend> = MpscTx<T>;
    type Receiver<T: OptionalSend> = MpscRx<T>;
    type WeakSender<T: OptionalSend> = MpscWeakTx<T>;

    fn channel<T: OptionalSend>(buffer: usize) -> (MpscTx<T>, MpscRx<T>) {
        let (tx, rx) = mpsc::channel(buffer);
        (MpscTx(tx), MpscRx(rx))
    }
}

impl<T: OptionalSend> MpscSender<BoundedMpsc, T> for MpscTx<T> {
    async fn send(&self, message: T) -> Result<(), SendError<T>> {
        self.0.send(message).await.map_err(|refused| SendError(refused.0))
    }

    fn downgrade(&self) -> MpscWeakTx<T> {
        MpscWeakTx(self.0.downgrade())
    }
}

impl<T: OptionalSend> MpscReceiver<T> for MpscRx<T> {
    async fn recv(&mut self) -> Option<T> {
        self.0.recv().await
    }

    fn try_recv(&mut self) -> Result<T, TryRecvError> {
        self.0.try_recv().map_err(|error| match error {
            mpsc::error::TryRecvError::Empty => TryRecvError::Empty,
            mpsc::error::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }
}

impl<T: OptionalSend> MpscWeakSender<BoundedMpsc, T> for MpscWeakTx<T> {
    fn upgrade(&self) -> Option<MpscTx<T>> {
        self.0.upgrade().map(MpscTx)
    }
}

/// tokio's channel for one message.
pub(super) struct TokioOneshot;

pub(super) struct OneshotTx<T>(oneshot::Sender<T>);

impl Oneshot for TokioOneshot {
    type Sender<T: OptionalSend> = OneshotTx<T>;
    type Receiver<T: OptionalSend> = oneshot::Receiver<T>;
    type ReceiverError = oneshot::error::RecvError;

    fn channel<T: OptionalSend>() -> (OneshotTx<T>, oneshot::Receiver<T>) {
        let (tx, rx) = oneshot::channel();
        (OneshotTx(tx), rx)
    }
}

impl<T: OptionalSend> OneshotSender<T> for OneshotTx<T> {
    fn send(self, message: T) -> Result<(), T> {
        self.0.send(message)
    }
}

/// tokio's channel for a value that changes.
pub(super) struct TokioWatch;

pub(super) struct WatchTx<T>(watch::Sender<T>);

pub(super) struct WatchRx<T>(watch::Receiver<T>);

impl<T> Clone for WatchTx<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Clone for WatchRx<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Watch for TokioWatch {
    type Sender<T: OptionalSend + OptionalSync> = WatchTx<T>;
    type Receiver<T: OptionalSend + OptionalSync> = WatchRx<T>;
    type Ref<'a, T: OptionalSend + 'a> = watch::Ref<'a, T>;

    fn channel<T: OptionalSend + OptionalSync>(init: T) -> (WatchTx<T>, WatchRx<T>) {
        let (tx, rx) = watch::channel(init);
        (WatchTx(tx), WatchRx(rx))
    }
}

impl<T: OptionalSend + OptionalSync> WatchSender<TokioWatch, T> for WatchTx<T> {
    fn send(&self, value: T) -> Result<(), openraft_rt::watch::SendError<T>> {
        self.0.send(value).map_err(|refused| openraft_rt::watch::SendError(refused.0))
    }

    fn send_if_modified<F: FnOnce(&mut T) -> bool>(&self, modify: F) -> bool {
        self.0.send_if_modified(modify)
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.0.borrow()
    }

    fn subscribe(&self) -> WatchRx<T> {
        WatchRx(self.0.subscribe())
    }
}

impl<T: OptionalSend + OptionalSync> WatchReceiver<TokioWatch, T> for WatchRx<T> {
    async fn changed(&mut self) -> Result<(), RecvError> {
        self.0.changed().await.map_err(|_closed| RecvError(()))
    }

    fn borrow_watched(&self) -> watch::Ref<'_, T> {
        self.0.borrow()
    }

    fn borrow_and_update(&mut self) -> watch::Ref<'_, T> {
        self.0.borrow_and_update()
    }
}

/// tokio's lock.
pub(super) struct TokioMutex<T>(AsyncMutex<T>);

impl<T: OptionalSend + 'static> openraft_rt::Mutex<T> for TokioMutex<T> {
    type Guard<'a> = MutexGuard<'a, T>;

    fn new(value: T) -> Self {
        Self(AsyncMutex::new(value))
    }

    async fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().await
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scope")
    }
}
