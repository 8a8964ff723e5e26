//! What the layout of a volume costs, at 1, 100 and 1,000 groups: the store as it is, beside the layouts it refused.
//! `cargo bench -p quorate-node --bench storage [-- DIR]` prints the tables of ARCHITECTURE.md; DIR must not lie in
//! memory, by default it is the current folder.
#![allow(
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program that measures"
)]

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_node::env::os::{OsDisk, OsPool};
use quorate_node::env::transport::{Lane, LinkWatch};
use quorate_node::env::{Disk, DiskSpace, Env, FileName, Metrics, PeerHandler, PeerLink, Task, Transport};
use quorate_node::storage::{Body, Entry, Head, Kind, Store, StoreConfig};
use quorate_proto::ids::{
    GroupId, LogIndex, NodeId, Offset, ProducerEpoch, ProducerId, Sequence, Term, Timestamp,
};
use redb::{Builder, Database, StorageBackend, TableDefinition};

/// A cell ends after so much payload or time.
const PAYLOAD_MAX: u64 = 160 << 20;
const TIME_MAX: Duration = Duration::from_millis(2_500);

fn main() {
    let dir = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_else(|| ".".to_owned());
    let dir = tempfile::tempdir_in(dir).unwrap();
    println!(
        "a round = one entry of each group, in one commit (the store: of at most 4 MB); amplification = bytes written / bytes of bodies"
    );
    println!();
    println!("| groups x body | layout | MB/s | rounds/s | amplification | CPU ms/MB |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (groups, body) in
        [(1, 1_000), (100, 1_000), (1_000, 1_000), (1, 16_384), (100, 16_384), (1_000, 16_384)]
    {
        for layout in
            [Layout::GroupIndex, Layout::Arrival, Layout::ArrivalIndexed, Layout::Packed65, Layout::Store]
        {
            let cell = tempfile::tempdir_in(dir.path()).unwrap();
            let measured = match layout {
                Layout::Store => store(cell.path(), groups, body),
                Layout::GroupIndex | Layout::Arrival | Layout::ArrivalIndexed | Layout::Packed65 => {
                    raw(cell.path(), layout, groups, body)
                }
            };
            println!("| {groups} x {body} B | {layout} | {measured} |");
        }
    }
    println!();
    println!(
        "| entries of a full volume | recovery after a crash | clean close and open | first read of 1 MB |"
    );
    println!("| --- | --- | --- | --- |");
    for (groups, body) in [(1, 65_000), (100, 1_000), (1_000, 100)] {
        reopen(dir.path(), groups, body);
    }
}

#[derive(Clone, Copy)]
enum Layout {
    /// Key (group, index), a value per entry.
    GroupIndex,
    /// Key arrival number, a value per entry.
    Arrival,
    /// The same, and an index table (group, index) -> arrival written with each commit.
    ArrivalIndexed,
    /// Arrival, bodies of a commit packed into values of 65,000 bytes and a rest.
    Packed65,
    /// As it is: packed and cut to fill pages, heads apart, index in memory.
    Store,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GroupIndex => "key (group, index)",
            Self::Arrival => "key arrival, a value each",
            Self::ArrivalIndexed => "key arrival, index written with each commit",
            Self::Packed65 => "key arrival, packed to 65,000 B",
            Self::Store => "**the store**: packed to fill pages, heads apart",
        })
    }
}

struct Measured {
    payload: u64,
    commits: u64,
    time: Duration,
    cpu: Duration,
    written: u64,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = self.payload as f64 / 1e6;
        let seconds = self.time.as_secs_f64();
        write!(
            f,
            "{:.0} | {:.0} | {:.2} | {:.1}",
            megabytes / seconds,
            self.commits as f64 / seconds,
            self.written as f64 / self.payload as f64,
            self.cpu.as_secs_f64() * 1e3 / megabytes
        )
    }
}

/// Runs `commit` until the cell is full; it gives the bytes of bodies it wrote.
fn measure(written: &AtomicU64, mut commit: impl FnMut(u64) -> u64) -> Measured {
    commit(0);
    let (began, cpu, before) = (Instant::now(), cpu(), written.load(Ordering::Relaxed));
    let (mut payload, mut commits) = (0, 0);
    while payload < PAYLOAD_MAX && began.elapsed() < TIME_MAX {
        commits += 1;
        payload += commit(commits);
    }
    Measured {
        payload,
        commits,
        time: began.elapsed(),
        cpu: self::cpu() - cpu,
        written: written.load(Ordering::Relaxed) - before,
    }
}

