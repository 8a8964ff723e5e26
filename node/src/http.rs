//! The HTTP faces: `/healthz`, `/readyz` and `/metrics`, on a listener of their own.
//!
//! Decides nothing: what "ready" means stands in `wiring`.

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

/// What the faces show. Called for each request, so cheap.
pub trait Faces: Send + Sync + 'static {
    /// Whether this node can commit; if not, why, in a sentence.
    ///
    /// # Errors
    /// The sentence.
    fn ready(&self) -> Result<(), String>;

    /// All metrics, in the text form of OpenMetrics.
    fn metrics(&self) -> String;
}

/// Serves until `stopped`; requests that run are answered first.
///
/// # Errors
/// The listener broke.
pub async fn serve(
    listener: TcpListener,
    faces: Arc<dyn Faces>,
    stopped: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(faces);
    axum::serve(listener, router).with_graceful_shutdown(stopped).await
}

async fn ready(State(faces): State<Arc<dyn Faces>>) -> impl IntoResponse {
    match faces.ready() {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
    }
}

async fn metrics(State(faces): State<Arc<dyn Faces>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], faces.metrics())
}
