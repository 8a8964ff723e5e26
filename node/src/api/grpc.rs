//! The tonic services of `quorate.v1` for clients: glue over [`Serve`], with health and reflection beside them.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use prost::Message;
use quorate_proto::call::{Call, Reply, Serve};
use quorate_proto::v1::admin_service_server::{AdminService, AdminServiceServer};
use quorate_proto::v1::fetch_service_server::{FetchService, FetchServiceServer};
use quorate_proto::v1::metadata_service_server::{MetadataService, MetadataServiceServer};
use quorate_proto::v1::produce_service_server::{ProduceService, ProduceServiceServer};
use quorate_proto::v1::{self};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::{Api, fetch};
use crate::config::ApiConfig;
use crate::env::grpc::{self, Admitted, Answers, Bound, MESSAGE_BYTES_MAX};
use crate::partition::AnswerRoom;

/// Serves clients on `listener` until `stopped` is true or its sender gone, and then until their connections have
/// ended. `ready` is what the health service says.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    api: Arc<Api>,
    config: &ApiConfig,
    mut ready: watch::Receiver<bool>,
    stopped: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let bound = Bound { requests_max: config.stream_requests_max, bytes_max: config.stream_bytes_max };
    let fetches = Bound { requests_max: config.stream_fetches_max, ..bound };
    let answer_bytes_max = config.stream_answer_bytes_max;
    let services = Services { api, bound, fetches, answer_bytes_max, stopped: stopped.clone() };
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(v1::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    macro_rules! sized {
        ($server:ident) => {
            $server::new(services.clone())
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(usize::MAX)
        };
    }
    let serving = grpc::server()
        .add_service(sized!(ProduceServiceServer))
        .add_service(sized!(FetchServiceServer))
        .add_service(sized!(MetadataServiceServer))
        .add_service(sized!(AdminServiceServer))
        .add_service(health)
        .add_service(reflection)
        .serve_with_incoming_shutdown(grpc::incoming(listener), stop(stopped));
    let reporting = async {
        loop {
            let status = if *ready.borrow_and_update() {
                tonic_health::ServingStatus::Serving
            } else {
                tonic_health::ServingStatus::NotServing
            };
            // The empty name stands for the server as a whole.
            for service in
                ["", "quorate.v1.ProduceService", "quorate.v1.FetchService", "quorate.v1.MetadataService"]
            {
                reporter.set_service_status(service, status).await;
            }
            if ready.changed().await.is_err() {
                return std::future::pending::<()>().await;
            }
        }
    };
    let serving = std::pin::pin!(serving);
    let reporting = std::pin::pin!(reporting);
    match futures_util::future::select(serving, reporting).await {
        futures_util::future::Either::Left((served, _)) => Ok(served?),
        futures_util::future::Either::Right(((), _)) => unreachable!("health is reported for ever"),
    }
}

/// Ready when it is time to stop.
async fn stop(mut stopped: watch::Receiver<bool>) {
    // Its sender is gone: nobody will say so any more.
    drop(stopped.wait_for(|stopped| *stopped).await);
}

#[derive(Clone)]
struct Services {
    api: Arc<Api>,
    bound: Bound,
    /// Of a stream of fetches, most of which wait for records.
    fetches: Bound,
    answer_bytes_max: u32,
    stopped: watch::Receiver<bool>,
}

impl Services {
    /// A stream with many requests in flight, admitted in the order sent, answered as they finish.
    fn pipeline<I: Message + 'static, O: Send + 'static>(
        &self,
        requests: Streaming<I>,
        call: impl Fn(I) -> Call + Send + 'static,
        open: impl Fn(Reply) -> Option<O> + Send + 'static,
    ) -> BoxStream<'static, Result<O, Status>> {
        let api = self.api.clone();
        let answers = self.answers(requests, self.bound, move |request| api.serve(call(request)));
        answers.map(move |reply| open(reply).ok_or_else(mixed_up)).boxed()
    }

    fn answers<I: Message + 'static, O>(
        &self,
        requests: Streaming<I>,
        bound: Bound,
        answer: impl Fn(I) -> BoxFuture<'static, O> + Send + 'static,
    ) -> Answers<I, O> {
        let admit = move |request: I| {
            let bytes = request.encoded_len();
            VecDeque::from([Admitted { answer: answer(request), bytes }])
        };
        Answers::new(requests, admit, bound, stop(self.stopped.clone()))
    }

    async fn single<O>(&self, call: Call, open: impl Fn(Reply) -> Option<O>) -> Result<Response<O>, Status> {
        open(self.api.serve(call).await).map(Response::new).ok_or_else(mixed_up)
    }
}

