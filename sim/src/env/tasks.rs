//! The tasks of one life of one process: they end together when it crashes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quorate_node::env::{Task, Tasks};
use quorate_proto::ids::NodeId;
use tokio::task::{AbortHandle, JoinHandle};

use super::clock;

/// A machine of the simulated world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A node's.
    Node(NodeId),
    /// A client's, from 0.
    Client(u32),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(node) => write!(f, "node{node}"),
            Self::Client(client) => write!(f, "client{client}"),
        }
    }
}

/// A run in which tasks take so many steps without time passing hangs.
const STEPS_AT_ONCE_MAX: u64 = 5_000_000;

thread_local! {
    static CURRENT: Cell<Option<Host>> = const { Cell::new(None) };
    /// Steps taken at one moment.
    static STEPS: Cell<(Duration, u64)> = const { Cell::new((Duration::ZERO, 0)) };
}

/// Forgets the run that was on this thread before.
pub(crate) fn begin() {
    CURRENT.set(None);
    STEPS.set((Duration::ZERO, 0));
}

fn count_step(host: Host) {
    let now = clock::now();
    let (at, steps) = STEPS.get();
    let steps = if at == now { steps + 1 } else { 0 };
    STEPS.set((now, steps));
    assert!(steps < STEPS_AT_ONCE_MAX, "the run hangs: {steps} steps at {now:?}, the last by {host}");
}

/// Whose task is running on this thread.
pub fn current_host() -> Option<Host> {
    CURRENT.get()
}

/// One life of a process, from its start to its crash. Clones share it.
#[derive(Clone)]
pub struct Life(Arc<Inner>);

struct Inner {
    host: Host,
    state: Mutex<State>,
    on_panic: Box<dyn Fn(Host, &'static str, String) + Send + Sync>,
}

#[derive(Default)]
struct State {
    ended: bool,
    next: u64,
    running: BTreeMap<u64, (&'static str, Option<AbortHandle>)>,
}

impl Life {
    /// A life of `host`. `on_panic` hears of each task that panicked: its name, and what it said.
    pub fn new(host: Host, on_panic: impl Fn(Host, &'static str, String) + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { host, state: Mutex::default(), on_panic: Box::new(on_panic) }))
    }

    /// Whose life it is.
    pub fn host(&self) -> Host {
        self.0.host
    }

    /// Ends it: none of its tasks takes another step. Their memory is gone once [`Life::gone`] is ready.
    pub fn end(&self) {
        let running = {
            let mut state = self.state();
            state.ended = true;
            state.running.values().filter_map(|(_, abort)| abort.clone()).collect::<Vec<_>>()
        };
        for task in running {
            task.abort();
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// Waits until what the tasks of an ended life held has been dropped.
    ///
    /// # Panics
    /// If a task does not end although it was aborted.
    pub async fn gone(&self) {
        for _ in 0..10_000 {
            if self.state().running.is_empty() {
                return;
            }
            tokio::task::yield_now().await;
        }
        let left = self.state().running.values().map(|(name, _)| *name).collect::<Vec<_>>();
        panic!("tasks of {} outlived its crash: {left:?}", self.host());
    }

    /// Runs `work` in this life, as one of its tasks would; ends without an answer if the life ends first.
    pub async fn run<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (tx, rx) = tokio::sync::oneshot::channel();
        let task = self.spawn(
            name,
            Box::pin(async move {
                // Nobody waits any more: the caller was dropped.
                drop(tx.send(work.await));
            }),
        );
        let answer = rx.await.ok();
        drop(task);
        answer
    }

    /// Starts a task that only the end of this life ends early; `None` if it has ended.
    pub(crate) fn start(&self, name: &'static str, work: BoxFuture<'static, ()>) -> Option<JoinHandle<()>> {
        let number = {
            let mut state = self.state();
            if state.ended {
                return None;
            }
            state.next += 1;
            let number = state.next;
            state.running.insert(number, (name, None));
            number
        };
        let place = Registered { life: self.clone(), number };
        let life = self.clone();
        let work = InScope { host: self.host(), work };
        let handle = tokio::spawn(async move {
            // Dropped after the work, whichever way that ends.
            let _place = place;
            if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
                let said = panic
                    .downcast_ref::<&str>()
                    .map(ToString::to_string)
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "a panic without words".to_owned());
                (life.0.on_panic)(life.host(), name, said);
            }
        });
        if let Some(place) = self.state().running.get_mut(&number) {
            place.1 = Some(handle.abort_handle());
        }
        Some(handle)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tasks for Life {
    fn spawn(&self, name: &'static str, work: BoxFuture<'static, ()>) -> Task {
        let Some(handle) = self.start(name, work) else {
            return Task::new(|| (), async {});
        };
        let abort = handle.abort_handle();
        Task::new(move || abort.abort(), async move {
            // An abort is an end like another; a panic comes here only if whoever heard of it panicked.
            if let Err(error) = handle.await
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        })
    }
}

impl fmt::Debug for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Life({})", self.host())
    }
}

struct Registered {
    life: Life,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.life.state().running.remove(&self.number);
    }
}

/// Says whose task is running while it runs.
struct InScope {
    host: Host,
    work: BoxFuture<'static, ()>,
}

impl Future for InScope {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        count_step(self.host);
        let before = CURRENT.replace(Some(self.host));
        let poll = self.work.as_mut().poll(context);
        CURRENT.set(before);
        poll
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_crash_ends_all_tasks_at_once() {
        let steps = Arc::new(AtomicU32::new(0));
        let life = Life::new(Host::Client(0), |_, _, said| panic!("{said}"));
        let held = Arc::new(());
        let tasks = (0..10).map(|_| {
            let (steps, held) = (steps.clone(), held.clone());
            life.spawn(
                "stepper",
                Box::pin(async move {
                    loop {
                        assert_eq!(current_host(), Some(Host::Client(0)));
                        steps.fetch_add(1, Ordering::Relaxed);
                        tokio::task::yield_now().await;
                        let _held = &held;
                    }
                }),
            )
        });
        let tasks = tasks.collect::<Vec<_>>();
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        life.end();
        let at_crash = steps.load(Ordering::Relaxed);
        assert!(at_crash >= 10);
        life.gone().await;
        assert_eq!(steps.load(Ordering::Relaxed), at_crash, "no step after the crash");
        assert_eq!(Arc::strong_count(&held), 1, "nothing is held any more");
        for task in tasks {
            task.join().await;
        }
        life.spawn("late", Box::pin(async { panic!("a dead process starts no task") })).join().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_is_told_and_others_go_on() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let life = {
            let told = told.clone();
            Life::new(Host::Client(1), move |host, name, said| told.lock().unwrap().push((host, name, said)))
        };
        life.spawn("bad", Box::pin(async { panic!("words") })).join().await;
        assert_eq!(life.run("good", async { 7 }).await, Some(7));
        assert_eq!(*told.lock().unwrap(), [(Host::Client(1), "bad", "words".to_owned())]);
    }
}
