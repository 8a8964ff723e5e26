//! Replicas that have lost something of their log: who takes them in, and from when on they count again.
#![expect(clippy::disallowed_methods, reason = "the tests damage real files")]

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::*;
use crate::raft::GroupError;
use crate::raft::base::Base;
use crate::raft::log_store::{LogStore, Phase};
use crate::raft::rate::Rate;
use crate::raft::types::Payload;
use crate::storage::{HardVote, Lost};

/// What happens to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// The volumes are as they were before the last entries.
    OlderVolumes,
    /// `meta.redb` is gone.
    NoMeta,
    /// The same, when the log begins behind a base, which lay there.
    NoBase,
    /// As after both: the vote is lost too.
    Vote,
}

/// The volumes of a folder, with what they hold.
fn volumes(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let is_volume = |file: &PathBuf| file.file_name().unwrap().to_string_lossy().starts_with("volume");
    files.filter(is_volume).map(|file| (file.clone(), std::fs::read(file).unwrap())).collect()
}

/// Opens a stopped node's store; what is lost of the group once `change` was made to it, if it gives that.
async fn lost(cluster: &Cluster, node: NodeId, change: Option<Lost>) -> Lost {
    let folder = cluster.folders[node.0 as usize - 1].path();
    let env = crate::raft::tests::env(folder, Arc::default(), Arc::default()).await;
    let (store, _) = Store::open(&env, StoreConfig::default(), node).await.unwrap();
    // A hello tells it, which these nodes do not say.
    store.facts().set_cluster_id(ClusterId::from_random([9; 16])).await.unwrap();
    let log = store.log(GROUP);
    if let Some(change) = change {
        log.set_lost(change).await.unwrap();
    }
    let lost = log.damage().lost;
    store.close().await;
    lost
}

/// Starts a node whose group does not start there, and stops it again; what is lost of the group then.
async fn refused(cluster: &mut Cluster, node: u32) -> Lost {
    let folder = cluster.folders[node as usize - 1].path();
    let env = crate::raft::tests::env(folder, cluster.switch.clone(), Arc::<Killable>::default()).await;
    let id = NodeId(node);
    let (store, _) = Store::open(&env, StoreConfig::default(), id).await.unwrap();
    cluster.starts += 1;
    let incarnation = Incarnation(cluster.starts);
    let config = RaftConfig::default();
    let raft = RaftNode::new(env.clone(), store.clone(), config, id, incarnation, Arc::new(NoHooks));
    let listener = env.transport.listen(&address(id), raft.handler()).await.unwrap();
    for member in &cluster.members {
        raft.set_address(member.node, &address(member.node));
    }
    let refused = raft.start_group(GROUP, cluster.members.clone(), Box::new(Applied::default())).await;
    let refused = refused.map(|group| group.role());
    assert!(matches!(refused, Err(GroupError::Damaged { group: GROUP, .. })), "{refused:?}");
    let lost = store.log(GROUP).damage().lost;
    raft.stop().await;
    drop(listener);
    store.close().await;
    lost
}

/// Flips a bit wherever these bytes lie in a file; whether they do.
fn rot(file: &Path, held: &[u8]) -> bool {
    let mut bytes = std::fs::read(file).unwrap();
    let places: Vec<usize> =
        bytes.windows(held.len()).enumerate().filter(|(_, found)| *found == held).map(|(at, _)| at).collect();
    for at in &places {
        bytes[at + held.len() / 2] ^= 4;
    }
    std::fs::write(file, bytes).unwrap();
    !places.is_empty()
}

/// A follower that is to lose something.
struct Victim {
    node: NodeId,
    /// Its place among the nodes.
    at: usize,
    folder: PathBuf,
    /// Its volumes as they were before the last entries.
    older: BTreeMap<PathBuf, Vec<u8>>,
}

