//! Sends lines with running numbers at a fixed rate, and knows what became of each.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quorate_client::{Ack, Client, PartitionId, Producer, ProducerConfig, Record, SendError};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::judge::{Verdict, judge};

/// What is sent.
#[derive(Clone, Debug)]
pub struct Plan {
    /// To which topic.
    pub topic: String,
    /// How many partitions it has: line `n` goes to partition `n` modulo this.
    pub partitions: u64,
    /// Lines a second, all partitions together.
    pub rate: u64,
    /// How long the client may try each line.
    pub timeout: Duration,
}

/// A producer at work in a thread of its own. Dropping it lets it end by itself.
pub struct Numbered {
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
    plan: Plan,
}

#[derive(Debug, Default)]
struct State {
    /// No more lines are wanted.
    stop: bool,
    /// What became of each line, by its number.
    fates: Vec<Fate>,
    acked: u64,
    /// Lines without a fate, by partition.
    in_flight: BTreeMap<u64, u64>,
    /// The last acknowledgement, or the line that first waited for one.
    silent_since: Option<Instant>,
    /// The longest silence since it was last asked for.
    longest_gap: Duration,
    /// The same, of each partition by itself: those with lines that wait.
    silent: BTreeMap<u64, Instant>,
    /// The longest silence of any one partition since it was last asked for.
    longest_gap_of_one: Duration,
    first_error: Option<String>,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    Acked,
    NotWritten,
    Unknown,
}

/// What became of all lines.
#[derive(Clone, Debug)]
pub struct Sent {
    /// By number: whether it was acknowledged, and whether it may have been written.
    fates: Vec<Fate>,
    /// Lines acknowledged.
    pub acked: u64,
    /// Why the first line that was not acknowledged was not.
    pub first_error: Option<String>,
}

impl Sent {
    /// How many lines were sent.
    pub fn lines(&self) -> u64 {
        u64::try_from(self.fates.len()).expect("a length fits")
    }

    /// Compares with the numbers of the lines that were read, those of each of so many partitions in their order.
    pub fn judge_lines(&self, partitions: u64, lines: impl IntoIterator<Item = u64>) -> Verdict {
        let numbered = (0..).zip(&self.fates);
        let sent = numbered
            .filter(|(_, fate)| **fate != Fate::NotWritten)
            .map(|(line, fate)| (line, *fate == Fate::Acked));
        let place = |line: u64| i64::try_from(line % partitions).expect("a partition fits");
        judge(sent, lines.into_iter().map(|line| (place(line), line)))
    }

    /// Compares with records as `consume --format json` shows them.
    ///
    /// # Panics
    /// If a record is not one of ours.
    pub fn judge(&self, records: &[Value]) -> Verdict {
        let numbered = (0..).zip(&self.fates);
        let sent = numbered
            .filter(|(_, fate)| **fate != Fate::NotWritten)
            .map(|(line, fate)| (line, *fate == Fate::Acked));
        let read = records.iter().map(|record| {
            let line =
                record["value"].as_str().and_then(|value| value.parse().ok()).expect("a value is a number");
            (record["partition"].as_i64().expect("a partition is a number"), line)
        });
        judge(sent, read)
    }
}

impl Numbered {
    /// Begins to send.
    pub fn start(servers: &str, plan: &Plan) -> Self {
        Self::start_with(servers, plan, 0)
    }

