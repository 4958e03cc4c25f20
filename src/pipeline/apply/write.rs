//! One try to write a piece: what is done about its failure, and about its success.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::{Instant, sleep};
use tracing::warn;

use super::attempt::{Attempt, Writable};
use super::letters::LetterRoom;
use super::rejects::Rejected;
use super::release::Released;
use super::remedy::{Remedy, Tried, remedy};
use super::{Applier, WriteAttempt, answered, flushed};
use crate::backoff::RETRY_WAITS;
use crate::change::Batch;
use crate::destination::{CheckpointIn, Failure};

impl Applier {
    /// Tries to write what is next, once there is room for what is kept of it.
    pub(super) async fn try_where_room_is(
        &mut self,
        attempt: &mut Attempt,
        next: &Writable,
    ) -> Result<WriteAttempt, Failure> {
        if !self.book.has_room(&next.batch.letters.added, self.options.letters.limits) {
            attempt.narrowing.put_back(next.piece);
            return Ok(match self.make_letter_room().await? {
                LetterRoom::Made => WriteAttempt::Again,
                LetterRoom::Wanting => WriteAttempt::NoRoom,
                LetterRoom::Rewound(position) => WriteAttempt::DestinationRewound(position),
            });
        }
        if self.has_room(&next.batch) {
            return self.try_once(attempt, next).await;
        }
        attempt.narrowing.put_back(next.piece);
        // Only whoever resolves events can make room of them.
        if self.held.unresolved().next().is_some() {
            self.report_full();
            return Ok(WriteAttempt::NoRoom);
        }
        Ok(match self.make_room().await? {
            Released::Rewound(position) => WriteAttempt::DestinationRewound(position),
            Released::Tried | Released::Nothing | Released::Events(..) => WriteAttempt::Again,
        })
    }

    /// Tries to write what is next.
    pub(super) async fn try_once(
        &mut self,
        attempt: &mut Attempt,
        next: &Writable,
    ) -> Result<WriteAttempt, Failure> {
        match self.write(&next.batch).await {
            Ok(()) => Ok(WriteAttempt::Done),
            Err(failure) => self.failed(attempt, next, failure).await,
        }
    }

    /// Does about a failure to write `next` what [`remedy`] says.
    pub(super) async fn failed(
        &mut self,
        attempt: &mut Attempt,
        next: &Writable,
        failure: Failure,
    ) -> Result<WriteAttempt, Failure> {
        self.progress.failed(&failure);
        let tried = Tried {
            may_hold: self.may_hold() && !next.batch.groups.is_empty(),
            reshaped: attempt.reshaped,
            changes: attempt.narrowing.remaining(next.piece),
        };
        match remedy(&failure, tried) {
            Remedy::GiveUp => Err(failure),
            Remedy::ReadTables => {
                attempt.reshaped = true;
                attempt.narrowing.put_back(next.piece);
                match self.read_again(&next.batch).await {
                    Ok(()) => Ok(WriteAttempt::Again),
                    Err(failure) => self.recover(&failure, attempt, next).await,
                }
            }
            Remedy::Narrow => self.narrow(attempt, next, failure).await,
            // A letter is no reason to hold a table whose changes can be written.
            Remedy::Hold if attempt.is_of_letter() => Ok(match failure.code {
                Some(_) => WriteAttempt::NotNow(failure.text),
                None => WriteAttempt::Refused(failure.text),
            }),
            Remedy::Hold => {
                attempt.narrowing.put_back(next.piece);
                Ok(self.hold_and_go_on(&failure, attempt, next))
            }
            Remedy::Reconnect => {
                attempt.narrowing.put_back(next.piece);
                self.recover(&failure, attempt, next).await
            }
        }
    }

