//! The clients: real producers and consumers of the SDK and a few made by hand, with unique values, and what they were
//! told.

mod altering;
mod by_hand;
mod churn;
mod consuming;
mod operating;
mod operator;
mod producing;
mod shape;
mod tap;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_client::{Client, ClientConfig, ConsumeError, ConsumerConfig, NewTopic, Partitions, Start};
use quorate_proto::call::Connect;
use quorate_proto::ids::{NodeId, Offset};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use shape::{Kept, Rhythm, Shape, TOPICS};

use crate::check;
use crate::cluster::Orders;
use crate::dice::Dice;
use crate::env::channel::SimConnect;
use crate::env::clock::{self, SimClock};
use crate::env::entropy::SimEntropy;
use crate::env::network::Network;
use crate::env::probe::Probes;
use crate::env::tasks::{Host, Life};
use crate::history::{History, Outcome, Place, RecordId, Scan, Target};
use crate::marks::Marks;
use crate::trace::{Event, Trace};

use by_hand::ByHand;
use consuming::Consuming;
use producing::Producing;
use tap::Ear;

/// Who works behind the clients: it starts them again.
const DIRECTOR: u32 = 0;
/// Clients by their numbers; one that crashed comes back with a thousand more.
const PRODUCERS: u32 = 1;
const BY_HAND: u32 = 51;
const CHURN: u32 = 81;
const OPERATOR: u32 = 91;
const KEEPER: u32 = 92;
const FOLLOWERS: u32 = 101;
const SEEKERS: u32 = 151;
const SCAN: u32 = 200;
const LOOK: u32 = 201;
const KEEP: u32 = 202;
const SENDERS: u32 = 300;
const READERS: u32 = 401;

/// Where the clients of a run live. Clones share it.
#[derive(Clone)]
struct World {
    seed: u64,
    network: Network,
    history: History,
    trace: Trace,
    probes: Probes,
    marks: Marks,
    servers: Vec<String>,
    ear: Ear,
    lives: Arc<Mutex<Vec<Life>>>,
}

impl World {
    /// A client of the SDK.
    fn client(&self, number: u32) -> (Client, Life) {
        self.client_of(number, self.servers.clone())
    }

    /// A client of the SDK that was told of these servers.
    fn client_of(&self, number: u32, servers: Vec<String>) -> (Client, Life) {
        let (connect, life) = self.connect(number, true);
        let mut dice = Dice::named(self.seed, &format!("client {number}"));
        let ahead = i64::try_from(dice.below(2_000)).unwrap_or_default() - 1_000;
        let clock = SimClock::new(Duration::from_secs(1), ahead);
        self.network.know_clock(&life, clock.clone());
        let env = quorate_proto::env::Env {
            clock: Arc::new(clock),
            tasks: Arc::new(life.clone()),
            entropy: Arc::new(SimEntropy::new(dice)),
            probe: self.probes.probe(Dice::named(self.seed, &format!("points of client {number}"))),
        };
        let mut knobs = Dice::named(self.seed, &format!("knobs of client {number}"));
        let metadata_age_max = knobs.time(Duration::from_secs(1), Duration::from_secs(10));
        let config = ClientConfig { metadata_age_max, ..ClientConfig::default() };
        (Client::new(env, connect, servers, config), life)
    }

    /// The connections of a client; all that it says and hears over them is told to the checks.
    fn connect(&self, number: u32, sdk: bool) -> (Arc<dyn Connect>, Life) {
        let history = self.history.clone();
        let life = Life::new(Host::Client(number), move |host, task, said| {
            history.complain("panic", format!("task {task} of {host} panicked: {said}"));
        });
        self.lives().push(life.clone());
        let connect = Arc::new(SimConnect::new(self.network.clone(), life.clone()));
        (self.ear.listen(number, sdk, connect), life)
    }

    /// Ends a client, in the middle of whatever it does.
    async fn end(&self, life: &Life) {
        life.end();
        life.gone().await;
        self.lives().retain(|life| !life.has_ended());
    }

    fn nodes(&self) -> Vec<NodeId> {
        (1..).take(self.servers.len()).map(NodeId).collect()
    }

