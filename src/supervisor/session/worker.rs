//! The session's worker: started, commanded, listened to, ended.

use std::ffi::OsString;
use std::path::PathBuf;

use tracing::{info, warn};

use super::{Ending, SessionLoop};
use crate::supervisor::child::{Child, ChildEvent, ChildExit};
use crate::worker::exit_codes;
use crate::worker::pipe::{WorkerCommand, WorkerEvent};

/// What follows when the worker has done a command.
pub(super) enum OnDone {
    /// HQ is told that the action is done.
    Respond(&'static str),
    /// The log is rotated and can be uploaded; `asked`: HQ asked for it and gets a response.
    Upload { asked: bool },
    /// Nobody waits for it.
    Nothing,
}

impl SessionLoop<'_> {
    /// Starts the worker if there is a destination for it.
    pub(super) async fn start_child(&mut self) -> Result<(), Ending> {
        let options = &self.supervisor.options;
        let Some(url) = options.url.clone() else {
            info!(
                "this server has no destination yet: configure one at HQ; it takes effect here at once"
            );
            return Ok(());
        };
        // What is secret goes through the pipe: others can read a process's arguments.
        let begin = WorkerCommand::Begin {
            url,
            token: options.token.clone(),
            api_url: Some(options.api_url.clone()),
        };
        let words = self.worker_words();
        match Child::start(&self.supervisor.program, &words, &begin).await {
            Ok(child) => self.child = Some(child),
            Err(how) => return Err(Ending::Crashed { code: None, how, healthy_for: None }),
        }
        if self.supervisor.paused {
            self.command(OnDone::Nothing, |id| WorkerCommand::Pause { id }).await;
        }
        Ok(())
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
        flag("--server", options.servers.clone().into());
        flag("--logs-dir", self.opened.dir.logs().into());
        if self.opened.creds.is_some() {
            flag("--creds", self.opened.dir.creds().into());
        }
        if options.from_start && !self.supervisor.was_ready {
            words.push("--restart".into());
        }
        words
    }

    /// Ends the worker gracefully.
    pub(super) async fn end_child(&mut self) {
        if let Some(mut child) = self.child.take() {
            let exit = child.end().await;
            if exit.code != Some(0) {
                warn!("the worker {}", exit.how);
            }
        }
    }

    pub(super) async fn restart_child(&mut self) -> Option<Ending> {
        self.end_child().await;
        self.start_child().await.err()
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

    pub(super) async fn on_child_event(&mut self, event: ChildEvent) -> Option<Ending> {
        match event {
            ChildEvent::Worker(WorkerEvent::Ready) => {
                self.supervisor.was_ready = true;
                self.confirm_update().await
            }
            ChildEvent::Worker(WorkerEvent::Beat { metrics, paused_since }) => {
                self.heartbeat(metrics, paused_since).await;
                None
            }
            ChildEvent::Worker(WorkerEvent::Done { id, error, log }) => {
                self.on_done(id, error.map_or(Ok(log), Err)).await
            }
            ChildEvent::Worker(WorkerEvent::GivesUp { .. }) => None,
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
            Some(OnDone::Upload { asked }) => self.upload(asked, outcome.ok().flatten()),
            // A new program's worker that begins paused streams nothing; it has shown that it
            // works.
            Some(OnDone::Nothing) => return self.confirm_update().await,
            None => {}
        }
        None
    }

    async fn on_exit(&mut self, exit: ChildExit) -> Option<Ending> {
        let child = self.child.take()?;
        if self.update.is_some() {
            return self.roll_back(format!("its worker {}", exit.how)).await;
        }
        if let Some(why) = child.gives_up {
            return Some(Ending::GivesUp(why));
        }
        if exit.code == Some(exit_codes::DISCONNECTED.into()) {
            return Some(Ending::Renew("the worker was cut off from NATS".into()));
        }
        self.opened.dir.write_stderr(&exit.stderr);
        Some(Ending::Crashed {
            code: exit.code,
            how: exit.how,
            healthy_for: child.ready.map(|since| since.elapsed()),
        })
    }
}
