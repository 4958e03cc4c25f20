//! The next session: asked for while the last one goes on, and taken over by the worker without a
//! break. What HQ answers meanwhile is complained about, and stops nothing.

use std::time::Duration;

use futures::FutureExt;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::worker::OnDone;
use super::{Ending, SessionLoop, TaskOutcome};
use crate::backoff::Backoff;
use crate::clock::now_s;
use crate::supervisor::hq_session::{
    BegunSession, NotBegun, OUTAGE_WAITS, OldSession, OpenedSession, driver_of,
};
use crate::supervisor::session_dir::SessionDir;
use crate::worker::pipe::WorkerCommand;

/// A session that is wanted for another reason than its age begins no sooner after the last one.
const SESSION_INTERVAL_MIN: Duration = Duration::from_secs(5);
/// How long the worker may take to go on in the next session. It answers no earlier than it has
/// waited for the data directory.
const ENTER_WAIT_MAX: Duration = Duration::from_secs(60);

/// When HQ is asked for the next session.
pub struct Renewal {
    begun: Instant,
    /// When it is due, and why.
    due: (Instant, String),
    /// HQ is being asked.
    asking: bool,
    tries: Backoff,
}

impl Renewal {
    /// Of a session that has begun now.
    pub fn of(opened: &OpenedSession, renew_interval: Duration) -> Renewal {
        let begun = Instant::now();
        let by_age = (begun + renew_interval, "the last one was due for renewal");
        let (at, why) = match opened.expiry() {
            Some(expiry) if expiry < by_age.0 => (expiry, "the credentials of NATS expire"),
            _ => by_age,
        };
        Renewal {
            begun,
            due: (at, why.to_owned()),
            asking: false,
            tries: Backoff::new(OUTAGE_WAITS),
        }
    }

    /// A session is wanted soon; one that HQ did not give before is asked for at its time.
    pub fn want(&mut self, why: &str) {
        if self.asking || self.tries.tries() > 0 {
            return;
        }
        let at = (self.begun + SESSION_INTERVAL_MIN).max(Instant::now());
        if at < self.due.0 {
            self.due = (at, why.to_owned());
        }
    }

    /// When HQ is asked, Unix seconds.
    pub fn due_unix(&self) -> u64 {
        now_s() + self.due.0.saturating_duration_since(Instant::now()).as_secs()
    }

    /// When HQ is asked; `None` while it is.
    pub fn due(&self) -> Option<Instant> {
        (!self.asking).then_some(self.due.0)
    }
}

impl SessionLoop<'_> {
    /// Asks HQ for the next session beside everything else.
    pub(super) fn ask_for_next(&mut self) {
        self.renewal.asking = true;
        info!("a new session is asked for: {}", self.renewal.due.1);
        let opener = self.supervisor.opener();
        let driver = driver_of(&self.supervisor.options);
        self.tasks.push(Box::pin(async move {
            TaskOutcome::NextSession(Box::new(opener.begin(driver).await))
        }));
    }

    pub(super) async fn on_next_session(
        &mut self,
        begun: Result<BegunSession, NotBegun>,
    ) -> Option<Ending> {
        self.renewal.asking = false;
        match begun {
            Ok(begun) => {
                self.supervisor.session_given();
                self.go_on_in(begun).await
            }
            Err(no) => match self.supervisor.after_refusal(no, &mut self.renewal.tries) {
                Ok(wait) => {
                    self.renewal.due.0 = Instant::now() + wait;
                    None
                }
                Err(failure) => Some(Ending::Failed(failure)),
            },
        }
    }

    /// The worker goes on in the next session as it is, or is started anew where its companies are
    /// others; the last session ends once nothing is written to its directory any more.
    async fn go_on_in(&mut self, begun: BegunSession) -> Option<Ending> {
        let BegunSession { opened, connection, notices } = begun;
        opened.log_here(&self.supervisor.options.logs);
        self.renewal = Renewal::of(&opened, self.supervisor.options.renew_interval);
        let board = &self.supervisor.options.board;
        board.session(opened.identity.expires, self.renewal.due_unix());
        self.connection.flush().await;
        self.connection = connection;
        self.notices = Some(notices);
        self.heartbeats = 0;
        let last = std::mem::replace(&mut self.opened, opened);
        let continues = last.is_continued_by(&self.opened);
        let old = last.into_old();
        if self.child.is_none() {
            self.next_start.hurry();
            self.close_session(old);
            return None;
        }
        if !continues {
            info!("the worker is started anew: the next session is about other companies");
            let failed = self.restart_child().await;
            self.close_session(old);
            return failed;
        }
        let (creds, logs_dir) = (self.opened.creds.clone(), self.opened.dir.logs());
        let command = |id| WorkerCommand::Session { id, creds, logs_dir };
        self.command_within(OnDone::CloseSession(old), ENTER_WAIT_MAX, command).await;
        None
    }

    /// The worker has left the session `old`, or has not managed to.
    pub(super) async fn on_left(
        &mut self,
        old: OldSession,
        outcome: Result<(), String>,
    ) -> Option<Ending> {
        let failed = match outcome {
            Ok(()) => None,
            Err(why) => {
                warn!("the worker is started anew, because it cannot go on in a session: {why}");
                self.restart_child().await
            }
        };
        self.close_session(old);
        failed
    }

    /// Ends a session beside everything else.
    pub(super) fn close_session(&mut self, old: OldSession) {
        let closer = self.supervisor.closer();
        self.tasks.push(async move { closer.close(old).await }.map(closed).boxed());
    }

    /// Ends what an earlier run of this server could not.
    pub(super) fn close_leftovers(&mut self) {
        let data_dir = &self.supervisor.options.data_dir;
        let leftovers = self.supervisor.leftovers.iter().map(|id| {
            info!("session {id} was left open by an earlier run and is ended");
            let hq = self.supervisor.hq.clone();
            OldSession { id: id.clone(), dir: SessionDir::of(data_dir, id), hq }
        });
        let leftovers: Vec<OldSession> = leftovers.collect();
        leftovers.into_iter().for_each(|old| self.close_session(old));
    }

    /// After `wait_max` the command counts as failed.
    pub(super) fn expect_answer(&mut self, wait_max: Duration) {
        let command = self.last_command;
        self.tasks.push(Box::pin(async move {
            sleep(wait_max).await;
            TaskOutcome::AnswerOverdue { command }
        }));
    }
}

fn closed((): ()) -> TaskOutcome {
    TaskOutcome::SessionClosed
}
