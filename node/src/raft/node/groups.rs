//! Which groups run on this node: they are started, looked up, stopped, and end by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use quorate_proto::ids::{GroupId, Identity, NodeId, Term};
use thiserror::Error;
use tokio::sync::{oneshot, watch};

use super::{Inner, RaftNode};
use crate::env::{Mark, Task};
use crate::raft::group::{Group, Role};
use crate::raft::liveness::digest_of_leads;
use crate::raft::machine::Apply;
use crate::raft::types::Member;

/// Why a group was not started.
#[derive(Debug, Error)]
pub enum GroupError {
    /// It runs already.
    #[error("group {0} runs already")]
    Running(GroupId),
    /// The members name this node with another identity: this is not the disk that was made a member.
    #[error(
        "group {group} has this node as a member with identity {member}, and this disk has identity {ours}"
    )]
    WrongIdentity {
        /// Which group.
        group: GroupId,
        /// The member's.
        member: Identity,
        /// This disk's.
        ours: Identity,
    },
    /// The node is stopping.
    #[error("this node is stopping")]
    Stopping,
    /// Something of its log is lost here, and is not known again: it is tried again, and in vain if no other replica has
    /// it.
    #[error("group {group} was not started: {reason}")]
    Damaged {
        /// Which group.
        group: GroupId,
        /// What is waited for.
        reason: String,
    },
    /// The log could not be read or written.
    #[error("group {group} was not started: {reason}")]
    Failed {
        /// Which group.
        group: GroupId,
        /// What openraft said.
        reason: String,
    },
}

/// What a node leads.
#[derive(Debug, Default)]
pub(in crate::raft) struct Leads {
    pub(in crate::raft) terms: BTreeMap<GroupId, Term>,
    /// [`digest_of_leads`] of them.
    pub(in crate::raft) digest: u64,
}

/// What the node leads, as it was found last.
#[derive(Debug, Default)]
pub(super) struct LeadsFound {
    /// How often a role has changed, or what runs.
    changes: AtomicU64,
    /// What was led after so many changes.
    found: Mutex<(u64, Arc<Leads>)>,
}

impl LeadsFound {
    /// How often [`LeadsFound::changed`] was called.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::SeqCst)
    }

    /// To be called once a role, or what runs, is another.
    pub(super) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    fn get(&self, find: impl FnOnce() -> BTreeMap<GroupId, Term>) -> Arc<Leads> {
        let changes = self.changes();
        let lock = || self.found.lock().unwrap_or_else(PoisonError::into_inner);
        {
            let found = lock();
            if found.0 == changes {
                return Arc::clone(&found.1);
            }
        }
        let terms = find();
        let digest = digest_of_leads(terms.iter().map(|(group, term)| (*group, *term)));
        let leads = Arc::new(Leads { terms, digest });
        let mut found = lock();
        // Somebody else may have found out about a later change meanwhile.
        if found.0 < changes {
            *found = (changes, Arc::clone(&leads));
        }
        leads
    }
}

#[derive(Default)]
pub(super) struct Groups {
    running: BTreeMap<GroupId, Group>,
    /// Being started: a second start is refused.
    starting: BTreeMap<GroupId, Starting>,
    /// Being stopped: a start is refused until that is done, by whoever began it or by the next one who stops it.
    ending: BTreeMap<GroupId, Group>,
    pub(super) stopping: bool,
}

/// A start has a task of its own, so that whoever asked for it may go.
struct Starting {
    /// `None` once somebody waits for its end.
    task: Option<Task>,
    /// It has started for nobody and is being stopped.
    given_up: bool,
}

impl Groups {
    fn knows(&self, group: GroupId) -> bool {
        self.running.contains_key(&group)
            || self.starting.contains_key(&group)
            || self.ending.contains_key(&group)
    }
}

/// The start of a group while its end is waited for. Whoever gives that up leaves the start to the next one: it may
/// not be aborted halfway.
struct Awaited<'a> {
    node: &'a Inner,
    group: GroupId,
    task: Option<Task>,
}

