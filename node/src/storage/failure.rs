//! The one way in which a store fails: for good.
//!
//! After a failed write or sync nobody knows what the disk holds, and a later sync that succeeds proves nothing. So
//! nothing is written any more, what is in flight is unknown, and a mark in the folder makes the next start write
//! everything anew before it counts for anything.

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tracing::error;

use super::error::{DiskError, FailedWrite, StoreError};
use crate::env::{Disk, DiskSpace, Env, FileName, Mark};

/// What a panic left behind, for whoever lets it go on.
pub(super) type Panic = Box<dyn Any + Send>;

/// The mark's name.
pub(super) fn marker() -> FileName {
    FileName::new("failed")
}

/// Shared by all that write.
#[derive(Clone)]
pub(super) struct Failure {
    env: quorate_proto::env::Env,
    disk: Arc<dyn Disk>,
    first: Arc<watch::Sender<Option<Arc<StoreError>>>>,
    unheard: Unheard,
}

/// The first write of redb's that has failed since the folder was opened: redb has perhaps told nobody.
#[derive(Clone, Default)]
struct Unheard(Arc<Mutex<Option<DiskError>>>);

impl Unheard {
    fn note(&self, error: impl FnOnce() -> DiskError) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(error);
    }

    fn first(&self) -> Option<DiskError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The folder, as storage opens its files: it notes that a write or sync has failed, whoever it was for. redb writes on
/// its own account too, when it makes room in its cache and when a file is let go of, and keeps such an error to itself.
struct Watched {
    disk: Arc<dyn Disk>,
    unheard: Unheard,
}

impl Disk for Watched {
    fn open(&self, name: &FileName, create: bool) -> io::Result<Box<dyn redb::StorageBackend>> {
        self.disk.open(name, create)
    }

    fn publish(&self, from: &FileName, to: &FileName) -> io::Result<()> {
        self.disk.publish(from, to)
    }

    fn remove(&self, name: &FileName) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn list(&self) -> io::Result<Vec<FileName>> {
        self.disk.list()
    }

    fn mark(&self, name: &FileName, content: &[u8]) -> io::Result<()> {
        if *name == marker() {
            let said = || String::from_utf8_lossy(content).into_owned();
            self.unheard.note(|| DiskError::new("write to", &FileName::new("volumes"), said()));
        }
        self.disk.mark(name, content)
    }

    fn failed(&self, name: &FileName, error: &io::Error) {
        // With its kind, which says what can be done about it.
        let copy = error
            .raw_os_error()
            .map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error);
        self.unheard.note(|| DiskError::new("write to", name, FailedWrite::wrap(copy)));
        self.disk.failed(name, error);
    }

    fn space(&self) -> io::Result<DiskSpace> {
        self.disk.space()
    }

    fn describe(&self) -> String {
        self.disk.describe()
    }
}

impl Failure {
    pub(super) fn new(env: &Env) -> Self {
        Self {
            env: env.base.clone(),
            disk: env.disk.clone(),
            first: Arc::new(watch::Sender::new(None)),
            unheard: Unheard::default(),
        }
    }

    /// The folder, watched: to be opened in place of the environment's.
    pub(super) fn watched(&self) -> Arc<dyn Disk> {
        Arc::new(Watched { disk: self.disk.clone(), unheard: self.unheard.clone() })
    }

    /// The folder is open: what failed until now, and was borne, says nothing of what is written from now on.
    pub(super) fn opened(&self) {
        self.unheard.forget();
    }

    /// Notes a failed write or sync and marks the folder. Blocks.
    pub(super) fn raise(&self, cause: &DiskError) {
        let first = self.first.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                *first = Some(Arc::new(StoreError::Unknown(cause.clone())));
            }
            is_first
        });
        if !first {
            return;
        }
        self.env.reached(Mark::WriteFailed);
        let marked = self.disk.mark(&marker(), cause.to_string().as_bytes());
        error!(
            error = cause as &dyn std::error::Error,
            marked = marked.is_ok(),
            "write failed; store closed"
        );
    }

    /// Runs work that writes. A panic in it is a failure, raised here where it happened: nobody knows what the disk
    /// holds, or whether our memory agrees with it. Whoever gets the panic answers what is in flight, and then lets
    /// it go on. Blocks.
    pub(super) fn catch<T>(&self, what: &'static str, work: impl FnOnce() -> T) -> Result<T, Panic> {
        catch_unwind(AssertUnwindSafe(work))
            .inspect_err(|panic| self.raise(&DiskError::panicked(what, &**panic)))
    }

    /// The first failure, for what was not begun before it.
    pub(super) fn refusal(&self) -> Option<StoreError> {
        let is_first = self.first.borrow().is_none();
        // It stays there: whoever asks meanwhile must not see neither of the two.
        if is_first && let Some(cause) = self.unheard.first() {
            self.raise(&cause);
        }
        self.first.borrow().as_deref().map(|error| match error {
            StoreError::Unknown(cause) | StoreError::Failed(cause) => StoreError::Failed(cause.clone()),
            other @ (StoreError::Closed
            | StoreError::Gap { .. }
            | StoreError::Body { .. }
            | StoreError::NotHeld { .. }
            | StoreError::NoCheckpoint { .. }) => other.clone(),
        })
    }

    /// The first failure, for what was begun before it and has ended after it.
    pub(super) fn unknown(&self) -> Option<StoreError> {
        match self.refusal()? {
            StoreError::Failed(cause) => Some(StoreError::Unknown(cause)),
            refusal @ (StoreError::Unknown(_)
            | StoreError::Closed
            | StoreError::Gap { .. }
            | StoreError::Body { .. }
            | StoreError::NotHeld { .. }
            | StoreError::NoCheckpoint { .. }) => Some(refusal),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<Arc<StoreError>>> {
        self.first.subscribe()
    }
}
