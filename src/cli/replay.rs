//! `eds replay`: a journal into a destination.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tracing::info;

use super::args::To;
use super::exit::Exit;
use super::{Global, logging};
use crate::feed::journal::Journal;
use crate::pipeline::{Adoption, Progress};
use crate::signals::stop_on_signal;
use crate::state::DataDir;
use crate::worker::run::{self, RunError, RunSpec};

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
        request.restart |= feed.is_read_once();
        request.adoption = Adoption::Without;
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
        run::finish(engine, &progress, self.dry_run).await?;
        Ok(())
    }
}

/// Whose position it is: the journal's, by name and content.
fn consumer(path: &Path, journal: &Journal) -> Result<String, Exit> {
    let Some(content) = journal.fingerprint()? else { return Ok("eds-replay-stdin".into()) };
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(format!("eds-replay-{}-{content:016x}", name.unwrap_or_default()))
}
