//! `quorate topic`: create, list, describe, change and delete topics, and delete their records.

mod alter;

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use comfy_table::CellAlignment;
use quorate_client::{
    Client, DeleteBefore, NewTopic, NodeId, Offset, PartitionDescription, PartitionId, TopicDescription,
    TopicListing, TopicName,
};
use serde::Serialize;

use self::alter::{AddPartitionsArgs, ConfigArgs};
use super::output::{Output, plain_table};
use super::reach::{no_majority, patiently};
use super::{Failure, Global, NUMBER_MAX, number};

/// What `quorate topic` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  quorate topic create lines --partitions 4")]
pub(crate) struct TopicArgs {
    #[command(subcommand)]
    command: TopicCommand,
}

#[derive(Debug, Subcommand)]
enum TopicCommand {
    /// Create a topic.
    Create(CreateArgs),
    /// List topics.
    List(ListArgs),
    /// Show a topic: who leads its partitions, and what can be read.
    Describe(DescribeArgs),
    /// Show or change what a topic is set to.
    Config(ConfigArgs),
    /// Add partitions to a topic.
    AddPartitions(AddPartitionsArgs),
    /// Delete a topic and all its records.
    Delete(DeleteArgs),
    /// Delete the records of a partition before an offset.
    DeleteRecords(DeleteRecordsArgs),
}

/// What a topic can be set to, as help texts end.
const KEYS: &str = "
  max.message.bytes       the largest batch in bytes, and so the largest record (default 1048588)
  message.timestamp.type  CreateTime: the producer's clock (default); LogAppendTime: the leader's
  retention.bytes         bytes to keep of each partition (default -1: unlimited; 0 keeps nothing)
  retention.ms            ms to keep records (default 604800000, 7 days; -1: unlimited; 0: nothing)";

fn with_keys(help: &str) -> String {
    format!("{help}{KEYS}")
}

#[derive(Debug, Args)]
#[command(after_help = with_keys("\
Example:
  quorate topic create lines --partitions 4 --replicas 3 --config max.message.bytes=2000000

