//! Changes that cannot be applied are set aside in a file, never dropped: one JSON object a line.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::change::Position;

/// The name of the file in the data directory; the one before it has `.1` appended.
pub const FILE_NAME: &str = "set-aside.jsonl";
/// Bytes after which a new file is begun. Two are kept.
const FILE_BYTES_MAX: u64 = 128 << 20;

/// A message that was not applied, and why.
#[derive(Clone, Debug)]
pub struct Aside {
    pub position: Position,
    pub subject: String,
    pub reason: String,
    pub payload: Bytes,
}

/// Where they go: a file; nowhere in a dry run; memory in simulations.
pub enum AsideLog {
    File(PathBuf),
    Nowhere,
    Memory(std::sync::Arc<std::sync::Mutex<Vec<Aside>>>),
}

impl AsideLog {
    pub fn in_directory(data_dir: &Path) -> AsideLog {
        AsideLog::File(data_dir.join(FILE_NAME))
    }

    /// Writes and syncs; afterwards the changes may be acknowledged.
    pub fn write(&mut self, asides: &[Aside]) -> std::io::Result<()> {
        if asides.is_empty() {
            return Ok(());
        }
        match self {
            AsideLog::Memory(all) => {
                all.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend_from_slice(asides);
                Ok(())
            }
            AsideLog::Nowhere => Ok(()),
            AsideLog::File(path) => append(path, asides),
        }
    }

    /// Where a user finds them.
    pub fn place(&self) -> String {
        match self {
            AsideLog::File(path) => path.display().to_string(),
            AsideLog::Nowhere => "nothing, as this is a dry run".into(),
            AsideLog::Memory(_) => "memory".into(),
        }
    }
}

fn append(path: &Path, asides: &[Aside]) -> std::io::Result<()> {
    let mut file = open(path)?;
    if file.metadata()?.len() >= FILE_BYTES_MAX {
        let previous = path.with_extension("jsonl.1");
        if previous.exists() {
            tracing::warn!("the oldest changes that were set aside are given up: {} is replaced", previous.display());
        }
        std::fs::rename(path, previous)?;
        file = open(path)?;
    }
    let mut lines = Vec::new();
    for aside in asides {
        serde_json::to_writer(&mut lines, &line(aside))?;
        lines.push(b'\n');
    }
    file.write_all(&lines)?;
    file.sync_data()
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn line(aside: &Aside) -> serde_json::Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    let mut line = serde_json::json!({
        "at": crate::change::value::rfc3339(now * 1000),
        "subject": aside.subject,
        "sequence": aside.position.sequence,
        "reason": aside.reason,
    });
    // What is not text is kept as its bytes in hexadecimal.
    match std::str::from_utf8(&aside.payload) {
        Ok(text) => line["payload"] = text.into(),
        Err(_) => line["payload_hex"] = aside.payload.iter().map(|b| format!("{b:02x}")).collect::<String>().into(),
    }
    line
}
