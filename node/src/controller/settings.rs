//! The one table of a topic's settings: their names, what each may be, and what it is if nobody says. Pure.
//!
//! Names and meaning are Kafka's. A setting of Kafka's that is not honoured here is refused with the reason, so that
//! nothing is ever kept that nobody goes by.

use std::ops::RangeInclusive;

use crate::config::nearest;
use crate::metadata::{Retention, TimestampType, TopicConfig};

/// `max.message.bytes` lies in this range: below is no batch, and above one entry would hold up a peer's lane.
const MESSAGE_BYTES: RangeInclusive<u32> = 61..=64 << 20;

/// Longest name or value that a sentence shows as a whole, in characters; a longer name is like none that we know.
const SHOWN_MAX: usize = 100;

/// One setting, with a value that is possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// `max.message.bytes`; the door goes by it.
    MessageBytesMax(u32),
    /// `message.timestamp.type`; the door and the batcher go by it.
    TimestampType(TimestampType),
    /// `retention.ms`; the leader goes by it when it raises the log start.
    RetentionMs(Option<u64>),
    /// `retention.bytes`; the leader goes by it when it raises the log start.
    RetentionBytes(Option<u64>),
}

impl Setting {
    /// Makes it so.
    pub(super) fn apply(self, config: &mut TopicConfig) {
        match self {
            Self::MessageBytesMax(bytes) => config.message_bytes_max = bytes,
            Self::TimestampType(timestamp_type) => config.timestamp_type = timestamp_type,
            Self::RetentionMs(ms) => config.retention.ms = ms,
            Self::RetentionBytes(bytes) => config.retention.bytes = bytes,
        }
    }

    /// Its value as people write it.
    fn text(self) -> String {
        match self {
            Self::MessageBytesMax(bytes) => bytes.to_string(),
            Self::TimestampType(TimestampType::CreateTime) => "CreateTime".to_owned(),
            Self::TimestampType(TimestampType::LogAppendTime) => "LogAppendTime".to_owned(),
            Self::RetentionMs(bound) | Self::RetentionBytes(bound) => {
                bound.map_or_else(|| "-1".to_owned(), |bound| bound.to_string())
            }
        }
    }
}

/// A row of the table.
struct Key {
    name: &'static str,
    /// What it may be, for people: follows "must be".
    range: &'static str,
    read: fn(&str) -> Option<Setting>,
    of: fn(TopicConfig) -> Setting,
}

/// What can be set, in order of the names.
static KEYS: [Key; 4] = [
    Key {
        name: "max.message.bytes",
        range: "a number from 61 to 67108864",
        read: |text| {
            text.parse().ok().filter(|bytes| MESSAGE_BYTES.contains(bytes)).map(Setting::MessageBytesMax)
        },
        of: |config| Setting::MessageBytesMax(config.message_bytes_max),
    },
    Key {
        name: "message.timestamp.type",
        range: "CreateTime or LogAppendTime",
        read: |text| match text {
            "CreateTime" => Some(Setting::TimestampType(TimestampType::CreateTime)),
            "LogAppendTime" => Some(Setting::TimestampType(TimestampType::LogAppendTime)),
            _ => None,
        },
        of: |config| Setting::TimestampType(config.timestamp_type),
    },
    Key {
        name: "retention.bytes",
        range: "a number of bytes from 0 (keeps nothing) to 9223372036854775807, or -1 (without a bound)",
        read: |text| bound(text).map(Setting::RetentionBytes),
        of: |TopicConfig { retention: Retention { bytes, .. }, .. }| Setting::RetentionBytes(bytes),
    },
    Key {
        name: "retention.ms",
        range: "a number of ms from 0 (keeps nothing) to 9223372036854775807, or -1 (without a bound)",
        read: |text| bound(text).map(Setting::RetentionMs),
        of: |TopicConfig { retention: Retention { ms, .. }, .. }| Setting::RetentionMs(ms),
    },
];

