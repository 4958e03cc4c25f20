//! How a session with HQ begins and ends. A server that has had a session is never given up because
//! of what HQ, or a proxy before it, answers: only HQ's own word that the server is gone ends it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Subscriber;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::open_sessions::OpenSessions;
use super::session_dir::{self, SessionDir};
use super::{ServerFailure, ServerOptions, Supervisor, uploads};
use crate::backoff::{Backoff, Waits};
use crate::clock;
use crate::destination::Settings;
use crate::destination::catalog::DRIVERS;
use crate::feed::FeedError;
use crate::feed::jetstream::identity::Identity;
use crate::hq::nats::HqConnection;
use crate::hq::session::{self as hq, DriverMeta, NoSession, Session};
use crate::hq::{Hq, HqError};
use crate::http::Http;
use crate::logs::LogFiles;
use crate::pipeline::progress::Phase;
use crate::secret::mask_url;
use crate::signals::OsSignal;
use crate::status::StatusBoard;
use crate::worker::nats_login;

/// Between two requests for a session while HQ gives none.
pub const OUTAGE_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_secs(1), longest: Duration::from_secs(60) };
/// Between two requests for a session while HQ has another one of this server open.
pub const CONFLICT_WAIT: Duration = Duration::from_secs(5);
/// Between two tries to connect to NATS.
const CONNECT_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_millis(250), longest: Duration::from_secs(15) };
/// Between two signs of life while there is no session.
const TURN_INTERVAL: Duration = Duration::from_secs(1);
/// Credentials are replaced that long before they expire, or a quarter of their remaining life if
/// that is shorter.
const EXPIRY_MARGIN_MAX: Duration = Duration::from_secs(10 * 60);

/// A session that HQ has opened, with its directory.
pub struct OpenedSession {
    /// HQ's id of it.
    pub id: String,
    /// Its files.
    pub dir: SessionDir,
    /// The text of the credentials file; `None` where NATS asks for none.
    pub creds: Option<SecretString>,
    /// Who the server is at NATS.
    pub identity: Identity,
    /// HQ, as the server that has this session: it may be enrolled as another one meanwhile.
    hq: Hq,
}

/// A session that HQ has opened, and the connection over which it is heard.
pub struct BegunSession {
    /// The session.
    pub opened: OpenedSession,
    /// What is told to HQ goes this way.
    pub connection: HqConnection,
    /// HQ's notifications.
    pub notices: Subscriber,
}

/// Something to complain about, for people.
#[derive(Debug)]
pub struct NotBegunReason {
    text: String,
    /// The same without what is of one request only: what is the same is not said again and again.
    lasting: String,
}

impl From<String> for NotBegunReason {
    fn from(text: String) -> NotBegunReason {
        NotBegunReason { lasting: text.clone(), text }
    }
}

impl From<HqError> for NotBegunReason {
    fn from(error: HqError) -> NotBegunReason {
        NotBegunReason { text: error.to_string(), lasting: error.without_request().to_string() }
    }
}

impl NotBegunReason {
    fn and(self, more: &str) -> NotBegunReason {
        NotBegunReason { text: self.text + more, lasting: self.lasting + more }
    }
}

/// Why no session begins.
#[derive(Debug)]
pub enum NotBegun {
    /// Another try may succeed; with the least wait before it.
    Later(NotBegunReason, Duration),
    /// HQ does not accept this server now.
    Refused(NotBegunReason),
    /// HQ itself says that the server is no more.
    Gone(String),
}

/// What sessions are opened with; it works beside everything else.
#[derive(Clone)]
pub struct SessionOpener {
    hq: Hq,
    api_url: String,
    data_dir: PathBuf,
    server_id: String,
    companies: Vec<String>,
    servers: String,
    nats_ca: Option<PathBuf>,
    sessions: OpenSessions,
    /// Where it is shown that NATS is waited for, while there is no worker that could show more.
    board: Option<Arc<StatusBoard>>,
}

/// A session that another one has followed, or that ends with the server.
pub struct OldSession {
    /// HQ's id of it.
    pub id: String,
    /// Its files.
    pub dir: SessionDir,
    /// HQ, as the server that had it.
    pub hq: Hq,
}

/// What sessions are ended with; it works beside everything else.
#[derive(Clone)]
pub struct SessionCloser {
    http: Http,
    sessions: OpenSessions,
    keep_logs: bool,
}

impl OpenedSession {
    /// Creates the session's directory with its credentials.
    fn create(
        data_dir: &std::path::Path,
        session: &Session,
        hq: Hq,
    ) -> Result<OpenedSession, String> {
        let path = data_dir.join(&session.id);
        let failed = |e: std::io::Error| format!("{}: {e}", path.display());
        let dir = SessionDir::create(data_dir, &session.id).map_err(failed)?;
        let id = session.id.clone();
        let Some((identity, creds)) = session.login()? else {
            return Ok(OpenedSession { id, dir, creds: None, identity: Identity::local(), hq });
        };
        dir.write_creds(creds.expose_secret()).map_err(failed)?;
        Ok(OpenedSession { id, dir, creds: Some(creds), identity, hq })
    }

