//! What the benchmarks of a cluster are told: the topic, the records, the producers, and for how long.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use quorate_client::{AdminError, Client, Compression, NewTopic, ProducerConfig, TopicName};
use quorate_proto::ErrorCode;
use quorate_proto::env::os;
use serde::Serialize;

use super::disk::positive_seconds;
use crate::cli::{Failure, number};

/// Records are drawn from a block of random letters of this size, and so are never all alike.
const BLOCK_BYTES: usize = 1 << 20;
/// The largest value that a line of a payload file may be; what a topic takes may be less.
const LINE_BYTES_MAX: usize = 1_000_000;

/// Partitions of a topic that is made, where nothing else is said.
pub(super) const PARTITIONS: u32 = 12;

/// The topic to load.
#[derive(Debug, Args)]
pub(super) struct TopicArgs {
    /// The topic, created if it is missing.
    #[arg(long, default_value = "bench")]
    pub(super) topic: TopicName,
    /// Partitions of the topic; one that is there must have as many if this is said [default: 12 of a new topic, 1 with
    /// `bench one`]
    #[arg(long, value_name = "N", value_parser = number::<u32>(1..=10_000))]
    pub(super) partitions: Option<u32>,
    /// Replicas of each partition, likewise [default: the cluster's own].
    #[arg(long, value_name = "N", value_parser = number::<u32>(1..=99))]
    pub(super) replicas: Option<u32>,
    /// Delete the topic first, with all that it holds.
    #[arg(long)]
    pub(super) fresh: bool,
}

/// A topic as it is.
#[derive(Clone, Debug)]
pub(super) struct Topic {
    pub(super) name: TopicName,
    pub(super) partitions: usize,
    pub(super) replicas: usize,
}