/// Processor time of this process, user and system, in steps of 10 ms.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
    Duration::from_millis(fields.map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum())
}

const BY_ENTRY: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("by entry");
const BY_ARRIVAL: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("by arrival");
const INDEX: TableDefinition<'_, (u64, u64), u64> = TableDefinition::new("index");

fn raw(dir: &Path, layout: Layout, groups: u64, body: usize) -> Measured {
    let disk = Counting::open(dir);
    let file = disk.disk.open(&FileName::new("raw.redb"), true).unwrap();
    let file = CountingFile { file, written: disk.written.clone() };
    let db = Builder::new().set_cache_size(16 << 20).create_with_backend(file).unwrap();
    let body = vec![7; body];
    let mut arrival = 0;
    let written = disk.written.clone();
    measure(&written, |round| {
        raw_commit(&db, layout, groups, &body, round, &mut arrival);
        groups * u64::try_from(body.len()).unwrap()
    })
}

fn raw_commit(db: &Database, layout: Layout, groups: u64, body: &[u8], round: u64, arrival: &mut u64) {
    let write = db.begin_write().unwrap();
    match layout {
        Layout::GroupIndex => {
            let mut table = write.open_table(BY_ENTRY).unwrap();
            for group in 0..groups {
                table.insert((group, round), body).unwrap();
            }
        }
        Layout::Arrival | Layout::ArrivalIndexed => {
            let mut table = write.open_table(BY_ARRIVAL).unwrap();
            let mut index = write.open_table(INDEX).unwrap();
            for group in 0..groups {
                table.insert(*arrival, body).unwrap();
                if matches!(layout, Layout::ArrivalIndexed) {
                    index.insert((group, round), *arrival).unwrap();
                }
                *arrival += 1;
            }
        }
        Layout::Packed65 | Layout::Store => {
            let mut table = write.open_table(BY_ARRIVAL).unwrap();
            let mut left = body.len() * usize::try_from(groups).unwrap();
            let mut at = 0;
            while left > 0 {
                let length = left.min(65_000);
                let mut value = table.insert_reserve(*arrival, length).unwrap();
                let mut room = value.as_mut();
                while !room.is_empty() {
                    let part = (body.len() - at).min(room.len());
                    let (front, rest) = room.split_at_mut(part);
                    front.copy_from_slice(&body[at..at + part]);
                    (room, at) = (rest, (at + part) % body.len());
                }
                *arrival += 1;
                left -= length;
            }
        }
    }
    write.commit().unwrap();
}

fn store(dir: &Path, groups: u64, body: usize) -> Measured {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let disk = Counting::open(dir);
    let written = disk.written.clone();
    let store = runtime.block_on(open(disk));
    let body = Bytes::from(vec![7; body]);
    let logs = (0..groups).map(|group| store.log(GroupId(group))).collect::<Vec<_>>();
    let measured = measure(&written, |round| {
        runtime.block_on(async {
            let left = Arc::new(tokio::sync::Semaphore::new(0));
            for log in &logs {
                let (entry, left) = (entry(log.group(), round, &body), left.clone());
                log.append(
                    vec![entry],
                    Box::new(move |result| {
                        result.unwrap();
                        left.add_permits(1);
                    }),
                )
                .unwrap();
            }
            drop(left.acquire_many(u32::try_from(groups).unwrap()).await.unwrap());
        });
        groups * u64::try_from(body.len()).unwrap()
    });
    runtime.block_on(store.close());
    measured
}

async fn open(disk: Counting) -> Store {
    let env = Env {
        base: quorate_proto::env::os(),
        disk: Arc::new(disk),
        transport: Arc::new(Nobody),
        pool: Arc::new(OsPool),
        metrics: Metrics::default(),
    };
    Store::open(&env, StoreConfig::default(), NodeId(1)).await.unwrap().0
}

