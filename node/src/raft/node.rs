//! All of a node's groups and its peers.

mod beats;
mod groups;
mod roles;
mod start;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quorate_proto::ErrorCode;
use quorate_proto::ids::{GroupId, Identity, Incarnation, NodeId};
use quorate_proto::v1::{Hello, HelloReply, PeerReply, Sender, peer_request};
use tokio::sync::{Notify, Semaphore, watch};

use super::config::RaftConfig;
use super::full;
use super::liveness::{Leadership, Liveness};
use super::pairs::Pairs;
use super::peers::{Arrivals, AskError, Handler, Peers, Sessions};
use super::quiesce::Ledger;
use super::rate::Rate;
use super::timers;
use super::trim;
use crate::env::transport::{Lane, PeerError};
use crate::env::{Env, Moment, PeerHandler, Task};
use crate::storage::{News, Store, StoreError};
pub use groups::GroupError;
pub(in crate::raft) use groups::Leads;
use groups::{Groups, LeadsFound};

/// What peers ask that is not Raft's business.
pub trait PeerHooks: Send + Sync + 'static {
    /// `from` asks to take part. Its identity is not an impostor's; it may be a stranger's.
    fn hello(
        &self,
        from: Sender,
        hello: Hello,
    ) -> BoxFuture<'static, Result<HelloReply, (ErrorCode, String)>>;

    /// A command for the metadata group, forwarded by a node that does not lead it.
    fn command(
        &self,
        command: bytes::Bytes,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<bytes::Bytes, (ErrorCode, String)>>;
}

/// All of a node's groups and its peers. Cheap to clone.
#[derive(Clone)]
pub struct RaftNode(pub(super) Arc<Inner>);

pub(super) struct Inner {
    env: Env,
    /// From then on its ticks count.
    began: Moment,
    pub(super) store: Store,
    config: RaftConfig,
    openraft: Arc<openraft::Config>,
    pub(super) me: NodeId,
    pub(super) hooks: Arc<dyn PeerHooks>,
    pub(super) peers: Arc<Peers>,
    pub(super) sessions: Arc<Sessions>,
    /// Bases that are on their way here.
    pub(super) arrivals: Arrivals,
    /// What members that fell behind may take.
    catch_up: Arc<Rate>,
    groups: Mutex<Groups>,
    leads: LeadsFound,
    liveness: Mutex<Liveness>,
    /// Whose answers stand for beats.
    pairs: Mutex<Pairs>,
    /// What is quiet.
    pub(super) ledger: Arc<Ledger>,
    /// This node is about to stop: nobody is to hand leadership to it.
    unfit: AtomicBool,
    /// Elections that wait for no timer: so many at a time.
    elections: Arc<Semaphore>,
    leaders_changed: watch::Sender<u64>,
    failed: watch::Sender<Option<String>>,
    /// Groups that are to be stopped and started again.
    begin_anew: watch::Sender<BTreeSet<GroupId>>,
    /// Groups of which this node is about to give up its log: the others must not count on it meanwhile.
    pub(super) giving_up: Mutex<BTreeSet<GroupId>>,
    /// When peers last left a starting group without an answer.
    silent: Mutex<BTreeMap<NodeId, Moment>>,
    /// What this node leads has changed: the next beat is due at once.
    beat_now: Arc<Notify>,
    tasks: Mutex<Vec<Task>>,
}

