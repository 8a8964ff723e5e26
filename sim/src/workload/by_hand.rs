//! Clients made by hand, which say what no SDK says: the same batch to one node after the other, batches that were
//! answered long ago, sequences with a gap, in the wrong order or of a producer's past life, requests with the epochs of
//! past leaders, offsets around the high watermark; and they hang up in the middle of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use quorate_proto::ErrorCode;
use quorate_proto::batch::{BatchBuilder, Compression, ProducerStamp};
use quorate_proto::call::{Call, CallError, Channel, Connect, Reply};
use quorate_proto::ids::{NodeId, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp, TopicId};
use quorate_proto::v1::{self, list_offset_request::At};
use tokio::sync::watch;

use super::World;
use super::shape::{Shape, any_target, around};
use crate::dice::Dice;
use crate::env::clock;
use crate::history::{Outcome, RecordId, Target};

/// A call that has no answer after so long is given up.
const PATIENCE: Duration = Duration::from_secs(4);
/// So many batches are remembered, to be sent again: more than nodes remember.
const REMEMBERED: usize = 12;

pub(super) struct ByHand {
    world: World,
    number: u32,
    shape: Shape,
    dice: Dice,
    connect: Arc<dyn Connect>,
    channels: BTreeMap<NodeId, Arc<dyn Channel>>,
    /// As the metadata had it when they were last asked for, which may be long ago.
    leaders: BTreeMap<Target, Leader>,
    /// Who led before them: at times it does not know that it was deposed.
    former: BTreeMap<Target, Leader>,
    lines: BTreeMap<Target, Line>,
    next: u64,
}

#[derive(Clone, Copy)]
struct Leader {
    topic: TopicId,
    node: NodeId,
    epoch: i32,
    /// The last high watermark that was heard of.
    end: Offset,
}

/// One producer id's batches for one partition.
struct Line {
    stamp: ProducerStamp,
    /// Batches that were or may have been written, the newest last.
    past: Vec<Made>,
}

/// A batch that was made.
#[derive(Clone)]
struct Made {
    target: Target,
    bytes: Bytes,
    records: Vec<RecordId>,
    /// The answer so far.
    outcome: Outcome,
}

/// How a try to write ended.
enum Tried {
    Acked(Offset),
    Refused(ErrorCode),
    NotReached,
    Perhaps,
}

impl ByHand {
    pub(super) fn new(world: World, number: u32, shape: Shape) -> Self {
        let dice = Dice::named(world.seed, &format!("by hand {number}"));
        let (connect, _process) = world.connect(number, false);
        Self {
            world,
            number,
            shape,
            dice,
            connect,
            channels: BTreeMap::new(),
            leaders: BTreeMap::new(),
            former: BTreeMap::new(),
            lines: BTreeMap::new(),
            next: 0,
        }
    }

    /// Does one thing after the other until `going` is false.
    pub(super) async fn run(mut self, going: watch::Receiver<bool>) {
        while *going.borrow() {
            if self.leaders.is_empty() || self.dice.chance(200) {
                self.look().await;
            }
            let target = match &self.shape.hot {
                Some(hot) if self.dice.chance(500) => hot.clone(),
                _ => any_target(&mut self.dice),
            };
            if let Some(leader) = self.leaders.get(&target).copied() {
                self.something(&target, leader).await;
            }
            clock::sleep(self.dice.time(Duration::from_millis(150), Duration::from_millis(1_800))).await;
        }
    }

    async fn something(&mut self, target: &Target, leader: Leader) {
        match self.dice.below(20 + u64::from(self.shape.is_trimmed())) {
            0..6 => self.write_one(target).await,
            6..9 => self.write_a_row(target).await,
            9..12 => self.write_again(target).await,
            12 => self.write_behind_a_gap(target).await,
            13 => self.write_in_a_past_life(target).await,
            14 => self.hang_up(target).await,
            15 => self.write_nonsense(target).await,
            16 | 17 => match self.former_leader(target) {
                Some(former) => self.fetch(target, former.node, Leader { end: leader.end, ..former }).await,
                None => {
                    let node = self.node_for(target);
                    self.fetch(target, node, leader).await;
                }
            },
            18 => match self.former_leader(target) {
                Some(former) => self.look_up(target, former.node, former).await,
                None => {
                    let node = self.node_for(target);
                    self.look_up(target, node, leader).await;
                }
            },
            19 if self.shape.is_trimmed() => self.delete_records(target, leader).await,
            _ => self.ask_for_an_epoch(target, leader).await,
        }
    }

