//! A broken promise as a person is told of it: what was seen, who did what before, and how to see it again.

use std::fmt::Write as _;
use std::time::Duration;

use crate::check::Violation;
use crate::history::RecordId;
use crate::report::Report;
use crate::run::Options;
use crate::scenario::play;
use crate::trace::{Show, time_of};

/// So many of the last events before a violation are shown.
const EVENTS_MAX: usize = 12;
/// And so many of what its records' producers were told.
const ANSWERS_MAX: usize = 8;
/// What is shown lies at most so far back.
const BACK_MAX: Duration = Duration::from_secs(20);

/// Tells of a run's violations. Runs it once more: only then is kept what happened.
pub fn explain(report: &Report) -> String {
    let again = play(report.seed, Options { show: Show::Nothing, keep: Show::Story, ..report.options });
    let mut told = String::new();
    for violation in &report.violations {
        tell(&mut told, violation, &again.trace);
    }
    if again.trace_hash != report.trace_hash {
        told +=
            "  a second run of this seed had another trace: what is shown of it may be of another story\n";
    }
    // Writing to a string does not fail.
    writeln!(told, "  seed {}; repeat it with: {}", report.seed, report.replay()).unwrap_or_default();
    told
}

fn tell(told: &mut String, violation: &Violation, story: &[String]) {
    let at = violation.at.as_secs_f64();
    writeln!(told, "  BROKEN {} at {at:.3} s: {}", violation.promise, violation.what).unwrap_or_default();
    for line in before(violation, story) {
        writeln!(told, "    {line}").unwrap_or_default();
    }
}

/// The lines of the story that tell how it came: the last of the nodes and the nemesis, and what is said of the records
/// that the violation names.
fn before<'a>(violation: &Violation, story: &'a [String]) -> Vec<&'a str> {
    let named = words(&violation.what).filter(|word| RecordId::parse(word.as_bytes()).is_some());
    let named = named.collect::<Vec<_>>();
    let names_one = |line: &str| named.iter().any(|name| words(line).any(|word| word == *name));
    let is_client = |line: &str| words(line).nth(1).is_some_and(|word| word.starts_with("client"));
    let recent = |line: &str| time_of(line).is_some_and(|time| time + BACK_MAX >= violation.at);

    let until_then = || {
        let numbered = story.iter().map(String::as_str).enumerate();
        numbered.filter(|(_, line)| time_of(line).is_some_and(|time| time <= violation.at))
    };
    let answers = until_then().filter(|(_, line)| names_one(line)).take(ANSWERS_MAX);
    let events = until_then().filter(|(_, line)| !is_client(line) && recent(line)).collect::<Vec<_>>();
    let skipped = events.len().saturating_sub(EVENTS_MAX);
    let mut lines = answers.chain(events.into_iter().skip(skipped)).collect::<Vec<_>>();
    lines.sort_unstable();
    lines.dedup();
    lines.into_iter().map(|(_, line)| line).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '.'))
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_what_the_violation_is_about() {
        let story = [
            "     1.000000 client3: p3-17 to orders/0 acked: at 4",
            "     2.000000 node1: starts, life 1",
            "    30.000000 nemesis: kills node2",
            "    30.500000 client3: p3-18 to orders/0 acked: at 5",
            "    31.000000 node2: starts, life 2",
            "    50.000000 nemesis: mends everything",
        ];
        let story = story.map(str::to_owned);
        let violation = Violation {
            promise: "O-11",
            at: Duration::from_secs(40),
            what: "p3-17, acked at 4, is not there".to_owned(),
        };
        let lines = before(&violation, &story);
        assert_eq!(lines, [&story[0], &story[2], &story[4]]);
        let mut told = String::new();
        tell(&mut told, &violation, &story);
        assert!(told.starts_with("  BROKEN O-11 at 40.000 s: p3-17, acked"), "{told}");
        assert!(told.contains("\n        30.000000 nemesis: kills node2\n"), "{told}");
    }
}
