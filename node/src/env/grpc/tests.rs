//! What a transport promises, asked of the real one over loopback.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use quorate_proto::env::os;
use quorate_proto::v1::{Command, PeerReply, PeerRequest, peer_request};

use super::super::transport::{LinkEvent, PeerError};
use super::*;

/// Notes in which order requests came, and answers each with its correlation, or never.
#[derive(Default)]
struct Notes {
    seen: Mutex<Vec<u32>>,
    silent: AtomicBool,
}

impl PeerHandler for Notes {
    fn handle(&self, frame: PeerFrame) -> Vec<BoxFuture<'static, PeerReply>> {
        assert_eq!(frame.sender.map(|sender| sender.node), Some(1));
        let answer = |request: PeerRequest| -> BoxFuture<'static, PeerReply> {
            let Some(peer_request::Body::Command(command)) = request.body else {
                panic!("only commands are sent")
            };
            self.seen.lock().unwrap().push(command.timeout_ms);
            if self.silent.load(Ordering::SeqCst) {
                return Box::pin(std::future::pending());
            }
            Box::pin(std::future::ready(PeerReply {
                correlation: request.correlation,
                ..PeerReply::default()
            }))
        };
        frame.requests.into_iter().map(answer).collect()
    }

    fn sender(&self) -> Sender {
        Sender { node: 2, ..Sender::default() }
    }
}

fn request(number: u32, bytes: usize) -> PeerRequest {
    let command = Command { command: vec![7; bytes].into(), timeout_ms: number };
    PeerRequest { correlation: 0, body: Some(peer_request::Body::Command(command)) }
}

struct Pair {
    transport: GrpcTransport,
    notes: Arc<Notes>,
    address: String,
    link: Arc<dyn PeerLink>,
    events: Arc<Mutex<Vec<LinkEvent>>>,
}

/// A link to an address on which nobody listens yet.
async fn pair() -> Pair {
    let free = bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let transport = GrpcTransport::new(os());
    let events = Arc::new(Mutex::new(Vec::new()));
    let watched = events.clone();
    let watch: LinkWatch = Arc::new(move |peer, event| {
        assert_eq!(peer, NodeId(2));
        watched.lock().unwrap().push(event);
    });
    let sender = Arc::new(|| Sender { node: 1, ..Sender::default() });
    let link = transport.connect(NodeId(2), &address, Lane::Urgent, sender, watch);
    Pair { transport, notes: Arc::default(), address, link, events }
}

impl Pair {
    async fn listen(&self) -> Task {
        self.transport.listen(&self.address, self.notes.clone()).await.unwrap()
    }

    fn events(&self) -> Vec<LinkEvent> {
        let mut events = self.events.lock().unwrap().clone();
        events.dedup();
        events
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_arrive_in_the_order_of_the_calls() {
    let pair = pair().await;
    let _listening = pair.listen().await;
    // Some of them larger than a frame; futures are polled only after all calls were made.
    let calls: Vec<_> =
        (0..5_000).map(|at| pair.link.call(request(at, if at % 500 == 0 { 1 << 20 } else { 10 }))).collect();
    for answer in join_all(calls).await {
        assert_eq!(answer.unwrap().0.node, 2);
    }
    assert_eq!(*pair.notes.seen.lock().unwrap(), (0..5_000).collect::<Vec<_>>());
    assert_eq!(pair.events(), [LinkEvent::Up]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_says_refused_and_lost_and_comes_back() {
    let pair = pair().await;
    let refused = Err(PeerError::Refused(pair.address.clone()));
    assert_eq!(pair.link.call(request(1, 1)).await, refused);
    let listening = pair.listen().await;
    pair.link.call(request(2, 1)).await.unwrap();

    pair.notes.silent.store(true, Ordering::SeqCst);
    let unanswered = pair.link.call(request(3, 1));
    while pair.notes.seen.lock().unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    listening.stop().await;
    assert_eq!(unanswered.await, Err(PeerError::Lost(pair.address.clone())));
    // Without any call: the refusal that proves a death is looked for at once.
    while pair.events().last() != Some(&LinkEvent::Refused) {
        tokio::task::yield_now().await;
    }
    assert_eq!(pair.events(), [LinkEvent::Refused, LinkEvent::Up, LinkEvent::Reset, LinkEvent::Refused]);

    pair.notes.silent.store(false, Ordering::SeqCst);
    let _listening = pair.listen().await;
    pair.link.call(request(4, 1)).await.unwrap();
    assert_eq!(pair.events().last(), Some(&LinkEvent::Up));
}

/// Packets that are dropped without a word: nobody resets the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_lane_gives_up_a_connection_that_fell_silent() {
    let pair = pair().await;
    let _listening = pair.listen().await;
    let wire = bind("127.0.0.1:0").await.unwrap();
    let between = wire.local_addr().unwrap().to_string();
    let (silence, mut silent) = watch::channel(false);
    let address = pair.address.clone();
    let _carrying = os().spawn("wire", async move {
        let (mut near, _) = wire.accept().await.unwrap();
        let mut far = TcpStream::connect(address).await.unwrap();
        tokio::select! {
            biased;
            _ = silent.wait_for(|silent| *silent) => {}
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        }
        // Both sides stay open.
        std::future::pending().await
    });
    let sender = Arc::new(|| Sender { node: 1, ..Sender::default() });
    let link = pair.transport.connect(NodeId(2), &between, Lane::Bulk, sender, Arc::new(|_, _| {}));
    link.call(request(1, 1)).await.unwrap();
    silence.send_replace(true);
    let lost = os().timeout(Duration::from_secs(30), link.call(request(2, 1))).await;
    assert_eq!(lost, Ok(Err(PeerError::Lost(between))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_client_may_send_can_be_sent_on_to_peers() {
    let pair = pair().await;
    let _listening = pair.listen().await;
    let sender = Arc::new(|| Sender { node: 1, ..Sender::default() });
    let link = pair.transport.connect(NodeId(2), &pair.address, Lane::Bulk, sender, Arc::new(|_, _| {}));
    // A batch that is all of a client's message, with more around it than replication needs.
    let answer = link.call(request(1, MESSAGE_BYTES_MAX + 4_096)).await;
    assert_eq!(answer.unwrap().0.node, 2);
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = bind(&address).await.unwrap_err();
    assert_eq!(error.to_string(), format!("port in use: another process listens on {address}"));
}

#[tokio::test]
async fn where_no_connection_can_be_taken_the_next_try_is_a_while_later() {
    let full = || Err(io::Error::from_raw_os_error(24));
    let mut taken =
        Box::pin(paced(futures_util::stream::iter([full(), Ok(1), Err(io::ErrorKind::Other.into())])));
    let began = std::time::Instant::now();
    assert!(taken.next().now_or_never().is_none(), "it pauses");
    assert!(taken.next().await.is_some_and(|taken| taken.is_err_and(|error| is_out_of_files(&error))));
    assert!(began.elapsed() >= ACCEPT_GAP / 2);
    // Whatever else comes is given at once.
    assert!(matches!(taken.next().now_or_never(), Some(Some(Ok(1)))));
    assert!(matches!(taken.next().now_or_never(), Some(Some(Err(_)))));
}
