//! The HTTP client: bounded in time, with retries where a request may be repeated.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use reqwest::header::{HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Method, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, sleep};

use crate::backoff::{Backoff, Waits};
use crate::cause::chain;
use crate::clock;
#[cfg(feature = "server")]
use crate::secret::place;

/// How long one request may take, and how long a connection may stay silent.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(30);

/// How long [`Http::send`] repeats a request that gets no answer, or one of [`comes_again`].
pub const RETRY_TIME_MAX: Duration = Duration::from_secs(30);
/// Between two such tries; the longest holds whatever the server asks for.
const REQUEST_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_millis(200), longest: Duration::from_secs(10) };

/// How long an upload may take.
#[cfg(any(feature = "server", feature = "snowflake"))]
const UPLOAD_WAIT_MAX: Duration = Duration::from_secs(120);

/// A request with a JSON body.
pub struct Request<'a> {
    /// GET or POST; it is repeated, so it has to be safe to repeat.
    pub method: Method,
    /// Absolute.
    pub url: &'a str,
    /// Sent as a bearer token.
    pub token: Option<&'a SecretString>,
    /// JSON.
    pub body: Option<String>,
}

/// An answer of any status.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: StatusCode,
    /// The whole body.
    pub text: String,
    /// The header `X-Request-Id`, by which HQ finds the request in its logs.
    pub request_id: Option<String>,
}

/// The answer to [`Http::get`].
pub enum HttpAnswer {
    /// A success, with its body.
    Body(String),
    /// 404: there is no such thing.
    NotFound,
    /// A redirect or an error of ours, by its status (3xx, 4xx): the same request will hardly ever
    /// succeed.
    Refused(String),
    /// Anything else, and why; another try may succeed.
    Unavailable(String),
}

/// The client. Clones share its connections.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
}

impl Http {
    /// A client with no connections yet; an error if the machine has no TLS.
    pub fn new() -> Result<Http, String> {
        Http::redirected(Policy::default())
    }

    /// One that takes a redirect for the answer: what is posted, and the keys beside it, are for
    /// the address that was named and for no other.
    pub fn without_redirects() -> Result<Http, String> {
        Http::redirected(Policy::none())
    }

    fn redirected(policy: Policy) -> Result<Http, String> {
        let agent = concat!("Shopmonkey EDS Server/", env!("CARGO_PKG_VERSION"));
        let client = reqwest::Client::builder()
            .user_agent(agent)
            .redirect(policy)
            .connect_timeout(REQUEST_WAIT_MAX)
            .read_timeout(REQUEST_WAIT_MAX)
            .build();
        client
            .map(|client| Http { client })
            .map_err(|e| format!("the HTTP client cannot be made: {e}"))
    }

    /// Sends the request and repeats it for up to [`RETRY_TIME_MAX`] while there is no answer or
    /// one of [`comes_again`]. Returns the last answer, or why there was none.
    pub async fn send(&self, request: Request<'_>) -> Result<Reply, String> {
        let mut patience = Patience::new(RETRY_TIME_MAX);
        loop {
            let (last, asked) = match self.send_once(&request).await {
                Ok((reply, asked)) if comes_again(reply.status) => (Ok(reply), asked),
                Ok((reply, _)) => return Ok(reply),
                Err(why) => (Err(why), None),
            };
            if !patience.pause(asked).await {
                return last;
            }
        }
    }

    async fn send_once(&self, request: &Request<'_>) -> Result<(Reply, Option<Duration>), String> {
        let response = self.ask(request).await?;
        let (status, request_id) = (response.status(), request_id(&response));
        let asked = asked_wait(&response);
        let text = response.text().await.map_err(no_answer)?;
        Ok((Reply { status, text, request_id }, asked))
    }

    /// The beginning of the answer; the caller reads the body.
    async fn ask(&self, request: &Request<'_>) -> Result<Response, String> {
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
        built.send().await.map_err(no_answer)
    }

    /// Posts JSON once, with these headers; the status of the answer. An error does not show the
    /// address.
    pub async fn post_once(
        &self,
        url: &str,
        headers: &[(String, SecretString)],
        body: String,
    ) -> Result<StatusCode, String> {
        let mut built = self.client.post(url).header("Content-Type", "application/json");
        for (name, value) in headers {
            let mut value = HeaderValue::from_str(value.expose_secret())
                .map_err(|_| format!("the value of the header {name:?} cannot be sent"))?;
            value.set_sensitive(true);
            built = built.header(name, value);
        }
        let response = built.timeout(REQUEST_WAIT_MAX).body(body).send().await;
        response.map(|response| response.status()).map_err(no_answer)
    }

