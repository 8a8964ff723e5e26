//! All of a node's groups and its peers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use openraft::{Raft, ServerState};
use openraft_rt::WatchReceiver;
use quorate_proto::ErrorCode;
use quorate_proto::ids::{GroupId, Identity, Incarnation, NodeId, Term};
use quorate_proto::v1::{self, Hello, HelloReply, PeerReply, Sender, peer_reply, peer_request};
use thiserror::Error;
use tokio::sync::{Mutex as AsyncMutex, Notify, Semaphore, mpsc, oneshot, watch};

use super::base::Base;
use super::config::RaftConfig;
use super::election;
use super::floor::Floor;
use super::full;
use super::group::{Group, Role, Running, role_of};
use super::liveness::{Death, Leadership, Liveness, digest_of_leads};
use super::log_store::{LogStore, Phase};
use super::machine::{Apply, Machine, Parts};
use super::peers::{
    Arrivals, AskError, Handler, Network, Peers, Sessions, Who, leads_from_wire, leads_to_wire, quiet_to_wire,
};
use super::quiesce::Ledger;
use super::quiet::Said;
use super::rate::Rate;
use super::rejoin::{self, Unready};
use super::repair;
use super::runtime::{Registry, Scope};
use super::timers::{self, ElectionTimer};
use super::trim;
use super::types::{Member, first_entry, log_id_to_raft, node_to_raft};
use crate::env::transport::{Lane, LinkEvent, PeerError};
use crate::env::{Env, Mark, Moment, PeerHandler, Point, Task};
use crate::storage::{CheckpointKind, Entry, Log, LogId, Lost, News, ReadError, Store, StoreError};

/// How late a role may be noticed, where a [`Point`] makes it so.
const ROLE_LATE_MAX: Duration = Duration::from_millis(50);

/// News of what a node leads waits so long for further news: where many groups find their leaders at once, each beat
/// tells of all of them.
const SOON: Duration = Duration::from_millis(5);

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

/// Why a group was not started.
#[derive(Debug, Error)]
pub enum GroupError {
    /// It runs already.
    #[error("group {0} runs already")]
    Running(GroupId),
    /// The members name this node with another identity: this is not the disk that was made a member.
    #[error(
        "group {group} has this node as a member with identity {member}, and this disk has identity {ours}"
    )]
    WrongIdentity {
        /// Which group.
        group: GroupId,
        /// The member's.
        member: Identity,
        /// This disk's.
        ours: Identity,
    },
    /// The node is stopping.
    #[error("this node is stopping")]
    Stopping,
    /// Something of its log is lost here, and is not known again: it is tried again, and in vain if no other replica has
    /// it.
    #[error("group {group} was not started: {reason}")]
    Damaged {
        /// Which group.
        group: GroupId,
        /// What is waited for.
        reason: String,
    },
    /// The log could not be read or written.
    #[error("group {group} was not started: {reason}")]
    Failed {
        /// Which group.
        group: GroupId,
        /// What openraft said.
        reason: String,
    },
}

/// All of a node's groups and its peers. Cheap to clone.
#[derive(Clone)]
pub struct RaftNode(pub(super) Arc<Inner>);

pub(super) struct Inner {
    env: Env,
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
    liveness: Mutex<Liveness>,
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
    /// When peers last left a starting group without an answer.
    silent: Mutex<BTreeMap<NodeId, Moment>>,
    /// What this node leads has changed: the next beat is due at once.
    beat_now: Arc<Notify>,
    tasks: Mutex<Vec<Task>>,
}

#[derive(Default)]
struct Groups {
    running: BTreeMap<GroupId, Group>,
    /// Being started: a second start is refused.
    starting: BTreeMap<GroupId, Starting>,
    /// Being stopped: a start is refused until that is done, by whoever began it or by the next one who stops it.
    ending: BTreeMap<GroupId, Group>,
    stopping: bool,
}

/// A start has a task of its own, so that whoever asked for it may go.
struct Starting {
    /// `None` once somebody waits for its end.
    task: Option<Task>,
    /// It has started for nobody and is being stopped.
    given_up: bool,
}

impl Groups {
    fn knows(&self, group: GroupId) -> bool {
        self.running.contains_key(&group)
            || self.starting.contains_key(&group)
            || self.ending.contains_key(&group)
    }
}

