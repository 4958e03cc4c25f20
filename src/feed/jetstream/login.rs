//! A login at NATS that may be replaced while its connection lives: credentials that are about to
//! expire make way for others, and the next reconnect uses those. Where they are from a file, that
//! is read again at every reconnect.

use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Auth, AuthError, ConnectOptions};
use nkeys::KeyPair;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tracing::{info, warn};

use super::identity::Identity;
use crate::change::value::rfc3339;
use crate::clock::{self, Expiry};
use crate::secret::jwt_claims;

/// A user's JWT, and the key that signs what the server asks to be signed. Clones share it.
#[derive(Clone)]
pub struct NatsLogin {
    signed: Arc<Mutex<SignedLogin>>,
    file: Option<PathBuf>,
    expiry: Expiry,
}

struct SignedLogin {
    jwt: SecretString,
    key: KeyPair,
    /// The credentials' text.
    creds: SecretString,
    /// What their file held when it was last read.
    seen: SecretString,
}

/// What a JWT says of its end.
#[derive(Deserialize)]
struct Expiring {
    #[serde(default)]
    exp: u64,
}

/// The line behind the one with `mark`.
fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.lines().skip_while(|line| !line.contains(mark)).nth(1).map(str::trim)
}

impl SignedLogin {
    fn of(creds: &SecretString) -> Result<SignedLogin, String> {
        let text = creds.expose_secret();
        let jwt = after(text, "BEGIN NATS USER JWT").ok_or("they hold no NATS user JWT")?;
        let seed = after(text, "BEGIN USER NKEY SEED").ok_or("they hold no key (NKEY SEED)")?;
        // The library's error could show the key.
        let key = KeyPair::from_seed(seed).map_err(|_| "their key (NKEY SEED) is broken")?;
        Ok(SignedLogin { jwt: jwt.into(), key, creds: creds.clone(), seen: creds.clone() })
    }

    fn sign(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        auth.jwt = Some(self.jwt.expose_secret().to_owned());
        auth.signature = Some(self.key.sign(nonce).map_err(AuthError::new)?);
        Ok(auth)
    }

    /// Unix seconds; 0: never.
    fn expires(&self) -> u64 {
        let claims = jwt_claims(self.jwt.expose_secret()).unwrap_or_default();
        serde_json::from_slice(&claims).map_or(0, |Expiring { exp }| exp)
    }
}

/// The credentials of `text`, if they are a valid login of the same server as those of `former`,
/// and whether they are for the same companies.
fn heir(former: &str, text: &SecretString) -> Result<(SignedLogin, bool), String> {
    // Former credentials may have expired: at their own time they were valid.
    let former = Identity::from_creds(former, 0)?;
    let now = Identity::from_creds(text.expose_secret(), clock::now_s())?;
    match former.server_id == now.server_id {
        true => Ok((SignedLogin::of(text)?, former.companies == now.companies)),
        false => Err(format!(
            "they are those of server {:?}, and this is {:?}",
            now.server_id, former.server_id
        )),
    }
}

impl NatsLogin {
    /// Reads the text of a credentials file, and reads `file` again at every reconnect. When they
    /// expire is told by `expiry`.
    pub fn new(
        creds: &SecretString,
        file: Option<&Path>,
        expiry: Expiry,
    ) -> Result<NatsLogin, String> {
        let signed = SignedLogin::of(creds)?;
        expiry.set(signed.expires());
        let signed = Arc::new(Mutex::new(signed));
        Ok(NatsLogin { signed, file: file.map(Path::to_owned), expiry })
    }

    fn signed(&self) -> MutexGuard<'_, SignedLogin> {
        self.signed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, logs in with these credentials.
    pub fn replace(&self, creds: &SecretString) -> Result<(), String> {
        let mut signed = self.signed();
        let seen = signed.seen.clone();
        *signed = SignedLogin { seen, ..SignedLogin::of(creds)? };
        self.expiry.set(signed.expires());
        Ok(())
    }

    /// Takes what the file has by now, if somebody has renewed it.
    fn read_again(&self) {
        let Some(file) = &self.file else { return };
        // One that is just being written is read at the next reconnect.
        let Ok(text) = std::fs::read_to_string(file) else { return };
        let text = SecretString::from(text);
        let mut signed = self.signed();
        if text.expose_secret() == signed.seen.expose_secret() {
            return;
        }
        signed.seen = text.clone();
        let file = file.display();
        match heir(signed.creds.expose_secret(), &text) {
            Ok((heir, is_for_same)) => {
                *signed = heir;
                self.expiry.set(signed.expires());
                info!("the credentials in {file} were renewed, and are used from now on");
                if !is_for_same {
                    warn!("they are for other companies: those count from the next start on");
                }
            }
            Err(why) => warn!("the credentials in {file} changed and cannot be used: {why}"),
        }
    }

    /// What is to be done, if the credentials have expired.
    pub fn expired(&self) -> Option<String> {
        let end = self.expiry.unix().filter(|end| *end <= clock::now_s())?;
        let cure = match &self.file {
            Some(file) => format!(
                "put new ones into {}, which is read again at each try to connect",
                file.display()
            ),
            None => "new ones are waited for".into(),
        };
        let end = rfc3339(i64::try_from(end).ok()?.saturating_mul(1_000_000));
        Some(format!("the credentials have expired at {end}: {cure}"))
    }

    /// Options of a connection that logs in with what the login is at that time.
    pub fn options(&self) -> ConnectOptions {
        let login = self.clone();
        ConnectOptions::with_auth_callback(move |nonce| {
            login.read_again();
            ready(login.signed().sign(&nonce))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn creds(jwt: &str, seed: &str) -> SecretString {
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
        .into()
    }

    #[test]
    fn a_login_is_replaced_by_good_credentials_only() -> Result<(), Box<dyn std::error::Error>> {
        let (first, second) = (KeyPair::new_user(), KeyPair::new_user());
        let creds_of_first = creds("one", &first.seed()?);
        let login = NatsLogin::new(&creds_of_first, None, Expiry::default())?;
        let signed = |nonce: &[u8]| login.signed().sign(nonce);
        let auth = signed(b"n")?;
        assert_eq!(auth.jwt.as_deref(), Some("one"));
        assert!(first.verify(b"n", &auth.signature.unwrap_or_default()).is_ok());
        for wrong in ["", "nothing", "-----BEGIN NATS USER JWT-----\nx\n"] {
            assert!(login.replace(&wrong.to_owned().into()).is_err(), "{wrong}");
        }
        let said = login.replace(&creds("two", "s3cret")).err().unwrap_or_default();
        assert!(said.contains("broken") && !said.contains("s3cret"), "{said}");
        assert_eq!(signed(b"n")?.jwt.as_deref(), Some("one"));
        login.replace(&creds("two", &second.seed()?))?;
        let auth = signed(b"m")?;
        assert_eq!(auth.jwt.as_deref(), Some("two"));
        assert!(second.verify(b"m", &auth.signature.unwrap_or_default()).is_ok());
        Ok(())
    }
}
