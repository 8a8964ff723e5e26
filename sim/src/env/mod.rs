//! The simulated world outside of a node: what differs from the real one, and all that differs.

pub mod channel;
pub mod clock;
mod dial;
pub mod disk;
pub mod entropy;
pub mod network;
pub mod pool;
pub mod probe;
pub mod tasks;
pub mod transport;
mod wakes;

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use quorate_node::env::transport::{Lane, LinkWatch};
use quorate_node::env::{Env, Metrics, PeerHandler, PeerLink, Task, Tasks, Transport};
use quorate_proto::env::Unprobed;
use quorate_proto::ids::NodeId;
use quorate_proto::v1::Sender;

use crate::dice::Dice;
use clock::SimClock;
use disk::SimDisk;
use entropy::SimEntropy;
use pool::InlinePool;
use tasks::{Host, Life};

/// A world for a module alone: the disk, a clock, inline work, and nobody to talk to. A task that panics takes the
/// caller down when it is joined. Call it inside of a paused current-thread runtime.
pub fn alone(disk: &SimDisk, seed: u64) -> Env {
    clock::begin();
    let life = Life::new(Host::Node(NodeId(1)), |_, name, said| panic!("task {name} panicked: {said}"));
    Env {
        base: quorate_proto::env::Env {
            clock: Arc::new(SimClock::default()),
            tasks: Arc::new(life),
            entropy: Arc::new(SimEntropy::new(Dice::named(seed, "entropy"))),
            probe: Arc::new(Unprobed),
        },
        disk: Arc::new(disk.clone()),
        transport: Arc::new(Nobody),
        pool: Arc::new(InlinePool),
        metrics: Metrics::default(),
    }
}

/// A world in which nothing happens by itself, for a look at a disk: tasks never take a step, and work is done inline.
pub fn still(disk: &SimDisk) -> Env {
    Env {
        base: quorate_proto::env::Env {
            clock: Arc::new(SimClock::default()),
            tasks: Arc::new(Idle),
            entropy: Arc::new(SimEntropy::new(Dice::new(0))),
            probe: Arc::new(Unprobed),
        },
        disk: Arc::new(disk.clone()),
        transport: Arc::new(Nobody),
        pool: Arc::new(InlinePool),
        metrics: Metrics::default(),
    }
}

/// Takes tasks and never runs them.
struct Idle;

impl Tasks for Idle {
    fn spawn(&self, _name: &'static str, _work: BoxFuture<'static, ()>) -> Task {
        Task::new(|| (), async {})
    }
}

/// No network at all.
struct Nobody;

#[async_trait]
impl Transport for Nobody {
    fn connect(
        &self,
        peer: NodeId,
        _address: &str,
        _lane: Lane,
        _sender: Arc<dyn Fn() -> Sender + Send + Sync>,
        _watch: LinkWatch,
    ) -> Arc<dyn PeerLink> {
        panic!("a module alone called node {peer}")
    }

    async fn listen(&self, address: &str, _handler: Arc<dyn PeerHandler>) -> io::Result<Task> {
        Err(io::Error::new(io::ErrorKind::AddrNotAvailable, format!("no network to listen on at {address}")))
    }
}
