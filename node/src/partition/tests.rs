//! A replica over a real store and a real Raft group of one node.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use quorate_proto::batch::{BatchBuilder, BatchError, Compression, ProducerStamp, split};
use quorate_proto::env::{Mark, Moment, Point, Probe};
use quorate_proto::ids::{
    GroupId, LeaderEpoch, LogIndex, Offset, PartitionId, ProducerEpoch, ProducerId, Sequence, Term, Timestamp,
};

use super::dedup::Claim;
use super::outgoing::Looker;
use super::replica::{Place, Replica, Surroundings};
use super::*;
use crate::env::{FileName, Task};
use crate::metadata::{Retention, TimestampType, TopicConfig};
use crate::raft::alone::{Alone, eventually};
use crate::raft::{Answer, BatchAnswer, Group, Member, Proposal, Role};
use crate::storage::{Head, Kind, LogId};

const GROUP: GroupId = GroupId(1);
const LONG: Duration = Duration::from_secs(20);

/// A partition with its only replica here.
struct Partition {
    alone: Alone,
    replica: Replica,
    batcher: Task,
}

impl Partition {
    async fn start(alone: Alone, config: TopicConfig) -> Self {
        Self::start_with(alone, config, PartitionConfig::default()).await
    }

    async fn start_with(alone: Alone, topic: TopicConfig, config: PartitionConfig) -> Self {
        let around = Surroundings {
            env: alone.env.clone(),
            raft: alone.raft.clone(),
            store: alone.store.clone(),
            config: config.into(),
            me: alone.me,
        };
        let place = Place {
            topic: "t".parse().unwrap(),
            partition: PartitionId(0),
            group: GROUP,
            config: topic,
            members: vec![Member { node: alone.me, identity: alone.identity }],
            others: Vec::new(),
        };
        let (replica, batcher) = Replica::start(around, place).await.unwrap();
        let role = || matches!(replica.role(), Role::Leader { ready: true, .. });
        eventually(&alone.env, "the replica leads", role).await;
        Self { alone, replica, batcher }
    }

    async fn restart(self, config: TopicConfig) -> Self {
        self.replica.close();
        self.batcher.stop().await;
        drop(self.replica);
        Self::start(self.alone.restart().await, config).await
    }

    fn deadline(&self) -> Moment {
        self.alone.env.now() + LONG
    }

    async fn produce(&self, batch: Bytes) -> Result<u64, ProduceError> {
        self.replica.produce(None, batch, self.deadline()).await.map(|produced| produced.base_offset.0)
    }

    async fn fetch(&self, offset: u64, bytes_max: u32) -> Result<Vec<(u64, u32)>, FetchError> {
        let wait = Duration::ZERO;
        let request = Fetch { epoch: None, offset: Offset(offset), bytes_max, bytes_min: 0, wait };
        let fetched = self.replica.fetch(request).await?;
        let batches = split(fetched.batches).map(|batch| batch.unwrap().0);
        Ok(batches.map(|header| (header.base_offset.0, header.records)).collect())
    }

    fn epoch(&self) -> LeaderEpoch {
        match self.replica.role() {
            Role::Leader { term, .. } | Role::Follower { term, .. } => term.epoch(),
        }
    }

    fn group(&self) -> Group {
        self.alone.raft.group(GROUP).unwrap()
    }
}

fn batch(stamp: ProducerStamp, timestamps: &[i64]) -> Bytes {
    let mut builder = BatchBuilder::new(256);
    for timestamp in timestamps {
        builder.push(Timestamp(*timestamp), None, Some(b"value"), &[]);
    }
    builder.finish(Compression::None, stamp)
}

fn plain(records: usize) -> Bytes {
    batch(ProducerStamp::NONE, &vec![0; records])
}

fn idempotent(sequence: i32, records: usize) -> Bytes {
    let stamp = ProducerStamp { id: ProducerId(7), epoch: ProducerEpoch(0), sequence: Sequence(sequence) };
    batch(stamp, &vec![0; records])
}

#[tokio::test]
async fn what_is_produced_is_fetched_also_after_a_restart() {
    let mut partition = Partition::start(Alone::start().await, TopicConfig::default()).await;
    assert_eq!(partition.produce(plain(3)).await, Ok(0));
    assert_eq!(partition.produce(plain(1)).await, Ok(3));
    assert_eq!(partition.produce(plain(2)).await, Ok(4));
    for _ in 0..2 {
        assert_eq!(partition.replica.high_watermark(), Offset(6));
        assert_eq!(partition.fetch(0, u32::MAX).await, Ok(vec![(0, 3), (3, 1), (4, 2)]));
        assert_eq!(partition.fetch(2, u32::MAX).await, Ok(vec![(0, 3), (3, 1), (4, 2)]));
        assert_eq!(partition.fetch(3, 1).await, Ok(vec![(3, 1)]), "the first one comes in any case");
        assert_eq!(partition.fetch(6, u32::MAX).await, Ok(vec![]));
        let range = FetchError::OffsetOutOfRange {
            offset: Offset(7),
            log_start: Offset(0),
            high_watermark: Offset(6),
        };
        assert_eq!(partition.fetch(7, u32::MAX).await, Err(range));
        partition = partition.restart(TopicConfig::default()).await;
    }
    assert_eq!(partition.produce(plain(1)).await, Ok(6));
}

