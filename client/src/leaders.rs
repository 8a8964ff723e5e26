//! Who leads what: a cache of metadata, filled by whichever server answers, and the connections.

mod lookup;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{BoxFuture, Either, select};
use futures_util::stream::FuturesUnordered;
use quorate_proto::ErrorCode;
use quorate_proto::call::{Call, CallError, Channel, Connect, Reply};
use quorate_proto::env::{Env, Mark, Moment, Point};
use quorate_proto::ids::{LeaderEpoch, NodeId, PartitionId, ProducerEpoch, ProducerId, TopicId, TopicName};
use quorate_proto::v1;
use tokio::sync::Semaphore;

use crate::client::ClientConfig;
use crate::error::{NoServer, Tried};

/// A server that is given less time than this says nothing by its silence.
pub(crate) const WORD_TIME_MIN: Duration = Duration::from_millis(100);
/// A server that is silent for so long is not waited for alone: the next one is asked beside it.
const HEDGE: Duration = Duration::from_millis(500);
/// For so long after a server failed to answer, the others are asked before it. Not for ever: those that answer may
/// be cut off from the rest.
const AVOIDED: Duration = Duration::from_secs(2);
/// A leader that is silent for so long makes us look whether another node leads by now.
const SLOW: Duration = Duration::from_millis(500);
/// How often those who follow topics see whether more is known of them by now.
pub(crate) const FOLLOW: Duration = Duration::from_secs(1);
/// What is known of topics is not looked up again so soon to see whether one has grown, or takes more by now.
pub(crate) const JUST_NOW: Duration = Duration::from_millis(100);
/// Fetches that wait for records at one server, at most; those beyond ask only for what is there. Well below what a
/// server answers of one stream at a time (`stream_fetches_max`), or those that find records would wait behind those
/// that wait for some.
pub(crate) const WAITING_FETCHES_MAX: usize = 12_000;

/// What is known of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicView {
    pub(crate) id: TopicId,
    /// By number.
    pub(crate) partitions: Vec<Known>,
    /// Its `max.message.bytes`, if the servers say it.
    pub(crate) message_bytes_max: Option<usize>,
}

impl TopicView {
    /// Whether the topic has a partition of this number.
    pub(crate) fn has(&self, partition: PartitionId) -> bool {
        usize::try_from(partition.0).is_ok_and(|at| at < self.partitions.len())
    }
}

/// Who leads a partition, as far as we heard. The epoch never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) leader: Option<NodeId>,
    /// -1 while none is known.
    pub(crate) epoch: LeaderEpoch,
}

impl Known {
    /// Takes over what is newer. Word that there is no leader in an epoch whose leader we know is taken for lag.
    fn learn(&mut self, heard: Self) {
        if heard.epoch > self.epoch || (heard.epoch == self.epoch && heard.leader.is_some()) {
            *self = heard;
        }
    }
}

/// A leader, and the way to it.
#[derive(Clone)]
pub(crate) struct LeaderAt {
    pub(crate) node: NodeId,
    pub(crate) epoch: LeaderEpoch,
    pub(crate) channel: Arc<dyn Channel>,
    /// Places for fetches that wait for records there.
    pub(crate) waits: Arc<Semaphore>,
}

/// The way to a server, and the places for fetches that wait for records there.
#[derive(Clone)]
struct Way {
    channel: Arc<dyn Channel>,
    waits: Arc<Semaphore>,
}

/// Why a topic's metadata was not found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LookupError {
    /// Nobody answered.
    NoServer(NoServer),
    /// All who answered say that there is no such topic, and none that it cannot say.
    UnknownTopic,
    /// Refused, and would be again.
    Refused { code: ErrorCode, message: String },
    /// Not now; a later try may help.
    NotNow(String),
}

impl LookupError {
    pub(crate) fn is_retriable(&self) -> bool {
        match self {
            Self::NoServer(_) | Self::NotNow(_) => true,
            Self::UnknownTopic | Self::Refused { .. } => false,
        }
    }

