//! A server at work: its worker runs, HQ's notifications are followed, and session follows session
//! without a break, until something ends the server.

mod logs;
mod notices;
mod reload;
mod renewal;
mod update;
mod worker;

use std::collections::HashMap;
use std::time::Duration;

use async_nats::Subscriber;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use serde_json::Map;
use tokio::time::{Instant, Interval, interval, interval_at, sleep_until, timeout};
use tracing::info;

use super::child::{Child, ChildEvent};
use super::hq_session::{BegunSession, NotBegun, OldSession, OpenedSession};
use super::stop::StopStep;
use super::{ServerFailure, Supervisor};
use crate::hq::nats::{Heartbeat, HqConnection, Metrics, PackedTime, Stats};
use crate::machine;
use crate::signals::OsSignal;
use crate::status::desk::PageAction;
use notices::DestinationTest;
use renewal::Renewal;
use update::{Fetching, UPDATE_WAIT_MAX, Update};
use worker::{NextStart, OnDone};

/// Between two heartbeats of a server without a worker; a worker sends them itself.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(60);
/// Between two looks at whether the worker hangs and whether NATS accepts the credentials.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Why the server ends.
pub enum Ending {
    /// It is to end.
    Shutdown,
    /// The program was updated.
    Replaced,
    /// It cannot go on.
    Failed(ServerFailure),
}

/// Serves until the server ends. The worker has ended when this returns; the session has not.
pub async fn serve(supervisor: &mut Supervisor, begun: BegunSession) -> (Ending, OldSession) {
    let BegunSession { opened, connection, notices } = begun;
    opened.log_here(&supervisor.options.logs);
    let now = Instant::now();
    let renewal = Renewal::of(&opened, supervisor.options.renew_interval);
    supervisor.options.board.session(opened.identity.expires, renewal.due_unix());
    let upload_interval = supervisor.options.upload_interval;
    let mut session = SessionLoop {
        supervisor,
        opened,
        connection,
        notices: Some(notices),
        child: None,
        next_start: NextStart::default(),
        commands: HashMap::new(),
        last_command: 0,
        heartbeats: 0,
        tasks: FuturesUnordered::new(),
        renewal,
        timers: Timers {
            logs: interval_at(now + upload_interval, upload_interval),
            heartbeats: interval(HEARTBEAT_INTERVAL),
            checks: interval(CHECK_INTERVAL),
        },
        update: None,
        fetching: None,
    };
    session.close_leftovers();
    let ending = match session.start_child().await {
        Some(ending) => ending,
        None => session.run().await,
    };
    session.close(&ending).await;
    let SessionLoop { opened, .. } = session;
    (ending, opened.into_old())
}

/// What a task that ran beside the session came to.
enum TaskOutcome {
    /// HQ's destination was tested.
    DestinationTested(Box<DestinationTest>, Result<(), String>),
    /// Logs were uploaded to `path`, or not.
    LogsUploaded { path: String, outcome: Result<(), String> },
    /// A release was fetched to where an update takes it from.
    ReleaseFetched { version: String, outcome: Result<(), String> },
    /// The time is over in which the worker had to answer this command.
    AnswerOverdue { command: u64 },
    /// HQ was asked for the next session.
    NextSession(Box<Result<BegunSession, NotBegun>>),
    /// An earlier session was ended.
    SessionClosed,
}

/// What the session waits for.
enum SessionEvent {
    Signal(OsSignal),
    Order(PageAction),
    Child(ChildEvent),
    Task(TaskOutcome),
    /// `None`: there will be no more notifications.
    Notice(Option<async_nats::Message>),
    UpdateOverdue,
    RenewalDue,
    StartDue,
    CheckDue,
    LogsDue,
    HeartbeatDue,
}

/// What is due again and again.
struct Timers {
    logs: Interval,
    heartbeats: Interval,
    checks: Interval,
}

struct SessionLoop<'a> {
    supervisor: &'a mut Supervisor,
    opened: OpenedSession,
    connection: HqConnection,
    /// HQ's notifications; `None` once they have ended, until the next session.
    notices: Option<Subscriber>,
    /// The worker; `None` where there is no destination yet, and while a start is waited for.
    child: Option<Child>,
    next_start: NextStart,
    /// The worker's commands that it has not answered, by number.
    commands: HashMap<u64, OnDone>,
    last_command: u64,
    heartbeats: u64,
    tasks: FuturesUnordered<BoxFuture<'static, TaskOutcome>>,
    renewal: Renewal,
    timers: Timers,
    /// An update whose worker has not streamed yet.
    update: Option<Update>,
    /// A release that is being fetched.
    fetching: Option<Fetching>,
}

