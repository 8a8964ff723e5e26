//! Three nodes, one group, real stores: elections, kills, restarts, and a disk that was wiped.

mod base;
mod damage;
mod quiet;
mod transfer;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use quorate_proto::ErrorCode;
use quorate_proto::ids::{
    ClusterId, GroupId, Identity, Incarnation, LogIndex, NodeId, Offset, ProducerEpoch, ProducerId, Sequence,
    Term, Timestamp,
};
use quorate_proto::v1::{self, Hello, HelloReply, Sender, peer_request};
use tempfile::TempDir;

use super::{Killable, Switch};
use crate::env::transport::Lane;
use crate::env::{Env, Task};
use crate::raft::membership::HARDLY_ANY;
use crate::raft::{
    Answer, Apply, BatchAnswer, Group, Member, NodeHealth, PeerHooks, Proposal, ProposeError, RaftConfig,
    RaftNode, Role, Step, Wanted, next_step,
};
use crate::storage::{Body, Entry, Kind, LogId, News, Seat, Store, StoreConfig};

const GROUP: GroupId = GroupId(7);
const DEADLINE: Duration = Duration::from_secs(20);

struct NoHooks;

impl PeerHooks for NoHooks {
    fn hello(&self, _: Sender, _: Hello) -> BoxFuture<'static, Result<HelloReply, (ErrorCode, String)>> {
        std::future::ready(Ok(HelloReply::default())).boxed()
    }

    fn command(&self, command: Bytes, _: Duration) -> BoxFuture<'static, Result<Bytes, (ErrorCode, String)>> {
        std::future::ready(Ok(command)).boxed()
    }
}

/// What was applied: index and checksum of each batch.
#[derive(Clone, Default)]
struct Applied(Arc<Mutex<BTreeMap<LogIndex, u32>>>);

impl Apply for Applied {
    fn apply(&mut self, entry: &Entry) -> Answer {
        if entry.head.kind != Kind::Batch {
            return Answer::Nothing;
        }
        assert_eq!(entry.body, Body::Absent, "apply does without bodies");
        assert_eq!(entry.head.group, GROUP);
        let before = self.0.lock().unwrap().insert(entry.head.index, entry.head.body_crc);
        assert_eq!(before, None, "each index is applied once");
        Answer::Batch(BatchAnswer::Accepted { base_offset: entry.head.base_offset })
    }

    fn applied(&mut self, _: LogId) {}

    fn save(&self) -> Bytes {
        let applied = self.0.lock().unwrap();
        applied
            .iter()
            .flat_map(|(index, crc)| [index.0, u64::from(*crc)])
            .flat_map(u64::to_le_bytes)
            .collect()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), String> {
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
        let pairs = state.chunks_exact(16).map(|pair| (number(&pair[..8]), number(&pair[8..])));
        *self.0.lock().unwrap() =
            pairs.map(|(index, crc)| (LogIndex(index), u32::try_from(crc).unwrap())).collect();
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Apply> {
        Box::new(Self::default())
    }
}

struct Node {
    env: Env,
    tasks: Arc<Killable>,
    listener: Task,
    raft: RaftNode,
    store: Store,
    group: Group,
    applied: Applied,
}

impl Node {
    async fn stop(self) {
        self.raft.stop().await;
        drop(self.listener);
        self.store.close().await;
        self.tasks.kill();
    }

    /// As `kill -9` does.
    fn kill(self) {
        self.tasks.kill();
        drop(self.listener);
    }
}

struct Cluster {
    switch: Arc<Switch>,
    folders: Vec<TempDir>,
    members: Vec<Member>,
    starts: u64,
    config: RaftConfig,
}

fn address(node: NodeId) -> String {
    format!("node-{node}")
}

impl Cluster {
    async fn new(count: u32) -> Self {
        let folders: Vec<_> = (0..count).map(|_| tempfile::tempdir().unwrap()).collect();
        let mut members = Vec::new();
        let cluster = ClusterId::from_random([9; 16]);
        for (folder, node) in folders.iter().zip(1..) {
            let env = super::env(folder.path(), Arc::default(), Arc::default()).await;
            let (store, _) = Store::open(&env, StoreConfig::default(), NodeId(node)).await.unwrap();
            store.facts().set_cluster_id(cluster).await.unwrap();
            members.push(Member { node: NodeId(node), identity: store.facts().identity() });
            store.close().await;
        }
        Self { switch: Arc::default(), folders, members, starts: 0, config: RaftConfig::default() }
    }