    /// Of what two servers said about one topic, the weightier, and of equals the newer. A server that cannot say
    /// outweighs one that denies the topic, which may lag behind; a refusal outweighs both, as no other server would
    /// change it.
    fn weightier(before: Self, newer: Self) -> Self {
        let weight = |error: &Self| match error {
            Self::UnknownTopic => 0,
            Self::NoServer(_) | Self::NotNow(_) => 1,
            Self::Refused { .. } => 2,
        };
        if weight(&before) > weight(&newer) { before } else { newer }
    }
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoServer(error) => error.fmt(f),
            Self::UnknownTopic => f.write_str("the topic does not exist"),
            Self::Refused { code, message } => write!(f, "{message} ({})", code.as_str_name()),
            Self::NotNow(reason) => f.write_str(reason),
        }
    }
}

/// Of a server that did not answer.
struct Silence {
    /// When that was seen last.
    at: Moment,
    reason: String,
    /// It may still answer.
    hangs: bool,
}

#[derive(Default)]
struct State {
    channels: BTreeMap<String, Way>,
    nodes: BTreeMap<NodeId, String>,
    topics: BTreeMap<TopicName, Arc<TopicView>>,
    /// What was known of topics that all servers denied since: should one know them all the same, their leaders' epochs
    /// do not go back.
    denied: BTreeMap<TopicName, Arc<TopicView>>,
    /// Topics that somebody waits for although nothing is known of them yet.
    wanted: BTreeMap<TopicName, usize>,
    /// Who answered last: asked first the next time.
    preferred: Option<String>,
    /// With which server to begin when none is preferred.
    rotation: usize,
    /// The servers that did not answer when they were asked last.
    silent: BTreeMap<String, Silence>,
    /// How many lookups of all known topics have ended.
    lookups: u64,
    /// When the last one of all known topics began that was answered.
    looked_up: Option<Moment>,
    /// Why the last one of them failed, for those who waited for it: as a whole, or for one topic.
    failed: Option<NoServer>,
    failed_topics: BTreeMap<TopicName, LookupError>,
}

/// Metadata and connections of one client, shared by all that it does.
pub(crate) struct Leaders {
    env: Env,
    connect: Arc<dyn Connect>,
    servers: Vec<String>,
    config: ClientConfig,
    state: Mutex<State>,
    /// Held by the one lookup that is under way; the others wait for its result.
    lookup: tokio::sync::Mutex<()>,
    /// Held by the one that has a topic created. Servers may hang over that; lookups go on meanwhile.
    creation: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Leaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaders").field("servers", &self.servers).finish_non_exhaustive()
    }
}

impl Leaders {
    pub(crate) fn new(
        env: Env,
        connect: Arc<dyn Connect>,
        servers: Vec<String>,
        config: ClientConfig,
    ) -> Self {
        Self {
            env,
            connect,
            servers,
            config,
            state: Mutex::new(State::default()),
            lookup: tokio::sync::Mutex::new(()),
            creation: tokio::sync::Mutex::new(()),
        }
    }

