//! The connection to NATS, and what its troubles mean to a user.

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

/// How to get to NATS.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    /// Comma list of URLs.
    pub urls: String,
    /// The text of a credentials file.
    pub creds: Option<secrecy::SecretString>,
    pub certificate_authority: Option<PathBuf>,
    pub name: String,
}

/// A connection that comes back by itself.
#[derive(Clone)]
pub struct Link {
    pub client: Client,
    /// Counts the connections that were made.
    pub connections: watch::Receiver<u64>,
    last_error: Arc<Mutex<Option<String>>>,
}

impl Link {
    pub async fn connect(servers: &Servers) -> Result<Link, FeedError> {
        let (counter, connections) = watch::channel(0u64);
        let last_error = Arc::new(Mutex::new(None));
        let heard = last_error.clone();
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
                        *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(e.to_string());
                    }
                    Event::ClientError(e) => {
                        *heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(e.to_string());
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

    /// The last thing that the server complained about, and forgets it.
    pub fn complaint(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

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
                "no encrypted connection to NATS at {place}: {error}; a private authority is named \
                 with --nats-ca"
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
