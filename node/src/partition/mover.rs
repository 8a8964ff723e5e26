//! Moves partitions between nodes: whoever leads a partition's group makes its members equal to what the metadata say.
//!
//! It looks again and again, and does one thing at a time, decided anew from the group's newest membership: so it does
//! not matter where another leader stopped, or that the wish has changed meanwhile. Nobody becomes a member before the
//! metadata name its disk, so that a node never takes a log for one that nobody needs; each leader says the members itself
//! before it changes them, as from then on no word of an earlier leader counts that lacks who is let in. And the metadata say that the
//! members change, from before the first step until all who are wanted vote: a disk that is only named, or only follows,
//! makes up for no other one that is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use quorate_proto::ids::{GroupId, Identity, NodeId, PartitionId, Term, TopicId};
use tokio::sync::watch;

use crate::env::{Env, Mark, Point};
use crate::metadata::{Metadata, Partition};
use crate::raft::{Group, GroupConfig, RaftNode, Role, SeenConfig, Step, Wanted, next_step};

/// A follower that lacks at most so many entries, and bytes of them, is near enough to become a voter: until it has them,
/// a majority may wait for it, and whoever is told that it has all is told so too early.
const NEAR_ENTRIES: u64 = 1_000;
const NEAR_BYTES: u64 = 4 << 20;
/// A node that was not heard for so long is not counted on.
const SILENCE_MAX: Duration = Duration::from_millis(1_500);
/// Groups whose members are changed at once.
const MOVES_MAX: usize = 32;
/// How often all groups are looked at, while nothing happens.
const LOOK: Duration = Duration::from_secs(5);
/// How often, while members change.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Least time between two looks at all groups.
const GAP: Duration = Duration::from_millis(20);
/// How long one change may take before the group is looked at again.
const CHANGE_TIME: Duration = Duration::from_secs(5);
/// How late a change may come, where a [`Point`] makes it so.
const LATE_MAX: Duration = Duration::from_millis(500);

/// What a leader says of its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Of which topic.
    pub topic: TopicId,
    /// Of which partition.
    pub partition: PartitionId,
    /// The version of the metadata that it follows.
    pub version: u64,
    /// The leader's term.
    pub term: Term,
    /// The disks that are members, or may become members by its next change.
    pub disks: BTreeMap<NodeId, Identity>,
    /// Whether they are about to change, or do not all vote yet.
    pub changing: bool,
}

/// Has the metadata group agree on a leader's word; ready once that is applied here, or was given up.
pub type Report = Arc<dyn Fn(Members) -> BoxFuture<'static, ()> + Send + Sync>;

/// What is to be done next for a group.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    Nothing,
    Wait,
    Report { disks: BTreeMap<NodeId, Identity>, changing: bool },
    Append(GroupConfig),
    HandOver(BTreeSet<NodeId>),
}

/// Whether the members are those that are wanted, and the metadata say so.
fn is_settled(partition: &Partition, now: &GroupConfig, wanted: &Wanted) -> bool {
    now.is(wanted) && partition.disks == now.disks && !partition.changing
}

/// What the leader `me` of a term does next for a partition that these disks are to hold.
fn next(
    partition: &Partition,
    disks: BTreeMap<NodeId, Identity>,
    seen: &SeenConfig,
    (me, term): (NodeId, Term),
    near: &BTreeSet<NodeId>,
) -> Next {
    let now = &seen.config;
    let wanted = Wanted { voters: disks, learners: BTreeMap::new() };
    if wanted.voters.is_empty() || is_settled(partition, now, &wanted) {
        return Next::Nothing;
    }
    let are_known = |disks: &BTreeMap<NodeId, Identity>| {
        disks.iter().all(|(node, disk)| partition.disks.get(node) == Some(disk))
    };
    // A member that the metadata do not name: these are older than it, and so is what they want. Or another one has led
    // since, and what this one says would not count.
    if !seen.is_committed || !are_known(&now.disks) || partition.term > term {
        return Next::Wait;
    }
    match next_step(now, &wanted, me, near) {
        Step::Done => Next::Report { disks: now.disks.clone(), changing: false },
        Step::Wait(_) => Next::Wait,
        // With that it is known too that the group has begun, and no earlier leader is heard any more.
        Step::Append(next) if !partition.changing || partition.term != term || !are_known(&next.disks) => {
            let mut disks = now.disks.clone();
            disks.extend(next.disks);
            Next::Report { disks, changing: true }
        }
        Step::Append(next) => Next::Append(next),
        Step::HandOver(heirs) => Next::HandOver(heirs),
    }
}

