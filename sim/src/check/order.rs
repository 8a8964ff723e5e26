//! One order: the records of one producer stand in each partition in the order sent. Only one that its producer had
//! given up as perhaps written may come in later, behind what was sent after that (oracle O-12;
//! `Producer` in the client).

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Check, Found, Seen};
use crate::history::{Evidence, Outcome, Place, RecordId};
use crate::wire::Ask;

const ID: &str = "O-12";

#[derive(Default)]
pub(super) struct Order {
    logs: BTreeMap<Place, BTreeMap<u64, RecordId>>,
    /// When each record first went out.
    asked: BTreeMap<RecordId, Duration>,
}

impl Check for Order {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, _found: &mut Found) {
        match seen {
            Seen::Asked(asked) => {
                let Ask::Produce { batch, .. } = &asked.ask else { return };
                for record in batch.records.iter().flatten() {
                    self.asked.entry(*record).or_insert(at);
                }
            }
            Seen::Stands(stands) => {
                let log = self.logs.entry(stands.place).or_default();
                for (offset, record) in (stands.standing.base..).zip(&stands.standing.batch.records) {
                    if let Some(record) = record {
                        log.entry(offset).or_insert(*record);
                    }
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, evidence: &Evidence, end: Duration, found: &mut Found) {
        let in_order = |record: &RecordId| evidence.sent.get(record).is_some_and(|sent| sent.in_order);
        for (place, log) in &self.logs {
            let mut newest = BTreeMap::<u32, (RecordId, u64)>::new();
            for (offset, record) in log.iter().filter(|(_, record)| in_order(record)) {
                let Some((before, at)) = newest.get(&record.producer).copied() else {
                    newest.insert(record.producer, (*record, *offset));
                    continue;
                };
                if before.number < record.number {
                    newest.insert(record.producer, (*record, *offset));
                    continue;
                }
                let given_up = evidence.sent.get(record).is_some_and(|sent| {
                    let later = self.asked.get(&before).is_some_and(|asked| sent.known_at <= *asked);
                    sent.outcome == Outcome::Unknown && later
                });
                if before.number > record.number && !given_up {
                    let what = format!(
                        "one order: {before} stands at {at} of {place}, before {record} at {offset}, which was sent \
                         earlier"
                    );
                    found.tell(ID, end, what);
                }
            }
        }
    }
}
