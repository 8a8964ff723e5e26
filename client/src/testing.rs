//! A cluster in memory that fails by script, and an environment on tokio's paused time.
#![expect(clippy::disallowed_methods, reason = "the world outside of the tests: tokio's paused time")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use quorate_proto::ErrorCode;
use quorate_proto::batch::{
    BatchBuilder, BatchHeader, Compression, DECOMPRESSED_BYTES_MAX, HEADER_BYTES, Limits, ProducerStamp,
    Records, patch_base_offset, patch_leader_epoch, validate,
};
use quorate_proto::call::{Call, CallError, Channel, Connect, Reply};
use quorate_proto::env::{Clock, Entropy, Env, Moment, Task, Tasks, Unprobed};
use quorate_proto::ids::{LeaderEpoch, Offset, Sequence, Timestamp, TopicId};
use quorate_proto::v1;

use crate::{Client, ClientConfig};

/// As many topics may be named in one request.
const NAMES_MAX: usize = 10_000;

struct TestClock(tokio::time::Instant);

impl Clock for TestClock {
    fn now(&self) -> Moment {
        Moment(self.0.elapsed())
    }

    fn wall(&self) -> Timestamp {
        Timestamp(1_700_000_000_000 + i64::try_from(self.0.elapsed().as_millis()).unwrap())
    }

    fn sleep_until(&self, until: Moment) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep_until(self.0 + until.0))
    }
}

struct TestTasks;

impl Tasks for TestTasks {
    fn spawn(&self, _name: &'static str, work: BoxFuture<'static, ()>) -> Task {
        let handle = tokio::spawn(work);
        let abort = handle.abort_handle();
        Task::new(move || abort.abort(), async move {
            let _ended = handle.await.is_ok();
        })
    }
}

/// Splitmix64.
pub(crate) struct Chance(Mutex<u64>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    pub(crate) fn below(&self, bound: u64) -> u64 {
        self.next_u64() % bound
    }
}

impl Entropy for Chance {
    fn next_u64(&self) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

pub(crate) fn env(seed: u64) -> Env {
    Env {
        clock: Arc::new(TestClock(tokio::time::Instant::now())),
        tasks: Arc::new(TestTasks),
        entropy: Arc::new(Chance::new(seed)),
        probe: Arc::new(Unprobed),
    }
}

pub(crate) async fn sleep(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// Waits for something that must happen, at most for an hour of the test's own time.
pub(crate) async fn soon<F: Future>(what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(3600), what).await.expect("it happens within an hour")
}

/// What happens to one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// Done, and the answer is lost.
    LoseReply,
    /// Not done, and yet lost.
    LoseRequest,
    Unreachable,
    /// Never done, never answered.
    Hang,
    /// Done and answered after this many ms.
    Slow(u64),
    Refuse(ErrorCode),
    /// Done, and the answer says that nobody knows.
    DoneUnknown,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Partition {
    pub(crate) leader: u32,
    pub(crate) epoch: i32,
    pub(crate) log_start: u64,
    pub(crate) batches: Vec<(BatchHeader, Bytes)>,
    /// Producer id -> the last five: base sequence, count, base offset.
    producers: BTreeMap<i64, VecDeque<(i32, u32, u64)>>,
}

impl Partition {
    pub(crate) fn end(&self) -> u64 {
        self.batches.last().map_or(self.log_start, |(header, _)| header.next_offset().0)
    }

    /// The values in the log.
    pub(crate) fn values(&self) -> Vec<String> {
        let mut values = Vec::new();
        for (header, batch) in &self.batches {
            for record in Records::new(header, batch, DECOMPRESSED_BYTES_MAX).unwrap() {
                let record = record.unwrap();
                assert_eq!(record.offset.0, u64::try_from(values.len()).unwrap(), "offsets are dense");
                values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
            }
        }
        values
    }

