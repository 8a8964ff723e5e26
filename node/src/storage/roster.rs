//! What a node keeps of the members of its cluster: where their disks stand in the order of admissions, where they are
//! reached, and which disks belong to nobody any more.

use std::collections::BTreeMap;

use quorate_proto::ids::{ClusterId, Identity, LogIndex, NodeId};

use super::entry::{Corrupt, array};

/// What is kept of a peer beside its identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seat {
    /// The number of its disk's admission: 0 for those who formed the cluster, counted upwards from 1 after that. Of two
    /// disks that came under one node id the one with the higher number counts.
    pub admission: u64,
    /// Where peers reach it, `host:port`; empty if that was never agreed on.
    pub peer: String,
}

/// What a node learns of the members of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Disks that belong to the cluster.
    pub peers: BTreeMap<NodeId, (Identity, Seat)>,
    /// Disks that do not any more, and under which node id each did.
    pub gone: BTreeMap<Identity, NodeId>,
    /// The entry of the metadata group's log that tells so.
    pub as_of: Option<LogIndex>,
    /// The cluster that this node has been taken into.
    pub cluster: Option<ClusterId>,
    /// The number of this node's own admission.
    pub admission: Option<u64>,
}

impl Seat {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.admission.to_le_bytes().to_vec();
        bytes.extend(self.peer.as_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        let (admission, peer) = bytes.split_at_checked(8).ok_or(Corrupt::Short)?;
        let peer = std::str::from_utf8(peer).map_err(|_| Corrupt::Unknown("address"))?;
        Ok(Self { admission: u64::from_le_bytes(array(admission)), peer: peer.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_read_as_it_was_written() {
        for seat in [Seat::default(), Seat { admission: u64::MAX, peer: "example.org:7101".to_owned() }] {
            assert_eq!(Seat::decode(&seat.encode()), Ok(seat));
        }
        assert_eq!(Seat::decode(&[0; 7]), Err(Corrupt::Short));
        assert_eq!(Seat::decode(&[0, 0, 0, 0, 0, 0, 0, 0, 0xff]), Err(Corrupt::Unknown("address")));
    }
}
