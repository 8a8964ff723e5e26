//! When faults strike, and that they end.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::ids::NodeId;

use crate::classes::{Class, Classes};
use crate::cluster::{Cluster, Crash};
use crate::dice::Dice;
use crate::env::clock;
use crate::env::disk::DirtyPages;
use crate::env::tasks::Host;
use crate::trace::Event;

/// After the last fault, what it did shows within this time.
const SETTLE: Duration = Duration::from_secs(2);

/// Which faults a run has, as drawn: each kind is on or off, and then so often.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The longest time between two faults.
    pub pause_max: Duration,
    /// How long a node is down, or a link cut, at most.
    pub fault_max: Duration,
    /// How likely each kind of fault is, against the others.
    weights: Vec<(Kind, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    CrashOne,
    CrashAll,
    CutLink,
    Isolate,
    FailSync,
}

impl Kind {
    fn class(self) -> Class {
        match self {
            Self::CrashOne | Self::CrashAll => Class::Crash,
            Self::CutLink | Self::Isolate => Class::Network,
            Self::FailSync => Class::Disk,
        }
    }
}

impl Plan {
    /// Draws one, of the classes in `only`. A few runs are calm.
    pub fn draw(dice: &mut Dice, only: Classes) -> Self {
        let kinds = [
            (Kind::CrashOne, 10),
            (Kind::CrashAll, 3),
            (Kind::CutLink, 6),
            (Kind::Isolate, 4),
            (Kind::FailSync, 3),
        ];
        let mut weights = kinds.into_iter().filter(|_| dice.chance(700)).collect::<Vec<_>>();
        if weights.is_empty() {
            weights.push((Kind::CrashOne, 1));
        }
        // What is left out changes nothing of what else is drawn.
        weights.retain(|(kind, _)| only.contains(kind.class()));
        Self {
            pause_max: dice.time(Duration::from_millis(500), Duration::from_secs(4)),
            fault_max: dice.time(Duration::from_millis(500), Duration::from_secs(4)),
            weights,
        }
    }
}

/// Strikes.
pub struct Nemesis {
    plan: Plan,
    dice: Dice,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<&'static str, u64>,
}

impl Nemesis {
    /// One that follows `plan`.
    pub fn new(plan: Plan, dice: Dice) -> Self {
        Self { plan, dice, faults: BTreeMap::new() }
    }

    /// Strikes until `end`, then mends everything: every link whole, every node started.
    pub async fn rage(&mut self, cluster: &mut Cluster, end: Duration) {
        // What is to be mended when; in the order of time.
        let mut mends = Vec::<(Duration, Mend)>::new();
        let mut next = clock::now() + self.pause();
        loop {
            mends.sort_by_key(|(at, _)| *at);
            let wake = mends.first().map_or(next, |(at, _)| next.min(*at)).min(end);
            tokio::select! {
                biased;
                fallen = cluster.fallen() => {
                    // Its power went at an operation, or it stopped itself after a failed sync.
                    let again = clock::now() + self.time();
                    mends.push((again, Mend::Restart(fallen)));
                    continue;
                }
                () = clock::sleep(wake.saturating_sub(clock::now())) => {}
            }
            let now = clock::now();
            if now >= end {
                break;
            }
            while let Some(at) = mends.iter().position(|(at, _)| *at <= now) {
                let (_, mend) = mends.remove(at);
                self.mend(cluster, mend).await;
            }
            if now >= next {
                self.strike(cluster, &mut mends).await;
                next = clock::now() + self.pause();
            }
        }
        cluster.note(Event::Fault("mends everything".to_owned()));
        cluster.network().mend_all();
        for node in cluster.nodes() {
            cluster.spare_disk(node);
        }
        for node in cluster.nodes() {
            cluster.start(node).await;
        }
        // A node may yet stop itself, because of what was done to it before.
        let settled = clock::now() + SETTLE;
        loop {
            tokio::select! {
                biased;
                fallen = cluster.fallen() => cluster.start(fallen).await,
                () = clock::sleep(settled.saturating_sub(clock::now())) => return,
            }
        }
    }

