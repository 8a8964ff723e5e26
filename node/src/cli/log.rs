//! `quorate log`: what a stopped node's data folder holds. Nothing in it is changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, Subcommand};
use quorate_node::env::Disk;
use quorate_node::env::overlay::Overlay;
use quorate_node::storage::{Body, Entry, Inspected, InspectedEntry, InspectedGroup, Kind};
use quorate_proto::ids::{GroupId, LogIndex};
use serde::Serialize;

use super::output::Output;
use super::{Failure, number, unasked_servers};

/// What to say of a group whose vote may be lost.
const VOTE_LOST: &str = "vote: it may be newer";
/// The same of its base.
const BASE_LOST: &str = "base: its log begins behind one that is missing";

/// What `quorate log` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  quorate log verify --data /var/lib/quorate\n  quorate log dump --data /var/lib/quorate --group 3"
)]
pub(crate) struct LogArgs {
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Debug, Subcommand)]
enum LogCommand {
    /// Print what the folder of a stopped node holds: groups, votes, where entries lie, heads, and what is damaged.
    Dump(DumpArgs),
    /// Read all entries, and say what is damaged: status 1 if anything is.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  quorate log dump --data /var/lib/quorate --group 3 --from 1000 --json

What is damaged is marked DAMAGED, and the status is 0 all the same: `quorate log verify` is the one that ends with 1.", arg = unasked_servers())]
struct DumpArgs {
    /// The data folder of a node that does not run. It is only read
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Only this group; 0 is the metadata
    #[arg(long, value_name = "ID", value_parser = number::<u64>(0..=u64::MAX))]
    group: Option<u64>,

    /// The first index of each log to print
    #[arg(long, value_name = "INDEX", default_value_t = 0, value_parser = number::<u64>(0..=u64::MAX))]
    from: u64,

