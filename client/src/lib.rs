//! The Rust client of Quorate: producer, consumer, admin.
//!
//! A [`Client`] knows a few servers and finds the rest. From it come a [`Producer`], a [`Consumer`] and an [`Admin`]:
//!
//! ```no_run
//! use quorate_client::{Client, NewTopic, ProducerConfig, Record};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::grpc(["127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7003"]);
//! client.admin().create_topic(NewTopic::new("greetings").partitions(3)).await?;
//!
//! let producer = client.producer(ProducerConfig::default());
//! let ack = producer.send("greetings", Record::new("hello").key("world")).await?;
//! let place = ack.await?;
//! println!("on the disks of a majority: partition {}, offset {}", place.partition, place.offset);
//! producer.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! Reading it back, from the beginning:
//!
//! ```no_run
//! use quorate_client::{Client, ConsumerConfig, Partitions, Start};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::grpc(["127.0.0.1:7001"]);
//! let mut consumer = client.consumer(ConsumerConfig::default());
//! consumer.assign("greetings", Partitions::All, Start::Beginning).await?;
//! loop {
//!     let record = consumer.next().await?;
//!     println!("{}/{}: {:?}", record.partition, record.offset, record.value);
//! }
//! # }
//! ```
//!
//! What it promises: a record whose [`Ack`] is `Ok` lies on the disks of a majority and is in the log once, however
//! often it had to be sent; the records that one task sends to one partition stand there in the order sent; an error
//! says either "surely not written" or "perhaps written" ([`SendError`]); a consumer never sees what can still vanish.
//! A change of leader costs time and nothing else.
//!
//! Owns: the client's side of the protocol. Must not know: anything of the server but `quorate-proto`. Clock, tasks
//! and randomness come from an [`Env`](quorate_proto::env::Env), and connections from a
//! [`Connect`](quorate_proto::call::Connect), so that all of this runs in the simulator too.

mod accumulator;
mod admin;
pub mod channel;
mod client;
mod consumer;
mod error;
mod leaders;
mod partitioner;
mod producer;
mod record;
mod retry;
#[cfg(test)]
mod testing;

pub use accumulator::Ack;
pub use admin::{
    Admin, ChangeBegun, ClusterStatus, ConfigChanges, CreatedTopic, DeleteBefore, DiskStatus, LeaderChange,
    MembersChange, NewTopic, NodeStatus, OffsetAt, OffsetFound, PartitionDescription, PartitionListing,
    PartitionMove, Placing, TopicDescription, TopicListing, WaitingNode,
};
pub use client::{Client, ClientConfig};
pub use consumer::{Consumer, ConsumerConfig, Partitions, Reset, Start};
pub use error::{AdminError, ConsumeError, NoServer, Reason, SendError, SizeLimit, Tried};
pub use producer::{Producer, ProducerConfig};
pub use quorate_proto::batch::{Compression, RecordHeader};
pub use quorate_proto::ids::{
    ClusterId, Identity, LeaderEpoch, NodeId, Offset, PartitionId, Timestamp, TopicId, TopicName,
};
pub use record::{ConsumedRecord, Record, RecordPlace};
