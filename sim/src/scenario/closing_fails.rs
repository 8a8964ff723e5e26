//! The sync fails with which a full volume is closed, on a node that leads and is read from. The volume cannot be opened
//! any more, and until the store knows why, it seems damaged: no consumer must be told so, for it stays where it is
//! told that.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{join_all, select};
use quorate_client::{Client, ConsumeError, ConsumerConfig, Partitions, ProducerConfig, Record, Start};
use quorate_proto::ids::PartitionId;

use crate::cluster::{Keeping, Knobs, Tempo};
use crate::env::clock;
use crate::env::disk::DirtyPages;
use crate::env::probe::Points;
use crate::history::Target;
use crate::report::Report;
use crate::run::{Options, on_stage};

/// Syncs that are told apart: with seed `n` the `n`th fails, counted from a volume that is nearly full.
pub const SYNCS: u64 = 24;
/// Reads in flight at a time.
const READERS: usize = 6;
const PLACE: (&str, PartitionId) = ("orders", PartitionId(0));

/// What is read comes from the disk, from volumes that are soon full.
fn small(knobs: &mut Knobs) {
    knobs.tempo = Tempo::Usual;
    knobs.keeping = Keeping::as_it_is();
    knobs.volume_bytes_max = 6_000;
    knobs.recent_bytes_max = 1;
    knobs.commit_bytes_max = 4 << 20;
    knobs.append_bytes_max = 1 << 20;
    knobs.fetch_bytes_max = 8 << 20;
    knobs.pool_wait_max = Duration::from_millis(5);
    knobs.points = Points::none();
    knobs.trims = false;
    knobs.without_rest();
}

/// Plays it. The seed says which sync fails.
pub fn play(seed: u64, options: Options) -> Report {
    let options = Options { adjust: Some(small), ..options };
    on_stage(seed, options, async |stage| {
        let (cluster, workload) = (&mut stage.cluster, &mut stage.workload);
        let place = Target { topic: PLACE.0.to_owned(), partition: PLACE.1 };
        workload.send(&place, 3, Duration::from_secs(30)).await;
        let Some(leader) = workload.leader(&place).await else { return };
        let pages = if (seed / SYNCS).is_multiple_of(2) { DirtyPages::Dropped } else { DirtyPages::Kept };
        cluster.fail_sync(leader, seed % SYNCS, pages);
        let told = workload.ask(write_and_read).await.unwrap_or_default();
        for error in told {
            let what = format!("a consumer can read what is there: it was told: {error}");
            stage.history.complain("O-16", what);
        }
        clock::sleep(Duration::from_millis(200)).await;
        cluster.spare_disk(leader);
        cluster.start(leader).await;
        workload.send(&place, 3, Duration::from_secs(30)).await;
    })
}

/// Fills some volumes while others read; gives what these were told that they should not have been.
async fn write_and_read(client: Client) -> Vec<String> {
    let told = Mutex::new(Vec::new());
    let readers = join_all((0..READERS).map(|_| read(&client, &told)));
    // They read for ever.
    drop(select(Box::pin(readers), Box::pin(write(&client))).await);
    told.into_inner().unwrap_or_else(PoisonError::into_inner)
}

async fn write(client: &Client) {
    let config = ProducerConfig { delivery_timeout: Duration::from_secs(30), ..ProducerConfig::default() };
    let producer = client.producer(config);
    for _ in 0..40 {
        let record = Record::new("x".repeat(700)).partition(PLACE.1);
        if let Ok(ack) = producer.send(PLACE.0, record).await {
            // What became of it is not the question here.
            drop(ack.await);
        }
    }
}

/// From the beginning to the end, again and again.
async fn read(client: &Client, told: &Mutex<Vec<String>>) {
    let mut consumer = client.consumer(ConsumerConfig::default());
    let mut assigned = false;
    loop {
        let begun = match assigned {
            true => consumer.seek(PLACE.0, PLACE.1, Start::Beginning).await,
            false => consumer.assign(PLACE.0, Partitions::Only(vec![PLACE.1]), Start::Beginning).await,
        };
        let mut result = begun.map(|()| assigned = true);
        while result.is_ok() {
            let end = consumer.high_watermark(PLACE.0, PLACE.1);
            let position = consumer.position(PLACE.0, PLACE.1);
            if position.is_some() && end.is_some() && position >= end {
                break;
            }
            result = consumer.next().await.map(drop);
        }
        if let Err(error) = result
            && !matches!(error, ConsumeError::TimedOut { .. })
        {
            told.lock().unwrap_or_else(PoisonError::into_inner).push(error.to_string());
        }
        clock::sleep(Duration::from_micros(100)).await;
    }
}
