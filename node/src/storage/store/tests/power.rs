//! The power goes while a folder is opened that has lost something: the next start still says so.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};

use redb::ReadableTable as _;

use super::*;
use crate::env::DiskSpace;
use crate::storage::facts::{MetaContent, meta_file};
use crate::storage::failure::marker;
use crate::storage::recovery::Recovered;
use crate::storage::unread::{Unread, record_file};
use crate::storage::volume::{BODIES, FORMAT, Owner, VolumeNumber};

const OTHER: GroupId = GroupId(9);
const IDENTITY: [u8; 16] = [8; 16];

/// What a medium gives back or does not, as a whole.
const PAGE: usize = 4_096;

/// What a power cut leaves of what was not synced, of names and of bytes.
#[derive(Clone, Copy, Debug)]
enum Left {
    All,
    Nothing,
}

/// A machine with a folder in memory, whose power can be cut. A cheap clone.
#[derive(Clone, Debug, Default)]
struct Machine(Arc<Mutex<Platters>>);

#[derive(Debug, Default)]
struct Platters {
    names: BTreeMap<FileName, Content>,
    /// As of the last sync of the folder.
    synced_names: BTreeMap<FileName, Content>,
    /// How often the disk was changed or synced.
    operations: u64,
    /// In place of which of these the power goes.
    cut_at: Option<u64>,
}

type Content = Arc<Mutex<File>>;

#[derive(Debug, Default)]
struct File {
    seen: Vec<u8>,
    synced: Vec<u8>,
    /// Pages that the medium does not give back.
    unreadable: BTreeSet<usize>,
}

impl Machine {
    /// With the files of a folder, all of them synced.
    fn of(folder: &Path) -> Self {
        let machine = Self::default();
        for file in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if let Some(name) = file.file_name().to_str().and_then(FileName::parse) {
                machine.put(&name, std::fs::read(file.path()).unwrap(), BTreeSet::new());
            }
        }
        machine
    }

    fn put(&self, name: &FileName, bytes: Vec<u8>, unreadable: BTreeSet<usize>) {
        let file = Arc::new(Mutex::new(File { seen: bytes.clone(), synced: bytes, unreadable }));
        let mut platters = self.platters();
        platters.names.insert(name.clone(), file.clone());
        platters.synced_names.insert(name.clone(), file);
    }

    fn platters(&self) -> MutexGuard<'_, Platters> {
        self.0.lock().unwrap()
    }

    /// What it is once the power has gone and come back. Whoever has a file of this one open changes nothing there.
    fn after_a_cut(&self, left: Left) -> Self {
        let (after, platters) = (Self::default(), self.platters());
        let names = match left {
            Left::All => &platters.names,
            Left::Nothing => &platters.synced_names,
        };
        for (name, file) in names {
            let file = file.lock().unwrap();
            let bytes = match left {
                Left::All => &file.seen,
                Left::Nothing => &file.synced,
            };
            after.put(name, bytes.clone(), file.unreadable.clone());
        }
        after
    }

    fn start(&self, config: &StoreConfig) -> Result<Recovered, OpenError> {
        let disk: Arc<dyn Disk> = Arc::new(self.clone());
        recover(&disk, config, NODE, Identity::from_random(IDENTITY))
    }

    /// Counts an operation, unless the power is off or goes now.
    fn operate(&self) -> io::Result<()> {
        let mut platters = self.platters();
        if platters.cut_at.is_some_and(|at| at <= platters.operations) {
            return Err(io::Error::other("no power"));
        }
        platters.operations += 1;
        Ok(())
    }
}

impl Disk for Machine {
    fn open(&self, name: &FileName, create: bool) -> io::Result<Box<dyn redb::StorageBackend>> {
        if create {
            self.operate()?;
        }
        let mut platters = self.platters();
        let found = platters.names.get(name).cloned();
        let file = match (found, create) {
            (Some(_), true) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, false) => return Err(io::ErrorKind::NotFound.into()),
            (Some(file), false) => file,
            (None, true) => {
                let file = Content::default();
                platters.names.insert(name.clone(), file.clone());
                file
            }
        };
        Ok(Box::new(Handle { machine: self.clone(), file }))
    }

    fn publish(&self, from: &FileName, to: &FileName) -> io::Result<()> {
        self.operate()?;
        {
            let mut platters = self.platters();
            let file = platters.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
            platters.names.insert(to.clone(), file);
        }
        self.operate()?;
        let mut platters = self.platters();
        platters.synced_names = platters.names.clone();
        Ok(())
    }

    fn remove(&self, name: &FileName) -> io::Result<()> {
        self.operate()?;
        let removed = self.platters().names.remove(name);
        removed.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn list(&self) -> io::Result<Vec<FileName>> {
        Ok(self.platters().names.keys().cloned().collect())
    }

    fn mark(&self, name: &FileName, content: &[u8]) -> io::Result<()> {
        self.operate()?;
        let file = File { seen: content.to_vec(), ..File::default() };
        self.platters().names.insert(name.clone(), Arc::new(Mutex::new(file)));
        Ok(())
    }

    fn space(&self) -> io::Result<DiskSpace> {
        Ok(DiskSpace { free_bytes: u64::MAX, total_bytes: u64::MAX })
    }

    fn describe(&self) -> String {
        "a folder in memory".to_owned()
    }
}

