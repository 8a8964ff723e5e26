//! What is damaged, and what becomes of it: found, noted, written once more.

use std::path::Path;

use super::*;
use crate::env::overlay::Overlay;
use crate::storage::Inspected;
use crate::storage::damage::Lost;

const TAIL: Lost = Lost { tail: true, vote: false };

/// A closed store of several volumes: of the group 30 entries, of another one a single one, and votes.
async fn several_volumes() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
    let log = store.log(GROUP);
    append(&store.log(GroupId(9)), vec![entry(GroupId(9), 1, 0, b"other")]).await.unwrap().unwrap();
    log.save_vote(HardVote { term: Term(1), node: 1, committed: true }).await.unwrap();
    for index in 0..30 {
        append(&log, vec![entry(GROUP, 1, index, &[u8::try_from(index).unwrap(); 2_000])])
            .await
            .unwrap()
            .unwrap();
    }
    log.save_committed(log.state().last);
    log.save_vote(HardVote { term: Term(2), node: 1, committed: true }).await.unwrap();
    store.close().await;
    folder
}

async fn opened(folder: &Path) -> (Store, RecoveryReport) {
    Store::open(&env(folder), small(), NODE).await.unwrap()
}

fn volumes(folder: &Path) -> Vec<std::path::PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let is_volume =
        |path: &std::path::PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("volume");
    let mut volumes = files.filter(is_volume).collect::<Vec<_>>();
    volumes.sort();
    volumes
}

/// Writes all entries that are damaged once more, as another replica would give them, until none is.
async fn repair(log: &Log, good: &[Entry]) {
    while let Some(damaged) = good.iter().find(|entry| log.damage().holds(entry.head.index)) {
        log.repair(vec![damaged.clone()]).await.unwrap();
    }
}

#[tokio::test]
async fn a_lost_meta_is_made_anew_of_what_the_volumes_say() {
    let folder = several_volumes().await;
    let (store, _) = opened(folder.path()).await;
    let (identity, good) = (store.facts().identity(), all(&store.log(GROUP)).await);
    store.close().await;
    drop(store);
    std::fs::remove_file(folder.path().join("meta.redb")).unwrap();
    for start in 0..2 {
        let (store, report) = opened(folder.path()).await;
        assert_eq!(report.meta_rebuilt, start == 0);
        assert_eq!((report.groups_behind, report.volumes_lost, report.damaged_entries), (2, 0, 0));
        assert_eq!(store.facts().identity(), identity);
        assert_eq!(store.facts().cluster_id(), None);
        let log = store.log(GROUP);
        assert_eq!(all(&log).await, good);
        assert_eq!(log.state().vote, Some(HardVote { term: Term(2), node: 1, committed: true }));
        assert_eq!(log.damage().lost, TAIL);
        assert!(store.forgot_any() && store.may_have_forgotten(GroupId(77)), "start {start}");
        store.close().await;
    }
    let (store, _) = opened(folder.path()).await;
    store.forgot_none_from(GroupId(10)).await.unwrap();
    store.log(GROUP).set_lost(Lost::default()).await.unwrap();
    assert_eq!(store.damage_counts().groups_behind, 1);
    store.close().await;
    drop(store);
    let (store, report) = opened(folder.path()).await;
    assert_eq!(report.groups_behind, 1, "the other group has not caught up");
    assert!(store.log(GROUP).damage().is_none() && !store.forgot_any());
    assert!(store.may_have_forgotten(GroupId(8)) && !store.may_have_forgotten(GroupId(10)));
    assert!(!store.may_have_forgotten(GroupId(9)), "it is known");
    store.close().await;
}

