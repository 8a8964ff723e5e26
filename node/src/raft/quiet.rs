//! Which groups are quiet: nothing happens in them, and the beats between nodes stand for their heartbeats. Pure: told
//! what happened, it says what follows.
//!
//! A leader asks its followers, once, whether they hold what it holds; those that agree wait for it no longer by its
//! heartbeats but by its node's beats. Each beat carries a digest of all that the two have agreed on: if the receiver
//! finds another one, the next beat lists it whole. So nothing that is lost, late or forgotten lets the two differ for
//! long, and nothing but an election too many, or one too late, comes of a difference: what is quiet decides no vote
//! that counts and acknowledges nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use quorate_proto::ids::{GroupId, LogIndex, NodeId, Term};

use crate::env::Moment;

/// A group in which nothing happens, as its leader has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rest {
    pub(super) group: GroupId,
    /// The leader's, in which it made the last entry.
    pub(super) term: Term,
    /// Of the last entry: it is committed and applied, and there is none behind it.
    pub(super) last: LogIndex,
}

/// What a leader does for a group when a heartbeat is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It beats.
    Beat,
    /// Its followers are asked to be quiet from now on.
    Ask,
    /// They were asked, or are quiet.
    Quiet,
    /// A follower does not answer or has come back, or too many were lost: it beats again.
    Wake,
}

/// What a beat to a peer says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// In order of the groups.
    pub(super) asked: Vec<Rest>,
    /// Nothing else is quiet between the two.
    pub(super) whole: bool,
    /// Of what is quiet between the two, without `asked`.
    pub(super) digest: u64,
}

/// What comes of an answer to a beat.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    /// All followers have agreed by now.
    pub(super) quiet: Vec<GroupId>,
    /// The peer did not agree: the leader beats again.
    pub(super) woken: Vec<GroupId>,
}

/// What comes of a beat of a node that leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Those of the groups asked for that are quiet from now on.
    pub(super) agreed: Vec<GroupId>,
    /// The two differ in the others.
    pub(super) differs: bool,
    /// Not quiet behind that node any more.
    pub(super) ended: Vec<Ended>,
}

/// A group that this node follows was quiet, and is not any more: who waits for its leader goes on from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) group: GroupId,
    /// Behind whom it was quiet, and in which term.
    pub(super) leader: NodeId,
    pub(super) term: Term,
    /// When that node last said so.
    pub(super) kept: Moment,
}

/// A group that this node leads.
#[derive(Debug)]
struct Led {
    rest: Rest,
    /// Since when nothing has happened.
    since: Moment,
    /// A heartbeat has gone out since then: the followers have heard all that rides on heartbeats.
    beaten: bool,
    asked: Option<Asked>,
    /// It went without heartbeats, and no majority was asked since whether it still leads: that its lease lives is not
    /// known, though it may beat again.
    unsure: bool,
}

impl Led {
    fn new(rest: Rest, since: Moment) -> Self {
        Self { rest, since, beaten: false, asked: None, unsure: false }
    }
}

#[derive(Debug)]
struct Asked {
    at: Moment,
    /// The other members that live, and whether each has agreed.
    peers: BTreeMap<NodeId, bool>,
    /// Some have died since: those that are left may be too few.
    fewer: bool,
}

impl Asked {
    /// Whether all of these have agreed.
    fn have_agreed(&self, peers: &BTreeSet<NodeId>) -> bool {
        peers.iter().all(|peer| self.peers.get(peer) == Some(&true))
    }
}

/// The groups that are quiet behind one leader's node.
#[derive(Debug, Default)]
struct Behind {
    groups: BTreeMap<GroupId, Rest>,
    /// When it last said so.
    kept: Moment,
    /// Their digest, unless they have changed.
    digest: Option<u64>,
}

impl Behind {
    fn ended(&self, leader: NodeId, rest: Rest) -> Ended {
        Ended { group: rest.group, leader, term: rest.term, kept: self.kept }
    }
}

/// What is quiet, of what this node leads and of what it follows.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    led: BTreeMap<GroupId, Led>,
    /// Peers that take other groups for quiet than this node does.
    differ: BTreeSet<NodeId>,
    followed: BTreeMap<NodeId, Behind>,
    /// How often something may have become quiet, or ceased to be.
    changes: u64,
    /// The digest of what is quiet with each peer, after so many changes: it is said ten times a second.
    said: BTreeMap<NodeId, (u64, u64)>,
}

