//! The wires between the machines: delays, cuts, and what a crash does to a connection.
//!
//! A connection behaves like TCP's: frames arrive in order or not at all; a cut link holds them back until it is
//! mended; when a process dies its machine resets its connections and refuses new ones, and when a machine loses
//! power nothing is heard from it at all until it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use prost::Message;
use quorate_node::env::Task;
use quorate_node::env::Tasks;
use quorate_proto::call::{Call, Reply};
use quorate_proto::v1::{PeerFrame, PeerReply, PeerReplyFrame};
use tokio::sync::{mpsc, watch};

use super::clock;
use super::tasks::{Host, Life};
use crate::dice::Dice;
use crate::trace::{Event, Trace};

/// How long a connection may take to stand, and a caller waits for a machine that says nothing.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// How quick the wires are.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Every frame takes at least this long.
    pub delay_min: Duration,
    /// And at most this long, but for the slow ones.
    pub delay_max: Duration,
    /// How many of a thousand are slow.
    pub slow_per_mille: u64,
    /// How long a slow one takes at most.
    pub slow_max: Duration,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            delay_min: Duration::from_micros(50),
            delay_max: Duration::from_micros(500),
            slow_per_mille: 0,
            slow_max: Duration::ZERO,
        }
    }
}

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
}

/// Who listens.
pub(super) trait Service: Send + Sync + 'static {
    /// Takes a request and gives the answers that will come of it.
    fn accept(&self, request: Request) -> Vec<BoxFuture<'static, Response>>;
}

/// The network. Clones share it.
#[derive(Clone)]
pub struct Network(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    /// Counts cuts, mends, and machines that come and go.
    changes: watch::Sender<u64>,
    trace: Trace,
    tap: OnceLock<Arc<dyn Tap>>,
}

struct State {
    profile: Profile,
    dice: Dice,
    listeners: BTreeMap<String, Listener>,
    next_listener: u64,
    next_connection: u64,
    /// Machines without power.
    dark: BTreeSet<Host>,
    /// From, to.
    cut: BTreeSet<(Host, Host)>,
}

#[derive(Clone)]
struct Listener {
    number: u64,
    host: Host,
    incoming: mpsc::UnboundedSender<Incoming>,
}

/// The listener's end of a connection.
struct Incoming {
    requests: Inbound<Request>,
    responses: Outbound<Response>,
}

/// The caller's end of a connection.
pub(super) struct Connection {
    pub(super) to: Host,
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

impl Network {
    /// A network with nothing on it.
    pub fn new(profile: Profile, dice: Dice, trace: Trace) -> Self {
        Self(Arc::new(Inner {
            state: Mutex::new(State {
                profile,
                dice,
                listeners: BTreeMap::new(),
                next_listener: 0,
                next_connection: 0,
                dark: BTreeSet::new(),
                cut: BTreeSet::new(),
            }),
            changes: watch::Sender::new(0),
            trace,
            tap: OnceLock::new(),
        }))
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
        self.state().cut.insert((from, to));
        self.changed();
    }

    /// Mends what was cut between the two, one way only.
    pub fn mend(&self, from: Host, to: Host) {
        self.state().cut.remove(&(from, to));
        self.changed();
    }

    /// Mends everything.
    pub fn mend_all(&self) {
        self.state().cut.clear();
        self.changed();
    }

    /// A machine loses its power, or gets it back.
    pub fn set_dark(&self, host: Host, dark: bool) {
        {
            let mut state = self.state();
            if dark {
                state.dark.insert(host);
            } else {
                state.dark.remove(&host);
            }
        }
        self.changed();
    }

    /// Where events go.
    pub(super) fn trace(&self) -> &Trace {
        &self.0.trace
    }

