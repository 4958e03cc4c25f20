//! A program that an update has put in place counts its starts as a server, also those that fail
//! before a server begins, and goes back to the old one after too many.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tracing::info;

use super::DATA_DIR;
use super::exit::Exit;
use crate::release::{Probation, Swap, next_arguments};
use crate::supervisor::server_lock;

/// How a server begins.
pub enum TrialStart {
    /// It serves; with the program's note, if that has something to show.
    GoesOn(Option<Swap>),
    /// The old program is in its place again and has to be started: what there is to say of it.
    WentBack(String),
}

/// Counts a start of this program, if it has something to show. The caller has the server's lock.
pub fn count_start(data_dir: &Path) -> TrialStart {
    let Ok(own) = std::env::current_exe() else { return TrialStart::GoesOn(None) };
    match Swap::count_start(data_dir, &own, env!("CARGO_PKG_VERSION")) {
        Probation::Over => TrialStart::GoesOn(None),
        Probation::Void(swap) => {
            info!(
                "version {} is not the program in its place any more: what was noted of it is \
                 removed",
                swap.version
            );
            TrialStart::GoesOn(None)
        }
        Probation::Lasts(swap) => TrialStart::GoesOn(Some(swap)),
        Probation::Failed(swap, Ok(())) => TrialStart::WentBack(format!(
            "version {} has not come to stream: the old program is back",
            swap.version
        )),
        Probation::Failed(swap, Err(e)) => {
            tracing::error!(
                "version {} has not come to stream, and the old program cannot be put back: {e}",
                swap.version
            );
            TrialStart::GoesOn(Some(swap))
        }
    }
}

/// Counts a start that failed before a server could begin; true if the old program is back and has
/// to be started. Beside a server that runs, such a start says nothing about the program.
pub fn goes_back(data_dir: &Path) -> bool {
    if !Swap::is_noted(data_dir) {
        return false;
    }
    let Ok(_lock) = server_lock(data_dir) else { return false };
    match count_start(data_dir) {
        TrialStart::GoesOn(_) => false,
        TrialStart::WentBack(said) => {
            eprintln!("eds: {said}");
            true
        }
    }
}

/// What can be told of a server whose arguments cannot be read as a whole.
#[derive(Debug, PartialEq)]
pub struct UnreadServer {
    /// Where its note of a program on trial is.
    pub data_dir: PathBuf,
    /// It is to begin paused.
    pub paused: bool,
}

impl UnreadServer {
    /// What the environment says of it.
    pub fn by_environment() -> UnreadServer {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        UnreadServer {
            data_dir: variable("EDS_DATA_DIR").unwrap_or_else(|| DATA_DIR.into()).into(),
            paused: variable("EDS_PAUSED").is_some_and(|on| is_yes(&on.to_string_lossy())),
        }
    }

    /// `None` if these are no server's words: the command is the first of them that `program` has
    /// and that is no value of an option. `otherwise` is what the environment says.
    pub fn of(
        words: &[OsString],
        program: &clap::Command,
        otherwise: UnreadServer,
    ) -> Option<UnreadServer> {
        let mut found = otherwise;
        let mut command = None;
        let mut rest = words.iter().skip(1);
        while let Some(word) = rest.next() {
            let text = word.to_str().unwrap_or_default();
            let (name, value) = text.split_once('=').map_or((text, None), |(n, v)| (n, Some(v)));
            match (name, value) {
                ("--data-dir" | "-d", Some(dir)) => found.data_dir = dir.into(),
                ("--paused", value) => found.paused = value.is_none_or(is_yes),
                (name, None) if takes_value(program, name) => {
                    let value = rest.next();
                    if let ("--data-dir" | "-d", Some(dir)) = (name, value) {
                        found.data_dir = dir.into();
                    }
                }
                _ if text.starts_with("-d") => found.data_dir = text[2..].into(),
                _ if command.is_none() && is_command(program, text) => command = Some(text),
                _ => {}
            }
        }
        (command == Some("server")).then_some(found)
    }
}

