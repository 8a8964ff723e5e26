//! After everything was mended the clients' work goes on: a produce is acked within five seconds in each partition that
//! is written to, and what was in flight then has its outcome within thirty (oracle O-27).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_proto::ids::{NodeId, TopicId};

use super::{Check, Found, Seen};
use crate::history::{Evidence, Place, RecordId};
use crate::observe::Sight;
use crate::wire::{Ask, Told};

const ID: &str = "O-27";

/// From the mending, or from the first try after it, to the first ack.
const FIRST_ACK: Duration = Duration::from_secs(5);
/// From the mending to the last outcome of what was in flight.
const ALL_ANSWERS: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Answers {
    healed: Option<Duration>,
    /// First try after the mending, and the first ack.
    places: BTreeMap<Place, (Duration, Option<Duration>)>,
    /// Nodes that were asked.
    nodes: BTreeSet<NodeId>,
    /// Records without an outcome.
    pending: BTreeMap<RecordId, Duration>,
    late: BTreeMap<RecordId, (Duration, Duration)>,
    /// Topics that somebody asked to delete: nobody owes them an ack.
    deleted: Vec<String>,
    names: BTreeMap<TopicId, String>,
}

impl Check for Answers {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, _found: &mut Found) {
        match seen {
            // A part of the nodes may be whole before all are: who asks the others is owed nothing yet.
            Seen::Node(Sight::Healed { core, .. }) if self.nodes.iter().all(|node| core.contains(node)) => {
                self.healed = Some(at);
                self.places.clear();
            }
            Seen::Sent(record, _) => {
                self.pending.insert(*record, at);
            }
            Seen::Learnt(record, _) => {
                let sent = self.pending.remove(record);
                if let (Some(sent), Some(healed)) = (sent, self.healed)
                    && sent < healed
                    && at > healed + ALL_ANSWERS
                {
                    self.late.insert(*record, (sent, at));
                }
            }
            Seen::Asked(asked) => {
                self.nodes.insert(asked.node);
                match &asked.ask {
                    Ask::Produce { place, .. } if self.healed.is_some() && asked.sdk => {
                        self.places.entry(*place).or_insert((at, None));
                    }
                    Ask::Delete { name, .. } => self.deleted.push(name.clone()),
                    _ => {}
                }
            }
            Seen::Told(asked, told) => match (&asked.ask, told) {
                (Ask::Produce { place, .. }, Told::Produced { .. }) => {
                    if let Some((_, acked)) = self.places.get_mut(place) {
                        acked.get_or_insert(at);
                    }
                }
                // Its topic takes smaller ones by now: an answer for good, and the next try has its own time.
                (Ask::Produce { place, .. }, Told::Refused { code: ErrorCode::BatchTooLarge, .. })
                    if self.places.get(place).is_some_and(|(_, acked)| acked.is_none()) =>
                {
                    self.places.remove(place);
                }
                (_, Told::Topics(topics)) => {
                    self.names.extend(topics.iter().map(|(name, id, _)| (*id, name.clone())));
                }
                _ => {}
            },
            _ => {}
        }
    }

    fn end(&mut self, _evidence: &Evidence, end: Duration, found: &mut Found) {
        let Some(healed) = self.healed else { return };
        for (place, (asked, acked)) in &self.places {
            let took = acked.unwrap_or(end).saturating_sub(*asked);
            let deleted = self.names.get(&place.topic).is_none_or(|name| self.deleted.contains(name));
            if took > FIRST_ACK && !deleted {
                let what = format!(
                    "after the mending a produce is acked within {FIRST_ACK:?}: all was mended at {healed:?}, the \
                     first produce to {place} was asked at {asked:?}, and {}",
                    acked.map_or_else(
                        || "no ack came".to_owned(),
                        |acked| format!("the first ack came at {acked:?}")
                    )
                );
                found.tell(ID, end, what);
            }
        }
        let without = self.pending.iter().filter(|(_, sent)| **sent < healed && end > healed + ALL_ANSWERS);
        let without = without.map(|(record, sent)| (record, *sent, "never".to_owned()));
        let late = self.late.iter().map(|(record, (sent, at))| (record, *sent, format!("at {at:?}")));
        for (record, sent, when) in late.chain(without) {
            let what = format!(
                "what was in flight is answered within {ALL_ANSWERS:?}: {record}, sent at {sent:?}, had its outcome \
                 {when}; all was mended at {healed:?}"
            );
            found.tell(ID, end, what);
        }
    }
}
