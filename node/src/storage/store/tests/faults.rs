//! What a disk refuses or fails at, and what a store makes of it.

use std::path::Path;

use futures_util::future::BoxFuture;

use super::*;
use crate::env::gate::{Gate as DiskGate, GatedDisk};
use crate::storage::committer::OVERFULL;
use crate::storage::compact::{Compactor, Copying, NotCopied, Outcome, begin, copy_some, live_in};
use crate::storage::keeper::discard;
use crate::storage::volume::{Owner, STREAM, Volume, VolumeNumber, create_database};

fn gated(folder: &Path) -> (Env, DiskGate) {
    let gate = DiskGate::default();
    let env = Env {
        base: quorate_proto::env::os(),
        disk: Arc::new(GatedDisk { disk: OsDisk::open(folder).unwrap(), gate: gate.clone() }),
        transport: Arc::new(NoTransport),
        pool: Arc::new(OsPool),
        metrics: crate::env::Metrics::default(),
    };
    (env, gate)
}

/// Waits until the keeper has nothing to do.
async fn settled(store: &Store) {
    let (deadline, mut idle) = (disk_deadline(), 0);
    while idle < 3 {
        assert!(std::time::Instant::now() < deadline, "the keeper never rests");
        tokio::time::sleep(Duration::from_millis(20)).await;
        let state = store.0.shared.state();
        let looks = state.look_for_dead || state.look_for_sparse;
        let is_idle = state.sealing.is_none() && state.spare.is_some() && !looks;
        idle = if is_idle { idle + 1 } else { 0 };
    }
}

/// A store with so many entries of so many bytes in volumes that the keeper does not rewrite.
async fn several_full(folder: &Path, count: u8, bytes: usize, volume_bytes_max: u64) -> (Store, DiskGate) {
    let (env, gate) = gated(folder);
    let config = StoreConfig { rewrite_below_percent: 0, volume_bytes_max, ..small() };
    let store = Store::open(&env, config, NODE).await.unwrap().0;
    let log = store.log(GROUP);
    for index in 0..count {
        append(&log, vec![entry(GROUP, 1, index.into(), &vec![index; bytes])]).await.unwrap().unwrap();
    }
    settled(&store).await;
    (store, gate)
}

/// Begins to rewrite the first two volumes; `None` for want of a file.
fn begun(store: &Store) -> Option<Copying> {
    let shared = &store.0.shared;
    let live = live_in(&shared.state());
    let chosen = live.keys().copied().take(2).collect::<Vec<_>>();
    assert_eq!(chosen.len(), 2);
    begin(shared, &live, &chosen).unwrap()
}

/// Steps until there was something to do.
async fn step(compactor: &mut Compactor, store: &Store) -> Outcome {
    let deadline = disk_deadline();
    loop {
        match compactor.step(&store.0.shared).await {
            Outcome::NothingToDo => assert!(std::time::Instant::now() < deadline, "nothing to do"),
            done @ (Outcome::Did | Outcome::Failed) => return done,
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn temporary_files(store: &Store) -> usize {
    let names = store.0.shared.disk.list().unwrap();
    names.iter().filter(|name| name.as_str().ends_with(".tmp")).count()
}

#[tokio::test]
async fn a_failed_write_of_a_rewriting_is_raised_where_it_happens() {
    let folder = tempfile::tempdir().unwrap();
    let (store, gate) = several_full(folder.path(), 30, 2_000, 20_000).await;
    let mut copying = begun(&store).unwrap();
    gate.fail_writes(Some(("volume", ".tmp", 5)));
    let failed = copy_some(&store.0.shared, &mut copying);
    assert!(matches!(failed, Err(NotCopied::Failed)));
    assert!(store.failed().borrow().is_some(), "a commit that ends now must know of it");
    drop(copying);
    store.close().await;
}

#[tokio::test]
async fn what_a_repair_took_from_a_rewriting_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    // Three to a volume, of which a piece takes two.
    let (store, _gate) = several_full(folder.path(), 8, 2 << 20, 5 << 20).await;
    let mut copying = begun(&store).unwrap();
    assert!(copy_some(&store.0.shared, &mut copying).is_ok_and(|bytes| bytes > 4 << 20));
    store.log(GROUP).repair(vec![entry(GROUP, 1, 3, &vec![3; 2 << 20])]).await.unwrap();
    let parted = copy_some(&store.0.shared, &mut copying);
    assert!(matches!(parted, Err(NotCopied::Parted(GROUP))));
    drop(copying);
    store.close().await;
}

#[tokio::test]
async fn a_hole_that_was_damaged_and_repaired_does_not_make_a_volume_unreadable() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _gate) = several_full(folder.path(), 30, 2_000, 20_000).await;
    let (number, hole) = {
        let live = live_in(&store.0.shared.state());
        let (number, ranges) = live.iter().nth(1).unwrap();
        (*number, ranges[0].1.start.next())
    };
    let mut copying = begun(&store).unwrap();
    let file = folder.path().join(number.file().as_str());
    let mut bytes = std::fs::read(&file).unwrap();
    let body = u8::try_from(hole.0).unwrap();
    // Also where it lay before, in pages that redb has let go of.
    bytes.chunks_mut(256).filter(|part| part.iter().all(|byte| *byte == body)).for_each(|part| part[0] ^= 1);
    std::fs::write(&file, bytes).unwrap();
    store.log(GROUP).repair(vec![entry(GROUP, 1, hole.0, &[body; 2_000])]).await.unwrap();
    let parted = copy_some(&store.0.shared, &mut copying);
    assert!(matches!(parted, Err(NotCopied::Parted(GROUP))));
    drop(copying);
    store.close().await;
}

