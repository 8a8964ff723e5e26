//! Who belongs to a group, and the way from one membership to another.
//!
//! A membership changes by entries of the group's log, one at a time: each is decided by [`next_step`] from what is
//! committed and what is wanted, so that whoever leads can go on where another one stopped, in the middle of a joint
//! configuration as well (Raft §6). A member is a node and its disk: another disk under the same node id is another
//! member, and the old one is out before the new one is in, so that no configuration knows both.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::FutureExt;
use openraft::errors::RaftError;
use openraft::{EntryPayload, Precondition};
use openraft_rt::WatchReceiver;
use quorate_proto::ids::{Identity, LogIndex, NodeId, Term};
use thiserror::Error;

use super::group::Group;
use super::types::{
    CommittedLeaderId, Disk, RaftMembership, log_id_from_raft, log_id_to_raft, members_of, node_from_raft,
    node_to_raft,
};
use crate::env::Mark;
use crate::storage::LogId;

/// So few entries are little, whatever they take.
pub(super) const HARDLY_ANY: u64 = 10;

/// The members of a group, as one membership entry of its log names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupConfig {
    /// One set of voters; while the group passes from the first to the second, two: then nothing is decided without a
    /// majority of each.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// All members, learners too, with the disks that they had when they became members.
    pub disks: BTreeMap<NodeId, Identity>,
}

/// Who the members of a group are to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Who has a vote.
    pub voters: BTreeMap<NodeId, Identity>,
    /// Who follows without one. None of them is among `voters`.
    pub learners: BTreeMap<NodeId, Identity>,
}

/// What a leader does next to bring its group from one membership to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the members are those that are wanted.
    Done,
    /// Nothing yet: these have to be near the end of the log, and to be heard, before the group can depend on them.
    Wait(BTreeSet<NodeId>),
    /// To append this membership.
    Append(GroupConfig),
    /// To let one of these lead, who are near the end of the log: the leader has no place in what comes next.
    HandOver(BTreeSet<NodeId>),
}

/// The newest membership in a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenConfig {
    /// Its members.
    pub config: GroupConfig,
    /// Where it lies; `None` while the log holds none.
    pub at: Option<LogId>,
    /// Whether it is committed. Until then there is no further change.
    pub is_committed: bool,
}

/// A membership was not appended, or it is not known whether it was: look at the group again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the membership was not changed: {0}")]
pub struct NotChanged(String);

impl Wanted {
    /// Whether this disk of this node is to be a member.
    fn has(&self, node: NodeId, disk: Identity) -> bool {
        self.disk(node) == Some(disk)
    }

    fn disk(&self, node: NodeId) -> Option<Identity> {
        self.voters.get(&node).or_else(|| self.learners.get(&node)).copied()
    }
}

impl GroupConfig {
    /// All who have a vote, in the old or in the new set.
    pub fn all_voters(&self) -> BTreeSet<NodeId> {
        self.voters.iter().flatten().copied().collect()
    }

    /// Whether these are exactly the wanted members.
    pub fn is(&self, wanted: &Wanted) -> bool {
        let [voters] = &self.voters[..] else { return false };
        let all = wanted.voters.iter().chain(&wanted.learners);
        voters.iter().eq(wanted.voters.keys())
            && self.disks == all.map(|(node, disk)| (*node, *disk)).collect::<BTreeMap<_, _>>()
    }

    /// With one set of voters, and of the others those who are wanted.
    fn settled(&self, voters: &BTreeSet<NodeId>, wanted: &Wanted) -> Self {
        let stays = |(node, disk): &(&NodeId, &Identity)| voters.contains(node) || wanted.has(**node, **disk);
        Self {
            voters: vec![voters.clone()],
            disks: self.disks.iter().filter(stays).map(|(node, disk)| (*node, *disk)).collect(),
        }
    }
}

