//! A reader never sees what can still vanish, and skips nothing: what a consumer was given is what stands there at
//! the end, and its offsets follow one another (`faults-and-oracles` O-16, O-17).

use std::collections::BTreeMap;
use std::time::Duration;

use super::Violation;
use crate::history::Evidence;

pub(super) fn check(evidence: &Evidence, _end: Duration) -> Vec<Violation> {
    let logs =
        evidence.scan.iter().map(|(place, log)| (place, log.iter().copied().collect::<BTreeMap<_, _>>()));
    let logs = logs.collect::<BTreeMap<_, _>>();
    let mut last = BTreeMap::new();
    let mut found = Vec::new();
    let name = |record: &Option<crate::history::RecordId>| match record {
        Some(record) => record.to_string(),
        None => "a foreign record".to_owned(),
    };
    for read in &evidence.reads {
        let mut tell = |what: String| {
            let what =
                format!("consumer {} at offset {} of {}: {what}", read.consumer, read.offset, read.place);
            found.push(Violation { promise: "O-16", at: read.at, what });
        };
        match logs.get(&read.place).and_then(|log| log.get(&read.offset)) {
            None => tell(format!("read {}, but the log has no such offset", name(&read.record))),
            Some(standing) if *standing != read.record => {
                tell(format!("read {}, but {} stands there", name(&read.record), name(standing)));
            }
            Some(_) => {}
        }
        if let Some(before) = last.insert((read.consumer, &read.place), read.offset)
            && before.plus(1) != read.offset
        {
            tell(format!("had read {before} before"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::bench::broken;

    #[test]
    fn what_vanished_changed_or_was_skipped_is_seen() {
        let log = "sent 0 unknown\nsent 1 unknown\nsent 2 unknown\nlog 0 0\nlog 1 1\nlog 2 2\n";
        assert_eq!(broken(&format!("{log}read 3 3")), ["O-16"]);
        assert_eq!(broken(&format!("{log}read 0 1")), ["O-16"]);
        assert_eq!(broken(&format!("{log}read 0 0\nread 2 2")), ["O-16"]);
        assert_eq!(broken(&format!("{log}read 1 1\nread 0 0")), ["O-16"]);
        assert_eq!(broken(&format!("{log}read 1 1\nread 2 2")), [""; 0]);
    }
}