#[derive(Clone)]
struct Around {
    env: Env,
    raft: RaftNode,
    me: NodeId,
    report: Report,
}

/// A group whose members are not those that are wanted.
struct Due {
    topic: TopicId,
    number: PartitionId,
    partition: Partition,
    disks: BTreeMap<NodeId, Identity>,
    group: Group,
    /// In which this node leads it.
    term: Term,
}

/// Moves partitions until the metadata end.
pub async fn move_partitions(
    env: Env,
    raft: RaftNode,
    me: NodeId,
    mut metadata: watch::Receiver<Arc<Metadata>>,
    report: Report,
) {
    let mut leaders = raft.leaders_changed();
    let around = Around { env, raft, me, report };
    let mut busy: BTreeSet<GroupId> = BTreeSet::new();
    let mut jobs: FuturesUnordered<BoxFuture<'static, GroupId>> = FuturesUnordered::new();
    let mut taken = None;
    loop {
        let looked = around.env.now();
        leaders.borrow_and_update();
        let current = Arc::clone(&metadata.borrow_and_update());
        let mut all = due(&around, &current, &busy);
        go_on_behind(taken, &mut all, |due| (due.topic, due.number));
        for due in all {
            if jobs.len() >= MOVES_MAX {
                break;
            }
            taken = Some((due.topic, due.number));
            busy.insert(due.group.id());
            jobs.push(settle(around.clone(), due).boxed());
        }
        let pause = if jobs.is_empty() { LOOK } else { LOOK_AGAIN };
        let changed = tokio::select! {
            biased;
            changed = metadata.changed() => changed,
            changed = leaders.changed() => changed,
            Some(group) = jobs.next(), if !jobs.is_empty() => {
                busy.remove(&group);
                Ok(())
            }
            () = around.env.sleep(pause) => Ok(()),
        };
        if changed.is_err() {
            return;
        }
        let mut gap = around.env.clock.sleep_until(looked + GAP);
        loop {
            tokio::select! {
                biased;
                Some(group) = jobs.next(), if !jobs.is_empty() => {
                    busy.remove(&group);
                }
                () = &mut gap => break,
            }
        }
    }
}

/// Turns what is due, which is in order of its places, so that it begins behind the place taken last: else those that
/// come first and wait would take all turns.
fn go_on_behind<T, P: Ord>(taken: Option<P>, due: &mut [T], place: impl Fn(&T) -> P) {
    if let Some(taken) = taken {
        let behind = due.partition_point(|due| place(due) <= taken);
        due.rotate_left(behind);
    }
}

/// The groups that this node leads and whose members are not, or not yet, those that are wanted; in order of topics and
/// partitions.
fn due(around: &Around, metadata: &Metadata, busy: &BTreeSet<GroupId>) -> Vec<Due> {
    let mut all = Vec::new();
    for topic in metadata.topics.values() {
        for (number, partition) in (0..).zip(&topic.partitions) {
            if busy.contains(&partition.group) {
                continue;
            }
            let Some(group) = around.raft.group(partition.group) else { continue };
            let Role::Leader { ready: true, term } = group.role() else { continue };
            let disks = metadata.wanted(partition);
            let wanted = Wanted { voters: disks, learners: BTreeMap::new() };
            let seen = group.seen_config();
            if is_settled(partition, &seen.config, &wanted) {
                continue;
            }
            let (number, partition) = (PartitionId(number), partition.clone());
            all.push(Due { topic: topic.id, number, partition, disks: wanted.voters, group, term });
        }
    }
    all
}