/// The start of a group while its end is waited for. Whoever gives that up leaves the start to the next one: it may
/// not be aborted halfway.
struct Awaited<'a> {
    node: &'a Inner,
    group: GroupId,
    task: Option<Task>,
}

impl Awaited<'_> {
    async fn ended(mut self) {
        if let Some(task) = &mut self.task {
            // A panic in it has been told.
            drop(AssertUnwindSafe(task.ended()).catch_unwind().await);
        }
        self.task = None;
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let Some(task) = self.task.take() else { return };
        let mut groups = self.node.groups();
        if let Some(start) = groups.starting.get_mut(&self.group) {
            start.task = Some(task);
        }
    }
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
                store,
                openraft: Arc::new(openraft),
                me,
                hooks,
                sessions: Arc::default(),
                arrivals: Arrivals::default(),
                catch_up: catch_up.clone(),
                groups: Mutex::default(),
                liveness: Mutex::default(),
                ledger: Arc::default(),
                unfit: AtomicBool::new(false),
                elections: Arc::new(Semaphore::new(config.elections_at_once_max)),
                leaders_changed: watch::Sender::new(0),
                failed: watch::Sender::new(None),
                begin_anew: watch::Sender::new(BTreeSet::new()),
                silent: Mutex::default(),
                beat_now: Arc::new(Notify::new()),
                tasks: Mutex::default(),
                config,
            }
        });
        let beats = env.spawn("beats", beats(env.clone(), Arc::downgrade(&inner)));
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

    /// Starts a group. `members` count while its log is empty, and then every member must call this with the same
    /// ones: the first is tried first as leader. What was committed before is applied again, from the newest
    /// checkpoint or the start of the log, before this returns. Dropping the future gives the group up: it is stopped
    /// once it has started, and refused until then; see [`RaftNode::stop_groups`].
    ///
    /// # Errors
    /// By variant.
    pub async fn start_group(
        &self,
        group: GroupId,
        members: Vec<Member>,
        apply: Box<dyn Apply>,
    ) -> Result<Group, GroupError> {
        self.start_group_beside(group, members, Vec::new(), apply).await
    }

    /// [`RaftNode::start_group`] of a group whose members may have changed since its first entry: `others` have it too,
    /// or may, and are asked what this node had of it.
    ///
    /// # Errors
    /// By variant.
    pub async fn start_group_beside(
        &self,
        group: GroupId,
        members: Vec<Member>,
        others: Vec<NodeId>,
        apply: Box<dyn Apply>,
    ) -> Result<Group, GroupError> {
        let (reply, started) = oneshot::channel();
        {
            let mut groups = self.0.groups();
            if groups.stopping {
                return Err(GroupError::Stopping);
            }
            if groups.knows(group) {
                return Err(GroupError::Running(group));
            }
            let (node, starting) =
                (self.clone(), self.0.clone().start_for(group, (members, others), apply, reply));
            let task = self
                .0
                .env
                .spawn("group start", async move { node.vital("start of a group", starting).await });
            // Under one lock with the look above: the task takes itself off the list.
            groups.starting.insert(group, Starting { task: Some(task), given_up: false });
        }
        self.0.begin_anew.send_if_modified(|groups| groups.remove(&group));
        started.await.unwrap_or(Err(GroupError::Stopping))
    }

    /// The group, if it runs here.
    pub fn group(&self, group: GroupId) -> Option<Group> {
        self.0.group(group)
    }

    /// Stops a group; its log stays. Pending proposals have no known outcome. If this is dropped, the next one who stops
    /// the group does the rest.
    pub async fn stop_group(&self, group: GroupId) {
        self.0.sessions.forget(group);
        self.0.arrivals.forget(group);
        let stopped = {
            let mut groups = self.0.groups();
            if let Some(running) = groups.running.remove(&group) {
                groups.ending.insert(group, running);
            }
            groups.ending.get(&group).cloned()
        };
        if let Some(stopped) = stopped {
            self.0.end(stopped).await;
        }
    }

    /// Stops all groups, also those that are being started; their logs stay, and they may be started again. For
    /// whoever sees to it that nobody starts any meanwhile. If this is dropped, the next call does the rest.
    pub async fn stop_groups(&self) {
        loop {
            let (ending, starting) = {
                let mut groups = self.0.groups();
                let running = std::mem::take(&mut groups.running);
                groups.ending.extend(running);
                let ending: Vec<Group> = groups.ending.values().cloned().collect();
                // Taken and not removed: a second start is refused until this one has ended.
                let starting =
                    groups.starting.iter_mut().find_map(|(id, start)| Some((*id, start.task.take()?)));
                (ending, starting)
            };
            if ending.is_empty() && starting.is_none() {
                return;
            }
            let starting = starting.map(|(group, task)| Awaited { node: &self.0, group, task: Some(task) });
            for group in ending {
                self.0.end(group).await;
            }
            if let Some(starting) = starting {
                starting.ended().await;
            }
        }
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

    /// A sentence once a group has ended without being stopped, as after a failed write, or a vital task has
    /// panicked: this node must stop.
    pub fn failed(&self) -> watch::Receiver<Option<String>> {
        self.0.failed.subscribe()
    }

    /// Groups whose owner is to stop them and start them again: something of their log is lost here that only a start
    /// can do without. Each stays here until it is started.
    pub fn begin_anew(&self) -> watch::Receiver<BTreeSet<GroupId>> {
        self.0.begin_anew.subscribe()
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
    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn liveness(&self) -> MutexGuard<'_, Liveness> {
        self.liveness.lock().unwrap_or_else(PoisonError::into_inner)
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

    pub(super) fn is_stopping(&self) -> bool {
        self.groups().stopping
    }

    /// Whether a peer left a starting group without an answer not longer ago than that.
    pub(super) fn was_silent(&self, peer: NodeId, since: Duration) -> bool {
        let silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.get(&peer).is_some_and(|at| self.env.now().since(*at) < since)
    }

    pub(super) fn note_silent(&self, peer: NodeId) {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).insert(peer, self.env.now());
    }

    /// A group cannot go on with what is left of its log here.
    pub(super) fn must_begin_anew(&self, group: GroupId) {
        if self.begin_anew.send_if_modified(|groups| groups.insert(group)) {
            self.env.reached(Mark::GroupRestartedForDamage);
            tracing::warn!(%group, "group is started again, without what is damaged");
        }
    }

    pub(super) fn group(&self, group: GroupId) -> Option<Group> {
        self.groups().running.get(&group).cloned()
    }

    /// Its running groups.
    pub(super) fn running(&self) -> Vec<Group> {
        self.groups().running.values().cloned().collect()
    }

    /// What this node leads.
    pub(super) fn leads(&self) -> BTreeMap<GroupId, Term> {
        let lead = |(id, group): (&GroupId, &Group)| match group.role() {
            Role::Leader { term, .. } => Some((*id, term)),
            Role::Follower { .. } => None,
        };
        self.groups().running.iter().filter_map(lead).collect()
    }

    /// Starts a group for whoever waits for `reply`; stops it again if nobody does any more.
    async fn start_for(
        self: Arc<Self>,
        id: GroupId,
        (members, others): (Vec<Member>, Vec<NodeId>),
        apply: Box<dyn Apply>,
        reply: oneshot::Sender<Result<Group, GroupError>>,
    ) {
        let started = self.start(id, members, others, apply).boxed().await;
        // Told under the lock: whoever hears of it finds it listed.
        let given_up = {
            let mut groups = self.groups();
            match started {
                Ok(group) if groups.stopping || reply.is_closed() => {
                    if let Some(start) = groups.starting.get_mut(&id) {
                        start.given_up = true;
                    }
                    group
                }
                started => {
                    if let Ok(group) = &started {
                        groups.running.insert(id, group.clone());
                    }
                    groups.starting.remove(&id);
                    // Whoever goes now leaves it running.
                    drop(reply.send(started));
                    return;
                }
            }
        };
        given_up.stop().await;
        self.leads_not(id, self.me, Term(u64::MAX));
        self.groups().starting.remove(&id);
    }

    async fn start(
        self: &Arc<Self>,
        id: GroupId,
        members: Vec<Member>,
        others: Vec<NodeId>,
        mut apply: Box<dyn Apply>,
    ) -> Result<Group, GroupError> {
        let ours = self.store.facts().identity();
        for member in &members {
            if member.node != self.me {
                self.peers.identities().admit(member.node, member.identity);
            } else if member.identity != ours {
                return Err(GroupError::WrongIdentity { group: id, member: member.identity, ours });
            }
        }
        let failed = |reason: &dyn ToString| GroupError::Failed { group: id, reason: reason.to_string() };
        let log = self.store.log(id);
        // openraft takes all that it finds for durable, and says so to its leader: what a former run of the group has
        // left on its way to the disk is waited for, and never comes there once the disk has failed.
        log.synced().await.map_err(|error| failed(&error))?;
        if self.store.may_have_forgotten(id) {
            if id != GroupId::METADATA && self.store.forgot_any() {
                // The metadata tell which groups were made since: of those nothing is lost.
                let reason = "it is not known yet whether this node ever had it".to_owned();
                return Err(GroupError::Damaged { group: id, reason });
            }
            // It was perhaps here, with a vote: it is not begun by this node.
            log.set_lost(Lost { tail: true, vote: true }).await.map_err(|error| failed(&error))?;
        }
        let (phase, phased) = watch::channel(Phase::Starting);
        let (bytes_max, rate) = (self.config.append_bytes_max, self.catch_up.clone());
        let store = LogStore::new(log.clone(), bytes_max, self.env.clone(), rate, phased);
        let base = Arc::new(Base::new(store.clone(), log.clone(), apply.fresh()));
        if let Some(at) = base.at().filter(|at| log.state().last.is_none_or(|last| last.index < at.index)) {
            // A crash came before the log was trimmed to what a peer had sent.
            log.trim_prefix(at).await.map_err(|error| failed(&error))?;
        }
        let place = members.iter().position(|member| member.node == self.me);
        let place = place.filter(|_| log.state().last.is_none() && !log.damage().lost.any());
        let mut nodes: BTreeSet<NodeId> = members.iter().map(|member| member.node).chain(others).collect();
        if id == GroupId::METADATA {
            // Every node has it.
            nodes.extend(self.store.facts().peers().into_keys());
        }
        let nodes: Vec<NodeId> = nodes.into_iter().filter(|node| *node != self.me).collect();
        let until = match place {
            Some(_) => None,
            None => rejoin::pass(self, &log, &nodes).boxed().await.map_err(|unready| match unready {
                Unready::Store(error) => failed(&error),
                unready @ (Unready::NoOther | Unready::NotYet(_)) => {
                    GroupError::Damaged { group: id, reason: unready.to_string() }
                }
            })?,
        };
        let resumed = match base.resume(&mut *apply).await {
            Ok(resumed) => resumed,
            Err(error) if !nodes.is_empty() && is_damage(&error) => {
                // The next try gives up the log, and all of it comes from a peer.
                log.lose_base().await.map_err(|error| failed(&error))?;
                return Err(GroupError::Damaged { group: id, reason: format!("its base is lost: {error}") });
            }
            Err(error) => return Err(failed(&error)),
        };
        if let Some((kind, at, _)) = &resumed {
            self.env.reached(match kind {
                CheckpointKind::Base => Mark::StartFromABase,
                CheckpointKind::Recent => Mark::StartFromARecentCheckpoint,
            });
            tracing::debug!(group = %id, index = %at.index, ?kind, "group goes on from a checkpoint");
        }
        if place.is_some() {
            // All members begin with the same entry, so each can write it alone. openraft's own `initialize` would
            // refuse on a node that has voted before it heard of any entry, and such a group would wait for ever if
            // its first leader did not come back.
            append(&log, first_entry(id, &members)).await.map_err(|error| failed(&error))?;
        }
        let applied = Arc::new(watch::Sender::new(resumed.as_ref().map(|(_, at, _)| *at)));
        let (checkpoints, to_save) = mpsc::channel(1);
        let floor = Arc::<Floor>::default();
        let machine = Machine::new(Parts {
            env: self.env.clone(),
            group: id,
            owner: apply,
            resumed: resumed.map(|(_, at, members)| (log_id_to_raft(at), members)),
            base: base.clone(),
            applied: applied.clone(),
            checkpoints,
            checkpoint_entries: self.config.checkpoint_entries,
        });
        let registry = Registry::new();
        let scope = Scope::new(self.env.clone(), &registry);
        // openraft reads the log as it starts, and waits for what is damaged.
        scope.start(repair::run(Arc::downgrade(self), log.clone(), nodes));
        let raft = Raft::new(
            node_to_raft(self.me),
            self.openraft.clone(),
            Network::new(self.peers.clone(), id, floor.clone(), self.catch_up.clone()),
            store,
            machine,
        );
        let raft = scope.enter(raft).boxed().await.map_err(|error| failed(&error))?;
        let roles = watch::Sender::new(role_of(&raft.server_metrics().borrow_watched(), None, self.me));
        let (env, watched) = (self.env.clone(), applied.subscribe());
        let saving = trim::save_checkpoints(log.clone(), to_save);
        let running = Running {
            id,
            me: self.me,
            env,
            log,
            raft,
            scope,
            registry,
            roles,
            applied: watched,
            replacing: Mutex::default(),
            timer: ElectionTimer::default(),
            phase,
            base,
            floor,
            ledger: Arc::clone(&self.ledger),
            waking: AsyncMutex::default(),
            transfer: watch::Sender::new(None),
            handed: Mutex::default(),
            tenure: Mutex::default(),
            elections: Arc::clone(&self.elections),
            ending: AsyncMutex::default(),
        };
        let group = Group(Arc::new(running));
        group.0.phase.send_replace(Phase::Running);
        if let Some(until) = until {
            let (env, log) = (self.env.clone(), group.log().clone());
            group.0.scope.start(rejoin::regain(env, log, until, applied.subscribe()));
        }
        for member in group.members() {
            if member.node != self.me {
                self.peers.identities().admit(member.node, member.identity);
            }
        }
        let watching = watch_role(Arc::downgrade(self), group.downgrade(), applied.subscribe());
        group.0.scope.start(watching);
        group.0.scope.start(saving);
        group.0.scope.start(election::begin(Arc::downgrade(self), group.downgrade(), place));
        Ok(group)
    }

    pub(super) fn heard(self: &Arc<Self>, who: Who) {
        let (death, lived) = {
            let mut liveness = self.liveness();
            (liveness.heard(who.node, who.incarnation, self.env.now()), liveness.take_lived(who.node))
        };
        if lived {
            self.env.reached(Mark::TakenForDeadAndLived);
        }
        self.died(death, "another incarnation");
    }

    fn link(self: &Arc<Self>, node: NodeId, event: LinkEvent) {
        let mut death = self.liveness().link(node, event);
        if event == LinkEvent::Reset && self.env.perturb(Point::ResetTakenForDeath) {
            death = self.liveness().link(node, LinkEvent::Refused);
        }
        self.died(death, "reset, then refused");
    }

    /// Each group that the dead node led looks for another leader.
    fn died(self: &Arc<Self>, death: Option<Death>, proof: &'static str) {
        let Some(Death(dead)) = death else { return };
        self.env.reached(Mark::PeerProvenDead);
        tracing::info!(peer = %dead, proof, "peer died");
        self.quiet_died(dead);
        if self.liveness().forget_leader(dead) {
            self.changed();
        }
        for group in self.running() {
            let vote = group.vote();
            if vote.committed && vote.leader_id.voted_for == node_to_raft(dead) {
                group.0.scope.start(election::replace(group.downgrade(), vote, dead, self.config.clone()));
            }
        }
    }

    /// `node` has beaten, or answered a beat: it leads these groups, or what is known of it if none are given.
    pub(super) fn beat(
        &self,
        node: NodeId,
        leads: Option<&BTreeMap<GroupId, Term>>,
        (unfit, knows): (bool, u64),
    ) {
        let news = {
            let mut liveness = self.liveness();
            liveness.said(node, unfit, knows);
            leads.is_some_and(|leads| liveness.beat(node, leads))
        };
        if news {
            self.changed();
        }
    }

    /// What is said of `leads`, which this node leads, to one who knows what comes to this digest; and a digest of what
    /// is known of that one.
    pub(super) fn told_of_leads(
        &self,
        leads: &BTreeMap<GroupId, Term>,
        to: NodeId,
        knows: Option<u64>,
    ) -> (Vec<v1::Leadership>, bool, u64) {
        let digest = digest_of_leads(leads.iter().map(|(group, term)| (*group, *term)));
        let liveness = self.liveness();
        let known = knows.map_or_else(|| liveness.is_known_to(to, digest), |knows| knows == digest);
        (if known { Vec::new() } else { leads_to_wire(leads) }, known, liveness.known_of(to))
    }

    /// Stops a group that is listed as ending. Several may: the first to see its end takes it off the list, and what
    /// runs under its id afterwards is another group.
    async fn end(&self, group: Group) {
        let id = group.id();
        self.sessions.forget(id);
        self.arrivals.forget(id);
        group.stop().await;
        let mut groups = self.groups();
        if groups.ending.get(&id).is_some_and(|listed| Arc::ptr_eq(&listed.0, &group.0)) {
            // Before it can be started again.
            self.leads_not(id, self.me, Term(u64::MAX));
            groups.ending.remove(&id);
        }
    }

    fn leads_not(&self, group: GroupId, node: NodeId, term: Term) {
        if node == self.me {
            // It has stopped here.
            self.ledger.lock().forget(group);
        }
        if self.liveness().leads_not(group, node, term) {
            self.changed();
        }
    }

    fn changed(&self) {
        self.leaders_changed.send_modify(|version| *version += 1);
    }

    pub(super) fn is_led(&self, group: GroupId) -> bool {
        self.liveness().leadership(group).is_some()
    }

    pub(super) fn heard_since(&self, node: NodeId, since: Moment) -> bool {
        self.liveness().heard_since(node, since)
    }

    /// This node's role in one of its groups is `role` now.
    fn role_changed(&self, group: GroupId, role: Role) {
        let news = match role {
            Role::Leader { term, .. } => {
                let news = self.liveness().leads(group, Leadership { leader: self.me, term });
                if news {
                    self.beat_now.notify_one();
                }
                news
            }
            Role::Follower { leader, term } => {
                self.ledger.lock().leads_not(group);
                let mut liveness = self.liveness();
                let mut news = liveness.leads_not(group, self.me, term);
                // What a vote of before a restart says is no news of a leader.
                let recent = self.env.now() - Duration::from_millis(self.config.election_timeout_ms_max);
                if let Some(leader) =
                    leader.filter(|leader| *leader != self.me && liveness.heard_since(*leader, recent))
                {
                    news |= liveness.leads(group, Leadership { leader, term });
                }
                news
            }
        };
        if news {
            self.changed();
        }
    }

    /// A group ended and nobody had stopped it.
    fn group_failed(&self, group: GroupId) {
        // It may end before its start has.
        let known = |groups: &Groups| {
            let starting = groups.starting.get(&group).is_some_and(|start| !start.given_up);
            (groups.running.contains_key(&group) || starting) && !groups.stopping
        };
        if known(&self.groups()) {
            tracing::error!(%group, "raft group ended by itself");
            self.must_stop(|| format!("raft group {group} ended by itself"));
        }
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
        tracing::error!(task = name, "vital task panicked");
        if let Some(node) = node.upgrade() {
            node.must_stop(|| format!("the {name} panicked"));
        }
        resume_unwind(panic);
    }
}

