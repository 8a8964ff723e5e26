//! What follows for groups from disks that are nearly full: a leader hands over to a member with room, a follower
//! refuses entries before they reach its storage, and no batch is proposed that no majority would take. The follower
//! does so later than the leader: what was admitted in time can still be committed.
//!
//! Only batches are refused. What keeps a group alive (votes, heartbeats, blank entries, memberships, commands) is small
//! and lives on the reserve; and so does all of the metadata group, which must be able to delete topics. And what a log
//! holds already is not refused: a new leader does not know what its followers hold, and sends that once more, in front
//! of the blank entry without which it cannot commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Weak;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::{FutureExt, StreamExt};
use openraft::EntryPayload;
use openraft_rt::WatchReceiver;
use quorate_proto::ErrorCode;
use quorate_proto::ids::{GroupId, LogIndex, NodeId};
use quorate_proto::v1;
use tokio::sync::watch;

use super::group::{Group, Role};
use super::health::NodeHealth;
use super::node::{Inner, RaftNode};
use super::peers::Refusal;
use super::types::{RaftEntryOf, RaftLogId, log_id_from_raft, node_from_raft, node_to_raft};
use crate::env::{Env, Mark, Moment, Point};
use crate::storage::{DiskRoom, Kind, LogId};

/// Pause before what could not be handed over is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long one group's hand-over may take.
const HAND_OVER_TIME_MAX: Duration = Duration::from_secs(2);
/// Groups that are handed over at the same time.
const AT_ONCE_MAX: usize = 8;

impl RaftNode {
    /// What this node says of its own disk.
    pub fn health(&self) -> NodeHealth {
        self.0.health()
    }

    /// What each peer said last of its own.
    pub fn healths(&self) -> BTreeMap<NodeId, NodeHealth> {
        self.0.peers.healths().all()
    }

    /// Who asked this node lately to take part and was refused, and why.
    pub fn refused_since(&self, since: Moment) -> BTreeMap<NodeId, String> {
        self.0.peers.healths().refused_since(since)
    }

    /// Why no batch is to be proposed in a group that this node leads: its own disk is nearly full, or those of so many
    /// voters that, without them and those that are silent, no majority is left. Names one such node, and its room.
    pub fn full_disk(&self, group: &Group) -> Option<(NodeId, DiskRoom)> {
        let own = self.0.store.room();
        if own.is_full {
            return Some((self.0.me, own));
        }
        let now = self.0.env().now();
        let full = self.0.peers.healths().all_full(now);
        if full.is_empty() {
            return None;
        }
        let lives = now - Duration::from_millis(self.0.config().election_timeout_ms_max);
        let is_near = |node: NodeId| node == self.0.me || self.0.heard_since(node, lives);
        without_majority(&group.voters(), &full, is_near)
    }
}

/// One of the voters in `full`, if so many are in there, or not near, that the others are no majority.
fn without_majority(
    voters: &[NodeId],
    full: &BTreeMap<NodeId, DiskRoom>,
    is_near: impl Fn(NodeId) -> bool,
) -> Option<(NodeId, DiskRoom)> {
    let first = voters.iter().find_map(|node| Some((*node, *full.get(node)?)))?;
    let roomy = voters.iter().filter(|node| !full.contains_key(*node) && is_near(**node)).count();
    (roomy <= voters.len() / 2).then_some(first)
}

impl Group {
    /// The last entry that each other member is known to hold on its disk, while this node leads; empty otherwise.
    pub fn matched(&self) -> BTreeMap<NodeId, Option<LogId>> {
        let me = node_to_raft(self.0.me);
        let metrics = self.0.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let others = metrics.replication.iter().flatten().filter(|(node, _)| **node != me);
        others.map(|(node, id)| (node_from_raft(*node), id.as_ref().map(log_id_from_raft))).collect()
    }
}

impl Inner {
    /// A peer said this of its own disk.
    pub(super) fn told(&self, peer: NodeId, health: Option<&v1::NodeHealth>) {
        let news = self.peers.healths().told(peer, health, self.env().now());
        if let Some(DiskRoom { free_bytes, reserve_bytes, is_full }) = news {
            tracing::info!(%peer, free_bytes, reserve_bytes, is_full, "room on a peer's disk changed");
        }
    }

    /// Who says to be `peer` asked to take part; `Err`: it was refused, for this reason.
    pub(super) fn asked(&self, peer: NodeId, answer: Result<(), &str>) {
        self.peers.healths().asked(peer, answer, self.env().now());
    }

    pub(super) fn health(&self) -> NodeHealth {
        let counts = self.store.damage_counts();
        NodeHealth {
            room: self.store.room(),
            damaged_entries: counts.damaged_entries + counts.repaired_entries,
            repaired_entries: counts.repaired_entries,
            replicas_lost: counts.groups_behind,
        }
    }

