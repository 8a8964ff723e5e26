//! The wires between the machines: delays, losses, cuts, and what a crash does to a connection.
//!
//! A connection behaves like TCP's: frames arrive in order or not at all; what is lost on the way is sent again and
//! shows as a stall; a cut link holds frames back until it is mended; when a process dies its machine resets its
//! connections and refuses new ones, and when a machine loses power nothing is heard from it until it is back. A
//! paused process keeps its connections, and what is sent to it waits in its machine.
//!
//! Peers' plane and clients' plane are cut apart by whom a link joins: two nodes, or a client and a node.

mod digest;
mod flights;
mod links;
mod listen;
mod old;
mod pipes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use quorate_proto::call::{Call, Reply};
use quorate_proto::v1::{PeerFrame, PeerReplyFrame};
use tokio::sync::{Notify, watch};

use super::clock::SimClock;
use super::tasks::{Host, Life};
use crate::dice::Dice;
use crate::marks::Marks;
use crate::trace::Trace;
use flights::Flights;
use links::Links;
pub use links::{Narrow, Profile};
use listen::Listener;
pub use pipes::Lose;
use pipes::Pipe;
pub(super) use pipes::{Inbound, Outbound};

/// What travels towards a listener.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// A frame of a lane between nodes.
    Peer(PeerFrame),
    /// A client's call, with the number that its reply will carry.
    Call(u64, Call),
}

/// What travels back.
#[derive(Clone, Debug)]
pub(super) enum Response {
    /// Answers of a node to its peer.
    Peer(PeerReplyFrame),
    /// A client's reply.
    Reply(u64, Reply),
}

/// What travels.
#[derive(Clone, Debug)]
pub(super) enum Parcel {
    /// Towards a listener.
    Request(Request),
    /// Back.
    Response(Response),
}

