//! An import from its order to its report: export job, download, resumption. `pipeline::import`
//! loads the rows.

mod failure;
mod request;
mod show;
pub mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{info, warn};

use crate::change::{TableSchema, Version};
use crate::clock::now_ns;
use crate::destination::dry_run::DryRun;
use crate::destination::{CheckpointIn, Destination, Target, WriteMode};
use crate::help::HelpCode;
use crate::hq::Hq;
use crate::hq::export_job as job;
use crate::pipeline::import::append::AppendLoader;
use crate::pipeline::import::{
    self, Connect, Counts, ImportDeps, ImportError, Report, TableCheck, TableCount, TablePlan,
};
use crate::registry::{Registry, SchemaSource};
use crate::state::{DataDir, OpenImport, State, StateError};
pub use failure::ImportFailure;
pub use request::{
    FilesFrom, ImportRequest, LOADERS_DEFAULT, ProgressOutput, TimeOffset, UnfinishedImport,
};
pub use show::checked;
use source::{Export, JobError};

/// An import whose tables are known; nothing is written yet.
pub struct PreparedImport {
    request: ImportRequest,
    /// The tables to import, each at one version.
    schemas: Vec<Arc<TableSchema>>,
    state: State,
    data_dir: PathBuf,
}

/// Fails where the import of checked tables would.
pub fn concluded(checks: &[TableCheck]) -> Result<(), ImportFailure> {
    match checks.iter().filter(|check| !check.problems.is_empty()).count() {
        0 => Ok(()),
        count => {
            Err(ImportFailure::Refused(format!("{count} tables cannot be imported as they are")))
        }
    }
}

impl ImportRequest {
    /// Whether the destination can be used.
    pub async fn test(&self) -> Result<(), ImportFailure> {
        self.driver
            .test(&self.destination, self.access())
            .await
            .map_err(|failure| ImportFailure::Refused(failure.to_string()))
    }

    /// Finds out which tables are to be imported.
    pub async fn prepare(self, data: &DataDir) -> Result<PreparedImport, ImportFailure> {
        let state = self.state(data).await?;
        let schemas = self.current_schemas(&state).await?;
        Ok(PreparedImport { request: self, schemas, state, data_dir: data.path().to_owned() })
    }

    /// The state file's part about the destination.
    async fn state(&self, data: &DataDir) -> Result<State, ImportFailure> {
        let unusable = |e: StateError| ImportFailure::Failed(e.to_string());
        let identity = match self.abilities().checkpoint_in {
            CheckpointIn::StateFile => self.driver.identity(&self.destination, self.access()).await,
            CheckpointIn::Destination => Ok(None),
        };
        let identity = identity.map_err(|failure| ImportFailure::Refused(failure.text))?;
        let name = self.destination.place();
        let state = data.state.of_destination(&name, identity.as_deref()).map_err(unusable)?;
        state.adopt_unplaced().map_err(unusable)?;
        Ok(state)
    }

    async fn current_schemas(&self, state: &State) -> Result<Vec<Arc<TableSchema>>, ImportFailure> {
        let of_hq = |hq: &Hq| SchemaSource::of_hq(hq.http.clone(), hq.base());
        let Some(published) = self.schemas.clone().or_else(|| self.hq.as_ref().map(of_hq)) else {
            return Err(ImportFailure::Refused(HelpCode::SchemasMissing.tag(
                "the tables' schemas are needed: name them with --schema FILE or URL, or give the \
                 key to HQ by SM_APIKEY",
            )));
        };
        let registry =
            &mut Registry::new(published, state.clone()).with_columns(self.columns_left());
        let mut all = registry.current().await.map_err(ImportFailure::Failed)?;
        let only = &self.tables;
        if let Some(unknown) = only.names().find(|name| !all.iter().any(|s| *s.table == ***name)) {
            return Err(ImportFailure::Refused(format!(
                "--only names table {unknown:?}, which the schemas lack"
            )));
        }
        all.retain(|schema| only.takes(&schema.table));
        all.sort_by(|a, b| (&a.table, &a.version).cmp(&(&b.table, &b.version)));
        if let Some(pair) = all.windows(2).find(|pair| pair[0].table == pair[1].table) {
            return Err(ImportFailure::Refused(format!(
                "the schemas have table {:?} in several versions: an import needs the one that \
                 the export has",
                pair[0].table
            )));
        }
        Ok(all)
    }

    fn connect(&self, state: &State) -> Connect {
        let (driver, state, dry_run) = (self.driver, state.clone(), self.writes_nothing());
        let (access, rules) = (self.access(), self.rules.clone());
        let target = Target { rules, access, ..Target::unclaimed(&self.destination) };
        let write_mode = self.abilities().write_mode;
        Arc::new(move || {
            let (target, state) = (target.clone(), state.clone());
            Box::pin(async move {
                let opened = (driver.open)(&target).await?;
                Ok(match (dry_run, write_mode) {
                    (true, _) => Box::new(DryRun::new(opened)) as Box<dyn Destination>,
                    (false, WriteMode::Append) => Box::new(AppendLoader::new(opened, state)),
                    (false, WriteMode::Upsert) => opened,
                })
            })
        })
    }
}