/// Starts all nodes. After the first entries a follower is stopped, its volumes are noted, and it is started again. Gives
/// the nodes, that follower, and what was acknowledged.
async fn with_victim(cluster: &mut Cluster) -> (Vec<Node>, Victim, Vec<(LogIndex, u32)>) {
    let mut nodes = cluster.start_all(1..=3).await;
    let (led, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
    let acked = propose(led, term, 0..50).await;
    let at = nodes.iter().position(|node| !std::ptr::eq(node, led)).unwrap();
    let node = cluster.members[at].node;
    let folder = cluster.folders[at].path().to_owned();
    nodes.remove(at).stop().await;
    let older = volumes(&folder);
    nodes.insert(at, cluster.start(node.0).await);
    (nodes, Victim { node, at, folder, older }, acked)
}

async fn survives(harm: Harm) {
    let mut cluster = Cluster::new(3).await;
    let (mut nodes, victim, mut acked) = with_victim(&mut cluster).await;
    let Victim { node: victim, at, folder, older } = victim;

    let (led, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
    acked.extend(propose(led, term, 50..100).await);
    assert_eq!(acked.len(), 100);
    for node in &nodes {
        until("all have it", || holds(node, &acked)).await;
    }
    if harm == Harm::NoBase {
        let first = led.group.applied().unwrap().index.next();
        led.group.trim(first, false).await.unwrap();
        for node in &nodes {
            let begins = || node.group.log().state().purged.map(|purged| purged.index.next());
            until("the log is trimmed", || begins() == Some(first)).await;
        }
        acked.extend(propose(led, term, 200..205).await);
        until("all have it", || nodes.iter().all(|node| holds(node, &acked))).await;
    }
    nodes.remove(at).stop().await;
    let expected = match harm {
        Harm::OlderVolumes => {
            for (file, bytes) in &older {
                std::fs::write(file, bytes).unwrap();
            }
            lost(&cluster, victim, None).await
        }
        Harm::NoMeta | Harm::NoBase => {
            std::fs::remove_file(folder.join("meta.redb")).unwrap();
            lost(&cluster, victim, None).await
        }
        Harm::Vote => lost(&cluster, victim, Some(Lost { tail: true, vote: true })).await,
    };
    assert!(expected.tail, "{harm:?}: {expected:?}");
    assert_eq!(expected.vote, harm == Harm::Vote, "{harm:?}");

    let back = cluster.start(victim.0).await;
    until("it holds all again", || holds(&back, &acked)).await;
    until("it is known to", || back.group.log().damage().is_none()).await;
    nodes.insert(at, back);

    // It votes again: without it there is no majority.
    let (led, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
    let old = nodes.iter().position(|node| std::ptr::eq(node, led)).unwrap();
    nodes.remove(old).kill();
    let (led, next) = leader(&nodes.iter().collect::<Vec<_>>()).await;
    assert!(next > term, "{harm:?}");
    acked.extend(propose(led, next, 100..150).await);
    for node in &nodes {
        until("what was acknowledged", || holds(node, &acked)).await;
    }
    for node in nodes {
        node.stop().await;
    }
}

#[test]
fn who_has_an_older_log_is_taken_in_again() {
    threads().block_on(survives(Harm::OlderVolumes));
}

#[test]
fn who_has_lost_its_meta_is_taken_in_again() {
    threads().block_on(survives(Harm::NoMeta));
}

#[test]
fn who_has_lost_its_base_begins_anew_with_the_leaders() {
    threads().block_on(survives(Harm::NoBase));
}

#[test]
fn who_has_lost_its_vote_is_taken_in_again() {
    threads().block_on(survives(Harm::Vote));
}

#[test]
fn what_a_replica_said_before_it_caught_up_is_not_taken_for_another_loss() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        cluster.config.heartbeat_ms = 130;
        let (mut nodes, victim, mut acked) = with_victim(&mut cluster).await;
        let Victim { node: victim, at, older, .. } = victim;
        let (led, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        acked.extend(propose(led, term, 50..100).await);
        until("all have it", || nodes.iter().all(|node| holds(node, &acked))).await;
        nodes.remove(at).stop().await;
        for (file, bytes) in &older {
            std::fs::write(file, bytes).unwrap();
        }
        assert!(lost(&cluster, victim, None).await.tail);

        // A heartbeat finds out what it lacks, then an append does, and is answered long before.
        cluster.switch.answer_beats_late(Duration::from_millis(50));
        let back = cluster.start(victim.0).await;
        let before = cluster.switch.beats_to(&address(victim));
        until("a heartbeat", || cluster.switch.beats_to(&address(victim)) > before).await;
        let (led, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        acked.extend(propose(led, term, 100..110).await);
        assert_eq!(acked.len(), 110);
        until("it holds all again", || holds(&back, &acked)).await;
        until("it is known to", || back.group.log().damage().is_none()).await;
        // By the second one that follows, the answers to those before it have come.
        let before = cluster.switch.beats_to(&address(victim));
        until("two heartbeats", || cluster.switch.beats_to(&address(victim)) > before + 1).await;
        assert_eq!(led.group.role(), Role::Leader { term, ready: true });
        assert_eq!(*led.raft.failed().borrow(), None, "its Raft goes on");
        cluster.switch.answer_beats_late(Duration::ZERO);
        nodes.insert(at, back);
        for node in nodes {
            node.stop().await;
        }
    });
}

#[test]
fn nobody_counts_on_who_may_give_up_its_log() {
    threads().block_on(async {
        let mut cluster = Cluster::new(1).await;
        let first = cluster.start(1).await;
        let said = async |group: GroupId| {
            let request = v1::FetchEntriesRequest { group: group.0, ..v1::FetchEntriesRequest::default() };
            match crate::raft::repair::serve(first.raft.inner().clone(), request).await {
                Ok(v1::peer_reply::Body::FetchEntries(reply)) => reply,
                Ok(_) | Err(_) => panic!("entries, or none"),
            }
        };
        assert!(said(GroupId(8)).await.damaged, "its log is empty");
        assert!(!said(GROUP).await.base_damaged);
        let counts = async || !said(GROUP).await.damaged;
        assert!(counts().await);
        first.raft.inner().giving_up.lock().unwrap().insert(GROUP);
        assert!(!counts().await, "it is about to");
        first.raft.inner().giving_up.lock().unwrap().remove(&GROUP);
        assert!(counts().await);
        first.group.log().lose_base().await.unwrap();
        assert!(!counts().await, "it has");
        first.group.log().set_lost(Lost::default()).await.unwrap();
        assert!(counts().await && said(GROUP).await.base_damaged, "it holds the log, and is no heir");
        first.stop().await;
    });
}

/// Proposes so that some batches are always in flight, until one is refused.
async fn load(node: &Node, term: Term, numbers: std::ops::RangeFrom<u64>) {
    let mut in_flight = VecDeque::new();
    for number in numbers {
        let Ok(pending) = node.group.propose(term, proposal(number)).await else { return };
        in_flight.push_back(pending);
        if in_flight.len() >= 16
            && let Some(first) = in_flight.pop_front()
            && first.await.is_err()
        {
            return;
        }
    }
}

#[test]
fn a_busy_leader_that_cannot_read_its_base_hands_over() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let nodes = cluster.start_all(1..=3).await;
        let (led, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        let acked = propose(led, term, 0..50).await;
        assert_eq!(acked.len(), 50);
        for node in &nodes {
            until("all have it", || holds(node, &acked)).await;
        }
        let first = led.group.applied().unwrap().index.next();
        led.group.trim(first, false).await.unwrap();
        until("the log is trimmed", || led.group.log().state().purged.is_some()).await;

        // Nothing else of its log is lost.
        let rots = async {
            led.env.sleep(Duration::from_millis(100)).await;
            led.group.log().lose_base().await.unwrap();
            led.group.log().set_lost(Lost::default()).await.unwrap();
            assert!(led.group.log().damage().base && !led.group.log().damage().lost.any());
        };
        let leads = |node: &Node| matches!(node.group.role(), Role::Leader { term: next, .. } if next > term);
        let moved = async {
            rots.await;
            let moved = until("another one leads", || nodes.iter().any(leads));
            assert!(led.env.timeout(Duration::from_secs(10), moved).await.is_ok(), "nobody else leads");
        };
        futures_util::future::join(load(led, term, 1000..), moved).await;

        // Then it has the others' base.
        let others: Vec<_> = nodes.iter().filter(|node| !std::ptr::eq(*node, led)).collect();
        let (other, next) = leader(&others).await;
        assert!(next > term);
        until("it is to begin anew", || led.raft.begin_anew().borrow().contains(&GROUP)).await;
        assert_eq!(propose(other, next, 2000..2010).await.len(), 10, "the others go on");
        for node in nodes {
            node.stop().await;
        }
    });
}

