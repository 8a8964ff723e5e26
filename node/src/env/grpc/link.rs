//! One lane to one peer, from the calling side.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::Stream;
use futures_util::task::AtomicWaker;
use prost::Message;
use quorate_proto::env::Env;
use quorate_proto::ids::NodeId;
use quorate_proto::v1::peer_service_client::PeerServiceClient;
use quorate_proto::v1::{PeerFrame, PeerReply, PeerReplyFrame, PeerRequest, Sender};
use tokio::sync::{Notify, oneshot};
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::super::Task;
use super::super::transport::{Lane, LinkEvent, LinkWatch, PeerError, PeerLink};
use super::{
    CONNECTION_WINDOW_BYTES, HTTP2_FRAME_BYTES, KEEP_ALIVE, PEER_MESSAGE_BYTES_MAX, STREAM_WINDOW_BYTES,
    is_refused,
};

/// How long a connection may take to stand.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);
/// Pause after a first failure to connect; doubled after each further one.
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
/// Longest pause between attempts.
const BACK_OFF_MAX: Duration = Duration::from_millis(500);
/// A frame is sent once it has this many bytes, so that the lane's small messages are not long behind large ones.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// Requests that share a frame.
const FRAME_REQUESTS_MAX: usize = 1_024;
/// Calls of one lane without an answer yet.
const CALLS_MAX: usize = 16_384;
/// Bytes of calls of one lane that wait to be sent.
const WAITING_BYTES_MAX: usize = 64 << 20;

type Answer = Result<(Sender, PeerReply), PeerError>;
type AskSender = Arc<dyn Fn() -> Sender + Send + Sync>;

/// A lane: calls wait in a queue, one task connects and reads answers, the connection takes frames as it has room.
pub(super) struct Link {
    shared: Arc<Shared>,
    _task: Task,
}

struct Shared {
    address: String,
    queue: Mutex<Queue>,
    /// Wakes the connection that takes frames.
    taker: AtomicWaker,
    /// Wakes the task that connects.
    called: Notify,
}

#[derive(Default)]
struct Queue {
    /// Not sent yet, in the order of the calls; correlations ascend.
    waiting: VecDeque<(usize, PeerRequest)>,
    waiting_bytes: usize,
    /// Who waits for which answer: the calls of `waiting`, and those sent and not answered.
    calls: BTreeMap<u64, oneshot::Sender<Answer>>,
    last_correlation: u64,
    /// Counts connections: an older one that lingers takes no frames.
    connection: u64,
}

impl Link {
    pub(super) fn new(
        env: &Env,
        peer: NodeId,
        address: &str,
        lane: Lane,
        sender: AskSender,
        watch: LinkWatch,
    ) -> Self {
        let shared = Arc::new(Shared {
            address: address.to_owned(),
            queue: Mutex::default(),
            taker: AtomicWaker::new(),
            called: Notify::new(),
        });
        let runner = Runner { env: env.clone(), peer, lane, sender, watch, shared: shared.clone() };
        Self { shared, _task: env.spawn("peer link", runner.run()) }
    }
}

impl PeerLink for Link {
    fn call(&self, mut request: PeerRequest) -> BoxFuture<'static, Answer> {
        let bytes = request.encoded_len();
        let (reply, answer) = oneshot::channel();
        {
            let mut queue = self.shared.queue();
            // A queue that is full refuses: the caller surely knows better than we what to send again.
            let full = queue.calls.len() >= CALLS_MAX
                || (queue.waiting_bytes + bytes > WAITING_BYTES_MAX && !queue.waiting.is_empty());
            if full {
                drop(queue);
                let error =
                    PeerError::Unreachable(format!("{}: too much waits to be sent", self.shared.address));
                return Box::pin(std::future::ready(Err(error)));
            }
            queue.last_correlation += 1;
            let correlation = queue.last_correlation;
            request.correlation = correlation;
            queue.waiting_bytes += bytes;
            queue.waiting.push_back((bytes, request));
            queue.calls.insert(correlation, reply);
        }
        self.shared.taker.wake();
        self.shared.called.notify_one();
        let shared = self.shared.clone();
        Box::pin(async move {
            // The link was dropped: nobody can say what became of it.
            answer.await.unwrap_or_else(|_| Err(PeerError::Lost(shared.address.clone())))
        })
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready while a call waits to be sent.
    async fn called(&self) {
        while self.queue().waiting.is_empty() {
            self.called.notified().await;
        }
    }

    fn next_connection(&self) -> u64 {
        let mut queue = self.queue();
        queue.connection += 1;
        queue.connection
    }

    /// Fails the calls that still wait to be sent.
    fn fail_waiting(&self, error: &PeerError) {
        let failed = {
            let mut queue = self.queue();
            let first = queue.first_waiting();
            queue.waiting.clear();
            queue.waiting_bytes = 0;
            queue.calls.split_off(&first)
        };
        for call in failed.into_values() {
            answer(call, Err(error.clone()));
        }
    }

    /// Fails the calls that were sent and not answered.
    fn fail_sent(&self, error: &PeerError) {
        let failed = {
            let mut queue = self.queue();
            let first = queue.first_waiting();
            let waiting = queue.calls.split_off(&first);
            std::mem::replace(&mut queue.calls, waiting)
        };
        for call in failed.into_values() {
            answer(call, Err(error.clone()));
        }
    }