    /// One batch, to one node after the other until one has it, or has perhaps.
    async fn write_one(&mut self, target: &Target) {
        let Some(mut made) = self.make(target, None).await else { return };
        for _ in 0..self.dice.between(1, 4) {
            let node = self.node_for(target);
            let timeout = self.dice.time(Duration::from_millis(2), Duration::from_secs(3));
            self.send(&mut made, node, timeout).await;
            if matches!(made.outcome, Outcome::Acked(_)) {
                break;
            }
            if self.dice.chance(500) {
                self.look().await;
            }
        }
        let again = matches!(made.outcome, Outcome::Acked(_)) && self.dice.chance(200);
        self.keep(made.clone());
        if again {
            let node = self.node_for(target);
            self.send(&mut made, node, PATIENCE).await;
        }
    }

    /// Several batches in flight at once, at times in another order than their sequences have.
    async fn write_a_row(&mut self, target: &Target) {
        let mut row = Vec::new();
        for _ in 0..self.dice.between(2, 5) {
            row.extend(self.make(target, None).await);
        }
        let node = self.node_for(target);
        let mut order = (0..row.len()).collect::<Vec<_>>();
        if order.len() > 1 && self.dice.chance(400) {
            let at = self.dice.place(order.len() - 1);
            order.swap(at, at + 1);
        }
        for _ in 0..2 {
            let open = order.iter().copied().filter(|at| !matches!(row[*at].outcome, Outcome::Acked(_)));
            let open = open.collect::<Vec<_>>();
            let tries = join_all(open.iter().map(|at| self.attempt(&row[*at], node, PATIENCE))).await;
            for (at, tried) in open.into_iter().zip(tries) {
                self.heard(&mut row[at], tried);
            }
            // What came in the wrong order goes again in the right one.
            order.sort_unstable();
        }
        for made in row {
            self.keep(made);
        }
    }

    /// A batch that has its answer, or never got one; perhaps too old for anybody to remember.
    async fn write_again(&mut self, target: &Target) {
        let Some(line) = self.lines.get(target).filter(|line| !line.past.is_empty()) else {
            return self.write_one(target).await;
        };
        let at = self.dice.place(line.past.len());
        let mut made = line.past[at].clone();
        let node = self.node_for(target);
        let before = made.outcome;
        self.send(&mut made, node, PATIENCE).await;
        if made.outcome != before {
            // Nobody knew, and now they do.
            self.tell(&made, "sent again");
        }
        if let Some(known) = self.lines.get_mut(target).and_then(|line| line.past.get_mut(at)) {
            known.outcome = made.outcome;
        }
    }

    /// A batch before the one that precedes it.
    async fn write_behind_a_gap(&mut self, target: &Target) {
        let Some(mut first) = self.make(target, None).await else { return };
        let Some(mut second) = self.make(target, None).await else {
            // Nobody gave out another line: the first was never sent.
            return self.keep(first);
        };
        let node = self.node_for(target);
        self.send(&mut second, node, PATIENCE).await;
        if !matches!(second.outcome, Outcome::Acked(_)) {
            self.send(&mut first, node, PATIENCE).await;
            self.send(&mut second, node, PATIENCE).await;
        } else {
            self.send(&mut first, node, PATIENCE).await;
        }
        self.keep(first);
        self.keep(second);
    }

    /// A producer begins a new epoch, and its older instance does not know.
    async fn write_in_a_past_life(&mut self, target: &Target) {
        let Some(mut old) = self.make(target, None).await else { return };
        let Some(line) = self.lines.get_mut(target) else { return self.keep(old) };
        let ProducerEpoch(epoch) = line.stamp.epoch;
        if epoch == i16::MAX {
            // Without a later life, and never sent: the line ends here.
            return self.keep(old);
        }
        line.stamp.epoch = ProducerEpoch(epoch + 1);
        line.stamp.sequence = Sequence(0);
        let node = self.node_for(target);
        if let Some(mut new) = self.make(target, None).await {
            self.send(&mut new, node, PATIENCE).await;
            self.keep(new);
        }
        self.send(&mut old, node, PATIENCE).await;
        self.keep(old);
    }

