//! The destination's side of the engine: tables first, then rows; what fails is retried, narrowed
//! down or becomes a dead letter.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::batcher::PendingBatch;
use super::dead_letter::{DeadLetter, DeadLetters};
use super::progress::Progress;
use super::{Adoption, EngineOptions, migrate};
use crate::backoff::Backoff;
use crate::change::{Batch, Change, Cutover, Position, TableSchema, compact};
use crate::destination::{
    CheckpointIn, Claim, Destination, Failure, FailureKind, Recorded, SchemaMode, Tables, WriteMode,
};
use crate::state::{State, StateError};

/// Connects to the destination; called again after each failure.
pub type Open = Box<dyn Fn() -> BoxFuture<'static, Result<Box<dyn Destination>, Failure>> + Send>;

/// Changes of one table refused one after the other, with none stored in between, after which it is
/// no longer taken for bad data but for an outage: no more of them become dead letters.
pub const REFUSED_RUN_MAX: u32 = 1_000;

/// What came of a piece of the stream.
#[derive(Debug)]
pub enum ApplyOutcome {
    /// It is durable up to here.
    Applied(Position),
    /// The destination is not where it was left (restored, failed over): open the feed there.
    DestinationRewound(Option<Position>),
}

pub struct Applier {
    open: Open,
    options: EngineOptions,
    destination: Option<Box<dyn Destination>>,
    /// The checkpoint as the destination has it.
    recorded: Option<Position>,
    /// How far tries may have come whose end is not known; of destinations that keep no checkpoint.
    unconfirmed_through: Option<Position>,
    /// What was recorded of all consumers before this one took its checkpoint.
    records: Vec<Recorded>,
    /// What imports contain, as the destination has it.
    cutover: Cutover,
    tables: Tables,
    adopted: Vec<String>,
    dead_letters: DeadLetters,
    state: State,
    progress: Arc<Progress>,
    refusals: HashMap<String, Refusals>,
}

/// Changes of one table that were refused one after the other.
#[derive(Default)]
struct Refusals {
    count: u32,
    /// Where the last of them is.
    last: Position,
}

/// A piece of the gathered changes that is still to be done: indices, end exclusive.
type ChangeRange = (usize, usize);

/// What one try to apply a piece came to.
enum WriteAttempt {
    Done,
    /// Try what is on the stack again.
    Again,
    DestinationRewound(Option<Position>),
}

impl Applier {
    /// Connects, takes the fence, makes the tables of `schemas`. Fails at once where something is
    /// missing or wrong: whoever starts a program wants to know.
    pub async fn start(
        open: Open,
        options: EngineOptions,
        dead_letters: DeadLetters,
        state: State,
        progress: Arc<Progress>,
        schemas: &[Arc<TableSchema>],
    ) -> Result<Applier, Failure> {
        let mut destination = open().await?;
        let records = destination.records().await?;
        let recorded = match options.abilities.checkpoint_in {
            CheckpointIn::Destination => destination.checkpoint(Claim::Acquire).await?,
            CheckpointIn::StateFile => state
                .position(&options.consumer)
                .map_err(|e| Failure::unavailable(e.to_string()))?,
        };
        let unconfirmed = match options.abilities.checkpoint_in {
            CheckpointIn::StateFile if !options.restart => {
                state.intent(&options.consumer).map_err(|e| Failure::unavailable(e.to_string()))?
            }
            _ => None,
        };
        let cutover = destination.cutover().await?;
        let adopted = options.adopt.clone();
        let mut applier = Applier {
            open,
            options,
            destination: Some(destination),
            recorded,
            unconfirmed_through: unconfirmed.filter(|unconfirmed| {
                !recorded.is_some_and(|recorded| recorded.contains(*unconfirmed))
            }),
            records,
            cutover,
            tables: Tables::default(),
            adopted,
            dead_letters,
            state,
            progress,
            refusals: HashMap::new(),
        };
        if applier.follows()
            && let Err(failure) = applier.shape_all(schemas).await
        {
            return Err(applier.replaced().await.unwrap_or(failure));
        }
        Ok(applier)
    }

    async fn shape_all(&mut self, schemas: &[Arc<TableSchema>]) -> Result<(), Failure> {
        self.read_tables().await?;
        let wanted: Vec<_> =
            schemas.iter().filter(|s| self.options.filter.takes(&s.table)).cloned().collect();
        self.shape(wanted.iter()).await
    }

