//! The knobs of partitions.

use quorate_proto::batch::DECOMPRESSED_BYTES_MAX;
use serde::{Deserialize, Serialize};

/// The largest [`PartitionConfig::fetch_bytes_max`]: what a client takes in one answer, less what stands around the
/// batches.
const FETCH_BYTES: u32 = 64 << 20;

/// Bounds and checks, the same for every partition of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PartitionConfig {
    /// Batches of one partition that wait to be proposed. More is refused as overloaded; too few, and bursts are.
    pub queue_batches_max: usize,
    /// Bytes of one partition that wait or are in flight. Too few starve a link with a long round trip; too many let
    /// one partition take the node's memory.
    pub queue_bytes_max: u64,
    /// Batches of one partition proposed and not yet answered. Bounds what must be drained when leadership is lost.
    pub in_flight_batches_max: usize,
    /// Bytes of the whole node that are appended and not yet synced, above which produces are refused. At most
    /// storage's `recent_bytes_max`, which must hold them.
    pub unsynced_bytes_max: u64,
    /// Longest time until a produce is answered, in ms, whatever the request asks for. Too short, and a failover
    /// turns into unknown outcomes; too long, and clients of an isolated leader hang.
    pub produce_timeout_ms_max: u64,
    /// Fetches of one partition that wait for records; more are refused. As many requests may wait for a majority's word
    /// on where the records end.
    pub fetch_waiters_max: usize,
    /// Longest time that a fetch waits, in ms, whatever the request asks for. Too short, and readers that have read all
    /// ask again and again.
    pub fetch_wait_ms_max: u64,
    /// Most bytes that a fetch returns, whatever the request asks for; the first batch comes even above it. Clients
    /// take no answer of much more than 64 MiB.
    pub fetch_bytes_max: u32,
    /// Longest time that a lookup of the latest offset, or a fetch ahead of it, waits for a majority, in ms.
    pub read_barrier_timeout_ms: u64,
    /// Topics that have metrics of their own; those of all others are counted together, under an empty name. Too many,
    /// and whoever gathers metrics keeps a dozen series for each.
    pub metered_topics_max: usize,
    /// Decompresses each compressed batch at the door and walks its records. Off, a client can store batches that
    /// no reader can read.
    pub verify_compressed: bool,
    /// Most bytes that a batch may decompress to. Clients read no batch that decompresses to more than 64 MiB.
    pub decompressed_bytes_max: usize,
    /// How far ahead of this node's clock a record's timestamp may lie, in ms. Retention by time goes by timestamps:
    /// one far ahead would keep its volume for ever.
    pub timestamp_ahead_ms_max: i64,
    /// Gap between looks at what retention lets go, in ms. Too large, and disks hold more than topics say.
    pub retention_check_ms: u64,
    /// Bytes below a partition's log start that are worth trimming; where what is needed to go on from there is large,
    /// twice that. Less goes once the log start rests. Too small, and what is needed to go on is saved all the time.
    pub trim_bytes_min: u64,
    /// How long a log start must not have moved before what lies below it goes, however little it is, in ms. Too short,
    /// and a partition to which little comes saves what is needed to go on for each batch that expires.
    pub trim_rest_ms: u64,
    /// Bytes below a partition's log start that its leader holds for a replica that is slow or away, at most; and no more
    /// than a quarter of what is above it, if that is more than 8 MiB. One that needs more gets the state as of the log's
    /// beginning, and the rest from there.
    pub slow_replica_bytes_max: u64,
    /// Replicas that are started at the same time.
    pub starts_at_once_max: usize,
    /// How often a node looks whether it leads what others should, in ms; 0: never. Too often costs a look at each
    /// partition; too seldom leaves the work unevenly spread.
    pub balance_ms: u64,
    /// How long the process of a preferred leader must have been there before leadership goes back to it, in ms. Too
    /// short, and one that crashes again and again takes its partitions with it each time.
    pub balance_delay_ms: u64,
    /// Partitions given back at the same time. Each stands still for some tens of milliseconds.
    pub balance_at_once_max: usize,
}