    async fn start(&mut self, node: u32) -> Node {
        self.start_as(node, self.members.clone(), StoreConfig::default()).await
    }

    /// Starts these, one after the other, and gives them in that order.
    async fn start_all(&mut self, nodes: impl IntoIterator<Item = u32>) -> Vec<Node> {
        let mut started = Vec::new();
        for node in nodes {
            started.push(self.start(node).await);
        }
        started
    }

    async fn start_with(&mut self, node: u32, config: StoreConfig) -> Node {
        self.start_as(node, self.members.clone(), config).await
    }

    /// Starts a node whose group begins with these members, if its log is empty.
    async fn start_among(&mut self, node: u32, members: Vec<Member>) -> Node {
        self.start_as(node, members, StoreConfig::default()).await
    }

    async fn start_as(&mut self, node: u32, members: Vec<Member>, config: StoreConfig) -> Node {
        let (env, tasks, listener, raft, store) = self.prepare(node, config).await;
        let applied = Applied::default();
        let group = raft.start_group(GROUP, members, Box::new(applied.clone())).await.unwrap();
        Node { env, tasks, listener, raft, store, group, applied }
    }

    /// A node on which the group is still to be started.
    async fn prepare(
        &mut self,
        node: u32,
        config: StoreConfig,
    ) -> (Env, Arc<Killable>, Task, RaftNode, Store) {
        self.starts += 1;
        let id = NodeId(node);
        let tasks = Arc::<Killable>::default();
        let folder = self.folders[node as usize - 1].path();
        let env = super::env(folder, self.switch.clone(), tasks.clone()).await;
        let (store, _) = Store::open(&env, config, id).await.unwrap();
        let incarnation = Incarnation(self.starts);
        let raft = RaftNode::new(
            env.clone(),
            store.clone(),
            self.config.clone(),
            id,
            incarnation,
            Arc::new(NoHooks),
        );
        let listener = env.transport.listen(&address(id), raft.handler()).await.unwrap();
        for peer in (1..).take(self.folders.len()).map(NodeId) {
            raft.set_address(peer, &address(peer));
        }
        (env, tasks, listener, raft, store)
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let clock = quorate_proto::env::os();
    let end = clock.now() + DEADLINE;
    while !done() {
        assert!(clock.now() < end, "waited in vain: {what}");
        clock.sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until one of the nodes leads and may serve.
async fn leader<'a>(nodes: &[&'a Node]) -> (&'a Node, Term) {
    let mut found = None;
    until("a leader", || {
        found = nodes.iter().find_map(|node| match node.group.role() {
            Role::Leader { term, ready: true } => Some((*node, term)),
            Role::Leader { .. } | Role::Follower { .. } => None,
        });
        found.is_some()
    })
    .await;
    found.unwrap()
}

fn proposal(number: u64) -> Proposal {
    let body = Bytes::from(format!("batch number {number}"));
    Proposal {
        kind: Kind::Batch,
        base_offset: Offset(number),
        records: 1,
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch(-1),
        sequence: Sequence(-1),
        max_timestamp: Timestamp(0),
        appended_at: Timestamp(0),
        body_crc: crc32c::crc32c(&body),
        body,
    }
}

/// Proposes, in order, and gives the indexes of what was acknowledged.
async fn propose(node: &Node, term: Term, numbers: std::ops::Range<u64>) -> Vec<(LogIndex, u32)> {
    let mut pending = Vec::new();
    for number in numbers {
        let proposal = proposal(number);
        let crc = proposal.body_crc;
        let Ok(queued) = node.group.propose(term, proposal).await else { break };
        pending.push(async move {
            let (id, answer) = queued.await.ok()?;
            assert_eq!(answer, Answer::Batch(BatchAnswer::Accepted { base_offset: Offset(number) }));
            Some((id.index, crc))
        });
    }
    join_all(pending).await.into_iter().flatten().collect()
}

fn holds(node: &Node, acked: &[(LogIndex, u32)]) -> bool {
    let applied = node.applied.0.lock().unwrap();
    acked.iter().all(|(index, crc)| applied.get(index) == Some(crc))
}

fn threads() -> tokio::runtime::Runtime {
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    // Only the first test of a process sets it.
    tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init().ok();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn a_killed_leader_loses_nothing_that_was_acknowledged() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let mut nodes = Vec::new();
        for node in 1..=3 {
            nodes.push(cluster.start(node).await);
        }
        let (first, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        assert_eq!(first.group.role(), Role::Leader { term, ready: true });
        assert_eq!(first.raft.leadership(GROUP).map(|known| known.term), Some(term));
        let mut acked = propose(first, term, 0..1000).await;
        assert_eq!(acked.len(), 1000, "nothing stood in the way");
        assert!(acked.is_sorted(), "in the order of the proposals");
        first.group.read_barrier(DEADLINE).await.unwrap();
        let old =
            nodes.iter().position(|node| node.group.role() == (Role::Leader { term, ready: true })).unwrap();

        // Killed with proposals in flight.
        let killed = nodes.remove(old);
        let dead = cluster.members[old].node;
        let group = killed.group.clone();
        let mut in_flight = Vec::new();
        for number in 1000..1200 {
            let proposal = proposal(number);
            in_flight.push((proposal.body_crc, group.propose(term, proposal).await.unwrap()));
        }
        killed.kill();
        for (crc, pending) in in_flight {
            match pending.await {
                Ok((id, _)) => acked.push((id.index, crc)),
                Err(error) => assert_eq!(error, ProposeError::Unknown, "perhaps appended"),
            }
        }
        drop(group);

        let began = nodes[0].env.now();
        let (second, next) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        let gap = second.env.now().since(began);
        assert!(next > term);
        // Without the proof of its death it would take more than a second.
        assert!(gap < Duration::from_millis(700), "took {gap:?}");
        acked.extend(propose(second, next, 2000..2100).await);
        for node in &nodes {
            until("the survivors have all", || holds(node, &acked)).await;
            until("its beats are heard", || {
                node.raft.leadership(GROUP).is_some_and(|known| known.term == next && known.leader != dead)
            })
            .await;
        }

        // It comes back, and has all of it too, and whatever the others have.
        let back = cluster.start(dead.0).await;
        until("the third has all", || holds(&back, &acked)).await;
        until("all are the same", || {
            let applied = |node: &Node| node.applied.0.lock().unwrap().clone();
            nodes.iter().all(|node| applied(node) == applied(&back))
        })
        .await;
        nodes.push(back);
        for node in nodes {
            let tasks = node.group.0.registry.clone();
            node.stop().await;
            assert_eq!(tasks.running(), 0, "openraft's tasks have ended");
        }
    });
}

#[test]
fn a_full_follower_takes_no_batches_and_all_the_rest() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let (one, two) = (cluster.start(1).await, cluster.start(2).await);
        // So much is never free.
        let full = StoreConfig { disk_reserve_bytes: Some(u64::MAX), ..StoreConfig::default() };
        let three = cluster.start_with(3, full.clone()).await;
        let (first, term) = leader(&[&one, &two]).await;
        let acked = propose(first, term, 0..100).await;
        assert_eq!(acked.len(), 100, "a majority has room");
        let is_told = |health: &NodeHealth| health.room.is_full;
        until("it has said so", || first.raft.healths().get(&NodeId(3)).is_some_and(is_told)).await;
        let leads = Role::Follower { leader: Some(first.group.0.me), term };
        until("it follows all the same", || three.group.role() == leads).await;
        assert!(three.applied.0.lock().unwrap().is_empty());
        assert_eq!(first.raft.full_disk(&first.group), None);
        let refused = three.raft.full_disk(&three.group);
        assert!(refused.is_some_and(|(node, room)| node == NodeId(3) && room.is_full), "{refused:?}");