    /// Whether a start failed because another process, which started at the same time, has ended
    /// this one's session.
    async fn replaced(&mut self) -> Option<Failure> {
        if self.options.abilities.checkpoint_in != CheckpointIn::Destination {
            return None;
        }
        let mut destination = (self.open)().await.ok()?;
        destination
            .checkpoint(Claim::Verify)
            .await
            .err()
            .filter(|failure| failure.kind == FailureKind::Fenced)
    }

    fn follows(&self) -> bool {
        self.options.abilities.schema_mode == SchemaMode::Managed
    }

    /// What imports contain: by the destination's record, or by the state file's. From the start of
    /// the stream on, what was applied before an import is applied again.
    pub fn cutover(&self, from_start: bool) -> Result<Cutover, StateError> {
        let mut cutover = match self.options.abilities.checkpoint_in {
            CheckpointIn::Destination => self.cutover.clone(),
            CheckpointIn::StateFile => self.state.cutovers()?.of(&self.options.consumer),
        };
        if from_start {
            cutover.applied.clear();
        }
        Ok(cutover)
    }

    /// Where this consumer begins, as far as another one's checkpoint says; for where nothing else
    /// is known.
    pub fn adopted(&self) -> Result<Option<Position>, Failure> {
        let of = |record: &Recorded| {
            record.position.map(|position| {
                format!("{} (stream sequence {})", record.consumer, position.sequence)
            })
        };
        let others =
            || self.records.iter().filter(|record| record.consumer != self.options.consumer);
        let names: Vec<String> = others().filter_map(of).collect();
        match &self.options.adoption {
            Adoption::Ask if names.is_empty() => Ok(None),
            Adoption::Ask => Err(Failure::misconfigured(format!(
                "the destination was filled by another consumer: {}. This one, {}, knows no \
                 position of its own (was the server enrolled anew?). \
                 --adopt-checkpoint NAME goes on where that one ended, --adopt-checkpoint none \
                 begins with new changes; an import begins with what it loads",
                names.join(", "),
                self.options.consumer
            ))),
            Adoption::Without => Ok(None),
            Adoption::Of(name) => match others()
                .find(|record| record.consumer == *name)
                .and_then(|record| record.position)
            {
                Some(position) => Ok(Some(position)),
                None => {
                    let known = if names.is_empty() {
                        "no other consumer's".to_owned()
                    } else {
                        names.join(", ")
                    };
                    Err(Failure::misconfigured(format!(
                        "the destination has no checkpoint of {name:?} to adopt; it has {known}"
                    )))
                }
            },
        }
    }

    /// Companies that the feed is about now and was not about before.
    pub fn new_companies(&self) -> Vec<&str> {
        let own = self
            .records
            .iter()
            .find(|record| record.consumer == self.options.consumer && record.position.is_some());
        let Some(before) =
            own.filter(|record| record.companies != "*").map(|record| &record.companies)
        else {
            return Vec::new();
        };
        self.options
            .companies
            .split(',')
            .filter(|company| !before.split(',').any(|known| known == *company))
            .collect()
    }

    /// The checkpoint as the destination has it.
    pub fn recorded(&self) -> Option<Position> {
        self.recorded
    }

    /// Where the batch is to end that an earlier process began and did not end.
    pub fn unconfirmed_through(&self) -> Option<Position> {
        self.unconfirmed_through
    }

    /// Applies all of `gathered`, whatever it takes, unless the destination is lost to another
    /// process.
    pub async fn apply(&mut self, pending: PendingBatch) -> Result<ApplyOutcome, Failure> {
        let end = self.recorded.map_or(pending.through, |p| p.advanced_to(pending.through));
        let started = Instant::now();
        self.dead_letters(&pending.dead_letters, "").await;
        let changes = Arc::new(pending.changes);
        let mut skipped: Vec<usize> = Vec::new();
        let mut backoff = Backoff::default();
        let mut reshaped = false;
        let mut todo: Vec<ChangeRange> = vec![(0, changes.len())];
        while let Some((from, to)) = todo.pop() {
            let batch = self.batch(&changes, (from, to), &skipped, end, &mut todo);
            match self
                .try_once(&batch, &mut todo, &mut skipped, &mut backoff, &mut reshaped)
                .await?
            {
                WriteAttempt::Done => {
                    (backoff, reshaped) = (Backoff::default(), false);
                    self.done(&batch);
                }
                WriteAttempt::Again => {}
                WriteAttempt::DestinationRewound(position) => {
                    return Ok(ApplyOutcome::DestinationRewound(position));
                }
            }
        }
        self.progress.applied(pending.events, end, started.elapsed());
        Ok(ApplyOutcome::Applied(end))
    }

