//! The last step: keys, then every table in its place.

use std::sync::Arc;

use super::file_loader::{Outage, finish_load};
use super::{ImportContext, ImportError, Mode, loader, locked, snapshots};
use crate::destination::import::{JobStatus, Placement, SwapMethod, another_import};
use crate::destination::{Destination, Failure, Tables};
use crate::pipeline::migrate::{self, SchemaChange};

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
    let mut outage = Outage::new(shared);
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
    let tables = destination.tables().await?;
    let mut placements = Vec::new();
    let mut notices = Vec::new();
    for (table, snapshot) in shared.plan.tables.iter().zip(snapshots(&shared.plan)) {
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

fn how(
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