        // Two of three are no majority with room, and nothing is proposed that would not be committed.
        let other = if first.group.0.me == NodeId(1) { NodeId(2) } else { NodeId(1) };
        let (first, second) = if other == NodeId(2) { (one, two) } else { (two, one) };
        second.stop().await;
        let second = cluster.start_with(other.0, full).await;
        until("it is known that no majority has room", || {
            first.raft.full_disk(&first.group).is_some()
                || first.group.role() != (Role::Leader { term, ready: true })
        })
        .await;

        three.stop().await;
        let three = cluster.start(3).await;
        until("with room it has all", || holds(&three, &acked)).await;
        for node in [first, second, three] {
            node.stop().await;
        }
    });
}

/// A leader of a new term sends once more what its followers hold, batches among it.
#[test]
fn full_nodes_elect_a_leader_that_commits() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let nodes = [cluster.start(1).await, cluster.start(2).await, cluster.start(3).await];
        let (first, term) = leader(&nodes.each_ref()).await;
        let acked = propose(first, term, 0..10).await;
        assert_eq!(acked.len(), 10);
        until("all have all", || nodes.iter().all(|node| holds(node, &acked))).await;
        for node in nodes {
            node.stop().await;
        }
        let full = StoreConfig { disk_reserve_bytes: Some(u64::MAX), ..StoreConfig::default() };
        let mut nodes = Vec::new();
        for node in 1..=3 {
            nodes.push(cluster.start_with(node, full.clone()).await);
        }
        leader(&nodes.iter().collect::<Vec<_>>()).await;
        until("what was acknowledged", || nodes.iter().all(|node| holds(node, &acked))).await;
        for node in nodes {
            node.stop().await;
        }
    });
}

