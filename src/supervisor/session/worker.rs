//! The session's worker: started, commanded, listened to, ended, and started again after it has
//! failed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{Ending, SessionLoop};
use crate::backoff::{Backoff, Waits};
use crate::pipeline::progress::Phase;
use crate::secret::has_login;
use crate::supervisor::ServerFailure;
use crate::supervisor::child::{Child, ChildEvent, ChildExit};
use crate::supervisor::failures::FAILURES_MAX;
use crate::supervisor::hq_session::OldSession;
use crate::worker::exit_codes;
use crate::worker::pipe::{WorkerCommand, WorkerEvent};

/// Before a worker that could not work is started again.
const START_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_secs(1), longest: Duration::from_secs(60) };

/// After a worker that streamed for so long, the waits begin with the first again.
const HEALTHY_AFTER: Duration = Duration::from_secs(60);

/// What follows when the worker has done a command.
pub(super) enum OnDone {
    /// HQ is told that the action is done.
    Respond(&'static str),
    /// The log is rotated and can be uploaded.
    Upload,
    /// Nothing is written to the session's directory any more.
    CloseSession(OldSession),
    /// A new program's worker that begins paused streams nothing; it has shown that it works.
    BegunPaused,
    /// Nobody waits for it.
    Nothing,
}

/// When a worker is started that could not work, or crashed.
pub(super) struct NextStart {
    /// `None`: the worker runs, or there is no destination for one.
    pub(super) at: Option<Instant>,
    tries: Backoff,
}

impl Default for NextStart {
    fn default() -> NextStart {
        NextStart { at: None, tries: Backoff::new(START_WAITS) }
    }
}

impl NextStart {
    /// What a worker could not work with may be better now, such as its credentials: the start that
    /// is waited for is due. That of one that crashed is not.
    pub(super) fn hurry(&mut self) {
        if self.tries.tries() > 0
            && let Some(at) = &mut self.at
        {
            *at = Instant::now();
        }
    }
}

impl SessionLoop<'_> {
    /// Starts the worker if there is a destination for it. One that cannot be started is tried
    /// again.
    pub(super) async fn start_child(&mut self) -> Option<Ending> {
        self.next_start.at = None;
        let options = &self.supervisor.options;
        self.supervisor.desk.destination(options.url.clone());
        let Some(url) = options.url.clone() else {
            let why = "this server has no destination yet: configure one at HQ; it takes effect \
                       here at once";
            info!("{why}");
            options.board.without_worker(Phase::Waiting(why.into()));
            self.supervisor.keep_program();
            return None;
        };
        // What is secret goes through the pipe: others can read a process's arguments.
        let begin = WorkerCommand::Begin {
            url,
            token: options.token.clone(),
            api_url: Some(options.api_url.clone()),
            servers: Some(options.servers.clone()).filter(|urls| has_login(urls)),
            schema: options.schema_url.clone(),
        };
        let words = self.worker_words();
        let board = options.board.clone();
        board.without_worker(Phase::Starting);
        match Child::start(self.worker_program(), &words, &begin, board).await {
            Ok(child) => {
                self.child = Some(child);
                self.supervisor.options.board.worker_started();
            }
            Err(how) => return self.on_failed_start(how).await,
        }
        if self.supervisor.paused_since.is_some() {
            self.command(OnDone::BegunPaused, |id| WorkerCommand::Pause { id }).await;
        }
        None
    }

    /// That of an update on trial, else the server's own.
    fn worker_program(&self) -> &Path {
        self.update.as_ref().map_or(&self.supervisor.program, |update| &update.staged)
    }

