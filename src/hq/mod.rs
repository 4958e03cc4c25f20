//! HQ, the control service: where it is, and the form of its answers.

#[cfg(feature = "server")]
pub mod session;

use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::http::{Http, Request};

/// What HQ is called by an issuer that names the product instead of its API.
const ISSUER: &str = "https://shopmonkey.io";
const ISSUER_API: &str = "https://api.shopmonkey.cloud";

/// HQ, as one who is known by a token.
#[derive(Clone)]
pub struct Hq {
    pub http: Http,
    base: String,
    token: Option<SecretString>,
}

/// Why HQ did not do what was asked for; never shows the token.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HqError {
    #[error("HQ at {base}: {why}")]
    Unavailable { base: String, why: String },
    #[error("HQ at {base} says: {message} ({status}{request})")]
    Refused { base: String, message: String, status: u16, request: String },
    #[error("HQ at {base} answers in a form that EDS does not know: {why}{request}")]
    Form { base: String, why: String, request: String },
}

#[derive(Deserialize)]
struct HqEnvelope<T> {
    #[serde(default)]
    success: bool,
    #[serde(default)]
    message: Option<String>,
    data: Option<T>,
}

#[derive(Deserialize)]
struct TokenClaims {
    iss: String,
}

/// The API that issued the token, read from it without verifying.
pub fn api_of(token: &SecretString) -> Option<String> {
    let payload = token.expose_secret().split('.').nth(1)?;
    let json =
        data_encoding::BASE64URL_NOPAD.decode(payload.trim_end_matches('=').as_bytes()).ok()?;
    let issuer = serde_json::from_slice::<TokenClaims>(&json).ok()?.iss;
    let url = if issuer == ISSUER { ISSUER_API.to_owned() } else { issuer };
    url::Url::parse(&url)
        .ok()
        .filter(|u| u.has_host())
        .map(|_| url.trim_end_matches('/').to_owned())
}

impl Hq {
    pub fn new(http: Http, base: &str, token: Option<SecretString>) -> Hq {
        Hq { http, base: base.trim_end_matches('/').to_owned(), token }
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    /// Sends a request and opens the answer's envelope.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> Result<T, HqError> {
        let base = self.base.clone();
        let url = format!("{base}{path}");
        let request = Request {
            method,
            url: &url,
            token: self.token.as_ref(),
            body: body.map(|b| b.to_string()),
        };
        let reply = self
            .http
            .send(request)
            .await
            .map_err(|why| HqError::Unavailable { base: base.clone(), why })?;
        let request = reply.request_id.map(|id| format!(", request {id}")).unwrap_or_default();
        let status = reply.status.as_u16();
        match serde_json::from_str::<HqEnvelope<T>>(&reply.text) {
            Ok(HqEnvelope { success: true, data: Some(data), .. }) if reply.status.is_success() => {
                Ok(data)
            }
            Ok(HqEnvelope { success: true, .. }) if reply.status.is_success() => {
                Err(HqError::Form { base, why: "no data".into(), request })
            }
            Err(e) if reply.status.is_success() => {
                Err(HqError::Form { base, why: e.to_string(), request })
            }
            answer => {
                let said = answer.ok().and_then(|e| e.message).filter(|m| !m.is_empty());
                let message = said.unwrap_or_else(|| {
                    reply
                        .status
                        .canonical_reason()
                        .unwrap_or("an error without a message")
                        .to_lowercase()
                });
                Err(HqError::Refused { base, message, status, request })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> SecretString {
        format!("h.{}.s", data_encoding::BASE64URL_NOPAD.encode(claims.as_bytes())).into()
    }

    #[test]
    fn a_token_names_its_api() {
        assert_eq!(
            api_of(&token(r#"{"iss":"https://api.example.test/"}"#)).as_deref(),
            Some("https://api.example.test")
        );
        assert_eq!(
            api_of(&token(r#"{"iss":"https://shopmonkey.io"}"#)).as_deref(),
            Some("https://api.shopmonkey.cloud")
        );
        for odd in ["", "x", "a.b.c", "a.e30.c"] {
            assert_eq!(api_of(&odd.to_owned().into()), None, "{odd}");
        }
        assert_eq!(api_of(&token(r#"{"iss":"somebody"}"#)), None);
    }
}
