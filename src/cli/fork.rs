//! `eds fork`: the worker of a server. It streams, pauses and imports as its supervisor says, and
//! ends with it.

use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::{error, info, warn};

use super::exit::Exit;
use super::import::Import;
use super::run;
use super::stream::{Stream, StreamContext};
use super::{Global, logging};
use crate::backoff::Backoff;
use crate::clock::now_ns;
use crate::control::pipe::{WorkerCommand, WorkerEvent};
use crate::hq::Hq;
use crate::hq::post::Metrics;
use crate::http::Http;
use crate::logs::LogFiles;
use crate::pipeline::progress::{Phase, Progress};

/// Between two signs of life.
const BEAT_INTERVAL: Duration = Duration::from_secs(60);
/// How long the supervisor may take to say what to do.
const BEGIN_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long a worker whose supervisor was killed may take to end; it owns the data directory until
/// then.
const PREDECESSOR_WAIT_MAX: Duration = Duration::from_secs(40);
/// Orders that wait.
const ORDERS_MAX: usize = 64;
/// Events that wait.
const NEWS_MAX: usize = 256;

#[derive(Args)]
pub struct Worker {
    #[command(flatten)]
    stream: Stream,
    /// Take orders on standard input, and tell news on standard output
    #[arg(long, hide = true)]
    supervised: bool,
}

impl Worker {
    pub async fn run(self: Box<Self>, global: Global) -> Result<(), Exit> {
        if !self.supervised {
            return Box::new(self.stream).run(global).await;
        }
        let logs = logging::start_in(&global, self.stream.logs_dir.as_deref())?;
        obey_the_pipe_only();
        let (news, telling) = tell();
        let worked = self.work(global, logs, news.clone()).await;
        if let Err(exit) = &worked {
            error!("{}", exit.text());
            if matches!(exit, Exit::Fenced(_)) {
                let _ = news.send(WorkerEvent::GivesUp { why: exit.text().to_owned() }).await;
            }
        }
        drop(news);
        let _ = telling.await;
        worked
    }

    async fn work(
        self: Box<Self>,
        global: Global,
        logs: Option<LogFiles>,
        news: mpsc::Sender<WorkerEvent>,
    ) -> Result<(), Exit> {
        let mut orders = orders();
        let first = timeout_at(Instant::now() + BEGIN_WAIT_MAX, orders.recv()).await;
        let Ok(Some(WorkerCommand::Begin { url, token, api_url })) = first else {
            return Err(Exit::Usage(
                "a supervised worker is told first of all what to begin with, \
                                    on its standard input"
                    .into(),
            ));
        };
        let mut stream = self.stream;
        stream.streaming.to.api_url = api_url.clone();
        let (destination, driver) =
            stream.streaming.to.place.destination(Some(url.expose_secret()))?;
        let station = stream.open(&global, destination, driver, PREDECESSOR_WAIT_MAX).await?;
        let restart = stream.streaming.to.restart;
        let office = WorkerContext { stream, station, global, token, api_url, news, logs };
        WorkerLoop {
            office: Arc::new(office),
            restart,
            paused_since: None,
            unpausing: Vec::new(),
            pausing: Vec::new(),
            import: None,
            stop: false,
        }
        .run(orders)
        .await
    }
}

/// What the jobs of a worker share.
struct WorkerContext {
    stream: Stream,
    station: StreamContext,
    global: Global,
    token: Option<SecretString>,
    api_url: Option<String>,
    news: mpsc::Sender<WorkerEvent>,
    logs: Option<LogFiles>,
}

/// What the worker is to do, and who waits for it.
struct WorkerLoop {
    office: Arc<WorkerContext>,
    /// The first engine begins at the start of the stream.
    restart: bool,
    paused_since: Option<i64>,
    pausing: Vec<u64>,
    unpausing: Vec<u64>,
    import: Option<(u64, bool)>,
    stop: bool,
}

/// What a worker does at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Task {
    Stream,
    Import { id: u64, schema_only: bool },
    Rest,
    End,
}

/// A task under way.
struct WorkerJob {
    task: Task,
    done: BoxFuture<'static, Result<(), Exit>>,
    stop: watch::Sender<bool>,
}

/// What to do, by what is wanted: an end before an import, an import before a pause.
fn task(stop: bool, import: Option<(u64, bool)>, paused: bool) -> Task {
    match (stop, import, paused) {
        (true, ..) => Task::End,
        (_, Some((id, schema_only)), _) => Task::Import { id, schema_only },
        (_, _, true) => Task::Rest,
        _ => Task::Stream,
    }
}

