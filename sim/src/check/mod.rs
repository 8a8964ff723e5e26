//! The promises, one file each: what was promised, where that stands written, and how it is judged by what was seen of
//! clients, nodes, wires and disks. A check changes nothing: with it or without it, a run is the same.
#![expect(clippy::wildcard_enum_match_arm, reason = "a check takes what concerns it, and leaves the rest")]

mod acked;
mod after_failure;
mod answers;
mod awake;
mod bounds;
mod committed;
mod complaints;
mod convergence;
mod dense;
mod election;
mod epochs;
mod growth;
#[cfg(test)]
mod histories;
mod keep;
mod leader_completeness;
mod log_matching;
mod log_starts;
mod logs;
mod lookup;
mod members;
mod never_back;
mod once;
mod order;
mod phantom;
mod platters;
mod prefix;
mod progress;
pub mod promises;
mod readmitted;
mod recovery;
mod replicas;
mod settings;
mod shadow;
#[cfg(test)]
mod sights;
mod start;
mod state_machine;
mod topics;
mod uncommitted;
mod unread;
mod votes;
mod walls;
mod watermark;
mod words;

use std::time::Duration;

use quorate_proto::ids::Offset;

use crate::history::{Evidence, Read, RecordId, Sent, Target};
use crate::observe::Sight;
use crate::wire::{Asked, Told};

pub use shadow::{Before, Known, Stands};
pub use unread::behind;

/// All promises that are judged, one line each.
fn all() -> Vec<Box<dyn Check>> {
    vec![
        at_end("at once", complaints::check),
        of_nodes::<election::Election>(),
        of_nodes::<log_matching::LogMatching>(),
        of_nodes::<leader_completeness::LeaderCompleteness>(),
        of_nodes::<state_machine::StateMachine>(),
        of_nodes::<platters::Platters>(),
        of_nodes::<committed::Committed>(),
        of_nodes::<never_back::NeverBack>(),
        of_nodes::<bounds::Bounds>(),
        of_nodes::<votes::Votes>(),
        of_nodes::<members::Members>(),
        Box::<acked::Acked>::default(),
        Box::<phantom::Phantom>::default(),
        Box::<order::Order>::default(),
        Box::<once::Once>::default(),
        Box::<dense::Dense>::default(),
        Box::<start::Start>::default(),
        Box::<watermark::Watermark>::default(),
        Box::<prefix::Prefix>::default(),
        Box::<uncommitted::Uncommitted>::default(),
        Box::<epochs::Epochs>::default(),
        Box::<topics::Topics>::default(),
        Box::<settings::Settings>::default(),
        Box::<lookup::Lookup>::default(),
        of_nodes::<readmitted::Readmitted>(),
        of_nodes::<recovery::Recovery>(),
        of_nodes::<after_failure::AfterFailure>(),
        of_nodes::<progress::Progress>(),
        Box::<answers::Answers>::default(),
        at_end("O-27", unread::check),
        Box::<awake::Awake>::default(),
        at_end("O-28", replicas::check),
        of_nodes::<convergence::Convergence>(),
        of_nodes::<growth::Growth>(),
    ]
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one, by the oracle's id.
    pub promise: &'static str,
    /// When it showed, in simulated time; the end for what only the final scan shows.
    pub at: Duration,
    /// What was promised, what was seen, and who did what when, for people.
    pub what: String,
}

