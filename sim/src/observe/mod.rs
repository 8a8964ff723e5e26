//! Watches the nodes of a run from outside and shows the checks whatever is news: replicas as their processes know
//! them, frames as they are sent, and platters. Changes nothing: with it or without it, a run is the same.

#![expect(clippy::wildcard_enum_match_arm, reason = "what concerns somebody is named, the rest is not")]

mod disks;
mod losses;
mod platter;
mod reach;
mod settings;
mod sight;
mod terms;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use quorate_node::api::{Parts, Stage};
use quorate_node::raft::{RaftNode, Role};
use quorate_node::storage::{CheckpointKind, Head, LogId, LogState, Store, StoreConfig};
use quorate_node::wiring::Node;
use quorate_proto::ids::{GroupId, Identity, LogIndex, NodeId, Offset, Term};
use tokio::sync::watch;

pub use platter::Aside;
pub use sight::{Line, OnDisk, Replica, Sight, Usage};

use crate::check::Seen;
use crate::dice::Dice;
use crate::env::clock::{self, SimClock};
use crate::env::disk::{DiskEvent, SimDisk};
use crate::env::network::{Frame, Tap, Wire};
use crate::env::tasks::{Host, Life};
use crate::history::History;
use crate::marks::Marks;
use crate::trace::{Event, Fold, Trace};
use losses::Unseen;
use reach::Reach;
use sight::term_at;
use wire::{Said, Wires};

/// Platters are looked at when this many of one kind of occasion have passed: looking costs a recovery.
const VOTES_PER_LOOK: u64 = 16;
const MATCHES_PER_LOOK: u64 = 512;
const STARTS_PER_DOUBLE_RECOVERY: u64 = 4;
/// All nodes' platters are looked at after this many frames.
const FRAMES_PER_LOOK: u64 = 8_000;
/// What wall clocks have told is shown at least as often while anything is looked at, so that it is known within which
/// time something was stamped.
const WALLS_SHOWN: Duration = Duration::from_secs(1);

/// Watches a run. Clones share it.
#[derive(Clone)]
pub struct Observer(Arc<Inner>);

struct Inner {
    history: History,
    reach: Mutex<Reach>,
    trace: Trace,
    roles: Mutex<BTreeMap<(NodeId, GroupId), Term>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    machines: BTreeMap<NodeId, Machine>,
    wires: Wires,
    frames: u64,
    votes: u64,
    matches: u64,
    starts: u64,
    /// When wall clocks were watched anew.
    walls_at: Duration,
}

struct Machine {
    disk: SimDisk,
    clock: SimClock,
    config: StoreConfig,
    life: Option<Life>,
    running: Option<Running>,
    parts: Weak<Parts>,
    identity: Option<Identity>,
    groups: BTreeMap<GroupId, Shadow>,
    metadata_applied: LogIndex,
    /// The checkpoints that were read from its platters, by their last entry.
    checkpoints: BTreeMap<GroupId, LogId>,
    /// Whether its disk was damaged: a checkpoint that is not there, or cannot be read, may be lost.
    damaged: bool,
    /// Whether its disk was damaged beyond what the atlas allows.
    spoilt: bool,
    /// Whether the newest on its disk was damaged, and it is not whole again: what could be read all the same may be
    /// found lost later.
    newest_harmed: bool,
    /// The groups of which its disk has lost the newest, as it says or as was told of it.
    lost: BTreeSet<GroupId>,
    /// What its disk held before its newest was damaged, until a process has opened it.
    unseen: Option<Unseen>,
    /// What was durable when a sync failed, if one did in this life.
    failed: Option<BTreeMap<GroupId, Option<LogId>>>,
}

/// What is looked at of a node: its parts, since a node that stops is nobody's any more, and writes all the same.
#[derive(Clone)]
struct Running {
    store: Store,
    raft: RaftNode,
    stage: watch::Receiver<Stage>,
}

/// A replica as it was seen last.
#[derive(Default)]
struct Shadow {
    log: LogState,
    /// Whether the log held anything, or had trimmed it; a checkpoint ahead of it does not count.
    held: bool,
    starts: Vec<LogId>,
    /// What it took for committed when it was opened.
    hint: Option<LogId>,
    replica: Option<Replica>,
    next: LogIndex,
    log_start: Offset,
    /// Where the membership lies that it was seen with last.
    config_at: Option<LogId>,
    /// Whether its log was cut since it last told how far it holds it.
    cut: bool,
}