    /// Listens at `address` on the machine of `life`, until the task ends.
    ///
    /// # Errors
    /// Somebody listens there already.
    pub(super) fn listen(
        &self,
        life: &Life,
        address: &str,
        service: Arc<dyn Service>,
    ) -> std::io::Result<Task> {
        let (incoming, mut arrivals) = mpsc::unbounded_channel::<Incoming>();
        let number = {
            let mut state = self.state();
            if state.listeners.contains_key(address) {
                let said = format!("port in use: another process listens on {address}");
                return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, said));
            }
            state.next_listener += 1;
            let number = state.next_listener;
            state.listeners.insert(address.to_owned(), Listener { number, host: life.host(), incoming });
            number
        };
        let place = Listening { network: self.clone(), address: address.to_owned(), number };
        let life_of_tasks = life.clone();
        Ok(life.spawn(
            "listener",
            Box::pin(async move {
                let _place = place;
                let mut connections = Vec::new();
                while let Some(arrival) = arrivals.recv().await {
                    let served = serve(arrival, service.clone());
                    connections.push(life_of_tasks.spawn("connection", Box::pin(served)));
                }
            }),
        ))
    }

    /// Connects `from` with whoever listens at `address`; takes as long as that takes.
    pub(super) async fn connect(&self, from: Host, address: &str) -> Result<Connection, Failure> {
        let to = host_of(address).ok_or(Failure::Unreachable)?;
        clock::sleep(self.delay(0)).await;
        if self.is_silent(from, to) {
            clock::sleep(CONNECT_TIME_MAX).await;
            return Err(Failure::Unreachable);
        }
        let listener = self.state().listeners.get(address).cloned();
        let Some(listener) = listener else {
            clock::sleep(self.delay(0)).await;
            return Err(Failure::Refused);
        };
        let connection = {
            let mut state = self.state();
            state.next_connection += 1;
            state.next_connection
        };
        let (out_requests, in_requests) = self.wire(Wire { connection, from, to: listener.host });
        let (out_responses, in_responses) = self.wire(Wire { connection, from: listener.host, to: from });
        let incoming = Incoming { requests: in_requests, responses: out_responses };
        let accepted = listener.incoming.send(incoming).is_ok();
        clock::sleep(self.delay(0)).await;
        if accepted {
            Ok(Connection { to: listener.host, requests: out_requests, responses: in_responses })
        } else {
            Err(Failure::Refused)
        }
    }

    /// Ready once the caller notices that the other end is gone: after the reset has travelled, or, if the machine
    /// is dark, when it is back or `keep_alive` has passed.
    pub(super) async fn notice_end(&self, from: Host, to: Host, keep_alive: Option<Duration>) {
        clock::sleep(self.delay(0)).await;
        let back = self.until(|state| !state.is_silent(from, to));
        match keep_alive {
            Some(keep_alive) => {
                tokio::select! {
                    biased;
                    () = back => {}
                    () = clock::sleep(keep_alive) => {}
                }
            }
            None => back.await,
        }
    }

    /// Ready when nothing has passed between the two for `keep_alive`; never without one.
    pub(super) async fn starved(&self, from: Host, to: Host, keep_alive: Option<Duration>) {
        let Some(keep_alive) = keep_alive else {
            return std::future::pending().await;
        };
        loop {
            self.until(|state| state.is_silent(from, to)).await;
            tokio::select! {
                biased;
                () = self.until(|state| !state.is_silent(from, to)) => {}
                () = clock::sleep(keep_alive) => return,
            }
        }
    }

    fn wire<T: Digest + Send + 'static>(&self, wire: Wire) -> (Outbound<T>, Inbound<T>) {
        let (tx, rx) = mpsc::unbounded_channel();
        let Wire { from, to, .. } = wire;
        let outbound = Outbound { network: self.clone(), wire, last_due: Duration::ZERO, frames: tx };
        let inbound = Inbound { network: self.clone(), from, to, frames: rx, head: None };
        (outbound, inbound)
    }

    fn delay(&self, bytes: usize) -> Duration {
        let mut state = self.state();
        let Profile { delay_min, delay_max, slow_per_mille, slow_max } = state.profile;
        let own = if state.dice.chance(slow_per_mille) {
            state.dice.time(delay_max, slow_max)
        } else {
            state.dice.time(delay_min, delay_max)
        };
        // A gigabit a second.
        own + Duration::from_nanos(u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(8))
    }

    fn is_silent(&self, from: Host, to: Host) -> bool {
        self.state().is_silent(from, to)
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
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether nothing comes back from `to` when `from` calls.
    fn is_silent(&self, from: Host, to: Host) -> bool {
        self.dark.contains(&to) || self.cut.contains(&(from, to)) || self.cut.contains(&(to, from))
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

/// Takes the address back when the listener ends.
struct Listening {
    network: Network,
    address: String,
    number: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut state = self.network.state();
        if state.listeners.get(&self.address).is_some_and(|listener| listener.number == self.number) {
            state.listeners.remove(&self.address);
        }
    }
}

/// Serves one connection until the caller closes it.
async fn serve(mut arrival: Incoming, service: Arc<dyn Service>) {
    let mut answers = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(answer) = answers.next(), if !answers.is_empty() => arrival.responses.send(answer),
            request = arrival.requests.next() => match request {
                Some(request) => answers.extend(service.accept(request)),
                None => return,
            },
        }
    }
}

