//! What a trace says of a frame.

use prost::Message;
use quorate_proto::call::{Call, Reply};
use quorate_proto::v1::{PeerFrame, PeerReply};

use super::{Frame, Parcel, Request, Response};

/// What a trace says of a frame.
pub(in crate::env) trait Digest: Sized {
    /// Encoded length.
    fn bytes(&self) -> usize;
    /// What it is, its encoded length and the checksum of that.
    fn digest(&self) -> (&'static str, usize, u32);
    /// What it carries.
    fn frame(&self) -> Frame<'_>;

    /// As what travels.
    fn into_parcel(self) -> Parcel;

    /// Back again.
    ///
    /// # Panics
    /// If a frame goes the wrong way.
    fn from_parcel(parcel: Parcel) -> Self;
}

fn digest_of(what: &'static str, message: &impl Message) -> (&'static str, usize, u32) {
    let bytes = message.encode_to_vec();
    (what, bytes.len(), crc32c::crc32c(&bytes))
}

impl Digest for Request {
    fn into_parcel(self) -> Parcel {
        Parcel::Request(self)
    }

    fn from_parcel(parcel: Parcel) -> Self {
        match parcel {
            Parcel::Request(request) => request,
            Parcel::Response(_) => panic!("a response went towards a listener"),
        }
    }

    fn frame(&self) -> Frame<'_> {
        match self {
            Self::Peer(frame) => Frame::Ask(frame),
            Self::Call(number, call) => Frame::Call(*number, call),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Peer(frame) => frame.encoded_len(),
            Self::Call(_, Call::Produce(request)) => request.encoded_len(),
            Self::Call(..) => 100,
        }
    }

    fn digest(&self) -> (&'static str, usize, u32) {
        match self {
            Self::Peer(frame) => digest_of(request_name(frame), frame),
            Self::Call(_, call) => match call {
                Call::Produce(request) => digest_of("produce", request),
                Call::InitProducer(request) => digest_of("init producer", request),
                Call::Fetch(request) => digest_of("fetch", request),
                Call::ListOffset(request) => digest_of("list offset", request),
                Call::EpochEnd(request) => digest_of("epoch end", request),
                Call::Metadata(request) => digest_of("metadata", request),
                Call::ClusterStatus(request) => digest_of("cluster status", request),
                Call::CreateTopic(request) => digest_of("create topic", request),
                Call::DeleteTopic(request) => digest_of("delete topic", request),
                Call::ChangeMembers(request) => digest_of("change members", request),
                Call::ConfigureTopic(request) => digest_of("configure topic", request),
                Call::AddPartitions(request) => digest_of("add partitions", request),
                Call::DeleteRecords(request) => digest_of("delete records", request),
                Call::MoveLeader(request) => digest_of("move leader", request),
            },
        }
    }
}

impl Digest for Response {
    fn into_parcel(self) -> Parcel {
        Parcel::Response(self)
    }

    fn from_parcel(parcel: Parcel) -> Self {
        match parcel {
            Parcel::Response(response) => response,
            Parcel::Request(_) => panic!("a request went towards a caller"),
        }
    }

    fn frame(&self) -> Frame<'_> {
        match self {
            Self::Peer(frame) => Frame::Answer(frame),
            Self::Reply(number, reply) => Frame::Reply(*number, reply),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Peer(frame) => frame.encoded_len(),
            Self::Reply(_, Reply::Fetch(response)) => response.encoded_len(),
            Self::Reply(..) => 100,
        }
    }

    fn digest(&self) -> (&'static str, usize, u32) {
        match self {
            Self::Peer(frame) => digest_of(reply_name(frame.replies.first()), frame),
            Self::Reply(_, reply) => match reply {
                Reply::Produce(response) => digest_of("produce reply", response),
                Reply::InitProducer(response) => digest_of("init producer reply", response),
                Reply::Fetch(response) => digest_of("fetch reply", response),
                Reply::ListOffset(response) => digest_of("list offset reply", response),
                Reply::EpochEnd(response) => digest_of("epoch end reply", response),
                Reply::Metadata(response) => digest_of("metadata reply", response),
                Reply::ClusterStatus(response) => digest_of("cluster status reply", response),
                Reply::CreateTopic(response) => digest_of("create topic reply", response),
                Reply::DeleteTopic(response) => digest_of("delete topic reply", response),
                Reply::ChangeMembers(response) => digest_of("change members reply", response),
                Reply::ConfigureTopic(response) => digest_of("configure topic reply", response),
                Reply::AddPartitions(response) => digest_of("add partitions reply", response),
                Reply::DeleteRecords(response) => digest_of("delete records reply", response),
                Reply::MoveLeader(response) => digest_of("move leader reply", response),
            },
        }
    }
}

impl Parcel {
    /// See [`Digest::digest`].
    pub(super) fn digest(&self) -> (&'static str, usize, u32) {
        match self {
            Self::Request(request) => request.digest(),
            Self::Response(response) => response.digest(),
        }
    }
}

fn request_name(frame: &PeerFrame) -> &'static str {
    use quorate_proto::v1::peer_request::Body;
    match frame.requests.first().and_then(|request| request.body.as_ref()) {
        Some(Body::Hello(_)) => "hello",
        Some(Body::Vote(_)) => "vote",
        Some(Body::PreVote(_)) => "pre-vote",
        Some(Body::Append(_)) => "append",
        Some(Body::Heartbeats(_)) => "heartbeats",
        Some(Body::TransferLeader(_)) => "transfer leader",
        Some(Body::Beat(_)) => "beat",
        Some(Body::Command(_)) => "command",
        Some(Body::Snapshot(_)) => "snapshot",
        Some(Body::FetchEntries(_)) => "fetch entries",
        Some(Body::Rejoin(_)) => "rejoin",
        None => "nothing",
    }
}

fn reply_name(reply: Option<&PeerReply>) -> &'static str {
    use quorate_proto::v1::peer_reply::Body;
    match reply.and_then(|reply| reply.body.as_ref()) {
        Some(Body::Hello(_)) => "hello reply",
        Some(Body::Vote(_)) => "vote reply",
        Some(Body::Append(_)) => "append reply",
        Some(Body::Heartbeats(_)) => "heartbeats reply",
        Some(Body::Beat(_)) => "beat reply",
        Some(Body::Command(_)) => "command reply",
        Some(Body::Snapshot(_)) => "snapshot reply",
        Some(Body::FetchEntries(_)) => "fetch entries reply",
        Some(Body::Rejoin(_)) => "rejoin reply",
        Some(Body::TransferLeader(_)) => "transfer leader reply",
        None => "refusal",
    }
}
