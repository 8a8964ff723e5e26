//! What this node knows of its peers' lives and of who leads what. Pure: told what happened, it says what follows.

use std::collections::{BTreeMap, BTreeSet};

use quorate_proto::ids::{GroupId, Incarnation, NodeId, Term};

use super::quiet::digest_of;
use crate::env::Moment;
use crate::env::transport::LinkEvent;

/// Who leads a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    /// The leader.
    pub leader: NodeId,
    /// In which term.
    pub term: Term,
}

/// The process that a peer was is no more: proven, not guessed from silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Death(pub(super) NodeId);

#[derive(Debug, Default)]
struct Peer {
    heard: Option<Moment>,
    incarnation: Option<Incarnation>,
    /// A standing connection ended and none has stood since: with a refusal after it, nobody is there any more.
    reset: bool,
    /// A connection to it stood when one was last heard of.
    stands: bool,
    /// Its connections said that it had died; the same process was not heard since.
    taken_for_dead: bool,
    /// It was heard again, and not by another incarnation.
    lived: bool,
    /// When this incarnation was first heard.
    since: Option<Moment>,
    /// It says that nobody is to hand leadership to it.
    unfit: bool,
    /// A digest of what it knows this node to lead, as it said last.
    knows: Option<u64>,
}

/// The peers, and the newest heard leader of each group.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    peers: BTreeMap<NodeId, Peer>,
    leaders: BTreeMap<GroupId, Leadership>,
    /// The same by leader: each beat asks for it.
    sums: BTreeMap<NodeId, Sum>,
}

/// What one node leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    groups: usize,
    /// [`digest_of_leads`] of them.
    digest: u64,
}

impl Liveness {
    /// A message came from `node`.
    pub(super) fn heard(&mut self, node: NodeId, incarnation: Incarnation, now: Moment) -> Option<Death> {
        let peer = self.peers.entry(node).or_default();
        peer.heard = Some(now);
        let before = peer.incarnation.replace(incarnation);
        peer.lived |= std::mem::take(&mut peer.taken_for_dead) && before == Some(incarnation);
        if before != Some(incarnation) {
            peer.since = Some(now);
            peer.unfit = false;
            peer.knows = None;
        }
        before.is_some_and(|before| before != incarnation).then_some(Death(node))
    }

    /// `node` says whether leadership may be handed to it, and, as a digest, what it knows this node to lead.
    pub(super) fn said(&mut self, node: NodeId, unfit: bool, knows: u64) {
        let peer = self.peers.entry(node).or_default();
        (peer.unfit, peer.knows) = (unfit, Some(knows));
    }