#[tokio::test]
async fn a_lost_volume_leaves_holes_that_are_written_once_more() {
    type Harm = fn(&Path, &Path);
    let harms: [Harm; 4] = [
        |lost, _| std::fs::remove_file(lost).unwrap(),
        |lost, _| std::fs::write(lost, vec![7_u8; 8_192]).unwrap(),
        |lost, _| {
            let bytes = std::fs::read(lost).unwrap();
            std::fs::write(lost, &bytes[..bytes.len() - 4_096]).unwrap();
        },
        |lost, other| std::fs::write(lost, std::fs::read(other).unwrap()).unwrap(),
    ];
    for (number, harm) in harms.into_iter().enumerate() {
        let folder = several_volumes().await;
        let (store, _) = opened(folder.path()).await;
        let good = all(&store.log(GROUP)).await;
        store.close().await;
        drop(store);
        let volumes = volumes(folder.path());
        assert!(volumes.len() >= 3, "{volumes:?}");
        harm(&volumes[1], &volumes[0]);
        let (store, report) = opened(folder.path()).await;
        assert_eq!((report.volumes_lost, report.groups_behind), (1, 0), "harm {number}");
        let log = store.log(GROUP);
        let damage = log.damage();
        assert!(report.damaged_entries > 3 && report.damaged_entries == damage.heads.count());
        assert_eq!(log.state().last.unwrap().index, LogIndex(29));
        let hole = damage.heads.first().unwrap();
        let read = log.heads(hole..hole.next(), 1).await;
        assert!(matches!(read, Err(ReadError::Corrupt(_))), "{read:?}");
        let before = log.heads(LogIndex(0)..LogIndex(30), 30).await.unwrap();
        assert_eq!(before.len() as u64, hole.0, "what lies before it is read");
        // Another entry than the log holds is not taken.
        log.repair(vec![entry(GROUP, 7, hole.0, b"false")]).await.unwrap();
        assert!(log.damage().holds(hole));
        repair(&log, &good).await;
        assert_eq!(all(&log).await, good);
        let counts = store.damage_counts();
        assert_eq!((counts.damaged_entries, counts.repaired_entries), (0, report.damaged_entries));
        store.close().await;
        drop((store, log));
        let (store, report) = opened(folder.path()).await;
        assert_eq!((report.volumes_lost, report.damaged_entries), (0, 0), "harm {number}");
        assert_eq!(all(&store.log(GROUP)).await, good);
        // The volume with the second copies is sealed, and holds them.
        let log = store.log(GROUP);
        for index in 30..60 {
            append(&log, vec![entry(GROUP, 3, index, &[9; 2_000])]).await.unwrap().unwrap();
        }
        store.close().await;
        drop((store, log));
        let (store, _) = opened(folder.path()).await;
        assert_eq!(all(&store.log(GROUP)).await[..30], good[..]);
        store.close().await;
    }
}

#[tokio::test]
async fn a_lost_or_older_active_volume_loses_the_tail_of_all_groups() {
    for harm in 0..3 {
        let folder = several_volumes().await;
        let (store, _) = opened(folder.path()).await;
        let (log, identity) = (store.log(GROUP), store.facts().identity());
        let good = all(&log).await;
        store.close().await;
        drop((store, log));
        let files =
            || volumes(folder.path()).into_iter().map(|file| (file.clone(), std::fs::read(file).unwrap()));
        let before = files().collect::<BTreeMap<_, _>>();
        let active = {
            let (store, _) = opened(folder.path()).await;
            append(&store.log(GROUP), vec![entry(GROUP, 2, 30, b"newest")]).await.unwrap().unwrap();
            store.close().await;
            let name = store.0.shared.state().active.volume.file().to_string();
            folder.path().join(name)
        };
        // As it was before it was written to last, or as another one that was made and not written to.
        let older = before.get(&active).or(before.values().next()).unwrap().clone();
        match harm {
            0 => std::fs::remove_file(&active).unwrap(),
            1 => std::fs::write(&active, vec![7_u8; 8_192]).unwrap(),
            _ => std::fs::write(&active, &older).unwrap(),
        }
        for start in 0..2 {
            let (store, report) = opened(folder.path()).await;
            assert_eq!(report.groups_behind, 2, "harm {harm}, start {start}");
            assert_eq!(store.facts().identity(), identity);
            let log = store.log(GROUP);
            assert_eq!(log.damage().lost, TAIL, "harm {harm}");
            assert_eq!(log.state().vote, Some(HardVote { term: Term(2), node: 1, committed: true }));
            let found = all(&log).await;
            assert!(!found.is_empty() && found.len() <= 30 && found == good[..found.len()], "harm {harm}");
            store.close().await;
        }
        // It goes on from there, and what came back stays.
        let (store, _) = opened(folder.path()).await;
        let log = store.log(GROUP);
        let next = log.state().last.unwrap().index.0 + 1;
        append(&log, vec![entry(GROUP, 3, next, b"again")]).await.unwrap().unwrap();
        log.set_lost(Lost::default()).await.unwrap();
        store.log(GroupId(9)).set_lost(Lost::default()).await.unwrap();
        store.forgot_none_from(GroupId(10)).await.unwrap();
        store.close().await;
        drop((store, log));
        let (store, report) = opened(folder.path()).await;
        assert_eq!(report.groups_behind, 0, "harm {harm}");
        assert_eq!(store.log(GROUP).state().last.unwrap().index, LogIndex(next));
        store.close().await;
    }
}

