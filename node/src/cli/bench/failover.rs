//! `quorate bench failover`: nodes of a `quorate dev` are killed under load, and how long no acknowledgement comes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use quorate_client::{Ack, Admin, Client, NodeId, Producer, ProducerConfig, Record, SendError};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::sync::mpsc;

use super::args::{PayloadArgs, TopicArgs};
use super::times::{Percentiles, Times, times_table};
use super::usage::{CpuSeconds, Meter};
use crate::cli::output::{Output, milliseconds};
use crate::cli::pace::Pace;
use crate::cli::tally::{Fate, Tally};
use crate::cli::{Failure, dev, number, unasked_servers};

/// How long all is well before a node is killed, and how long it is watched afterwards at least.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(3);
/// Acknowledgements come again when the last one is not older than this.
const FLOWING: Duration = Duration::from_millis(200);
/// How long a cluster may take to be whole again.
const WHOLE_TIME_MAX: Duration = Duration::from_secs(120);
/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Records whose acknowledgement has not come; the producer's memory is the tighter bound.
const IN_FLIGHT_MAX: usize = 1 << 20;

/// What `quorate bench failover` takes.
#[derive(Args, Debug)]
#[command(
    after_help = "\
Examples:
  quorate dev & quorate bench failover --trials 50
  quorate bench failover --kind follower --data /tmp/three --json

A node is killed as `kill -9` does it; quorate dev starts it again, and the next trial begins when the cluster is whole. \
The topic has one partition, so that a gap is that of its records.",
    arg = unasked_servers()
)]
pub(crate) struct BenchFailoverArgs {
    /// The folder of the `quorate dev` whose nodes are killed.
    #[arg(long, value_name = "DIR", default_value = "./quorate-data")]
    data: PathBuf,
    /// Whom to kill.
    #[arg(long, value_enum, default_value_t = Kind::Leader)]
    kind: Kind,
    /// How often.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = number::<u32>(1..=10_000))]
    trials: u32,
    /// Records a second.
    #[arg(long, value_name = "N", default_value_t = 10_000, allow_negative_numbers = true, value_parser = number::<u32>(1..=1_000_000))]
    rate: u32,
    /// How long a batch waits for more records.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = number::<u32>(0..=60_000))]
    linger_ms: u32,
    #[command(flatten)]
    payload: PayloadArgs,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// The node that leads the partition.
    Leader,
    /// Another one that has a replica of it.
    Follower,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    /// The longest time without an acknowledgement, of each trial.
    gap_ms: Percentiles,
    trials: Vec<Trial>,
    /// That were acknowledged.
    records: u64,
    unacknowledged: u64,
    cpu_s: CpuSeconds,
    settings: Settings,
}

#[derive(Serialize)]
struct Trial {
    killed: u32,
    gap_ms: f64,
}

#[derive(Serialize)]
struct Settings {
    kind: Kind,
    rate: u32,
    linger_ms: u32,
    record_bytes: Option<u32>,
    version: &'static str,
}

/// Kills, measures and prints.
pub(crate) async fn run(args: BenchFailoverArgs) -> Result<(), Failure> {
    let values = args.payload.read(0)?;
    let servers: Vec<String> = dev::running(&args.data)?.into_iter().map(|place| place.grpc).collect();
    if servers.len() < 3 {
        return Err(Failure::work(format!(
            "the quorate dev in {} has {} nodes: of fewer than three, none can be killed and the rest go on",
            args.data.display(),
            servers.len()
        )));
    }
    let client = Client::grpc(servers);
    let topic = TopicArgs {
        topic: "bench-failover".parse().map_err(Failure::work)?,
        partitions: Some(1),
        replicas: Some(3),
        fresh: true,
    };
    topic.prepare(&client, 1).await?;
    let meter = Meter::find(&client).await;
    let before = meter.read().await;
    let config =
        ProducerConfig { linger: Duration::from_millis(args.linger_ms.into()), ..ProducerConfig::default() };
    let load = Arc::new(Load {
        producer: client.producer(config),
        topic: topic.topic.to_string(),
        start: Instant::now(),
        tally: Mutex::default(),
        first_error: Mutex::default(),
    });
    let loading = tokio::spawn(Arc::clone(&load).run(values, args.rate));
    let mut interrupt = crate::cli::signals()?;
    let mut report = Report {
        gap_ms: Times::new().percentiles(),
        trials: Vec::new(),
        records: 0,
        unacknowledged: 0,
        cpu_s: CpuSeconds::default(),
        settings: Settings {
            kind: args.kind,
            rate: args.rate,
            linger_ms: args.linger_ms,
            record_bytes: args.payload.payload_file.is_none().then_some(args.payload.record_bytes),
            version: env!("CARGO_PKG_VERSION"),
        },
    };
    let admin = client.admin();
    let trials = async {
        for number in 1..=args.trials {
            let trial = load.trial(&admin, &args).await?;
            Output::note(format!(
                "{number} of {}: node {} was killed, longest gap {:.1} ms",
                args.trials, trial.killed, trial.gap_ms
            ));
            report.trials.push(trial);
        }
        Ok(())
    };
    let failure = tokio::select! { biased;
        done = trials => done.err(),
        () = interrupt.wait() => Some(Failure::Interrupted("interrupted: the figures are of what was measured so far")),
    };
    loading.abort();
    let mut gaps = Times::new();
    report.trials.iter().for_each(|trial| gaps.add(Duration::from_secs_f64(trial.gap_ms / 1e3)));
    report.gap_ms = gaps.percentiles();
    report.cpu_s = meter.read().await.since(&before);
    {
        let tally = load.tally();
        (report.records, report.unacknowledged) = (tally.acked, tally.failed + tally.unknown);
    }
    let mut out = Output::new();
    if args.json {
        out.json(&report)?
    } else {
        out.line(times_table([("gap ms", &report.gap_ms)]))?
    }
    let first_error = load.first_error.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (failure, first_error) {
        (Some(failure), _) => Err(failure),
        (None, Some(error)) => Err(Failure::work(format!(
            "{} records were not acknowledged; the first: {error}",
            report.unacknowledged
        ))),
        (None, None) => Ok(()),
    }
}