    /// Whether `node` is known to know that this one leads what comes to this digest.
    pub(super) fn is_known_to(&self, node: NodeId, digest: u64) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.knows == Some(digest))
    }

    /// A digest of what `node` is known to lead.
    pub(super) fn known_of(&self, node: NodeId) -> u64 {
        self.sums.get(&node).map_or(0, |sum| sum.digest)
    }

    /// Whether `node` says that nobody is to hand leadership to it.
    pub(super) fn is_unfit(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_some_and(|peer| peer.unfit)
    }

    /// The peers that were heard since then, and not taken for dead afterwards.
    pub(super) fn near(&self, since: Moment) -> BTreeSet<NodeId> {
        let near = |peer: &Peer| !peer.taken_for_dead && peer.heard.is_some_and(|heard| heard >= since);
        self.peers.iter().filter(|(_, peer)| near(peer)).map(|(node, _)| *node).collect()
    }

    /// Since when the process that `node` is now is known of.
    pub(super) fn alive_since(&self, node: NodeId) -> Option<Moment> {
        self.peers.get(&node).and_then(|peer| peer.since)
    }

    /// Whether `node` was taken for dead and has been heard again since; told once.
    pub(super) fn take_lived(&mut self, node: NodeId) -> bool {
        self.peers.get_mut(&node).is_some_and(|peer| std::mem::take(&mut peer.lived))
    }

    /// Whether no connection to `node` is known to stand: then nothing would prove its death.
    pub(super) fn is_cut(&self, node: NodeId) -> bool {
        self.peers.get(&node).is_none_or(|peer| !peer.stands)
    }

    /// Something happened to a connection to `node`.
    pub(super) fn link(&mut self, node: NodeId, event: LinkEvent) -> Option<Death> {
        let peer = self.peers.entry(node).or_default();
        match event {
            LinkEvent::Up => (peer.reset, peer.stands) = (false, true),
            LinkEvent::Reset => (peer.reset, peer.stands) = (true, false),
            LinkEvent::Refused => {
                let died = std::mem::take(&mut peer.reset);
                peer.taken_for_dead |= died;
                return died.then_some(Death(node));
            }
        }
        None
    }

    /// `node` leads these groups, and no others. Whether anything changed.
    pub(super) fn beat(&mut self, node: NodeId, leads: &BTreeMap<GroupId, Term>) -> bool {
        let mut changed = self.forget(|group, known| known.leader == node && !leads.contains_key(&group));
        for (group, term) in leads {
            changed |= self.leads(*group, Leadership { leader: node, term: *term });
        }
        changed
    }

    /// A leader of `group` is known. Whether that is news.
    pub(super) fn leads(&mut self, group: GroupId, leadership: Leadership) -> bool {
        let known = self.leaders.get(&group);
        if known.is_some_and(|known| known.term >= leadership.term) {
            return false;
        }
        self.drop_leader(group);
        self.leaders.insert(group, leadership);
        let sum = self.sums.entry(leadership.leader).or_default();
        sum.groups += 1;
        sum.digest = sum.digest.wrapping_add(digest_of_lead(group, leadership.term));
        true
    }

    /// `node` does not lead `group`, at least not in `term` or before. Whether that is news.
    pub(super) fn leads_not(&mut self, group: GroupId, node: NodeId, term: Term) -> bool {
        let ends = |known: &Leadership| known.leader == node && known.term <= term;
        if self.leaders.get(&group).is_some_and(ends) {
            self.drop_leader(group);
            return true;
        }
        false
    }

    /// Forgets what `node` led. Whether it led anything.
    pub(super) fn forget_leader(&mut self, node: NodeId) -> bool {
        self.sums.contains_key(&node) && self.forget(|_, known| known.leader == node)
    }

    /// Forgets what is led by peers not heard since `since`. Whether any led anything.
    pub(super) fn expire(&mut self, since: Moment, me: NodeId) -> bool {
        let is_silent = |node: &NodeId| *node != me && !self.heard_since(*node, since);
        let silent = self.sums.keys().copied().filter(is_silent).collect::<BTreeSet<_>>();
        !silent.is_empty() && self.forget(|_, known| silent.contains(&known.leader))
    }

    /// Forgets who leads these groups. Whether anybody was forgotten.
    fn forget(&mut self, which: impl Fn(GroupId, &Leadership) -> bool) -> bool {
        let gone = self.leaders.iter().filter(|(group, known)| which(**group, known));
        let gone = gone.map(|(group, _)| *group).collect::<Vec<_>>();
        for group in &gone {
            self.drop_leader(*group);
        }
        !gone.is_empty()
    }

    fn drop_leader(&mut self, group: GroupId) {
        let Some(known) = self.leaders.remove(&group) else { return };
        let Some(sum) = self.sums.get_mut(&known.leader) else { return };
        sum.groups -= 1;
        sum.digest = sum.digest.wrapping_sub(digest_of_lead(group, known.term));
        if sum.groups == 0 {
            self.sums.remove(&known.leader);
        }
    }

    pub(super) fn leadership(&self, group: GroupId) -> Option<Leadership> {
        self.leaders.get(&group).copied()
    }

    /// When each peer was last heard.
    pub(super) fn alive(&self) -> BTreeMap<NodeId, Moment> {
        self.peers.iter().filter_map(|(node, peer)| Some((*node, peer.heard?))).collect()
    }

    pub(super) fn heard_since(&self, node: NodeId, since: Moment) -> bool {
        self.peers.get(&node).and_then(|peer| peer.heard).is_some_and(|heard| heard >= since)
    }
}

/// Of groups that somebody leads, each in a term.
pub(super) fn digest_of_leads(leads: impl IntoIterator<Item = (GroupId, Term)>) -> u64 {
    leads.into_iter().map(|(group, term)| digest_of_lead(group, term)).fold(0, u64::wrapping_add)
}

