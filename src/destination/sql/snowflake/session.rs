//! A session with Snowflake by the endpoints of its drivers: login, statements, polling of long
//! ones, renewal, results in pieces.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::answer::{
    LoggedIn, QueryAnswer, QueryData, QueryEnvelope, Renewed, SessionInfo, piece_rows,
};
use super::failure::{IN_PROGRESS, TOKEN_EXPIRED, failure, refused_login};
use super::login::Login;
use crate::cause::chain;
use crate::clock;
use crate::destination::Failure;
use crate::destination::sql::{GOODBYE_WAIT_MAX, LOCK_WAIT_MAX, Parameter};
use crate::http::{Patience, asked_wait, comes_again};

/// How long a request is repeated that gets no answer, or is answered with a request to retry.
const RETRY_TIME_MAX: Duration = Duration::from_secs(60);
/// The same of a login: the caller reports the outage and retries by itself.
const LOGIN_RETRY_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a statement may run.
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(3600);
/// Between two polls of a statement that still runs, where Snowflake does not delay its answer.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How often a token may be renewed for one request.
const RENEWALS_MAX: u32 = 2;

/// How every session is set. Names are case-sensitive, whatever the account prefers.
fn parameters() -> Value {
    json!({
        "AUTOCOMMIT": true,
        "TIMEZONE": "UTC",
        "QUOTED_IDENTIFIERS_IGNORE_CASE": false,
        "TRANSACTION_ABORT_ON_ERROR": true,
        "ERROR_ON_NONDETERMINISTIC_MERGE": true,
        "LOCK_TIMEOUT": LOCK_WAIT_MAX.as_secs(),
        "STATEMENT_TIMEOUT_IN_SECONDS": STATEMENT_TIME_MAX.as_secs(),
        "GO_QUERY_RESULT_FORMAT": "JSON",
        "QUERY_TAG": "eds",
    })
}

/// A session. Snowflake ends it after hours without renewal.
pub struct SnowflakeSession {
    http: reqwest::Client,
    login: Login,
    token: SecretString,
    master: SecretString,
    /// When the session expires, unless it is renewed.
    until: Instant,
    info: SessionInfo,
    /// How many statements it has run.
    statements: u64,
}

/// How many seconds a session is valid, where Snowflake does not say.
const MASTER_SECONDS: u64 = 4 * 3600;

impl SnowflakeSession {
    /// Logs in.
    pub async fn open(login: Login) -> Result<SnowflakeSession, Failure> {
        let agent = concat!("EDS/", env!("CARGO_PKG_VERSION"));
        let http = reqwest::Client::builder()
            .user_agent(agent)
            .connect_timeout(login.connect_wait)
            .timeout(login.request_wait)
            .build();
        let http =
            http.map_err(|e| Failure::unavailable(format!("the HTTP client cannot be made: {e}")))?;
        let nobody = SecretString::from("");
        let mut session = SnowflakeSession {
            http,
            login,
            token: nobody.clone(),
            master: nobody,
            until: Instant::now(),
            info: SessionInfo::default(),
            statements: 0,
        };
        session.log_in().await?;
        Ok(session)
    }

    /// The database and the schema that the session works in, as Snowflake writes them. Fails where
    /// one of them, or a warehouse, is missing or not granted to the user.
    pub fn namespace(&self) -> Result<(String, String), Failure> {
        let user = &self.login.user;
        let may_not = |what: &str, name: &str| {
            Failure::misconfigured(format!(
                "Snowflake has no {what} {name:?} for user {user:?}: make it, or GRANT USAGE on it"
            ))
        };
        let info = self.info.clone();
        let database =
            info.database_name.ok_or_else(|| may_not("database", &self.login.database))?;
        let schema = info.schema_name.ok_or_else(|| may_not("schema", &self.login.schema))?;
        if info.warehouse_name.is_none() {
            let text = format!(
                "user {user:?} has no warehouse in Snowflake: name one with ?warehouse=, or ALTER \
                 USER … SET DEFAULT_WAREHOUSE; the role needs USAGE on it"
            );
            return Err(Failure::misconfigured(text));
        }
        Ok((database, schema))
    }

    /// Whether the session has expired.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Begins a new session, without the temporary tables and the stage of an earlier one.
    pub async fn log_in(&mut self) -> Result<(), Failure> {
        let (data, fingerprint) = self.login.credentials(parameters())?;
        let path = self.login.path();
        let envelope = self
            .send(&path, Some(&json!({ "data": data }).to_string()), None, LOGIN_RETRY_TIME_MAX)
            .await?;
        if !envelope.success {
            let message = envelope.message.clone().unwrap_or_default();
            return Err(refused_login(
                &envelope.code(),
                &message,
                &self.login.user,
                &self.login.base,
                fingerprint.as_deref(),
            ));
        }
        let LoggedIn { token, master_token, master_validity_in_seconds, session_info } =
            envelope.data()?;
        (self.token, self.master, self.info) = (token, master_token, session_info);
        self.until = Instant::now()
            + Duration::from_secs(master_validity_in_seconds.unwrap_or(MASTER_SECONDS));
        Ok(())
    }

