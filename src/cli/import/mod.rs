//! `eds import`: a full export into the destination.

mod show;
mod source;

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use secrecy::SecretString;
use tokio::sync::watch;
use tracing::{info, warn};

use super::exit::Exit;
use super::run::{self, DataDir, DestinationArgs};
use super::{Global, logging};
use crate::change::filter::TableFilter;
use crate::change::{TableSchema, Version};
use crate::config::Config;
use crate::destination::dry_run::DryRun;
use crate::destination::{Abilities, Destination, Driver, Settings, Target, WriteMode};
use crate::hq::{Hq, api_of};
use crate::http::Http;
use crate::pipeline::import::changes::Kept;
use crate::pipeline::import::{
    self, Connect, Counts, ImportDeps, ImportError, ImportPlan, Mode, Report, TablePlan,
};
use crate::pipeline::progress::now_ns;
use crate::registry::{Registry, SchemaSource};
use crate::state::{OpenImport, State};
use crate::validator::Validator;
use source::{Export, JobError};

#[derive(Args)]
pub struct Import {
    #[command(flatten)]
    place: DestinationArgs,
    /// The key to HQ; better given by SM_APIKEY: every user of the machine can read arguments
    #[arg(long, env = "SM_APIKEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
    #[arg(long, value_name = "URL", hide = true)]
    api_url: Option<String>,
    /// The tables' schemas: a file or URL of what HQ's /v3/schema answers; without it HQ is asked
    #[arg(long, value_name = "FILE|URL")]
    schema: Option<String>,
    /// Take the files of an export from here instead of HQ
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Take the files of this export job instead of ordering one
    #[arg(long, value_name = "ID")]
    job_id: Option<String>,
    /// Only these tables
    #[arg(long, value_name = "A,B", default_value = "", hide_default_value = true)]
    only: String,
    /// Only rows of these companies
    #[arg(long = "companyIds", value_name = "A,B", value_delimiter = ',')]
    company_ids: Vec<String>,
    /// Only rows of these locations
    #[arg(long = "locationIds", value_name = "A,B", value_delimiter = ',')]
    location_ids: Vec<String>,
    /// Only rows that changed since then
    #[arg(long = "timeOffset", value_name = "RFC 3339")]
    time_offset: Option<String>,
    /// Create and extend the tables, and load nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true)]
    schema_only: bool,
    /// Test the destination, and nothing else
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true)]
    validate_only: bool,
    /// Read and check everything, and write nothing
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true)]
    dry_run: bool,
    /// Keep rows that the export lacks: what is loaded is added to the tables
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true)]
    no_delete: bool,
    /// Do not ask before tables are replaced
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true)]
    no_confirm: bool,
    /// Keep the downloaded files
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true)]
    no_cleanup: bool,
    /// Files that are loaded at once
    #[arg(long, default_value_t = 4, value_name = "N")]
    parallel: usize,
    /// Load one file after the other
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true)]
    single: bool,
    /// Begin again, whatever an earlier import that was cut off has done
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", hide_default_value = true, hide_possible_values = true)]
    restart_import: bool,
    /// Leave out up to so many rows that cannot be loaded, and list them
    #[arg(long, default_value_t = 0, value_name = "N")]
    skip_bad_rows: u64,
    /// Leave out these columns of the export, where the schema lacks them
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    ignore_columns: Vec<String>,
    /// Replace this existing table though EDS did not make it
    #[arg(long, value_name = "TABLE")]
    adopt: Vec<String>,
    /// By HQ, of a server that runs: nobody is at a terminal, and one that was begun by hand with
    /// other choices is over.
    #[arg(skip)]
    ordered: bool,
}

/// What an import begins with.
struct Begun {
    settings: Settings,
    driver: &'static Driver,
    hq: Option<Hq>,
    schemas: Vec<Arc<TableSchema>>,
    state: State,
    rules: Option<Arc<Validator>>,
    stop: watch::Receiver<bool>,
}

impl Begun {
    fn abilities(&self) -> Abilities {
        (self.driver.abilities)(&self.settings)
    }
}

