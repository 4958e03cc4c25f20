//! Sessions with HQ: a server enrols once, and from then on says when it comes and goes.

use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Hq, HqError};
use crate::machine;

/// Codes that were used, or never were, are answered with this.
const NOT_FOUND: u16 = 404;
/// Another server runs for this id.
const CONFLICT: u16 = 409;

/// What an enrolment brings.
#[derive(Deserialize)]
pub struct Enrolled {
    pub token: SecretString,
    #[serde(rename = "serverId")]
    pub server_id: String,
}

/// The destination, as HQ may know it.
pub struct DriverMeta {
    pub scheme: &'static str,
    pub title: &'static str,
    pub description: &'static str,
    /// Masked.
    pub url: String,
}

/// A session that HQ gave.
#[derive(Deserialize)]
pub struct Session {
    #[serde(rename = "sessionId")]
    pub id: String,
    /// A credentials file of NATS, in base64; none where NATS asks for none.
    pub credential: Option<SecretString>,
}

/// Where a session's end is reported to.
#[derive(Deserialize, Default)]
pub struct Uploads {
    pub url: Option<String>,
    #[serde(rename = "errorUrl")]
    pub error_url: Option<String>,
}

/// Why no session begins.
#[derive(Debug, thiserror::Error)]
pub enum NoSession {
    /// Another server runs for this id: it may end.
    #[error("{0}")]
    Conflict(HqError),
    /// HQ is away.
    #[error("{0}")]
    Unavailable(HqError),
    /// It will not become better by itself.
    #[error("{0}")]
    Refused(HqError),
}

/// The API that gave out a code, by its first letter.
pub fn api_of_code(code: &str) -> Option<&'static str> {
    match code.chars().next()? {
        'P' => Some("https://api.shopmonkey.cloud"),
        'S' => Some("https://sandbox-api.shopmonkey.cloud"),
        'E' => Some("https://edge-api.shopmonkey.cloud"),
        'L' => Some("http://localhost:3101"),
        _ => None,
    }
}

impl HqError {
    fn status(&self) -> Option<u16> {
        match self {
            HqError::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    fn is_outage(&self) -> bool {
        match self {
            HqError::Unavailable { .. } => true,
            HqError::Refused { status, .. } => *status >= 500 || matches!(status, 408 | 429),
            // A proxy's page, or half an answer: HQ itself speaks better.
            HqError::Form { .. } => true,
        }
    }
}

/// Turns a code into a server's identity.
pub async fn enroll(hq: &Hq, code: &str) -> Result<Enrolled, String> {
    let code = percent_encoding::utf8_percent_encode(code, percent_encoding::NON_ALPHANUMERIC);
    hq.call(Method::GET, &format!("/v3/eds/internal/enroll/{code}"), None).await.map_err(
        |e| match e.status() {
            Some(NOT_FOUND) => {
                format!("the code is not valid, or was used already: get a new one from HQ ({e})")
            }
            _ => e.to_string(),
        },
    )
}

/// Begins a session for `server_id`.
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
            e if e.is_outage() => NoSession::Unavailable(e),
            e => NoSession::Refused(e),
        })?;
    // It becomes the name of a folder and a part of subjects.
    let plain = !session.id.is_empty()
        && session.id.len() <= 128
        && session.id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if plain {
        Ok(session)
    } else {
        Err(NoSession::Unavailable(HqError::Form {
            base: hq.base().to_owned(),
            why: "its session id has odd characters".into(),
            request: String::new(),
        }))
    }
}

/// The text of the credentials file that HQ gave in base64.
pub fn credential_text(credential: &SecretString) -> Result<SecretString, String> {
    let bytes = data_encoding::BASE64.decode(credential.expose_secret().trim().as_bytes()).ok();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    text.map(SecretString::from)
        .ok_or_else(|| "the credentials that HQ gave cannot be used: they are not base64".into())
}

/// Ends a session; where to upload to, if HQ wants anything.
pub async fn end(hq: &Hq, id: &str, errored: bool) -> Result<Uploads, HqError> {
    hq.call(Method::POST, &format!("/v3/eds/internal/{id}"), Some(json!({ "errored": errored })))
        .await
}

/// Where to upload a log to while the session goes on.
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
    fn a_code_names_its_api() {
        assert_eq!(api_of_code("P123"), Some("https://api.shopmonkey.cloud"));
        assert_eq!(api_of_code("L123"), Some("http://localhost:3101"));
        assert_eq!(api_of_code("x123"), None);
        assert_eq!(api_of_code(""), None);
    }
}