impl Observer {
    /// One that shows `history`'s checks what it sees.
    pub fn new(history: History, marks: Marks, trace: Trace) -> Self {
        let reach = Mutex::new(Reach::new(marks));
        Self(Arc::new(Inner { history, reach, trace, roles: Mutex::default(), state: Mutex::default() }))
    }

    /// There is a machine.
    pub fn machine(&self, node: NodeId, disk: SimDisk, clock: SimClock) {
        let mut state = self.state();
        let machine = Machine {
            disk,
            clock,
            config: StoreConfig::default(),
            life: None,
            running: None,
            parts: Weak::new(),
            identity: None,
            groups: BTreeMap::new(),
            metadata_applied: LogIndex(0),
            checkpoints: BTreeMap::new(),
            damaged: false,
            spoilt: false,
            newest_harmed: false,
            lost: BTreeSet::new(),
            unseen: None,
            failed: None,
        };
        state.machines.insert(node, machine);
    }

    /// A process is about to open its disk. Now and then that disk is recovered aside as well, once, and again after
    /// the power went in the middle.
    pub fn starts(&self, node: NodeId, config: &StoreConfig) {
        let mut state = self.state();
        self.reach().starts(node);
        state.starts += 1;
        let starts = state.starts;
        let Some(machine) = state.machines.get_mut(&node) else { return };
        machine.config = config.clone();
        // Whoever saw it damaged may have ended before anything of that was on the platters.
        if machine.unseen.as_ref().is_some_and(|unseen| unseen.is_healed) && machine.has_again(node, false) {
            self.show(&Sight::GivenBack { node });
        }
        if starts.is_multiple_of(STARTS_PER_DOUBLE_RECOVERY) && !machine.is_spoilt() {
            let dice = Dice::named(starts, "recovered twice");
            match disks::recover_twice(&machine.disk, config, node, dice) {
                Ok((once, twice, logs)) => {
                    for (group, (after, lines)) in logs {
                        self.show(&Sight::OnPlatter { node, group, after, lines });
                    }
                    self.show(&Sight::RecoveredTwice { node, once, twice });
                }
                Err(said) => self.0.history.complain("O-25", said),
            }
        }
    }

    /// A process has opened its disk and runs.
    pub fn opened(&self, node: NodeId, running: &Arc<Node>, life: &Life) {
        let mut state = self.state();
        let Some(machine) = state.machines.get_mut(&node) else { return };
        let identity = running.store().facts().identity();
        if machine.identity.is_some_and(|known| known != identity) {
            // A stranger's disk in the node's place: others must refuse it, and its words bind nobody.
            return;
        }
        let lost = machine.lost_by(running.store());
        if machine.newest_harmed {
            for group in lost.difference(&machine.lost) {
                self.show(&Sight::TailLost { node, group: *group });
            }
        }
        let groups = platter::held_by(running.store());
        let is_kept = |group: &GroupId| !running.store().log(*group).damage().lost.any();
        for group in machine.lost.difference(&lost).filter(|group| is_kept(group)) {
            if let Some(on_disk) = groups.get(group) {
                self.show(&Sight::TailKept { node, group: *group, on_disk: on_disk.clone() });
            }
        }
        machine.lost = lost;
        machine.life = Some(life.clone());
        machine.running = Some(Running {
            store: running.store().clone(),
            raft: running.raft().clone(),
            stage: running.stage(),
        });
        machine.parts = Weak::new();
        machine.metadata_applied = LogIndex(0);
        machine.unseen = None;
        machine.failed = None;
        machine.identity = Some(identity);
        machine.groups = groups
            .iter()
            .map(|(group, found)| {
                let log = running.store().log(*group);
                let (held, log) = (log.state().last.is_some(), platter::state_of(&log));
                let (starts, hint) = (found.starts.clone(), log.committed);
                (*group, Shadow { log, held, starts, hint, ..Shadow::default() })
            })
            .collect();
        self.show(&Sight::Opened { node, identity, groups });
    }

    /// A process has ended, whichever way.
    pub fn ended(&self, node: NodeId) {
        // Its last writes may be on the disk and on no wire.
        self.look_at(node);
        let mut state = self.state();
        let Some(machine) = state.machines.get_mut(&node) else { return };
        self.reach().ends(node);
        // Let go of without the lock: what is dropped with it may touch the disk, which tells us.
        let running = machine.running.take();
        if let Some(running) = &running {
            machine.lost = machine.lost_by(&running.store);
        }
        if machine.life.take().is_some() {
            machine.parts = Weak::new();
            self.show(&Sight::Ended { node });
        }
        drop(state);
        drop(running);
    }

