//! The promises, one file each: what was promised, judged by what the clients and the disks have seen.

mod acked;
mod complaints;
mod dense;
mod once;
mod order;
mod phantom;
mod reads;
mod replicas;

use std::time::Duration;

use crate::history::Evidence;

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one, by its name.
    pub promise: &'static str,
    /// When it showed, in simulated time; the end for what only the final scan shows.
    pub at: Duration,
    /// What was seen, for people.
    pub what: String,
}

/// At most this many violations of one promise are told: the first ones say it all.
const TOLD_MAX: usize = 5;

/// Judges the evidence of a run.
pub fn check(evidence: &Evidence, end: Duration) -> Vec<Violation> {
    let checks: [fn(&Evidence, Duration) -> Vec<Violation>; 8] = [
        complaints::check,
        acked::check,
        once::check,
        phantom::check,
        order::check,
        dense::check,
        reads::check,
        replicas::check,
    ];
    let mut all = Vec::new();
    for check in checks {
        all.extend(check(evidence, end).into_iter().take(TOLD_MAX));
    }
    all
}

#[cfg(test)]
mod bench {
    //! Hand-made histories for the checks' own tests.

    use quorate_proto::ids::{Offset, PartitionId};

    use super::*;
    use crate::history::{Outcome, Place, Read, RecordId, Sent};

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
        let mut broken =
            check(&evidence(words), Duration::ZERO).iter().map(|found| found.promise).collect::<Vec<_>>();
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