    /// The part of the piece that can be applied at once; what does not fit goes back on the stack.
    fn batch(
        &self,
        changes: &Arc<Vec<Change>>,
        (from, to): ChangeRange,
        skipped: &[usize],
        end: Position,
        todo: &mut Vec<ChangeRange>,
    ) -> (Arc<Batch>, ChangeRange) {
        let (groups, order, stop) = match self.options.abilities.write_mode {
            WriteMode::Upsert => {
                let (groups, stop) = compact::compact(changes, from, to, skipped);
                (groups, Vec::new(), stop)
            }
            WriteMode::Append => {
                let order = (from..to)
                    .filter(|i| skipped.binary_search(i).is_err())
                    .map(|i| i as u32)
                    .collect();
                (Vec::new(), order, to)
            }
        };
        if stop < to {
            todo.push((stop, to));
        }
        let through = match changes.get(stop.wrapping_sub(1)) {
            Some(last) if stop < changes.len() => {
                self.recorded.map_or(last.position, |p| p.advanced_to(last.position))
            }
            _ => end,
        };
        (
            Arc::new(
                Batch::new(changes.clone(), groups, order, self.recorded, through)
                    .unconfirmed_through(self.unconfirmed_through),
            ),
            (from, stop),
        )
    }

    async fn try_once(
        &mut self,
        (batch, piece): &(Arc<Batch>, ChangeRange),
        todo: &mut Vec<ChangeRange>,
        skipped: &mut Vec<usize>,
        backoff: &mut Backoff,
        reshaped: &mut bool,
    ) -> Result<WriteAttempt, Failure> {
        let failure = match self.write(batch).await {
            Ok(()) => return Ok(WriteAttempt::Done),
            Err(failure) => failure,
        };
        match failure.kind {
            FailureKind::Fenced => Err(failure),
            FailureKind::SchemaMismatch if !*reshaped => {
                *reshaped = true;
                todo.push(*piece);
                match self.read_tables().await {
                    Ok(()) => Ok(WriteAttempt::Again),
                    Err(failure) => self.recover(&failure, batch, todo, backoff).await,
                }
            }
            FailureKind::Rejected
                if !failure.culprits.is_empty() || remaining(*piece, skipped) > 0 =>
            {
                self.narrow(batch, *piece, failure, todo, skipped).await;
                Ok(WriteAttempt::Again)
            }
            _ => {
                todo.push(*piece);
                self.recover(&failure, batch, todo, backoff).await
            }
        }
    }

    /// Shapes the tables, then writes the rows.
    async fn write(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        if self.destination.is_none() {
            return Err(Failure::unavailable("not connected"));
        }
        self.record_intent(batch.through)?;
        if self.follows() {
            self.shape(batch.groups.iter().map(|g| &g.schema)).await?;
        }
        let Some(destination) = &mut self.destination else {
            return Err(Failure::unavailable("not connected"));
        };
        destination.apply(batch).await
    }

    /// Records how far a batch will go, where what is written of it cannot be taken back: whoever
    /// comes after a crash cuts the stream at the same place, and knows what may be there already.
    fn record_intent(&mut self, through: Position) -> Result<(), Failure> {
        if self.options.abilities.checkpoint_in == CheckpointIn::StateFile
            && !self.unconfirmed_through.is_some_and(|unconfirmed| unconfirmed.contains(through))
        {
            self.state
                .save_intent(&self.options.consumer, through)
                .map_err(|e| Failure::unavailable(e.to_string()))?;
            self.unconfirmed_through = Some(through);
        }
        Ok(())
    }

    async fn read_tables(&mut self) -> Result<(), Failure> {
        let Some(destination) = &mut self.destination else {
            return Err(Failure::unavailable("not connected"));
        };
        self.tables = destination.tables().await?;
        Ok(())
    }

