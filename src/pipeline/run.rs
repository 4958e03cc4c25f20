//! The loop: the next batch gathers while the last one is applied, and what is applied is
//! acknowledged.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::apply::{Applier, ApplyOutcome, Open};
use super::batcher::{BatchLimits, Batcher, PendingBatch};
use super::dead_letter::DeadLetters;
use super::progress::{Phase, Progress};
use super::recent::{self, Recent};
use super::resolve::{Pass, Resolved, Resolver};
use super::{Adoption, EngineOptions, stopped};
use crate::backoff::Backoff;
use crate::change::Position;
use crate::change::cutover::ResumePoint;
use crate::clock::{now_ns, now_s};
use crate::destination::{Failure, FailureKind};
use crate::feed::{Delivery, Feed, FeedError, OpenAt, Signal};
use crate::registry::{Registry, SchemaAnswer};
use crate::state::State;

/// Deliveries that are taken from the feed at once.
const ARRIVALS_MAX: usize = 512;
/// Between two savings of what eases the next start.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// A feed that was lost sooner than that after its opening is opened again with growing waits.
const OPEN_IS_STABLE: Duration = Duration::from_secs(10);
/// How long a shutdown waits for the running batch.
const SHUTDOWN_WAIT_MAX: Duration = Duration::from_secs(30);

/// What a run is made of.
pub struct EngineDeps {
    pub feed: Box<dyn Feed>,
    pub open: Open,
    pub registry: Registry,
    pub state: State,
    pub dead_letters: DeadLetters,
    pub progress: Arc<Progress>,
    pub options: EngineOptions,
    /// Becomes true when the run is to end: fetching stops, what is gathered is flushed and
    /// acknowledged.
    pub stop: watch::Receiver<bool>,
}

/// How a run ended in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Stopped,
    CaughtUp,
}

