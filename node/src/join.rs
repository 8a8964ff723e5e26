//! How a node comes to belong to its cluster, and how it judges others who want to.
//!
//! The random identity on a node's disk says who it is. Fresh nodes say hello to all of `--bootstrap` until one of
//! them knows the cluster; the one with the lowest id forms it once it has heard all. From then on a node id stands
//! for one identity: an empty disk, another cluster's or another node's is refused, so that a wiped disk cannot vote
//! twice. A new node, or one with an empty disk, says hello to members that it is told of, and waits until somebody
//! admits it. Must not know: what Raft decides, topics, clients.

mod follow;
mod judge;
mod locate;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use quorate_proto::ErrorCode;
use quorate_proto::ids::{ClusterId, Identity, LogIndex, NodeId};
use quorate_proto::v1::{self, peer_reply, peer_request};
use thiserror::Error;

use crate::controller::{Candidate, WaitingRoom};
use crate::env::transport::{Lane, PeerError};
use crate::env::{Env, Mark, Point};
use crate::metadata::Node;
use crate::raft::{Member, RaftNode};
use crate::storage::{Facts, News, Seat, StoreError};

pub use judge::{Asker, Here, Verdict, judge_hello};

/// First pause between two rounds of hellos; doubled up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Longest pause while the cluster is not formed.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// Longest pause of a node that waits to be admitted.
const PAUSE_WAITING_MAX: Duration = Duration::from_secs(1);
/// Longest pause of a node that was refused, and of one that asks whether it still is not.
const PAUSE_REFUSED_MAX: Duration = Duration::from_secs(5);
/// What may be wrong with an address of `--join` where a connection ended without an answer.
const NOT_FOR_NODES: &str = "; --join takes a node's port for nodes (--listen-peer, 7101 if nothing was said), not the \
                             one for clients";
/// How long one hello may take.
const HELLO_TIME_MAX: Duration = Duration::from_millis(500);
/// Most members that a node which waits says hello to.
const GUIDES_MAX: usize = 64;
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

/// What a node is told about the cluster that it is to be part of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Where it is reached itself.
    pub addresses: Addresses,
    /// What it shares its power and its switch with; empty if that was not said.
    pub rack: String,
    /// All nodes that form the cluster, with their peer addresses; empty for a node alone, or one that joins.
    pub bootstrap: BTreeMap<NodeId, String>,
    /// Peer addresses of members of a cluster that this node is to be admitted to.
    pub join: Vec<String>,
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
    rack: String,
    bootstrap: BTreeMap<NodeId, String>,
    join: Vec<String>,
    waiting: WaitingRoom,
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
    /// Members of a cluster that this node is not part of yet, and where they are reached.
    guides: BTreeMap<NodeId, String>,
}

/// What a round of hellos told.
#[derive(Debug, Default)]
struct Round {
    /// Peers that belong to our cluster and know us as one of it.
    accepted: BTreeSet<NodeId>,
    /// Peers that have no cluster yet and take us for one of those who will form it.
    unformed: BTreeSet<NodeId>,
    /// Who refused us, or does not know us yet, and why.
    refused: BTreeMap<NodeId, String>,
    /// Some would take us in as soon as somebody admits us.
    waits: bool,
    /// One of those who refused us knows that our disk was removed from the cluster, or replaced in it. Who has not heard
    /// of that, perhaps as it was removed itself, may accept us for ever.
    is_gone: bool,
    /// Who gave no answer, and why.
    silent: BTreeMap<NodeId, String>,
    /// At which addresses of `--join` nobody answered who could be a member, and why.
    lost: Vec<String>,
    /// What to note of a cluster that takes us in.
    offer: Option<News>,
}

impl Round {
    /// Whether a node that belongs to a cluster is to take no part.
    fn is_refused(&self) -> bool {
        self.is_gone || (self.accepted.is_empty() && !self.refused.is_empty())
    }
}

