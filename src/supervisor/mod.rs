//! The server's upper half: it keeps the session with HQ, obeys HQ's notifications, and keeps a
//! worker running, whatever becomes of that.

mod child;
mod session;
mod signals;
mod uploads;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;
use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use crate::config::ConfigError;
use crate::destination::Settings;
use crate::destination::catalog::DRIVERS;
use crate::hq::Hq;
use crate::hq::session::{self as hq, DriverMeta, NoSession};
use crate::http::Http;
use crate::logs::{self, LogFiles};
use crate::release::ReleaseSource;
pub use session::CREDS;
use session::{Ending, OpenedSession};
use signals::{OsSignal, OsSignals};

/// Unexpected ends of the worker after which the server ends, too.
pub const FAILURES_MAX: u32 = 5;
/// A worker that was well for that long has its failures forgotten.
const HEALTHY_AFTER: Duration = Duration::from_secs(60 * 60);
/// The longest wait before a worker is started again; the first is a second.
const RESTART_WAIT_MAX: Duration = Duration::from_secs(60);
/// Between two questions for a session that another server holds.
const CONFLICT_WAIT: Duration = Duration::from_secs(5);
/// Between two questions for a session while HQ is away, at most.
const OUTAGE_WAIT_MAX: Duration = Duration::from_secs(60);
/// A session that ended sooner than that is followed by another only after a wait.
const SESSION_IS_STABLE: Duration = Duration::from_secs(10);
/// How long HQ may take to hear that a session ended.
const END_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a session's end may take, uploads and all.
const FAREWELL_WAIT_MAX: Duration = Duration::from_secs(30);

/// What a server is started with.
pub struct ServerOptions {
    pub data_dir: PathBuf,
    pub api_url: String,
    pub token: Option<SecretString>,
    pub server_id: String,
    pub companies: Vec<String>,
    /// The destination, where there is one yet.
    pub url: Option<SecretString>,
    /// It was given by hand, and wins over the configuration.
    pub url_is_given: bool,
    /// NATS, as a comma list.
    pub servers: String,
    pub nats_ca: Option<PathBuf>,
    pub keep_logs: bool,
    pub renew_interval: Duration,
    /// An unexpected end of the worker is the end.
    pub no_restart: bool,
    /// The first worker begins at the start of the stream.
    pub from_start: bool,
    /// Nothing is fetched until HQ says so.
    pub paused: bool,
    /// What every worker is started with; nothing of it is secret.
    pub worker_words: Vec<OsString>,
    pub logs: LogFiles,
    pub releases: Result<ReleaseSource, String>,
    /// Why this server does not replace its own program, if so.
    pub no_update: Option<String>,
}

/// How a server ended.
#[derive(Debug)]
pub enum ServerEnd {
    /// As it was told to.
    Shutdown,
    /// It is to be started anew: its program is another one now.
    Replaced { paused: bool },
}

/// Why a server ended that nobody had told to.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    #[error("{0}")]
    Refused(String),
    /// The code is the worker's.
    #[error("{text}")]
    Worker { code: u8, text: String },
    #[error("{0}")]
    Config(#[from] ConfigError),
}

/// Unexpected ends of the worker, in a row.
#[derive(Default)]
struct Failures(u32);

impl Failures {
    /// Counts one more, of a worker that was well for so long before; how long to wait until it is
    /// started again, `None` where it has failed too often.
    fn count(&mut self, well_for: Option<Duration>) -> Option<Duration> {
        if well_for.is_some_and(|well| well >= HEALTHY_AFTER) {
            self.0 = 0;
        }
        self.0 += 1;
        (self.0 < FAILURES_MAX)
            .then(|| Duration::from_secs(1 << (self.0 - 1)).min(RESTART_WAIT_MAX))
    }
}

pub struct Supervisor {
    options: ServerOptions,
    program: PathBuf,
    hq: Hq,
    http: Http,
    signals: OsSignals,
    failures: Failures,
    /// A worker was well once.
    was_ready: bool,
    paused: bool,
    started: Instant,
}

