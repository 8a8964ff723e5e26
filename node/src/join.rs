//! How a node comes to belong to its cluster, and how it judges others who want to.
//!
//! The random identity on a node's disk says who it is. Fresh nodes say hello to all of `--bootstrap` until one of
//! them knows the cluster; the one with the lowest id forms it once it has heard all. From then on a node id stands
//! for one identity: an empty disk, another cluster's or another node's is refused, so that a wiped disk cannot vote
//! twice. Must not know: what Raft decides, topics, clients.

mod judge;
mod locate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use quorate_proto::ErrorCode;
use quorate_proto::ids::{ClusterId, Identity, NodeId};
use quorate_proto::v1::{self, peer_reply, peer_request};
use thiserror::Error;

use crate::env::transport::{Lane, PeerError};
use crate::env::{Env, Mark, Point};
use crate::raft::{Member, RaftNode};
use crate::storage::{Facts, StoreError};

pub use judge::{Asker, Here, judge_hello};

/// First pause between two rounds of hellos; doubled up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause while the cluster is not formed.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Longest pause of a node that was refused.
const PAUSE_REFUSED_MAX: Duration = Duration::from_secs(5);
/// How long one hello may take.
const HELLO_TIME_MAX: Duration = Duration::from_millis(500);
/// A node that knows its cluster waits this long for a word of its peers, then starts.
const WORD_TIME_MAX: Duration = Duration::from_millis(200);

/// Where a node is reached, each `host:port`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// By clients, over gRPC.
    pub grpc: String,
    /// By peers.
    pub peer: String,
    /// Over HTTP.
    pub http: String,
}

/// A peer that said hello in this run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The identity on its disk.
    pub identity: Identity,
    /// Where it is reached.
    pub addresses: Addresses,
}