#[test]
fn a_full_leader_hands_over_to_one_with_room() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        // Node 1 stands first for a new group.
        let full = StoreConfig { disk_reserve_bytes: Some(u64::MAX), ..StoreConfig::default() };
        let one = cluster.start_with(1, full).await;
        let (two, three) = (cluster.start(2).await, cluster.start(3).await);
        let (heir, term) = leader(&[&two, &three]).await;
        let acked = propose(heir, term, 0..10).await;
        assert_eq!(acked.len(), 10);
        let leads = Role::Follower { leader: Some(heir.group.0.me), term };
        until("the full one follows", || one.group.role() == leads).await;
        until("the others have all", || holds(&two, &acked) && holds(&three, &acked)).await;
        for node in [one, two, three] {
            node.stop().await;
        }
    });
}

#[test]
fn all_killed_at_once_come_back_with_all_that_was_acknowledged() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let mut acked = Vec::new();
        for round in 0..3 {
            let mut nodes = Vec::new();
            for node in 1..=3 {
                nodes.push(cluster.start(node).await);
            }
            let (first, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
            for node in &nodes {
                until("what was acknowledged before", || holds(node, &acked)).await;
            }
            acked.extend(propose(first, term, round * 100..round * 100 + 100).await);
            nodes.into_iter().for_each(Node::kill);
        }
        assert_eq!(acked.len(), 300);
    });
}

#[test]
fn one_node_alone_leads_at_once() {
    threads().block_on(async {
        let mut cluster = Cluster::new(1).await;
        for number in 0..2 {
            let node = cluster.start(1).await;
            let (_, term) = leader(&[&node]).await;
            assert_eq!(propose(&node, term, number..number + 1).await.len(), 1);
            node.stop().await;
        }
    });
}

