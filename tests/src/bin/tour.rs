//! `make tour`: the whole story on a real file. Three nodes; the file's lines are sent while the leader is killed
//! twice with `kill -9`; every line is read back and compared. Prints what it did and saw; fails if anything is not
//! as promised, or if a kill hit no leader.
#![expect(clippy::print_stdout, reason = "a program that tells what it does")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use quorate_tests::command::{binary, quorate, run};
use quorate_tests::{Cluster, wait};
use serde_json::Value;

const TOPIC: &str = "tour";
/// What the machine has, when no file is named; the first that is there and is not empty.
const DEFAULTS: [&str; 4] = ["/var/log/dpkg.log", "/usr/share/dict/words", "/etc/services", "/etc/passwd"];
/// A small file is repeated to this size.
const BYTES_MIN: u64 = 8_000_000;
/// Sending takes at least this long.
const SENDING_MIN: Duration = Duration::from_secs(36);
/// The kills, in percent of all lines: both between 20 and 80.
const KILLS_AT: [u64; 2] = [30, 60];

fn main() -> ExitCode {
    match tour() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("\nFAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tour() -> Result<()> {
    println!("binary    {}", binary().display());
    let folder = tempfile::Builder::new().prefix("quorate-tour-").tempdir()?;
    let input = Input::choose(folder.path())?;
    let seconds = SENDING_MIN.as_secs();
    let rate = input.lines.div_ceil(seconds).max(1);
    ensure!(
        input.lines >= 1_000,
        "{} holds {} lines, too few to kill a leader in between",
        input.named,
        input.lines
    );
    println!("input     {}: {} lines, {:.1} MB", input.named, input.lines, mb(input.bytes));

    let start = Instant::now();
    let mut cluster = Cluster::start(3);
    println!("cluster   three nodes ready after {:.1} s", start.elapsed().as_secs_f64());
    for id in cluster.ids() {
        let node = cluster.node(id);
        println!("          node {id}: pid {}, gRPC {}, HTTP {}", node.pid(), node.grpc, node.http);
    }
    cluster.create(TOPIC, 1, 3);
    let first_leader = cluster.leader(TOPIC, 0);
    println!("topic     {TOPIC}: one partition on three nodes, led by node {first_leader}");
    println!("sending   {rate} lines a second");
    let producing = Producing::start(&cluster, &input.path, rate)?;
    for (number, percent) in (1..).zip(KILLS_AT) {
        kill_leader(&mut cluster, &producing, &input, number, input.lines * percent / 100)?;
    }
    let report = producing.end()?;
    println!("sent      {report}");
    let count = |key: &str| report[key].as_u64().unwrap_or(0);
    ensure!(
        count("acked") == input.lines && count("lines") == input.lines,
        "not every line was acknowledged: {} of {}",
        count("acked"),
        input.lines
    );
    ensure!(count("elapsed_ms") >= 30_000, "the lines were sent in less than 30 s");
    println!(
        "gap       the producer's longest wait for an acknowledgement: {} ms",
        count("longest_ack_gap_ms")
    );

    read_back(&cluster, &input)?;
    let described = cluster.run(["topic", "describe", TOPIC, "--json"]).done().json();
    let partition = &described["partitions"][0];
    let end = partition["high_watermark"].as_u64();
    println!("topic     led by node {} in epoch {}", partition["leader"], partition["leader_epoch"]);
    ensure!(end == Some(input.lines), "the high watermark is {end:?}, not {}", input.lines);
    println!("\nEQUAL: every line came back once, in order, over two kills of the leader.");
    Ok(())
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The lines to send.
struct Input {
    path: PathBuf,
    /// Where they come from, for people.
    named: String,
    lines: u64,
    bytes: u64,
}

impl Input {
    fn choose(folder: &Path) -> Result<Self> {
        let mut args = std::env::args_os().skip(1);
        let given = match (args.next(), args.next(), args.next()) {
            (None, None, None) => None,
            (Some(flag), Some(file), None) if flag == "--input" => Some(PathBuf::from(file)),
            _ => bail!("usage: tour [--input FILE]"),
        };
        let source = match given {
            Some(path) => path,
            None => DEFAULTS
                .into_iter()
                .map(PathBuf::from)
                .find(|path| fs::metadata(path).is_ok_and(|meta| meta.len() > 0))
                .context("this machine has none of the default files: name one with INPUT=file")?,
        };
        Self::prepare(&source, folder).with_context(|| format!("cannot use {}", source.display()))
    }

    /// A small file is copied over and over to a new one; a large one is taken as it is.
    fn prepare(source: &Path, folder: &Path) -> Result<Self> {
        let bytes = fs::metadata(source)?.len();
        ensure!(bytes > 0, "it is empty");
        if bytes >= BYTES_MIN {
            let lines = count_lines(source)?;
            return Ok(Self { path: source.to_owned(), named: source.display().to_string(), lines, bytes });
        }
        let mut content = fs::read(source)?;
        if content.last() != Some(&b'\n') {
            content.push(b'\n');
        }
        let size = u64::try_from(content.len())?;
        let times = BYTES_MIN.div_ceil(size);
        let path = folder.join("input.txt");
        let mut file = File::create(&path)?;
        for _ in 0..times {
            file.write_all(&content)?;
        }
        let lines = count_lines(&path)?;
        Ok(Self {
            path,
            named: format!("{} repeated {times} times", source.display()),
            lines,
            bytes: size * times,
        })
    }
}

/// As `quorate produce` counts: a last line without its end is one.
fn count_lines(path: &Path) -> Result<u64> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let (mut lines, mut last) = (0_u64, b'\n');
    loop {
        let available = reader.fill_buf()?;
        let Some(newest) = available.last() else { break };
        last = *newest;
        let ends = available.iter().filter(|byte| **byte == b'\n').count();
        let length = available.len();
        lines += u64::try_from(ends)?;
        reader.consume(length);
    }
    Ok(if last == b'\n' { lines } else { lines + 1 })
}

/// The newest line of `--progress`, as numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    lines: u64,
    acked: u64,
    /// The longest silence seen since it was last reset.
    silent_ms: u64,
}

