//! `quorate bench disk`: what the bare disk gives to anything that syncs before it answers.
//!
//! Appenders write to files of their own and call fdatasync after each chunk; nothing is preallocated. One appender
//! is the ceiling of one node, three are that of three nodes on one machine. Readers read files of their own from the
//! beginning on, none of which is in memory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::{CellAlignment, Table};
use quorate_proto::env::{Env, os};
use serde::Serialize;

use crate::cli::output::{Output, milliseconds, plain_table, rounded};
use crate::cli::{Failure, unasked_servers};

/// How many append at once: one, and as many as a cluster of three on this machine.
const COUNTS: [usize; 2] = [1, 3];
/// Bytes between two syncs.
const CHUNKS: [usize; 4] = [4 << 10, 64 << 10, 256 << 10, 1 << 20];
/// What stands beside a figure of the cluster: a short sync, and as much as the disk takes.
const BESIDE: [(usize, usize); 2] = [(3, 4 << 10), (3, 1 << 20)];
/// How long each of these is measured.
const BESIDE_TIME: Duration = Duration::from_secs(2);
/// What each reader reads over and over, and in pieces of what size.
const READ_BYTES: usize = 128 << 20;
const READ_CHUNK: usize = 1 << 20;
/// Sizes of file systems in memory, as `statfs` names them (Linux: `linux/magic.h`).
#[cfg(target_os = "linux")]
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// What `quorate bench disk` takes.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  quorate bench disk --dir /var/lib/quorate", arg = unasked_servers())]
pub(crate) struct BenchDiskArgs {
    /// The folder to write in, by default this one. Never one in memory; everything written is removed
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,

    /// How long to measure each of the ten cases
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0, value_parser = positive_seconds)]
    seconds: f64,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Reads a positive number of seconds, at most an hour.
pub(crate) fn positive_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 3_600.0 => Ok(seconds),
        Ok(_) => Err("must be above 0 and at most 3600".to_owned()),
        Err(_) => Err("must be a number of seconds, such as 2 or 0.5".to_owned()),
    }
}

/// The document that `--json` prints.
#[derive(Serialize)]
struct Report {
    appenders: Vec<Case>,
    /// None where the system cannot be told to forget what it has read.
    readers: Vec<Readers>,
}

#[derive(Serialize)]
struct Readers {
    count: usize,
    /// 10^6 bytes a second, all readers together.
    mb_per_s: f64,
}

#[derive(Serialize)]
struct Case {
    count: usize,
    chunk_bytes: usize,
    /// 10^6 bytes a second, all appenders together.
    mb_per_s: f64,
    sync_ms: SyncTimes,
}

/// How long one fdatasync took; the write is not in it.
#[derive(Serialize)]
struct SyncTimes {
    p50: f64,
    p99: f64,
}

/// Measures and prints.
pub(crate) async fn run(args: BenchDiskArgs) -> Result<(), Failure> {
    let cases: Vec<_> = COUNTS.into_iter().flat_map(|count| CHUNKS.map(|chunk| (count, chunk))).collect();
    let time = Duration::from_secs_f64(args.seconds);
    let report = measure_apart(&args.dir, move |dir, stop| measure(dir, &cases, &COUNTS, time, stop)).await?;
    let mut out = Output::new();
    if args.json { out.json(&report) } else { out.line(text(&report)) }
}

/// What the disk gives, measured in the same run as something else.
#[derive(Serialize)]
pub(super) struct Beside {
    appenders: Vec<Case>,
}

impl Beside {
    /// Measures under `dir`, if that is given.
    pub(super) async fn measure(dir: Option<&Path>) -> Result<Option<Self>, Failure> {
        let Some(dir) = dir else { return Ok(None) };
        let measuring = |dir: &Path, stop: &AtomicBool| measure(dir, &BESIDE, &[], BESIDE_TIME, stop);
        let report = measure_apart(dir, measuring).await?;
        Ok(Some(Self { appenders: report.appenders }))
    }

    /// What share of the disk so many acknowledged bytes are, each written as often as there are replicas.
    pub(super) fn beside(&self, mb_per_s: f64, replicas: usize) -> String {
        let [short, full] = &self.appenders[..] else { return String::new() };
        let bound = full.mb_per_s / replicas.max(1) as f64;
        format!(
            "the disk alone: {:.1} MB/s, so {bound:.1} MB/s with {replicas} replicas on it, of which this is {:.0} %; \
             a sync of 4 KiB takes {:.3} ms (p50)",
            full.mb_per_s,
            mb_per_s / bound.max(1e-9) * 100.0,
            short.sync_ms.p50
        )
    }
}

