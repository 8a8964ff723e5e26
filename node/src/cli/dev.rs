//! `quorate dev`: a whole cluster on this machine, each node a process of its own.
//!
//! The nodes are children that watch a pipe of ours: however this process ends, they end too.

mod held;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use futures_util::future::join_all;
use quorate_node::telemetry;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::sync::watch::{Receiver, channel};

use super::output::Output;
use super::{Failure, http_get, number, signals, unasked_servers};
use watch::{Seen, Word};

const EXAMPLES: &str = "\
Examples:
  quorate dev
  quorate dev --nodes 1 --data /tmp/one --base-port-grpc 7201 --base-port-http 8091
  quorate dev --no-restart      kill a node, and it stays dead

Node k listens on the base ports plus k-1. DIR/node-k holds its data, DIR/node-k.log its log, \
and DIR/cluster.json says where everything is, once all nodes are ready, or after 10 s a majority \
(a node that has died is listed with its last process id). A first produce creates its topic here. \
Ctrl-C ends all nodes, with status 0; the data is kept.";

/// After this long a majority is enough to be announced.
const ALL_READY_TIME_MAX: Duration = Duration::from_secs(10);
/// What a node that was asked to end may take.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);
/// Pause before a node that died is started again; doubled each time it dies within [`STEADY`].
const BACK_OFF_MIN: Duration = Duration::from_millis(200);
const BACK_OFF_MAX: Duration = Duration::from_secs(5);
/// A node that ran this long is not in a loop of crashes.
const STEADY: Duration = Duration::from_secs(10);
/// How long a port may be in use before that is said.
const PORTS_TIME_MAX: Duration = Duration::from_secs(1);
/// How much of a node's log is looked through for its last line.
const LAST_LINE_BYTES_MAX: u64 = 4 << 10;
/// Pause between two looks whether a node is ready, until the cluster is.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The same from then on.
const LOOK_LATER: Duration = Duration::from_millis(500);
/// A node ends with this when its command line is wrong: the next time it would be no better.
const WRONG_USAGE: i32 = 2;

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, arg = unasked_servers())]
pub(crate) struct DevArgs {
    /// How many nodes, 1 to 99.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = number::<u16>(1..=99))]
    nodes: u16,
    /// The folder for data and logs. What is there already is taken up again.
    #[arg(long, default_value = "./quorate-data", value_name = "DIR")]
    data: PathBuf,
    /// gRPC port of node 1.
    #[arg(long, default_value_t = 7001, value_name = "PORT", value_parser = number::<u16>(1..=u16::MAX))]
    base_port_grpc: u16,
    /// Peer port of node 1 [default: the gRPC port plus 100]
    #[arg(long, value_name = "PORT", value_parser = number::<u16>(1..=u16::MAX))]
    base_port_peer: Option<u16>,
    /// HTTP port of node 1.
    #[arg(long, default_value_t = 8081, value_name = "PORT", value_parser = number::<u16>(1..=u16::MAX))]
    base_port_http: u16,
    /// Do not start a node again that has died.
    #[arg(long)]
    no_restart: bool,
    /// What the nodes log, in the style of RUST_LOG.
    #[arg(long, default_value = "info", value_name = "FILTER", value_parser = filter)]
    log: String,
}

fn filter(text: &str) -> Result<String, String> {
    telemetry::check_filter(text).map(|()| text.to_owned())
}

/// One node as `cluster.json` shows it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Place {
    pub(crate) id: u16,
    /// Of the newest process; null before the first one.
    pub(crate) pid: Option<u32>,
    pub(crate) grpc: String,
    peer: String,
    http: String,
    /// Absolute: whoever reads the file may be in another folder.
    data: PathBuf,
}

#[derive(Serialize)]
struct ClusterFile<'a> {
    version: &'static str,
    nodes: &'a [Place],
}

/// The same as others read it.
#[derive(Deserialize)]
struct Announced {
    nodes: Vec<Place>,
}

