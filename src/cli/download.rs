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
    /// Download releases from below this URL: <URL>/download/v<version>/ [default: the project's
    /// releases]
    #[arg(long, value_name = "URL")]
    release_url: Option<String>,
    /// Verify releases with this OpenPGP public key [default: the built-in key]
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
