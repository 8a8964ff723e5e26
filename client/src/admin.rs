//! Topics and the cluster, for those who look after them.

mod alter;
mod moves;
mod offsets;
mod records;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quorate_proto::ErrorCode;
use quorate_proto::call::{Call, CallError, Reply};
use quorate_proto::env::Env;
use quorate_proto::ids::{ClusterId, Identity, LeaderEpoch, NodeId, Offset, PartitionId, TopicId, TopicName};
use quorate_proto::v1;

pub use self::alter::ConfigChanges;
pub use self::offsets::{OffsetAt, OffsetFound};
pub use self::records::DeleteBefore;
use crate::error::AdminError;
use crate::leaders::{Leaders, WORD_TIME_MIN, refusal};
use crate::retry::Backoff;
pub use moves::LeaderChange;

mod members;

pub use members::{ChangeBegun, MembersChange, PartitionMove, Placing, WaitingNode};

/// A topic to create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// `None`: the cluster's default.
    pub partitions: Option<u32>,
    /// `None`: the cluster's default.
    pub replicas: Option<u32>,
    /// Such as `max.message.bytes`.
    pub configs: BTreeMap<String, String>,
}

impl NewTopic {
    /// With the cluster's defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// With this many partitions.
    #[must_use]
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.partitions = Some(partitions);
        self
    }

    /// With this many replicas of each.
    #[must_use]
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = Some(replicas);
        self
    }

    /// With one more setting.
    #[must_use]
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.insert(key.into(), value.into());
        self
    }
}

/// A topic that was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// It never changes and is never given to another.
    pub id: TopicId,
    /// What the user should know although the topic was created.
    pub warnings: Vec<String>,
}

/// A topic as metadata has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicListing {
    /// Its name.
    pub name: TopicName,
    /// It never changes and is never given to another.
    pub id: TopicId,
    /// By number, from 0.
    pub partitions: Vec<PartitionListing>,
    /// All settings, the defaults among them.
    pub configs: BTreeMap<String, String>,
}

/// A partition as metadata has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionListing {
    /// Its number.
    pub partition: PartitionId,
    /// `None` while there is none.
    pub leader: Option<NodeId>,
    /// `None` while none is known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The preferred leader first.
    pub replicas: Vec<NodeId>,
}

/// A topic with what its leaders say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicDescription {
    /// Its name.
    pub name: TopicName,
    /// It never changes and is never given to another.
    pub id: TopicId,
    /// By number, from 0.
    pub partitions: Vec<PartitionDescription>,
    /// All settings, the defaults among them.
    pub configs: BTreeMap<String, String>,
}

/// A partition with what its leader says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionDescription {
    /// Its number.
    pub partition: PartitionId,
    /// `None` while there is none.
    pub leader: Option<NodeId>,
    /// `None` while none is known.
    pub leader_epoch: Option<LeaderEpoch>,
    /// The preferred leader first.
    pub replicas: Vec<NodeId>,
    /// First offset that can still be read; `None` if no leader answered.
    pub log_start_offset: Option<Offset>,
    /// Exclusive end of what may be read; `None` if no leader answered.
    pub high_watermark: Option<Offset>,
}

/// The cluster as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Drawn when it was formed.
    pub cluster_id: ClusterId,
    /// By id.
    pub nodes: Vec<NodeStatus>,
    /// Partitions with a replica on a node that is not alive.
    pub under_replicated: u32,
    /// Partitions without a leader.
    pub leaderless: u32,
    /// Partitions whose members are not yet those that they are to be.
    pub moves: Vec<PartitionMove>,
    /// Nodes that asked the one that answered to be admitted, and were not.
    pub waiting: Vec<WaitingNode>,
    /// The last entry of the metadata group's log that the node which answered has applied.
    pub as_of: u64,
    /// What somebody should look at, in words, what matters most first; empty if all is well.
    pub attention: Vec<String>,
}

impl ClusterStatus {
    /// The nodes that decide on what all of them must know; all nodes where it is not said which.
    pub fn voters(&self) -> Vec<&NodeStatus> {
        let voters: Vec<&NodeStatus> = self.nodes.iter().filter(|node| node.voter).collect();
        if voters.is_empty() { self.nodes.iter().collect() } else { voters }
    }