#[tokio::test]
async fn without_a_file_nothing_is_measured_or_rewritten_and_nothing_is_given_up_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let (store, gate) = several_full(folder.path(), 8, 2 << 20, 5 << 20).await;
    let shared = &store.0.shared;

    let mut compactor = Compactor::default();
    shared.state().look_for_sparse = true;
    gate.refuse_openings(1);
    assert_eq!(compactor.step(shared).await, Outcome::NothingToDo);
    assert_eq!((compactor.known(), gate.refuses()), (Vec::new(), 0));
    assert!(shared.state().look_for_sparse, "it is looked at again");
    compactor.hurry();
    assert_eq!(compactor.step(shared).await, Outcome::Did);
    assert_eq!(compactor.known().len(), 1);

    gate.refuse_openings(1);
    assert!(begun(&store).is_none());
    assert_eq!((gate.refuses(), temporary_files(&store)), (0, 0));

    let mut compactor = Compactor::copying(begun(&store).unwrap());
    assert_eq!(step(&mut compactor, &store).await, Outcome::Did);
    // Of the second source, which is about to be opened.
    gate.refuse_openings(1);
    shared.state().look_for_sparse = false;
    assert_eq!(step(&mut compactor, &store).await, Outcome::Did);
    assert_eq!((compactor.known(), gate.refuses(), temporary_files(&store)), (Vec::new(), 0, 0));
    assert!(shared.state().look_for_sparse, "it may be chosen again");
    let sealed = shared.state().sealed.values().cloned().collect::<Vec<_>>();
    assert!(sealed.iter().all(|volume| !volume.is_open()), "nobody reads them");
    assert!(store.failed().borrow().is_none());
    store.close().await;
}

#[tokio::test]
async fn a_rewriting_is_ended_later_without_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (store, gate) = several_full(folder.path(), 30, 2_000, 20_000).await;
    let mut compactor = Compactor::copying(begun(&store).unwrap());
    assert_eq!(step(&mut compactor, &store).await, Outcome::Did);
    gate.refuse_openings(1);
    let deadline = disk_deadline();
    while gate.refuses() > 0 {
        assert!(std::time::Instant::now() < deadline, "nothing was to be opened");
        assert_eq!(compactor.step(&store.0.shared).await, Outcome::NothingToDo);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(store.failed().borrow().is_none());
    compactor.hurry();
    assert_eq!(step(&mut compactor, &store).await, Outcome::Did);
    assert_eq!(step(&mut compactor, &store).await, Outcome::Did, "it has taken over");
    assert_eq!(all(&store.log(GROUP)).await.len(), 30);
    store.close().await;
    drop(store);
    let store = Store::open(&env(folder.path()), small(), NODE).await.unwrap().0;
    assert_eq!(all(&store.log(GROUP)).await.len(), 30);
    store.close().await;
}

