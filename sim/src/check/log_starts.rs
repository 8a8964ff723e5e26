//! Where the logs of partitions start, as nodes and clients came to know it: what several checks go by.

use std::collections::{BTreeMap, BTreeSet};

use quorate_proto::ErrorCode;
use quorate_proto::ids::{GroupId, LogIndex, PartitionId};

use super::Seen;
use crate::history::Place;
use crate::observe::Sight;
use crate::wire::{Ask, Asked, FindAt, Told};

/// The highest log start of each partition that anybody knew of.
#[derive(Debug, Default)]
pub(super) struct LogStarts {
    places: BTreeMap<GroupId, Place>,
    /// As of the newest metadata that a node had, and as of which entry.
    current: (LogIndex, BTreeSet<Place>),
    highest: BTreeMap<Place, u64>,
}

impl LogStarts {
    /// Takes note of what is seen.
    pub(super) fn see(&mut self, seen: &Seen<'_>) {
        match seen {
            Seen::Node(Sight::Metadata { applied, metadata, .. }) => {
                let mut all = BTreeSet::new();
                for topic in metadata.topics.values() {
                    for (number, partition) in (0..).zip(&topic.partitions) {
                        let place = Place { topic: topic.id, partition: PartitionId(number) };
                        self.places.insert(partition.group, place);
                        all.insert(place);
                    }
                }
                if *applied >= self.current.0 {
                    self.current = (*applied, all);
                }
            }
            Seen::Node(Sight::Applied { group, readable, .. }) => {
                if let Some(place) = self.places.get(group) {
                    let highest = self.highest.entry(*place).or_default();
                    *highest = (*highest).max(readable.start.0);
                }
            }
            Seen::Told(asked, told) => {
                if let (Some(place), Some(start)) = (asked.place(), told_start(asked, told)) {
                    let highest = self.highest.entry(place).or_default();
                    *highest = (*highest).max(u64::try_from(start).unwrap_or_default());
                }
            }
            _ => {}
        }
    }

    /// Whether a partition has not been deleted, as far as the nodes know.
    pub(super) fn exists(&self, place: Place) -> bool {
        self.current.1.contains(&place)
    }

    /// The partition that a group is.
    pub(super) fn place(&self, group: GroupId) -> Option<Place> {
        self.places.get(&group).copied()
    }

    /// Nothing that lies below it need be there.
    pub(super) fn highest(&self, place: Place) -> u64 {
        self.highest.get(&place).copied().unwrap_or_default()
    }
}

/// The log start that an answer tells.
pub(super) fn told_start(asked: &Asked, told: &Told) -> Option<i64> {
    match (&asked.ask, told) {
        (Ask::Fetch { .. }, Told::Fetched { log_start, .. })
        | (Ask::Fetch { .. }, Told::Refused { code: ErrorCode::OffsetOutOfRange, log_start, .. })
        | (Ask::Produce { .. }, Told::Produced { log_start, .. })
        | (Ask::DeleteRecords { .. }, Told::RecordsDeleted { log_start }) => Some(*log_start),
        (Ask::Find { at: FindAt::Earliest, .. }, Told::Found { offset, .. }) => {
            Some(offset.and_then(|offset| i64::try_from(offset).ok()).unwrap_or(-1))
        }
        _ => None,
    }
}