impl Supervisor {
    pub fn new(options: ServerOptions) -> Result<Supervisor, String> {
        let http = Http::new()?;
        let hq = Hq::new(http.clone(), &options.api_url, options.token.clone());
        // After an update the name of the running file would be another one.
        let program = std::env::current_exe()
            .map_err(|e| format!("the program's own file is not known: {e}"))?;
        let signals =
            OsSignals::listen().map_err(|e| format!("signals cannot be listened to: {e}"))?;
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

    /// Serves, session after session, until the end.
    pub async fn run(mut self) -> Result<ServerEnd, Failed> {
        remove_leftovers(&self.options.data_dir);
        loop {
            let Some(opened) = self.begin().await? else { return Ok(ServerEnd::Shutdown) };
            let begun = Instant::now();
            let (id, dir) = (opened.id.clone(), opened.dir.clone());
            let ending = session::serve(&mut self, opened).await;
            self.farewell(&id, &dir, &ending).await;
            match ending {
                Ending::Shutdown => return Ok(ServerEnd::Shutdown),
                Ending::Replaced => return Ok(ServerEnd::Replaced { paused: self.paused }),
                Ending::Renew(why) => {
                    info!("a new session begins: {why}");
                    if begun.elapsed() < SESSION_IS_STABLE
                        && self.is_told_to_end(CONFLICT_WAIT).await
                    {
                        return Ok(ServerEnd::Shutdown);
                    }
                }
                Ending::GivesUp(text) => return Err(Failed::Worker { code: 1, text }),
                Ending::Crashed { code, how, well_for } => {
                    let wait = self.count_failure(code, &how, well_for)?;
                    if self.is_told_to_end(wait).await {
                        return Ok(ServerEnd::Shutdown);
                    }
                }
            }
        }
    }

    /// How long to wait before the worker is started again; an error where it has failed too often.
    fn count_failure(
        &mut self,
        code: Option<i32>,
        how: &str,
        well_for: Option<Duration>,
    ) -> Result<Duration, Failed> {
        let code = u8::try_from(code.unwrap_or(1)).unwrap_or(1).max(1);
        let failed = |text: String| Err(Failed::Worker { code, text });
        if code == 3 && !self.was_ready && self.options.url_is_given {
            return failed("the destination cannot be used".into());
        }
        if self.options.no_restart {
            return failed(format!("the worker {how}"));
        }
        match self.failures.count(well_for) {
            None => {
                failed(format!("the worker {how}; it has failed {FAILURES_MAX} times in a row"))
            }
            Some(wait) => {
                error!(
                    "the worker {how}; it is started again in {wait:?} (failure {} of \
                     {FAILURES_MAX})",
                    self.failures.0
                );
                Ok(wait)
            }
        }
    }

    async fn is_told_to_end(&mut self, wait: Duration) -> bool {
        let until = Instant::now() + wait;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return false,
                signal = self.signals.next() => if signal == OsSignal::End {
                    return true;
                },
            }
        }
    }

    /// Begins a session with HQ, whatever it takes; `None` when told to end.
    async fn begin(&mut self) -> Result<Option<OpenedSession>, Failed> {
        let mut outage_wait = Duration::from_secs(1);
        let mut told = false;
        loop {
            let driver = self.driver();
            let asked = hq::start(
                &self.hq,
                &self.options.server_id,
                &self.options.companies,
                driver.as_ref(),
            );
            let asked = tokio::select! {
                asked = asked => asked,
                () = self.signals.end() => return Ok(None),
            };
            let wait = match asked {
                Ok(session) => {
                    let id = session.id.clone();
                    match OpenedSession::make(&self.options, session) {
                        Ok(opened) => {
                            info!("session {id} with HQ at {} has begun", self.options.api_url);
                            return Ok(Some(opened));
                        }
                        Err(why) => {
                            warn!("{why}; HQ is asked again");
                            let _ = timeout(END_WAIT_MAX, hq::end(&self.hq, &id, true)).await;
                            outage_wait
                        }
                    }
                }
                Err(NoSession::Refused(e)) => {
                    return Err(Failed::Refused(format!(
                        "{e}; is this server still enrolled? `eds enroll CODE` enrols it again"
                    )));
                }
                Err(NoSession::Conflict(e)) => {
                    if !told {
                        warn!("{e}: another server runs for this id; this one waits until it ends");
                    }
                    told = true;
                    CONFLICT_WAIT
                }
                Err(NoSession::Unavailable(e)) => {
                    warn!("{e}; trying again");
                    outage_wait
                }
            };
            if wait == outage_wait {
                outage_wait = (outage_wait * 2).min(OUTAGE_WAIT_MAX);
            }
            if self.is_told_to_end(wait).await {
                return Ok(None);
            }
        }
    }

    /// What HQ may know about the destination.
    fn driver(&self) -> Option<DriverMeta> {
        use secrecy::ExposeSecret;
        let url = self.options.url.as_ref()?.expose_secret();
        let (_, driver) = Settings::parse(url, DRIVERS).ok()?;
        Some(DriverMeta {
            scheme: driver.scheme,
            title: driver.title,
            description: driver.description,
            url: crate::secret::mask_text(url),
        })
    }

    /// Ends the session: HQ learns how, and gets the logs.
    async fn farewell(&self, id: &str, dir: &Path, ending: &Ending) {
        self.options.logs.close();
        let _ = std::fs::remove_file(dir.join(CREDS));
        let stderr = match ending {
            Ending::Crashed { .. } => std::fs::read_to_string(dir.join(session::STDERR)).ok(),
            _ => None,
        };
        let errored = matches!(ending, Ending::Crashed { .. } | Ending::GivesUp(_));
        let parting = async {
            let ended = timeout(END_WAIT_MAX, hq::end(&self.hq, id, errored)).await;
            let uploads = ended
                .map_err(|_| format!("HQ gave no answer within {END_WAIT_MAX:?}"))?
                .map_err(|e| e.to_string())?;
            if let (Some(url), Some(text)) = (&uploads.error_url, &stderr) {
                uploads::send_text(&self.http, url, text).await?;
            }
            if let Some(url) = &uploads.url {
                uploads::send(
                    &self.http,
                    url,
                    uploads::closed(&dir.join(session::LOGS), &[]),
                    self.options.keep_logs,
                )
                .await?;
            }
            Ok::<(), String>(())
        };
        match timeout(FAREWELL_WAIT_MAX, parting).await {
            Ok(Ok(())) => info!("session {id} has ended"),
            Ok(Err(why)) => warn!("the end of session {id} was not fully reported to HQ: {why}"),
            Err(_) => warn!(
                "the end of session {id} was not reported to HQ within \
                             {FAREWELL_WAIT_MAX:?}"
            ),
        }
        // What is empty by now goes.
        let _ = std::fs::remove_dir(dir.join(session::LOGS));
        if !self.options.keep_logs {
            let _ = std::fs::remove_file(dir.join(session::STDERR));
        }
        let _ = std::fs::remove_dir(dir);
    }
}