/// The nodes of the `quorate dev` that runs in that folder.
///
/// # Errors
/// None runs there, or it is not ready yet.
pub(crate) fn running(data: &Path) -> Result<Vec<Place>, Failure> {
    let none = || {
        let data = data.display();
        Failure::work(format!(
            "no quorate dev is ready in {data}: start one with `quorate dev --data {data}`"
        ))
    };
    // What a `dev` that was killed has left names processes that are others' by now.
    match File::open(data.join("dev.lock")).map(|lock| lock.try_lock()) {
        Ok(Err(std::fs::TryLockError::WouldBlock)) => {}
        Ok(Ok(()) | Err(std::fs::TryLockError::Error(_))) | Err(_) => return Err(none()),
    }
    let text = std::fs::read(data.join("cluster.json")).map_err(|_missing| none())?;
    let announced: Announced = serde_json::from_slice(&text).map_err(|error| {
        Failure::work(format!("{} cannot be read: {error}", data.join("cluster.json").display()))
    })?;
    Ok(announced.nodes)
}

/// Runs the cluster until a signal comes, or until no node is left.
pub(crate) async fn run(args: DevArgs) -> Result<(), Failure> {
    let places = places(&args)?;
    let data = &args.data;
    std::fs::create_dir_all(data)
        .map_err(|error| Failure::work(format!("cannot create the folder {}: {error}", data.display())))?;
    let _lock = lock(data)?;
    // An old one would tell scripts that we are ready.
    let announcement = data.join("cluster.json");
    remove_if_there(&announcement)?;
    let missing = held::missing(data, args.nodes)?;
    for id in &missing {
        say(&format!(
            "the folder {} is missing, so node {id} is not started; the other {} of {} nodes go on without it. Put the \
             folder back and start again; if it is lost, make an empty one: the node then waits until `quorate cluster \
             replace-node {id}` admits it",
            data.join(format!("node-{id}")).display(),
            usize::from(args.nodes) - missing.len(),
            args.nodes
        ));
    }
    check_ports(&places).await?;
    wait_for_folders(&places).await;

    let mut stop = signals()?;
    let (stopping, stopped) = channel(false);
    let cluster = Arc::new(Cluster::new(&args, places, missing)?);
    let keepers = {
        let keep = |at| tokio::spawn(cluster.clone().keep(at, stopped.clone()));
        cluster.started().into_iter().map(keep).collect::<Vec<_>>()
    };
    let watching = tokio::spawn(cluster.clone().watch(stopped.clone()));
    let mut all_gone = Box::pin(join_all(keepers));
    let signalled = tokio::select! { biased;
        () = stop.wait() => true,
        _ = &mut all_gone => false,
    };
    stopping.send_replace(true);
    if signalled {
        say("stopping; the data is kept");
        all_gone.await;
    }
    drop(watching.await);
    remove_if_there(&announcement)?;
    if signalled { Ok(()) } else { Err(Failure::work("no node is left; their logs lie beside their data")) }
}

/// Where everything goes. Wrong usage if ports run out or overlap.
fn places(args: &DevArgs) -> Result<Vec<Place>, Failure> {
    let data = std::path::absolute(&args.data)
        .map_err(|error| Failure::work(format!("{} is no folder: {error}", args.data.display())))?;
    let beyond = || Failure::Usage("the ports of the last node are beyond 65535".to_owned());
    let peers = match args.base_port_peer {
        Some(port) => port,
        None => args.base_port_grpc.checked_add(100).ok_or_else(beyond)?,
    };
    let mut seen = BTreeMap::new();
    let mut address = |base: u16, at: u16, what: &'static str| {
        let port = base.checked_add(at).ok_or_else(beyond)?;
        let us = format!("{what} of node {}", at + 1);
        match seen.insert(port, us.clone()) {
            Some(other) => Err(Failure::Usage(format!("port {port} would be both {other} and {us}"))),
            None => Ok(format!("127.0.0.1:{port}")),
        }
    };
    (0..args.nodes)
        .map(|at| {
            Ok(Place {
                id: at + 1,
                pid: None,
                grpc: address(args.base_port_grpc, at, "gRPC")?,
                peer: address(peers, at, "peers")?,
                http: address(args.base_port_http, at, "HTTP")?,
                data: data.join(format!("node-{}", at + 1)),
            })
        })
        .collect()
}

