//! A program that an update has put in place counts its starts as a server, also those that fail
//! before a server begins, and goes back to the old one after too many.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tracing::info;

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

/// The data directory of a server whose arguments cannot be read as a whole, `otherwise` where they
/// name none; `None` if these are no server's.
pub fn data_dir_of_server(words: &[OsString], otherwise: PathBuf) -> Option<PathBuf> {
    let is_server = words.iter().skip(1).any(|word| word == "server");
    let mut found = otherwise;
    let mut rest = words.iter().skip(1);
    while let Some(word) = rest.next() {
        let text = word.to_str().unwrap_or_default();
        let joined = text.strip_prefix("--data-dir=").or_else(|| {
            text.strip_prefix("-d").map(|dir| dir.trim_start_matches('=')).filter(|d| !d.is_empty())
        });
        match joined {
            Some(dir) => found = dir.into(),
            None if text == "--data-dir" || text == "-d" => {
                found = rest.next().map_or(found, PathBuf::from);
            }
            None => {}
        }
    }
    is_server.then_some(found)
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
        let of = |line: &str| {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            data_dir_of_server(&words, "./data".into())
        };
        for (line, expected) in [
            ("eds server --frob", Some("./data")),
            ("eds server --frob --data-dir /a", Some("/a")),
            ("eds -d /a server --frob", Some("/a")),
            ("eds -d=/a server", Some("/a")),
            ("eds -d/a server", Some("/a")),
            ("eds --data-dir=/a server --data-dir=/b", Some("/b")),
            ("eds stream --frob --data-dir /a", None),
            ("server stream --frob", None),
        ] {
            assert_eq!(of(line).as_deref(), expected.map(Path::new), "{line}");
        }
    }
}