    /// Something happened on a node's disk.
    pub fn disk(&self, node: NodeId, event: &DiskEvent) {
        match event {
            DiskEvent::Synced { .. } => {
                self.look_at(node);
                self.reach().synced(node);
            }
            DiskEvent::Cut { .. } => self.look_at(node),
            DiskEvent::SyncFailed { .. } | DiskEvent::NoSpace { .. } => {
                let mut state = self.state();
                let Some(running) = state.machines.get(&node).and_then(|machine| machine.running.clone())
                else {
                    return;
                };
                let groups = running.store.groups();
                let durable = groups.iter().map(|group| (*group, running.store.log(*group).last_durable()));
                let votes = groups
                    .iter()
                    .filter_map(|group| running.store.log(*group).state().vote.map(|vote| (*group, vote)));
                let (durable, votes) = (durable.collect::<BTreeMap<_, _>>(), votes.collect());
                let failed = durable.clone();
                self.show(&Sight::SyncFailed { node, durable, votes });
                if let Some(machine) = state.machines.get_mut(&node) {
                    machine.failed.get_or_insert(failed);
                }
            }
            DiskEvent::Published { .. } | DiskEvent::Stalled { .. } | DiskEvent::Survived(_) => {}
        }
    }

    /// What was broken is mended, among `core`.
    pub fn healed(&self, core: Vec<NodeId>, election_timeout: Duration) {
        self.look_at_all();
        self.show(&Sight::Healed { core, election_timeout });
    }

    /// Everything was whole for so long, and clients went on: what was to be done in the background is done.
    pub fn settled(&self, whole_for: Duration) {
        self.look_at_all();
        let walls = self.state().walls();
        self.show(&walls);
        let shown = self.state().machines.values().map(|machine| machine.clock.shows().0).min();
        if let Some(oldest) = shown {
            self.show(&Sight::Settled { oldest, whole_for });
        }
    }

    /// Looks at everything: at the end of a phase.
    pub fn look_at_all(&self) {
        let nodes = self.state().machines.keys().copied().collect::<Vec<_>>();
        for node in nodes {
            self.look_at(node);
        }
        let mut state = self.state();
        self.look_at_platters(&mut state, None);
        self.look_at_usage(&state);
    }

    /// Lets go of all that it watches.
    pub fn forget(&self) {
        self.state().machines.clear();
    }

    fn show(&self, sight: &Sight) {
        self.reach().see(sight);
        self.tell_role(sight);
        self.0.history.see(&Seen::Node(sight));
    }

    /// Who leads what since when, for the story.
    fn tell_role(&self, sight: &Sight) {
        let mut roles = self.0.roles.lock().unwrap_or_else(PoisonError::into_inner);
        let (node, group, term) = match sight {
            Sight::Replica { node, group, replica } if replica.leads => (*node, *group, replica.term),
            Sight::Replica { node, group, replica } => {
                if let Some(led) = roles.remove(&(*node, *group)) {
                    let what = format!(
                        "leads group {group} no longer, after term {led}, and is in term {}",
                        replica.term
                    );
                    self.0.trace.remark(&Event::Node { node: *node, what });
                }
                return;
            }
            Sight::Ended { node } => return roles.retain(|(of, _), _| of != node),
            _ => return,
        };
        if roles.insert((node, group), term) != Some(term) {
            let what = format!("leads group {group} in term {term}");
            self.0.trace.remark(&Event::Node { node, what });
        }
    }