/// Held as long as this process lives: one `dev` a folder.
fn lock(data: &Path) -> Result<File, Failure> {
    let path = data.join("dev.lock");
    let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = open.map_err(|error| Failure::work(format!("cannot write to {}: {error}", data.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(Failure::work(format!("another quorate dev runs on {}", data.display())))
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(Failure::work(format!("cannot lock {}: {error}", path.display())))
        }
    }
}

fn remove_if_there(file: &Path) -> Result<(), Failure> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::work(format!("cannot remove {}: {error}", file.display())))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Says in one sentence what a node would say in its log. A port in use is looked at again for a while: the nodes of
/// a `dev` that was killed just now are about to end.
async fn check_ports(places: &[Place]) -> Result<(), Failure> {
    let deadline = Instant::now() + PORTS_TIME_MAX;
    for place in places {
        for (address, what) in [(&place.grpc, "gRPC"), (&place.peer, "peers"), (&place.http, "HTTP")] {
            let mut bound = std::net::TcpListener::bind(address);
            while bound.is_err() && Instant::now() < deadline {
                tokio::time::sleep(LOOK_AGAIN).await;
                bound = std::net::TcpListener::bind(address);
            }
            if let Err(error) = bound {
                let reason = if error.kind() == io::ErrorKind::AddrInUse {
                    "port in use: another process listens there".to_owned()
                } else {
                    error.to_string()
                };
                return Err(Failure::work(format!(
                    "cannot listen on {address} ({what} of node {}): {reason}; choose other ports with --base-port-grpc, \
                     --base-port-peer and --base-port-http",
                    place.id
                )));
            }
        }
    }
    Ok(())
}

