//! Files that only their owner can read: they hold credentials, or rows of a customer. Windows has
//! no such mode; there the rights of the directory hold.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

/// Read and write for the owner, nothing for anybody else.
#[cfg(unix)]
const OWNER_ONLY: u32 = 0o600;

/// Options with which a file that is created is private; one that exists keeps its rights. The
/// caller adds how it is opened.
#[cfg(unix)]
pub fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, OWNER_ONLY);
    options
}

/// Ordinary options: Windows has no such mode. The caller adds how the file is opened.
#[cfg(not(unix))]
pub fn options() -> OpenOptions {
    OpenOptions::new()
}

/// Creates a private file for writing; fails if `path` exists.
pub fn create_new(path: &Path) -> io::Result<File> {
    options().write(true).create_new(true).open(path)
}

/// Makes a file private that somebody else created, such as SQLite.
#[cfg(unix)]
pub fn restrict(path: &Path) -> io::Result<()> {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(OWNER_ONLY);
    std::fs::set_permissions(path, mode)
}

/// Does nothing: Windows has no such mode.
#[cfg(not(unix))]
pub fn restrict(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Lets the system keep no image of this process's memory, nor of the processes that it starts,
/// when they crash: rows and secrets are in it. A system that does not allow that is no reason not
/// to run.
#[cfg(unix)]
pub fn leave_no_core() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
}

/// Does nothing: Windows keeps none unless it is told to.
#[cfg(not(unix))]
pub fn leave_no_core() {}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_reads_what_is_created_or_restricted() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let (created, foreign) = (dir.path().join("created"), dir.path().join("foreign"));
        create_new(&created)?;
        assert!(create_new(&created).is_err());
        std::fs::write(&foreign, "")?;
        restrict(&foreign)?;
        for path in [created, foreign] {
            assert_eq!(std::fs::metadata(path)?.permissions().mode() & 0o777, OWNER_ONLY);
        }
        Ok(())
    }
}