#[test]
fn a_base_that_cannot_be_read_at_a_start_comes_from_another_replica() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let mut nodes = cluster.start_all(1..=3).await;
        let (led, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        let mut acked = propose(led, term, 0..50).await;
        assert_eq!(acked.len(), 50);
        until("all have it", || nodes.iter().all(|node| holds(node, &acked))).await;
        let first = led.group.applied().unwrap().index.next();
        led.group.trim(first, false).await.unwrap();
        for node in &nodes {
            let begins = || node.group.log().state().purged.map(|purged| purged.index.next());
            until("the log is trimmed", || begins() == Some(first)).await;
        }
        let at = nodes.iter().position(|node| !std::ptr::eq(node, led)).unwrap();
        let base = nodes[at].group.0.base.snapshot().await.unwrap().unwrap().snapshot;
        nodes.remove(at).stop().await;
        assert!(rot(&cluster.folders[at].path().join("meta.redb"), &base), "the base lies there");
        let (led, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        acked.extend(propose(led, term, 50..60).await);
        assert_eq!(acked.len(), 60);

        comes_back(&mut cluster, at, &acked).await.stop().await;
        for node in nodes {
            node.stop().await;
        }
    });
}

/// Starts a node whose group cannot start with what it has: as its owner does, it is tried again.
async fn comes_back(cluster: &mut Cluster, at: usize, acked: &[(LogIndex, u32)]) -> Node {
    let number = cluster.members[at].node.0;
    // The scrubber would find it before the start does.
    let config = StoreConfig { scrub_seconds: 0, ..StoreConfig::default() };
    let (env, tasks, listener, raft, store) = cluster.prepare(number, config).await;
    let (applied, mut refused) = (Applied::default(), 0);
    let group = loop {
        match raft.start_group(GROUP, cluster.members.clone(), Box::new(applied.clone())).await {
            Ok(group) => break group,
            Err(GroupError::Damaged { .. }) if refused < 10 => refused += 1,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(refused > 0, "it was not readable");
    let back = Node { env, tasks, listener, raft, store, group, applied };
    until("it holds all again", || holds(&back, acked)).await;
    until("it is known to", || back.group.log().damage().is_none()).await;
    back
}

#[test]
fn members_that_cannot_be_read_at_a_start_come_from_the_other_replicas() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let mut nodes = cluster.start_all(1..=3).await;
        let (led, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        let mut acked = propose(led, term, 0..50).await;
        until("all have it", || nodes.iter().all(|node| holds(node, &acked))).await;
        let at = nodes.iter().position(|node| !std::ptr::eq(node, led)).unwrap();
        let victim = nodes.remove(at);
        let log = victim.group.log();
        let heads = log.heads(LogIndex(0)..LogIndex(u64::MAX), usize::MAX).await.unwrap();
        let memberships: Vec<_> = heads.into_iter().filter(|head| head.kind == Kind::Membership).collect();
        let held = log.bodies(&memberships).await.unwrap();
        assert!(!held.is_empty() && victim.store.log(GROUP).state().purged.is_none());
        victim.stop().await;

        // The others have it in what they have applied only.
        let (led, term) = leader(&nodes.iter().collect::<Vec<_>>()).await;
        acked.extend(propose(led, term, 50..60).await);
        assert_eq!(acked.len(), 60);
        until("both have it", || nodes.iter().all(|node| holds(node, &acked))).await;
        let first = led.group.applied().unwrap().index.next();
        led.group.trim(first, false).await.unwrap();
        for node in &nodes {
            let begins = || node.group.log().state().purged.map(|purged| purged.index.next());
            until("the log is trimmed", || begins() == Some(first)).await;
        }
        for body in &held {
            let files = volumes(cluster.folders[at].path()).into_keys();
            assert!(files.filter(|file| rot(file, body)).count() > 0, "it lies there");
        }
        comes_back(&mut cluster, at, &acked).await.stop().await;
        for node in nodes {
            node.stop().await;
        }
    });
}

