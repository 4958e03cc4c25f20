//! The loop: the next batch is collected while the last one is applied, and what is applied is
//! acknowledged.

mod intake;
mod positions;
mod questions;
mod reopen;
mod retries;
mod saved_recent;
mod setup;
mod start;
mod states;
#[cfg(test)]
mod tests;
mod work;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::apply::{Applier, ApplyOutcome, Open};
use super::dead_letter::OnRejected;
use super::progress::{Phase, Progress};
use super::{EngineOptions, stopped};
use crate::change::Position;
use crate::change::held::HeldEvent;
use crate::destination::{Failure, FailureKind, KeptChunk};
use crate::feed::{Delivery, Feed, FeedError, Signal};
use crate::registry::Registry;
use crate::state::State;
use crate::state::predecessor::Predecessor;
use intake::Intake;
use positions::Positions;
use reopen::Reopenings;
use retries::Retries;
use saved_recent::SavedRecent;
use states::{ApplyState, FeedState, Lifecycle, NextStep, next_step};
use work::{EventTurns, Work, launch};

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
    events: EventTurns,
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
                ApplyState::Idle(applier) | ApplyState::UnderWay(applier) => launch(applier, work),
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
                         {SHUTDOWN_WAIT_MAX:?}; its changes come again at the next start"
                    );
                    return Ok(End::Stopped);
                }
            }
        }
    }

    fn next_step(&self) -> NextStep {
        let is_pending = !self.intake.is_empty() || self.intake.is_asking();
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
        let keep_events_at = self.intake.keep_events_at();
        tokio::select! {
            biased;
            () = stopped(&mut self.stop), if is_running => self.begin_stop(),
            outcome = self.apply.outcome() => {
                if let Some((applier, outcome)) = outcome {
                    self.on_applied(applier, outcome?).await;
                }
            }
            (is_new, is_known) = self.intake.finish_lookup() => {
                if let Some(why) = self.intake.conflict() {
                    return Err(Halt::Setup(why));
                }
                self.progress.schema_answered(is_known);
                // Letters of it may be on their way yet.
                self.is_schema_new |= is_new;
                self.events.is_schema_answered = true;
                if is_new {
                    self.retries.schema_known();
                }
            }
            signal = self.feed.next(arrivals, ARRIVALS_MAX), if is_fetching => {
                self.on_signal(signal, arrivals)?;
            }
            () = until(due) => {}
            () = until(keep_events_at) => self.intake.keep_events(),
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
                self.tell_received(arrivals, pending.unwrap_or(0));
                self.feed_state = FeedState::Open { caught_up: pending == Some(0) };
                self.intake.receive(arrivals);
            }
            Ok(Signal::Idle) => {
                self.feed_state = FeedState::Open { caught_up: true };
                if self.is_idle() {
                    self.progress.caught_up();
                }
            }
            Ok(Signal::Ended) => self.feed_state = FeedState::Ended,
            Ok(Signal::Lost(why)) | Err(FeedError::Unavailable(why)) => self.lose_feed(why),
            Err(fatal) => return Err(fatal.into()),
        }
        Ok(())
    }

    /// Tells what came from the feed, and what of it came once more.
    fn tell_received(&self, arrivals: &[Delivery], pending: u64) {
        let (Some(first), Some(last)) = (arrivals.first(), arrivals.last()) else { return };
        let highest = self.progress.highest_before(last.position.sequence);
        let again = arrivals.partition_point(|d| d.position.sequence <= highest);
        self.progress.redelivered(again as u64);
        self.progress.received((first.position, last.position), arrivals.len(), pending);
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
            ApplyOutcome::UnderWay => self.apply = ApplyState::UnderWay(applier),
            ApplyOutcome::Applied(position) => {
                self.apply = launch(applier, Work::Nothing);
                self.events.begin_turn(Instant::now());
                self.positions.reached(position);
                if !matches!(self.feed_state, FeedState::Lost(_)) {
                    self.acknowledge(position).await;
                }
                self.intake.room_was_made();
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
                // There may be room for more that waits, too.
                self.intake.room_was_made();
                self.retries.not_tried();
            }
            ApplyOutcome::Events(chunk, events) => {
                self.on_events(applier, (chunk, events));
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
                self.intake.room_was_made();
            }
            ApplyOutcome::DestinationRewound(position) => {
                self.apply = ApplyState::Rewound(applier);
                self.rewind(position);
            }
        }
        self.settle();
    }

    /// Kept events were read: resolves them.
    fn on_events(&mut self, mut applier: Box<Applier>, kept: (KeptChunk, Vec<HeldEvent>)) {
        let table = kept.0.label.table.clone();
        let stops = self.options.letters.on_rejected == OnRejected::Stop;
        let ready = self.intake.resolve_events(kept, self.positions.durable(), stops);
        // The stream does not bring them again: once they are applied, only the saved memory of
        // rows knows their versions.
        self.events.ready = ready.filter(|_| self.save_recent());
        if self.events.ready.is_none() {
            applier.postpone(&table);
        }
        self.apply = ApplyState::Idle(applier);
    }

    /// Compares what is resolved with what the destination keeps, while nothing is on its way.
    fn settle(&mut self) {
        let durable = self.positions.durable();
        if let Some(applier) = self.apply.applier() {
            self.intake.settle(applier.unresolved(), durable);
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
        self.events.ready = None;
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

    /// Returns whether what is durable of it is saved.
    fn save_recent(&mut self) -> bool {
        let through = self.positions.savable_through();
        match self.saved_recent.save(&mut self.intake.resolver.recent, through) {
            Ok(()) => true,
            Err(e) => {
                warn!("{e}");
                false
            }
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

async fn until(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
