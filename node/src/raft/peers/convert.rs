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