    /// Keeps those of a leader's `entries`, which follow `prev`, that may go to this node's storage: if its disk is
    /// full, those in front of the first batch that it does not hold. None may be left if it does not hold `prev`
    /// either: the leader must hear that, to find out from where on it has to send.
    ///
    /// # Errors
    /// `DiskFull`, in the words that the leader's operator should read: the first of them is such a batch.
    pub(super) fn admits(
        &self,
        group: &Group,
        prev: Option<RaftLogId>,
        entries: &mut Vec<RaftEntryOf>,
    ) -> Result<(), Refusal> {
        if !takes_room(group.id(), entries) {
            return Ok(());
        }
        let room = self.store.room();
        if !room.refuses_entries() && !self.env().perturb(Point::AppendRefusedFull) {
            return Ok(());
        }
        let log = group.log();
        let trimmed = log.state().purged.map(|purged| purged.index);
        let holds = |id: &RaftLogId| {
            let LogId { term, index } = log_id_from_raft(id);
            trimmed >= Some(index) || log.term_of(index) == Some(term)
        };
        let taken = taken(entries, holds);
        if taken == entries.len() {
            return Ok(());
        }
        if room.refuses_entries() {
            self.env().reached(Mark::FollowerFull);
            self.env().metrics.appends_refused_full.add(1);
        }
        if taken == 0 && prev.as_ref().is_none_or(holds) {
            return Err(Refusal::new(ErrorCode::DiskFull, room.refusal(self.me)));
        }
        entries.truncate(taken);
        Ok(())
    }

    /// Whether this node may be made the leader of a group.
    ///
    /// # Errors
    /// `DiskFull`: it would have to hand over at once.
    pub(super) fn may_lead(&self, group: GroupId) -> Result<(), Refusal> {
        let room = self.store.room();
        if group == GroupId::METADATA || !room.is_full {
            return Ok(());
        }
        Err(Refusal::new(ErrorCode::DiskFull, room.refusal(self.me)))
    }
}

/// Whether a full disk that holds none of these entries refuses them.
pub(super) fn takes_room(group: GroupId, entries: &[RaftEntryOf]) -> bool {
    group != GroupId::METADATA && entries.iter().any(is_batch)
}

fn is_batch(entry: &RaftEntryOf) -> bool {
    match &entry.payload {
        EntryPayload::Normal(payload) => payload.0.head.kind == Kind::Batch,
        EntryPayload::Blank | EntryPayload::Membership(_) => false,
    }
}

/// How many of the entries a full disk takes: all up to the first batch that its log does not hold.
fn taken(entries: &[RaftEntryOf], holds: impl Fn(&RaftLogId) -> bool) -> usize {
    let is_new = |entry: &RaftEntryOf| is_batch(entry) && !holds(&entry.log_id);
    entries.iter().position(is_new).unwrap_or(entries.len())
}

/// While this node's disk is nearly full, hands over what it leads, as far as there is somebody with room.
pub(super) async fn hand_over(env: Env, node: Weak<Inner>, mut rooms: watch::Receiver<DiskRoom>) {
    loop {
        let full = rooms.borrow_and_update().is_full;
        if full {
            let Some(groups) = node.upgrade().map(|node| node.running()) else { return };
            let groups = groups.into_iter().filter(|group| group.id() != GroupId::METADATA);
            let each = |group: Group| hand_over_one(env.clone(), node.clone(), group);
            futures_util::stream::iter(groups).for_each_concurrent(AT_ONCE_MAX, each).await;
        }
        let changed = std::pin::pin!(rooms.changed());
        // Without need, nobody is looked for.
        let again = std::pin::pin!(async {
            match full {
                true => env.sleep(AGAIN).await,
                false => std::future::pending().await,
            }
        });
        if let Either::Left((Err(_), _)) = select(changed, again).await {
            return;
        }
    }
}

async fn hand_over_one(env: Env, node: Weak<Inner>, group: Group) {
    let (Role::Leader { ready: true, .. }, Some(node)) = (group.role(), node.upgrade()) else { return };
    let heir = {
        let last = group.log().state().last.map(|last| last.index);
        let now = env.now();
        let lives = now - Duration::from_millis(node.config().election_timeout_ms_max);
        let has_room = |voter: NodeId| node.peers.healths().has_room(voter, now);
        let fit = group
            .voters()
            .into_iter()
            .filter(|voter| *voter != node.me && has_room(*voter) && node.heard_since(*voter, lives));
        heir(group.id(), &fit.collect(), &group.matched(), last)
    };
    let Some(heir) = heir else { return };
    let raft = RaftNode(node);
    let handed = env.timeout(HAND_OVER_TIME_MAX, raft.transfer(group.id(), heir).boxed()).await;
    match handed {
        Ok(Ok(_)) => {
            env.reached(Mark::HandedOverFull);
            env.metrics.handed_over_full.add(1);
            tracing::info!(group = %group.id(), peer = %heir, "leadership was handed over: the disk is nearly full");
        }
        Ok(Err(error)) => {
            tracing::debug!(group = %group.id(), peer = %heir, %error, "leadership was not handed over");
        }
        Err(_) => {
            tracing::debug!(group = %group.id(), peer = %heir, "leadership was not handed over in time");
        }
    }
}