impl Import {
    pub async fn run(self: Box<Self>, global: Global) -> Result<(), Exit> {
        logging::start(&global, None)?;
        let config = Config::read(&global.data_dir)?;
        let (settings, driver) = self.place.destination(config.url())?;
        test(driver, &settings).await?;
        if self.validate_only {
            info!("{settings} can be used");
            return Ok(());
        }
        let data = DataDir::take(&global.data_dir, self.dry_run)?;
        let hq = self.hq(&config)?;
        let schemas = self.schemas(hq.as_ref(), &data.state).await?;
        self.confirm(&settings, driver, schemas.len())?;
        let begun = Begun {
            settings,
            driver,
            hq,
            schemas,
            state: data.state.clone(),
            rules: global.rules()?,
            stop: run::stop_on_signal(),
        };
        self.begin(&begun, &global).await
    }

    /// The import that HQ orders: of all that this server streams, or only of the tables' shapes.
    #[cfg(feature = "server")]
    pub fn ordered(
        schema_only: bool,
        streaming: &super::stream::Streaming,
    ) -> Result<Import, Exit> {
        use clap::Parser;
        #[derive(clap::Parser)]
        struct Wording {
            #[command(flatten)]
            import: Import,
        }
        let import =
            Wording::try_parse_from(["import"]).map_err(|e| Exit::Failed(e.to_string()))?.import;
        let to = &streaming.to;
        let company_ids = streaming.company_ids.clone();
        Ok(Import {
            schema_only,
            ordered: true,
            schema: to.schema.clone(),
            only: to.tables.clone(),
            company_ids,
            adopt: to.adopt.clone(),
            ..import
        })
    }

    /// Runs an ordered import in a process that owns the data directory already.
    #[cfg(feature = "server")]
    pub async fn run_ordered(
        &self,
        global: &Global,
        (settings, driver): (Settings, &'static Driver),
        hq: Hq,
        data: &DataDir,
        stop: watch::Receiver<bool>,
    ) -> Result<(), Exit> {
        test(driver, &settings).await?;
        let schemas = self.schemas(Some(&hq), &data.state).await?;
        let begun = Begun {
            settings,
            driver,
            hq: Some(hq),
            schemas,
            state: data.state.clone(),
            rules: global.rules()?,
            stop,
        };
        self.begin(&begun, global).await
    }

    async fn begin(&self, begun: &Begun, global: &Global) -> Result<(), Exit> {
        if self.schema_only { self.shape(begun).await } else { self.load(begun, global).await }
    }

    fn hq(&self, config: &Config) -> Result<Option<Hq>, Exit> {
        let token = self
            .api_key
            .clone()
            .filter(|k| !k.is_empty())
            .map(SecretString::from)
            .or_else(|| config.token.clone());
        let base = self.api_url.clone().or_else(|| token.as_ref().and_then(api_of));
        let http = Http::new().map_err(Exit::Failed)?;
        Ok(base.map(|base| Hq::new(http, &base, token)))
    }

    fn needed(&self, hq: Option<&Hq>) -> Result<Hq, Exit> {
        let missing = || {
            Exit::Usage(
                "an export is ordered from HQ: give its key by SM_APIKEY or --api-key, or \
                         take the files of an export with --dir"
                    .into(),
            )
        };
        hq.cloned().ok_or_else(missing)
    }

    /// The tables to import, each at one version.
    async fn schemas(&self, hq: Option<&Hq>, state: &State) -> Result<Vec<Arc<TableSchema>>, Exit> {
        let publisher = match (&self.schema, hq) {
            (Some(place), _) if !place.contains("://") => SchemaSource::File(place.into()),
            (Some(url), _) => SchemaSource::Url(Http::new().map_err(Exit::Failed)?, url.clone()),
            (None, Some(hq)) => SchemaSource::Hq(hq.http.clone(), hq.base().to_owned()),
            (None, None) => {
                return Err(Exit::Usage(
                    "the tables' schemas are needed: name them with \
                --schema FILE or URL, or give the key to HQ by SM_APIKEY"
                        .into(),
                ));
            }
        };
        let mut all =
            Registry::new(publisher, state.clone()).current().await.map_err(Exit::Failed)?;
        let only = TableFilter::parse(&self.only);
        if let Some(unknown) = only.names().find(|name| !all.iter().any(|s| *s.table == ***name)) {
            return Err(Exit::Usage(format!(
                "--only names table {unknown:?}, which the schemas lack"
            )));
        }
        all.retain(|schema| only.takes(&schema.table));
        all.sort_by(|a, b| (&a.table, &a.version).cmp(&(&b.table, &b.version)));
        if let Some(pair) = all.windows(2).find(|pair| pair[0].table == pair[1].table) {
            return Err(Exit::Usage(format!(
                "the schemas have table {:?} in several versions: an import needs the one that \
                 the export has",
                pair[0].table
            )));
        }
        Ok(all)
    }

    fn confirm(&self, settings: &Settings, driver: &Driver, tables: usize) -> Result<(), Exit> {
        if (driver.abilities)(settings).write_mode == WriteMode::Append
            || self.no_confirm
            || self.dry_run
            || self.schema_only
            || self.no_delete
        {
            return Ok(());
        }
        let partly = !self.company_ids.is_empty()
            || !self.location_ids.is_empty()
            || self.time_offset.is_some();
        let partly = if partly {
            " Rows outside of what is exported will be gone; --no-delete keeps them."
        } else {
            ""
        };
        let question =
            format!("The import replaces all rows of up to {tables} tables in {settings}.{partly}");
        if !std::io::stdin().is_terminal() {
            return Err(Exit::Usage(format!(
                "{question} Nobody is there to be asked: --no-confirm says yes"
            )));
        }
        eprint!("{question}\nGo on? [y/N] ");
        let _ = std::io::stderr().flush();
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer).map_err(|e| Exit::Failed(e.to_string()))?;
        let yes = ["y", "yes"].contains(&answer.trim().to_lowercase().as_str());
        if yes { Ok(()) } else { Err(Exit::Failed("nothing was done".into())) }
    }