/// What the leader `me` of a group does next. `now` is committed. `near`: the members whose logs have nearly reached
/// the leader's, and who were heard lately.
///
/// The steps follow each other as openraft's rule for single entries demands: two sets of voters that differ by one
/// node, or two memberships that share a set.
pub fn next_step(now: &GroupConfig, wanted: &Wanted, me: NodeId, near: &BTreeSet<NodeId>) -> Step {
    if wanted.voters.is_empty() || now.voters.is_empty() {
        return Step::Done;
    }
    let is_near = |node: &NodeId| *node == me || near.contains(node);
    let can_commit =
        |voters: &BTreeSet<NodeId>| voters.iter().filter(|voter| is_near(voter)).count() * 2 > voters.len();
    // Who leads must be one of those who come next.
    let to = |next: GroupConfig| {
        let [voters] = &next.voters[..] else { return Step::Append(next) };
        if voters.contains(&me) {
            return Step::Append(next);
        }
        let heirs: BTreeSet<NodeId> = voters.iter().filter(|voter| near.contains(voter)).copied().collect();
        if heirs.is_empty() { Step::Wait(voters.clone()) } else { Step::HandOver(heirs) }
    };
    let [voters] = &now.voters[..] else {
        // Somebody has begun this. On to the new set; back to the old one if the new one cannot go on.
        let mut sets = now.voters.iter().rev();
        let next = sets.find(|voters| can_commit(voters));
        return match next {
            Some(voters) => to(now.settled(voters, wanted)),
            None => Step::Wait(now.all_voters().into_iter().filter(|voter| !is_near(voter)).collect()),
        };
    };

    // A disk that was replaced is out before anything else: it will not come back, and its place is needed. One voter
    // at a time.
    let replaced = |node: &NodeId| {
        let here = now.disks.get(node);
        wanted.disk(*node).is_some_and(|disk| here.is_some_and(|here| *here != disk))
    };
    let gone = voters.iter().copied().find(replaced);
    let gone_learners: Vec<NodeId> =
        now.disks.keys().filter(|node| !voters.contains(node) && replaced(node)).copied().collect();
    if gone.is_some() || !gone_learners.is_empty() {
        let left: BTreeSet<NodeId> = voters.iter().copied().filter(|voter| Some(*voter) != gone).collect();
        if left.is_empty() {
            return Step::Wait(voters.clone());
        }
        let mut disks = now.disks.clone();
        disks.retain(|node, _| Some(*node) != gone && !gone_learners.contains(node));
        return to(GroupConfig { voters: vec![left], disks });
    }

    // Who is to be a member follows first.
    let all = || wanted.voters.iter().chain(&wanted.learners);
    if all().any(|(node, _)| !now.disks.contains_key(node)) {
        let mut disks = now.disks.clone();
        disks.extend(all().map(|(node, disk)| (*node, *disk)));
        return Step::Append(GroupConfig { voters: now.voters.clone(), disks });
    }
    let target: BTreeSet<NodeId> = wanted.voters.keys().copied().collect();
    if *voters != target {
        let behind: BTreeSet<NodeId> =
            target.iter().filter(|node| !voters.contains(node) && !is_near(node)).copied().collect();
        if !behind.is_empty() {
            return Step::Wait(behind);
        }
        if !can_commit(&target) {
            return Step::Wait(target.into_iter().filter(|node| !is_near(node)).collect());
        }
        if voters.symmetric_difference(&target).count() == 1 {
            return to(now.settled(&target, wanted));
        }
        return Step::Append(GroupConfig { voters: vec![voters.clone(), target], disks: now.disks.clone() });
    }
    let settled = now.settled(voters, wanted);
    if settled == *now { Step::Done } else { Step::Append(settled) }
}

pub(super) fn config_of(membership: &RaftMembership) -> GroupConfig {
    let set = |ids: &BTreeSet<u64>| ids.iter().map(|id| node_from_raft(*id)).collect();
    GroupConfig {
        voters: membership.get_joint_config().iter().map(set).collect(),
        disks: members_of(membership).map(|member| (member.node, member.identity)).collect(),
    }
}

