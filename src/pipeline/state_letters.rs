//! The dead letters that are kept in the state file, of destinations that have no tables.

use async_trait::async_trait;
use bytes::Bytes;

use super::EngineOptions;
use crate::change::batch::LetterChanges;
use crate::change::dead_letter::{LetterEntry, LetterLabel, RejectKind};
use crate::destination::{Failure, KeptLetter, LetterBox};
use crate::state::letters::StoredLetter;
use crate::state::{State, StateError};

/// The state file as a keeper of dead letters.
pub struct StateLetters(State);

impl StateLetters {
    /// Those of `state`.
    pub fn new(state: State) -> StateLetters {
        StateLetters(state)
    }

    /// What becomes of letters of the run's consumer. Repeating it does nothing.
    pub fn change(&self, options: &EngineOptions, changes: &LetterChanges) -> Result<(), Failure> {
        match changes.is_empty() {
            true => Ok(()),
            false => self.0.change_letters(&options.consumer, changes).map_err(unavailable),
        }
    }
}

fn unavailable(e: StateError) -> Failure {
    Failure::unavailable(e.to_string())
}

fn kept((consumer, superseded_by, label): StoredLetter) -> KeptLetter {
    KeptLetter { consumer, superseded_by, label }
}

#[async_trait]
impl LetterBox for StateLetters {
    async fn entries(&mut self, consumer: &str) -> Result<Vec<LetterEntry>, Failure> {
        self.0.letter_entries(consumer).map_err(unavailable)
    }

    async fn letters(&mut self) -> Result<Vec<KeptLetter>, Failure> {
        let stored = self.0.letters().map_err(unavailable)?;
        Ok(stored.into_iter().map(kept).collect())
    }

    async fn of_kind(
        &mut self,
        consumer: &str,
        kind: RejectKind,
    ) -> Result<Vec<LetterLabel>, Failure> {
        let stored = self.0.letters().map_err(unavailable)?;
        let own = stored.into_iter().filter(|(of, superseded_by, label)| {
            *of == *consumer && superseded_by.is_none() && label.kind == kind
        });
        Ok(own.map(|(_, _, label)| label).collect())
    }

    async fn letter(
        &mut self,
        consumer: &str,
        number: u64,
    ) -> Result<Option<(KeptLetter, Bytes)>, Failure> {
        let found = self.0.letter(consumer, number).map_err(unavailable)?;
        Ok(found.map(|(stored, payload)| (kept(stored), payload.into())))
    }

    async fn drop_letters(&mut self, consumer: &str, numbers: &[u64]) -> Result<(), Failure> {
        self.0.drop_letters(consumer, numbers).map_err(unavailable)
    }
}
