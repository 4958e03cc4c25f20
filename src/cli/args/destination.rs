//! Where the destination is: by argument, by the environment, or as a credential.

use std::path::PathBuf;

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use tracing::{info, warn};

use super::Exit;
use crate::destination::catalog::DRIVERS;
use crate::destination::{Driver, Settings};
use crate::help::HelpCode;
use crate::secret::kept;

/// The variable of the environment with the destination's URL.
const URL_VARIABLE: &str = "EDS_URL";

/// Where the destination is.
#[derive(Args, Clone, Debug, Default)]
pub struct DestinationArgs {
    /// Destination URL; prefer EDS_URL or --url-file for passwords, because every user of the
    /// machine can read arguments
    #[arg(long)]
    pub url: Option<String>,
    /// Read the destination URL from the first line of this file
    #[arg(long, value_name = "FILE")]
    pub url_file: Option<PathBuf>,
    /// What counts before all of these: the supervisor's choice.
    #[arg(skip)]
    pub chosen: Option<SecretString>,
}

impl DestinationArgs {
    /// The destination's URL; `fallback` is what the configuration names.
    pub fn text(&self, fallback: Option<&str>) -> Result<String, Exit> {
        if let Some(url) = &self.chosen {
            return Ok(url.expose_secret().to_owned());
        }
        let kept = kept(URL_VARIABLE).map_err(|e| Exit::usage(HelpCode::SecretFile, e))?;
        let named = kept.map(|url| first_line(url.expose_secret()));
        match (&self.url, &self.url_file, named.or_else(|| fallback.map(str::to_owned))) {
            (Some(url), ..) => Ok(url.clone()),
            (None, Some(file), _) => {
                let text = std::fs::read_to_string(file).map_err(|e| {
                    Exit::usage(
                        HelpCode::DestinationUrl,
                        format!("the URL file {} cannot be read: {e}", file.display()),
                    )
                })?;
                Ok(first_line(&text))
            }
            (None, None, Some(url)) => Ok(url),
            (None, None, None) => Err(Exit::usage(
                HelpCode::DestinationUrl,
                "no destination: name it with --url, --url-file or EDS_URL; `eds drivers` shows \
                 what there is",
            )),
        }
    }

    /// Its settings and driver.
    pub fn destination(&self, fallback: Option<&str>) -> Result<(Settings, &'static Driver), Exit> {
        let (settings, driver) = Settings::parse(&self.text(fallback)?, DRIVERS)
            .map_err(|e| Exit::usage(HelpCode::DestinationUrl, e.to_string()))?;
        if self.url.is_some() && self.chosen.is_none() && driver.has_secret(&settings) {
            warn!(
                "the secret in --url can be read by every user of this machine in the process \
                 list: EDS_URL or --url-file keep it private"
            );
        }
        if !settings.ignored.is_empty() {
            let ignored: Vec<String> =
                settings.ignored.iter().map(|(name, why)| format!("{name} ({why})")).collect();
            info!("options of the URL without effect: {}", ignored.join(", "));
        }
        Ok((settings, driver))
    }

    /// Whether it is given by hand: as an argument, by the environment, or as a credential.
    #[cfg(feature = "server")]
    pub fn is_given(&self) -> Result<bool, Exit> {
        let by_argument = self.url.is_some() || self.url_file.is_some();
        let kept = kept(URL_VARIABLE).map_err(|e| Exit::usage(HelpCode::SecretFile, e))?;
        Ok(by_argument || kept.is_some())
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}