#[test]
fn a_dead_preferred_leader_does_not_hold_up_a_new_group() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let (second, third) = (cluster.start(2).await, cluster.start(3).await);
        let (first, term) = leader(&[&second, &third]).await;
        assert_eq!(propose(first, term, 0..10).await.len(), 10);
        second.stop().await;
        third.stop().await;
    });
}

#[test]
fn the_preferred_leader_is_tried_first() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        // The first member comes last.
        let (third, second, first) = (cluster.start(3).await, cluster.start(2).await, cluster.start(1).await);
        leader(&[&first]).await;
        for node in [first, second, third] {
            node.stop().await;
        }
    });
}

#[test]
fn a_wiped_disk_is_refused_and_does_not_vote() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let (first, second, third) = (cluster.start(1).await, cluster.start(2).await, cluster.start(3).await);
        let (led, term) = leader(&[&first, &second, &third]).await;
        let acked = propose(led, term, 0..10).await;
        assert_eq!(acked.len(), 10);
        until("all have it", || [&first, &second, &third].iter().all(|node| holds(node, &acked))).await;
        // As the metadata tell every node that has applied them.
        let peers = BTreeMap::from([(NodeId(2), (cluster.members[1].identity, Seat::default()))]);
        third.store.facts().learn(News { peers, ..News::default() }).await.unwrap();
        for node in [first, second, third] {
            node.stop().await;
        }

        // Node 2 comes back with an empty disk, and says that it was always a member.
        cluster.folders[1] = tempfile::tempdir().unwrap();
        let env = super::env(cluster.folders[1].path(), Arc::default(), Arc::default()).await;
        let (store, _) = Store::open(&env, StoreConfig::default(), NodeId(2)).await.unwrap();
        store.facts().set_cluster_id(ClusterId::from_random([9; 16])).await.unwrap();
        let wiped = store.facts().identity();
        store.close().await;
        drop((store, env));
        let known = std::mem::replace(&mut cluster.members[1].identity, wiped);
        let second = cluster.start(2).await;
        cluster.members[1].identity = known;
        let third = cluster.start(3).await;

        // With node 1 down, node 3 finds no majority: the vote of node 2 does not count.
        let beat = peer_request::Body::Beat(v1::NodeBeat::default());
        let answer = second.raft.call(NodeId(3), Lane::Urgent, beat, DEADLINE).await.unwrap();
        assert_eq!(answer.error, ErrorCode::WrongIdentity as i32);
        assert!(answer.message.contains(&wiped.to_string()), "{}", answer.message);
        let refused = third.raft.refused_since(third.env.now() - DEADLINE);
        assert_eq!(refused.get(&NodeId(2)), Some(&answer.message), "an operator is told of it");
        let vote = peer_request::Body::Vote(v1::VoteRequest::default());
        let answer = third.raft.call(NodeId(2), Lane::Urgent, vote, DEADLINE).await.unwrap();
        assert_eq!(answer.error, ErrorCode::WrongIdentity as i32, "its answers do not count");
        // Several election timeouts.
        third.env.sleep(Duration::from_secs(4)).await;
        for node in [&second, &third] {
            assert!(!matches!(node.group.role(), Role::Leader { .. }), "{:?}", node.group.role());
        }

        // With node 1 there is one, and nothing is lost.
        let first = cluster.start(1).await;
        leader(&[&first, &third]).await;
        for node in [&first, &third] {
            until("what was acknowledged", || holds(node, &acked)).await;
        }
        for node in [first, second, third] {
            node.stop().await;
        }
    });
}

