//! The worker as its supervisor sees it: a process, a pipe, and the end of its standard error.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::status::StatusBoard;
use crate::worker::exit_codes;
use crate::worker::pipe::{WorkerCommand, WorkerEvent};

/// How much of the worker's standard error is kept, in bytes.
const TAIL_BYTES_MAX: usize = 64 << 10;
/// How long the worker's process may outlast its pipe.
const EXIT_WAIT_MAX: Duration = Duration::from_secs(35);
/// How long it may take to send a command: a worker that hangs reads none.
const COMMAND_WAIT_MAX: Duration = Duration::from_secs(5);
/// A worker without an event for so long hangs: it sends a heartbeat every minute.
const SILENCE_MAX: Duration = Duration::from_secs(5 * 60);
/// How long to wait for the rest of the standard error of a worker that has ended.
const STDERR_WAIT_MAX: Duration = Duration::from_secs(2);
/// Events of the worker that wait to be handled, at most.
const EVENTS_MAX: usize = 256;

/// Variables that the worker does not inherit: it gets their values through the pipe.
const SECRET_VARIABLES: [&str; 17] = [
    "EDS_API_KEY",
    "EDS_API_KEY_FILE",
    "EDS_SCHEMA",
    "EDS_SERVER",
    "EDS_SERVER_FILE",
    "EDS_UI_TOKEN",
    "EDS_UI_TOKEN_FILE",
    "EDS_WEBHOOK",
    "EDS_WEBHOOK_FILE",
    "EDS_URL",
    "EDS_URL_FILE",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_HEADERS",
    "SM_APIKEY",
    "SM_APIKEY_FILE",
];

/// A worker's process. It is killed when this is dropped.
pub struct Child {
    process: tokio::process::Child,
    commands: ChildStdin,
    events: mpsc::Receiver<WorkerEvent>,
    stdout_reader: JoinHandle<()>,
    stderr_reader: JoinHandle<()>,
    /// The end of its standard error.
    tail: Arc<Mutex<VecDeque<u8>>>,
    last_event_at: Instant,
    /// Since when it streams; `None` until it does.
    pub ready: Option<Instant>,
    /// Why it gave up; a restart would not help.
    pub gives_up: Option<String>,
    /// Why it could not work; a later start may.
    pub failed: Option<String>,
}

/// What a supervisor hears of a worker.
pub enum ChildEvent {
    /// It sent an event through the pipe.
    Worker(WorkerEvent),
    /// It has ended; the last event.
    Exited(ChildExit),
}

/// How a worker ended.
#[derive(Debug)]
pub struct ChildExit {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// In words: `ended with exit status: 1`.
    pub how: String,
    /// The last [`TAIL_BYTES_MAX`] bytes of its standard error.
    pub stderr: String,
}

impl ChildExit {
    /// What the server ends with if it ends because of this.
    pub fn code_for_exit(&self) -> u8 {
        let code = self.code.and_then(|code| u8::try_from(code).ok());
        code.unwrap_or_default().max(exit_codes::FAILED)
    }
}

impl Child {
    /// Starts `program` with `args` and sends it `begin`, which holds what is secret. How it goes
    /// is written on `board`.
    pub async fn start(
        program: &Path,
        args: &[OsString],
        begin: &WorkerCommand,
        board: Arc<StatusBoard>,
    ) -> Result<Child, String> {
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        SECRET_VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        let mut process = command
            .spawn()
            .map_err(|e| format!("the worker {} cannot be started: {e}", program.display()))?;
        let (Some(commands), Some(stdout), Some(stderr)) =
            (process.stdin.take(), process.stdout.take(), process.stderr.take())
        else {
            return Err("the worker has no pipes".into());
        };
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let stdout_reader = tokio::spawn(read_events(stdout, sender, board));
        let stderr_reader = tokio::spawn(pass_on(stderr, tail.clone()));
        let mut child = Child {
            process,
            commands,
            events,
            stdout_reader,
            stderr_reader,
            tail,
            last_event_at: Instant::now(),
            ready: None,
            gives_up: None,
            failed: None,
        };
        child.send(begin).await;
        Ok(child)
    }

