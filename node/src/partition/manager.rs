//! Makes the replicas that run on this node equal to what metadata assigns to it.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use quorate_proto::ids::{GroupId, Identity, NodeId, PartitionId, TopicId};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::balance::Balance;
use super::batcher::told;
use super::config::PartitionConfig;
use super::replica::{Place, Replica, Surroundings};
use super::types::NoReplica;
use crate::env::{Env, Mark, Point, Task};
use crate::metadata::{Metadata, Partition};
use crate::raft::{GroupError, Member, RaftNode};
use crate::storage::Store;

/// Pause before a start or a removal that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Pause before a start is tried again that waits for what other nodes have, or nobody: not in the way of other starts.
const LOST_RETRY: Duration = Duration::from_secs(3);

/// Partitions that are looked at for retention at the same time.
const KEPT_AT_ONCE: usize = 16;

/// How late metadata may be followed, where a [`Point`] makes it so.
const LATE_MAX: Duration = Duration::from_millis(500);

/// How long batches in flight may take when the node stops.
const PARTING: Duration = Duration::from_secs(2);

/// The replicas of this node. Cheap to clone; [`PartitionManager::stop`] ends them.
#[derive(Clone)]
pub struct PartitionManager {
    shared: Arc<Shared>,
}

struct Shared {
    env: Env,
    raft: RaftNode,
    metadata: watch::Receiver<Arc<Metadata>>,
    running: Mutex<BTreeMap<GroupId, Running>>,
    tasks: Mutex<Vec<Task>>,
}

struct Running {
    replica: Replica,
    batcher: Task,
}

impl PartitionManager {
    /// Begins to follow `metadata`. Replicas are started in the background, many at a time. `up_to_date`: whether the
    /// metadata hold all that was agreed before this node started.
    pub fn start(
        env: &Env,
        raft: &RaftNode,
        store: &Store,
        config: PartitionConfig,
        me: NodeId,
        metadata: watch::Receiver<Arc<Metadata>>,
        up_to_date: watch::Receiver<bool>,
    ) -> Self {
        let shared = Arc::new(Shared {
            env: env.clone(),
            raft: raft.clone(),
            metadata: metadata.clone(),
            running: Mutex::default(),
            tasks: Mutex::default(),
        });
        let gap = Duration::from_millis(config.retention_check_ms);
        // Also what is only noted as lost: it may be deleted before any of it has come back.
        let on_disk = store.groups().into_iter().chain(store.groups_behind());
        let around = Surroundings {
            env: env.clone(),
            raft: raft.clone(),
            store: store.clone(),
            config: Arc::new(config),
            me,
        };
        let balance = Balance {
            env: env.clone(),
            raft: raft.clone(),
            config: Arc::clone(&around.config),
            me,
            metadata: metadata.clone(),
            failed: Mutex::default(),
        };
        let reconciler = Reconciler {
            shared: Arc::clone(&shared),
            around,
            metadata,
            up_to_date,
            sure: false,
            begin_anew: raft.begin_anew(),
            wanted: BTreeMap::new(),
            existing: BTreeSet::new(),
            known: BTreeSet::new(),
            unjudged: on_disk.filter(|group| *group != GroupId::METADATA).collect(),
            busy: BTreeSet::new(),
            jobs: FuturesUnordered::new(),
        };
        let keeping = keep(Arc::clone(&shared), gap);
        let (node, keeper, balancer) = (raft.clone(), raft.clone(), raft.clone());
        let tasks = [
            env.spawn("partitions", async move { node.vital("partition manager", reconciler.run()).await }),
            env.spawn("retention", async move { keeper.vital("retention", keeping).await }),
            env.spawn("balance", async move { balancer.vital("balance of leaders", balance.run()).await }),
        ];
        shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).extend(tasks);
        Self { shared }
    }

    /// This node's replica of a partition.
    ///
    /// # Errors
    /// [`NoReplica`] says whether the topic, the partition or only the replica is not here.
    pub fn replica(&self, topic: TopicId, partition: PartitionId) -> Result<Replica, NoReplica> {
        let group = {
            let metadata = self.shared.metadata.borrow();
            let topic = metadata.topics.get(&topic).ok_or(NoReplica::UnknownTopicId)?;
            let unknown = || NoReplica::UnknownPartition { partitions: topic.partitions.len() };
            topic.partition(partition).ok_or_else(unknown)?.group
        };
        match self.shared.running().get(&group) {
            Some(running) => Ok(running.replica.clone()),
            None => Err(NoReplica::NotHere { leader: told(&self.shared.raft, group) }),
        }
    }

    /// The replica of a group, if it runs here.
    pub fn replica_of(&self, group: GroupId) -> Option<Replica> {
        self.shared.running().get(&group).map(|running| running.replica.clone())
    }

    /// Groups of the replicas that run.
    pub fn groups(&self) -> Vec<GroupId> {
        self.shared.running().keys().copied().collect()
    }

    /// Stops all replicas, and stops following metadata. What is in flight is given a moment; what has no answer by
    /// then is unknown to its clients. The groups themselves are left to [`RaftNode::stop`].
    pub async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            drop(AssertUnwindSafe(task.stop()).catch_unwind().await);
        }
        let running = std::mem::take(&mut *self.shared.running());
        for running in running.values() {
            running.replica.close();
        }
        // A batcher that panicked has told so.
        let ends =
            running.into_values().map(|running| AssertUnwindSafe(running.batcher.join()).catch_unwind());
        let ends = join_all(ends);
        if self.shared.env.timeout(PARTING, ends).await.is_err() {
            warn!("batches were still in flight when the replicas were stopped");
        }
    }
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, BTreeMap<GroupId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has each partition that this node leads keep what it must and no more.
async fn keep(shared: Arc<Shared>, gap: Duration) {
    loop {
        shared.env.clock.sleep_until(shared.raft.wake_by(shared.env.now() + gap)).await;
        let mut replicas: Vec<Replica> =
            shared.running().values().map(|running| running.replica.clone()).collect();
        // A thousand idle ones are only asked.
        replicas.retain(Replica::may_keep_less);
        let keep = |replica: Replica| async move { replica.keep().await };
        futures_util::stream::iter(replicas).for_each_concurrent(KEPT_AT_ONCE, keep).await;
    }
}

