//! What happened, in order, folded into one number: the same seed gives the same number, or the run did not repeat.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::io::{self, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_node::env::transport::LinkEvent;
use quorate_proto::ids::NodeId;

use crate::env::clock;
use crate::env::disk::{DiskEvent, Losses};
use crate::env::tasks::Host;

/// Something that happened in a run.
#[derive(Clone, Debug)]
pub enum Event {
    /// A frame arrived.
    Delivered {
        /// Who sent it.
        from: Host,
        /// Who got it.
        to: Host,
        /// What it was.
        what: &'static str,
        /// Encoded length.
        bytes: usize,
        /// CRC-32C of the encoded frame.
        crc: u32,
    },
    /// A connection came or went.
    Link {
        /// Who sees it.
        from: Host,
        /// At the other end.
        to: Host,
        /// What became of it.
        event: LinkEvent,
    },
    /// Something reached a node's platters, or its power went.
    Disk {
        /// Whose disk.
        node: NodeId,
        /// What.
        event: DiskEvent,
    },
    /// The nemesis struck, or mended.
    Fault(String),
    /// A node started, came up or stopped.
    Node {
        /// Which one.
        node: NodeId,
        /// What.
        what: String,
    },
    /// A client learnt the outcome of what it had asked.
    Client {
        /// Which one.
        client: u32,
        /// The outcome.
        what: String,
    },
}

/// A run's trace. Clones share it.
#[derive(Clone, Default)]
pub struct Trace(Arc<Mutex<State>>);

/// How much of a trace is shown as it happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Show {
    /// Nothing.
    #[default]
    Nothing,
    /// Faults, nodes, clients.
    Story,
    /// Messages and disk operations too.
    Everything,
}

#[derive(Default)]
struct State {
    fold: Fold,
    events: u64,
    show: Show,
    keep: Show,
    kept: Vec<String>,
}

impl Trace {
    /// A trace that shows some events on standard error as they happen, and keeps some as text. If it keeps
    /// everything, each line ends with the number that all events so far fold into.
    pub fn new(show: Show, keep: Show) -> Self {
        Self(Arc::new(Mutex::new(State { show, keep, ..State::default() })))
    }

    /// Adds an event, which happened now.
    pub fn note(&self, event: &Event) {
        let at = clock::now();
        let mut state = self.state();
        state.events += 1;
        at.hash(&mut state.fold);
        event.hash(&mut state.fold);
        if state.show >= event.least_show() {
            // A run goes on when nobody looks any more.
            writeln!(io::stderr().lock(), "{}", line(at, event)).unwrap_or_default();
        }
        if state.keep >= event.least_show() {
            let mut line = line(at, event);
            if state.keep == Show::Everything {
                line += &format!(" #{:016x}", state.fold.finish());
            }
            state.kept.push(line);
        }
    }

    /// Adds what follows from events that are noted: it is shown and kept like them, and no part of the hash.
    pub fn remark(&self, event: &Event) {
        let mut state = self.state();
        if state.show == Show::Nothing && state.keep == Show::Nothing {
            return;
        }
        let line = line(clock::now(), event);
        if state.show >= Show::Story {
            writeln!(io::stderr().lock(), "{line}").unwrap_or_default();
        }
        // Where every event is kept, two runs are compared, perhaps one that nobody observes.
        if state.keep == Show::Story {
            state.kept.push(line);
        }
    }

    /// The number that all events so far fold into.
    pub fn hash(&self) -> u64 {
        self.state().fold.finish()
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.state().events
    }

    /// The events as text, if they were kept; none after that.
    pub fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut self.state().kept)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({:016x})", self.hash())
    }
}

/// The first event in which two traces differ, as the two lines at that place.
pub fn first_difference<'a>(one: &'a [String], other: &'a [String]) -> Option<(usize, &'a str, &'a str)> {
    let end = "(the end)";
    (0..one.len().max(other.len())).find_map(|at| {
        let line = |of: &'a [String]| of.get(at).map_or(end, String::as_str);
        (line(one) != line(other)).then(|| (at, line(one), line(other)))
    })
}

/// When the event of a line happened.
pub(crate) fn time_of(line: &str) -> Option<Duration> {
    line.split_whitespace().next()?.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
}

