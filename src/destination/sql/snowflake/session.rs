//! A session with Snowflake by the endpoints of its drivers: login, statements, long ones, renewal,
//! results in pieces.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::failure::{IN_PROGRESS, TOKEN_EXPIRED, failure, refused_login};
use super::login::{Login, Proof};
use super::stage::StageInfo;
use crate::cause::chain;
use crate::clock;
use crate::destination::sql::Parameter;
use crate::destination::{Failure, FailureKind};
use crate::http::{Patience, asked_wait, comes_again};

/// How long one request may take; Snowflake answers within a minute, if only that the statement
/// still runs.
const REQUEST_WAIT_MAX: Duration = Duration::from_secs(120);
/// How long a request is repeated that gets no answer, or is told to come again.
const RETRY_TIME_MAX: Duration = Duration::from_secs(60);
/// The same of a login: whoever waits for it says so, and tries again.
const LOGIN_RETRY_TIME_MAX: Duration = Duration::from_secs(5);
/// How long a statement may run.
const STATEMENT_TIME_MAX: Duration = Duration::from_secs(3600);
/// Between two questions for a statement that still runs, where Snowflake does not hold the
/// question itself.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How often a token may be renewed for one request.
const RENEWALS_MAX: u32 = 2;
/// The longest that a lock is waited for, before the batch is tried again.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);

/// What every session is set to. Names count as they are written, whatever the account prefers.
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

/// What an answer brought.
#[derive(Debug, Default)]
pub struct QueryAnswer {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<Option<String>>>,
    /// Where a file is to be put, if that was asked.
    pub stage: Option<StageInfo>,
}

impl QueryAnswer {
    /// The values of the column of this name, in any case.
    pub fn column(&self, name: &str) -> impl Iterator<Item = &str> {
        let at = self.columns.iter().position(|column| column.eq_ignore_ascii_case(name));
        self.rows.iter().filter_map(move |row| row.get(at?)?.as_deref())
    }
}

#[derive(Deserialize)]
struct QueryEnvelope {
    #[serde(default)]
    success: bool,
    #[serde(default)]
    code: Value,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    data: Option<Box<RawValue>>,
}

impl QueryEnvelope {
    fn code(&self) -> String {
        match &self.code {
            Value::String(code) => code.clone(),
            Value::Number(code) => format!("{code:0>6}"),
            _ => String::new(),
        }
    }

