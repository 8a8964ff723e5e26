//! What a run's nodes are like: tunables, mostly small, so that what is rare in a large system is common here.

use std::time::Duration;

use quorate_node::controller::ControllerConfig;
use quorate_node::partition::PartitionConfig;
use quorate_node::raft::RaftConfig;
use quorate_node::storage::StoreConfig;
use quorate_node::wiring::NodeConfig;

use crate::dice::Dice;
use crate::env::disk::Pace;
use crate::env::probe::Points;

/// Of a thousand runs, how many have nodes that beat less often than they would by default.
const CALM_BEATS_PER_MILLE: u64 = 700;

/// What a node keeps free on its disk, in bytes: room for some volumes of the largest kind that is drawn.
const DISK_RESERVE: u64 = 4 << 20;

/// How often leaders say that they live, and how long they are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tempo {
    /// As nodes are configured by default.
    Usual,
    /// Half of the heartbeats, and a quarter of the beats. What follows from a leader's death comes somewhat later.
    Calm,
}

impl Tempo {
    /// Draws one.
    pub fn draw(dice: &mut Dice) -> Self {
        if dice.chance(CALM_BEATS_PER_MILLE) { Self::Calm } else { Self::Usual }
    }

    fn put_into(self, config: &mut NodeConfig) {
        match self {
            Self::Usual => {}
            Self::Calm => {
                config.raft.heartbeat_ms = 200;
                config.raft.beat_ms = 400;
                config.raft.election_timeout_ms_min = 600;
                // Ten of these are less than what a core has to work by itself: then it must have its leaders.
                config.raft.election_timeout_ms_max = 850;
            }
        }
    }
}

/// How soon what nobody needs goes, and how quickly who fell behind catches up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// Gap between looks at what retention lets go, in ms.
    pub retention_check_ms: u64,
    /// Gap between looks at what followers may trim, in ms.
    pub trim_check_ms: u64,
    /// Bytes below a log start that are worth trimming.
    pub trim_bytes_min: u64,
    /// How long a log start must not have moved before less than that goes, in ms.
    pub trim_rest_ms: u64,
    /// Bytes below a log start that are held for a slow replica.
    pub slow_replica_bytes_max: u64,
    /// Bytes a second for those that catch up.
    pub catch_up_bytes_per_s: u64,
    /// Entries from one recent checkpoint to the next.
    pub checkpoint_entries: u64,
    /// Entries that the metadata group's log holds.
    pub metadata_entries_max: u64,
    /// A volume of which less than so many percent are alive is rewritten.
    pub rewrite_below_percent: u32,
    /// Bytes a second that are rewritten.
    pub rewrite_bytes_per_s: u64,
}

impl Default for Keeping {
    /// As nodes are configured by default.
    fn default() -> Self {
        let (raft, partition, storage) =
            (RaftConfig::default(), PartitionConfig::default(), StoreConfig::default());
        Self {
            retention_check_ms: partition.retention_check_ms,
            trim_check_ms: raft.trim_check_ms,
            trim_bytes_min: partition.trim_bytes_min,
            trim_rest_ms: partition.trim_rest_ms,
            slow_replica_bytes_max: partition.slow_replica_bytes_max,
            catch_up_bytes_per_s: raft.catch_up_bytes_per_s,
            checkpoint_entries: raft.checkpoint_entries,
            metadata_entries_max: ControllerConfig::default().log_entries_max,
            rewrite_below_percent: storage.rewrite_below_percent,
            rewrite_bytes_per_s: storage.rewrite_bytes_per_s,
        }
    }
}

impl Keeping {
    /// Draws it: mostly soon, and little is held.
    pub fn draw(dice: &mut Dice) -> Self {
        let between = |dice: &mut Dice, least: u64, most: u64| {
            let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
            u64::try_from(dice.time(least, most).as_millis()).unwrap_or(u64::MAX)
        };
        let retention_check_ms = between(dice, 100, 1_000);
        Self {
            retention_check_ms,
            trim_check_ms: between(dice, 100, 2_000),
            trim_bytes_min: 1 << dice.below(14),
            // From one look to the next: runs are short.
            trim_rest_ms: retention_check_ms,
            slow_replica_bytes_max: 1 << dice.between(6, 16),
            catch_up_bytes_per_s: 1 << dice.between(16, 26),
            checkpoint_entries: 1 << dice.between(2, 13),
            metadata_entries_max: 1 << dice.between(2, 10),
            rewrite_below_percent: u32::try_from(dice.between(20, 80)).unwrap_or(50),
            rewrite_bytes_per_s: 1 << dice.between(16, 25),
        }
    }