impl Quiet {
    /// To be asked for each group that this node leads whenever a heartbeat is due. `live`: the other members that are
    /// heard. `settled` says whether they hold all that this node holds, and can decide without the others.
    /// After `idle` without an entry they are asked, and have until `patience` is over. One that is lost wakes nobody, if
    /// the others are enough: else all that the others lead would wake when a node dies, when there is most to do.
    pub(super) fn step(
        &mut self,
        rest: Rest,
        now: Moment,
        live: &BTreeSet<NodeId>,
        (idle, patience): (Duration, Duration),
        settled: impl FnOnce() -> bool,
    ) -> Step {
        let led = self.led.entry(rest.group).or_insert(Led::new(rest, now));
        if led.rest != rest {
            // Nobody makes entries without a lease.
            *led = Led::new(rest, now);
            self.changes += 1;
        }
        if let Some(asked) = &mut led.asked {
            let late = asked.peers.values().any(|agreed| !agreed) && now >= asked.at + patience;
            let same = !asked.fewer && asked.peers.keys().eq(live);
            if same && !late {
                return Step::Quiet;
            }
            self.changes += 1;
            if !same && asked.have_agreed(live) && settled() {
                asked.peers.retain(|peer, _| live.contains(peer));
                asked.fewer = false;
                return Step::Quiet;
            }
            (led.asked, led.since, led.beaten) = (None, now, true);
            return Step::Wake;
        }
        if !std::mem::replace(&mut led.beaten, true) || now < led.since + idle || !settled() {
            return Step::Beat;
        }
        self.changes += 1;
        let peers = live.iter().map(|peer| (*peer, false)).collect();
        (led.asked, led.unsure) = (Some(Asked { at: now, peers, fewer: false }), true);
        Step::Ask
    }

    /// Whether this node leads the group and has gone without heartbeats since a majority was last asked.
    pub(super) fn leads(&self, group: GroupId) -> bool {
        self.led.get(&group).is_some_and(|led| led.unsure)
    }

    /// A group that this node leads beats again, until nothing has happened for a while. Whether it was quiet.
    pub(super) fn beats_again(&mut self, group: GroupId, now: Moment) -> bool {
        let Some(led) = self.led.get_mut(&group) else { return false };
        (led.since, led.beaten) = (now, false);
        let was_quiet = led.asked.take().is_some();
        self.changes += u64::from(was_quiet);
        was_quiet
    }

    /// The same, once a majority was asked because something happens in it.
    pub(super) fn wake(&mut self, group: GroupId, now: Moment) -> bool {
        if let Some(led) = self.led.get_mut(&group) {
            led.unsure = false;
        }
        self.beats_again(group, now)
    }

    /// The group has stopped on this node.
    pub(super) fn forget(&mut self, group: GroupId) {
        self.leads_not(group);
        self.stirred(group);
    }

    /// This node does not lead the group any more.
    pub(super) fn leads_not(&mut self, group: GroupId) {
        self.changes += u64::from(self.led.remove(&group).is_some());
    }

    /// What the next beat to a peer is to say.
    pub(super) fn say(&mut self, peer: NodeId) -> Said {
        let mut said = Said { whole: self.differ.remove(&peer), ..Said::default() };
        if !said.whole
            && let Some((_, digest)) = self.said.get(&peer).filter(|(changes, _)| *changes == self.changes)
        {
            return Said { digest: *digest, ..said };
        }
        for led in self.led.values() {
            match led.asked.as_ref().and_then(|asked| asked.peers.get(&peer)) {
                Some(true) if !said.whole => said.digest = said.digest.wrapping_add(digest(led.rest)),
                Some(_) => said.asked.push(led.rest),
                None => {}
            }
        }
        if said.asked.is_empty() && !said.whole {
            self.said.insert(peer, (self.changes, said.digest));
        }
        said
    }

    /// The digest that the next beat to a peer is to say, if it is to say no more than that.
    pub(super) fn brief(&mut self, peer: NodeId) -> Option<u64> {
        if self.differ.contains(&peer) {
            return None;
        }
        let said = self.say(peer);
        said.asked.is_empty().then_some(said.digest)
    }