/// Something that was seen, told to every check as it happens. A check takes what concerns it.
#[derive(Debug)]
pub enum Seen<'a> {
    /// A client asks a node.
    Asked(&'a Asked),
    /// It has the answer.
    Told(&'a Asked, &'a Told),
    /// Somebody was told that a batch stands in a log: follows each [`Seen::Told`] that says so.
    Stands(&'a Stands<'a>),
    /// A producer sends a record.
    Sent(RecordId, &'a Sent),
    /// A producer knows what became of one.
    Learnt(RecordId, &'a Sent),
    /// A consumer begins to read a partition, or goes elsewhere in it.
    Assigned {
        /// Who.
        consumer: u32,
        /// Where.
        target: &'a Target,
        /// Where it was told to begin.
        start: StartAt,
        /// Where it begins.
        position: Offset,
        /// Whether it goes to the log start by itself where its position cannot be read.
        resets: bool,
    },
    /// A consumer was given a record.
    Read(&'a Read),
    /// Something of a node.
    Node(&'a Sight),
}

/// Where a consumer is told to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// At the log start.
    Beginning,
    /// At the high watermark.
    End,
    /// There.
    Offset(Offset),
    /// At the first record of this time or later, in ms, or at the end.
    Time(i64),
}

/// Judges one promise.
pub trait Check: Send {
    /// The oracle's id.
    fn id(&self) -> &'static str;

    /// Takes note of something that is seen at `at`. Called for everything, so it must be cheap.
    fn see(&mut self, at: Duration, seen: &Seen<'_>, found: &mut Found);

    /// The run is over at `end`; `evidence` is all there is.
    fn end(&mut self, evidence: &Evidence, end: Duration, found: &mut Found);
}

/// At most this many violations of one promise are told: the first ones say it all.
const TOLD_MAX: usize = 5;

/// Violations that were found.
#[derive(Debug, Default)]
pub struct Found(Vec<Violation>);

impl Found {
    /// One more.
    pub fn tell(&mut self, promise: &'static str, at: Duration, what: String) {
        if self.0.iter().filter(|told| told.promise == promise).count() < TOLD_MAX {
            self.0.push(Violation { promise, at, what });
        }
    }
}

/// All checks of a run at work.
pub struct Panel {
    shadow: shadow::Shadow,
    checks: Vec<Box<dyn Check>>,
    found: Found,
}

impl Default for Panel {
    fn default() -> Self {
        Self { shadow: shadow::Shadow::default(), checks: all(), found: Found::default() }
    }
}

impl std::fmt::Debug for Panel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Panel").field("found", &self.found).finish_non_exhaustive()
    }
}

impl Panel {
    /// Shows every check something that happens at `at`.
    pub fn see(&mut self, at: Duration, seen: &Seen<'_>) {
        for check in &mut self.checks {
            check.see(at, seen, &mut self.found);
        }
        for stands in self.shadow.see(at, seen) {
            for check in &mut self.checks {
                check.see(at, &Seen::Stands(&stands), &mut self.found);
            }
        }
    }

    /// What was found so far.
    pub fn found(&self) -> &[Violation] {
        &self.found.0
    }

    /// Judges the evidence of a run that is over. All that was found, in the order in which it showed.
    pub fn end(&mut self, evidence: &Evidence, end: Duration) -> Vec<Violation> {
        for check in &mut self.checks {
            check.end(evidence, end, &mut self.found);
        }
        let mut all = std::mem::take(&mut self.found.0);
        all.sort_by_key(|violation| violation.at);
        all
    }
}

/// Judges one promise by what is seen of nodes alone.
trait Judge: Default + Send + 'static {
    /// The oracle's id.
    const ID: &'static str;

    /// Takes note of what is seen at `at`.
    fn see(&mut self, at: Duration, sight: &Sight, found: &mut Found);

    /// The run is over at `at`.
    fn end(&mut self, _at: Duration, _found: &mut Found) {}
}

fn of_nodes<J: Judge>() -> Box<dyn Check> {
    Box::new(OfNodes(J::default()))
}

struct OfNodes<J>(J);

impl<J: Judge> Check for OfNodes<J> {
    fn id(&self) -> &'static str {
        J::ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, found: &mut Found) {
        if let Seen::Node(sight) = seen {
            self.0.see(at, sight, found);
        }
    }

    fn end(&mut self, _evidence: &Evidence, end: Duration, found: &mut Found) {
        self.0.end(end, found);
    }
}

/// A promise that only the end shows.
fn at_end(id: &'static str, judge: fn(&Evidence, Duration) -> Vec<Violation>) -> Box<dyn Check> {
    Box::new(AtEnd { id, judge })
}

struct AtEnd {
    id: &'static str,
    judge: fn(&Evidence, Duration) -> Vec<Violation>,
}

impl Check for AtEnd {
    fn id(&self) -> &'static str {
        self.id
    }

    fn see(&mut self, _at: Duration, _seen: &Seen<'_>, _found: &mut Found) {}

    fn end(&mut self, evidence: &Evidence, end: Duration, found: &mut Found) {
        for Violation { promise, at, what } in (self.judge)(evidence, end) {
            found.tell(promise, at, what);
        }
    }
}
