//! `quorate produce`: lines of a file or of standard input, a record each.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quorate_client::{
    Ack, Client, Compression, PartitionId, Producer, ProducerConfig, Reason, Record, RecordHeader, SendError,
    TopicName,
};
use quorate_proto::ErrorCode;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::lines::{LINE_BYTES_MAX, Line, Lines};
use super::output::Output;
use super::pace::Pace;
use super::reach::patiently;
use super::tally::{Fate, Tally};
use super::{Failure, Global, number};

/// Lines whose fate is waited for. Each takes some hundred bytes here, so that the producer's own memory is the tighter
/// bound for long lines only.
const IN_FLIGHT_MAX: usize = 1 << 18;
/// Lines that change hands at a time.
const PACK_MAX: usize = 1_024;
/// How often progress is shown.
const PROGRESS: Duration = Duration::from_millis(50);
/// Longer than anybody means to wait for one line.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How long lines in flight may still take after an interruption; a second one ends even that.
const AFTER_INTERRUPT: Duration = Duration::from_secs(3);
/// So many lines that were not acknowledged are named, the others counted.
const NAMED_MAX: u64 = 5;

/// What `quorate produce` takes.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  echo hello | quorate produce lines
  quorate produce lines --file access.log --rate 1000 --compression zstd
  printf 'k1:v1\\nk2:v2\\n' | quorate produce lines --key-separator : --header source=shell

A line is the record's value, without its line end; a last line without one is
sent too. A line that is larger than the topic's max.message.bytes allows is
passed over; after any other failure no more is read. The exit status is 0 only
if every line was acknowledged.

--json prints one document:
  {\"lines\",\"acked\",\"unknown\",\"failed\",\"elapsed_ms\",\"longest_ack_gap_ms\"}
acked: on the disks of a majority; unknown: perhaps written; failed: surely not.")]
pub(crate) struct ProduceArgs {
    /// The topic's name.
    topic: TopicName,
    /// Read this file instead of standard input.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Split each line at the first TEXT: what stands before it is the record's key. A line without it has no key.
    #[arg(long, value_name = "TEXT", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key_separator: Option<String>,
    /// A header for each record, may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_header)]
    header: Vec<RecordHeader>,
    /// Send to this partition [default: the same one for the same key; any for a record without a key].
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number::<i32>(0..=i32::MAX))]
    partition: Option<i32>,
    /// none, gzip, snappy, lz4 or zstd.
    #[arg(long, value_name = "KIND", default_value = "none")]
    compression: Compression,
    /// Send at most this many lines a second [default: as many as the cluster takes].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<u32>(1..=u32::MAX))]
    rate: Option<u32>,
    /// How long a line may take to be acknowledged, retries included, such as 500ms or 30s.
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = parse_timeout)]
    timeout: Duration,
    /// Print one JSON document at the end.
    #[arg(long)]
    json: bool,
    /// Write progress to standard error, a JSON document a line, twenty times a second.
    #[arg(long)]
    progress: bool,
}

/// Reads `key=value`; the key may be empty, the value hold further equals signs.
fn parse_header(text: &str) -> Result<RecordHeader, String> {
    let (key, value) = text.split_once('=').ok_or_else(|| "must be key=value".to_owned())?;
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    Ok(RecordHeader { key: bytes(key), value: Some(bytes(value)) })
}

/// Reads a duration such as `5s` or `1m 30s`.
fn parse_timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be above 0".to_owned()),
        Ok(time) if time > TIMEOUT_MAX => Err("must be at most a day".to_owned()),
        Ok(time) => Ok(time),
        Err(error) => Err(format!("{error}; write it like 5s or 500ms")),
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    lines: u64,
    acked: u64,
    unknown: u64,
    failed: u64,
    elapsed_ms: u128,
    longest_ack_gap_ms: u128,
}

/// What `--progress` prints.
#[derive(Serialize)]
struct Progress {
    lines: u64,
    acked: u64,
    unknown: u64,
    failed: u64,
    elapsed_ms: u128,
    /// How long no acknowledgement has come although a line waits for one; 0 if none waits.
    silent_ms: u128,
}

/// A line that was handed over, by its number from 1.
type Sent = (u64, Result<Ack, SendError>);