    /// How many of [`ClusterStatus::voters`] are alive.
    pub fn alive(&self) -> usize {
        self.voters().iter().filter(|node| node.alive).count()
    }

    /// Whether enough nodes are alive to commit anything that all of them must know.
    pub fn has_majority(&self) -> bool {
        self.alive() > self.voters().len() / 2
    }
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Chosen by the operator.
    pub id: NodeId,
    /// Of its disk; `None` if it was never heard.
    pub identity: Option<Identity>,
    /// Where clients reach it.
    pub grpc: String,
    /// Its health and metrics.
    pub http: String,
    /// Accepted by the metadata leader and heard within an election time-out.
    pub alive: bool,
    /// Partitions that it leads.
    pub leads: u32,
    /// Partitions of which it has a replica.
    pub replicas: u32,
    /// It votes in the metadata group; the others follow.
    pub voter: bool,
    /// All that it holds is being moved away, and then it is removed.
    pub draining: bool,
    /// What it shares its power and its switch with; empty if that was not said.
    pub rack: String,
    /// What it says of its own disk; `None` if the node that answered has not heard it.
    pub disk: Option<DiskStatus>,
}

/// What a node says of its own disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskStatus {
    /// Bytes left.
    pub free_bytes: u64,
    /// Bytes that are kept: below them, batches are refused.
    pub reserve_bytes: u64,
    /// Whether batches are refused because too little is left.
    pub full: bool,
    /// Entries that were found damaged since the node's process started.
    pub damaged_entries: u64,
    /// How many of them are whole again.
    pub repaired_entries: u64,
}

/// Creates, lists, describes, changes and deletes topics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Admin {
    env: Env,
    leaders: Arc<Leaders>,
}

/// What a server gets less than we have left, so that its own words reach us in time.
const ANSWER_TIME: Duration = Duration::from_millis(500);

/// Tells the server how long it may take, where a request says so.
fn within(mut call: Call, time: Duration) -> Call {
    // 0 would stand for the server's own time-out.
    let ms = u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1);
    if let Call::CreateTopic(request) = &mut call {
        request.timeout_ms = ms;
    } else if let Call::DeleteTopic(request) = &mut call {
        request.timeout_ms = ms;
    } else if let Call::ChangeMembers(request) = &mut call {
        request.timeout_ms = ms;
    } else if let Call::ConfigureTopic(request) = &mut call {
        request.timeout_ms = ms;
    } else if let Call::AddPartitions(request) = &mut call {
        request.timeout_ms = ms;
    } else if let Call::DeleteRecords(request) = &mut call {
        request.timeout_ms = ms;
    }
    call
}

/// What a server's answer means for a request that any server can do.
enum Said<T> {
    Done(T),
    Refused { code: ErrorCode, message: String },
    Nonsense,
}

impl Admin {
    pub(crate) fn new(env: Env, leaders: Arc<Leaders>) -> Self {
        Self { env, leaders }
    }

    fn timeout(&self) -> Duration {
        self.leaders.config().admin_timeout
    }