    /// A client knows what became of a record.
    fn learnt(&self, client: u32, record: RecordId, outcome: Outcome, why: String) {
        let word = match outcome {
            Outcome::Acked(_) => "acked",
            Outcome::Failed => "failed",
            Outcome::Unknown | Outcome::Pending => "unknown",
        };
        let said = format!("{word}: {why}");
        if let Some(target) = self.history.learnt(record, outcome, why) {
            let what = format!("{record} to {target} {said}");
            self.trace.note(&Event::Client { client, what });
        }
    }

    fn lives(&self) -> MutexGuard<'_, Vec<Life>> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All the clients of a run.
pub struct Workload {
    world: World,
    shape: Shape,
    director: Life,
    /// What ends by itself once `going` is false.
    writing: Vec<JoinHandle<()>>,
    going: watch::Sender<bool>,
    next_sender: u32,
}

impl Workload {
    /// Clients that know `servers`; none works yet.
    pub fn new(
        seed: u64,
        shape: Shape,
        servers: Vec<String>,
        network: Network,
        history: History,
        trace: Trace,
        probes: Probes,
    ) -> Self {
        let marks = probes.marks.clone();
        let ear = Ear::new(history.clone(), marks.clone());
        let lives = Arc::default();
        let world = World { seed, network, history, trace, probes, marks, servers, ear, lives };
        let (_connect, director) = world.connect(DIRECTOR, false);
        let going = watch::Sender::new(true);
        Self { world, shape, director, writing: Vec::new(), going, next_sender: SENDERS }
    }

    /// What the clients do.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Creates the topics; ready when every partition has been given out.
    pub async fn create_topics(&mut self) {
        let (client, life) = self.world.client(DIRECTOR);
        let (world, append_time, kept) = (self.world.clone(), self.shape.append_time, self.shape.kept);
        let created = life.run("create topics", async move {
            for ((name, partitions), kept) in TOPICS.into_iter().zip(kept) {
                let partitions = u32::try_from(partitions).expect("a few partitions");
                let replicas = u32::try_from(world.servers.len()).unwrap_or(3).min(3);
                let mut topic = NewTopic::new(name).partitions(partitions).replicas(replicas);
                if append_time && name == TOPICS[1].0 {
                    topic = topic.config("message.timestamp.type", "LogAppendTime");
                }
                for (key, value) in kept.settings() {
                    topic = topic.config(key, value);
                }
                // A lost answer is asked for again, and the second time the topic exists.
                let mut tries = 0;
                while let Err(error) = client.admin().create_topic(topic.clone()).await {
                    let what = format!("did not create {name}: {error}");
                    world.trace.note(&Event::Client { client: DIRECTOR, what });
                    if client
                        .admin()
                        .list_topics()
                        .await
                        .is_ok_and(|topics| topics.iter().any(|listed| listed.name.as_str() == name))
                    {
                        break;
                    }
                    tries += 1;
                    if tries >= 20 {
                        let what = format!("a healthy cluster creates topics: {name} cannot be: {error}");
                        world.history.complain("O-27", what);
                        return;
                    }
                    clock::sleep(Duration::from_millis(500)).await;
                }
            }
        });
        created.await.unwrap_or_default();
    }

    /// Sets the clients to work, until [`Workload::finish`].
    pub fn begin(&mut self) {
        let (world, shape) = (&self.world, &self.shape);
        let what = format!("the clients' work is {:?}", shape);
        world.trace.note(&Event::Client { client: DIRECTOR, what });
        let start = |name, work| self.director.start(name, work);
        let mut writing = Vec::new();
        for number in (PRODUCERS..).take(count(shape.producers)) {
            let config =
                Shape::producer(&mut Dice::named(world.seed, &format!("knobs of producer {number}")));
            let producing = Producing::new(world.clone(), number, shape.clone(), config);
            writing.extend(start("producer", Box::pin(producing.run(self.going.subscribe()))));
        }
        for number in (BY_HAND..).take(count(shape.by_hand)) {
            let by_hand = ByHand::new(world.clone(), number, shape.clone());
            writing.extend(start("by hand", Box::pin(by_hand.run(self.going.subscribe()))));
        }
        if shape.churn {
            let work = churn::churn(world.clone(), CHURN, shape.clone(), self.going.subscribe());
            writing.extend(start("churn", Box::pin(work)));
        }
        if shape.operator {
            let work = operating::operate(world.clone(), KEEPER, self.going.subscribe());
            writing.extend(start("keeper", Box::pin(work)));
        }
        for number in (FOLLOWERS..).take(count(shape.followers)) {
            start("follower", Box::pin(Consuming::new(world.clone(), number).follow(shape.crashes)));
        }
        for number in (SEEKERS..).take(count(shape.seekers)) {
            start("seeker", Box::pin(Consuming::new(world.clone(), number).seek()));
        }
        self.writing = writing;
    }

