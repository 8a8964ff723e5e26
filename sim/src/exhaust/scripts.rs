//! What happens in a cluster, written out: each of these is short, and has one thing in it that a power cut may spoil.

use std::pin::Pin;
use std::time::Duration;

use quorate_client::{
    AdminError, Client, ConfigChanges, ConsumerConfig, DeleteBefore, NewTopic, Partitions, ProducerConfig,
    Record, Start,
};
use quorate_proto::ErrorCode;
use quorate_proto::ids::{NodeId, PartitionId};

use super::Director;
use crate::cluster::{Crash, Harm, Keeping, Knobs, Tempo};
use crate::env::clock;
use crate::env::probe::Points;
use crate::env::tasks::Host;
use crate::history::Target;

/// One of them.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    /// By which it is called.
    pub name: &'static str,
    /// What its nodes are like.
    pub(super) adjust: fn(&mut Knobs),
    /// Disk operations that may be under scrutiny in it, over all nodes.
    pub(super) max: u64,
    pub(super) act: Act,
}

/// The scripts are short: with more disk operations than this the whole would take too long.
const FEW: u64 = 500;
/// A node is replaced: its six groups each elect anew, go on without it, and take it in twice, to follow and to vote,
/// which is some thirty commits on either of the others, at nine operations; and an empty disk is made a node's, as in
/// a first start, and filled. No step can be left out.
const MANY: u64 = 900;

type Act = for<'a> fn(&'a mut Director<'_>) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// All of them.
pub const ALL: [Script; 12] = [
    Script { name: "append", adjust: calm, max: FEW, act: |on| Box::pin(append(on)) },
    Script { name: "roll", adjust: tiny_volumes, max: FEW, act: |on| Box::pin(roll(on)) },
    Script { name: "truncate", adjust: calm, max: FEW, act: |on| Box::pin(truncate(on)) },
    Script { name: "delete-and-create", adjust: calm, max: FEW, act: |on| Box::pin(delete_and_create(on)) },
    Script { name: "first-start", adjust: calm, max: FEW, act: |on| Box::pin(first_start(on)) },
    Script { name: "restart", adjust: calm, max: FEW, act: |on| Box::pin(restart(on)) },
    Script { name: "failover", adjust: calm, max: FEW, act: |on| Box::pin(failover(on)) },
    Script { name: "retention", adjust: tiny_and_trimmed, max: FEW, act: |on| Box::pin(retention(on)) },
    Script { name: "catch-up", adjust: trimmed_at_once, max: FEW, act: |on| Box::pin(catch_up(on)) },
    Script { name: "rewrite", adjust: tiny_and_rewritten, max: FEW, act: |on| Box::pin(rewrite(on)) },
    Script { name: "replace", adjust: calm, max: MANY, act: |on| Box::pin(replace(on)) },
    Script { name: "repair", adjust: tiny_volumes, max: FEW, act: |on| Box::pin(repair(on)) },
];

fn calm(knobs: &mut Knobs) {
    knobs.nodes = 3;
    knobs.tempo = Tempo::Usual;
    knobs.keeping = Keeping::as_it_is();
    knobs.without_rest();
    knobs.volume_bytes_max = 1 << 20;
    knobs.recent_bytes_max = 1 << 20;
    // A commit of one entry makes many operations of few; the cuts are to strike what happens, not what is drawn.
    knobs.commit_bytes_max = 4 << 20;
    knobs.append_bytes_max = 1 << 20;
    knobs.points = Points::none();
    knobs.trims = false;
}

pub(super) fn tiny_volumes(knobs: &mut Knobs) {
    calm(knobs);
    knobs.volume_bytes_max = 6_000;
    knobs.recent_bytes_max = 2_000;
}

fn trimmed_at_once(knobs: &mut Knobs) {
    calm(knobs);
    knobs.keeping = Keeping::at_once();
}

fn tiny_and_trimmed(knobs: &mut Knobs) {
    tiny_volumes(knobs);
    knobs.keeping = Keeping::at_once();
}

fn tiny_and_rewritten(knobs: &mut Knobs) {
    tiny_and_trimmed(knobs);
    knobs.keeping.rewrite_below_percent = Keeping::default().rewrite_below_percent;
}

fn place(partition: i32) -> Target {
    Target { topic: "orders".to_owned(), partition: PartitionId(partition) }
}

const PATIENCE: Duration = Duration::from_secs(30);

/// Two partitions are written to at once.
async fn append(on: &mut Director<'_>) {
    on.open().await;
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
    on.scrutinize();
    for round in 0..12 {
        on.whilst(async |clients| clients.send(&place(round % 2), 2, PATIENCE).await).await;
    }
    on.seen();
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
}

/// The active volume is full: the next one takes its place and it is sealed.
async fn roll(on: &mut Director<'_>) {
    on.open().await;
    on.scrutinize();
    for round in 0..4 {
        on.whilst(async |clients| clients.send(&place(round % 2), 3, PATIENCE).await).await;
    }
    on.seen();
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
}