    /// Asks the servers in turn, again and again, until one has done it, one has refused it for good, or the time is
    /// up; says why the last round came to nothing. A request that may have been done is not sent again unless it is
    /// `harmless` to do it twice.
    async fn anywhere<T>(
        &self,
        call: Call,
        harmless: bool,
        said: impl Fn(Reply) -> Said<T>,
    ) -> Result<T, AdminError> {
        let after = self.timeout();
        let config = self.leaders.config();
        // It may name thousands of partitions, and who is not listened to any more stops in the middle of them.
        let is_long = matches!(call, Call::ChangeMembers(_));
        let deadline = self.env.now() + after;
        let mut backoff = Backoff::new(config.backoff_min, config.backoff_max);
        let left = || deadline.since(self.env.now());
        // Nobody is asked when there is no time left to hear the answer: what is not harmless would be done all the
        // same, and who is silent then looks as if it were down.
        let answer_time = if harmless { WORD_TIME_MIN } else { ANSWER_TIME }.min(after / 4);
        let mut before = None;
        loop {
            // One that hangs would take all the time, and leave it unknown whether it was done.
            let may_ask = harmless || {
                let time = left().saturating_sub(answer_time);
                self.env.timeout(time, self.leaders.find_server()).await == Ok(true)
            };
            let (mut asked, mut last) = (false, None);
            // A server that hangs must not take the time of those after it, if they may be asked at all.
            let mut round = self.leaders.round(harmless);
            let ask = || {
                let left = left();
                let wait = if harmless && !is_long { left.min(config.metadata_timeout) } else { left };
                let call = || (within(call.clone(), left.saturating_sub(answer_time)), wait);
                (may_ask && left >= answer_time).then(call)
            };
            while let Some((_, answer)) = round.next(ask).await {
                asked = true;
                match answer {
                    Ok(reply) => match said(reply) {
                        Said::Done(done) => return Ok(done),
                        Said::Refused { code, message } => {
                            let message = refusal(code, &message);
                            if code.is_unknown_outcome() && !harmless {
                                // The error says as much itself.
                                let reason = message.strip_prefix("the outcome is not known: ");
                                let reason = reason.unwrap_or(&message).to_owned();
                                return Err(AdminError::PerhapsDone { reason });
                            }
                            if !code.is_retriable() {
                                return Err(AdminError::Refused { code, message });
                            }
                            last = Some(message);
                        }
                        Said::Nonsense => last = Some("a server answered another question".to_owned()),
                    },
                    Err(error @ CallError::Lost { .. }) if !harmless => {
                        return Err(AdminError::PerhapsDone { reason: error.to_string() });
                    }
                    Err(_its_silence_is_noted) => {}
                }
            }
            if !asked {
                // Nothing new was said.
                last = before.take();
            }
            let pause = backoff.pause(&self.env);
            if self.env.now() + pause + answer_time >= deadline {
                return Err(match last {
                    Some(last) => AdminError::TimedOut { after, last },
                    None => AdminError::NoServer(self.leaders.silent()),
                });
            }
            before = last;
            self.env.sleep(pause).await;
        }
    }

    /// Creates a topic. On return the controller has it, for good.
    ///
    /// # Errors
    /// `Refused` with the server's words: it exists already, a wrong name, more replicas than nodes, an unknown
    /// setting. `NoServer` and `TimedOut`: not done. `PerhapsDone`: it may exist now; list the topics.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<CreatedTopic, AdminError> {
        let count = |given: Option<u32>| i32::try_from(given.unwrap_or(0)).unwrap_or(i32::MAX);
        let entry = |(key, value)| v1::ConfigEntry { key, value };
        let request = v1::CreateTopicRequest {
            partitions: count(topic.partitions),
            replicas: count(topic.replicas),
            name: topic.name,
            configs: topic.configs.into_iter().map(entry).collect(),
            timeout_ms: 0,
        };
        self.anywhere(Call::CreateTopic(request), false, |reply| {
            let Reply::CreateTopic(reply) = reply else { return Said::Nonsense };
            match (reply.error(), TopicId::from_wire(&reply.id)) {
                (ErrorCode::None, Some(id)) => Said::Done(CreatedTopic { id, warnings: reply.warnings }),
                (ErrorCode::None, None) => Said::Nonsense,
                (code, _) => Said::Refused { code, message: reply.message },
            }
        })
        .await
    }

    /// Deletes a topic and its records.
    ///
    /// # Errors
    /// `Refused`: there is none of that name. `NoServer` and `TimedOut`: not done. `PerhapsDone`: it may be gone.
    pub async fn delete_topic(&self, name: &str) -> Result<(), AdminError> {
        let name: TopicName = name.parse()?;
        let request = v1::DeleteTopicRequest { name: name.to_string(), id: Bytes::new(), timeout_ms: 0 };
        self.anywhere(Call::DeleteTopic(request), false, |reply| {
            let Reply::DeleteTopic(reply) = reply else { return Said::Nonsense };
            let code = reply.error();
            if code == ErrorCode::None {
                Said::Done(())
            } else {
                Said::Refused { code, message: reply.message }
            }
        })
        .await
    }

    /// All topics, by name.
    ///
    /// # Errors
    /// `NoServer` and `TimedOut`.
    pub async fn list_topics(&self) -> Result<Vec<TopicListing>, AdminError> {
        let request = v1::MetadataRequest { all: true, topics: Vec::new(), auto_create: false };
        let mut topics = self.anywhere(Call::Metadata(request), true, listings).await?;
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// One topic, with what the leaders of its partitions say. Partitions whose leader does not answer within a
    /// second or so have neither log start offset nor high watermark.
    ///
    /// # Errors
    /// `Refused`: there is none of that name. `NoServer` and `TimedOut`.
    pub async fn describe_topic(&self, name: &str) -> Result<TopicDescription, AdminError> {
        let name: TopicName = name.parse()?;
        let request = v1::MetadataRequest { all: false, topics: vec![name.to_string()], auto_create: false };
        let found = self.anywhere(Call::Metadata(request), true, |reply| only(reply, listings)).await?;
        // The cache then has the leaders' addresses.
        let looked_up = self.leaders.refresh(&name).await.is_ok();
        let limit = self.leaders.config().metadata_timeout;
        let describe = |listing: PartitionListing| {
            let (admin, name) = (self.clone(), name.clone());
            async move {
                let offset = async |at| {
                    let found = admin.env.timeout(limit, admin.offset(&name, listing.partition, at)).await;
                    found.ok()?.ok().flatten().map(|found| found.offset)
                };
                let (log_start_offset, high_watermark) = if looked_up && listing.leader.is_some() {
                    futures_util::future::join(offset(OffsetAt::Earliest), offset(OffsetAt::Latest)).await
                } else {
                    (None, None)
                };
                PartitionDescription {
                    partition: listing.partition,
                    leader: listing.leader,
                    leader_epoch: listing.leader_epoch,
                    replicas: listing.replicas,
                    log_start_offset,
                    high_watermark,
                }
            }
        };
        let partitions = futures_util::future::join_all(found.partitions.into_iter().map(describe)).await;
        Ok(TopicDescription { name: found.name, id: found.id, partitions, configs: found.configs })
    }

    /// The cluster, as the first node that answers sees it.
    ///
    /// # Errors
    /// `NoServer` and `TimedOut`.
    pub async fn cluster_status(&self) -> Result<ClusterStatus, AdminError> {
        let call = Call::ClusterStatus(v1::ClusterStatusRequest {});
        self.anywhere(call, true, |reply| {
            let Reply::ClusterStatus(reply) = reply else { return Said::Nonsense };
            let code = reply.error();
            if code == ErrorCode::None {
                status(reply)
            } else {
                Said::Refused { code, message: reply.message }
            }
        })
        .await
    }
}

