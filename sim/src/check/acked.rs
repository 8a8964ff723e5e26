//! Acked means there: each acknowledged record stands in the log at its offset (`faults-and-oracles` O-11).

use std::time::Duration;

use super::Violation;
use crate::history::{Evidence, Outcome};

pub(super) fn check(evidence: &Evidence, end: Duration) -> Vec<Violation> {
    let mut found = Vec::new();
    for (record, sent) in &evidence.sent {
        let Outcome::Acked(offset) = sent.outcome else { continue };
        let log = evidence.scan.get(&sent.place).map_or(&[][..], Vec::as_slice);
        // Dense offsets stand at their own place; where they are not, that is another promise broken.
        let dense = usize::try_from(offset.0).ok().and_then(|at| log.get(at)).filter(|(at, _)| *at == offset);
        let there = dense.or_else(|| log.iter().find(|(at, _)| *at == offset));
        let what = match there {
            Some((_, standing)) if *standing == Some(*record) => continue,
            Some((_, Some(other))) => format!("{other} stands there"),
            Some((_, None)) => "something else stands there".to_owned(),
            None => "the log has no such offset".to_owned(),
        };
        let elsewhere = log.iter().filter(|(_, standing)| *standing == Some(*record));
        let elsewhere = elsewhere.map(|(at, _)| at.to_string()).collect::<Vec<_>>().join(", ");
        let elsewhere = if elsewhere.is_empty() { "nowhere".to_owned() } else { format!("at {elsewhere}") };
        found.push(Violation {
            promise: "O-11",
            at: end,
            what: format!(
                "{record}, sent to {} at {:?}, was acked at {:?} for offset {offset}, but {what}; it stands {elsewhere}",
                sent.place, sent.at, sent.known_at
            ),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::bench::broken;

    #[test]
    fn a_lost_or_moved_record_is_seen() {
        assert_eq!(broken("sent 0 acked 0"), ["O-11"]);
        assert_eq!(broken("sent 0 acked 1\nsent 1 acked 0\nlog 0 0\nlog 1 1"), ["O-11"]);
        assert_eq!(broken("sent 0 acked 0\nsent 1 unknown\nlog 0 1"), ["O-11"]);
        assert_eq!(broken("sent 0 acked 0\nlog 0 0"), [""; 0]);
    }
}
