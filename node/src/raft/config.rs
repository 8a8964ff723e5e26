//! The module's knobs.

use openraft::SnapshotPolicy;
use serde::{Deserialize, Serialize};

/// How groups elect, replicate and beat. All nodes should share the first three.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RaftConfig {
    /// Gap between a leader's heartbeats, in ms. At most a third of `election_timeout_ms_min`, so that two lost ones
    /// do not start an election (Raft §5.6). Smaller costs CPU for each replica, idle or not.
    pub heartbeat_ms: u64,
    /// Shortest wait of a follower before it stands for election, in ms, counted from the end of the leader's lease.
    /// Too small, and a stalled disk or a busy machine costs a leader.
    pub election_timeout_ms_min: u64,
    /// Longest such wait, and the leader's lease, in ms: without a proof of its death a leader is missed for at most
    /// twice this.
    pub election_timeout_ms_max: u64,
    /// Bytes of bodies in one message of replication; one entry goes out even above it. Too large, and a message
    /// holds up all groups' entries to that peer; too small, and each costs more.
    pub append_bytes_max: u64,
    /// Bytes of bodies in flight to one peer in one group. Too small, and a distant peer is waited for.
    pub append_in_flight_bytes_max: u64,
    /// Messages of replication in flight to one peer in one group.
    pub append_in_flight_max: usize,
    /// How long a peer may take to answer entries, in ms, before they are sent again. Must leave room for slow syncs.
    pub append_timeout_ms: u64,
    /// Gap between the beats of a node to each peer, in ms: these say who leads what.
    pub beat_ms: u64,
    /// Gap between looks at whether logs may be trimmed, in ms. Too large, and disks hold what nobody needs.
    pub trim_check_ms: u64,
    /// Bytes a second that members which fell behind may take of this node's disk and links, of all groups together: bases,
    /// and entries that are not in memory any more. Too small, and a replaced node takes for ever; too large, and it slows
    /// the others.
    pub catch_up_bytes_per_s: u64,
    /// Entries of a group from one recent checkpoint to the next. More make a start after a crash longer, which replays
    /// them; fewer write more.
    pub checkpoint_entries: u64,
    /// After a proven death survivors stand for election one after the other, so many ms apart. Too small, and they
    /// split the vote.
    pub failover_rank_ms: u64,
    /// Groups of a node that stand for election at the same time, where a proven death or a restart calls for many.
    /// Too many, and those that could be led wait for all others' votes; too few, and a node that led much is replaced
    /// slowly.
    pub elections_at_once_max: usize,
    /// A group in which nothing happens for so long, in ms, falls quiet: it sends no heartbeats until something does,
    /// and the beats of its leader's node stand for them. 0: never. Too short, and a group that is written to now and
    /// then wakes each time, for a round trip.
    pub quiet_after_ms: u64,
    /// How many entries a node may be behind and still be handed leadership. What it lacks it must get while nobody
    /// writes.
    pub transfer_behind_max: u64,
    /// Groups whose leadership is handed over at the same time when a node stops. Each stands still meanwhile.
    pub transfers_at_once_max: usize,
    /// How long a node that stops may take to hand over what it leads, in ms; then it stops all the same, and the
    /// others find out.
    pub hand_over_ms_max: u64,
    /// Unsafe, and openraft's default: a leader that restarts takes up its term again without an election. It
    /// replicates before its own sync, so after a crash that took its tail it uses a log id a second time, and entries
    /// that were acknowledged are lost. Here for the simulator to show it; in code only.
    #[serde(skip)]
    pub leader_restore: bool,
}

impl Default for RaftConfig {
    fn default() -> Self {
        Self {
            heartbeat_ms: 100,
            election_timeout_ms_min: 400,
            election_timeout_ms_max: 700,
            append_bytes_max: 1 << 20,
            append_in_flight_bytes_max: 8 << 20,
            append_in_flight_max: 32,
            append_timeout_ms: 5_000,
            beat_ms: 100,
            trim_check_ms: 1_000,
            catch_up_bytes_per_s: 64 << 20,
            checkpoint_entries: 10_000,
            failover_rank_ms: 30,
            elections_at_once_max: 64,
            quiet_after_ms: 1_000,
            transfer_behind_max: 1_000,
            transfers_at_once_max: 32,
            hand_over_ms_max: 3_000,
            leader_restore: false,
        }
    }
}

