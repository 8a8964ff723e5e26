//! Trimming: the base is raised, openraft is told of it, and lets the log go up to there.
//!
//! A leader's owner says up to where the log is not needed any more ([`Group::trim`]); it holds what a slow member still
//! needs, as long as its owner wishes. Followers trim by the word of their leader, which rides on its heartbeats: so one
//! that cannot append trims all the same, and whoever leads next still has what the slow one needs.

use std::io;
use std::sync::Weak;
use std::time::Duration;

use openraft_rt::WatchReceiver;
use quorate_proto::ids::{GroupId, LogIndex};
use thiserror::Error;
use tokio::sync::mpsc;

use super::group::{Group, Role};
use super::node::Inner;
use super::types::{log_id_to_raft, node_to_raft};
use crate::env::{Env, Mark, Point};
use crate::storage::{CheckpointKind, Log, LogId};

/// How late a log may be trimmed, where a [`Point`] makes it so.
const LATE_MAX: Duration = Duration::from_millis(500);

/// How long openraft may take to hear of a base; the next attempt goes on from there.
const TAKEN_IN: Duration = Duration::from_secs(5);

/// Why a log was not trimmed: perhaps later.
#[derive(Debug, Error)]
#[error("the log of group {group} was not trimmed: {reason}")]
pub struct NotTrimmed {
    /// Which group.
    pub group: GroupId,
    /// What stood in the way.
    #[source]
    pub reason: io::Error,
}

impl Group {
    /// The last entry that is in this node's base: the log begins behind it, or is about to.
    pub fn base(&self) -> Option<LogId> {
        self.0.base.at()
    }

    /// Lets this node's log begin at `first`, or earlier where not all is applied; and, if `hold_for_the_slow`, where a
    /// member has not told that it has what lies before it. What is needed to go on from there is saved before. Gives
    /// where the log begins then, or is about to: openraft waits for what is on its way to a member. Safe to drop.
    ///
    /// # Errors
    /// [`NotTrimmed`]: the log could not be read, or the base not be saved. The next attempt goes on.
    pub async fn trim(&self, first: LogIndex, hold_for_the_slow: bool) -> Result<LogIndex, NotTrimmed> {
        let hold = hold_for_the_slow && !self.0.env.perturb(Point::SlowReplicaNotWaitedFor);
        let needed = self.first_unmatched();
        let held = if hold { needed.min(first) } else { first };
        let through = self.through(held);
        let told = match through {
            Some(through) => self.trim_through(through).await,
            None => Ok(false),
        };
        let told = told.map_err(|reason| NotTrimmed { group: self.id(), reason })?;
        let behind = |id: Option<LogId>| id.map_or(LogIndex(0), |id| id.index.next());
        let begins = behind(self.base());
        if needed < begins && !hold {
            self.0.env.reached(Mark::SlowReplicaCutOff);
            // No further than openraft knows of: it sends the base to those who need what lies before that.
            self.0.floor.set_cut(if told { begins } else { behind(self.log().state().purged) });
        }
        Ok(begins)
    }

    /// The first entry that some other member has not told this leader to have; past the end if all have all.
    fn first_unmatched(&self) -> LogIndex {
        let metrics = self.0.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let me = node_to_raft(self.0.me);
        let members = metrics.replication.iter().flatten().filter(|(node, _)| **node != me);
        let next = members.map(|(_, matched)| matched.as_ref().map_or(0, |matched| matched.index + 1));
        LogIndex(next.min().unwrap_or(u64::MAX))
    }

    /// The last entry before `first` that is applied here, if the base is older.
    fn through(&self, first: LogIndex) -> Option<LogIndex> {
        let applied = self.applied()?.index;
        let through = LogIndex(first.0.checked_sub(1)?).min(applied);
        let is_new = self.log().state().purged.is_none_or(|purged| purged.index < through);
        is_new.then_some(through)
    }

    /// What a follower does by its leader's word.
    async fn follow(&self) {
        let Role::Follower { .. } = self.role() else { return };
        let Some(through) = self.through(self.0.floor.told()) else { return };
        self.0.env.reached(Mark::TrimmedByTheLeadersWord);
        match self.trim_through(through).await {
            Ok(_) => {}
            // Whoever sees to its base says so, and not at each look.
            Err(error) if self.log().damage().base => {
                tracing::debug!(group = %self.id(), %error, "log was not trimmed");
            }
            Err(error) => tracing::warn!(group = %self.id(), %error, "log was not trimmed"),
        }
    }

    /// Raises the base, and lets the log go up to it; false if openraft did not take that in now.
    async fn trim_through(&self, through: LogIndex) -> io::Result<bool> {
        self.0.base.raise(through).await?;
        let Some(base) = self.base() else { return Ok(false) };
        self.0.env.dawdle(Point::TrimLate, LATE_MAX).await;
        let told = self.told_of(base).await?;
        if told {
            let purge = self.0.raft.trigger();
            self.0.scope.enter(purge.purge_log(base.index.0)).await.map_err(stopped)?;
        }
        Ok(told)
    }

    /// Tells openraft of a base; false if it does not take it now.
    async fn told_of(&self, base: LogId) -> io::Result<bool> {
        let base = Some(log_id_to_raft(base));
        let mut metrics = self.0.raft.data_metrics();
        if metrics.borrow_and_update().snapshot >= base {
            return Ok(true);
        }
        let trigger = self.0.raft.trigger();
        self.0.scope.enter(trigger.snapshot()).await.map_err(stopped)?;
        let taken = async {
            loop {
                if metrics.changed().await.is_err() {
                    return false;
                }
                if metrics.borrow_and_update().snapshot >= base {
                    return true;
                }
            }
        };
        Ok(self.0.env.timeout(TAKEN_IN, taken).await.unwrap_or(false))
    }
}

/// openraft has ended.
fn stopped(error: impl ToString) -> io::Error {
    io::Error::other(error.to_string())
}

/// Looks at all groups again and again: says where this node's logs begin, and trims those of followers.
pub(super) async fn run(env: Env, node: Weak<Inner>) {
    loop {
        let (gap, groups) = {
            let Some(node) = node.upgrade() else { return };
            (Duration::from_millis(node.config().trim_check_ms), node.running())
        };
        for group in groups {
            group.follow().await;
            if let Some(purged) = group.log().state().purged {
                // It rides on heartbeats, which a quiet group does not send.
                if group.0.floor.set_begins(purged.index.next()) {
                    group.beats_again();
                }
            }
        }
        let Some(next) = node.upgrade().map(|node| node.wake_by(env.now() + gap)) else { return };
        env.clock.sleep_until(next).await;
    }
}

/// Saves the recent checkpoints of a group as they come.
pub(super) async fn save_checkpoints(log: Log, mut checkpoints: mpsc::Receiver<(LogId, bytes::Bytes)>) {
    while let Some((at, body)) = checkpoints.recv().await {
        save_checkpoint(&log, at, body).await;
    }
}

/// Saves a recent checkpoint. If that fails, a start takes longer.
pub(super) async fn save_checkpoint(log: &Log, at: LogId, body: bytes::Bytes) {
    let (group, bytes) = (log.group(), body.len());
    match log.save_checkpoint(CheckpointKind::Recent, at, body).await {
        Ok(()) => tracing::debug!(%group, index = %at.index, bytes, "recent checkpoint was saved"),
        Err(error) => tracing::warn!(%group, %error, "recent checkpoint was not saved"),
    }
}
