//! `eds download VERSION FILE`: a release's program, if it is genuine.

use std::path::PathBuf;

use clap::Args;

use super::args::Releases;
use super::exit::Exit;
use super::{Global, logging};

#[derive(Args)]
pub struct Download {
    /// Version to download, such as 1.2.3
    version: String,
    /// File to write the program to
    file: PathBuf,
    #[command(flatten)]
    releases: Releases,
}

impl Download {
    pub async fn run(self, global: Global) -> Result<(), Exit> {
        logging::start(&global, None)?;
        let source = self.releases.source().map_err(Exit::Usage)?;
        source.fetch(&self.version, &self.file).await.map_err(Exit::Failed)?;
        println!("{} is version {}, and its signature is good.", self.file.display(), self.version);
        Ok(())
    }
}
