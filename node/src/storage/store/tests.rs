//! The store on a real folder.
#![expect(clippy::disallowed_methods, reason = "the tests damage real files, which take real time")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use quorate_proto::ids::{ClusterId, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use rand::RngExt;

use super::super::checkpoints::Checkpoint;
use super::super::entry::Kind;
use super::super::facts::Meta;
use super::super::failure::{Failure, marker};
use super::super::roster::{News, Seat};
use super::*;
use crate::env::os::{OsDisk, OsPool};
use crate::env::{Disk, FileName, Pool};

struct NoTransport;

#[async_trait::async_trait]
impl crate::env::Transport for NoTransport {
    fn connect(
        &self,
        _: NodeId,
        _: &str,
        _: crate::env::transport::Lane,
        _: Arc<dyn Fn() -> quorate_proto::v1::Sender + Send + Sync>,
        _: crate::env::transport::LinkWatch,
    ) -> Arc<dyn crate::env::PeerLink> {
        unreachable!("storage knows no peers")
    }

    async fn listen(&self, _: &str, _: Arc<dyn crate::env::PeerHandler>) -> std::io::Result<Task> {
        unreachable!("storage knows no peers")
    }
}

const NODE: NodeId = NodeId(1);
const GROUP: GroupId = GroupId(3);

fn env(path: &std::path::Path) -> Env {
    Env {
        base: quorate_proto::env::os(),
        disk: Arc::new(OsDisk::open(path).unwrap()),
        transport: Arc::new(NoTransport),
        pool: Arc::new(OsPool),
        metrics: crate::env::Metrics::default(),
    }
}

/// Small volumes and little memory, so that each path is walked.
fn small() -> StoreConfig {
    StoreConfig {
        volume_bytes_max: 20_000,
        recent_bytes_max: 3_000,
        volumes_open_max: 2,
        cache_bytes_max: 1 << 16,
        commit_bytes_max: 4_000,
        scrub_seconds: 0,
        copies_elsewhere: true,
        rewrite_below_percent: 50,
        rewrite_bytes_per_s: 1 << 30,
        disk_reserve_bytes: Some(0),
    }
}

fn entry(group: GroupId, term: u64, index: u64, body: &[u8]) -> Entry {
    let head = Head {
        group,
        index: LogIndex(index),
        term: Term(term),
        kind: Kind::Batch,
        base_offset: Offset(index),
        records: 1,
        producer_id: ProducerId(1),
        producer_epoch: ProducerEpoch(0),
        sequence: Sequence(0),
        max_timestamp: Timestamp(0),
        appended_at: Timestamp(0),
        body_bytes: u32::try_from(body.len()).unwrap(),
        body_crc: crc32c::crc32c(body),
    };
    Entry { head, body: Body::Here(Bytes::copy_from_slice(body)) }
}

fn append(log: &Log, entries: Vec<Entry>) -> oneshot::Receiver<Result<(), StoreError>> {
    let (tx, rx) = oneshot::channel();
    log.append(entries, Box::new(move |result| drop(tx.send(result)))).unwrap();
    rx
}

/// Trims as far as a checkpoint reaches that is saved before.
async fn trim(log: &Log, through: LogId) {
    log.save_checkpoint(CheckpointKind::Base, through, Bytes::from_static(b"state")).await.unwrap();
    log.trim_prefix(through).await.unwrap();
}

async fn all(log: &Log) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut next = LogIndex(0);
    loop {
        let more = log.entries(next..LogIndex(u64::MAX), 5_000).await.unwrap();
        let Some(last) = more.last() else { return entries };
        next = last.head.index.next();
        entries.extend(more);
    }
}

fn block_on(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(work);
}

