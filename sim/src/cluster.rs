//! Real nodes on simulated machines: started, crashed, started again.

mod damage;
mod faults;
mod knobs;
mod members;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_node::env::{Env, Metrics};
use quorate_node::wiring::{Node, NodeConfig, Readiness};
use quorate_proto::ids::{GroupId, LogIndex, NodeId};
use tokio::sync::{mpsc, watch};

use crate::dice::Dice;
use crate::env::channel;
use crate::env::clock::{self, SimClock};
use crate::env::disk::{DiskEvent, SimDisk};
use crate::env::entropy::SimEntropy;
use crate::env::network::Network;
use crate::env::pool::SimPool;
use crate::env::probe::Probes;
use crate::env::tasks::{Host, Life};
use crate::env::transport::SimTransport;
use crate::history::{History, ReplicaEntry, ReplicaLog};
use crate::marks::Marks;
use crate::observe::Observer;
use crate::tally::Tally;
use crate::trace::{Event, Trace};
pub use damage::{Harm, Struck};
pub use faults::{Brought, Start};
pub use knobs::{Keeping, Knobs, Tempo};
pub use members::{Order, Orders};

/// How a node dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process alone: its machine resets its connections and keeps what it wrote.
    Kill,
    /// The machine: silence, and what was not synced is lost in part.
    PowerCut,
    /// The same in the middle of the disk operation that many operations ahead.
    PowerCutAtOperation(u64),
}

/// The nodes of a run.
pub struct Cluster {
    seed: u64,
    knobs: Knobs,
    network: Network,
    history: History,
    trace: Trace,
    marks: Marks,
    observer: Observer,
    tally: Tally,
    machines: BTreeMap<NodeId, Machine>,
    orders: Orders,
    /// The node whose disk was damaged last, until it is whole again.
    damaged: Option<NodeId>,
    falls: mpsc::UnboundedReceiver<(NodeId, u64)>,
    tell_fall: mpsc::UnboundedSender<(NodeId, u64)>,
}

struct Machine {
    disk: SimDisk,
    clock: SimClock,
    /// Lives so far; the last one may have ended.
    lives: u64,
    life: Option<Life>,
    running: Arc<Mutex<Option<Arc<Node>>>>,
    /// Whether a sync was made to fail in this life, or a write for which there was no room.
    sync_failed: Arc<AtomicBool>,
    /// Whether the volume that is written to, or `meta.redb`, was damaged, the disk is not whole again, and no process
    /// has ended by that yet.
    newest_harmed: Arc<AtomicBool>,
    /// Asks the node to stop.
    stop: watch::Sender<bool>,
    /// The node's own disk, while another one is in its place.
    own_disk: Option<SimDisk>,
    /// Whether it asks the others to be admitted, and does not form a cluster with them.
    joins: bool,
    /// Since when it is paused, and what it led then.
    paused: Option<(Duration, BTreeSet<GroupId>)>,
}

impl Cluster {
    /// Machines with empty disks; none is started.
    pub fn new(
        seed: u64,
        knobs: Knobs,
        network: Network,
        history: History,
        trace: Trace,
        marks: Marks,
    ) -> Self {
        let (tell_fall, falls) = mpsc::unbounded_channel();
        let observer = Observer::new(history.clone(), marks.clone(), trace.clone());
        if knobs.observed {
            network.watch(Arc::new(observer.clone()));
        }
        let mut machines = BTreeMap::new();
        let tally = Tally::default();
        for node in (1..=knobs.nodes).map(NodeId) {
            let mut dice = Dice::named(seed, &format!("machine {node}"));
            let ahead_ms = i64::try_from(dice.below(1_200_000)).unwrap_or_default() - 600_000;
            let clock = SimClock::new(Duration::from_millis(dice.below(100_000)), ahead_ms);
            let disk = SimDisk::new();
            disk.set_pace(knobs.pace, dice);
            let sync_failed = Arc::new(AtomicBool::new(false));
            let eyes = Eyes {
                trace: trace.clone(),
                observer: observer.clone(),
                tally: tally.clone(),
                marks: marks.clone(),
            };
            eyes.watch(node, &disk, &sync_failed);
            if knobs.observed {
                observer.machine(node, disk.clone(), clock.clone());
            }
            let running = Arc::default();
            let machine = Machine {
                disk,
                clock,
                lives: 0,
                life: None,
                running,
                sync_failed,
                newest_harmed: Arc::default(),
                stop: watch::Sender::new(false),
                own_disk: None,
                joins: false,
                paused: None,
            };
            machines.insert(node, machine);
        }
        network.set_marks(marks.clone());
        let orders = Orders::default();
        let damaged = None;
        Self {
            seed,
            knobs,
            network,
            history,
            trace,
            marks,
            observer,
            tally,
            machines,
            orders,
            damaged,
            falls,
            tell_fall,
        }
    }

