//! What a node counts and measures of itself, for whoever watches it: the text behind `/metrics`.
//!
//! A handle that is passed in, never global: many nodes live in one process of the simulator. Counting costs one
//! atomic addition, is done per request, batch or commit and never per record, and takes its times from the node's own
//! clock. Nothing that the node does may depend on it.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_proto::ids::{NodeId, TopicName};

/// A number that only grows while the process lives.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `more`.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// Adds what was counted in memory; never wraps.
    pub fn add_count(&self, more: usize) {
        self.add(u64::try_from(more).unwrap_or(u64::MAX));
    }

    /// So many so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// It is this much now.
    pub fn set(&self, now: u64) {
        self.0.store(now, Ordering::Relaxed);
    }

    /// It is this many now.
    pub fn set_count(&self, now: usize) {
        self.set(u64::try_from(now).unwrap_or(u64::MAX));
    }

    /// What it was set to last.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many values lie up to each bound, and their sum.
#[derive(Debug)]
struct Buckets {
    /// Inclusive, ascending; one bucket more takes what is larger than all of them.
    bounds: &'static [u64],
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Buckets {
    fn new(bounds: &'static [u64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    fn observe(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// `per_unit`: how many of the values' units are one of the page's.
    fn write(&self, page: &mut Page, name: &str, labels: &str, per_unit: f64) {
        let mut below = 0;
        for (at, count) in self.counts.iter().enumerate() {
            below += count.load(Ordering::Relaxed);
            let bound = match self.bounds.get(at) {
                Some(bound) => (*bound as f64 / per_unit).to_string(),
                None => "+Inf".to_owned(),
            };
            let labels = join(labels, &format!("le=\"{bound}\""));
            page.sample(&format!("{name}_bucket"), &labels, below);
        }
        let sum = self.sum.load(Ordering::Relaxed) as f64 / per_unit;
        page.sample(&format!("{name}_sum"), labels, sum);
        page.sample(&format!("{name}_count"), labels, below);
    }
}

/// Times, from 50 microseconds to 10 seconds: syncs, acknowledgements and elections all lie within.
#[derive(Debug)]
pub struct Times(Buckets);

const NANOS: f64 = 1e9;

const TIMES: &[u64] = &[
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

impl Default for Times {
    fn default() -> Self {
        Self(Buckets::new(TIMES))
    }
}

impl Times {
    /// Something took so long.
    pub fn observe(&self, time: Duration) {
        self.0.observe(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.0.count()
    }
}

/// Sizes in bytes, from 1 KiB to 64 MiB.
#[derive(Debug)]
pub struct Sizes(Buckets);

const SIZES: &[u64] = &[1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26];

impl Default for Sizes {
    fn default() -> Self {
        Self(Buckets::new(SIZES))
    }
}

impl Sizes {
    /// Something was so large, in bytes.
    pub fn observe(&self, bytes: u64) {
        self.0.observe(bytes);
    }

    /// How many were observed.
    pub fn count(&self) -> u64 {
        self.0.count()
    }
}

/// What is measured of one topic, of all its partitions on this node together.
#[derive(Debug, Default)]
pub struct TopicMeters {
    /// Batches that were acknowledged.
    pub produce_batches: Counter,
    /// Records in them.
    pub produce_records: Counter,
    /// Bytes of them, as they were sent.
    pub produce_bytes: Counter,
    /// Fetches that were answered.
    pub fetches: Counter,
    /// Records in the answers.
    pub fetch_records: Counter,
    /// Bytes of the answers.
    pub fetch_bytes: Counter,
}

/// One of the counters of a topic: its name, what it is, where it stands.
type TopicCounter = (&'static str, &'static str, fn(&TopicMeters) -> &Counter);

const TOPIC_COUNTERS: [TopicCounter; 6] = [
    (
        "quorate_produce_requests_total",
        "Batches acknowledged by this node, which led their partitions.",
        |topic| &topic.produce_batches,
    ),
    ("quorate_produce_records_total", "Records in the batches that this node has acknowledged.", |topic| {
        &topic.produce_records
    }),
    ("quorate_produce_bytes_total", "Bytes of the batches that this node has acknowledged.", |topic| {
        &topic.produce_bytes
    }),
    (
        "quorate_fetch_requests_total",
        "Fetches that this node has answered, those without records too.",
        |topic| &topic.fetches,
    ),
    ("quorate_fetch_records_total", "Records in the batches that this node has sent to readers.", |topic| {
        &topic.fetch_records
    }),
    ("quorate_fetch_bytes_total", "Bytes of the batches that this node has sent to readers.", |topic| {
        &topic.fetch_bytes
    }),
];

/// Topics that are there, by name. Who measures one holds it; when the last one lets go it is gone from here too.
#[derive(Debug, Default)]
struct Topics {
    named: BTreeMap<TopicName, Weak<TopicMeters>>,
    /// Of all topics beyond the bound.
    others: Arc<TopicMeters>,
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

type LagGauge = (&'static str, &'static str, fn(&Lag) -> f64);

const LAG_GAUGES: [LagGauge; 3] = [
    ("quorate_replicas_behind", "Replicas on that peer that lack records, of partitions led here.", |lag| {
        lag.replicas as f64
    }),
    ("quorate_replica_lag_records", "Records that these replicas lack, together.", |lag| lag.records as f64),
    (
        "quorate_replica_lag_seconds",
        "For how long the oldest record that one of them lacks has waited.",
        |lag| lag.time.as_secs_f64(),
    ),
];

const REFUSED: &str = "quorate_refused_requests_total";
const REFUSED_HELP: &str = "Requests of clients that were refused or whose outcome is not known, by reason.";

macro_rules! meters {
    ($($(#[doc = $help:literal])+ $field:ident: $kind:ident = $name:literal,)+) => {
        /// All that one node counts and measures. Each field's words are the help of its metric.
        #[derive(Debug, Default)]
        pub struct Meters {
            $($(#[doc = $help])+ pub $field: $kind,)+
            topics: Mutex<Topics>,
            refused: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
            lags: Mutex<BTreeMap<NodeId, Lag>>,
        }

        impl Meters {
            fn write_fields(&self, page: &mut Page) {
                $(self.$field.write(page, $name, concat!($($help),+));)+
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
    /// Time that a batch spends in each stage: queue (from its admission until it is proposed), replicate (from then until
    /// a majority has it and it is applied here); of all groups, as leader or not: sync (from an append until it lies on
    /// this node's disk), apply (of a run of committed entries).
    stage_queue: Times = "quorate_produce_stage_seconds{stage=\"queue\"}",
    /// See the first one of this name.
    stage_replicate: Times = "quorate_produce_stage_seconds{stage=\"replicate\"}",
    /// See the first one of this name.
    stage_apply: Times = "quorate_produce_stage_seconds{stage=\"apply\"}",
    /// See the first one of this name.
    stage_sync: Times = "quorate_produce_stage_seconds{stage=\"sync\"}",
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
        topics.named.retain(|_, meters| meters.strong_count() > 0);
        if topics.named.len() >= topics_max {
            return Arc::clone(&topics.others);
        }
        let meters = Arc::new(TopicMeters::default());
        topics.named.insert(name.clone(), Arc::downgrade(&meters));
        meters
    }

    /// A client's request, of a kind such as `produce`, was answered with this code.
    pub fn refused(&self, request: &'static str, code: ErrorCode) {
        *lock(&self.refused).entry((request, code.as_str_name())).or_default() += 1;
    }

    /// How often requests of a kind were answered with this code.
    pub fn refusals(&self, request: &'static str, code: ErrorCode) -> u64 {
        lock(&self.refused).get(&(request, code.as_str_name())).copied().unwrap_or(0)
    }

    /// How far the peers are behind now; those that are not named are not followed from here any more.
    pub fn set_lags(&self, lags: BTreeMap<NodeId, Lag>) {
        *lock(&self.lags) = lags;
    }

    /// All of it, in Prometheus' text form (version 0.0.4).
    pub fn render(&self) -> String {
        let mut page = Page::default();
        self.write_fields(&mut page);
        let topics: Vec<(String, Arc<TopicMeters>)> = {
            let topics = lock(&self.topics);
            let named = topics.named.iter();
            let named = named.filter_map(|(name, meters)| Some((name.to_string(), meters.upgrade()?)));
            named.chain([(String::new(), Arc::clone(&topics.others))]).collect()
        };
        for (name, help, counter) in TOPIC_COUNTERS {
            page.family(name, "counter", help);
            for (topic, meters) in &topics {
                page.sample(name, &format!("topic=\"{topic}\""), counter(meters).get());
            }
        }
        page.family(REFUSED, "counter", REFUSED_HELP);
        for ((request, code), count) in &*lock(&self.refused) {
            let reason = code.trim_start_matches("ERROR_CODE_").to_ascii_lowercase();
            page.sample(REFUSED, &format!("request=\"{request}\",reason=\"{reason}\""), *count);
        }
        let lags = lock(&self.lags).clone();
        for (name, help, value) in LAG_GAUGES {
            page.family(name, "gauge", help);
            for (peer, lag) in &lags {
                page.sample(name, &format!("peer=\"{peer}\""), value(lag));
            }
        }
        page.text
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn join(one: &str, other: &str) -> String {
    if one.is_empty() { other.to_owned() } else { format!("{one},{other}") }
}

/// What is being written: the families one after the other, each with its help and its kind first.
#[derive(Default)]
struct Page {
    text: String,
    family: &'static str,
}

impl Page {
    /// Begins a family, unless it is the one that was begun last.
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        if self.family != name {
            self.family = name;
            let help = help.trim();
            self.line(format_args!("# HELP {name} {help}"));
            self.line(format_args!("# TYPE {name} {kind}"));
        }
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl fmt::Display) {
        if labels.is_empty() {
            self.line(format_args!("{name} {value}"));
        } else {
            self.line(format_args!("{name}{{{labels}}} {value}"));
        }
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("a string grows as needed");
    }
}

/// A name as it is declared, cut into name and labels.
fn cut(name: &'static str) -> (&'static str, &'static str) {
    name.strip_suffix('}').and_then(|name| name.split_once('{')).unwrap_or((name, ""))
}

impl Counter {
    fn write(&self, page: &mut Page, name: &'static str, help: &str) {
        let (name, labels) = cut(name);
        page.family(name, "counter", help);
        page.sample(name, labels, self.get());
    }
}

impl Gauge {
    fn write(&self, page: &mut Page, name: &'static str, help: &str) {
        let (name, labels) = cut(name);
        page.family(name, "gauge", help);
        page.sample(name, labels, self.get());
    }
}

impl Times {
    fn write(&self, page: &mut Page, name: &'static str, help: &str) {
        let (name, labels) = cut(name);
        page.family(name, "histogram", help);
        self.0.write(page, name, labels, NANOS);
    }
}

impl Sizes {
    fn write(&self, page: &mut Page, name: &'static str, help: &str) {
        let (name, labels) = cut(name);
        page.family(name, "histogram", help);
        self.0.write(page, name, labels, 1.0);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn lines<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
        text.lines().filter(|line| line.starts_with(start)).collect()
    }

    #[test]
    fn a_page_names_each_family_once_and_each_sample_once() {
        let metrics = Metrics::default();
        let topic = metrics.topic(&"t".parse().unwrap(), 10);
        topic.produce_records.add(3);
        metrics.refused("produce", ErrorCode::NotLeader);
        metrics.set_lags(BTreeMap::from([(
            NodeId(2),
            Lag { replicas: 1, records: 5, time: Duration::from_millis(1_500) },
        )]));
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
            "quorate_refused_requests_total{request=\"produce\",reason=\"not_leader\"} 1",
            "quorate_replica_lag_records{peer=\"2\"} 5",
            "quorate_replica_lag_seconds{peer=\"2\"} 1.5",
            "# HELP quorate_ready Whether this node can commit: 1 or 0.",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_histogram_counts_up_to_each_bound() {
        let metrics = Metrics::default();
        metrics.commit_time.observe(Duration::from_micros(50));
        metrics.commit_time.observe(Duration::from_micros(51));
        metrics.commit_time.observe(Duration::from_secs(20));
        metrics.stage_sync.observe(Duration::from_millis(1));
        let text = metrics.render();
        let all = lines(&text, "quorate_storage_commit_seconds");
        assert_eq!(all[0], "quorate_storage_commit_seconds_bucket{le=\"0.00005\"} 1");
        assert_eq!(all[1], "quorate_storage_commit_seconds_bucket{le=\"0.0001\"} 2");
        assert!(all.contains(&"quorate_storage_commit_seconds_bucket{le=\"10\"} 2"), "{all:?}");
        assert!(all.contains(&"quorate_storage_commit_seconds_bucket{le=\"+Inf\"} 3"), "{all:?}");
        assert!(all.contains(&"quorate_storage_commit_seconds_count 3"), "{all:?}");
        let stage = "quorate_produce_stage_seconds_count{stage=\"sync\"} 1";
        assert_eq!(lines(&text, "quorate_produce_stage_seconds_count{stage=\"sync\"}"), [stage]);
        assert_eq!(metrics.commit_time.count(), 3);
    }

    #[test]
    fn topics_are_bounded_and_leave_with_whoever_measures_them() {
        let metrics = Metrics::default();
        let name = |name: &str| name.parse::<TopicName>().unwrap();
        let one = metrics.topic(&name("one"), 1);
        let other = metrics.topic(&name("two"), 1);
        other.fetches.add(7);
        assert!(Arc::ptr_eq(&one, &metrics.topic(&name("one"), 1)));
        let text = metrics.render();
        assert_eq!(
            lines(&text, "quorate_fetch_requests_total"),
            ["quorate_fetch_requests_total{topic=\"one\"} 0", "quorate_fetch_requests_total{topic=\"\"} 7"]
        );
        drop(one);
        assert!(!metrics.render().contains("topic=\"one\""));
        let two = metrics.topic(&name("two"), 1);
        two.fetches.add(1);
        assert!(metrics.render().contains("quorate_fetch_requests_total{topic=\"two\"} 1"));
    }
}
