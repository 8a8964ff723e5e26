//! A store that finds no room for a write ends, and says so; with room again it opens and has all that it acknowledged.
//! Without room it may not open, and then it says what to do, and calls nothing damaged.
#![expect(clippy::unwrap_used, reason = "a test's helper is a test")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quorate_node::storage::{Body, Entry, Head, Kind, Store, StoreConfig};
use quorate_proto::ids::{
    GroupId, LogIndex, NodeId, Offset, ProducerEpoch, ProducerId, Sequence, Term, Timestamp,
};
use quorate_sim::dice::Dice;
use quorate_sim::env::alone;
use quorate_sim::env::disk::SimDisk;

const NODE: NodeId = NodeId(1);
const GROUP: GroupId = GroupId(3);

/// Checksums of what was acknowledged.
type Acked = BTreeMap<LogIndex, u32>;

fn entry(index: LogIndex, dice: &mut Dice) -> Entry {
    let body = Bytes::from(vec![u8::try_from(dice.below(256)).unwrap(); dice.place(3_000)]);
    let head = Head {
        group: GROUP,
        index,
        term: Term(1),
        kind: Kind::Batch,
        base_offset: Offset(index.0),
        records: 1,
        producer_id: ProducerId(1),
        producer_epoch: ProducerEpoch(0),
        sequence: Sequence(0),
        max_timestamp: Timestamp(0),
        appended_at: Timestamp(0),
        body_bytes: u32::try_from(body.len()).unwrap(),
        body_crc: crc32c::crc32c(&body),
    };
    Entry { head, body: Body::Here(body) }
}

async fn holds(store: &Store, acked: &Acked) {
    for (index, crc) in acked {
        let entries = store.log(GROUP).entries(*index..index.next(), 1).await.unwrap();
        assert_eq!(entries.first().map(|entry| entry.head.body_crc), Some(*crc), "{index} was acknowledged");
        entries[0].verify().unwrap();
    }
}

/// Appends one entry after the other until the store has failed, or many times.
async fn work(store: &Store, acked: &Arc<Mutex<Acked>>, dice: &mut Dice) {
    let log = store.log(GROUP);
    for _ in 0..400 {
        let next = log.state().last.map_or(LogIndex(0), |last| last.index.next());
        let new = entry(next, dice);
        let (crc, keep) = (new.head.body_crc, acked.clone());
        let (tell, told) = tokio::sync::oneshot::channel();
        let appended = log.append(
            vec![new],
            Box::new(move |synced| {
                if synced.is_ok() {
                    keep.lock().unwrap().insert(next, crc);
                }
                tell.send(synced.is_ok()).unwrap_or_default();
            }),
        );
        if appended.is_err() || !told.await.unwrap_or(false) {
            return;
        }
    }
}

/// How often a store failed for want of room, or did not open for that, and how often it said what to do.
#[derive(Default)]
struct Sum {
    failed: u32,
    not_opened: u32,
    advised: u32,
}

/// Some lives on a disk that is enlarged now and then.
async fn lives(seed: u64, sum: &mut Sum) {
    let mut dice = Dice::named(seed, "no space");
    let disk = SimDisk::new();
    // Without a reserve, all of the disk is written.
    let config = StoreConfig {
        volume_bytes_max: 32_768 << dice.below(4),
        disk_reserve_bytes: Some(0),
        ..StoreConfig::default()
    };
    let acked = Arc::new(Mutex::new(Acked::new()));
    for life in 0..12 {
        match Store::open(&alone(&disk, seed * 100 + life), config.clone(), NODE).await {
            Ok((store, _)) => {
                let known = acked.lock().unwrap().clone();
                holds(&store, &known).await;
                disk.set_capacity(Some(disk.used() + dice.below(300_000)));
                work(&store, &acked, &mut dice).await;
                let end = store.failed().borrow().clone();
                sum.failed += u32::from(end.is_some());
                let advice = end.as_ref().and_then(|error| error.advice());
                sum.advised += u32::from(advice.is_some_and(|advice| advice.contains("free space")));
            }
            Err(error) => {
                let said = error.to_string();
                assert!(!said.contains("damaged"), "seed {seed}, life {life}: {said}");
                sum.not_opened += 1;
                sum.advised += u32::from(said.contains("free space"));
            }
        }
        disk.kill();
        if dice.chance(600) {
            disk.set_capacity(None);
        }
    }
    disk.set_capacity(None);
    let (store, _) = Store::open(&alone(&disk, seed), config, NODE).await.unwrap_or_else(|error| {
        panic!("seed {seed}: nothing was damaged, and yet the folder does not open: {error}")
    });
    let known = acked.lock().unwrap().clone();
    holds(&store, &known).await;
    store.close().await;
}

#[test]
fn what_was_acknowledged_survives_a_full_disk() {
    let mut sum = Sum::default();
    for seed in 0..40 {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(lives(seed, &mut sum));
    }
    let Sum { failed, not_opened, advised } = sum;
    assert!(failed > 40 && not_opened > 0, "{failed} stores failed, {not_opened} did not open");
    assert!(
        advised * 10 >= (failed + not_opened) * 9,
        "{advised} of {failed} and {not_opened} said what to do"
    );
}
