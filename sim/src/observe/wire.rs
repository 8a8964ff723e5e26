//! What nodes say to each other and to clients, and what it means.

use std::collections::BTreeMap;

use quorate_node::storage::{Head, LogId};
use quorate_proto::ErrorCode;
use quorate_proto::call::Reply;
use quorate_proto::ids::{GroupId, LogIndex, NodeId, Term};
use quorate_proto::v1::{self, append_reply, peer_reply, peer_request};

use super::digest;
use super::sight::{Line, Sight};
use crate::env::network::{Frame, Wire};
use crate::env::tasks::Host;

/// What was meant by a frame.
#[derive(Default)]
pub(super) struct Said {
    /// What is news in it.
    pub(super) sights: Vec<Sight>,
    /// The groups that it is about.
    pub(super) groups: Vec<GroupId>,
    /// Whether a producer is told that a batch is written.
    pub(super) acked: bool,
    /// Entries that are not what was written, in words.
    pub(super) spoilt: Vec<String>,
}

/// Frames in flight: an answer does not repeat what was asked.
#[derive(Default)]
pub(super) struct Wires {
    asked: BTreeMap<(u64, u64), Asked>,
    /// What each node said last, so that only news are told.
    leads: BTreeMap<(NodeId, GroupId), Term>,
    matched: BTreeMap<(NodeId, GroupId), (Term, LogId)>,
}

enum Asked {
    Vote(GroupId, Term),
    Append(GroupId, Term),
    Heartbeats(Vec<(GroupId, Term)>),
    /// The last piece of a checkpoint that takes the place of a log up to there.
    Checkpoint(GroupId, Term, LogId),
}

impl Wires {
    /// A frame is sent.
    pub(super) fn sent(&mut self, wire: Wire, frame: Frame<'_>) -> Said {
        let mut said = Said::default();
        match frame {
            Frame::Ask(frame) => {
                for request in &frame.requests {
                    if let Some(body) = &request.body {
                        self.ask(wire, request.correlation, body, &mut said);
                    }
                }
            }
            Frame::Answer(frame) => {
                for reply in &frame.replies {
                    if let Some(peer_reply::Body::FetchEntries(reply)) = &reply.body {
                        said.spoilt.extend(spoilt(&reply.entries));
                    }
                    let asked = self.asked.remove(&(wire.connection, reply.correlation));
                    if let (Some(asked), Some(body)) = (asked, &reply.body) {
                        self.answer(wire, &asked, body, &mut said);
                    }
                }
            }
            Frame::Reply(_, Reply::Produce(response)) => {
                said.acked = response.error == ErrorCode::None as i32;
            }
            Frame::Call(..) | Frame::Reply(..) => {}
        }
        said
    }

    /// A request comes again: what is asked counts, as it will be answered; that its sender said it then is no news.
    pub(super) fn came_again(&mut self, wire: Wire, frame: Frame<'_>) {
        let leads = self.leads.clone();
        drop(self.sent(wire, frame));
        self.leads = leads;
    }

    fn ask(&mut self, wire: Wire, correlation: u64, body: &peer_request::Body, said: &mut Said) {
        let Host::Node(node) = wire.from else { return };
        let asked = match body {
            peer_request::Body::Vote(request) => {
                let (group, term) = (GroupId(request.group), term_of(request.vote.as_ref()));
                said.groups.push(group);
                said.sights.push(Sight::Stands { node, group, term });
                Asked::Vote(group, term)
            }
            peer_request::Body::Append(request) => {
                let (group, term) = self.append(node, request, said);
                Asked::Append(group, term)
            }
            peer_request::Body::Heartbeats(beats) => {
                let groups = beats.groups.iter().map(|request| self.append(node, request, said));
                Asked::Heartbeats(groups.collect())
            }
            peer_request::Body::Snapshot(request) => {
                let (group, term) = (GroupId(request.group), term_of(request.vote.as_ref()));
                self.leads(node, group, term, said);
                let piece = u64::try_from(request.piece.len()).unwrap_or(u64::MAX);
                let is_last = request.offset.saturating_add(piece) >= request.length;
                let Some(at) = request.last_log_id.as_ref().filter(|_| is_last) else { return };
                Asked::Checkpoint(group, term, log_id(at))
            }
            _ => return,
        };
        self.asked.insert((wire.connection, correlation), asked);
    }

    fn answer(&mut self, wire: Wire, asked: &Asked, body: &peer_reply::Body, said: &mut Said) {
        let Host::Node(node) = wire.from else { return };
        match (asked, body) {
            (Asked::Vote(group, term), peer_reply::Body::Vote(reply)) => {
                said.groups.push(*group);
                if let (true, Host::Node(candidate)) = (reply.granted, wire.to) {
                    said.sights.push(Sight::Granted { node, group: *group, term: *term, candidate });
                }
            }
            (Asked::Append(group, term), peer_reply::Body::Append(reply)) => {
                self.appended(node, *group, *term, reply, said);
            }
            (Asked::Checkpoint(group, term, at), peer_reply::Body::Snapshot(reply)) => {
                said.groups.push(*group);
                // A newer term says that nothing was taken up.
                if term_of(reply.vote.as_ref()) <= *term {
                    self.matched(node, *group, *term, *at, said);
                }
            }
            (Asked::Heartbeats(groups), peer_reply::Body::Heartbeats(reply)) => {
                for ((group, term), reply) in groups.iter().zip(&reply.groups) {
                    if let Some(reply) = &reply.reply {
                        self.appended(node, *group, *term, reply, said);
                    }
                }
            }
            _ => {}
        }
    }