    /// Sends a command. A failure is not an error here: the worker has ended or hangs, and either
    /// is an event of its own.
    pub async fn send(&mut self, command: &WorkerCommand) {
        let mut line = serde_json::to_vec(command).unwrap_or_default();
        line.push(b'\n');
        let _ = timeout(COMMAND_WAIT_MAX, async {
            self.commands.write_all(&line).await?;
            self.commands.flush().await
        })
        .await;
    }

    /// Waits for the worker's next event. Cancel safe: no event is lost.
    pub async fn next_event(&mut self) -> ChildEvent {
        if let Some(event) = self.events.recv().await {
            self.last_event_at = Instant::now();
            match &event {
                WorkerEvent::Ready => self.ready = self.ready.or_else(|| Some(Instant::now())),
                WorkerEvent::GivesUp { why } => self.gives_up = Some(why.clone()),
                WorkerEvent::Failed { why } => self.failed = Some(why.clone()),
                WorkerEvent::Beat { .. } | WorkerEvent::Done { .. } | WorkerEvent::Status(_) => {}
            }
            return ChildEvent::Worker(event);
        }
        let status = match timeout(EXIT_WAIT_MAX, self.process.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => self.kill().await,
        };
        ChildEvent::Exited(self.exit(status).await)
    }

    /// Kills a worker that hangs; its exit is the next event.
    pub fn kill_if_silent(&mut self) {
        if self.last_event_at.elapsed() > SILENCE_MAX {
            warn!("the worker has sent nothing for {SILENCE_MAX:?}: it hangs, and is killed");
            self.last_event_at = Instant::now();
            let _ = self.process.start_kill();
        }
    }

    /// Lets the worker end gracefully, and kills it if it does not within `wait_max`: it may be
    /// writing a batch.
    pub async fn end(&mut self, wait_max: Duration) -> ChildExit {
        self.send(&WorkerCommand::Stop).await;
        let status = match timeout(wait_max, self.process.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => {
                warn!(
                    "the worker did not stop within {wait_max:?} and is killed; unacknowledged changes are redelivered"
                );
                self.kill().await
            }
        };
        self.exit(status).await
    }

    /// Kills the worker. What it has not acknowledged is delivered again.
    pub async fn kill(&mut self) -> Option<ExitStatus> {
        let _ = self.process.start_kill();
        self.process.wait().await.ok()
    }

    async fn exit(&mut self, status: Option<ExitStatus>) -> ChildExit {
        let _ = timeout(STDERR_WAIT_MAX, &mut self.stderr_reader).await;
        self.stdout_reader.abort();
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let (front, back) = tail.as_slices();
        let stderr = String::from_utf8_lossy(&[front, back].concat()).into_owned();
        let code = status.and_then(|status| status.code());
        let how = status.map_or_else(
            || "ended nobody knows how".into(),
            |status| format!("ended with {status}"),
        );
        ChildExit { code, how, stderr }
    }
}

/// Sends on the worker's events. What is no event was printed by mistake, or is an event of a later
/// version; it may hold anything, so that it is not shown.
async fn read_events(
    stdout: ChildStdout,
    sender: mpsc::Sender<WorkerEvent>,
    board: Arc<StatusBoard>,
) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(WorkerEvent::Status(report)) => board.report(*report),
            Ok(event) => {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            Err(_) => debug!("the worker said {} bytes that are no event", line.len()),
        }
    }
}

/// Copies the worker's standard error to this process's and keeps its end in `tail`.
async fn pass_on(mut stderr: ChildStderr, tail: Arc<Mutex<VecDeque<u8>>>) {
    let mut piece = vec![0; 8 << 10];
    while let Ok(bytes @ 1..) = stderr.read(&mut piece).await {
        let _ = std::io::stderr().write_all(&piece[..bytes]);
        let mut tail = tail.lock().unwrap_or_else(PoisonError::into_inner);
        tail.extend(&piece[..bytes]);
        let over = tail.len().saturating_sub(TAIL_BYTES_MAX);
        tail.drain(..over);
    }
}