/// Goes to these members step by step, as leaders do.
async fn go_to(nodes: &[&Node], wanted: &Wanted) {
    let clock = quorate_proto::env::os();
    let end = clock.now() + DEADLINE;
    loop {
        let (led, term) = leader(nodes).await;
        let seen = led.group.seen_config();
        if seen.is_committed && seen.config.is(wanted) {
            return;
        }
        if seen.is_committed {
            let me = led.store.facts().node();
            match next_step(&seen.config, wanted, me, &led.group.near(0, 0)) {
                Step::Append(next) => drop(led.group.change_members(term, &seen, &next, DEADLINE).await),
                Step::HandOver(heirs) => drop(led.raft.transfer(GROUP, *heirs.first().unwrap()).await),
                Step::Done | Step::Wait(_) => {}
            }
        }
        assert!(clock.now() < end, "in vain: {seen:?} is not {wanted:?}");
        clock.sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn who_lacks_much_is_not_near() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let mut nodes = vec![cluster.start(1).await, cluster.start(2).await, cluster.start(3).await];
        let (led, _) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        let at = nodes.iter().position(|node| !std::ptr::eq(node, led)).unwrap();
        let gone = cluster.members[at].node;
        until("it has all", || led.group.near(0, 0).contains(&gone)).await;
        nodes.remove(at).kill();
        let (led, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        let is_near = |entries_max, bytes_max| led.group.near(entries_max, bytes_max).contains(&gone);
        let acked = propose(led, term, 0..HARDLY_ANY).await;
        assert_eq!(u64::try_from(acked.len()), Ok(HARDLY_ANY));
        assert!(!is_near(HARDLY_ANY - 1, u64::MAX), "these are entries too");
        assert_eq!(propose(led, term, 100..140).await.len(), 40);
        assert!(is_near(100, u64::MAX));
        assert!(!is_near(100, 39), "each has more than a byte");
        assert!(!is_near(39, u64::MAX));
        for node in nodes {
            node.stop().await;
        }
    });
}

fn voters(members: &[Member]) -> Wanted {
    let voters = members.iter().map(|member| (member.node, member.identity)).collect();
    Wanted { voters, ..Wanted::default() }
}

#[test]
fn members_come_and_go_and_take_the_log_along() {
    threads().block_on(async {
        let mut cluster = Cluster::new(4).await;
        let all = cluster.members.clone();
        let first = cluster.start_among(1, all[..3].to_vec()).await;
        let second = cluster.start_among(2, all[..3].to_vec()).await;
        let third = cluster.start_among(3, all[..3].to_vec()).await;
        let (led, term) = leader(&[&first, &second, &third]).await;
        let acked = propose(led, term, 0..10).await;
        assert_eq!(acked.len(), 10);

        // Node 4 knows nothing, and waits for the leader.
        let fourth = cluster.start_among(4, Vec::new()).await;
        let nodes = [&first, &second, &third, &fourth];
        go_to(&nodes, &voters(&[all[0], all[1], all[3]])).await;
        until("node 4 has it", || holds(&fourth, &acked)).await;
        // Whoever led may have no place any more.
        go_to(&nodes, &voters(&[all[3]])).await;
        let (led, term) = leader(&[&fourth]).await;
        assert_eq!(propose(led, term, 10..20).await.len(), 10);
        go_to(&nodes, &voters(&[all[1], all[2], all[3]])).await;
        until("node 2 has it", || holds(&second, &acked)).await;
        for node in [first, second, third, fourth] {
            node.stop().await;
        }
    });
}

#[test]
fn a_lost_disk_is_replaced_by_another_one_under_the_same_id() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let (first, second, third) = (cluster.start(1).await, cluster.start(2).await, cluster.start(3).await);
        let (led, term) = leader(&[&first, &second, &third]).await;
        let acked = propose(led, term, 0..10).await;
        assert_eq!(acked.len(), 10);
        second.kill();

        cluster.folders[1] = tempfile::tempdir().unwrap();
        let env = super::env(cluster.folders[1].path(), Arc::default(), Arc::default()).await;
        let (store, _) = Store::open(&env, StoreConfig::default(), NodeId(2)).await.unwrap();
        // It was admitted; nobody has told the others.
        let cluster_id = Some(ClusterId::from_random([9; 16]));
        let news = News { cluster: cluster_id, admission: Some(1), ..News::default() };
        store.facts().learn(news).await.unwrap();
        let mut members = cluster.members.clone();
        members[1].identity = store.facts().identity();
        store.close().await;
        drop((store, env));
        let second = cluster.start_among(2, Vec::new()).await;
        go_to(&[&first, &second, &third], &voters(&members)).await;
        until("node 2 has it", || holds(&second, &acked)).await;
        assert_eq!(third.raft.known(NodeId(2)), Some(members[1].identity));

        // Its vote counts now.
        first.kill();
        let (led, term) = leader(&[&second, &third]).await;
        assert_eq!(propose(led, term, 10..20).await.len(), 10);
        second.stop().await;
        third.stop().await;
    });
}