/// Does one thing for one group.
async fn settle(around: Around, due: Due) -> GroupId {
    let Due { topic, number, partition, disks, group, term } = due;
    let (env, id) = (&around.env, group.id());
    let seen = group.seen_config();
    let since = env.now() - SILENCE_MAX;
    let alive = around.raft.alive();
    let mut near = group.near(NEAR_ENTRIES, NEAR_BYTES);
    near.retain(|node| alive.get(node).is_some_and(|heard| *heard >= since));
    match next(&partition, disks, &seen, (around.me, term), &near) {
        Next::Nothing => {}
        Next::Wait => env.sleep(LOOK_AGAIN).await,
        Next::Report { disks, changing } if !env.perturb(Point::MembersUntold) => {
            let version = partition.version;
            (around.report)(Members { topic, partition: number, version, term, disks, changing }).await;
        }
        Next::Report { .. } => env.sleep(LOOK_AGAIN).await,
        Next::Append(next) => {
            env.dawdle(Point::MembersChangedLate, LATE_MAX).await;
            match group.change_members(term, &seen, &next, CHANGE_TIME).await {
                Ok(()) => {
                    env.reached(Mark::MembersChanged);
                    let term = match group.role() {
                        Role::Leader { term, .. } | Role::Follower { term, .. } => term,
                    };
                    if seen.config.voters.len() > 1 && seen.at.is_some_and(|at| at.term < term) {
                        env.reached(Mark::ChangeOfAnotherEnded);
                    }
                    let (voters, members) = (&next.voters, next.disks.keys());
                    tracing::info!(group = %id, partition = %number, ?voters, ?members, "members changed");
                }
                Err(error) => {
                    tracing::debug!(group = %id, %error, "members were not changed");
                    env.sleep(LOOK_AGAIN).await;
                }
            }
        }
        Next::HandOver(heirs) => {
            let preferred = partition.replicas.iter().find(|replica| heirs.contains(replica));
            // The preferred one may not hear of it: another one is asked as well, next time.
            if let Some(heir) = preferred.filter(|_| env.random_below(2) == 0).or(any_of(env, &heirs)) {
                env.reached(Mark::LeaderMadeWay);
                tracing::info!(group = %id, partition = %number, %heir, "leadership is handed over to a new member");
                if let Err(error) = around.raft.transfer(id, *heir).await {
                    tracing::debug!(group = %id, %heir, %error, "leadership was not handed over");
                    env.sleep(LOOK_AGAIN).await;
                }
            }
        }
    }
    id
}