    fn plan(
        &self,
        job: String,
        tables: Vec<TablePlan>,
        anew: bool,
        rules: Option<Arc<Validator>>,
    ) -> ImportPlan {
        ImportPlan {
            job,
            tables,
            rules,
            mode: if self.no_delete { Mode::Keep } else { Mode::Replace },
            anew,
            bad_rows_max: self.skip_bad_rows,
            ignored_columns: self.ignore_columns.iter().cloned().collect(),
            adopt: self.adopt.clone(),
            loaders: if self.single { 1 } else { self.parallel.clamp(1, 64) },
        }
    }

    async fn shape(&self, begun: &Begun) -> Result<(), Exit> {
        if begun.abilities().write_mode == WriteMode::Append {
            info!("{} has no tables: nothing is to be done", begun.driver.title);
            return Ok(());
        }
        let now = Version { nanos: now_ns() as u64, logical: 0 };
        let tables = begun
            .schemas
            .iter()
            .map(|schema| TablePlan { schema: schema.clone(), files: Vec::new(), at: now })
            .collect();
        let mut destination = self.connect(begun)().await.map_err(Halted)?;
        let done = import::shape(&mut *destination, &self.plan(String::new(), tables, false, None))
            .await
            .map_err(Halted)?;
        done.iter().for_each(|step| info!("{step}"));
        info!("the tables of {} are as the schemas say: {} steps", begun.settings, done.len());
        destination.close().await.map_err(Halted)?;
        Ok(())
    }

    fn connect(&self, begun: &Begun) -> Connect {
        let target = Target { rules: begun.rules.clone(), ..Target::unclaimed(&begun.settings) };
        let (driver, state, dry_run) = (begun.driver, begun.state.clone(), self.dry_run);
        let write_mode = begun.abilities().write_mode;
        Arc::new(move || {
            let (target, state) = (target.clone(), state.clone());
            Box::pin(async move {
                let opened = (driver.open)(&target).await?;
                Ok(match (dry_run, write_mode) {
                    (true, _) => Box::new(DryRun::new(opened)) as Box<dyn Destination>,
                    (false, WriteMode::Append) => Box::new(Kept::new(opened, state)),
                    (false, WriteMode::Upsert) => opened,
                })
            })
        })
    }

    /// What only the same choice goes on with.
    fn choice(&self, settings: &Settings) -> String {
        let dir = self
            .dir
            .as_ref()
            .map(|d| d.canonicalize().unwrap_or_else(|_| d.clone()).display().to_string());
        serde_json::json!({
            "destination": settings.to_string(), "dir": dir, "only": self.only, "companyIds": self.company_ids, "locationIds": self.location_ids,
            "timeOffset": self.time_offset, "noDelete": self.no_delete, "jobId": self.job_id,
        })
        .to_string()
    }