    fn worker_words(&self) -> Vec<OsString> {
        let options = &self.supervisor.options;
        let mut words: Vec<OsString> = vec!["fork".into(), "--supervised".into()];
        // The last one of two equal flags counts, so that the server's own wins.
        if options.update_strategy.as_deref() == Some("after") {
            words.push("--update-strategy=after".into());
        }
        words.extend(options.worker_words.iter().cloned());
        let mut flag = |flag: &str, value: OsString| words.extend([flag.into(), value]);
        flag("--data-dir", options.data_dir.clone().into());
        if !has_login(&options.servers) {
            flag("--server", options.servers.clone().into());
        }
        flag("--logs-dir", self.opened.dir.logs().into());
        // The supervisor has the port.
        flag("--port", "0".into());
        if self.opened.creds.is_some() {
            flag("--creds", self.opened.dir.creds().into());
        }
        if options.from_start && !self.supervisor.was_ready {
            words.push("--restart".into());
        }
        words
    }

    /// Ends the worker gracefully; after `wait_max` it is killed.
    pub(super) async fn end_child(&mut self, wait_max: Duration) {
        self.next_start.at = None;
        if let Some(mut child) = self.child.take() {
            let exit = child.end(wait_max).await;
            self.supervisor.options.board.without_worker(Phase::Starting);
            if exit.code != Some(0) {
                warn!("the worker {}", exit.how);
            }
        }
    }

    /// Ends the worker and starts one, as somebody wants it; failures before do not count.
    pub(super) async fn restart_child(&mut self) -> Option<Ending> {
        self.replace_child().await;
        self.next_start = NextStart::default();
        self.start_child().await
    }

    /// Ends the worker, as another one is to follow: nothing comes of what it was told to do.
    pub(super) async fn replace_child(&mut self) {
        self.end_child(self.supervisor.stop.restart_wait()).await;
        self.leave_commands("the worker was replaced").await;
    }

    /// Sends the worker the command that `command` makes of a number; `on_done` follows its answer.
    /// False if there is no worker.
    pub(super) async fn command(
        &mut self,
        on_done: OnDone,
        command: impl FnOnce(u64) -> WorkerCommand,
    ) -> bool {
        let Some(child) = &mut self.child else { return false };
        self.last_command += 1;
        self.commands.insert(self.last_command, on_done);
        child.send(&command(self.last_command)).await;
        true
    }

    /// As [`SessionLoop::command`]; without an answer within `wait_max` the command has failed.
    pub(super) async fn command_within(
        &mut self,
        on_done: OnDone,
        wait_max: Duration,
        command: impl FnOnce(u64) -> WorkerCommand,
    ) -> bool {
        let sent = self.command(on_done, command).await;
        if sent {
            self.expect_answer(wait_max);
        }
        sent
    }

    pub(super) async fn on_child_event(&mut self, event: ChildEvent) -> Option<Ending> {
        match event {
            ChildEvent::Worker(WorkerEvent::Ready) => {
                self.supervisor.was_ready = true;
                self.confirm_update().await
            }
            ChildEvent::Worker(WorkerEvent::Beat { metrics }) => {
                self.heartbeat(metrics).await;
                None
            }
            ChildEvent::Worker(WorkerEvent::Done { id, error, log }) => {
                self.on_done(id, error.map_or(Ok(log), Err)).await
            }
            ChildEvent::Worker(
                WorkerEvent::GivesUp { .. } | WorkerEvent::Failed { .. } | WorkerEvent::Status(_),
            ) => None,
            ChildEvent::Exited(exit) => self.on_exit(exit).await,
        }
    }

    /// The worker has done command `id`; the outcome of a rotation is its new log file.
    pub(super) async fn on_done(
        &mut self,
        id: u64,
        outcome: Result<Option<PathBuf>, String>,
    ) -> Option<Ending> {
        match self.commands.remove(&id) {
            Some(OnDone::Respond(action)) => self.respond(action, &outcome.map(|_| None)).await,
            Some(OnDone::Upload) => {
                if let Err(why) = &outcome {
                    warn!("the worker's log is not rotated: {why}");
                }
                self.upload(outcome.ok().flatten());
            }
            Some(OnDone::CloseSession(old)) => return self.on_left(old, outcome.map(drop)).await,
            Some(OnDone::BegunPaused) => return self.confirm_update().await,
            Some(OnDone::Nothing) | None => {}
        }
        None
    }

