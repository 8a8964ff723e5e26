//! Topics: an id is one topic's for ever, with one name, and has as many partitions as it was created with until somebody
//! asks for more; a name that is taken is not given again; what is deleted does not come back (oracle `metadata`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_proto::ids::TopicId;

use super::{Check, Found, Seen};
use crate::history::Evidence;
use crate::wire::{Ask, Told};

const ID: &str = "metadata";

#[derive(Default)]
pub(super) struct Topics {
    known: BTreeMap<TopicId, (String, usize, String)>,
    created: BTreeMap<TopicId, String>,
    /// Topics that surely are there, by name: created, and nobody has asked to delete them since.
    there: BTreeMap<String, TopicId>,
    /// What was there when a creation was asked for, and still is.
    asked: BTreeMap<u64, (String, TopicId)>,
    /// The most partitions that were asked for, by name.
    wanted: BTreeMap<String, usize>,
    /// Names of which a deletion is under way, or was and nobody knows what came of it.
    deleting: BTreeMap<String, BTreeSet<u64>>,
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
                    self.asked.retain(|_, (there, _)| there != name);
                    self.deleting.entry(name.clone()).or_default().insert(asked.call);
                }
                Ask::AddPartitions { name, partitions } => {
                    let most = self.wanted.entry(name.clone()).or_default();
                    *most = (*most).max(*partitions);
                }
                _ => {}
            },
            Seen::Told(asked, told) => match (&asked.ask, told) {
                (_, Told::Topics(topics)) => {
                    for (name, id, partitions) in topics {
                        let first = self
                            .known
                            .entry(*id)
                            .or_insert_with(|| (name.clone(), *partitions, asked.to_string()));
                        // A node that lags still has the old count.
                        let grows =
                            self.wanted.get(name).is_some_and(|most| partitions <= most.max(&first.1));
                        if first.0 != *name || (first.1 != *partitions && !grows) {
                            let what = format!(
                                "an id is one topic's for ever: {asked}, told that {id} is {name} with {partitions} \
                                 partitions; before {} with {} ({})",
                                first.0, first.1, first.2
                            );
                            found.tell(ID, at, what);
                        }
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
                    if self.deleting.get(name).is_none_or(BTreeSet::is_empty) {
                        self.there.insert(name.clone(), *id);
                    }
                }
                (Ask::Delete { name, .. }, Told::Deleted | Told::Refused { .. } | Told::Unreached) => {
                    if let Some(deleting) = self.deleting.get_mut(name) {
                        deleting.remove(&asked.call);
                    }
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn end(&mut self, _evidence: &Evidence, _end: Duration, _found: &mut Found) {}
}