/// Why no more lines are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The input has ended.
    InputEnded,
    /// Ctrl-C, or a request to end.
    Interrupted,
    /// A line was not acknowledged, and the next ones would not be either.
    Failed,
}

/// Sends the lines.
pub(crate) async fn run(global: Global, args: ProduceArgs) -> Result<(), Failure> {
    let lines = match &args.file {
        None => Lines::read(io::stdin()),
        Some(path) => Lines::read(
            File::open(path)
                .map_err(|error| Failure::work(format!("cannot open {}: {error}", path.display())))?,
        ),
    };
    let config = ProducerConfig {
        compression: args.compression,
        delivery_timeout: args.timeout,
        ..ProducerConfig::default()
    };
    let client = Client::grpc(global.servers.addresses());
    let producer = client.producer(config);
    let job = Job {
        producer,
        shape: Shape {
            topic: args.topic.to_string(),
            separator: args.key_separator.map(String::into_bytes),
            headers: args.header,
            partition: args.partition.map(PartitionId),
        },
        start: Instant::now(),
        tally: RefCell::default(),
        offering: Cell::new(false),
        told: Cell::new(false),
        unread: RefCell::default(),
    };
    let show = Show::new(args.progress);
    let limit = format!("{} for each line", humantime::format_duration(args.timeout));
    let stop = patiently(&client, limit, job.send_all(lines, args.rate, &show)).await?;
    show.end();
    let elapsed = job.start.elapsed();
    let tally = job.tally.into_inner();
    let report = Report {
        lines: tally.lines,
        acked: tally.acked,
        unknown: tally.unknown,
        failed: tally.failed,
        elapsed_ms: elapsed.as_millis(),
        longest_ack_gap_ms: tally.longest_gap(elapsed).as_millis(),
    };
    Output::note(summary(&report, stop));
    if args.json {
        Output::new().json(&report)?;
    }
    if let Some(error) = job.unread.into_inner() {
        let source = args.file.map_or_else(|| "standard input".to_owned(), |path| path.display().to_string());
        return Err(Failure::work(format!("cannot read {source}: {error}")));
    }
    if tally.is_whole() && stop == Stop::InputEnded { Ok(()) } else { Err(Failure::Said) }
}

/// What is said at the end, on standard error.
fn summary(report: &Report, stop: Stop) -> String {
    let lines = |count: u64| if count == 1 { "1 line".to_owned() } else { format!("{count} lines") };
    let mut text = match stop {
        Stop::InputEnded => String::new(),
        Stop::Interrupted => "interrupted: ".to_owned(),
        Stop::Failed => "stopped: ".to_owned(),
    };
    text += &format!("{} acknowledged", lines(report.acked));
    if report.unknown > 0 {
        text += &format!(", {} perhaps written", lines(report.unknown));
    }
    if report.failed > 0 {
        text += &format!(", {} not written", lines(report.failed));
    }
    text + &format!(
        " in {:.1} s",
        Duration::from_millis(u64::try_from(report.elapsed_ms).unwrap_or(u64::MAX)).as_secs_f64()
    )
}

/// How a line becomes a record.
struct Shape {
    topic: String,
    separator: Option<Vec<u8>>,
    headers: Vec<RecordHeader>,
    partition: Option<PartitionId>,
}

impl Shape {
    fn record(&self, line: Bytes) -> Record {
        let (key, value) = match &self.separator {
            Some(separator) => split(line, separator),
            None => (None, line),
        };
        Record {
            key,
            value: Some(value),
            headers: self.headers.clone(),
            timestamp: None,
            partition: self.partition,
        }
    }
}

/// Splits a line at the first separator.
fn split(line: Bytes, separator: &[u8]) -> (Option<Bytes>, Bytes) {
    match line.windows(separator.len()).position(|window| window == separator) {
        Some(at) => (Some(line.slice(..at)), line.slice(at + separator.len()..)),
        None => (None, line),
    }
}

/// Whether lines after this one may fare better.
fn concerns_this_line_alone(error: &SendError) -> bool {
    match error.reason() {
        Reason::TooLarge { .. } => true,
        Reason::Refused { code, .. } => {
            matches!(code, ErrorCode::BatchTooLarge | ErrorCode::InvalidTimestamp)
        }
        Reason::TimedOut { .. }
        | Reason::TopicName(_)
        | Reason::UnknownTopic { .. }
        | Reason::TopicDeleted { .. }
        | Reason::UnknownPartition { .. }
        | Reason::EarlierBatch(_)
        | Reason::Closed => false,
    }
}