fn listings(reply: Reply) -> Said<Vec<TopicListing>> {
    let Reply::Metadata(reply) = reply else { return Said::Nonsense };
    if reply.error() != ErrorCode::None {
        return Said::Refused { code: reply.error(), message: reply.message };
    }
    if let Some(bad) = reply.topics.iter().find(|topic| topic.error() != ErrorCode::None) {
        return Said::Refused { code: bad.error(), message: bad.message.clone() };
    }
    match reply.topics.into_iter().map(listing).collect() {
        Some(topics) => Said::Done(topics),
        None => Said::Nonsense,
    }
}

fn only(reply: Reply, of: impl Fn(Reply) -> Said<Vec<TopicListing>>) -> Said<TopicListing> {
    match of(reply) {
        Said::Done(mut topics) => match (topics.pop(), topics.is_empty()) {
            (Some(topic), true) => Said::Done(topic),
            _not_one => Said::Nonsense,
        },
        Said::Refused { code, message } => Said::Refused { code, message },
        Said::Nonsense => Said::Nonsense,
    }
}

fn listing(topic: v1::TopicMetadata) -> Option<TopicListing> {
    let mut partitions: Vec<PartitionListing> = topic
        .partitions
        .into_iter()
        .map(|partition| PartitionListing {
            partition: PartitionId(partition.partition),
            leader: (partition.leader != 0).then_some(NodeId(partition.leader)),
            leader_epoch: (partition.leader_epoch >= 0).then_some(LeaderEpoch(partition.leader_epoch)),
            replicas: partition.replicas.into_iter().map(NodeId).collect(),
        })
        .collect();
    partitions.sort_by_key(|partition| partition.partition);
    Some(TopicListing {
        name: topic.name.parse().ok()?,
        id: TopicId::from_wire(&topic.id)?,
        partitions,
        configs: topic.configs.into_iter().map(|entry| (entry.key, entry.value)).collect(),
    })
}