    /// Begins to send lines of at least so many characters: zeros stand before their numbers.
    pub fn start_with(servers: &str, plan: &Plan, width: usize) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let thread = {
            let (state, plan) = (Arc::clone(&state), plan.clone());
            let servers: Vec<_> = servers.split(',').map(str::to_owned).collect();
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime can be had");
                runtime.block_on(send(servers, plan, width, state));
            })
        };
        Self { state, thread: Some(thread), plan: plan.clone() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Lines handed over so far.
    pub fn sent(&self) -> u64 {
        u64::try_from(self.state().fates.len()).expect("a length fits")
    }

    /// Lines acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.state().acked
    }

    /// Lines of a partition that wait for their fate.
    pub fn in_flight(&self, partition: u64) -> u64 {
        self.state().in_flight.get(&partition).copied().unwrap_or(0)
    }

    /// Lines that wait, of the partitions that a node leads.
    pub fn in_flight_at(&self, node: u32, leaders: &[Option<u32>]) -> u64 {
        (0..)
            .zip(leaders)
            .filter(|(_, leader)| **leader == Some(node))
            .map(|(number, _)| self.in_flight(number))
            .sum()
    }

    /// The longest time without an acknowledgement while a line waited for one, since this was last asked.
    pub fn take_gap(&self) -> Duration {
        let mut state = self.state();
        let open = state.silent_since.map_or(Duration::ZERO, |since| since.elapsed());
        std::mem::take(&mut state.longest_gap).max(open)
    }

    /// The longest time without an acknowledgement in any one partition while a line of it waited for one, since this was
    /// last asked.
    pub fn take_gap_of_one(&self) -> Duration {
        let mut state = self.state();
        let open = state.silent.values().map(Instant::elapsed).max().unwrap_or_default();
        std::mem::take(&mut state.longest_gap_of_one).max(open)
    }

    /// Sends no more, waits until each line has its fate, and tells.
    ///
    /// # Panics
    /// If the client does not give each line a fate soon after its time-out.
    pub fn stop(mut self) -> Sent {
        self.state().stop = true;
        let patience = self.plan.timeout + Duration::from_secs(30);
        let thread = self.thread.take().expect("stopped once");
        crate::wait::within("the fate of every line", patience, || thread.is_finished().then_some(()));
        thread.join().expect("the sender does not panic");
        let state = self.state();
        Sent { fates: state.fates.clone(), acked: state.acked, first_error: state.first_error.clone() }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn send(servers: Vec<String>, plan: Plan, width: usize, state: Arc<Mutex<State>>) {
    let config = ProducerConfig { delivery_timeout: plan.timeout, ..ProducerConfig::default() };
    let producer = Client::grpc(servers).producer(config);
    let (tx, mut sent) = mpsc::channel(1 << 16);
    let feeding = async {
        let start = Instant::now();
        for number in 0.. {
            let due = start + Duration::from_secs(1).mul_f64(number as f64 / plan.rate as f64);
            tokio::time::sleep_until(due.into()).await;
            if !offer(&producer, &plan, &state, (number, width), &tx).await {
                break;
            }
        }
        drop(tx);
    };
    let collecting = async {
        let mut waiting = FuturesUnordered::new();
        let mut open = true;
        while open || !waiting.is_empty() {
            tokio::select! {
                biased;
                Some((number, fate)) = waiting.next(), if !waiting.is_empty() => settle(&state, &plan, number, fate),
                sent = sent.recv(), if open => match sent {
                    Some((number, ack)) => waiting.push(fate(number, ack)),
                    None => open = false,
                },
            }
        }
    };
    tokio::join!(feeding, collecting);
    producer.close().await;
}

async fn fate(number: u64, ack: Result<Ack, SendError>) -> (u64, Result<(), SendError>) {
    match ack {
        Ok(ack) => (number, ack.await.map(drop)),
        Err(error) => (number, Err(error)),
    }
}

/// Hands line `number` to the producer. False if no more are wanted.
async fn offer(
    producer: &Producer,
    plan: &Plan,
    state: &Mutex<State>,
    (number, width): (u64, usize),
    tx: &mpsc::Sender<(u64, Result<Ack, SendError>)>,
) -> bool {
    let partition = number % plan.partitions;
    {
        let mut state = lock(state);
        if state.stop {
            return false;
        }
        state.fates.push(Fate::Waiting);
        *state.in_flight.entry(partition).or_default() += 1;
        state.silent_since.get_or_insert_with(Instant::now);
        state.silent.entry(partition).or_insert_with(Instant::now);
    }
    let partition = PartitionId(i32::try_from(partition).expect("a partition fits"));
    let line = format!("{number:0>width$}");
    let ack = producer.send(&plan.topic, Record::new(line).partition(partition)).await;
    tx.send((number, ack)).await.is_ok()
}

/// Notes what became of a line.
fn settle(state: &Mutex<State>, plan: &Plan, number: u64, fate: Result<(), SendError>) {
    let mut state = lock(state);
    let at = usize::try_from(number).expect("a number of a line fits");
    let partition = number % plan.partitions;
    *state.in_flight.entry(partition).or_default() -= 1;
    let still = state.in_flight.get(&partition).is_some_and(|count| *count > 0);
    let waits = state.in_flight.values().any(|count| *count > 0);
    state.fates[at] = match fate {
        Ok(()) => {
            let now = Instant::now();
            state.acked += 1;
            let gap = state.silent_since.map_or(Duration::ZERO, |since| now - since);
            state.longest_gap = state.longest_gap.max(gap);
            state.silent_since = waits.then_some(now);
            let gap = state.silent.remove(&partition).map_or(Duration::ZERO, |since| now - since);
            state.longest_gap_of_one = state.longest_gap_of_one.max(gap);
            if still {
                state.silent.insert(partition, now);
            }
            Fate::Acked
        }
        Err(error) => {
            let fate = if error.is_perhaps_written() { Fate::Unknown } else { Fate::NotWritten };
            state.first_error.get_or_insert_with(|| format!("line {number}: {error}"));
            fate
        }
    };
}