/// What to do about a line that was not acknowledged, behind the reason; empty if that says it.
fn advice(error: &SendError) -> String {
    if let Reason::UnknownTopic { topic } = error.reason() {
        // It was asked for: the nodes do not create topics by themselves.
        return format!(
            "; create it first (quorate topic create {topic}), or start the nodes with --auto-create-topics"
        );
    }
    String::new()
}

/// The state of one run. Everything happens in one task, so cells will do.
struct Job {
    producer: Producer,
    shape: Shape,
    start: Instant,
    tally: RefCell<Tally>,
    /// A line is being handed to the producer, which has not taken it yet.
    offering: Cell<bool>,
    /// It was said whether the topic had to be made.
    told: Cell<bool>,
    /// Why the input could not be read to its end.
    unread: RefCell<Option<io::Error>>,
}

impl Job {
    /// Sends until there is a reason to stop, then waits for the fate of what was handed over.
    async fn send_all(&self, lines: Lines, rate: Option<u32>, show: &Show) -> Result<Stop, Failure> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (tx, mut sent) = mpsc::channel(PACK_MAX);
        let mut feeding = Some(Box::pin(self.feed(lines, rate, tx)));
        let mut handed_over = Vec::new();
        let mut waiting = FuturesUnordered::new();
        let mut tick = tokio::time::interval(PROGRESS);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut stop = Stop::InputEnded;
        let mut give_up = None;
        let mut drained = false;
        while !(drained && waiting.is_empty()) {
            let mut interrupted = false;
            tokio::select! {
                biased;
                _ = interrupt.recv() => interrupted = true,
                _ = terminate.recv() => interrupted = true,
                () = at(give_up), if give_up.is_some() => break,
                _ = tick.tick() => show.progress(&self.tally.borrow(), self.start.elapsed()),
                Some(first) = waiting.next(), if !waiting.is_empty() => {
                    let mut next = Some(first);
                    while let Some((number, fate)) = next {
                        if !self.settle(number, fate, show) && stop == Stop::InputEnded {
                            stop = Stop::Failed;
                        }
                        next = waiting.next().now_or_never().flatten();
                    }
                }
                count = sent.recv_many(&mut handed_over, PACK_MAX), if !drained && waiting.len() < IN_FLIGHT_MAX => {
                    drained = count == 0;
                    waiting.extend(handed_over.drain(..).map(fate));
                }
                () = feed(&mut feeding), if feeding.is_some() => feeding = None,
            }
            if interrupted {
                if stop == Stop::Interrupted {
                    break;
                }
                stop = Stop::Interrupted;
                give_up = Some(tokio::time::Instant::now() + AFTER_INTERRUPT);
            }
            if stop != Stop::InputEnded && feeding.take().is_some() && self.offering.take() {
                // The producer never took it.
                self.tally.borrow_mut().withdraw();
            }
        }
        self.tally.borrow_mut().give_up(self.start.elapsed());
        Ok(stop)
    }

    /// Reads lines and hands them to the producer, at a rate if there is one.
    async fn feed(&self, mut lines: Lines, rate: Option<u32>, tx: mpsc::Sender<Sent>) {
        let pace = rate.map(|rate| Pace::new(self.start, rate));
        while let Some(pack) = lines.next().await {
            let pack = match pack {
                Ok(pack) => pack,
                Err(error) => {
                    *self.unread.borrow_mut() = Some(error);
                    return;
                }
            };
            for line in pack {
                let number = self.tally.borrow().lines + 1;
                if let Some(pace) = &pace {
                    pace.wait_for(number - 1).await;
                }
                match line {
                    Line::Whole(line) => {
                        self.tally.borrow_mut().offered(self.start.elapsed());
                        self.offering.set(true);
                        let ack = self.producer.send(&self.shape.topic, self.shape.record(line)).await;
                        self.offering.set(false);
                        if tx.send((number, ack)).await.is_err() {
                            return;
                        }
                    }
                    Line::TooLong(bytes) => {
                        self.tally.borrow_mut().refused();
                        Output::note(format!(
                            "line {number} was not written: its {bytes} bytes are more than the {LINE_BYTES_MAX} that any topic takes"
                        ));
                    }
                }
            }
        }
    }

    /// Counts a line's fate and says what went wrong. False if further lines would fare no better.
    fn settle(&self, number: u64, fate: Result<(), SendError>, show: &Show) -> bool {
        if !self.told.replace(true) {
            for topic in self.producer.topics_made() {
                show.note(&format!("topic {topic} did not exist and was created"));
            }
        }
        let mut tally = self.tally.borrow_mut();
        let now = self.start.elapsed();
        let Err(error) = fate else {
            tally.ended(Fate::Acked, now);
            return true;
        };
        let unknown = error.is_perhaps_written();
        tally.ended(if unknown { Fate::Unknown } else { Fate::Failed }, now);
        let named = tally.unknown + tally.failed;
        if named <= NAMED_MAX {
            let fate = if unknown { "was perhaps written" } else { "was not written" };
            show.note(&format!("line {number} {fate}: {}{}", error.reason(), advice(&error)));
        } else if named == NAMED_MAX + 1 {
            show.note("further lines were not acknowledged");
        }
        concerns_this_line_alone(&error)
    }
}