impl RaftNode {
    /// Makes a node without groups. It talks to nobody until it is told addresses.
    ///
    /// # Panics
    /// If `me` is not the node that `store` belongs to, or `config` is not valid.
    pub fn new(
        env: Env,
        store: Store,
        config: RaftConfig,
        me: NodeId,
        incarnation: Incarnation,
        hooks: Arc<dyn PeerHooks>,
    ) -> Self {
        assert_eq!(store.facts().node(), me, "a store belongs to one node");
        config.validate().expect("the configuration was checked when it was read");
        let openraft = config.to_openraft().validate().expect("what is valid for us is valid for openraft");
        let catch_up = Arc::new(Rate::new(config.catch_up_bytes_per_s));
        let inner = Arc::new_cyclic(|inner: &Weak<Inner>| {
            let watched = inner.clone();
            let watch = Arc::new(move |node, event| {
                if let Some(inner) = watched.upgrade() {
                    inner.link(node, event);
                }
            });
            let hearing = inner.clone();
            let heard = Box::new(move |who| {
                if let Some(inner) = hearing.upgrade() {
                    inner.heard(who);
                }
            });
            Inner {
                peers: Peers::new(env.clone(), config.clone(), store.facts(), incarnation, watch, heard),
                env: env.clone(),
                began: env.now(),
                store,
                openraft: Arc::new(openraft),
                me,
                hooks,
                sessions: Arc::default(),
                arrivals: Arrivals::default(),
                catch_up: catch_up.clone(),
                groups: Mutex::default(),
                leads: LeadsFound::default(),
                liveness: Mutex::default(),
                pairs: Mutex::default(),
                ledger: Arc::default(),
                unfit: AtomicBool::new(false),
                elections: Arc::new(Semaphore::new(config.elections_at_once_max)),
                leaders_changed: watch::Sender::new(0),
                failed: watch::Sender::new(None),
                begin_anew: watch::Sender::new(BTreeSet::new()),
                giving_up: Mutex::default(),
                silent: Mutex::default(),
                beat_now: Arc::new(Notify::new()),
                tasks: Mutex::default(),
                config,
            }
        });
        let beats = vital(Arc::downgrade(&inner), "beats", beats::run(env.clone(), Arc::downgrade(&inner)));
        let beats = env.spawn("beats", beats);
        let timers =
            vital(Arc::downgrade(&inner), "timers", timers::run(env.clone(), Arc::downgrade(&inner)));
        let timers = env.spawn("timers", timers);
        let trims = vital(Arc::downgrade(&inner), "trimming", trim::run(env.clone(), Arc::downgrade(&inner)));
        let trims = env.spawn("trims", trims);
        let full = full::hand_over(env.clone(), Arc::downgrade(&inner), inner.store.rooms());
        let full = vital(Arc::downgrade(&inner), "hand-over of a full disk", full);
        let full = env.spawn("hand-over of a full disk", full);
        inner.tasks().extend([beats, timers, trims, full]);
        Self(inner)
    }

    pub(super) fn inner(&self) -> &Arc<Inner> {
        &self.0
    }

    /// Answers the peers: to be given to [`Transport::listen`](crate::env::Transport::listen).
    pub fn handler(&self) -> Arc<dyn PeerHandler> {
        Arc::new(Handler(Arc::downgrade(&self.0)))
    }

    /// Talks to `peer` at `address` (`host:port` of its peer listener) from now on.
    pub fn set_address(&self, peer: NodeId, address: &str) {
        if peer != self.0.me {
            self.0.peers.set_address(peer, address);
            // A connection that never stood proves nothing when it is refused.
            self.0.beat_now.notify_one();
        }
    }

    /// Knows `peer` by `identity` from now on. It becomes durable before that peer's first vote counts; a durable
    /// one is never replaced by this.
    pub fn admit(&self, peer: NodeId, identity: Identity) {
        if peer != self.0.me {
            self.0.peers.identities().admit(peer, identity);
        }
    }

    /// Follows what was agreed on about members: who is gone is not heard any more. Durable on return.
    ///
    /// # Errors
    /// The disk failed, now or earlier: perhaps noted, or not.
    pub async fn learn(&self, news: News) -> Result<(), StoreError> {
        let facts = self.0.store.facts();
        let gone: Vec<NodeId> = news.gone.values().copied().collect();
        facts.learn(news).await?;
        for node in gone.into_iter().filter(|node| *node != self.0.me && facts.peer(*node).is_none()) {
            self.0.peers.forget(node);
        }
        Ok(())
    }

    /// Asks whoever listens at `address` (`host:port`), and says which node that is.
    ///
    /// # Errors
    /// No answer came, or none by a node that could be of this cluster.
    pub async fn introduce(
        &self,
        address: &str,
        body: peer_request::Body,
        timeout: Duration,
    ) -> Result<(NodeId, PeerReply), PeerError> {
        match self.0.peers.introduce(address, body, timeout).await {
            Ok((who, reply)) => Ok((who.node, reply)),
            Err(AskError::Peer(error)) => Err(error),
            Err(
                error @ (AskError::NoAddress(_)
                | AskError::Late(_)
                | AskError::Trimmed(_)
                | AskError::Impostor { .. }
                | AskError::Refused { .. }
                | AskError::Malformed { .. }),
            ) => Err(PeerError::Unreachable(format!("{address}: {error}"))),
        }
    }

    /// What `peer` is known by.
    pub fn known(&self, peer: NodeId) -> Option<Identity> {
        self.0.peers.identities().known(peer)
    }

    /// Who leads a group, by what was heard last: of this node's own groups, and from the beats of all nodes.
    pub fn leadership(&self, group: GroupId) -> Option<Leadership> {
        self.0.liveness().leadership(group)
    }

    /// Changes whenever [`RaftNode::leadership`] of any group does.
    pub fn leaders_changed(&self) -> watch::Receiver<u64> {
        self.0.leaders_changed.subscribe()
    }

    /// When each peer was last heard.
    pub fn alive(&self) -> BTreeMap<NodeId, Moment> {
        self.0.liveness().alive()
    }

