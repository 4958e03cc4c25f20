//! The worker's end of the pipe: commands on its standard input, events on its standard output.

use std::io::BufRead;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::warn;

use super::exit_codes;
use super::pipe::{WorkerCommand, WorkerEvent};
use super::run::RunError;
use crate::signals;

/// How long the supervisor may take to say what to begin with.
const BEGIN_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a worker whose supervisor is gone may take to end. The next supervisor's worker waits
/// longer than that for the data directory.
const ORPHAN_WAIT_MAX: Duration = Duration::from_secs(30);
/// Commands that wait for the worker.
const COMMANDS_MAX: usize = 64;
/// Events that wait to be written.
const EVENTS_MAX: usize = 256;

/// The supervisor, as its worker reaches it.
pub struct SupervisorPipe {
    commands: mpsc::Receiver<WorkerCommand>,
    /// The supervisor's end of the pipe is closed, and that was told.
    is_closed: bool,
    events: EventSender,
    writing: JoinHandle<()>,
}

/// What the supervisor begins with: what must not be in an argument.
pub struct WorkerBegin {
    /// The destination.
    pub url: SecretString,
    /// Who this server is to HQ, for imports.
    pub token: Option<SecretString>,
    /// HQ's address.
    pub api_url: Option<String>,
    /// The servers of NATS, where their URLs hold a login.
    pub servers: Option<String>,
    /// Where the schemas are published, where that is a URL.
    pub schema: Option<String>,
}

/// Tells the supervisor; clones write to the same pipe. A supervisor that is gone hears nothing,
/// and has closed the other direction of the pipe, too.
#[derive(Clone)]
pub struct EventSender(mpsc::Sender<WorkerEvent>);

impl EventSender {
    /// Puts the event into the pipe.
    pub async fn send(&self, event: WorkerEvent) {
        let _ = self.0.send(event).await;
    }

    /// Answers command `id`: with the path of the log, where that was asked for, or why it failed.
    pub async fn done(&self, id: u64, outcome: Result<Option<PathBuf>, String>) {
        let (error, log) = match outcome {
            Ok(log) => (None, log),
            Err(error) => (Some(error), None),
        };
        self.send(WorkerEvent::Done { id, error, log }).await;
    }
}

impl SupervisorPipe {
    /// Opens it. From now on signals do nothing to this process, which obeys the pipe only.
    pub fn open() -> SupervisorPipe {
        signals::ignore();
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        SupervisorPipe {
            commands: read_commands(),
            is_closed: false,
            events: EventSender(sender),
            writing: tokio::spawn(write_events(events)),
        }
    }

    /// The first command, which says what to begin with.
    pub async fn begin(&mut self) -> Result<WorkerBegin, RunError> {
        match timeout(BEGIN_WAIT_MAX, self.commands.recv()).await {
            Ok(Some(WorkerCommand::Begin { url, token, api_url, servers, schema })) => {
                Ok(WorkerBegin { url, token, api_url, servers, schema })
            }
            _ => Err(RunError::Refused(
                "a supervised worker expects the command to begin on its standard input first"
                    .into(),
            )),
        }
    }

    /// The next command; a pipe that is closed means the end, once. May be dropped while it waits.
    pub async fn next(&mut self) -> WorkerCommand {
        if self.is_closed {
            return std::future::pending().await;
        }
        match self.commands.recv().await {
            Some(command) => command,
            None => {
                self.is_closed = true;
                WorkerCommand::Stop
            }
        }
    }

    /// Where events are told.
    pub fn events(&self) -> EventSender {
        self.events.clone()
    }

    /// Waits until all events are written. Every clone of the sender has to be dropped before.
    pub async fn close(self) {
        drop(self.events);
        let _ = self.writing.await;
    }
}

/// Commands as they come; the channel is closed with the pipe.
fn read_commands() -> mpsc::Receiver<WorkerCommand> {
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    // A thread of its own: one that waits for a line must not hold up the end of the runtime.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            match serde_json::from_str(&line) {
                Ok(command) => {
                    if sender.blocking_send(command).is_err() {
                        return;
                    }
                }
                // The line may hold a secret, and is not shown.
                Err(_) => warn!("the supervisor sent a command that this worker does not know"),
            }
        }
        drop(sender);
        // Nobody is left to kill a worker that hangs while it ends.
        std::thread::sleep(ORPHAN_WAIT_MAX);
        std::process::exit(i32::from(exit_codes::FAILED));
    });
    commands
}

async fn write_events(mut events: mpsc::Receiver<WorkerEvent>) {
    let mut out = tokio::io::stdout();
    while let Some(event) = events.recv().await {
        let mut line = serde_json::to_vec(&event).unwrap_or_default();
        line.push(b'\n');
        // A supervisor that is gone has closed the other direction, too.
        let _ = out.write_all(&line).await;
        let _ = out.flush().await;
    }
}
