//! A node's transport: lanes to its peers, and its own listener, on the simulated network.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use quorate_node::env::transport::{Lane, LinkEvent, LinkWatch, PeerError, reply_frame};
use quorate_node::env::{PeerHandler, PeerLink, Task, Transport};
use quorate_proto::ids::NodeId;
use quorate_proto::v1::{PeerFrame, PeerReply, PeerRequest, Sender};

use super::dial::{Dialer, Protocol, Unanswered};
use super::network::{Network, Request, Response, Service};
use super::tasks::Life;

/// A silent connection is given up after this long, as the real one's keep-alive does. The bulk lane is more patient.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
const KEEP_ALIVE_OF_BULK: Duration = Duration::from_secs(7);

/// The transport of one life of a node.
pub struct SimTransport {
    network: Network,
    life: Life,
}

impl SimTransport {
    /// On `network`, from the machine of `life`.
    pub fn new(network: Network, life: Life) -> Self {
        Self { network, life }
    }
}

#[async_trait]
impl Transport for SimTransport {
    fn connect(
        &self,
        peer: NodeId,
        address: &str,
        lane: Lane,
        sender: Arc<dyn Fn() -> Sender + Send + Sync>,
        watch: LinkWatch,
    ) -> Arc<dyn PeerLink> {
        let keep_alive = match lane {
            Lane::Urgent => Some(KEEP_ALIVE),
            Lane::Bulk => Some(KEEP_ALIVE_OF_BULK),
        };
        let protocol = Peer { peer, sender, watch };
        let dialer = Dialer::new(&self.network, &self.life, address, keep_alive, protocol);
        Arc::new(SimLink { address: address.to_owned(), dialer })
    }

    async fn listen(&self, address: &str, handler: Arc<dyn PeerHandler>) -> io::Result<Task> {
        self.network.listen(&self.life, address, Arc::new(Listener(handler)))
    }
}

struct SimLink {
    address: String,
    dialer: Dialer<Peer>,
}

impl PeerLink for SimLink {
    fn call(&self, request: PeerRequest) -> BoxFuture<'static, Result<(Sender, PeerReply), PeerError>> {
        let answer = self.dialer.call(request);
        let address = self.address.clone();
        Box::pin(async move {
            answer.await.map_err(|unanswered| match unanswered {
                Unanswered::Refused => PeerError::Refused(address),
                Unanswered::Unreachable => PeerError::Unreachable(address),
                Unanswered::Lost => PeerError::Lost(address),
            })
        })
    }
}

struct Peer {
    peer: NodeId,
    sender: Arc<dyn Fn() -> Sender + Send + Sync>,
    watch: LinkWatch,
}

impl Protocol for Peer {
    type Ask = PeerRequest;
    type Answer = (Sender, PeerReply);

    fn requests(&self, asks: Vec<(u64, PeerRequest)>) -> Vec<Request> {
        let numbered = asks.into_iter().map(|(number, ask)| PeerRequest { correlation: number, ..ask });
        vec![Request::Peer(PeerFrame { sender: Some((self.sender)()), requests: numbered.collect() })]
    }

    fn answers(&self, response: Response) -> Vec<(u64, (Sender, PeerReply))> {
        match response {
            Response::Peer(frame) => {
                let sender = frame.sender.unwrap_or_default();
                frame.replies.into_iter().map(|reply| (reply.correlation, (sender.clone(), reply))).collect()
            }
            Response::Reply(..) => panic!("a listener for clients answered a peer"),
        }
    }

    fn watch(&self, event: LinkEvent) {
        (self.watch)(self.peer, event);
    }
}

struct Listener(Arc<dyn PeerHandler>);

