//! `quorate bench disk`: what the bare disk gives to anything that syncs before it answers.
//!
//! Appenders write to files of their own and call fdatasync after each chunk; nothing is preallocated. One appender
//! is the ceiling of one node, three are that of three nodes on one machine.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::{CellAlignment, Table};
use quorate_proto::env::{Env, os};
use serde::Serialize;

use super::output::{Output, milliseconds, plain_table, rounded};
use super::{Failure, unasked_servers};

/// How many append at once: one, and as many as a cluster of three on this machine.
const COUNTS: [usize; 2] = [1, 3];
/// Bytes between two syncs.
const CHUNKS: [usize; 4] = [4 << 10, 64 << 10, 256 << 10, 1 << 20];
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

    /// How long to measure each of the eight cases
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
    refuse_memory(&args.dir)?;
    let stop = Arc::new(AtomicBool::new(false));
    let measuring = {
        let (dir, stop) = (args.dir.clone(), Arc::clone(&stop));
        let time = Duration::from_secs_f64(args.seconds);
        tokio::task::spawn_blocking(move || measure(&dir, time, &stop))
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
        Failure::work(format!("cannot measure the disk under {}: {error}", args.dir.display()))
    })?;
    let Some(report) = report else {
        return Err(Failure::Interrupted("interrupted; the files were removed"));
    };
    let mut out = Output::new();
    if args.json { out.json(&report) } else { out.line(table(&report)) }
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

/// All cases, one after the other. `None` if `stop` was set meanwhile.
fn measure(dir: &Path, time: Duration, stop: &AtomicBool) -> io::Result<Option<Report>> {
    let folder = Folder::create(dir)?;
    let env = os();
    let mut appenders = Vec::new();
    for count in COUNTS {
        for chunk_bytes in CHUNKS {
            let case = measure_case(&folder.0, count, &random_chunk(&env, chunk_bytes), time, stop)?;
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            appenders.push(case);
        }
    }
    Ok(Some(Report { appenders }))
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

fn table(report: &Report) -> Table {
    let mut table = plain_table(["appenders", "chunk", "MB/s", "sync p50 ms", "sync p99 ms"]);
    for case in &report.appenders {
        table.add_row([
            case.count.to_string(),
            format!("{} KiB", case.chunk_bytes >> 10),
            format!("{:.1}", case.mb_per_s),
            format!("{:.3}", case.sync_ms.p50),
            format!("{:.3}", case.sync_ms.p99),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_measured_and_nothing_is_left_behind() {
        let dir = tempfile::tempdir_in(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).unwrap();
        let report = measure(dir.path(), Duration::from_millis(5), &AtomicBool::new(false)).unwrap().unwrap();
        let cases: Vec<_> =
            report.appenders.iter().map(|case| (case.count, case.chunk_bytes >> 10)).collect();
        assert_eq!(cases, [(1, 4), (1, 64), (1, 256), (1, 1024), (3, 4), (3, 64), (3, 256), (3, 1024)]);
        assert!(
            report.appenders.iter().all(|case| case.mb_per_s > 0.0 && case.sync_ms.p99 >= case.sync_ms.p50)
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_interrupted_run_says_nothing_and_leaves_nothing() {
        let dir = tempfile::tempdir_in(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).unwrap();
        let report = measure(dir.path(), Duration::from_secs(3_600), &AtomicBool::new(true)).unwrap();
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