    /// The connections end in the middle of a request.
    async fn hang_up(&mut self, target: &Target) {
        let Some(mut made) = self.make(target, None).await else { return };
        let node = self.node_for(target);
        let soon = self.dice.time(Duration::from_micros(50), Duration::from_millis(20));
        let tried = {
            let attempt = self.attempt(&made, node, PATIENCE);
            tokio::select! {
                biased;
                tried = attempt => tried,
                () = clock::sleep(soon) => Tried::Perhaps,
            }
        };
        self.channels.clear();
        self.heard(&mut made, tried);
        self.keep(made);
    }

    /// Bytes that are no batch any more.
    async fn write_nonsense(&mut self, target: &Target) {
        let Some(made) = self.make(target, None).await else { return };
        let node = self.node_for(target);
        let mut bytes = made.bytes.to_vec();
        let at = self.dice.place(bytes.len());
        bytes[at] ^= 1 << self.dice.below(8);
        // The first twelve bytes lie outside of the checksum, and so does the leader epoch.
        if (8..12).contains(&at) || at >= 16 {
            let Some(leader) = self.leaders.get(target) else { return self.keep(made) };
            let call = produce(leader.topic, target, leader.epoch, Bytes::from(bytes), PATIENCE);
            if let Some(Ok(Reply::Produce(reply))) = self.call(node, call, PATIENCE).await
                && reply.error() == ErrorCode::None
            {
                let what = format!(
                    "wrong bytes are never taken: node {node} acked a batch of {target} with a flipped bit in byte {at}"
                );
                self.world.history.complain("O-22", what);
            }
        }
        self.keep(made);
    }

    async fn fetch(&mut self, target: &Target, node: NodeId, leader: Leader) {
        let request = v1::FetchRequest {
            correlation: 0,
            topic_id: leader.topic.to_wire(),
            partition: target.partition.0,
            leader_epoch: self.some_epoch(leader),
            offset: around(leader.end, &mut self.dice).to_wire(),
            bytes_max: u32::try_from(self.dice.between(0, 20_000)).unwrap_or(0),
            bytes_min: u32::try_from(self.dice.below(3)).unwrap_or(0),
            wait_ms: u32::try_from(self.dice.below(1_500)).unwrap_or(0),
        };
        let answer = self.call(node, Call::Fetch(request), PATIENCE).await;
        if let Some(Ok(Reply::Fetch(reply))) = answer
            && let Ok(end) = u64::try_from(reply.high_watermark)
            && let Some(leader) = self.leaders.get_mut(target)
        {
            leader.end = Offset(end);
        }
    }

    async fn look_up(&mut self, target: &Target, node: NodeId, leader: Leader) {
        let now = i64::try_from(clock::now().as_millis()).unwrap_or_default();
        let time = clock::WALL_AT_START + now - i64::try_from(self.dice.below(90_000)).unwrap_or_default();
        let at = match self.dice.below(4) {
            0 => At::Latest(true),
            1 => At::Earliest(true),
            _ => At::TimestampMs(if self.dice.chance(100) { i64::MIN } else { time }),
        };
        let request = v1::ListOffsetRequest {
            topic_id: leader.topic.to_wire(),
            partition: target.partition.0,
            leader_epoch: self.some_epoch(leader),
            at: Some(at),
        };
        self.call(node, Call::ListOffset(request), PATIENCE).await;
    }

    async fn ask_for_an_epoch(&mut self, target: &Target, leader: Leader) {
        let newest = u64::try_from(leader.epoch + 3).unwrap_or(3);
        let request = v1::EpochEndRequest {
            topic_id: leader.topic.to_wire(),
            partition: target.partition.0,
            current_leader_epoch: self.some_epoch(leader),
            epoch: i32::try_from(self.dice.below(newest)).unwrap_or_default(),
        };
        let node = self.node_for(target);
        self.call(node, Call::EpochEnd(request), PATIENCE).await;
    }

    /// Mostly some records; at times all, or more than there are.
    async fn delete_records(&mut self, target: &Target, leader: Leader) {
        let before = match self.dice.below(10) {
            0 => -1,
            1 | 2 => around(leader.end, &mut self.dice).to_wire(),
            _ => Offset(self.dice.below(leader.end.0 / 2 + 1)).to_wire(),
        };
        let request = v1::DeleteRecordsRequest {
            topic_id: leader.topic.to_wire(),
            partition: target.partition.0,
            leader_epoch: self.some_epoch(leader),
            before_offset: before,
            timeout_ms: u32::try_from(self.dice.between(1, 3_000)).unwrap_or(1_000),
        };
        let node = self.node_for(target);
        self.call(node, Call::DeleteRecords(request), PATIENCE).await;
    }

