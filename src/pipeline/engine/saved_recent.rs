//! Keeps the memory of recent rows in the state file. It only eases the next start: what fails here
//! is reported, and the run goes on.

use std::time::{Duration, Instant};

use tracing::warn;

use crate::change::Position;
use crate::pipeline::recent::{Recent, SAVED_BYTES_MAX, UNSAVED_MAX};
use crate::state::{State, StateError};

/// Where one consumer's memory of rows is saved.
pub struct SavedRecent {
    state: State,
    consumer: String,
    /// Something is saved. Without that a crash would leave no position from which the memory could
    /// see the rows again.
    is_saved: bool,
    /// When it was last said that nothing can be saved.
    said_at: Option<Instant>,
}

/// Between two mentions that nothing can be saved.
const MENTION_INTERVAL: Duration = Duration::from_secs(60);

impl SavedRecent {
    /// The memory of `consumer` in the state file.
    pub fn new(state: State, consumer: &str) -> SavedRecent {
        SavedRecent { state, consumer: consumer.to_owned(), is_saved: false, said_at: None }
    }

    /// The memory of rows as of what is durable: what was received since and dropped is not in it.
    /// Also returns how far it goes: the feed has to be opened there.
    pub fn load(&mut self, durable: Option<Position>) -> (Recent, Option<Position>) {
        let chunks = self.state.recent(&self.consumer).unwrap_or_else(|e| {
            warn!("{e}; the versions of recent rows are not known");
            Vec::new()
        });
        self.is_saved = !chunks.is_empty();
        // What lies beyond has not happened, as far as the destination knows.
        if let Some(chunk) = durable.and_then(|through| Recent::trimmed(&chunks, through))
            && let Err(e) = self.state.replace_recent(&self.consumer, &chunk)
        {
            warn!("{e}");
        }
        Recent::load(&chunks, durable)
    }

    /// The stream is another one from now on.
    pub fn begin_other_stream(&mut self, recent: &mut Recent) -> Result<(), StateError> {
        let chunk = recent.begin_other_stream();
        self.state.replace_recent(&self.consumer, &chunk)?;
        self.is_saved = true;
        Ok(())
    }

    /// Saves what is new in the memory of rows up to `through`. What could not be saved waits for
    /// the next time.
    pub fn save(
        &mut self,
        recent: &mut Recent,
        through: Option<Position>,
    ) -> Result<(), StateError> {
        let Some(through) = through else { return Ok(()) };
        match self.state.append_recent(&self.consumer, &recent.chunk(through), SAVED_BYTES_MAX) {
            Ok(()) => {
                self.is_saved = true;
                recent.saved(through);
                Ok(())
            }
            Err(e) => {
                recent.not_saved();
                Err(e)
            }
        }
    }

    /// Saves where that should not wait: nothing is saved yet, or much is new.
    pub fn save_if_due(&mut self, recent: &mut Recent, through: Option<Position>) {
        if (!self.is_saved || recent.unsaved() >= UNSAVED_MAX)
            && let Err(e) = self.save(recent, through)
            && self.said_at.is_none_or(|at| at.elapsed() >= MENTION_INTERVAL)
        {
            self.said_at = Some(Instant::now());
            warn!(
                "{e}; until there is room in the data directory, a next start reads more of the \
                 stream again"
            );
        }
    }
}
