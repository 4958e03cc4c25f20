//! `eds state`: what EDS keeps in its data directory.

use clap::{Args, Subcommand};

use super::Global;
use super::exit::Exit;
use crate::state::{FILE_NAME, State, StateError};

#[derive(Args)]
pub struct StateCommand {
    #[command(subcommand)]
    what: StateTask,
}

#[derive(Subcommand)]
enum StateTask {
    /// List the entries
    List,
    /// Print one entry
    Get { name: String },
}

impl StateCommand {
    pub fn run(&self, global: &Global) -> Result<(), Exit> {
        if !global.data_dir.join(FILE_NAME).exists() {
            return Err(Exit::Failed(format!(
                "{} holds no state yet; another place is named with --data-dir",
                global.data_dir.display()
            )));
        }
        let failed = |e: StateError| Exit::Failed(e.to_string());
        let state = State::open(&global.data_dir).map_err(failed)?;
        match &self.what {
            StateTask::List => state
                .list()
                .map_err(failed)?
                .iter()
                .for_each(|(name, what)| println!("{name:<48} {what}")),
            StateTask::Get { name } => match state.get(name).map_err(failed)? {
                Some(value) => println!("{value}"),
                None => {
                    return Err(Exit::Failed(format!(
                        "there is no entry {name:?}; `eds state list` shows what there is"
                    )));
                }
            },
        }
        Ok(())
    }
}
