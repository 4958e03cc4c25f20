//! How a session with HQ begins and ends.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::session::Ending;
use super::session_dir::SessionDir;
use super::{CONFLICT_WAIT, ServerFailure, ServerOptions, Supervisor, uploads};
use crate::backoff::{Backoff, Waits};
use crate::clock;
use crate::destination::Settings;
use crate::destination::catalog::DRIVERS;
use crate::feed::jetstream::identity::Identity;
use crate::hq::session::{self as hq, DriverMeta, NoSession, Session};

/// Between two requests for a session while HQ is unreachable.
const OUTAGE_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_secs(1), longest: Duration::from_secs(60) };
/// How long HQ may take to answer that a session ended.
const END_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a session's end may take, with all uploads.
const FAREWELL_WAIT_MAX: Duration = Duration::from_secs(30);
/// Credentials are replaced that long before they expire, or a tenth of their remaining life if
/// that is shorter.
const EXPIRY_MARGIN_MAX: Duration = Duration::from_secs(60);

/// A session that HQ has opened, with its directory.
pub struct OpenedSession {
    /// HQ's id of it.
    pub id: String,
    /// Its files.
    pub dir: SessionDir,
    /// The text of the credentials file; `None` where NATS asks for none.
    pub creds: Option<SecretString>,
    /// The server's name at NATS.
    pub server_id: String,
    /// When the credentials expire, Unix seconds.
    expires: Option<u64>,
}

impl OpenedSession {
    /// Creates the session's directory with its credentials, and logs into it from now on.
    fn create(options: &ServerOptions, session: &Session) -> Result<OpenedSession, String> {
        let path = options.data_dir.join(&session.id);
        let failed = |e: std::io::Error| format!("{}: {e}", path.display());
        let dir = SessionDir::create(&options.data_dir, &session.id).map_err(failed)?;
        options.logs.open_in(&dir.logs()).map_err(failed)?;
        let id = session.id.clone();
        let Some((Identity { server_id, expires, .. }, creds)) = session.login()? else {
            let server_id = Identity::local().server_id;
            return Ok(OpenedSession { id, dir, creds: None, server_id, expires: None });
        };
        dir.write_creds(creds.expose_secret()).map_err(failed)?;
        Ok(OpenedSession { id, dir, creds: Some(creds), server_id, expires })
    }

    /// When the session has to be renewed because its credentials expire.
    pub fn expiry(&self) -> Option<Instant> {
        let left = Duration::from_secs(self.expires?.saturating_sub(clock::now_s()));
        Some(Instant::now() + left - EXPIRY_MARGIN_MAX.min(left / 10))
    }
}

impl Supervisor {
    /// Opens a session with HQ and waits for it as long as HQ is unreachable or has another session
    /// of this server open. `None` if the server is told to end meanwhile; an error if HQ does not
    /// accept the server.
    pub(super) async fn open_session(&mut self) -> Result<Option<OpenedSession>, ServerFailure> {
        let mut outage = Backoff::new(OUTAGE_WAITS);
        let mut warned_of_conflict = false;
        loop {
            let driver = self.driver();
            let companies = &self.options.companies;
            let request = hq::start(&self.hq, &self.options.server_id, companies, driver.as_ref());
            let answer = tokio::select! {
                answer = request => answer,
                () = self.signals.end() => return Ok(None),
            };
            let wait = match answer {
                Ok(session) => match self.prepare(session).await {
                    Some(opened) => return Ok(Some(opened)),
                    None => outage.next_exact(),
                },
                Err(NoSession::Refused(e)) => {
                    return Err(ServerFailure::Refused(format!(
                        "{e}; is this server still enrolled? `eds enroll CODE` enrols it again"
                    )));
                }
                Err(NoSession::Conflict(e)) => {
                    if !warned_of_conflict {
                        warn!("{e}: another server runs for this id; this one waits until it ends");
                    }
                    warned_of_conflict = true;
                    CONFLICT_WAIT
                }
                Err(NoSession::Unavailable(e)) => {
                    warn!("{e}; trying again");
                    outage.next_exact()
                }
            };
            if self.is_told_to_end(wait).await {
                return Ok(None);
            }
        }
    }

    /// Makes this machine ready for a session that HQ has opened; closes it at HQ if that fails.
    async fn prepare(&self, session: Session) -> Option<OpenedSession> {
        let id = &session.id;
        match OpenedSession::create(&self.options, &session) {
            Ok(opened) => {
                info!("session {id} with HQ at {} has begun", self.options.api_url);
                Some(opened)
            }
            Err(why) => {
                warn!("{why}; HQ is asked again");
                let _ = timeout(END_WAIT_MAX, hq::end(&self.hq, id, true)).await;
                None
            }
        }
    }

    /// What HQ may know about the destination.
    fn driver(&self) -> Option<DriverMeta> {
        let url = self.options.url.as_ref()?.expose_secret();
        let (_, driver) = Settings::parse(url, DRIVERS).ok()?;
        Some(DriverMeta {
            scheme: driver.scheme,
            title: driver.title,
            description: driver.description,
            url: crate::secret::mask_text(url),
        })
    }

    /// Ends session `id`: tells HQ how it ended, uploads its logs, and tidies up its directory. A
    /// failure is logged and does not keep the server from going on.
    pub(super) async fn end_session(&self, id: &str, dir: &SessionDir, ending: &Ending) {
        self.options.logs.close();
        dir.remove_creds();
        match timeout(FAREWELL_WAIT_MAX, self.report_end(id, dir, ending)).await {
            Ok(Ok(())) => info!("session {id} has ended"),
            Ok(Err(why)) => warn!("the end of session {id} was not fully reported to HQ: {why}"),
            Err(_) => {
                warn!(
                    "the end of session {id} was not reported to HQ within {FAREWELL_WAIT_MAX:?}"
                );
            }
        }
        dir.remove_if_empty(self.options.keep_logs);
    }

    async fn report_end(&self, id: &str, dir: &SessionDir, ending: &Ending) -> Result<(), String> {
        let stderr = match ending {
            Ending::Crashed { .. } => dir.read_stderr(),
            _ => None,
        };
        let errored = matches!(ending, Ending::Crashed { .. } | Ending::GivesUp(_));
        let uploads = timeout(END_WAIT_MAX, hq::end(&self.hq, id, errored))
            .await
            .map_err(|_| format!("HQ gave no answer within {END_WAIT_MAX:?}"))?
            .map_err(|e| e.to_string())?;
        if let (Some(url), Some(text)) = (&uploads.error_url, &stderr) {
            uploads::send_text(&self.http, url, text).await?;
        }
        if let Some(url) = &uploads.url {
            let files = uploads::closed(&dir.logs(), &[]);
            uploads::send(&self.http, url, files, self.options.keep_logs).await?;
        }
        Ok(())
    }
}
