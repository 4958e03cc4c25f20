//! One session with HQ: the worker runs, notifications are obeyed, until something ends it.

mod obey;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Map;
use tokio::time::{Instant, interval_at, sleep, sleep_until};
use tracing::{info, warn};

use super::child::{Child, ChildEvent, ChildExit};
use super::signals::OsSignal;
use super::{ServerOptions, Supervisor, uploads};
use crate::config::Config;
use crate::control::pipe::{WorkerCommand, WorkerEvent};
use crate::feed::FeedError;
use crate::feed::jetstream::connect::Servers;
use crate::feed::jetstream::identity::Identity;
use crate::hq::notice::{self, Notice};
use crate::hq::post::Metrics;
use crate::hq::post::{Heartbeat, Post, Stats};
use crate::hq::session as hq;
use crate::machine;
use crate::private::create_new as private;
use crate::release::Swap;

/// Names in a session's directory.
pub const CREDS: &str = "nats.creds";
pub const LOGS: &str = "logs";
/// What the worker wrote last before it crashed.
pub const STDERR: &str = "stderr.txt";

/// Between two uploads of the log.
const LOG_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Between two signs of life of a server without a worker.
const BEAT_INTERVAL: Duration = Duration::from_secs(60);
/// Credentials are replaced that long before they expire, or a tenth of their life if that is
/// shorter.
const EXPIRY_MARGIN_MAX: Duration = Duration::from_secs(60);
/// Between two looks at whether NATS still lets this session in.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a renewal is put off while HQ is away.
const RENEWAL_PUT_OFF: Duration = Duration::from_secs(300);
/// How long a new program's worker may take until changes flow.
const UPDATE_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long the worker may take to rotate its log.
const ROTATION_WAIT_MAX: Duration = Duration::from_secs(10);

/// Why a session ended.
pub enum Ending {
    Shutdown,
    /// The program is another one now.
    Replaced,
    Renew(String),
    /// The worker failed in a way that a restart may cure.
    Crashed {
        code: Option<i32>,
        how: String,
        well_for: Option<Duration>,
    },
    /// The worker failed in a way that it does not.
    GivesUp(String),
}

/// A session that HQ gave, with its directory.
pub struct OpenedSession {
    pub id: String,
    pub dir: PathBuf,
    creds: Option<SecretString>,
    expires: Option<u64>,
    server_id: String,
}

impl OpenedSession {
    /// Makes the session's directory, with the credentials that only their owner can read.
    pub fn make(options: &ServerOptions, session: hq::Session) -> Result<OpenedSession, String> {
        let dir = options.data_dir.join(&session.id);
        let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
        std::fs::create_dir_all(dir.join(LOGS)).map_err(failed)?;
        options.logs.open_in(&dir.join(LOGS)).map_err(failed)?;
        let mut opened = OpenedSession {
            id: session.id,
            dir: dir.clone(),
            creds: None,
            expires: None,
            server_id: Identity::local().server_id,
        };
        let Some(credential) = session.credential.filter(|c| !c.expose_secret().trim().is_empty())
        else {
            return Ok(opened);
        };
        let text = hq::credential_text(&credential)?;
        let identity = Identity::from_hq(text.expose_secret())?;
        let path = dir.join(CREDS);
        let _ = std::fs::remove_file(&path);
        private(&path)
            .and_then(|mut file| {
                std::io::Write::write_all(&mut file, text.expose_secret().as_bytes())
            })
            .map_err(failed)?;
        (opened.creds, opened.expires, opened.server_id) =
            (Some(text), identity.expires, identity.server_id);
        Ok(opened)
    }

    /// When the credentials have to be replaced.
    fn expiry(&self) -> Option<Instant> {
        let left = Duration::from_secs(self.expires?.saturating_sub(crate::clock::now_s()));
        Some(Instant::now() + left - EXPIRY_MARGIN_MAX.min(left / 10))
    }
}

/// Serves the session until it ends; the worker has ended by then.
pub async fn serve(supervisor: &mut Supervisor, opened: OpenedSession) -> Ending {
    let servers = Servers {
        urls: supervisor.options.servers.clone(),
        creds: opened.creds.clone(),
        certificate_authority: supervisor.options.nats_ca.clone(),
        name: format!("eds-{}", opened.server_id),
    };
    let (post, notices) = match connect(supervisor, &servers, &opened).await {
        Ok(connected) => connected,
        Err(ending) => return ending,
    };
    let mut session = SessionLoop {
        supervisor,
        opened,
        post,
        child: None,
        waiting: HashMap::new(),
        last_id: 0,
        offset: 0,
        tasks: FuturesUnordered::new(),
        update: None,
    };
    let ending = match session.start_child().await {
        Ok(()) => session.run(notices).await,
        Err(ending) => ending,
    };
    session.close(&ending).await;
    ending
}