/// Whether the word after this option of all commands is its value.
fn takes_value(program: &clap::Command, option: &str) -> bool {
    program.get_arguments().any(|argument| {
        let is_it = argument.get_long().is_some_and(|long| option.strip_prefix("--") == Some(long))
            || argument.get_short().is_some_and(|short| option == format!("-{short}"));
        is_it && argument.get_action().takes_values() && !argument.is_require_equals_set()
    })
}

fn is_command(program: &clap::Command, word: &str) -> bool {
    word == "help" || program.get_subcommands().any(|command| command.get_name() == word)
}

/// Whether the value of a switch says yes, as clap reads it.
fn is_yes(value: &str) -> bool {
    !["", "n", "no", "f", "false", "off", "0"].contains(&&*value.to_lowercase())
}

/// Runs the program that is in the place of this one by now, in the same process and with the same
/// arguments.
pub fn run_program_in_place(paused: bool) -> Result<(), Exit> {
    let failed =
        |e: std::io::Error| Exit::Failed(format!("the new program cannot be started: {e}"));
    let program: PathBuf = std::env::args_os()
        .next()
        .map(PathBuf::from)
        .filter(|p| p.is_absolute())
        .map_or_else(own_file, Ok)
        .map_err(failed)?;
    let mut command = std::process::Command::new(program);
    // These two flags are about the first start only, and so are their variables.
    ["EDS_PAUSED", "EDS_RESTART"].iter().for_each(|name| {
        command.env_remove(name);
    });
    command.args(next_arguments(paused));
    #[cfg(unix)]
    {
        Err(failed(std::os::unix::process::CommandExt::exec(&mut command)))
    }
    // A process of Windows cannot become another program: the new one is a child, and this process
    // ends with the child's exit code.
    #[cfg(not(unix))]
    {
        let status = command.status().map_err(failed)?;
        std::process::exit(status.code().unwrap_or(1));
    }
}

/// The file of this program; Linux says so where it is another one by now.
fn own_file() -> std::io::Result<PathBuf> {
    let file = std::env::current_exe()?;
    let name = file.to_string_lossy();
    Ok(name.strip_suffix(" (deleted)").map_or_else(|| file.clone(), PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_words() {
        let program = crate::cli::program();
        let of = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let otherwise = UnreadServer { data_dir: "./data".into(), paused: false };
            UnreadServer::of(&words, &program, otherwise).map(|server| server.data_dir)
        };
        for (line, expected) in [
            ("eds server --frob", Some("./data")),
            ("eds server --frob --data-dir /a", Some("/a")),
            ("eds -d /a server --frob", Some("/a")),
            ("eds -d=/a server", Some("/a")),
            ("eds -d/a server", Some("/a")),
            ("eds --data-dir=/a server --data-dir=/b", Some("/b")),
            ("eds --log-format json server --frob", Some("./data")),
            ("eds stream --frob --data-dir /a", None),
            ("server stream --frob", None),
            ("eds help server --frob", None),
            ("eds drivers server --frob", None),
            ("eds dlq list --consumer server --frob", None),
            ("eds --log-label server stream --frob", None),
        ] {
            assert_eq!(of(line).as_deref(), expected.map(Path::new), "{line}");
        }
    }

    /// The old program goes on as a person has told the new one.
    #[test]
    fn a_pause_is_known_by_its_words() {
        let program = crate::cli::program();
        let is_paused = |line: &str, paused: bool| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let otherwise = UnreadServer { data_dir: "./data".into(), paused };
            UnreadServer::of(&words, &program, otherwise).map(|server| server.paused)
        };
        for (line, by_environment, expected) in [
            ("eds server --frob", false, false),
            ("eds server --frob", true, true),
            ("eds server --frob --paused", false, true),
            ("eds server --paused=yes --frob", false, true),
            ("eds server --frob --paused=false", true, false),
            ("eds server --paused --frob --paused=0", false, false),
        ] {
            assert_eq!(is_paused(line, by_environment), Some(expected), "{line}");
        }
    }
}
