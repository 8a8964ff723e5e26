//! What a node does from its start to its end: join, run, be refused, ask again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use quorate_proto::ids::{GroupId, NodeId};
use tokio::sync::watch;

use super::{NodeConfig, Readiness};
use crate::api::{Parts, Stage};
use crate::controller::{Command, Controller, ControllerError, Standing, WaitingRoom};
use crate::env::Env;
use crate::join::Join;
use crate::metadata::{Metadata, Node};
use crate::partition::{Members, PartitionManager, move_partitions};
use crate::raft::{GroupError, RaftNode};
use crate::storage::Store;

/// How long one try at registering may take; it is repeated until it succeeds.
const REGISTER_TIME: Duration = Duration::from_secs(5);
/// Pause before peers that do not answer are looked for again.
const LOCATE: Duration = Duration::from_millis(500);
/// Pause before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The node's main task.
pub(super) struct Life {
    pub(super) env: Env,
    pub(super) config: NodeConfig,
    pub(super) store: Store,
    pub(super) raft: RaftNode,
    pub(super) join: Join,
    pub(super) waiting: WaitingRoom,
    pub(super) stage: watch::Sender<Stage>,
    pub(super) readiness: watch::Sender<Readiness>,
}

impl Drop for Life {
    /// The parts hold the peers' plane, which holds on to whoever asks for the parts: without this a node that was
    /// dropped, not stopped, would never be freed.
    fn drop(&mut self) {
        drop(self.stage.send_replace(Err("this node has stopped".to_owned())));
    }
}

impl Life {
    pub(super) async fn run(self) {
        loop {
            if let Err(error) =
                self.join.accepted(&self.raft, |reason, refused| self.wait_for(reason, refused)).await
            {
                // The store has failed: whoever watches it ends the process.
                self.wait_for(error.to_string(), true);
                return;
            }
            let parts = match self.start().await {
                Ok(parts) => parts,
                Err(error) => {
                    let node = self.config.id;
                    tracing::error!(%node, %error, "metadata group did not start");
                    self.wait_for(format!("the metadata group did not start: {error}"), true);
                    self.env.sleep(RETRY).await;
                    continue;
                }
            };
            drop(self.stage.send_replace(Ok(Arc::clone(&parts))));
            let reason = self.work(&parts).await;
            self.wait_for(reason, true);
            self.end(&parts).await;
        }
    }

    /// Notes why the node is not ready; logged when it changes, as a warning if something is wrong: to wait for others
    /// is part of each start.
    fn wait_for(&self, reason: String, wrong: bool) {
        let node = self.config.id;
        self.stage.send_if_modified(|stage| {
            let changed = !matches!(stage, Err(known) if *known == reason);
            if changed {
                if wrong {
                    tracing::warn!(%node, reason, "node is not ready");
                } else {
                    tracing::info!(%node, reason, "node is not ready yet");
                }
                *stage = Err(reason.clone());
            }
            changed
        });
        self.readiness.send_if_modified(|known| {
            let new = Readiness::NotReady(reason);
            let changed = *known != new;
            *known = new;
            changed
        });
    }

    async fn start(&self) -> Result<Arc<Parts>, GroupError> {
        let (env, raft, config) = (&self.env, &self.raft, &self.config);
        let members = self.join.members();
        let controller = Controller::start(env, raft, config.controller.clone(), config.id, members).await?;
        let (metadata, up_to_date) = (controller.metadata(), controller.up_to_date());
        let settings = config.partition.clone();
        let partitions =
            PartitionManager::start(env, raft, &self.store, settings, config.id, metadata, up_to_date);
        let waiting = self.waiting.clone();
        Ok(Arc::new(Parts { controller, partitions, raft: raft.clone(), waiting }))
    }

    /// Runs as a member of the cluster; ends when this node turns out to be refused or removed, with the reason.
    async fn work(&self, parts: &Parts) -> String {
        let (controller, metadata) = (parts.controller.clone(), parts.controller.metadata());
        let removed = self.join.follow(&self.raft, metadata, move || controller.applied()).boxed();
        let refused = select(self.join.refused(&self.raft).boxed(), removed);
        let refused = refused.map(|reason| reason.factor_first().0);
        let registering = std::pin::pin!(self.register(parts));
        let following = std::pin::pin!(self.follow_addresses(parts));
        let judging = std::pin::pin!(self.judge_readiness(parts));
        let recalling = std::pin::pin!(self.recall(parts));
        let moving = self.move_partitions(parts).boxed();
        let working = futures_util::future::join5(registering, following, judging, recalling, moving);
        let working = std::pin::pin!(working);
        let anew = std::pin::pin!(self.begins_anew());
        match select(select(refused, anew), working).await {
            Either::Left((Either::Left((reason, _)) | Either::Right((reason, _)), _)) => reason,
            Either::Right((((), (), (), (), ()), _)) => "the metadata group has ended".to_owned(),
        }
    }