/// The sending end of one direction of a connection.
pub(super) struct Outbound<T> {
    network: Network,
    wire: Wire,
    last_due: Duration,
    frames: mpsc::UnboundedSender<(Duration, T)>,
}

impl<T: Digest> Outbound<T> {
    /// Sends; it arrives after whatever was sent before, if the connection lasts.
    pub(super) fn send(&mut self, frame: T) {
        if let Some(tap) = self.network.0.tap.get() {
            tap.sent(self.wire, frame.frame());
        }
        let due = clock::now() + self.network.delay(frame.bytes());
        self.last_due = self.last_due.max(due);
        // The other end may be gone: then it does not arrive.
        self.frames.send((self.last_due, frame)).unwrap_or_default();
    }
}

/// The receiving end of one direction of a connection.
pub(super) struct Inbound<T> {
    network: Network,
    from: Host,
    to: Host,
    frames: mpsc::UnboundedReceiver<(Duration, T)>,
    /// Sent, and on its way.
    head: Option<(Duration, T)>,
}

impl<T: Digest> Inbound<T> {
    /// The next frame, once it has arrived; `None` when the other end has closed. Safe to drop: nothing is lost.
    pub(super) async fn next(&mut self) -> Option<T> {
        if self.head.is_none() {
            self.head = Some(self.frames.recv().await?);
        }
        loop {
            let due = self.head.as_ref().map(|(due, _)| *due).unwrap_or_default();
            clock::sleep(due.saturating_sub(clock::now())).await;
            let (from, to) = (self.from, self.to);
            if !self.network.state().cut.contains(&(from, to)) {
                break;
            }
            // Held back until the link is mended; the sender notices after a while.
            self.network.until(|state| !state.cut.contains(&(from, to))).await;
            if let Some((due, _)) = &mut self.head {
                let wait =
                    self.network.state().dice.time(Duration::from_micros(100), Duration::from_millis(200));
                *due = clock::now() + wait;
            }
        }
        let frame = self.head.take().map(|(_, frame)| frame)?;
        let (what, bytes, crc) = frame.digest();
        self.network.trace().note(&Event::Delivered { from: self.from, to: self.to, what, bytes, crc });
        Some(frame)
    }
}

/// What a trace says of a frame.
pub(super) trait Digest {
    /// Encoded length.
    fn bytes(&self) -> usize;
    /// What it is, its encoded length and the checksum of that.
    fn digest(&self) -> (&'static str, usize, u32);
    /// What it carries.
    fn frame(&self) -> Frame<'_>;
}

fn digest_of(what: &'static str, message: &impl Message) -> (&'static str, usize, u32) {
    let bytes = message.encode_to_vec();
    (what, bytes.len(), crc32c::crc32c(&bytes))
}

impl Digest for Request {
    fn frame(&self) -> Frame<'_> {
        match self {
            Self::Peer(frame) => Frame::Ask(frame),
            Self::Call(number, call) => Frame::Call(*number, call),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Peer(frame) => frame.encoded_len(),
            Self::Call(_, Call::Produce(request)) => request.encoded_len(),
            Self::Call(..) => 100,
        }
    }