impl Service for Listener {
    fn accept(&self, request: Request) -> Vec<BoxFuture<'static, Response>> {
        match request {
            Request::Peer(frame) => {
                let answers = self.0.handle(frame).into_iter().map(|answer| {
                    let handler = self.0.clone();
                    answer
                        .map(move |reply| Response::Peer(reply_frame(handler.as_ref(), vec![reply])))
                        .boxed()
                });
                answers.collect()
            }
            Request::Call(..) => panic!("a client called a listener for peers"),
        }
    }

    fn takes_peers(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::sync::Mutex;

    use quorate_proto::v1::{Command, CommandReply, peer_reply, peer_request};

    use super::*;
    use crate::dice::Dice;
    use crate::env::clock;
    use crate::env::network::Profile;
    use crate::env::tasks::Host;
    use crate::trace::Trace;

    /// Echoes commands, and keeps them in the order in which they came.
    #[derive(Default)]
    struct Echo(Mutex<Vec<Vec<u8>>>);

    impl PeerHandler for Echo {
        fn handle(&self, frame: PeerFrame) -> Vec<BoxFuture<'static, PeerReply>> {
            let replies = frame.requests.into_iter().map(|request| {
                let Some(peer_request::Body::Command(command)) = request.body else { panic!("a command") };
                self.0.lock().unwrap().push(command.command.to_vec());
                let body = peer_reply::Body::Command(CommandReply { answer: command.command });
                let reply =
                    PeerReply { correlation: request.correlation, body: Some(body), ..PeerReply::default() };
                std::future::ready(reply).boxed()
            });
            replies.collect()
        }

        fn sender(&self) -> Sender {
            Sender { node: 2, ..Sender::default() }
        }
    }

    struct Pair {
        network: Network,
        caller: Life,
        callee: Life,
        echo: Arc<Echo>,
        listener: Option<Task>,
        link: Arc<dyn PeerLink>,
        events: Arc<Mutex<Vec<LinkEvent>>>,
    }

    const ONE: Host = Host::Node(NodeId(1));
    const TWO: Host = Host::Node(NodeId(2));

    impl Pair {
        async fn new(seed: u64) -> Self {
            clock::begin();
            let network = Network::new(Profile::default(), Dice::new(seed), Trace::default());
            let life = |host| Life::new(host, |_, _, said| panic!("{said}"));
            let (caller, callee, echo) = (life(ONE), life(TWO), Arc::<Echo>::default());
            let listener = SimTransport::new(network.clone(), callee.clone());
            let listener = listener.listen("node2:7101", echo.clone()).await.unwrap();
            let events = Arc::<Mutex<Vec<LinkEvent>>>::default();
            let seen = events.clone();
            let link = SimTransport::new(network.clone(), caller.clone()).connect(
                NodeId(2),
                "node2:7101",
                Lane::Urgent,
                Arc::new(|| Sender { node: 1, ..Sender::default() }),
                Arc::new(move |_, event| seen.lock().unwrap().push(event)),
            );
            Self { network, caller, callee, echo, listener: Some(listener), link, events }
        }

        fn call(&self, number: u8) -> impl Future<Output = Result<u8, PeerError>> + use<> {
            let command = Command { command: vec![number].into(), timeout_ms: 0 };
            let body = Some(peer_request::Body::Command(command));
            let answer = self.link.call(PeerRequest { correlation: 0, body });
            async move {
                answer.await.map(|(sender, reply)| {
                    assert_eq!(sender.node, 2);
                    let Some(peer_reply::Body::Command(reply)) = reply.body else { panic!("a reply") };
                    reply.answer[0]
                })
            }
        }

        async fn crash_callee(&mut self, dark: bool) {
            self.network.set_dark(TWO, dark);
            self.callee.end();
            self.callee.gone().await;
            self.listener = None;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_arrive_in_order_and_answers_come_back() {
        let pair = Pair::new(1).await;
        let first = pair.call(0);
        assert_eq!(first.await, Ok(0));
        let calls = (1..20).map(|number| (number, pair.call(number))).collect::<Vec<_>>();
        for (number, call) in calls {
            assert_eq!(call.await, Ok(number));
        }
        assert_eq!(*pair.echo.0.lock().unwrap(), (0..20).map(|number| vec![number]).collect::<Vec<_>>());
        assert_eq!(*pair.events.lock().unwrap(), [LinkEvent::Up]);
        assert!(clock::now() > Duration::from_micros(100), "frames take time");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_process_resets_and_refuses_at_once() {
        let mut pair = Pair::new(2).await;
        assert_eq!(pair.call(0).await, Ok(0));
        let lost = pair.call(1);
        // Sent, but not there yet.
        clock::sleep(Duration::from_micros(10)).await;
        pair.crash_callee(false).await;
        let at = clock::now();
        assert_eq!(lost.await, Err(PeerError::Lost("node2:7101".into())));
        assert_eq!(pair.call(2).await, Err(PeerError::Refused("node2:7101".into())));
        assert!(clock::now() - at < Duration::from_millis(10));
        assert_eq!(*pair.events.lock().unwrap(), [LinkEvent::Up, LinkEvent::Reset, LinkEvent::Refused]);
        let _callee_starts_again = {
            let life = Life::new(TWO, |_, _, said| panic!("{said}"));
            SimTransport::new(pair.network.clone(), life)
                .listen("node2:7101", pair.echo.clone())
                .await
                .unwrap()
        };
        while pair.call(3).await.is_err() {}
        assert_eq!(pair.events.lock().unwrap().last(), Some(&LinkEvent::Up));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dark_machine_says_nothing() {
        let mut pair = Pair::new(3).await;
        assert_eq!(pair.call(0).await, Ok(0));
        pair.crash_callee(true).await;
        let at = clock::now();
        assert_eq!(pair.call(1).await, Err(PeerError::Lost("node2:7101".into())));
        assert!(clock::now() - at >= Duration::from_secs(2), "only silence told");
        assert_eq!(pair.call(2).await, Err(PeerError::Unreachable("node2:7101".into())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_link_holds_frames_back_until_it_is_mended() {
        let pair = Pair::new(4).await;
        assert_eq!(pair.call(0).await, Ok(0));
        // The answer's way is cut, so that the request is done and the answer held.
        pair.network.cut(TWO, ONE);
        let call = pair.call(1);
        clock::sleep(Duration::from_secs(1)).await;
        assert_eq!(pair.echo.0.lock().unwrap().len(), 2);
        pair.network.mend(TWO, ONE);
        assert_eq!(call.await, Ok(1));
        pair.network.cut(ONE, TWO);
        let call = pair.call(2);
        assert_eq!(call.await, Err(PeerError::Lost("node2:7101".into())), "given up by its keep-alive");
        pair.network.mend_all();
        while pair.call(3).await.is_err() {}
        let heard = pair.echo.0.lock().unwrap().clone();
        assert!(
            heard == [[0], [1], [3]] || heard == [[0], [1], [2], [3]] || heard == [[0], [1], [3], [2]],
            "{heard:?}"
        );
        pair.caller.end();
        pair.caller.gone().await;
    }
}
