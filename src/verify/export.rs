//! The rows of the export, by their keys.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Duration, sleep};
use tracing::info;

use super::canon::ComparedColumn;
use super::compare::ComparedTable;
use super::store::Noted;
use super::{Comparison, VerifyError};
use crate::change::decode::ColumnOrder;
use crate::change::stamps::StampTokens;
use crate::change::{Change, Decoder, Position, TableSchema, Version};
use crate::export::lines::Lines;
use crate::export::{self, ExportFile};
use crate::help::HelpCode;
use crate::hq::Hq;
use crate::hq::export_job::{self as job, ExportJob, ExportRequest};
use crate::import::FilesFrom;
use crate::import::source::{self, Export, JobError};
use crate::pipeline::import::ImportError;
use crate::pipeline::migrate;
use crate::registry::{Registry, SchemaSource};
use crate::state::State;

/// Bytes and lines of a file that are kept at once.
const BLOCK_BYTES: usize = 2 << 20;
const BLOCK_LINES: usize = 4_000;
/// Between two looks at what the stream changes meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// The oldest moment of the files of a directory.
pub fn oldest_moment(dir: &Path) -> Result<Version, VerifyError> {
    let files = export::in_directory(dir).map_err(VerifyError::Refused)?;
    let oldest = files.iter().map(|file| file.name.time).min();
    Ok(oldest.unwrap_or(Version { nanos: 0, logical: 0 }))
}

/// Reads lines of one table as rows.
pub struct RowsOfExport {
    decoder: Decoder,
    order: ColumnOrder,
    schema: Arc<TableSchema>,
}

impl RowsOfExport {
    /// For rows of this schema.
    pub fn new(schema: &Arc<TableSchema>) -> RowsOfExport {
        RowsOfExport {
            decoder: Decoder::default(),
            order: ColumnOrder::default(),
            schema: schema.clone(),
        }
    }

    /// The row of a line.
    pub fn row(&mut self, line: Bytes) -> Result<Change, VerifyError> {
        let table = &self.schema.table;
        let bad = |e: crate::change::Malformed| {
            let text = format!("a row of table {table:?} in the export cannot be read: {e}");
            VerifyError::Failed(HelpCode::ImportBadRow.tag(&text))
        };
        let mut event = self.decoder.decode_row(line).map_err(bad)?;
        // For a row that is repaired: which version it has nobody tells.
        event.stamped(StampTokens::of_row(None));
        let (row, key) = self.decoder.row(&event, &self.schema, &mut self.order).map_err(bad)?;
        let (schema, position) = (Some(self.schema.clone()), Position::default());
        Ok(Change { event, subject: Box::default(), position, schema, row, key })
    }
}

/// The text of a key by which rows are found.
pub fn key_text(
    schema: &TableSchema,
    columns: &[ComparedColumn],
    change: &Change,
) -> Result<String, VerifyError> {
    let value = |i: usize| match columns[i].expected(change.token(i)) {
        Ok(value) => Ok(value.unwrap_or_default()),
        Err(e) => Err(VerifyError::Failed(format!(
            "a key of table {:?} in the export cannot be read: {e}",
            schema.table
        ))),
    };
    let values = (0..schema.keys).map(value).collect::<Result<Vec<_>, _>>()?;
    Ok(serde_json::Value::from(values).to_string())
}