impl Default for PartitionConfig {
    fn default() -> Self {
        Self {
            queue_batches_max: 4_096,
            queue_bytes_max: 32 << 20,
            in_flight_batches_max: 4_096,
            unsynced_bytes_max: 96 << 20,
            produce_timeout_ms_max: 30_000,
            fetch_waiters_max: 10_000,
            fetch_wait_ms_max: 30_000,
            fetch_bytes_max: 8 << 20,
            read_barrier_timeout_ms: 5_000,
            metered_topics_max: 200,
            verify_compressed: true,
            decompressed_bytes_max: 64 << 20,
            timestamp_ahead_ms_max: 3_600_000,
            retention_check_ms: 1_000,
            trim_bytes_min: 1 << 20,
            trim_rest_ms: 600_000,
            slow_replica_bytes_max: 64 << 20,
            starts_at_once_max: 32,
            balance_ms: 10_000,
            balance_delay_ms: 20_000,
            balance_at_once_max: 8,
        }
    }
}

impl PartitionConfig {
    /// Checks the fields against each other.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn validate(&self) -> Result<(), String> {
        let positive = [
            ("queue_batches_max", self.queue_batches_max as u64),
            ("queue_bytes_max", self.queue_bytes_max),
            ("in_flight_batches_max", self.in_flight_batches_max as u64),
            ("unsynced_bytes_max", self.unsynced_bytes_max),
            ("produce_timeout_ms_max", self.produce_timeout_ms_max),
            ("fetch_waiters_max", self.fetch_waiters_max as u64),
            ("fetch_wait_ms_max", self.fetch_wait_ms_max),
            ("fetch_bytes_max", u64::from(self.fetch_bytes_max)),
            ("read_barrier_timeout_ms", self.read_barrier_timeout_ms),
            ("decompressed_bytes_max", self.decompressed_bytes_max as u64),
            ("retention_check_ms", self.retention_check_ms),
            ("starts_at_once_max", self.starts_at_once_max as u64),
            ("balance_at_once_max", self.balance_at_once_max as u64),
        ];
        match positive.iter().find(|(_, value)| *value == 0) {
            Some((name, _)) => Err(format!("partition.{name} must be at least 1")),
            None if self.fetch_bytes_max > FETCH_BYTES => Err(format!(
                "partition.fetch_bytes_max must be at most {FETCH_BYTES}, 64 MiB: clients could not take the answer"
            )),
            None if self.decompressed_bytes_max > DECOMPRESSED_BYTES_MAX => Err(format!(
                "partition.decompressed_bytes_max must be at most {DECOMPRESSED_BYTES_MAX}, 64 MiB: clients could not read it"
            )),
            None if self.timestamp_ahead_ms_max < 0 => {
                Err("partition.timestamp_ahead_ms_max must not be negative".to_owned())
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_named() {
        let check = |config: PartitionConfig, said: Option<&str>| {
            assert_eq!(config.validate().err().as_deref(), said);
        };
        let fetch = |fetch_bytes_max| PartitionConfig { fetch_bytes_max, ..PartitionConfig::default() };
        check(PartitionConfig::default(), None);
        check(fetch(64 << 20), None);
        check(fetch(0), Some("partition.fetch_bytes_max must be at least 1"));
        let above =
            "partition.fetch_bytes_max must be at most 67108864, 64 MiB: clients could not take the answer";
        check(fetch((64 << 20) + 1), Some(above));
        let at_once = PartitionConfig { fetch_wait_ms_max: 0, ..PartitionConfig::default() };
        check(at_once, Some("partition.fetch_wait_ms_max must be at least 1"));
        let decompressed =
            |decompressed_bytes_max| PartitionConfig { decompressed_bytes_max, ..PartitionConfig::default() };
        check(decompressed(64 << 20), None);
        let above =
            "partition.decompressed_bytes_max must be at most 67108864, 64 MiB: clients could not read it";
        check(decompressed((64 << 20) + 1), Some(above));
    }
}
