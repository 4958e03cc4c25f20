//! Where a consumer's position is kept: in the destination, committed with its rows, or in the
//! state file, saved after each batch.

use tracing::warn;

use super::EngineOptions;
use crate::change::{Cutover, Position};
use crate::destination::{CheckpointIn, Claim, Destination, Failure};
use crate::state::{State, StateError};

/// The checkpoint of one consumer at one destination.
pub struct CheckpointStore {
    /// The checkpoint as it was last read or written; `None` where nothing was recorded yet.
    recorded: Option<Position>,
    /// Where it will be once everything is applied that was sent.
    sent: Option<Position>,
    /// What was recorded is of a stream that is no more, or the stream is read from its beginning:
    /// its time says nothing about what comes.
    is_of_other_stream: bool,
    keeper: CheckpointKeeper,
}

/// Who keeps it.
enum CheckpointKeeper {
    /// The destination commits it with the rows, and fences other processes by it.
    Destination {
        /// What imports contain, by the destination's own record.
        cutover: Cutover,
    },
    /// The destination knows nothing of positions. What was written of a batch cannot be taken
    /// back, so how far a batch goes is recorded before anything of it is written.
    StateFile {
        state: State,
        consumer: String,
        /// How far a batch goes that was begun and is not known to have ended.
        unconfirmed_through: Option<Position>,
        /// A position that could not be saved. Until it is, what is recorded of its batch must stay
        /// as it is: after a crash the batch is written again, and has to end where it ended.
        unsaved: Option<Position>,
    },
}

/// What a checkpoint that was read again says about the batch that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckpointFound {
    /// It is where it was: nothing of the batch counts.
    Unchanged,
    /// It is where the batch ends: the batch was committed, only the answer was lost.
    Committed,
    /// It is elsewhere (restored, failed over).
    Rewound,
}

impl CheckpointStore {
    /// Reads the checkpoint at a start; what imports contain is for [`Self::read_cutover`]. A
    /// destination that keeps it raises its epoch, so that an older process can commit no more.
    /// With `options.restart` an unfinished batch of an earlier process is not repeated.
    pub async fn acquire(
        options: &EngineOptions,
        state: &State,
        destination: &mut dyn Destination,
    ) -> Result<CheckpointStore, Failure> {
        let unreadable = |e: StateError| Failure::unavailable(e.to_string());
        let consumer = &options.consumer;
        if options.abilities.checkpoint_in == CheckpointIn::Destination {
            let recorded = destination.checkpoint(Claim::Acquire).await?;
            let cutover = Cutover::default();
            return Ok(CheckpointStore {
                recorded,
                sent: None,
                is_of_other_stream: options.restart,
                keeper: CheckpointKeeper::Destination { cutover },
            });
        }
        let recorded = state.position(consumer).map_err(unreadable)?;
        let intent = match options.restart {
            true => None,
            false => state.intent(consumer).map_err(unreadable)?,
        };
        let is_beyond = |intent: &Position| !recorded.is_some_and(|at| at.contains(*intent));
        Ok(CheckpointStore {
            recorded,
            sent: None,
            is_of_other_stream: options.restart,
            keeper: CheckpointKeeper::StateFile {
                state: state.clone(),
                consumer: consumer.clone(),
                unconfirmed_through: intent.filter(is_beyond),
                unsaved: None,
            },
        })
    }

    /// What is written from now on is of another stream than what was recorded. Of a batch that was
    /// begun in the former nothing more comes; one that lies before what was recorded was begun in
    /// this one.
    pub fn begin_other_stream(&mut self) {
        self.is_of_other_stream = true;
        let recorded = self.recorded.map_or(0, |recorded| recorded.sequence);
        if let CheckpointKeeper::StateFile { unconfirmed_through, .. } = &mut self.keeper {
            *unconfirmed_through = unconfirmed_through.filter(|begun| begun.sequence <= recorded);
        }
    }

    /// The checkpoint after a batch up to `through`.
    pub fn end_of(&self, through: Position) -> Position {
        match self.sent.or(self.written_through()) {
            Some(before) => before.advanced_to(through),
            None => through,
        }
    }

    /// A batch up to `through` was sent, and is not known to be applied.
    pub fn sent(&mut self, through: Position) {
        self.sent = Some(through);
    }

