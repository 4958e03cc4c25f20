//! What an import is asked to do, by a user, by HQ or by the demo.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::change::ColumnRules;
use crate::change::filter::TableFilter;
use crate::destination::{Abilities, Access, Driver, Settings, WriteMode};
use crate::hq::Hq;
use crate::hq::export_job::ExportRequest;
use crate::pipeline::import::{Counts, ImportPlan, Mode, TablePlan};
use crate::registry::SchemaSource;
use crate::validator::Validator;

/// Files that are loaded at once unless the user chooses.
pub const LOADERS_DEFAULT: usize = 4;
/// The most files that are loaded at once: each has a connection of its own.
const LOADERS_MAX: usize = 64;

/// Where the files of the export come from.
#[derive(Clone, Debug)]
pub enum FilesFrom {
    /// This directory.
    Directory(PathBuf),
    /// An export job of HQ that exists already.
    Job(String),
    /// A new export job, which is ordered from HQ.
    NewJob,
}

/// What becomes of an earlier import that was cut off. One with the same choices is gone on with,
/// unless it is [`UnfinishedImport::Restart`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnfinishedImport {
    /// One with other choices is the user's to decide on: this import is refused.
    Refuse,
    /// One with other choices is forgotten.
    Forget,
    /// Any is forgotten, and this import begins at the start.
    Restart,
}

/// Where an import shows how far it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProgressOutput {
    /// Nowhere.
    Silent,
    /// Bars on standard error, where that is a terminal, and a table on standard output at the end.
    Terminal,
    /// In the log: nobody is at a terminal.
    Log,
}

/// Since when rows have to have changed to be exported, as the user wrote it (RFC 3339).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TimeOffset {
    text: String,
    /// Unix milliseconds.
    millis: i64,
}

impl FromStr for TimeOffset {
    type Err = jiff::Error;

    fn from_str(text: &str) -> Result<TimeOffset, jiff::Error> {
        let millis = text.parse::<jiff::Timestamp>()?.as_millisecond();
        Ok(TimeOffset { text: text.to_owned(), millis })
    }
}

/// The text exactly as it was parsed: an import that was cut off is recognised by it.
impl fmt::Display for TimeOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A full export into a destination. [`ImportRequest::new`] asks for what `eds import` does without
/// further flags.
#[derive(Clone)]
pub struct ImportRequest {
    /// The destination.
    pub destination: Settings,
    /// What opens that destination.
    pub driver: &'static Driver,
    /// Where an export is ordered; not needed with files of a directory and `schemas`.
    pub hq: Option<Hq>,
    /// Where the tables' schemas are published; `None` means HQ.
    pub schemas: Option<SchemaSource>,
    /// Where the files come from.
    pub files: FilesFrom,
    /// Tables that are imported.
    pub tables: TableFilter,
    /// Companies whose rows are exported; none means all.
    pub company_ids: Vec<String>,
    /// Locations whose rows are exported; none means all.
    pub location_ids: Vec<String>,
    /// Only rows that changed since then are exported.
    pub since: Option<TimeOffset>,
    /// Rows that they do not want are left out.
    pub rules: Option<Arc<Validator>>,
    /// Which columns are left out or hashed.
    pub columns: Arc<ColumnRules>,
    /// Create and extend the tables, and load nothing.
    pub schema_only: bool,
    /// Read and check everything, and write nothing.
    pub dry_run: bool,
    /// Only tell what would become of each table, and write nothing.
    pub check: bool,
    /// What becomes of rows that the export lacks.
    pub mode: Mode,
    /// Keep the downloaded files.
    pub keep_files: bool,
    /// Files that are loaded at once; 1 to 64 are taken.
    pub loaders: usize,
    /// What becomes of an earlier import that was cut off.
    pub unfinished: UnfinishedImport,
    /// Rows that may be left out because they cannot be loaded.
    pub bad_rows_max: u64,
    /// Columns of the export that are left out, where the schema lacks them.
    pub ignored_columns: BTreeSet<String>,
    /// Existing tables that may be replaced though EDS did not make them.
    pub adopt: Vec<String>,
    /// Where it shows how far it is.
    pub output: ProgressOutput,
    /// Counts how far it is.
    pub counts: Arc<Counts>,
}

impl ImportRequest {
    /// All tables of a new export, which replace what the destination has.
    pub fn new(destination: Settings, driver: &'static Driver) -> ImportRequest {
        ImportRequest {
            destination,
            driver,
            hq: None,
            schemas: None,
            files: FilesFrom::NewJob,
            tables: TableFilter::default(),
            company_ids: Vec::new(),
            location_ids: Vec::new(),
            since: None,
            rules: None,
            columns: Arc::default(),
            schema_only: false,
            dry_run: false,
            check: false,
            mode: Mode::Replace,
            keep_files: false,
            loaders: LOADERS_DEFAULT,
            unfinished: UnfinishedImport::Refuse,
            bad_rows_max: 0,
            ignored_columns: BTreeSet::new(),
            adopt: Vec::new(),
            output: ProgressOutput::Terminal,
            counts: Arc::default(),
        }
    }

