//! Who may talk here: judged before anything else of a message is looked at.
//!
//! A node id stands for one disk at a time. Each disk that the cluster admitted has a number, its admission, which it
//! says in all its messages: so who was replaced is told from who replaced it even by a node that has heard of neither
//! yet. A cluster's id is kept only by those who were admitted.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use quorate_proto::ErrorCode;
use quorate_proto::ids::{ClusterId, Identity, Incarnation, NodeId};
use quorate_proto::v1::Sender;
use thiserror::Error;

use super::AskError;
use crate::storage::{Facts, News, Seat, StoreError};

/// A refusal: its code on the wire, and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::raft) struct Refusal {
    pub(in crate::raft) code: ErrorCode,
    pub(in crate::raft) message: String,
}

impl Refusal {
    pub(in crate::raft) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// A sender whose fields can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::raft) struct Who {
    pub(in crate::raft) node: NodeId,
    pub(in crate::raft) identity: Identity,
    pub(in crate::raft) cluster: Option<ClusterId>,
    pub(in crate::raft) incarnation: Incarnation,
    /// The number of its disk's admission; 0 for those who formed the cluster.
    pub(in crate::raft) admission: u64,
}

impl Who {
    /// # Errors
    /// It has another disk than this one.
    pub(super) fn must_be(self, disk: Identity) -> Result<(), AskError> {
        if self.identity == disk {
            return Ok(());
        }
        let message = format!("it has disk {}, and the member that was asked {disk}", self.identity);
        Err(AskError::Impostor { node: self.node, message })
    }
}

/// How well a sender must be known for what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::raft) enum Standing {
    /// It may be anybody who is not of another cluster: for a hello, which is judged by whoever answers it.
    Anybody,
    /// It may be a stranger, but not an impostor: for the answer to a hello.
    Stranger,
    /// It must be of this cluster, with the identity that it is known by, or one that was admitted later.
    Known,
}

/// Why an identity is not durable.
#[derive(Debug, Error)]
pub(in crate::raft) enum NotRemembered {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("another disk was admitted as node {0} in this moment")]
    Replaced(NodeId),
}

/// The disk of a node, and the number of its admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Disk {
    identity: Identity,
    admission: u64,
}

/// The peers' identities: the durable ones, and those admitted and not yet counted on.
pub(in crate::raft) struct Identities {
    facts: Facts,
    admitted: Mutex<BTreeMap<NodeId, Disk>>,
}

impl Identities {
    pub(in crate::raft) fn new(facts: Facts) -> Self {
        Self { facts, admitted: Mutex::default() }
    }

    pub(in crate::raft) fn cluster(&self) -> Option<ClusterId> {
        self.facts.cluster_id()
    }

    /// The number of this node's own admission.
    pub(in crate::raft) fn admission(&self) -> u64 {
        self.facts.admission()
    }

    fn admitted(&self) -> MutexGuard<'_, BTreeMap<NodeId, Disk>> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn durable(&self, node: NodeId) -> Option<Disk> {
        let identity = self.facts.peer(node)?;
        Some(Disk { identity, admission: self.facts.seat(node).admission })
    }

    /// What `node` is known by: of two disks the one that was admitted later, of the same age the durable one.
    fn disk(&self, node: NodeId) -> Option<Disk> {
        let admitted = self.admitted().get(&node).copied();
        match (self.durable(node), admitted) {
            (Some(durable), Some(admitted)) if admitted.admission > durable.admission => Some(admitted),
            (durable, admitted) => durable.or(admitted),
        }
    }

    /// What `node` is known by.
    pub(in crate::raft) fn known(&self, node: NodeId) -> Option<Identity> {
        self.disk(node).map(|disk| disk.identity)
    }

    /// Knows a node by this disk, unless it is known by one already, or the disk is gone. A list of members may be older
    /// than what is known of one of them.
    pub(in crate::raft) fn admit(&self, node: NodeId, identity: Identity) {
        match self.known(node) {
            None if self.facts.gone(identity).is_none() => {
                self.admitted().insert(node, Disk { identity, admission: 0 });
            }
            Some(known) if known != identity => {
                tracing::debug!(peer = %node, %known, refused = %identity, "another identity was not admitted");
            }
            None | Some(_) => {}
        }
    }

    /// Makes the identity of a node durable, before its first vote counts. Cheap once it is.
    ///
    /// # Errors
    /// The disk failed, or the node was replaced in this moment.
    pub(in crate::raft) async fn remember(&self, who: Who) -> Result<(), NotRemembered> {
        let durable = self.durable(who.node);
        if durable.is_some_and(|durable| durable.identity == who.identity) {
            return Ok(());
        }
        let seat = Seat { admission: who.admission, ..self.facts.seat(who.node) };
        let peers = BTreeMap::from([(who.node, (who.identity, seat))]);
        self.facts.learn(News { peers, ..News::default() }).await?;
        match self.durable(who.node) {
            Some(durable) if durable.identity == who.identity => Ok(()),
            Some(_) | None => Err(NotRemembered::Replaced(who.node)),
        }
    }

    /// Forgets a node whose disk is gone.
    pub(in crate::raft) fn forget(&self, node: NodeId) {
        self.admitted().remove(&node);
    }

    /// Judges who sent a message, or an answer; the message must have been meant for this node, if it says for whom.
    pub(in crate::raft) fn judge(&self, sender: Option<&Sender>, standing: Standing) -> Result<Who, Refusal> {
        let known = |node| self.disk(node);
        let gone = |identity| self.facts.gone(identity).is_some();
        let who = judge(self.facts.node(), self.facts.cluster_id(), known, gone, sender, standing)?;
        if standing == Standing::Known && self.known(who.node) != Some(who.identity) {
            let disk = Disk { identity: who.identity, admission: who.admission };
            tracing::info!(peer = %who.node, identity = %who.identity, "peer heard whose admission was not");
            self.admitted().insert(who.node, disk);
        }
        Ok(who)
    }
}

