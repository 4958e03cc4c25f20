//! The memory destination behind everything that can go wrong.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use eds::change::dead_letter::{LetterEntry, LetterLabel, RejectKind};
use eds::change::{Batch, Cutover, Position};
use eds::destination::memory::MemoryDestination;
use eds::destination::{
    Claim, Destination, Epoch, Failure, FailureKind, KeptChunk, KeptLetter, Launch, LetterBox,
    Migration, Tables,
};
use tokio::time::sleep;

use super::history::key;
use super::world::{Bug, World, locked};

/// One connection.
pub struct FaultyRows {
    world: Arc<World>,
    inner: MemoryDestination,
    epoch: Epoch,
    restores: u64,
    /// What the planted bug holds back.
    held: Option<Arc<Batch>>,
    under_way: VecDeque<SentBatch>,
}

/// A batch under way, and what came of it, once the server is through with it.
struct SentBatch {
    batch: Arc<Batch>,
    done: Option<Result<(), Failure>>,
}

pub fn broken() -> Failure {
    Failure::unavailable("the connection broke")
}

impl FaultyRows {
    /// A connection of the process that holds `epoch`.
    pub fn open(world: &Arc<World>, epoch: &Epoch) -> FaultyRows {
        FaultyRows {
            inner: MemoryDestination::open(world.store.clone(), epoch.clone()),
            epoch: epoch.clone(),
            restores: world.restores.load(Ordering::Relaxed),
            held: None,
            under_way: VecDeque::new(),
            world: world.clone(),
        }
    }

