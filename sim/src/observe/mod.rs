//! Watches the nodes of a run from outside and shows the checks whatever is news: replicas as their processes know
//! them, frames as they are sent, and platters. Changes nothing: with it or without it, a run is the same.

#![expect(clippy::wildcard_enum_match_arm, reason = "what concerns somebody is named, the rest is not")]

mod platter;
mod reach;
mod sight;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use quorate_node::api::{Parts, Stage};
use quorate_node::raft::{RaftNode, Role};
use quorate_node::storage::{Head, LogId, LogState, Store, StoreConfig};
use quorate_node::wiring::Node;
use quorate_proto::ids::{GroupId, Identity, LogIndex, NodeId, Term};
use tokio::sync::watch;

pub use platter::Aside;
pub use sight::{Line, OnDisk, Replica, Sight, Usage};

use crate::check::Seen;
use crate::dice::Dice;
use crate::env::disk::{DiskEvent, SimDisk};
use crate::env::network::{Frame, Tap, Wire};
use crate::env::tasks::{Host, Life};
use crate::history::History;
use crate::marks::Marks;
use crate::trace::{Event, Fold, Trace};
use reach::Reach;
use wire::{Said, Wires};

/// Platters are looked at when this many of one kind of occasion have passed: looking costs a recovery.
const VOTES_PER_LOOK: u64 = 16;
const MATCHES_PER_LOOK: u64 = 512;
const STARTS_PER_DOUBLE_RECOVERY: u64 = 4;
/// All nodes' platters are looked at after this many frames.
const FRAMES_PER_LOOK: u64 = 8_000;

/// What a disk holds of each group.
type Groups = BTreeMap<GroupId, OnDisk>;

/// All entries of each group on a disk.
type Logs = BTreeMap<GroupId, Vec<Line>>;

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
}

