//! The connection to NATS, and its errors in words that name the cure.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{Client, ConnectError, ConnectErrorKind, ConnectOptions, Event};
use tokio::sync::watch;

use crate::backoff::Waits;
use crate::feed::FeedError;

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
}

impl Link {
    /// Connects once. [`FeedError::Unavailable`] if another try may succeed.
    pub async fn connect(servers: &Servers) -> Result<Link, FeedError> {
        let (counter, connections) = watch::channel(0u64);
        let last_error = Arc::new(Mutex::new(None));
        let reported = last_error.clone();
        let mut options = ConnectOptions::new()
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
        if let Some(creds) = &servers.creds {
            use secrecy::ExposeSecret;
            let unusable =
                |e| FeedError::Misconfigured(format!("the credentials cannot be used: {e}"));
            options = options.credentials(creds.expose_secret()).map_err(unusable)?;
        }
        if let Some(path) = &servers.certificate_authority {
            options = options.add_root_certificates(path.clone());
        }
        let urls: Vec<&str> =
            servers.urls.split(',').map(str::trim).filter(|s| !s.is_empty()).collect();
        let client = options.connect(urls).await.map_err(|e| refused(&e, servers))?;
        Ok(Link { client, connections, last_error })
    }

    /// Takes the last error that the server or the client reported since the last call.
    pub fn complaint(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether the connection is established at the moment.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }
}

fn refused(error: &ConnectError, servers: &Servers) -> FeedError {
    let urls: Vec<String> = servers
        .urls
        .split(',')
        .map(|u| {
            url::Url::parse(u.trim())
                .map_or_else(|_| u.trim().to_owned(), |u| crate::secret::mask_url(&u))
        })
        .collect();
    let place = urls.join(", ");
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            let cure = if servers.creds.is_some() {
                "are the credentials of this server, and not expired?"
            } else {
                "it asks for credentials: name the file with --creds"
            };
            FeedError::Misconfigured(format!("NATS at {place} refuses the login: {cure}"))
        }
        ConnectErrorKind::ServerParse => FeedError::Misconfigured(format!(
            "{place} is not a NATS URL; it looks like nats://host:4222"
        )),
        kind if kind == ConnectErrorKind::Tls || error.to_string().contains("certificate") => {
            FeedError::Misconfigured(format!(
                "no encrypted connection to NATS at {place}: {error}; --nats-ca names a private \
                 certificate authority"
            ))
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
