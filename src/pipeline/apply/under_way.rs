//! Pending changes on their way: where the destination can take a batch while the one before is
//! under way, the next one is sent behind it, and the answers are awaited later.

use std::sync::Arc;

use tokio::time::Instant;

use super::attempt::{Attempt, Writable};
use super::{Applier, ApplyOutcome, WriteAttempt, answered_since, flushed};
use crate::change::{Batch, Position};
use crate::destination::{CheckpointIn, Failure, FailureKind, Launch, WriteMode};
use crate::pipeline::batcher::PendingBatch;
use crate::pipeline::progress::Progress;

/// A set of pending changes that is being applied.
pub(super) struct Job {
    pub(super) attempt: Attempt,
    /// The tables of changes that lack their schema, each with the version of the first of them.
    pub(super) unresolved: Vec<(String, String)>,
    /// The checkpoint once all of it is applied.
    pub(super) end: Position,
    pub(super) started: Instant,
    events: usize,
    through: Position,
}

impl Job {
    /// All of `pending`, whose changes and messages are those of `attempt`.
    pub(super) fn new(
        attempt: Attempt,
        unresolved: Vec<(String, String)>,
        pending: &PendingBatch,
        end: Position,
    ) -> Job {
        Job {
            attempt,
            unresolved,
            end,
            started: Instant::now(),
            events: pending.events,
            through: pending.through,
        }
    }

    /// What of it is not applied yet.
    pub(super) fn into_rest(self) -> PendingBatch {
        let (changes, dead_letters) = self.attempt.into_rest();
        PendingBatch { changes, dead_letters, events: self.events, through: self.through }
    }

    /// All of it is applied.
    pub(super) fn report(&self, progress: &Progress) {
        let published = self.attempt.published();
        progress.applied(self.events, self.end, self.started.elapsed(), published);
    }
}

/// A job all of which was sent as one batch.
pub(super) struct UnderWay {
    job: Job,
    sent: Writable,
    /// Since when nothing else is waited for.
    since: Instant,
    answer: Option<Result<(), Failure>>,
}

/// What is known of the batch that was sent behind one that failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Behind {
    /// None was.
    #[default]
    Nothing,
    /// It ends here. The connection broke, so both may be applied.
    Maybe(Position),
    /// It is applied, and so is the one that seemed to fail.
    Applied,
}

impl Applier {
    /// Whether a batch is under way.
    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether the answer to the batch under way is there.
    pub fn is_answered(&self) -> bool {
        self.under_way.as_ref().is_some_and(|under_way| under_way.answer.is_some())
    }

    /// Waits for the answer to the batch under way. May be dropped: no answer is lost.
    pub async fn answered(&mut self) {
        let Some(under_way) = &mut self.under_way else { return };
        if under_way.answer.is_none() {
            let answer = match self.link.get() {
                Ok(open) => {
                    let since = under_way.since;
                    let _flushing = self.progress.flush_since(since.into_std());
                    answered_since(&self.progress, since, open.destination.land()).await
                }
                Err(failure) => Err(failure),
            };
            under_way.answer = Some(answer);
        }
    }

    /// Waits for the batch under way, and does whatever it takes until it is applied.
    pub async fn land(&mut self) -> Result<ApplyOutcome, Failure> {
        let Some((former, failed)) = self.former().await else {
            return Ok(ApplyOutcome::Released);
        };
        let end = former.job.end;
        let other = self.conclude(former, failed, None).await?;
        Ok(other.unwrap_or(ApplyOutcome::Applied(end)))
    }

    /// Applies all of the job, behind what is under way.
    pub(super) async fn apply_behind(&mut self, mut job: Job) -> Result<ApplyOutcome, Failure> {
        let (sent, is_broken) = self.launch(&mut job).await;
        let former = self.former().await;
        if is_broken {
            // What of the batch was sent is not known.
            let _ = self.link.close().await;
        }
        let end = match former {
            None => None,
            Some((former, None)) => {
                let end = former.job.end;
                self.conclude(former, None, None).await?;
                Some(end)
            }
            Some((former, Some(failure))) => {
                return self.apply_after(former, failure, (job, sent)).await;
            }
        };
        let Some(sent) = sent else { return self.finish(job, None).await };
        self.under_way = Some(UnderWay { job, sent, since: Instant::now(), answer: None });
        Ok(end.map_or(ApplyOutcome::UnderWay, ApplyOutcome::Applied))
    }

