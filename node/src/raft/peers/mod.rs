//! What nodes say to each other: links to the peers, who may talk, and openraft's network over them.
//!
//! Two lanes a peer: entries travel on the bulk lane, everything that keeps a leader a leader on the urgent one.

mod appends;
mod arrivals;
mod catch_up;
mod conflicts;
mod convert;
mod handler;
mod heartbeats;
mod identity;
mod network;
mod sessions;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_proto::ids::{Identity, Incarnation, NodeId};
use quorate_proto::v1::{PeerReply, PeerRequest, Sender, peer_reply, peer_request};
use thiserror::Error;
use tokio::sync::watch;

pub(super) use arrivals::Arrivals;
pub(super) use handler::{Handler, leads_from_wire, leads_to_wire, quiet_to_wire};
use identity::{Identities, Standing};
pub(super) use identity::{Refusal, Who};
pub(super) use network::Network;
pub(super) use sessions::Sessions;

use super::config::RaftConfig;
use super::health::Healths;
use crate::env::transport::{Lane, LinkWatch, PeerError};
use crate::env::{Env, Moment, PeerLink};
use crate::storage::{DiskRoom, Facts};
use heartbeats::Heartbeats;

/// Stands for a peer whose id is not known yet: no node has it.
const NOBODY: NodeId = NodeId(0);

/// Why a peer did not do what it was asked.
#[derive(Clone, Debug, Error)]
pub(super) enum AskError {
    /// No address is known.
    #[error("no address of node {0} is known")]
    NoAddress(NodeId),
    /// No answer came.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// None came in time.
    #[error("{} did not answer in time", named(*.0))]
    Late(NodeId),
    /// What it needs next is not sent any more: it gets the base.
    #[error("the log no longer holds what node {0} needs")]
    Trimmed(NodeId),
    /// Who answered is not who was asked.
    #[error("{}: {message}", impostor(*node))]
    Impostor { node: NodeId, message: String },
    /// It refused, or failed.
    #[error("node {node} answered {}: {message}", code.as_str_name())]
    Refused { node: NodeId, code: ErrorCode, message: String },
    /// The answer is none that we would have given.
    #[error("node {node} sent a malformed answer: {reason}")]
    Malformed { node: NodeId, reason: String },
}

/// A peer, whose id may not be known yet.
fn named(node: NodeId) -> String {
    if node == NOBODY { "whoever is there".to_owned() } else { format!("node {node}") }
}

fn impostor(node: NodeId) -> String {
    if node == NOBODY {
        "who answered cannot be a member".to_owned()
    } else {
        format!("the answer was not that of node {node}")
    }
}

/// The peers of this node. All groups share them.
pub(super) struct Peers {
    env: Env,
    config: RaftConfig,
    identities: Identities,
    me: NodeId,
    identity: Identity,
    incarnation: Incarnation,
    watch: LinkWatch,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// Counts up whenever a peer that was silent is so no more.
    again: watch::Sender<u64>,
    /// Tells a leader's replication streams apart.
    sessions: AtomicU64,
    /// What the peers say of their disks.
    healths: Mutex<Healths>,
    /// Told of every answer whose sender was found to be in order.
    heard: Box<dyn Fn(Who) + Send + Sync>,
}

struct Peer {
    address: String,
    /// When it was last heard, or first had this address: then it may be there.
    heard: Moment,
    urgent: Arc<dyn PeerLink>,
    bulk: Arc<dyn PeerLink>,
    heartbeats: Heartbeats,
}

impl Peers {
    pub(super) fn new(
        env: Env,
        config: RaftConfig,
        facts: &Facts,
        incarnation: Incarnation,
        watch: LinkWatch,
        heard: Box<dyn Fn(Who) + Send + Sync>,
    ) -> Arc<Self> {
        Arc::new(Self {
            env,
            config,
            identities: Identities::new(facts.clone()),
            me: facts.node(),
            identity: facts.identity(),
            incarnation,
            watch,
            peers: Mutex::default(),
            again: watch::Sender::new(0),
            sessions: AtomicU64::new(1),
            healths: Mutex::default(),
            heard,
        })
    }