fn status(reply: v1::ClusterStatusResponse) -> Said<ClusterStatus> {
    let Some(cluster_id) = ClusterId::from_wire(&reply.cluster_id) else { return Said::Nonsense };
    let node = |node: v1::NodeStatus| NodeStatus {
        id: NodeId(node.id),
        identity: Identity::from_wire(&node.identity),
        grpc: node.grpc,
        http: node.http,
        alive: node.alive,
        leads: node.leads,
        replicas: node.replicas,
        voter: node.voter,
        draining: node.draining,
        rack: node.rack,
        disk: node.disk.map(|disk| DiskStatus {
            free_bytes: disk.free_bytes,
            reserve_bytes: disk.reserve_bytes,
            full: disk.full,
            damaged_entries: disk.damaged_entries,
            repaired_entries: disk.repaired_entries,
        }),
    };
    let mut nodes: Vec<NodeStatus> = reply.nodes.into_iter().map(node).collect();
    nodes.sort_by_key(|node| node.id);
    Said::Done(ClusterStatus {
        cluster_id,
        nodes,
        under_replicated: reply.under_replicated,
        leaderless: reply.leaderless,
        moves: reply.moves.into_iter().map(PartitionMove::from_wire).collect(),
        waiting: reply.waiting.into_iter().map(WaitingNode::from_wire).collect(),
        as_of: reply.as_of,
        attention: reply.attention,
    })
}

#[cfg(test)]
mod tests {
    use quorate_proto::env::Moment;

    use super::*;
    use crate::error::NoServer;
    use crate::testing::{Cluster, Fault, soon};
    use crate::{Client, ClientConfig};