#[tokio::test]
async fn a_store_without_a_file_writes_on_into_the_full_volume() {
    let folder = tempfile::tempdir().unwrap();
    let (env, gate) = gated(folder.path());
    let store = Store::open(&env, small(), NODE).await.unwrap().0;
    drop(env);
    let log = store.log(GROUP);
    let write = async |indexes: std::ops::Range<u64>| {
        for index in indexes {
            append(&log, vec![entry(GROUP, 1, index, &[1; 2_000])]).await.unwrap().unwrap();
        }
    };
    prepared(&store).await;
    gate.refuse_openings(u32::MAX);
    let answered = tokio::time::timeout(Duration::from_secs(30), write(0..60)).await;
    assert!(answered.is_ok(), "what is appended meanwhile is answered");
    assert!(store.failed().borrow().is_none());
    let volumes = || store.0.shared.state().sealed.len();
    assert_eq!(volumes(), 0, "a full volume cannot be sealed meanwhile");
    gate.refuse_openings(0);
    settled(&store).await;
    write(60..100).await;
    settled(&store).await;
    assert!(volumes() > 2, "{}", volumes());
    assert_eq!(all(&log).await.len(), 100);
    store.close().await;
    drop((store, log));
    let (store, report) = Store::open(&super::env(folder.path()), small(), NODE).await.unwrap();
    assert_eq!((report.damaged_entries, report.groups_behind), (0, 0));
    assert_eq!(all(&store.log(GROUP)).await.len(), 100);
    store.close().await;
}

#[tokio::test]
async fn a_volume_does_not_grow_without_bound_for_want_of_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (env, gate) = gated(folder.path());
    let store = Store::open(&env, small(), NODE).await.unwrap().0;
    let log = store.log(GROUP);
    prepared(&store).await;
    gate.refuse_openings(u32::MAX);
    let answers: Vec<_> =
        (0..200).map(|index| append(&log, vec![entry(GROUP, 1, index, &[1; 2_000])])).collect();
    let bytes = || store.0.shared.state().active.tail.bytes;
    let bytes_max = OVERFULL * small().volume_bytes_max;
    let deadline = disk_deadline();
    while bytes() < bytes_max {
        assert!(std::time::Instant::now() < deadline, "{} of {bytes_max}", bytes());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(bytes() < bytes_max + small().volume_bytes_max, "{} of {bytes_max}", bytes());
    assert!(store.failed().borrow().is_none());
    gate.refuse_openings(0);
    for answer in answers {
        answer.await.unwrap().unwrap();
    }
    settled(&store).await;
    assert_eq!(all(&log).await.len(), 200);
    store.close().await;
}

#[tokio::test]
async fn what_cannot_be_opened_for_want_of_a_file_is_looked_at_once_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, gate) = several_full(folder.path(), 30, 2_000, 20_000).await;
    let (shared, log) = (&store.0.shared, store.log(GROUP));
    let first = LogIndex(0);
    gate.refuse_openings(1);
    assert_eq!(shared.scrub_some(GROUP, first, u64::MAX), Some((first, 0)));
    assert_eq!(gate.refuses(), 0);
    let (reached, bytes) = shared.scrub_some(GROUP, first, u64::MAX).unwrap();
    assert!(reached.0 > 4 && bytes > 8_000, "several lie in a volume: {reached}, {bytes}");

    // Let go of what the scrubber has opened.
    for volume in shared.state().sealed.values() {
        volume.close().unwrap();
    }
    gate.refuse_openings(100);
    let read = log.heads(first..reached, usize::MAX).await;
    assert!(read.is_err_and(|error| error.is_out_of_files()));
    let tried = 100 - gate.refuses();
    assert!(u64::from(tried) < reached.0, "not each entry is looked at: {tried} of {reached}");
    gate.refuse_openings(0);
    assert!(log.damage().is_none());
    assert_eq!(all(&log).await.len(), 30);
    store.close().await;
}

#[tokio::test]
async fn a_file_that_could_not_be_looked_at_is_not_removed_as_ours() {
    let folder = tempfile::tempdir().unwrap();
    let (env, gate) = gated(folder.path());
    let owner = |node: u8| Owner { node: NodeId(node.into()), identity: Identity::from_random([node; 16]) };
    let volume = Volume::create(&env.disk, owner(2), VolumeNumber(7), 1 << 16).unwrap();
    volume.close().unwrap();
    let discarded = || discard(&env.disk, owner(1), &volume, true);
    gate.refuse_openings(1);
    assert!(discarded().is_err_and(|error| error.is_out_of_files()));
    assert_eq!(env.disk.list().unwrap(), [volume.file().clone()]);
    discarded().unwrap();
    assert_eq!(env.disk.list().unwrap(), [FileName::new(format!("foreign-{}", volume.file()))]);
}