impl Join {
    /// Who asks to be admitted to this node's cluster goes to `waiting`.
    pub fn new(env: &Env, facts: &Facts, node: NodeId, way: Way, waiting: WaitingRoom) -> Self {
        let Way { addresses, rack, mut bootstrap, join } = way;
        bootstrap.entry(node).or_insert_with(|| addresses.peer.clone());
        let shared = Shared {
            env: env.clone(),
            facts: facts.clone(),
            node,
            addresses,
            rack,
            bootstrap,
            join,
            waiting,
            known: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The nodes that the metadata group was formed with, if this node is one of them and does not know that they have
    /// changed since. Else its log tells who the members are, or the group's leader will.
    pub fn members(&self) -> Vec<Member> {
        let facts = &self.shared.facts;
        if facts.cluster_id().is_none() || facts.admission() > 0 || facts.as_of().is_some() {
            return Vec::new();
        }
        let formed = facts.peers().into_iter().filter(|(node, _)| facts.seat(*node).admission == 0);
        formed.map(|(node, identity)| Member { node, identity }).collect()
    }

    /// A sentence for the operator if `--bootstrap` names nodes that are not in the cluster of this disk: it was formed
    /// without them, or they were removed, and that stands.
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
                "--bootstrap comes too late for nodes {late}: the data of this node are of a cluster of nodes {members}; a \
                 node is added to it by starting it with --join on an empty data folder, and by `quorate cluster add-node`"
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
            admission: shared.facts.seat(asker.node).admission,
            is_gone: shared.facts.gone(asker.identity).is_some(),
            is_joining: !shared.join.is_empty(),
            owner: peers.iter().find(|(_, identity)| **identity == asker.identity).map(|(node, _)| *node),
        };
        let addresses =
            Addresses { grpc: hello.advertise_grpc, peer: hello.advertise_peer, http: hello.advertise_http };
        let reason = match judge_hello(&here, &asker) {
            Ok(Verdict::Welcome) => {
                if here.is_joining && here.cluster.is_none() {
                    tracing::info!(peer = %asker.node, "member said hello before this node knew of its admission");
                }
                shared.known().heard.insert(asker.node, Heard { identity: asker.identity, addresses });
                return Ok(match here.cluster {
                    None => v1::HelloReply::default(),
                    Some(cluster) => v1::HelloReply {
                        cluster_id: cluster.to_wire(),
                        members: shared.members_to_wire(&peers),
                        waiting: String::new(),
                        admission: here.admission,
                        as_of_plus_one: shared.facts.as_of().map_or(0, |index| index.next().0),
                        gone: false,
                    },
                });
            }
            Ok(Verdict::Waits(reason)) => reason,
            Ok(Verdict::Gone(reason)) => {
                tracing::warn!(peer = %asker.node, reason, "hello refused");
                shared.env.reached(Mark::HelloRefused);
                return Ok(v1::HelloReply { waiting: reason, gone: true, ..v1::HelloReply::default() });
            }
            Err((code, reason)) => {
                tracing::warn!(peer = %asker.node, reason, "hello refused");
                shared.env.reached(Mark::HelloRefused);
                return Err((code, reason));
            }
        };
        tracing::info!(peer = %asker.node, reason, "hello of a node that is not admitted");
        shared.env.reached(Mark::HelloRefused);
        let node = Node {
            identity: asker.identity,
            grpc: addresses.grpc,
            peer: addresses.peer,
            http: addresses.http,
            rack: hello.rack,
            admission: 0,
        };
        shared.waiting.enter(asker.node, Candidate { node, heard: shared.env.now() });
        // It asks the others as well, so that each of them can admit it. The cluster's id is for members.
        let members = shared.members_to_wire(&peers);
        Ok(v1::HelloReply { members, waiting: reason, ..v1::HelloReply::default() })
    }

