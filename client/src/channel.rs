//! Connections over gRPC: the only file of the client that touches sockets.
//!
//! One HTTP/2 connection per server, one stream on it for all produces and one for all fetches, each made when it is
//! first needed and made anew after a loss. What is in flight on a stream when it breaks is lost; what waited for a
//! connection that could not be made was surely not sent.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use quorate_proto::call::{Call, CallError, Channel, Connect, Reply};
use quorate_proto::env::{Env, Task};
use quorate_proto::v1;
use quorate_proto::v1::admin_service_client::AdminServiceClient;
use quorate_proto::v1::fetch_service_client::FetchServiceClient;
use quorate_proto::v1::metadata_service_client::MetadataServiceClient;
use quorate_proto::v1::produce_service_client::ProduceServiceClient;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel as Http2, Endpoint};
use tonic::{Code, Status};

/// Requests that wait to be written to one stream; callers bound theirs below.
const QUEUE_MAX: usize = 16_384;
/// Largest request: what the servers take.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Largest answer: a batch that took all of a request comes back with more around it, or nobody could ever read it.
const ANSWER_BYTES_MAX: usize = MESSAGE_BYTES_MAX + 1024 * 1024;
/// The stream of fetches may have this much on its way to us.
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// What is said of a server that answers, but not as a node answers clients.
const NOT_FOR_CLIENTS: &str = "something answers there, but not a node's port for clients (--listen-grpc)";
/// A server that answers no ping for so long has gone, whatever TCP says.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Makes gRPC channels in the real environment.
#[derive(Clone, Debug)]
pub struct Grpc {
    env: Env,
}

impl Grpc {
    /// Channels whose tasks run in `env`.
    pub fn new(env: Env) -> Self {
        Self { env }
    }
}

impl Connect for Grpc {
    fn connect(&self, address: &str) -> Arc<dyn Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map(|endpoint| {
            endpoint
                .connect_timeout(CONNECT_TIMEOUT)
                .tcp_nodelay(true)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE)
                .connect_lazy()
        });
        let http2 = endpoint.map_err(|error| format!("not an address: {}", deepest(&error)));
        Arc::new(GrpcChannel {
            env: self.env.clone(),
            address: Arc::from(address),
            http2,
            produces: Mutex::new(None),
            fetches: Mutex::new(None),
        })
    }
}

struct GrpcChannel {
    env: Env,
    address: Arc<str>,
    /// Connects when it is first used and after each loss; or why the address is none.
    http2: Result<Http2, String>,
    produces: Mutex<Option<Pump<v1::ProduceRequest>>>,
    fetches: Mutex<Option<Pump<v1::FetchRequest>>>,
}

impl Channel for GrpcChannel {
    fn call(&self, call: Call) -> BoxFuture<'static, Result<Reply, CallError>> {
        let http2 = match &self.http2 {
            Ok(http2) => http2.clone(),
            Err(reason) => return ready(Err(self.unreachable(reason))),
        };
        match call {
            Call::Produce(request) => self.stream(&self.produces, &http2, request),
            Call::Fetch(request) => self.stream(&self.fetches, &http2, request),
            Call::InitProducer(request) => self.unary(
                async move { ProduceServiceClient::new(http2).init_producer(request).await },
                Reply::InitProducer,
            ),
            Call::ListOffset(request) => self.unary(
                async move { FetchServiceClient::new(http2).list_offset(request).await },
                Reply::ListOffset,
            ),
            Call::EpochEnd(request) => self.unary(
                async move { FetchServiceClient::new(http2).epoch_end(request).await },
                Reply::EpochEnd,
            ),
            Call::Metadata(request) => self.unary(
                async move { MetadataServiceClient::new(http2).metadata(request).await },
                Reply::Metadata,
            ),
            Call::ClusterStatus(request) => self.unary(
                async move { MetadataServiceClient::new(http2).cluster_status(request).await },
                Reply::ClusterStatus,
            ),
            Call::CreateTopic(request) => self.unary(
                async move { AdminServiceClient::new(http2).create_topic(request).await },
                Reply::CreateTopic,
            ),
            Call::DeleteTopic(request) => self.unary(
                async move { AdminServiceClient::new(http2).delete_topic(request).await },
                Reply::DeleteTopic,
            ),
            Call::ChangeMembers(request) => self.unary(
                async move { AdminServiceClient::new(http2).change_members(request).await },
                Reply::ChangeMembers,
            ),
            Call::ConfigureTopic(request) => self.unary(
                async move { AdminServiceClient::new(http2).configure_topic(request).await },
                Reply::ConfigureTopic,
            ),
            Call::AddPartitions(request) => self.unary(
                async move { AdminServiceClient::new(http2).add_partitions(request).await },
                Reply::AddPartitions,
            ),
            Call::DeleteRecords(request) => self.unary(
                async move { AdminServiceClient::new(http2).delete_records(request).await },
                Reply::DeleteRecords,
            ),
            Call::MoveLeader(request) => self.unary(
                async move { AdminServiceClient::new(http2).move_leader(request).await },
                Reply::MoveLeader,
            ),
        }
    }

    fn address(&self) -> &str {
        &self.address
    }
}

