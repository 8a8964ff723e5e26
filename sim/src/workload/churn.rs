//! Topics that come and go while they are written to, at times under the same name at once, and change meanwhile.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use quorate_client::{AdminError, NewTopic, ProducerConfig};
use quorate_proto::ids::PartitionId;
use tokio::sync::watch;

use super::altering::Altering;
use super::consuming::Consuming;
use super::producing::Producing;
use super::shape::Shape;
use super::{READERS, World};
use crate::dice::Dice;
use crate::env::clock;
use crate::history::Target;

/// Creates, writes and deletes until `going` is false.
pub(super) async fn churn(world: World, number: u32, shape: Shape, going: watch::Receiver<bool>) {
    let mut dice = Dice::named(world.seed, &format!("churn {number}"));
    let config = ProducerConfig {
        delivery_timeout: dice.time(Duration::from_secs(1), Duration::from_secs(10)),
        auto_create_topics: false,
        ..Shape::producer(&mut dice)
    };
    let mut producing = Producing::new(world.clone(), number, shape, config.clone());
    let (client, process) = world.client(number);
    let producer = client.producer(config);
    let mut altering = Altering::new(world.clone(), client.clone(), number);
    let mut again = false;
    let mut round = 0;
    let mut readers = 0;
    let mut over = going.clone();
    while *going.borrow() {
        if !again {
            round += 1;
            let pause = dice.time(Duration::from_secs(1), Duration::from_secs(8));
            tokio::select! {
                biased;
                () = clock::sleep(pause) => {}
                _ = over.changed() => break,
            }
        }
        let name = format!("brief-{round}");
        let partitions = u32::try_from(dice.between(1, 2)).unwrap_or(1);
        match client.admin().create_topic(NewTopic::new(&name).partitions(partitions).replicas(3)).await {
            Ok(_) if again => world.marks.reached("same-name-created-again-at-once"),
            Ok(_) | Err(AdminError::PerhapsDone { .. } | AdminError::Refused { .. }) => {}
            Err(_) => continue,
        }
        if dice.chance(700) {
            // It finds the topic gone, with what it waits for or has not read yet.
            let target = Target { topic: name.clone(), partition: PartitionId(0) };
            let number = READERS + readers;
            readers += 1;
            process.start("reader", Box::pin(Consuming::new(world.clone(), number).read_until_gone(target)));
        }
        let whole = altering.wants_a_whole_reader().then_some(READERS + readers);
        if let Some(number) = whole {
            readers += 1;
            let reading = Consuming::new(world.clone(), number).read_all_until_gone(name.clone());
            process.start("reader", Box::pin(reading));
        }
        let writing_for = dice.time(Duration::from_millis(20), Duration::from_secs(4));
        let count = dice.between(1, 5);
        let partitions = AtomicU32::new(partitions);
        let writing = async {
            loop {
                let there = u64::from(partitions.load(Ordering::Relaxed));
                let partition = i32::try_from(dice.below(there)).unwrap_or(0);
                let target = Target { topic: name.clone(), partition: PartitionId(partition) };
                producing.send_all(&producer, &target, count).await;
                clock::sleep(Duration::from_millis(200)).await;
            }
        };
        // What has no answer then is in flight when the topic goes.
        tokio::select! {
            biased;
            () = writing => {}
            () = altering.work(&name, &partitions, whole) => {}
            () = clock::sleep(writing_for) => {}
            // The last one stays.
            _ = over.changed() => break,
        }
        if producing.is_waiting() {
            world.marks.reached("topic-deleted-under-load");
        }
        let deleted = client.admin().delete_topic(&name).await;
        again = deleted.is_ok() && dice.chance(600);
        producing.give_up("its topic was deleted");
    }
    producing.give_up("the run is over");
}
