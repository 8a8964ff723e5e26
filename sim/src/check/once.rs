//! A retry is not a second record: each (producer id, epoch, sequence) stands in a partition once, one after the other,
//! across all retries; no record stands anywhere twice; a retry of one of a producer's last five batches is told where
//! that one stands, and not that it comes too late; no two producers get one id (oracle O-13; KIP-98).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_proto::ids::Sequence;

use super::shadow::{Before, Stands};
use super::{Check, Found, Seen};
use crate::history::{Evidence, Place, RecordId};
use crate::wire::{Ask, Asked, Batch, Told};

const ID: &str = "O-13";

/// How many of a producer's batches a partition knows again (KIP-98).
const REMEMBERED: usize = 5;
/// Sequences follow each other in a circle of so many.
const SEQUENCES: i64 = 1 << 31;

/// A producer's batches in one partition and epoch.
type Line = (Place, i64, i16);

#[derive(Default)]
pub(super) struct Once {
    producers: BTreeMap<i64, String>,
    /// The sequences with which each line's batches were sent.
    sent: BTreeMap<Line, BTreeSet<i32>>,
    /// Of each batch by its sequence.
    batches: BTreeMap<(Line, i32), First>,
    records: BTreeMap<RecordId, (Place, u64)>,
    logs: BTreeMap<Place, BTreeMap<u64, Link>>,
}

/// How it became known that a batch stands.
struct First {
    base: u64,
    records: usize,
    at: Duration,
    told: String,
}

/// A batch's place in its producer's chain.
struct Link {
    end: u64,
    producer: i64,
    epoch: i16,
    first: i32,
    records: u32,
}

impl Check for Once {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Told(asked, Told::Producer(id)) => {
                if let Some(first) = self.producers.insert(*id, asked.to_string()) {
                    let what = format!(
                        "a producer id is one producer's alone: {id} was given to {asked}, and before to {first}"
                    );
                    found.tell(ID, at, what);
                }
            }
            Seen::Asked(Asked { ask: Ask::Produce { place, batch, .. }, .. }) if batch.producer >= 0 => {
                let line = (*place, batch.producer, batch.epoch);
                self.sent.entry(line).or_default().insert(batch.sequence);
            }
            Seen::Told(asked, Told::Refused { code: ErrorCode::DuplicateSequence, .. }) => {
                if let Ask::Produce { place, batch, .. } = &asked.ask {
                    self.too_late(at, asked, ((*place, batch.producer, batch.epoch), batch), found);
                }
            }
            Seen::Stands(stands) => self.stands(at, stands, found),
            _ => {}
        }
    }

    fn end(&mut self, _evidence: &Evidence, end: Duration, found: &mut Found) {
        for (place, log) in &self.logs {
            let mut last = BTreeMap::<i64, (&Link, u64)>::new();
            let mut expected = None;
            for (base, link) in log {
                if expected != Some(*base) {
                    // What stands between is not known, and so is who wrote it.
                    last.clear();
                }
                expected = Some(link.end);
                if link.producer < 0 {
                    continue;
                }
                let Some((before, at)) = last.insert(link.producer, (link, *base)) else { continue };
                let follows = if link.epoch == before.epoch {
                    link.first == Sequence(before.first).plus(before.records).0
                } else {
                    link.epoch > before.epoch && link.first == 0
                };
                if !follows {
                    let what = format!(
                        "a producer's batches follow one another: in {place}, producer id {} has epoch {} sequence {} \
                         ({} records) at {at}, and then epoch {} sequence {} at {base}",
                        link.producer, before.epoch, before.first, before.records, link.epoch, link.first
                    );
                    found.tell(ID, end, what);
                }
            }
        }
    }
}

impl Once {
    /// A leader told that a batch lies behind all those that it knows again.
    fn too_late(&self, at: Duration, asked: &Asked, (line, batch): (Line, &Batch), found: &mut Found) {
        let Some(first) = self.batches.get(&(line, batch.sequence)) else { return };
        if first.at >= asked.at || first.records != batch.records.len() {
            return;
        }
        // Whatever that leader knows of the line was sent before.
        let follows = |sent: &&i32| {
            let ahead = (i64::from(**sent) - i64::from(batch.sequence)).rem_euclid(SEQUENCES);
            ahead > 0 && ahead < SEQUENCES / 2
        };
        let newer = self.sent.get(&line).map_or(0, |sent| sent.iter().filter(follows).count());
        if newer < REMEMBERED {
            let what = format!(
                "a retry of one of a producer's last {REMEMBERED} batches is told where that one stands: {asked} was \
                 told that it comes too late, at most {newer} came after it, and it stands at {}: {}",
                first.base, first.told
            );
            found.tell(ID, at, what);
        }
    }

    fn stands(&mut self, at: Duration, stands: &Stands<'_>, found: &mut Found) {
        let Stands { place, standing, before, .. } = stands;
        let Before::Nothing = before else { return };
        let batch = &standing.batch;
        if batch.producer >= 0 {
            let name = ((*place, batch.producer, batch.epoch), batch.sequence);
            if let Some(First { base, told, .. }) = self.batches.get(&name) {
                let what = format!("a retry is not a second record: {stands}, and at {base}: {told}");
                found.tell(ID, at, what);
                return;
            }
            let (base, records, told) = (standing.base, batch.records.len(), stands.to_string());
            self.batches.insert(name, First { base, records, at, told });
        }
        for (offset, record) in (standing.base..).zip(&standing.batch.records) {
            let Some(record) = record else { continue };
            if let Some((other, first)) = self.records.insert(*record, (*place, offset)) {
                let what = format!(
                    "a retry is not a second record: {record} stands at {first} of {other}, and in {stands}"
                );
                found.tell(ID, at, what);
                return;
            }
        }
        let link = Link {
            end: standing.end(),
            producer: batch.producer,
            epoch: batch.epoch,
            first: batch.sequence,
            records: u32::try_from(batch.count()).unwrap_or(u32::MAX),
        };
        self.logs.entry(*place).or_default().insert(standing.base, link);
    }
}
