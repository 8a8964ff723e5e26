//! Wire messages of Quorate, and the words that node and client share.
//!
//! Owns: the generated messages ([`v1`]), positions and names with types of their own ([`ids`]), the record batch
//! ([`batch`]), the closed set of error codes ([`error_code`]), the calls a client can make of a node ([`call`]) and
//! the part of the world outside that client and node share ([`mod@env`]). Must not know: anything else of ours.

pub mod batch;
pub mod call;
pub mod env;
pub mod error_code;
pub mod ids;

pub use error_code::ErrorCode;

/// The generated messages and services of package `quorate.v1`. They stop at the edges: api, raft/peers and client.
#[allow(clippy::all, clippy::allow_attributes_without_reason, missing_docs, reason = "generated code")]
#[allow(
    clippy::large_futures,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("quorate.v1");

    /// The encoded descriptors of the package, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("quorate.v1");
}
