//! The high watermark never goes back: within a leader epoch not in time, and from one epoch to the next not at all,
//! since a leader answers only once it has applied an entry of its own term; and the latest offset, which is asked of a
//! quorum, is never behind what anybody was told before. So is the end that is told to whoever asks for what lies ahead
//! of it (oracle O-15; KIP-207, Raft §8).

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_proto::ids::NodeId;

use super::{Check, Found, Seen};
use crate::history::{Evidence, Place};
use crate::wire::{Ask, Asked, FindAt, Told};

const ID: &str = "O-15";

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// What a leader says while it is one: its high watermark.
    Says,
    /// An acked batch ends there. The epoch is that of the answer, perhaps newer than the one of the batch.
    Acked,
    /// What a quorum has confirmed. Its epoch may be older than what it saw.
    Latest,
}

/// An exclusive end of what is committed, as somebody was told.
#[derive(Clone)]
struct Word {
    kind: Kind,
    epoch: i32,
    node: NodeId,
    end: u64,
    text: String,
}

#[derive(Default)]
struct Log {
    /// In the order told; only what was higher than before of its kind, epoch and node.
    words: Vec<Word>,
    highest: BTreeMap<(Kind, i32, NodeId), u64>,
    /// The lowest that was said in each epoch.
    lowest: BTreeMap<i32, (u64, String)>,
}

#[derive(Default)]
pub(super) struct Watermark {
    logs: BTreeMap<Place, Log>,
    /// How many words there were when a call was asked.
    asked: BTreeMap<u64, usize>,
    /// The newest epoch in which an SDK's consumer fetched.
    fetched_in: BTreeMap<(u32, Place), i32>,
}

impl Check for Watermark {
    fn id(&self) -> &'static str {
        ID
    }

    fn see(&mut self, at: Duration, seen: &Seen<'_>, found: &mut Found) {
        match seen {
            Seen::Asked(asked) => {
                let Some(place) = asked.place() else { return };
                let words = self.logs.get(&place).map_or(0, |log| log.words.len());
                self.asked.insert(asked.call, words);
                if asked.sdk && matches!(asked.ask, Ask::Fetch { .. }) {
                    let newest = self.fetched_in.entry((asked.client, place)).or_insert(-1);
                    if asked.epoch() >= 0 && asked.epoch() < *newest {
                        let what = format!(
                            "a consumer never goes back to an older leader: {asked} with epoch {} in {place}, after \
                             epoch {newest}",
                            asked.epoch()
                        );
                        found.tell(ID, at, what);
                    }
                    *newest = (*newest).max(asked.epoch());
                }
            }
            Seen::Told(asked, told) => {
                let known = self.asked.remove(&asked.call).unwrap_or_default();
                let Some(place) = asked.place() else { return };
                for (kind, epoch, end) in words(asked, told).into_iter().flatten() {
                    let text = format!("{end} in epoch {epoch}, {asked}, told at {at:?}");
                    let word = Word { kind, epoch, node: asked.node, end, text };
                    self.logs.entry(place).or_default().hear(at, place, known, word, found);
                }
            }
            _ => {}
        }
    }

    fn end(&mut self, evidence: &Evidence, end: Duration, found: &mut Found) {
        for (place, log) in &self.logs {
            let Some(scan) = evidence.scan.get(place) else { continue };
            let last = scan.records.last().map_or(scan.start.0, |(offset, _)| offset.0 + 1);
            let said = log.words.iter().filter(|word| word.kind != Kind::Acked);
            if let Some(word) = said.max_by_key(|word| word.end).filter(|word| word.end > last) {
                let what = format!(
                    "the high watermark never goes back: {place} could be read up to {}, and ends at {last}",
                    word.text
                );
                found.tell(ID, end, what);
            }
        }
    }
}

/// The ends that an answer tells.
fn words(asked: &Asked, told: &Told) -> [Option<(Kind, i32, u64)>; 2] {
    let one = match (&asked.ask, told) {
        (Ask::Fetch { .. }, Told::Fetched { high_watermark, epoch, .. }) => {
            u64::try_from(*high_watermark).ok().map(|end| (Kind::Says, *epoch, end))
        }
        (
            Ask::Fetch { offset, epoch, .. },
            Told::Refused { code: ErrorCode::OffsetOutOfRange, high_watermark, .. },
        ) => {
            let Ok(end) = u64::try_from(*high_watermark) else { return [None; 2] };
            // Whoever denies what lies ahead has asked a quorum: else a deposed leader would.
            let denied = (*offset > *high_watermark).then_some((Kind::Latest, *epoch, end));
            return [(*epoch >= 0).then_some((Kind::Says, *epoch, end)), denied];
        }
        (Ask::EpochEnd { .. }, Told::EpochEnded { found: Some((found, end)), epoch }) if found == epoch => {
            Some((Kind::Says, *epoch, *end))
        }
        (Ask::Find { at: FindAt::Latest, .. }, Told::Found { offset: Some(offset), epoch, .. }) => {
            Some((Kind::Latest, *epoch, *offset))
        }
        (Ask::Produce { batch, .. }, Told::Produced { base, epoch, .. }) => {
            Some((Kind::Acked, *epoch, base + batch.count()))
        }
        _ => None,
    };
    [one, None]
}

impl Log {
    /// `known` words were told before this one was asked for.
    fn hear(&mut self, at: Duration, place: Place, known: usize, word: Word, found: &mut Found) {
        let mut tell = |lower: &str, higher: &str| {
            let what = format!(
                "the high watermark never goes back: {place} could be read up to {higher}, but {lower}"
            );
            found.tell(ID, at, what);
        };
        let binds = |number: usize, earlier: &Word| {
            let before = number < known;
            match (word.kind, earlier.kind) {
                (Kind::Acked, _) => false,
                (Kind::Latest, _) => before,
                (Kind::Says, Kind::Says) => {
                    earlier.epoch < word.epoch || (before && earlier.epoch == word.epoch)
                }
                // The same node has applied it; another one of that epoch may know later that it is committed.
                (Kind::Says, Kind::Acked) => {
                    earlier.epoch < word.epoch
                        || (before && earlier.epoch == word.epoch && earlier.node == word.node)
                }
                (Kind::Says, Kind::Latest) => false,
            }
        };
        let mut numbered = self.words.iter().enumerate();
        if let Some((_, earlier)) =
            numbered.find(|(number, earlier)| earlier.end > word.end && binds(*number, earlier))
        {
            tell(&word.text, &earlier.text);
        }
        if word.kind == Kind::Says {
            let mut later = self.lowest.range(word.epoch + 1..);
            if let Some((_, (_, text))) = later.find(|(_, (end, _))| *end < word.end) {
                tell(text, &word.text);
            }
            let lowest = self.lowest.entry(word.epoch).or_insert_with(|| (word.end, word.text.clone()));
            if word.end < lowest.0 {
                *lowest = (word.end, word.text.clone());
            }
        }
        let highest = self.highest.entry((word.kind, word.epoch, word.node)).or_default();
        if word.end > *highest {
            *highest = word.end;
            self.words.push(word);
        }
    }
}
