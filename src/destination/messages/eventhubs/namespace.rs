//! Which hub, and by which key: the connection string, and the tokens that are signed with it.

use std::time::Duration;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};

use super::entra::EntraIdentity;
use crate::destination::{Failure, Settings};

const TLS_PORT: u16 = 5671;
const PLAIN_PORT: u16 = 5672;
/// How long a token that EDS signs is valid.
const TOKEN_TIME: Duration = Duration::from_secs(3600);

/// The hub, and the key for it, that an Event Hubs URL names.
#[derive(Clone)]
pub struct HubNamespace {
    /// The host of the namespace.
    pub host: String,
    /// Its port for AMQP.
    pub port: u16,
    /// The name of the hub (`EntityPath`).
    pub hub: String,
    /// False for an emulator on this machine only.
    pub tls: bool,
    login: HubLogin,
}

/// By what tokens are made, or asked for.
#[derive(Clone)]
enum HubLogin {
    /// A key of the hub's, with its name, by which EDS signs tokens itself.
    Key { name: String, key: SecretString },
    /// An identity of Entra's.
    Entra(EntraIdentity),
}

/// What opens a hub for a while.
pub struct HubToken {
    /// The token itself.
    pub text: SecretString,
    /// What kind it is of, in the service's words.
    pub kind: &'static str,
    /// How long it is valid.
    pub valid_for: Duration,
}

impl HubNamespace {
    /// Of `eventhub://host/;SharedAccessKeyName=…;SharedAccessKey=…;EntityPath=…`.
    pub fn read(settings: &Settings) -> Result<HubNamespace, Failure> {
        let pairs: Vec<(String, &str)> = settings
            .path
            .trim_start_matches('/')
            .split(';')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.trim().to_lowercase(), value.trim()))
            .collect();
        let find = |name: &str| {
            pairs
                .iter()
                .find(|(known, value)| known == &name.to_lowercase() && !value.is_empty())
                .map(|(_, value)| (*value).to_owned())
        };
        let required = |name: &str| {
            let text = format!(
                "the connection string of {settings} has no {name}: \
                 eventhub://NAMESPACE.servicebus.windows.net/;SharedAccessKeyName=…;SharedAccessKey=…;EntityPath=HUB"
            );
            find(name).ok_or_else(|| Failure::misconfigured(text))
        };
        let login = match find("Authentication") {
            None => HubLogin::Key {
                name: required("SharedAccessKeyName")?,
                key: required("SharedAccessKey")?.into(),
            },
            Some(kind) => HubLogin::Entra(identity(&kind, find)?),
        };
        let is_emulator =
            find("UseDevelopmentEmulator").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if is_emulator && !settings.is_local() {
            return Err(Failure::misconfigured(
                "UseDevelopmentEmulator=true is for an emulator on this machine: a key does not \
                 travel without TLS",
            ));
        }
        Ok(HubNamespace {
            host: settings.host.clone(),
            port: settings.port.unwrap_or(if is_emulator { PLAIN_PORT } else { TLS_PORT }),
            hub: required("EntityPath")?,
            tls: !is_emulator,
            login,
        })
    }

    /// What a token is for.
    pub fn audience(&self) -> String {
        format!("amqps://{}/{}", self.host, self.hub)
    }

    /// A token that lets its bearer at the hub.
    pub async fn token(&self) -> Result<HubToken, Failure> {
        match &self.login {
            HubLogin::Key { name, key } => {
                let expiry = crate::clock::now_s() + TOKEN_TIME.as_secs();
                let text = signed(&self.audience(), name, key, expiry);
                let kind = "servicebus.windows.net:sastoken";
                Ok(HubToken { text, kind, valid_for: TOKEN_TIME })
            }
            HubLogin::Entra(identity) => identity.token().await,
        }
    }
}

/// A token, signed as Microsoft's documentation of shared access signatures says.
fn signed(audience: &str, name: &str, key: &SecretString, expiry: u64) -> SecretString {
    let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let resource = encoded(audience);
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret().as_bytes());
    let signature =
        BASE64.encode(hmac::sign(&key, format!("{resource}\n{expiry}").as_bytes()).as_ref());
    format!(
        "SharedAccessSignature sr={resource}&sig={}&se={expiry}&skn={}",
        encoded(&signature),
        encoded(name)
    )
    .into()
}

