//! Topics looked up: one lookup at a time, whose result is for all who wait for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use quorate_proto::ErrorCode;
use quorate_proto::call::Call;
use quorate_proto::env::Point;
use quorate_proto::ids::{LeaderEpoch, NodeId, PartitionId, TopicId, TopicName};
use quorate_proto::v1;
use tracing::debug;

use super::{JUST_NOW, Known, Leaders, LookupError, TopicView, metadata, refusal};
use crate::error::{NoServer, Tried};

/// Topics that all servers denied, of which it is remembered who led them. Of one more the first by name is forgotten,
/// and may be read from an old leader again if a server that lags behind knows no better.
const DENIED_MAX: usize = 1_000;

/// Topics that are asked for in one request: servers refuse one that names more than 10,000.
const NAMES_MAX: usize = 5_000;

impl Leaders {
    /// Asks about a topic for the first time.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub(crate) async fn resolve(&self, topic: &TopicName) -> Result<Arc<TopicView>, LookupError> {
        match self.known(topic) {
            Some(view) => Ok(view),
            None => self.refresh(topic).await,
        }
    }

    /// Asks about a topic for the first time, and has it created if it is missing. Whether it was: as far as can be
    /// told, and perhaps by somebody else at the same time.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub(crate) async fn resolve_or_create(
        &self,
        topic: &TopicName,
    ) -> Result<(Arc<TopicView>, bool), LookupError> {
        if let Some(view) = self.known(topic) {
            return Ok((view, false));
        }
        let only = BTreeSet::from([topic.clone()]);
        let looked = {
            let _one_at_a_time = self.lookup.lock().await;
            if let Some(view) = self.known(topic) {
                return Ok((view, false));
            }
            // Most topics are there: a lookup can go to several servers at once, and finds one that answers.
            self.look_up(&only, false).await
        };
        let was_missing = match self.found(topic, looked) {
            Err(LookupError::UnknownTopic) => true,
            // One that cannot say does not keep the others from creating it.
            Err(LookupError::NotNow(_)) => false,
            found => return Ok((found?, false)),
        };
        let _one_at_a_time = self.creation.lock().await;
        if let Some(view) = self.known(topic) {
            return Ok((view, was_missing));
        }
        let created = self.look_up(&only, true).await;
        Ok((self.found(topic, created)?, was_missing))
    }

    /// Asks again about a topic, and about all others that are known. Whoever comes while a lookup is under way
    /// waits for that one's result.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub(crate) async fn refresh(&self, topic: &TopicName) -> Result<Arc<TopicView>, LookupError> {
        let _wanted = Wanted::new(self, topic);
        let before = self.state().lookups;
        let _one_at_a_time = self.lookup.lock().await;
        let (joined, topics) = {
            let state = self.state();
            // The lookup that we waited for knew what was wanted when it began: before us, perhaps.
            let told = state.topics.contains_key(topic)
                || state.failed.is_some()
                || state.failed_topics.contains_key(topic);
            let topics: BTreeSet<TopicName> =
                state.topics.keys().chain(state.wanted.keys()).cloned().collect();
            (state.lookups > before && told, topics)
        };
        if !joined {
            let began = self.env.now();
            let looked = self.look_up(&topics, false).await;
            let mut state = self.state();
            state.lookups += 1;
            match looked {
                Ok(failed) => {
                    state.looked_up = Some(began);
                    state.failed = None;
                    state.failed_topics = failed;
                }
                Err(no_server) => {
                    state.failed = Some(no_server);
                    state.failed_topics = BTreeMap::new();
                }
            }
        }
        self.result(topic)
    }

    /// Asks again about a topic, and another server than the last time, unless all that is known was asked for less than
    /// `age` ago.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub(crate) async fn refresh_older_than(
        &self,
        topic: &TopicName,
        age: Duration,
    ) -> Result<Arc<TopicView>, LookupError> {
        let now = self.env.now();
        let is_young = self.state().looked_up.is_some_and(|at| now.since(at) < age);
        match self.known(topic).filter(|_| is_young) {
            Some(view) => Ok(view),
            None => {
                // Who answered last may lag behind, and go on to do so: nothing that fails would tell us.
                self.ask_elsewhere();
                self.refresh(topic).await
            }
        }
    }

    /// What is known of a topic, looked up again if it lacks this partition: topics grow.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub(crate) async fn resolve_with(
        &self,
        topic: &TopicName,
        partition: PartitionId,
    ) -> Result<Arc<TopicView>, LookupError> {
        let view = self.resolve(topic).await?;
        if view.has(partition) { Ok(view) } else { self.refresh_older_than(topic, JUST_NOW).await }
    }

    /// What came of a lookup of this topic alone, which is nothing for those who wait for one of all topics.
    fn found(
        &self,
        topic: &TopicName,
        looked: Result<BTreeMap<TopicName, LookupError>, NoServer>,
    ) -> Result<Arc<TopicView>, LookupError> {
        let mut failed = looked.map_err(LookupError::NoServer)?;
        match failed.remove(topic) {
            Some(error) => Err(error),
            None => self.known(topic).ok_or(LookupError::UnknownTopic),
        }
    }

    /// What came of the last lookup of all known topics, and others that were wanted.
    fn result(&self, topic: &TopicName) -> Result<Arc<TopicView>, LookupError> {
        let state = self.state();
        if let Some(failed) = &state.failed {
            return Err(LookupError::NoServer(failed.clone()));
        }
        if let Some(failed) = state.failed_topics.get(topic) {
            return Err(failed.clone());
        }
        state.topics.get(topic).cloned().ok_or(LookupError::UnknownTopic)
    }

    /// One lookup: asks servers until one knows all of `topics`; what none knows is unknown. Why each topic was not
    /// found that was not.
    async fn look_up(
        &self,
        topics: &BTreeSet<TopicName>,
        auto_create: bool,
    ) -> Result<BTreeMap<TopicName, LookupError>, NoServer> {
        if self.env.perturb(Point::LookUpElsewhere) {
            self.ask_elsewhere();
        }
        let topics: Vec<TopicName> = topics.iter().cloned().collect();
        let mut failed = BTreeMap::new();
        for some in topics.chunks(NAMES_MAX) {
            failed.extend(self.look_up_some(some, auto_create).await?);
        }
        Ok(failed)
    }

    /// [`Leaders::look_up`] of as many as one request may name.
    async fn look_up_some(
        &self,
        topics: &[TopicName],
        auto_create: bool,
    ) -> Result<BTreeMap<TopicName, LookupError>, NoServer> {
        let seen: BTreeMap<TopicName, Arc<TopicView>> = {
            let state = self.state();
            let view = |topic: &TopicName| Some((topic.clone(), Arc::clone(state.topics.get(topic)?)));
            topics.iter().filter_map(view).collect()
        };
        let mut tried = Vec::new();
        let mut failed: BTreeMap<TopicName, LookupError> = BTreeMap::new();
        let mut missing: Vec<TopicName> = topics.to_vec();
        let mut answered = false;
        // To create a topic takes the cluster longer than to look one up.
        let timeout = if auto_create { self.config.request_timeout } else { self.config.metadata_timeout };
        // A server that still waits to create it might do so after somebody has deleted it again.
        let mut round = self.round(!auto_create);
        loop {
            let ask = || {
                let names = missing.iter().map(TopicName::to_string).collect();
                Some((
                    Call::Metadata(v1::MetadataRequest { all: false, topics: names, auto_create }),
                    timeout,
                ))
            };
            let Some((address, reply)) = round.next(ask).await else { break };
            match metadata(reply) {
                Ok(response) => {
                    answered = true;
                    missing = self.learn(&missing, response, &mut failed);
                    if missing.is_empty() {
                        break;
                    }
                }
                Err(reason) => {
                    debug!(address, reason, "a server gave no metadata");
                    tried.push(Tried { address, reason });
                }
            }
        }
        if !answered {
            return Err(NoServer { tried });
        }
        let mut state = self.state();
        for topic in &missing {
            // What was learned of it meanwhile, from a server that was asked later, is newer than that nobody knew it.
            let is_as_seen =
                |view: &Arc<TopicView>| seen.get(topic).is_some_and(|seen| Arc::ptr_eq(seen, view));
            if matches!(failed.get(topic), Some(LookupError::UnknownTopic))
                && state.topics.get(topic).is_some_and(is_as_seen)
                && let Some(view) = state.topics.remove(topic)
            {
                state.denied.insert(topic.clone(), view);
                if state.denied.len() > DENIED_MAX {
                    state.denied.pop_first();
                }
            }
        }
        Ok(failed)
    }

    /// Takes over an answer and returns the topics for which another server should be asked.
    pub(super) fn learn(
        &self,
        asked: &[TopicName],
        response: v1::MetadataResponse,
        failed: &mut BTreeMap<TopicName, LookupError>,
    ) -> Vec<TopicName> {
        let mut state = self.state();
        if !response.nodes.is_empty() {
            let heard = response.nodes.into_iter().map(|node| (NodeId(node.id), node.grpc)).collect();
            let mut unsaid = std::mem::replace(&mut state.nodes, heard);
            unsaid.retain(|node, _| !state.nodes.contains_key(node));
            if !unsaid.is_empty() {
                // A server that lags behind has not heard of them yet. Who leads as far as we know stays within reach.
                let known = state.topics.values().flat_map(|view| &view.partitions);
                let leaders: BTreeSet<NodeId> = known.filter_map(|known| known.leader).collect();
                state.nodes.extend(unsaid.into_iter().filter(|(node, _)| leaders.contains(node)));
            }
            let known: BTreeSet<String> = self.servers.iter().chain(state.nodes.values()).cloned().collect();
            state.channels.retain(|address, _| known.contains(address));
        }
        let mut answers: BTreeMap<String, v1::TopicMetadata> =
            response.topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect();
        let mut missing = Vec::new();
        for name in asked {
            let result = match answers.remove(name.as_str()) {
                None => Err(LookupError::UnknownTopic),
                Some(answer) => view(&answer),
            };
            match result {
                Ok(mut view) => {
                    let denied = state.denied.remove(name);
                    let old = state.topics.get(name).or(denied.as_ref());
                    if let Some(old) = old.filter(|old| old.id == view.id) {
                        for (new, old) in view.partitions.iter_mut().zip(&old.partitions) {
                            let heard = std::mem::replace(new, *old);
                            new.learn(heard);
                        }
                        // A topic never loses a partition: this server has not heard yet that some were added.
                        let heard = view.partitions.len().min(old.partitions.len());
                        view.partitions.extend_from_slice(&old.partitions[heard..]);
                    }
                    failed.remove(name);
                    state.topics.insert(name.clone(), Arc::new(view));
                }
                Err(error) => {
                    let said = match failed.remove(name) {
                        Some(before) => LookupError::weightier(before, error),
                        None => error,
                    };
                    failed.insert(name.clone(), said);
                    missing.push(name.clone());
                }
            }
        }
        missing
    }
}