    async fn load(&self, begun: &Begun, global: &Global) -> Result<(), Exit> {
        let failed = |e: crate::state::StateError| Exit::Failed(e.to_string());
        let choice = self.choice(&begun.settings);
        let open = begun.state.open_import().map_err(failed)?;
        let open = match open {
            Some(open) if self.restart_import || (self.ordered && open.choice != choice) => {
                remove(&folder(global, &open.job));
                begun.state.forget_import().map_err(failed)?;
                None
            }
            Some(open) if open.choice != choice => {
                return Err(Exit::Usage(
                    "an import that was begun with other choices is not finished: give the same \
                     ones to go on with it, or --restart-import to begin again"
                        .into(),
                ));
            }
            open => open,
        };
        let counts = Arc::new(Counts::default());
        let export = self.export(begun, global, open.as_ref(), &choice, &counts).await?;
        let resumed = open.as_ref().is_some_and(|open| open.job == export.job);
        if resumed {
            info!("going on with the import that was cut off (job {})", export.job);
        }
        begun.state.save_import(&OpenImport { job: export.job.clone(), choice }).map_err(failed)?;
        let tables = self.tables(begun, &export)?;
        self.make_the_others(begun, &export).await?;
        let job = export.job.clone();
        let parts = ImportDeps {
            plan: self.plan(job.clone(), tables, !resumed, begun.rules.clone()),
            connect: self.connect(begun),
            abilities: begun.abilities(),
            source: export.source,
            counts: counts.clone(),
            stop: begun.stop.clone(),
        };
        let started = Instant::now();
        let done = tokio::select! {
            done = import::run(parts) => done,
            () = show::show(counts.clone(), global.silent) => return Ok(()),
        };
        if let Err(ImportError::Damaged { path, .. }) = &done
            && path.starts_with(folder(global, &job))
        {
            // It comes again with the next run.
            let _ = std::fs::remove_file(path);
        }
        let report = done.map_err(Halted)?;
        begun.state.forget_import().map_err(failed)?;
        if !self.no_cleanup {
            remove(&folder(global, &job));
        }
        self.tell(begun, &report, &counts, started.elapsed(), global.silent);
        Ok(())
    }

    fn tell(&self, begun: &Begun, report: &Report, counts: &Counts, took: Duration, silent: bool) {
        report.notices.iter().for_each(|notice| warn!("{notice}"));
        if report.was_done {
            info!("the import was finished already, but for its cleaning up");
        } else if self.ordered {
            show::closing(counts, report, took).lines().for_each(|line| info!("{line}"));
        } else if !silent {
            println!("{}", show::closing(counts, report, took).trim_end());
        }
        match self.dry_run {
            true => info!("dry run: nothing was written"),
            false => info!("{} holds the export", begun.settings),
        }
    }

    /// The files: of the directory, of the job that was begun or named, or of a new one.
    async fn export(
        &self,
        begun: &Begun,
        global: &Global,
        open: Option<&OpenImport>,
        choice: &str,
        counts: &Arc<Counts>,
    ) -> Result<Export, Exit> {
        let only = TableFilter::parse(&self.only);
        let takes = move |table: &str| only.takes(table);
        if let Some(dir) = &self.dir {
            return source::directory(dir, takes, counts.clone()).map_err(Exit::Usage);
        }
        let hq = self.needed(begun.hq.as_ref())?;
        let job = match (open, &self.job_id) {
            (Some(open), _) => open.job.clone(),
            (None, Some(job)) => job.clone(),
            (None, None) => {
                let job = crate::export::job::order(&hq, &self.order()?)
                    .await
                    .map_err(|e| Exit::Failed(e.to_string()))?;
                info!("export job {job} is ordered");
                begun
                    .state
                    .save_import(&OpenImport { job: job.clone(), choice: choice.to_owned() })
                    .map_err(|e| Exit::Failed(e.to_string()))?;
                job
            }
        };
        let mut stop = begun.stop.clone();
        let completed = tokio::select! {
            completed = source::completed(&hq, &job) => completed,
            _ = stop.wait_for(|stop| *stop) => return Err(Halted(ImportError::Stopped).into()),
        };
        let completed = match completed {
            Ok(completed) => completed,
            Err(JobError::Failed(text)) => return Err(Exit::Failed(text)),
            Err(JobError::Over(text)) => {
                begun.state.forget_import().map_err(|e| Exit::Failed(e.to_string()))?;
                return Err(Exit::Failed(text));
            }
        };
        source::download(hq, &job, &completed, folder(global, &job), takes, counts.clone())
            .map_err(Exit::Failed)
    }

