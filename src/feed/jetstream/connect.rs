//! The connection to NATS, and its errors in words that name the cure.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event};
use tokio::sync::watch;

use super::login::NatsLogin;
use crate::backoff::Waits;
use crate::clock::Expiry;
use crate::feed::FeedError;
use crate::help::HelpCode;

/// How long a first connection may take.
const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// Between two tries to connect again.
const RECONNECT_WAITS: Waits =
    Waits { at_once: true, first: Duration::from_millis(200), longest: Duration::from_secs(4) };

/// How to connect to NATS.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    /// URLs, separated by commas.
    pub urls: String,
    /// The text of a credentials file.
    pub creds: Option<secrecy::SecretString>,
    /// The file that they are from, where somebody may renew them.
    pub creds_file: Option<PathBuf>,
    /// Tells when they expire.
    pub creds_expiry: Expiry,
    /// A PEM file with the certificate authority, where it is a private one.
    pub certificate_authority: Option<PathBuf>,
    /// The connection's name, which NATS shows to its operators.
    pub name: String,
}

/// A connection that reconnects by itself, for ever. Clones share it.
#[derive(Clone)]
pub struct Link {
    /// The client of the NATS library.
    pub client: Client,
    /// How often the connection was established; it changes with every reconnect.
    pub connections: watch::Receiver<u64>,
    last_error: Arc<Mutex<Option<String>>>,
    /// `None` where NATS asks for none.
    login: Option<NatsLogin>,
}

impl Link {
    /// Connects once. [`FeedError::Unavailable`] if another try may succeed.
    pub async fn connect(servers: &Servers) -> Result<Link, FeedError> {
        let (counter, connections) = watch::channel(0u64);
        let last_error = Arc::new(Mutex::new(None));
        let reported = last_error.clone();
        let unusable = |why| {
            FeedError::Misconfigured(
                HelpCode::NatsLogin.tag(&format!("the credentials cannot be used: {why}")),
            )
        };
        let read = |creds| {
            NatsLogin::new(creds, servers.creds_file.as_deref(), servers.creds_expiry.clone())
        };
        let login = servers.creds.as_ref().map(read).transpose().map_err(unusable)?;
        let mut options = login
            .as_ref()
            .map_or_else(ConnectOptions::new, NatsLogin::options)
            .name(&servers.name)
            .connection_timeout(CONNECT_WAIT_MAX)
            .max_reconnects(None)
            .reconnect_delay_callback(|tries| {
                RECONNECT_WAITS.before(u32::try_from(tries).unwrap_or(u32::MAX))
            })
            .event_callback(move |event| {
                match event {
                    Event::Connected => counter.send_modify(|n| *n += 1),
                    Event::ServerError(e) => {
                        *reported.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some(e.to_string());
                    }
                    Event::ClientError(e) => {
                        *reported.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some(e.to_string());
                    }
                    _ => {}
                }
                async {}
            });
        if let Some(path) = &servers.certificate_authority {
            options = options.add_root_certificates(path.clone());
        }
        let urls: Vec<&str> =
            servers.urls.split(',').map(str::trim).filter(|s| !s.is_empty()).collect();
        let client = options.connect(urls).await.map_err(|e| refused(&e, servers))?;
        Ok(Link { client, connections, last_error, login })
    }

    /// The next reconnect logs in with these credentials; the connection of now stays as it is. An
    /// error if they cannot be used.
    pub fn log_in_as(&self, creds: &secrecy::SecretString) -> Result<(), String> {
        match &self.login {
            Some(login) => login.replace(creds),
            None => Err("this connection was made without credentials".into()),
        }
    }

    /// Takes the last error that the server or the client reported since the last call.
    pub fn complaint(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Why there is no connection at the moment.
    pub fn absence(&self) -> String {
        let said = self.complaint();
        let why = self.login.as_ref().and_then(NatsLogin::expired).or(said);
        why.map_or_else(
            || "NATS is unreachable".into(),
            |why| format!("NATS is unreachable: {why}"),
        )
    }

    /// Whether the connection is established at the moment.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }
}

fn refused(error: &ConnectError, servers: &Servers) -> FeedError {
    let place = crate::secret::mask_urls(&servers.urls);
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            let cure = if servers.creds.is_some() {
                "are the credentials of this server, and not expired?"
            } else {
                "it asks for credentials: name the file with --creds"
            };
            FeedError::Misconfigured(
                HelpCode::NatsLogin.tag(&format!("NATS at {place} refuses the login: {cure}")),
            )
        }
        // It has to hold the whole JWT of the credentials, which names each company.
        _ if error.to_string().contains("maximum control line") => {
            FeedError::Misconfigured(HelpCode::NatsLogin.tag(&format!(
                "NATS at {place} takes no credentials of so many companies: raise its \
                 max_control_line, or divide the companies among several servers"
            )))
        }
        ConnectErrorKind::ServerParse => FeedError::Misconfigured(
            HelpCode::Arguments
                .tag(&format!("{place} is not a NATS URL; it looks like nats://host:4222")),
        ),
        kind if kind == ConnectErrorKind::Tls || error.to_string().contains("certificate") => {
            FeedError::Misconfigured(HelpCode::NatsLogin.tag(&format!(
                "no encrypted connection to NATS at {place}: {error}; --nats-ca names a private \
                 certificate authority"
            )))
        }
        ConnectErrorKind::Dns => {
            FeedError::Unavailable(format!("the host of NATS at {place} is not known: {error}"))
        }
        _ => FeedError::Unavailable(format!(
            "NATS at {place} cannot be reached: {error}; is it running, and are host and \
             port right?"
        )),
    }
}
