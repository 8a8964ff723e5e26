//! Compares what was acknowledged with what was read back. Pure.

use std::collections::BTreeMap;
use std::fmt;

/// What a comparison found. Numbers are those of the lines; an empty verdict is a good one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Acknowledged, and not there.
    pub lost: Vec<u64>,
    /// There more than once.
    pub doubled: Vec<u64>,
    /// Before a smaller number of the same partition.
    pub disordered: Vec<u64>,
    /// There, and never sent.
    pub invented: Vec<u64>,
}

impl Verdict {
    /// Whether everything acknowledged is there exactly once, each partition in order, and nothing else.
    pub fn is_good(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_good() {
            return f.write_str("equal: every acknowledged line once, in order");
        }
        let groups = [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("out of order", &self.disordered),
            ("invented", &self.invented),
        ];
        f.write_str("NOT equal:")?;
        for (what, lines) in groups {
            if let (Some(first), Some(last)) = (lines.first(), lines.last()) {
                write!(f, " {} {what} ({first} to {last});", lines.len())?;
            }
        }
        Ok(())
    }
}

/// Judges the lines of one topic. `sent`: number and whether it was acknowledged, of every line that was handed over
/// (one that was not may or may not be there). `read`: partition and number, in the order read.
pub fn judge(
    sent: impl IntoIterator<Item = (u64, bool)>,
    read: impl IntoIterator<Item = (i64, u64)>,
) -> Verdict {
    let mut verdict = Verdict::default();
    // How often each line was seen.
    let mut seen: BTreeMap<u64, (bool, u32)> =
        sent.into_iter().map(|(line, acked)| (line, (acked, 0))).collect();
    let mut newest: BTreeMap<i64, u64> = BTreeMap::new();
    for (partition, line) in read {
        match seen.get_mut(&line) {
            None => verdict.invented.push(line),
            Some((_, times)) => {
                *times += 1;
                if *times == 2 {
                    verdict.doubled.push(line);
                }
            }
        }
        let newest = newest.entry(partition).or_insert(line);
        if line < *newest {
            verdict.disordered.push(line);
        }
        *newest = line.max(*newest);
    }
    verdict.lost =
        seen.iter().filter(|(_, (acked, times))| *acked && *times == 0).map(|(line, _)| *line).collect();
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_good_run_is_good_even_if_an_unknown_line_is_there_or_not() {
        let sent = [(0, true), (1, true), (2, false), (3, false)];
        assert!(judge(sent, [(0, 0), (1, 1), (0, 2)]).is_good());
        assert!(judge(sent, [(1, 1), (0, 0)]).is_good());
    }

    #[test]
    fn every_kind_of_harm_is_seen() {
        let sent = (0..6).map(|line| (line, true));
        let verdict = judge(sent, [(0, 0), (0, 2), (0, 1), (1, 4), (1, 4), (1, 9)]);
        let expected = Verdict { lost: vec![3, 5], doubled: vec![4], disordered: vec![1], invented: vec![9] };
        assert_eq!(verdict, expected);
        assert!(verdict.to_string().contains("2 lost (3 to 5)"), "{verdict}");
    }
}
