//! An operator, who changes how much of the topics is kept while clients work, and deletes records that nobody needs.

use std::time::Duration;

use quorate_client::{AdminError, Client, ConfigChanges, DeleteBefore};
use quorate_proto::ErrorCode;
use quorate_proto::ids::Offset;
use tokio::sync::watch;

use super::World;
use super::shape::{Kept, TOPICS, any_target};
use crate::dice::Dice;
use crate::env::clock;
use crate::trace::Event;

/// Before it is tried again.
const PAUSE: Duration = Duration::from_millis(300);
/// Until a log start that a leader decided on is everywhere.
const SETTLE: Duration = Duration::from_secs(2);

/// Works until `going` is false.
pub(super) async fn operate(world: World, number: u32, going: watch::Receiver<bool>) {
    let mut dice = Dice::named(world.seed, &format!("operator {number}"));
    let (client, process) = world.client(number);
    let mut over = going.clone();
    while *going.borrow() {
        let pause = dice.time(Duration::from_secs(1), Duration::from_secs(12));
        tokio::select! {
            biased;
            () = clock::sleep(pause) => {}
            _ = over.changed() => break,
        }
        let said = if dice.chance(600) {
            configure(&client, &mut dice).await
        } else {
            delete_records(&world, &client, &mut dice).await
        };
        world.trace.note(&Event::Client { client: number, what: said });
    }
    world.end(&process).await;
}

/// A topic keeps more, less, all, or as much as by default. What became of it, in words.
async fn configure(client: &Client, dice: &mut Dice) -> String {
    let (topic, _) = TOPICS[dice.place(TOPICS.len())];
    let changes = match dice.below(6) {
        0 => ConfigChanges::new().reset("retention.ms").reset("retention.bytes"),
        1 => everything(),
        _ => Kept::draw(dice).settings().fold(ConfigChanges::new(), |all, (key, value)| all.set(key, value)),
    };
    let asked = format!("sets {changes:?} of {topic}");
    match client.admin().configure_topic(topic, changes).await {
        Ok(_) => asked,
        Err(error) => format!("{asked}: {error}"),
    }
}

/// Records of a partition are deleted: some, all, or more than there are, which must be refused. In words.
async fn delete_records(world: &World, client: &Client, dice: &mut Dice) -> String {
    let target = any_target(dice);
    let end = match client.admin().describe_topic(&target.topic).await {
        Ok(topic) => topic.partitions.iter().find(|listed| listed.partition == target.partition).cloned(),
        Err(_) => None,
    };
    let end = end.and_then(|listed| listed.high_watermark).unwrap_or_default();
    let before = match dice.below(8) {
        0 => DeleteBefore::HighWatermark,
        1 => DeleteBefore::Offset(end.plus(1_000_000)),
        2 => DeleteBefore::Offset(end),
        _ => DeleteBefore::Offset(Offset(dice.below(end.0 + 1))),
    };
    let asked = format!("deletes records of {target} before {before:?}");
    match client.admin().delete_records(&target.topic, target.partition, before).await {
        Ok(log_start) => {
            if before == DeleteBefore::Offset(end.plus(1_000_000)) {
                let what =
                    format!("records that are not there are not deleted: {asked}: log start {log_start}");
                world.history.complain("O-14", what);
            }
            format!("{asked}: log start {log_start}")
        }
        Err(error @ AdminError::Refused { .. }) => format!("{asked}, refused: {error}"),
        Err(error) => format!("{asked}: {error}"),
    }
}

fn everything() -> ConfigChanges {
    ConfigChanges::new().set("retention.ms", "-1").set("retention.bytes", "-1")
}

/// Sees to it that nothing of any topic goes any more: by default what is stamped long ago does.
pub(super) async fn keep_all(client: &Client) {
    let topics = loop {
        match client.admin().list_topics().await {
            Ok(topics) => break topics,
            Err(_) => clock::sleep(PAUSE).await,
        }
    };
    for topic in topics {
        loop {
            match client.admin().configure_topic(topic.name.as_str(), everything()).await {
                Ok(_) | Err(AdminError::Refused { code: ErrorCode::UnknownTopic, .. }) => break,
                Err(_) => clock::sleep(PAUSE).await,
            }
        }
    }
    // What was decided before takes its way through the logs.
    clock::sleep(SETTLE).await;
}
