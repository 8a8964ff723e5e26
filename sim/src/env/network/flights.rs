//! What is on its way, and its arrival.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::mem;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::old::Old;
use super::pipes::{Arrived, Way};
use super::{Inner, Network, Parcel, Request, State};
use crate::env::clock;
use crate::env::tasks::Host;
use crate::trace::Event;

/// Part of one direction of a connection.
pub(super) enum Piece {
    /// What was sent.
    Parcel(Parcel),
    /// The sender is gone.
    End,
}

pub(super) struct Flight {
    pipe: u64,
    way: Way,
    number: u64,
    piece: Piece,
}

enum Cargo {
    Flight(Flight),
    Old(Box<Old>),
}

/// All that is on its way, in order of its arrival.
#[derive(Default)]
pub(super) struct Flights {
    due: BTreeMap<(Duration, u64), Cargo>,
    next: u64,
    /// Held back by a cut.
    held: BTreeMap<(Host, Host), Vec<Flight>>,
    /// Ends of machines without power: told once they are back.
    untold: BTreeMap<Host, Vec<Flight>>,
}

/// Frames that arrived at one end.
struct Handed {
    from: Host,
    to: Host,
    frames: Vec<Parcel>,
    end: mpsc::UnboundedSender<Parcel>,
}

impl Flights {
    /// Whether it arrives before all others.
    fn add(&mut self, at: Duration, cargo: Cargo) -> bool {
        self.next += 1;
        self.due.insert((at, self.next), cargo);
        self.due.first_key_value().is_some_and(|(first, _)| *first == (at, self.next))
    }

    pub(super) fn add_old(&mut self, at: Duration, old: Old) -> bool {
        self.add(at, Cargo::Old(Box::new(old)))
    }

    /// Nothing arrives a second time any more.
    pub(super) fn forget_old(&mut self) {
        self.due.retain(|_, cargo| matches!(cargo, Cargo::Flight(_)));
    }

    /// What would arrive later than `at` arrives then, in the same order: what delayed it has ended.
    pub(super) fn hurry(&mut self, at: Duration) {
        for (_, cargo) in self.due.split_off(&(at, u64::MAX)) {
            self.add(at, cargo);
        }
    }

    fn pop(&mut self, until: Duration) -> Option<Cargo> {
        let first = self.due.first_entry()?;
        (first.key().0 <= until).then(|| first.remove())
    }
}

/// Carries everything to where it goes, for as long as the network is.
pub(super) async fn carry(network: Weak<Inner>, sooner: Arc<Notify>) {
    loop {
        let next = {
            let Some(network) = network.upgrade().map(Network) else { return };
            network.deliver();
            let state = network.state();
            state.flights.due.first_key_value().map(|((at, _), _)| *at)
        };
        match next {
            Some(at) => {
                tokio::select! {
                    biased;
                    () = sooner.notified() => {}
                    () = clock::sleep(at.saturating_sub(clock::now())) => {}
                }
            }
            None => sooner.notified().await,
        }
    }
}

impl Network {
    pub(super) fn send(&self, pipe: u64, way: Way, bytes: usize, mut frame: Parcel) {
        let first = {
            let mut guard = self.state();
            let state = &mut *guard;
            let Some(found) = state.pipes.get_mut(&pipe) else { return };
            let (from, to) = found.ends(way);
            let number = found.next(way);
            let at = state.links.arrival(from, to, bytes, &mut state.dice);
            if let Parcel::Request(Request::Peer(frame)) = &mut frame {
                state.spoil(from, to, frame);
            }
            let flight = Flight { pipe, way, number, piece: Piece::Parcel(frame) };
            state.flights.add(at, Cargo::Flight(flight))
        };
        if first {
            self.0.sooner.notify_one();
        }
    }

    /// The sender of this direction is gone.
    pub(super) fn end(&self, pipe: u64, way: Way) {
        let mut guard = self.state();
        let state = &mut *guard;
        let Entry::Occupied(mut found) = state.pipes.entry(pipe) else { return };
        let (from, to) = found.get().ends(way);
        if found.get().hollow {
            if found.get_mut().close() {
                found.remove();
            }
            return;
        }
        // Given up while cut off: what its machine has not got rid of is sent all the same, or not.
        if state.links.is_cut(from, to) && state.dice.chance(500) {
            found.get_mut().abort(way);
        }
        let number = found.get_mut().next(way);
        let at = state.links.arrival(from, to, 0, &mut state.dice);
        state.flights.add(at, Cargo::Flight(Flight { pipe, way, number, piece: Piece::End }));
        drop(guard);
        self.0.sooner.notify_one();
    }

    fn deliver(&self) {
        let now = clock::now();
        loop {
            let (handed, old) = {
                let mut state = self.state();
                match state.flights.pop(now) {
                    Some(Cargo::Flight(flight)) => (state.arrive(flight), None),
                    Some(Cargo::Old(old)) => (None, Some(old)),
                    None => return,
                }
            };
            if let Some(old) = old {
                self.arrive_again(*old);
            }
            let Some(Handed { from, to, frames, end }) = handed else { continue };
            for frame in frames {
                self.hand_over(from, to, frame, &end);
            }
        }
    }

    pub(super) fn hand_over(&self, from: Host, to: Host, frame: Parcel, end: &mpsc::UnboundedSender<Parcel>) {
        let (what, bytes, crc) = frame.digest();
        self.trace().note(&Event::Delivered { from, to, what, bytes, crc });
        // Nobody may be at the other end any more.
        end.send(frame).unwrap_or_default();
    }
}

impl State {
    fn arrive(&mut self, flight: Flight) -> Option<Handed> {
        let pipe = self.pipes.get_mut(&flight.pipe)?;
        let (from, to) = pipe.ends(flight.way);
        let is_end = matches!(flight.piece, Piece::End);
        if pipe.hollow {
            return None;
        }
        if self.links.is_cut(from, to) {
            self.flights.held.entry((from, to)).or_default().push(flight);
            return None;
        }
        if is_end && self.dark.contains(&from) {
            self.flights.untold.entry(from).or_default().push(flight);
            return None;
        }
        if let Some(until) = self.links.clogged_until(from, to) {
            self.flights.add(until, Cargo::Flight(flight));
            return None;
        }
        match pipe.arrive(flight.way, flight.number, flight.piece) {
            Arrived::Handed { frames, to: end, closed } => {
                if closed {
                    self.pipes.remove(&flight.pipe);
                }
                let end = end.filter(|_| !frames.is_empty())?;
                Some(Handed { from, to, frames, end })
            }
            Arrived::Lost(kind) => {
                self.pipes.remove(&flight.pipe);
                self.count(kind);
                None
            }
        }
    }

    /// Lets what was held back by a cut go on, each connection after a wait of its own.
    pub(super) fn mend(&mut self, from: Host, to: Host) {
        self.links.mend(from, to);
        let mut waits = BTreeMap::new();
        for flight in self.flights.held.remove(&(from, to)).unwrap_or_default() {
            let dice = &mut self.dice;
            let wait = *waits
                .entry(flight.pipe)
                .or_insert_with(|| dice.time(Duration::from_micros(100), Duration::from_millis(200)));
            self.flights.add(clock::now() + wait, Cargo::Flight(flight));
        }
    }

    /// The machine is back, and says of the connections that it had that they are none.
    pub(super) fn tell_ends_of(&mut self, host: Host) {
        for flight in mem::take(self.flights.untold.entry(host).or_default()) {
            let wait = self.dice.time(Duration::from_micros(100), Duration::from_millis(20));
            self.flights.add(clock::now() + wait, Cargo::Flight(flight));
        }
    }
}
