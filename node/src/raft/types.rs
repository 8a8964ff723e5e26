//! What openraft is told of our types, and the way between its types and ours.
//!
//! An entry that openraft holds is a head and a body: the head's group, index and term are filled in when it is
//! appended, which is when openraft has given it a place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::entry::RaftEntry;
use openraft::{EntryPayload, Membership};
use prost::Message;
use quorate_proto::ids::{
    GroupId, Identity, LogIndex, NodeId, Offset, ProducerEpoch, ProducerId, Sequence, Term, Timestamp,
};
use quorate_proto::v1;
use serde::de::Error as _;
use serde::ser::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use uuid::Uuid;

use super::runtime::Runtime;
use crate::storage::{Body, Entry, HardVote, Head, Kind, LogId};

openraft::declare_raft_types!(
    /// openraft's table of our types.
    pub(super) Config:
        D = Payload,
        R = Answer,
        NodeId = u64,
        Node = Disk,
        Term = u64,
        LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = Runtime,
);

pub(super) type CommittedLeaderId = openraft::type_config::alias::CommittedLeaderIdOf<Config>;
pub(super) type RaftLogId = openraft::type_config::alias::LogIdOf<Config>;
pub(super) type RaftVote = openraft::type_config::alias::VoteOf<Config>;
pub(super) type RaftEntryOf = openraft::type_config::alias::EntryOf<Config>;
pub(super) type RaftMembership = Membership<u64, Disk>;

/// A member of a group: a node, and the disk that it had when it became one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// Which node.
    pub node: NodeId,
    /// Written beside its data at its first start. Another disk under the same node id is no member.
    pub identity: Identity,
}

/// What openraft keeps of a member beside its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Disk(pub(super) Identity);

/// What a group's owner makes of one committed entry; given to whoever proposed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The entry was none of the owner's (blank, membership).
    Nothing,
    /// A batch was taken, or not.
    Batch(BatchAnswer),
    /// What a command gave.
    Command(Bytes),
}

/// What became of a committed batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchAnswer {
    /// It is in the partition.
    Accepted {
        /// The offset of its first record.
        base_offset: Offset,
    },
    /// It did not fit (base offset, sequence): it has an index in the log and no offset, and is never read.
    Void,
}

/// What a leader asks its group to append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// [`Kind::Batch`] or [`Kind::Command`].
    pub kind: Kind,
    /// Offset of the first record, for a batch; else 0.
    pub base_offset: Offset,
    /// Records in the batch; else 0.
    pub records: u32,
    /// Who wrote the batch.
    pub producer_id: ProducerId,
    /// The producer's epoch.
    pub producer_epoch: ProducerEpoch,
    /// The first record's sequence.
    pub sequence: Sequence,
    /// The newest timestamp in the batch.
    pub max_timestamp: Timestamp,
    /// The leader's clock, never below its predecessor's.
    pub appended_at: Timestamp,
    /// The batch or command.
    pub body: Bytes,
    /// CRC-32C of the body.
    pub body_crc: u32,
}

impl Proposal {
    /// A command of a state group, its checksum computed.
    pub fn command(body: Bytes, appended_at: Timestamp) -> Self {
        Self {
            kind: Kind::Command,
            base_offset: Offset(0),
            records: 0,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch(-1),
            sequence: Sequence(-1),
            max_timestamp: Timestamp(0),
            appended_at,
            body_crc: crc32c::crc32c(&body),
            body,
        }
    }
}

/// openraft's "application data": an entry of kind batch or command. Until it has a place in the log, its head's
/// group, index and term are 0.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Payload(pub(super) Box<Entry>);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} of {} bytes", self.0.head.kind, self.0.head.body_bytes)
    }
}

/// openraft asks for serde; what we store and send is laid out by us, so these are never called.
macro_rules! never_serialized {
    ($($name:ty),*) => {
        $(impl Serialize for $name {
            fn serialize<S: Serializer>(&self, _to: S) -> Result<S::Ok, S::Error> {
                Err(S::Error::custom("has a layout of its own"))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(_from: D) -> Result<Self, D::Error> {
                Err(D::Error::custom("has a layout of its own"))
            }
        })*
    };
}
never_serialized!(Payload, Answer, Disk);

/// A message of a peer, or an entry on disk, that none of ours would have written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Malformed {
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    #[error("entry {index} of the message: {reason}")]
    Entry { index: usize, reason: String },
    #[error("a membership entry cannot be read: {0}")]
    Membership(String),
    #[error("a checkpoint cannot be read: {0}")]
    Checkpoint(String),
}

/// The largest term: clients see terms as leader epochs, which are i32.
const TERM_MAX: u64 = i32::MAX as u64;