    /// What was under way failed, and with it what was sent behind it: both are applied one after
    /// the other.
    async fn apply_after(
        &mut self,
        former: UnderWay,
        failure: Failure,
        (mut job, sent): (Job, Option<Writable>),
    ) -> Result<ApplyOutcome, Failure> {
        let behind = sent.as_ref().map(|sent| sent.batch.through);
        let other = self.conclude(former, Some(failure), behind).await?;
        if std::mem::take(&mut self.behind) == Behind::Applied {
            return self.finish(job, sent.map(|sent| (sent, WriteAttempt::Found))).await;
        }
        if let Some(sent) = sent {
            job.attempt.narrowing.put_back(sent.piece);
        }
        match other {
            None => self.finish(job, None).await,
            Some(ApplyOutcome::NoRoom(mut rest, durable)) => {
                let mut more = job.into_rest();
                rest.changes.append(&mut more.changes);
                rest.dead_letters.append(&mut more.dead_letters);
                (rest.events, rest.through) = (rest.events + more.events, more.through);
                Ok(ApplyOutcome::NoRoom(rest, durable))
            }
            Some(other) => Ok(other),
        }
    }

    /// Takes what is under way, once its answer is there: why it failed, if it did.
    async fn former(&mut self) -> Option<(UnderWay, Option<Failure>)> {
        self.answered().await;
        let mut former = self.under_way.take()?;
        let failed = former.answer.take().and_then(Result::err);
        Some((former, failed))
    }

    /// What was under way is applied, or is made to be. `behind`: where the batch ends that was
    /// sent behind it. Answers what else came of it, if anything did.
    async fn conclude(
        &mut self,
        former: UnderWay,
        failed: Option<Failure>,
        behind: Option<Position>,
    ) -> Result<Option<ApplyOutcome>, Failure> {
        let UnderWay { mut job, sent, .. } = former;
        let Some(failure) = failed else {
            return self.work_off(job, Some((sent, WriteAttempt::Done)), &mut 0).await;
        };
        self.checkpoint.retract();
        let failure = match self.link.get() {
            Ok(open) => open.destination.explain(failure, &sent.batch).await,
            Err(_) => failure,
        };
        self.behind = match (failure.kind, behind) {
            (FailureKind::Unavailable, Some(end)) => Behind::Maybe(end),
            _ => Behind::Nothing,
        };
        let tried = self.failed(&mut job.attempt, &sent, failure).await?;
        if matches!(self.behind, Behind::Maybe(_)) {
            self.behind = Behind::Nothing;
        }
        self.work_off(job, Some((sent, tried)), &mut 0).await
    }

    /// Sends the whole job as one batch, if it can be. Also answers whether the connection broke.
    async fn launch(&mut self, job: &mut Job) -> (Option<Writable>, bool) {
        let abilities = self.options.abilities;
        let is_of_rows = abilities.checkpoint_in == CheckpointIn::Destination
            && abilities.write_mode == WriteMode::Upsert;
        let is_held = !self.held.is_empty() || !job.unresolved.is_empty();
        if !is_of_rows || is_held || job.attempt.is_to_stop() {
            return (None, false);
        }
        let next = job.attempt.next(abilities.write_mode, &self.checkpoint, &self.held, &self.book);
        let Some(next) = next else { return (None, false) };
        let is_whole = job.attempt.is_last(&next);
        let launched = match is_whole && self.may_launch(&next.batch) {
            true => self.send(&next.batch).await,
            false => Ok(Launch::Declined),
        };
        if let Ok(Launch::UnderWay) = launched {
            self.checkpoint.sent(next.batch.through);
            return (Some(next), false);
        }
        job.attempt.narrowing.put_back(next.piece);
        (None, launched.is_err_and(|failure| failure.kind == FailureKind::Unavailable))
    }

    /// Whether the batch may be sent while another is under way, and another behind it: it writes
    /// rows of tables that are as they have to be, and the checkpoint tells whether it is applied.
    fn may_launch(&mut self, batch: &Batch) -> bool {
        let is_ahead = batch.through.sequence > batch.after.map_or(0, |after| after.sequence);
        let Ok(open) = self.link.get() else { return false };
        let mut schemas = batch.groups.iter().map(|group| &group.schema);
        is_ahead && batch.is_plain() && schemas.all(|schema| open.is_shaped(&self.known, schema))
    }

    /// Sends the batch. Where that fails, whoever applies it by itself finds out why.
    async fn send(&mut self, batch: &Arc<Batch>) -> Result<Launch, Failure> {
        let open = self.link.get()?;
        flushed(&self.progress, open.destination.launch(batch)).await
    }
}