    fn reach(&self) -> MutexGuard<'_, Reach> {
        self.0.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at all replicas of a node.
    fn look_at(&self, node: NodeId) {
        let mut state = self.state();
        let walls = self.look_at_walls(&mut state);
        let Some(machine) = state.machines.get_mut(&node) else { return };
        let Some(running) = machine.running.clone() else { return };
        let mut on_disk = running.store.groups();
        on_disk.retain(|group| !is_being_removed(machine, &running, *group));
        for group in &on_disk {
            self.look_at_replica(node, machine, &running, *group, &walls);
        }
        let gone = machine.groups.keys().filter(|group| !on_disk.contains(group)).copied();
        for group in gone.collect::<Vec<_>>() {
            machine.groups.remove(&group);
            let assigned = parts_of(machine, &running).is_some_and(|parts| {
                let metadata = parts.controller.current();
                let mut partitions = metadata.topics.values().flat_map(|topic| &topic.partitions);
                partitions.any(|partition| partition.group == group && partition.replicas.contains(&node))
            });
            self.show(&Sight::Removed { node, group, assigned });
        }
        if let Some(parts) = parts_of(machine, &running) {
            let applied = parts.controller.applied();
            if applied > machine.metadata_applied {
                machine.metadata_applied = applied;
                let metadata = parts.controller.current();
                self.show(&Sight::Metadata { node, applied, metadata });
            }
        }
    }

    fn look_at_one(&self, node: NodeId, group: GroupId) {
        let mut state = self.state();
        let walls = self.look_at_walls(&mut state);
        let Some(machine) = state.machines.get_mut(&node) else { return };
        let Some(running) = machine.running.clone() else { return };
        if !is_being_removed(machine, &running, group) {
            self.look_at_replica(node, machine, &running, group, &walls);
        }
    }

    /// What wall clocks have told by now. Shown now and then.
    fn look_at_walls(&self, state: &mut State) -> Sight {
        let walls = state.walls();
        if clock::now() >= state.walls_at + WALLS_SHOWN {
            state.walls_at = clock::now();
            state.machines.values().for_each(|machine| machine.clock.watch_anew());
            self.show(&walls);
        }
        walls
    }

    /// `walls`: what wall clocks have told by now. By the latest of it a leader may have raised a log start.
    fn look_at_replica(
        &self,
        node: NodeId,
        machine: &mut Machine,
        running: &Running,
        group: GroupId,
        walls: &Sight,
    ) {
        let parts = parts_of(machine, running);
        let log = running.store.log(group);
        let now = platter::state_of(&log);
        if let Some(failed) = &mut machine.failed {
            let through = log.last_durable();
            if through.is_some() && failed.insert(group, through) != Some(through) {
                self.show(&Sight::DurableAfterFailure { node, group, through });
            }
        }
        let shadow = machine.groups.entry(group).or_default();
        let holds = log.state().last.is_some();
        // Its checkpoints go last: for a moment it looks as if it went on behind one of them.
        let emptied = (shadow.held && !holds) || (shadow.log.last.is_some() && now.last.is_none());
        if emptied && log.damage().lost.any() {
            *shadow = Shadow { hint: now.committed, ..Shadow::default() };
            self.show(&Sight::Restarted { node, group, emptied: true });
        }
        if now.purged != shadow.log.purged
            && let Some(through) = now.purged
        {
            self.show(&Sight::Trimmed { node, group, through });
            terms::trim(&mut shadow.starts, &mut shadow.log.last, through);
        }
        if now.last != shadow.log.last || now.purged != shadow.log.purged {
            let starts = platter::starts_of(&log);
            let begin = now.purged.map_or(LogIndex(0), |purged| purged.index.next());
            let from = terms::parting(&shadow.starts, shadow.log.last, &starts, now.last).max(begin);
            let mut lines = OnDisk { last: now.last, starts: starts.clone(), ..OnDisk::default() }
                .lines()
                .filter(|line| line.index >= from)
                .collect::<Vec<_>>();
            for head in log.recent_heads(from) {
                let Some(first) = lines.first().map(|line| line.index.0) else { break };
                let place = head.index.0.checked_sub(first).and_then(|at| usize::try_from(at).ok());
                match place.and_then(|at| lines.get_mut(at)) {
                    Some(line) => *line = line_of(&head),
                    None => {
                        let what = format!(
                            "what is cut stays cut: node {node} remembers entry {} of group {group}, which its log, \
                             of {} entries from {first}, does not have",
                            head.index,
                            lines.len()
                        );
                        self.0.history.complain("O-02", what);
                    }
                }
            }
            shadow.starts = starts;
            let is_cut = shadow.log.last.is_some_and(|last| last.index >= from);
            shadow.cut |= is_cut;
            if is_cut || !lines.is_empty() {
                self.show(&Sight::Log { node, group, from, lines });
            }
        }
        (shadow.log, shadow.held) = (now, holds);
        let raft = running.raft.group(group);
        // What its owner has acted upon, perhaps in the middle of a run that its Raft has not told of yet.
        let mut acted = None;
        if let Some(replica) = parts.as_ref().and_then(|parts| parts.partitions.replica_of(group)) {
            let next = replica.next_index();
            let last = next.0.checked_sub(1).map(LogIndex).filter(|_| now.committed == shadow.hint);
            acted =
                last.and_then(|index| Some(LogId { term: term_at(&shadow.starts, now.last, index)?, index }));
            if next != shadow.next {
                let mut hash = Fold::default();
                shadow.next = replica.hash_state(&mut hash);
                let readable = replica.log_start()..replica.high_watermark();
                if readable.start > shadow.log_start {
                    shadow.log_start = readable.start;
                    self.show(walls);
                }
                self.show(&Sight::Applied { node, group, next, digest: hash.finish(), readable });
            }
        }
        let Some(raft) = raft else {
            if shadow.replica.take().is_some() {
                self.show(&Sight::Restarted { node, group, emptied: false });
            }
            return;
        };
        let vote = raft.hard_vote();
        if vote.term == Term(0) && raft.voters().is_empty() {
            // Its Raft has just been made, and has not said anything of itself.
            return;
        }
        let applied = raft.applied();
        let before = shadow.replica.and_then(|replica| replica.committed);
        let committed = known_committed(now.committed, shadow.hint, applied.max(before), acted);
        // What is in a checkpoint is committed; while one from a peer is taken up it is ahead of all else.
        let checkpoint = log.checkpoint_at(CheckpointKind::Base);
        let at_least = |id: Option<LogId>| if index_of(id) < index_of(checkpoint) { checkpoint } else { id };
        let (committed, applied) = (at_least(committed), applied.and_then(|id| at_least(Some(id))));
        if now.committed != shadow.hint {
            shadow.hint = None;
        }
        let replica = Replica {
            term: vote.term,
            voted_for: vote.node,
            // What openraft says of itself lags behind what it asks of its log: a leader that has just saved a later
            // vote, and then cuts its log, does not lead.
            leads: matches!(raft.role(), Role::Leader { term, .. }
                if term == vote.term && now.vote.is_none_or(|saved| saved.term == term)),
            purged: now.purged,
            checkpoint,
            applied,
            committed,
            last: now.last,
        };
        if raft.config_at() != shadow.config_at {
            let seen = raft.seen_config();
            shadow.config_at = seen.at;
            if let Some(at) = seen.at {
                self.show(&Sight::Config { node, group, at, config: seen.config });
            }
        }
        if shadow.replica != Some(replica) {
            shadow.replica = Some(replica);
            self.show(&Sight::Replica { node, group, replica });
        }
    }