/// `quorate produce` at work. Killed when dropped.
struct Producing {
    child: Child,
    progress: Arc<Mutex<Progress>>,
    listener: Option<JoinHandle<String>>,
}

impl Producing {
    fn start(cluster: &Cluster, input: &Path, rate: u64) -> Result<Self> {
        let mut command =
            cluster.quorate(["produce", TOPIC, "--json", "--progress", "--rate", &rate.to_string()]);
        let mut child =
            command.arg("--file").arg(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let progress = Arc::new(Mutex::new(Progress::default()));
        let stderr = child.stderr.take().context("its standard error is a pipe")?;
        let listener = {
            let progress = Arc::clone(&progress);
            std::thread::spawn(move || listen(BufReader::new(stderr), &progress))
        };
        Ok(Self { child, progress, listener: Some(listener) })
    }

    fn progress(&self) -> Progress {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reset_silence(&self) {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner).silent_ms = 0;
    }

    /// Waits for its end, and gives what it says.
    fn end(mut self) -> Result<Value> {
        let mut stdout: ChildStdout = self.child.stdout.take().context("its standard output is a pipe")?;
        let mut document = String::new();
        stdout.read_to_string(&mut document)?;
        let status = self.child.wait()?;
        let said = self.listener.take().and_then(|listener| listener.join().ok()).unwrap_or_default();
        ensure!(status.success(), "quorate produce ended with {status}: {document}{said}");
        Ok(serde_json::from_str(&document)?)
    }
}

impl Drop for Producing {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Takes in progress until the end; gives what else was said.
fn listen(stderr: impl BufRead, progress: &Mutex<Progress>) -> String {
    let mut said = String::new();
    for line in stderr.lines().map_while(Result::ok) {
        let Ok(document) = serde_json::from_str::<Value>(&line) else {
            said += &line;
            said.push('\n');
            continue;
        };
        let count = |key: &str| document[key].as_u64().unwrap_or(0);
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.lines = count("lines");
        progress.acked = count("acked");
        progress.silent_ms = progress.silent_ms.max(count("silent_ms"));
    }
    said
}

/// Waits until line `at` was sent, kills the leader, sees another take over, and starts the dead one again.
fn kill_leader(
    cluster: &mut Cluster,
    producing: &Producing,
    input: &Input,
    number: u32,
    at: u64,
) -> Result<()> {
    wait::within(&format!("line {at} to be sent"), Duration::from_secs(600), || {
        (producing.progress().acked >= at).then_some(())
    });
    let leader = cluster
        .leaders_known(TOPIC)
        .first()
        .copied()
        .flatten()
        .context("nobody leads, so no leader is killed")?;
    producing.reset_silence();
    let before = producing.progress();
    let killed = Instant::now();
    cluster.kill(leader);
    let (new_leader, took) = wait::until("another leader", || {
        let known = cluster.leaders_known(TOPIC).first().copied().flatten();
        known.filter(|known| *known != leader).map(|known| (known, killed.elapsed()))
    });
    // Acknowledged by the new leader: more than can have been on its way.
    let after = wait::until("lines to be acknowledged by the new leader", || {
        let now = producing.progress();
        (now.acked > before.lines.max(before.acked)).then_some(now)
    });
    println!(
        "kill {number}    kill -9 of node {leader}, the leader, at {:.0} % of the lines ({} sent)\n\
         {:10}acknowledged: {} before, {} when the next one had taken over; silence of {} ms\n\
         {:10}node {new_leader} leads, as seen {} ms after the kill",
        before.lines as f64 * 100.0 / input.lines as f64,
        before.lines,
        "",
        before.acked,
        after.acked,
        after.silent_ms,
        "",
        took.as_millis(),
    );
    let part = before.lines as f64 / input.lines as f64;
    ensure!((0.2..=0.8).contains(&part), "the kill came at {part:.2} of the lines");
    cluster.launch(leader);
    cluster.wait_ready(leader);
    println!("{:10}node {leader} is back, ready {:.1} s after the kill", "", killed.elapsed().as_secs_f64());
    Ok(())
}

/// Reads the topic and compares it with the input, line by line.
fn read_back(cluster: &Cluster, input: &Input) -> Result<()> {
    let start = Instant::now();
    let mut command =
        quorate(["consume", TOPIC, "--from", "beginning", "--until-end", "--servers", &cluster.servers()]);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let read =
        BufReader::with_capacity(1 << 20, child.stdout.take().context("its standard output is a pipe")?);
    let compared = compare(BufReader::with_capacity(1 << 20, File::open(&input.path)?), read);
    let status = child.wait()?;
    let count = compared?;
    ensure!(status.success(), "quorate consume ended with {status}");
    ensure!(count == input.lines, "{count} lines came back, not {}", input.lines);
    println!(
        "read      {count} lines came back in {:.1} s, each equal to its original",
        start.elapsed().as_secs_f64()
    );
    // Only the pipe was compared so far: the cluster is whole too.
    let status = run(&mut cluster.quorate(["cluster", "status", "--json"])).done().json();
    ensure!(
        status["leaderless"] == 0 && status["under_replicated"] == 0,
        "the cluster is not whole: {status}"
    );
    Ok(())
}

/// The number of lines, if both have the same.
fn compare(mut sent: impl BufRead, mut read: impl BufRead) -> Result<u64> {
    let (mut expected, mut found) = (Vec::new(), Vec::new());
    for number in 0_u64.. {
        expected.clear();
        found.clear();
        let more = sent.read_until(b'\n', &mut expected)? > 0;
        let came = read.read_until(b'\n', &mut found)? > 0;
        // What was sent may lack its last line end; what comes back has one.
        if more && expected.last() != Some(&b'\n') {
            expected.push(b'\n');
        }
        ensure!(
            expected == found,
            "line {} differs: {:?} was sent, {:?} came back",
            number + 1,
            more.then(|| String::from_utf8_lossy(&expected)),
            came.then(|| String::from_utf8_lossy(&found))
        );
        if !more {
            return Ok(number);
        }
    }
    bail!("more lines than can be counted")
}
