//! The worker of a server: it streams, pauses and imports as its supervisor says, and ends with it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, sleep};
use tracing::{error, info, warn};

use super::pipe::{WorkerCommand, WorkerEvent};
use super::run::{self, RunError};
use super::stream::{StreamContext, StreamRequest};
use super::supervisor_pipe::{EventSender, SupervisorPipe};
use crate::backoff::Backoff;
use crate::change::filter::TableFilter;
use crate::clock::now_s;
use crate::hq::Hq;
use crate::hq::nats::Metrics;
use crate::http::Http;
use crate::import::{ImportFailure, ImportRequest, ProgressOutput, UnfinishedImport};
use crate::logs::LogFiles;
use crate::pipeline::import::Counts;
use crate::pipeline::progress::{Phase, Progress};
use crate::status::board::WorkerReport;

/// Between two signs of life.
const BEAT_INTERVAL: Duration = Duration::from_secs(60);
/// Between two reports of how it goes.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// How long to wait for the data directory: a worker whose supervisor was killed owns it until it
/// has ended, which takes it 30 seconds at most.
const PREDECESSOR_WAIT_MAX: Duration = Duration::from_secs(40);
/// The shortest wait before a stream that could not be started is started again.
const START_WAIT_MIN: Duration = Duration::from_millis(500);

/// What a supervised worker is to do.
pub struct WorkRequest {
    /// How it streams.
    pub stream: StreamRequest,
    /// Who this server is to HQ, for imports.
    pub token: Option<SecretString>,
    /// HQ's address; without it no import can be ordered.
    pub api_url: Option<String>,
    /// The worker's log, which HQ may want rotated.
    pub logs: Option<LogFiles>,
}

/// Works until the supervisor ends it, and is told why it ends by itself.
pub async fn work(request: WorkRequest, supervisor: &mut SupervisorPipe) -> Result<(), RunError> {
    let events = supervisor.events();
    let worked = serve(request, supervisor).await;
    if let Err(e) = &worked
        && e.is_fenced()
    {
        events.send(WorkerEvent::GivesUp { why: e.to_string() }).await;
    }
    worked
}

async fn serve(request: WorkRequest, supervisor: &mut SupervisorPipe) -> Result<(), RunError> {
    let WorkRequest { stream, token, api_url, logs } = request;
    let restart = stream.apply.restart;
    let stream = stream.open(PREDECESSOR_WAIT_MAX).await?;
    // Where the supervisor serves the status, it is told it all the time.
    let mut reports = JoinSet::new();
    if !stream.request().serves_status {
        reports.spawn(report(stream.progress.clone(), supervisor.events()));
    }
    let context = WorkerContext { stream, token, api_url, events: supervisor.events(), logs };
    WorkerLoop {
        context: Arc::new(context),
        restart,
        paused: false,
        unpausing: Vec::new(),
        pausing: Vec::new(),
        import: None,
        stop: false,
    }
    .run(supervisor)
    .await
}

/// Tells the supervisor how it goes, without end.
async fn report(progress: Arc<Progress>, events: EventSender) {
    let mut turns = tokio::time::interval(REPORT_INTERVAL);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        events.send(WorkerEvent::Status(Box::new(WorkerReport::of(&progress)))).await;
    }
}

/// What the jobs of a worker share.
struct WorkerContext {
    stream: StreamContext,
    token: Option<SecretString>,
    api_url: Option<String>,
    events: EventSender,
    logs: Option<LogFiles>,
}

/// An import that somebody ordered.
#[derive(Clone, PartialEq, Eq, Debug)]
struct OrderedImport {
    /// The number of the command, which is answered once the import is over.
    id: u64,
    schema_only: bool,
    /// Only these tables; none means all that are streamed.
    tables: Vec<String>,
}

/// What the worker is to do, and which commands wait for it.
struct WorkerLoop {
    context: Arc<WorkerContext>,
    /// The first engine begins at the start of the stream.
    restart: bool,
    paused: bool,
    pausing: Vec<u64>,
    unpausing: Vec<u64>,
    import: Option<OrderedImport>,
    stop: bool,
}

/// What a worker does at a time.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Task {
    Stream,
    Import(OrderedImport),
    Rest,
    End,
}

/// What became of a task.
enum TaskEnd {
    /// It streamed or rested.
    Stream(Result<(), RunError>),
    Import(u64, Result<(), ImportFailure>),
}

/// A task under way.
struct WorkerJob {
    task: Task,
    done: BoxFuture<'static, TaskEnd>,
    stop: watch::Sender<bool>,
}

/// What to do, by what is wanted: an end before an import, an import before a pause.
fn task(stop: bool, import: Option<OrderedImport>, paused: bool) -> Task {
    match (stop, import, paused) {
        (true, ..) => Task::End,
        (_, Some(import), _) => Task::Import(import),
        (_, _, true) => Task::Rest,
        _ => Task::Stream,
    }
}

