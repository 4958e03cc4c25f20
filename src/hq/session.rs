//! Sessions with HQ: an enrolled server begins a session when it starts and ends it when it stops;
//! HQ allows one session per server at a time.

use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Hq, HqError};
use crate::feed::jetstream::identity::Identity;
use crate::http::comes_again;
use crate::machine;

/// HQ's answer while another session of this server is open.
const CONFLICT: u16 = 409;
/// HQ's answer where the server or the session is no more, and will not be again.
const GONE: u16 = 410;
/// HQ's answer for a session that it does not know.
const NOT_FOUND: u16 = 404;

/// The destination, as HQ shows it; without secrets.
pub struct DriverMeta {
    /// The scheme of the destination's URL: `postgres`.
    pub scheme: &'static str,
    /// The destination's name: `PostgreSQL`.
    pub title: &'static str,
    /// One sentence about what it does.
    pub description: &'static str,
    /// The destination's URL, masked.
    pub url: String,
}

/// A session that HQ has opened.
#[derive(Deserialize)]
pub struct Session {
    /// 1 to 128 letters, digits, `-` and `_`: it names a directory and parts of NATS subjects.
    #[serde(rename = "sessionId")]
    pub id: String,
    /// The text of a NATS credentials file in base64; `None` if NATS asks for none.
    credential: Option<SecretString>,
}

impl Session {
    /// Who the server is at NATS, and the text of its credentials file; `None` if NATS asks for
    /// none. An error if the credentials cannot be used.
    pub fn login(&self) -> Result<Option<(Identity, SecretString)>, String> {
        let credential = self.credential.as_ref().map(|text| text.expose_secret().trim());
        let Some(credential) = credential.filter(|text| !text.is_empty()) else { return Ok(None) };
        let bytes = data_encoding::BASE64.decode(credential.as_bytes()).ok();
        let text = bytes
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or("the credentials that HQ gave cannot be used: they are not base64")?;
        Ok(Some((Identity::from_hq(&text)?, text.into())))
    }
}

/// Where HQ wants a session's files; each address takes one upload.
#[derive(Deserialize, Default, Clone)]
pub struct Uploads {
    /// For the log files.
    pub url: Option<String>,
    /// For what a worker that crashed wrote on its standard error.
    #[serde(rename = "errorUrl")]
    pub error_url: Option<String>,
}

/// Why HQ does not open a session.
#[derive(Debug, thiserror::Error)]
pub enum NoSession {
    /// Another session of this server is open. Ask again: it may end.
    #[error("{0}")]
    Conflict(HqError),
    /// HQ is unreachable or overloaded. Ask again.
    #[error("{0}")]
    Unavailable(HqError),
    /// HQ, or a proxy before it, does not accept this server now: its key, a deployment, a wall.
    #[error("{0}")]
    Refused(HqError),
    /// HQ itself says that this server is no more.
    #[error("{0}")]
    Gone(HqError),
}

