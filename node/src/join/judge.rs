//! Whether another node may be who it says it is. Pure.

use std::collections::BTreeSet;

use quorate_proto::ErrorCode;
use quorate_proto::ids::{ClusterId, Identity, NodeId};
use quorate_proto::v1;

/// A node that says hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// Who it says it is.
    pub node: NodeId,
    /// The identity on its disk.
    pub identity: Identity,
    /// The cluster that its disk belongs to; `None` if it is fresh.
    pub cluster: Option<ClusterId>,
    /// Whom it means to talk to; node 0 stands for whoever listens there.
    pub to: NodeId,
    /// The number of its disk's admission.
    pub admission: u64,
    /// The nodes of its `--bootstrap`, itself included.
    pub bootstrap: BTreeSet<NodeId>,
}

/// What the node that was asked knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// Who we are.
    pub node: NodeId,
    /// Our cluster; `None` while it is not formed or not known.
    pub cluster: Option<ClusterId>,
    /// The nodes of our `--bootstrap`, ourselves included.
    pub bootstrap: BTreeSet<NodeId>,
    /// The identity under which we know the asker's node id.
    pub known: Option<Identity>,
    /// The number of that identity's admission.
    pub admission: u64,
    /// The node that we know under the asker's identity.
    pub owner: Option<NodeId>,
    /// Whether the asker's disk was removed from our cluster, or replaced in it.
    pub is_gone: bool,
    /// Whether we ask to be admitted to a cluster (`--join`): then `bootstrap` names us alone, and says nothing.
    pub is_joining: bool,
}

/// What becomes of a node that says hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is who it says it is; that it belongs to a cluster already is not said.
    Welcome,
    /// It may take part once somebody admits it: a sentence for its operator.
    Waits(String),
    /// Its disk was removed from the cluster, or replaced in it, for good: a sentence for its operator.
    Gone(String),
}

impl Asker {
    /// Reads what came.
    ///
    /// # Errors
    /// It says nothing that could be an id or an identity.
    pub fn read(from: &v1::Sender, hello: &v1::Hello) -> Result<Self, (ErrorCode, String)> {
        let invalid = || (ErrorCode::InvalidRequest, "a hello without node id or identity".to_owned());
        Ok(Self {
            node: Some(NodeId(from.node)).filter(|node| node.is_valid()).ok_or_else(invalid)?,
            identity: Identity::from_wire(&from.identity).ok_or_else(invalid)?,
            cluster: ClusterId::from_wire(&from.cluster_id),
            to: NodeId(from.to),
            admission: from.admission,
            bootstrap: hello.bootstrap.iter().copied().map(NodeId).collect(),
        })
    }
}

