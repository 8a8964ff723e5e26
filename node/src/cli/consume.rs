//! `quorate consume`: records to standard output.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use futures_util::FutureExt;
use quorate_client::{
    Admin, AdminError, Client, ConsumedRecord, Consumer, ConsumerConfig, Offset, OffsetAt, PartitionId,
    Partitions, RecordHeader, Start, Timestamp, TopicName,
};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::output::Output;
use super::reach::{no_majority, patiently};
use super::start_at::{From, parse_from};
use super::{Failure, Global, number};

/// When nothing has come for this long, it is asked whether there is a server at all...
const QUIET: Duration = Duration::from_millis(500);
/// ...and again this long after one has answered.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// While records come without a pause, an interruption is looked for each time so many were printed.
const LOOK_UP_EVERY: u64 = 1_024;

/// What `quorate consume` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate consume lines                               what comes from now on
  quorate consume lines --from beginning --until-end  all there is, then end
  quorate consume lines --from -10 --format json      ten of each partition, and on
  quorate consume lines --from @2026-01-31T12:00:00Z  from a moment on

--format json prints a line per record:
  {\"partition\",\"offset\",\"timestamp\",\"key\",\"value\",
   \"headers\":[{\"key\",\"value\"}]}
Timestamps are Unix milliseconds; what is not UTF-8 is {\"base64\":\"..\"}.")]
pub(crate) struct ConsumeArgs {
    /// The topic's name.
    topic: TopicName,
    /// Only this partition [default: all, and those that are added later].
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number::<i32>(0..=i32::MAX))]
    partition: Option<i32>,
    /// Where to begin: beginning, end, an OFFSET, -N for the last N of each partition, or @TIME for the first record
    /// at or after a time (Unix milliseconds or RFC 3339).
    #[arg(long, value_name = "WHERE", default_value = "end", allow_hyphen_values = true, value_parser = parse_from)]
    from: From,
    /// End at what each partition held when the command began.
    #[arg(long)]
    until_end: bool,
    /// End after this many records.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<u64>(0..=u64::MAX))]
    max: Option<u64>,
    /// What to print of each record.
    #[arg(long, value_enum, default_value_t = Format::Value)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The value and a line end.
    Value,
    /// One JSON document a line.
    Json,
}

/// Reads and prints.
pub(crate) async fn run(global: Global, args: ConsumeArgs) -> Result<(), Failure> {
    let client = Client::grpc(global.servers.addresses());
    let admin = client.admin();
    let ranges = patiently(&client, "10 s", ranges(&admin, &args.topic, args.partition)).await?;
    let mut consumer = client.consumer(ConsumerConfig::default());
    for (partition, start) in starts(args.from, &args.topic, &ranges)? {
        consumer.assign(args.topic.as_str(), Partitions::Only(vec![partition]), start).await?;
    }
    if args.partition.is_none() && !args.until_end {
        consumer.assign_added(args.topic.as_str(), ranges.len()).await?;
    }
    let until =
        args.until_end.then(|| ranges.iter().map(|(partition, range)| (*partition, range.end)).collect());
    let interrupt = signal(SignalKind::interrupt())?;
    let (left, has_end) = (args.max.unwrap_or(u64::MAX), args.max.is_some() || args.until_end);
    let topic = args.topic;
    let mut reading = Reading { consumer, admin, topic, until, left, has_end, interrupt, doubted: false };
    let mut out = Output::new();
    let read = reading.print(&mut out, args.format).await;
    out.flush()?;
    read
}

/// What can be read of a partition at this moment: offsets `start..end`.
type Readable = std::ops::Range<Offset>;

/// What can be read of the topic's partitions, or of one of them.
async fn ranges(
    admin: &Admin,
    topic: &TopicName,
    only: Option<i32>,
) -> Result<Vec<(PartitionId, Readable)>, Failure> {
    let description = admin.describe_topic(topic.as_str()).await?;
    let count = description.partitions.len();
    if let Some(only) = only
        && !description.partitions.iter().any(|partition| partition.partition.0 == only)
    {
        return Err(Failure::work(format!("topic {topic} has no partition {only}, only 0 to {}", count - 1)));
    }
    let mut ranges = Vec::with_capacity(count);
    for partition in description.partitions {
        let id = partition.partition;
        if only.is_some_and(|only| only != id.0) {
            continue;
        }
        // A partition may just be changing its leader: then each offset is asked for, with patience.
        let end = match partition.high_watermark {
            Some(end) => end,
            None => lookup(admin, topic, id, OffsetAt::Latest).await?,
        };
        let start = match partition.log_start_offset {
            Some(start) => start,
            None => lookup(admin, topic, id, OffsetAt::Earliest).await?,
        };
        ranges.push((id, start..end));
    }
    Ok(ranges)
}