    /// Requests `url` once, from byte `from` on; the server may ignore that. The caller reads the
    /// body.
    pub async fn fetch(&self, url: &str, from: u64) -> reqwest::Result<Response> {
        let mut built = self.client.get(url);
        if from > 0 {
            built = built.header("Range", format!("bytes={from}-"));
        }
        built.send().await
    }

    /// Uploads `content` to `url` once. An error does not show the address, which may be signed.
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
        let response = built.send().await.map_err(no_answer)?;
        if response.status().is_success() {
            Ok(())
        } else {
            Err(format!("it answered {}", response.status()))
        }
    }

    /// Downloads the whole body of `url` once; an error if it has more than `bytes_max` bytes.
    #[cfg(feature = "server")]
    pub async fn download(&self, url: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
        let failed = |e: reqwest::Error| {
            format!("{} cannot be downloaded: {}", place(url), chain(&e.without_url()))
        };
        let mut response = self.client.get(url).send().await.map_err(failed)?;
        if !response.status().is_success() {
            let (place, status) = (place(url), response.status());
            return Err(format!("{place} cannot be downloaded: it answered {status}"));
        }
        let mut all = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(failed)? {
            if all.len() + piece.len() > bytes_max {
                return Err(format!("{} is larger than {bytes_max} bytes", place(url)));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }

    /// Requests `url` once.
    pub async fn get(&self, url: &str) -> HttpAnswer {
        let request = Request { method: Method::GET, url, token: None, body: None };
        let response = match self.ask(&request).await {
            Ok(response) => response,
            Err(why) => return HttpAnswer::Unavailable(why),
        };
        let status = response.status();
        let id = request_id(&response).map(|id| format!(", request {id}")).unwrap_or_default();
        if status == StatusCode::NOT_FOUND {
            return HttpAnswer::NotFound;
        }
        if !status.is_success() {
            let why = format!("it answered {status}{id}");
            return match comes_again(status) || status.is_server_error() {
                true => HttpAnswer::Unavailable(why),
                false => HttpAnswer::Refused(why),
            };
        }
        match response.text().await {
            Ok(body) => HttpAnswer::Body(body),
            Err(e) => {
                let why = chain(&e.without_url());
                HttpAnswer::Unavailable(format!("its answer broke off: {why}{id}"))
            }
        }
    }
}

/// Does not show the address, which may be signed.
fn no_answer(error: reqwest::Error) -> String {
    format!("no answer: {}", chain(&error.without_url()))
}

fn request_id(response: &Response) -> Option<String> {
    response.headers().get("X-Request-Id").and_then(|v| v.to_str().ok()).map(str::to_owned)
}

/// The waits between the tries of one request, with a deadline over all.
pub struct Patience {
    until: Instant,
    backoff: Backoff,
}

impl Patience {
    /// No wait goes beyond `time_max` from now.
    pub fn new(time_max: Duration) -> Patience {
        Patience { until: Instant::now() + time_max, backoff: Backoff::new(REQUEST_WAITS) }
    }

    /// Waits before the next try, as long as the server `asked` for if it did, up to 10 seconds.
    /// Returns false at once if the wait would go beyond the deadline.
    pub async fn pause(&mut self, asked: Option<Duration>) -> bool {
        // Requests have no name that tells servers apart; the time of day does.
        let own = self.backoff.next(&clock::now_ns().to_string());
        let next = asked.unwrap_or(own).min(REQUEST_WAITS.longest);
        let goes_on = Instant::now() + next < self.until;
        if goes_on {
            sleep(next).await;
        }
        goes_on
    }
}

/// What need not be encoded in a URL (RFC 3986, 2.3): not every server takes `%2D` for `-`.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// `text` as one part of the path of a URL.
pub fn path_part(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, UNRESERVED)
}

/// The wait that the server asks for by the header `Retry-After` in seconds.
pub fn asked_wait(response: &Response) -> Option<Duration> {
    response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.parse().ok())
        .map(Duration::from_secs)
}

/// Whether the status means that the same request may succeed a little later.
pub fn comes_again(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 502 | 503 | 504)
}