    async fn shape(
        &mut self,
        schemas: impl Iterator<Item = &Arc<TableSchema>>,
    ) -> Result<(), Failure> {
        let mut changed = false;
        for schema in schemas {
            if !self.adopted.iter().any(|t| *t == *schema.table) {
                migrate::check_ours(&self.tables, schema)
                    .map_err(|e| Failure::misconfigured(e.to_string()))?;
                // Looked at once: the customer may add columns of their own later.
                self.adopted.push(schema.table.to_string());
            }
            for step in migrate::plan(&self.tables, schema) {
                let Some(destination) = &mut self.destination else {
                    return Err(Failure::unavailable("not connected"));
                };
                info!("schema: {step}");
                destination.migrate(&step).await?;
                changed = true;
            }
        }
        if changed { self.read_tables().await } else { Ok(()) }
    }

    /// The piece is durable.
    fn done(&mut self, (batch, _): &(Arc<Batch>, ChangeRange)) {
        self.recorded = Some(batch.through);
        self.unconfirmed_through =
            self.unconfirmed_through.filter(|unconfirmed| !batch.through.contains(*unconfirmed));
        if self.options.abilities.checkpoint_in == CheckpointIn::StateFile {
            // What is written again after a crash has the same names, so a lost position only costs
            // time.
            if let Err(e) = self.state.save_position(&self.options.consumer, batch.through) {
                warn!("{e}; after a crash the last batch will be written again");
            }
        }
        self.progress.update(|snapshot| {
            for group in &batch.groups {
                self.refusals.remove(&*group.schema.table);
                let counts = snapshot.tables.entry(group.schema.table.to_string()).or_default();
                counts.upserts += group.upserts.len() as u64;
                counts.deletes +=
                    group.deletes.iter().filter(|i| batch.change(**i).is_delete()).count() as u64;
            }
            for (_, change) in batch.ordered() {
                let table = change.event.table();
                self.refusals.remove(&*table);
                let counts = snapshot.tables.entry(table.into_owned()).or_default();
                if change.is_delete() { counts.deletes += 1 } else { counts.upserts += 1 }
            }
        });
    }

    /// Takes the refused changes out of the piece, or halves it until the one at fault stands
    /// alone. Both go over the original changes, so that a valid one hidden behind a refused one of
    /// its row comes to light.
    async fn narrow(
        &mut self,
        batch: &Batch,
        piece: ChangeRange,
        failure: Failure,
        todo: &mut Vec<ChangeRange>,
        skipped: &mut Vec<usize>,
    ) {
        let (from, to) = piece;
        let mut culprits: HashMap<u32, String> = failure.culprits.into_iter().collect();
        if culprits.is_empty() {
            let left: Vec<usize> =
                (from..to).filter(|i| skipped.binary_search(i).is_err()).collect();
            if let [first, .., _] = left[..] {
                let middle = left.get(left.len() / 2).copied().unwrap_or(first);
                todo.push((middle, to));
                todo.push((from, middle));
                return;
            }
            culprits = left.iter().map(|i| (*i as u32, failure.text.clone())).collect();
        }
        todo.push(piece);
        let all: BTreeSet<u32> = batch.offered().chain(culprits.keys().copied()).collect();
        for index in all {
            let Some(change) = batch.get(index) else { continue };
            let table = change.event.table().into_owned();
            let Some(reason) = culprits.remove(&index) else {
                // It will be stored, unless what was refused came after it.
                if self
                    .refusals
                    .get(&table)
                    .is_some_and(|refusals| !refusals.last.contains(change.position))
                {
                    self.refusals.remove(&table);
                }
                continue;
            };
            let refusals = self.refusals.entry(table.clone()).or_default();
            if refusals.count >= REFUSED_RUN_MAX {
                let why = format!(
                    "{REFUSED_RUN_MAX} changes of table {table:?} in a row were refused, the last \
                     because {reason}; no more become dead letters until one is accepted"
                );
                self.progress.waiting(&why);
                warn!("{why}");
                sleep(super::RETRY_WAIT_MAX).await;
                return;
            }
            (refusals.count, refusals.last) = (refusals.count + 1, change.position);
            let payload = bytes::Bytes::copy_from_slice(change.event.payload().as_bytes());
            self.dead_letters(
                &[DeadLetter {
                    position: change.position,
                    subject: change.subject.to_string(),
                    reason,
                    payload,
                }],
                &table,
            )
            .await;
            if let Err(at) = skipped.binary_search(&(index as usize)) {
                skipped.insert(at, index as usize);
            }
        }
    }