impl Group {
    /// The newest membership in the log, committed or not.
    pub fn seen_config(&self) -> SeenConfig {
        let metrics = self.0.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let (newest, committed) = (&metrics.membership_config, &metrics.committed_membership_config);
        SeenConfig {
            config: config_of(newest.membership()),
            at: newest.log_id().as_ref().map(log_id_from_raft),
            is_committed: newest.log_id() == committed.log_id(),
        }
    }

    /// The newest membership that is known here to be committed; without members if none is.
    pub fn committed_config(&self) -> GroupConfig {
        let metrics = self.0.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        config_of(metrics.committed_membership_config.membership())
    }

    /// Where the newest membership in the log lies; `None` while the log holds none.
    pub fn config_at(&self) -> Option<LogId> {
        let metrics = self.0.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        metrics.membership_config.log_id().as_ref().map(log_id_from_raft)
    }

    /// The members whose logs lack little of what is applied here: at most `entries_max` entries, which take at most
    /// `bytes_max`, or hardly any. Nobody if this node does not lead. What is on its way to all of them does not count:
    /// under load there is always some.
    pub fn near(&self, entries_max: u64, bytes_max: u64) -> BTreeSet<NodeId> {
        let last = self.applied().map_or(0, |at| at.index.0);
        let held = {
            let metrics = self.0.raft.metrics();
            let metrics = metrics.borrow_watched();
            let Some(replication) = &metrics.replication else { return BTreeSet::new() };
            let held = replication
                .iter()
                .filter_map(|(node, matched)| Some((node_from_raft(*node), matched.as_ref()?.index)));
            held.collect::<Vec<_>>()
        };
        let log = self.log();
        let is_near = |held: u64| {
            let missing = last.saturating_sub(held);
            if missing > entries_max || missing <= HARDLY_ANY || bytes_max == u64::MAX {
                return missing <= entries_max;
            }
            let next = LogIndex(held + 1);
            let heads = log.recent_heads(next);
            // What is not in memory any more is not new.
            let bytes = heads.iter().map(|head| u64::from(head.body_bytes)).sum::<u64>();
            heads.first().is_some_and(|head| head.index == next) && bytes <= bytes_max
        };
        held.into_iter().filter(|(_, held)| is_near(*held)).map(|(node, _)| node).collect()
    }