/// Whoever removes a log because of what another one has committed relies on it.
#[tokio::test]
async fn what_is_committed_is_durable_no_later_than_what_follows_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&env(folder.path()), small(), NODE).await.unwrap().0;
    let (log, other) = (store.log(GroupId::METADATA), store.log(GROUP));
    let synced = append(&other, vec![entry(GROUP, 1, 0, b"a")]);
    synced.await.unwrap().unwrap();
    // Neither of them is waited for: a leader goes on before its own sync.
    let first = entry(GroupId::METADATA, 1, 0, b"gone");
    let committed = Some(first.head.log_id());
    append(&log, vec![first]).close();
    log.save_committed(committed);
    store.remove_group(GROUP).await.unwrap();
    store.close().await;
    drop((store, log, other));
    let store = Store::open(&env(folder.path()), small(), NODE).await.unwrap().0;
    assert_eq!(store.groups(), [GroupId::METADATA]);
    assert_eq!(store.log(GroupId::METADATA).state().committed, committed);
}

#[test]
fn entries_are_readable_at_once_and_wrong_ones_are_refused() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let (store, report) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        assert!(report.created);
        let log = store.log(GROUP);
        let done = append(&log, vec![entry(GROUP, 1, 0, b"a"), entry(GROUP, 1, 1, b"b")]);
        assert_eq!(all(&log).await.len(), 2);
        let not_called: fn() -> OnSync = || Box::new(|_| panic!("not called"));
        let gap = log.append(vec![entry(GROUP, 1, 3, b"d")], not_called());
        assert!(matches!(gap, Err(StoreError::Gap { expected: LogIndex(2), .. })));
        let absent = entry(GROUP, 1, 2, b"c").without_body();
        assert!(matches!(
            log.append(vec![absent], not_called()),
            Err(StoreError::Body { corrupt: None, .. })
        ));
        let mut other = entry(GROUP, 1, 2, b"c");
        other.body = Body::Here(Bytes::from_static(b"x"));
        assert!(matches!(
            log.append(vec![other], not_called()),
            Err(StoreError::Body { corrupt: Some(_), .. })
        ));
        done.await.unwrap().unwrap();
        assert_eq!(log.last_durable(), Some(LogId { term: Term(1), index: LogIndex(1) }));
        assert_eq!(store.unsynced_bytes(), 0);
        assert_eq!(store.groups(), [GROUP]);
        store.close().await;
        assert!(matches!(log.append(vec![entry(GROUP, 1, 2, b"c")], not_called()), Err(StoreError::Closed)));
    });
}

/// An entry that is never trimmed keeps its place in front, and little enough is in memory for nothing to leave.
#[tokio::test]
async fn what_is_trimmed_takes_its_place_in_memory_along() {
    let folder = tempfile::tempdir().unwrap();
    let config = StoreConfig { recent_bytes_max: 1 << 30, ..StoreConfig::default() };
    let store = Store::open(&env(folder.path()), config, NODE).await.unwrap().0;
    let (stays, log) = (store.log(GroupId(9)), store.log(GROUP));
    append(&stays, vec![entry(GroupId(9), 1, 0, b"stays")]).await.unwrap().unwrap();
    for round in 0..10 {
        let indexes = round * 1_000..(round + 1) * 1_000;
        let entries = indexes.clone().map(|index| entry(GROUP, 1, index, b"goes")).collect();
        append(&log, entries).await.unwrap().unwrap();
        trim(&log, LogId { term: Term(1), index: LogIndex(indexes.end - 1) }).await;
    }
    append(&log, vec![entry(GROUP, 1, 10_000, b"last")]).await.unwrap().unwrap();
    let places = store.0.shared.state().places_in_memory();
    assert!(places <= 2_100, "{places} places of two entries");
    assert_eq!((all(&stays).await.len(), store.log(GROUP).state().purged.is_some()), (1, true));
    store.close().await;
}

#[test]
fn a_write_that_failed_behind_our_back_is_a_failure_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let env = env(folder.path());
    let failure = Failure::new(&env);
    let watched = failure.watched();
    watched.mark(&marker(), b"while it was opened").unwrap();
    failure.opened();
    assert!(failure.refusal().is_none(), "that was borne");
    watched.mark(&marker(), b"redb made room in its cache").unwrap();
    assert!(matches!(failure.refusal(), Some(StoreError::Failed(_))));
    assert!(matches!(failure.unknown(), Some(StoreError::Unknown(_))), "for good");
    assert!(failure.watch().borrow().is_some(), "the process is told");
}