    pub(super) fn env(&self) -> &Env {
        &self.env
    }

    pub(super) fn identities(&self) -> &Identities {
        &self.identities
    }

    /// What the peers say of their disks. Not to be held while anything else is locked or awaited.
    pub(super) fn healths(&self) -> MutexGuard<'_, Healths> {
        self.healths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The room on a peer's disk, if it takes no entries for that.
    fn refuses_entries(&self, node: NodeId) -> Option<DiskRoom> {
        self.healths().full(node, self.env.now()).filter(DiskRoom::refuses_entries)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed)
    }

    /// Who we are, as put on a frame to `to`; 0 on answers.
    pub(super) fn sender(&self, to: u32) -> Sender {
        Sender {
            cluster_id: self.identities.cluster().map(|id| id.to_wire()).unwrap_or_default(),
            node: self.me.0,
            identity: self.identity.to_wire(),
            incarnation: self.incarnation.0,
            to,
            admission: self.identities.admission(),
        }
    }

    /// Links to `node` at `address` from now on.
    pub(super) fn set_address(self: &Arc<Self>, node: NodeId, address: &str) {
        let mut peers = self.lock();
        if peers.get(&node).is_some_and(|peer| peer.address == address) {
            return;
        }
        let connect = |lane| {
            let this = Arc::downgrade(self);
            let sender =
                Arc::new(move || this.upgrade().map(|peers| peers.sender(node.0)).unwrap_or_default());
            self.env.transport.connect(node, address, lane, sender, self.watch.clone())
        };
        let peer = Peer {
            address: address.to_owned(),
            heard: self.env.now(),
            urgent: connect(Lane::Urgent),
            bulk: connect(Lane::Bulk),
            heartbeats: Heartbeats::start(self, node),
        };
        peers.insert(node, peer);
        drop(peers);
        self.again.send_modify(|times| *times += 1);
    }

    /// A message came from `node`.
    fn came_from(&self, node: NodeId) {
        let now = self.env.now();
        let was_silent = {
            let mut peers = self.lock();
            let Some(peer) = peers.get_mut(&node) else { return };
            let before = std::mem::replace(&mut peer.heard, now);
            self.is_long(now.since(before))
        };
        if was_silent {
            self.again.send_modify(|times| *times += 1);
        }
    }

    /// Whether whoever is silent for so long may be down: as long as what it led is remembered.
    fn is_long(&self, silence: Duration) -> bool {
        silence >= Duration::from_millis(self.config.election_timeout_ms_max) * 2
    }

    /// Whether `node` is not known to be silent. All nodes beat, and answer beats: whoever is there is soon heard.
    fn is_heard(&self, node: NodeId) -> bool {
        self.lock().get(&node).is_some_and(|peer| !self.is_long(self.env.now().since(peer.heard)))
    }

    /// Waits until `node` is heard, at most for so long: else nothing is to be read for it that would only be dropped.
    fn hears(
        self: &Arc<Self>,
        node: NodeId,
        at_most: Duration,
    ) -> impl Future<Output = Result<(), AskError>> + Send + use<> {
        let this = self.clone();
        async move {
            // Before the look: what comes in between is not missed.
            let mut again = this.again.subscribe();
            let heard = async { while !this.is_heard(node) && again.changed().await.is_ok() {} };
            let heard = this.env.timeout(at_most, heard).await;
            heard.map_err(|_| AskError::Peer(PeerError::Unreachable(format!("node {node}, which is silent"))))
        }
    }

    /// Asks whoever listens at `address`, whose node id is not known, over a connection of its own.
    pub(super) async fn introduce(
        self: &Arc<Self>,
        address: &str,
        body: peer_request::Body,
        timeout: Duration,
    ) -> Result<(Who, PeerReply), AskError> {
        let this = Arc::downgrade(self);
        let sender = Arc::new(move || this.upgrade().map(|peers| peers.sender(NOBODY.0)).unwrap_or_default());
        let link = self.env.transport.connect(NOBODY, address, Lane::Urgent, sender, Arc::new(|_, _| {}));
        let sent = link.call(PeerRequest { correlation: 0, body: Some(body) });
        let answered = self.env.timeout(timeout, sent).await;
        // It must live until there is an answer.
        drop(link);
        let (sender, reply) = answered.map_err(|_| AskError::Late(NOBODY))??;
        let who = self.identities.judge(Some(&sender), Standing::Stranger);
        let who = who.map_err(|refusal| AskError::Impostor { node: NOBODY, message: refusal.message })?;
        Ok((who, reply))
    }

    /// Talks no more to a node whose disk is gone.
    pub(super) fn forget(&self, node: NodeId) {
        let forgotten = self.lock().remove(&node);
        drop(forgotten);
        self.identities.forget(node);
    }

    pub(super) fn nodes(&self) -> Vec<NodeId> {
        self.lock().keys().copied().collect()
    }

    /// Drops all links: nothing is sent any more.
    pub(super) fn close(&self) {
        let peers = std::mem::take(&mut *self.lock());
        drop(peers);
    }

    /// Sends `body`, in the order of these calls within a lane, before the future is first polled. The answer is from
    /// the right peer, if it is an answer; its code has not been looked at.
    pub(super) fn call(
        self: &Arc<Self>,
        node: NodeId,
        lane: Lane,
        body: peer_request::Body,
        timeout: Duration,
    ) -> impl Future<Output = Result<(Who, PeerReply), AskError>> + Send + use<> {
        let standing = match body {
            peer_request::Body::Hello(_) => Standing::Stranger,
            peer_request::Body::Vote(_)
            | peer_request::Body::PreVote(_)
            | peer_request::Body::Append(_)
            | peer_request::Body::Heartbeats(_)
            | peer_request::Body::TransferLeader(_)
            | peer_request::Body::Beat(_)
            | peer_request::Body::Command(_)
            | peer_request::Body::Snapshot(_)
            | peer_request::Body::FetchEntries(_)
            | peer_request::Body::Rejoin(_) => Standing::Known,
        };
        let link = self.lock().get(&node).map(|peer| match lane {
            Lane::Urgent => peer.urgent.clone(),
            Lane::Bulk => peer.bulk.clone(),
        });
        let sent = link.map(|link| link.call(PeerRequest { correlation: 0, body: Some(body) }));
        let this = self.clone();
        async move {
            let sent = sent.ok_or(AskError::NoAddress(node))?;
            let (sender, reply) =
                this.env.timeout(timeout, sent).await.map_err(|_| AskError::Late(node))??;
            // A refusal must be readable even by one who does not know the peer yet.
            let standing = if reply.error == ErrorCode::None as i32 { standing } else { Standing::Stranger };
            let who = this.identities.judge(Some(&sender), standing);
            let who = who.map_err(|refusal| AskError::Impostor { node, message: refusal.message })?;
            if who.node != node {
                return Err(AskError::Impostor { node, message: format!("node {} answered", who.node) });
            }
            if standing == Standing::Known {
                this.came_from(node);
                (this.heard)(who);
            }
            Ok((who, reply))
        }
    }

    /// [`Peers::call`], and a refusal is an error.
    pub(super) fn ask(
        self: &Arc<Self>,
        node: NodeId,
        lane: Lane,
        body: peer_request::Body,
        timeout: Duration,
    ) -> impl Future<Output = Result<(Who, peer_reply::Body), AskError>> + Send + use<> {
        let call = self.call(node, lane, body, timeout);
        async move {
            let (who, reply) = call.await?;
            let malformed = |reason: &str| AskError::Malformed { node, reason: reason.to_owned() };
            let code = ErrorCode::try_from(reply.error).map_err(|_| malformed("an unknown error code"))?;
            if code != ErrorCode::None {
                return Err(AskError::Refused { node, code, message: reply.message });
            }
            Ok((who, reply.body.ok_or_else(|| malformed("nothing in it"))?))
        }
    }
}