    /// Mostly the epoch that was heard of last; at times one before it, one to come, or none.
    fn some_epoch(&mut self, leader: Leader) -> i32 {
        match self.dice.below(8) {
            0 => leader.epoch - 1,
            1 => leader.epoch + 1,
            2 => -1,
            _ => leader.epoch,
        }
    }

    /// Mostly the leader, as far as known; at times another node.
    fn node_for(&mut self, target: &Target) -> NodeId {
        let nodes = self.world.nodes();
        let any = nodes[self.dice.place(nodes.len())];
        let other = self.dice.chance(250);
        self.leaders.get(target).map(|leader| leader.node).filter(|_| !other).unwrap_or(any)
    }

    /// Now and then whoever led before, if another node leads now.
    fn former_leader(&mut self, target: &Target) -> Option<Leader> {
        let former = self.former.get(target).copied()?;
        let deposed = self.leaders.get(target).is_some_and(|leader| leader.node != former.node);
        (deposed && self.dice.chance(500)).then_some(former)
    }

    /// Asks some node who leads.
    async fn look(&mut self) {
        let nodes = self.world.nodes();
        let node = nodes[self.dice.place(nodes.len())];
        let request = v1::MetadataRequest { all: true, topics: Vec::new(), auto_create: false };
        let Some(Ok(Reply::Metadata(reply))) = self.call(node, Call::Metadata(request), PATIENCE).await
        else {
            return;
        };
        for topic in reply.topics.iter().filter(|topic| topic.error() == ErrorCode::None) {
            let Some(id) = TopicId::from_wire(&topic.id) else { continue };
            for partition in topic.partitions.iter().filter(|partition| partition.leader != 0) {
                let target = Target {
                    topic: topic.name.clone(),
                    partition: quorate_proto::ids::PartitionId(partition.partition),
                };
                let end = self.leaders.get(&target).map_or(Offset(0), |leader| leader.end);
                let (node, epoch) = (NodeId(partition.leader), partition.leader_epoch);
                let leader = Leader { topic: id, node, epoch, end };
                let before = self.leaders.insert(target.clone(), leader);
                if let Some(before) = before.filter(|before| before.topic == id && before.epoch < epoch) {
                    self.former.insert(target, before);
                }
            }
        }
    }

    /// A batch of one to five records, under the next sequence of the partition's line.
    async fn make(&mut self, target: &Target, compression: Option<Compression>) -> Option<Made> {
        if !self.lines.contains_key(target) || self.dice.chance(40) {
            let nodes = self.world.nodes();
            let node = nodes[self.dice.place(nodes.len())];
            let init = Call::InitProducer(v1::InitProducerRequest {});
            let Some(Ok(Reply::InitProducer(reply))) = self.call(node, init, PATIENCE).await else {
                return None;
            };
            if reply.error() != ErrorCode::None {
                return None;
            }
            // Whom nobody knows may begin anywhere.
            let first = if self.dice.chance(150) { i32::MAX - 3 } else { 0 };
            let stamp = ProducerStamp {
                id: ProducerId(reply.producer_id),
                epoch: ProducerEpoch(i16::try_from(reply.producer_epoch).ok()?),
                sequence: Sequence(first),
            };
            self.lines.insert(target.clone(), Line { stamp, past: Vec::new() });
        }
        let count = if self.dice.chance(700) { 1 } else { self.dice.between(2, 5) };
        let mut builder = BatchBuilder::new(256);
        let mut records = Vec::new();
        for _ in 0..count {
            let record = RecordId { producer: self.number, number: self.next };
            self.next += 1;
            let padding = if self.dice.chance(20) { 40_000 } else { self.dice.below(200) };
            let padding = usize::try_from(padding).unwrap_or(0);
            let value = format!("{record} {:-<padding$}", "");
            let now = i64::try_from(clock::now().as_millis()).unwrap_or_default();
            builder.push(Timestamp(clock::WALL_AT_START + now), None, Some(value.as_bytes()), &[]);
            records.push(record);
        }
        let line = self.lines.get_mut(target)?;
        let stamp = line.stamp;
        line.stamp.sequence = stamp.sequence.plus(builder.records());
        let packed = if self.dice.chance(200) { Compression::Lz4 } else { Compression::None };
        let bytes = builder.finish(compression.unwrap_or(packed), stamp);
        for record in &records {
            self.world.history.sent(*record, target.clone(), false);
        }
        Some(Made { target: target.clone(), bytes, records, outcome: Outcome::Failed })
    }