/// Reads a bound: -1 is none.
fn bound(text: &str) -> Option<Option<u64>> {
    match text.parse::<i64>().ok()? {
        -1 => Some(None),
        bound => u64::try_from(bound).ok().map(Some),
    }
}

const NO_COMPACTION: &str = "there is no compaction";
const VOLUMES: &str = "all partitions of a node share its volumes, see storage.volume_bytes_max of the node";
const ALWAYS_SYNCED: &str = "a record is acknowledged when it lies synced on the disks of a majority, always";
const QUORUM: &str = "there is no set of in-sync replicas: a majority of the replicas decides, always";
const NO_TIERS: &str = "there is no remote storage";
const NO_THROTTLE: &str = "replication is not throttled by topic";
const TIMESTAMPS: &str = "the node's partition.timestamp_ahead_ms_max says how far ahead a record may be";
const NO_OLD_FORMAT: &str = "there is one format of record batches, v2";

/// Kafka's settings of topics that are not honoured, each with the reason, in order of the names.
static NOT_HONOURED: [(&str, &str); 31] = [
    (
        "cleanup.policy",
        "what is beyond its retention is deleted, as delete says (retention.ms, retention.bytes); there is no compaction",
    ),
    ("compression.gzip.level", "batches stay as their producers compressed them"),
    ("compression.lz4.level", "batches stay as their producers compressed them"),
    ("compression.type", "batches stay as their producers compressed them"),
    ("compression.zstd.level", "batches stay as their producers compressed them"),
    ("delete.retention.ms", NO_COMPACTION),
    ("file.delete.delay.ms", VOLUMES),
    ("flush.messages", ALWAYS_SYNCED),
    ("flush.ms", ALWAYS_SYNCED),
    ("follower.replication.throttled.replicas", NO_THROTTLE),
    ("index.interval.bytes", VOLUMES),
    ("leader.replication.throttled.replicas", NO_THROTTLE),
    ("local.retention.bytes", NO_TIERS),
    ("local.retention.ms", NO_TIERS),
    ("max.compaction.lag.ms", NO_COMPACTION),
    ("message.downconversion.enable", NO_OLD_FORMAT),
    ("message.format.version", NO_OLD_FORMAT),
    ("message.timestamp.after.max.ms", TIMESTAMPS),
    ("message.timestamp.before.max.ms", "a record may be as old as its producer says"),
    ("message.timestamp.difference.max.ms", TIMESTAMPS),
    ("min.cleanable.dirty.ratio", NO_COMPACTION),
    ("min.compaction.lag.ms", NO_COMPACTION),
    ("min.insync.replicas", QUORUM),
    ("preallocate", VOLUMES),
    ("remote.log.copy.disable", NO_TIERS),
    ("remote.storage.enable", NO_TIERS),
    ("segment.bytes", VOLUMES),
    ("segment.index.bytes", VOLUMES),
    ("segment.jitter.ms", VOLUMES),
    ("segment.ms", VOLUMES),
    ("unclean.leader.election.enable", "a leader that lacks acknowledged records is never elected"),
];

/// The row of a name.
fn key(name: &str) -> Result<&'static Key, String> {
    if let Some(key) = KEYS.iter().find(|key| key.name == name) {
        return Ok(key);
    }
    if let Some((_, why)) = NOT_HONOURED.iter().find(|(other, _)| *other == name) {
        return Err(format!("config key {name:?} is not honoured: {why}"));
    }
    let known = KEYS.iter().map(|key| key.name);
    let all = known.clone().chain(NOT_HONOURED.iter().map(|(other, _)| *other));
    let meant = if name.len() > SHOWN_MAX { None } else { nearest(name, all) };
    let meant = meant.map(|meant| format!(", did you mean {meant:?}?")).unwrap_or_default();
    let known = known.collect::<Vec<_>>().join(", ");
    Err(format!("unknown config key {}{meant} (there are {known})", quoted(name)))
}