impl PreparedImport {
    /// What the user has to agree to first, where rows are going to be replaced.
    pub fn warning(&self) -> Option<String> {
        self.request.warning(self.schemas.len())
    }

    /// Imports, or only creates the tables. Once `stop` is true it ends, and keeps what is loaded.
    /// What was loaded of each table.
    pub async fn run(
        self,
        stop: watch::Receiver<bool>,
    ) -> Result<BTreeMap<String, TableCount>, ImportFailure> {
        match self.request.schema_only {
            true => self.shape().await.map(|()| BTreeMap::new()),
            false => self.load(stop).await,
        }
    }

    /// What would become of each table.
    pub async fn check(&self) -> Result<Vec<TableCheck>, ImportFailure> {
        let tables = self.tables_to_check()?;
        let checks: Vec<TableCheck> = if self.request.abilities().write_mode == WriteMode::Append {
            let appended = |t: TablePlan| TableCheck::appended(&t.schema.table);
            tables.into_iter().map(appended).collect()
        } else {
            let mut destination = self.request.connect(&self.state)().await?;
            let plan = self.request.plan(String::new(), tables, false);
            let checks = import::check::check(&mut *destination, &plan).await?;
            destination.close().await?;
            checks
        };
        Ok(checks)
    }

    /// Those of the files, where files are at hand.
    fn tables_to_check(&self) -> Result<Vec<TablePlan>, ImportFailure> {
        if let FilesFrom::Directory(dir) = &self.request.files {
            let only = self.request.tables.clone();
            let export = source::directory(dir, move |table| only.takes(table), Arc::default());
            return self.tables(&export.map_err(ImportFailure::Refused)?);
        }
        Ok(self.plans_without_files())
    }

    /// All tables, as if they had been exported now.
    fn plans_without_files(&self) -> Vec<TablePlan> {
        let now = Version { nanos: now_ns() as u64, logical: 0 };
        let plan = |schema: &Arc<TableSchema>| TablePlan {
            schema: schema.clone(),
            files: Vec::new(),
            at: now,
        };
        self.schemas.iter().map(plan).collect()
    }

    async fn shape(&self) -> Result<(), ImportFailure> {
        let ImportRequest { driver, destination: settings, .. } = &self.request;
        if self.request.abilities().write_mode == WriteMode::Append {
            info!("{} has no tables: there is nothing to do", driver.title);
            return Ok(());
        }
        let tables = self.plans_without_files();
        let mut destination = self.request.connect(&self.state)().await?;
        let plan = self.request.plan(String::new(), tables, false);
        let done = import::shape(&mut *destination, &plan).await?;
        done.iter().for_each(|step| info!("{step}"));
        info!("the tables of {settings} are as the schemas say: {} steps", done.len());
        destination.close().await?;
        Ok(())
    }

    async fn load(
        &self,
        stop: watch::Receiver<bool>,
    ) -> Result<BTreeMap<String, TableCount>, ImportFailure> {
        let request = &self.request;
        let choice = request.choice();
        let open = self.resumable(&choice)?;
        let counts = request.counts.clone();
        let export = self.export(open.as_ref(), &choice, &counts, stop.clone()).await?;
        let resumed = open.as_ref().is_some_and(|open| open.job == export.job);
        if resumed {
            info!("resuming the interrupted import (job {})", export.job);
        }
        self.state.save_import(&OpenImport { job: export.job.clone(), choice })?;
        let tables = self.tables(&export)?;
        self.create_tables_without_files(&export).await?;
        let folder = self.folder(&export.job);
        let deps = ImportDeps {
            plan: request.plan(export.job, tables, !resumed),
            connect: request.connect(&self.state),
            abilities: request.abilities(),
            source: export.source,
            counts: counts.clone(),
            stop,
        };
        let started = Instant::now();
        let done = tokio::select! {
            done = import::run(deps) => done,
            () = show::show(counts.clone(), request.output) => return Ok(BTreeMap::new()),
        };
        if let Err(ImportError::Damaged { path, .. }) = &done
            && path.starts_with(&folder)
        {
            // It comes again with the next run.
            let _ = std::fs::remove_file(path);
        }
        let report = done?;
        self.state.forget_import()?;
        if !request.keep_files {
            remove(&folder);
        }
        self.tell(&report, &counts, started.elapsed());
        Ok(counts.snapshot())
    }

    /// The import that was cut off, if this one goes on with it.
    fn resumable(&self, choice: &str) -> Result<Option<OpenImport>, ImportFailure> {
        let Some(open) = self.state.open_import()? else { return Ok(None) };
        match (self.request.unfinished, open.choice == choice) {
            (UnfinishedImport::Refuse | UnfinishedImport::Forget, true) => Ok(Some(open)),
            (UnfinishedImport::Refuse, false) => Err(ImportFailure::Refused(
                "an unfinished import was started with other flags, other rules about columns or \
                 another key of --hash: give the same to resume it, or --restart-import to start \
                 over"
                    .into(),
            )),
            (UnfinishedImport::Forget, false) | (UnfinishedImport::Restart, _) => {
                remove(&self.folder(&open.job));
                self.state.forget_import()?;
                Ok(None)
            }
        }
    }

