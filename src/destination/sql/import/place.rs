//! How loaded tables get their places: first those that stay, whose rows are replaced, then those
//! that are exchanged, so that readers are locked out for as short as possible.

use std::time::Duration;

use tokio::time::sleep;

use super::statements::{CUTOVERS, PROGRESS, REPLACED_PREFIX, WHOLE_JOB};
use crate::change::Position;
use crate::change::cutover::{Cutovers, TableSnapshot};
use crate::destination::import::{
    Loader, Placement, STAGED_PREFIX, SwapMethod, another_import, staged,
};
use crate::destination::sql::dialect::Rename;
use crate::destination::sql::render::CHECKPOINT;
use crate::destination::sql::{Connection, LOCK_WAIT_MAX, STREAM_LOCK_WAIT_MAX, SqlDestination};
use crate::destination::{Failure, Recorded, Tables};

/// How often a swap asks for the locks of the tables that it exchanges, before it gives up what it
/// has done so far and begins again later.
const LOCK_TRIES_MAX: u32 = 5;
/// Between two of these tries: readers that have waited behind one get their turn.
const LOCK_TRIES_PAUSE: Duration = Duration::from_secs(2);

/// A step that needs exclusive locks, and changes nothing where it does not get them.
enum LockStep<'a> {
    /// Locks these tables until the transaction ends.
    Lock(&'a [String]),
    /// Runs this statement, which exchanges tables at once.
    Exchange(&'a str),
}

impl<C: Connection> SqlDestination<C> {
    /// Everything in one transaction, where renames are part of a transaction.
    pub(super) async fn swap_in_transaction(
        &mut self,
        job: &str,
        placements: &[Placement],
        existing: &Tables,
    ) -> Result<(), Failure> {
        if self.renderer.dialect.rename == Rename::Never {
            // CREATE TABLE would end the transaction, so missing tables are created before it.
            for placement in placements.iter().filter(|p| existing.get(&p.schema.table).is_none()) {
                self.connection.execute(&self.renderer.create_table(&placement.schema)).await?;
            }
        } else {
            self.catch_up(placements, existing).await?;
        }
        self.begin_transaction().await?;
        let placed = self.swap_in_within(Some(job), placements, existing).await;
        self.end(placed).await
    }

    /// Gives the loaded tables what people have given to the old ones since the load was finished.
    async fn catch_up(
        &mut self,
        placements: &[Placement],
        existing: &Tables,
    ) -> Result<(), Failure> {
        let replaces = |p: &&Placement| {
            p.how == SwapMethod::Exchange && existing.get(&p.schema.table).is_some()
        };
        for Placement { schema, .. } in placements.iter().filter(replaces) {
            self.connection.finish_load(&self.renderer, schema, &staged(schema), true).await?;
        }
        Ok(())
    }

    async fn swap_in_within(
        &mut self,
        job: Option<&str>,
        placements: &[Placement],
        existing: &Tables,
    ) -> Result<(), Failure> {
        if let Some(job) = job {
            self.close_job(job).await?;
        }
        // Streaming processes are fenced first: what they have not committed by now they read
        // again after the import.
        let stood = self.set_back().await?;
        let snapshots: Vec<TableSnapshot> = placements.iter().map(|p| p.snapshot.clone()).collect();
        let mut cutovers = self.cutovers().await?;
        cutovers.import(&snapshots, &stood);
        self.write_cutovers(CUTOVERS, &cutovers).await?;
        let (exchanged, merged): (Vec<&Placement>, Vec<&Placement>) =
            placements.iter().partition(|p| p.how == SwapMethod::Exchange);
        self.merge(&merged).await?;
        let old: Vec<String> = exchanged
            .iter()
            .map(|p| p.schema.table.to_string())
            .filter(|table| existing.get(table).is_some())
            .collect();
        self.patiently(LockStep::Lock(&old)).await?;
        self.still_exchangeable(&exchanged, existing).await?;
        for placement in exchanged {
            self.exchange(placement, existing).await?;
        }
        Ok(())
    }

    /// While others were merged, somebody may have given an old table what an exchange would lose:
    /// then the swap begins again, and that table stays.
    async fn still_exchangeable(
        &mut self,
        exchanged: &[&Placement],
        existing: &Tables,
    ) -> Result<(), Failure> {
        for Placement { schema, .. } in exchanged {
            if existing.get(&schema.table).is_some()
                && let Some(why) = self.swap_blocker(schema).await?
            {
                return Err(Failure::unavailable(format!(
                    "table {:?} has changed meanwhile ({why}): the tables are put in place anew",
                    schema.table
                )));
            }
        }
        Ok(())
    }

    /// Replaces the rows of tables that stay, with all that depends on them: rows that others refer
    /// to come before these, and go after them.
    async fn merge(&mut self, merged: &[&Placement]) -> Result<(), Failure> {
        if merged.is_empty() {
            return Ok(());
        }
        // A row that somebody is changing holds up no reader, and is worth more patience.
        self.connection.limit_lock_wait(LOCK_WAIT_MAX).await?;
        self.connection.defer_constraints().await?;
        for Placement { schema, .. } in merged {
            for statement in self.renderer.merge_staged(schema, &staged(schema)) {
                let merged = self.connection.execute(&statement).await;
                merged.map_err(|failure| named(&schema.table, failure))?;
            }
        }
        for Placement { schema, .. } in
            merged.iter().rev().filter(|p| p.how == SwapMethod::ReplaceRows)
        {
            let delete = self.renderer.delete_missing(schema, &staged(schema));
            let deleted = self.connection.execute(&delete).await;
            deleted.map_err(|failure| named(&schema.table, failure))?;
        }
        self.connection.limit_lock_wait(STREAM_LOCK_WAIT_MAX).await
    }

    /// Asks for locks again after a pause, without giving up what the transaction has done so far.
    async fn patiently(&mut self, step: LockStep<'_>) -> Result<(), Failure> {
        let is_locked =
            |failure: &Failure, code: Option<&str>| code.is_some_and(|code| failure.has_code(code));
        let mut tries = 1;
        loop {
            let done = match step {
                LockStep::Lock(tables) => self.connection.lock_tables(&self.renderer, tables).await,
                LockStep::Exchange(sql) => self.connection.execute(sql).await,
            };
            match done {
                Err(failure)
                    if tries < LOCK_TRIES_MAX
                        && is_locked(&failure, self.renderer.dialect.lock_wait_code) => {}
                done => return done,
            }
            tries += 1;
            sleep(LOCK_TRIES_PAUSE).await;
        }
    }

    /// Puts a loaded table in the place of the old one, within the transaction.
    async fn exchange(&mut self, placement: &Placement, existing: &Tables) -> Result<(), Failure> {
        let (schema, new) = (&placement.schema, staged(&placement.schema));
        if self.renderer.dialect.rename == Rename::Never {
            self.connection.change(&self.renderer.clear(&schema.table), &[]).await?;
            return self.connection.execute(&self.renderer.insert_staged(schema, &new)).await;
        }
        let copied = self.connection.copied_ddl(&self.renderer, schema, &new).await?;
        if existing.get(&schema.table).is_some() {
            self.connection.execute(&self.renderer.drop_table(&schema.table)).await?;
        }
        self.connection.execute(&self.renderer.rename(&new.table, &schema.table)).await?;
        for statement in copied {
            self.connection.execute(&statement).await?;
        }
        Ok(())
    }

    /// Where a rename ends the transaction: first the tables that stay, in one transaction; then
    /// one statement renames all others, EDS's own tables among them.
    pub(super) async fn swap_in_by_renames(
        &mut self,
        job: &str,
        placements: &[Placement],
        existing: &Tables,
    ) -> Result<(), Failure> {
        let (exchanged, others): (Vec<Placement>, Vec<Placement>) =
            placements.iter().cloned().partition(|p| p.how == SwapMethod::Exchange);
        if !others.is_empty() {
            self.begin_transaction().await?;
            let placed = self.swap_in_within(None, &others, existing).await;
            self.end(placed).await?;
        }
        if exchanged.is_empty() {
            return self.close_job(job).await;
        }
        if self.job_status(job).await?.is_none() {
            return Err(another_import());
        }
        self.connection.change(&self.renderer.raise_epochs(), &[]).await?;
        let snapshots: Vec<TableSnapshot> = exchanged.iter().map(|p| p.snapshot.clone()).collect();
        let mut cutovers = self.cutovers().await?;
        let stood = self.positions().await?;
        cutovers.import(&snapshots, &stood);
        self.catch_up(&exchanged, existing).await?;
        self.stage_own_tables(job, &cutovers).await?;
        let renames = exchange_renames(&exchanged, existing);
        self.patiently(LockStep::Exchange(&self.renderer.rename_all(&renames))).await
    }

    /// The position of each consumer.
    pub(super) async fn positions(&mut self) -> Result<Vec<(String, Option<Position>)>, Failure> {
        let records = self.read_records().await?;
        Ok(records
            .into_iter()
            .map(|Recorded { consumer, position, .. }| (consumer, position))
            .collect())
    }

    /// EDS's own tables as they are to be after the import, under other names.
    async fn stage_own_tables(&mut self, job: &str, cutovers: &Cutovers) -> Result<(), Failure> {
        let [cutover, checkpoint, progress] =
            [CUTOVERS, CHECKPOINT, PROGRESS].map(|name| format!("{STAGED_PREFIX}{name}"));
        let created = [
            (&cutover, self.renderer.create_cutovers(&cutover)),
            (&checkpoint, self.renderer.create_checkpoint(&checkpoint)),
            (&progress, self.renderer.create_progress(&progress)),
        ];
        for (name, create) in created {
            self.connection.execute(&self.renderer.drop_table(name)).await?;
            self.connection.execute(&create).await?;
        }
        self.write_cutovers(&cutover, cutovers).await?;
        self.connection.change(&self.renderer.copy_checkpoints(&checkpoint), &[]).await?;
        let parameters = [job.into(), WHOLE_JOB.into(), 1.into()];
        self.connection.change(&self.renderer.insert_progress(&progress), &parameters).await?;
        Ok(())
    }
}

/// The renames that put the loaded tables, and EDS's own new ones, in the place of the old ones.
fn exchange_renames(exchanged: &[Placement], existing: &Tables) -> Vec<(String, String)> {
    let pairs =
        exchanged.iter().map(|p| (staged(&p.schema).table.to_string(), p.schema.table.to_string()));
    let own = [CUTOVERS, CHECKPOINT, PROGRESS]
        .map(|name| (format!("{STAGED_PREFIX}{name}"), name.to_owned()));
    let mut renames = Vec::new();
    for (new, name) in pairs.chain(own) {
        if existing.get(&name).is_some() {
            renames.push((
                name.clone(),
                format!("{REPLACED_PREFIX}{}", new.trim_start_matches(STAGED_PREFIX)),
            ));
        }
        renames.push((new, name));
    }
    renames
}

/// The failure with its table, where it says none.
fn named(table: &str, failure: Failure) -> Failure {
    match failure.table {
        None => Failure { text: format!("table {table:?}: {}", failure.text), ..failure },
        Some(_) => failure,
    }
}
