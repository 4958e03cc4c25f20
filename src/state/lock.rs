//! The lock of a data directory: one process at a time streams or imports with it.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

/// The file that is locked. It is never removed; the lock ends with the process, however that ends.
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
    #[error("the data directory {dir}: {source}")]
    Io {
        /// The directory.
        dir: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl Lock {
    /// Locks the directory for this process; creates it if it does not exist.
    pub fn take(data_dir: &Path) -> Result<Lock, LockError> {
        let dir = data_dir.display().to_string();
        let io = |source| LockError::Io { dir: dir.clone(), source };
        std::fs::create_dir_all(data_dir).map_err(io)?;
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(data_dir.join(FILE_NAME))
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
        drop(first);
        Lock::take(dir.path())?;
        Ok(())
    }
}
