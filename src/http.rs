//! GET over HTTP with bounded patience: what EDS asks of HQ and of a schema URL.

use std::time::Duration;

use crate::cause::chain;

/// How long one request may take.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(30);

/// What came of a request.
pub enum Answer {
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
        let client = reqwest::Client::builder().user_agent(agent).timeout(REQUEST_WAIT_MAX).build();
        client.map(|client| Http { client }).map_err(|e| format!("the HTTP client cannot be made: {e}"))
    }

    pub async fn get(&self, url: &str) -> Answer {
        let response = match self.client.get(url).header("Content-Type", "application/json").send().await {
            Ok(response) => response,
            Err(e) => return Answer::Unavailable(format!("no answer: {}", chain(&e.without_url()))),
        };
        let status = response.status();
        let id = response.headers().get("X-Request-Id").and_then(|v| v.to_str().ok()).map(|id| format!(", request {id}")).unwrap_or_default();
        if status == reqwest::StatusCode::NOT_FOUND {
            return Answer::NotFound;
        }
        if !status.is_success() {
            return Answer::Unavailable(format!("it answered {status}{id}"));
        }
        response.text().await.map_or_else(|e| Answer::Unavailable(format!("its answer broke off: {}{id}", chain(&e.without_url()))), Answer::Body)
    }
}
