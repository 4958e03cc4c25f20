//! HQ's API over HTTP: at which address it is, the envelope of its answers, and its errors.

use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::http::{Http, Reply, Request};
use crate::secret::place;

/// The production API's address; tokens name it by its product's page instead.
const PRODUCTION_API: &str = "https://api.shopmonkey.cloud";
const PRODUCTION_ISSUER: &str = "https://shopmonkey.io";

/// A client of HQ's API. Clones share its connections.
#[derive(Clone)]
pub struct Hq {
    /// What requests go through; downloads of exports use it, too.
    pub http: Http,
    base: String,
    token: Option<SecretString>,
}

/// Why HQ did not do what was asked for; never shows the token.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HqError {
    /// No answer, for as long as requests are repeated.
    #[error("HQ at {base}: {why}")]
    Unavailable {
        /// The API's address.
        base: String,
        /// What the HTTP client says.
        why: String,
    },
    /// HQ answered with an error.
    #[error("HQ at {base} says: {message} ({status}{request})")]
    Refused {
        /// The API's address.
        base: String,
        /// HQ's words; where it has none, those of the status.
        message: String,
        /// The HTTP status.
        status: u16,
        /// `, request <id>`, by which HQ finds the request in its logs; else empty.
        request: String,
        /// The answer has HQ's form: HQ itself says so, and no proxy on the way.
        in_own_words: bool,
    },
    /// HQ answered with success, and EDS cannot read the answer.
    #[error("HQ at {base} answers in a form that EDS does not know: {why}{request}")]
    Form {
        /// The API's address.
        base: String,
        /// What is wrong with the answer.
        why: String,
        /// `, request <id>`, by which HQ finds the request in its logs; else empty.
        request: String,
    },
}

impl HqError {
    /// The same without what names the one request: two of the same say the same.
    pub fn without_request(&self) -> HqError {
        let mut same = self.clone();
        if let HqError::Refused { request, .. } | HqError::Form { request, .. } = &mut same {
            request.clear();
        }
        same
    }
}

/// The form of every answer of HQ.
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

/// The address of the API that issued `token`. The token is a JWT (RFC 7519) whose signature is
/// not verified: HQ does that. `None` for anything else.
pub fn api_of(token: &SecretString) -> Option<String> {
    let payload = token.expose_secret().split('.').nth(1)?;
    let json =
        data_encoding::BASE64URL_NOPAD.decode(payload.trim_end_matches('=').as_bytes()).ok()?;
    let issuer = serde_json::from_slice::<TokenClaims>(&json).ok()?.iss;
    let url = if issuer == PRODUCTION_ISSUER { PRODUCTION_API.to_owned() } else { issuer };
    url::Url::parse(&url)
        .ok()
        .filter(|u| u.has_host())
        .map(|_| url.trim_end_matches('/').to_owned())
}

/// The address of the API that issued an enrolment code: its first letter names it. `None` for a
/// letter that HQ does not use.
pub fn api_of_code(code: &str) -> Option<&'static str> {
    match code.chars().next()? {
        'P' => Some(PRODUCTION_API),
        'S' => Some("https://sandbox-api.shopmonkey.cloud"),
        'E' => Some("https://edge-api.shopmonkey.cloud"),
        'L' => Some("http://localhost:3101"),
        _ => None,
    }
}

impl Hq {
    /// A client of the API at `base`. Requests without a token can enrol a server and nothing else.
    pub fn new(http: Http, base: &str, token: Option<SecretString>) -> Hq {
        Hq { http, base: base.trim_end_matches('/').to_owned(), token }
    }

    /// The API's address, without a slash at its end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Sends a request to `path` and returns the data of its answer. Repeats it as [`Http::send`]
    /// does.
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<serde_json::Value>,
    ) -> Result<T, HqError> {
        let request = Request {
            method,
            url: &format!("{}{path}", self.base),
            token: self.token.as_ref(),
            body: body.map(|b| b.to_string()),
        };
        let reply = self
            .http
            .send(request)
            .await
            .map_err(|why| HqError::Unavailable { base: place(&self.base), why })?;
        data_of(&reply, &place(&self.base))
    }
}

/// The data in the envelope of a successful answer.
fn data_of<T: DeserializeOwned>(reply: &Reply, base: &str) -> Result<T, HqError> {
    let base = base.to_owned();
    let request = reply.request_id.as_ref().map(|id| format!(", request {id}"));
    let request = request.unwrap_or_default();
    let envelope = serde_json::from_str::<HqEnvelope<T>>(&reply.text);
    if reply.status.is_success() {
        match envelope {
            Ok(HqEnvelope { success: true, data: Some(data), .. }) => return Ok(data),
            Ok(HqEnvelope { success: true, .. }) => {
                return Err(HqError::Form { base, why: "no data".into(), request });
            }
            Err(e) => return Err(HqError::Form { base, why: e.to_string(), request }),
            Ok(HqEnvelope { success: false, .. }) => {}
        }
    }
    let message = envelope.ok().and_then(|e| e.message).filter(|m| !m.is_empty());
    let in_own_words = message.is_some();
    let message = message.unwrap_or_else(|| {
        reply.status.canonical_reason().unwrap_or("an error without a message").to_lowercase()
    });
    Err(HqError::Refused { base, message, status: reply.status.as_u16(), request, in_own_words })
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

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

    #[test]
    fn a_code_names_its_api() {
        assert_eq!(api_of_code("P123"), Some("https://api.shopmonkey.cloud"));
        assert_eq!(api_of_code("L123"), Some("http://localhost:3101"));
        assert_eq!(api_of_code("x123"), None);
        assert_eq!(api_of_code(""), None);
    }

    #[test]
    fn an_answer_is_data_or_an_error_with_hq_s_words() {
        let of = |status: StatusCode, text: &str| {
            let reply = Reply { status, text: text.into(), request_id: Some("r1".into()) };
            data_of::<u32>(&reply, "h").map_err(|e| e.to_string())
        };
        assert_eq!(of(StatusCode::OK, r#"{"success":true,"data":7}"#), Ok(7));
        for (status, text, said) in [
            (StatusCode::OK, r#"{"success":true}"#, "not know: no data, request r1"),
            (StatusCode::OK, r#"{"success":7}"#, "in a form that EDS does not know"),
            (StatusCode::OK, r#"{"success":false,"message":"no"}"#, "says: no (200, request r1)"),
            (StatusCode::NOT_FOUND, r#"{"message":"gone"}"#, "says: gone (404, request r1)"),
            (StatusCode::BAD_GATEWAY, "<html>", "says: bad gateway (502, request r1)"),
            (StatusCode::BAD_GATEWAY, r#"{"success":true,"data":7}"#, "says: bad gateway"),
        ] {
            let error = of(status, text).err().unwrap_or_default();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
