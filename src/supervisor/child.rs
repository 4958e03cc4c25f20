//! The worker as its supervisor sees it: a process, a pipe, and what it last wrote on its standard
//! error.

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
use tracing::{info, warn};

use crate::worker::pipe::{WorkerCommand, WorkerEvent};

/// How much of the worker's standard error is kept, in bytes.
const TAIL_BYTES_MAX: usize = 64 << 10;
/// How long the worker may take to end in order: it may have a batch under way.
const END_WAIT_MAX: Duration = Duration::from_secs(35);
/// How long an order may take to get through: a worker that hangs reads none.
const ORDER_WAIT_MAX: Duration = Duration::from_secs(5);
/// A worker that has given no sign of life for that long hangs; one comes every minute.
const SILENCE_MAX: Duration = Duration::from_secs(5 * 60);
/// How long its last words are waited for.
const LAST_WORDS_WAIT_MAX: Duration = Duration::from_secs(2);
/// Events that wait.
const NEWS_MAX: usize = 256;

/// What is passed on in the worker's place.
const SECRETS_OF_THE_ENVIRONMENT: [&str; 2] = ["EDS_URL", "SM_APIKEY"];

pub struct Child {
    process: tokio::process::Child,
    orders: ChildStdin,
    news: mpsc::Receiver<WorkerEvent>,
    telling: JoinHandle<()>,
    complaining: JoinHandle<()>,
    tail: Arc<Mutex<VecDeque<u8>>>,
    heard_at: Instant,
    /// Since when changes flow.
    pub ready: Option<Instant>,
    /// Why it ends, where a restart would not help.
    pub gives_up: Option<String>,
}

/// What came of listening to the worker.
pub enum ChildEvent {
    Told(WorkerEvent),
    /// It is gone.
    ChildExit(ChildExit),
}

/// How a worker ended.
#[derive(Debug)]
pub struct ChildExit {
    /// None where a signal ended it.
    pub code: Option<i32>,
    /// For people.
    pub how: String,
    /// The end of what it wrote on its standard error.
    pub stderr: String,
}

impl Child {
    /// Starts `program`; what is secret goes through the pipe.
    pub async fn start(
        program: &Path,
        args: &[OsString],
        begin: &WorkerCommand,
    ) -> Result<Child, String> {
        let mut command = Command::new(program);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        SECRETS_OF_THE_ENVIRONMENT.iter().for_each(|name| {
            command.env_remove(name);
        });
        let mut process = command
            .spawn()
            .map_err(|e| format!("the worker {} cannot be started: {e}", program.display()))?;
        let (Some(orders), Some(stdout), Some(stderr)) =
            (process.stdin.take(), process.stdout.take(), process.stderr.take())
        else {
            return Err("the worker has no pipes".into());
        };
        let (sender, news) = mpsc::channel(NEWS_MAX);
        let tail = Arc::new(Mutex::new(VecDeque::new()));
        let telling = tokio::spawn(hear_news(stdout, sender));
        let complaining = tokio::spawn(pass_on(stderr, tail.clone()));
        let mut child = Child {
            process,
            orders,
            news,
            telling,
            complaining,
            tail,
            heard_at: Instant::now(),
            ready: None,
            gives_up: None,
        };
        child.tell(begin).await;
        Ok(child)
    }

    /// A worker that hears no more ends, and that is noticed elsewhere.
    pub async fn tell(&mut self, order: &WorkerCommand) {
        let mut line = serde_json::to_vec(order).unwrap_or_default();
        line.push(b'\n');
        let _ = timeout(ORDER_WAIT_MAX, async {
            self.orders.write_all(&line).await?;
            self.orders.flush().await
        })
        .await;
    }

    /// Waits for the worker to say something, or to end. May be dropped while it waits.
    pub async fn heard(&mut self) -> ChildEvent {
        if let Some(news) = self.news.recv().await {
            self.heard_at = Instant::now();
            match &news {
                WorkerEvent::Ready => self.ready = self.ready.or_else(|| Some(Instant::now())),
                WorkerEvent::GivesUp { why } => self.gives_up = Some(why.clone()),
                WorkerEvent::Beat { .. } | WorkerEvent::Done { .. } => {}
            }
            return ChildEvent::Told(news);
        }
        let status = match timeout(END_WAIT_MAX, self.process.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => self.kill().await,
        };
        ChildEvent::ChildExit(self.last_words(status).await)
    }

    /// Ends a worker that hangs, which is then heard of as gone.
    pub fn end_if_it_hangs(&mut self) {
        if self.heard_at.elapsed() > SILENCE_MAX {
            warn!("the worker has sent nothing for {SILENCE_MAX:?}: it hangs, and is killed");
            self.heard_at = Instant::now();
            let _ = self.process.start_kill();
        }
    }

    /// Lets it end in order, and ends it where it does not.
    pub async fn end(&mut self) -> ChildExit {
        self.tell(&WorkerCommand::Stop).await;
        let status = match timeout(END_WAIT_MAX, self.process.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => {
                warn!(
                    "the worker did not stop within {END_WAIT_MAX:?} and is killed; unacknowledged \
                     changes are redelivered"
                );
                self.kill().await
            }
        };
        self.last_words(status).await
    }

    /// Ends it at once.
    pub async fn kill(&mut self) -> Option<ExitStatus> {
        let _ = self.process.start_kill();
        self.process.wait().await.ok()
    }

    async fn last_words(&mut self, status: Option<ExitStatus>) -> ChildExit {
        let _ = timeout(LAST_WORDS_WAIT_MAX, &mut self.complaining).await;
        self.telling.abort();
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

async fn hear_news(stdout: ChildStdout, sender: mpsc::Sender<WorkerEvent>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str(&line) {
            Ok(news) => {
                if sender.send(news).await.is_err() {
                    return;
                }
            }
            Err(_) => info!("the worker says: {line}"),
        }
    }
}

/// Shows what the worker writes on its standard error, and keeps its end.
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
