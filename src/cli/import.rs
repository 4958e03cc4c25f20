//! `eds import`: a full export into the destination.

use std::io::{BufRead, IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tracing::info;

use super::args::{ApiKey, DestinationArgs, HqAccess, named, schemas_of};
use super::columns::ColumnArgs;
use super::exit::Exit;
use super::output::{JsonFlag, Printer};
use super::{Global, logging};
use crate::change::filter::TableFilter;
use crate::config::Config;
use crate::help::HelpCode;
use crate::import::{
    FilesFrom, ImportRequest, LOADERS_DEFAULT, PreparedImport, ProgressOutput, TimeOffset,
    UnfinishedImport, checked, concluded,
};
use crate::pipeline::import::Mode;
use crate::signals::stop_on_signal;
use crate::state::DataDir;

#[derive(Args)]
pub struct Import {
    #[command(flatten)]
    place: DestinationArgs,
    #[command(flatten)]
    api_key: ApiKey,
    #[arg(long, value_name = "URL", hide = true)]
    api_url: Option<String>,
    /// Read the tables' schemas from this file or URL, in the form of HQ's /v3/schema [default: HQ]
    #[arg(long, value_name = "FILE|URL")]
    schema: Option<String>,
    /// Import the export files in this directory [default: order an export from HQ]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Import the files of this existing export job [default: order an export from HQ]
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    /// Only these tables [default: all]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Export only rows of these companies [default: all]
    #[arg(long = "company-ids", alias = "companyIds", value_name = "A,B", value_delimiter = ',')]
    company_ids: Vec<String>,
    /// Export only rows of these locations [default: all]
    #[arg(long = "location-ids", alias = "locationIds", value_name = "A,B", value_delimiter = ',')]
    location_ids: Vec<String>,
    /// Export only rows that changed since this time [default: all]
    #[arg(long = "time-offset", alias = "timeOffset", value_name = "RFC 3339")]
    time_offset: Option<String>,
    /// Create and extend the tables, and load no rows
    #[arg(long)]
    schema_only: bool,
    /// Test the destination, and do nothing else
    #[arg(long)]
    validate_only: bool,
    /// Tell for each table whether it would be exchanged or stay, and why, and what is in the way;
    /// load nothing, write nothing
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    output: JsonFlag,
    /// Read and check everything, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Keep rows that the export lacks; imported rows are added or replace those of the same key
    #[arg(long)]
    no_delete: bool,
    /// Do not ask before tables are replaced
    #[arg(long)]
    no_confirm: bool,
    /// Keep the downloaded files after the import
    #[arg(long)]
    no_cleanup: bool,
    /// Load this many files at the same time
    #[arg(long, default_value_t = LOADERS_DEFAULT, value_name = "N")]
    parallel: usize,
    /// Load one file at a time
    #[arg(long)]
    single: bool,
    /// Start over instead of resuming an interrupted import
    #[arg(long)]
    restart_import: bool,
    /// Skip up to this many rows that cannot be loaded, and list them
    #[arg(long, default_value_t = 0, value_name = "N")]
    skip_bad_rows: u64,
    /// Ignore these columns of the export where the schema lacks them [default: none]
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    ignore_columns: Vec<String>,
    /// Replace this existing table although EDS did not create it
    #[arg(long, value_name = "TABLE")]
    adopt: Vec<String>,
    #[command(flatten)]
    columns: ColumnArgs,
}

impl Import {
    pub async fn run(self: Box<Self>, global: Global) -> Result<(), Exit> {
        logging::start(&global, None)?;
        let mut printer = self.output.printer("import");
        let done = Box::pin(self.import(&global, &mut printer)).await;
        printer.end(done)
    }

    async fn import(&self, global: &Global, printer: &mut Printer) -> Result<(), Exit> {
        let config = Config::read(&global.data_dir)?;
        let (destination, driver) = self.place.destination(config.url())?;
        let request = ImportRequest {
            dry_run: self.dry_run || self.validate_only,
            check: self.check,
            ..ImportRequest::new(destination, driver)
        };
        request.test().await?;
        if self.validate_only {
            info!("{} can be used", request.destination);
            return Ok(());
        }
        let request = self.request(request, global, &config)?;
        let data = DataDir::take(&global.data_dir, self.dry_run || self.check)?;
        let import = request.prepare(&data).await?;
        if self.check {
            let checks = import.check().await?;
            checks.iter().for_each(|check| printer.data(|| json!(check)));
            printer.line(checked(&checks));
            return Ok(concluded(&checks)?);
        }
        self.confirm(&import)?;
        for (table, count) in import.run(stop_on_signal()).await? {
            let (rows, skipped) = (count.rows, count.skipped);
            printer.data(|| json!({"table": table, "rows": rows, "skipped": skipped}));
        }
        Ok(())
    }

    /// `plain` with what the arguments choose.
    fn request(
        &self,
        plain: ImportRequest,
        global: &Global,
        config: &Config,
    ) -> Result<ImportRequest, Exit> {
        let files = match (&self.dir, &self.job_id) {
            (Some(dir), _) => FilesFrom::Directory(dir.clone()),
            (None, Some(job)) => FilesFrom::Job(job.clone()),
            (None, None) => FilesFrom::NewJob,
        };
        let hq = HqAccess::of_command(&self.api_key, self.api_url.as_deref(), config)?;
        Ok(ImportRequest {
            hq: hq.client()?,
            schemas: self.schema.as_deref().map(schemas_of).transpose()?,
            files,
            tables: TableFilter::parse(&self.only.join(",")),
            company_ids: named(&self.company_ids),
            location_ids: named(&self.location_ids),
            since: self.since()?,
            rules: global.rules()?,
            columns: self.columns.rules(global)?,
            schema_only: self.schema_only,
            mode: if self.no_delete { Mode::Keep } else { Mode::Replace },
            keep_files: self.no_cleanup,
            loaders: if self.single { 1 } else { self.parallel },
            unfinished: match self.restart_import {
                true => UnfinishedImport::Restart,
                false => UnfinishedImport::Refuse,
            },
            bad_rows_max: self.skip_bad_rows,
            ignored_columns: self.ignore_columns.iter().cloned().collect(),
            adopt: self.adopt.clone(),
            output: match (global.silent, self.output.json) {
                (true, _) => ProgressOutput::Silent,
                (false, true) => ProgressOutput::Log,
                (false, false) => ProgressOutput::Terminal,
            },
            ..plain
        })
    }

    fn since(&self) -> Result<Option<TimeOffset>, Exit> {
        let Some(text) = &self.time_offset else { return Ok(None) };
        text.parse().map(Some).map_err(|_| {
            Exit::Usage(format!(
                "--time-offset {text:?} is not a time such as 2024-07-01T00:00:00Z"
            ))
        })
    }

    /// Asks before rows are replaced.
    fn confirm(&self, import: &PreparedImport) -> Result<(), Exit> {
        let Some(warning) = import.warning().filter(|_| !self.no_confirm) else { return Ok(()) };
        if !std::io::stdin().is_terminal() {
            return Err(Exit::usage(
                HelpCode::ImportRefused,
                format!("{warning} Nobody is there to be asked: --no-confirm says yes"),
            ));
        }
        eprint!("{warning}\nGo on? [y/N] ");
        let _ = std::io::stderr().flush();
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).map_err(|e| Exit::Failed(e.to_string()))?;
        let yes = ["y", "yes"].contains(&answer.trim().to_lowercase().as_str());
        if yes { Ok(()) } else { Err(Exit::failed(HelpCode::ImportRefused, "nothing was done")) }
    }
}
