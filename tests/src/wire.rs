//! Requests written by hand, past the client library: what no good client would send.

use bytes::Bytes;
use quorate_proto::batch::{BatchBuilder, Compression, ProducerStamp};
use quorate_proto::ids::{ProducerEpoch, ProducerId, Sequence, Timestamp};
use quorate_proto::v1::admin_service_client::AdminServiceClient;
use quorate_proto::v1::metadata_service_client::MetadataServiceClient;
use quorate_proto::v1::produce_service_client::ProduceServiceClient;
use quorate_proto::v1::{
    CreateTopicRequest, CreateTopicResponse, InitProducerRequest, MetadataRequest, ProduceRequest,
    ProduceResponse, TopicMetadata,
};
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use crate::wait;

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
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be had");
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
        let mut client = MetadataServiceClient::new(self.channel.clone());
        let request = MetadataRequest { all: false, topics: vec![name.to_owned()], auto_create: false };
        let answer = self.runtime.block_on(client.metadata(request)).expect("the node answers");
        answer.into_inner().topics.into_iter().next().expect("a topic is answered for each asked for")
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
        let request = ProduceRequest {
            correlation: 1,
            topic_id: Bytes::copy_from_slice(topic_id),
            partition,
            leader_epoch: -1,
            batch: batch.into(),
            timeout_ms: 10_000,
        };
        let mut client = ProduceServiceClient::new(self.channel.clone()).max_decoding_message_size(64 << 20);
        self.runtime.block_on(async {
            let answers = client.produce(tokio_stream::iter([request])).await.expect("the node answers");
            answers.into_inner().message().await.expect("the node answers").expect("one answer a request")
        })
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