    async fn send(&mut self, made: &mut Made, node: NodeId, timeout: Duration) {
        let tried = self.attempt(made, node, timeout).await;
        self.heard(made, tried);
    }

    /// One try; the answer comes with `timeout`, or a little later not at all.
    fn attempt(
        &mut self,
        made: &Made,
        node: NodeId,
        timeout: Duration,
    ) -> impl Future<Output = Tried> + use<> {
        let leader = self.leaders.get(&made.target).copied();
        let stale = self.dice.chance(150);
        let answer = leader.map(|leader| {
            let epoch = if stale { -1 } else { leader.epoch };
            let call = produce(leader.topic, &made.target, epoch, made.bytes.clone(), timeout);
            self.call(node, call, timeout + Duration::from_millis(300))
        });
        async move {
            let Some(answer) = answer else { return Tried::NotReached };
            match answer.await {
                Some(Ok(Reply::Produce(reply))) => match (reply.error(), u64::try_from(reply.base_offset)) {
                    (ErrorCode::None, Ok(base)) => Tried::Acked(Offset(base)),
                    (code, _) if code.is_unknown_outcome() => Tried::Perhaps,
                    (code, _) => Tried::Refused(code),
                },
                Some(Err(CallError::Unreachable { .. })) => Tried::NotReached,
                Some(Ok(_) | Err(CallError::Lost { .. })) | None => Tried::Perhaps,
            }
        }
    }

    fn heard(&mut self, made: &mut Made, tried: Tried) {
        match (tried, made.outcome) {
            (Tried::Acked(base), _) => made.outcome = Outcome::Acked(base),
            (Tried::Perhaps, Outcome::Failed) => made.outcome = Outcome::Unknown,
            (Tried::Refused(ErrorCode::InvalidProducerEpoch | ErrorCode::DuplicateSequence), _) => {
                // This line is at its end: the next batch begins another one.
                let ours = self.lines.get(&made.target).is_some_and(|line| line.past.len() > 3);
                if ours && self.dice.chance(300) {
                    self.lines.remove(&made.target);
                }
            }
            (Tried::Refused(_) | Tried::NotReached | Tried::Perhaps, _) => {}
        }
    }

    /// What became of a batch is told, and if it was or may have been written it may be sent again some day.
    fn keep(&mut self, made: Made) {
        self.tell(&made, "in the end");
        let surely_not = made.outcome == Outcome::Failed;
        let Some(line) = self.lines.get_mut(&made.target) else { return };
        if surely_not {
            // The sequence that it had is missing: nothing after it will be taken.
            self.lines.remove(&made.target);
            return;
        }
        line.past.push(made);
        if line.past.len() > REMEMBERED {
            line.past.remove(0);
        }
    }

    fn tell(&self, made: &Made, why: &str) {
        for (record, at) in made.records.iter().zip(0..) {
            let outcome = match made.outcome {
                Outcome::Acked(base) => Outcome::Acked(base.plus(at)),
                Outcome::Pending | Outcome::Failed | Outcome::Unknown => made.outcome,
            };
            self.world.learnt(self.number, *record, outcome, why.to_owned());
        }
    }

    /// Asks a node; `None` if there is no answer within `patience`.
    fn call(
        &mut self,
        node: NodeId,
        call: Call,
        patience: Duration,
    ) -> impl Future<Output = Option<Result<Reply, CallError>>> + use<> {
        let connect = &self.connect;
        let channel =
            self.channels.entry(node).or_insert_with(|| connect.connect(&format!("node{node}:7001")));
        let answer = channel.call(call);
        async move {
            tokio::select! {
                biased;
                answer = answer => Some(answer),
                () = clock::sleep(patience) => None,
            }
        }
    }
}

fn produce(topic: TopicId, target: &Target, epoch: i32, batch: Bytes, timeout: Duration) -> Call {
    Call::Produce(v1::ProduceRequest {
        correlation: 0,
        topic_id: topic.to_wire(),
        partition: target.partition.0,
        leader_epoch: epoch,
        batch,
        timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX).max(1),
    })
}
