//! The consumer against a cluster of fakes, on paused time.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::Either;
use futures_util::{FutureExt, StreamExt};
use quorate_proto::ErrorCode;
use quorate_proto::env::{Env, Mark, Point, Probe};
use quorate_proto::ids::TopicName;

use crate::leaders::WAITING_FETCHES_MAX;
use crate::testing::{Cluster, Fault, env, sleep, soon};
use crate::{
    Client, ClientConfig, ConsumeError, Consumer, ConsumerConfig, Offset, PartitionId, Partitions,
    ProducerConfig, Record, Reset, Start, Timestamp,
};

const P0: PartitionId = PartitionId(0);

/// Writes records `value = number`, `timestamp = 1000 * number`, three to a batch.
async fn fill(cluster: &Cluster, partition: i32, numbers: std::ops::Range<u32>) {
    let producer = cluster.client(99).producer(ProducerConfig::default());
    for number in numbers {
        let record = Record::new(format!("{number}"))
            .partition(PartitionId(partition))
            .timestamp(Timestamp(i64::from(number) * 1000));
        soon(producer.send("t", record)).await.unwrap();
        if number % 3 == 2 {
            soon(producer.flush()).await;
        }
    }
    soon(producer.flush()).await;
}

async fn consumer(cluster: &Cluster, partitions: Partitions, start: Start) -> Consumer {
    let mut consumer = cluster.client(7).consumer(ConsumerConfig::default());
    soon(consumer.assign("t", partitions, start)).await.unwrap();
    consumer
}

async fn read(consumer: &mut Consumer, count: usize) -> Vec<(i32, u64, String)> {
    let mut records = Vec::new();
    while records.len() < count {
        let record = soon(consumer.next()).await.unwrap();
        let value = String::from_utf8(record.value.unwrap().to_vec()).unwrap();
        records.push((record.partition.0, record.offset.0, value));
    }
    records
}

fn expected(numbers: std::ops::Range<u64>) -> Vec<(i32, u64, String)> {
    numbers.map(|number| (0, number, number.to_string())).collect()
}

