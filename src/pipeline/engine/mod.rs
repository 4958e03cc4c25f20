//! The loop: the next batch is collected while the last one is applied, and what is applied is
//! acknowledged.

mod intake;
mod positions;
mod reopen;
mod retries;
mod saved_recent;
mod setup;
mod start;
mod states;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::apply::{Applier, ApplyOutcome, Open};
use super::batcher::PendingBatch;
use super::progress::{Phase, Progress};
use super::{EngineOptions, stopped};
use crate::change::Position;
use crate::destination::{Failure, FailureKind};
use crate::feed::{Delivery, Feed, FeedError, Signal};
use crate::registry::Registry;
use crate::state::State;
use crate::state::predecessor::Predecessor;
use intake::Intake;
use positions::Positions;
use reopen::Reopenings;
use retries::{Retries, RetryStep};
use saved_recent::SavedRecent;
use states::{ApplyState, FeedState, Lifecycle, NextStep, TryHeld, next_step};

/// Deliveries that are taken from the feed at once.
const ARRIVALS_MAX: usize = 512;
/// Between two savings of what eases the next start.
const SAVE_INTERVAL: Duration = Duration::from_secs(60);
/// How long a shutdown waits for the running batch.
const SHUTDOWN_WAIT_MAX: Duration = Duration::from_secs(30);

/// What a run is made of.
pub struct EngineDeps {
    /// Where changes come from.
    pub feed: Box<dyn Feed>,
    /// Connects to where they go.
    pub open: Open,
    /// The tables' schemas.
    pub registry: Registry,
    /// The state file.
    pub state: State,
    /// What the Go program has left in the data directory.
    pub predecessor: Predecessor,
    /// Where the run reports how it is going.
    pub progress: Arc<Progress>,
    /// What the user chose.
    pub options: EngineOptions,
    /// Becomes true when the run is to end: fetching stops, what is pending is written and
    /// acknowledged.
    pub stop: watch::Receiver<bool>,
}

/// How a run ended in order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It was told to stop.
    Stopped,
    /// Nothing was left to do.
    CaughtUp,
}

