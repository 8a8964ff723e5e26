//! What goes out to a peer: appends in order and within bounds, heartbeats together.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::{BoxFuture, Either, join_all, select};
use futures_util::{FutureExt, StreamExt};
use openraft::EntryPayload;
use openraft::errors::ReplicationClosed;
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, StreamAppendError};
use openraft::{RaftNetworkFactory, RaftNetworkV2};
use quorate_proto::ids::{ClusterId, GroupId, Identity, Incarnation, LogIndex, NodeId, Term};
use quorate_proto::v1::{self, PeerReply, PeerRequest, Sender, append_reply, peer_reply, peer_request};
use tokio::sync::{mpsc, oneshot};

use crate::env::transport::{Lane, LinkWatch, PeerError};
use crate::env::{PeerHandler, PeerLink, Task, Transport};
use crate::raft::RaftConfig;
use crate::raft::base::{Saved, StoredMembership, snapshot_of};
use crate::raft::peers::{Network, Peers};
use crate::raft::rate::Rate;
use crate::raft::types::{CommittedLeaderId, Config, Disk, RaftEntryOf, RaftLogId, RaftVote};
use crate::storage::{LogId, Store, StoreConfig};

const PEER: NodeId = NodeId(2);

fn identity() -> Identity {
    Identity::from_random([2; 16])
}

fn cluster() -> ClusterId {
    ClusterId::from_random([9; 16])
}

type Answer = oneshot::Sender<Result<(Sender, PeerReply), PeerError>>;

/// A peer that answers when it is told to.
#[derive(Clone, Default)]
struct Slow(Arc<Mutex<VecDeque<(Lane, PeerRequest, Answer)>>>);

impl Slow {
    fn take(&self) -> Option<(Lane, PeerRequest, Answer)> {
        self.0.lock().unwrap().pop_front()
    }

    fn waiting(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

struct SlowLink(Slow, Lane);

impl PeerLink for SlowLink {
    fn call(&self, request: PeerRequest) -> BoxFuture<'static, Result<(Sender, PeerReply), PeerError>> {
        let (tx, rx) = oneshot::channel();
        self.0.0.lock().unwrap().push_back((self.1, request, tx));
        rx.map(|answer| answer.unwrap_or(Err(PeerError::Lost("peer".to_owned())))).boxed()
    }
}

#[async_trait]
impl Transport for Slow {
    fn connect(
        &self,
        _: NodeId,
        _: &str,
        lane: Lane,
        _: Arc<dyn Fn() -> Sender + Send + Sync>,
        _: LinkWatch,
    ) -> Arc<dyn PeerLink> {
        Arc::new(SlowLink(self.clone(), lane))
    }