/// A leader that is cut off goes on appending; another one is elected and writes less; then the first one hears of it
/// and gives up what it had.
async fn truncate(on: &mut Director<'_>) {
    on.open().await;
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
    let leader = leader(on).await;
    let others = on.nodes().into_iter().filter(|node| *node != leader).collect::<Vec<_>>();
    for other in &others {
        on.cluster().network().cut(Host::Node(leader), Host::Node(*other));
        on.cluster().network().cut(Host::Node(*other), Host::Node(leader));
    }
    on.scrutinize();
    // In vain: nobody else has it.
    on.whilst(async |clients| clients.send(&place(0), 4, Duration::from_millis(500)).await).await;
    on.rest(Duration::from_secs(3)).await;
    on.cluster().network().mend_all();
    on.whilst(async |clients| clients.send(&place(0), 1, PATIENCE).await).await;
    on.rest(Duration::from_millis(500)).await;
    on.seen();
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
}

/// The leader's process is killed: the others elect, and it comes back.
async fn failover(on: &mut Director<'_>) {
    on.open().await;
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
    let leader = leader(on).await;
    on.scrutinize();
    on.restart(&[leader], Crash::Kill).await;
    on.whilst(async |clients| clients.send(&place(0), 1, PATIENCE).await).await;
    on.seen();
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
}

/// Three empty disks become a cluster; two of them have waited for the third for a while.
async fn first_start(on: &mut Director<'_>) {
    let nodes = on.nodes();
    on.cluster().start(nodes[1]).await;
    on.cluster().start(nodes[2]).await;
    on.rest(Duration::from_millis(300)).await;
    on.scrutinize();
    for node in nodes {
        on.cluster().start(node).await;
    }
    while !on.cluster().is_ready() {
        on.rest(Duration::from_millis(5)).await;
    }
    on.seen();
    on.open().await;
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
}

/// A node loses its power, with something written, and comes back.
async fn restart(on: &mut Director<'_>) {
    on.open().await;
    on.whilst(async |clients| clients.send(&place(0), 3, PATIENCE).await).await;
    on.scrutinize();
    let nodes = on.nodes();
    on.restart(&nodes[..1], Crash::PowerCut).await;
    while !on.cluster().is_ready() {
        on.rest(Duration::from_millis(5)).await;
    }
    on.seen();
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
}

/// Old batches go as new ones come: the log start rises, logs are trimmed to bases that are saved before, and volumes of
/// which nothing is left go.
async fn retention(on: &mut Director<'_>) {
    on.open().await;
    on.whilst(async |clients| clients.ask(keep_little).await).await;
    on.whilst(async |clients| clients.send(&place(0), 3, PATIENCE).await).await;
    on.scrutinize();
    for _ in 0..2 {
        on.whilst(async |clients| clients.send(&place(0), 3, PATIENCE).await).await;
        on.rest(Duration::from_millis(600)).await;
    }
    on.seen();
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
}

/// A node was away for longer than the log: it takes up its leader's base, and then what came behind it.
async fn catch_up(on: &mut Director<'_>) {
    on.open().await;
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
    let leader = leader(on).await;
    let nodes = on.nodes();
    let away = nodes.into_iter().find(|node| *node != leader).expect("there are three nodes");
    on.kill(away).await;
    on.whilst(async |clients| clients.send(&place(0), 4, PATIENCE).await).await;
    on.whilst(async |clients| clients.ask(delete_all).await).await;
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
    on.rest(Duration::from_millis(1_500)).await;
    on.scrutinize();
    on.cluster().start(away).await;
    on.rest(Duration::from_secs(2)).await;
    on.whilst(async |clients| clients.send(&place(0), 1, PATIENCE).await).await;
    on.seen();
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
}

/// Of volumes that hold two partitions' entries the ones of one go: what is left is written anew, and the volumes go.
async fn rewrite(on: &mut Director<'_>) {
    on.open().await;
    for _ in 0..3 {
        on.whilst(async |clients| clients.send(&place(0), 4, PATIENCE).await).await;
        on.whilst(async |clients| clients.send(&place(1), 1, PATIENCE).await).await;
    }
    on.scrutinize();
    on.whilst(async |clients| clients.ask(delete_all).await).await;
    on.rest(Duration::from_secs(2)).await;
    on.whilst(async |clients| clients.send(&place(1), 1, PATIENCE).await).await;
    on.seen();
    // What was written anew is what comes back.
    let nodes = on.nodes();
    on.restart(&nodes, Crash::Kill).await;
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
}

/// Of the partitions that are written to a few batches are kept.
async fn keep_little(client: Client) {
    let little = || ConfigChanges::new().set("retention.bytes", "300").set("retention.ms", "-1");
    while client.admin().configure_topic(&place(0).topic, little()).await.is_err() {
        clock::sleep(Duration::from_millis(300)).await;
    }
}

/// All that stands in the first partition.
async fn delete_all(client: Client) {
    let Target { topic, partition } = place(0);
    while client.admin().delete_records(&topic, partition, DeleteBefore::HighWatermark).await.is_err() {
        clock::sleep(Duration::from_millis(300)).await;
    }
}