/// Measures on a thread of its own. Ctrl-C ends that early, and what was written is removed in any case.
async fn measure_apart<M>(dir: &Path, measure: M) -> Result<Report, Failure>
where
    M: FnOnce(&Path, &AtomicBool) -> io::Result<Option<Report>> + Send + 'static,
{
    refuse_memory(dir)?;
    let stop = Arc::new(AtomicBool::new(false));
    let measuring = {
        let (dir, stop) = (dir.to_owned(), Arc::clone(&stop));
        tokio::task::spawn_blocking(move || measure(&dir, &stop))
    };
    let interrupted = async {
        // Without a handler for the signal the process would just end, and leave its files behind.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        stop.store(true, Ordering::Relaxed);
        std::future::pending::<()>().await;
    };
    let measured = tokio::select! {
        biased;
        measured = measuring => measured.expect("the measurement does not panic"),
        () = interrupted => unreachable!("waits for ever"),
    };
    let report = measured.map_err(|error| {
        Failure::work(format!("cannot measure the disk under {}: {error}", dir.display()))
    })?;
    report.ok_or(Failure::Interrupted("interrupted; the files were removed"))
}

/// Refuses a folder whose files live in memory: their sync costs nothing and says nothing about a disk.
fn refuse_memory(dir: &Path) -> Result<(), Failure> {
    if !dir.is_dir() {
        return Err(Failure::work(format!("{} is not a folder", dir.display())));
    }
    #[cfg(target_os = "linux")]
    {
        let stat = rustix::fs::statfs(dir)
            .map_err(|error| Failure::work(format!("cannot tell what {} lies on: {error}", dir.display())))?;
        if u64::try_from(stat.f_type).is_ok_and(|kind| IN_MEMORY.contains(&kind)) {
            return Err(Failure::work(format!(
                "{} lies in memory (tmpfs), where a sync costs nothing: give a folder on a disk with --dir",
                dir.display()
            )));
        }
    }
    Ok(())
}

/// All cases, one after the other: appenders by their number and the bytes between two syncs, and readers by their
/// number. `None` if `stop` was set meanwhile.
fn measure(
    dir: &Path,
    cases: &[(usize, usize)],
    readers: &[usize],
    time: Duration,
    stop: &AtomicBool,
) -> io::Result<Option<Report>> {
    let folder = Folder::create(dir)?;
    let env = os();
    let mut report = Report { appenders: Vec::new(), readers: Vec::new() };
    for (count, chunk_bytes) in cases {
        let chunk = random_chunk(&env, *chunk_bytes);
        report.appenders.push(measure_case(&folder.0, *count, &chunk, time, stop)?);
    }
    for count in readers.iter().filter(|_| cfg!(target_os = "linux")) {
        report.readers.push(measure_readers(&folder.0, *count, &random_chunk(&env, READ_CHUNK), time, stop)?);
    }
    Ok((!stop.load(Ordering::Relaxed)).then_some(report))
}

/// `count` threads read for `time`, each a file of its own.
fn measure_readers(
    folder: &Path,
    count: usize,
    chunk: &[u8],
    time: Duration,
    stop: &AtomicBool,
) -> io::Result<Readers> {
    let mut files = Vec::new();
    for number in 0..count {
        let path = folder.join(format!("read-{number}"));
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        // It goes when it is closed.
        fs::remove_file(&path)?;
        for _ in 0..READ_BYTES / chunk.len() {
            if !stop.load(Ordering::Relaxed) {
                file.write_all(chunk)?;
            }
        }
        file.sync_data()?;
        files.push(file);
    }
    let barrier = Barrier::new(count);
    let rates: Vec<f64> = thread::scope(|scope| {
        let threads: Vec<_> = files
            .into_iter()
            .map(|mut file| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let forgotten = forget(&file);
                    // The others wait at the barrier whatever happened.
                    barrier.wait();
                    forgotten?;
                    read(&mut file, time, stop)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a reader does not panic"))
            .collect::<io::Result<_>>()
    })?;
    Ok(Readers { count, mb_per_s: rounded(rates.iter().sum(), 1) })
}

/// Reads a file over and over until `time` has passed: 10^6 bytes a second.
fn read(file: &mut File, time: Duration, stop: &AtomicBool) -> io::Result<f64> {
    let mut chunk = vec![0; READ_CHUNK];
    let (start, mut bytes) = (Instant::now(), 0_usize);
    file.seek(SeekFrom::Start(0))?;
    while start.elapsed() < time && !stop.load(Ordering::Relaxed) {
        match file.read(&mut chunk)? {
            0 => {
                forget(file)?;
                file.seek(SeekFrom::Start(0))?;
            }
            read => bytes += read,
        }
    }
    Ok(bytes as f64 / start.elapsed().as_secs_f64().max(1e-9) / 1e6)
}

/// Makes the system forget what it has of a file in memory, so that the next read asks the disk.
#[cfg(target_os = "linux")]
fn forget(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
}

#[cfg(not(target_os = "linux"))]
fn forget(_: &File) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

/// `count` threads append `chunk` for `time`.
fn measure_case(
    folder: &Path,
    count: usize,
    chunk: &[u8],
    time: Duration,
    stop: &AtomicBool,
) -> io::Result<Case> {
    let barrier = Barrier::new(count);
    let appended: Vec<Appended> = thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|number| {
                let (path, barrier) = (folder.join(number.to_string()), &barrier);
                scope.spawn(move || append(&path, chunk, time, barrier, stop))
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("an appender does not panic"))
            .collect::<io::Result<_>>()
    })?;
    let mb_per_s: f64 = appended
        .iter()
        .map(|one| one.syncs.len() as f64 * chunk.len() as f64 / one.elapsed.as_secs_f64().max(1e-9) / 1e6)
        .sum();
    let mut syncs: Vec<Duration> = appended.into_iter().flat_map(|one| one.syncs).collect();
    syncs.sort_unstable();
    let at = |of_100: usize| syncs.get(syncs.len() * of_100 / 100).copied().map_or(0.0, milliseconds);
    Ok(Case {
        count,
        chunk_bytes: chunk.len(),
        mb_per_s: rounded(mb_per_s, 1),
        sync_ms: SyncTimes { p50: at(50), p99: at(99) },
    })
}