    /// Writes what cannot be applied to its file; a full disk is waited for.
    async fn dead_letters(&mut self, dead_letters: &[DeadLetter], table: &str) {
        let mut backoff = Backoff::default();
        while let Err(e) = self.dead_letters.write(dead_letters) {
            let why =
                format!("changes cannot be dead letter in {}: {e}", self.dead_letters.place());
            self.progress.waiting(&why);
            warn!("{why}");
            sleep(backoff.next(&self.options.consumer).max(super::RETRY_WAIT_MIN)).await;
        }
        for dead_letter in dead_letters {
            warn!(
                subject = dead_letter.subject,
                sequence = dead_letter.position.sequence,
                "dead letter in {}: {}",
                self.dead_letters.place(),
                dead_letter.reason
            );
            self.progress.dead_letters(table, &dead_letter.reason);
        }
    }

    /// After a failure that says nothing about the data: connect anew, and look how far the
    /// destination came.
    async fn recover(
        &mut self,
        failure: &Failure,
        batch: &Arc<Batch>,
        todo: &mut Vec<ChangeRange>,
        backoff: &mut Backoff,
    ) -> Result<WriteAttempt, Failure> {
        if backoff.tries().is_multiple_of(20) {
            warn!("the destination failed: {failure}; trying again");
        }
        self.progress.waiting(&failure.to_string());
        let found = self.reconnect(backoff).await?;
        if self.options.abilities.checkpoint_in == CheckpointIn::StateFile || found == self.recorded
        {
            return Ok(WriteAttempt::Again);
        }
        if found == Some(batch.through) {
            // The lost answer was a commit.
            todo.pop();
            return Ok(WriteAttempt::Done);
        }
        self.recorded = found;
        Ok(WriteAttempt::DestinationRewound(found))
    }

    /// Connects until it works. Fails only where another process has taken over.
    async fn reconnect(&mut self, backoff: &mut Backoff) -> Result<Option<Position>, Failure> {
        if let Some(old) = self.destination.take() {
            // What it says no longer matters, but it ends before its successor begins.
            let _ = old.close().await;
        }
        loop {
            sleep(backoff.next(&self.options.consumer)).await;
            match self.connect().await {
                Ok(found) => return Ok(found),
                Err(failure) if failure.kind == FailureKind::Fenced => return Err(failure),
                Err(failure) => {
                    self.progress.waiting(&failure.to_string());
                    if backoff.tries() < 4 || backoff.tries().is_multiple_of(20) {
                        warn!("no connection to the destination: {failure}; trying again");
                    }
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<Option<Position>, Failure> {
        let mut destination = (self.open)().await?;
        let found = match self.options.abilities.checkpoint_in {
            CheckpointIn::Destination => destination.checkpoint(Claim::Verify).await?,
            CheckpointIn::StateFile => self.recorded,
        };
        self.cutover = destination.cutover().await?;
        if self.follows() {
            self.tables = destination.tables().await?;
        }
        self.destination = Some(destination);
        Ok(found)
    }

    /// Asks the destination how far it came and whether it is still ours; before the feed is opened
    /// anew.
    pub async fn confirm(&mut self) -> Result<Option<Position>, Failure> {
        if self.options.abilities.checkpoint_in == CheckpointIn::Destination {
            let asked = match &mut self.destination {
                Some(destination) => destination.checkpoint(Claim::Verify).await,
                None => Err(Failure::unavailable("not connected")),
            };
            self.recorded = match asked {
                Ok(found) => found,
                Err(failure) if failure.kind == FailureKind::Fenced => return Err(failure),
                Err(_) => self.reconnect(&mut Backoff::default()).await?,
            };
        }
        Ok(self.recorded)
    }

    pub async fn close(&mut self) -> Result<(), Failure> {
        match self.destination.take() {
            Some(destination) => destination.close().await,
            None => Ok(()),
        }
    }
}

fn remaining((from, to): ChangeRange, skipped: &[usize]) -> usize {
    (from..to).filter(|i| skipped.binary_search(i).is_err()).count()
}