    async fn listen(&self, _: &str, _: Arc<dyn PeerHandler>) -> io::Result<Task> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

fn reply(body: peer_reply::Body) -> Result<(Sender, PeerReply), PeerError> {
    let sender = Sender {
        cluster_id: cluster().to_wire(),
        node: PEER.0,
        identity: identity().to_wire(),
        incarnation: 1,
        to: 0,
        admission: 0,
    };
    Ok((sender, PeerReply { body: Some(body), ..PeerReply::default() }))
}

fn matched(log_id: Option<v1::LogId>) -> v1::AppendReply {
    v1::AppendReply { result: Some(append_reply::Result::Matched(v1::Matched { log_id })) }
}

/// This node, whose only peer is slow.
async fn peers(config: RaftConfig) -> (tempfile::TempDir, Store, Arc<Peers>, Slow) {
    let folder = tempfile::tempdir().unwrap();
    let mut env = super::env(folder.path(), Arc::default(), Arc::default()).await;
    let slow = Slow::default();
    env.transport = Arc::new(slow.clone());
    let (store, _) = Store::open(&env, StoreConfig::default(), NodeId(1)).await.unwrap();
    store.facts().set_cluster_id(cluster()).await.unwrap();
    let watch = Arc::new(|_, _| {});
    let peers = Peers::new(env, config, store.facts(), Incarnation(1), watch, Box::new(|_| {}));
    peers.identities().admit(PEER, identity());
    peers.set_address(PEER, "peer");
    (folder, store, peers, slow)
}

fn id(index: u64) -> RaftLogId {
    RaftLogId::new(CommittedLeaderId::new(1), index)
}

fn append(index: u64) -> AppendEntriesRequest<Config> {
    AppendEntriesRequest {
        vote: RaftVote::new_committed(1, 1),
        prev_log_id: Some(id(index - 1)),
        entries: vec![RaftEntryOf { log_id: id(index), payload: EntryPayload::Blank }],
        leader_commit: None,
    }
}

fn network_of(peers: Arc<Peers>, group: GroupId) -> Network {
    Network::new(peers, group, Arc::default(), Arc::new(Rate::new(u64::MAX)))
}

async fn network(peers: &Arc<Peers>, group: u64) -> impl RaftNetworkV2<Config> + use<> {
    network_of(peers.clone(), GroupId(group)).new_client(2, &Disk(identity())).await
}

fn option() -> RPCOption {
    RPCOption::new(std::time::Duration::from_secs(10))
}

#[tokio::test]
async fn appends_are_pipelined_within_a_bound_and_answered_in_order() {
    let config = RaftConfig { append_in_flight_max: 3, ..RaftConfig::default() };
    let (_folder, _store, peers, slow) = peers(config).await;
    let mut network = network(&peers, 7).await;
    let input = futures_util::stream::iter((1..=5).map(append));
    let mut answers = network.stream_append(input, option()).await.unwrap();
    assert!(answers.next().now_or_never().is_none(), "nothing is answered yet");
    assert_eq!(slow.waiting(), 3, "three are in flight, and no more");
    let mut asked = Vec::new();
    for _ in 0..3 {
        let (lane, request, answer) = slow.take().unwrap();
        assert_eq!(lane, Lane::Bulk);
        let Some(peer_request::Body::Append(append)) = request.body else { panic!("an append") };
        asked.push((append, answer));
    }
    let indexes: Vec<_> = asked.iter().map(|(append, _)| append.prev_log_id.unwrap().index).collect();
    assert_eq!(indexes, [0, 1, 2]);
    assert!(asked.iter().all(|(append, _)| append.session == asked[0].0.session), "one session");
    // The last is answered first.
    for (index, (_, answer)) in asked.into_iter().enumerate().rev() {
        let matched = matched(Some(v1::LogId { term: 1, index: index as u64 + 1 }));
        answer.send(reply(peer_reply::Body::Append(matched))).unwrap();
    }
    for index in 1..=3 {
        assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(index))));
    }
    assert!(answers.next().now_or_never().is_none());
    assert_eq!(slow.waiting(), 2, "the rest");
    // A peer that claims to have what it was not sent is not believed, and the session is over.
    let (_, _, answer) = slow.take().unwrap();
    answer.send(reply(peer_reply::Body::Append(matched(Some(v1::LogId { term: 1, index: 9 }))))).unwrap();
    assert!(answers.next().await.unwrap().is_err());
    assert!(answers.next().await.is_none());
}

#[tokio::test]
async fn nothing_is_read_for_a_silent_peer_before_it_is_heard() {
    let config = RaftConfig { election_timeout_ms_max: 500, ..RaftConfig::default() };
    let (_folder, _store, peers, slow) = peers(config).await;
    peers.env().sleep(std::time::Duration::from_millis(1_100)).await;
    let read = Arc::new(Mutex::new(0));
    let input = || {
        let read = read.clone();
        futures_util::stream::iter((1..=1).map(move |index| {
            *read.lock().unwrap() += 1;
            append(index)
        }))
    };
    let mut silent = network(&peers, 7).await;
    let mut answers = silent.stream_append(input(), option()).await.unwrap();
    assert!(answers.next().await.unwrap().is_err(), "openraft looks again");
    assert!(answers.next().await.is_none());
    assert_eq!((*read.lock().unwrap(), slow.waiting()), (0, 0));

    let mut heard = network(&peers, 8).await;
    let mut answers = heard.stream_append(input(), option()).await.unwrap();
    assert!(answers.next().now_or_never().is_none());
    assert_eq!((*read.lock().unwrap(), slow.waiting()), (0, 0));
    let beat = peer_request::Body::Beat(v1::NodeBeat::default());
    let asked = peers.ask(PEER, Lane::Urgent, beat, std::time::Duration::from_secs(10));
    let (_, _, answer) = slow.take().unwrap();
    answer.send(reply(peer_reply::Body::Beat(v1::NodeBeatReply::default()))).unwrap();
    asked.await.unwrap();
    assert!(answers.next().now_or_never().is_none());
    assert_eq!((*read.lock().unwrap(), slow.waiting()), (1, 1), "it is sent at once");
}

