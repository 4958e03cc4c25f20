//! The checkpoint of a SQL destination: a row of `_eds_checkpoint` for each consumer, which is also
//! the fence between two processes.

use super::connection::{Connection, Fence, Parameter, SessionTag};
use super::destination::SqlDestination;
use super::render::{CHECKPOINT, FORMAT};
use crate::change::{Batch, Position};
use crate::destination::{Claim, Failure, FailureKind, Recorded};

/// How often a checkpoint that changes meanwhile is read before taking it is given up.
const TAKE_TRIES_MAX: u32 = 10;

/// What the row of a consumer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CheckpointRow {
    pub(super) epoch: i64,
    /// `None` where nothing was applied yet.
    pub(super) position: Option<Position>,
}

impl CheckpointRow {
    /// The sequence as the row has it: 0 where nothing was applied yet.
    fn sequence(self) -> i64 {
        self.position.map_or(0, |position| position.sequence as i64)
    }
}

/// What is done to a checkpoint that another process may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Takeover {
    /// This process raises the epoch and streams on from the position.
    Acquire,
    /// An import raises the epoch and resets the position.
    SetBack,
}

/// A COMMIT that reported success and committed nothing. The caller must re-read the checkpoint.
pub(super) fn void_commit() -> Failure {
    Failure::unavailable("another session ended the transaction before it was committed")
}

fn changes_too_fast(consumer: &str) -> Failure {
    Failure::unavailable(format!(
        "the checkpoint of {consumer} changes faster than it can be taken"
    ))
}

impl<C: Connection> SqlDestination<C> {
    /// The checkpoints of all consumers.
    pub(super) async fn read_records(&mut self) -> Result<Vec<Recorded>, Failure> {
        let mut records = Vec::new();
        for row in self.connection.texts(&self.renderer.read_records(), &[]).await? {
            let Ok([consumer, companies]) = <[String; 2]>::try_from(row) else { continue };
            let found = self.read_checkpoint_of(&consumer).await?;
            let position = found.and_then(|row| row.position);
            records.push(Recorded { consumer, position, companies });
        }
        Ok(records)
    }

    /// This consumer's row, if it has one.
    async fn read_checkpoint(&mut self) -> Result<Option<CheckpointRow>, Failure> {
        let consumer = self.consumer.clone();
        self.read_checkpoint_of(&consumer).await
    }

    /// The row of `consumer`, if it has one.
    async fn read_checkpoint_of(
        &mut self,
        consumer: &str,
    ) -> Result<Option<CheckpointRow>, Failure> {
        let rows =
            self.connection.integers(&self.renderer.read_checkpoint(), &[consumer.into()]).await?;
        let Some([epoch, sequence, time_ns, format]) = rows.first().map(Vec::as_slice) else {
            return Ok(None);
        };
        if *format > FORMAT {
            let text = format!(
                "the tables _eds_* in the destination were written by a newer EDS (format \
                 {format}; this one knows {FORMAT}): install that version again"
            );
            return Err(Failure::misconfigured(text));
        }
        let position =
            (*sequence > 0).then_some(Position { sequence: *sequence as u64, time_ns: *time_ns });
        Ok(Some(CheckpointRow { epoch: *epoch, position }))
    }

    /// Acquires or verifies the epoch, and answers the recorded position.
    pub(super) async fn claim(&mut self, claim: Claim) -> Result<Option<Position>, Failure> {
        match claim {
            Claim::Acquire => {
                self.make_own_tables().await?;
                self.acquire().await
            }
            Claim::Verify => self.verify().await,
        }
    }

    /// The recorded position, once nothing of this process is about to move it: an earlier session
    /// is ended, and an update that changes nothing waits for what it may be committing.
    async fn verify(&mut self) -> Result<Option<Position>, Failure> {
        let (mine, mut before) = (self.epoch.get(), None);
        for _ in 0..TAKE_TRIES_MAX {
            let row = match self.read_checkpoint().await? {
                Some(row) if row.epoch == mine => row,
                Some(row) if row.epoch > mine => return Err(self.taken_over(row.epoch)),
                // The destination was restored to a time before this process acquired its epoch,
                // or its tables were recreated.
                _ => {
                    self.make_own_tables().await?;
                    return self.acquire().await;
                }
            };
            if before == Some(row) {
                return Ok(row.position);
            }
            if before.is_none() {
                self.connection.terminate_sessions(self.session_tag(mine)).await?;
                self.connection.tag_session(self.session_tag(mine)).await?;
            }
            let (companies, consumer) = (self.companies.as_str(), self.consumer.as_str());
            let (mine, sequence) = (Parameter::from(mine), Parameter::from(row.sequence()));
            let parameters = [mine.clone(), companies.into(), consumer.into(), mine, sequence];
            // How many rows it changes says nothing: MySQL counts none.
            self.connection.change(&self.renderer.take_checkpoint(), &parameters).await?;
            before = Some(row);
        }
        Err(changes_too_fast(&self.consumer))
    }