    fn alive(&self) -> Result<(), Failure> {
        let is_unnoticed = self.world.bug == Bug::RestoreUnnoticed;
        if is_unnoticed || self.restores == self.world.restores.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(broken())
        }
    }

    /// Whether the table cannot be written now.
    fn is_troubled(&self, table: &str) -> bool {
        *locked(&self.world.troubled) == Some(table)
    }

    /// Refuses the row that is refused now: by name, or all of the batch.
    fn refusal(&self, batch: &Batch) -> Option<Failure> {
        let refused = key("b", (*locked(&self.world.refused))?);
        let is_refused = |i: &u32| {
            let change = batch.change(*i);
            &*change.event.table() == "b" && change.key[..] == refused[..]
        };
        let culprit = batch.offered().find(is_refused)?;
        Some(match self.world.draw(2) {
            0 => Failure::rejected(vec![(culprit, "a trigger raises".into())]),
            _ => Failure::new(FailureKind::Rejected, "a trigger raises"),
        })
    }

    /// What the server makes of the batch.
    async fn execute(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        if let Some(group) = batch.groups.iter().find(|g| self.is_troubled(&g.schema.table)) {
            return Err(Failure::new(FailureKind::TableUnavailable, "a lock is held")
                .of_table(&group.schema.table));
        }
        match self.refusal(batch) {
            Some(failure) => Err(failure),
            None => self.commit(batch).await,
        }
    }

    /// The same of the first `count` batches under way.
    async fn execute_through(&mut self, count: usize) {
        let mut is_after_failure = false;
        for i in 0..count.min(self.under_way.len()) {
            let batch = match &self.under_way[i] {
                SentBatch { batch, done: None } => batch.clone(),
                SentBatch { done: Some(done), .. } => {
                    is_after_failure = done.is_err();
                    continue;
                }
            };
            if is_after_failure && self.world.bug == Bug::BehindUnfenced {
                self.world.store.lock().position = batch.after;
            }
            let done = self.execute(&batch).await;
            is_after_failure = done.is_err();
            self.under_way[i].done = Some(done);
        }
    }

    /// The connection breaks. Of what is under way the server is through with some, does some
    /// later, and the rest never.
    async fn breaks(&mut self) -> Result<(), Failure> {
        let all = self.under_way.len() as u64;
        let done = self.world.draw(all + 1);
        if self.alive().is_ok() {
            self.execute_through(done as usize).await;
            let later = self.world.draw(all - done + 1);
            let rest = self.under_way.iter().skip(done as usize).take(later as usize);
            let rest = rest.filter(|sent| sent.done.is_none()).map(|sent| sent.batch.clone());
            let rest: Vec<Arc<Batch>> = rest.collect();
            if self.may_be_late() {
                self.apply_later(rest);
            }
        }
        self.under_way.clear();
        Err(broken())
    }

    /// Whether the server may do something after it has said that the connection broke.
    fn may_be_late(&self) -> bool {
        matches!(self.world.bug, Bug::None | Bug::NoFence)
    }

    fn apply_later(&self, batches: Vec<Arc<Batch>>) {
        let (world, epoch, restores) = (self.world.clone(), self.epoch.clone(), self.restores);
        let late = Duration::from_millis(world.draw(400));
        tokio::spawn(async move {
            sleep(late).await;
            let session_epoch = epoch.clone();
            let mut session = MemoryDestination::open(world.store.clone(), epoch);
            for batch in batches {
                if world.bug == Bug::NoFence {
                    let mut store = world.store.lock();
                    (store.position, store.epoch) = (batch.after, session_epoch.get());
                }
                if restores == world.restores.load(Ordering::Relaxed) {
                    let _ = session.apply(&batch).await;
                }
            }
        });
    }

    /// The batch as one transaction, or as the planted bug would have it.
    async fn commit(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        match self.world.bug {
            Bug::AcknowledgesBeforeApply => {
                if let Some(held) = self.held.replace(batch.clone()) {
                    self.inner.apply(&held).await?;
                }
                Ok(())
            }
            Bug::CheckpointApart => {
                self.world.store.lock().advance(self.epoch.get(), batch)?;
                self.world.step("rows: checkpoint apart").await;
                let mut next = self.world.store.lock().clone();
                next.keep(batch)?;
                batch.groups.iter().try_for_each(|group| next.write(batch, group))?;
                *self.world.store.lock() = next;
                Ok(())
            }
            Bug::NoFence => {
                let mut store = self.world.store.lock();
                let mut next = store.clone();
                next.keep(batch)?;
                batch.groups.iter().try_for_each(|group| next.write(batch, group))?;
                next.position = Some(batch.through);
                *store = next;
                Ok(())
            }
            Bug::DeletesLost => {
                let mut kept = Batch::clone(batch);
                kept.groups.iter_mut().for_each(|group| group.deletes.clear());
                self.inner.apply(&Arc::new(kept)).await
            }
            Bug::HeldLost
            | Bug::EventsLost
            | Bug::ReleasedKept
            | Bug::DeadLettersLost
            | Bug::RetriedKept
            | Bug::SupersededRetried => {
                let mut kept = Batch::clone(batch);
                match self.world.bug {
                    Bug::HeldLost => kept.held.clear(),
                    Bug::EventsLost => kept.held.retain(|chunk| !chunk.label.is_unresolved),
                    Bug::DeadLettersLost => kept.letters.added.clear(),
                    Bug::RetriedKept => kept.letters.retried = None,
                    Bug::SupersededRetried => kept.letters.superseded.clear(),
                    _ => kept.release = None,
                }
                self.inner.apply(&Arc::new(kept)).await
            }
            Bug::RestoreUnnoticed => {
                // The checkpoint is taken for what this process wrote last.
                self.world.store.lock().position = batch.after;
                self.inner.apply(batch).await
            }
            _ => self.inner.apply(batch).await,
        }
    }
}

