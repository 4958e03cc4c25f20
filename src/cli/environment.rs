//! Every flag as a variable of the environment: `--nats-ca` is `EDS_NATS_CA`. A flag on the command
//! line goes before its variable.

use clap::builder::Resettable;
use clap::{Arg, ArgAction, Command};

/// Flags whose variable may also name a file with the secret, so that it is read elsewhere.
pub const READ_ELSEWHERE: [&str; 5] = ["url", "url-file", "api-key", "server", "webhook"];

/// The command that gets all that it needs from its supervisor.
const WORKER: &str = "fork";

/// Commands that stream what nobody else has: no variable of a real stream is theirs.
const TOYS: [&str; 2] = ["demo", "sandbox"];
/// A flag that means something else in one command than in the others.
const OTHER_MEANINGS: [(&str, &str); 1] = [("import", "check")];

/// The variable of a flag of `command`.
pub fn variable(command: &str, flag: &str) -> String {
    let flag = flag.strip_prefix("eds-").unwrap_or(flag);
    let is_own = TOYS.contains(&command) || OTHER_MEANINGS.contains(&(command, flag));
    let words = if is_own { format!("{command}_{flag}") } else { flag.to_owned() };
    format!("EDS_{}", words.replace('-', "_").to_uppercase())
}

/// Whether a variable says something. An empty one does not, and neither does `EDS_PORT` where
/// Kubernetes sets it to the URL of a service that is called eds.
pub fn is_set(variable: &str) -> bool {
    let is_link =
        |value: &std::ffi::OsStr| variable == "EDS_PORT" && value.to_string_lossy().contains("://");
    std::env::var_os(variable).is_some_and(|value| !value.is_empty() && !is_link(&value))
}

/// Lets every flag of a command, and of those below it, be given by its variable.
pub fn with_environment(command: Command) -> Command {
    let name = command.get_name().to_owned();
    if name == WORKER {
        return command;
    }
    let by_variable = |argument: Arg| {
        let flag = argument.get_long().filter(|flag| !READ_ELSEWHERE.contains(flag));
        let says = matches!(
            argument.get_action(),
            ArgAction::Set | ArgAction::Append | ArgAction::SetTrue
        );
        match flag.filter(|_| says).map(|flag| variable(&name, flag)).filter(|name| is_set(name)) {
            Some(name) => argument.env(name).hide_env(true),
            // One with a variable of another name, which says nothing when it is empty.
            None if argument.get_env().is_some_and(|name| !is_set(&name.to_string_lossy())) => {
                argument.env(Resettable::Reset)
            }
            None => argument,
        }
    };
    command.mut_args(by_variable).mut_subcommands(with_environment)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Command, whether the flag is a switch, and what its value is called.
    type Meaning = (String, bool, String);

    fn collect(command: &Command, found: &mut BTreeMap<String, Vec<Meaning>>) {
        let name = command.get_name();
        for argument in command.get_arguments() {
            let Some(flag) = argument.get_long() else { continue };
            let is_switch = matches!(argument.get_action(), ArgAction::SetTrue);
            let value = argument.get_value_names().and_then(|names| names.first());
            let value = value.map_or_else(String::new, ToString::to_string);
            let meaning = (name.to_owned(), is_switch, value);
            found.entry(variable(name, flag)).or_default().push(meaning);
        }
        command
            .get_subcommands()
            .filter(|c| c.get_name() != WORKER)
            .for_each(|c| collect(c, found));
    }

    /// A variable cannot stand for one thing in one command and for another in the next.
    #[test]
    fn a_variable_means_one_thing() {
        let mut found = BTreeMap::new();
        collect(&super::super::program(), &mut found);
        assert!(found.len() > 60, "{}", found.len());
        for (name, meanings) in found {
            let first = &meanings[0];
            let is_same = |other: &Meaning| (other.1, &other.2) == (first.1, &first.2);
            assert!(meanings.iter().all(is_same), "{name}: {meanings:?}");
        }
    }

    #[test]
    fn variables_are_called_as_their_flags() {
        for (command, flag, name) in [
            ("stream", "nats-ca", "EDS_NATS_CA"),
            ("server", "eds-id", "EDS_ID"),
            ("doctor", "check", "EDS_CHECK"),
            ("import", "check", "EDS_IMPORT_CHECK"),
            ("demo", "rate", "EDS_DEMO_RATE"),
        ] {
            assert_eq!(variable(command, flag), name);
        }
    }
}