    /// A batch that is taken or refused as a real leader does it.
    fn append(&mut self, batch: &Bytes, limits: &Limits) -> (ErrorCode, i64) {
        let header = match validate(batch, limits) {
            Ok(header) => header,
            Err(error) => return (error.code(), -1),
        };
        let end = self.end();
        let seen = self.producers.entry(header.producer_id.0).or_default();
        let sequence = header.base_sequence.0;
        if let Some((_, _, base)) =
            seen.iter().find(|(base, count, _)| (*base, *count) == (sequence, header.records))
        {
            return (ErrorCode::None, i64::try_from(*base).unwrap());
        }
        if let Some((last, count, _)) = seen.back()
            && Sequence(*last).plus(*count).0 != sequence
        {
            let old = sequence <= *last;
            let code = if old { ErrorCode::DuplicateSequence } else { ErrorCode::OutOfOrderSequence };
            return (code, -1);
        }
        seen.push_back((sequence, header.records, end));
        if seen.len() > 5 {
            seen.pop_front();
        }
        let mut stored = BytesMut::from(&batch[..]);
        patch_base_offset(&mut stored, Offset(end));
        patch_leader_epoch(&mut stored, LeaderEpoch(self.epoch));
        let header = BatchHeader::parse(&stored).unwrap();
        self.batches.push((header, stored.freeze()));
        (ErrorCode::None, i64::try_from(end).unwrap())
    }
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) topics: BTreeMap<String, (TopicId, Vec<Partition>)>,
    pub(crate) down: BTreeSet<u32>,
    /// Nodes that take every call and answer none, as a stopped process does.
    pub(crate) stopped: BTreeSet<u32>,
    /// Of all topics; nodes say it only if it is there.
    pub(crate) message_bytes_max: Option<usize>,
    /// Nodes that say this code for each topic that is asked for.
    pub(crate) cannot_say: BTreeMap<u32, ErrorCode>,
    /// Whether a topic that is missing is made where that is asked for; by nodes that can say something of it.
    pub(crate) creates: bool,
    /// Nodes that answer metadata only after this many ms.
    pub(crate) slow: BTreeMap<u32, u64>,
    /// Nodes that answer metadata as it once was.
    pub(crate) stale: BTreeMap<u32, v1::MetadataResponse>,
    /// For the coming produces, then none.
    pub(crate) produce_faults: VecDeque<Fault>,
    pub(crate) fetch_faults: VecDeque<Fault>,
    /// For how many ms at most a fetch waits, if not as long as it asks for.
    pub(crate) fetch_wait_ms_max: Option<u32>,
    /// For the coming creations and changes of topics, then none.
    pub(crate) admin_faults: VecDeque<Fault>,
    /// Changes of topics that were made, by their ids.
    pub(crate) changes: BTreeSet<Bytes>,
    /// Says what happens to a produce when there is no script.
    pub(crate) chance: Option<Chance>,
    pub(crate) next_producer: i64,
    pub(crate) produces: Vec<v1::ProduceRequest>,
    pub(crate) fetches: Vec<v1::FetchRequest>,
    pub(crate) metadata_calls: usize,
    pub(crate) in_flight: usize,
    pub(crate) in_flight_max: usize,
    /// What nodes that were cut off still believe: they serve that.
    pub(crate) frozen: BTreeMap<u32, BTreeMap<String, (TopicId, Vec<Partition>)>>,
}

/// Three nodes; node `n` is `n<n>:1`.
#[derive(Clone, Default)]
pub(crate) struct Cluster(Arc<Mutex<State>>);

impl Cluster {
    pub(crate) fn with_topic(name: &str, partitions: u32) -> Self {
        let cluster = Self::default();
        cluster.create(name, partitions, 1);
        cluster
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    pub(crate) fn create(&self, name: &str, partitions: u32, id: u8) {
        let mut all = Vec::new();
        grow(&mut all, partitions);
        let id = TopicId::from_random([id; 16]);
        self.state().topics.insert(name.to_owned(), (id, all));
    }

    /// The topic has so many partitions from here on.
    pub(crate) fn add_partitions(&self, topic: &str, total: u32) {
        let mut state = self.state();
        grow(&mut state.topics.get_mut(topic).unwrap().1, total);
    }

    pub(crate) fn client(&self, seed: u64) -> Client {
        let servers = (1..=3).map(|node| format!("n{node}:1")).collect();
        Client::new(env(seed), Arc::new(self.clone()), servers, ClientConfig::default())
    }

    pub(crate) fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().produce_faults.extend(faults);
    }