/// What a server that was killed has left: credentials go, and its logs are bounded.
fn remove_leftovers(data_dir: &Path) {
    let left =
        std::fs::read_dir(data_dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut sessions: Vec<PathBuf> = left
        .filter(|path| path.join(session::LOGS).is_dir() || path.join(CREDS).exists())
        .collect();
    sessions.sort_by_key(|dir| {
        std::cmp::Reverse(std::fs::metadata(dir).and_then(|m| m.modified()).ok())
    });
    let mut room = logs::DIRECTORY_BYTES_MAX;
    for dir in sessions {
        let _ = std::fs::remove_file(dir.join(CREDS));
        let logs_dir = dir.join(session::LOGS);
        if let Err(e) = logs::prune(&logs_dir, room) {
            warn!("old logs in {} cannot be removed: {e}", logs_dir.display());
        }
        room = room.saturating_sub(
            logs::files(&logs_dir).map_or(0, |files| files.iter().map(|(_, bytes)| bytes).sum()),
        );
        let _ = std::fs::remove_dir(logs_dir);
        let _ = std::fs::remove_dir(dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fifth_failure_is_the_last_unless_an_hour_was_well() {
        let (mut failures, minute, hour) =
            (Failures::default(), Some(Duration::from_secs(60)), Some(Duration::from_secs(3600)));
        let mut count = |well_for| failures.count(well_for).map(|wait| wait.as_secs());
        assert_eq!(
            [count(None), count(minute), count(None), count(minute)],
            [Some(1), Some(2), Some(4), Some(8)]
        );
        assert_eq!([count(hour), count(None)], [Some(1), Some(2)]);
        assert_eq!([count(None), count(None), count(minute)], [Some(4), Some(8), None]);
    }
}
