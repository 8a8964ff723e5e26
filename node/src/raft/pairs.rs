//! Of two nodes the one with the lower id beats, and the other one's answers stand for its own beats: half as many
//! messages, and each hears the other as often. Where answers do not come, or do not say enough, both beat. Pure: told
//! what happened, it says what follows.

use std::collections::BTreeMap;

use quorate_proto::ids::NodeId;

use crate::env::Moment;

/// So many beats in a row are spared at most. Those that are sent find a connection that is gone, and have it stand
/// again: without one that stands, nothing proves the other's death.
const SPARED_MAX: u32 = 9;

/// So many answers stand for beats at most until this node comes round to its own beats again. One that never does, as its
/// clock stands still, only answers, and is no leader: it must be missed.
const ANSWERS_MAX: u32 = 10;

/// What this node has with each of its peers.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    /// When an answer last stood for a beat of the peer.
    stood: BTreeMap<NodeId, Moment>,
    answered: BTreeMap<NodeId, Answered>,
    /// Answers that stood for beats since this node came round.
    answers: BTreeMap<NodeId, u32>,
}

/// A peer that relies on this node's answers.
#[derive(Debug, Default)]
struct Answered {
    /// The last one that stands for a beat.
    at: Moment,
    /// Beats that were spared since one was sent.
    spared: u32,
}

impl Pairs {
    /// A peer's answer to a beat came and stood for a beat of its own, or did not.
    pub(super) fn heard(&mut self, peer: NodeId, stands: bool, now: Moment) {
        if stands {
            self.stood.insert(peer, now);
        } else {
            self.stood.remove(&peer);
        }
    }

    /// Whether this node takes a peer's answers for beats: one has stood for a beat since then.
    pub(super) fn relies_on(&self, peer: NodeId, since: Moment) -> bool {
        self.stood.get(&peer).is_some_and(|stood| *stood >= since)
    }

    /// This node has come round to its beats.
    pub(super) fn came_round(&mut self) {
        self.answers.clear();
    }

    /// Whether an answer that goes to a peer now may stand for a beat. To be asked once for each.
    pub(super) fn may_stand(&mut self, peer: NodeId) -> bool {
        let answers = self.answers.entry(peer).or_default();
        *answers = answers.saturating_add(1);
        *answers <= ANSWERS_MAX
    }

    /// A beat of a peer is answered. `stands`: that peer takes the answer for a beat.
    pub(super) fn answered(&mut self, peer: NodeId, stands: bool, now: Moment) {
        if stands {
            self.answered.entry(peer).or_default().at = now;
        } else {
            self.answered.remove(&peer);
        }
    }

    /// Whether the beat to a peer that is due may be left out, as an answer has stood for it since then. To be asked once
    /// for each.
    pub(super) fn spares(&mut self, peer: NodeId, since: Moment) -> bool {
        let Some(answered) = self.answered.get_mut(&peer) else { return false };
        let spares = answered.at >= since && answered.spared < SPARED_MAX;
        answered.spared = if spares { answered.spared + 1 } else { 0 };
        spares
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    #[test]
    fn an_answer_is_relied_on_while_it_is_fresh() {
        let mut pairs = Pairs::default();
        assert!(!pairs.relies_on(B, at(0)));
        pairs.heard(B, true, at(100));
        assert!(pairs.relies_on(B, at(100)) && !pairs.relies_on(B, at(101)) && !pairs.relies_on(A, at(0)));
        pairs.heard(B, false, at(200));
        assert!(!pairs.relies_on(B, at(0)), "the two differ, or there is more to say");
    }

    #[test]
    fn a_beat_is_spared_only_for_one_who_relies_on_answers_that_go_out() {
        let mut pairs = Pairs::default();
        assert!(!pairs.spares(A, at(0)));
        pairs.answered(A, true, at(100));
        assert!(pairs.spares(A, at(100)) && !pairs.spares(A, at(101)) && !pairs.spares(B, at(0)));
        pairs.answered(A, false, at(200));
        assert!(!pairs.spares(A, at(0)));
    }

    #[test]
    fn who_never_comes_round_to_its_beats_answers_in_vain() {
        let mut pairs = Pairs::default();
        assert!((0..ANSWERS_MAX).all(|_| pairs.may_stand(A)));
        assert!(!pairs.may_stand(A) && !pairs.may_stand(A) && pairs.may_stand(B));
        pairs.came_round();
        assert!(pairs.may_stand(A));
    }

    #[test]
    fn some_beats_are_sent_all_the_same() {
        let mut pairs = Pairs::default();
        let mut sent = Vec::new();
        for ms in 0..30 {
            pairs.answered(A, true, at(ms));
            if !pairs.spares(A, at(ms)) {
                sent.push(ms);
            }
        }
        assert_eq!(sent, [9, 19, 29]);
    }
}