/// redb says nothing of what fails when it lets a file go.
#[tokio::test]
async fn a_write_that_redb_keeps_to_itself_makes_the_next_one_unknown() {
    let folder = tempfile::tempdir().unwrap();
    let (env, gate) = gated(folder.path());
    let store = Store::open(&env, small(), NODE).await.unwrap().0;
    let log = store.log(GROUP);
    append(&log, vec![entry(GROUP, 1, 0, b"a")]).await.unwrap().unwrap();
    settled(&store).await;
    let let_go = create_database(&store.0.shared.disk, &FileName::new("aside.tmp"), 1 << 16).unwrap();
    let write = let_go.begin_write().unwrap();
    drop(write.open_table(STREAM).unwrap());
    write.commit().unwrap();
    // No space left on the device.
    gate.fail_writes(Some(("aside", ".tmp", 28)));
    drop(let_go);
    assert!(gate.failed_writes() > 0);
    assert!(store.failed().borrow().is_none(), "nobody has heard of it");
    let unknown = append(&log, vec![entry(GROUP, 1, 1, b"b")]).await.unwrap().unwrap_err();
    assert!(matches!(unknown, StoreError::Unknown(_)), "{unknown}");
    assert!(unknown.advice().is_some_and(|advice| advice.contains("free space")), "{unknown}");
    store.close().await;
    assert!(folder.path().join("failed").exists());
}

#[tokio::test]
async fn what_ends_after_another_write_has_failed_is_unknown() {
    for is_fact in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (env, gate) = gated(folder.path());
        let store = Store::open(&env, small(), NODE).await.unwrap().0;
        let log = store.log(GROUP);
        append(&log, vec![entry(GROUP, 1, 0, b"a")]).await.unwrap().unwrap();
        settled(&store).await;
        gate.close();
        let mut written: BoxFuture<'_, Result<(), StoreError>> = match is_fact {
            true => Box::pin(store.facts().remember_peer(NodeId(2), Identity::from_random([2; 16]))),
            false => {
                Box::pin(log.save_checkpoint(CheckpointKind::Base, id(1, 0), Bytes::from_static(b"state")))
            }
        };
        while gate.waiting() == 0 {
            assert!((&mut written).now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        let cause = DiskError::new("write to", &FileName::new("volume"), "somebody else's");
        store.0.shared.failure.raise(&cause);
        gate.open();
        let written = written.await;
        assert!(matches!(written, Err(StoreError::Unknown(_))), "{written:?}");
        store.close().await;
    }
}

#[tokio::test]
async fn a_checkpoint_waits_for_its_turn_before_it_takes_a_thread() {
    let folder = tempfile::tempdir().unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let env = Env { pool: Arc::new(Breaking(Arc::clone(&broken))), ..env(folder.path()) };
    let store = Store::open(&env, small(), NODE).await.unwrap().0;
    let log = store.log(GROUP);
    append(&log, vec![entry(GROUP, 1, 0, b"a")]).await.unwrap().unwrap();
    settled(&store).await;
    let turn = store.0.shared.checkpointing.clone().lock_owned().await;
    broken.store(true, Ordering::Relaxed);
    let mut saved =
        Box::pin(log.save_checkpoint(CheckpointKind::Base, id(1, 0), Bytes::from_static(b"state")));
    for _ in 0..50 {
        assert!((&mut saved).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    broken.store(false, Ordering::Relaxed);
    drop(turn);
    saved.await.unwrap();
    assert_eq!(log.checkpoint_at(CheckpointKind::Base), Some(id(1, 0)));
    store.close().await;
}

/// Whoever starts a node alone may have admitted others since.
#[tokio::test]
async fn peers_that_the_disk_knows_of_may_hold_what_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _gate) = several_full(folder.path(), 30, 2_000, 20_000).await;
    store.close().await;
    drop(store);
    let alone = StoreConfig { copies_elsewhere: false, ..small() };
    let damaged = copy_of(folder.path());
    let lost = |folder: &Path| std::fs::remove_file(folder.join("volume-00000001.redb")).unwrap();
    lost(damaged.path());
    let refused = Store::open(&env(damaged.path()), alone.clone(), NODE).await.map(drop).unwrap_err();
    assert!(matches!(refused, OpenError::Corrupt { .. }), "{refused}");

    let store = Store::open(&env(folder.path()), alone.clone(), NODE).await.unwrap().0;
    store.facts().remember_peer(NodeId(2), Identity::from_random([2; 16])).await.unwrap();
    store.close().await;
    drop(store);
    lost(folder.path());
    let (store, report) = Store::open(&env(folder.path()), alone, NODE).await.unwrap();
    assert_eq!(report.volumes_lost, 1);
    assert!(store.log(GROUP).damage().holds(LogIndex(0)));
    store.close().await;
}
