//! A consumer sees what stands there, one record after the other: from the position that it was given, without a gap
//! or a repetition, unless it seeks (oracle O-16; `Consumer` in the client). Where its position is below the log start
//! it is told so, and goes on at the log start if it seeks there, or if that is what it was made to do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_proto::ids::{PartitionId, TopicId};

use super::shadow::Before;
use super::{Check, Found, Seen, StartAt};
use crate::history::{Evidence, Place, Read, RecordId, Target};
use crate::wire::{Ask, FindAt, Told};

const ID: &str = "O-16";

/// Where a consumer is in a partition.
struct Position {
    next: u64,
    /// The topics that it may be reading.
    topics: BTreeSet<TopicId>,
    before: String,
    /// Whether it goes to the log start by itself.
    resets: bool,
}

#[derive(Default)]
pub(super) struct Prefix {
    positions: BTreeMap<(u32, Target), Position>,
    names: BTreeMap<String, BTreeSet<TopicId>>,
    standing: BTreeMap<(Place, u64), Option<RecordId>>,
    /// Offsets that each client was told when it looked for one.
    found: BTreeMap<(u32, PartitionId), BTreeSet<u64>>,
    /// Log starts that each client was told when it looked for one.
    starts: BTreeMap<(u32, PartitionId), BTreeSet<u64>>,
    /// Log starts that each client was told because its position could not be read.
    ranges: BTreeMap<(u32, PartitionId), BTreeSet<u64>>,
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
                (Ask::Find { place, at, .. }, Told::Found { offset: Some(offset), .. }) => {
                    let told = if *at == FindAt::Earliest { &mut self.starts } else { &mut self.found };
                    told.entry((asked.client, place.partition)).or_default().insert(*offset);
                }
                (
                    Ask::Fetch { place, .. },
                    Told::Refused { code: ErrorCode::OffsetOutOfRange, log_start, .. },
                ) => {
                    let told = self.ranges.entry((asked.client, place.partition)).or_default();
                    told.extend(u64::try_from(*log_start));
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
            Seen::Assigned { consumer, target, start, position, resets } => {
                let key = (*consumer, target.partition);
                let told_to = |told: &BTreeMap<(u32, PartitionId), BTreeSet<u64>>| {
                    told.get(&key).is_some_and(|told| told.contains(&position.0))
                };
                let fits = match start {
                    StartAt::Beginning => position.0 == 0 || told_to(&self.starts),
                    StartAt::Offset(offset) => position == offset,
                    StartAt::End | StartAt::Time(_) => told_to(&self.found),
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
                let position = Position { next: position.0, topics, before, resets: *resets };
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
        let key = (*consumer, target.partition);
        let mut told = self.ranges.get(&key).into_iter().chain(self.starts.get(&key));
        let reset = position.resets && told.any(|told| told.contains(&offset.0));
        if position.next != offset.0 && !reset {
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