    /// The last moment up to `until` at which this node wakes anyway; `until` if none of them is still to come. For
    /// whoever looks at something again and again: a timer of its own would wake an idle processor once more.
    pub fn wake_by(&self, until: Moment) -> Moment {
        self.0.wake_by(until)
    }

    /// A sentence once a group has ended without being stopped, as after a failed write, or a vital task has
    /// panicked: this node must stop.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.0.failed.subscribe()
    }

    /// Runs a task that this node cannot do without. If it panics, the node must stop as if a group had ended by
    /// itself: what was in its hands has no answer, and a broken invariant is not mended by trying again. Then the
    /// panic goes on.
    pub async fn vital(&self, name: &'static str, work: impl Future<Output = ()> + Send) {
        vital(Arc::downgrade(&self.0), name, work).await;
    }

    /// Asks a peer. A refusal is an answer: see its `error` and `message`. So is an answer by someone who is not that
    /// peer, as `WRONG_IDENTITY`.
    ///
    /// # Errors
    /// No answer came: by variant.
    pub async fn call(
        &self,
        peer: NodeId,
        lane: Lane,
        body: peer_request::Body,
        timeout: Duration,
    ) -> Result<PeerReply, PeerError> {
        let refused = |code: ErrorCode, message: String| PeerReply {
            error: code as i32,
            message,
            ..PeerReply::default()
        };
        match self.0.peers.call(peer, lane, body, timeout).await {
            Ok((_, reply)) => Ok(reply),
            Err(AskError::Peer(error)) => Err(error),
            Err(error @ (AskError::NoAddress(_) | AskError::Late(_) | AskError::Trimmed(_))) => {
                Err(PeerError::Unreachable(error.to_string()))
            }
            Err(AskError::Impostor { message, .. }) => Ok(refused(ErrorCode::WrongIdentity, message)),
            Err(AskError::Refused { code, message, .. }) => Ok(refused(code, message)),
            Err(AskError::Malformed { reason, .. }) => Ok(refused(ErrorCode::Internal, reason)),
        }
    }

    /// Stops all groups, and talks to nobody any more.
    pub async fn stop(&self) {
        self.0.groups().stopping = true;
        self.stop_groups().await;
        let tasks = std::mem::take(&mut *self.0.tasks());
        for task in tasks {
            task.stop().await;
        }
        self.0.peers.close();
    }
}

impl fmt::Debug for RaftNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftNode").field("node", &self.0.me).finish_non_exhaustive()
    }
}

impl Inner {
    pub(super) fn liveness(&self) -> MutexGuard<'_, Liveness> {
        self.liveness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pairs(&self) -> MutexGuard<'_, Pairs> {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next of the node's ticks, `gap` apart: all that waits for them is woken together.
    pub(super) fn next_tick(&self, gap: Duration) -> Moment {
        self.last_tick(self.env.now(), gap) + gap
    }

    /// See [`RaftNode::wake_by`].
    pub(super) fn wake_by(&self, until: Moment) -> Moment {
        let tick = self.last_tick(until, Duration::from_millis(self.config.heartbeat_ms));
        if tick > self.env.now() { tick } else { until }
    }

    fn last_tick(&self, until: Moment, gap: Duration) -> Moment {
        let behind = until.since(self.began).as_nanos() % gap.as_nanos().max(1);
        until - Duration::from_nanos(u64::try_from(behind).unwrap_or_default())
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this node is about to stop, and so leads nothing any more if others can.
    pub(super) fn is_unfit(&self) -> bool {
        self.unfit.load(Ordering::Relaxed)
    }

    /// Says from now on that nobody is to hand leadership to this node. Whether it did before.
    pub(super) fn set_unfit(&self) -> bool {
        let before = self.unfit.swap(true, Ordering::Relaxed);
        self.beat_now.notify_one();
        before
    }

    pub(super) fn env(&self) -> &Env {
        &self.env
    }

    pub(super) fn config(&self) -> &RaftConfig {
        &self.config
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Whether a peer left a starting group without an answer not longer ago than that.
    pub(super) fn was_silent(&self, peer: NodeId, since: Duration) -> bool {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.get(&peer).is_some_and(|at| self.env.now().since(*at) < since)
    }

    pub(super) fn note_silent(&self, peer: NodeId) {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, self.env.now());
    }

    fn must_stop(&self, reason: impl FnOnce() -> String) {
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert_with(reason);
            first
        });
    }
}

async fn vital(node: Weak<Inner>, name: &'static str, work: impl Future<Output = ()> + Send) {
    if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
        // The node first: whatever becomes of the line, it must stop.
        if let Some(node) = node.upgrade() {
            node.must_stop(|| format!("the {name} panicked"));
        }
        tracing::error!(task = name, "vital task panicked");
        resume_unwind(panic);
    }
}