    /// It is over.
    pub fn into_old(self) -> OldSession {
        OldSession { id: self.id, dir: self.dir, hq: self.hq }
    }

    /// When the session has to be renewed because its credentials expire.
    pub fn expiry(&self) -> Option<Instant> {
        let left = Duration::from_secs(self.identity.expires?.saturating_sub(clock::now_s()));
        Some(Instant::now() + left - EXPIRY_MARGIN_MAX.min(left / 4))
    }

    /// Logs into the session's directory from now on. A disk that is full is no reason to stop.
    pub fn log_here(&self, logs: &LogFiles) {
        if let Err(e) = logs.open_in(&self.dir.logs()) {
            logs.close();
            warn!("no log can be written to {}: {e}", self.dir.logs().display());
        }
    }

    /// Whether a worker of this session can go on in `next` as it is.
    pub fn is_continued_by(&self, next: &OpenedSession) -> bool {
        let who = |session: &OpenedSession| {
            let Identity { server_id, companies, .. } = &session.identity;
            (server_id.clone(), companies.clone(), session.creds.is_some())
        };
        who(self) == who(next)
    }
}

impl SessionOpener {
    /// Opens a session and connects to NATS with it; waits for NATS as long as it is away. HQ is
    /// asked once, and once more if sessions of this server stood in the way.
    pub async fn begin(&self, driver: Option<DriverMeta>) -> Result<BegunSession, NotBegun> {
        let opened = self.open(driver.as_ref()).await?;
        let place = mask_url(&self.api_url, |_| false);
        info!("session {} with HQ at {place} has begun", opened.id);
        match self.connect(&opened).await {
            Ok((connection, notices)) => Ok(BegunSession { opened, connection, notices }),
            Err(why) => {
                self.give_back(&opened.id).await;
                opened.dir.remove_creds();
                opened.dir.remove_if_empty(false);
                Err(NotBegun::Later(why.into(), Duration::ZERO))
            }
        }
    }

    async fn open(&self, driver: Option<&DriverMeta>) -> Result<OpenedSession, NotBegun> {
        let mut answer = self.ask(driver).await;
        if matches!(answer, Err(NoSession::Conflict(_)))
            && self.sessions.end_all(&self.hq).await > 0
        {
            answer = self.ask(driver).await;
        }
        let session = answer.map_err(|e| match e {
            NoSession::Conflict(e) => {
                const WHAT: &str =
                    ": another server runs for this id; this one waits until it ends";
                NotBegun::Later(NotBegunReason::from(e).and(WHAT), CONFLICT_WAIT)
            }
            NoSession::Unavailable(e) => NotBegun::Later(e.into(), Duration::ZERO),
            NoSession::Refused(e) => NotBegun::Refused(e.into()),
            NoSession::Gone(e) => NotBegun::Gone(e.to_string()),
        })?;
        match OpenedSession::create(&self.data_dir, &session, self.hq.clone()) {
            Ok(opened) => Ok(opened),
            Err(why) => {
                self.give_back(&session.id).await;
                Err(NotBegun::Later(why.into(), Duration::ZERO))
            }
        }
    }

    async fn ask(&self, driver: Option<&DriverMeta>) -> Result<Session, NoSession> {
        let session = hq::start(&self.hq, &self.server_id, &self.companies, driver).await?;
        self.sessions.begun(&self.server_id, &session.id);
        Ok(session)
    }

    /// A session that is of no use stands in the way of the next.
    async fn give_back(&self, id: &str) {
        self.sessions.errored(id);
        if let Err(why) = self.sessions.end(&self.hq, id).await {
            warn!("session {id} could not be ended: {why}");
        }
        self.sessions.forget(id);
    }

    async fn connect(&self, opened: &OpenedSession) -> Result<(HqConnection, Subscriber), String> {
        let servers = nats_login::connection(
            &self.servers,
            opened.creds.clone(),
            self.nats_ca.as_deref(),
            &opened.identity.server_id,
        );
        let mut backoff = Backoff::new(CONNECT_WAITS);
        loop {
            match HqConnection::connect(&servers, &opened.id).await {
                Ok(connected) => return Ok(connected),
                Err(FeedError::Unavailable(why)) => {
                    warn!("{why}; trying again");
                    self.board.iter().for_each(|board| board.fails(&why));
                }
                Err(FeedError::Misconfigured(why) | FeedError::Taken(why)) => return Err(why),
            }
            sleep(backoff.next_exact()).await;
        }
    }
}

impl SessionCloser {
    /// Ends a session: tells HQ how it ended, uploads its logs, and tidies up its directory. A
    /// failure is logged and keeps nobody from going on.
    pub async fn close(&self, old: OldSession) {
        old.dir.remove_creds();
        match self.report(&old).await {
            Ok(()) => info!("session {} has ended", old.id),
            Err(why) => {
                warn!("the end of session {} was not fully reported to HQ: {why}", old.id);
            }
        }
        old.dir.remove_if_empty(self.keep_logs);
    }