    /// A peer has answered what it was told.
    pub(super) fn answered(
        &mut self,
        peer: NodeId,
        said: &Said,
        agreed: &BTreeSet<GroupId>,
        differs: bool,
        now: Moment,
    ) -> Settled {
        if differs {
            self.differ.insert(peer);
        }
        let mut settled = Settled::default();
        self.changes += u64::from(!said.asked.is_empty());
        for rest in &said.asked {
            let Some(led) = self.led.get_mut(&rest.group).filter(|led| led.rest == *rest) else { continue };
            let Some(asked) = &mut led.asked else { continue };
            let Some(known) = asked.peers.get_mut(&peer) else { continue };
            if !agreed.contains(&rest.group) {
                (led.asked, led.since, led.beaten) = (None, now, false);
                settled.woken.push(rest.group);
            } else if !std::mem::replace(known, true) && asked.peers.values().all(|agreed| *agreed) {
                settled.quiet.push(rest.group);
            }
        }
        settled
    }

    /// A beat to a peer was not answered: it may have taken in what it was told, or not.
    pub(super) fn unanswered(&mut self, peer: NodeId, said: &Said) {
        if said.whole {
            self.differ.insert(peer);
        }
    }

    /// A beat of a node that leads has come. `held`: those asked for that this node holds as the leader does.
    pub(super) fn told(
        &mut self,
        leader: NodeId,
        said: &Said,
        held: &BTreeSet<GroupId>,
        now: Moment,
    ) -> Told {
        self.changes += u64::from(said.whole || !said.asked.is_empty());
        let behind = self.followed.entry(leader).or_default();
        // By what was said before this beat: it says of none of them that it is led on.
        let mut ended = Vec::new();
        for rest in &said.asked {
            if let Some(rest) = behind.groups.remove(&rest.group) {
                ended.push(behind.ended(leader, rest));
            }
        }
        if said.whole {
            let groups = std::mem::take(&mut behind.groups);
            ended.extend(groups.into_values().map(|rest| behind.ended(leader, rest)));
        }
        if said.whole || !said.asked.is_empty() {
            behind.digest = None;
        }
        let digests = || behind.groups.values().fold(0_u64, |sum, rest| sum.wrapping_add(digest(*rest)));
        let known = behind.digest.unwrap_or_else(digests);
        let differs = known != said.digest;
        behind.digest = said.asked.is_empty().then_some(known);
        if !differs {
            behind.kept = now;
        }
        let agreed = said.asked.iter().filter(|rest| held.contains(&rest.group));
        behind.groups.extend(agreed.clone().map(|rest| (rest.group, *rest)));
        let agreed = agreed.map(|rest| rest.group).collect();
        ended.retain(|ended| !behind.groups.contains_key(&ended.group));
        // What is quiet behind another node by its word, and behind this one by a newer word, is so once.
        for (_, behind) in self.followed.iter_mut().filter(|(node, _)| **node != leader && !held.is_empty()) {
            behind.digest = None;
            behind.groups.retain(|group, _| !held.contains(group));
        }
        Told { agreed, differs, ended }
    }

    /// A group that this node follows is not quiet any more. `None` if it was not.
    pub(super) fn stirred(&mut self, group: GroupId) -> Option<Ended> {
        let mut ended = None;
        for (leader, behind) in &mut self.followed {
            if let Some(rest) = behind.groups.remove(&group) {
                (behind.digest, ended) = (None, Some(behind.ended(*leader, rest)));
            }
        }
        self.changes += u64::from(ended.is_some());
        ended
    }

    /// When the leader of `term` last said that the group is quiet; `None` if it is not.
    pub(super) fn kept(&self, group: GroupId, leader: NodeId, term: Term) -> Option<Moment> {
        let behind = self.followed.get(&leader)?;
        behind.groups.get(&group).filter(|rest| rest.term == term).map(|_| behind.kept)
    }

    /// With what else [`Quiet::resting`] is another: how often it may have changed, and the leaders that have spoken since.
    pub(super) fn state(&self, since: Moment) -> (u64, Vec<NodeId>) {
        let fresh = self.followed.iter().filter(|(_, behind)| behind.kept >= since);
        (self.changes, fresh.map(|(leader, _)| *leader).collect())
    }

