//! What can be wrong on the way to HQ.

use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::{DoctorCheck, DoctorRequest, Finding};
use crate::clock::now_s;
use crate::help::HelpCode;
use crate::hq::{Hq, HqError};
use crate::secret::{jwt_claims, place};

const CHECK: DoctorCheck = DoctorCheck::Hq;
/// An export that never was: HQ answers about it to whoever may ask.
const NO_EXPORT: &str = "/v3/export/bulk/00000000-0000-0000-0000-000000000000";

/// Whether HQ answers, and takes the token.
pub async fn answers(request: &DoctorRequest) -> Finding {
    let Some(hq) = &request.hq else {
        return Finding::skipped(CHECK, "HQ's address is not known: this machine is not enrolled");
    };
    let shown = place(hq.base());
    // Asked once: what follows is asked for longer than a check may take.
    if let Err(e) = hq.http.fetch(hq.base(), 0).await {
        return unreachable(&shown, crate::cause::chain(&e.without_url()));
    }
    let Some(token) = &request.token else {
        return Finding::good(CHECK, format!("{shown} answers; there is no token to try"));
    };
    if let Some(expired_s) = expiry(token).and_then(|at| now_s().checked_sub(at)) {
        let text = format!("the token of HQ expired {expired_s} seconds ago");
        return Finding::problem(CHECK, HelpCode::HqRefused, text)
            .cured_by("enrol this machine again with `eds enroll CODE`");
    }
    judged(hq.call::<Value>(Method::GET, NO_EXPORT, None).await, &shown)
}

/// Whether a server could get a release. Without that it streams all the same.
#[cfg(feature = "server")]
pub async fn releases(request: &DoctorRequest) -> Finding {
    const CHECK: DoctorCheck = DoctorCheck::Releases;
    const CURE: &str = "updates that HQ orders fail until then; --release-url names another place";
    if !request.is_enrolled {
        return Finding::skipped(CHECK, "only a server of HQ updates itself");
    }
    let source = match &request.releases {
        Ok(source) => source,
        Err(why) => return Finding::warning(CHECK, why, CURE),
    };
    match source.answers().await {
        Ok(shown) => Finding::good(CHECK, format!("{shown} answers")),
        Err(why) => Finding::warning(CHECK, why, CURE),
    }
}

fn judged(asked: Result<Value, HqError>, shown: &str) -> Finding {
    match asked {
        Err(HqError::Refused { status: 401 | 403, message, .. }) => {
            let text = format!("HQ at {shown} does not take the token: {message}");
            Finding::problem(CHECK, HelpCode::HqRefused, text)
                .cured_by("enrol this machine again with `eds enroll CODE`")
        }
        Err(HqError::Refused { status: status @ 500.., message, .. }) => {
            let text = format!("HQ at {shown} answers {status}: {message}");
            Finding::problem(CHECK, HelpCode::HqRefused, text).cured_by("try again later")
        }
        Err(HqError::Unavailable { why, .. }) => unreachable(shown, why),
        Ok(_) | Err(HqError::Refused { .. } | HqError::Form { .. }) => {
            Finding::good(CHECK, format!("{shown} answers, and does not refuse the token"))
        }
    }
}

fn unreachable(shown: &str, why: String) -> Finding {
    Finding::problem(CHECK, HelpCode::HqRefused, format!("HQ at {shown} cannot be reached: {why}"))
        .cured_by("is the address right, and does a firewall or proxy let HTTPS through?")
}

/// When the token expires, Unix seconds; `None` where it does not say.
fn expiry(token: &SecretString) -> Option<u64> {
    let claims = jwt_claims(token.expose_secret()).ok()?;
    serde_json::from_slice::<Value>(&claims).ok()?.get("exp")?.as_u64()
}

/// What HQ's clock says: the header `Date`, Unix seconds.
pub async fn date(hq: &Hq) -> Option<u64> {
    let response = hq.http.fetch(hq.base(), 0).await.ok()?;
    let text = response.headers().get("date")?.to_str().ok()?;
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    u64::try_from(at.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::*;

    #[test]
    fn a_token_may_tell_when_it_expires() {
        let token = |claims: &str| {
            SecretString::from(format!("h.{}.s", BASE64URL_NOPAD.encode(claims.as_bytes())))
        };
        assert_eq!(expiry(&token(r#"{"exp":17}"#)), Some(17));
        assert_eq!(expiry(&token("{}")), None);
        assert_eq!(expiry(&"no token".to_owned().into()), None);
    }
}
