//! A session's directory: the credentials of NATS, the logs, and what a worker that crashed wrote
//! last.

use std::cmp::Reverse;
use std::io::Write;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::{logs, private};

/// The name of the credentials file in a session's directory.
pub const CREDS: &str = "nats.creds";
const LOGS: &str = "logs";
const STDERR: &str = "stderr.txt";

/// The directory of one session; its name is the session's id. Clones mean the same directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionDir {
    path: PathBuf,
}

impl SessionDir {
    /// Creates the directory of session `id` in the data directory.
    pub fn create(data_dir: &Path, id: &str) -> std::io::Result<SessionDir> {
        let dir = SessionDir::of(data_dir, id);
        std::fs::create_dir_all(dir.logs())?;
        Ok(dir)
    }

    /// The directory of session `id`, whether it exists or not.
    pub fn of(data_dir: &Path, id: &str) -> SessionDir {
        SessionDir { path: data_dir.join(id) }
    }

    /// Where supervisor and worker write their logs.
    pub fn logs(&self) -> PathBuf {
        self.path.join(LOGS)
    }

    /// The credentials file, whether it exists or not.
    pub fn creds(&self) -> PathBuf {
        self.path.join(CREDS)
    }

    /// Writes the credentials file, which only its owner can read.
    pub fn write_creds(&self, text: &str) -> std::io::Result<()> {
        let path = self.creds();
        let _ = std::fs::remove_file(&path);
        private::create_new(&path)?.write_all(text.as_bytes())
    }

    /// Removes the credentials file.
    pub fn remove_creds(&self) {
        let _ = std::fs::remove_file(self.creds());
    }

    /// Keeps what a worker that crashed wrote last on its standard error.
    pub fn write_stderr(&self, text: &str) {
        let path = self.path.join(STDERR);
        let _ = std::fs::remove_file(&path);
        let written =
            private::create_new(&path).and_then(|mut file| file.write_all(text.as_bytes()));
        if let Err(e) = written {
            warn!("the worker's last output cannot be saved: {e}");
        }
    }

    /// What a worker that crashed wrote last.
    pub fn read_stderr(&self) -> Option<String> {
        std::fs::read_to_string(self.path.join(STDERR)).ok()
    }

    /// Removes the directory if it holds no logs any more; `keep`: they are to be kept, and what
    /// the worker wrote last with them.
    pub fn remove_if_empty(&self, keep: bool) {
        let _ = std::fs::remove_dir(self.logs());
        if !keep {
            let _ = std::fs::remove_file(self.path.join(STDERR));
        }
        let _ = std::fs::remove_dir(&self.path);
    }
}

/// Tidies up after servers that were killed: their credentials are removed, and their logs down to
/// [`logs::DIRECTORY_BYTES_MAX`] over all sessions, the oldest first.
pub fn remove_leftovers(data_dir: &Path) {
    let entries = std::fs::read_dir(data_dir).into_iter().flatten().flatten();
    let mut sessions: Vec<SessionDir> = entries
        .map(|entry| SessionDir { path: entry.path() })
        .filter(|dir| dir.logs().is_dir() || dir.creds().exists())
        .collect();
    sessions
        .sort_by_key(|dir| Reverse(std::fs::metadata(&dir.path).and_then(|m| m.modified()).ok()));
    let mut room = logs::DIRECTORY_BYTES_MAX;
    for dir in sessions {
        dir.remove_creds();
        if let Err(e) = logs::prune(&dir.logs(), room) {
            warn!("old logs in {} cannot be removed: {e}", dir.logs().display());
        }
        let files = logs::files(&dir.logs()).unwrap_or_default();
        room = room.saturating_sub(files.iter().map(|(_, bytes)| bytes).sum());
        let _ = std::fs::remove_dir(dir.logs());
        let _ = std::fs::remove_dir(&dir.path);
    }
}