    /// Another node leads from here on.
    pub(crate) fn move_leader(&self, topic: &str, partition: usize, to: u32) {
        let mut state = self.state();
        let partition = &mut state.topics.get_mut(topic).unwrap().1[partition];
        partition.leader = to;
        partition.epoch += 1;
    }

    pub(crate) fn partition(&self, topic: &str, partition: usize) -> Partition {
        self.state().topics[topic].1[partition].clone()
    }

    /// Writes a batch of records without a producer.
    pub(crate) fn write(&self, topic: &str, partition: usize, values: &[&str]) {
        let mut builder = BatchBuilder::new(0);
        for value in values {
            builder.push(Timestamp(0), None, Some(value.as_bytes()), &[]);
        }
        let mut state = self.state();
        let partition = &mut state.topics.get_mut(topic).unwrap().1[partition];
        partition.producers.remove(&ProducerStamp::NONE.id.0);
        let batch = builder.finish(Compression::None, ProducerStamp::NONE);
        let (code, _) = partition.append(&batch, &Limits::default());
        assert_eq!(code, ErrorCode::None);
    }

    pub(crate) fn metadata(&self) -> v1::MetadataResponse {
        metadata(&self.state(), &v1::MetadataRequest { all: true, ..Default::default() })
    }
}

/// Changes a topic, once for each change id, unless a fault keeps it from that.
fn alter(
    state: &mut State,
    fault: &Fault,
    topic: &str,
    change: &Bytes,
    make: impl FnOnce(&mut State) -> Result<(), (ErrorCode, String)>,
) -> Result<(), (ErrorCode, String)> {
    if let Fault::Refuse(code) = fault {
        return Err((*code, "no".to_owned()));
    }
    if !matches!(fault, Fault::None | Fault::LoseReply) || state.changes.contains(change) {
        return Ok(());
    }
    if !state.topics.contains_key(topic) {
        return Err((ErrorCode::UnknownTopic, format!("no topic is called {topic:?}")));
    }
    make(state)?;
    state.changes.insert(change.clone());
    Ok(())
}

fn configs(state: &State) -> Vec<v1::ConfigEntry> {
    let entry = |bytes: usize| v1::ConfigEntry { key: "max.message.bytes".into(), value: bytes.to_string() };
    state.message_bytes_max.map(entry).into_iter().collect()
}

fn grow(partitions: &mut Vec<Partition>, total: u32) {
    let there = u32::try_from(partitions.len()).unwrap();
    let partition = |at: u32| Partition { leader: at % 3 + 1, epoch: 1, ..Partition::default() };
    partitions.extend((there..total).map(partition));
}

impl Connect for Cluster {
    fn connect(&self, address: &str) -> Arc<dyn Channel> {
        let node = address.trim_start_matches('n').trim_end_matches(":1").parse().unwrap();
        Arc::new(NodeChannel { cluster: self.clone(), node, address: address.to_owned() })
    }
}

struct NodeChannel {
    cluster: Cluster,
    node: u32,
    address: String,
}

