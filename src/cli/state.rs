//! `eds state`: what EDS keeps in its data directory.

use clap::{Args, Subcommand};
use serde_json::json;

use super::Global;
use super::exit::Exit;
use super::output::{JsonFlag, Printer};
use crate::help::HelpCode;
use crate::state::{FILE_NAME, State, StateError};

#[derive(Args)]
pub struct StateCommand {
    #[command(subcommand)]
    what: StateTask,
}

#[derive(Subcommand)]
enum StateTask {
    /// List the entries
    List {
        #[command(flatten)]
        output: JsonFlag,
    },
    /// Print one entry
    Get {
        /// Its name, as `eds state list` shows it
        name: String,
        #[command(flatten)]
        output: JsonFlag,
    },
}

impl StateCommand {
    pub fn run(&self, global: &Global) -> Result<(), Exit> {
        let mut printer = match &self.what {
            StateTask::List { output } => output.printer("state list"),
            StateTask::Get { output, .. } => output.printer("state get"),
        };
        let done = self.tell(global, &mut printer);
        printer.end(done)
    }

    fn tell(&self, global: &Global, printer: &mut Printer) -> Result<(), Exit> {
        if !global.data_dir.join(FILE_NAME).exists() {
            return Err(Exit::failed(
                HelpCode::NotThere,
                format!(
                    "{} holds no state yet; another place is named with --data-dir",
                    global.data_dir.display()
                ),
            ));
        }
        let failed = |e: StateError| Exit::from(e);
        let state = State::open(&global.data_dir).map_err(failed)?;
        match &self.what {
            StateTask::List { .. } => {
                for (name, what) in state.list().map_err(failed)? {
                    printer.row(
                        || json!({"name": name, "what": what}),
                        || format!("{name:<48} {what}"),
                    );
                }
            }
            StateTask::Get { name, .. } => match state.get(name).map_err(failed)? {
                Some(value) => {
                    // What is kept as JSON is told as JSON.
                    let parsed = serde_json::from_str(&value).unwrap_or_else(|_| json!(value));
                    printer.row(|| json!({"name": name, "value": parsed}), || value.clone());
                }
                None => {
                    return Err(Exit::failed(
                        HelpCode::NotThere,
                        format!("there is no entry {name:?}; `eds state list` shows what there is"),
                    ));
                }
            },
        }
        Ok(())
    }
}
