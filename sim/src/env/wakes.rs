//! Who wakes a task: only the simulator's own thread may, or a run does not repeat.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Wake, Waker};

use super::tasks::Life;

static THREADS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static THREAD: Cell<u64> = const { Cell::new(0) };
}

/// A number of this thread's own.
fn this_thread() -> u64 {
    let known = THREAD.get();
    if known != 0 {
        return known;
    }
    let new = THREADS.fetch_add(1, Ordering::Relaxed);
    THREAD.set(new);
    new
}

/// Wakes a task, and complains if that is done from a thread other than the one that the task runs on.
pub(super) struct NamedWaker {
    me: Weak<Self>,
    life: Life,
    task: &'static str,
    /// The thread of the last step, and the runtime's own waker.
    inner: Mutex<(u64, Option<Waker>)>,
}

impl NamedWaker {
    pub(super) fn new(life: Life, task: &'static str) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { me: me.clone(), life, task, inner: Mutex::new((0, None)) })
    }

    /// A waker that stands before `runtime`, which is this thread's.
    pub(super) fn over(&self, runtime: &Waker) -> Waker {
        {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.0 = this_thread();
            if !inner.1.as_ref().is_some_and(|known| known.will_wake(runtime)) {
                inner.1 = Some(runtime.clone());
            }
        }
        Waker::from(self.me.upgrade().expect("who asks holds it"))
    }

    fn pass_on(&self) {
        let (thread, runtime) = {
            let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            (inner.0, inner.1.clone())
        };
        if thread != this_thread() {
            let said =
                "it was woken from another thread: such a run does not repeat; use env.pool".to_owned();
            self.life.complain(self.task, said);
        }
        if let Some(runtime) = runtime {
            runtime.wake();
        }
    }
}

impl Wake for NamedWaker {
    fn wake(self: Arc<Self>) {
        self.pass_on();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.pass_on();
    }
}
