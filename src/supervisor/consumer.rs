//! The durable consumer of a server, looked at and handed back without a worker. NATS is reached
//! with the credentials of a file, of the server that is running, or of a session with HQ that is
//! begun for them alone.

use std::path::{Path, PathBuf};

use secrecy::SecretString;
use tracing::warn;

use super::session_dir::CREDS;
use crate::feed::Start;
use crate::feed::jetstream::api::{AckPolicy, ConsumerInfo};
use crate::feed::jetstream::connect::Link;
use crate::feed::jetstream::identity::Identity;
use crate::feed::jetstream::{JetStream, JetStreamSettings};
use crate::hq::Hq;
use crate::hq::session::{self, NoSession};
use crate::state::Lock;
use crate::worker::nats_login::{MAX_ACK_PENDING, connection, identity};
use crate::worker::run::RunError;

/// Whose consumer, and how it is reached.
pub struct ConsumerAccess {
    /// Where a running server has its credentials.
    pub data_dir: PathBuf,
    /// URLs of NATS, separated by commas.
    pub servers: String,
    /// A file of credentials, which goes before those of a running server.
    pub creds: Option<PathBuf>,
    /// A file with the certificate authority of NATS, where it is a private one.
    pub nats_ca: Option<PathBuf>,
    /// Gives credentials where there are no others; `None` if this server is not enrolled.
    pub hq: Option<Hq>,
    /// The server's name at HQ.
    pub server_id: String,
    /// Put behind the name of the consumer.
    pub consumer_suffix: Option<String>,
}

/// A consumer within reach.
struct OpenedConsumer {
    stream: JetStream,
    session: Option<CredentialSession>,
}

/// A session of HQ that was begun for the credentials alone.
struct CredentialSession {
    hq: Hq,
    id: String,
}

impl CredentialSession {
    async fn end(self) {
        if let Err(e) = session::end(&self.hq, &self.id, false).await {
            warn!("the end of the session was not reported to HQ: {e}");
        }
    }
}

/// Who the server is at NATS, the text of its credentials file, and where they are from.
type ConsumerLogin = (Identity, Option<SecretString>, Option<CredentialSession>);

impl ConsumerAccess {
    /// The consumer as it is; `None` if there is no such consumer.
    pub async fn look(&self) -> Result<Option<ConsumerInfo>, RunError> {
        let OpenedConsumer { stream, session } = self.open().await?;
        let looked = stream.look().await;
        end(session).await;
        Ok(looked?)
    }

    /// Recreates the consumer in the form of the Go program. Returns the time since which it
    /// delivers (RFC 3339), and the new consumer.
    pub async fn hand_back(&self) -> Result<(String, ConsumerInfo), RunError> {
        let _lock = Lock::take(&self.data_dir).map_err(RunError::setup)?;
        let OpenedConsumer { mut stream, session } = self.open().await?;
        let handed = stream.hand_back().await;
        end(session).await;
        Ok(handed?)
    }

    async fn open(&self) -> Result<OpenedConsumer, RunError> {
        let file = self.creds.clone().or_else(|| of_running(&self.data_dir));
        let (identity, creds, session) = match (file, &self.hq) {
            (None, Some(hq)) => self.ask(hq).await?,
            (file, _) => {
                let (identity, creds) = identity(file.as_deref(), &self.servers)?;
                (identity, creds, None)
            }
        };
        let nats_ca = self.nats_ca.as_deref();
        let connection = connection(&self.servers, creds, nats_ca, &identity.server_id);
        let settings = JetStreamSettings {
            durable: identity.consumer(self.consumer_suffix.as_deref()),
            companies: identity.companies,
            tables: Vec::new(),
            policy: AckPolicy::All,
            max_ack_pending: MAX_ACK_PENDING,
            batch: 1,
            start: Start::NewOnly,
        };
        match Link::connect(&connection).await {
            Ok(link) => Ok(OpenedConsumer { stream: JetStream::new(link, settings), session }),
            Err(e) => {
                end(session).await;
                Err(e.into())
            }
        }
    }

    async fn ask(&self, hq: &Hq) -> Result<ConsumerLogin, RunError> {
        let session = session::start(hq, &self.server_id, &[], None).await.map_err(|e| match e {
            NoSession::Conflict(e) => RunError::setup(format!(
                "{e}: a server runs elsewhere; run this command there, or stop that server first"
            )),
            NoSession::Unavailable(e) | NoSession::Refused(e) | NoSession::Gone(e) => {
                RunError::setup(e)
            }
        })?;
        let opened = CredentialSession { hq: hq.clone(), id: session.id.clone() };
        let read = match session.login() {
            Ok(Some((identity, creds))) => Ok((identity, Some(creds))),
            Ok(None) => identity(None, &self.servers),
            Err(why) => Err(RunError::setup(why)),
        };
        match read {
            Ok((identity, creds)) => Ok((identity, creds, Some(opened))),
            Err(e) => {
                opened.end().await;
                Err(e)
            }
        }
    }
}

async fn end(session: Option<CredentialSession>) {
    if let Some(session) = session {
        session.end().await;
    }
}

/// The credentials of the server that runs with this data directory.
pub fn of_running(data_dir: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(data_dir).ok()?.flatten();
    entries
        .map(|entry| entry.path().join(CREDS))
        .filter(|creds| creds.is_file())
        .max_by_key(|creds| std::fs::metadata(creds).and_then(|m| m.modified()).ok())
}
