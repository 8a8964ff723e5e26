//! The tasks of one life of one process: they end together when it crashes, stand still while it is paused, and wait
//! for a processor when it is slow.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quorate_node::env::{Task, Tasks};
use quorate_proto::ids::NodeId;
use tokio::task::{AbortHandle, JoinHandle};

use super::clock;
use super::wakes::NamedWaker;
use crate::dice::Dice;

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
/// The clock is looked at once in so many steps.
const STEPS_UNWATCHED: u64 = 10_000;

thread_local! {
    static CURRENT: Cell<Option<Host>> = const { Cell::new(None) };
    /// Where in the code the last panic of a simulated task was.
    static PANICKED_AT: RefCell<Option<String>> = const { RefCell::new(None) };
    /// Steps taken at one moment.
    static STEPS: Cell<(Duration, u64)> = const { Cell::new((Duration::ZERO, 0)) };
}

/// Has panics of simulated tasks kept for [`Life::new`]'s `on_panic`, with their place, in place of being printed:
/// others go where they went.
fn watch_panics() {
    static WATCHED: Once = Once::new();
    WATCHED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match CURRENT.get() {
            Some(_) => PANICKED_AT.set(panic.location().map(ToString::to_string)),
            None => before(panic),
        }));
    });
}

/// Forgets the run that was on this thread before.
pub(crate) fn begin() {
    watch_panics();
    CURRENT.set(None);
    STEPS.set((Duration::ZERO, 0));
}

