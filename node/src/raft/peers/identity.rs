//! Who may talk here: judged before anything else of a message is looked at.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use quorate_proto::ErrorCode;
use quorate_proto::ids::{ClusterId, Identity, Incarnation, NodeId};
use quorate_proto::v1::Sender;

use crate::storage::{Facts, StoreError};

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
}

/// How well a sender must be known for what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::raft) enum Standing {
    /// It may be a stranger, but not an impostor: for a hello.
    Stranger,
    /// It must be of this cluster, with the identity that it is known by.
    Known,
}

/// The peers' identities: the durable ones, and those admitted and not yet counted on.
pub(in crate::raft) struct Identities {
    facts: Facts,
    admitted: Mutex<BTreeMap<NodeId, Identity>>,
}

impl Identities {
    pub(in crate::raft) fn new(facts: Facts) -> Self {
        Self { facts, admitted: Mutex::default() }
    }

    pub(in crate::raft) fn cluster(&self) -> Option<ClusterId> {
        self.facts.cluster_id()
    }

    /// What `node` is known by. A durable identity stands above an admitted one.
    pub(in crate::raft) fn known(&self, node: NodeId) -> Option<Identity> {
        let admitted = || self.admitted.lock().unwrap_or_else(PoisonError::into_inner).get(&node).copied();
        self.facts.peer(node).or_else(admitted)
    }

    pub(in crate::raft) fn admit(&self, node: NodeId, identity: Identity) {
        if let Some(durable) = self.facts.peer(node)
            && durable != identity
        {
            tracing::error!(peer = %node, known = %durable, refused = %identity, "another identity was not admitted");
            return;
        }
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner).insert(node, identity);
    }

    /// Makes the identity of `node` durable, before its first vote counts. Cheap once it is.
    pub(in crate::raft) async fn remember(&self, node: NodeId, identity: Identity) -> Result<(), StoreError> {
        if self.facts.peer(node) == Some(identity) {
            return Ok(());
        }
        self.facts.remember_peer(node, identity).await
    }

    /// Judges who sent a message, or an answer; the message must have been meant for this node, if it says for whom.
    pub(in crate::raft) fn judge(&self, sender: Option<&Sender>, standing: Standing) -> Result<Who, Refusal> {
        let known = |node| self.known(node);
        judge(self.facts.node(), self.facts.cluster_id(), known, sender, standing)
    }
}

fn judge(
    me: NodeId,
    cluster: Option<ClusterId>,
    known: impl Fn(NodeId) -> Option<Identity>,
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
        return Err(wrong(format!("node {node} is this node: two nodes must not have one id")));
    }
    if let (Some(ours), Some(theirs)) = (cluster, theirs)
        && ours != theirs
    {
        return Err(wrong(format!(
            "node {node} belongs to cluster {theirs}, and node {me} to cluster {ours}"
        )));
    }
    let known = known(node);
    if let Some(known) = known
        && known != identity
    {
        return Err(wrong(format!(
            "node {node} is known to node {me} by identity {known}, and came with {identity}: its data folder is \
             empty, or that of another node; bring its own data back; a node cannot be replaced yet"
        )));
    }
    if standing == Standing::Known {
        if cluster.is_none() || theirs.is_none() {
            return Err(Refusal::new(
                ErrorCode::NotReady,
                format!("node {me} or node {node} is in no cluster yet"),
            ));
        }
        if known.is_none() {
            return Err(Refusal::new(
                ErrorCode::NotReady,
                format!("node {node} is not known to node {me} yet"),
            ));
        }
    }
    Ok(Who { node, identity, cluster: theirs, incarnation: Incarnation(sender.incarnation) })
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
        }
    }

    /// Node 1 of cluster 50 knows node 2 by identity 2, and nobody else.
    fn check(sender: &Sender, standing: Standing) -> Result<NodeId, ErrorCode> {
        let known = |node| (node == NodeId(2)).then(|| id(2));
        judge(ME, Some(cluster(50)), known, Some(sender), standing)
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
        assert_eq!(check(&sender(3, 3, Some(50), 1), Standing::Known), Err(ErrorCode::NotReady));
        assert_eq!(check(&sender(2, 2, None, 1), Standing::Known), Err(ErrorCode::NotReady));
    }

    #[test]
    fn malformed_senders_are_errors() {
        assert_eq!(
            judge(ME, None, |_| None, None, Standing::Stranger).map_err(|refusal| refusal.code),
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
        let refused = judge(ME, None, |_| Some(id(2)), Some(&sender(2, 3, None, 1)), Standing::Stranger);
        let message = refused.expect_err("another identity").message;
        assert!(message.contains(&id(2).to_string()) && message.contains(&id(3).to_string()), "{message}");
    }
}
