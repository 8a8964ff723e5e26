//! A cluster of real node processes in a temporary folder.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::command::{Ran, quorate, run, run_with};
use crate::wire::Wire;
use crate::{http, ports, wait};

/// How many lines of each node's log a failed test shows.
const LOG_LINES: usize = 40;

/// How a cluster is to be.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Nodes 1 to this.
    pub nodes: u32,
    /// Further flags for each node.
    pub flags: Vec<String>,
}

impl Shape {
    /// `nodes` nodes with default flags.
    pub fn of(nodes: u32) -> Self {
        Self { nodes, flags: Vec::new() }
    }

    /// With one more flag for each node.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }
}

/// Node processes of one cluster, all on 127.0.0.1. Dropping it kills them.
pub struct Cluster {
    nodes: BTreeMap<u32, Node>,
    flags: Vec<String>,
    folder: TempDir,
}

/// One node: where it is, and its process while it runs.
pub struct Node {
    id: u32,
    /// `host:port` for clients.
    pub grpc: String,
    /// `host:port` for peers.
    pub peer: String,
    /// `host:port` of its HTTP faces.
    pub http: String,
    /// Its data folder.
    pub data: PathBuf,
    /// Where its log (standard error) goes, of all its starts.
    pub log: PathBuf,
    /// What `--join` says, for a node that the cluster was not formed with.
    join: Option<String>,
    process: Option<Child>,
}

impl Node {
    fn new(id: u32, folder: &Path) -> Self {
        let address = || format!("127.0.0.1:{}", ports::free());
        Self {
            id,
            grpc: address(),
            peer: address(),
            http: address(),
            data: folder.join(format!("node-{id}")),
            log: folder.join(format!("node-{id}.log")),
            join: None,
            process: None,
        }
    }

    /// Its process id.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap_or_else(|| panic!("node {} does not run", self.id)).id()
    }

    /// `GET path` of its HTTP face.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn get(&self, path: &str) -> io::Result<http::Answer> {
        http::get(&self.http, path)
    }

    /// What it logged, in all its starts.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    fn is_ready(&self) -> bool {
        self.get("/readyz").is_ok_and(|answer| answer.status == 200)
    }
}

impl Cluster {
    /// Starts `nodes` nodes and waits until each is ready.
    ///
    /// # Panics
    /// If one does not become ready within the deadline.
    pub fn start(nodes: u32) -> Self {
        Self::start_as(&Shape::of(nodes))
    }

    /// Starts a cluster of that shape and waits until each node is ready.
    ///
    /// # Panics
    /// If one does not become ready within the deadline.
    pub fn start_as(shape: &Shape) -> Self {
        let mut cluster = Self::lay_out(shape);
        for id in cluster.ids() {
            cluster.launch(id);
        }
        cluster.wait_all_ready();
        cluster
    }

    /// A cluster whose nodes have places and addresses, but were not started.
    ///
    /// # Panics
    /// If no temporary folder can be had.
    pub fn lay_out(shape: &Shape) -> Self {
        let folder = tempfile::Builder::new().prefix("quorate-test-").tempdir().expect("a temporary folder");
        let nodes = (1..=shape.nodes).map(|id| (id, Node::new(id, folder.path()))).collect();
        Self { nodes, flags: shape.flags.clone(), folder }
    }

    /// Its node ids.
    pub fn ids(&self) -> Vec<u32> {
        self.nodes.keys().copied().collect()
    }