fn entry(group: GroupId, index: u64, body: &Bytes) -> Entry {
    let head = Head {
        group,
        index: LogIndex(index),
        term: Term(1),
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
    Entry { head, body: Body::Here(body.clone()) }
}

/// Fills most of a volume, copies the folder as a crash would leave it, and opens both.
fn reopen(dir: &Path, groups: u64, body: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let [live, crashed] = ["live", "crashed"].map(|name| dir.join(format!("{name}-{groups}")));
    let store = runtime.block_on(open(Counting::open(&live)));
    let bytes = Bytes::from(vec![7; body]);
    let per_append = (1 << 20) / body + 1;
    let rounds = (240 << 20) / ((body + 120) * per_append);
    for round in 0..rounds {
        let log = store.log(GroupId(u64::try_from(round).unwrap() % groups));
        let next = log.state().last.map_or(0, |last| last.index.0 + 1);
        let entries = (0..u64::try_from(per_append).unwrap()).map(|i| entry(log.group(), next + i, &bytes));
        let (tx, rx) = tokio::sync::oneshot::channel();
        log.append(entries.collect(), Box::new(move |result| drop(tx.send(result)))).unwrap();
        runtime.block_on(rx).unwrap().unwrap();
    }
    std::fs::create_dir(&crashed).unwrap();
    for file in std::fs::read_dir(&live).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), crashed.join(file.file_name())).unwrap();
    }
    let timed = |path: &PathBuf| {
        let began = Instant::now();
        let store = runtime.block_on(open(Counting::open(path)));
        (store, began.elapsed())
    };
    let (recovered, recovery) = timed(&crashed);
    runtime.block_on(recovered.close());
    drop(recovered);
    let began = Instant::now();
    runtime.block_on(store.close());
    let close = began.elapsed();
    drop(store);
    let (store, clean) = timed(&live);
    let began = Instant::now();
    let first = runtime.block_on(store.log(GroupId(0)).entries(LogIndex(0)..LogIndex(u64::MAX), 1 << 20));
    let read = began.elapsed();
    assert!(!first.unwrap().is_empty());
    println!(
        "| {} of {body} B, {groups} groups | {} ms | {} + {} ms | {:.1} ms |",
        rounds * per_append,
        recovery.as_millis(),
        close.as_millis(),
        clean.as_millis(),
        read.as_secs_f64() * 1e3
    );
    runtime.block_on(store.close());
}

/// The real disk, and how much is written to it.
struct Counting {
    disk: OsDisk,
    written: Arc<AtomicU64>,
}

impl Counting {
    fn open(path: &Path) -> Self {
        Self { disk: OsDisk::open(path).unwrap(), written: Arc::default() }
    }
}

impl Disk for Counting {
    fn open(&self, name: &FileName, create: bool) -> io::Result<Box<dyn StorageBackend>> {
        Ok(Box::new(CountingFile { file: self.disk.open(name, create)?, written: self.written.clone() }))
    }

    fn publish(&self, from: &FileName, to: &FileName) -> io::Result<()> {
        self.disk.publish(from, to)
    }

    fn remove(&self, name: &FileName) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn list(&self) -> io::Result<Vec<FileName>> {
        self.disk.list()
    }

    fn mark(&self, name: &FileName, content: &[u8]) -> io::Result<()> {
        self.disk.mark(name, content)
    }

    fn space(&self) -> io::Result<DiskSpace> {
        self.disk.space()
    }

    fn describe(&self) -> String {
        self.disk.describe()
    }
}

#[derive(Debug)]
struct CountingFile {
    file: Box<dyn StorageBackend>,
    written: Arc<AtomicU64>,
}

impl StorageBackend for CountingFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.written.fetch_add(u64::try_from(data.len()).unwrap(), Ordering::Relaxed);
        self.file.write(offset, data)
    }
}

struct Nobody;

#[async_trait::async_trait]
impl Transport for Nobody {
    fn connect(
        &self,
        _: NodeId,
        _: &str,
        _: Lane,
        _: Arc<dyn Fn() -> quorate_proto::v1::Sender + Send + Sync>,
        _: LinkWatch,
    ) -> Arc<dyn PeerLink> {
        unreachable!("storage knows no peers")
    }

    async fn listen(&self, _: &str, _: Arc<dyn PeerHandler>) -> io::Result<Task> {
        unreachable!("storage knows no peers")
    }
}
