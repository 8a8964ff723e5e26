//! The controller as the rest of the node sees it: the metadata as applied here, and the way for commands to the
//! metadata group's leader.

mod alter;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use quorate_proto::ErrorCode;
use quorate_proto::env::Moment;
use quorate_proto::ids::{ClusterId, GroupId, Identity, LogIndex, NodeId, ProducerId, TopicId};
use quorate_proto::v1::{self, peer_reply, peer_request};
use tokio::sync::{Semaphore, watch};
use tracing::{debug, info};

use self::alter::Named;
use super::command::{Answer, Command, Refusal};
use super::machine::Machine;
use super::spec::{NewTopic, warnings, without_leader};
use super::trim;
use super::types::{
    ControllerConfig, ControllerError, CreateTopicError, Created, DeleteTopicError, Standing,
};
use super::voters;
use crate::env::transport::{Lane, PeerError};
use crate::env::{Env, Mark, Point, Task};
use crate::metadata::{Metadata, Node, Topic};
use crate::raft::{self, Group, GroupError, Member, Proposal, ProposeError, RaftNode, Role};

/// The metadata group on this node. Cheap to clone; [`Controller::stop`] ends it.
#[derive(Clone)]
pub struct Controller {
    shared: Arc<Shared>,
}

/// For a controller's own tasks: they must not keep it.
pub(super) struct WeakController(Weak<Shared>);

impl WeakController {
    pub(super) fn upgrade(&self) -> Option<Controller> {
        self.0.upgrade().map(|shared| Controller { shared })
    }
}

struct Shared {
    env: Env,
    raft: RaftNode,
    group: Group,
    config: ControllerConfig,
    me: NodeId,
    metadata: watch::Receiver<Arc<Metadata>>,
    applied: watch::Receiver<LogIndex>,
    standing: watch::Receiver<Standing>,
    /// Whether a command was agreed since this node started and what it led to is applied here, and so all before it.
    up_to_date: watch::Sender<bool>,
    /// Producer ids that this node may hand out.
    producer_ids: Mutex<Range<i64>>,
    /// One block is taken at a time.
    taking: Semaphore,
    tasks: Mutex<Vec<Task>>,
}

/// How long a node may take to say that it is there.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// What one attempt at a command came to.
enum Attempt {
    Answered(LogIndex, Answer),
    /// Surely not done: try again.
    NotDone,
    /// Perhaps done: trying again is harmless, giving up is not certain.
    Unknown,
}

