//! The shadow log: the first ack or the first fetch fixes what stands at an offset of a partition, for ever. What is
//! told later is compared with it; the promises judge what differs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Seen;
use crate::history::Place;
use crate::wire::{Ask, Asked, Standing, Told};

/// What clients were told of all partitions' logs.
#[derive(Debug, Default)]
pub(super) struct Shadow(BTreeMap<Place, BTreeMap<u64, Known>>);

/// A batch that is known to stand somewhere.
#[derive(Clone, Debug)]
pub struct Known {
    /// Where, and what; the epoch is -1 as long as only acks told of it.
    pub standing: Standing,
    /// Whether it was acked.
    pub acked: bool,
    /// Who was told first, and by whom.
    pub witness: String,
}

/// Somebody is told that a batch stands in a log.
#[derive(Debug)]
pub struct Stands<'a> {
    /// Whose log.
    pub place: Place,
    /// Where in it, and what.
    pub standing: Standing,
    /// By an ack; otherwise by a fetch.
    pub acked: bool,
    /// Who had asked.
    pub asked: &'a Asked,
    /// When.
    pub at: Duration,
    /// What was known of these offsets before.
    pub before: Before,
}

/// What was known of some offsets.
#[derive(Clone, Debug)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// The same batch at the same place.
    Same(Known),
    /// Something else.
    Other(Vec<Known>),
}

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { standing, witness, .. } = self;
        write!(f, "{} at {}..{}, {witness}", standing.batch, standing.base, standing.end())
    }
}

impl fmt::Display for Stands<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, standing, .. } = self;
        let batch = &standing.batch;
        write!(f, "{batch} at {}..{} of {place}, {}", standing.base, standing.end(), self.witness())
    }
}

impl Stands<'_> {
    fn witness(&self) -> String {
        let how = if self.acked { "acked to" } else { "fetched by" };
        format!("{how} {}, told at {:?}", self.asked, self.at)
    }
}

impl Shadow {
    /// Takes over what is told; what it says of the logs, with what was known before.
    pub(super) fn see<'a>(&mut self, at: Duration, seen: &Seen<'a>) -> Vec<Stands<'a>> {
        let Seen::Told(asked, told) = seen else { return Vec::new() };
        match (&asked.ask, told) {
            (Ask::Produce { place, batch, .. }, Told::Produced { base, stamp, .. }) => {
                let standing = Standing { base: *base, epoch: -1, stamp: *stamp, batch: batch.clone() };
                vec![self.fix(at, asked, *place, standing, true)]
            }
            (Ask::Fetch { place, .. }, Told::Fetched { batches, .. }) => {
                let fix = |standing: &Standing| self.fix(at, asked, *place, standing.clone(), false);
                batches.iter().map(fix).collect()
            }
            _ => Vec::new(),
        }
    }

    fn fix<'a>(
        &mut self,
        at: Duration,
        asked: &'a Asked,
        place: Place,
        standing: Standing,
        acked: bool,
    ) -> Stands<'a> {
        let log = self.0.entry(place).or_default();
        let mut stands =
            Stands { place, standing: standing.clone(), acked, asked, at, before: Before::Nothing };
        let exact = log.get_mut(&standing.base);
        if let Some(known) = exact
            && known.standing.batch.is(&standing.batch)
        {
            stands.before = Before::Same(known.clone());
            known.acked |= acked;
            if !acked {
                known.standing.epoch = known.standing.epoch.max(standing.epoch);
                known.standing.stamp = known.standing.stamp.or(standing.stamp);
            }
            return stands;
        }
        let reaches = |known: &&Known| known.standing.end() > standing.base;
        let before = log.range(..standing.base).next_back().map(|(_, known)| known).filter(reaches);
        let within = log.range(standing.base..standing.end()).map(|(_, known)| known);
        let others = before.into_iter().chain(within).cloned().collect::<Vec<_>>();
        if others.is_empty() {
            let witness = stands.witness();
            log.insert(standing.base, Known { standing, acked, witness });
        } else {
            stands.before = Before::Other(others);
        }
        stands
    }
}
