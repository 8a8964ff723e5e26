//! The start of one group: its log is made sure of, then openraft runs on it, with the tasks around it.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use openraft::Raft;
use openraft_rt::WatchReceiver;
use quorate_proto::ids::{GroupId, NodeId};
use tokio::sync::{Mutex as AsyncMutex, mpsc, oneshot, watch};

use super::roles::watch_role;
use super::{GroupError, Inner};
use crate::env::Mark;
use crate::raft::base::Base;
use crate::raft::election;
use crate::raft::floor::Floor;
use crate::raft::group::{Group, Running, role_of};
use crate::raft::log_store::{LogStore, Phase};
use crate::raft::machine::{Apply, Machine, Parts};
use crate::raft::membership::config_of;
use crate::raft::peers::Network;
use crate::raft::rejoin::{self, Unready};
use crate::raft::repair;
use crate::raft::runtime::{Registry, Scope};
use crate::raft::timers::ElectionTimer;
use crate::raft::trim;
use crate::raft::types::{Member, first_entry, log_id_to_raft, node_to_raft};
use crate::storage::{CheckpointKind, Entry, Log, Lost, ReadError, StoreError};

impl Inner {
    pub(super) async fn start(
        self: &Arc<Self>,
        id: GroupId,
        members: Vec<Member>,
        others: Vec<NodeId>,
        mut apply: Box<dyn Apply>,
    ) -> Result<Group, GroupError> {
        let ours = self.store.facts().identity();
        for member in &members {
            if member.node != self.me {
                self.peers.identities().admit(member.node, member.identity);
            } else if member.identity != ours {
                return Err(GroupError::WrongIdentity { group: id, member: member.identity, ours });
            }
        }
        let failed = |reason: &dyn ToString| GroupError::Failed { group: id, reason: reason.to_string() };
        let log = self.store.log(id);
        // openraft takes all that it finds for durable, and says so to its leader: what a former run of the group has
        // left on its way to the disk is waited for, and never comes there once the disk has failed.
        log.synced().await.map_err(|error| failed(&error))?;
        if self.store.may_have_forgotten(id) {
            if id != GroupId::METADATA && self.store.forgot_any() {
                // The metadata tell which groups were made since: of those nothing is lost.
                let reason = "it is not known yet whether this node ever had it".to_owned();
                return Err(GroupError::Damaged { group: id, reason });
            }
            // It was perhaps here, with a vote: it is not begun by this node.
            log.set_lost(Lost { tail: true, vote: true }).await.map_err(|error| failed(&error))?;
        }
        let (phase, phased) = watch::channel(Phase::Starting);
        let (bytes_max, rate) = (self.config.append_bytes_max, self.catch_up.clone());
        let store = LogStore::new(log.clone(), bytes_max, self.env.clone(), rate, phased);
        let base = Arc::new(Base::new(store.clone(), log.clone(), apply.fresh()));
        if let Some(at) = base.at().filter(|at| log.state().last.is_none_or(|last| last.index < at.index)) {
            // A crash came before the log was trimmed to what a peer had sent.
            log.trim_prefix(at).await.map_err(|error| failed(&error))?;
        }
        let place = members.iter().position(|member| member.node == self.me);
        let place = place.filter(|_| log.state().last.is_none() && !log.damage().lost.any());
        let mut nodes: BTreeSet<NodeId> = members.iter().map(|member| member.node).chain(others).collect();
        if id == GroupId::METADATA {
            // Every node has it.
            nodes.extend(self.store.facts().peers().into_keys());
        }
        let nodes: Vec<NodeId> = nodes.into_iter().filter(|node| *node != self.me).collect();
        if place.is_none() && !nodes.is_empty() && log.damage().base {
            // openraft reads it at each start: all of it comes from a peer, even if there is a newer checkpoint.
            log.lose_base().await.map_err(|error| failed(&error))?;
        }
        let until = match place {
            Some(_) => None,
            None => rejoin::pass(self, &log, &nodes).boxed().await.map_err(|unready| match unready {
                Unready::Store(error) => failed(&error),
                unready @ (Unready::NoOther | Unready::NotYet(_)) => {
                    GroupError::Damaged { group: id, reason: unready.to_string() }
                }
            })?,
        };
        let resumed = match base.resume(&mut *apply).await {
            Ok(resumed) => resumed,
            Err(error) if !nodes.is_empty() && is_damage(&error) => {
                // The next try gives up the log, and all of it comes from a peer.
                log.lose_base().await.map_err(|error| failed(&error))?;
                return Err(GroupError::Damaged { group: id, reason: format!("its base is lost: {error}") });
            }
            Err(error) => return Err(failed(&error)),
        };
        if let Some((kind, at, _)) = &resumed {
            self.env.reached(match kind {
                CheckpointKind::Base => Mark::StartFromABase,
                CheckpointKind::Recent => Mark::StartFromARecentCheckpoint,
            });
            tracing::debug!(group = %id, index = %at.index, ?kind, "group goes on from a checkpoint");
        }
        if place.is_some() {
            // All members begin with the same entry, so each can write it alone. openraft's own `initialize` would
            // refuse on a node that has voted before it heard of any entry, and such a group would wait for ever if
            // its first leader did not come back.
            append(&log, first_entry(id, &members)).await.map_err(|error| failed(&error))?;
        }
        let known = resumed.as_ref().map(|(_, at, members)| (*at, config_of(members.membership())));
        let applied = Arc::new(watch::Sender::new(resumed.as_ref().map(|(_, at, _)| *at)));
        let (checkpoints, to_save) = mpsc::channel(1);
        let floor = Arc::<Floor>::default();
        let machine = Machine::new(Parts {
            env: self.env.clone(),
            group: id,
            owner: apply,
            resumed: resumed.map(|(_, at, members)| (log_id_to_raft(at), members)),
            base: base.clone(),
            applied: applied.clone(),
            checkpoints,
            checkpoint_entries: self.config.checkpoint_entries,
        });
        let registry = Registry::new();
        let scope = Scope::new(self.env.clone(), &registry);
        // openraft reads the log as it starts, and waits for what is damaged.
        let has_others = !nodes.is_empty();
        scope.start(repair::run(Arc::downgrade(self), log.clone(), nodes, known));
        let raft = Raft::new(
            node_to_raft(self.me),
            self.openraft.clone(),
            Network::new(self.peers.clone(), id, floor.clone(), self.catch_up.clone()),
            store,
            machine,
        );
        let raft =
            scope.enter(raft).boxed().await.map_err(|error| match log.damage().base && has_others {
                // The next try gives it up.
                true => GroupError::Damaged { group: id, reason: format!("its base is lost: {error}") },
                false => failed(&error),
            })?;
        let roles = watch::Sender::new(role_of(&raft.server_metrics().borrow_watched(), None, self.me));
        let (env, watched) = (self.env.clone(), applied.subscribe());
        let saving = trim::save_checkpoints(log.clone(), to_save);
        let running = Running {
            id,
            me: self.me,
            identity: ours,
            env,
            log,
            raft,
            scope,
            registry,
            roles,
            applied: watched,
            replacing: Mutex::default(),
            timer: ElectionTimer::default(),
            phase,
            base,
            floor,
            ledger: Arc::clone(&self.ledger),
            waking: AsyncMutex::default(),
            transfer: watch::Sender::new(None),
            handed: Mutex::default(),
            tenure: Mutex::default(),
            elections: Arc::clone(&self.elections),
            ending: AsyncMutex::default(),
        };
        let group = Group(Arc::new(running));
        group.0.phase.send_replace(Phase::Running);
        if let Some(until) = until {
            let (env, log) = (self.env.clone(), group.log().clone());
            group.0.scope.start(rejoin::regain(env, log, until, applied.subscribe()));
        }
        for member in group.members() {
            if member.node != self.me {
                self.peers.identities().admit(member.node, member.identity);
            }
        }
        let watching = watch_role(Arc::downgrade(self), group.downgrade(), applied.subscribe());
        group.0.scope.start(watching);
        group.0.scope.start(saving);
        group.0.scope.start(election::begin(Arc::downgrade(self), group.downgrade(), place));
        Ok(group)
    }
}

/// Whether something that was read is not what was written.
fn is_damage(error: &io::Error) -> bool {
    let read = error.get_ref().and_then(|inner| inner.downcast_ref::<ReadError>());
    read.is_some_and(ReadError::is_damage)
}

/// Appends an entry that openraft does not know of yet. Durable on return.
async fn append(log: &Log, entry: Entry) -> Result<(), StoreError> {
    let (tx, rx) = oneshot::channel();
    log.append(vec![entry], Box::new(move |synced| drop(tx.send(synced))))?;
    rx.await.unwrap_or(Err(StoreError::Closed))
}
