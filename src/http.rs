//! HTTP with bounded patience: what EDS asks of HQ, of a schema URL, and of where an export's files
//! are.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, sleep};

use crate::backoff::{Backoff, Waits};
use crate::cause::chain;
use crate::clock;

/// How long one request may take.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long a request is repeated that gets no answer, or is told to come again.
pub const RETRY_TIME_MAX: Duration = Duration::from_secs(30);
/// Between two such tries; the longest holds whatever the server asks for.
const RETRY_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_millis(200), longest: Duration::from_secs(10) };

/// How long an upload may take.
#[cfg(any(feature = "server", feature = "snowflake"))]
const UPLOAD_WAIT_MAX: Duration = Duration::from_secs(120);

/// A request to HQ.
pub struct Request<'a> {
    pub method: Method,
    pub url: &'a str,
    pub token: Option<&'a SecretString>,
    /// JSON.
    pub body: Option<String>,
}

/// An answer, whatever it says.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub text: String,
    /// By which HQ finds the request in its logs.
    pub request_id: Option<String>,
}

/// What came of a request.
pub enum HttpAnswer {
    Body(String),
    /// 404: what was asked for does not exist.
    NotFound,
    /// Try again later; why.
    Unavailable(String),
}

/// A client that names itself.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
}

impl Http {
    pub fn new() -> Result<Http, String> {
        let agent = concat!("Shopmonkey EDS Server/", env!("CARGO_PKG_VERSION"));
        let client = reqwest::Client::builder()
            .user_agent(agent)
            .connect_timeout(REQUEST_WAIT_MAX)
            .read_timeout(REQUEST_WAIT_MAX)
            .build();
        client
            .map(|client| Http { client })
            .map_err(|e| format!("the HTTP client cannot be made: {e}"))
    }

    /// Sends the request, again and again for [`RETRY_TIME_MAX`] where nobody answers or the answer
    /// is to come again.
    pub async fn send(&self, request: Request<'_>) -> Result<Reply, String> {
        let mut patience = Patience::new(RETRY_TIME_MAX);
        loop {
            let (last, asked) = match self.send_once(&request).await {
                Ok((reply, asked)) if comes_again(reply.status) => (Ok(reply), asked),
                Ok((reply, _)) => return Ok(reply),
                Err(e) => (Err(format!("no answer: {}", chain(&e.without_url()))), None),
            };
            if !patience.pause(asked).await {
                return last;
            }
        }
    }

    async fn send_once(&self, request: &Request<'_>) -> reqwest::Result<(Reply, Option<Duration>)> {
        let mut built = self
            .client
            .request(request.method.clone(), request.url)
            .header("Content-Type", "application/json")
            .timeout(REQUEST_WAIT_MAX);
        if let Some(token) = request.token {
            built = built.bearer_auth(token.expose_secret());
        }
        if let Some(body) = &request.body {
            built = built.body(body.clone());
        }
        let response = built.send().await?;
        let asked = asked_wait(&response);
        let request_id =
            response.headers().get("X-Request-Id").and_then(|v| v.to_str().ok()).map(str::to_owned);
        let status = response.status();
        Ok((Reply { status, text: response.text().await?, request_id }, asked))
    }

    /// Asks for the bytes of `url` from `from` on; the answer's body is still to be read.
    pub async fn fetch(&self, url: &str, from: u64) -> reqwest::Result<reqwest::Response> {
        let mut built = self.client.get(url);
        if from > 0 {
            built = built.header("Range", format!("bytes={from}-"));
        }
        built.send().await
    }

    /// Uploads `content` to an address that was given out for it; the address may hold a signature
    /// and is not shown.
    #[cfg(any(feature = "server", feature = "snowflake"))]
    pub async fn put(
        &self,
        url: &str,
        content: bytes::Bytes,
        content_type: &str,
    ) -> Result<(), String> {
        let built = self
            .client
            .put(url)
            .header("Content-Type", content_type)
            .timeout(UPLOAD_WAIT_MAX)
            .body(content);
        let response =
            built.send().await.map_err(|e| format!("no answer: {}", chain(&e.without_url())))?;
        if response.status().is_success() {
            Ok(())
        } else {
            Err(format!("it answered {}", response.status()))
        }
    }

    /// All of what is at `url`, if it is not more than `bytes_max`.
    #[cfg(feature = "server")]
    pub async fn download(&self, url: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
        let failed =
            |e: reqwest::Error| format!("{url} cannot be downloaded: {}", chain(&e.without_url()));
        let mut response = self.client.get(url).send().await.map_err(failed)?;
        if !response.status().is_success() {
            return Err(format!("{url} cannot be downloaded: it answered {}", response.status()));
        }
        let mut all = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            if all.len() + piece.len() > bytes_max {
                return Err(format!("{url} is larger than {bytes_max} bytes"));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    pub async fn get(&self, url: &str) -> HttpAnswer {
        let response = match self
            .client
            .get(url)
            .header("Content-Type", "application/json")
            .timeout(REQUEST_WAIT_MAX)
            .send()
            .await
        {
            Ok(response) => response,
            Err(e) => {
                return HttpAnswer::Unavailable(format!("no answer: {}", chain(&e.without_url())));
            }
        };
        let status = response.status();
        let id = response
            .headers()
            .get("X-Request-Id")
            .and_then(|v| v.to_str().ok())
            .map(|id| format!(", request {id}"))
            .unwrap_or_default();
        if status == StatusCode::NOT_FOUND {
            return HttpAnswer::NotFound;
        }
        if !status.is_success() {
            return HttpAnswer::Unavailable(format!("it answered {status}{id}"));
        }
        response.text().await.map_or_else(
            |e| {
                HttpAnswer::Unavailable(format!(
                    "its answer broke off: {}{id}",
                    chain(&e.without_url())
                ))
            },
            HttpAnswer::Body,
        )
    }
}

/// The waits between tries of one request: doubling, spread a little, and bounded in all.
pub struct Patience {
    until: Instant,
    backoff: Backoff,
}

impl Patience {
    pub fn new(time_max: Duration) -> Patience {
        Patience { until: Instant::now() + time_max, backoff: Backoff::new(RETRY_WAITS) }
    }

    /// Waits, as long as the server asked for where it did; `false` where patience is at its end.
    pub async fn pause(&mut self, asked: Option<Duration>) -> bool {
        // Requests have no name that tells servers apart; the time of day does.
        let own = self.backoff.next(&clock::now_ns().to_string());
        let next = asked.unwrap_or(own).min(RETRY_WAITS.longest);
        let goes_on = Instant::now() + next < self.until;
        if goes_on {
            sleep(next).await;
        }
        goes_on
    }
}

/// How long the server asks to wait before the next try.
pub fn asked_wait(response: &reqwest::Response) -> Option<Duration> {
    response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse().ok())
        .map(Duration::from_secs)
}

/// Whether the answer means to come again a little later.
pub fn comes_again(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504)
}