impl Channel for NodeChannel {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Reply, CallError>> {
        let (address, reason) = (self.address.clone(), "connection refused".to_owned());
        let unreachable = Err(CallError::Unreachable { address: address.clone(), reason });
        let lost = Err(CallError::Lost { address, reason: "connection reset".to_owned() });
        let mut state = self.cluster.state();
        if state.down.contains(&self.node) {
            return ready(unreachable);
        }
        if state.stopped.contains(&self.node) {
            return Box::pin(std::future::pending());
        }
        let (fault, answer) = match call {
            Call::Produce(request) => {
                state.produces.push(request.clone());
                let fault = match (state.produce_faults.pop_front(), &state.chance) {
                    (Some(fault), _) => fault,
                    (None, Some(chance)) => by_chance(chance),
                    (None, None) => Fault::None,
                };
                let mut response = v1::ProduceResponse { base_offset: -1, ..Default::default() };
                match &fault {
                    Fault::None | Fault::LoseReply | Fault::Slow(_) | Fault::DoneUnknown => {
                        response = produce(&mut state, self.node, &request);
                    }
                    Fault::Refuse(code) => response.set_error(*code),
                    Fault::LoseRequest | Fault::Unreachable | Fault::Hang => {}
                }
                if fault == Fault::DoneUnknown {
                    response.set_error(ErrorCode::UnknownOutcome);
                }
                response.correlation = request.correlation;
                (fault, Reply::Produce(response))
            }
            Call::Fetch(request) => {
                state.fetches.push(request.clone());
                let fault = state.fetch_faults.pop_front().unwrap_or(Fault::None);
                if fault == Fault::None {
                    drop(state);
                    let (cluster, node) = (self.cluster.clone(), self.node);
                    return Box::pin(
                        async move { long_poll(&cluster, node, request).await.ok_or(()).or(lost) },
                    );
                }
                let mut response = v1::FetchResponse::default();
                if let Fault::Refuse(code) = fault {
                    response.set_error(code);
                }
                (fault, Reply::Fetch(response))
            }
            Call::Metadata(request) => {
                state.metadata_calls += 1;
                if request.topics.len() > NAMES_MAX {
                    let message = "too many topics are named".to_owned();
                    let mut refused = v1::MetadataResponse { message, ..Default::default() };
                    refused.set_error(ErrorCode::InvalidRequest);
                    return ready(Ok(Reply::Metadata(refused)));
                }
                if request.auto_create && state.creates && !state.cannot_say.contains_key(&self.node) {
                    for name in &request.topics {
                        let made = (
                            TopicId::from_random([9; 16]),
                            vec![Partition { leader: 1, ..Partition::default() }],
                        );
                        state.topics.entry(name.clone()).or_insert(made);
                    }
                }
                let answer = state.stale.get(&self.node).cloned();
                let mut answer = answer.unwrap_or_else(|| metadata(&state, &request));
                if let Some(code) = state.cannot_say.get(&self.node) {
                    answer.topics.iter_mut().for_each(|topic| topic.set_error(*code));
                }
                let slow = state.slow.get(&self.node).map_or(Fault::None, |ms| Fault::Slow(*ms));
                (slow, Reply::Metadata(answer))
            }
            Call::InitProducer(_) => {
                state.next_producer += 1;
                let producer_id = state.next_producer;
                let response = v1::InitProducerResponse { producer_id, ..Default::default() };
                (Fault::None, Reply::InitProducer(response))
            }
            Call::ListOffset(request) => {
                (Fault::None, Reply::ListOffset(list_offset(&state, self.node, &request)))
            }
            Call::CreateTopic(request) => {
                let mut response = v1::CreateTopicResponse::default();
                let fault = state.admin_faults.pop_front().unwrap_or(Fault::None);
                if let Fault::Refuse(code) = fault {
                    response.set_error(code);
                    response.message = "no".to_owned();
                } else if matches!(fault, Fault::None | Fault::LoseReply) {
                    let id = TopicId::from_random([9; 16]);
                    response.id = id.to_wire();
                    state
                        .topics
                        .insert(request.name, (id, vec![Partition { leader: 1, ..Partition::default() }]));
                }
                (fault, Reply::CreateTopic(response))
            }
            Call::DeleteTopic(request) => {
                let mut response = v1::DeleteTopicResponse::default();
                if state.topics.remove(&request.name).is_none() {
                    response.set_error(ErrorCode::UnknownTopic);
                    response.message = format!("topic {} does not exist", request.name);
                }
                (Fault::None, Reply::DeleteTopic(response))
            }
            Call::ConfigureTopic(request) => {
                let fault = state.admin_faults.pop_front().unwrap_or(Fault::None);
                let mut response = v1::ConfigureTopicResponse::default();
                let made = alter(&mut state, &fault, &request.name, &request.change, |state| {
                    let of_size = request.changes.iter().find(|change| change.key == "max.message.bytes");
                    if let Some(change) = of_size {
                        state.message_bytes_max = change.value.as_ref().map(|value| value.parse().unwrap());
                    }
                    Ok(())
                });
                match made {
                    Ok(()) => response.configs = configs(&state),
                    Err((code, message)) => {
                        response.set_error(code);
                        response.message = message;
                    }
                }
                (fault, Reply::ConfigureTopic(response))
            }
            Call::AddPartitions(request) => {
                let fault = state.admin_faults.pop_front().unwrap_or(Fault::None);
                let mut response = v1::AddPartitionsResponse::default();
                let total = u32::try_from(request.partitions).unwrap();
                let made = alter(&mut state, &fault, &request.name, &request.change, |state| {
                    let partitions = &mut state.topics.get_mut(&request.name).unwrap().1;
                    let there = partitions.len();
                    if usize::try_from(total).unwrap() <= there {
                        let message = format!("topic {} has {there} partitions already", request.name);
                        return Err((ErrorCode::InvalidPartitions, message));
                    }
                    grow(partitions, total);
                    Ok(())
                });
                if let Err((code, message)) = made {
                    response.set_error(code);
                    response.message = message;
                }
                (fault, Reply::AddPartitions(response))
            }
            Call::DeleteRecords(request) => {
                let mut response = v1::DeleteRecordsResponse { log_start_offset: -1, ..Default::default() };
                let fault = state.admin_faults.pop_front().unwrap_or(Fault::None);
                if let Fault::Refuse(code) = fault {
                    response.set_error(code);
                } else {
                    match lead(&mut state, self.node, &request.topic_id, request.partition) {
                        Err((code, leader, epoch)) => {
                            response.set_error(code);
                            response.leader = leader;
                            response.leader_epoch = epoch;
                        }
                        Ok(partition) => {
                            let before = u64::try_from(request.before_offset).unwrap();
                            if before > partition.end() {
                                response.set_error(ErrorCode::OffsetOutOfRange);
                            } else {
                                partition.log_start = partition.log_start.max(before);
                                response.log_start_offset = i64::try_from(partition.log_start).unwrap();
                            }
                        }
                    }
                }
                (fault, Reply::DeleteRecords(response))
            }
            Call::MoveLeader(request) => {
                let fault = state.admin_faults.pop_front().unwrap_or(Fault::None);
                let mut response = v1::MoveLeaderResponse::default();
                if let Fault::Refuse(code) = fault {
                    response.set_error(code);
                    response.message = "no".to_owned();
                } else if matches!(fault, Fault::None | Fault::LoseReply) {
                    response = move_leader(&mut state, self.node, &request);
                }
                (fault, Reply::MoveLeader(response))
            }
            Call::ClusterStatus(_) => {
                let node = |id: u32| v1::NodeStatus {
                    id,
                    identity: vec![1; 16].into(),
                    grpc: format!("n{id}:1"),
                    alive: !state.down.contains(&id),
                    ..Default::default()
                };
                let nodes = [3, 1, 2].map(node).to_vec();
                let cluster_id = vec![5; 16].into();
                let response =
                    v1::ClusterStatusResponse { cluster_id, nodes, leaderless: 1, ..Default::default() };
                (Fault::None, Reply::ClusterStatus(response))
            }
            Call::ChangeMembers(request) => {
                let fault = state.admin_faults.pop_front().unwrap_or(Fault::None);
                let mut response = v1::ChangeMembersResponse::default();
                match request.change {
                    Some(v1::change_members_request::Change::AddNode(4)) => response.as_of = 7,
                    Some(_) | None => {
                        response.set_error(ErrorCode::InvalidRequest);
                        response.message = "no".to_owned();
                    }
                }
                (fault, Reply::ChangeMembers(response))
            }
            Call::EpochEnd(_) => return ready(lost),
        };
        match fault {
            Fault::None | Fault::Refuse(_) | Fault::DoneUnknown | Fault::Slow(_) => {
                state.in_flight += 1;
                state.in_flight_max = state.in_flight_max.max(state.in_flight);
                let cluster = self.cluster.clone();
                let time = if let Fault::Slow(time) = fault { time } else { 1 };
                Box::pin(async move {
                    sleep(time).await;
                    cluster.state().in_flight -= 1;
                    Ok(answer)
                })
            }
            Fault::LoseReply | Fault::LoseRequest => Box::pin(async move {
                sleep(1).await;
                lost
            }),
            Fault::Unreachable => ready(unreachable),
            Fault::Hang => Box::pin(std::future::pending()),
        }
    }