    /// Runs a statement to its end. The account's query history shows `tag`.
    pub async fn run(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
        tag: &str,
    ) -> Result<QueryAnswer, Failure> {
        self.statements += 1;
        let bindings: BTreeMap<String, Value> =
            parameters.iter().enumerate().map(|(i, p)| ((i + 1).to_string(), binding(p))).collect();
        let body = json!({
            "sqlText": sql,
            "asyncExec": false,
            "sequenceId": self.statements,
            "querySubmissionTime": clock::now_ms(),
            "bindings": bindings,
            "parameters": { "QUERY_TAG": tag },
        });
        // A repeated request of the same id is answered with the result of the first.
        let path = format!("/queries/v1/query-request?requestId={}", Uuid::new_v4());
        let started = Instant::now();
        let mut envelope = self.ask(&path, Some(&body.to_string())).await?;
        while IN_PROGRESS.contains(&envelope.code().as_str()) {
            let asked = Instant::now();
            let url = envelope.data::<QueryData>()?.get_result_url.ok_or_else(|| {
                Failure::unavailable(
                    "Snowflake did not say where the result of a statement will be",
                )
            })?;
            if started.elapsed() > STATEMENT_TIME_MAX {
                return Err(Failure::unavailable(format!(
                    "a statement in Snowflake took longer than {STATEMENT_TIME_MAX:?}"
                )));
            }
            envelope = self.ask(&url, None).await?;
            tokio::time::sleep_until(asked + POLL_INTERVAL).await;
        }
        if !envelope.success {
            return Err(failure(&envelope.code(), envelope.message.as_deref().unwrap_or_default()));
        }
        self.answer(envelope.data()?).await
    }

    async fn answer(&self, data: QueryData) -> Result<QueryAnswer, Failure> {
        if data.rowset_base64.is_some_and(|rows| !rows.is_empty()) {
            return Err(Failure::unavailable(
                "Snowflake answered in Arrow, though it was asked for JSON",
            ));
        }
        let mut rows = data.rowset.unwrap_or_default();
        for chunk in data.chunks.unwrap_or_default() {
            rows.extend(
                self.fetch(&chunk.url, data.chunk_headers.as_ref(), data.qrmk.as_deref()).await?,
            );
        }
        Ok(QueryAnswer {
            columns: data.rowtype.unwrap_or_default().into_iter().map(|t| t.name).collect(),
            rows,
            stage: data.stage_info,
        })
    }

    /// A further piece of a result, from the address that Snowflake names.
    async fn fetch(
        &self,
        url: &str,
        headers: Option<&BTreeMap<String, String>>,
        key: Option<&str>,
    ) -> Result<Vec<Vec<Option<String>>>, Failure> {
        let mut patience = Patience::new(RETRY_TIME_MAX);
        loop {
            let mut request = self.http.get(url);
            match (headers.filter(|h| !h.is_empty()), key) {
                (Some(headers), _) => {
                    request = headers
                        .iter()
                        .fold(request, |request, (name, value)| request.header(name, value));
                }
                (None, Some(key)) => {
                    request = request
                        .header("x-amz-server-side-encryption-customer-algorithm", "AES256")
                        .header("x-amz-server-side-encryption-customer-key", key);
                }
                (None, None) => {}
            }
            let got = async { request.send().await?.error_for_status()?.bytes().await };
            match got.await {
                Ok(body) => {
                    return piece_rows(&body).ok_or_else(|| {
                        Failure::unavailable("a piece of a result of Snowflake is damaged")
                    });
                }
                Err(e) if patience.pause(None).await => drop(e),
                Err(e) => {
                    return Err(Failure::unavailable(format!(
                        "a piece of a result of Snowflake cannot be fetched: {}",
                        chain(&e.without_url())
                    )));
                }
            }
        }
    }

    /// Sends a request with the session's token, and renews the token when it has expired.
    async fn ask(&mut self, path: &str, body: Option<&str>) -> Result<QueryEnvelope, Failure> {
        let mut renewals = 0;
        loop {
            let envelope = self.send(path, body, Some(&self.token), RETRY_TIME_MAX).await?;
            if envelope.code() != TOKEN_EXPIRED || renewals == RENEWALS_MAX {
                return Ok(envelope);
            }
            renewals += 1;
            self.renew().await?;
        }
    }