    fn data<T: for<'d> Deserialize<'d>>(&self) -> Result<T, Failure> {
        let text = self.data.as_ref().map_or("{}", |data| data.get());
        // What serde says of it may quote rows.
        serde_json::from_str(text).map_err(|_| {
            Failure::unavailable("Snowflake answered in a form that EDS does not know")
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoggedIn {
    token: SecretString,
    master_token: SecretString,
    #[serde(default)]
    master_validity_in_seconds: Option<u64>,
    #[serde(default)]
    session_info: SessionInfo,
}

/// What the session works with; empty where the login found none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SessionInfo {
    pub database_name: Option<String>,
    pub schema_name: Option<String>,
    pub warehouse_name: Option<String>,
    pub role_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Renewed {
    session_token: SecretString,
    master_token: SecretString,
    #[serde(rename = "validityInSecondsMT", default)]
    master_validity: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Data {
    rowtype: Option<Vec<RowType>>,
    rowset: Option<Vec<Vec<Option<String>>>>,
    rowset_base64: Option<String>,
    chunks: Option<Vec<ResultChunk>>,
    chunk_headers: Option<BTreeMap<String, String>>,
    qrmk: Option<String>,
    get_result_url: Option<String>,
    stage_info: Option<StageInfo>,
}

#[derive(Deserialize)]
struct RowType {
    name: String,
}

#[derive(Deserialize)]
struct ResultChunk {
    url: String,
}

pub struct SnowflakeSession {
    http: reqwest::Client,
    login: Login,
    token: SecretString,
    master: SecretString,
    /// When the session is over, if nobody renews it.
    until: Instant,
    pub info: SessionInfo,
    statements: u64,
}

/// The four hours that Snowflake gives a session, where it does not say otherwise.
const MASTER_TIME: u64 = 4 * 3600;

impl SnowflakeSession {
    pub async fn open(login: Login) -> Result<SnowflakeSession, Failure> {
        let agent = concat!("EDS/", env!("CARGO_PKG_VERSION"));
        let http = reqwest::Client::builder()
            .user_agent(agent)
            .connect_timeout(Duration::from_secs(15))
            .timeout(REQUEST_WAIT_MAX)
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

    /// Whether the session ended while nothing was to be done.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Begins a session; an earlier one's temporary tables and stage are gone.
    pub async fn log_in(&mut self) -> Result<(), Failure> {
        let (data, fingerprint) = credentials(&self.login)?;
        let path = login_path(&self.login);
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
        self.until =
            Instant::now() + Duration::from_secs(master_validity_in_seconds.unwrap_or(MASTER_TIME));
        Ok(())
    }

    /// Runs a statement to its end. `tag` is what the account's query history shows.
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
        // Under the same id a repeated request is answered with what the first came to.
        let path = format!("/queries/v1/query-request?requestId={}", Uuid::new_v4());
        let started = Instant::now();
        let mut envelope = self.ask(&path, Some(&body.to_string())).await?;
        while IN_PROGRESS.contains(&envelope.code().as_str()) {
            let asked = Instant::now();
            let url = envelope.data::<Data>()?.get_result_url.ok_or_else(|| {
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

    async fn answer(&self, data: Data) -> Result<QueryAnswer, Failure> {
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

    /// A further piece of a result: rows without the brackets around them, packed.
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
                    return rows(&body).ok_or_else(|| {
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

    /// Asks in the name of the session, whose token is renewed where it has to be.
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
        self.until = Instant::now() + Duration::from_secs(master_validity.unwrap_or(MASTER_TIME));
        tracing::debug!("the session with Snowflake was renewed");
        Ok(())
    }

    /// Sends one request, again and again where nobody answers or the answer is to come again.
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
            let mut request = body.map_or_else(
                || self.http.get(&url),
                |body| self.http.post(&url).body(body.to_owned()),
            );
            request = request
                .header("Content-Type", "application/json")
                .header("Accept", "application/snowflake");
            if let Some(token) = token {
                request = request.header(
                    "Authorization",
                    format!("Snowflake Token=\"{}\"", token.expose_secret()),
                );
            }
            let (why, asked) = match request.send().await {
                Err(e) => (format!("no answer: {}", chain(&e.without_url())), None),
                Ok(response)
                    if comes_again(response.status()) || response.status().is_server_error() =>
                {
                    reason = response.status().as_u16().to_string();
                    (format!("it answered {}", response.status()), asked_wait(&response))
                }
                Ok(response) => {
                    let status = response.status();
                    match response
                        .bytes()
                        .await
                        .map_err(|e| chain(&e.without_url()))
                        .map(|body| serde_json::from_slice(&body))
                    {
                        Ok(Ok(envelope)) => return Ok(envelope),
                        Ok(Err(_)) if !status.is_success() => return Err(self.no_account(status)),
                        Ok(Err(_)) => ("its answer is not JSON".to_owned(), None),
                        Err(why) => (format!("its answer broke off: {why}"), None),
                    }
                }
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

    fn no_account(&self, status: reqwest::StatusCode) -> Failure {
        let text = format!(
            "{} answered {status}: there is no such Snowflake account, or it is in another region; \
             the URL names it as organisation-account",
            self.login.base
        );
        Failure::new(FailureKind::Misconfigured, text)
    }

    /// Ends the session; a server that does not take the goodbye is left alone.
    pub async fn close(&mut self) {
        let url = format!("{}/session?delete=true&requestId={}", self.login.base, Uuid::new_v4());
        let goodbye = self
            .http
            .post(&url)
            .header("Content-Type", "application/json")
            .header("Authorization", format!("Snowflake Token=\"{}\"", self.token.expose_secret()));
        let _ = tokio::time::timeout(Duration::from_secs(2), goodbye.body("{}").send()).await;
    }
}

/// What a login says, and the fingerprint of the key that signed it.
fn credentials(login: &Login) -> Result<(Value, Option<String>), Failure> {
    let mut data = json!({
        // The driver of which EDS speaks the protocol: the server chooses its answers' forms by it.
        "CLIENT_APP_ID": "Go",
        "CLIENT_APP_VERSION": "1.17.0",
        "ACCOUNT_NAME": login.account,
        "LOGIN_NAME": login.user,
        "SESSION_PARAMETERS": parameters(),
        "CLIENT_ENVIRONMENT": { "APPLICATION": "EDS", "OS": std::env::consts::OS },
    });
    match &login.proof {
        Proof::Password(password) => data["PASSWORD"] = password.expose_secret().into(),
        Proof::Token(authenticator, token) => {
            data["AUTHENTICATOR"] = (*authenticator).into();
            data["TOKEN"] = token.expose_secret().into();
        }
        Proof::Key(key) => {
            let unusable =
                |why| Failure::misconfigured(format!("the private key cannot be used: {why}"));
            data["AUTHENTICATOR"] = "SNOWFLAKE_JWT".into();
            data["TOKEN"] =
                key.token(&login.account, &login.user).map_err(unusable)?.expose_secret().into();
            return Ok((data, Some(key.fingerprint().map_err(unusable)?)));
        }
    }
    Ok((data, None))
}

fn login_path(login: &Login) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query
        .append_pair("requestId", &Uuid::new_v4().to_string())
        .append_pair("databaseName", &login.database)
        .append_pair("schemaName", &login.schema);
    let more = [("warehouse", &login.warehouse), ("roleName", &login.role)];
    query.extend_pairs(more.into_iter().filter_map(|(key, value)| Some((key, value.as_deref()?))));
    format!("/session/v1/login-request?{}", query.finish())
}

fn binding(parameter: &Parameter) -> Value {
    match parameter {
        Parameter::Integer(n) => json!({ "type": "FIXED", "value": n.to_string() }),
        Parameter::Text(text) => json!({ "type": "TEXT", "value": text }),
    }
}

fn rows(body: &[u8]) -> Option<Vec<Vec<Option<String>>>> {
    let mut text = Vec::with_capacity(body.len() + 2);
    text.push(b'[');
    if body.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(body).read_to_end(&mut text).ok()?;
    } else {
        text.extend_from_slice(body);
    }
    text.push(b']');
    serde_json::from_slice(&text).ok()
}