/// One of these nodes, whichever.
fn any_of<'a>(env: &Env, nodes: &'a BTreeSet<NodeId>) -> Option<&'a NodeId> {
    let count = u64::try_from(nodes.len()).unwrap_or(u64::MAX).max(1);
    nodes.iter().nth(usize::try_from(env.random_below(count)).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::future::{Either, select};
    use quorate_proto::ids::LogIndex;

    use super::*;
    use crate::metadata::{Node, Topic, TopicConfig};
    use crate::raft::alone::{Alone, eventually};
    use crate::raft::{Answer, Apply, Member};
    use crate::storage::{Entry, LogId};

    fn disk(byte: u8) -> Identity {
        Identity::from_random([byte; 16])
    }

    /// `1:1 2:22` as nodes and their disks.
    fn disks(list: &str) -> BTreeMap<NodeId, Identity> {
        let one = |word: &str| {
            let (node, byte) = word.split_once(':').unwrap();
            (NodeId(node.parse().unwrap()), disk(byte.parse().unwrap()))
        };
        list.split_whitespace().map(one).collect()
    }

    fn config(voters: &str, learners: &str) -> GroupConfig {
        let voting = disks(voters);
        let mut all = disks(learners);
        all.extend(&voting);
        GroupConfig { voters: vec![voting.into_keys().collect()], disks: all }
    }

    fn report(list: &str, changing: bool) -> Next {
        Next::Report { disks: disks(list), changing }
    }

    /// Node 1 leads in the term in which the members were said last, and is near to nodes 2 to 4. The metadata name `known`, say whether that changes, and want `wanted`.
    fn check(known: (&str, bool), wanted: &str, now: &GroupConfig, expected: &Next) {
        let partition =
            Partition { disks: disks(known.0), changing: known.1, term: Term(2), ..Partition::default() };
        let at = Some(LogId { term: Term(1), index: LogIndex(7) });
        let mut seen = SeenConfig { config: now.clone(), at, is_committed: true };
        let near = [2, 3, 4].map(NodeId).into();
        let found = next(&partition, disks(wanted), &seen, (NodeId(1), Term(2)), &near);
        assert_eq!(found, *expected, "{now:?}");
        seen.is_committed = false;
        let found = next(&partition, disks(wanted), &seen, (NodeId(1), Term(2)), &near);
        assert!(matches!(found, Next::Wait | Next::Nothing), "{found:?} before the last change is committed");
    }

    #[test]
    fn a_disk_is_named_before_it_is_let_in_and_until_it_is_out() {
        let three = config("1:1 2:2 3:3", "");
        let known = ("1:1 2:2 3:3", false);
        check(known, "1:1 2:2 3:3", &three, &Next::Nothing);
        let wanted = "1:1 2:2 4:4";
        check(known, wanted, &three, &report("1:1 2:2 3:3 4:4", true));
        let named = ("1:1 2:2 3:3 4:4", true);
        check(named, wanted, &three, &Next::Append(config("1:1 2:2 3:3", "4:4")));
        let mut joint = config("1:1 2:2 3:3", "4:4");
        joint.voters.push([1, 2, 4].map(NodeId).into());
        check(named, wanted, &config("1:1 2:2 3:3", "4:4"), &Next::Append(joint.clone()));
        check(named, wanted, &joint, &Next::Append(config("1:1 2:2 4:4", "")));
        check(named, wanted, &config("1:1 2:2 4:4", ""), &report("1:1 2:2 4:4", false));
    }

    #[test]
    fn members_are_known_to_change_before_they_do_and_until_all_vote() {
        let three = config("1:1 2:2 3:3", "");
        check(("1:1 2:2 3:3", false), "1:1 2:2", &three, &report("1:1 2:2 3:3", true));
        check(("1:1 2:2 3:3", true), "1:1 2:2", &three, &Next::Append(config("1:1 2:2", "")));
        check(("1:1 2:2 3:3", false), "1:1 2:2 3:3", &three, &Next::Nothing);
        // The wish was taken back, or this is the last step.
        check(("1:1 2:2 3:3", true), "1:1 2:2 3:3", &three, &report("1:1 2:2 3:3", false));
        let two = config("1:1 2:2", "3:3");
        check(("1:1 2:2 3:3", true), "1:1 2:2 3:3", &two, &Next::Append(three));
    }

    #[test]
    fn a_replaced_disk_is_out_before_its_successor_is_named() {
        let known = ("1:1 2:2 3:3", true);
        let wanted = "1:1 2:22 3:3";
        check(("1:1 2:2 3:3", false), wanted, &config("1:1 2:2 3:3", ""), &report("1:1 2:2 3:3", true));
        check(known, wanted, &config("1:1 2:2 3:3", ""), &Next::Append(config("1:1 3:3", "")));
        check(known, wanted, &config("1:1 3:3", ""), &report("1:1 2:22 3:3", true));
        let named = ("1:1 2:22 3:3", true);
        check(named, wanted, &config("1:1 3:3", ""), &Next::Append(config("1:1 3:3", "2:22")));
        check(named, wanted, &config("1:1 3:3", "2:22"), &Next::Append(config("1:1 2:22 3:3", "")));
        check(named, wanted, &config("1:1 2:22 3:3", ""), &report("1:1 2:22 3:3", false));
        check(("1:1 2:22 3:3", false), wanted, &config("1:1 2:22 3:3", ""), &Next::Nothing);
    }

    #[test]
    fn a_new_leader_says_the_members_itself_before_it_changes_them() {
        let partition = Partition {
            disks: disks("1:1 2:2 3:3 4:4"),
            changing: true,
            term: Term(2),
            ..Partition::default()
        };
        let at = Some(LogId { term: Term(3), index: LogIndex(7) });
        let seen = SeenConfig { config: config("1:1 2:2 3:3", ""), at, is_committed: true };
        let found = |term| {
            let wanted = disks("1:1 2:2 4:4");
            next(&partition, wanted, &seen, (NodeId(1), Term(term)), &[2, 3, 4].map(NodeId).into())
        };
        assert_eq!(found(2), Next::Append(config("1:1 2:2 3:3", "4:4")));
        assert_eq!(found(3), report("1:1 2:2 3:3 4:4", true));
        assert_eq!(found(1), Next::Wait, "another one has led since");
    }

    #[test]
    fn metadata_that_lack_a_member_are_too_old_to_be_followed() {
        let now = config("1:1 2:2 4:4", "");
        check(("1:1 2:2 3:3", false), "1:1 2:2 3:3", &now, &Next::Wait);
        check(("1:1 2:2 3:3", false), "", &now, &Next::Nothing);
    }

    #[test]
    fn those_that_wait_do_not_take_the_turns_of_others() {
        let check = |taken, due: &[u32], expected: &[u32]| {
            let mut due = due.to_vec();
            go_on_behind(taken, &mut due, |due| *due);
            assert_eq!(due, expected);
        };
        check(None, &[1, 3, 5], &[1, 3, 5]);
        check(Some(3), &[1, 3, 5], &[5, 1, 3]);
        check(Some(4), &[1, 3, 5], &[5, 1, 3]);
        check(Some(0), &[1, 3, 5], &[1, 3, 5]);
        check(Some(5), &[1, 3, 5], &[1, 3, 5]);
        check(Some(5), &[], &[]);
    }

    /// What a group without records is made of.
    struct Nothing;

    impl Apply for Nothing {
        fn apply(&mut self, _: &Entry) -> Answer {
            Answer::Nothing
        }

        fn applied(&mut self, _: LogId) {}

        fn save(&self) -> Bytes {
            Bytes::new()
        }

        fn restore(&mut self, _: &[u8]) -> Result<(), String> {
            Ok(())
        }

        fn fresh(&self) -> Box<dyn Apply> {
            Box::new(Self)
        }
    }

    #[tokio::test]
    async fn as_many_moves_as_there_are_turns_wait_and_the_next_one_is_made() {
        let alone = Alone::start().await;
        let mut partitions = Vec::new();
        for id in (1..).map(GroupId).take(MOVES_MAX + 1) {
            let member = Member { node: alone.me, identity: alone.identity };
            let group = alone.raft.start_group(id, vec![member], Box::new(Nothing)).await.unwrap();
            let leads = || matches!(group.role(), Role::Leader { ready: true, .. });
            eventually(&alone.env, "the group is led", leads).await;
            // As the metadata say, another one has led since: nothing can be done.
            let held = Partition::new(id, &[(alone.me, alone.identity)]);
            partitions.push(Partition { changing: true, term: Term(1_000), ..held });
        }
        let last = partitions.last_mut().unwrap();
        last.term = Term(0);
        let topic = Topic {
            id: TopicId::from_random([1; 16]),
            name: "t".parse().unwrap(),
            partitions,
            config: TopicConfig::default(),
        };
        let node = Node { identity: alone.identity, ..Node::default() };
        let metadata = Metadata {
            nodes: BTreeMap::from([(alone.me, node)]),
            topics: BTreeMap::from([(topic.id, Arc::new(topic))]),
            ..Metadata::default()
        };
        let (_metadata, watched) = watch::channel(Arc::new(metadata));
        let (told, mut reports) = tokio::sync::mpsc::channel(1);
        let report: Report = Arc::new(move |members: Members| {
            told.try_send(members.partition).ok();
            std::future::ready(()).boxed()
        });
        let (env, raft) = (alone.env.clone(), alone.raft.clone());
        let moves = std::pin::pin!(move_partitions(env, raft, alone.me, watched, report));
        let reported = std::pin::pin!(reports.recv());
        match alone.env.timeout(Duration::from_secs(20), select(moves, reported)).await {
            Ok(Either::Right((partition, _))) => {
                let last = i32::try_from(MOVES_MAX).map(PartitionId).ok();
                assert_eq!(partition, last);
            }
            Ok(Either::Left(_)) | Err(_) => panic!("it never has its turn"),
        }
        alone.raft.stop().await;
        alone.store.close().await;
    }

    #[test]
    fn who_has_no_place_makes_way() {
        let known = ("1:1 2:2 3:3", false);
        let heirs = [2, 3].map(NodeId).into();
        check(known, "2:2 3:3", &config("1:1 2:2 3:3", ""), &Next::HandOver(heirs));
    }
}
