//! What is wrong by itself: a task that panicked, a node that does not start again, a client that is given damaged
//! bytes, a cluster that does not come back after everything was mended.

use std::time::Duration;

use super::Violation;
use crate::history::Evidence;

pub(super) fn check(evidence: &Evidence, _end: Duration) -> Vec<Violation> {
    let complaints = evidence.complaints.iter();
    complaints.map(|said| Violation { promise: said.promise, at: said.at, what: said.what.clone() }).collect()
}