    /// As by default, and no volume is rewritten: small ones would be, as their files take more than they hold.
    pub(crate) fn as_it_is() -> Self {
        Self { rewrite_below_percent: 0, ..Self::default() }
    }

    /// At once, and nothing is held; no volume is rewritten either.
    pub(crate) fn at_once() -> Self {
        Self {
            retention_check_ms: 100,
            trim_check_ms: 100,
            trim_bytes_min: 0,
            slow_replica_bytes_max: 0,
            ..Self::as_it_is()
        }
    }

    fn put_into(self, config: &mut NodeConfig) {
        config.partition.retention_check_ms = self.retention_check_ms;
        config.raft.trim_check_ms = self.trim_check_ms;
        config.partition.trim_bytes_min = self.trim_bytes_min;
        config.partition.trim_rest_ms = self.trim_rest_ms;
        config.partition.slow_replica_bytes_max = self.slow_replica_bytes_max;
        config.raft.catch_up_bytes_per_s = self.catch_up_bytes_per_s;
        config.raft.checkpoint_entries = self.checkpoint_entries;
        config.controller.log_entries_max = self.metadata_entries_max;
        config.storage.rewrite_below_percent = self.rewrite_below_percent;
        config.storage.rewrite_bytes_per_s = self.rewrite_bytes_per_s;
    }
}

/// What a run's nodes are like, as drawn.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// How many.
    pub nodes: u32,
    /// How often they beat.
    pub tempo: Tempo,
    /// How soon what nobody needs goes.
    pub keeping: Keeping,
    /// How long a disk takes.
    pub pace: Pace,
    /// How long blocking work waits for its turn at most.
    pub pool_wait_max: Duration,
    /// How many of a thousand steps let other tasks go first.
    pub others_first_per_mille: u64,
    /// Largest volume, in bytes.
    pub volume_bytes_max: u64,
    /// Recent entries in memory, in bytes.
    pub recent_bytes_max: u64,
    /// Sealed volumes open at a time.
    pub volumes_open_max: u32,
    /// Bytes of entries in one commit.
    pub commit_bytes_max: u32,
    /// Bytes that a node keeps free on its disk.
    pub disk_reserve_bytes: u64,
    /// Bytes of bodies in one message of replication.
    pub append_bytes_max: u64,
    /// Messages of replication in flight.
    pub append_in_flight_max: usize,
    /// Batches of a partition that are proposed and not yet answered.
    pub in_flight_batches_max: usize,
    /// Most bytes that a fetch returns.
    pub fetch_bytes_max: u32,
    /// Replicas started at a time.
    pub starts_at_once_max: usize,
    /// A group falls quiet after so long, in ms; 0: never.
    pub quiet_after_ms: u64,
    /// How often leaders are balanced, and how long a preferred leader must have been there, in ms.
    pub balance_ms: (u64, u64),
    /// Whether a leader takes up its term again after a restart: never drawn, for it loses what was acked.
    pub leader_restore: bool,
    /// Where nodes and clients meet an unkind world.
    pub points: Points,
    /// Whether topics may be kept short, and records deleted.
    pub trims: bool,
    /// Whether somebody watches: it changes nothing.
    pub observed: bool,
}