#[derive(Debug)]
struct Handle {
    machine: Machine,
    file: Content,
}

impl redb::StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.lock().unwrap().seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let file = self.file.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        let end = start + out.len();
        if file.unreadable.iter().any(|page| page * PAGE < end && start < (page + 1) * PAGE) {
            return Err(io::Error::from_raw_os_error(5));
        }
        out.copy_from_slice(file.seen.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.machine.operate()?;
        self.file.lock().unwrap().seen.resize(usize::try_from(len).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.machine.operate()?;
        let mut file = self.file.lock().unwrap();
        let File { seen, synced, .. } = &mut *file;
        synced.clone_from(seen);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.machine.operate()?;
        let mut file = self.file.lock().unwrap();
        let start = usize::try_from(offset).unwrap();
        let end = start + data.len();
        if file.seen.len() < end {
            file.seen.resize(end, 0);
        }
        file.seen[start..end].copy_from_slice(data);
        Ok(())
    }
}

/// Starts twice, the first time with the power cut in place of each operation in turn, and at last behind them all.
/// `check` looks at each second start, and at a first one that nothing cut.
fn cut_everywhere(
    machine: &Machine,
    config: &StoreConfig,
    check: impl Fn(&str, Result<Recovered, OpenError>),
) {
    let operations = {
        let whole = machine.after_a_cut(Left::All);
        let started = whole.start(config);
        let operations = whole.platters().operations;
        check("nothing was cut", started);
        operations
    };
    assert!(operations > 10, "{operations}");
    for at in 0..=operations {
        let first = machine.after_a_cut(Left::All);
        first.platters().cut_at = Some(at);
        drop(first.start(config));
        for left in [Left::All, Left::Nothing] {
            let second = first.after_a_cut(left).start(config);
            check(&format!("cut at {at} of {operations}, left {left:?}"), second);
        }
    }
}

/// The end of both groups' logs may be missing, and groups may have been forgotten.
fn says_the_loss(at: &str, started: Result<Recovered, OpenError>) {
    let recovered = started.unwrap_or_else(|error| panic!("{at}: {error}"));
    assert_eq!(recovered.state.forgot_below, Some(GroupId(u64::MAX)), "{at}");
    for group in [GROUP, OTHER] {
        let lost = recovered.state.damage.get(&group).map(|damage| damage.lost);
        assert_eq!(lost, Some(Lost { tail: true, vote: false }), "{at}: group {group}");
    }
}

fn is_refused(at: &str, started: Result<Recovered, OpenError>) {
    assert!(matches!(started, Err(OpenError::Corrupt { .. })), "{at}: {:?}", started.err());
}

/// Groups may have been forgotten.
fn says_a_loss(at: &str, started: Result<Recovered, OpenError>) {
    let recovered = started.unwrap_or_else(|error| panic!("{at}: {error}"));
    assert_eq!(recovered.state.forgot_below, Some(GroupId(u64::MAX)), "{at}");
}

/// There is no other copy of what is missing.
fn alone() -> StoreConfig {
    StoreConfig { copies_elsewhere: false, ..small() }
}

/// A closed store that holds something of both groups, and lists two volumes.
async fn two_groups() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
    for group in [GROUP, OTHER] {
        append(&store.log(group), vec![entry(group, 1, 0, b"first")]).await.unwrap().unwrap();
    }
    prepared(&store).await;
    store.close().await;
    folder
}

/// The pages of a file that hold anything.
fn used_pages(bytes: &[u8]) -> Vec<usize> {
    let is_used = |page: &usize| bytes[page * PAGE..][..PAGE].iter().any(|byte| *byte != 0);
    let used = (0..bytes.len() / PAGE).filter(is_used).collect::<Vec<_>>();
    assert!(used.len() > 3, "{used:?}");
    used
}