    pub(crate) fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// How old what is known of topics may grow.
    pub(crate) fn age_max(&self) -> Duration {
        self.config.metadata_age_max.max(JUST_NOW)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn way(&self, address: &str) -> Way {
        let mut state = self.state();
        if let Some(way) = state.channels.get(address) {
            return way.clone();
        }
        let waits = Arc::new(Semaphore::new(WAITING_FETCHES_MAX));
        let way = Way { channel: self.connect.connect(address), waits };
        state.channels.insert(address.to_owned(), way.clone());
        way
    }

    /// What is known of a topic, without asking.
    pub(crate) fn known(&self, topic: &TopicName) -> Option<Arc<TopicView>> {
        self.state().topics.get(topic).cloned()
    }

    /// Who leads a partition of the topic with this id, without asking.
    pub(crate) fn leader(&self, topic: &TopicName, id: TopicId, partition: PartitionId) -> Option<LeaderAt> {
        let (node, epoch, address) = {
            let state = self.state();
            let view = state.topics.get(topic).filter(|view| view.id == id)?;
            let known = view.partitions.get(usize::try_from(partition.0).ok()?)?;
            let node = known.leader?;
            (node, known.epoch, state.nodes.get(&node)?.clone())
        };
        let Way { channel, waits } = self.way(&address);
        Some(LeaderAt { node, epoch, channel, waits })
    }

    /// Takes over what a server said about a partition's leader in passing. `leader` 0 and `epoch` -1 say nothing.
    pub(crate) fn hint(
        &self,
        topic: &TopicName,
        id: TopicId,
        partition: PartitionId,
        leader: u32,
        epoch: i32,
    ) {
        if leader == 0 || epoch < 0 {
            return;
        }
        let mut state = self.state();
        let Some(view) = state.topics.get_mut(topic).filter(|view| view.id == id) else { return };
        let Ok(at) = usize::try_from(partition.0) else { return };
        if let Some(known) = Arc::make_mut(view).partitions.get_mut(at) {
            if self.env.perturb(Point::HintIgnored) {
                return;
            }
            self.env.reached(Mark::LeaderHintHeard);
            known.learn(Known { leader: Some(NodeId(leader)), epoch: LeaderEpoch(epoch) });
        }
    }

    /// Whom to ask, in this order: who answered last, those that we were given, those that we heard of; and then those
    /// that have just failed to answer.
    pub(crate) fn servers(&self) -> Vec<String> {
        let now = self.env.now();
        let state = self.state();
        let mut seen = BTreeSet::new();
        let all = state.preferred.iter().chain(&self.servers).chain(state.nodes.values());
        let mut all: Vec<String> = all.filter(|address| seen.insert(address.as_str())).cloned().collect();
        if state.preferred.is_none() && !all.is_empty() {
            let first = state.rotation % all.len();
            all.rotate_left(first);
        }
        all.sort_by_key(|address| {
            state.silent.get(address).is_some_and(|silence| now.since(silence.at) < AVOIDED)
        });
        all
    }

    /// The next lookup begins with another server: the one that answered last may not know better.
    pub(crate) fn ask_elsewhere(&self) {
        let mut state = self.state();
        state.preferred = None;
        state.rotation = state.rotation.wrapping_add(1);
    }

    /// Sends one call to one server.
    ///
    /// # Errors
    /// What the channel says; [`CallError::Lost`] when `timeout` passes first.
    pub(crate) async fn ask(&self, address: &str, call: Call, timeout: Duration) -> Result<Reply, CallError> {
        if self.env.perturb(Point::ConnectionForgotten) {
            self.state().channels.remove(address);
        }
        let answer = self.way(address).channel.call(call);
        let answer = self.env.timeout(timeout, answer).await.unwrap_or_else(|_elapsed| {
            Err(CallError::Lost { address: address.to_owned(), reason: no_answer_within(timeout) })
        });
        let at = self.env.now();
        let mut state = self.state();
        match answer {
            Ok(reply) => {
                state.preferred = Some(address.to_owned());
                state.silent.remove(address);
                Ok(reply)
            }
            Err(error) => {
                if state.preferred.as_deref() == Some(address) {
                    state.preferred = None;
                }
                match (error, state.silent.get(address)) {
                    // In a moment that was too short to answer, the last word is the better one.
                    (CallError::Lost { address, .. }, Some(known)) if timeout < WORD_TIME_MIN => {
                        Err(CallError::Lost { address, reason: known.reason.clone() })
                    }
                    (error, _) => {
                        let reason = reason(error.clone());
                        state.silent.insert(address.to_owned(), Silence { at, reason, hangs: false });
                        Err(error)
                    }
                }
            }
        }
    }

    /// A server that was asked has not answered yet: others are asked first for a while.
    fn hangs(&self, address: &str) {
        let at = self.env.now();
        let mut state = self.state();
        if state.preferred.as_deref() == Some(address) {
            state.preferred = None;
        }
        let new = || Silence { at, reason: no_answer_within(HEDGE), hangs: true };
        state.silent.entry(address.to_owned()).or_insert_with(new).at = at;
    }

    /// Asks the servers in turn: see [`Round::next`]. `side_by_side`: the next one too while one is silent.
    pub(crate) fn round(&self, side_by_side: bool) -> Round<'_> {
        Round {
            leaders: self,
            left: self.servers().into(),
            asked: FuturesUnordered::new(),
            newest: None,
            side_by_side,
        }
    }

