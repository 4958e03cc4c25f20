//! The last step: keys, then every table in its place.

use std::sync::Arc;

use tracing::info;

use super::work::{Outage, seal};
use super::{ImportError, Mode, Shared, loader, locked, snapshots};
use crate::destination::import::{How, Placement, Standing, another_import};
use crate::destination::{Destination, Failure, Tables};
use crate::pipeline::migrate;

/// Seals what is not sealed yet, and puts the tables in their places; an outage, a lock among them, is waited for.
pub async fn finish(shared: &Arc<Shared>, main: Box<dyn Destination>) -> Result<(), ImportError> {
    let mut sealing = None;
    for table in &shared.plan.tables {
        seal(shared, &mut sealing, table).await?;
    }
    if let Some(destination) = sealing {
        let _ = destination.close().await;
    }
    let mut main = Some(main);
    let mut outage = Outage::new(shared);
    loop {
        match place(shared, &mut main).await {
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

async fn place(shared: &Arc<Shared>, main: &mut Option<Box<dyn Destination>>) -> Result<(), Failure> {
    let destination = match main {
        Some(destination) => destination,
        None => {
            let mut opened = (shared.connect)().await?;
            // The answer that was lost may have been a commit.
            let standing = loader(&mut *opened)?.standing(&shared.plan.job).await?;
            let destination = main.insert(opened);
            match standing {
                Some(Standing::Done) => return Ok(()),
                Some(Standing::Loading(_)) => destination,
                None => return Err(another_import()),
            }
        }
    };
    let tables = destination.tables().await?;
    let mut placements = Vec::new();
    let mut notices = Vec::new();
    for (table, snapshot) in shared.plan.tables.iter().zip(snapshots(&shared.plan)) {
        let (how, notice) = how(shared.plan.mode, &tables, &table.schema.table, loader(&mut **destination)?.obstacle(&table.schema).await?);
        if how != How::Exchange {
            for step in migrate::plan(&tables, &table.schema) {
                info!("schema: {step}");
                destination.migrate(&step).await?;
            }
        }
        notices.extend(notice);
        placements.push(Placement { schema: table.schema.clone(), how, snapshot });
    }
    loader(&mut **destination)?.place(&shared.plan.job, &placements).await?;
    locked(&shared.notices).extend(notices);
    Ok(())
}

fn how(mode: Mode, tables: &Tables, table: &str, obstacle: Option<String>) -> (How, Option<String>) {
    match (mode, tables.get(table), obstacle) {
        (_, None, _) => (How::Exchange, None),
        (Mode::Keep, ..) => (How::Added, None),
        (Mode::Replace, _, None) => (How::Exchange, None),
        (Mode::Replace, _, Some(why)) => (How::InPlace, Some(format!("table {table:?} stays, and its rows are replaced: {why}"))),
    }
}