#[tokio::test]
async fn a_retry_gets_the_first_ones_offset() {
    let partition = Partition::start(Alone::start().await, TopicConfig::default()).await;
    let produce = |sequence, records| {
        partition.replica.produce(None, idempotent(sequence, records), partition.deadline())
    };
    // All at once: the retries find their originals in flight.
    let answers = join_all([produce(0, 2), produce(2, 1), produce(0, 2), produce(2, 1), produce(9, 1)]).await;
    let offsets: Vec<_> = answers.into_iter().map(|answer| answer.map(|it| it.base_offset.0)).collect();
    assert_eq!(offsets, [Ok(0), Ok(2), Ok(0), Ok(2), Err(ProduceError::OutOfOrder)]);
    // And here in what is applied, before a restart and after it.
    assert_eq!(partition.produce(idempotent(2, 1)).await, Ok(2));
    let partition = partition.restart(TopicConfig::default()).await;
    assert_eq!(partition.produce(idempotent(0, 2)).await, Ok(0));
    assert_eq!(partition.produce(idempotent(1, 1)).await, Err(ProduceError::DuplicateSequence));
    assert_eq!(partition.produce(idempotent(3, 1)).await, Ok(3));
    assert_eq!(partition.fetch(0, u32::MAX).await, Ok(vec![(0, 2), (2, 1), (3, 1)]));
}

