//! The lock of a data directory: one process at a time streams or imports with it.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use crate::private;

/// The file that is locked by who streams or imports. It is never removed; the lock ends with the
/// process, however that ends.
const FILE_NAME: &str = "eds.lock";

/// Holds the data directory for this process until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Why the data directory cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "the data directory {dir} is in use by another EDS{owner}: stop it first, or choose \
         another with --data-dir"
    )]
    InUse {
        /// The directory.
        dir: String,
        /// ` (process <id>)`, or empty if the id is not known.
        owner: String,
    },
    /// It cannot be created, or its file cannot be locked.
    #[error("the data directory {dir} cannot be used: {source}; {}", cure(source))]
    Io {
        /// The directory.
        dir: String,
        /// Why not.
        source: std::io::Error,
    },
}

/// What to do where a directory cannot be used.
fn cure(source: &std::io::Error) -> &'static str {
    match source.kind() {
        ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
            "a file is in its place: choose another --data-dir"
        }
        ErrorKind::PermissionDenied => {
            "let the user that EDS runs as write there, or choose another --data-dir"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            "make room there, or choose another --data-dir"
        }
        _ => "choose another --data-dir, or cure that",
    }
}

impl Lock {
    /// Locks the directory for this process; creates it if it does not exist.
    pub fn take(data_dir: &Path) -> Result<Lock, LockError> {
        Lock::take_as(data_dir, FILE_NAME)
    }

    /// Who holds the directory, and nothing is changed by asking: `None` if nobody does.
    pub fn holder(data_dir: &Path) -> std::io::Result<Option<String>> {
        let mut file = match File::open(data_dir.join(FILE_NAME)) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let known = file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
                Ok(Some(match known {
                    true => format!("process {}", pid.trim()),
                    false => "another process".into(),
                }))
            }
        }
    }

    /// Locks the directory for one purpose, which `file_name` in it stands for.
    pub fn take_as(data_dir: &Path, file_name: &str) -> Result<Lock, LockError> {
        let dir = data_dir.display().to_string();
        let io = |source| LockError::Io { dir: dir.clone(), source };
        std::fs::create_dir_all(data_dir).map_err(io)?;
        let mut file = private::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(data_dir.join(file_name))
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::Error(source)) => return Err(LockError::Io { dir, source }),
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let known = file.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
                return Err(LockError::InUse {
                    dir,
                    owner: if known { format!(" (process {})", pid.trim()) } else { String::new() },
                });
            }
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io)?;
        Ok(Lock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_owner() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let first = Lock::take(dir.path())?;
        assert!(
            Lock::take(dir.path()).is_err_and(|e| e.to_string().contains("in use by another EDS"))
        );
        let holder = Lock::holder(dir.path())?;
        assert_eq!(holder, Some(format!("process {}", std::process::id())));
        Lock::take_as(dir.path(), "another.lock")?;
        drop(first);
        assert_eq!(Lock::holder(dir.path())?, None);
        Lock::take(dir.path())?;
        Ok(())
    }
}
