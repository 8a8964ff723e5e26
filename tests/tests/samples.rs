//! What earlier releases left on disks opens, and holds what it held.

use std::fs;

use quorate_proto::ids::ProducerId;
use quorate_tests::content::Reader;
use quorate_tests::sample::{folder, lay_out};
use quorate_tests::wire::{Wire, batch};
use quorate_tests::{Cluster, Shape, wait};

#[test]
fn every_sample_opens_and_holds_what_it_held() {
    let mut samples: Vec<_> = fs::read_dir(folder())
        .expect("tests/samples is there")
        .map(|entry| entry.expect("a folder entry can be read").path())
        .filter(|path| path.is_dir())
        .collect();
    samples.sort();
    assert!(!samples.is_empty(), "there is no sample under tests/samples: `make sample NAME=..` makes one");
    for sample in samples {
        println!("{}", sample.display());
        let mut cluster = Cluster::lay_out(&Shape::of(1));
        let expected = lay_out(&sample, &cluster.node(1).data).expect("a sample is whole");
        assert_eq!(expected.node, 1);
        cluster.launch(1);
        cluster.wait_ready(1);
        let reader = Reader::new(&cluster.servers());
        for holds in &expected.partitions {
            let content = wait::until("a leader", || reader.read(&holds.topic, holds.partition).ok());
            assert_eq!(content, holds.content, "{}/{}", holds.topic, holds.partition);
        }
        for topic in &expected.deleted {
            cluster.run(["topic", "describe", topic]).refused(1, topic);
        }
        let wire = Wire::new(&cluster.node(1).grpc);
        let retry = &expected.retry;
        let topic = wire.topic(&retry.topic).id;
        let partition = i32::try_from(retry.partition).unwrap();
        let values: Vec<_> = retry.values.iter().map(String::as_str).collect();
        let again =
            wire.produce(&topic, partition, batch(ProducerId(retry.producer), retry.sequence, &values));
        assert_eq!((again.error, again.base_offset), (0, retry.base), "{again:?}");
        let end = reader.readable(&retry.topic).unwrap()[usize::try_from(partition).unwrap()].end;
        let new = wire.produce(&topic, partition, batch(ProducerId::NONE, -1, &["new"]));
        assert_eq!((new.error, new.base_offset), (0, i64::try_from(end).unwrap()), "{new:?}");
        // And once more, from what it wrote itself.
        cluster.kill(1);
        cluster.launch(1);
        cluster.wait_ready(1);
        let content = wait::until("a leader", || reader.read(&retry.topic, retry.partition).ok());
        assert_eq!(content.readable.end, end + 1);
    }
}
