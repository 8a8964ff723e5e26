//! What a node shows beside its services: health, readiness, metrics, reflection.

use quorate_tests::cluster::Shape;
use quorate_tests::{Cluster, wait};
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

#[test]
fn a_node_is_ready_only_when_it_can_commit() {
    let mut cluster = Cluster::lay_out(&Shape::of(3));
    cluster.launch(1);
    // Up, and alone: it cannot commit, and says so.
    wait::until("node 1 to be up", || {
        cluster.node(1).get("/healthz").is_ok_and(|answer| answer.status == 200).then_some(())
    });
    let alone = cluster.node(1).get("/readyz").unwrap();
    assert_eq!(alone.status, 503, "{alone:?}");
    assert!(!alone.body.trim().is_empty(), "it says why");
    cluster.launch(2);
    cluster.launch(3);
    cluster.wait_all_ready();
    cluster.kill_all(&[2, 3]);
    wait::until("node 1 to notice that it is alone", || {
        cluster.node(1).get("/readyz").is_ok_and(|answer| answer.status == 503).then_some(())
    });
    assert_eq!(cluster.node(1).get("/healthz").unwrap().status, 200);
    cluster.launch(3);
    cluster.wait_ready(1);
}

#[test]
fn metrics_are_open_metrics() {
    let cluster = Cluster::start(1);
    cluster.create("t", 1, 1);
    drop(cluster.run_with(["produce", "t"], "a\nb\n").done());
    let metrics = cluster.node(1).get("/metrics").unwrap();
    assert_eq!(metrics.status, 200);
    let named = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(metrics.head.to_ascii_lowercase().contains(named), "{}", metrics.head);
    assert!(metrics.body.ends_with("\n# EOF\n"), "{}", metrics.body);
    assert!(metrics.body.contains("# TYPE quorate_"), "{}", metrics.body);
    for line in metrics.body.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value in {line:?}"));
        // What every Prometheus library says of its process has no name of ours.
        assert!(name.starts_with("quorate_") || name.starts_with("process_"), "{line}");
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert_eq!(cluster.node(1).get("/nothing").unwrap().status, 404);
}

#[tokio::test]
async fn health_and_reflection_are_on() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::start(1)).await.unwrap();
    let channel = Endpoint::from_shared(format!("http://{}", cluster.node(1).grpc)).unwrap().connect_lazy();
    let request = HealthCheckRequest { service: String::new() };
    let health = HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);

    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(listed) = answer else { panic!("not a list: {answer:?}") };
    let names: Vec<_> = listed.service.iter().map(|service| service.name.as_str()).collect();
    for service in ["ProduceService", "FetchService", "MetadataService", "AdminService"] {
        assert!(names.contains(&format!("quorate.v1.{service}").as_str()), "{service} in {names:?}");
    }
    tokio::task::spawn_blocking(move || drop(cluster)).await.unwrap();
}
