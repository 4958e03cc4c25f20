//! Connecting anew, and finding out how far the destination came.

use tokio::time::{Instant, sleep};
use tracing::warn;

use super::attempt::{Attempt, Writable};
use super::link::{DestinationLink, OpenDestination};
use super::under_way::Behind;
use super::{Applier, Confirmed, WriteAttempt, answered};
use crate::backoff::Backoff;
use crate::change::Position;
use crate::destination::{Failure, FailureKind};
use crate::pipeline::checkpoint::CheckpointFound;

impl Applier {
    /// After a failure that says nothing about the data: reconnects, and looks how far the
    /// destination came.
    pub(super) async fn recover(
        &mut self,
        failure: &Failure,
        attempt: &mut Attempt,
        next: &Writable,
    ) -> Result<WriteAttempt, Failure> {
        if attempt.backoff.tries().is_multiple_of(20) {
            warn!("the destination failed: {failure}; trying again");
        }
        self.progress.retries(failure);
        let found = self.reconnect(&mut attempt.backoff).await?;
        if attempt.is_of_kept() && found == self.checkpoint.recorded() {
            // What the destination keeps was read again: that says how far the try came.
            if let Some(table) = next.batch.groups.first().map(|group| &*group.schema.table) {
                self.held.postpone(table, Instant::now());
            }
            return Ok(WriteAttempt::Abandoned);
        }
        if found.is_some_and(|at| self.behind == Behind::Maybe(at)) {
            self.behind = Behind::Applied;
            attempt.narrowing.take();
            return Ok(WriteAttempt::Found);
        }
        Ok(match self.checkpoint.compare(found, next.batch.through) {
            CheckpointFound::Unchanged => WriteAttempt::Again,
            CheckpointFound::Committed => {
                attempt.narrowing.take();
                WriteAttempt::Found
            }
            CheckpointFound::Rewound => {
                self.checkpoint.reset(found);
                WriteAttempt::DestinationRewound(found)
            }
        })
    }

    /// Connects until it works. Fails only where another process has taken over.
    pub(super) async fn reconnect(
        &mut self,
        backoff: &mut Backoff,
    ) -> Result<Option<Position>, Failure> {
        // What the old connection says no longer matters, but it ends before its successor begins.
        let _ = self.link.close().await;
        loop {
            sleep(backoff.next(&self.options.consumer)).await;
            let progress = self.progress.clone();
            match answered(&progress, self.connect()).await {
                Ok(found) => {
                    self.progress.reconnected();
                    return Ok(found);
                }
                Err(failure) if failure.kind == FailureKind::Fenced => return Err(failure),
                Err(failure) => {
                    self.progress.failed(&failure);
                    self.progress.retries(&failure);
                    if backoff.tries() < 4 || backoff.tries().is_multiple_of(20) {
                        warn!("no connection to the destination: {failure}; trying again");
                    }
                }
            }
        }
    }

    /// Connects once; the checkpoint as it is found there.
    async fn connect(&mut self) -> Result<Option<Position>, Failure> {
        let mut destination = (self.open)().await?;
        let found = self.checkpoint.verify_connected(&mut *destination).await?;
        let kept = destination.kept().await?;
        self.take_stock(kept);
        self.read_book(&mut *destination).await?;
        let mut opened = OpenDestination::new(destination, &self.options);
        opened.read_tables().await?;
        // A destination that was restored may lack a table for good reasons.
        self.known.there = self.held.were_there();
        self.link = DestinationLink::Up(Box::new(opened));
        Ok(found)
    }

    /// Asks the destination how far it came and whether it is still ours, before the feed is opened
    /// again. Fails only where another process has taken over. May be dropped half way; it then
    /// has to be called again before anything is applied.
    pub async fn confirm(&mut self) -> Result<Confirmed, Failure> {
        let asked = match self.link.get() {
            Ok(open) => {
                answered(&self.progress, self.checkpoint.verify(&mut *open.destination)).await
            }
            Err(failure) => Err(failure),
        };
        let found = match asked {
            Ok(found) if found == self.checkpoint.recorded() => found,
            // What else was read of it is not true any more either.
            Ok(_) => self.reconnect(&mut Backoff::default()).await?,
            Err(failure) if failure.kind == FailureKind::Fenced => return Err(failure),
            Err(_) => self.reconnect(&mut Backoff::default()).await?,
        };
        Ok(match self.checkpoint.reset(found) {
            true => Confirmed::Rewound(found),
            false => Confirmed::AsLeft,
        })
    }
}
