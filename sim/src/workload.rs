//! The clients: real producers and consumers of the SDK, with unique values, and what they were told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quorate_client::{
    Ack, Client, ClientConfig, ConsumeError, Consumer, ConsumerConfig, NewTopic, OffsetAt, Partitions,
    Producer, ProducerConfig, Record, SendError, Start,
};
use quorate_proto::ids::{NodeId, Offset, PartitionId};
use tokio::sync::watch;

use crate::check::Seen;
use crate::dice::Dice;
use crate::env::channel::SimConnect;
use crate::env::clock::{self, SimClock};
use crate::env::entropy::SimEntropy;
use crate::env::network::Network;
use crate::env::probe::Probes;
use crate::env::tasks::{Host, Life};
use crate::history::{History, Outcome, Place, Read, RecordId, Sent};
use crate::trace::{Event, Trace};

/// The topics of a run, and how many partitions each has.
pub const TOPICS: [(&str, i32); 2] = [("orders", 3), ("audit", 2)];

/// How hard the clients work, as drawn.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Producers, each a client of its own.
    pub producers: u32,
    /// Consumers, each a client of its own.
    pub consumers: u32,
    /// The longest pause between two records of a producer.
    pub pause_max: Duration,
    /// Records of one producer without an answer; it waits when there are as many.
    pub in_flight_max: usize,
    /// How many bytes a value is padded with at most.
    pub padding_max: u64,
    /// The SDK's own knobs.
    pub producer: ProducerConfig,
}

impl Shape {
    /// Draws one.
    pub fn draw(dice: &mut Dice) -> Self {
        let producer = ProducerConfig {
            linger: Duration::from_millis(dice.below(8)),
            batch_bytes_max: usize::try_from(dice.between(200, 4_000)).unwrap_or(1_000),
            in_flight_max: usize::try_from(dice.between(1, 5)).unwrap_or(1),
            delivery_timeout: dice.time(Duration::from_millis(200), Duration::from_secs(20)),
            ..ProducerConfig::default()
        };
        Self {
            producers: u32::try_from(dice.between(2, 4)).unwrap_or(2),
            consumers: u32::try_from(dice.between(1, 2)).unwrap_or(1),
            pause_max: dice.time(Duration::from_millis(60), Duration::from_millis(600)),
            in_flight_max: usize::try_from(dice.between(1, 40)).unwrap_or(1),
            padding_max: dice.between(0, 300),
            producer,
        }
    }
}