    fn append(&mut self, node: NodeId, request: &v1::AppendRequest, said: &mut Said) -> (GroupId, Term) {
        let (group, term) = (GroupId(request.group), term_of(request.vote.as_ref()));
        self.leads(node, group, term, said);
        if !request.entries.is_empty() {
            said.spoilt.extend(spoilt(&request.entries));
            let heads = request.entries.iter().filter_map(|entry| {
                let head = Head::decode(&entry.head).ok()?;
                Some(Line { index: head.index, term: head.term, digest: Some(digest(&entry.head)) })
            });
            let prev = request.prev_log_id.as_ref().map(log_id);
            said.sights.push(Sight::Sent { node, group, prev, lines: heads.collect() });
        }
        (group, term)
    }

    fn appended(
        &mut self,
        node: NodeId,
        group: GroupId,
        term: Term,
        reply: &v1::AppendReply,
        said: &mut Said,
    ) {
        said.groups.push(group);
        if let Some(append_reply::Result::Matched(matched)) = &reply.result
            && let Some(through) = &matched.log_id
        {
            self.matched(node, group, term, log_id(through), said);
        }
    }

    /// A node speaks as a leader.
    fn leads(&mut self, node: NodeId, group: GroupId, term: Term, said: &mut Said) {
        said.groups.push(group);
        if self.leads.insert((node, group), term) != Some(term) {
            said.sights.push(Sight::Leads { node, group, term });
        }
    }

    /// A node says that it holds its log that far.
    fn matched(&mut self, node: NodeId, group: GroupId, term: Term, through: LogId, said: &mut Said) {
        if self.matched.insert((node, group), (term, through)) != Some((term, through)) {
            said.sights.push(Sight::Matched { node, group, term, through });
        }
    }
}

/// Entries whose checksums do not fit, as one that was read from a damaged disk and sent all the same.
fn spoilt(entries: &[v1::Entry]) -> impl Iterator<Item = String> {
    entries.iter().filter_map(|entry| match Head::decode(&entry.head) {
        Ok(head) => {
            let wrong = head.verify_body(&entry.body).err()?;
            Some(format!("the body of entry {} of group {}: {wrong}", head.index, head.group))
        }
        Err(wrong) => Some(format!("a head: {wrong}")),
    })
}

fn term_of(vote: Option<&v1::RaftVote>) -> Term {
    Term(vote.map_or(0, |vote| vote.term))
}

fn log_id(id: &v1::LogId) -> LogId {
    LogId { term: Term(id.term), index: LogIndex(id.index) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_comes_again_is_no_news_and_its_answer_is() {
        let (leader, follower) = (Host::Node(NodeId(1)), Host::Node(NodeId(2)));
        let append = |term| v1::PeerFrame {
            requests: vec![v1::PeerRequest {
                correlation: 3,
                body: Some(peer_request::Body::Append(v1::AppendRequest {
                    group: 5,
                    vote: Some(v1::RaftVote { term, ..v1::RaftVote::default() }),
                    ..v1::AppendRequest::default()
                })),
            }],
            ..v1::PeerFrame::default()
        };
        let through = v1::LogId { term: 1, index: 4 };
        let matched = append_reply::Result::Matched(v1::Matched { log_id: Some(through) });
        let answer = v1::PeerReplyFrame {
            replies: vec![v1::PeerReply {
                correlation: 3,
                body: Some(peer_reply::Body::Append(v1::AppendReply { result: Some(matched) })),
                ..v1::PeerReply::default()
            }],
            ..v1::PeerReplyFrame::default()
        };
        let mut wires = Wires::default();
        let to_follower = |connection| Wire { connection, from: leader, to: follower };
        let leads =
            |said: Said| said.sights.iter().filter(|sight| matches!(sight, Sight::Leads { .. })).count();
        assert_eq!(leads(wires.sent(to_follower(1), Frame::Ask(&append(1)))), 1);
        assert_eq!(leads(wires.sent(to_follower(1), Frame::Ask(&append(2)))), 1);
        wires.came_again(to_follower(2), Frame::Ask(&append(1)));
        assert_eq!(leads(wires.sent(to_follower(1), Frame::Ask(&append(2)))), 0, "it has not led anew");
        let back = Wire { connection: 2, from: follower, to: leader };
        let said = wires.sent(back, Frame::Answer(&answer));
        assert!(matches!(said.sights[..], [Sight::Matched { term: Term(1), .. }]), "{:?}", said.sights);
    }
}