#[tokio::test]
async fn a_base_is_not_kept_for_a_silent_peer_and_is_read_again_once_it_is_heard() {
    let config = RaftConfig { election_timeout_ms_max: 500, ..RaftConfig::default() };
    let (_folder, _store, peers, slow) = peers(config).await;
    peers.env().sleep(std::time::Duration::from_millis(1_100)).await;
    let mut network = network_of(peers.clone(), GroupId(7)).new_client(2, &Disk(identity())).await;
    let base = Bytes::from(vec![7; 100]);
    let at = LogId { term: Term(1), index: LogIndex(9) };
    let saved = Saved { membership: StoredMembership::default(), state: Bytes::new() };
    let snapshot = || snapshot_of(at, &saved, base.clone());
    let vote = || RaftVote::new_committed(1, 1);
    let cancel = std::future::pending::<ReplicationClosed>;

    let mut sending = Box::pin(network.full_snapshot(vote(), snapshot(), cancel(), option()));
    assert!((&mut sending).now_or_never().is_none());
    assert!(base.is_unique(), "it may be much, and be of many groups");
    assert_eq!(slow.waiting(), 0);
    let beat = peer_request::Body::Beat(v1::NodeBeat::default());
    let asked = peers.ask(PEER, Lane::Urgent, beat, std::time::Duration::from_secs(10));
    let (_, _, answer) = slow.take().unwrap();
    answer.send(reply(peer_reply::Body::Beat(v1::NodeBeatReply::default()))).unwrap();
    asked.await.unwrap();
    assert!(sending.await.is_err(), "openraft begins again, with what it reads then");
    assert_eq!(slow.waiting(), 0);

    let mut sending = Box::pin(network.full_snapshot(vote(), snapshot(), cancel(), option()));
    let sent = async {
        loop {
            if let Some(sent) = slow.take() {
                return sent;
            }
            tokio::task::yield_now().await;
        }
    };
    let (lane, request, _answer) = match select(&mut sending, std::pin::pin!(sent)).await {
        Either::Left((sent, _)) => panic!("it was not answered: {sent:?}"),
        Either::Right((sent, _)) => sent,
    };
    assert_eq!(lane, Lane::Bulk);
    let Some(peer_request::Body::Snapshot(piece)) = request.body else { panic!("a piece of a base") };
    assert_eq!(piece.piece, base);
}

#[tokio::test]
async fn heartbeats_of_many_groups_travel_together() {
    const GROUPS: u64 = 500;
    let (_folder, _store, peers, slow) = peers(RaftConfig::default()).await;
    let beat = |group: u64| {
        let mut request = append(group);
        request.entries.clear();
        let mut network = network_of(peers.clone(), GroupId(group));
        async move {
            let mut network = network.new_heartbeat_client(2, &Disk(identity())).await;
            let input = futures_util::stream::iter([request]);
            let mut answers = network.stream_append(input, option()).await.unwrap();
            answers.next().await.unwrap()
        }
    };
    let messages = Arc::new(Mutex::new(Vec::new()));
    let answering = async {
        let mut answered = 0;
        while answered < GROUPS {
            let Some((lane, request, answer)) = slow.take() else {
                tokio::task::yield_now().await;
                continue;
            };
            assert_eq!(lane, Lane::Urgent, "never behind entries");
            let Some(peer_request::Body::Heartbeats(beats)) = request.body else { panic!("heartbeats") };
            let one = |beat: &v1::AppendRequest| v1::HeartbeatReply {
                reply: Some(matched(beat.prev_log_id)),
                ..v1::HeartbeatReply::default()
            };
            let groups: Vec<_> = beats.groups.iter().map(one).collect();
            answered += groups.len() as u64;
            messages.lock().unwrap().push(groups.len());
            answer.send(reply(peer_reply::Body::Heartbeats(v1::HeartbeatsReply { groups }))).unwrap();
        }
    };
    let beats = join_all((1..=GROUPS).map(beat));
    let (beats, ()) = tokio::join!(beats, answering);
    for (index, beat) in beats.into_iter().enumerate() {
        assert_eq!(beat.unwrap(), Ok(Some(id(index as u64))), "each has its own answer");
    }
    let messages = messages.lock().unwrap().clone();
    assert!(messages.len() <= 3, "{messages:?}");
}