    /// A worker that says why it ended could not work: that is no crash, and may pass.
    async fn on_exit(&mut self, exit: ChildExit) -> Option<Ending> {
        let child = self.child.take()?;
        let why = child.failed.clone().unwrap_or_else(|| format!("the worker {}", exit.how));
        self.supervisor.options.board.worker_failed(&why);
        if self.update.is_some() {
            return self.roll_back(format!("its worker {}", exit.how)).await;
        }
        if let Some(text) = child.gives_up {
            self.supervisor.sessions.errored(&self.opened.id);
            let code = exit_codes::FAILED;
            return Some(Ending::Failed(ServerFailure::Worker { code, text }));
        }
        self.leave_commands("the worker failed").await;
        let healthy_for = child.ready.map(|since| since.elapsed());
        if healthy_for.is_some_and(|time| time >= HEALTHY_AFTER) {
            self.next_start = NextStart::default();
        }
        let Some(why) = child.failed else { return self.on_crash(&exit, healthy_for).await };
        if exit.code == Some(exit_codes::DISCONNECTED.into()) && child.ready.is_some() {
            self.renewal.want("the worker was cut off from NATS");
        }
        // The person who gave the URL is there to correct it; HQ can correct its own later.
        let by_hand = !self.supervisor.was_ready && self.supervisor.options.given.url;
        let unusable = exit.code == Some(exit_codes::UNUSABLE.into());
        if self.supervisor.options.no_restart || (unusable && by_hand) {
            self.opened.dir.write_stderr(&exit.stderr);
            self.supervisor.sessions.errored(&self.opened.id);
            let code = exit.code_for_exit();
            return Some(Ending::Failed(ServerFailure::Worker { code, text: why }));
        }
        self.on_failed_start(why).await
    }

    /// The worker cannot work now. HQ's session stays, so that HQ can configure something else.
    async fn on_failed_start(&mut self, why: String) -> Option<Ending> {
        if self.update.is_some() {
            return Box::pin(self.roll_back(why)).await;
        }
        self.supervisor.options.board.fails(&why);
        let wait = self.next_start.tries.next_exact();
        error!("the worker cannot work: {why}; it is started again in {wait:?}");
        self.next_start.at = Some(Instant::now() + wait);
        None
    }

    /// The worker crashed: HQ gets its last words at the end of this session, and another worker
    /// begins meanwhile, unless it is not worth another try.
    async fn on_crash(
        &mut self,
        exit: &ChildExit,
        healthy_for: Option<Duration>,
    ) -> Option<Ending> {
        self.opened.dir.write_stderr(&exit.stderr);
        self.supervisor.sessions.errored(&self.opened.id);
        let (code, how) = (exit.code_for_exit(), &exit.how);
        let failed = |text: String| Some(Ending::Failed(ServerFailure::Worker { code, text }));
        if self.supervisor.options.no_restart {
            return failed(format!("the worker {how}"));
        }
        let Some(wait) = self.supervisor.failures.count(healthy_for) else {
            return failed(format!(
                "the worker {how}; it has failed {FAILURES_MAX} times in a row"
            ));
        };
        error!(
            "the worker {how}; it is started again in {wait:?} (failure {} of {FAILURES_MAX})",
            self.supervisor.failures.in_a_row()
        );
        self.next_start.at = Some(Instant::now() + wait);
        self.renewal.want("the last worker failed");
        None
    }

    /// Nothing comes of what a worker that has ended was told to do; a session that it was to leave
    /// is left.
    pub(super) async fn leave_commands(&mut self, why: &str) {
        for (_, on_done) in std::mem::take(&mut self.commands) {
            match on_done {
                // The next worker begins that way.
                OnDone::Respond(action @ ("pause" | "unpause")) => {
                    self.respond(action, &Ok(None)).await;
                }
                OnDone::Respond(action) => self.respond(action, &Err(why.to_owned())).await,
                OnDone::CloseSession(old) => self.close_session(old),
                OnDone::Upload | OnDone::BegunPaused | OnDone::Nothing => {}
            }
        }
    }
}
