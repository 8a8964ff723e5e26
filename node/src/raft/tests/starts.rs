//! Groups whose start is given up, and tasks that panic.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use openraft_rt::WatchReceiver;
use quorate_proto::ids::{GroupId, Identity, Timestamp};
use tokio::sync::oneshot;

use super::super::alone::{Alone, eventually};
use super::super::election::Replacing;
use super::super::types::first_entry;
use super::super::{Answer, Apply, BarrierError, Group, GroupError, Member, Proposal, Role};
use crate::storage::{Entry, LogId};

const GROUP: GroupId = GroupId(5);

struct Nothing;

impl Apply for Nothing {
    fn apply(&mut self, _entry: &Entry) -> Answer {
        Answer::Nothing
    }

    fn applied(&mut self, _last: LogId) {}

    fn save(&self) -> Bytes {
        Bytes::new()
    }

    fn restore(&mut self, _state: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Apply> {
        Box::new(Self)
    }
}

fn start(alone: &Alone) -> BoxFuture<'_, Result<Group, GroupError>> {
    let members = vec![Member { node: alone.me, identity: alone.identity }];
    alone.raft.start_group(GROUP, members, Box::new(Nothing)).boxed()
}

#[tokio::test]
async fn a_group_whose_start_was_given_up_is_stopped_and_can_be_started_again() {
    let alone = Alone::start().await;
    let start = || start(&alone);
    // It has begun, and waits for its first entry to be synced.
    alone.gate.close();
    assert!(start().now_or_never().is_none());
    let second = start().await;
    assert!(matches!(second, Err(GroupError::Running(GROUP))), "{second:?}");
    let stopping = alone.raft.stop_groups();
    alone.gate.open();
    stopping.await;
    assert!(alone.raft.group(GROUP).is_none());
    start().await.unwrap();
    alone.raft.stop_groups().await;
    assert!(alone.raft.group(GROUP).is_none());
    start().await.unwrap();
    assert_eq!(*alone.raft.failed().borrow(), None, "stopped is not failed");
    alone.raft.stop().await;
    let late = start().await;
    assert!(matches!(late, Err(GroupError::Stopping)), "{late:?}");
}

#[tokio::test]
async fn whoever_stops_groups_may_go_and_the_next_one_does_the_rest() {
    let alone = Alone::start().await;
    let start = || start(&alone);
    // It is being started, and then runs.
    alone.gate.close();
    let mut starting = start();
    for _ in 0..2 {
        assert!((&mut starting).now_or_never().is_none());
        assert!(alone.raft.stop_groups().now_or_never().is_none());
        let second = start().await;
        assert!(matches!(second, Err(GroupError::Running(GROUP))), "{second:?}");
    }
    drop(starting);
    alone.gate.open();
    alone.raft.stop_groups().await;
    let group = start().await.unwrap();
    for stopped in [alone.raft.stop_groups().boxed(), alone.raft.stop_group(GROUP).boxed()] {
        assert!(stopped.now_or_never().is_none());
        assert!(alone.raft.group(GROUP).is_none());
        let second = start().await;
        assert!(matches!(second, Err(GroupError::Running(GROUP))), "{second:?}");
    }
    alone.raft.stop_groups().await;
    assert_eq!(group.0.registry.running(), 0);
    start().await.unwrap();
    assert_eq!(*alone.raft.failed().borrow(), None, "stopped is not failed");
    alone.raft.stop().await;
}