pub(super) fn node_to_raft(node: NodeId) -> u64 {
    u64::from(node.0)
}

/// A node id that came from openraft, which had it from us.
pub(super) fn node_from_raft(node: u64) -> NodeId {
    NodeId(u32::try_from(node).expect("every node id of a group was made of a NodeId"))
}

fn term(term: u64) -> Result<u64, Malformed> {
    if term <= TERM_MAX { Ok(term) } else { Err(Malformed::OutOfRange("term")) }
}

pub(super) fn log_id_to_raft(id: LogId) -> RaftLogId {
    RaftLogId::new(CommittedLeaderId::new(id.term.0), id.index.0)
}

pub(super) fn log_id_from_raft(id: &RaftLogId) -> LogId {
    LogId { term: Term(id.leader_id.term), index: LogIndex(id.index) }
}

pub(super) fn log_id_to_wire(id: &RaftLogId) -> v1::LogId {
    v1::LogId { term: id.leader_id.term, index: id.index }
}

pub(super) fn log_id_from_wire(id: &v1::LogId) -> Result<RaftLogId, Malformed> {
    // The index after it must exist.
    if id.index == u64::MAX {
        return Err(Malformed::OutOfRange("log index"));
    }
    Ok(RaftLogId::new(CommittedLeaderId::new(term(id.term)?), id.index))
}

pub(super) fn log_id_option_from_wire(id: Option<&v1::LogId>) -> Result<Option<RaftLogId>, Malformed> {
    id.map(log_id_from_wire).transpose()
}

pub(super) fn vote_to_wire(vote: &RaftVote) -> v1::RaftVote {
    v1::RaftVote { term: vote.leader_id.term, node: vote.leader_id.voted_for, committed: vote.committed }
}

pub(super) fn vote_from_wire(vote: Option<&v1::RaftVote>) -> Result<RaftVote, Malformed> {
    let vote = vote.ok_or(Malformed::Missing("vote"))?;
    if vote.node > u64::from(NodeId::MAX.0) {
        return Err(Malformed::OutOfRange("node"));
    }
    let term = term(vote.term)?;
    Ok(if vote.committed { RaftVote::new_committed(term, vote.node) } else { RaftVote::new(term, vote.node) })
}

/// # Panics
/// If the term does not fit an i32: 2^31 elections of one group have not happened.
pub(super) fn vote_to_store(vote: &RaftVote) -> HardVote {
    assert!(vote.leader_id.term <= TERM_MAX, "a term fits an i32");
    HardVote { term: Term(vote.leader_id.term), node: vote.leader_id.voted_for, committed: vote.committed }
}

pub(super) fn vote_from_store(vote: HardVote) -> RaftVote {
    if vote.committed {
        RaftVote::new_committed(vote.term.0, vote.node)
    } else {
        RaftVote::new(vote.term.0, vote.node)
    }
}

const MEMBERSHIP_VERSION: u8 = 1;

pub(super) fn membership_to_bytes(membership: &RaftMembership) -> Bytes {
    let voters =
        |nodes: &BTreeSet<u64>| v1::Voters { nodes: nodes.iter().map(|id| node_from_raft(*id).0).collect() };
    let message = v1::GroupMembership {
        configs: membership.get_joint_config().iter().map(voters).collect(),
        members: members_of(membership).map(member_to_wire).collect(),
    };
    let mut bytes = BytesMut::with_capacity(1 + message.encoded_len());
    bytes.put_u8(MEMBERSHIP_VERSION);
    message.encode(&mut bytes).expect("a buffer of bytes grows as needed");
    bytes.freeze()
}

pub(super) fn membership_from_bytes(bytes: &[u8]) -> Result<RaftMembership, Malformed> {
    let malformed = |reason: &dyn fmt::Display| Malformed::Membership(reason.to_string());
    let (version, message) = bytes.split_first().ok_or_else(|| malformed(&"it is empty"))?;
    if *version != MEMBERSHIP_VERSION {
        return Err(malformed(&format_args!("its format version is {version}")));
    }
    let message = v1::GroupMembership::decode(message).map_err(|error| malformed(&error))?;
    let configs = message.configs.iter().map(|voters| voters.nodes.iter().map(|id| u64::from(*id)).collect());
    let mut members = BTreeMap::new();
    for member in &message.members {
        let identity = Uuid::from_slice(&member.identity).map_err(|error| malformed(&error))?;
        members.insert(u64::from(member.node), Disk(Identity(identity)));
    }
    RaftMembership::new(configs.collect(), members).map_err(|error| malformed(&error))
}

pub(super) fn members_of(membership: &RaftMembership) -> impl Iterator<Item = Member> {
    membership.nodes().map(|(node, disk)| Member { node: node_from_raft(*node), identity: disk.0 })
}