#[async_trait]
impl Destination for FaultyRows {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        self.world.note(|| {
            let offered = batch.offered().map(|i| batch.change(i).position.sequence);
            let (through, offered) = (batch.through.sequence, offered.collect::<Vec<_>>());
            let (held, release) = (batch.held.len(), batch.release);
            let added = batch.letters.added.iter().map(|l| (l.number, l.letter.position.sequence));
            let (added, superseded) = (added.collect::<Vec<_>>(), &batch.letters.superseded);
            let letters = format!("letters {added:?} made, {superseded:?} superseded");
            format!(
                "writes rows through {through}: {offered:?}, holds {held}, {release:?}, {letters}"
            )
        });
        self.world.step("rows: apply").await;
        self.alive()?;
        // Refused before the work.
        if self.world.chance(12) {
            return Err(broken());
        }
        // Reported as failed, and done later, while the next try may be under way.
        if self.world.chance(30) && self.may_be_late() {
            self.apply_later(vec![batch.clone()]);
            return Err(broken());
        }
        let done = self.execute(batch).await;
        self.world.step("rows: applied").await;
        // Done, and then reported as failed.
        if done.is_ok() && self.world.chance(12) {
            return Err(broken());
        }
        // The answer comes late.
        if self.world.chance(20) {
            sleep(Duration::from_secs(self.world.draw(90))).await;
        }
        done
    }

    async fn launch(&mut self, batch: &Arc<Batch>) -> Result<Launch, Failure> {
        self.world.note(|| {
            let (after, through) = (batch.after.map(|p| p.sequence), batch.through.sequence);
            format!("sends rows through {through}, after {after:?}")
        });
        self.world.step("rows: launch").await;
        self.alive()?;
        match self.world.draw(8) {
            0 => return Ok(Launch::Declined),
            1 => return Err(broken()),
            _ => self.under_way.push_back(SentBatch { batch: batch.clone(), done: None }),
        }
        // The server may be through with all of them, or with none.
        if self.world.chance(3) {
            self.execute_through(self.under_way.len()).await;
        }
        Ok(Launch::UnderWay)
    }

    async fn land(&mut self) -> Result<(), Failure> {
        self.world.step("rows: land").await;
        if self.alive().is_err() || self.world.chance(12) {
            return self.breaks().await;
        }
        self.execute_through(1).await;
        self.world.step("rows: landed").await;
        if self.world.chance(20) {
            sleep(Duration::from_secs(self.world.draw(90))).await;
        }
        let sent = self.under_way.pop_front();
        let Some(done) = sent.and_then(|sent| sent.done) else { return Err(broken()) };
        if done.is_err() {
            // Those behind it are asked for their answers, too.
            self.execute_through(self.under_way.len()).await;
            self.under_way.clear();
        }
        done
    }

    async fn checkpoint(&mut self, claim: Claim) -> Result<Option<Position>, Failure> {
        self.world.step("rows: checkpoint").await;
        self.alive()?;
        if claim == Claim::Verify && self.world.chance(8) {
            return Err(broken());
        }
        let found = self.inner.checkpoint(claim).await;
        self.world.step("rows: checkpoint read").await;
        found
    }

    async fn cutover(&mut self) -> Result<Cutover, Failure> {
        self.world.step("rows: cutover").await;
        self.alive()?;
        self.inner.cutover().await
    }

    async fn kept(&mut self) -> Result<Vec<KeptChunk>, Failure> {
        self.world.step("rows: kept").await;
        self.alive()?;
        self.inner.kept().await
    }

    async fn kept_body(&mut self, number: u64) -> Result<Option<String>, Failure> {
        self.world.step("rows: kept body").await;
        self.alive()?;
        if self.world.chance(12) {
            return Err(broken());
        }
        self.inner.kept_body(number).await
    }

    fn letter_box(&mut self) -> Option<&mut dyn LetterBox> {
        Some(self)
    }

    async fn tables(&mut self) -> Result<Tables, Failure> {
        self.world.step("rows: tables").await;
        self.alive()?;
        self.inner.tables().await
    }

    async fn migrate(&mut self, step: &Migration) -> Result<(), Failure> {
        self.world.step("rows: migrate").await;
        self.alive()?;
        if self.is_troubled(step.table()) {
            return Err(Failure::new(FailureKind::TableUnavailable, "a right is missing")
                .of_table(step.table()));
        }
        self.inner.migrate(step).await
    }

    async fn close(self: Box<Self>) -> Result<(), Failure> {
        self.world.step("rows: close").await;
        Ok(())
    }
}

#[async_trait]
impl LetterBox for FaultyRows {
    async fn entries(&mut self, consumer: &str) -> Result<Vec<LetterEntry>, Failure> {
        self.world.step("rows: letter entries").await;
        self.alive()?;
        self.inner.entries(consumer).await
    }

    async fn letters(&mut self) -> Result<Vec<KeptLetter>, Failure> {
        self.world.step("rows: letters").await;
        self.alive()?;
        self.inner.letters().await
    }

    async fn of_kind(
        &mut self,
        consumer: &str,
        kind: RejectKind,
    ) -> Result<Vec<LetterLabel>, Failure> {
        self.world.step("rows: letters of a kind").await;
        self.alive()?;
        self.inner.of_kind(consumer, kind).await
    }

    async fn letter(
        &mut self,
        consumer: &str,
        number: u64,
    ) -> Result<Option<(KeptLetter, Bytes)>, Failure> {
        self.world.step("rows: letter").await;
        self.alive()?;
        if self.world.chance(12) {
            return Err(broken());
        }
        self.inner.letter(consumer, number).await
    }

    async fn drop_letters(&mut self, consumer: &str, numbers: &[u64]) -> Result<(), Failure> {
        self.world.step("rows: drop letters").await;
        self.alive()?;
        self.world.note(|| format!("drops letters {numbers:?}"));
        self.inner.drop_letters(consumer, numbers).await
    }
}