/// Why a run cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Halt {
    #[error("{0}")]
    Destination(#[from] Failure),
    #[error("{0}")]
    Feed(#[from] FeedError),
    #[error("{0}")]
    Setup(String),
}

type Applying = BoxFuture<'static, (Applier, Result<ApplyOutcome, Failure>)>;
type Lookup = BoxFuture<'static, (String, String, SchemaAnswer)>;

pub struct Engine {
    feed: Box<dyn Feed>,
    registry: Registry,
    state: State,
    progress: Arc<Progress>,
    options: EngineOptions,
    stop: watch::Receiver<bool>,
    resolver: Resolver,
    batcher: Batcher,
    /// Taken from the feed, not yet resolved.
    arrived: VecDeque<Delivery>,
    applier: Option<Applier>,
    /// How far the destination is, as this engine knows it.
    durable: Option<Position>,
    /// Seen before, and not yet acknowledged.
    passed: Option<Position>,
    /// Why the feed has to be opened again.
    lost: Option<String>,
    caught_up: bool,
    ended: bool,
    stopping: bool,
    idle_ns: Option<i64>,
    /// From when on the stream is read, where an import says so and no position is known yet.
    since_ns: Option<i64>,
    save_at: Instant,
    opened_at: Instant,
    reopenings: Backoff,
    /// The memory of rows is on disk as of some position: without one, a crash would leave no place
    /// to see them from.
    recent_saved: bool,
    /// Up to where the memory of rows has seen the stream; behind `durable` while a start catches
    /// up on it.
    recent_through: Option<Position>,
}

impl Engine {
    /// Connects to the destination, finds the position, opens the feed there.
    pub async fn start(parts: EngineDeps) -> Result<Engine, Halt> {
        let EngineDeps {
            mut feed,
            open,
            mut registry,
            state,
            dead_letters,
            progress,
            options,
            stop,
        } = parts;
        let acknowledged = feed.acknowledged_position().await?;
        let schemas = if options.abilities.needs_schemas() {
            registry.current().await.map_err(Halt::Setup)?
        } else {
            Vec::new()
        };
        let applier = Applier::start(
            open,
            options.clone(),
            dead_letters,
            state.clone(),
            progress.clone(),
            &schemas,
        )
        .await?;
        let lost = |e: crate::state::StateError| Halt::Setup(e.to_string());
        let recorded = applier.recorded();
        let cutover = applier.cutover(options.restart).map_err(lost)?;
        // An import says where to begin; else a position in the state file, where a destination has
        // no record of its own.
        let (durable, since_ns) = match (options.restart, recorded, cutover.resume_point()) {
            (true, ..) => (Some(Position::default()), None),
            (false, None, Some(ResumePoint::Since(ns))) => (None, Some(ns)),
            (false, None, Some(ResumePoint::After(position))) => (Some(position), None),
            (false, None, None) => {
                match state.position(&options.consumer).map_err(lost)?.or(acknowledged) {
                    None => {
                        let adopted = applier.adopted()?;
                        if let (Some(_), Adoption::Of(name)) = (adopted, &options.adoption) {
                            state.adopt_recent(name, &options.consumer).map_err(lost)?;
                        }
                        (adopted, None)
                    }
                    known => (known, None),
                }
            }
            (false, known, _) => (known, None),
        };
        // Where a consumer began that had applied nothing when an import set it back: tables that
        // were not imported need their changes from there on.
        let began = match since_ns {
            Some(_) if !cutover.had_begun() => state.position(&options.consumer).map_err(lost)?,
            _ => None,
        };
        for company in applier.new_companies() {
            warn!(
                "company {company} is new to this destination: its changes are streamed from now \
                 on, and its earlier rows need an import"
            );
        }
        // What an import says is in the destination, and comes and goes with it.
        if let Some(origin) = durable
            .filter(|_| options.restart || (recorded.is_none() && cutover.resume_point().is_none()))
        {
            state.save_position(&options.consumer, origin).map_err(lost)?;
        }
        let limits = BatchLimits {
            changes_max: options.abilities.batch_changes_max,
            bytes_max: options.abilities.batch_bytes_max,
            events_max: options.events_max,
            wait_min: options.pending_latency_min,
            wait_max: options.pending_latency_max,
        };
        if options.restart {
            state.clear_intent(&options.consumer).map_err(lost)?;
        }
        let mut batcher = Batcher::new(limits);
        batcher.replay_to(applier.unconfirmed_through());
        let mut resolver = Resolver::new(
            options.filter.clone(),
            options.rules.clone(),
            options.abilities,
            durable,
        );
        resolver.cutover = cutover;
        let mut engine = Engine {
            idle_ns: state.idle(&options.consumer).map_err(lost)?,
            since_ns,
            resolver,
            batcher,
            arrived: VecDeque::new(),
            applier: Some(applier),
            durable,
            passed: None,
            lost: None,
            caught_up: false,
            ended: false,
            stopping: false,
            save_at: Instant::now() + SAVE_INTERVAL,
            opened_at: Instant::now(),
            reopenings: Backoff::default(),
            recent_saved: false,
            recent_through: durable,
            feed,
            registry,
            state,
            progress,
            options,
            stop,
        };
        engine.load_recent();
        engine.open_feed(engine.recent_through).await?;
        if engine.durable.is_none() {
            engine.begin_here(began).await?;
        }
        engine.save_recent();
        engine.progress.update(|snapshot| {
            snapshot.stream_sequence = engine.durable.map_or(0, |position| position.sequence);
        });
        engine.progress.phase(Phase::Streaming);
        Ok(engine)
    }

    /// Where the destination stood at the start.
    pub fn position(&self) -> Option<Position> {
        self.durable
    }

    /// Streams until it is told to stop, or, where so chosen, until nothing is pending.
    pub async fn run(mut self) -> Result<End, Halt> {
        let mut applying: Option<Applying> = None;
        let mut lookup: Option<Lookup> = None;
        let mut stop_deadline: Option<Instant> = None;
        let mut arrivals: Vec<Delivery> = Vec::with_capacity(ARRIVALS_MAX);
        loop {
            if self.lost.is_some() && !self.stopping {
                self.drop_gathered();
                lookup = None;
            }
            self.absorb(&mut lookup);
            if applying.is_none() {
                self.acknowledge_passed().await;
                applying = self.launch();
            }
            if applying.is_none() {
                if let Some(end) = self.finished() {
                    return self.wind_up(end).await;
                }
                if self.lost.is_some() {
                    self.reopen().await?;
                    continue;
                }
            }
            let fetching = self.is_fetching() && lookup.is_none();
            let due = self.batcher.due().filter(|_| applying.is_none());
            tokio::select! {
                biased;
                _ = stopped(&mut self.stop), if !self.stopping => {
                    self.begin_stop();
                    lookup = None;
                    stop_deadline = Some(Instant::now() + SHUTDOWN_WAIT_MAX);
                }
                (applier, outcome) = ready(&mut applying) => {
                    applying = None;
                    self.applier = Some(applier);
                    self.on_applied(outcome?).await;
                }
                (table, version, found) = ready(&mut lookup) => {
                    lookup = None;
                    self.registry.store(&table, &version, found);
                }
                signal = self.feed.next(&mut arrivals, ARRIVALS_MAX), if fetching => self.on_signal(signal, &mut arrivals)?,
                () = until(due) => {}
                () = sleep_until(self.save_at) => self.save(),
                () = until(stop_deadline) => {
                    warn!("the destination did not finish its last batch within \
                           {SHUTDOWN_WAIT_MAX:?}; its changes come again at the next start");
                    return Ok(End::Stopped);
                }
            }
        }
    }

    fn is_fetching(&self) -> bool {
        !self.stopping
            && !self.ended
            && self.lost.is_none()
            && self.arrived.is_empty()
            && !self.batcher.is_full()
    }

    fn begin_stop(&mut self) {
        self.stopping = true;
        self.arrived.clear();
        self.progress.phase(Phase::Stopping);
        info!("stopping: what was gathered is written first");
    }

    fn drop_gathered(&mut self) {
        self.arrived.clear();
        self.batcher.take();
        self.passed = None;
    }

    /// What came of waiting for the feed.
    fn on_signal(
        &mut self,
        signal: Result<Signal, FeedError>,
        arrivals: &mut Vec<Delivery>,
    ) -> Result<(), Halt> {
        if signal != Ok(Signal::Delivered) {
            // What came together with a loss comes again, after what was lost.
            arrivals.clear();
        }
        match signal {
            Ok(Signal::Delivered) => {
                let pending = arrivals.last().map_or(0, |d| d.pending);
                self.progress.received(arrivals.len(), pending);
                self.caught_up = pending == 0;
                if self.caught_up {
                    self.idle_ns = Some(now_ns());
                }
                self.arrived.extend(arrivals.drain(..));
            }
            Ok(Signal::Idle) => {
                self.caught_up = true;
                self.idle_ns = Some(now_ns());
                if self.batcher.is_empty() {
                    self.progress.phase(Phase::CaughtUp);
                }
            }
            Ok(Signal::Lost(why)) => self.lost = Some(why),
            Ok(Signal::Ended) => (self.ended, self.caught_up) = (true, true),
            Err(FeedError::Unavailable(why)) => self.lost = Some(why),
            Err(fatal) => return Err(fatal.into()),
        }
        Ok(())
    }

    /// Resolves what has arrived, as long as there is room and every schema is at hand.
    fn absorb(&mut self, lookup: &mut Option<Lookup>) {
        let now = Instant::now();
        while lookup.is_none() && !self.batcher.is_full() {
            let Some(delivery) = self.arrived.pop_front() else {
                if self.caught_up {
                    self.batcher.end_here();
                }
                return;
            };
            if self.batcher.ends_before(delivery.position) {
                self.arrived.push_front(delivery);
                return;
            }
            let resolved = self.resolver.resolve(&delivery, &self.registry);
            if !matches!(resolved, Resolved::Wanted { .. }) {
                self.recent_through = Some(delivery.position);
            }
            match resolved {
                Resolved::Change(change) => self.batcher.change(change, now),
                Resolved::DeadLetter(dead_letter) => self.batcher.dead_letter(dead_letter, now),
                Resolved::Passed(pass) => self.passed_over(pass, delivery.position, now),
                Resolved::Wanted { table, version } => {
                    self.progress.waiting(&format!(
                        "asking for the schema of table {table:?}, version {version:?}"
                    ));
                    let answer = self.registry.ask(&table, &version);
                    *lookup = Some(Box::pin(async move { (table, version, answer.await) }));
                    self.arrived.push_front(delivery);
                }
            }
        }
    }

    fn passed_over(&mut self, pass: Pass, position: Position, now: Instant) {
        match pass {
            Pass::Seen => self.passed = Some(position),
            Pass::Stale | Pass::Filtered | Pass::Imported => self.batcher.passed(position, now),
        }
        self.progress.update(|snapshot| match pass {
            Pass::Seen => {
                (snapshot.seen_before, snapshot.done) =
                    (snapshot.seen_before + 1, snapshot.done + 1);
            }
            Pass::Stale => snapshot.stale += 1,
            Pass::Filtered => snapshot.filtered += 1,
            Pass::Imported => snapshot.imported += 1,
        });
    }

    /// What the destination has already is acknowledged without further ado.
    async fn acknowledge_passed(&mut self) {
        if let Some(position) = self.passed.take() {
            self.acknowledge(position).await;
        }
    }

    async fn acknowledge(&mut self, position: Position) {
        if let Err(e) = self.feed.acknowledge(position).await {
            self.lost = Some(format!("the acknowledgement could not be sent: {e}"));
        }
    }

    /// Gives what has gathered to the destination, if it is free and the time has come.
    fn launch(&mut self) -> Option<Applying> {
        let due = self.batcher.due()?;
        if due > Instant::now() && !self.stopping && !self.ended {
            return None;
        }
        let mut applier = self.applier.take()?;
        let pending: PendingBatch = self.batcher.take()?;
        Some(Box::pin(async move {
            let outcome = applier.apply(pending).await;
            (applier, outcome)
        }))
    }

    async fn on_applied(&mut self, outcome: ApplyOutcome) {
        match outcome {
            ApplyOutcome::Applied(position) => {
                self.durable = Some(position);
                if self.lost.is_none() {
                    self.acknowledge(position).await;
                }
                if !self.recent_saved || self.resolver.recent.unsaved() >= recent::UNSAVED_MAX {
                    self.save_recent();
                }
            }
            ApplyOutcome::DestinationRewound(position) => {
                self.rewind_to(position);
                self.lost = Some("the destination moved".into());
            }
        }
    }

    fn rewind_to(&mut self, position: Option<Position>) {
        let at = position.map_or(0, |p| p.sequence);
        warn!(
            "the destination is not where it was left but at stream sequence {at} (was it \
             restored?): the stream is read again from there"
        );
        // Without any record it is as it was before the first batch.
        self.durable = position
            .or_else(|| self.state.position(&self.options.consumer).ok().flatten())
            .or(Some(Position::default()));
    }

    /// Whether there is nothing left to do; the destination is free.
    fn finished(&self) -> Option<End> {
        if !self.batcher.is_empty() || !self.arrived.is_empty() {
            return None;
        }
        match (
            self.stopping,
            self.ended,
            self.options.until_caught_up && self.caught_up && self.lost.is_none(),
        ) {
            (true, ..) => Some(End::Stopped),
            (_, true, _) | (_, _, true) => Some(End::CaughtUp),
            _ => None,
        }
    }

    /// Asks the destination where it is, then opens the feed there; waits for either as long as it
    /// takes.
    async fn reopen(&mut self) -> Result<(), Halt> {
        if let Some(why) = self.lost.take() {
            warn!("the feed is opened again: {why}");
            self.progress.waiting(&why);
        }
        let mut stop = self.stop.clone();
        let Some(applier) = &mut self.applier else { return Ok(()) };
        let recorded = applier.recorded();
        let confirmed = tokio::select! {
            biased;
            _ = stopped(&mut stop) => return Ok(()),
            confirmed = applier.confirm() => confirmed?,
        };
        self.batcher.replay_to(applier.unconfirmed_through());
        self.resolver.cutover =
            applier.cutover(self.options.restart).map_err(|e| Halt::Setup(e.to_string()))?;
        if confirmed != recorded {
            self.rewind_to(confirmed);
        }
        self.resolver.seen = self.durable;
        self.save_recent();
        self.load_recent();
        let from = self.recent_through;
        if self.opened_at.elapsed() > OPEN_IS_STABLE {
            self.reopenings = Backoff::default();
        }
        loop {
            let wait = self.reopenings.next(&self.options.consumer);
            let attempt = async {
                sleep(wait).await;
                self.open_feed(from).await
            };
            tokio::select! {
                biased;
                _ = stopped(&mut stop) => return Ok(()),
                opened = attempt => match opened {
                    Err(Halt::Feed(FeedError::Unavailable(why))) => {
                        self.progress.waiting(&why);
                        if self.reopenings.tries() < 4 || self.reopenings.tries().is_multiple_of(20) {
                            warn!("the feed cannot be opened: {why}; trying again");
                        }
                    }
                    other => {
                        self.progress.phase(Phase::Streaming);
                        return other;
                    }
                },
            }
        }
    }

    /// The feed chose where to begin, or `began` is earlier: from now on that is known.
    async fn begin_here(&mut self, began: Option<Position>) -> Result<(), Halt> {
        let Some(mut position) = self.feed.acknowledged_position().await? else { return Ok(()) };
        if self.since_ns.is_none() {
            self.state
                .save_position(&self.options.consumer, position)
                .map_err(|e| Halt::Setup(e.to_string()))?;
            (self.durable, self.recent_through) = (Some(position), Some(position));
            return Ok(());
        }
        let opened = position;
        if let Some(earlier) = began.filter(|began| began.sequence < position.sequence) {
            position = earlier;
        }
        // Versions that were seen before the import still count: an older one of a row must not
        // follow them.
        self.durable = Some(position);
        self.load_recent();
        match self.recent_through == Some(opened) {
            true => Ok(()),
            false => self.open_feed(self.recent_through).await,
        }
    }

    /// Opens the feed; what it may forget by that is recorded already, in the destination or in the
    /// state file.
    async fn open_feed(&mut self, from: Option<Position>) -> Result<(), Halt> {
        let opened = self
            .feed
            .open(OpenAt { after: from, since_ns: self.since_ns, idle_ns: self.idle_ns })
            .await?;
        for warning in opened.warnings {
            warn!("{warning}");
            self.progress.update(|s| {
                s.last_error = Some(super::progress::LastError { at_unix: now_s(), text: warning });
            });
        }
        self.opened_at = Instant::now();
        self.caught_up = opened.pending == Some(0);
        self.progress.opened(opened.pending.unwrap_or(0));
        Ok(())
    }

    /// Saves what eases the next start. Failing to is no reason to stop: the checkpoint is
    /// elsewhere.
    fn save(&mut self) {
        self.save_at = Instant::now() + SAVE_INTERVAL;
        let consumer = &self.options.consumer;
        if let Some(idle) = self.idle_ns.filter(|_| self.caught_up)
            && let Err(e) = self.state.save_idle(consumer, idle)
        {
            warn!("{e}");
        }
        self.save_recent();
    }

    /// The memory of rows as of what is durable: what was gathered since and dropped is not in it.
    /// Where it was saved earlier, the feed has to be opened there.
    fn load_recent(&mut self) {
        let consumer = &self.options.consumer;
        let chunks = self.state.recent(consumer).unwrap_or_else(|e| {
            warn!("{e}; the ages of recent rows are not known");
            Vec::new()
        });
        (self.resolver.recent, self.recent_through) = Recent::load(&chunks, self.durable);
        self.recent_saved = !chunks.is_empty();
        // What lies beyond has not happened, as far as the destination knows.
        if let Some(chunk) = self.durable.and_then(|through| Recent::trimmed(&chunks, through))
            && let Err(e) = self.state.replace_recent(consumer, &chunk)
        {
            warn!("{e}");
        }
    }

    /// What is durable and seen by the memory of rows.
    fn savable_through(&self) -> Option<Position> {
        match (self.durable, self.recent_through) {
            (Some(durable), Some(recent_through)) if recent_through.sequence < durable.sequence => {
                Some(recent_through)
            }
            (durable, _) => durable,
        }
    }

    /// Saves what is new in the memory of rows.
    fn save_recent(&mut self) {
        let Some(through) = self.savable_through() else { return };
        let chunk = self.resolver.recent.chunk(through);
        match self.state.append_recent(&self.options.consumer, &chunk, recent::SAVED_BYTES_MAX) {
            Ok(()) => self.recent_saved = true,
            Err(e) => warn!("{e}"),
        }
    }

    /// Everything is applied: let the source know, and leave in order.
    async fn wind_up(mut self, end: End) -> Result<End, Halt> {
        self.acknowledge_passed().await;
        if let Ok(Err(e)) = timeout(SHUTDOWN_WAIT_MAX, self.feed.close()).await {
            warn!(
                "the last acknowledgement was not confirmed: {e}; at the next start the stream is \
                 read from the checkpoint"
            );
        }
        self.save();
        if let Some(applier) = &mut self.applier
            && let Ok(Err(failure)) = timeout(SHUTDOWN_WAIT_MAX, applier.close()).await
            && failure.kind != FailureKind::Unavailable
        {
            warn!("{failure}");
        }
        self.progress.phase(Phase::Stopped(None));
        Ok(end)
    }
}

/// What is there finishes; what is not there never does.
async fn ready<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