/// Why joining cannot go on.
#[derive(Clone, Debug, Error)]
pub enum JoinError {
    /// A fact could not be written.
    #[error("cannot remember the cluster: {0}")]
    Store(#[from] StoreError),
}

/// A node's way into its cluster. Cheap to clone.
#[derive(Clone)]
pub struct Join {
    shared: Arc<Shared>,
}

struct Shared {
    env: Env,
    facts: Facts,
    node: NodeId,
    addresses: Addresses,
    bootstrap: BTreeMap<NodeId, String>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Who said hello to us, the newest word of each.
    heard: BTreeMap<NodeId, Heard>,
    /// Where members are asked: by `--bootstrap`, until they do not answer there.
    addresses: BTreeMap<NodeId, String>,
    /// Members that did not answer when they were asked last.
    lost: BTreeSet<NodeId>,
}

/// What a round of hellos told.
#[derive(Debug, Default)]
struct Round {
    /// Peers that belong to our cluster and know us as one of it.
    accepted: BTreeSet<NodeId>,
    /// Peers that have no cluster yet and take us for one of those who will form it.
    unformed: BTreeSet<NodeId>,
    /// Who refused us, and why.
    refused: BTreeMap<NodeId, String>,
    /// Who gave no answer, and why.
    silent: BTreeMap<NodeId, String>,
    /// A cluster that takes us in.
    offer: Option<(ClusterId, BTreeMap<NodeId, Identity>)>,
}

impl Join {
    /// `bootstrap` names all nodes that form the cluster, this one included; empty for a node alone.
    pub fn new(
        env: &Env,
        facts: &Facts,
        node: NodeId,
        addresses: Addresses,
        mut bootstrap: BTreeMap<NodeId, String>,
    ) -> Self {
        bootstrap.entry(node).or_insert_with(|| addresses.peer.clone());
        let shared = Shared {
            env: env.clone(),
            facts: facts.clone(),
            node,
            addresses,
            bootstrap,
            known: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The nodes of the metadata group: those the cluster was formed with. Empty while the cluster is not known.
    pub fn members(&self) -> Vec<Member> {
        if self.shared.facts.cluster_id().is_none() {
            return Vec::new();
        }
        let peers = self.shared.facts.peers();
        peers.into_iter().map(|(node, identity)| Member { node, identity }).collect()
    }

    /// A sentence for the operator if `--bootstrap` names nodes that are not in the cluster of this disk: it was formed
    /// without them, and that stands.
    pub fn late_bootstrap(&self) -> Option<String> {
        let list = |nodes: Vec<NodeId>| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(",");
        self.shared.facts.cluster_id()?;
        let members = self.shared.facts.peers();
        let late: Vec<NodeId> =
            self.shared.bootstrap.keys().filter(|node| !members.contains_key(node)).copied().collect();
        (!late.is_empty()).then(|| {
            let members = list(members.into_keys().collect());
            let late = list(late);
            format!(
                "--bootstrap comes too late for nodes {late}: the data of this node are of a cluster that was formed of \
                 nodes {members}, and nodes cannot be added yet; a cluster with nodes {late} needs empty data folders"
            )
        })
    }

    /// Those who said hello in this run.
    pub fn heard(&self) -> BTreeMap<NodeId, Heard> {
        self.shared.known().heard.clone()
    }

    /// Answers another node's hello.
    pub fn answer(&self, from: &v1::Sender, hello: v1::Hello) -> Result<v1::HelloReply, (ErrorCode, String)> {
        let shared = &self.shared;
        let asker = Asker::read(from, &hello)?;
        let peers = shared.facts.peers();
        let here = Here {
            node: shared.node,
            cluster: shared.facts.cluster_id(),
            bootstrap: shared.bootstrap.keys().copied().collect(),
            known: peers.get(&asker.node).copied(),
            owner: peers.iter().find(|(_, identity)| **identity == asker.identity).map(|(node, _)| *node),
        };
        if let Err((code, reason)) = judge_hello(&here, &asker) {
            tracing::warn!(peer = %asker.node, reason, "hello refused");
            shared.env.reached(Mark::HelloRefused);
            return Err((code, reason));
        }
        let addresses =
            Addresses { grpc: hello.advertise_grpc, peer: hello.advertise_peer, http: hello.advertise_http };
        shared.known().heard.insert(asker.node, Heard { identity: asker.identity, addresses });
        Ok(match here.cluster {
            None => v1::HelloReply::default(),
            Some(cluster) => v1::HelloReply {
                cluster_id: cluster.to_wire(),
                members: peers
                    .into_iter()
                    .map(|(node, identity)| v1::Member { node: node.0, identity: identity.to_wire() })
                    .collect(),
            },
        })
    }

    /// Ready when this node may start its groups: its cluster is known, and no peer has refused it without another
    /// one accepting it. `say` is told in a sentence what is waited for, and whether this node was refused.
    ///
    /// # Errors
    /// [`JoinError::Store`]: a fact was perhaps not written; the node must stop.
    pub async fn accepted(
        &self,
        raft: &RaftNode,
        say: impl Fn(String, bool) + Send,
    ) -> Result<(), JoinError> {
        let mut pause = PAUSE_MIN;
        loop {
            let known = self.shared.facts.cluster_id();
            let wait = if known.is_some() { WORD_TIME_MAX } else { HELLO_TIME_MAX };
            let round = self.shared.round(raft, wait).await;
            let refused = match known {
                Some(_) if round.accepted.is_empty() && !round.refused.is_empty() => true,
                Some(_) => return Ok(()),
                None => match round.offer {
                    Some((cluster, members)) => {
                        self.shared.remember(raft, cluster, &members).await?;
                        tracing::info!(node = %self.shared.node, cluster = %cluster, "joined the cluster");
                        return Ok(());
                    }
                    None => !round.refused.is_empty(),
                },
            };
            if !refused && let Some(members) = self.shared.may_form(&round) {
                let cluster = ClusterId::from_random(self.shared.env.random_bytes());
                self.shared.remember(raft, cluster, &members).await?;
                tracing::info!(node = %self.shared.node, cluster = %cluster, nodes = members.len(), "formed the cluster");
                return Ok(());
            }
            say(self.shared.describe(&round), refused);
            self.shared.env.sleep(pause).await;
            pause = (pause * 2).min(if refused { PAUSE_REFUSED_MAX } else { PAUSE_MAX });
        }
    }

    /// Ready when this node, though it had started, is refused: a peer that was silent then does not accept it.
    /// Never ready once a peer has accepted it.
    pub async fn refused(&self, raft: &RaftNode) -> String {
        let mut pause = PAUSE_MIN;
        loop {
            let round = self.shared.round(raft, HELLO_TIME_MAX).await;
            if !round.accepted.is_empty() || self.shared.peers().is_empty() {
                return std::future::pending().await;
            }
            if !round.refused.is_empty() {
                return self.shared.describe(&round);
            }
            self.shared.env.sleep(pause).await;
            pause = (pause * 2).min(PAUSE_REFUSED_MAX);
        }
    }
}

impl Shared {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn moved(&self, node: NodeId, address: &str) -> bool {
        self.known().addresses.insert(node, address.to_owned()).as_deref() != Some(address)
    }

    /// The other nodes of the metadata group, to be or in being. Those of `--bootstrap` count even if our disk knows
    /// of a cluster without them: it may be the disk of another one.
    fn peers(&self) -> BTreeSet<NodeId> {
        let mut peers: BTreeSet<NodeId> = self.bootstrap.keys().copied().collect();
        if self.facts.cluster_id().is_some() {
            peers.extend(self.facts.peers().into_keys());
        }
        peers.remove(&self.node);
        peers
    }

    /// Says hello to every peer, and waits at most `wait` for the answers.
    async fn round(&self, raft: &RaftNode, wait: Duration) -> Round {
        for (peer, address) in self.bootstrap.iter().filter(|(peer, _)| **peer != self.node) {
            if !self.known().addresses.contains_key(peer) && self.moved(*peer, address) {
                raft.set_address(*peer, address);
            }
        }
        let mut round = Round::default();
        let asked =
            self.peers().into_iter().map(|peer| async move { (peer, self.ask(raft, peer, wait).await) });
        for (peer, answer) in join_all(asked).await {
            self.note(&mut round, peer, answer);
        }
        round
    }

    fn ask<'a>(
        &'a self,
        raft: &'a RaftNode,
        peer: NodeId,
        wait: Duration,
    ) -> BoxFuture<'a, Result<v1::PeerReply, PeerError>> {
        let hello = v1::Hello {
            advertise_grpc: self.addresses.grpc.clone(),
            advertise_peer: self.addresses.peer.clone(),
            advertise_http: self.addresses.http.clone(),
            bootstrap: self.bootstrap.keys().map(|node| node.0).collect(),
            fresh: self.facts.cluster_id().is_none(),
        };
        Box::pin(raft.call(peer, Lane::Urgent, peer_request::Body::Hello(hello), wait))
    }

