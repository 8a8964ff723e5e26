//! A caller's hold on one connection: made at the first call, made again after a loss, many calls in flight.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use quorate_node::env::transport::LinkEvent;
use quorate_node::env::{Task, Tasks};
use tokio::sync::{mpsc, oneshot};

use super::clock;
use super::network::{Connection, Failure, Network, Request, Response};
use super::tasks::Life;
use crate::trace::Event;

/// Pause after a first failure to connect; doubled after each further one.
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
/// Longest pause between attempts.
const BACK_OFF_MAX: Duration = Duration::from_millis(500);

/// What is said over a connection.
pub(super) trait Protocol: Send + Sync + 'static {
    /// What a caller asks.
    type Ask: Send + 'static;
    /// What it gets.
    type Answer: Send + 'static;

    /// The frames for calls made close together, each with its number.
    fn requests(&self, asks: Vec<(u64, Self::Ask)>) -> Vec<Request>;

    /// The answers in a frame, each with the number of its call.
    fn answers(&self, response: Response) -> Vec<(u64, Self::Answer)>;

    /// What became of the connection.
    fn watch(&self, event: LinkEvent);
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// Surely not sent: nobody listens.
    Refused,
    /// Surely not sent: nothing is heard.
    Unreachable,
    /// Perhaps done.
    Lost,
}

type Answered<P> = Result<<P as Protocol>::Answer, Unanswered>;
type Waiting<P> = oneshot::Sender<Answered<P>>;

struct Pending<P: Protocol> {
    ask: P::Ask,
    answer: Waiting<P>,
}

/// One connection, as its caller sees it.
pub(super) struct Dialer<P: Protocol> {
    queue: mpsc::UnboundedSender<Pending<P>>,
    _task: Task,
}

impl<P: Protocol> Dialer<P> {
    /// Calls `address` from the machine of `life`. A connection over which nothing passes for `keep_alive` is given up.
    pub(super) fn new(
        network: &Network,
        life: &Life,
        address: &str,
        keep_alive: Option<Duration>,
        protocol: P,
    ) -> Self {
        let (queue, asks) = mpsc::unbounded_channel();
        let runner = Runner {
            network: network.clone(),
            life: life.clone(),
            address: address.to_owned(),
            keep_alive,
            protocol: Arc::new(protocol),
            asks,
            sent: BTreeMap::new(),
            next: AtomicU64::new(1),
        };
        Self { queue, _task: life.spawn("dialer", Box::pin(runner.run())) }
    }

    /// Asks. Asked in the order of the calls of this function.
    pub(super) fn call(&self, ask: P::Ask) -> BoxFuture<'static, Answered<P>> {
        let (answer, answered) = oneshot::channel();
        // If the runner is gone, so is this life.
        drop(self.queue.send(Pending { ask, answer }));
        Box::pin(async move { answered.await.unwrap_or(Err(Unanswered::Lost)) })
    }
}

struct Runner<P: Protocol> {
    network: Network,
    life: Life,
    address: String,
    keep_alive: Option<Duration>,
    protocol: Arc<P>,
    asks: mpsc::UnboundedReceiver<Pending<P>>,
    sent: BTreeMap<u64, Waiting<P>>,
    next: AtomicU64,
}

impl<P: Protocol> Runner<P> {
    async fn run(mut self) {
        let mut back_off = BACK_OFF_MIN;
        loop {
            let Some(first) = self.asks.recv().await else { return };
            let mut waiting = vec![first];
            // After a loss at once again, as the real one: a refusal then proves the peer's death.
            let failure = loop {
                match self.network.connect(self.life.host(), &self.address).await {
                    Ok(mut connection) => {
                        back_off = BACK_OFF_MIN;
                        self.note(connection.to, LinkEvent::Up);
                        self.send(&mut connection, std::mem::take(&mut waiting));
                        let to = connection.to;
                        if self.talk(connection).await.is_none() {
                            return;
                        }
                        self.note(to, LinkEvent::Reset);
                        for answer in std::mem::take(&mut self.sent).into_values() {
                            drop(answer.send(Err(Unanswered::Lost)));
                        }
                    }
                    Err(failure) => break failure,
                }
            };
            let said = match failure {
                Failure::Refused => {
                    self.protocol.watch(LinkEvent::Refused);
                    Unanswered::Refused
                }
                Failure::Unreachable => Unanswered::Unreachable,
            };
            while let Ok(pending) = self.asks.try_recv() {
                waiting.push(pending);
            }
            for pending in waiting {
                drop(pending.answer.send(Err(said)));
            }
            clock::sleep(back_off).await;
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    /// Talks until the connection is lost; `None` when nobody asks any more.
    async fn talk(&mut self, mut connection: Connection) -> Option<()> {
        let (from, to) = (self.life.host(), connection.to);
        let network = self.network.clone();
        let mut starved = std::pin::pin!(network.starved(from, to, connection.number, self.keep_alive));
        loop {
            tokio::select! {
                biased;
                response = connection.responses.next() => match response {
                    Some(response) => self.answered(response),
                    None => return Some(()),
                },
                ask = self.asks.recv() => self.send_all(&mut connection, ask?),
                () = &mut starved => return Some(()),
            }
        }
    }

    fn answered(&mut self, response: Response) {
        for (number, answer) in self.protocol.answers(response) {
            if let Some(waiting) = self.sent.remove(&number) {
                // Whoever asked may have given up.
                drop(waiting.send(Ok(answer)));
            }
        }
    }

    /// Sends a call and those that were made by now.
    fn send_all(&mut self, connection: &mut Connection, first: Pending<P>) {
        let mut asks = vec![first];
        while let Ok(more) = self.asks.try_recv() {
            asks.push(more);
        }
        self.send(connection, asks);
    }

    fn send(&mut self, connection: &mut Connection, asks: Vec<Pending<P>>) {
        // Calls that were abandoned before they were sent are not sent.
        let asks = asks.into_iter().filter(|pending| !pending.answer.is_closed());
        let numbered = asks.map(|Pending { ask, answer }| {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            self.sent.insert(number, answer);
            (number, ask)
        });
        let numbered = numbered.collect::<Vec<_>>();
        if !numbered.is_empty() {
            for request in self.protocol.requests(numbered) {
                connection.requests.send(request);
            }
        }
    }

    fn note(&self, to: super::tasks::Host, event: LinkEvent) {
        self.network.trace().note(&Event::Link { from: self.life.host(), to, event });
        self.protocol.watch(event);
    }
}
