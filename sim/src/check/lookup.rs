//! A lookup by time finds the first record of that time or later, of what could be read then: what lies below the log
//! start may be found no more (oracle `lookup`).

use std::collections::BTreeMap;
use std::time::Duration;

use super::log_starts::LogStarts;
use super::{Check, Found, Seen};
use crate::history::{Evidence, Place};
use crate::wire::{Ask, FindAt, Told};

const ID: &str = "lookup";

struct Answer {
    place: Place,
    time: i64,
    found: Option<(u64, i64)>,
    /// Whoever asked knew that so much could be read in the epoch that answered.
    floor: u64,
    at: Duration,
    text: String,
}

#[derive(Default)]
pub(super) struct Lookup {
    /// Timestamps by offset, as fetched.
    times: BTreeMap<Place, BTreeMap<u64, i64>>,
    /// High watermarks told, by epoch.
    told: BTreeMap<(Place, i32), u64>,
    starts: LogStarts,
    /// What was told when a call was asked.
    asked: BTreeMap<u64, BTreeMap<i32, u64>>,
    answers: Vec<Answer>,
}

impl Check for Lookup {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, _found: &mut Found) {
        self.starts.see(seen);
        match seen {
            Seen::Asked(asked) => {
                if let Ask::Find { place, at: FindAt::Time(_), .. } = &asked.ask {
                    let told = self.told.range((*place, i32::MIN)..=(*place, i32::MAX));
                    let told = told.map(|((_, epoch), end)| (*epoch, *end)).collect();
                    self.asked.insert(asked.call, told);
                }
            }
            Seen::Told(asked, told) => match (&asked.ask, told) {
                (Ask::Fetch { place, .. }, Told::Fetched { high_watermark, epoch, batches, .. }) => {
                    let end = self.told.entry((*place, *epoch)).or_default();
                    *end = (*end).max(u64::try_from(*high_watermark).unwrap_or_default());
                    let times = self.times.entry(*place).or_default();
                    for standing in batches {
                        for (offset, number) in (standing.base..).zip(0..standing.batch.records.len()) {
                            times.entry(offset).or_insert_with(|| standing.time(number));
                        }
                    }
                }
                (
                    Ask::Find { place, at: FindAt::Time(time), .. },
                    Told::Found { offset, time: of, epoch },
                ) => {
                    let known = self.asked.remove(&asked.call).unwrap_or_default();
                    let floor = known.range(..=*epoch).map(|(_, end)| *end).max().unwrap_or_default();
                    let found = offset.zip(*of);
                    let told = found.map_or_else(
                        || "that there is none".to_owned(),
                        |(offset, of)| format!("{offset}, which has the time {of}"),
                    );
                    let text =
                        format!("{asked}, the first record of {place} at or after {time}, told {told}");
                    self.answers.push(Answer { place: *place, time: *time, found, floor, at, text });
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn end(&mut self, _evidence: &Evidence, _end: Duration, found: &mut Found) {
        for answer in &self.answers {
            let Some(times) = self.times.get(&answer.place) else { continue };
            let until = answer.found.map_or(answer.floor, |(offset, _)| offset);
            let start = self.starts.highest(answer.place).min(until);
            let earlier = times.range(start..until).find(|(_, time)| **time >= answer.time);
            let why = match (earlier, answer.found) {
                (Some((offset, time)), _) => format!("{offset} has the time {time}"),
                (None, Some((offset, time))) => match times.get(&offset) {
                    Some(known) if *known != time => format!("{offset} has the time {known}"),
                    _ if time < answer.time => "that is earlier".to_owned(),
                    _ => continue,
                },
                (None, None) => continue,
            };
            let what = format!("a lookup by time finds the first record: {}; but {why}", answer.text);
            found.tell(ID, answer.at, what);
        }
    }
}
