//! `eds enroll CODE`: makes this machine a server that HQ knows.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;
use serde_json::json;

use super::exit::Exit;
use super::output::{JsonFlag, Printer};
use super::{Global, logging};
use crate::config::FILE_NAME;
use crate::help::HelpCode;
use crate::hq::enrolment::enrol;

#[derive(Args)]
pub struct Enroll {
    /// Code that HQ shows for a new server [default: the first line of standard input]
    code: Option<String>,
    /// HQ's address [default: the one that the code stands for]
    #[arg(long, value_name = "URL", hide = true)]
    api_url: Option<String>,
    #[command(flatten)]
    output: JsonFlag,
}

impl Enroll {
    pub async fn run(self, global: Global) -> Result<(), Exit> {
        logging::start(&global, None)?;
        let mut printer = self.output.printer("enroll");
        let done = Box::pin(self.enrol(&global, &mut printer)).await;
        printer.end(done)
    }

    async fn enrol(self, global: &Global, printer: &mut Printer) -> Result<(), Exit> {
        let code = self.code.map_or_else(ask_for_code, Ok)?;
        let server_id = enrol(&global.data_dir, code.trim(), self.api_url.as_deref()).await?;
        let file = global.data_dir.join(FILE_NAME).display().to_string();
        printer.row(
            || json!({"server_id": server_id, "file": file}),
            || {
                format!(
                    "Enrolled as server {server_id}, written to {file}. `eds server` starts it."
                )
            },
        );
        Ok(())
    }
}

/// The code from standard input; somebody at a terminal is asked for it.
pub fn ask_for_code() -> Result<String, Exit> {
    if std::io::stdin().is_terminal() {
        eprint!("The code that HQ shows: ");
        let _ = std::io::stderr().flush();
    }
    let mut code = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut code)
        .map_err(|e| Exit::Failed(format!("no code can be read: {e}")))?;
    let code = code.trim();
    if code.is_empty() {
        return Err(Exit::usage(
            HelpCode::NotEnrolled,
            "there is no code: `eds enroll CODE` enrols this machine",
        ));
    }
    Ok(code.to_owned())
}
