//! One session with HQ: the worker runs and HQ's notifications are followed, until something ends
//! the session.

mod logs;
mod notices;
mod update;
mod worker;

use std::collections::HashMap;
use std::time::Duration;

use async_nats::Subscriber;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use serde_json::Map;
use tokio::time::{Instant, Interval, interval, interval_at, sleep, sleep_until};
use tracing::{info, warn};

use super::child::{Child, ChildEvent};
use super::hq_session::OpenedSession;
use super::{ServerOptions, Supervisor};
use crate::backoff::{Backoff, Waits};
use crate::config::Config;
use crate::feed::FeedError;
use crate::hq::nats::{Heartbeat, HqConnection, Metrics, Stats};
use crate::hq::session as hq;
use crate::machine;
use crate::signals::OsSignal;
use crate::worker::nats_login;
use notices::DestinationTest;
use update::{UPDATE_WAIT_MAX, Update};
use worker::OnDone;

/// Between two tries to connect to NATS.
const CONNECT_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_millis(250), longest: Duration::from_secs(15) };
/// Between two uploads of the log.
const LOG_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// Between two heartbeats of a server without a worker; a worker sends them itself.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(60);
/// Between two looks at whether the worker hangs and whether NATS accepts the credentials.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long a renewal is put off while HQ is unreachable.
const RENEWAL_PUT_OFF: Duration = Duration::from_secs(300);

/// Why a session ended.
pub enum Ending {
    /// The server is to end.
    Shutdown,
    /// The program was updated.
    Replaced,
    /// A new session is needed; why.
    Renew(String),
    /// The worker failed in a way that a restart may cure.
    Crashed {
        /// The worker's exit code; `None` if a signal ended it.
        code: Option<i32>,
        /// How it ended, for people.
        how: String,
        /// How long it had streamed; `None` if it never did.
        healthy_for: Option<Duration>,
    },
    /// The worker failed in a way that a restart does not cure; why.
    GivesUp(String),
}