    /// Ready when this node may start its groups: its cluster is known, and no peer has refused it without another
    /// one accepting it, or for good. `say` is told in a sentence what is waited for, and whether this node was refused.
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
            if let Some(reason) = self.shared.is_gone() {
                say(reason, true);
                self.shared.env.sleep(PAUSE_REFUSED_MAX).await;
                continue;
            }
            let known = self.shared.facts.cluster_id();
            let wait = if known.is_some() { WORD_TIME_MAX } else { HELLO_TIME_MAX };
            let round = self.shared.round(raft, wait).await;
            let refused = match known {
                _ if round.is_gone => true,
                Some(_) if round.is_refused() => true,
                Some(_) => return Ok(()),
                None => match &round.offer {
                    Some(news) => {
                        self.shared.remember(raft, news.clone()).await?;
                        let admission = self.shared.facts.admission();
                        tracing::info!(node = %self.shared.node, cluster = ?news.cluster, admission, "joined the cluster");
                        return Ok(());
                    }
                    None => !round.refused.is_empty(),
                },
            };
            if !refused && let Some(members) = self.shared.may_form(&round) {
                let cluster = ClusterId::from_random(self.shared.env.random_bytes());
                let seat = |node: &NodeId| Seat {
                    admission: 0,
                    peer: self.shared.bootstrap.get(node).cloned().unwrap_or_default(),
                };
                let peers = members.iter().map(|(node, identity)| (*node, (*identity, seat(node)))).collect();
                let news = News { peers, cluster: Some(cluster), ..News::default() };
                self.shared.remember(raft, news).await?;
                tracing::info!(node = %self.shared.node, cluster = %cluster, nodes = members.len(), "formed the cluster");
                return Ok(());
            }
            say(self.shared.describe(&round), refused);
            self.shared.env.sleep(pause).await;
            pause = (pause * 2).min(match (round.waits, refused) {
                (true, _) => PAUSE_WAITING_MAX,
                (false, true) => PAUSE_REFUSED_MAX,
                (false, false) => PAUSE_MAX,
            });
        }
    }

    /// Ready when this node, though it had started, is refused: a peer that was silent then does not accept it, or it
    /// was removed meanwhile. Not while a peer accepts it, unless another one knows that its disk is gone.
    pub async fn refused(&self, raft: &RaftNode) -> String {
        let mut pause = PAUSE_MIN;
        loop {
            let round = self.shared.round(raft, HELLO_TIME_MAX).await;
            if round.is_refused() {
                return self.shared.describe(&round);
            }
            if !round.accepted.is_empty() || self.shared.peers().is_empty() {
                pause = PAUSE_REFUSED_MAX;
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

    /// The other nodes of the cluster, to be or in being. Those of `--bootstrap` count even if our disk knows of a
    /// cluster without them: it may be the disk of another one. Not once it is known that members have come and gone.
    fn peers(&self) -> BTreeSet<NodeId> {
        let mut peers: BTreeSet<NodeId> = match self.facts.as_of() {
            Some(_) => BTreeSet::new(),
            None => self.bootstrap.keys().copied().collect(),
        };
        if self.facts.cluster_id().is_some() {
            peers.extend(self.facts.peers().into_keys());
        } else {
            peers.extend(self.known().guides.keys());
        }
        peers.remove(&self.node);
        peers
    }

    /// Where each of these members is reached, as far as it is known here.
    fn members_to_wire(&self, members: &BTreeMap<NodeId, Identity>) -> Vec<v1::Member> {
        let known = self.known();
        let one = |(node, identity): (&NodeId, &Identity)| {
            let seat = self.facts.seat(*node);
            // Another node may have come under its id.
            let heard = known.heard.get(node).filter(|heard| heard.identity == *identity);
            let heard = heard.map(|heard| heard.addresses.peer.as_str());
            let agreed = Some(seat.peer.as_str()).filter(|peer| !peer.is_empty());
            let here = (*node == self.node).then_some(self.addresses.peer.as_str());
            let bootstrap = self.bootstrap.get(node).map(String::as_str);
            let peer = here.or(heard).or(agreed).or(bootstrap).unwrap_or_default().to_owned();
            v1::Member { node: node.0, identity: identity.to_wire(), peer, admission: seat.admission }
        };
        members.iter().map(one).collect()
    }

    /// A sentence if this disk was removed from its cluster, or replaced in it.
    fn is_gone(&self) -> Option<String> {
        let identity = self.facts.identity();
        self.facts.gone(identity).map(|_| gone(self.node, identity, self.facts.peer(self.node)))
    }

    /// Says hello to every peer, and waits at most `wait` for the answers.
    async fn round(&self, raft: &RaftNode, wait: Duration) -> Round {
        let mut round = Round::default();
        if self.facts.cluster_id().is_none() {
            self.look_for_guides(raft, &mut round, wait).await;
        }
        let peers = self.peers();
        for (peer, address) in self.places(&peers) {
            let is_placed = self.known().addresses.contains_key(&peer);
            if !is_placed && self.moved(peer, &address) {
                raft.set_address(peer, &address);
            }
        }
        let asked = peers.iter().map(|peer| async move { (*peer, self.ask(raft, *peer, wait).await) });
        for (peer, answer) in join_all(asked).await {
            self.note(&mut round, peer, answer);
        }
        round
    }

    /// Where these peers may be, the likeliest place of each first.
    fn places(&self, peers: &BTreeSet<NodeId>) -> Vec<(NodeId, String)> {
        let told = self.bootstrap.iter().map(|(peer, address)| (*peer, address.clone()));
        let guides = self.known().guides.clone();
        let agreed = peers.iter().map(|peer| (*peer, self.facts.seat(*peer).peer));
        let places = told.chain(guides).chain(agreed);
        places.filter(|(peer, address)| peers.contains(peer) && !address.is_empty()).collect()
    }

    /// Says hello at the addresses of `--join` where nobody is known to be yet, and learns who is there. Who was found
    /// first may wait itself, and know no member.
    async fn look_for_guides(&self, raft: &RaftNode, round: &mut Round, wait: Duration) {
        let found: BTreeSet<String> = self.known().guides.values().cloned().collect();
        let left = self.join.iter().filter(|address| !found.contains(*address));
        let asked = left.map(|address| async move {
            let hello = peer_request::Body::Hello(self.hello());
            (address, raft.introduce(address, hello, wait).await)
        });
        for (address, answer) in join_all(asked).await {
            match answer {
                Ok((node, reply)) => {
                    self.known().guides.insert(node, address.clone());
                    self.note(round, node, Ok(reply));
                }
                Err(error) => {
                    let hint = if matches!(error, PeerError::Lost(_)) { NOT_FOR_NODES } else { "" };
                    round.lost.push(format!("{address} ({error}{hint})"));
                }
            }
        }
    }

    fn hello(&self) -> v1::Hello {
        v1::Hello {
            advertise_grpc: self.addresses.grpc.clone(),
            advertise_peer: self.addresses.peer.clone(),
            advertise_http: self.addresses.http.clone(),
            bootstrap: self.bootstrap.keys().map(|node| node.0).collect(),
            fresh: self.facts.cluster_id().is_none(),
            rack: self.rack.clone(),
        }
    }

    fn ask<'a>(
        &'a self,
        raft: &'a RaftNode,
        peer: NodeId,
        wait: Duration,
    ) -> BoxFuture<'a, Result<v1::PeerReply, PeerError>> {
        Box::pin(raft.call(peer, Lane::Urgent, peer_request::Body::Hello(self.hello()), wait))
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
        if self.facts.cluster_id().is_none() {
            let places = hello.members.iter().filter(|member| !member.peer.is_empty());
            let mut known = self.known();
            for member in places.filter(|member| member.node != self.node.0) {
                if known.guides.len() < GUIDES_MAX {
                    known.guides.insert(NodeId(member.node), member.peer.clone());
                }
            }
        }
        if !hello.waiting.is_empty() {
            round.refused.insert(peer, hello.waiting);
            match hello.gone {
                true => round.is_gone = true,
                false => round.waits = true,
            }
            return;
        }
        let members = hello.members.iter().filter_map(|member| {
            let seat = Seat { admission: member.admission, peer: member.peer.clone() };
            Some((NodeId(member.node), (Identity::from_wire(&member.identity)?, seat)))
        });
        let members: BTreeMap<NodeId, (Identity, Seat)> = members.collect();
        let ours = members.get(&self.node).map(|(identity, _)| *identity);
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
            (None, Some(_)) if ours != Some(self.facts.identity()) => {
                round.refused.insert(peer, format!("its cluster knows node {} as another one", self.node));
            }
            (None, Some(theirs)) => {
                round.offer = Some(News {
                    peers: members,
                    gone: BTreeMap::new(),
                    as_of: hello.as_of_plus_one.checked_sub(1).map(LogIndex),
                    cluster: Some(theirs),
                    admission: Some(hello.admission).filter(|number| *number > 0),
                });
            }
        }
    }

    /// The members of the cluster to form, if that is for this node to do and all have been heard.
    fn may_form(&self, round: &Round) -> Option<BTreeMap<NodeId, Identity>> {
        let lowest = self.join.is_empty() && self.bootstrap.keys().next() == Some(&self.node);
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

    /// Makes it durable which cluster this node belongs to, and who else does: at once, so that a node that knows its
    /// cluster knows the members.
    async fn remember(&self, raft: &RaftNode, news: News) -> Result<(), StoreError> {
        for (node, (identity, _)) in news.peers.iter().filter(|(node, _)| **node != self.node) {
            raft.admit(*node, *identity);
        }
        raft.learn(news).await
    }

    fn describe(&self, round: &Round) -> String {
        if !round.refused.is_empty() {
            return refusals(&round.refused);
        }
        if !round.lost.is_empty() {
            return format!("waiting for a member of the cluster to answer at {}", round.lost.join(", "));
        }
        if round.silent.is_empty() {
            return "waiting for the cluster to be formed".to_owned();
        }
        let silent = round.silent.iter().map(|(peer, reason)| format!("node {peer} ({reason})"));
        format!("waiting for {} to form the cluster", silent.collect::<Vec<_>>().join(", "))
    }
}

