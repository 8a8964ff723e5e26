//! Leader epochs: they rise along the log, an epoch has one leader, a request with another epoch than the leader's is
//! refused, and where an epoch is said to have ended, it ended, of what is left above the log start (oracle O-18;
//! KIP-101, KIP-320).

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_proto::ids::NodeId;

use super::log_starts::LogStarts;
use super::{Check, Found, Seen};
use crate::history::{Evidence, Place};
use crate::wire::{Ask, Asked, Standing, Told};

const ID: &str = "O-18";

/// Somebody was told where an epoch ended.
struct Ended {
    place: Place,
    asked: i32,
    found: Option<(i32, u64)>,
    leader: i32,
    text: String,
}

#[derive(Default)]
pub(super) struct Epochs {
    /// Who answered as the leader of an epoch.
    leaders: BTreeMap<(Place, i32), (NodeId, String)>,
    /// The newest epoch in which a node has answered, in the order told: each is a rise.
    rises: BTreeMap<(Place, NodeId), Vec<(i32, String)>>,
    /// How many rises were told when a call was asked.
    asked: BTreeMap<u64, usize>,
    /// Batches with their epochs, by base offset.
    logs: BTreeMap<Place, BTreeMap<u64, Standing>>,
    /// Of epochs that ended below the log start nobody need know.
    starts: LogStarts,
    ended: Vec<Ended>,
}

impl Check for Epochs {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, found: &mut Found) {
        self.starts.see(seen);
        match seen {
            Seen::Asked(asked) => {
                let Some(place) = asked.place() else { return };
                let rises = self.rises.get(&(place, asked.node)).map_or(0, Vec::len);
                self.asked.insert(asked.call, rises);
            }
            Seen::Told(asked, told) => {
                let known = self.asked.remove(&asked.call).unwrap_or_default();
                self.told(at, asked, told, known, found);
            }
            _ => {}
        }
    }

    fn end(&mut self, _evidence: &Evidence, end: Duration, found: &mut Found) {
        for (place, log) in &self.logs {
            let mut pairs = log.values().zip(log.values().skip(1));
            if let Some((one, other)) = pairs.find(|(one, other)| one.epoch > other.epoch) {
                let what = format!(
                    "epochs rise along the log: in {place}, {} was written in epoch {}, and {} behind it in epoch {}",
                    one.base, one.epoch, other.base, other.epoch
                );
                found.tell(ID, end, what);
            }
        }
        for ended in &self.ended {
            let Ended { place, asked, found: said, leader, text } = ended;
            let Some(log) = self.logs.get(place) else { continue };
            let start = self.starts.highest(*place);
            // What came after the leader that answered was not for it to know, nor what lay below the log start.
            let told_of = |standing: &&Standing| standing.epoch <= *leader && standing.end() > start;
            let wrong = log.values().filter(told_of).find(|standing| match said {
                None => standing.epoch <= *asked,
                Some((largest, at)) if standing.epoch <= *largest => standing.end() > *at && largest < leader,
                Some((_, at)) => standing.epoch <= *asked || standing.base < *at,
            });
            if let Some(standing) = wrong {
                let what = format!(
                    "an epoch ended where it is said to: {text}; but {}..{} is of epoch {}",
                    standing.base,
                    standing.end(),
                    standing.epoch
                );
                found.tell(ID, end, what);
            }
        }
    }
}

/// Where an epoch ended, as somebody was told.
fn end(ended: Option<(i32, u64)>) -> String {
    ended.map_or_else(
        || "that there was none".to_owned(),
        |(epoch, end)| format!("that epoch {epoch} ended before {end}"),
    )
}

impl Epochs {
    fn told(&mut self, at: Duration, asked: &Asked, told: &Told, known: usize, found: &mut Found) {
        let Some(place) = asked.place() else { return };
        let epoch = match told {
            Told::Fetched { epoch, batches, .. } => {
                let log = self.logs.entry(place).or_default();
                for standing in batches {
                    let first = log.entry(standing.base).or_insert_with(|| standing.clone());
                    let changed = first.epoch != standing.epoch && first.batch.is(&standing.batch);
                    if changed || standing.epoch > *epoch {
                        let what = format!(
                            "a batch keeps its epoch: {asked}, in {place}: {} at {} is of epoch {}; before it was of \
                             {}, and the leader's is {epoch}",
                            standing.batch, standing.base, standing.epoch, first.epoch
                        );
                        found.tell(ID, at, what);
                    }
                }
                *epoch
            }
            Told::Found { epoch, .. } => *epoch,
            Told::EpochEnded { found: ended, epoch } => {
                let Ask::EpochEnd { epoch: of, .. } = &asked.ask else { return };
                let text = format!(
                    "{asked}, where epoch {of} of {place} ended, told {} in epoch {epoch}",
                    end(*ended)
                );
                if ended.is_some_and(|(largest, _)| largest > *of || largest > *epoch)
                    || (*of >= *epoch && ended.is_none_or(|(largest, _)| largest != *epoch))
                {
                    found.tell(ID, at, format!("an epoch ended where it is said to: {text}"));
                }
                self.ended.push(Ended { place, asked: *of, found: *ended, leader: *epoch, text });
                *epoch
            }
            Told::Refused { code: ErrorCode::OffsetOutOfRange, .. } if asked.epoch() >= 0 => asked.epoch(),
            _ => return,
        };
        if asked.epoch() >= 0 && asked.epoch() != epoch {
            let what = format!(
                "a fenced request is refused: {asked} in epoch {} of {place}, was answered in epoch {epoch}",
                asked.epoch()
            );
            found.tell(ID, at, what);
        }
        let text = format!("{asked}, told at {at:?}");
        let (leader, first) =
            self.leaders.entry((place, epoch)).or_insert_with(|| (asked.node, text.clone()));
        if *leader != asked.node {
            let what =
                format!("an epoch has one leader: of epoch {epoch} of {place} answer {first} and {text}");
            found.tell(ID, at, what);
        }
        let rises = self.rises.entry((place, asked.node)).or_default();
        if let Some((newer, first)) = rises[..known].last().filter(|(newer, _)| *newer > epoch) {
            let what = format!(
                "a node never leads in an older epoch: {text} in epoch {epoch} of {place}, but before in epoch \
                 {newer}: {first}"
            );
            found.tell(ID, at, what);
        }
        if rises.last().is_none_or(|(newest, _)| *newest < epoch) {
            rises.push((epoch, text));
        }
    }
}
