//! A broken promise as a person is told of it: what was seen, who did what before, and how to see it again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use crate::check::{Violation, promises};
use crate::history::RecordId;
use crate::report::Report;
use crate::run::Options;
use crate::scenario::play;
use crate::trace::{Show, time_of};

/// So many of the last events before a violation are shown.
const EVENTS_MAX: usize = 16;
/// And so many of what its records' producers were told.
const ANSWERS_MAX: usize = 8;
/// What is shown lies at most so far back.
const BACK_MAX: Duration = Duration::from_secs(20);

/// Of what is broken, what acknowledged records and committed entries are lost by comes first.
const WORST: [&str; 7] = ["O-11", "O-05", "O-17", "O-03", "O-06", "O-12", "O-13"];

/// The worst promise first, each once.
pub fn worst_first(promises: &mut Vec<&'static str>) {
    promises.sort_by_key(|promise| weight(promise));
    promises.dedup();
}

fn weight(promise: &'static str) -> (usize, &'static str) {
    (WORST.iter().position(|worst| *worst == promise).unwrap_or(WORST.len()), promise)
}

/// The same run once more, which is kept as text and not shown.
pub fn again(report: &Report, keep: Show) -> Report {
    let options = Options { show: Show::Nothing, keep, ..report.options };
    silently(|| play(report.seed, options))
}

/// Without the nodes' logs: they were shown the first time.
fn silently<T>(play: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::default(), play)
}

/// Tells of a run's violations. Runs it once more: only then is kept what happened.
pub fn explain(report: &Report) -> String {
    explain_by(report, &report.replay(), || again(report, Show::Story))
}

/// The same of a run that `again` repeats, and `replay` for people.
pub fn explain_by(report: &Report, replay: &str, again: impl FnOnce() -> Report) -> String {
    let again = silently(again);
    let mut told = tell(&report.violations, &again.trace);
    if again.trace_hash != report.trace_hash {
        told +=
            "  a second run of this seed had another trace: what is shown of it may be of another story\n";
    }
    // Writing to a string does not fail.
    writeln!(told, "  seed {}; repeat it with: {replay}", report.seed).unwrap_or_default();
    told
}

/// The violations, the worst ones first and the same thing once, and then what happened before them.
fn tell(violations: &[Violation], story: &[String]) -> String {
    let mut folded = BTreeMap::<_, Vec<&Violation>>::new();
    for violation in violations {
        folded.entry((weight(violation.promise), shape(&violation.what))).or_default().push(violation);
    }
    let mut told = String::new();
    for same in folded.values() {
        let Some(first) = same.iter().min_by_key(|violation| violation.at) else { continue };
        let at = first.at.as_secs_f64();
        writeln!(told, "  BROKEN {} at {at:.3} s: {}", first.promise, first.what).unwrap_or_default();
        if let Some(promise) = promises::of(first.promise) {
            writeln!(told, "    promised: {} ({})", promise.what, promise.source).unwrap_or_default();
        }
        if let Some(more) = same.len().checked_sub(1).filter(|more| *more > 0) {
            writeln!(told, "    and {more} more like it").unwrap_or_default();
        }
    }
    let lines = violations.iter().flat_map(|violation| before(violation, story));
    let lines = lines.collect::<BTreeMap<_, _>>();
    if !lines.is_empty() {
        writeln!(told, "  what happened before:").unwrap_or_default();
    }
    let mut next = None;
    for (number, line) in lines {
        if next.is_some_and(|next| number > next) {
            writeln!(told, "              ...").unwrap_or_default();
        }
        next = Some(number + 1);
        writeln!(told, "    {line}").unwrap_or_default();
    }
    told
}

/// What is said, without the numbers that tell one case of it from another.
fn shape(what: &str) -> String {
    let words = what.split_whitespace();
    let words = words.filter(|word| !word.bytes().any(|byte| byte.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

/// The lines of the story that tell how it came: the last of the nodes and the nemesis, and what is said of the records
/// that the violation names.
fn before<'a>(violation: &Violation, story: &'a [String]) -> Vec<(usize, &'a str)> {
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
    // Of who led what, only what is about the groups that the violation names.
    let groups = groups(&violation.what);
    let is_elsewhere = |line: &str| {
        !groups.is_empty() && groups_of(line).next().is_some_and(|group| !groups.contains(&group))
    };
    let events = until_then().filter(|(_, line)| !is_client(line) && recent(line) && !is_elsewhere(line));
    let events = events.collect::<Vec<_>>();
    let skipped = events.len().saturating_sub(EVENTS_MAX);
    let mut lines = answers.chain(events.into_iter().skip(skipped)).collect::<Vec<_>>();
    lines.sort_unstable();
    lines.dedup();
    lines
}

fn groups(text: &str) -> BTreeSet<&str> {
    groups_of(text).collect()
}

/// The groups that are named, by their numbers.
fn groups_of(text: &str) -> impl Iterator<Item = &str> {
    words(text).zip(words(text).skip(1)).filter(|(word, _)| *word == "group").map(|(_, group)| group)
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
            "    32.000000 node1: leads group 5 in term 2",
            "    32.000000 node1: leads group 7 in term 2",
            "    50.000000 nemesis: mends everything",
        ];
        let story = story.map(str::to_owned);
        let violation = Violation {
            promise: "O-11",
            at: Duration::from_secs(40),
            what: "p3-17, acked at 4, is not there in group 7".to_owned(),
        };
        let lines = before(&violation, &story).into_iter().map(|(_, line)| line).collect::<Vec<_>>();
        assert_eq!(lines, [&story[0], &story[2], &story[4], &story[6]]);
        let told = tell(&[violation], &story);
        assert!(told.starts_with("  BROKEN O-11 at 40.000 s: p3-17, acked"), "{told}");
        assert!(told.contains("\n        30.000000 nemesis: kills node2\n"), "{told}");
    }

    #[test]
    fn losses_come_first_what_is_the_same_once_and_the_story_once() {
        let story = ["    30.000000 nemesis: kills node2".to_owned()];
        let violation =
            |promise, what: &str| Violation { promise, at: Duration::from_secs(40), what: what.to_owned() };
        let violations = [
            violation("O-02", "node 1 and node 2 differ at 7"),
            violation("O-11", "p3-17, acked at 4, is not there"),
            violation("O-11", "p3-18, acked at 5, is not there"),
        ];
        let told = tell(&violations, &story);
        assert_eq!(told.matches("BROKEN").count(), 2, "{told}");
        assert!(told.find("O-11") < told.find("O-02") && told.contains("p3-17"), "{told}");
        assert!(told.contains("    and 1 more like it\n"), "{told}");
        assert_eq!(told.matches("nemesis").count(), 1, "{told}");
    }
}