    /// Sees to it that the first to be asked next is a server that answers: one that has something to say, if there is
    /// one. Whether any answers.
    pub(crate) async fn find_server(&self) -> bool {
        let request = v1::MetadataRequest { all: false, topics: Vec::new(), auto_create: false };
        let ask = || Some((Call::Metadata(request.clone()), self.config.metadata_timeout));
        let mut round = self.round(true);
        let mut answered = false;
        while let Some((_, answer)) = round.next(ask).await {
            answered |= answer.is_ok();
            if metadata(answer).is_ok() {
                break;
            }
        }
        answered
    }

    /// Asks a partition's leader. While it is silent, looks now and then whether another node leads by now: then its
    /// answer is not worth waiting for.
    ///
    /// # Errors
    /// See [`Leaders::ask`].
    pub(crate) async fn ask_leader(
        &self,
        topic: &TopicName,
        id: TopicId,
        partition: PartitionId,
        leader: &LeaderAt,
        call: Call,
        timeout: Duration,
    ) -> Result<Reply, CallError> {
        let address = leader.channel.address();
        let mut answer = Box::pin(self.ask(address, call, timeout));
        loop {
            let look = async {
                self.env.sleep(SLOW).await;
                self.hangs(address);
                self.ask_elsewhere();
                let _seen_in_the_cache = self.refresh(topic).await.is_ok();
            };
            match select(answer, Box::pin(look)).await {
                Either::Left((answer, _)) => return answer,
                Either::Right(((), unanswered)) => answer = unanswered,
            }
            let now = self.leader(topic, id, partition);
            if now.is_some_and(|now| now.epoch > leader.epoch) {
                let reason = "another node leads by now".to_owned();
                return Err(CallError::Lost { address: address.to_owned(), reason });
            }
        }
    }

    /// Every server, with why it did not answer when it was asked last; `None` while one of them has done so, or may
    /// still do so, or was not asked yet.
    pub(crate) fn no_server(&self) -> Option<NoServer> {
        let servers = self.servers();
        let state = self.state();
        let tried = servers.into_iter().map(|address| {
            let reason = state.silent.get(&address).filter(|silence| !silence.hangs)?.reason.clone();
            Some(Tried { address, reason })
        });
        Some(NoServer { tried: tried.collect::<Option<_>>()? })
    }

    /// Every server, with what it said last, for those whose time is up before a lookup has ended.
    pub(crate) fn silent(&self) -> NoServer {
        let servers = self.servers();
        let state = self.state();
        let reason = |address: &String| state.silent.get(address).map(|silence| silence.reason.clone());
        let tried = servers.into_iter().map(|address| {
            let reason = reason(&address).unwrap_or_else(|| "no answer yet".to_owned());
            Tried { address, reason }
        });
        NoServer { tried: tried.collect() }
    }

