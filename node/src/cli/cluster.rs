//! `quorate cluster`: the cluster as a whole.

use clap::{Args, Subcommand};
use comfy_table::CellAlignment;
use indicatif::HumanBytes;
use quorate_client::{Client, ClusterStatus, LeaderChange, NodeId, PartitionId, TopicName};
use serde::Serialize;

use super::output::{Output, plain_table};
use super::reach::patiently;
use super::{Failure, Global, members, number};

/// What `quorate cluster` takes.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  quorate cluster status\n  quorate cluster replace-node 2")]
pub(crate) struct ClusterArgs {
    #[command(subcommand)]
    command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
enum ClusterCommand {
    /// Show what needs attention, the nodes, and whether every partition is led and whole.
    Status(StatusArgs),
    /// Hand the lead of a partition to another node that holds a replica of it.
    ///
    /// The first replica is the preferred leader. Once its node has started anew it is given the lead back.
    TransferLeader(TransferLeaderArgs),
    /// Admit a new node, which was started with --join and waits.
    AddNode(members::AddArgs),
    /// Admit an empty disk in the place of the one that a node has lost.
    ReplaceNode(members::ReplaceArgs),
    /// Move all away that a node holds, and then remove it.
    RemoveNode(members::RemoveArgs),
    /// Move partitions to other nodes.
    Reassign(members::ReassignArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  quorate cluster transfer-leader lines --partition 0 --to 2")]
struct TransferLeaderArgs {
    /// The topic.
    topic: TopicName,
    /// The partition, from 0.
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = number::<i32>(0..=i32::MAX))]
    partition: i32,
    /// The id of the node that is to lead.
    #[arg(long, value_name = "NODE", allow_negative_numbers = true, value_parser = number::<u32>(1..=NodeId::MAX.0))]
    to: u32,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  quorate --servers 127.0.0.1:7001 cluster status")]
struct StatusArgs {
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// What `status --json` prints.
#[derive(Serialize)]
struct Status {
    cluster_id: String,
    nodes: Vec<StatusNode>,
    /// Partitions with a replica on a node that is not alive.
    under_replicated: u32,
    /// Partitions without a leader.
    leaderless: u32,
    /// What somebody should look at, in words, what matters most first.
    attention: Vec<String>,
    /// Partitions whose members are not yet those that they are to be.
    moving: Vec<StatusMove>,
    /// Nodes that ask to be admitted.
    waiting: Vec<StatusWaiting>,
}

#[derive(Serialize)]
struct StatusMove {
    topic: String,
    partition: i32,
    /// Nodes whose disks are members, or may be.
    from: Vec<u32>,
    /// Nodes that are to hold it, the preferred leader first.
    to: Vec<u32>,
    /// Fewer than a majority of its members are there.
    stuck: bool,
}

#[derive(Serialize)]
struct StatusWaiting {
    id: u32,
    identity: Option<String>,
    peer: String,
    /// Its id is that of a member, whose disk it does not have.
    replaces: bool,
}

#[derive(Serialize)]
struct StatusNode {
    id: u32,
    /// Null if it was never heard.
    identity: Option<String>,
    grpc: String,
    http: String,
    /// Accepted by the metadata leader and heard within an election time-out.
    alive: bool,
    /// Partitions that it leads.
    leads: u32,
    /// Partitions of which it has a replica.
    replicas: u32,
    /// `voter` or `learner` in the metadata group, or `draining` while it is being removed.
    role: &'static str,
    /// Empty if none was said.
    rack: String,
    /// Bytes left on its disk; null, as the next two, if the node that answers has not heard it.
    disk_free_bytes: Option<u64>,
    /// Entries that were found damaged there since its process started.
    damaged_entries: Option<u64>,
    /// How many of these are whole again.
    repaired_entries: Option<u64>,
}

/// Runs the command.
pub(crate) async fn run(global: Global, args: ClusterArgs) -> Result<(), Failure> {
    let client = Client::grpc(global.servers.addresses());
    match args.command {
        ClusterCommand::Status(args) => status(&client, &args).await,
        ClusterCommand::TransferLeader(args) => transfer_leader(&client, &args).await,
        ClusterCommand::AddNode(args) => members::add(global, args).await,
        ClusterCommand::ReplaceNode(args) => members::replace(global, args).await,
        ClusterCommand::RemoveNode(args) => members::remove(global, args).await,
        ClusterCommand::Reassign(args) => members::reassign(global, args).await,
    }
}

async fn transfer_leader(client: &Client, args: &TransferLeaderArgs) -> Result<(), Failure> {
    let admin = client.admin();
    let (topic, partition, to) = (args.topic.to_string(), PartitionId(args.partition), NodeId(args.to));
    let change = patiently(client, "10 s", admin.transfer_leader(&topic, partition, to)).await?;
    Output::new().line(match change {
        LeaderChange::Moved => format!("node {to} leads partition {partition} of {topic}"),
        LeaderChange::LedAlready => format!("node {to} led partition {partition} of {topic} already"),
    })
}

async fn status(client: &Client, args: &StatusArgs) -> Result<(), Failure> {
    let status = patiently(client, "10 s", client.admin().cluster_status()).await?;
    let status = shown(status);
    let mut out = Output::new();
    if args.json {
        return out.json(&status);
    }
    let mut table = plain_table([
        "node",
        "state",
        "role",
        "rack",
        "grpc",
        "http",
        "leads",
        "replicas",
        "disk free",
        "identity",
    ]);
    for node in &status.nodes {
        table.add_row([
            node.id.to_string(),
            if node.alive { "alive" } else { "not alive" }.to_owned(),
            node.role.to_owned(),
            if node.rack.is_empty() { "-".to_owned() } else { node.rack.clone() },
            node.grpc.clone(),
            node.http.clone(),
            node.leads.to_string(),
            node.replicas.to_string(),
            node.disk_free_bytes.map_or_else(|| "unknown".to_owned(), |bytes| HumanBytes(bytes).to_string()),
            node.identity.clone().unwrap_or_else(|| "none".to_owned()),
        ]);
    }
    for column in [0, 6, 7, 8] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    out.line(format!(
        "cluster {}\n{}\n{table}\npartitions: {} without a leader, {} with a replica on a node that is down{}",
        status.cluster_id,
        attention(&status.attention),
        status.leaderless,
        status.under_replicated,
        members_in_words(&status)
    ))
}

/// A line for what moves, and one for each node that waits.
fn members_in_words(status: &Status) -> String {
    let stuck = status.moving.iter().filter(|moving| moving.stuck).count();
    let moving = match status.moving.len() {
        0 => String::new(),
        many => {
            format!(
                "\nmoving: {many} partitions, {stuck} of them stuck without a majority of their members and a leader"
            )
        }
    };
    let waiting = status.waiting.iter().map(|node| {
        let command = if node.replaces { "replace-node" } else { "add-node" };
        if node.replaces && status.nodes.iter().any(|member| member.id == node.id && member.alive) {
            return format!(
                "\nrefused: another disk at {} asks to be node {id}, which is alive: two nodes must not have one id, stop \
                 one of them",
                node.peer,
                id = node.id
            );
        }
        format!(
            "\nwaiting: node {id} at {}; to admit it: quorate cluster {command} {id}",
            node.peer,
            id = node.id
        )
    });
    [moving].into_iter().chain(waiting).collect()
}

/// What needs attention, a line each.
fn attention(said: &[String]) -> String {
    if said.is_empty() {
        return "nothing needs attention".to_owned();
    }
    said.iter().fold("needs attention:".to_owned(), |text, line| format!("{text}\n  - {line}"))
}

fn shown(status: ClusterStatus) -> Status {
    let nodes = status
        .nodes
        .into_iter()
        .map(|node| StatusNode {
            id: node.id.0,
            identity: node.identity.map(|identity| identity.to_string()),
            grpc: node.grpc,
            http: node.http,
            alive: node.alive,
            leads: node.leads,
            replicas: node.replicas,
            role: match (node.draining, node.voter) {
                (true, _) => "draining",
                (false, true) => "voter",
                (false, false) => "learner",
            },
            rack: node.rack,
            disk_free_bytes: node.disk.map(|disk| disk.free_bytes),
            damaged_entries: node.disk.map(|disk| disk.damaged_entries),
            repaired_entries: node.disk.map(|disk| disk.repaired_entries),
        })
        .collect();
    let ids = |nodes: Vec<NodeId>| nodes.into_iter().map(|node| node.0).collect();
    let moving = status.moves.into_iter().map(|moving| StatusMove {
        topic: moving.topic,
        partition: moving.partition.0,
        from: ids(moving.from),
        to: ids(moving.to),
        stuck: moving.stuck,
    });
    let waiting = status.waiting.into_iter().map(|node| StatusWaiting {
        id: node.id.0,
        identity: node.identity.map(|identity| identity.to_string()),
        peer: node.peer,
        replaces: node.replaces,
    });
    Status {
        cluster_id: status.cluster_id.to_string(),
        nodes,
        under_replicated: status.under_replicated,
        leaderless: status.leaderless,
        attention: status.attention,
        moving: moving.collect(),
        waiting: waiting.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_attention_stands_in_lines_of_its_own() {
        assert_eq!(attention(&[]), "nothing needs attention");
        let said = ["one".to_owned(), "two".to_owned()];
        assert_eq!(attention(&said), "needs attention:\n  - one\n  - two");
    }
}