    /// The rules about columns, as far as they say something to the destination.
    pub(super) fn columns_left(&self) -> Arc<ColumnRules> {
        match self.abilities().write_mode {
            WriteMode::Append => Arc::new(self.columns.of_changes()),
            WriteMode::Upsert => self.columns.clone(),
        }
    }

    /// What the destination can do with the settings of this import.
    pub(super) fn abilities(&self) -> Abilities {
        (self.driver.abilities)(&self.destination)
    }

    /// Whether the destination only looks on.
    pub(super) fn writes_nothing(&self) -> bool {
        self.dry_run || self.check
    }

    /// What may be made of the destination's place by opening it.
    pub(super) fn access(&self) -> Access {
        if self.writes_nothing() { Access::Rehearse } else { Access::Write }
    }

    /// What the user has to agree to first, where rows are going to be replaced: `tables` is how
    /// many tables at most.
    pub(super) fn warning(&self, tables: usize) -> Option<String> {
        if self.abilities().write_mode == WriteMode::Append
            || self.dry_run
            || self.schema_only
            || self.check
            || self.mode == Mode::Keep
        {
            return None;
        }
        let is_partial =
            !self.company_ids.is_empty() || !self.location_ids.is_empty() || self.since.is_some();
        let partial = if is_partial {
            " Rows that the export lacks will be deleted; --no-delete keeps them."
        } else {
            ""
        };
        let destination = &self.destination;
        Some(format!(
            "The import replaces all rows of up to {tables} tables in {destination}.{partial}"
        ))
    }

    /// What two imports must have in common for one to go on with the other.
    pub(super) fn choice(&self) -> String {
        let (dir, job_id) = match &self.files {
            FilesFrom::Directory(dir) => {
                let dir = dir.canonicalize().unwrap_or_else(|_| dir.clone());
                (Some(dir.display().to_string()), None)
            }
            FilesFrom::Job(id) => (None, Some(id)),
            FilesFrom::NewJob => (None, None),
        };
        // The text alone names most places; an import that an earlier version began is known by it.
        let destination = match self.destination.is_shown_whole() {
            true => self.destination.to_string(),
            false => self.destination.place(),
        };
        let mut choice = serde_json::json!({
            "destination": destination,
            "dir": dir,
            "only": self.tables.to_string(),
            "companyIds": self.company_ids,
            "locationIds": self.location_ids,
            "timeOffset": self.since.as_ref().map(TimeOffset::to_string),
            "noDelete": self.mode == Mode::Keep,
            "jobId": job_id,
        });
        // Without rules the form is that of earlier versions.
        if let Some(rules) = self.columns_left().text() {
            choice["columns"] = rules.into();
        }
        choice.to_string()
    }

    /// What is ordered from HQ.
    pub(super) fn order(&self) -> ExportRequest {
        ExportRequest {
            time_offset_ms: self.since.as_ref().map(|since| since.millis),
            companies: self.company_ids.clone(),
            locations: self.location_ids.clone(),
            tables: self.tables.names().cloned().collect(),
        }
    }

    /// What is loaded; `restart` begins the job's files again.
    pub(super) fn plan(&self, job: String, tables: Vec<TablePlan>, restart: bool) -> ImportPlan {
        ImportPlan {
            job,
            tables,
            rules: self.rules.clone(),
            columns: self.columns_left(),
            mode: self.mode,
            restart,
            bad_rows_max: self.bad_rows_max,
            ignored_columns: self.ignored_columns.clone(),
            adopt: self.adopt.clone(),
            loaders: self.loaders.clamp(1, LOADERS_MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::catalog::DRIVERS;

    /// An import that an earlier version began has to be recognised by this one.
    #[test]
    fn the_choice_keeps_its_form() -> Result<(), Box<dyn std::error::Error>> {
        let (destination, driver) = Settings::parse("sqlite:///x.db", DRIVERS)?;
        let request = ImportRequest {
            files: FilesFrom::Job("j".into()),
            tables: TableFilter::parse("b, a"),
            company_ids: vec!["c".into()],
            since: Some("2024-07-01T02:00:00+02:00".parse()?),
            mode: Mode::Keep,
            ..ImportRequest::new(destination, driver)
        };
        let expected = concat!(
            r#"{"companyIds":["c"],"destination":"sqlite:///x.db","dir":null,"jobId":"j","#,
            r#""locationIds":[],"noDelete":true,"only":"b, a","#,
            r#""timeOffset":"2024-07-01T02:00:00+02:00"}"#
        );
        assert_eq!(request.choice(), expected);
        assert_eq!(request.order().time_offset_ms, Some(1_719_792_000_000));
        Ok(())
    }
}