/// Whether the asker may be who it says it is.
///
/// # Errors
/// Why it is refused, as a sentence for the operator of the node that asks.
pub fn judge_hello(here: &Here, asker: &Asker) -> Result<Verdict, (ErrorCode, String)> {
    let wrong = |reason: String| Err((ErrorCode::WrongIdentity, reason));
    let Asker { node, identity, cluster, to, admission, bootstrap } = asker;
    if *to != here.node && *to != NodeId(0) {
        return wrong(format!(
            "this is node {}, not node {to}: the addresses in --bootstrap are mixed up",
            here.node
        ));
    }
    if *node == here.node {
        return wrong(format!("node id {node} is taken: this node has it"));
    }
    if let (Some(ours), Some(theirs)) = (here.cluster, cluster)
        && ours != *theirs
    {
        return wrong(format!(
            "node {node} brings the disk of another cluster ({theirs}), this is cluster {ours}"
        ));
    }
    if here.is_gone {
        return Ok(Verdict::Gone(format!(
            "the disk of node {node} was removed from this cluster, or replaced in it: its data may be deleted; the node \
             comes back on an empty data folder, by `quorate cluster add-node {node}` or `replace-node {node}`"
        )));
    }
    match (here.known, here.owner) {
        (known, Some(owner)) if known != Some(*identity) && owner != *node => {
            wrong(format!("node {node} brings the disk of node {owner}: each node needs its own"))
        }
        // It was admitted in that one's place, and this node has not heard of it yet.
        (Some(known), _) if known != *identity && cluster.is_some() && *admission > here.admission => {
            Ok(Verdict::Welcome)
        }
        (Some(known), _) if known != *identity && cluster.is_some() => wrong(format!(
            "node {node} is known under another identity ({known}) than its disk has ({identity}), which came before: \
             bring back the disk that it had last"
        )),
        (Some(known), _) if known != *identity => Ok(Verdict::Waits(format!(
            "node {node} is known under another identity ({known}) than its disk has now ({identity}): the disk was \
             wiped or exchanged, and what it has acknowledged is gone with it, so it must not vote; bring back the \
             disk that it had, or admit this one in its place: quorate cluster replace-node {node}"
        ))),
        (Some(_), _) => Ok(Verdict::Welcome),
        // Only who was admitted keeps the id of a cluster: this node has not heard of it yet.
        (None, _) if here.cluster.is_some() && cluster.is_some() => Ok(Verdict::Welcome),
        (None, _) if here.cluster.is_some() => Ok(Verdict::Waits(format!(
            "node {node} is not a member of this cluster (any more); to admit it: quorate cluster add-node {node}"
        ))),
        // A member that has heard of our admission before we have.
        (None, _) if here.is_joining && cluster.is_some() => Ok(Verdict::Welcome),
        // Whose own list does not name us was led here by --join.
        (None, _)
            if cluster.is_none()
                && !bootstrap.contains(&here.node)
                && (here.is_joining || !here.bootstrap.contains(node)) =>
        {
            Ok(Verdict::Waits(format!(
                "node {} is in no cluster itself yet; once it is, node {node} is admitted by: quorate cluster add-node \
             {node}",
                here.node
            )))
        }
        (None, _)
            if !here.bootstrap.contains(node) || (cluster.is_none() && here.bootstrap != *bootstrap) =>
        {
            let list = |nodes: &BTreeSet<NodeId>| {
                nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            };
            let reason = if here.is_joining {
                format!(
                    "--bootstrap names nodes {} at node {node}, and node {} was started with --join: say --bootstrap at \
                     all who form a cluster",
                    list(bootstrap),
                    here.node
                )
            } else {
                format!(
                    "--bootstrap names nodes {} at node {}, and {} at node {node}: it must be the same for all",
                    list(&here.bootstrap),
                    here.node,
                    list(bootstrap)
                )
            };
            Err((ErrorCode::InvalidConfig, reason))
        }
        (None, _) => Ok(Verdict::Welcome),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn identity(byte: u8) -> Identity {
        Identity(uuid::Uuid::from_bytes([byte; 16]))
    }

    fn cluster(byte: u8) -> ClusterId {
        ClusterId(uuid::Uuid::from_bytes([byte; 16]))
    }

    /// We are node 1 of 1,2,3, in cluster 9 unless said otherwise, and know node 2 by 2 and node 3 by 3.
    fn check(change: impl FnOnce(&mut Here, &mut Asker), expected: Expect) {
        let all: BTreeSet<NodeId> = [1, 2, 3].map(NodeId).into();
        let mut here = Here {
            node: NodeId(1),
            cluster: Some(cluster(9)),
            bootstrap: all.clone(),
            known: None,
            admission: 0,
            owner: None,
            is_gone: false,
            is_joining: false,
        };
        let mut asker = Asker {
            node: NodeId(2),
            identity: identity(2),
            cluster: Some(cluster(9)),
            to: NodeId(1),
            admission: 0,
            bootstrap: all,
        };
        change(&mut here, &mut asker);
        if here.cluster.is_some() {
            here.known = [2, 3].into_iter().find(|n| NodeId(u32::from(*n)) == asker.node).map(identity);
            here.owner =
                [2, 3].into_iter().find(|n| identity(*n) == asker.identity).map(|n| NodeId(u32::from(n)));
        }
        let seen = match judge_hello(&here, &asker) {
            Ok(Verdict::Welcome) => "welcome".to_owned(),
            Ok(Verdict::Waits(reason)) => format!("waits: {reason}"),
            Ok(Verdict::Gone(reason)) => format!("gone: {reason}"),
            Err((code, reason)) => format!("{code:?}: {reason}"),
        };
        expected.assert_eq(&seen);
    }

    #[test]
    fn a_member_comes_back() {
        check(|_, _| {}, expect!["welcome"]);
        // It was one of those who formed the cluster, and crashed before it wrote that down.
        check(|_, asker| asker.cluster = None, expect!["welcome"]);
    }

    #[test]
    fn fresh_nodes_meet() {
        check(|here, asker| (here.cluster, asker.cluster) = (None, None), expect!["welcome"]);
        check(|here, _| here.cluster = None, expect!["welcome"]);
        check(
            |here, asker| {
                (here.cluster, asker.cluster) = (None, None);
                asker.bootstrap = [1, 2].map(NodeId).into();
            },
            expect![
                "InvalidConfig: --bootstrap names nodes 1,2,3 at node 1, and 1,2 at node 2: it must be the same for all"
            ],
        );
    }

    #[test]
    fn who_joins_is_not_judged_by_bootstrap() {
        let alone = |node: u32| BTreeSet::from([NodeId(node)]);
        // We wait to be admitted, and a member has heard first that we are.
        let joining = |here: &mut Here| {
            (here.cluster, here.is_joining, here.bootstrap) = (None, true, [NodeId(1)].into());
        };
        check(|here, _| joining(here), expect!["welcome"]);
        // Two that wait name each other.
        check(
            |here, asker| {
                joining(here);
                (asker.cluster, asker.bootstrap) = (None, alone(2));
            },
            expect![
                "waits: node 1 is in no cluster itself yet; once it is, node 2 is admitted by: quorate cluster add-node 2"
            ],
        );
        // It asks to be admitted before the cluster is formed.
        check(
            |here, asker| {
                here.cluster = None;
                (asker.node, asker.identity) = (NodeId(4), identity(4));
                (asker.cluster, asker.bootstrap) = (None, alone(4));
            },
            expect![
                "waits: node 1 is in no cluster itself yet; once it is, node 4 is admitted by: quorate cluster add-node 4"
            ],
        );
        // It is one of those who form ours, and was started with --join all the same: it would be waited for in vain.
        check(
            |here, asker| {
                here.cluster = None;
                (asker.cluster, asker.bootstrap) = (None, alone(2));
            },
            expect![
                "InvalidConfig: --bootstrap names nodes 1,2,3 at node 1, and 2 at node 2: it must be the same for all"
            ],
        );
        // It means to form a cluster with us.
        check(
            |here, asker| {
                joining(here);
                asker.cluster = None;
            },
            expect![
                "InvalidConfig: --bootstrap names nodes 1,2,3 at node 2, and node 1 was started with --join: say --bootstrap at all who form a cluster"
            ],
        );
    }

    #[test]
    fn another_disk_is_refused() {
        check(
            |_, asker| (asker.identity, asker.cluster) = (identity(7), None),
            expect![
                "waits: node 2 is known under another identity (02020202-0202-0202-0202-020202020202) than its disk has now (07070707-0707-0707-0707-070707070707): the disk was wiped or exchanged, and what it has acknowledged is gone with it, so it must not vote; bring back the disk that it had, or admit this one in its place: quorate cluster replace-node 2"
            ],
        );
        check(
            |_, asker| asker.identity = identity(7),
            expect![
                "WrongIdentity: node 2 is known under another identity (02020202-0202-0202-0202-020202020202) than its disk has (07070707-0707-0707-0707-070707070707), which came before: bring back the disk that it had last"
            ],
        );
        check(
            |_, asker| asker.cluster = Some(cluster(8)),
            expect![
                "WrongIdentity: node 2 brings the disk of another cluster (08080808-0808-0808-0808-080808080808), this is cluster 09090909-0909-0909-0909-090909090909"
            ],
        );
        check(
            |_, asker| asker.identity = identity(3),
            expect!["WrongIdentity: node 2 brings the disk of node 3: each node needs its own"],
        );
    }

    #[test]
    fn who_was_admitted_is_welcome_where_it_was_not_heard_of_and_who_was_removed_is_not() {
        check(|_, asker| (asker.identity, asker.admission) = (identity(7), 1), expect!["welcome"]);
        check(|_, asker| (asker.node, asker.identity) = (NodeId(4), identity(4)), expect!["welcome"]);
        check(|_, asker| asker.to = NodeId(0), expect!["welcome"]);
        check(
            |here, asker| (here.is_gone, asker.node, asker.identity) = (true, NodeId(4), identity(4)),
            expect![
                "gone: the disk of node 4 was removed from this cluster, or replaced in it: its data may be deleted; the node comes back on an empty data folder, by `quorate cluster add-node 4` or `replace-node 4`"
            ],
        );
    }

    #[test]
    fn strangers_and_mistakes_are_refused() {
        check(
            |_, asker| (asker.node, asker.identity, asker.cluster) = (NodeId(4), identity(4), None),
            expect![
                "waits: node 4 is not a member of this cluster (any more); to admit it: quorate cluster add-node 4"
            ],
        );
        check(
            |_, asker| (asker.node, asker.identity, asker.cluster) = (NodeId(4), identity(3), None),
            expect!["WrongIdentity: node 4 brings the disk of node 3: each node needs its own"],
        );
        check(
            |_, asker| asker.to = NodeId(3),
            expect!["WrongIdentity: this is node 1, not node 3: the addresses in --bootstrap are mixed up"],
        );
        check(
            |_, asker| asker.node = NodeId(1),
            expect!["WrongIdentity: node id 1 is taken: this node has it"],
        );
    }
}
