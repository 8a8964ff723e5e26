//! Disks that are nearly full: that of the leader alone (odd seeds), which must hand over, or all at once (even ones), so
//! that batches must be refused in words that say why, while reading and deleting go on; and then there is room again.

use std::time::Duration;

use quorate_client::{Client, ConsumerConfig, NewTopic, Partitions, ProducerConfig, Record, Start};
use quorate_proto::ids::{NodeId, PartitionId};

use super::leader_restore::usual;
use crate::env::clock;
use crate::history::Target;
use crate::report::Report;
use crate::run::{Options, on_stage};

const PATIENCE: Duration = Duration::from_secs(30);
/// How long a batch is tried that must be refused.
const REFUSED: Duration = Duration::from_secs(3);
/// Within this, a node has looked at its disk, and the others have heard of it.
const SEEN: Duration = Duration::from_secs(3);
/// Within this, a full leader has handed over.
const HANDED_OVER: Duration = Duration::from_secs(10);
const FIRST: u64 = 5;
const LATER: u64 = 4;
const PLACE: (&str, PartitionId) = ("orders", PartitionId(0));

/// Plays it.
pub fn play(seed: u64, options: Options) -> Report {
    let options = Options { adjust: Some(usual), ..options };
    on_stage(seed, options, async |stage| {
        let place = Target { topic: PLACE.0.to_owned(), partition: PLACE.1 };
        let (cluster, workload) = (&mut stage.cluster, &mut stage.workload);
        workload.send(&place, FIRST, PATIENCE).await;
        let Some(leader) = workload.leader(&place).await else { return };
        let alone = !seed.is_multiple_of(2);
        let full: Vec<NodeId> = if alone { vec![leader] } else { cluster.nodes() };
        let left = cluster.disk_reserve() * 3 / 4;
        for node in &full {
            cluster.fill_disk(*node, left);
        }
        clock::sleep(SEEN).await;
        let told = |what: String| stage.history.complain("O-27", what);
        if alone {
            let deadline = clock::now() + HANDED_OVER;
            while workload.leader(&place).await.is_none_or(|now| now == leader) {
                if clock::now() > deadline {
                    told(format!(
                        "a full leader hands over: node {leader} still leads after {HANDED_OVER:?}"
                    ));
                    break;
                }
                clock::sleep(Duration::from_millis(100)).await;
            }
            workload.send(&place, LATER, PATIENCE).await;
        } else {
            match workload.ask(write_one).await {
                Some(Err(said)) if said.contains("disk nearly full on node ") => {}
                other => {
                    told(format!("a batch is refused when all disks are nearly full: it was told {other:?}"))
                }
            }
            if let Some(Err(said)) = workload.ask(read_and_delete).await {
                told(format!("reading and deleting go on when disks are nearly full: {said}"));
            }
        }
        for node in full {
            cluster.make_room(node);
        }
        workload.send(&place, LATER, PATIENCE).await;
    })
}

/// The offset of a record, or why it was not taken.
async fn write_one(client: Client) -> Result<u64, String> {
    let config = ProducerConfig { delivery_timeout: REFUSED, ..ProducerConfig::default() };
    let producer = client.producer(config);
    let record = Record::new("too much").partition(PLACE.1);
    let ack = producer.send(PLACE.0, record).await.map_err(|error| error.to_string())?;
    let place = ack.await.map_err(|error| error.to_string())?;
    Ok(place.offset.0)
}

async fn read_and_delete(client: Client) -> Result<(), String> {
    let mut consumer = client.consumer(ConsumerConfig::default());
    let (topic, only) = (PLACE.0, Partitions::Only(vec![PLACE.1]));
    consumer.assign(topic, only, Start::Beginning).await.map_err(|error| error.to_string())?;
    for _ in 0..FIRST {
        consumer.next().await.map_err(|error| error.to_string())?;
    }
    let admin = client.admin();
    let created = admin.create_topic(NewTopic::new("short-lived").partitions(1).replicas(3)).await;
    created.map_err(|error| error.to_string())?;
    admin.delete_topic("short-lived").await.map_err(|error| error.to_string())
}
