//! `quorate cluster add-node`, `replace-node`, `remove-node`, `reassign`: begins a change of members and shows how far it
//! is. The change goes on without whoever watches.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use quorate_client::{
    AdminError, ChangeBegun, Client, ClusterStatus, MembersChange, NodeId, PartitionId, PartitionMove,
    Placing,
};
use quorate_node::{config, controller};

use super::output::Output;
use super::reach::patiently;
use super::{Failure, Global, signals};

/// Pause between two looks at the cluster.
const LOOK: Duration = Duration::from_millis(300);
/// What has been stuck for so long does not come loose by itself.
const STUCK: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  quorate node --id 4 --data ./four --join 127.0.0.1:7101 --rack b ...
  quorate cluster add-node 4
  quorate cluster reassign --balance

The new node holds nothing at first: new topics are placed on it, and `reassign` moves partitions to it.")]
pub(crate) struct AddArgs {
    /// The node that was started with --join and waits.
    #[arg(value_name = "ID", value_parser = config::parse_node_id)]
    id: NodeId,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  quorate node --id 2 --data ./empty --join 127.0.0.1:7101 ...     (it waits, and is not ready)
  quorate cluster replace-node 2

--join names a member's listener for peers. A node that had --bootstrap with other nodes may be started with that as \
before; one that began alone, with neither, would form a cluster of its own.

What the lost disk held is copied from the other nodes. A partition of which no other node has a copy stays without a \
leader: its records are lost.")]
pub(crate) struct ReplaceArgs {
    /// The node whose disk is lost, and that was started again on an empty folder.
    #[arg(value_name = "ID", value_parser = config::parse_node_id)]
    id: NodeId,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  quorate cluster remove-node 4

All that the node holds is moved to others first; it may be dead. It comes back on an empty data folder only.")]
pub(crate) struct RemoveArgs {
    /// The node that goes.
    #[arg(value_name = "ID", value_parser = config::parse_node_id)]
    id: NodeId,
}

#[derive(Debug, Args)]
#[command(override_usage = "\
quorate cluster reassign [OPTIONS] <TOPIC:PARTITION=ID,ID,..>...
       quorate cluster reassign [OPTIONS] --balance")]
#[command(after_help = "\
Examples:
  quorate cluster reassign lines:0=1,2,4 lines:1=2,4,1
  quorate cluster reassign --balance")]
pub(crate) struct ReassignArgs {
    /// Partitions and the nodes that are to hold them, the preferred leader first; the number of ids is a
    /// partition's new number of replicas.
    #[arg(
        value_name = "TOPIC:PARTITION=ID,ID,..",
        value_parser = parse_placing,
        required_unless_present = "balance",
        conflicts_with = "balance"
    )]
    partitions: Vec<Placing>,
    /// Move as many partitions as it takes for all nodes to hold as many.
    #[arg(long)]
    balance: bool,
}

fn parse_placing(text: &str) -> Result<Placing, String> {
    let expected = || format!("{text:?} is not TOPIC:PARTITION=ID,ID,.., such as lines:0=1,2,3");
    let (place, nodes) = text.split_once('=').ok_or_else(expected)?;
    let (topic, partition) = place.rsplit_once(':').ok_or_else(expected)?;
    let partition = partition.parse().ok().filter(|number: &i32| *number >= 0).ok_or_else(expected)?;
    let replicas = nodes.split(',').map(config::parse_node_id).collect::<Result<Vec<_>, _>>()?;
    if topic.is_empty() {
        return Err(expected());
    }
    Ok(Placing { topic: topic.to_owned(), partition: PartitionId(partition), replicas })
}

/// Admits a new node.
pub(crate) async fn add(global: Global, args: AddArgs) -> Result<(), Failure> {
    run(global, MembersChange::Add(args.id)).await
}

/// Admits an empty disk in the place of a lost one.
pub(crate) async fn replace(global: Global, args: ReplaceArgs) -> Result<(), Failure> {
    run(global, MembersChange::Replace(args.id)).await
}