impl Knobs {
    /// Draws them, biased to what is small.
    pub fn draw(dice: &mut Dice) -> Self {
        let sync_max = dice.time(Duration::from_micros(200), Duration::from_millis(20));
        let mut tight = |tight: u64, usual: u64| if dice.chance(250) { tight } else { usual };
        let one = |number| usize::try_from(number).unwrap_or(1);
        let append_bytes_max = tight(1, 1 << 20);
        let append_in_flight_max = one(tight(1, 32));
        let in_flight_batches_max = one(tight(1, 4_096));
        let fetch_bytes_max = u32::try_from(tight(1, 8 << 20)).unwrap_or(1);
        let commit_bytes_max = u32::try_from(tight(1, 4 << 20)).unwrap_or(1);
        // To open a volume costs as much as several commits.
        let volumes_open_max = if tight(1, 2) == 2 { 16 } else { u32::try_from(tight(1, 3)).unwrap_or(1) };
        let starts_at_once_max = one(tight(1, 32));
        Self {
            nodes: 3,
            tempo: Tempo::Usual,
            keeping: Keeping::default(),
            pace: Pace { sync_min: Duration::from_micros(100), sync_max, ..Pace::default() },
            pool_wait_max: dice.time(Duration::from_micros(10), Duration::from_millis(5)),
            others_first_per_mille: dice.below(4) * 50,
            // In most runs a node writes some ten thousand bytes, and in many of them volumes are to be sealed.
            volume_bytes_max: 16_384 << dice.below(7),
            recent_bytes_max: 8_192 << dice.below(8),
            volumes_open_max,
            commit_bytes_max,
            disk_reserve_bytes: DISK_RESERVE,
            append_bytes_max,
            append_in_flight_max,
            in_flight_batches_max,
            fetch_bytes_max,
            starts_at_once_max,
            leader_restore: false,
            trims: true,
            observed: true,
            points: Points::draw(&mut Dice::new(dice.bits())),
            quiet_after_ms: 0,
            balance_ms: (0, 0),
        }
    }

    /// Draws when groups fall quiet and leaders are balanced: sooner and more often than usual. Until then neither happens.
    pub fn draw_rest(&mut self, dice: &mut Dice) {
        self.quiet_after_ms = if dice.chance(150) { 0 } else { 100 << dice.below(5) };
        let balances = !dice.chance(150);
        let (every, delay): (u64, u64) = (300 << dice.below(5), 200 << dice.below(5));
        self.balance_ms = (if balances { every } else { 0 }, delay);
    }

    /// No group falls quiet, and no leader goes back: for stories in which each step is written out.
    pub fn without_rest(&mut self) {
        self.quiet_after_ms = 0;
        self.balance_ms = (0, 0);
    }

    /// Sets a node's configuration.
    pub(super) fn put_into(&self, config: &mut NodeConfig) {
        self.tempo.put_into(config);
        config.raft.leader_restore = self.leader_restore;
        config.raft.append_bytes_max = self.append_bytes_max;
        config.raft.append_in_flight_max = self.append_in_flight_max;
        config.storage.volume_bytes_max = self.volume_bytes_max;
        config.storage.recent_bytes_max = self.recent_bytes_max;
        config.storage.volumes_open_max = self.volumes_open_max;
        config.storage.commit_bytes_max = self.commit_bytes_max;
        config.storage.disk_reserve_bytes = Some(self.disk_reserve_bytes);
        // Hundreds of nodes' caches are allocated in a sweep, and no volume here is large.
        config.storage.cache_bytes_max = config.storage.cache_bytes_max.max(3 * self.commit_bytes_max);
        config.partition.unsynced_bytes_max = self.recent_bytes_max;
        config.partition.in_flight_batches_max = self.in_flight_batches_max;
        config.partition.fetch_bytes_max = self.fetch_bytes_max;
        config.partition.starts_at_once_max = self.starts_at_once_max;
        config.raft.quiet_after_ms = self.quiet_after_ms;
        // A stop that began before everything is mended is over within the second that is given to it then.
        config.raft.hand_over_ms_max = 700;
        (config.partition.balance_ms, config.partition.balance_delay_ms) = self.balance_ms;
        self.keeping.put_into(config);
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::ids::NodeId;

    use super::*;

    #[test]
    fn what_is_drawn_goes_together() {
        for seed in 0..500 {
            let mut dice = Dice::new(seed);
            let knobs = Knobs { keeping: Keeping::draw(&mut dice), ..Knobs::draw(&mut dice) };
            let mut config = NodeConfig::new(NodeId(1), "node1:7101");
            knobs.put_into(&mut config);
            assert!(config.validate().is_ok(), "{knobs:?}");
        }
    }
}