/// What a job ended with.
enum Ended {
    Started(GroupId),
    Stopped(GroupId),
    Removed(GroupId),
}

/// The task that starts and removes.
struct Reconciler {
    shared: Arc<Shared>,
    around: Surroundings,
    metadata: watch::Receiver<Arc<Metadata>>,
    up_to_date: watch::Receiver<bool>,
    /// Whether the metadata looked at last hold all that was agreed before this node started.
    sure: bool,
    /// Groups that are to be stopped and started again.
    begin_anew: watch::Receiver<BTreeSet<GroupId>>,
    /// What metadata assigns to this node.
    wanted: BTreeMap<GroupId, Place>,
    /// The groups of all topics.
    existing: BTreeSet<GroupId>,
    /// Groups that this node has: they run, lie on its disk, or are noted there as lost.
    known: BTreeSet<GroupId>,
    /// Groups that lay on the disk at the start, or were noted as lost, and of which the metadata applied here cannot
    /// tell yet.
    unjudged: BTreeSet<GroupId>,
    /// Groups that are being started or removed: one job at a time each.
    busy: BTreeSet<GroupId>,
    jobs: FuturesUnordered<BoxFuture<'static, Ended>>,
}

impl Reconciler {
    async fn run(mut self) {
        let starts = Arc::new(tokio::sync::Semaphore::new(self.around.config.starts_at_once_max));
        self.look(&starts);
        loop {
            let may_lack_some = !self.sure;
            tokio::select! {
                biased;
                changed = self.metadata.changed() => match changed {
                    Ok(()) => {
                        self.around.env.dawdle(Point::MetadataSeenLate, LATE_MAX).await;
                        self.look(&starts);
                    }
                    Err(_) => return,
                },
                Ok(()) = self.up_to_date.changed(), if may_lack_some => self.look(&starts),
                Some(ended) = self.jobs.next() => match ended {
                    Ended::Started(group) | Ended::Stopped(group) | Ended::Removed(group) => {
                        self.busy.remove(&group);
                        self.settle(group, &starts);
                    }
                },
                Ok(()) = self.begin_anew.changed() => {
                    let groups = self.begin_anew.borrow_and_update().clone();
                    for group in groups {
                        self.settle(group, &starts);
                    }
                }
            }
        }
    }