    /// Sets somebody to work who carries out `orders`, until [`Workload::finish`].
    pub fn operate(&mut self, orders: Orders) {
        let work = operator::operate(self.world.clone(), OPERATOR, orders, self.going.subscribe());
        self.writing.extend(self.director.start("operator", Box::pin(work)));
    }

    /// Sends `count` records to one place, with a producer of its own that gives up after `delivery_timeout`, and
    /// waits for their outcomes.
    pub async fn send(&mut self, target: &Target, count: u64, delivery_timeout: Duration) {
        let number = self.next_sender;
        self.next_sender += 1;
        let (client, life) = self.world.client(number);
        let mut knobs = Dice::named(self.world.seed, &format!("knobs of sender {number}"));
        let config = quorate_client::ProducerConfig { delivery_timeout, ..Shape::producer(&mut knobs) };
        let shape = Shape { padding_max: self.shape.padding_max.min(200), ..self.shape.clone() };
        let mut producing = Producing::new(self.world.clone(), number, shape, config.clone());
        let target = target.clone();
        let sent = life.run("sender", async move {
            let producer = client.producer(config);
            producing.send_all(&producer, &target, count).await;
        });
        sent.await.unwrap_or_default();
    }

    /// Lets a client of its own do something.
    pub async fn ask<T, F>(&mut self, work: impl FnOnce(Client) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.ask_by(self.world.servers.clone(), work).await
    }

    /// The same by a client that was told of one node alone.
    pub async fn ask_through<T, F>(&mut self, node: NodeId, work: impl FnOnce(Client) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let at = self.world.nodes().iter().position(|known| *known == node);
        let servers = at.map(|at| self.world.servers[at].clone());
        self.ask_by(servers.into_iter().collect(), work).await
    }

    async fn ask_by<T, F>(&mut self, servers: Vec<String>, work: impl FnOnce(Client) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let number = self.next_sender;
        self.next_sender += 1;
        let (client, life) = self.world.client_of(number, servers);
        life.run("asks", work(client)).await
    }

    /// Who leads a partition, as the cluster's metadata has it.
    pub async fn leader(&mut self, target: &Target) -> Option<NodeId> {
        let (client, life) = self.world.client(LOOK);
        let target = target.clone();
        let found = life.run("leader", async move {
            let topic = client.admin().describe_topic(&target.topic).await.ok()?;
            topic.partitions.iter().find(|listed| listed.partition == target.partition)?.leader
        });
        found.await.flatten()
    }

    /// Stops producing, and waits until every record has its outcome.
    pub async fn finish(&mut self, patience: Duration) {
        self.going.send_replace(false);
        let deadline = clock::now() + patience;
        loop {
            let pending = {
                let evidence = self.world.history.evidence();
                evidence.sent.iter().find(|(_, sent)| sent.outcome == Outcome::Pending).map(|(id, sent)| {
                    format!(
                        "what was in flight is answered: {id}, sent to {} at {:?}, has no answer {patience:?} after \
                         all was mended",
                        sent.target, sent.at
                    )
                })
            };
            if pending.is_none() && self.writing.iter().all(JoinHandle::is_finished) {
                return;
            }
            let pending = pending.unwrap_or_else(|| {
                format!("what was in flight is answered: a client still works {patience:?} after it was told to end")
            });
            if clock::now() > deadline {
                self.world.history.complain("O-27", pending);
                return;
            }
            clock::sleep(Duration::from_millis(100)).await;
        }
    }

    /// From now on nothing goes any more: whatever is compared is compared at rest.
    pub async fn keep_the_rest(&mut self, patience: Duration) {
        let (client, life) = self.world.client(KEEP);
        let world = self.world.clone();
        let kept = life.run("keep the rest", async move {
            let late = clock::sleep(patience);
            tokio::select! {
                biased;
                () = operating::keep_all(&client) => {}
                () = late => {
                    let what = format!("a healthy cluster changes settings of its topics: not within {patience:?}");
                    world.history.complain("O-27", what);
                }
            }
        });
        kept.await.unwrap_or_default();
    }