/// Waits a while for the nodes of a `dev` that was killed just now to let go of their folders; a node says itself that
/// another one has its.
async fn wait_for_folders(places: &[Place]) {
    let deadline = Instant::now() + PORTS_TIME_MAX;
    for place in places {
        let Ok(lock) = File::open(place.data.join(".lock")) else { continue };
        while lock.try_lock().is_err() && Instant::now() < deadline {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

struct Cluster {
    program: PathBuf,
    data: PathBuf,
    bootstrap: String,
    log: String,
    restart: bool,
    default_ports: bool,
    /// Nodes that are not started: their data is missing.
    missing: BTreeSet<u16>,
    now: Mutex<Now>,
}

/// What changes as nodes come and go.
struct Now {
    places: Vec<Place>,
    /// The process of each node that runs.
    running: Vec<Option<u32>>,
    /// `cluster.json` is there, and is kept true.
    announced: bool,
}

/// How a node's process came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    /// Its exit status; none if a signal ended it, or if it could not be started.
    code: Option<i32>,
    /// The same in words.
    words: String,
}

impl Cluster {
    fn new(args: &DevArgs, places: Vec<Place>, missing: BTreeSet<u16>) -> Result<Self, Failure> {
        let bootstrap = places.iter().map(|place| format!("{}={}", place.id, place.peer)).collect::<Vec<_>>();
        Ok(Self {
            program: std::env::current_exe()?,
            data: args.data.clone(),
            bootstrap: bootstrap.join(","),
            log: args.log.clone(),
            restart: !args.no_restart,
            default_ports: args.base_port_grpc == 7001,
            missing,
            now: Mutex::new(Now { running: vec![None; places.len()], places, announced: false }),
        })
    }

    /// The places of those nodes that are started.
    fn started(&self) -> Vec<usize> {
        let now = self.now();
        let there = now.places.iter().enumerate().filter(|(_, place)| !self.missing.contains(&place.id));
        there.map(|(at, _)| at).collect()
    }

    fn now(&self) -> std::sync::MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_file(&self, id: usize) -> PathBuf {
        self.data.join(format!("node-{id}.log"))
    }

    /// Starts a node's process and notes it.
    fn start(&self, at: usize) -> io::Result<Child> {
        let place = self.now().places[at].clone();
        let log = OpenOptions::new().create(true).append(true).open(self.log_file(at + 1))?;
        let mut command = Command::new(&self.program);
        // What is set for our own commands is not meant for the nodes.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("QUORATE_") {
                command.env_remove(name);
            }
        }
        let child = command
            .args(["node", "--id", &place.id.to_string(), "--listen-grpc", &place.grpc])
            .args(["--listen-peer", &place.peer, "--listen-http", &place.http])
            .args(["--bootstrap", &self.bootstrap, "--log", &self.log])
            .args(["--auto-create-topics", "--exit-with-stdin", "--data"])
            .arg(&place.data)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A terminal's Ctrl-C reaches us alone; we end the nodes in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let mut now = self.now();
        (now.places[at].pid, now.running[at]) = (child.id(), child.id());
        if now.announced {
            self.write(&now.places);
        }
        Ok(child)
    }

    /// Keeps one node running until told to stop.
    async fn keep(self: Arc<Self>, at: usize, mut stopped: Receiver<bool>) {
        let id = at + 1;
        let mut back_off = BACK_OFF_MIN;
        let mut before = None;
        loop {
            let started = Instant::now();
            let ended = match self.start(at) {
                Ok(mut child) => {
                    // The pipe that the node watches. Waiting for a child closes its input, unless it is taken.
                    let _pipe = child.stdin.take();
                    let ended = tokio::select! { biased;
                        _ = stopped.wait_for(|stop| *stop) => None,
                        status = child.wait() => Some(status),
                    };
                    self.now().running[at] = None;
                    match ended {
                        None => return stop(&mut child).await,
                        Some(Ok(status)) => self.describe_end(at, status),
                        Some(Err(error)) => End { code: None, words: error.to_string() },
                    }
                }
                Err(error) => End { code: None, words: format!("could not be started: {error}") },
            };
            if !self.restart {
                say(&format!("node {id} {}", ended.words));
                return;
            }
            if ended.code == Some(WRONG_USAGE) {
                say(&format!("node {id} {}; it is not started again", ended.words));
                return;
            }
            if started.elapsed() >= STEADY {
                (back_off, before) = (BACK_OFF_MIN, None);
            }
            // What hinders it each time is said when it shows, and once more when it is here to stay.
            if ended.code.is_none() || before.as_ref() != Some(&ended) {
                say(&format!("node {id} {}; starting it again in {} ms", ended.words, back_off.as_millis()));
                before = Some(ended);
            } else if back_off < BACK_OFF_MAX && back_off * 2 >= BACK_OFF_MAX {
                say(&format!(
                    "node {id} ends like that each time; it is tried again every {} s until it stays (see {})",
                    BACK_OFF_MAX.as_secs(),
                    self.log_file(id).display()
                ));
            }
            tokio::select! { biased;
                _ = stopped.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(back_off) => {}
            }
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    /// How a node ended, with the last line of its log unless it was killed.
    fn describe_end(&self, at: usize, status: ExitStatus) -> End {
        let Some(code) = status.code() else {
            return End { code: None, words: format!("was ended by {status}") };
        };
        let last = last_line(&self.log_file(at + 1)).unwrap_or_else(|_unreadable| String::new());
        let last = if last.is_empty() { "nothing in its log" } else { &last };
        End { code: Some(code), words: format!("ended with status {code} ({last})") }
    }

    /// Waits until the nodes are ready, writes `cluster.json` and says so; says which node is late or ready again for
    /// as long as they run.
    async fn watch(self: Arc<Self>, mut stopped: Receiver<bool>) {
        let watching = async {
            let started = Instant::now();
            let all = self.now().places.len();
            let mut seen: Vec<Seen> = (0..all).map(|_| Seen::default()).collect();
            loop {
                let (places, running, announced) = {
                    let now = self.now();
                    (now.places.clone(), now.running.clone(), now.announced)
                };
                let ready = join_all(places.iter().map(|place| self.ask(place))).await;
                let now = Instant::now();
                let still = self.now().running.clone();
                for at in 0..all {
                    // Else nobody knows which of two processes answered.
                    if running[at] == still[at] {
                        self.say_of(at, seen[at].look(running[at], &ready[at], now));
                    }
                }
                let count = ready.iter().filter(|ready| ready.is_ok()).count();
                let enough = count == all - self.missing.len()
                    || count > all / 2 && started.elapsed() > ALL_READY_TIME_MAX;
                if !announced && enough {
                    for at in self.started() {
                        self.say_of(at, seen[at].late(&ready[at], now));
                    }
                    self.announce(&ready.iter().map(Result::is_ok).collect::<Vec<_>>());
                }
                tokio::time::sleep(if announced { LOOK_LATER } else { LOOK_AGAIN }).await;
            }
        };
        tokio::select! { biased;
            _ = stopped.wait_for(|stop| *stop) => {}
            () = watching => {}
        }
    }

    /// Whether a node is ready; if not, why.
    async fn ask(&self, place: &Place) -> Result<(), String> {
        if self.missing.contains(&place.id) {
            return Err("its folder is missing".to_owned());
        }
        is_ready(&place.http).await
    }

    fn say_of(&self, at: usize, word: Option<Word>) {
        let Some(word) = word else { return };
        let id = at + 1;
        let log = match &word {
            Word::Late(_) => format!("; see {}", self.log_file(id).display()),
            Word::Ready | Word::ReadyAgain => String::new(),
        };
        say(&format!("node {id} {word}{log}"));
    }

    /// Writes `cluster.json`, and greets on standard output.
    fn announce(&self, ready: &[bool]) {
        let mut now = self.now();
        now.announced = true;
        self.write(&now.places);
        let nodes = u16::try_from(now.places.len()).expect("as many as --nodes says");
        if let Err(Failure::Work(error)) = held::formed(&self.data, nodes) {
            say(&error.to_string());
        }
        // A reader of our output that went away is no reason to end.
        drop(io::stdout().write_all(self.greeting(&now.places, ready).as_bytes()));
    }

    /// Replaces `cluster.json` as a whole, so that nobody reads half of it.
    fn write(&self, places: &[Place]) {
        let write = || -> io::Result<()> {
            let file = ClusterFile { version: env!("CARGO_PKG_VERSION"), nodes: places };
            let part = self.data.join("cluster.json.part");
            std::fs::write(&part, serde_json::to_vec(&file)?)?;
            std::fs::rename(&part, self.data.join("cluster.json"))
        };
        if let Err(error) = write() {
            say(&format!("cannot write {}: {error}", self.data.join("cluster.json").display()));
        }
    }

    fn greeting(&self, places: &[Place], ready: &[bool]) -> String {
        let program = std::env::args().next().unwrap_or_else(|| "quorate".to_owned());
        let ports: Vec<&str> = places.iter().map(|p| p.grpc.trim_start_matches("127.0.0.1:")).collect();
        let servers = if self.default_ports {
            String::new()
        } else {
            format!(" --servers 127.0.0.1:{}", ports.join(","))
        };
        let all = places.len();
        let count = ready.iter().filter(|ready| **ready).count();
        let count = if count == all { all.to_string() } else { format!("{count} of {all}") };
        let mut text = format!("ready: {count} nodes, data in {}\n\n", self.data.display());
        for place in places.iter().filter(|place| !self.missing.contains(&place.id)) {
            let pid = place.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            let late = if ready[usize::from(place.id) - 1] { "" } else { "  not ready" };
            let (id, grpc, http) = (place.id, &place.grpc, &place.http);
            writeln!(text, "  node {id}  pid {pid}  gRPC {grpc}  HTTP http://{http}{late}")
                .expect("writing to a string does not fail");
        }
        let replicas = places.len().min(3);
        write!(
            text,
            "\nIn another terminal:\n\n  {program}{servers} topic create lines --partitions 1 --replicas {replicas}\n  \
             seq 1 100000 | {program}{servers} produce lines\n  \
             {program}{servers} consume lines --from beginning --until-end\n\nCtrl-C ends the cluster; the data is kept.\n"
        )
        .expect("writing to a string does not fail");
        text
    }
}

/// The last line of a file that is not blank, or its end if that line is very long; empty if there is none. A node's
/// log may be far larger than memory.
fn last_line(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_LINE_BYTES_MAX)))?;
    let mut end = Vec::new();
    file.take(LAST_LINE_BYTES_MAX).read_to_end(&mut end)?;
    let end = String::from_utf8_lossy(&end);
    Ok(end.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default().to_owned())
}