    async fn renew(&mut self) -> Result<(), Failure> {
        let body = json!({ "oldSessionToken": self.token.expose_secret(), "requestType": "RENEW" })
            .to_string();
        let path = format!("/session/token-request?requestId={}", Uuid::new_v4());
        let envelope = self.send(&path, Some(&body), Some(&self.master), RETRY_TIME_MAX).await?;
        if !envelope.success {
            self.until = Instant::now();
            return Err(Failure::unavailable(format!(
                "the session with Snowflake is over ({}): a new one begins",
                envelope.code()
            )));
        }
        let Renewed { session_token, master_token, master_validity } = envelope.data()?;
        (self.token, self.master) = (session_token, master_token);
        self.until =
            Instant::now() + Duration::from_secs(master_validity.unwrap_or(MASTER_SECONDS));
        tracing::debug!("the session with Snowflake was renewed");
        Ok(())
    }

    /// Sends a request, and repeats it until there is an answer or `time_max` has passed.
    async fn send(
        &self,
        path: &str,
        body: Option<&str>,
        token: Option<&SecretString>,
        time_max: Duration,
    ) -> Result<QueryEnvelope, Failure> {
        let (mut patience, started) = (Patience::new(time_max), clock::now_ms());
        let mut reason = "0".to_owned();
        for retry in 0u32.. {
            let joint = if path.contains('?') { '&' } else { '?' };
            let mut url =
                format!("{}{path}{joint}request_guid={}", self.login.base, Uuid::new_v4());
            if retry > 0 {
                url +=
                    &format!("&retryCount={retry}&retryReason={reason}&clientStartTime={started}");
            }
            let (why, asked) = match self.request(&url, body, token).send().await {
                Err(e) => (format!("no answer: {}", chain(&e.without_url())), None),
                Ok(response)
                    if comes_again(response.status()) || response.status().is_server_error() =>
                {
                    reason = response.status().as_u16().to_string();
                    (format!("it answered {}", response.status()), asked_wait(&response))
                }
                Ok(response) => match self.envelope(response).await? {
                    Ok(envelope) => return Ok(envelope),
                    Err(why) => (why, None),
                },
            };
            if !patience.pause(asked).await {
                return Err(Failure::unavailable(format!(
                    "Snowflake at {} cannot be reached: {why}",
                    self.login.base
                )));
            }
        }
        unreachable!("patience ends before the numbers do")
    }

    fn request(
        &self,
        url: &str,
        body: Option<&str>,
        token: Option<&SecretString>,
    ) -> reqwest::RequestBuilder {
        let request = body
            .map_or_else(|| self.http.get(url), |body| self.http.post(url).body(body.to_owned()))
            .header("Content-Type", "application/json")
            .header("Accept", "application/snowflake");
        match token {
            Some(token) => request
                .header("Authorization", format!("Snowflake Token=\"{}\"", token.expose_secret())),
            None => request,
        }
    }

    /// The envelope of an answer, or why there is none yet; fails where another try cannot help.
    async fn envelope(
        &self,
        response: reqwest::Response,
    ) -> Result<Result<QueryEnvelope, String>, Failure> {
        let status = response.status();
        let body = match response.bytes().await {
            Ok(body) => body,
            Err(e) => {
                return Ok(Err(format!("its answer broke off: {}", chain(&e.without_url()))));
            }
        };
        match serde_json::from_slice(&body) {
            Ok(envelope) => Ok(Ok(envelope)),
            Err(_) if !status.is_success() => Err(self.no_account(status)),
            Err(_) => Ok(Err("its answer is not JSON".to_owned())),
        }
    }

    fn no_account(&self, status: reqwest::StatusCode) -> Failure {
        let text = format!(
            "{} answered {status}: there is no such Snowflake account, or it is in another region; \
             the URL names it as organisation-account",
            self.login.base
        );
        Failure::misconfigured(text)
    }

    /// Ends the session; a server that does not take the goodbye is not waited for.
    pub async fn close(&mut self) {
        let url = format!("{}/session?delete=true&requestId={}", self.login.base, Uuid::new_v4());
        let goodbye = self
            .http
            .post(&url)
            .header("Content-Type", "application/json")
            .header("Authorization", format!("Snowflake Token=\"{}\"", self.token.expose_secret()));
        let _ = tokio::time::timeout(GOODBYE_WAIT_MAX, goodbye.body("{}").send()).await;
    }
}

fn binding(parameter: &Parameter) -> Value {
    match parameter {
        Parameter::Integer(n) => json!({ "type": "FIXED", "value": n.to_string() }),
        Parameter::Text(text) => json!({ "type": "TEXT", "value": text }),
    }
}