#[test]
fn another_identity_as_a_member_is_refused_at_the_start() {
    threads().block_on(async {
        let mut cluster = Cluster::new(1).await;
        let node = cluster.start(1).await;
        let impostor = Member { node: NodeId(1), identity: Identity::from_random([5; 16]) };
        let refused = node.raft.start_group(GroupId(8), vec![impostor], Box::new(Applied::default())).await;
        assert!(matches!(refused, Err(crate::raft::GroupError::WrongIdentity { .. })), "{refused:?}");
        let again = node.raft.start_group(GROUP, cluster.members.clone(), Box::new(Applied::default())).await;
        assert!(matches!(again, Err(crate::raft::GroupError::Running(GROUP))), "{again:?}");
        node.stop().await;
    });
}

#[test]
fn a_member_that_fell_behind_takes_up_the_base() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let mut nodes = Vec::new();
        for node in 1..=3 {
            nodes.push(cluster.start(node).await);
        }
        let (_, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        let at = |nodes: &[Node], leads: bool| {
            let role = |node: &Node| matches!(node.group.role(), Role::Leader { .. }) == leads;
            nodes.iter().position(role).unwrap()
        };
        let away = nodes.remove(at(&nodes, false));
        let absent = cluster.members.iter().position(|m| m.identity == away.store.facts().identity());
        let mut acked = Vec::new();
        away.kill();
        let led = at(&nodes, true);
        acked.extend(propose(&nodes[led], term, 0..300).await);
        assert_eq!(acked.len(), 300);
        let first = nodes[led].group.applied().unwrap().index.next();

        // It is waited for as long as its owner wishes.
        let begins = nodes[led].group.trim(first, true).await.unwrap();
        assert!(begins < first, "one of three has not got it");
        let begins = nodes[led].group.trim(first, false).await.unwrap();
        assert_eq!(begins, first);
        for node in &nodes {
            // The follower trims by the leader's word.
            until("the log is trimmed", || {
                node.group.log().state().purged.is_some_and(|purged| purged.index.next() == first)
            })
            .await;
        }
        acked.extend(propose(&nodes[led], term, 300..310).await);

        // Twice: it takes up the base, and goes on from it after a restart.
        for round in 0..2 {
            let back = cluster.start(u32::try_from(absent.unwrap()).unwrap() + 1).await;
            until("the third has all", || holds(&back, &acked)).await;
            until("its log begins behind its base", || back.group.log().state().purged == back.group.base())
                .await;
            until("all are the same", || {
                nodes.iter().all(|node| *node.applied.0.lock().unwrap() == *back.applied.0.lock().unwrap())
            })
            .await;
            acked.extend(propose(&nodes[led], term, 310 + round..311 + round).await);
            until("it goes on", || holds(&back, &acked)).await;
            back.kill();
        }
        for node in nodes {
            node.stop().await;
        }

        // All start again from their bases, and count on.
        let mut nodes = Vec::new();
        for node in 1..=3 {
            nodes.push(cluster.start(node).await);
        }
        let (first, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        acked.extend(propose(first, term, 400..405).await);
        for node in &nodes {
            until("all have all", || holds(node, &acked)).await;
        }
        for node in nodes {
            node.stop().await;
        }
    });
}