/// Whether something that was read is not what was written.
fn is_damage(error: &io::Error) -> bool {
    let read = error.get_ref().and_then(|inner| inner.downcast_ref::<ReadError>());
    read.is_some_and(ReadError::is_damage)
}

/// Appends an entry that openraft does not know of yet. Durable on return.
async fn append(log: &Log, entry: Entry) -> Result<(), StoreError> {
    let (tx, rx) = oneshot::channel();
    log.append(vec![entry], Box::new(move |synced| drop(tx.send(synced))))?;
    rx.await.unwrap_or(Err(StoreError::Closed))
}

/// Turns what openraft says of itself into roles.
async fn watch_role(weak: Weak<Inner>, group: Weak<Running>, mut applied: watch::Receiver<Option<LogId>>) {
    let Some((mut metrics, env)) =
        group.upgrade().map(|group| (group.raft.server_metrics(), group.env.clone()))
    else {
        return;
    };
    let mut was = ServerState::Follower;
    loop {
        env.dawdle(Point::RoleLate, ROLE_LATE_MAX).await;
        let (Some(node), Some(running)) = (weak.upgrade(), group.upgrade()) else { return };
        let last = *applied.borrow_and_update();
        let (role, state) = {
            let metrics = metrics.borrow_and_update();
            (role_of(&metrics, last, running.me), metrics.state)
        };
        match (std::mem::replace(&mut was, state), state) {
            (ServerState::Candidate | ServerState::Follower, ServerState::Leader) => {
                env.reached(Mark::ElectionWon);
                env.metrics.elections_won.add(1);
            }
            (ServerState::Candidate, ServerState::Follower) => env.reached(Mark::ElectionLost),
            (ServerState::Leader, ServerState::Follower | ServerState::Candidate) => {
                env.reached(Mark::LeaderDeposed);
                env.metrics.leaderships_lost.add(1);
            }
            _ => {}
        }
        let mut before = role;
        let changed = running.roles.send_if_modified(|known| {
            before = std::mem::replace(known, role);
            before != role
        });
        if changed {
            running.note_role(role);
            running.tell(before, role);
            node.role_changed(running.id, role);
        }
        let id = running.id;
        drop((node, running));
        let waits = matches!(role, Role::Leader { ready: false, .. });
        let alive = tokio::select! {
            biased;
            changed = metrics.changed() => changed.is_ok(),
            changed = applied.changed(), if waits => changed.is_ok(),
        };
        if !alive {
            // openraft's own end closes its metrics; a group that is stopped does not get here.
            // Nor does one whose start was given up: nobody has it any more.
            let Some(running) = group.upgrade() else { return };
            running.lost();
            if let Some(node) = weak.upgrade() {
                node.group_failed(id);
            }
            return;
        }
    }
}