    fn tell(&self, report: &Report, counts: &Counts, took: Duration) {
        report.notices.iter().for_each(|notice| warn!("{notice}"));
        match self.request.output {
            _ if report.was_done => {
                info!("the import had already finished, except for removing its files");
            }
            ProgressOutput::Log => {
                show::closing(counts, report, took).lines().for_each(|line| info!("{line}"));
            }
            ProgressOutput::Terminal => {
                println!("{}", show::closing(counts, report, took).trim_end());
            }
            ProgressOutput::Silent => {}
        }
        match self.request.dry_run {
            true => info!("dry run: nothing was written"),
            false => info!("{} holds the export", self.request.destination),
        }
    }

    /// The files: of the directory, of the job that was begun or named, or of a new one.
    async fn export(
        &self,
        open: Option<&OpenImport>,
        choice: &str,
        counts: &Arc<Counts>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<Export, ImportFailure> {
        let only = self.request.tables.clone();
        let takes = move |table: &str| only.takes(table);
        if let FilesFrom::Directory(dir) = &self.request.files {
            return source::directory(dir, takes, counts.clone()).map_err(ImportFailure::Refused);
        }
        let Some(hq) = self.request.hq.clone() else {
            return Err(ImportFailure::Refused(
                "an export is ordered from HQ: give its key by SM_APIKEY or --api-key, or \
                         take the files of an export with --dir"
                    .into(),
            ));
        };
        let job = match (open, &self.request.files) {
            (Some(open), _) => open.job.clone(),
            (None, FilesFrom::Job(job)) => job.clone(),
            (None, _) => self.order(&hq, choice).await?,
        };
        let completed = tokio::select! {
            completed = source::completed(&hq, &job) => completed,
            _ = stop.wait_for(|stop| *stop) => return Err(ImportError::Stopped.into()),
        };
        let completed = match completed {
            Ok(completed) => completed,
            Err(JobError::Failed(text)) => return Err(ImportFailure::Failed(text)),
            Err(JobError::Over(text)) => {
                self.state.forget_import()?;
                return Err(ImportFailure::Failed(text));
            }
        };
        source::download(hq, &job, &completed, self.folder(&job), takes, counts.clone())
            .map_err(ImportFailure::Failed)
    }

    /// Orders an export job, and notes it before anything else can fail.
    async fn order(&self, hq: &Hq, choice: &str) -> Result<String, ImportFailure> {
        let job = job::order(hq, &self.request.order())
            .await
            .map_err(|e| ImportFailure::Failed(e.to_string()))?;
        info!("export job {job} is ordered");
        self.state.save_import(&OpenImport { job: job.clone(), choice: choice.to_owned() })?;
        Ok(job)
    }

    /// The tables of the export with their schemas.
    fn tables(&self, export: &Export) -> Result<Vec<TablePlan>, ImportFailure> {
        // Where nothing says when a table was read, all of the stream is read again for it.
        let oldest = export
            .tables
            .values()
            .filter_map(|t| t.at)
            .min()
            .unwrap_or(Version { nanos: 0, logical: 0 });
        let mut plans = Vec::new();
        for (name, exported) in &export.tables {
            let Some(schema) = self.schemas.iter().find(|s| *s.table == **name) else {
                let Some(file) = exported.files.first() else { continue };
                return Err(ImportFailure::Failed(format!(
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

    /// Tables of which the export has nothing are created where they are missing.
    async fn create_tables_without_files(&self, export: &Export) -> Result<(), ImportFailure> {
        let left: Vec<Arc<TableSchema>> = self
            .schemas
            .iter()
            .filter(|s| !export.tables.contains_key(&*s.table))
            .cloned()
            .collect();
        if left.is_empty() || self.request.abilities().write_mode == WriteMode::Append {
            return Ok(());
        }
        info!(
            "the export has no files of these tables, whose rows stay: {}",
            left.iter().map(|s| &*s.table).collect::<Vec<_>>().join(", ")
        );
        let mut destination = self.request.connect(&self.state)().await?;
        import::create_missing(&mut *destination, &left).await?;
        destination.close().await?;
        Ok(())
    }

    /// Where the files of a job are downloaded to.
    fn folder(&self, job: &str) -> PathBuf {
        let is_safe = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let safe: String = job.chars().map(|c| if is_safe(c) { c } else { '_' }).collect();
        self.data_dir.join(format!("import-{safe}-files"))
    }
}

/// Removes downloaded files. Files that cannot be removed are in nobody's way.
fn remove(folder: &Path) {
    if let Err(e) = std::fs::remove_dir_all(folder)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        warn!("{} could not be removed: {e}", folder.display());
    }
}