impl WorkerLoop {
    async fn run(mut self, mut orders: mpsc::Receiver<WorkerCommand>) -> Result<(), Exit> {
        let mut beats = tokio::time::interval(BEAT_INTERVAL);
        let mut job: Option<WorkerJob> = None;
        loop {
            let wanted = task(self.stop, self.import, self.paused_since.is_some());
            match &job {
                None if wanted == Task::End => return Ok(()),
                None => job = Some(self.begin(wanted).await),
                // Whatever runs ends in order first.
                Some(job) if job.task != wanted => drop(job.stop.send_replace(true)),
                Some(_) => {}
            }
            tokio::select! {
                order = orders.recv() => self.ordered(order.unwrap_or(WorkerCommand::Stop)).await,
                done = finished(&mut job) => {
                    let task = job.take().map_or(Task::Rest, |job| job.task);
                    self.ended(task, done).await?;
                }
                _ = beats.tick() => self.office.beat(self.paused_since).await,
            }
        }
    }

    async fn begin(&mut self, task: Task) -> WorkerJob {
        let (stop, stopped) = watch::channel(false);
        let office = self.office.clone();
        let done: BoxFuture<'static, Result<(), Exit>> = match task {
            Task::Stream => {
                let waiting = std::mem::take(&mut self.unpausing);
                Box::pin(office.stream(std::mem::take(&mut self.restart), waiting, stopped))
            }
            Task::Import { schema_only, .. } => Box::pin(office.import(schema_only, stopped)),
            Task::Rest | Task::End => {
                self.office.station.progress.phase(Phase::Paused);
                for id in std::mem::take(&mut self.pausing) {
                    self.office.done(id, Ok(None)).await;
                }
                let mut stopped = stopped;
                Box::pin(async move {
                    let _ = stopped.wait_for(|stop| *stop).await;
                    Ok(())
                })
            }
        };
        WorkerJob { task, done, stop }
    }

    async fn ordered(&mut self, order: WorkerCommand) {
        match order {
            WorkerCommand::Pause { id } if self.paused_since.is_some() => {
                self.office.done(id, Ok(None)).await;
            }
            WorkerCommand::Pause { id } => {
                info!("paused");
                self.paused_since = Some(now_ns());
                self.pausing.push(id);
            }
            WorkerCommand::Unpause { id } if self.paused_since.is_none() => {
                self.office.done(id, Ok(None)).await;
            }
            WorkerCommand::Unpause { id } => {
                info!("going on");
                self.paused_since = None;
                for id in std::mem::take(&mut self.pausing) {
                    self.office.done(id, Ok(None)).await;
                }
                self.unpausing.push(id);
            }
            WorkerCommand::Import { id, .. } if self.import.is_some() => {
                self.office.done(id, Err("an import is running already".into())).await;
            }
            WorkerCommand::Import { id, schema_only } => self.import = Some((id, schema_only)),
            WorkerCommand::RotateLog { id } => {
                let rotated = self.office.logs.as_ref().map_or(Ok(None), LogFiles::rotate);
                let open = self.office.logs.as_ref().and_then(LogFiles::path);
                self.office
                    .done(
                        id,
                        rotated
                            .map(|_| open)
                            .map_err(|e| format!("the log cannot be rotated: {e}")),
                    )
                    .await;
            }
            WorkerCommand::Stop => self.stop = true,
            WorkerCommand::Begin { .. } => warn!("the worker has begun already"),
        }
    }

    /// A failed import is told, and the server streams on; a stream that failed ends the worker.
    async fn ended(&mut self, task: Task, done: Result<(), Exit>) -> Result<(), Exit> {
        let Task::Import { id, .. } = task else { return done };
        self.import = None;
        match &done {
            Ok(()) => info!("the import that HQ ordered is done"),
            Err(exit) => error!("the import that HQ ordered failed: {}", exit.text()),
        }
        self.office.done(id, done.map(|()| None).map_err(|exit| exit.text().to_owned())).await;
        Ok(())
    }
}

async fn finished(job: &mut Option<WorkerJob>) -> Result<(), Exit> {
    match job {
        Some(job) => (&mut job.done).await,
        None => std::future::pending().await,
    }
}

