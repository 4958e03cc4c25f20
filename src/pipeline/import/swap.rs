//! The last step: keys, then every table in its place.

use std::sync::Arc;
use std::time::Duration;

use super::file_loader::{Outage, finish_load};
use super::order::references;
use super::{ImportContext, ImportError, Mode, loader, locked, snapshots};
use crate::backoff::Waits;
use crate::destination::import::{JobStatus, Placement, SwapMethod, another_import};
use crate::destination::{Destination, Failure, Tables};
use crate::pipeline::migrate::{self, SchemaChange};

/// Between two tries to swap: readers that have waited behind the first get their turn.
pub const SWAP_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_secs(2), longest: Duration::from_secs(10) };

/// Finishes what is not finished yet, and puts the tables in their places; an outage, a lock among
/// them, is waited for.
pub async fn finish(
    shared: &Arc<ImportContext>,
    main: Box<dyn Destination>,
) -> Result<(), ImportError> {
    let mut finishing = None;
    for table in &shared.plan.tables {
        finish_load(shared, &mut finishing, table).await?;
    }
    if let Some(destination) = finishing {
        let _ = destination.close().await;
    }
    let mut main = Some(main);
    let mut outage = Outage::with_waits(shared, SWAP_WAITS);
    loop {
        match swap_in(shared, &mut main).await {
            Ok(()) => break,
            // A view that was made meanwhile, or a table that was altered, is looked at again.
            Err(failure) => outage.wait(failure, &mut main).await?,
        }
    }
    if let Some(destination) = main {
        // What is in its place stays there, whatever the goodbye says.
        let _ = destination.close().await;
    }
    Ok(())
}

async fn swap_in(
    shared: &Arc<ImportContext>,
    main: &mut Option<Box<dyn Destination>>,
) -> Result<(), Failure> {
    let destination = match main {
        Some(destination) => destination,
        None => {
            let mut opened = (shared.connect)().await?;
            // The answer that was lost may have been a commit.
            let status = loader(&mut *opened)?.job_status(&shared.plan.job).await?;
            let destination = main.insert(opened);
            match status {
                Some(JobStatus::Done) => return Ok(()),
                Some(JobStatus::Loading(_)) => destination,
                None => return Err(another_import()),
            }
        }
    };
    loader(&mut **destination)?.enter_swap_mode().await?;
    let tables = destination.tables().await?;
    let references = references(&mut **destination, &shared.plan).await?;
    references.refuse_circle()?;
    let snapshots = snapshots(&shared.plan);
    let mut placements = Vec::new();
    let mut notices = Vec::new();
    for i in references.order {
        let (table, snapshot) = (&shared.plan.tables[i], snapshots[i].clone());
        let (how, notice) = how(
            shared.plan.mode,
            &tables,
            &table.schema.table,
            loader(&mut **destination)?.swap_blocker(&table.schema).await?,
        );
        if how != SwapMethod::Exchange {
            migrate::bring_up(&mut **destination, &tables, &table.schema, SchemaChange::Widen)
                .await?;
        }
        notices.extend(notice);
        placements.push(Placement { schema: table.schema.clone(), how, snapshot });
    }
    loader(&mut **destination)?.swap_in(&shared.plan.job, &placements).await?;
    locked(&shared.notices).extend(notices);
    Ok(())
}

/// How a table gets its place, and what the user should know of that.
pub fn how(
    mode: Mode,
    tables: &Tables,
    table: &str,
    swap_blocker: Option<String>,
) -> (SwapMethod, Option<String>) {
    match (mode, tables.get(table), swap_blocker) {
        (_, None, _) => (SwapMethod::Exchange, None),
        (Mode::Keep, ..) => (SwapMethod::UpsertRows, None),
        (Mode::Replace, _, None) => (SwapMethod::Exchange, None),
        (Mode::Replace, _, Some(why)) => (
            SwapMethod::ReplaceRows,
            Some(format!("table {table:?} stays, and its rows are replaced: {why}")),
        ),
    }
}