/// What somebody sent, as it stands in a sentence: cut, for it may be of any length.
fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Whether a topic can be set by that name.
///
/// # Errors
/// A sentence that says what it is instead, or which name is nearest.
pub fn check_key(name: &str) -> Result<(), String> {
    key(name).map(|_| ())
}

/// Reads names with values; without one a setting goes back to its default.
///
/// # Errors
/// A sentence that names the first mistake, and what is possible.
pub(super) fn settings<'a>(
    entries: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) -> Result<Vec<Setting>, String> {
    let mut seen: Vec<&str> = Vec::new();
    let mut settings = Vec::new();
    for (name, value) in entries {
        if seen.contains(&name) {
            return Err(format!("config key {} is given twice", quoted(name)));
        }
        seen.push(name);
        let key = key(name)?;
        settings.push(match value {
            Some(value) => (key.read)(value)
                .ok_or_else(|| format!("{name} must be {}, not {}", key.range, quoted(value)))?,
            None => (key.of)(TopicConfig::default()),
        });
    }
    Ok(settings)
}

/// The configuration of a topic that is created with these.
///
/// # Errors
/// As [`settings`].
pub(super) fn config(entries: &[(String, String)]) -> Result<TopicConfig, String> {
    let mut config = TopicConfig::default();
    for setting in settings(entries.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))))? {
        setting.apply(&mut config);
    }
    Ok(config)
}

