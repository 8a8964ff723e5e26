//! A fetch that waits is answered when there is something: once all is mended, it does not sleep on while the same node
//! acknowledges what it waits for (oracle O-27, of long polls). Its answer comes in the end all
//! the same, when its time is up: a wake-up that is lost breaks no other promise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_proto::ids::NodeId;

use super::{Check, Found, Seen};
use crate::history::{Evidence, Place};
use crate::observe::Sight;
use crate::wire::{Ask, Told};

const ID: &str = "O-27";

/// From the ack, or from the question if that came later, to the answer.
const ANSWER: Duration = Duration::from_secs(1);

/// A fetch without an answer.
struct Waiting {
    client: u32,
    node: NodeId,
    place: Place,
    offset: u64,
    /// When somebody was first told, by that node, that something stands at its offset or behind it.
    due: Option<(Duration, String)>,
}

#[derive(Default)]
pub(super) struct Awake {
    /// Nodes that were asked.
    nodes: BTreeSet<NodeId>,
    healed: bool,
    /// By call.
    waiting: BTreeMap<u64, Waiting>,
}

impl Check for Awake {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Node(Sight::Healed { core, .. }) => {
                self.healed = self.nodes.iter().all(|node| core.contains(node));
                self.waiting.clear();
            }
            Seen::Asked(asked) => {
                self.nodes.insert(asked.node);
                let Ask::Fetch { place, offset, .. } = &asked.ask else { return };
                if !self.healed || !asked.sdk {
                    return;
                }
                let (client, node, place) = (asked.client, asked.node, *place);
                // A client asks for one thing at a time: it has given up what it asked before.
                self.waiting.retain(|_, waiting| (waiting.client, waiting.place) != (client, place));
                let offset = u64::try_from(*offset).unwrap_or_default();
                self.waiting.insert(asked.call, Waiting { client, node, place, offset, due: None });
            }
            Seen::Told(asked, told) => {
                if let Some(Waiting { due: Some((since, acked)), offset, .. }) =
                    self.waiting.remove(&asked.call)
                    && at > since.max(asked.at) + ANSWER
                {
                    let what = format!(
                        "a fetch that waits is woken: {asked}, from {offset} at {:?}, was answered only then, though \
                         {acked}",
                        asked.at
                    );
                    found.tell(ID, at, what);
                }
                if let (Ask::Produce { place, batch, .. }, Told::Produced { base, .. }) = (&asked.ask, told) {
                    let end = base + batch.count();
                    for waiting in self.waiting.values_mut() {
                        let meant = (waiting.node, waiting.place) == (asked.node, *place);
                        if meant && waiting.offset < end && waiting.due.is_none() {
                            waiting.due = Some((at, format!("{batch} at {base} was acked to {asked}")));
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, _evidence: &Evidence, _end: Duration, _found: &mut Found) {}
}