/// Records at a rate, and what became of them.
struct Load {
    producer: Producer,
    topic: String,
    start: Instant,
    tally: Mutex<Tally>,
    first_error: Mutex<Option<SendError>>,
}

impl Load {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends for ever.
    async fn run(self: Arc<Self>, values: Arc<Vec<Bytes>>, rate: u32) {
        let (tx, mut sent) = mpsc::channel::<Result<Ack, SendError>>(IN_FLIGHT_MAX);
        let collector = Arc::clone(&self);
        // One partition: answers come in the order sent.
        let collecting = async move {
            while let Some(ack) = sent.recv().await {
                let answer = match ack {
                    Ok(ack) => ack.await,
                    Err(error) => Err(error),
                };
                collector.answered(answer.map(drop));
            }
        };
        let sending = async move {
            let pace = Pace::new(self.start, rate);
            for (number, value) in (0..).zip(values.iter().cycle()) {
                pace.wait_for(number).await;
                self.tally().offered(self.start.elapsed());
                let ack = self.producer.send(&self.topic, Record::new(value.clone())).await;
                if tx.send(ack).await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(collecting, sending);
    }

    fn answered(&self, answer: Result<(), SendError>) {
        let fate = match &answer {
            Ok(()) => Fate::Acked,
            Err(SendError::NotWritten { .. }) => Fate::Failed,
            Err(SendError::PerhapsWritten { .. }) => Fate::Unknown,
        };
        self.tally().ended(fate, self.start.elapsed());
        if let Err(error) = answer {
            self.first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    /// Waits until all is well, kills a node, and waits until acknowledgements come again.
    async fn trial(&self, admin: &Admin, args: &BenchFailoverArgs) -> Result<Trial, Failure> {
        whole(admin).await?;
        tokio::time::sleep(BEFORE).await;
        let victim = self.victim(admin, args.kind).await?;
        // Read anew each time: it has another process after each trial.
        let pid = pid(&args.data, victim)?;
        self.tally().forget_gaps(self.start.elapsed());
        kill_process(pid, Signal::KILL)
            .map_err(|error| Failure::work(format!("cannot kill node {victim}: {error}")))?;
        tokio::time::sleep(AFTER).await;
        let waiting = Instant::now();
        while self.tally().silent(self.start.elapsed()) > FLOWING {
            if waiting.elapsed() > WHOLE_TIME_MAX {
                return Err(Failure::work(format!(
                    "no acknowledgement came for {} s after node {victim} was killed",
                    WHOLE_TIME_MAX.as_secs()
                )));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        let gap = self.tally().longest_gap(self.start.elapsed());
        Ok(Trial { killed: victim.0, gap_ms: milliseconds(gap) })
    }

    async fn victim(&self, admin: &Admin, kind: Kind) -> Result<NodeId, Failure> {
        let topic = admin.describe_topic(&self.topic).await?;
        let partition =
            topic.partitions.first().ok_or_else(|| Failure::work("the topic has no partition"))?;
        let leader = partition.leader.ok_or_else(|| Failure::work("the partition has no leader"))?;
        let victim = match kind {
            Kind::Leader => Some(leader),
            Kind::Follower => partition.replicas.iter().copied().find(|node| *node != leader),
        };
        victim.ok_or_else(|| Failure::work("the partition has no follower"))
    }
}

/// Waits until every node is alive and every partition has a leader and all of its replicas.
async fn whole(admin: &Admin) -> Result<(), Failure> {
    let waiting = Instant::now();
    loop {
        let why = match admin.cluster_status().await {
            Ok(status) => {
                let dead = status.nodes.iter().filter(|node| !node.alive).count();
                let (behind, leaderless) = (status.under_replicated, status.leaderless);
                if (dead, behind, leaderless) == (0, 0, 0) {
                    return Ok(());
                }
                format!(
                    "{dead} nodes are not alive, {behind} partitions lack a replica, {leaderless} a leader"
                )
            }
            Err(error) => error.to_string(),
        };
        if waiting.elapsed() > WHOLE_TIME_MAX {
            let seconds = WHOLE_TIME_MAX.as_secs();
            return Err(Failure::work(format!("the cluster is not whole after {seconds} s: {why}")));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The process of a node of the `quorate dev` in that folder.
fn pid(data: &Path, node: NodeId) -> Result<Pid, Failure> {
    let places = dev::running(data)?;
    let place = places.into_iter().find(|place| u32::from(place.id) == node.0);
    let pid =
        place.and_then(|place| place.pid).and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    pid.ok_or_else(|| Failure::work(format!("node {node} has no process that quorate dev started")))
}