    /// The groups that need nothing done while these peers are heard, and no others: those that are quiet behind a leader
    /// that has said so since then, and those that this node leads whose followers have all agreed.
    pub(super) fn resting(&self, since: Moment) -> impl Iterator<Item = GroupId> {
        let behind = self.followed.values().filter(move |behind| behind.kept >= since);
        let followed = behind.flat_map(|behind| behind.groups.keys());
        let agreed = |asked: &Asked| !asked.fewer && asked.peers.values().all(|agreed| *agreed);
        let led = self.led.iter().filter(move |(_, led)| led.asked.as_ref().is_some_and(agreed));
        followed.chain(led.map(|(group, _)| group)).copied()
    }

    /// A peer's process is no more: nothing is quiet with it. Gives what was quiet behind it.
    pub(super) fn died(&mut self, peer: NodeId) -> Vec<Ended> {
        let behind = self.followed.remove(&peer);
        self.differ.remove(&peer);
        self.changes += 1;
        for asked in self.led.values_mut().filter_map(|led| led.asked.as_mut()) {
            asked.fewer |= asked.peers.remove(&peer).is_some();
        }
        match behind {
            Some(behind) => behind.groups.values().map(|rest| behind.ended(peer, *rest)).collect(),
            None => Vec::new(),
        }
    }

    /// How many groups are quiet: of those that this node leads, and of those that it follows.
    pub(super) fn count(&self) -> (usize, usize) {
        let quiet =
            |led: &&Led| led.asked.as_ref().is_some_and(|asked| asked.peers.values().all(|agreed| *agreed));
        let followed = self.followed.values().map(|behind| behind.groups.len()).sum();
        (self.led.values().filter(quiet).count(), followed)
    }
}

fn digest(rest: Rest) -> u64 {
    digest_of([rest.group.0, rest.term.0, rest.last.0])
}

/// A sum of these tells sets of such words apart: by chance, not where somebody means to deceive.
pub(super) fn digest_of(words: [u64; 3]) -> u64 {
    words.into_iter().fold(0, |sum, word| mixed(sum ^ word))
}