fn say(line: &str) {
    Output::note(format!("quorate dev: {line}"));
}

/// Asks the node to end, and makes it if it does not.
async fn stop(child: &mut Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended by itself just now.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
    }
    if tokio::time::timeout(STOP_TIME_MAX, child.wait()).await.is_err() {
        drop(child.kill().await);
    }
}

/// Asks `/readyz`; if the node is not ready, why.
async fn is_ready(http: &str) -> Result<(), String> {
    let answer =
        http_get::get(http, "/readyz").await.map_err(|error| format!("it does not answer: {error}"))?;
    if answer.is_ok {
        return Ok(());
    }
    let reason = answer.body.trim();
    Err(reason.strip_prefix("not ready: ").unwrap_or(reason).to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        dev: DevArgs,
    }

    fn ports(line: &str) -> Result<Vec<String>, String> {
        let args = Line::try_parse_from(line.split(' ')).map_err(|error| error.to_string())?.dev;
        match places(&args) {
            Ok(places) => Ok(places.into_iter().flat_map(|p| [p.grpc, p.peer, p.http]).collect()),
            Err(Failure::Usage(message)) => Err(message),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn node_k_adds_k_less_one_to_each_port() {
        let expected =
            ["7001", "7101", "8081", "7002", "7102", "8082"].map(|port| format!("127.0.0.1:{port}"));
        assert_eq!(ports("dev --nodes 2"), Ok(expected.to_vec()));
        let peers = ports("dev --nodes 1 --base-port-grpc 9000 --base-port-http 10000").unwrap();
        assert_eq!(peers[1], "127.0.0.1:9100");
    }

    #[test]
    fn ports_that_collide_or_run_out_are_wrong_usage() {
        assert_eq!(
            ports("dev --base-port-peer 7002"),
            Err("port 7002 would be both peers of node 1 and gRPC of node 2".to_owned())
        );
        assert!(ports("dev --base-port-grpc 65500").is_err());
        assert!(ports("dev --base-port-http 65534").is_err());
        for flag in ["--base-port-grpc", "--base-port-peer", "--base-port-http"] {
            // The system would choose another one at each start, and cluster.json would say 0.
            let error = ports(&format!("dev {flag} 0")).unwrap_err();
            assert!(error.contains(flag) && error.contains("from 1 to 65535"), "{error}");
        }
        for nodes in ["0", "100", "1000", "-1", "three"] {
            let error = ports(&format!("dev --nodes={nodes}")).unwrap_err();
            assert!(error.contains("--nodes") && error.contains(nodes), "{error}");
        }
    }

    #[test]
    fn the_last_line_of_a_log_of_any_length() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let check = |text: &[u8], expected: &str| {
            std::fs::write(&log, text).unwrap();
            assert_eq!(last_line(&log).unwrap(), expected);
        };
        check(b"", "");
        check(b" \n\n", "");
        check(b"a\nb", "b");
        check(b"a\n  b \n\n", "b");
        check(b"\xff\nend\n", "end");
        check(&[b"x\n".repeat(100_000), b"end\n".to_vec()].concat(), "end");
        check(&b"x".repeat(100_000), &"x".repeat(4_096));
        assert!(last_line(&dir.path().join("none")).is_err());
    }
}
