//! A client's channels to the nodes, and the nodes' listeners for them.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quorate_node::env::Task;
use quorate_node::env::transport::LinkEvent;
use quorate_proto::call::{Call, CallError, Channel, Connect, Reply, Serve};

use super::dial::{Dialer, Protocol, Unanswered};
use super::network::{Network, Request, Response, Service};
use super::tasks::Life;

/// A silent connection is given up after this long.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Listens for clients at `address` until the task is dropped.
///
/// # Errors
/// Somebody listens there already.
pub fn listen(network: &Network, life: &Life, address: &str, serve: Arc<dyn Serve>) -> io::Result<Task> {
    network.listen(life, address, Arc::new(Listener(serve)))
}

/// Makes the channels of one client.
pub struct SimConnect {
    network: Network,
    life: Life,
}

impl SimConnect {
    /// On `network`, from the machine of `life`.
    pub fn new(network: Network, life: Life) -> Self {
        network.add_client(&life);
        Self { network, life }
    }
}

impl Connect for SimConnect {
    fn connect(&self, address: &str) -> Arc<dyn Channel> {
        let dialer = Dialer::new(&self.network, &self.life, address, Some(KEEP_ALIVE), Client);
        Arc::new(SimChannel { address: address.to_owned(), dialer })
    }
}

struct SimChannel {
    address: String,
    dialer: Dialer<Client>,
}

impl Channel for SimChannel {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Reply, CallError>> {
        let answer = self.dialer.call(call);
        let address = self.address.clone();
        Box::pin(async move {
            answer.await.map_err(|unanswered| match unanswered {
                Unanswered::Refused => {
                    CallError::Unreachable { address, reason: "connection refused".to_owned() }
                }
                Unanswered::Unreachable => CallError::Unreachable { address, reason: "no answer".to_owned() },
                Unanswered::Lost => CallError::Lost { address, reason: "connection reset".to_owned() },
            })
        })
    }

    fn address(&self) -> &str {
        &self.address
    }
}

struct Client;

impl Protocol for Client {
    type Ask = Call;
    type Answer = Reply;

    fn requests(&self, asks: Vec<(u64, Call)>) -> Vec<Request> {
        asks.into_iter().map(|(number, call)| Request::Call(number, call)).collect()
    }

    fn answers(&self, response: Response) -> Vec<(u64, Reply)> {
        match response {
            Response::Reply(number, reply) => vec![(number, reply)],
            Response::Peer(_) => panic!("a listener for peers answered a client"),
        }
    }

    fn watch(&self, _event: LinkEvent) {}
}

struct Listener(Arc<dyn Serve>);

impl Service for Listener {
    fn accept(&self, request: Request) -> Vec<BoxFuture<'static, Response>> {
        match request {
            Request::Call(number, call) => {
                vec![self.0.serve(call).map(move |reply| Response::Reply(number, reply)).boxed()]
            }
            Request::Peer(_) => panic!("a peer called a listener for clients"),
        }
    }

    fn takes_peers(&self) -> bool {
        false
    }
}