    fn said(&self, node: NodeId, said: Said) {
        for spoilt in said.spoilt {
            let what = format!("wrong bytes are never sent to another replica: node {node} sent {spoilt}");
            self.0.history.complain("O-22", what);
        }
        let mut votes = false;
        let mut matches = 0;
        for sight in &said.sights {
            match sight {
                Sight::Granted { .. } => votes = true,
                Sight::Matched { .. } => matches += 1,
                _ => {}
            }
        }
        if said.acked {
            self.look_at(node);
        } else {
            for group in said.groups {
                self.look_at_one(node, group);
            }
        }
        for sight in &said.sights {
            self.show(sight);
        }
        let mut state = self.state();
        let due = |count: &mut u64, more: u64, every: u64| {
            let before = *count / every;
            *count += more;
            *count / every != before
        };
        let vote_due = due(&mut state.votes, u64::from(votes), VOTES_PER_LOOK);
        let match_due = due(&mut state.matches, matches, MATCHES_PER_LOOK);
        // A tail that was cut and is still there is soon overwritten: the first answer after a cut is the time to look.
        let mut cut_due = false;
        for sight in &said.sights {
            if let Sight::Matched { group, .. } = sight
                && let Some(machine) = state.machines.get_mut(&node)
                && let Some(shadow) = machine.groups.get_mut(group)
            {
                cut_due |= std::mem::take(&mut shadow.cut);
            }
        }
        drop(state);
        if vote_due || match_due || cut_due {
            // What it has removed since is on its way from the platters.
            self.look_at(node);
            self.look_at_platters(&mut self.state(), Some(node));
        }
    }
}

