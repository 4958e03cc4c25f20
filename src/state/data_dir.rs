//! The data directory of a run: its state, and the lock that makes it this process's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Lock, LockError, State, StateError};

/// Between two tries to take a directory that another process owns.
const OWNER_LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// The data directory, which is this process's own as long as this is held; a dry run owns none,
/// and its state is forgotten with it.
pub struct DataDir {
    /// What survives a restart.
    pub state: State,
    path: PathBuf,
    lock: Option<Lock>,
}

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It is another process's, or its lock cannot be taken.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Its state cannot be opened.
    #[error(transparent)]
    State(#[from] StateError),
}

impl DataDir {
    /// Takes the directory, and creates it where it is missing. A dry run leaves it alone.
    pub fn take(path: &Path, dry_run: bool) -> Result<DataDir, DataDirError> {
        if dry_run {
            return Ok(DataDir { state: State::in_memory()?, path: path.to_owned(), lock: None });
        }
        DataDir::owned(path, Lock::take(path)?)
    }

    /// Takes the directory once its owner is gone, if that does not last longer than `wait_max`.
    pub async fn take_within(path: &Path, wait_max: Duration) -> Result<DataDir, DataDirError> {
        let until = Instant::now() + wait_max;
        loop {
            match Lock::take(path) {
                Err(LockError::InUse { .. }) if Instant::now() < until => {
                    sleep(OWNER_LOOK_INTERVAL).await;
                }
                lock => return DataDir::owned(path, lock?),
            }
        }
    }

    fn owned(path: &Path, lock: Lock) -> Result<DataDir, DataDirError> {
        Ok(DataDir { state: State::open(path)?, path: path.to_owned(), lock: Some(lock) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is a dry run, which must write nothing.
    pub fn is_dry_run(&self) -> bool {
        self.lock.is_none()
    }
}
