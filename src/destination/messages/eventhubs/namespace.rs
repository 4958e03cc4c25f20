//! Which hub, and by which key: the connection string, and the tokens that are signed with it.

use std::time::Duration;

use aws_lc_rs::hmac;
use data_encoding::BASE64;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};

use crate::destination::{Failure, Settings};

const TLS_PORT: u16 = 5671;
const PLAIN_PORT: u16 = 5672;
/// How long a token is valid; a session ends sooner.
pub const TOKEN_TIME: Duration = Duration::from_secs(3600);

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
    key_name: String,
    key: SecretString,
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
            key_name: required("SharedAccessKeyName")?,
            key: required("SharedAccessKey")?.into(),
        })
    }

    /// What a token is for.
    pub fn audience(&self) -> String {
        format!("amqps://{}/{}", self.host, self.hub)
    }

    /// A token that lets its bearer at the hub, signed as Microsoft's documentation of shared
    /// access signatures says.
    pub fn token(&self) -> SecretString {
        self.token_until(crate::clock::now_s() + TOKEN_TIME.as_secs())
    }

    fn token_until(&self, expiry: u64) -> SecretString {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let resource = encoded(&self.audience());
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.key.expose_secret().as_bytes());
        let signature =
            BASE64.encode(hmac::sign(&key, format!("{resource}\n{expiry}").as_bytes()).as_ref());
        format!(
            "SharedAccessSignature sr={resource}&sig={}&se={expiry}&skn={}",
            encoded(&signature),
            encoded(&self.key_name)
        )
        .into()
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
        assert_eq!((found.key_name.as_str(), found.key.expose_secret()), ("Root", "a/b+c="));
        let local = namespace(
            "eventhub://localhost/;SharedAccessKeyName=Root;SharedAccessKey=k;UseDevelopmentEmulator=true;EntityPath=hub",
        )?;
        assert_eq!((local.port, local.tls), (5672, false));
        for wrong in [
            "eventhub://ns/;SharedAccessKeyName=Root;SharedAccessKey=k",
            "eventhub://ns/",
            "eventhub://ns/;SharedAccessKeyName=R;SharedAccessKey=k;EntityPath=h;UseDevelopmentEmulator=true",
        ] {
            assert!(namespace(wrong).is_err(), "{wrong}");
        }
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
        let token = found.token_until(1_700_000_000);
        assert_eq!(
            token.expose_secret(),
            "SharedAccessSignature sr=amqps%3A%2F%2Fns%2Eexample%2Fhub&sig=csiPreTQawIiKsA4CQUVqV6G%2F1tboqwOGT4DR31nNgI%3D&se=1700000000&skn=Root%20Key"
        );
        Ok(())
    }
}