/// What a wire carries, for whoever watches it.
#[derive(Clone, Copy, Debug)]
pub enum Frame<'a> {
    /// A node asks its peer.
    Ask(&'a PeerFrame),
    /// A node answers its peer.
    Answer(&'a PeerReplyFrame),
    /// A client calls a node; the reply will carry the number.
    Call(u64, &'a Call),
    /// A node replies to a client.
    Reply(u64, &'a Reply),
}

/// Where a frame was sent: an answer travels over the connection of its request, and no two connections of a run have
/// the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wire {
    /// Over which connection.
    pub connection: u64,
    /// Who sent it.
    pub from: Host,
    /// To whom.
    pub to: Host,
}

/// Watches the wires.
pub trait Tap: Send + Sync {
    /// A frame is sent, each once, whatever becomes of it. Must change nothing.
    fn sent(&self, wire: Wire, frame: Frame<'_>);

    /// A request that was sent before comes again, over another connection: nobody says it now. Must change nothing.
    fn came_again(&self, wire: Wire, frame: Frame<'_>);
}

/// Who listens.
pub(super) trait Service: Send + Sync + 'static {
    /// Takes a request and gives the answers that will come of it.
    fn accept(&self, request: Request) -> Vec<BoxFuture<'static, Response>>;

    /// Whether it is peers that call here.
    fn takes_peers(&self) -> bool;
}

/// The caller's end of a connection.
pub(super) struct Connection {
    pub(super) to: Host,
    pub(super) number: u64,
    pub(super) requests: Outbound<Request>,
    pub(super) responses: Inbound<Response>,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The machine is there, and nobody listens.
    Refused,
    /// Nothing is heard from it.
    Unreachable,
}

/// The network. Clones share it.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Counts cuts, mends, and machines that come and go.
    changes: watch::Sender<u64>,
    /// Something is to arrive sooner than all that was known of.
    sooner: Arc<Notify>,
    trace: Trace,
    tap: OnceLock<Arc<dyn Tap>>,
}

struct State {
    dice: Dice,
    listeners: BTreeMap<String, Listener>,
    next_listener: u64,
    /// Machines without power.
    dark: BTreeSet<Host>,
    /// Machines whose process stands still.
    paused: BTreeSet<Host>,
    /// How often each machine was set going.
    lives: BTreeMap<Host, u64>,
    /// Who calls as a client, and by which clock.
    clients: BTreeMap<Host, (Life, Option<SimClock>)>,
    links: Links,
    pipes: BTreeMap<u64, Pipe>,
    next_pipe: u64,
    flights: Flights,
    struck: BTreeMap<&'static str, u64>,
    marks: Marks,
}

impl Network {
    /// A network with nothing on it. Call it where tasks can be started.
    pub fn new(profile: Profile, dice: Dice, trace: Trace) -> Self {
        let network = Self(Arc::new(Inner {
            state: Mutex::new(State {
                dice,
                listeners: BTreeMap::new(),
                next_listener: 0,
                dark: BTreeSet::new(),
                paused: BTreeSet::new(),
                lives: BTreeMap::new(),
                clients: BTreeMap::new(),
                links: Links::new(profile),
                pipes: BTreeMap::new(),
                next_pipe: 0,
                flights: Flights::default(),
                struck: BTreeMap::new(),
                marks: Marks::default(),
            }),
            changes: watch::Sender::new(0),
            sooner: Arc::default(),
            trace,
            tap: OnceLock::new(),
        }));
        tokio::spawn(flights::carry(Arc::downgrade(&network.0), network.0.sooner.clone()));
        network
    }

    /// Shows `tap` every frame from now on.
    ///
    /// # Panics
    /// If another one watches already.
    pub fn watch(&self, tap: Arc<dyn Tap>) {
        assert!(self.0.tap.set(tap).is_ok(), "one watches a network");
    }

    /// Nothing sent from `from` reaches `to` until it is mended. One way only.
    pub fn cut(&self, from: Host, to: Host) {
        self.state().links.cut(from, to);
        self.changed();
    }

    /// Mends what was cut between the two, one way only.
    pub fn mend(&self, from: Host, to: Host) {
        self.state().mend(from, to);
        self.0.sooner.notify_one();
        self.changed();
    }

    /// Makes everything whole and quick: no cut, clog, loss, delay beyond the usual, and nothing old on its way.
    pub fn mend_all(&self) {
        {
            let mut state = self.state();
            for (from, to) in state.links.all_cut() {
                state.mend(from, to);
            }
            state.links.calm();
            state.flights.forget_old();
            let soon = super::clock::now() + state.links.profile.delay_max;
            state.flights.hurry(soon);
            let hollow = state.pipes.iter().filter(|(_, pipe)| pipe.hollow).map(|(number, _)| *number);
            for number in hollow.collect::<Vec<_>>() {
                state.pipes.remove(&number);
            }
            for pipe in state.pipes.values_mut() {
                pipe.lose = None;
            }
        }
        self.0.sooner.notify_one();
        self.changed();
    }

    /// A machine loses its power, or gets it back.
    pub fn set_dark(&self, host: Host, dark: bool) {
        {
            let mut state = self.state();
            if dark {
                state.dark.insert(host);
            } else if state.dark.remove(&host) {
                state.tell_ends_of(host);
            }
        }
        self.0.sooner.notify_one();
        self.changed();
    }

    /// A machine's process stands still, or goes on.
    pub fn set_paused(&self, host: Host, paused: bool) {
        {
            let mut state = self.state();
            if paused {
                state.paused.insert(host);
            } else {
                state.paused.remove(&host);
            }
        }
        self.changed();
    }

    /// A client is on the network.
    pub(super) fn add_client(&self, life: &Life) {
        self.state().clients.entry(life.host()).or_insert_with(|| (life.clone(), None)).0 = life.clone();
    }

    /// The clock by which a client goes, so that it can be set.
    pub fn know_clock(&self, life: &Life, clock: SimClock) {
        self.state().clients.insert(life.host(), (life.clone(), Some(clock)));
    }

    /// The clients that live.
    pub fn clients(&self) -> Vec<Host> {
        let state = self.state();
        let living = state.clients.iter().filter(|(_, (life, _))| !life.has_ended());
        living.map(|(host, _)| *host).collect()
    }

    /// A client's process.
    pub fn client(&self, host: Host) -> Option<Life> {
        self.state().clients.get(&host).map(|(life, _)| life.clone())
    }

    /// A client's clock, if it is known.
    pub fn client_clock(&self, host: Host) -> Option<SimClock> {
        self.state().clients.get(&host).and_then(|(_, clock)| clock.clone())
    }

    /// Another process begins on this machine.
    pub fn begin_life(&self, host: Host) {
        *self.state().lives.entry(host).or_default() += 1;
    }

    /// How links are that were not made different one by one.
    pub fn profile(&self) -> Profile {
        self.state().links.profile
    }

    /// How all links are from now on that were not made different one by one.
    pub fn set_profile(&self, profile: Profile) {
        self.state().links.profile = profile;
    }

    /// How one link is from now on, one way only.
    pub fn set_link(&self, from: Host, to: Host, profile: Profile) {
        self.state().links.different.insert((from, to), profile);
    }

    /// How little one link carries from now on, one way only.
    pub fn narrow(&self, from: Host, to: Host, narrow: Narrow) {
        self.state().links.narrow(from, to, narrow);
    }

    /// What is on its way from `from` to `to` arrives after `time` at the earliest.
    pub fn clog(&self, from: Host, to: Host, time: Duration) {
        self.state().links.clog(from, to, time);
    }

    /// Resets every connection between the two: what is on its way is lost. How many there were.
    pub fn reset(&self, one: Host, other: Host) -> usize {
        self.state().reset_between(one, other)
    }

    /// The next request that `caller` sends to `callee`, or its reply, is lost with its connection. Whether there is
    /// a connection.
    pub fn lose(&self, caller: Host, callee: Host, what: Lose) -> bool {
        let mut state = self.state();
        let mut pipes = state.pipes.values_mut();
        let found = pipes.find(|pipe| pipe.caller == caller && pipe.callee == callee && pipe.lose.is_none());
        found.map(|pipe| pipe.lose = Some(what)).is_some()
    }

    /// Every connection between the two becomes half-open: it stands, and nothing passes it any more. New ones work.
    /// How many there were.
    pub fn hollow(&self, one: Host, other: Host) -> usize {
        let count = {
            let mut state = self.state();
            let between = state.pipes.values_mut().filter(|pipe| pipe.is_between(one, other) && !pipe.hollow);
            between.map(|pipe| pipe.hollow = true).count()
        };
        self.changed();
        count
    }

    /// What has struck on the wires, by kind: loss, delay and repetition once per link, connections each.
    pub fn struck(&self) -> BTreeMap<&'static str, u64> {
        let state = self.state();
        let mut struck = state.struck.clone();
        for (kind, links) in &state.links.touched {
            *struck.entry(kind).or_default() += u64::try_from(links.len()).unwrap_or(u64::MAX);
        }
        struck
    }

    /// Where what is reached on the wires is told from now on.
    pub fn set_marks(&self, marks: Marks) {
        self.state().marks = marks;
    }

    /// Where events go.
    pub(super) fn trace(&self) -> &Trace {
        &self.0.trace
    }

    /// Ready when nothing has passed over the connection for `keep_alive`; never without one.
    pub(super) async fn starved(&self, from: Host, to: Host, number: u64, keep_alive: Option<Duration>) {
        let Some(keep_alive) = keep_alive else {
            return std::future::pending().await;
        };
        loop {
            self.until(|state| state.is_mute(from, to, number)).await;
            tokio::select! {
                biased;
                () = self.until(|state| !state.is_mute(from, to, number)) => {}
                () = super::clock::sleep(keep_alive) => return,
            }
        }
    }

    fn until(&self, condition: impl Fn(&State) -> bool) -> impl Future<Output = ()> {
        let mut changes = self.0.changes.subscribe();
        async move {
            loop {
                changes.borrow_and_update();
                if condition(&self.state()) {
                    return;
                }
                if changes.changed().await.is_err() {
                    // The network is gone, and with it the run.
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    fn changed(&self) {
        self.0.changes.send_modify(|count| *count += 1);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether nothing comes back from `to` when `from` calls.
    fn is_silent(&self, from: Host, to: Host) -> bool {
        self.dark.contains(&to) || self.links.is_cut(from, to) || self.links.is_cut(to, from)
    }

    /// Whether nothing comes back over a standing connection.
    fn is_mute(&self, from: Host, to: Host, number: u64) -> bool {
        self.is_silent(from, to)
            || self.paused.contains(&to)
            || self.pipes.get(&number).is_some_and(|pipe| pipe.hollow)
    }

    fn count(&mut self, kind: &'static str) {
        *self.struck.entry(kind).or_default() += 1;
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Network")
    }
}

/// Which machine an address belongs to: `node3:7101` is node 3's.
fn host_of(address: &str) -> Option<Host> {
    let host = address.split(':').next()?;
    let node = host.strip_prefix("node")?.parse().ok()?;
    Some(Host::Node(quorate_proto::ids::NodeId(node)))
}