    /// Reads every partition of every topic from the beginning to its end, with a client of its own.
    pub async fn scan(&mut self, patience: Duration) {
        let (client, life) = self.world.client(SCAN);
        let listed = {
            let (client, history) = (client.clone(), self.world.history.clone());
            life.run("list", async move {
                let listed = client.admin().list_topics().await;
                if let Err(error) = &listed {
                    history.complain("O-27", format!("a healthy cluster lists its topics: {error}"));
                }
                listed.unwrap_or_default()
            })
        };
        for topic in listed.await.unwrap_or_default() {
            let name = topic.name.as_str().to_owned();
            for partition in topic.partitions.iter().map(|partition| partition.partition) {
                let (client, world) = (client.clone(), self.world.clone());
                let target = Target { topic: name.clone(), partition };
                let place = Place { topic: topic.id, partition };
                let scan = life.run("scan", async move {
                    let late = clock::sleep(patience);
                    let said = tokio::select! {
                        biased;
                        scanned = scan(&client, &target) => match scanned {
                            Ok((start, records)) => {
                                world.keep(place, target, start, records);
                                return;
                            }
                            Err(error) if is_gone(&error) && !is_lasting(&target) => return,
                            Err(error) => error.to_string(),
                        },
                        () = late => format!("not within {patience:?}"),
                    };
                    let what = format!("a healthy cluster can be read: {target} cannot: {said}");
                    world.history.complain("O-27", what);
                });
                scan.await.unwrap_or_default();
            }
        }
    }

    /// Waits until the consumers that follow a partition have read what the scan has found.
    pub async fn read_to_the_end(&self, patience: Duration) {
        let deadline = clock::now() + patience;
        while clock::now() < deadline && check::behind(&self.world.history.evidence()).next().is_some() {
            clock::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends all clients.
    pub async fn end(&mut self) {
        self.director.end();
        let lives = std::mem::take(&mut *self.world.lives());
        for life in &lives {
            life.end();
        }
        for life in lives {
            life.gone().await;
        }
    }
}

impl World {
    /// What a scan has found.
    fn keep(&self, place: Place, target: Target, start: Offset, records: Vec<(Offset, Option<RecordId>)>) {
        let mut evidence = self.history.evidence();
        let unknown = |record: &RecordId| {
            evidence.sent.get(record).is_some_and(|sent| sent.outcome == Outcome::Unknown)
        };
        let late = records.iter().filter_map(|(_, record)| *record).filter(unknown).count();
        for _ in 0..late {
            self.marks.reached("late-commit-of-an-unknown-produce");
        }
        evidence.scan.insert(place, Scan { target: Some(target), start, records });
    }
}

fn count(number: u32) -> usize {
    usize::try_from(number).unwrap_or_default()
}

/// Whether a topic is there from the beginning to the end of a run.
fn is_lasting(target: &Target) -> bool {
    TOPICS.iter().any(|(topic, _)| *topic == target.topic)
}

fn is_gone(error: &ConsumeError) -> bool {
    matches!(error, ConsumeError::UnknownTopic { .. } | ConsumeError::TopicDeleted { .. })
}

/// Everything that stands in a partition, from the log start up to the high watermark of the moment; and the log start.
/// What is trimmed meanwhile has it begin again.
async fn scan(client: &Client, target: &Target) -> Result<(Offset, Records), ConsumeError> {
    let mut consumer = client.consumer(ConsumerConfig::default());
    let (topic, partition) = (&target.topic, target.partition);
    consumer.assign(topic, Partitions::Only(vec![partition]), Start::End).await?;
    let end = consumer.position(topic, partition).unwrap_or_default();
    'again: loop {
        consumer.seek(topic, partition, Start::Beginning).await?;
        let start = consumer.position(topic, partition).unwrap_or_default();
        let mut log = Vec::new();
        while consumer.position(topic, partition).is_none_or(|position| position < end) {
            match consumer.next().await {
                Ok(read) => log.push((read.offset, read.value.as_deref().and_then(RecordId::parse))),
                Err(ConsumeError::OffsetOutOfRange { offset, log_start, .. }) if offset < log_start => {
                    continue 'again;
                }
                Err(error) => return Err(error),
            }
        }
        return Ok((start, log));
    }
}

/// What stands at offsets, in order.
type Records = Vec<(Offset, Option<RecordId>)>;