/// Whoever writes for redb is the first to hear of it, and whoever asked redb for it is not always the next.
#[test]
fn a_write_that_failed_behind_our_back_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let env = env(folder.path());
    let failure = Failure::new(&env);
    let watched = failure.watched();
    // No space left on the device.
    watched.failed(&FileName::new("volume"), &std::io::Error::from_raw_os_error(28));
    watched.mark(&marker(), b"words").unwrap();
    for _ in 0..2 {
        let refusal = failure.refusal().unwrap();
        assert!(matches!(refusal, StoreError::Failed(_)), "{refusal:?}");
        assert!(refusal.to_string().contains("write to volume"), "{refusal}");
        assert!(refusal.advice().is_some_and(|advice| advice.contains("free space")), "{refusal}");
    }
}

#[test]
fn facts_are_kept() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        let identity = store.facts().identity();
        let (cluster, peer) = (ClusterId::from_random([1; 16]), Identity::from_random([2; 16]));
        assert_eq!(store.facts().cluster_id(), None);
        store.facts().set_cluster_id(cluster).await.unwrap();
        store.facts().remember_peer(NodeId(2), peer).await.unwrap();
        store.close().await;
        drop(store);
        let (store, report) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        assert!(!report.created);
        assert_eq!(report.repaired, 0, "a closed store needs no repair");
        assert_eq!(store.facts().identity(), identity);
        assert_eq!(store.facts().cluster_id(), Some(cluster));
        assert_eq!(store.facts().peer(NodeId(2)), Some(peer));
        assert_eq!(store.facts().peer(NodeId(3)), None);
        store.close().await;
    });
}

#[test]
fn what_was_agreed_on_about_members_is_kept() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        let disk = |byte: u8| Identity::from_random([byte; 16]);
        let seat = |admission, peer: &str| Seat { admission, peer: peer.to_owned() };
        let facts = store.facts();
        facts.remember_peer(NodeId(2), disk(2)).await.unwrap();
        facts.remember_peer(NodeId(3), disk(3)).await.unwrap();
        assert_eq!((facts.admission(), facts.as_of(), facts.seat(NodeId(2))), (0, None, Seat::default()));
        let news = News {
            // Node 2 has another disk, node 3 has none any more.
            peers: BTreeMap::from([(NodeId(2), (disk(22), seat(4, "b:2")))]),
            gone: BTreeMap::from([(disk(2), NodeId(2)), (disk(3), NodeId(3))]),
            as_of: Some(LogIndex(70)),
            cluster: Some(ClusterId::from_random([1; 16])),
            admission: Some(3),
        };
        facts.learn(news).await.unwrap();
        facts.learn(News::default()).await.unwrap();
        let check = |facts: &Facts| {
            assert_eq!(facts.peers(), BTreeMap::from([(NodeId(2), disk(22))]));
            assert_eq!((facts.seat(NodeId(2)), facts.seat(NodeId(3))), (seat(4, "b:2"), Seat::default()));
            assert_eq!((facts.gone(disk(3)), facts.gone(disk(22))), (Some(NodeId(3)), None));
            assert_eq!((facts.admission(), facts.as_of()), (3, Some(LogIndex(70))));
            assert_eq!(facts.cluster_id(), Some(ClusterId::from_random([1; 16])));
        };
        check(facts);
        store.close().await;
        drop(store);
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        check(store.facts());
        store.close().await;
    });
}

