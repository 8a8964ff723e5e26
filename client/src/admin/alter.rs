//! Changes of topics that are there: their settings, and how many partitions they have.

use std::collections::BTreeMap;

use bytes::Bytes;
use quorate_proto::ErrorCode;
use quorate_proto::call::{Call, Reply};
use quorate_proto::ids::{ChangeId, TopicName};
use quorate_proto::v1;

use super::{Admin, Said, listings, only};
use crate::error::AdminError;
use crate::retry::Backoff;

/// Changes of a topic's settings. All of them are made, or none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConfigChanges(Vec<v1::ConfigChange>);

impl ConfigChanges {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// This setting gets this value.
    #[must_use]
    pub fn set(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.push(v1::ConfigChange { key: key.into(), value: Some(value.into()) });
        self
    }

    /// This setting goes back to its default.
    #[must_use]
    pub fn reset(mut self, key: impl Into<String>) -> Self {
        self.0.push(v1::ConfigChange { key: key.into(), value: None });
        self
    }
}

impl Admin {
    /// All settings of a topic, the defaults among them, as the first node that answers knows them.
    ///
    /// # Errors
    /// `Refused`: there is none of that name. `NoServer` and `TimedOut`.
    pub async fn topic_config(&self, name: &str) -> Result<BTreeMap<String, String>, AdminError> {
        let name: TopicName = name.parse()?;
        let request = v1::MetadataRequest { all: false, topics: vec![name.to_string()], auto_create: false };
        let found = self.anywhere(Call::Metadata(request), true, |reply| only(reply, listings)).await?;
        Ok(found.configs)
    }

    /// Changes settings of a topic. On return the controller has them, for good, and each replica goes by them as soon
    /// as its node has heard. Gives all settings of the topic as they are then; nothing if the node that did it does
    /// not know. A lost answer is asked for again: that does nothing twice.
    ///
    /// # Errors
    /// `Refused` with the server's words: no such topic, an unknown setting, a value that is not possible. `NoServer`
    /// and `TimedOut`: not done. `PerhapsDone`: see what the topic is set to.
    pub async fn configure_topic(
        &self,
        name: &str,
        changes: ConfigChanges,
    ) -> Result<BTreeMap<String, String>, AdminError> {
        let name: TopicName = name.parse()?;
        let request = v1::ConfigureTopicRequest {
            name: name.to_string(),
            id: Bytes::new(),
            changes: changes.0,
            change: self.change(),
            timeout_ms: 0,
        };
        self.repeatedly(Call::ConfigureTopic(request), |reply| {
            let Reply::ConfigureTopic(reply) = reply else { return Said::Nonsense };
            let code = reply.error();
            if code == ErrorCode::None {
                Said::Done(reply.configs.into_iter().map(|entry| (entry.key, entry.value)).collect())
            } else {
                Said::Refused { code, message: reply.message }
            }
        })
        .await
    }

    /// Adds partitions to a topic: `total` is how many it has then, and more than it has now. Records with a key may go
    /// to other partitions from then on. A lost answer is asked for again: that does nothing twice.
    ///
    /// # Errors
    /// `Refused` with the server's words: no such topic, or it has as many already. `NoServer` and `TimedOut`: not
    /// done. `PerhapsDone`: see how many it has.
    pub async fn add_partitions(&self, name: &str, total: u32) -> Result<(), AdminError> {
        let name: TopicName = name.parse()?;
        let request = v1::AddPartitionsRequest {
            name: name.to_string(),
            id: Bytes::new(),
            partitions: i32::try_from(total).unwrap_or(i32::MAX),
            change: self.change(),
            timeout_ms: 0,
        };
        self.repeatedly(Call::AddPartitions(request), |reply| {
            let Reply::AddPartitions(reply) = reply else { return Said::Nonsense };
            let code = reply.error();
            if code == ErrorCode::None {
                Said::Done(())
            } else {
                Said::Refused { code, message: reply.message }
            }
        })
        .await
    }

    fn change(&self) -> Bytes {
        ChangeId::from_random(self.env.random_bytes()).to_wire()
    }