#[tokio::test]
async fn many_clients_get_dense_offsets_in_the_order_of_their_calls() {
    let partition = Partition::start(Alone::start().await, TopicConfig::default()).await;
    let calls: Vec<_> =
        (0..500).map(|_| partition.replica.produce(None, plain(2), partition.deadline())).collect();
    let offsets: Vec<u64> = join_all(calls).await.into_iter().map(|it| it.unwrap().base_offset.0).collect();
    assert_eq!(offsets, (0..500).map(|n| n * 2).collect::<Vec<u64>>());
    let mut read = Vec::new();
    while let Some((base, records)) = read.last().copied().or(Some((0, 0))) {
        let batches = partition.fetch(base + u64::from(records), 9_000).await.unwrap();
        if batches.is_empty() {
            break;
        }
        read.extend(batches);
    }
    assert_eq!(read, (0..500).map(|n| (n * 2, 2)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_fetch_waits_for_enough_or_for_its_time() {
    let partition = Partition::start(Alone::start().await, TopicConfig::default()).await;
    let size = u32::try_from(plain(1).len()).unwrap();
    let waiting = |bytes_min, wait| {
        let replica = partition.replica.clone();
        let request = Fetch { epoch: None, offset: Offset(0), bytes_max: u32::MAX, bytes_min, wait };
        async move { replica.fetch(request).await.map(|fetched| fetched.batches.len()) }
    };
    assert_eq!(waiting(1, Duration::from_millis(20)).await, Ok(0), "nothing came in time");
    let mut two = Box::pin(waiting(size + 1, LONG));
    assert!((&mut two).now_or_never().is_none());
    partition.produce(plain(1)).await.unwrap();
    assert!((&mut two).now_or_never().is_none(), "one batch is not enough");
    partition.produce(plain(1)).await.unwrap();
    assert_eq!(two.await, Ok(2 * plain(1).len()));
    let mut endless = Box::pin(waiting(u32::MAX, LONG));
    assert!((&mut endless).now_or_never().is_none());
    partition.replica.close();
    assert_eq!(endless.await, Err(FetchError::Stopping), "who waits is sent away");
    assert_eq!(partition.produce(plain(1)).await, Err(ProduceError::Stopping));
}

#[tokio::test]
async fn a_time_is_looked_up_to_the_record() {
    let partition = Partition::start(Alone::start().await, TopicConfig::default()).await;
    for timestamps in [[10, 30, 20], [25, 25, 25], [40, 5, 50]] {
        partition.produce(batch(ProducerStamp::NONE, &timestamps)).await.unwrap();
    }
    let found = async |at| {
        let at = OffsetAt::Timestamp(Timestamp(at));
        let found = partition.replica.list_offset(None, at).await.unwrap();
        found.offset.map(|offset| (offset.0, found.timestamp.unwrap().0))
    };
    assert_eq!(found(-5).await, Some((0, 10)));
    assert_eq!(found(11).await, Some((1, 30)));
    assert_eq!(found(31).await, Some((6, 40)));
    assert_eq!(found(41).await, Some((8, 50)));
    assert_eq!(found(51).await, None);
    let ends = async |at| partition.replica.list_offset(None, at).await.unwrap().offset;
    assert_eq!(ends(OffsetAt::Earliest).await, Some(Offset(0)));
    assert_eq!(ends(OffsetAt::Latest).await, Some(Offset(9)));
}

#[tokio::test]
async fn the_leader_stamps_when_the_topic_says_so() {
    let config = TopicConfig { timestamp_type: TimestampType::LogAppendTime, ..TopicConfig::default() };
    let partition = Partition::start(Alone::start().await, config).await;
    let before = partition.alone.env.wall();
    let far = i64::MAX;
    let produced = partition
        .replica
        .produce(None, batch(ProducerStamp::NONE, &[far]), partition.deadline())
        .await
        .unwrap();
    let stamp = produced.log_append_time.unwrap();
    assert!(before <= stamp && stamp <= partition.alone.env.wall());
    let request = Fetch { epoch: None, offset: Offset(0), bytes_max: u32::MAX, bytes_min: 1, wait: LONG };
    let fetched = partition.replica.fetch(request).await.unwrap();
    let (header, _) = split(fetched.batches).next().unwrap().expect("the CRC was computed anew");
    assert!(header.attributes.is_log_append_time());
    assert_eq!(header.max_timestamp, stamp);
    assert_eq!(header.leader_epoch, partition.epoch());
}

#[tokio::test]
async fn an_entry_out_of_place_is_void_and_the_batcher_begins_anew() {
    let partition = Partition::start(Alone::start().await, TopicConfig::default()).await;
    assert_eq!(partition.produce(idempotent(0, 1)).await, Ok(0));
    let Role::Leader { term, .. } = partition.replica.role() else { panic!("it leads") };
    // Behind the batcher's back: once out of place, then in the place that the batcher means to use.
    for (base_offset, fits) in [(7, false), (1, true)] {
        let body = plain(1);
        let claim = Claim {
            producer: ProducerId::NONE,
            epoch: ProducerEpoch(-1),
            sequence: Sequence(-1),
            records: 1,
        };
        let proposal = Proposal {
            kind: Kind::Batch,
            base_offset: Offset(base_offset),
            records: claim.records,
            producer_id: claim.producer,
            producer_epoch: claim.epoch,
            sequence: claim.sequence,
            max_timestamp: Timestamp(0),
            appended_at: Timestamp(0),
            body_crc: crc32c::crc32c(&body),
            body,
        };
        let (_, answer) = partition.group().propose(term, proposal).await.unwrap().await.unwrap();
        match answer {
            Answer::Batch(BatchAnswer::Accepted { base_offset }) => {
                assert!(fits && base_offset == Offset(1));
            }
            Answer::Batch(BatchAnswer::Void) => assert!(!fits),
            Answer::Nothing | Answer::Command(_) => panic!("a batch is answered as a batch"),
        }
    }
    let void = partition.produce(idempotent(1, 1)).await;
    assert!(matches!(void, Err(ProduceError::NotAvailable(_))), "its place was taken: {void:?}");
    assert_eq!(partition.produce(idempotent(1, 1)).await, Ok(2));
    assert_eq!(partition.produce(idempotent(0, 1)).await, Ok(0));
    assert_eq!(partition.fetch(0, u32::MAX).await, Ok(vec![(0, 1), (1, 1), (2, 1)]));
    let partition = partition.restart(TopicConfig::default()).await;
    assert_eq!(partition.fetch(0, u32::MAX).await, Ok(vec![(0, 1), (1, 1), (2, 1)]));
}

#[tokio::test]
async fn a_topic_that_is_set_otherwise_takes_what_comes_after_and_knows_what_came_before() {
    let partition = Partition::start(Alone::start().await, TopicConfig::default()).await;
    assert_eq!(partition.produce(idempotent(0, 3)).await, Ok(0));
    let set = TopicConfig {
        message_bytes_max: 200,
        timestamp_type: TimestampType::LogAppendTime,
        ..TopicConfig::default()
    };
    assert!(partition.replica.configure(set) && !partition.replica.configure(set), "told once");
    assert_eq!(partition.replica.topic_config(), set);
    assert_eq!(partition.produce(idempotent(0, 3)).await, Ok(0), "the same as before");
    assert_eq!(partition.produce(idempotent(3, 1)).await, Ok(3));
    let refused = partition.produce(idempotent(4, 50)).await;
    assert!(matches!(refused, Err(ProduceError::Batch(BatchError::TooLarge { .. }))), "{refused:?}");
    assert!(partition.replica.configure(TopicConfig::default()));
    assert_eq!(partition.produce(idempotent(4, 50)).await, Ok(4));
    assert_eq!(partition.fetch(0, u32::MAX).await, Ok(vec![(0, 3), (3, 1), (4, 50)]));
    // A retry is told the time that the batch bears, whatever the topic is set to now.
    let again = async |batch| {
        let produced = partition.replica.produce(None, batch, partition.deadline()).await.unwrap();
        (produced.base_offset.0, produced.log_append_time.is_some())
    };
    assert_eq!(again(idempotent(3, 1)).await, (3, true));
    assert_eq!(again(idempotent(4, 50)).await, (4, false));
}

#[tokio::test]
async fn bad_batches_are_refused_at_the_door() {
    let config = TopicConfig { message_bytes_max: 200, ..TopicConfig::default() };
    let partition = Partition::start(Alone::start().await, config).await;
    let mut damaged = plain(1).to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let refused = partition.produce(damaged.into()).await;
    assert!(matches!(refused, Err(ProduceError::Batch(BatchError::Crc { .. }))), "{refused:?}");
    let refused = partition.produce(plain(50)).await;
    assert!(matches!(refused, Err(ProduceError::Batch(BatchError::TooLarge { .. }))), "{refused:?}");
    let ahead = partition.alone.env.wall().0 + 3_700_000;
    let refused = partition.produce(batch(ProducerStamp::NONE, &[ahead])).await;
    assert!(matches!(refused, Err(ProduceError::InvalidTimestamp { .. })), "{refused:?}");
    let refused = partition.produce(Bytes::from_static(b"no batch")).await;
    assert!(matches!(refused, Err(ProduceError::Batch(BatchError::Short { .. }))), "{refused:?}");
    assert_eq!(partition.replica.high_watermark(), Offset(0));
}

#[tokio::test]
async fn epochs_are_fenced_and_their_ends_known() {
    let partition = Partition::start(Alone::start().await, TopicConfig::default()).await;
    partition.produce(plain(3)).await.unwrap();
    let first = partition.epoch();
    let partition = partition.restart(TopicConfig::default()).await;
    partition.produce(plain(2)).await.unwrap();
    let second = partition.epoch();
    assert!(second > first, "a restarted leader leads in another term");
    let later = LeaderEpoch(second.0 + 1);
    let produce = |epoch| partition.replica.produce(Some(epoch), plain(1), partition.deadline());
    assert!(matches!(produce(first).await, Err(ProduceError::Fenced { .. })));
    assert!(matches!(produce(later).await, Err(ProduceError::UnknownEpoch { .. })));
    assert_eq!(produce(second).await.map(|it| it.base_offset), Ok(Offset(5)));
    let end = |epoch| partition.replica.epoch_end(None, epoch).unwrap().found;
    assert_eq!(end(first), Some((first, Offset(3))));
    assert_eq!(end(later), Some((second, Offset(6))));
}

#[tokio::test]
async fn what_finds_no_room_is_surely_not_written() {
    let config = PartitionConfig { queue_bytes_max: 2 * plain(1).len() as u64, ..PartitionConfig::default() };
    let partition = Partition::start_with(Alone::start().await, TopicConfig::default(), config).await;
    let calls: Vec<_> =
        (0..3).map(|_| partition.replica.produce(None, plain(1), partition.deadline())).collect();
    let answers = join_all(calls).await;
    assert!(matches!(answers[2], Err(ProduceError::Overloaded(_))), "{answers:?}");
    assert_eq!(partition.replica.high_watermark(), Offset(2));
    assert_eq!(partition.produce(plain(1)).await, Ok(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_sync_there_is_no_ack_and_nothing_to_read() {
    let config = PartitionConfig { in_flight_batches_max: 1, ..PartitionConfig::default() };
    let partition = Partition::start_with(Alone::start().await, TopicConfig::default(), config).await;
    assert_eq!(partition.produce(idempotent(0, 1)).await, Ok(0));
    partition.alone.gate.close();
    let soon = || partition.alone.env.now() + Duration::from_millis(100);
    let proposed = partition.replica.produce(None, idempotent(1, 1), soon());
    let queued = partition.replica.produce(None, idempotent(2, 1), soon());
    assert_eq!(proposed.await, Err(ProduceError::Unknown), "it may yet be written");
    let queued = queued.await;
    assert!(matches!(queued, Err(ProduceError::NotAvailable(_))), "never proposed: {queued:?}");
    assert_eq!(partition.replica.high_watermark(), Offset(1));
    assert_eq!(partition.fetch(1, u32::MAX).await, Ok(vec![]));
    // The retry finds the first one in flight, or applied.
    let again = partition.replica.produce(None, idempotent(1, 1), partition.deadline());
    partition.alone.gate.open();
    assert_eq!(again.await.map(|produced| produced.base_offset), Ok(Offset(1)));
    assert_eq!(partition.produce(idempotent(2, 1)).await, Ok(2));
    assert_eq!(partition.fetch(0, u32::MAX).await, Ok(vec![(0, 1), (1, 1), (2, 1)]));
}

/// What happens when a majority is asked, once it does.
type Asked = Box<dyn FnOnce() + Send>;

/// No majority ever answers.
#[derive(Default)]
struct NoMajority(Mutex<Option<Asked>>);

impl Probe for NoMajority {
    fn perturb(&self, point: Point) -> bool {
        let asked = (point == Point::BarrierFails).then(|| self.0.lock().unwrap().take());
        if let Some(Some(asked)) = asked {
            asked();
        }
        point == Point::BarrierFails
    }

    fn reached(&self, _mark: Mark) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_ahead_is_judged_by_a_majority_alone() {
    let probe = Arc::new(NoMajority::default());
    let alone = Alone::start_probed(Arc::clone(&probe) as Arc<dyn Probe>).await;
    let partition = Partition::start(alone, TopicConfig::default()).await;
    let latest = || partition.replica.list_offset(None, OffsetAt::Latest);
    assert_eq!(partition.fetch(0, 1).await, Ok(vec![]), "it is not ahead");
    assert_eq!(partition.fetch(1, 1).await, Err(FetchError::NotAvailable));
    assert_eq!(latest().await, Err(FetchError::NotAvailable));
    // Not its leader any more by the time that this is known.
    let (raft, runtime) = (partition.alone.raft.clone(), tokio::runtime::Handle::current());
    let ends = move || tokio::task::block_in_place(|| runtime.block_on(raft.stop_group(GROUP)));
    *probe.0.lock().unwrap() = Some(Box::new(ends));
    assert_eq!(partition.fetch(1, 1).await, Err(FetchError::NotLeader { leader: None }));
    assert!(probe.0.lock().unwrap().is_none(), "a majority was asked");
}

#[tokio::test]
async fn a_bounded_number_waits_for_a_majority() {
    let config = PartitionConfig { fetch_waiters_max: 1, ..PartitionConfig::default() };
    let partition = Partition::start_with(Alone::start().await, TopicConfig::default(), config).await;
    let mut latest = partition.replica.list_offset(None, OffsetAt::Latest).boxed();
    assert!((&mut latest).now_or_never().is_none());
    assert_eq!(partition.fetch(9, 1).await, Err(FetchError::Overloaded));
    assert_eq!(latest.await.map(|found| found.offset), Ok(Some(Offset(0))));
    let ahead = partition.fetch(9, 1).await;
    assert!(matches!(ahead, Err(FetchError::OffsetOutOfRange { .. })), "{ahead:?}");
}

/// The replica was asked before it was stopped, and reads when its log is gone.
#[tokio::test]
async fn a_deposed_leader_that_applied_what_its_successor_wrote_answers_nothing_in_its_old_epoch() {
    let partition = Partition::start(Alone::start().await, TopicConfig::default()).await;
    partition.produce(plain(1)).await.unwrap();
    let replica = &partition.replica;
    let led = partition.epoch();
    let waits = {
        let request = Fetch {
            epoch: Some(led),
            offset: Offset(1),
            bytes_max: 1_000,
            bytes_min: 1,
            wait: Duration::from_millis(100),
        };
        let mut waits = replica.fetch(request).boxed();
        assert!((&mut waits).now_or_never().is_none());
        waits
    };
    let next = LogId { term: Term(u64::try_from(led.0).unwrap() + 1), index: replica.next_index() };
    let of_its_successor = Head { base_offset: Offset(1), ..Head::without_offset(GROUP, next, Kind::Blank) };
    replica.state().lock().apply(&of_its_successor);
    assert!(matches!(replica.role(), Role::Leader { ready: true, .. }), "its role says nothing yet");
    let deposed = FetchError::NotLeader { leader: None };
    assert_eq!(waits.await.unwrap_err(), deposed);
    assert_eq!(partition.fetch(0, 1_000).await, Err(deposed.clone()));
    for at in [OffsetAt::Earliest, OffsetAt::Latest, OffsetAt::Timestamp(Timestamp(0))] {
        assert_eq!(replica.list_offset(Some(led), at).await, Err(deposed.clone()));
    }
    assert_eq!(replica.epoch_end(Some(led), led), Err(deposed.clone()));
    // It was reading while its successor raised the log start.
    let term = Term(u64::try_from(led.0).unwrap());
    assert_eq!(replica.unless_trimmed(term, Offset(0), Ok(())), Ok(()));
    replica.state().lock().log_start = Offset(1);
    assert_eq!(replica.unless_trimmed(term, Offset(0), Ok(())), Err(deposed), "the range is not its to tell");
}

#[tokio::test]
async fn a_read_that_races_with_the_topics_deletion_finds_no_damage() {
    let partition = Partition::start(Alone::start().await, TopicConfig::default()).await;
    partition.produce(plain(1)).await.unwrap();
    let Partition { alone, replica, batcher } = partition;
    let all = LogIndex(0)..LogIndex(3);
    let mut looker = Looker::begin(None).await;
    let (heads, _) = replica.heads(all.clone(), Offset(0), 1_000, &mut looker).await.unwrap();
    assert_eq!(heads.len(), 1);
    replica.close();
    alone.raft.stop_group(GROUP).await;
    batcher.stop().await;
    alone.store.remove_group(GROUP).await.unwrap();
    assert_eq!(replica.heads(all, Offset(0), 1_000, &mut looker).await, Err(FetchError::Stopping));
    assert_eq!(replica.read(&heads).await, Err(FetchError::Stopping));
}

#[tokio::test]
async fn answers_that_nobody_takes_are_bounded_in_bytes() {
    let partition = Partition::start(Alone::start().await, TopicConfig::default()).await;
    for _ in 0..4 {
        partition.produce(plain(1)).await.unwrap();
    }
    let bytes = u32::try_from(plain(1).len()).unwrap();
    let room = AnswerRoom::new(2 * bytes + 1);
    let fetch = |offset, batches: u32, wait| {
        let (replica, room) = (partition.replica.clone(), room.clone());
        let (bytes_max, bytes_min) = (batches * bytes, 1);
        let request = Fetch { epoch: None, offset: Offset(offset), bytes_max, bytes_min, wait };
        async move {
            let (fetched, hold) = replica.fetch_within(request, Some(&room)).await?;
            Ok::<_, FetchError>((split(fetched.batches).count(), hold))
        }
        .boxed()
    };
    let mut waits_for_records = fetch(4, 1, LONG);
    assert!((&mut waits_for_records).now_or_never().is_none());
    let (count, first) = fetch(0, 1, LONG).await.unwrap();
    assert_eq!(count, 1);
    let (count, second) = fetch(1, 1, LONG).await.unwrap();
    assert_eq!(count, 1, "whoever waits for records takes no room");
    let mut third = fetch(2, 2, LONG);
    assert!((&mut third).now_or_never().is_none());
    drop(first);
    assert!((&mut third).now_or_never().is_none());
    let mut large = fetch(0, 4, LONG);
    assert!((&mut large).now_or_never().is_none());
    drop(second);
    let (count, third) = third.await.unwrap();
    assert_eq!(count, 2);
    assert!((&mut large).now_or_never().is_none());
    drop(third);
    let (count, large) = large.await.unwrap();
    assert_eq!(count, 4, "more than there is room for goes alone");
    partition.produce(plain(1)).await.unwrap();
    drop(large);
    assert_eq!(waits_for_records.await.unwrap().0, 1);
}

#[tokio::test]
async fn fetches_of_one_reader_look_for_records_in_turn() {
    let partition = Partition::start(Alone::start().await, TopicConfig::default()).await;
    partition.produce(plain(1)).await.unwrap();
    let room = AnswerRoom::new(1_000);
    let request = Fetch { epoch: None, offset: Offset(0), bytes_max: 1_000, bytes_min: 1, wait: LONG };
    let mut others: Vec<_> = std::iter::from_fn(|| room.turn().now_or_never()).collect();
    let mut fetched = partition.replica.fetch_within(request, Some(&room)).boxed();
    assert!((&mut fetched).now_or_never().is_none());
    others.pop();
    assert_eq!(fetched.await.unwrap().0.high_watermark, Offset(1));
    assert!(room.turn().now_or_never().is_some(), "the turn was given back");
}

async fn delete(partition: &Partition, before: DeleteBefore) -> Result<u64, DeleteError> {
    let deleted = partition.replica.delete_records(None, before, partition.deadline()).await;
    deleted.map(|deleted| deleted.log_start.0)
}

#[tokio::test]
async fn deleted_records_are_not_read_any_more_also_after_a_restart() {
    let mut partition = Partition::start(Alone::start().await, TopicConfig::default()).await;
    for timestamps in [&[10, 20, 30][..], &[40], &[50, 60]] {
        partition.produce(batch(ProducerStamp::NONE, timestamps)).await.unwrap();
    }
    let before = |offset| DeleteBefore::Offset(Offset(offset));
    assert_eq!(delete(&partition, before(5)).await, Ok(5));
    assert_eq!(delete(&partition, before(2)).await, Ok(5), "there is nothing more to delete");
    let range = |offset| (Offset(offset), Offset(5), Offset(6));
    let (offset, log_start, high_watermark) = range(7);
    let beyond = DeleteError::OffsetOutOfRange { offset, log_start, high_watermark };
    assert_eq!(delete(&partition, before(7)).await, Err(beyond));
    for _ in 0..2 {
        let (offset, log_start, high_watermark) = range(4);
        let out = FetchError::OffsetOutOfRange { offset, log_start, high_watermark };
        assert_eq!(partition.fetch(4, u32::MAX).await, Err(out));
        assert_eq!(partition.fetch(5, u32::MAX).await, Ok(vec![(4, 2)]), "a batch is read as a whole");
        let find = async |at| partition.replica.list_offset(None, at).await.unwrap().offset.map(|it| it.0);
        assert_eq!(find(OffsetAt::Earliest).await, Some(5));
        assert_eq!(find(OffsetAt::Timestamp(Timestamp(0))).await, Some(5), "not one that is deleted");
        partition = partition.restart(TopicConfig::default()).await;
    }
    assert_eq!(delete(&partition, DeleteBefore::HighWatermark).await, Ok(6));
    assert_eq!(partition.fetch(6, u32::MAX).await, Ok(vec![]));
    assert_eq!(partition.produce(plain(1)).await, Ok(6));
    assert_eq!(partition.fetch(6, u32::MAX).await, Ok(vec![(6, 1)]));
    partition.replica.close();
    assert_eq!(delete(&partition, DeleteBefore::HighWatermark).await, Err(DeleteError::Stopping));
}

#[tokio::test]
async fn a_reader_that_waits_hears_that_what_it_waits_for_is_deleted() {
    let partition = Partition::start(Alone::start().await, TopicConfig::default()).await;
    partition.produce(plain(2)).await.unwrap();
    let replica = partition.replica.clone();
    let request =
        Fetch { epoch: None, offset: Offset(0), bytes_max: u32::MAX, bytes_min: u32::MAX, wait: LONG };
    let mut waiting = Box::pin(async move { replica.fetch(request).await });
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!(delete(&partition, DeleteBefore::HighWatermark).await, Ok(2));
    let told = waiting.await.unwrap_err();
    assert!(matches!(told, FetchError::OffsetOutOfRange { log_start: Offset(2), .. }), "{told:?}");
}

#[tokio::test]
async fn retention_trims_the_log_and_a_retry_is_still_recognised() {
    let size = idempotent(0, 1).len() as u64;
    let retention = Retention { ms: None, bytes: Some(2 * size) };
    let config = TopicConfig { retention, ..TopicConfig::default() };
    let rest = Duration::from_millis(50);
    let soon = PartitionConfig { trim_rest_ms: 50, ..PartitionConfig::default() };
    let mut partition = Partition::start_with(Alone::start().await, config, soon).await;
    for sequence in 0..100 {
        partition.produce(idempotent(sequence, 1)).await.unwrap();
    }
    assert_eq!(partition.replica.log_start(), Offset(0), "nobody has looked yet");
    partition.replica.keep().await;
    assert_eq!(partition.replica.log_start(), Offset(98));
    assert_eq!(partition.fetch(98, u32::MAX).await, Ok(vec![(98, 1), (99, 1)]));
    // There is little to go: the log is trimmed once the log start rests.
    let purged = |partition: &Partition| partition.group().log().state().purged;
    assert_eq!(purged(&partition), None);
    partition.alone.env.sleep(rest).await;
    partition.replica.keep().await;
    eventually(&partition.alone.env, "the log is trimmed", || purged(&partition).is_some()).await;
    let group = partition.group();
    assert_eq!(purged(&partition), group.base());
    let first = group.log().heads(LogIndex(0)..LogIndex(u64::MAX), 1).await.unwrap();
    assert_eq!(first[0].base_offset, Offset(98));
    drop(group);
    for _ in 0..2 {
        partition = partition.restart(config).await;
        assert_eq!(partition.replica.log_start(), Offset(98));
        assert_eq!(partition.fetch(98, u32::MAX).await, Ok(vec![(98, 1), (99, 1)]));
        assert_eq!(partition.produce(idempotent(99, 1)).await, Ok(99), "a retry");
        assert_eq!(partition.produce(idempotent(95, 1)).await, Ok(95), "a retry of what is trimmed");
        assert_eq!(partition.produce(idempotent(90, 1)).await, Err(ProduceError::DuplicateSequence));
    }
    assert_eq!(partition.produce(idempotent(100, 1)).await, Ok(100));
    partition.replica.keep().await;
    assert_eq!(partition.replica.log_start(), Offset(99));
}

/// Among the runs of a log of very many batches are some that are long.
#[tokio::test]
async fn a_run_of_any_length_goes_batch_by_batch() {
    let size = plain(1).len() as u64;
    let kept = |batches| {
        let retention = Retention { ms: None, bytes: Some(batches * size) };
        TopicConfig { retention, ..TopicConfig::default() }
    };
    let at_once = PartitionConfig { trim_rest_ms: 0, ..PartitionConfig::default() };
    let mut partition = Partition::start_with(Alone::start().await, kept(400), at_once).await;
    let calls: Vec<_> =
        (0..400).map(|_| partition.replica.produce(None, plain(1), partition.deadline())).collect();
    assert!(join_all(calls).await.iter().all(Result::is_ok));
    let runs = {
        let state = partition.replica.state();
        let mut state = state.lock();
        state.index.thin(4);
        state.index.len()
    };
    assert_eq!(runs, 2);
    for batches in [399, 300, 299, 299, 100, 20] {
        partition.replica.configure(kept(batches));
        partition.replica.keep().await;
        partition.replica.keep().await;
        let start = 400 - batches;
        assert_eq!(partition.replica.log_start(), Offset(start));
        assert_eq!(partition.fetch(start, 1).await, Ok(vec![(start, 1)]));
    }
    let group = partition.group();
    eventually(&partition.alone.env, "the log is trimmed", || group.log().state().purged.is_some()).await;
    drop(group);
    // Nothing is known of the look before, and the log begins amid a run.
    partition = partition.restart(kept(5)).await;
    partition.replica.keep().await;
    assert_eq!(partition.replica.log_start(), Offset(395));
    assert_eq!(partition.fetch(395, 1).await, Ok(vec![(395, 1)]));
}

/// Each time it would save all that is needed to go on.
#[tokio::test]
async fn a_log_is_not_trimmed_for_each_batch_that_goes() {
    let retention = Retention { ms: None, bytes: Some(2 * idempotent(0, 1).len() as u64) };
    let config = TopicConfig { retention, ..TopicConfig::default() };
    let partition = Partition::start(Alone::start().await, config).await;
    for sequence in 0..10 {
        partition.produce(idempotent(sequence, 1)).await.unwrap();
        // The log start has not moved since the look before, but for a moment only.
        partition.replica.keep().await;
        partition.replica.keep().await;
    }
    assert_eq!(partition.replica.log_start(), Offset(8));
    assert_eq!(partition.group().base(), None);
}

/// Sealed volumes are opened for each read. While it is set, each commit begins a volume if it can, and nothing that is
/// synced stays in memory.
#[derive(Default)]
struct FromDisk(AtomicBool);

impl Probe for FromDisk {
    fn perturb(&self, point: Point) -> bool {
        let is_for_now = matches!(point, Point::RollEarly | Point::RecentForgotten);
        point == Point::SealedVolumesClosed || (is_for_now && self.0.load(Ordering::SeqCst))
    }

    fn reached(&self, _mark: Mark) {}
}

#[tokio::test]
async fn damage_where_a_trimmed_log_begins_is_waited_for() {
    let retention = Retention { ms: None, bytes: Some(28 * idempotent(0, 1).len() as u64) };
    let config = TopicConfig { retention, ..TopicConfig::default() };
    let probe = Arc::new(FromDisk::default());
    let alone = Alone::start_probed(Arc::clone(&probe) as Arc<dyn Probe>).await;
    let at_once = PartitionConfig { trim_rest_ms: 0, ..PartitionConfig::default() };
    let partition = Partition::start_with(alone, config, at_once).await;
    let mut sequence = 0;
    while sequence < 30 {
        partition.produce(idempotent(sequence, 1)).await.unwrap();
        sequence += 1;
    }
    let (env, group) = (&partition.alone.env, partition.group());
    let log = group.log();
    // The log begins amid the first run of the index.
    partition.replica.keep().await;
    partition.replica.keep().await;
    eventually(env, "the log is trimmed", || log.state().purged.is_some()).await;
    assert_eq!(partition.replica.log_start(), Offset(2));
    let entries = log.entries(LogIndex(0)..LogIndex(u64::MAX), u64::MAX).await.unwrap();
    let first = entries[0].head.index;

    // A third volume is made once the first one is sealed.
    let volume = |number: u32| FileName::parse(&format!("volume-{number:08}.redb")).unwrap();
    probe.0.store(true, Ordering::SeqCst);
    while !env.disk.list().unwrap().contains(&volume(3)) {
        partition.produce(idempotent(sequence, 1)).await.unwrap();
        sequence += 1;
    }
    probe.0.store(false, Ordering::SeqCst);
    assert!(log.memory_start() > entries.last().unwrap().head.index, "they are read from the disk");
    env.disk.remove(&volume(1)).unwrap();
    let deadline = partition.deadline();
    while log.heads(first..first.next(), 1).await.is_ok() {
        assert!(env.now() < deadline, "its file is still open");
        env.sleep(Duration::from_millis(2)).await;
    }

    // Others of the same reader look for records meanwhile.
    let room = AnswerRoom::new(u32::MAX);
    let turns = || std::iter::from_fn(|| room.turn().now_or_never()).collect::<Vec<_>>().len();
    let all_turns = turns();
    let request = Fetch { epoch: None, offset: Offset(2), bytes_max: 1, bytes_min: 1, wait: LONG };
    let mend = async {
        env.sleep(Duration::from_millis(100)).await;
        assert_eq!(turns(), all_turns);
        log.repair(entries).await.unwrap();
    };
    let bounded = partition.replica.fetch_within(request, Some(&room));
    let (read, bounded, ()) = tokio::join!(partition.fetch(2, u32::MAX), bounded, mend);
    assert!(!bounded.unwrap().0.batches.is_empty());
    let all = (2..u64::try_from(sequence).unwrap()).map(|offset| (offset, 1)).collect::<Vec<_>>();
    assert_eq!(read, Ok(all));
    assert!(log.damage().is_none());
}

#[tokio::test]
async fn a_batch_without_a_timestamp_is_kept_from_its_append_on() {
    let kept =
        |ms| TopicConfig { retention: Retention { ms: Some(ms), bytes: None }, ..TopicConfig::default() };
    let mut partition = Partition::start(Alone::start().await, kept(1_000_000)).await;
    // More than a run of the index, and in the last one others that are older.
    for _ in 0..70 {
        partition.produce(batch(ProducerStamp::NONE, &[-1])).await.unwrap();
    }
    let old = partition.alone.env.wall().0 - 2_000_000;
    partition.produce(batch(ProducerStamp::NONE, &[old])).await.unwrap();
    for _ in 0..2 {
        partition.replica.keep().await;
        assert_eq!(partition.replica.log_start(), Offset(0), "they were appended just now");
        partition = partition.restart(kept(1_000_000)).await;
    }
    let env = &partition.alone.env;
    let by = env.wall().0;
    eventually(env, "time passes", || env.wall().0 > by + 1).await;
    assert!(partition.replica.configure(kept(1)));
    partition.replica.keep().await;
    assert_eq!(partition.replica.log_start(), Offset(71), "by now they are too old");
}

#[tokio::test]
async fn what_is_too_old_goes_and_nothing_else() {
    let retention = Retention { ms: Some(1_000_000), bytes: None };
    let config = TopicConfig { retention, ..TopicConfig::default() };
    let partition = Partition::start(Alone::start().await, config).await;
    let now = partition.alone.env.wall().0;
    for age in [3_000_000, 2_000_000, 0, 2_000_000] {
        partition.produce(batch(ProducerStamp::NONE, &[now - age])).await.unwrap();
    }
    for _ in 0..3 {
        partition.replica.keep().await;
        assert_eq!(partition.replica.log_start(), Offset(2), "what lies behind one that is young stays");
    }
    let all = TopicConfig { retention: Retention { ms: Some(0), bytes: None }, ..config };
    let partition = partition.restart(all).await;
    partition.replica.keep().await;
    assert_eq!(partition.replica.log_start(), Offset(4), "0 keeps nothing");
}