    fn note(&self, round: &mut Round, peer: NodeId, answer: Result<v1::PeerReply, PeerError>) {
        let reply = match answer {
            Ok(_) if self.env.perturb(Point::HelloUnheard) => {
                round.silent.insert(peer, "no answer yet".to_owned());
                return;
            }
            Ok(reply) => reply,
            Err(error) => {
                round.silent.insert(peer, error.to_string());
                return;
            }
        };
        let code = reply.error();
        if matches!(code, ErrorCode::WrongIdentity | ErrorCode::InvalidConfig) {
            round.refused.insert(peer, reply.message);
            return;
        }
        if code != ErrorCode::None {
            round.silent.insert(peer, format!("{}: {}", code.as_str_name(), reply.message));
            return;
        }
        let Some(peer_reply::Body::Hello(hello)) = reply.body else {
            round.silent.insert(peer, "it answered something else".to_owned());
            return;
        };
        let members = hello
            .members
            .iter()
            .filter_map(|member| Some((NodeId(member.node), Identity::from_wire(&member.identity)?)));
        let members: BTreeMap<NodeId, Identity> = members.collect();
        match (self.facts.cluster_id(), ClusterId::from_wire(&hello.cluster_id)) {
            (_, None) => {
                round.unformed.insert(peer);
            }
            (Some(ours), Some(theirs)) if ours == theirs => {
                round.accepted.insert(peer);
            }
            (Some(ours), Some(theirs)) => {
                let reason = format!("it belongs to cluster {theirs}, the disk of this node to {ours}");
                round.refused.insert(peer, reason);
            }
            (None, Some(_)) if members.get(&self.node) != Some(&self.facts.identity()) => {
                round.refused.insert(peer, format!("its cluster knows node {} as another one", self.node));
            }
            (None, Some(theirs)) => round.offer = Some((theirs, members)),
        }
    }

    /// The members of the cluster to form, if that is for this node to do and all have been heard.
    fn may_form(&self, round: &Round) -> Option<BTreeMap<NodeId, Identity>> {
        let lowest = self.bootstrap.keys().next() == Some(&self.node);
        if !lowest || round.unformed != self.peers() {
            return None;
        }
        let known = self.known();
        let mut members = BTreeMap::from([(self.node, self.facts.identity())]);
        for peer in &round.unformed {
            members.insert(*peer, known.heard.get(peer)?.identity);
        }
        Some(members)
    }

    /// Makes it durable who belongs to the cluster, and then which one it is: in this order, so that a node that
    /// knows its cluster knows the members.
    async fn remember(
        &self,
        raft: &RaftNode,
        cluster: ClusterId,
        members: &BTreeMap<NodeId, Identity>,
    ) -> Result<(), StoreError> {
        for (node, identity) in members {
            self.facts.remember_peer(*node, *identity).await?;
            if *node != self.node {
                raft.admit(*node, *identity);
            }
        }
        self.facts.set_cluster_id(cluster).await
    }

    fn describe(&self, round: &Round) -> String {
        if !round.refused.is_empty() {
            let refused =
                round.refused.iter().map(|(peer, reason)| format!("refused by node {peer}: {reason}"));
            return refused.collect::<Vec<_>>().join("; ");
        }
        if round.silent.is_empty() {
            return "waiting for the cluster to be formed".to_owned();
        }
        let silent = round.silent.iter().map(|(peer, reason)| format!("node {peer} ({reason})"));
        format!("waiting for {} to form the cluster", silent.collect::<Vec<_>>().join(", "))
    }
}