    async fn report(&self, old: &OldSession) -> Result<(), String> {
        let uploads = self.sessions.end(&old.hq, &old.id).await?;
        self.sessions.forget(&old.id);
        if let (Some(url), Some(text)) = (&uploads.error_url, old.dir.read_stderr()) {
            uploads::send_text(&self.http, url, &text).await?;
        }
        if let Some(url) = &uploads.url {
            let files = uploads::closed(&old.dir.logs(), &[]);
            uploads::send(&self.http, url, files, self.keep_logs).await?;
        }
        Ok(())
    }
}

/// What HQ may know about the destination.
pub fn driver_of(options: &ServerOptions) -> Option<DriverMeta> {
    let url = options.url.as_ref()?.expose_secret();
    let (_, driver) = Settings::parse(url, DRIVERS).ok()?;
    Some(DriverMeta {
        scheme: driver.scheme,
        title: driver.title,
        description: driver.description,
        url: crate::destination::options::masked(url, DRIVERS),
    })
}

impl Supervisor {
    pub(super) fn opener(&self) -> SessionOpener {
        let options = &self.options;
        SessionOpener {
            hq: self.hq.clone(),
            api_url: options.api_url.clone(),
            data_dir: options.data_dir.clone(),
            server_id: options.server_id.clone(),
            companies: options.companies.clone(),
            servers: options.servers.clone(),
            nats_ca: options.nats_ca.clone(),
            sessions: self.sessions.clone(),
            board: None,
        }
    }

    pub(super) fn closer(&self) -> SessionCloser {
        SessionCloser {
            http: self.http.clone(),
            sessions: self.sessions.clone(),
            keep_logs: self.options.keep_logs,
        }
    }

    /// Begins the first session and waits for it as long as HQ gives none. `None` if the server is
    /// told to end meanwhile; an error if HQ has never accepted this server, or says that it is
    /// gone.
    pub(super) async fn first_session(&mut self) -> Result<Option<BegunSession>, ServerFailure> {
        let mut outage = Backoff::new(OUTAGE_WAITS);
        loop {
            let board = self.options.board.clone();
            board.without_worker(Phase::Waiting("there is no session with HQ yet".into()));
            let opener = SessionOpener { board: Some(board), ..self.opener() };
            let driver = driver_of(&self.options);
            let told = match self.unless_told(Box::pin(opener.begin(driver))).await {
                Ok(Ok(begun)) => {
                    self.session_given();
                    return Ok(Some(begun));
                }
                Ok(Err(no)) => {
                    let wait = self.after_refusal(no, &mut outage)?;
                    self.unless_told(sleep(wait)).await.err()
                }
                Err(told) => Some(told),
            };
            match told {
                Some(OsSignal::End) => return Ok(None),
                Some(OsSignal::Reload) => {
                    self.reread();
                    // What was begun with another identity, or half way, is of no use.
                    session_dir::remove_leftovers(&self.options.data_dir);
                    outage = Backoff::new(OUTAGE_WAITS);
                }
                None => {}
            }
        }
    }

    /// Waits for `done`, and comes round meanwhile; what a signal says comes first.
    async fn unless_told<T>(&mut self, done: impl Future<Output = T>) -> Result<T, OsSignal> {
        let mut done = std::pin::pin!(done);
        loop {
            tokio::select! {
                biased;
                signal = self.signals.next() => return Err(signal),
                done = &mut done => return Ok(done),
                () = sleep(TURN_INTERVAL) => self.options.board.turn(),
            }
        }
    }

    /// Complains about a session that does not begin; how long to wait before HQ is asked again.
    pub(super) fn after_refusal(
        &mut self,
        no: NotBegun,
        outage: &mut Backoff,
    ) -> Result<Duration, ServerFailure> {
        const CURE: &str = "; is this server still enrolled? `eds enroll CODE` enrols it again";
        let (why, least) = match no {
            NotBegun::Gone(why) => {
                return Err(ServerFailure::Refused(format!(
                    "{why}: HQ has removed this server; `eds enroll CODE` enrols it again"
                )));
            }
            NotBegun::Refused(why) if !self.sessions.had_one() => {
                return Err(ServerFailure::Refused(why.and(CURE).text));
            }
            NotBegun::Refused(why) => (why.and(CURE), Duration::ZERO),
            NotBegun::Later(why, least) => (why, least),
        };
        let wait = if least > Duration::ZERO { least } else { outage.next_exact() };
        if self.no_session.is_due(&why.lasting) {
            let why = why.text;
            warn!("{why}; HQ is asked again in {wait:?}, and then at least once a minute");
        }
        Ok(wait)
    }

    /// A session has begun: what was complained about is over.
    pub(super) fn session_given(&mut self) {
        if let Some(lasted) = self.no_session.over() {
            let lasted = Duration::from_secs(lasted.as_secs());
            info!("HQ gives sessions again, after {lasted:?} without");
        }
    }
}
