//! Enrolment: once, a code that HQ shows is exchanged for the identity of a server.

use std::path::Path;

use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::{Hq, HqError, api_of_code};
use crate::config::{Config, ConfigError};
use crate::http::{Http, path_part};

/// HQ's answer to a code that was used already, or that it never issued.
const NOT_FOUND: u16 = 404;

/// The identity that an enrolled server has from then on.
#[derive(Deserialize)]
struct Enrolled {
    /// Authenticates the server's requests to HQ: a JWT.
    token: SecretString,
    /// The server's name at HQ and, in its credentials, at NATS.
    #[serde(rename = "serverId")]
    server_id: String,
}

/// Why a server is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// HQ's address is not given, and the code does not stand for one.
    #[error(
        "the code does not say which HQ it is of: a code begins with P, S, E or L; is it complete?"
    )]
    OddCode,
    /// HQ is unreachable, or does not take the code.
    #[error("{0}")]
    Refused(String),
    /// The identity cannot be kept.
    #[error("{0}")]
    Config(#[from] ConfigError),
}

/// Enrols by `code`, which is valid once, at HQ's address `api_url` or else the one that the code
/// stands for, and notes the identity in the configuration. Returns the server's id.
pub async fn enrol(
    data_dir: &Path,
    code: &str,
    api_url: Option<&str>,
) -> Result<String, EnrolmentError> {
    let Some(base) = api_url.or_else(|| api_of_code(code)) else {
        return Err(EnrolmentError::OddCode);
    };
    let hq = Hq::new(Http::new().map_err(EnrolmentError::Refused)?, base, None);
    let enrolled = ask(&hq, code).await.map_err(EnrolmentError::Refused)?;
    let entries = [
        ("token", Some(enrolled.token.expose_secret())),
        ("server_id", Some(enrolled.server_id.as_str())),
    ];
    Config::write(data_dir, &entries)?;
    Ok(enrolled.server_id)
}

/// The error says what to do.
async fn ask(hq: &Hq, code: &str) -> Result<Enrolled, String> {
    let code = path_part(code);
    let answer = hq.call(Method::GET, &format!("/v3/eds/internal/enroll/{code}"), None).await;
    answer.map_err(|e| match &e {
        HqError::Refused { status: NOT_FOUND, .. } => {
            format!("the code is not valid, or was used already: get a new one from HQ ({e})")
        }
        _ => e.to_string(),
    })
}
