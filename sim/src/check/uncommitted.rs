//! A reader never sees what can still vanish: a fetch returns nothing at or above the high watermark that it reports,
//! and what was fetched once stands there for as long as the log does not start behind it (oracle O-17).

use std::time::Duration;

use super::acked::{Batches, standing};
use super::shadow::{Before, Stands};
use super::{Check, Found, Seen};
use crate::history::Evidence;
use crate::wire::Told;

const ID: &str = "O-17";

#[derive(Default)]
pub(super) struct Uncommitted {
    fetched: Batches,
}

impl Check for Uncommitted {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Told(asked, Told::Fetched { high_watermark, batches, .. }) => {
                let end = u64::try_from(*high_watermark).unwrap_or_default();
                if let Some(above) = batches.iter().find(|standing| standing.end() > end) {
                    let what = format!(
                        "nothing uncommitted is read: {asked}, was given {} at {}..{}, with {end} as the high \
                         watermark",
                        above.batch,
                        above.base,
                        above.end()
                    );
                    found.tell(ID, at, what);
                }
            }
            Seen::Told(asked, Told::Garbled { why }) => {
                found.tell("O-22", at, format!("wrong bytes are never served: {asked}: {why}"));
            }
            Seen::Stands(stands) => {
                let Stands { place, standing, acked: false, before, .. } = stands else { return };
                match before {
                    Before::Other(others) => {
                        if let Some(other) = others.iter().find(|other| !other.acked) {
                            let what =
                                format!("what was read once stands for ever: {stands}, but before: {other}");
                            found.tell(ID, at, what);
                        }
                    }
                    Before::Nothing | Before::Same(_) => {
                        self.fetched
                            .entry((*place, standing.base))
                            .or_insert_with(|| (standing.batch.records.clone(), stands.to_string()));
                    }
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, evidence: &Evidence, end: Duration, found: &mut Found) {
        for ((place, base), (records, said)) in &self.fetched {
            let Some(scan) = evidence.scan.get(place) else { continue };
            let kept = (*base..).zip(records).filter(|(offset, _)| *offset >= scan.start.0);
            let mut kept = kept.map(|(offset, record)| (offset, *record));
            let gone = kept.find(|(offset, record)| standing(scan, *offset) != Some(*record));
            if let Some((offset, _)) = gone {
                let what = format!(
                    "what was read once stands for ever: {said}; but at the end {offset} holds {}",
                    match standing(scan, offset) {
                        Some(Some(record)) => record.to_string(),
                        Some(None) => "a foreign record".to_owned(),
                        None => "nothing".to_owned(),
                    }
                );
                found.tell(ID, end, what);
            }
        }
    }
}
