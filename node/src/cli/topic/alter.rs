//! `quorate topic config` and `quorate topic add-partitions`: changes of topics that are there.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use quorate_client::{Client, ConfigChanges, TopicName};
use quorate_node::controller::check_key;
use serde::Serialize;

use super::super::output::Output;
use super::super::{Failure, NUMBER_MAX, number};
use super::{parse_setting, with_keys};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate topic config get lines
  quorate topic config set lines retention.ms=86400000")]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Show all settings of a topic, those at their defaults too.
    Get(GetArgs),
    /// Change settings of a topic while it is in use: all that are named, or none.
    Set(SetArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate topic config get lines               all settings, as KEY=VALUE
  quorate topic config get lines retention.ms  the value alone")]
struct GetArgs {
    /// The topic's name.
    topic: TopicName,
    /// Only this setting.
    key: Option<String>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(override_usage = "\
quorate topic config set [OPTIONS] <TOPIC> <KEY=VALUE>...
       quorate topic config set [OPTIONS] <TOPIC> [KEY=VALUE]... --reset <KEY>")]
#[command(after_help = with_keys("\
Examples:
  quorate topic config set lines retention.ms=3600000 retention.bytes=1000000000
  quorate topic config set lines --reset retention.ms

Keys:"))]
struct SetArgs {
    /// The topic's name.
    topic: TopicName,
    /// Settings and their new values.
    #[arg(value_name = "KEY=VALUE", value_parser = parse_change, required_unless_present = "reset")]
    settings: Vec<(String, String)>,
    /// A setting that goes back to its default, may be repeated.
    #[arg(long, value_name = "KEY")]
    reset: Vec<String>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  quorate topic add-partitions lines --partitions 8

Partitions cannot be taken away again. Records that are there stay where they are. Those with a \
key may go to other partitions from then on: the order of a key's records holds before and after, \
and not across.")]
pub(super) struct AddPartitionsArgs {
    /// The topic's name.
    topic: TopicName,
    /// How many partitions the topic has then; more than it has now.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = number::<u32>(1..=NUMBER_MAX))]
    partitions: u32,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

/// Reads `key=value` with a value.
fn parse_change(text: &str) -> Result<(String, String), String> {
    let (key, value) = parse_setting(text)?;
    if value.is_empty() {
        return Err(format!("{key} has no value here: --reset {key} sets it to its default"));
    }
    Ok((key, value))
}

/// What `config get --json` and `config set --json` print.
#[derive(Serialize)]
struct Configured<'a> {
    name: &'a str,
    configs: BTreeMap<String, String>,
}

/// What `add-partitions --json` prints.
#[derive(Serialize)]
struct Grown<'a> {
    name: &'a str,
    partitions: u32,
}

/// Shows or changes settings.
pub(super) async fn config(client: &Client, args: ConfigArgs) -> Result<(), Failure> {
    match args.command {
        ConfigCommand::Get(args) => get(client, args).await,
        ConfigCommand::Set(args) => set(client, args).await,
    }
}

async fn get(client: &Client, args: GetArgs) -> Result<(), Failure> {
    let name = args.topic.as_str();
    let mut configs = client.admin().topic_config(name).await?;
    let mut out = Output::new();
    if let Some(key) = &args.key {
        let Some(value) = configs.remove(key) else { return Err(no_such_key(key)) };
        if !args.json {
            return out.line(value);
        }
        configs = BTreeMap::from([(key.clone(), value)]);
    }
    if args.json { out.json(&Configured { name, configs }) } else { out.line(lines(&configs)) }
}

/// Why a topic has no setting of that name.
fn no_such_key(key: &str) -> Failure {
    match check_key(key) {
        Err(why) => Failure::work(why),
        Ok(()) => {
            Failure::work(format!("the node that answered does not know config key {key:?}: it is older"))
        }
    }
}

async fn set(client: &Client, args: SetArgs) -> Result<(), Failure> {
    let name = args.topic.as_str();
    let mut changes = ConfigChanges::new();
    let mut changed = Vec::new();
    let asked = args.settings.clone();
    for (key, value) in args.settings {
        changed.push(key.clone());
        changes = changes.set(key, value);
    }
    for key in args.reset {
        changed.push(key.clone());
        changes = changes.reset(key);
    }
    let mut configs = client.admin().configure_topic(name, changes).await?;
    if configs.is_empty() {
        // Done, and whoever answers now may not have heard of it.
        configs = client.admin().topic_config(name).await?;
        configs.extend(asked);
    }
    let mut out = Output::new();
    if args.json {
        return out.json(&Configured { name, configs });
    }
    configs.retain(|key, _| changed.contains(key));
    out.line(format!("configured topic {name}\n{}", lines(&configs)))
}

fn lines(configs: &BTreeMap<String, String>) -> String {
    let lines: Vec<_> = configs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    lines.join("\n")
}

/// Adds partitions.
pub(super) async fn add_partitions(client: &Client, args: AddPartitionsArgs) -> Result<(), Failure> {
    let (name, partitions) = (args.topic.as_str(), args.partitions);
    client.admin().add_partitions(name, partitions).await?;
    let mut out = Output::new();
    if args.json {
        out.json(&Grown { name, partitions })
    } else {
        out.line(format!("topic {name} has {partitions} partitions"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_written_with_its_value() {
        let change = |text: &str| parse_change(text).map(|(key, value)| format!("{key} {value}"));
        assert_eq!(change("retention.ms=-1").as_deref(), Ok("retention.ms -1"));
        assert_eq!(change("a=b=c").as_deref(), Ok("a b=c"));
        for bad in ["retention.ms", "=5", ""] {
            assert_eq!(change(bad).unwrap_err(), "must be key=value", "{bad:?}");
        }
        assert!(change("retention.ms=").unwrap_err().contains("--reset retention.ms"));
    }

    #[test]
    fn a_key_that_a_topic_does_not_have_is_explained() {
        let said = |key: &str| {
            let Failure::Work(why) = no_such_key(key) else { panic!("{key} is no matter of usage") };
            why.to_string()
        };
        assert!(said("retention.sm").contains("did you mean \"retention.ms\"?"));
        assert!(said("cleanup.policy").contains("is not honoured: "));
        assert!(said("retention.ms").contains("older"));
    }
}