/// Says to each peer what this node leads, and so that it lives; and hears the same from it.
async fn beats(env: Env, node: Weak<Inner>) {
    let mut in_flight = FuturesUnordered::new();
    loop {
        let (gap, changed) = {
            let Some(node) = node.upgrade() else { return };
            let silent = Duration::from_millis(node.config.election_timeout_ms_max) * 2;
            if node.liveness().expire(env.now() - silent, node.me) {
                node.changed();
            }
            // Before that, nobody would listen.
            if node.peers.identities().cluster().is_some() {
                let leads = match env.perturb(Point::BeatWithoutLeads) {
                    true => BTreeMap::new(),
                    false => node.leads(),
                };
                for peer in node.peers.nodes() {
                    if !env.perturb(Point::BeatSkipped) {
                        let said = node.quiet_said(peer);
                        in_flight.push(beat(&node, peer, &leads, said));
                    }
                }
            }
            (Duration::from_millis(node.config.beat_ms), node.beat_now.clone())
        };
        let (mut pause, mut soon) = (env.sleep(gap), false);
        loop {
            tokio::select! {
                biased;
                Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
                () = &mut pause => break,
                () = changed.notified(), if !soon => {
                    (pause, soon) = (env.sleep(gap.min(SOON)), true);
                }
            }
        }
    }
}