#[tokio::test]
async fn a_group_is_not_started_upon_what_its_last_run_left_on_its_way_to_the_disk() {
    let alone = Alone::start().await;
    let group = start(&alone).await.unwrap();
    eventually(&alone.env, "it leads", || matches!(group.role(), Role::Leader { ready: true, .. })).await;
    let Role::Leader { term, .. } = group.role() else { panic!("it led") };
    alone.gate.close();
    let pending = group.propose(term, Proposal::command(Bytes::new(), Timestamp(0))).await.unwrap();
    let (log, last) = (group.log().clone(), group.log().last_durable());
    eventually(&alone.env, "it is in the log", || log.state().last > last).await;
    drop((pending, group));
    alone.raft.stop_group(GROUP).await;
    let mut starting = start(&alone);
    for _ in 0..20 {
        assert!((&mut starting).now_or_never().is_none(), "openraft would tell others that it is durable");
        alone.env.sleep(Duration::from_millis(2)).await;
    }
    alone.gate.open();
    starting.await.unwrap();
    assert_eq!(log.last_durable(), log.state().last);
    alone.raft.stop().await;
}

/// Seed 345363: a disk that had taken another one's place led by a log in which that one was still a voter, and counted
/// itself in its place.
#[tokio::test]
async fn a_disk_that_its_log_does_not_name_does_not_lead() {
    for (ours, leads) in [(true, true), (false, false)] {
        let alone = Alone::start().await;
        let identity = if ours { alone.identity } else { Identity::from_random([9; 16]) };
        let first = first_entry(GROUP, &[Member { node: alone.me, identity }]);
        let (tx, synced) = oneshot::channel();
        let written = Box::new(move |done: Result<(), _>| drop(tx.send(done)));
        alone.store.log(GROUP).append(vec![first], written).unwrap();
        synced.await.unwrap().unwrap();
        let group = alone.raft.start_group(GROUP, Vec::new(), Box::new(Nothing)).await.unwrap();
        assert_eq!(group.voters(), [alone.me], "it is the only voter, by its number");
        let led = || matches!(group.role(), Role::Leader { .. });
        if leads {
            eventually(&alone.env, "it leads", led).await;
        } else {
            // Others are elected at the first try, and the timer comes at once behind it.
            alone.env.sleep(Duration::from_secs(3)).await;
            assert!(!led());
        }
        alone.raft.stop().await;
    }
}

#[tokio::test]
async fn a_group_may_be_asked_after_whoever_stopped_it_has_gone() {
    let alone = Alone::start().await;
    let group = start(&alone).await.unwrap();
    assert!(alone.raft.stop_group(GROUP).now_or_never().is_none());
    let ended = || group.0.raft.metrics().borrow_watched().running_state.is_err();
    eventually(&alone.env, "openraft has ended", ended).await;
    let barrier = group.read_barrier(Duration::from_secs(1)).await;
    assert_eq!(barrier, Err(BarrierError::Stopped));
    alone.raft.stop().await;
}

#[tokio::test]
async fn a_vital_task_that_panics_ends_the_node() {
    let alone = Alone::start().await;
    let mut failed = alone.raft.failed();
    let raft = alone.raft.clone();
    let task = alone.env.spawn("batcher", async move {
        raft.vital("batcher", async { panic!("words") }).await;
    });
    let reason = failed.wait_for(Option::is_some).await.unwrap().clone();
    assert_eq!(reason.as_deref(), Some("the batcher panicked"));
    drop(task);
}

#[tokio::test]
async fn one_attempt_replaces_a_dead_leader_and_a_further_proof_prolongs_it() {
    let alone = Alone::start().await;
    let members = vec![Member { node: alone.me, identity: alone.identity }];
    let group = alone.raft.start_group(GROUP, members, Box::new(Nothing)).await.unwrap();
    let (weak, vote) = (group.downgrade(), group.vote());
    let soon = alone.env.now() + Duration::from_secs(1);
    let later = soon + Duration::from_secs(1);
    let until = || *group.0.replacing();
    let first = Replacing::begin(&weak, vote, soon).expect("nobody is at it");
    assert!(Replacing::begin(&weak, vote, later).is_none(), "one is enough");
    assert_eq!(until(), Some((vote, later)));
    let mut other = vote;
    other.leader_id.term += 1;
    let second = Replacing::begin(&weak, other, later).expect("another leader died");
    drop(first);
    assert_eq!(until(), Some((other, later)), "the first ends, the second goes on");
    drop(second);
    assert_eq!(until(), None);
}
