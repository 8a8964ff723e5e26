//! No phantom: what stands in the log was sent to that partition, and its producer was not told that it failed
//! (`faults-and-oracles` O-12).

use std::time::Duration;

use super::Violation;
use crate::history::{Evidence, Outcome};

pub(super) fn check(evidence: &Evidence, end: Duration) -> Vec<Violation> {
    let mut found = Vec::new();
    for (place, log) in &evidence.scan {
        for (offset, record) in log {
            let why = match record {
                None => "no producer of this run made it".to_owned(),
                Some(record) => match evidence.sent.get(record) {
                    None => format!("{record} was never sent"),
                    Some(sent) if sent.place != *place => format!("{record} was sent to {}", sent.place),
                    Some(sent) if sent.outcome == Outcome::Failed => {
                        format!(
                            "the producer of {record} was told at {:?} that it is not written",
                            sent.known_at
                        )
                    }
                    Some(_) => continue,
                },
            };
            found.push(Violation {
                promise: "O-12",
                at: end,
                what: format!("offset {offset} of {place} should not be there: {why}"),
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::bench::broken;

    #[test]
    fn what_nobody_sent_or_what_failed_is_seen() {
        assert_eq!(broken("log 0 foreign"), ["O-12"]);
        assert_eq!(broken("log 0 7"), ["O-12"]);
        assert_eq!(broken("sent 0 failed\nlog 0 0"), ["O-12"]);
    }
}
