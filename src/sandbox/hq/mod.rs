//! A local HQ: schemas, export jobs and their files, servers and their sessions; with faults that
//! tests choose.

#[cfg(feature = "jetstream")]
pub mod nats;
#[cfg(feature = "jetstream")]
mod sessions;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::export::{self, Choice, Written};
use super::shop::Shop;
#[cfg(feature = "jetstream")]
pub use sessions::{SessionRecord, Upload};

/// Between the last piece of a download and its break.
const CUT_DELAY: Duration = Duration::from_millis(50);

/// The most bytes of an upload.
const UPLOAD_BYTES_MAX: usize = 64 << 20;
/// Pieces of a body that is sent slowly.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces of other bodies.
const QUICK_PIECE_BYTES: usize = 256 << 10;

/// What goes wrong; by default nothing.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Exports of these tables fail.
    pub failing_tables: Vec<String>,
    /// How long a job takes.
    pub job_takes: Duration,
    /// The first so many answers of the API are 503.
    pub unavailable: u32,
    /// The first so many downloads of each file break off half way.
    pub cut_downloads: u32,
    /// Downloads start at the beginning, whatever is asked for.
    pub ignores_ranges: bool,
    /// The time between two pieces of a download.
    pub slow: Duration,
    /// The addresses of files in the first answer about a job have expired.
    pub expired: bool,
    /// The next so many sessions are refused because another one is open.
    pub conflicts: u32,
    /// The next so many answers of the API are 429, with a second to wait.
    pub too_many: u32,
    /// The next so many answers of the API have another form.
    pub odd_answers: u32,
    /// The time before each answer of the API.
    pub thinks: Duration,
    /// How long credentials of NATS hold; `None`: for ever.
    pub credential_life: Option<Duration>,
    /// All answers of the API have this status; those with 200 are the page of somebody else.
    pub answers: Option<u16>,
    /// An answer of `answers` has HQ's own form.
    pub in_own_words: bool,
    /// All answers about schemas have this status.
    pub schemas: Option<u16>,
    /// A session is refused as long as another one of its server is open.
    pub one_session: bool,
}

struct SandboxJob {
    ordered: Instant,
    choice: Choice,
    cursor: String,
    files: Vec<Written>,
}

struct Inner {
    shop: Arc<Mutex<Shop>>,
    folder: PathBuf,
    rows_per_file: usize,
    token: Option<String>,
    faults: Mutex<Faults>,
    refusals: AtomicU32,
    jobs: Mutex<HashMap<String, Arc<SandboxJob>>>,
    /// Downloads of each file, with the ranges that were asked for.
    downloads: Mutex<HashMap<String, Vec<u64>>>,
    looks: AtomicU32,
    base: String,
    #[cfg(feature = "jetstream")]
    book: Mutex<sessions::SessionBook>,
}

impl Inner {
    /// Whether one more of these faults is due.
    fn take(&self, count: impl FnOnce(&mut Faults) -> &mut u32) -> bool {
        let mut faults = locked(&self.faults);
        let left = count(&mut faults);
        let due = *left > 0;
        *left = left.saturating_sub(1);
        due
    }

    /// Whether this one may ask. Where nobody has a key, everybody may.
    fn knows(&self, bearer: Option<&str>) -> bool {
        #[cfg(feature = "jetstream")]
        {
            let book = locked(&self.book);
            if bearer.is_some_and(|bearer| book.knows(bearer)) {
                return true;
            }
            if self.token.is_none() && book.has_enrolled() {
                return false;
            }
        }
        self.token.is_none() || bearer == self.token.as_deref()
    }
}

/// A local HQ; it ends when this is dropped.
pub struct SandboxHq {
    inner: Arc<Inner>,
    serving: JoinHandle<()>,
}