#[tokio::test(start_paused = true)]
async fn begins_where_it_is_told_to() {
    let cluster = Cluster::with_topic("t", 1);
    fill(&cluster, 0, 0..20).await;
    let starts = [
        (Start::Beginning, 0),
        (Start::Offset(Offset(7)), 7),
        (Start::Timestamp(Timestamp(9_500)), 10),
        (Start::Timestamp(Timestamp(19_000)), 19),
    ];
    for (start, first) in starts {
        let mut consumer = consumer(&cluster, Partitions::All, start).await;
        assert_eq!(consumer.position("t", P0), Some(Offset(first)));
        let count = usize::try_from(20 - first).unwrap();
        assert_eq!(read(&mut consumer, count).await, expected(first..20), "{start:?}");
        assert_eq!(consumer.position("t", P0), Some(Offset(20)));
        assert_eq!(consumer.high_watermark("t", P0), Some(Offset(20)));
    }
    for start in [Start::End, Start::Timestamp(Timestamp(99_000))] {
        let mut consumer = consumer(&cluster, Partitions::Only(vec![P0]), start).await;
        assert_eq!(consumer.position("t", P0), Some(Offset(20)), "{start:?}");
        assert!(consumer.next().now_or_never().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn waits_at_the_end_for_what_comes() {
    let cluster = Cluster::with_topic("t", 1);
    fill(&cluster, 0, 0..3).await;
    let mut consumer = consumer(&cluster, Partitions::All, Start::End).await;
    let writer = cluster.clone();
    let write = async {
        sleep(20_000).await;
        fill(&writer, 0, 3..9).await;
    };
    let (read, ()) = futures_util::future::join(read(&mut consumer, 6), write).await;
    assert_eq!(read, expected(3..9));
    let fetches = cluster.state().fetches.len();
    assert!(fetches < 100, "the server waits, not the client: {fetches} fetches in 20 s");
}

#[tokio::test(start_paused = true)]
async fn all_partitions_come_each_in_its_order() {
    let cluster = Cluster::with_topic("t", 4);
    for partition in 0..4 {
        fill(&cluster, partition, 0..50).await;
    }
    let consumer = consumer(&cluster, Partitions::All, Start::Beginning).await;
    let mut next = [0; 4];
    let mut records = consumer.take(200);
    while let Some(record) = soon(records.next()).await {
        let record = record.unwrap();
        let next = &mut next[usize::try_from(record.partition.0).unwrap()];
        assert_eq!(record.offset, Offset(*next));
        *next += 1;
    }
    assert_eq!(next, [50; 4]);
}

#[tokio::test(start_paused = true)]
async fn follows_the_leader_and_survives_lost_answers() {
    let cluster = Cluster::with_topic("t", 1);
    fill(&cluster, 0, 0..9).await;
    let mut consumer = consumer(&cluster, Partitions::All, Start::Beginning).await;
    assert_eq!(read(&mut consumer, 4).await, expected(0..4));
    cluster.move_leader("t", 0, 2);
    cluster.state().fetch_faults.extend([Fault::LoseReply, Fault::Refuse(ErrorCode::Overloaded)]);
    fill(&cluster, 0, 9..15).await;
    assert_eq!(read(&mut consumer, 11).await, expected(4..15));
    cluster.state().down.insert(2);
    sleep(400).await;
    cluster.move_leader("t", 0, 3);
    fill(&cluster, 0, 15..18).await;
    assert_eq!(read(&mut consumer, 3).await, expected(15..18));
}

#[tokio::test(start_paused = true)]
async fn leaves_a_leader_that_was_cut_off_and_never_goes_back() {
    let cluster = Cluster::with_topic("t", 1);
    fill(&cluster, 0, 0..3).await;
    let client = cluster.client(7);
    let mut consumer = client.consumer(ConsumerConfig::default());
    soon(consumer.assign("t", Partitions::All, Start::Beginning)).await.unwrap();
    assert_eq!(read(&mut consumer, 3).await, expected(0..3));
    // Node 1 goes on as if it led, answers fetches and says so to whoever asks; it has nothing new.
    let stale = cluster.metadata();
    {
        let mut state = cluster.state();
        state.stale.insert(1, stale);
        let topics = state.topics.clone();
        state.frozen.insert(1, topics);
    }
    cluster.move_leader("t", 0, 3);
    cluster.write("t", 0, &["3", "4", "5"]);
    let before = client.env().now();
    assert_eq!(read(&mut consumer, 3).await, expected(3..6));
    let took = client.env().now().since(before);
    assert!(took < Duration::from_secs(8), "{took:?}");
    let asked = {
        let mut state = cluster.state();
        // From here on a server answers for an older epoch: it is not believed.
        let partition = &mut state.topics.get_mut("t").unwrap().1[0];
        partition.epoch = 1;
        state.fetches.len()
    };
    cluster.write("t", 0, &["6", "7", "8"]);
    let reading = tokio_stream::StreamExt::next(&mut consumer);
    let waited = client.env().timeout(Duration::from_secs(5), reading).await;
    assert!(waited.is_err(), "{waited:?}");
    cluster.state().topics.get_mut("t").unwrap().1[0].epoch = 3;
    assert_eq!(read(&mut consumer, 3).await, expected(6..9));
    let state = cluster.state();
    assert!(state.fetches[asked..].iter().all(|fetch| fetch.leader_epoch >= 2), "nor is it asked");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_know_the_epoch_is_not_asked_for_ever() {
    let cluster = Cluster::with_topic("t", 1);
    fill(&cluster, 0, 0..3).await;
    let client = cluster.client(7);
    let mut consumer = client.consumer(ConsumerConfig::default());
    soon(consumer.assign("t", Partitions::All, Start::Beginning)).await.unwrap();
    assert_eq!(read(&mut consumer, 3).await, expected(0..3));
    // Node 1 serves what it has, as if it led still; the others know better.
    {
        let mut state = cluster.state();
        let topics = state.topics.clone();
        state.frozen.insert(1, topics);
        state.fetch_faults.push_back(Fault::Refuse(ErrorCode::UnknownLeaderEpoch));
    }
    cluster.move_leader("t", 0, 3);
    cluster.write("t", 0, &["3", "4", "5"]);
    let before = client.env().now();
    assert_eq!(read(&mut consumer, 3).await, expected(3..6));
    let took = client.env().now().since(before);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_a_server_cannot_speak_of_is_not_denied() {
    let cluster = Cluster::with_topic("t", 1);
    for order in [[1, 2], [2, 1]] {
        {
            let mut state = cluster.state();
            state.down.insert(3);
            state.cannot_say = [(order[0], ErrorCode::UnknownTopic), (order[1], ErrorCode::NotReady)].into();
        }
        let client = cluster.client(7);
        let mut consumer = client.consumer(ConsumerConfig::default());
        let healer = cluster.clone();
        let heal = async {
            sleep(3_000).await;
            healer.state().cannot_say.clear();
        };
        let assigned = consumer.assign("t", Partitions::All, Start::Beginning);
        let (assigned, ()) = soon(futures_util::future::join(assigned, heal)).await;
        assigned.unwrap_or_else(|error| panic!("{order:?}: {error}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_at_times_cannot_say_does_not_hide_that_a_topic_is_gone() {
    let cluster = Cluster::with_topic("t", 1);
    let mut consumer = cluster.client(7).consumer(ConsumerConfig::default());
    soon(consumer.assign("t", Partitions::All, Start::Beginning)).await.unwrap();
    cluster.state().topics.clear();
    let mute = cluster.clone();
    let by_turns = async {
        loop {
            mute.state().cannot_say = [(1, ErrorCode::NotReady)].into();
            sleep(700).await;
            mute.state().cannot_say.clear();
            sleep(700).await;
        }
    };
    let told = futures_util::future::select(Box::pin(consumer.next()), Box::pin(by_turns));
    let Either::Left((told, _)) = soon(told).await;
    assert!(matches!(told, Err(ConsumeError::TopicDeleted { .. })), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_position_out_of_range_is_an_error_or_a_reset() {
    let cluster = Cluster::with_topic("t", 2);
    fill(&cluster, 0, 0..6).await;
    fill(&cluster, 1, 0..3).await;
    let mut consumer = consumer(&cluster, Partitions::All, Start::Beginning).await;
    read(&mut consumer, 9).await;
    soon(consumer.seek("t", P0, Start::Offset(Offset(50)))).await.unwrap();
    let error = soon(consumer.next()).await.unwrap_err();
    assert_eq!(error.to_string(), "offset 50 of t/0 is out of range: it can be read from 0 to 6",);
    fill(&cluster, 1, 3..6).await;
    assert_eq!(soon(consumer.next()).await.unwrap().partition, PartitionId(1), "the other one goes on");
    soon(consumer.seek("t", P0, Start::Offset(Offset(4)))).await.unwrap();
    let mut offsets = Vec::new();
    for _ in 0..4 {
        let record = soon(consumer.next()).await.unwrap();
        offsets.extend((record.partition == P0).then_some(record.offset.0));
    }
    assert_eq!(offsets, [4, 5]);

    for (reset, first) in [(Reset::Beginning, 0), (Reset::End, 6)] {
        let config = ConsumerConfig { reset, ..ConsumerConfig::default() };
        let mut consumer = cluster.client(8).consumer(config);
        let only = Partitions::Only(vec![P0]);
        soon(consumer.assign("t", only, Start::Offset(Offset(1000)))).await.unwrap();
        if first == 6 {
            sleep(1000).await;
            fill(&cluster, 0, 6..7).await;
        }
        assert_eq!(soon(consumer.next()).await.unwrap().offset, Offset(first), "{reset:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn partitions_that_are_added_are_read_from_their_beginning() {
    let cluster = Cluster::with_topic("t", 1);
    fill(&cluster, 0, 0..3).await;
    let client = cluster.client(7);
    let mut whole = client.consumer(ConsumerConfig::default());
    soon(whole.assign("t", Partitions::All, Start::End)).await.unwrap();
    let mut one = client.consumer(ConsumerConfig::default());
    soon(one.assign("t", Partitions::Only(vec![P0]), Start::Beginning)).await.unwrap();
    assert_eq!(read(&mut one, 3).await, expected(0..3));
    assert!(whole.next().now_or_never().is_none(), "it began at the end");
    cluster.add_partitions("t", 3);
    // Before anybody could know of them: it is read all the same.
    cluster.write("t", 2, &["a", "b"]);
    let start = client.env().now();
    let found = read(&mut whole, 2).await;
    assert_eq!(found, [(2, 0, "a".to_owned()), (2, 1, "b".to_owned())]);
    let took = client.env().now().since(start);
    assert!(took < Duration::from_secs(12), "{took:?}");
    let numbers: Vec<_> = whole.assigned().iter().map(|(_, partition)| partition.0).collect();
    assert_eq!(numbers, [0, 1, 2]);
    assert_eq!(one.assigned().len(), 1, "it was told which");
    assert!(one.next().now_or_never().is_none());

    // One that was assigned by itself stays where it is, and one beyond is found at once where it is asked for.
    cluster.add_partitions("t", 4);
    cluster.write("t", 3, &["c", "d"]);
    sleep(200).await;
    let third = Partitions::Only(vec![PartitionId(3)]);
    soon(whole.assign("t", third, Start::Offset(Offset(1)))).await.unwrap();
    assert_eq!(read(&mut whole, 1).await, [(3, 1, "d".to_owned())]);
    sleep(30_000).await;
    assert!(whole.next().now_or_never().is_none());
    assert_eq!(whole.position("t", PartitionId(3)), Some(Offset(2)));
}

#[tokio::test(start_paused = true)]
async fn partitions_that_were_added_before_anybody_looked_are_read_too() {
    let cluster = Cluster::with_topic("t", 3);
    for partition in 0..3 {
        cluster.write("t", partition, &["a"]);
    }
    let mut consumer = consumer(&cluster, Partitions::Only(vec![P0]), Start::End).await;
    soon(consumer.assign_added("t", 1)).await.unwrap();
    let mut found = read(&mut consumer, 2).await;
    found.sort();
    assert_eq!(found, [(1, 0, "a".to_owned()), (2, 0, "a".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn partitions_are_found_that_a_deleted_topic_of_the_name_had_too() {
    let cluster = Cluster::with_topic("t", 2);
    let mut consumer = consumer(&cluster, Partitions::All, Start::Beginning).await;
    cluster.create("t", 1, 2);
    for _ in 0..2 {
        let error = soon(consumer.next()).await.unwrap_err();
        assert!(matches!(error, ConsumeError::TopicDeleted { .. }), "{error}");
    }
    soon(consumer.assign("t", Partitions::All, Start::Beginning)).await.unwrap();
    cluster.add_partitions("t", 2);
    cluster.write("t", 1, &["a"]);
    assert_eq!(read(&mut consumer, 1).await, [(1, 0, "a".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_was_made_again_with_fewer_partitions_is_told_as_deleted() {
    let cluster = Cluster::with_topic("t", 3);
    let client = cluster.client(7);
    soon(client.admin().describe_topic("t")).await.unwrap();
    // What the client knows is the first one.
    cluster.create("t", 1, 2);
    let mut consumer = client.consumer(ConsumerConfig::default());
    let told = soon(consumer.assign("t", Partitions::All, Start::Beginning)).await;
    assert!(matches!(told, Err(ConsumeError::TopicDeleted { .. })), "{told:?}");
    assert!(consumer.assigned().is_empty(), "on an error nothing is changed");
}

#[tokio::test(start_paused = true)]
async fn damaged_batches_are_not_handed_out() {
    let cluster = Cluster::with_topic("t", 1);
    fill(&cluster, 0, 0..9).await;
    {
        let mut state = cluster.state();
        let batch: &mut Bytes = &mut state.topics.get_mut("t").unwrap().1[0].batches[1].1;
        let mut damaged = BytesMut::from(&batch[..]);
        *damaged.last_mut().unwrap() ^= 1;
        *batch = damaged.freeze();
    }
    let config = ConsumerConfig { fetch_bytes_max: 1, ..ConsumerConfig::default() };
    let mut consumer = cluster.client(7).consumer(config);
    soon(consumer.assign("t", Partitions::All, Start::Beginning)).await.unwrap();
    assert_eq!(read(&mut consumer, 3).await, expected(0..3));
    let error = soon(consumer.next()).await.unwrap_err();
    assert!(matches!(error, ConsumeError::Corrupt { offset: Offset(3), .. }), "{error}");
    assert_eq!(soon(consumer.next()).await.unwrap_err(), ConsumeError::NothingAssigned);
    soon(consumer.seek("t", P0, Start::Offset(Offset(6)))).await.unwrap();
    assert_eq!(read(&mut consumer, 3).await, expected(6..9));
}

/// What comes before the damage is handed out, whatever the damage is and wherever the fetches end.
#[tokio::test(start_paused = true)]
async fn good_batches_before_a_damaged_one_are_handed_out() {
    type Damage = fn(&mut BytesMut);
    let damages: [(&str, Damage); 5] = [
        ("a byte of a record", |batch| *batch.last_mut().unwrap() ^= 1),
        ("the magic", |batch| batch[16] = 1),
        ("a length beyond the end", |batch| batch[8] = 0x7f),
        ("a length below a head", |batch| batch[8..12].fill(0)),
        ("the count", |batch| batch[60] ^= 1),
    ];
    for (what, damage) in damages {
        for (at, fetch_bytes_max) in [(1, 1), (1, 1 << 20), (2, 1 << 20), (0, 1 << 20)] {
            let cluster = Cluster::with_topic("t", 1);
            fill(&cluster, 0, 0..9).await;
            {
                let mut state = cluster.state();
                let batch: &mut Bytes = &mut state.topics.get_mut("t").unwrap().1[0].batches[at].1;
                let mut damaged = BytesMut::from(&batch[..]);
                damage(&mut damaged);
                *batch = damaged.freeze();
            }
            let config = ConsumerConfig { fetch_bytes_max, ..ConsumerConfig::default() };
            let mut consumer = cluster.client(7).consumer(config);
            soon(consumer.assign("t", Partitions::All, Start::Beginning)).await.unwrap();
            let good = u64::try_from(at * 3).unwrap();
            assert_eq!(read(&mut consumer, at * 3).await, expected(0..good), "{what} of batch {at}");
            let error = soon(consumer.next()).await.unwrap_err();
            let there = matches!(error, ConsumeError::Corrupt { offset, .. } if offset == Offset(good));
            assert!(there, "{what} of batch {at}: {error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn reads_ahead_within_a_bound() {
    let cluster = Cluster::with_topic("t", 2);
    for partition in 0..2 {
        fill(&cluster, partition, 0..300).await;
    }
    let config =
        ConsumerConfig { prefetch_bytes_max: 1000, fetch_bytes_max: 300, ..ConsumerConfig::default() };
    let mut consumer = cluster.client(7).consumer(config);
    soon(consumer.assign("t", Partitions::All, Start::Beginning)).await.unwrap();
    let mut seen = 0;
    while seen < 600 {
        sleep(2).await;
        let ahead = consumer.buffer.bytes();
        assert!(ahead <= 1000 + 2 * 300, "{ahead}");
        seen += read(&mut consumer, 30).await.len();
    }
    sleep(2000).await;
    assert_eq!(consumer.next().now_or_never().map(|_| ()), None);
    assert_eq!(consumer.buffer.bytes(), 0, "all was given back");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_named() {
    let cluster = Cluster::with_topic("t", 2);
    let mut consumer = cluster.client(7).consumer(ConsumerConfig::default());
    let only = Partitions::Only(vec![PartitionId(2)]);
    let error = soon(consumer.assign("t", only, Start::End)).await.unwrap_err();
    assert_eq!(error.to_string(), "topic t has no partition 2, only 0 to 1");
    let error = soon(consumer.assign("nope", Partitions::All, Start::End)).await.unwrap_err();
    assert_eq!(error.to_string(), "topic nope does not exist");
    assert_eq!(soon(consumer.next()).await.unwrap_err(), ConsumeError::NothingAssigned);
    soon(consumer.assign("t", Partitions::Only(vec![P0]), Start::Beginning)).await.unwrap();
    cluster.state().topics.clear();
    let error = soon(consumer.next()).await.unwrap_err();
    assert!(matches!(error, ConsumeError::TopicDeleted { .. }), "{error}");

    cluster.state().down.extend(1..=3);
    let error = soon(consumer.assign("u", Partitions::All, Start::End)).await.unwrap_err();
    assert!(error.to_string().starts_with("no answer within 10 s: cannot reach any server: n"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn where_too_many_fetches_wait_already_others_ask_now_and_then() {
    let cluster = Cluster::with_topic("t", 1);
    fill(&cluster, 0, 0..3).await;
    let mut consumer = cluster.client(7).consumer(ConsumerConfig::default());
    let topic: TopicName = "t".parse().unwrap();
    let id = soon(consumer.leaders.resolve(&topic)).await.unwrap().id;
    let waits = consumer.leaders.leader(&topic, id, P0).unwrap().waits;
    let taken = waits.try_acquire_many(u32::try_from(WAITING_FETCHES_MAX).unwrap()).unwrap();
    soon(consumer.assign("t", Partitions::All, Start::End)).await.unwrap();
    sleep(10_000).await;
    {
        let state = cluster.state();
        assert!(state.fetches.iter().all(|fetch| fetch.wait_ms == 0));
        let count = state.fetches.len();
        assert!((15..=25).contains(&count), "{count} fetches in 10 s");
    }
    cluster.write("t", 0, &["3", "4", "5"]);
    assert_eq!(read(&mut consumer, 3).await, expected(3..6));
    drop(taken);
    sleep(2_000).await;
    assert_eq!(cluster.state().fetches.last().unwrap().wait_ms, 500);
}

/// However long the others wait.
#[tokio::test(start_paused = true)]
async fn who_has_no_place_to_wait_hears_soon_of_what_comes() {
    let cluster = Cluster::with_topic("t", 1);
    let fetch_wait = Duration::from_secs(3_600);
    let client = cluster.client(7);
    let mut consumer = client.consumer(ConsumerConfig { fetch_wait, ..ConsumerConfig::default() });
    let topic: TopicName = "t".parse().unwrap();
    let id = soon(consumer.leaders.resolve(&topic)).await.unwrap().id;
    let waits = consumer.leaders.leader(&topic, id, P0).unwrap().waits;
    let _taken = waits.try_acquire_many(u32::try_from(WAITING_FETCHES_MAX).unwrap()).unwrap();
    soon(consumer.assign("t", Partitions::All, Start::Beginning)).await.unwrap();
    sleep(5_100).await;
    cluster.write("t", 0, &["0", "1", "2"]);
    let before = client.env().now();
    assert_eq!(read(&mut consumer, 3).await, expected(0..3));
    let took = client.env().now().since(before);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

/// Fetches within ten seconds in which nothing comes.
async fn fetches_in_vain(fetch_bytes_max: usize, fetch_wait_ms_max: Option<u32>) -> usize {
    let cluster = Cluster::with_topic("t", 1);
    cluster.state().fetch_wait_ms_max = fetch_wait_ms_max;
    let config = ConsumerConfig { fetch_bytes_max, ..ConsumerConfig::default() };
    let mut consumer = cluster.client(7).consumer(config);
    soon(consumer.assign("t", Partitions::All, Start::End)).await.unwrap();
    sleep(10_000).await;
    let count = cluster.state().fetches.len();
    cluster.write("t", 0, &["0", "1", "2"]);
    assert_eq!(read(&mut consumer, 3).await, expected(0..3));
    count
}

#[tokio::test(start_paused = true)]
async fn who_has_nothing_to_read_does_not_ask_all_the_time() {
    for (bytes_max, wait_ms_max, most) in
        [(1 << 20, None, 25), (0, None, 25), (1 << 20, Some(0), 250), (1 << 20, Some(480), 25)]
    {
        let count = fetches_in_vain(bytes_max, wait_ms_max).await;
        assert!((15..=most).contains(&count), "{count} fetches of {bytes_max} bytes, {wait_ms_max:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_offset_beyond_all_that_can_be_said_is_out_of_range() {
    let cluster = Cluster::with_topic("t", 1);
    fill(&cluster, 0, 0..3).await;
    for offset in [u64::MAX, 1 << 63, (1 << 63) - 1] {
        let start = Start::Offset(Offset(offset));
        let mut consumer = consumer(&cluster, Partitions::All, start).await;
        for _ in 0..2 {
            let error = soon(consumer.next()).await.unwrap_err();
            let there = matches!(error, ConsumeError::OffsetOutOfRange { high_watermark: Offset(3), .. });
            assert!(there, "{error}");
            soon(consumer.seek("t", P0, start)).await.unwrap();
        }
    }
}

/// Breaks whoever fetches, as a bug would.
struct Breaks;

impl Probe for Breaks {
    fn perturb(&self, point: Point) -> bool {
        assert_ne!(point, Point::FetchTiny, "as a bug would");
        false
    }

    fn reached(&self, _mark: Mark) {}
}

#[tokio::test(start_paused = true)]
async fn a_fetcher_that_breaks_down_is_told_of() {
    let cluster = Cluster::with_topic("t", 1);
    let env = Env { probe: Arc::new(Breaks), ..env(7) };
    let servers = vec!["n1:1".to_owned()];
    let client = Client::new(env, Arc::new(cluster.clone()), servers, ClientConfig::default());
    let mut consumer = client.consumer(ConsumerConfig::default());
    soon(consumer.assign("t", Partitions::All, Start::Beginning)).await.unwrap();
    let error = soon(consumer.next()).await.unwrap_err();
    assert!(matches!(error, ConsumeError::Refused { code: ErrorCode::Internal, .. }), "{error}");
    assert_eq!(soon(consumer.next()).await.unwrap_err(), ConsumeError::NothingAssigned);
}

#[tokio::test(start_paused = true)]
async fn what_a_consumer_cannot_be_set_to_is_taken_as_the_nearest() {
    let cluster = Cluster::with_topic("t", 1);
    fill(&cluster, 0, 0..9).await;
    for (fetch_wait, wait_ms) in [(Duration::ZERO, 1), (Duration::MAX, 86_400_000)] {
        let config = ConsumerConfig { prefetch_bytes_max: 0, fetch_wait, ..ConsumerConfig::default() };
        let mut consumer = cluster.client(7).consumer(config);
        soon(consumer.assign("t", Partitions::All, Start::Beginning)).await.unwrap();
        assert_eq!(read(&mut consumer, 9).await, expected(0..9));
        assert_eq!(cluster.state().fetches.last().unwrap().wait_ms, wait_ms);
    }
    let config = ClientConfig {
        request_timeout: Duration::MAX,
        backoff_min: Duration::ZERO,
        backoff_max: Duration::ZERO,
        ..ClientConfig::default()
    };
    let client = Client::new(env(1), Arc::new(cluster), Vec::new(), config);
    let ms = Duration::from_millis(1);
    assert_eq!((client.config().backoff_min, client.config().backoff_max), (ms, ms));
    assert_eq!(client.config().request_timeout, Duration::from_secs(86_400));
}

#[tokio::test(start_paused = true)]
async fn silent_partitions_share_their_look_ups() {
    let cluster = Cluster::with_topic("t", 10);
    let mut consumer = cluster.client(7).consumer(ConsumerConfig::default());
    for partition in 0..10 {
        let only = Partitions::Only(vec![PartitionId(partition)]);
        soon(consumer.assign("t", only, Start::End)).await.unwrap();
        sleep(250).await;
    }
    let before = cluster.state().metadata_calls;
    sleep(15_000).await;
    let calls = cluster.state().metadata_calls - before;
    // Not one per partition and three seconds, which makes fifty.
    assert!((4..=12).contains(&calls), "{calls} look-ups");
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_for_a_topic_that_is_gone() {
    let cluster = Cluster::with_topic("t", 1);
    let mut consumer = consumer(&cluster, Partitions::All, Start::Beginning).await;
    cluster.state().topics.clear();
    let error = soon(consumer.next()).await.unwrap_err();
    assert!(matches!(error, ConsumeError::TopicDeleted { .. }), "{error}");
    sleep(60_000).await;
    let calls = cluster.state().metadata_calls;
    sleep(60_000).await;
    assert_eq!(cluster.state().metadata_calls, calls);
}