impl GrpcChannel {
    fn unreachable(&self, reason: &str) -> CallError {
        CallError::Unreachable { address: self.address.to_string(), reason: reason.to_owned() }
    }

    fn unary<T: Send + 'static>(
        &self,
        answer: impl Future<Output = Result<tonic::Response<T>, Status>> + Send + 'static,
        reply: impl FnOnce(T) -> Reply + Send + 'static,
    ) -> BoxFuture<'static, Result<Reply, CallError>> {
        let address = Arc::clone(&self.address);
        Box::pin(async move {
            match answer.await {
                Ok(response) => Ok(reply(response.into_inner())),
                Err(status) => Err(Broken::of(&status).error(&address)),
            }
        })
    }

    /// Puts a request on its stream, which is opened first if there is none. The order of calls is the order on the
    /// stream.
    fn stream<R: Streamed>(
        &self,
        place: &Mutex<Option<Pump<R>>>,
        http2: &Http2,
        mut request: R,
    ) -> BoxFuture<'static, Result<Reply, CallError>> {
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        let pump = match place.take() {
            Some(pump) if !pump.flights.is_closed() => place.insert(pump),
            Some(_) | None => place.insert(Pump::open(&self.env, http2.clone())),
        };
        let (correlation, reply) = pump.flights.register();
        request.set_correlation(correlation);
        if pump.requests.try_send(request).is_err() {
            // Closed in this moment, or full: it was not taken either way.
            pump.flights.forget(correlation);
            return ready(Err(self.unreachable("too many requests wait to be sent, or the stream broke")));
        }
        drop(place);
        let address = Arc::clone(&self.address);
        Box::pin(async move {
            match reply.await {
                Ok(Ok(reply)) => Ok(reply),
                Ok(Err(broken)) => Err(broken.error(&address)),
                Err(_dropped) => Err(Broken::lost("the connection was given up").error(&address)),
            }
        })
    }
}

fn ready(result: Result<Reply, CallError>) -> BoxFuture<'static, Result<Reply, CallError>> {
    Box::pin(std::future::ready(result))
}

/// Why there is no answer.
#[derive(Clone, Debug)]
struct Broken {
    /// No connection could be made: nothing was sent.
    unreachable: bool,
    reason: String,
}

impl Broken {
    fn lost(reason: &str) -> Self {
        Self { unreachable: false, reason: reason.to_owned() }
    }

    fn of(status: &Status) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = status.source();
        let mut unreachable = false;
        while let Some(error) = cause {
            unreachable |= error.is::<tonic::ConnectError>();
            cause = error.source();
        }
        let message = status.message();
        let foreign =
            message.contains("mapped from HTTP status") || message.contains("invalid compression flag");
        let reason = match status.source() {
            // HTTP, or other calls than ours: our peer and HTTP listeners look like that.
            _ if foreign || status.code() == Code::Unimplemented => NOT_FOR_CLIENTS.to_owned(),
            Some(source) => deepest(source),
            None if message.is_empty() => status.code().to_string(),
            None => message.to_owned(),
        };
        Self { unreachable, reason }
    }

    fn error(&self, address: &str) -> CallError {
        let (address, reason) = (address.to_owned(), self.reason.clone());
        if self.unreachable {
            CallError::Unreachable { address, reason }
        } else {
            CallError::Lost { address, reason }
        }
    }
}