    fn address(&self) -> &str {
        &self.address
    }
}

fn ready(result: Result<Reply, CallError>) -> BoxFuture<'static, Result<Reply, CallError>> {
    Box::pin(std::future::ready(result))
}

fn by_chance(chance: &Chance) -> Fault {
    match chance.below(16) {
        0 => Fault::LoseReply,
        1 => Fault::LoseRequest,
        2 => Fault::Unreachable,
        3 => Fault::Slow(chance.below(50)),
        4 => Fault::Refuse(ErrorCode::Overloaded),
        5 => Fault::Refuse(ErrorCode::NotLeader),
        6 => Fault::DoneUnknown,
        7 => Fault::Refuse(ErrorCode::NotAvailable),
        8 => Fault::Refuse(ErrorCode::DiskFull),
        _ => Fault::None,
    }
}

fn metadata(state: &State, request: &v1::MetadataRequest) -> v1::MetadataResponse {
    let nodes =
        (1..=3).map(|id| v1::NodeAddress { id, grpc: format!("n{id}:1"), http: String::new() }).collect();
    let names: Vec<String> =
        if request.all { state.topics.keys().cloned().collect() } else { request.topics.clone() };
    let topic = |name: String| {
        let Some((id, partitions)) = state.topics.get(&name) else {
            let mut missing = v1::TopicMetadata { name, ..Default::default() };
            missing.set_error(ErrorCode::UnknownTopic);
            return missing;
        };
        let partitions = (0..).zip(partitions).map(|(at, partition)| v1::PartitionMetadata {
            partition: at,
            leader: partition.leader,
            leader_epoch: partition.epoch,
            replicas: vec![1, 2, 3],
        });
        v1::TopicMetadata {
            name,
            id: id.to_wire(),
            partitions: partitions.collect(),
            configs: configs(state),
            ..Default::default()
        }
    };
    v1::MetadataResponse { nodes, topics: names.into_iter().map(topic).collect(), ..Default::default() }
}