    /// Appends a membership, if this node leads in `term` and the newest one is still `seen`, which is committed. On return it is committed and
    /// applied here. Dropping the future leaves it open whether it will be.
    ///
    /// # Errors
    /// [`NotChanged`]: this node does not lead any more, somebody else has changed the membership, the step is not
    /// possible from there, or the time is up.
    pub async fn change_members(
        &self,
        term: Term,
        seen: &SeenConfig,
        next: &GroupConfig,
        timeout: Duration,
    ) -> Result<(), NotChanged> {
        let voters = next.voters.iter().map(|set| set.iter().copied().map(node_to_raft).collect()).collect();
        let disks: BTreeMap<u64, Disk> =
            next.disks.iter().map(|(node, disk)| (node_to_raft(*node), Disk(*disk))).collect();
        let membership = RaftMembership::new(voters, disks).map_err(|error| NotChanged(error.to_string()))?;
        let unchanged =
            Precondition::LastMembershipLogId { last_membership_log_id: seen.at.map(log_id_to_raft) };
        let leads = Precondition::CommittedLeaderId { committed_leader_id: CommittedLeaderId::new(term.0) };
        // A leader whose group is quiet has no lease.
        self.wake(Mark::WokenByProposal).await;
        let append = self.0.raft.append_membership(membership, EntryPayload::Blank, [leads, unchanged]);
        let appended = self.0.env.timeout(timeout, self.0.scope.enter(append).boxed()).await;
        match appended {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(error))) => Err(NotChanged(error.to_string())),
            Ok(Err(RaftError::Fatal(error))) => Err(NotChanged(error.to_string())),
            Err(_) => Err(NotChanged("no majority of the members answered in time".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EPOCHS: u8 = 3;

    /// Disk `epoch` of a node.
    fn disk(node: u32, epoch: u8) -> Identity {
        Identity::from_random([u8::try_from(node).unwrap() * EPOCHS + epoch; 16])
    }

    /// `1,2,3` or `1,2,3'` with another disk of node 3.
    fn disks(list: &str) -> BTreeMap<NodeId, Identity> {
        let one = |word: &str| {
            let node: u32 = word.trim_end_matches('\'').parse().unwrap();
            (NodeId(node), disk(node, u8::from(word.ends_with('\''))))
        };
        list.split(',').filter(|word| !word.is_empty()).map(one).collect()
    }

    fn nodes(list: &str) -> BTreeSet<NodeId> {
        disks(list).into_keys().collect()
    }

    fn wanted(voters: &str, learners: &str) -> Wanted {
        Wanted { voters: disks(voters), learners: disks(learners) }
    }

    /// `voters[;voters]|learners`.
    fn config(text: &str) -> GroupConfig {
        let (voters, learners) = text.split_once('|').unwrap_or((text, ""));
        let mut all = disks(learners);
        let sets = voters.split(';').map(|set| {
            all.extend(disks(set));
            nodes(set)
        });
        let voters = sets.collect();
        GroupConfig { voters, disks: all }
    }

    fn check(now: &str, to: &Wanted, me: u32, near: &str, expected: &Step) {
        assert_eq!(
            next_step(&config(now), to, NodeId(me), &nodes(near)),
            *expected,
            "{now}, node {me} leads"
        );
    }

    #[test]
    fn a_group_that_is_as_wanted_is_left_alone() {
        check("1,2,3", &wanted("1,2,3", ""), 1, "", &Step::Done);
        check("1,2,3|4", &wanted("1,2,3", "4"), 1, "", &Step::Done);
        check("1,2,3", &Wanted::default(), 1, "2,3", &Step::Done);
    }

    #[test]
    fn a_move_adds_waits_and_changes_both_at_once() {
        let to = wanted("1,2,4", "");
        check("1,2,3", &to, 1, "2,3", &Step::Append(config("1,2,3|4")));
        check("1,2,3|4", &to, 1, "2,3", &Step::Wait(nodes("4")));
        check("1,2,3|4", &to, 1, "2,3,4", &Step::Append(config("1,2,3;1,2,4")));
        check("1,2,3;1,2,4", &to, 1, "2,3,4", &Step::Append(config("1,2,4")));
        check("1,2,4", &to, 1, "2,4", &Step::Done);
    }

    #[test]
    fn a_replaced_disk_goes_before_its_successor_comes() {
        let to = wanted("1,2',3", "");
        check("1,2,3", &to, 1, "3", &Step::Append(config("1,3")));
        check("1,3", &to, 1, "3", &Step::Append(config("1,3|2'")));
        check("1,3|2'", &to, 1, "3", &Step::Wait(nodes("2")));
        check("1,3|2'", &to, 1, "2,3", &Step::Append(config("1,2',3")));
        // The one that was replaced leads, as if it had lived.
        check("1,2,3", &to, 2, "3", &Step::HandOver(nodes("3")));
        check("1,3|2", &to, 1, "3", &Step::Append(config("1,3")));
    }

    #[test]
    fn who_has_no_place_hands_over() {
        let to = wanted("2,3,4", "");
        check("1,2,3|4", &to, 1, "2,3,4", &Step::Append(config("1,2,3;2,3,4")));
        check("1,2,3;2,3,4", &to, 1, "2,3,4", &Step::HandOver(nodes("2,3,4")));
        check("1,2,3;2,3,4", &to, 2, "1,3,4", &Step::Append(config("2,3,4")));
        check("1,2,3", &wanted("2,3", ""), 1, "2,3", &Step::HandOver(nodes("2,3")));
        check("1,2,3", &wanted("2,3", ""), 1, "", &Step::Wait(nodes("2,3")));
    }

    #[test]
    fn a_change_that_was_begun_is_ended_one_way_or_the_other() {
        // The wish has changed meanwhile.
        check("1,2,3;1,2,4", &wanted("1,2,5", ""), 1, "2,3,4", &Step::Append(config("1,2,4")));
        // The new set has died.
        check("1,2,3;1,4,5", &wanted("1,4,5", ""), 1, "2,3", &Step::Append(config("1,2,3|4,5")));
        check("1,2,3;1,4,5", &wanted("1,4,5", ""), 1, "", &Step::Wait(nodes("2,3,4,5")));
    }

    #[test]
    fn nobody_is_let_in_or_out_who_is_needed() {
        check("1,2,3", &wanted("1,2", ""), 1, "3", &Step::Wait(nodes("2")));
        check("1,2,3", &wanted("1,2", ""), 1, "2", &Step::Append(config("1,2")));
        check("1,2|3", &wanted("1,2,3", ""), 1, "2", &Step::Wait(nodes("3")));
    }

    /// openraft's rule for a membership that is one entry.
    fn may_follow(before: &GroupConfig, after: &GroupConfig) -> bool {
        let metadata =
            after.disks.iter().all(|(node, new)| before.disks.get(node).is_none_or(|old| old == new));
        let voters = match (&before.voters[..], &after.voters[..]) {
            ([old], [new]) => old.symmetric_difference(new).count() <= 1,
            (old, new) => old.iter().any(|set| new.contains(set)),
        };
        let known = after.all_voters().iter().all(|voter| after.disks.contains_key(voter));
        metadata && voters && known && after.voters.iter().all(|set| !set.is_empty())
    }

    fn any_disks(least: usize) -> impl Strategy<Value = BTreeMap<NodeId, Identity>> {
        prop::collection::btree_map(1_u32..7, 0..EPOCHS, least..5)
            .prop_map(|map| map.into_iter().map(|(node, epoch)| (NodeId(node), disk(node, epoch))).collect())
    }

    proptest! {
        /// Wishes change at any moment; all steps are allowed, no voter is there that was not heard, and the last wish
        /// is fulfilled once everybody is near.
        #[test]
        fn every_way_is_made_of_allowed_steps_and_ends(
            first in any_disks(1),
            wishes in prop::collection::vec((any_disks(1), any_disks(0), 0_usize..6, 0_u64..128), 1..6),
        ) {
            let mut now = GroupConfig { voters: vec![first.keys().copied().collect()], disks: first };
            let mut me = *now.voters[0].first().unwrap();
            let last = wishes.len() - 1;
            for (at, (voters, learners, steps, some)) in wishes.into_iter().enumerate() {
                let learners = learners.into_iter().filter(|(node, _)| !voters.contains_key(node)).collect();
                let wanted = Wanted { voters, learners };
                let steps = if at == last { 100 } else { steps };
                for _ in 0..steps {
                    let near: BTreeSet<NodeId> = (1_u32..7)
                        .filter(|node| at == last || (some >> *node) & 1 == 1)
                        .map(NodeId)
                        .collect();
                    match next_step(&now, &wanted, me, &near) {
                        Step::Done => prop_assert!(now.is(&wanted), "{now:?} is not {wanted:?}"),
                        Step::Wait(whom) => prop_assert!(
                            at != last || now.voters[0].len() == 1,
                            "waits for {whom:?} in {now:?}"
                        ),
                        Step::Append(next) => {
                            prop_assert!(may_follow(&now, &next), "{next:?} after {now:?}");
                            let new = next.all_voters();
                            let new = new.difference(&now.all_voters()).copied().collect::<BTreeSet<_>>();
                            prop_assert!(new.is_subset(&near), "{new:?} were not near");
                            prop_assert!(next.voters.iter().any(|set| set.contains(&me)));
                            now = next;
                        }
                        Step::HandOver(heirs) => {
                            prop_assert!(heirs.is_subset(&now.all_voters()) && !heirs.contains(&me));
                            me = *heirs.first().unwrap();
                        }
                    }
                }
                // A single voter whose disk was replaced has nobody who knows what it knew.
                let alone = now.voters.len() == 1 && now.voters[0].len() == 1;
                prop_assert!(at != last || alone || now.is(&wanted), "{now:?} is not {wanted:?}");
            }
        }
    }
}