fn mixed_up() -> Status {
    Status::internal("the answer is of another kind than the request")
}

/// Opens a reply of one kind.
macro_rules! only {
    ($kind:ident) => {
        |reply| if let Reply::$kind(reply) = reply { Some(reply) } else { None }
    };
}

#[async_trait]
impl ProduceService for Services {
    type ProduceStream = BoxStream<'static, Result<v1::ProduceResponse, Status>>;

    async fn produce(
        &self,
        request: Request<Streaming<v1::ProduceRequest>>,
    ) -> Result<Response<Self::ProduceStream>, Status> {
        Ok(Response::new(self.pipeline(request.into_inner(), Call::Produce, only!(Produce))))
    }

    async fn init_producer(
        &self,
        request: Request<v1::InitProducerRequest>,
    ) -> Result<Response<v1::InitProducerResponse>, Status> {
        self.single(Call::InitProducer(request.into_inner()), only!(InitProducer)).await
    }
}

#[async_trait]
impl FetchService for Services {
    type FetchStream = BoxStream<'static, Result<v1::FetchResponse, Status>>;

    async fn fetch(
        &self,
        request: Request<Streaming<v1::FetchRequest>>,
    ) -> Result<Response<Self::FetchStream>, Status> {
        let (api, room) = (self.api.clone(), AnswerRoom::new(self.answer_bytes_max));
        let answers = self.answers(request.into_inner(), self.fetches, move |request| {
            let (api, room) = (api.clone(), room.clone());
            async move { fetch::fetch(&api, request, Some(&room)).await }.boxed()
        });
        let sent = answers.map(|(response, hold)| {
            // Asked for by the wire, which takes one answer at a time.
            drop(hold);
            Ok(response)
        });
        Ok(Response::new(sent.boxed()))
    }

    async fn list_offset(
        &self,
        request: Request<v1::ListOffsetRequest>,
    ) -> Result<Response<v1::ListOffsetResponse>, Status> {
        self.single(Call::ListOffset(request.into_inner()), only!(ListOffset)).await
    }

    async fn epoch_end(
        &self,
        request: Request<v1::EpochEndRequest>,
    ) -> Result<Response<v1::EpochEndResponse>, Status> {
        self.single(Call::EpochEnd(request.into_inner()), only!(EpochEnd)).await
    }
}

#[async_trait]
impl MetadataService for Services {
    async fn metadata(
        &self,
        request: Request<v1::MetadataRequest>,
    ) -> Result<Response<v1::MetadataResponse>, Status> {
        self.single(Call::Metadata(request.into_inner()), only!(Metadata)).await
    }

    async fn cluster_status(
        &self,
        request: Request<v1::ClusterStatusRequest>,
    ) -> Result<Response<v1::ClusterStatusResponse>, Status> {
        self.single(Call::ClusterStatus(request.into_inner()), only!(ClusterStatus)).await
    }
}

#[async_trait]
impl AdminService for Services {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        self.single(Call::CreateTopic(request.into_inner()), only!(CreateTopic)).await
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        self.single(Call::DeleteTopic(request.into_inner()), only!(DeleteTopic)).await
    }

    async fn change_members(
        &self,
        request: Request<v1::ChangeMembersRequest>,
    ) -> Result<Response<v1::ChangeMembersResponse>, Status> {
        self.single(Call::ChangeMembers(request.into_inner()), only!(ChangeMembers)).await
    }

    async fn configure_topic(
        &self,
        request: Request<v1::ConfigureTopicRequest>,
    ) -> Result<Response<v1::ConfigureTopicResponse>, Status> {
        self.single(Call::ConfigureTopic(request.into_inner()), only!(ConfigureTopic)).await
    }

    async fn add_partitions(
        &self,
        request: Request<v1::AddPartitionsRequest>,
    ) -> Result<Response<v1::AddPartitionsResponse>, Status> {
        self.single(Call::AddPartitions(request.into_inner()), only!(AddPartitions)).await
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        self.single(Call::DeleteRecords(request.into_inner()), only!(DeleteRecords)).await
    }

    async fn move_leader(
        &self,
        request: Request<v1::MoveLeaderRequest>,
    ) -> Result<Response<v1::MoveLeaderResponse>, Status> {
        self.single(Call::MoveLeader(request.into_inner()), only!(MoveLeader)).await
    }
}