/// The partition, if this node leads it and the id is right; else the code.
fn lead<'a>(
    state: &'a mut State,
    node: u32,
    topic_id: &[u8],
    partition: i32,
) -> Result<&'a mut Partition, (ErrorCode, u32, i32)> {
    let topics = state.frozen.get_mut(&node).unwrap_or(&mut state.topics);
    let topic = topics.values_mut().find(|(id, _)| id.to_wire() == topic_id);
    let (_, partitions) = topic.ok_or((ErrorCode::UnknownTopicId, 0, -1))?;
    let partition = &mut partitions[usize::try_from(partition).unwrap()];
    if partition.leader != node {
        return Err((ErrorCode::NotLeader, partition.leader, partition.epoch));
    }
    Ok(partition)
}

fn move_leader(state: &mut State, node: u32, request: &v1::MoveLeaderRequest) -> v1::MoveLeaderResponse {
    let mut response = v1::MoveLeaderResponse::default();
    match lead(state, node, &request.topic_id, request.partition) {
        Ok(partition) if partition.leader == request.to => response.led_already = true,
        Ok(partition) => {
            partition.leader = request.to;
            partition.epoch += 1;
        }
        Err((code, leader, epoch)) => {
            response.set_error(code);
            response.leader = leader;
            response.leader_epoch = epoch;
        }
    }
    response
}

