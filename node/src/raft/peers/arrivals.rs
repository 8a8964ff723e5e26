//! Bases on their way here: the pieces that a leader has sent so far, one base a group. Nothing of it is kept on disk
//! before it is whole, and whoever begins anew takes the place of what came before.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_proto::ErrorCode;
use quorate_proto::ids::{GroupId, Incarnation, NodeId};
use quorate_proto::v1;

use super::identity::{Refusal, Who};
use crate::env::Moment;
use crate::raft::types::{Malformed, RaftLogId, RaftVote, log_id_from_wire, vote_from_wire};

/// The longest base that is taken, and the bytes of all that may be on their way.
const BASE_BYTES_MAX: u64 = 128 << 20;
const ARRIVING_BYTES_MAX: u64 = 256 << 20;

/// A base of which no piece came for so long is given up: its leader has gone, and it would keep others out.
const ABANDONED: Duration = Duration::from_secs(30);

/// A piece of a base, as it came; its numbers checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) vote: RaftVote,
    pub(super) at: RaftLogId,
    session: u64,
    offset: u64,
    piece: Bytes,
    length: u64,
    crc: u32,
}

pub(super) fn piece_from_wire(request: v1::SnapshotRequest) -> Result<Piece, Malformed> {
    let vote = vote_from_wire(request.vote.as_ref())?;
    if !vote.committed {
        return Err(Malformed::OutOfRange("the vote of a leader"));
    }
    let at = request.last_log_id.as_ref().ok_or(Malformed::Missing("the last entry of a base"))?;
    let at = log_id_from_wire(at)?;
    if at.leader_id.term > vote.leader_id.term {
        return Err(Malformed::OutOfRange("the term of a base"));
    }
    let end = request.offset.checked_add(request.piece.len() as u64);
    if request.piece.is_empty() || end.is_none_or(|end| end > request.length) {
        return Err(Malformed::OutOfRange("a piece of a base"));
    }
    let v1::SnapshotRequest { session, offset, piece, length, crc, .. } = request;
    Ok(Piece { vote, at, session, offset, piece, length, crc })
}

/// Whose base it is: only the same sending goes on.
type Sending = (NodeId, Incarnation, u64);

struct Arrival {
    from: Sending,
    at: RaftLogId,
    length: u64,
    body: BytesMut,
    /// When the last piece of it came.
    heard: Moment,
}

/// The bases that are on their way to this node.
#[derive(Default)]
pub(in crate::raft) struct Arrivals(Mutex<BTreeMap<GroupId, Arrival>>);

impl Arrivals {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupId, Arrival>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is on its way to a group: it has stopped.
    pub(in crate::raft) fn forget(&self, group: GroupId) {
        self.lock().remove(&group);
    }

