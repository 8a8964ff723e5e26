//! No phantom: what stands in a log was sent to that partition, byte for byte, and nobody was told that it surely does
//! not (oracle O-12).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_proto::ids::TopicId;

use super::shadow::{Before, Stands};
use super::{Check, Found, Seen};
use crate::history::{Evidence, Outcome, Place, RecordId};
use crate::wire::{Ask, Batch, Told};

const ID: &str = "O-12";

/// By place, producer, epoch, sequence, checksum and records.
type Name = (Place, i64, i16, i32, u32, Vec<Option<RecordId>>);

/// What is known of a batch that was sent.
#[derive(Default)]
struct Tries {
    /// Calls without an answer.
    open: BTreeSet<u64>,
    /// Whether one was answered otherwise than "surely not".
    perhaps: bool,
    /// The last answer that said "surely not".
    refused: Option<String>,
    /// Its timestamps.
    times: Vec<i64>,
    /// Who saw it.
    stands: Option<String>,
}

#[derive(Default)]
pub(super) struct Phantom {
    tries: BTreeMap<Name, Tries>,
    names: BTreeMap<TopicId, String>,
    /// Where each record was seen.
    records: BTreeMap<RecordId, (Place, String)>,
}

fn name(place: Place, batch: &Batch) -> Name {
    (place, batch.producer, batch.epoch, batch.sequence, batch.crc, batch.records.clone())
}

impl Check for Phantom {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Asked(asked) => {
                if let Ask::Produce { place, batch, .. } = &asked.ask {
                    let tries = self.tries.entry(name(*place, batch)).or_default();
                    tries.open.insert(asked.call);
                    tries.times.clone_from(&batch.times);
                }
            }
            Seen::Told(asked, told) => {
                if let Told::Topics(topics) = told {
                    self.names.extend(topics.iter().map(|(name, id, _)| (*id, name.clone())));
                }
                let Ask::Produce { place, batch, .. } = &asked.ask else { return };
                let Some(tries) = self.tries.get_mut(&name(*place, batch)) else { return };
                tries.open.remove(&asked.call);
                match told {
                    Told::Refused { code, .. } => {
                        tries.refused = Some(format!("{asked}, told {} at {at:?}", code.as_str_name()));
                    }
                    Told::Unreached => tries.refused = Some(format!("{asked}, not reached, told at {at:?}")),
                    _ => tries.perhaps = true,
                }
            }
            Seen::Stands(stands) if !stands.acked => self.stands(at, stands, found),
            _ => {}
        }
    }

    fn end(&mut self, evidence: &Evidence, end: Duration, found: &mut Found) {
        for ((place, ..), tries) in &self.tries {
            if let (Some(seen), Some(refused)) = (&tries.stands, &tries.refused)
                && tries.open.is_empty()
                && !tries.perhaps
            {
                let what = format!(
                    "what surely failed never appears: {seen}; but each try was refused, the last one: {refused} \
                     ({place})"
                );
                found.tell(ID, end, what);
            }
        }
        let failed = evidence.sent.iter().filter(|(_, sent)| sent.outcome == Outcome::Failed);
        for (record, sent) in failed {
            let Some((_, seen)) = self.records.get(record) else { continue };
            let what = format!(
                "what surely failed never appears: the producer of {record} was told at {:?} that it is not written \
                 ({}), but: {seen}",
                sent.known_at, sent.why
            );
            found.tell(ID, end, what);
        }
        for (record, (place, seen)) in &self.records {
            let Some(sent) = evidence.sent.get(record) else { continue };
            let topic = self.names.get(&place.topic);
            if sent.target.partition != place.partition
                || topic.is_some_and(|topic| *topic != sent.target.topic)
            {
                let what = format!("no phantom: {record} was sent to {}, but: {seen}", sent.target);
                found.tell(ID, end, what);
            }
        }
    }
}

fn times(times: &[i64]) -> String {
    times.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Phantom {
    fn stands(&mut self, at: Duration, stands: &Stands<'_>, found: &mut Found) {
        let Stands { place, standing, before, .. } = stands;
        let batch = &standing.batch;
        let tries = self.tries.get_mut(&name(*place, batch));
        let why = match tries {
            None => "nobody sent that to this partition".to_owned(),
            Some(tries) if standing.stamp.is_none() && tries.times != batch.times => {
                format!(
                    "its producer gave its records the times {}, and they have {}",
                    times(&tries.times),
                    times(&batch.times)
                )
            }
            Some(tries) => {
                let surely_not = tries.open.is_empty() && !tries.perhaps;
                match &tries.refused {
                    Some(refused) if surely_not => format!("each try was refused, the last one: {refused}"),
                    _ => {
                        tries.stands.get_or_insert_with(|| stands.to_string());
                        for record in batch.records.iter().flatten() {
                            self.records.entry(*record).or_insert_with(|| (*place, stands.to_string()));
                        }
                        return;
                    }
                }
            }
        };
        // Told once.
        if let Before::Nothing = before {
            found.tell(ID, at, format!("no phantom: {stands}, but {why}"));
        }
    }
}