fn digest_of_lead(group: GroupId, term: Term) -> u64 {
    digest_of([group.0, term.0, 0])
}

/// The place of `me` among the `survivors` who stand for election one after the other. Drawn from group and term, so
/// that a dead node's groups do not all go to one.
pub(super) fn rank(survivors: &[NodeId], me: NodeId, group: GroupId, term: Term) -> u64 {
    let count = survivors.len() as u64;
    let Some(place) = survivors.iter().position(|node| *node == me) else { return count };
    let first = group.0.wrapping_add(term.0) % count;
    (place as u64 + count - first) % count
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const G: GroupId = GroupId(7);

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    #[test]
    fn only_a_reset_followed_by_a_refusal_proves_a_death() {
        let mut liveness = Liveness::default();
        assert!(liveness.is_cut(A), "none stands yet");
        assert_eq!(liveness.link(A, LinkEvent::Refused), None, "it never stood");
        assert_eq!(liveness.link(A, LinkEvent::Up), None);
        assert!(!liveness.is_cut(A));
        assert_eq!(liveness.link(A, LinkEvent::Reset), None);
        assert!(liveness.is_cut(A));
        liveness.heard(A, Incarnation(1), at(5));
        assert_eq!(liveness.near(at(5)), BTreeSet::from([A]));
        assert_eq!(liveness.link(A, LinkEvent::Refused), Some(Death(A)));
        assert_eq!(liveness.near(at(0)), BTreeSet::new(), "who is dead is not near");
        assert_eq!(liveness.link(A, LinkEvent::Refused), None, "once");
        assert!(liveness.is_cut(A));
        assert_eq!(liveness.link(A, LinkEvent::Reset), None);
        assert_eq!(liveness.link(A, LinkEvent::Up), None);
        assert_eq!(liveness.link(A, LinkEvent::Refused), None, "another connection stood in between");
    }

    #[test]
    fn a_proof_was_wrong_if_the_same_incarnation_is_heard_again() {
        let mut liveness = Liveness::default();
        for (incarnation, lived) in [(1, true), (2, false)] {
            liveness.heard(A, Incarnation(1), at(0));
            liveness.link(A, LinkEvent::Reset);
            liveness.link(A, LinkEvent::Refused);
            assert!(!liveness.take_lived(A));
            liveness.heard(A, Incarnation(incarnation), at(1));
            assert_eq!(liveness.take_lived(A), lived);
            assert!(!liveness.take_lived(A), "once");
        }
    }

    #[test]
    fn another_incarnation_proves_the_death_of_the_last() {
        let mut liveness = Liveness::default();
        assert_eq!(liveness.heard(A, Incarnation(1), at(0)), None);
        assert_eq!(liveness.heard(A, Incarnation(1), at(1)), None);
        assert_eq!(liveness.heard(A, Incarnation(2), at(2)), Some(Death(A)));
        assert_eq!(liveness.heard(A, Incarnation(2), at(3)), None);
        assert_eq!(liveness.alive(), BTreeMap::from([(A, at(3))]));
    }

    #[test]
    fn what_a_process_says_of_itself_ends_with_it() {
        let mut liveness = Liveness::default();
        assert_eq!(liveness.alive_since(A), None);
        liveness.heard(A, Incarnation(1), at(5));
        liveness.said(A, true, 7);
        assert!(liveness.is_known_to(A, 7) && !liveness.is_known_to(A, 8));
        liveness.heard(A, Incarnation(1), at(6));
        assert_eq!((liveness.alive_since(A), liveness.is_unfit(A)), (Some(at(5)), true));
        liveness.heard(A, Incarnation(2), at(7));
        assert_eq!((liveness.alive_since(A), liveness.is_unfit(A)), (Some(at(7)), false));
        assert!(!liveness.is_known_to(A, 7));
    }

    #[test]
    fn what_is_known_of_a_leader_has_the_digest_of_what_it_leads() {
        let mut liveness = Liveness::default();
        let leads = BTreeMap::from([(G, Term(3)), (GroupId(8), Term(1))]);
        liveness.beat(A, &leads);
        liveness.leads(GroupId(9), Leadership { leader: B, term: Term(1) });
        assert_eq!(liveness.known_of(A), digest_of_leads(leads.clone()));
        assert_ne!(liveness.known_of(A), liveness.known_of(B));
        liveness.leads(G, Leadership { leader: B, term: Term(4) });
        assert_ne!(liveness.known_of(A), digest_of_leads(leads), "it must say so again");
        liveness.forget_leader(A);
        assert_eq!(liveness.known_of(A), digest_of_leads([]));
    }

    #[test]
    fn the_newest_term_wins_and_a_leader_that_no_longer_says_so_is_forgotten() {
        let mut liveness = Liveness::default();
        assert!(liveness.beat(A, &BTreeMap::from([(G, Term(3))])));
        assert!(!liveness.beat(A, &BTreeMap::from([(G, Term(3))])));
        assert!(!liveness.beat(B, &BTreeMap::from([(G, Term(2))])), "an older term");
        assert!(liveness.beat(B, &BTreeMap::from([(G, Term(4))])));
        assert_eq!(liveness.leadership(G), Some(Leadership { leader: B, term: Term(4) }));
        assert!(!liveness.beat(A, &BTreeMap::new()), "A did not lead any more");
        assert!(liveness.beat(B, &BTreeMap::new()));
        assert_eq!(liveness.leadership(G), None);
    }

    #[test]
    fn a_silent_peers_leadership_expires_and_ones_own_does_not() {
        let mut liveness = Liveness::default();
        liveness.heard(B, Incarnation(1), at(10));
        liveness.leads(G, Leadership { leader: B, term: Term(1) });
        liveness.leads(GroupId(8), Leadership { leader: A, term: Term(1) });
        assert!(!liveness.expire(at(10), A));
        assert!(liveness.expire(at(11), A));
        assert_eq!(liveness.leadership(G), None);
        assert!(liveness.leadership(GroupId(8)).is_some());
    }

    #[test]
    fn ranks_are_all_different_and_move_with_the_group() {
        let survivors = [NodeId(1), NodeId(3), NodeId(5)];
        let ranks = |group| survivors.map(|me| rank(&survivors, me, GroupId(group), Term(4)));
        assert_eq!(ranks(0), [2, 0, 1]);
        assert_eq!(ranks(1), [1, 2, 0]);
        assert_eq!(rank(&survivors, NodeId(9), G, Term(1)), 3);
    }

    #[test]
    fn what_is_known_of_a_leader_comes_to_the_digest_of_what_it_leads() {
        let (mut liveness, [g, h, i]) = (Liveness::default(), [1, 2, 3].map(GroupId));
        let digest = |leads: &[(GroupId, u64)]| {
            digest_of_leads(leads.iter().map(|(group, term)| (*group, Term(*term))))
        };
        let known = |liveness: &Liveness| [A, B].map(|node| liveness.known_of(node));
        let leads =
            |leads: &[(GroupId, u64)]| leads.iter().map(|(group, term)| (*group, Term(*term))).collect();
        assert_eq!(known(&liveness), [0, 0]);
        assert!(liveness.beat(A, &leads(&[(g, 1), (h, 2)])));
        assert!(!liveness.beat(A, &leads(&[(g, 1), (h, 2)])));
        assert_eq!(known(&liveness), [digest(&[(g, 1), (h, 2)]), 0]);
        assert!(liveness.beat(B, &leads(&[(h, 3), (i, 1)])));
        assert_eq!(known(&liveness), [digest(&[(g, 1)]), digest(&[(h, 3), (i, 1)])]);
        assert!(!liveness.leads_not(h, B, Term(2)));
        assert!(liveness.leads_not(h, B, Term(3)));
        assert_eq!(known(&liveness), [digest(&[(g, 1)]), digest(&[(i, 1)])]);
        liveness.heard(B, Incarnation(1), Moment(Duration::from_millis(9)));
        assert!(liveness.expire(Moment(Duration::from_millis(9)), NodeId(9)));
        assert!(!liveness.expire(Moment(Duration::from_millis(9)), NodeId(9)));
        assert_eq!(known(&liveness), [0, digest(&[(i, 1)])]);
        assert!(liveness.forget_leader(B));
        assert!(!liveness.forget_leader(B));
        assert_eq!(known(&liveness), [0, 0]);
    }
}
