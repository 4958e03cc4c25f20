//! `eds download VERSION FILE`: a release's program, if it is genuine.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::args::Releases;
use super::exit::Exit;
use super::output::{JsonFlag, Printer};
use super::{Global, logging};
use crate::help::HelpCode;

#[derive(Args)]
pub struct Download {
    /// Version to download, such as 1.2.3
    version: String,
    /// File to write the program to
    file: PathBuf,
    #[command(flatten)]
    releases: Releases,
    #[command(flatten)]
    output: JsonFlag,
}

impl Download {
    pub async fn run(self, global: Global) -> Result<(), Exit> {
        logging::start(&global, None)?;
        let mut printer = self.output.printer("download");
        let done = Box::pin(self.fetch(&mut printer)).await;
        printer.end(done)
    }

    async fn fetch(&self, printer: &mut Printer) -> Result<(), Exit> {
        let source = self.releases.source().map_err(Exit::Usage)?;
        source
            .fetch(&self.version, &self.file)
            .await
            .map_err(|e| Exit::failed(HelpCode::Release, e))?;
        let version = self.version.trim_start_matches('v');
        let file = self.file.display().to_string();
        printer.row(
            || json!({"file": file, "release": version}),
            || format!("{file} is version {version}, and its signature is good."),
        );
        Ok(())
    }
}