impl Comparison {
    /// Takes the export: its tables, with their schemas, and all of its rows.
    pub(super) async fn load(&mut self) -> Result<(), VerifyError> {
        let schemas = self.schemas().await?;
        let export = self.export().await?;
        let there = self.destination.tables().await?;
        let names = self.request.tables.clone();
        if let Some(missing) = names.names().find(|name| !export.tables.contains_key(*name)) {
            let text = format!("the export has no table {missing:?}");
            return Err(VerifyError::Refused(HelpCode::NotThere.tag(&text)));
        }
        let consumer = self.stream.consumer.clone();
        let held = self.reader()?.held(&consumer).await?;
        let float_digits = self.reader()?.float_digits();
        let wanted = export.tables.iter().filter(|(name, _)| names.takes(name));
        for (name, exported) in wanted {
            let Some(schema) = schemas.iter().find(|schema| *schema.table == **name) else {
                let text = format!("the export has table {name:?}, which the schemas lack");
                return Err(VerifyError::Refused(HelpCode::SchemasMissing.tag(&text)));
            };
            let schema = migrate::reduced(&there, schema).map_or(schema.clone(), Arc::new);
            let held = held.iter().find(|label| label.table == *name);
            let moment = exported.at.unwrap_or(Version { nanos: 0, logical: 0 });
            let mut table =
                ComparedTable::new(schema, there.get(name), moment, (held, float_digits));
            if exported.at.is_none() {
                let why = "the export does not say when it read the table";
                table.not_compared.get_or_insert_with(|| why.to_owned());
            }
            self.tables.push(table);
        }
        let form = self.form();
        for (what, now) in [(Noted::Job, &export.job), (Noted::Form, &form)] {
            if self.store.noted(what)?.is_some_and(|noted| noted != *now) {
                info!("the export or its tables are others than those that were compared so far");
                self.begin_again()?;
            }
        }
        self.store.note_text(Noted::Job, &export.job)?;
        self.store.note_text(Noted::Form, &form)?;
        self.keep_rows(export).await
    }

    /// The tables as they are numbered, and their columns.
    fn form(&self) -> String {
        let table = |table: &ComparedTable| {
            let schema = &table.schema;
            let why = table.not_compared.as_deref().unwrap_or_default();
            format!("{} {} {:x} {why}", schema.table, schema.version, schema.columns_hash)
        };
        self.tables.iter().map(table).collect::<Vec<_>>().join("\n")
    }

    /// Of the tables as they are published now. They are kept nowhere: nothing is to be written.
    async fn schemas(&self) -> Result<Vec<Arc<TableSchema>>, VerifyError> {
        let of_hq = |hq: &Hq| SchemaSource::of_hq(hq.http.clone(), hq.base());
        let published =
            self.request.schemas.clone().or_else(|| self.request.hq.as_ref().map(of_hq));
        let Some(published) = published else {
            return Err(VerifyError::Refused(HelpCode::SchemasMissing.tag(
                "the tables' schemas are needed: name them with --schema FILE or URL, or give the \
                 key to HQ by SM_APIKEY",
            )));
        };
        let mut registry = Registry::new(published, State::in_memory()?)
            .with_columns(self.request.columns.clone());
        registry.current().await.map_err(VerifyError::Failed)
    }

    /// The export; what the stream changes while HQ makes it is taken note of.
    async fn export(&mut self) -> Result<Export, VerifyError> {
        let names = self.request.tables.clone();
        let takes = move |table: &str| names.takes(table);
        if let FilesFrom::Directory(dir) = &self.request.files {
            return source::directory(dir, takes, Arc::default()).map_err(VerifyError::Refused);
        }
        let Some(hq) = self.request.hq.clone() else {
            return Err(VerifyError::Refused(
                "an export is ordered from HQ: give its key by SM_APIKEY or --api-key, or take the \
                 files of an export with --dir"
                    .into(),
            ));
        };
        let (id, completed) = self.completed_job(&hq).await?;
        let folder = self.folder();
        source::download(hq, &id, &completed, folder, takes, Arc::default())
            .map_err(VerifyError::Failed)
    }

