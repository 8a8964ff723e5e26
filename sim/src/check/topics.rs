//! Topics: an id is one topic's for ever, with one name, and with as many partitions as it was created with or as
//! somebody asked to have in all since; a name that is taken is not given again; what is deleted does not come back;
//! partitions whose addition was acknowledged are there, and those that were there keep their groups (oracle `metadata`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_proto::ids::{GroupId, LogIndex, TopicId};

use super::{Check, Found, Seen};
use crate::history::Evidence;
use crate::observe::Sight;
use crate::wire::{Ask, Asked, Told};

const ID: &str = "metadata";

/// What was told of a topic.
struct Known {
    name: String,
    first: String,
    /// With how many partitions it was created, as far as that was told: a number that nobody has asked for since.
    created: Option<(usize, String)>,
    /// The smallest number that was told and that somebody has asked for.
    grown: Option<(usize, String)>,
}

#[derive(Default)]
pub(super) struct Topics {
    known: BTreeMap<TopicId, Known>,
    created: BTreeMap<TopicId, String>,
    /// Topics that surely are there, by name: created, and nobody has asked to delete them since.
    there: BTreeMap<String, TopicId>,
    /// What was there when a creation was asked for, and still is.
    asked: BTreeMap<u64, (String, TopicId)>,
    /// Names of which a deletion is under way, or was and nobody knows what came of it.
    deleting: BTreeMap<String, BTreeSet<u64>>,
    /// Numbers of partitions that somebody asked for, by name.
    totals: BTreeMap<String, BTreeSet<usize>>,
    /// Additions under way, of topics that nobody has asked to delete since.
    adding: BTreeMap<u64, String>,
    /// The largest that was acknowledged, of topics that nobody has asked to delete since, and to whom.
    acked: BTreeMap<String, (usize, String)>,
    /// How many partitions topics have by the newest metadata that any node has applied.
    newest: (LogIndex, BTreeMap<String, usize>),
    /// The groups of each topic's partitions by those metadata.
    groups: BTreeMap<TopicId, Vec<GroupId>>,
}

impl Check for Topics {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Asked(asked) => match &asked.ask {
                Ask::Create { name, .. } => {
                    if let Some(id) = self.there.get(name) {
                        self.asked.insert(asked.call, (name.clone(), *id));
                    }
                }
                Ask::Delete { name, .. } => {
                    self.there.remove(name);
                    self.acked.remove(name);
                    self.adding.retain(|_, of| of != name);
                    self.asked.retain(|_, (there, _)| there != name);
                    self.deleting.entry(name.clone()).or_default().insert(asked.call);
                }
                Ask::AddPartitions { name, partitions } => {
                    let total = usize::try_from(*partitions).unwrap_or_default();
                    self.totals.entry(name.clone()).or_default().insert(total);
                    self.adding.insert(asked.call, name.clone());
                }
                _ => {}
            },
            Seen::Told(asked, told) => match (&asked.ask, told) {
                (_, Told::Topics(topics)) => {
                    for (name, id, partitions) in topics {
                        self.hear(at, asked, name, *id, *partitions, found);
                    }
                }
                (Ask::Create { name, .. }, Told::Created(id)) => {
                    if let Some(first) = self.created.insert(*id, asked.to_string()) {
                        let what = format!(
                            "an id is one topic's for ever: {id} was created by {first} and by {asked}"
                        );
                        found.tell(ID, at, what);
                    }
                    if let Some((_, other)) = self.asked.remove(&asked.call).filter(|(_, other)| other != id)
                    {
                        let what = format!(
                            "a name that is taken is not given again: {asked}, was given {id} as {name}, though \
                             {other} was there"
                        );
                        found.tell(ID, at, what);
                    }
                    if self.is_deleted_by_nobody(name) {
                        self.there.insert(name.clone(), *id);
                    }
                }
                (Ask::Delete { name, .. }, Told::Deleted | Told::Refused { .. } | Told::Unreached) => {
                    if let Some(deleting) = self.deleting.get_mut(name) {
                        deleting.remove(&asked.call);
                    }
                }
                (Ask::AddPartitions { name, partitions }, Told::PartitionsAdded) => {
                    let total = usize::try_from(*partitions).unwrap_or_default();
                    // A deletion that is under way may come after it.
                    if self.adding.remove(&asked.call).is_some() && self.is_deleted_by_nobody(name) {
                        let acked = self.acked.entry(name.clone()).or_default();
                        if total > acked.0 {
                            *acked = (total, asked.to_string());
                        }
                    }
                }
                _ => {}
            },
            Seen::Node(Sight::Metadata { applied, metadata, .. }) if *applied >= self.newest.0 => {
                let topics = metadata.topics.values();
                let counts = topics.map(|topic| (topic.name.to_string(), topic.partitions.len()));
                self.newest = (*applied, counts.collect());
                for topic in metadata.topics.values() {
                    let groups = topic.partitions.iter().map(|partition| partition.group).collect::<Vec<_>>();
                    let known = self.groups.entry(topic.id).or_default();
                    if !groups.starts_with(known) {
                        let what = format!(
                            "partitions stay what they are: {} has those of groups {groups:?} by the metadata of entry \
                             {applied}, and had those of groups {known:?}",
                            topic.name
                        );
                        found.tell(ID, at, what);
                    }
                    *known = groups;
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, _evidence: &Evidence, end: Duration, found: &mut Found) {
        let (applied, counts) = &self.newest;
        if *applied == LogIndex(0) {
            return;
        }
        for (name, (total, asked)) in &self.acked {
            let there = counts.get(name).copied().unwrap_or_default();
            if there < *total {
                let what = format!(
                    "what was acknowledged stays: {asked}, was told that {name} has {total} partitions, and the metadata \
                     of entry {applied} have {there} of it"
                );
                found.tell(ID, end, what);
            }
        }
    }
}

impl Topics {
    fn is_deleted_by_nobody(&self, name: &str) -> bool {
        self.deleting.get(name).is_none_or(BTreeSet::is_empty)
    }

    /// A node says what a topic is. One that lags behind says what it was.
    fn hear(
        &mut self,
        at: Duration,
        asked: &Asked,
        name: &str,
        id: TopicId,
        partitions: usize,
        found: &mut Found,
    ) {
        let known = self.known.entry(id).or_insert_with(|| Known {
            name: name.to_owned(),
            first: asked.to_string(),
            created: None,
            grown: None,
        });
        let mut broken = |before: &str| {
            let what = format!(
                "an id is one topic's for ever: {asked}, told that {id} is {name} with {partitions} partitions; {before}"
            );
            found.tell(ID, at, what);
        };
        if known.name != name {
            broken(&format!("before {} ({})", known.name, known.first));
        }
        let was_asked_for = self.totals.get(name).is_some_and(|totals| totals.contains(&partitions));
        let told = || (partitions, asked.to_string());
        if was_asked_for {
            let smallest = known.grown.get_or_insert_with(told);
            if partitions < smallest.0 {
                *smallest = told();
            }
        } else {
            let created = known.created.get_or_insert_with(told);
            if created.0 != partitions {
                broken(&format!("before with {} ({}), and nobody asked for that many", created.0, created.1));
            }
        }
        if let (Some(created), Some(grown)) = (&known.created, &known.grown)
            && grown.0 < created.0
        {
            broken(&format!(
                "created with {} ({}), it never has fewer, as was told: {} ({})",
                created.0, created.1, grown.0, grown.1
            ));
        }
    }
}
