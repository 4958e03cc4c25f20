//! Probes, metrics and status over HTTP, and what the status page does for whoever has its token.

pub mod alerts;
pub mod board;
pub mod desk;
pub mod exposition;
mod history;
mod host;
mod listener;
pub mod moment;
#[cfg(feature = "http")]
pub mod otlp;
mod page;
mod process;
pub mod top;
pub mod verdict;
#[cfg(feature = "http")]
pub mod webhook;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

use crate::clock::{Expiry, now_s};
use crate::pipeline::Progress;
use crate::pipeline::progress::{Phase, Snapshot};
pub use board::StatusBoard;
use desk::{Desk, ReadLetters};
use exposition::Exposition;
use history::{LastHour, SAMPLE_INTERVAL};
use listener::{BoundedListener, Lease};
use moment::ServerFacts;
use verdict::Problem;

/// A flush that takes longer hangs: `/livez` fails, so that whoever watches starts EDS anew. It is
/// longer than any answer of a database is waited for: one that is silent is an outage by then, and
/// no new start cures it.
pub const FLUSH_HANG_MAX: Duration = Duration::from_secs(600);
/// Between two tries to listen on a port that another process has.
const LISTEN_WAIT: Duration = Duration::from_secs(1);

/// What is shown of a process.
pub trait StatusSource: Send + Sync + 'static {
    /// The counts at this moment.
    fn snapshot(&self) -> Snapshot;
    /// What is counted.
    fn metrics(&self) -> Exposition;
    /// What only this process knows.
    fn facts(&self) -> ServerFacts;
    /// Why the process has to be started anew, if it has.
    fn hang(&self) -> Option<String>;
    /// What the page has to do with beyond the status, if anything.
    fn desk(&self) -> Option<Arc<dyn Desk>> {
        None
    }
}

/// A process that streams by itself.
pub struct OwnStatus {
    /// How far it is.
    pub progress: Arc<Progress>,
    /// A flush that takes longer hangs.
    pub flush_hang_max: Duration,
    /// When the credentials of NATS expire.
    pub creds_expiry: Expiry,
    /// Its dead letters.
    pub desk: Arc<dyn Desk>,
}

impl StatusSource for OwnStatus {
    fn snapshot(&self) -> Snapshot {
        self.progress.snapshot()
    }

    fn metrics(&self) -> Exposition {
        Exposition::parse(&self.progress.metrics())
    }

    fn facts(&self) -> ServerFacts {
        ServerFacts { credentials_expire_unix: self.creds_expiry.unix(), ..ServerFacts::default() }
    }

    fn hang(&self) -> Option<String> {
        flush_hangs(self.progress.flushing_for()?, self.flush_hang_max)
    }

    fn desk(&self) -> Option<Arc<dyn Desk>> {
        Some(self.desk.clone())
    }
}

fn flush_hangs(flushing: Duration, hang_max: Duration) -> Option<String> {
    let seconds = board::rounded(flushing);
    (flushing > hang_max)
        .then(|| format!("a flush has hung for {seconds:?}; it should take {hang_max:?} at most"))
}

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
    source: Arc<dyn StatusSource>,
    started: Instant,
    history: Mutex<LastHour>,
    /// As many pages as may be open.
    pages: Arc<Semaphore>,
    letters: ReadLetters,
    /// Held while a wrong token is answered.
    wrong_tokens: tokio::sync::Mutex<()>,
}

impl StatusState {
    fn history(&self) -> MutexGuard<'_, LastHour> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> Status {
        let (snapshot, server, at_unix) = (self.source.snapshot(), self.source.facts(), now_s());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at_unix,
            uptime_seconds: self.started.elapsed().as_secs(),
            events_per_second: self.history().events_per_second(),
            actions: desk::actions(self.source.desk().as_deref())
                .into_iter()
                .map(str::to_owned)
                .collect(),
            headline: verdict::headline(&snapshot),
            problems: verdict::problems(&snapshot, &server, at_unix),
            server,
            snapshot,
        }
    }

    /// Takes note of how it goes, without end.
    async fn watch(&self) {
        let mut turns = tokio::time::interval(SAMPLE_INTERVAL);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let snapshot = self.source.snapshot();
            self.history().sample((Instant::now(), now_s()), &snapshot);
        }
    }
}

/// `/status.json`: the snapshot, and what a reader would otherwise compute.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Of the program that serves it.
    pub version: String,
    /// The server's time, Unix seconds.
    pub at_unix: u64,
    /// For how long it has served.
    pub uptime_seconds: u64,
    /// Events that were done with per second, during the last ten seconds.
    pub events_per_second: f64,
    /// How it goes, in one sentence.
    pub headline: String,
    /// What somebody should know now, the worst first.
    pub problems: Vec<Problem>,
    /// What the page does for whoever has its token; nothing where there is none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
    /// What only the process that serves it knows.
    pub server: ServerFacts,
    /// How the stream goes.
    #[serde(flatten)]
    pub snapshot: Snapshot,
}