/// Who is to lead in place of a full leader: of those who are `fit` one that has all of the log up to `last`, each in its
/// turn, so that what one node led does not all go to another. While nobody has, a later look finds somebody: nothing is
/// proposed meanwhile.
fn heir(
    group: GroupId,
    fit: &BTreeSet<NodeId>,
    matched: &BTreeMap<NodeId, Option<LogId>>,
    last: Option<LogIndex>,
) -> Option<NodeId> {
    let has_all = |node: &NodeId| {
        let matched = matched.get(node).copied().flatten().map(|matched| matched.index);
        matched.is_some() && matched >= last
    };
    let able: Vec<NodeId> = fit.iter().copied().filter(has_all).collect();
    let turn = usize::try_from(group.0).unwrap_or_default().checked_rem(able.len())?;
    Some(able[turn])
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use openraft::entry::RaftEntry;
    use quorate_proto::ids::{Term, Timestamp};

    use super::*;
    use crate::raft::types::{CommittedLeaderId, Payload, Proposal};

    const ROOM: DiskRoom = DiskRoom { free_bytes: 1, reserve_bytes: 2, is_full: true };

    #[test]
    fn a_majority_with_room_is_enough() {
        let check_among = |voters: u32, near: u32, full: &[u32], named: Option<u32>| {
            let voters: Vec<_> = (1..=voters).map(NodeId).collect();
            let full = full.iter().map(|node| (NodeId(*node), ROOM)).collect();
            assert_eq!(
                without_majority(&voters, &full, |node| node.0 <= near).map(|(node, _)| node.0),
                named,
                "{voters:?} {full:?}"
            );
        };
        let check = |voters: u32, full: &[u32], named| check_among(voters, voters, full, named);
        check(3, &[], None);
        check(3, &[2], None);
        check(3, &[2, 3], Some(2));
        check(3, &[4, 5], None);
        check(2, &[2], Some(2));
        check(4, &[4], None);
        check(4, &[3, 4], Some(3));
        check(5, &[1, 5], None);
        check(5, &[1, 3, 5], Some(1));
        // Who is silent takes nothing either; but that alone is no matter of disks.
        check_among(3, 2, &[2], Some(2));
        check_among(3, 2, &[3], None);
        check_among(3, 1, &[], None);
    }

    #[test]
    fn a_full_disk_takes_what_it_holds_and_what_is_no_batch() {
        let id = |term, index| RaftLogId::new(CommittedLeaderId::new(term), index);
        let batch = |term, index| {
            let proposal = Proposal { kind: Kind::Batch, ..Proposal::command(Bytes::new(), Timestamp(0)) };
            RaftEntryOf::new(id(term, index), EntryPayload::Normal(Payload::new(proposal)))
        };
        let blank = |term, index| RaftEntryOf::new(id(term, index), EntryPayload::Blank);
        let entries = [blank(1, 1), batch(1, 2), batch(1, 3), blank(2, 4), batch(2, 5), blank(3, 6)];
        let check = |entries: &[RaftEntryOf], held: &[RaftLogId], expected: usize| {
            assert_eq!(taken(entries, |id| held.contains(id)), expected, "{held:?}");
        };
        check(&entries, &[], 1);
        check(&entries, &[id(1, 2)], 2);
        check(&entries, &[id(1, 2), id(1, 3)], 4);
        check(&entries, &[id(1, 2), id(1, 3), id(1, 5)], 4);
        check(&entries, &[id(1, 2), id(1, 3), id(2, 5)], 6);
        check(&entries[1..], &[], 0);
    }

    #[test]
    fn an_heir_has_room_and_all_of_the_log() {
        let id = |index| Some(LogId { term: Term(1), index: LogIndex(index) });
        let matched =
            BTreeMap::from([(NodeId(1), id(9)), (NodeId(2), id(10)), (NodeId(3), id(11)), (NodeId(4), None)]);
        let check = |group, fit: &[u32], last, expected: Option<u32>| {
            let fit = fit.iter().copied().map(NodeId).collect();
            assert_eq!(heir(GroupId(group), &fit, &matched, last).map(|node| node.0), expected);
        };
        check(6, &[1, 2, 3], Some(LogIndex(10)), Some(2));
        check(7, &[1, 2, 3], Some(LogIndex(10)), Some(3));
        check(7, &[1, 3], Some(LogIndex(10)), Some(3));
        check(7, &[1, 4, 5], Some(LogIndex(10)), None);
        check(7, &[], Some(LogIndex(0)), None);
    }
}
