//! The arguments of a server that its workers get, too.

use std::ffi::OsString;

use clap::{ArgMatches, Args, Command};

use super::{Global, Streaming};

/// Arguments that no worker gets: secrets and HQ's address go through the pipe, as a URL of schemas
/// does; the others are for the supervisor to choose at each start of a worker.
const NOT_PASSED_ON: [&str; 11] = [
    "url",
    "url-file",
    "api-url",
    "server",
    "restart",
    "data-dir",
    "log-file-sink",
    "stop-timeout",
    "ui-token-file",
    "webhook",
    "webhook-after",
];

/// The arguments of a server that are its workers' too, as one `--flag=value` for each that has a
/// value, given, from the environment or by default. They are read from the definition of the
/// arguments, so that there is no second list of them.
pub fn worker_words(server: &ArgMatches) -> Vec<OsString> {
    let command = Global::augment_args(Streaming::augment_args(Command::new("fork")));
    let mut words = Vec::new();
    for argument in command.get_arguments() {
        let Some(flag) = argument.get_long().filter(|flag| !NOT_PASSED_ON.contains(flag)) else {
            continue;
        };
        for value in server.get_raw(argument.get_id().as_str()).into_iter().flatten() {
            if flag == "schema" && value.to_string_lossy().contains("://") {
                continue;
            }
            let mut word = OsString::from(format!("--{flag}="));
            word.push(value);
            words.push(word);
        }
    }
    words
}
