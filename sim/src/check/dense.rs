//! Offsets are unique, dense and rising: a fetch returns the batch that holds the offset asked for and what follows it
//! without a gap, and the log starts where nothing was deleted by right, that is at 0: nothing expires yet
//! (oracle O-14).

use std::time::Duration;

use super::{Check, Found, Seen};
use crate::history::Evidence;
use crate::wire::{Ask, Asked, FindAt, Standing, Told};

const ID: &str = "O-14";

/// Where a log may start at the latest. Retention, once there is any, has its say here.
const LOG_START_MAX: i64 = 0;

#[derive(Default)]
pub(super) struct Dense;

impl Check for Dense {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, found: &mut Found) {
        let Seen::Told(asked, told) = seen else { return };
        let log_start = match (&asked.ask, told) {
            (Ask::Fetch { offset, .. }, Told::Fetched { high_watermark, log_start, batches, .. }) => {
                if let Some(why) = gap(*offset, *high_watermark, batches) {
                    let what = format!("offsets are dense: {asked}, fetched from {offset}: {why}");
                    found.tell(ID, at, what);
                }
                *log_start
            }
            (Ask::Produce { .. }, Told::Produced { log_start, .. }) => *log_start,
            (Ask::Find { at: FindAt::Earliest, .. }, Told::Found { offset, .. }) => {
                offset.and_then(|offset| i64::try_from(offset).ok()).unwrap_or(-1)
            }
            (
                Ask::Fetch { .. },
                Told::Refused { code: quorate_proto::ErrorCode::OffsetOutOfRange, log_start, .. },
            ) => *log_start,
            _ => return,
        };
        if !(0..=LOG_START_MAX).contains(&log_start) {
            tell_start(at, asked, log_start, found);
        }
    }

    fn end(&mut self, evidence: &Evidence, end: Duration, found: &mut Found) {
        for (place, scan) in &evidence.scan {
            for (expected, (offset, _)) in (0..).zip(&scan.records) {
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

fn tell_start(at: Duration, asked: &Asked, log_start: i64, found: &mut Found) {
    let place = asked.place().map_or("no partition".to_owned(), |place| place.to_string());
    let what = format!("nothing was deleted: {asked}: {place} is said to start at {log_start}");
    found.tell(ID, at, what);
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
