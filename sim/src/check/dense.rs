//! Offsets are unique, dense and rising: a fetch returns the batch that holds the offset asked for and what follows it
//! without a gap, and who reads from the log start finds all from there on (oracle O-14). Where a log may start is
//! judged by itself.

use std::time::Duration;

use super::{Check, Found, Seen};
use crate::history::Evidence;
use crate::wire::{Ask, Standing, Told};

const ID: &str = "O-14";

#[derive(Default)]
pub(super) struct Dense;

impl Check for Dense {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, found: &mut Found) {
        let Seen::Told(asked, told) = seen else { return };
        if let (Ask::Fetch { offset, .. }, Told::Fetched { high_watermark, batches, .. }) = (&asked.ask, told)
            && let Some(why) = gap(*offset, *high_watermark, batches)
        {
            let what = format!("offsets are dense: {asked}, fetched from {offset}: {why}");
            found.tell(ID, at, what);
        }
    }

    fn end(&mut self, evidence: &Evidence, end: Duration, found: &mut Found) {
        for (place, scan) in &evidence.scan {
            for (expected, (offset, _)) in (scan.start.0..).zip(&scan.records) {
                if offset.0 != expected {
                    let what =
                        format!("offsets are dense: {place} has {offset} where {expected} should follow");
                    found.tell(ID, end, what);
                    break;
                }
            }
        }
    }
}

/// What is wrong with a fetch's answer.
fn gap(offset: i64, high_watermark: i64, batches: &[Standing]) -> Option<String> {
    let wire = |offset: u64| i64::try_from(offset).unwrap_or(i64::MAX);
    let Some(first) = batches.first() else {
        return (offset < high_watermark)
            .then(|| format!("nothing was returned, though it can be read up to {high_watermark}"));
    };
    if !(wire(first.base)..wire(first.end())).contains(&offset) {
        return Some(format!("it begins with {} at {}..{}", first.batch, first.base, first.end()));
    }
    let mut pairs = batches.iter().zip(&batches[1..]);
    let (one, other) = pairs.find(|(one, other)| one.end() != other.base)?;
    Some(format!("{} ends at {}, and {} follows at {}", one.batch, one.end(), other.batch, other.base))
}
