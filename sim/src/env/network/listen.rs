//! Ports: who listens where, and how a connection comes to stand.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use quorate_node::env::{Task, Tasks};
use tokio::sync::mpsc;

use super::{Connection, Failure, Inbound, Network, Outbound, Request, Response, Service, State, host_of};
use crate::env::clock;
use crate::env::tasks::{Host, Life};

/// How long a caller waits for a machine that says nothing.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub(super) struct Listener {
    number: u64,
    pub(super) host: Host,
    pub(super) takes_peers: bool,
    pub(super) incoming: mpsc::UnboundedSender<Incoming>,
}

/// The listener's end of a connection.
pub(super) struct Incoming {
    pub(super) requests: Inbound<Request>,
    pub(super) responses: Outbound<Response>,
}

impl Network {
    /// Listens at `address` on the machine of `life`, until the task ends.
    ///
    /// # Errors
    /// Somebody listens there already.
    pub(in crate::env) fn listen(
        &self,
        life: &Life,
        address: &str,
        service: Arc<dyn Service>,
    ) -> std::io::Result<Task> {
        let (incoming, mut arrivals) = mpsc::unbounded_channel::<Incoming>();
        let number = {
            let mut state = self.state();
            if state.listeners.contains_key(address) {
                let said = format!("port in use: another process listens on {address}");
                return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, said));
            }
            state.next_listener += 1;
            let number = state.next_listener;
            let (host, takes_peers) = (life.host(), service.takes_peers());
            state.listeners.insert(address.to_owned(), Listener { number, host, takes_peers, incoming });
            number
        };
        let place = Listening { network: self.clone(), address: address.to_owned(), number };
        let life_of_tasks = life.clone();
        Ok(life.spawn(
            "listener",
            Box::pin(async move {
                let _place = place;
                let mut connections = Vec::new();
                while let Some(arrival) = arrivals.recv().await {
                    let served = serve(arrival, service.clone());
                    connections.push(life_of_tasks.spawn("connection", Box::pin(served)));
                }
            }),
        ))
    }

    /// Connects `from` with whoever listens at `address`; takes as long as that takes.
    pub(in crate::env) async fn connect(&self, from: Host, address: &str) -> Result<Connection, Failure> {
        let to = host_of(address).ok_or(Failure::Unreachable)?;
        self.travel(from, to).await?;
        if self.state().is_silent(from, to) {
            clock::sleep(CONNECT_TIME_MAX).await;
            return Err(Failure::Unreachable);
        }
        let listener = self.state().listeners.get(address).cloned();
        let Some(listener) = listener else {
            self.travel(to, from).await?;
            return Err(Failure::Refused);
        };
        let (connection, incoming) = self.join(from, listener.host);
        let accepted = listener.incoming.send(incoming).is_ok();
        self.travel(to, from).await?;
        if accepted { Ok(connection) } else { Err(Failure::Refused) }
    }

    /// Ready when a small packet has gone from the one to the other. Over a narrow link it goes after what was sent
    /// before, and nobody waits for that any longer than for a machine that says nothing.
    async fn travel(&self, from: Host, to: Host) -> Result<(), Failure> {
        let takes = {
            let state = &mut *self.state();
            let State { links, dice, .. } = state;
            links.arrival(from, to, 0, dice).saturating_sub(clock::now())
        };
        clock::sleep(takes.min(CONNECT_TIME_MAX)).await;
        if takes > CONNECT_TIME_MAX { Err(Failure::Unreachable) } else { Ok(()) }
    }
}

/// Takes the address back when the listener ends.
struct Listening {
    network: Network,
    address: String,
    number: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut state = self.network.state();
        if state.listeners.get(&self.address).is_some_and(|listener| listener.number == self.number) {
            state.listeners.remove(&self.address);
        }
    }
}

/// Serves one connection until the caller closes it.
async fn serve(mut arrival: Incoming, service: Arc<dyn Service>) {
    let mut answers = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(answer) = answers.next(), if !answers.is_empty() => arrival.responses.send(answer),
            request = arrival.requests.next() => match request {
                Some(request) => answers.extend(service.accept(request)),
                None => return,
            },
        }
    }
}