fn judge(
    me: NodeId,
    cluster: Option<ClusterId>,
    known: impl Fn(NodeId) -> Option<Disk>,
    gone: impl Fn(Identity) -> bool,
    sender: Option<&Sender>,
    standing: Standing,
) -> Result<Who, Refusal> {
    let malformed =
        |what: &str| Refusal::new(ErrorCode::InvalidRequest, format!("a peer message without {what}"));
    let wrong = |sentence: String| Refusal::new(ErrorCode::WrongIdentity, sentence);
    let sender = sender.ok_or_else(|| malformed("a sender"))?;
    let node = NodeId(sender.node);
    if !node.is_valid() {
        return Err(malformed("a node id of its sender"));
    }
    let identity =
        Identity::from_wire(&sender.identity).ok_or_else(|| malformed("an identity of its sender"))?;
    let theirs = match sender.cluster_id.is_empty() {
        true => None,
        false => {
            Some(ClusterId::from_wire(&sender.cluster_id).ok_or_else(|| malformed("a proper cluster id"))?)
        }
    };
    // An answer's sender does not know for whom it is.
    if sender.to != 0 && sender.to != me.0 {
        return Err(wrong(format!(
            "this is node {me}, and the message of node {node} was meant for node {}",
            sender.to
        )));
    }
    if node == me {
        return Err(wrong(format!(
            "two nodes have the id {node}, or one was given its own address as that of another: stop one of the two, or \
             start it with an id of its own"
        )));
    }
    if let (Some(ours), Some(theirs)) = (cluster, theirs)
        && ours != theirs
    {
        return Err(wrong(format!(
            "node {node} belongs to cluster {theirs}, and node {me} to cluster {ours}"
        )));
    }
    let who = Who {
        node,
        identity,
        cluster: theirs,
        incarnation: Incarnation(sender.incarnation),
        admission: sender.admission,
    };
    if standing == Standing::Anybody {
        return Ok(who);
    }
    if gone(identity) {
        return Err(wrong(format!(
            "the disk {identity} of node {node} was removed from this cluster, or replaced in it: it comes back on an \
             empty data folder"
        )));
    }
    let is_member = cluster.is_some() && theirs.is_some();
    let known = known(node);
    if let Some(known) = known
        && known.identity != identity
        && !(is_member && sender.admission > known.admission)
    {
        return Err(wrong(format!(
            "node {node} is known to node {me} by identity {}, and came with {identity}: its data folder is empty, or \
             that of another node; bring its own data back, or replace it with `quorate cluster replace-node {node}`",
            known.identity
        )));
    }
    // Whoever brings the cluster's id was admitted, though this node may not have heard of that yet.
    if standing == Standing::Known && !is_member {
        return Err(Refusal::new(
            ErrorCode::NotReady,
            format!("node {me} or node {node} is in no cluster yet"),
        ));
    }
    Ok(who)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId(1);

    fn id(byte: u8) -> Identity {
        Identity::from_random([byte; 16])
    }

    fn cluster(byte: u8) -> ClusterId {
        ClusterId::from_random([byte; 16])
    }

    fn sender(node: u32, identity: u8, cluster_id: Option<u8>, to: u32) -> Sender {
        Sender {
            cluster_id: cluster_id.map(|byte| cluster(byte).to_wire()).unwrap_or_default(),
            node,
            identity: id(identity).to_wire(),
            incarnation: 9,
            to,
            admission: 0,
        }
    }

    fn disk(byte: u8, admission: u64) -> Disk {
        Disk { identity: id(byte), admission }
    }

    /// Node 1 of cluster 50 knows node 2 by identity 2, the fifth that was admitted, and nobody else. Disk 7 is gone.
    fn check(sender: &Sender, standing: Standing) -> Result<NodeId, ErrorCode> {
        let known = |node| (node == NodeId(2)).then(|| disk(2, 5));
        let gone = |identity| identity == id(7);
        judge(ME, Some(cluster(50)), known, gone, Some(sender), standing)
            .map(|who| who.node)
            .map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_known_peer_is_heard() {
        assert_eq!(check(&sender(2, 2, Some(50), 1), Standing::Known), Ok(NodeId(2)));
        assert_eq!(check(&sender(2, 2, Some(50), 0), Standing::Known), Ok(NodeId(2)), "an answer");
    }

    #[test]
    fn another_disk_another_cluster_and_another_address_are_refused() {
        for standing in [Standing::Known, Standing::Stranger] {
            assert_eq!(check(&sender(2, 3, Some(50), 1), standing), Err(ErrorCode::WrongIdentity));
            assert_eq!(
                check(&sender(2, 3, None, 1), standing),
                Err(ErrorCode::WrongIdentity),
                "a wiped disk"
            );
            assert_eq!(check(&sender(2, 2, Some(51), 1), standing), Err(ErrorCode::WrongIdentity));
            assert_eq!(check(&sender(2, 2, Some(50), 3), standing), Err(ErrorCode::WrongIdentity));
            assert_eq!(check(&sender(1, 1, Some(50), 1), standing), Err(ErrorCode::WrongIdentity));
        }
    }

    #[test]
    fn strangers_may_say_hello_and_nothing_else() {
        assert_eq!(check(&sender(3, 3, None, 1), Standing::Stranger), Ok(NodeId(3)));
        assert_eq!(check(&sender(3, 3, None, 1), Standing::Known), Err(ErrorCode::NotReady));
        assert_eq!(check(&sender(2, 2, None, 1), Standing::Known), Err(ErrorCode::NotReady));
        assert_eq!(
            check(&sender(2, 3, None, 1), Standing::Anybody),
            Ok(NodeId(2)),
            "it waits to be admitted"
        );
        assert_eq!(check(&sender(2, 2, Some(51), 1), Standing::Anybody), Err(ErrorCode::WrongIdentity));
    }

    #[test]
    fn who_was_admitted_later_is_believed_and_who_is_gone_is_not() {
        let with = |number, sender| Sender { admission: number, ..sender };
        assert_eq!(check(&sender(3, 3, Some(50), 1), Standing::Known), Ok(NodeId(3)), "not heard of yet");
        let successor = sender(2, 3, Some(50), 1);
        for (number, expected) in [(6, Ok(NodeId(2))), (5, Err(ErrorCode::WrongIdentity))] {
            assert_eq!(check(&with(number, successor.clone()), Standing::Known), expected, "{number}");
        }
        let wiped = with(6, sender(2, 3, None, 1));
        assert_eq!(check(&wiped, Standing::Known), Err(ErrorCode::WrongIdentity), "nobody admitted it");
        let removed = with(6, sender(4, 7, Some(50), 1));
        for standing in [Standing::Known, Standing::Stranger] {
            assert_eq!(check(&removed, standing), Err(ErrorCode::WrongIdentity));
        }
    }

    #[test]
    fn malformed_senders_are_errors() {
        assert_eq!(
            judge(ME, None, |_| None, |_| false, None, Standing::Stranger).map_err(|refusal| refusal.code),
            Err(ErrorCode::InvalidRequest)
        );
        let malformed = [
            Sender { node: 0, ..sender(2, 2, None, 1) },
            Sender { node: u32::MAX, ..sender(2, 2, None, 1) },
            Sender { identity: bytes::Bytes::from_static(b"short"), ..sender(2, 2, None, 1) },
            Sender { cluster_id: bytes::Bytes::from_static(b"short"), ..sender(2, 2, None, 1) },
        ];
        for sender in malformed {
            assert_eq!(check(&sender, Standing::Stranger), Err(ErrorCode::InvalidRequest), "{sender:?}");
        }
    }

    #[test]
    fn the_sentence_says_what_is_wrong() {
        let known = |_| Some(disk(2, 0));
        let refused = judge(ME, None, known, |_| false, Some(&sender(2, 3, None, 1)), Standing::Stranger);
        let message = refused.expect_err("another identity").message;
        assert!(message.contains(&id(2).to_string()) && message.contains(&id(3).to_string()), "{message}");
    }
}