    fn taken_over(&self, epoch: i64) -> Failure {
        let text = format!(
            "another EDS has taken over {} in this destination, or an import has replaced its \
             tables (its epoch is {epoch}, ours was {}): this one ends",
            self.consumer,
            self.epoch.get()
        );
        Failure::new(FailureKind::Fenced, text)
    }

    /// Raises the epoch above the recorded one and above the one that this process held.
    async fn acquire(&mut self) -> Result<Option<Position>, Failure> {
        let consumer = self.consumer.clone();
        let found = self.take_over(&consumer, Takeover::Acquire).await?;
        let mine = self.next_epoch(found);
        self.epoch.set(mine);
        self.connection.tag_session(self.session_tag(mine)).await?;
        Ok(found.and_then(|row| row.position))
    }

    /// The epoch that this process acquires where it has found this row.
    fn next_epoch(&self, found: Option<CheckpointRow>) -> i64 {
        found.map_or(0, |row| row.epoch).max(self.epoch.get()) + 1
    }

    /// Changes the checkpoint of `consumer` if it is still as it was read, because an older process
    /// may commit until then, and tries again where it is not. Answers the row as it was.
    pub(super) async fn take_over(
        &mut self,
        consumer: &str,
        takeover: Takeover,
    ) -> Result<Option<CheckpointRow>, Failure> {
        let mut failure = changes_too_fast(consumer);
        for _ in 0..TAKE_TRIES_MAX {
            let found = self.read_checkpoint_of(consumer).await?;
            if takeover == Takeover::Acquire {
                let epoch = found.map_or(0, |row| row.epoch);
                self.connection.terminate_sessions(self.session_tag(epoch)).await?;
            }
            let Some((sql, parameters)) = self.takeover_sql(consumer, takeover, found) else {
                return Ok(None);
            };
            match self.connection.change(&sql, &parameters).await {
                Ok(1) => return Ok(found),
                Ok(_) => {}
                // Another process has inserted the first checkpoint meanwhile.
                Err(rejected) if rejected.kind == FailureKind::Rejected && found.is_none() => {
                    failure = rejected;
                }
                Err(other) => return Err(other),
            }
        }
        Err(failure)
    }

    /// The statement of a takeover; `None` where there is nothing to set back.
    fn takeover_sql(
        &self,
        consumer: &str,
        takeover: Takeover,
        found: Option<CheckpointRow>,
    ) -> Option<(String, Vec<Parameter>)> {
        let consumer = Parameter::from(consumer);
        let mine = Parameter::from(self.next_epoch(found));
        let companies = Parameter::from(self.companies.as_str());
        match (takeover, found) {
            (Takeover::Acquire, None) => {
                Some((self.renderer.insert_checkpoint(), vec![consumer, mine, companies]))
            }
            (Takeover::Acquire, Some(row)) => Some((
                self.renderer.take_checkpoint(),
                vec![mine, companies, consumer, row.epoch.into(), row.sequence().into()],
            )),
            (Takeover::SetBack, Some(row)) => Some((
                self.renderer.set_back_checkpoint(),
                vec![consumer, row.epoch.into(), row.sequence().into()],
            )),
            (Takeover::SetBack, None) => None,
        }
    }

    /// The update that moves the checkpoint to the end of the batch, if it is still as this process
    /// left it.
    pub(super) fn fence(&self, batch: &Batch) -> Fence {
        self.fence_to(batch.through, batch.after)
    }

    /// The fence that moves the checkpoint from `after` to `through`.
    pub(super) fn fence_to(&self, through: Position, after: Option<Position>) -> Fence {
        let parameters = [
            (through.sequence as i64).into(),
            through.time_ns.into(),
            self.consumer.as_str().into(),
            self.epoch.get().into(),
            (after.map_or(0, |p| p.sequence) as i64).into(),
        ];
        Fence { sql: self.renderer.advance_checkpoint(), parameters }
    }

    /// After a COMMIT that may be void: whether the checkpoint is where the batch ends, and what it
    /// released is not kept any more.
    pub(super) async fn confirm(&mut self, batch: &Batch) -> Result<(), Failure> {
        if !self.renderer.dialect.commit_may_be_void {
            return Ok(());
        }
        if let Some(release) = batch.release {
            return self.confirm_release(release).await;
        }
        if let Some((letter, _)) = batch.letters.retried {
            return self.confirm_retried(letter).await;
        }
        match self.read_checkpoint().await?.and_then(|row| row.position) {
            found if found.unwrap_or_default() == batch.through => Ok(()),
            _ => Err(void_commit()),
        }
    }

    fn session_tag(&self, epoch: i64) -> SessionTag {
        SessionTag::of(&self.renderer.table(CHECKPOINT), &self.consumer, epoch)
    }
}
