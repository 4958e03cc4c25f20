//! What can be wrong on this machine: the data directory, the files in it, the space for them.

use std::path::{Path, PathBuf};

use super::{DoctorCheck, DoctorRequest, Finding};
use crate::help::HelpCode;
use crate::state::{Lock, State, StateError};

/// With less free space than this a start is not worth trying.
const FREE_BYTES_MIN: u64 = 64 << 20;
/// With less than this, dead letters may fill the disk.
const FREE_BYTES_WANTED: u64 = 1 << 30;

/// The configuration file.
pub fn config(request: &DoctorRequest) -> Finding {
    match &request.config {
        Ok(said) => Finding::good(DoctorCheck::Config, said),
        Err(why) => Finding::problem(DoctorCheck::Config, HelpCode::ConfigFile, why),
    }
}

/// The place itself, or the nearest directory above it that exists.
fn nearest(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let found = absolute.ancestors().find(|above| above.exists());
    found.map_or(absolute.clone(), Path::to_owned)
}

/// The data directory: whether a start can work in it, and who does now.
pub fn data_dir(request: &DoctorRequest) -> Vec<Finding> {
    const CHECK: DoctorCheck = DoctorCheck::DataDir;
    let dir = &request.data_dir;
    let shown = dir.display();
    let problem = |text: String| Finding::problem(CHECK, HelpCode::DataDir, text);
    if !dir.exists() {
        let above = nearest(dir);
        let above_shown = above.display();
        return vec![match above.is_dir() && may_write(&above) {
            true => Finding::good(CHECK, format!("{shown} is not there yet: a start makes it")),
            false => problem(format!(
                "{shown} is not there and cannot be made, because {above_shown} is no directory \
                 that this user may write to"
            ))
            .cured_by("make it for the user of EDS, or name another with --data-dir"),
        }];
    }
    if !dir.is_dir() {
        let cure = "name a directory with --data-dir, or move the file away";
        return vec![problem(format!("{shown} is no directory")).cured_by(cure)];
    }
    if !may_write(dir) {
        let cure = "give it to the user of EDS (chown), or run this as that user";
        let text = format!("this user may not write to {shown}");
        return vec![problem(text).cured_by(cure)];
    }
    let mut found = vec![match Lock::holder(dir) {
        Ok(None) => Finding::good(CHECK, format!("{shown} can be written to; no EDS uses it now")),
        Ok(Some(holder)) => {
            Finding::good(CHECK, format!("{shown} is used by a running EDS ({holder})"))
        }
        Err(e) => problem(format!("the lock in {shown} cannot be read: {e}")),
    }];
    found.extend(rights(dir));
    found
}

/// Whether this user may write to the directory; the system is asked, and nothing is tried.
#[cfg(unix)]
fn may_write(dir: &Path) -> bool {
    use rustix::fs::{Access, access};
    access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

#[cfg(not(unix))]
fn may_write(dir: &Path) -> bool {
    std::fs::metadata(dir).is_ok_and(|meta| !meta.permissions().readonly())
}

/// What of owner and mode wants to be known.
#[cfg(unix)]
fn rights(dir: &Path) -> Vec<Finding> {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = std::fs::metadata(dir) else { return Vec::new() };
    let own = rustix::process::geteuid().as_raw();
    let mut found = Vec::new();
    if meta.uid() != own {
        let text = format!("it belongs to user {}, and this is user {own}", meta.uid());
        let cure = "run EDS, and this, as the owner: files that another user makes may be \
                    unreadable to EDS";
        found.push(Finding::warning(DoctorCheck::DataDir, text, cure));
    }
    if meta.mode() & 0o002 != 0 {
        let text = format!("every user may write to it (mode {:o})", meta.mode() & 0o7777);
        let cure = format!("chmod 700 {}", dir.display());
        found.push(Finding::warning(DoctorCheck::DataDir, text, &cure));
    }
    found
}

#[cfg(not(unix))]
fn rights(_dir: &Path) -> Vec<Finding> {
    Vec::new()
}

/// The state file.
pub fn state(request: &DoctorRequest) -> Finding {
    const CHECK: DoctorCheck = DoctorCheck::State;
    let unreadable = |e: StateError| Finding::problem(CHECK, HelpCode::DataDir, e.to_string());
    match State::look(&request.data_dir) {
        Ok(None) => Finding::good(CHECK, "there is none yet: a start makes it"),
        Ok(Some(state)) => match state.schemas() {
            Ok(schemas) => Finding::good(
                CHECK,
                format!("of this version; it knows {} schemas of tables", schemas.len()),
            ),
            Err(e) => unreadable(e),
        },
        Err(StateError::Unreadable(_)) => {
            Finding::good(CHECK, "of an earlier version: the next start migrates it")
        }
        Err(e) => unreadable(e),
    }
}

/// Free space where EDS writes.
pub fn disk(request: &DoctorRequest) -> Vec<Finding> {
    let mut places = vec![("the data directory", nearest(&request.data_dir))];
    if let Ok(apply) = &request.apply {
        let settings = &apply.destination;
        let is_here = settings.host.is_empty() && !settings.path.is_empty();
        if is_here && ["sqlite", "file"].contains(&&*settings.scheme) {
            places.push(("the destination", nearest(Path::new(&settings.path))));
        }
    }
    places.iter().map(|(what, place)| space(what, free_bytes(place))).collect()
}

fn space(what: &str, free: Option<u64>) -> Finding {
    const CHECK: DoctorCheck = DoctorCheck::Disk;
    let Some(free) = free else {
        return Finding::skipped(CHECK, format!("this system does not tell how much {what} has"));
    };
    let text = format!("{} MiB are free for {what}", free >> 20);
    let cure = "make room: EDS keeps up to 1 GiB of dead letters, and logs";
    match free {
        0..FREE_BYTES_MIN => {
            Finding::problem(CHECK, HelpCode::FileUnwritable, format!("only {text}")).cured_by(cure)
        }
        FREE_BYTES_MIN..FREE_BYTES_WANTED => Finding::warning(CHECK, format!("only {text}"), cure),
        _ => Finding::good(CHECK, text),
    }
}

#[cfg(unix)]
fn free_bytes(place: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(place).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_place: &Path) -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Outcome;

    #[test]
    fn little_space_is_a_warning_and_hardly_any_a_problem() {
        let outcome = |free| space("it", free).outcome;
        assert_eq!(outcome(None), Outcome::NotChecked);
        assert_eq!(outcome(Some(FREE_BYTES_MIN - 1)), Outcome::Problem);
        assert_eq!(outcome(Some(FREE_BYTES_MIN)), Outcome::Warning);
        assert_eq!(outcome(Some(FREE_BYTES_WANTED)), Outcome::Good);
    }

    #[test]
    fn what_is_not_there_has_something_above_it() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(nearest(&dir.path().join("a/b/c")), dir.path());
        assert_eq!(nearest(dir.path()), dir.path());
    }
}
