//! Logins by Microsoft Entra: who asks for a token, where, and what is answered.

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::namespace::HubToken;
use crate::cause::chain;
use crate::destination::Failure;

/// What the token is for.
const RESOURCE: &str = "https://eventhubs.azure.net/";
const AUTHORITY: &str = "https://login.microsoftonline.com";
/// Where a machine of Azure's asks for its own identity.
const METADATA_SERVICE: &str = "http://169.254.169.254";
/// How long one request for a token may take.
const TOKEN_WAIT_MAX: Duration = Duration::from_secs(10);

/// An identity of Entra's.
#[derive(Clone)]
pub enum EntraIdentity {
    /// An application with a secret.
    Application {
        /// The directory that knows it.
        tenant: String,
        /// The application's id.
        client: String,
        /// Its secret.
        secret: SecretString,
    },
    /// The machine's own identity; of several, that of this client id.
    Managed(Option<String>),
}

/// What is answered; `expires_in` is a number or the text of one.
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: SecretString,
    expires_in: serde_json::Value,
}

/// Why no token is given.
#[derive(Deserialize, Default)]
struct TokenRefusal {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

impl EntraIdentity {
    /// A token for this identity.
    pub async fn token(&self) -> Result<HubToken, Failure> {
        let client = Client::builder()
            .timeout(TOKEN_WAIT_MAX)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| Failure::misconfigured(format!("the HTTP client cannot be made: {e}")))?;
        let answer = self.request(&client)?.send().await.map_err(|e| {
            Failure::unavailable(format!(
                "{} cannot be reached: {}",
                self.asked(),
                chain(&e.without_url())
            ))
        })?;
        self.read(answer).await
    }

    /// Who is asked, for messages.
    fn asked(&self) -> &'static str {
        match self {
            EntraIdentity::Application { .. } => "Microsoft Entra",
            EntraIdentity::Managed(_) => "the service for managed identities",
        }
    }

    fn request(&self, http: &Client) -> Result<RequestBuilder, Failure> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        match self {
            EntraIdentity::Application { tenant, client, secret } => {
                let authority = variable("AZURE_AUTHORITY_HOST");
                let mut url = place(authority.as_deref().unwrap_or(AUTHORITY), true)?;
                url.set_path(&format!("{tenant}/oauth2/v2.0/token"));
                let scope = format!("{RESOURCE}.default");
                let form = url::form_urlencoded::Serializer::new(String::new())
                    .append_pair("grant_type", "client_credentials")
                    .append_pair("client_id", client)
                    .append_pair("client_secret", secret.expose_secret())
                    .append_pair("scope", &scope)
                    .finish();
                let kind = "application/x-www-form-urlencoded";
                Ok(http.post(url).header("Content-Type", kind).body(form))
            }
            EntraIdentity::Managed(client) => {
                let mut query = vec![("resource", RESOURCE)];
                query.extend(client.as_deref().map(|client| ("client_id", client)));
                // Containers and apps of Azure's are told where; its virtual machines know.
                let (mut url, header, version) =
                    match (variable("IDENTITY_ENDPOINT"), variable("IDENTITY_HEADER")) {
                        (Some(endpoint), Some(header)) => {
                            (place(&endpoint, false)?, ("X-IDENTITY-HEADER", header), "2019-08-01")
                        }
                        _ => {
                            let host = variable("AZURE_POD_IDENTITY_AUTHORITY_HOST");
                            let mut url =
                                place(host.as_deref().unwrap_or(METADATA_SERVICE), false)?;
                            url.set_path("metadata/identity/oauth2/token");
                            (url, ("Metadata", "true".to_owned()), "2018-02-01")
                        }
                    };
                query.push(("api-version", version));
                url.query_pairs_mut().extend_pairs(query);
                Ok(http.get(url).header(header.0, header.1))
            }
        }
    }

    async fn read(&self, answer: Response) -> Result<HubToken, Failure> {
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        if !status.is_success() {
            let why: TokenRefusal = serde_json::from_str(&text).unwrap_or_default();
            // The description begins with a number (AADSTS7000215), and goes on with ids.
            let number = why.error_description.split(':').next().unwrap_or_default();
            let asked = self.asked();
            let text = format!("{asked} gives no token ({status} {} {number})", why.error);
            return Err(match status.is_server_error() || status.as_u16() == 429 {
                true => Failure::unavailable(text),
                false => Failure::misconfigured(format!(
                    "{text}: TenantId, ClientId and ClientSecret have to be an application's, or \
                     the machine has to have the identity"
                )),
            });
        }
        let unknown = || {
            Failure::unavailable(format!(
                "{} answers in a form that EDS does not know",
                self.asked()
            ))
        };
        let answer: TokenAnswer = serde_json::from_str(&text).map_err(|_| unknown())?;
        let seconds = answer
            .expires_in
            .as_u64()
            .or_else(|| answer.expires_in.as_str()?.parse().ok())
            .ok_or_else(unknown)?;
        Ok(HubToken {
            text: answer.access_token,
            kind: "jwt",
            valid_for: Duration::from_secs(seconds),
        })
    }
}

/// Where a token is asked for. `is_secret`: what is sent there is a secret, which does not travel
/// in the open but within this machine.
fn place(text: &str, is_secret: bool) -> Result<Url, Failure> {
    let wrong = |why: &str| {
        Failure::misconfigured(format!("the place where tokens are given ({text}) {why}"))
    };
    let url = Url::parse(text).map_err(|_| wrong("is no URL"))?;
    let host = url.host_str().unwrap_or_default();
    let is_local = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => Ok(url),
        "http" if is_local || !is_secret => Ok(url),
        _ => Err(wrong("has to begin with https://: a secret is sent there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_travel_in_the_open() {
        for good in ["https://login.example", "http://localhost:1", "http://[::1]:1"] {
            assert!(place(good, true).is_ok(), "{good}");
        }
        for wrong in ["http://login.example", "http://localhost.example", "ftp://localhost", "x"] {
            assert!(place(wrong, true).is_err(), "{wrong}");
        }
        assert!(place(METADATA_SERVICE, false).is_ok());
    }
}