#[test]
fn whoever_raises_a_base_does_not_wait_for_what_is_damaged() {
    threads().block_on(async {
        let folder = tempfile::tempdir().unwrap();
        let env = crate::raft::tests::env(folder.path(), Arc::default(), Arc::default()).await;
        let (store, _) = Store::open(&env, StoreConfig::default(), NodeId(1)).await.unwrap();
        let log = store.log(GROUP);
        let body = Bytes::from(vec![0x77; 3_000]);
        let mut entry = *Payload::new(Proposal::command(body, Timestamp(5))).0;
        (entry.head.group, entry.head.index, entry.head.term) = (GROUP, LogIndex(0), Term(1));
        log.append(vec![entry], Box::new(|_| {})).unwrap();
        log.synced().await.unwrap();
        store.close().await;
        drop((store, log, env));
        let held = [0x77; 2_000];
        let rotted = volumes(folder.path()).into_keys().filter(|file| rot(file, &held)).count();
        assert!(rotted > 0, "the body lies there");

        let env = crate::raft::tests::env(folder.path(), Arc::default(), Arc::default()).await;
        let (store, _) = Store::open(&env, StoreConfig::default(), NodeId(1)).await.unwrap();
        let log = store.log(GROUP);
        // To the end: else nobody would wait any more.
        let (_phase, running) = tokio::sync::watch::channel(Phase::Running);
        let rate = Arc::new(Rate::new(u64::MAX));
        let entries = LogStore::new(log.clone(), 1 << 20, env.clone(), rate, running);
        let base = Base::new(entries, log.clone(), Box::new(Applied::default()));
        let raised = env.timeout(Duration::from_secs(5), base.raise(LogIndex(0))).await;
        assert!(matches!(raised, Ok(Err(_))), "{raised:?}");
        assert!(log.damage().holds(LogIndex(0)) && base.at().is_none());
        store.close().await;
    });
}

