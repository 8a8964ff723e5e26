//! A whole node alone, on a real disk.

use bytes::Bytes;
use futures_util::future::join3;
use quorate_proto::batch::{BatchBuilder, Compression, ProducerStamp};
use quorate_proto::ids::{Offset, PartitionId};

use super::*;
use crate::controller::NewTopic;
use crate::env::gate::{Gate, GatedDisk};
use crate::env::grpc::GrpcTransport;
use crate::env::os::{OsDisk, OsPool};
use crate::env::{DiskSpace, Metrics};
use crate::partition::{Fetch, ProduceError};
use crate::raft::Role;
use crate::raft::alone::eventually;

const LONG: Duration = Duration::from_secs(20);

/// Of now, so that retention leaves it alone.
fn batch(env: &Env) -> Bytes {
    let mut batch = BatchBuilder::new(100);
    batch.push(env.wall(), None, Some(b"value"), &[]);
    batch.finish(Compression::None, ProducerStamp::NONE)
}

#[tokio::test]
async fn a_nearly_full_disk_refuses_batches_and_nothing_else_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let base = quorate_proto::env::os();
    let env = Env {
        base: base.clone(),
        disk: Arc::new(GatedDisk { disk: OsDisk::open(folder.path()).unwrap(), gate: gate.clone() }),
        transport: Arc::new(GrpcTransport::new(base)),
        pool: Arc::new(OsPool),
        metrics: Metrics::default(),
    };
    let mut config = NodeConfig::new(NodeId(1), "127.0.0.1:0");
    config.storage.disk_reserve_bytes = Some(1_000_000);
    let roomy = DiskSpace { free_bytes: 10_000_000_000, total_bytes: 10_000_000_000 };
    gate.claim(Some(roomy));
    let node = Node::start(env.clone(), config).await.unwrap();
    drop(node.readiness().wait_for(|known| *known == Readiness::Ready).await.unwrap());
    let parts = node.stage().borrow().clone().unwrap();
    let create = async |name: &str| {
        let topic = NewTopic { name: name.to_owned(), ..NewTopic::default() };
        parts.controller.create_topic(topic, LONG).await.unwrap().id
    };
    let topic = create("t").await;
    let find = || parts.partitions.replica(topic, PartitionId(0));
    let leads = || find().is_ok_and(|found| matches!(found.role(), Role::Leader { ready: true, .. }));
    eventually(&env, "the partition has its leader", leads).await;
    let produce = async || find().unwrap().produce(None, batch(&env), env.now() + LONG).await;
    assert_eq!(produce().await.map(|produced| produced.base_offset), Ok(Offset(0)));

    gate.claim(Some(DiskSpace { free_bytes: 999_999, ..roomy }));
    eventually(&env, "the disk is seen to be nearly full", || node.store().room().is_full).await;
    let refused = produce().await.unwrap_err();
    let said = refused.to_string();
    assert!(matches!(refused, ProduceError::DiskFull { node: NodeId(1), .. }), "{refused:?}");
    assert!(said.contains("kept in reserve") && said.contains("free space there"), "{said}");
    create("another").await;
    let fetch = Fetch { epoch: None, offset: Offset(0), bytes_max: 1_000, bytes_min: 1, wait: LONG };
    assert!(!find().unwrap().fetch(fetch).await.unwrap().batches.is_empty());

    gate.claim(Some(roomy));
    eventually(&env, "there is room again", || !node.store().room().is_full).await;
    assert_eq!(produce().await.map(|produced| produced.base_offset), Ok(Offset(1)));
    assert_eq!(env.metrics.disk_filled.get(), 1);
    drop(parts);
    node.stop().await;
}

#[tokio::test]
async fn a_node_that_is_stopped_gives_what_is_in_flight_a_moment() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::default();
    let base = quorate_proto::env::os();
    let env = Env {
        base: base.clone(),
        disk: Arc::new(GatedDisk { disk: OsDisk::open(folder.path()).unwrap(), gate: gate.clone() }),
        transport: Arc::new(GrpcTransport::new(base)),
        pool: Arc::new(OsPool),
        metrics: Metrics::default(),
    };
    let node = Node::start(env.clone(), NodeConfig::new(NodeId(1), "127.0.0.1:0")).await.unwrap();
    drop(node.readiness().wait_for(|known| *known == Readiness::Ready).await.unwrap());
    let parts = node.stage().borrow().clone().unwrap();
    let topic = NewTopic { name: "t".to_owned(), ..NewTopic::default() };
    let created = parts.controller.create_topic(topic, LONG).await.unwrap();
    let find = || parts.partitions.replica(created.id, PartitionId(0));
    let leads = || find().is_ok_and(|found| matches!(found.role(), Role::Leader { ready: true, .. }));
    eventually(&env, "the partition has its leader", leads).await;

    gate.close();
    let produced = find().unwrap().produce(None, batch(&env), env.now() + LONG);
    drop(parts);
    let syncing = async {
        env.sleep(Duration::from_millis(100)).await;
        gate.open();
    };
    let (produced, (), ()) = join3(produced, node.stop(), syncing).await;
    assert_eq!(produced.map(|produced| produced.base_offset), Ok(Offset(0)));
}
