//! What the destination's side does next, while it is idle.

use std::time::Duration;

use tokio::time::Instant;

use super::Engine;
use super::retries::RetryStep;
use super::states::{ApplyState, FeedState, Lifecycle, TryHeld};
use crate::destination::Failure;
use crate::pipeline::apply::{Applier, ApplyOutcome, ReadyEvents};
use crate::pipeline::batcher::PendingBatch;

/// For so long after each batch kept events go first, where their schema is known at last: more of
/// them is to be applied than comes.
const EVENTS_TURN: Duration = Duration::from_millis(500);

/// What is known of kept events, and when they go before what has arrived.
pub struct EventTurns {
    /// A question for a schema was answered, and the applier does not know that yet.
    pub is_schema_answered: bool,
    /// Events that are resolved and to be applied next.
    pub ready: Option<ReadyEvents>,
    /// Until then they go first.
    turn_until: Instant,
}

impl EventTurns {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> EventTurns {
        EventTurns { is_schema_answered: false, ready: None, turn_until: now }
    }

    /// What had arrived had its turn.
    pub fn begin_turn(&mut self, now: Instant) {
        self.turn_until = now + EVENTS_TURN;
    }
}

impl Engine {
    /// What the applier is to do, if it is idle: changes and dead letters in turn, else a table
    /// that is held.
    pub(super) fn next_work(&mut self) -> Work {
        let (is_last, held) = (self.is_last(), self.try_held());
        let with_events = self.may_resolve_events();
        let applier = match &mut self.apply {
            ApplyState::Idle(applier) => applier,
            ApplyState::UnderWay(applier) if applier.is_answered() => return Work::Land,
            ApplyState::UnderWay(_) => return self.next_behind(),
            ApplyState::Running(_) | ApplyState::Rewound(_) => return Work::Nothing,
        };
        // The feed is opened again first: other tables wait for it.
        let is_running = self.lifecycle == Lifecycle::Running;
        if is_running && matches!(self.feed_state, FeedState::Lost(_)) {
            return Work::Nothing;
        }
        if std::mem::take(&mut self.events.is_schema_answered) {
            applier.schema_answered();
        }
        let is_due = is_last || self.intake.due().is_some_and(|due| due <= Instant::now());
        let is_due = is_due && !self.intake.is_empty();
        if is_running {
            let is_busy = is_due || applier.has_release(false);
            self.retries.look();
            if let Some(step) = self.retries.next(is_busy) {
                return Work::Retry(step);
            }
        }
        let is_end = held == TryHeld::Once;
        if held != TryHeld::No && (!is_due || Instant::now() < self.events.turn_until) {
            match self.events.ready.take() {
                Some(ready) => return Work::Events(Box::new(ready)),
                None if with_events && applier.has_events(is_end) => {
                    return Work::Release { is_end, with_events };
                }
                None => {}
            }
        }
        match self.intake.take(is_last) {
            Some(pending) => Work::Batch(pending),
            None if held != TryHeld::No && applier.has_release(is_end) => {
                Work::Release { is_end, with_events }
            }
            None if is_end => self.retries.at_end().map_or(Work::Nothing, Work::Retry),
            None => Work::Nothing,
        }
    }

    /// Whether kept events may be resolved. Before the memory of rows has seen what the destination
    /// has, it takes an old version of a row for a new one.
    fn may_resolve_events(&self) -> bool {
        let is_caught_up = self.feed_state.is_caught_up() && self.intake.is_empty();
        is_caught_up || !self.positions.is_recent_behind()
    }

    /// A full batch, while another is under way. Whatever else there is to do has its turn when
    /// nothing is.
    fn next_behind(&mut self) -> Work {
        let ApplyState::UnderWay(applier) = &mut self.apply else { return Work::Nothing };
        let has_letters = applier.has_letters();
        let is_else_due = applier.is_due_to_look()
            || self.events.is_schema_answered
            || self.events.ready.is_some()
            || !self.retries.is_empty()
            || self.retries.due(has_letters).is_some_and(|due| due <= Instant::now());
        let is_open = matches!(self.feed_state, FeedState::Open { .. } | FeedState::Ended);
        match is_open && !is_else_due && self.intake.is_full() {
            true => self.intake.take(false).map_or(Work::Nothing, Work::Batch),
            false => Work::Nothing,
        }
    }

    /// When tables that are held may be tried, if nothing is to be applied.
    pub(super) fn try_held(&self) -> TryHeld {
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
    pub(super) fn held_due(&self) -> Option<Instant> {
        match (&self.apply, self.lifecycle) {
            (ApplyState::Idle(applier), Lifecycle::Running) => {
                applier.release_due(self.may_resolve_events())
            }
            _ => None,
        }
    }

    /// When to look for dead letters that are to be tried again.
    pub(super) fn letters_due(&self) -> Option<Instant> {
        match (&self.apply, self.lifecycle) {
            (ApplyState::Idle(applier), Lifecycle::Running) => {
                self.retries.due(applier.has_letters())
            }
            _ => None,
        }
    }
}

/// What an idle applier is to do.
pub enum Work {
    /// Nothing.
    Nothing,
    /// A set of pending changes is applied, or sent behind the one that is under way.
    Batch(PendingBatch),
    /// The batch under way has its answer.
    Land,
    /// Something about a dead letter.
    Retry(RetryStep),
    /// Events of a table that is held are applied.
    Events(Box<ReadyEvents>),
    /// A table that is held is tried. `is_end`: nothing else is left to do.
    Release {
        /// Whether that is so.
        is_end: bool,
        /// It may be one whose events are to be resolved first.
        with_events: bool,
    },
}

impl ApplyState<Applier> {
    /// Waits until what is applied has an outcome, or the batch under way its answer; for ever
    /// where there is neither.
    pub async fn outcome(&mut self) -> Option<(Box<Applier>, Result<ApplyOutcome, Failure>)> {
        match self {
            ApplyState::Running(applying) => Some(applying.await),
            ApplyState::UnderWay(applier) => {
                applier.answered().await;
                None
            }
            ApplyState::Idle(_) | ApplyState::Rewound(_) => std::future::pending().await,
        }
    }
}

/// Gives the applier its work.
pub fn launch(mut applier: Box<Applier>, work: Work) -> ApplyState<Applier> {
    if matches!(work, Work::Nothing) {
        return match applier.is_under_way() {
            true => ApplyState::UnderWay(applier),
            false => ApplyState::Idle(applier),
        };
    }
    ApplyState::Running(Box::pin(async move {
        let outcome = match work {
            Work::Nothing => Ok(ApplyOutcome::Released),
            Work::Batch(pending) => applier.apply(pending).await,
            Work::Land => applier.land().await,
            Work::Release { is_end, with_events } => applier.try_held(is_end, with_events).await,
            Work::Events(ready) => applier.try_events(*ready).await,
            Work::Retry(RetryStep::List) => applier.list_letters().await,
            Work::Retry(RetryStep::Read(number)) => applier.read_letter(number).await,
            Work::Retry(RetryStep::Apply(letter)) => applier.retry(letter).await,
        };
        (applier, outcome)
    }))
}
