//! The supervisor of a server: it keeps a session with HQ, follows HQ's notifications, and keeps a
//! worker running that streams the changes.

mod child;
mod complaint;
pub mod consumer;
pub mod desk;
mod failures;
mod hq_session;
mod open_sessions;
mod session;
mod session_dir;
mod stop;
mod uploads;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use crate::clock::now_ns;
use crate::hq::Hq;
use crate::http::Http;
use crate::logs::LogFiles;
use crate::release::{FileStamp, ReleaseSource, Swap};
use crate::signals::{OsSignal, OsSignals};
use crate::state::{Lock, LockError};
use crate::status::StatusBoard;
use crate::status::desk::PageAction;
use complaint::Complaint;
use desk::ServerDesk;
use failures::Failures;
use hq_session::OldSession;
use open_sessions::OpenSessions;
use session::Ending;
use stop::{StopClock, StopStep};

/// The file in the data directory that one server at a time locks; its worker has another one, and
/// may outlive it.
const LOCK_FILE: &str = "eds-server.lock";

/// Which options a flag or the environment gives; those win over the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GivenOptions {
    /// The destination's URL.
    pub url: bool,
    /// The key to HQ.
    pub token: bool,
    /// The server's name at HQ.
    pub server_id: bool,
    /// That logs are kept.
    pub keep_logs: bool,
    /// HQ's address.
    pub api_url: bool,
    /// The servers of NATS.
    pub servers: bool,
}

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
    /// What the configuration does not change.
    pub given: GivenOptions,
    /// The update strategy that the configuration names; a flag among `worker_words` wins over it.
    pub update_strategy: Option<String>,
    /// URLs of NATS, separated by commas.
    pub servers: String,
    /// A file with the certificate authority of NATS, where it is a private one.
    pub nats_ca: Option<PathBuf>,
    /// How long the server may take to end.
    pub stop_timeout: Duration,
    /// Keep logs after they are uploaded.
    pub keep_logs: bool,
    /// A session is followed by a new one after so long.
    pub renew_interval: Duration,
    /// Between two uploads of the log.
    pub upload_interval: Duration,
    /// The server ends at the first unexpected end of its worker.
    pub no_restart: bool,
    /// The first worker begins at the start of the stream.
    pub from_start: bool,
    /// The worker fetches no changes until HQ unpauses the server.
    pub paused: bool,
    /// Where the tables' schemas are published, where that is a URL.
    pub schema_url: Option<String>,
    /// Arguments of every worker; none of them is secret.
    pub worker_words: Vec<OsString>,
    /// The server's own log.
    pub logs: LogFiles,
    /// What probes are told.
    pub board: Arc<StatusBoard>,
    /// Who has it may act on the status page; without one nobody may.
    pub ui_token: Option<SecretString>,
    /// Where releases come from, or why there is no such place.
    pub releases: Result<ReleaseSource, String>,
    /// HQ may order a version that is older than this one.
    pub allow_downgrade: bool,
    /// Why this server must not replace its own program; `None` if it may.
    pub no_update: Option<String>,
    /// This program has replaced another one and has not shown yet that it works as a server.
    pub unproven: Option<Swap>,
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
    /// The machine does not allow a server.
    #[error("{0}")]
    Machine(String),
}

/// A server's supervisor, over all its sessions.
pub struct Supervisor {
    options: ServerOptions,
    /// This program's file, and the worker's.
    program: PathBuf,
    /// What that file was when the server began.
    began: Option<FileStamp>,
    hq: Hq,
    http: Http,
    signals: OsSignals,
    desk: Arc<ServerDesk>,
    /// What somebody wants at the status page.
    orders: mpsc::Receiver<PageAction>,
    sessions: OpenSessions,
    /// Sessions that an earlier run of this server has left open.
    leftovers: Vec<String>,
    failures: Failures,
    stop: StopClock,
    /// A worker of this server has streamed at some time.
    was_ready: bool,
    /// Since when HQ has paused the server, Unix nanoseconds.
    paused_since: Option<i64>,
    /// HQ's destination could not be saved: it counts as long as this process, whatever the
    /// configuration says.
    is_unsaved: bool,
    /// Why no session begins.
    no_session: Complaint,
    started: Instant,
    _lock: Lock,
}