async fn lookup(admin: &Admin, topic: &TopicName, id: PartitionId, at: OffsetAt) -> Result<Offset, Failure> {
    let found = admin.list_offset(topic.as_str(), id, at).await?;
    found
        .map(|found| found.offset)
        .ok_or_else(|| Failure::work(format!("partition {id} of {topic} has no offsets")))
}

/// Where a consumer is to begin in a partition. The error is an offset that cannot be read.
fn start(from: From, readable: &Readable) -> Result<Start, Offset> {
    match from {
        From::Beginning => Ok(Start::Beginning),
        // The end as it was found, so that nothing written meanwhile is passed over.
        From::End => Ok(Start::Offset(readable.end)),
        From::Offset(offset) => {
            let fits = (readable.start.0..=readable.end.0).contains(&offset);
            if fits { Ok(Start::Offset(Offset(offset))) } else { Err(Offset(offset)) }
        }
        From::Last(count) => {
            Ok(Start::Offset(Offset(readable.end.0.saturating_sub(count).max(readable.start.0))))
        }
        From::Time(time) => Ok(Start::Timestamp(Timestamp(time))),
    }
}

/// Where a consumer is to begin in each partition. The error names all those that cannot be read from there.
fn starts(
    from: From,
    topic: &TopicName,
    ranges: &[(PartitionId, Readable)],
) -> Result<Vec<(PartitionId, Start)>, Failure> {
    let (mut starts, mut wrong) = (Vec::new(), Vec::new());
    for (partition, range) in ranges {
        match start(from, range) {
            Ok(start) => starts.push((*partition, start)),
            Err(offset) => wrong.push(format!(
                "offset {offset} of partition {partition} of {topic} is out of range: it can be read from {} to {}",
                range.start, range.end
            )),
        }
    }
    if wrong.is_empty() {
        Ok(starts)
    } else {
        Err(Failure::work(format!("{}; all that is there: --from beginning", wrong.join("; "))))
    }
}

struct Reading {
    consumer: Consumer,
    admin: Admin,
    topic: TopicName,
    /// Where to end in each partition, exclusive; absent to go on for ever.
    until: Option<BTreeMap<PartitionId, Offset>>,
    /// How many records may still be printed.
    left: u64,
    /// There is an end: an interruption comes before the work is done.
    has_end: bool,
    /// Caught from the start on: one that comes between two waits is seen all the same.
    interrupt: Signal,
    /// Whether it was said that there is no majority.
    doubted: bool,
}

impl Reading {
    /// Prints records until there is an end, nobody reads any more, or Ctrl-C.
    async fn print(&mut self, out: &mut Output, format: Format) -> Result<(), Failure> {
        if let Some(until) = &mut self.until {
            let (consumer, topic) = (&self.consumer, self.topic.as_str());
            // A start by time may lie at the end already.
            until.retain(|partition, end| consumer.position(topic, *partition).is_none_or(|at| at < *end));
        }
        while self.left > 0 && self.until.as_ref().is_none_or(|until| !until.is_empty()) {
            if self.left.is_multiple_of(LOOK_UP_EVERY) && self.interrupt.recv().now_or_never().is_some() {
                return interrupted(self.has_end);
            }
            let record = match self.consumer.next().now_or_never() {
                Some(record) => record?,
                None => {
                    if !out.flush()? {
                        return Ok(());
                    }
                    match self.wait().await? {
                        Some(record) => record,
                        None => return Ok(()),
                    }
                }
            };
            if self.takes(&record) {
                self.left -= 1;
                if !write(out, format, &record)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether a record lies before the end of its partition, which is crossed off when it is reached.
    fn takes(&mut self, record: &ConsumedRecord) -> bool {
        let Some(until) = &mut self.until else { return true };
        let Some(end) = until.get(&record.partition).copied() else { return false };
        if record.offset.plus(1) >= end {
            until.remove(&record.partition);
        }
        record.offset < end
    }

    /// Waits for a record. `None`: interrupted where there is no end, or nobody reads any more.
    async fn wait(&mut self) -> Result<Option<ConsumedRecord>, Failure> {
        let (admin, doubted, has_end) = (self.admin.clone(), &mut self.doubted, self.has_end);
        let no_server = async {
            tokio::time::sleep(QUIET).await;
            loop {
                match admin.cluster_status().await {
                    Err(error @ AdminError::NoServer(_)) => return error,
                    Ok(status) => {
                        let doubt = no_majority(&status);
                        if let Some(doubt) = doubt.as_ref().filter(|_| !*doubted) {
                            Output::note(doubt);
                        }
                        *doubted = doubt.is_some();
                    }
                    Err(_busy) => {}
                }
                tokio::time::sleep(ASK_AGAIN).await;
            }
        };
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => interrupted(has_end).map(|()| None),
            record = self.consumer.next() => Ok(Some(record?)),
            () = Output::closed() => Ok(None),
            error = no_server => Err(error.into()),
        }
    }
}

fn interrupted(has_end: bool) -> Result<(), Failure> {
    if has_end { Err(Failure::Interrupted("interrupted before the end")) } else { Ok(()) }
}

/// What `--format json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    partition: i32,
    offset: u64,
    /// Unix milliseconds.
    timestamp: i64,
    key: Option<Text<'a>>,
    value: Option<Text<'a>>,
    headers: Vec<ShownHeader<'a>>,
}

#[derive(Serialize)]
struct ShownHeader<'a> {
    key: Text<'a>,
    value: Option<Text<'a>>,
}