    fn order(&self) -> Result<crate::export::job::ExportRequest, Exit> {
        let offset =
            |text: &String| text.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond);
        let wrong = |e: jiff::Error| {
            Exit::Usage(format!("--timeOffset is not a time such as 2024-07-01T00:00:00Z: {e}"))
        };
        let named = |list: &[String]| {
            list.iter().filter(|name| !name.is_empty()).cloned().collect::<Vec<_>>()
        };
        Ok(crate::export::job::ExportRequest {
            time_offset_ms: self.time_offset.as_ref().map(offset).transpose().map_err(wrong)?,
            companies: named(&self.company_ids),
            locations: named(&self.location_ids),
            tables: TableFilter::parse(&self.only).names().cloned().collect(),
        })
    }

    /// The tables of the export with their schemas.
    fn tables(&self, begun: &Begun, export: &Export) -> Result<Vec<TablePlan>, Exit> {
        // Where nothing says when a table was read, all of the stream is read again for it.
        let oldest = export
            .tables
            .values()
            .filter_map(|t| t.at)
            .min()
            .unwrap_or(Version { nanos: 0, logical: 0 });
        let mut plans = Vec::new();
        for (name, exported) in &export.tables {
            let Some(schema) = begun.schemas.iter().find(|s| *s.table == **name) else {
                let Some(file) = exported.files.first() else { continue };
                return Err(Exit::Failed(format!(
                    "the file {file} is of table {name:?}, which the schemas lack; --only names \
                     the tables to import"
                )));
            };
            plans.push(TablePlan {
                schema: schema.clone(),
                files: exported.files.clone(),
                at: exported.at.unwrap_or(oldest),
            });
        }
        Ok(plans)
    }

    /// Tables that the export has nothing of are made where they are not there.
    async fn make_the_others(&self, begun: &Begun, export: &Export) -> Result<(), Exit> {
        let left: Vec<Arc<TableSchema>> = begun
            .schemas
            .iter()
            .filter(|s| !export.tables.contains_key(&*s.table))
            .cloned()
            .collect();
        if left.is_empty() || begun.abilities().write_mode == WriteMode::Append {
            return Ok(());
        }
        info!(
            "the export has nothing of these tables, whose rows stay: {}",
            left.iter().map(|s| &*s.table).collect::<Vec<_>>().join(", ")
        );
        let mut destination = self.connect(begun)().await.map_err(Halted)?;
        import::create_missing(&mut *destination, &left).await.map_err(Halted)?;
        destination.close().await.map_err(Halted)?;
        Ok(())
    }
}

/// Whether the destination can be used.
async fn test(driver: &'static Driver, settings: &Settings) -> Result<(), Exit> {
    driver.test(settings).await.map_err(|failure| Exit::Usage(failure.text))
}

/// Where the files of a job are downloaded to.
fn folder(global: &Global, job: &str) -> PathBuf {
    let safe: String =
        job.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect();
    global.data_dir.join(format!("import-{safe}-files"))
}

/// Files that cannot be removed are in nobody's way.
fn remove(folder: &Path) {
    if let Err(e) = std::fs::remove_dir_all(folder)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        warn!("{} could not be removed: {e}", folder.display());
    }
}

/// Why an import ended, for the table of exit codes.
struct Halted<E>(E);

impl From<Halted<crate::destination::Failure>> for Exit {
    fn from(Halted(failure): Halted<crate::destination::Failure>) -> Exit {
        crate::pipeline::Halt::Destination(failure).into()
    }
}

impl From<Halted<ImportError>> for Exit {
    fn from(Halted(error): Halted<ImportError>) -> Exit {
        match error {
            ImportError::Destination(failure) => Halted(failure).into(),
            ImportError::BadRow(bad) => Exit::Failed(format!(
                "{bad}\nNothing was replaced. --skip-bad-rows N leaves up to \
                    N such rows out and lists them; the same command goes on where this one ended"
            )),
            ImportError::Stopped => Exit::Failed(
                "stopped: what is loaded so far is kept, and \
                nothing was replaced; the same command goes on"
                    .into(),
            ),
            ImportError::Damaged { .. } => Exit::Failed(format!(
                "{error}; nothing was replaced. A file that was downloaded comes again when the \
                 same command goes on; one of --dir has to be replaced by a whole one"
            )),
            other => Exit::Failed(format!("{other}; nothing was replaced")),
        }
    }
}
