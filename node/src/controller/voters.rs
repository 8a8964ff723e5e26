//! Who votes in the metadata group. Its leader keeps that equal to what is agreed on: up to five nodes vote, the others
//! follow; a disk that was replaced or removed goes, a place that is free is filled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::ids::{Identity, NodeId};
use tokio::sync::watch;

use super::command::Command;
use super::handle::{Controller, WeakController};
use super::members::holds_any;
use crate::env::{Env, Mark, Point};
use crate::metadata::Metadata;
use crate::raft::{GroupConfig, RaftNode, Role, Step, Wanted, next_step};

/// Most nodes that vote: a majority of more is slow to answer and no safer.
const VOTERS_MAX: usize = 5;
/// A follower that lacks at most so many entries is near enough to vote.
const NEAR_ENTRIES: u64 = 1_000;
/// How often the leader looks, while nothing happens.
const LOOK: Duration = Duration::from_millis(500);
/// How often it looks while a change is under way.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// How long one change may take before it is looked at again.
const CHANGE_TIME: Duration = Duration::from_secs(5);
/// How late a change may come, where a [`Point`] makes it so.
const LATE_MAX: Duration = Duration::from_millis(500);

/// How many of so many nodes vote: all of two, and of more an odd number, as an even one survives no more losses.
fn voters_of(nodes: usize) -> usize {
    match nodes {
        0..=2 => nodes,
        3 | 4 => 3,
        _ => VOTERS_MAX,
    }
}

/// The members that the metadata group is to have. Who votes and may stay stays; places that are free go to those who
/// were heard, the lowest id first. Who is down is not waited for: nothing else would go on meanwhile. Its place stays
/// free, and so does one that would make the number even, until there is somebody.
fn wanted(now: &GroupConfig, metadata: &Metadata, heard: &BTreeSet<NodeId>) -> Wanted {
    // Who formed the cluster may not have registered yet.
    let mut disks: BTreeMap<NodeId, Identity> = now
        .disks
        .iter()
        .map(|(node, disk)| (*node, *disk))
        .filter(|(node, disk)| !metadata.was_removed(*node, *disk))
        .collect();
    disks.extend(metadata.nodes.iter().map(|(id, node)| (*id, node.identity)));
    let may_vote = |node: &NodeId| !metadata.draining.contains(node);
    let voted: BTreeSet<NodeId> = now.voters.last().cloned().unwrap_or_default();
    let has_its_disk = |node: &NodeId| disks.contains_key(node) && disks.get(node) == now.disks.get(node);
    let mut voters: BTreeSet<NodeId> =
        voted.iter().copied().filter(|node| has_its_disk(node) && may_vote(node)).take(VOTERS_MAX).collect();
    let places = voters_of(disks.keys().filter(|node| may_vote(node)).count());
    let mut others: Vec<NodeId> =
        disks.keys().copied().filter(|node| may_vote(node) && !voters.contains(node)).collect();
    others.retain(|node| heard.contains(node));
    let mut taken = places.saturating_sub(voters.len()).min(others.len());
    let count = voters.len() + taken;
    if count > 2 && count.is_multiple_of(2) {
        taken = taken.saturating_sub(1);
    }
    voters.extend(others.into_iter().take(taken));
    let (voting, learning) = disks.into_iter().partition(|(node, _)| voters.contains(node));
    Wanted { voters: voting, learners: learning }
}

/// The nodes that are drained, and may be removed: they hold nothing and do not vote.
fn drained(now: &GroupConfig, metadata: &Metadata) -> Vec<(NodeId, Identity)> {
    let voters = now.all_voters();
    let empty = metadata.draining.iter().filter_map(|id| {
        let identity = metadata.nodes.get(id)?.identity;
        (!voters.contains(id) && !holds_any(metadata, *id, identity)).then_some((*id, identity))
    });
    empty.collect()
}