/// Bytes as JSON has them.
#[derive(Serialize)]
#[serde(untagged)]
enum Text<'a> {
    Utf8(&'a str),
    Bytes { base64: String },
}

impl<'a> Text<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Utf8(text),
            Err(_) => Self::Bytes { base64: STANDARD.encode(bytes) },
        }
    }
}

fn shown(record: &ConsumedRecord) -> Shown<'_> {
    Shown {
        partition: record.partition.0,
        offset: record.offset.0,
        timestamp: record.timestamp.0,
        key: record.key.as_deref().map(Text::of),
        value: record.value.as_deref().map(Text::of),
        headers: record.headers.iter().map(shown_header).collect(),
    }
}

fn shown_header(header: &RecordHeader) -> ShownHeader<'_> {
    ShownHeader { key: Text::of(&header.key), value: header.value.as_deref().map(Text::of) }
}

/// Writes a record. `Ok(false)`: nobody reads any more.
fn write(out: &mut Output, format: Format, record: &ConsumedRecord) -> Result<bool, Failure> {
    let still_read = match format {
        Format::Value => out.bytes(record.value.as_deref().unwrap_or_default())?,
        Format::Json => {
            let line = serde_json::to_vec(&shown(record)).expect("a record has only strings and numbers");
            out.bytes(&line)?
        }
    };
    Ok(still_read && out.bytes(b"\n")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_within_what_can_be_read() {
        let readable = Offset(3)..Offset(10);
        for (from, expected) in [
            (From::Beginning, Ok(Start::Beginning)),
            (From::End, Ok(Start::Offset(Offset(10)))),
            (From::Offset(3), Ok(Start::Offset(Offset(3)))),
            (From::Offset(10), Ok(Start::Offset(Offset(10)))),
            (From::Offset(2), Err(Offset(2))),
            (From::Offset(11), Err(Offset(11))),
            (From::Last(0), Ok(Start::Offset(Offset(10)))),
            (From::Last(4), Ok(Start::Offset(Offset(6)))),
            (From::Last(8), Ok(Start::Offset(Offset(3)))),
            (From::Last(100), Ok(Start::Offset(Offset(3)))),
        ] {
            assert_eq!(start(from, &readable), expected, "{from:?}");
        }
    }

    #[test]
    fn all_partitions_that_an_offset_does_not_fit_are_named() {
        let ranges: Vec<_> =
            (0..).map(PartitionId).zip([3, 9, 4]).map(|(p, end)| (p, Offset(0)..Offset(end))).collect();
        let topic = "t".parse().unwrap();
        assert_eq!(starts(From::Offset(2), &topic, &ranges).unwrap().len(), 3);
        let Err(Failure::Work(error)) = starts(From::Offset(5), &topic, &ranges) else { panic!("it fits") };
        let said = error.to_string();
        assert!(said.contains("partition 0 of t") && said.contains("partition 2 of t"), "{said}");
        assert!(!said.contains("partition 1"), "{said}");
    }

    #[test]
    fn json_keeps_what_is_no_text_and_what_is_absent() {
        let record = ConsumedRecord {
            topic: "t".parse().unwrap(),
            partition: PartitionId(1),
            offset: Offset(2),
            timestamp: Timestamp(-3),
            key: None,
            value: Some(vec![0xff].into()),
            headers: vec![
                RecordHeader { key: "a".into(), value: Some("\"1\"".into()) },
                RecordHeader { key: "a".into(), value: None },
            ],
        };
        let text = serde_json::to_string(&shown(&record)).unwrap();
        let expected = r#"{"partition":1,"offset":2,"timestamp":-3,"key":null,"value":{"base64":"/w=="},"headers":[{"key":"a","value":"\"1\""},{"key":"a","value":null}]}"#;
        assert_eq!(text, expected);
    }
}