impl Controller {
    /// Starts the metadata group: with `members` if its log is still empty.
    ///
    /// # Errors
    /// Whatever keeps the group from starting.
    pub async fn start(
        env: &Env,
        raft: &RaftNode,
        config: ControllerConfig,
        me: NodeId,
        members: Vec<Member>,
    ) -> Result<Self, GroupError> {
        let (machine, metadata, applied) = Machine::new();
        let group = raft.start_group(GroupId::METADATA, members, Box::new(machine)).await?;
        let (standing_tx, standing) = watch::channel(Standing::Unled);
        let silence = Duration::from_millis(config.silence_ms_max);
        let up_to_date = watch::Sender::new(false);
        let told = up_to_date.subscribe();
        let watcher =
            watch_standing(env.clone(), raft.clone(), group.clone(), me, silence, told, standing_tx);
        let node = raft.clone();
        let task =
            env.spawn("controller standing", async move { node.vital("watch of standing", watcher).await });
        let trimming = trim::run(env.clone(), raft.clone(), group.clone(), config.log_entries_max);
        let node = raft.clone();
        let trims = env
            .spawn("metadata trims", async move { node.vital("trimming of the metadata", trimming).await });
        let shared = Shared {
            env: env.clone(),
            raft: raft.clone(),
            group,
            config,
            me,
            metadata,
            applied,
            standing,
            up_to_date,
            producer_ids: Mutex::new(0..0),
            taking: Semaphore::new(1),
            tasks: Mutex::new(vec![task, trims]),
        };
        let controller = Self { shared: Arc::new(shared) };
        let weak = WeakController(Arc::downgrade(&controller.shared));
        let node = raft.clone();
        let (roles, metadata) = (controller.role_watch(), controller.metadata());
        let keeping = voters::keep(weak, env.clone(), raft.clone(), roles, metadata);
        let keeper =
            env.spawn("metadata voters", async move { node.vital("keeper of voters", keeping).await });
        controller.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).push(keeper);
        Ok(controller)
    }

    /// Ends the controller's own tasks; the group itself is left to [`RaftNode::stop`].
    pub async fn stop(&self) {
        let tasks = std::mem::take(&mut *self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.stop().await;
        }
    }

    fn role_watch(&self) -> watch::Receiver<Role> {
        self.shared.group.roles()
    }

    pub(super) fn env(&self) -> &Env {
        &self.shared.env
    }

    pub(super) fn me(&self) -> NodeId {
        self.shared.me
    }

    pub(super) fn group(&self) -> &Group {
        &self.shared.group
    }

    pub(super) fn raft(&self) -> &RaftNode {
        &self.shared.raft
    }

    /// The nodes whose disks are nearly full, as each of them said last.
    pub(super) fn full_disks(&self) -> BTreeSet<NodeId> {
        let mut healths = self.shared.raft.healths();
        healths.insert(self.shared.me, self.shared.raft.health());
        healths.into_iter().filter(|(_, health)| health.room.is_full).map(|(node, _)| node).collect()
    }

    /// This node, and those that were heard within the time after which a member counts as silent.
    pub fn heard_lately(&self) -> BTreeSet<NodeId> {
        let since = self.shared.env.now() - Duration::from_millis(self.shared.config.silence_ms_max);
        let heard = self.shared.raft.alive().into_iter().filter(|(_, at)| *at >= since);
        heard.map(|(node, _)| node).chain([self.shared.me]).collect()
    }

    /// Who votes in the metadata group, by the newest membership in the log here.
    pub fn voters(&self) -> BTreeSet<NodeId> {
        self.shared.group.seen_config().config.all_voters()
    }

    /// The disks whose vote counts whatever comes of a change that is under way: by the newest membership that is known
    /// here to be committed, and in each of its sets. That of a node may be one that was replaced, and is not out yet.
    pub fn voting_disks(&self) -> BTreeMap<NodeId, Identity> {
        let config = self.shared.group.committed_config();
        let votes = |node: &NodeId| config.voters.iter().all(|voters| voters.contains(node));
        config.disks.iter().filter(|(node, _)| votes(node)).map(|(node, disk)| (*node, *disk)).collect()
    }

    /// The metadata as applied on this node.
    pub fn metadata(&self) -> watch::Receiver<Arc<Metadata>> {
        self.shared.metadata.clone()
    }

    /// The newest metadata applied on this node.
    pub fn current(&self) -> Arc<Metadata> {
        Arc::clone(&self.shared.metadata.borrow())
    }

    /// The last entry that [`Controller::current`] holds.
    pub fn applied(&self) -> LogIndex {
        *self.shared.applied.borrow()
    }

    /// Whether this node leads and hears a majority, or hears the leader, and has had a command of its own agreed.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.shared.standing.clone()
    }

    /// Waits until the metadata applied here hold all that was agreed before this call.
    ///
    /// # Errors
    /// [`ControllerError::NotAvailable`] if no majority confirmed it in time.
    pub async fn catch_up(&self, timeout: Duration) -> Result<(), ControllerError> {
        self.shared.group.read_barrier(timeout).await.map_err(|_| ControllerError::NotAvailable)
    }

    /// Has the group agree on a command: proposes it here or sends it to the leader, again and again until there is
    /// an answer or the time is up, and waits until it is applied on this node. Every command may be tried again.
    ///
    /// # Errors
    /// [`ControllerError::Refused`] if the group decided against it.
    pub async fn submit(&self, command: Command, timeout: Duration) -> Result<Answer, ControllerError> {
        let bytes = command.encode();
        let deadline = self.shared.env.now() + timeout;
        let mut perhaps_done = false;
        loop {
            let left = deadline.since(self.shared.env.now());
            match self.attempt(bytes.clone(), left).await {
                Attempt::Answered(index, answer) => {
                    self.applied_here(index, deadline).await;
                    if self.applied() >= index {
                        self.shared.up_to_date.send_if_modified(|was| !std::mem::replace(was, true));
                    }
                    return match answer {
                        Answer::Refused(refusal) => Err(ControllerError::Refused(refusal)),
                        answer @ (Answer::Done
                        | Answer::Cluster(_)
                        | Answer::Topic(_)
                        | Answer::ProducerIds(_)) => Ok(answer),
                    };
                }
                Attempt::NotDone => {}
                Attempt::Unknown => {
                    self.shared.env.reached(Mark::CommandUnknown);
                    perhaps_done = true;
                }
            }
            let now = self.shared.env.now();
            if now >= deadline {
                let error =
                    if perhaps_done { ControllerError::Unknown } else { ControllerError::NotAvailable };
                debug!(?command, %error, "command was given up");
                return Err(error);
            }
            let pause = Duration::from_millis(self.shared.config.retry_ms).min(deadline.since(now));
            self.shared.env.sleep(pause).await;
        }
    }

    async fn attempt(&self, command: Bytes, left: Duration) -> Attempt {
        if self.shared.env.perturb(Point::CommandNotTried) {
            return Attempt::NotDone;
        }
        let attempt = self.attempt_once(command, left).await;
        if matches!(attempt, Attempt::Answered(..)) && self.shared.env.perturb(Point::CommandAnswerLost) {
            return Attempt::Unknown;
        }
        attempt
    }

    async fn attempt_once(&self, command: Bytes, left: Duration) -> Attempt {
        match self.shared.group.role() {
            Role::Leader { .. } => self.propose(command, left).await,
            Role::Follower { leader: Some(leader), .. } if leader != self.shared.me => {
                self.forward(leader, command, left).await
            }
            Role::Follower { .. } => Attempt::NotDone,
        }
    }

    async fn propose(&self, command: Bytes, left: Duration) -> Attempt {
        let Role::Leader { term, .. } = self.shared.group.role() else { return Attempt::NotDone };
        let proposal = Proposal::command(command, self.shared.env.wall());
        let Ok(pending) = self.shared.group.propose(term, proposal).await else { return Attempt::NotDone };
        match self.shared.env.timeout(left, pending).await {
            Ok(Ok((_, raft::Answer::Command(answer)))) => answered(&answer),
            Ok(Ok((_, raft::Answer::Nothing | raft::Answer::Batch(_)))) => {
                unreachable!("a command is answered as a command")
            }
            Ok(Err(ProposeError::NotAppended { .. })) => Attempt::NotDone,
            Ok(Err(ProposeError::Unknown)) | Err(_) => Attempt::Unknown,
        }
    }

    async fn forward(&self, leader: NodeId, command: Bytes, left: Duration) -> Attempt {
        self.shared.env.reached(Mark::CommandForwarded);
        let timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
        let body = peer_request::Body::Command(v1::Command { command, timeout_ms });
        let call = self.shared.raft.call(leader, Lane::Bulk, body, left);
        // A leader that hangs is not waited for once there is another one.
        let called = tokio::select! {
            biased;
            called = call => called,
            () = self.until_led_by_another(leader) => return Attempt::Unknown,
        };
        let reply = match called {
            Ok(reply) => reply,
            Err(PeerError::Refused(_)) => return Attempt::NotDone,
            Err(PeerError::Unreachable(_) | PeerError::Lost(_)) => return Attempt::Unknown,
        };
        let code = reply.error();
        match reply.body {
            Some(peer_reply::Body::Command(reply)) if code == ErrorCode::None => answered(&reply.answer),
            Some(_) | None if code == ErrorCode::None || code.is_unknown_outcome() => Attempt::Unknown,
            Some(_) | None => Attempt::NotDone,
        }
    }

    /// Whether a node answers, with this disk.
    pub(super) async fn is_there(&self, node: NodeId, disk: Identity) -> bool {
        if node == self.shared.me {
            return true;
        }
        // For no entries at all: that it answers is enough, as members answer to members only.
        let group = GroupId::METADATA.0;
        let request = v1::FetchEntriesRequest { group, ..v1::FetchEntriesRequest::default() };
        let body = peer_request::Body::FetchEntries(request);
        let answer = self.shared.raft.call(node, Lane::Urgent, body, ANSWER_TIME).await;
        answer.is_ok_and(|reply| reply.error() == ErrorCode::None)
            && self.shared.raft.known(node) == Some(disk)
    }

    async fn until_led_by_another(&self, than: NodeId) {
        let mut roles = self.shared.group.roles();
        let another = |role: &Role| match role {
            Role::Leader { .. } => true,
            Role::Follower { leader, .. } => leader.is_some_and(|leader| leader != than),
        };
        if roles.wait_for(another).await.is_err() {
            // The group ends, and with it the call.
            std::future::pending::<()>().await;
        }
    }

    /// A command that another node sent here because it believes that this one leads. It is never sent on.
    ///
    /// # Errors
    /// The code and sentence for the other node: `NotLeader` and `InvalidRequest` say not done.
    pub async fn handle_forwarded(
        &self,
        command: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, (ErrorCode, String)> {
        Command::decode(&command).map_err(|error| (ErrorCode::InvalidRequest, error.to_string()))?;
        match self.propose(command, timeout).await {
            Attempt::Answered(index, answer) => Ok(answer.encode(index)),
            Attempt::NotDone => {
                Err((ErrorCode::NotLeader, "this node does not lead the metadata group".to_owned()))
            }
            Attempt::Unknown => Err((ErrorCode::UnknownOutcome, "no majority answered in time".to_owned())),
        }
    }

    /// Waits until this node has applied an entry, or the time is up.
    async fn applied_here(&self, index: LogIndex, deadline: Moment) {
        let mut applied = self.shared.applied.clone();
        let reached = std::pin::pin!(applied.wait_for(|applied| *applied >= index));
        select(reached, self.shared.env.clock.sleep_until(deadline)).await;
    }

    /// Names the cluster, unless it has a name; gives the name that it has.
    ///
    /// # Errors
    /// See [`ControllerError`].
    pub async fn form(&self, cluster_id: ClusterId, timeout: Duration) -> Result<ClusterId, ControllerError> {
        match self.submit(Command::FormCluster { cluster_id }, timeout).await? {
            Answer::Cluster(name) => Ok(name),
            Answer::Done | Answer::Topic(_) | Answer::ProducerIds(_) | Answer::Refused(_) => {
                Err(unexpected())
            }
        }
    }

    /// Whether the metadata applied here hold all that was agreed before this node started.
    pub fn is_up_to_date(&self) -> bool {
        *self.shared.up_to_date.borrow()
    }

    /// Watches [`Controller::is_up_to_date`]. It stays true.
    pub fn up_to_date(&self) -> watch::Receiver<bool> {
        self.shared.up_to_date.subscribe()
    }

    /// Makes a node's identity and addresses known, if they are not as known; in any case if nothing was agreed yet
    /// since this node started.
    ///
    /// # Errors
    /// [`ControllerError::Refused`] with `WrongIdentity` if the id is known with another identity.
    pub async fn register_node(
        &self,
        id: NodeId,
        node: Node,
        timeout: Duration,
    ) -> Result<(), ControllerError> {
        if self.is_up_to_date() && self.current().nodes.get(&id).is_some_and(|known| known.is_as_said(&node))
        {
            return Ok(());
        }
        self.submit(Command::RegisterNode { id, node }, timeout).await.map(|_| ())
    }

    /// Creates a topic and waits, within the time, until each of its partitions has a leader.
    ///
    /// # Errors
    /// [`CreateTopicError::Invalid`] if what was asked for cannot be.
    pub async fn create_topic(
        &self,
        topic: NewTopic,
        timeout: Duration,
    ) -> Result<Created, CreateTopicError> {
        let deadline = self.shared.env.now() + timeout;
        let id = TopicId::from_random(self.shared.env.random_bytes());
        let command = topic.command(id)?;
        match self.submit(command, timeout).await {
            Ok(_) => {}
            Err(ControllerError::Refused(Refusal { code, message })) => {
                return Err(CreateTopicError::Invalid { code, message });
            }
            Err(error @ (ControllerError::NotAvailable | ControllerError::Unknown)) => {
                return Err(error.into());
            }
        }
        let made = self.current().topics.get(&id).cloned();
        info!(topic = topic.name, %id, here = made.is_some(), "topic created");
        let Some(made) = made else { return Ok(Created { id, warnings: Vec::new() }) };
        let unled = self.led(&made, deadline).await;
        let replicas = made.partitions.first().map_or(1, |partition| partition.replicas.len());
        Ok(Created { id, warnings: warnings(replicas).into_iter().chain(without_leader(&unled)).collect() })
    }

    /// Waits until each partition has a leader, or the time is up. Gives the numbers of those that have none.
    async fn led(&self, topic: &Topic, deadline: Moment) -> Vec<usize> {
        let mut changed = self.shared.raft.leaders_changed();
        loop {
            changed.borrow_and_update();
            let partitions = topic.partitions.iter().enumerate();
            let unled = partitions.filter(|(_, one)| self.shared.raft.leadership(one.group).is_none());
            let unled: Vec<usize> = unled.map(|(number, _)| number).collect();
            if unled.is_empty() {
                return unled;
            }
            let change = std::pin::pin!(changed.changed());
            match select(change, self.shared.env.clock.sleep_until(deadline)).await {
                Either::Left((Ok(()), _)) => {}
                Either::Left((Err(_), _)) | Either::Right(((), _)) => return unled,
            }
        }
    }

    /// Deletes the topic of that name; only that of the given id, if there is one. Its name is free again once this
    /// returns; its replicas go in the background.
    ///
    /// # Errors
    /// See [`DeleteTopicError`].
    pub async fn delete_topic(
        &self,
        name: &str,
        id: Option<TopicId>,
        timeout: Duration,
    ) -> Result<(), DeleteTopicError> {
        let deadline = self.shared.env.now() + timeout;
        let unknown = || DeleteTopicError::UnknownTopic(name.to_owned());
        let there = match self.named(name, id, timeout).await? {
            Named::Topic(there) => there,
            Named::Nothing => return Err(unknown()),
            Named::Other => return Err(DeleteTopicError::OtherTopic),
        };
        let left = deadline.since(self.shared.env.now());
        match self.submit(Command::DeleteTopic { id: there }, left).await {
            Ok(_) => {
                info!(topic = name, id = %there, "topic deleted");
                Ok(())
            }
            Err(ControllerError::Refused(refusal)) if refusal.code == ErrorCode::UnknownTopicId => {
                Err(unknown())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// A producer id that nobody had before.
    ///
    /// # Errors
    /// See [`ControllerError`]; what is perhaps done is that a block of ids was lost, which does no harm.
    pub async fn producer_id(&self, timeout: Duration) -> Result<ProducerId, ControllerError> {
        let deadline = self.shared.env.now() + timeout;
        loop {
            if self.shared.env.perturb(Point::ProducerIdsForgotten) {
                *self.producer_ids() = 0..0;
            }
            if let Some(id) = self.producer_ids().next() {
                return Ok(ProducerId(id));
            }
            let turn = self.shared.env.timeout(timeout, self.shared.taking.acquire()).await;
            let Ok(Ok(_turn)) = turn else { return Err(ControllerError::NotAvailable) };
            // Somebody else may have taken a block in the meantime.
            if let Some(id) = self.producer_ids().next() {
                return Ok(ProducerId(id));
            }
            let count = self.shared.config.producer_ids_block;
            let left = deadline.since(self.shared.env.now());
            match self.submit(Command::TakeProducerIds { count }, left).await? {
                Answer::ProducerIds(first) => *self.producer_ids() = first.0..first.0 + i64::from(count),
                Answer::Done | Answer::Cluster(_) | Answer::Topic(_) | Answer::Refused(_) => {
                    return Err(unexpected());
                }
            }
        }
    }

    fn producer_ids(&self) -> std::sync::MutexGuard<'_, Range<i64>> {
        self.shared.producer_ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this node leads the metadata group, or which one does.
    pub fn role(&self) -> Role {
        self.shared.group.role()
    }
}

/// An answer of another node that does not belong to the command.
fn unexpected() -> ControllerError {
    ControllerError::Unknown
}

fn answered(answer: &[u8]) -> Attempt {
    match Answer::decode(answer) {
        Ok((index, answer)) => Attempt::Answered(index, answer),
        Err(_) => Attempt::Unknown,
    }
}

/// Says whether the metadata group can be expected to commit what this node asks.
async fn watch_standing(
    env: Env,
    raft: RaftNode,
    group: Group,
    me: NodeId,
    silence: Duration,
    mut up_to_date: watch::Receiver<bool>,
    standing: watch::Sender<Standing>,
) {
    let mut roles = group.roles();
    loop {
        let role = *roles.borrow_and_update();
        let told = *up_to_date.borrow_and_update();
        let now = env.now();
        let alive = raft.alive();
        let heard =
            |node: NodeId| node == me || alive.get(&node).is_some_and(|heard| now.since(*heard) <= silence);
        let is_led = match role {
            Role::Leader { ready: true, .. } => {
                let majority_of = |voters: &BTreeSet<NodeId>| {
                    voters.iter().filter(|voter| heard(**voter)).count() * 2 > voters.len()
                };
                group.seen_config().config.voters.iter().all(majority_of)
            }
            Role::Leader { ready: false, .. } => false,
            Role::Follower { leader, .. } => leader.is_some_and(|leader| leader != me && heard(leader)),
        };
        let now = match (is_led, told) {
            (false, _) => Standing::Unled,
            (true, false) => Standing::Unregistered,
            (true, true) => Standing::Ready,
        };
        standing.send_if_modified(|was| std::mem::replace(was, now) != now);
        let changed = tokio::select! {
            biased;
            changed = roles.changed() => changed,
            changed = up_to_date.changed() => changed,
            () = env.clock.sleep_until(raft.wake_by(env.now() + silence / 14)) => Ok(()),
        };
        if changed.is_err() {
            standing.send_replace(Standing::Unled);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::alone::Alone;

    /// It asks the other node, which stands still, as a leader that it remembers. How long that takes.
    async fn forward(with_other: bool, left: Duration) -> Duration {
        let alone = Alone::start().await;
        let other = NodeId(2);
        alone.raft.set_address(other, "b:2");
        let mut members = vec![Member { node: alone.me, identity: alone.identity }];
        if with_other {
            members.push(Member { node: other, identity: Identity::from_random([2; 16]) });
        }
        let (env, raft, config) = (&alone.env, &alone.raft, ControllerConfig::default());
        let controller = Controller::start(env, raft, config, alone.me, members).await.unwrap();
        let start = env.now();
        let command = Command::TakeProducerIds { count: 1 }.encode();
        let attempt = controller.forward(other, command, left).await;
        assert!(matches!(attempt, Attempt::Unknown), "it may have done it");
        env.now().since(start)
    }

    #[tokio::test]
    async fn a_leader_that_hangs_is_left_once_there_is_another() {
        let left = Duration::from_millis(300);
        assert!(forward(true, left).await >= left, "nobody else can lead");
        let left = Duration::from_secs(60);
        assert!(forward(false, left).await < left / 2, "the node leads itself");
    }
}
