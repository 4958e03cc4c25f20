//! HQ's side of servers: enrolment, sessions with credentials, uploads.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{Value, json};

use super::{Inner, SandboxHq, answer, locked, refused};
use crate::clock::now_s;
use crate::sandbox::account::Account;

/// A session, and what became of it.
#[derive(Clone, Debug, Default)]
pub struct SessionRecord {
    /// Its id.
    pub id: String,
    /// The server's name.
    pub server_id: String,
    /// What the server said about itself.
    pub said: Value,
    /// Whether it ended, and if so whether in error.
    pub ended: Option<bool>,
    /// The credentials that it got, as a file holds them.
    pub creds: Option<String>,
    /// What was uploaded.
    pub uploads: Vec<Upload>,
}

/// A file of a session, as it came.
#[derive(Clone, Debug)]
pub struct Upload {
    /// `log`, `end` or `error`.
    pub kind: String,
    /// The content type.
    pub content_type: String,
    /// The content.
    pub bytes: Vec<u8>,
}

/// What HQ knows about servers.
#[derive(Default)]
pub struct SessionBook {
    /// Codes that were not used yet, with the server they are for.
    codes: HashMap<String, String>,
    tokens: Vec<String>,
    sessions: Vec<SessionRecord>,
    account: Option<Arc<Account>>,
    companies: Vec<String>,
    releases: Option<PathBuf>,
}

impl SandboxHq {
    /// From now on sessions get credentials of `account` for these companies; without one they get
    /// none.
    pub fn set_account(&self, account: Option<Arc<Account>>, companies: &[String]) {
        let mut book = locked(&self.inner.book);
        book.account = account;
        book.companies = companies.to_vec();
    }

    /// A code that enrols a server of that id, once.
    pub fn add_code(&self, code: &str, server_id: &str) {
        locked(&self.inner.book).codes.insert(code.to_owned(), server_id.to_owned());
    }

    /// Serves releases from `folder`, in which are `download/v<version>/<file>`.
    pub fn serve_releases(&self, folder: PathBuf) {
        locked(&self.inner.book).releases = Some(folder);
    }

    /// All sessions so far, oldest first.
    pub fn sessions(&self) -> Vec<SessionRecord> {
        locked(&self.inner.book).sessions.clone()
    }

    /// The tokens of all servers that enrolled, oldest first.
    pub fn tokens(&self) -> Vec<String> {
        locked(&self.inner.book).tokens.clone()
    }
}

impl SessionBook {
    pub fn knows(&self, bearer: &str) -> bool {
        self.tokens.iter().any(|token| token == bearer)
    }

    pub fn has_enrolled(&self) -> bool {
        !self.tokens.is_empty()
    }

    fn record(&mut self, id: &str) -> Option<&mut SessionRecord> {
        self.sessions.iter_mut().find(|record| record.id == id)
    }
}

pub async fn enroll(State(hq): State<Arc<Inner>>, Path(code): Path<String>) -> Response {
    let mut book = locked(&hq.book);
    let Some(server_id) = book.codes.remove(&code) else {
        return refused(StatusCode::NOT_FOUND, "no such code");
    };
    let claims =
        json!({ "iss": hq.base, "sub": server_id, "jti": uuid::Uuid::new_v4().to_string() });
    let part = |text: &str| BASE64URL_NOPAD.encode(text.as_bytes());
    let token = format!(
        "{}.{}.{}",
        part(r#"{"alg":"none"}"#),
        part(&claims.to_string()),
        part(&uuid::Uuid::new_v4().to_string())
    );
    book.tokens.push(token.clone());
    answer(
        StatusCode::OK,
        &json!({ "success": true, "data": { "token": token, "serverId": server_id } }),
    )
}

pub async fn start(State(hq): State<Arc<Inner>>, body: Bytes) -> Response {
    let Ok(said) = serde_json::from_slice::<Value>(&body) else {
        return refused(StatusCode::BAD_REQUEST, "not JSON");
    };
    if hq.take(|faults| &mut faults.conflicts) {
        return refused(StatusCode::CONFLICT, "another server is running");
    }
    let (life, one) = {
        let faults = locked(&hq.faults);
        (faults.credential_life, faults.one_session)
    };
    let mut book = locked(&hq.book);
    let is_open =
        |record: &SessionRecord| record.ended.is_none() && said["serverId"] == *record.server_id;
    if one && book.sessions.iter().any(is_open) {
        return refused(StatusCode::CONFLICT, "a session of this server is open");
    }
    let (id, server_id) = (
        uuid::Uuid::new_v4().to_string(),
        said["serverId"].as_str().unwrap_or_default().to_owned(),
    );
    let creds = match &book.account {
        Some(account) => match account.session_creds(
            &server_id,
            &id,
            &book.companies,
            life.map(|life| now_s() + life.as_secs()),
        ) {
            Ok(creds) => Some(creds),
            Err(e) => return refused(StatusCode::INTERNAL_SERVER_ERROR, &e),
        },
        None => None,
    };
    let credential = creds.as_ref().map(|creds| BASE64.encode(creds.as_bytes()));
    book.sessions.push(SessionRecord {
        id: id.clone(),
        server_id,
        said,
        creds,
        ..SessionRecord::default()
    });
    answer(
        StatusCode::OK,
        &json!({ "success": true, "data": { "sessionId": id, "credential": credential } }),
    )
}

fn upload_url(hq: &Inner, id: &str, kind: &str) -> String {
    format!("{}/uploads/{id}/{kind}?signature=s3cret", hq.base)
}

pub async fn end(State(hq): State<Arc<Inner>>, Path(id): Path<String>, body: Bytes) -> Response {
    let errored = serde_json::from_slice::<Value>(&body).is_ok_and(|said| said["errored"] == true);
    let mut book = locked(&hq.book);
    let Some(record) = book.record(&id) else {
        return refused(StatusCode::NOT_FOUND, "no such session");
    };
    record.ended = Some(errored);
    answer(
        StatusCode::OK,
        &json!({ "success": true, "data": { "url": upload_url(&hq, &id, "end"), "errorUrl": upload_url(&hq, &id, "error") } }),
    )
}

pub async fn log(State(hq): State<Arc<Inner>>, Path(id): Path<String>) -> Response {
    match locked(&hq.book).record(&id) {
        Some(_) => answer(
            StatusCode::OK,
            &json!({ "success": true, "data": { "url": upload_url(&hq, &id, "log") } }),
        ),
        None => refused(StatusCode::NOT_FOUND, "no such session"),
    }
}

pub async fn upload(
    State(hq): State<Arc<Inner>>,
    Path((id, kind)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let content_type = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
        .to_owned();
    match locked(&hq.book).record(&id) {
        Some(record) => {
            record.uploads.push(Upload { kind, content_type, bytes: body.to_vec() });
            StatusCode::OK
        }
        None => StatusCode::NOT_FOUND,
    }
}

pub async fn release(
    State(hq): State<Arc<Inner>>,
    Path((tag, file)): Path<(String, String)>,
) -> Response {
    let folder = locked(&hq.book).releases.clone();
    let plain = |part: &str| !part.starts_with('.') && !part.contains(['/', '\\']);
    let Some(folder) = folder.filter(|_| plain(&tag) && plain(&file)) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    tokio::fs::read(folder.join("download").join(tag).join(file))
        .await
        .map_or_else(|_| StatusCode::NOT_FOUND.into_response(), IntoResponse::into_response)
}