#[tokio::test]
async fn an_older_meta_is_known_for_one_until_the_loss_is_noted() {
    let folder = two_groups().await;
    let meta = folder.path().join(meta_file().as_str());
    let older = std::fs::read(&meta).unwrap();
    let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
    let mut index = 1;
    // One that is sealed and the active one are not listed then, nor is the one made ahead.
    while store.0.shared.state().active.volume.number.0 < 4 {
        append(&store.log(GROUP), vec![entry(GROUP, 1, index, &[7; 2_000])]).await.unwrap().unwrap();
        index += 1;
    }
    prepared(&store).await;
    store.close().await;
    drop(store);
    std::fs::write(&meta, older).unwrap();
    let machine = Machine::of(folder.path());
    cut_everywhere(&machine, &small(), says_the_loss);
    cut_everywhere(&machine, &alone(), is_refused);
}

#[test]
fn a_new_volume_does_not_hide_a_damaged_one_that_is_not_listed() {
    let machine = Machine::default();
    let disk: Arc<dyn Disk> = Arc::new(machine.clone());
    let owner = Owner { node: NODE, identity: Identity::from_random(IDENTITY) };
    Meta::create(&disk, &MetaContent::empty(FORMAT, owner)).unwrap().close().unwrap();
    machine.put(&FileName::new("volume-00000001.redb"), vec![7; 2 * PAGE], BTreeSet::new());
    cut_everywhere(&machine, &small(), says_a_loss);
    cut_everywhere(&machine, &alone(), is_refused);
}

#[tokio::test]
async fn a_meta_that_is_unreadable_in_part_after_a_failed_write_is_made_anew() {
    let folder = two_groups().await;
    let machine = Machine::of(folder.path());
    machine.put(&marker(), b"a sync failed".to_vec(), BTreeSet::new());
    let bytes = std::fs::read(folder.path().join(meta_file().as_str())).unwrap();
    let used = used_pages(&bytes);
    for page in &used {
        let machine = machine.after_a_cut(Left::All);
        machine.put(&meta_file(), bytes.clone(), BTreeSet::from([*page]));
        for start in 0..2 {
            let refused = machine.start(&alone()).err();
            let is_damage = matches!(refused, Some(OpenError::MetaDamaged { .. }));
            assert!(is_damage, "page {page}, start {start}: {refused:?}");
        }
        let started = machine.start(&small());
        assert!(started.as_ref().is_ok_and(|recovered| recovered.report.meta_rebuilt), "page {page}");
        says_the_loss(&format!("page {page}"), started);
    }
    let last = used.into_iter().next_back();
    machine.put(&meta_file(), bytes, last.into_iter().collect());
    cut_everywhere(&machine, &small(), says_the_loss);
}

#[tokio::test]
async fn a_volume_that_is_unreadable_in_part_after_a_failed_write_is_known_for_one_until_that_is_noted() {
    let folder = two_groups().await;
    let machine = Machine::of(folder.path());
    machine.put(&marker(), b"a sync failed".to_vec(), BTreeSet::new());
    let volume = VolumeNumber(1).file();
    let bytes = std::fs::read(folder.path().join(volume.as_str())).unwrap();
    let used = used_pages(&bytes);
    for page in &used {
        let machine = machine.after_a_cut(Left::All);
        machine.put(&volume, bytes.clone(), BTreeSet::from([*page]));
        // The first one puts a copy in its place, and redb mends that.
        for start in 0..3 {
            is_refused(&format!("page {page}, start {start}"), machine.start(&alone()));
            assert!(machine.list().unwrap().contains(&record_file()), "page {page}, start {start}");
        }
        says_a_loss(&format!("page {page}"), machine.start(&small()));
        let names = machine.list().unwrap();
        assert!(!names.contains(&marker()) && !names.contains(&record_file()), "page {page}: {names:?}");
    }
    let last = used.into_iter().next_back();
    machine.put(&volume, bytes, last.into_iter().collect());
    cut_everywhere(&machine, &small(), says_a_loss);
    cut_everywhere(&machine, &alone(), is_refused);
}

#[tokio::test]
async fn an_unreadable_volume_that_was_made_ahead_takes_no_entries_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
    for group in [GROUP, OTHER] {
        append(&store.log(group), vec![entry(group, 1, 0, b"first")]).await.unwrap().unwrap();
    }
    prepared(&store).await;
    // Not closed, and nobody has voted: `meta.redb` is no witness of a commit.
    let machine = Machine::of(folder.path());
    machine.put(&marker(), b"a sync failed".to_vec(), BTreeSet::new());
    let volume = VolumeNumber(2).file();
    let bytes = std::fs::read(folder.path().join(volume.as_str())).unwrap();
    let is_used = |page: &usize| bytes[page * PAGE..][..PAGE].iter().any(|byte| *byte != 0);
    let last = bytes.len() / PAGE - 1;
    for page in [Some(0), (0..=last).rev().find(is_used), Some(last)].into_iter().flatten() {
        let machine = machine.after_a_cut(Left::All);
        machine.put(&volume, bytes.clone(), BTreeSet::from([page]));
        let started = machine.start(&small());
        assert_eq!(started.as_ref().unwrap().report.entries, 2, "page {page}");
        says_the_loss(&format!("page {page}"), started);
    }
}