    /// Asks for what is done once however often it is asked for, as long as there is time.
    async fn repeatedly<T>(&self, call: Call, said: impl Fn(Reply) -> Said<T>) -> Result<T, AdminError> {
        let config = self.leaders.config();
        let deadline = self.env.now() + self.timeout();
        let mut backoff = Backoff::new(config.backoff_min, config.backoff_max);
        let mut perhaps: Option<String> = None;
        loop {
            let left = deadline.since(self.env.now());
            let asked = self.env.timeout(left, self.anywhere(call.clone(), false, &said)).await;
            let reason = match asked {
                Ok(Err(AdminError::PerhapsDone { reason })) => reason,
                // That nobody could be asked since does not take back what was asked before.
                Ok(Err(AdminError::NoServer(_) | AdminError::TimedOut { .. })) | Err(_)
                    if perhaps.is_some() =>
                {
                    return Err(AdminError::PerhapsDone { reason: perhaps.unwrap_or_default() });
                }
                Ok(done_or_not) => return done_or_not,
                Err(_elapsed) => "no answer came in time".to_owned(),
            };
            let pause = backoff.pause(&self.env);
            if self.env.now() + pause >= deadline {
                return Err(AdminError::PerhapsDone { reason });
            }
            perhaps = Some(reason);
            self.env.sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Cluster, Fault, soon};

    fn limit(bytes: &str) -> ConfigChanges {
        ConfigChanges::new().set("max.message.bytes", bytes)
    }

    #[tokio::test(start_paused = true)]
    async fn settings_are_changed_told_and_reset() {
        let cluster = Cluster::with_topic("t", 1);
        let admin = cluster.client(1).admin();
        let told = |bytes: &str| BTreeMap::from([("max.message.bytes".to_owned(), bytes.to_owned())]);
        assert_eq!(soon(admin.configure_topic("t", limit("5000"))).await, Ok(told("5000")));
        assert_eq!(soon(admin.topic_config("t")).await, Ok(told("5000")));
        let reset = ConfigChanges::new().reset("max.message.bytes");
        assert_eq!(soon(admin.configure_topic("t", reset)).await, Ok(BTreeMap::new()));
        let error = soon(admin.configure_topic("nope", limit("1"))).await.unwrap_err();
        assert!(matches!(error, AdminError::Refused { code: ErrorCode::UnknownTopic, .. }), "{error}");
        let error = soon(admin.topic_config("nope")).await.unwrap_err();
        assert!(matches!(error, AdminError::Refused { code: ErrorCode::UnknownTopic, .. }), "{error}");
        let error = soon(admin.configure_topic("a/b", limit("1"))).await.unwrap_err();
        assert!(matches!(error, AdminError::TopicName(_)), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_whose_answer_was_lost_is_asked_for_again_and_done_once() {
        let cluster = Cluster::with_topic("t", 1);
        let admin = cluster.client(1).admin();
        let lost = [Fault::LoseReply, Fault::LoseRequest, Fault::Refuse(ErrorCode::UnknownOutcome)];
        cluster.state().admin_faults.extend(lost.clone());
        soon(admin.add_partitions("t", 3)).await.unwrap();
        assert_eq!(cluster.state().topics["t"].1.len(), 3);
        cluster.state().admin_faults.extend(lost);
        soon(admin.configure_topic("t", limit("5000"))).await.unwrap();
        assert_eq!(cluster.state().changes.len(), 2, "each has an id of its own");
        // It is another change than the first one, and the topic has as many already.
        let error = soon(admin.add_partitions("t", 3)).await.unwrap_err();
        assert_eq!(error.to_string(), "topic t has 3 partitions already");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_perhaps_done_is_told_so_in_the_end() {
        let cluster = Cluster::with_topic("t", 1);
        let admin = cluster.client(1).admin();
        cluster.state().admin_faults.extend((0..10_000).map(|_| Fault::LoseRequest));
        let start = admin.env.now();
        let error = soon(admin.add_partitions("t", 3)).await.unwrap_err();
        assert!(matches!(error, AdminError::PerhapsDone { .. }), "{error}");
        let took = admin.env.now().since(start);
        assert!((8..=10).contains(&took.as_secs()), "{took:?}");
        // Asked once, and from then on nobody can be.
        cluster.state().admin_faults = [Fault::LoseReply, Fault::Unreachable].into();
        cluster.state().down.extend([2, 3]);
        let late = async {
            // Between the first try and the second.
            crate::testing::sleep(4).await;
            cluster.state().down.insert(1);
        };
        let asked = soon(futures_util::future::join(admin.add_partitions("t", 4), late));
        let (error, ()) = asked.await;
        assert!(matches!(error, Err(AdminError::PerhapsDone { .. })), "{error:?}");
        // Nobody was ever asked.
        let error = soon(admin.add_partitions("t", 5)).await.unwrap_err();
        assert!(matches!(error, AdminError::NoServer(_)), "{error}");
    }
}