/// The identity that `Authentication` and what belongs to it name; an application's may be in the
/// environment, as Azure's own tools read it.
fn identity(kind: &str, find: impl Fn(&str) -> Option<String>) -> Result<EntraIdentity, Failure> {
    let plain: String = kind.to_lowercase().split_whitespace().collect();
    match plain.as_str() {
        "managedidentity" => Ok(EntraIdentity::Managed(find("ClientId"))),
        "clientsecret" => {
            let required = |name: &str, variable: &str| {
                let in_environment = || std::env::var(variable).ok().filter(|v| !v.is_empty());
                find(name).or_else(in_environment).ok_or_else(|| {
                    Failure::misconfigured(format!(
                        "Authentication=ClientSecret needs {name} in the connection string, or \
                         {variable} in the environment"
                    ))
                })
            };
            Ok(EntraIdentity::Application {
                tenant: required("TenantId", "AZURE_TENANT_ID")?,
                client: required("ClientId", "AZURE_CLIENT_ID")?,
                secret: required("ClientSecret", "AZURE_CLIENT_SECRET")?.into(),
            })
        }
        _ => Err(Failure::misconfigured(format!(
            "Authentication={kind:?} is not known; choose ManagedIdentity or ClientSecret"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::catalog::DRIVERS;

    fn namespace(url: &str) -> Result<HubNamespace, String> {
        let (settings, _) = Settings::parse(url, DRIVERS).map_err(|e| e.to_string())?;
        assert!(!format!("{settings} {settings:?}").contains("Key="), "{settings}");
        HubNamespace::read(&settings).map_err(|e| e.text)
    }

    #[test]
    fn a_connection_string_is_read_as_it_is() -> Result<(), String> {
        let found = namespace(
            "eventhub://ns.servicebus.windows.net/;SharedAccessKeyName=Root;SharedAccessKey=a/b+c=;EntityPath=hub",
        )?;
        assert_eq!(
            (found.host.as_str(), found.port, found.hub.as_str(), found.tls),
            ("ns.servicebus.windows.net", 5671, "hub", true)
        );
        let HubLogin::Key { name, key } = &found.login else { panic!("it logs in by its key") };
        assert_eq!((name.as_str(), key.expose_secret()), ("Root", "a/b+c="));
        let local = namespace(
            "eventhub://localhost/;SharedAccessKeyName=Root;SharedAccessKey=k;UseDevelopmentEmulator=true;EntityPath=hub",
        )?;
        assert_eq!((local.port, local.tls), (5672, false));
        for wrong in [
            "eventhub://ns/;SharedAccessKeyName=Root;SharedAccessKey=k",
            "eventhub://ns/",
            "eventhub://ns/;EntityPath=h;Authentication=Password",
            "eventhub://ns/;EntityPath=h;Authentication=ClientSecret;TenantId=t;ClientId=c",
            "eventhub://ns/;SharedAccessKeyName=R;SharedAccessKey=k;EntityPath=h;UseDevelopmentEmulator=true",
        ] {
            assert!(namespace(wrong).is_err(), "{wrong}");
        }
        Ok(())
    }

    #[test]
    fn an_identity_is_named_by_its_parts() -> Result<(), String> {
        let of = |more: &str| {
            namespace(&format!("eventhub://ns/;EntityPath=h;{more}")).map(|found| found.login)
        };
        for (more, expected) in [
            ("Authentication=ManagedIdentity", None),
            ("Authentication=Managed Identity;ClientId=c", Some("c")),
        ] {
            let HubLogin::Entra(EntraIdentity::Managed(client)) = of(more)? else {
                panic!("{more} is the machine's")
            };
            assert_eq!(client.as_deref(), expected);
        }
        let whole = "authentication=clientsecret;TenantId=t;ClientId=c;ClientSecret=s~/+=";
        let HubLogin::Entra(EntraIdentity::Application { tenant, client, secret }) = of(whole)?
        else {
            panic!("it is an application's")
        };
        assert_eq!((tenant.as_str(), client.as_str()), ("t", "c"));
        assert_eq!(secret.expose_secret(), "s~/+=");
        Ok(())
    }

    /// As `printf '%s\n%s' "$sr" 1700000000 | openssl dgst -sha256 -hmac secret -binary | base64`
    /// signs.
    #[test]
    fn a_token_is_signed() -> Result<(), String> {
        let found = namespace(
            "eventhub://ns.example/;SharedAccessKeyName=Root \
             Key;SharedAccessKey=secret;EntityPath=hub",
        )?;
        let HubLogin::Key { name, key } = &found.login else { panic!("it logs in by its key") };
        let token = signed(&found.audience(), name, key, 1_700_000_000);
        assert_eq!(
            token.expose_secret(),
            "SharedAccessSignature sr=amqps%3A%2F%2Fns%2Eexample%2Fhub&sig=csiPreTQawIiKsA4CQUVqV6G%2F1tboqwOGT4DR31nNgI%3D&se=1700000000&skn=Root%20Key"
        );
        Ok(())
    }
}