    /// Ready when the metadata group is to be stopped and started again, with the reason.
    async fn begins_anew(&self) -> String {
        let mut groups = self.raft.begin_anew();
        if groups.wait_for(|groups| groups.contains(&GroupId::METADATA)).await.is_err() {
            return std::future::pending().await;
        }
        "the metadata group is started again, as its log is damaged on this node".to_owned()
    }

    /// Once this node knows again which groups there are, it knows too which were never here: those that were made
    /// since its disk lost what it knew.
    async fn recall(&self, parts: &Parts) {
        let (store, controller) = (&self.store, &parts.controller);
        while store.forgot_any() {
            let is_whole = !store.log(GroupId::METADATA).damage().lost.any();
            if is_whole && controller.is_up_to_date() {
                let below = GroupId(controller.current().next_group);
                if let Err(error) = store.forgot_none_from(below).await {
                    tracing::warn!(node = %self.config.id, %error, "what the disk had lost was not noted");
                    return;
                }
            }
            self.env.sleep(RETRY).await;
        }
    }

    /// Makes the members of the groups that this node leads equal to what was agreed on.
    async fn move_partitions(&self, parts: &Parts) {
        let (controller, node) = (parts.controller.clone(), self.config.id);
        let report = move |members: Members| {
            let controller = controller.clone();
            async move {
                let Members { topic, partition, version, term, disks, changing } = members;
                let command = Command::ReportMembers { topic, partition, version, term, disks, changing };
                if let Err(error) = controller.submit(command, REGISTER_TIME).await {
                    tracing::debug!(%node, %partition, %error, "members of a partition were not reported");
                }
            }
            .boxed()
        };
        let (env, raft, metadata) = (self.env.clone(), self.raft.clone(), parts.controller.metadata());
        move_partitions(env, raft, node, metadata, Arc::new(report)).await;
    }

    /// Stops the groups: a refused node takes no part.
    async fn end(&self, parts: &Parts) {
        parts.partitions.stop().await;
        parts.controller.stop().await;
        // Also those whose start was cut short just now: else they would never start again.
        self.raft.stop_groups().await;
    }

    /// Names the cluster, and makes known who and where the nodes are: this one, and those that it formed the
    /// cluster with, so that all are there from the first moment on.
    async fn register(&self, parts: &Parts) {
        let controller = &parts.controller;
        let cluster = self.store.facts().cluster_id().expect("a member knows its cluster");
        let named = || controller.current().cluster_id == cluster;
        self.until_done(named, || async { controller.form(cluster, REGISTER_TIME).await.map(|_| ()) }).await;

        for (node, heard) in self.join.heard() {
            let member = self.store.facts().peer(node) == Some(heard.identity);
            if member && !controller.current().nodes.contains_key(&node) {
                let addresses = heard.addresses;
                let known = Node {
                    identity: heard.identity,
                    grpc: addresses.grpc,
                    peer: addresses.peer,
                    http: addresses.http,
                    // Its rack it says itself.
                    ..Node::default()
                };
                // It registers itself as well: this is only sooner.
                drop(controller.register_node(node, known, REGISTER_TIME).await);
            }
        }

        let (id, config) = (self.config.id, &self.config);
        let us = Node {
            identity: self.store.facts().identity(),
            grpc: config.advertise_grpc.clone(),
            peer: config.advertise_peer.clone(),
            http: config.advertise_http.clone(),
            rack: config.rack.clone(),
            admission: 0,
        };
        let mut metadata = controller.metadata();
        loop {
            let is_known = || controller.current().nodes.get(&id).is_some_and(|known| known.is_as_said(&us));
            let registered = || controller.is_up_to_date() && is_known();
            self.until_done(registered, || controller.register_node(id, us.clone(), REGISTER_TIME)).await;
            // Another one may have registered us with addresses that we had before.
            if metadata.changed().await.is_err() {
                return;
            }
        }
    }

    async fn until_done<F: Future<Output = Result<(), ControllerError>>>(
        &self,
        is_done: impl Fn() -> bool,
        attempt: impl Fn() -> F,
    ) {
        while !is_done() {
            match attempt().await {
                Ok(()) if is_done() => return,
                Ok(()) => {}
                Err(error) => tracing::debug!(node = %self.config.id, %error, "not registered yet"),
            }
            self.env.sleep(RETRY).await;
        }
    }