/// What lies at the bottom of an error, in plain words where we know them.
fn deepest(error: &(dyn Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    match deepest.downcast_ref::<std::io::Error>().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(std::io::ErrorKind::ConnectionReset) => "connection reset".to_owned(),
        Some(std::io::ErrorKind::TimedOut) => "timed out".to_owned(),
        Some(std::io::ErrorKind::HostUnreachable) => "host unreachable".to_owned(),
        Some(_) | None => deepest.to_string(),
    }
}

/// What a stream of answers opens to.
type Opened<T> = Result<BoxStream<'static, Result<T, Status>>, Status>;

/// A kind of request that has a stream of its own.
trait Streamed: Send + Sized + 'static {
    type Response: Send + 'static;

    fn set_correlation(&mut self, correlation: u64);
    fn open(http2: Http2, requests: ReceiverStream<Self>) -> BoxFuture<'static, Opened<Self::Response>>;
    fn reply(response: Self::Response) -> (u64, Reply);
}

impl Streamed for v1::ProduceRequest {
    type Response = v1::ProduceResponse;

    fn set_correlation(&mut self, correlation: u64) {
        self.correlation = correlation;
    }

    fn open(http2: Http2, requests: ReceiverStream<Self>) -> BoxFuture<'static, Opened<Self::Response>> {
        Box::pin(async move {
            let mut client = ProduceServiceClient::new(http2)
                .max_decoding_message_size(ANSWER_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            Ok(client.produce(requests).await?.into_inner().boxed())
        })
    }

    fn reply(response: Self::Response) -> (u64, Reply) {
        (response.correlation, Reply::Produce(response))
    }
}

impl Streamed for v1::FetchRequest {
    type Response = v1::FetchResponse;

    fn set_correlation(&mut self, correlation: u64) {
        self.correlation = correlation;
    }

    fn open(http2: Http2, requests: ReceiverStream<Self>) -> BoxFuture<'static, Opened<Self::Response>> {
        Box::pin(async move {
            let mut client = FetchServiceClient::new(http2).max_decoding_message_size(ANSWER_BYTES_MAX);
            Ok(client.fetch(requests).await?.into_inner().boxed())
        })
    }

    fn reply(response: Self::Response) -> (u64, Reply) {
        (response.correlation, Reply::Fetch(response))
    }
}

/// One stream and the task that reads its answers. Dropping it ends the stream; what is in flight is lost.
struct Pump<R> {
    requests: mpsc::Sender<R>,
    flights: Arc<Flights>,
    _task: Task,
}

impl<R: Streamed> Pump<R> {
    fn open(env: &Env, http2: Http2) -> Self {
        let (requests, queue) = mpsc::channel(QUEUE_MAX);
        let flights = Arc::new(Flights::default());
        let answers = Arc::downgrade(&flights);
        let task = env.spawn("grpc stream", async move {
            let broken = run::<R>(http2, queue, &answers).await;
            if let Some(flights) = answers.upgrade() {
                flights.close(&broken);
            }
        });
        Self { requests, flights, _task: task }
    }
}

async fn run<R: Streamed>(http2: Http2, queue: mpsc::Receiver<R>, answers: &Weak<Flights>) -> Broken {
    let mut responses = match R::open(http2, ReceiverStream::new(queue)).await {
        Ok(responses) => responses,
        Err(status) => return Broken::of(&status),
    };
    loop {
        match responses.next().await {
            None => return Broken::lost("the server ended the stream"),
            Some(Err(status)) => {
                // The stream was open, so requests were sent, whatever broke it.
                return Broken { unreachable: false, ..Broken::of(&status) };
            }
            Some(Ok(response)) => {
                let (correlation, reply) = R::reply(response);
                if let Some(flights) = answers.upgrade() {
                    flights.answer(correlation, reply);
                }
            }
        }
    }
}

type Answer = oneshot::Sender<Result<Reply, Broken>>;

/// The requests of a stream that have no answer yet.
#[derive(Default)]
struct Flights(Mutex<FlightsState>);