/// Why a run cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Halt {
    /// The destination cannot be used, or belongs to another process now.
    #[error("{0}")]
    Destination(#[from] Failure),
    /// The feed cannot be used, or belongs to another process.
    #[error("{0}")]
    Feed(#[from] FeedError),
    /// Something on this machine, or a schema.
    #[error("{0}")]
    Setup(String),
}

/// A run: one feed into one destination.
pub struct Engine {
    feed: Box<dyn Feed>,
    feed_state: FeedState,
    reopenings: Reopenings,
    intake: Intake,
    apply: ApplyState<Applier>,
    lifecycle: Lifecycle,
    positions: Positions,
    saved_recent: SavedRecent,
    retries: Retries,
    /// A schema has become known since the last batch was applied.
    is_schema_new: bool,
    save_at: Instant,
    state: State,
    progress: Arc<Progress>,
    options: EngineOptions,
    stop: watch::Receiver<bool>,
}

impl Engine {
    /// How far the destination is; after the start, where it was.
    pub fn position(&self) -> Option<Position> {
        self.positions.durable()
    }

    /// Streams until it is told to stop, the feed ends or, where so chosen, nothing is pending.
    /// Fails where another process has taken over, or a person has to change something.
    pub async fn run(mut self) -> Result<End, Halt> {
        let mut arrivals: Vec<Delivery> = Vec::with_capacity(ARRIVALS_MAX);
        loop {
            self.intake.absorb(self.feed_state.is_caught_up(), &mut self.positions);
            self.acknowledge_seen().await;
            let work = self.next_work();
            self.apply = match self.apply {
                ApplyState::Idle(applier) => launch(applier, work),
                other => other,
            };
            match self.next_step() {
                NextStep::Wait => self.wait(&mut arrivals).await?,
                NextStep::Reopen(why) => {
                    if self.reopen(&why).await? {
                        self.apply = self.apply.reopened();
                    }
                }
                NextStep::Finish(end) => return self.wind_up(end).await,
                NextStep::GiveUp => {
                    warn!(
                        "the destination did not finish its last batch within \
                         {SHUTDOWN_WAIT_MAX:?}; its changes are redelivered at the next start"
                    );
                    return Ok(End::Stopped);
                }
            }
        }
    }

    /// What the applier is to do, if it is idle: changes and dead letters in turn, else a table
    /// that is held.
    fn next_work(&mut self) -> Work {
        let (is_last, held) = (self.is_last(), self.try_held());
        let ApplyState::Idle(applier) = &self.apply else { return Work::Nothing };
        let may_retry =
            self.lifecycle == Lifecycle::Running && !matches!(self.feed_state, FeedState::Lost(_));
        if may_retry {
            let is_due = is_last || self.intake.due().is_some_and(|due| due <= Instant::now());
            let is_busy = (is_due && !self.intake.is_empty()) || applier.has_release(false);
            self.retries.look();
            if let Some(step) = self.retries.next(is_busy) {
                return Work::Retry(step);
            }
        }
        let is_end = held == TryHeld::Once;
        match self.intake.take(is_last) {
            Some(pending) => Work::Batch(pending),
            None if held != TryHeld::No && applier.has_release(is_end) => Work::Release { is_end },
            None => Work::Nothing,
        }
    }

    /// When tables that are held may be tried, if nothing is to be applied.
    fn try_held(&self) -> TryHeld {
        let is_over = match self.feed_state {
            FeedState::Open { caught_up } => caught_up && self.options.until_caught_up,
            FeedState::Ended => true,
            FeedState::Lost(_) => false,
        };
        match self.lifecycle {
            Lifecycle::Stopping { .. } => TryHeld::No,
            Lifecycle::Running if is_over && self.intake.is_empty() => TryHeld::Once,
            Lifecycle::Running => TryHeld::WhenDue,
        }
    }

    /// When a table that is held is to be tried.
    fn held_due(&self) -> Option<Instant> {
        match (&self.apply, self.lifecycle) {
            (ApplyState::Idle(applier), Lifecycle::Running) => applier.release_due(),
            _ => None,
        }
    }

    /// When to look for dead letters that are to be tried again.
    fn letters_due(&self) -> Option<Instant> {
        match (&self.apply, self.lifecycle) {
            (ApplyState::Idle(applier), Lifecycle::Running) => {
                self.retries.due(applier.has_letters())
            }
            _ => None,
        }
    }

    fn next_step(&self) -> NextStep {
        let is_pending = !self.intake.is_empty();
        let until_caught_up = self.options.until_caught_up;
        let life = (self.lifecycle, Instant::now());
        next_step(life, &self.apply, &self.feed_state, is_pending, until_caught_up)
    }

    /// Waits for whatever comes first, and takes note of it.
    async fn wait(&mut self, arrivals: &mut Vec<Delivery>) -> Result<(), Halt> {
        let is_running = self.lifecycle == Lifecycle::Running;
        let is_fetching = is_running
            && matches!(self.feed_state, FeedState::Open { .. })
            && self.intake.has_room();
        let due = self.intake.due().filter(|_| self.apply.is_idle());
        let (held_due, letters_due) = (self.held_due(), self.letters_due());
        tokio::select! {
            biased;
            () = stopped(&mut self.stop), if is_running => self.begin_stop(),
            (applier, outcome) = self.apply.outcome() => self.on_applied(applier, outcome?).await,
            is_new = self.intake.finish_lookup() => {
                // Letters of it may be on their way yet.
                self.is_schema_new |= is_new;
                if is_new {
                    self.retries.schema_known();
                }
            }
            signal = self.feed.next(arrivals, ARRIVALS_MAX), if is_fetching => {
                self.on_signal(signal, arrivals)?;
            }
            () = until(due) => {}
            () = until(held_due) => {}
            () = until(letters_due) => {}
            () = sleep_until(self.save_at) => self.save().await,
            () = until(self.lifecycle.deadline()) => {}
        }
        Ok(())
    }

    fn begin_stop(&mut self) {
        self.lifecycle = Lifecycle::Stopping { deadline: Instant::now() + SHUTDOWN_WAIT_MAX };
        self.intake.stop();
        self.progress.phase(Phase::Stopping);
        info!("stopping: pending changes are written first");
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
                let pending = arrivals.last().and_then(|d| d.pending);
                self.progress.received(arrivals.len(), pending.unwrap_or(0));
                self.feed_state = FeedState::Open { caught_up: pending == Some(0) };
                self.intake.receive(arrivals);
            }
            Ok(Signal::Idle) => {
                self.feed_state = FeedState::Open { caught_up: true };
                if self.is_idle() {
                    self.progress.phase(Phase::CaughtUp);
                }
            }
            Ok(Signal::Ended) => self.feed_state = FeedState::Ended,
            Ok(Signal::Lost(why)) | Err(FeedError::Unavailable(why)) => self.lose_feed(why),
            Err(fatal) => return Err(fatal.into()),
        }
        Ok(())
    }

    /// Whether everything that the feed had for us is durable.
    fn is_idle(&self) -> bool {
        let is_caught_up = matches!(self.feed_state, FeedState::Open { caught_up: true });
        is_caught_up && self.intake.is_empty() && self.apply.is_idle()
    }

    /// The feed has to be opened again, which delivers again what is not durable. While the run
    /// stops it is not opened again, and what is pending is written: it follows what is durable.
    fn lose_feed(&mut self, why: String) {
        self.feed_state = FeedState::Lost(why);
        if self.lifecycle == Lifecycle::Running {
            self.drop_pending();
        }
    }

    fn drop_pending(&mut self) {
        self.intake.clear();
        self.positions.take_seen();
    }

    /// What the destination has already is acknowledged without further ado.
    async fn acknowledge_seen(&mut self) {
        if self.apply.is_idle()
            && let Some(position) = self.positions.take_seen()
        {
            self.acknowledge(position).await;
        }
    }

    async fn acknowledge(&mut self, position: Position) {
        if let Err(e) = self.feed.acknowledge(position).await {
            self.lose_feed(format!("the acknowledgement could not be sent: {e}"));
        }
    }

    /// Whether nothing can follow what is pending.
    fn is_last(&self) -> bool {
        self.lifecycle != Lifecycle::Running || self.feed_state == FeedState::Ended
    }

    async fn on_applied(&mut self, applier: Box<Applier>, outcome: ApplyOutcome) {
        match outcome {
            ApplyOutcome::Applied(position) => {
                self.apply = ApplyState::Idle(applier);
                self.positions.reached(position);
                if !matches!(self.feed_state, FeedState::Lost(_)) {
                    self.acknowledge(position).await;
                }
                self.intake.has_letter_room();
                let through = self.positions.savable_through();
                self.saved_recent.save_if_due(&mut self.intake.resolver.recent, through);
                if std::mem::take(&mut self.is_schema_new) {
                    self.retries.schema_known();
                }
            }
            ApplyOutcome::NoRoom(pending, durable) => {
                self.apply = ApplyState::Idle(applier);
                self.intake.put_back(pending);
                if let Some(position) = durable {
                    self.positions.reached(position);
                    if !matches!(self.feed_state, FeedState::Lost(_)) {
                        self.acknowledge(position).await;
                    }
                }
            }
            ApplyOutcome::Released => {
                self.apply = ApplyState::Idle(applier);
                self.retries.not_tried();
            }
            ApplyOutcome::Letter(number, letter) => {
                self.apply = ApplyState::Idle(applier);
                let intake = &mut self.intake;
                self.retries.read(number, letter, |letter, ask| intake.resolve_letter(letter, ask));
            }
            ApplyOutcome::Letters(letters) => {
                self.apply = ApplyState::Idle(applier);
                self.retries.listed(&letters, |table, version| self.intake.knows(table, version));
            }
            ApplyOutcome::Retried(number, outcome) => {
                self.apply = ApplyState::Idle(applier);
                self.retries.tried(number, &outcome);
                self.intake.has_letter_room();
            }
            ApplyOutcome::DestinationRewound(position) => {
                self.apply = ApplyState::Rewound(applier);
                self.rewind(position);
            }
        }
    }

    /// The destination is at `position`, not where it was left. Nothing that is pending follows it,
    /// and nothing beyond it is to be acknowledged.
    fn rewind(&mut self, position: Option<Position>) {
        let at = position.map_or(0, |p| p.sequence);
        warn!(
            "the destination's checkpoint is unexpectedly at stream sequence {at} (was it \
             restored?): the stream is read again from there"
        );
        self.drop_pending();
        self.retries.forget();
        // Without any record it is as it was before the first batch.
        let saved = || self.state.position(&self.options.consumer).ok().flatten();
        self.positions.rewind(position.or_else(saved).unwrap_or_default());
    }

    /// Saves what eases the next start. Failing to is no reason to stop: the checkpoint is
    /// elsewhere.
    async fn save(&mut self) {
        self.save_at = Instant::now() + SAVE_INTERVAL;
        if self.is_idle()
            && let Some(idle_ns) = self.feed.nothing_pending_at().await
        {
            let idle = self.positions.idle_at(idle_ns);
            if let Err(e) = self.state.save_idle(&self.options.consumer, idle) {
                warn!("{e}");
            }
        }
        self.save_recent();
    }

    fn save_recent(&mut self) {
        let through = self.positions.savable_through();
        if let Err(e) = self.saved_recent.save(&mut self.intake.resolver.recent, through) {
            warn!("{e}");
        }
    }

    /// The memory of rows as of what is durable; where it was saved earlier, the feed has to be
    /// opened there.
    fn load_recent(&mut self) {
        let (recent, through) = self.saved_recent.load(self.positions.durable());
        self.intake.resolver.recent = recent;
        self.positions.recent_reached(through);
    }

    /// Everything is applied: lets the source know, and leaves in order.
    async fn wind_up(mut self, end: End) -> Result<End, Halt> {
        self.acknowledge_seen().await;
        self.save().await;
        if let Ok(Err(e)) = timeout(SHUTDOWN_WAIT_MAX, self.feed.close()).await {
            warn!(
                "the last acknowledgement was not confirmed: {e}; at the next start the stream is \
                 read from the checkpoint"
            );
        }
        if let Some(applier) = self.apply.applier() {
            applier.warn_of_held();
            if let Ok(Err(failure)) = timeout(SHUTDOWN_WAIT_MAX, applier.close()).await
                && failure.kind != FailureKind::Unavailable
            {
                warn!("{failure}");
            }
        }
        self.progress.phase(Phase::Stopped(None));
        Ok(end)
    }
}

/// What an idle applier is to do.
enum Work {
    Nothing,
    Batch(PendingBatch),
    Retry(RetryStep),
    /// A table that is held is tried. `is_end`: nothing else is left to do.
    Release {
        is_end: bool,
    },
}

/// Gives the applier its work.
fn launch(mut applier: Box<Applier>, work: Work) -> ApplyState<Applier> {
    if matches!(work, Work::Nothing) {
        return ApplyState::Idle(applier);
    }
    ApplyState::Running(Box::pin(async move {
        let outcome = match work {
            Work::Nothing => Ok(ApplyOutcome::Released),
            Work::Batch(pending) => applier.apply(pending).await,
            Work::Release { is_end } => applier.try_held(is_end).await,
            Work::Retry(RetryStep::List) => applier.list_letters().await,
            Work::Retry(RetryStep::Read(number)) => applier.read_letter(number).await,
            Work::Retry(RetryStep::Apply(letter)) => applier.retry(letter).await,
        };
        (applier, outcome)
    }))
}

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