    /// Keeps raft's idea of where peers are true.
    async fn follow_addresses(&self, parts: &Parts) {
        let mut metadata = parts.controller.metadata();
        loop {
            let current = Arc::clone(&metadata.borrow_and_update());
            let nodes = current.nodes.iter().filter(|(id, _)| **id != self.config.id);
            let registered = nodes.map(|(id, node)| (*id, node.peer.clone())).collect();
            self.join.locate(&self.raft, &registered).await;
            let again = self.env.clock.sleep_until(self.raft.wake_by(self.env.now() + LOCATE));
            match select(std::pin::pin!(metadata.changed()), again).await {
                Either::Left((Err(_), _)) => return,
                Either::Left((Ok(()), _)) | Either::Right(((), _)) => {}
            }
        }
    }

    /// Says whether this node can commit, whenever that changes.
    async fn judge_readiness(&self, parts: &Parts) {
        let mut standing = parts.controller.standing();
        let mut metadata = parts.controller.metadata();
        let mut failed = self.store.failed();
        let mut was_ready = false;
        let members: Vec<NodeId> = self.join.members().into_iter().map(|member| member.node).collect();
        loop {
            let disk = failed.borrow_and_update().as_ref().map(|error| error.to_string());
            let wrong = was_ready || disk.is_some();
            let verdict =
                readiness(disk, *standing.borrow_and_update(), &metadata.borrow_and_update(), &members);
            self.readiness.send_if_modified(|known| {
                let changed = *known != verdict;
                if changed {
                    let node = self.config.id;
                    match &verdict {
                        Readiness::Ready => tracing::info!(%node, "node is ready"),
                        Readiness::NotReady(reason) if wrong => {
                            tracing::warn!(%node, reason, "node is not ready");
                        }
                        Readiness::NotReady(reason) => {
                            tracing::info!(%node, reason, "node is not ready yet");
                        }
                    }
                    *known = verdict;
                }
                changed
            });
            was_ready |= *self.readiness.borrow() == Readiness::Ready;
            let changed = tokio::select! {
                biased;
                changed = failed.changed() => changed,
                changed = standing.changed() => changed,
                changed = metadata.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }
}

/// What "ready" means, once a node belongs to its cluster. `disk` is what failed there.
fn readiness(disk: Option<String>, standing: Standing, metadata: &Metadata, members: &[NodeId]) -> Readiness {
    if let Some(error) = disk {
        return Readiness::NotReady(format!("its disk failed: {error}"));
    }
    let missing = match standing {
        Standing::Unled => Some("it hears no leader of the metadata group, or no majority"),
        Standing::Unregistered => {
            Some("it hears the metadata group's leader, and has not registered since it started")
        }
        Standing::Ready => None,
    };
    if let Some(missing) = missing {
        return Readiness::NotReady(missing.to_owned());
    }
    // Or a topic created now would be placed on too few. Who was removed since does not come any more.
    let is_removed = |member: &NodeId| metadata.removed.iter().any(|(removed, _)| removed == member);
    let missing = members.iter().find(|member| !metadata.nodes.contains_key(member) && !is_removed(member));
    match missing {
        Some(node) => Readiness::NotReady(format!("node {node} has not registered yet")),
        None => Readiness::Ready,
    }
}

#[cfg(test)]
mod tests {
    use quorate_proto::ids::Identity;

    use super::*;

    #[test]
    fn ready_means_able_to_commit() {
        let node = Node { identity: Identity::from_random([1; 16]), ..Node::default() };
        let mut metadata = Metadata { nodes: [(NodeId(1), node)].into(), ..Metadata::default() };
        Arc::make_mut(&mut metadata.removed).push_back((NodeId(3), Identity::from_random([3; 16])));
        let check = |disk: Option<&str>, standing, members: &[NodeId], reason: Option<&str>| {
            let expected = reason.map_or(Readiness::Ready, |reason| Readiness::NotReady(reason.to_owned()));
            assert_eq!(readiness(disk.map(str::to_owned), standing, &metadata, members), expected);
        };
        let one = [NodeId(1)];
        check(None, Standing::Ready, &one, None);
        check(Some("full"), Standing::Ready, &one, Some("its disk failed: full"));
        let unled = "it hears no leader of the metadata group, or no majority";
        check(None, Standing::Unled, &one, Some(unled));
        let unregistered = "it hears the metadata group's leader, and has not registered since it started";
        check(None, Standing::Unregistered, &one, Some(unregistered));
        check(None, Standing::Ready, &[NodeId(1), NodeId(2)], Some("node 2 has not registered yet"));
        check(None, Standing::Ready, &[NodeId(1), NodeId(3)], None);
    }
}