/// Serves the session until it ends. The worker has ended when this returns.
pub async fn serve(supervisor: &mut Supervisor, opened: OpenedSession) -> Ending {
    let (connection, notices) = match connect(supervisor, &opened).await {
        Ok(connected) => connected,
        Err(ending) => return ending,
    };
    let mut session = SessionLoop {
        supervisor,
        opened,
        connection,
        child: None,
        commands: HashMap::new(),
        last_command: 0,
        heartbeats: 0,
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

/// Connects to NATS and repeats that while NATS is unreachable; ends the session if NATS rejects
/// its credentials.
async fn connect(
    supervisor: &mut Supervisor,
    opened: &OpenedSession,
) -> Result<(HqConnection, Subscriber), Ending> {
    let ServerOptions { servers, nats_ca, .. } = &supervisor.options;
    let servers = nats_login::connection(
        servers,
        opened.creds.clone(),
        nats_ca.as_deref(),
        &opened.server_id,
    );
    let mut backoff = Backoff::new(CONNECT_WAITS);
    loop {
        let connected = tokio::select! {
            connected = HqConnection::connect(&servers, &opened.id) => connected,
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
            () = sleep(backoff.next_exact()) => {}
            () = supervisor.signals.end() => return Err(Ending::Shutdown),
        }
    }
}

/// What a task that ran beside the session came to.
enum TaskOutcome {
    /// HQ's destination was tested.
    DestinationTested(Box<DestinationTest>, Result<(), String>),
    /// Logs were uploaded to `path`, or not.
    LogsUploaded { asked: bool, path: String, outcome: Result<(), String> },
    /// A release was fetched to where an update takes it from.
    ReleaseFetched { version: String, outcome: Result<(), String> },
    /// The time is over in which the worker had to rotate its log.
    RotationOver { command: u64 },
    /// Whether HQ is reachable, asked before a renewal.
    HqProbed { reachable: bool },
}

/// What the session waits for.
enum SessionEvent {
    Signal(OsSignal),
    Child(ChildEvent),
    Task(TaskOutcome),
    /// `None`: there will be no more notifications.
    Notice(Option<async_nats::Message>),
    UpdateOverdue,
    CredentialsExpire,
    RenewalDue,
    CheckDue,
    LogsDue,
    HeartbeatDue,
}

/// When something is due by itself.
struct Timers {
    renewal: Instant,
    expiry: Option<Instant>,
    logs: Interval,
    heartbeats: Interval,
    checks: Interval,
}

struct SessionLoop<'a> {
    supervisor: &'a mut Supervisor,
    opened: OpenedSession,
    connection: HqConnection,
    /// The worker; `None` where there is no destination yet.
    child: Option<Child>,
    /// The worker's commands that it has not answered, by number.
    commands: HashMap<u64, OnDone>,
    last_command: u64,
    heartbeats: u64,
    tasks: FuturesUnordered<BoxFuture<'static, TaskOutcome>>,
    /// An update whose worker has not streamed yet.
    update: Option<Update>,
}

impl SessionLoop<'_> {
    async fn run(&mut self, mut notices: Subscriber) -> Ending {
        let begun = Instant::now();
        let mut timers = Timers {
            renewal: begun + self.supervisor.options.renew_interval,
            expiry: self.opened.expiry(),
            logs: interval_at(begun + LOG_INTERVAL, LOG_INTERVAL),
            heartbeats: interval(HEARTBEAT_INTERVAL),
            checks: interval(CHECK_INTERVAL),
        };
        loop {
            let event = self.next_event(&mut notices, &mut timers).await;
            if let Some(ending) = self.on_event(event, &mut timers).await {
                return ending;
            }
        }
    }

    /// The next event; where several wait, the first in this order.
    async fn next_event(&mut self, notices: &mut Subscriber, timers: &mut Timers) -> SessionEvent {
        let update_until = self.update.as_ref().map(|update| update.until);
        let has_worker = self.child.is_some();
        tokio::select! {
            biased;
            signal = self.supervisor.signals.next() => SessionEvent::Signal(signal),
            event = next_child_event(&mut self.child) => SessionEvent::Child(event),
            Some(outcome) = self.tasks.next(), if !self.tasks.is_empty() => {
                SessionEvent::Task(outcome)
            }
            notice = notices.next() => SessionEvent::Notice(notice),
            () = until(update_until) => SessionEvent::UpdateOverdue,
            () = until(timers.expiry) => SessionEvent::CredentialsExpire,
            () = sleep_until(timers.renewal) => SessionEvent::RenewalDue,
            _ = timers.checks.tick() => SessionEvent::CheckDue,
            _ = timers.logs.tick() => SessionEvent::LogsDue,
            _ = timers.heartbeats.tick(), if !has_worker => SessionEvent::HeartbeatDue,
        }
    }

    async fn on_event(&mut self, event: SessionEvent, timers: &mut Timers) -> Option<Ending> {
        let renew = |why: &str| Some(Ending::Renew(why.to_owned()));
        match event {
            SessionEvent::Signal(signal) => return self.on_signal(signal).await,
            SessionEvent::Child(event) => return self.on_child_event(event).await,
            SessionEvent::Task(TaskOutcome::HqProbed { reachable: true }) => {
                return renew("the last one was due for renewal");
            }
            SessionEvent::Task(TaskOutcome::HqProbed { reachable: false }) => {
                warn!("HQ is unreachable: the session is renewed later");
                timers.renewal = Instant::now() + RENEWAL_PUT_OFF;
            }
            SessionEvent::Task(outcome) => return self.on_task(outcome).await,
            SessionEvent::Notice(Some(message)) => return self.on_notice(message).await,
            SessionEvent::Notice(None) => return renew("the notifications of HQ ended"),
            SessionEvent::UpdateOverdue => {
                let why = format!("changes did not flow within {UPDATE_WAIT_MAX:?}");
                return self.roll_back(why).await;
            }
            SessionEvent::CredentialsExpire => return renew("the credentials of NATS expire"),
            SessionEvent::RenewalDue => {
                timers.renewal = Instant::now() + RENEWAL_PUT_OFF;
                self.probe_hq();
            }
            SessionEvent::CheckDue => {
                self.child.iter_mut().for_each(Child::kill_if_silent);
                if self.connection.is_locked_out() {
                    return renew("NATS does not take the credentials any more");
                }
            }
            SessionEvent::LogsDue => self.send_logs(false).await,
            SessionEvent::HeartbeatDue => self.heartbeat(Metrics::default(), None).await,
        }
        None
    }

    async fn on_task(&mut self, outcome: TaskOutcome) -> Option<Ending> {
        match outcome {
            TaskOutcome::DestinationTested(test, outcome) => {
                return self.configure(*test, outcome).await;
            }
            TaskOutcome::LogsUploaded { asked, path, outcome } => {
                self.on_uploaded(asked, path, outcome).await;
            }
            TaskOutcome::ReleaseFetched { version, outcome } => {
                return self.on_fetched(version, outcome).await;
            }
            TaskOutcome::RotationOver { command } => {
                if self.commands.contains_key(&command) {
                    warn!("the worker does not rotate its log");
                    return self.on_done(command, Ok(None)).await;
                }
            }
            TaskOutcome::HqProbed { .. } => {}
        }
        None
    }

    async fn on_signal(&mut self, signal: OsSignal) -> Option<Ending> {
        match signal {
            OsSignal::End => {
                info!("shutting down: the worker writes its pending changes first");
                Some(Ending::Shutdown)
            }
            OsSignal::Reload => {
                info!("the configuration is read again");
                match Config::read(&self.supervisor.options.data_dir) {
                    Ok(config) => {
                        let options = &mut self.supervisor.options;
                        options.update_strategy = config.update_strategy;
                        if !options.url_is_given {
                            options.url = config.url;
                        }
                    }
                    Err(e) => {
                        warn!("{e}; it stays as it was");
                        return None;
                    }
                }
                self.restart_child().await
            }
        }
    }

    /// Ends the worker if it still runs, and tells HQ what is not going to be done any more.
    async fn close(&mut self, ending: &Ending) {
        self.abandon_update().await;
        self.end_child().await;
        let why = if matches!(ending, Ending::Crashed { .. }) {
            "the worker failed"
        } else {
            "the session ends"
        };
        for (_, on_done) in std::mem::take(&mut self.commands) {
            if let OnDone::Respond(action) = on_done {
                self.respond(action, &Err(why.to_owned())).await;
            }
        }
        self.connection.flush().await;
    }

    /// Tells HQ that `action` is done, or why not.
    async fn respond(&self, action: &str, outcome: &Result<Option<String>, String>) {
        let mut more = Map::new();
        if !matches!(action, "import" | "upgrade") {
            more.insert("action".into(), action.into());
        }
        self.connection.answer(action, "response", outcome, more).await;
    }

    /// Tells HQ that work on `action` begins.
    async fn status(&self, action: &str) {
        let more = [("action".to_owned(), action.into())].into_iter().collect();
        self.connection.answer(action, "status", &Ok(None), more).await;
    }

    /// `paused_since`: Unix nanoseconds.
    async fn heartbeat(&mut self, metrics: Metrics, paused_since: Option<i64>) {
        let heartbeat = Heartbeat {
            session_id: self.opened.id.clone(),
            offset: self.heartbeats,
            uptime: self.supervisor.started.elapsed().as_secs(),
            stats: Stats { metrics, memory: machine::memory(), load: machine::load() },
            paused: paused_since.map(|ns| crate::change::value::rfc3339(ns / 1000)),
        };
        self.heartbeats += 1;
        self.connection.tell("heartbeat", &heartbeat).await;
    }

    /// Asks whether HQ is reachable: a renewal while it is not would stop a server that can go on.
    fn probe_hq(&mut self) {
        let (hq, id) = (self.supervisor.hq.clone(), self.opened.id.clone());
        self.tasks.push(Box::pin(async move {
            let reachable = hq::log_url(&hq, &id).await.is_ok_and(|url| !url.is_empty());
            TaskOutcome::HqProbed { reachable }
        }));
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

async fn next_child_event(child: &mut Option<Child>) -> ChildEvent {
    match child {
        Some(child) => child.next_event().await,
        None => std::future::pending().await,
    }
}