impl TopicArgs {
    /// Makes the topic, unless it is there as it should be. `partitions` are those of a new one if nothing is said.
    pub(super) async fn prepare(&self, client: &Client, partitions: u32) -> Result<Topic, Failure> {
        let admin = client.admin();
        if self.fresh {
            match admin.delete_topic(self.topic.as_str()).await {
                Ok(()) | Err(AdminError::Refused { code: ErrorCode::UnknownTopic, .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut new = NewTopic::new(self.topic.as_str()).partitions(self.partitions.unwrap_or(partitions));
        new.replicas = self.replicas;
        match admin.create_topic(new).await {
            Ok(_) | Err(AdminError::Refused { code: ErrorCode::TopicExists, .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let topic = admin.describe_topic(self.topic.as_str()).await?;
        let replicas = topic.partitions.iter().map(|partition| partition.replicas.len()).max().unwrap_or(0);
        let topic = Topic { name: self.topic.clone(), partitions: topic.partitions.len(), replicas };
        self.refuse_another(&topic)?;
        Ok(topic)
    }

    /// A figure of another topic than was asked for would be a wrong one.
    fn refuse_another(&self, topic: &Topic) -> Result<(), Failure> {
        let asked =
            [("partitions", self.partitions, topic.partitions), ("replicas", self.replicas, topic.replicas)];
        for (what, asked, there) in asked {
            if let Some(asked) = asked.filter(|asked| usize::try_from(*asked) != Ok(there)) {
                return Err(Failure::work(format!(
                    "topic {} is there with {there} {what}, not {asked}: give another --topic, or --fresh to delete it \
                     with all that it holds",
                    topic.name
                )));
            }
        }
        Ok(())
    }
}

/// What is sent.
#[derive(Debug, Args)]
pub(super) struct PayloadArgs {
    /// Bytes of each record's value.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number::<u32>(0..=1_000_000))]
    pub(super) record_bytes: u32,
    /// Send the lines of this file over and over instead.
    #[arg(long, value_name = "FILE", conflicts_with = "record_bytes")]
    pub(super) payload_file: Option<PathBuf>,
    /// Bytes of each record's key, drawn at random, so that every partition gets its share; 0 for no key.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = number::<u32>(0..=1_000))]
    pub(super) key_bytes: u32,
}

impl PayloadArgs {
    /// The values to send, over and over; of random ones `head` bytes are left out, which somebody else writes.
    pub(super) fn read(&self, head: usize) -> Result<Arc<Vec<Bytes>>, Failure> {
        let bytes = usize::try_from(self.record_bytes).expect("a u32 fits");
        let values = match (&self.payload_file, bytes.checked_sub(head)) {
            (Some(path), _) => lines_of(path)?,
            (None, Some(bytes)) => random_values(bytes),
            (None, None) => {
                let message = format!("--record-bytes {bytes} is too little here: at least {head}");
                return Err(Failure::Usage(message));
            }
        };
        Ok(Arc::new(values))
    }
}

/// How producers send.
#[derive(Debug, Args)]
pub(super) struct ProducerArgs {
    /// How many producers send at once, each with memory and connections of its own.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = number::<u32>(1..=1_000))]
    pub(super) producers: u32,
    /// When a batch is full, before compression.
    #[arg(long, value_name = "N", default_value_t = 64_000, value_parser = number::<u32>(1..=100_000_000))]
    pub(super) batch_bytes: u32,
    /// none, gzip, snappy, lz4 or zstd.
    #[arg(long, value_name = "KIND", default_value = "none")]
    pub(super) compression: Compression,
}

impl ProducerArgs {
    pub(super) fn config(&self, linger_ms: u32) -> ProducerConfig {
        ProducerConfig {
            linger: Duration::from_millis(linger_ms.into()),
            batch_bytes_max: usize::try_from(self.batch_bytes).expect("a u32 fits"),
            compression: self.compression,
            ..ProducerConfig::default()
        }
    }
}

/// How long, and what is made of it.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// How long to measure.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0, value_parser = positive_seconds)]
    pub(super) seconds: f64,
    /// How long to run before that, unmeasured.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = seconds)]
    pub(super) warmup: f64,
    /// Measure the bare disk under this folder first, and print it beside the rest.
    #[arg(long, value_name = "DIR")]
    pub(super) disk: Option<PathBuf>,
    /// Print one JSON document.
    #[arg(long)]
    pub(super) json: bool,
}

/// Reads a number of seconds, at most an hour.
fn seconds(text: &str) -> Result<f64, String> {
    if text.parse() == Ok(0.0) { Ok(0.0) } else { positive_seconds(text) }
}

/// What was asked for, as `--json` repeats it.
#[derive(Serialize)]
pub(super) struct Settings {
    topic: String,
    /// Of the topic as it is.
    partitions: usize,
    pub(super) replicas: usize,
    /// Null when the lines of a file were sent.
    record_bytes: Option<u32>,
    payload_file: Option<String>,
    key_bytes: u32,
    producers: u32,
    linger_ms: u32,
    batch_bytes: u32,
    compression: String,
    rate: Option<u32>,
    warmup_s: f64,
    seconds: f64,
    version: &'static str,
}

impl Settings {
    pub(super) fn new(
        topic: &Topic,
        payload: &PayloadArgs,
        producer: &ProducerArgs,
        linger_ms: u32,
        rate: Option<u32>,
        run: &RunArgs,
    ) -> Self {
        Self {
            topic: topic.name.to_string(),
            partitions: topic.partitions,
            replicas: topic.replicas,
            record_bytes: payload.payload_file.is_none().then_some(payload.record_bytes),
            payload_file: payload.payload_file.as_ref().map(|path| path.display().to_string()),
            key_bytes: payload.key_bytes,
            producers: producer.producers,
            linger_ms,
            batch_bytes: producer.batch_bytes,
            compression: producer.compression.to_string(),
            rate,
            warmup_s: run.warmup,
            seconds: run.seconds,
            version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// The lines of a file, without their ends.
fn lines_of(path: &Path) -> Result<Vec<Bytes>, Failure> {
    let text = std::fs::read(path)
        .map_err(|error| Failure::work(format!("cannot read {}: {error}", path.display())))?;
    let text = Bytes::from(text);
    let mut lines: Vec<_> = text.split(|byte| *byte == b'\n').map(|line| text.slice_ref(line)).collect();
    // Nothing stands after the last line end.
    lines.pop_if(|last| last.is_empty());
    if lines.is_empty() {
        return Err(Failure::work(format!("{} holds no lines", path.display())));
    }
    if let Some(at) = lines.iter().position(|line| line.len() > LINE_BYTES_MAX) {
        return Err(Failure::work(format!(
            "line {} of {} has {} bytes, and a record at most {LINE_BYTES_MAX}",
            at + 1,
            path.display(),
            lines[at].len()
        )));
    }
    Ok(lines)
}

/// Overlapping pieces of a block of random letters.
fn random_values(bytes: usize) -> Vec<Bytes> {
    let env = os();
    let letters: Vec<u8> = (0..(BLOCK_BYTES + bytes).div_ceil(8))
        .flat_map(|_| env.entropy.next_u64().to_le_bytes())
        .map(|byte| b'a' + byte % 26)
        .collect();
    let block = Bytes::from(letters);
    let values = (BLOCK_BYTES / bytes.max(64)).max(16);
    (0..values).map(|number| number * (BLOCK_BYTES / values)).map(|at| block.slice(at..at + bytes)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_file_are_values() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lines");
        let check = |text: &str, expected: &[&str]| {
            std::fs::write(&file, text).unwrap();
            assert_eq!(lines_of(&file).unwrap(), expected, "{text:?}");
        };
        check("a\n\nb", &["a", "", "b"]);
        check("a\n", &["a"]);
        check("\n", &[""]);
        let refused = |text: String, said: &str| {
            std::fs::write(&file, text).unwrap();
            let error = format!("{:?}", lines_of(&file).unwrap_err());
            assert!(error.contains(said), "{error}");
        };
        refused(String::new(), "holds no lines");
        refused(format!("a\n{}\n", "b".repeat(LINE_BYTES_MAX + 1)), "line 2 of ");
    }

    #[test]
    fn values_have_the_size_asked_for_and_differ() {
        for bytes in [0, 1, 100, 1_000_000] {
            let values = random_values(bytes);
            assert!(values.len() >= 16 && values.iter().all(|value| value.len() == bytes));
            assert!(bytes < 100 || values[0] != values[1]);
        }
    }

    #[test]
    fn a_topic_that_is_there_must_be_the_one_asked_for() {
        let topic = Topic { name: "t".parse().unwrap(), partitions: 4, replicas: 3 };
        let args = |partitions, replicas| TopicArgs {
            topic: topic.name.clone(),
            partitions,
            replicas,
            fresh: false,
        };
        for fits in [args(None, None), args(Some(4), None), args(Some(4), Some(3))] {
            assert!(fits.refuse_another(&topic).is_ok());
        }
        for (wrong, said) in
            [(args(Some(12), None), "4 partitions, not 12"), (args(None, Some(1)), "3 replicas, not 1")]
        {
            let error = format!("{:?}", wrong.refuse_another(&topic).unwrap_err());
            assert!(error.contains(said) && error.contains("--fresh"), "{error}");
        }
    }
}
