//! Listens to what a client and the nodes say to each other, and tells the checks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use quorate_proto::batch::{BatchHeader, HEADER_BYTES};
use quorate_proto::call::{Call, CallError, Channel, Connect, Reply};
use quorate_proto::ids::NodeId;

use crate::check::Seen;
use crate::env::clock;
use crate::history::History;
use crate::marks::Marks;
use crate::wire::{Ask, Asked, Batch, Told, ask, told};

/// A batch by producer id, epoch, sequence and checksum.
type Name = (i64, i16, i32, u32);

/// What all taps of a run know.
#[derive(Default)]
struct Known {
    calls: u64,
    /// Batches that were taken apart, with the nodes that were asked to write them.
    batches: BTreeMap<Name, (Arc<Batch>, Vec<NodeId>)>,
}

/// Hears the clients of a run. Clones share what they know.
#[derive(Clone)]
pub(super) struct Ear {
    history: History,
    marks: Marks,
    known: Arc<Mutex<Known>>,
}

impl Ear {
    pub(super) fn new(history: History, marks: Marks) -> Self {
        Self { history, marks, known: Arc::default() }
    }

    /// Listens to what `client` says and hears over `connect`.
    pub(super) fn listen(&self, client: u32, sdk: bool, connect: Arc<dyn Connect>) -> Arc<dyn Connect> {
        Arc::new(Tapped { ear: self.clone(), client, sdk, connect })
    }

    fn asked(&self, client: u32, sdk: bool, node: NodeId, call: &Call) -> Asked {
        let mut asked = Asked { call: 0, client, sdk, node, at: clock::now(), ask: ask(call) };
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.calls += 1;
            asked.call = known.calls;
            if let Ask::Produce { batch, .. } = &mut asked.ask {
                let entry = known.batches.entry(name(batch)).or_insert_with(|| (batch.clone(), Vec::new()));
                if entry.0 == *batch {
                    *batch = entry.0.clone();
                }
                if !entry.1.contains(&node) {
                    entry.1.push(node);
                }
            }
        }
        self.history.see(&Seen::Asked(&asked));
        asked
    }

    fn told(&self, asked: &Asked, answer: &Result<Reply, CallError>) {
        let known = |header: &BatchHeader, batch: &Bytes| {
            let crc = crc32c::crc32c(batch.get(HEADER_BYTES..)?);
            let name = (header.producer_id.0, header.producer_epoch.0, header.base_sequence.0, crc);
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let (batch, _) = known.batches.get(&name)?;
            // The checksum does not cover the base timestamp, from which the others are counted.
            (batch.times.first() == Some(&header.base_timestamp.0)).then(|| batch.clone())
        };
        let told = told(asked, answer, known);
        self.mark(asked, &told);
        self.history.evidence().others.count(&asked.ask, &told);
        self.history.see(&Seen::Told(asked, &told));
    }

    fn mark(&self, asked: &Asked, told: &Told) {
        let (Ask::Produce { batch, .. }, Told::Produced { .. }) = (&asked.ask, told) else { return };
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.batches.get(&name(batch)).is_some_and(|(_, nodes)| nodes.len() > 1) {
            self.marks.reached("producer-retried-across-two-leaders");
        }
    }
}

fn name(batch: &Batch) -> Name {
    (batch.producer, batch.epoch, batch.sequence, batch.crc)
}

struct Tapped {
    ear: Ear,
    client: u32,
    sdk: bool,
    connect: Arc<dyn Connect>,
}

impl Connect for Tapped {
    fn connect(&self, address: &str) -> Arc<dyn Channel> {
        let channel = self.connect.connect(address);
        let digits = address.trim_start_matches("node").split(':').next().unwrap_or_default();
        let node = NodeId(digits.parse().unwrap_or_default());
        Arc::new(TappedChannel { ear: self.ear.clone(), client: self.client, sdk: self.sdk, node, channel })
    }
}

struct TappedChannel {
    ear: Ear,
    client: u32,
    sdk: bool,
    node: NodeId,
    channel: Arc<dyn Channel>,
}

impl Channel for TappedChannel {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Reply, CallError>> {
        let asked = self.ear.asked(self.client, self.sdk, self.node, &call);
        let answer = self.channel.call(call);
        let ear = self.ear.clone();
        Box::pin(async move {
            let answer = answer.await;
            ear.told(&asked, &answer);
            answer
        })
    }

    fn address(&self) -> &str {
        self.channel.address()
    }
}
