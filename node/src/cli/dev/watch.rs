//! What is said of a node as it gets ready, is late, or is ready again. Pure.

use std::fmt;
use std::time::{Duration, Instant};

/// How long a node may take before it is said that it is not ready.
const GRACE: Duration = Duration::from_secs(3);
/// Shortest time between two reasons of one node.
const NEXT_REASON: Duration = Duration::from_secs(10);

/// What is to be said of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// It is not ready, for this reason.
    Late(String),
    /// It is ready, after it was said that it is not.
    Ready,
    /// It is ready, as it was before.
    ReadyAgain,
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(reason) => write!(f, "is not ready: {reason}"),
            Self::Ready => f.write_str("is ready now"),
            Self::ReadyAgain => f.write_str("is ready again"),
        }
    }
}

/// What was seen of one node so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Its process.
    pid: Option<u32>,
    /// The process that was ready last.
    ready: Option<u32>,
    /// Since when this process is not ready.
    late_since: Option<Instant>,
    /// The last reason that was said, and when.
    said: Option<(String, Instant)>,
}

impl Seen {
    /// Notes what a look at the node found, `pid` being its process; gives what is to be said of it.
    pub(super) fn look(
        &mut self,
        pid: Option<u32>,
        ready: &Result<(), String>,
        now: Instant,
    ) -> Option<Word> {
        if self.pid != pid {
            (self.pid, self.late_since) = (pid, None);
        }
        // Whoever starts it has said how it ended.
        pid?;
        match ready {
            Ok(()) => {
                self.late_since = None;
                let complained = self.said.take().is_some();
                let before = std::mem::replace(&mut self.ready, pid);
                match before {
                    None => complained.then_some(Word::Ready),
                    Some(_) => (complained || before != pid).then_some(Word::ReadyAgain),
                }
            }
            Err(reason) => {
                let since = *self.late_since.get_or_insert(now);
                let due = match &self.said {
                    None => now >= since + GRACE,
                    Some((said, at)) => said != reason && now >= *at + NEXT_REASON,
                };
                due.then(|| self.complain(reason, now))
            }
        }
    }

    /// That it is not ready, if that was not said yet.
    pub(super) fn late(&mut self, ready: &Result<(), String>, now: Instant) -> Option<Word> {
        let reason = ready.as_ref().err().filter(|_| self.said.is_none())?;
        Some(self.complain(reason, now))
    }

    fn complain(&mut self, reason: &str, now: Instant) -> Word {
        self.said = Some((reason.to_owned(), now));
        Word::Late(reason.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at a node every second: its process, and why it is not ready.
    fn said(looks: &[(Option<u32>, Option<&str>)]) -> Vec<(usize, String)> {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let mut said = Vec::new();
        for (second, (pid, reason)) in looks.iter().enumerate() {
            let ready = reason.map_or(Ok(()), |reason| Err(reason.to_owned()));
            let now = start + Duration::from_secs(u64::try_from(second).unwrap());
            said.extend(seen.look(*pid, &ready, now).map(|line| (second, line.to_string())));
        }
        said
    }

    fn lines(expected: &[(usize, &str)]) -> Vec<(usize, String)> {
        expected.iter().map(|(second, line)| (*second, (*line).to_owned())).collect()
    }

    #[test]
    fn a_node_that_is_quick_is_not_spoken_of() {
        assert_eq!(
            said(&[(None, Some("x")), (Some(1), Some("starts")), (Some(1), None), (Some(1), None)]),
            []
        );
    }

    #[test]
    fn a_node_that_stays_unready_is_named_once_with_the_reason() {
        let mut looks = vec![(Some(1), Some("refused")); 30];
        looks.push((Some(1), None));
        assert_eq!(said(&looks), lines(&[(3, "is not ready: refused"), (30, "is ready now")]));
        // Reasons that take turns do not fill the screen.
        let looks: Vec<_> = (0..13).map(|n| (Some(1), Some(if n % 2 == 0 { "a" } else { "b" }))).collect();
        assert_eq!(said(&looks), lines(&[(3, "is not ready: b")]));
        let looks: Vec<_> = (0..15).map(|n| (Some(1), Some(if n < 5 { "a" } else { "b" }))).collect();
        assert_eq!(said(&looks), lines(&[(3, "is not ready: a"), (13, "is not ready: b")]));
    }

    #[test]
    fn a_node_that_was_started_again_is_ready_again() {
        let looks = [(Some(1), None), (None, Some("x")), (Some(2), Some("starts")), (Some(2), None)];
        assert_eq!(said(&looks), lines(&[(3, "is ready again")]));
        // Between two looks.
        assert_eq!(said(&[(Some(1), None), (Some(2), None)]), lines(&[(1, "is ready again")]));
        // The time of one process does not count for the next.
        let looks: Vec<_> = (0..20).map(|n| (Some(n / 3), Some("x"))).collect();
        assert_eq!(said(&looks), []);
    }

    #[test]
    fn whoever_is_late_when_the_others_are_announced_is_named() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        assert_eq!(seen.late(&Err("x".to_owned()), now), Some(Word::Late("x".to_owned())));
        assert_eq!(seen.late(&Err("x".to_owned()), now), None);
        assert_eq!(Seen::default().late(&Ok(()), now), None);
    }
}
