//! Who follows a partition comes to its end: once all is mended and nobody writes, each consumer that reads on has been
//! given all that stands there, and none still waits for a topic that is gone (oracle O-27; `Consumer` in
//! the client). One that is never woken breaks no other promise.

use std::time::Duration;

use super::Violation;
use crate::history::Evidence;

pub(super) fn check(evidence: &Evidence, end: Duration) -> Vec<Violation> {
    behind(evidence).map(|what| Violation { promise: "O-27", at: end, what }).collect()
}

/// The consumers that have not come to the end, as sentences.
pub fn behind(evidence: &Evidence) -> impl Iterator<Item = String> + use<'_> {
    evidence.following.iter().filter_map(|((consumer, target), next)| {
        let scan = evidence.scan.values().find(|scan| scan.target.as_ref() == Some(target));
        let what = match scan.map(|scan| scan.records.last()) {
            Some(last) => {
                let (last, _) = last.filter(|(last, _)| last >= next)?;
                format!("has read all before {next}, and {last} stands there")
            }
            None => format!("waits at {next}, and was not told that the topic is gone"),
        };
        Some(format!("a consumer comes to the end: consumer {consumer} follows {target}, {what}"))
    })
}