#[tokio::test]
async fn the_newest_volume_was_lost_and_its_file_comes_back() {
    let folder = several_volumes().await;
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::open(folder.path()).unwrap());
    let newest = folder.path().join("volume-00000099.redb");
    for start in 0..2 {
        std::fs::write(&newest, vec![7_u8; 8_192]).unwrap();
        let recovered = recover(&disk, &small(), NODE, Identity::default()).unwrap();
        let found = recovered.marks.contains(&Mark::TailFoundLost);
        assert_eq!(found, start == 0, "it is known then");
        assert_eq!((recovered.report.groups_behind, recovered.report.volumes_lost), (2, 0), "start {start}");
    }
    drop(disk);
    let (store, _) = opened(folder.path()).await;
    let log = store.log(GROUP);
    for index in 30..60 {
        append(&log, vec![entry(GROUP, 3, index, &[9; 2_000])]).await.unwrap().unwrap();
    }
    let deadline = disk_deadline();
    while newest.exists() {
        assert!(std::time::Instant::now() < deadline, "it stays though there are newer ones");
        tokio::task::yield_now().await;
    }
    store.close().await;
}

#[tokio::test]
async fn another_nodes_volume_is_kept_aside() {
    let folder = several_volumes().await;
    let other = tempfile::tempdir().unwrap();
    let (stranger, _) = Store::open(&env(other.path()), small(), NodeId(2)).await.unwrap();
    append(&stranger.log(GROUP), vec![entry(GROUP, 1, 0, b"theirs")]).await.unwrap().unwrap();
    stranger.close().await;
    drop(stranger);
    let lost = &volumes(folder.path())[1];
    std::fs::copy(other.path().join("volume-00000001.redb"), lost).unwrap();
    let (store, report) = opened(folder.path()).await;
    assert_eq!(report.volumes_lost, 1);
    let log = store.log(GROUP);
    trim(&log, id(1, 29)).await;
    let aside = folder.path().join(format!("foreign-{}", lost.file_name().unwrap().to_string_lossy()));
    let deadline = disk_deadline();
    while !aside.exists() {
        assert!(std::time::Instant::now() < deadline, "it was not kept");
        tokio::task::yield_now().await;
    }
    assert!(log.damage().is_none(), "what was trimmed is no hole any more");
    store.close().await;
}

#[tokio::test]
async fn the_scrubber_finds_what_nobody_reads() {
    let folder = several_volumes().await;
    let volume = volumes(folder.path())[0].clone();
    let mut bytes = std::fs::read(&volume).unwrap();
    let body = bytes.windows(2_000).position(|window| window == [1_u8; 2_000]).unwrap();
    bytes[body + 77] ^= 4;
    std::fs::write(&volume, &bytes).unwrap();
    let config = StoreConfig { scrub_seconds: 3_600, ..small() };
    let (store, report) = Store::open(&env(folder.path()), config, NODE).await.unwrap();
    assert_eq!(report.damaged_entries, 0, "nobody has looked");
    let deadline = disk_deadline();
    while store.log(GROUP).damage().is_none() {
        assert!(std::time::Instant::now() < deadline, "nothing was found");
        tokio::task::yield_now().await;
    }
    assert_eq!(store.log(GROUP).damage().bodies.ranges(), [LogIndex(1)..LogIndex(2)]);
    store.close().await;
}