/// The finalizer of SplitMix64 (Steele et al., OOPSLA 2014).
fn mixed(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const L: NodeId = NodeId(1);
    const A: NodeId = NodeId(2);
    const B: NodeId = NodeId(3);
    const G: GroupId = GroupId(7);
    const H: GroupId = GroupId(8);
    const TIMES: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(400));

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    fn rest(group: GroupId, last: u64) -> Rest {
        Rest { group, term: Term(3), last: LogIndex(last) }
    }

    fn step(quiet: &mut Quiet, group: GroupId, last: u64, ms: u64, live: &[NodeId]) -> Step {
        quiet.step(rest(group, last), at(ms), &live.iter().copied().collect(), TIMES, || true)
    }

    fn groups(ids: &[GroupId]) -> BTreeSet<GroupId> {
        ids.iter().copied().collect()
    }

    /// One beat from the leader to a follower that holds `held`, and its answer.
    fn exchange(
        leader: &mut Quiet,
        (peer, follower): (NodeId, &mut Quiet),
        held: &[GroupId],
        ms: u64,
    ) -> Settled {
        let said = leader.say(peer);
        let told = follower.told(L, &said, &groups(held), at(ms));
        leader.answered(peer, &said, &groups(&told.agreed), told.differs, at(ms))
    }

    /// What G's leader said last in its term 3, at `ms`.
    fn ended(ms: u64) -> Ended {
        Ended { group: G, leader: L, term: Term(3), kept: at(ms) }
    }

    /// A leader whose one group is quiet with A and B, since 300 ms.
    fn quiet() -> (Quiet, Quiet, Quiet) {
        let (mut leader, mut a, mut b) = (Quiet::default(), Quiet::default(), Quiet::default());
        assert_eq!(step(&mut leader, G, 9, 0, &[A, B]), Step::Beat);
        assert_eq!(step(&mut leader, G, 9, 300, &[A, B]), Step::Ask);
        assert_eq!(exchange(&mut leader, (A, &mut a), &[G], 300), Settled::default());
        let settled = exchange(&mut leader, (B, &mut b), &[G], 300);
        assert_eq!(settled, Settled { quiet: vec![G], woken: vec![] });
        (leader, a, b)
    }

    #[test]
    fn a_group_is_quiet_once_all_who_live_hold_what_the_leader_holds() {
        let (mut leader, mut a, b) = quiet();
        assert_eq!(leader.count(), (1, 0));
        assert_eq!((a.count(), b.count()), ((0, 1), (0, 1)));
        assert!(leader.leads(G));
        assert_eq!(step(&mut leader, G, 9, 400, &[A, B]), Step::Quiet);
        assert_eq!(a.kept(G, L, Term(3)), Some(at(300)));
        assert_eq!(exchange(&mut leader, (A, &mut a), &[], 500), Settled::default());
        assert_eq!(a.kept(G, L, Term(3)), Some(at(500)), "the beat stands for a heartbeat");
        assert_eq!(a.kept(G, L, Term(4)), None, "another term's leader has not said so");
        assert_eq!(a.kept(G, B, Term(3)), None);
    }

    #[test]
    fn a_digest_is_as_good_as_a_beat_unless_there_is_more_to_say() {
        let (mut leader, mut a, _) = quiet();
        let digest = leader.brief(A).unwrap();
        let said = Said { digest, ..Said::default() };
        assert_eq!(leader.say(A), said);
        assert!(!a.told(L, &said, &groups(&[]), at(400)).differs);
        assert_eq!(a.kept(G, L, Term(3)), Some(at(400)));
        a.stirred(G);
        assert!(a.told(L, &said, &groups(&[]), at(500)).differs);
        assert_eq!(exchange(&mut leader, (A, &mut a), &[G], 600), Settled::default());
        assert_eq!(leader.brief(A), None, "all of it must be said");
        exchange(&mut leader, (A, &mut a), &[G], 700);
        assert_eq!(leader.brief(A), Some(digest));
        assert_eq!(step(&mut leader, H, 1, 700, &[A, B]), Step::Beat);
        assert_eq!(step(&mut leader, H, 1, 1_000, &[A, B]), Step::Ask);
        assert_eq!(leader.brief(A), None, "one more is asked for");
        exchange(&mut leader, (A, &mut a), &[H], 1_000);
        assert!(leader.brief(A).is_some_and(|other| other != digest));
    }

    #[test]
    fn what_is_quiet_rests_on_both_sides_until_something_is_missed() {
        let (mut leader, mut a, _) = quiet();
        let rests = |quiet: &Quiet, ms| quiet.resting(at(ms)).collect::<Vec<_>>();
        assert_eq!((rests(&leader, 500), rests(&a, 300)), (vec![G], vec![G]));
        assert_eq!(rests(&a, 301), vec![], "its leader's beats are missed");
        assert_eq!(exchange(&mut leader, (A, &mut a), &[], 400), Settled::default());
        assert_eq!(rests(&a, 400), vec![G]);
        assert_eq!(a.stirred(G), Some(ended(400)));
        assert_eq!(rests(&a, 400), vec![]);
        leader.died(B);
        assert_eq!(rests(&leader, 500), vec![], "those that are left may be too few");
        assert_eq!(step(&mut leader, G, 9, 500, &[A]), Step::Quiet);
        assert_eq!(rests(&leader, 500), vec![G]);
        assert!(leader.beats_again(G, at(500)));
        assert_eq!(rests(&leader, 500), vec![]);
    }

    #[test]
    fn who_has_not_agreed_yet_is_looked_after() {
        let mut leader = Quiet::default();
        assert_eq!(step(&mut leader, G, 9, 0, &[A, B]), Step::Beat);
        assert_eq!(leader.resting(at(0)).count(), 0);
        assert_eq!(step(&mut leader, G, 9, 300, &[A, B]), Step::Ask);
        assert_eq!(leader.resting(at(0)).count(), 0);
    }

    #[test]
    fn a_new_entry_wakes_it_and_it_waits_anew() {
        let (mut leader, ..) = quiet();
        assert_eq!(step(&mut leader, G, 10, 400, &[A, B]), Step::Beat);
        assert!(!leader.leads(G));
        assert_eq!(step(&mut leader, G, 10, 600, &[A, B]), Step::Beat);
        assert_eq!(step(&mut leader, G, 10, 700, &[A, B]), Step::Ask);
    }

    #[test]
    fn a_heartbeat_goes_out_before_it_rests_however_seldom_they_are() {
        let (mut leader, ..) = quiet();
        assert!(leader.beats_again(G, at(400)));
        assert!(leader.leads(G), "nobody was asked");
        assert_eq!(step(&mut leader, G, 9, 900, &[A, B]), Step::Beat);
        assert_eq!(step(&mut leader, G, 9, 1_400, &[A, B]), Step::Ask);
        assert_eq!(step(&mut leader, G, 10, 1_900, &[A, B]), Step::Beat);
        assert_eq!(step(&mut leader, G, 10, 2_400, &[A, B]), Step::Ask);
    }

    #[test]
    fn nothing_is_asked_before_the_others_hold_all() {
        let mut leader = Quiet::default();
        let live = [A, B].into();
        for ms in [0, 300, 900] {
            assert_eq!(leader.step(rest(G, 9), at(ms), &live, TIMES, || false), Step::Beat);
        }
    }

    #[test]
    fn a_follower_that_holds_something_else_keeps_it_awake() {
        let (mut leader, mut a) = (Quiet::default(), Quiet::default());
        step(&mut leader, G, 9, 0, &[A]);
        step(&mut leader, G, 9, 300, &[A]);
        let settled = exchange(&mut leader, (A, &mut a), &[], 300);
        assert_eq!(settled, Settled { quiet: vec![], woken: vec![G] });
        assert_eq!(a.kept(G, L, Term(3)), None);
        assert_eq!(step(&mut leader, G, 9, 500, &[A]), Step::Beat, "it is asked again later");
        assert_eq!(step(&mut leader, G, 9, 600, &[A]), Step::Ask);
    }

    #[test]
    fn who_does_not_answer_in_time_keeps_it_awake() {
        let mut leader = Quiet::default();
        step(&mut leader, G, 9, 0, &[A]);
        assert_eq!(step(&mut leader, G, 9, 300, &[A]), Step::Ask);
        assert_eq!(leader.say(A).asked, [rest(G, 9)]);
        assert_eq!(leader.say(A).asked, [rest(G, 9)], "until there is an answer");
        assert_eq!(step(&mut leader, G, 9, 699, &[A]), Step::Quiet);
        assert_eq!(step(&mut leader, G, 9, 700, &[A]), Step::Wake);
    }

    #[test]
    fn a_follower_that_is_lost_wakes_nobody_and_one_that_comes_back_does() {
        let (mut leader, mut a, _) = quiet();
        assert_eq!(step(&mut leader, G, 9, 400, &[A]), Step::Quiet);
        assert!(leader.say(B).digest == 0, "nothing is quiet with the lost one");
        exchange(&mut leader, (A, &mut a), &[], 500);
        assert_eq!(a.kept(G, L, Term(3)), Some(at(500)));
        assert_eq!(step(&mut leader, G, 9, 600, &[A, B]), Step::Wake);
        // The heartbeat is on its way, and so nobody has said yet that it still leads.
        assert!(leader.leads(G));
        leader.wake(G, at(610));
        assert!(!leader.leads(G));
        assert_eq!(step(&mut leader, G, 9, 700, &[A, B]), Step::Beat);
    }

    #[test]
    fn too_few_followers_wake_it() {
        let (mut leader, ..) = quiet();
        let too_few =
            |leader: &mut Quiet, ms| leader.step(rest(G, 9), at(ms), &BTreeSet::new(), TIMES, || false);
        assert_eq!(too_few(&mut leader, 400), Step::Wake);
        let (mut leader, ..) = quiet();
        leader.died(A);
        leader.died(B);
        assert_eq!(too_few(&mut leader, 400), Step::Wake);
    }

    #[test]
    fn what_a_follower_forgets_is_told_again() {
        let (mut leader, mut a, mut b) = quiet();
        assert_eq!(a.stirred(G), Some(ended(300)));
        assert_eq!(a.stirred(G), None);
        exchange(&mut leader, (A, &mut a), &[G], 400);
        assert_eq!(a.kept(G, L, Term(3)), None, "the two differ, and know it");
        let said = leader.say(A);
        assert!(said.whole);
        assert_eq!(said.asked, [rest(G, 9)]);
        leader.unanswered(A, &said);
        let settled = exchange(&mut leader, (A, &mut a), &[G], 500);
        assert_eq!(settled, Settled::default(), "it was quiet for the leader all the time");
        assert_eq!(a.kept(G, L, Term(3)), Some(at(500)));
        exchange(&mut leader, (B, &mut b), &[], 500);
        assert!(!leader.say(B).whole, "it knew");
    }

    #[test]
    fn what_the_leader_woke_is_not_kept_by_its_beats() {
        let (mut leader, mut a, _) = quiet();
        assert!(leader.wake(G, at(400)));
        assert!(!leader.wake(G, at(400)));
        // The heartbeat that would say so is lost.
        exchange(&mut leader, (A, &mut a), &[G], 500);
        assert_eq!(a.kept(G, L, Term(3)), Some(at(300)));
        let said = leader.say(A);
        let told = a.told(L, &said, &groups(&[G]), at(600));
        assert_eq!(a.kept(G, L, Term(3)), None, "told whole, it is awake");
        let expected = Told { agreed: vec![], differs: false, ended: vec![ended(300)] };
        assert_eq!(told, expected, "its leader was heard before that beat");
        assert_eq!(a.told(L, &said, &groups(&[G]), at(700)), Told::default());
    }

    #[test]
    fn what_ceases_to_be_quiet_was_heard_when_it_was_last_kept_so() {
        let (mut leader, mut a, mut b) = quiet();
        for (peer, follower) in [(A, &mut a), (B, &mut b)] {
            assert_eq!(exchange(&mut leader, (peer, follower), &[], 500), Settled::default());
        }
        let asked = Said { asked: vec![rest(G, 10)], ..Said::default() };
        let told = a.told(L, &asked, &groups(&[]), at(600));
        assert_eq!(told, Told { agreed: vec![], differs: false, ended: vec![ended(500)] });
        assert_eq!(a.told(L, &asked, &groups(&[]), at(700)), Told::default());
        assert_eq!(a.stirred(G), None);
        // Asked again, and told whole with it: it goes on.
        for whole in [false, true] {
            let asked = Said { whole, ..asked.clone() };
            let told = b.told(L, &asked, &groups(&[G]), at(600));
            assert_eq!(told, Told { agreed: vec![G], differs: false, ended: vec![] });
        }
        assert_eq!(b.stirred(G), Some(ended(600)));
    }

    #[test]
    fn a_death_ends_what_was_quiet_with_the_dead() {
        let (mut leader, mut a, _) = quiet();
        leader.died(A);
        assert_eq!(step(&mut leader, G, 9, 400, &[B]), Step::Quiet, "the other one is enough");
        assert_eq!(step(&mut leader, G, 9, 500, &[A, B]), Step::Wake, "another process knows nothing of it");
        assert_eq!(a.died(L), [ended(300)]);
        assert_eq!(a.kept(G, L, Term(3)), None);
        assert_eq!(a.died(L), vec![]);
    }

    #[test]
    fn a_new_process_is_asked_anew_even_if_nobody_missed_the_old_one() {
        let (mut leader, ..) = quiet();
        leader.died(A);
        assert_eq!(step(&mut leader, G, 9, 400, &[A, B]), Step::Wake);
        assert_eq!(step(&mut leader, G, 9, 700, &[A, B]), Step::Ask);
        assert_eq!(leader.say(A).asked, [rest(G, 9)]);
    }

    #[test]
    fn a_new_leader_takes_over_what_was_quiet_behind_the_old_one() {
        let (.., mut b) = quiet();
        let said = Said { asked: vec![Rest { term: Term(4), ..rest(G, 10) }], ..Said::default() };
        let told = b.told(A, &said, &groups(&[G]), at(900));
        assert_eq!(told.ended, vec![], "it is quiet all the time");
        assert_eq!(b.kept(G, L, Term(3)), None);
        assert_eq!(b.kept(G, A, Term(4)), Some(at(900)));
        assert_eq!(b.count(), (0, 1));
    }

    #[test]
    fn digests_tell_groups_terms_and_ends_apart() {
        let known = [rest(G, 9), rest(H, 9), rest(G, 8), Rest { term: Term(9), ..rest(G, 3) }];
        let digests: BTreeSet<u64> = known.into_iter().map(digest).collect();
        assert_eq!(digests.len(), known.len());
    }
}