impl Drop for SandboxHq {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SandboxHq {
    /// Serves `shop` on `port` of this machine, 0 for a free one. Files of exports, of so many rows
    /// each at most, go into `folder`. `token`: the only one that is accepted; without one, and as
    /// long as no server has enrolled, everybody is.
    pub async fn start(
        port: u16,
        shop: Arc<Mutex<Shop>>,
        folder: PathBuf,
        rows_per_file: usize,
        token: Option<String>,
    ) -> std::io::Result<SandboxHq> {
        let listener =
            tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], port))).await?;
        let base = format!("http://{}", listener.local_addr()?);
        let inner = Arc::new(Inner {
            shop,
            folder,
            rows_per_file,
            token,
            faults: Mutex::default(),
            refusals: AtomicU32::new(0),
            jobs: Mutex::default(),
            downloads: Mutex::default(),
            looks: AtomicU32::new(0),
            base,
            #[cfg(feature = "jetstream")]
            book: Mutex::default(),
        });
        let api = Router::new()
            .route("/v3/export/bulk", post(order))
            .route("/v3/export/bulk/{job}", get(look));
        #[cfg(feature = "jetstream")]
        let api = api
            .route("/v3/eds/internal", post(sessions::start))
            .route("/v3/eds/internal/{session}", post(sessions::end))
            .route("/v3/eds/internal/{session}/log", post(sessions::log));
        let api = api
            .layer(middleware::from_fn_with_state(inner.clone(), known))
            .route("/v3/schema", get(schemas))
            .route("/v3/schema/{object}/{version}", get(schema))
            .route("/files/{key}/{job}/{name}", get(file));
        #[cfg(feature = "jetstream")]
        let api = api
            .route("/v3/eds/internal/enroll/{code}", get(sessions::enroll))
            .route("/uploads/{session}/{kind}", axum::routing::put(sessions::upload))
            .route("/releases/download/{tag}/{file}", get(sessions::release));
        let api = api
            .layer(axum::extract::DefaultBodyLimit::max(UPLOAD_BYTES_MAX))
            .with_state(inner.clone());
        let serving = tokio::spawn(async move {
            // It ends with its owner only.
            let _ = axum::serve(listener, api).await;
        });
        Ok(SandboxHq { inner, serving })
    }

    /// HQ's address.
    pub fn url(&self) -> &str {
        &self.inner.base
    }

    /// From now on these faults happen, and their counts begin again.
    pub fn set_faults(&self, faults: Faults) {
        self.inner.refusals.store(faults.unavailable, Ordering::Release);
        *locked(&self.inner.faults) = faults;
    }

    /// From which byte on each file was asked for, download by download.
    pub fn downloads(&self) -> HashMap<String, Vec<u64>> {
        locked(&self.inner.downloads).clone()
    }
}

/// Another one for each request, as HQ has it.
fn request_id() -> String {
    static REQUESTS: AtomicU64 = AtomicU64::new(1);
    format!("req-{}", REQUESTS.fetch_add(1, Ordering::Relaxed))
}

fn answer(status: StatusCode, body: &Value) -> Response {
    let id = request_id();
    (
        status,
        [
            (header::CONTENT_TYPE, "application/json"),
            (header::HeaderName::from_static("x-request-id"), id.as_str()),
        ],
        body.to_string(),
    )
        .into_response()
}

fn refused(status: StatusCode, message: &str) -> Response {
    answer(status, &json!({"success": false, "message": message}))
}

/// Who has no right, or comes at a bad time, gets no further.
async fn known(State(hq): State<Arc<Inner>>, request: Request, next: Next) -> Response {
    let bearer = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "));
    let thinks = locked(&hq.faults).thinks;
    tokio::time::sleep(thinks).await;
    if let Some(response) = fault(&hq) {
        return response;
    }
    if !hq.knows(bearer) {
        return refused(StatusCode::UNAUTHORIZED, "invalid api key");
    }
    if hq.take(|faults| &mut faults.too_many) {
        return (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, "1")], "slower")
            .into_response();
    }
    if hq.take(|faults| &mut faults.odd_answers) {
        return answer(StatusCode::OK, &json!({"success": "perhaps", "data": 7}));
    }
    if hq.refusals.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1)).is_ok() {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "0")], "later")
            .into_response();
    }
    next.run(request).await
}

/// The answer of the fault that lasts.
fn fault(hq: &Inner) -> Option<Response> {
    let faults = locked(&hq.faults);
    let status = StatusCode::from_u16(faults.answers?).unwrap_or_default();
    if faults.in_own_words {
        return Some(refused(status, "as the test wants it"));
    }
    let page = "<!doctype html><title>A page of somebody else</title>";
    Some((status, [(header::CONTENT_TYPE, "text/html")], page).into_response())
}

async fn schemas(State(hq): State<Arc<Inner>>) -> Response {
    if let Some(status) = locked(&hq.faults).schemas {
        return refused(StatusCode::from_u16(status).unwrap_or_default(), "no schemas now");
    }
    let map = locked(&hq.shop).schema_map();
    ([(header::CONTENT_TYPE, "application/json")], map).into_response()
}

async fn schema(
    State(hq): State<Arc<Inner>>,
    Path((object, version)): Path<(String, String)>,
) -> Response {
    let shop = locked(&hq.shop);
    let found = shop
        .tables
        .iter()
        .position(|t| t.name == object && t.version == version)
        .and_then(|at| shop.schemas().into_iter().nth(at));
    found.map_or_else(
        || refused(StatusCode::NOT_FOUND, "no such schema"),
        |json| ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
    )
}

