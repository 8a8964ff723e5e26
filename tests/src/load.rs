//! Load on a topic: as much as it takes, or so many records a second, and how long their acknowledgements took.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quorate_client::{Ack, Client, PartitionId, ProducerConfig, Record, SendError};
use tokio::sync::mpsc;

/// What is sent.
#[derive(Clone, Debug)]
pub struct Plan {
    /// To which topic.
    pub topic: String,
    /// To so many of its partitions, in turn.
    pub partitions: u32,
    /// Bytes of each value.
    pub record_bytes: usize,
    /// Records a second; as many as are taken if not given.
    pub rate: Option<u64>,
}

/// A producer at work in a thread of its own. Dropping it lets it end by itself.
pub struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    acked: AtomicU64,
    failed: AtomicU64,
    /// Of the records acknowledged since this was last taken; only at a rate.
    latencies: Mutex<Vec<Duration>>,
    first_error: Mutex<Option<String>>,
}

impl Load {
    /// Begins to send.
    ///
    /// # Panics
    /// If no thread can be had.
    pub fn start(servers: &str, plan: &Plan) -> Self {
        let shared = Arc::new(Shared::default());
        let thread = {
            let (shared, plan) = (Arc::clone(&shared), plan.clone());
            let servers: Vec<_> = servers.split(',').map(str::to_owned).collect();
            thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime can be had").block_on(send(servers, plan, shared));
            })
        };
        Self { shared, thread: Some(thread) }
    }

    /// Records acknowledged so far.
    pub fn acked(&self) -> u64 {
        self.shared.acked.load(Ordering::Relaxed)
    }

    /// Records given up so far, and why the first was.
    pub fn failed(&self) -> (u64, Option<String>) {
        (self.shared.failed.load(Ordering::Relaxed), lock(&self.shared.first_error).clone())
    }

    /// How long the acknowledgements took that came since this was last asked, ascending; none without a rate.
    pub fn take_latencies(&self) -> Vec<Duration> {
        let mut latencies = std::mem::take(&mut *lock(&self.shared.latencies));
        latencies.sort_unstable();
        latencies
    }

    /// Sends no more, and waits until each record has its answer. Gives how many were acknowledged.
    ///
    /// # Panics
    /// If an answer does not come soon after its time-out.
    pub fn stop(mut self) -> u64 {
        self.shared.stop.store(true, Ordering::Relaxed);
        let patience = ProducerConfig::default().delivery_timeout + Duration::from_secs(30);
        let thread = self.thread.take().expect("stopped once");
        crate::wait::within("the answer to every record", patience, || thread.is_finished().then_some(()));
        thread.join().expect("the sender does not panic");
        self.acked()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

/// So many per mille of the times are at most this; zero if there are none. They must be ascending.
pub fn per_mille(ascending: &[Duration], per_mille: usize) -> Duration {
    let at = (ascending.len() * per_mille / 1_000).min(ascending.len().saturating_sub(1));
    ascending.get(at).copied().unwrap_or_default()
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn gave_up(&self, error: &SendError) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        lock(&self.first_error).get_or_insert_with(|| error.to_string());
    }
}

async fn send(servers: Vec<String>, plan: Plan, shared: Arc<Shared>) {
    let producer = Client::grpc(servers).producer(ProducerConfig::default());
    let (tx, mut sent) = mpsc::channel(1 << 16);
    let feeding = async {
        let start = Instant::now();
        for number in 0_u64.. {
            if shared.stop.load(Ordering::Relaxed) {
                break;
            }
            if let Some(rate) = plan.rate {
                let due = start + Duration::from_secs(1).mul_f64(number as f64 / rate as f64);
                tokio::time::sleep_until(due.into()).await;
            }
            let partition = i32::try_from(number % u64::from(plan.partitions)).expect("a partition fits");
            let (began, width) = (Instant::now(), plan.record_bytes);
            let record = Record::new(format!("{number:.>width$}")).partition(PartitionId(partition));
            match producer.send(&plan.topic, record).await {
                Ok(ack) => {
                    if tx.send((began, ack)).await.is_err() {
                        break;
                    }
                }
                Err(error) => shared.gave_up(&error),
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
                Some(answer) = waiting.next(), if !waiting.is_empty() => match answer {
                    Ok(took) => {
                        shared.acked.fetch_add(1, Ordering::Relaxed);
                        if plan.rate.is_some() {
                            lock(&shared.latencies).push(took);
                        }
                    }
                    Err(error) => shared.gave_up(&error),
                },
                next = sent.recv(), if open => match next {
                    Some((began, ack)) => waiting.push(answered(began, ack)),
                    None => open = false,
                },
            }
        }
    };
    tokio::join!(feeding, collecting);
    producer.close().await;
}

async fn answered(began: Instant, ack: Ack) -> Result<Duration, SendError> {
    ack.await.map(|_| began.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_of_a_thousand_is_the_last_per_mille() {
        let times: Vec<_> = (1..=1_000).map(Duration::from_micros).collect();
        assert_eq!(per_mille(&times, 500), Duration::from_micros(501));
        assert_eq!(per_mille(&times, 999), Duration::from_micros(1_000));
        assert_eq!(per_mille(&times[..1], 999), Duration::from_micros(1));
        assert_eq!(per_mille(&[], 990), Duration::ZERO);
    }
}