impl WorkerContext {
    async fn done(&self, id: u64, outcome: Result<Option<std::path::PathBuf>, String>) {
        let (error, log) = match outcome {
            Ok(log) => (None, log),
            Err(error) => (Some(error), None),
        };
        let _ = self.news.send(WorkerEvent::Done { id, error, log }).await;
    }

    async fn beat(&self, paused_since: Option<i64>) {
        let _ = self
            .news
            .send(WorkerEvent::Beat { metrics: metrics(&self.station.progress), paused_since })
            .await;
    }

    /// Streams until it is told to stop. What is away is waited for: a server starts before its
    /// database, now and then.
    async fn stream(
        self: Arc<Self>,
        restart: bool,
        waiting: Vec<u64>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), Exit> {
        let mut backoff = Backoff::default();
        let engine = loop {
            let started = tokio::select! {
                started = self.stream.start(&self.station, restart, stop.clone()) => started,
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            };
            let why = match started {
                Ok(engine) => break engine,
                Err(Exit::Unavailable(why) | Exit::Disconnected(why)) => why,
                Err(other) => return Err(other),
            };
            self.station.progress.waiting(&why);
            warn!("{why}; trying again");
            let wait = backoff.next(&self.station.durable).max(Duration::from_millis(500));
            tokio::select! {
                () = sleep(wait) => {}
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
        };
        let _ = self.news.send(WorkerEvent::Ready).await;
        for id in waiting {
            self.done(id, Ok(None)).await;
        }
        run::finish(engine, &self.station.progress, false).await.map(drop)
    }

    async fn import(
        self: Arc<Self>,
        schema_only: bool,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Exit> {
        self.station.progress.phase(Phase::Waiting("an import is running".into()));
        let Some(base) = &self.api_url else {
            return Err(Exit::Usage(
                "an export is ordered from HQ, and this server knows none".into(),
            ));
        };
        let hq = Hq::new(Http::new().map_err(Exit::Failed)?, base, self.token.clone());
        let import = Import::ordered(schema_only, &self.stream.streaming)?;
        let target = (self.station.destination.clone(), self.station.driver);
        import.run_ordered(&self.global, target, hq, &self.station.data, stop).await
    }
}

fn metrics(progress: &Progress) -> Metrics {
    let [flushes, durations, processed, pending, events] = progress.counts().map(|n| n as f64);
    Metrics {
        flush_count: flushes,
        flush_duration: durations,
        processing_duration: processed,
        pending_events: pending,
        total_events: events,
    }
}

/// A signal to the whole group of processes (Ctrl-C, the end of a service) reaches the supervisor
/// too, which says in order what to do.
fn obey_the_pipe_only() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        // Once somebody has listened, a signal does nothing by itself.
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let _ = signal(kind);
        }
    }
    #[cfg(not(unix))]
    tokio::spawn(async { while tokio::signal::ctrl_c().await.is_ok() {} });
}

/// Orders as they come; closed with the pipe.
fn orders() -> mpsc::Receiver<WorkerCommand> {
    let (sender, orders) = mpsc::channel(ORDERS_MAX);
    // A thread of its own: one that waits for a line must not hold up the end of the runtime.
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            let Ok(line) = line else { return };
            match serde_json::from_str(&line) {
                Ok(order) => {
                    if sender.blocking_send(order).is_err() {
                        return;
                    }
                }
                // It may hold a secret.
                Err(_) => warn!("the supervisor said something that this worker does not know"),
            }
        }
    });
    orders
}

/// Where news are told, and what ends once they are.
fn tell() -> (mpsc::Sender<WorkerEvent>, tokio::task::JoinHandle<()>) {
    let (sender, mut news) = mpsc::channel::<WorkerEvent>(NEWS_MAX);
    let telling = tokio::spawn(async move {
        let mut out = tokio::io::stdout();
        while let Some(news) = news.recv().await {
            let mut line = serde_json::to_vec(&news).unwrap_or_default();
            line.push(b'\n');
            // A supervisor that is gone has closed the other pipe, too.
            let _ = out.write_all(&line).await;
            let _ = out.flush().await;
        }
    });
    (sender, telling)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_goes_before_an_import_and_that_before_a_pause() {
        assert_eq!(task(false, None, false), Task::Stream);
        assert_eq!(task(false, None, true), Task::Rest);
        assert_eq!(task(false, Some((1, true)), true), Task::Import { id: 1, schema_only: true });
        assert_eq!(task(true, Some((1, true)), true), Task::End);
    }
}
