//! `eds download VERSION FILE`: a release's program, if it is genuine.

use std::path::PathBuf;

use clap::Args;

use super::exit::Exit;
use super::{Global, logging};
use crate::http::Http;
use crate::release::ReleaseSource;

/// Where releases are looked for.
#[derive(Args, Clone)]
pub struct Releases {
    /// The page of releases, under which download/v<version>/ is
    #[arg(long, value_name = "URL")]
    release_url: Option<String>,
    /// The OpenPGP key that releases have to be signed with, instead of the built-in one
    #[arg(long, value_name = "FILE")]
    release_key: Option<PathBuf>,
}

impl Releases {
    pub fn source(&self) -> Result<ReleaseSource, String> {
        let read = |file: &PathBuf| {
            std::fs::read_to_string(file)
                .map_err(|e| format!("the key {} cannot be read: {e}", file.display()))
        };
        ReleaseSource::new(
            Http::new()?,
            self.release_url.as_deref(),
            self.release_key.as_ref().map(read).transpose()?,
        )
    }
}

#[derive(Args)]
pub struct Download {
    /// Such as 1.2.3
    version: String,
    /// Where to put the program
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
