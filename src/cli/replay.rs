//! `eds replay`: a journal into a destination.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tracing::info;

use super::args::To;
use super::exit::Exit;
use super::{Global, logging};
use crate::feed::journal::Journal;
use crate::pipeline::{Adoption, End, Progress};
use crate::registry::{Registry, SchemaSource};
use crate::signals::stop_on_signal;
use crate::state::{DataDir, State};
use crate::worker::run::{self, ApplyRequest, RunError, RunSpec};

#[derive(Args)]
pub struct Replay {
    /// File or directory of events, one JSON object per line, gzipped or not; - for standard input
    journal: PathBuf,
    #[command(flatten)]
    to: To,
    /// Report what would be done, and write nothing
    #[arg(long)]
    pub dry_run: bool,
}

impl Replay {
    pub async fn run(self: Box<Self>, global: Global) -> Result<(), Exit> {
        logging::start(&global, None)?;
        let mut request = self.to.request(&global, None)?;
        let feed = Box::new(Journal::new(&self.journal)?);
        // Standard input has no position to go on from, nor has a pipe.
        let is_read_once = feed.is_read_once();
        // What is said where it is told to end before the journal does.
        let goes_on = match (is_read_once || self.dry_run, request.restart) {
            (true, _) => ", before the journal's end",
            (false, true) => "; without --restart the same command goes on there",
            (false, false) => "; the same command goes on there",
        };
        request.restart |= is_read_once;
        request.adoption = Adoption::Without;
        if let Some(name) = unknown_table(&request).await {
            return Err(Exit::Usage(format!(
                "--tables names table {name:?}, which the schemas lack: is it spelled as the \
                 source spells it?"
            )));
        }
        let consumer = consumer(&self.journal, &feed)?;
        let progress = Arc::new(Progress::new().map_err(RunError::setup)?);
        let spec = RunSpec {
            feed,
            consumer,
            companies: "*".into(),
            until_caught_up: false,
            events_max: usize::MAX,
            progress: progress.clone(),
            has_predecessor: false,
            stop: stop_on_signal(),
        };
        let data = DataDir::take(&global.data_dir, self.dry_run)?;
        let engine = run::start(&data, request, spec).await?;
        if let Some(position) = engine.position().filter(|position| position.sequence > 0) {
            info!(
                "the journal was already applied up to line {}: resuming there; --restart applies \
                 all of it again",
                position.sequence
            );
        }
        match run::finish(engine, &progress, self.dry_run).await? {
            End::CaughtUp => Ok(()),
            // Whoever removes the journal afterwards has to know that it was not read to its end.
            End::Stopped => {
                let line = progress.snapshot().stream_sequence;
                Err(Exit::Failed(format!("stopped at line {line}{goes_on}")))
            }
        }
    }
}

/// A table that the user names and that a file of schemas lacks, where rows need a schema: all
/// changes would be passed over, and be behind the journal's position from then on. HQ may know of
/// older tables than it lists.
async fn unknown_table(request: &ApplyRequest) -> Option<String> {
    let needs_schemas = (request.driver.abilities)(&request.destination).needs_schemas();
    let is_file = matches!(request.schemas, SchemaSource::File(_));
    if !needs_schemas || !is_file || request.tables.names().next().is_none() {
        return None;
    }
    let state = State::in_memory().ok()?;
    let all = Registry::new(request.schemas.clone(), state).current().await.ok()?;
    let is_unknown = |name: &&String| !all.iter().any(|schema| *schema.table == **name);
    request.tables.names().find(is_unknown).cloned()
}

/// Whose position it is: the journal's, by name and content.
fn consumer(path: &Path, journal: &Journal) -> Result<String, Exit> {
    let Some(content) = journal.fingerprint()? else { return Ok("eds-replay-stdin".into()) };
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(format!("eds-replay-{}-{content:016x}", name.unwrap_or_default()))
}
