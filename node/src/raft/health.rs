//! What nodes say of their own disks with each beat, and whom this node has refused. Pure: told what was heard and
//! when.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_proto::ids::NodeId;
use quorate_proto::v1;

use crate::env::Moment;
use crate::storage::DiskRoom;

/// What a node said of its disk counts for so long when it is silent.
const WORD_TIME_MAX: Duration = Duration::from_secs(2);
/// Refused nodes that are remembered: the last ones. Whoever is refused asks again and again.
const REFUSED_MAX: usize = 100;

/// What a node says of its own disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeHealth {
    /// How much room there is.
    pub room: DiskRoom,
    /// Entries that were found damaged since its process started.
    pub damaged_entries: u64,
    /// How many of them are whole again.
    pub repaired_entries: u64,
    /// Replicas that lost something of their logs, and neither vote nor stand before they have caught up.
    pub replicas_lost: u64,
}

impl NodeHealth {
    pub(super) fn to_wire(self) -> v1::NodeHealth {
        v1::NodeHealth {
            disk_free_bytes: self.room.free_bytes,
            disk_reserve_bytes: self.room.reserve_bytes,
            disk_full: self.room.is_full,
            damaged_entries: self.damaged_entries,
            repaired_entries: self.repaired_entries,
            replicas_lost: self.replicas_lost,
        }
    }

    fn from_wire(health: &v1::NodeHealth) -> Self {
        let room = DiskRoom {
            free_bytes: health.disk_free_bytes,
            reserve_bytes: health.disk_reserve_bytes,
            is_full: health.disk_full,
        };
        let v1::NodeHealth { damaged_entries, repaired_entries, replicas_lost, .. } = *health;
        Self { room, damaged_entries, repaired_entries, replicas_lost }
    }
}

/// What was heard of the peers.
#[derive(Debug, Default)]
pub(super) struct Healths {
    told: BTreeMap<NodeId, (Moment, NodeHealth)>,
    refused: BTreeMap<NodeId, (Moment, String)>,
}

impl Healths {
    /// `node` said this of itself; nothing, if it is of an older version. Its room, if it has become too little or
    /// enough.
    pub(super) fn told(
        &mut self,
        node: NodeId,
        health: Option<&v1::NodeHealth>,
        now: Moment,
    ) -> Option<DiskRoom> {
        let health = NodeHealth::from_wire(health?);
        let before = self.told.insert(node, (now, health));
        let was_full = before.is_some_and(|(_, before)| before.room.is_full);
        (was_full != health.room.is_full).then_some(health.room)
    }

    /// Who says to be `node` asked to take part; `Err`: it was refused, for this reason.
    pub(super) fn asked(&mut self, node: NodeId, answer: Result<(), &str>, now: Moment) {
        let Err(reason) = answer else {
            self.refused.remove(&node);
            return;
        };
        self.refused.insert(node, (now, reason.to_owned()));
        if self.refused.len() > REFUSED_MAX {
            let oldest = self.refused.iter().min_by_key(|(_, (at, _))| *at).map(|(node, _)| *node);
            self.refused.remove(&oldest.expect("there are many"));
        }
    }

    /// The last word of each peer.
    pub(super) fn all(&self) -> BTreeMap<NodeId, NodeHealth> {
        self.told.iter().map(|(node, (_, health))| (*node, *health)).collect()
    }

    /// Who was refused since `since`, and why.
    pub(super) fn refused_since(&self, since: Moment) -> BTreeMap<NodeId, String> {
        let lately = self.refused.iter().filter(|(_, (at, _))| *at >= since);
        lately.map(|(node, (_, reason))| (*node, reason.clone())).collect()
    }

    /// The room on the disk of `node`, if it has said lately that this is too little. One that is silent may have made
    /// room meanwhile.
    pub(super) fn full(&self, node: NodeId, now: Moment) -> Option<DiskRoom> {
        let (at, health) = self.told.get(&node)?;
        (health.room.is_full && now.since(*at) <= WORD_TIME_MAX).then_some(health.room)
    }

    /// All who have said so lately.
    pub(super) fn all_full(&self, now: Moment) -> BTreeMap<NodeId, DiskRoom> {
        self.told.keys().filter_map(|node| Some((*node, self.full(*node, now)?))).collect()
    }

    /// Whether `node` has said lately that it has room.
    pub(super) fn has_room(&self, node: NodeId, now: Moment) -> bool {
        let told = self.told.get(&node);
        told.is_some_and(|(at, health)| !health.room.is_full && now.since(*at) <= WORD_TIME_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(ms))
    }

    fn word(disk_full: bool) -> v1::NodeHealth {
        let (disk_free_bytes, disk_reserve_bytes) = (5, 10);
        v1::NodeHealth { disk_free_bytes, disk_reserve_bytes, disk_full, ..v1::NodeHealth::default() }
    }

    #[test]
    fn a_word_counts_for_a_while() {
        let mut healths = Healths::default();
        assert!(healths.full(A, at(0)).is_none() && !healths.has_room(A, at(0)));
        assert!(healths.told(A, Some(&word(true)), at(0)).is_some());
        assert_eq!(healths.told(A, Some(&word(true)), at(0)), None, "no news");
        let room = DiskRoom { free_bytes: 5, reserve_bytes: 10, is_full: true };
        assert_eq!(healths.full(A, at(2_000)), Some(room));
        assert_eq!(healths.full(A, at(2_001)), None);
        assert!(healths.told(A, Some(&word(false)), at(3_000)).is_some());
        assert!(healths.full(A, at(3_000)).is_none() && healths.has_room(A, at(3_000)));
        assert!(!healths.has_room(A, at(9_000)), "silent");
        assert_eq!(healths.told(A, None, at(9_000)), None);
        assert_eq!(healths.all().len(), 1, "an older version says nothing");
        let health = healths.all()[&A];
        assert_eq!(NodeHealth::from_wire(&health.to_wire()), health);
    }

    #[test]
    fn who_was_refused_is_remembered_until_it_is_taken_and_not_without_bound() {
        let mut healths = Healths::default();
        for node in 1..=200 {
            healths.asked(NodeId(node), Err("why"), at(u64::from(node)));
        }
        assert_eq!(healths.refused_since(at(0)).len(), 100);
        assert_eq!(healths.refused_since(at(191)).len(), 10, "the last ones are remembered");
        healths.asked(NodeId(100), Err("another reason"), at(500));
        assert_eq!(
            healths.refused_since(at(500)),
            BTreeMap::from([(NodeId(100), "another reason".to_owned())])
        );
        // Beats may come from the one whose id it is.
        assert!(healths.told(NodeId(100), Some(&word(true)), at(501)).is_some());
        assert_eq!(healths.refused_since(at(500)).len(), 1);
        healths.asked(NodeId(100), Ok(()), at(502));
        assert!(healths.refused_since(at(500)).is_empty());
    }
}