impl StatusServer {
    /// Listens on `bind`, port `port`; 0 means any free one. An error says what to do.
    pub async fn start(
        bind: IpAddr,
        port: u16,
        source: Arc<dyn StatusSource>,
    ) -> Result<StatusServer, String> {
        let listener = TcpListener::bind((bind, port))
            .await
            .map_err(|e| cannot_listen(SocketAddr::new(bind, port), &e))?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        Ok(StatusServer { task: tokio::spawn(serve(listener, source)), address })
    }
}

/// Why nothing can be told at this address, and what to do.
fn cannot_listen(address: SocketAddr, e: &std::io::Error) -> String {
    let cure = match e.kind() {
        ErrorKind::AddrInUse => {
            "another program has that port: choose another --port, or stop that program (`ss \
             -ltnp` names it)"
        }
        ErrorKind::AddrNotAvailable => "this machine has no such address: choose another --bind",
        ErrorKind::PermissionDenied => {
            "ports below 1024 need a right of their own: choose another --port"
        }
        _ => "choose another --port or --bind",
    };
    format!("health and metrics cannot be served at {address}: {e}; {cure}")
}

/// Listens on `bind`, port `port`, as soon as no other process does, and serves without end: a
/// server streams whether anybody can watch it or not.
pub async fn serve_when_free(bind: IpAddr, port: u16, source: Arc<dyn StatusSource>) {
    let mut is_told = false;
    loop {
        match TcpListener::bind((bind, port)).await {
            Ok(listener) => {
                if let Ok(address) = listener.local_addr() {
                    tracing::info!("status at http://{address}/status.json");
                }
                return serve(listener, source).await;
            }
            Err(e) if !is_told => {
                let why = cannot_listen(SocketAddr::new(bind, port), &e);
                tracing::warn!("{why}; EDS streams all the same, and tries again");
            }
            Err(_) => {}
        }
        is_told = true;
        tokio::time::sleep(LISTEN_WAIT).await;
    }
}

async fn serve(listener: TcpListener, source: Arc<dyn StatusSource>) {
    process::begin();
    let state = StatusState {
        source,
        started: Instant::now(),
        history: Mutex::default(),
        pages: Arc::new(Semaphore::new(page::PAGES_MAX)),
        letters: ReadLetters::default(),
        wrong_tokens: tokio::sync::Mutex::default(),
    };
    let shared = Arc::new(state);
    let guarded = page::routes().merge(desk::routes()).route("/status.json", get(status));
    // Where the port was opened to a network, its names there cannot be known.
    let guarded = match listener.local_addr().is_ok_and(|at| at.ip().is_loopback()) {
        true => guarded.layer(axum::middleware::from_fn(host::of_this_machine)),
        false => guarded,
    };
    let routes = Router::new()
        .route("/", get(ready))
        .route("/readyz", get(ready))
        .route("/livez", get(live))
        .route("/health", get(live))
        .route("/healthz", get(live))
        .route("/metrics", get(metrics))
        .merge(guarded)
        .layer(axum::middleware::map_response(closing))
        .with_state(shared.clone());
    let routes = routes.into_make_service_with_connect_info::<Lease>();
    let served = axum::serve(BoundedListener::new(listener), routes).into_future();
    tokio::select! {
        served = served => {
            if let Err(e) = served {
                tracing::warn!("the health endpoint ended: {e}");
            }
        }
        () = shared.watch() => {}
    }
}

/// One request for each connection: those that say nothing more make room.
async fn closing(mut response: Response) -> Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// 200 unless the process hangs: whatever else is wrong, a new start does not cure it.
async fn live(State(shared): State<Arc<StatusState>>) -> Response {
    match shared.source.hang() {
        None => (StatusCode::OK, "OK").into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

/// 200 while changes are streamed; 503 with the reason while they are not.
async fn ready(State(shared): State<Arc<StatusState>>) -> Response {
    let why = match shared.source.snapshot().state {
        Phase::Streaming | Phase::CaughtUp => return (StatusCode::OK, "OK").into_response(),
        Phase::Starting => "starting".to_owned(),
        Phase::Waiting(why) => why,
        Phase::Paused => "paused".to_owned(),
        Phase::Stopping => "shutting down".to_owned(),
        Phase::Stopped(why) => why.unwrap_or_else(|| "stopped".into()),
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

async fn metrics(State(shared): State<Arc<StatusState>>) -> Response {
    let all = all_metrics(&*shared.source).to_string();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], all).into_response()
}

/// What is counted, what is true at this moment, and what the system knows of this process.
fn all_metrics(source: &dyn StatusSource) -> Exposition {
    let mut all = source.metrics();
    let own = process::families("process_");
    let moment = moment::families(&source.snapshot(), &source.facts());
    moment.into_iter().chain(own).for_each(|family| all.put(family));
    all
}

async fn status(State(shared): State<Arc<StatusState>>) -> Response {
    (
        [(header::CONTENT_TYPE, "application/json")],
        serde_json::to_string_pretty(&shared.status()).unwrap_or_default(),
    )
        .into_response()
}