/// Polls the feeding, which is there.
async fn feed(feeding: &mut Option<impl Future<Output = ()> + Unpin>) {
    if let Some(feeding) = feeding {
        feeding.await;
    }
}

/// Waits for the answer to a line.
async fn fate((number, ack): Sent) -> (u64, Result<(), SendError>) {
    let fate = match ack {
        Ok(ack) => ack.await.map(drop),
        Err(error) => Err(error),
    };
    (number, fate)
}

/// Ends at that moment.
async fn at(moment: Option<tokio::time::Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// How progress is shown: a line that changes on a terminal, documents if they were asked for, or not at all.
struct Show {
    bar: ProgressBar,
    json: bool,
}

impl Show {
    fn new(json: bool) -> Self {
        let bar = match !json && io::stderr().is_terminal() {
            true => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
            false => ProgressBar::hidden(),
        };
        bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("the template is sound"));
        Self { bar, json }
    }

    fn progress(&self, tally: &Tally, elapsed: Duration) {
        if self.json {
            let progress = Progress {
                lines: tally.lines,
                acked: tally.acked,
                unknown: tally.unknown,
                failed: tally.failed,
                elapsed_ms: elapsed.as_millis(),
                silent_ms: tally.silent(elapsed).as_millis(),
            };
            Output::note(serde_json::to_string(&progress).expect("only numbers"));
        } else if !self.bar.is_hidden() {
            self.bar.set_message(format!("{} acknowledged, {} waiting", tally.acked, tally.waiting()));
            self.bar.tick();
        }
    }

    fn note(&self, text: &str) {
        self.bar.suspend(|| Output::note(text));
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_before_the_first_separator() {
        let check = |line: &'static str, key: Option<&'static str>, value: &'static str| {
            assert_eq!(split(line.into(), b"::"), (key.map(Bytes::from), value.into()), "{line}");
        };
        check("k::v", Some("k"), "v");
        check("k::v::w", Some("k"), "v::w");
        check("::v", Some(""), "v");
        check("k::", Some("k"), "");
        check("k:v", None, "k:v");
        check("", None, "");
    }

    #[test]
    fn headers_and_timeouts_are_read() {
        let header = parse_header("k=v=w").unwrap();
        assert_eq!((header.key, header.value), ("k".into(), Some("v=w".into())));
        assert!(parse_header("k").is_err());
        assert_eq!(parse_timeout("5s"), Ok(Duration::from_secs(5)));
        assert!(parse_timeout("0s").is_err());
        assert!(parse_timeout("100000d").is_err());
        assert!(parse_timeout("5").is_err());
    }

    #[test]
    fn the_summary_names_what_was_not_acknowledged() {
        let report =
            Report { lines: 4, acked: 1, unknown: 2, failed: 1, elapsed_ms: 1_250, longest_ack_gap_ms: 3 };
        let said = summary(&report, Stop::Interrupted);
        assert_eq!(
            said,
            "interrupted: 1 line acknowledged, 2 lines perhaps written, 1 line not written in 1.2 s"
        );
    }
}