#[test]
fn a_folder_that_does_not_fit_is_refused_with_a_sentence() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        append(&store.log(GROUP), vec![entry(GROUP, 1, 0, b"a")]).await.unwrap().unwrap();
        store.log(GROUP).save_vote(HardVote { term: Term(1), node: 1, committed: true }).await.unwrap();
        append(&store.log(GROUP), vec![entry(GROUP, 1, 1, b"a")]).await.unwrap().unwrap();
        store.log(GROUP).save_vote(HardVote { term: Term(2), node: 1, committed: true }).await.unwrap();
        store.close().await;
        drop(store);
        let refusal = async |node: NodeId| {
            Store::open(&env(folder.path()), small(), node).await.map(drop).unwrap_err().to_string()
        };
        let meta = folder.path().join("meta.redb");
        let files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
        let good = files.map(|file| (file.clone(), std::fs::read(file).unwrap())).collect::<Vec<_>>();
        assert!(refusal(NodeId(2)).await.contains("belongs to node 1, not to node 2"));

        std::fs::remove_file(&meta).unwrap();
        assert!(refusal(NodeId(2)).await.contains("belongs to node 1, not to node 2"), "its volumes say so");
        for (file, _) in good.iter().filter(|(file, _)| *file != meta) {
            std::fs::write(file, vec![7; 5_000]).unwrap();
        }
        assert!(refusal(NODE).await.contains("but no meta.redb"), "and nothing says whose they are");
        std::fs::write(&meta, b"").unwrap();
        assert!(refusal(NODE).await.contains("is damaged (could not open meta.redb: the file is empty)"));
        for (file, bytes) in good {
            std::fs::write(file, bytes).unwrap();
        }
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        assert_eq!(all(&store.log(GROUP)).await.len(), 2);
        store.close().await;
    });
}

#[test]
fn a_commit_of_nothing_is_none_that_is_missed() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        append(&store.log(GROUP), vec![entry(GROUP, 1, 0, b"a")]).await.unwrap().unwrap();
        append(&store.log(GROUP), Vec::new()).await.unwrap().unwrap();
        store.close().await;
        drop(store);
        let (store, report) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        assert_eq!(report.groups_behind, 0);
        store.close().await;
    });
}

#[test]
fn every_flipped_bit_of_an_entry_is_seen() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        let body = b"an unmistakable body, in the file only once";
        append(&store.log(GROUP), vec![entry(GROUP, 7, 0, body)]).await.unwrap().unwrap();
        store.close().await;
        drop(store);
        let volume = folder.path().join("volume-00000001.redb");
        let good = std::fs::read(&volume).unwrap();
        let head = entry(GROUP, 7, 0, body).head.encode();
        let find = |bytes: &[u8]| good.windows(bytes.len()).position(|window| window == bytes).unwrap();
        for (at, length, at_open) in [(find(&head), head.len(), true), (find(body), body.len(), false)] {
            for byte in (0..length).step_by(5) {
                let mut bad = good.clone();
                bad[at + byte] ^= 1 << (byte % 8);
                let copy = copy_of(folder.path());
                std::fs::write(copy.path().join("volume-00000001.redb"), &bad).unwrap();
                let (store, _) = Store::open(&env(copy.path()), small(), NODE).await.unwrap();
                let log = store.log(GROUP);
                if at_open {
                    // Nothing else tells of the group.
                    assert!(store.may_have_forgotten(GROUP), "byte {byte} of the head");
                } else {
                    let heads = log.heads(LogIndex(0)..LogIndex(1), 1).await.unwrap();
                    assert_eq!(heads.len(), 1);
                    let read = log.bodies(&heads).await;
                    assert!(matches!(read, Err(ReadError::Corrupt(_))), "byte {byte} of the body");
                    assert!(log.damage().bodies.contains(LogIndex(0)), "byte {byte} of the body");
                }
                store.close().await;
            }
        }
    });
}

/// A copy of a folder's files.
fn copy_of(folder: &std::path::Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
    }
    copy
}