    /// Takes a piece that came at `now`. Gives the whole base with the last one.
    pub(super) fn take(
        &self,
        group: GroupId,
        who: Who,
        piece: Piece,
        now: Moment,
    ) -> Result<Option<Bytes>, Refusal> {
        let mut arrivals = self.lock();
        let from = (who.node, who.incarnation, piece.session);
        if piece.offset == 0 {
            arrivals.remove(&group);
            arrivals.retain(|_, arrival| now.since(arrival.heard) < ABANDONED);
            let others: u64 = arrivals.values().map(|arrival| arrival.length).sum();
            if piece.length > BASE_BYTES_MAX || others + piece.length > ARRIVING_BYTES_MAX {
                return Err(Refusal::new(ErrorCode::Overloaded, "too many bytes of bases are on their way"));
            }
            let (at, length) = (piece.at, piece.length);
            arrivals.insert(group, Arrival { from, at, length, body: BytesMut::new(), heard: now });
        }
        let goes_on = |arrival: &&mut Arrival| {
            arrival.from == from
                && (arrival.at, arrival.length) == (piece.at, piece.length)
                && arrival.body.len() as u64 == piece.offset
        };
        let Some(arrival) = arrivals.get_mut(&group).filter(goes_on) else {
            return Err(Refusal::new(ErrorCode::NotAvailable, "the piece follows none: begin anew"));
        };
        arrival.body.extend_from_slice(&piece.piece);
        arrival.heard = now;
        if (arrival.body.len() as u64) < arrival.length {
            return Ok(None);
        }
        let whole = std::mem::take(&mut arrival.body).freeze();
        arrivals.remove(&group);
        if crc32c::crc32c(&whole) != piece.crc {
            return Err(Refusal::new(ErrorCode::InvalidRequest, "the base was damaged on its way"));
        }
        Ok(Some(whole))
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::ids::{Identity, LogIndex, Term};

    use super::*;
    use crate::raft::types::{log_id_to_raft, log_id_to_wire, vote_to_wire};
    use crate::storage::LogId;

    const GROUP: GroupId = GroupId(4);

    fn who(incarnation: u64) -> Who {
        Who {
            node: NodeId(2),
            identity: Identity::from_random([2; 16]),
            cluster: None,
            incarnation: Incarnation(incarnation),
            admission: 0,
        }
    }

    fn wire(session: u64, range: std::ops::Range<usize>) -> v1::SnapshotRequest {
        let base = b"0123456789";
        let at = log_id_to_raft(LogId { term: Term(3), index: LogIndex(70) });
        v1::SnapshotRequest {
            group: GROUP.0,
            vote: Some(vote_to_wire(&RaftVote::new_committed(3, 2))),
            last_log_id: Some(log_id_to_wire(&at)),
            session,
            offset: range.start as u64,
            piece: Bytes::copy_from_slice(&base[range]),
            length: 10,
            crc: crc32c::crc32c(base),
        }
    }

    fn piece(session: u64, range: std::ops::Range<usize>) -> Piece {
        piece_from_wire(wire(session, range)).unwrap()
    }

    #[test]
    fn pieces_make_a_whole_and_whoever_begins_anew_begins() {
        let arrivals = Arrivals::default();
        let take = |incarnation, piece| arrivals.take(GROUP, who(incarnation), piece, Moment::default());
        assert_eq!(take(1, piece(1, 0..4)).unwrap(), None);
        assert!(take(1, piece(1, 5..10)).is_err(), "a piece is missing");
        assert!(take(2, piece(1, 4..10)).is_err(), "another process");
        assert!(take(1, piece(2, 4..10)).is_err(), "another sending");
        assert_eq!(take(1, piece(2, 0..6)).unwrap(), None);
        assert!(take(1, piece(1, 4..10)).is_err());
        assert_eq!(take(1, piece(2, 6..10)).unwrap().unwrap(), "0123456789");
        assert!(take(1, piece(2, 6..10)).is_err(), "it was given out");
        let mut damaged = piece(3, 0..10);
        damaged.piece = Bytes::from_static(b"012345678_");
        assert!(take(1, damaged).is_err());
        assert_eq!(take(1, piece(4, 0..4)).unwrap(), None);
        arrivals.forget(GROUP);
        assert!(take(1, piece(4, 4..10)).is_err());
    }

    #[test]
    fn what_no_leader_sends_is_an_error() {
        let refused = |change: &dyn Fn(&mut v1::SnapshotRequest)| {
            let mut request = wire(1, 0..10);
            change(&mut request);
            assert!(piece_from_wire(request.clone()).is_err(), "{request:?}");
        };
        refused(&|request| request.vote = None);
        refused(&|request| request.vote.as_mut().unwrap().committed = false);
        refused(&|request| request.vote.as_mut().unwrap().term = 2);
        refused(&|request| request.last_log_id = None);
        refused(&|request| request.length = 9);
        refused(&|request| request.offset = u64::MAX);
        refused(&|request| request.piece = Bytes::new());
        let huge = Piece { length: BASE_BYTES_MAX + 1, ..piece(1, 0..4) };
        assert!(Arrivals::default().take(GROUP, who(1), huge, Moment::default()).is_err());
    }

    #[test]
    fn what_nobody_goes_on_with_keeps_nobody_out() {
        let arrivals = Arrivals::default();
        let large = Piece { length: BASE_BYTES_MAX, ..piece(1, 0..4) };
        let take = |group, at| {
            let taken = arrivals.take(GroupId(group), who(1), large.clone(), Moment::default() + at);
            taken.map(drop).map_err(|refusal| refusal.code)
        };
        assert_eq!(take(1, Duration::ZERO), Ok(()));
        assert_eq!(take(2, Duration::from_secs(1)), Ok(()));
        assert_eq!(take(3, Duration::from_secs(2)), Err(ErrorCode::Overloaded));
        assert_eq!(take(3, ABANDONED), Ok(()), "the first one was given up");
        assert_eq!(take(4, ABANDONED), Err(ErrorCode::Overloaded));
    }
}
