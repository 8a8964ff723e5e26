//! Requests between nodes that come a second time, long after, and messages that were damaged on the way.
//!
//! A repeated request comes over a connection of its own, and nobody hears its answer: a reply carries the number of
//! its call on one connection, so an old one cannot be taken for another's, and is not repeated. A frame that is cut
//! short ends its connection (HTTP/2 frames carry their length), which [`super::Lose::Request`] stands for. Bits are
//! flipped within entries alone: what carries no checksum of ours (votes, terms) TLS protects, or nothing does.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::v1::{PeerFrame, PeerRequest, peer_request};

use super::{Network, Request, State};
use crate::env::clock;
use crate::env::tasks::Host;

/// How long the connection of a repeated request stands.
const STANDS: Duration = Duration::from_secs(5);

/// A request that comes again.
pub(super) struct Old {
    from: Host,
    to: Host,
    frame: PeerFrame,
    /// Which lives of the two it was between.
    lives: (u64, u64),
}

impl State {
    /// What may become of a frame between nodes on its way: it comes again later, or a bit of it is flipped.
    pub(super) fn spoil(&mut self, from: Host, to: Host, frame: &mut PeerFrame) {
        let profile = self.links.profile(from, to);
        if profile.again_per_mille > 0 && self.dice.chance(profile.again_per_mille) {
            let wait = self.dice.time(Duration::from_millis(1), profile.again_max);
            let lives = (self.life_of(from), self.life_of(to));
            let old = Old { from, to, frame: frame.clone(), lives };
            self.flights.add_old(clock::now() + wait, old);
        }
        if profile.flip_per_mille > 0 && self.dice.chance(profile.flip_per_mille) && self.flip(frame) {
            self.links.touch("bit flip", from, to);
        }
    }

    fn flip(&mut self, frame: &mut PeerFrame) -> bool {
        let entries = frame.requests.iter_mut().filter_map(|request| match &mut request.body {
            Some(peer_request::Body::Append(append)) => Some(&mut append.entries),
            Some(_) | None => None,
        });
        let mut entries = entries.flatten().collect::<Vec<_>>();
        if entries.is_empty() {
            return false;
        }
        let place = self.dice.place(entries.len());
        let entry = &mut entries[place];
        let bytes =
            if self.dice.chance(500) || entry.body.is_empty() { &mut entry.head } else { &mut entry.body };
        if bytes.is_empty() {
            return false;
        }
        let mut flipped = bytes.to_vec();
        let place = self.dice.place(flipped.len());
        flipped[place] ^= 1 << self.dice.below(8);
        *bytes = Bytes::from(flipped);
        true
    }

    fn life_of(&self, host: Host) -> u64 {
        self.lives.get(&host).copied().unwrap_or_default()
    }
}

impl Network {
    pub(super) fn arrive_again(&self, old: Old) {
        let Old { from, to, frame, lives } = old;
        let listener = {
            let state = self.state();
            let reached = !state.links.is_cut(from, to) && !state.dark.contains(&to);
            let peers = |listener: &&super::Listener| listener.host == to && listener.takes_peers;
            state.listeners.values().find(peers).filter(|_| reached).cloned()
        };
        let Some(listener) = listener else { return };
        let (connection, incoming) = self.join(from, to);
        if listener.incoming.send(incoming).is_err() {
            return;
        }
        let votes = |request: &PeerRequest| matches!(request.body, Some(peer_request::Body::Vote(_)));
        let is_vote = frame.requests.iter().any(votes);
        {
            let mut state = self.state();
            state.links.touch("repetition", from, to);
            if state.life_of(from) > lives.0 && state.life_of(to) > lives.1 {
                state.marks.reached("message-after-both-ends-restarted");
            }
            if is_vote {
                state.marks.reached("old-vote-request-again");
            }
        }
        connection.requests.send_again(Request::Peer(frame));
        tokio::spawn(async move {
            clock::sleep(STANDS).await;
            drop(connection);
        });
    }
}
