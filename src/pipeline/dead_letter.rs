//! Dead letters: changes that cannot be applied go to a file, never dropped: one JSON object a
//! line.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::change::Position;

/// The name of the file in the data directory; the one before it has `.1` appended.
pub const FILE_NAME: &str = "dead-letters.jsonl";
/// What these files were called before 0.1.0.
const FORMER_NAMES: [(&str, &str); 2] =
    [("set-aside.jsonl", FILE_NAME), ("set-aside.jsonl.1", "dead-letters.jsonl.1")];
/// Bytes after which a new file is begun. Two are kept.
const FILE_BYTES_MAX: u64 = 128 << 20;

/// A message that was not applied, and why.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Where it is in the stream.
    pub position: Position,
    /// Where it came from, for people: a NATS subject, or file and line.
    pub subject: String,
    /// Why it cannot be applied, for people.
    pub reason: String,
    /// The message as it came, packed or not.
    pub payload: Bytes,
}

/// Where they go.
pub enum DeadLetters {
    /// A file of JSON lines.
    File(PathBuf),
    /// Nowhere: a dry run writes nothing.
    Nowhere,
    /// Memory, for simulations.
    Memory(std::sync::Arc<std::sync::Mutex<Vec<DeadLetter>>>),
}

impl DeadLetters {
    /// The file in `data_dir`. One of an EDS before 0.1.0, which had another name, is taken over.
    pub fn in_directory(data_dir: &Path) -> DeadLetters {
        let path = data_dir.join(FILE_NAME);
        for (old, new) in FORMER_NAMES.map(|(old, new)| (data_dir.join(old), data_dir.join(new))) {
            if old.exists()
                && !new.exists()
                && let Err(e) = std::fs::rename(&old, &new)
            {
                tracing::warn!("{} cannot be renamed to {}: {e}", old.display(), new.display());
            }
        }
        DeadLetters::File(path)
    }

    /// Writes and syncs; afterwards the changes may be acknowledged.
    pub fn write(&mut self, dead_letters: &[DeadLetter]) -> std::io::Result<()> {
        if dead_letters.is_empty() {
            return Ok(());
        }
        match self {
            DeadLetters::Memory(all) => {
                all.lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .extend_from_slice(dead_letters);
                Ok(())
            }
            DeadLetters::Nowhere => Ok(()),
            DeadLetters::File(path) => append(path, dead_letters),
        }
    }

    /// Where a user finds them.
    pub fn place(&self) -> String {
        match self {
            DeadLetters::File(path) => path.display().to_string(),
            DeadLetters::Nowhere => "nothing, as this is a dry run".into(),
            DeadLetters::Memory(_) => "memory".into(),
        }
    }
}

fn append(path: &Path, dead_letters: &[DeadLetter]) -> std::io::Result<()> {
    let mut file = open(path)?;
    if file.metadata()?.len() >= FILE_BYTES_MAX {
        let previous = path.with_extension("jsonl.1");
        if previous.exists() {
            tracing::warn!(
                "the oldest dead letters are deleted: {} is replaced",
                previous.display()
            );
        }
        std::fs::rename(path, previous)?;
        file = open(path)?;
    }
    let mut lines = Vec::new();
    for dead_letter in dead_letters {
        serde_json::to_writer(&mut lines, &line(dead_letter))?;
        lines.push(b'\n');
    }
    let written = file.metadata()?.len();
    let done = file.write_all(&lines).and_then(|()| file.sync_data());
    if done.is_err() {
        // Of a disk that is full: half a line would become one with the first of the next try.
        let _ = file.set_len(written);
    }
    done
}

/// Opens the file for more lines. Half a line that a crash has left gets an end.
fn open(path: &Path) -> std::io::Result<File> {
    let mut file = crate::private::options().create(true).read(true).append(true).open(path)?;
    let mut last = [b'\n'];
    if file.metadata()?.len() > 0 {
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
    }
    if last != [b'\n'] {
        file.write_all(b"\n")?;
    }
    Ok(file)
}

fn line(dead_letter: &DeadLetter) -> serde_json::Value {
    let mut line = serde_json::json!({
        "at": crate::change::value::rfc3339(crate::clock::now_ms() * 1000),
        "subject": dead_letter.subject,
        "sequence": dead_letter.position.sequence,
        "reason": dead_letter.reason,
    });
    // What is not text is kept as its bytes in hexadecimal.
    match std::str::from_utf8(&dead_letter.payload) {
        Ok(text) => line["payload"] = text.into(),
        Err(_) => {
            line["payload_hex"] =
                dead_letter.payload.iter().map(|b| format!("{b:02x}")).collect::<String>().into();
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_line_stands_alone() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = dir.path().join(FILE_NAME);
        std::fs::write(&path, "{}\n{\"cut\":").unwrap_or_else(|e| panic!("{e}"));
        let letter = DeadLetter {
            position: Position::default(),
            subject: "s".into(),
            reason: "r".into(),
            payload: Bytes::from_static(b"p"),
        };
        append(&path, &[letter]).unwrap_or_else(|e| panic!("{e}"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{e}"));
        let whole = text.lines().filter(|l| serde_json::from_str::<serde_json::Value>(l).is_ok());
        assert_eq!((text.lines().count(), whole.count()), (3, 2), "{text}");
    }

    #[test]
    fn files_of_their_former_name_are_taken_over_and_none_is_overwritten() {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap_or_else(|e| panic!("{e}"));
        };
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
        write("set-aside.jsonl", "old");
        write("set-aside.jsonl.1", "older");
        DeadLetters::in_directory(dir.path());
        assert_eq!(read(FILE_NAME).as_deref(), Some("old"));
        assert_eq!(read("dead-letters.jsonl.1").as_deref(), Some("older"));
        write("set-aside.jsonl", "from a downgrade");
        DeadLetters::in_directory(dir.path());
        assert_eq!(read(FILE_NAME).as_deref(), Some("old"));
        assert_eq!(read("set-aside.jsonl").as_deref(), Some("from a downgrade"));
    }
}