fn line(at: Duration, event: &Event) -> String {
    format!("{:>6}.{:06} {event}", at.as_secs(), at.subsec_micros())
}

impl Event {
    fn least_show(&self) -> Show {
        match self {
            Self::Fault(_) | Self::Node { .. } | Self::Client { .. } => Show::Story,
            Self::Disk {
                event:
                    DiskEvent::Survived(_)
                    | DiskEvent::SyncFailed { .. }
                    | DiskEvent::NoSpace { .. }
                    | DiskEvent::Stalled { .. },
                ..
            } => Show::Story,
            Self::Delivered { .. } | Self::Link { .. } | Self::Disk { .. } => Show::Everything,
        }
    }
}

impl Hash for Event {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Delivered { from, to, what, bytes, crc } => (1_u8, from, to, what, bytes, crc).hash(state),
            Self::Link { from, to, event } => (2_u8, from, to, format!("{event:?}")).hash(state),
            Self::Disk { node, event } => (3_u8, node, event).hash(state),
            Self::Fault(what) => (4_u8, what).hash(state),
            Self::Node { node, what } => (5_u8, node, what).hash(state),
            Self::Client { client, what } => (6_u8, client, what).hash(state),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delivered { from, to, what, bytes, crc } => {
                write!(f, "{from} -> {to}: {what}, {bytes} bytes, crc {crc:08x}")
            }
            Self::Link { from, to, event } => {
                let what = match event {
                    LinkEvent::Up => "connected",
                    LinkEvent::Reset => "connection reset",
                    LinkEvent::Refused => "connection refused",
                };
                write!(f, "{from} -> {to}: {what}")
            }
            Self::Disk { node, event } => write!(f, "node{node} disk: {}", disk_event(event)),
            Self::Fault(what) => write!(f, "nemesis: {what}"),
            Self::Node { node, what } => write!(f, "node{node}: {what}"),
            Self::Client { client, what } => write!(f, "client{client}: {what}"),
        }
    }
}

fn disk_event(event: &DiskEvent) -> String {
    match event {
        DiskEvent::Synced { file, operations, written_crc } => {
            format!("synced {file} after {operations} operations, crc {written_crc:08x}")
        }
        DiskEvent::Published { file, operations } => {
            format!("published {file} after {operations} operations")
        }
        DiskEvent::SyncFailed { file, operations } => {
            format!("failed to sync {file} after {operations} operations")
        }
        DiskEvent::NoSpace { file, operations } => {
            format!("had no room for a write to {file} after {operations} operations")
        }
        DiskEvent::Stalled { operation, time } => format!("stalls a {operation} for {time:?}"),
        DiskEvent::Cut { operations } => format!("power cut after {operations} operations"),
        DiskEvent::Survived(Losses { sectors_at_stake, sectors_lost, names_lost }) => {
            format!(
                "without power: lost {sectors_lost} of {sectors_at_stake} unsynced sectors, {names_lost} changes of names"
            )
        }
    }
}

/// FNV-1a over 64 bits, word-wise: the same on every machine and in every version of the standard library.
pub(crate) struct Fold(u64);

impl Default for Fold {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tells_orders_apart_and_the_lines_say_where() {
        let fault = |what: &str| Event::Fault(what.to_owned());
        let run = |whats: &[&str]| {
            let trace = Trace::new(Show::Nothing, Show::Everything);
            whats.iter().for_each(|what| trace.note(&fault(what)));
            (trace.hash(), trace.take_lines())
        };
        let (one, lines_one) = run(&["a", "b", "c"]);
        assert_eq!(run(&["a", "b", "c"]).0, one);
        let (other, lines_other) = run(&["a", "c", "b"]);
        assert_ne!(one, other);
        let (at, left, right) = first_difference(&lines_one, &lines_other).unwrap();
        assert!(at == 1 && left.contains("nemesis: b") && right.contains("nemesis: c"), "{left} {right}");
        assert_eq!(first_difference(&lines_one, &lines_one), None);
        assert_eq!(first_difference(&lines_one, &lines_one[..2]).unwrap().2, "(the end)");
    }
}
