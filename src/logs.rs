//! Log files: JSON lines in files of bounded size, which can be uploaded once they are closed. A
//! file is named `eds-<Unix milliseconds>.log`, and `eds-<Unix milliseconds>.sent.log` after its
//! upload.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{clock, private};

/// The most bytes in one file.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// The most bytes in one directory; the oldest files go first.
pub const DIRECTORY_BYTES_MAX: u64 = 256 << 20;

/// In the name of a file that was uploaded to HQ.
const SENT: &str = ".sent";

/// A writer of log lines. It drops them until it is told where to write. Clones write to the same
/// file.
#[derive(Clone, Default)]
pub struct LogFiles {
    current: Arc<Mutex<Option<Current>>>,
}

struct Current {
    dir: PathBuf,
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Current {
    /// Creates a file that is named after this millisecond, or the next that is not taken.
    fn begin(dir: &Path) -> io::Result<Current> {
        std::fs::create_dir_all(dir)?;
        let mut millis = clock::now_ms();
        loop {
            let path = dir.join(format!("eds-{millis}.log"));
            match private::options().append(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Current { dir: dir.to_owned(), path, file, bytes: 0 }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => millis += 1,
                Err(e) => return Err(e),
            }
        }
    }
}

impl LogFiles {
    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends to the file at `path` from now on; once that is full, to new ones beside it.
    pub fn append_to(&self, path: &Path) -> io::Result<()> {
        let file = private::options().create(true).append(true).open(path)?;
        let bytes = file.metadata()?.len();
        let dir = path
            .parent()
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
            .to_owned();
        *self.current() = Some(Current { dir, path: path.to_owned(), file, bytes });
        Ok(())
    }

    /// Writes to a new file in `dir` from now on; creates the directory if it does not exist.
    pub fn open_in(&self, dir: &Path) -> io::Result<()> {
        let fresh = Current::begin(dir)?;
        *self.current() = Some(fresh);
        Ok(())
    }

    /// Closes the file and begins another beside it. Returns the closed one; `None` if it was empty
    /// and stays in use.
    pub fn rotate(&self) -> io::Result<Option<PathBuf>> {
        let mut current = self.current();
        let Some(now) = current.as_mut().filter(|now| now.bytes > 0) else { return Ok(None) };
        let fresh = Current::begin(&now.dir)?;
        Ok(Some(std::mem::replace(now, fresh).path))
    }

    /// Closes the file; lines are dropped from now on.
    pub fn close(&self) {
        *self.current() = None;
    }

    /// The file that lines go to; `None` if they are dropped.
    pub fn path(&self) -> Option<PathBuf> {
        self.current().as_ref().map(|current| current.path.clone())
    }
}

impl Write for LogFiles {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut current = self.current();
        let Some(now) = current.as_mut() else { return Ok(line.len()) };
        now.file.write_all(line)?;
        now.bytes += line.len() as u64;
        if now.bytes >= FILE_BYTES_MAX {
            let dir = now.dir.clone();
            *now = Current::begin(&dir)?;
            drop(current);
            prune(&dir, DIRECTORY_BYTES_MAX)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log files of `dir` with their sizes in bytes, oldest first; other files are passed over.
pub fn files(dir: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let stem = name.strip_prefix("eds-").and_then(|n| n.strip_suffix(".log"));
        let millis = stem.map(|n| n.trim_end_matches(SENT)).and_then(|n| n.parse::<u128>().ok());
        if let Some(millis) = millis {
            found.push((millis, entry.path(), entry.metadata()?.len()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path, bytes)| (path, bytes)).collect())
}

/// Whether the file was uploaded.
pub fn is_sent(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with(SENT))
}

/// Renames a file that was uploaded, so that it is not uploaded again.
pub fn mark_sent(path: &Path) -> io::Result<()> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    std::fs::rename(path, path.with_file_name(format!("{stem}{SENT}.log")))
}

/// Removes the oldest log files of `dir` until the others have `bytes_max` bytes together or less.
pub fn prune(dir: &Path, bytes_max: u64) -> io::Result<()> {
    let files = files(dir)?;
    let mut total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    for (path, bytes) in files {
        if total <= bytes_max {
            break;
        }
        std::fs::remove_file(path)?;
        total -= bytes;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_file_is_whole_and_the_next_one_goes_on() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let mut logs = LogFiles::default();
        logs.write_all(b"nowhere\n")?;
        logs.open_in(dir.path())?;
        assert_eq!(logs.rotate()?, None);
        logs.write_all(b"1\n")?;
        let first = logs.rotate()?;
        logs.write_all(b"2\n")?;
        assert_eq!(
            first.as_deref().map(std::fs::read_to_string).transpose()?.as_deref(),
            Some("1\n")
        );
        let all = files(dir.path())?;
        assert_eq!(
            all.iter().map(|(path, _)| Some(path.clone())).collect::<Vec<_>>(),
            [first.clone(), logs.path()]
        );
        mark_sent(&first.unwrap_or_default())?;
        assert_eq!(
            files(dir.path())?.iter().map(|(path, _)| is_sent(path)).collect::<Vec<_>>(),
            [true, false]
        );
        prune(dir.path(), 2)?;
        assert_eq!(files(dir.path())?.len(), 1);
        Ok(())
    }
}