/// A topic's configuration by Kafka's names, in order of the names.
pub fn describe(config: TopicConfig) -> Vec<(&'static str, String)> {
    KEYS.iter().map(|key| (key.name, (key.of)(config).text())).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// `name=value`, or `name` for its default; what a topic with other values than the defaults becomes.
    fn check(line: &str, expected: Expect) {
        let entries = line.split_whitespace().map(|word| match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        });
        let mut config = TopicConfig {
            message_bytes_max: 99,
            timestamp_type: TimestampType::LogAppendTime,
            retention: Retention { ms: Some(5), bytes: Some(6) },
        };
        let seen = match settings(entries) {
            Ok(settings) => {
                settings.into_iter().for_each(|setting| setting.apply(&mut config));
                let values: Vec<_> = describe(config).into_iter().map(|(_, value)| value).collect();
                values.join(" ")
            }
            Err(why) => why,
        };
        expected.assert_eq(&seen);
    }

    #[test]
    fn what_is_possible_is_taken_and_the_rest_stays() {
        check("", expect!["99 LogAppendTime 6 5"]);
        check("retention.ms=1000", expect!["99 LogAppendTime 6 1000"]);
        check("retention.ms=0 retention.bytes=0", expect!["99 LogAppendTime 0 0"]);
        check("retention.ms=-1 retention.bytes=-1", expect!["99 LogAppendTime -1 -1"]);
        check("retention.bytes=9223372036854775807", expect!["99 LogAppendTime 9223372036854775807 5"]);
        check("max.message.bytes=61 message.timestamp.type=CreateTime", expect!["61 CreateTime 6 5"]);
        check("max.message.bytes=67108864", expect!["67108864 LogAppendTime 6 5"]);
    }

    #[test]
    fn without_a_value_a_setting_goes_back_to_its_default() {
        check("retention.ms", expect!["99 LogAppendTime 6 604800000"]);
        check(
            "max.message.bytes message.timestamp.type retention.bytes retention.ms",
            expect!["1048588 CreateTime -1 604800000"],
        );
        check("retention.ms retention.bytes=7", expect!["99 LogAppendTime 7 604800000"]);
    }

    #[test]
    fn what_is_not_possible_is_refused_with_what_is() {
        for value in ["-2", "-9223372036854775808", "9223372036854775808", "1.5", "1h", "five", ""] {
            for name in ["retention.ms", "retention.bytes"] {
                let why = settings([(name, Some(value))]).unwrap_err();
                let said = format!("not {value:?}");
                assert!(why.starts_with(name) && why.ends_with(&said), "{why}");
                let range = "from 0 (keeps nothing) to 9223372036854775807, or -1 (without a bound)";
                assert!(why.contains(range), "{why}");
            }
        }
        for value in ["60", "67108865", "-1", "4294967296", "many", ""] {
            let why = settings([("max.message.bytes", Some(value))]).unwrap_err();
            assert_eq!(why, format!("max.message.bytes must be a number from 61 to 67108864, not {value:?}"));
        }
        check(
            "message.timestamp.type=createtime",
            expect![[r#"message.timestamp.type must be CreateTime or LogAppendTime, not "createtime""#]],
        );
        check("retention.ms=5 retention.ms=6", expect![[r#"config key "retention.ms" is given twice"#]]);
        check("retention.ms=5 retention.ms", expect![[r#"config key "retention.ms" is given twice"#]]);
    }

    #[test]
    fn unknown_names_are_told_the_nearest() {
        let known = "(there are max.message.bytes, message.timestamp.type, retention.bytes, retention.ms)";
        for (name, meant) in [
            ("max.mesage.bytes", "max.message.bytes"),
            ("retention.mss", "retention.ms"),
            ("Retention.Bytes", "retention.bytes"),
            ("cleanup.polcy", "cleanup.policy"),
            ("segment.byte", "segment.bytes"),
        ] {
            let why = settings([(name, Some("1"))]).unwrap_err();
            assert_eq!(why, format!("unknown config key {name:?}, did you mean {meant:?}? {known}"));
            assert_eq!(check_key(name), Err(why));
        }
        let why = settings([("colour", None)]).unwrap_err();
        assert_eq!(why, format!("unknown config key \"colour\" {known}"));
        assert!(check_key("").is_err());
    }

    #[test]
    fn what_is_long_is_shown_cut() {
        let long = "ü".repeat(10_000_000);
        let shown = format!("{:?}...", "ü".repeat(SHOWN_MAX));
        let why = settings([(long.as_str(), None)]).unwrap_err();
        assert!(why.starts_with(&format!("unknown config key {shown} (there are ")), "{why}");
        let why = settings([("retention.ms", Some(long.as_str()))]).unwrap_err();
        assert!(why.ends_with(&format!(", not {shown}")), "{why}");
    }

    #[test]
    fn what_is_not_honoured_is_refused_with_the_reason_whatever_its_value() {
        for (name, why) in NOT_HONOURED {
            for value in [Some("1"), Some("delete"), None] {
                let said = settings([(name, value)]).unwrap_err();
                assert_eq!(said, format!("config key {name:?} is not honoured: {why}"));
            }
            assert!(KEYS.iter().all(|key| key.name != name), "{name} is in both tables");
        }
        assert!(NOT_HONOURED.is_sorted_by_key(|(name, _)| *name));
        assert!(KEYS.is_sorted_by_key(|key| key.name));
    }

    #[test]
    fn the_range_that_is_told_is_the_one_that_is_checked() {
        let told = format!("a number from {} to {}", MESSAGE_BYTES.start(), MESSAGE_BYTES.end());
        assert_eq!(key("max.message.bytes").map(|key| key.range), Ok(told.as_str()));
    }

    #[test]
    fn every_value_is_read_as_it_is_shown() {
        for config in [
            TopicConfig::default(),
            TopicConfig {
                message_bytes_max: 61,
                timestamp_type: TimestampType::LogAppendTime,
                retention: Retention { ms: None, bytes: Some(0) },
            },
        ] {
            for (name, value) in describe(config) {
                let key = key(name).unwrap();
                assert_eq!((key.read)(&value), Some((key.of)(config)), "{name}={value}");
                assert!(check_key(name).is_ok());
            }
        }
    }
}