    /// Print a JSON document a line: each group, then its entries
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  quorate log verify --data /var/lib/quorate --json

Files that are missing or cannot be read are named first. All entries are read; bytes of a volume that no entry lies in \
are not looked at.", arg = unasked_servers())]
struct VerifyArgs {
    /// The data folder of a node that does not run. It is only read
    #[arg(long, value_name = "DIR")]
    data: PathBuf,

    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A group as `dump --json` prints it.
#[derive(Serialize)]
struct GroupLine {
    group: u64,
    vote: Option<VoteLine>,
    committed: Option<u64>,
    trimmed: Option<u64>,
    /// The first entry and the one behind the last.
    entries: [u64; 2],
    spans: Vec<SpanLine>,
    tail_lost: bool,
    vote_lost: bool,
    base_lost: bool,
}

#[derive(Serialize)]
struct VoteLine {
    term: u64,
    node: u64,
    committed: bool,
}

#[derive(Serialize)]
struct SpanLine {
    file: String,
    from: u64,
    end: u64,
}

/// An entry as `dump --json` prints it.
#[derive(Serialize)]
struct EntryLine {
    group: u64,
    index: u64,
    term: u64,
    kind: &'static str,
    base_offset: u64,
    records: u32,
    producer_id: i64,
    producer_epoch: i16,
    sequence: i32,
    max_timestamp: i64,
    appended_at: i64,
    body_bytes: u32,
    body_crc: u32,
}

/// What is damaged.
#[derive(Serialize)]
struct DamageLine {
    /// Absent for what is no group's.
    group: Option<u64>,
    index: Option<u64>,
    what: String,
}

/// What `verify --json` prints.
#[derive(Serialize)]
struct Verified {
    /// Entries that are whole.
    entries: u64,
    damaged: Vec<DamageLine>,
}

/// Runs the command.
pub(crate) fn run(args: LogArgs) -> Result<(), Failure> {
    match args.command {
        LogCommand::Dump(args) => dump(&args),
        LogCommand::Verify(args) => verify(&args),
    }
}

fn inspect(data: &Path) -> Result<Inspected, Failure> {
    // Each says itself what caused it.
    let disk: Arc<dyn Disk> = Arc::new(Overlay::open(data).map_err(Failure::work)?);
    let found = Inspected::open(&disk).map_err(Failure::work)?;
    found.ok_or_else(|| Failure::work(no_data(data)))
}

/// What to say of a folder that is no node's: folders of nodes may lie in it.
fn no_data(data: &Path) -> String {
    let folders = fs::read_dir(data).into_iter().flatten().flatten().map(|entry| entry.path());
    let nodes = folders.filter(|path| path.join("meta.redb").exists());
    let mut nodes = nodes.map(|path| path.display().to_string()).collect::<Vec<_>>();
    nodes.sort();
    let said = format!("{} holds no data of a node", data.display());
    if nodes.is_empty() { said } else { format!("{said}; folders of nodes lie in it: {}", nodes.join(", ")) }
}

fn dump(args: &DumpArgs) -> Result<(), Failure> {
    let inspected = inspect(&args.data)?;
    let mut out = Output::new();
    if !args.json {
        let (node, identity) = inspected.owner();
        let cluster = inspected.cluster_id().map_or("none".to_owned(), |cluster| cluster.to_string());
        print(&mut out, format!("node {node}, identity {identity}, cluster {cluster}"))?;
        for damage in of_the_folder(&inspected) {
            print(&mut out, format!("DAMAGED: {}", damage.what))?;
        }
    }
    let wanted = |group: &InspectedGroup| args.group.is_none_or(|wanted| group.group == GroupId(wanted));
    let groups = inspected.groups();
    if let Some(missing) = args.group.filter(|_| !groups.iter().any(wanted)) {
        return Err(Failure::work(format!("{} holds nothing of group {missing}", args.data.display())));
    }
    for group in groups.iter().filter(|group| wanted(group)) {
        let line = group_line(group);
        print(&mut out, if args.json { json(&line) } else { group_text(&line, group.next) })?;
        let mut printed = Ok(true);
        inspected.entries(group.group, LogIndex(args.from), |entry| {
            let line = match (&entry, args.json) {
                (InspectedEntry::Whole(entry), true) => json(&entry_line(entry)),
                (InspectedEntry::Whole(entry), false) => entry_text(entry),
                (InspectedEntry::Damaged { index, what, why }, true) => {
                    let (group, index) = (Some(group.group.0), Some(index.0));
                    json(&DamageLine { group, index, what: format!("{what}: {why}") })
                }
                (InspectedEntry::Damaged { index, what, why }, false) => {
                    format!("  {index} DAMAGED {what}: {why}")
                }
            };
            printed = out.bytes(format!("{line}\n").as_bytes());
            matches!(printed, Ok(true))
        });
        if !printed? {
            // Nobody reads any more.
            return Ok(());
        }
    }
    out.flush().map(|_| ())
}

fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let inspected = inspect(&args.data)?;
    let mut verified = Verified { entries: 0, damaged: of_the_folder(&inspected) };
    for group in inspected.groups() {
        inspected.entries(group.group, LogIndex(0), |entry| {
            match entry {
                InspectedEntry::Whole(_) => verified.entries += 1,
                InspectedEntry::Damaged { index, what, why } => verified.damaged.push(DamageLine {
                    group: Some(group.group.0),
                    index: Some(index.0),
                    what: format!("{what}: {why}"),
                }),
            }
            true
        });
        let first = group.state.purged.map_or(group.range.start, |purged| purged.index.next());
        let tail = || match inspected.tail_trouble() {
            Some(why) => format!("{} from here on: {why}", tail_text(group.next)),
            None => format!("{} from here on", tail_text(group.next)),
        };
        let lost = [
            group.lost.tail.then(|| (Some(group.next), tail())),
            group.lost.vote.then(|| (None, VOTE_LOST.to_owned())),
            group.base_lost.then(|| (Some(first), BASE_LOST.to_owned())),
            inspected.base_trouble(group.group).map(|why| (Some(first), format!("base: {why}"))),
        ];
        verified.damaged.extend(lost.into_iter().flatten().map(|(index, what)| DamageLine {
            group: Some(group.group.0),
            index: index.map(|index| index.0),
            what,
        }));
    }
    let mut out = Output::new();
    if args.json {
        out.json(&verified)?;
    } else {
        for DamageLine { group, index, what } in &verified.damaged {
            let group = group.map(|group| format!("group {group}, ")).unwrap_or_default();
            let index = index.map(|index| format!("index {index}: ")).unwrap_or_default();
            out.line(format!("{group}{index}{what}"))?;
        }
        out.line(format!(
            "{} entries are whole, {} things are damaged",
            verified.entries,
            verified.damaged.len()
        ))?;
    }
    if verified.damaged.is_empty() { Ok(()) } else { Err(Failure::Said) }
}

/// What is damaged that is no group's alone: which files.
fn of_the_folder(inspected: &Inspected) -> Vec<DamageLine> {
    let mut damaged = Vec::new();
    if inspected.report().meta_rebuilt {
        damaged.push("meta.redb: it is damaged or missing".to_owned());
    }
    for (file, why) in inspected.volumes_lost() {
        // What the disk said names it already.
        damaged.push(if why.contains(&file) { why.to_owned() } else { format!("{file}: {why}") });
    }
    if damaged.is_empty() {
        damaged.extend(inspected.tail_trouble().map(str::to_owned));
    }
    damaged.into_iter().map(|what| DamageLine { group: None, index: None, what }).collect()
}

fn print(out: &mut Output, line: String) -> Result<(), Failure> {
    out.bytes(line.as_bytes())?;
    out.bytes(b"\n").map(|_| ())
}

fn json(document: &impl Serialize) -> String {
    serde_json::to_string(document).expect("our documents have string keys and finite numbers")
}

fn group_line(group: &InspectedGroup) -> GroupLine {
    let state = &group.state;
    GroupLine {
        group: group.group.0,
        vote: state.vote.map(|vote| VoteLine {
            term: vote.term.0,
            node: vote.node,
            committed: vote.committed,
        }),
        committed: state.committed.map(|id| id.index.0),
        trimmed: state.purged.map(|id| id.index.0),
        entries: [group.range.start.0, group.range.end.0],
        spans: group
            .spans
            .iter()
            .map(|(file, range)| SpanLine { file: file.clone(), from: range.start.0, end: range.end.0 })
            .collect(),
        tail_lost: group.lost.tail,
        vote_lost: group.lost.vote,
        base_lost: group.base_lost,
    }
}

/// What to say of a group that may lack entries from `next` on.
fn tail_text(next: LogIndex) -> &'static str {
    if next == LogIndex(0) { "all of its log may be missing" } else { "the end of its log may be missing" }
}

fn group_text(line: &GroupLine, next: LogIndex) -> String {
    let or_none = |index: Option<u64>| index.map_or("none".to_owned(), |index| index.to_string());
    let vote = line.vote.as_ref().map_or("none".to_owned(), |vote| {
        let leads = if vote.committed { ", which leads" } else { "" };
        format!("node {} in term {}{leads}", vote.node, vote.term)
    });
    let entries = match line.entries {
        [first, end] if first == end => "no entries".to_owned(),
        [first, end] => format!("entries {first}..{end}"),
    };
    let trimmed = line.trimmed.map_or("not trimmed".to_owned(), |index| format!("trimmed up to {index}"));
    let mut text = format!(
        "group {}: {entries}, {trimmed}, vote {vote}, committed {}",
        line.group,
        or_none(line.committed)
    );
    for SpanLine { file, from, end } in &line.spans {
        text.push_str(&format!("\n  {file}: {from}..{end}"));
    }
    if line.tail_lost {
        text.push_str(&format!("\n  DAMAGED: {} from index {next} on", tail_text(next)));
    }
    if line.vote_lost {
        text.push_str(&format!("\n  DAMAGED {VOTE_LOST}"));
    }
    if line.base_lost {
        text.push_str(&format!("\n  DAMAGED {BASE_LOST}"));
    }
    text
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Blank => "blank",
        Kind::Membership => "membership",
        Kind::Batch => "batch",
        Kind::Command => "command",
    }
}

fn entry_line(entry: &Entry) -> EntryLine {
    let head = &entry.head;
    EntryLine {
        group: head.group.0,
        index: head.index.0,
        term: head.term.0,
        kind: kind(head.kind),
        base_offset: head.base_offset.0,
        records: head.records,
        producer_id: head.producer_id.0,
        producer_epoch: head.producer_epoch.0,
        sequence: head.sequence.0,
        max_timestamp: head.max_timestamp.0,
        appended_at: head.appended_at.0,
        body_bytes: head.body_bytes,
        body_crc: head.body_crc,
    }
}

fn entry_text(entry: &Entry) -> String {
    let head = &entry.head;
    let bytes = match &entry.body {
        Body::Here(body) => body.len(),
        Body::Absent => 0,
    };
    let mut text = format!("  {} term {} {}, {bytes} bytes", head.index, head.term, kind(head.kind));
    if head.kind == Kind::Batch {
        text.push_str(&format!(", offset {}, {} records", head.base_offset, head.records));
    }
    text
}