    /// Compares all with the newest metadata. What lies on the disk and is assigned to nobody is removed: its topic
    /// was deleted, perhaps while this node was down. That needs nobody's word that the metadata are the newest:
    /// groups are numbered upwards and no number is used twice, so one below `next_group` was made, and if no topic
    /// has it, deleted. Of the others these metadata do not know yet. What was moved to other nodes is removed as well,
    /// and does need that word: older metadata may not know that it was moved here before.
    fn look(&mut self, starts: &Arc<tokio::sync::Semaphore>) {
        // In this order: what is told of is there.
        self.sure = *self.up_to_date.borrow_and_update();
        let metadata = Arc::clone(&self.metadata.borrow_and_update());
        self.wanted = assigned(&metadata, self.around.me, self.around.store.facts().identity());
        let partitions = metadata.topics.values().flat_map(|topic| &topic.partitions);
        self.existing = partitions.map(|partition| partition.group).collect();
        let not_made = self.unjudged.split_off(&GroupId(metadata.next_group));
        self.known.append(&mut std::mem::replace(&mut self.unjudged, not_made));
        let groups: BTreeSet<GroupId> = self.known.iter().chain(self.wanted.keys()).copied().collect();
        for group in groups {
            self.settle(group, starts);
        }
    }

    /// Starts or removes a group, if it must and is not busy; one that runs follows its topic's settings.
    fn settle(&mut self, group: GroupId, starts: &Arc<tokio::sync::Semaphore>) {
        if self.busy.contains(&group) {
            return;
        }
        let running = self.shared.running().contains_key(&group);
        match self.wanted.get(&group) {
            Some(place) if !running && self.may_start(place) => {
                self.known.insert(group);
                self.busy.insert(group);
                let starts = Arc::clone(starts);
                let job = start(Arc::clone(&self.shared), self.around.clone(), place.clone(), starts);
                self.jobs.push(job.boxed());
            }
            Some(_) if running && self.begin_anew.borrow().contains(&group) => {
                self.busy.insert(group);
                let running = self.shared.running().remove(&group);
                self.jobs.push(stop(self.around.clone(), group, running).boxed());
            }
            Some(place) => {
                let followed =
                    self.shared.running().get(&group).is_some_and(|it| it.replica.configure(place.config));
                if followed {
                    let Place { topic, partition, config, .. } = place;
                    info!(%topic, %partition, %group, ?config, "other settings of the topic were followed");
                }
            }
            None if self.may_remove(group) && self.known.remove(&group) => {
                self.busy.insert(group);
                let running = self.shared.running().remove(&group);
                let was_moved = self.existing.contains(&group);
                self.jobs.push(remove(self.around.clone(), group, running, was_moved).boxed());
            }
            None => {}
        }
    }

    /// Whether a replica may be started by what these metadata say. One with an empty log begins with the group's first
    /// members: if those have changed since, it must not, as two of them could make a majority of their own.
    /// One whose node had another disk among them waits until its leader has let that go.
    fn may_start(&self, place: &Place) -> bool {
        let ours = self.around.store.facts().identity();
        let others = place.members.iter().any(|first| first.node == self.around.me && first.identity != ours);
        let has_begun = || self.around.store.log(place.group).state().last.is_some();
        !others && (place.members.is_empty() || self.sure || has_begun())
    }

    /// Whether a group that is not assigned to this node by these metadata may be removed from its disk.
    fn may_remove(&self, group: GroupId) -> bool {
        !self.existing.contains(&group) || self.sure
    }
}

