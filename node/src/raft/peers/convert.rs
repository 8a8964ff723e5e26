//! Raft's messages, between openraft's types and the wire. Nothing that a peer sends is believed unchecked.

use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use quorate_proto::ids::GroupId;
use quorate_proto::v1;

use crate::raft::types::{
    Config, Malformed, RaftLogId, RaftVote, entry_from_wire, entry_to_wire, log_id_from_wire,
    log_id_option_from_wire, log_id_to_wire, vote_from_wire, vote_to_wire,
};
use crate::storage::Body;

pub(super) type Append = AppendEntriesRequest<Config>;
pub(super) type Appended = StreamAppendResult<Config>;

pub(super) fn vote_request_to_wire(group: GroupId, request: &VoteRequest<Config>) -> v1::VoteRequest {
    v1::VoteRequest {
        group: group.0,
        vote: Some(vote_to_wire(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id_to_wire),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(super) fn vote_request_from_wire(request: &v1::VoteRequest) -> Result<VoteRequest<Config>, Malformed> {
    let vote = vote_from_wire(request.vote.as_ref())?;
    let mut made = VoteRequest::new(vote, log_id_option_from_wire(request.last_log_id.as_ref())?);
    made.leadership_transfer = request.leadership_transfer;
    Ok(made)
}

pub(super) fn vote_reply_to_wire(response: &VoteResponse<Config>) -> v1::VoteReply {
    v1::VoteReply {
        vote: Some(vote_to_wire(&response.vote)),
        granted: response.vote_granted,
        last_log_id: response.last_log_id.as_ref().map(log_id_to_wire),
    }
}

pub(super) fn vote_reply_from_wire(reply: &v1::VoteReply) -> Result<VoteResponse<Config>, Malformed> {
    let vote = vote_from_wire(reply.vote.as_ref())?;
    Ok(VoteResponse::new(vote, log_id_option_from_wire(reply.last_log_id.as_ref())?, reply.granted))
}

pub(super) fn transfer_to_wire(
    group: GroupId,
    request: &TransferLeaderRequest<Config>,
) -> v1::TransferLeaderRequest {
    v1::TransferLeaderRequest {
        group: group.0,
        from: Some(vote_to_wire(request.from_leader())),
        to: *request.to_node_id(),
        last_log_id: request.last_log_id().map(log_id_to_wire),
    }
}

pub(super) fn transfer_from_wire(
    request: &v1::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<Config>, Malformed> {
    let from = vote_from_wire(request.from.as_ref())?;
    Ok(TransferLeaderRequest::new(from, request.to, log_id_option_from_wire(request.last_log_id.as_ref())?))
}

/// # Errors
/// An entry without its body.
pub(super) fn append_to_wire(
    group: GroupId,
    session: u64,
    request: Append,
) -> Result<v1::AppendRequest, Malformed> {
    Ok(v1::AppendRequest {
        group: group.0,
        session,
        vote: Some(vote_to_wire(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(log_id_to_wire),
        leader_commit: request.leader_commit.as_ref().map(log_id_to_wire),
        entries: request
            .entries
            .into_iter()
            .map(|entry| entry_to_wire(entry_of(group, entry)))
            .collect::<Result<_, _>>()?,
    })
}

/// Takes out the first entries of a request as far as they come without a body, and has it begin behind them: no replica
/// can read those, and whoever holds the last of them holds what lies before it. Tells whether there are any.
pub(super) fn pass_over_unread(request: &mut Append) -> bool {
    let without_body = |entry: &&crate::raft::types::RaftEntryOf| match &entry.payload {
        openraft::EntryPayload::Normal(payload) => payload.0.body == Body::Absent,
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => false,
    };
    let count = request.entries.iter().take_while(without_body).count();
    let Some(last) = request.entries.drain(..count).next_back() else { return false };
    request.prev_log_id = Some(last.log_id);
    true
}

fn entry_of(group: GroupId, entry: crate::raft::types::RaftEntryOf) -> crate::storage::Entry {
    crate::raft::types::entry_from_raft(group, entry)
}

/// The request, its entries whole, in order, and following `prev_log_id`.
pub(super) fn append_from_wire(request: v1::AppendRequest) -> Result<Append, Malformed> {
    let group = GroupId(request.group);
    let vote = vote_from_wire(request.vote.as_ref())?;
    if !vote.committed {
        return Err(Malformed::OutOfRange("the vote of a leader"));
    }
    let prev_log_id = log_id_option_from_wire(request.prev_log_id.as_ref())?;
    let mut entries = Vec::with_capacity(request.entries.len());
    let mut before: Option<RaftLogId> = prev_log_id;
    for (at, entry) in request.entries.into_iter().enumerate() {
        let entry = entry_from_wire(group, at, entry)?;
        let index = before.map_or(0, |before| before.index + 1);
        let term = before.map_or(0, |before| before.leader_id.term);
        if entry.log_id.index != index || entry.log_id.leader_id.term < term {
            return Err(Malformed::Entry {
                index: at,
                reason: "it does not follow the one before".to_owned(),
            });
        }
        if entry.log_id.leader_id.term > vote.leader_id.term {
            return Err(Malformed::Entry { index: at, reason: "its term is above its leader's".to_owned() });
        }
        before = Some(entry.log_id);
        entries.push(entry);
    }
    let leader_commit = log_id_option_from_wire(request.leader_commit.as_ref())?;
    Ok(Append { vote, prev_log_id, entries, leader_commit })
}

pub(super) fn appended_to_wire(appended: &Appended) -> v1::AppendReply {
    use v1::append_reply::Result as Reply;
    let result = match appended {
        Ok(matched) => Reply::Matched(v1::Matched { log_id: matched.as_ref().map(log_id_to_wire) }),
        Err(StreamAppendError::Conflict(at)) => Reply::Conflict(log_id_to_wire(at)),
        Err(StreamAppendError::HigherVote(vote)) => Reply::HigherVote(vote_to_wire(vote)),
    };
    v1::AppendReply { result: Some(result) }
}

/// What an answer to an append must lie within.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    vote: RaftVote,
    prev: Option<RaftLogId>,
    last: Option<RaftLogId>,
}

impl Asked {
    pub(super) fn of(request: &Append) -> Self {
        let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        Self { vote: request.vote, prev: request.prev_log_id, last }
    }

    /// Whether all of it was taken: a full disk takes only a part.
    pub(super) fn is_whole(&self, appended: &Appended) -> bool {
        appended.as_ref().is_ok_and(|matched| *matched == self.last)
    }

    /// A leader that believed more than it had sent would commit what nobody has.
    pub(super) fn check(&self, reply: v1::AppendReply) -> Result<Appended, Malformed> {
        use v1::append_reply::Result as Reply;
        match reply.result.ok_or(Malformed::Missing("the result of an append"))? {
            Reply::Matched(matched) => {
                let matched = log_id_option_from_wire(matched.log_id.as_ref())?;
                if matched < self.prev || matched > self.last {
                    return Err(Malformed::OutOfRange("the matched log id"));
                }
                Ok(Ok(matched))
            }
            Reply::Conflict(at) => {
                let at = log_id_from_wire(&at)?;
                if Some(at) != self.prev {
                    return Err(Malformed::OutOfRange("the conflicting log id"));
                }
                Ok(Err(StreamAppendError::Conflict(at)))
            }
            Reply::HigherVote(vote) => {
                let vote = vote_from_wire(Some(&vote))?;
                if vote <= self.vote {
                    return Err(Malformed::OutOfRange("the higher vote"));
                }
                Ok(Err(StreamAppendError::HigherVote(vote)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use bytes::Bytes;
    use openraft::entry::RaftEntry;
    use openraft::{EntryPayload, Membership};
    use proptest::prelude::*;
    use quorate_proto::ids::{Identity, Timestamp};

    use super::*;
    use crate::raft::types::{CommittedLeaderId, Disk, Payload, Proposal, RaftEntryOf};

    const GROUP: GroupId = GroupId(7);

    fn id(term: u64, index: u64) -> RaftLogId {
        RaftLogId::new(CommittedLeaderId::new(term), index)
    }

    /// A blank, a command and a membership, behind (2, 9), of a leader of term 3.
    fn request() -> Append {
        let command = Payload::new(Proposal::command(Bytes::from_static(b"command"), Timestamp(5)));
        let voters: BTreeSet<u64> = [1, 2].into();
        let disks: BTreeMap<u64, Disk> =
            [(1, Disk(Identity::from_random([1; 16]))), (2, Disk(Identity::from_random([2; 16])))].into();
        let membership = Membership::new(vec![voters], disks).unwrap();
        Append {
            vote: RaftVote::new_committed(3, 1),
            prev_log_id: Some(id(2, 9)),
            entries: vec![
                RaftEntryOf::new(id(3, 10), EntryPayload::Blank),
                RaftEntryOf::new(id(3, 11), EntryPayload::Normal(command)),
                RaftEntryOf::new(id(3, 12), EntryPayload::Membership(membership)),
            ],
            leader_commit: Some(id(2, 8)),
        }
    }

    fn wire() -> v1::AppendRequest {
        append_to_wire(GROUP, 4, request()).unwrap()
    }

    #[test]
    fn an_append_comes_back_as_it_was_and_has_its_places() {
        let made = append_from_wire(wire()).unwrap();
        let ids: Vec<_> = made.entries.iter().map(|entry| entry.log_id).collect();
        assert_eq!(ids, [id(3, 10), id(3, 11), id(3, 12)]);
        assert_eq!(made.entries[2].get_membership(), request().entries[2].get_membership());
        assert_eq!(
            (made.vote, made.prev_log_id, made.leader_commit),
            (request().vote, Some(id(2, 9)), Some(id(2, 8)))
        );
        let again = append_to_wire(GROUP, 4, made).unwrap();
        assert_eq!(again, wire());
    }

    #[test]
    fn what_no_leader_sends_is_an_error() {
        let refused = |change: &dyn Fn(&mut v1::AppendRequest)| {
            let mut request = wire();
            change(&mut request);
            assert!(append_from_wire(request.clone()).is_err(), "{request:?}");
        };
        refused(&|request| request.vote = None);
        refused(&|request| request.vote.as_mut().unwrap().committed = false);
        refused(&|request| request.vote.as_mut().unwrap().term = 1 << 31);
        refused(&|request| request.vote.as_mut().unwrap().node = 1 << 31);
        refused(&|request| request.vote.as_mut().unwrap().term = 2);
        refused(&|request| request.group = 8);
        refused(&|request| request.prev_log_id = None);
        refused(&|request| request.prev_log_id.as_mut().unwrap().index = u64::MAX);
        refused(&|request| request.prev_log_id.as_mut().unwrap().term = 4);
        refused(&|request| request.leader_commit.as_mut().unwrap().term = u64::MAX);
        refused(&|request| drop(request.entries.remove(1)));
        refused(&|request| request.entries.swap(0, 1));
        refused(&|request| request.entries[0].head = Bytes::new());
        refused(&|request| request.entries[1].body = Bytes::from_static(b"commanD"));
        refused(&|request| request.entries[1].body = Bytes::new());
        let body = wire().entries[2].body.clone();
        refused(&|request| request.entries[2].body = body.slice(1..));
    }

    #[test]
    fn an_entry_without_its_body_is_not_sent() {
        let mut request = request();
        let EntryPayload::Normal(payload) = &mut request.entries[1].payload else { panic!("a command") };
        payload.0.body = Body::Absent;
        assert!(append_to_wire(GROUP, 4, request).is_err());
    }

    #[test]
    fn what_nobody_can_read_is_passed_over_where_a_request_begins() {
        let mut whole = request();
        assert!(!pass_over_unread(&mut whole));
        assert_eq!((whole.prev_log_id, whole.entries.len()), (Some(id(2, 9)), 3));
        let without_body = || {
            let mut request = request();
            let EntryPayload::Normal(payload) = &mut request.entries[1].payload else { panic!("a command") };
            payload.0.body = Body::Absent;
            request
        };
        let mut later = without_body();
        assert!(!pass_over_unread(&mut later), "what lies before it goes first");
        assert_eq!(later.entries.len(), 3);
        let mut first = without_body();
        first.entries = first.entries.split_off(1);
        first.prev_log_id = Some(id(3, 10));
        assert!(pass_over_unread(&mut first));
        assert_eq!((first.prev_log_id, first.entries.len()), (Some(id(3, 11)), 1));
        assert!(append_from_wire(append_to_wire(GROUP, 4, first).unwrap()).is_ok());
        let mut alone = without_body();
        alone.entries = alone.entries.drain(1..2).collect();
        assert!(pass_over_unread(&mut alone));
        let asked = Asked::of(&alone);
        assert!(alone.entries.is_empty() && asked.is_whole(&Ok(Some(id(3, 11)))));
    }

    #[test]
    fn an_answer_lies_within_what_was_asked() {
        use v1::append_reply::Result as Reply;
        let asked = Asked::of(&request());
        let check = |reply: Option<Reply>| asked.check(v1::AppendReply { result: reply });
        let matched = |log_id: Option<RaftLogId>| {
            Some(Reply::Matched(v1::Matched { log_id: log_id.as_ref().map(log_id_to_wire) }))
        };
        for good in [id(2, 9), id(3, 10), id(3, 12)] {
            assert_eq!(check(matched(Some(good))), Ok(Ok(Some(good))));
        }
        for bad in [None, Some(id(2, 8)), Some(id(3, 13)), Some(id(4, 12))] {
            assert!(check(matched(bad)).is_err(), "{bad:?}");
        }
        assert!(asked.is_whole(&Ok(Some(id(3, 12)))));
        let parts: [Appended; 3] =
            [Ok(Some(id(3, 11))), Ok(None), Err(StreamAppendError::Conflict(id(2, 9)))];
        for part in parts {
            assert!(!asked.is_whole(&part), "{part:?}");
        }
        let conflict = |at: RaftLogId| Some(Reply::Conflict(log_id_to_wire(&at)));
        assert_eq!(check(conflict(id(2, 9))), Ok(Err(StreamAppendError::Conflict(id(2, 9)))));
        assert!(check(conflict(id(3, 10))).is_err());
        let higher = |vote: RaftVote| Some(Reply::HigherVote(vote_to_wire(&vote)));
        assert!(check(higher(RaftVote::new(4, 2))).is_ok());
        assert!(check(higher(RaftVote::new(2, 2))).is_err(), "it is lower");
        assert!(check(None).is_err());
    }

    #[test]
    fn votes_come_back_as_they_were() {
        let mut request = VoteRequest::new(RaftVote::new(5, 3), Some(id(4, 20)));
        request.leadership_transfer = true;
        assert_eq!(vote_request_from_wire(&vote_request_to_wire(GROUP, &request)), Ok(request));
        let reply = VoteResponse::new(RaftVote::new(5, 3), None, true);
        assert_eq!(vote_reply_from_wire(&vote_reply_to_wire(&reply)), Ok(reply));
        let transfer = TransferLeaderRequest::new(RaftVote::new_committed(5, 3), 2, Some(id(4, 20)));
        assert_eq!(transfer_from_wire(&transfer_to_wire(GROUP, &transfer)), Ok(transfer));
        assert!(vote_request_from_wire(&v1::VoteRequest::default()).is_err());
        assert!(vote_reply_from_wire(&v1::VoteReply::default()).is_err());
        assert!(transfer_from_wire(&v1::TransferLeaderRequest::default()).is_err());
    }

    proptest! {
        /// Whatever is flipped in a message, it is refused or read, and never a panic; an entry that is read is one
        /// that was sent.
        #[test]
        fn flipped_bits_are_refused_or_harmless(flips in prop::collection::vec((0_usize..10_000, 0_u8..8), 1..4)) {
            use prost::Message;
            let mut bytes = wire().encode_to_vec();
            for (at, bit) in flips {
                let at = at % bytes.len();
                bytes[at] ^= 1 << bit;
            }
            if let Ok(message) = v1::AppendRequest::decode(bytes.as_slice())
                && let Ok(read) = append_from_wire(message)
            {
                let sent = wire().entries;
                let group = GROUP;
                for entry in read.entries {
                    prop_assert!(sent.contains(&entry_to_wire(entry_of(group, entry)).unwrap()));
                }
            }
        }
    }
}
