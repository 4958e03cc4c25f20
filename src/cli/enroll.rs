//! `eds enroll CODE`: makes this machine a server that HQ knows.

use clap::Args;

use super::exit::Exit;
use super::{Global, logging};
use crate::config::FILE_NAME;
use crate::hq::enrolment::enrol;

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