/// Runs on every node, and does something on the one that leads. Ends with the controller.
pub(super) async fn keep(
    weak: WeakController,
    env: Env,
    raft: RaftNode,
    mut roles: watch::Receiver<Role>,
    mut metadata: watch::Receiver<Arc<Metadata>>,
) {
    loop {
        let role = *roles.borrow_and_update();
        let current = Arc::clone(&metadata.borrow_and_update());
        let is_busy = match role {
            // All that was agreed before it led is applied: what it sees removed was removed.
            Role::Leader { ready: true, .. } => match weak.upgrade() {
                Some(controller) => look(&controller, &current).await,
                None => return,
            },
            Role::Leader { ready: false, .. } | Role::Follower { .. } => false,
        };
        let again = env.now() + if is_busy { LOOK_AGAIN } else { LOOK };
        let changed = tokio::select! {
            biased;
            changed = roles.changed() => changed,
            changed = metadata.changed() => changed,
            () = env.clock.sleep_until(raft.wake_by(again)) => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Does the next thing, if there is one; whether there will be more.
async fn look(controller: &Controller, metadata: &Metadata) -> bool {
    let (group, env) = (controller.group(), controller.env());
    let (role, seen) = (group.role(), group.seen_config());
    if !seen.is_committed {
        return true;
    }
    let (Role::Leader { term, .. } | Role::Follower { term, .. }) = role;
    let heard = controller.heard_lately();
    let wanted = wanted(&seen.config, metadata, &heard);
    let near: BTreeSet<NodeId> = group.near(NEAR_ENTRIES, u64::MAX).intersection(&heard).copied().collect();
    match next_step(&seen.config, &wanted, controller.me(), &near) {
        Step::Done => {}
        Step::Wait(whom) => {
            tracing::debug!(?whom, "members of the metadata group are waited for");
            return true;
        }
        Step::Append(next) => {
            env.dawdle(Point::MembersChangedLate, LATE_MAX).await;
            match group.change_members(term, &seen, &next, CHANGE_TIME).await {
                Ok(()) => {
                    env.reached(Mark::MembersChanged);
                    let (voters, members) = (&next.voters, next.disks.keys());
                    tracing::info!(?voters, ?members, "members of the metadata group changed");
                }
                Err(error) => tracing::debug!(%error, "members of the metadata group were not changed"),
            }
            return true;
        }
        Step::HandOver(heirs) => {
            // One that does not hear of it must not be asked again and again.
            let count = u64::try_from(heirs.len()).unwrap_or(u64::MAX).max(1);
            let place = usize::try_from(env.random_below(count)).unwrap_or(0);
            if let Some(heir) = heirs.iter().nth(place) {
                tracing::info!(%heir, "leadership of the metadata group is handed over");
                env.reached(Mark::LeaderMadeWay);
                if let Err(error) = controller.raft().transfer(group.id(), *heir).await {
                    tracing::debug!(%heir, %error, "leadership of the metadata group was not handed over");
                }
            }
            return true;
        }
    }
    let drained = drained(&seen.config, metadata);
    for (id, identity) in &drained {
        match controller.submit(Command::RemoveNode { id: *id, identity: *identity }, CHANGE_TIME).await {
            Ok(_) => {
                env.reached(Mark::NodeRemoved);
                tracing::info!(node = %id, %identity, "node removed");
            }
            Err(error) => tracing::debug!(node = %id, %error, "drained node was not removed"),
        }
    }
    !drained.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Node;

    fn disk(node: u32, other: bool) -> Identity {
        Identity::from_random([u8::try_from(node).unwrap() + u8::from(other) * 100; 16])
    }

    fn nodes(list: &str) -> BTreeSet<NodeId> {
        list.split_whitespace().map(|id| NodeId(id.parse().unwrap())).collect()
    }

    /// `2'` is node 2 with another disk.
    fn members(list: &str) -> BTreeMap<NodeId, Identity> {
        let one = |word: &str| {
            let id: u32 = word.trim_end_matches('\'').parse().unwrap();
            (NodeId(id), disk(id, word.ends_with('\'')))
        };
        list.split_whitespace().map(one).collect()
    }

    /// Those in `voters` vote, all of `follow` belong to the group, the metadata have `registered`.
    fn check(
        voters: &str,
        follow: &str,
        registered: &str,
        change: impl FnOnce(&mut Metadata),
        expected: (&str, &str),
    ) {
        let now = GroupConfig { voters: vec![nodes(voters)], disks: members(follow) };
        let node = |(id, identity)| (id, Node { identity, ..Node::default() });
        let mut metadata =
            Metadata { nodes: members(registered).into_iter().map(node).collect(), ..Metadata::default() };
        change(&mut metadata);
        // Node 9 is never heard.
        let wanted = wanted(&now, &metadata, &nodes("1 2 3 4 5 6 7 8"));
        assert_eq!(wanted, Wanted { voters: members(expected.0), learners: members(expected.1) });
    }

    #[test]
    fn up_to_five_vote() {
        check("1 2 3", "1 2 3", "1 2 3", |_| {}, ("1 2 3", ""));
        check("1 2 3", "1 2 3", "1 2 3 4", |_| {}, ("1 2 3", "4"));
        check("1 2 3", "1 2 3 4", "1 2 3 4 5", |_| {}, ("1 2 3 4 5", ""));
        check("1 2 3 4 5", "1 2 3 4 5", "1 2 3 4 5 6", |_| {}, ("1 2 3 4 5", "6"));
        check("1 2 3 4 5 6 7", "1 2 3 4 5 6 7", "", |_| {}, ("1 2 3 4 5", "6 7"));
        check("1 2 3 4", "1 2 3 4", "1 2 3 4", |_| {}, ("1 2 3 4", ""));
        check("1", "1", "1 2", |_| {}, ("1 2", ""));
    }

    #[test]
    fn a_free_place_is_filled_by_who_is_there_and_by_nobody_else() {
        let drain = |id| {
            move |metadata: &mut Metadata| {
                metadata.draining.insert(NodeId(id));
            }
        };
        check("1 2 3", "1 2 3 4 9", "1 2 3 4 9", drain(2), ("1 3 4", "2 9"));
        // Else nobody could go while a node is down that does not even vote.
        check("1 2 3", "1 2 3 9", "1 2 3 9", drain(2), ("1 3", "2 9"));
        let remove = |metadata: &mut Metadata| {
            metadata.nodes.remove(&NodeId(2));
            Arc::make_mut(&mut metadata.removed).push_back((NodeId(2), disk(2, false)));
        };
        check("1 3 4", "1 2 3 4", "1 2 3 4", remove, ("1 3 4", ""));
    }

    #[test]
    fn who_is_down_is_not_waited_for_and_no_even_number_comes_of_it() {
        check("1 2 3", "1 2 3 9", "1 2 3 4 9", |_| {}, ("1 2 3", "4 9"));
        check("1 2 3", "1 2 3 4 9", "1 2 3 4 5 9", |_| {}, ("1 2 3 4 5", "9"));
        check("1", "1", "1 9", |_| {}, ("1", "9"));
        check("1", "1", "1 2 9", |_| {}, ("1 2", "9"));
        check("1 2", "1 2", "1 2 3 4 9", |_| {}, ("1 2 3", "4 9"));
        check("1 9", "1 9", "1 2 9", |_| {}, ("1 2 9", ""));
    }

    #[test]
    fn a_replaced_disk_votes_again_as_another() {
        check("1 2 3", "1 2 3", "1 2' 3", |_| {}, ("1 2' 3", ""));
        check("1 3", "1 3", "1 2' 3 4", |_| {}, ("1 2' 3", "4"));
        check("1 2 3", "1 2 3", "", |_| {}, ("1 2 3", ""));
    }

    #[test]
    fn a_drained_node_is_one_that_neither_votes_nor_holds() {
        let now = GroupConfig { voters: vec![nodes("1 2")], disks: members("1 2 3") };
        let node = |(id, identity)| (id, Node { identity, ..Node::default() });
        let mut metadata =
            Metadata { nodes: members("1 2 3").into_iter().map(node).collect(), ..Metadata::default() };
        assert!(drained(&now, &metadata).is_empty());
        metadata.draining.extend(nodes("2 3"));
        assert_eq!(drained(&now, &metadata), [(NodeId(3), disk(3, false))]);
    }
}
