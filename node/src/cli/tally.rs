//! What became of the lines handed over so far, and how long the producer waited for an acknowledgement. Pure.

use std::time::Duration;

/// Counts of lines. Times are since any one moment, the same for all calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Lines read and to be accounted for; `acked + unknown + failed <= lines`.
    pub(crate) lines: u64,
    /// On the disks of a majority.
    pub(crate) acked: u64,
    /// Perhaps written.
    pub(crate) unknown: u64,
    /// Surely not written.
    pub(crate) failed: u64,
    longest_gap: Duration,
    /// Since when no acknowledgement has come although a line waits for one; set while one waits.
    waiting_since: Option<Duration>,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// On the disks of a majority.
    Acked,
    /// Perhaps written.
    Unknown,
    /// Surely not written.
    Failed,
}

impl Tally {
    /// Lines that wait for their fate.
    pub(crate) fn waiting(&self) -> u64 {
        self.lines - self.acked - self.unknown - self.failed
    }

    /// A line is offered to the producer.
    pub(crate) fn offered(&mut self, now: Duration) {
        self.lines += 1;
        self.waiting_since.get_or_insert(now);
    }

    /// The line offered last was not taken: it does not count.
    pub(crate) fn withdraw(&mut self) {
        self.lines -= 1;
        if self.waiting() == 0 {
            self.waiting_since = None;
        }
    }

    /// A line that waited met its fate.
    pub(crate) fn ended(&mut self, fate: Fate, now: Duration) {
        match fate {
            Fate::Acked => self.acked += 1,
            Fate::Unknown => self.unknown += 1,
            Fate::Failed => self.failed += 1,
        }
        self.longest_gap = self.longest_gap(now);
        if self.waiting() == 0 {
            self.waiting_since = None;
        } else if fate == Fate::Acked {
            self.waiting_since = Some(now);
        }
    }

    /// A line was refused before it was offered.
    pub(crate) fn refused(&mut self) {
        self.lines += 1;
        self.failed += 1;
    }

    /// Every line that still waits is given up: perhaps written.
    pub(crate) fn give_up(&mut self, now: Duration) {
        self.longest_gap = self.longest_gap(now);
        self.unknown += self.waiting();
        self.waiting_since = None;
    }

    /// How long no acknowledgement has come although a line waits for one; nothing if none waits.
    pub(crate) fn silent(&self, now: Duration) -> Duration {
        self.waiting_since.map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// The longest time without an acknowledgement while a line waited for one.
    pub(crate) fn longest_gap(&self, now: Duration) -> Duration {
        self.longest_gap.max(self.silent(now))
    }

    /// From now on the longest gap is that of what comes.
    pub(crate) fn forget_gaps(&mut self, now: Duration) {
        self.longest_gap = Duration::ZERO;
        self.waiting_since = self.waiting_since.map(|_| now);
    }

    /// Whether every line was acknowledged.
    pub(crate) fn is_whole(&self) -> bool {
        self.acked == self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    #[test]
    fn a_gap_counts_only_while_a_line_waits() {
        let mut tally = Tally::default();
        tally.offered(ms(0));
        tally.ended(Fate::Acked, ms(3));
        // Nothing waited from 3 to 1000.
        tally.offered(ms(1_000));
        tally.offered(ms(1_001));
        tally.ended(Fate::Acked, ms(1_005));
        tally.ended(Fate::Acked, ms(1_007));
        assert_eq!(tally.longest_gap(ms(9_000)), ms(5));
        assert!(tally.is_whole());
    }

    #[test]
    fn lines_offered_do_not_end_a_gap_and_failures_neither() {
        let mut tally = Tally::default();
        tally.offered(ms(0));
        tally.offered(ms(50));
        tally.ended(Fate::Failed, ms(80));
        assert_eq!(tally.longest_gap(ms(90)), ms(90));
        tally.ended(Fate::Acked, ms(100));
        tally.refused();
        assert_eq!(tally.longest_gap(ms(200)), ms(100));
        assert!(!tally.is_whole());
        assert_eq!((tally.lines, tally.acked, tally.failed, tally.waiting()), (3, 1, 2, 0));
    }

    #[test]
    fn gaps_that_are_forgotten_are_not_the_longest() {
        let mut tally = Tally::default();
        tally.offered(ms(0));
        tally.offered(ms(0));
        tally.ended(Fate::Acked, ms(100));
        tally.forget_gaps(ms(150));
        assert_eq!(tally.longest_gap(ms(160)), ms(10));
        tally.ended(Fate::Acked, ms(170));
        tally.forget_gaps(ms(180));
        assert_eq!((tally.longest_gap(ms(500)), tally.acked), (Duration::ZERO, 2));
    }

    #[test]
    fn what_is_given_up_is_unknown() {
        let mut tally = Tally::default();
        tally.offered(ms(0));
        tally.offered(ms(0));
        tally.ended(Fate::Acked, ms(10));
        tally.give_up(ms(40));
        assert_eq!((tally.acked, tally.unknown, tally.waiting()), (1, 1, 0));
        assert_eq!(tally.longest_gap(ms(1_000)), ms(30));
    }
}
