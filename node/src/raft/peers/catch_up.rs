//! The leader's base on its way to a member that lacks what lies before it: piece by piece, each answered before the
//! next goes out, within the bound for all who catch up.

use std::time::Duration;

use bytes::Bytes;
use quorate_proto::ids::NodeId;
use quorate_proto::v1::{self, peer_reply, peer_request};

use super::AskError;
use super::network::{Network, To};
use crate::env::transport::Lane;
use crate::env::{Mark, Point};
use crate::raft::base::RaftSnapshot;
use crate::raft::types::{RaftVote, log_id_from_raft, log_id_to_wire, vote_from_wire, vote_to_wire};

/// Bytes in one piece: a message holds up other groups' entries to that peer for its length.
const PIECE_BYTES: usize = 256 << 10;

/// How many times as long as entries the last piece may take to be answered: the base is installed before.
const INSTALLS: u32 = 6;

/// How late a piece may be sent, where a [`Point`] makes it so.
const LATE_MAX: Duration = Duration::from_millis(200);

impl Network<To> {
    /// Sends the base and waits until it is installed. Gives the member's vote; one above ours says that we lead no more.
    /// `is_taken`: the member has answered a piece of it. May be dropped and begun anew at any time.
    pub(super) async fn send_base(
        &self,
        vote: &RaftVote,
        snapshot: RaftSnapshot,
        is_taken: &mut bool,
    ) -> Result<RaftVote, AskError> {
        let (peers, node, group) = (&self.peers, self.to.node, self.group);
        let malformed = |reason: &str| AskError::Malformed { node, reason: reason.to_owned() };
        let at = snapshot.meta.last_log_id.ok_or_else(|| malformed("a base of no entry"))?;
        let base: Bytes = snapshot.snapshot;
        let index = log_id_from_raft(&at).index;
        peers.env.reached(Mark::CatchUpBegun);
        let session = peers.next_session();
        let (length, crc) = (base.len() as u64, crc32c::crc32c(&base));
        let mut offset = 0;
        loop {
            let end = base.len().min(offset + PIECE_BYTES);
            let is_last = end == base.len();
            self.catch_up.take(&peers.env, (end - offset) as u64).await;
            peers.env.dawdle(Point::CatchUpLate, LATE_MAX).await;
            if peers.env.perturb(Point::CatchUpInterrupted) {
                return Err(AskError::Late(node));
            }
            let request = v1::SnapshotRequest {
                group: group.0,
                vote: Some(vote_to_wire(vote)),
                last_log_id: Some(log_id_to_wire(&at)),
                session,
                offset: offset as u64,
                piece: base.slice(offset..end),
                length,
                crc,
            };
            let theirs = self.send_piece(node, request, is_last).await?;
            if theirs > *vote {
                return Ok(theirs);
            }
            // It may be tried many times before.
            if !std::mem::replace(is_taken, true) {
                tracing::info!(%group, peer = %node, %index, bytes = base.len(), "catch-up began: the base is sent");
            }
            if is_last {
                tracing::info!(%group, peer = %node, %index, "catch-up: the base was installed");
                return Ok(theirs);
            }
            offset = end;
        }
    }

    async fn send_piece(
        &self,
        node: NodeId,
        request: v1::SnapshotRequest,
        is_last: bool,
    ) -> Result<RaftVote, AskError> {
        let timeout = Duration::from_millis(self.peers.config.append_timeout_ms);
        let timeout = if is_last { timeout * INSTALLS } else { timeout };
        let asked = self.peers.ask(node, Lane::Bulk, peer_request::Body::Snapshot(request), timeout);
        let malformed = |reason: String| AskError::Malformed { node, reason };
        let (who, body) = asked.await?;
        // The base counts as what the member has: it must be the member.
        who.must_be(self.to.disk)?;
        let peer_reply::Body::Snapshot(reply) = body else {
            return Err(malformed("not the answer to a piece of a base".to_owned()));
        };
        vote_from_wire(reply.vote.as_ref()).map_err(|error| malformed(error.to_string()))
    }
}
