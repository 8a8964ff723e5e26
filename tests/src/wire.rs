//! Requests written by hand, past the client library: what no good client would send.

use bytes::Bytes;
use quorate_proto::batch::{BatchBuilder, Compression, ProducerStamp};
use quorate_proto::ids::{ProducerEpoch, ProducerId, Sequence, Timestamp};
use quorate_proto::v1::admin_service_client::AdminServiceClient;
use quorate_proto::v1::metadata_service_client::MetadataServiceClient;
use quorate_proto::v1::produce_service_client::ProduceServiceClient;
use quorate_proto::v1::{
    AddPartitionsRequest, AddPartitionsResponse, ConfigureTopicRequest, ConfigureTopicResponse,
    CreateTopicRequest, CreateTopicResponse, InitProducerRequest, MetadataRequest, ProduceRequest,
    ProduceResponse, TopicMetadata,
};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use crate::wait;

/// How long a node may take that may be dead.
const SOON: std::time::Duration = std::time::Duration::from_secs(2);

/// A connection to one node. Calls block.
pub struct Wire {
    runtime: Runtime,
    channel: Channel,
}

impl Wire {
    /// Will connect to `address` (`host:port`) at the first call, and again after a loss.
    ///
    /// # Panics
    /// If the address is none.
    pub fn new(address: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime can be had");
        let endpoint =
            Endpoint::from_shared(format!("http://{address}")).expect("an address").timeout(wait::DEADLINE);
        let channel = runtime.block_on(async { endpoint.connect_lazy() });
        Self { runtime, channel }
    }

    /// What the node knows of a topic.
    ///
    /// # Panics
    /// If no answer comes.
    pub fn topic(&self, name: &str) -> TopicMetadata {
        self.try_topic(name).expect("the node answers")
    }

    /// What the node knows of a topic, if it answers soon.
    pub fn try_topic(&self, name: &str) -> Option<TopicMetadata> {
        let mut client = MetadataServiceClient::new(self.channel.clone());
        let request = MetadataRequest { all: false, topics: vec![name.to_owned()], auto_create: false };
        let answer = async { tokio::time::timeout(SOON, client.metadata(request)).await };
        self.runtime.block_on(answer).ok()?.ok()?.into_inner().topics.into_iter().next()
    }

    /// Asks for a topic of one partition under a name of any kind.
    ///
    /// # Panics
    /// If no answer comes.
    pub fn create_topic(&self, name: &str) -> CreateTopicResponse {
        let mut client = AdminServiceClient::new(self.channel.clone());
        let request = CreateTopicRequest {
            name: name.to_owned(),
            partitions: 1,
            replicas: 1,
            configs: Vec::new(),
            timeout_ms: 10_000,
        };
        self.runtime.block_on(client.create_topic(request)).expect("the node answers").into_inner()
    }

    /// Asks for a change of a topic's settings, of any kind.
    ///
    /// # Panics
    /// If no answer comes.
    pub fn configure_topic(&self, request: ConfigureTopicRequest) -> ConfigureTopicResponse {
        let mut client = AdminServiceClient::new(self.channel.clone());
        self.runtime.block_on(client.configure_topic(request)).expect("the node answers").into_inner()
    }

    /// Asks for partitions, of any number.
    ///
    /// # Panics
    /// If no answer comes.
    pub fn add_partitions(&self, request: AddPartitionsRequest) -> AddPartitionsResponse {
        let mut client = AdminServiceClient::new(self.channel.clone());
        self.runtime.block_on(client.add_partitions(request)).expect("the node answers").into_inner()
    }

    /// A new producer id.
    ///
    /// # Panics
    /// If no answer comes, or a refusal.
    pub fn init_producer(&self) -> ProducerId {
        let mut client = ProduceServiceClient::new(self.channel.clone());
        let answer =
            self.runtime.block_on(client.init_producer(InitProducerRequest {})).expect("the node answers");
        let answer = answer.into_inner();
        assert_eq!(answer.error, 0, "{answer:?}");
        ProducerId(answer.producer_id)
    }

    /// Sends one batch to a partition, whatever the leader's epoch.
    ///
    /// # Panics
    /// If no answer comes.
    pub fn produce(&self, topic_id: &[u8], partition: i32, batch: impl Into<Bytes>) -> ProduceResponse {
        let mut client = ProduceServiceClient::new(self.channel.clone());
        let request = request(topic_id, partition, batch.into());
        self.runtime.block_on(async {
            let answers = client.produce(tokio_stream::iter([request])).await.expect("the node answers");
            answers.into_inner().message().await.expect("the node answers").expect("one answer a request")
        })
    }

    /// Sends one batch and hangs up once `done` gives something: its answer is lost.
    ///
    /// # Panics
    /// If `done` gives nothing within the deadline.
    pub fn produce_unheard(
        &self,
        topic_id: &[u8],
        partition: i32,
        batch: Bytes,
        done: impl FnMut() -> Option<()>,
    ) {
        let mut client = ProduceServiceClient::new(self.channel.clone());
        let request = request(topic_id, partition, batch);
        // The stream of answers is held, and not looked at.
        let held =
            self.runtime.block_on(client.produce(tokio_stream::iter([request]))).expect("the node answers");
        wait::until("the batch to be written", done);
        drop(held);
    }
}

fn request(topic_id: &[u8], partition: i32, batch: Bytes) -> ProduceRequest {
    ProduceRequest {
        correlation: 1,
        topic_id: Bytes::copy_from_slice(topic_id),
        partition,
        leader_epoch: -1,
        batch,
        timeout_ms: 10_000,
    }
}

/// A batch of records without keys, stamped now.
///
/// # Panics
/// If the values are too large for a batch.
pub fn batch(producer: ProducerId, sequence: i32, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(1 << 20);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let now = Timestamp(i64::try_from(now.as_millis()).expect("in range"));
    for value in values {
        builder.push(now, None, Some(value.as_bytes()), &[]);
    }
    let stamp = match producer {
        ProducerId::NONE => ProducerStamp::NONE,
        id => ProducerStamp { id, epoch: ProducerEpoch(0), sequence: Sequence(sequence) },
    };
    builder.finish(Compression::None, stamp)
}
