//! What topics are set to: what was acknowledged holds until somebody asks for something else. At the end each setting
//! has the value that was acknowledged last, or one that nobody knows the outcome of (oracle `metadata`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_node::controller::describe;
use quorate_node::metadata::TopicConfig;
use quorate_proto::ids::LogIndex;

use super::{Check, Found, Seen};
use crate::history::Evidence;
use crate::observe::Sight;
use crate::wire::{Ask, Told};

const ID: &str = "metadata";

/// A value that somebody asked for.
struct Wish {
    call: u64,
    value: String,
    who: String,
    /// When, counted in what is seen here.
    asked: u64,
    /// When it was acknowledged; until then, and if its outcome is not known, it may hold at any later time.
    acked: Option<u64>,
    /// A deletion may have come first: then an acknowledgement is of the topic that was deleted.
    in_doubt: bool,
}

#[derive(Default)]
pub(super) struct Settings {
    seen: u64,
    /// By the topic's name and the setting's.
    wishes: BTreeMap<(String, String), Vec<Wish>>,
    /// Names of which a deletion is under way, or was and nobody knows what came of it.
    deleting: BTreeMap<String, BTreeSet<u64>>,
    /// What topics are set to by the newest metadata that any node has applied.
    newest: (LogIndex, BTreeMap<String, TopicConfig>),
}

fn value_of(config: TopicConfig, key: &str) -> Option<String> {
    describe(config).into_iter().find(|(name, _)| *name == key).map(|(_, value)| value)
}

impl Check for Settings {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, _at: Duration, seen: &Seen<'_>, _found: &mut Found) {
        match seen {
            Seen::Asked(asked) => match &asked.ask {
                Ask::Configure { name, changes } => {
                    self.seen += 1;
                    let in_doubt = self.deleting.get(name).is_some_and(|calls| !calls.is_empty());
                    for (key, value) in changes {
                        let default = || value_of(TopicConfig::default(), key);
                        let Some(value) = value.clone().or_else(default) else { continue };
                        let (call, who, asked) = (asked.call, asked.to_string(), self.seen);
                        let wish = Wish { call, value, who, asked, acked: None, in_doubt };
                        self.wishes.entry((name.clone(), key.clone())).or_default().push(wish);
                    }
                }
                Ask::Delete { name, .. } => {
                    self.deleting.entry(name.clone()).or_default().insert(asked.call);
                    for wishes in self.of(name) {
                        wishes.retain_mut(|wish| {
                            wish.in_doubt = true;
                            wish.acked.is_none()
                        });
                    }
                }
                _ => {}
            },
            Seen::Told(asked, told) => match (&asked.ask, told) {
                (Ask::Configure { name, .. }, Told::Configured) => {
                    self.seen += 1;
                    let now = self.seen;
                    for wishes in self.of(name) {
                        let Some(at) = wishes.iter().position(|wish| wish.call == asked.call) else {
                            continue;
                        };
                        if wishes[at].in_doubt {
                            continue;
                        }
                        wishes[at].acked = Some(now);
                        let asked = wishes[at].asked;
                        // What was acknowledged before it was asked for is over.
                        wishes.retain(|wish| wish.acked.is_none_or(|acked| acked >= asked));
                    }
                }
                (Ask::Configure { name, .. }, Told::Refused { .. } | Told::Unreached) => {
                    for wishes in self.of(name) {
                        wishes.retain(|wish| wish.call != asked.call);
                    }
                }
                (Ask::Delete { name, .. }, Told::Deleted | Told::Refused { .. } | Told::Unreached) => {
                    if let Some(deleting) = self.deleting.get_mut(name) {
                        deleting.remove(&asked.call);
                    }
                }
                _ => {}
            },
            Seen::Node(Sight::Metadata { applied, metadata, .. }) if *applied >= self.newest.0 => {
                let topics = metadata.topics.values();
                let configs = topics.map(|topic| (topic.name.to_string(), topic.config));
                self.newest = (*applied, configs.collect());
            }
            _ => {}
        }
    }

    fn end(&mut self, _evidence: &Evidence, end: Duration, found: &mut Found) {
        let (applied, configs) = &self.newest;
        for ((name, key), wishes) in &self.wishes {
            let Some(last) = wishes.iter().rfind(|wish| wish.acked.is_some()) else { continue };
            let Some(value) = configs.get(name).and_then(|config| value_of(*config, key)) else { continue };
            if !wishes.iter().any(|wish| wish.value == value) {
                let what = format!(
                    "what was acknowledged stays: {}, was told that {name} is set to {key}={}, and by the metadata of \
                     entry {applied} it is set to {value}",
                    last.who, last.value
                );
                found.tell(ID, end, what);
            }
        }
    }
}

