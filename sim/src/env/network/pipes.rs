//! Connections: two directions, each in order; what is known of them while they stand.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use tokio::sync::mpsc;

use super::digest::Digest;
use super::flights::Piece;
use super::listen::Incoming;
use super::{Connection, Network, Parcel, State, Wire};
use crate::env::tasks::Host;

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To the listener.
    Out,
    /// To the caller.
    Back,
}

/// What is lost with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lose {
    /// The next request: it is not done.
    Request,
    /// The reply to the next request: it is done, and the caller does not hear of it.
    Reply,
    /// A reply, for its request has arrived.
    ReplyNow,
}

/// A connection.
pub(super) struct Pipe {
    pub(super) caller: Host,
    pub(super) callee: Host,
    /// Half-open: nothing passes any more.
    pub(super) hollow: bool,
    pub(super) lose: Option<Lose>,
    /// Sending ends that have not said that they are gone.
    open: u8,
    out: Direction,
    back: Direction,
}

struct Direction {
    arrived: Option<mpsc::UnboundedSender<Parcel>>,
    sent: u64,
    delivered: u64,
    /// What arrived before its turn.
    early: BTreeMap<u64, Piece>,
    /// The sender has gone and takes back what has not arrived.
    aborted: bool,
}

/// What comes of a piece that has arrived.
pub(super) enum Arrived {
    /// These frames are handed over, in order; none if their turn has not come.
    Handed {
        frames: Vec<Parcel>,
        to: Option<mpsc::UnboundedSender<Parcel>>,
        /// The connection is at its end.
        closed: bool,
    },
    /// The connection is lost with it.
    Lost(&'static str),
}

impl Pipe {
    pub(super) fn is_between(&self, one: Host, other: Host) -> bool {
        (self.caller, self.callee) == (one, other) || (self.caller, self.callee) == (other, one)
    }

    /// From whom to whom a way goes.
    pub(super) fn ends(&self, way: Way) -> (Host, Host) {
        match way {
            Way::Out => (self.caller, self.callee),
            Way::Back => (self.callee, self.caller),
        }
    }

    fn direction(&mut self, way: Way) -> &mut Direction {
        match way {
            Way::Out => &mut self.out,
            Way::Back => &mut self.back,
        }
    }

    /// The number of the next piece.
    pub(super) fn next(&mut self, way: Way) -> u64 {
        let direction = self.direction(way);
        direction.sent += 1;
        direction.sent - 1
    }

    pub(super) fn abort(&mut self, way: Way) {
        self.direction(way).aborted = true;
    }

    /// One sending end is gone for good. Whether none is left.
    pub(super) fn close(&mut self) -> bool {
        self.open -= 1;
        self.open == 0
    }

    pub(super) fn arrive(&mut self, way: Way, number: u64, piece: Piece) -> Arrived {
        if let Piece::Parcel(_) = piece {
            match (way, self.lose) {
                (Way::Out, Some(Lose::Request)) => return Arrived::Lost("request lost"),
                (Way::Out, Some(Lose::Reply)) => self.lose = Some(Lose::ReplyNow),
                (Way::Back, Some(Lose::ReplyNow)) => return Arrived::Lost("reply lost"),
                (Way::Out | Way::Back, _) => {}
            }
        }
        let direction = self.direction(way);
        let mut frames = Vec::new();
        let mut ended = false;
        if direction.aborted {
            ended = matches!(piece, Piece::End);
        } else {
            direction.early.insert(number, piece);
            while let Some(piece) = direction.early.remove(&direction.delivered) {
                direction.delivered += 1;
                match piece {
                    Piece::Parcel(frame) => frames.push(frame),
                    Piece::End => ended = true,
                }
            }
        }
        let to = direction.arrived.clone();
        if ended {
            direction.arrived = None;
        }
        Arrived::Handed { frames, to, closed: ended && self.close() }
    }
}

impl State {
    /// Forgets every connection between the two; both ends see it at once.
    pub(super) fn reset_between(&mut self, one: Host, other: Host) -> usize {
        let before = self.pipes.len();
        self.pipes.retain(|_, pipe| !pipe.is_between(one, other));
        before - self.pipes.len()
    }
}

impl Network {
    /// A connection that stands.
    pub(super) fn join(&self, caller: Host, callee: Host) -> (Connection, Incoming) {
        let (out, requests) = mpsc::unbounded_channel();
        let (back, responses) = mpsc::unbounded_channel();
        let direction = |arrived| Direction {
            arrived: Some(arrived),
            sent: 0,
            delivered: 0,
            early: BTreeMap::new(),
            aborted: false,
        };
        let (out, back) = (direction(out), direction(back));
        let number = {
            let mut state = self.state();
            let number = state.next_pipe;
            state.next_pipe += 1;
            let pipe = Pipe { caller, callee, hollow: false, lose: None, open: 2, out, back };
            state.pipes.insert(number, pipe);
            number
        };
        let asks = Wire { connection: number, from: caller, to: callee };
        let answers = Wire { connection: number, from: callee, to: caller };
        let connection = Connection {
            to: callee,
            number,
            requests: Outbound::new(self.clone(), asks, Way::Out),
            responses: Inbound::new(responses),
        };
        let incoming = Incoming {
            requests: Inbound::new(requests),
            responses: Outbound::new(self.clone(), answers, Way::Back),
        };
        (connection, incoming)
    }
}

/// The sending end of one direction of a connection. Dropped, it says so to the other end.
pub(in crate::env) struct Outbound<T> {
    network: Network,
    wire: Wire,
    way: Way,
    of: PhantomData<fn(T)>,
}

impl<T: Digest> Outbound<T> {
    fn new(network: Network, wire: Wire, way: Way) -> Self {
        Self { network, wire, way, of: PhantomData }
    }

    /// Sends; it arrives after whatever was sent before, if the connection lasts.
    pub(in crate::env) fn send(&self, frame: T) {
        if let Some(tap) = self.network.0.tap.get() {
            tap.sent(self.wire, frame.frame());
        }
        self.pass(frame);
    }

    /// As [`Self::send`], of a frame that was sent before.
    pub(in crate::env) fn send_again(&self, frame: T) {
        if let Some(tap) = self.network.0.tap.get() {
            tap.came_again(self.wire, frame.frame());
        }
        self.pass(frame);
    }

    fn pass(&self, frame: T) {
        let bytes = frame.bytes();
        self.network.send(self.wire.connection, self.way, bytes, frame.into_parcel());
    }
}

impl<T> Drop for Outbound<T> {
    fn drop(&mut self) {
        self.network.end(self.wire.connection, self.way);
    }
}

/// The receiving end of one direction of a connection.
pub(in crate::env) struct Inbound<T> {
    arrived: mpsc::UnboundedReceiver<Parcel>,
    of: PhantomData<fn() -> T>,
}

impl<T: Digest> Inbound<T> {
    fn new(arrived: mpsc::UnboundedReceiver<Parcel>) -> Self {
        Self { arrived, of: PhantomData }
    }

    /// The next frame that has arrived; `None` when the connection is gone. Safe to drop: nothing is lost.
    pub(in crate::env) async fn next(&mut self) -> Option<T> {
        self.arrived.recv().await.map(T::from_parcel)
    }
}