/// Connects to NATS, whatever it takes; fails where the session's credentials are not taken.
async fn connect(
    supervisor: &mut Supervisor,
    servers: &Servers,
    opened: &OpenedSession,
) -> Result<(Post, Subscriber), Ending> {
    let mut wait = Duration::from_millis(250);
    loop {
        let connected = tokio::select! {
            connected = Post::connect(servers, &opened.id) => connected,
            () = supervisor.signals.end() => return Err(Ending::Shutdown),
        };
        match connected {
            Ok(connected) => return Ok(connected),
            Err(FeedError::Unavailable(why)) => warn!("{why}; trying again"),
            Err(FeedError::Misconfigured(why) | FeedError::Taken(why)) => {
                return Err(Ending::Renew(why));
            }
        }
        tokio::select! {
            () = sleep(wait) => {}
            () = supervisor.signals.end() => return Err(Ending::Shutdown),
        }
        wait = (wait * 2).min(Duration::from_secs(15));
    }
}

/// Who waits for something that the worker was told to do.
enum Waiting {
    Respond(&'static str),
    /// The log is rotated: it can be uploaded. HQ waits for the response, if it asked.
    Upload {
        asked: bool,
    },
    Nobody,
}

/// What came of something that was done beside.
enum Finished {
    Tested {
        message: Box<Message>,
        url: SecretString,
        strategy: String,
        backfill: bool,
        outcome: Result<(), String>,
    },
    Uploaded {
        asked: bool,
        path: String,
        outcome: Result<(), String>,
    },
    Fetched {
        version: String,
        outcome: Result<(), String>,
    },
    /// The worker's log was to be rotated by now.
    RotationOver {
        id: u64,
    },
    /// Whether HQ is there, when the session is to be renewed.
    Renewal {
        there: bool,
    },
}

/// An update whose worker has not shown yet that it can do its work.
struct Update {
    swap: Swap,
    version: String,
    until: Instant,
}

struct SessionLoop<'a> {
    supervisor: &'a mut Supervisor,
    opened: OpenedSession,
    post: Post,
    child: Option<Child>,
    waiting: HashMap<u64, Waiting>,
    last_id: u64,
    offset: u64,
    tasks: FuturesUnordered<BoxFuture<'static, Finished>>,
    update: Option<Update>,
}