impl Settings {
    /// What was asked for of a topic, by setting.
    fn of(&mut self, name: &str) -> impl Iterator<Item = &mut Vec<Wish>> {
        self.wishes.iter_mut().filter(move |((of, _), _)| of == name).map(|(_, wishes)| wishes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use quorate_node::metadata::{Metadata, Retention, Topic};
    use quorate_proto::ErrorCode;
    use quorate_proto::ids::{NodeId, TopicId};

    use super::*;
    use crate::wire::Asked;

    /// `set CALL KEY=VALUE..` (`KEY=` for the default) and `delete CALL` ask; `acked`, `refused`, `unknown` and `deleted
    /// CALL` answer; `holds ENTRY MS`: a node has applied that entry, and retention.ms is that.
    fn is_broken(script: &str) -> bool {
        let (mut settings, mut found) = (Settings::default(), Found::default());
        let mut asks: BTreeMap<u64, Asked> = BTreeMap::new();
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words = line.split_whitespace().collect::<Vec<_>>();
            let number = words[1].parse::<u64>().unwrap();
            let name = "t".to_owned();
            let told = match words[0] {
                "set" | "delete" => {
                    let change = |word: &&str| {
                        let (key, value) = word.split_once('=').unwrap();
                        (key.to_owned(), Some(value.to_owned()).filter(|value| !value.is_empty()))
                    };
                    let ask = if words[0] == "delete" {
                        Ask::Delete { name, id: None }
                    } else {
                        Ask::Configure { name, changes: words[2..].iter().map(change).collect() }
                    };
                    let (at, node) = (Duration::ZERO, NodeId(1));
                    let asked = Asked { call: number, client: 1, sdk: true, node, at, ask };
                    settings.see(at, &Seen::Asked(&asked), &mut found);
                    asks.insert(number, asked);
                    continue;
                }
                "holds" => {
                    let retention = Retention { ms: Some(words[2].parse().unwrap()), bytes: None };
                    let config = TopicConfig { retention, ..TopicConfig::default() };
                    let (id, name) = (TopicId::from_random([1; 16]), name.parse().unwrap());
                    let topic = Arc::new(Topic { id, name, partitions: Vec::new(), config });
                    let topics = BTreeMap::from([(id, topic)]);
                    let metadata = Arc::new(Metadata { topics, ..Metadata::default() });
                    let sight = Sight::Metadata { node: NodeId(1), applied: LogIndex(number), metadata };
                    settings.see(Duration::ZERO, &Seen::Node(&sight), &mut found);
                    continue;
                }
                "acked" => Told::Configured,
                "deleted" => Told::Deleted,
                "refused" => {
                    Told::Refused { code: ErrorCode::InvalidConfig, high_watermark: -1, log_start: -1 }
                }
                "unknown" => Told::Unknown { why: String::new() },
                other => panic!("no such line: {other}"),
            };
            settings.see(Duration::ZERO, &Seen::Told(&asks[&number], &told), &mut found);
        }
        settings.end(&Evidence::default(), Duration::ZERO, &mut found);
        !found.0.is_empty()
    }

    #[test]
    fn what_was_acknowledged_and_is_lost_is_seen() {
        assert!(is_broken("set 1 retention.ms=5\n acked 1\n holds 9 6"));
        assert!(is_broken("set 1 retention.ms=5 max.message.bytes=99\n acked 1\n holds 9 5"));
        assert!(is_broken("set 1 retention.ms=5\n acked 1\n set 2 retention.ms=\n acked 2\n holds 9 5"));
        // An older one is over once a newer one was asked for after it and acknowledged.
        let later = "set 1 retention.ms=5\n acked 1\n set 2 retention.ms=6\n acked 2\n";
        assert!(is_broken(&format!("{later} holds 9 5")));
        assert!(is_broken(&format!("{later} set 3 retention.ms=7\n refused 3\n holds 9 7")));
        // Only the newest metadata count.
        assert!(is_broken("set 1 retention.ms=5\n acked 1\n holds 9 6\n holds 8 5"));
    }

    #[test]
    fn what_nobody_can_tell_is_fine() {
        assert!(!is_broken("set 1 retention.ms=5\n acked 1\n holds 9 5"));
        assert!(!is_broken("set 1 retention.ms=\n acked 1\n holds 9 604800000"));
        assert!(!is_broken("set 1 retention.ms=5\n holds 9 7"));
        // At the same time: either.
        let both = "set 1 retention.ms=5\n set 2 retention.ms=6\n acked 1\n acked 2\n";
        assert!(!is_broken(&format!("{both} holds 9 5")) && !is_broken(&format!("{both} holds 9 6")));
        // One without an answer may come at any time.
        let late = "set 1 retention.ms=5\n unknown 1\n set 2 retention.ms=6\n acked 2\n";
        assert!(!is_broken(&format!("{late} holds 9 5")) && !is_broken(&format!("{late} holds 9 6")));
        // Of a topic that was deleted, and of another one of its name.
        let gone = "set 1 retention.ms=5\n acked 1\n delete 2\n deleted 2\n";
        assert!(!is_broken(&format!("{gone} holds 9 604800000")));
        let during = "delete 1\n set 2 retention.ms=5\n deleted 1\n acked 2\n";
        assert!(!is_broken(&format!("{during} holds 9 604800000")));
        let before = "set 1 retention.ms=5\n delete 2\n deleted 2\n acked 1\n";
        assert!(!is_broken(&format!("{before} holds 9 604800000")));
    }
}
