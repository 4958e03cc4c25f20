//! A server's identity at NATS: what its credentials file says about its name, its companies and
//! its session.

use std::collections::BTreeSet;
use std::path::Path;

use serde::Deserialize;

use crate::change::value::rfc3339;
use crate::clock;
use crate::feed::FeedError;
use crate::help::HelpCode;
use crate::secret::jwt_claims;

/// Read from the JWT of a credentials file, or assumed for a NATS server without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The server's name; consumers are named after it.
    pub server_id: String,
    /// Ids of the companies whose changes may be read, sorted; `*` for all.
    pub companies: Vec<String>,
    /// The session of HQ that the credentials were issued for; may be empty.
    pub session_id: String,
    /// When the credentials expire, Unix seconds; `None`: never.
    pub expires: Option<u64>,
}

#[derive(Deserialize)]
struct CredentialClaims {
    #[serde(default)]
    name: String,
    #[serde(default)]
    exp: Option<u64>,
    #[serde(default)]
    nats: Rights,
}

#[derive(Deserialize, Default)]
struct Rights {
    #[serde(default, rename = "sub")]
    subscribe: Subjects,
}

#[derive(Deserialize, Default)]
struct Subjects {
    #[serde(default)]
    allow: Vec<String>,
}

impl Identity {
    /// The identity of a development server without credentials: `dev`, all companies.
    pub fn local() -> Identity {
        Identity {
            server_id: "dev".into(),
            companies: vec!["*".into()],
            session_id: uuid::Uuid::new_v4().to_string(),
            expires: None,
        }
    }

    /// Reads the text of a credentials file. `now`: Unix seconds. An error says what is wrong with
    /// it, or that it has expired.
    pub fn from_creds(text: &str, now: u64) -> Result<Identity, String> {
        let jwt = text
            .lines()
            .skip_while(|l| !l.contains("BEGIN NATS USER JWT"))
            .nth(1)
            .ok_or("it has no NATS user JWT")?;
        let claims: CredentialClaims = serde_json::from_slice(&jwt_claims(jwt)?)
            .map_err(|_| "its JWT holds no claims of NATS")?;
        if let Some(exp) = claims.exp.filter(|exp| *exp > 0 && *exp <= now) {
            let micros = i64::try_from(exp).unwrap_or(0).saturating_mul(1_000_000);
            let to_the_second: String = rfc3339(micros).chars().take(19).collect();
            return Err(format!(
                "it expired at {to_the_second}Z: have HQ issue a new one (`eds server` fetches its \
                 own), and see whether this machine's clock is right"
            ));
        }
        if claims.name.is_empty() {
            return Err("its JWT names no server (claim name)".into());
        }
        let mut companies = BTreeSet::new();
        let mut session_id = String::new();
        for subject in &claims.nats.subscribe.allow {
            match subject.split('.').collect::<Vec<_>>()[..] {
                ["dbchange", "*", "*", company, "*", "PUBLIC", ">"] => {
                    companies.insert(company.to_owned());
                }
                ["eds", "notify", session, ">"] => session_id = session.to_owned(),
                _ => {}
            }
        }
        if companies.is_empty() {
            return Err("its JWT allows no company's changes (nats.sub.allow has no \
                        dbchange.*.*.<company>.*.PUBLIC.>)"
                .into());
        }
        Ok(Identity {
            server_id: claims.name,
            companies: companies.into_iter().collect(),
            session_id,
            expires: claims.exp.filter(|exp| *exp > 0),
        })
    }

    /// Reads credentials that HQ issued.
    pub fn from_hq(text: &str) -> Result<Identity, String> {
        Self::from_creds(text, clock::now_s())
            .map_err(|why| format!("the credentials that HQ gave cannot be used: {why}"))
    }

    /// Reads a credentials file; also returns its text.
    pub fn from_file(path: &Path) -> Result<(Identity, String), FeedError> {
        let wrong = |why: String| {
            FeedError::Misconfigured(
                HelpCode::NatsLogin
                    .tag(&format!("the credentials file {} cannot be used: {why}", path.display())),
            )
        };
        let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
        let identity = Self::from_creds(&text, clock::now_s()).map_err(wrong)?;
        Ok((identity, text))
    }

    /// The durable consumer's name: `eds-<server>` or `eds-<server>-<suffix>`.
    pub fn consumer(&self, suffix: Option<&str>) -> String {
        match suffix.filter(|s| !s.is_empty()) {
            Some(suffix) => format!("eds-{}-{suffix}", self.server_id),
            None => format!("eds-{}", self.server_id),
        }
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64URL_NOPAD;

    use super::*;

    fn creds(claims: &str) -> String {
        let jwt = format!("x.{}.y", BASE64URL_NOPAD.encode(claims.as_bytes()));
        format!("-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n")
    }

    #[test]
    fn reads_server_companies_and_session() {
        let text = creds(
            r#"{"name":"s1","nats":{"sub":{"allow":["dbchange.*.*.c2.*.PUBLIC.>","dbchange.*.*.c1.*.PUBLIC.>","eds.notify.abc.>","_INBOX.>"]}}}"#,
        );
        let identity = Identity {
            server_id: "s1".into(),
            companies: vec!["c1".into(), "c2".into()],
            session_id: "abc".into(),
            expires: None,
        };
        assert_eq!(Identity::from_creds(&text, 5), Ok(identity.clone()));
        assert_eq!(identity.consumer(Some("b")), "eds-s1-b");
    }

    #[test]
    fn says_what_is_wrong() {
        let error =
            |claims: &str| Identity::from_creds(&creds(claims), 100).err().unwrap_or_default();
        assert!(
            error(r#"{"name":"s1","nats":{"sub":{"allow":["_INBOX.>"]}}}"#).contains("no company")
        );
        assert!(error(r#"{"nats":{}}"#).contains("no server"));
        assert!(error(r#"{"name":"s1","exp":40}"#).contains("expired at 1970-01-01T00:00:40"));
        assert!(Identity::from_creds("", 0).is_err());
    }
}
