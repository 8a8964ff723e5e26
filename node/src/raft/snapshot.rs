//! Snapshots: none are taken yet, as logs are not trimmed, and who asks for one is told so.

use std::io;

use bytes::Bytes;
use openraft::RaftSnapshotBuilder;

use super::types::Config;

/// What a snapshot will hold.
pub(super) type SnapshotData = Bytes;

/// Stands where openraft asks for somebody who makes snapshots.
pub(super) struct NoSnapshots;

impl NoSnapshots {
    pub(super) const MESSAGE: &'static str = "snapshots are not taken by this version";

    pub(super) fn error() -> io::Error {
        io::Error::new(io::ErrorKind::Unsupported, Self::MESSAGE)
    }
}

impl RaftSnapshotBuilder<Config> for NoSnapshots {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(
        &mut self,
    ) -> io::Result<openraft::type_config::alias::SnapshotOf<Config, SnapshotData>> {
        Err(Self::error())
    }
}