impl WorkerLoop {
    async fn run(mut self, supervisor: &mut SupervisorPipe) -> Result<(), RunError> {
        let mut beats = tokio::time::interval(BEAT_INTERVAL);
        let mut job: Option<WorkerJob> = None;
        loop {
            let wanted = task(self.stop, self.import.clone(), self.paused);
            match &job {
                None if wanted == Task::End => return Ok(()),
                None => job = Some(self.begin(wanted).await),
                // Whatever runs ends in order first.
                Some(job) if job.task != wanted => drop(job.stop.send_replace(true)),
                Some(_) => {}
            }
            tokio::select! {
                command = supervisor.next() => self.on_command(command).await,
                end = finished(&mut job) => {
                    job = None;
                    self.on_end(end).await?;
                }
                _ = beats.tick() => self.context.beat().await,
            }
        }
    }

    async fn begin(&mut self, task: Task) -> WorkerJob {
        let (stop, stopped) = watch::channel(false);
        let context = self.context.clone();
        let done: BoxFuture<'static, TaskEnd> = match task.clone() {
            Task::Stream => {
                let waiting = std::mem::take(&mut self.unpausing);
                let restart = std::mem::take(&mut self.restart);
                Box::pin(async move {
                    TaskEnd::Stream(Box::pin(context.stream(restart, waiting, stopped)).await)
                })
            }
            Task::Import(import) => Box::pin(async move {
                let imported = context.import(&import, stopped).await;
                context.stream.progress.importing(None);
                TaskEnd::Import(import.id, imported)
            }),
            Task::Rest | Task::End => {
                self.context.stream.progress.phase(Phase::Paused);
                self.answer_pauses().await;
                let mut stopped = stopped;
                Box::pin(async move {
                    let _ = stopped.wait_for(|stop| *stop).await;
                    TaskEnd::Stream(Ok(()))
                })
            }
        };
        WorkerJob { task, done, stop }
    }

    async fn on_command(&mut self, command: WorkerCommand) {
        let events = &self.context.events;
        match command {
            WorkerCommand::Pause { id } if self.paused => {
                events.done(id, Ok(None)).await;
            }
            WorkerCommand::Pause { id } => {
                info!("paused");
                self.paused = true;
                self.pausing.push(id);
            }
            WorkerCommand::Unpause { id } if !self.paused => {
                events.done(id, Ok(None)).await;
            }
            WorkerCommand::Unpause { id } => {
                info!("going on");
                self.paused = false;
                self.answer_pauses().await;
                self.unpausing.push(id);
            }
            WorkerCommand::Import { id, .. } if self.import.is_some() => {
                events.done(id, Err("an import is running already".into())).await;
            }
            WorkerCommand::Import { id, schema_only, tables } => {
                self.import = Some(OrderedImport { id, schema_only, tables });
            }
            WorkerCommand::RotateLog { id } => {
                let rotated = self.context.logs.as_ref().map_or(Ok(None), LogFiles::rotate);
                let open = self.context.logs.as_ref().and_then(LogFiles::path);
                let outcome =
                    rotated.map(|_| open).map_err(|e| format!("the log cannot be rotated: {e}"));
                events.done(id, outcome).await;
            }
            WorkerCommand::Session { id, creds, logs_dir } => {
                events.done(id, self.context.enter(creds, &logs_dir).map(|()| None)).await;
            }
            WorkerCommand::Stop => self.stop = true,
            WorkerCommand::Begin { .. } => warn!("the worker has begun already"),
        }
    }

    /// Answers the commands to pause that wait.
    async fn answer_pauses(&mut self) {
        for id in std::mem::take(&mut self.pausing) {
            self.context.events.done(id, Ok(None)).await;
        }
    }

    /// A failed import is told, and the server streams on; a stream that failed ends the worker.
    async fn on_end(&mut self, end: TaskEnd) -> Result<(), RunError> {
        let (id, imported) = match end {
            TaskEnd::Stream(streamed) => return streamed,
            TaskEnd::Import(id, imported) => (id, imported),
        };
        self.import = None;
        match &imported {
            Ok(()) => info!("the import that was ordered is done"),
            Err(e) => {
                self.context.stream.progress.warn(&format!("the import failed: {e}"));
                error!("the import that was ordered failed: {e}");
            }
        }
        let outcome = imported.map(|()| None).map_err(|e| e.to_string());
        self.context.events.done(id, outcome).await;
        Ok(())
    }
}

async fn finished(job: &mut Option<WorkerJob>) -> TaskEnd {
    match job {
        Some(job) => (&mut job.done).await,
        None => std::future::pending().await,
    }
}

