//! How much of a topic's logs is kept at least, by what clients asked for.

use std::collections::BTreeMap;
use std::fmt;

use crate::wire::Told;

/// `retention.ms` of a topic for which nothing else was asked: a week.
const WEEK_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

/// What is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    /// Milliseconds; `None`: without a bound.
    pub(super) ms: Option<i64>,
    /// Bytes of a partition; `None`: without a bound.
    pub(super) bytes: Option<u64>,
}

/// What was asked for topics of one name.
#[derive(Clone, Debug, Default)]
pub(super) struct Asking {
    /// The tightest rule that may ever have been in force.
    tightest: Option<Rule>,
    /// The one that was asked for last.
    last: Rule,
    /// Changes of which nobody knows what came of them, by their calls, with the rule before each.
    unsure: BTreeMap<u64, (Changes, Rule)>,
}

/// Settings with their new values; `None`: the default.
type Changes = Vec<(String, Option<String>)>;

impl Default for Rule {
    fn default() -> Self {
        Self { ms: Some(WEEK_MS), bytes: None }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = |bound: Option<String>| bound.unwrap_or_else(|| "-1".to_owned());
        let (ms, bytes) = (self.ms.map(|ms| ms.to_string()), self.bytes.map(|bytes| bytes.to_string()));
        write!(f, "retention.ms {} and retention.bytes {}", bound(ms), bound(bytes))
    }
}

impl Rule {
    /// With a setting changed; `None`: back to its default. What is no value is refused, and changes nothing.
    fn with(mut self, key: &str, value: Option<&str>) -> Self {
        let number = match value.map(str::parse::<i64>) {
            None => None,
            Some(Ok(number)) if number >= -1 => Some(number),
            Some(_) => return self,
        };
        match key {
            "retention.ms" => {
                self.ms = number.map_or(Self::default().ms, |ms| Some(ms).filter(|ms| *ms >= 0))
            }
            "retention.bytes" => {
                self.bytes = number.map_or(Self::default().bytes, |bytes| u64::try_from(bytes).ok());
            }
            _ => {}
        }
        self
    }

    /// Lets go what either lets go.
    fn tightest(self, other: Self) -> Self {
        fn least<T: Ord>(one: Option<T>, other: Option<T>) -> Option<T> {
            match (one, other) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            }
        }
        Self { ms: least(self.ms, other.ms), bytes: least(self.bytes, other.bytes) }
    }

    /// Whether a batch whose age counts from that time, with so many bytes in the batches behind it, need not be
    /// kept when the wall clock shows `wall`; where no clock was seen, any time may have come.
    pub(super) fn lets_go(self, newest: i64, bytes_behind: u64, wall: Option<i64>) -> bool {
        let expired = |ms: i64| ms == 0 || wall.is_none_or(|wall| newest.saturating_add(ms) < wall);
        self.ms.is_some_and(expired) || self.bytes.is_some_and(|bytes| bytes_behind >= bytes)
    }
}

impl Asking {
    /// A topic is to be created with these settings.
    pub(super) fn create(&mut self, configs: &[(String, String)]) {
        let given = |rule: Rule, (key, value): &(String, String)| rule.with(key, Some(value));
        self.ask(configs.iter().fold(Rule::default(), given));
    }

    /// Settings of a topic are to be changed.
    pub(super) fn configure(&mut self, call: u64, changes: &[(String, Option<String>)]) {
        let change = |rule: Rule, (key, value): &(String, Option<String>)| rule.with(key, value.as_deref());
        self.unsure.insert(call, (changes.to_vec(), self.last));
        self.ask(changes.iter().fold(self.last, change));
    }

    /// It is known what became of a change.
    pub(super) fn told(&mut self, call: u64, changes: &[(String, Option<String>)], told: &Told) {
        match told {
            // Asked again until there was an answer.
            Told::Configured => self.unsure.retain(|_, (open, _)| open.as_slice() != changes),
            Told::Refused { .. } | Told::Unreached => {
                if let Some((_, before)) = self.unsure.remove(&call) {
                    self.last = before;
                }
            }
            _ => {}
        }
    }