impl SessionLoop<'_> {
    async fn run(&mut self, mut notices: Subscriber) -> Ending {
        let begun = Instant::now();
        let mut renewal = begun + self.supervisor.options.renew_interval;
        let expiry = self.opened.expiry();
        let mut log_times = interval_at(begun + LOG_INTERVAL, LOG_INTERVAL);
        let mut beats = tokio::time::interval(BEAT_INTERVAL);
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        loop {
            let update_until = self.update.as_ref().map(|update| update.until);
            let ending = tokio::select! {
                biased;
                signal = self.supervisor.signals.next() => self.on_signal(signal).await,
                heard = hear(&mut self.child) => self.on_child_event(heard).await,
                Some(finished) = self.tasks.next(), if !self.tasks.is_empty() => match finished {
                    Finished::Renewal { there: true } => Some(Ending::Renew("the last one was \
                        to be renewed".into())),
                    Finished::Renewal { there: false } => {
                        warn!("HQ is away: the session is renewed later");
                        renewal = Instant::now() + RENEWAL_PUT_OFF;
                        None
                    }
                    other => self.finished(other).await,
                },
                message = notices.next() => match message {
                    Some(message) => self.on_notice(message).await,
                    None => Some(Ending::Renew("the notifications of HQ ended".into())),
                },
                () = until(update_until) => self.roll_back(format!("changes did not flow within \
                    {UPDATE_WAIT_MAX:?}")).await,
                () = until(expiry) => Some(Ending::Renew("the credentials of NATS expire".into())),
                () = sleep_until(renewal) => {
                    renewal = Instant::now() + RENEWAL_PUT_OFF;
                    self.look_for_hq();
                    None
                }
                _ = looks.tick() => {
                    self.child.iter_mut().for_each(Child::end_if_it_hangs);
                    self.post.is_locked_out().then(|| Ending::Renew("NATS does not take the \
                        credentials any more".into()))
                }
                _ = log_times.tick() => {
                    self.send_logs(false).await;
                    None
                }
                _ = beats.tick(), if self.child.is_none() => {
                    self.beat(Metrics::default(), None).await;
                    None
                }
            };
            if let Some(ending) = ending {
                return ending;
            }
        }
    }

    /// Ends the worker, if it still runs; who waits for it learns that.
    async fn close(&mut self, ending: &Ending) {
        if let Some(update) = self.update.take() {
            let why = match update.swap.roll_back() {
                Ok(()) => "the session ended before the new program showed itself; the old one is \
                           in its place again"
                    .to_owned(),
                Err(e) => format!(
                    "the session ended before the new program showed itself; the old \
                                   one cannot be put back: {e}"
                ),
            };
            self.not_upgraded(&update.version, &why).await;
        }
        self.end_child().await;
        let why = if matches!(ending, Ending::Crashed { .. }) {
            "the worker failed"
        } else {
            "the session ends"
        };
        self.nobody_comes(why).await;
        self.post.flush().await;
    }

    async fn nobody_comes(&mut self, why: &str) {
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            if let Waiting::Respond(action) = waiting {
                self.respond(action, &Err(why.to_owned())).await;
            }
        }
    }

    async fn respond(&self, action: &str, outcome: &Result<Option<String>, String>) {
        let mut more = Map::new();
        if !matches!(action, "import" | "upgrade") {
            more.insert("action".into(), action.into());
        }
        self.post.answer(action, "response", outcome, more).await;
    }

    async fn status(&self, action: &str) {
        let more = [("action".to_owned(), action.into())].into_iter().collect();
        self.post.answer(action, "status", &Ok(None), more).await;
    }

    // The worker.

    /// Starts the worker, where there is a destination for it.
    async fn start_child(&mut self) -> Result<(), Ending> {
        let options = &self.supervisor.options;
        let Some(url) = options.url.clone() else {
            info!(
                "this server has no destination yet: return to HQ and configure it there; it is \
                 taken up here at once"
            );
            return Ok(());
        };
        let mut words: Vec<OsString> = ["fork".into(), "--supervised".into()]
            .into_iter()
            .chain(options.worker_words.iter().cloned())
            .collect();
        let mut say = |flag: &str, value: OsString| words.extend([flag.into(), value]);
        say("--data-dir", options.data_dir.clone().into());
        say("--server", options.servers.clone().into());
        say("--logs-dir", self.opened.dir.join(LOGS).into());
        if self.opened.creds.is_some() {
            say("--creds", self.opened.dir.join(CREDS).into());
        }
        if options.from_start && !self.supervisor.was_ready {
            words.push("--restart".into());
        }
        let begin = WorkerCommand::Begin {
            url,
            token: options.token.clone(),
            api_url: Some(options.api_url.clone()),
        };
        match Child::start(&self.supervisor.program, &words, &begin).await {
            Ok(child) => self.child = Some(child),
            Err(how) => return Err(Ending::Crashed { code: None, how, well_for: None }),
        }
        if self.supervisor.paused {
            self.order(Waiting::Nobody, |id| WorkerCommand::Pause { id }).await;
        }
        Ok(())
    }

    /// Lets the worker end in order.
    async fn end_child(&mut self) {
        if let Some(mut child) = self.child.take() {
            let ended = child.end().await;
            if ended.code != Some(0) {
                warn!("the worker {}", ended.how);
            }
        }
    }

    async fn restart_child(&mut self) -> Option<Ending> {
        self.end_child().await;
        self.start_child().await.err()
    }

    /// Tells the worker to do something that it will answer; false where there is none.
    async fn order(&mut self, waiting: Waiting, order: impl FnOnce(u64) -> WorkerCommand) -> bool {
        let Some(child) = &mut self.child else { return false };
        self.last_id += 1;
        self.waiting.insert(self.last_id, waiting);
        child.tell(&order(self.last_id)).await;
        true
    }

    async fn on_child_event(&mut self, heard: ChildEvent) -> Option<Ending> {
        match heard {
            ChildEvent::Told(WorkerEvent::Ready) => {
                self.supervisor.was_ready = true;
                return self.update_is_good().await;
            }
            ChildEvent::Told(WorkerEvent::Beat { metrics, paused_since }) => {
                self.beat(metrics, paused_since).await;
            }
            ChildEvent::Told(WorkerEvent::Done { id, error, log }) => {
                return self.done(id, error.map_or(Ok(log), Err)).await;
            }
            ChildEvent::Told(WorkerEvent::GivesUp { .. }) => {}
            ChildEvent::ChildExit(ended) => return self.child_ended(ended).await,
        }
        None
    }

    async fn done(&mut self, id: u64, outcome: Result<Option<PathBuf>, String>) -> Option<Ending> {
        match self.waiting.remove(&id) {
            Some(Waiting::Respond(action)) => self.respond(action, &outcome.map(|_| None)).await,
            Some(Waiting::Upload { asked }) => self.upload(asked, outcome.ok().flatten()),
            // A worker that has paused at its start is well.
            Some(Waiting::Nobody) => return self.update_is_good().await,
            None => {}
        }
        None
    }

    async fn child_ended(&mut self, ended: ChildExit) -> Option<Ending> {
        let child = self.child.take()?;
        if self.update.is_some() {
            return self.roll_back(format!("its worker {}", ended.how)).await;
        }
        if let Some(why) = child.gives_up {
            return Some(Ending::GivesUp(why));
        }
        match ended.code {
            // It asked for that.
            Some(4) => return self.start_child().await.err(),
            Some(5) => return Some(Ending::Renew("the worker was cut off from NATS".into())),
            _ => {}
        }
        if let Err(e) = std::fs::write(self.opened.dir.join(STDERR), &ended.stderr) {
            warn!("what the worker said last cannot be kept: {e}");
        }
        Some(Ending::Crashed {
            code: ended.code,
            how: ended.how,
            well_for: child.ready.map(|since| since.elapsed()),
        })
    }

    async fn beat(&mut self, metrics: Metrics, paused_since: Option<i64>) {
        let heartbeat = Heartbeat {
            session_id: self.opened.id.clone(),
            offset: self.offset,
            uptime: self.supervisor.started.elapsed().as_secs(),
            stats: Stats { metrics, memory: machine::memory(), load: machine::load() },
            paused: paused_since.map(|ns| crate::change::value::rfc3339(ns / 1000)),
        };
        self.offset += 1;
        self.post.tell("heartbeat", &heartbeat).await;
    }

    // The machine's owner.

    async fn on_signal(&mut self, signal: OsSignal) -> Option<Ending> {
        match signal {
            OsSignal::End => {
                info!("ending: the worker writes first what it has gathered");
                Some(Ending::Shutdown)
            }
            OsSignal::Reload => {
                info!("the configuration is read again");
                match Config::read(&self.supervisor.options.data_dir) {
                    Ok(config) if !self.supervisor.options.url_is_given => {
                        self.supervisor.options.url = config.url;
                    }
                    Ok(_) => {}
                    Err(e) => {
                        warn!("{e}; it stays as it was");
                        return None;
                    }
                }
                self.restart_child().await
            }
        }
    }

    // Logs.

    /// Uploads the log so far; `asked` by HQ or by the clock.
    async fn send_logs(&mut self, asked: bool) {
        if let Err(e) = self.supervisor.options.logs.rotate() {
            warn!("the log cannot be rotated: {e}");
        }
        if self.order(Waiting::Upload { asked }, |id| WorkerCommand::RotateLog { id }).await {
            let id = self.last_id;
            self.tasks.push(Box::pin(async move {
                sleep(ROTATION_WAIT_MAX).await;
                Finished::RotationOver { id }
            }));
        } else {
            self.upload(asked, None);
        }
    }

    /// Uploads what is closed; `open` is what the worker writes to.
    fn upload(&mut self, asked: bool, open: Option<PathBuf>) {
        let options = &self.supervisor.options;
        let dir = self.opened.dir.join(LOGS);
        let told = open.is_some();
        let open: Vec<PathBuf> = options.logs.path().into_iter().chain(open).collect();
        let mut files = uploads::closed(&dir, &open);
        if self.child.is_some() && !told {
            // It did not say which: the newest, as far as one can tell.
            files.pop();
        }
        let (hq, http, id, keep) = (
            self.supervisor.hq.clone(),
            self.supervisor.http.clone(),
            self.opened.id.clone(),
            options.keep_logs,
        );
        self.tasks.push(Box::pin(async move {
            let url = hq::log_url(&hq, &id).await;
            let (path, outcome) = match url {
                Ok(url) => (uploads::path_of(&url), uploads::send(&http, &url, files, keep).await),
                Err(e) => (String::new(), Err(e.to_string())),
            };
            Finished::Uploaded { asked, path, outcome }
        }));
    }

    /// A renewal while HQ is away would stop a server that could go on.
    fn look_for_hq(&mut self) {
        let (hq, id) = (self.supervisor.hq.clone(), self.opened.id.clone());
        self.tasks.push(Box::pin(async move {
            Finished::Renewal {
                there: hq::log_url(&hq, &id).await.is_ok_and(|url| !url.is_empty()),
            }
        }));
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

async fn hear(child: &mut Option<Child>) -> ChildEvent {
    match child {
        Some(child) => child.heard().await,
        None => std::future::pending().await,
    }
}
