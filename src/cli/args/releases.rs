//! Where releases are, and with which key they are verified.

use std::path::PathBuf;

use clap::Args;

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