    fn ask(&mut self, rule: Rule) {
        self.tightest = Some(self.tightest.map_or(rule, |tightest| tightest.tightest(rule)));
        self.last = rule;
    }

    /// The tightest rule that may have been in force at any time.
    pub(super) fn tightest(&self) -> Rule {
        self.tightest.unwrap_or_default()
    }

    /// The rule that surely is in force.
    pub(super) fn in_force(&self) -> Option<Rule> {
        Some(self.last).filter(|_| self.unsure.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::ErrorCode;

    use super::*;

    fn changes(words: &str) -> Vec<(String, Option<String>)> {
        let change = |word: &str| {
            let (key, value) = word.split_once('=').unwrap();
            (format!("retention.{key}"), Some(value.to_owned()).filter(|value| !value.is_empty()))
        };
        words.split_whitespace().map(change).collect()
    }

    #[test]
    fn settings_mean_what_they_mean_to_kafka() {
        let rule = |words: &str| {
            changes(words)
                .iter()
                .fold(Rule::default(), |rule, (key, value)| rule.with(key, value.as_deref()))
                .to_string()
        };
        assert_eq!(rule(""), "retention.ms 604800000 and retention.bytes -1");
        assert_eq!(rule("ms=-1 bytes=50"), "retention.ms -1 and retention.bytes 50");
        assert_eq!(rule("ms=0 bytes=0"), "retention.ms 0 and retention.bytes 0");
        assert_eq!(
            rule("ms=3 ms= bytes=x bytes=7 segment.bytes=1"),
            "retention.ms 604800000 and retention.bytes 7"
        );
    }

    #[test]
    fn a_batch_is_let_go_by_its_time_or_by_what_stands_behind_it() {
        let rule = |ms, bytes| Rule { ms, bytes };
        assert!(!rule(Some(10), None).lets_go(100, 1_000, Some(110)));
        assert!(rule(Some(10), None).lets_go(100, 0, Some(111)));
        assert!(rule(Some(10), None).lets_go(100, 0, None));
        assert!(!rule(None, Some(50)).lets_go(100, 49, Some(i64::MAX)));
        assert!(rule(None, Some(50)).lets_go(100, 50, Some(0)));
        assert!(rule(Some(0), None).lets_go(i64::MAX, 0, Some(0)), "nothing is kept");
        assert!(!rule(None, None).lets_go(i64::MIN, u64::MAX, None));
        assert!(!rule(Some(1), None).lets_go(i64::MAX, 0, Some(5)));
    }

    #[test]
    fn the_tightest_that_was_asked_for_counts_and_the_last_is_in_force_when_it_was_answered() {
        let mut asking = Asking::default();
        asking.create(&[("retention.bytes".to_owned(), "100".to_owned())]);
        asking.configure(1, &changes("ms=50 bytes=300"));
        assert_eq!(asking.tightest(), Rule { ms: Some(50), bytes: Some(100) });
        assert_eq!(asking.in_force(), None);
        asking.told(1, &changes("ms=50 bytes=300"), &Told::Configured);
        assert_eq!(asking.in_force(), Some(Rule { ms: Some(50), bytes: Some(300) }));
        asking.configure(2, &changes("ms=-1"));
        asking.told(2, &changes("ms=-1"), &Told::Unknown { why: "no answer".to_owned() });
        assert_eq!(asking.in_force(), None);
        asking.configure(3, &changes("ms=-1"));
        asking.told(3, &changes("ms=-1"), &Told::Configured);
        assert_eq!(asking.in_force(), Some(Rule { ms: None, bytes: Some(300) }));
        asking.configure(4, &changes("ms=-2"));
        let refused = Told::Refused { code: ErrorCode::InvalidRequest, high_watermark: -1, log_start: -1 };
        asking.told(4, &changes("ms=-2"), &refused);
        assert_eq!(asking.in_force(), Some(Rule { ms: None, bytes: Some(300) }), "as before");
    }
}