    /// The ids of all nodes.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.machines.keys().copied().collect()
    }

    /// Where clients find them.
    pub fn servers(&self) -> Vec<String> {
        self.machines.keys().map(|node| grpc_address(*node)).collect()
    }

    /// The network they are on.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// A node's disk.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn disk(&self, node: NodeId) -> &SimDisk {
        &self.machine(node).disk
    }

    /// Bytes that each node keeps free on its disk.
    pub fn disk_reserve(&self) -> u64 {
        self.knobs.disk_reserve_bytes
    }

    /// From now on `core` must make progress: all that was broken among them is mended.
    pub fn healed(&self, core: Vec<NodeId>) {
        // All nodes have the same.
        let config = self.config(NodeId(1), None).raft;
        self.observer.healed(core, Duration::from_millis(config.election_timeout_ms_max));
    }

    /// Who watches the nodes.
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// Counts the faults that take hold.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Complaints go here.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What the run has reached.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Where nodes and clients meet an unkind world, and what they reach.
    pub fn probes(&self) -> Probes {
        Probes { points: self.knobs.points.clone(), marks: self.marks.clone() }
    }

    /// Puts an event into the trace.
    pub fn note(&self, event: Event) {
        self.trace.note(&event);
    }

    /// Starts a node, if it is down. Ready at once: what the node does then takes its own time.
    pub async fn start(&mut self, node: NodeId) {
        self.start_as(node, Start::default()).await;
    }

    /// Starts a node in one of many ways, if it is down.
    pub async fn start_as(&mut self, node: NodeId, start: Start) {
        self.bury(node).await;
        if self.machine(node).life.is_some() {
            return;
        }
        self.mark_start(node, start);
        self.exchange_disk(node, start.disk);
        let probes = self.probes();
        let machine = self.machines.get_mut(&node).expect("a node of this cluster");
        machine.lives += 1;
        machine.sync_failed.store(false, Ordering::Relaxed);
        machine.stop.send_replace(false);
        let number = machine.lives;
        let (history, disk) = (self.history.clone(), machine.disk.clone());
        let life = Life::new(Host::Node(node), move |host, task, said| {
            // Without power nobody hears a panic any more.
            if disk.is_powered() {
                history.complain("panic", format!("task {task} of {host} panicked: {said}"));
            }
        });
        machine.life = Some(life.clone());
        machine.running = Arc::default();
        let running = machine.running.clone();
        {
            let (life, network, falls) = (life.clone(), self.network.clone(), self.tell_fall.clone());
            let (disk, marks, tally) = (machine.disk.clone(), self.marks.clone(), self.tally.clone());
            machine.disk.on_cut(move || {
                faults::before_a_power_cut(&disk, &marks);
                tally.count("power cut at an operation");
                life.end();
                network.set_dark(Host::Node(node), true);
                // The run may be over.
                falls.send((node, number)).unwrap_or_default();
            });
            if let Some(after) = start.cut_after {
                machine.disk.cut_power_at(machine.disk.operations() + after);
            }
        }
        life.let_others_first(
            self.knobs.others_first_per_mille,
            Dice::named(self.seed, &format!("order of node {node} in life {number}")),
        );
        let purpose = |what: &str| Dice::named(self.seed, &format!("{what} of node {node} in life {number}"));
        let env = Env {
            base: quorate_proto::env::Env {
                clock: Arc::new(machine.clock.clone()),
                tasks: Arc::new(life.clone()),
                entropy: Arc::new(SimEntropy::new(purpose("entropy"))),
                probe: probes.probe(purpose("points")),
            },
            disk: Arc::new(machine.disk.clone()),
            transport: Arc::new(SimTransport::new(self.network.clone(), life.clone())),
            pool: Arc::new(SimPool::new(
                life.clone(),
                machine.disk.clone(),
                self.knobs.pool_wait_max,
                purpose("pool"),
            )),
            metrics: Metrics::default(),
        };
        self.network.set_dark(Host::Node(node), false);
        self.network.begin_life(Host::Node(node));
        let running_node = RunningNode {
            node,
            number,
            life: life.clone(),
            network: self.network.clone(),
            history: self.history.clone(),
            trace: self.trace.clone(),
            running,
            sync_failed: self.machine(node).sync_failed.clone(),
            newest_harmed: self.machine(node).newest_harmed.clone(),
            opened_harmed: self.machine(node).newest_harmed.load(Ordering::Relaxed),
            falls: self.tell_fall.clone(),
            observer: self.observer.clone(),
            stop: self.machine(node).stop.subscribe(),
            stranger: self.is_stranger(node),
        };
        self.note(Event::Node { node, what: format!("starts, life {number}") });
        let config = self.config(node, start.forgets);
        if !self.is_stranger(node) {
            self.observer.starts(node, &config.storage);
        }
        life.start("node", Box::pin(running_node.run(env, config)));
    }

    /// Ready when a node is down that [`Cluster::crash`] did not bring down by itself: its power went at an
    /// operation, or it stopped itself. [`Cluster::start`] brings it back. Safe to drop: nothing is lost.
    pub async fn fallen(&mut self) -> NodeId {
        loop {
            let Some((node, number)) = self.falls.recv().await else {
                return std::future::pending().await;
            };
            if self.machine(node).lives == number && self.machine(node).life.is_some() {
                return node;
            }
        }
    }

    /// Waits until every node has started and says that it is ready.
    pub async fn until_ready(&self, patience: Duration) {
        let deadline = clock::now() + patience;
        for node in self.nodes() {
            loop {
                let said = match self.running(node) {
                    Some(running) => {
                        let readiness = running.readiness().borrow().clone();
                        match readiness {
                            Readiness::Ready => break,
                            Readiness::NotReady(reason) => reason,
                        }
                    }
                    None => "it has not started".to_owned(),
                };
                if clock::now() > deadline {
                    let what = format!("node {node} is not ready after {patience:?}: {said}");
                    self.history.complain("O-27", what);
                    return;
                }
                clock::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// When the disks of these nodes will have answered what they were asked by now: what has stalled once ends in its
    /// own time, whatever is mended.
    pub fn disks_answer_at(&self, nodes: &[NodeId]) -> Duration {
        nodes.iter().map(|node| self.machine(*node).disk.busy_until()).max().unwrap_or_default()
    }

    /// Whether every node has started and says that it is ready.
    pub fn is_ready(&self) -> bool {
        let ready = |running: Arc<Node>| *running.readiness().borrow() == Readiness::Ready;
        self.nodes().into_iter().all(|node| self.running(node).is_some_and(ready))
    }

    /// Puts every replica into the evidence, once all replicas of each group are as long as each other.
    pub async fn collect_replicas(&self, patience: Duration) {
        let deadline = clock::now() + patience;
        // Every group has three replicas, or as many as there are nodes.
        let fewest = self.machines.len().min(3);
        loop {
            let lengths = self.replica_ends();
            let apart = lengths.iter().find(|(_, ends)| {
                ends.len() < fewest || ends.values().any(|end| Some(end) != ends.values().next())
            });
            let Some((group, ends)) = apart else { break };
            if clock::now() > deadline {
                let ends = ends.iter().map(|(node, last)| match last {
                    Some((term, index)) => format!("node {node} at entry {index} of term {term}"),
                    None => format!("node {node} with an empty log"),
                });
                let ends = ends.collect::<Vec<_>>().join(", ");
                let what = format!(
                    "replicas converge: those of group {group} are not equal {patience:?} after the last write: {ends}"
                );
                self.history.complain("O-28", what);
                break;
            }
            clock::sleep(Duration::from_millis(50)).await;
        }
        for node in self.nodes() {
            let Some(running) = self.running(node) else { continue };
            for group in running.store().groups() {
                self.collect(node, &running, group).await;
            }
        }
    }

    /// Ends all nodes, as if their power went.
    pub async fn end_all(&mut self) {
        for node in self.nodes() {
            self.machine(node).disk.cut_power();
            self.end(node).await;
            self.machine(node).disk.forget_watchers();
        }
        self.observer.forget();
    }

    /// Last entries of each group's replicas.
    fn replica_ends(&self) -> BTreeMap<GroupId, BTreeMap<NodeId, Option<(u64, LogIndex)>>> {
        let mut ends = BTreeMap::<_, BTreeMap<_, _>>::new();
        for node in self.nodes() {
            let Some(running) = self.running(node) else { continue };
            for group in running.store().groups() {
                let last = running.store().log(group).state().last.map(|last| (last.term.0, last.index));
                ends.entry(group).or_default().insert(node, last);
            }
        }
        ends
    }

    async fn collect(&self, node: NodeId, running: &Node, group: GroupId) {
        let log = running.store().log(group);
        let state = log.state();
        let Some(last) = state.last else { return };
        let first = state.purged.map_or(LogIndex(0), |purged| purged.index.next());
        let mut next = first;
        let mut entries = Vec::new();
        while next <= last.index {
            let heads = match log.heads(next..last.index.next(), 1_000).await {
                Ok(heads) => heads,
                Err(error) => {
                    let what = format!("node {node} cannot read heads of group {group} from {next}: {error}");
                    self.history.complain("O-28", what);
                    return;
                }
            };
            if let Err(error) = log.bodies(&heads).await {
                let what = format!("node {node} cannot read bodies of group {group} from {next}: {error}");
                self.history.complain("O-28", what);
                return;
            }
            let Some(newest) = heads.last() else {
                let what =
                    format!("node {node} has no entry {next} of group {group}, and ends at {}", last.index);
                self.history.complain("O-28", what);
                return;
            };
            next = newest.index.next();
            entries.extend(heads.iter().map(|head| ReplicaEntry {
                index: head.index,
                term: head.term,
                body_crc: head.body_crc,
            }));
        }
        let log = ReplicaLog { first, entries };
        self.history.evidence().replicas.entry(group).or_default().insert(node, log);
    }

    /// Clears away a node that fell by itself.
    async fn bury(&mut self, node: NodeId) {
        let machine = self.machine(node);
        let Some(life) = &machine.life else { return };
        if !life.has_ended() {
            return;
        }
        let powered = machine.disk.is_powered();
        machine.disk.cut_power();
        self.end(node).await;
        let mut dice =
            Dice::named(self.seed, &format!("fall of node {node} in life {}", self.machine(node).lives));
        if powered {
            self.machine(node).disk.kill();
        } else {
            self.machine(node).disk.crash(&mut dice);
            self.reboot(node, &mut dice);
        }
    }

    async fn end(&mut self, node: NodeId) {
        self.network.set_paused(Host::Node(node), false);
        let machine = self.machines.get_mut(&node).expect("a node of this cluster");
        machine.paused = None;
        if let Some(life) = machine.life.take() {
            life.end();
            self.observer.ended(node);
            let running = machine.running.lock().unwrap_or_else(PoisonError::into_inner).take();
            drop(running);
            life.gone().await;
        }
    }

    fn machine(&self, node: NodeId) -> &Machine {
        self.machines.get(&node).expect("a node of this cluster")
    }

    fn config(&self, node: NodeId, forgets: Option<NodeId>) -> NodeConfig {
        let mut config = NodeConfig::new(node, &peer_address(node));
        config.advertise_grpc = grpc_address(node);
        config.advertise_http = format!("node{node}:8081");
        if self.machine(node).joins {
            let others = self.machines.keys().filter(|other| **other != node);
            config.join = others.map(|other| peer_address(*other)).collect();
        } else {
            let named = self.machines.keys().filter(|node| Some(**node) != forgets);
            config.bootstrap = named.map(|node| (*node, peer_address(*node))).collect();
        }
        self.knobs.put_into(&mut config);
        config
    }
}

/// A node while it runs.
struct RunningNode {
    node: NodeId,
    number: u64,
    life: Life,
    network: Network,
    history: History,
    trace: Trace,
    running: Arc<Mutex<Option<Arc<Node>>>>,
    sync_failed: Arc<AtomicBool>,
    newest_harmed: Arc<AtomicBool>,
    /// The same when it began. redb keeps what it has read of damage, though the disk may be whole again meanwhile.
    opened_harmed: bool,
    falls: mpsc::UnboundedSender<(NodeId, u64)>,
    observer: Observer,
    stop: watch::Receiver<bool>,
    /// Whether its disk is not its own.
    stranger: bool,
}

impl RunningNode {
    async fn run(mut self, env: Env, config: NodeConfig) {
        let node = match Node::start(env, config).await {
            Ok(node) => Arc::new(node),
            Err(error) => {
                self.fell(&format!("did not start: {error:?}"));
                return;
            }
        };
        if self.stranger {
            self.must_be_refused(&node).await;
            return;
        }
        self.note("started");
        self.observer.opened(self.node, &node, &self.life);
        let listener = channel::listen(&self.network, &self.life, &grpc_address(self.node), node.api())
            .expect("a free port");
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(node.clone());
        let mut stopped = node.stopped_itself();
        let asked = tokio::select! {
            biased;
            _ = stopped.wait_for(Option::is_some) => false,
            _ = self.stop.wait_for(|asked| *asked) => true,
        };
        let in_peace = asked
            && tokio::select! {
                biased;
                Ok(_) = stopped.wait_for(Option::is_some) => false,
                () = node.hand_over() => true,
            };
        if in_peace {
            // What it has read it may have written again as it closed its files.
            self.newest_harmed.fetch_or(self.opened_harmed, Ordering::Relaxed);
            drop((stopped, listener));
            drop(self.running.lock().unwrap_or_else(PoisonError::into_inner).take());
            // Whoever looks at the node at this very moment lets go of it without waiting.
            if let Ok(node) = Arc::try_unwrap(node) {
                node.stop().await;
            }
            self.note("stopped");
            self.end();
            return;
        }
        let reason = stopped.borrow().clone().unwrap_or_else(|| "its parts are gone".to_owned());
        self.fell(&format!("stopped itself: {reason}"));
    }

    /// It came with a disk that is not its own: it may ask, and must never take part.
    async fn must_be_refused(&self, node: &Node) {
        self.note("came with a disk that is not its own");
        let mut readiness = node.readiness();
        if readiness.wait_for(|readiness| *readiness == Readiness::Ready).await.is_ok() {
            let what = format!("node {} came with a disk that is not its own and was taken in", self.node);
            self.history.complain("O-23", what);
        }
        std::future::pending().await
    }

    /// The process ends by itself.
    fn fell(&self, what: &str) {
        self.note(what);
        // A node that sees that its disk is another's ends at once.
        let sync_failed = self.sync_failed.load(Ordering::Relaxed);
        if !self.stranger && !may_end(what, sync_failed, self.opened_harmed, &self.newest_harmed) {
            self.history.complain(
                "O-25",
                format!("node {} {what}, though no sync of its disk failed, and no write", self.node),
            );
        }
        self.end();
    }

    fn end(&self) {
        self.life.end();
        // The run may be over.
        self.falls.send((self.node, self.number)).unwrap_or_default();
    }

    fn note(&self, what: &str) {
        self.trace.note(&Event::Node { node: self.node, what: what.to_owned() });
    }
}

fn grpc_address(node: NodeId) -> String {
    format!("node{node}:7001")
}

fn peer_address(node: NodeId) -> String {
    format!("node{node}:7101")
}

/// Whether a process may end by itself, with `what`. Only a failed sync, or a write without room, is a reason for that; or
/// once that redb finds nothing but damage where it is to write: the next process writes elsewhere. Damage that was
/// there when the process began is a reason also after the medium has given back what the sectors held.
fn may_end(what: &str, sync_failed: bool, opened_harmed: bool, newest_harmed: &AtomicBool) -> bool {
    let harmed = || newest_harmed.swap(false, Ordering::Relaxed) || opened_harmed;
    sync_failed || (what.contains("redb") && harmed())
}

/// Who sees what happens on disks.
struct Eyes {
    trace: Trace,
    observer: Observer,
    tally: Tally,
    marks: Marks,
}

impl Eyes {
    /// Watches a node's disk from now on.
    fn watch(self, node: NodeId, disk: &SimDisk, sync_failed: &Arc<AtomicBool>) {
        let failed = sync_failed.clone();
        disk.watch(move |event| {
            if matches!(event, DiskEvent::SyncFailed { .. } | DiskEvent::NoSpace { .. }) {
                failed.store(true, Ordering::Relaxed);
            }
            self.observer.disk(node, &event);
            count(&event, &self.tally, &self.marks);
            self.trace.note(&Event::Disk { node, event });
        });
    }
}

/// Counts what took hold on a disk.
fn count(event: &DiskEvent, tally: &Tally, marks: &Marks) {
    match event {
        DiskEvent::SyncFailed { .. } => tally.count("failed sync"),
        DiskEvent::NoSpace { .. } => {
            tally.count("no space");
            marks.reached("enospc");
        }
        DiskEvent::Stalled { .. } => tally.count("stalled disk"),
        DiskEvent::Survived(losses) => {
            if losses.sectors_lost + losses.names_lost > 0 {
                tally.count("writes lost or torn");
            }
            if losses.sectors_lost > 0 && losses.sectors_lost < losses.sectors_at_stake {
                marks.reached("crash-with-a-torn-write");
            }
        }
        DiskEvent::Synced { .. } | DiskEvent::Published { .. } | DiskEvent::Cut { .. } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_ends_by_itself_once_for_damage_and_else_for_a_failed_write_alone() {
        let (whole, harmed) = (AtomicBool::new(false), AtomicBool::new(true));
        let redb = "stopped itself: redb panicked: a page that is none";
        assert!(may_end("stopped itself: a sync failed", true, false, &whole));
        assert!(!may_end(redb, false, false, &whole), "nothing was damaged");
        let parts = "stopped itself: its parts are gone";
        assert!(!may_end(parts, false, true, &harmed), "damage is no reason for that");
        assert!(may_end(redb, false, true, &harmed));
        assert!(!may_end(redb, false, false, &harmed), "the process before it has ended by it");
        assert!(may_end(redb, true, false, &harmed));
        // Seed 360752: a flipped bit was read, and then the disk was whole again.
        assert!(may_end(redb, false, true, &whole));
    }
}