/// What one appender did.
struct Appended {
    syncs: Vec<Duration>,
    elapsed: Duration,
}

/// Appends chunks to a new file until `time` has passed, syncs after each, and removes the file.
fn append(
    path: &Path,
    chunk: &[u8],
    time: Duration,
    barrier: &Barrier,
    stop: &AtomicBool,
) -> io::Result<Appended> {
    let file = OpenOptions::new().append(true).create_new(true).open(path);
    // The others wait at the barrier whether this one could open its file or not.
    barrier.wait();
    let appended = append_to(&mut file?, chunk, time, stop);
    fs::remove_file(path)?;
    appended
}

fn append_to(file: &mut File, chunk: &[u8], time: Duration, stop: &AtomicBool) -> io::Result<Appended> {
    let start = Instant::now();
    let mut syncs = Vec::new();
    while start.elapsed() < time && !stop.load(Ordering::Relaxed) {
        file.write_all(chunk)?;
        let before = Instant::now();
        file.sync_data()?;
        syncs.push(before.elapsed());
    }
    Ok(Appended { syncs, elapsed: start.elapsed() })
}

/// Bytes that no disk can compress.
fn random_chunk(env: &Env, bytes: usize) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(bytes + 8);
    while chunk.len() < bytes {
        chunk.extend_from_slice(&env.entropy.next_u64().to_le_bytes());
    }
    chunk.truncate(bytes);
    chunk
}

/// A folder for the files of this run, removed with all that is in it when dropped.
struct Folder(PathBuf);

impl Folder {
    fn create(dir: &Path) -> io::Result<Self> {
        let path = dir.join(format!("quorate-bench-disk.{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            Output::note(format!("cannot remove {}: {error}", self.0.display()));
        }
    }
}

fn text(report: &Report) -> String {
    let mut appenders = plain_table(["appenders", "chunk", "MB/s", "sync p50 ms", "sync p99 ms"]);
    for case in &report.appenders {
        appenders.add_row([
            case.count.to_string(),
            format!("{} KiB", case.chunk_bytes >> 10),
            format!("{:.1}", case.mb_per_s),
            format!("{:.3}", case.sync_ms.p50),
            format!("{:.3}", case.sync_ms.p99),
        ]);
    }
    let mut readers = plain_table(["readers", "MB/s"]);
    for case in &report.readers {
        readers.add_row([case.count.to_string(), format!("{:.1}", case.mb_per_s)]);
    }
    if report.readers.is_empty() {
        to_the_right(appenders)
    } else {
        format!("{}\n\n{}", to_the_right(appenders), to_the_right(readers))
    }
}

fn to_the_right(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir_in(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).unwrap()
    }

    #[test]
    fn every_case_is_measured_and_nothing_is_left_behind() {
        let dir = folder();
        let cases = [(1, 4 << 10), (3, 1 << 20)];
        let time = Duration::from_millis(5);
        let report = measure(dir.path(), &cases, &[2], time, &AtomicBool::new(false)).unwrap().unwrap();
        let seen: Vec<_> = report.appenders.iter().map(|case| (case.count, case.chunk_bytes)).collect();
        assert_eq!(seen, cases);
        assert!(
            report.appenders.iter().all(|case| case.mb_per_s > 0.0 && case.sync_ms.p99 >= case.sync_ms.p50)
        );
        let readers: Vec<_> = report.readers.iter().map(|case| (case.count, case.mb_per_s > 0.0)).collect();
        assert_eq!(readers, if cfg!(target_os = "linux") { vec![(2, true)] } else { vec![] });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_interrupted_run_says_nothing_and_leaves_nothing() {
        let dir = folder();
        let hour = Duration::from_secs(3_600);
        let report = measure(dir.path(), &BESIDE, &COUNTS, hour, &AtomicBool::new(true)).unwrap();
        assert!(report.is_none());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_is_refused() {
        let refused = refuse_memory(Path::new("/dev/shm")).unwrap_err();
        assert!(format!("{refused:?}").contains("lies in memory"), "{refused:?}");
    }
}
