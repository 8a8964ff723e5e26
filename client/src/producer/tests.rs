//! The producer against a cluster of fakes, on paused time.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use quorate_proto::ErrorCode;
use quorate_proto::batch::{BATCH_BYTES_MAX, BatchBuilder, HEADER_BYTES};
use quorate_proto::v1;

use crate::testing::{Chance, Cluster, Fault, sleep, soon};
use crate::{
    Ack, Compression, Offset, PartitionId, Producer, ProducerConfig, Reason, Record, RecordPlace, SendError,
    SizeLimit,
};

fn quick() -> ProducerConfig {
    ProducerConfig { delivery_timeout: Duration::from_secs(5), ..ProducerConfig::default() }
}

/// Every record gets a batch of its own.
fn one_by_one() -> ProducerConfig {
    ProducerConfig { batch_bytes_max: 100, linger: Duration::ZERO, ..quick() }
}

async fn send(producer: &Producer, values: std::ops::Range<u32>) -> Vec<Ack> {
    let mut acks = Vec::new();
    for value in values {
        let record = Record::new(format!("{value}")).partition(PartitionId(0));
        acks.push(soon(producer.send("t", record)).await.unwrap());
    }
    acks
}

fn offsets(results: &[Result<RecordPlace, SendError>]) -> Vec<u64> {
    results.iter().map(|result| result.as_ref().unwrap().offset.0).collect()
}

fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|value| value.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn records_share_a_batch_and_are_told_their_places() {
    let cluster = Cluster::with_topic("t", 3);
    let producer = cluster.client(1).producer(ProducerConfig { compression: Compression::Zstd, ..quick() });
    let acks = send(&producer, 0..100).await;
    let results = soon(join_all(acks)).await;
    assert_eq!(offsets(&results), (0..100).collect::<Vec<u64>>());
    assert_eq!(cluster.partition("t", 0).values(), numbers(0..100));
    assert_eq!(cluster.state().produces.len(), 1, "all came within linger");
    let last = results[99].as_ref().unwrap();
    assert_eq!((last.partition, last.offset), (PartitionId(0), Offset(99)));
    assert!(last.timestamp.0 >= 1_700_000_000_000);
}