#[test]
fn damage_anywhere_is_seen_or_does_no_harm() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        let (log, peer) = (store.log(GROUP), Identity::from_random([9; 16]));
        store.facts().remember_peer(NodeId(2), peer).await.unwrap();
        for index in 0..14 {
            append(&log, vec![entry(GROUP, 1, index, &[7; 2_000])]).await.unwrap().unwrap();
        }
        let (identity, good) = (store.facts().identity(), all(&log).await);
        store.close().await;
        drop((store, log));
        let mut rng =
            proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha);
        for name in ["meta.redb", "volume-00000001.redb", "volume-00000002.redb"] {
            let path = folder.path().join(name);
            let intact = std::fs::read(&path).unwrap();
            let used = intact.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at);
            let used = used.collect::<Vec<_>>();
            for _ in 0..25 {
                let at = used[rng.random_range(0..used.len())];
                let copy = copy_of(folder.path());
                let mut bad = intact.clone();
                bad[at] ^= 1 << rng.random_range(0..8);
                std::fs::write(copy.path().join(name), &bad).unwrap();
                let (store, report) = Store::open(&env(copy.path()), small(), NODE).await.unwrap();
                assert_eq!(store.facts().identity(), identity);
                let known = (!report.meta_rebuilt).then_some(peer);
                assert_eq!(store.facts().peer(NodeId(2)), known, "byte {at} of {name}");
                let log = store.log(GROUP);
                let behind = log.damage().lost.tail || store.may_have_forgotten(GROUP);
                let last = log.state().last.map(|last| last.index);
                assert!(last == Some(LogIndex(13)) || behind, "byte {at} of {name}: {last:?}");
                for expected in &good {
                    let index = expected.head.index;
                    match log.entries(index..index.next(), u64::MAX).await {
                        Ok(found) if found.is_empty() => assert!(behind, "byte {at} of {name}: {index}"),
                        Ok(found) => assert_eq!(found, std::slice::from_ref(expected), "byte {at} of {name}"),
                        Err(ReadError::Corrupt(_) | ReadError::Disk(_)) => {
                            assert!(log.damage().holds(index), "byte {at} of {name}: {index} is not noted");
                        }
                        Err(error @ (ReadError::Missing { .. } | ReadError::Failed(_))) => {
                            panic!("byte {at} of {name}: {error}")
                        }
                    }
                }
                store.close().await;
            }
        }
    });
}

#[test]
fn volumes_without_live_entries_go() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let disk_env = env(folder.path());
        let disk = disk_env.disk.clone();
        let (store, _) = Store::open(&disk_env, small(), NODE).await.unwrap();
        drop(disk_env);
        let log = store.log(GROUP);
        for index in 0..50 {
            append(&log, vec![entry(GROUP, 1, index, &[1; 2_000])]).await.unwrap().unwrap();
        }
        let volumes = |disk: &Arc<dyn Disk>| {
            let names = disk.list().unwrap();
            names.iter().filter(|name: &&FileName| name.as_str().starts_with("volume")).count()
        };
        assert!(volumes(&disk) > 3);
        trim(&log, LogId { term: Term(1), index: LogIndex(49) }).await;
        let deadline = disk_deadline();
        while volumes(&disk) > 2 {
            assert!(std::time::Instant::now() < deadline, "dead volumes were not removed");
            tokio::task::yield_now().await;
        }
        append(&log, vec![entry(GROUP, 1, 50, b"on")]).await.unwrap().unwrap();
        store.close().await;
        drop((store, log, disk));
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        assert_eq!(all(&store.log(GROUP)).await.len(), 1);
        store.close().await;
    });
}

fn disk_deadline() -> std::time::Instant {
    std::time::Instant::now() + std::time::Duration::from_secs(20)
}

/// Panics instead of working, once it is told to.
#[derive(Default)]
struct Breaking(Arc<AtomicBool>);

impl Pool for Breaking {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> futures_util::future::BoxFuture<'static, ()> {
        assert!(!self.0.load(Ordering::Relaxed), "the pool breaks");
        OsPool.run(work)
    }
}

async fn ended(store: &Store, folder: &std::path::Path, words: &str) {
    let failed = store.failed().wait_for(Option::is_some).await.unwrap().clone().unwrap();
    assert!(failed.to_string().contains(words), "{failed}");
    let refused = store.log(GROUP).save_vote(HardVote { term: Term(9), node: 1, committed: false }).await;
    assert!(matches!(refused, Err(StoreError::Failed(_) | StoreError::Unknown(_))), "{refused:?}");
    store.close().await;
    assert!(folder.join("failed").exists(), "the next start writes everything anew");
}

