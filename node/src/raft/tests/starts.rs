//! Groups whose start is given up, and tasks that panic.

use futures_util::FutureExt;
use quorate_proto::ids::GroupId;

use super::super::alone::Alone;
use super::super::{Answer, Apply, GroupError, Member};
use crate::storage::{Entry, LogId};

const GROUP: GroupId = GroupId(5);

struct Nothing;

impl Apply for Nothing {
    fn apply(&mut self, _entry: &Entry) -> Answer {
        Answer::Nothing
    }

    fn applied(&mut self, _last: LogId) {}
}

#[tokio::test]
async fn a_group_whose_start_was_given_up_is_stopped_and_can_be_started_again() {
    let alone = Alone::start().await;
    let start = || {
        let members = vec![Member { node: alone.me, identity: alone.identity }];
        alone.raft.start_group(GROUP, members, Box::new(Nothing)).boxed()
    };
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
