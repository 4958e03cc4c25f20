//! The checkpoint of a SQL destination: a row of `_eds_checkpoint` for each consumer, which is also
//! the fence between two processes.

use super::connection::{Connection, Fence, Parameter, SessionTag};
use super::destination::SqlDestination;
use super::render::{CHECKPOINT, FORMAT};
use crate::change::{Batch, Position};
use crate::destination::{Claim, Failure, FailureKind, Recorded};

/// How often a checkpoint that changes meanwhile is read before acquiring it is given up.
const ACQUIRE_TRIES_MAX: u32 = 10;

/// A COMMIT that reported success and committed nothing. The caller must re-read the checkpoint.
pub(super) fn void_commit() -> Failure {
    Failure::unavailable("another session ended the transaction before it was committed")
}

impl<C: Connection> SqlDestination<C> {
    /// The checkpoints of all consumers.
    pub(super) async fn read_records(&mut self) -> Result<Vec<Recorded>, Failure> {
        let mut records = Vec::new();
        for row in self.connection.texts(&self.renderer.read_records(), &[]).await? {
            let [consumer, companies] = row.as_slice() else { continue };
            let position =
                self.read_checkpoint_of(consumer).await?.and_then(|(_, position)| position);
            records.push(Recorded {
                consumer: consumer.clone(),
                position,
                companies: companies.clone(),
            });
        }
        Ok(records)
    }

    /// Epoch and position of this consumer, if it has a row.
    async fn read_checkpoint(&mut self) -> Result<Option<(i64, Option<Position>)>, Failure> {
        let consumer = self.consumer.clone();
        self.read_checkpoint_of(&consumer).await
    }

    /// Epoch and position of `consumer`, if it has a row.
    pub(super) async fn read_checkpoint_of(
        &mut self,
        consumer: &str,
    ) -> Result<Option<(i64, Option<Position>)>, Failure> {
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
        Ok(Some((*epoch, position)))
    }

    /// Acquires or verifies the epoch, and answers the recorded position.
    pub(super) async fn claim(&mut self, claim: Claim) -> Result<Option<Position>, Failure> {
        match claim {
            Claim::Acquire => {
                self.make_own_tables().await?;
                self.acquire().await
            }
            Claim::Verify => match self.read_checkpoint().await? {
                Some((epoch, _)) if epoch == self.epoch.get() => {
                    // An earlier session of this process may still be committing: it is ended
                    // before the position is read.
                    self.connection.terminate_sessions(self.session_tag(epoch)).await?;
                    self.connection.tag_session(self.session_tag(epoch)).await?;
                    Ok(self.read_checkpoint().await?.and_then(|(_, position)| position))
                }
                Some((epoch, _)) if epoch > self.epoch.get() => {
                    let text = format!(
                        "another EDS has taken over {} in this destination, or an import has \
                         replaced its tables (its epoch is {epoch}, ours was {}): this one ends",
                        self.consumer,
                        self.epoch.get()
                    );
                    Err(Failure::new(FailureKind::Fenced, text))
                }
                // The destination was restored to a time before this process acquired its epoch,
                // or its tables were recreated.
                _ => {
                    self.make_own_tables().await?;
                    self.acquire().await
                }
            },
        }
    }

    /// Raises the epoch above the recorded one and above the one that this process held, if the
    /// checkpoint is still as it was read: an older process may commit until then.
    async fn acquire(&mut self) -> Result<Option<Position>, Failure> {
        let mut failure = Failure::unavailable(format!(
            "the checkpoint of {} changes faster than it can be taken",
            self.consumer
        ));
        for _ in 0..ACQUIRE_TRIES_MAX {
            let found = self.read_checkpoint().await?;
            let (epoch, position) = found.unwrap_or_default();
            let mine = epoch.max(self.epoch.get()) + 1;
            let (consumer, companies) =
                (Parameter::from(self.consumer.as_str()), Parameter::from(self.companies.as_str()));
            self.connection.terminate_sessions(self.session_tag(epoch)).await?;
            let sequence = position.map_or(0, |p| p.sequence as i64);
            let (sql, parameters) = match found {
                None => (self.renderer.insert_checkpoint(), vec![consumer, mine.into(), companies]),
                Some(_) => (
                    self.renderer.take_checkpoint(),
                    vec![mine.into(), companies, consumer, epoch.into(), sequence.into()],
                ),
            };
            match self.connection.change(&sql, &parameters).await {
                Ok(1) => {
                    self.epoch.set(mine);
                    self.connection.tag_session(self.session_tag(mine)).await?;
                    return Ok(position);
                }
                Ok(_) => {}
                // Another process has inserted the first checkpoint meanwhile.
                Err(rejected) if rejected.kind == FailureKind::Rejected => failure = rejected,
                Err(other) => return Err(other),
            }
        }
        Err(failure)
    }

    /// The update that moves the checkpoint to the end of the batch, if it is still as this process
    /// left it.
    pub(super) fn fence(&self, batch: &Batch) -> Fence {
        let parameters = [
            (batch.through.sequence as i64).into(),
            batch.through.time_ns.into(),
            self.consumer.as_str().into(),
            self.epoch.get().into(),
            (batch.after.map_or(0, |p| p.sequence) as i64).into(),
        ];
        Fence { sql: self.renderer.advance_checkpoint(), parameters }
    }

    /// After a COMMIT that may be void: whether the checkpoint has moved to `through`.
    pub(super) async fn confirm(&mut self, through: Position) -> Result<(), Failure> {
        if !self.renderer.dialect.commit_may_be_void
            || self.read_checkpoint().await?.and_then(|(_, position)| position) == Some(through)
        {
            return Ok(());
        }
        Err(void_commit())
    }

    fn session_tag(&self, epoch: i64) -> SessionTag {
        SessionTag::of(&self.renderer.table(CHECKPOINT), &self.consumer, epoch)
    }
}