#[tokio::test]
async fn a_panic_in_the_committer_is_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&env(folder.path()), small(), NODE).await.unwrap().0;
    let log = store.log(GROUP);
    let first = append(&log, vec![entry(GROUP, 1, 0, b"a")]);
    log.append(vec![entry(GROUP, 1, 1, b"b")], Box::new(|_| panic!("words"))).unwrap();
    let second = append(&log, vec![entry(GROUP, 1, 2, b"c")]);
    // Of another commit: it is too large for the first one.
    let third = append(&log, vec![entry(GROUP, 1, 3, &[0; 5_000])]);
    first.await.unwrap().unwrap();
    for unknown in [second, third] {
        let answer = unknown.await.unwrap();
        assert!(matches!(answer, Err(StoreError::Unknown(_))), "{answer:?}");
    }
    ended(&store, folder.path(), "words").await;
}

#[tokio::test]
async fn a_panic_in_a_job_is_a_failure() {
    for keeper_first in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let broken = Arc::new(AtomicBool::new(false));
        let env = Env { pool: Arc::new(Breaking(Arc::clone(&broken))), ..env(folder.path()) };
        let store = Store::open(&env, small(), NODE).await.unwrap().0;
        let log = store.log(GROUP);
        if !keeper_first {
            while store.0.shared.state().spare.is_none() {
                tokio::task::yield_now().await;
            }
        }
        broken.store(true, Ordering::Relaxed);
        let unknown = append(&log, vec![entry(GROUP, 1, 0, b"a")]);
        let answer = unknown.await.unwrap();
        assert!(matches!(answer, Err(StoreError::Unknown(_))), "{answer:?}");
        broken.store(false, Ordering::Relaxed);
        ended(&store, folder.path(), "the pool breaks").await;
    }
}

/// Works only while it is open.
#[derive(Clone)]
struct Gate(tokio::sync::watch::Sender<bool>);

impl Pool for Gate {
    fn run(&self, work: Box<dyn FnOnce() + Send>) -> futures_util::future::BoxFuture<'static, ()> {
        let mut open = self.0.subscribe();
        Box::pin(async move {
            open.wait_for(|open| *open).await.unwrap();
            OsPool.run(work).await;
        })
    }
}