struct Machine {
    disk: SimDisk,
    config: StoreConfig,
    life: Option<Life>,
    running: Option<Running>,
    parts: Weak<Parts>,
    identity: Option<Identity>,
    groups: BTreeMap<GroupId, Shadow>,
    metadata_applied: LogIndex,
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
    starts: Vec<LogId>,
    /// What it took for committed when it was opened.
    hint: Option<LogId>,
    replica: Option<Replica>,
    next: LogIndex,
    voters: Vec<NodeId>,
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
    pub fn machine(&self, node: NodeId, disk: SimDisk) {
        let mut state = self.state();
        let machine = Machine {
            disk,
            config: StoreConfig::default(),
            life: None,
            running: None,
            parts: Weak::new(),
            identity: None,
            groups: BTreeMap::new(),
            metadata_applied: LogIndex(0),
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
        if starts.is_multiple_of(STARTS_PER_DOUBLE_RECOVERY) {
            let dice = Dice::named(starts, "recovered twice");
            match recover_twice(&machine.disk, config, node, dice) {
                Ok((once, twice, logs)) => {
                    for (group, lines) in logs {
                        self.show(&Sight::OnPlatter { node, group, lines });
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
        let groups = platter::held_by(running.store());
        machine.life = Some(life.clone());
        machine.running = Some(Running {
            store: running.store().clone(),
            raft: running.raft().clone(),
            stage: running.stage(),
        });
        machine.parts = Weak::new();
        machine.metadata_applied = LogIndex(0);
        machine.failed = None;
        machine.identity = Some(identity);
        machine.groups = groups
            .iter()
            .map(|(group, found)| {
                let log = running.store().log(*group).state();
                let shadow =
                    Shadow { log, starts: found.starts.clone(), hint: log.committed, ..Shadow::default() };
                (*group, shadow)
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
        if machine.life.take().is_some() {
            machine.parts = Weak::new();
            self.show(&Sight::Ended { node });
        }
        drop(state);
        drop(running);
    }

    /// A node's own disk was erased, replaced or set back.
    pub fn disk_lost(&self, node: NodeId) {
        if let Some(machine) = self.state().machines.get_mut(&node) {
            machine.identity = None;
        }
        self.show(&Sight::DiskLost { node });
    }

    /// The newest that a node's disk held is damaged: what it told that it holds is not there any more.
    pub fn disk_damaged(&self, node: NodeId) {
        self.show(&Sight::Damaged { node });
    }

    /// Something happened on a node's disk.
    pub fn disk(&self, node: NodeId, event: &DiskEvent) {
        match event {
            DiskEvent::Synced { .. } => {
                self.look_at(node);
                self.reach().synced(node);
            }
            DiskEvent::Cut { .. } => self.look_at(node),
            DiskEvent::SyncFailed { .. } => {
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

    /// Looks at everything: at the end of a phase.
    pub fn look_at_all(&self) {
        let nodes = self.state().machines.keys().copied().collect::<Vec<_>>();
        for node in nodes {
            self.look_at(node);
        }
        let state = self.state();
        self.look_at_platters(&state, None);
        self.look_at_usage(&state);
    }

    /// Nobody writes any more, and everything had the time to arrive: reads all that lies on the platters.
    pub fn quiet(&self) {
        self.look_at_all();
        let state = self.state();
        for (node, machine) in &state.machines {
            let aside = match Aside::recover(&machine.disk.copy_of_platters(), &machine.config, *node) {
                Ok(aside) => aside,
                Err(said) => {
                    self.0.history.complain("O-05", format!("platters of node {node}: {said}"));
                    continue;
                }
            };
            for group in aside.groups().into_keys() {
                match aside.heads(group) {
                    Ok(heads) => {
                        let lines = heads.iter().map(line_of).collect();
                        self.show(&Sight::OnPlatter { node: *node, group, lines });
                    }
                    Err(said) => self.0.history.complain("O-28", format!("platters of node {node}: {said}")),
                }
            }
        }
        self.show(&Sight::Quiet);
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
        let Some(machine) = state.machines.get_mut(&node) else { return };
        let Some(running) = machine.running.clone() else { return };
        let mut on_disk = running.store.groups();
        on_disk.retain(|group| !is_being_removed(machine, &running, *group));
        for group in &on_disk {
            self.look_at_replica(node, machine, &running, *group);
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
        let Some(machine) = state.machines.get_mut(&node) else { return };
        let Some(running) = machine.running.clone() else { return };
        if !is_being_removed(machine, &running, group) {
            self.look_at_replica(node, machine, &running, group);
        }
    }

    fn look_at_replica(&self, node: NodeId, machine: &mut Machine, running: &Running, group: GroupId) {
        let parts = parts_of(machine, running);
        let log = running.store.log(group);
        let now = log.state();
        if let Some(failed) = &mut machine.failed {
            let through = log.last_durable();
            if through.is_some() && failed.insert(group, through) != Some(through) {
                self.show(&Sight::DurableAfterFailure { node, group, through });
            }
        }
        let shadow = machine.groups.entry(group).or_default();
        if now.last.is_none() && shadow.log.last.is_some() && log.damage().lost.any() {
            *shadow = Shadow { hint: now.committed, ..Shadow::default() };
            self.show(&Sight::Restarted { node, group, emptied: true });
        }
        if now.last != shadow.log.last || now.purged != shadow.log.purged {
            let starts = log.term_starts();
            let from = parting(&shadow.starts, shadow.log.last, &starts, now.last);
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
            shadow.cut |= shadow.log.last.is_some_and(|last| last.index >= from);
            self.show(&Sight::Log { node, group, from, lines });
        }
        shadow.log = now;
        let raft = running.raft.group(group);
        if let Some(replica) = parts.as_ref().and_then(|parts| parts.partitions.replica_of(group)) {
            let next = replica.next_index();
            if next != shadow.next {
                let mut hash = Fold::default();
                shadow.next = replica.hash_state(&mut hash);
                self.show(&Sight::Applied { node, group, next, digest: hash.finish() });
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
        // Until it says something else, it goes by what its disk gave it as a hint.
        let committed = if now.committed == shadow.hint { applied } else { now.committed };
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
            applied,
            committed,
            last: now.last,
        };
        if shadow.replica != Some(replica) {
            let before = shadow.replica.replace(replica);
            if before.is_none_or(|before| before.term != replica.term || before.leads != replica.leads) {
                let voters = raft.voters();
                if voters != shadow.voters {
                    shadow.voters.clone_from(&voters);
                    self.show(&Sight::Voters { node, group, voters });
                }
            }
            self.show(&Sight::Replica { node, group, replica });
        }
    }

    /// Looks at the platters of one node, or of all.
    fn look_at_platters(&self, state: &State, only: Option<NodeId>) {
        let mut nodes = BTreeMap::new();
        for (node, machine) in &state.machines {
            if only.is_some_and(|only| only != *node) {
                continue;
            }
            match Aside::recover(&machine.disk.copy_of_platters(), &machine.config, *node) {
                Ok(aside) => {
                    nodes.insert(*node, aside.groups());
                }
                Err(said) => self.0.history.complain("O-05", format!("platters of node {node}: {said}")),
            }
        }
        self.show(&Sight::Platters { nodes });
    }

    fn look_at_usage(&self, state: &State) {
        for (node, machine) in &state.machines {
            let (Some(life), Some(running)) = (&machine.life, &machine.running) else { continue };
            let groups = running.store.groups();
            let last = groups.iter().filter_map(|group| running.store.log(*group).state().last);
            let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
            let usage = Usage {
                tasks: count(life.tasks()),
                files: machine.disk.open_files(),
                disk_bytes: machine.disk.bytes(),
                volumes: machine.disk.count(|name| name.starts_with("volume-") && name.ends_with(".redb")),
                volumes_alive: count(running.store.volumes_alive()),
                entries: last.map(|last| last.index.0 + 1).sum(),
                groups: count(groups.len()),
            };
            self.show(&Sight::Usage { node: *node, usage });
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
            self.look_at_platters(&self.state(), Some(node));
        }
    }
}

impl State {
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

/// Where two logs part, by the terms of their entries: all before is the same.
fn parting(before: &[LogId], last_before: Option<LogId>, now: &[LogId], last_now: Option<LogId>) -> LogIndex {
    let end = |starts: &[LogId], last: Option<LogId>| match last {
        Some(last) if !starts.is_empty() => last.index.next(),
        Some(_) | None => LogIndex(0),
    };
    let shorter = end(before, last_before).min(end(now, last_now));
    let differs = before.iter().zip(now).find(|(one, other)| one != other);
    let differs = differs.map(|(one, other)| one.index.min(other.index)).or_else(|| {
        let longer = if before.len() > now.len() { before } else { now };
        longer.get(before.len().min(now.len())).map(|start| start.index)
    });
    differs.map_or(shorter, |differs| differs.min(shorter))
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

/// Recovers copies of a disk as its next process will find it: once, and again after the power went in the middle.
fn recover_twice(
    disk: &SimDisk,
    config: &StoreConfig,
    node: NodeId,
    mut dice: Dice,
) -> Result<(Groups, Groups, Logs), String> {
    let copy = disk.copy_as_seen();
    let aside =
        Aside::recover(&copy, config, node).map_err(|said| format!("node {node} did not recover: {said}"))?;
    let operations = copy.operations();
    let once = aside.groups();
    let mut logs = BTreeMap::new();
    for group in once.keys() {
        let heads =
            aside.heads(*group).map_err(|said| format!("node {node} recovered a log in part: {said}"))?;
        logs.insert(*group, heads.iter().map(line_of).collect());
    }
    drop(aside);
    let copy = disk.copy_as_seen();
    copy.cut_power_at(dice.below(operations.max(1)));
    drop(Aside::recover(&copy, config, node));
    copy.crash(&mut dice);
    let twice = Aside::recover(&copy, config, node);
    let twice = twice.map_err(|said| format!("node {node} did not recover a second time: {said}"))?;
    Ok((once, twice.groups(), logs))
}

#[cfg(test)]
mod tests {
    use quorate_proto::ids::Term;

    use super::*;

    fn ids(starts: &[(u64, u64)]) -> Vec<LogId> {
        starts.iter().map(|(term, index)| LogId { term: Term(*term), index: LogIndex(*index) }).collect()
    }

    #[test]
    fn logs_part_where_their_terms_do() {
        let at = |before: &[(u64, u64)], last: (u64, u64), now: &[(u64, u64)], end: (u64, u64)| {
            let id = |id: (u64, u64)| ids(&[id]).pop();
            parting(&ids(before), id(last), &ids(now), id(end)).0
        };
        assert_eq!(at(&[(1, 0)], (1, 4), &[(1, 0)], (1, 9)), 5);
        assert_eq!(at(&[(1, 0)], (1, 4), &[(1, 0)], (1, 2)), 3);
        assert_eq!(at(&[(1, 0)], (1, 4), &[(1, 0), (2, 3)], (2, 9)), 3);
        assert_eq!(at(&[(1, 0), (2, 3)], (2, 5), &[(1, 0), (3, 3)], (3, 5)), 3);
        assert_eq!(at(&[(1, 0), (2, 3)], (2, 5), &[(1, 0), (3, 2)], (3, 2)), 2);
        assert_eq!(at(&[(1, 0), (2, 3)], (2, 5), &[(1, 0)], (1, 5)), 3);
        assert_eq!(parting(&[], None, &ids(&[(1, 0)]), ids(&[(1, 4)]).pop()), LogIndex(0));
        assert_eq!(parting(&ids(&[(1, 0)]), ids(&[(1, 4)]).pop(), &[], None), LogIndex(0));
    }

    #[test]
    fn what_was_found_spells_out_its_entries() {
        let found =
            OnDisk { last: ids(&[(3, 4)]).pop(), starts: ids(&[(1, 0), (3, 2)]), ..OnDisk::default() };
        let terms = found.lines().map(|line| (line.index.0, line.term.0)).collect::<Vec<_>>();
        assert_eq!(terms, [(0, 1), (1, 1), (2, 3), (3, 3), (4, 3)]);
        assert_eq!(found.term_at(LogIndex(1)), Some(Term(1)));
        assert_eq!(found.term_at(LogIndex(4)), Some(Term(3)));
        assert_eq!(found.term_at(LogIndex(5)), None);
        assert_eq!(OnDisk::default().lines().count(), 0);
    }
}
