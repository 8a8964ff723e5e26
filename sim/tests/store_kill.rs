//! A killed process leaves its unsynced writes in the page cache, where the next one sees them. If that one took them
//! for durable, a later power cut would take back what it acknowledged: so what a store shows once it is open must
//! survive every power cut after.
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
use quorate_sim::env::disk::{DirtyPages, SimDisk};

const NODE: NodeId = NodeId(1);
const GROUP: GroupId = GroupId(3);

type Seen = BTreeMap<LogIndex, (Term, u32)>;

fn entry(index: LogIndex, term: Term, dice: &mut Dice) -> Entry {
    let body = Bytes::from(vec![u8::try_from(dice.below(256)).unwrap(); dice.place(3_000)]);
    let head = Head {
        group: GROUP,
        index,
        term,
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

/// What the store shows.
async fn shown(store: &Store) -> Seen {
    let log = store.log(GROUP);
    let Some(last) = log.state().last else { return Seen::new() };
    let mut seen = Seen::new();
    let mut next = LogIndex(0);
    while next <= last.index {
        let entries = log.entries(next..last.index.next(), 100_000).await.unwrap();
        for entry in &entries {
            entry.verify().unwrap();
            seen.insert(entry.head.index, (entry.head.term, entry.head.body_crc));
        }
        next = entries.last().unwrap().head.index.next();
    }
    seen
}

/// Appends and truncates until the power goes. `kept` is what must survive, `made` all that was ever appended.
async fn work(
    store: &Store,
    kept: &Arc<Mutex<Seen>>,
    made: &mut Vec<(LogIndex, Term, u32)>,
    dice: &mut Dice,
) {
    let log = store.log(GROUP);
    let mut term = Term(log.state().last.map_or(1, |last| last.term.0 + 1));
    for _ in 0..1_000 {
        let last = log.state().last;
        if let Some(last) = last.filter(|_| dice.chance(50)) {
            let from = LogIndex(dice.below(last.index.0 + 1));
            term = Term(term.0 + 1);
            let truncated = log.truncate_suffix(from).await;
            // After a failure either may stand there.
            kept.lock().unwrap().split_off(&from);
            if truncated.is_err() {
                return;
            }
            continue;
        }
        let first = last.map_or(LogIndex(0), |last| last.index.next());
        let mut entries = Vec::new();
        for ahead in 0..dice.between(1, 4) {
            entries.push(entry(LogIndex(first.0 + ahead), term, dice));
        }
        let heads = entries.iter().map(|entry| entry.head).collect::<Vec<_>>();
        made.extend(heads.iter().map(|head| (head.index, head.term, head.body_crc)));
        let (tell, told) = tokio::sync::oneshot::channel();
        let keep = kept.clone();
        let appended = log.append(
            entries,
            Box::new(move |synced| {
                if synced.is_ok() {
                    keep.lock()
                        .unwrap()
                        .extend(heads.iter().map(|head| (head.index, (head.term, head.body_crc))));
                }
                tell.send(()).unwrap_or_default();
            }),
        );
        if appended.is_err() {
            return;
        }
        if dice.chance(700) && told.await.is_err() {
            return;
        }
        if store.failed().borrow().is_some() {
            return;
        }
    }
}

async fn lives(seed: u64) {
    let mut dice = Dice::named(seed, "store kill");
    let disk = SimDisk::new();
    let config = StoreConfig { volume_bytes_max: 32_768 << dice.below(4), ..StoreConfig::default() };
    let kept = Arc::new(Mutex::new(Seen::new()));
    let mut made = Vec::new();
    for life in 0..12 {
        let ahead = if dice.chance(400) { dice.between(1, 40) } else { dice.between(40, 400) };
        disk.cut_power_at(disk.operations() + ahead);
        if dice.chance(300) {
            let pages = if dice.chance(500) { DirtyPages::Dropped } else { DirtyPages::Kept };
            disk.fail_sync_after(dice.below(ahead / 4 + 1), pages);
        }
        let env = alone(&disk, seed * 100 + life);
        if let Ok((store, _)) = Store::open(&env, config.clone(), NODE).await {
            let seen = shown(&store).await;
            for (index, what) in kept.lock().unwrap().iter() {
                assert_eq!(seen.get(index), Some(what), "seed {seed}, life {life}: {index} was acknowledged");
            }
            for (index, (term, crc)) in &seen {
                assert!(
                    made.contains(&(*index, *term, *crc)),
                    "seed {seed}, life {life}: {index} was invented"
                );
            }
            // A store that is open shows only what is durable.
            *kept.lock().unwrap() = seen;
            work(&store, &kept, &mut made, &mut dice).await;
        }
        disk.cut_power();
        if dice.chance(500) {
            disk.kill();
        } else {
            disk.crash(&mut dice);
        }
        disk.spare();
    }
    let (store, _) = Store::open(&alone(&disk, seed), config, NODE).await.unwrap_or_else(|error| {
        panic!("seed {seed}: nothing was damaged, and yet the folder does not open: {error}")
    });
    let seen = shown(&store).await;
    for (index, what) in kept.lock().unwrap().iter() {
        assert_eq!(seen.get(index), Some(what), "seed {seed}, at the end: {index} was acknowledged");
    }
}

/// Seed 26 once lost an acknowledged entry: two starts in a row were cut off while they wrote anew what was in doubt,
/// a volume made ahead stayed listed below the active one, and the next roll went into it.
///
/// Others found a folder that did not open any more: a sync had failed and its pages were dropped, the process was
/// started again upon a page cache that still showed them, redb mended the file in place and synced that, and then
/// the power went.
#[test]
fn what_an_opened_store_shows_survives_every_later_power_cut() {
    for seed in 0..60 {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(lives(seed));
    }
}