/// What is said of a disk that belongs to its cluster no more, where its node has the disk `now`, or is no member.
fn gone(node: NodeId, identity: Identity, now: Option<Identity>) -> String {
    let how = match now {
        Some(now) if now != identity => format!(
            "its cluster knows node {node} with disk {now} by now; if that one is lost too, the node comes back on an empty \
             data folder, with --join, by `quorate cluster replace-node {node}`"
        ),
        Some(_) | None => format!(
            "the node comes back on an empty data folder, with --join, by `quorate cluster add-node {node}`"
        ),
    };
    format!(
        "the disk of this node, {identity}, was removed from its cluster, or replaced in it: its data may be deleted; {how}"
    )
}

/// Who refused us and why; what several say alike is said once.
fn refusals(refused: &BTreeMap<NodeId, String>) -> String {
    let mut said: Vec<(&str, Vec<String>)> = Vec::new();
    for (peer, reason) in refused {
        match said.iter_mut().find(|(known, _)| *known == reason.as_str()) {
            Some((_, peers)) => peers.push(peer.to_string()),
            None => said.push((reason.as_str(), vec![peer.to_string()])),
        }
    }
    let one = |(reason, peers): &(&str, Vec<String>)| {
        let nodes = if peers.len() == 1 { "node" } else { "nodes" };
        format!("refused by {nodes} {}: {reason}", peers.join(", "))
    };
    said.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_gone_is_refused_whoever_accepts_it() {
        let round = |accepted: &[u32], refused: &[u32], is_gone| Round {
            accepted: accepted.iter().copied().map(NodeId).collect(),
            refused: refused.iter().map(|node| (NodeId(*node), "no".to_owned())).collect(),
            is_gone,
            ..Round::default()
        };
        assert!(!round(&[2], &[], false).is_refused());
        assert!(!round(&[], &[], false).is_refused());
        assert!(!round(&[2], &[3], false).is_refused(), "the other one may not have heard of it yet");
        assert!(round(&[], &[3], false).is_refused());
        assert!(round(&[2], &[3], true).is_refused());
    }

    #[test]
    fn who_was_replaced_is_not_to_be_added() {
        let disk = |byte| Identity::from_random([byte; 16]);
        let said = |now| gone(NodeId(2), disk(1), now);
        assert!(said(None).ends_with("by `quorate cluster add-node 2`"));
        assert!(said(Some(disk(1))).ends_with("by `quorate cluster add-node 2`"));
        assert!(said(Some(disk(3))).ends_with("by `quorate cluster replace-node 2`"));
    }

    #[test]
    fn what_all_say_alike_is_said_once() {
        let check = |said: &[(u32, &str)], expected: &str| {
            let refused = said.iter().map(|(node, reason)| (NodeId(*node), (*reason).to_owned())).collect();
            assert_eq!(refusals(&refused), expected);
        };
        check(&[(1, "why")], "refused by node 1: why");
        check(&[(1, "why"), (2, "why"), (3, "why")], "refused by nodes 1, 2, 3: why");
        check(&[(1, "a"), (2, "b"), (3, "a")], "refused by nodes 1, 3: a; refused by node 2: b");
    }
}
