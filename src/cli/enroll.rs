//! `eds enroll CODE`: makes this machine a server that HQ knows.

use std::path::Path;

use clap::Args;
use secrecy::ExposeSecret;

use super::exit::Exit;
use super::{Global, logging};
use crate::config::{Config, FILE_NAME};
use crate::hq::session::enroll;
use crate::hq::{Hq, api_of_code};
use crate::http::Http;

#[derive(Args)]
pub struct Enroll {
    /// Code that HQ shows for a new server
    code: String,
    /// HQ's address [default: the one that the code stands for]
    #[arg(long, value_name = "URL", hide = true)]
    api_url: Option<String>,
}

impl Enroll {
    pub async fn run(self, global: Global) -> Result<(), Exit> {
        logging::start(&global, None)?;
        let server_id = enrol(&global.data_dir, self.code.trim(), self.api_url.as_deref()).await?;
        println!(
            "Enrolled as server {server_id}, written to {}. `eds server` starts it.",
            global.data_dir.join(FILE_NAME).display()
        );
        Ok(())
    }
}

/// Enrols, and notes it in the configuration; the server's id.
pub async fn enrol(data_dir: &Path, code: &str, api_url: Option<&str>) -> Result<String, Exit> {
    let base = api_url.or_else(|| api_of_code(code));
    let Some(base) = base else {
        return Err(Exit::Usage(format!(
            "the code {:?} does not say which HQ it is of: a code begins with P, S, E or L; is \
             it complete?",
            crate::secret::mask(code)
        )));
    };
    let hq = Hq::new(Http::new().map_err(Exit::Failed)?, base, None);
    let enrolled = enroll(&hq, code).await.map_err(Exit::Failed)?;
    Config::write(
        data_dir,
        &[
            ("token", Some(enrolled.token.expose_secret())),
            ("server_id", Some(&enrolled.server_id)),
        ],
    )?;
    Ok(enrolled.server_id)
}