#[derive(Default)]
struct FlightsState {
    next: u64,
    waiting: BTreeMap<u64, Answer>,
    closed: Option<Broken>,
}

impl Flights {
    fn state(&self) -> MutexGuard<'_, FlightsState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closed(&self) -> bool {
        self.state().closed.is_some()
    }

    fn register(&self) -> (u64, oneshot::Receiver<Result<Reply, Broken>>) {
        let (answer, reply) = oneshot::channel();
        let mut state = self.state();
        state.next += 1;
        let correlation = state.next;
        if state.closed.is_none() {
            state.waiting.insert(correlation, answer);
        }
        (correlation, reply)
    }

    fn forget(&self, correlation: u64) {
        self.state().waiting.remove(&correlation);
    }

    fn answer(&self, correlation: u64, reply: Reply) {
        let waiting = self.state().waiting.remove(&correlation);
        if let Some(answer) = waiting {
            // Whoever asked may have stopped waiting.
            let _unheard = answer.send(Ok(reply)).is_err();
        }
    }

    fn close(&self, broken: &Broken) {
        let waiting = {
            let mut state = self.state();
            state.closed = Some(broken.clone());
            std::mem::take(&mut state.waiting)
        };
        for answer in waiting.into_values() {
            let _unheard = answer.send(Err(broken.clone())).is_err();
        }
    }
}

