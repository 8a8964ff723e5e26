//! The real transport: gRPC over TCP, one bidirectional stream a lane; and the real listeners.
//!
//! With `os`, the only file that touches sockets. What travels is judged above, in `raft::peers` and `api`.
#![expect(clippy::disallowed_methods, reason = "one of the few doors to the world outside")]

mod answers;
mod link;

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, Stream};
use prost::Message;
use quorate_proto::ids::NodeId;
use quorate_proto::v1::peer_service_server::{PeerService, PeerServiceServer};
use quorate_proto::v1::{PeerFrame, PeerReplyFrame, Sender};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::Task;
use super::disk::is_out_of_files;
use super::transport::{Lane, LinkWatch, PeerHandler, PeerLink, Transport, reply_frame};

pub use answers::{Admitted, Answers, Bound};

/// Largest message taken from a client, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Largest message between peers. A batch that just fits into a client's message goes on to the peers with a head and
/// a frame around it: too large for them, it would stop its partition for good, and break the lane at each try.
const PEER_MESSAGE_BYTES_MAX: usize = MESSAGE_BYTES_MAX + (1 << 20);
/// HTTP/2 window of a stream: at 64 KiB, the default, a megabyte of entries waits for many round trips.
pub const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// HTTP/2 window of a connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;
/// Largest HTTP/2 frame: fewer of them, less work each.
pub const HTTP2_FRAME_BYTES: u32 = 1 << 20;
/// How often a connection is asked whether it lives, and how long the urgent lane's may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// Requests of one lane that are being answered; more wait in the connection.
const IN_FLIGHT: Bound = Bound { requests_max: 8_192, bytes_max: 64 << 20 };
/// Pause before the next connection is taken, where none can be.
const ACCEPT_GAP: Duration = Duration::from_millis(500);
/// Answers that share a frame.
const REPLIES_IN_FRAME_MAX: usize = 1_024;

/// [`Transport`] over tonic.
pub struct GrpcTransport {
    base: quorate_proto::env::Env,
}

impl GrpcTransport {
    /// `base` gives clock and tasks.
    pub fn new(base: quorate_proto::env::Env) -> Self {
        Self { base }
    }
}

#[async_trait]
impl Transport for GrpcTransport {
    fn connect(
        &self,
        peer: NodeId,
        address: &str,
        lane: Lane,
        sender: Arc<dyn Fn() -> Sender + Send + Sync>,
        watch: LinkWatch,
    ) -> Arc<dyn PeerLink> {
        Arc::new(link::Link::new(&self.base, peer, address, lane, sender, watch))
    }

    async fn listen(&self, address: &str, handler: Arc<dyn PeerHandler>) -> io::Result<Task> {
        let listener = bind(address).await?;
        // Held by the serving task alone: when that is dropped, every stream of it ends, and so do its connections.
        let (running, stopping) = watch::channel(());
        let service = PeerServiceServer::new(Peers { handler, stopping })
            .max_decoding_message_size(PEER_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(PEER_MESSAGE_BYTES_MAX);
        let server = server().add_service(service);
        Ok(self.base.spawn("peer listener", async move {
            let served =
                server.serve_with_incoming_shutdown(incoming(listener), std::future::pending()).await;
            drop(running);
            if let Err(error) = served {
                tracing::error!(error = &error as &dyn Error, "peer listener ended");
            }
        }))
    }
}

/// Takes a port. The address is `host:port`; port 0 takes any free one.
///
/// # Errors
/// The address is taken or not ours; the error's text names it.
pub async fn bind(address: &str) -> io::Result<TcpListener> {
    let named = |error: io::Error| {
        let said = if error.kind() == io::ErrorKind::AddrInUse {
            format!("port in use: another process listens on {address}")
        } else {
            format!("cannot listen on {address}: {error}")
        };
        io::Error::new(error.kind(), said)
    };
    TcpListener::bind(address).await.map_err(named)
}

/// A tonic server with our windows and keep-alive.
pub fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(HTTP2_FRAME_BYTES)
        .max_concurrent_streams(1_024)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(20)))
}

/// A listener's connections, with small messages sent at once. Where none can be taken, as too many files are open, the
/// next try is a while later: tonic would try without end.
pub fn incoming(listener: TcpListener) -> impl Stream<Item = io::Result<TcpStream>> {
    paced(TcpIncoming::from(listener).with_nodelay(Some(true)))
}

fn paced<T>(taken: impl Stream<Item = io::Result<T>>) -> impl Stream<Item = io::Result<T>> {
    let mut full = false;
    taken.then(move |taken| {
        let is_full = taken.as_ref().is_err_and(is_out_of_files);
        if is_full && !full {
            tracing::warn!("connections wait: as many files and connections are open as may be");
        }
        full = is_full;
        async move {
            if is_full {
                tokio::time::sleep(ACCEPT_GAP).await;
            }
            taken
        }
    })
}

/// Whether somewhere down in `error` the system said that nobody listens.
fn is_refused(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && io.kind() == io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        cause = error.source();
    }
    false
}

struct Peers {
    handler: Arc<dyn PeerHandler>,
    stopping: watch::Receiver<()>,
}

#[async_trait]
impl PeerService for Peers {
    type ExchangeStream = BoxStream<'static, Result<PeerReplyFrame, Status>>;

    async fn exchange(
        &self,
        request: Request<Streaming<PeerFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let handler = self.handler.clone();
        let admit = move |frame: PeerFrame| {
            let mut bytes = frame.encoded_len();
            let admitted = move |answer| Admitted { answer, bytes: std::mem::take(&mut bytes) };
            handler.handle(frame).into_iter().map(admitted).collect()
        };
        let mut stopping = self.stopping.clone();
        // Changes never: ends when the listener is dropped.
        let stopped = async move { while stopping.changed().await.is_ok() {} };
        let answers = Answers::new(request.into_inner(), admit, IN_FLIGHT, stopped);
        let handler = self.handler.clone();
        let frames = answers.ready_chunks(REPLIES_IN_FRAME_MAX);
        Ok(Response::new(Box::pin(frames.map(move |replies| Ok(reply_frame(handler.as_ref(), replies))))))
    }
}

#[cfg(test)]
mod tests;
