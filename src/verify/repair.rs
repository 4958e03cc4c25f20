//! Writes the export's rows where they differ, as the stream writes: behind the same fence, with
//! the checkpoint in the same transaction, and never over a row that the stream changed since.

use std::sync::Arc;

use bytes::Bytes;
use tracing::{info, warn};

use super::changed::Explained;
use super::confirm::key_values;
use super::export::RowsOfExport;
use super::{Comparison, Difference, TableVerdict, VerifyError};
use crate::change::{Batch, Change, Position, TableGroup};
use crate::destination::{Claim, Epoch, Failure, FailureKind, Target};
use crate::help::HelpCode;
use crate::state::{DataDir, DataDirError, LockError};

/// Rows that are repaired in one transaction.
const ROWS_MAX: usize = 100;

impl Comparison {
    /// Repairs in the place of the EDS that streams, which has to be stopped.
    pub(super) async fn repair(
        self,
        verdicts: &mut [TableVerdict],
    ) -> Result<Comparison, VerifyError> {
        if self.is_streaming() {
            warn!("--repair writes in the place of the running EDS: stop it now; waiting for it");
        }
        let owned = DataDir::take_within(&self.request.data_dir, self.request.wait_max).await;
        let _data = owned.map_err(|e| match e {
            DataDirError::Lock(LockError::InUse { .. }) => {
                VerifyError::Refused(HelpCode::DataDirInUse.tag(&format!(
                    "{e}. --repair writes in its place, so it has to be stopped meanwhile"
                )))
            }
            other => other.into(),
        })?;
        let target = Target {
            consumer: self.stream.consumer.clone(),
            companies: self.stream.companies.clone(),
            epoch: Epoch::default(),
            ..Target::unclaimed(&self.request.destination)
        };
        if target.consumer.is_empty() {
            return Err(VerifyError::Refused(
                "nothing has streamed into the destination: an import fills it".into(),
            ));
        }
        let _ = self.destination.close().await;
        let mut destination = (self.request.driver.open)(&target).await?;
        let position = destination.checkpoint(Claim::Acquire).await?;
        destination.tables().await?;
        let mut repair = Comparison { destination, ..self };
        repair.stream.position = position;
        repair.changed.look()?;
        for (number, verdict) in verdicts.iter_mut().enumerate() {
            verdict.repaired = repair.repair_table(number, position).await?;
        }
        Ok(repair)
    }

    async fn repair_table(
        &mut self,
        number: usize,
        position: Option<Position>,
    ) -> Result<u64, VerifyError> {
        let mut rows = RowsOfExport::new(&self.tables[number].schema);
        let (mut after, mut repaired) = (String::new(), 0);
        loop {
            let suspects = self.store.suspects(number, &mut after, ROWS_MAX)?;
            if suspects.is_empty() {
                break;
            }
            let (mut changes, mut extra, mut other) = (Vec::new(), Vec::new(), Vec::new());
            for (suspect, found) in self.reread(number, &suspects).await? {
                let Some((what, change)) =
                    self.to_repair(number, &mut rows, &suspect.key, found)?
                else {
                    continue;
                };
                if self.explain(number, &mut rows, &suspect)? != Explained::Unchanged {
                    continue;
                }
                let place = if what == Difference::Extra { &mut extra } else { &mut other };
                place.push(changes.len() as u32);
                changes.push(change);
            }
            if !changes.is_empty() {
                repaired += self.write(number, changes, (extra, other), position).await?;
            }
        }
        if repaired > 0 {
            info!("table {:?}: {repaired} rows are repaired", self.tables[number].schema.table);
        }
        Ok(repaired)
    }

    /// What makes the row as the export has it; `None` where it is, or nobody knows yet.
    fn to_repair(
        &self,
        number: usize,
        rows: &mut RowsOfExport,
        key: &str,
        found: Option<Vec<Option<String>>>,
    ) -> Result<Option<(Difference, Change)>, VerifyError> {
        let table = &self.tables[number];
        Ok(match (self.store.line(number, key)?, found) {
            (None, None) => None,
            // What the stream still brings is newer.
            _ if !self.changed.has_passed(table.moment, self.stream.position)? => None,
            (Some(line), None) => Some((Difference::Missing, rows.row(Bytes::from(line))?)),
            (Some(line), Some(found)) => {
                let (columns, _) = table.differences(rows, line.clone(), &found)?;
                let change = rows.row(Bytes::from(line))?;
                (!columns.is_empty()).then_some((Difference::Different, change))
            }
            (None, Some(_)) if self.request.deletes_extra => {
                let change = rows.row(Bytes::from(table.schema.row_of_key(&key_values(key))))?;
                Some((Difference::Extra, change))
            }
            (None, Some(_)) => None,
        })
    }

    /// Writes rows and takes rows away, those that are not refused. The checkpoint stays where it
    /// is. Answers how many.
    async fn write(
        &mut self,
        number: usize,
        changes: Vec<Change>,
        (deletes, upserts): (Vec<u32>, Vec<u32>),
        position: Option<Position>,
    ) -> Result<u64, VerifyError> {
        let schema = self.tables[number].schema.clone();
        let changes = Arc::new(changes);
        let through = position.unwrap_or_default();
        let batch_of = |deletes: Vec<u32>, upserts: Vec<u32>| {
            let group = TableGroup { schema: schema.clone(), deletes, upserts };
            Arc::new(Batch::new(changes.clone(), vec![group], Vec::new(), position, through))
        };
        let all = batch_of(deletes.clone(), upserts.clone());
        match self.destination.apply(&all).await {
            Ok(()) => return Ok(changes.len() as u64),
            Err(failure) if is_of_rows(&failure) => {}
            Err(failure) => return Err(failure.into()),
        }
        let ones = deletes.into_iter().map(|index| (vec![index], Vec::new()));
        let ones = ones.chain(upserts.into_iter().map(|index| (Vec::new(), vec![index])));
        let mut written = 0;
        for (deletes, upserts) in ones {
            match self.destination.apply(&batch_of(deletes, upserts)).await {
                Ok(()) => written += 1,
                Err(failure) if is_of_rows(&failure) => {
                    warn!("table {:?}: a row stays as it is: {failure}", schema.table);
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(written)
    }
}

/// Whether it may be about one row: another one may be written.
fn is_of_rows(failure: &Failure) -> bool {
    matches!(failure.kind, FailureKind::Rejected | FailureKind::TableUnavailable)
}