/// A disk is lost for good, and its node is replaced: it is admitted again, and is given what the lost disk held.
async fn replace(on: &mut Director<'_>) {
    on.open().await;
    on.whilst(async |clients| clients.send(&place(0), 3, PATIENCE).await).await;
    on.whilst(async |clients| clients.send(&place(1), 2, PATIENCE).await).await;
    let node = leader(on).await;
    let orders = on.cluster().orders().clone();
    on.stage.workload.operate(orders.clone());
    on.cluster().lose_disk(node).await;
    on.scrutinize();
    let deadline = clock::now() + PATIENCE;
    while !orders.are_done() && clock::now() < deadline {
        on.rest(Duration::from_millis(100)).await;
    }
    on.whilst(async |clients| clients.send(&place(0), 1, PATIENCE).await).await;
    on.seen();
    // What it was given is what a restart finds.
    on.restart(&[node], Crash::Kill).await;
    on.whilst(async |clients| clients.send(&place(1), 2, PATIENCE).await).await;
}

/// A full volume of a node was lost while it was down: what was in it comes back from the others.
async fn repair(on: &mut Director<'_>) {
    on.open().await;
    let node = leader(on).await;
    // The newest ones may be open: the first is not any more once there are four.
    let (mut round, deadline) = (0, clock::now() + PATIENCE);
    while on.cluster().disk(node).volumes().len() < 4 && clock::now() < deadline {
        on.whilst(async |clients| clients.send(&place(round % 2), 3, PATIENCE).await).await;
        round += 1;
    }
    let stage = &mut *on.stage;
    stage.cluster.crash(node, Crash::Kill, &mut stage.dice).await;
    for _ in 0..20 {
        // Not all that is drawn can be seen on the disk; then it is not done.
        if stage.cluster.damage(node, Harm::Volume, &[], &mut stage.dice) {
            break;
        }
    }
    on.scrutinize();
    on.cluster().start(node).await;
    let deadline = clock::now() + PATIENCE;
    while on.cluster().damaged().is_some() && clock::now() < deadline {
        on.rest(Duration::from_millis(100)).await;
    }
    on.seen();
    // What came back is what is read, and what a restart finds.
    on.restart(&[node], Crash::Kill).await;
    on.whilst(async |clients| clients.send(&place(0), 2, PATIENCE).await).await;
}

const FLEETING: &str = "fleeting";

/// A topic is deleted, and one of the same name made at once. What is read of the new one is what was written to it.
async fn delete_and_create(on: &mut Director<'_>) {
    on.open().await;
    on.whilst(async |clients| clients.ask(create).await).await;
    on.whilst(async |clients| clients.ask(|client| write(client, "old")).await).await;
    on.scrutinize();
    on.whilst(async |clients| clients.ask(delete).await).await;
    on.whilst(async |clients| clients.ask(create).await).await;
    on.whilst(async |clients| clients.ask(|client| write(client, "new")).await).await;
    on.seen();
    let read = on.whilst(async |clients| clients.ask(read).await).await;
    if read != Some(Some("new".to_owned())) {
        let what = format!("a topic made anew begins with its own first record: {read:?} was read instead");
        on.stage.history.complain("O-16", what);
    }
}

async fn leader(on: &mut Director<'_>) -> NodeId {
    loop {
        if let Some(leader) = on.whilst(async |clients| clients.leader(&place(0)).await).await {
            return leader;
        }
        on.rest(Duration::from_millis(50)).await;
    }
}

/// Until it is there: a lost answer is asked for again, and the second time the topic exists.
async fn create(client: Client) {
    loop {
        match client.admin().create_topic(NewTopic::new(FLEETING).partitions(1).replicas(3)).await {
            Ok(_) | Err(AdminError::Refused { code: ErrorCode::TopicExists, .. }) => return,
            Err(_) => clock::sleep(Duration::from_millis(300)).await,
        }
    }
}

async fn delete(client: Client) {
    loop {
        match client.admin().delete_topic(FLEETING).await {
            Ok(()) | Err(AdminError::Refused { code: ErrorCode::UnknownTopic, .. }) => return,
            Err(_) => clock::sleep(Duration::from_millis(300)).await,
        }
    }
}

async fn write(client: Client, value: &'static str) {
    let producer =
        client.producer(ProducerConfig { delivery_timeout: PATIENCE, ..ProducerConfig::default() });
    for _ in 0..20 {
        let record = Record::new(value.to_owned()).partition(PartitionId(0));
        let sent = match producer.send(FLEETING, record).await {
            Ok(ack) => ack.await.is_ok(),
            Err(_) => false,
        };
        if sent {
            return;
        }
        clock::sleep(Duration::from_millis(300)).await;
    }
}

/// The first record.
async fn read(client: Client) -> Option<String> {
    let mut consumer = client.consumer(ConsumerConfig::default());
    for _ in 0..20 {
        let assigned = consumer.assign(FLEETING, Partitions::All, Start::Beginning).await;
        if assigned.is_ok()
            && let Ok(read) = consumer.next().await
        {
            return read.value.map(|value| String::from_utf8_lossy(&value).into_owned());
        }
        clock::sleep(Duration::from_millis(300)).await;
    }
    None
}