impl HqError {
    fn status(&self) -> Option<u16> {
        match self {
            HqError::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether HQ itself, and no proxy, says that what was asked for is no more.
    fn is_gone(&self) -> bool {
        matches!(self, HqError::Refused { status: GONE, in_own_words: true, .. })
    }

    /// Whether there is no such session any more, so that it needs no end.
    pub fn means_no_session(&self) -> bool {
        self.is_gone()
            || matches!(self, HqError::Refused { status: NOT_FOUND, in_own_words: true, .. })
    }

    fn is_outage(&self) -> bool {
        match self {
            HqError::Unavailable { .. } => true,
            HqError::Refused { status, .. } => {
                *status >= 500 || StatusCode::from_u16(*status).is_ok_and(comes_again)
            }
            // It is the page of a proxy, or half an answer.
            HqError::Form { .. } => true,
        }
    }
}

/// Opens a session for `server_id`, about the changes of `companies`, or of all that the server may
/// read if there are none. `driver` is absent as long as the server has no destination.
pub async fn start(
    hq: &Hq,
    server_id: &str,
    companies: &[String],
    driver: Option<&DriverMeta>,
) -> Result<Session, NoSession> {
    let mut body = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "hostname": machine::hostname(),
        "ipAddress": machine::ip_address().to_string(),
        "machineId": machine::id(),
        "osinfo": machine::os_info(),
        "serverId": server_id,
    });
    if !companies.is_empty() {
        body["companyIds"] = json!(companies);
    }
    if let Some(driver) = driver {
        body["driver"] = json!({ "id": driver.scheme, "name": driver.title, "description": driver.description, "url": driver.url });
    }
    let session: Session =
        hq.call(Method::POST, "/v3/eds/internal", Some(body)).await.map_err(|e| match e {
            e if e.status() == Some(CONFLICT) => NoSession::Conflict(e),
            e if e.is_gone() => NoSession::Gone(e),
            e if e.is_outage() => NoSession::Unavailable(e),
            e => NoSession::Refused(e),
        })?;
    if is_session_id(&session.id) {
        return Ok(session);
    }
    Err(NoSession::Unavailable(HqError::Form {
        base: hq.base().to_owned(),
        why: "its session id has odd characters".into(),
        request: String::new(),
    }))
}

fn is_session_id(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    (1..=128).contains(&id.len()) && id.bytes().all(plain)
}

/// Ends session `id`. `errored`: the worker ended in an unexpected way. Returns where to upload the
/// rest of the logs.
pub async fn end(hq: &Hq, id: &str, errored: bool) -> Result<Uploads, HqError> {
    hq.call(Method::POST, &format!("/v3/eds/internal/{id}"), Some(json!({ "errored": errored })))
        .await
}

/// An address for one upload of logs while session `id` goes on.
pub async fn log_url(hq: &Hq, id: &str) -> Result<String, HqError> {
    let uploads: Uploads = hq
        .call(
            Method::POST,
            &format!("/v3/eds/internal/{id}/log"),
            Some(Value::Object(serde_json::Map::new())),
        )
        .await?;
    uploads.url.ok_or_else(|| HqError::Form {
        base: hq.base().to_owned(),
        why: "no url".into(),
        request: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_without_credentials_needs_no_login() -> Result<(), serde_json::Error> {
        let session = |credential: &str| {
            serde_json::from_value::<Session>(json!({"sessionId": "x", "credential": credential}))
        };
        let none: Session = serde_json::from_str(r#"{"sessionId":"x"}"#)?;
        assert!(none.login().is_ok_and(|login| login.is_none()));
        assert!(session(" ")?.login().is_ok_and(|login| login.is_none()));
        assert!(session("§")?.login().is_err_and(|why| why.contains("not base64")));
        assert!(session("bm8ga2V5cw==")?.login().is_err(), "no credentials file");
        Ok(())
    }

    #[test]
    fn only_hq_itself_ends_a_server() {
        let answer = |status, in_own_words| HqError::Refused {
            base: String::new(),
            message: String::new(),
            status,
            request: String::new(),
            in_own_words,
        };
        assert!(answer(410, true).is_gone() && !answer(410, false).is_gone());
        for status in [401, 403, 404] {
            assert!(!answer(status, true).is_gone(), "{status}");
        }
        assert!(answer(404, true).means_no_session() && answer(410, true).means_no_session());
        assert!(!answer(404, false).means_no_session(), "a proxy does not know sessions");
    }

    #[test]
    fn a_session_id_is_safe_in_paths_and_subjects() {
        let longest = "x".repeat(128);
        for good in ["0f8fad5b-d9cb", "a_B9", &longest] {
            assert!(is_session_id(good), "{good}");
        }
        let too_long = "x".repeat(129);
        for bad in ["", "..", "a/b", "a.b", "a*", "ä", &too_long] {
            assert!(!is_session_id(bad), "{bad}");
        }
    }
}