    /// A folder that lives as long as the cluster.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A node.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn node(&self, id: u32) -> &Node {
        self.nodes.get(&id).unwrap_or_else(|| panic!("no node {id}"))
    }

    fn node_mut(&mut self, id: u32) -> &mut Node {
        self.nodes.get_mut(&id).unwrap_or_else(|| panic!("no node {id}"))
    }

    /// What `--bootstrap` says.
    pub fn bootstrap(&self) -> String {
        let first = self.nodes.values().filter(|node| node.join.is_none());
        let each: Vec<_> = first.map(|node| format!("{}={}", node.id, node.peer)).collect();
        each.join(",")
    }

    /// A place and addresses for a node that asks to be admitted; it is not started.
    pub fn lay_out_another(&mut self, id: u32) {
        let peers: Vec<_> = self.nodes.values().map(|node| node.peer.clone()).collect();
        let node = Node { join: Some(peers.join(",")), ..Node::new(id, self.folder.path()) };
        self.nodes.insert(id, node);
    }

    /// Kills a node, if it runs, and forgets it: its data stay where they are.
    pub fn forget(&mut self, id: u32) {
        if let Some(mut process) = self.nodes.remove(&id).and_then(|node| node.process) {
            // Both fail only if it has ended already.
            drop(process.kill());
            drop(process.wait());
        }
    }

    /// Empties the data folder of a node that does not run.
    ///
    /// # Panics
    /// If it runs, or the folder cannot be removed.
    pub fn wipe(&mut self, id: u32) {
        let node = self.node(id);
        assert!(node.process.is_none(), "node {id} runs");
        fs::remove_dir_all(&node.data).expect("a folder of ours can be removed");
    }

    /// What `--servers` says: every node.
    pub fn servers(&self) -> String {
        let each: Vec<_> = self.nodes.values().map(|node| node.grpc.clone()).collect();
        each.join(",")
    }

    /// The command that starts a node, for those who want to start it in their own way.
    pub fn node_command(&self, id: u32) -> Command {
        let node = self.node(id);
        let mut command = quorate(["node", "--id", &id.to_string()]);
        command.arg("--data").arg(&node.data);
        command.args(["--listen-grpc", &node.grpc, "--listen-peer", &node.peer, "--listen-http", &node.http]);
        match &node.join {
            Some(members) => command.args(["--join", members]),
            None => command.args(["--bootstrap", &self.bootstrap()]),
        };
        command.args(&self.flags);
        command
    }

    /// Starts a node that does not run, and does not wait for it.
    ///
    /// # Panics
    /// If it runs, or cannot be started.
    pub fn launch(&mut self, id: u32) {
        let command = self.node_command(id);
        self.launch_as(id, command);
    }

    /// As [`Self::launch`], by a command of the caller's, whose process must be the node's own.
    ///
    /// # Panics
    /// As [`Self::launch`].
    pub fn launch_as(&mut self, id: u32, mut command: Command) {
        let node = self.node_mut(id);
        assert!(node.process.is_none(), "node {id} runs already");
        let log = log_file(&node.log);
        // Its standard input is a pipe of ours: should the test be killed, the node ends too.
        let child = command
            .arg("--exit-with-stdin")
            .stdin(Stdio::piped())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        node.process = Some(child);
    }

    /// `kill -9`, and waits until the process is gone.
    ///
    /// # Panics
    /// If it does not run.
    pub fn kill(&mut self, id: u32) {
        self.kill_all(&[id]);
    }

    /// `kill -9` of several at the same instant, then waits until the processes are gone.
    ///
    /// # Panics
    /// If one does not run.
    pub fn kill_all(&mut self, ids: &[u32]) {
        for id in ids {
            let node = self.node_mut(*id);
            let process = node.process.as_mut().unwrap_or_else(|| panic!("node {id} does not run"));
            process.kill().unwrap_or_else(|error| panic!("cannot kill node {id}: {error}"));
        }
        for id in ids {
            if let Some(mut process) = self.node_mut(*id).process.take() {
                process.wait().expect("a child can be waited for");
            }
        }
    }

    /// Waits until a node's process has ended by itself, and gives its status.
    ///
    /// # Panics
    /// If it does not run, or does not end within the deadline.
    pub fn wait_end(&mut self, id: u32) -> ExitStatus {
        let node = self.node_mut(id);
        let mut process = node.process.take().unwrap_or_else(|| panic!("node {id} does not run"));
        wait::until(&format!("the end of node {id}"), || {
            process.try_wait().expect("a child can be waited for")
        })
    }

    /// Waits until a node says that it can commit.
    ///
    /// # Panics
    /// If it does not within the deadline, or its process has ended.
    pub fn wait_ready(&mut self, id: u32) {
        let node = self.node_mut(id);
        wait::until(&format!("node {id} to be ready"), || {
            let process = node.process.as_mut().unwrap_or_else(|| panic!("node {id} does not run"));
            if let Some(status) = process.try_wait().expect("a child can be waited for") {
                node.process = None;
                panic!("node {id} ended by itself with {status}");
            }
            node.is_ready().then_some(())
        });
    }

    /// [`Self::wait_ready`] for each node.
    ///
    /// # Panics
    /// As [`Self::wait_ready`].
    pub fn wait_all_ready(&mut self) {
        for id in self.ids() {
            self.wait_ready(id);
        }
    }

    /// The binary with arguments, with this cluster's servers.
    pub fn quorate<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = quorate(args);
        command.env("QUORATE_SERVERS", self.servers());
        command
    }

    /// Runs a command on this cluster to its end.
    ///
    /// # Panics
    /// If it does not end within the deadline.
    pub fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Ran {
        run(&mut self.quorate(args))
    }

    /// Runs a command on this cluster to its end, with something on its standard input.
    ///
    /// # Panics
    /// If it does not end within the deadline.
    pub fn run_with<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        input: impl AsRef<[u8]>,
    ) -> Ran {
        run_with(&mut self.quorate(args), input.as_ref())
    }

    /// Creates a topic.
    ///
    /// # Panics
    /// If that is refused.
    pub fn create(&self, topic: &str, partitions: u32, replicas: u32) {
        let (partitions, replicas) = (partitions.to_string(), replicas.to_string());
        drop(
            self.run(["topic", "create", topic, "--partitions", &partitions, "--replicas", &replicas]).done(),
        );
    }

    /// Who leads each partition of a topic, in order; 0 for nobody.
    ///
    /// # Panics
    /// If the topic cannot be described.
    pub fn leaders(&self, topic: &str) -> Vec<u32> {
        let described = self.run(["topic", "describe", topic, "--json"]).done().json();
        let partitions = described["partitions"].as_array().expect("partitions is a list");
        let leader = |partition: &Value| partition["leader"].as_u64().unwrap_or(0);
        partitions.iter().map(|partition| u32::try_from(leader(partition)).expect("a node id")).collect()
    }

    /// Who leads a partition, as soon as somebody does.
    ///
    /// # Panics
    /// If nobody does within the deadline.
    pub fn leader(&self, topic: &str, partition: usize) -> u32 {
        wait::until("a leader", || self.leaders(topic).get(partition).copied().filter(|leader| *leader != 0))
    }

    /// Who leads each partition of a topic, as the first node that answers knows it; nobody anywhere if none answers.
    pub fn leaders_known(&self, topic: &str) -> Vec<Option<u32>> {
        let running = self.nodes.values().filter(|node| node.process.is_some());
        let topic =
            running.filter_map(|node| Wire::new(&node.grpc).try_topic(topic)).find(|topic| topic.error == 0);
        let partitions = topic.map(|topic| topic.partitions).unwrap_or_default();
        partitions.iter().map(|partition| Some(partition.leader).filter(|leader| *leader != 0)).collect()
    }

    /// Every record of a topic, from its beginning to the watermarks of now, as `--format json` shows them.
    ///
    /// # Panics
    /// If they cannot be read.
    pub fn read_all(&self, topic: &str) -> Vec<Value> {
        self.run(["consume", topic, "--from", "beginning", "--until-end", "--format", "json"])
            .done()
            .json_lines()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.values_mut() {
            if let Some(mut process) = node.process.take() {
                // Both fail only if it has ended already.
                drop(process.kill());
                drop(process.wait());
            }
        }
        if std::thread::panicking() {
            for node in self.nodes.values() {
                let log = node.log();
                let lines: Vec<_> = log.lines().collect();
                // Backtraces push the panics themselves out of what is shown.
                for panic in lines.windows(2).filter(|pair| pair[0].contains("panicked at")) {
                    eprintln!("--- node {}: {} {}", node.id, panic[0], panic[1]);
                }
                let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
                eprintln!("--- last of node {}'s log\n{}", node.id, last.join("\n"));
            }
        }
    }
}

fn log_file(path: &Path) -> File {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()))
}

/// Sends a signal by name (`INT`, `TERM`, `KILL`, `STOP`, `CONT`) to a process that was started here.
///
/// # Panics
/// If there is no such process.
pub fn signal(pid: u32, name: &str) {
    let ran = run(Command::new("sh").args(["-c", &format!("kill -s {name} {pid}")]));
    assert_eq!(ran.status, Some(0), "cannot signal {pid}: {ran:?}");
}

/// Whether a process of that id is there and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the name in parentheses, which may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z') && !rest.starts_with('X'))
}

/// Waits until a process is gone, for as long as `time`.
///
/// # Panics
/// If it is still there then.
pub fn wait_gone(pid: u32, time: Duration) {
    wait::within(&format!("process {pid} to be gone"), time, || (!is_alive(pid)).then_some(()));
}