    /// Holds the table that the failure names; where the batch does not write that one, those that
    /// it writes: a foreign key that is checked at COMMIT names the other table. What is kept
    /// already stays where it is.
    fn hold_and_go_on(
        &mut self,
        failure: &Failure,
        attempt: &mut Attempt,
        next: &Writable,
    ) -> WriteAttempt {
        let written = next.batch.groups.iter().map(|group| &*group.schema.table);
        let is_written = written.clone().any(|table| Some(table) == failure.table.as_deref());
        match is_written {
            true => self.hold(failure),
            false => written.for_each(|table| {
                self.hold(&Failure { table: Some(table.into()), ..failure.clone() });
            }),
        }
        attempt.reshaped = false;
        match attempt.is_of_kept() {
            true => {
                let tried = attempt.narrowing.remaining(next.piece);
                for group in &next.batch.groups {
                    self.held.not_released(&group.schema.table, tried, Instant::now());
                }
                WriteAttempt::Abandoned
            }
            false => WriteAttempt::Again,
        }
    }

    async fn write(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let open = self.link.get()?;
        open.prepare(&mut self.checkpoint, &mut self.known, batch).await?;
        match self.options.abilities.checkpoint_in {
            CheckpointIn::Destination => {
                flushed(&self.progress, open.destination.apply(batch)).await
            }
            CheckpointIn::StateFile => {
                self.save_letters(batch)?;
                self.write_with_state(batch).await
            }
        }
    }

    /// Reads the tables of the batch, which may have changed.
    async fn read_again(&mut self, batch: &Batch) -> Result<(), Failure> {
        let tables: Vec<&str> = batch.groups.iter().map(|group| &*group.schema.table).collect();
        answered(&self.progress, self.link.get()?.read_again(&tables)).await
    }

    /// The piece is durable, as this try wrote it or was found.
    pub(super) fn done(&mut self, batch: &Batch, how: &WriteAttempt) {
        if batch.release.is_none() && batch.letters.retried.is_none() {
            self.checkpoint.after_commit(batch.through);
        }
        if matches!(how, WriteAttempt::Found) {
            self.held.found(&batch.held);
            self.letters_found(&batch.letters);
        } else {
            self.held.kept(&batch.held);
            self.letters_committed(&batch.letters);
        }
        if !batch.held.is_empty() {
            self.report_held();
        }
        for group in &batch.groups {
            self.rejects.stored(&group.schema.table);
        }
        for (_, change) in batch.ordered() {
            self.rejects.stored(&change.event.table());
        }
        self.progress.wrote(batch);
    }

    /// Makes dead letters of the rejected changes of the piece, or halves it where they are not
    /// known yet. A table of which too many in a row are rejected is held.
    async fn narrow(
        &mut self,
        attempt: &mut Attempt,
        next: &Writable,
        failure: Failure,
    ) -> Result<WriteAttempt, Failure> {
        let mut known = attempt.narrowing.reject(next.piece, failure.culprits, &failure.text);
        if known.is_empty() {
            return Ok(WriteAttempt::Again);
        }
        if attempt.is_of_letter() {
            let why = known.into_values().next().unwrap_or_default();
            return Ok(WriteAttempt::Refused(why));
        }
        let rejected: Vec<u32> = known.keys().map(|index| *index as u32).collect();
        let all: BTreeSet<u32> = next.batch.offered().chain(rejected).collect();
        for index in all {
            let Some(change) = next.batch.get(index) else { continue };
            let Some(reason) = known.remove(&(index as usize)) else {
                self.rejects.not_rejected(change);
                continue;
            };
            match self.rejects.reject(change, reason) {
                Rejected::DeadLetter(letter) => match self.why_stop(&letter) {
                    Some(why) if attempt.is_of_kept() => return Err(why),
                    Some(why) => {
                        attempt.end_before(index as usize, why, &self.checkpoint);
                        return Ok(WriteAttempt::Again);
                    }
                    None => attempt.dead_letter(index as usize, letter),
                },
                Rejected::TooMany(failure) if self.may_hold() => {
                    return Ok(self.hold_and_go_on(&failure, attempt, next));
                }
                Rejected::TooMany(failure) => {
                    self.progress.retries(&failure);
                    warn!("{failure}");
                    sleep(RETRY_WAITS.longest).await;
                    return Ok(WriteAttempt::Again);
                }
            }
        }
        Ok(WriteAttempt::Again)
    }
}