#[tokio::test(start_paused = true)]
async fn flush_does_not_wait_for_linger() {
    let cluster = Cluster::with_topic("t", 1);
    let client = cluster.client(1);
    let producer = client.producer(ProducerConfig { linger: Duration::from_secs(4), ..quick() });
    let acks = send(&producer, 0..3).await;
    let before = client.env().now();
    soon(producer.flush()).await;
    assert!(client.env().now().since(before) < Duration::from_millis(100));
    assert_eq!(offsets(&soon(join_all(acks)).await), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn without_a_key_each_batch_goes_elsewhere() {
    let cluster = Cluster::with_topic("t", 4);
    let producer = cluster.client(1).producer(ProducerConfig { batch_bytes_max: 1000, ..quick() });
    let mut acks = Vec::new();
    for _ in 0..200 {
        acks.push(producer.send("t", Record::new("x".repeat(80))).await.unwrap());
    }
    let partitions: Vec<i32> = acks.iter().map(|ack| ack.partition().0).collect();
    let runs = partitions.chunk_by(|a, b| a == b).map(<[i32]>::len).collect::<Vec<_>>();
    assert!(runs.len() >= 15, "a new partition for each batch: {runs:?}");
    assert!(runs[..runs.len() - 1].iter().all(|run| (5..=12).contains(run)), "until it is full: {runs:?}");
    assert!((0..4).all(|partition| partitions.contains(&partition)), "all get some");
    for result in soon(join_all(acks)).await {
        result.unwrap();
    }
    let first = producer.send("t", Record::new("a")).await.unwrap().partition();
    sleep(100).await;
    let second = producer.send("t", Record::new("b")).await.unwrap().partition();
    assert_ne!(first, second, "the end of linger is the end of a batch too");
}

#[tokio::test(start_paused = true)]
async fn the_same_key_goes_to_kafkas_partition() {
    let cluster = Cluster::with_topic("t", 7);
    let producer = cluster.client(1).producer(quick());
    for _ in 0..3 {
        let ack = producer.send("t", Record::new("v").key("foobar")).await.unwrap();
        assert_eq!(ack.partition(), PartitionId((-790_332_482 & 0x7fff_ffff) % 7));
    }
    let refused = producer.send("t", Record::new("v").partition(PartitionId(7))).await.unwrap_err();
    assert_eq!(refused.to_string(), "not written: topic t has no partition 7, only 0 to 6");
}

#[tokio::test(start_paused = true)]
async fn at_most_five_are_in_flight_and_the_first_is_alone() {
    let cluster = Cluster::with_topic("t", 1);
    let producer = cluster.client(1).producer(one_by_one());
    cluster.faults((0..20).map(|_| Fault::Slow(100)));
    let acks = send(&producer, 0..20).await;
    sleep(50).await;
    assert_eq!(cluster.state().produces.len(), 1, "until a server knows the producer");
    assert_eq!(offsets(&soon(join_all(acks)).await), (0..20).collect::<Vec<u64>>());
    assert_eq!(cluster.state().in_flight_max, 5);
}

#[tokio::test(start_paused = true)]
async fn lost_answers_make_nothing_twice_and_keep_the_order() {
    let cluster = Cluster::with_topic("t", 1);
    let producer = cluster.client(1).producer(one_by_one());
    cluster.faults([Fault::LoseReply, Fault::None, Fault::LoseRequest, Fault::LoseReply, Fault::None]);
    cluster.faults([Fault::None, Fault::DoneUnknown, Fault::Refuse(ErrorCode::Overloaded)]);
    let acks = send(&producer, 0..30).await;
    assert_eq!(offsets(&soon(join_all(acks)).await), (0..30).collect::<Vec<u64>>());
    assert_eq!(cluster.partition("t", 0).values(), numbers(0..30));
}

/// Every kind of trouble at random, and leaders that move: nothing is lost, doubled or reordered.
#[tokio::test(start_paused = true)]
async fn any_trouble_that_ends_leaves_no_trace_but_time() {
    for seed in 0..100 {
        let cluster = Cluster::with_topic("t", 2);
        cluster.state().chance = Some(Chance::new(seed));
        let config = ProducerConfig { delivery_timeout: Duration::from_secs(120), ..one_by_one() };
        let producer = cluster.client(seed).producer(config);
        let mut acks = Vec::new();
        for value in 0..60 {
            let partition = PartitionId(value % 2);
            let record = Record::new(format!("{}", value / 2)).partition(partition);
            acks.push(soon(producer.send("t", record)).await.unwrap());
            if value % 20 == 10 {
                let to = u32::try_from(value).unwrap() / 20 % 3 + 1;
                cluster.move_leader("t", usize::try_from(value % 2).unwrap(), to);
                sleep(5).await;
            }
        }
        for (at, result) in (0..).zip(soon(join_all(acks)).await) {
            let place = result.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            assert_eq!(
                (place.partition.0, place.offset.to_wire()),
                (at % 2, i64::from(at / 2)),
                "seed {seed}"
            );
        }
        for partition in 0..2 {
            assert_eq!(cluster.partition("t", partition).values(), numbers(0..30), "seed {seed}");
        }
    }
}

/// As above, but some are given up: what failed for sure is not there, what is there is there once and in order.
#[tokio::test(start_paused = true)]
async fn errors_say_what_is_so() {
    let mut kinds = [0, 0, 0];
    for seed in 0..150 {
        let cluster = Cluster::with_topic("t", 1);
        cluster.state().chance = Some(Chance::new(seed));
        let config = ProducerConfig { delivery_timeout: Duration::from_millis(60), ..one_by_one() };
        let producer = cluster.client(seed).producer(config);
        let mut acks = Vec::new();
        let chance = Chance::new(seed + 1000);
        for value in 0..60 {
            acks.extend(send(&producer, value..value + 1).await);
            match chance.below(12) {
                0 => cluster.faults([Fault::Hang, Fault::Hang]),
                1 => cluster.faults([Fault::Refuse(ErrorCode::InvalidTimestamp)]),
                2 => cluster.faults((0..9).map(|_| Fault::Refuse(ErrorCode::NotAvailable))),
                _ => sleep(chance.below(20)).await,
            }
        }
        let results = soon(join_all(acks)).await;
        let log: Vec<u32> = cluster.partition("t", 0).values().iter().map(|v| v.parse().unwrap()).collect();
        assert!(log.is_sorted_by(|a, b| a < b), "seed {seed}: in order and once: {log:?}");
        for (value, result) in (0..).zip(results) {
            match result {
                Ok(place) => {
                    let at = usize::try_from(place.offset.0).unwrap();
                    assert_eq!(log.get(at), Some(&value), "seed {seed}");
                    kinds[0] += 1;
                }
                Err(SendError::NotWritten { reason }) => {
                    assert!(!log.contains(&value), "seed {seed}: {value} is there: {reason}");
                    kinds[1] += 1;
                }
                Err(SendError::PerhapsWritten { .. }) => kinds[2] += 1,
            }
        }
    }
    assert!(kinds.iter().all(|kind| *kind > 100), "each of them was seen: {kinds:?}");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_is_waited_for_and_named_at_the_time_out() {
    let cluster = Cluster::with_topic("t", 1);
    let producer = cluster.client(1).producer(quick());
    cluster.faults((0..5).map(|_| Fault::Refuse(ErrorCode::DiskFull)));
    soon(join_all(send(&producer, 0..1).await)).await.pop().unwrap().unwrap();
    cluster.faults((0..100_000).map(|_| Fault::Refuse(ErrorCode::DiskFull)));
    let error = soon(join_all(send(&producer, 1..2).await)).await.pop().unwrap().unwrap_err();
    assert!(!error.is_perhaps_written());
    let text = error.to_string();
    assert_eq!(text, "not written: not acknowledged within 5 s: ERROR_CODE_DISK_FULL");
}

#[tokio::test(start_paused = true)]
async fn what_hangs_on_a_refused_batch_is_told_why_that_was_refused() {
    let cluster = Cluster::with_topic("t", 1);
    let producer = cluster.client(1).producer(one_by_one());
    soon(join_all(send(&producer, 0..1).await)).await.pop().unwrap().unwrap();
    // The first of five is refused; those behind it do not follow then, and their answers come last.
    let five =
        [Fault::Refuse(ErrorCode::DiskFull), Fault::Slow(2), Fault::Slow(2), Fault::Slow(2), Fault::Slow(2)];
    cluster.faults((0..2000).flat_map(|_| five.clone()));
    let acks = send(&producer, 1..6).await;
    for result in soon(join_all(acks)).await {
        let text = result.unwrap_err().to_string();
        assert_eq!(text, "not written: not acknowledged within 5 s: ERROR_CODE_DISK_FULL");
    }
}

/// Each that is given up costs its producer id: what stood in its way stands in the way of the next one too.
#[tokio::test(start_paused = true)]
async fn each_of_many_is_told_of_the_full_disk() {
    let cluster = Cluster::with_topic("t", 1);
    let producer = cluster.client(1).producer(one_by_one());
    soon(join_all(send(&producer, 0..1).await)).await.pop().unwrap().unwrap();
    cluster.faults((0..100_000).map(|_| Fault::Refuse(ErrorCode::DiskFull)));
    let mut acks = Vec::new();
    for value in 1..30 {
        acks.extend(send(&producer, value..value + 1).await);
        sleep(1).await;
    }
    for result in soon(join_all(acks)).await {
        // Some are given up amid an attempt.
        let text = result.unwrap_err().to_string();
        assert!(text.contains("not acknowledged within 5 s: ERROR_CODE_DISK_FULL"), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_does_not_answer_is_named_at_the_time_out() {
    let cluster = Cluster::with_topic("t", 1);
    let producer = cluster.client(1).producer(quick());
    cluster.faults((0..100).map(|_| Fault::Hang));
    let error = soon(join_all(send(&producer, 0..1).await)).await.pop().unwrap().unwrap_err();
    assert!(error.is_perhaps_written());
    let text = error.to_string();
    assert!(text.contains("leads and has not answered: see whether a majority of"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_down_is_named_within_the_time_out() {
    let cluster = Cluster::with_topic("t", 1);
    let client = cluster.client(1);
    let producer = client.producer(quick());
    soon(join_all(send(&producer, 0..1).await)).await.pop().unwrap().unwrap();
    cluster.state().down.extend(1..=3);
    let before = client.env().now();
    let acks = send(&producer, 1..2).await;
    let error = soon(join_all(acks)).await.pop().unwrap().unwrap_err();
    let took = client.env().now().since(before);
    assert!((4900..5100).contains(&took.as_millis()), "{took:?}");
    assert!(!error.is_perhaps_written());
    let text = error.to_string();
    assert!(text.starts_with("not written: not acknowledged within 5 s: cannot reach "), "{text}");
    assert!(text.ends_with("connection refused"), "{text}");

    // A topic that is not known yet.
    let other = cluster.client(2).producer(quick());
    let error = soon(other.send("t", Record::new("x"))).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("cannot reach any server: n1:1: connection refused; n2:1: "), "{text}");
}

#[tokio::test(start_paused = true)]
async fn no_majority_is_perhaps_written_and_nothing_is_invented() {
    let cluster = Cluster::with_topic("t", 1);
    let producer = cluster.client(1).producer(one_by_one());
    soon(join_all(send(&producer, 0..1).await)).await.pop().unwrap().unwrap();
    cluster.faults((0..2000).map(|_| Fault::Refuse(ErrorCode::UnknownOutcome)));
    let acks = send(&producer, 1..4).await;
    for result in soon(join_all(acks)).await {
        assert!(result.unwrap_err().is_perhaps_written());
    }
    cluster.state().produce_faults.clear();
    let again = soon(join_all(send(&producer, 4..6).await)).await;
    assert_eq!(offsets(&again), [1, 2], "under another producer id");
    assert_eq!(cluster.partition("t", 0).values(), ["0", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn a_refused_batch_does_not_hold_up_those_behind_it() {
    let cluster = Cluster::with_topic("t", 1);
    let producer = cluster.client(1).producer(one_by_one());
    soon(join_all(send(&producer, 0..1).await)).await.pop().unwrap().unwrap();
    cluster.faults([Fault::None, Fault::Refuse(ErrorCode::BatchTooLarge)]);
    let mut results = soon(join_all(send(&producer, 1..6).await)).await;
    let refused = results.remove(1).unwrap_err();
    assert!(matches!(
        refused,
        SendError::NotWritten { reason: Reason::Refused { code: ErrorCode::BatchTooLarge, .. } }
    ));
    assert_eq!(offsets(&results), [1, 2, 3, 4]);
    assert_eq!(cluster.partition("t", 0).values(), ["0", "1", "3", "4", "5"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_is_found_by_a_hint_or_by_asking() {
    let cluster = Cluster::with_topic("t", 1);
    let client = cluster.client(1);
    let producer = client.producer(one_by_one());
    soon(join_all(send(&producer, 0..1).await)).await.pop().unwrap().unwrap();
    let lookups = cluster.state().metadata_calls;
    cluster.move_leader("t", 0, 2);
    assert_eq!(offsets(&soon(join_all(send(&producer, 1..4).await)).await), [1, 2, 3]);
    assert_eq!(cluster.state().metadata_calls, lookups, "the old leader said who leads");

    // The leader dies; the other two say so only after a while.
    cluster.state().down.insert(2);
    let before = client.env().now();
    let acks = send(&producer, 4..7).await;
    sleep(300).await;
    cluster.move_leader("t", 0, 3);
    assert_eq!(offsets(&soon(join_all(acks)).await), [4, 5, 6]);
    assert!(client.env().now().since(before) < Duration::from_millis(700));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_hangs_is_left_when_another_leads() {
    let cluster = Cluster::with_topic("t", 1);
    let client = cluster.client(1);
    let producer = client.producer(one_by_one());
    soon(join_all(send(&producer, 0..1).await)).await.pop().unwrap().unwrap();
    // Node 1 still believes that it leads, hangs on to what it gets and says so to whoever asks for metadata.
    let stale = cluster.metadata();
    cluster.state().stale.insert(1, stale);
    cluster.faults([Fault::Hang, Fault::Hang, Fault::Hang]);
    let before = client.env().now();
    let acks = send(&producer, 1..4).await;
    sleep(500).await;
    cluster.move_leader("t", 0, 3);
    assert_eq!(offsets(&soon(join_all(acks)).await), [1, 2, 3]);
    assert!(client.env().now().since(before) < Duration::from_secs(4));
}

#[tokio::test(start_paused = true)]
async fn send_waits_while_memory_is_full() {
    let cluster = Cluster::with_topic("t", 1);
    let config = ProducerConfig {
        batch_bytes_max: 1000,
        record_bytes_max: Some(900),
        memory_bytes_max: 4000,
        linger: Duration::ZERO,
        ..quick()
    };
    let producer = cluster.client(1).producer(config);
    cluster.faults([Fault::Slow(1000)]);
    let mut acks = Vec::new();
    let started = producer.owner.shared.env.now();
    for _ in 0..4 {
        let record = Record::new("x".repeat(850)).partition(PartitionId(0));
        acks.push(soon(producer.send("t", record)).await.unwrap());
    }
    let now = || producer.owner.shared.env.now().since(started);
    assert!(now() < Duration::from_millis(900));
    let record = Record::new("x".repeat(850)).partition(PartitionId(0));
    acks.push(soon(producer.send("t", record)).await.unwrap());
    assert!(now() >= Duration::from_secs(1), "there was room when the first one was answered");
    for result in soon(join_all(acks)).await {
        result.unwrap();
    }
    let large = producer.send("t", Record::new("x".repeat(900))).await.unwrap_err();
    assert_eq!(
        large.to_string(),
        "not written: the record takes 909 bytes, more than 900, which is this producer's record_bytes_max: raise that"
    );

    // What waits for room gives up in time, too.
    cluster.faults((0..1000).map(|_| Fault::Hang));
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(producer.send("t", Record::new("x".repeat(850)).partition(PartitionId(0))));
    }
    let results = soon(join_all(waiting)).await;
    let full = results.iter().filter(|result| result.is_err()).count();
    assert!(full <= 1, "{results:?}");
}

/// The largest value that a record without a key may have in a batch of `message_bytes_max`.
fn largest_value(message_bytes_max: usize) -> usize {
    let encoded = |bytes: usize| BatchBuilder::bytes_of_record_alone(None, Some(&vec![0; bytes]), &[]);
    (0..message_bytes_max).rfind(|bytes| HEADER_BYTES + encoded(*bytes) <= message_bytes_max).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_record_may_be_as_large_as_its_topic_takes() {
    for message_bytes_max in [1_000, BATCH_BYTES_MAX, 5_000_000] {
        let cluster = Cluster::with_topic("t", 1);
        cluster.state().message_bytes_max = Some(message_bytes_max);
        let producer = cluster.client(1).producer(quick());
        let largest = largest_value(message_bytes_max);
        let small = soon(producer.send("t", Record::new("small"))).await.unwrap();
        let large = soon(producer.send("t", Record::new("x".repeat(largest)))).await.unwrap();
        let error = soon(producer.send("t", Record::new("x".repeat(largest + 1)))).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "not written: the record takes {} bytes, more than {}, what max.message.bytes={message_bytes_max} of \
                 topic t leaves for a record: raise that (quorate topic config set)",
                message_bytes_max - HEADER_BYTES + 1,
                message_bytes_max - HEADER_BYTES,
            )
        );
        assert_eq!(offsets(&soon(join_all([small, large])).await), [0, 1]);
        let sent = cluster.state().produces.iter().map(|produce| produce.batch.len()).max();
        assert_eq!(sent, Some(message_bytes_max));
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_was_raised_or_lowered_is_followed() {
    let cluster = Cluster::with_topic("t", 1);
    cluster.state().message_bytes_max = Some(1_000);
    let producer = cluster.client(1).producer(quick());
    let first = soon(producer.send("t", Record::new("small"))).await.unwrap();
    let large = Record::new("x".repeat(3_000));
    soon(producer.send("t", large.clone())).await.unwrap_err();
    // Raised: looked up before the record is refused.
    sleep(200).await;
    cluster.state().message_bytes_max = Some(5_000);
    let second = soon(producer.send("t", large.clone())).await.unwrap();
    assert_eq!(offsets(&soon(join_all([first, second])).await), [0, 1]);

    // Lowered: what was made before is refused, what comes after fits.
    cluster.state().message_bytes_max = Some(500);
    let refused = soon(soon(producer.send("t", large)).await.unwrap()).await.unwrap_err();
    let SendError::NotWritten { reason: Reason::Refused { code, message } } = refused else {
        panic!("{refused}")
    };
    assert_eq!(code, ErrorCode::BatchTooLarge);
    assert!(message.ends_with("raise max.message.bytes of the topic"), "{message}");
    sleep(50).await;
    let mut acks = Vec::new();
    for _ in 0..20 {
        acks.push(soon(producer.send("t", Record::new("x".repeat(100)))).await.unwrap());
    }
    assert_eq!(offsets(&soon(join_all(acks)).await), (2..22).collect::<Vec<_>>());
    let sent = cluster.state().produces.iter().skip(3).map(|produce| produce.batch.len()).max();
    assert!(sent.is_some_and(|bytes| bytes <= 500), "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn partitions_that_are_added_are_sent_to() {
    let cluster = Cluster::with_topic("t", 1);
    let producer = cluster.client(1).producer(one_by_one());
    soon(join_all(send(&producer, 0..1).await)).await.pop().unwrap().unwrap();
    let to = |partition| Record::new("x").partition(PartitionId(partition));
    let error = soon(producer.send("t", to(1))).await.unwrap_err();
    assert_eq!(error.to_string(), "not written: topic t has no partition 1, only 0 to 0");
    sleep(200).await;
    cluster.add_partitions("t", 3);
    // One that is named is looked for at once.
    let place = soon(soon(producer.send("t", to(1))).await.unwrap()).await.unwrap();
    assert_eq!((place.partition, place.offset), (PartitionId(1), Offset(0)));
    let error = soon(producer.send("t", to(3))).await.unwrap_err();
    assert_eq!(error.to_string(), "not written: topic t has no partition 3, only 0 to 2");

    // The others are found in time, and get records with a key and without.
    cluster.add_partitions("t", 7);
    sleep(12_000).await;
    let keyed = producer.send("t", Record::new("v").key("foobar")).await.unwrap();
    assert_eq!(keyed.partition(), PartitionId((-790_332_482 & 0x7fff_ffff) % 7));
    soon(keyed).await.unwrap();
    let mut partitions = BTreeSet::new();
    for _ in 0..100 {
        let place = soon(soon(producer.send("t", Record::new("x"))).await.unwrap()).await.unwrap();
        partitions.insert(place.partition);
    }
    assert_eq!(partitions, (0..7).map(PartitionId).collect::<BTreeSet<_>>());
    // All that was sent is flushed and answered, whichever queue it went to.
    let last = soon(producer.send("t", to(6))).await.unwrap();
    soon(producer.close()).await;
    soon(last).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_sent_says_which_limit_to_raise() {
    let refused = async |message_bytes_max, config: ProducerConfig| {
        let cluster = Cluster::with_topic("t", 1);
        cluster.state().message_bytes_max = message_bytes_max;
        let error =
            soon(cluster.client(1).producer(config).send("t", Record::new(vec![7; 70_000_000]))).await;
        assert!(cluster.state().produces.is_empty());
        let error = error.unwrap_err();
        let SendError::NotWritten { reason: Reason::TooLarge { of, .. } } = error else { panic!("{error}") };
        of
    };
    let topic = SizeLimit::Topic { topic: "t".parse().unwrap(), message_bytes_max: 64 << 20 };
    let roomy = ProducerConfig { memory_bytes_max: 1 << 30, ..quick() };
    let of_memory = ProducerConfig { memory_bytes_max: 200_000, ..quick() };
    let own = ProducerConfig { record_bytes_max: Some(1_000_000), ..quick() };
    let packed = ProducerConfig { compression: Compression::Zstd, ..roomy.clone() };
    assert_eq!(refused(Some(64 << 20), roomy.clone()).await, SizeLimit::Request);
    assert_eq!(refused(Some(60 << 20), of_memory).await, SizeLimit::MemoryBytesMax);
    assert_eq!(refused(Some(60 << 20), own).await, SizeLimit::RecordBytesMax);
    assert_eq!(refused(None, packed).await, SizeLimit::Request);
    let small = SizeLimit::Topic { topic: "t".parse().unwrap(), message_bytes_max: 1_000 };
    assert_eq!(refused(Some(1_000), roomy).await, small);
    assert!(topic.to_string().contains("max.message.bytes=67108864"));
}

#[tokio::test(start_paused = true)]
async fn no_batch_is_larger_than_a_request() {
    let cluster = Cluster::with_topic("t", 1);
    cluster.state().message_bytes_max = Some(64 << 20);
    let config = ProducerConfig { batch_bytes_max: usize::MAX, linger: Duration::from_secs(1), ..quick() };
    let producer = cluster.client(1).producer(config);
    let value = bytes::Bytes::from(vec![7; 1 << 20]);
    let mut acks = Vec::new();
    for _ in 0..65 {
        acks.push(soon(producer.send("t", Record::new(value.clone()))).await.unwrap());
    }
    assert_eq!(offsets(&soon(join_all(acks)).await), (0..65).collect::<Vec<_>>());
    let sent: Vec<usize> = cluster.state().produces.iter().map(|produce| produce.batch.len()).collect();
    assert!(sent.len() == 2 && sent.iter().all(|bytes| bytes + 1_000 < 64 << 20), "{sent:?}");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_fits_once_it_is_compressed_is_sent() {
    let cluster = Cluster::with_topic("t", 1);
    cluster.state().message_bytes_max = Some(10_000);
    let producer = cluster.client(1).producer(ProducerConfig { compression: Compression::Zstd, ..quick() });
    let sent = soon(producer.send("t", Record::new("x".repeat(3_000_000)))).await.unwrap();
    assert_eq!(offsets(&[soon(sent).await]), [0]);
}

#[tokio::test(start_paused = true)]
async fn what_is_unanswered_when_the_producer_goes_fails_as_closed() {
    let cluster = Cluster::with_topic("t", 1);
    let producer = cluster.client(1).producer(one_by_one());
    soon(join_all(send(&producer, 0..1).await)).await.pop().unwrap().unwrap();
    cluster.faults((0..5).map(|_| Fault::Hang));
    let acks = send(&producer, 1..8).await;
    sleep(10).await;
    drop(producer);
    let results = soon(join_all(acks)).await;
    for (at, result) in (0..).zip(results) {
        let error = result.unwrap_err();
        assert_eq!(error.reason(), &Reason::Closed);
        assert_eq!(error.is_perhaps_written(), at < 5, "five were in flight");
    }
}

#[tokio::test(start_paused = true)]
async fn close_ends_all_and_refuses_more() {
    let cluster = Cluster::with_topic("t", 1);
    let producer = cluster.client(1).producer(ProducerConfig { linger: Duration::from_secs(4), ..quick() });
    let acks = send(&producer, 0..3).await;
    soon(producer.close()).await;
    assert_eq!(offsets(&soon(join_all(acks)).await), [0, 1, 2]);
    let refused = producer.send("t", Record::new("x")).await.unwrap_err();
    assert_eq!(refused, SendError::NotWritten { reason: Reason::Closed });
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_say_does_not_keep_others_from_creating_a_topic() {
    for mute in [1, 2, 3] {
        let cluster = Cluster::with_topic("t", 1);
        {
            let mut state = cluster.state();
            state.creates = true;
            state.cannot_say = [(mute, ErrorCode::NotReady)].into();
        }
        let producer =
            cluster.client(1).producer(ProducerConfig { auto_create_topics: true, ..one_by_one() });
        let start = producer.owner.shared.env.now();
        soon(producer.send("new", Record::new("x"))).await.unwrap();
        assert!(producer.topics_made().is_empty(), "node {mute} may have known it");
        let took = producer.owner.shared.env.now().since(start);
        assert!(took < Duration::from_secs(1), "{took:?} while node {mute} cannot say");
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_known_which_topics_were_made() {
    let cluster = Cluster::with_topic("t", 1);
    cluster.state().creates = true;
    let producer = cluster.client(1).producer(one_by_one());
    for topic in ["new", "t", "new"] {
        soon(soon(producer.send(topic, Record::new("x"))).await.unwrap()).await.unwrap();
    }
    let made: Vec<_> = producer.topics_made().iter().map(ToString::to_string).collect();
    assert_eq!(made, ["new"]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_topic_is_told_from_its_namesake() {
    let cluster = Cluster::with_topic("t", 1);
    let producer = cluster.client(1).producer(one_by_one());
    soon(join_all(send(&producer, 0..1).await)).await.pop().unwrap().unwrap();
    cluster.create("t", 1, 2);
    let error = soon(join_all(send(&producer, 1..2).await)).await.pop().unwrap().unwrap_err();
    assert!(matches!(error, SendError::NotWritten { reason: Reason::TopicDeleted { .. } }), "{error}");
    assert_eq!(offsets(&soon(join_all(send(&producer, 2..4).await)).await), [0, 1], "in the new one");
    cluster.state().topics.clear();
    let error = soon(join_all(send(&producer, 4..5).await)).await.pop().unwrap().unwrap_err();
    assert!(matches!(error, SendError::NotWritten { reason: Reason::TopicDeleted { .. } }), "{error}");
    let error = soon(producer.send("t", Record::new("x"))).await.unwrap_err();
    assert_eq!(error.to_string(), "not written: topic t does not exist");
    let error = soon(producer.send("a/b", Record::new("x"))).await.unwrap_err();
    assert!(matches!(error, SendError::NotWritten { reason: Reason::TopicName(_) }));
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_deleted_while_nothing_is_sent_is_forgotten() {
    for another_has_its_name in [false, true] {
        let cluster = Cluster::with_topic("t", 2);
        let producer = cluster.client(1).producer(one_by_one());
        soon(join_all(send(&producer, 0..1).await)).await.pop().unwrap().unwrap();
        let known = || producer.owner.shared.topics.read().unwrap().get("t").cloned();
        let gone = Arc::downgrade(&known().unwrap());
        if another_has_its_name {
            cluster.create("t", 2, 2);
        } else {
            cluster.state().topics.clear();
        }
        sleep(60_000).await;
        assert!(known().is_none(), "another of its name: {another_has_its_name}");
        assert!(gone.upgrade().is_none(), "its worker has ended");
        let calls = cluster.state().metadata_calls;
        sleep(60_000).await;
        assert_eq!(cluster.state().metadata_calls, calls, "nobody asks for it");
        if another_has_its_name {
            assert_eq!(offsets(&soon(join_all(send(&producer, 1..2).await)).await), [0], "in the new one");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_was_there_between_two_denials_is_not_gone() {
    let cluster = Cluster::with_topic("t", 1);
    let producer = cluster.client(1).producer(quick());
    let shared = &producer.owner.shared;
    let deny = |denied: bool| {
        let none = (1..=3).filter(|_| denied).map(|node| (node, v1::MetadataResponse::default()));
        cluster.state().stale = none.collect();
    };
    soon(join_all(send(&producer, 0..1).await)).await[0].clone().unwrap();
    let topic = shared.topic("t").unwrap();
    // What is known of it is looked up every ten seconds.
    sleep(9_500).await;
    deny(true);
    sleep(3_000).await;
    assert_eq!(shared.leaders.known(&topic.name), None);
    deny(false);
    sleep(2_500).await;
    soon(join_all(send(&producer, 1..2).await)).await[0].clone().unwrap();
    sleep(3_000).await;
    deny(true);
    sleep(1_500).await;
    soon(shared.leaders.refresh(&topic.name)).await.unwrap_err();
    sleep(3_500).await;
    assert_eq!(shared.leaders.known(&topic.name), None);
    assert!(shared.topic("t").is_some_and(|now| now.is(&topic)), "it was gone for a moment only, and twice");
    deny(false);
    soon(join_all(send(&producer, 2..3).await)).await[0].clone().unwrap();
    assert_eq!(cluster.partition("t", 0).values(), numbers(0..3));
}

#[tokio::test(start_paused = true)]
async fn what_a_producer_cannot_be_set_to_is_taken_as_the_nearest() {
    let cluster = Cluster::with_topic("t", 1);
    let day = Duration::from_secs(86_400);
    for (number, linger) in (0..).zip([Duration::ZERO, Duration::MAX]) {
        let config = ProducerConfig { delivery_timeout: Duration::MAX, linger, ..quick() };
        let producer = cluster.client(1).producer(config);
        let config = &producer.owner.shared.config;
        assert_eq!((config.delivery_timeout, config.linger), (day, linger.min(day)));
        let acks = send(&producer, number..number + 1).await;
        soon(producer.flush()).await;
        assert_eq!(offsets(&soon(join_all(acks)).await), [u64::from(number)]);
    }
    let none = cluster.client(1).producer(ProducerConfig { delivery_timeout: Duration::ZERO, ..quick() });
    assert_eq!(none.owner.shared.config.delivery_timeout, Duration::from_millis(1));
    // There is hardly time to find its topic.
    let late = soon(async { none.send("t", Record::new("late")).await?.await }).await;
    if let Err(error) = late {
        assert!(matches!(error.reason(), Reason::TimedOut { .. }), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn slow_partitions_share_their_look_ups() {
    let cluster = Cluster::with_topic("t", 10);
    cluster.faults(vec![Fault::Slow(4_500); 10]);
    let producer = cluster.client(1).producer(ProducerConfig::default());
    let mut acks = Vec::new();
    for partition in 0..10 {
        let record = Record::new("slow").partition(PartitionId(partition));
        acks.push(soon(producer.send("t", record)).await.unwrap());
    }
    sleep(100).await;
    let before = cluster.state().metadata_calls;
    sleep(4_000).await;
    let calls = cluster.state().metadata_calls - before;
    // Not one per partition and half a second, which makes eighty.
    assert!((4..=16).contains(&calls), "{calls} look-ups");
    assert!(soon(join_all(acks)).await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn flush_waits_for_all_of_a_topic_that_one_partition_has_found_gone() {
    let cluster = Cluster::with_topic("t", 2);
    let producer = cluster.client(1).producer(one_by_one());
    let to = |partition| Record::new("x").partition(PartitionId(partition));
    for partition in 0..2 {
        soon(soon(producer.send("t", to(partition))).await.unwrap()).await.unwrap();
    }
    cluster.faults([Fault::Slow(1_000)]);
    let slow = soon(producer.send("t", to(1))).await.unwrap();
    sleep(50).await;
    cluster.create("t", 2, 2);
    let error = soon(soon(producer.send("t", to(0))).await.unwrap()).await.unwrap_err();
    assert!(matches!(error.reason(), Reason::TopicDeleted { .. }), "{error}");
    let forgotten = || producer.owner.shared.forgotten().len();
    assert_eq!(forgotten(), 1, "one batch is under way still");
    soon(producer.flush()).await;
    slow.now_or_never().expect("it has ended").unwrap();
    assert_eq!(forgotten(), 0);
}

#[tokio::test(start_paused = true)]
async fn after_a_long_pause_the_first_batch_is_alone_again() {
    let cluster = Cluster::with_topic("t", 1);
    let producer = cluster.client(1).producer(one_by_one());
    soon(join_all(send(&producer, 0..1).await)).await.pop().unwrap().unwrap();
    for (pause_ms, at_once) in [(60_000, 5), (2 * 60 * 60 * 1000, 1)] {
        sleep(pause_ms).await;
        cluster.faults((0..10).map(|_| Fault::Slow(100)));
        let before = cluster.state().produces.len();
        let acks = send(&producer, 0..10).await;
        sleep(50).await;
        assert_eq!(cluster.state().produces.len() - before, at_once, "after {pause_ms} ms");
        for result in soon(join_all(acks)).await {
            result.unwrap();
        }
    }
}
