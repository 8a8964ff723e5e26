//! Real stores, and a transport of plain calls between nodes of one process.

mod cluster;
mod links;
mod starts;
mod suite;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quorate_proto::ids::NodeId;
use quorate_proto::v1::{PeerFrame, PeerReply, PeerRequest, Sender, peer_request};
use tokio::sync::watch;

use crate::env::os::{FolderError, OsDisk, OsPool};
use crate::env::transport::{Lane, LinkEvent, LinkWatch, PeerError};
use crate::env::{Env, Metrics, PeerHandler, PeerLink, Task, Tasks, Transport};

/// Nodes of one process, by address.
#[derive(Default)]
struct Switch {
    ports: Mutex<BTreeMap<String, Port>>,
    /// How late heartbeats are answered, and how many were sent to each address.
    beats: Mutex<(Duration, BTreeMap<String, u64>)>,
}

impl Switch {
    fn answer_beats_late(&self, by: Duration) {
        self.beats.lock().unwrap().0 = by;
    }

    fn beats_to(&self, address: &str) -> u64 {
        self.beats.lock().unwrap().1.get(address).copied().unwrap_or_default()
    }

    /// How late the answer is to come.
    fn late(&self, address: &str, request: &PeerRequest) -> Duration {
        if !matches!(request.body, Some(peer_request::Body::Heartbeats(_))) {
            return Duration::ZERO;
        }
        let mut beats = self.beats.lock().unwrap();
        *beats.1.entry(address.to_owned()).or_default() += 1;
        beats.0
    }
}

#[derive(Clone)]
struct Port {
    handler: Arc<dyn PeerHandler>,
    /// Closed when nobody listens there any more.
    open: watch::Receiver<()>,
}

/// One node's side of the switch.
struct Plug(Arc<Switch>);

struct Link {
    switch: Arc<Switch>,
    peer: NodeId,
    address: String,
    sender: Arc<dyn Fn() -> Sender + Send + Sync>,
    watch: LinkWatch,
    up: AtomicBool,
}

impl PeerLink for Link {
    fn call(&self, request: PeerRequest) -> BoxFuture<'static, Result<(Sender, PeerReply), PeerError>> {
        let port = self.switch.ports.lock().unwrap().get(&self.address).cloned();
        let Some(port) = port else {
            if self.up.swap(false, Ordering::Relaxed) {
                (self.watch)(self.peer, LinkEvent::Reset);
            }
            (self.watch)(self.peer, LinkEvent::Refused);
            return std::future::ready(Err(PeerError::Refused(self.address.clone()))).boxed();
        };
        if !self.up.swap(true, Ordering::Relaxed) {
            (self.watch)(self.peer, LinkEvent::Up);
        }
        let late = self.switch.late(&self.address, &request);
        let frame = PeerFrame { sender: Some((self.sender)()), requests: vec![request] };
        let reply = port.handler.handle(frame).remove(0);
        let mut open = port.open;
        let address = self.address.clone();
        let handler = port.handler;
        let reply = async move {
            let reply = reply.await;
            if !late.is_zero() {
                quorate_proto::env::os().sleep(late).await;
            }
            reply
        };
        async move {
            tokio::select! {
                biased;
                _ = open.changed() => Err(PeerError::Lost(address)),
                reply = reply => Ok((handler.sender(), reply)),
            }
        }
        .boxed()
    }
}

#[async_trait]
impl Transport for Plug {
    fn connect(
        &self,
        peer: NodeId,
        address: &str,
        _lane: Lane,
        sender: Arc<dyn Fn() -> Sender + Send + Sync>,
        watch: LinkWatch,
    ) -> Arc<dyn PeerLink> {
        let (switch, address, up) = (self.0.clone(), address.to_owned(), AtomicBool::new(false));
        Arc::new(Link { switch, peer, address, sender, watch, up })
    }

    async fn listen(&self, address: &str, handler: Arc<dyn PeerHandler>) -> io::Result<Task> {
        let (keep, open) = watch::channel(());
        let (switch, name) = (self.0.clone(), address.to_owned());
        self.0.ports.lock().unwrap().insert(name.clone(), Port { handler, open });
        let close = move || {
            switch.ports.lock().unwrap().remove(&name);
            drop(keep);
        };
        Ok(Task::new(close, std::future::ready(())))
    }
}

/// Tasks that end together, as those of a killed process do.
#[derive(Default)]
struct Killable(Mutex<Vec<tokio::task::AbortHandle>>);

impl Killable {
    fn kill(&self) {
        self.0.lock().unwrap().drain(..).for_each(|task| task.abort());
    }
}

impl Tasks for Killable {
    #[expect(clippy::disallowed_methods, reason = "stands for env")]
    fn spawn(&self, _name: &'static str, work: BoxFuture<'static, ()>) -> Task {
        let handle = tokio::spawn(work);
        let abort = handle.abort_handle();
        self.0.lock().unwrap().push(handle.abort_handle());
        Task::new(move || abort.abort(), handle.map(drop))
    }
}

async fn env(folder: &Path, switch: Arc<Switch>, tasks: Arc<Killable>) -> Env {
    let mut base = quorate_proto::env::os();
    base.tasks = tasks;
    let end = base.now() + Duration::from_secs(10);
    // A killed node's blocking work may still have it.
    let disk = loop {
        match OsDisk::open(folder) {
            Ok(disk) => break Arc::new(disk),
            Err(FolderError::InUse { .. }) if base.now() < end => base.sleep(Duration::from_millis(2)).await,
            Err(error) => panic!("{error}"),
        }
    };
    let (transport, pool, metrics) = (Arc::new(Plug(switch)), Arc::new(OsPool), Metrics::default());
    Env { base, disk, transport, pool, metrics }
}