Keys of --config:"))]
struct CreateArgs {
    /// Its name: 1 to 249 letters, digits, '.', '_' and '-'.
    topic: TopicName,
    /// How many partitions [default: 1].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<u32>(1..=NUMBER_MAX))]
    partitions: Option<u32>,
    /// On how many nodes each partition lies [default: 3, or as many nodes as there are].
    #[arg(long, value_name = "R", allow_negative_numbers = true, value_parser = number::<u32>(1..=NUMBER_MAX))]
    replicas: Option<u32>,
    /// A setting of the topic, may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_setting)]
    config: Vec<(String, String)>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  quorate topic list")]
struct ListArgs {
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  quorate topic describe lines --json")]
struct DescribeArgs {
    /// The topic's name.
    topic: TopicName,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  quorate topic delete lines")]
struct DeleteArgs {
    /// The topic's name.
    topic: TopicName,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate topic delete-records lines --partition 0 --before 1500
  quorate topic delete-records lines --partition 0 --before high-watermark

The records are gone for ever; offsets go on as before. Who reads from a deleted offset hears where the partition \
begins now.")]
struct DeleteRecordsArgs {
    /// The topic's name.
    topic: TopicName,
    /// The partition's number, from 0.
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number::<i32>(0..=i32::MAX))]
    partition: i32,
    /// The first offset that stays; high-watermark (or -1): delete all that can be read now.
    #[arg(long, value_name = "OFFSET", allow_negative_numbers = true, value_parser = parse_before)]
    before: DeleteBefore,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Reads an offset, or what stands for the high watermark.
fn parse_before(text: &str) -> Result<DeleteBefore, String> {
    match text {
        "high-watermark" | "-1" => Ok(DeleteBefore::HighWatermark),
        _ => match text.parse::<u64>() {
            Ok(offset) if i64::try_from(offset).is_ok() => Ok(DeleteBefore::Offset(Offset(offset))),
            Ok(_) | Err(_) => {
                Err("must be an offset from 0 to 9223372036854775807, or high-watermark (-1)".to_owned())
            }
        },
    }
}

/// Reads `key=value`.
fn parse_setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| "must be key=value".to_owned())?;
    if key.is_empty() { Err("must be key=value".to_owned()) } else { Ok((key.to_owned(), value.to_owned())) }
}

/// What `create --json` prints.
#[derive(Serialize)]
struct Created {
    name: String,
    id: String,
}

/// What `list --json` prints.
#[derive(Serialize)]
struct Listed {
    topics: Vec<ListedTopic>,
}

#[derive(Serialize)]
struct ListedTopic {
    name: String,
    id: String,
    partitions: usize,
    /// Of the partition that has most.
    replicas: usize,
    configs: BTreeMap<String, String>,
}

/// What `describe --json` prints.
#[derive(Serialize)]
struct Described {
    name: String,
    id: String,
    partitions: Vec<DescribedPartition>,
    /// All settings, the defaults among them.
    configs: BTreeMap<String, String>,
}

#[derive(Serialize)]
struct DescribedPartition {
    partition: i32,
    /// Null while none is heard to lead: who led last may still think so.
    leader: Option<u32>,
    /// Null while none is known.
    leader_epoch: Option<i32>,
    /// The preferred leader first.
    replicas: Vec<u32>,
    /// Null while no leader answers; so is the next.
    log_start_offset: Option<u64>,
    high_watermark: Option<u64>,
}

/// What `delete-records --json` prints.
#[derive(Serialize)]
struct DeletedRecords {
    topic: String,
    partition: i32,
    /// First offset that can still be read.
    log_start_offset: u64,
}

/// Runs the command.
pub(crate) async fn run(global: Global, args: TopicArgs) -> Result<(), Failure> {
    let client = Client::grpc(global.servers.addresses());
    let work = async {
        match args.command {
            TopicCommand::Create(args) => create(&client, args).await,
            TopicCommand::List(args) => list(&client, &args).await,
            TopicCommand::Describe(args) => describe(&client, &args).await,
            TopicCommand::Config(args) => alter::config(&client, args).await,
            TopicCommand::AddPartitions(args) => alter::add_partitions(&client, args).await,
            TopicCommand::Delete(args) => delete(&client, &args).await,
            TopicCommand::DeleteRecords(args) => delete_records(&client, &args).await,
        }
    };
    patiently(&client, "10 s", work).await
}

async fn create(client: &Client, args: CreateArgs) -> Result<(), Failure> {
    let topic = NewTopic {
        name: args.topic.to_string(),
        partitions: args.partitions,
        replicas: args.replicas,
        configs: args.config.into_iter().collect(),
    };
    let created = client.admin().create_topic(topic).await?;
    for warning in &created.warnings {
        Output::note(format!("warning: {warning}"));
    }
    let (name, id) = (args.topic.to_string(), created.id.to_string());
    let mut out = Output::new();
    if args.json { out.json(&Created { name, id }) } else { out.line(format!("created topic {name} ({id})")) }
}

async fn list(client: &Client, args: &ListArgs) -> Result<(), Failure> {
    let topics: Vec<_> = client.admin().list_topics().await?.into_iter().map(listed).collect();
    let mut out = Output::new();
    if args.json {
        return out.json(&Listed { topics });
    }
    if topics.is_empty() {
        Output::note("there are no topics");
        return Ok(());
    }
    let mut table = plain_table(["topic", "partitions", "replicas", "id"]);
    for topic in topics {
        let (partitions, replicas) = (topic.partitions.to_string(), topic.replicas.to_string());
        table.add_row([topic.name, partitions, replicas, topic.id]);
    }
    out.line(table)
}

fn listed(topic: TopicListing) -> ListedTopic {
    ListedTopic {
        name: topic.name.to_string(),
        id: topic.id.to_string(),
        partitions: topic.partitions.len(),
        replicas: topic.partitions.iter().map(|partition| partition.replicas.len()).max().unwrap_or(0),
        configs: topic.configs,
    }
}

async fn describe(client: &Client, args: &DescribeArgs) -> Result<(), Failure> {
    let topic = client.admin().describe_topic(args.topic.as_str()).await?;
    let mut out = Output::new();
    if args.json {
        return out.json(&described(&topic));
    }
    let mut table =
        plain_table(["partition", "leader", "epoch", "replicas", "log start offset", "high watermark"]);
    for partition in &topic.partitions {
        table.add_row(row(partition));
    }
    for column in [0, 1, 2, 4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let configs: String = topic.configs.iter().map(|(key, value)| format!("\n{key}={value}")).collect();
    let doubt = doubt(client, &topic).await.map(|text| format!("\n{text}")).unwrap_or_default();
    out.line(format!("topic {} ({}){configs}\n{table}{doubt}", topic.name, topic.id))
}

/// What to say of partitions whose leader was not heard to lead.
async fn doubt(client: &Client, topic: &TopicDescription) -> Option<String> {
    let unheard = topic.partitions.iter().filter(|partition| partition.high_watermark.is_none()).count();
    if unheard == 0 {
        return None;
    }
    let status = client.admin().cluster_status().await.ok();
    status.as_ref().and_then(no_majority).or_else(|| {
        let all = topic.partitions.len();
        Some(format!(
            "{unheard} of {all} partitions: no leader that a majority hears has answered; who is named is who led last"
        ))
    })
}

fn described(topic: &TopicDescription) -> Described {
    let partition = |partition: &PartitionDescription| DescribedPartition {
        partition: partition.partition.0,
        // Only a leader that a majority hears says this.
        leader: partition.leader.filter(|_| partition.high_watermark.is_some()).map(|leader| leader.0),
        leader_epoch: partition.leader_epoch.map(|epoch| epoch.0),
        replicas: partition.replicas.iter().map(|node| node.0).collect(),
        log_start_offset: partition.log_start_offset.map(|offset| offset.0),
        high_watermark: partition.high_watermark.map(|offset| offset.0),
    };
    Described {
        name: topic.name.to_string(),
        id: topic.id.to_string(),
        partitions: topic.partitions.iter().map(partition).collect(),
        configs: topic.configs.clone(),
    }
}

fn row(partition: &PartitionDescription) -> [String; 6] {
    fn or_none(value: Option<impl ToString>) -> String {
        value.map_or_else(|| "none".to_owned(), |value| value.to_string())
    }
    let replicas: Vec<_> = partition.replicas.iter().map(NodeId::to_string).collect();
    [
        partition.partition.to_string(),
        or_none(partition.leader),
        or_none(partition.leader_epoch),
        replicas.join(","),
        or_none(partition.log_start_offset),
        or_none(partition.high_watermark),
    ]
}

async fn delete(client: &Client, args: &DeleteArgs) -> Result<(), Failure> {
    client.admin().delete_topic(args.topic.as_str()).await?;
    Output::new().line(format!("deleted topic {}", args.topic))
}

async fn delete_records(client: &Client, args: &DeleteRecordsArgs) -> Result<(), Failure> {
    let partition = PartitionId(args.partition);
    let log_start = client.admin().delete_records(args.topic.as_str(), partition, args.before).await?;
    let (topic, partition) = (args.topic.to_string(), args.partition);
    let mut out = Output::new();
    if args.json {
        return out.json(&DeletedRecords { topic, partition, log_start_offset: log_start.0 });
    }
    out.line(format!("partition {partition} of topic {topic} begins at offset {log_start}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_or_the_high_watermark_is_read() {
        let offset = |offset| Ok(DeleteBefore::Offset(Offset(offset)));
        assert_eq!(parse_before("0"), offset(0));
        assert_eq!(parse_before("9223372036854775807"), offset(9_223_372_036_854_775_807));
        assert_eq!(parse_before("-1"), Ok(DeleteBefore::HighWatermark));
        assert_eq!(parse_before("high-watermark"), Ok(DeleteBefore::HighWatermark));
        for wrong in ["-2", "", "x", "1.5", "9223372036854775808"] {
            assert!(parse_before(wrong).is_err(), "{wrong}");
        }
    }
}