    /// A producer id that nobody else ever had.
    ///
    /// # Errors
    /// Who was asked, and why each failed.
    pub(crate) async fn init_producer(&self) -> Result<(ProducerId, ProducerEpoch), NoServer> {
        let mut tried = Vec::new();
        let ask = || Some((Call::InitProducer(v1::InitProducerRequest {}), self.config.request_timeout));
        // An id that nobody hears of is no loss.
        let mut round = self.round(true);
        while let Some((address, answer)) = round.next(ask).await {
            let reason = match answer {
                Ok(Reply::InitProducer(reply)) if reply.error() == ErrorCode::None => {
                    let epoch = i16::try_from(reply.producer_epoch);
                    match (reply.producer_id, epoch) {
                        (0.., Ok(epoch @ 0..)) => {
                            return Ok((ProducerId(reply.producer_id), ProducerEpoch(epoch)));
                        }
                        _nonsense => "it gave no producer id".to_owned(),
                    }
                }
                Ok(Reply::InitProducer(reply)) => refusal(reply.error(), &reply.message),
                Ok(_) => "it answered another question".to_owned(),
                Err(error) => reason(error),
            };
            tried.push(Tried { address, reason });
        }
        Err(NoServer { tried })
    }
}

/// The answer of one server.
type Answered = (String, Result<Reply, CallError>);

/// The servers, asked in turn.
pub(crate) struct Round<'a> {
    leaders: &'a Leaders,
    /// Those that were not asked yet.
    left: VecDeque<String>,
    asked: FuturesUnordered<BoxFuture<'a, Answered>>,
    /// Who was asked last.
    newest: Option<String>,
    side_by_side: bool,
}

impl Round<'_> {
    /// Asks the next server, and returns the next answer: its own, or that of one asked earlier. While there is none,
    /// asks further ones every now and then, if this round may. `None`: all have answered. `ask` says what to ask, and
    /// how long to wait for the answer; nothing, once nobody more is to be asked.
    pub(crate) async fn next(&mut self, ask: impl Fn() -> Option<(Call, Duration)>) -> Option<Answered> {
        self.ask_next(&ask);
        while self.side_by_side && !self.left.is_empty() {
            match select(self.asked.next(), self.leaders.env.sleep(HEDGE)).await {
                Either::Left((answer, _)) => return answer,
                Either::Right(_) => {
                    if let Some(newest) = &self.newest {
                        self.leaders.hangs(newest);
                    }
                    self.ask_next(&ask);
                }
            }
        }
        self.asked.next().await
    }

    fn ask_next(&mut self, ask: &impl Fn() -> Option<(Call, Duration)>) {
        let Some(address) = self.left.pop_front() else { return };
        let Some((call, timeout)) = ask() else { return self.left.clear() };
        self.newest = Some(address.clone());
        let leaders = self.leaders;
        self.asked.push(Box::pin(async move {
            let answer = leaders.ask(&address, call, timeout).await;
            (address, answer)
        }));
    }
}

fn metadata(reply: Result<Reply, CallError>) -> Result<v1::MetadataResponse, String> {
    match reply {
        Ok(Reply::Metadata(response)) if response.error() == ErrorCode::None => Ok(response),
        Ok(Reply::Metadata(response)) => Err(refusal(response.error(), &response.message)),
        Ok(_) => Err("it answered another question".to_owned()),
        Err(error) => Err(reason(error)),
    }
}

/// What a server said, or its code when it said nothing.
pub(crate) fn refusal(code: ErrorCode, message: &str) -> String {
    if message.is_empty() { code.as_str_name().to_owned() } else { message.to_owned() }
}

/// A partition that nobody leads as far as was heard.
pub(crate) fn no_leader(topic: &TopicName, partition: PartitionId) -> String {
    format!("partition {partition} of {topic} has no leader: see whether a majority of its nodes runs")
}

/// The leader of a partition gives no answer, and no other one is known.
pub(crate) fn leader_lost(error: &CallError) -> String {
    format!("{error}; no other leader is known of: see whether a majority of nodes runs")
}

fn no_answer_within(time: Duration) -> String {
    if time < WORD_TIME_MIN {
        "no time was left to hear it".to_owned()
    } else {
        format!("no answer within {} ms", time.as_millis())
    }
}

/// Why there was no answer, without the address.
pub(crate) fn reason(error: CallError) -> String {
    match error {
        CallError::Unreachable { reason, .. } | CallError::Lost { reason, .. } => reason,
    }
}