/// What metadata assigns to a node with this disk: what it is to hold, and what it still holds. Its place names the
/// members if the group has its first ones.
fn assigned(metadata: &Metadata, me: NodeId, disk: Identity) -> BTreeMap<GroupId, Place> {
    let is_this_disk = metadata.nodes.get(&me).is_some_and(|node| node.identity == disk);
    let mut places = BTreeMap::new();
    for topic in metadata.topics.values() {
        for (number, partition) in (0..).zip(&topic.partitions) {
            let is_to_hold = is_this_disk && partition.replicas.contains(&me);
            if !is_to_hold && partition.disks.get(&me) != Some(&disk) {
                continue;
            }
            let place = Place {
                topic: topic.name.clone(),
                partition: PartitionId(number),
                group: partition.group,
                config: topic.config,
                members: if partition.version == 0 { first_members(partition) } else { Vec::new() },
                others: partition.disks.keys().chain(&partition.replicas).copied().collect(),
            };
            places.insert(partition.group, place);
        }
    }
    places
}

/// The members that a group begins with, the preferred leader first.
fn first_members(partition: &Partition) -> Vec<Member> {
    let place = |node: &NodeId| partition.replicas.iter().position(|replica| replica == node);
    let mut members: Vec<Member> =
        partition.disks.iter().map(|(node, disk)| Member { node: *node, identity: *disk }).collect();
    members.sort_by_key(|member| place(&member.node).unwrap_or(usize::MAX));
    members
}

async fn start(
    shared: Arc<Shared>,
    around: Surroundings,
    place: Place,
    starts: Arc<tokio::sync::Semaphore>,
) -> Ended {
    let group = place.group;
    let (topic, partition) = (place.topic.clone(), place.partition);
    let turn = starts.acquire_owned().await;
    let env = around.env.clone();
    env.dawdle(Point::ReplicaStartsLate, LATE_MAX).await;
    match Replica::start(around, place).await {
        Ok((replica, batcher)) => {
            shared.running().insert(group, Running { replica, batcher });
            info!(%topic, %partition, %group, "replica started");
        }
        Err(error) => {
            error!(%topic, %partition, %group, %error, "replica did not start");
            drop(turn);
            let waits = matches!(error, GroupError::Damaged { .. });
            env.sleep(if waits { LOST_RETRY } else { RETRY }).await;
        }
    }
    Ended::Started(group)
}

/// Stops a replica that is to be started again. What is in flight there is unknown to its clients.
async fn stop(around: Surroundings, group: GroupId, running: Option<Running>) -> Ended {
    if let Some(Running { replica, batcher }) = running {
        replica.close();
        around.raft.stop_group(group).await;
        drop(AssertUnwindSafe(batcher.stop()).catch_unwind().await);
    }
    info!(%group, "replica stopped, to be started again");
    Ended::Stopped(group)
}

/// `was_moved`: its topic is still there.
async fn remove(around: Surroundings, group: GroupId, running: Option<Running>, was_moved: bool) -> Ended {
    around.env.dawdle(Point::ReplicaRemovedLate, LATE_MAX).await;
    if was_moved {
        around.env.reached(Mark::ReplicaMovedAway);
    } else if running.is_none() {
        around.env.reached(Mark::TopicDeletedWhileTheNodeWasDown);
    }
    if let Some(Running { replica, batcher }) = running {
        replica.close();
        around.raft.stop_group(group).await;
        drop(AssertUnwindSafe(batcher.stop()).catch_unwind().await);
    }
    // Not durable before what the metadata group has committed by now: no start takes this partition up again.
    while let Err(error) = around.store.remove_group(group).await {
        warn!(%group, %error, "log of a partition that was deleted or moved was not removed");
        around.env.sleep(RETRY).await;
    }
    around.env.reached(Mark::ReplicaRemoved);
    info!(%group, "replica removed");
    Ended::Removed(group)
}

#[cfg(test)]
mod tests;