    /// The export job, once it is completed: the one that was named or begun, or a new one.
    async fn completed_job(&mut self, hq: &Hq) -> Result<(String, ExportJob), VerifyError> {
        let order = ExportRequest {
            time_offset_ms: None,
            companies: self.companies(),
            locations: Vec::new(),
            tables: self.request.tables.names().cloned().collect(),
        };
        loop {
            let begun = self.store.noted(Noted::Job)?;
            let is_begun = begun.is_some();
            let id = match (&self.request.files, begun) {
                (FilesFrom::Job(id), _) => id.clone(),
                (FilesFrom::Directory(_) | FilesFrom::NewJob, Some(id)) => id,
                (FilesFrom::Directory(_) | FilesFrom::NewJob, None) => job::order(hq, &order)
                    .await
                    .map_err(|e| VerifyError::Failed(HelpCode::HqRefused.tag(&e.to_string())))?,
            };
            self.store.note_text(Noted::Job, &id)?;
            info!("waiting for export job {id}");
            match self.watching(source::completed(hq, &id)).await? {
                Ok(completed) => return Ok((id, completed)),
                Err(JobError::Over(why)) if is_begun => {
                    info!("{why}");
                    self.begin_again()?;
                }
                Err(JobError::Over(text) | JobError::Failed(text)) => {
                    return Err(VerifyError::Failed(text));
                }
            }
        }
    }

    /// The companies that are exported; none means all. A stream of some has no other rows.
    fn companies(&self) -> Vec<String> {
        let streamed = self.stream.companies.split(',').filter(|name| !matches!(*name, "" | "*"));
        match self.request.company_ids.is_empty() {
            true => streamed.map(str::to_owned).collect(),
            false => self.request.company_ids.clone(),
        }
    }

    /// Where files are downloaded to.
    fn folder(&self) -> std::path::PathBuf {
        self.request.data_dir.join("verify-files")
    }

    /// Waits for `work`, and takes note of what the stream changes meanwhile.
    async fn watching<T>(&mut self, work: impl Future<Output = T>) -> Result<T, VerifyError> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                () = sleep(LOOK_INTERVAL) => self.changed.look()?,
            }
        }
    }

    /// Keeps the rows of all files.
    async fn keep_rows(&mut self, export: Export) -> Result<(), VerifyError> {
        let (sender, mut files) = mpsc::channel(1);
        let bring = tokio::spawn((export.source)(self.store.files()?, sender));
        let mut kept = Ok(());
        while let Some(file) = files.recv().await {
            kept = self.keep_file(&file).and_then(|()| self.store.note_file(&file.name.text));
            if !matches!(self.request.files, FilesFrom::Directory(_)) {
                let _ = std::fs::remove_file(&file.path);
            }
            if kept.is_err() {
                break;
            }
        }
        drop(files);
        let brought = bring.await.map_err(|e| VerifyError::Failed(e.to_string()))?;
        let _ = std::fs::remove_dir_all(self.folder());
        kept?;
        brought.map_err(|e: ImportError| {
            VerifyError::Failed(HelpCode::ImportFailed.tag(&e.to_string()))
        })
    }

    fn keep_file(&mut self, file: &ExportFile) -> Result<(), VerifyError> {
        let name = &file.name.table;
        let found = self.tables.iter().position(|table| *table.schema.table == **name);
        let Some(number) = found else { return Ok(()) };
        let table = &self.tables[number];
        if table.not_compared.is_some() {
            return Ok(());
        }
        let damaged = |e: std::io::Error| {
            let text = format!("{} is damaged: {e}", file.path.display());
            VerifyError::Failed(HelpCode::ImportDamagedFile.tag(&text))
        };
        let mut lines = Lines::open(&file.path).map_err(damaged)?;
        let mut rows = RowsOfExport::new(&table.schema);
        while let Some(block) = lines.next(BLOCK_BYTES, BLOCK_LINES).map_err(damaged)? {
            let mut keyed = Vec::with_capacity(block.lines.len());
            for line in block.lines.iter().filter(|line| !line.is_empty()) {
                // What is kept of the export on this machine is what is compared.
                let line = self.request.columns.row(name, line.clone());
                let row = rows.row(line.clone())?;
                keyed.push((key_text(&table.schema, &table.columns, &row)?, line));
            }
            self.store.add(number, &keyed)?;
            self.changed.look_if_due()?;
        }
        Ok(())
    }
}