    /// What was sent is not applied.
    pub fn retract(&mut self) {
        self.sent = None;
    }

    /// The checkpoint that the next batch has to find.
    pub fn predecessor(&self) -> Option<Position> {
        self.sent.or(self.recorded)
    }

    /// The checkpoint as it was last read or written.
    pub fn recorded(&self) -> Option<Position> {
        self.recorded
    }

    /// How far the stream that is read now is written; `None` where nothing of it is, whatever was
    /// recorded of another one or before it was read from its start again.
    pub fn written_through(&self) -> Option<Position> {
        self.recorded.filter(|_| !self.is_of_other_stream)
    }

    /// How far a batch goes of which parts may have been written already; the next batch has to end
    /// there.
    pub fn unconfirmed_through(&self) -> Option<Position> {
        match &self.keeper {
            CheckpointKeeper::Destination { .. } => None,
            CheckpointKeeper::StateFile { unconfirmed_through, .. } => *unconfirmed_through,
        }
    }

    /// What imports contain. `from_start`: the stream is read from its start, so what was applied
    /// before an import is applied again.
    pub fn cutover(&self, from_start: bool) -> Result<Cutover, StateError> {
        let mut cutover = match &self.keeper {
            CheckpointKeeper::Destination { cutover } => cutover.clone(),
            CheckpointKeeper::StateFile { state, consumer, .. } => state.cutovers()?.of(consumer),
        };
        if from_start {
            cutover.applied.clear();
        }
        Ok(cutover)
    }

    /// Reads the checkpoint again, without taking it as known. Fails with `Fenced` where another
    /// process has taken over.
    pub async fn verify(
        &self,
        destination: &mut dyn Destination,
    ) -> Result<Option<Position>, Failure> {
        match &self.keeper {
            CheckpointKeeper::Destination { .. } => destination.checkpoint(Claim::Verify).await,
            CheckpointKeeper::StateFile { .. } => Ok(self.recorded),
        }
    }

    /// The same on a new connection, where an import may have left something to know.
    pub async fn verify_connected(
        &mut self,
        destination: &mut dyn Destination,
    ) -> Result<Option<Position>, Failure> {
        let found = self.verify(destination).await?;
        self.read_cutover(destination).await?;
        Ok(found)
    }

    /// Reads what imports contain, where the destination knows it.
    pub async fn read_cutover(&mut self, destination: &mut dyn Destination) -> Result<(), Failure> {
        if let CheckpointKeeper::Destination { cutover } = &mut self.keeper {
            *cutover = destination.cutover().await?;
        }
        Ok(())
    }

    /// Whether the destination can tell that another process has taken over: only one that keeps
    /// the checkpoint can.
    pub fn has_fence(&self) -> bool {
        matches!(self.keeper, CheckpointKeeper::Destination { .. })
    }

    /// What `found`, read after a try to write a batch up to `through` failed, says about it.
    pub fn compare(&self, found: Option<Position>, through: Position) -> CheckpointFound {
        if found == self.recorded {
            CheckpointFound::Unchanged
        } else if found == Some(through) {
            CheckpointFound::Committed
        } else {
            CheckpointFound::Rewound
        }
    }

    /// Takes `found` as known. Returns whether it is not what was known before.
    pub fn reset(&mut self, found: Option<Position>) -> bool {
        std::mem::replace(&mut self.recorded, found) != found
    }

    /// A batch up to `through` is about to be written. Where what is written cannot be taken back,
    /// this is recorded first: after a crash the batch is repeated with the same end.
    pub fn before_write(&mut self, through: Position) -> Result<(), Failure> {
        let CheckpointKeeper::StateFile { state, consumer, unconfirmed_through, unsaved } =
            &mut self.keeper
        else {
            return Ok(());
        };
        let unavailable = |e: StateError| Failure::unavailable(e.to_string());
        if let Some(position) = *unsaved {
            state.save_position(consumer, position).map_err(unavailable)?;
            *unsaved = None;
        }
        if unconfirmed_through.is_none_or(|unconfirmed| !unconfirmed.contains(through)) {
            state.save_intent(consumer, through).map_err(unavailable)?;
            *unconfirmed_through = Some(through);
        }
        Ok(())
    }