#[test]
fn who_has_lost_its_tail_does_not_start_while_nobody_leads() {
    threads().block_on(async {
        let mut cluster = Cluster::new(3).await;
        let (first, second, third) = (cluster.start(1).await, cluster.start(2).await, cluster.start(3).await);
        let (led, term) = leader(&[&first, &second, &third]).await;
        let acked = propose(led, term, 0..10).await;
        assert_eq!(acked.len(), 10);
        until("all have it", || [&first, &second, &third].iter().all(|node| holds(node, &acked))).await;
        for node in [first, second, third] {
            node.stop().await;
        }
        let tail = Lost { tail: true, vote: false };
        assert_eq!(lost(&cluster, NodeId(1), Some(tail)).await, tail);

        // With one more there would be a majority, if this one counted.
        let second = cluster.start(2).await;
        assert_eq!(refused(&mut cluster, 1).await, tail, "it stays noted");
        assert!(!matches!(second.group.role(), Role::Leader { .. }), "nobody voted for it");

        let third = cluster.start(3).await;
        leader(&[&second, &third]).await;
        let first = cluster.start(1).await;
        until("it holds all", || holds(&first, &acked)).await;
        until("it is known to", || first.group.log().damage().is_none()).await;
        for node in [first, second, third] {
            node.stop().await;
        }
    });
}

#[test]
fn the_only_replica_that_has_lost_something_does_not_take_itself_for_all_there_is() {
    threads().block_on(async {
        let mut cluster = Cluster::new(1).await;
        let first = cluster.start(1).await;
        let (led, term) = leader(&[&first]).await;
        assert_eq!(propose(led, term, 0..10).await.len(), 10);
        first.stop().await;
        let tail = Lost { tail: true, vote: false };
        assert_eq!(lost(&cluster, NodeId(1), Some(tail)).await, tail);
        for _ in 0..2 {
            assert_eq!(refused(&mut cluster, 1).await, tail, "no start makes it forget");
        }
    });
}

#[test]
fn a_group_that_was_perhaps_here_waits_until_it_is_known_which_ones_were() {
    threads().block_on(async {
        let mut cluster = Cluster::new(1).await;
        // Another group alone, so that there is a volume to make the small database of.
        let folder = cluster.folders[0].path().to_owned();
        let env = crate::raft::tests::env(&folder, Arc::default(), Arc::default()).await;
        let (store, _) = Store::open(&env, StoreConfig::default(), NodeId(1)).await.unwrap();
        let vote = HardVote { term: Term(1), node: 1, committed: false };
        store.log(GroupId(3)).save_vote(vote).await.unwrap();
        store.close().await;
        drop((store, env));
        std::fs::remove_file(folder.join("meta.redb")).unwrap();
        assert_eq!(lost(&cluster, NodeId(1), None).await, Lost::default());

        assert_eq!(refused(&mut cluster, 1).await, Lost::default(), "nothing is noted of it meanwhile");
        let env = crate::raft::tests::env(&folder, Arc::default(), Arc::default()).await;
        let (store, _) = Store::open(&env, StoreConfig::default(), NodeId(1)).await.unwrap();
        assert!(store.may_have_forgotten(GROUP) && store.forgot_any());
        // The metadata say that it was made later.
        store.forgot_none_from(GROUP).await.unwrap();
        store.close().await;
        drop((store, env));
        let first = cluster.start(1).await;
        leader(&[&first]).await;
        first.stop().await;
    });
}
