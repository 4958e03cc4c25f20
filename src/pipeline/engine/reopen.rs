//! Opening the feed: at the start, and again wherever it was lost or the destination moved.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::warn;

use super::start::StartPosition;
use super::states::FeedState;
use super::{Engine, Halt};
use crate::backoff::Backoff;
use crate::destination::CheckpointIn;
use crate::feed::FeedError;
use crate::pipeline::apply::Confirmed;
use crate::pipeline::stopped;
use crate::state::StateError;

/// A feed that was lost sooner than that after its opening is opened again with growing waits.
const OPEN_IS_STABLE: Duration = Duration::from_secs(10);
/// For how long the first opening is tried again. The feed answered a moment before: what is away
/// now is being restarted.
const FIRST_OPENING_WAIT_MAX: Duration = Duration::from_secs(60);
/// How often in its life a process takes the feed back from others. Two with destinations of their
/// own could do so for ever.
const TAKEN_BACK_MAX: u32 = 4;

/// When the feed was last opened, and how often that did not last.
pub struct Reopenings {
    opened_at: Instant,
    backoff: Backoff,
    /// How often the feed was taken back from another process.
    taken_back: u32,
}

impl Reopenings {
    /// The first opening is now.
    pub fn new() -> Reopenings {
        Reopenings { opened_at: Instant::now(), backoff: Backoff::default(), taken_back: 0 }
    }
}

impl Engine {
    /// Asks the destination where it is, then opens the feed there; waits for either as long as it
    /// takes. Returns whether the feed is open, which it is not where the run is to stop.
    pub(super) async fn reopen(&mut self, why: &str) -> Result<bool, Halt> {
        warn!("the feed is reopened: {why}");
        self.progress.reopens(why);
        let mut stop = self.stop.clone();
        tokio::select! {
            biased;
            () = stopped(&mut stop) => {
                self.begin_stop();
                Ok(false)
            }
            opened = self.open_where_destination_is() => opened.map(|()| true),
        }
    }

    async fn open_where_destination_is(&mut self) -> Result<(), Halt> {
        self.resume_from_destination().await?;
        if self.reopenings.opened_at.elapsed() > OPEN_IS_STABLE {
            self.reopenings.backoff = Backoff::default();
        }
        loop {
            sleep(self.reopenings.backoff.next(&self.options.consumer)).await;
            match self.open_feed().await {
                Err(Halt::Feed(FeedError::Unavailable(why))) => self.waits_for_feed(&why),
                other => {
                    self.progress.streaming();
                    return other;
                }
            }
        }
    }

    /// Opens the feed for the first time in this run, and learns where it begins. Returns whether
    /// it is open, which it is not where the run is to stop.
    pub(super) async fn open_first_feed(&mut self, start: &StartPosition) -> Result<bool, Halt> {
        let deadline = Instant::now() + FIRST_OPENING_WAIT_MAX;
        let mut stop = self.stop.clone();
        let opening = async {
            loop {
                sleep(self.reopenings.backoff.next(&self.options.consumer)).await;
                match self.begin_at(start).await {
                    Err(Halt::Feed(FeedError::Unavailable(why))) if Instant::now() < deadline => {
                        self.waits_for_feed(&why);
                    }
                    other => return other,
                }
            }
        };
        tokio::select! {
            biased;
            () = stopped(&mut stop) => {
                self.begin_stop();
                Ok(false)
            }
            opened = opening => {
                self.reopenings.backoff = Backoff::default();
                opened.map(|()| true)
            }
        }
    }

    fn waits_for_feed(&self, why: &str) {
        self.progress.waiting("feed", why);
        let tries = self.reopenings.backoff.tries();
        if tries < 4 || tries.is_multiple_of(20) {
            warn!("the feed cannot be opened: {why}; trying again");
        }
    }

    /// Goes on from where the destination is: nothing is pending from here on, all that is not
    /// durable comes again, and the memory of rows is that of then.
    async fn resume_from_destination(&mut self) -> Result<(), Halt> {
        self.drop_pending();
        let Some(applier) = self.apply.applier() else { return Ok(()) };
        let confirmed = applier.confirm().await?;
        self.intake.replay_to(applier.unconfirmed_through());
        self.intake.resolver.cutover =
            applier.cutover(self.options.restart).map_err(|e| Halt::Setup(e.to_string()))?;
        if let Confirmed::Rewound(position) = confirmed {
            self.rewind(position);
        }
        self.settle();
        self.intake.resolver.seen = self.positions.durable();
        self.save_recent();
        self.load_recent();
        Ok(())
    }

    /// The feed reads another stream than the one that our positions are about: they say nothing
    /// about what it delivers.
    fn begin_other_stream(&mut self) -> Result<(), StateError> {
        self.intake.resolver.seen = None;
        self.intake.resolver.cutover.applied.clear();
        self.positions.begin_other_stream();
        self.saved_recent.begin_other_stream(&mut self.intake.resolver.recent)?;
        if let Some(applier) = self.apply.applier() {
            applier.begin_other_stream();
            self.intake.replay_to(applier.unconfirmed_through());
        }
        Ok(())
    }

    /// Another process has the feed. Where the destination knows which of the two came last, that
    /// one streams on: otherwise of two that start at once each could lose one of them to the
    /// other, and both would end. Fails where that is the other, or nobody knows.
    async fn take_back(&mut self, why: String) -> Result<(), Halt> {
        let is_known = self.options.abilities.checkpoint_in == CheckpointIn::Destination;
        if !is_known || self.reopenings.taken_back == TAKEN_BACK_MAX {
            return Err(FeedError::Taken(why).into());
        }
        self.reopenings.taken_back += 1;
        self.resume_from_destination().await?;
        warn!("another EDS has the consumer, but not the destination: the consumer is made anew");
        Ok(())
    }

    /// Opens the feed; what it may forget by that is recorded already, in the destination or in the
    /// state file.
    pub(super) async fn open_feed(&mut self) -> Result<(), Halt> {
        let opened = loop {
            match self.feed.open(self.positions.open_at()).await {
                Err(FeedError::Taken(why)) => self.take_back(why).await?,
                opened => break opened?,
            }
        };
        if opened.recreated {
            let lost = |e: StateError| FeedError::Unavailable(e.to_string());
            self.begin_other_stream().map_err(lost)?;
        }
        for warning in opened.warnings {
            warn!("{warning}");
            self.progress.warn(&warning);
        }
        self.intake.resolver.source_behind_ns = opened.behind_ns;
        self.reopenings.opened_at = Instant::now();
        // What the memory of rows has not seen comes again, whether it counts as pending or not.
        let caught_up = opened.pending == Some(0) && !self.positions.is_recent_behind();
        self.feed_state = FeedState::Open { caught_up };
        self.progress.opened(opened.pending.unwrap_or(0));
        Ok(())
    }
}
