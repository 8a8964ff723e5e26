//! The promises, one file each: what was promised, where that stands written, and how it is judged by what was seen of
//! clients, nodes, wires and disks. A check changes nothing: with it or without it, a run is the same.

#![expect(clippy::wildcard_enum_match_arm, reason = "a check names what concerns it, and not the rest")]

mod acked;
mod after_failure;
mod bounds;
mod committed;
mod complaints;
mod convergence;
mod dense;
mod election;
mod growth;
mod leader_completeness;
mod log_matching;
mod logs;
mod members;
mod never_back;
mod once;
mod order;
mod phantom;
mod platters;
mod progress;
mod reads;
mod recovery;
mod replicas;
#[cfg(test)]
mod sights;
mod state_machine;
mod votes;

use std::time::Duration;

use crate::history::{Evidence, Read};
use crate::observe::Sight;

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
        at_end("O-11", acked::check),
        at_end("O-12", phantom::check),
        at_end("O-12", order::check),
        at_end("O-13", once::check),
        at_end("O-14", dense::check),
        at_end("O-16", reads::check),
        of_nodes::<recovery::Recovery>(),
        of_nodes::<after_failure::AfterFailure>(),
        of_nodes::<progress::Progress>(),
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
    /// A consumer was given a record.
    Read(&'a Read),
    /// Something of a node.
    Node(&'a Sight),
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
    checks: Vec<Box<dyn Check>>,
    found: Found,
}

impl Default for Panel {
    fn default() -> Self {
        Self { checks: all(), found: Found::default() }
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

#[cfg(test)]
mod bench {
    //! Hand-made histories for the checks' own tests.

    use quorate_proto::ids::{Offset, PartitionId};

    use super::*;
    use crate::history::{Outcome, Place, RecordId, Sent};

    pub(super) fn place() -> Place {
        Place { topic: "t".into(), partition: PartitionId(0) }
    }

    pub(super) fn record(number: u64) -> RecordId {
        RecordId { producer: 1, number }
    }

    /// A history from words: `sent 3 acked 0`, `sent 4 failed`, `sent 5 unknown`, `log 0 3`, `log 1 foreign`,
    /// `read 0 3` (by consumer 0).
    pub(super) fn evidence(words: &str) -> Evidence {
        let mut evidence = Evidence::default();
        for line in words.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words = line.split(' ').collect::<Vec<_>>();
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            let known = |at: usize| (words[at] != "foreign").then(|| record(number(at)));
            match words[0] {
                "sent" => {
                    let outcome = match words[2] {
                        "acked" => Outcome::Acked(Offset(number(3))),
                        "failed" => Outcome::Failed,
                        "unknown" => Outcome::Unknown,
                        other => panic!("no outcome: {other}"),
                    };
                    let at = Duration::from_millis(number(1));
                    let sent = Sent { place: place(), at, outcome, known_at: at };
                    evidence.sent.insert(record(number(1)), sent);
                }
                "log" => {
                    evidence.scan.entry(place()).or_default().push((Offset(number(1)), known(2)));
                }
                "read" => evidence.reads.push(Read {
                    consumer: 0,
                    place: place(),
                    offset: Offset(number(1)),
                    record: known(2),
                    at: Duration::ZERO,
                }),
                other => panic!("no such line: {other}"),
            }
        }
        evidence
    }

    /// Which promises the history breaks.
    pub(super) fn broken(words: &str) -> Vec<&'static str> {
        let mut broken = Panel::default()
            .end(&evidence(words), Duration::ZERO)
            .iter()
            .map(|found| found.promise)
            .collect::<Vec<_>>();
        broken.dedup();
        broken
    }

    #[test]
    fn odd_but_legal_histories_pass() {
        assert!(broken("").is_empty());
        // An unknown one may stand or not, and a later one may have been acked before it.
        assert!(broken("sent 0 unknown\nsent 1 acked 1\nlog 0 0\nlog 1 1").is_empty());
        assert!(broken("sent 0 unknown\nsent 1 acked 0\nlog 0 1").is_empty());
        assert!(broken("sent 0 failed\nsent 1 acked 0\nlog 0 1\nread 0 1").is_empty());
    }
}