async fn prepared(store: &Store) {
    while store.0.shared.state().spare.is_none() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_a_log_tells_is_waited_for_until_it_is_durable() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate(tokio::sync::watch::Sender::new(true));
    let env = Env { pool: Arc::new(gate.clone()), ..env(folder.path()) };
    let store = Store::open(&env, small(), NODE).await.unwrap().0;
    let log = store.log(GROUP);
    log.synced().await.unwrap();
    assert_eq!(store.groups(), [], "asking makes no group");
    append(&log, vec![entry(GROUP, 1, 0, b"a")]).await.unwrap().unwrap();
    log.save_committed(log.state().last);
    assert!(matches!(log.synced().now_or_never(), Some(Ok(()))), "nothing is on its way");
    prepared(&store).await;
    gate.0.send_replace(false);
    append(&log, vec![entry(GROUP, 1, 1, b"b")]).close();
    let mut waiting = Box::pin(log.synced());
    for _ in 0..50 {
        assert!((&mut waiting).now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    gate.0.send_replace(true);
    waiting.await.unwrap();
    assert_eq!(log.last_durable(), log.state().last);
    store.close().await;
    append_refused(&log);
    assert!(log.synced().await.is_ok(), "all of it is there");
}

/// Nothing is taken any more.
fn append_refused(log: &Log) {
    let refused = log.append(vec![entry(GROUP, 1, 2, b"c")], Box::new(|_| {}));
    assert!(matches!(refused, Err(StoreError::Closed)), "{refused:?}");
}

fn id(term: u64, index: u64) -> LogId {
    LogId { term: Term(term), index: LogIndex(index) }
}

#[test]
fn a_log_is_not_trimmed_past_its_base() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        let log = store.log(GROUP);
        let entries = (0..4).map(|index| entry(GROUP, 1, index, b"x")).collect();
        append(&log, entries).await.unwrap().unwrap();
        let refused = log.trim_prefix(id(1, 0)).await;
        assert!(matches!(refused, Err(StoreError::NoCheckpoint { index: LogIndex(0), .. })), "{refused:?}");
        let body = Bytes::from(vec![7; 200_000]);
        for wrong in [id(2, 1), id(1, 4)] {
            let refused = log.save_checkpoint(CheckpointKind::Base, wrong, body.clone()).await;
            assert!(matches!(refused, Err(StoreError::NotHeld { .. })), "{refused:?}");
        }
        log.save_checkpoint(CheckpointKind::Base, id(1, 1), body.clone()).await.unwrap();
        log.save_checkpoint(CheckpointKind::Base, id(1, 0), Bytes::new()).await.unwrap();
        assert_eq!(log.checkpoint_at(CheckpointKind::Base), Some(id(1, 1)), "the newer one stays");
        assert!(matches!(log.trim_prefix(id(1, 2)).await, Err(StoreError::NoCheckpoint { .. })));
        log.trim_prefix(id(1, 1)).await.unwrap();
        store.close().await;
        drop((store, log));
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        let log = store.log(GROUP);
        let found = log.checkpoint(CheckpointKind::Base).await.unwrap();
        assert_eq!(found, Some(Checkpoint { at: id(1, 1), body }));
        assert_eq!(all(&log).await.len(), 2);
        store.remove_group(GROUP).await.unwrap();
        assert_eq!(log.checkpoint_at(CheckpointKind::Base), None);
        assert_eq!(log.checkpoint(CheckpointKind::Base).await.unwrap(), None);
        store.close().await;
    });
}

#[test]
fn a_base_of_a_peer_takes_the_place_of_the_log() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        let log = store.log(GROUP);
        append(&log, vec![entry(GROUP, 1, 0, b"a")]).await.unwrap().unwrap();
        log.install_checkpoint(id(4, 30), Bytes::from_static(b"of a peer")).await.unwrap();
        // As after a crash: the log has not been trimmed.
        store.close().await;
        drop((store, log));
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        let log = store.log(GROUP);
        assert_eq!((log.state().last, log.state().purged), (Some(id(1, 0)), None));
        assert_eq!(log.checkpoint_at(CheckpointKind::Base), Some(id(4, 30)));
        log.trim_prefix(id(4, 30)).await.unwrap();
        append(&log, vec![entry(GROUP, 4, 31, b"b")]).await.unwrap().unwrap();
        store.close().await;
        drop((store, log));
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        assert_eq!(all(&store.log(GROUP)).await, [entry(GROUP, 4, 31, b"b")]);
        store.close().await;
    });
}