/// All the clients of a run.
pub struct Workload {
    network: Network,
    history: History,
    trace: Trace,
    probes: Probes,
    seed: u64,
    shape: Shape,
    servers: Vec<String>,
    lives: BTreeMap<u32, Life>,
    producing: watch::Sender<bool>,
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
        let producing = watch::Sender::new(true);
        Self {
            network,
            history,
            trace,
            probes,
            seed,
            shape,
            servers,
            lives: BTreeMap::new(),
            producing,
            next_sender: 300,
        }
    }

    /// Creates the topics; ready when every partition has been given out.
    pub async fn create_topics(&mut self) {
        let (client, life) = self.client(0);
        let (history, trace) = (self.history.clone(), self.trace.clone());
        let created = life.run("create topics", async move {
            for (name, partitions) in TOPICS {
                let partitions = u32::try_from(partitions).expect("a few partitions");
                let topic = NewTopic::new(name).partitions(partitions).replicas(3);
                // A lost answer is asked for again, and the second time the topic exists.
                let mut tries = 0;
                while let Err(error) = client.admin().create_topic(topic.clone()).await {
                    trace.note(&Event::Client { client: 0, what: format!("did not create {name}: {error}") });
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
                        history.complain("O-27", format!("topic {name} cannot be created: {error}"));
                        return;
                    }
                    clock::sleep(Duration::from_millis(500)).await;
                }
            }
        });
        created.await.unwrap_or_default();
    }

    /// Sets producers and consumers to work, until [`Workload::finish`].
    pub fn begin(&mut self) {
        for number in 1..=self.shape.producers {
            let (client, life) = self.client(number);
            let producer = self.producing(number, client, self.shape.clone());
            life.start("producer", Box::pin(producer.run()));
        }
        for number in 101..101 + self.shape.consumers {
            let (client, life) = self.client(number);
            life.start("consumer", Box::pin(consume(number, client, self.history.clone())));
        }
    }

    /// Sends `count` records to one place, with a producer of its own that gives up after `delivery_timeout`, and
    /// waits for their outcomes.
    pub async fn send(&mut self, place: &Place, count: u64, delivery_timeout: Duration) {
        let number = self.next_sender;
        self.next_sender += 1;
        let (client, life) = self.client(number);
        let shape = Shape {
            producer: ProducerConfig { delivery_timeout, ..self.shape.producer.clone() },
            ..self.shape.clone()
        };
        let mut producing = self.producing(number, client, shape);
        let place = place.clone();
        let sent = life.run("sender", async move {
            let producer = producing.client.producer(producing.shape.producer.clone());
            let mut acks = FuturesUnordered::new();
            for number in 0..count {
                acks.extend(producing.send(&producer, number, place.clone()).await);
            }
            while let Some((record, answer)) = acks.next().await {
                producing.heard(record, answer);
            }
        });
        sent.await.unwrap_or_default();
    }

    /// Lets a client of its own do something.
    pub async fn ask<T, F>(&mut self, work: impl FnOnce(Client) -> F) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let number = self.next_sender;
        self.next_sender += 1;
        let (client, life) = self.client(number);
        life.run("asks", work(client)).await
    }

    /// Who leads a partition, as the cluster's metadata has it.
    pub async fn leader(&mut self, place: &Place) -> Option<NodeId> {
        let (client, life) = self.client(201);
        let place = place.clone();
        let found = life.run("leader", async move {
            let topic = client.admin().describe_topic(&place.topic).await.ok()?;
            topic.partitions.iter().find(|listed| listed.partition == place.partition)?.leader
        });
        found.await.flatten()
    }

    /// Stops producing, and waits until every record has its outcome.
    pub async fn finish(&mut self, patience: Duration) {
        self.producing.send_replace(false);
        let deadline = clock::now() + patience;
        loop {
            let pending = {
                let evidence = self.history.evidence();
                evidence.sent.iter().find(|(_, sent)| sent.outcome == Outcome::Pending).map(|(id, sent)| {
                    format!(
                        "{id}, sent to {} at {:?}, has no answer {patience:?} after all was mended",
                        sent.place, sent.at
                    )
                })
            };
            let Some(pending) = pending else { return };
            if clock::now() > deadline {
                self.history.complain("O-27", pending);
                return;
            }
            clock::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Reads every partition from the beginning to its end, with a client of its own.
    pub async fn scan(&mut self, patience: Duration) {
        let (client, life) = self.client(200);
        for (topic, partitions) in TOPICS {
            for partition in (0..partitions).map(PartitionId) {
                let client = client.clone();
                let history = self.history.clone();
                let place = Place { topic: topic.to_owned(), partition };
                let scan = life.run("scan", async move {
                    tokio::select! {
                        biased;
                        scanned = scan(&client, &place) => match scanned {
                            Ok(log) => {
                                history.evidence().scan.insert(place, log);
                            }
                            Err(said) => history.complain("O-27", format!("cannot read {place}: {said}")),
                        },
                        () = clock::sleep(patience) => {
                            history.complain("O-27", format!("cannot read {place} within {patience:?}"));
                        }
                    }
                });
                scan.await.unwrap_or_default();
            }
        }
    }

    /// Ends all clients.
    pub async fn end(&mut self) {
        for life in self.lives.values() {
            life.end();
        }
        for life in std::mem::take(&mut self.lives).into_values() {
            life.gone().await;
        }
    }

    fn producing(&self, number: u32, client: Client, shape: Shape) -> Producing {
        Producing {
            number,
            client,
            shape,
            dice: Dice::named(self.seed, &format!("producer {number}")),
            history: self.history.clone(),
            trace: self.trace.clone(),
            going: self.producing.subscribe(),
        }
    }

    fn client(&mut self, number: u32) -> (Client, Life) {
        let history = self.history.clone();
        let life = Life::new(Host::Client(number), move |host, task, said| {
            history.complain("panic", format!("task {task} of {host} panicked: {said}"));
        });
        self.lives.insert(number, life.clone());
        let purpose = format!("client {number}");
        let mut dice = Dice::named(self.seed, &purpose);
        let ahead = i64::try_from(dice.below(2_000)).unwrap_or_default() - 1_000;
        let env = quorate_proto::env::Env {
            clock: Arc::new(SimClock::new(Duration::from_secs(1), ahead)),
            tasks: Arc::new(life.clone()),
            entropy: Arc::new(SimEntropy::new(dice)),
            probe: self.probes.probe(Dice::named(self.seed, &format!("points of {purpose}"))),
        };
        let connect = Arc::new(SimConnect::new(self.network.clone(), life.clone()));
        (Client::new(env, connect, self.servers.clone(), ClientConfig::default()), life)
    }
}

/// One producer.
struct Producing {
    number: u32,
    client: Client,
    shape: Shape,
    dice: Dice,
    history: History,
    trace: Trace,
    going: watch::Receiver<bool>,
}

impl Producing {
    async fn run(mut self) {
        let producer = self.client.producer(self.shape.producer.clone());
        let mut acks = FuturesUnordered::new();
        for number in 0.. {
            if !*self.going.borrow() {
                break;
            }
            let (topic, partitions) = TOPICS[self.dice.place(TOPICS.len())];
            let partition =
                i32::try_from(self.dice.below(u64::try_from(partitions).unwrap_or(1))).unwrap_or(0);
            let place = Place { topic: topic.to_owned(), partition: PartitionId(partition) };
            acks.extend(self.send(&producer, number, place).await);
            let pause = self.dice.time(self.shape.pause_max / 8, self.shape.pause_max);
            self.wait(&mut acks, pause).await;
        }
        while let Some((record, answer)) = acks.next().await {
            self.heard(record, answer);
        }
    }

    /// Sends one record; nothing if its outcome is known at once.
    async fn send(
        &mut self,
        producer: &Producer,
        number: u64,
        place: Place,
    ) -> Option<impl Future<Output = Answered> + use<>> {
        let record = RecordId { producer: self.number, number };
        let padding = usize::try_from(self.dice.below(self.shape.padding_max + 1)).unwrap_or(0);
        let value = Record::new(format!("{record} {:.<padding$}", "")).partition(place.partition);
        let topic = place.topic.clone();
        let sent = Sent { place, at: clock::now(), outcome: Outcome::Pending, known_at: Duration::ZERO };
        self.history.evidence().sent.insert(record, sent);
        match producer.send(&topic, value).await {
            Ok(ack) => Some(answered(record, ack)),
            Err(error) => {
                self.learnt(record, outcome_of(&error), error.to_string());
                None
            }
        }
    }

    /// Hears answers for as long as `pause`, and longer while too many are missing.
    async fn wait<F>(&self, acks: &mut FuturesUnordered<F>, pause: Duration)
    where
        F: Future<Output = Answered>,
    {
        let mut pause = std::pin::pin!(clock::sleep(pause));
        loop {
            tokio::select! {
                biased;
                Some((record, answer)) = acks.next(), if !acks.is_empty() => self.heard(record, answer),
                () = &mut pause => break,
            }
        }
        while acks.len() >= self.shape.in_flight_max
            && let Some((record, answer)) = acks.next().await
        {
            self.heard(record, answer);
        }
    }

    fn heard(&self, record: RecordId, answer: Result<(PartitionId, Offset), SendError>) {
        match answer {
            Ok((partition, offset)) => {
                let asked = self.history.evidence().sent.get(&record).map(|sent| sent.place.clone());
                if asked.as_ref().is_none_or(|asked| asked.partition != partition) {
                    let said = format!("{record} was sent to {asked:?} and acked in partition {partition}");
                    self.history.complain("O-11", said);
                }
                self.learnt(record, Outcome::Acked(offset), format!("at {offset}"));
            }
            Err(error) => self.learnt(record, outcome_of(&error), error.to_string()),
        }
    }

    fn learnt(&self, record: RecordId, outcome: Outcome, said: String) {
        let mut evidence = self.history.evidence();
        if let Some(sent) = evidence.sent.get_mut(&record) {
            sent.outcome = outcome;
            sent.known_at = clock::now();
            let word = match outcome {
                Outcome::Acked(_) => "acked",
                Outcome::Failed => "failed",
                Outcome::Unknown | Outcome::Pending => "unknown",
            };
            let what = format!("{record} to {} {word}: {said}", sent.place);
            self.trace.note(&Event::Client { client: self.number, what });
        }
    }
}

type Answered = (RecordId, Result<(PartitionId, Offset), SendError>);

async fn answered(record: RecordId, ack: Ack) -> Answered {
    (record, ack.await.map(|place| (place.partition, place.offset)))
}

fn outcome_of(error: &SendError) -> Outcome {
    if error.is_perhaps_written() { Outcome::Unknown } else { Outcome::Failed }
}

/// One consumer: everything from the beginning, for as long as it lives.
async fn consume(number: u32, client: Client, history: History) {
    let mut consumer = client.consumer(ConsumerConfig {
        fetch_wait: Duration::from_millis(200),
        fetch_bytes_max: 16 * 1024,
        ..ConsumerConfig::default()
    });
    for (topic, _) in TOPICS {
        while let Err(error) = consumer.assign(topic, Partitions::All, Start::Beginning).await {
            if let Some(said) = never_to_be_said(&error) {
                history.complain("O-16", format!("consumer {number} was told {said}"));
                return;
            }
            clock::sleep(Duration::from_millis(100)).await;
        }
    }
    loop {
        match consumer.next().await {
            Ok(read) => {
                let record = read.value.as_deref().and_then(RecordId::parse);
                let place = Place { topic: read.topic.as_str().to_owned(), partition: read.partition };
                let at = clock::now();
                let read = Read { consumer: number, place, offset: read.offset, record, at };
                history.see(&Seen::Read(&read));
                history.evidence().reads.push(read);
            }
            Err(error) => {
                if let Some(said) = never_to_be_said(&error) {
                    history.complain("O-16", format!("consumer {number} was told {said}"));
                    return;
                }
                clock::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// What a consumer must never be told: nothing is deleted, nothing expires and nothing is damaged in these runs.
fn never_to_be_said(error: &ConsumeError) -> Option<String> {
    match error {
        ConsumeError::TimedOut { .. } => None,
        ConsumeError::OffsetOutOfRange { .. }
        | ConsumeError::Corrupt { .. }
        | ConsumeError::Refused { .. }
        | ConsumeError::TopicName(_)
        | ConsumeError::UnknownTopic { .. }
        | ConsumeError::TopicDeleted { .. }
        | ConsumeError::UnknownPartition { .. }
        | ConsumeError::NotAssigned { .. }
        | ConsumeError::NothingAssigned => Some(error.to_string()),
    }
}

/// Everything that stands in a partition, up to the high watermark of the moment.
async fn scan(client: &Client, place: &Place) -> Result<Vec<(Offset, Option<RecordId>)>, String> {
    let end = client.admin().list_offset(&place.topic, place.partition, OffsetAt::Latest).await;
    let end = end.map_err(|error| error.to_string())?.map_or(Offset(0), |found| found.offset);
    let mut consumer = client.consumer(ConsumerConfig::default());
    assign(&mut consumer, place).await.map_err(|error| error.to_string())?;
    let mut log = Vec::new();
    while consumer.position(&place.topic, place.partition).is_none_or(|position| position < end) {
        let read = consumer.next().await.map_err(|error| error.to_string())?;
        log.push((read.offset, read.value.as_deref().and_then(RecordId::parse)));
    }
    Ok(log)
}

async fn assign(consumer: &mut Consumer, place: &Place) -> Result<(), ConsumeError> {
    consumer.assign(&place.topic, Partitions::Only(vec![place.partition]), Start::Beginning).await
}