impl Awaited<'_> {
    async fn ended(mut self) {
        if let Some(task) = &mut self.task {
            // A panic in it has been told.
            drop(AssertUnwindSafe(task.ended()).catch_unwind().await);
        }
        self.task = None;
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let Some(task) = self.task.take() else { return };
        let mut groups = self.node.groups();
        if let Some(start) = groups.starting.get_mut(&self.group) {
            start.task = Some(task);
        }
    }
}

impl RaftNode {
    /// Starts a group. `members` count while its log is empty, and then every member must call this with the same
    /// ones: the first is tried first as leader. What was committed before is applied again, from the newest
    /// checkpoint or the start of the log, before this returns. Dropping the future gives the group up: it is stopped
    /// once it has started, and refused until then; see [`RaftNode::stop_groups`].
    ///
    /// # Errors
    /// By variant.
    pub async fn start_group(
        &self,
        group: GroupId,
        members: Vec<Member>,
        apply: Box<dyn Apply>,
    ) -> Result<Group, GroupError> {
        self.start_group_beside(group, members, Vec::new(), apply).await
    }

    /// [`RaftNode::start_group`] of a group whose members may have changed since its first entry: `others` have it too,
    /// or may, and are asked what this node had of it.
    ///
    /// # Errors
    /// By variant.
    pub async fn start_group_beside(
        &self,
        group: GroupId,
        members: Vec<Member>,
        others: Vec<NodeId>,
        apply: Box<dyn Apply>,
    ) -> Result<Group, GroupError> {
        let (reply, started) = oneshot::channel();
        {
            let mut groups = self.0.groups();
            if groups.stopping {
                return Err(GroupError::Stopping);
            }
            if groups.knows(group) {
                return Err(GroupError::Running(group));
            }
            let (node, starting) =
                (self.clone(), self.0.clone().start_for(group, (members, others), apply, reply));
            let task = self
                .0
                .env
                .spawn("group start", async move { node.vital("start of a group", starting).await });
            // Under one lock with the look above: the task takes itself off the list.
            groups.starting.insert(group, Starting { task: Some(task), given_up: false });
        }
        self.0.begin_anew.send_if_modified(|groups| groups.remove(&group));
        started.await.unwrap_or(Err(GroupError::Stopping))
    }

    /// The group, if it runs here.
    pub fn group(&self, group: GroupId) -> Option<Group> {
        self.0.group(group)
    }

    /// Stops a group; its log stays. Pending proposals have no known outcome. If this is dropped, the next one who stops
    /// the group does the rest.
    pub async fn stop_group(&self, group: GroupId) {
        self.0.sessions.forget(group);
        self.0.arrivals.forget(group);
        let stopped = {
            let mut groups = self.0.groups();
            if let Some(running) = groups.running.remove(&group) {
                groups.ending.insert(group, running);
                self.0.leads.changed();
            }
            groups.ending.get(&group).cloned()
        };
        if let Some(stopped) = stopped {
            self.0.end(stopped).await;
        }
    }

    /// Stops all groups, also those that are being started; their logs stay, and they may be started again. For
    /// whoever sees to it that nobody starts any meanwhile. If this is dropped, the next call does the rest.
    pub async fn stop_groups(&self) {
        loop {
            let (ending, starting) = {
                let mut groups = self.0.groups();
                let running = std::mem::take(&mut groups.running);
                self.0.leads.changed();
                groups.ending.extend(running);
                let ending: Vec<Group> = groups.ending.values().cloned().collect();
                // Taken and not removed: a second start is refused until this one has ended.
                let starting =
                    groups.starting.iter_mut().find_map(|(id, start)| Some((*id, start.task.take()?)));
                (ending, starting)
            };
            if ending.is_empty() && starting.is_none() {
                return;
            }
            let starting = starting.map(|(group, task)| Awaited { node: &self.0, group, task: Some(task) });
            for group in ending {
                self.0.end(group).await;
            }
            if let Some(starting) = starting {
                starting.ended().await;
            }
        }
    }

    /// Groups whose owner is to stop them and start them again: something of their log is lost here that only a start
    /// can do without. Each stays here until it is started.
    pub fn begin_anew(&self) -> watch::Receiver<BTreeSet<GroupId>> {
        self.0.begin_anew.subscribe()
    }
}