fn produce(state: &mut State, node: u32, request: &v1::ProduceRequest) -> v1::ProduceResponse {
    let mut response = v1::ProduceResponse { base_offset: -1, log_append_time_ms: -1, ..Default::default() };
    let mut limits = Limits::default();
    limits.batch_bytes_max = state.message_bytes_max.unwrap_or(limits.batch_bytes_max);
    match lead(state, node, &request.topic_id, request.partition) {
        Ok(partition) => {
            let (code, base_offset) = partition.append(&request.batch, &limits);
            response.set_error(code);
            response.base_offset = base_offset;
            response.leader_epoch = partition.epoch;
        }
        Err((code, leader, epoch)) => {
            response.set_error(code);
            response.leader = leader;
            response.leader_epoch = epoch;
        }
    }
    response
}

fn list_offset(state: &State, node: u32, request: &v1::ListOffsetRequest) -> v1::ListOffsetResponse {
    use v1::list_offset_request::At;
    let mut response = v1::ListOffsetResponse { timestamp_ms: -1, ..Default::default() };
    let Some((_, partitions)) = state.topics.values().find(|(id, _)| id.to_wire() == request.topic_id) else {
        response.set_error(ErrorCode::UnknownTopicId);
        return response;
    };
    let partition = &partitions[usize::try_from(request.partition).unwrap()];
    if partition.leader != node {
        response.set_error(ErrorCode::NotLeader);
        response.leader = partition.leader;
        response.leader_epoch = partition.epoch;
        return response;
    }
    response.offset = match request.at.unwrap() {
        At::Earliest(_) => i64::try_from(partition.log_start).unwrap(),
        At::Latest(_) => i64::try_from(partition.end()).unwrap(),
        At::TimestampMs(at) => {
            let mut records = partition
                .batches
                .iter()
                .flat_map(|(header, batch)| Records::new(header, batch, DECOMPRESSED_BYTES_MAX).unwrap())
                .map(|record| record.unwrap());
            records.find(|record| record.timestamp.0 >= at).map_or(-1, |record| record.offset.to_wire())
        }
    };
    response
}

async fn long_poll(cluster: &Cluster, node: u32, request: v1::FetchRequest) -> Option<Reply> {
    let mut waited = 0;
    loop {
        sleep(1).await;
        let mut state = cluster.state();
        if state.down.contains(&node) {
            return None;
        }
        let mut response = v1::FetchResponse { correlation: request.correlation, ..Default::default() };
        let wait_ms = request.wait_ms.min(state.fetch_wait_ms_max.unwrap_or(u32::MAX));
        match lead(&mut state, node, &request.topic_id, request.partition) {
            Err((code, leader, epoch)) => {
                response.set_error(code);
                response.leader = leader;
                response.leader_epoch = epoch;
            }
            Ok(partition) => {
                let offset = u64::try_from(request.offset).unwrap();
                // No bytes at all are there at once.
                let wait_ms = if request.bytes_max == 0 { 0 } else { wait_ms };
                response.leader_epoch = partition.epoch;
                response.high_watermark = i64::try_from(partition.end()).unwrap();
                response.log_start_offset = i64::try_from(partition.log_start).unwrap();
                if offset < partition.log_start || offset > partition.end() {
                    response.set_error(ErrorCode::OffsetOutOfRange);
                    response.leader_epoch = -1;
                } else if offset == partition.end() && waited < wait_ms {
                    waited += 1;
                    continue;
                } else {
                    let mut batches = BytesMut::new();
                    for (_, batch) in
                        partition.batches.iter().filter(|(header, _)| header.next_offset().0 > offset)
                    {
                        let fits = batches.len() + batch.len() <= usize::try_from(request.bytes_max).unwrap();
                        if !batches.is_empty() && !fits {
                            break;
                        }
                        batches.extend_from_slice(batch);
                    }
                    assert!(batches.is_empty() || batches.len() >= HEADER_BYTES);
                    response.batches = batches.freeze();
                }
            }
        }
        return Some(Reply::Fetch(response));
    }
}