fn member_to_wire(member: Member) -> v1::Member {
    v1::Member { node: member.node.0, identity: member.identity.to_wire(), ..v1::Member::default() }
}

impl Payload {
    pub(super) fn new(proposal: Proposal) -> Self {
        assert!(
            matches!(proposal.kind, Kind::Batch | Kind::Command),
            "only batches and commands are proposed"
        );
        let head = Head {
            group: GroupId(0),
            index: LogIndex(0),
            term: Term(0),
            kind: proposal.kind,
            base_offset: proposal.base_offset,
            records: proposal.records,
            producer_id: proposal.producer_id,
            producer_epoch: proposal.producer_epoch,
            sequence: proposal.sequence,
            max_timestamp: proposal.max_timestamp,
            appended_at: proposal.appended_at,
            body_bytes: u32::try_from(proposal.body.len()).expect("a body was bounded at the door"),
            body_crc: proposal.body_crc,
        };
        Self(Box::new(Entry { head, body: Body::Here(proposal.body) }))
    }
}

/// The entry as it is stored, applied and sent.
pub(super) fn entry_from_raft(group: GroupId, entry: RaftEntryOf) -> Entry {
    let id = log_id_from_raft(&entry.log_id());
    match entry.payload {
        EntryPayload::Normal(payload) => {
            let mut entry = *payload.0;
            entry.head.group = group;
            entry.head.index = id.index;
            entry.head.term = id.term;
            entry
        }
        EntryPayload::Blank => without_offset(group, id, Kind::Blank, Bytes::new()),
        EntryPayload::Membership(membership) => {
            without_offset(group, id, Kind::Membership, membership_to_bytes(&membership))
        }
    }
}

/// What the log of a new group begins with, at index 0 of term 0: its members, all of them voters.
pub(super) fn first_entry(group: GroupId, members: &[Member]) -> Entry {
    let voters: BTreeSet<u64> = members.iter().map(|member| node_to_raft(member.node)).collect();
    let disks: BTreeMap<u64, Disk> =
        members.iter().map(|member| (node_to_raft(member.node), Disk(member.identity))).collect();
    let membership = RaftMembership::new(vec![voters], disks).expect("each voter has its node");
    let id = RaftLogId::new(CommittedLeaderId::new(0), 0);
    entry_from_raft(group, RaftEntryOf::new(id, EntryPayload::Membership(membership)))
}

fn without_offset(group: GroupId, id: LogId, kind: Kind, body: Bytes) -> Entry {
    let head = Head {
        body_bytes: u32::try_from(body.len()).expect("a membership is small"),
        body_crc: crc32c::crc32c(&body),
        ..Head::without_offset(group, id, kind)
    };
    Entry { head, body: Body::Here(body) }
}

/// # Errors
/// A membership entry without its body, or with one that cannot be read.
pub(super) fn entry_to_raft(entry: Entry) -> Result<RaftEntryOf, Malformed> {
    let id = log_id_to_raft(entry.head.log_id());
    let payload = match entry.head.kind {
        Kind::Blank => EntryPayload::Blank,
        Kind::Membership => match &entry.body {
            Body::Here(body) => EntryPayload::Membership(membership_from_bytes(body)?),
            Body::Absent => return Err(Malformed::Missing("the body of a membership entry")),
        },
        Kind::Batch | Kind::Command => EntryPayload::Normal(Payload(Box::new(entry))),
    };
    Ok(RaftEntryOf::new(id, payload))
}

/// # Errors
/// The body is absent: it must have been read before it is sent.
pub(super) fn entry_to_wire(entry: Entry) -> Result<v1::Entry, Malformed> {
    let Body::Here(body) = entry.body else {
        return Err(Malformed::Missing("the body of an entry to be sent"));
    };
    Ok(v1::Entry { head: Bytes::copy_from_slice(&entry.head.encode()), body })
}

/// Checks everything that can be checked without the log: both checksums, the group, the term.
///
/// # Errors
/// What is wrong with it.
pub(super) fn entry_from_wire(group: GroupId, at: usize, entry: v1::Entry) -> Result<RaftEntryOf, Malformed> {
    let malformed = |reason: &dyn fmt::Display| Malformed::Entry { index: at, reason: reason.to_string() };
    if entry.head.len() != Head::BYTES {
        return Err(malformed(&"its head has another length"));
    }
    let head = Head::decode(&entry.head).map_err(|corrupt| malformed(&corrupt))?;
    if head.group != group {
        return Err(malformed(&"it belongs to another group"));
    }
    term(head.term.0)?;
    let entry = Entry { head, body: Body::Here(entry.body) };
    entry.verify().map_err(|corrupt| malformed(&corrupt))?;
    entry_to_raft(entry)
}