impl fmt::Debug for GrpcChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcChannel").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a real server on a real socket")]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use quorate_proto::v1::fetch_service_server::{FetchService, FetchServiceServer};
    use quorate_proto::v1::produce_service_server::{ProduceService, ProduceServiceServer};
    use tonic::{Request, Response, Streaming};

    use super::*;

    /// Answers in pairs, the second one first; breaks the stream at a batch of `break`.
    #[derive(Clone, Default)]
    struct Server(Arc<Mutex<Vec<Vec<u8>>>>);

    #[tonic::async_trait]
    impl ProduceService for Server {
        type ProduceStream = ReceiverStream<Result<v1::ProduceResponse, Status>>;

        async fn produce(
            &self,
            request: Request<Streaming<v1::ProduceRequest>>,
        ) -> Result<Response<Self::ProduceStream>, Status> {
            let (answers, stream) = mpsc::channel(100);
            let (seen, mut requests) = (Arc::clone(&self.0), request.into_inner());
            tokio::spawn(async move {
                let mut held = None;
                while let Ok(Some(request)) = requests.message().await {
                    seen.lock().unwrap().push(request.batch.to_vec());
                    if request.batch == "break" {
                        return;
                    }
                    let base_offset = i64::try_from(request.batch.len()).unwrap();
                    let correlation = request.correlation;
                    let answer = v1::ProduceResponse { correlation, base_offset, ..Default::default() };
                    match held.take() {
                        None => held = Some(answer),
                        Some(first) => {
                            for answer in [answer, first] {
                                answers.send(Ok(answer)).await.unwrap();
                            }
                        }
                    }
                }
            });
            Ok(Response::new(ReceiverStream::new(stream)))
        }

        async fn init_producer(
            &self,
            _: Request<v1::InitProducerRequest>,
        ) -> Result<Response<v1::InitProducerResponse>, Status> {
            Ok(Response::new(v1::InitProducerResponse { producer_id: 7, ..Default::default() }))
        }
    }

    async fn serve(server: Server, address: &str) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let serving = tonic::transport::Server::builder()
            .add_service(ProduceServiceServer::new(server))
            .serve_with_incoming(incoming);
        (address, tokio::spawn(async move { serving.await.unwrap() }))
    }

    fn batch(bytes: impl Into<bytes::Bytes>) -> Call {
        Call::Produce(v1::ProduceRequest { batch: bytes.into(), ..Default::default() })
    }

    async fn answer(call: BoxFuture<'static, Result<Reply, CallError>>) -> Result<Reply, CallError> {
        tokio::time::timeout(Duration::from_secs(20), call).await.expect("an answer comes")
    }

    #[tokio::test]
    async fn answers_find_their_requests_and_losses_are_told_apart() {
        let server = Server::default();
        let (address, serving) = serve(server.clone(), "127.0.0.1:0").await;
        let channel = Grpc::new(quorate_proto::env::os()).connect(&address.to_string());

        // In order on the way there, matched on the way back, before any of them is polled.
        let calls: Vec<_> = (0..50).map(|length| channel.call(batch(vec![0; length]))).collect();
        for (length, call) in (0..).zip(calls) {
            let Ok(Reply::Produce(reply)) = answer(call).await else { panic!("no answer to {length}") };
            assert_eq!(reply.base_offset, length);
        }
        let lengths: Vec<usize> = server.0.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(lengths, (0..50).collect::<Vec<_>>());
        let init = channel.call(Call::InitProducer(v1::InitProducerRequest {}));
        assert!(matches!(answer(init).await, Ok(Reply::InitProducer(reply)) if reply.producer_id == 7));

        // What is in flight on a stream that breaks is lost; the next call opens another one.
        let calls = ["break", "never read"].map(|bytes| channel.call(batch(bytes)));
        for call in calls {
            let error = answer(call).await.unwrap_err();
            assert!(matches!(error, CallError::Lost { .. }), "{error}");
        }
        let calls = ["a", "bc"].map(|bytes| channel.call(batch(bytes)));
        for call in calls {
            answer(call).await.unwrap();
        }

        // Nobody listens any more; then somebody does again.
        serving.abort();
        let _aborted = serving.await;
        // Connections that were accepted outlive the accepting task: ask another channel.
        let fresh = Grpc::new(quorate_proto::env::os()).connect(&address.to_string());
        let error = answer(fresh.call(batch("x"))).await.unwrap_err();
        assert_eq!(error.to_string(), format!("cannot reach {address}: connection refused"));
        let unary = answer(fresh.call(Call::InitProducer(v1::InitProducerRequest {}))).await;
        assert!(matches!(unary, Err(CallError::Unreachable { .. })), "{unary:?}");
        let (_, _serving) = serve(server, &address.to_string()).await;
        let calls = ["a", "bc"].map(|bytes| fresh.call(batch(bytes)));
        for call in calls {
            answer(call).await.unwrap();
        }
    }

    /// Answers a fetch with one batch that took all of the request that brought it.
    struct Large;

    #[tonic::async_trait]
    impl FetchService for Large {
        type FetchStream = BoxStream<'static, Result<v1::FetchResponse, Status>>;

        async fn fetch(
            &self,
            request: Request<Streaming<v1::FetchRequest>>,
        ) -> Result<Response<Self::FetchStream>, Status> {
            let answers = request.into_inner().map(|request| {
                let correlation = request?.correlation;
                let batches = vec![7; MESSAGE_BYTES_MAX].into();
                Ok(v1::FetchResponse { correlation, batches, high_watermark: i64::MAX, ..Default::default() })
            });
            Ok(Response::new(answers.boxed()))
        }

        async fn list_offset(
            &self,
            _: Request<v1::ListOffsetRequest>,
        ) -> Result<Response<v1::ListOffsetResponse>, Status> {
            Err(Status::unimplemented("not asked for"))
        }

        async fn epoch_end(
            &self,
            _: Request<v1::EpochEndRequest>,
        ) -> Result<Response<v1::EpochEndResponse>, Status> {
            Err(Status::unimplemented("not asked for"))
        }
    }

    #[tokio::test]
    async fn a_batch_that_took_all_of_a_request_can_be_fetched() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _serving = tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(FetchServiceServer::new(Large))
                .serve_with_incoming(tonic::transport::server::TcpIncoming::from(listener)),
        );
        let channel = Grpc::new(quorate_proto::env::os()).connect(&address.to_string());
        let fetched = answer(channel.call(Call::Fetch(v1::FetchRequest::default()))).await;
        let Ok(Reply::Fetch(response)) = fetched else { panic!("{:?}", fetched.err()) };
        assert_eq!(response.batches.len(), MESSAGE_BYTES_MAX);
    }

    #[tokio::test]
    async fn what_is_no_address_is_said() {
        let channel = Grpc::new(quorate_proto::env::os()).connect("not an address");
        let error = answer(channel.call(batch("x"))).await.unwrap_err();
        assert!(error.to_string().starts_with("cannot reach not an address: not an address: "), "{error}");
    }
}