/// What the peer is asked next.
async fn asked(slow: &Slow) -> (PeerRequest, Answer) {
    loop {
        if let Some((_, request, answer)) = slow.take() {
            return (request, answer);
        }
        tokio::task::yield_now().await;
    }
}

/// The peer says that it does not hold what a heartbeat says that it holds.
fn contradict((request, answer): (PeerRequest, Answer)) {
    let Some(peer_request::Body::Heartbeats(beats)) = request.body else { panic!("heartbeats") };
    let one = |beat: &v1::AppendRequest| v1::HeartbeatReply {
        reply: Some(v1::AppendReply { result: beat.prev_log_id.map(append_reply::Result::Conflict) }),
        ..v1::HeartbeatReply::default()
    };
    let groups = beats.groups.iter().map(one).collect();
    answer.send(reply(peer_reply::Body::Heartbeats(v1::HeartbeatsReply { groups }))).unwrap();
}

/// The peer says that it holds the entry of an append.
fn accept((request, answer): (PeerRequest, Answer), index: u64) {
    assert!(matches!(request.body, Some(peer_request::Body::Append(_))), "an append");
    answer.send(reply(peer_reply::Body::Append(matched(Some(v1::LogId { term: 1, index }))))).unwrap();
}

/// A heartbeat to a peer that is believed to hold all up to `index`, and its answer.
async fn beat(network: &mut impl RaftNetworkV2<Config>, index: u64) -> Option<RaftLogId> {
    let mut request = append(index + 1);
    request.entries.clear();
    let mut answers = network.stream_append(futures_util::stream::iter([request]), option()).await.unwrap();
    answers.next().await.unwrap().unwrap().unwrap()
}

#[tokio::test]
async fn a_conflict_that_a_heartbeat_meets_is_told_by_the_appends_if_they_were_idle() {
    let (_folder, _store, peers, slow) = peers(RaftConfig::default()).await;
    let mut network = network_of(peers.clone(), GroupId(7));
    let mut appends = network.new_client(2, &Disk(identity())).await;
    let mut beats = network.new_heartbeat_client(2, &Disk(identity())).await;

    // Nobody could tell it in order.
    let (heard, ()) = tokio::join!(beat(&mut beats, 8), async { contradict(asked(&slow).await) });
    assert_eq!(heard, Some(id(8)), "it was heard all the same");

    let (tx, mut rx) = mpsc::channel(4);
    let input = futures_util::stream::poll_fn(move |cx| rx.poll_recv(cx));
    let mut answers = appends.stream_append(input, option()).await.unwrap();
    assert!(answers.next().now_or_never().is_none(), "that was before this session");

    // The answer comes after that to an append which was sent later.
    let late = async {
        let heartbeat = asked(&slow).await;
        tx.send(append(10)).await.unwrap();
        assert!(answers.next().now_or_never().is_none());
        accept(asked(&slow).await, 10);
        assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(10))));
        assert!(answers.next().now_or_never().is_none());
        contradict(heartbeat);
    };
    let (heard, ()) = tokio::join!(beat(&mut beats, 9), late);
    assert_eq!(heard, Some(id(9)));
    assert!(answers.next().now_or_never().is_none(), "it has caught up since");

    // An append is on its way when the heartbeat goes out.
    tx.send(append(11)).await.unwrap();
    assert!(answers.next().now_or_never().is_none());
    let between = async {
        let appended = asked(&slow).await;
        contradict(asked(&slow).await);
        appended
    };
    let (heard, appended) = tokio::join!(beat(&mut beats, 10), between);
    assert_eq!(heard, Some(id(10)));
    accept(appended, 11);
    assert_eq!(answers.next().await.unwrap().unwrap(), Ok(Some(id(11))), "its own answer counts");
    assert!(answers.next().now_or_never().is_none());

    // Nothing is, and nothing goes out meanwhile.
    let idle = async { contradict(asked(&slow).await) };
    let (heard, (), told) = tokio::join!(beat(&mut beats, 11), idle, answers.next());
    assert_eq!(heard, Some(id(11)));
    assert_eq!(told.unwrap().unwrap(), Err(StreamAppendError::Conflict(id(11))));
    assert!(answers.next().await.is_none(), "the session is over");
}
