//! The client: what producers, consumers and admins of one program share.

use std::sync::Arc;
use std::time::Duration;

use quorate_proto::call::Connect;
use quorate_proto::env::Env;

use crate::admin::Admin;
use crate::channel::Grpc;
use crate::consumer::{Consumer, ConsumerConfig};
use crate::error::NoServer;
use crate::leaders::Leaders;
use crate::producer::{Producer, ProducerConfig};

/// What times are held within: without a pause a try that fails would be made again at once, for ever; and beyond a day
/// nobody waits.
pub(crate) const TIME_MIN: Duration = Duration::from_millis(1);
pub(crate) const TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Knobs of all that a client does. Times below a millisecond are taken as that, those above a day as a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// How long a server may take for one answer. Too small: slow answers are asked for again, which is harmless and
    /// useless. Too large: a server that hangs is noticed late.
    pub request_timeout: Duration,
    /// How long a lookup of metadata waits for one server. The next one is asked after half a second already, beside it.
    pub metadata_timeout: Duration,
    /// First pause before another try; it doubles from try to try, with some chance in it.
    pub backoff_min: Duration,
    /// Longest pause before another try.
    pub backoff_max: Duration,
    /// How long [`Admin`]'s requests and a consumer's lookups may take in all.
    pub admin_timeout: Duration,
    /// How old what is known of topics may grow before producers, and consumers of whole topics, look it up again.
    /// Partitions that were added are found within this time, and about a second. At least 100 ms. Too small: servers
    /// are asked for nothing; too large: records go to the partitions of yesterday only. Kafka's
    /// `metadata.max.age.ms`.
    pub metadata_age_max: Duration,
}

impl ClientConfig {
    /// The same, with all times held within what can be waited for.
    fn clamped(self) -> Self {
        let clamp = |time: Duration| time.clamp(TIME_MIN, TIME_MAX);
        Self {
            request_timeout: clamp(self.request_timeout),
            metadata_timeout: clamp(self.metadata_timeout),
            backoff_min: clamp(self.backoff_min),
            backoff_max: clamp(self.backoff_max.max(self.backoff_min)),
            admin_timeout: clamp(self.admin_timeout),
            metadata_age_max: clamp(self.metadata_age_max),
        }
    }
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            request_timeout: Duration::from_secs(5),
            metadata_timeout: Duration::from_secs(1),
            backoff_min: Duration::from_millis(10),
            backoff_max: Duration::from_millis(250),
            admin_timeout: Duration::from_secs(10),
            metadata_age_max: Duration::from_secs(10),
        }
    }
}

/// The way to a cluster. Cheap to clone; its connections and what it knows of leaders are shared.
#[derive(Clone, Debug)]
pub struct Client {
    env: Env,
    leaders: Arc<Leaders>,
}

impl Client {
    /// A client that lives in `env` and reaches servers over `connect`. `servers` (`host:port`) are asked first, one
    /// after the other; the rest of the cluster is learned from them. Connects to nothing yet.
    pub fn new(env: Env, connect: Arc<dyn Connect>, servers: Vec<String>, config: ClientConfig) -> Self {
        let leaders = Arc::new(Leaders::new(env.clone(), connect, servers, config.clamped()));
        Self { env, leaders }
    }

    /// A client over gRPC, in the real environment. Its tasks run on the tokio runtime that it is used in.
    pub fn grpc<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Self {
        Self::grpc_with(servers, ClientConfig::default())
    }

    /// Like [`Client::grpc`], with knobs.
    pub fn grpc_with<S: Into<String>>(servers: impl IntoIterator<Item = S>, config: ClientConfig) -> Self {
        let env = quorate_proto::env::os();
        let connect = Arc::new(Grpc::new(env.clone()));
        Self::new(env, connect, servers.into_iter().map(Into::into).collect(), config)
    }

    /// A producer of its own, with a producer id, memory and tasks of its own.
    pub fn producer(&self, config: ProducerConfig) -> Producer {
        Producer::new(self.env.clone(), Arc::clone(&self.leaders), config)
    }

    /// A consumer of its own, with nothing assigned yet.
    pub fn consumer(&self, config: ConsumerConfig) -> Consumer {
        Consumer::new(self.env.clone(), Arc::clone(&self.leaders), config)
    }

    /// The way to create, list, describe, change and delete topics.
    pub fn admin(&self) -> Admin {
        Admin::new(self.env.clone(), Arc::clone(&self.leaders))
    }

    /// Why each server that is known of did not answer when it was asked last; `None` once one of them has, and while
    /// some may still do so or were not asked yet.
    pub fn no_server(&self) -> Option<NoServer> {
        self.leaders.no_server()
    }

    /// The environment that it lives in.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Its knobs, as they are in force.
    pub fn config(&self) -> &ClientConfig {
        self.leaders.config()
    }
}