    async fn strike(&mut self, cluster: &mut Cluster, mends: &mut Vec<(Duration, Mend)>) {
        let Some(kind) = self.draw_kind() else { return };
        let nodes = cluster.nodes();
        let node = nodes[self.dice.place(nodes.len())];
        let until = clock::now() + self.time();
        match kind {
            Kind::CrashOne => {
                let how = self.draw_crash();
                if cluster.crash(node, how, &mut self.dice).await {
                    self.count(match how {
                        Crash::Kill => "kill",
                        Crash::PowerCut => "power cut",
                        Crash::PowerCutAtOperation(_) => "power cut at an operation",
                    });
                }
                if !matches!(how, Crash::PowerCutAtOperation(_)) {
                    mends.push((until, Mend::Restart(node)));
                }
            }
            Kind::CrashAll => {
                let how = if self.dice.chance(300) { Crash::Kill } else { Crash::PowerCut };
                for node in nodes {
                    cluster.crash(node, how, &mut self.dice).await;
                    let until = clock::now() + self.time();
                    mends.push((until, Mend::Restart(node)));
                }
                self.count("all at once");
            }
            Kind::CutLink => {
                let other = self.another(&nodes, node);
                let (one, other) = (Host::Node(node), Host::Node(other));
                cluster.note(Event::Fault(format!("cuts {one} -> {other}")));
                cluster.network().cut(one, other);
                mends.push((until, Mend::Link(one, other)));
                if self.dice.chance(500) {
                    cluster.network().cut(other, one);
                    mends.push((until, Mend::Link(other, one)));
                }
                self.count("cut link");
            }
            Kind::Isolate => {
                cluster.note(Event::Fault(format!("isolates node{node}")));
                for other in nodes.into_iter().filter(|other| *other != node) {
                    let (one, other) = (Host::Node(node), Host::Node(other));
                    cluster.network().cut(one, other);
                    cluster.network().cut(other, one);
                    mends.push((until, Mend::Link(one, other)));
                    mends.push((until, Mend::Link(other, one)));
                }
                self.count("isolation");
            }
            Kind::FailSync => {
                let pages = if self.dice.chance(500) { DirtyPages::Dropped } else { DirtyPages::Kept };
                if cluster.fail_sync(node, self.dice.below(10), pages) {
                    self.count("failed sync");
                }
            }
        }
    }

    async fn mend(&mut self, cluster: &mut Cluster, mend: Mend) {
        match mend {
            Mend::Restart(node) => cluster.start(node).await,
            Mend::Link(from, to) => {
                cluster.note(Event::Fault(format!("mends {from} -> {to}")));
                cluster.network().mend(from, to);
            }
        }
    }

    fn draw_crash(&mut self) -> Crash {
        match self.dice.below(5) {
            0 => Crash::Kill,
            1 | 2 => Crash::PowerCut,
            _ => Crash::PowerCutAtOperation(self.dice.between(1, 60)),
        }
    }

    fn draw_kind(&mut self) -> Option<Kind> {
        let sum = self.plan.weights.iter().map(|(_, weight)| weight).sum();
        let mut at = self.dice.below(sum);
        for (kind, weight) in &self.plan.weights {
            if at < *weight {
                return Some(*kind);
            }
            at -= weight;
        }
        None
    }

    fn another(&mut self, nodes: &[NodeId], than: NodeId) -> NodeId {
        let others = nodes.iter().copied().filter(|node| *node != than).collect::<Vec<_>>();
        others[self.dice.place(others.len())]
    }

    fn pause(&mut self) -> Duration {
        self.dice.time(Duration::from_millis(50), self.plan.pause_max)
    }

    fn time(&mut self) -> Duration {
        self.dice.time(Duration::from_millis(20), self.plan.fault_max)
    }

    fn count(&mut self, fault: &'static str) {
        *self.faults.entry(fault).or_default() += 1;
    }
}

#[derive(Clone, Copy, Debug)]
enum Mend {
    Restart(NodeId),
    Link(Host, Host),
}