    #[tokio::test(start_paused = true)]
    async fn topics_are_created_described_listed_and_deleted() {
        let cluster = Cluster::with_topic("t", 2);
        let admin = cluster.client(1).admin();
        cluster.write("t", 1, &["a", "b"]);
        let created = soon(admin.create_topic(NewTopic::new("other").partitions(1))).await.unwrap();
        let names: Vec<String> =
            soon(admin.list_topics()).await.unwrap().iter().map(|topic| topic.name.to_string()).collect();
        assert_eq!(names, ["other", "t"]);
        let described = soon(admin.describe_topic("t")).await.unwrap();
        let said: Vec<_> = described
            .partitions
            .iter()
            .map(|p| (p.leader.map(|node| node.0), p.log_start_offset, p.high_watermark))
            .collect();
        let offset = |offset| Some(Offset(offset));
        assert_eq!(said, [(Some(1), offset(0), offset(0)), (Some(2), offset(0), offset(2))]);
        assert_ne!(described.id, created.id);

        // A partition whose leader is down is described by what metadata has.
        cluster.state().down.insert(2);
        let described = soon(admin.describe_topic("t")).await.unwrap();
        assert_eq!(described.partitions[0].high_watermark, offset(0));
        assert_eq!(described.partitions[1].high_watermark, None);

        soon(admin.delete_topic("t")).await.unwrap();
        let error = soon(admin.describe_topic("t")).await.unwrap_err();
        assert!(matches!(error, AdminError::Refused { code: ErrorCode::UnknownTopic, .. }), "{error}");
        let error = soon(admin.delete_topic("t")).await.unwrap_err();
        assert_eq!(error.to_string(), "topic t does not exist");
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_have_been_done_is_not_done_again() {
        let cluster = Cluster::default();
        let admin = cluster.client(1).admin();
        cluster.state().admin_faults.extend([Fault::LoseReply]);
        let error = soon(admin.create_topic(NewTopic::new("a"))).await.unwrap_err();
        assert!(matches!(error, AdminError::PerhapsDone { .. }), "{error}");
        let refused = [Fault::Unreachable, Fault::Refuse(ErrorCode::NotAvailable)];
        cluster.state().admin_faults.extend(refused);
        soon(admin.create_topic(NewTopic::new("b"))).await.expect("surely not done, so tried again");
        cluster.state().admin_faults.extend([Fault::Refuse(ErrorCode::InvalidReplicas)]);
        let error = soon(admin.create_topic(NewTopic::new("c"))).await.unwrap_err();
        assert_eq!(error.to_string(), "no");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_hangs_costs_half_a_second_once() {
        let cluster = Cluster::with_topic("t", 3);
        cluster.state().stopped.insert(1);
        let admin = cluster.client(1).admin();
        let now = || admin.env.now();
        let took = |since: Moment| now().since(since).as_millis();
        let start = now();
        soon(admin.list_topics()).await.unwrap();
        assert!((500..600).contains(&took(start)), "{}", took(start));
        let start = now();
        soon(admin.cluster_status()).await.unwrap();
        // Partition 1 is led by node 2.
        soon(admin.list_offset("t", PartitionId(1), OffsetAt::Latest)).await.unwrap();
        assert!(took(start) < 100, "{}", took(start));

        // What must not be done twice goes to a server that is known to answer, also by a client that knows none.
        let fresh = cluster.client(2).admin();
        let start = now();
        soon(fresh.create_topic(NewTopic::new("new"))).await.unwrap();
        assert!(took(start) < 600, "{}", took(start));

        // By one that knows a server, which hangs by now, as well.
        cluster.state().stopped = [2].into();
        for known in [&admin, &fresh] {
            let start = now();
            soon(known.create_topic(NewTopic::new("newer"))).await.unwrap();
            assert!(took(start) < 1_100, "{}", took(start));
        }
        cluster.state().stopped = [1].into();

        // The leader hangs until another one is there.
        let late = async {
            crate::testing::sleep(700).await;
            cluster.move_leader("t", 0, 3);
        };
        let start = now();
        let found = async { soon(admin.list_offset("t", PartitionId(0), OffsetAt::Latest)).await };
        let (found, ()) = futures_util::future::join(found, late).await;
        assert_eq!(found.unwrap().unwrap().offset, Offset(0));
        assert!(took(start) < 1_500, "{}", took(start));
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_never_answers_is_named_with_what_to_look_for() {
        let cluster = Cluster::with_topic("t", 1);
        let admin = cluster.client(1).admin();
        soon(admin.list_topics()).await.unwrap();
        cluster.state().stopped.insert(1);
        let error = soon(admin.list_offset("t", PartitionId(0), OffsetAt::Latest)).await.unwrap_err();
        let said = error.to_string();
        assert!(said.starts_with("not done within 10 s: ") && said.contains("n1:1"), "{said}");
        assert!(
            said.ends_with("no other leader is known of: see whether a majority of nodes runs"),
            "{said}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_server_could_hear_is_surely_not_done() {
        let cluster = Cluster::default();
        cluster.state().stopped = [1, 2, 3].into();
        let admin = cluster.client(1).admin();
        let start = admin.env.now();
        let error = soon(admin.create_topic(NewTopic::new("a"))).await.unwrap_err();
        assert!(admin.env.now().since(start) <= Duration::from_secs(10));
        let AdminError::NoServer(NoServer { tried }) = error else { panic!("{error}") };
        assert_eq!(tried.len(), 3, "{tried:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_not_asked_is_not_called_silent() {
        let cluster = Cluster::default();
        cluster.state().stopped = [1, 2, 3].into();
        let config = ClientConfig { admin_timeout: Duration::from_millis(550), ..ClientConfig::default() };
        let servers = (1..=3).map(|node| format!("n{node}:1")).collect();
        let client = Client::new(crate::testing::env(1), Arc::new(cluster.clone()), servers, config);
        let error = soon(client.admin().list_topics()).await.unwrap_err();
        let AdminError::NoServer(NoServer { tried }) = error else { panic!("{error}") };
        let said: Vec<_> =
            tried.iter().map(|tried| (tried.address.as_str(), tried.reason.as_str())).collect();
        let expected =
            [("n2:1", "no answer yet"), ("n3:1", "no answer yet"), ("n1:1", "no answer within 550 ms")];
        assert_eq!(said, expected);
        assert_eq!(client.no_server(), None, "two were not asked");
    }

    #[tokio::test(start_paused = true)]
    async fn any_server_that_answers_will_do_and_none_is_named() {
        let cluster = Cluster::with_topic("t", 1);
        let admin = cluster.client(1).admin();
        cluster.state().down.extend([1, 3]);
        let status = soon(admin.cluster_status()).await.unwrap();
        let alive: Vec<_> = status.nodes.iter().map(|node| (node.id.0, node.alive)).collect();
        assert_eq!(alive, [(1, false), (2, true), (3, false)]);
        cluster.state().down.insert(2);
        let error = soon(admin.list_topics()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot reach any server: n1:1: connection refused; n2:1: connection refused; \
             n3:1: connection refused",
        );
    }
}