/// Drains and removes a node.
pub(crate) async fn remove(global: Global, args: RemoveArgs) -> Result<(), Failure> {
    run(global, MembersChange::Remove(args.id)).await
}

/// Moves partitions.
pub(crate) async fn reassign(global: Global, args: ReassignArgs) -> Result<(), Failure> {
    let change = if args.balance { MembersChange::Balance } else { MembersChange::Reassign(args.partitions) };
    run(global, change).await
}

async fn run(global: Global, change: MembersChange) -> Result<(), Failure> {
    let client = Client::grpc(global.servers.addresses());
    let mut signals = signals()?;
    tokio::select! {
        biased;
        () = signals.wait() => {
            Err(Failure::Interrupted("interrupted: what was begun goes on; the same command shows how far it is"))
        }
        done = follow(&client, &change) => done,
    }
}

/// Begins a change, and watches it to its end.
async fn follow(client: &Client, change: &MembersChange) -> Result<(), Failure> {
    let admin = client.admin();
    let begun = patiently(client, "10 s", admin.change_members(change)).await?;
    for warning in warnings(change) {
        Output::note(format!("warning: {warning}"));
    }
    let mut show = Show::new();
    let mut stuck_since: Option<Instant> = None;
    loop {
        match patiently(client, "10 s", admin.cluster_status()).await {
            Ok(status) if status.as_of < begun.as_of => show.say("waiting for a node that knows of it"),
            Ok(status) => match how_far(change, begun, &status)? {
                Far::Done(sentence) => {
                    show.end();
                    return Output::new().line(sentence);
                }
                Far::Under { sentence, stuck } => {
                    show.say(&sentence);
                    match stuck {
                        None => stuck_since = None,
                        Some(reason) => {
                            let since = *stuck_since.get_or_insert_with(Instant::now);
                            if since.elapsed() >= STUCK {
                                show.end();
                                return Err(Failure::work(reason));
                            }
                        }
                    }
                }
            },
            Err(error @ (AdminError::Refused { .. } | AdminError::TopicName(_))) => return Err(error.into()),
            // The node that was asked may be the one that goes.
            Err(error) => show.say(&format!("no word of how far it is: {error}")),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What whoever asks for a change should know, the same things as of a new topic.
fn warnings(change: &MembersChange) -> Vec<String> {
    let MembersChange::Reassign(placings) = change else { return Vec::new() };
    let counts = placings.iter().map(|placing| placing.replicas.len()).collect::<BTreeSet<_>>();
    counts.into_iter().flat_map(controller::warnings).collect()
}

/// How far a change is.
#[derive(Debug, PartialEq, Eq)]
enum Far {
    /// It is done: what to say on standard output.
    Done(String),
    /// It is under way: what is missing; and, if all that is missing cannot move, why.
    Under { sentence: String, stuck: Option<String> },
}

fn how_far(change: &MembersChange, begun: ChangeBegun, status: &ClusterStatus) -> Result<Far, Failure> {
    let wanted = wanted(change);
    let is_overtaken = |of: &&PartitionMove| {
        wanted.get(&(of.topic.as_str(), of.partition)).is_some_and(|replicas| *replicas != of.to)
    };
    if let Some(of) = status.moves.iter().find(is_overtaken) {
        return Err(Failure::work(format!(
            "{}:{} was given to nodes {} in the meantime",
            of.topic,
            of.partition,
            listed(&of.to)
        )));
    }
    let concerned: Vec<&PartitionMove> =
        status.moves.iter().filter(|of| concerns(change, &wanted, of)).collect();
    let missing = missing(change, status);
    if concerned.is_empty() && missing.is_none() {
        return Ok(Far::Done(done(change, begun, status)));
    }
    let moving = match concerned.len() {
        0 => None,
        1 => Some("1 partition on its way".to_owned()),
        many => Some(format!("{many} partitions on their way")),
    };
    let parts = [missing.clone(), moving, waits(&concerned, status)];
    let sentence = parts.into_iter().flatten().collect::<Vec<_>>().join("; ");
    let all_stuck = missing.is_none() && concerned.iter().all(|of| of.stuck);
    let stuck = all_stuck.then(|| {
        let one = |of: &&PartitionMove| format!("{}:{} (members on nodes {})", of.topic, of.partition, listed(&of.from));
        format!(
            "all is done but for what has neither a majority of its members nor a leader: {}. Start their nodes again, \
             and it goes on; if their disks are lost, so are these records: delete the topic",
            concerned.iter().map(one).collect::<Vec<_>>().join(", ")
        )
    });
    Ok(Far::Under { sentence, stuck })
}

/// Who is down and to hold some of these partitions, which their other members serve meanwhile.
fn waits(moves: &[&PartitionMove], status: &ClusterStatus) -> Option<String> {
    let is_down = |id: &NodeId| status.nodes.iter().any(|node| node.id == *id && !node.alive);
    let waiting: Vec<&PartitionMove> =
        moves.iter().copied().filter(|of| !of.stuck && of.to.iter().any(is_down)).collect();
    let first = waiting.first()?;
    let down: BTreeSet<NodeId> =
        waiting.iter().flat_map(|of| &of.to).copied().filter(|id| is_down(id)).collect();
    let (partitions, wait) = match waiting.len() - 1 {
        0 => (format!("{}:{}", first.topic, first.partition), "waits"),
        1 => (format!("{}:{} and 1 other", first.topic, first.partition), "wait"),
        more => (format!("{}:{} and {more} others", first.topic, first.partition), "wait"),
    };
    let (nodes, them, it) = match (down.len(), waiting.len()) {
        (1, 1) => ("node", "it", "the partition"),
        (1, _) => ("node", "it", "the partitions"),
        (_, 1) => ("nodes", "them", "the partition"),
        (_, _) => ("nodes", "them", "the partitions"),
    };
    Some(format!(
        "{partitions} {wait} for {nodes} {}: start {them}, or give {it} to others with `cluster reassign`",
        listed(&down.into_iter().collect::<Vec<_>>())
    ))
}

/// Who is to hold which partition.
type WantedReplicas<'a> = BTreeMap<(&'a str, PartitionId), &'a [NodeId]>;

/// What an operator has named: there may be as many as a cluster has partitions.
fn wanted(change: &MembersChange) -> WantedReplicas<'_> {
    let MembersChange::Reassign(placings) = change else { return BTreeMap::new() };
    placings
        .iter()
        .map(|placing| ((placing.topic.as_str(), placing.partition), placing.replicas.as_slice()))
        .collect()
}

/// Whether a partition moves by this change.
fn concerns(change: &MembersChange, wanted: &WantedReplicas<'_>, of: &PartitionMove) -> bool {
    match change {
        MembersChange::Add(_) => false,
        MembersChange::Replace(id) | MembersChange::Remove(id) => of.concerns(*id),
        MembersChange::Reassign(_) => wanted.contains_key(&(of.topic.as_str(), of.partition)),
        MembersChange::Balance => true,
    }
}

/// What else is missing, as a sentence.
fn missing(change: &MembersChange, status: &ClusterStatus) -> Option<String> {
    let find = |id: NodeId| status.nodes.iter().find(|node| node.id == id);
    match change {
        MembersChange::Add(id) | MembersChange::Replace(id) => match find(*id) {
            None => return Some(format!("node {id} is not known yet")),
            Some(node) if !node.alive => {
                return Some(format!("node {id} was admitted, and is not heard yet"));
            }
            Some(_) => {}
        },
        MembersChange::Remove(id) => {
            if find(*id).is_some() {
                return Some(format!("node {id} is still a member"));
            }
        }
        MembersChange::Reassign(_) | MembersChange::Balance => return None,
    }
    // Else the loss of the next node might leave too few to vote. One that is down is let in once it is there again.
    let stay = status.nodes.iter().filter(|node| !node.draining && node.alive).count();
    let wanted = match stay {
        0..=2 => stay,
        3 | 4 => 3,
        _ => 5,
    };
    let voters = status.nodes.iter().filter(|node| node.voter && !node.draining).count();
    (voters < wanted).then(|| format!("{voters} of {wanted} nodes vote in the metadata group"))
}

fn done(change: &MembersChange, begun: ChangeBegun, status: &ClusterStatus) -> String {
    match change {
        MembersChange::Add(id) => {
            format!("node {id} is a member; `quorate cluster reassign --balance` gives it its share")
        }
        MembersChange::Replace(id) => {
            // Asked for again, nothing was replaced by it.
            let node = status.nodes.iter().find(|node| node.id == *id);
            let disk = node.and_then(|node| node.identity).map(|disk| format!(" {disk}")).unwrap_or_default();
            format!(
                "node {id} has disk{disk}, the last that was admitted for it, and all that it is to hold is on it"
            )
        }
        MembersChange::Remove(id) => {
            format!("node {id} is no member any more, and holds nothing: it may be stopped")
        }
        MembersChange::Reassign(placings) => match placings.len() {
            1 => "the partition is where it is to be".to_owned(),
            many => format!("all {many} partitions are where they are to be"),
        },
        MembersChange::Balance => match begun.partitions {
            0 => not_moved(status),
            1 => "1 partition was moved".to_owned(),
            many => format!("{many} partitions were moved"),
        },
    }
}

/// Why nothing is to be moved for a balance.
fn not_moved(status: &ClusterStatus) -> String {
    let stay = || status.nodes.iter().filter(|node| !node.draining);
    let unfit = stay().filter_map(|node| match node.disk {
        _ if !node.alive => Some(format!("node {}, which is down", node.id)),
        Some(disk) if disk.full => Some(format!("node {}, whose disk is nearly full", node.id)),
        Some(_) | None => None,
    });
    let unfit: Vec<String> = unfit.collect();
    if !unfit.is_empty() {
        return format!("nothing was moved: nothing is given to {}", unfit.join(", nor to "));
    }
    let (fewest, most) = (stay().map(|node| node.replicas).min(), stay().map(|node| node.replicas).max());
    match most.unwrap_or_default() - fewest.unwrap_or_default() {
        0 | 1 => "all nodes hold as many partitions as they should".to_owned(),
        _ => "nothing was moved: no move helps that does not bring two replicas of a partition to one node, or more of \
              them into one rack"
            .to_owned(),
    }
}

fn listed(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

/// What is said on standard error while a change is under way: a line that changes on a terminal, a line for each change
/// elsewhere.
struct Show {
    bar: Option<ProgressBar>,
    said: String,
}

impl Show {
    fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template("{spinner} {msg}").expect("the template is sound"));
            bar
        });
        Self { bar, said: String::new() }
    }

    fn say(&mut self, sentence: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(sentence.to_owned());
                bar.tick();
            }
            None if self.said != sentence => Output::note(sentence),
            None => {}
        }
        sentence.clone_into(&mut self.said);
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_client::{DiskStatus, NodeStatus};
    use quorate_proto::ids::ClusterId;

    use super::*;

    const BEGUN: ChangeBegun = ChangeBegun { partitions: 2, as_of: 5 };

    /// Nodes `1+` vote, `4` follow, `5!` are dead, `6-` leave.
    fn status(nodes: &str, moves: Vec<PartitionMove>) -> ClusterStatus {
        let node = |word: &str| NodeStatus {
            id: NodeId(word.trim_end_matches(['+', '!', '-']).parse().unwrap()),
            identity: None,
            grpc: String::new(),
            http: String::new(),
            alive: !word.contains('!'),
            leads: 0,
            replicas: 0,
            voter: word.contains('+'),
            draining: word.contains('-'),
            rack: String::new(),
            disk: None,
        };
        ClusterStatus {
            cluster_id: ClusterId::from_wire(&[5; 16]).unwrap(),
            nodes: nodes.split_whitespace().map(node).collect(),
            under_replicated: 0,
            leaderless: 0,
            moves,
            waiting: Vec::new(),
            as_of: 5,
            attention: Vec::new(),
        }
    }

    fn of(partition: i32, from: &[u32], to: &[u32], stuck: bool) -> PartitionMove {
        let nodes = |list: &[u32]| list.iter().copied().map(NodeId).collect();
        PartitionMove {
            topic: "t".to_owned(),
            partition: PartitionId(partition),
            from: nodes(from),
            to: nodes(to),
            stuck,
        }
    }

    fn check(change: &MembersChange, nodes: &str, moves: &[PartitionMove], expected: &str) {
        let seen = match how_far(change, BEGUN, &status(nodes, moves.to_vec())) {
            Ok(Far::Done(sentence)) => format!("done: {sentence}"),
            Ok(Far::Under { sentence, stuck: None }) => sentence,
            Ok(Far::Under { stuck: Some(reason), .. }) => format!("stuck: {reason}"),
            Err(failure) => format!("{failure:?}"),
        };
        assert!(seen.contains(expected), "{seen:?} should contain {expected:?}");
    }

    #[test]
    fn a_placing_is_read_as_it_is_typed() {
        let placing = parse_placing("a.b:7=3,1").unwrap();
        assert_eq!((placing.topic.as_str(), placing.partition), ("a.b", PartitionId(7)));
        assert_eq!(placing.replicas, [3, 1].map(NodeId));
        for bad in ["t", "t=1", "t:0", "t:x=1", "t:-1=1", ":0=1", "t:0=", "t:0=1,", "t:0=0"] {
            assert!(parse_placing(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_even_number_of_replicas_is_warned_of_once() {
        let placings = ["t:0=1,2", "t:1=2,3", "t:2=1,2,3"].map(|text| parse_placing(text).unwrap());
        let said = warnings(&MembersChange::Reassign(placings.into()));
        assert_eq!(said, ["2 replicas survive the loss of none, as 1 would: an odd number is better"]);
        assert!(warnings(&MembersChange::Balance).is_empty());
    }

    #[test]
    fn a_node_is_added_once_it_is_heard_and_enough_vote() {
        let add = MembersChange::Add(NodeId(4));
        check(&add, "1+ 2+ 3+", &[], "node 4 is not known yet");
        check(&add, "1+ 2+ 3+ 4!", &[], "not heard yet");
        check(&add, "1+ 2+ 3+ 4", &[of(0, &[1], &[4], false)], "done: node 4 is a member");
        check(&MembersChange::Add(NodeId(5)), "1+ 2+ 3+ 4 5", &[], "3 of 5 nodes vote");
        // One that is down does not come to vote, and is not waited for.
        check(&MembersChange::Add(NodeId(5)), "1+ 2+ 3+ 4! 5", &[], "done: node 5 is a member");
    }

    #[test]
    fn a_replaced_node_is_awaited_until_it_is_whole() {
        let replace = MembersChange::Replace(NodeId(2));
        check(&replace, "1+ 2 3+", &[], "2 of 3 nodes vote");
        let moves = [of(0, &[1, 3], &[1, 2, 3], false), of(1, &[1], &[3], true)];
        check(&replace, "1+ 2+ 3+", &moves, "1 partition on its way");
        check(&replace, "1+ 2+ 3+", &moves[1..], "done: node 2 has disk, the last that was admitted");
        check(&replace, "1+ 2+ 3+", &[of(0, &[2], &[2], true)], "stuck: all is done but for");
    }

    #[test]
    fn a_removed_node_is_awaited_until_it_is_gone() {
        let remove = MembersChange::Remove(NodeId(3));
        check(
            &remove,
            "1+ 2+ 3- 4+",
            &[of(0, &[1, 2, 3], &[1, 2, 4], false)],
            "node 3 is still a member; 1 partition",
        );
        check(&remove, "1+ 2+ 4+", &[], "done: node 3 is no member any more");
        check(
            &remove,
            "1+ 2+ 3- 4!",
            &[of(0, &[1, 2, 3], &[1, 2, 4], false)],
            "node 3 is still a member; 1 partition on its way; t:0 waits for node 4: start it, or give the partition to \
             others with `cluster reassign`",
        );
        check(&remove, "1+ 2+ 4!", &[], "done: node 3 is no member any more");
    }

    #[test]
    fn a_move_to_nodes_that_are_down_says_whom_it_waits_for_and_the_way_out() {
        let moves = [of(0, &[1, 2, 3, 4, 5, 6], &[4, 5, 6], false), of(1, &[1, 2, 3], &[1, 2, 4], false)];
        check(
            &MembersChange::Balance,
            "1+ 2+ 3+ 4! 5! 6!",
            &moves,
            "2 partitions on their way; t:0 and 1 other wait for nodes 4, 5, 6: start them, or give the partitions to \
             others with `cluster reassign`",
        );
    }

    #[test]
    fn a_balance_that_moves_nothing_says_why() {
        let said = |nodes: &str, change: &dyn Fn(&mut Vec<NodeStatus>)| {
            let mut status = status(nodes, Vec::new());
            change(&mut status.nodes);
            let begun = ChangeBegun { partitions: 0, ..BEGUN };
            match how_far(&MembersChange::Balance, begun, &status) {
                Ok(Far::Done(sentence)) => sentence,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(said("1+ 2+ 3+", &|_| {}), "all nodes hold as many partitions as they should");
        assert_eq!(
            said("1+ 2+ 3+ 4!", &|_| {}),
            "nothing was moved: nothing is given to node 4, which is down"
        );
        let full = DiskStatus {
            free_bytes: 1,
            reserve_bytes: 2,
            full: true,
            damaged_entries: 0,
            repaired_entries: 0,
        };
        assert_eq!(
            said("1+ 2+ 3+", &|nodes| nodes[2].disk = Some(full)),
            "nothing was moved: nothing is given to node 3, whose disk is nearly full"
        );
        let racks = said("1+ 2+ 3+", &|nodes| nodes[0].replicas = 2);
        assert!(racks.contains("into one rack"), "{racks}");
    }

    #[test]
    fn a_reassignment_that_is_overtaken_is_told() {
        let placing =
            Placing { topic: "t".to_owned(), partition: PartitionId(0), replicas: [1, 2].map(NodeId).into() };
        let reassign = MembersChange::Reassign(vec![placing]);
        check(&reassign, "1+", &[of(0, &[1], &[1, 2], false)], "1 partition on its way");
        check(&reassign, "1+", &[of(0, &[1], &[3], false)], "t:0 was given to nodes 3 in the meantime");
        check(&reassign, "1+", &[of(1, &[1], &[3], false)], "done: the partition is where it is to be");
        check(&MembersChange::Balance, "1+", &[], "done: 2 partitions were moved");
    }

    #[test]
    fn a_reassignment_of_a_whole_cluster_is_looked_at_in_no_time() {
        let placing = |partition: i32| Placing {
            topic: "t".to_owned(),
            partition: PartitionId(partition),
            replicas: [1, 2].map(NodeId).into(),
        };
        let reassign = MembersChange::Reassign((0..10_000).map(placing).collect());
        let moves: Vec<_> = (0..10_000).map(|partition| of(partition, &[1], &[1, 2], false)).collect();
        let status = status("1+ 2+", moves);
        let began = Instant::now();
        let seen = how_far(&reassign, BEGUN, &status).unwrap();
        assert!(matches!(seen, Far::Under { sentence, .. } if sentence == "10000 partitions on their way"));
        // Comparing each with each takes seconds.
        assert!(began.elapsed() < Duration::from_secs(1), "took {:?}", began.elapsed());
    }
}
