//! What a node counts and measures of itself, for whoever watches it: the text behind `/metrics`.
//!
//! A handle that is passed in, never global: many nodes live in one process of the simulator, each with a registry of
//! its own. Counting costs one atomic addition and measuring one lock that is held for a moment, both per request, batch
//! or commit and never per record; times are taken from the node's own clock. Nothing that the node does may depend on
//! what stands here, nor on the order of its lines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::ops::Deref;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{counter, gauge};
use prometheus_client::registry::{Metric, Registry, Unit};
use quorate_proto::ErrorCode;
use quorate_proto::ids::{NodeId, TopicName};

/// A number that only grows while the process lives.
#[derive(Debug, Default)]
pub struct Counter(counter::Counter);

impl Counter {
    /// Adds `more`.
    pub fn add(&self, more: u64) {
        self.0.inc_by(more);
    }

    /// Adds what was counted in memory.
    pub fn add_count(&self, more: usize) {
        self.add(u64::try_from(more).unwrap_or(u64::MAX));
    }

    /// So many so far.
    pub fn get(&self) -> u64 {
        self.0.get()
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(gauge::Gauge<u64, AtomicU64>);

impl Gauge {
    /// It is this much now.
    pub fn set(&self, now: u64) {
        self.0.set(now);
    }

    /// It is this many now.
    pub fn set_count(&self, now: usize) {
        self.set(u64::try_from(now).unwrap_or(u64::MAX));
    }
}

/// Times, from 50 microseconds to 10 seconds: syncs, acknowledgements and elections all lie within.
#[derive(Debug)]
pub struct Times(Histogram);

/// Inclusive, in seconds.
const TIMES: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];

fn times() -> Histogram {
    Histogram::new(TIMES)
}

impl Default for Times {
    fn default() -> Self {
        Self(times())
    }
}

impl Times {
    /// Something took so long.
    pub fn observe(&self, time: Duration) {
        self.0.observe(time.as_secs_f64());
    }
}

/// Sizes in bytes, from 1 KiB to 64 MiB.
#[derive(Debug)]
pub struct Sizes(Histogram);

/// Inclusive, in bytes.
const SIZES: [f64; 9] =
    [1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0, 67_108_864.0];

impl Default for Sizes {
    fn default() -> Self {
        Self(Histogram::new(SIZES))
    }
}

impl Sizes {
    /// Something was so large, in bytes.
    pub fn observe(&self, bytes: u64) {
        self.0.observe(bytes as f64);
    }
}

/// Registers a metric under the name that its samples have. The library is given less of it: it appends the unit, the
/// `_total` of a counter, and the full stop of the help.
fn register(registry: &mut Registry, name: &str, help: &str, metric: impl Metric) {
    let help = help.trim().trim_end_matches('.');
    let name = name.strip_suffix("_total").unwrap_or(name);
    for unit in [Unit::Bytes, Unit::Seconds] {
        if let Some(name) = name.strip_suffix(unit.as_str()).and_then(|name| name.strip_suffix('_')) {
            registry.register_with_unit(name, help, unit, metric);
            return;
        }
    }
    registry.register(name, help, metric);
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Topic {
    topic: String,
}

macro_rules! topic_meters {
    ($($(#[doc = $help:literal])+ $field:ident = $name:literal,)+) => {
        /// What is measured of one topic, of all its partitions on this node together. Each field's words are the help
        /// of its metric.
        #[derive(Debug)]
        pub struct TopicMeters {
            $($(#[doc = $help])+ pub $field: Counter,)+
        }

        #[derive(Debug, Default)]
        struct TopicFamilies {
            $($field: Family<Topic, counter::Counter>,)+
        }

        impl TopicFamilies {
            fn register(&self, registry: &mut Registry) {
                $(register(registry, $name, concat!($($help),+), self.$field.clone());)+
            }

            fn open(&self, topic: &Topic) -> TopicMeters {
                TopicMeters { $($field: Counter(self.$field.get_or_create_owned(topic)),)+ }
            }

            fn close(&self, topic: &Topic) {
                $(self.$field.remove(topic);)+
            }
        }
    };
}

topic_meters! {
    /// Batches acknowledged by this node, which led their partitions.
    produce_batches = "quorate_produce_requests_total",
    /// Records in the batches that this node has acknowledged.
    produce_records = "quorate_produce_records_total",
    /// Bytes of the batches that this node has acknowledged.
    produce_bytes = "quorate_produce_bytes_total",
    /// Fetches that this node has answered, those without records too.
    fetches = "quorate_fetch_requests_total",
    /// Records in the batches that this node has sent to readers.
    fetch_records = "quorate_fetch_records_total",
    /// Bytes of the batches that this node has sent to readers.
    fetch_bytes = "quorate_fetch_bytes_total",
}

/// Topics that are there, by name. Who measures one holds it; when the last one lets go, its series go too.
#[derive(Debug)]
struct Topics {
    named: BTreeMap<TopicName, Weak<TopicMeters>>,
    /// Of all topics beyond the bound.
    others: Arc<TopicMeters>,
    families: TopicFamilies,
}

impl Topics {
    fn new() -> Self {
        let families = TopicFamilies::default();
        let others = Arc::new(families.open(&Topic { topic: String::new() }));
        Self { named: BTreeMap::new(), others, families }
    }

    fn forget_unmeasured(&mut self) {
        let families = &self.families;
        self.named.retain(|name, meters| {
            let is_measured = meters.strong_count() > 0;
            if !is_measured {
                families.close(&Topic { topic: name.to_string() });
            }
            is_measured
        });
    }
}

/// A request of a client, and why it was refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    request: &'static str,
    reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Reason(ErrorCode);

impl EncodeLabelValue for Reason {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        let name = self.0.as_str_name();
        encoder.write_str(&name.trim_start_matches("ERROR_CODE_").to_ascii_lowercase())
    }
}

/// How far a peer's replicas are behind this node, of the partitions that it leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Replicas that lack records.
    pub replicas: u64,
    /// Records that they lack, together.
    pub records: u64,
    /// For how long the oldest of these has waited.
    pub time: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Peer {
    peer: u32,
}

/// The lags of the peers that are behind.
#[derive(Debug, Default)]
struct Lags {
    replicas: Family<Peer, gauge::Gauge<u64, AtomicU64>>,
    records: Family<Peer, gauge::Gauge<u64, AtomicU64>>,
    time: Family<Peer, gauge::Gauge<f64, AtomicU64>>,
    /// Who has series.
    peers: Mutex<BTreeSet<NodeId>>,
}

impl Lags {
    fn register(&self, registry: &mut Registry) {
        let help = "Replicas on that peer that lack records, of partitions led here.";
        register(registry, "quorate_replicas_behind", help, self.replicas.clone());
        let help = "Records that these replicas lack, together.";
        register(registry, "quorate_replica_lag_records", help, self.records.clone());
        let help = "For how long the oldest record that one of them lacks has waited.";
        register(registry, "quorate_replica_lag_seconds", help, self.time.clone());
    }

    fn set(&self, lags: &BTreeMap<NodeId, Lag>) {
        let mut peers = lock(&self.peers);
        for peer in peers.iter().filter(|peer| !lags.contains_key(*peer)) {
            let peer = Peer { peer: peer.0 };
            self.replicas.remove(&peer);
            self.records.remove(&peer);
            self.time.remove(&peer);
        }
        for (peer, lag) in lags {
            let peer = Peer { peer: peer.0 };
            self.replicas.get_or_create(&peer).set(lag.replicas);
            self.records.get_or_create(&peer).set(lag.records);
            self.time.get_or_create(&peer).set(lag.time.as_secs_f64());
        }
        *peers = lags.keys().copied().collect();
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Stage {
    stage: &'static str,
}

const STAGES: &str = "quorate_produce_stage_seconds";
const STAGES_HELP: &str = "Time that a batch spends in each stage: queue (from its admission until it is proposed), \
    replicate (from then until a majority has it and it is applied here); of all groups, as leader or not: sync (from \
    an append until it lies on this node's disk), apply (of a run of committed entries).";

/// What a process has taken of its machine.
#[derive(Clone, Copy, Debug)]
pub struct ProcessUse {
    /// Of the processor, since the process began.
    pub cpu: Duration,
    /// Bytes of memory that it holds at this moment; `None` where the system does not say.
    pub memory_bytes: Option<u64>,
}

/// Asks for it, each time the page is asked for.
#[derive(Debug)]
struct Process(fn() -> ProcessUse);

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let used = (self.0)();
        let cpu = ConstCounter::new(used.cpu.as_secs_f64());
        let help = "Time of the processor that this process has used.";
        cpu.encode(encoder.encode_descriptor(
            "process_cpu",
            help,
            Some(&Unit::Seconds),
            cpu.metric_type(),
        )?)?;
        let Some(bytes) = used.memory_bytes else { return Ok(()) };
        let memory = ConstGauge::new(bytes);
        let help = "Memory that this process holds.";
        let unit = Some(&Unit::Bytes);
        memory.encode(encoder.encode_descriptor(
            "process_resident_memory",
            help,
            unit,
            memory.metric_type(),
        )?)
    }
}

const REFUSED: &str = "quorate_refused_requests_total";
const REFUSED_HELP: &str = "Requests of clients that were refused or whose outcome is not known, by reason.";

macro_rules! meters {
    ($($(#[doc = $help:literal])+ $field:ident: $kind:ident = $name:literal,)+) => {
        /// All that one node counts and measures. Each field's words are the help of its metric.
        #[derive(Debug)]
        pub struct Meters {
            $($(#[doc = $help])+ pub $field: $kind,)+
            /// From a batch's admission until it is proposed.
            pub stage_queue: Times,
            /// From then until a majority has it and it is applied here.
            pub stage_replicate: Times,
            /// Of a run of committed entries.
            pub stage_apply: Times,
            /// From an append until it lies on this node's disk.
            pub stage_sync: Times,
            stages: Family<Stage, Histogram>,
            topics: Mutex<Topics>,
            refused: Family<Refused, counter::Counter>,
            lags: Lags,
            /// Of a node that has a process for itself.
            process: OnceLock<fn() -> ProcessUse>,
            /// Made when somebody first asks for the page: most nodes of a simulator are never asked.
            registry: OnceLock<Registry>,
        }

        impl Default for Meters {
            fn default() -> Self {
                let stages = Family::<Stage, Histogram>::new_with_constructor(times);
                let stage = |stage| Times(stages.get_or_create_owned(&Stage { stage }));
                Self {
                    $($field: $kind::default(),)+
                    stage_queue: stage("queue"),
                    stage_replicate: stage("replicate"),
                    stage_apply: stage("apply"),
                    stage_sync: stage("sync"),
                    stages,
                    topics: Mutex::new(Topics::new()),
                    refused: Family::default(),
                    lags: Lags::default(),
                    process: OnceLock::new(),
                    registry: OnceLock::new(),
                }
            }
        }

        impl Meters {
            fn registered(&self) -> Registry {
                let mut registry = Registry::default();
                $(register(&mut registry, $name, concat!($($help),+), self.$field.0.clone());)+
                register(&mut registry, STAGES, STAGES_HELP, self.stages.clone());
                lock(&self.topics).families.register(&mut registry);
                register(&mut registry, REFUSED, REFUSED_HELP, self.refused.clone());
                self.lags.register(&mut registry);
                if let Some(measure) = self.process.get() {
                    registry.register_collector(Box::new(Process(*measure)));
                }
                registry
            }
        }
    };
}

meters! {
    /// Whether this node can commit: 1 or 0.
    ready: Gauge = "quorate_ready",
    /// Replicas of partitions that run on this node.
    replicas: Gauge = "quorate_replicas",
    /// Partitions that this node leads.
    partitions_led: Gauge = "quorate_partitions_led",
    /// Groups on this node that are quiet: nothing is written, and their timers rest.
    groups_quiet: Gauge = "quorate_groups_quiet",
    /// Elections that this node has won, of partitions and of the metadata group.
    elections_won: Counter = "quorate_elections_won_total",
    /// Groups that this node led and, at some moment, did not lead any more.
    leaderships_lost: Counter = "quorate_leaderships_lost_total",
    /// Groups whose leadership this node handed over because its disk was nearly full.
    handed_over_full: Counter = "quorate_leaderships_handed_over_full_total",
    /// Time from a batch's admission to the answer to its producer.
    produce_time: Times = "quorate_produce_seconds",
    /// Time of one commit of the store: the writing and the sync, for all groups together.
    commit_time: Times = "quorate_storage_commit_seconds",
    /// Bytes of entries in one commit of the store.
    commit_bytes: Sizes = "quorate_storage_commit_bytes",
    /// Entries that were read from memory.
    cache_hits: Counter = "quorate_storage_cache_hits_total",
    /// Entries that had to be read from a volume.
    cache_misses: Counter = "quorate_storage_cache_misses_total",
    /// Bytes of entries that are appended and not yet synced.
    unsynced_bytes: Gauge = "quorate_storage_unsynced_bytes",
    /// Volumes that hold something alive, or are there to be written.
    volumes: Gauge = "quorate_storage_volumes",
    /// Full volumes that were sealed.
    volumes_sealed: Counter = "quorate_storage_volumes_sealed_total",
    /// Volumes without live entries that were removed.
    volumes_removed: Counter = "quorate_storage_volumes_removed_total",
    /// Bytes left for this node's data, without what it has begun to take.
    disk_free_bytes: Gauge = "quorate_disk_free_bytes",
    /// Bytes that are kept in reserve: below them produces are refused.
    disk_reserve_bytes: Gauge = "quorate_disk_reserve_bytes",
    /// Whether produces are refused because the disk is nearly full: 1 or 0.
    disk_full: Gauge = "quorate_disk_full",
    /// How often the disk became nearly full.
    disk_filled: Counter = "quorate_disk_filled_total",
    /// Appends of leaders that this node refused as a follower, because its disk was nearly full.
    appends_refused_full: Counter = "quorate_appends_refused_full_total",
    /// Entries that were found damaged on this node's disk.
    damaged_entries: Counter = "quorate_damaged_entries_total",
    /// Damaged entries that are whole again.
    repaired_entries: Counter = "quorate_repaired_entries_total",
    /// Times that everything on this node's disk was read again, to find damage.
    scrub_rounds: Counter = "quorate_storage_scrub_rounds_total",
    /// Bytes of entries that were read again, to find damage.
    scrub_bytes: Counter = "quorate_storage_scrub_bytes_total",
}

/// The handle. Cheap to clone; all clones count together.
#[derive(Clone, Debug, Default)]
pub struct Metrics(Arc<Meters>);

impl Deref for Metrics {
    type Target = Meters;

    fn deref(&self) -> &Meters {
        &self.0
    }
}

impl Meters {
    /// The meters of a topic. Beyond `topics_max` topics they are those of all others, whose label is empty.
    pub fn topic(&self, name: &TopicName, topics_max: usize) -> Arc<TopicMeters> {
        let mut topics = lock(&self.topics);
        if let Some(known) = topics.named.get(name).and_then(Weak::upgrade) {
            return known;
        }
        topics.forget_unmeasured();
        if topics.named.len() >= topics_max {
            return Arc::clone(&topics.others);
        }
        let meters = Arc::new(topics.families.open(&Topic { topic: name.to_string() }));
        topics.named.insert(name.clone(), Arc::downgrade(&meters));
        meters
    }

    /// A client's request, of a kind such as `produce`, was answered with this code.
    pub fn refused(&self, request: &'static str, code: ErrorCode) {
        self.refused.get_or_create(&Refused { request, reason: Reason(code) }).inc();
    }

    /// How far the peers are behind now; those that are not named are not followed from here any more.
    pub fn set_lags(&self, lags: &BTreeMap<NodeId, Lag>) {
        self.lags.set(lags);
    }

    /// The page tells of the process too, from its first reader on; once, before there is one.
    pub fn measure_process(&self, measure: fn() -> ProcessUse) {
        // The first one holds.
        self.process.get_or_init(|| measure);
    }

    /// All of it, in the text form of OpenMetrics (version 1.0.0). A family without series is left out.
    pub fn render(&self) -> String {
        lock(&self.topics).forget_unmeasured();
        let mut page = String::new();
        let registry = self.registry.get_or_init(|| self.registered());
        encode(&mut page, registry).expect("a string grows as needed");
        page
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
        text.lines().filter(|line| line.starts_with(start)).collect()
    }

    #[test]
    fn a_page_names_each_family_once_and_each_sample_once() {
        let metrics = Metrics::default();
        let topic = metrics.topic(&"t".parse().unwrap(), 10);
        topic.produce_records.add(3);
        topic.produce_bytes.add(30);
        metrics.refused("produce", ErrorCode::NotLeader);
        let lag = Lag { replicas: 1, records: 5, time: Duration::from_millis(1_500) };
        metrics.set_lags(&BTreeMap::from([(NodeId(2), lag), (NodeId(3), lag)]));
        metrics.set_lags(&BTreeMap::from([(NodeId(2), lag)]));
        let text = metrics.render();
        let types = lines(&text, "# TYPE ");
        let families: BTreeSet<_> = types.iter().map(|line| line.split(' ').nth(2).unwrap()).collect();
        assert_eq!(families.len(), types.len(), "{text}");
        assert_eq!(types.len(), lines(&text, "# HELP ").len());
        let samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let names: BTreeSet<_> = samples.iter().map(|line| line.rsplit_once(' ').unwrap().0).collect();
        assert_eq!(names.len(), samples.len(), "{text}");
        assert!(samples.iter().all(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok()));
        for line in [
            "quorate_produce_records_total{topic=\"t\"} 3",
            "quorate_produce_records_total{topic=\"\"} 0",
            "quorate_produce_bytes_total{topic=\"t\"} 30",
            "quorate_refused_requests_total{request=\"produce\",reason=\"not_leader\"} 1",
            "quorate_replica_lag_records{peer=\"2\"} 5",
            "quorate_replica_lag_seconds{peer=\"2\"} 1.5",
            "quorate_disk_free_bytes 0",
            "# HELP quorate_ready Whether this node can commit: 1 or 0.",
            "# TYPE quorate_elections_won counter",
            "# UNIT quorate_produce_bytes bytes",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("peer=\"3\""), "it is not behind any more: {text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let metrics = Metrics::default();
        metrics.commit_time.observe(Duration::from_micros(50));
        metrics.commit_time.observe(Duration::from_micros(51));
        metrics.commit_time.observe(Duration::from_secs(20));
        metrics.stage_sync.observe(Duration::from_millis(1));
        let text = metrics.render();
        let all = lines(&text, "quorate_storage_commit_seconds_");
        assert!(all.contains(&"quorate_storage_commit_seconds_bucket{le=\"0.00005\"} 1"), "{all:?}");
        assert!(all.contains(&"quorate_storage_commit_seconds_bucket{le=\"0.0001\"} 2"), "{all:?}");
        assert!(all.contains(&"quorate_storage_commit_seconds_bucket{le=\"10.0\"} 2"), "{all:?}");
        assert!(all.contains(&"quorate_storage_commit_seconds_bucket{le=\"+Inf\"} 3"), "{all:?}");
        assert!(all.contains(&"quorate_storage_commit_seconds_count 3"), "{all:?}");
        let stage = "quorate_produce_stage_seconds_count{stage=\"sync\"} 1";
        assert_eq!(lines(&text, "quorate_produce_stage_seconds_count{stage=\"sync\"}"), [stage]);
    }

    #[test]
    fn topics_are_bounded_and_leave_with_whoever_measures_them() {
        let metrics = Metrics::default();
        let name = |name: &str| name.parse::<TopicName>().unwrap();
        let one = metrics.topic(&name("one"), 1);
        let other = metrics.topic(&name("two"), 1);
        other.fetches.add(7);
        one.fetches.add(2);
        assert!(Arc::ptr_eq(&one, &metrics.topic(&name("one"), 1)));
        let text = metrics.render();
        let shown: BTreeSet<_> = lines(&text, "quorate_fetch_requests_total").into_iter().collect();
        let expected =
            ["quorate_fetch_requests_total{topic=\"\"} 7", "quorate_fetch_requests_total{topic=\"one\"} 2"];
        assert_eq!(shown, BTreeSet::from(expected));
        drop(one);
        assert!(!metrics.render().contains("topic=\"one\""));
        let one = metrics.topic(&name("one"), 1);
        assert_eq!(one.fetches.get(), 0, "it begins anew");
        drop(one);
        let two = metrics.topic(&name("two"), 1);
        two.fetches.add(1);
        let text = metrics.render();
        assert!(text.contains("quorate_fetch_requests_total{topic=\"two\"} 1"), "{text}");
        assert!(!text.contains("topic=\"one\""), "{text}");
    }

    #[test]
    fn a_node_with_a_process_for_itself_tells_what_that_takes() {
        let metrics = Metrics::default();
        metrics.measure_process(|| ProcessUse { cpu: Duration::from_millis(1_500), memory_bytes: Some(7) });
        let text = metrics.render();
        assert!(text.contains("\nprocess_cpu_seconds_total 1.5\n"), "{text}");
        assert!(text.contains("\nprocess_resident_memory_bytes 7\n"), "{text}");
        assert!(!Metrics::default().render().contains("process_"));
    }

    #[test]
    fn nodes_in_one_process_count_for_themselves() {
        let (one, other) = (Metrics::default(), Metrics::default());
        one.elections_won.add(1);
        one.clone().elections_won.add(1);
        assert!(one.render().contains("\nquorate_elections_won_total 2\n"));
        assert!(other.render().contains("\nquorate_elections_won_total 0\n"));
    }
}
