//! The supervisor of a server: it keeps a session with HQ, follows HQ's notifications, and keeps a
//! worker running that streams the changes.

mod child;
pub mod consumer;
mod failures;
mod hq_session;
mod session;
mod session_dir;
mod uploads;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::Instant;
use tracing::{error, info};

use crate::config::ConfigError;
use crate::hq::Hq;
use crate::http::Http;
use crate::logs::LogFiles;
use crate::release::ReleaseSource;
use crate::signals::{OsSignal, OsSignals};
use crate::worker::exit_codes;
use failures::{FAILURES_MAX, Failures};
use session::Ending;

/// Between two requests for a session while HQ has another one of this server open.
const CONFLICT_WAIT: Duration = Duration::from_secs(5);
/// After a session that was shorter, the next one begins only after [`CONFLICT_WAIT`].
const SESSION_IS_STABLE: Duration = Duration::from_secs(10);

/// What a server is started with.
pub struct ServerOptions {
    /// Where the configuration, the state and the sessions' directories are.
    pub data_dir: PathBuf,
    /// HQ's address.
    pub api_url: String,
    /// Authenticates the server at HQ.
    pub token: Option<SecretString>,
    /// The server's name at HQ.
    pub server_id: String,
    /// Whose changes are streamed; empty: those of all companies that the credentials allow.
    pub companies: Vec<String>,
    /// The destination's URL; `None` until HQ configures one.
    pub url: Option<SecretString>,
    /// The URL is a flag's or the environment's, which win over the configuration.
    pub url_is_given: bool,
    /// The update strategy that the configuration names; a flag among `worker_words` wins over it.
    pub update_strategy: Option<String>,
    /// URLs of NATS, separated by commas.
    pub servers: String,
    /// A file with the certificate authority of NATS, where it is a private one.
    pub nats_ca: Option<PathBuf>,
    /// Keep logs after they are uploaded.
    pub keep_logs: bool,
    /// A session is replaced by a new one after so long.
    pub renew_interval: Duration,
    /// The server ends at the first unexpected end of its worker.
    pub no_restart: bool,
    /// The first worker begins at the start of the stream.
    pub from_start: bool,
    /// The worker fetches no changes until HQ unpauses the server.
    pub paused: bool,
    /// Arguments of every worker; none of them is secret.
    pub worker_words: Vec<OsString>,
    /// The server's own log.
    pub logs: LogFiles,
    /// Where releases come from, or why there is no such place.
    pub releases: Result<ReleaseSource, String>,
    /// Why this server must not replace its own program; `None` if it may.
    pub no_update: Option<String>,
}

/// How a server ended that did as it was told.
#[derive(Debug)]
pub enum ServerEnd {
    /// A signal or HQ told it to end.
    Shutdown,
    /// Its program was updated and has to be started again.
    Replaced {
        /// HQ has paused the server; the next program has to begin paused.
        paused: bool,
    },
}

/// Why a server ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServerFailure {
    /// HQ does not accept the server.
    #[error("{0}")]
    Refused(String),
    /// The worker cannot run.
    #[error("{text}")]
    Worker {
        /// The exit code of the last worker, at least 1.
        code: u8,
        /// What went wrong.
        text: String,
    },
    /// The configuration cannot be read or written.
    #[error("{0}")]
    Config(#[from] ConfigError),
}

/// A server's supervisor, over all its sessions.
pub struct Supervisor {
    options: ServerOptions,
    /// This program's file, and the worker's.
    program: PathBuf,
    hq: Hq,
    http: Http,
    signals: OsSignals,
    failures: Failures,
    /// A worker of this server has streamed at some time.
    was_ready: bool,
    /// HQ has paused the server.
    paused: bool,
    started: Instant,
}

impl Supervisor {
    /// Prepares a server; an error if the machine does not allow one.
    pub fn new(options: ServerOptions) -> Result<Supervisor, String> {
        let http = Http::new()?;
        let hq = Hq::new(http.clone(), &options.api_url, options.token.clone());
        // An update renames the running file, so its name has to be known before.
        let program = std::env::current_exe()
            .map_err(|e| format!("the program's own file is not known: {e}"))?;
        // At a terminal, SIGHUP says that this was closed.
        let at_terminal = cfg!(unix) && std::io::stderr().is_terminal();
        let hung_up = if at_terminal { OsSignal::End } else { OsSignal::Reload };
        let signals = OsSignals::listen(hung_up)
            .map_err(|e| format!("signals cannot be listened to: {e}"))?;
        let paused = options.paused;
        Ok(Supervisor {
            options,
            program,
            hq,
            http,
            signals,
            failures: Failures::default(),
            was_ready: false,
            paused,
            started: Instant::now(),
        })
    }

    /// Serves session after session, until the server ends.
    pub async fn run(mut self) -> Result<ServerEnd, ServerFailure> {
        session_dir::remove_leftovers(&self.options.data_dir);
        loop {
            let Some(opened) = self.open_session().await? else { return Ok(ServerEnd::Shutdown) };
            let begun = Instant::now();
            let (id, dir) = (opened.id.clone(), opened.dir.clone());
            let ending = session::serve(&mut self, opened).await;
            self.end_session(&id, &dir, &ending).await;
            let wait = match ending {
                Ending::Shutdown => return Ok(ServerEnd::Shutdown),
                Ending::Replaced => return Ok(ServerEnd::Replaced { paused: self.paused }),
                Ending::GivesUp(text) => {
                    return Err(ServerFailure::Worker { code: exit_codes::FAILED, text });
                }
                Ending::Renew(why) => {
                    info!("a new session begins: {why}");
                    (begun.elapsed() < SESSION_IS_STABLE).then_some(CONFLICT_WAIT)
                }
                Ending::Crashed { code, how, healthy_for } => {
                    Some(self.on_crash(code, &how, healthy_for)?)
                }
            };
            if let Some(wait) = wait
                && self.is_told_to_end(wait).await
            {
                return Ok(ServerEnd::Shutdown);
            }
        }
    }

    /// How long to wait before the worker is started again; an error if it is not worth another
    /// try.
    fn on_crash(
        &mut self,
        code: Option<i32>,
        how: &str,
        healthy_for: Option<Duration>,
    ) -> Result<Duration, ServerFailure> {
        let code = code.and_then(|code| u8::try_from(code).ok());
        let code = code.unwrap_or_default().max(exit_codes::FAILED);
        let failed = |text: String| Err(ServerFailure::Worker { code, text });
        // The person who gave the URL is there to correct it; HQ can correct its own later.
        if code == exit_codes::UNUSABLE && !self.was_ready && self.options.url_is_given {
            return failed("the destination cannot be used".into());
        }
        if self.options.no_restart {
            return failed(format!("the worker {how}"));
        }
        let Some(wait) = self.failures.count(healthy_for) else {
            return failed(format!(
                "the worker {how}; it has failed {FAILURES_MAX} times in a row"
            ));
        };
        error!(
            "the worker {how}; it is started again in {wait:?} (failure {} of {FAILURES_MAX})",
            self.failures.in_a_row()
        );
        Ok(wait)
    }

    /// Waits for `wait`; returns early with true if a signal says to end.
    async fn is_told_to_end(&mut self, wait: Duration) -> bool {
        tokio::time::timeout(wait, self.signals.end()).await.is_ok()
    }
}
