//! A consumer sees what stands there, one record after the other: from the position that it was given, without a gap
//! or a repetition, unless it seeks (oracle O-16; `Consumer` in the client).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_proto::ids::{PartitionId, TopicId};

use super::shadow::Before;
use super::{Check, Found, Seen, StartAt};
use crate::history::{Evidence, Place, Read, RecordId, Target};
use crate::wire::{Ask, Told};

const ID: &str = "O-16";

/// Where a consumer is in a partition.
struct Position {
    next: u64,
    /// The topics that it may be reading.
    topics: BTreeSet<TopicId>,
    before: String,
}

#[derive(Default)]
pub(super) struct Prefix {
    positions: BTreeMap<(u32, Target), Position>,
    names: BTreeMap<String, BTreeSet<TopicId>>,
    standing: BTreeMap<(Place, u64), Option<RecordId>>,
    /// Offsets that each client was told when it looked for one.
    found: BTreeMap<(u32, PartitionId), BTreeSet<u64>>,
}

impl Check for Prefix {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Told(asked, told) => match (&asked.ask, told) {
                (_, Told::Topics(topics)) => {
                    for (name, id, _) in topics {
                        self.names.entry(name.clone()).or_default().insert(*id);
                    }
                }
                (Ask::Find { place, .. }, Told::Found { offset: Some(offset), .. }) => {
                    self.found.entry((asked.client, place.partition)).or_default().insert(*offset);
                }
                _ => {}
            },
            Seen::Stands(stands) => {
                if let Before::Nothing = stands.before {
                    let batch = &stands.standing.batch;
                    for (offset, record) in (stands.standing.base..).zip(&batch.records) {
                        self.standing.insert((stands.place, offset), *record);
                    }
                }
            }
            Seen::Assigned { consumer, target, start, position } => {
                let key = (*consumer, target.partition);
                let fits = match start {
                    StartAt::Beginning => position.0 == 0,
                    StartAt::Offset(offset) => position == offset,
                    StartAt::End | StartAt::Time(_) => {
                        self.found.get(&key).is_some_and(|told| told.contains(&position.0))
                    }
                };
                if !fits {
                    let what = format!(
                        "a consumer begins where it was told to: consumer {consumer} was to begin at {} of \
                         {target}, and begins at {position}",
                        told(*start)
                    );
                    found.tell(ID, at, what);
                }
                let topics = self.names.get(&target.topic).cloned().unwrap_or_default();
                let before = format!("began there at {at:?}");
                let position = Position { next: position.0, topics, before };
                self.positions.insert((*consumer, (*target).clone()), position);
            }
            Seen::Read(read) => self.read(at, read, found),
            _ => {}
        }
    }

    fn end(&mut self, _evidence: &Evidence, _end: Duration, _found: &mut Found) {}
}

fn told(start: StartAt) -> String {
    match start {
        StartAt::Beginning => "the beginning".to_owned(),
        StartAt::End => "the end".to_owned(),
        StartAt::Offset(offset) => format!("offset {offset}"),
        StartAt::Time(time) => format!("the first record of time {time}"),
    }
}

impl Prefix {
    fn read(&mut self, at: Duration, read: &Read, found: &mut Found) {
        let Read { consumer, target, offset, record, .. } = read;
        let name =
            |record: &Option<RecordId>| record.map_or("a foreign record".to_owned(), |id| id.to_string());
        let mut tell = |what: String| {
            let what = format!(
                "a consumer sees what stands there, in order: consumer {consumer} read {} at {offset} of {target}, \
                 {what}",
                name(record)
            );
            found.tell(ID, at, what);
        };
        let Some(position) = self.positions.get_mut(&(*consumer, target.clone())) else {
            tell("which was not assigned to it".to_owned());
            return;
        };
        if position.next != offset.0 {
            tell(format!("but {} comes next: it {}", position.next, position.before));
        }
        position.next = offset.0 + 1;
        position.before = format!("had read {offset} at {at:?}");
        let stands = |topic: &TopicId| {
            self.standing.get(&(Place { topic: *topic, partition: target.partition }, offset.0))
        };
        let of = position
            .topics
            .iter()
            .copied()
            .filter(|topic| stands(topic) == Some(record))
            .collect::<BTreeSet<_>>();
        if of.is_empty() {
            let there = position.topics.iter().filter_map(stands).map(name).collect::<Vec<_>>().join(" or ");
            tell(format!("but the nodes had told of: {there}"));
        } else {
            position.topics = of;
        }
    }
}