    /// The batch up to `through` is durable.
    pub fn after_commit(&mut self, through: Position) {
        self.recorded = Some(through);
        self.sent = self.sent.filter(|sent| *sent != through);
        self.is_of_other_stream = false;
        if let CheckpointKeeper::StateFile { state, consumer, unconfirmed_through, unsaved } =
            &mut self.keeper
        {
            *unconfirmed_through =
                unconfirmed_through.filter(|unconfirmed| !through.contains(*unconfirmed));
            *unsaved = None;
            // What is written again after a crash has the same names, so a lost position only costs
            // time.
            if let Err(e) = state.save_position(consumer, through) {
                warn!("{e}; after a crash the last batch will be written again");
                *unsaved = Some(through);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: u64) -> Position {
        Position { sequence, time_ns: 0 }
    }

    fn in_state_file(state: &State) -> CheckpointStore {
        CheckpointStore {
            recorded: None,
            sent: None,
            is_of_other_stream: false,
            keeper: CheckpointKeeper::StateFile {
                state: state.clone(),
                consumer: "c".into(),
                unconfirmed_through: None,
                unsaved: None,
            },
        }
    }

    #[test]
    fn no_batch_is_begun_while_the_position_of_the_last_is_not_saved()
    -> Result<(), Box<dyn std::error::Error>> {
        let state = State::in_memory()?;
        let mut store = in_state_file(&state);
        store.before_write(at(4))?;
        state.refuse_writes(true)?;
        store.after_commit(at(4));
        assert!(store.before_write(at(9)).is_err());
        assert_eq!((state.position("c")?, state.intent("c")?), (None, Some(at(4))));
        state.refuse_writes(false)?;
        store.before_write(at(9))?;
        assert_eq!((state.position("c")?, state.intent("c")?), (Some(at(4)), Some(at(9))));
        Ok(())
    }

    #[test]
    fn what_is_about_to_be_written_is_recorded_before_and_confirmed_after()
    -> Result<(), Box<dyn std::error::Error>> {
        let state = State::in_memory()?;
        let mut store = in_state_file(&state);
        store.before_write(at(9))?;
        assert_eq!((state.intent("c")?, store.unconfirmed_through()), (Some(at(9)), Some(at(9))));
        // A part of the same batch is no batch of its own.
        store.before_write(at(4))?;
        store.after_commit(at(4));
        assert_eq!((state.intent("c")?, state.position("c")?), (Some(at(9)), Some(at(4))));
        assert_eq!(store.unconfirmed_through(), Some(at(9)));
        store.before_write(at(9))?;
        store.after_commit(at(9));
        assert_eq!((store.recorded(), store.unconfirmed_through()), (Some(at(9)), None));
        Ok(())
    }

    #[test]
    fn what_was_recorded_of_another_stream_says_nothing_about_this_one()
    -> Result<(), Box<dyn std::error::Error>> {
        let state = State::in_memory()?;
        let mut store = in_state_file(&state);
        store.after_commit(at(1_000));
        store.begin_other_stream();
        assert_eq!((store.recorded(), store.written_through()), (Some(at(1_000)), None));
        store.after_commit(at(7));
        assert_eq!(store.written_through(), Some(at(7)));
        Ok(())
    }

    #[test]
    fn a_checkpoint_that_is_read_again_tells_a_lost_answer_from_a_restore() {
        let keeper = CheckpointKeeper::Destination { cutover: Cutover::default() };
        let mut store = CheckpointStore {
            recorded: Some(at(5)),
            sent: None,
            is_of_other_stream: false,
            keeper,
        };
        for (found, verdict) in [
            (Some(at(5)), CheckpointFound::Unchanged),
            (Some(at(9)), CheckpointFound::Committed),
            (Some(at(3)), CheckpointFound::Rewound),
            (Some(at(12)), CheckpointFound::Rewound),
            (None, CheckpointFound::Rewound),
        ] {
            assert_eq!(store.compare(found, at(9)), verdict, "{found:?}");
        }
        assert!(!store.reset(Some(at(5))));
        assert!(store.reset(None));
        assert_eq!((store.recorded(), store.unconfirmed_through()), (None, None));
    }
}