impl Inner {
    pub(super) fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::raft) fn is_stopping(&self) -> bool {
        self.groups().stopping
    }

    /// A group cannot go on with what is left of its log here.
    pub(in crate::raft) fn must_begin_anew(&self, group: GroupId) {
        if self.begin_anew.send_if_modified(|groups| groups.insert(group)) {
            self.env.reached(Mark::GroupRestartedForDamage);
            tracing::warn!(%group, "group is started again, without what is damaged");
        }
    }

    pub(in crate::raft) fn group(&self, group: GroupId) -> Option<Group> {
        self.groups().running.get(&group).cloned()
    }

    /// Its running groups.
    pub(in crate::raft) fn running(&self) -> Vec<Group> {
        self.groups().running.values().cloned().collect()
    }

    /// Those of these groups that run.
    pub(in crate::raft) fn those_running(&self, ids: impl Iterator<Item = GroupId>) -> Vec<Group> {
        let groups = self.groups();
        ids.filter_map(|id| groups.running.get(&id).cloned()).collect()
    }

    /// The ids of its running groups, in order.
    pub(in crate::raft) fn running_ids(&self) -> Vec<GroupId> {
        self.groups().running.keys().copied().collect()
    }

    /// How often a role has changed, or what runs.
    pub(in crate::raft) fn roles_changed(&self) -> u64 {
        self.leads.changes()
    }

    /// What this node leads. Each beat asks, so it is found out anew only after a role has changed.
    pub(in crate::raft) fn leads(&self) -> Arc<Leads> {
        self.leads.get(|| {
            let lead = |(id, group): (&GroupId, &Group)| match group.role() {
                Role::Leader { term, .. } => Some((*id, term)),
                Role::Follower { .. } => None,
            };
            self.groups().running.iter().filter_map(lead).collect()
        })
    }

    /// Starts a group for whoever waits for `reply`; stops it again if nobody does any more.
    async fn start_for(
        self: Arc<Self>,
        id: GroupId,
        (members, others): (Vec<Member>, Vec<NodeId>),
        apply: Box<dyn Apply>,
        reply: oneshot::Sender<Result<Group, GroupError>>,
    ) {
        let started = self.start(id, members, others, apply).boxed().await;
        // Told under the lock: whoever hears of it finds it listed.
        let given_up = {
            let mut groups = self.groups();
            match started {
                Ok(group) if groups.stopping || reply.is_closed() => {
                    if let Some(start) = groups.starting.get_mut(&id) {
                        start.given_up = true;
                    }
                    group
                }
                started => {
                    if let Ok(group) = &started {
                        groups.running.insert(id, group.clone());
                        self.leads.changed();
                    }
                    groups.starting.remove(&id);
                    // Whoever goes now leaves it running.
                    drop(reply.send(started));
                    return;
                }
            }
        };
        given_up.stop().await;
        self.leads_not(id, self.me, Term(u64::MAX));
        self.groups().starting.remove(&id);
    }

    /// Stops a group that is listed as ending. Several may: the first to see its end takes it off the list, and what
    /// runs under its id afterwards is another group.
    async fn end(&self, group: Group) {
        let id = group.id();
        self.sessions.forget(id);
        self.arrivals.forget(id);
        group.stop().await;
        let mut groups = self.groups();
        if groups.ending.get(&id).is_some_and(|listed| Arc::ptr_eq(&listed.0, &group.0)) {
            // Before it can be started again.
            self.leads_not(id, self.me, Term(u64::MAX));
            groups.ending.remove(&id);
        }
    }

    /// A group ended and nobody had stopped it.
    pub(super) fn group_failed(&self, group: GroupId) {
        // It may end before its start has.
        let known = |groups: &Groups| {
            let starting = groups.starting.get(&group).is_some_and(|start| !start.given_up);
            (groups.running.contains_key(&group) || starting) && !groups.stopping
        };
        if known(&self.groups()) {
            tracing::error!(%group, "raft group ended by itself");
            self.must_stop(|| format!("raft group {group} ended by itself"));
        }
    }
}
