//! Acked means there: each acknowledged record stands in the log at its offset, byte for byte, for as long as the log
//! does not start behind it (oracle O-11; ARCHITECTURE, the first two promises). Whether it may start there is another
//! promise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_proto::ids::{Offset, PartitionId};

use super::shadow::{Before, Stands};
use super::{Check, Found, Seen};
use crate::history::{Evidence, Outcome, Place, RecordId, Scan};

const ID: &str = "O-11";

/// By place and base offset: the records, and the words that say who was told of them.
pub(super) type Batches = BTreeMap<(Place, u64), (Vec<Option<RecordId>>, String)>;

#[derive(Default)]
pub(super) struct Acked {
    /// Acknowledged batches, each once.
    batches: Batches,
    /// Where each record was acknowledged, as the wire had it.
    records: BTreeMap<RecordId, BTreeSet<(PartitionId, u64)>>,
}

impl Check for Acked {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Stands(stands) => self.stands(at, stands, found),
            Seen::Learnt(record, sent) => {
                let Outcome::Acked(offset) = sent.outcome else { return };
                let told = self.records.get(record);
                if !told.is_some_and(|places| places.contains(&(sent.target.partition, offset.0))) {
                    let what = format!(
                        "acked means there: the producer of {record} says that it stands at {offset} of {}, but the \
                         nodes acked {}",
                        sent.target,
                        places(told)
                    );
                    found.tell(ID, at, what);
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, evidence: &Evidence, end: Duration, found: &mut Found) {
        for ((place, base), (records, said)) in &self.batches {
            // A deleted topic is not there; one that could not be read is another promise broken.
            let Some(scan) = evidence.scan.get(place) else { continue };
            for (offset, record) in (*base..).zip(records).filter(|(offset, _)| *offset >= scan.start.0) {
                let Some(record) = record else { continue };
                let what = match standing(scan, offset) {
                    Some(there) if there == Some(*record) => continue,
                    Some(Some(other)) => format!("{other} stands there"),
                    Some(None) => "something else stands there".to_owned(),
                    None => match scan.records.last() {
                        Some((last, _)) => format!("the log ends with {last}"),
                        None => "the log is empty".to_owned(),
                    },
                };
                let elsewhere = scan.records.iter().filter(|(_, standing)| *standing == Some(*record));
                let elsewhere = elsewhere.map(|(at, _)| at.to_string()).collect::<Vec<_>>().join(", ");
                let elsewhere = if elsewhere.is_empty() { "nowhere" } else { &elsewhere };
                let what = format!(
                    "acked means there: {record} was acked at offset {offset} ({said}), but at the end {what}; it \
                     stands at: {elsewhere}"
                );
                found.tell(ID, end, what);
            }
        }
    }
}

impl Acked {
    fn stands(&mut self, at: Duration, stands: &Stands<'_>, found: &mut Found) {
        let Stands { place, standing, acked, before, .. } = stands;
        match before {
            Before::Nothing => {}
            Before::Same(known) => {
                let is_other = |stamp: i64| known.standing.stamp.is_some_and(|known| known != stamp);
                if (*acked || known.acked) && standing.stamp.is_some_and(is_other) {
                    let what = format!(
                        "acked means there, byte for byte: {stands} was appended at {}, but before at {} \
                         ({})",
                        stamp(standing.stamp),
                        stamp(known.standing.stamp),
                        known.witness
                    );
                    found.tell(ID, at, what);
                }
            }
            Before::Other(others) => {
                if let Some(other) = others.iter().find(|other| *acked || other.acked) {
                    let what = format!("acked means there: {stands}, but these offsets hold {other}");
                    found.tell(ID, at, what);
                }
            }
        }
        if !*acked {
            return;
        }
        for (offset, record) in (standing.base..).zip(&standing.batch.records) {
            if let Some(record) = record {
                self.records.entry(*record).or_default().insert((place.partition, offset));
            }
        }
        self.batches
            .entry((*place, standing.base))
            .or_insert_with(|| (standing.batch.records.clone(), stands.to_string()));
    }
}

/// Where a record was acked.
fn places(told: Option<&BTreeSet<(PartitionId, u64)>>) -> String {
    let places = told
        .into_iter()
        .flatten()
        .map(|(partition, offset)| format!("it at {offset} of partition {partition}"));
    let places = places.collect::<Vec<_>>().join(" and ");
    if places.is_empty() { "it nowhere".to_owned() } else { places }
}

/// A time of the wall clock.
fn stamp(stamp: Option<i64>) -> String {
    stamp.map_or_else(|| "no time".to_owned(), |stamp| format!("{stamp} ms"))
}

/// What stands at an offset.
pub(super) fn standing(scan: &Scan, offset: u64) -> Option<Option<RecordId>> {
    // Dense offsets stand at their own place; where they are not, that is another promise broken.
    let is_it = |(at, _): &&(Offset, Option<RecordId>)| at.0 == offset;
    let at = offset.checked_sub(scan.start.0).and_then(|at| usize::try_from(at).ok());
    let dense = at.and_then(|at| scan.records.get(at)).filter(is_it);
    dense.or_else(|| scan.records.iter().find(is_it)).map(|(_, record)| *record)
}