/// Keeps a topic among those that every lookup asks for, as long as somebody waits for it.
struct Wanted<'a> {
    leaders: &'a Leaders,
    topic: TopicName,
}

impl<'a> Wanted<'a> {
    fn new(leaders: &'a Leaders, topic: &TopicName) -> Self {
        *leaders.state().wanted.entry(topic.clone()).or_default() += 1;
        Self { leaders, topic: topic.clone() }
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        let mut state = self.leaders.state();
        if let Some(count) = state.wanted.get_mut(&self.topic) {
            *count -= 1;
            if *count == 0 {
                state.wanted.remove(&self.topic);
            }
        }
    }
}

fn view(answer: &v1::TopicMetadata) -> Result<TopicView, LookupError> {
    let code = answer.error();
    if code != ErrorCode::None {
        return Err(if code == ErrorCode::UnknownTopic || code == ErrorCode::UnknownTopicId {
            LookupError::UnknownTopic
        } else if code.is_retriable() {
            LookupError::NotNow(refusal(code, &answer.message))
        } else {
            LookupError::Refused { code, message: refusal(code, &answer.message) }
        });
    }
    let nonsense = || LookupError::NotNow("a server described the topic wrongly".to_owned());
    let id = TopicId::from_wire(&answer.id).ok_or_else(nonsense)?;
    let mut partitions: Vec<_> = answer.partitions.iter().collect();
    partitions.sort_by_key(|partition| partition.partition);
    let dense = (0_i32..).zip(&partitions).all(|(at, partition)| partition.partition == at);
    if partitions.is_empty() || !dense {
        return Err(nonsense());
    }
    let known = |partition: &&v1::PartitionMetadata| Known {
        leader: (partition.leader != 0).then_some(NodeId(partition.leader)),
        epoch: LeaderEpoch(partition.leader_epoch),
    };
    let limit = answer.configs.iter().find(|entry| entry.key == "max.message.bytes");
    Ok(TopicView {
        id,
        partitions: partitions.iter().map(known).collect(),
        message_bytes_max: limit.and_then(|entry| entry.value.parse().ok()),
    })
}
