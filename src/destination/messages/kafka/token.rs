//! Tokens by which a client logs in: in a file that whoever issues them writes anew.

use std::path::Path;

use data_encoding::BASE64URL_NOPAD;
use rdkafka::client::OAuthToken;
use serde::Deserialize;

/// How long a token counts that does not say itself how long.
const UNKNOWN_LIFETIME_MS: i64 = 300_000;

/// What a token says of itself.
#[derive(Deserialize, Default)]
struct Claims {
    #[serde(default)]
    sub: String,
    /// Unix seconds.
    exp: Option<f64>,
}

/// The token that the file has now. The client asks again before the token's end.
pub fn read(file: &Path) -> Result<OAuthToken, String> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|e| format!("the file {shown} that token-file= names cannot be read: {e}"))?;
    let now_ms = i64::try_from(crate::clock::now_s()).unwrap_or_default() * 1000;
    let token = of_text(text.trim(), now_ms);
    match token.lifetime_ms > now_ms {
        true => Ok(token),
        false => Err(format!("the token in {shown} has expired: a new one has to be put there")),
    }
}

fn of_text(token: &str, now_ms: i64) -> OAuthToken {
    // One that does not tell is sent as it is: the broker judges it.
    let claims = claims_of(token).unwrap_or_default();
    OAuthToken {
        token: token.to_owned(),
        principal_name: if claims.sub.is_empty() { "eds".to_owned() } else { claims.sub },
        lifetime_ms: claims
            .exp
            .map_or(now_ms + UNKNOWN_LIFETIME_MS, |seconds| (seconds * 1000.0) as i64),
    }
}

fn claims_of(token: &str) -> Option<Claims> {
    let claims = token.split('.').nth(1)?;
    serde_json::from_slice(&BASE64URL_NOPAD.decode(claims.as_bytes()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_whose_it_is_and_how_long() -> Result<(), Box<dyn std::error::Error>> {
        let of = |claims: &str| {
            let token = format!("e30.{}.x", BASE64URL_NOPAD.encode(claims.as_bytes()));
            let read = of_text(&token, 1_000);
            assert_eq!(read.token, token);
            (read.principal_name, read.lifetime_ms)
        };
        assert_eq!(
            of(r#"{"sub":"me","exp":1700000000,"iat":1}"#),
            ("me".into(), 1_700_000_000_000)
        );
        assert_eq!(of(r#"{"exp":1.5}"#), ("eds".into(), 1_500));
        assert_eq!(of("no claims"), ("eds".into(), 301_000));
        assert_eq!(of_text("opaque", 1_000).lifetime_ms, 301_000);
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("token");
        assert!(read(&file).is_err_and(|why| why.contains("token-file=")));
        let ended = BASE64URL_NOPAD.encode(br#"{"exp":1}"#);
        std::fs::write(&file, format!("e30.{ended}.\n"))?;
        assert!(read(&file).is_err_and(|why| why.contains("has expired")));
        std::fs::write(&file, "opaque\n")?;
        assert_eq!(read(&file)?.token, "opaque");
        Ok(())
    }
}
