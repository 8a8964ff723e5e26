//! The only door outside: clock, tasks and entropy (shared with the client), disk, peers, blocking work, and what is
//! counted for those who watch.
//!
//! Everything is passed in, never global. The real implementations are `os` and `grpc`; the simulator has its own.

pub mod disk;
pub mod grpc;
pub mod metrics;
pub mod os;
pub mod overlay;
pub mod pool;
pub mod transport;

use std::ops::Deref;
use std::sync::Arc;

pub use quorate_proto::env::{Clock, Elapsed, Entropy, Mark, Moment, Point, Task, Tasks};

pub use disk::{Disk, DiskSpace, FileName};
pub use metrics::Metrics;
pub use pool::Pool;
pub use transport::{PeerHandler, PeerLink, Transport};

/// A node's world. Cheap to clone.
#[derive(Clone)]
pub struct Env {
    /// Clock, tasks and entropy; reached by deref, so `env.now()`, `env.spawn(..)`.
    pub base: quorate_proto::env::Env,
    /// The folder that the node's data live in.
    pub disk: Arc<dyn Disk>,
    /// Messages to peers and from them.
    pub transport: Arc<dyn Transport>,
    /// Where blocking work runs.
    pub pool: Arc<dyn Pool>,
    /// What the node counts of itself.
    pub metrics: Metrics,
}

impl Deref for Env {
    type Target = quorate_proto::env::Env;

    fn deref(&self) -> &Self::Target {
        &self.base
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Env")
    }
}

#[cfg(test)]
pub(crate) mod gate;