impl WorkerContext {
    /// Goes on in another session of HQ, without a break.
    fn enter(&self, creds: Option<SecretString>, logs_dir: &Path) -> Result<(), String> {
        if let Some(creds) = creds {
            self.stream.log_in_as(&creds)?;
        }
        let Some(logs) = &self.logs else { return Ok(()) };
        logs.open_in(logs_dir)
            .map_err(|e| format!("no log can be written to {}: {e}", logs_dir.display()))
    }

    async fn beat(&self) {
        let metrics = metrics(&self.stream.progress);
        self.events.send(WorkerEvent::Beat { metrics }).await;
    }

    /// Streams until it is told to stop. Until the destination and NATS can be reached it tries
    /// again: a server starts before its database, now and then.
    async fn stream(
        &self,
        restart: bool,
        waiting: Vec<u64>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), RunError> {
        let mut backoff = Backoff::default();
        let progress = &self.stream.progress;
        let engine = loop {
            let started = tokio::select! {
                started = self.stream.start(restart, stop.clone()) => started,
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            };
            let outage = match started {
                Ok(engine) => break engine,
                Err(e) if e.is_outage() => e.to_string(),
                Err(other) => return Err(other),
            };
            progress.waiting("start", &outage);
            warn!("{outage}; trying again");
            let wait = backoff.next(&self.stream.durable).max(START_WAIT_MIN);
            tokio::select! {
                () = sleep(wait) => {}
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
        };
        self.events.send(WorkerEvent::Ready).await;
        for id in waiting {
            self.events.done(id, Ok(None)).await;
        }
        run::finish(engine, progress, false).await.map(drop)
    }

    /// Imports all that this server streams, some of its tables, or creates only them, as was
    /// ordered. Nobody is at a terminal, and an import that was begun by hand with other choices is
    /// over.
    async fn import(
        &self,
        ordered: &OrderedImport,
        stop: watch::Receiver<bool>,
    ) -> Result<(), ImportFailure> {
        self.stream.progress.phase(Phase::Waiting("an import is running".into()));
        let Some(base) = &self.api_url else {
            return Err(ImportFailure::Refused(
                "an export is ordered from HQ, and this server knows none".into(),
            ));
        };
        let hq = Hq::new(Http::new().map_err(ImportFailure::Failed)?, base, self.token.clone());
        let stream = self.stream.request();
        let apply = &stream.apply;
        let request = ImportRequest {
            hq: Some(hq),
            schemas: Some(apply.schemas.clone()),
            tables: self.imported_tables(&ordered.tables)?,
            company_ids: stream.company_ids.clone(),
            adopt: apply.adopt.clone(),
            rules: apply.rules.clone(),
            columns: apply.columns.clone(),
            schema_only: ordered.schema_only,
            unfinished: UnfinishedImport::Forget,
            output: ProgressOutput::Log,
            ..ImportRequest::new(apply.destination.clone(), apply.driver)
        };
        let (counts, since_unix) = (request.counts.clone(), now_s());
        let imported = async {
            request.test().await?;
            request.prepare(&self.stream.data).await?.run(stop).await.map(drop)
        };
        tokio::select! {
            imported = imported => imported,
            () = self.tell_import(&counts, since_unix) => Ok(()),
        }
    }

    /// The tables of an import: those that were named, if this server streams them.
    fn imported_tables(&self, named: &[String]) -> Result<TableFilter, ImportFailure> {
        let streamed = &self.stream.request().apply.tables;
        if let Some(other) = named.iter().find(|table| !streamed.takes(table)) {
            let text = format!("this server does not stream table {other:?} (--tables)");
            return Err(ImportFailure::Refused(text));
        }
        Ok(match named.is_empty() {
            true => streamed.clone(),
            false => TableFilter::parse(&named.join(",")),
        })
    }

    /// Tells how far the import is, without end.
    async fn tell_import(&self, counts: &Counts, since_unix: u64) {
        let mut turns = tokio::time::interval(REPORT_INTERVAL);
        loop {
            turns.tick().await;
            self.stream.progress.importing(Some(counts.status(since_unix)));
        }
    }
}

fn metrics(progress: &Progress) -> Metrics {
    let totals = progress.totals();
    Metrics {
        flush_count: totals.flushes as f64,
        flush_duration: totals.flushes_timed as f64,
        processing_duration: totals.events_timed as f64,
        pending_events: totals.pending as f64,
        total_events: totals.received as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_goes_before_an_import_and_that_before_a_pause() {
        let import = OrderedImport { id: 1, schema_only: true, tables: Vec::new() };
        assert_eq!(task(false, None, false), Task::Stream);
        assert_eq!(task(false, None, true), Task::Rest);
        assert_eq!(task(false, Some(import.clone()), true), Task::Import(import.clone()));
        assert_eq!(task(true, Some(import), true), Task::End);
    }
}