    fn answered(&self, frame: PeerReplyFrame) {
        let sender = frame.sender.unwrap_or_default();
        for reply in frame.replies {
            let call = self.queue().calls.remove(&reply.correlation);
            if let Some(call) = call {
                answer(call, Ok((sender.clone(), reply)));
            }
        }
    }
}

impl Queue {
    /// The correlation of the first call not sent yet; everything in flight lies below.
    fn first_waiting(&self) -> u64 {
        self.waiting.front().map_or(self.last_correlation + 1, |(_, request)| request.correlation)
    }

    /// Takes what goes into the next frame; nothing if nothing waits. Calls that were abandoned are left out.
    fn next_requests(&mut self) -> Vec<PeerRequest> {
        let mut requests = Vec::new();
        let mut frame_bytes = 0;
        while let Some((bytes, request)) = self.waiting.pop_front() {
            if !requests.is_empty()
                && (frame_bytes + bytes > FRAME_BYTES_MAX || requests.len() >= FRAME_REQUESTS_MAX)
            {
                self.waiting.push_front((bytes, request));
                break;
            }
            self.waiting_bytes -= bytes;
            if self.calls.get(&request.correlation).is_none_or(oneshot::Sender::is_closed) {
                self.calls.remove(&request.correlation);
                continue;
            }
            frame_bytes += bytes;
            requests.push(request);
        }
        requests
    }
}

/// The caller may have gone: then nobody wants the answer.
fn answer(call: oneshot::Sender<Answer>, answer: Answer) {
    drop(call.send(answer));
}

/// What a connection sends: frames made of what waits, as it has room for them.
struct Frames {
    shared: Arc<Shared>,
    sender: AskSender,
    connection: u64,
}

impl Stream for Frames {
    type Item = PeerFrame;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PeerFrame>> {
        let requests = {
            let mut queue = self.shared.queue();
            if queue.connection != self.connection {
                return Poll::Ready(None);
            }
            // Under the lock, so that no call slips in between the look and the waker.
            self.shared.taker.register(cx.waker());
            queue.next_requests()
        };
        if requests.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Some(PeerFrame { sender: Some((self.sender)()), requests }))
    }
}

/// How long a connection may leave a question unanswered. Without one, packets that are dropped without a word would be
/// waited for as long as TCP sends them again: many minutes. The bulk lane's question waits behind megabytes.
fn patience(lane: Lane) -> Duration {
    match lane {
        Lane::Urgent => KEEP_ALIVE,
        Lane::Bulk => 3 * KEEP_ALIVE,
    }
}

/// Connects, reads answers, connects again.
struct Runner {
    env: Env,
    peer: NodeId,
    lane: Lane,
    sender: AskSender,
    watch: LinkWatch,
    shared: Arc<Shared>,
}

impl Runner {
    async fn run(self) {
        let mut back_off = BACK_OFF_MIN;
        loop {
            self.shared.called().await;
            // After a loss at once again: a refusal then proves the peer's death, and the sooner it is known the better.
            while let Some(replies) = self.connect().await {
                back_off = BACK_OFF_MIN;
                (self.watch)(self.peer, LinkEvent::Up);
                self.read(replies).await;
                self.shared.next_connection();
                (self.watch)(self.peer, LinkEvent::Reset);
                self.shared.fail_sent(&PeerError::Lost(self.shared.address.clone()));
            }
            self.env.sleep(back_off).await;
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    async fn read(&self, mut replies: Streaming<PeerReplyFrame>) {
        loop {
            match replies.message().await {
                Ok(Some(frame)) => self.shared.answered(frame),
                Ok(None) => break,
                Err(status) => {
                    tracing::debug!(
                        peer = %self.peer,
                        address = self.shared.address,
                        error = &status as &dyn std::error::Error,
                        "link broke"
                    );
                    break;
                }
            }
        }
    }

    /// One attempt. Fails all calls that wait when it does not succeed.
    async fn connect(&self) -> Option<Streaming<PeerReplyFrame>> {
        let address = &self.shared.address;
        let error = match self.env.timeout(CONNECT_TIME_MAX, self.open()).await {
            Ok(Ok(replies)) => return Some(replies),
            Ok(Err(error)) if is_refused(error.as_ref()) => {
                (self.watch)(self.peer, LinkEvent::Refused);
                PeerError::Refused(address.clone())
            }
            Ok(Err(error)) => {
                tracing::debug!(peer = %self.peer, address, error = error.as_ref(), "peer not reached");
                PeerError::Unreachable(address.clone())
            }
            Err(elapsed) => {
                tracing::debug!(peer = %self.peer, address, error = &elapsed as &dyn std::error::Error, "peer not reached");
                PeerError::Unreachable(address.clone())
            }
        };
        self.shared.next_connection();
        // What a half-open connection took with it is as lost as what waits, but perhaps done.
        self.shared.fail_sent(&PeerError::Lost(address.clone()));
        self.shared.fail_waiting(&error);
        None
    }

    async fn open(&self) -> Result<Streaming<PeerReplyFrame>, Box<dyn std::error::Error + Send + Sync>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.shared.address))?
            .connect_timeout(CONNECT_TIME_MAX)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(HTTP2_FRAME_BYTES)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(patience(self.lane))
            .keep_alive_while_idle(true);
        let channel = endpoint.connect().await?;
        let frames = Frames {
            shared: self.shared.clone(),
            sender: self.sender.clone(),
            connection: self.shared.next_connection(),
        };
        let mut client = PeerServiceClient::new(channel)
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX);
        Ok(client.exchange(frames).await?.into_inner())
    }
}