fn count_step(host: Host) {
    let (at, steps) = STEPS.get();
    if !(steps + 1).is_multiple_of(STEPS_UNWATCHED) {
        STEPS.set((at, steps + 1));
        return;
    }
    let now = clock::now();
    STEPS.set((now, if at == now { steps + 1 } else { 0 }));
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
    /// Whether anything stands between a task that was woken and its next step.
    mode: AtomicU8,
    state: Mutex<State>,
    on_panic: Box<dyn Fn(Host, &'static str, String) + Send + Sync>,
}

const PAUSED: u8 = 1;
const SLOW: u8 = 2;
const RESTLESS: u8 = 4;

#[derive(Default)]
struct State {
    ended: bool,
    next: u64,
    running: BTreeMap<u64, (&'static str, Option<AbortHandle>)>,
    /// Tasks that were woken while the process was paused.
    held: Vec<Waker>,
    slow: Option<Turns>,
    restless: Option<Restless>,
}

/// How long a task waits for a processor.
struct Turns {
    wait_max: Duration,
    dice: Dice,
}

/// How often a task lets others go first.
struct Restless {
    per_mille: u64,
    dice: Dice,
}

impl Life {
    /// A life of `host`. `on_panic` hears of each task that panicked: its name, and what it said.
    pub fn new(host: Host, on_panic: impl Fn(Host, &'static str, String) + Send + Sync + 'static) -> Self {
        let on_panic = Box::new(on_panic);
        Self(Arc::new(Inner { host, mode: AtomicU8::new(0), state: Mutex::default(), on_panic }))
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

    /// None of its tasks takes a step until it is resumed. Time goes on, and its machine goes on talking to others'.
    pub fn pause(&self) {
        self.0.mode.fetch_or(PAUSED, Ordering::Relaxed);
    }

    /// Its tasks go on.
    pub fn resume(&self) {
        self.0.mode.fetch_and(!PAUSED, Ordering::Relaxed);
        let held = std::mem::take(&mut self.state().held);
        for task in held {
            task.wake();
        }
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.0.mode.load(Ordering::Relaxed) & PAUSED != 0
    }

    /// Each step of its tasks waits for a processor from now on, at most so long; not at all if zero.
    pub fn slow_down(&self, wait_max: Duration, dice: Dice) {
        let slow = !wait_max.is_zero();
        self.state().slow = slow.then_some(Turns { wait_max, dice });
        self.set(SLOW, slow);
    }

    /// So many of a thousand steps let all others that are ready go first, so that their order differs from seed to
    /// seed also where no time passes.
    pub fn let_others_first(&self, per_mille: u64, dice: Dice) {
        self.state().restless = Some(Restless { per_mille, dice });
        self.set(RESTLESS, per_mille > 0);
    }

    fn set(&self, mode: u8, on: bool) {
        if on {
            self.0.mode.fetch_or(mode, Ordering::Relaxed);
        } else {
            self.0.mode.fetch_and(!mode, Ordering::Relaxed);
        }
    }

    /// How long the step that is due must wait.
    fn turn(&self) -> Duration {
        match &mut self.state().slow {
            Some(turns) => turns.dice.time(Duration::from_micros(1), turns.wait_max),
            None => Duration::ZERO,
        }
    }

    fn lets_others_first(&self) -> bool {
        let mut state = self.state();
        state.restless.as_mut().is_some_and(|restless| restless.dice.chance(restless.per_mille))
    }

    /// Says that something happened in a task which must never happen there.
    pub(super) fn complain(&self, task: &'static str, said: String) {
        (self.0.on_panic)(self.host(), task, said);
    }

    /// How many of its tasks run.
    pub fn tasks(&self) -> usize {
        self.state().running.len()
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
        let work = InScope {
            life: self.clone(),
            waker: NamedWaker::new(self.clone(), name),
            turn: None,
            others_first: false,
            work,
        };
        let handle = tokio::spawn(async move {
            // Dropped after the work, whichever way that ends.
            let _place = place;
            if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
                let said = panic
                    .downcast_ref::<&str>()
                    .map(ToString::to_string)
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "a panic without words".to_owned());
                life.complain(name, named(said));
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

/// What a panic says, and what it means where its words do not tell.
fn named(said: String) -> String {
    if said.contains("IO is disabled") || said.contains("enable_io") {
        return format!("it opened a socket, and the simulator has none: use env.transport ({said})");
    }
    said
}

/// Says whose task is running while it runs, and stands between a task and its steps.
struct InScope {
    life: Life,
    waker: Arc<NamedWaker>,
    /// Waiting for a processor.
    turn: Option<Pin<Box<tokio::time::Sleep>>>,
    /// Others were let go first since the last step.
    others_first: bool,
    work: BoxFuture<'static, ()>,
}

impl InScope {
    /// Ready when the next step may be taken.
    fn admit(&mut self, mode: u8, context: &mut Context<'_>) -> Poll<()> {
        if mode & PAUSED != 0 {
            self.life.state().held.push(context.waker().clone());
            return Poll::Pending;
        }
        if mode & RESTLESS != 0 && !self.others_first && self.life.lets_others_first() {
            self.others_first = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.others_first = false;
        if mode & SLOW != 0 || self.turn.is_some() {
            let turn = self.turn.get_or_insert_with(|| Box::pin(clock::timer(self.life.turn())));
            if turn.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            self.turn = None;
        }
        Poll::Ready(())
    }
}

impl Future for InScope {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        count_step(this.life.host());
        let mode = this.life.0.mode.load(Ordering::Relaxed);
        if (mode != 0 || this.turn.is_some()) && this.admit(mode, context).is_pending() {
            return Poll::Pending;
        }
        let waker = this.waker.over(context.waker());
        let _scope = Scope(CURRENT.replace(Some(this.life.host())));
        this.work.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

/// Whose task ran before, which is so again when this is dropped: also by a panic.
struct Scope(Option<Host>);

impl Drop for Scope {
    fn drop(&mut self) {
        CURRENT.set(self.0);
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
        let told = told.lock().unwrap();
        let [(Host::Client(1), "bad", said)] = &told[..] else { panic!("{told:?}") };
        // Its place in the code follows where a run watches panics.
        assert!(said.starts_with("words"), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_paused_process_takes_no_step_until_it_is_resumed() {
        clock::begin();
        let steps = Arc::new(AtomicU32::new(0));
        let life = Life::new(Host::Client(2), |_, _, said| panic!("{said}"));
        let counted = steps.clone();
        let _task = life.spawn(
            "stepper",
            Box::pin(async move {
                loop {
                    clock::sleep(Duration::from_millis(10)).await;
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }),
        );
        clock::sleep(Duration::from_millis(105)).await;
        assert_eq!(steps.load(Ordering::Relaxed), 10);
        life.pause();
        clock::sleep(Duration::from_secs(10)).await;
        assert_eq!(steps.load(Ordering::Relaxed), 10);
        life.resume();
        clock::sleep(Duration::from_millis(105)).await;
        assert_eq!(steps.load(Ordering::Relaxed), 21, "the sleep that was over, and ten more");
        life.pause();
        life.end();
        life.gone().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_process_waits_for_each_step() {
        clock::begin();
        let life = Life::new(Host::Client(3), |_, _, said| panic!("{said}"));
        let work = || async {
            let began = clock::now();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            clock::now() - began
        };
        assert_eq!(life.run("quick", work()).await, Some(Duration::ZERO));
        life.slow_down(Duration::from_millis(1), Dice::new(1));
        let took = life.run("slow", work()).await.unwrap();
        assert!(took > Duration::from_millis(1) && took < Duration::from_millis(100), "{took:?}");
        life.slow_down(Duration::ZERO, Dice::new(1));
        assert_eq!(life.run("quick again", work()).await, Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn others_go_first_in_an_order_that_the_seed_gives() {
        let order = async |seed| {
            let life = Life::new(Host::Client(4), |_, _, said| panic!("{said}"));
            life.let_others_first(300, Dice::new(seed));
            let order = Arc::new(Mutex::new(Vec::new()));
            let tasks = (0..10).map(|number| {
                let order = order.clone();
                life.spawn("one", Box::pin(async move { order.lock().unwrap().push(number) }))
            });
            for task in tasks.collect::<Vec<_>>() {
                task.join().await;
            }
            std::mem::take(&mut *order.lock().unwrap())
        };
        assert_eq!(order(1).await, order(1).await);
        assert_ne!(order(1).await, order(2).await);
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_that_go_round_while_no_time_passes_are_cut_off_and_named() {
        clock::begin();
        begin();
        let told = Arc::new(Mutex::new(Vec::new()));
        let life = {
            let told = told.clone();
            Life::new(Host::Client(6), move |_, name, said| told.lock().unwrap().push((name, said)))
        };
        let round = async {
            loop {
                tokio::task::yield_now().await;
            }
        };
        assert_eq!(life.run::<()>("round", round).await, None);
        let told = told.lock().unwrap();
        let [("round", said)] = &told[..] else { panic!("{told:?}") };
        assert!(said.contains("the run hangs") && said.contains("client6"), "{said}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_and_a_wake_from_another_thread_are_named() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let life = {
            let told = told.clone();
            Life::new(Host::Client(5), move |_, name, said| told.lock().unwrap().push((name, said)))
        };
        life.run("waits", async {
            let (tx, rx) = tokio::sync::oneshot::channel();
            let other = std::thread::spawn(move || {
                // Once somebody waits.
                std::thread::sleep(Duration::from_millis(20));
                tx.send(7)
            });
            assert_eq!(rx.await, Ok(7));
            other.join().unwrap().unwrap();
        })
        .await
        .unwrap();
        {
            let told = told.lock().unwrap();
            assert!(
                told.iter().any(|(name, said)| *name == "waits" && said.contains("another thread")),
                "{told:?}"
            );
        }
        assert!(named("A Tokio 1.x context was found, but IO is disabled.".to_owned()).contains("socket"));
    }
}