#[tokio::test]
async fn a_damaged_record_of_what_is_unreadable_is_a_loss() {
    let folder = two_groups().await;
    let machine = Machine::of(folder.path());
    machine.put(&marker(), b"a sync failed".to_vec(), BTreeSet::new());
    for unreadable in [BTreeSet::new(), BTreeSet::from([0])] {
        machine.put(&record_file(), vec![7; 17], unreadable);
        cut_everywhere(&machine, &small(), says_the_loss);
        cut_everywhere(&machine, &alone(), is_refused);
    }
}

#[tokio::test]
async fn a_record_of_what_was_unreadable_counts_for_nothing_without_the_mark() {
    let folder = two_groups().await;
    let machine = Machine::of(folder.path());
    let disk: Arc<dyn Disk> = Arc::new(machine.clone());
    Unread::default().note(&disk, VolumeNumber(1), 4_096).unwrap();
    let recovered = machine.start(&alone()).unwrap();
    assert!(recovered.state.damage.is_empty() && recovered.state.forgot_below.is_none());
    assert!(!machine.list().unwrap().contains(&record_file()));
}

#[tokio::test]
async fn a_read_that_failed_before_in_the_same_file_is_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
    for index in 0..30 {
        let appended = append(&store.log(GROUP), vec![entry(GROUP, 1, index, &[7; 2_000])]);
        appended.await.unwrap().unwrap();
    }
    let good = all(&store.log(GROUP)).await;
    store.close().await;
    drop(store);
    let machine = Machine::of(folder.path());
    let env = Env { disk: Arc::new(machine.clone()), ..env(folder.path()) };
    let (store, _) = Store::open(&env, small(), NODE).await.unwrap();
    let log = store.log(GROUP);
    // The file stays open.
    assert_eq!(log.entries(LogIndex(0)..LogIndex(1), 1).await.unwrap(), good[..1]);
    let volume = store.0.shared.state().sealed[&VolumeNumber(1)].clone();
    let file = machine.platters().names[volume.file()].clone();
    let read = || {
        volume.read(|read| {
            for row in read.open_table(BODIES)?.iter()? {
                row?;
            }
            Ok(())
        })
    };
    let pages = file.lock().unwrap().seen.len() / PAGE;
    file.lock().unwrap().unreadable = (0..pages).collect();
    assert!(read().is_err());
    file.lock().unwrap().unreadable.clear();
    assert!(read().is_err(), "redb reads it no more");
    assert_eq!(all(&log).await, good);
    assert!(log.damage().is_none());
    store.close().await;
}

#[tokio::test]
async fn a_vote_that_the_power_left_in_one_place_lies_in_both_before_anybody_acts_upon_it() {
    let vote = HardVote { term: Term(2), node: 3, committed: true };
    let voted = |at: &str, started: Result<Recovered, OpenError>| {
        let recovered = started.unwrap_or_else(|error| panic!("{at}: {error}"));
        let found = recovered.state.durable.get(&GROUP).and_then(|durable| durable.hard.vote);
        assert_eq!(found, Some(vote), "{at}");
    };
    // The second time it is the first thing that the volume is to hold.
    for holds_entries in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(&env(folder.path()), small(), NODE).await.unwrap();
        let log = store.log(GROUP);
        if holds_entries {
            log.save_vote(HardVote { term: Term(1), node: 1, committed: false }).await.unwrap();
            append(&log, vec![entry(GROUP, 1, 0, b"first")]).await.unwrap().unwrap();
        }
        prepared(&store).await;
        let before = Machine::of(folder.path());
        let volume = VolumeNumber(1).file();
        let bytes = |name: &FileName| std::fs::read(folder.path().join(name.as_str())).unwrap();
        let older = bytes(&volume);
        log.save_vote(vote).await.unwrap();
        for newer in [meta_file(), volume.clone()] {
            let at = format!("entries: {holds_entries}, in {newer} alone");
            let machine = before.after_a_cut(Left::All);
            machine.put(&newer, bytes(&newer), BTreeSet::new());
            cut_everywhere(&machine, &small(), |cut, started| voted(&format!("{at}, {cut}"), started));
            let started = machine.start(&small());
            let lost_meta = machine.after_a_cut(Left::Nothing);
            let older_volume = machine.after_a_cut(Left::Nothing);
            voted(&at, started);
            lost_meta.remove(&meta_file()).unwrap();
            voted(&format!("{at}, then meta.redb is lost"), lost_meta.start(&small()));
            older_volume.put(&volume, older.clone(), BTreeSet::new());
            voted(&format!("{at}, then the volume is older"), older_volume.start(&small()));
        }
        store.close().await;
    }
}