impl SessionLoop<'_> {
    async fn run(&mut self) -> Ending {
        loop {
            let event = self.next_event().await;
            self.supervisor.options.board.turn();
            if let Some(ending) = self.on_event(event).await {
                return ending;
            }
        }
    }

    /// The next event; where several wait, the first in this order.
    async fn next_event(&mut self) -> SessionEvent {
        let update_until = self.update.as_ref().map(|update| update.until);
        let has_worker = self.child.is_some();
        tokio::select! {
            biased;
            signal = self.supervisor.signals.next() => SessionEvent::Signal(signal),
            Some(order) = self.supervisor.orders.recv() => SessionEvent::Order(order),
            event = next_child_event(&mut self.child) => SessionEvent::Child(event),
            Some(outcome) = self.tasks.next(), if !self.tasks.is_empty() => {
                SessionEvent::Task(outcome)
            }
            notice = next_notice(&mut self.notices) => SessionEvent::Notice(notice),
            () = until(update_until) => SessionEvent::UpdateOverdue,
            () = until(self.renewal.due()) => SessionEvent::RenewalDue,
            () = until(self.next_start.at) => SessionEvent::StartDue,
            _ = self.timers.checks.tick() => SessionEvent::CheckDue,
            _ = self.timers.logs.tick() => SessionEvent::LogsDue,
            _ = self.timers.heartbeats.tick(), if !has_worker => SessionEvent::HeartbeatDue,
        }
    }

    async fn on_event(&mut self, event: SessionEvent) -> Option<Ending> {
        match event {
            SessionEvent::Signal(OsSignal::End) => {
                info!("shutting down: the worker writes its pending changes first");
                return Some(Ending::Shutdown);
            }
            SessionEvent::Signal(OsSignal::Reload) => return self.reload().await,
            SessionEvent::Order(order) => self.on_order(order).await,
            SessionEvent::Child(event) => return self.on_child_event(event).await,
            SessionEvent::Task(outcome) => return self.on_task(outcome).await,
            SessionEvent::Notice(Some(message)) => return self.on_notice(message).await,
            SessionEvent::Notice(None) => {
                self.notices = None;
                self.renewal.want("the notifications of HQ ended");
            }
            SessionEvent::UpdateOverdue => {
                let why = format!("changes did not flow within {UPDATE_WAIT_MAX:?}");
                return self.roll_back(why).await;
            }
            SessionEvent::RenewalDue => self.ask_for_next(),
            SessionEvent::StartDue => return self.start_child().await,
            SessionEvent::CheckDue => {
                self.child.iter_mut().for_each(Child::kill_if_silent);
                if self.connection.is_locked_out() {
                    self.renewal.want("NATS does not take the credentials any more");
                }
            }
            SessionEvent::LogsDue => self.send_logs().await,
            SessionEvent::HeartbeatDue => self.heartbeat(Metrics::default()).await,
        }
        None
    }

    async fn on_task(&mut self, outcome: TaskOutcome) -> Option<Ending> {
        match outcome {
            TaskOutcome::DestinationTested(test, outcome) => {
                return self.configure(*test, outcome).await;
            }
            TaskOutcome::LogsUploaded { path, outcome } => self.on_uploaded(path, outcome).await,
            TaskOutcome::ReleaseFetched { version, outcome } => {
                return self.on_fetched(version, outcome).await;
            }
            TaskOutcome::AnswerOverdue { command } => {
                if self.commands.contains_key(&command) {
                    let why = "the worker did not answer in time".to_owned();
                    return self.on_done(command, Err(why)).await;
                }
            }
            TaskOutcome::NextSession(begun) => return self.on_next_session(*begun).await,
            TaskOutcome::SessionClosed => {}
        }
        None
    }

    /// Ends the worker if it still runs, and tells HQ what is not going to be done any more.
    async fn close(&mut self, ending: &Ending) {
        self.supervisor.stop.begin();
        self.abandon_update().await;
        self.end_child(self.supervisor.stop.left_for(StopStep::Worker)).await;
        let why = match ending {
            Ending::Failed(_) => "the worker failed",
            Ending::Shutdown | Ending::Replaced => "the server ends",
        };
        let wait_max = self.supervisor.stop.left_for(StopStep::LastWords);
        let words = async {
            self.answer_all(why).await;
            self.connection.flush().await;
        };
        let _ = timeout(wait_max, words).await;
    }

    /// Tells HQ that nothing comes of the commands that the worker has not answered.
    async fn answer_all(&mut self, why: &str) {
        for (_, on_done) in std::mem::take(&mut self.commands) {
            if let OnDone::Respond(action) = on_done {
                self.respond(action, &Err(why.to_owned())).await;
            }
        }
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

    /// A pause counts from HQ's order on, whether there is a worker or not.
    async fn heartbeat(&mut self, metrics: Metrics) {
        let heartbeat = Heartbeat {
            session_id: self.opened.id.clone(),
            offset: self.heartbeats,
            uptime: self.supervisor.started.elapsed().as_secs(),
            stats: Stats { metrics, memory: machine::memory(), load: machine::load() },
            paused: self.supervisor.paused_since.map(|nanos| PackedTime { nanos }),
        };
        self.heartbeats += 1;
        self.connection.tell("heartbeat", &heartbeat).await;
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

async fn next_notice(notices: &mut Option<Subscriber>) -> Option<async_nats::Message> {
    match notices {
        Some(notices) => notices.next().await,
        None => std::future::pending().await,
    }
}
