//! A whole node alone, on a real disk.

use futures_util::future::join3;
use quorate_proto::batch::{BatchBuilder, Compression, ProducerStamp};
use quorate_proto::ids::{Offset, PartitionId, Timestamp};

use super::*;
use crate::controller::NewTopic;
use crate::env::Metrics;
use crate::env::gate::{Gate, GatedDisk};
use crate::env::grpc::GrpcTransport;
use crate::env::os::{OsDisk, OsPool};
use crate::raft::Role;
use crate::raft::alone::eventually;

const LONG: Duration = Duration::from_secs(20);

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

    let mut batch = BatchBuilder::new(100);
    batch.push(Timestamp(0), None, Some(b"value"), &[]);
    let batch = batch.finish(Compression::None, ProducerStamp::NONE);
    gate.close();
    let produced = find().unwrap().produce(None, batch, env.now() + LONG);
    drop(parts);
    let syncing = async {
        env.sleep(Duration::from_millis(100)).await;
        gate.open();
    };
    let (produced, (), ()) = join3(produced, node.stop(), syncing).await;
    assert_eq!(produced.map(|produced| produced.base_offset), Ok(Offset(0)));
}