    fn digest(&self) -> (&'static str, usize, u32) {
        match self {
            Self::Peer(frame) => digest_of(request_name(frame), frame),
            Self::Call(_, call) => match call {
                Call::Produce(request) => digest_of("produce", request),
                Call::InitProducer(request) => digest_of("init producer", request),
                Call::Fetch(request) => digest_of("fetch", request),
                Call::ListOffset(request) => digest_of("list offset", request),
                Call::EpochEnd(request) => digest_of("epoch end", request),
                Call::Metadata(request) => digest_of("metadata", request),
                Call::ClusterStatus(request) => digest_of("cluster status", request),
                Call::CreateTopic(request) => digest_of("create topic", request),
                Call::DeleteTopic(request) => digest_of("delete topic", request),
            },
        }
    }
}

impl Digest for Response {
    fn frame(&self) -> Frame<'_> {
        match self {
            Self::Peer(frame) => Frame::Answer(frame),
            Self::Reply(number, reply) => Frame::Reply(*number, reply),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Peer(frame) => frame.encoded_len(),
            Self::Reply(_, Reply::Fetch(response)) => response.encoded_len(),
            Self::Reply(..) => 100,
        }
    }

    fn digest(&self) -> (&'static str, usize, u32) {
        match self {
            Self::Peer(frame) => digest_of(reply_name(frame.replies.first()), frame),
            Self::Reply(_, reply) => match reply {
                Reply::Produce(response) => digest_of("produce reply", response),
                Reply::InitProducer(response) => digest_of("init producer reply", response),
                Reply::Fetch(response) => digest_of("fetch reply", response),
                Reply::ListOffset(response) => digest_of("list offset reply", response),
                Reply::EpochEnd(response) => digest_of("epoch end reply", response),
                Reply::Metadata(response) => digest_of("metadata reply", response),
                Reply::ClusterStatus(response) => digest_of("cluster status reply", response),
                Reply::CreateTopic(response) => digest_of("create topic reply", response),
                Reply::DeleteTopic(response) => digest_of("delete topic reply", response),
            },
        }
    }
}

fn request_name(frame: &PeerFrame) -> &'static str {
    use quorate_proto::v1::peer_request::Body;
    match frame.requests.first().and_then(|request| request.body.as_ref()) {
        Some(Body::Hello(_)) => "hello",
        Some(Body::Vote(_)) => "vote",
        Some(Body::PreVote(_)) => "pre-vote",
        Some(Body::Append(_)) => "append",
        Some(Body::Heartbeats(_)) => "heartbeats",
        Some(Body::TransferLeader(_)) => "transfer leader",
        Some(Body::Beat(_)) => "beat",
        Some(Body::Command(_)) => "command",
        Some(Body::Snapshot(_)) => "snapshot",
        None => "nothing",
    }
}

fn reply_name(reply: Option<&PeerReply>) -> &'static str {
    use quorate_proto::v1::peer_reply::Body;
    match reply.and_then(|reply| reply.body.as_ref()) {
        Some(Body::Hello(_)) => "hello reply",
        Some(Body::Vote(_)) => "vote reply",
        Some(Body::Append(_)) => "append reply",
        Some(Body::Heartbeats(_)) => "heartbeats reply",
        Some(Body::Beat(_)) => "beat reply",
        Some(Body::Command(_)) => "command reply",
        Some(Body::Snapshot(_)) => "snapshot reply",
        Some(Body::TransferLeader(_)) => "transfer leader reply",
        None => "refusal",
    }
}