/// One beat. Sent now; the future takes the answer.
fn beat(
    node: &Arc<Inner>,
    peer: NodeId,
    leads: &BTreeMap<GroupId, Term>,
    said: Said,
) -> impl Future<Output = ()> + Send + use<> {
    let (leads, leads_known, knows) = node.told_of_leads(leads, peer, None);
    let (quiet, unfit, health) = (Some(quiet_to_wire(&said)), node.is_unfit(), Some(node.health().to_wire()));
    let body = peer_request::Body::Beat(v1::NodeBeat { leads, quiet, unfit, leads_known, knows, health });
    let timeout = Duration::from_millis(node.config.election_timeout_ms_min);
    let asked = node.peers.ask(peer, Lane::Urgent, body, timeout);
    let node = Arc::downgrade(node);
    async move {
        let reply = match asked.await {
            Ok((_, peer_reply::Body::Beat(reply))) => Some(reply),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%peer, %error, "beat was not answered");
                None
            }
        };
        let Some(node) = node.upgrade() else { return };
        node.quiet_answered(peer, &said, reply.as_ref().and_then(|reply| reply.quiet.as_ref()));
        if let Some(reply) = reply
            && let Ok(leads) = leads_from_wire(&reply.leads)
        {
            let leads = (!reply.leads_known).then_some(&leads);
            node.beat(peer, leads, (reply.unfit, reply.knows));
            node.told(peer, reply.health.as_ref());
        }
    }
}