fn names(body: &Value, key: &str) -> Vec<String> {
    body[key]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// The rows are those of this moment, however long the job takes.
async fn order(State(hq): State<Arc<Inner>>, body: Bytes) -> Response {
    let Ok(body) = serde_json::from_slice::<Value>(&body) else {
        return refused(StatusCode::BAD_REQUEST, "not JSON");
    };
    let choice = Choice { tables: names(&body, "tables"), companies: names(&body, "companyIds") };
    let shop = locked(&hq.shop).clone();
    let id = uuid::Uuid::new_v4().to_string();
    let (folder, rows, chosen) = (hq.folder.join(&id), hq.rows_per_file, choice.clone());
    let cursor = shop.version().nanos.to_string();
    let ordered = Instant::now();
    let written =
        tokio::task::spawn_blocking(move || export::write(&shop, &folder, &chosen, rows)).await;
    match written {
        Ok(Ok(files)) => {
            locked(&hq.jobs)
                .insert(id.clone(), Arc::new(SandboxJob { ordered, choice, cursor, files }));
            answer(StatusCode::OK, &json!({"success": true, "data": {"jobId": id}}))
        }
        _ => refused(StatusCode::INTERNAL_SERVER_ERROR, "the export cannot be written"),
    }
}

async fn look(State(hq): State<Arc<Inner>>, Path(id): Path<String>) -> Response {
    let Some(job) = locked(&hq.jobs).get(&id).cloned() else {
        return refused(StatusCode::NOT_FOUND, "no such job");
    };
    let faults = locked(&hq.faults).clone();
    let completed = job.ordered.elapsed() >= faults.job_takes;
    let look = if completed { hq.looks.fetch_add(1, Ordering::AcqRel) } else { 0 };
    let key = if faults.expired && look == 0 { "old" } else { "new" };
    let mut tables = serde_json::Map::new();
    let all: Vec<String> = locked(&hq.shop)
        .tables
        .iter()
        .map(|t| t.name.to_owned())
        .filter(|t| job.choice.tables.is_empty() || job.choice.tables.contains(t))
        .collect();
    for table in all {
        let urls: Vec<String> = job
            .files
            .iter()
            .filter(|f| f.table == table)
            .map(|f| format!("{}/files/{key}/{id}/{}?signature=s3cret", hq.base, f.name))
            .collect();
        let status = match (faults.failing_tables.contains(&table), completed) {
            (true, _) => json!({"status": "Failed", "error": "the disk is full", "urls": []}),
            (_, true) => json!({"status": "Completed", "urls": urls, "cursor": job.cursor}),
            _ => json!({"status": "Pending", "urls": null}),
        };
        tables.insert(table, status);
    }
    answer(
        StatusCode::OK,
        &json!({"success": true, "data": {"completed": completed, "tables": tables}}),
    )
}

async fn file(
    State(hq): State<Arc<Inner>>,
    Path((key, job, name)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let faults = locked(&hq.faults).clone();
    if faults.expired && key == "old" {
        return StatusCode::FORBIDDEN.into_response();
    }
    let known = locked(&hq.jobs).get(&job).is_some_and(|j| j.files.iter().any(|f| f.name == name));
    let content = match known {
        true => tokio::fs::read(hq.folder.join(&job).join(&name)).await.map(Bytes::from),
        false => return StatusCode::NOT_FOUND.into_response(),
    };
    let Ok(content) = content else { return StatusCode::INTERNAL_SERVER_ERROR.into_response() };
    let range = headers
        .get(header::RANGE)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let from = range.filter(|_| !faults.ignores_ranges);
    let nth = {
        let mut downloads = locked(&hq.downloads);
        let of_file = downloads.entry(name).or_default();
        of_file.push(from.unwrap_or(0) as u64);
        of_file.len() as u32
    };
    let total = content.len();
    if from.is_some_and(|from| from >= total) {
        return (
            StatusCode::RANGE_NOT_SATISFIABLE,
            [(header::CONTENT_RANGE, format!("bytes */{total}"))],
        )
            .into_response();
    }
    let rest = content.slice(from.unwrap_or(0)..);
    let length = rest.len();
    let cut = nth <= faults.cut_downloads;
    let content = slow_body(rest, cut, faults.slow);
    let status = if from.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    let mut response = Response::builder().status(status).header(header::CONTENT_LENGTH, length);
    if let Some(from) = from {
        response =
            response.header(header::CONTENT_RANGE, format!("bytes {from}-{}/{total}", total - 1));
    }
    response.body(content).unwrap_or_else(|_| StatusCode::INTERNAL_SERVER_ERROR.into_response())
}

/// A body that is sent in pieces with `slow` between them; if it is `cut`, it breaks off half way.
fn slow_body(rest: Bytes, cut: bool, slow: Duration) -> Body {
    let length = rest.len();
    let sent = if cut { rest.slice(..length / 2) } else { rest };
    let broken = sent.len() < length;
    let piece_bytes = if slow.is_zero() { QUICK_PIECE_BYTES } else { PIECE_BYTES };
    Body::from_stream(futures::stream::unfold(
        (sent, broken),
        move |(mut left, broken)| async move {
            if left.is_empty() {
                if broken {
                    // What was sent arrives first: a connection that breaks may take it along.
                    tokio::time::sleep(CUT_DELAY).await;
                }
                return broken.then(|| (Err(std::io::Error::other("cut")), (left, false)));
            }
            tokio::time::sleep(slow).await;
            let piece = left.split_to(left.len().min(piece_bytes));
            Some((Ok(piece), (left, broken)))
        },
    ))
}
