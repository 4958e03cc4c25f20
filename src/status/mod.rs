//! Health, metrics and status over HTTP, read-only: `/`, `/metrics` and `/status.json`.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::pipeline::Progress;
use crate::pipeline::progress::{Phase, Snapshot};

/// The HTTP server; it ends when this is dropped.
pub struct StatusServer {
    task: tokio::task::JoinHandle<()>,
    /// Where it listens; with the port that the system chose if 0 was asked for.
    pub address: SocketAddr,
}

impl Drop for StatusServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct StatusState {
    progress: Arc<Progress>,
    started: Instant,
    /// The reading that rates are computed from: when, events done by then, events per second
    /// before.
    last: Mutex<(Instant, u64, f64)>,
}

/// `/status.json`: the snapshot, and what a reader would otherwise compute.
#[derive(Serialize)]
struct Status {
    version: &'static str,
    uptime_seconds: u64,
    /// Events that were processed per second since the last reading, over at least one second.
    events_per_second: f64,
    #[serde(flatten)]
    snapshot: Snapshot,
}

impl StatusServer {
    /// Listens on `bind`, port `port`; 0 means any free one. An error says what to do.
    pub async fn start(
        bind: IpAddr,
        port: u16,
        progress: Arc<Progress>,
    ) -> Result<StatusServer, String> {
        let listener = TcpListener::bind((bind, port)).await.map_err(|e| {
            format!(
                "the health endpoint cannot listen on {bind}:{port}: {e}; choose another --port"
            )
        })?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        let now = Instant::now();
        let shared =
            Arc::new(StatusState { progress, started: now, last: Mutex::new((now, 0, 0.0)) });
        let routes = Router::new()
            .route("/", get(health))
            .route("/metrics", get(metrics))
            .route("/status.json", get(status))
            .with_state(shared);
        let task = tokio::spawn(async move {
            if let Err(e) = axum::serve(listener, routes).await {
                tracing::warn!("the health endpoint ended: {e}");
            }
        });
        Ok(StatusServer { task, address })
    }
}

/// 200 while changes are streamed; 503 with the reason while they are not.
async fn health(State(shared): State<Arc<StatusState>>) -> Response {
    match shared.progress.snapshot().state {
        Phase::Streaming | Phase::CaughtUp => (StatusCode::OK, "OK").into_response(),
        Phase::Starting => (StatusCode::SERVICE_UNAVAILABLE, "starting").into_response(),
        Phase::Waiting(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
        Phase::Paused => (StatusCode::SERVICE_UNAVAILABLE, "paused").into_response(),
        Phase::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "shutting down").into_response(),
        Phase::Stopped(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, why.unwrap_or_else(|| "stopped".into()))
                .into_response()
        }
    }
}

async fn metrics(State(shared): State<Arc<StatusState>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], shared.progress.metrics())
        .into_response()
}

async fn status(State(shared): State<Arc<StatusState>>) -> Response {
    let snapshot = shared.progress.snapshot();
    let events_per_second = {
        let mut last = shared.last.lock().unwrap_or_else(PoisonError::into_inner);
        let seconds = last.0.elapsed().as_secs_f64();
        if seconds >= 1.0 {
            *last = (
                Instant::now(),
                snapshot.done,
                snapshot.done.saturating_sub(last.1) as f64 / seconds,
            );
        }
        last.2
    };
    let status = Status {
        version: env!("CARGO_PKG_VERSION"),
        uptime_seconds: shared.started.elapsed().as_secs(),
        events_per_second,
        snapshot,
    };
    (
        [(header::CONTENT_TYPE, "application/json")],
        serde_json::to_string_pretty(&status).unwrap_or_default(),
    )
        .into_response()
}