#[tokio::test]
async fn a_log_without_its_base_is_known_and_given_up() {
    let folder = several_volumes().await;
    let (store, _) = opened(folder.path()).await;
    trim(&store.log(GROUP), id(1, 9)).await;
    store.close().await;
    drop(store);
    std::fs::remove_file(folder.path().join("meta.redb")).unwrap();
    for start in 0..2 {
        let (store, report) = opened(folder.path()).await;
        assert_eq!((report.meta_rebuilt, report.groups_behind), (start == 0, 2));
        assert_eq!(store.log(GROUP).damage(), Damage { lost: TAIL, base: true, ..Damage::default() });
        assert!(!store.log(GroupId(9)).damage().base, "its log begins at its beginning");
        store.close().await;
    }
    let (store, _) = opened(folder.path()).await;
    let vote = Some(HardVote { term: Term(2), node: 1, committed: true });
    store.log(GROUP).begin_anew().await.unwrap();
    let check = |store: &Store| {
        let log = store.log(GROUP);
        assert_eq!(log.state(), LogState { vote, ..LogState::default() });
        assert_eq!(log.damage(), Damage { lost: TAIL, ..Damage::default() });
    };
    check(&store);
    store.close().await;
    drop(store);
    let (store, _) = opened(folder.path()).await;
    check(&store);
    let log = store.log(GROUP);
    log.install_checkpoint(id(4, 40), Bytes::from_static(b"of a peer")).await.unwrap();
    log.trim_prefix(id(4, 40)).await.unwrap();
    append(&log, vec![entry(GROUP, 4, 41, b"on")]).await.unwrap().unwrap();
    assert_eq!(all(&log).await, [entry(GROUP, 4, 41, b"on")]);
    store.close().await;
}

#[tokio::test]
async fn a_base_ahead_of_a_log_that_lost_its_end_takes_its_place() {
    let folder = several_volumes().await;
    let (store, _) = opened(folder.path()).await;
    let log = store.log(GROUP);
    let before = volumes(folder.path()).into_iter().map(|file| (file.clone(), std::fs::read(file).unwrap()));
    let before = before.collect::<BTreeMap<_, _>>();
    for index in 30..40 {
        append(&log, vec![entry(GROUP, 2, index, b"newer")]).await.unwrap().unwrap();
    }
    log.save_checkpoint(CheckpointKind::Base, id(2, 35), Bytes::from_static(b"state")).await.unwrap();
    store.close().await;
    drop((store, log));
    for file in volumes(folder.path()) {
        match before.get(&file) {
            Some(older) => std::fs::write(file, older).unwrap(),
            None => std::fs::remove_file(file).unwrap(),
        }
    }
    let (store, _) = opened(folder.path()).await;
    let log = store.log(GROUP);
    assert_eq!(log.damage().lost, TAIL);
    assert!(!log.damage().base && log.state().last.unwrap().index < LogIndex(30));
    assert_eq!(log.checkpoint_at(CheckpointKind::Base), Some(id(2, 35)));
    log.trim_prefix(id(2, 35)).await.unwrap();
    append(&log, vec![entry(GROUP, 2, 36, b"newer")]).await.unwrap().unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_damaged_base_is_noted_until_there_is_another() {
    let folder = several_volumes().await;
    let (store, _) = opened(folder.path()).await;
    let body = Bytes::from(vec![0x77; 3_000]);
    store.log(GROUP).save_checkpoint(CheckpointKind::Base, id(1, 9), body).await.unwrap();
    store.close().await;
    drop(store);
    let meta = folder.path().join("meta.redb");
    let mut bytes = std::fs::read(&meta).unwrap();
    let holds = |at: &usize| bytes[*at..*at + 2_000] == [0x77_u8; 2_000];
    let places = (0..bytes.len() - 2_000).filter(holds).collect::<Vec<_>>();
    assert!(!places.is_empty(), "the body lies in the file");
    for at in places {
        bytes[at] ^= 4;
    }
    std::fs::write(&meta, &bytes).unwrap();
    {
        let disk: Arc<dyn Disk> = Arc::new(Overlay::open(folder.path()).unwrap());
        let inspected = Inspected::open(&disk).unwrap().unwrap();
        assert!(inspected.base_trouble(GROUP).is_some() && inspected.base_trouble(GroupId(9)).is_none());
    }
    let (store, report) = opened(folder.path()).await;
    assert!(!report.meta_rebuilt);
    let log = store.log(GROUP);
    assert!(!log.damage().base, "nobody has looked");
    let read = log.checkpoint(CheckpointKind::Base).await;
    assert!(matches!(read, Err(ReadError::Corrupt(_))), "{read:?}");
    assert!(log.damage().base && store.damage_counts().groups_behind == 1);
    log.install_checkpoint(id(2, 40), Bytes::from_static(b"of a peer")).await.unwrap();
    assert!(!log.damage().base);
    store.close().await;
}