#[test]
fn a_volume_with_little_that_is_alive_is_rewritten() {
    block_on(async {
        const SMALL: GroupId = GroupId(4);
        let folder = tempfile::tempdir().unwrap();
        let disk_env = env(folder.path());
        let disk = disk_env.disk.clone();
        let (store, _) = Store::open(&disk_env, small(), NODE).await.unwrap();
        drop(disk_env);
        let (log, other) = (store.log(GROUP), store.log(SMALL));
        for index in 0..60 {
            append(&log, vec![entry(GROUP, 1, index, &[1; 2_000])]).await.unwrap().unwrap();
            append(&other, vec![entry(SMALL, 1, index, &[2; 20])]).await.unwrap().unwrap();
        }
        let volumes = |disk: &Arc<dyn Disk>| {
            disk.list().unwrap().iter().filter(|name| name.as_str().starts_with("volume")).count()
        };
        let before = volumes(&disk);
        assert!(before > 6, "{before}");
        trim(&log, id(1, 59)).await;
        let deadline = disk_deadline();
        while volumes(&disk) > 4 {
            assert!(std::time::Instant::now() < deadline, "{} volumes are left", volumes(&disk));
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let expected: Vec<_> = (0..60).map(|index| entry(SMALL, 1, index, &[2; 20])).collect();
        assert_eq!(all(&other).await, expected);
        append(&other, vec![entry(SMALL, 1, 60, b"on")]).await.unwrap().unwrap();
        store.close().await;
        drop((store, log, other, disk));
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        assert!(all(&store.log(SMALL)).await[..60] == expected[..]);
        assert!(all(&store.log(GROUP)).await.is_empty());
        store.close().await;
    });
}

#[test]
fn a_folder_of_the_first_format_is_taken_over() {
    block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        let written = entry(GROUP, 1, 0, b"a");
        append(&store.log(GROUP), vec![written.clone()]).await.unwrap().unwrap();
        store.close().await;
        drop(store);
        let set_format = |format| {
            let (meta, ..) = Meta::open(&env(folder.path()).disk).unwrap();
            meta.write(&[Change::Format(format)]).unwrap();
            meta.close().unwrap();
        };
        let format = || {
            let (meta, content, _) = Meta::open(&env(folder.path()).disk).unwrap();
            meta.close().unwrap();
            content.format
        };
        assert_eq!(format(), 2);
        set_format(1);
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        assert_eq!(all(&store.log(GROUP)).await, [written]);
        store.close().await;
        drop(store);
        assert_eq!(format(), 2, "an older program must not open it any more");
        for other in [0, 3] {
            set_format(other);
            let refused = Store::open(&env(folder.path()), small(), NODE).await.unwrap_err();
            assert!(matches!(refused, OpenError::OtherVersion { ours: 2, .. }), "{refused}");
            assert_eq!(format(), other, "nothing was changed");
        }
    });
}

#[test]
fn a_rewritten_volume_whose_removal_came_undone_is_removed_again() {
    block_on(async {
        const SMALL: GroupId = GroupId(4);
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        let (log, other) = (store.log(GROUP), store.log(SMALL));
        for index in 0..60 {
            append(&log, vec![entry(GROUP, 1, index, &[1; 2_000])]).await.unwrap().unwrap();
            append(&other, vec![entry(SMALL, 1, index, &[2; 20])]).await.unwrap().unwrap();
        }
        let volumes = || {
            let files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
            let is_volume = |path: &std::path::PathBuf| {
                path.file_name().unwrap().to_str().unwrap().starts_with("volume")
                    && path.extension().is_some_and(|extension| extension == "redb")
            };
            files.filter(is_volume).collect::<std::collections::BTreeSet<_>>()
        };
        let until = async |what: &str, done: &dyn Fn() -> bool| {
            let deadline = disk_deadline();
            while !done() {
                assert!(std::time::Instant::now() < deadline, "waited in vain: {what}");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        trim(&log, id(1, 59)).await;
        until("they are rewritten", &|| volumes().len() <= 4).await;
        let rewritten = volumes().last().unwrap().clone();
        let kept = tempfile::NamedTempFile::new().unwrap();
        std::fs::copy(&rewritten, kept.path()).unwrap();

        // It is the newest: it stays until there is a newer.
        trim(&other, id(1, 59)).await;
        for index in 60..100 {
            assert!(rewritten.exists() || volumes().last().unwrap() > &rewritten);
            append(&log, vec![entry(GROUP, 1, index, &[1; 2_000])]).await.unwrap().unwrap();
        }
        until("it is removed", &|| !rewritten.exists()).await;
        store.close().await;
        drop((store, log, other));
        std::fs::copy(kept.path(), &rewritten).unwrap();
        let (store, report) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        assert!(report.leftovers > 0 && !rewritten.exists(), "{report:?}");
        assert_eq!(all(&store.log(GROUP)).await.len(), 40);
        store.close().await;
    });
}

mod damage;
mod faults;
mod model;
mod power;