impl RaftConfig {
    /// Whether the knobs fit together.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        let refuse = |wrong: bool, sentence: &str| if wrong { Err(sentence.to_owned()) } else { Ok(()) };
        refuse(self.heartbeat_ms == 0, "raft.heartbeat_ms must be at least 1")?;
        refuse(
            self.heartbeat_ms > self.election_timeout_ms_min / 3,
            "raft.heartbeat_ms must be at most a third of raft.election_timeout_ms_min",
        )?;
        refuse(
            self.election_timeout_ms_min >= self.election_timeout_ms_max,
            "raft.election_timeout_ms_min must be below raft.election_timeout_ms_max",
        )?;
        refuse(
            !(1..=APPEND_BYTES_MAX).contains(&self.append_bytes_max),
            "raft.append_bytes_max must be between 1 and 33554432",
        )?;
        refuse(
            self.append_in_flight_bytes_max < self.append_bytes_max,
            "raft.append_in_flight_bytes_max must be at least raft.append_bytes_max",
        )?;
        refuse(
            !(1..=SESSION_REQUESTS_MAX).contains(&self.append_in_flight_max),
            "raft.append_in_flight_max must be between 1 and 128",
        )?;
        refuse(
            self.append_timeout_ms < self.election_timeout_ms_max,
            "raft.append_timeout_ms must be at least raft.election_timeout_ms_max",
        )?;
        refuse(self.trim_check_ms == 0, "raft.trim_check_ms must be at least 1")?;
        refuse(self.catch_up_bytes_per_s == 0, "raft.catch_up_bytes_per_s must be at least 1")?;
        refuse(self.checkpoint_entries == 0, "raft.checkpoint_entries must be at least 1")?;
        refuse(self.elections_at_once_max == 0, "raft.elections_at_once_max must be at least 1")?;
        refuse(self.transfers_at_once_max == 0, "raft.transfers_at_once_max must be at least 1")?;
        refuse(
            self.beat_ms == 0 || self.beat_ms > self.election_timeout_ms_min,
            "raft.beat_ms must be between 1 and raft.election_timeout_ms_min",
        )
    }

    /// What openraft is told.
    pub(super) fn to_openraft(&self) -> openraft::Config {
        openraft::Config {
            cluster_name: "quorate".to_owned(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_timeout_ms_min,
            election_timeout_max: self.election_timeout_ms_max,
            // Bytes bound a message, in the log store; this bounds what many small entries may add up to.
            max_payload_entries: 4096,
            snapshot_policy: SnapshotPolicy::Never,
            // Every snapshot purges the log by this, whatever the policy says, and that log is the topic's data.
            max_in_snapshot_log_to_keep: u64::MAX,
            // Never on: the node's own timer does for all groups what ticks would do for each.
            enable_tick: false,
            enable_pre_vote: Some(true),
            enable_leader_restore: Some(self.leader_restore),
            quorum_loss_probe_interval: None,
            ..openraft::Config::default()
        }
    }
}

/// The most that [`RaftConfig::append_bytes_max`] may be: well below the largest message between peers.
const APPEND_BYTES_MAX: u64 = 32 << 20;
/// What a follower queues of one leader's appends in one group.
pub(super) const SESSION_REQUESTS_MAX: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(RaftConfig::default().validate(), Ok(()));
        assert!(RaftConfig::default().to_openraft().validate().is_ok());
    }

    #[test]
    fn a_leader_is_never_restored_and_the_log_never_purged_by_itself() {
        let config = RaftConfig::default().to_openraft();
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.enable_pre_vote, Some(true));
        assert_eq!(config.snapshot_policy, SnapshotPolicy::Never);
        assert_eq!(config.max_in_snapshot_log_to_keep, u64::MAX);
        assert!(!config.enable_tick);
    }
}