impl State {
    /// What the nodes' wall clocks have told.
    fn walls(&self) -> Sight {
        let clocks = || self.machines.values().map(|machine| &machine.clock);
        let newest = clocks().map(|clock| clock.latest_told().0).max().unwrap_or_default();
        let oldest = clocks().filter_map(SimClock::earliest_told).min();
        // Whoever was told nothing has stamped nothing.
        Sight::Wall { oldest: oldest.map_or(newest, |oldest| oldest.0), newest }
    }

    /// Whether a frame comes from a node with a disk that is not its own.
    fn is_stranger(&self, from: Host, frame: Frame<'_>) -> bool {
        let sender = match frame {
            Frame::Ask(frame) => &frame.sender,
            Frame::Answer(frame) => &frame.sender,
            Frame::Call(..) | Frame::Reply(..) => return false,
        };
        let Host::Node(node) = from else { return false };
        let known = self.machines.get(&node).and_then(|machine| machine.identity);
        let said = sender.as_ref().map(|sender| &sender.identity[..]);
        known.is_none_or(|known| said != Some(&known.0.as_bytes()[..]))
    }
}

impl Tap for Observer {
    fn came_again(&self, wire: Wire, frame: Frame<'_>) {
        let mut state = self.state();
        if !state.is_stranger(wire.from, frame) {
            state.wires.came_again(wire, frame);
        }
    }

    fn sent(&self, wire: Wire, frame: Frame<'_>) {
        let said = {
            let mut state = self.state();
            state.frames += 1;
            if state.is_stranger(wire.from, frame) {
                return;
            }
            state.wires.sent(wire, frame)
        };
        if let Host::Node(node) = wire.from {
            self.said(node, said);
        }
        if self.state().frames.is_multiple_of(FRAMES_PER_LOOK) {
            self.look_at_all();
        }
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Observer")
    }
}

/// Whether a log that held something has not even a vote any more: the disk is about to say that the group is gone.
fn is_being_removed(machine: &Machine, running: &Running, group: GroupId) -> bool {
    let now = running.store.log(group).state();
    let held = machine.groups.get(&group).is_some_and(|shadow| shadow.log.last.is_some());
    held && now.last.is_none() && now.vote.is_none()
}

/// A refused node ends its parts and makes others, in the same process: the newest count. Those that have ended are
/// looked at for as long as they live and no others are there.
fn parts_of(machine: &mut Machine, running: &Running) -> Option<Arc<Parts>> {
    let Ok(parts) = &*running.stage.borrow() else { return machine.parts.upgrade() };
    machine.parts = Arc::downgrade(parts);
    Some(Arc::clone(parts))
}

fn index_of(id: Option<LogId>) -> Option<LogIndex> {
    id.map(|id| id.index)
}

/// The last entry that a replica takes for committed. Until it says something else than what its disk gave it as a hint,
/// it is not known whether it goes by that (not if its log is shorter) or was told the same anew: what it has `applied`
/// counts, and what its owner has `acted` upon, though no more than the hint.
fn known_committed(
    said: Option<LogId>,
    hint: Option<LogId>,
    applied: Option<LogId>,
    acted: Option<LogId>,
) -> Option<LogId> {
    if said == hint { applied.max(acted.min(hint)) } else { said }
}

fn line_of(head: &Head) -> Line {
    Line { index: head.index, term: head.term, digest: Some(digest(&head.encode())) }
}

/// A hash of an encoded head.
fn digest(head: &[u8]) -> u64 {
    let mut hash = Fold::default();
    head.hash(&mut hash);
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_it_says_something_else_a_hint_counts_as_far_as_it_was_acted_upon() {
        let id = |index: Option<u64>| index.map(|index| LogId { term: Term(1), index: LogIndex(index) });
        let known = |said, hint, applied, acted| {
            known_committed(id(said), id(hint), id(applied), id(acted)).map(|id| id.index.0)
        };
        assert_eq!(known(None, None, None, None), None);
        assert_eq!(known(Some(9), Some(9), None, None), None);
        assert_eq!(known(Some(9), Some(9), None, Some(4)), Some(4), "in the middle of a run");
        assert_eq!(known(Some(9), Some(9), Some(2), Some(4)), Some(4));
        assert_eq!(known(Some(9), Some(9), Some(9), Some(9)), Some(9));
        assert_eq!(known(Some(9), Some(9), None, Some(10)), Some(9), "nothing told it of a tenth");
        assert_eq!(known(None, None, None, Some(0)), None, "nothing told it of any");
        assert_eq!(known(Some(12), Some(9), Some(11), Some(12)), Some(12));
    }
}