/// The right to be the server of a data directory.
pub fn server_lock(data_dir: &Path) -> Result<Lock, LockError> {
    Lock::take_as(data_dir, LOCK_FILE)
}

impl Supervisor {
    /// Prepares a server, which has its data directory's [`server_lock`]; an error if the machine
    /// does not allow one.
    pub fn new(options: ServerOptions, lock: Lock) -> Result<Supervisor, ServerFailure> {
        let http = Http::new().map_err(ServerFailure::Machine)?;
        let hq = Hq::new(http.clone(), &options.api_url, options.token.clone());
        // An update renames the running file, so its name has to be known before.
        let program = std::env::current_exe().map_err(|e| {
            ServerFailure::Machine(format!("the program's own file is not known: {e}"))
        })?;
        // At a terminal, SIGHUP says that this was closed.
        let at_terminal = cfg!(unix) && std::io::stderr().is_terminal();
        let hung_up = if at_terminal { OsSignal::End } else { OsSignal::Reload };
        let signals = OsSignals::listen(hung_up)
            .map_err(|e| ServerFailure::Machine(format!("signals cannot be listened to: {e}")))?;
        let sessions = OpenSessions::read(&options.data_dir, &options.server_id);
        let (desk, orders) = ServerDesk::new(options.data_dir.clone(), options.ui_token.clone());
        let desk = Arc::new(desk);
        options.board.open_desk(desk.clone());
        Ok(Supervisor {
            began: FileStamp::of(&program),
            program,
            hq,
            http,
            signals,
            desk,
            orders,
            leftovers: sessions.ids(),
            sessions,
            failures: Failures::default(),
            stop: StopClock::new(options.stop_timeout),
            was_ready: false,
            paused_since: options.paused.then(now_ns),
            is_unsaved: false,
            no_session: Complaint::NONE,
            started: Instant::now(),
            options,
            _lock: lock,
        })
    }

    /// Serves until the server ends.
    pub async fn run(mut self) -> Result<ServerEnd, ServerFailure> {
        self.remove_staged();
        session_dir::remove_leftovers(&self.options.data_dir);
        let Some(begun) = self.first_session().await? else {
            self.stop.begin();
            self.end_sessions(None).await;
            self.options.unproven.take().into_iter().for_each(Swap::forget_start);
            return Ok(ServerEnd::Shutdown);
        };
        let (ending, old) = session::serve(&mut self, begun).await;
        self.end_sessions(Some(old)).await;
        match ending {
            Ending::Shutdown => {
                self.options.unproven.take().into_iter().for_each(Swap::forget_start);
                Ok(ServerEnd::Shutdown)
            }
            Ending::Replaced => Ok(ServerEnd::Replaced { paused: self.paused_since.is_some() }),
            Ending::Failed(failure) => Err(failure),
        }
    }

    /// Removes what is left of an update whose trial was cut short by the end of the machine or of
    /// the server: the program itself was not replaced yet.
    fn remove_staged(&self) {
        let staged = Swap::staging(&self.program);
        if staged.exists()
            && let Ok(_lock) = self.update_lock()
            && std::fs::remove_file(&staged).is_ok()
        {
            info!("an update was cut short: its program {} is removed", staged.display());
        }
    }

    /// Keeps other servers that run the same program file from replacing it.
    fn update_lock(&self) -> Result<Lock, LockError> {
        let mut name = self.program.file_name().unwrap_or_default().to_owned();
        name.push(".update-lock");
        let dir = self.program.parent().unwrap_or(Path::new("."));
        Lock::take_as(dir, &name.to_string_lossy())
    }

    /// This program works as a server: it stays.
    fn keep_program(&mut self) {
        if let Some(swap) = self.options.unproven.take() {
            info!("version {} works as a server: it stays", swap.version);
            swap.keep();
        }
    }

    /// Ends the last session, and all others that HQ still takes for open.
    async fn end_sessions(&self, last: Option<OldSession>) {
        self.options.logs.close();
        let ended = async {
            if let Some(last) = last {
                self.closer().close(last).await;
            }
            self.sessions.end_all(&self.hq).await;
        };
        if timeout(self.stop.left_for(StopStep::Farewell), ended).await.is_err() {
            warn!("the end was not fully reported to HQ in time; the next start makes up for it");
        }
        // Credentials of a session that was only half begun are removed, too.
        session_dir::remove_leftovers(&self.options.data_dir);
    }
}
